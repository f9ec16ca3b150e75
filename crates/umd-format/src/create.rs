//! The superblocks of a new array, and of a member that joins an existing one.
//!
//! Device numbers: slots 0 to n-1 in order, then the spares. A new array with redundancy starts
//! with `resync_offset` 0, so that its members are made equal; what is marked instead when
//! members are missing:
//!
//! | level     | missing     | consistent because                       | marked             |
//! |-----------|-------------|------------------------------------------|--------------------|
//! | raid1     | all but one | there is nothing to differ from          | clean              |
//! | raid1     | some        | -                                        | resync from 0      |
//! | raid4, 5  | one         | the missing block is what parity says    | clean              |
//! | raid6     | two         | the same, twice                          | clean              |
//! | raid6     | one         | one equation too many: P, Q may disagree | clean, one rebuilt |
//! | raid10    | some        | -                                        | resync from 0      |
//!
//! The one that is rebuilt, from 0, is the last present member.
//! (An array that is not clean and lacks a member may not be started at level 4, 5 or 6, so the
//! last row cannot simply ask for a resync.)

use crate::bitmap::{self, BitmapSuperblock, NODES_MAX, RegionState};
use crate::place::Format;
use crate::raid10::Raid10Layout;
use crate::space::{
    self, ArraySpace, BBLOG_SECTORS, MemberSpace, RegionWish, SpaceError, SpaceWish,
};
use crate::v1::{
    DeviceFlags, Features, Fields, HEADER_BYTES, Listed, Node, ParseError, ROLES_MAX, Role,
    UnixTime,
};
use crate::v090;
use crate::{FaultyLayout, Level, SECTOR_BYTES, SECTOR_MAX, SuperblockV1, Uuid};

/// The longest name in bytes; shorter than the field, which ends with a NUL as mdadm has it.
pub const NAME_BYTES_MAX: usize = 31;

/// A new array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewArray {
    /// How it is stored.
    pub format: Format,
    /// Its identity, random.
    pub set_uuid: Uuid,
    /// Its name, "host:name" or "name"; version 0.90 has none.
    pub name: String,
    /// The number of its md device, for version 0.90.
    pub preferred_minor: u32,
    /// The time now, seconds since 1970.
    pub ctime_seconds: u64,
    /// Level.
    pub level: Level,
    /// Layout number; for raid0 1 or 2 (0 leaves it unsaid).
    pub layout: u32,
    /// Chunk, 0 for raid1; of linear the rounding, 0 for none.
    pub chunk_sectors: u32,
    /// Size of each member, as much as there is when `None`.
    pub size_sectors: Option<u64>,
    /// Data offset, mdadm's rule when `None`.
    pub data_offset_sectors: Option<u64>,
    /// Internal bitmap.
    pub bitmap: Option<RegionWish>,
    /// Bad-block log; mdadm makes one unless told otherwise.
    pub bad_block_log: bool,
    /// The user says that the members are in sync already.
    pub assume_clean: bool,
    /// One entry per slot, `None` for a missing member.
    pub slots: Vec<Option<NewMember>>,
    /// Spares.
    pub spares: Vec<NewMember>,
}

/// The fewest nodes that a new cluster has.
pub const NODES_MIN: u32 = 2;
/// The longest name of a cluster in bytes; shorter than the field, which ends with a NUL.
pub const CLUSTER_NAME_BYTES_MAX: usize = 63;

/// The cluster of hosts that is to run a new array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// How many hosts can run it at the same time: each has a bitmap of its own.
    pub nodes: u32,
    /// Its name.
    pub name: String,
}

