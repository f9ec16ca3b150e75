//! The world against an engine that is simple enough to be right, and with faults planted in it.

use std::collections::BTreeSet;

use umd_core::array::{
    ArrayState, Command, Commands, Completion, Control, ControlReply, Extent, IoDone, IoOp,
    MemberIo, MemberRole, MemberStatus, Purpose, Reply, Request, RequestOp,
};
use umd_core::value::{Events, IoId, MemberId, Now, Slice, Slot};
use umd_format::{Format, SuperblockV1};

use super::*;
use crate::engine::{Candidate, How, Refused, Started};
use crate::options::{Ending, Trigger};
use crate::run::{Outcome, Show, run_options};
use crate::stamp::SECTOR;

/// What is wrong with the mirror.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    None,
    AckEarly,
    OneLeg,
    FlushOne,
    FuaIgnored,
    CleanEarly,
    Misplaced,
    Forgets,
    Garbles,
    ReadsStale,
    IdleTimer,
}

struct Leg {
    id: MemberId,
    superblock: SuperblockV1,
}

#[derive(Debug, Clone)]
enum Job {
    Mark {
        clean: bool,
        legs: usize,
    },
    Host {
        id: RequestId,
        legs: usize,
        read: bool,
    },
    StopFlush {
        legs: usize,
    },
    SyncRead,
    SyncWrite,
}

/// A mirror without any cleverness: active from start to stop, everything goes everywhere.
struct Mirror {
    flaw: Flaw,
    legs: Vec<Leg>,
    status: Status,
    jobs: Vec<Option<Job>>,
    ios: BTreeMap<IoId, usize>,
    next: u64,
    ready: bool,
    parked: Vec<Request>,
    stop: Option<ControlId>,
    stopped: bool,
}

impl Mirror {
    fn io(&mut self, job: usize, leg: usize, purpose: Purpose, op: IoOp, out: &mut Commands) {
        self.next += 1;
        let io = IoId(self.next);
        self.ios.insert(io, job);
        let member = self.legs[leg].id;
        out.push(Command::Io(MemberIo {
            io,
            member,
            purpose,
            op,
        }));
    }

    fn job(&mut self, job: Job) -> usize {
        self.jobs.push(Some(job));
        self.jobs.len() - 1
    }

    fn mark(&mut self, clean: bool, out: &mut Commands) {
        let legs = self.legs.len();
        let job = self.job(Job::Mark { clean, legs });
        for leg in 0..legs {
            let sb = &mut self.legs[leg].superblock;
            sb.fields.events += 1;
            sb.fields.resync_offset_sectors = if clean { u64::MAX } else { 0 };
            let offset_sectors = sb.fields.super_offset_sectors;
            let data = umd_core::value::Pool::new().copy_of(&sb.encode(SECTOR));
            let op = IoOp::Write {
                offset_sectors,
                data: [data].into_iter().collect(),
                fua: true,
            };
            self.io(job, leg, Purpose::Super, op, out);
        }
    }

    /// Copies everything from the first leg, as the array was not stopped well.
    fn resync(&mut self, out: &mut Commands) {
        let job = self.job(Job::SyncRead);
        let sectors = self.status.array_sectors as usize;
        let op = IoOp::Read {
            offset_sectors: self.at(0, 0),
            buf: umd_core::value::Pool::new().take(sectors * SECTOR),
        };
        self.io(job, 0, Purpose::Resync, op, out);
    }

    fn at(&self, leg: usize, sector: u64) -> u64 {
        self.legs[leg].superblock.fields.data_offset_sectors + sector
    }

