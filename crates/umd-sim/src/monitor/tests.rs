use umd_core::array::{ArrayState, MemberStatus};
use umd_core::value::{Events, Instant, IoId, Pool, Slice, Slot};
use umd_format::create::{NewArray, NewMember, new_array};
use umd_format::space::RegionWish;
use umd_format::v1::DeviceFlags;
use umd_format::{Format, Level, Role, SuperblockV1, Uuid};

use super::*;
use crate::disk::{Armed, Latency};
use crate::oracle::{Ended, Issue, Look};
use crate::rng::{Rng, Stream};
use crate::stamp::stamp;

const DATA: u64 = 64;
const USED: u64 = 128;

/// A mirror of two with a bitmap, written by hand step by step.
struct Bench {
    disks: Vec<SimDisk>,
    supers: Vec<SuperblockV1>,
    monitor: Monitor,
    oracle: Oracle,
    status: Status,
    bitmap: u64,
    next: u64,
}

fn member(n: u16) -> MemberStatus {
    MemberStatus {
        id: MemberId(u32::from(n)),
        name: format!("d{n}"),
        number: u32::from(n),
        slot: Some(Slot(n)),
        role: MemberRole::InSync,
        replacement: false,
        want_replacement: false,
        write_mostly: false,
        failfast: false,
        data_offset_sectors: DATA,
        data_size_sectors: USED,
        corrected_read_errors: 0,
        bad_ranges: 0,
        bad_sectors: 0,
        bad_blocks: Vec::new(),
        fault: None,
    }
}

fn status() -> Status {
    Status {
        state: ArrayState::Active,
        faulty: None,
        uuid: [1; 16],
        set_name: "x".into(),
        format: Format::V1_2,
        preferred_minor: 0,
        level: 1,
        layout: 0,
        chunk_sectors: 0,
        raid_disks: 2,
        array_sectors: USED,
        dev_sectors: USED,
        ctime_seconds: 0,
        utime_seconds: 0,
        events: Events(0),
        degraded: 0,
        members: (0..2).map(member).collect(),
        sync: None,
        reshape: None,
        sync_pending: false,
        resync_from_sectors: None,
        sync_requested: None,
        sync_frozen: false,
        sync_limits: umd_core::array::LimitsStatus::default(),
        last_sync: None,
        mismatch_sectors: 0,
        mismatches: std::sync::Arc::default(),
        bitmap: None,
        logical_block_bytes: 512,
        requests_in_flight: 0,
        safe_mode_delay_ms: 0,
        max_read_errors: 0,
        fail_last_dev: false,
        suspended_sectors: (0, 0),
        suspended_writes: 0,
    }
}

impl Bench {
    /// An array that is active and has all bits set, on members of zeros.
    fn new() -> Bench {
        let new = |id| NewMember {
            device_sectors: DATA + USED,
            device_uuid: Uuid([id; 16]),
            flags: DeviceFlags::default(),
        };
        let array = NewArray {
            format: Format::V1_2,
            preferred_minor: 0,
            set_uuid: Uuid([1; 16]),
            name: "x".into(),
            ctime_seconds: 1,
            level: Level::Raid1,
            layout: 0,
            chunk_sectors: 0,
            size_sectors: Some(USED),
            data_offset_sectors: Some(DATA),
            bitmap: Some(RegionWish::Bytes(4096)),
            bad_block_log: false,
            assume_clean: false,
            slots: vec![Some(new(1)), Some(new(2))],
            spares: vec![],
        };
        let created = new_array(&array).expect("a valid array");
        let image = created.bitmap_image().expect("a bitmap");
        let supers: Vec<SuperblockV1> = created.slots.into_iter().flatten().collect();
        let latency = Latency {
            read_ns: 10,
            write_ns: 10,
            flush_ns: 10,
            spike_permille: 0,
            spike_factor: 1,
        };
        let mut disks: Vec<SimDisk> = (0..2)
            .map(|n| SimDisk::new(DATA + USED, latency, Rng::new(1, Stream::Disk(n))))
            .collect();
        let bitmap = supers[0].fields.bitmap_sector().expect("a bitmap");
        let mut members = BTreeMap::new();
        for n in 0..2 {
            let medium = disks[n].medium_mut();
            medium.put(8, Some(&supers[n].encode(512)));
            for (index, sector) in image.chunks(512).enumerate() {
                medium.put(bitmap + index as u64, Some(sector));
            }
            let view = MemberView::new(n, 8, true, &disks);
            members.insert(MemberId(n as u32), view);
        }
        let geometry = Geometry {
            level: 1,
            layout: 0,
            slots: 2,
            chunk_sectors: 0,
            member_sectors: vec![USED; 2],
            moving: None,
            known: crate::layout::Known::default(),
        };
        Bench {
            disks,
            supers,
            monitor: Monitor::new(geometry, members),
            oracle: Oracle::new(Look::Zero, false),
            status: status(),
            bitmap,
            next: 0,
        }
    }

