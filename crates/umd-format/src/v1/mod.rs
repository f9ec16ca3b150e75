//! The v1.x superblock: 256 bytes of fields, then one role per device number.
//!
//! ```text
//!     0  magic, version, features, array uuid, name, ctime, level, layout, size, chunk, disks
//!    96  bitmap offset (or PPL offset and size)
//!   100  reshape: new level, position, delta, layout, chunk, data offset change
//!   128  this member: data offset, size, place, recovery offset, number, uuid, flags, bad blocks
//!   192  state: utime, events, resync offset, checksum, number of roles
//!   224  logical block size (kernels from 6.19), 28 bytes that must be 0
//!   256  roles, 2 bytes each
//! ```
//!
//! Facts: superblocks.md sections 2 to 7. Parsing and verifying are two steps because a superblock
//! with a bad checksum must still be shown to the user.

mod fields;
mod verify;

pub use fields::{
    DeviceFlags, Features, Fields, Listed, Node, PplPlace, Raid0Layout, Role, UnixTime,
};

use crate::bytes::{put, u16_at, u32_at};
use crate::place::{Format, Minor};
use crate::v090;
use crate::{MD_MAGIC, SECTOR_BYTES, Uuid};

/// Bytes before the roles.
pub const HEADER_BYTES: usize = 256;
/// The largest number of roles a superblock may have.
pub const ROLES_MAX: usize = 1920;
/// The largest superblock, and what is read to find one.
pub const SUPERBLOCK_BYTES_MAX: usize = HEADER_BYTES + 2 * ROLES_MAX;
/// Least sectors of data on a member.
pub const DATA_SECTORS_MIN: u64 = 10;

const CHECKSUM_OFFSET: usize = 216;

/// Why bytes are not a usable v1 superblock. `Display` gives the sentence for the user; the caller
/// adds which member it is about.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// There is no superblock here.
    #[error("no md superblock found (expected magic a92b4efc, got {found:08x})")]
    NoMagic {
        /// The word that is there instead.
        found: u32,
    },
    /// A superblock of another family.
    #[error("superblock version {major} is not supported here (1 is)")]
    BadVersion {
        /// The major version found.
        major: u32,
    },
    /// Fewer bytes than the superblock says it has.
    #[error("superblock is cut short: {need_bytes} bytes needed, {have_bytes} there")]
    Truncated {
        /// Bytes needed.
        need_bytes: usize,
        /// Bytes given.
        have_bytes: usize,
    },
    /// The contents were damaged, or written by something that is not md.
    #[error("superblock checksum is {stored:08x}, expected {computed:08x}")]
    BadChecksum {
        /// The checksum in the superblock.
        stored: u32,
        /// The checksum of the bytes that are there.
        computed: u32,
    },
    /// Written by something newer; ignoring the bit could destroy data.
    #[error("superblock uses unknown features {0:#x}: a newer version is needed")]
    UnknownFeatures(u32),
    /// The superblock belongs elsewhere: a copy, or a partition seen through its disk.
    #[error("superblock says it lies at sector {stored}, but was found at sector {found}")]
    WrongPlace {
        /// The place it names.
        stored: u64,
        /// The place where it is.
        found: u64,
    },
    /// The device has become smaller than its data area.
    #[error(
        "device is too small: data ends at sector {data_end_sectors}, the device at \
         {device_sectors} ({} sectors short)", data_end_sectors - device_sectors
    )]
    DeviceTooSmall {
        /// First sector behind the data.
        data_end_sectors: u64,
        /// Sectors of the device.
        device_sectors: u64,
    },
    /// Version 0.90 of a machine with the other byte order.
    #[error(
        "superblock of version 0.90 was written by a machine with the other byte order: \
         assemble with --update=byteorder to convert it"
    )]
    ByteSwapped,
    /// A right checksum over values that contradict each other.
    #[error("superblock is impossible: {0}")]
    Impossible(String),
}

impl From<v090::V090Error> for ParseError {
    fn from(error: v090::V090Error) -> ParseError {
        match error {
            v090::V090Error::Truncated { have_bytes } => ParseError::Truncated {
                need_bytes: v090::SUPERBLOCK_BYTES,
                have_bytes,
            },
            v090::V090Error::NoMagic { found } => ParseError::NoMagic { found },
            v090::V090Error::BadVersion { major, minor } => {
                ParseError::Impossible(format!("version {major}.{minor} where 0.90 lies"))
            }
        }
    }
}

/// A superblock as it was found: it has the magic, the version and all its bytes, and nothing
/// else is known. Good for showing; only `verify` makes something of it that may be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unverified {
    minor: Minor,
    raw: Vec<u8>,
    fields: Fields,
}

