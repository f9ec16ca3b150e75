//! What nodes tell each other: md-cluster's nine messages, with its meanings, and one of ours.
//!
//! ```text
//!    0        1       2 ..
//!   +--------+-------+------------------------------+
//!   | version| kind  | fields, little-endian        |
//!   +--------+-------+------------------------------+
//! ```
//!
//! Kinds have md-cluster's numbers up to 8; the bytes are ours, since nodes of a kernel cannot take
//! part. A resync's window is optional by type: md says "none" as (0, 0), which is also how a
//! window at the start of the array begins.

use std::fmt;

/// The version of the protocol spoken here. All members speak that of the oldest.
pub const VERSION: u8 = 1;

/// The number of a device in the array's superblocks (md: `dev_number`, `desc_nr`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceNumber(pub u32);

/// A range of array sectors. Never empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Window {
    start_sectors: u64,
    end_sectors: u64,
}

impl Window {
    /// From the first sector to the one after the last; none where that is empty.
    pub fn new(start_sectors: u64, end_sectors: u64) -> Option<Window> {
        (start_sectors < end_sectors).then_some(Window {
            start_sectors,
            end_sectors,
        })
    }

    /// Its first sector.
    pub fn start_sectors(self) -> u64 {
        self.start_sectors
    }

    /// The one after its last.
    pub fn end_sectors(self) -> u64 {
        self.end_sectors
    }

    /// What two of them share.
    pub fn shared(self, other: Window) -> Option<Window> {
        Window::new(
            self.start_sectors.max(other.start_sectors),
            self.end_sectors.min(other.end_sectors),
        )
    }
}

/// The path of a disk, the same on every node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DiskPath {
    len: u8,
    bytes: [u8; DiskPath::MOST],
}

impl DiskPath {
    /// The most bytes that one has.
    pub const MOST: usize = 128;

    /// This path; none where it is empty or too long.
    pub fn new(path: &str) -> Option<DiskPath> {
        let len = u8::try_from(path.len()).ok()?;
        let mut bytes = [0; DiskPath::MOST];
        bytes
            .get_mut(..path.len())?
            .copy_from_slice(path.as_bytes());
        (len > 0).then_some(DiskPath { len, bytes })
    }

    /// As text.
    ///
    /// # Panics
    /// Never: it was made of text.
    pub fn as_str(&self) -> &str {
        let bytes = &self.bytes[..usize::from(self.len)];
        std::str::from_utf8(bytes).expect("it was made of text")
    }
}

impl fmt::Debug for DiskPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// A disk that is to be added. md names the uuid and the number, and lets each node search for what
/// was written there; here nothing is written before all have seen it, so they are told where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NewDisk {
    /// The device's own uuid, in the superblock that it will get.
    pub uuid: [u8; 16],
    /// The number it will have.
    pub device: DeviceNumber,
    /// Its size.
    pub size_sectors: u64,
    /// Where it is.
    pub path: DiskPath,
}

impl NewDisk {
    fn encode(&self, bytes: &mut Vec<u8>) {
        bytes.extend(self.uuid);
        bytes.extend(self.device.0.to_le_bytes());
        bytes.extend(self.size_sectors.to_le_bytes());
        bytes.push(self.path.len);
        bytes.extend(self.path.as_str().as_bytes());
    }

    fn decode(fields: &[u8]) -> Option<NewDisk> {
        let (uuid, fields) = fields.split_first_chunk()?;
        let (number, fields) = fields.split_first_chunk()?;
        let (sectors, fields) = fields.split_first_chunk()?;
        let (len, path) = fields.split_first()?;
        let path = std::str::from_utf8(path).ok()?;
        Some(NewDisk {
            uuid: *uuid,
            device: DeviceNumber(u32::from_le_bytes(*number)),
            size_sectors: u64::from_le_bytes(*sectors),
            path: DiskPath::new(path).filter(|path| path.len == *len)?,
        })
    }
}

