//! A world of perfect disks around the engine: commands are carried out at once, in order.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::collections::{BTreeMap, VecDeque};

use umd_core::array::{
    Array, BitmapFile, Command, Completion, Control, ControlError, ControlReply, Event, FlagWish,
    IoDone, IoError, IoOp, MemberIo, NewMember, Notice, Options, Purpose, Reply, Request,
    RequestError, RequestOp, Setup, SyncRequest, Timer,
};
use umd_core::assembly::{BitmapPlan, MemberFacts, Plan, Wish, assemble};
use umd_core::sync::SyncAction;
use umd_core::value::{ControlId, Instant, MemberId, Now, Pool, RequestId, Slice};
use umd_format::badblocks::BadLog;
use umd_format::bitmap::{self, BitmapSuperblock};
use umd_format::create::{NewArray, NewMember as NewDevice, new_array};
use umd_format::space::RegionWish;
use umd_format::v1::DeviceFlags;
use umd_format::{Format, Level, SuperblockV1, Uuid};

/// A disk: content, and what is wrong with it.
#[derive(Default, Clone)]
pub struct Disk {
    pub bytes: Vec<u8>,
    pub gone: bool,
    /// Sectors that cannot be read until they are written.
    pub bad: std::collections::BTreeSet<u64>,
    /// Sectors that take no data: they keep what they have.
    pub worn: std::collections::BTreeSet<u64>,
    /// Takes no writes, except of superblocks and bitmaps.
    pub stuck: bool,
    /// Takes everything and answers nothing.
    pub hung: bool,
    pub reads: u64,
    pub writes: u64,
    /// Sectors that were read, and how often writes and zeroing went to it.
    pub read_sectors: u64,
    pub lowest_read: Option<u64>,
    pub zeroings: u64,
    pub flushes: u64,
}

/// An array and its disks.
pub struct World {
    pub array: Option<Array>,
    pub disks: BTreeMap<MemberId, Disk>,
    pub pool: Pool,
    pub now: Now,
    pub timers: BTreeMap<Timer, Instant>,
    pub notices: Vec<Notice>,
    pub released: Vec<MemberId>,
    /// What happened in which order: superblocks written, requests answered.
    pub log: Vec<Logged>,
    /// Host writes to this member are held back.
    pub held: Option<MemberId>,
    pub kept: Vec<MemberIo>,
    /// The power goes when so many more member I/Os were carried out: of the next write only the
    /// first half reaches the disk, and nothing after it.
    pub power_for: Option<u64>,
    /// It is gone.
    pub dark: bool,
    /// The disk that is no member: a file with the bitmap.
    pub file: Option<MemberId>,
    /// So many more I/Os it takes before it fails.
    pub file_for: Option<u64>,
    /// What an array without superblocks is described by.
    pub bare: BTreeMap<MemberId, SuperblockV1>,
    /// All I/O for this purpose is held back.
    pub holds: Option<Purpose>,
    pub kept_back: Vec<MemberIo>,
    queue: VecDeque<Command>,
    replies: BTreeMap<u64, Result<Reply, RequestError>>,
    answers: BTreeMap<u64, Result<ControlReply, ControlError>>,
    next: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Logged {
    Super(MemberId),
    Answer(u64),
}

pub struct Shape {
    pub level: Level,
    pub layout: u32,
    pub disks: u16,
    pub chunk_sectors: u32,
    pub bitmap: bool,
    pub format: Format,
    pub assume_clean: bool,
}

impl Shape {
    /// A mirror with a bitmap, whose members agree.
    pub fn mirror(disks: u16) -> Shape {
        Shape {
            level: Level::Raid1,
            layout: 0,
            disks,
            chunk_sectors: 0,
            bitmap: true,
            format: Format::V1_2,
            assume_clean: true,
        }
    }

