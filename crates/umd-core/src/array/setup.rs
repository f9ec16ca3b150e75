//! From a plan to a running array.

use std::sync::Arc;

use umd_format::SuperblockV1;
use umd_format::v1::{DeviceFlags, Features};

use super::engine::{Array, Info, Parts};
use super::reshape::Reshape;
use crate::assembly::{BitmapPlan, MemberFacts, Plan, SlotPlan, agree};
use crate::bitmap::{Bitmap, Place};
use crate::geometry::Geometry;
use crate::member::{Cover, Epoch, Io, Member, Members, ReadErrors, State};
use crate::metadata::Metadata;
use crate::sync::Sync;
use crate::value::{Events, Exhibit, Instant, MAX_SECTOR, MemberId, Museum, Pool, Slot, Span};

/// What can be chosen when an array is started.
#[derive(Debug, Clone)]
pub struct Options {
    /// Nothing is written to any member.
    pub read_only: bool,
    /// Nothing is written to any member before a host writes, or an administrator changes
    /// something (md's `read-auto`).
    pub read_auto: bool,
    /// An array without writes for this long is marked clean.
    pub safe_mode_delay: Span,
    /// A member that does not answer for this long is failed.
    pub io_timeout: Span,
    /// A member with more read errors than this in an hour is failed, if the array lives on
    /// without it (kernel: `max_read_errors`).
    pub max_read_errors: u32,
    /// The last leg of a mirror that fails is out, too, and reads fail (md's `fail_last_dev`);
    /// otherwise it is read on.
    pub fail_last_dev: bool,
    /// The file that holds the bitmap, and its name: the identity under which I/O to it is asked
    /// for. It is the source of the plan's bitmap.
    pub bitmap_file: Option<(MemberId, String)>,
    /// The slot of this node, if it is one of the cluster that runs the array: the bitmap is that
    /// slot's. See `array::Clustered`.
    pub node: Option<u16>,
    /// A mistake to be made; none outside the simulator.
    pub museum: Museum,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            read_only: false,
            read_auto: false,
            safe_mode_delay: Span::millis(210),
            io_timeout: Span::secs(30),
            max_read_errors: 20,
            fail_last_dev: false,
            bitmap_file: None,
            node: None,
            museum: Museum::NONE,
        }
    }
}

/// Everything needed to start an array.
#[derive(Debug)]
pub struct Setup {
    /// How it starts.
    pub plan: Plan,
    /// What the plan was made from; the members it names are taken in.
    pub facts: Vec<MemberFacts>,
    /// The bitmap area read from the plan's source member (superblock included), if it names one.
    pub bitmap_area: Option<Vec<u8>>,
    /// Where buffers come from.
    pub pool: Pool,
    /// Choices.
    pub options: Options,
}

impl Array {
    /// Starts an array. Nothing is written before something changes.
    ///
    /// # Panics
    /// When the plan names a member that is not among the facts, or a bitmap whose area is missing
    /// or shorter than its superblock.
    pub fn start(setup: Setup) -> Array {
        let Setup {
            plan,
            facts,
            bitmap_area,
            pool,
            options,
        } = setup;
        let museum = options.museum;
        // U12: a rebuild went on from where it was, on parity that was only declared right.
        let plan = match museum.on(Exhibit::U12) {
            true => plan,
            false => distrusting_rebuilds(plan),
        };
        let plan = trusting_bits(plan, options.node);
        let mut io = Io::new(pool);
        io.museum = museum;
        io.bad.exhibit(museum);
        io.bad.set_bitmap(plan.bitmap.area_sectors());
        let members = members_of(&plan, facts, &mut io);
        let members = agreed_on_bitmap(members, plan.reference);
        let members = agreed_on_shape(members, plan.reference);
        let reference = members
            .get(plan.reference)
            .expect("the plan's reference is used");
        let superblock = reference.superblock.clone();
        let sync_sectors = plan.sync_sectors();
        let epoch = Epoch::of(1, &members, plan.raid_disks);
        let metadata = metadata_of(&plan, &superblock, &members, museum);
        let place = place_of(&plan, &superblock, &options);
        let mut bitmap = bitmap_of(&plan, place, bitmap_area.as_deref(), sync_sectors);
        bitmap.exhibit(museum);
        let mut cover = Cover::new(plan.resync_offset_sectors);
        cover.exhibit(museum);
        let geometry = Arc::new(plan.geometry.clone());
        let mut sync = Sync::new(
            geometry.clone(),
            plan.array_sectors,
            plan.resync_offset_sectors,
        );
        sync.exhibit(museum);
        if bitmap.owes_resync() {
            sync.owe_regions();
        }
        let block_sectors = members.block_sectors();
        resume_rebuilds(&plan, block_sectors, (&mut cover, &mut sync), museum);
        let reshape = plan.reshape.as_ref().map(|plan| {
            let geometry = Arc::new(plan.geometry.clone());
            let from = (plan.frontier_sectors, plan.backwards);
            Reshape::new(
                Instant(0),
                (geometry, plan.layout),
                from,
                plan.distance_sectors,
            )
        });
        Array::assemble_parts(Parts {
            info: info_of(&plan, &superblock),
            geometry,
            members,
            epoch,
            metadata,
            bitmap,
            cover,
            sync,
            io,
            options,
            reshape,
        })
    }
}

