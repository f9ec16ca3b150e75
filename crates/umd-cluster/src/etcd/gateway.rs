//! etcd's API as JSON over HTTP: requests, answers, and which server is asked.
//!
//! ```text
//!   ask(path, body) --> the server that answered last; the next one after a failure
//!   watch(body) ------> a stream of lines, which ends when nothing comes for a while
//! ```
//!
//! Every etcd since 3.4 serves its whole API so. It needs no protocol compiler to be built, no
//! async runtime to be called, and is read with `curl`. Numbers of 64 bits are strings in it, keys
//! and values base64, and what is zero or empty is left out.

use std::io::{BufRead, BufReader};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, TlsProvider};
use ureq::{Agent, Body, SendBody};

use super::Servers;
use crate::ledger::Trouble;

/// Bytes as the gateway has them.
pub(super) fn b64(bytes: impl AsRef<[u8]>) -> String {
    STANDARD.encode(bytes)
}

/// A string of the gateway's as text.
pub(super) fn text(value: &Value) -> Option<String> {
    let bytes = STANDARD.decode(value.as_str()?).ok()?;
    String::from_utf8(bytes).ok()
}

/// A number of 64 bits; what is left out is zero.
pub(super) fn number(value: &Value) -> u64 {
    let number = value.as_str().and_then(|text| text.parse().ok());
    number.or_else(|| value.as_u64()).unwrap_or(0)
}

/// The servers of an etcd.
pub(super) struct Gateway {
    servers: Vec<String>,
    /// Which one is asked.
    current: AtomicUsize,
    agent: Agent,
    timeout: Duration,
    user: Option<(String, String)>,
    token: Mutex<Option<String>>,
}

/// Why there is no answer that is of use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failed {
    /// None came, or none that makes sense; the next may be better.
    Unanswered(String),
    /// It was understood and not allowed: it will not be the next time, either.
    Refused(String),
}

impl From<Failed> for Trouble {
    fn from(failed: Failed) -> Trouble {
        let (Failed::Unanswered(text) | Failed::Refused(text)) = failed;
        Trouble(text)
    }
}

/// Lines of a watch.
pub(super) struct Lines {
    reader: BufReader<ureq::BodyReader<'static>>,
    server: String,
}

impl Gateway {
    /// Calls end after `timeout`.
    pub(super) fn new(servers: &Servers, timeout: Duration) -> Result<Gateway, Trouble> {
        if servers.urls.is_empty() {
            return Err(Trouble("no etcd server is named".into()));
        }
        let urls = servers.urls.iter();
        let urls = urls.map(|url| url.trim_end_matches('/').to_owned());
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .timeout_connect(Some(timeout))
            .tls_config(tls(servers)?);
        Ok(Gateway {
            servers: urls.collect(),
            current: AtomicUsize::new(0),
            agent: config.build().into(),
            timeout,
            user: servers.user.clone(),
            token: Mutex::new(None),
        })
    }

    fn server(&self) -> (usize, &str) {
        let at = self.current.load(Ordering::SeqCst);
        (at, &self.servers[at % self.servers.len()])
    }

    /// Whoever failed is not asked next.
    fn next(&self, failed: usize) {
        let (next, same) = (failed.wrapping_add(1), Ordering::SeqCst);
        // Somebody else may have gone on already.
        let _ = self.current.compare_exchange(failed, next, same, same);
    }

    fn send(
        &self,
        path: &str,
        body: &Value,
        whole: Option<Duration>,
        each: Option<Duration>,
    ) -> Result<(ureq::http::Response<Body>, String), Failed> {
        let (at, server) = self.server();
        let url = format!("{server}/v3/{path}");
        let mut request = self.agent.post(&url).content_type("application/json");
        if let Some(token) = self.token()? {
            request = request.header("Authorization", token);
        }
        let request = request
            .config()
            .timeout_global(whole)
            .timeout_per_read(each)
            .timeout_recv_response(Some(self.timeout))
            .build();
        let text = body.to_string();
        let answer = request.send(SendBody::from_reader(&mut text.as_bytes()));
        let answer = answer.map_err(|error| {
            self.next(at);
            Failed::Unanswered(format!("etcd at {server} does not answer: {error}"))
        })?;
        let server = server.to_owned();
        match answer.status().is_success() {
            true => Ok((answer, server)),
            false => Err(self.refused(answer, at, &server, path)),
        }
    }