    /// The same of a row with one parity or two, and chunks of 8 KiB.
    pub fn parity(level: Level, disks: u16) -> Shape {
        Shape {
            level,
            layout: 2,
            chunk_sectors: 16,
            ..Shape::mirror(disks)
        }
    }
}

/// An array of every kind.
pub fn shapes() -> Vec<Shape> {
    let mut all = Vec::new();
    let mut push = |level: Level, layout, disks, chunk_sectors| {
        for (bitmap, format) in [
            (false, Format::V1_2),
            (true, Format::V1_0),
            (true, Format::V1_1),
            (true, Format::V090),
        ] {
            let bitmap = bitmap && level.is_redundant();
            all.push(Shape {
                level,
                layout,
                disks,
                chunk_sectors,
                bitmap,
                format,
                assume_clean: false,
            });
        }
    };
    push(Level::Raid0, 0, 3, 8);
    push(Level::Raid1, 0, 2, 0);
    push(Level::Raid1, 0, 3, 0);
    push(Level::Raid4, 0, 3, 16);
    for layout in 0..=5 {
        push(Level::Raid5, layout, 4, 8);
    }
    push(Level::Raid5, 2, 2, 128);
    for layout in [0, 1, 2, 3, 4, 5, 8, 9, 10, 16, 17, 18, 19, 20] {
        push(Level::Raid6, layout, 5, 16);
    }
    push(Level::Linear, 0, 3, 0);
    for (layout, disks) in [(0x102, 4), (0x102, 3), (0x103, 4), (0x201, 4), (0x10201, 3)] {
        push(Level::Raid10, layout, disks, 16);
    }
    all
}

/// How many members it can lose, whichever they are.
pub fn redundancy(shape: &Shape) -> u16 {
    match shape.level {
        Level::Linear | Level::Raid0 => 0,
        Level::Raid10 => (shape.layout & 0xff) as u16 * (shape.layout >> 8 & 0xff) as u16 - 1,
        Level::Raid1 => shape.disks - 1,
        Level::Raid6 => 2,
        _ => 1,
    }
}

/// A small deterministic generator.
pub struct Lcg(pub u64);

impl Lcg {
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 33) % n
    }
}

pub const DISK_BYTES: usize = 640 << 10;

impl World {
    pub fn create(shape: &Shape) -> World {
        World::create_sized(shape, DISK_BYTES)
    }

    /// Started, and a second later: what is owed at the start is done.
    pub fn running(shape: &Shape) -> World {
        let mut world = World::create(shape);
        world.begin();
        world.pass(1);
        world
    }

    pub fn create_sized(shape: &Shape, disk_bytes: usize) -> World {
        World::create_with(shape, disk_bytes, 0, 0)
    }

    /// With a bitmap of version 6.
    pub fn create_lockless(shape: &Shape) -> World {
        World::create_as(shape, DISK_BYTES, (0, 0), (RegionWish::Lockless, 288))
    }

    /// The data of each member begins here.
    pub fn create_roomy(shape: &Shape, disk_bytes: usize, data_offset_sectors: u64) -> World {
        let place = (RegionWish::Bytes(65536), data_offset_sectors);
        World::create_as(shape, disk_bytes, (0, 0), place)
    }

    /// `mostly`: the slots whose member is write-mostly, as a mask.
    pub fn create_with(shape: &Shape, disk_bytes: usize, mostly: u8, behind: u32) -> World {
        let wish = RegionWish::Bytes(65536);
        World::create_as(shape, disk_bytes, (mostly, behind), (wish, 128))
    }

