//! An array whose members are memory, and a driver that does nothing but carry.
//!
//! ```text
//!   requests --> Array --> Command::Io --> memory --> Event::Ended --> Array --> answers
//! ```
//!
//! Time is virtual: a microsecond a turn. Nothing here reads a clock, asks the system for anything
//! or depends on an address, so a run is the same run, instruction for instruction.

use std::collections::BTreeMap;

use umd_core::array::{
    Array, Command, Completion, Control, Event, FlagWish, IoDone, IoOp, MemberIo,
    NewMember as Joining, Notice, Options, Request, RequestOp, Setup, SyncRequest, Timer,
};
use umd_core::assembly::{MemberFacts, Wish, assemble};
use umd_core::sync::SyncAction;
use umd_core::value::{ControlId, Instant, MemberId, Now, Pool, RequestId, Slice};
use umd_format::bitmap::Unverified;
use umd_format::create::{NewArray, NewMember, new_array};
use umd_format::space::RegionWish;
use umd_format::v1::DeviceFlags;
use umd_format::{Format, Level, Uuid};

/// What an array is made of.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Level.
    pub level: Level,
    /// Layout, in the superblock's terms.
    pub layout: u32,
    /// Members.
    pub disks: u16,
    /// Chunk, 0 where the level has none.
    pub chunk_sectors: u32,
    /// Size of a region of the bitmap, if there is one.
    pub region_bytes: Option<u32>,
    /// Size of a member.
    pub member_bytes: u64,
}

impl Shape {
    /// A usual array of this level: 64 KiB chunks, no bitmap.
    pub fn new(level: Level, disks: u16, member_bytes: u64) -> Shape {
        let layout = match level {
            Level::Raid5 | Level::Raid6 => 2,
            Level::Raid10 => 0x102,
            _ => 0,
        };
        Shape {
            level,
            layout,
            disks,
            chunk_sectors: if level == Level::Raid1 { 0 } else { 128 },
            region_bytes: None,
            member_bytes,
        }
    }

    /// The same with a bitmap.
    #[must_use]
    pub fn with_bitmap(self, region_bytes: u32) -> Shape {
        Shape {
            region_bytes: Some(region_bytes),
            ..self
        }
    }
}

/// Writes to memory of at least so many bytes go past the caches: nobody reads them soon.
const PAST_CACHE_BYTES: usize = 32 << 10;

/// Where a member's bytes are.
enum Memory {
    /// They are kept.
    Kept(Vec<u8>),
    /// They are not: writes go nowhere, and reads bring what was in the buffer. For counting what
    /// the engine does by itself.
    Nowhere,
}

/// A load.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Writes, else reads.
    pub write: bool,
    /// At random, else one behind the other.
    pub random: bool,
    /// Bytes of each request.
    pub block: u64,
    /// Requests in flight. As many as were answered in a turn come together in the next.
    pub depth: u64,
    /// Only this much of the array is used, in bytes.
    pub span: u64,
}

/// A running array.
pub struct Plane {
    array: Array,
    pool: Pool,
    members: Vec<Memory>,
    out: Vec<Command>,
    timers: BTreeMap<Timer, Instant>,
    now: Now,
    next: u64,
    seed: u64,
    position: u64,
    completed: u64,
    ended: bool,
    traffic: u64,
    member_bytes: u64,
}

impl Plane {
    /// An array whose members keep what is written to them.
    ///
    /// # Panics
    /// When there is no such array.
    pub fn new(shape: &Shape) -> Plane {
        Plane::start(shape, true, 0)
    }

    /// The same, and the first members of it are missing.
    ///
    /// # Panics
    /// When it cannot be without them.
    pub fn without_first(shape: &Shape, missing: u16) -> Plane {
        Plane::start(shape, true, missing)
    }

    /// An array whose members keep nothing. Parity is computed from what is not there, and takes
    /// as long.
    ///
    /// # Panics
    /// When there is no such array.
    pub fn without_members(shape: &Shape) -> Plane {
        Plane::start(shape, false, 0)
    }

    fn start(shape: &Shape, kept: bool, missing: u16) -> Plane {
        let pool = Pool::new();
        let (mut facts, bitmap_area) = facts(shape);
        facts.retain(|fact| fact.id.0 >= u32::from(missing));
        let plan = assemble(&facts, &Wish::default()).expect("a new array starts");
        let member = |_| match kept {
            true => Memory::Kept(touched(shape.member_bytes)),
            false => Memory::Nowhere,
        };
        let members = (0..shape.disks).map(member).collect();
        let array = Array::start(Setup {
            plan,
            facts,
            bitmap_area,
            pool: pool.clone(),
            options: Options::default(),
        });
        let mut plane = Plane {
            array,
            pool,
            members,
            out: Vec::new(),
            timers: BTreeMap::new(),
            now: Now {
                mono: Instant(1),
                wall_seconds: 1_700_000_000,
            },
            next: 0,
            seed: 1,
            position: 0,
            completed: 0,
            ended: false,
            traffic: 0,
            member_bytes: shape.member_bytes,
        };
        plane.array.begin(plane.now, &mut plane.out);
        plane.drain();
        plane
    }

