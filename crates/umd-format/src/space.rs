//! Where a new array's data, bitmap and bad-block log go on each member.
//!
//! ```text
//!   1.2:  | - | sb | bitmap      | log |  head room (for a later reshape)  | data ......... |
//!         0   8    16            ..                              data_offset
//!   1.0:  | data ............................................ | bitmap     | log | sb | - |
//!         0                                                                       (n-16)&~7
//! ```
//!
//! The numbers are mdadm's, so that arrays made here look like any other (superblocks.md
//! section 9). All members get the same data offset: that of the smallest one.

use crate::Level;
use crate::Raid10Layout;
use crate::bitmap::{
    SECTORS_RESERVED, default_region_bytes, least_region_bytes, lockless_region_sectors,
    on_disk_sectors, regions,
};
use crate::place::{DEVICE_SECTORS_MIN, Format};
use crate::v1::{DATA_SECTORS_MIN, Fields};
use crate::v090;

/// Sectors of a bad-block log.
pub const BBLOG_SECTORS: u16 = 8;

/// Sectors a superblock keeps to itself, whatever it uses.
const SUPERBLOCK_SECTORS: u64 = 8;
/// The most that a bitmap takes unless mdadm is asked for more: 128 KiB.
const BITMAP_SECTORS_MAX: u64 = 256;
/// A page of a bitmap.
const PAGE_SECTORS: u64 = 8;
/// Data offsets are multiples of 1 MiB.
const DATA_ALIGN_SECTORS: u64 = 2048;
/// The most head room: 128 MiB.
const HEADROOM_SECTORS_MAX: u64 = 262_144;
/// Size is cut to this for levels without a chunk, when metadata is at the end: 64 KiB.
const UNCHUNKED_ALIGN_SECTORS: u64 = 128;

/// What is wanted of the members' space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpaceWish {
    /// How the array is stored.
    pub format: Format,
    /// Level of the array.
    pub level: Level,
    /// Layout of a RAID10.
    pub raid10: Option<Raid10Layout>,
    /// Chunk, 0 for levels without.
    pub chunk_sectors: u32,
    /// Room for a bitmap, and what its regions should be.
    pub bitmap: Option<RegionWish>,
    /// Bitmaps, one behind the other: 1, or one for each node of a cluster.
    pub bitmaps: u32,
    /// Room for a bad-block log.
    pub bad_block_log: bool,
    /// The data offset the user asks for.
    pub data_offset_sectors: Option<u64>,
    /// The size of each member the user asks for.
    pub size_sectors: Option<u64>,
}

impl SpaceWish {
    /// What a bitmap covers when each member gives `size_sectors`.
    fn covered_sectors(&self, size_sectors: u64) -> u64 {
        let chunk = u64::from(self.chunk_sectors);
        let whole = |layout: Raid10Layout| layout.array_sectors(chunk, size_sectors);
        self.raid10.map_or(size_sectors, whole)
    }
}

/// What size a bitmap's regions should have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegionWish {
    /// mdadm's rule.
    Default,
    /// This many bytes, a power of two.
    Bytes(u32),
    /// A lockless bitmap, whose regions follow from its room.
    Lockless,
}

/// The space of a whole array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArraySpace {
    /// Sectors used of each member; 0 for raid0 and linear, where each gives what it has.
    pub size_sectors: u64,
    /// The bitmap, if one is wanted.
    pub bitmap: Option<BitmapSpace>,
    /// Bad-block log, sectors from the superblock; 0 for none.
    pub bblog_offset_sectors: i32,
    /// The members, in the order of the devices given.
    pub members: Vec<MemberSpace>,
}

/// A bitmap's place, the same on all members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BitmapSpace {
    /// Sectors from the superblock.
    pub offset_sectors: i32,
    /// Size of a region, of a lockless bitmap in sectors.
    pub region_raw: u32,
    /// Version 6.
    pub lockless: bool,
    /// What it covers: data of each member, or a RAID10 as a whole.
    pub covered_sectors: u64,
}