    fn create_as(
        shape: &Shape,
        disk_bytes: usize,
        (mostly, behind): (u8, u32),
        (wish, data_offset_sectors): (RegionWish, u64),
    ) -> World {
        let device = |n: u16| NewDevice {
            device_sectors: (disk_bytes / 512) as u64,
            device_uuid: Uuid([n as u8 + 1; 16]),
            flags: DeviceFlags(mostly.checked_shr(u32::from(n)).unwrap_or(0) & 1),
        };
        let new = NewArray {
            format: shape.format,
            preferred_minor: 0,
            set_uuid: Uuid([7; 16]),
            name: "host:test".into(),
            ctime_seconds: 1_700_000_000,
            level: shape.level,
            layout: shape.layout,
            chunk_sectors: shape.chunk_sectors,
            size_sectors: None,
            data_offset_sectors: Some(match shape.format {
                Format::V1_0 | Format::V090 | Format::Bare => 0,
                _ => data_offset_sectors,
            }),
            bitmap: shape.bitmap.then_some(wish),
            // In version 1.0 it lies behind the data, where these disks have no room to spare.
            bad_block_log: matches!(shape.format, Format::V1_1 | Format::V1_2),
            assume_clean: shape.assume_clean,
            slots: (0..shape.disks).map(|n| Some(device(n))).collect(),
            spares: Vec::new(),
        };
        let mut made = new_array(&new).expect("created");
        if let Some(bitmap) = &mut made.bitmap {
            bitmap.fields.write_behind = behind;
        }
        let (mut disks, mut bare) = (BTreeMap::new(), BTreeMap::new());
        for (n, superblock) in made.slots.iter().enumerate() {
            let superblock = superblock.as_ref().expect("all slots");
            let mut bytes: Vec<u8> = (0..disk_bytes)
                .map(|i| (i as u64 * 31 % 251) as u8 ^ n as u8)
                .collect();
            if shape.format.is_stored() {
                let at = superblock.fields.super_offset_sectors;
                put(&mut bytes, at, &superblock.encode(512));
            } else {
                bare.insert(MemberId(n as u32), superblock.clone());
            }
            if let Some(image) = made.bitmap_image() {
                put(
                    &mut bytes,
                    superblock.fields.bitmap_sector().expect("bitmap"),
                    &image,
                );
            }
            disks.insert(
                MemberId(n as u32),
                Disk {
                    bytes,
                    ..Disk::default()
                },
            );
        }
        World {
            bare,
            ..World::over(disks)
        }
    }

    /// What a check counts.
    pub fn mismatch(&mut self) -> u64 {
        let check = SyncRequest::Start(SyncAction::Check);
        self.control(Control::Sync(check)).expect("check");
        self.pass(1);
        assert!(self.array().status().sync.is_none(), "check is over");
        self.array().status().mismatch_sectors
    }

    pub fn over(disks: BTreeMap<MemberId, Disk>) -> World {
        World {
            array: None,
            disks,
            pool: Pool::new(),
            now: Now {
                mono: Instant(1),
                wall_seconds: 1_700_000_100,
            },
            timers: BTreeMap::new(),
            notices: Vec::new(),
            released: Vec::new(),
            log: Vec::new(),
            held: None,
            kept: Vec::new(),
            power_for: None,
            dark: false,
            file: None,
            file_for: None,
            bare: BTreeMap::new(),
            holds: None,
            kept_back: Vec::new(),
            queue: VecDeque::new(),
            replies: BTreeMap::new(),
            answers: BTreeMap::new(),
            next: 1,
        }
    }

    fn facts(&self) -> Vec<MemberFacts> {
        let present = self.disks.iter();
        let present = present.filter(|(id, d)| !d.gone && self.file != Some(**id));
        present
            .map(|(id, disk)| {
                let size_sectors = (disk.bytes.len() / 512) as u64;
                let found = Format::ALL.into_iter().find_map(|minor| {
                    let at = minor.superblock_sector(size_sectors)? as usize * 512;
                    SuperblockV1::load(&disk.bytes[at..at + 4096], minor, size_sectors).ok()
                });
                let bare = || self.bare.get(id).cloned();
                let superblock = found.or_else(bare).expect("a superblock");
                let bitmap = superblock.fields.bitmap_sector().map(|at| {
                    let at = at as usize * 512;
                    bitmap::Unverified::parse(&disk.bytes[at..at + 256])
                        .and_then(|b| b.verify(superblock.bitmap_uuid()))
                });
                let fields = &superblock.fields;
                let bad_blocks = BadLog::place(fields).map(|(at, len)| {
                    let bytes = at as usize * 512..(at + len) as usize * 512;
                    BadLog::read(fields, &disk.bytes[bytes])
                });
                MemberFacts {
                    id: *id,
                    name: format!("d{}", id.0),
                    size_sectors,
                    logical_block_bytes: 512,
                    superblock: Ok(superblock),
                    bitmap,
                    bad_blocks,
                }
            })
            .collect()
    }