    fn refused(
        &self,
        mut answer: ureq::http::Response<Body>,
        at: usize,
        server: &str,
        path: &str,
    ) -> Failed {
        let status = answer.status();
        let text = answer.body_mut().read_to_string().unwrap_or_default();
        let said: Value = serde_json::from_str(&text).unwrap_or_default();
        let code = number(&said["code"]);
        // 401, or gRPC's "unauthenticated": the token has run out.
        if status.as_u16() == 401 || code == 16 {
            *self.token.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        self.next(at);
        // What the gateway itself refuses has a line of plain text.
        let line = text.lines().next().filter(|line| !line.is_empty());
        let why = said["message"].as_str().or(line);
        let why = why.unwrap_or("no reason given");
        let text = format!("etcd at {server} refuses {path} ({status}): {why}");
        match status.is_client_error() {
            true => Failed::Refused(text),
            false => Failed::Unanswered(text),
        }
    }

    /// Asks, and waits for the one answer.
    pub(super) fn ask(&self, path: &str, body: &Value) -> Result<Value, Failed> {
        let (mut answer, server) = self.send(path, body, Some(self.timeout), None)?;
        let at = self.current.load(Ordering::SeqCst);
        let text = answer.body_mut().read_to_string().map_err(|error| {
            self.next(at);
            Failed::Unanswered(format!(
                "etcd at {server} stops in the middle of {path}: {error}"
            ))
        })?;
        // The answer of a stream's method is one line in a wrapping of its own.
        let answer: Value = serde_json::from_str(text.trim()).map_err(|error| {
            Failed::Unanswered(format!(
                "etcd at {server} answers {path} with no JSON: {error}"
            ))
        })?;
        if let Some(error) = answer.get("error") {
            let why = error["message"].as_str().unwrap_or("no reason given");
            let text = format!("etcd at {server} refuses {path}: {why}");
            return Err(Failed::Unanswered(text));
        }
        Ok(answer.get("result").cloned().unwrap_or(answer))
    }

    /// Watches: lines come until none does for `wait`.
    pub(super) fn watch(&self, body: &Value, wait: Duration) -> Result<Lines, Failed> {
        let (answer, server) = self.send("watch", body, None, Some(wait))?;
        let reader = answer
            .into_body()
            .into_with_config()
            .limit(u64::MAX)
            .reader();
        Ok(Lines {
            reader: BufReader::new(reader),
            server,
        })
    }

    fn token(&self) -> Result<Option<String>, Failed> {
        let Some((name, password)) = &self.user else {
            return Ok(None);
        };
        let mut token = self.token.lock().unwrap_or_else(PoisonError::into_inner);
        if token.is_none() {
            let (at, server) = self.server();
            let url = format!("{server}/v3/auth/authenticate");
            let request = self.agent.post(&url).content_type("application/json");
            let request = request.config().timeout_global(Some(self.timeout)).build();
            let text = json!({"name": name, "password": password}).to_string();
            let answer = request.send(SendBody::from_reader(&mut text.as_bytes()));
            let answer = answer.and_then(|mut answer| answer.body_mut().read_to_string());
            let answer: Value = match answer {
                Ok(text) => serde_json::from_str(&text).unwrap_or_default(),
                Err(error) => {
                    self.next(at);
                    return Err(Failed::Unanswered(format!(
                        "etcd at {server} does not answer: {error}"
                    )));
                }
            };
            let Some(new) = answer["token"].as_str() else {
                let why = answer["message"].as_str().unwrap_or("no reason given");
                let text = format!("etcd at {server} does not let user {name} in: {why}");
                // InvalidArgument is what etcd makes of a wrong name or password.
                return Err(match number(&answer["code"]) {
                    3 => Failed::Refused(text),
                    _ => Failed::Unanswered(text),
                });
            };
            *token = Some(new.to_owned());
        }
        Ok(token.clone())
    }
}

impl Lines {
    /// The next message of the watch; `None` when nothing more comes of it.
    pub(super) fn next(&mut self) -> Result<Option<Value>, Trouble> {
        let mut line = String::new();
        loop {
            line.clear();
            // An end, a time-out and a broken connection are one: it is begun again behind what
            // was heard last.
            match self.reader.read_line(&mut line) {
                Ok(0) | Err(_) => return Ok(None),
                Ok(_) if line.trim().is_empty() => {}
                Ok(_) => break,
            }
        }
        let Ok(mut message) = serde_json::from_str::<Value>(&line) else {
            return Ok(None); // Cut off in the middle.
        };
        if let Some(error) = message.get("error") {
            let why = error["message"].as_str().unwrap_or("no reason given");
            return Err(Trouble(format!(
                "etcd at {} ends the watch: {why}",
                self.server
            )));
        }
        Ok(Some(message["result"].take()))
    }
}

fn tls(servers: &Servers) -> Result<TlsConfig, Trouble> {
    let bad = |what: &str, error: ureq::Error| Trouble(format!("{what} makes no sense: {error}"));
    let mut config = TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let roots = chain(&servers.ca_pem).map_err(|error| bad("the certificate authority", error))?;
    config = config.root_certs(RootCerts::new_with_certs(&roots));
    if let Some((certificate, key)) = &servers.client_pem {
        let own = "this client's certificate";
        let chain = chain(certificate).map_err(|error| bad(own, error))?;
        let key = PrivateKey::from_pem(key).map_err(|error| bad("this client's key", error))?;
        config = config.client_cert(Some(ClientCert::new_with_certs(&chain, key)));
    }
    Ok(config.build())
}

fn chain(pem: &[u8]) -> Result<Vec<Certificate<'static>>, ureq::Error> {
    let items = ureq::tls::parse_pem(pem);
    let certificates = items.filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(Ok(certificate)),
        Ok(_) => None,
        Err(error) => Some(Err(error)),
    });
    certificates.collect()
}
