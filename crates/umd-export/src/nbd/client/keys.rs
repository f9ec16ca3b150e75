//! The client's half of what is asked of the table of an export: see `demand`.
//!
//! ```text
//!   connect, greeting, TLS --> one question --> its answer --> ABORT
//! ```
//!
//! Each question is a connection of its own, which opens no export: nothing of it can be under way
//! when it is gone.

use std::time::{Duration, Instant};

use super::super::address::Address;
use super::super::demand::{self, Demand, NAMESPACE};
use super::super::proto::{Fields, opt, rep};
use super::super::remote::connect;
use super::super::reservation::State;
use super::handshake::{greet, haggle, string};
use super::wire::Stream;
use super::{ClientError, Tls};

/// Why a demand was not met.
#[derive(Debug, thiserror::Error)]
pub enum NotMet {
    /// The server keeps no table for the export.
    #[error("its server offers no reservations (umd's does)")]
    NotOffered,
    /// The key is not registered there, or was preempted. The text is the server's.
    #[error("its server refuses the key: {0}")]
    Refused(String),
    /// Anything else.
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// Whom to ask.
#[derive(Debug, Clone, Copy)]
pub struct Asking<'a> {
    /// Where.
    pub address: &'a Address,
    /// The export.
    pub export: &'a str,
    /// With TLS, where the server speaks it.
    pub tls: Option<&'a Tls>,
    /// How long all of it may take.
    pub patience: Duration,
}

impl Asking<'_> {
    fn stream(&self) -> Result<Stream, ClientError> {
        let deadline = Instant::now() + self.patience;
        let mut stream = Stream::until(connect(self.address, deadline)?, Some(deadline));
        greet(&mut stream, true)?;
        if let Some(tls) = self.tls {
            haggle(&mut stream, opt::STARTTLS, &[], &mut |_, _| Some(()))?;
            stream.start_tls(tls)?;
        }
        Ok(stream)
    }

    /// Asks, and returns the names of all contexts that are told.
    fn ask(&self, option: u32, query: &str) -> Result<Vec<String>, ClientError> {
        let mut stream = self.stream()?;
        if option == opt::SET_META_CONTEXT {
            let structured = opt::STRUCTURED_REPLY;
            haggle(&mut stream, structured, &[], &mut |_, _| Some(()))?;
        }
        let mut data = string(self.export);
        data.extend(1u32.to_be_bytes());
        data.extend(string(query));
        let mut contexts = Vec::new();
        haggle(&mut stream, option, &data, &mut |kind, mut fields| {
            if kind == rep::META_CONTEXT {
                fields.u32()?;
                contexts.push(text(fields));
            }
            Some(())
        })?;
        // It has been answered: whether the goodbye is heard changes nothing.
        let _ = haggle(&mut stream, opt::ABORT, &[], &mut |_, _| Some(()));
        Ok(contexts)
    }

    /// Asks something of the table. When this returns well it is done, and the server remembers it.
    ///
    /// # Errors
    /// When it is not, or nobody knows: it may be asked again.
    pub fn demand(&self, demand: Demand) -> Result<(), NotMet> {
        let query = format!("{NAMESPACE}{demand}");
        match self.ask(opt::SET_META_CONTEXT, &query) {
            Ok(contexts) if contexts.contains(&query) => Ok(()),
            Ok(_) => Err(NotMet::NotOffered),
            Err(error) => Err(judged(error)),
        }
    }

    /// Who may write; keys that were preempted are not told.
    ///
    /// # Errors
    /// When the server does not say.
    pub fn reservations(&self) -> Result<State, NotMet> {
        let contexts = self.ask(opt::LIST_META_CONTEXT, NAMESPACE);
        demand::told(&contexts.map_err(judged)?).ok_or(NotMet::NotOffered)
    }
}

fn text(fields: Fields<'_>) -> String {
    String::from_utf8_lossy(fields.0).into_owned()
}

fn judged(error: ClientError) -> NotMet {
    match error {
        ClientError::Option { error, .. } if error == rep::ERR_UNSUP => NotMet::NotOffered,
        ClientError::Option { error, text, .. } if error == rep::ERR_POLICY => {
            NotMet::Refused(text)
        }
        other => NotMet::Client(other),
    }
}