fn metadata_of(
    plan: &Plan,
    superblock: &SuperblockV1,
    members: &Members,
    museum: Museum,
) -> Metadata {
    let redundant = plan.geometry.is_redundant();
    let mut metadata = Metadata::new(superblock, Events(plan.events.0), redundant);
    metadata.exhibit(museum);
    if plan.marked_clean || !plan.forced.is_empty() {
        // What was forced has to be on the disks before anything is acknowledged.
        metadata.note_fault();
        metadata.note_change(true);
    }
    // U63: it was written at once. The process that had made it a raid0 had been killed, and its
    // superblocks stood in caches: after a power cut some members told of parity again.
    let striped = matches!(plan.geometry, Geometry::Striped(_));
    if striped && plan.format.is_stored() && !museum.on(Exhibit::U63) {
        metadata.note_unsettled();
    }
    if is_uneven(members, plan) {
        metadata.note_uneven();
        // U61: a raid5 that a crash left half a raid0 stayed so on its members.
        if !redundant && !museum.on(Exhibit::U61) {
            // Nothing else would ever write them: a change of level that a crash cut short would
            // leave some members telling of parity that nobody keeps. Before any write goes in.
            metadata.note_fault();
            metadata.note_change(true);
        }
    }
    // Those begin again: that is on the disks before a resync can end and make their old reach
    // count again.
    if plan.replacements.iter().any(|one| one.begins_again) {
        metadata.note_change(false);
    }
    if plan.marked_clean {
        metadata.note_declared_clean();
    }
    metadata
}

/// Rebuilds go on from where their members say they are. What only a part of a block is said of is
/// done again: there is no looking at such a part alone.
fn resume_rebuilds(
    plan: &Plan,
    block_sectors: u64,
    (cover, sync): (&mut Cover, &mut Sync),
    museum: Museum,
) {
    let end = plan.geometry.rebuild_sectors(plan.array_sectors);
    let reach = |from: u64| match from < end {
        true => from - from % block_sectors,
        false => end,
    };
    for one in &plan.replacements {
        let done = reach(one.from_sectors);
        cover.set_rebuilt(one.member, done, done);
    }
    for slot in &plan.slots {
        if let SlotPlan::Recovering {
            member,
            from_sectors,
            bitmap_guided,
        } = slot
        {
            let done = reach(*from_sectors);
            cover.set_rebuilt(*member, done, done);
            // M52 (8c2e870a625b): a rebuild that was cut short by a stop found nothing to do
            // in the clean bitmap of the next start, and was over.
            if *bitmap_guided || museum.on(Exhibit::M52) {
                sync.guide(*member);
            }
        }
    }
}

fn is_uneven(members: &Members, plan: &Plan) -> bool {
    let mut holding = members.iter().filter(|m| m.state == State::InSync);
    holding.any(|m| m.superblock.fields.events != plan.events.0)
}

/// Parity that was only declared right cannot vouch for what was rebuilt from it: where an unclean
/// array was marked clean, rebuilds begin again. So do replacements over a lockless bitmap: others
/// may have passed over what nobody had written.
fn distrusting_rebuilds(mut plan: Plan) -> Plan {
    let lockless = match &plan.bitmap {
        BitmapPlan::None => false,
        BitmapPlan::Usable { superblock, .. } | BitmapPlan::Stale { superblock, .. } => {
            superblock.is_lockless()
        }
    };
    let again = plan.marked_clean || lockless;
    for one in plan.replacements.iter_mut().filter(|_| again) {
        one.begins_again |= one.from_sectors > 0;
        one.from_sectors = 0;
    }
    for slot in plan.slots.iter_mut().filter(|_| plan.marked_clean) {
        if let SlotPlan::Recovering {
            from_sectors,
            bitmap_guided,
            ..
        } = slot
        {
            (*from_sectors, *bitmap_guided) = (0, false);
        }
    }
    plan
}

/// In a cluster superblocks never say that all agrees, and bits say where it may not.
fn trusting_bits(mut plan: Plan, node: Option<u16>) -> Plan {
    if node.is_some() {
        plan.resync_offset_sectors = MAX_SECTOR;
    }
    plan
}

fn info_of(plan: &Plan, superblock: &SuperblockV1) -> Info {
    Info {
        uuid: plan.uuid.0,
        name: plan.name.clone(),
        format: plan.format,
        preferred_minor: superblock.fields.preferred_minor,
        level: plan.level,
        layout: plan.layout,
        chunk_sectors: plan.chunk_sectors,
        raid_disks: plan.raid_disks,
        array_sectors: plan.array_sectors,
        dev_sectors: plan.dev_sectors,
        ctime_seconds: plan.ctime.seconds(),
        logical_block_bytes: plan.logical_block_bytes,
    }
}

