//! The fields of a v1 superblock, read from bytes and patched back into them.

use crate::bytes::{array_at, i32_at, put, u16_at, u32_at, u64_at};
use crate::{Level, SECTOR_MAX, Uuid};

use super::HEADER_BYTES;

/// The feature map (superblocks.md section 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Features(pub u32);

impl Features {
    /// An internal bitmap lies at `bitmap_offset`.
    pub const BITMAP_OFFSET: Features = Features(0x1);
    /// The member has a role but is in sync only below `recovery_offset`.
    pub const RECOVERY_OFFSET: Features = Features(0x2);
    /// A reshape is under way.
    pub const RESHAPE_ACTIVE: Features = Features(0x4);
    /// The bad-block log is not empty.
    pub const BAD_BLOCKS: Features = Features(0x8);
    /// The member replaces the active one with the same role.
    pub const REPLACEMENT: Features = Features(0x10);
    /// A reshape with an unchanged number of members runs from the end to the start.
    pub const RESHAPE_BACKWARDS: Features = Features(0x20);
    /// The reshape moves the data by `new_offset`.
    pub const NEW_OFFSET: Features = Features(0x40);
    /// The running recovery needs only what the bitmap marks.
    pub const RECOVERY_BITMAP: Features = Features(0x80);
    /// The array is shared by a cluster.
    pub const CLUSTERED: Features = Features(0x100);
    /// The array has a write journal.
    pub const JOURNAL: Features = Features(0x200);
    /// The array has a partial parity log.
    pub const PPL: Features = Features(0x400);
    /// The same, with several logs in a ring.
    pub const MULTIPLE_PPLS: Features = Features(0x800);
    /// `layout` has a meaning for raid0.
    pub const RAID0_LAYOUT: Features = Features(0x1000);
    /// Every bit there is a meaning for.
    pub const KNOWN: Features = Features(0x1fff);

    /// True when all bits of `other` are set.
    pub fn contains(self, other: Features) -> bool {
        self.0 & other.0 == other.0
    }

    /// True when any bit of `other` is set.
    pub fn intersects(self, other: Features) -> bool {
        self.0 & other.0 != 0
    }

    /// These bits and those of `other`.
    #[must_use]
    pub fn with(self, other: Features) -> Features {
        Features(self.0 | other.0)
    }

    /// These bits without those of `other`.
    #[must_use]
    pub fn without(self, other: Features) -> Features {
        Features(self.0 & !other.0)
    }

    /// The bits nobody knows.
    pub fn unknown(self) -> u32 {
        self.0 & !Features::KNOWN.0
    }
}

/// Flags of one member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct DeviceFlags(pub u8);

impl DeviceFlags {
    /// Read from it only when there is no other way.
    pub const WRITE_MOSTLY: DeviceFlags = DeviceFlags(1);
    /// Fail it at the first error when another copy exists.
    pub const FAILFAST: DeviceFlags = DeviceFlags(2);

    /// These bits and those of `other`.
    #[must_use]
    pub fn with(self, other: DeviceFlags) -> DeviceFlags {
        DeviceFlags(self.0 | other.0)
    }

    /// These bits without those of `other`.
    #[must_use]
    pub fn without(self, other: DeviceFlags) -> DeviceFlags {
        DeviceFlags(self.0 & !other.0)
    }

    /// True when all bits of `other` are set.
    pub fn contains(self, other: DeviceFlags) -> bool {
        self.0 & other.0 == other.0
    }
}

/// What one device number is in the array (superblocks.md section 7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// The member of this slot, in sync or being rebuilt. A slot at or above `raid_disks` counts
    /// as a spare.
    Active(u16),
    /// A spare, or a number nobody has.
    Spare,
    /// Failed.
    Faulty,
    /// The write journal.
    Journal,
}

impl Role {
    /// The role with this on-disk value.
    pub fn from_raw(raw: u16) -> Role {
        match raw {
            0xffff => Role::Spare,
            0xfffe => Role::Faulty,
            0xfffd => Role::Journal,
            slot => Role::Active(slot),
        }
    }

    /// The on-disk value.
    ///
    /// # Panics
    /// For an active slot above 0xfffc, which would read back as something else.
    pub fn to_raw(self) -> u16 {
        match self {
            Role::Active(slot) => {
                assert!(slot < 0xfffd, "slot {slot} has no on-disk form");
                slot
            }
            Role::Spare => 0xffff,
            Role::Faulty => 0xfffe,
            Role::Journal => 0xfffd,
        }
    }
}

/// Seconds since 1970 in the low 40 bits, microseconds in the high 24.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct UnixTime(pub u64);

impl UnixTime {
    const SECONDS_MASK: u64 = (1 << 40) - 1;

