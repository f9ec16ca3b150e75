//! Members made of the fuzzer's bytes, and an array that runs on them.
//!
//! ```text
//!   count, wish, sizes | member, sector, 512 bytes | member, sector, 512 bytes | ...
//! ```
//!
//! Sectors that are not named are zero. The superblocks' checksums are made right (unless a flag
//! says otherwise), because a fuzzer cannot guess sums.

use std::collections::{BTreeMap, VecDeque};

use umd_core::array::{
    Array, Command, Completion, Control, Event, IoDone, IoError, IoOp, Options, Reply, Request,
    RequestError, RequestOp, Setup, Timer,
};
use umd_core::assembly::{BitmapPlan, MemberFacts, NoSuperblock, Plan, Wish};
use umd_core::value::{ControlId, Instant, MemberId, Museum, Now, Pool, RequestId};
use umd_format::badblocks::BadLog;
use umd_format::bitmap;
use umd_format::place::{Format, newest, probe_order};
use umd_format::v1::Unverified;
use umd_format::v090::SuperblockV090;
use umd_format::{ParseError, SuperblockV1};

use crate::{Input, fix_checksum};

const SECTOR: usize = 512;

/// A sparse device.
#[derive(Debug, Clone, Default)]
pub struct Image {
    /// Its size.
    pub sectors: u64,
    /// What is not zero.
    pub content: BTreeMap<u64, [u8; SECTOR]>,
}

impl Image {
    /// Bytes from a sector on.
    pub fn read(&self, first: u64, count: u64) -> Vec<u8> {
        assert!(
            first + count <= self.sectors,
            "a read behind the end of a member"
        );
        let zero = [0; SECTOR];
        let sectors = first..first + count;
        sectors
            .flat_map(|at| *self.content.get(&at).unwrap_or(&zero))
            .collect()
    }

    /// Puts whole sectors.
    pub fn write(&mut self, first: u64, bytes: &[u8]) {
        assert!(
            first + (bytes.len() / SECTOR) as u64 <= self.sectors,
            "a write behind the end of a member"
        );
        for (index, sector) in bytes.chunks_exact(SECTOR).enumerate() {
            let sector = sector.try_into().expect("whole sectors");
            self.content.insert(first + index as u64, sector);
        }
    }
}

/// What the fuzzer made up.
#[derive(Debug, Clone)]
pub struct Members {
    /// The devices.
    pub images: Vec<Image>,
    /// What the user asks for.
    pub wish: Wish,
}

impl Members {
    /// Reads the description at the top.
    pub fn of(data: &[u8]) -> Members {
        let mut input = Input(data);
        let (count, flags) = (usize::from(input.byte() % 5) + 1, input.byte());
        let sectors = |input: &mut Input<'_>| 24 + u64::from(input.byte()) * 4;
        let mut images: Vec<Image> = (0..count)
            .map(|_| Image {
                sectors: sectors(&mut input),
                ..Image::default()
            })
            .collect();
        while !input.0.is_empty() {
            let (member, sector) = (usize::from(input.byte()), u64::from(input.byte()));
            let image = &mut images[member % count];
            let mut content = [0; SECTOR];
            let given = input.bytes(SECTOR);
            content[..given.len()].copy_from_slice(given);
            // Places near the end are counted from there.
            let at = match member & 0x80 {
                0 => sector,
                _ => image.sectors.saturating_sub(sector + 1),
            };
            if at < image.sectors {
                image.content.insert(at, content);
            }
        }
        if flags & 0x80 == 0 {
            images.iter_mut().for_each(right_sums);
        }
        let wish = Wish {
            force: flags & 1 != 0,
            start_dirty_degraded: flags & 0x40 != 0,
            run: flags & 2 != 0,
            no_degraded: flags & 4 != 0,
            readonly: flags & 8 != 0,
            clustered: flags & 0x20 != 0,
            uuid: None,
            name: None,
            museum: Museum::NONE,
        };
        Members { images, wish }
    }

