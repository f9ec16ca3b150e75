//! What lies on the disks: a new clustered array, and what a host reads of it when it joins.

use umd_core::array::{Options, Setup};
use umd_core::assembly::{BitmapPlan, MemberFacts, Wish, assemble};
use umd_core::cluster::{Cannot, NodeSlot};
use umd_core::value::{Instant, MemberId, Museum, Pool};
use umd_format::bitmap::{BitmapSuperblock, Unverified};
use umd_format::create::{Cluster, NewArray, NewMember, new_clustered};
use umd_format::space::RegionWish;
use umd_format::v1::DeviceFlags;
use umd_format::{Format, Level, SuperblockV1, Uuid};

use super::plan::{CHUNK_SECTORS, Plan};
use crate::disk::{Latency, SimDisk};
use crate::engine::now_at;
use crate::rng::{Rng, Stream};
use crate::shipped::{read_sectors, superblock_on};
use crate::stamp::SECTOR;

/// Metadata 1.2 is all that a cluster runs.
const MINOR: u8 = 2;
/// Where data begins on every member.
const DATA_SECTOR: u64 = 256;

const LATENCY: Latency = Latency {
    read_ns: 150_000,
    write_ns: 300_000,
    flush_ns: 800_000,
    spike_permille: 5,
    spike_factor: 200,
};

/// Sectors of every disk.
fn device_sectors(plan: &Plan) -> u64 {
    DATA_SECTOR + plan.used_sectors + plan.room_sectors
}

/// The disks, with the array on those that are its members.
pub fn make_disks(plan: &Plan) -> Vec<SimDisk> {
    let sectors = device_sectors(plan);
    let disk = |n: usize| {
        let rng = Rng::new(plan.seed, Stream::Disk(n as u16));
        let mut disk = SimDisk::new(sectors, LATENCY, rng);
        if plan.plain {
            disk.make_plain();
        }
        disk
    };
    let mut disks: Vec<SimDisk> = (0..plan.disks()).map(disk).collect();
    let device = |n: usize| NewMember {
        device_sectors: sectors,
        device_uuid: uuid(n as u8),
        flags: DeviceFlags(0),
    };
    let new = NewArray {
        format: Format::V1_2,
        preferred_minor: 0,
        set_uuid: Uuid([7; 16]),
        name: "hall:shared".into(),
        ctime_seconds: now_at(Instant(0)).wall_seconds,
        level: Level::from_raw(plan.level),
        layout: plan.layout,
        chunk_sectors: if plan.level == 10 {
            CHUNK_SECTORS as u32
        } else {
            0
        },
        size_sectors: Some(plan.used_sectors),
        data_offset_sectors: Some(DATA_SECTOR),
        bitmap: Some(RegionWish::Bytes(plan.region_bytes as u32)),
        bad_block_log: false,
        assume_clean: plan.assume_clean,
        slots: (0..plan.legs).map(|n| Some(device(n))).collect(),
        spares: (plan.legs..plan.legs + plan.spares).map(device).collect(),
    };
    let cluster = Cluster {
        nodes: u32::from(plan.capacity),
        name: "hall".into(),
    };
    let made = new_clustered(&new, &cluster).expect("a plan is an array");
    let mut area = made.bitmap_image().expect("a cluster has bitmaps");
    if plan.assume_clean {
        // Nothing was ever written, and every disk holds zeros.
        let each = area.len() / usize::from(plan.capacity);
        area[256..each].fill(0);
    }
    let superblocks = made.slots.iter().flatten().chain(&made.spares);
    for (disk, one) in disks.iter_mut().zip(superblocks) {
        let bitmap = one.fields.bitmap_sector().expect("a cluster has bitmaps");
        put(disk, one.fields.super_offset_sectors, &one.encode(SECTOR));
        put(disk, bitmap, &area);
    }
    disks
}

/// The identity of a device.
pub fn uuid(number: u8) -> Uuid {
    Uuid([number + 1; 16])
}

fn put(disk: &mut SimDisk, first: u64, bytes: &[u8]) {
    for (sector, content) in (first..).zip(bytes.chunks_exact(SECTOR)) {
        disk.medium_mut().put(sector, Some(content));
    }
}

/// The superblock that a host would read.
pub fn superblock(disk: &SimDisk) -> Option<SuperblockV1> {
    superblock_on(disk, MINOR).ok()
}

/// Sectors of the bitmap of one node, by the first that can be read; where it begins.
pub fn bitmaps(disk: &SimDisk) -> Option<(u64, u64)> {
    let at = superblock(disk)?.fields.bitmap_sector()?;
    let first = first_bitmap(disk)?;
    let regions = first.regions(first.fields.sync_size_sectors);
    Some((at, first.area_sectors(regions)))
}

/// The superblock of the first bitmap.
pub fn first_bitmap(disk: &SimDisk) -> Option<BitmapSuperblock> {
    let at = superblock(disk)?.fields.bitmap_sector()?;
    let first = Unverified::parse(&read_sectors(disk, at, 1)).ok()?;
    first.verify_node(Uuid([7; 16])).ok()
}

fn facts_of(disk: &SimDisk, id: MemberId, slot: NodeSlot) -> MemberFacts {
    let superblock = superblock_on(disk, MINOR);
    let bitmap = superblock.as_ref().ok().and_then(|found| {
        let (at, each) = bitmaps(disk)?;
        if let Some(first) = first_bitmap(disk).filter(BitmapSuperblock::is_moving) {
            return Some(Ok(first));
        }
        let sector = read_sectors(disk, at + each * u64::from(slot.0), 1);
        let parsed = Unverified::parse(&sector);
        Some(parsed.and_then(|one| one.verify_node(found.bitmap_uuid())))
    });
    MemberFacts {
        id,
        name: format!("d{}", id.0 % 64),
        size_sectors: disk.sectors(),
        logical_block_bytes: disk.block_bytes(),
        superblock,
        bitmap,
        bad_blocks: None,
    }
}

/// What a host that joins in a slot makes of the disks that it sees.
pub fn load(
    seen: &[(MemberId, &SimDisk)],
    slot: NodeSlot,
    museum: Museum,
    pool: &Pool,
) -> Result<Box<Setup>, Cannot> {
    let facts = seen.iter().map(|(id, disk)| facts_of(disk, *id, slot));
    let facts: Vec<MemberFacts> = facts.filter(|one| one.superblock.is_ok()).collect();
    let wish = Wish {
        clustered: true,
        museum,
        ..Wish::default()
    };
    let plan = assemble(&facts, &wish).map_err(|_| Cannot::Read)?;
    let (BitmapPlan::Usable { source, .. } | BitmapPlan::Stale { source, .. }) = &plan.bitmap
    else {
        return Err(Cannot::Read);
    };
    let (_, disk) = seen
        .iter()
        .find(|(id, _)| id == source)
        .expect("it was seen");
    let (at, each) = bitmaps(disk).ok_or(Cannot::Read)?;
    let area = read_sectors(disk, at + each * u64::from(slot.0), each);
    Ok(Box::new(Setup {
        bitmap_area: Some(area),
        plan,
        facts,
        pool: pool.clone(),
        options: Options {
            museum,
            ..Options::default()
        },
    }))
}
