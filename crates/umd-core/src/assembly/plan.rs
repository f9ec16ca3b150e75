//! A plan: everything needed to start an array.

use std::fmt;

use umd_format::bitmap::BitmapSuperblock;
use umd_format::v1::UnixTime;
use umd_format::{Format, Level, Uuid};

use super::reshape::ReshapePlan;
use crate::geometry::Geometry;
use crate::value::{Events, MAX_SECTOR, MemberId, SECTOR_BYTES, Slot};

/// How an array starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The array's identity.
    pub uuid: Uuid,
    /// Its name as stored, often "host:name".
    pub name: String,
    /// How its members are stored.
    pub format: Format,
    /// Level: raid0, 1, 4, 5 or 6.
    pub level: Level,
    /// Layout number as stored.
    pub layout: u32,
    /// Chunk, 0 for raid1.
    pub chunk_sectors: u32,
    /// Slots.
    pub raid_disks: u16,
    /// Sectors used of each member (0 for raid0).
    pub dev_sectors: u64,
    /// Sectors of data.
    pub array_sectors: u64,
    /// Where data lies.
    pub geometry: Geometry,
    /// The newest events; what is written next has more.
    pub events: Events,
    /// In sync below this; `MAX_SECTOR` when clean.
    pub resync_offset_sectors: u64,
    /// Creation.
    pub ctime: UnixTime,
    /// Last update.
    pub utime: UnixTime,
    /// The member whose superblock describes the array.
    pub reference: MemberId,
    /// One entry per slot.
    pub slots: Vec<SlotPlan>,
    /// Members that are being filled to replace those in their slots, which are in sync.
    pub replacements: Vec<ReplacementPlan>,
    /// Spares, in the order of their device numbers.
    pub spares: Vec<MemberId>,
    /// Members that are not used.
    pub ignored: Vec<Reason>,
    /// Stale members that are trusted because the user insists. Their superblocks must be written
    /// with the array's events before anything else.
    pub forced: Vec<Forced>,
    /// The array was unclean and degraded, and the user insists: parity is taken as right.
    pub marked_clean: bool,
    /// The reshape that goes on; `level`, `layout` and `geometry` are of what it has not moved.
    pub reshape: Option<ReshapePlan>,
    /// The write-intent bitmap.
    pub bitmap: BitmapPlan,
    /// The logical block size to present: the largest that a member or the metadata asks for.
    pub logical_block_bytes: u32,
    /// Sentences the user should read.
    pub warnings: Vec<String>,
}

/// What a slot starts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotPlan {
    /// Valid data everywhere.
    InSync(MemberId),
    /// Valid data below an offset; the rest is rebuilt.
    Recovering {
        /// Who.
        member: MemberId,
        /// Valid below this, in sectors from its data offset.
        from_sectors: u64,
        /// Above it only what the bitmap marks is missing (a member that was re-added).
        bitmap_guided: bool,
    },
    /// There is a member, but its data is out of date: the slot starts empty.
    Stale(MemberId),
    /// Nobody claims the slot.
    Missing,
}

/// A member that takes over a slot when it is filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplacementPlan {
    /// Whose slot.
    pub slot: Slot,
    /// Who.
    pub member: MemberId,
    /// Holds what the member in the slot holds below this.
    pub from_sectors: u64,
    /// Its superblock says more, which does not count: the array was not stopped cleanly.
    pub begins_again: bool,
}

/// A stale member that is trusted by `--force`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forced {
    /// Who.
    pub member: MemberId,
    /// Its name.
    pub name: String,
    /// Its slot.
    pub slot: Slot,
    /// Its events.
    pub from: Events,
    /// The array's events.
    pub to: Events,
}

impl fmt::Display for Forced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Forced {
            name,
            slot,
            from,
            to,
            ..
        } = self;
        write!(
            f,
            "forcing event count in {name}({slot}) from {from} up to {to}"
        )
    }
}

/// Why a member is not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// Which.
    pub member: MemberId,
    /// A sentence without the final dot, the member's name in it.
    pub text: String,
}

/// The write-intent bitmap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BitmapPlan {
    /// The array has none (or, with `--force`, its damaged one is given up).
    None,
    /// The bits on `source` tell which regions may differ.
    Usable {
        /// The member to read the bits from.
        source: MemberId,
        /// Its bitmap superblock.
        superblock: BitmapSuperblock,
    },
    /// The array went on without it: every region counts as dirty.
    Stale {
        /// The member it was found on.
        source: MemberId,
        /// Its bitmap superblock.
        superblock: BitmapSuperblock,
    },
}