    /// The same, written down (for the first corpus).
    pub fn describe(&self) -> Vec<u8> {
        let wish = &self.wish;
        let bits = [wish.force, wish.run, wish.no_degraded, wish.readonly];
        let flags = bits
            .iter()
            .rev()
            .fold(0, |all, bit| all << 1 | u8::from(*bit));
        let mut bytes = vec![self.images.len() as u8 - 1, flags];
        bytes.extend(
            self.images
                .iter()
                .map(|image| ((image.sectors - 24) / 4) as u8),
        );
        for (member, image) in self.images.iter().enumerate() {
            for (sector, content) in &image.content {
                bytes.extend([member as u8, *sector as u8]);
                bytes.extend(content);
            }
        }
        bytes
    }

    /// What assembly is told about them, read as the daemon reads it.
    pub fn facts(&self) -> Vec<MemberFacts> {
        let numbered = self.images.iter().enumerate();
        numbered
            .map(|(index, image)| facts(index as u32, image))
            .collect()
    }
}

fn right_sums(image: &mut Image) {
    for minor in Format::ALL {
        let Some(place) = minor.superblock_sector(image.sectors) else {
            continue;
        };
        if image.content.contains_key(&place) {
            let mut bytes = image.read(place, 8.min(image.sectors - place));
            match minor {
                Format::V090 => crate::fix_v090_checksum(&mut bytes),
                _ => fix_checksum(&mut bytes),
            }
            image.write(place, &bytes[..SECTOR]);
        }
    }
}

fn facts(index: u32, image: &Image) -> MemberFacts {
    let mut found: Vec<(u64, Result<SuperblockV1, ParseError>)> = Vec::new();
    for (format, sector) in probe_order(image.sectors) {
        let bytes = image.read(sector, 8.min(image.sectors - sector));
        match format {
            Format::V1(minor) => {
                if let Ok(parsed) = Unverified::parse(&bytes, minor) {
                    let age = parsed.fields().ctime.seconds();
                    found.push((age, parsed.verify(image.sectors)));
                }
            }
            Format::V090 => {
                if let Ok(parsed) = SuperblockV090::parse(&bytes) {
                    let age = parsed.ctime_seconds.into();
                    found.push((age, parsed.verify(image.sectors)));
                }
            }
            Format::Bare => {}
        }
    }
    let ages: Vec<u64> = found.iter().map(|one| one.0).collect();
    let superblock = match newest(&ages).map(|index| found.swap_remove(index).1) {
        None => Err(NoSuperblock::Invalid(ParseError::NoMagic { found: 0 })),
        Some(verified) => verified.map_err(NoSuperblock::Invalid),
    };
    let bitmap_of = |superblock: &SuperblockV1| {
        let sector = superblock.fields.bitmap_sector()?;
        let bytes = (sector < image.sectors).then(|| image.read(sector, 1))?;
        let parsed = bitmap::Unverified::parse(&bytes);
        Some(parsed.and_then(|one| one.verify(superblock.bitmap_uuid())))
    };
    let bitmap = superblock.as_ref().ok().and_then(bitmap_of);
    let log_of = |superblock: &SuperblockV1| {
        let (sector, sectors) = BadLog::place(&superblock.fields)?;
        let there = sector
            .checked_add(sectors)
            .filter(|end| *end <= image.sectors);
        let bytes = there.map(|_| image.read(sector, sectors));
        Some(BadLog::read(&superblock.fields, &bytes.unwrap_or_default()))
    };
    let bad_blocks = superblock.as_ref().ok().and_then(log_of);
    MemberFacts {
        id: MemberId(index),
        name: format!("{index}.img"),
        size_sectors: image.sectors,
        logical_block_bytes: 512,
        superblock,
        bitmap,
        bad_blocks,
    }
}

/// An array that runs on the images, one command after the other.
pub struct Running {
    array: Array,
    images: Vec<Image>,
    pool: Pool,
    now: Now,
    queue: VecDeque<Command>,
    timers: BTreeMap<Timer, Instant>,
    replies: BTreeMap<u64, Result<Reply, RequestError>>,
    answered: bool,
    next: u64,
}

