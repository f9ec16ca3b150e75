//! Hosts: what they ask for, and what answers are right.

use std::collections::BTreeSet;
use std::ops::Range;

use umd_core::array::{Event, Extent, MemberRole, Reply, Request, RequestError, RequestOp};
use umd_core::value::{RequestId, Slice};

use super::pretend::Wanted;
use super::{Ev, World};
use crate::monitor::{Rule, Scene, Verdict, Violation};
use crate::oracle::{Ended, Issue, Look};
use crate::rng::Rng;
use crate::stamp::{Content, SECTOR, stamp_all};

/// One host.
pub(super) struct Client {
    pub(super) rng: Rng,
    pub(super) left: u64,
}

/// What a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Read,
    Write { fua: bool },
    Trim { fua: bool },
    Flush,
    Allocation,
}

/// A request that was handed over.
#[derive(Debug, Clone)]
pub(super) struct Pending {
    /// Who waits; `None`: the world itself, reading back.
    pub(super) client: Option<u16>,
    pub(super) kind: Kind,
    pub(super) range: Range<u64>,
    /// Tick of the oracle when it began.
    pub(super) began: u64,
    /// The array was read-only at some moment since.
    pub(super) read_only: bool,
    /// What level faulty has to make of it.
    pub(super) wanted: Wanted,
}

impl Pending {
    /// Whether it changes the array.
    pub(super) fn writes(&self) -> bool {
        matches!(self.kind, Kind::Write { .. } | Kind::Trim { .. })
    }
}

/// A request to be made.
pub(crate) struct Plan {
    pub(crate) kind: Kind,
    pub(crate) zero: bool,
    pub(crate) range: Range<u64>,
}

