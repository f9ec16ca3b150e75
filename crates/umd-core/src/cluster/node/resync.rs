//! The one resync of the cluster, when it is this node's.
//!
//! ```text
//!   Idle -- Want --> Asking -- Granted --> RESYNCING_START --> Held -- Window --> told --> Open
//!    ^                 | Over                                   | Over
//!    '--- Cancelled ---'            Ending: RESYNCING(none) <---'
//! ```
//!
//! A window is announced before it is used, and while the one before it still is; so a resync needs
//! never wait for the others if it is early enough. Its start is where the resync has got to.

use super::super::message::Window;
use super::super::service::{Fencing, Right, ServiceCommand};
use super::super::wait::{Wait, WaitFor};
use super::super::work::{Effect, Failure, ResyncCall, ResyncWord};
use super::script::Errand;
use super::{Node, Out};
use crate::value::Instant;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Resync {
    Idle,
    Asking {
        since: Instant,
    },
    Cancelling {
        since: Instant,
    },
    Held {
        grant: Fencing,
        shown: Option<Window>,
    },
    Ending {
        grant: Fencing,
        shown: Option<Window>,
        finished: bool,
    },
}

impl Resync {
    pub(super) fn shown(self) -> Option<Window> {
        match self {
            Resync::Held { shown, .. } | Resync::Ending { shown, .. } => shown,
            _ => None,
        }
    }

    pub(super) fn wait(self) -> Option<Wait> {
        let (what, since) = match self {
            Resync::Asking { since } => (WaitFor::Right(Right::Resync), since),
            Resync::Cancelling { since } => (WaitFor::Cancel(Right::Resync), since),
            _ => return None,
        };
        Some(Wait { what, since })
    }

    pub(super) fn is_finished(self) -> bool {
        matches!(self, Resync::Ending { finished: true, .. })
    }

    /// More is left to do than it knew.
    pub(super) fn does_not_count(&mut self) {
        if let Resync::Ending { finished, .. } = self {
            *finished = false;
        }
    }

    /// What is going to be told is shown to who joins from now on.
    pub(super) fn begin_errand(&mut self, errand: Errand) {
        if let Resync::Held { shown, .. } | Resync::Ending { shown, .. } = self {
            *shown = match errand {
                Errand::Window(window) => Some(window),
                _ => None,
            };
        }
    }
}

impl Node {
    pub(super) fn call(&mut self, now: Instant, call: ResyncCall, out: &mut Out) {
        if !self.is_active() {
            // What ends the array's resync now is the drain of the stop.
            return;
        }
        match (call, self.resync) {
            (ResyncCall::Want, Resync::Idle) => {
                self.resync = Resync::Asking { since: now };
                let acquire = ServiceCommand::Acquire(Right::Resync);
                out.push(Effect::Service(acquire));
            }
            (ResyncCall::Window(window), Resync::Held { .. }) => {
                self.sender.forget_resync();
                self.sender.push(Errand::Window(window));
            }
            (ResyncCall::Over { .. }, Resync::Asking { .. }) => {
                self.resync = Resync::Cancelling { since: now };
                let cancel = ServiceCommand::Cancel(Right::Resync);
                out.push(Effect::Service(cancel));
            }
            (ResyncCall::Over { finished }, Resync::Held { grant, shown }) => {
                self.sender.forget_resync();
                self.sender.push(Errand::End);
                self.resync = Resync::Ending {
                    grant,
                    shown,
                    finished,
                };
            }
            (call, at) => panic!("{call:?} while {at:?}"),
        }
    }

    pub(super) fn resync_granted(&mut self, grant: Fencing, out: &mut Out) {
        match self.resync {
            Resync::Asking { .. } if self.is_active() => {
                self.resync = Resync::Held { grant, shown: None };
                self.sender.push(Errand::Start);
            }
            Resync::Held { .. } | Resync::Ending { .. } => panic!("the resync was granted twice"),
            Resync::Asking { .. } | Resync::Cancelling { .. } | Resync::Idle => {
                let release = ServiceCommand::Release(Right::Resync, grant);
                out.push(Effect::Service(release));
                self.resync = Resync::Idle;
                out.push(Effect::Resync(ResyncWord::Ended));
            }
        }
    }

    pub(super) fn resync_cancelled(&mut self, out: &mut Out) {
        let cancelling = matches!(self.resync, Resync::Cancelling { .. });
        assert!(cancelling, "nothing was cancelled");
        self.resync = Resync::Idle;
        out.push(Effect::Resync(ResyncWord::Ended));
    }

    pub(super) fn errand_over(
        &mut self,
        errand: Errand,
        result: Result<(), Failure>,
        out: &mut Out,
    ) {
        if !self.keep(super::Rule::ValueFirst) {
            self.show(out);
        }
        match (errand, self.resync) {
            (Errand::Start, Resync::Held { .. }) => {
                out.push(Effect::Resync(ResyncWord::May));
            }
            (Errand::Window(window), Resync::Held { .. }) => {
                let word = match result {
                    Ok(()) => ResyncWord::Open(window),
                    Err(failure) => ResyncWord::Refused(failure),
                };
                out.push(Effect::Resync(word));
            }
            (Errand::End, Resync::Ending { grant, .. }) => {
                self.resync = Resync::Idle;
                let release = ServiceCommand::Release(Right::Resync, grant);
                out.push(Effect::Service(release));
                out.push(Effect::Resync(ResyncWord::Ended));
            }
            // It was over before this was told.
            (Errand::Start | Errand::Window(_), Resync::Ending { .. }) => {}
            (errand, at) => panic!("{errand:?} over while {at:?}"),
        }
    }
}
