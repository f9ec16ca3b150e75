//! The write-intent bitmap: its 256-byte superblock and the arithmetic of its bits.
//!
//! ```text
//!   bitmap offset
//!   | superblock 256 B | bit 0..7 | bit 8..15 | ...          | 1s to the end of the 4 KiB page |
//!   |<----------------------- on_disk_bytes ---------------->|
//! ```
//!
//! One bit covers one region (mdadm: bitmap chunk) of every member, counted from its data offset.
//! There is no checksum. Facts: bitmap.md sections 1 to 5 and 8.

mod slots;
mod states;

pub use slots::{Merged, NODES_MAX, NodeBitmap, Slots, initial_slots};
pub use states::{
    REGION_SECTORS_MIN, RegionState, SECTORS_RESERVED, STATES_OFFSET, lockless_region_sectors,
};

use crate::bytes::{array_at, put, u32_at, u64_at};
use crate::{SECTOR_BYTES, Uuid};

/// First word of a bitmap superblock, "bitm".
pub const MAGIC: u32 = 0x6d74_6962;
/// Bytes of the superblock; the bits follow.
pub const SUPERBLOCK_BYTES: usize = 256;
/// Behind the fields of the first bitmap of a cluster, while those of all nodes are on their way to
/// other places (ours: kernels keep these bytes, and do not look at them).
const MOVING: [u8; 8] = *b"umd-move";
/// Where that is.
const MOVING_AT: usize = 248;
/// Bits in the byte order of the machine that wrote them.
pub const VERSION_HOST_ENDIAN: u32 = 3;
/// The ordinary bitmap.
pub const VERSION_NORMAL: u32 = 4;
/// One bitmap per node of a cluster.
pub const VERSION_CLUSTERED: u32 = 5;
/// A byte of state per region.
pub const VERSION_LOCKLESS: u32 = 6;
/// Bitmaps are read and written in pages of this size.
pub const PAGE_BYTES: usize = 4096;
/// What mdadm writes for the time between two sweeps.
pub const DAEMON_SLEEP_DEFAULT_S: u32 = 5;
/// The same of a lockless bitmap.
pub const DAEMON_SLEEP_LOCKLESS_S: u32 = 30;
/// The region is not smaller than this unless the user asks: 64 MiB.
pub const REGION_BYTES_DEFAULT: u32 = 64 << 20;
/// mdadm's limit for the bits of a file, where it chooses the region.
pub const FILE_REGIONS_MAX: u64 = 1 << 21;
/// The longest file that is taken for a bitmap: all of it is held in memory.
pub const FILE_BYTES_MAX: u64 = 1 << 30;
/// The smallest region mdadm makes.
pub const REGION_BYTES_MIN: u32 = 4096;
/// The most outstanding write-behind requests.
pub const WRITE_BEHIND_MAX: u32 = 16_383;

/// Why a bitmap superblock cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BitmapError {
    /// Fewer than 256 bytes.
    #[error("bitmap superblock is cut short: 256 bytes needed, {have_bytes} there")]
    Truncated {
        /// Bytes given.
        have_bytes: usize,
    },
    /// Nothing of the kind is there.
    #[error("no bitmap superblock found (expected magic 6d746962, got {found:08x})")]
    NoMagic {
        /// The word that is there instead.
        found: u32,
    },
    /// A version nobody knows.
    #[error("bitmap version {0} is unknown: a newer version is needed")]
    UnknownVersion(u32),
    /// Version 5.
    #[error("the bitmap is clustered (version 5), which is not supported yet")]
    Clustered,
    /// Version 6 that no kernel has begun to use.
    #[error(
        "the lockless bitmap was never initialised: start the array once with kernel 6.18 or newer"
    )]
    FirstUse,
    /// The bitmap belongs to another array.
    #[error("the bitmap belongs to array {found}, not to {expected}")]
    WrongArray {
        /// The bitmap's array.
        found: Uuid,
        /// The member's array.
        expected: Uuid,
    },
    /// A value that no writer of bitmaps produces.
    #[error("bitmap superblock is impossible: {0}")]
    Impossible(String),
}

/// The state word (bitmap.md section 2); unknown bits are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct State(pub u32);

impl State {
    /// Out of date: every region counts as dirty.
    pub const STALE: State = State(0x2);
    /// A write of the bitmap failed; never on disk.
    pub const WRITE_ERROR: State = State(0x4);
    /// Lockless: not yet initialised.
    pub const FIRST_USE: State = State(0x8);
    /// Lockless: initialise as clean.
    pub const CLEAN: State = State(0x10);
    /// The bits are in host byte order.
    pub const HOST_ENDIAN: State = State(0x8000);

    /// True when all bits of `other` are set.
    pub fn contains(self, other: State) -> bool {
        self.0 & other.0 == other.0
    }