    /// Bytes that hosts see.
    pub fn array_bytes(&self) -> u64 {
        self.array.array_sectors() * 512
    }

    /// Bytes that were written to and read from members.
    pub fn traffic(&self) -> u64 {
        self.traffic
    }

    /// Serves so many requests.
    ///
    /// # Panics
    /// When one of them fails.
    pub fn run(&mut self, load: &Load, requests: u64) {
        let blocks = load.span.min(self.array_bytes()) / load.block;
        let data = self.pool.copy_of(&vec![0xa5; size(load.block)]);
        let end = self.completed + requests;
        self.position = 0;
        let mut asked = self.completed;
        while self.completed < end {
            let room = load.depth.min(end - self.completed) - (asked - self.completed);
            let more = room.min(end - asked);
            asked += more;
            let event = match more {
                0 => None,
                1 => Some(Event::Request(self.request(load, blocks, &data))),
                _ => {
                    let some = (0..more).map(|_| self.request(load, blocks, &data));
                    Some(Event::Requests(some.collect()))
                }
            };
            if let Some(event) = event {
                self.array.handle(self.now, event, &mut self.out);
            }
            self.turn();
        }
    }

    fn request(&mut self, load: &Load, blocks: u64, data: &Slice) -> Request {
        let block = match load.random {
            true => {
                self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005);
                self.seed = self.seed.wrapping_add(1_442_695_040_888_963_407);
                (self.seed >> 33) % blocks
            }
            false => {
                self.position += 1;
                (self.position - 1) % blocks
            }
        };
        self.next += 1;
        let offset_sectors = block * load.block / 512;
        let op = match load.write {
            true => RequestOp::Write {
                offset_sectors,
                data: data.clone(),
                fua: false,
            },
            false => RequestOp::Read {
                offset_sectors,
                len_sectors: u32::try_from(load.block / 512).expect("blocks are small"),
            },
        };
        let id = RequestId(self.next);
        Request { id, op }
    }

    /// Carries out all commands there are, and brings the answers of members.
    fn turn(&mut self) {
        let mut commands = std::mem::take(&mut self.out);
        let mut ended = Vec::with_capacity(commands.len());
        for command in commands.drain(..) {
            match command {
                Command::Io(io) => ended.push(self.carry_out(io)),
                Command::Complete { result, .. } => {
                    result.expect("members in memory do not fail");
                    self.completed += 1;
                }
                Command::Arm(timer, at) => {
                    self.timers.insert(timer, at);
                }
                Command::Answer { result, .. } => {
                    result.expect("what is asked for here can be done");
                }
                Command::Notify(Notice::SyncEnded { complete, .. }) => self.ended |= complete,
                Command::Notify(_) | Command::Release(_) | Command::Stopped => {}
            }
        }
        self.out = commands;
        if !ended.is_empty() {
            let event = Event::Ended(ended);
            self.array.handle(self.now, event, &mut self.out);
        }
        self.now.mono = Instant(self.now.mono.0 + 1000);
        while let Some((timer, _)) = self.due() {
            self.timers.remove(&timer);
            self.array
                .handle(self.now, Event::Timer(timer), &mut self.out);
        }
    }

    fn due(&self) -> Option<(Timer, Instant)> {
        let mut timers = self.timers.iter().map(|(timer, at)| (*timer, *at));
        timers.find(|(_, at)| *at <= self.now.mono)
    }

    fn drain(&mut self) {
        while !self.out.is_empty() {
            self.turn();
        }
    }

    fn carry_out(&mut self, io: MemberIo) -> Completion {
        let memory = &mut self.members[io.member.0 as usize];
        let done = match io.op {
            IoOp::Read {
                offset_sectors,
                mut buf,
            } => {
                self.traffic += buf.len() as u64;
                if let Memory::Kept(bytes) = memory {
                    let at = size(offset_sectors * 512);
                    let len = buf.len();
                    buf.as_mut_slice().copy_from_slice(&bytes[at..at + len]);
                }
                IoDone::Read(buf)
            }
            IoOp::Write {
                offset_sectors,
                data,
                ..
            } => {
                let mut at = size(offset_sectors * 512);
                for part in &data {
                    self.traffic += part.len() as u64;
                    if let Memory::Kept(bytes) = memory {
                        let to = &mut bytes[at..at + part.len()];
                        match part.len() >= PAST_CACHE_BYTES {
                            true => umd_parity::copy_past_cache(to, part.as_slice()),
                            false => to.copy_from_slice(part.as_slice()),
                        }
                    }
                    at += part.len();
                }
                IoDone::Done
            }
            IoOp::WriteZeroes { .. } | IoOp::Flush => IoDone::Done,
            IoOp::Allocation { .. } => unreachable!("nobody asks here"),
        };
        Completion {
            io: io.io,
            result: Ok(done),
        }
    }

    fn control(&mut self, control: Control) {
        self.next += 1;
        let event = Event::Control(ControlId(self.next), control);
        self.array.handle(self.now, event, &mut self.out);
    }

    /// Runs a sync action from its start to its end. Time passes until it is over.
    ///
    /// # Panics
    /// When it does not come to its end.
    pub fn sync(&mut self, action: SyncAction) {
        self.ended = false;
        self.control(Control::Sync(SyncRequest::Start(action)));
        self.drain_sync();
    }

    /// Memory for a new member, which [`Plane::recover`] adds.
    pub fn bring_member(&mut self) {
        self.members.push(Memory::Kept(touched(self.member_bytes)));
    }

    /// Adds the member that was brought last, which is filled.
    ///
    /// # Panics
    /// When it is not filled to the end.
    pub fn recover(&mut self) {
        let id = u32::try_from(self.members.len() - 1).expect("few members");
        self.ended = false;
        self.control(Control::Add(Joining {
            id: MemberId(id),
            name: format!("ram{id}"),
            size_sectors: self.member_bytes / 512,
            logical_block_bytes: 512,
            device_uuid: [u8::try_from(id).expect("few members") + 1; 16],
            flags: FlagWish::default(),
            bad_block_log: true,
            superblock: None,
        }));
        self.drain_sync();
    }

    fn drain_sync(&mut self) {
        let mut idle = 0;
        while !self.ended {
            if self.out.is_empty() {
                // It goes as fast as it may: time passes until it may again.
                let next = self.timers.values().min().copied();
                self.now.mono = self.now.mono.max(next.expect("somebody waits for a timer"));
                idle += 1;
                assert!(idle < 1_000_000, "it ends");
            }
            self.turn();
        }
        self.drain();
    }
}

