//! Zeroing and trimming of ranges that are as long as the array, on members without content.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use umd_core::array::{
    Array, Command, Completion, Event, IoDone, IoOp, Options, Request, RequestOp, Setup,
};
use umd_core::assembly::{MemberFacts, Wish, assemble};
use umd_core::value::{Instant, MemberId, Now, Pool, RequestId};
use umd_format::create::{NewArray, NewMember, new_array};
use umd_format::v1::DeviceFlags;
use umd_format::{Format, Level, Uuid};

/// 256 GiB.
const DISK_SECTORS: u64 = 1 << 29;
/// The most that one I/O zeroes, and that a chunk may add to it.
const MOST: u64 = 131_072;

/// An array whose members do all they are told, and forget it.
struct Hollow {
    array: Array,
    queue: VecDeque<Command>,
    answered: usize,
    /// What was zeroed on each member.
    zeroed: BTreeMap<MemberId, Vec<(u64, u64)>>,
    flying_most: usize,
}

impl Hollow {
    fn new(level: Level, layout: u32, disks: u16, chunk_sectors: u32) -> Hollow {
        let device = |n: u16| NewMember {
            device_sectors: DISK_SECTORS,
            device_uuid: Uuid([n as u8 + 1; 16]),
            flags: DeviceFlags(0),
        };
        let new = NewArray {
            format: Format::V1_2,
            preferred_minor: 0,
            set_uuid: Uuid([7; 16]),
            name: "host:test".into(),
            ctime_seconds: 1_700_000_000,
            level,
            layout,
            chunk_sectors,
            size_sectors: None,
            data_offset_sectors: Some(2048),
            bitmap: None,
            bad_block_log: false,
            assume_clean: true,
            slots: (0..disks).map(|n| Some(device(n))).collect(),
            spares: Vec::new(),
        };
        let made = new_array(&new).expect("created");
        let facts: Vec<MemberFacts> = made
            .slots
            .iter()
            .enumerate()
            .map(|(n, superblock)| MemberFacts {
                id: MemberId(n as u32),
                name: format!("d{n}"),
                size_sectors: DISK_SECTORS,
                logical_block_bytes: 512,
                superblock: Ok(superblock.clone().expect("all slots")),
                bitmap: None,
                bad_blocks: None,
            })
            .collect();
        let plan = assemble(&facts, &Wish::default()).expect("assembles");
        let array = Array::start(Setup {
            plan,
            facts,
            bitmap_area: None,
            pool: Pool::new(),
            options: Options::default(),
        });
        let mut hollow = Hollow {
            array,
            queue: VecDeque::new(),
            answered: 0,
            zeroed: BTreeMap::new(),
            flying_most: 0,
        };
        let mut out = Vec::new();
        hollow.array.begin(now(), &mut out);
        hollow.queue.extend(out);
        hollow.drain();
        hollow
    }

    fn ask(&mut self, op: RequestOp) {
        let id = RequestId(1);
        self.event(Event::Request(Request { id, op }));
        self.drain();
        assert_eq!(std::mem::take(&mut self.answered), 1, "answered once");
    }

    fn event(&mut self, event: Event) {
        let mut out = Vec::new();
        self.array.handle(now(), event, &mut out);
        self.queue.extend(out);
    }

    fn drain(&mut self) {
        while let Some(command) = self.queue.pop_front() {
            let flying = |command: &&Command| matches!(command, Command::Io(_));
            self.flying_most = self
                .flying_most
                .max(self.queue.iter().filter(flying).count());
            match command {
                Command::Io(io) => {
                    if let IoOp::WriteZeroes {
                        offset_sectors,
                        len_sectors,
                        ..
                    } = io.op
                    {
                        let zeroed = self.zeroed.entry(io.member).or_default();
                        zeroed.push((offset_sectors, len_sectors));
                    }
                    let result = match io.op {
                        IoOp::Read { mut buf, .. } => {
                            buf.as_mut_slice().fill(0);
                            Ok(IoDone::Read(buf))
                        }
                        _ => Ok(IoDone::Done),
                    };
                    self.event(Event::Done(Completion { io: io.io, result }));
                }
                Command::Complete { result, .. } => {
                    result.expect("done");
                    self.answered += 1;
                }
                _ => {}
            }
        }
        self.array.check_invariants();
    }
}

