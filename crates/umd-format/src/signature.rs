//! Recognising what a device already carries, so that `create` and `add` can refuse to destroy it.
//!
//! The caller reads the first 1 MiB and the last 64 KiB and passes them as windows; nothing here
//! reads a device. The places of the magics are those of the formats' own documentation.

use std::fmt;

use crate::SECTOR_BYTES;
use crate::bytes::{u16_at, u32_at};
use crate::place::probe_order;

/// Bytes at the start that should be given.
pub const HEAD_BYTES: usize = 1 << 20;
/// Bytes at the end that should be given.
pub const TAIL_BYTES: usize = 64 << 10;

/// A stretch of a device.
#[derive(Debug, Clone, Copy)]
pub struct Window<'a> {
    /// Where it begins on the device.
    pub offset_bytes: u64,
    /// What is there.
    pub bytes: &'a [u8],
}

/// What was recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// An md member, v0.90 or v1.x.
    Md,
    /// ext2, without journal.
    Ext2,
    /// ext3.
    Ext3,
    /// ext4.
    Ext4,
    /// XFS.
    Xfs,
    /// Btrfs.
    Btrfs,
    /// F2FS.
    F2fs,
    /// FAT12, FAT16 or FAT32.
    Fat,
    /// exFAT.
    ExFat,
    /// NTFS.
    Ntfs,
    /// A CD or DVD image.
    Iso9660,
    /// SquashFS.
    SquashFs,
    /// LVM physical volume.
    Lvm2,
    /// LUKS, either version.
    Luks,
    /// Linux swap space.
    Swap,
    /// ZFS pool member.
    Zfs,
    /// bcache device.
    Bcache,
    /// GPT partition table.
    Gpt,
    /// MBR partition table.
    Mbr,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Md => "an md superblock",
            Kind::Ext2 => "an ext2 filesystem",
            Kind::Ext3 => "an ext3 filesystem",
            Kind::Ext4 => "an ext4 filesystem",
            Kind::Xfs => "an XFS filesystem",
            Kind::Btrfs => "a Btrfs filesystem",
            Kind::F2fs => "an F2FS filesystem",
            Kind::Fat => "a FAT filesystem",
            Kind::ExFat => "an exFAT filesystem",
            Kind::Ntfs => "an NTFS filesystem",
            Kind::Iso9660 => "an ISO 9660 filesystem",
            Kind::SquashFs => "a SquashFS filesystem",
            Kind::Lvm2 => "an LVM2 physical volume",
            Kind::Luks => "a LUKS container",
            Kind::Swap => "swap space",
            Kind::Zfs => "a ZFS pool member",
            Kind::Bcache => "a bcache device",
            Kind::Gpt => "a GPT partition table",
            Kind::Mbr => "an MBR partition table",
        })
    }
}

/// One finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Signature {
    /// Where its magic is.
    pub offset_bytes: u64,
    /// What it is.
    pub kind: Kind,
}

/// Magics that stand at one place and need no second look.
const FIXED: &[(Kind, u64, &[u8])] = &[
    (Kind::Xfs, 0, b"XFSB"),
    (Kind::SquashFs, 0, b"hsqs"),
    (Kind::Luks, 0, b"LUKS\xba\xbe"),
    (Kind::ExFat, 3, b"EXFAT   "),
    (Kind::Ntfs, 3, b"NTFS    "),
    (Kind::F2fs, 1024, &[0x10, 0x20, 0xf5, 0xf2]),
    (
        Kind::Bcache,
        4096 + 24,
        &[
            0xc6, 0x85, 0x73, 0xf6, 0x4e, 0x1a, 0x45, 0xca, 0x82, 0x65, 0xf5, 0x7f, 0x48, 0xba,
            0x6d, 0x81,
        ],
    ),
    (Kind::Iso9660, 32_769, b"CD001"),
    (Kind::Btrfs, 65_536 + 64, b"_BHRfS_M"),
];

/// Page sizes a swap header may have been made for.
const SWAP_PAGES: [u64; 5] = [4096, 8192, 16_384, 32_768, 65_536];

/// Finds everything known in `windows` of a device of `device_bytes`, by offset.
pub fn scan(windows: &[Window<'_>], device_bytes: u64) -> Vec<Signature> {
    let view = View { windows };
    let mut found = Vec::new();
    for &(kind, offset_bytes, magic) in FIXED {
        if view.has(offset_bytes, magic) {
            found.push(Signature { offset_bytes, kind });
        }
    }
    md(&view, device_bytes, &mut found);
    ext(&view, &mut found);
    lvm(&view, &mut found);
    swap(&view, &mut found);
    zfs(&view, device_bytes, &mut found);
    partitions(&view, device_bytes, &mut found);
    found.sort();
    found
}

struct View<'a> {
    windows: &'a [Window<'a>],
}

impl<'a> View<'a> {
    /// `length` bytes at `offset_bytes`, when one window has them all.
    fn at(&self, offset_bytes: u64, length: usize) -> Option<&'a [u8]> {
        self.windows.iter().find_map(|window| {
            let start = usize::try_from(offset_bytes.checked_sub(window.offset_bytes)?).ok()?;
            window.bytes.get(start..start.checked_add(length)?)
        })
    }

    fn has(&self, offset_bytes: u64, magic: &[u8]) -> bool {
        self.at(offset_bytes, magic.len()) == Some(magic)
    }
}

