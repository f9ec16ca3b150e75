//! Bits: when they are set, when they go, and where they lie.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use umd_core::array::{
    Array, BitmapFile, BitmapWish, Command, Completion, Control, ControlError, ControlReply, Event,
    IoDone, IoOp, NewBitmap, Options, Purpose, Request, RequestOp, Setup, Timer,
};
use umd_core::assembly::{MemberFacts, Wish, assemble};
use umd_core::value::{ControlId, Instant, MemberId, Now, Pool, RequestId};
use umd_format::create::{NewArray, NewMember, new_array};
use umd_format::v1::DeviceFlags;
use umd_format::{Format, Level, Uuid};

use crate::world::{Shape, World};

fn dirty(world: &mut World) -> u64 {
    let bitmap = world.array().status().bitmap;
    bitmap.expect("a bitmap").dirty_bits
}

fn submit(world: &mut World, at: u64, byte: u8) -> u64 {
    let data = world.pool.copy_of(&[byte; 512]);
    world.submit(RequestOp::Write {
        offset_sectors: at,
        data,
        fua: false,
    })
}

/// While one bit is being written another region is written to: that one waits for its own bit. A
/// crash before would leave a difference that no bit tells of.
#[test]
fn a_write_waits_for_its_own_bit() {
    let mut world = World::running(&Shape::mirror(2));
    world.pass(60);
    world.write(0, &[1; 512]).expect("written");
    world.holds = Some(Purpose::Bitmap);
    let first = submit(&mut world, 300, 2);
    let second = submit(&mut world, 600, 3);
    assert!(!world.is_answered(first));
    assert!(!world.kept_back.is_empty(), "a bit is on its way");
    world.release_once();
    assert!(world.is_answered(first));
    assert!(!world.is_answered(second), "its bit is not there yet");
    let at = (world.superblock(0).fields.data_offset_sectors + 600) as usize * 512;
    let written = world.disks.values().any(|disk| disk.bytes[at] == 3);
    assert!(!written, "nor is what it wrote");
    world.release_once();
    assert!(world.is_answered(second));
}

/// A region that is written again and again keeps its bit: each time would cost two writes more.
#[test]
fn a_bit_stays_a_while_after_the_last_write() {
    let mut world = World::running(&Shape::mirror(2));
    world.pass(60);
    assert_eq!(dirty(&mut world), 0);
    world.write(0, &[1; 512]).expect("written");
    // The pass is due after five seconds; a write just before it begins the wait anew.
    world.pass_millis(4900);
    world.write(0, &[2; 512]).expect("written");
    world.pass_millis(200);
    assert_eq!(dirty(&mut world), 1);
    world.pass(60);
    assert_eq!(dirty(&mut world), 0);
}

/// An array in which nothing happens lets its machine sleep.
#[test]
fn an_idle_array_wakes_nobody() {
    for shape in [Shape::mirror(2), Shape::parity(Level::Raid5, 3)] {
        let mut world = World::running(&shape);
        world.write(0, &[1; 512]).expect("written");
        world.pass(300);
        let armed: Vec<&Timer> = world.timers.keys().collect();
        assert_eq!(armed, [] as [&Timer; 0], "{}", shape.level);
    }
}

/// Where a member is missing no bit goes; nobody needs to look every few seconds, either.
#[test]
fn a_degraded_array_keeps_its_bits() {
    let mut world = World::running(&Shape::mirror(2));
    world.pass(60);
    world.control(Control::Fail(MemberId(1))).expect("failed");
    world.write(0, &[1; 512]).expect("written");
    world.write(600, &[1; 512]).expect("written");
    world.pass(300);
    assert_eq!(dirty(&mut world), 2);
    assert!(!world.timers.contains_key(&Timer::BitmapDaemon));
}

/// A bitmap that superblocks have outrun says nothing: after a crash everything is compared.
#[test]
fn a_bitmap_that_is_out_of_date_costs_a_whole_resync() {
    let mut world = World::running(&Shape::mirror(2));
    for _ in 0..3 {
        world.pass(60);
        world.write(0, &[1; 512]).expect("written");
    }
    world.kill();
    for id in [0, 1] {
        let at = world.superblock(id).fields.bitmap_sector().expect("one") as usize * 512;
        let disk = world.disks.get_mut(&MemberId(id)).expect("a disk");
        let events = &mut disk.bytes[at + 24..][..8];
        let before = u64::from_le_bytes(events.try_into().expect("eight"));
        events.copy_from_slice(&(before - 2).to_le_bytes());
        // Written by who did not keep the bitmap: no bit tells.
        disk.bytes[400 * 512] = id as u8;
    }
    world.begin();
    world.pass(5);
    let size = world.array().status().dev_sectors;
    let read = world.disks[&MemberId(0)].read_sectors;
    assert!(read >= size, "{read} of {size}");
    let at = |id: u32| &world.disks[&MemberId(id)].bytes[128 * 512..];
    assert!(at(0) == at(1));
}

