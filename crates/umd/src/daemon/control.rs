//! The control API over HTTP: routes, who may come in, and how long we stay.
//!
//! Runs on the control thread alone; nothing here is on the path of data.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path as Segment, Query, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use serde::{Deserialize, Serialize};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::broadcast::error::RecvError;

use super::household::{Answer, Household};
use crate::api::{
    API, ActionRequest, AssembleRequest, BitmapRequest, CreateRequest, ErrorDoc, LayoutRequest,
    ManageRequest, ReadonlyRequest, SCHEMA, VersionDoc,
};
use crate::text::mdstat::mdstat;

/// The longest a client can wait in one request.
const WAIT_MAX: Duration = Duration::from_secs(300);

/// When somebody last wanted something.
#[derive(Debug)]
pub struct Activity {
    start: Instant,
    last_ms: AtomicUsize,
    in_flight: AtomicUsize,
}

impl Default for Activity {
    fn default() -> Activity {
        Activity {
            start: Instant::now(),
            last_ms: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
        }
    }
}

impl Activity {
    /// For how long nobody has wanted anything; `None` while somebody does.
    pub fn quiet_for(&self) -> Option<Duration> {
        if self.in_flight.load(Ordering::SeqCst) > 0 {
            return None;
        }
        let last = Duration::from_millis(self.last_ms.load(Ordering::SeqCst) as u64);
        Some(self.start.elapsed().saturating_sub(last))
    }

    fn touch(&self) {
        let now = usize::try_from(self.start.elapsed().as_millis()).unwrap_or(usize::MAX);
        self.last_ms.store(now, Ordering::SeqCst);
    }
}

