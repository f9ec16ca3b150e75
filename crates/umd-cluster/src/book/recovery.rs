//! The dead, until their slots are empty.

use serde::{Deserialize, Serialize};
use umd_core::cluster::{FenceProof, NodeSlot, ServiceEvent, Unrecovered};

use super::{Book, Tellings, Told};
use crate::wire::{Life, Proof};

/// Whose slot somebody has to take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Dead {
    pub(super) life: Life,
    pub(super) host: Option<String>,
    pub(super) session_ms: u64,
    pub(super) watchdog_ms: Option<u64>,
    pub(super) fenced: Option<Proof>,
    /// By mark.
    pub(super) taker: Option<u64>,
    pub(super) waiting: Vec<u64>,
}

impl Dead {
    fn proof(&self) -> Option<FenceProof> {
        let peer = self.life.into();
        let kind = self.fenced?.into();
        Some(FenceProof { peer, kind })
    }

    pub(super) fn told(&self) -> Unrecovered {
        Unrecovered {
            peer: self.life.into(),
            fenced: self.proof(),
        }
    }

    pub(super) fn forget(&mut self, mark: u64) {
        self.waiting.retain(|other| *other != mark);
        if self.taker == Some(mark) {
            self.taker = None;
        }
    }
}

impl Book {
    fn dead_mut(&mut self, life: Life) -> Option<&mut Dead> {
        let dead = self.dead.get_mut(&life.slot);
        dead.filter(|dead| dead.life == life)
    }

    pub(super) fn record_fence(&mut self, life: Life, proof: Proof, told: &mut Tellings) {
        let Some(dead) = self.dead_mut(life).filter(|dead| dead.fenced.is_none()) else {
            return;
        };
        dead.fenced = Some(proof);
        let proof = dead.proof().expect("just recorded");
        self.all(None, &ServiceEvent::Fenced(proof), told);
    }

    pub(super) fn begin_recovery(&mut self, mark: u64, life: Life, told: &mut Tellings) {
        let Some(dead) = self.dead_mut(life).filter(|dead| dead.fenced.is_some()) else {
            return; // Without a proof nobody takes anything.
        };
        if dead.taker != Some(mark) && !dead.waiting.contains(&mark) {
            dead.waiting.push(mark);
        }
        self.grant_recovery(life.slot, told);
    }

    pub(super) fn grant_recovery(&mut self, slot: u16, told: &mut Tellings) {
        let Some(dead) = self.dead.get_mut(&slot) else {
            return;
        };
        if dead.taker.is_none() && !dead.waiting.is_empty() {
            let mark = dead.waiting.remove(0);
            dead.taker = Some(mark);
            let granted = ServiceEvent::RecoveryGranted(dead.life.into());
            told.push((mark, Told::Event(granted)));
        }
    }

    pub(super) fn end_recovery(
        &mut self,
        (mark, me): (u64, Life),
        life: Life,
        (done, bits): (bool, bool),
        told: &mut Tellings,
    ) {
        let Some(dead) = self.dead_mut(life).filter(|dead| dead.taker == Some(mark)) else {
            return;
        };
        dead.taker = None;
        if !done {
            return self.grant_recovery(life.slot, told);
        }
        self.dead.remove(&life.slot);
        let ended = ServiceEvent::RecoveryEnded {
            peer: life.into(),
            by: NodeSlot(me.slot),
            bits,
        };
        self.all(None, &ended, told);
    }
}