    /// How it would be started now.
    pub fn plan(&self) -> Result<Plan, String> {
        assemble(&self.facts(), &Wish::default()).map_err(|refusal| refusal.to_string())
    }

    pub fn superblock(&self, id: u32) -> SuperblockV1 {
        let facts = self.facts();
        let fact = facts
            .into_iter()
            .find(|f| f.id == MemberId(id))
            .expect("a disk");
        fact.superblock.expect("a superblock")
    }

    /// Starts with nothing special wished for.
    pub fn begin(&mut self) {
        let started = self.start(&Wish::default(), Options::default());
        started.expect("started");
    }

    /// An empty file for a bitmap, offered under this identity.
    pub fn new_file(&mut self, id: u32, bytes: usize) -> BitmapFile {
        let disk = Disk {
            bytes: vec![0; bytes],
            ..Disk::default()
        };
        self.disks.insert(MemberId(id), disk);
        self.file = Some(MemberId(id));
        BitmapFile {
            id: MemberId(id),
            name: "bits".into(),
            size_sectors: (bytes / 512) as u64,
        }
    }

    /// The superblock of the bitmap in the file, if it is this array's and counts by now.
    pub fn believed(&self, plan: &Plan) -> Option<BitmapSuperblock> {
        let bytes = &self.disks[&self.file?].bytes;
        let uuid = self.superblock(0).bitmap_uuid();
        let found = bitmap::Unverified::parse(bytes).and_then(|found| found.verify(uuid));
        found.ok().filter(|found| !found.is_stale(plan.events.0))
    }

    /// Starts it with its file if that counts. Whether it does.
    pub fn start_with_file(&mut self) -> bool {
        let facts = self.facts();
        let mut plan = assemble(&facts, &Wish::default()).expect("a plan");
        let found = self.believed(&plan);
        let believed = found.is_some();
        let (mut area, mut options) = (None, Options::default());
        if let (Some(superblock), Some(source)) = (found, self.file) {
            area = Some(self.disks[&source].bytes.clone());
            options.bitmap_file = Some((source, "bits".into()));
            plan.bitmap = BitmapPlan::Usable { source, superblock };
        }
        self.start_by(plan, facts, area, options);
        believed
    }

    pub fn start(&mut self, wish: &Wish, options: Options) -> Result<(), String> {
        let facts = self.facts();
        let plan = assemble(&facts, wish).map_err(|refusal| refusal.to_string())?;
        let area = |source: MemberId, superblock: &BitmapSuperblock| {
            let fact = facts.iter().find(|f| f.id == source).expect("source");
            let at = fact
                .superblock
                .as_ref()
                .expect("sb")
                .fields
                .bitmap_sector()
                .expect("bitmap");
            let regions = superblock.regions(superblock.fields.sync_size_sectors);
            let at = at as usize * 512;
            let len = superblock.area_sectors(regions) as usize * 512;
            self.disks[&source].bytes[at..at + len].to_vec()
        };
        let bitmap_area = match &plan.bitmap {
            BitmapPlan::None => None,
            BitmapPlan::Usable { source, superblock }
            | BitmapPlan::Stale { source, superblock } => Some(area(*source, superblock)),
        };
        self.start_by(plan, facts, bitmap_area, options);
        Ok(())
    }

    fn start_by(
        &mut self,
        plan: Plan,
        facts: Vec<MemberFacts>,
        bitmap_area: Option<Vec<u8>>,
        options: Options,
    ) {
        let pool = self.pool.clone();
        self.array = Some(Array::start(Setup {
            plan,
            facts,
            bitmap_area,
            pool,
            options,
        }));
        let mut out = Vec::new();
        let now = self.now;
        self.array().begin(now, &mut out);
        self.queue.extend(out);
    }

    pub fn array(&mut self) -> &mut Array {
        self.array.as_mut().expect("started")
    }

