//! Host requests: admitted once, answered once.

use smallvec::SmallVec;

use super::climb::Climb;
use super::split::{self, BandRanges, bands, member_span, only_piece, pieces, pieces_from};
use super::zero::{ZeroWish, Zeroes};
use super::{Job, Lane, Rig, direct, eio, read, service};
use crate::bitmap::{Intent, Ticket};
use crate::geometry::{Geometry, Raid456};
use crate::member::Held;
use crate::metadata::{Active, FaultRecorded};
use crate::personality::faulty::Verdict;
use crate::value::{
    Command, Exhibit, Extent, Instant, Reply, Request, RequestError, RequestId, RequestOp, Rung,
    Slice, Slices,
};

/// What the answer will be.
#[derive(Debug)]
enum Answer {
    /// Parts in the order they came in, each with its first array sector.
    Data(SmallVec<[(u64, Slice); 1]>),
    Extents(Vec<Extent>),
    Done,
}

/// One request under way.
#[derive(Debug)]
pub struct HostRequest {
    id: RequestId,
    /// `None` once it was given.
    answer: Option<Answer>,
    /// Writes and flushes are not answered while a fault is unrecorded.
    waits_for_faults: bool,
    pub(super) fua: bool,
    parts_left: usize,
    error: Option<RequestError>,
    /// A member I/O of this request failed.
    pub(super) met_fault: bool,
    /// Parts that are over for the host, and go on (see `behind`).
    lagging: usize,
    active: Option<Active>,
    ticket: Option<Ticket>,
    intent: Option<Intent>,
    /// What is to be zeroed when all that was begun is over.
    zeroes: Option<Zeroes>,
    /// The array sectors that it writes: first, and how many.
    span: Option<(u64, u64)>,
    climb: Climb,
}

/// What the gate says to a job of a request.
pub(super) enum Gate {
    Open(FaultRecorded),
    Wait,
    Refuse(RequestError),
}

impl HostRequest {
    fn new(id: RequestId, answer: Answer) -> HostRequest {
        HostRequest {
            id,
            answer: Some(answer),
            waits_for_faults: false,
            fua: false,
            parts_left: 0,
            error: None,
            met_fault: false,
            lagging: 0,
            active: None,
            ticket: None,
            intent: None,
            zeroes: None,
            span: None,
            climb: Climb::default(),
        }
    }

    /// Whether it writes between these array sectors.
    pub(super) fn writes_within(&self, start: u64, end: u64) -> bool {
        let span = self.span.map(|(from, len)| (from, from + len));
        start < end && span.is_some_and(|(from, to)| from < end && start < to)
    }

    /// Parts that are not over.
    pub(super) fn parts_left(&self) -> usize {
        self.parts_left
    }

    /// The tokens, once the gate was open.
    pub(super) fn tokens(&self) -> (&Active, &Intent) {
        let active = self.active.as_ref().expect("the gate was open");
        (active, self.intent.as_ref().expect("the gate was open"))
    }
}

/// The bands of a write.
fn touched(rig: &Rig<'_>, map: &Raid456, offset: u64, len: u64) -> BandRanges {
    let mut bands = bands(map, offset, len);
    // M37 (linux-raid 2022-07-07): the set of stripes to do had room for those of an aligned
    // request; an unaligned one of the largest size touches one more, which was forgotten.
    let too_many = bands.len() > 1 && len >= 64 && !offset.is_multiple_of(8);
    if too_many && rig.io.museum.on(Exhibit::M37) {
        bands.pop();
    }
    bands
}

/// The pieces of a read in order; together they are one run of sectors.
fn joined(mut pieces: SmallVec<[(u64, Slice); 1]>) -> Slices {
    if pieces.len() == 1
        && let Some((_, data)) = pieces.pop()
    {
        return SmallVec::from_buf([data]);
    }
    pieces.sort_by_key(|(sector, _)| *sector);
    for pair in pieces.windows(2) {
        let end = pair[0].0 + (pair[0].1.len() / 512) as u64;
        assert_eq!(end, pair[1].0, "the pieces of a read lie side by side");
    }
    pieces.into_iter().map(|(_, data)| data).collect()
}

