//! The control API over HTTP: routes, who may come in, and how long we stay.
//!
//! Runs on the control thread alone; nothing here is on the path of data.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path as Segment, Query, Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state, map_response};
use axum::response::{IntoResponse, Json, Response};
use serde::{Deserialize, Serialize};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::broadcast::error::RecvError;
use utoipa::{IntoParams, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::activity::Activity;
use super::household::{Answer, Household};
use super::{demands, level, metrics, page, parameters, size, web};
use crate::api::{
    API, ActionRequest, ArraysDoc, AssembleRequest, BitmapRequest, CreateRequest, DoneDoc,
    ErrorDoc, EventDoc, GoneRequest, IncrementalDoc, IncrementalRequest, LayoutRequest,
    ManageRequest, MapDoc, ReadonlyRequest, SCHEMA, SettingsRequest, StartWaitingRequest,
    StartedDoc, StateDoc, StateRequest, StatsDoc, StopRequest, VersionDoc, WaitDoc, WebDoc,
    WebRequest,
};
use crate::doc::ArrayDoc;
use crate::text::mdstat::mdstat;

/// The longest a client can wait in one request.
const WAIT_MAX: Duration = Duration::from_secs(300);

/// The longest text of a refusal.
const REFUSAL_BYTES_MAX: usize = 64 << 10;

/// What every route can reach.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) household: Arc<Household>,
    activity: Arc<Activity>,
}

impl IntoResponse for ErrorDoc {
    fn into_response(self) -> Response {
        let status = match (self.not_found, self.exit_code) {
            _ if self.leaving => StatusCode::SERVICE_UNAVAILABLE,
            (true, _) => StatusCode::NOT_FOUND,
            (false, 2) => StatusCode::BAD_REQUEST,
            (false, _) => StatusCode::CONFLICT,
        };
        (status, Json(self)).into_response()
    }
}

/// What the description of the API says before its routes.
#[derive(OpenApi)]
#[openapi(
    components(schemas(ErrorDoc)),
    info(
        title = "umd",
        description = "The control API of umd, Linux software RAID in user space: HTTP with JSON \
            over a Unix socket. Paths of devices are absolute."
    )
)]
struct Description;

/// The refusals that every route may give.
#[derive(utoipa::IntoResponses)]
#[allow(dead_code)] // Never made: it only describes.
pub(super) enum Refusals {
    /// Nonsense: nothing was tried
    #[response(status = 400)]
    Nonsense(ErrorDoc),
    /// There is no such thing
    #[response(status = 404)]
    NotFound(ErrorDoc),
    /// Refused, or failed on the way: the sentence says what, and nothing it does not name was
    /// changed
    #[response(status = 409)]
    Refused(ErrorDoc),
    /// The daemon is about to end and did nothing: ask the next one
    #[response(status = 503)]
    Leaving(ErrorDoc),
}

/// Routes and their description, which cannot say different things.
fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(version))
        .routes(routes!(list))
        .routes(routes!(detail))
        .routes(routes!(create))
        .routes(routes!(assemble))
        .routes(routes!(incremental))
        .routes(routes!(start_waiting))
        .routes(routes!(device_gone))
        .routes(routes!(stop))
        .routes(routes!(state, set_state))
        .routes(routes!(settings))
        .routes(routes!(parameters::parameters, parameters::set_parameters))
        .routes(routes!(manage))
        .routes(routes!(action))
        .routes(routes!(bitmap))
        .routes(routes!(layout))
        .routes(routes!(level::level))
        .routes(routes!(super::legs::legs))
        .routes(routes!(size::size))
        .routes(routes!(readonly))
        .routes(routes!(super::confirm::confirm_dead))
        .routes(routes!(demands::reservations, demands::reserve))
        .routes(routes!(wait))
        .routes(routes!(events))
        .routes(routes!(mdstat_text))
        .routes(routes!(map))
        .routes(routes!(stats))
        .routes(routes!(web))
        .routes(routes!(metrics_text))
        .routes(routes!(description))
}