    pub fn event(&mut self, event: Event) {
        let mut out = Vec::new();
        let now = self.now;
        self.array().handle(now, event, &mut out);
        self.array().check_invariants();
        self.queue.extend(out);
    }

    /// Writes, without waiting for the answer.
    pub fn ask_to_write(&mut self, offset_sectors: u64, bytes: &[u8]) -> u64 {
        let data: Slice = self.pool.copy_of(bytes);
        let id = self.submit(RequestOp::Write {
            offset_sectors,
            data,
            fua: false,
        });
        self.drain();
        id
    }

    /// What is to be done, for a driver of its own that decides when.
    pub fn take_commands(&mut self) -> VecDeque<Command> {
        std::mem::take(&mut self.queue)
    }

    /// Carries out one member I/O of such a driver.
    pub fn carry_out(&mut self, io: MemberIo) -> Completion {
        self.perform(io)
    }

    /// Carries out everything that is to be done. Time stands still.
    pub fn drain(&mut self) {
        while let Some(command) = self.queue.pop_front() {
            match command {
                Command::Io(io) if self.power_fails() => self.tear(io),
                Command::Io(io) if self.keeps(&io) => self.kept.push(io),
                Command::Io(io) if self.holds == Some(io.purpose) => self.kept_back.push(io),
                Command::Io(io) => {
                    if self.disks.get(&io.member).is_some_and(|disk| disk.hung) {
                        continue;
                    }
                    let done = self.perform(io);
                    self.event(Event::Done(done));
                }
                Command::Complete { id, result } => {
                    self.log.push(Logged::Answer(id.0));
                    assert!(
                        self.replies.insert(id.0, result).is_none(),
                        "answered twice"
                    );
                }
                Command::Arm(timer, at) => {
                    self.timers.insert(timer, at);
                }
                Command::Answer { id, result } => {
                    assert!(
                        self.answers.insert(id.0, result).is_none(),
                        "answered twice"
                    );
                }
                Command::Notify(notice) => self.notices.push(notice),
                Command::Release(member) => self.released.push(member),
                Command::Stopped => {}
            }
        }
    }

    fn keeps(&self, io: &MemberIo) -> bool {
        let write = matches!(io.op, IoOp::Write { .. } | IoOp::WriteZeroes { .. });
        write && io.purpose == Purpose::Data && self.held == Some(io.member)
    }

    /// What was held back is carried out, or fails.
    pub fn release(&mut self, fails: bool) {
        self.held = None;
        for io in std::mem::take(&mut self.kept) {
            let done = match fails {
                true => Completion {
                    io: io.io,
                    result: Err(IoError::Media),
                },
                false => self.perform(io),
            };
            self.event(Event::Done(done));
        }
        self.drain();
    }

    /// What was held back for its purpose is carried out.
    pub fn release_back(&mut self) {
        self.holds = None;
        for io in std::mem::take(&mut self.kept_back) {
            let done = self.perform(io);
            self.event(Event::Done(done));
        }
        self.drain();
    }

    /// The same, and what follows of that purpose is held back again.
    pub fn release_once(&mut self) {
        for io in std::mem::take(&mut self.kept_back) {
            let done = self.perform(io);
            self.event(Event::Done(done));
        }
        self.drain();
    }

    /// Asks without waiting for the answer.
    pub fn ask(&mut self, control: Control) -> u64 {
        let id = self.next;
        self.next += 1;
        self.event(Event::Control(ControlId(id), control));
        self.drain();
        id
    }

    /// The answer to what was asked, if there is one by now.
    pub fn asked(&mut self, id: u64) -> Option<Result<ControlReply, ControlError>> {
        self.drain();
        self.answers.remove(&id)
    }

    /// Whether the request was answered, by now.
    pub fn is_answered(&mut self, id: u64) -> bool {
        self.drain();
        self.replies.contains_key(&id)
    }

    /// Whether the next I/O comes too late.
    fn power_fails(&mut self) -> bool {
        let Some(left) = &mut self.power_for else {
            return false;
        };
        let fails = *left == 0;
        *left = left.saturating_sub(1);
        fails
    }