fn md(view: &View<'_>, device_bytes: u64, found: &mut Vec<Signature>) {
    let sector_bytes = SECTOR_BYTES as u64;
    for (_, sector) in probe_order(device_bytes / sector_bytes) {
        let offset_bytes = sector * sector_bytes;
        let magic = crate::MD_MAGIC;
        if view.has(offset_bytes, &magic.to_le_bytes())
            || view.has(offset_bytes, &magic.to_be_bytes())
        {
            found.push(Signature {
                offset_bytes,
                kind: Kind::Md,
            });
        }
    }
}

fn ext(view: &View<'_>, found: &mut Vec<Signature>) {
    const SUPERBLOCK: u64 = 1024;
    const HAS_JOURNAL: u32 = 0x4;
    const EXTENTS_64BIT_FLEX_BG: u32 = 0x40 | 0x80 | 0x200;
    const HUGE_FILE_TO_METADATA_CSUM: u32 = 0x8 | 0x10 | 0x20 | 0x40 | 0x400;
    let Some(superblock) = view.at(SUPERBLOCK, 104) else {
        return;
    };
    if u16_at(superblock, 56) != 0xef53 {
        return;
    }
    let (compatible, incompatible) = (u32_at(superblock, 92), u32_at(superblock, 96));
    let read_only = u32_at(superblock, 100);
    let kind = if incompatible & EXTENTS_64BIT_FLEX_BG != 0
        || read_only & HUGE_FILE_TO_METADATA_CSUM != 0
    {
        Kind::Ext4
    } else if compatible & HAS_JOURNAL != 0 {
        Kind::Ext3
    } else {
        Kind::Ext2
    };
    found.push(Signature {
        offset_bytes: SUPERBLOCK + 56,
        kind,
    });
}

/// The label may stand in any of the first four sectors.
fn lvm(view: &View<'_>, found: &mut Vec<Signature>) {
    for offset_bytes in [0, 512, 1024, 1536] {
        if view.has(offset_bytes, b"LABELONE") && view.has(offset_bytes + 24, b"LVM2 001") {
            found.push(Signature {
                offset_bytes,
                kind: Kind::Lvm2,
            });
        }
    }
}

fn swap(view: &View<'_>, found: &mut Vec<Signature>) {
    for page in SWAP_PAGES {
        let offset_bytes = page - 10;
        if view.has(offset_bytes, b"SWAPSPACE2") || view.has(offset_bytes, b"SWAP-SPACE") {
            found.push(Signature {
                offset_bytes,
                kind: Kind::Swap,
            });
        }
    }
}

/// Two labels of 256 KiB at the start and two at the end; the second half of each is a ring of
/// uberblocks, in the byte order of the writer. One finding per label is enough.
fn zfs(view: &View<'_>, device_bytes: u64, found: &mut Vec<Signature>) {
    const LABEL: u64 = 256 << 10;
    const RING: u64 = 128 << 10;
    const MAGIC: u64 = 0x00ba_b10c;
    let end = device_bytes / LABEL * LABEL;
    let labels = [
        Some(0),
        Some(LABEL),
        end.checked_sub(2 * LABEL),
        end.checked_sub(LABEL),
    ];
    for label in labels.into_iter().flatten() {
        let uberblock = (0..RING / 1024)
            .map(|index| label + RING + index * 1024)
            .find(|&place| {
                view.has(place, &MAGIC.to_le_bytes()) || view.has(place, &MAGIC.to_be_bytes())
            });
        let signature = uberblock.map(|offset_bytes| Signature {
            offset_bytes,
            kind: Kind::Zfs,
        });
        found.extend(signature.filter(|signature| !found.contains(signature)));
    }
}

