//! TLS for doors that other machines can reach: keys and certificates in one directory, under the
//! names that nbdkit and qemu use.
//!
//! ```text
//!   DIR/ server-cert.pem    who we are, and who says so
//!        server-key.pem     its key
//!        ca-cert.pem        who says who may open arrays (NBD)
//!        control-ca-cert.pem   who says who may control us (HTTP); without it, nobody by one
//! ```
//!
//! Two lists, because two rights: who has an array open can change that array, who controls the
//! daemon can write over any device of the machine. A link makes one list of them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, ClientConfig, Error, RootCertStore, ServerConfig};
use serde::{Deserialize, Serialize};

use crate::cli::outcome::Failure;

/// Who may open arrays.
const CLIENTS: &str = "ca-cert.pem";
/// Who may control.
const MASTERS: &str = "control-ca-cert.pem";
const OWN: &str = "server-cert.pem";
const KEY: &str = "server-key.pem";
/// What a server is shown by us, where we are its client.
const CLIENT: &str = "client-cert.pem";
const CLIENT_KEY: &str = "client-key.pem";
/// What is wanted of a directory that lacks something.
const OF_SERVER: &str =
    "--tls wants server-cert.pem, server-key.pem and ca-cert.pem in its directory";
const OF_CLIENT: &str = "--cluster-tls and tls-certificates want ca-cert.pem in their \
    directory, and client-cert.pem with client-key.pem where the servers ask for one";
/// Lists of authorities have some hundred KiB.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// How TLS is to be spoken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsOptions {
    /// Where keys and certificates are.
    pub dir: PathBuf,
    /// NBD clients need no certificate.
    pub any_client: bool,
}

impl TlsOptions {
    /// For doors of NBD clients.
    ///
    /// # Errors
    /// When a file is missing, holds something else, has expired, or does not fit the others.
    pub fn nbd(&self) -> Result<Arc<ServerConfig>, Failure> {
        let clients = match self.any_client {
            true => None,
            false => Some(roots(&self.dir.join(CLIENTS))?),
        };
        Ok(Arc::new(self.config(clients, false)?))
    }

    /// For the control API, and whether a certificate lets anybody in at all. Who shows none is not
    /// turned away here: there may be a token.
    ///
    /// # Errors
    /// As above.
    pub fn control(&self) -> Result<(Arc<ServerConfig>, bool), Failure> {
        let path = self.dir.join(MASTERS);
        let masters = match path.exists() {
            true => Some(roots(&path)?),
            false => None,
        };
        let by_certificate = masters.is_some();
        let mut config = self.config(masters, true)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok((Arc::new(config), by_certificate))
    }

    fn config(
        &self,
        clients: Option<RootCertStore>,
        or_none: bool,
    ) -> Result<ServerConfig, Failure> {
        let (own_path, key_path) = (self.dir.join(OWN), self.dir.join(KEY));
        let own = certificates(&own_path, OF_SERVER)?;
        let key = private_key(&key_path, OF_SERVER)?;
        still_good(&own_path, &own)?;
        let provider = Arc::new(ring::default_provider());
        let wrong = |error: Error| Failure::failed(format!("{}: {error}", own_path.display()));
        let config = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(wrong)?;
        let config = match clients {
            None => config.with_no_client_auth(),
            Some(roots) => config.with_client_cert_verifier(verifier(roots, provider, or_none)?),
        };
        let mut config = config
            .with_single_cert(own, key)
            .map_err(|error| match error {
                Error::InconsistentKeys(_) => another_key(&key_path, &own_path),
                other => wrong(other),
            })?;
        // Connections are few and long: nobody resumes one.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }
}

/// What a client of servers has: PEM, looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientFiles {
    /// Who vouches for the servers.
    pub authority: Vec<u8>,
    /// Our certificate and its key, if we have one.
    pub own: Option<(Vec<u8>, Vec<u8>)>,
}

impl ClientFiles {
    /// Reads them.
    ///
    /// # Errors
    /// When a file is missing, holds something else, has expired, or does not fit the other.
    pub fn read(dir: &Path) -> Result<ClientFiles, Failure> {
        let authority = dir.join(CLIENTS);
        let _ = certificates(&authority, OF_CLIENT)?;
        let (own, key) = (dir.join(CLIENT), dir.join(CLIENT_KEY));
        let has_own = own.exists() || key.exists();
        if has_own {
            let certificates = certificates(&own, OF_CLIENT)?;
            still_good(&own, &certificates)?;
            let secret = private_key(&key, OF_CLIENT)?;
            let pair = CertifiedKey::from_der(certificates, secret, &ring::default_provider());
            pair.map_err(|error| match error {
                Error::InconsistentKeys(_) => another_key(&key, &own),
                other => Failure::failed(format!("{}: {other}", own.display())),
            })?;
        }
        let read =
            |path: &Path| content(path).map_err(|error| unreadable(path, "text", error, OF_CLIENT));
        Ok(ClientFiles {
            authority: read(&authority)?,
            own: match has_own {
                true => Some((read(&own)?, read(&key)?)),
                false => None,
            },
        })
    }
}

