//! Members of a plain array become those of a clustered one.
//!
//! ```text
//!   1  superblock      := without a bad-block log    if it had room for one; a plain array
//!   2  bitmap          := out of date                if bits have to mean more; a plain array
//!   3  all bitmaps     := but the first block        bits are only added; a plain array
//!   4  the first block := version 5                  neither: done again, or taken back
//!   5  superblock      := with the feature           a clustered array
//! ```
//!
//! All members get the same: what any of them calls dirty is dirty for node 0. Cut short, it is
//! done again, and `no-cluster` takes it back. Facts: cluster.md section 13.

use super::{Change, UpdateError, no};
use crate::bitmap::{
    self, BitmapError, BitmapSuperblock, REGION_BYTES_DEFAULT, SUPERBLOCK_BYTES, Slots, State,
    Unverified, bit_position, initial_slots, on_disk_sectors,
};
use crate::bytes::put;
use crate::create::{Cluster, NODES_MIN};
use crate::v1::{DeviceFlags, Features, Fields, Role};
use crate::{Format, Level, Raid10Layout, SECTOR_BYTES, SECTOR_MAX, SuperblockV1};

/// mdadm's number of nodes.
pub const NODES_DEFAULT: u32 = 4;

/// Sectors between a superblock of version 1.2 and its bitmaps.
const BITMAP_OFFSET_SECTORS: u32 = 8;

/// What a member says of what was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Before {
    /// One bitmap, with all its bytes.
    Plain(Box<BitmapSuperblock>, Vec<u8>),
    /// The bitmaps of all nodes: step 4 was done before.
    Clustered(Box<Slots>, Vec<u8>),
    /// There is none.
    None,
    /// There is one that cannot be used.
    Bad(BitmapError),
}

impl Before {
    /// What lies at the place of a bitmap: `read` gives so many sectors from there on, or `None`.
    pub fn of(found: &SuperblockV1, read: impl Fn(u64) -> Option<Vec<u8>>) -> Before {
        if found.fields.bitmap_sector().is_none() {
            return Before::None;
        }
        let array = found.bitmap_uuid();
        let cut = |_| Before::Bad(BitmapError::Impossible("it cannot be read".to_owned()));
        let Some(head) = read(1) else {
            return cut(());
        };
        if let Ok(slots) = Slots::of(&head, array) {
            let fits = slots.all_sectors() <= room_sectors(&found.fields);
            let area = fits.then(|| read(slots.all_sectors())).flatten();
            return area.map_or_else(|| cut(()), |area| Before::Clustered(Box::new(slots), area));
        }
        let plain = match Unverified::parse(&head).and_then(|one| one.verify(array)) {
            Ok(plain) => plain,
            Err(why) => return Before::Bad(why),
        };
        let regions = plain.regions(covered_sectors(&found.fields));
        let sectors = plain.area_sectors(regions);
        let fits = sectors <= room_sectors(&found.fields);
        let area = fits.then(|| read(sectors)).flatten();
        area.map_or_else(|| cut(()), |area| Before::Plain(Box::new(plain), area))
    }
}

/// A member, as it is.
#[derive(Debug, Clone)]
pub struct Member<'a> {
    /// Its superblock.
    pub found: &'a SuperblockV1,
    /// Its bitmap.
    pub before: Before,
    /// What is written at once.
    pub block_bytes: usize,
}

/// What all members need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// One for each, in their order; without writes where it was done before.
    pub changes: Vec<Change>,
    /// The cluster.
    pub cluster: Cluster,
    /// What a bit stands for.
    pub region_bytes: u64,
    /// The same before, where it was less.
    pub smaller_bytes: Option<u64>,
    /// Regions that are dirty.
    pub dirty: u64,
}

/// Why it cannot be done, and on which of the members, if it is one of them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Refused {
    /// Its place among them.
    pub member: Option<usize>,
    /// A sentence without the member.
    pub why: UpdateError,
}

impl Refused {
    fn of(member: usize, why: UpdateError) -> Refused {
        Refused {
            member: Some(member),
            why,
        }
    }
}

impl From<UpdateError> for Refused {
    fn from(why: UpdateError) -> Refused {
        Refused { member: None, why }
    }
}

/// Sectors that bitmaps cover: data of each member, or a RAID10 as a whole.
fn covered_sectors(fields: &Fields) -> u64 {
    let layout = Raid10Layout::parse(fields.layout, fields.raid_disks as u16);
    let layout = layout.filter(|_| fields.level == Level::Raid10);
    let chunk = u64::from(fields.chunk_sectors);
    layout.map_or(fields.size_sectors, |layout| {
        layout.array_sectors(chunk, fields.size_sectors)
    })
}

