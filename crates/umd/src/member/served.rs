//! The table of an export of another umd, as what fences a node asks it.
//!
//! ```text
//!   register, reserve, unregister, preempt-abort --> a connection each --> done, and remembered
//! ```

use std::io;
use std::time::Duration;

use umd_cluster::fence::{Conflict, Persistent};
use umd_export::nbd::client::{Asking, NotMet, Tls};
use umd_export::nbd::{Demand, ReservationState, Uri};

use super::{in_words, tls};

/// How long a server may take: it waits for writes that are under way for eight seconds.
const PATIENCE: Duration = Duration::from_secs(12);

/// An export, to be asked who may write.
#[derive(Debug)]
pub struct Served {
    name: String,
    uri: Uri,
    tls: Option<Tls>,
}

impl Served {
    /// The one behind a URI. Nothing is connected.
    ///
    /// # Errors
    /// When the URI makes no sense, or its keys cannot be read.
    pub fn open(text: &str) -> Result<Served, String> {
        let uri: Uri = text.parse().map_err(|error| format!("{text}: {error}"))?;
        if uri.export.contains("@key=") {
            return Err(format!("{text} names a key: give the export alone"));
        }
        let tls = tls(&uri).map_err(|why| format!("{text}: {why}"))?;
        let name = text.to_owned();
        Ok(Served { name, uri, tls })
    }

    fn asking(&self) -> Asking<'_> {
        Asking {
            address: &self.uri.address,
            export: &self.uri.export,
            tls: self.tls.as_ref(),
            patience: PATIENCE,
        }
    }

    /// Asks something of the table.
    ///
    /// # Errors
    /// [`Conflict`].
    pub fn demand(&self, demand: Demand) -> Result<(), Conflict> {
        self.asking().demand(demand).map_err(conflict)
    }

    /// Who may write; keys that were preempted are not told.
    ///
    /// # Errors
    /// When the server does not say.
    pub fn state(&self) -> Result<ReservationState, String> {
        let state = self.asking().reservations().map_err(conflict);
        state.map_err(|why| format!("{} {why}", self.name))
    }
}

fn conflict(why: NotMet) -> Conflict {
    match why {
        NotMet::NotOffered => Conflict::Io(io::Error::other(
            "its server offers no reservations for it (umd does, unless a cluster runs it there)",
        )),
        NotMet::Refused(_) => Conflict::Refused,
        NotMet::Client(error) => Conflict::Io(io::Error::other(in_words(error))),
    }
}

impl Persistent for Served {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn register(&self, key: u64) -> Result<(), Conflict> {
        self.demand(Demand::Register(key))
    }

    fn reserve(&self, key: u64) -> Result<(), Conflict> {
        self.demand(Demand::Reserve(key))
    }

    fn unregister(&self, key: u64) -> Result<(), Conflict> {
        self.demand(Demand::Unregister(key))
    }

    fn preempt_abort(&self, key: u64, victim: u64) -> Result<(), Conflict> {
        self.demand(Demand::PreemptAbort { key, victim })
    }
}