fn now() -> Now {
    Now {
        mono: Instant(1),
        wall_seconds: 1_700_000_100,
    }
}

#[test]
fn a_trim_of_everything_is_few_long_pieces_and_few_at_a_time() {
    for (level, layout, disks, chunk) in [
        (Level::Linear, 0, 3, 0),
        (Level::Raid0, 2, 4, 1024),
        (Level::Raid1, 0, 2, 0),
        (Level::Raid5, 2, 3, 128),
        (Level::Raid6, 2, 5, 8),
        (Level::Raid10, 0x102, 4, 1024),
        (Level::Raid10, 0x102, 3, 128),
        (Level::Raid10, 0x201, 4, 1024),
        (Level::Raid10, 0x10201, 4, 1024),
    ] {
        let mut hollow = Hollow::new(level, layout, disks, chunk);
        let size = hollow.array.array_sectors();
        hollow.ask(RequestOp::Trim {
            offset_sectors: 0,
            len_sectors: size,
            fua: false,
        });
        // Eight jobs, each a run on every member; far and offset copies are runs of their own.
        let far = if layout & 0x200 != 0 { 2 } else { 1 };
        assert!(
            hollow.flying_most <= 8 * usize::from(disks) * far,
            "{level:?}: {} at once",
            hollow.flying_most
        );
        for (member, pieces) in &hollow.zeroed {
            let mut pieces = pieces.clone();
            pieces.sort_unstable();
            let mut at = 2048;
            for (start, len) in &pieces {
                assert_eq!(*start, at, "{level:?}: nothing twice, nothing left out");
                assert!(*len <= MOST + 1024, "{level:?}: {len}");
                at += len;
            }
            let rows = hollow.array.status().dev_sectors.max(DISK_SECTORS - 4096);
            let most = rows / MOST + rows / MOST / 16 + 8;
            assert!(
                pieces.len() as u64 <= most,
                "{level:?} {member:?}: {}",
                pieces.len()
            );
            assert!(at > DISK_SECTORS - 8192, "{level:?}: all of {member:?}");
        }
        assert_eq!(hollow.zeroed.len(), usize::from(disks));
    }
}

/// Parts of rows and chunks: what is zeroed are the places of the range, and no others (M26).
#[test]
fn nothing_beside_the_range_is_zeroed() {
    for (layout, disks) in [(0x102, 4), (0x103, 4), (0x201, 3), (0x10201, 4)] {
        for (start, len) in [(3, 5), (70, 100), (130, 4096), (1021, 40_961)] {
            let mut hollow = Hollow::new(Level::Raid10, layout, disks, 64);
            hollow.ask(RequestOp::WriteZeroes {
                offset_sectors: start,
                len_sectors: len,
                fua: false,
                may_unmap: true,
            });
            let dev = hollow.array.status().dev_sectors;
            let map = umd_core::geometry::Raid10::new(layout, disks, 64, dev).expect("map");
            let places = (start..start + len).flat_map(|sector| map.copies(sector));
            let wanted: BTreeSet<_> = places
                .map(|c| (u32::from(c.slot), c.member_sectors))
                .collect();
            let mut zeroed = BTreeSet::new();
            for (member, pieces) in &hollow.zeroed {
                for (at, len) in pieces {
                    zeroed.extend((*at..at + len).map(|sector| (member.0, sector - 2048)));
                }
            }
            assert!(zeroed == wanted, "{layout:#x} {start}+{len}");
        }
    }
}