impl Lane {
    /// Admits a host request whose range was checked, and which came then.
    pub fn admit(&mut self, rig: &mut Rig<'_>, came: Instant, request: Request) {
        let fault = match self.judge(&request.op) {
            Verdict::Served => None,
            Verdict::Fails(why) => Some(why),
            Verdict::Refused(why) => {
                rig.io.out.push(Command::Complete {
                    id: request.id,
                    result: Err(eio(why)),
                });
                return;
            }
        };
        if request.op.is_write() {
            self.rungs.left(Rung::Admit, came, rig.io.now().mono);
        }
        let index = self.admit_served(rig, request);
        if let Some(why) = fault {
            let request = self.requests.get_mut(index);
            request.expect("just admitted").error = Some(eio(why));
        }
    }

    /// What level faulty makes of a request.
    fn judge(&mut self, op: &RequestOp) -> Verdict {
        let Some(faults) = &mut self.faults else {
            return Verdict::Served;
        };
        match op.extent() {
            Some((offset, len)) if op.is_write() => faults.write(offset, len),
            Some((offset, len)) if matches!(op, RequestOp::Read { .. }) => faults.read(offset, len),
            _ => Verdict::Served,
        }
    }

    fn admit_served(&mut self, rig: &mut Rig<'_>, request: Request) -> u32 {
        let Request { id, op } = request;
        match op {
            RequestOp::Read {
                offset_sectors,
                len_sectors,
            } => self.admit_read(rig, id, offset_sectors, u64::from(len_sectors)),
            RequestOp::Write {
                offset_sectors,
                data,
                fua,
            } => self.admit_write(rig, id, offset_sectors, data, fua),
            RequestOp::WriteZeroes {
                offset_sectors,
                len_sectors,
                fua,
                may_unmap,
            } => {
                let wish = ZeroWish {
                    exact: true,
                    may_unmap,
                };
                self.admit_zeroes(rig, id, (offset_sectors, len_sectors), fua, wish)
            }
            RequestOp::Trim {
                offset_sectors,
                len_sectors,
                fua,
            } => {
                let wish = ZeroWish {
                    exact: false,
                    may_unmap: true,
                };
                self.admit_zeroes(rig, id, (offset_sectors, len_sectors), fua, wish)
            }
            RequestOp::Flush => self.admit_flush(rig, id),
            RequestOp::Allocation {
                offset_sectors,
                len_sectors,
            } => {
                let index = self
                    .requests
                    .insert(HostRequest::new(id, Answer::Extents(Vec::new())));
                let job = service::Allocation::new(self, index, offset_sectors, len_sectors);
                let job = Job::Allocation(Box::new(job));
                self.begin(rig, index, std::iter::once(job));
                index
            }
        }
    }

    fn begin(&mut self, rig: &mut Rig<'_>, index: u32, jobs: impl ExactSizeIterator<Item = Job>) {
        self.begin_parts(index, jobs.len());
        for job in jobs {
            self.add_job(rig, job);
        }
    }

    /// A request is over when so many parts are.
    pub(super) fn begin_parts(&mut self, index: u32, parts: usize) {
        let request = self.requests.get_mut(index).expect("just admitted");
        assert_eq!(request.parts_left, 0, "a request begins once");
        request.parts_left = parts;
        if parts == 0 {
            self.ended.push_back(index);
        }
    }

    fn admit_read(&mut self, rig: &mut Rig<'_>, id: RequestId, offset: u64, len: u64) -> u32 {
        if let Some(piece) = only_piece(&self.geometry, offset, len) {
            let answer = Answer::Data(SmallVec::new());
            let index = self.requests.insert(HostRequest::new(id, answer));
            self.begin_parts(index, 1);
            self.add_job(rig, Job::Read(read::Read::new(index, piece)));
            return index;
        }
        let pieces = pieces(&self.geometry, offset, len);
        let answer = Answer::Data(SmallVec::with_capacity(pieces.len()));
        let index = self.requests.insert(HostRequest::new(id, answer));
        let jobs = pieces
            .into_iter()
            .map(|piece| Job::Read(read::Read::new(index, piece)));
        self.begin(rig, index, jobs);
        index
    }

    fn new_write(&mut self, rig: &mut Rig<'_>, id: RequestId, span: (u64, u64), fua: bool) -> u32 {
        let mut request = HostRequest::new(id, Answer::Done);
        request.fua = fua;
        request.waits_for_faults = true;
        request.span = Some(span);
        request.active = rig.metadata.admit();
        let (start, len) = member_span(&self.geometry, span.0, span.1);
        let ticket = rig.bitmap.join(start, len);
        match rig.bitmap.redeem(ticket) {
            Ok(intent) => request.intent = Some(intent),
            Err(ticket) => request.ticket = Some(ticket),
        }
        self.requests.insert(request)
    }