/// One member's space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemberSpace {
    /// Where the superblock goes.
    pub super_offset_sectors: u64,
    /// Where data begins.
    pub data_offset_sectors: u64,
    /// Sectors usable for data.
    pub data_size_sectors: u64,
}

/// Why the wish cannot be had. `device` is the index of the device at fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpaceError {
    /// No devices were given.
    #[error("there is no device to put the array on")]
    NoDevices,
    /// A device is too small.
    #[error(
        "device is too small: {need_sectors} sectors needed, it has {have_sectors} \
         ({} sectors short)", need_sectors - have_sectors
    )]
    DeviceTooSmall {
        /// Which device.
        device: usize,
        /// Least sectors it must have.
        need_sectors: u64,
        /// Sectors it has.
        have_sectors: u64,
    },
    /// The data offset leaves no room for what lies before the data.
    #[error("data offset of {wanted_sectors} sectors is too small, {least_sectors} are needed")]
    DataOffsetTooSmall {
        /// What the user asked for.
        wanted_sectors: u64,
        /// The least that would do.
        least_sectors: u64,
    },
    /// A data offset was given for metadata that lies at the end.
    #[error("a data offset cannot be given with metadata version {0}")]
    DataOffsetNotUsed(Format),
    /// More than version 0.90 can say.
    #[error(
        "metadata version 0.90 uses at most 4 TiB of a device, not {size_sectors} sectors; give a \
         --size or use version 1.2"
    )]
    SizeTooLarge {
        /// What would be used of each device.
        size_sectors: u64,
    },
    /// The regions are too small for the bits to fit, or no power of two.
    #[error("bitmap chunk of {wanted_bytes} bytes cannot be had, the least is {least_bytes}")]
    RegionTooSmall {
        /// What the user asked for.
        wanted_bytes: u32,
        /// The least that would do.
        least_bytes: u32,
    },
    /// No bitmap fits, whatever its regions.
    #[error("there is no room for a bitmap; create the array without one")]
    NoRoomForBitmap,
    /// A lockless bitmap with another metadata version.
    #[error("a lockless bitmap needs metadata version 1.2, not {0}")]
    LocklessNotStored(Format),
    /// The level has no use for a bitmap.
    #[error("a bitmap makes no sense with level {0}")]
    BitmapNotUsed(Level),
    /// The size is less than one chunk.
    #[error("a size of {size_sectors} sectors is below one chunk of {chunk_sectors}")]
    SizeBelowChunk {
        /// What the user asked for.
        size_sectors: u64,
        /// The chunk.
        chunk_sectors: u32,
    },
}

/// Plans the space for `wish` on devices of these sizes, in sectors.
///
/// # Errors
/// When it does not fit; the error says by how much.
pub fn plan(wish: &SpaceWish, device_sectors: &[u64]) -> Result<ArraySpace, SpaceError> {
    if wish.bitmap.is_some() && !wish.level.is_redundant() {
        return Err(SpaceError::BitmapNotUsed(wish.level));
    }
    if wish.bitmap == Some(RegionWish::Lockless) && wish.format != Format::V1_2 {
        return Err(SpaceError::LocklessNotStored(wish.format));
    }
    let smallest = smallest(device_sectors)?;
    let reserved = Reserved::of(wish, device_sectors[smallest])?;
    let members = device_sectors
        .iter()
        .enumerate()
        .map(|(device, &sectors)| reserved.member(wish, device, sectors))
        .collect::<Result<Vec<_>, _>>()?;
    let size_sectors = common_size(wish, &members[smallest])?;
    let bitmap = match wish.bitmap {
        None => None,
        Some(region) => {
            let covered_sectors = wish.covered_sectors(size_sectors);
            Some(reserved.bitmap(wish.format, region, covered_sectors)?)
        }
    };
    let data_offset_sectors = members[smallest].data_offset_sectors;
    let bblog_offset_sectors = if wish.bad_block_log {
        reserved.bblog(wish.format, bitmap, data_offset_sectors)
    } else {
        0
    };
    let size_sectors = if wish.level.has_size() {
        size_sectors
    } else {
        0
    };
    let mut space = ArraySpace {
        size_sectors,
        bitmap,
        bblog_offset_sectors,
        members,
    };
    if let (false, Some(most)) = (wish.level.has_size(), wish.size_sectors) {
        // Without redundancy each member gives what it has, so the wish limits that instead.
        for member in &mut space.members {
            member.data_size_sectors = member.data_size_sectors.min(most);
        }
    }
    Ok(space)
}

