//! NBD URIs, as clients take them: `nbd://HOST[:PORT]/EXPORT`, `nbd+unix:///EXPORT?socket=PATH`,
//! and `nbds://`, `nbds+unix://` with TLS, whose keys are in `tls-certificates=DIR`.
//!
//! Source: the NBD URI document (`doc/uri.md` of the NBD project); the name of the directory's
//! parameter is libnbd's.

use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::address::Address;
use super::proto::STRING_BYTES_MAX;

/// The port of NBD.
const PORT: u16 = 10809;

/// An export somewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uri {
    /// Where.
    pub address: Address,
    /// Its name; may be empty.
    pub export: String,
    /// TLS is spoken, with the keys in this directory.
    pub tls_dir: Option<PathBuf>,
}

/// The text is no NBD URI. One sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text} is no NBD URI: {why}")]
pub struct UriError {
    text: String,
    why: &'static str,
}

impl Uri {
    /// Whether a text is meant for one, right or wrong.
    pub fn is_meant(text: &str) -> bool {
        let schemes = ["nbd:", "nbds:", "nbd+unix:", "nbds+unix:"];
        schemes.iter().any(|scheme| text.starts_with(scheme))
    }
}

impl FromStr for Uri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Uri, UriError> {
        parse(text).map_err(|why| UriError {
            text: text.to_owned(),
            why,
        })
    }
}

fn parse(text: &str) -> Result<Uri, &'static str> {
    let (scheme, rest) = text
        .split_once("://")
        .ok_or("write nbd://HOST[:PORT]/EXPORT or nbd+unix:///EXPORT?socket=PATH")?;
    let (tls, unix) = match scheme {
        "nbd" => (false, false),
        "nbds" => (true, false),
        "nbd+unix" => (false, true),
        "nbds+unix" => (true, true),
        _ => return Err("it begins with nbd://, nbds://, nbd+unix:// or nbds+unix://"),
    };
    if rest.contains('#') {
        return Err("it has no fragment (write # as %23)");
    }
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, export) = rest.split_once('/').unwrap_or((rest, ""));
    let (mut socket, mut tls_dir) = (None, None);
    for (key, value) in query.split('&').filter_map(|one| one.split_once('=')) {
        let value = decoded(value)?;
        let path = Path::new(std::ffi::OsStr::from_bytes(&value)).to_owned();
        let place = match key {
            "socket" => &mut socket,
            "tls-certificates" => &mut tls_dir,
            _ => return Err("its parameters are socket=PATH and tls-certificates=DIR"),
        };
        if !path.is_absolute() {
            return Err("its parameters are absolute paths");
        }
        if place.replace(path).is_some() {
            return Err("a parameter is there twice");
        }
    }
    let export = String::from_utf8(decoded(export)?).map_err(|_| "the export is no UTF-8")?;
    if export.len() > STRING_BYTES_MAX || export.contains('\0') {
        return Err("no export has such a name");
    }
    let address = match (unix, socket) {
        (true, Some(path)) if authority.is_empty() => Address::Unix(path),
        (true, Some(_)) => return Err("there is no host with a Unix socket (three slashes)"),
        (true, None) => return Err("the socket is missing (?socket=PATH)"),
        (false, Some(_)) => return Err("a socket goes with nbd+unix://"),
        (false, None) => tcp(authority)?,
    };
    match (tls, &tls_dir) {
        (true, None) => return Err("TLS wants its keys (tls-certificates=DIR)"),
        (false, Some(_)) => return Err("keys are for nbds://"),
        _ => {}
    }
    Ok(Uri {
        address,
        export,
        tls_dir,
    })
}

