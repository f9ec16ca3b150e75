//! The data lane: host requests, and the jobs they are made of.
//!
//! ```text
//!   request --> jobs --(lock)--> plan --> reads --> gate --> member writes --> settle --> answer
//!                                ^  epoch changed, or a read failed   |
//!                                +------------------------------------+
//!
//!   gate: superblocks say active (Active), bits durable (Intent), faults recorded (FaultRecorded)
//! ```
//!
//! Nothing here waits: a job that cannot go on is parked (behind a lock, at the gate, behind writes
//! that lag), and is resumed by the event that removes the reason. A parked job holds no I/O.

mod band;
mod behind;
mod boxes;
mod climb;
mod direct;
mod doubt;
#[cfg(test)]
mod exhaustive;
mod gather;
mod ladder;
mod locks;
mod narrow;
mod others;
mod read;
mod reconstruct;
mod request;
mod service;
mod shift;
mod split;
mod zero;

use std::collections::VecDeque;
use std::sync::Arc;

use umd_format::FaultyLayout;

use boxes::Boxes;
pub use doubt::Doubt;
pub use locks::{Holder, LockId, NOWHERE, RangeLocks};
pub use narrow::Scribe;
pub use others::Others;
pub use request::HostRequest;
pub use shift::Shift;
pub use split::{Piece, fine_middle, member_span, pieces};

use crate::bitmap::Bitmap;
use crate::geometry::Geometry;
use crate::member::{Cover, Epoch, Io, Members, Owner};
use crate::metadata::Metadata;
use crate::personality::faulty::{Faults, FaultyStatus};
use crate::value::{IoDone, IoError, MemberId, RequestError, Rungs, Slab, Slice, UnitId};

/// What a job may look at and use while it is stepped.
pub struct Rig<'a> {
    /// Member I/O.
    pub io: &'a mut Io,
    /// The members, for names.
    pub members: &'a Members,
    /// The current snapshot.
    pub epoch: &'a Arc<Epoch>,
    /// Intents.
    pub bitmap: &'a mut Bitmap,
    /// Activity and faults.
    pub metadata: &'a mut Metadata,
    /// Reach of rebuilds and resync.
    pub cover: &'a Cover,
    /// More members are lost than the level tolerates.
    pub broken: bool,
    /// Members may be written.
    pub writable: bool,
    /// What could not be read may be written anew, unasked: not once an array that comes to rest
    /// has waited for everything that writes.
    pub mends: bool,
}

/// One job. Each kind is a machine of its own, in its own file.
enum Job {
    Doubtful(doubt::Doubtful),
    Read(read::Read),
    Mend(read::Mend),
    Reconstruct(Box<reconstruct::Reconstruct>),
    Direct(Box<direct::Direct>),
    Band(Box<band::Band>),
    Flush(service::Flush),
    Allocation(Box<service::Allocation>),
}

impl Job {
    /// How many requests wait for it. Mending, rewriting what could not be read, and writing to
    /// legs that lag go on when the host has its answer.
    fn parts(&self) -> usize {
        match self {
            Job::Mend(_) => 0,
            Job::Reconstruct(job) => usize::from(!job.is_rewriting()),
            Job::Direct(job) => usize::from(!job.is_answered()),
            Job::Band(job) => job.parts(),
            _ => 1,
        }
    }
}

/// What a step leaves behind.
enum Step {
    /// The job goes on with its I/O, or behind its lock.
    Stay(Job),
    /// The job waits at the gate.
    Gate(Job),
    /// The job is over.
    Over,
}

/// The lane of an array.
pub struct Lane {
    geometry: Arc<Geometry>,
    /// Ranges of member data, shared with the sync machine.
    pub locks: RangeLocks,
    requests: Slab<HostRequest>,
    /// Requests that were answered and have writes that lag.
    lingering: usize,
    behind: behind::Behind,
    jobs: Slab<Option<Job>>,
    bands: Boxes<band::Band>,
    directs: Boxes<direct::Direct>,
    reconstructs: Boxes<reconstruct::Reconstruct>,
    gated: VecDeque<u32>,
    granted: VecDeque<Holder>,
    /// Ranges in doubt that jobs wait for, and jobs that waited long enough.
    doubts: Vec<Doubt>,
    answered: VecDeque<u32>,
    ended: VecDeque<u32>,
    gathering: gather::Gathering,
    /// Requests of which all is over that was begun, and not all was.
    unfinished: Vec<u32>,
    balance: read::Balance,
    zeros: Option<Slice>,
    /// Of level faulty.
    faults: Option<Faults>,
    /// How long writes stood on the rungs of the ladder.
    pub rungs: Rungs,
    /// In a cluster: what other nodes keep this one from.
    others: Option<Box<Others>>,
    /// While the array is reshaped: what lies where by now.
    shift: Option<Shift>,
}