/// The index of the smallest device.
fn smallest(device_sectors: &[u64]) -> Result<usize, SpaceError> {
    let by_size = |index: &usize| device_sectors[*index];
    let device = (0..device_sectors.len())
        .min_by_key(by_size)
        .ok_or(SpaceError::NoDevices)?;
    let have_sectors = device_sectors[device];
    let need_sectors = DEVICE_SECTORS_MIN;
    if have_sectors < need_sectors {
        return Err(SpaceError::DeviceTooSmall {
            device,
            need_sectors,
            have_sectors,
        });
    }
    Ok(device)
}

/// Sectors of each member that the array uses.
fn common_size(wish: &SpaceWish, smallest: &MemberSpace) -> Result<u64, SpaceError> {
    let asked = wish.size_sectors.unwrap_or(smallest.data_size_sectors);
    let chunk = u64::from(wish.chunk_sectors);
    let size_sectors = if chunk > 0 {
        asked - asked % chunk
    } else if wish.level == Level::Faulty {
        asked
    } else if wish.format == Format::V1_0 && wish.size_sectors.is_none() {
        asked & !(UNCHUNKED_ALIGN_SECTORS - 1)
    } else {
        asked
    };
    let old = wish.format == Format::V090;
    if old && wish.level.has_size() && size_sectors > v090::SIZE_SECTORS_MAX {
        return Err(SpaceError::SizeTooLarge { size_sectors });
    }
    // Version 0.90 counts in KiB, and so does mdadm where nothing is stored.
    let kib = old || wish.format == Format::Bare;
    let size_sectors = if kib { size_sectors & !1 } else { size_sectors };
    if size_sectors < chunk.max(DATA_SECTORS_MIN) {
        let chunk_sectors = wish.chunk_sectors;
        return Err(SpaceError::SizeBelowChunk {
            size_sectors: asked,
            chunk_sectors,
        });
    }
    Ok(size_sectors)
}

/// Sectors mdadm keeps for a bitmap, whether or not there is one.
pub fn bitmap_room_sectors(device_sectors: u64) -> u64 {
    const GIB: u64 = 1 << 21;
    if device_sectors < 128 {
        0
    } else if device_sectors - 128 >= 200 * GIB {
        256
    } else if device_sectors - 8 > 8 * GIB {
        128
    } else {
        8
    }
}

/// The data offset mdadm chooses for metadata 1.1 and 1.2.
fn default_data_offset(device_sectors: u64, chunk_sectors: u32, room_sectors: u64) -> u64 {
    let chunk_kib = u64::from(chunk_sectors) / 2;
    let mut headroom = HEADROOM_SECTORS_MAX;
    while headroom * 1024 > device_sectors
        && headroom > 1
        && (chunk_kib == 0 || headroom / 2 >= chunk_kib * 4)
    {
        headroom /= 2;
    }
    let used = 24 + room_sectors + headroom;
    used.next_multiple_of(DATA_ALIGN_SECTORS)
}

/// The superblock's sector for metadata that lies before the data.
fn place_at_start(format: Format) -> Option<u64> {
    match format {
        Format::V1_1 => Some(0),
        Format::V1_2 => Some(8),
        _ => None,
    }
}

/// What is set aside on every member.
struct Reserved {
    /// Sectors a bitmap may take, or those of all nodes together.
    room_sectors: u64,
    /// How many share the room.
    bitmaps: u32,
    /// Where data begins.
    data_offset_sectors: u64,
}