/// Sectors between the place of bitmaps and the data.
fn room_sectors(fields: &Fields) -> u64 {
    let start = fields.super_offset_sectors + u64::from(BITMAP_OFFSET_SECTORS);
    fields.data_offset_sectors.saturating_sub(start)
}

/// Computes what makes these members, which are all that are there of one array, those of the
/// cluster `name` with so many nodes.
///
/// # Errors
/// When a cluster cannot run it, its bitmaps have no room, or nobody knows what is dirty.
///
/// # Panics
/// Without members.
pub fn join(members: &[Member<'_>], name: &str, nodes: Option<u32>) -> Result<Joined, Refused> {
    let newest = members.iter().max_by_key(|one| one.found.fields.events);
    let newest = newest.expect("an array has members").found;
    for (index, member) in members.iter().enumerate() {
        let fits = fit(member.found, newest).and_then(|()| fit_bitmap(member));
        fits.map_err(|why| Refused::of(index, why))?;
    }
    let begun = begun(members, name, nodes)?;
    let cluster = Cluster {
        nodes: nodes.or(begun.map(Slots::nodes)).unwrap_or(NODES_DEFAULT),
        name: name.to_owned(),
    };
    cluster.check().map_err(UpdateError)?;
    let (superblock, smaller_bytes) = superblock(members, begun, &cluster, newest.fields.events)?;
    let dirty = dirty(members, &superblock);
    let image = image(&superblock, &cluster, &dirty);
    let is_clean = members.iter().all(|one| one.found.fields.is_clean());
    let resync = if is_clean && dirty.is_empty() {
        SECTOR_MAX
    } else {
        0
    };
    let change = |one: &Member<'_>| change(one, &superblock, &image, resync);
    Ok(Joined {
        changes: members.iter().map(change).collect(),
        cluster,
        region_bytes: superblock.fields.region_bytes(),
        smaller_bytes,
        dirty: dirty.len() as u64,
    })
}

/// Whether a cluster can run what this member is of, and it is in it. (cluster.md section 15)
fn fit(found: &SuperblockV1, newest: &SuperblockV1) -> Result<(), UpdateError> {
    let (fields, known) = (&found.fields, &newest.fields);
    if found.format() != Format::V1_2 {
        let format = found.format();
        return no(format!(
            "a clustered array needs metadata version 1.2, not {format}"
        ));
    }
    let layout = Raid10Layout::parse(fields.layout, fields.raid_disks as u16);
    match fields.level {
        Level::Raid1 => {}
        Level::Raid10 if layout.is_some_and(|layout| layout.far == 1) => {}
        Level::Raid10 => return no("a clustered raid10 has a near layout, as n2"),
        level => return no(format!("a cluster runs raid1 and raid10, not {level}")),
    }
    let role = fields.own_role();
    if fields.events + 1 < known.events
        || role == Role::Faulty
        || role != known.role_of(fields.dev_number)
    {
        return no("it is out of date: leave it out, and add it again when the array runs");
    }
    let shape = |of: &Fields| {
        let size = (of.size_sectors, of.chunk_sectors, of.raid_disks);
        (of.level, of.layout, size)
    };
    if shape(fields) != shape(known) {
        return no("it does not say the same of the array as the others: assemble it first");
    }
    let moving = "a reshape is under way: let it end";
    for (feature, what) in [
        (Features::RESHAPE_ACTIVE, moving),
        (Features::NEW_OFFSET, moving),
        (
            Features::RECOVERY_OFFSET,
            "it is being filled: let that end",
        ),
        (
            Features::REPLACEMENT,
            "it is to replace another one: let that end",
        ),
        (Features::JOURNAL, "its array has a write journal"),
        (Features::PPL, "its array has a partial parity log"),
        (
            Features::MULTIPLE_PPLS,
            "its array has a partial parity log",
        ),
        (
            Features::BAD_BLOCKS,
            "its bad-block log is not empty, and a cluster has none",
        ),
    ] {
        if fields.features.contains(feature) {
            return no(what);
        }
    }
    if role == Role::Journal {
        return no("its array has a write journal");
    }
    if fields.flags.contains(DeviceFlags::WRITE_MOSTLY) {
        return no("it is write-mostly, and a cluster has no such members");
    }
    Ok(())
}

/// Whether its bitmap can become that of node 0.
fn fit_bitmap(member: &Member<'_>) -> Result<(), UpdateError> {
    let fields = &member.found.fields;
    let start = fields.super_offset_sectors + u64::from(BITMAP_OFFSET_SECTORS);
    if fields.bitmap_sector().is_some_and(|sector| sector != start) {
        return no(
            "its bitmap is not behind its superblock: give it up first (--update=no-bitmap)",
        );
    }
    match &member.before {
        Before::Plain(one, _) if one.is_lockless() => {
            no("it has a lockless bitmap: give that up first (--update=no-bitmap)")
        }
        Before::Bad(why) if matches!(fields.own_role(), Role::Active(_)) => {
            no(format!("its bitmap cannot be used: {why}"))
        }
        _ => Ok(()),
    }
}

/// What was begun before, which has to be this.
fn begun<'a>(
    members: &'a [Member<'_>],
    name: &str,
    nodes: Option<u32>,
) -> Result<Option<&'a Slots>, Refused> {
    let mut first: Option<&Slots> = None;
    for (index, member) in members.iter().enumerate() {
        let is_in = member.found.fields.features.contains(Features::CLUSTERED);
        let slots = match &member.before {
            Before::Clustered(slots, _) => slots,
            _ if is_in => {
                let why = "it is of a cluster, and its bitmaps cannot be used".to_owned();
                return Err(Refused::of(index, UpdateError(why)));
            }
            _ => continue,
        };
        let (stored, wide) = (slots.cluster(), slots.nodes());
        let same = |one: &Slots| {
            let of = |slots: &Slots| (slots.nodes(), slots.first.region_raw, slots.regions());
            of(one) == of(slots)
        };
        let why = if stored != name {
            format!("it belongs to cluster '{stored}', not '{name}'")
        } else if nodes.is_some_and(|nodes| nodes != wide) {
            format!("it has bitmaps of {wide} nodes already: say --nodes={wide}")
        } else if !first.is_none_or(same) {
            "its bitmaps are not those of the other members".to_owned()
        } else {
            first = first.or(Some(slots));
            continue;
        };
        return Err(Refused::of(index, UpdateError(why)));
    }
    Ok(first)
}

