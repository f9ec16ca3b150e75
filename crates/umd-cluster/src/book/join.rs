//! Who is let in, and where.

use umd_core::cluster::{JoinRefusal, MembershipEpoch, NodeSlot, ServiceEvent, Session};
use umd_core::value::Instant;

use super::recovery::Dead;
use super::{Book, Member, Tellings, Told};
use crate::wire::{Join, Life};

/// The `nth` life that begins at a place: no other has its number.
fn life(place: u64, slot: u16, nth: u16) -> Life {
    Life {
        slot,
        incarnation: (place << 16) | u64::from(nth),
    }
}

impl Book {
    pub(super) fn join(
        &mut self,
        place: u64,
        mark: u64,
        number: u64,
        join: &Join,
        told: &mut Tellings,
    ) {
        if self.members.contains_key(&mark) {
            return;
        }
        let slot = match self.admit(join) {
            Ok(slot) => slot,
            Err(why) => {
                let refused = ServiceEvent::JoinRefused(why);
                return told.push((mark, Told::Event(refused)));
            }
        };
        if self.members.is_empty() {
            self.version = join.version;
        }
        self.cluster.clone_from(&join.cluster);
        if self.epoch == 0 && join.unknown_past {
            self.count_as_unrecovered(place, slot, join);
        }
        let session = self.session(place, slot);
        let member = Member {
            life: session.me.into(),
            host: join.host.clone(),
            session_ms: join.session_ms,
            watchdog_ms: join.watchdog_ms,
            expelled: false,
            value: None,
            number,
        };
        self.members.insert(mark, member);
        told.push((mark, Told::Event(ServiceEvent::Joined(session))));
        self.done(told);
    }

    /// The slot of who may join.
    fn admit(&self, join: &Join) -> Result<u16, JoinRefusal> {
        let known = !self.members.is_empty() || !self.dead.is_empty();
        if known && join.cluster != self.cluster {
            return Err(JoinRefusal::WrongCluster);
        }
        if !self.members.is_empty() && join.version < self.version {
            return Err(JoinRefusal::Version {
                theirs: self.version,
                ours: join.version,
            });
        }
        let used = |slot: &u16| {
            let mut members = self.members.values();
            members.any(|member| member.life.slot == *slot) || self.dead.contains_key(slot)
        };
        let capacity = join.capacity;
        let free = (0..capacity).find(|slot| !used(slot));
        free.ok_or(JoinRefusal::Full { capacity })
    }

    /// Nobody remembers who had the other slots: somebody has to look at each.
    fn count_as_unrecovered(&mut self, place: u64, mine: u16, join: &Join) {
        for slot in (0..join.capacity).filter(|slot| *slot != mine) {
            let dead = Dead {
                life: life(place, slot, slot + 1),
                host: None,
                session_ms: join.session_ms,
                watchdog_ms: None,
                fenced: join.past_fenced,
                taker: None,
                waiting: Vec::new(),
            };
            self.dead.insert(slot, dead);
        }
    }

    fn session(&self, place: u64, slot: u16) -> Session {
        let members = self.members.values();
        let shown = members.clone().filter_map(|member| {
            let value = member.value?;
            Some((NodeSlot(member.life.slot), value.into()))
        });
        Session {
            me: life(place, slot, 0).into(),
            epoch: MembershipEpoch(self.epoch + 1),
            version: self.version,
            valid_until: Instant(0),
            peers: members.map(|member| member.life.into()).collect(),
            values: shown.collect(),
            unrecovered: self.dead.values().map(Dead::told).collect(),
        }
    }
}