    fn admit_write(
        &mut self,
        rig: &mut Rig<'_>,
        id: RequestId,
        offset: u64,
        data: Slice,
        fua: bool,
    ) -> u32 {
        let len = (data.len() / 512) as u64;
        let index = self.new_write(rig, id, (offset, len), fua);
        let geometry = self.geometry.clone();
        if let Geometry::Parity(map) = &*geometry {
            let bands = touched(rig, map, offset, len);
            self.admit_bands(rig, map, index, (offset, &data), bands);
            return index;
        }
        if let Some(piece) = only_piece(&geometry, offset, len) {
            self.begin_parts(index, 1);
            let mut job = self.directs.empty();
            job.begin(index, piece, direct::Payload::Data(data));
            self.add_job(rig, Job::Direct(job));
            return index;
        }
        let pieces = pieces(&geometry, offset, len);
        self.begin_parts(index, pieces.len());
        for piece in pieces {
            let from = super::bytes(piece.array_sectors - offset);
            let part = data.sub(from..from + super::bytes(piece.len_sectors));
            let payload = direct::Payload::Data(part);
            let mut job = self.directs.empty();
            job.begin(index, piece, payload);
            self.add_job(rig, Job::Direct(job));
        }
        index
    }

    fn admit_zeroes(
        &mut self,
        rig: &mut Rig<'_>,
        id: RequestId,
        span: (u64, u64),
        fua: bool,
        wish: ZeroWish,
    ) -> u32 {
        let index = self.new_write(rig, id, span, fua);
        let request = self.requests.get_mut(index).expect("just admitted");
        request.zeroes = Some(Zeroes::new(span, wish));
        self.go_on(rig, index);
        index
    }

    /// Begins what comes next of a request that zeroes; what was begun is over.
    pub(super) fn go_on(&mut self, rig: &mut Rig<'_>, index: u32) {
        let request = self.requests.get_mut(index).expect("it is not answered");
        let mut zeroes = request.zeroes.take().expect("only zeroing is cut short");
        let jobs = zeroes.next(self, rig, index);
        let request = self.requests.get_mut(index).expect("it is not answered");
        request.zeroes = Some(zeroes).filter(|zeroes| !zeroes.is_over());
        self.begin(rig, index, jobs.into_iter());
    }

    fn admit_flush(&mut self, rig: &mut Rig<'_>, id: RequestId) -> u32 {
        let mut request = HostRequest::new(id, Answer::Done);
        request.waits_for_faults = true;
        let index = self.requests.insert(request);
        let flush = Job::Flush(service::Flush::new(index));
        self.begin(rig, index, std::iter::once(flush));
        index
    }

    /// Whether a job of this request may write to members now.
    pub(super) fn gate(&mut self, rig: &mut Rig<'_>, index: u32) -> Gate {
        if rig.broken {
            return Gate::Refuse(eio("too many members are lost, writes are refused"));
        }
        if self.is_unrecordable(rig) {
            let why = "this node leaves the cluster before a failure could be recorded";
            return Gate::Refuse(eio(why));
        }
        let request = self.requests.get_mut(index).expect("a job has its request");
        assert!(rig.writable, "no write is under way in a read-only array");
        let marked = (request.ticket.is_some(), request.intent.is_some());
        assert!(marked.0 != marked.1, "bits are waited for, or there");
        if request.active.is_none() {
            request.active = rig.metadata.admit();
        }
        if let Some(ticket) = request.ticket.take() {
            match rig.bitmap.redeem(ticket) {
                Ok(intent) => request.intent = Some(intent),
                Err(ticket) => request.ticket = Some(ticket),
            }
        }
        let never = |others: &super::Others| others.leaving && others.bits_held;
        if request.ticket.is_some() && self.others.as_deref().is_some_and(never) {
            return Gate::Refuse(RequestError::Stopping);
        }
        // Who fails in this very event is not noted as failed yet.
        let recorded = rig.metadata.fault_recorded();
        let recorded = recorded.filter(|_| rig.io.effects.is_empty());
        let marked = (request.active.is_some(), request.intent.is_some());
        let there = [marked.0, marked.1, recorded.is_some()];
        let now = rig.io.now().mono;
        request.climb.at_gate(now, there, &mut self.rungs);
        match recorded {
            Some(recorded) if marked == (true, true) => match &self.others {
                Some(others) => others.word(request.span, recorded),
                None => Gate::Open(recorded),
            },
            _ => Gate::Wait,
        }
    }