impl Cluster {
    /// Whether there can be such a cluster, or why not.
    pub(crate) fn check(&self) -> Result<(), String> {
        if !(NODES_MIN..=NODES_MAX).contains(&self.nodes) {
            return Err(format!(
                "a clustered array has {NODES_MIN} to {NODES_MAX} nodes, not {}",
                self.nodes
            ));
        }
        let (name, most) = (&self.name, CLUSTER_NAME_BYTES_MAX);
        if name.is_empty() || name.len() > most || name.contains(char::is_control) {
            return Err(format!(
                "the name of a cluster has 1 to {most} bytes and no control characters, unlike \
                 {name:?}"
            ));
        }
        Ok(())
    }

    /// The name as bitmaps have it.
    pub(crate) fn padded_name(&self) -> [u8; 64] {
        let mut name = [0; 64];
        name[..self.name.len()].copy_from_slice(self.name.as_bytes());
        name
    }
}

/// A device of a new array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewMember {
    /// Its size.
    pub device_sectors: u64,
    /// Its identity, random.
    pub device_uuid: Uuid,
    /// Write-mostly, failfast.
    pub flags: DeviceFlags,
}

/// What to write for a new array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    /// One per slot, `None` where the member is missing.
    pub slots: Vec<Option<SuperblockV1>>,
    /// One per spare.
    pub spares: Vec<SuperblockV1>,
    /// The bitmap to write to every member with a slot, at its `bitmap_sector`; in a cluster to
    /// spares as well. That of a node is made from it.
    pub bitmap: Option<BitmapSuperblock>,
    /// The cluster that runs it.
    pub cluster: Option<Cluster>,
    /// What a lockless bitmap says of every region.
    pub regions: RegionState,
}

impl Created {
    /// The bytes of the bitmap, if there is one.
    pub fn bitmap_image(&self) -> Option<Vec<u8>> {
        let image = |bitmap: &BitmapSuperblock| match &self.cluster {
            Some(of) => bitmap::initial_slots(bitmap, of.nodes, of.padded_name()),
            None if bitmap.is_lockless() => bitmap.lockless_image(self.regions),
            None => bitmap::initial_image(bitmap),
        };
        self.bitmap.as_ref().map(image)
    }
}

