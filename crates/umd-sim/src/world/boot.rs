//! Creation, start and sudden ends.

use std::collections::{BTreeMap, BTreeSet};

use umd_core::value::{Instant, MemberId, Pool};
use umd_format::badblocks::{BadLog, BadRanges};
use umd_format::bitmap::{BitmapSuperblock, STATES_OFFSET, Unverified, initial_image};
use umd_format::create::{Created, NewArray, NewMember, new_array};
use umd_format::space::RegionWish;
use umd_format::v1::{DeviceFlags, Features};
use umd_format::{Level, SuperblockV1, Uuid};

use super::atlas::Atlas;
use super::ends::Ends;
use super::exact::Record;
use super::fork::ForkPlan;
use super::host::Client;
use super::manual::Manual;
use super::phases::Phase;
use super::pretend::Pretence;
use super::split::Split;
use super::{Counts, Ev, Live, World};
use crate::disk::{Cut, Power, SimDisk};
use crate::engine::{Candidate, How, Maker, Refused, Started, now_at};
use crate::layout::{Geometry, Known};
use crate::metaview::{SuperView, super_sector};
use crate::monitor::{MemberView, Monitor, Rule, Scene, Violation};
use crate::options::{Action, MANY_RANGES, Marks, Options, Trigger};
use crate::oracle::{Look, Oracle};
use crate::queue::Queue;
use crate::rng::{Rng, Stream};
use crate::shipped::minor_of;
use crate::stamp::SECTOR;
use crate::trace::Trace;

fn put_bytes(disk: &mut SimDisk, first: u64, bytes: &[u8]) {
    for (index, piece) in bytes.chunks(SECTOR).enumerate() {
        let mut sector = [0; SECTOR];
        sector[..piece.len()].copy_from_slice(piece);
        disk.medium_mut().put(first + index as u64, Some(&sector));
    }
}

fn uuid(rng: &mut Rng) -> Uuid {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&rng.next_u64().to_le_bytes());
    bytes[8..].copy_from_slice(&rng.next_u64().to_le_bytes());
    Uuid(bytes)
}

fn fill_with_rubbish(disk: &mut SimDisk, rng: &mut Rng) {
    let medium = disk.medium_mut();
    for sector in 0..medium.sectors() {
        let mut bytes = [0; SECTOR];
        let mut word = rng.next_u64();
        for piece in bytes.chunks_exact_mut(8) {
            word = word.wrapping_mul(0x2545_f491_4f6c_dd1d).rotate_left(31);
            piece.copy_from_slice(&word.to_le_bytes());
        }
        medium.put(sector, Some(&bytes));
    }
}

/// Gives a member bad blocks: a log that names them, and rubbish where they are.
fn spoil(
    disk: &mut SimDisk,
    superblock: &mut SuperblockV1,
    (ranges, block): (u64, u64),
    rng: &mut Rng,
) {
    let fields = &mut superblock.fields;
    let log = BadLog::empty(fields).expect("it was made with one");
    let mut bad = BadRanges::default();
    let blocks = fields.size_sectors / block;
    for n in 0..ranges {
        let (at, len) = match ranges < MANY_RANGES {
            true => {
                let at = rng.below(blocks);
                (at, rng.range(1, 24).min(blocks - at))
            }
            false => (n * (blocks / (ranges + 1)), 1),
        };
        let start = fields.data_offset_sectors.next_multiple_of(block) + at * block;
        bad.insert(start, start + len * block);
    }
    for range in bad.iter() {
        let mut rubbish = [0; SECTOR];
        for sector in range.start_sectors..range.start_sectors + range.length_sectors {
            rubbish[..8].copy_from_slice(&rng.next_u64().to_le_bytes());
            disk.medium_mut().put(sector, Some(&rubbish));
        }
    }
    if ranges >= MANY_RANGES {
        let at = ranges * (blocks / (ranges + 1)) * block;
        let start = fields.data_offset_sectors.next_multiple_of(block);
        disk.damage(start + at, block);
    }
    fields.features = fields.features.with(Features::BAD_BLOCKS);
    put_bytes(disk, log.sector, &log.rewritten(&bad).expect("few").bytes);
    let at = fields.super_offset_sectors;
    let bytes = superblock.encode(disk.block_bytes() as usize);
    put_bytes(disk, at, &bytes);
}

