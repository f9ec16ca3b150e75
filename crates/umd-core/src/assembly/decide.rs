//! From the verdict on the members to a plan, or a refusal.

use umd_format::v1::{Features, Fields};
use umd_format::{FaultyLayout, Level, Role, SECTOR_MAX, kernels};

use super::bitmap;
use super::facts::{MemberFacts, Wish};
use super::judge::{Judgement, difference, judge};
use super::plan::{BitmapPlan, Drives, Forced, Plan, Reason, ReplacementPlan, SlotPlan};
use super::refusal::{Refusal, RefusalKind};
use super::reshape::{self, ReshapePlan};
use super::select::{Candidate, select};
use crate::geometry::{Geometry, Linear, Raid0, Raid10, Raid10Error, Raid456};
use crate::value::{Events, Exhibit, Museum, SECTOR_BYTES, Slot};

/// The largest logical block that members are written in.
const BLOCK_BYTES_MAX: u32 = 4096;

/// Decides how the array of these members starts. The order of `facts` does not matter.
///
/// # Errors
/// A refusal with one sentence that says what to do, and the members that were not counted.
///
/// # Panics
/// When two members have the same identity.
pub fn assemble(facts: &[MemberFacts], wish: &Wish) -> Result<Plan, Refusal> {
    let mut ignored = Vec::new();
    let decided = decide(facts, wish, &mut ignored);
    ignored.sort_by_key(|reason| reason.member);
    match decided {
        Ok(plan) => {
            let plan = Plan { ignored, ..plan };
            plan.check();
            assert!(wish.force || plan.forced.is_empty(), "forced unasked");
            let asked = wish.force || wish.start_dirty_degraded;
            assert!(asked || !plan.marked_clean, "called clean unasked");
            Ok(plan)
        }
        Err(kind) => Err(Refusal { kind, ignored }),
    }
}

fn decide(
    facts: &[MemberFacts],
    wish: &Wish,
    ignored: &mut Vec<Reason>,
) -> Result<Plan, RefusalKind> {
    let selection = select(facts, wish, ignored)?;
    let verdict = judge(&selection, wish.museum)?;
    let mut lineup = Lineup::of(&verdict, wish.clustered);
    let raised = lineup.raise(&verdict);
    let useless = verdict
        .useless
        .iter()
        .map(|(one, text)| one.reason(text.clone()));
    ignored.extend(useless);
    if wish.force {
        lineup.apply(raised);
    } else if !lineup.is_enough() {
        ignored.extend(
            verdict
                .stale
                .iter()
                .map(|one| one.candidate.reason(one.why.clone())),
        );
        lineup.check_supported()?;
        return Err(lineup.not_enough(&verdict, &raised));
    }
    let in_use = |candidate: &Candidate<'_>| lineup.holds(candidate);
    let left_out = verdict.stale.iter().filter(|one| !in_use(&one.candidate));
    ignored.extend(left_out.map(|one| one.candidate.reason(one.why.clone())));
    lineup.check_supported()?;
    if !lineup.is_enough() {
        return Err(lineup.not_enough(&verdict, &[]));
    }
    lineup.take_spares(&verdict.spares, ignored);
    lineup.plan(&verdict, wish)
}

/// The slots being filled.
struct Lineup<'a> {
    /// The member whose superblock describes the array.
    reference: Option<Candidate<'a>>,
    /// By slot.
    slots: Vec<Option<Candidate<'a>>>,
    /// Those that are to take over slots in which others are in sync.
    replacements: Vec<Candidate<'a>>,
    /// Those raised by force.
    forced: Vec<Candidate<'a>>,
    /// By device number.
    spares: Vec<Candidate<'a>>,
    /// It is run as a node of its cluster.
    clustered: bool,
}