/// The description of the API, as OpenAPI 3.1 in JSON: what `docs/openapi.json` holds.
pub fn openapi() -> String {
    let (_, description) = routes().split_for_parts();
    let mut text = description
        .to_pretty_json()
        .expect("it is made of strings and numbers");
    text.push('\n');
    text
}

/// The routes.
pub fn router(household: Arc<Household>, activity: Arc<Activity>) -> Router {
    let shared = Shared {
        household,
        activity,
    };
    let (router, _) = routes().split_for_parts();
    router
        .merge(page::routes())
        .fallback(nothing_here)
        .layer(map_response(documented))
        .layer(from_fn_with_state(shared.clone(), count))
        .with_state(shared)
}

/// Counts requests in flight, and remembers when the last one was, and what runs after it.
async fn count(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let guard = shared.activity.begin();
    let changes = request.method() == Method::POST;
    let response = next.run(request).await;
    if changes {
        // Before the answer: who was told that an array runs finds it after a crash, too.
        shared.household.remember().await;
    }
    drop(guard);
    response
}

pub(super) fn answer<T: Serialize>(answer: Answer<T>) -> Response {
    match answer {
        Ok(document) => Json(document).into_response(),
        Err(error) => error.into_response(),
    }
}

pub(super) type Body<T> = Result<Json<T>, JsonRejection>;

/// A body that was understood; otherwise the answer to give.
pub(super) fn understood<T>(body: Body<T>) -> Result<T, Box<Response>> {
    body.map(|Json(document)| document).map_err(|rejection| {
        let mut error = ErrorDoc::new(rejection.body_text());
        error.exit_code = 2;
        Box::new(error.into_response())
    })
}

/// What the server's own parts refuse (a method, a name or query that is no text) is a document
/// like any other refusal.
async fn documented(response: Response) -> Response {
    let status = response.status();
    let kind = response.headers().get(header::CONTENT_TYPE);
    let ours = kind.is_some_and(|kind| kind.as_bytes() == b"application/json");
    if !status.is_client_error() || ours {
        return response;
    }
    let body = axum::body::to_bytes(response.into_body(), REFUSAL_BYTES_MAX).await;
    let text = String::from_utf8_lossy(&body.unwrap_or_default()).into_owned();
    let text = match text.is_empty() {
        true => status
            .canonical_reason()
            .unwrap_or("refused")
            .to_lowercase(),
        false => text,
    };
    let error = ErrorDoc {
        exit_code: 2,
        ..ErrorDoc::new(text)
    };
    (status, Json(error)).into_response()
}

async fn nothing_here(request: Request) -> Response {
    let text = format!("there is no {} {}", request.method(), request.uri().path());
    let error = ErrorDoc {
        not_found: true,
        ..ErrorDoc::new(text)
    };
    error.into_response()
}

/// Who answers: the handshake of every client.
#[utoipa::path(
    get,
    path = "/v1/version",
    responses((status = 200, body = VersionDoc), Refusals)
)]
async fn version(State(shared): State<Shared>) -> Json<VersionDoc> {
    Json(VersionDoc {
        schema: SCHEMA,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        api: API,
        pid: std::process::id(),
        nbd: shared.household.addresses(),
    })
}

/// All arrays, the oldest first.
#[utoipa::path(
    get,
    path = "/v1/arrays",
    responses((status = 200, body = ArraysDoc), Refusals)
)]
async fn list(State(shared): State<Shared>) -> Response {
    Json(shared.household.list().await).into_response()
}

/// One array.
#[utoipa::path(
    get,
    path = "/v1/arrays/{name}",
    params(("name" = String, Path, description = "The array")),
    responses((status = 200, body = ArrayDoc), Refusals)
)]
async fn detail(State(shared): State<Shared>, Segment(name): Segment<String>) -> Response {
    answer(shared.household.detail(&name).await)
}