    /// These bits and those of `other`.
    #[must_use]
    pub fn with(self, other: State) -> State {
        State(self.0 | other.0)
    }

    /// These bits without those of `other`.
    #[must_use]
    pub fn without(self, other: State) -> State {
        State(self.0 & !other.0)
    }
}

/// What a bitmap superblock says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fields {
    /// 3 to 6, see the `VERSION_` constants.
    pub version: u32,
    /// The array it belongs to.
    pub uuid: Uuid,
    /// The array's events when this superblock was last written.
    pub events: u64,
    /// The highest events at which a bit may have been cleared.
    pub events_cleared: u64,
    /// Sectors of every member that the bits cover (raid10: of the array).
    pub sync_size_sectors: u64,
    /// Flags.
    pub state: State,
    /// Region size as stored: bytes, but sectors in version 6.
    pub region_raw: u32,
    /// Seconds between two sweeps that clear bits.
    pub daemon_sleep_s: u32,
    /// The most outstanding write-behind requests; 0 for none.
    pub write_behind: u32,
    /// Room of the whole bitmap, 0 when not known.
    pub sectors_reserved: u32,
    /// Cluster nodes.
    pub nodes: u32,
    /// Name of the cluster, NUL-padded.
    pub cluster_name: [u8; 64],
}

impl Fields {
    /// Size of a region in bytes, whatever the version.
    pub fn region_bytes(&self) -> u64 {
        let unit = if self.version == VERSION_LOCKLESS {
            SECTOR_BYTES as u64
        } else {
            1
        };
        u64::from(self.region_raw) * unit
    }

    /// The name of the cluster, if the bitmap is of one.
    pub fn cluster(&self) -> Option<String> {
        let name = self.cluster_name.split(|byte| *byte == 0).next();
        let name = String::from_utf8_lossy(name.unwrap_or_default());
        (self.version == VERSION_CLUSTERED).then(|| name.into_owned())
    }
}

/// A bitmap superblock as it was found, for showing. `verify` makes one that may be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unverified {
    raw: [u8; SUPERBLOCK_BYTES],
    fields: Fields,
}

impl Unverified {
    /// Reads the superblock at the start of `bytes`.
    ///
    /// # Errors
    /// `Truncated` and `NoMagic`.
    pub fn parse(bytes: &[u8]) -> Result<Unverified, BitmapError> {
        if bytes.len() < SUPERBLOCK_BYTES {
            return Err(BitmapError::Truncated {
                have_bytes: bytes.len(),
            });
        }
        let found = u32_at(bytes, 0);
        if found != MAGIC {
            return Err(BitmapError::NoMagic { found });
        }
        let fields = Fields {
            version: u32_at(bytes, 4),
            uuid: Uuid(array_at(bytes, 8)),
            events: u64_at(bytes, 24),
            events_cleared: u64_at(bytes, 32),
            sync_size_sectors: u64_at(bytes, 40),
            state: State(u32_at(bytes, 48)),
            region_raw: u32_at(bytes, 52),
            daemon_sleep_s: u32_at(bytes, 56),
            write_behind: u32_at(bytes, 60),
            sectors_reserved: u32_at(bytes, 64),
            nodes: u32_at(bytes, 68),
            cluster_name: array_at(bytes, 72),
        };
        Ok(Unverified {
            raw: array_at(bytes, 0),
            fields,
        })
    }

    /// What it says; none of it has been checked.
    pub fn fields(&self) -> &Fields {
        &self.fields
    }

    /// Checks that it is a bitmap of `array` that can be used.
    ///
    /// # Errors
    /// Any kind of `BitmapError` but those of `parse`.
    pub fn verify(self, array: Uuid) -> Result<BitmapSuperblock, BitmapError> {
        let fields = &self.fields;
        match fields.version {
            VERSION_HOST_ENDIAN | VERSION_NORMAL | VERSION_LOCKLESS => {}
            VERSION_CLUSTERED => return Err(BitmapError::Clustered),
            other => return Err(BitmapError::UnknownVersion(other)),
        }
        if fields.uuid != array {
            return Err(BitmapError::WrongArray {
                found: fields.uuid,
                expected: array,
            });
        }
        check(fields)?;
        Ok(BitmapSuperblock {
            raw: self.raw,
            fields: self.fields,
        })
    }

    /// Checks that it is the bitmap of a node of the cluster that runs `array`.
    ///
    /// # Errors
    /// Any kind of `BitmapError` but those of `parse`; `UnknownVersion` where it is none of a
    /// cluster.
    pub fn verify_node(self, array: Uuid) -> Result<BitmapSuperblock, BitmapError> {
        if self.fields.version != VERSION_CLUSTERED {
            return Err(BitmapError::UnknownVersion(self.fields.version));
        }
        slots::check_node(&self.fields, array)?;
        slots::check_nodes(&self.fields)?;
        Ok(BitmapSuperblock {
            raw: self.raw,
            fields: self.fields,
        })
    }
}