/// Why an array cannot be created.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CreateError {
    /// The description makes no array.
    #[error("{0}")]
    Shape(String),
    /// It does not fit on the devices. The index counts present members by slot, then spares.
    #[error(transparent)]
    Space(#[from] SpaceError),
    /// The outcome would not be a valid superblock.
    #[error("these values make no valid superblock: {0}")]
    Superblock(#[from] ParseError),
}

/// Makes the superblocks and the bitmap of a new array.
///
/// # Errors
/// When the description is no array, or does not fit.
pub fn new_array(array: &NewArray) -> Result<Created, CreateError> {
    new_one(array, None)
}

/// The same for an array that a cluster of hosts runs. (cluster.md section 13)
///
/// # Errors
/// When the description is no array, none that a cluster can run, or does not fit.
pub fn new_clustered(array: &NewArray, cluster: &Cluster) -> Result<Created, CreateError> {
    check_cluster(array, cluster).map_err(CreateError::Shape)?;
    new_one(array, Some(cluster))
}

fn new_one(array: &NewArray, cluster: Option<&Cluster>) -> Result<Created, CreateError> {
    check_shape(array)?;
    let present = array.slots.iter().flatten().chain(&array.spares);
    let device_sectors: Vec<u64> = present.map(|member| member.device_sectors).collect();
    let wish = SpaceWish {
        format: array.format,
        level: array.level,
        raid10: raid10(array),
        chunk_sectors: array.chunk_sectors,
        bitmap: array.bitmap,
        bitmaps: cluster.map_or(1, |cluster| cluster.nodes),
        bad_block_log: array.bad_block_log,
        data_offset_sectors: array.data_offset_sectors,
        size_sectors: array.size_sectors,
    };
    let space = space::plan(&wish, &device_sectors)?;
    let mut common = common_fields(array, &space);
    if cluster.is_some() {
        common.features = common.features.with(Features::CLUSTERED);
    }
    let rebuilt = rebuilt_slot(array);
    let listed = listed(array, rebuilt);
    let mut places = space.members.iter();
    let mut member = |number: usize, new: &NewMember| {
        let place = places.next().expect("a place was planned for every device");
        let fields = member_fields(&common, array.level, number, new, place);
        let fields = match array.format.keeps_members_apart() {
            true if rebuilt == Some(number) => rebuilding(fields),
            true => fields,
            false => numbered(fields, &listed, array, rebuilt),
        };
        SuperblockV1::build(array.format, fields, new.device_sectors)
    };
    let mut slots = Vec::with_capacity(array.slots.len());
    for (slot, new) in array.slots.iter().enumerate() {
        slots.push(new.as_ref().map(|new| member(slot, new)).transpose()?);
    }
    let mut spares = Vec::with_capacity(array.spares.len());
    for (index, new) in array.spares.iter().enumerate() {
        spares.push(member(array.slots.len() + index, new)?);
    }
    let bitmap = space.bitmap.map(|place| {
        let member = slots.iter().flatten().next();
        let uuid = member.map_or(array.set_uuid, SuperblockV1::bitmap_uuid);
        match place.lockless {
            true => BitmapSuperblock::new_lockless(uuid, place.covered_sectors)
                .expect("a place was planned for it"),
            false => BitmapSuperblock::new(uuid, place.covered_sectors, place.region_raw),
        }
    });
    Ok(Created {
        slots,
        spares,
        bitmap,
        cluster: cluster.cloned(),
        regions: match array.assume_clean {
            true => RegionState::Clean,
            false => RegionState::Unwritten,
        },
    })
}

fn raid10(array: &NewArray) -> Option<Raid10Layout> {
    let disks = u16::try_from(array.slots.len()).ok()?;
    let layout = Raid10Layout::parse(array.layout, disks)?;
    (array.level == Level::Raid10).then_some(layout)
}

fn check_shape(array: &NewArray) -> Result<(), CreateError> {
    let level = array.level;
    let shape = |text| Err(CreateError::Shape(text));
    let supported =
        level.is_redundant() || matches!(level, Level::Linear | Level::Raid0 | Level::Faulty);
    if !supported {
        return shape(format!("level {level} cannot be created yet"));
    }
    let (disks, devices) = (array.slots.len(), array.slots.len() + array.spares.len());
    let (least, most) = (level.min_disks(), level.max_disks(array.layout));
    if disks < least as usize || disks > most as usize {
        let wanted = match least == most {
            true => format!("{least} device"),
            false => format!("{least} to {most} devices"),
        };
        return shape(format!("{level} needs {wanted}, not {disks}"));
    }
    if devices > ROLES_MAX {
        return shape(format!(
            "an array has at most {ROLES_MAX} devices, not {devices}"
        ));
    }
    check_old_metadata(array)?;
    let missing = array.slots.iter().filter(|slot| slot.is_none()).count();
    if let Some(most) = level.max_missing(disks as u32)
        && missing > most as usize
    {
        return shape(format!(
            "{level} on {disks} devices can lack {most}, not {missing}"
        ));
    }
    if !level.is_redundant() && !array.spares.is_empty() {
        return shape(format!("{level} has no use for spares"));
    }
    if level.is_striped() && (array.chunk_sectors < 8 || !array.chunk_sectors.is_power_of_two()) {
        let chunk = array.chunk_sectors;
        return shape(format!(
            "chunk of {chunk} sectors is no power of two of 4 KiB or more"
        ));
    }
    if matches!(level, Level::Raid1 | Level::Faulty) && array.chunk_sectors != 0 {
        return shape(format!("{level} has no chunk"));
    }
    let known = match level {
        Level::Raid5 | Level::Raid6 => level.layout_name(array.layout).is_some(),
        Level::Raid10 => raid10(array).is_some(),
        Level::Faulty => FaultyLayout::parse(array.layout).is_some(),
        _ => array.layout == 0 || level.layout_name(array.layout).is_some(),
    };
    if !known {
        let layout = array.layout;
        return shape(match level {
            Level::Raid10 => format!("{level} has no layout {layout:#x} for {disks} devices"),
            _ => format!("{level} has no layout {layout}"),
        });
    }
    if array.name.len() > NAME_BYTES_MAX || array.name.contains('\0') {
        return shape(format!(
            "name {:?} is longer than 31 bytes or has a NUL",
            array.name
        ));
    }
    Ok(())
}

/// What a cluster cannot run. (cluster.md section 15)
fn check_cluster(array: &NewArray, cluster: &Cluster) -> Result<(), String> {
    if array.format != Format::V1_2 {
        let format = array.format;
        return Err(format!(
            "a clustered array needs metadata version 1.2, not {format}"
        ));
    }
    let near = |layout: Raid10Layout| layout.far == 1;
    match array.level {
        Level::Raid1 => {}
        Level::Raid10 if raid10(array).is_none_or(near) => {}
        Level::Raid10 => {
            return Err("a clustered raid10 has a near layout, as n2".into());
        }
        level => return Err(format!("a cluster runs raid1 and raid10, not {level}")),
    }
    cluster.check()?;
    match array.bitmap {
        Some(RegionWish::Default | RegionWish::Bytes(_)) => {}
        _ => return Err("a clustered array needs a bitmap of bits for each node".into()),
    }
    if array.bad_block_log {
        return Err("a clustered array has no bad-block log".into());
    }
    let devices = array.slots.iter().flatten().chain(&array.spares);
    if devices
        .into_iter()
        .any(|one| one.flags.contains(DeviceFlags::WRITE_MOSTLY))
    {
        return Err("a clustered array has no write-mostly devices".into());
    }
    Ok(())
}

/// What version 0.90 has no room for.
fn check_old_metadata(array: &NewArray) -> Result<(), CreateError> {
    if array.format != Format::V090 {
        return Ok(());
    }
    let behind = array.spares.len() + usize::from(rebuilt_slot(array).is_some());
    if array.slots.len() + behind > v090::DEVICES_MAX {
        let most = v090::DEVICES_MAX;
        return Err(CreateError::Shape(format!(
            "0.90 metadata supports at most {most} devices per array"
        )));
    }
    Ok(())
}

/// Who is in a new array of version 0.90: members in sync by slot, then those to be rebuilt, which
/// are listed as spares, then spares.
fn listed(array: &NewArray, rebuilt: Option<usize>) -> Vec<Listed> {
    let in_slots = array.slots.iter().enumerate();
    let in_slots = in_slots.filter_map(|(slot, new)| Some((slot, (*new)?)));
    let (behind, in_sync): (Vec<_>, Vec<_>) =
        in_slots.partition(|(slot, _)| rebuilt == Some(*slot));
    let spares = behind.iter().map(|(_, new)| new).chain(&array.spares);
    let first = array.slots.len();
    let numbered = spares
        .enumerate()
        .map(|(index, new)| (first + index, Role::Spare, *new));
    let in_sync = in_sync
        .into_iter()
        .map(|(slot, new)| (slot, Role::Active(slot as u16), new));
    in_sync
        .chain(numbered)
        .map(|(number, role, new)| Listed {
            number: number as u32,
            node: v090::node_of(new.device_uuid),
            role,
            flags: new.flags,
        })
        .collect()
}

/// A superblock of version 0.90 of the member that would have this number in version 1.x.
fn numbered(
    mut fields: Fields,
    listed: &[Listed],
    array: &NewArray,
    rebuilt: Option<usize>,
) -> Fields {
    let slots = array.slots.len() as u32;
    let pushed = u32::from(rebuilt.is_some());
    fields.dev_number = match fields.dev_number {
        number if rebuilt == Some(number as usize) => slots,
        number if number >= slots => number + pushed,
        number => number,
    };
    fields.listed = listed.to_vec();
    fields.roles = vec![Role::Spare; v090::DEVICES_MAX];
    for one in listed {
        fields.roles[one.number as usize] = one.role;
    }
    fields.node = v090::node_of(fields.device_uuid);
    // As mdadm has it.
    fields.events = 1;
    fields
}

/// Where the array is in sync from the start (see the table at the top).
fn is_born_clean(array: &NewArray) -> bool {
    let missing = array.slots.iter().filter(|slot| slot.is_none()).count();
    // A lockless bitmap knows that nothing was written, so there is nothing to resync.
    array.assume_clean
        || array.bitmap == Some(RegionWish::Lockless)
        || match array.level {
            Level::Raid1 => array.slots.len() - missing == 1,
            Level::Raid4 | Level::Raid5 | Level::Raid6 => missing > 0,
            Level::Raid10 => false,
            _ => true,
        }
}

/// The slot whose member must be rebuilt although it is present (see the table at the top).
fn rebuilt_slot(array: &NewArray) -> Option<usize> {
    let missing = array.slots.iter().filter(|slot| slot.is_none()).count();
    let lazy = array.assume_clean || array.bitmap == Some(RegionWish::Lockless);
    if array.level != Level::Raid6 || lazy || missing != 1 {
        return None;
    }
    array.slots.iter().rposition(Option::is_some)
}

fn rebuilding(mut fields: Fields) -> Fields {
    fields.features = fields.features.with(Features::RECOVERY_OFFSET);
    fields.recovery_offset_raw = 0;
    fields
}

/// Entries mdadm makes room for: as many as fill the superblock's sectors.
fn role_entries(devices: usize) -> usize {
    let bytes = (HEADER_BYTES + 2 * devices).next_multiple_of(SECTOR_BYTES);
    ((bytes - HEADER_BYTES) / 2).min(ROLES_MAX)
}

/// All fields that are the same on every member.
fn common_fields(array: &NewArray, space: &ArraySpace) -> Fields {
    let mut features = Features::default();
    if space.bitmap.is_some() {
        features = features.with(Features::BITMAP_OFFSET);
    }
    if array.level == Level::Raid0 && array.layout != 0 {
        features = features.with(Features::RAID0_LAYOUT);
    }
    let mut set_name = [0; 32];
    if array.format != Format::V090 {
        set_name[..array.name.len()].copy_from_slice(array.name.as_bytes());
    }
    let devices = array.slots.len() + array.spares.len();
    let mut roles = vec![Role::Spare; role_entries(devices)];
    for (slot, member) in array.slots.iter().enumerate() {
        if member.is_some() {
            roles[slot] = Role::Active(slot as u16);
        }
    }
    let bitmap_offset_sectors = space.bitmap.map_or(0, |place| place.offset_sectors);
    let has_log = space.bblog_offset_sectors != 0;
    Fields {
        features,
        set_uuid: array.set_uuid,
        set_name,
        ctime: UnixTime::from_seconds(array.ctime_seconds),
        level: array.level,
        layout: array.layout,
        size_sectors: space.size_sectors,
        chunk_sectors: array.chunk_sectors,
        raid_disks: array.slots.len() as u32,
        bitmap_offset_raw: bitmap_offset_sectors as u32,
        new_level: Level::Raid0,
        reshape_position_sectors: 0,
        delta_disks: 0,
        new_layout: 0,
        new_chunk_sectors: 0,
        new_offset_sectors: 0,
        data_offset_sectors: 0,
        data_size_sectors: 0,
        super_offset_sectors: 0,
        recovery_offset_raw: 0,
        dev_number: 0,
        corrected_reads: 0,
        device_uuid: Uuid::default(),
        flags: DeviceFlags::default(),
        bblog_shift: 0,
        bblog_size_sectors: if has_log { BBLOG_SECTORS } else { 0 },
        bblog_offset_sectors: space.bblog_offset_sectors,
        utime: UnixTime::from_seconds(array.ctime_seconds),
        events: 0,
        resync_offset_sectors: if is_born_clean(array) { SECTOR_MAX } else { 0 },
        logical_block_bytes: 0,
        roles,
        listed: Vec::new(),
        node: Node::default(),
        preferred_minor: array.preferred_minor,
    }
}

fn member_fields(
    common: &Fields,
    level: Level,
    number: usize,
    new: &NewMember,
    place: &MemberSpace,
) -> Fields {
    assert!(level == common.level && number < common.roles.len());
    Fields {
        data_offset_sectors: place.data_offset_sectors,
        data_size_sectors: place.data_size_sectors,
        super_offset_sectors: place.super_offset_sectors,
        dev_number: number as u32,
        device_uuid: new.device_uuid,
        flags: new.flags,
        ..common.clone()
    }
}

/// Makes the superblock of a device that joins the array of `peer` as a spare under `number`.
///
/// Data offset, bitmap and bad-block log lie as on the peer. The peer's role table must give
/// `number` to nobody; entries are not changed, except that one for `number` is added.
///
/// # Errors
/// `DeviceTooSmall` says by how many sectors the device is too small; `Superblock` when the
/// peer's places do not fit on it.
///
/// # Panics
/// When `number` is at or above 1920, or taken.
pub fn spare_for(
    peer: &SuperblockV1,
    number: u32,
    new: &NewMember,
) -> Result<SuperblockV1, CreateError> {
    let mut fields = peer.fields.clone();
    assert_eq!(
        fields.role_of(number),
        Role::Spare,
        "device number {number} is taken"
    );
    let format = peer.format();
    if format == Format::V090 && number as usize >= v090::DEVICES_MAX {
        let most = v090::DEVICES_MAX;
        return Err(CreateError::Shape(format!(
            "an array with metadata 0.90 has room for {most} devices, those that failed and were \
             not removed included"
        )));
    }
    let have_sectors = new.device_sectors;
    let too_small = |need_sectors| SpaceError::DeviceTooSmall {
        device: 0,
        need_sectors,
        have_sectors,
    };
    let super_offset_sectors = format
        .superblock_sector(have_sectors)
        .or((!format.is_stored()).then_some(have_sectors))
        .ok_or(too_small(crate::place::DEVICE_SECTORS_MIN))?;
    let data_end = match format {
        Format::V1_1 | Format::V1_2 => have_sectors,
        // What the peer keeps between data and superblock is kept here as well.
        _ => {
            let peer_end = fields.data_offset_sectors + fields.data_size_sectors;
            let between = fields.super_offset_sectors - peer_end;
            super_offset_sectors.saturating_sub(between)
        }
    };
    let behind_data = have_sectors - data_end;
    let used = fields.size_sectors.max(crate::v1::DATA_SECTORS_MIN);
    let need_sectors = fields.data_offset_sectors + used + behind_data;
    if have_sectors < need_sectors {
        return Err(too_small(need_sectors).into());
    }
    fields.super_offset_sectors = super_offset_sectors;
    fields.data_size_sectors = data_end - fields.data_offset_sectors;
    let of_the_peer = Features::RECOVERY_OFFSET
        .with(Features::BAD_BLOCKS)
        .with(Features::REPLACEMENT)
        .with(Features::RECOVERY_BITMAP);
    fields.features = fields.features.without(of_the_peer);
    fields.recovery_offset_raw = 0;
    fields.corrected_reads = 0;
    fields.device_uuid = new.device_uuid;
    fields.node = v090::node_of(new.device_uuid);
    fields.flags = new.flags;
    fields.dev_number = number;
    fields.set_role(number, Role::Spare);
    if format == Format::V090 {
        fields.listed.retain(|one| one.number != number);
        fields.listed.push(Listed {
            number,
            node: fields.node,
            role: Role::Spare,
            flags: new.flags,
        });
    }
    Ok(SuperblockV1::build(format, fields, have_sectors)?)
}