    /// The last write before the power is gone, and nothing more after it.
    fn tear(&mut self, io: MemberIo) {
        if let IoOp::Write {
            offset_sectors,
            data,
            ..
        } = io.op
        {
            let bytes: Vec<u8> = data.iter().flat_map(|p| p.as_slice().to_vec()).collect();
            let half = bytes.len() / 1024 * 512;
            let disk = self.disks.get_mut(&io.member).expect("it has its disk");
            disk.put(offset_sectors, &bytes[..half]);
        }
        self.queue.clear();
        self.timers.clear();
        self.power_for = None;
        self.dark = true;
    }

    /// Writes, perhaps until the power goes: whether that was answered.
    pub fn write_in_the_dark(&mut self, offset_sectors: u64, bytes: &[u8]) -> bool {
        let data: Slice = self.pool.copy_of(bytes);
        let id = self.submit(RequestOp::Write {
            offset_sectors,
            data,
            fua: false,
        });
        self.drain();
        let answer = self.replies.remove(&id);
        answer.is_some_and(|answer| answer.is_ok())
    }

    /// Lets time pass, with all timers that fall due.
    pub fn pass(&mut self, seconds: u64) {
        self.pass_millis(seconds * 1000);
    }

    pub fn pass_millis(&mut self, millis: u64) {
        let end = Instant(self.now.mono.0 + millis * 1_000_000);
        self.drain();
        loop {
            let due = self
                .timers
                .iter()
                .min_by_key(|(_, at)| **at)
                .map(|(t, at)| (*t, *at));
            let Some((timer, at)) = due.filter(|(_, at)| *at <= end) else {
                break;
            };
            self.timers.remove(&timer);
            self.now.mono = self.now.mono.max(at);
            self.event(Event::Timer(timer));
            self.drain();
        }
        self.now.mono = end;
    }

    fn perform(&mut self, io: MemberIo) -> Completion {
        if io.purpose == Purpose::Super {
            self.log.push(Logged::Super(io.member));
        }
        let disk = self
            .disks
            .get_mut(&io.member)
            .expect("a member has its disk");
        let kept = matches!(
            io.purpose,
            Purpose::Super | Purpose::Bitmap | Purpose::BadBlocks
        );
        let writes = matches!(io.op, IoOp::Write { .. } | IoOp::WriteZeroes { .. });
        let of_file = self.file == Some(io.member);
        if let Some(left) = self.file_for.as_mut().filter(|_| of_file) {
            disk.gone |= *left == 0;
            *left = left.saturating_sub(1);
        }
        let refuses = |op: &IoOp| {
            let len = |data: &[Slice]| data.iter().map(|part| part.len() as u64 / 512).sum();
            let (at, len) = match op {
                IoOp::Write {
                    offset_sectors,
                    data,
                    ..
                } => (*offset_sectors, len(data)),
                IoOp::WriteZeroes {
                    offset_sectors,
                    len_sectors,
                    ..
                } => (*offset_sectors, *len_sectors),
                _ => return false,
            };
            disk.worn.range(at..at + len).next().is_some()
        };
        let result = if disk.gone {
            Err(IoError::Gone)
        } else if !kept && (refuses(&io.op) || disk.stuck && writes) {
            Err(IoError::Media)
        } else {
            disk.perform(io.op)
        };
        Completion { io: io.io, result }
    }

    pub fn submit(&mut self, op: RequestOp) -> u64 {
        let id = self.next;
        self.next += 1;
        self.event(Event::Request(Request {
            id: RequestId(id),
            op,
        }));
        id
    }

    pub fn reply(&mut self, id: u64) -> Result<Reply, RequestError> {
        self.drain();
        self.replies.remove(&id).expect("every request is answered")
    }

    pub fn write(&mut self, offset_sectors: u64, bytes: &[u8]) -> Result<(), RequestError> {
        let data: Slice = self.pool.copy_of(bytes);
        let id = self.submit(RequestOp::Write {
            offset_sectors,
            data,
            fua: false,
        });
        self.reply(id).map(|_| ())
    }

