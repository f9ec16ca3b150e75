//! Fencing: a proof that a dead node writes no more, or the reason why there is none.
//!
//! ```text
//!   Effect::Fence(peer) --> Fencers: the first that gives a proof
//!                             Reservations  every member device refuses its key
//!                             Command       a fence agent ended well
//!                             Watchdog      its host has reset itself by now
//!                             Confirmation  an administrator said so
//!                           --> Event::Fenced(proof), or Event::NotFenced and a message
//! ```
//!
//! That a session has run out is no proof: a process that was stopped, a machine that was paused, a
//! request in a queue can still write. So nothing here takes time for a proof, except where a
//! watchdog has ended the host in that time. What ends without a proof is asked again later.

mod command;
mod confirm;
mod ioctl;
mod nvme;
mod reservation;
mod watchdog;

use umd_core::cluster::{FenceProof, Peer};
use umd_core::value::Instant;

use crate::About;

pub use command::Command;
pub use confirm::Confirmation;
pub use nvme::{Namespace, is_nvme};
pub use reservation::{BlockDevice, Conflict, Persistent, Reservations, key};
pub use watchdog::{Device, Fed, Feeder, HardwareWatchdog, Watchdog};

/// Who is to be fenced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Which life.
    pub peer: Peer,
    /// What is known of it (see [`crate::Engine::about`]).
    pub about: Option<About>,
    /// When this node heard that it is down, on the engine's clock.
    pub down_since: Instant,
}

impl Target {
    /// Its host, if anybody remembers it.
    pub fn host(&self) -> Option<&str> {
        self.about.as_ref()?.host.as_deref()
    }
}

/// There is no proof. The text says why, and where something can be done what that is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotFenced(pub String);

/// Whether a proof is still waited for; may be asked as often as one likes.
pub type Wanted<'a> = dyn Fn() -> bool + 'a;

/// A way to be certain.
pub trait Fencer: Send + Sync {
    /// Sees to it that a node writes no more. May take long, but not for ever; may be called for
    /// the same life again, and by several nodes at once. Once `wanted` says no nobody waits for
    /// the proof any more: what has not ended by then is ended soon.
    ///
    /// # Errors
    /// [`NotFenced`]: nothing is known of what the node still does.
    fn fence(&self, target: &Target, wanted: &Wanted<'_>) -> Result<FenceProof, NotFenced>;

    /// Whether it can be a way for this node at all; if not, there is no need to say why not.
    fn concerns(&self, _target: &Target) -> bool {
        true
    }
}

/// Several ways, in the order in which they are tried.
#[derive(Default)]
pub struct Fencers {
    ways: Vec<Box<dyn Fencer>>,
}

impl Fencers {
    /// These.
    pub fn new(ways: Vec<Box<dyn Fencer>>) -> Fencers {
        Fencers { ways }
    }
}

impl Fencer for Fencers {
    fn fence(&self, target: &Target, wanted: &Wanted<'_>) -> Result<FenceProof, NotFenced> {
        let mut reasons = Vec::new();
        for way in self.ways.iter().filter(|way| way.concerns(target)) {
            if !wanted() {
                reasons.push("its end is not waited for any more".into());
                break;
            }
            match way.fence(target, wanted) {
                Ok(proof) => {
                    assert_eq!(proof.peer, target.peer, "a proof of somebody else's end");
                    return Ok(proof);
                }
                Err(NotFenced(why)) => reasons.push(why),
            }
        }
        let who = match target.host() {
            Some(host) => format!("{} (host {host})", target.peer.slot),
            None => target.peer.slot.to_string(),
        };
        let why = match reasons.is_empty() {
            true => "no way to fence is configured; confirm by hand that it is dead".into(),
            false => reasons.join("; "),
        };
        Err(NotFenced(format!("{who} is not fenced: {why}")))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use umd_core::cluster::{Incarnation, NodeSlot, ProofKind};

    use super::*;

    /// A dead node.
    pub(crate) fn target(host: Option<&str>) -> Target {
        Target {
            peer: Peer {
                slot: NodeSlot(1),
                incarnation: Incarnation(0x77_0000),
            },
            about: Some(About {
                host: host.map(Into::into),
                session: Duration::from_secs(10),
                watchdog: None,
            }),
            down_since: Instant(0),
        }
    }

    struct Way(Option<ProofKind>);

    impl Fencer for Way {
        fn fence(&self, target: &Target, _: &Wanted<'_>) -> Result<FenceProof, NotFenced> {
            let peer = target.peer;
            let proof = self.0.map(|kind| FenceProof { peer, kind });
            proof.ok_or_else(|| NotFenced("the switch is off".into()))
        }
    }

    #[test]
    fn the_first_proof_counts_and_without_one_every_reason_is_told() {
        let (no, yes) = (
            || Box::new(Way(None)),
            Box::new(Way(Some(ProofKind::Command))),
        );
        let target = target(Some("beta"));
        let fencers = Fencers::new(vec![no(), yes, Box::new(Way(Some(ProofKind::Storage)))]);
        assert_eq!(
            fencers.fence(&target, &|| true).unwrap().kind,
            ProofKind::Command
        );
        let why = Fencers::new(vec![no(), no()]);
        let why = why.fence(&target, &|| true).unwrap_err();
        let both = "the switch is off; the switch is off";
        assert_eq!(why.0, format!("node 1 (host beta) is not fenced: {both}"));
        let why = Fencers::default().fence(&target, &|| true).unwrap_err();
        assert!(why.0.ends_with("confirm by hand that it is dead"), "{why}");
    }

    #[test]
    fn who_is_not_waited_for_is_not_fenced() {
        let yes = Box::new(Way(Some(ProofKind::Command)));
        let why = Fencers::new(vec![yes]).fence(&target(None), &|| false);
        let why = why.unwrap_err();
        assert!(why.0.ends_with("is not waited for any more"), "{why}");
    }
}
