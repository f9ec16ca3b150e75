//! The shipped core behind the simulator's seam: read superblocks, plan, start.

use umd_core::array::{Array, Command, Commands, Event, Options, Purpose, Setup, Status};
use umd_core::assembly::{
    BitmapPlan, MemberFacts, NoSuperblock, Plan, RefusalKind, Wish, assemble,
};
use umd_core::value::{MemberId, Museum, Now, Pool};
use umd_format::badblocks::BadLog;
use umd_format::bitmap::{BitmapError, BitmapSuperblock, Unverified};
use umd_format::{Format, SuperblockV1};

use crate::disk::SimDisk;
use crate::engine::{Candidate, Engine, How, Maker, Refused, Started};
use crate::metaview::OLD;
use crate::stamp::SECTOR;

/// Starts the shipped core.
#[derive(Debug, Clone, Copy, Default)]
pub struct Shipped;

/// All regions of the bitmap are checked after so many events, whatever they were.
const ALL_EVERY: u64 = 256;

struct Core {
    array: Array,
    events: u64,
}

/// Whether the engine acts on its bitmap as a whole.
fn uses_bitmap(command: &Command) -> bool {
    match command {
        Command::Io(io) => io.purpose == Purpose::Bitmap,
        Command::Stopped => true,
        _ => false,
    }
}

impl Engine for Core {
    fn handle(&mut self, now: Now, event: Event, commands: &mut Commands) {
        let before = commands.len();
        self.array.handle(now, event, commands);
        self.events += 1;
        if self.array.is_stopped() {
            return;
        }
        // What changed is checked after each event; everything where it matters, which is before
        // bits reach a disk, and now and then.
        let all = self.events.is_multiple_of(ALL_EVERY);
        if all || commands[before..].iter().any(uses_bitmap) {
            self.array.check_invariants();
        }
        self.array.check_event();
    }

    fn status(&self) -> Status {
        self.array.status()
    }

    fn refresh(&self, status: &mut Status) {
        self.array.refresh(status);
    }
}

/// What a read of these sectors gives.
pub(crate) fn read_sectors(disk: &SimDisk, first: u64, count: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    for sector in first..first + count {
        match disk.visible(sector) {
            Some(content) => bytes.extend_from_slice(content),
            None => bytes.extend_from_slice(&[0; SECTOR]),
        }
    }
    bytes
}

/// The metadata version of this number.
pub(crate) fn minor_of(number: u8) -> Format {
    match number {
        0 => Format::V1_0,
        1 => Format::V1_1,
        OLD => Format::V090,
        _ => Format::V1_2,
    }
}

/// The superblock a read of the disk finds.
pub(crate) fn superblock_on(disk: &SimDisk, minor: u8) -> Result<SuperblockV1, NoSuperblock> {
    let minor = minor_of(minor);
    let size = disk.sectors();
    let at = minor
        .superblock_sector(size)
        .expect("the disk has room for a superblock");
    let bytes = read_sectors(disk, at, 8);
    Ok(SuperblockV1::load(&bytes, minor, size)?)
}

fn bitmap_on(
    disk: &SimDisk,
    superblock: &SuperblockV1,
) -> Option<Result<BitmapSuperblock, BitmapError>> {
    superblock.fields.bitmap_offset_sectors()?;
    let at = superblock.fields.bitmap_sector()?;
    let bytes = read_sectors(disk, at, 1);
    let uuid = superblock.bitmap_uuid();
    Some(Unverified::parse(&bytes).and_then(|found| found.verify(uuid)))
}

fn facts_of(candidate: &Candidate<'_>, minor: u8) -> MemberFacts {
    let superblock = superblock_on(candidate.disk, minor);
    let bitmap = superblock
        .as_ref()
        .ok()
        .and_then(|sb| bitmap_on(candidate.disk, sb));
    let fields = superblock.as_ref().ok().map(|sb| &sb.fields);
    let bad_blocks = fields.and_then(|fields| {
        let (sector, len) = BadLog::place(fields)?;
        let bytes = read_sectors(candidate.disk, sector, len);
        Some(BadLog::read(fields, &bytes))
    });
    MemberFacts {
        id: candidate.id,
        name: candidate.name.clone(),
        size_sectors: candidate.disk.sectors(),
        logical_block_bytes: candidate.disk.block_bytes(),
        superblock,
        bitmap,
        bad_blocks,
    }
}

