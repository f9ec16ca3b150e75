//! The control API over TCP, only when asked for: with TLS from anywhere, without it from this
//! machine only.
//!
//! ```text
//!   accept --> at most CONNECTIONS_MAX --> TLS, within HANDSHAKE --> HTTP
//!                                                                      |
//!            a certificate of control-ca-cert.pem, or the token? ------+--> the routes
//! ```
//!
//! A client that stalls or sends anything else costs its own connection, and no other.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Json, Response};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;

use super::web;
use crate::api::ErrorDoc;
use crate::cli::outcome::{Failure, say};

/// Connections at a time; who comes on top is closed.
const CONNECTIONS_MAX: usize = 128;
/// How long the TLS handshake may take, and then every head of a request.
const HANDSHAKE: Duration = Duration::from_secs(10);
const HEAD: Duration = Duration::from_secs(30);
/// How long nobody is taken in when the system has no descriptor for one.
const BACK_OFF: Duration = Duration::from_millis(100);
/// The shortest token that is one.
const TOKEN_BYTES_MIN: usize = 16;

/// Where the control API is to be had over TCP, bound, and how.
#[derive(Debug)]
pub struct Remote {
    listeners: Vec<StdListener>,
    tls: Option<Arc<ServerConfig>>,
    token: Option<Arc<str>>,
}

impl Remote {
    /// Listens at these addresses.
    ///
    /// # Errors
    /// When one is none, is taken, or would be heard by others.
    pub fn listen(
        addresses: &[String],
        tls: Option<Arc<ServerConfig>>,
        token: Option<Arc<str>>,
    ) -> Result<Remote, Failure> {
        let bound = addresses.iter().map(|text| bind(text, tls.is_some()));
        Ok(Remote {
            listeners: bound.collect::<Result<_, _>>()?,
            tls,
            token,
        })
    }

    /// Where it listens.
    pub fn addresses(&self) -> impl Iterator<Item = String> {
        let bound = self.listeners.iter().flat_map(StdListener::local_addr);
        bound.map(|address| address.to_string())
    }

    /// Lets clients in until the process ends.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn open(self, routes: &Router) -> io::Result<()> {
        for listener in self.listeners {
            let address = listener.local_addr()?;
            let scheme = if self.tls.is_some() { "https" } else { "http" };
            say(&format!("the control API is at {scheme}://{address}"));
            let door = Door {
                listener: TcpListener::from_std(listener)?,
                tls: self.tls.clone().map(TlsAcceptor::from),
                token: self.token.clone(),
                routes: routes.clone(),
                room: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            };
            tokio::spawn(door.keep());
        }
        Ok(())
    }
}

fn bind(text: &str, tls: bool) -> Result<StdListener, Failure> {
    let bare = text.strip_prefix("tcp:").unwrap_or(text);
    let nonsense = |why: &str| Failure::usage(format!("{text}: {why}"));
    let found = bare.to_socket_addrs();
    let targets: Vec<SocketAddr> = found
        .map_err(|_| nonsense("no address; write HOST:PORT"))?
        .collect();
    if !tls && !targets.iter().all(|target| target.ip().is_loopback()) {
        return Err(nonsense(
            "other machines can connect there, and nothing would be encrypted: give --tls DIR, or \
             an address of this machine",
        ));
    }
    let failed = |error: io::Error| {
        let why = super::open::os_text(&error);
        Failure::failed(format!("cannot listen on {bare}: {why}"))
    };
    let listener = StdListener::bind(&targets[..]).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

/// The token in a file that only its owner can read.
///
/// # Errors
/// When it cannot be read, could be read by others, or holds too little.
pub fn token(path: &Path) -> Result<Arc<str>, Failure> {
    let token = super::secrets::secret(path, "control this daemon")?;
    if token.len() < TOKEN_BYTES_MIN || token.contains(char::is_whitespace) {
        return Err(Failure::failed(format!(
            "{} holds no token: one line of {TOKEN_BYTES_MIN} characters at least, as `openssl \
             rand -hex 32` makes it",
            path.display()
        )));
    }
    Ok(token.into())
}

struct Door {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    token: Option<Arc<str>>,
    routes: Router,
    room: Arc<Semaphore>,
}

impl Door {
    async fn keep(self) {
        loop {
            let Ok((stream, _)) = self.listener.accept().await else {
                tokio::time::sleep(BACK_OFF).await;
                continue;
            };
            let Ok(permit) = self.room.clone().try_acquire_owned() else {
                continue; // Closed: the others go first.
            };
            tokio::spawn(greet(
                stream,
                self.tls.clone(),
                self.token.clone(),
                self.routes.clone(),
                permit,
            ));
        }
    }
}

/// One connection, to its end.
async fn greet(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    token: Option<Arc<str>>,
    routes: Router,
    _permit: OwnedSemaphorePermit,
) {
    let _ = stream.set_nodelay(true); // Only slower without.
    let Some(tls) = tls else {
        let token = token.expect("without TLS there is a token");
        return answer(stream, web::guarded(routes, token)).await;
    };
    // Who does not come through within its time, or at all, is not answered.
    if let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
        let trusted = stream.get_ref().1.peer_certificates().is_some();
        let guard = Guard { trusted, token };
        let routes = routes.layer(from_fn_with_state(guard, check));
        answer(stream, routes).await;
    }
}