    /// The time `seconds` after the epoch (cut to 40 bits).
    pub fn from_seconds(seconds: u64) -> UnixTime {
        UnixTime(seconds & Self::SECONDS_MASK)
    }

    /// Whole seconds since the epoch.
    pub fn seconds(self) -> u64 {
        self.0 & Self::SECONDS_MASK
    }

    /// Microseconds of the second; 0 in practice.
    pub fn microseconds(self) -> u32 {
        (self.0 >> 40) as u32
    }
}

/// Which of the two historical raid0 mappings is used (layouts.md section 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Raid0Layout {
    /// Kernels before 3.14.
    Original,
    /// Kernels from 3.14.
    Alternate,
}

/// Where a member's partial parity log lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PplPlace {
    /// Sectors from the superblock.
    pub offset_sectors: i16,
    /// Length.
    pub size_sectors: u16,
}

/// The number of a block device, as version 0.90 writes it down for every member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Node {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

/// One member as version 0.90 lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed {
    /// Its device number.
    pub number: u32,
    /// The device it was on.
    pub node: Node,
    /// What it is.
    pub role: Role,
    /// Its flags.
    pub flags: DeviceFlags,
}

/// What a superblock says. Offsets and sizes are in sectors of 512 bytes; "raw" fields keep
/// their on-disk form because their meaning depends on the feature map (use the methods).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fields {
    /// Features in use.
    pub features: Features,
    /// The array's identity.
    pub set_uuid: Uuid,
    /// The array's name, NUL-padded, often "host:name".
    pub set_name: [u8; 32],
    /// When the array was created.
    pub ctime: UnixTime,
    /// The level; the old one during a reshape.
    pub level: Level,
    /// The layout number; what it means depends on the level.
    pub layout: u32,
    /// Sectors used of every member; 0 for raid0 and linear.
    pub size_sectors: u64,
    /// The chunk; 0 for raid1.
    pub chunk_sectors: u32,
    /// Number of slots; the new one during a reshape.
    pub raid_disks: u32,
    /// Bitmap offset, or PPL offset and size: `bitmap_offset_sectors`, `ppl`.
    pub bitmap_offset_raw: u32,
    /// Reshape: the new level.
    pub new_level: Level,
    /// Reshape: how far it got, in array sectors.
    pub reshape_position_sectors: u64,
    /// Reshape: new minus old number of slots.
    pub delta_disks: i32,
    /// Reshape: the new layout.
    pub new_layout: u32,
    /// Reshape: the new chunk.
    pub new_chunk_sectors: u32,
    /// Reshape: what is added to this member's data offset.
    pub new_offset_sectors: i32,
    /// Where array data begins on this member.
    pub data_offset_sectors: u64,
    /// Sectors usable for data from there.
    pub data_size_sectors: u64,
    /// Where this superblock lies.
    pub super_offset_sectors: u64,
    /// Recovery offset of a data member, tail of a journal: `recovery_offset_sectors`.
    pub recovery_offset_raw: u64,
    /// This member's place among the roles; kept for life.
    pub dev_number: u32,
    /// Read errors that were corrected.
    pub corrected_reads: u32,
    /// The member's identity.
    pub device_uuid: Uuid,
    /// Flags of the member.
    pub flags: DeviceFlags,
    /// Unit of bad-block entries: a sector shifted left by this.
    pub bblog_shift: u8,
    /// Room of the bad-block log.
    pub bblog_size_sectors: u16,
    /// Where it lies, from the superblock; 0 for none.
    pub bblog_offset_sectors: i32,
    /// When this superblock was last written.
    pub utime: UnixTime,
    /// Counts the updates of the array's superblocks.
    pub events: u64,
    /// The array is in sync below this; `SECTOR_MAX` when clean.
    pub resync_offset_sectors: u64,
    /// The logical block size the array presents, 0 when unset (kernels from 6.19 write it).
    pub logical_block_bytes: u32,
    /// The role of every device number.
    pub roles: Vec<Role>,
    /// Version 0.90: everybody who is in the array, by device number.
    pub listed: Vec<Listed>,
    /// Version 0.90: the device this member is on.
    pub node: Node,
    /// Version 0.90: the number of the md device.
    pub preferred_minor: u32,
}