/// The same, to one of those in slots.
fn spoil_one(
    disks: &mut [SimDisk],
    slots: &mut [Option<SuperblockV1>],
    how: (u64, u64),
    rng: &mut Rng,
) {
    let here = slots.iter().flatten().count() as u64;
    let slot = rng.below(here) as usize;
    let superblock = slots[slot].as_mut().expect("the last ones are missing");
    spoil(&mut disks[slot], superblock, how, rng);
}

/// The array that the options ask for.
fn describe(options: &Options, rng: &mut Rng) -> NewArray {
    let slots = usize::from(options.slots);
    let present = slots - usize::from(options.missing);
    let mut new = |disk: usize| NewMember {
        device_sectors: options.disk_sectors[disk],
        device_uuid: uuid(rng),
        flags: match options.write_mostly >> disk & 1 {
            1 => DeviceFlags::WRITE_MOSTLY,
            _ => DeviceFlags::default(),
        },
    };
    let members = (0..slots)
        .map(|slot| (slot < present).then(|| new(slot)))
        .collect();
    let spares = (0..usize::from(options.spares))
        .map(|n| new(slots + n))
        .collect();
    NewArray {
        format: minor_of(options.minor),
        preferred_minor: 0,
        set_uuid: uuid(rng),
        name: "wind".into(),
        ctime_seconds: now_at(Instant(0)).wall_seconds,
        level: Level::from_raw(options.level),
        layout: options.layout,
        // A chunk that is no power of two can be run and not be created: it is put in afterwards.
        chunk_sectors: match options.chunk_sectors {
            odd if !odd.is_power_of_two() && odd > 0 => 8,
            chunk => chunk,
        },
        size_sectors: None,
        data_offset_sectors: options.data_offset_sectors,
        bitmap: options
            .bitmap_bytes
            .filter(|_| !options.bitmap_file)
            .map(|bytes| match options.marks {
                Marks::Bits => RegionWish::Bytes(bytes),
                Marks::States | Marks::Mixed => RegionWish::Lockless,
            }),
        bad_block_log: options.logged.is_some(),
        assume_clean: options.assume_clean,
        slots: members,
        spares,
    }
}

/// Whether a member can be replaced by a disk that held something else before: a recovery of an
/// array with a lockless bitmap leaves that alone where nobody has written.
fn refills(options: &Options) -> bool {
    let comings = [Action::Add, Action::ReAdd, Action::Replace];
    let comes = comings
        .iter()
        .any(|action| options.actions.contains(action));
    // A takeover sends a member away, and the next one takes it in again.
    options.marks != Marks::Bits && (comes || options.rare.levels)
}

/// Seconds between clearing passes of lockless bitmaps here.
const STATES_SLEEP_S: u32 = 5;

/// Gives every region some state that is true of it: on blank disks all members agree.
fn mix_states(options: &Options, states: &mut [u8], rng: &mut Rng) {
    const ANY: [u8; 8] = [0, 0, 2, 3, 4, 5, 6, 255];
    const AGREEING: [u8; 10] = [0, 0, 1, 1, 2, 3, 4, 5, 6, 7];
    for byte in states {
        *byte = match options.old_disks {
            true => rng.pick(&ANY),
            false => rng.pick(&AGREEING),
        };
    }
}