/// Nothing was in flight when it was stopped, so nothing has to be compared.
#[test]
fn a_bitmap_that_is_out_of_date_costs_a_clean_array_nothing() {
    let mut world = World::running(&Shape::mirror(2));
    world.write(0, &[1; 512]).expect("written");
    world.stop();
    for id in [0, 1] {
        let at = world.superblock(id).fields.bitmap_sector().expect("one") as usize * 512;
        let disk = world.disks.get_mut(&MemberId(id)).expect("a disk");
        let events = &mut disk.bytes[at + 24..][..8];
        let before = u64::from_le_bytes(events.try_into().expect("eight"));
        events.copy_from_slice(&(before - 2).to_le_bytes());
        disk.read_sectors = 0;
    }
    world.begin();
    world.pass(60);
    let read: u64 = world.disks.values().map(|disk| disk.read_sectors).sum();
    assert_eq!(read, 0);
    assert_eq!(dirty(&mut world), 0, "it was written anew, and cleared");
}

/// The file of a bitmap is lost: what it knew last is what is shown, and nothing is written to it.
#[test]
fn a_lost_file_is_left_alone() {
    let mut world = World::running(&Shape {
        bitmap: false,
        ..Shape::mirror(2)
    });
    let file = world.new_file(90, 4096);
    let new = NewBitmap {
        region_bytes: Some(65536),
        write_behind: 0,
        offset_sectors: None,
    };
    let wish = BitmapWish::File(file, new);
    world.control(Control::Bitmap(wish)).expect("a bitmap");
    world.pass(60);
    world.write(0, &[1; 512]).expect("written");
    let lost = Control::Lost(MemberId(90), "its file vanished".into());
    world.control(lost).expect("told");
    let before = world.disks[&MemberId(90)].bytes.clone();
    world.write(600, &[1; 512]).expect("written");
    world.pass(300);
    assert!(world.disks[&MemberId(90)].bytes == before);
    let bitmap = world.array().status().bitmap.expect("it is shown");
    assert!(bitmap.fault.is_some());
    assert!(bitmap.dirty_bits > 0, "nothing was cleared: {bitmap:?}");
    world.kill();
    assert!(!world.start_with_file(), "never believed again");
}

/// 256 MiB in the smallest regions: the bitmap of a file has three pages.
const DISK_SECTORS: u64 = 512 << 10;
const FILE: MemberId = MemberId(90);
const FINE: NewBitmap = NewBitmap {
    region_bytes: Some(4096),
    write_behind: 0,
    offset_sectors: None,
};

/// A mirror whose members do all they are told and forget it, but for the file.
struct Hollow {
    array: Array,
    queue: VecDeque<Command>,
    file: Vec<u8>,
    written: BTreeSet<u64>,
    answers: BTreeMap<u64, Result<ControlReply, ControlError>>,
    pool: Pool,
    clock: u64,
    timers: BTreeMap<Timer, Instant>,
}

impl Hollow {
    fn new(device_sectors: u64) -> Hollow {
        let device = |n: u8| NewMember {
            device_sectors,
            device_uuid: Uuid([n + 1; 16]),
            flags: DeviceFlags(0),
        };
        let new = NewArray {
            format: Format::V1_2,
            preferred_minor: 0,
            set_uuid: Uuid([7; 16]),
            name: "host:test".into(),
            ctime_seconds: 1_700_000_000,
            level: Level::Raid1,
            layout: 0,
            chunk_sectors: 0,
            size_sectors: None,
            data_offset_sectors: Some(2048),
            bitmap: None,
            bad_block_log: false,
            assume_clean: true,
            slots: (0..2).map(|n| Some(device(n))).collect(),
            spares: Vec::new(),
        };
        let made = new_array(&new).expect("created");
        let fact = |(n, superblock): (usize, &Option<umd_format::SuperblockV1>)| MemberFacts {
            id: MemberId(n as u32),
            name: format!("d{n}"),
            size_sectors: device_sectors,
            logical_block_bytes: 512,
            superblock: Ok(superblock.clone().expect("all slots")),
            bitmap: None,
            bad_blocks: None,
        };
        let facts: Vec<MemberFacts> = made.slots.iter().enumerate().map(fact).collect();
        let plan = assemble(&facts, &Wish::default()).expect("assembles");
        let pool = Pool::new();
        let array = Array::start(Setup {
            plan,
            facts,
            bitmap_area: None,
            pool: pool.clone(),
            options: Options::default(),
        });
        let mut hollow = Hollow {
            array,
            queue: VecDeque::new(),
            file: Vec::new(),
            written: BTreeSet::new(),
            answers: BTreeMap::new(),
            pool,
            clock: 1,
            timers: BTreeMap::new(),
        };
        let mut out = Vec::new();
        hollow.array.begin(hollow.now(), &mut out);
        hollow.queue.extend(out);
        hollow.run();
        hollow
    }

    fn now(&self) -> Now {
        Now {
            mono: Instant(self.clock),
            wall_seconds: 1_700_000_100,
        }
    }

    fn event(&mut self, event: Event) {
        let mut out = Vec::new();
        self.array.handle(self.now(), event, &mut out);
        self.queue.extend(out);
        self.run();
    }