impl Fields {
    /// Reads all fields. `raw` holds the header and as many roles as it says.
    pub(super) fn read(raw: &[u8]) -> Fields {
        let role_count = u32_at(raw, 220) as usize;
        let role_at = |index| Role::from_raw(u16_at(raw, HEADER_BYTES + 2 * index));
        Fields {
            features: Features(u32_at(raw, 8)),
            set_uuid: Uuid(array_at(raw, 16)),
            set_name: array_at(raw, 32),
            ctime: UnixTime(u64_at(raw, 64)),
            level: Level::from_raw(i32_at(raw, 72)),
            layout: u32_at(raw, 76),
            size_sectors: u64_at(raw, 80),
            chunk_sectors: u32_at(raw, 88),
            raid_disks: u32_at(raw, 92),
            bitmap_offset_raw: u32_at(raw, 96),
            new_level: Level::from_raw(i32_at(raw, 100)),
            reshape_position_sectors: u64_at(raw, 104),
            delta_disks: i32_at(raw, 112),
            new_layout: u32_at(raw, 116),
            new_chunk_sectors: u32_at(raw, 120),
            new_offset_sectors: i32_at(raw, 124),
            data_offset_sectors: u64_at(raw, 128),
            data_size_sectors: u64_at(raw, 136),
            super_offset_sectors: u64_at(raw, 144),
            recovery_offset_raw: u64_at(raw, 152),
            dev_number: u32_at(raw, 160),
            corrected_reads: u32_at(raw, 164),
            device_uuid: Uuid(array_at(raw, 168)),
            flags: DeviceFlags(raw[184]),
            bblog_shift: raw[185],
            bblog_size_sectors: u16_at(raw, 186),
            bblog_offset_sectors: i32_at(raw, 188),
            utime: UnixTime(u64_at(raw, 192)),
            events: u64_at(raw, 200),
            resync_offset_sectors: u64_at(raw, 208),
            logical_block_bytes: u32_at(raw, 224),
            roles: (0..role_count).map(role_at).collect(),
            listed: Vec::new(),
            node: Node::default(),
            preferred_minor: 0,
        }
    }

    /// Says of a reshape that it is over: data was moved by so many sectors on this member.
    ///
    /// # Panics
    /// When there is no such place on a device.
    pub fn forget_reshape(&mut self, by: i64) {
        let moved =
            |from: u64, by: i64| from.checked_add_signed(by).expect("there was room for it");
        self.data_offset_sectors = moved(self.data_offset_sectors, by);
        self.data_size_sectors = moved(self.data_size_sectors, -by);
        let all = Features::RESHAPE_ACTIVE
            .with(Features::RESHAPE_BACKWARDS)
            .with(Features::NEW_OFFSET);
        self.features = self.features.without(all);
        self.new_offset_sectors = 0;
        self.reshape_position_sectors = 0;
        self.new_level = Level::Raid0;
        (self.new_layout, self.new_chunk_sectors) = (0, 0);
    }

    /// Writes all fields into `image`; the checksum is left to the caller.
    pub(super) fn patch(&self, image: &mut [u8]) {
        put(image, 8, &self.features.0.to_le_bytes());
        put(image, 16, &self.set_uuid.0);
        put(image, 32, &self.set_name);
        put(image, 64, &self.ctime.0.to_le_bytes());
        put(image, 72, &self.level.to_raw().to_le_bytes());
        put(image, 76, &self.layout.to_le_bytes());
        put(image, 80, &self.size_sectors.to_le_bytes());
        put(image, 88, &self.chunk_sectors.to_le_bytes());
        put(image, 92, &self.raid_disks.to_le_bytes());
        put(image, 96, &self.bitmap_offset_raw.to_le_bytes());
        put(image, 100, &self.new_level.to_raw().to_le_bytes());
        put(image, 104, &self.reshape_position_sectors.to_le_bytes());
        put(image, 112, &self.delta_disks.to_le_bytes());
        put(image, 116, &self.new_layout.to_le_bytes());
        put(image, 120, &self.new_chunk_sectors.to_le_bytes());
        put(image, 124, &self.new_offset_sectors.to_le_bytes());
        put(image, 128, &self.data_offset_sectors.to_le_bytes());
        put(image, 136, &self.data_size_sectors.to_le_bytes());
        put(image, 144, &self.super_offset_sectors.to_le_bytes());
        put(image, 152, &self.recovery_offset_raw.to_le_bytes());
        put(image, 160, &self.dev_number.to_le_bytes());
        put(image, 164, &self.corrected_reads.to_le_bytes());
        put(image, 168, &self.device_uuid.0);
        put(image, 184, &[self.flags.0, self.bblog_shift]);
        put(image, 186, &self.bblog_size_sectors.to_le_bytes());
        put(image, 188, &self.bblog_offset_sectors.to_le_bytes());
        put(image, 192, &self.utime.0.to_le_bytes());
        put(image, 200, &self.events.to_le_bytes());
        put(image, 208, &self.resync_offset_sectors.to_le_bytes());
        put(image, 220, &(self.roles.len() as u32).to_le_bytes());
        put(image, 224, &self.logical_block_bytes.to_le_bytes());
        for (index, role) in self.roles.iter().enumerate() {
            put(
                image,
                HEADER_BYTES + 2 * index,
                &role.to_raw().to_le_bytes(),
            );
        }
    }