/// What bitmaps say of themselves, but for the cluster; and what a bit stood for, if it was less.
fn superblock(
    members: &[Member<'_>],
    begun: Option<&Slots>,
    cluster: &Cluster,
    events: u64,
) -> Result<(BitmapSuperblock, Option<u64>), Refused> {
    let of = members[0].found;
    let covered = covered_sectors(&of.fields);
    let plain = members.iter().find_map(|one| match &one.before {
        Before::Plain(plain, _) => Some(plain),
        _ => None,
    });
    let had = match (begun, plain) {
        (Some(slots), _) => slots.first.region_raw,
        (None, Some(plain)) => plain.fields.region_raw,
        (None, None) => REGION_BYTES_DEFAULT,
    };
    let room = members
        .iter()
        .map(|one| room_sectors(&one.found.fields))
        .min();
    let room = room.expect("there are members");
    let all =
        |region: u32| on_disk_sectors(bitmap::regions(covered, region)) * u64::from(cluster.nodes);
    let mut regions = std::iter::successors(Some(had), |region| region.checked_mul(2));
    let Some(region) = regions.find(|&region| all(region) <= room) else {
        let (most, nodes) = (room / on_disk_sectors(1), cluster.nodes);
        let most = match most < u64::from(NODES_MIN) {
            true => "not those of two".to_owned(),
            false => format!("those of {most} fit"),
        };
        return Err(Refused::from(UpdateError(format!(
            "the bitmaps of {nodes} nodes do not fit between the superblock and the data: {most}"
        ))));
    };
    let mut superblock = BitmapSuperblock::new(of.bitmap_uuid(), covered, region);
    superblock.fields.events = events;
    // Who left before has no bitmaps of nodes: it is filled when it comes back.
    superblock.fields.events_cleared = events;
    if let Some(plain) = plain {
        superblock.fields.daemon_sleep_s = plain.fields.daemon_sleep_s;
    } else if let Some(slots) = begun {
        superblock.fields.daemon_sleep_s = slots.first.daemon_sleep_s;
    }
    let grown = plain.filter(|plain| plain.fields.region_raw < region);
    Ok((superblock, grown.map(|plain| plain.fields.region_bytes())))
}

/// The regions of node 0 that are dirty, in order.
fn dirty(members: &[Member<'_>], superblock: &BitmapSuperblock) -> Vec<u64> {
    let covered = superblock.fields.sync_size_sectors;
    let count = superblock.regions(covered);
    let mut marked = vec![false; usize::try_from(count).expect("bits fit into memory")];
    let mut mark = |from_bytes: u64, to_bytes: u64| {
        let region = superblock.fields.region_bytes();
        let end = to_bytes.div_ceil(region).min(count);
        (from_bytes / region..end).for_each(|one| marked[one as usize] = true);
    };
    let active = |one: &&Member<'_>| matches!(one.found.fields.own_role(), Role::Active(_));
    for member in members.iter().filter(active) {
        let fields = &member.found.fields;
        match &member.before {
            Before::Plain(plain, _) if plain.is_stale(fields.events) => mark(0, u64::MAX),
            Before::Plain(plain, area) => {
                let region = plain.fields.region_bytes();
                for one in (0..plain.regions(covered)).filter(|one| is_set(area, *one)) {
                    mark(one * region, (one + 1) * region);
                }
            }
            Before::Clustered(slots, area) => {
                let merged = slots.merge(area, member.found.bitmap_uuid(), fields.events);
                let region = slots.first.region_bytes();
                let set = |one: &u64| is_set(&merged.clustered, *one);
                for one in (0..slots.regions()).filter(set) {
                    mark(one * region, (one + 1) * region);
                }
            }
            Before::None if fields.is_clean() => {}
            // A RAID10 counts what is in sync otherwise than its members do.
            Before::None if fields.level == Level::Raid10 => mark(0, u64::MAX),
            Before::None => mark(
                fields
                    .resync_offset_sectors
                    .saturating_mul(SECTOR_BYTES as u64),
                u64::MAX,
            ),
            Before::Bad(_) => unreachable!("refused before"),
        }
    }
    let numbered = (0..).zip(marked);
    numbered
        .filter_map(|(one, dirty)| dirty.then_some(one))
        .collect()
}

fn is_set(area: &[u8], region: u64) -> bool {
    let (byte, mask) = bit_position(region);
    area[byte as usize] & mask != 0
}

/// The bytes of all bitmaps.
fn image(superblock: &BitmapSuperblock, cluster: &Cluster, dirty: &[u64]) -> Vec<u8> {
    let mut all = initial_slots(superblock, cluster.nodes, cluster.padded_name());
    let each = all.len() / cluster.nodes as usize;
    all[SUPERBLOCK_BYTES..each].fill(0);
    for region in dirty {
        let (byte, mask) = bit_position(*region);
        all[byte as usize] |= mask;
    }
    all
}

fn change(member: &Member<'_>, superblock: &BitmapSuperblock, image: &[u8], resync: u64) -> Change {
    let bytes: [u8; SUPERBLOCK_BYTES] = crate::bytes::array_at(image, 0);
    let uuid = member.found.bitmap_uuid();
    let node = Unverified::parse(&bytes).and_then(|one| one.verify_node(uuid));
    let node = node.expect("just made");
    let mut new = member.found.clone();
    if new.fields.features.contains(Features::CLUSTERED) {
        return Change {
            superblock: new,
            bitmap: Some(node),
            writes: Vec::new(),
        };
    }
    let (place, block) = (new.fields.super_offset_sectors, member.block_bytes);
    let start = place + u64::from(BITMAP_OFFSET_SECTORS);
    let mut writes = Vec::new();
    if new.fields.bblog_offset_sectors != 0 {
        (
            new.fields.bblog_offset_sectors,
            new.fields.bblog_size_sectors,
        ) = (0, 0);
        new.fields.bblog_shift = 0;
        writes.push((place, new.encode(block)));
    }
    if let Before::Plain(plain, area) = &member.before
        && plain.fields.region_raw != superblock.fields.region_raw
    {
        let mut stale = (**plain).clone();
        stale.fields.state = stale.fields.state.with(State::STALE);
        let mut head = area[..block].to_vec();
        put(&mut head, 0, &stale.encode());
        writes.push((start, head));
    }
    let behind = start + (block / SECTOR_BYTES) as u64;
    writes.push((behind, image[block..].to_vec()));
    writes.push((start, image[..block].to_vec()));
    new.fields.features = new
        .fields
        .features
        .with(Features::CLUSTERED.with(Features::BITMAP_OFFSET));
    new.fields.bitmap_offset_raw = BITMAP_OFFSET_SECTORS;
    new.fields.resync_offset_sectors = resync;
    writes.push((place, new.encode(block)));
    Change {
        superblock: new,
        bitmap: Some(node),
        writes,
    }
}