impl<'a> Lineup<'a> {
    fn of(verdict: &Judgement<'a>, clustered: bool) -> Lineup<'a> {
        let disks = verdict
            .reference
            .map_or(0, |one| one.superblock.fields.raid_disks);
        let mut slots: Vec<Option<Candidate<'_>>> = vec![None; disks as usize];
        let current = verdict.current.iter();
        let (new, old): (Vec<&Candidate<'_>>, Vec<_>) =
            current.partition(|one| one.is_replacement());
        for candidate in old {
            let slot = candidate.slot().expect("current members have a slot");
            slots[usize::from(slot)] = Some(*candidate);
        }
        let mut replacements = Vec::new();
        for candidate in new {
            let slot = candidate.slot().expect("current members have a slot");
            match &mut slots[usize::from(slot)] {
                Some(_) => replacements.push(*candidate),
                // Who was to be replaced is gone: the slot is as good as its replacement is.
                place => *place = Some(*candidate),
            }
        }
        Lineup {
            reference: verdict.reference,
            slots,
            replacements,
            forced: Vec::new(),
            spares: Vec::new(),
            clustered,
        }
    }

    fn members(&self) -> impl Iterator<Item = &Candidate<'a>> {
        self.slots.iter().flatten()
    }

    fn holds(&self, candidate: &Candidate<'_>) -> bool {
        let mut all = self.members().chain(&self.replacements);
        all.any(|one| one.facts.id == candidate.facts.id)
    }

    fn in_sync(&self) -> usize {
        self.members().filter(|one| recovery(one).is_none()).count()
    }

    /// True when every block can be read: enough slots hold valid data.
    fn is_enough(&self) -> bool {
        let Some(reference) = &self.reference else {
            return false;
        };
        let fields = &reference.superblock.fields;
        if let Some(most) = fields.level.max_missing(fields.raid_disks) {
            let in_sync = self.in_sync();
            return in_sync > 0 && in_sync + most as usize >= self.slots.len();
        }
        let holds = |slot: u16| {
            let member = self.slots.get(usize::from(slot)).copied().flatten();
            member.is_some_and(|one| recovery(&one).is_none())
        };
        fields.level == Level::Raid10
            && raid10(fields).is_ok_and(|map| Geometry::Copied(map).survives(holds))
    }

    /// The stale members that force would trust: as few as make the array complete enough, the
    /// freshest first. Empty when none are needed, or when they would not be enough.
    fn raise(&self, verdict: &Judgement<'a>) -> Vec<Candidate<'a>> {
        let mut willing: Vec<Candidate<'a>> = verdict.stale.iter().map(|s| s.candidate).collect();
        willing.sort_by_key(|one| (std::cmp::Reverse(one.events()), one.slot(), one.facts.id));
        let mut trial = Lineup {
            reference: self.reference,
            slots: self.slots.clone(),
            replacements: Vec::new(),
            forced: Vec::new(),
            spares: Vec::new(),
            clustered: self.clustered,
        };
        for candidate in willing {
            if trial.is_enough() {
                break;
            }
            if trial.has_place_for(&candidate) {
                trial.apply(vec![candidate]);
            }
        }
        if trial.is_enough() {
            trial.forced
        } else {
            Vec::new()
        }
    }

    /// True when a stale member may fill its slot: nobody else has the slot or its device number,
    /// it describes the same array, and it was not being rebuilt.
    fn has_place_for(&self, candidate: &Candidate<'_>) -> bool {
        let slot = usize::from(candidate.slot().expect("stale members have a slot"));
        let vacant = self.slots.get(slot).is_none_or(Option::is_none);
        let number_free = self.members().all(|one| one.number() != candidate.number());
        let same = self
            .reference
            .is_none_or(|one| difference(&one, candidate).is_none());
        vacant && number_free && same && recovery(candidate).is_none()
    }

    fn apply(&mut self, raised: Vec<Candidate<'a>>) {
        for candidate in raised {
            if self.reference.is_none() {
                self.reference = Some(candidate);
                self.slots = vec![None; candidate.superblock.fields.raid_disks as usize];
            }
            let slot = candidate.slot().expect("stale members have a slot");
            let place = &mut self.slots[usize::from(slot)];
            assert!(place.is_none(), "force never displaces a member");
            *place = Some(candidate);
            self.forced.push(candidate);
        }
    }

    fn drives(&self, spares: usize) -> Drives {
        let in_sync = self.in_sync();
        let rebuilding = self.members().count() - in_sync + self.replacements.len();
        Drives {
            in_sync,
            out_of: None,
            rebuilding,
            spares,
        }
    }

    fn not_enough(&self, verdict: &Judgement<'_>, raised: &[Candidate<'_>]) -> RefusalKind {
        let drives = self.drives(verdict.spares.len()).to_string();
        let names: Vec<String> = raised
            .iter()
            .map(|one| format!("{} (events {})", one.name(), one.events()))
            .collect();
        let hint = if names.is_empty() {
            String::new()
        } else {
            format!(
                " --force would trust {} although out of date.",
                names.join(" and ")
            )
        };
        RefusalKind::NotEnough { drives, hint }
    }

    /// Refuses what this version cannot run, before anything else is said about the array.
    fn check_supported(&self) -> Result<(), RefusalKind> {
        let Some(reference) = &self.reference else {
            return Ok(());
        };
        let fields = &reference.superblock.fields;
        let refuse = |what: String, candidate: &Candidate<'_>| {
            let member = candidate.name().to_owned();
            Err(RefusalKind::NotSupported { what, member })
        };
        if let Some(what) = unsupported_array(fields, self.clustered) {
            return refuse(what, reference);
        }
        for candidate in self.members().chain(&self.replacements) {
            let features = candidate.superblock.fields.features;
            if features.contains(Features::REPLACEMENT) && !fields.level.is_redundant() {
                return refuse(format!("a replacement on {}", fields.level), candidate);
            }
        }
        Ok(())
    }