    /// Bytes of header and roles, which the checksum covers.
    pub fn encoded_bytes(&self) -> usize {
        HEADER_BYTES + 2 * self.roles.len()
    }

    /// The role this member claims for itself. A number without an entry is a spare's.
    pub fn own_role(&self) -> Role {
        self.role_of(self.dev_number)
    }

    /// The role of device number `number`, `Spare` when there is no entry for it.
    pub fn role_of(&self, number: u32) -> Role {
        self.roles
            .get(number as usize)
            .copied()
            .unwrap_or(Role::Spare)
    }

    /// Gives `number` the role `role`, growing the table when needed.
    ///
    /// # Panics
    /// When `number` is at or above `ROLES_MAX`.
    pub fn set_role(&mut self, number: u32, role: Role) {
        let index = number as usize;
        assert!(
            index < super::ROLES_MAX,
            "device number {number} has no entry"
        );
        if index >= self.roles.len() {
            self.roles.resize(index + 1, Role::Spare);
        }
        self.roles[index] = role;
    }

    /// True when some device number has `slot`, that is, when this superblock does not say that
    /// the slot is missing.
    pub fn slot_is_held(&self, slot: u16) -> bool {
        self.roles.contains(&Role::Active(slot))
    }

    /// The name as text, up to the first NUL; bytes that are no UTF-8 are shown as U+FFFD.
    pub fn name(&self) -> String {
        let end = self
            .set_name
            .iter()
            .position(|&byte| byte == 0)
            .unwrap_or(32);
        String::from_utf8_lossy(&self.set_name[..end]).into_owned()
    }

    /// True when nothing has to be resynced.
    pub fn is_clean(&self) -> bool {
        self.resync_offset_sectors == SECTOR_MAX
    }

    /// Sectors from the superblock to the internal bitmap, when there is one.
    pub fn bitmap_offset_sectors(&self) -> Option<i32> {
        let present = self.features.contains(Features::BITMAP_OFFSET);
        present.then_some(self.bitmap_offset_raw as i32)
    }

    /// The device sector of the internal bitmap, when there is one.
    pub fn bitmap_sector(&self) -> Option<u64> {
        let offset_sectors = self.bitmap_offset_sectors()?;
        self.super_offset_sectors
            .checked_add_signed(i64::from(offset_sectors))
    }

    /// Where the partial parity log lies, when there is one.
    pub fn ppl(&self) -> Option<PplPlace> {
        let any = Features::PPL.with(Features::MULTIPLE_PPLS);
        self.features.intersects(any).then_some(PplPlace {
            offset_sectors: self.bitmap_offset_raw as u16 as i16,
            size_sectors: (self.bitmap_offset_raw >> 16) as u16,
        })
    }

    /// The device sector of the bad-block log, when room for one was set aside.
    pub fn bblog_sector(&self) -> Option<u64> {
        if self.bblog_offset_sectors == 0 || self.bblog_size_sectors == 0 {
            return None;
        }
        self.super_offset_sectors
            .checked_add_signed(i64::from(self.bblog_offset_sectors))
    }

    /// For a member that has a slot but is not fully in sync: how far its rebuild got, in sectors
    /// from its data offset. `None` for a member in sync.
    pub fn recovery_offset_sectors(&self) -> Option<u64> {
        let partly = self.features.contains(Features::RECOVERY_OFFSET);
        partly.then_some(self.recovery_offset_raw)
    }

    /// raid0's mapping; `None` when the superblock does not tell (or names an unknown one).
    pub fn raid0_layout(&self) -> Option<Raid0Layout> {
        if self.level != Level::Raid0 || !self.features.contains(Features::RAID0_LAYOUT) {
            return None;
        }
        match self.layout {
            1 => Some(Raid0Layout::Original),
            2 => Some(Raid0Layout::Alternate),
            _ => None,
        }
    }

    /// Sectors of data in the array, for the levels where one superblock tells (raid1, 4, 5, 6;
    /// for raid0 and linear every member's size counts). `None` too when it would not fit 64 bits.
    pub fn array_sectors(&self) -> Option<u64> {
        let parity_disks = match self.level {
            Level::Raid1 => return Some(self.size_sectors),
            Level::Raid4 | Level::Raid5 => 1,
            Level::Raid6 => 2,
            _ => return None,
        };
        let chunk_sectors = u64::from(self.chunk_sectors);
        if chunk_sectors == 0 {
            return None;
        }
        let rows = self.size_sectors / chunk_sectors;
        let data_disks = u64::from(self.raid_disks.checked_sub(parity_disks)?);
        (rows * chunk_sectors).checked_mul(data_disks)
    }
}
