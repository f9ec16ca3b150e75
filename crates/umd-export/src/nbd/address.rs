//! Where a door listens: `unix:PATH` or `tcp:HOST:PORT`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// An address, as written on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// `unix:PATH`
    Unix(PathBuf),
    /// `tcp:HOST:PORT`; an IPv6 host stands in brackets.
    Tcp {
        /// Name or number, without brackets.
        host: String,
        /// Port; 0 lets the system choose one when listening.
        port: u16,
    },
}

/// The text is no address. One sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an address: {why}")]
pub struct AddressError {
    text: String,
    why: &'static str,
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Address, AddressError> {
        let error = |why| AddressError {
            text: text.to_owned(),
            why,
        };
        if let Some(path) = text.strip_prefix("unix:") {
            return match path {
                "" => Err(error("the path after unix: is missing")),
                _ if path.contains('\0') => Err(error("a path has no NUL")),
                _ => Ok(Address::Unix(path.into())),
            };
        }
        let Some(rest) = text.strip_prefix("tcp:") else {
            return Err(error("write unix:PATH or tcp:HOST:PORT"));
        };
        let (host, port) = rest
            .rsplit_once(':')
            .ok_or_else(|| error("the port is missing (tcp:HOST:PORT)"))?;
        let port = port
            .parse()
            .map_err(|_| error("the port is a number from 0 to 65535"))?;
        let host = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
            Some(inner) => inner,
            None if host.contains(':') => {
                return Err(error("an IPv6 host stands in brackets (tcp:[::1]:PORT)"));
            }
            None => host,
        };
        if host.is_empty() {
            return Err(error("the host is missing (tcp:HOST:PORT)"));
        }
        Ok(Address::Tcp {
            host: host.to_owned(),
            port,
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
            Address::Tcp { host, port } if host.contains(':') => write!(f, "tcp:[{host}]:{port}"),
            Address::Tcp { host, port } => write!(f, "tcp:{host}:{port}"),
        }
    }
}

impl Address {
    /// The NBD URI of an export at this address, as NBD clients take it.
    pub fn uri(&self, export: &str) -> String {
        self.uri_by("nbd", export)
    }

    /// The same where only TLS is spoken.
    pub fn uri_over_tls(&self, export: &str) -> String {
        self.uri_by("nbds", export)
    }

    fn uri_by(&self, nbd: &str, export: &str) -> String {
        let export = percent_encoded(export.as_bytes(), b"/");
        match self {
            Address::Unix(path) => {
                let path = percent_encoded(path.as_os_str().as_encoded_bytes(), b"/");
                format!("{nbd}+unix:///{export}?socket={path}")
            }
            Address::Tcp { host, port } if host.contains(':') => {
                format!("{nbd}://[{host}]:{port}/{export}")
            }
            Address::Tcp { host, port } => format!("{nbd}://{host}:{port}/{export}"),
        }
    }
}

/// A path as a parameter of a URI.
pub(super) fn escaped(path: &[u8]) -> String {
    percent_encoded(path, b"/")
}

fn percent_encoded(bytes: &[u8], also_plain: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || also_plain.contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_round_trip() {
        for text in [
            "unix:/run/umd/nbd.sock",
            "unix:rel",
            "tcp:localhost:10809",
            "tcp:[::1]:0",
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
        }
        let v6: Address = "tcp:[::1]:1".parse().unwrap();
        assert_eq!(
            v6,
            Address::Tcp {
                host: "::1".into(),
                port: 1
            }
        );
    }

    #[test]
    fn errors_name_what_is_wrong() {
        for (text, why) in [
            ("", "write unix:PATH or tcp:HOST:PORT"),
            ("/run/x", "write unix:PATH"),
            ("unix:", "path after unix: is missing"),
            ("unix:a\0b", "NUL"),
            ("tcp:host", "port is missing"),
            ("tcp::80", "host is missing"),
            ("tcp:[]:80", "host is missing"),
            ("tcp:h:99999", "0 to 65535"),
            ("tcp:h:", "0 to 65535"),
            ("tcp:::1:80", "brackets"),
        ] {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
            assert!(!error.contains('\n'));
        }
    }

    #[test]
    fn uris_are_escaped() {
        let unix = Address::Unix("/tmp/a b.sock".into());
        assert_eq!(
            unix.uri("r 5?"),
            "nbd+unix:///r%205%3F?socket=/tmp/a%20b.sock"
        );
        let tcp: Address = "tcp:[::1]:10809".parse().unwrap();
        assert_eq!(tcp.uri("md0"), "nbd://[::1]:10809/md0");
        assert_eq!(tcp.uri_over_tls("md0"), "nbds://[::1]:10809/md0");
    }
}
