//! Nodes with whole arrays on the same disks in memory, and a lock service that keeps its word.
//!
//! ```text
//!   host 0: Clustered      host 1: Clustered     events of the service wait in a queue per host,
//!      |  \      queue <--- Engine ---> queue    member I/O until it lands: what comes next is
//!      |   '----------- disks ------------'      drawn, or the first
//! ```
//!
//! What must never happen is checked where an I/O is submitted: superblocks only under the token,
//! a bitmap only by its owner or who takes it over, no write of a host where another node resyncs.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use umd_format::bitmap::{
    BitmapSuperblock, SUPERBLOCK_BYTES, Slots, Unverified, initial_slots, on_disk_sectors,
};
use umd_format::create::{NewArray, NewMember as NewDevice, new_array};
use umd_format::space::RegionWish;
use umd_format::v1::{DeviceFlags, Features, Fields};
use umd_format::{Format, Level, SuperblockV1, Uuid};

use crate::array::clustered::{Clustered, Input, Output};
use crate::array::{Array, Options, Setup};
use crate::assembly::{BitmapPlan, MemberFacts, Wish, assemble};
use crate::cluster::tests::engine::{Engine, Told};
use crate::cluster::{
    AckStatus, Cannot, DeliveryId, DeviceNumber, End, FenceProof, Freeze, Incarnation, Leave,
    Message, NewDisk, NodeSlot, Peer, ProofKind, Right, ServiceCommand, ServiceEvent,
    Setup as NodeSetup, Window,
};
use crate::value::{
    Command, Completion, Control, ControlId, Event, FlagWish, Instant, IoDone, IoError, IoId, IoOp,
    MemberId, MemberIo, NewMember, Notice, Now, Pool, Purpose, Reply, Request, RequestError,
    RequestId, RequestOp, Slice, Span, Timer,
};

pub const NODES: u16 = 6;
pub const BLOCK: u64 = 8;
const DISK_BYTES: usize = 640 << 10;
/// What arrays with bitmaps of several pages use of each member.
pub const PAGED_SECTORS: u64 = 64_000;
const WINDOW: u64 = 256;

/// A small deterministic generator.
#[derive(Clone)]
pub struct Lcg(pub u64);

impl Lcg {
    pub fn below(&mut self, n: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % n as u64) as usize
    }
}

#[derive(Default)]
pub struct Host {
    pub array: Option<Clustered>,
    pub me: Option<Peer>,
    pub queue: VecDeque<ServiceEvent>,
    pub flights: Vec<MemberIo>,
    pub load: Option<NodeSlot>,
    pub fences: Vec<Peer>,
    pub timers: BTreeMap<Timer, Instant>,
    pub replies: BTreeMap<u64, Result<Reply, RequestError>>,
    pub notices: Vec<Notice>,
    pub answers: Vec<String>,
    /// How many controls it was given.
    pub asked: usize,
    pub frozen: Option<Freeze>,
    pub ready: bool,
    pub over: Option<End>,
    pub refusals: Vec<String>,
    pub stopped: bool,
    /// It hears nothing, and nothing of it lands.
    pub paused: bool,
    /// Its session ends then.
    pub lease: Option<Instant>,
    /// Disks that it does not reach.
    pub cut: BTreeSet<u32>,
    /// Disks of which it cannot read superblocks.
    pub blind: BTreeSet<u32>,
    /// Disks of which it cannot read data.
    pub worn: BTreeSet<u32>,
    /// Disks of which it cannot read bitmaps.
    pub mute: BTreeSet<u32>,
    /// Disks that are shorter for it.
    pub short: BTreeMap<u32, u64>,
    /// Disks of which it cannot write bitmaps.
    pub stiff: BTreeSet<u32>,
    /// How it answered messages.
    pub acks: Vec<AckStatus>,
    /// It knows no windows, and says so.
    pub refuses: bool,
    announced: BTreeSet<DeliveryId>,
    /// The windows that it announced, and when.
    pub windows: Vec<(Instant, Window)>,
    /// How its node is set up, if not as usual.
    pub capacity: Option<u16>,
    pub options: Options,
    /// What its driver makes of what it has read.
    pub tamper: Option<fn(&mut Setup)>,
    /// How it left.
    pub left: Option<Leave>,
    /// A disk that it looks for.
    pub find: Option<NewDisk>,
    /// It does not find any.
    pub searching: bool,
    /// Disks that it does not see when they are added.
    pub unseen: BTreeSet<u32>,
    /// It sees another disk under the path of one.
    pub mixed_up: BTreeMap<u32, u32>,
    /// Disks that it has opened for a change.
    pub opened: BTreeSet<u32>,
    /// Members it has let go.
    pub released: BTreeSet<u32>,
}

/// What a block may hold.
#[derive(Debug, Clone, Default)]
struct Block {
    /// Of these one, on all mirrors alike.
    may: Vec<u8>,
    /// Who writes it, and what.
    busy: Option<(usize, u64, u8)>,
}

pub struct World {
    pub hosts: Vec<Host>,
    pub disks: Vec<Vec<u8>>,
    pub engine: Engine,
    pub fenced: BTreeSet<Incarnation>,
    pub fencing: bool,
    pub now: Now,
    pub rng: Option<Lcg>,
    /// Sectors of the first window.
    pub window: u64,
    bitmap_sector: u64,
    data_sector: u64,
    inputs: u64,
    /// Of so many inputs one is followed by a look at all invariants.
    check_each: u64,
    copied: bool,
    /// Lives that have loaded the array.
    loaded: BTreeSet<Incarnation>,
    pool: Pool,
    blocks: Vec<Block>,
    next: u64,
    value: u8,
    /// I/O for these purposes does not land.
    pub held: BTreeSet<(usize, Purpose)>,
    /// Whoever reads the bitmaps of all slots gets them in two parts, at two times.
    pub torn: bool,
    /// Of which the first part was read.
    half_read: BTreeSet<(usize, IoId)>,
    half_landed: bool,
    pub log: Vec<(usize, Purpose)>,
    /// Where resyncs have written: host, first sector of the member.
    pub resynced: Vec<(usize, u64)>,
    pub supers: u64,
}

impl World {
    /// A mirror of so many legs; nothing is dirty.
    pub fn new(legs: u16) -> World {
        World::made(Level::Raid1, 0, legs, 0)
    }