/// Makes a new array and starts it.
#[utoipa::path(
    post,
    path = "/v1/create",
    request_body = CreateRequest,
    responses((status = 200, body = StartedDoc), Refusals)
)]
async fn create(State(shared): State<Shared>, body: Body<CreateRequest>) -> Response {
    match understood(body) {
        Ok(request) => answer(shared.household.create(request).await),
        Err(response) => *response,
    }
}

/// Starts an existing array.
#[utoipa::path(
    post,
    path = "/v1/assemble",
    request_body = AssembleRequest,
    responses((status = 200, body = StartedDoc), Refusals)
)]
async fn assemble(State(shared): State<Shared>, body: Body<AssembleRequest>) -> Response {
    match understood(body) {
        Ok(request) => answer(shared.household.assemble(request).await),
        Err(response) => *response,
    }
}

/// Takes a device in, and starts its array when all its members are here.
#[utoipa::path(
    post,
    path = "/v1/incremental",
    request_body = IncrementalRequest,
    responses((status = 200, body = IncrementalDoc), Refusals)
)]
async fn incremental(State(shared): State<Shared>, body: Body<IncrementalRequest>) -> Response {
    match understood(body) {
        Ok(request) => answer(shared.household.incremental(request).await),
        Err(response) => *response,
    }
}

/// Starts arrays that wait for members, without those.
#[utoipa::path(
    post,
    path = "/v1/incremental/start",
    request_body = StartWaitingRequest,
    responses((status = 200, body = DoneDoc), Refusals)
)]
async fn start_waiting(State(shared): State<Shared>, body: Body<StartWaitingRequest>) -> Response {
    match understood(body) {
        Ok(request) => answer(shared.household.start_waiting(request).await),
        Err(response) => *response,
    }
}

/// A device has gone: it is failed and taken out, or does not wait any longer.
#[utoipa::path(
    post,
    path = "/v1/incremental/gone",
    request_body = GoneRequest,
    responses((status = 200, body = DoneDoc), Refusals)
)]
async fn device_gone(State(shared): State<Shared>, body: Body<GoneRequest>) -> Response {
    match understood(body) {
        Ok(request) => answer(shared.household.device_gone(&request.device).await),
        Err(response) => *response,
    }
}

/// A control request to what has a name: it stays until that is answered, and nobody holds it for
/// whoever only opened it any longer, unless the request makes no sense.
pub(super) async fn asked<T: Serialize>(
    shared: &Shared,
    name: &str,
    work: impl Future<Output = Answer<T>>,
) -> Response {
    let asked = shared.household.registry.ask(name);
    let result = work.await;
    let invalid = result.as_ref().is_err_and(|error| error.exit_code == 2);
    if let Some(asked) = asked.filter(|_| invalid) {
        asked.was_invalid();
    }
    answer(result)
}

/// Stops an array, unless somebody has it open; answers when its members are free.
#[utoipa::path(
    post,
    path = "/v1/arrays/{name}/stop",
    params(("name" = String, Path, description = "The array")),
    request_body = StopRequest,
    responses((status = 200, body = DoneDoc), Refusals)
)]
async fn stop(
    State(shared): State<Shared>,
    Segment(name): Segment<String>,
    body: Bytes,
) -> Response {
    // Without a body, as clients of old ask, it is a plain stop.
    let request = match body.is_empty() {
        true => Ok(None),
        false => serde_json::from_slice::<Option<StopRequest>>(&body),
    };
    match request {
        Ok(request) => {
            let force = request.unwrap_or_default().force;
            answer(shared.household.stop(&name, force).await)
        }
        Err(error) => ErrorDoc {
            exit_code: 2,
            ..ErrorDoc::new(format!("the request makes no sense: {error}"))
        }
        .into_response(),
    }
}