/// GPT (both headers, sectors of 512 and 4096 bytes), MBR, and FAT, whose boot sector looks like
/// an MBR.
fn partitions(view: &View<'_>, device_bytes: u64, found: &mut Vec<Signature>) {
    let before_end = |bytes: u64| device_bytes.checked_sub(bytes);
    let places = [Some(512), Some(4096), before_end(512), before_end(4096)];
    for offset_bytes in places.into_iter().flatten() {
        let signature = Signature {
            offset_bytes,
            kind: Kind::Gpt,
        };
        if view.has(offset_bytes, b"EFI PART") && !found.contains(&signature) {
            found.push(signature);
        }
    }
    let Some(boot) = view.at(0, SECTOR_BYTES) else {
        return;
    };
    if boot[510..] != [0x55, 0xaa] {
        return;
    }
    if matches!(&boot[54..62], b"FAT12   " | b"FAT16   " | b"FAT     ")
        || &boot[82..90] == b"FAT32   "
    {
        found.push(Signature {
            offset_bytes: 54,
            kind: Kind::Fat,
        });
        return;
    }
    if found
        .iter()
        .any(|one| matches!(one.kind, Kind::ExFat | Kind::Ntfs))
    {
        return;
    }
    let entries = boot[446..510].chunks_exact(16);
    let plausible = |entry: &[u8]| matches!(entry[0], 0 | 0x80);
    let used = |entry: &[u8]| entry[4] != 0 && u32_at(entry, 12) != 0;
    if entries.clone().all(plausible) && entries.clone().any(used) {
        found.push(Signature {
            offset_bytes: 510,
            kind: Kind::Mbr,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE_BYTES: u64 = 8 << 20;

    /// A device of zeroes with pieces put in.
    fn device(pieces: &[(usize, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![0; DEVICE_BYTES as usize];
        for (offset, piece) in pieces {
            bytes[*offset..*offset + piece.len()].copy_from_slice(piece);
        }
        bytes
    }

    fn kinds(bytes: &[u8]) -> Vec<Kind> {
        let tail = bytes.len() - TAIL_BYTES;
        let windows = [
            Window {
                offset_bytes: 0,
                bytes: &bytes[..HEAD_BYTES],
            },
            Window {
                offset_bytes: tail as u64,
                bytes: &bytes[tail..],
            },
        ];
        scan(&windows, bytes.len() as u64)
            .into_iter()
            .map(|one| one.kind)
            .collect()
    }

    #[test]
    fn an_empty_device_carries_nothing() {
        assert!(kinds(&device(&[])).is_empty());
        assert!(scan(&[], 0).is_empty());
    }

    #[test]
    fn fixed_magics_are_found() {
        for &(kind, offset, magic) in FIXED {
            assert_eq!(kinds(&device(&[(offset as usize, magic)])), [kind]);
        }
    }

    #[test]
    fn md_is_found_at_all_its_places() {
        let magic = crate::MD_MAGIC.to_le_bytes();
        for (_, sector) in probe_order(DEVICE_BYTES / 512) {
            assert_eq!(
                kinds(&device(&[(sector as usize * 512, &magic)])),
                [Kind::Md]
            );
        }
        let old = probe_order(DEVICE_BYTES / 512)[3].1 as usize * 512;
        assert_eq!(
            kinds(&device(&[(old, &crate::MD_MAGIC.to_be_bytes())])),
            [Kind::Md]
        );
    }

    #[test]
    fn the_three_ext_filesystems_are_told_apart() {
        let magic: (usize, &[u8]) = (1080, &[0x53, 0xef]);
        assert_eq!(kinds(&device(&[magic])), [Kind::Ext2]);
        assert_eq!(kinds(&device(&[magic, (1116, &[4])])), [Kind::Ext3]);
        assert_eq!(
            kinds(&device(&[magic, (1116, &[4]), (1120, &[0x40])])),
            [Kind::Ext4]
        );
        assert_eq!(kinds(&device(&[magic, (1124, &[0x10])])), [Kind::Ext4]);
    }

    #[test]
    fn lvm_needs_both_words() {
        assert_eq!(
            kinds(&device(&[(512, b"LABELONE"), (536, b"LVM2 001")])),
            [Kind::Lvm2]
        );
        assert!(kinds(&device(&[(512, b"LABELONE")])).is_empty());
    }

    #[test]
    fn swap_is_found_for_every_page_size() {
        for page in SWAP_PAGES {
            let offset = page as usize - 10;
            assert_eq!(kinds(&device(&[(offset, b"SWAPSPACE2")])), [Kind::Swap]);
        }
    }

    #[test]
    fn zfs_is_found_in_either_byte_order() {
        let magic = 0x00ba_b10c_u64;
        assert_eq!(
            kinds(&device(&[((128 << 10) + 4096, &magic.to_le_bytes())])),
            [Kind::Zfs]
        );
        assert_eq!(
            kinds(&device(&[((384 << 10) + 1024, &magic.to_be_bytes())])),
            [Kind::Zfs]
        );
        let last = DEVICE_BYTES as usize - 1024;
        assert_eq!(kinds(&device(&[(last, &magic.to_le_bytes())])), [Kind::Zfs]);
    }

    #[test]
    fn partition_tables_are_told_from_boot_sectors() {
        let mark: (usize, &[u8]) = (510, &[0x55, 0xaa]);
        let mut entry = [0; 16];
        entry[4] = 0x83;
        entry[12] = 8;
        assert_eq!(kinds(&device(&[mark, (446, &entry)])), [Kind::Mbr]);
        assert!(kinds(&device(&[mark])).is_empty());
        assert_eq!(kinds(&device(&[mark, (82, b"FAT32   ")])), [Kind::Fat]);
        assert_eq!(
            kinds(&device(&[mark, (3, b"NTFS    "), (446, &entry)])),
            [Kind::Ntfs]
        );
        let backup = DEVICE_BYTES as usize - 512;
        assert_eq!(kinds(&device(&[(backup, b"EFI PART")])), [Kind::Gpt]);
        let whole = device(&[
            mark,
            (446, &entry),
            (512, b"EFI PART"),
            (backup, b"EFI PART"),
        ]);
        assert_eq!(kinds(&whole), [Kind::Mbr, Kind::Gpt, Kind::Gpt]);
    }
}