    pub fn made(level: Level, layout: u32, legs: u16, chunk_sectors: u32) -> World {
        World::with_spares(level, layout, (legs, 0), chunk_sectors)
    }

    pub fn with_spares(
        level: Level,
        layout: u32,
        (legs, spares): (u16, u16),
        chunk_sectors: u32,
    ) -> World {
        World::sized(level, layout, (legs, spares), chunk_sectors, DISK_BYTES)
    }

    pub fn sized(
        level: Level,
        layout: u32,
        (legs, spares): (u16, u16),
        chunk_sectors: u32,
        disk_bytes: usize,
    ) -> World {
        World::built(
            level,
            layout,
            (legs, spares),
            chunk_sectors,
            disk_bytes,
            (None, 128, 32768),
        )
    }

    /// A mirror of two disks with room for bitmaps of several pages: bits stand for so many bytes
    /// of 64,000 sectors (512: three pages, 1024: two, 2048: one).
    pub fn paged(region_bytes: u32) -> World {
        let (used, more) = (PAGED_SECTORS, 8192);
        let bytes = (256 + used + more) as usize * 512;
        let how = (Some(used), 256, region_bytes);
        let mut world = World::built(Level::Raid1, 0, (2, 0), 0, bytes, how);
        (world.window, world.check_each) = (8192, 1000);
        world
    }

    /// A mirror of two large disks, and windows of so many sectors.
    pub fn sized_with_windows(disk_bytes: usize, window: u64) -> World {
        let mut world = World::sized(Level::Raid1, 0, (2, 0), 0, disk_bytes);
        world.window = window;
        world
    }

    /// With disks of which the array uses as much as other worlds do, and that have so much more:
    /// there they differ.
    pub fn with_room(
        level: Level,
        layout: u32,
        (legs, spares): (u16, u16),
        chunk_sectors: u32,
        more_sectors: usize,
    ) -> World {
        let used = DISK_BYTES / 512 - 128;
        let bytes = DISK_BYTES + more_sectors * 512;
        let all = (legs, spares);
        let how = (Some(used as u64), 128, 32768);
        let mut world = World::built(level, layout, all, chunk_sectors, bytes, how);
        for (disk, byte) in world.disks.iter_mut().zip(0xa0..) {
            disk[DISK_BYTES..].fill(byte);
        }
        world
    }

    fn built(
        level: Level,
        layout: u32,
        (legs, spares): (u16, u16),
        chunk_sectors: u32,
        disk_bytes: usize,
        (size_sectors, data_sector, region_bytes): (Option<u64>, u64, u32),
    ) -> World {
        let device = |n: u16| NewDevice {
            device_sectors: (disk_bytes / 512) as u64,
            device_uuid: Uuid([n as u8 + 1; 16]),
            flags: DeviceFlags(0),
        };
        let new = NewArray {
            format: Format::V1_2,
            preferred_minor: 0,
            set_uuid: Uuid([7; 16]),
            name: "c:test".into(),
            ctime_seconds: 1_700_000_000,
            level,
            layout,
            chunk_sectors,
            size_sectors,
            data_offset_sectors: Some(data_sector),
            bitmap: Some(RegionWish::Bytes(32768)),
            bad_block_log: false,
            assume_clean: true,
            slots: (0..legs).map(|n| Some(device(n))).collect(),
            spares: (legs..legs + spares).map(device).collect(),
        };
        let made = new_array(&new).expect("created");
        let plain = made.bitmap.clone().expect("a bitmap");
        let sync_sectors = plain.fields.sync_size_sectors;
        let plain = BitmapSuperblock::new(plain.fields.uuid, sync_sectors, region_bytes);
        let mut name = [0; 64];
        name[..4].copy_from_slice(b"hall");
        let mut area = initial_slots(&plain, u32::from(NODES), name);
        let each = area.len() / usize::from(NODES);
        area[SUPERBLOCK_BYTES..each].fill(0);
        let disk = |mut one: SuperblockV1| {
            one.fields.features = one.fields.features.with(Features::CLUSTERED);
            let mut bytes = vec![0; disk_bytes];
            put(
                &mut bytes,
                one.fields.super_offset_sectors,
                &one.encode(512),
            );
            put(
                &mut bytes,
                one.fields.bitmap_sector().expect("bitmap"),
                &area,
            );
            bytes
        };
        let all = made.slots.iter().flatten().chain(&made.spares).cloned();
        let first = made.slots[0].as_ref().expect("a leg");
        let sectors = match level {
            Level::Raid10 => {
                let chunks = first.fields.size_sectors / 16 * u64::from(legs);
                chunks / u64::from(layout & 0xff) * 16
            }
            _ => first.fields.size_sectors,
        };
        World {
            hosts: Vec::new(),
            disks: all.map(disk).collect(),
            bitmap_sector: first.fields.bitmap_sector().expect("bitmap"),
            data_sector,
            window: WINDOW,
            inputs: 0,
            check_each: 1,
            copied: level == Level::Raid10,
            loaded: BTreeSet::new(),
            engine: Engine::default(),
            fenced: BTreeSet::new(),
            fencing: true,
            now: Now {
                mono: Instant(1),
                wall_seconds: 1_700_000_100,
            },
            rng: None,
            pool: Pool::new(),
            blocks: vec![
                Block {
                    may: vec![0],
                    busy: None
                };
                (sectors / BLOCK) as usize
            ],
            next: 1,
            value: 0,
            held: BTreeSet::new(),
            torn: false,
            half_read: BTreeSet::new(),
            half_landed: false,
            log: Vec::new(),
            resynced: Vec::new(),
            supers: 0,
        }
    }

    /// The last disk holds nothing yet: it is to be filled.
    pub fn unfilled(mut self) -> World {
        let disk = self.disks.len() - 1;
        self.rewrite(disk, |fields| {
            fields.features = fields.features.with(Features::RECOVERY_OFFSET);
            fields.recovery_offset_raw = 0;
        });
        let data = &mut self.disks[disk][self.data_sector as usize * 512..];
        data.fill(0xee);
        self
    }

    /// With so many nodes that serve.
    pub fn running(mut self, hosts: usize) -> World {
        for _ in 0..hosts {
            let host = self.add_host();
            self.boot(host);
        }
        self
    }

    pub fn add_host(&mut self) -> usize {
        self.hosts.push(Host::default());
        self.hosts.len() - 1
    }