impl Reserved {
    fn of(wish: &SpaceWish, device_sectors: u64) -> Result<Reserved, SpaceError> {
        let bitmaps = wish.bitmaps;
        assert!(bitmaps > 0, "a bitmap is at least one");
        let pages = u64::from(bitmaps) * PAGE_SECTORS;
        let room_sectors = match wish.format {
            Format::V090 => v090::BITMAP_ROOM_SECTORS,
            _ if wish.bitmap == Some(RegionWish::Lockless) => u64::from(SECTORS_RESERVED),
            // Each node has a page at least.
            _ if bitmaps > 1 => bitmap_room_sectors(device_sectors).max(pages),
            _ => bitmap_room_sectors(device_sectors),
        };
        let Some(super_offset) = place_at_start(wish.format) else {
            if wish.data_offset_sectors.is_some_and(|wanted| wanted != 0) {
                return Err(SpaceError::DataOffsetNotUsed(wish.format));
            }
            return Ok(Reserved {
                room_sectors,
                bitmaps,
                data_offset_sectors: 0,
            });
        };
        let Some(wanted_sectors) = wish.data_offset_sectors else {
            let chunk = wish.chunk_sectors;
            let data_offset_sectors = default_data_offset(device_sectors, chunk, room_sectors);
            return Ok(Reserved {
                room_sectors,
                bitmaps,
                data_offset_sectors,
            });
        };
        // What lies before the data: superblock, a page of each bitmap or all of a lockless one,
        // bad-block log.
        let fixed = super_offset + SUPERBLOCK_SECTORS;
        let page = match wish.bitmap {
            Some(RegionWish::Lockless) => room_sectors,
            Some(_) => pages,
            None => 0,
        };
        let log = if wish.bad_block_log {
            u64::from(BBLOG_SECTORS)
        } else {
            0
        };
        let least_sectors = fixed + page + log;
        if wanted_sectors < least_sectors {
            return Err(SpaceError::DataOffsetTooSmall {
                wanted_sectors,
                least_sectors,
            });
        }
        let room_sectors = room_sectors.max(page).min(wanted_sectors - fixed - log);
        Ok(Reserved {
            room_sectors,
            bitmaps,
            data_offset_sectors: wanted_sectors,
        })
    }

    fn member(
        &self,
        wish: &SpaceWish,
        device: usize,
        have_sectors: u64,
    ) -> Result<MemberSpace, SpaceError> {
        let around = match wish.format {
            // Alignment, superblock and what is behind it, bad-block log, bitmap.
            Format::V1_0 => (have_sectors & 7) + 16 + 8 + self.room_sectors,
            Format::V1_1 | Format::V1_2 => self.data_offset_sectors,
            Format::V090 => (have_sectors & 127) + 128,
            Format::Bare => 0,
        };
        let chunk = u64::from(wish.chunk_sectors);
        let least = if wish.level.is_redundant() {
            wish.size_sectors.unwrap_or(0)
        } else {
            0
        };
        let need_sectors = around.saturating_add(least.max(chunk).max(DATA_SECTORS_MIN));
        if have_sectors < need_sectors {
            return Err(SpaceError::DeviceTooSmall {
                device,
                need_sectors,
                have_sectors,
            });
        }
        let place = wish.format.superblock_sector(have_sectors);
        Ok(MemberSpace {
            super_offset_sectors: place.unwrap_or(have_sectors),
            data_offset_sectors: self.data_offset_sectors,
            data_size_sectors: have_sectors - around,
        })
    }