/// The bitmap of a new array, as the options want it.
fn bitmap_image(options: &Options, created: &mut Created, rng: &mut Rng) -> Option<Vec<u8>> {
    if let Some(bitmap) = &mut created.bitmap {
        bitmap.fields.write_behind = options.write_behind;
        if let (Some(bytes), true) = (options.bitmap_bytes, bitmap.is_lockless()) {
            // Smaller regions than a kernel makes, and less time for them, as fits small disks.
            bitmap.fields.region_raw = bytes / SECTOR as u32;
            bitmap.fields.daemon_sleep_s = STATES_SLEEP_S;
        }
    }
    let mut image = created.bitmap_image();
    if let (Some(image), Marks::Mixed) = (&mut image, options.marks) {
        let bitmap = created.bitmap.as_ref().expect("it has an image");
        let regions = bitmap.regions(bitmap.fields.sync_size_sectors);
        mix_states(
            options,
            &mut image[STATES_OFFSET..][..regions as usize],
            rng,
        );
    }
    image
}

/// The bitmap of a new array in a file of its own.
fn new_file(options: &Options, (uuid, sectors): (Uuid, u64)) -> SimDisk {
    let region_bytes = options.bitmap_bytes.expect("a file has a bitmap");
    let mut superblock = BitmapSuperblock::new(uuid, sectors, region_bytes);
    superblock.fields.write_behind = options.write_behind;
    let image = initial_image(&superblock);
    let disk = options.disks();
    let rng = Rng::new(options.seed, Stream::Disk(disk as u16));
    let len = (image.len() / SECTOR) as u64;
    let mut file = SimDisk::new(len.next_multiple_of(8), options.latency_of(disk), rng);
    file.use_blocks(options.workload.block_sectors);
    put_bytes(&mut file, 0, &image);
    file
}

/// Creates the array as a user would, straight onto the media. Says which disks are members, and
/// by which name its bitmap knows the array.
fn create(options: &Options, disks: &mut [SimDisk], rng: &mut Rng) -> (Vec<bool>, Geometry, Uuid) {
    let slots = usize::from(options.slots);
    let mut created = new_array(&describe(options, rng)).expect("the options describe an array");
    for sb in created.slots.iter_mut().flatten() {
        sb.fields.chunk_sectors = options.chunk_sectors;
    }
    if options.rare.begun_sectors > 0 {
        let last = created.slots.iter_mut().flatten().next_back();
        let fields = &mut last.expect("somebody is there").fields;
        fields.features = fields.features.with(Features::RECOVERY_OFFSET);
        fields.recovery_offset_raw = options.rare.begun_sectors;
    }
    let image = bitmap_image(options, &mut created, rng);
    let mut carries = vec![false; disks.len()];
    let mut sizes = Vec::new();
    let places = created
        .slots
        .iter()
        .enumerate()
        .filter_map(|(slot, sb)| Some((slot, sb.as_ref()?)));
    let spares = created
        .spares
        .iter()
        .enumerate()
        .map(|(n, sb)| (slots + n, sb));
    for (disk, sb) in places.chain(spares) {
        let fields = &sb.fields;
        if let (Some(image), Some(sector), true) = (&image, fields.bitmap_sector(), disk < slots) {
            put_bytes(&mut disks[disk], sector, image);
        }
        let bytes = sb.encode(disks[disk].block_bytes() as usize);
        put_bytes(&mut disks[disk], fields.super_offset_sectors, &bytes);
        carries[disk] = true;
        sizes.push(fields.data_size_sectors);
        assert_eq!(fields.data_offset_sectors % 8, 0, "data starts on a page");
    }
    if let Some(ranges) = options.logged.filter(|ranges| *ranges > 0) {
        let block = options.workload.block_sectors;
        spoil_one(disks, &mut created.slots, (ranges, block), rng);
    }
    let any: &SuperblockV1 = created.slots.iter().flatten().next().expect("a member");
    let member_sectors = match options.level {
        -1 | 0 => sizes,
        _ => vec![any.fields.size_sectors; slots],
    };
    let geometry = Geometry {
        level: options.level,
        layout: options.layout.cast_signed(),
        slots: options.slots,
        chunk_sectors: u64::from(options.chunk_sectors),
        member_sectors,
        moving: None,
        known: Known::default(),
    };
    (carries, geometry, any.bitmap_uuid())
}

