//! What a member that comes back has missed: the bits of all nodes, read by who fills it.
//!
//! ```text
//!   Unknown -- window told --> Told -- bitmaps read, marked here --> Read -- told again --> Known
//!                               ^                                     |
//!                               '----------- somebody went -----------'
//! ```
//!
//! While a slot has no member in sync nobody clears a bit. So what was written without a member is
//! in the bitmap of whoever wrote it, or of who took that over. When the first window is open every
//! node that may still write has adopted who comes back, and writes to it: bits that are read then
//! are all of them. A takeover that is under way moves bits from one slot to another, and who reads
//! both at that time may miss them in either; so nothing is believed when somebody went meanwhile,
//! which is known when the window was told a second time: all have one order of such news.

use smallvec::SmallVec;
use umd_format::bitmap::Unverified;

use crate::array::Array;
use crate::cluster::NodeSlot;
use crate::member::{Io, Owner};
use crate::value::{IoDone, IoError, MemberId, Notice, Purpose};

/// Headers, for a member that wants to come back.
pub(super) const HEADERS: u32 = u32::MAX - 1;

/// Bits, for one that does.
pub(super) const BITS: u32 = u32::MAX - 2;

/// The bitmaps of all slots, on their way from one member.
#[derive(Debug, Default)]
pub(super) struct Gather {
    /// Members that were asked.
    tried: SmallVec<[MemberId; 4]>,
    at: At,
    /// Nobody waits for it any more. It is kept until it ends, so that it is not taken for another.
    stale: bool,
}

#[derive(Debug, Default)]
enum At {
    #[default]
    Due,
    Reading,
    Over(Option<Vec<u8>>),
}

/// Whether what a member has missed is known to the run that fills it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Missed {
    #[default]
    Unknown,
    /// All that may write write to it.
    Told,
    /// So many had gone by then.
    Reading(u64),
    Read(u64),
    Known,
}

impl Missed {
    /// A window is open for the run.
    pub(super) fn window_open(self, departures: u64) -> Missed {
        match self {
            Missed::Unknown => Missed::Told,
            Missed::Read(then) if then == departures => Missed::Known,
            Missed::Read(_) => Missed::Told,
            Missed::Told | Missed::Reading(_) => {
                unreachable!("no window was asked for at {self:?}")
            }
            Missed::Known => Missed::Known,
        }
    }
}

impl Array {
    /// Begins to read the bitmaps of all slots.
    pub(super) fn begin_gather(&mut self, tag: u32) {
        let before = self.shared_mut().gathers.insert(tag, Gather::default());
        assert!(before.is_none(), "they are being read already");
    }

    /// What was read, if that is over: nothing where no member in sync gave it.
    pub(super) fn take_gathered(&mut self, tag: u32) -> Option<Option<Vec<u8>>> {
        let gathers = &mut self.shared_mut().gathers;
        match gathers.get(&tag)?.at {
            At::Over(_) => match gathers.remove(&tag)?.at {
                At::Over(read) => Some(read),
                At::Due | At::Reading => unreachable!("just looked at"),
            },
            At::Due | At::Reading => None,
        }
    }

    /// The part of what was read that belongs to a slot.
    pub(super) fn part_of(&self, area: &[u8], slot: u16) -> Vec<u8> {
        let place = self.shared.as_ref().expect("in a cluster").place;
        let bytes = (place.each_sectors * 512) as usize;
        let from = usize::from(slot) * bytes;
        area[from..from + bytes].to_vec()
    }

    pub(super) fn maintain_gathers(&mut self) -> bool {
        let (cut_off, may_write) = (self.io.is_cut_off(), self.may_write());
        let still = self.shared_mut().moves.is_still();
        let tags: Vec<u32> = self.shared_mut().gathers.keys().copied().collect();
        let mut moved = false;
        for tag in tags {
            let mut gather = self.shared_mut().gathers.remove(&tag).expect("just listed");
            if gather.stale && cut_off {
                continue;
            }
            match gather.at {
                At::Over(_) => {}
                At::Due | At::Reading if cut_off => gather.at = At::Over(None),
                At::Reading => {}
                At::Due if still => {}
                At::Due => {
                    let source = self.slot_source(&gather.tried).filter(|_| may_write);
                    gather.at = match source {
                        Some(source) => {
                            self.read_slots(source, tag);
                            gather.tried.push(source);
                            At::Reading
                        }
                        None => At::Over(None),
                    };
                    moved = true;
                }
            }
            self.shared_mut().gathers.insert(tag, gather);
        }
        moved | self.maintain_missed()
    }