    fn bitmap(
        &self,
        format: Format,
        region: RegionWish,
        covered_sectors: u64,
    ) -> Result<BitmapSpace, SpaceError> {
        if region == RegionWish::Lockless {
            return Ok(BitmapSpace {
                offset_sectors: SUPERBLOCK_SECTORS as i32,
                region_raw: lockless_region_sectors(covered_sectors)
                    .ok_or(SpaceError::NoRoomForBitmap)?,
                lockless: true,
                covered_sectors,
            });
        }
        let room_sectors = self.each_sectors();
        let least_bytes =
            least_region_bytes(covered_sectors, room_sectors).ok_or(SpaceError::NoRoomForBitmap)?;
        let region_bytes = match region {
            RegionWish::Default => default_region_bytes(covered_sectors, room_sectors)
                .expect("when the least region fits, a larger one does"),
            RegionWish::Bytes(wanted_bytes)
                if wanted_bytes < least_bytes || !wanted_bytes.is_power_of_two() =>
            {
                return Err(SpaceError::RegionTooSmall {
                    wanted_bytes,
                    least_bytes,
                });
            }
            RegionWish::Bytes(wanted_bytes) => wanted_bytes,
            RegionWish::Lockless => unreachable!("its regions follow from its room"),
        };
        let length = bitmap_sectors(covered_sectors, region_bytes);
        let offset_sectors = match format {
            Format::V1_0 => -length - i32::from(BBLOG_SECTORS),
            _ => SUPERBLOCK_SECTORS as i32,
        };
        Ok(BitmapSpace {
            offset_sectors,
            region_raw: region_bytes,
            lockless: false,
            covered_sectors,
        })
    }

    /// Sectors that one bitmap may take; those of nodes are whole pages.
    fn each_sectors(&self) -> u64 {
        match self.bitmaps {
            1 => self.room_sectors,
            nodes => {
                let each = self.room_sectors / u64::from(nodes);
                each - each % PAGE_SECTORS
            }
        }
    }

    /// The place of the bad-block log; 0 when there is none left.
    fn bblog(&self, format: Format, bitmap: Option<BitmapSpace>, data_offset_sectors: u64) -> i32 {
        if matches!(format, Format::V090 | Format::Bare) {
            return 0;
        }
        let Some(super_offset) = place_at_start(format) else {
            return -i32::from(BBLOG_SECTORS);
        };
        let bitmap_end = match bitmap {
            // mdadm puts the log into the room of a lockless bitmap; here it lies behind.
            Some(bitmap) if bitmap.lockless => bitmap.offset_sectors + SECTORS_RESERVED as i32,
            Some(bitmap) => {
                bitmap.offset_sectors + bitmap_sectors(bitmap.covered_sectors, bitmap.region_raw)
            }
            None => SUPERBLOCK_SECTORS as i32,
        };
        let behind = match bitmap {
            Some(_) => bitmap_end,
            None => bitmap_end + self.room_sectors as i32,
        };
        let most = data_offset_sectors - super_offset;
        let last = i32::try_from(most).unwrap_or(i32::MAX) - i32::from(BBLOG_SECTORS);
        if behind <= last {
            behind
        } else if bitmap_end <= last {
            last
        } else {
            0
        }
    }
}

/// Sectors that are free for a bitmap where one of a running array goes, on this member.
pub fn free_for_bitmap(format: Format, fields: &Fields) -> u64 {
    let start = fields.super_offset_sectors;
    let data = fields.data_offset_sectors;
    let log = match fields.bblog_size_sectors {
        0 => None,
        _ => start.checked_add_signed(i64::from(fields.bblog_offset_sectors)),
    };
    let (from, to) = match format {
        Format::Bare => return 0,
        Format::V090 => return v090::BITMAP_ROOM_SECTORS,
        Format::V1_1 | Format::V1_2 => {
            let from = start + SUPERBLOCK_SECTORS;
            let log = log.filter(|log| *log >= from);
            (from, log.unwrap_or(data).min(data))
        }
        // Before the place of the log, whether or not there is one.
        Format::V1_0 => {
            let to = start.saturating_sub(u64::from(BBLOG_SECTORS));
            let log = log.filter(|log| *log < start);
            (data + fields.data_size_sectors, log.unwrap_or(to).min(to))
        }
    };
    to.saturating_sub(from).min(BITMAP_SECTORS_MAX)
}