impl World<'_> {
    pub(super) fn client_acts(&mut self, number: u16) -> Verdict {
        let array = self.geometry.array_sectors();
        let workload = self.options.workload.clone();
        let late = self.is_long();
        let client = &mut self.live_mut().clients[usize::from(number)];
        if client.left == 0 {
            self.after(0, Ev::Poll);
            return Ok(());
        }
        client.left -= 1;
        let index = workload.operations - client.left - 1;
        let rng = &mut client.rng;
        let plan = draw(rng, &workload, (number, index), (array, late));
        self.record_host(number, index);
        self.request(Some(number), plan)
    }

    /// Hot spots of large arrays lie at the end, where the bits are not those of the superblock's
    /// sector.
    pub(super) fn is_long(&self) -> bool {
        self.geometry.member_sectors[0] > 16_384
    }

    /// Makes a request of the array.
    pub(super) fn request(&mut self, client: Option<u16>, plan: Plan) -> Verdict {
        self.next_request += 1;
        let number = self.next_request;
        let id = RequestId(number);
        let Plan { kind, zero, range } = self.as_it_will_be_lost(plan);
        let began = self.oracle.began();
        let op = self.operation(number, kind, zero, &range);
        let wanted = self.judge(id, kind, &range);
        if matches!(kind, Kind::Write { .. } | Kind::Trim { .. }) {
            self.wake();
        }
        let live = self.live.as_mut().expect("an array is running");
        if matches!(kind, Kind::Write { .. } | Kind::Trim { .. } | Kind::Flush) {
            live.monitor.note_issued(&self.disks, number);
        }
        let pending = Pending {
            client,
            kind,
            range,
            began,
            read_only: live.read_only,
            wanted,
        };
        live.pending.insert(id, pending);
        self.deliver(Event::Request(Request { id, op }))
    }

    fn operation(&mut self, number: u64, kind: Kind, zero: bool, range: &Range<u64>) -> RequestOp {
        let offset_sectors = range.start;
        let len_sectors = range.end - range.start;
        let issue = |look, weak| Issue {
            range: range.clone(),
            look,
            weak,
        };
        match kind {
            Kind::Read => RequestOp::Read {
                offset_sectors,
                len_sectors: len_sectors as u32,
            },
            Kind::Write { fua } if zero => {
                self.oracle.write_issued(number, issue(Look::Zero, false));
                RequestOp::WriteZeroes {
                    offset_sectors,
                    len_sectors,
                    fua,
                    may_unmap: number.is_multiple_of(2),
                }
            }
            Kind::Write { fua } => {
                self.oracle
                    .write_issued(number, issue(Look::Stamp(number), false));
                let mut buf = self.pool.take(len_sectors as usize * SECTOR);
                stamp_all(buf.as_mut_slice(), offset_sectors, number);
                RequestOp::Write {
                    offset_sectors,
                    data: buf.freeze(),
                    fua,
                }
            }
            Kind::Trim { fua } => {
                self.oracle.write_issued(number, issue(Look::Zero, true));
                RequestOp::Trim {
                    offset_sectors,
                    len_sectors,
                    fua,
                }
            }
            Kind::Flush => {
                self.oracle.flush_issued(number);
                RequestOp::Flush
            }
            Kind::Allocation => RequestOp::Allocation {
                offset_sectors,
                len_sectors,
            },
        }
    }

    pub(super) fn answered(
        &mut self,
        id: RequestId,
        result: Result<Reply, RequestError>,
    ) -> Verdict {
        self.counts.answers += 1;
        let Some(pending) = self.live_mut().pending.remove(&id) else {
            let text = format!("{id:?} was answered and is not pending");
            return Err(Violation::new(Rule::Lifetime, text));
        };
        match result {
            Ok(reply) => {
                self.check_wanted(id, &pending, None)?;
                self.answered_well(id, &pending, reply)?;
            }
            Err(error) => {
                self.check_wanted(id, &pending, Some(&error))?;
                self.answered_badly(id, &pending, &error)?;
            }
        }
        self.oracle.ended(pending.began);
        self.answer_counted(pending.client);
        Ok(())
    }

    fn answered_well(&mut self, id: RequestId, pending: &Pending, reply: Reply) -> Verdict {
        let mismatch = |reply: &Reply| {
            let text = format!("{id:?} {pending:?} was answered with {reply:?}");
            Err(Violation::new(Rule::Content, text))
        };
        match (pending.kind, reply) {
            (Kind::Read, Reply::Data(pieces)) => self.check_read(id, pending, &pieces),
            (Kind::Allocation, Reply::Extents(extents)) => {
                self.check_extents(id, pending, &extents)
            }
            (Kind::Write { fua }, Reply::Done) => {
                let how = if fua { Ended::Durable } else { Ended::Done };
                self.oracle.write_ended(id.0, how);
                let sectors: Vec<u64> = pending.range.clone().collect();
                self.check_vouched(id, &sectors, fua)?;
                self.check_refused(id, &sectors)?;
                self.check_rows(id, &self.alone_in_rows(id, &sectors))
            }
            (Kind::Trim { .. }, Reply::Done) => {
                self.oracle.write_ended(id.0, Ended::Done);
                let sectors: Vec<u64> = pending.range.clone().collect();
                self.check_vouched(id, &sectors, false)
            }
            (Kind::Flush, Reply::Done) => {
                self.let_go_of_unlanded();
                let settled = self.oracle.flush_ended(id.0, true);
                self.check_vouched(id, &settled, true)
            }
            (_, reply) => mismatch(&reply),
        }
    }

    fn check_refused(&self, id: RequestId, sectors: &[u64]) -> Verdict {
        let live = self.live();
        let scene = Scene {
            disks: &self.disks,
            status: &live.status,
            oracle: &self.oracle,
        };
        if self.options.logged.is_none() {
            return Ok(());
        }
        let alone = self.alone_in_rows(id, sectors);
        live.monitor.check_refused(scene, id.0, &alone)?;
        live.monitor
            .check_given_back(scene, id.0, (sectors, &alone))
    }

    /// Those of these sectors that no other request writes beside: what that one has met is not
    /// decided yet.
    pub(super) fn alone_in_rows(&self, id: RequestId, sectors: &[u64]) -> Vec<u64> {
        let live = self.live();
        if !live.monitor.has_refusals() {
            return sectors.to_vec();
        }
        let others = live.pending.iter();
        let others = others.filter(|(other, pending)| **other != id && pending.writes());
        let ranges = others.map(|(_, pending)| pending.range.clone());
        let busy: BTreeSet<u64> = ranges.flat_map(|range| self.pages_of(range)).collect();
        let alone = |at: &u64| self.pages_of(*at..at + 1).is_disjoint(&busy);
        sectors.iter().copied().filter(alone).collect()
    }

    fn check_vouched(&mut self, id: RequestId, sectors: &[u64], durable: bool) -> Verdict {
        let live = self.live.as_mut().expect("an array is running");
        let scene = Scene {
            disks: &self.disks,
            status: &live.status,
            oracle: &self.oracle,
        };
        live.monitor.check_answer(scene, id.0, sectors, durable)
    }

    fn check_read(&mut self, id: RequestId, pending: &Pending, pieces: &[Slice]) -> Verdict {
        let wanted = (pending.range.end - pending.range.start) as usize * SECTOR;
        let found: usize = pieces.iter().map(Slice::len).sum();
        if found != wanted {
            let text = format!("{id:?}: {found} bytes instead of {wanted}");
            return Err(Violation::new(Rule::Content, text));
        }
        let (began, first) = (pending.began, pending.range.start);
        let mut slices: Vec<&[u8]> = pieces.iter().map(Slice::as_slice).collect();
        let whole;
        if slices.iter().any(|piece| piece.len() % SECTOR != 0) {
            // A sector is judged in one piece.
            whole = slices.concat();
            slices = vec![&whole];
        }
        let fixed = pending.read_only || self.live().read_only;
        let read = match fixed && self.geometry.level > 0 {
            true => self.oracle.read_ended_undecided(began, first, &slices),
            false => self.oracle.read_ended(began, first, &slices),
        };
        read.map_err(|wrong| Violation::new(Rule::Content, format!("{id:?}: {wrong}")))
    }

    fn check_extents(&mut self, id: RequestId, pending: &Pending, extents: &[Extent]) -> Verdict {
        let total: u64 = extents.iter().map(|extent| extent.len_sectors).sum();
        let asked = pending.range.end - pending.range.start;
        if total == 0 || total > asked || extents.iter().any(|extent| extent.len_sectors == 0) {
            let text = format!("{id:?}: extents {extents:?} for {asked} sectors");
            return Err(Violation::new(Rule::Content, text));
        }
        let mut at = pending.range.start;
        for extent in extents {
            let run = at..at + extent.len_sectors;
            at = run.end;
            if extent.data {
                continue;
            }
            for sector in run {
                if !self.oracle.may_read(pending.began, sector, Content::Zero) {
                    let text = format!("{id:?}: sector {sector} is called a hole and is not");
                    return Err(Violation::new(Rule::Content, text));
                }
            }
        }
        Ok(())
    }

    fn answered_badly(
        &mut self,
        id: RequestId,
        pending: &Pending,
        error: &RequestError,
    ) -> Verdict {
        let stopping = self.live().phase.is_stopping();
        let refused = matches!(error, RequestError::ReadOnly | RequestError::Stopping);
        let live = self.live();
        // Its slot may be taken by who was to replace it.
        let mut members = live.status.members.iter();
        let faulty = members.any(|m| m.role == MemberRole::Faulty);
        let lost = live.status.degraded > 0 || faulty;
        let secret = lost && pending.read_only && pending.kind == Kind::Flush;
        let legal = match error {
            // What a member forgot that failed is not on record while nothing is written.
            RequestError::Io(_) if secret => true,
            RequestError::Io(_) => self.atlas.exceeded() || pending.wanted != Wanted::Served,
            RequestError::ReadOnly => pending.read_only,
            RequestError::Stopping => stopping,
            RequestError::OutOfRange => false,
        };
        match pending.kind {
            Kind::Write { .. } | Kind::Trim { .. } => {
                let how = match pending.wanted {
                    _ if refused => Ended::Refused,
                    Wanted::Refused => Ended::Refused,
                    // It has reached the disk all the same.
                    Wanted::Fails if !self.atlas.exceeded() => Ended::Done,
                    _ => Ended::Failed,
                };
                self.oracle.write_ended(id.0, how);
                if !refused {
                    // Of its rows nobody knows which columns it has reached.
                    self.open_holes(self.pages_of(pending.range.clone()));
                }
            }
            Kind::Flush => {
                self.oracle.flush_ended(id.0, false);
            }
            Kind::Read | Kind::Allocation => {}
        }
        if legal {
            return Ok(());
        }
        let text = format!("{id:?} {pending:?} failed: {error}; {}", self.dump());
        Err(Violation::new(Rule::Error, text))
    }

    fn answer_counted(&mut self, client: Option<u16>) {
        self.live_mut().answers += 1;
        self.trigger_by_answers();
        let Some(number) = client else {
            self.after(0, Ev::Poll);
            return;
        };
        if self.program.is_some() {
            self.after(0, Ev::Poll);
            return;
        }
        let workload = &self.options.workload;
        let (think, nap) = (workload.think_ns, workload.nap_permille);
        let live = self.live.as_mut().expect("an array is running");
        let client = &mut live.clients[usize::from(number)];
        let pause = draw_pause(&mut client.rng, think, nap);
        self.after(pause, Ev::Client(number));
    }
}