/// md's word for its state.
#[utoipa::path(
    get,
    path = "/v1/arrays/{name}/state",
    params(("name" = String, Path, description = "The array")),
    responses((status = 200, body = StateDoc), Refusals)
)]
async fn state(State(shared): State<Shared>, Segment(name): Segment<String>) -> Response {
    answer(shared.household.state(&name).await)
}

/// Brings it into a state, as md does when the word is written.
#[utoipa::path(
    post,
    path = "/v1/arrays/{name}/state",
    params(("name" = String, Path, description = "The array")),
    request_body = StateRequest,
    responses((status = 200, body = DoneDoc), Refusals)
)]
async fn set_state(
    State(shared): State<Shared>,
    Segment(name): Segment<String>,
    body: Body<StateRequest>,
) -> Response {
    let request = match understood(body) {
        Ok(request) => request,
        Err(response) => return *response,
    };
    let work = shared.household.set_state(&name, &request.state);
    match request.state.as_str() {
        // These wait until it is gone, which would wait for them.
        "clear" | "inactive" => answer(work.await),
        _ => asked(&shared, &name, work).await,
    }
}

/// How it is to go about its work.
#[utoipa::path(
    post,
    path = "/v1/arrays/{name}/settings",
    params(("name" = String, Path, description = "The array")),
    request_body = SettingsRequest,
    responses((status = 200, body = DoneDoc), Refusals)
)]
async fn settings(
    State(shared): State<Shared>,
    Segment(name): Segment<String>,
    body: Body<SettingsRequest>,
) -> Response {
    match understood(body) {
        Ok(request) => asked(&shared, &name, shared.household.settings(&name, &request)).await,
        Err(response) => *response,
    }
}

/// One hot change of its members.
#[utoipa::path(
    post,
    path = "/v1/arrays/{name}/manage",
    params(("name" = String, Path, description = "The array")),
    request_body = ManageRequest,
    responses((status = 200, body = DoneDoc), Refusals)
)]
async fn manage(
    State(shared): State<Shared>,
    Segment(name): Segment<String>,
    body: Body<ManageRequest>,
) -> Response {
    match understood(body) {
        Ok(request) => asked(&shared, &name, shared.household.manage(&name, request)).await,
        Err(response) => *response,
    }
}

/// A sync action, and what limits sync actions.
#[utoipa::path(
    post,
    path = "/v1/arrays/{name}/action",
    params(("name" = String, Path, description = "The array")),
    request_body = ActionRequest,
    responses((status = 200, body = DoneDoc), Refusals)
)]
async fn action(
    State(shared): State<Shared>,
    Segment(name): Segment<String>,
    body: Body<ActionRequest>,
) -> Response {
    match understood(body) {
        Ok(request) => asked(&shared, &name, shared.household.action(&name, &request)).await,
        Err(response) => *response,
    }
}

/// Another bitmap, or none.
#[utoipa::path(
    post,
    path = "/v1/arrays/{name}/bitmap",
    params(("name" = String, Path, description = "The array")),
    request_body = BitmapRequest,
    responses((status = 200, body = DoneDoc), Refusals)
)]
async fn bitmap(
    State(shared): State<Shared>,
    Segment(name): Segment<String>,
    body: Body<BitmapRequest>,
) -> Response {
    match understood(body) {
        Ok(request) => asked(&shared, &name, shared.household.bitmap(&name, &request)).await,
        Err(response) => *response,
    }
}

/// How level faulty is to fail from now on.
#[utoipa::path(
    post,
    path = "/v1/arrays/{name}/layout",
    params(("name" = String, Path, description = "The array")),
    request_body = LayoutRequest,
    responses((status = 200, body = DoneDoc), Refusals)
)]
async fn layout(
    State(shared): State<Shared>,
    Segment(name): Segment<String>,
    body: Body<LayoutRequest>,
) -> Response {
    match understood(body) {
        Ok(request) => asked(&shared, &name, shared.household.layout(&name, &request)).await,
        Err(response) => *response,
    }
}