/// Sectors that nothing needs right before the data of this member, whose bitmap is so long.
pub fn free_before_data(format: Format, fields: &Fields, bitmap_sectors: u64) -> u64 {
    let data = fields.data_offset_sectors;
    let own = match format {
        Format::Bare | Format::V090 => return 0,
        _ => (fields.super_offset_sectors, SUPERBLOCK_SECTORS),
    };
    let bitmap = fields.bitmap_sector().map(|at| (at, bitmap_sectors));
    let log = fields
        .bblog_sector()
        .map(|at| (at, u64::from(fields.bblog_size_sectors)));
    let all = [Some(own), bitmap, log].into_iter().flatten();
    let before = all.filter(|(at, _)| *at < data);
    let used = before.map(|(at, len)| at + len).max().unwrap_or(0);
    data.saturating_sub(used)
}

/// Sectors that are free on this member from so far behind (or before) its superblock on, in whole
/// pages of a bitmap. Kernels write there what `bitmap/location` says, under the same conditions.
///
/// # Errors
/// What stands against it, for a sentence that begins with the place.
pub fn free_at(format: Format, fields: &Fields, offset_sectors: i32) -> Result<u64, String> {
    let (at, data) = (fields.super_offset_sectors, fields.data_offset_sectors);
    let data_end = data + fields.data_size_sectors;
    let start = at.checked_add_signed(i64::from(offset_sectors));
    let start = start.ok_or("lies before the start of the device")?;
    let behind = at + SUPERBLOCK_SECTORS;
    let end = match format {
        Format::Bare => return Err("needs a superblock that names it".into()),
        Format::V090 if u64::from(offset_sectors.unsigned_abs()) == SUPERBLOCK_SECTORS => {
            return match offset_sectors > 0 {
                true => Ok(v090::BITMAP_ROOM_SECTORS),
                false => Err("is not where metadata 0.90 has it, at +8".into()),
            };
        }
        Format::V090 => return Err("is not where metadata 0.90 has it, at +8".into()),
        _ if start >= data && start < data_end => {
            return Err(format!("lies on the data (sectors {data} to {data_end})"));
        }
        _ if start < behind && start >= at => {
            return Err(format!("lies on the superblock (sectors {at} to {behind})"));
        }
        Format::V1_1 | Format::V1_2 if start < at => {
            return Err("lies before the superblock, where kernels take none".into());
        }
        Format::V1_1 | Format::V1_2 if start < data => data,
        Format::V1_1 | Format::V1_2 => return Err("lies behind the data".into()),
        Format::V1_0 if start < data => return Err("lies before the data".into()),
        Format::V1_0 if start < at => at,
        // What every device has behind such a superblock; one that joins may have no more.
        Format::V1_0 => behind + SUPERBLOCK_SECTORS,
    };
    let log = fields
        .bblog_sector()
        .filter(|_| fields.bblog_size_sectors > 0);
    let log = log.map(|log| (log, log + u64::from(fields.bblog_size_sectors)));
    let end = match log {
        Some((from, to)) if start >= from && start < to => {
            return Err(format!(
                "lies on the bad-block log (sectors {from} to {to})"
            ));
        }
        Some((from, _)) if from > start => end.min(from),
        _ => end,
    };
    let room = end.saturating_sub(start).min(BITMAP_SECTORS_MAX);
    let pages = room - room % PAGE_SECTORS;
    match pages {
        0 => Err(format!(
            "leaves room for {room} sectors, and it takes {PAGE_SECTORS} at least"
        )),
        _ => Ok(pages),
    }
}

/// The place and the regions of a bitmap that a running array gets, with this much room.
///
/// # Errors
/// When it does not fit.
pub fn bitmap_in(
    format: Format,
    room_sectors: u64,
    region: RegionWish,
    covered_sectors: u64,
) -> Result<BitmapSpace, SpaceError> {
    let reserved = Reserved {
        room_sectors,
        bitmaps: 1,
        data_offset_sectors: 0,
    };
    reserved.bitmap(format, region, covered_sectors)
}

/// Sectors of the bitmap, which the room limits to a small number.
fn bitmap_sectors(size_sectors: u64, region_bytes: u32) -> i32 {
    let sectors = on_disk_sectors(regions(size_sectors, region_bytes));
    i32::try_from(sectors).expect("a bitmap is at most 128 KiB unless a data offset is given")
}