    fn write_op(offset_sectors: u64, data: Slice, fua: bool) -> IoOp {
        IoOp::Write {
            offset_sectors,
            data: [data].into_iter().collect(),
            fua,
        }
    }

    /// Checks and submits; returns the I/O to be finished.
    fn start(&mut self, to: usize, purpose: Purpose, op: IoOp) -> Result<u64, Violation> {
        self.next += 1;
        let io = MemberIo {
            io: IoId(self.next),
            member: MemberId(to as u32),
            purpose,
            op,
        };
        let scene = Scene {
            disks: &self.disks,
            status: &self.status,
            oracle: &self.oracle,
        };
        self.monitor.check_io(scene, &io)?;
        self.disks[to].submit(Instant(0), self.next, purpose, io.op);
        Ok(self.next)
    }

    fn run(&mut self, to: usize, purpose: Purpose, op: IoOp) -> Verdict {
        let io = self.start(to, purpose, op)?;
        self.disks[to].finish(io).expect("in flight").expect("well");
        Ok(())
    }

    fn data(sector: u64, version: u64) -> Slice {
        let mut bytes = [0; 512];
        stamp(&mut bytes, sector, version);
        Pool::new().copy_of(&bytes)
    }

    /// Writes one array sector to both members.
    fn write(&mut self, sector: u64, version: u64) -> Verdict {
        for to in 0..2 {
            let op = Bench::write_op(DATA + sector, Bench::data(sector, version), false);
            self.run(to, Purpose::Data, op)?;
        }
        Ok(())
    }

    fn flush(&mut self) {
        for to in 0..2 {
            self.run(to, Purpose::Flush, IoOp::Flush)
                .expect("no rule is about flushes");
        }
    }

    fn put_super(&mut self, to: usize, change: impl Fn(&mut SuperblockV1)) -> Verdict {
        change(&mut self.supers[to]);
        let data = Pool::new().copy_of(&self.supers[to].encode(512));
        self.run(to, Purpose::Super, Bench::write_op(8, data, true))
    }

    fn put_bits(&mut self, to: usize, value: u8) -> Verdict {
        let mut bytes = self.disks[to].durable().sector(self.bitmap).to_vec();
        bytes[256..].fill(value);
        let op = Bench::write_op(self.bitmap, Pool::new().copy_of(&bytes), true);
        self.run(to, Purpose::Bitmap, op)
    }

    fn answer(&mut self, sector: u64, durable: bool) -> Verdict {
        let scene = Scene {
            disks: &self.disks,
            status: &self.status,
            oracle: &self.oracle,
        };
        self.monitor.check_answer(scene, 1, &[sector], durable)
    }
}

#[track_caller]
fn breaks(rule: Rule, verdict: Verdict) {
    assert_eq!(verdict.expect_err("a rule is broken").rule, rule);
}

#[test]
fn data_needs_an_active_superblock_everywhere() {
    let mut b = Bench::new();
    b.write(0, 1).expect("active, bits set");
    b.flush();
    b.put_super(1, |sb| sb.fields.resync_offset_sectors = u64::MAX)
        .expect("clean is true");
    breaks(Rule::Intent, b.write(0, 2));
}

#[test]
fn data_needs_a_durable_bit_everywhere() {
    let mut b = Bench::new();
    b.put_bits(1, 0).expect("zeros are equal");
    breaks(Rule::Intent, b.write(8, 1));
    let mut bytes = b.disks[1].durable().sector(b.bitmap).to_vec();
    bytes[256] = 0b10;
    let op = Bench::write_op(b.bitmap, Pool::new().copy_of(&bytes), false);
    b.run(1, Purpose::Bitmap, op).expect("a bit is set");
    breaks(Rule::Intent, b.write(8, 1));
    b.flush();
    b.write(8, 1).expect("the bit is durable now");
    breaks(Rule::Intent, b.write(16, 2));
}