    /// A part of a request is over.
    pub(super) fn part_over(&mut self, index: u32, result: Result<(), RequestError>) {
        let request = self.requests.get_mut(index).expect("a job has its request");
        assert!(request.parts_left > 0, "more parts ended than begun");
        request.parts_left -= 1;
        if let Err(error) = result {
            request.error.get_or_insert(error);
        }
        if request.parts_left > 0 {
            return;
        }
        match request.zeroes.is_some() && request.error.is_none() {
            true => self.unfinished.push(index),
            false => self.ended.push_back(index),
        }
    }

    /// A request is not answered while a fault is unrecorded.
    pub(super) fn wait_for_faults(&mut self, index: u32) {
        let request = self.requests.get_mut(index).expect("a job has its request");
        request.waits_for_faults = true;
    }

    /// A piece of a read is there.
    pub(super) fn piece_read(&mut self, index: u32, array_sectors: u64, data: Slice) {
        let request = self.requests.get_mut(index).expect("a job has its request");
        let Some(Answer::Data(pieces)) = &mut request.answer else {
            unreachable!("a read")
        };
        pieces.push((array_sectors, data));
        self.part_over(index, Ok(()));
    }

    /// A part of a request is done in two parts instead: their jobs begin now.
    pub(super) fn part_split(&mut self, rig: &mut Rig<'_>, index: u32, halves: [Job; 2]) {
        self.parts_split(rig, &[index], halves);
    }

    /// The same for a part that several requests share.
    pub(super) fn parts_split(&mut self, rig: &mut Rig<'_>, requests: &[u32], halves: [Job; 2]) {
        for index in requests {
            let request = self.requests.get_mut(*index);
            let request = request.expect("a job has its request");
            assert!(request.parts_left > 0, "what is over is not split");
            request.parts_left += 1;
        }
        for half in halves {
            self.add_job(rig, half);
        }
    }

    /// A part is over for the host; its job goes on until `landed`.
    pub(super) fn part_lags(&mut self, index: u32) {
        let request = self.requests.get_mut(index).expect("a job has its request");
        request.lagging += 1;
        self.part_over(index, Ok(()));
    }

    /// A part that lagged is over. With the last one of an answered request its tokens go back.
    pub(super) fn landed(&mut self, rig: &mut Rig<'_>, index: u32) {
        let request = self.requests.get_mut(index).expect("a job has its request");
        assert!(request.lagging > 0, "more landed than lagged");
        request.lagging -= 1;
        // Before its answer it stands among those that are over, and `settle` does the rest.
        if request.answer.is_some() || request.lagging > 0 {
            return;
        }
        assert!(self.lingering > 0, "an answered request lingers");
        self.lingering -= 1;
        request.retire(rig);
        self.requests.discard(index);
    }

    /// The extents of an allocation query.
    pub(super) fn extents_found(&mut self, index: u32, found: Vec<Extent>) {
        let request = self.requests.get_mut(index).expect("a job has its request");
        assert!(!found.is_empty(), "an answer says something");
        request.answer = Some(Answer::Extents(found));
        self.part_over(index, Ok(()));
    }