fn tcp(authority: &str) -> Result<Address, &'static str> {
    if authority.contains('@') {
        return Err("it has no user");
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or("a bracket is missing")?;
            (
                host,
                rest.strip_prefix(':').or(rest.is_empty().then_some("")),
            )
        }
        None => match authority.split_once(':') {
            Some((_, port)) if port.contains(':') => {
                return Err("an IPv6 host stands in brackets (nbd://[::1]:PORT/EXPORT)");
            }
            Some((host, port)) => (host, Some(port)),
            None => (authority, Some("")),
        },
    };
    let port = match port {
        Some("") => PORT,
        Some(port) => port.parse().map_err(|_| "the port is a number to 65535")?,
        None => return Err("the port stands behind a colon"),
    };
    if host.is_empty() {
        return Err("the host is missing");
    }
    let host = String::from_utf8(decoded(host)?).map_err(|_| "the host is no UTF-8")?;
    Ok(Address::Tcp { host, port })
}

fn decoded(text: &str) -> Result<Vec<u8>, &'static str> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes().iter();
    while let Some(&byte) = rest.next() {
        let digit = |one: Option<&u8>| one.and_then(|one| char::from(*one).to_digit(16));
        bytes.push(match byte {
            b'%' => {
                let pair = digit(rest.next()).zip(digit(rest.next()));
                let (high, low) = pair.ok_or("% is followed by two hexadecimal digits")?;
                u8::try_from(high * 16 + low).expect("two digits")
            }
            byte => byte,
        });
    }
    Ok(bytes)
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(dir) = &self.tls_dir else {
            return f.write_str(&self.address.uri(&self.export));
        };
        let uri = self.address.uri_over_tls(&self.export);
        let more = if uri.contains('?') { '&' } else { '?' };
        let dir = super::address::escaped(dir.as_os_str().as_bytes());
        write!(f, "{uri}{more}tls-certificates={dir}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_round_trip() {
        for text in [
            "nbd://nas:10809/r5",
            "nbd://[::1]:1/a/b",
            "nbd://nas:10809/r5%40key%3D2a",
            "nbd+unix:///r%205?socket=/run/a%20b",
            "nbds://nas:10809/r5?tls-certificates=/etc/umd/client",
            "nbds+unix:///r5?socket=/run/s&tls-certificates=/k",
        ] {
            let uri: Uri = text.parse().unwrap();
            assert_eq!(uri.to_string(), text);
        }
        let short: Uri = "nbd://nas".parse().unwrap();
        assert_eq!(short.to_string(), "nbd://nas:10809/");
        let key: Uri = "nbd://nas/r5@key=2A".parse().unwrap();
        assert_eq!(key.export, "r5@key=2A");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, why) in [
            ("nbd:nas", "write nbd://"),
            ("nbdx://nas/a", "begins with nbd://"),
            ("nbd:///a", "host is missing"),
            ("nbd://nas:99999/a", "port is a number"),
            ("nbd://::1/a", "brackets"),
            ("nbd://[::1/a", "bracket"),
            ("nbd://[::1]7/a", "behind a colon"),
            ("nbd://me@nas/a", "no user"),
            ("nbd://nas/%zz", "hexadecimal"),
            ("nbd://nas/%ff", "UTF-8"),
            ("nbd://nas/%00", "no export"),
            ("nbd://nas/a#b", "fragment"),
            ("nbd://nas/a?socket=/s", "nbd+unix"),
            ("nbd+unix:///a", "socket is missing"),
            ("nbd+unix:///a?socket=s", "absolute"),
            ("nbd+unix://nas/a?socket=/s", "no host"),
            ("nbd+unix:///a?socket=/s&socket=/t", "twice"),
            ("nbd://nas/a?tls-hostname=b", "parameters are"),
            ("nbds://nas/a", "TLS wants its keys"),
            ("nbd://nas/a?tls-certificates=/k", "keys are for nbds://"),
        ] {
            assert!(Uri::is_meant(text) || text.starts_with("nbdx"));
            let error = text.parse::<Uri>().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
        assert!(!Uri::is_meant("/dev/nbd0") && !Uri::is_meant("nbd0"));
    }
}