#[test]
fn a_bit_stays_while_data_is_volatile_unequal_or_in_flight() {
    let mut b = Bench::new();
    b.write(8, 1).expect("allowed");
    breaks(Rule::Clear, b.put_bits(0, 0));
    b.flush();
    b.put_bits(0, 0).expect("durable and equal");
    let mut b = Bench::new();
    let op = Bench::write_op(DATA + 8, Bench::data(8, 1), true);
    b.run(0, Purpose::Data, op).expect("allowed");
    breaks(Rule::Clear, b.put_bits(1, 0));
    let op = Bench::write_op(DATA + 8, Bench::data(8, 1), true);
    let io = b.start(1, Purpose::Data, op).expect("allowed");
    breaks(Rule::Clear, b.put_bits(0, 0));
    b.disks[1].finish(io).expect("in flight").expect("well");
    b.put_bits(1, 0).expect("durable and equal");
}

#[test]
fn a_bit_stays_while_a_member_is_missing() {
    let mut b = Bench::new();
    b.status.members.pop();
    breaks(Rule::Clear, b.put_bits(0, 0));
}

#[test]
fn clean_means_durable_and_equal() {
    let mut b = Bench::new();
    b.write(8, 1).expect("allowed");
    let clean = |sb: &mut SuperblockV1| sb.fields.resync_offset_sectors = u64::MAX;
    breaks(Rule::Clear, b.put_super(0, clean));
    b.flush();
    b.put_super(0, clean).expect("durable and equal");
    let mut b = Bench::new();
    let op = Bench::write_op(DATA + 64, Bench::data(64, 1), true);
    b.run(0, Purpose::Data, op).expect("allowed");
    breaks(Rule::Clear, b.put_super(0, clean));
    let upto = |offset| move |sb: &mut SuperblockV1| sb.fields.resync_offset_sectors = offset;
    breaks(Rule::Checkpoint, b.put_super(0, upto(72)));
    b.put_super(0, upto(64)).expect("equal below");
}

#[test]
fn events_only_grow_and_nobody_outruns_the_members_in_sync() {
    let mut b = Bench::new();
    b.put_super(0, |sb| sb.fields.events = 5).expect("grows");
    breaks(Rule::Events, b.put_super(0, |sb| sb.fields.events = 4));
    b.status.members[0].role = MemberRole::Recovering {
        recovered_sectors: 0,
    };
    let scene = Scene {
        disks: &b.disks,
        status: &b.status,
        oracle: &b.oracle,
    };
    breaks(Rule::Events, b.monitor.check_events_at_rest(scene));
    b.put_super(1, |sb| sb.fields.events = 5).expect("grows");
    let scene = Scene {
        disks: &b.disks,
        status: &b.status,
        oracle: &b.oracle,
    };
    b.monitor
        .check_events_at_rest(scene)
        .expect("both carry it");
}

#[test]
fn a_rebuilt_member_is_claimed_only_as_far_as_it_is_durable() {
    let mut b = Bench::new();
    b.write(8, 1).expect("allowed");
    b.flush();
    b.write(100, 2).expect("allowed");
    b.flush();
    b.disks[1].medium_mut().put(DATA + 8, None);
    b.status.members[1].role = MemberRole::Recovering {
        recovered_sectors: 0,
    };
    let upto = |offset| {
        move |sb: &mut SuperblockV1| {
            sb.fields.features = sb
                .fields
                .features
                .with(umd_format::v1::Features::RECOVERY_OFFSET);
            sb.fields.recovery_offset_raw = offset;
        }
    };
    // The medium says "in sync" before; a first mark takes it back, which is always allowed.
    b.put_super(1, upto(0)).expect("claims nothing");
    b.put_super(1, upto(8)).expect("true");
    breaks(Rule::Checkpoint, b.put_super(1, upto(16)));
    let op = Bench::write_op(DATA + 8, Bench::data(8, 1), false);
    b.run(1, Purpose::Resync, op).expect("allowed");
    breaks(Rule::Checkpoint, b.put_super(1, upto(16)));
    b.flush();
    b.put_super(1, upto(16)).expect("durable");
}

#[test]
fn a_known_failure_is_recorded_before_anything_goes_on() {
    let mut b = Bench::new();
    b.oracle.write_issued(
        1,
        Issue {
            range: 8..9,
            look: Look::Stamp(1),
            weak: false,
        },
    );
    b.write(8, 1).expect("allowed");
    b.oracle.write_ended(1, Ended::Done);
    b.monitor
        .note_error(&b.status, MemberId(0), true, &IoError::Media);
    b.status.members[0].role = MemberRole::Faulty;
    b.monitor.note_status(&b.status);
    breaks(Rule::Quarantine, b.answer(8, false));
    let op = Bench::write_op(DATA + 16, Bench::data(16, 1), false);
    breaks(Rule::Quarantine, b.run(1, Purpose::Data, op));
    b.put_super(1, |sb| sb.fields.set_role(0, Role::Faulty))
        .expect("allowed");
    b.answer(8, false).expect("recorded");
    let op = Bench::write_op(DATA + 16, Bench::data(16, 1), false);
    b.run(1, Purpose::Data, op).expect("recorded");
}