    fn run(&mut self) {
        while let Some(command) = self.queue.pop_front() {
            match command {
                Command::Io(io) => {
                    let result = Ok(match io.op {
                        IoOp::Read { buf, .. } => IoDone::Read(buf),
                        IoOp::Write {
                            offset_sectors,
                            data,
                            ..
                        } if io.member == FILE => {
                            let bytes: Vec<u8> =
                                data.iter().flat_map(|p| p.as_slice().to_vec()).collect();
                            self.put(offset_sectors, &bytes);
                            IoDone::Done
                        }
                        _ => IoDone::Done,
                    });
                    let mut out = Vec::new();
                    let done = Completion { io: io.io, result };
                    self.array.handle(self.now(), Event::Done(done), &mut out);
                    self.queue.extend(out);
                }
                Command::Answer { id, result } => {
                    self.answers.insert(id.0, result);
                }
                Command::Arm(timer, at) => {
                    self.timers.insert(timer, at);
                }
                _ => {}
            }
        }
    }

    fn put(&mut self, sector: u64, bytes: &[u8]) {
        let at = sector as usize * 512;
        assert!(at + bytes.len() <= self.file.len(), "within its file");
        self.file[at..at + bytes.len()].copy_from_slice(bytes);
        self.written
            .extend((at..at + bytes.len()).step_by(512).map(|at| at as u64));
    }

    fn control(&mut self, control: Control) -> Result<ControlReply, ControlError> {
        self.event(Event::Control(ControlId(1), control));
        self.answers.remove(&1).expect("answered")
    }

    fn pass(&mut self, seconds: u64) {
        let end = self.clock + seconds * 1_000_000_000;
        while let Some((timer, at)) = self.timers.iter().min_by_key(|(_, at)| **at) {
            let (timer, at) = (*timer, *at);
            if at.0 > end {
                break;
            }
            self.timers.remove(&timer);
            self.clock = self.clock.max(at.0);
            self.event(Event::Timer(timer));
        }
        self.clock = end;
    }
}

/// All pages of a large bitmap are written, each to its place, and each write marks its own bit.
#[test]
fn every_page_of_a_large_bitmap_lies_in_its_place() {
    let mut hollow = Hollow::new(DISK_SECTORS);
    let room = hollow.control(Control::BitmapRoom(FINE)).expect("room");
    let ControlReply::Room { sectors } = room else {
        panic!("{room:?}");
    };
    assert!(sectors > 8 * 2, "many pages: {sectors}");
    hollow.file = vec![0; sectors as usize * 512];
    let file = BitmapFile {
        id: FILE,
        name: "bits".into(),
        size_sectors: sectors,
    };
    let wish = BitmapWish::File(file, FINE);
    hollow.control(Control::Bitmap(wish)).expect("a bitmap");
    let bits = (DISK_SECTORS - 2048) / 8;
    let set = |hollow: &Hollow| -> Vec<u64> {
        let is_set = |bit: &u64| hollow.file[256 + *bit as usize / 8] >> (bit % 8) & 1 == 1;
        (0..bits).filter(is_set).collect()
    };
    assert_eq!(
        set(&hollow).len() as u64,
        bits,
        "it begins with all of them"
    );
    hollow.pass(60);
    assert_eq!(set(&hollow), []);
    hollow.written.clear();
    for bit in [0, 30_719, 30_720, 40_000, bits - 1] {
        let data = hollow.pool.copy_of(&[1; 512]);
        hollow.event(Event::Request(Request {
            id: RequestId(bit),
            op: RequestOp::Write {
                offset_sectors: bit * 8 + 3,
                data,
                fua: false,
            },
        }));
    }
    assert_eq!(set(&hollow), [0, 30_719, 30_720, 40_000, bits - 1]);
    let last = (256 + (bits - 1) / 8) / 512 * 512;
    assert!(hollow.written.contains(&last), "{:?}", hollow.written);
}

/// A file that would be larger than md keeps in memory is refused with what to do about it.
#[test]
fn a_bitmap_that_is_too_fine_for_its_array_is_refused() {
    let mut hollow = Hollow::new(1 << 37);
    let refused = hollow.control(Control::BitmapRoom(FINE));
    let text = refused.expect_err("too large").to_string();
    assert!(text.contains("take a larger --bitmap-chunk"), "{text}");
    let coarser = NewBitmap {
        region_bytes: Some(1 << 20),
        ..FINE
    };
    let room = hollow.control(Control::BitmapRoom(coarser));
    assert!(matches!(room, Ok(ControlReply::Room { .. })), "{room:?}");
}

/// As many writes may lag as mdadm allows.
#[test]
fn the_most_that_may_lag_is_accepted() {
    let mut hollow = Hollow::new(1 << 20);
    let behind = |write_behind| NewBitmap {
        region_bytes: Some(65536),
        write_behind,
        offset_sectors: None,
    };
    let most = hollow.control(Control::BitmapRoom(behind(16_383)));
    assert!(most.is_ok(), "{most:?}");
    let text = hollow
        .control(Control::BitmapRoom(behind(16_384)))
        .expect_err("one too many")
        .to_string();
    assert!(text.contains("at most 16383"), "{text}");
}