fn check(fields: &Fields) -> Result<(), BitmapError> {
    let impossible = |text| Err(BitmapError::Impossible(text));
    let region = fields.region_raw;
    if fields.version == VERSION_LOCKLESS {
        states::check_lockless(fields)?;
    } else if !region.is_power_of_two() || (region as usize) < SECTOR_BYTES {
        return impossible(format!("a region of {region} bytes"));
    }
    if fields.daemon_sleep_s == 0 || fields.daemon_sleep_s > i32::MAX as u32 {
        return impossible(format!("{} seconds between sweeps", fields.daemon_sleep_s));
    }
    if fields.write_behind > WRITE_BEHIND_MAX {
        let text = format!(
            "{} write-behind requests (at most 16383)",
            fields.write_behind
        );
        return impossible(text);
    }
    Ok(())
}

/// A bitmap superblock of version 3, 4 or 6 that passed `Unverified::verify`, of version 5 that
/// passed `Unverified::verify_node`, or one that was made here. Bytes without a field stay as they
/// were found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BitmapSuperblock {
    raw: [u8; SUPERBLOCK_BYTES],
    /// What it says.
    pub fields: Fields,
}

impl BitmapSuperblock {
    /// A superblock for a new array of version 4, events 0.
    ///
    /// # Panics
    /// When `region_bytes` is no power of two from 512.
    pub fn new(array: Uuid, sync_size_sectors: u64, region_bytes: u32) -> BitmapSuperblock {
        let fields = Fields {
            version: VERSION_NORMAL,
            uuid: array,
            events: 0,
            events_cleared: 0,
            sync_size_sectors,
            state: State::default(),
            region_raw: region_bytes,
            daemon_sleep_s: DAEMON_SLEEP_DEFAULT_S,
            write_behind: 0,
            sectors_reserved: 0,
            nodes: 0,
            cluster_name: [0; 64],
        };
        check(&fields).expect("the caller gave a region size that a bitmap can have");
        BitmapSuperblock {
            raw: [0; SUPERBLOCK_BYTES],
            fields,
        }
    }

    /// The 256 bytes to write.
    pub fn encode(&self) -> [u8; SUPERBLOCK_BYTES] {
        let mut image = self.raw;
        let fields = &self.fields;
        put(&mut image, 0, &MAGIC.to_le_bytes());
        put(&mut image, 4, &fields.version.to_le_bytes());
        put(&mut image, 8, &fields.uuid.0);
        put(&mut image, 24, &fields.events.to_le_bytes());
        put(&mut image, 32, &fields.events_cleared.to_le_bytes());
        put(&mut image, 40, &fields.sync_size_sectors.to_le_bytes());
        put(&mut image, 48, &fields.state.0.to_le_bytes());
        put(&mut image, 52, &fields.region_raw.to_le_bytes());
        put(&mut image, 56, &fields.daemon_sleep_s.to_le_bytes());
        put(&mut image, 60, &fields.write_behind.to_le_bytes());
        put(&mut image, 64, &fields.sectors_reserved.to_le_bytes());
        put(&mut image, 68, &fields.nodes.to_le_bytes());
        put(&mut image, 72, &fields.cluster_name);
        image
    }

    /// True when every region must be taken as dirty, whatever the bits say: the array's metadata
    /// went on without this bitmap, or it says so itself.
    pub fn is_stale(&self, array_events: u64) -> bool {
        let behind = self.fields.events < array_events && !self.is_clustered();
        behind || self.fields.state.contains(State::STALE)
    }

    /// The regions a member of `member_sectors` has.
    pub fn regions(&self, member_sectors: u64) -> u64 {
        member_sectors.div_ceil(self.fields.region_bytes() / SECTOR_BYTES as u64)
    }

    /// Whether it is that of a node of a cluster: what it marks may differ between members,
    /// whatever superblocks say, and its events are not those of the array.
    pub fn is_clustered(&self) -> bool {
        self.fields.version == VERSION_CLUSTERED
    }

    /// Whether the bitmaps of all nodes are being moved, or were when everybody stopped: nothing
    /// behind this superblock is to be believed, and everything counts as dirty. Said by the first
    /// of them.
    pub fn is_moving(&self) -> bool {
        let said = self.raw[MOVING_AT..] == MOVING;
        said && self.is_clustered() && self.fields.state.contains(State::STALE)
    }