/// A message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Message {
    /// Superblocks were written: read them again, from this device.
    MetadataUpdated {
        /// A device whose superblock is good.
        good: DeviceNumber,
    },
    /// The sender resyncs there, and nowhere else; answered when no write is under way there and
    /// none will begin.
    Resyncing {
        /// Where; `None`: its resync is over.
        window: Option<Window>,
        /// Whether regions are left in which members may differ (ours; md cannot say it).
        owes: bool,
    },
    /// The sender adds a disk: answered when it was found here, or was not.
    NewDisk(NewDisk),
    /// A device is being removed.
    Remove(DeviceNumber),
    /// The sender takes back a disk that has left: answered as a new one is. Its superblock is on
    /// it, so nobody can mistake another disk for it.
    ReAdd(NewDisk),
    /// The sender leaves with bits set: take its slot when it is gone.
    BitmapNeedsSync,
    /// Every node has followed a new size: publish it.
    ChangeCapacity {
        /// The array's new size.
        sectors: u64,
    },
    /// The bitmaps are for another size.
    BitmapResize {
        /// Sectors that bits are for.
        sync_sectors: u64,
    },
    /// The sender has begun to resync: a new disk may be used.
    ResyncingStart,
    /// The bits of all bitmaps come to stand for another length (ours: md has none for it). Who
    /// does not know this message says so, and is named.
    BitmapChunk {
        /// Bytes that a bit stands for.
        region_bytes: u32,
        /// The bitmaps have to have room for so many sectors.
        sync_sectors: u64,
        /// It is a question only.
        asks: bool,
    },
    /// The bitmaps get other places, as their bits come to stand for another length and they get
    /// another number of pages (ours, too).
    BitmapMove {
        /// Bytes that a bit stands for then.
        region_bytes: u32,
        /// The members have to have room for so many sectors.
        sync_sectors: u64,
        /// How far it is.
        stage: MoveStage,
    },
}

/// What is told of bitmaps that move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MoveStage {
    /// Can it be?
    Ask,
    /// Nobody writes a bitmap any more, until one of the two that follow.
    Hold,
    /// They lie at their new places.
    Moved,
    /// It is given up.
    Back,
}

impl MoveStage {
    const ALL: [MoveStage; 4] = [
        MoveStage::Ask,
        MoveStage::Hold,
        MoveStage::Moved,
        MoveStage::Back,
    ];
}

/// Bytes that are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It has another version.
    #[error("version {0} of the cluster protocol is not known")]
    Version(u8),
    /// It is of an unknown kind.
    #[error("kind {0} of message is not known")]
    Kind(u8),
    /// It is too short, too long, or says what cannot be.
    #[error("a message of {0} bytes makes no sense")]
    Bytes(usize),
}

impl Message {
    /// md-cluster's number of it.
    pub fn kind(self) -> u8 {
        match self {
            Message::MetadataUpdated { .. } => 0,
            Message::Resyncing { .. } => 1,
            Message::NewDisk(_) => 2,
            Message::Remove(_) => 3,
            Message::ReAdd(_) => 4,
            Message::BitmapNeedsSync => 5,
            Message::ChangeCapacity { .. } => 6,
            Message::BitmapResize { .. } => 7,
            Message::ResyncingStart => 8,
            Message::BitmapChunk { .. } => 9,
            Message::BitmapMove { .. } => 10,
        }
    }

    /// As bytes.
    pub fn encode(self) -> Vec<u8> {
        let mut bytes = vec![VERSION, self.kind()];
        match self {
            Message::MetadataUpdated { good: device } | Message::Remove(device) => {
                bytes.extend(device.0.to_le_bytes())
            }
            Message::BitmapNeedsSync | Message::ResyncingStart => {}
            Message::Resyncing { window, owes } => {
                bytes.push(u8::from(owes));
                if let Some(window) = window {
                    bytes.extend(window.start_sectors.to_le_bytes());
                    bytes.extend(window.end_sectors.to_le_bytes());
                }
            }
            Message::NewDisk(disk) | Message::ReAdd(disk) => disk.encode(&mut bytes),
            Message::ChangeCapacity { sectors }
            | Message::BitmapResize {
                sync_sectors: sectors,
            } => bytes.extend(sectors.to_le_bytes()),
            Message::BitmapChunk {
                region_bytes,
                sync_sectors,
                asks,
            } => {
                bytes.push(u8::from(asks));
                bytes.extend(region_bytes.to_le_bytes());
                bytes.extend(sync_sectors.to_le_bytes());
            }
            Message::BitmapMove {
                region_bytes,
                sync_sectors,
                stage,
            } => {
                bytes.push(stage as u8);
                bytes.extend(region_bytes.to_le_bytes());
                bytes.extend(sync_sectors.to_le_bytes());
            }
        }
        bytes
    }