impl Lane {
    /// The lane of an array with this geometry.
    pub fn new(geometry: Arc<Geometry>) -> Lane {
        let balance = read::Balance::new(geometry.raid_disks());
        Lane {
            geometry,
            locks: RangeLocks::default(),
            requests: Slab::default(),
            lingering: 0,
            behind: behind::Behind::default(),
            jobs: Slab::default(),
            bands: Boxes::default(),
            directs: Boxes::default(),
            reconstructs: Boxes::default(),
            gated: VecDeque::new(),
            granted: VecDeque::new(),
            doubts: Vec::new(),
            answered: VecDeque::new(),
            ended: VecDeque::new(),
            gathering: gather::Gathering::default(),
            unfinished: Vec::new(),
            balance,
            zeros: None,
            faults: None,
            rungs: Rungs::default(),
            others: None,
            shift: None,
        }
    }

    /// From here on requests of hosts fail as this layout of level faulty says.
    pub fn pretend(&mut self, layout: FaultyLayout) {
        match &mut self.faults {
            Some(faults) => faults.set(layout),
            none => *none = Some(Faults::new(layout)),
        }
    }

    /// What fails at level faulty.
    pub fn pretended(&self) -> Option<FaultyStatus> {
        self.faults.as_ref().map(Faults::status)
    }

    /// Host requests that are not answered.
    pub fn requests_in_flight(&self) -> usize {
        self.requests.len() - self.lingering
    }

    /// Whether a write is under way between these array sectors.
    pub fn writes_within(&self, start: u64, end: u64) -> bool {
        let mut requests = self.requests.iter();
        requests.any(|(_, request)| request.writes_within(start, end))
    }

    /// Writes that may be answered before write-mostly legs hold them.
    pub fn behind_writes(&self) -> u32 {
        self.behind.outstanding()
    }

    /// From here on no write begins to lag, or they may again.
    pub fn hold_back(&mut self, held_back: bool) {
        self.behind.hold_back(held_back);
    }

    /// Nothing is under way, mending and what lags included.
    pub fn is_idle(&self) -> bool {
        self.requests.is_empty() && self.jobs.is_empty()
    }

    fn add_job(&mut self, rig: &mut Rig<'_>, job: Job) {
        let index = self.jobs.insert(None);
        let step = self.start(rig, index, job);
        self.put_back(index, step);
    }

    fn start(&mut self, rig: &mut Rig<'_>, index: u32, job: Job) -> Step {
        match job {
            Job::Doubtful(_) => unreachable!("a read finds out that it is in doubt"),
            Job::Read(job) => job.start(self, rig, index),
            Job::Mend(job) => job.start(self, rig, index),
            Job::Reconstruct(job) => job.start(self, rig, index),
            Job::Direct(job) => job.start(self, rig, index),
            Job::Band(job) => job.start(self, rig, index),
            Job::Flush(job) => job.start(self, rig, index),
            Job::Allocation(job) => job.start(self, rig, index),
        }
    }

    fn put_back(&mut self, index: u32, step: Step) {
        let job = match step {
            Step::Stay(job) => job,
            Step::Gate(job) => {
                self.gated.push_back(index);
                job
            }
            Step::Over => {
                let place = self.jobs.remove(index);
                assert!(matches!(place, Some(None)), "a job ends by its own step");
                self.gathering.job_ended();
                return;
            }
        };
        let place = self.jobs.get_mut(index);
        let place = place.expect("a job's place is kept while it is stepped");
        assert!(place.is_none(), "a place holds one job");
        *place = Some(job);
    }

    fn take(&mut self, index: u32) -> Job {
        let place = self.jobs.get_mut(index).expect("an I/O belongs to a job");
        place
            .take()
            .expect("a job is stepped by one event at a time")
    }

    /// A member I/O of a job ended.
    pub fn done(
        &mut self,
        rig: &mut Rig<'_>,
        index: u32,
        tag: u32,
        member: MemberId,
        result: Result<IoDone, IoError>,
    ) {
        let step = match self.take(index) {
            Job::Doubtful(_) => unreachable!("a parked job holds no I/O"),
            Job::Read(job) => job.done(self, rig, index, member, result),
            Job::Mend(job) => job.done(self, rig, index, member, result),
            Job::Reconstruct(job) => job.done(self, rig, index, tag, member, result),
            Job::Direct(job) => job.done(self, rig, (index, tag), (member, result)),
            Job::Band(job) => job.done(self, rig, index, tag, member, result),
            Job::Flush(job) => job.done(self, rig, index, member, result),
            Job::Allocation(job) => job.done(self, tag, result),
        };
        self.put_back(index, step);
    }

    /// Asks for a range of member data for a job. `true`: it is held now; otherwise the job is
    /// resumed once it is.
    fn lock(&mut self, index: u32, (start, end): (u64, u64)) -> (LockId, bool) {
        self.locks.acquire(Holder::Job(index), start, end)
    }