    fn request(&mut self, request: Request, out: &mut Commands) {
        let id = request.id;
        let all = self.legs.len();
        match request.op {
            RequestOp::Read {
                offset_sectors,
                len_sectors,
            } => {
                let leg = if self.flaw == Flaw::ReadsStale {
                    all - 1
                } else {
                    0
                };
                let job = self.job(Job::Host {
                    id,
                    legs: 1,
                    read: true,
                });
                let op = IoOp::Read {
                    offset_sectors: self.at(leg, offset_sectors),
                    buf: umd_core::value::Pool::new().take(len_sectors as usize * SECTOR),
                };
                self.io(job, leg, Purpose::Data, op, out);
            }
            RequestOp::Write {
                offset_sectors,
                data,
                fua,
            } => self.write(id, offset_sectors, &data, fua, out),
            RequestOp::WriteZeroes {
                offset_sectors,
                len_sectors,
                fua,
                may_unmap,
            } => {
                let job = self.job(Job::Host {
                    id,
                    legs: all,
                    read: false,
                });
                for leg in 0..all {
                    let op = IoOp::WriteZeroes {
                        offset_sectors: self.at(leg, offset_sectors),
                        len_sectors,
                        may_unmap,
                        fua,
                    };
                    self.io(job, leg, Purpose::Data, op, out);
                }
            }
            RequestOp::Flush => {
                let legs = if self.flaw == Flaw::FlushOne { 1 } else { all };
                let job = self.job(Job::Host {
                    id,
                    legs,
                    read: false,
                });
                for leg in 0..legs {
                    self.io(job, leg, Purpose::Flush, IoOp::Flush, out);
                }
            }
            RequestOp::Trim { .. } => out.push(Command::Complete {
                id,
                result: Ok(Reply::Done),
            }),
            RequestOp::Allocation { len_sectors, .. } => {
                let data = true;
                let extent = Extent { len_sectors, data };
                let result = Ok(Reply::Extents(vec![extent]));
                out.push(Command::Complete { id, result });
            }
        }
    }

    fn write(&mut self, id: RequestId, offset: u64, data: &Slice, fua: bool, out: &mut Commands) {
        let all = self.legs.len();
        if self.flaw == Flaw::Forgets && id.0.is_multiple_of(20) {
            return;
        }
        let one = matches!(self.flaw, Flaw::OneLeg | Flaw::ReadsStale) && id.0.is_multiple_of(5);
        let legs = if one { 1 } else { all };
        let job = self.job(Job::Host {
            id,
            legs,
            read: false,
        });
        for leg in 0..legs {
            let shift = u64::from(self.flaw == Flaw::Misplaced && offset > 0 && id.0 % 7 == 3);
            let op = IoOp::Write {
                offset_sectors: self.at(leg, offset) - shift,
                data: [data.clone()].into_iter().collect(),
                fua: fua && self.flaw != Flaw::FuaIgnored,
            };
            self.io(job, leg, Purpose::Data, op, out);
        }
    }

    fn done(&mut self, done: Completion, out: &mut Commands) {
        let number = self.ios.remove(&done.io).expect("its own I/O");
        let Some(job) = self.jobs[number].clone() else {
            return;
        };
        let result = done.result.expect("no faults in these runs");
        let (legs, early) = match &job {
            Job::Mark { legs, .. } | Job::StopFlush { legs } => (*legs, false),
            Job::Host { legs, .. } => (*legs, self.flaw == Flaw::AckEarly),
            Job::SyncRead | Job::SyncWrite => (1, false),
        };
        if legs > 1 && !early {
            let left = legs - 1;
            self.jobs[number] = Some(match job {
                Job::Mark { clean, .. } => Job::Mark { clean, legs: left },
                Job::StopFlush { .. } => Job::StopFlush { legs: left },
                Job::Host { id, read, .. } => Job::Host {
                    id,
                    legs: left,
                    read,
                },
                other => other,
            });
            return;
        }
        self.jobs[number] = None;
        self.over(job, result, out);
    }

    fn over(&mut self, job: Job, result: IoDone, out: &mut Commands) {
        match job {
            Job::Mark { clean: false, .. } => {
                self.ready = true;
                for request in std::mem::take(&mut self.parked) {
                    self.request(request, out);
                }
            }
            Job::Mark { clean: true, .. } => {
                let id = self.stop.expect("asked to stop");
                let result = Ok(ControlReply::Done);
                out.push(Command::Answer { id, result });
                out.push(Command::Stopped);
                self.stopped = true;
            }
            Job::StopFlush { .. } => self.mark(true, out),
            Job::SyncRead => {
                let IoDone::Read(buf) = result else {
                    unreachable!("a read was asked for")
                };
                let job = self.job(Job::SyncWrite);
                let op = IoOp::Write {
                    offset_sectors: self.at(1, 0),
                    data: [buf.freeze()].into_iter().collect(),
                    fua: false,
                };
                self.io(job, 1, Purpose::Resync, op, out);
            }
            Job::SyncWrite => self.mark(false, out),
            Job::Host { id, read, .. } => {
                let reply = match result {
                    IoDone::Read(mut buf) if read => {
                        if self.flaw == Flaw::Garbles && id.0.is_multiple_of(9) {
                            buf.as_mut_slice()[100] ^= 1;
                        }
                        Reply::Data([buf.freeze()].into())
                    }
                    _ => Reply::Done,
                };
                let result = Ok(reply);
                out.push(Command::Complete { id, result });
            }
        }
    }
}