impl<'a> World<'a> {
    /// A world in which the array has been created and not been started yet.
    pub fn new(options: Options, maker: &'a dyn Maker, trace: Trace) -> World<'a> {
        let seed = options.seed;
        let mut setup_rng = Rng::new(seed, Stream::Setup);
        let mut disks = Vec::new();
        for (n, &sectors) in options.disk_sectors.iter().enumerate() {
            let rng = Rng::new(seed, Stream::Disk(n as u16));
            let mut disk = SimDisk::new(sectors, options.latency[n], rng);
            disk.use_blocks(options.workload.block_sectors);
            if options.emulated_fua >> n & 1 == 1 {
                disk.emulate_fua();
            }
            if options.old_disks {
                fill_with_rubbish(&mut disk, &mut setup_rng);
            }
            disks.push(disk);
        }
        let (mut carries, geometry, uuid) = create(&options, &mut disks, &mut setup_rng);
        let file = options.bitmap_file.then_some(disks.len());
        if file.is_some() {
            disks.push(new_file(&options, (uuid, geometry.walk_sectors())));
            carries.push(false);
        }
        let unwritten = match options.old_disks || refills(&options) {
            true => Look::Wild,
            false => Look::Zero,
        };
        // A block of a striped array has one home: whatever is read from it stays there.
        let copies = matches!(options.level, 1 | 10);
        World {
            now: Instant(1_000_000_000),
            queue: Queue::new(Rng::new(seed, Stream::Schedule)),
            absent: vec![false; disks.len()],
            disks,
            carries,
            file,
            file_id: None,
            geometry,
            pool: Pool::new(),
            oracle: Oracle::new(unwritten, copies),
            // What one member alone cannot give is lost.
            atlas: Atlas {
                exceeded: options.logged.is_some_and(|ranges| ranges >= MANY_RANGES),
                ..Atlas::default()
            },
            trace,
            counts: Counts::default(),
            live: None,
            pretence: None,
            spare_commands: Vec::new(),
            boot: 0,
            next_member: 0,
            next_request: 0,
            fault_rng: Rng::new(seed, Stream::Fault(0)),
            admin_rng: Rng::new(seed, Stream::Control(0)),
            limit_rng: Rng::new(seed, Stream::Limits(0)),
            embedder_rng: Rng::new(seed, Stream::Embedder(0)),
            limits_left: 0,
            setup_rng,
            manual: Manual::default(),
            record: Record::default(),
            program: None,
            forks: ForkPlan::new(&options),
            looked: None,
            clones: Vec::new(),
            alone: None,
            was_whole: false,
            options,
            maker,
        }
    }

    /// Assembles and starts the array. `false`: it was refused, as it may be, and that is the end.
    pub(super) fn start(&mut self) -> Result<bool, Violation> {
        self.atlas.rebooted();
        self.between_boots();
        if !self.manual.on {
            self.part_ways();
            self.bring_back_the_newest();
        }
        let mut chosen: Vec<usize> = (0..self.disks.len())
            .filter(|&disk| self.carries[disk] && !self.absent[disk] && !self.is_apart(disk))
            // The first superblock of a new member may never have reached it.
            .filter(|&disk| self.with_super(&self.disks[disk], |_| ()).is_some())
            .collect();
        self.setup_rng.shuffle(&mut chosen);
        let ids: Vec<(MemberId, usize)> = chosen
            .iter()
            .map(|&disk| {
                self.next_member += 1;
                (MemberId(self.next_member - 1), disk)
            })
            .collect();
        let boot = self.boot;
        self.find_file();
        let file = self.file_id.map_or("", |_| " and the bitmap's file");
        self.note(format_args!("boot {boot} with disks {chosen:?}{file}"));
        self.try_clones(&ids)?;
        self.try_torn(&ids)?;
        let mut forced = false;
        let started = match self.try_start(&ids, false) {
            Ok(started) => started,
            Err(refused) => {
                self.note(format_args!("refused: {}", refused.why));
                if self.atlas.exceeded() {
                    return Ok(false);
                }
                if !(refused.write_hole && self.geometry.has_parity()) {
                    return Err(Violation::new(
                        Rule::Error,
                        format!("refused: {}", refused.why),
                    ));
                }
                forced = true;
                self.try_start(&ids, true).map_err(|refused| {
                    let text = format!("refused although forced: {}", refused.why);
                    Violation::new(Rule::Error, text)
                })?
            }
        };
        self.started(started, &ids, forced)?;
        Ok(true)
    }

    /// The file with the bitmap is there, or is missed this time.
    fn find_file(&mut self) {
        self.file_id = None;
        let Some(disk) = self.file else { return };
        let missed = !self.manual.on && self.setup_rng.permille(120);
        // One that was being made when the power went may be no bitmap at all.
        let head = self.disks[disk].visible(0);
        let made = head.is_some_and(|head| Unverified::parse(head).is_ok());
        if missed || self.absent[disk] || !made {
            return;
        }
        self.file_id = Some(MemberId(self.next_member));
        self.next_member += 1;
    }

    /// The monitor hears where bits are.
    pub(super) fn tell_file(&mut self) {
        let file = self.file_at_hand();
        if let (Some((id, disk)), Some(live)) = (file, &mut self.live) {
            live.monitor.keep_bits_in(id, disk, &self.disks);
        }
    }

    /// The bitmap's file, where the array uses it.
    fn file_at_hand(&self) -> Option<(MemberId, usize)> {
        Some((self.file_id?, self.file?))
    }

    /// Looks at the superblock that a read of the disk finds, if it holds.
    pub(super) fn with_super<T>(
        &self,
        disk: &SimDisk,
        look: impl FnOnce(SuperView<'_>) -> T,
    ) -> Option<T> {
        let at = super_sector(self.options.minor, disk.sectors());
        let page = disk.visible_page(at);
        let found = SuperView::new(&page).filter(|sb| sb.is_whole());
        found.map(look)
    }

    /// No disk stays away that knows more than all others do: what the others hold is old, and
    /// nobody can see that from them.
    fn bring_back_the_newest(&mut self) {
        let events = |disk: usize| {
            let claims = |sb: SuperView<'_>| sb.role(sb.number()).map(|_| sb.events());
            let member = Some(disk).filter(|_| self.file != Some(disk))?;
            self.with_super(&self.disks[member], claims).flatten()
        };
        let known: Vec<Option<u64>> = (0..self.disks.len()).map(events).collect();
        let here = |disk: &usize| !self.absent[*disk] && !self.is_apart(*disk);
        let newest = (0..known.len())
            .filter(here)
            .filter_map(|disk| known[disk])
            .max();
        for (disk, events) in known.iter().enumerate() {
            self.absent[disk] &= *events <= newest;
        }
    }

    pub(super) fn try_start(
        &self,
        ids: &[(MemberId, usize)],
        force: bool,
    ) -> Result<Started, Refused> {
        self.try_start_with(ids, None, force)
    }

    /// The same with one more disk, which is none of the world's.
    pub(super) fn try_start_with(
        &self,
        ids: &[(MemberId, usize)],
        more: Option<(MemberId, &SimDisk)>,
        force: bool,
    ) -> Result<Started, Refused> {
        let mut candidates: Vec<Candidate<'_>> = ids
            .iter()
            .map(|&(id, disk)| Candidate {
                id,
                disk: &self.disks[disk],
                name: format!("disk{disk}"),
            })
            .collect();
        candidates.extend(more.map(|(id, disk)| Candidate {
            id,
            disk,
            name: "copy".into(),
        }));
        let now = now_at(self.now);
        let file = self.file_at_hand();
        let how = How {
            minor: self.options.minor,
            force,
            read_auto: self.is_started_dormant(),
            file: file.map(|(id, disk)| (id, &self.disks[disk])),
        };
        self.maker.start(&candidates, how, now, &self.pool)
    }

    fn started(
        &mut self,
        started: Started,
        ids: &[(MemberId, usize)],
        forced: bool,
    ) -> Result<(), Violation> {
        let Started {
            engine,
            mut commands,
            members,
        } = started;
        let status = engine.status();
        let taken: BTreeMap<MemberId, usize> = ids
            .iter()
            .copied()
            .filter(|(id, _)| members.contains(id))
            .collect();
        let views = taken
            .iter()
            .map(|(&id, &disk)| {
                let sector = super_sector(self.options.minor, self.disks[disk].sectors());
                (id, MemberView::new(disk, sector, true, &self.disks))
            })
            .collect();
        let dormant = self.is_started_dormant();
        self.live = Some(Live {
            lingering: None,
            engine,
            status,
            monitor: Monitor::new(self.geometry.clone(), views),
            members: taken,
            released: Vec::new(),
            ios: BTreeMap::new(),
            timers: BTreeMap::new(),
            armed: 0,
            clients: self.hosts(),
            pending: BTreeMap::new(),
            admin: BTreeMap::new(),
            read_only: dormant,
            dormant,
            frozen: false,
            faults_left: self.options.faults_per_boot,
            actions_left: self.options.actions_per_boot,
            answers: 0,
            phase: Phase::Work { over: false },
            events: 0,
            supers: 0,
            whole: false,
            aim: None,
            split: Split::default(),
            ends: Ends::new(self.options.seed, self.boot),
        });
        if dormant {
            self.live_mut().monitor.note_resting(true);
        }
        self.begin_to_follow()?;
        self.tell_file();
        self.pretence = Pretence::of(&self.options);
        let live = self.live.as_mut().expect("it was just set");
        live.monitor.excuse(self.atlas.spoiled.clone());
        live.monitor.note_half_set(Scene {
            disks: &self.disks,
            status: &live.status,
            oracle: &self.oracle,
        });
        self.check_whole()?;
        self.give_up_holes(forced);
        self.plan_boot();
        self.carry_out(&mut commands)
    }

    fn hosts(&self) -> Vec<Client> {
        let host = |n| Client {
            rng: Rng::new(self.options.seed, Stream::Client(self.boot, n)),
            left: self.options.workload.operations,
        };
        (0..self.options.workload.clients).map(host).collect()
    }

    /// What is missing in rows with a write hole is lost.
    fn give_up_holes(&mut self, forced: bool) {
        let held: BTreeSet<u16> = self.in_sync().into_iter().map(|(slot, _)| slot).collect();
        let missing: Vec<u16> = (0..self.geometry.slots)
            .filter(|s| !held.contains(s))
            .collect();
        if forced || (self.has_holes() && !missing.is_empty()) {
            self.give_up(&missing);
        }
    }

    fn plan_boot(&mut self) {
        self.record.began = self.now;
        if self.program.is_some() {
            return self.plan_program();
        }
        for n in 0..self.options.workload.clients {
            let pause = self.fault_rng.below(1_000_000);
            self.after(pause, Ev::Client(n));
        }
        let scale = self
            .fault_rng
            .pick(&[1_000_000, 20_000_000, 500_000_000, 5_000_000_000]);
        let first_fault = self.fault_rng.spread(scale);
        self.after(first_fault, Ev::Fault);
        let first_action = self.fault_rng.spread(scale);
        self.after(first_action, Ev::Admin);
        self.plan_limits();
        self.plan_embedder();
    }

    /// The power goes, or the process is killed.
    pub(super) fn crash(&mut self, power: bool) {
        let away = self.may_stay_away();
        let lost = self.crash_begins(power);
        let was_whole = self.is_whole();
        let away = away.filter(|disk| self.stays_away(*disk));
        let shorn = self.choose_shorn().filter(|_| power);
        let place = shorn.and_then(|disk| self.place_of(disk));
        shorn
            .into_iter()
            .for_each(|disk| self.disks[disk].shear_next_cut());
        let shredded = self.choose_shredded().filter(|_| power && shorn.is_none());
        shredded
            .into_iter()
            .for_each(|disk| self.disks[disk].shred_next_cut());
        let style = self.fault_rng.weighted(&[2, 1, 3, 2, 3]);
        let odd = self.fault_rng.index(self.disks.len());
        for disk in 0..self.disks.len() {
            let gone = self.disks[disk].power() == Power::Gone;
            if power {
                let how = draw_cut(&mut self.fault_rng, style, disk == odd);
                self.disks[disk].cut(how);
            } else {
                self.disks[disk].abandon();
            }
            self.absent[disk] = gone && self.fault_rng.permille(400) || away == Some(disk);
        }
        self.was_whole = was_whole && !self.absent.contains(&true);
        self.oracle.crashed(lost);
        if let Some(disk) = shorn {
            let sectors = self.disks[disk].take_shorn();
            self.note_shorn(place, &sectors);
        }
        self.live = None;
        self.queue.clear();
    }

    /// The world goes down: what is in doubt is known before anything is lost. Tells whether
    /// something that was answered and not flushed may be lost.
    pub(super) fn crash_begins(&mut self, power: bool) -> bool {
        self.counts.crashes += 1;
        self.note(format_args!(
            "{}",
            if power { "POWER CUT" } else { "KILLED" }
        ));
        self.trace.word(if power { 21 } else { 22 });
        self.prune_holes();
        let forgets = self.forgets();
        let pages = self.pages_at_risk(power);
        self.open_holes(pages);
        self.note_lagging();
        // Beyond redundancy, hung writes land late and caches that mattered are lost.
        power || forgets || self.atlas.exceeded()
    }

    /// The array was stopped: disks rest, some lose their power.
    pub(super) fn after_stop(&mut self) {
        if self.manual.on {
            return self.rest_by_hand();
        }
        let power = self.fault_rng.coin();
        self.was_whole = self.is_whole();
        for disk in 0..self.disks.len() {
            let gone = self.disks[disk].power() == Power::Gone;
            if gone || power {
                let how = draw_cut(&mut self.fault_rng, 2, false);
                self.disks[disk].cut(how);
            } else {
                self.disks[disk].abandon();
            }
            self.absent[disk] = gone && self.fault_rng.permille(400);
        }
        self.was_whole &= !self.absent.contains(&true);
        if power || self.atlas.exceeded() {
            self.oracle.crashed(true);
        }
        self.live = None;
        self.queue.clear();
    }

    pub(super) fn trigger_by_supers(&mut self) {
        let (_, trigger) = self.options.boots[usize::from(self.boot)];
        let live = self.live_mut();
        live.supers += 1;
        if trigger == Trigger::Supers(live.supers) {
            self.end_after(0);
        }
    }

    pub(super) fn trigger_by_answers(&mut self) {
        let (_, trigger) = self.options.boots[usize::from(self.boot)];
        if let Trigger::Answers(limit) = trigger
            && self.live().answers == limit
        {
            self.end_after(0);
        }
    }
}

pub(super) fn draw_cut(rng: &mut Rng, style: usize, odd: bool) -> Cut {
    match style {
        0 => Cut::None,
        1 => Cut::All,
        2 => match rng.below(5) {
            0 => Cut::None,
            1 => Cut::All,
            2 => Cut::Prefix,
            3 => Cut::Writes(rng.pick(&[100, 500, 900])),
            _ => Cut::Sectors(rng.pick(&[100, 500, 900])),
        },
        3 if odd => Cut::All,
        3 => Cut::None,
        _ if odd => Cut::None,
        _ => Cut::All,
    }
}