    /// Answers requests that are over. Nothing that changed the array is acknowledged while a
    /// fault is known and not yet recorded. Returns whether anything was answered.
    pub fn settle(&mut self, rig: &mut Rig<'_>) -> bool {
        if self.ended.is_empty() {
            return false;
        }
        // M10 (55ce74d4bfe1): a write was answered before the failure it had met was on the disks.
        // What was bad on a member until it was written is bad again after a crash, until its log
        // says otherwise.
        let owed = rig.io.bad.is_owed() && !rig.io.museum.on(Exhibit::U40);
        // Who leaves records nothing any more: see `answer`.
        let unrecorded = self.is_unrecordable(rig);
        let hold = (rig.metadata.fault_pending() || owed)
            && !unrecorded
            && !rig.broken
            && rig.writable
            && !rig.io.museum.on(Exhibit::M10);
        let asks = rig.io.bad.is_any() && self.shift.is_none();
        let now = rig.io.now().mono;
        let mut changed = false;
        for _ in 0..self.ended.len() {
            let index = self.ended.pop_front().expect("as many as there were");
            let request = self.requests.get_mut(index).expect("ended once");
            request.climb.ended(now);
            if hold && request.waits_for_faults {
                self.ended.push_back(index);
                continue;
            }
            if let Some(span) = request.span.filter(|_| asks)
                && !is_held(&self.geometry, rig, span)
            {
                let why = "members refused what was written, and no others hold it";
                request.error.get_or_insert(eio(why));
            }
            if unrecorded && request.waits_for_faults {
                let why = "this node left the cluster before a failure was recorded";
                request.error.get_or_insert(eio(why));
            }
            request.answer(rig);
            if request.span.is_some() {
                request.climb.answered(now, &mut self.rungs);
            }
            changed = true;
            if request.lagging > 0 {
                self.lingering += 1;
                continue;
            }
            request.retire(rig);
            self.requests.discard(index);
        }
        changed
    }
}

/// Whether each of these array sectors can be read from members in sync, those left out that are
/// bad somewhere. Asked when a write is answered: who held it when it was written may have failed
/// since, beside a member that had refused some of it.
fn is_held(geometry: &Geometry, rig: &Rig<'_>, (start, len): (u64, u64)) -> bool {
    // U43: a member that had failed meanwhile was the only one to hold it.
    if !geometry.is_redundant() || rig.io.museum.on(Exhibit::U43) {
        return true;
    }
    let held = Held {
        epoch: rig.epoch,
        bad: &rig.io.bad,
        except: None,
    };
    let mut pieces = pieces_from(geometry, start, start + len, split::JOB_SECTORS_MAX);
    pieces.all(|piece| {
        let place = match geometry.is_mirror() {
            true => {
                let first = geometry.copies(piece.array_sectors)[0];
                (first.slot, first.member_sectors)
            }
            false => (piece.slot, piece.member_sectors),
        };
        held.anyhow(geometry, place, piece.len_sectors)
    })
}

impl HostRequest {
    fn answer(&mut self, rig: &mut Rig<'_>) {
        assert_eq!(self.parts_left, 0, "answered when all of it is over");
        // A broken array records nothing any more: what it lost is not known to its members, so
        // no change is acknowledged from here on, not even one that went well.
        // U10: what went well on the members that were left was acknowledged. M13: see direct.rs.
        let shown = rig.io.museum.on(Exhibit::U10) || rig.io.museum.on(Exhibit::M13);
        let lost = rig.broken && self.waits_for_faults && !shown;
        let error = self
            .error
            .take()
            .or_else(|| lost.then(|| eio("the array lost too many members")));
        let answer = self.answer.take().expect("answered once");
        let result = match error {
            Some(error) => Err(error),
            None => Ok(match answer {
                Answer::Data(pieces) => Reply::Data(joined(pieces)),
                Answer::Extents(found) => Reply::Extents(found),
                Answer::Done => Reply::Done,
            }),
        };
        rig.io.out.push(Command::Complete {
            id: self.id,
            result,
        });
    }

    /// Nothing of it is under way: superblocks need not say active for it, nor its bits be set.
    fn retire(&mut self, rig: &mut Rig<'_>) {
        let now = rig.io.now().mono;
        assert_eq!(self.lagging, 0, "what lags keeps its tokens");
        if let Some(active) = self.active.take() {
            rig.metadata.retire(active, now);
        }
        if let Some(intent) = self.intent.take() {
            rig.bitmap.retire(intent);
        }
        if let Some(ticket) = self.ticket.take() {
            rig.bitmap.abandon(ticket);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever has a range suspended must not be told that it is at rest while it is written.
    #[test]
    fn a_write_is_within_what_it_shares_a_sector_with() {
        let mut request = HostRequest::new(RequestId(1), Answer::Done);
        assert!(!request.writes_within(0, u64::MAX), "a read, or a flush");
        request.span = Some((16, 8));
        for (start, end, shared) in [
            (0, 15, false),
            (0, 16, false),
            (0, 17, true),
            (17, 18, true),
            (16, 24, true),
            (23, 99, true),
            (24, 99, false),
            (25, 99, false),
            (20, 20, false),
            (22, 18, false),
        ] {
            assert_eq!(request.writes_within(start, end), shared, "{start}..{end}");
        }
    }
}