    /// Takes the spares that can be used.
    fn take_spares(&mut self, spares: &[Candidate<'a>], ignored: &mut Vec<Reason>) {
        let mut sorted = spares.to_vec();
        sorted.sort_by_key(|one| (one.number(), std::cmp::Reverse(one.events()), one.facts.id));
        for spare in sorted {
            match self.unfit(&spare) {
                Some(why) => {
                    ignored.push(spare.reason(format!("ignoring {}: {why}", spare.name())));
                }
                None => self.spares.push(spare),
            }
        }
    }

    /// Why a spare cannot be used.
    fn unfit(&self, spare: &Candidate<'_>) -> Option<String> {
        let reference = self
            .reference
            .expect("spares are taken when there is an array");
        let (array, fields) = (&reference.superblock.fields, &spare.superblock.fields);
        if !array.level.is_redundant() {
            return Some(format!("{} has no use for spares", array.level));
        }
        if array.events >= fields.events && array.role_of(spare.number()) == Role::Faulty {
            return Some(format!("{} says that it has failed", reference.name()));
        }
        if reference.superblock.format() != spare.superblock.format() {
            return Some("its metadata version is not that of the array".to_owned());
        }
        // Once it has a slot, its superblock has to say what those of the others say.
        let step = reshape::is_one_step(array, fields);
        if let Some(what) = difference(&reference, spare).filter(|_| !step) {
            return Some(format!("its {what} is not that of {}", reference.name()));
        }
        // It is told of a reshape, and has no part in it.
        let mut alone = fields.clone();
        alone.features = alone.features.without(Features::RESHAPE_ACTIVE);
        if let Some(what) = unsupported_array(&alone, self.clustered) {
            return Some(format!("it belongs to {what}"));
        }
        if array.bitmap_offset_sectors() != fields.bitmap_offset_sectors() {
            return Some(format!(
                "its bitmap is not where that of {} is",
                reference.name()
            ));
        }
        let (need, have) = (array.size_sectors, fields.data_size_sectors);
        if have < need {
            return Some(format!("it is too small by {} sectors", need - have));
        }
        if fields.features.contains(Features::BAD_BLOCKS) {
            return Some("it has bad blocks".to_owned());
        }
        // With a slot it would look like a replacement that is under way.
        if fields.features.contains(Features::REPLACEMENT) {
            return Some("it was to replace another member".to_owned());
        }
        let slots = self.members().chain(&self.replacements);
        let mut others = slots.chain(&self.spares);
        let taken = others.find(|one| one.number() == spare.number())?;
        Some(format!(
            "its device number {} is that of {}",
            spare.number(),
            taken.name()
        ))
    }

    /// The plan, once there are enough members.
    fn plan(&self, verdict: &Judgement<'a>, wish: &Wish) -> Result<Plan, RefusalKind> {
        let reference = self.reference.expect("enough members include one");
        let fields = &reference.superblock.fields;
        let mut warnings = verdict.warnings.clone();
        self.check_expected(fields, wish, &mut warnings)?;
        let (resync_offset_sectors, marked_clean) =
            self.resync_offset(verdict, fields, wish, &mut warnings)?;
        let geometry = self.geometry(&reference, wish.museum)?;
        let bitmap = self.bitmap(&reference, wish, &mut warnings)?;
        let reshape = self.reshape(&reference, bitmap.area_sectors(), wish.museum)?;
        let bitmap_version = match &bitmap {
            BitmapPlan::None => None,
            BitmapPlan::Usable { superblock, .. } | BitmapPlan::Stale { superblock, .. } => {
                Some(superblock.fields.version)
            }
        };
        for one in kernels::refusals(fields, reference.superblock.v1_raw(), bitmap_version) {
            warnings.push(one.to_string());
        }
        warnings.extend(ignored_offset(fields));
        let events = self
            .members()
            .chain(&self.replacements)
            .chain(&self.spares)
            .map(Candidate::events)
            .max();
        let events = Events(events.expect("enough members include one"));
        let used = self.members().chain(&self.replacements);
        let blocks = used.map(|one| one.facts.logical_block_bytes);
        let logical_block_bytes = blocks.chain([fields.logical_block_bytes, 512]).max();
        Ok(Plan {
            uuid: fields.set_uuid,
            name: fields.name(),
            format: reference.superblock.format(),
            level: fields.level,
            layout: fields.layout,
            chunk_sectors: fields.chunk_sectors,
            raid_disks: self.slots.len() as u16,
            dev_sectors: fields.size_sectors,
            array_sectors: array_sectors(&geometry, fields),
            geometry,
            events,
            resync_offset_sectors,
            ctime: fields.ctime,
            utime: fields.utime,
            reference: reference.facts.id,
            slots: self.slot_plans(verdict, fields),
            replacements: self.replacement_plans(fields, resync_offset_sectors),
            spares: self.spares.iter().map(|spare| spare.facts.id).collect(),
            ignored: Vec::new(),
            forced: self.forced.iter().map(|one| forced(one, events)).collect(),
            marked_clean,
            reshape,
            bitmap,
            logical_block_bytes: logical_block_bytes.expect("the list is not empty"),
            warnings,
        })
    }

    /// Notes, or refuses, slots that had a member when the array last ran and have none now.
    fn check_expected(
        &self,
        fields: &Fields,
        wish: &Wish,
        warnings: &mut Vec<String>,
    ) -> Result<(), RefusalKind> {
        let mut needed = 0;
        let mut lacking = Vec::new();
        for (slot, member) in self.slots.iter().enumerate() {
            let expected = fields.slot_is_held(slot as u16);
            needed += usize::from(expected || member.is_some());
            if expected && member.is_none() {
                lacking.push(slot);
            }
        }
        if !lacking.is_empty() && wish.no_degraded && !wish.run {
            let drives = self.drives(self.spares.len()).to_string();
            return Err(RefusalKind::Incomplete { drives, needed });
        }
        for slot in lacking {
            warnings.push(format!(
                "slot {slot} had a member when the array last ran and has none now"
            ));
        }
        Ok(())
    }

    /// From where the array must be resynced, and whether that was decided by force.
    fn resync_offset(
        &self,
        verdict: &Judgement<'_>,
        fields: &Fields,
        wish: &Wish,
        warnings: &mut Vec<String>,
    ) -> Result<(u64, bool), RefusalKind> {
        if !fields.level.is_redundant() {
            return Ok((SECTOR_MAX, false));
        }
        let recorded = match verdict.reference {
            Some(_) => verdict.resync_offset_sectors,
            None => fields.resync_offset_sectors,
        };
        let degraded = self.in_sync() < self.slots.len();
        let write_hole = fields.level.is_parity() && degraded && recorded != SECTOR_MAX;
        if !write_hole {
            if wish.readonly && recorded != SECTOR_MAX {
                warnings.push(
                    "the array was not stopped cleanly, and read-only its members are not made \
                     to agree: what differs is read from one and the same member"
                        .to_owned(),
                );
            }
            return Ok((recorded, false));
        }
        if !wish.force && !wish.start_dirty_degraded {
            let drives = self.drives(self.spares.len()).to_string();
            return Err(RefusalKind::NotEnoughWhileUnclean { drives });
        }
        warnings.push(
            "the array was not stopped cleanly and lacks a member: what was being written then \
             may read back wrong, other data in the same stripes included"
                .to_owned(),
        );
        // With redundancy left to agree a resync is still owed: to be called clean would be to
        // compute with parity that nobody has made right.
        let missing = self.slots.len() - self.in_sync();
        let redundant = fields.level.max_missing(fields.raid_disks);
        match redundant.is_some_and(|most| (missing as u32) < most) {
            true => Ok((recorded, false)),
            false => Ok((SECTOR_MAX, true)),
        }
    }

    /// How the reshape goes on that was under way.
    fn reshape(
        &self,
        reference: &Candidate<'_>,
        bitmap_sectors: u64,
        museum: Museum,
    ) -> Result<Option<ReshapePlan>, RefusalKind> {
        let used = self.members().chain(&self.replacements);
        let used: Vec<Candidate<'_>> = used.copied().collect();
        reshape::plan(reference, &used, bitmap_sectors, museum).map_err(|(what, one)| {
            let member = one.name().to_owned();
            RefusalKind::NotSupported { what, member }
        })
    }

    /// Of all slots, in order.
    fn data_sizes(&self) -> Vec<u64> {
        let fields = self.members().map(|one| &one.superblock.fields);
        fields.map(|fields| fields.data_size_sectors).collect()
    }

    fn geometry(&self, reference: &Candidate<'_>, museum: Museum) -> Result<Geometry, RefusalKind> {
        let fields = &reference.superblock.fields;
        let disks = self.slots.len() as u16;
        let not_supported = |what: String| {
            let member = reference.name().to_owned();
            RefusalKind::NotSupported { what, member }
        };
        match fields.level {
            Level::Raid0 => {
                let sizes = self.data_sizes();
                let total = sizes
                    .iter()
                    .try_fold(0u64, |sum, &size| sum.checked_add(size));
                if total.is_none_or(|total| total > u64::MAX / SECTOR_BYTES) {
                    return Err(not_supported("an array of 2^64 bytes or more".to_owned()));
                }
                let chunk_sectors = u64::from(fields.chunk_sectors);
                let map = Raid0::new(&sizes, chunk_sectors, fields.raid0_layout())?;
                Ok(Geometry::Striped(map.exhibit(museum)))
            }
            Level::Linear => {
                let chunk_sectors = u64::from(fields.chunk_sectors);
                let map = Linear::new(&self.data_sizes(), chunk_sectors);
                let fits = |map: &Linear| map.array_sectors() <= u64::MAX / SECTOR_BYTES;
                map.filter(fits)
                    .map(Geometry::Linear)
                    .ok_or_else(|| not_supported("a linear array of these sizes".to_owned()))
            }
            Level::Faulty => {
                // Kernels offer what the superblock says is used, if it says so.
                let most = match fields.size_sectors {
                    0 => u64::MAX / SECTOR_BYTES,
                    used => used,
                };
                let size = fields.data_size_sectors.min(most);
                let map = Linear::new(&[size], 0).filter(|_| disks == 1);
                map.map(Geometry::Linear)
                    .ok_or_else(|| not_supported(format!("level faulty on {disks} devices")))
            }
            Level::Raid1 => Ok(Geometry::Mirrored { legs: disks }),
            Level::Raid10 => match raid10(fields) {
                // M27 (8bce6d35b308): far sets were cut so that copies met on one member.
                Ok(map) if museum.on(Exhibit::M27) => Ok(Geometry::Copied(map.meeting())),
                Ok(map) => Ok(Geometry::Copied(map)),
                Err(why) => Err(not_supported(why.to_string())),
            },
            level => {
                let chunk_sectors = u64::from(fields.chunk_sectors);
                Raid456::new(
                    level,
                    fields.layout,
                    disks,
                    chunk_sectors,
                    fields.size_sectors,
                )
                .map(Geometry::Parity)
                .ok_or_else(|| {
                    let layout = fields.layout;
                    not_supported(format!("{level} with layout {layout} on {disks} devices"))
                })
            }
        }
    }

    fn bitmap(
        &self,
        reference: &Candidate<'_>,
        wish: &Wish,
        warnings: &mut Vec<String>,
    ) -> Result<BitmapPlan, RefusalKind> {
        let is_forced =
            |one: &Candidate<'_>| self.forced.iter().any(|f| f.facts.id == one.facts.id);
        // M57 (4aaf7694f841): the bitmap was read from a member that was taken back for what it had
        // missed, bits included. (Here such a member is given a copy first, which is left out too.)
        let any = wish.museum.on(Exhibit::M57);
        let in_sync = self
            .members()
            .filter(|one| any || recovery(one).is_none())
            .copied();
        let (forced, trusted): (Vec<_>, Vec<_>) = in_sync.partition(is_forced);
        let count = trusted.len();
        let sources = [trusted, forced].concat();
        bitmap::decide(reference, &sources, count, wish, warnings)
    }

    /// After a crash it is not known which writes reached who was in the slot and not who is to
    /// take it over: all of it is copied again.
    fn replacement_plans(&self, fields: &Fields, resync_sectors: u64) -> Vec<ReplacementPlan> {
        let plan = |one: &Candidate<'_>| {
            let fields_of = &one.superblock.fields;
            let recorded = match fields_of.features.contains(Features::RECOVERY_OFFSET) {
                true => fields_of.recovery_offset_raw.min(fields.size_sectors),
                false => 0,
            };
            let clean = resync_sectors == SECTOR_MAX;
            ReplacementPlan {
                slot: Slot(one.slot().expect("it was counted for its slot")),
                member: one.facts.id,
                from_sectors: if clean { recorded } else { 0 },
                begins_again: !clean && recorded > 0,
            }
        };
        self.replacements.iter().map(plan).collect()
    }