/// Read-only, or not any more.
#[utoipa::path(
    post,
    path = "/v1/arrays/{name}/readonly",
    params(("name" = String, Path, description = "The array")),
    request_body = ReadonlyRequest,
    responses((status = 200, body = DoneDoc), Refusals)
)]
async fn readonly(
    State(shared): State<Shared>,
    Segment(name): Segment<String>,
    body: Body<ReadonlyRequest>,
) -> Response {
    match understood(body) {
        Ok(request) => {
            let work = shared.household.readonly(&name, request.readonly);
            asked(&shared, &name, work).await
        }
        Err(response) => *response,
    }
}

#[derive(Deserialize, IntoParams)]
struct Patience {
    /// How long to wait at the most, in milliseconds; 300,000 at the most.
    timeout_ms: Option<u64>,
}

/// Answers when nothing runs any more, or after a while.
#[utoipa::path(
    get,
    path = "/v1/arrays/{name}/wait",
    params(("name" = String, Path, description = "The array"), Patience),
    responses((status = 200, body = WaitDoc), Refusals)
)]
async fn wait(
    State(shared): State<Shared>,
    Segment(name): Segment<String>,
    Query(patience): Query<Patience>,
) -> Response {
    let timeout = patience.timeout_ms.map_or(WAIT_MAX, Duration::from_millis);
    answer(shared.household.wait(&name, timeout.min(WAIT_MAX)).await)
}

#[derive(Deserialize, IntoParams)]
struct Parts {
    /// In how many parts the bitmap is shown, 1 to 4096; 256 when nothing is said.
    cells: Option<u16>,
}

/// Where dirty regions and bad blocks lie.
#[utoipa::path(
    get,
    path = "/v1/arrays/{name}/map",
    params(("name" = String, Path, description = "The array"), Parts),
    responses((status = 200, body = MapDoc), Refusals)
)]
async fn map(
    State(shared): State<Shared>,
    Segment(name): Segment<String>,
    Query(parts): Query<Parts>,
) -> Response {
    let cells = parts.cells.unwrap_or(256).clamp(1, 4096);
    answer(shared.household.map(&name, cells).await)
}

/// What an array has done since it was started.
#[utoipa::path(
    get,
    path = "/v1/arrays/{name}/stats",
    params(("name" = String, Path, description = "The array")),
    responses((status = 200, body = StatsDoc), Refusals)
)]
async fn stats(State(shared): State<Shared>, Segment(name): Segment<String>) -> Response {
    answer(shared.household.stats(&name).await)
}

/// Opens a door for browsers on this machine, until the daemon ends.
#[utoipa::path(
    post,
    path = "/v1/web",
    request_body = WebRequest,
    responses((status = 200, body = WebDoc), Refusals)
)]
async fn web(State(shared): State<Shared>, body: Body<WebRequest>) -> Response {
    match understood(body) {
        Ok(request) => answer(web::open(&request.address, shared.household, shared.activity).await),
        Err(response) => *response,
    }
}

/// All arrays as /proc/mdstat shows them.
#[utoipa::path(
    get,
    path = "/v1/mdstat",
    responses((status = 200, body = String, content_type = "text/plain"), Refusals)
)]
async fn mdstat_text(State(shared): State<Shared>) -> Response {
    let text = mdstat(&shared.household.list().await.arrays);
    ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response()
}

/// All arrays as Prometheus reads them.
#[utoipa::path(
    get,
    path = "/metrics",
    responses(
        (status = 200, body = String, content_type = "application/openmetrics-text"), Refusals
    )
)]
async fn metrics_text(State(shared): State<Shared>) -> Response {
    let text = shared.household.metrics().await;
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response()
}

/// This description.
#[utoipa::path(
    get,
    path = "/v1/openapi.json",
    responses((status = 200, body = serde_json::Value), Refusals)
)]
async fn description() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], openapi()).into_response()
}