    /// Gives a lock back; who waited for it is resumed by the next `resume`.
    pub fn unlock(&mut self, lock: LockId) {
        let granted = self.locks.release(lock);
        self.granted.extend(granted);
    }

    /// Gives up a lock that may just have been granted to this unit, which does not hear of it any
    /// more. It has no other.
    pub fn abandon(&mut self, lock: LockId, unit: UnitId) {
        self.granted.retain(|holder| *holder != Holder::Unit(unit));
        self.unlock(lock);
    }

    /// Resumes jobs whose lock was granted and jobs at the gate. Units that were granted theirs
    /// are returned. `changed` tells whether anything moved.
    pub fn resume(&mut self, rig: &mut Rig<'_>, changed: &mut bool) -> Vec<UnitId> {
        let mut units = Vec::new();
        while let Some(index) = self.answered.pop_front() {
            *changed = true;
            let Job::Doubtful(job) = self.take(index) else {
                unreachable!("only reads are in doubt")
            };
            let step = job.go_on(self, rig, index);
            self.put_back(index, step);
        }
        for index in self.behind.take_ready() {
            *changed = true;
            let step = match self.take(index) {
                Job::Read(job) => job.start_settled(self, rig, index),
                Job::Flush(job) => job.start(self, rig, index),
                _ => unreachable!("only these jobs wait for what lags"),
            };
            self.put_back(index, step);
        }
        while let Some(holder) = self.granted.pop_front() {
            *changed = true;
            match holder {
                Holder::Unit(unit) => units.push(unit),
                Holder::Job(index) => {
                    let step = match self.take(index) {
                        Job::Mend(job) => job.locked(self, rig, index),
                        Job::Reconstruct(job) => job.locked(self, rig, index),
                        Job::Direct(job) => job.locked(self, rig, index),
                        Job::Band(job) => job.locked(self, rig, index),
                        _ => unreachable!("only these jobs lock"),
                    };
                    self.put_back(index, step);
                }
            }
        }
        for _ in 0..self.gated.len() {
            let index = self.gated.pop_front().expect("counted above");
            let waiting = self.gated.len();
            let step = match self.take(index) {
                Job::Direct(job) => job.gate(self, rig, index),
                Job::Band(job) => job.gate(self, rig, index),
                _ => unreachable!("only writes stand at the gate"),
            };
            self.put_back(index, step);
            *changed |= self.gated.len() <= waiting;
        }
        while let Some(index) = self.unfinished.pop() {
            *changed = true;
            self.go_on(rig, index);
        }
        units
    }

    /// What must hold between two events: nobody was forgotten who can go on, and every part of a
    /// request that is not over has its job.
    pub fn check(&self) {
        self.locks.check();
        self.check_held();
        self.behind.check();
        assert!(self.granted.is_empty(), "who was granted a lock goes on");
        assert!(
            self.answered.is_empty(),
            "who is no longer in doubt goes on"
        );
        assert!(self.unfinished.is_empty(), "what was cut short goes on");
        for index in &self.gated {
            let job = self.jobs.get(*index);
            let writes = matches!(job, Some(Some(Job::Direct(_) | Job::Band(_))));
            assert!(writes, "only writes stand at the gate");
        }
        let mut parts = 0;
        let mut reads = 0;
        for (_, job) in self.jobs.iter() {
            let job = job.as_ref().expect("nobody is stepped between events");
            parts += job.parts();
            reads += usize::from(matches!(job, Job::Read(_)));
        }
        let job = |index| self.jobs.get(index).and_then(Option::as_ref);
        let parked = self.behind.waiting().filter_map(job);
        reads -= parked.filter(|job| matches!(job, Job::Read(_))).count();
        assert_eq!(reads, self.balance.in_flight(), "reads that are counted");
        let left = self
            .requests
            .iter()
            .map(|(_, request)| request.parts_left());
        assert_eq!(parts, left.sum::<usize>(), "each part has its job");
        let over = self.requests.iter().filter(|(_, r)| r.parts_left() == 0);
        let known = self.ended.len() + self.lingering;
        assert_eq!(over.count(), known, "what is over is answered");
    }

    fn owner(index: u32, tag: u32) -> Owner {
        Owner::Job { job: index, tag }
    }

    /// Zeros for writes that cannot be handed to the device as such.
    fn zeros(&mut self, io: &Io, len_bytes: usize) -> Slice {
        const MAX: usize = (split::JOB_SECTORS_MAX * 512) as usize;
        assert!(len_bytes <= MAX, "zeros for one job");
        let zeros = self
            .zeros
            .get_or_insert_with(|| io.pool.take_zeroed(MAX).freeze());
        zeros.sub(0..len_bytes)
    }
}

/// Sectors as a length in bytes.
fn bytes(sectors: u64) -> usize {
    usize::try_from(sectors * 512).expect("a job fits memory")
}

/// An I/O error of the array, for the host.
fn eio(why: impl Into<String>) -> RequestError {
    RequestError::Io(why.into())
}