impl Unverified {
    /// Reads the fields from `bytes`, which begin at the superblock's place (4 KiB are enough).
    ///
    /// # Errors
    /// `NoMagic`, `BadVersion`, `Truncated`, and `Impossible` for more than 1920 roles.
    pub fn parse(bytes: &[u8], minor: Minor) -> Result<Unverified, ParseError> {
        let truncated = |need_bytes| ParseError::Truncated {
            need_bytes,
            have_bytes: bytes.len(),
        };
        if bytes.len() < HEADER_BYTES {
            return Err(truncated(HEADER_BYTES));
        }
        let found = u32_at(bytes, 0);
        if found != MD_MAGIC {
            return Err(ParseError::NoMagic { found });
        }
        let major = u32_at(bytes, 4);
        if major != 1 {
            return Err(ParseError::BadVersion { major });
        }
        let roles = u32_at(bytes, 220) as usize;
        if roles > ROLES_MAX {
            let text = format!("it has {roles} roles, at most {ROLES_MAX} are possible");
            return Err(ParseError::Impossible(text));
        }
        let need_bytes = HEADER_BYTES + 2 * roles;
        if bytes.len() < need_bytes {
            return Err(truncated(need_bytes));
        }
        let raw = bytes[..bytes.len().min(SUPERBLOCK_BYTES_MAX)].to_vec();
        let fields = Fields::read(&raw);
        Ok(Unverified { minor, raw, fields })
    }

    /// What the superblock says; none of it has been checked.
    pub fn fields(&self) -> &Fields {
        &self.fields
    }

    /// The version, from the place where it was found.
    pub fn format(&self) -> Format {
        Format::V1(self.minor)
    }

    /// The bytes as found.
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// The checksum that is stored.
    pub fn stored_checksum(&self) -> u32 {
        u32_at(&self.raw, CHECKSUM_OFFSET)
    }

    /// The checksum the bytes should have.
    pub fn computed_checksum(&self) -> u32 {
        checksum(&self.raw[..self.fields.encoded_bytes()])
    }

    /// Checks everything that can be checked without other members, for a device of
    /// `device_sectors`.
    ///
    /// # Errors
    /// Any kind of `ParseError` but those of `parse`.
    pub fn verify(self, device_sectors: u64) -> Result<SuperblockV1, ParseError> {
        let (stored, computed) = (self.stored_checksum(), self.computed_checksum());
        if stored != computed {
            return Err(ParseError::BadChecksum { stored, computed });
        }
        let format = Format::V1(self.minor);
        verify::check(&self.fields, format, device_sectors)?;
        Ok(SuperblockV1 {
            format,
            raw: self.raw,
            fields: self.fields,
        })
    }
}

/// A superblock that was verified, or that was made here: the one form in memory, whatever the
/// version it is stored as. What a version cannot store is left at its neutral value.
///
/// The fields are public: the engine changes events, roles and offsets and writes it back. Bytes
/// without a field (pads, what lies behind the last role in its block) stay as they were found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SuperblockV1 {
    format: Format,
    raw: Vec<u8>,
    /// What the superblock says.
    pub fields: Fields,
}

impl SuperblockV1 {
    /// Parses and verifies in one go, for a caller who does not show broken superblocks.
    ///
    /// # Errors
    /// Those of `Unverified::parse` and `Unverified::verify`.
    pub fn load(bytes: &[u8], format: Format, device_sectors: u64) -> Result<Self, ParseError> {
        match format {
            Format::V1(minor) => Unverified::parse(bytes, minor)?.verify(device_sectors),
            Format::V090 => v090::SuperblockV090::parse(bytes)?.verify(device_sectors),
            Format::Bare => Err(ParseError::NoMagic { found: 0 }),
        }
    }

    /// A new superblock from its fields, all other bytes 0.
    ///
    /// # Errors
    /// When the fields are not those of a valid superblock on a device of `device_sectors`.
    pub fn build(format: Format, fields: Fields, device_sectors: u64) -> Result<Self, ParseError> {
        Self::from_parts(format, Vec::new(), fields, device_sectors)
    }

    /// From verified bytes of version 0.90, or none.
    pub(crate) fn from_parts(
        format: Format,
        raw: Vec<u8>,
        fields: Fields,
        device_sectors: u64,
    ) -> Result<Self, ParseError> {
        verify::check(&fields, format, device_sectors)?;
        let mut built = SuperblockV1 {
            format,
            raw,
            fields,
        };
        if built.raw.is_empty() && format.is_stored() {
            built.raw = vec![0; HEADER_BYTES];
            built.raw = built.encode(SECTOR_BYTES);
        }
        Ok(built)
    }

    /// How it is stored.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The array's identity as its bitmap has it: version 0.90 stores words, not bytes.
    pub fn bitmap_uuid(&self) -> Uuid {
        match self.format {
            Format::V090 => v090::word_order(self.fields.set_uuid),
            Format::V1(_) | Format::Bare => self.fields.set_uuid,
        }
    }