impl ClientFiles {
    /// For connections to servers that these vouch for.
    ///
    /// # Errors
    /// When they are of no use.
    pub fn config(&self) -> Result<Arc<ClientConfig>, Failure> {
        let useless = |why: String| Failure::failed(format!("keys and certificates: {why}"));
        let wrong = |error: Error| useless(error.to_string());
        let pem = |error: PemError| useless(error.to_string());
        let mut roots = RootCertStore::empty();
        for one in CertificateDer::pem_slice_iter(&self.authority) {
            roots.add(one.map_err(pem)?).map_err(wrong)?;
        }
        let provider = Arc::new(ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(wrong)?
            .with_root_certificates(roots);
        let config = match &self.own {
            None => config.with_no_client_auth(),
            Some((own, key)) => {
                let own = CertificateDer::pem_slice_iter(own).collect::<Result<Vec<_>, _>>();
                let key = PrivateKeyDer::from_pem_slice(key).map_err(pem)?;
                let config = config.with_client_auth_cert(own.map_err(pem)?, key);
                config.map_err(wrong)?
            }
        };
        Ok(Arc::new(config))
    }
}

fn verifier(
    roots: RootCertStore,
    provider: Arc<CryptoProvider>,
    or_none: bool,
) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, Failure> {
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let builder = match or_none {
        true => builder.allow_unauthenticated(),
        false => builder,
    };
    builder
        .build()
        .map_err(|error| Failure::failed(format!("certificates of clients: {error}")))
}

/// A file that can be one of ours. A pipe that nobody writes to, or a device without an end, would
/// keep us from ever starting.
fn content(path: &Path) -> Result<Vec<u8>, PemError> {
    let file = std::fs::metadata(path).map_err(PemError::Io)?;
    let wrong = |why| PemError::Io(io::Error::new(io::ErrorKind::InvalidInput, why));
    if file.is_dir() {
        return Err(PemError::Io(rustix::io::Errno::ISDIR.into()));
    }
    if !file.is_file() {
        return Err(wrong("it is no regular file"));
    }
    if file.len() > FILE_BYTES_MAX {
        return Err(wrong("it is larger than 1 MiB"));
    }
    std::fs::read(path).map_err(PemError::Io)
}

fn private_key(path: &Path, wanted: &str) -> Result<PrivateKeyDer<'static>, Failure> {
    content(path)
        .and_then(|pem| PrivateKeyDer::from_pem_slice(&pem))
        .map_err(|error| unreadable(path, "private key", error, wanted))
}

fn another_key(key: &Path, certificate: &Path) -> Failure {
    let (key, certificate) = (key.display(), certificate.display());
    Failure::failed(format!("{key} is not the key of {certificate}"))
}

fn certificates(path: &Path, wanted: &str) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let all = content(path).and_then(|pem| {
        let all = CertificateDer::pem_slice_iter(&pem);
        all.collect::<Result<Vec<_>, _>>()
    });
    match all {
        Ok(all) if all.is_empty() => {
            let none = PemError::NoItemsFound;
            Err(unreadable(path, "certificate", none, wanted))
        }
        Ok(all) => Ok(all),
        Err(error) => Err(unreadable(path, "certificate", error, wanted)),
    }
}

/// Whose word is taken.
fn roots(path: &Path) -> Result<RootCertStore, Failure> {
    let mut roots = RootCertStore::empty();
    for one in certificates(path, OF_SERVER)? {
        roots.add(one).map_err(|error| {
            Failure::failed(format!(
                "{} holds a certificate that is of no use: {error}",
                path.display()
            ))
        })?;
    }
    Ok(roots)
}

fn unreadable(path: &Path, what: &str, error: PemError, wanted: &str) -> Failure {
    let why = match error {
        PemError::Io(error) => format!("cannot be read: {}", super::open::os_text(&error)),
        PemError::NoItemsFound => format!("holds no {what} (PEM)"),
        other => format!("holds no {what} (PEM): {other}"),
    };
    Failure::failed(format!("{} {why}; {wanted}", path.display()))
}

/// A certificate whose time is over would only be noticed by clients. Who has signed it is their
/// affair: it may be somebody else than who signs theirs.
fn still_good(path: &Path, own: &[CertificateDer<'_>]) -> Result<(), Failure> {
    let no_use = |why: String| Failure::failed(format!("{} {why}", path.display()));
    let first = own.first().expect("there is one");
    let parsed = ParsedCertificate::try_from(first)
        .map_err(|error| no_use(format!("holds a certificate that is of no use: {error}")))?;
    let known = ring::default_provider().signature_verification_algorithms;
    let nobody = RootCertStore::empty();
    let verdict = verify_server_cert_signed_by_trust_anchor(
        &parsed,
        &nobody,
        &own[1..],
        UnixTime::now(),
        known.all,
    );
    match verdict {
        Err(Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        )) => Err(no_use("has expired: make a new one".into())),
        Err(Error::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        )) => Err(no_use("is not valid yet: is the clock right?".into())),
        _ => Ok(()),
    }
}