    /// From bytes.
    ///
    /// # Errors
    /// [`Malformed`] says why they are no message of this version.
    pub fn decode(bytes: &[u8]) -> Result<Message, Malformed> {
        let nonsense = Malformed::Bytes(bytes.len());
        let [version, kind, fields @ ..] = bytes else {
            return Err(nonsense);
        };
        if *version != VERSION {
            return Err(Malformed::Version(*version));
        }
        let device = |bytes: &[u8]| {
            let number = bytes.try_into().map_err(|_| nonsense)?;
            Ok(DeviceNumber(u32::from_le_bytes(number)))
        };
        let disk = |bytes: &[u8]| NewDisk::decode(bytes).ok_or(nonsense);
        let sectors = |bytes: &[u8]| {
            let number = bytes.try_into().map_err(|_| nonsense)?;
            Ok(u64::from_le_bytes(number))
        };
        let bare = |message| match fields {
            [] => Ok(message),
            _ => Err(nonsense),
        };
        match kind {
            0 => device(fields).map(|good| Message::MetadataUpdated { good }),
            1 => {
                let (owes, window) = match fields {
                    [owes @ (0 | 1), window @ ..] => (*owes == 1, window),
                    _ => return Err(nonsense),
                };
                if window.is_empty() {
                    return Ok(Message::Resyncing { window: None, owes });
                }
                let (start, end) = window.split_at_checked(8).ok_or(nonsense)?;
                let window = Some(Window::new(sectors(start)?, sectors(end)?).ok_or(nonsense)?);
                Ok(Message::Resyncing { window, owes })
            }
            2 => disk(fields).map(Message::NewDisk),
            3 => device(fields).map(Message::Remove),
            4 => disk(fields).map(Message::ReAdd),
            5 => bare(Message::BitmapNeedsSync),
            6 => sectors(fields).map(|sectors| Message::ChangeCapacity { sectors }),
            7 => sectors(fields).map(|sync_sectors| Message::BitmapResize { sync_sectors }),
            8 => bare(Message::ResyncingStart),
            9 => {
                let [asks @ (0 | 1), chunk @ ..] = fields else {
                    return Err(nonsense);
                };
                let (bytes, size) = chunk.split_first_chunk().ok_or(nonsense)?;
                Ok(Message::BitmapChunk {
                    region_bytes: u32::from_le_bytes(*bytes),
                    sync_sectors: sectors(size)?,
                    asks: *asks == 1,
                })
            }
            10 => {
                let (stage, chunk) = fields.split_first().ok_or(nonsense)?;
                let stage = MoveStage::ALL.get(usize::from(*stage)).ok_or(nonsense)?;
                let (bytes, size) = chunk.split_first_chunk().ok_or(nonsense)?;
                Ok(Message::BitmapMove {
                    region_bytes: u32::from_le_bytes(*bytes),
                    sync_sectors: sectors(size)?,
                    stage: *stage,
                })
            }
            _ => Err(Malformed::Kind(*kind)),
        }
    }
}