/// What a scan of new members would find.
fn facts(shape: &Shape) -> (Vec<MemberFacts>, Option<Vec<u8>>) {
    let member = |number: u16| NewMember {
        device_sectors: shape.member_bytes / 512,
        device_uuid: Uuid([u8::try_from(number).expect("few members") + 1; 16]),
        flags: DeviceFlags(0),
    };
    let new = NewArray {
        format: Format::V1_2,
        preferred_minor: 0,
        set_uuid: Uuid([7; 16]),
        name: "bench:ram".into(),
        ctime_seconds: 1_700_000_000,
        level: shape.level,
        layout: shape.layout,
        chunk_sectors: shape.chunk_sectors,
        size_sectors: None,
        data_offset_sectors: None,
        bitmap: shape.region_bytes.map(RegionWish::Bytes),
        bad_block_log: true,
        assume_clean: true,
        slots: (0..shape.disks).map(|n| Some(member(n))).collect(),
        spares: Vec::new(),
    };
    let made = new_array(&new).expect("such an array can be made");
    let image = made.bitmap_image();
    let facts = made.slots.iter().enumerate().map(|(number, superblock)| {
        let superblock = superblock.clone().expect("no slot is empty");
        let bitmap = image.as_ref().map(|image| {
            Unverified::parse(&image[..256]).and_then(|b| b.verify(superblock.bitmap_uuid()))
        });
        MemberFacts {
            id: MemberId(u32::try_from(number).expect("few members")),
            name: format!("ram{number}"),
            size_sectors: shape.member_bytes / 512,
            logical_block_bytes: 512,
            superblock: Ok(superblock),
            bitmap,
            bad_blocks: None,
        }
    });
    (facts.collect(), image)
}

/// Zeros: parity of them agrees. Every page is there, so that no load pays for the first time.
fn touched(bytes: u64) -> Vec<u8> {
    let mut memory = std::hint::black_box(vec![1; size(bytes)]);
    memory.fill(0);
    memory
}

fn size(bytes: u64) -> usize {
    usize::try_from(bytes).expect("it fits memory")
}
