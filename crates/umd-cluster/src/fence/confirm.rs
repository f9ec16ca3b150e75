//! Fencing by an administrator, who looked and says that a node is dead.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use umd_core::cluster::{FenceProof, Peer, ProofKind};

use super::{Fencer, NotFenced, Target, Wanted};

/// Who waits to be confirmed, and who was.
#[derive(Debug, Default)]
pub struct Confirmation {
    /// By life: whether an administrator said that it is dead.
    asked: Mutex<BTreeMap<Peer, bool>>,
}

impl Confirmation {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Peer, bool>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who waits.
    pub fn waiting(&self) -> Vec<Peer> {
        let asked = self.lock();
        let waiting = asked.iter().filter(|(_, dead)| !**dead);
        waiting.map(|(peer, _)| *peer).collect()
    }

    /// An administrator says that this life of a node is dead, and writes no more.
    ///
    /// # Errors
    /// When nobody waits for that: what is said of one life says nothing of a later one.
    pub fn confirm(&self, peer: Peer) -> Result<FenceProof, NotFenced> {
        match self.lock().get_mut(&peer) {
            Some(dead) => {
                *dead = true;
                let kind = ProofKind::Confirmed;
                Ok(FenceProof { peer, kind })
            }
            None => Err(NotFenced(format!(
                "{} waits for no confirmation in this life ({})",
                peer.slot, peer.incarnation.0
            ))),
        }
    }

    /// Its slot was taken: there is nothing to confirm any more.
    pub fn forget(&self, peer: Peer) {
        self.lock().remove(&peer);
    }
}

impl Fencer for Confirmation {
    fn fence(&self, target: &Target, _: &Wanted<'_>) -> Result<FenceProof, NotFenced> {
        let peer = target.peer;
        match *self.lock().entry(peer).or_insert(false) {
            true => Ok(FenceProof {
                peer,
                kind: ProofKind::Confirmed,
            }),
            false => Err(NotFenced(
                "nobody has confirmed that it is dead; see that it is, then confirm it".into(),
            )),
        }
    }
}

impl Fencer for std::sync::Arc<Confirmation> {
    fn fence(&self, target: &Target, wanted: &Wanted<'_>) -> Result<FenceProof, NotFenced> {
        Confirmation::fence(self, target, wanted)
    }
}

#[cfg(test)]
mod tests {
    use umd_core::cluster::Incarnation;

    use super::super::tests::target;
    use super::*;

    #[test]
    fn only_the_life_that_waits_can_be_confirmed() {
        let desk = Confirmation::default();
        let target = target(None);
        let peer = target.peer;
        assert!(desk.confirm(peer).is_err(), "nobody asked");
        assert!(desk.fence(&target, &|| true).is_err());
        assert_eq!(desk.waiting(), [peer]);
        let later = Peer {
            incarnation: Incarnation(peer.incarnation.0 + 1),
            ..peer
        };
        assert!(desk.confirm(later).is_err());
        assert!(
            desk.fence(&target, &|| true).is_err(),
            "another life was confirmed"
        );
        assert_eq!(desk.confirm(peer).unwrap().kind, ProofKind::Confirmed);
        assert_eq!(desk.fence(&target, &|| true).unwrap().peer, peer);
        assert!(desk.waiting().is_empty());
        desk.forget(peer);
        assert!(desk.confirm(peer).is_err());
    }
}