async fn answer<S: AsyncRead + AsyncWrite + Unpin>(stream: S, routes: Router) {
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
    let _ = served.await; // A client that goes is no news.
}

/// What a connection has shown.
#[derive(Clone)]
struct Guard {
    /// A certificate of one who may control: the handshake has looked at it.
    trusted: bool,
    token: Option<Arc<str>>,
}

async fn check(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let refused =
        |status: StatusCode, text: &str| (status, Json(ErrorDoc::new(text))).into_response();
    let headers = request.headers();
    let shown = guard.token.as_deref().zip(web::bearer(headers));
    let by_token = shown.is_some_and(|(token, given)| web::same(given, token));
    if !by_token && !guard.trusted {
        return refused(
            StatusCode::UNAUTHORIZED,
            "who controls this daemon shows a certificate or its token",
        );
    }
    // A browser shows its certificate to whatever page makes it ask; a token it does not know.
    if !by_token && !own_page(headers) {
        return refused(
            StatusCode::FORBIDDEN,
            "a page of another name asks for this",
        );
    }
    next.run(request).await
}

/// Whether what asks is no page of a browser, or one that came from here.
fn own_page(headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else {
        return true;
    };
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    let own = host.map(|host| format!("https://{host}"));
    own.is_some_and(|own| origin.as_bytes() == own.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn pages_of_others_are_told_from_ours() {
        let headers = |origin: Option<&str>| {
            let mut map = HeaderMap::new();
            map.insert(header::HOST, "nas:8443".parse().expect("a value"));
            if let Some(origin) = origin {
                map.insert(header::ORIGIN, origin.parse().expect("a value"));
            }
            map
        };
        assert!(own_page(&headers(None)), "no browser");
        assert!(own_page(&headers(Some("https://nas:8443"))));
        for other in ["https://evil.example", "http://nas:8443", "null", ""] {
            assert!(!own_page(&headers(Some(other))), "{other}");
        }
    }

    #[test]
    fn tokens_are_long_and_private() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("token");
        let write = |text: &str, mode: u32| {
            std::fs::write(&path, text).expect("writes");
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(&path, mode).expect("chmod");
            token(&path).map_err(|failure| failure.text)
        };
        let good = write("0123456789abcdef\n", 0o600);
        assert_eq!(good.as_deref(), Ok("0123456789abcdef"));
        for (text, mode, why) in [
            ("0123456789abcdef", 0o640, "can be read by others"),
            ("0123456789abcde\n", 0o600, "holds no token"),
            ("0123456789 abcdef", 0o600, "holds no token"),
            ("", 0o600, "holds no token"),
        ] {
            let error = write(text, mode).expect_err("refused");
            assert!(error.contains(why), "{text}: {error}");
        }
        let missing = token(&dir.path().join("none")).expect_err("refused").text;
        assert!(
            missing.contains("cannot be read: No such file"),
            "{missing}"
        );
    }

    #[test]
    fn without_tls_only_this_machine_is_listened_to() {
        let token: Option<Arc<str>> = Some("0123456789abcdef".into());
        let listen = |text: &str, token| Remote::listen(&[text.to_owned()], None, token);
        assert!(listen("127.0.0.1:0", token.clone()).is_ok());
        assert!(listen("tcp:[::1]:0", token.clone()).is_ok_and(|r| r.listeners.len() == 1));
        let heard = listen("0.0.0.0:0", token.clone()).expect_err("refused");
        assert!(
            heard.text.contains("nothing would be encrypted"),
            "{}",
            heard.text
        );
        let nonsense = listen("here", token).expect_err("refused");
        assert!(
            nonsense.text.contains("write HOST:PORT"),
            "{}",
            nonsense.text
        );
    }
}