impl BitmapPlan {
    /// How long the bitmap on each member is, in sectors.
    pub(crate) fn area_sectors(&self) -> u64 {
        match self {
            BitmapPlan::None => 0,
            BitmapPlan::Usable { superblock, .. } | BitmapPlan::Stale { superblock, .. } => {
                superblock.area_sectors(superblock.regions(superblock.fields.sync_size_sectors))
            }
        }
    }
}

impl Plan {
    /// True when redundancy may be inconsistent, so that a resync is needed.
    pub fn is_unclean(&self) -> bool {
        self.resync_offset_sectors != MAX_SECTOR
    }

    /// Slots without valid data everywhere.
    pub fn degraded(&self) -> usize {
        let in_sync = |slot: &&SlotPlan| !matches!(slot, SlotPlan::InSync(_));
        self.slots.iter().filter(in_sync).count()
    }

    /// What resync and bitmap cover: sectors of each member, or of a RAID10 as a whole.
    pub fn sync_sectors(&self) -> u64 {
        self.geometry.sync_sectors(self.array_sectors)
    }

    /// What holds in every plan, whatever it was made from.
    pub(super) fn check(&self) {
        let slots = self.slots.len();
        assert_eq!(slots, usize::from(self.raid_disks), "an entry a slot");
        assert_eq!(self.geometry.raid_disks(), self.raid_disks, "one shape");
        let in_sync = |slot: u16| matches!(self.slots[usize::from(slot)], SlotPlan::InSync(_));
        assert!(self.geometry.survives(in_sync), "every block can be read");
        assert!(self.degraded() < slots, "somebody is in sync");
        let most = usize::from(self.geometry.redundancy());
        let spent = self.degraded() > 0 && self.degraded() == most;
        let hole = self.level.is_parity() && spent && self.is_unclean();
        assert!(!hole, "parity that may be wrong stands in for nobody");
        assert!(
            self.array_sectors <= MAX_SECTOR / SECTOR_BYTES,
            "bytes fit 64 bits"
        );
        let block = self.logical_block_bytes;
        assert!(block.is_power_of_two() && block >= 512, "a logical block");
        let mut used: Vec<MemberId> = self.members().collect();
        let count = used.len();
        used.sort_unstable();
        used.dedup();
        assert_eq!(used.len(), count, "a member is used once");
        let has = |id: MemberId| used.binary_search(&id).is_ok();
        assert!(has(self.reference), "who describes the array is in it");
        for forced in &self.forced {
            assert!(has(forced.member), "who is forced is used");
            assert!(forced.from <= forced.to, "force raises events");
        }
        for one in &self.replacements {
            assert!(in_sync(one.slot.0), "who is replaced serves");
            let again = !one.begins_again || one.from_sectors == 0;
            assert!(again, "what begins again begins at the start");
        }
        for reason in &self.ignored {
            let stale = self.slots.contains(&SlotPlan::Stale(reason.member));
            assert!(stale || !has(reason.member), "who is ignored is not used");
        }
    }

    /// Everybody who takes part.
    fn members(&self) -> impl Iterator<Item = MemberId> + '_ {
        let slots = self.slots.iter().filter_map(|slot| match slot {
            SlotPlan::InSync(member) | SlotPlan::Recovering { member, .. } => Some(*member),
            SlotPlan::Stale(_) | SlotPlan::Missing => None,
        });
        let replacements = self.replacements.iter().map(|one| one.member);
        slots.chain(replacements).chain(self.spares.iter().copied())
    }

    /// What has been started, in mdadm's words: "3 drives (out of 4) and 1 spare".
    pub fn drives(&self) -> String {
        let rebuilding = |slot: &&SlotPlan| matches!(slot, SlotPlan::Recovering { .. });
        Drives {
            in_sync: self.slots.len() - self.degraded(),
            out_of: Some(self.slots.len()),
            rebuilding: self.slots.iter().filter(rebuilding).count() + self.replacements.len(),
            spares: self.spares.len(),
        }
        .to_string()
    }
}

/// Counts of drives, in mdadm's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Drives {
    /// In sync.
    pub in_sync: usize,
    /// Slots, said only when there are more of them.
    pub out_of: Option<usize>,
    /// Being rebuilt.
    pub rebuilding: usize,
    /// Spares.
    pub spares: usize,
}

impl fmt::Display for Drives {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = |count| if count == 1 { "" } else { "s" };
        write!(f, "{} drive{}", self.in_sync, plural(self.in_sync))?;
        if let Some(slots) = self.out_of.filter(|&slots| slots > self.in_sync) {
            write!(f, " (out of {slots})")?;
        }
        if self.rebuilding > 0 {
            let joint = if self.spares > 0 { "," } else { " and" };
            write!(f, "{joint} {} rebuilding", self.rebuilding)?;
        }
        if self.spares > 0 {
            write!(f, " and {} spare{}", self.spares, plural(self.spares))?;
        }
        Ok(())
    }
}