fn members_of(plan: &Plan, facts: Vec<MemberFacts>, io: &mut Io) -> Members {
    let mut list = Vec::new();
    let mut facts = facts;
    let mut take = |id: MemberId, state: State, slot: Option<Slot>| {
        let at = facts
            .iter()
            .position(|f| f.id == id)
            .expect("a planned member has its facts");
        let fact = facts.swap_remove(at);
        let superblock = fact.superblock.expect("a planned member has a superblock");
        let log = fact
            .bad_blocks
            .map(|log| log.expect("a damaged log is refused"));
        let device = (fact.size_sectors, fact.logical_block_bytes);
        io.bad.take_in(id, &superblock, log, device);
        list.push(Member {
            id,
            name: fact.name,
            state,
            slot,
            replacement: false,
            want_replacement: false,
            meant_for: None,
            size_sectors: fact.size_sectors,
            logical_block_bytes: fact.logical_block_bytes,
            write_mostly: superblock.fields.flags.contains(DeviceFlags::WRITE_MOSTLY),
            superblock,
            fault: None,
            read_errors: ReadErrors::default(),
            write_errors: ReadErrors::default(),
        });
    };
    for (slot, entry) in plan.slots.iter().enumerate() {
        let slot = Slot(u16::try_from(slot).expect("slots fit 16 bits"));
        match entry {
            SlotPlan::InSync(id) => take(*id, State::InSync, Some(slot)),
            SlotPlan::Recovering {
                member,
                from_sectors,
                ..
            } => {
                let state = State::Recovering {
                    checkpoint_sectors: *from_sectors,
                };
                take(*member, state, Some(slot));
            }
            SlotPlan::Stale(_) | SlotPlan::Missing => {}
        }
    }
    for id in &plan.spares {
        take(*id, State::Spare, None);
    }
    for one in &plan.replacements {
        let state = State::Recovering {
            checkpoint_sectors: one.from_sectors,
        };
        take(one.member, state, Some(one.slot));
    }
    for one in &plan.replacements {
        for member in list.iter_mut().filter(|m| m.slot == Some(one.slot)) {
            member.replacement = member.id == one.member;
            member.want_replacement = member.id != one.member;
        }
    }
    Members::new(list)
}

/// A change of the bitmap that was cut short stands on some superblocks only. What the reference
/// says counts, and the next update says so everywhere.
fn agreed_on_bitmap(mut members: Members, reference: MemberId) -> Members {
    let reference = members.get(reference).expect("the reference is used");
    let fields = &reference.superblock.fields;
    let bit = Features::BITMAP_OFFSET;
    let (there, at) = (fields.features.contains(bit), fields.bitmap_offset_raw);
    for member in members.iter_mut() {
        let fields = &mut member.superblock.fields;
        if fields.features.contains(bit) != there {
            fields.features = match there {
                true => fields.features.with(bit),
                false => fields.features.without(bit),
            };
            fields.bitmap_offset_raw = at;
        }
    }
    members
}

/// So does a change of level or layout: each step of it leaves the data where it was.
fn agreed_on_shape(mut members: Members, reference: MemberId) -> Members {
    let reference = members.get(reference).expect("the reference is used");
    let fields = reference.superblock.fields.clone();
    for member in members.iter_mut() {
        let active = member.is_active();
        agree(&mut member.superblock.fields, &fields, active);
    }
    members
}

/// Where the plan's bitmap lies; where there is none the answer means nothing.
fn place_of(plan: &Plan, reference: &SuperblockV1, options: &Options) -> Place {
    let source = match &plan.bitmap {
        BitmapPlan::None => return Place::Members(0),
        BitmapPlan::Usable { source, .. } | BitmapPlan::Stale { source, .. } => *source,
    };
    let internal = reference.fields.features.contains(Features::BITMAP_OFFSET);
    match &options.bitmap_file {
        Some((id, _)) => {
            assert!(source == *id && !internal, "one bitmap, in its file");
            Place::File(*id)
        }
        None => {
            assert!(internal, "the plan says so");
            let offset = reference.fields.bitmap_offset_sectors();
            let offset = offset.expect("checked above");
            Place::Members(offset + slot_offset(plan, options.node))
        }
    }
}

/// How far behind the first bitmap that of a node lies.
fn slot_offset(plan: &Plan, node: Option<u16>) -> i32 {
    let each = plan.bitmap.area_sectors();
    let offset = node.map_or(0, |slot| u64::from(slot) * each);
    i32::try_from(offset).expect("all bitmaps lie before the data")
}

fn bitmap_of(plan: &Plan, place: Place, area: Option<&[u8]>, sync_sectors: u64) -> Bitmap {
    let (superblock, stale) = match &plan.bitmap {
        BitmapPlan::None => return Bitmap::none(),
        BitmapPlan::Usable { superblock, .. } => (superblock.clone(), false),
        BitmapPlan::Stale { superblock, .. } => (superblock.clone(), true),
    };
    let area = area.expect("the area of a planned bitmap was read");
    // Bits that are set in a clean array need nothing; they are cleared in time.
    let from = plan.resync_offset_sectors;
    let block = plan.logical_block_bytes.max(512);
    Bitmap::load(superblock, place, area, sync_sectors, from, stale, block)
}