fn draw_pause(rng: &mut Rng, think_ns: u64, nap_permille: u64) -> u64 {
    let mut pause = if think_ns == 0 {
        0
    } else {
        rng.spread(think_ns)
    };
    if rng.permille(nap_permille) {
        pause += rng.spread(3_000_000_000);
    }
    pause
}

/// What a client asks for with its operation of this number.
pub(super) fn plan_of(
    mut rng: Rng,
    workload: &crate::options::Workload,
    number: u16,
    index: u64,
    array: (u64, bool),
) -> Plan {
    for earlier in 0..index {
        draw(&mut rng, workload, (number, earlier), array);
        draw_pause(&mut rng, workload.think_ns, workload.nap_permille);
    }
    draw(&mut rng, workload, (number, index), array)
}

fn draw(
    rng: &mut Rng,
    workload: &crate::options::Workload,
    (number, index): (u16, u64),
    (array_sectors, late): (u64, bool),
) -> Plan {
    let fua = rng.permille(workload.fua_permille);
    let (kind, zero) = match rng.weighted(&workload.mix) {
        0 => (Kind::Read, false),
        1 => (Kind::Write { fua }, false),
        2 => (Kind::Write { fua }, true),
        3 => (Kind::Trim { fua }, false),
        4 => (Kind::Flush, false),
        _ => (Kind::Allocation, false),
    };
    let clients = u64::from(workload.clients);
    let part = array_sectors / clients;
    let part = part - part % workload.block_sectors;
    let (start, len) = match workload.disjoint {
        true => (u64::from(number) * part, part),
        false => (0, array_sectors),
    };
    let hot = match workload.hot_sectors {
        0 => len,
        hot => len.min(hot),
    };
    let start = if late { start + len - hot } else { start };
    let len = hot;
    let align = workload.align_sectors;
    let room = len / align;
    let most = (workload.most_sectors / align).clamp(1, room.max(1));
    let count = rng.range(1, most);
    let first = rng.below(room.max(1) - count.min(room.max(1)) + 1);
    let from = start + first * align;
    let end = (from + count * align).min(array_sectors);
    let range = match workload.stream_sectors {
        unit if unit > 0 && unit <= array_sectors => {
            let piece = index * clients + u64::from(number);
            let first = piece % (array_sectors / unit) * unit;
            first..first + unit
        }
        _ if from < end => from..end,
        _ => 0..workload.block_sectors,
    };
    Plan { kind, zero, range }
}