/// What every route can reach.
#[derive(Clone)]
struct Shared {
    household: Arc<Household>,
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

/// The routes.
pub fn router(household: Arc<Household>, activity: Arc<Activity>) -> Router {
    let shared = Shared {
        household,
        activity,
    };
    Router::new()
        .route("/v1/version", get(version))
        .route("/v1/arrays", get(list))
        .route("/v1/arrays/{name}", get(detail))
        .route("/v1/create", post(create))
        .route("/v1/assemble", post(assemble))
        .route("/v1/arrays/{name}/stop", post(stop))
        .route("/v1/arrays/{name}/manage", post(manage))
        .route("/v1/arrays/{name}/action", post(action))
        .route("/v1/arrays/{name}/bitmap", post(bitmap))
        .route("/v1/arrays/{name}/layout", post(layout))
        .route("/v1/arrays/{name}/readonly", post(readonly))
        .route("/v1/arrays/{name}/wait", get(wait))
        .route("/v1/events", get(events))
        .route("/v1/mdstat", get(mdstat_text))
        .fallback(nothing_here)
        .layer(from_fn_with_state(shared.clone(), count))
        .with_state(shared)
}

/// Counts requests in flight, and remembers when the last one was.
async fn count(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    struct InFlight(Arc<Activity>);
    impl Drop for InFlight {
        fn drop(&mut self) {
            self.0.touch();
            self.0.in_flight.fetch_sub(1, Ordering::SeqCst);
        }
    }
    shared.activity.in_flight.fetch_add(1, Ordering::SeqCst);
    let guard = InFlight(shared.activity.clone());
    let response = next.run(request).await;
    drop(guard);
    response
}

fn answer<T: Serialize>(answer: Answer<T>) -> Response {
    match answer {
        Ok(document) => Json(document).into_response(),
        Err(error) => error.into_response(),
    }
}

type Body<T> = Result<Json<T>, JsonRejection>;

/// A body that was understood; otherwise the answer to give.
fn understood<T>(body: Body<T>) -> Result<T, Box<Response>> {
    body.map(|Json(document)| document).map_err(|rejection| {
        let mut error = ErrorDoc::new(rejection.body_text());
        error.exit_code = 2;
        Box::new(error.into_response())
    })
}

async fn nothing_here(request: Request) -> Response {
    let text = format!("there is no {} {}", request.method(), request.uri().path());
    let error = ErrorDoc {
        not_found: true,
        ..ErrorDoc::new(text)
    };
    error.into_response()
}

async fn version(State(shared): State<Shared>) -> Json<VersionDoc> {
    Json(VersionDoc {
        schema: SCHEMA,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        api: API,
        pid: std::process::id(),
        nbd: shared.household.addresses(),
    })
}

async fn list(State(shared): State<Shared>) -> Response {
    Json(shared.household.list().await).into_response()
}

async fn detail(State(shared): State<Shared>, Segment(name): Segment<String>) -> Response {
    answer(shared.household.detail(&name).await)
}

async fn create(State(shared): State<Shared>, body: Body<CreateRequest>) -> Response {
    match understood(body) {
        Ok(request) => answer(shared.household.create(request).await),
        Err(response) => *response,
    }
}

async fn assemble(State(shared): State<Shared>, body: Body<AssembleRequest>) -> Response {
    match understood(body) {
        Ok(request) => answer(shared.household.assemble(request).await),
        Err(response) => *response,
    }
}

async fn stop(State(shared): State<Shared>, Segment(name): Segment<String>) -> Response {
    answer(shared.household.stop(&name).await)
}

async fn manage(
    State(shared): State<Shared>,
    Segment(name): Segment<String>,
    body: Body<ManageRequest>,
) -> Response {
    match understood(body) {
        Ok(request) => answer(shared.household.manage(&name, request).await),
        Err(response) => *response,
    }
}

async fn action(
    State(shared): State<Shared>,
    Segment(name): Segment<String>,
    body: Body<ActionRequest>,
) -> Response {
    match understood(body) {
        Ok(request) => answer(shared.household.action(&name, &request).await),
        Err(response) => *response,
    }
}

async fn bitmap(
    State(shared): State<Shared>,
    Segment(name): Segment<String>,
    body: Body<BitmapRequest>,
) -> Response {
    match understood(body) {
        Ok(request) => answer(shared.household.bitmap(&name, &request).await),
        Err(response) => *response,
    }
}

async fn layout(
    State(shared): State<Shared>,
    Segment(name): Segment<String>,
    body: Body<LayoutRequest>,
) -> Response {
    match understood(body) {
        Ok(request) => answer(shared.household.layout(&name, &request).await),
        Err(response) => *response,
    }
}

async fn readonly(
    State(shared): State<Shared>,
    Segment(name): Segment<String>,
    body: Body<ReadonlyRequest>,
) -> Response {
    match understood(body) {
        Ok(request) => answer(shared.household.readonly(&name, request.readonly).await),
        Err(response) => *response,
    }
}

#[derive(Deserialize)]
struct Patience {
    timeout_ms: Option<u64>,
}

async fn wait(
    State(shared): State<Shared>,
    Segment(name): Segment<String>,
    Query(patience): Query<Patience>,
) -> Response {
    let timeout = patience.timeout_ms.map_or(WAIT_MAX, Duration::from_millis);
    answer(shared.household.wait(&name, timeout.min(WAIT_MAX)).await)
}

async fn mdstat_text(State(shared): State<Shared>) -> Response {
    let text = mdstat(&shared.household.list().await.arrays);
    ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response()
}

/// Everything that happens from now on, as server-sent events.
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

/// The control socket. Its path is removed when it is dropped.
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
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
            path: path.to_owned(),
            owner: rustix::process::geteuid().as_raw(),
        })
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
        let _ = std::fs::remove_file(&self.path); // Whoever comes next replaces it anyway.
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

    #[test]
    fn activity_counts_from_the_last_request() {
        let activity = Activity::default();
        activity.in_flight.store(1, Ordering::SeqCst);
        assert_eq!(activity.quiet_for(), None);
        activity.in_flight.store(0, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(5));
        assert!(activity.quiet_for() >= Some(Duration::from_millis(4)));
        activity.touch();
        assert!(activity.quiet_for() < Some(Duration::from_millis(4)));
    }
}
