//! The door for browsers: TCP on this machine, only when asked for, and with a token.
//!
//! ```text
//!   umd web --POST /v1/web--> listens on 127.0.0.1, makes a token
//!            <-- http://127.0.0.1:PORT/?token=T
//!   browser  GET /?token=T  --> cookie, and / without the token in the address
//!            GET /v1/...    --> who has cookie or bearer token may do what the socket's owner may
//! ```
//!
//! Any user of the machine can connect to such a port, and any page in the browser can make it
//! send requests: hence the token, the strict cookie, and the look at the name it was called by.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Json, Response};
use tokio::net::TcpListener;

use super::activity::Activity;
use super::control::router;
use super::household::{Answer, Household};
use crate::api::{ErrorDoc, SCHEMA, WebDoc};
use crate::cli::outcome::say;

const COOKIE: &str = "umd";

/// Opens the door; it stays open until the process ends.
///
/// # Errors
/// When the address is not of this machine alone, or cannot be had.
pub async fn open(
    address: &str,
    household: Arc<Household>,
    activity: Arc<Activity>,
) -> Answer<WebDoc> {
    let address = own_address(address)?;
    let failed = |error| ErrorDoc::new(format!("cannot listen on {address}: {error}"));
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let token: Arc<str> = token().into();
    let url = format!("http://{address}/?token={token}");
    let app = guarded(router(household, activity), token);
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, app).await {
            say(&format!("{address}: no more browsers are let in: {error}"));
        }
    });
    Ok(WebDoc {
        schema: SCHEMA,
        url,
    })
}

/// The address, if only this machine can reach it: what goes over it is not encrypted.
fn own_address(text: &str) -> Result<SocketAddr, ErrorDoc> {
    let text = text.strip_prefix("tcp:").unwrap_or(text);
    let text = text.replace("localhost:", "127.0.0.1:");
    let nonsense = |why: &str| ErrorDoc {
        exit_code: 2,
        ..ErrorDoc::new(format!("{text}: {why}"))
    };
    let address: SocketAddr = text
        .parse()
        .map_err(|_| nonsense("no address; write 127.0.0.1:PORT"))?;
    match address.ip().is_loopback() {
        true => Ok(address),
        false => Err(nonsense(
            "the page is served to this machine only, for nothing of it is encrypted; from \
             another machine go through ssh -L",
        )),
    }
}

/// 128 bits of chance, in hexadecimal.
fn token() -> String {
    let bytes = crate::words::random_uuid().0;
    let second = crate::words::random_uuid().0;
    let both = bytes.iter().chain(&second);
    both.map(|byte| format!("{byte:02x}")).collect()
}

/// The routes behind the token.
pub(super) fn guarded(app: Router, token: Arc<str>) -> Router {
    app.layer(from_fn_with_state(token, guard))
}

async fn guard(State(token): State<Arc<str>>, request: Request, next: Next) -> Response {
    if !called_by_its_name(request.headers()) {
        return refused(StatusCode::FORBIDDEN, "this is the door of another name");
    }
    if let Some(given) = token_in(request.uri()) {
        return match same(given, &token) {
            true => welcome(&token),
            false => refused(
                StatusCode::UNAUTHORIZED,
                "another token; ask `umd web` for one",
            ),
        };
    }
    let headers = request.headers();
    let given = bearer(headers).or_else(|| cookie(headers));
    if given.is_some_and(|given| same(given, &token)) {
        return next.run(request).await;
    }
    refused(
        StatusCode::UNAUTHORIZED,
        "the way in is the address that `umd web` prints, or the token as bearer",
    )
}

fn refused(status: StatusCode, text: &str) -> Response {
    (status, Json(ErrorDoc::new(text))).into_response()
}

/// The cookie, and the address without the token: it would stay in the history of the browser.
fn welcome(token: &str) -> Response {
    let cookie = format!("{COOKIE}={token}; HttpOnly; SameSite=Strict; Path=/");
    let headers = [
        (header::SET_COOKIE, cookie.as_str()),
        (header::LOCATION, "/"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (StatusCode::SEE_OTHER, headers).into_response()
}

fn token_in(uri: &Uri) -> Option<&str> {
    let pairs = uri.query()?.split('&');
    pairs
        .filter(|_| uri.path() == "/")
        .find_map(|pair| pair.strip_prefix("token="))
}

pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    text.strip_prefix("Bearer ")
}

fn cookie(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get(header::COOKIE)?.to_str().ok()?;
    let mut pairs = text
        .split(';')
        .filter_map(|pair| pair.trim().split_once('='));
    pairs
        .find(|(key, _)| *key == COOKIE)
        .map(|(_, value)| value)
}

/// Whether the browser called an address of this machine: a name that somebody else lets point
/// here would be called by its own.
fn called_by_its_name(headers: &HeaderMap) -> bool {
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    let Some(host) = host else {
        return false;
    };
    let bare = host.rsplit_once(':').map_or(
        host,
        |(name, port)| {
            if port.ends_with(']') { host } else { name }
        },
    );
    let bare = bare.trim_start_matches('[').trim_end_matches(']');
    bare == "localhost" || bare.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

/// Compares without telling by its time how much was right.
pub(super) fn same(given: &str, token: &str) -> bool {
    let differing = given
        .bytes()
        .zip(token.bytes())
        .fold(0, |sum, (a, b)| sum | (a ^ b));
    given.len() == token.len() && differing == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(header::HeaderName, &str)]) -> HeaderMap {
        let pairs = pairs.iter();
        pairs
            .map(|(key, value)| (key.clone(), value.parse().expect("a value")))
            .collect()
    }

    #[test]
    fn only_this_machine_is_listened_to() {
        for good in [
            "127.0.0.1:0",
            "tcp:127.0.0.1:80",
            "[::1]:8080",
            "localhost:1",
        ] {
            assert!(own_address(good).is_ok(), "{good}");
        }
        for bad in [
            "0.0.0.0:80",
            "192.168.1.1:80",
            "[::]:80",
            "127.0.0.1",
            "x",
            "",
        ] {
            assert_eq!(own_address(bad).expect_err("refused").exit_code, 2, "{bad}");
        }
    }

    #[test]
    fn other_names_of_this_machine_are_strangers() {
        for good in [
            "127.0.0.1:8080",
            "localhost",
            "localhost:1",
            "[::1]:80",
            "[::1]",
        ] {
            assert!(
                called_by_its_name(&headers(&[(header::HOST, good)])),
                "{good}"
            );
        }
        for bad in [
            "evil.example:8080",
            "127.0.0.1.evil.example",
            "10.0.0.1",
            "",
        ] {
            assert!(
                !called_by_its_name(&headers(&[(header::HOST, bad)])),
                "{bad}"
            );
        }
        assert!(!called_by_its_name(&HeaderMap::new()));
    }

    #[test]
    fn tokens_come_as_cookie_or_bearer_and_are_compared_whole() {
        let map = headers(&[(header::COOKIE, "a=b; umd=secret; c=d")]);
        assert_eq!(cookie(&map), Some("secret"));
        let map = headers(&[(header::AUTHORIZATION, "Bearer secret")]);
        assert_eq!(bearer(&map), Some("secret"));
        assert!(same("secret", "secret"));
        assert!(!same("secre", "secret") && !same("", "secret") && !same("secrets", "secret"));
        assert_ne!(token(), token());
        assert_eq!(token().len(), 64);
    }
}
