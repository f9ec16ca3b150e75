//! The command line's side of the control API: a small blocking HTTP/1.1 client over a Unix
//! socket. One connection, one request at a time.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::api::{API, ErrorDoc, VersionDoc};

/// How long a daemon may take to answer. Stopping an array waits for its members, so it is long.
const PATIENCE: Duration = Duration::from_secs(600);
/// The longest head of a response, and the longest body.
const HEAD_BYTES_MAX: u64 = 64 << 10;
const BODY_BYTES_MAX: u64 = 64 << 20;

/// Why a request brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The daemon refused; it says why.
    #[error("{}", .0.error)]
    Refused(ErrorDoc),
    /// The connection ended before an answer began: nothing was done.
    #[error("the daemon at {} has gone away", .0.display())]
    Gone(PathBuf),
    /// Another version.
    #[error(
        "the daemon at {} is version {version} (API {api}), this is {ours} (API {API}): stop its \
         arrays with the version that started them", socket.display()
    )]
    OtherVersion {
        /// Its socket.
        socket: PathBuf,
        /// Its version.
        version: String,
        /// Its API.
        api: u32,
        /// Our version.
        ours: &'static str,
    },
    /// Anything else.
    #[error("cannot talk to the daemon at {}: {source}", socket.display())]
    Io {
        /// Its socket.
        socket: PathBuf,
        /// The system's word for it.
        source: io::Error,
    },
}

/// A connection to a daemon (or an `umd serve`) of our version.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
    socket: PathBuf,
    version: VersionDoc,
}

impl Client {
    /// Connects and shakes hands; `None` when nobody listens there.
    ///
    /// # Errors
    /// When somebody does, and is not understood.
    pub fn connect(socket: &Path) -> Result<Option<Client>, ClientError> {
        let io = |source| ClientError::Io {
            socket: socket.to_owned(),
            source,
        };
        let stream = match UnixStream::connect(socket) {
            Ok(stream) => stream,
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => return Ok(None),
                _ => return Err(io(error)),
            },
        };
        stream.set_read_timeout(Some(PATIENCE)).map_err(io)?;
        let mut client = Client {
            stream: BufReader::new(stream),
            socket: socket.to_owned(),
            version: VersionDoc {
                schema: 0,
                version: String::new(),
                api: 0,
                pid: 0,
                nbd: Vec::new(),
            },
        };
        let version: VersionDoc = match client.get("/v1/version") {
            // It was about to leave: as good as nobody there.
            Err(ClientError::Gone(_)) => return Ok(None),
            other => other?,
        };
        let ours = env!("CARGO_PKG_VERSION");
        if version.api != API || version.version != ours {
            return Err(ClientError::OtherVersion {
                socket: socket.to_owned(),
                version: version.version,
                api: version.api,
                ours,
            });
        }
        client.version = version;
        Ok(Some(client))
    }

    /// Who answers.
    pub fn version(&self) -> &VersionDoc {
        &self.version
    }

    /// A GET.
    ///
    /// # Errors
    /// When it is refused or the connection fails.
    pub fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, ClientError> {
        let body = self.exchange("GET", path, None)?;
        self.decode(&body)
    }

    /// A POST with a document.
    ///
    /// # Errors
    /// When it is refused or the connection fails.
    pub fn post<B: Serialize, T: DeserializeOwned>(
        &mut self,
        path: &str,
        body: &B,
    ) -> Result<T, ClientError> {
        let text = serde_json::to_string(body).map_err(|error| self.io(error.into()))?;
        let body = self.exchange("POST", path, Some(&text))?;
        self.decode(&body)
    }

    fn io(&self, source: io::Error) -> ClientError {
        ClientError::Io {
            socket: self.socket.clone(),
            source,
        }
    }

    fn decode<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, ClientError> {
        serde_json::from_slice(body).map_err(|error| self.io(error.into()))
    }

    fn exchange(
        &mut self,
        method: &str,
        path: &str,
        body: Option<&str>,
    ) -> Result<Vec<u8>, ClientError> {
        let body = body.unwrap_or("");
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: umd\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        let sent = self
            .stream
            .get_mut()
            .write_all(format!("{head}{body}").as_bytes());
        if let Err(error) = sent {
            return Err(self.gone_or(error));
        }
        let (status, body) = match read_response(&mut self.stream) {
            Ok(Some(response)) => response,
            Ok(None) => return Err(ClientError::Gone(self.socket.clone())),
            Err(error) => return Err(self.gone_or(error)),
        };
        if (200..300).contains(&status) {
            return Ok(body);
        }
        let refused = serde_json::from_slice(&body).unwrap_or_else(|_| {
            let text = String::from_utf8_lossy(&body);
            ErrorDoc::new(format!("the daemon answered {status}: {}", text.trim()))
        });
        if refused.leaving {
            return Err(ClientError::Gone(self.socket.clone()));
        }
        Err(ClientError::Refused(refused))
    }

    fn gone_or(&self, error: io::Error) -> ClientError {
        match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
                ClientError::Gone(self.socket.clone())
            }
            _ => self.io(error),
        }
    }
}