    fn slot_plans(&self, verdict: &Judgement<'_>, fields: &Fields) -> Vec<SlotPlan> {
        let stale = |slot: usize| {
            let claims = |one: &&Candidate<'_>| one.slot().map(usize::from) == Some(slot);
            let stale = verdict.stale.iter().map(|one| &one.candidate);
            let freshest = |one: &&Candidate<'_>| (one.events(), std::cmp::Reverse(one.facts.id));
            stale.filter(claims).max_by_key(freshest)
        };
        let plan = |(slot, member): (usize, &Option<Candidate<'_>>)| match member {
            None => stale(slot).map_or(SlotPlan::Missing, |one| SlotPlan::Stale(one.facts.id)),
            Some(one) => match recovery(one) {
                None => SlotPlan::InSync(one.facts.id),
                Some(offset) => SlotPlan::Recovering {
                    member: one.facts.id,
                    from_sectors: offset.min(fields.size_sectors),
                    bitmap_guided: one
                        .superblock
                        .fields
                        .features
                        .contains(Features::RECOVERY_BITMAP),
                },
            },
        };
        self.slots.iter().enumerate().map(plan).collect()
    }
}

/// How far a member with a slot has been rebuilt; `None` when it is in sync, or was about to be
/// called so when it had all of what it was to replace.
fn recovery(candidate: &Candidate<'_>) -> Option<u64> {
    let fields = &candidate.superblock.fields;
    let offset = fields.recovery_offset_sectors();
    offset.filter(|offset| !candidate.is_replacement() || *offset < fields.size_sectors)
}