    /// Says that they are being moved; or that they are not, and that the bits can be believed.
    ///
    /// # Panics
    /// When it is none of a cluster.
    pub fn set_moving(&mut self, moving: bool) {
        assert!(self.is_clustered(), "the bitmap of a node");
        let state = self.fields.state;
        let (said, state) = match moving {
            true => (MOVING, state.with(State::STALE)),
            false => ([0; 8], state.without(State::STALE)),
        };
        self.raw[MOVING_AT..].copy_from_slice(&said);
        self.fields.state = state;
    }

    /// Whether each region has a byte of state instead of a bit.
    pub fn is_lockless(&self) -> bool {
        self.fields.version == VERSION_LOCKLESS
    }

    /// Bytes of superblock and bits, or states, for `regions`.
    pub fn area_bytes(&self, regions: u64) -> u64 {
        match self.is_lockless() {
            true => STATES_OFFSET as u64 + regions,
            false => on_disk_bytes(regions),
        }
    }

    /// Sectors of them on disk: whole pages of 4 KiB.
    pub fn area_sectors(&self, regions: u64) -> u64 {
        let bytes = self.area_bytes(regions);
        bytes.next_multiple_of(PAGE_BYTES as u64) / SECTOR_BYTES as u64
    }
}

/// Number of regions that cover `sectors`; the last one may be shorter.
///
/// # Panics
/// When `region_bytes` is below one sector.
pub fn regions(sectors: u64, region_bytes: u32) -> u64 {
    assert!(region_bytes as usize >= SECTOR_BYTES);
    sectors.div_ceil(u64::from(region_bytes) / SECTOR_BYTES as u64)
}

/// The regions of `to_sectors` each that share anything with `set`, regions of `from_sectors` each
/// and in order. Those from `count` on are left out.
///
/// # Panics
/// When one of the two lengths is 0.
pub fn carried_over(set: &[u64], from_sectors: u64, to_sectors: u64, count: u64) -> Vec<u64> {
    let mut carried: Vec<u64> = Vec::new();
    for region in set {
        let first = region * from_sectors / to_sectors;
        let last = ((region + 1) * from_sectors - 1) / to_sectors;
        let known = carried.last().map_or(0, |last| last + 1);
        carried.extend(first.max(known)..(last + 1).min(count));
    }
    carried
}

/// Where the bit of `region` is: byte from the start of the bitmap superblock, and mask.
///
/// Valid for version 4, and for version 3 written by little-endian machines.
pub fn bit_position(region: u64) -> (u64, u8) {
    (SUPERBLOCK_BYTES as u64 + region / 8, 1 << (region % 8))
}

/// Bytes of superblock and bits for `regions`.
pub fn on_disk_bytes(regions: u64) -> u64 {
    SUPERBLOCK_BYTES as u64 + regions.div_ceil(8)
}

/// Sectors a bitmap takes on disk: whole pages of 4 KiB.
pub fn on_disk_sectors(regions: u64) -> u64 {
    on_disk_bytes(regions).next_multiple_of(PAGE_BYTES as u64) / SECTOR_BYTES as u64
}

/// The smallest region with which the bits for `sectors` fit into `room_sectors`; `None` when not
/// even the largest does.
pub fn least_region_bytes(sectors: u64, room_sectors: u64) -> Option<u32> {
    let room_bytes = room_sectors.saturating_mul(SECTOR_BYTES as u64);
    let sizes = std::iter::successors(Some(REGION_BYTES_MIN), |size| size.checked_mul(2));
    sizes
        .into_iter()
        .find(|&size| on_disk_bytes(regions(sectors, size)) <= room_bytes)
}

/// The region mdadm takes when none is asked for: 64 MiB, or the least that fits when that is
/// more. `None` when nothing fits.
pub fn default_region_bytes(sectors: u64, room_sectors: u64) -> Option<u32> {
    Some(least_region_bytes(sectors, room_sectors)?.max(REGION_BYTES_DEFAULT))
}

/// The region mdadm takes for a bitmap in a file: the smallest that needs no more than 2^21 bits.
pub fn file_region_bytes(sectors: u64) -> u32 {
    let sizes = std::iter::successors(Some(REGION_BYTES_MIN), |size| size.checked_mul(2));
    let fits = |size: &u32| regions(sectors, *size) <= FILE_REGIONS_MAX;
    sizes.into_iter().find(fits).unwrap_or(1 << 31)
}

/// The bytes of a new bitmap, whole pages: the superblock, then all regions dirty. The bits behind
/// the last region are 1 too, and stay so.
pub fn initial_image(superblock: &BitmapSuperblock) -> Vec<u8> {
    let regions = superblock.regions(superblock.fields.sync_size_sectors);
    let bytes = on_disk_sectors(regions) * SECTOR_BYTES as u64;
    let length = usize::try_from(bytes).expect("a bitmap fits into memory");
    let mut image = vec![0xff; length];
    put(&mut image, 0, &superblock.encode());
    image
}