fn bad(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// Reads one response: its status and body. `None` when the connection ended before it began.
fn read_response(stream: &mut impl BufRead) -> io::Result<Option<(u16, Vec<u8>)>> {
    let mut head = Vec::new();
    loop {
        let start = head.len();
        stream.take(HEAD_BYTES_MAX).read_until(b'\n', &mut head)?;
        if head.is_empty() {
            return Ok(None);
        }
        if head.len() as u64 > HEAD_BYTES_MAX || head.len() == start {
            return Err(bad("the response has no proper head"));
        }
        if matches!(&head[start..], b"\r\n" | b"\n") {
            break;
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let mut lines = head.lines();
    let status = lines
        .next()
        .and_then(|line| line.strip_prefix("HTTP/1."))
        .and_then(|line| line.split(' ').nth(1))
        .and_then(|code| code.parse::<u16>().ok())
        .ok_or_else(|| bad("this is no HTTP response"))?;
    let header = |name: &str| {
        let mut pairs = head.lines().skip(1).filter_map(|line| line.split_once(':'));
        let found = pairs.find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.trim().to_owned())
    };
    if header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
        return Ok(Some((status, read_chunks(stream)?)));
    }
    let length = match header("content-length") {
        Some(text) => text.parse::<u64>().map_err(|_| bad("bad content length"))?,
        None => 0,
    };
    if length > BODY_BYTES_MAX {
        return Err(bad("the response is too long"));
    }
    let mut body = vec![0; length as usize];
    stream.read_exact(&mut body)?;
    Ok(Some((status, body)))
}

fn read_chunks(stream: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        stream.take(1024).read_line(&mut line)?;
        let digits = line.trim().split(';').next().unwrap_or("");
        let length = u64::from_str_radix(digits, 16).map_err(|_| bad("bad chunk"))?;
        if length + body.len() as u64 > BODY_BYTES_MAX {
            return Err(bad("the response is too long"));
        }
        let start = body.len();
        body.resize(start + length as usize, 0);
        stream.read_exact(&mut body[start..])?;
        let mut end = String::new();
        stream.take(1024).read_line(&mut end)?;
        if length == 0 {
            return Ok(body);
        }
    }
}

/// A name as part of a request path.
pub fn quote(name: &str) -> String {
    let mut out = String::new();
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> io::Result<Option<(u16, Vec<u8>)>> {
        read_response(&mut text.as_bytes())
    }

    #[test]
    fn responses_with_length_and_in_chunks() {
        let plain = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi";
        assert_eq!(read(plain).expect("reads"), Some((200, b"hi".to_vec())));
        let chunked = "HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n\
                       3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n";
        assert_eq!(
            read(chunked).expect("reads"),
            Some((404, b"abcde".to_vec()))
        );
        let empty = "HTTP/1.1 204 No Content\r\n\r\n";
        assert_eq!(read(empty).expect("reads"), Some((204, Vec::new())));
    }

    #[test]
    fn broken_responses_are_errors_and_silence_is_not() {
        assert_eq!(read("").expect("nobody"), None);
        for broken in [
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhi",
            "HTTP/1.1 200 OK\r\ncontent-length: 5",
            "SSH-2.0\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        ] {
            assert!(read(broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn nobody_listening_is_no_error() {
        let dir = tempfile::tempdir().expect("tempdir");
        let socket = dir.path().join("control.sock");
        assert!(Client::connect(&socket).expect("no error").is_none());
        drop(std::os::unix::net::UnixListener::bind(&socket).expect("binds"));
        assert!(Client::connect(&socket).expect("no error").is_none());
    }

    #[test]
    fn names_are_quoted() {
        assert_eq!(quote("r5"), "r5");
        assert_eq!(quote("a?b/c d"), "a%3Fb%2Fc%20d");
    }
}