fn forced(candidate: &Candidate<'_>, to: Events) -> Forced {
    Forced {
        member: candidate.facts.id,
        name: candidate.name().to_owned(),
        slot: Slot(candidate.slot().expect("forced members have a slot")),
        from: Events(candidate.events()),
        to,
    }
}

/// Kernels serve level faulty from the start of its device, superblock included. That is not done
/// here, and whoever takes an array from one to the other has to know.
fn ignored_offset(fields: &Fields) -> Option<String> {
    let offset = fields.data_offset_sectors;
    (fields.level == Level::Faulty && offset > 0).then(|| {
        format!(
            "kernels ignore the data offset of level faulty: what they write to this array lies \
             {offset} sectors before where umd reads it, over the superblock; use metadata 1.0 \
             for an array that both run"
        )
    })
}

fn array_sectors(geometry: &Geometry, fields: &Fields) -> u64 {
    match geometry {
        Geometry::Linear(map) => map.array_sectors(),
        Geometry::Striped(map) => map.array_sectors(),
        Geometry::Mirrored { .. } => fields.size_sectors,
        Geometry::Copied(map) => map.array_sectors(),
        Geometry::Parity(map) => map.array_sectors(),
    }
}

/// The map of a RAID10.
pub(super) fn raid10(fields: &Fields) -> Result<Raid10, Raid10Error> {
    Raid10::new(
        fields.layout,
        fields.raid_disks as u16,
        fields.chunk_sectors.into(),
        fields.size_sectors,
    )
}