    fn read_slots(&mut self, source: MemberId, tag: u32) {
        let place = self.shared_mut().place;
        let (start, each) = self.slot_sectors(source, NodeSlot(0));
        let len = each * u64::from(place.nodes);
        let owner = Owner::Cluster { tag };
        self.io.read(source, start, len, Purpose::Bitmap, owner);
    }

    pub(super) fn gather_done(&mut self, tag: u32, result: Result<IoDone, IoError>) {
        let Some(mut gather) = self.shared_mut().gathers.remove(&tag) else {
            return; // It was given up when the cluster was lost.
        };
        if gather.stale {
            return;
        }
        if matches!(gather.at, At::Reading) {
            let read = Io::read_result(result).ok().map(|buf| buf.freeze());
            let whole = read.filter(|area| self.are_ours(area.as_slice()));
            gather.at = match whole {
                Some(area) => At::Over(Some(area.as_slice().to_vec())),
                None => At::Due,
            };
        }
        self.shared_mut().gathers.insert(tag, gather);
    }

    /// Whether these are the bitmaps of all nodes of this array.
    fn are_ours(&self, area: &[u8]) -> bool {
        let nodes = self.shared.as_ref().expect("in a cluster").place.nodes;
        let ours = |slot: u16| self.bits_of(&self.part_of(area, slot)).is_some();
        (0..nodes).all(ours)
    }

    /// Since which events some node may have cleared bits.
    pub(super) fn bits_kept_since(&self, area: &[u8]) -> u64 {
        let nodes = self.shared.as_ref().expect("in a cluster").place.nodes;
        let own = self.bitmap.writer().map_or(0, |one| one.events_cleared().0);
        let cleared = |slot: u16| {
            let found = Unverified::parse(&self.part_of(area, slot)).ok()?;
            let uuid = self.members.iter().next()?.superblock.bitmap_uuid();
            Some(found.verify_node(uuid).ok()?.fields.events_cleared)
        };
        let cleared = (0..nodes).map(|slot| cleared(slot).expect("it was looked at"));
        cleared.fold(own, u64::max)
    }

    /// Whether somebody who comes back is filled here, by what the bitmaps say.
    fn fills_by_bits(&self) -> bool {
        let run = self.sync.running();
        run.is_some_and(|run| run.is_guided())
    }

    /// Whether a run may pass anything: what it has to copy is known.
    pub(super) fn knows_missed(&self) -> bool {
        let shared = self.shared.as_ref().expect("in a cluster");
        !self.fills_by_bits() || shared.missed == Missed::Known
    }

    fn maintain_missed(&mut self) -> bool {
        if !self.fills_by_bits() {
            self.give_up_bits();
            return false;
        }
        let shared = self.shared_mut();
        let reads = shared.gathers.get(&BITS).is_some_and(|one| one.stale);
        let rests = !shared.unrecovered && !shared.frozen && !reads;
        let now = shared.departures;
        match shared.missed {
            Missed::Told if rests => {
                shared.missed = Missed::Reading(now);
                self.begin_gather(BITS);
                true
            }
            Missed::Reading(then) => match self.take_gathered(BITS) {
                None => false,
                Some(None) => {
                    self.fill_all();
                    true
                }
                Some(Some(area)) => {
                    self.mark_missed(&area);
                    self.shared_mut().missed = Missed::Read(then);
                    true
                }
            },
            _ => false,
        }
    }

    /// What is still being read belongs to a run that has ended.
    fn give_up_bits(&mut self) {
        let gathers = &mut self.shared_mut().gathers;
        gathers.retain(|tag, gather| {
            gather.stale = *tag == BITS;
            !gather.stale || matches!(gather.at, At::Reading)
        });
    }

    /// Marks here what others have marked. The own bits are known.
    fn mark_missed(&mut self, area: &[u8]) {
        let place = self.shared_mut().place;
        for slot in (0..place.nodes).filter(|slot| *slot != place.slot.0) {
            let set = self.bits_of(&self.part_of(area, slot));
            let set = set.expect("it was looked at when it was read");
            let regions = self.bitmap.regions_mut();
            regions.expect("a cluster has bitmaps").mark_also(&set);
        }
    }

    /// The bits of the others are not to be had: nothing is known of what was missed.
    fn fill_all(&mut self) {
        let run = self.sync.running();
        let targets: Vec<MemberId> = run.map(|run| run.targets().to_vec()).unwrap_or_default();
        for id in targets {
            self.sync.unguide(id);
        }
        self.sync.interrupt();
        self.shared_mut().missed = Missed::Unknown;
        let text = "the bitmaps of all nodes cannot be read: who has come back is filled from its \
                    start";
        self.notify(Notice::Message(text.into()));
    }
}