impl Running {
    /// Starts what was planned.
    pub fn start(members: Members, facts: Vec<MemberFacts>, plan: Plan) -> Running {
        let bitmap_area = match &plan.bitmap {
            BitmapPlan::None => None,
            BitmapPlan::Usable { source, superblock }
            | BitmapPlan::Stale { source, superblock } => {
                let fact = facts
                    .iter()
                    .find(|one| one.id == *source)
                    .expect("a source");
                let fields = &fact.superblock.as_ref().expect("it has one").fields;
                let sector = fields.bitmap_sector().expect("the planner found one");
                let image = &members.images[source.0 as usize];
                let sectors = superblock.area_sectors(superblock.regions(plan.dev_sectors));
                Some(image.read(sector, sectors.min(image.sectors - sector)))
            }
        };
        let pool = Pool::new();
        let array = Array::start(Setup {
            plan,
            facts,
            bitmap_area,
            pool: pool.clone(),
            options: Options {
                read_only: members.wish.readonly,
                ..Options::default()
            },
        });
        let mut running = Running {
            array,
            images: members.images,
            pool,
            now: Now {
                mono: Instant(1),
                wall_seconds: 1_700_000_000,
            },
            queue: VecDeque::new(),
            timers: BTreeMap::new(),
            replies: BTreeMap::new(),
            answered: false,
            next: 1,
        };
        let mut out = Vec::new();
        running.array.begin(running.now, &mut out);
        running.queue.extend(out);
        running.settle();
        running
    }

    /// Size of the array.
    pub fn sectors(&self) -> u64 {
        self.array.array_sectors()
    }

    fn event(&mut self, event: Event) {
        let mut out = Vec::new();
        self.array.handle(self.now, event, &mut out);
        self.array.check_invariants();
        self.queue.extend(out);
    }

    /// Carries out what is to be done, without letting time pass.
    fn settle(&mut self) {
        while let Some(command) = self.queue.pop_front() {
            match command {
                Command::Io(io) => {
                    let result = perform(&mut self.images[io.member.0 as usize], io.op);
                    self.event(Event::Done(Completion { io: io.io, result }));
                }
                Command::Complete { id, result } => {
                    let before = self.replies.insert(id.0, result);
                    assert!(before.is_none(), "answered twice");
                }
                Command::Arm(timer, at) => drop(self.timers.insert(timer, at)),
                Command::Answer { .. } => self.answered = true,
                Command::Notify(_) | Command::Release(_) | Command::Stopped => {}
            }
        }
    }

    /// Lets the next timer fall due.
    pub fn tick(&mut self) {
        let next = self.timers.iter().min_by_key(|(_, at)| **at);
        if let Some((timer, at)) = next.map(|(timer, at)| (*timer, *at)) {
            self.timers.remove(&timer);
            self.now.mono = self.now.mono.max(at);
            self.event(Event::Timer(timer));
            self.settle();
        }
    }

    /// A host request and its answer.
    pub fn ask(&mut self, op: RequestOp) -> Result<Reply, RequestError> {
        let id = RequestId(self.next);
        self.next += 1;
        self.event(Event::Request(Request { id, op }));
        self.settle();
        self.replies
            .remove(&id.0)
            .expect("every request is answered at once")
    }

    /// Writes one pattern.
    pub fn write(&mut self, offset_sectors: u64, bytes: &[u8]) -> Result<Reply, RequestError> {
        let data = self.pool.copy_of(bytes);
        self.ask(RequestOp::Write {
            offset_sectors,
            data,
            fua: false,
        })
    }

    /// Stops; the administrator gets an answer.
    pub fn stop(mut self) -> Vec<Image> {
        self.event(Event::Control(ControlId(1), Control::Stop));
        for _ in 0..64 {
            self.settle();
            if self.answered && self.array.is_stopped() {
                return self.images;
            }
            self.tick();
        }
        panic!("the array does not stop");
    }
}

fn perform(image: &mut Image, op: IoOp) -> Result<IoDone, IoError> {
    match op {
        IoOp::Read {
            offset_sectors,
            mut buf,
        } => {
            let bytes = image.read(offset_sectors, (buf.len() / SECTOR) as u64);
            buf.as_mut_slice().copy_from_slice(&bytes);
            return Ok(IoDone::Read(buf));
        }
        IoOp::Write {
            offset_sectors,
            data,
            ..
        } => {
            let mut at = offset_sectors;
            for piece in data {
                image.write(at, piece.as_slice());
                at += (piece.len() / SECTOR) as u64;
            }
        }
        IoOp::WriteZeroes {
            offset_sectors,
            len_sectors,
            ..
        } => image.write(offset_sectors, &vec![0; len_sectors as usize * SECTOR]),
        IoOp::Flush => {}
        IoOp::Allocation { .. } => return Err(IoError::Other("not here".to_owned())),
    }
    Ok(IoDone::Done)
}