/// What an array uses that cannot be run yet.
fn unsupported_array(fields: &Fields, clustered: bool) -> Option<String> {
    let level = fields.level;
    let plain = matches!(level, Level::Linear | Level::Raid0 | Level::Faulty);
    let known = plain || level.is_redundant();
    if !known {
        return Some(format!("level {level}"));
    }
    if fields.features.contains(Features::RESHAPE_ACTIVE) && !reshape::can_go_on(fields) {
        return Some("a reshape that is under way".to_owned());
    }
    if level == Level::Faulty && FaultyLayout::parse(fields.layout).is_none() {
        return Some(format!("level faulty with layout {:#x}", fields.layout));
    }
    let table = [
        (
            Features::CLUSTERED,
            "a clustered array (--update=no-cluster=NAME makes it a plain one)",
        ),
        (Features::JOURNAL, "a write journal"),
        (Features::PPL, "a partial parity log"),
        (Features::MULTIPLE_PPLS, "a partial parity log"),
    ];
    let meant = |feature: Features| clustered && feature == Features::CLUSTERED;
    let used = table
        .into_iter()
        .find(|(feature, _)| fields.features.contains(*feature) && !meant(*feature));
    if let Some((_, what)) = used {
        return Some(what.to_owned());
    }
    if clustered && let Some(what) = unfit_for_cluster(fields) {
        return Some(what);
    }
    let block = fields.logical_block_bytes;
    if block > BLOCK_BYTES_MAX {
        return Some(format!("an array with logical blocks of {block} bytes"));
    }
    let bitmap = fields.features.contains(Features::BITMAP_OFFSET);
    (bitmap && !level.is_redundant()).then(|| format!("a bitmap on {level}"))
}

/// Why an array cannot be that of a cluster: mirrors with bitmaps only. (cluster.md section 15)
fn unfit_for_cluster(fields: &Fields) -> Option<String> {
    let features = fields.features;
    if !features.contains(Features::CLUSTERED) {
        return Some("an array that is none of a cluster as one of its nodes".to_owned());
    }
    if !features.contains(Features::BITMAP_OFFSET) {
        return Some("a clustered array without bitmaps".to_owned());
    }
    if fields.super_offset_sectors != 8 {
        return Some("a clustered array with metadata other than 1.2".to_owned());
    }
    let near = raid10(fields).is_ok() && fields.layout & !0xff == 0x100;
    match fields.level {
        Level::Raid1 => None,
        Level::Raid10 if near => None,
        Level::Raid10 => Some("a clustered raid10 of another layout than near".to_owned()),
        level => Some(format!("a clustered {level}")),
    }
}