    /// Sectors the superblock takes.
    pub fn sectors(&self) -> u64 {
        sectors(&self.fields, self.format)
    }

    /// Whether its room for bad blocks lies on nothing else of a device of `device_sectors`: not
    /// on data, superblock, or a bitmap of `bitmap_sectors`.
    pub fn has_bad_block_room(&self, device_sectors: u64, bitmap_sectors: u64) -> bool {
        let fields = &self.fields;
        let Some(start) = fields.bblog_sector() else {
            return false;
        };
        let end = start + u64::from(fields.bblog_size_sectors);
        let bitmap = fields.bitmap_sector().filter(|_| bitmap_sectors > 0);
        let apart = bitmap.is_none_or(|at| end <= at || at + bitmap_sectors <= start);
        apart && verify::bad_block_log(fields, self.format(), device_sectors).is_ok()
    }

    /// There is no bad-block log on this member; nothing stands in it.
    ///
    /// # Panics
    /// When something does.
    pub fn drop_bad_block_log(&mut self) {
        let features = self.fields.features;
        assert!(
            !features.contains(Features::BAD_BLOCKS),
            "its log names something"
        );
        self.fields.bblog_offset_sectors = 0;
        self.fields.bblog_size_sectors = 0;
        self.fields.bblog_shift = 0;
    }

    /// Tells who is in the array: by device number, and as version 0.90 lists them.
    pub fn set_members(&mut self, roles: Vec<Role>, listed: Vec<Listed>) {
        self.fields.roles = roles;
        if self.format == Format::V090 {
            self.fields.listed = listed;
        }
    }

    /// The bytes of a version 1.x superblock as they were found, for `kernels::refusals`.
    pub fn v1_raw(&self) -> Option<&[u8]> {
        matches!(self.format, Format::V1(_)).then_some(self.raw.as_slice())
    }

    /// The bytes to write at `fields.super_offset_sectors`: fields and roles patched into the
    /// image as found, the checksum made right, filled up to whole blocks of `block_bytes` (the
    /// device's logical block size).
    ///
    /// # Panics
    /// When there are more roles than a superblock can hold, or `block_bytes` is no power of two
    /// from 512 to 4096.
    pub fn encode(&self, block_bytes: usize) -> Vec<u8> {
        assert!(
            self.fields.roles.len() <= ROLES_MAX,
            "more roles than a superblock can hold"
        );
        assert!(
            block_bytes.is_power_of_two() && (SECTOR_BYTES..=4096).contains(&block_bytes),
            "logical block of {block_bytes} bytes"
        );
        assert!(self.format.is_stored(), "there is no superblock to write");
        if self.format == Format::V090 {
            return v090::encode(&self.raw, &self.fields);
        }
        let used_bytes = self.fields.encoded_bytes();
        let mut image = self.raw.clone();
        image.resize(used_bytes.next_multiple_of(block_bytes), 0);
        put(&mut image, 0, &MD_MAGIC.to_le_bytes());
        put(&mut image, 4, &1u32.to_le_bytes());
        self.fields.patch(&mut image);
        let sum = checksum(&image[..used_bytes]);
        put(&mut image, CHECKSUM_OFFSET, &sum.to_le_bytes());
        image
    }

    /// The value of the checksum field as it was found (new after each `encode`).
    pub fn stored_checksum(&self) -> u32 {
        match self.format {
            Format::V090 => v090::stored_checksum(&self.raw),
            Format::V1(_) => u32_at(&self.raw, CHECKSUM_OFFSET),
            Format::Bare => 0,
        }
    }
}

/// Sectors that a superblock with these fields takes.
fn sectors(fields: &Fields, format: Format) -> u64 {
    match format {
        Format::V1(_) => fields.encoded_bytes().div_ceil(SECTOR_BYTES) as u64,
        Format::V090 => (v090::SUPERBLOCK_BYTES / SECTOR_BYTES) as u64,
        Format::Bare => 0,
    }
}

/// The v1 checksum of a superblock's header and roles: 32-bit words added up with the checksum
/// field taken as 0, a last half word if there is one, the carries folded in once.
///
/// # Panics
/// When `bytes` is shorter than the header or odd in length.
pub fn checksum(bytes: &[u8]) -> u32 {
    assert!(bytes.len() >= HEADER_BYTES && bytes.len().is_multiple_of(2));
    let words = bytes.chunks_exact(4);
    let rest = words.remainder();
    let mut sum: u64 = words.map(|word| u64::from(u32_at(word, 0))).sum();
    sum -= u64::from(u32_at(bytes, CHECKSUM_OFFSET));
    if rest.len() == 2 {
        sum += u64::from(u16_at(rest, 0));
    }
    (sum as u32).wrapping_add((sum >> 32) as u32)
}