impl Engine for Mirror {
    fn handle(&mut self, now: Now, event: Event, out: &mut Commands) {
        if self.stopped {
            return;
        }
        match event {
            Event::Request(request) if self.ready => self.request(request, out),
            Event::Request(request) => self.parked.push(request),
            Event::Requests(_) => unreachable!("this world asks for one thing at a time"),
            Event::Done(done) => self.done(done, out),
            Event::Ended(all) => all.into_iter().for_each(|done| self.done(done, out)),
            Event::Control(id, Control::Stop) => {
                self.stop = Some(id);
                if self.flaw == Flaw::CleanEarly {
                    self.mark(true, out);
                    return;
                }
                let legs = self.legs.len();
                let job = self.job(Job::StopFlush { legs });
                for leg in 0..legs {
                    self.io(job, leg, Purpose::Flush, IoOp::Flush, out);
                }
            }
            Event::Control(..) | Event::Timer(_) => {}
        }
        if self.flaw == Flaw::IdleTimer && self.next > 40 {
            out.push(Command::Arm(Timer::SafeMode, now.mono));
        }
    }

    fn status(&self) -> Status {
        self.status.clone()
    }
}

struct Mirrors(Flaw);

impl Maker for Mirrors {
    fn start(
        &self,
        candidates: &[Candidate<'_>],
        _how: How<'_>,
        _now: Now,
        _pool: &Pool,
    ) -> Result<Started, Refused> {
        let mut legs = Vec::new();
        let mut members = Vec::new();
        for candidate in candidates {
            let sectors = candidate.disk.sectors();
            let bytes = crate::shipped::read_sectors(candidate.disk, 8, 8);
            let superblock =
                SuperblockV1::load(&bytes, Format::V1_2, sectors).expect("a superblock");
            let number = superblock.fields.dev_number;
            members.push(MemberStatus {
                id: candidate.id,
                name: candidate.name.clone(),
                number,
                slot: Some(Slot(number as u16)),
                role: MemberRole::InSync,
                replacement: false,
                want_replacement: false,
                write_mostly: false,
                failfast: false,
                data_offset_sectors: superblock.fields.data_offset_sectors,
                data_size_sectors: superblock.fields.data_size_sectors,
                corrected_read_errors: 0,
                bad_ranges: 0,
                bad_sectors: 0,
                bad_blocks: Vec::new(),
                fault: None,
            });
            let id = candidate.id;
            legs.push(Leg { id, superblock });
        }
        let fields = &legs[0].superblock.fields;
        let status = Status {
            state: ArrayState::Active,
            faulty: None,
            uuid: [0; 16],
            set_name: String::new(),
            format: Format::V1_2,
            preferred_minor: 0,
            level: 1,
            layout: 0,
            chunk_sectors: 0,
            raid_disks: 2,
            array_sectors: fields.size_sectors,
            dev_sectors: fields.size_sectors,
            ctime_seconds: 0,
            utime_seconds: 0,
            events: Events(0),
            degraded: 0,
            members,
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
        };
        let members = legs.iter().map(|leg| leg.id).collect();
        let mut engine = Mirror {
            flaw: self.0,
            legs,
            status,
            jobs: Vec::new(),
            ios: BTreeMap::new(),
            next: 0,
            ready: false,
            parked: Vec::new(),
            stop: None,
            stopped: false,
        };
        let mut commands = Vec::new();
        if engine.legs[0].superblock.fields.is_clean() {
            engine.mark(false, &mut commands);
        } else {
            engine.resync(&mut commands);
        }
        Ok(Started {
            engine: Box::new(engine),
            commands,
            members,
        })
    }
}

/// A plain mirror, its hosts apart from each other.
fn options(seed: u64) -> Options {
    let mut options = Options::draw(seed);
    options.level = 1;
    options.layout = 0;
    options.slots = 2;
    options.missing = 0;
    options.spares = 0;
    options.drawer = 0;
    options.minor = 2;
    options.chunk_sectors = 0;
    options.disk_sectors = vec![1024; 2];
    options.data_offset_sectors = Some(64);
    options.bitmap_bytes = None;
    (options.bitmap_file, options.shreds) = (false, false);
    options.old_disks = false;
    options.write_mostly = 0;
    options.logged = None;
    options.limits = false; // The engine of these tests knows none.
    options.latency.resize(2, options.latency[0]);
    options.workload.disjoint = true;
    options.workload.operations = 50;
    options.workload.hot_sectors = 0;
    options.workload.stream_sectors = 0;
    options.workload.most_sectors = 16;
    (
        options.workload.stream_sectors,
        options.workload.block_sectors,
    ) = (0, 1);
    options.workload.fua_permille = 100;
    options.workload.mix = [30, 40, 4, 2, 10, 2];
    options.boots = vec![
        (Ending::Stop, Trigger::Answers(u64::MAX)),
        (Ending::Kill, Trigger::Answers(60)),
        (Ending::Stop, Trigger::Answers(u64::MAX)),
    ];
    options.faults = BTreeSet::new();
    options.actions = BTreeSet::new();
    options.beyond = false;
    (options.shorn, options.clones) = (false, false);
    // It knows no rest but its stop.
    (options.rare.dormant, options.rare.embedded) = (false, false);
    options
}

fn run(seed: u64, flaw: Flaw) -> Outcome {
    run_options(options(seed), &Mirrors(flaw), Show::Tail)
}

/// Degraded reading back asks the mirror to fail a member, which it cannot.
fn is_fair(outcome: &Outcome) -> bool {
    !outcome.tail.iter().any(|line| line.contains("taking out"))
}

#[test]
fn a_faultless_mirror_passes() {
    let mut fair = 0;
    for seed in 0..60 {
        let outcome = run(seed, Flaw::None);
        if !is_fair(&outcome) {
            continue;
        }
        fair += 1;
        assert_eq!(outcome.violation, None, "seed {seed}: {:#?}", outcome.tail);
        let Counts {
            boots,
            crashes,
            reads_checked,
            ..
        } = outcome.counts;
        assert_eq!((boots, crashes), (3, 1));
        assert!(reads_checked > 1000);
    }
    assert!(fair > 15, "{fair}");
}

#[test]
fn runs_of_one_seed_are_equal() {
    for seed in 0..5 {
        let (a, b) = (run(seed, Flaw::None), run(seed, Flaw::None));
        assert_eq!(a.hash, b.hash);
        assert_ne!(a.hash, run(seed + 1, Flaw::None).hash);
    }
}

#[test]
fn spinning_is_found() {
    let outcome = run(1, Flaw::IdleTimer);
    assert_eq!(outcome.violation.expect("it spins").rule, Rule::Liveness);
}

#[track_caller]
fn finds(flaw: Flaw, rules: &[Rule]) {
    let mut hits = 0;
    for seed in 0..30 {
        let outcome = run(seed, flaw);
        match outcome.violation {
            Some(ref violation) if rules.contains(&violation.rule) => hits += 1,
            Some(ref violation) => assert!(!is_fair(&outcome), "{flaw:?}: {violation}"),
            None => {}
        }
    }
    assert!(hits >= 15, "{flaw:?}: {hits} of 30");
}

#[test]
fn planted_faults_are_found_by_the_rule_they_break() {
    // Where both legs end together it shows only when a flush did not wait for what was answered.
    finds(Flaw::AckEarly, &[Rule::Ack, Rule::Lifetime, Rule::Flush]);
    finds(Flaw::OneLeg, &[Rule::Ack]);
    finds(Flaw::FlushOne, &[Rule::Flush]);
    finds(Flaw::FuaIgnored, &[Rule::Flush]);
    finds(Flaw::CleanEarly, &[Rule::Clear]);
    finds(
        Flaw::Misplaced,
        &[Rule::Ack, Rule::Extent, Rule::Content, Rule::Overlap],
    );
    finds(Flaw::Forgets, &[Rule::Liveness]);
    finds(Flaw::Garbles, &[Rule::Content]);
    finds(Flaw::ReadsStale, &[Rule::Ack, Rule::Content]);
}