    pub fn boot(&mut self, host: usize) {
        self.start(host);
        self.settle();
        assert!(self.hosts[host].ready, "{:?}", self.hosts[host].refusals);
    }

    pub fn start(&mut self, host: usize) {
        let old = std::mem::take(&mut self.hosts[host]);
        let setup = NodeSetup::new(old.capacity.unwrap_or(NODES));
        self.hosts[host] = Host {
            array: Some(Clustered::new(setup).with_windows(self.window)),
            lease: old.lease,
            cut: old.cut,
            blind: old.blind,
            short: old.short,
            capacity: old.capacity,
            options: old.options,
            tamper: old.tamper,
            ..Host::default()
        };
        self.input(host, Input::Start);
    }

    /// Hosts are shown more than before, wherever they are served: what is there may be what any
    /// disk has.
    pub fn extend(&mut self) {
        let serving = (0..self.hosts.len()).filter(|host| self.serves(*host));
        let shown = serving.map(|host| self.array(host).status().array_sectors);
        let blocks = shown.min().unwrap_or(0) / BLOCK;
        for block in self.blocks()..blocks {
            // Of copies any may be read that a disk has had from the beginning.
            let may = match self.copied {
                true => (0xa0..).take(self.disks.len()).collect(),
                false => self.legs(block),
            };
            self.blocks.push(Block { may, busy: None });
        }
    }

    pub fn blocks(&self) -> u64 {
        self.blocks.len() as u64
    }

    pub fn array(&self, host: usize) -> &Array {
        let array = self.hosts[host].array.as_ref().expect("it lives");
        array.array().expect("it is loaded")
    }

    pub fn input(&mut self, host: usize, input: Input) {
        let mut out = Vec::new();
        let now = self.now;
        let Some(array) = self.hosts[host].array.as_mut() else {
            return;
        };
        array.handle(now, input, &mut out);
        self.inputs += 1;
        if let Some(array) = array.array()
            && self.inputs.is_multiple_of(self.check_each)
        {
            array.check_invariants();
        }
        for output in out {
            self.output(host, output);
        }
    }

    fn output(&mut self, host: usize, output: Output) {
        let one = &mut self.hosts[host];
        match output {
            Output::Array(command) => self.command(host, command),
            Output::Service(command) => self.service(host, command),
            Output::Load(slot) => one.load = Some(slot),
            Output::Fence(peer) => one.fences.push(peer),
            Output::Find(disk) => one.find = Some(disk),
            Output::Ready => one.ready = true,
            Output::NotJoined(why) => one.refusals.push(why.to_string()),
            Output::NotLoaded(why) => one.refusals.push(why.to_string()),
            Output::Refused(_, blame) => one.refusals.push(blame.to_string()),
            Output::Frozen(why) => one.frozen = why,
            Output::Over(end) => one.over = Some(end),
        }
    }

    fn command(&mut self, host: usize, command: Command) {
        let one = &mut self.hosts[host];
        match command {
            Command::Io(io) => {
                self.look_at(host, &io);
                self.log.push((host, io.purpose));
                if let (true, Purpose::Resync, Some((from, _))) =
                    (is_write(&io.op), io.purpose, range_of(&io.op))
                {
                    self.resynced.push((host, from));
                }
                self.hosts[host].flights.push(io);
            }
            Command::Complete { id, result } => {
                one.replies.insert(id.0, result);
                self.answered(host, id.0);
            }
            Command::Arm(timer, at) => {
                one.timers.insert(timer, at);
            }
            Command::Answer { result, .. } => one.answers.push(format!("{result:?}")),
            Command::Notify(notice) => one.notices.push(notice),
            Command::Release(member) => {
                one.opened.remove(&member.0);
                let twice = !one.released.insert(member.0);
                assert!(!twice, "host {host} lets {member:?} go twice");
            }
            Command::Stopped => one.stopped = true,
        }
    }

    fn service(&mut self, host: usize, command: ServiceCommand) {
        if let ServiceCommand::Leave(how) = command
            && let Some(me) = self.hosts[host].me
        {
            let flights = &self.hosts[host].flights;
            // What hangs on a disk that all know to have failed is waited for by nobody.
            let writing = |io: &&MemberIo| {
                matches!(io.op, IoOp::Write { .. }) && self.counts(host, io.member)
            };
            let left = flights.iter().find(writing);
            assert!(left.is_none(), "host {host} leaves behind {left:?}");
            if how == Leave::Clean {
                assert!(
                    self.is_left_clean(host, me.slot),
                    "left clean with bits set"
                );
            }
            self.hosts[host].left = Some(how);
        }
        let command = self.noted(host, command);
        let mut told = Told::new();
        self.engine.command(host, command, &mut told);
        self.tell(told);
    }

    /// Whether no member that a host writes to has bits of its slot. (One that got a slot after the
    /// host began to leave has what was copied to it then: whoever believes it resyncs that once.)
    fn is_left_clean(&self, host: usize, slot: NodeSlot) -> bool {
        let known = |disk: &usize| {
            let array = self.hosts[host].array.as_ref().and_then(Clustered::array);
            let member = array.and_then(|array| array.members.get(MemberId(*disk as u32)));
            member.is_some_and(crate::member::Member::is_active)
        };
        let disks = self.in_sync().into_iter().filter(known);
        disks
            .map(|disk| self.bits_on(disk, slot.0))
            .all(|bits| bits.is_empty())
    }

    /// Remembers what tests look at.
    fn noted(&mut self, host: usize, command: ServiceCommand) -> ServiceCommand {
        let now = self.now.mono;
        let one = &mut self.hosts[host];
        match command {
            ServiceCommand::Ack(id, mut status) => {
                if one.refuses && one.announced.contains(&id) {
                    status = AckStatus::Cannot(Cannot::Understand);
                }
                one.acks.push(status);
                ServiceCommand::Ack(id, status)
            }
            ServiceCommand::Broadcast { message, .. } => {
                if let Message::Resyncing { window, .. } = message {
                    one.windows.extend(window.map(|window| (now, window)));
                }
                command
            }
            other => other,
        }
    }

    pub fn tell(&mut self, told: Told) {
        for (to, event) in told {
            if self.hosts[to].array.is_some() {
                self.hosts[to].queue.push_back(event);
            }
        }
    }