/// The bitmap area the plan asks for.
fn bitmap_area(
    plan: &BitmapPlan,
    candidates: &[Candidate<'_>],
    facts: &[MemberFacts],
) -> Option<Vec<u8>> {
    let (source, superblock) = match plan {
        BitmapPlan::None => return None,
        BitmapPlan::Usable { source, superblock } | BitmapPlan::Stale { source, superblock } => {
            (*source, superblock)
        }
    };
    let candidate = candidates
        .iter()
        .find(|c| c.id == source)
        .expect("the plan names a candidate");
    let facts = facts
        .iter()
        .find(|f| f.id == source)
        .expect("facts of every candidate");
    let fields = &facts
        .superblock
        .as_ref()
        .expect("a source has a superblock")
        .fields;
    let at = fields.bitmap_sector().expect("a source has a bitmap");
    let len = superblock.area_sectors(superblock.regions(fields.size_sectors));
    Some(read_sectors(candidate.disk, at, len))
}

/// Puts the bitmap of a file into the plan, as whoever runs the core does. Gives its bytes.
fn take_file(
    id: MemberId,
    disk: &SimDisk,
    plan: &mut Plan,
    facts: &[MemberFacts],
) -> Result<Vec<u8>, Refused> {
    let reference = facts.iter().find(|fact| fact.id == plan.reference);
    let reference = reference.and_then(|fact| fact.superblock.as_ref().ok());
    let uuid = reference
        .expect("a reference has a superblock")
        .bitmap_uuid();
    let found = Unverified::parse(&read_sectors(disk, 0, 1)).and_then(|found| found.verify(uuid));
    let superblock = found.map_err(|why| Refused {
        why: format!("the bitmap file cannot be used: {why}"),
        write_hole: false,
    })?;
    let len = superblock.area_sectors(superblock.regions(plan.sync_sectors()));
    let stale = superblock.is_stale(plan.events.0) || !plan.forced.is_empty();
    let source = id;
    plan.bitmap = match stale {
        true => BitmapPlan::Stale { source, superblock },
        false => BitmapPlan::Usable { source, superblock },
    };
    Ok(read_sectors(disk, 0, len))
}

/// Assembles and starts the core; `museum` names a mistake to be made.
pub(crate) fn start_core(
    candidates: &[Candidate<'_>],
    how: How<'_>,
    museum: Museum,
    now: Now,
    pool: &Pool,
) -> Result<Started, Refused> {
    let facts: Vec<MemberFacts> = candidates.iter().map(|c| facts_of(c, how.minor)).collect();
    let wish = Wish {
        force: how.force,
        museum,
        ..Wish::default()
    };
    let mut plan = assemble(&facts, &wish).map_err(|refusal| Refused {
        why: refusal.to_string(),
        write_hole: matches!(refusal.kind, RefusalKind::NotEnoughWhileUnclean { .. }),
    })?;
    // A raid0 has no use for one: whoever runs the core leaves it alone.
    let file = how.file.filter(|_| plan.geometry.is_redundant());
    let bitmap_area = match file {
        Some((id, disk)) => Some(take_file(id, disk, &mut plan, &facts)?),
        None => bitmap_area(&plan.bitmap, candidates, &facts),
    };
    let setup = Setup {
        plan,
        facts,
        bitmap_area,
        pool: pool.clone(),
        options: Options {
            museum,
            read_auto: how.read_auto,
            bitmap_file: file.map(|(id, _)| (id, "bits".into())),
            ..Options::default()
        },
    };
    let mut array = Array::start(setup);
    let mut commands = Vec::new();
    array.begin(now, &mut commands);
    array.check_invariants();
    let members = array.status().members.iter().map(|m| m.id).collect();
    Ok(Started {
        engine: Box::new(Core { array, events: 0 }),
        commands,
        members,
    })
}

impl Maker for Shipped {
    fn start(
        &self,
        candidates: &[Candidate<'_>],
        how: How<'_>,
        now: Now,
        pool: &Pool,
    ) -> Result<Started, Refused> {
        start_core(candidates, how, Museum::NONE, now, pool)
    }
}