/// Everything that happens from now on, as server-sent events.
#[utoipa::path(
    get,
    path = "/v1/events",
    responses((status = 200, body = EventDoc, content_type = "text/event-stream"), Refusals)
)]
async fn events(State(shared): State<Shared>) -> Response {
    let receiver = shared.household.events.subscribe();
    let stream = futures_util::stream::unfold(receiver, |mut receiver| async move {
        loop {
            match receiver.recv().await {
                Ok(event) => {
                    let text = serde_json::to_string(&event).unwrap_or_default();
                    let block = format!("event: {}\ndata: {text}\n\n", event.event);
                    return Some((Ok::<_, Infallible>(block), receiver));
                }
                // A slow reader misses events and goes on with the newer ones.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            }
        }
    });
    let body = axum::body::Body::from_stream(stream);
    ([(header::CONTENT_TYPE, "text/event-stream")], body).into_response()
}

/// The control socket. Its path is removed when it is dropped, if it was made here.
pub struct ControlSocket {
    listener: UnixListener,
    path: Option<PathBuf>,
    owner: u32,
}

impl ControlSocket {
    /// Binds. Whoever calls holds the lock that goes with the path: a socket found there was left
    /// behind by a dead process, and is replaced.
    ///
    /// # Errors
    /// When the path is taken by something else, or the system refuses.
    pub fn bind(path: &Path) -> io::Result<ControlSocket> {
        use std::os::unix::fs::{FileTypeExt, PermissionsExt};
        match std::fs::symlink_metadata(path) {
            Ok(found) if found.file_type().is_socket() => std::fs::remove_file(path)?,
            Ok(_) => {
                let text = "the path exists and is not a socket; it was left alone";
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(ControlSocket {
            listener,
            path: Some(path.to_owned()),
            owner: rustix::process::geteuid().as_raw(),
        })
    }

    /// One that somebody else has bound and keeps open: who connects while there is no daemon is
    /// answered by the next one.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn passed(listener: std::os::unix::net::UnixListener) -> io::Result<ControlSocket> {
        listener.set_nonblocking(true)?;
        Ok(ControlSocket {
            listener: UnixListener::from_std(listener)?,
            path: None,
            owner: rustix::process::geteuid().as_raw(),
        })
    }

    /// Whether it goes on listening without us.
    pub fn outlives_us(&self) -> bool {
        self.path.is_none()
    }

    /// Whether the one at the other end may control us: our own user, and root.
    fn may_enter(&self, stream: &UnixStream) -> bool {
        stream
            .peer_cred()
            .is_ok_and(|peer| peer.uid() == self.owner || peer.uid() == 0)
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = std::fs::remove_file(path); // Whoever comes next replaces it anyway.
        }
    }
}

impl axum::serve::Listener for ControlSocket {
    type Io = UnixStream;
    type Addr = ();

    async fn accept(&mut self) -> (UnixStream, ()) {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) if self.may_enter(&stream) => return (stream, ()),
                Ok(_) => {} // Closed without a word.
                // No descriptor left, most likely: some will come free.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Serves the control API until `leave` ends, then answers what is in flight.
///
/// # Errors
/// When the server fails.
pub async fn serve(
    socket: ControlSocket,
    household: Arc<Household>,
    activity: Arc<Activity>,
    leave: Pin<Box<dyn Future<Output = ()> + Send>>,
) -> io::Result<()> {
    axum::serve(socket, router(household, activity))
        .with_graceful_shutdown(leave)
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_left_behind_is_replaced_and_other_things_are_not() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("control.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).expect("binds"));
        let socket = ControlSocket::bind(&path).expect("replaces");
        drop(socket);
        assert!(!path.exists(), "the path goes with the socket");
        std::fs::write(&path, "precious").expect("writes");
        assert!(ControlSocket::bind(&path).is_err());
        assert_eq!(std::fs::read(&path).expect("reads"), b"precious");
    }
}