#[test]
fn an_answer_needs_every_member_that_will_be_read() {
    let mut b = Bench::new();
    let issue = Issue {
        range: 8..9,
        look: Look::Stamp(1),
        weak: false,
    };
    b.oracle.write_issued(1, issue);
    let op = Bench::write_op(DATA + 8, Bench::data(8, 1), false);
    b.run(0, Purpose::Data, op).expect("allowed");
    b.oracle.write_ended(1, Ended::Done);
    breaks(Rule::Ack, b.answer(8, false));
    let op = Bench::write_op(DATA + 8, Bench::data(8, 1), false);
    b.run(1, Purpose::Data, op).expect("allowed");
    b.answer(8, false).expect("both hold it");
    b.oracle.flush_issued(9);
    b.oracle.flush_ended(9, true);
    breaks(Rule::Flush, b.answer(8, true));
    b.flush();
    b.answer(8, true).expect("both hold it durably");
}

#[test]
fn writes_keep_apart_and_in_their_place() {
    let mut b = Bench::new();
    let op = || Bench::write_op(DATA + 8, Bench::data(8, 1), false);
    let io = b.start(0, Purpose::Data, op()).expect("allowed");
    breaks(Rule::Overlap, b.run(0, Purpose::Resync, op()));
    b.disks[0].finish(io).expect("in flight").expect("well");
    b.run(0, Purpose::Resync, op()).expect("alone");
    let low = Bench::write_op(DATA - 1, Bench::data(0, 1), false);
    breaks(Rule::Extent, b.run(0, Purpose::Data, low));
    breaks(Rule::Extent, b.run(0, Purpose::Bitmap, op()));
    breaks(Rule::Extent, b.run(0, Purpose::Super, op()));
}

#[test]
fn reads_come_from_valid_members() {
    let mut b = Bench::new();
    let read = |at| IoOp::Read {
        offset_sectors: DATA + at,
        buf: Pool::new().take(512),
    };
    b.status.members[1].role = MemberRole::Recovering {
        recovered_sectors: 8,
    };
    for sector in [8, 9] {
        let issue = Issue {
            range: sector..sector + 1,
            look: Look::Stamp(sector),
            weak: false,
        };
        b.oracle.write_issued(sector, issue);
        b.oracle.write_ended(sector, Ended::Done);
    }
    b.run(1, Purpose::Data, read(7)).expect("rebuilt");
    let op = Bench::write_op(DATA + 9, Bench::data(9, 9), false);
    b.run(1, Purpose::Resync, op).expect("allowed");
    b.run(1, Purpose::Data, read(9))
        .expect("rebuilt ahead of the checkpoint");
    breaks(Rule::Source, b.run(1, Purpose::Data, read(8)));
    breaks(Rule::Source, b.run(1, Purpose::Preread, read(8)));
    b.run(1, Purpose::Scrub, read(8))
        .expect("a check may look anywhere");
}

#[test]
fn a_member_is_not_read_once_it_was_said_that_it_failed() {
    let mut b = Bench::new();
    let read = || IoOp::Read {
        offset_sectors: DATA,
        buf: Pool::new().take(512),
    };
    b.monitor.note_status(&b.status);
    b.status.members[1].role = MemberRole::Faulty;
    breaks(Rule::Source, b.run(1, Purpose::Data, read()));
    b.monitor.note_status(&b.status);
    b.run(1, Purpose::Data, read())
        .expect("decided on behind it");
    b.monitor.note_said(MemberId(1));
    breaks(Rule::Source, b.run(1, Purpose::Data, read()));
    b.monitor.note_status(&b.status);
    breaks(Rule::Source, b.run(1, Purpose::Data, read()));
}

#[test]
fn nothing_follows_a_release_or_a_stop() {
    let mut b = Bench::new();
    b.monitor.note_released(MemberId(0));
    breaks(Rule::Lifetime, b.run(0, Purpose::Flush, IoOp::Flush));
    let read = IoOp::Read {
        offset_sectors: DATA,
        buf: Pool::new().take(512),
    };
    b.disks[1].arm(Armed::Hang(umd_core::value::Span(5)));
    b.start(1, Purpose::Data, read).expect("allowed");
    let scene = Scene {
        disks: &b.disks,
        status: &b.status,
        oracle: &b.oracle,
    };
    breaks(Rule::Lifetime, b.monitor.note_stopped(scene));
    breaks(Rule::Lifetime, b.run(1, Purpose::Flush, IoOp::Flush));
}