/// md-cluster's name of it, where it has one.
impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Message::MetadataUpdated { .. } => "METADATA_UPDATED",
            Message::Resyncing { .. } => "RESYNCING",
            Message::NewDisk(_) => "NEWDISK",
            Message::Remove(_) => "REMOVE",
            Message::ReAdd(_) => "RE_ADD",
            Message::BitmapNeedsSync => "BITMAP_NEEDS_SYNC",
            Message::ChangeCapacity { .. } => "CHANGE_CAPACITY",
            Message::BitmapResize { .. } => "BITMAP_RESIZE",
            Message::ResyncingStart => "RESYNCING_START",
            Message::BitmapChunk { .. } => "BITMAP_CHUNK",
            Message::BitmapMove { .. } => "BITMAP_MOVE",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<(Message, Vec<u8>)> {
        let over = Message::Resyncing {
            window: None,
            owes: true,
        };
        let (good, device) = (DeviceNumber(3), DeviceNumber(0x0102_0304));
        let mut disk = vec![1, 2];
        disk.extend([7; 16]);
        disk.extend([4, 3, 2, 1, 0, 2, 0, 0, 0, 0, 0, 0, 3]);
        disk.extend(b"/d0");
        let mut back = disk.clone();
        back[1] = 4;
        let known = NewDisk {
            uuid: [7; 16],
            device,
            size_sectors: 512,
            path: DiskPath::new("/d0").expect("short"),
        };
        let from_start = [[1, 1, 0].as_slice(), &[0; 8], &[8, 0, 0, 0, 0, 0, 0, 0]].concat();
        vec![
            (Message::MetadataUpdated { good }, vec![1, 0, 3, 0, 0, 0]),
            (
                Message::Resyncing {
                    window: Window::new(0, 8),
                    owes: false,
                },
                from_start,
            ),
            (over, vec![1, 1, 1]),
            (Message::NewDisk(known), disk),
            (Message::Remove(good), vec![1, 3, 3, 0, 0, 0]),
            (Message::ReAdd(known), back),
            (Message::BitmapNeedsSync, vec![1, 5]),
            (
                Message::ChangeCapacity { sectors: 0x100 },
                vec![1, 6, 0, 1, 0, 0, 0, 0, 0, 0],
            ),
            (
                Message::BitmapResize {
                    sync_sectors: 1 << 56,
                },
                vec![1, 7, 0, 0, 0, 0, 0, 0, 0, 1],
            ),
            (Message::ResyncingStart, vec![1, 8]),
            (
                Message::BitmapChunk {
                    region_bytes: 1 << 26,
                    sync_sectors: 0x1_0000,
                    asks: true,
                },
                vec![1, 9, 1, 0, 0, 0, 4, 0, 0, 1, 0, 0, 0, 0, 0],
            ),
            (
                Message::BitmapMove {
                    region_bytes: 1 << 26,
                    sync_sectors: 0x1_0000,
                    stage: MoveStage::Back,
                },
                vec![1, 10, 3, 0, 0, 0, 4, 0, 0, 1, 0, 0, 0, 0, 0],
            ),
        ]
    }

    #[test]
    fn every_message_has_its_bytes_and_comes_back() {
        for (message, bytes) in all() {
            assert_eq!(message.encode(), bytes, "{message}");
            assert_eq!(Message::decode(&bytes), Ok(message));
        }
        let kinds: Vec<u8> = all().iter().map(|(message, _)| message.kind()).collect();
        assert_eq!(kinds, [0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    }

    #[test]
    fn what_is_cut_lengthened_or_foreign_is_refused() {
        for (message, bytes) in all() {
            for len in 0..bytes.len() {
                // A window without its fields is a message: the end of a resync.
                let whole = Message::decode(&bytes[..len]);
                let end = matches!(whole, Ok(Message::Resyncing { window: None, .. })) && len == 3;
                assert!(end || whole.is_err(), "{message} cut to {len}");
            }
            let longer = [bytes.as_slice(), &[0]].concat();
            assert!(Message::decode(&longer).is_err(), "{message}");
            let foreign = [&[2], &bytes[1..]].concat();
            assert_eq!(Message::decode(&foreign), Err(Malformed::Version(2)));
        }
        assert_eq!(Message::decode(&[1, 11]), Err(Malformed::Kind(11)));
        let empty = [[1, 1, 0].as_slice(), &[0; 16]].concat();
        assert_eq!(Message::decode(&empty), Err(Malformed::Bytes(19)));
    }

    #[test]
    fn a_path_is_text_that_fits() {
        let most = "x".repeat(DiskPath::MOST);
        assert_eq!(DiskPath::new(&most).expect("it fits").as_str(), most);
        assert_eq!(DiskPath::new(&format!("{most}x")), None);
        assert_eq!(DiskPath::new(""), None);
        let broken = [&[1, 2], [0; 28].as_slice(), &[1, 0xff]].concat();
        assert!(Message::decode(&broken).is_err(), "no text");
    }

    #[test]
    fn windows_share_what_lies_in_both() {
        let window = |start, end| Window::new(start, end).expect("not empty");
        let shared = |a: (u64, u64), b: (u64, u64)| window(a.0, a.1).shared(window(b.0, b.1));
        assert_eq!(shared((0, 8), (4, 12)), Window::new(4, 8));
        assert_eq!(shared((4, 12), (0, 8)), Window::new(4, 8));
        assert_eq!(shared((0, 99), (4, 8)), Window::new(4, 8));
        assert_eq!(shared((0, 8), (8, 12)), None);
        assert_eq!(shared((8, 12), (0, 8)), None);
        assert_eq!(Window::new(5, 5), None);
    }
}