    /// The superblock of a disk, if it has one.
    pub fn found(&self, disk: usize) -> Option<SuperblockV1> {
        let bytes = &self.disks[disk][4096..8192];
        let sectors = (self.disks[disk].len() / 512) as u64;
        SuperblockV1::load(bytes, Format::V1_2, sectors).ok()
    }

    fn super_place(&self, disk: usize) -> SuperblockV1 {
        self.found(disk).expect("a superblock")
    }

    /// The superblock of a disk is another one: some node has written it.
    pub fn rewrite(&mut self, disk: usize, change: impl Fn(&mut Fields)) {
        let mut one = self.super_place(disk);
        change(&mut one.fields);
        let at = one.fields.super_offset_sectors;
        put(&mut self.disks[disk], at, &one.encode(512));
    }

    /// Other bytes in the bitmap that a disk has for a slot.
    pub fn scribble(&mut self, disk: usize, slot: u16, from: usize, bytes: &[u8]) {
        let (at, slots) = self.slots(disk);
        let at = at + usize::from(slot) * slots.each_sectors() as usize * 512 + from;
        self.disks[disk][at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// A message that another host has sent.
    pub fn deliver(&mut self, from: usize, to: usize, message: Message) {
        let peer = self.hosts[from].me.expect("a member sends");
        let event = ServiceEvent::Deliver(DeliveryId(u64::MAX), peer, message);
        self.hosts[to].queue.push_back(event);
    }

    /// A host hears that another one has written superblocks, this one for certain.
    pub fn announce(&mut self, from: usize, to: usize, good: u32) {
        let good = DeviceNumber(good);
        self.deliver(from, to, Message::MetadataUpdated { good });
    }

    pub fn superblock(&self, disk: usize) -> SuperblockV1 {
        self.super_place(disk)
    }

    /// The superblocks of the bitmaps of all nodes.
    pub fn bitmaps(&self, disk: usize) -> Vec<BitmapSuperblock> {
        let superblock = self.superblock(disk);
        let start = superblock.fields.bitmap_sector().expect("bitmaps") as usize * 512;
        let each = self.slots(disk).1.each_sectors() as usize * 512;
        let slots = (0..usize::from(NODES)).map(|slot| start + slot * each);
        let read = |at: usize| {
            let found = Unverified::parse(&self.disks[disk][at..at + 256]).expect("a bitmap");
            let found = found.verify_node(superblock.bitmap_uuid());
            found.expect("of this array")
        };
        slots.map(read).collect()
    }

    /// Whether a disk says that bitmaps are on their way to other places.
    pub fn says_moving(&self, disk: usize) -> bool {
        let at = self.bitmap_sector as usize * 512;
        let found = Unverified::parse(&self.disks[disk][at..at + 256]).expect("a bitmap");
        let found = found.verify_node(Uuid([7; 16]));
        found.is_ok_and(|found| found.is_moving())
    }

    fn slots(&self, disk: usize) -> (usize, Slots) {
        let at = self.bitmap_sector as usize * 512;
        let slots = Slots::of(&self.disks[disk][at..], Uuid([7; 16])).expect("slots");
        (at, slots)
    }

    /// The regions that a slot calls dirty on any disk in sync.
    pub fn bits(&self, slot: u16) -> BTreeSet<u64> {
        self.in_sync()
            .into_iter()
            .flat_map(|disk| self.bits_on(disk, slot))
            .collect()
    }

    /// Whether no bit of a slot counts any more. On a member that came back while its owner's were
    /// on their way there may be old ones: whoever believes that member resyncs them once.
    pub fn is_clean(&self, slot: u16) -> bool {
        let mut disks = self.in_sync().into_iter();
        disks.any(|disk| self.bits_on(disk, slot).is_empty())
    }

    pub fn bits_on(&self, disk: usize, slot: u16) -> Vec<u64> {
        let (at, slots) = self.slots(disk);
        let len = slots.all_sectors() as usize * 512;
        let nodes = slots.read(&self.disks[disk][at..at + len], Uuid([7; 16]));
        let node = &nodes[usize::from(slot)];
        assert!(node.fields.is_ok(), "the superblock of a slot is kept");
        node.dirty.clone()
    }

    /// Whether nobody who has loaded the array has this slot, and nobody has died with it.
    fn is_vacant(&self, slot: NodeSlot) -> bool {
        let mut members = self.engine.members.iter();
        let loaded = |host: usize| {
            let array = self.hosts[host].array.as_ref();
            array.is_none_or(|array| array.array().is_some())
        };
        // Who was not let in when it had read what there is has written nothing.
        let dead = self.engine.dead.get(&slot);
        let dead = dead.is_some_and(|dead| self.loaded.contains(&dead.peer.incarnation));
        !dead && !members.any(|(host, peer)| peer.slot == slot && loaded(*host))
    }

    // What must not be submitted.

    fn look_at(&mut self, host: usize, io: &MemberIo) {
        let me = self.hosts[host].me.expect("only members touch disks");
        let gone = self.hosts[host].released.contains(&io.member.0);
        assert!(!gone, "host {host} has let it go: {io:?}");
        assert!(
            self.engine.members.contains_key(&host)
                || self.hosts[host].paused
                || self.hosts[host].queue.contains(&ServiceEvent::Lost)
                || !matches!(io.op, IoOp::Write { .. }),
            "host {host} writes after it left: {io:?}"
        );
        let (at, slots) = self.slots(0);
        let member = self.engine.members.contains_key(&host);
        match (&io.op, io.purpose) {
            (IoOp::Write { .. }, Purpose::Super) => {
                self.supers += 1;
                let holds = self.engine.holds(host, Right::Token);
                assert!(holds || !member, "superblocks out of turn");
            }
            (IoOp::Write { offset_sectors, .. }, Purpose::Bitmap) => {
                let token = self.engine.holds(host, Right::Token);
                if self.array(host).moves_bitmaps() {
                    assert!(token || !member, "bitmaps are moved out of turn");
                    return self.assert_others_hold(host);
                }
                let each = self
                    .array(host)
                    .shared
                    .as_ref()
                    .expect("shared")
                    .each_sectors();
                assert!(
                    each == slots.each_sectors() || !member,
                    "host {host}: another place"
                );
                let slot = (*offset_sectors - at as u64 / 512) / each;
                let slot = NodeSlot(slot as u16);
                let takes = self.engine.takes(host, slot) || !member;
                // Who gets a slot gets all bitmaps, before superblocks say so.
                let new = !self.in_sync().contains(&(io.member.0 as usize));
                let takes = takes || token && (new || self.is_vacant(slot));
                assert!(slot == me.slot || takes, "the bitmap of another node");
            }
            (op, Purpose::Data | Purpose::Resync) => {
                let Some(range) = range_of(op) else { return };
                let resync = io.purpose == Purpose::Resync;
                if !resync && !is_write(op) {
                    return;
                }
                for other in (0..self.hosts.len()).filter(|other| *other != host) {
                    let meets = |one: &&MemberIo| {
                        let sync = one.purpose == Purpose::Resync;
                        let write = is_write(&one.op) && one.purpose == Purpose::Data;
                        let crosses = range_of(&one.op)
                            .is_some_and(|(from, to)| from < range.1 && range.0 < to);
                        crosses && (resync && write || !resync && sync)
                    };
                    let live = self.engine.members.contains_key(&other);
                    // What hangs on a disk that has failed there is waited for by nobody, and read
                    // by nobody.
                    let mut flights = self.hosts[other].flights.iter();
                    let met =
                        flights.find(|one| meets(one) && !self.is_faulty(other, one.member.0));
                    assert!(
                        met.is_none() || !live || !member,
                        "host {host} {:?} meets {:?} of host {other}",
                        (io.purpose, io.member, range),
                        met.map(|one| (one.purpose, one.member)),
                    );
                }
            }
            _ => {}
        }
    }

    /// While a host moves the bitmaps of all, nobody else writes one.
    fn assert_others_hold(&self, mover: usize) {
        for (host, one) in self
            .hosts
            .iter()
            .enumerate()
            .filter(|(host, _)| *host != mover)
        {
            let member = self.engine.members.contains_key(&host);
            let array = one.array.as_ref().and_then(Clustered::array);
            let Some(array) = array.filter(|_| member && !one.paused) else {
                continue;
            };
            let shared = array.shared.as_ref().expect("shared");
            let rests = array.bitmaps_are_still() || shared.is_drained();
            assert!(
                rests,
                "host {host} may write a bitmap while {mover} moves them"
            );
            let writes = |io: &&MemberIo| io.purpose == Purpose::Bitmap && is_write(&io.op);
            let met = one.flights.iter().find(writes);
            assert!(met.is_none(), "host {host} writes one: {met:?}");
        }
    }

    // What happens.

    /// All that can happen by itself.
    fn due(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for (index, host) in self.hosts.iter().enumerate() {
            if host.paused {
                continue;
            }
            let alive = host.array.is_some();
            if alive && !host.queue.is_empty() {
                steps.push(Step::Hear(index));
            }
            if alive && host.load.is_some() {
                steps.push(Step::Load(index));
            }
            if alive && host.find.is_some() && !host.searching {
                steps.push(Step::Find(index));
            }
            if alive && !host.fences.is_empty() && self.fencing {
                steps.push(Step::Fence(index));
            }
            for place in 0..host.flights.len() {
                if !self.held.contains(&(index, host.flights[place].purpose)) {
                    steps.push(Step::Land(index, place));
                }
            }
        }
        steps
    }

    /// Whether nothing happens before some time has passed.
    pub fn is_at_rest(&self) -> bool {
        self.due().is_empty()
    }

    /// Lets one of these happen.
    pub fn step(&mut self) -> bool {
        let due = self.due();
        if due.is_empty() {
            return false;
        }
        let which = self.rng.as_mut().map_or(0, |rng| rng.below(due.len()));
        self.carry(due[which]);
        true
    }

    /// Lets something happen at one host.
    pub fn step_of(&mut self, host: usize) -> bool {
        let due = self.due();
        let of = |step: &&Step| match **step {
            Step::Hear(at) | Step::Load(at) | Step::Fence(at) => at == host,
            Step::Find(at) | Step::Land(at, _) => at == host,
        };
        let Some(step) = due.iter().find(of) else {
            return false;
        };
        self.carry(*step);
        true
    }

    fn carry(&mut self, step: Step) {
        match step {
            Step::Hear(host) => {
                let event = self.hosts[host].queue.pop_front().expect("due");
                self.hear(host, event);
            }
            Step::Load(host) => self.load(host),
            Step::Find(host) => self.find(host),
            Step::Fence(host) => self.fence(host),
            Step::Land(host, place) => self.land(host, place),
        }
    }

    fn hear(&mut self, host: usize, event: ServiceEvent) {
        let event = match event {
            ServiceEvent::Joined(mut session) => {
                self.hosts[host].me = Some(session.me);
                if let Some(lease) = self.hosts[host].lease {
                    session.valid_until = lease;
                }
                ServiceEvent::Joined(session)
            }
            ServiceEvent::Deliver(id, _, Message::Resyncing { .. }) => {
                self.hosts[host].announced.insert(id);
                event
            }
            other => other,
        };
        self.input(host, Input::Service(event));
    }

    /// A host hears the next of what it is told.
    pub fn hear_next(&mut self, host: usize) {
        self.carry(Step::Hear(host));
    }

    /// This I/O of a host lands.
    pub fn land_one(&mut self, host: usize, io: IoId) {
        let flights = &self.hosts[host].flights;
        let place = flights.iter().position(|one| one.io == io);
        self.land(host, place.expect("it is under way"));
    }

    pub fn settle(&mut self) {
        for _ in 0..400_000 {
            if !self.step() {
                return;
            }
        }
        panic!("it never comes to rest");
    }

    /// Lets so many seconds pass.
    pub fn pass(&mut self, seconds: u64) {
        let end = self.now.mono + Span::secs(seconds);
        for _ in 0..10_000 {
            self.settle();
            let at = self.next_timer().filter(|at| *at <= end);
            let Some(at) = at else {
                self.now.mono = end;
                return;
            };
            self.now.mono = self.now.mono.max(at);
            self.fire();
        }
        panic!("timers for ever");
    }

    pub fn next_timer(&self) -> Option<Instant> {
        let hosts = self.hosts.iter().filter(|host| !host.paused);
        let live = hosts.filter(|host| host.array.is_some() && host.over.is_none());
        let all = live.flat_map(|host| {
            let deadline = host.array.as_ref().and_then(Clustered::next_deadline);
            let timers = host.timers.values().copied();
            timers.chain(deadline).collect::<Vec<_>>()
        });
        all.min()
    }

    /// What is due by now.
    pub fn fire(&mut self) {
        let now = self.now.mono;
        for host in 0..self.hosts.len() {
            if self.hosts[host].paused || self.hosts[host].array.is_none() {
                continue;
            }
            let timers = &mut self.hosts[host].timers;
            let due: Vec<Timer> = timers
                .iter()
                .filter(|(_, at)| **at <= now)
                .map(|(timer, _)| *timer)
                .collect();
            for timer in due {
                self.hosts[host].timers.remove(&timer);
                self.input(host, Input::Array(Event::Timer(timer)));
            }
            let array = self.hosts[host].array.as_ref();
            let deadline = array.and_then(Clustered::next_deadline);
            if deadline.is_some_and(|at| at <= now) {
                self.input(host, Input::Tick);
            }
        }
    }

    fn sectors_for(&self, host: usize, disk: usize) -> u64 {
        let whole = (self.disks[disk].len() / 512) as u64;
        let short = self.hosts[host].short.get(&(disk as u32));
        *short.unwrap_or(&whole)
    }

    fn facts(&self, host: usize, slot: NodeSlot) -> Vec<MemberFacts> {
        let there = |disk: &usize| {
            !self.hosts[host].cut.contains(&(*disk as u32)) && self.found(*disk).is_some()
        };
        let seen = (0..self.disks.len()).filter(there);
        seen.map(|disk| {
            let superblock = self.super_place(disk);
            // A spare has no bitmaps yet.
            let (at, slots) = self.slots(0);
            let read = |at: usize| {
                let found = Unverified::parse(&self.disks[disk][at..at + 256]);
                found.and_then(|found| found.verify_node(superblock.bitmap_uuid()))
            };
            let first = read(at);
            let each = first
                .as_ref()
                .ok()
                .map(|one| on_disk_sectors(one.regions(slots.first.sync_size_sectors)));
            let each = each.unwrap_or(slots.each_sectors()) as usize * 512;
            let bitmap = match first {
                Ok(first) if first.is_moving() => Ok(first),
                _ => read(at + usize::from(slot.0) * each),
            };
            MemberFacts {
                id: MemberId(disk as u32),
                name: format!("d{disk}"),
                size_sectors: self.sectors_for(host, disk),
                logical_block_bytes: 512,
                superblock: Ok(superblock),
                bitmap: Some(bitmap),
                bad_blocks: None,
            }
        })
        .collect()
    }

    fn load(&mut self, host: usize) {
        let slot = self.hosts[host].load.take().expect("due");
        let facts = self.facts(host, slot);
        let wish = Wish {
            clustered: true,
            ..Wish::default()
        };
        let plan = assemble(&facts, &wish).expect("a plan");
        let (BitmapPlan::Usable { source, .. } | BitmapPlan::Stale { source, .. }) = &plan.bitmap
        else {
            panic!("no bitmap: {:?}", plan.bitmap);
        };
        let disk = source.0 as usize;
        let (at, slots) = self.slots(disk);
        let each = slots.each_sectors() as usize * 512;
        let at = at + usize::from(slot.0) * each;
        let mut setup = Setup {
            bitmap_area: Some(self.disks[disk][at..at + each].to_vec()),
            plan,
            facts,
            pool: self.pool.clone(),
            options: self.hosts[host].options.clone(),
        };
        if let Some(tamper) = self.hosts[host].tamper {
            tamper(&mut setup);
        }
        self.input(host, Input::Loaded(Ok(Box::new(setup))));
        let array = self.hosts[host].array.as_ref();
        if array.is_some_and(|array| array.array().is_some()) {
            let me = self.hosts[host].me.expect("a member loads");
            self.loaded.insert(me.incarnation);
        }
    }

    fn find(&mut self, host: usize) {
        let disk = self.hosts[host].find.take().expect("due");
        let number = disk.path.as_str().strip_prefix('d');
        let number: Option<u32> = number.and_then(|number| number.parse().ok());
        let one = &self.hosts[host];
        let seen = |number: &u32| {
            !one.cut.contains(number)
                && !one.unseen.contains(number)
                && (*number as usize) < self.disks.len()
                && !one.opened.contains(number)
        };
        let number = number.filter(seen);
        let real = number.map(|number| *one.mixed_up.get(&number).unwrap_or(&number));
        let found = real.map(|real| self.offer(host, real));
        self.input(host, Input::Found(disk.uuid, found));
    }

    /// Another disk of the same size, with this in it.
    pub fn new_disk(&mut self, byte: u8) -> u32 {
        let bytes = vec![byte; self.disks[0].len()];
        self.disks.push(bytes);
        self.disks.len() as u32 - 1
    }

    /// A host has opened a disk.
    pub fn offer(&mut self, host: usize, disk: u32) -> NewMember {
        self.hosts[host].released.remove(&disk);
        self.hosts[host].opened.insert(disk);
        self.hosts[host].flights.retain(|io| io.member.0 != disk);
        NewMember {
            id: MemberId(disk),
            name: format!("d{disk}"),
            size_sectors: (self.disks[disk as usize].len() / 512) as u64,
            logical_block_bytes: 512,
            device_uuid: [self.disks.len() as u8 + 40; 16],
            flags: FlagWish::default(),
            bad_block_log: true,
            superblock: self.found(disk as usize).map(Box::new),
        }
    }

    pub fn add(&mut self, host: usize, disk: u32) {
        let new = self.offer(host, disk);
        self.control(host, Control::Add(new));
    }

    /// Whether a disk was a member, is none for anybody, and nothing is under way to it.
    pub fn has_left(&self, host: usize, disk: u32) -> bool {
        let gone = |one: &Host| {
            let array = one.array.as_ref().and_then(Clustered::array);
            let member = array.is_some_and(|array| array.members.get(MemberId(disk)).is_some());
            let flies = one.flights.iter().any(|io| io.member.0 == disk);
            !member && !flies && one.load.is_none()
        };
        let opened = self.hosts[host].opened.contains(&disk);
        !opened && self.found(disk as usize).is_some() && self.hosts.iter().all(gone)
    }

    /// A disk that has left comes back.
    pub fn re_add(&mut self, host: usize, disk: u32) {
        let new = self.offer(host, disk);
        self.control(host, Control::ReAdd(new));
    }

    fn fence(&mut self, host: usize) {
        let peer = self.hosts[host].fences.remove(0);
        self.fenced.insert(peer.incarnation);
        for other in &mut self.hosts {
            if other
                .me
                .is_some_and(|me| me.incarnation == peer.incarnation)
                && other.array.is_none()
            {
                other.flights.clear();
            }
        }
        // Only now somebody else may write what it was writing.
        for block in &mut self.blocks {
            let by = block.busy.map(|(by, ..)| by);
            let dead = |by: usize| {
                let one = &self.hosts[by];
                one.array.is_none() && one.me.is_some_and(|me| me == peer)
            };
            if by.is_some_and(dead) {
                block.busy = None;
            }
        }
        let kind = ProofKind::Command;
        self.input(host, Input::Fenced(FenceProof { peer, kind }));
    }

    /// How many reads have got their first part.
    pub fn half_read(&self) -> usize {
        self.half_read.len()
    }

    /// Whether only the first part of a read lands now.
    fn lands_in_part(&mut self, host: usize, place: usize) -> bool {
        let (at, slots) = self.slots(0);
        let all = slots.all_sectors() as usize * 512;
        let array = self.hosts[host].array.as_ref();
        let shared = array.and_then(|one| one.array()?.shared.as_ref());
        let gathers = shared.is_some_and(|shared| !shared.gathers.is_empty());
        let flight = &mut self.hosts[host].flights[place];
        let (io, disk) = (flight.io, flight.member.0 as usize);
        let IoOp::Read { buf, .. } = &mut flight.op else {
            return false;
        };
        let whole = self.torn && gathers && flight.purpose == Purpose::Bitmap && buf.len() == all;
        if !whole || !self.half_read.insert((host, io)) {
            return false;
        }
        let half = all / 2;
        buf.as_mut_slice()[..half].copy_from_slice(&self.disks[disk][at..at + half]);
        true
    }

    fn land(&mut self, host: usize, place: usize) {
        if self.lands_in_part(host, place) {
            return;
        }
        let io = self.hosts[host].flights[place].io;
        let from_half = self.half_read.remove(&(host, io));
        self.half_landed = from_half;
        let MemberIo {
            io,
            member,
            purpose,
            op,
        } = self.hosts[host].flights.remove(place);
        let one = &self.hosts[host];
        let fenced = one
            .me
            .is_some_and(|me| self.fenced.contains(&me.incarnation));
        let hidden = purpose == Purpose::Super
            && one.blind.contains(&member.0)
            && matches!(op, IoOp::Read { .. });
        let worn = one.worn.contains(&member.0)
            && purpose == Purpose::Data
            && matches!(op, IoOp::Read { .. });
        let bitmap = match op {
            IoOp::Read { .. } => one.mute.contains(&member.0),
            _ => one.stiff.contains(&member.0),
        };
        let hidden = hidden || purpose == Purpose::Bitmap && bitmap;
        let result = match one.cut.contains(&member.0) || fenced || hidden {
            true => Err(IoError::Gone),
            false if worn => Err(IoError::Media),
            false => Ok(self.carry_out(member, op)),
        };
        self.done(host, io, result);
    }

    fn done(&mut self, host: usize, io: IoId, result: Result<IoDone, IoError>) {
        let done = Completion { io, result };
        self.input(host, Input::Array(Event::Done(done)));
    }

    fn carry_out(&mut self, member: MemberId, op: IoOp) -> IoDone {
        let disk = &mut self.disks[member.0 as usize];
        match op {
            IoOp::Read {
                offset_sectors,
                mut buf,
            } => {
                let at = offset_sectors as usize * 512;
                let len = buf.len();
                let from = match std::mem::take(&mut self.half_landed) {
                    true => len / 2,
                    false => 0,
                };
                buf.as_mut_slice()[from..].copy_from_slice(&disk[at + from..at + len]);
                IoDone::Read(buf)
            }
            IoOp::Write {
                offset_sectors,
                data,
                ..
            } => {
                let mut at = offset_sectors;
                for part in data {
                    put(disk, at, part.as_slice());
                    at += (part.len() / 512) as u64;
                }
                IoDone::Done
            }
            IoOp::Flush => IoDone::Done,
            other => panic!("{other:?}"),
        }
    }

    // What is done to it.

    pub fn is_busy(&self, block: u64) -> bool {
        self.blocks[block as usize].busy.is_some()
    }

    /// A host writes a block that nobody else writes. Returns the request.
    pub fn write(&mut self, host: usize, block: u64) -> u64 {
        self.value = self.value % 250 + 1;
        let (id, value) = (self.next, self.value);
        self.next += 1;
        let one = &mut self.blocks[block as usize];
        assert!(one.busy.is_none(), "file systems keep apart who writes");
        one.busy = Some((host, id, value));
        one.may.push(value);
        let data = self.pool.copy_of(&[value; (BLOCK * 512) as usize]);
        let op = RequestOp::Write {
            offset_sectors: block * BLOCK,
            data,
            fua: false,
        };
        let id = RequestId(id);
        self.input(host, Input::Array(Event::Request(Request { id, op })));
        id.0
    }

    pub fn read(&mut self, host: usize, block: u64) -> u64 {
        let id = RequestId(self.next);
        self.next += 1;
        let op = RequestOp::Read {
            offset_sectors: block * BLOCK,
            len_sectors: BLOCK as u32,
        };
        self.input(host, Input::Array(Event::Request(Request { id, op })));
        id.0
    }

    pub fn control(&mut self, host: usize, control: Control) {
        let id = ControlId(self.next);
        self.next += 1;
        self.hosts[host].asked += 1;
        self.input(host, Input::Array(Event::Control(id, control)));
    }

    pub fn replied(&self, host: usize, id: u64) -> Option<bool> {
        self.hosts[host].replies.get(&id).map(Result::is_ok)
    }

    fn answered(&mut self, host: usize, id: u64) {
        let ok = self.replied(host, id) == Some(true);
        for block in &mut self.blocks {
            if block.busy.is_some_and(|(_, request, _)| request == id) {
                let (_, _, value) = block.busy.take().expect("just looked at");
                if ok {
                    block.may = vec![value];
                }
            }
        }
    }

    /// The byte that a read gave.
    pub fn byte(&self, host: usize, id: u64) -> u8 {
        match &self.hosts[host].replies[&id] {
            Ok(Reply::Data(parts)) => {
                let first = parts[0].as_slice()[0];
                let same = |part: &Slice| part.as_slice().iter().all(|byte| *byte == first);
                assert!(parts.iter().all(same), "a torn block");
                first
            }
            other => panic!("no data: {other:?}"),
        }
    }

    /// Whether hosts may use it here.
    pub fn serves(&self, host: usize) -> bool {
        let one = &self.hosts[host];
        one.ready && one.over.is_none() && one.array.is_some()
    }

    /// What a block may hold.
    pub fn may(&self, block: u64) -> Vec<u8> {
        self.blocks[block as usize].may.clone()
    }

    /// Disks that somebody does not reach, or that failed.
    pub fn lost(&self) -> BTreeSet<u32> {
        let cut = self.hosts.iter().flat_map(|host| host.cut.iter().copied());
        cut.collect()
    }

    /// Whether a block may hold this.
    pub fn may_hold(&self, block: u64, byte: u8) -> bool {
        self.blocks[block as usize].may.contains(&byte)
    }

    /// The machine of a host dies. What it has sent to the disks may still land.
    pub fn crash(&mut self, host: usize) {
        let one = &mut self.hosts[host];
        one.array = None;
        one.ready = false;
        one.queue.clear();
        one.load = None;
        one.timers.clear();
        one.flights.retain(|io| is_write(&io.op));
    }

    /// The others notice.
    pub fn expel(&mut self, host: usize) {
        if self.engine.members.contains_key(&host) {
            let mut told = Told::new();
            self.engine.expel(host, &mut told);
            self.tell(told);
        }
    }

    /// Mirrors are equal, and hold what was answered.
    pub fn check_data(&self, disks: &[usize]) {
        for (index, block) in self.blocks.iter().enumerate() {
            assert!(
                block.busy.is_none(),
                "block {index} is being written: {:?}",
                block.busy
            );
            let mut bytes: Vec<u8> = Vec::new();
            for disk in disks {
                let at = (self.data_sector + index as u64 * BLOCK) as usize * 512;
                let data = &self.disks[*disk][at..at + (BLOCK * 512) as usize];
                assert!(data[1..] == data[..data.len() - 1], "torn {index}");
                bytes.push(data[0]);
            }
            assert!(
                bytes.iter().all(|byte| *byte == bytes[0]),
                "mirrors differ at {index}: {bytes:?}"
            );
            assert!(
                block.may.contains(&bytes[0]),
                "block {index}: {} of {:?}",
                bytes[0],
                block.may
            );
        }
    }

    /// Lets all I/O of a host to one disk land.
    pub fn land_on(&mut self, host: usize, disk: u32) {
        let here = |io: &MemberIo| io.member == MemberId(disk);
        while let Some(place) = self.hosts[host].flights.iter().position(here) {
            self.land(host, place);
        }
    }

    /// Lets all I/O of a host for this purpose land, and what follows from it.
    pub fn land_all(&mut self, host: usize, purpose: Purpose) {
        let here = |io: &MemberIo| io.purpose == purpose;
        while let Some(place) = self.hosts[host].flights.iter().position(here) {
            self.land(host, place);
        }
    }

    /// I/O of a host for this purpose that is under way.
    pub fn flying(&self, host: usize, purpose: Purpose) -> usize {
        let flights = self.hosts[host].flights.iter();
        flights.filter(|io| io.purpose == purpose).count()
    }

    /// Whether a disk is a member for a host, and works.
    fn counts(&self, host: usize, member: MemberId) -> bool {
        let array = self.hosts[host].array.as_ref().and_then(Clustered::array);
        let member = array.and_then(|array| array.members.get(member));
        member.is_some_and(|member| member.state != crate::member::State::Faulty)
    }

    /// Whether a host takes a member for faulty.
    pub fn is_faulty(&self, host: usize, disk: u32) -> bool {
        let array = self.array(host);
        let member = array.members.get(MemberId(disk));
        member.is_some_and(|member| member.state == crate::member::State::Faulty)
    }

    /// Disks in sync by the newest superblock.
    pub fn in_sync(&self) -> Vec<usize> {
        let all: Vec<(usize, SuperblockV1)> = (0..self.disks.len())
            .filter_map(|disk| Some((disk, self.found(disk)?)))
            .collect();
        let newest = all.iter().max_by_key(|(_, one)| one.fields.events);
        let newest = &newest.expect("disks").1;
        let role = |one: &SuperblockV1| newest.fields.role_of(one.fields.dev_number);
        let active = |one: &SuperblockV1| matches!(role(one), umd_format::Role::Active(_));
        let active = all.iter().filter(|(_, one)| active(one));
        // Of two disks that had a number one after the other the newer superblock counts.
        let newer = |disk: usize, one: &SuperblockV1| {
            all.iter().all(|(other, two)| {
                let same = two.fields.dev_number == one.fields.dev_number;
                *other == disk || !same || two.fields.events < one.fields.events
            })
        };
        let active = active.filter(|(disk, one)| newer(*disk, one));
        active.map(|(disk, _)| *disk).collect()
    }

    /// Legs of this block, as they are.
    pub fn legs(&self, block: u64) -> Vec<u8> {
        let at = (self.data_sector + block * BLOCK) as usize * 512;
        self.disks.iter().map(|disk| disk[at]).collect()
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Hear(usize),
    Load(usize),
    Find(usize),
    Fence(usize),
    Land(usize, usize),
}

fn is_write(op: &IoOp) -> bool {
    matches!(op, IoOp::Write { .. } | IoOp::WriteZeroes { .. })
}

fn range_of(op: &IoOp) -> Option<(u64, u64)> {
    match op {
        IoOp::Read {
            offset_sectors,
            buf,
        } => Some((*offset_sectors, *offset_sectors + (buf.len() / 512) as u64)),
        IoOp::Write {
            offset_sectors,
            data,
            ..
        } => {
            let len: usize = data.iter().map(Slice::len).sum();
            Some((*offset_sectors, *offset_sectors + (len / 512) as u64))
        }
        _ => None,
    }
}

fn put(disk: &mut [u8], sector: u64, bytes: &[u8]) {
    let at = sector as usize * 512;
    disk[at..at + bytes.len()].copy_from_slice(bytes);
}