    pub fn read(&mut self, offset_sectors: u64, len: u32) -> Result<Vec<u8>, RequestError> {
        let id = self.submit(RequestOp::Read {
            offset_sectors,
            len_sectors: len,
        });
        match self.reply(id)? {
            Reply::Data(pieces) => Ok(pieces.iter().flat_map(|p| p.as_slice().to_vec()).collect()),
            other => panic!("not a read: {other:?}"),
        }
    }

    pub fn control(&mut self, control: Control) -> Result<ControlReply, ControlError> {
        let id = self.next;
        self.next += 1;
        self.event(Event::Control(ControlId(id), control));
        self.drain();
        self.answers
            .remove(&id)
            .expect("every control request is answered")
    }

    pub fn add(&mut self, id: u32) -> Result<ControlReply, ControlError> {
        let disk = Disk {
            bytes: vec![0x5a; DISK_BYTES],
            ..Disk::default()
        };
        self.disks.insert(MemberId(id), disk);
        let new = self.new_member(id, None);
        self.control(Control::Add(new))
    }

    pub fn new_member(&self, id: u32, superblock: Option<SuperblockV1>) -> NewMember {
        NewMember {
            id: MemberId(id),
            name: format!("d{id}"),
            size_sectors: (DISK_BYTES / 512) as u64,
            logical_block_bytes: 512,
            device_uuid: [id as u8 + 1; 16],
            flags: FlagWish::default(),
            bad_block_log: true,
            superblock: superblock.map(Box::new),
        }
    }

    /// The process dies; the disks are as they were written.
    pub fn kill(&mut self) {
        self.array = None;
        (self.power_for, self.dark) = (None, false);
        self.queue.clear();
        self.timers.clear();
        for disk in self.disks.values_mut() {
            (disk.reads, disk.read_sectors, disk.lowest_read) = (0, 0, None);
        }
    }

    pub fn stop(&mut self) {
        self.control(Control::Stop).expect("stopped");
        assert!(self.array().is_stopped());
        self.array = None;
    }
}

impl Disk {
    fn perform(&mut self, op: IoOp) -> Result<IoDone, IoError> {
        match op {
            IoOp::Read {
                offset_sectors,
                mut buf,
            } => {
                self.reads += 1;
                self.read_sectors += buf.len() as u64 / 512;
                let lowest = self.lowest_read.unwrap_or(u64::MAX);
                self.lowest_read = Some(lowest.min(offset_sectors));
                let end = offset_sectors + buf.len() as u64 / 512;
                if self.bad.range(offset_sectors..end).next().is_some() {
                    return Err(IoError::Media);
                }
                let at = offset_sectors as usize * 512;
                let len = buf.len();
                buf.as_mut_slice()
                    .copy_from_slice(&self.bytes[at..at + len]);
                Ok(IoDone::Read(buf))
            }
            IoOp::Write {
                offset_sectors,
                data,
                ..
            } => {
                self.writes += 1;
                let mut at = offset_sectors;
                for piece in data {
                    self.put(at, piece.as_slice());
                    at += piece.len() as u64 / 512;
                }
                Ok(IoDone::Done)
            }
            IoOp::WriteZeroes {
                offset_sectors,
                len_sectors,
                ..
            } => {
                self.zeroings += 1;
                self.put(offset_sectors, &vec![0; len_sectors as usize * 512]);
                Ok(IoDone::Done)
            }
            IoOp::Flush => {
                self.flushes += 1;
                Ok(IoDone::Done)
            }
            IoOp::Allocation { .. } => Err(IoError::Other("not supported".into())),
        }
    }

    fn put(&mut self, sector: u64, bytes: &[u8]) {
        for s in sector..sector + bytes.len() as u64 / 512 {
            self.bad.remove(&s);
        }
        put(&mut self.bytes, sector, bytes);
    }
}

fn put(image: &mut [u8], sector: u64, bytes: &[u8]) {
    let at = sector as usize * 512;
    image[at..at + bytes.len()].copy_from_slice(bytes);
}
