//! What this node sends: one errand at a time, under the token.
//!
//! ```text
//!   Idle -- errand --> Asked -- Granted --> Settle --> step --> step ... --> Idle
//!     ^                  | queue is empty     |          |
//!     '-- Cancelled -- Cancelling             |      Recheck Write Apply Undo   tasks
//!                                             |      Tell: Order -- Ordered --> Answers
//!              nobody is dead and unfenced, and what the dead wrote was read
//! ```
//!
//! Waiting is a state; the inbox is served in each of them. What was waited behind may have changed
//! the array: so the first step of a wish is to look whether it still holds.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::super::message::{DeviceNumber, Message};
use super::super::rules::Rule;
use super::super::service::{
    AckStatus, Answered, Cannot, Fencing, NodeSlot, Peer, Right, ServiceCommand,
};
use super::super::wait::{Wait, WaitFor};
use super::super::work::{Answer, Blame, Desk, Effect, Failure, Task, Wish, WishId};
use super::script::{Errand, Step, Words};
use super::{Node, Out};
use crate::value::Instant;

#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Sender {
    queue: VecDeque<Errand>,
    turn: Turn,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Turn {
    #[default]
    Idle,
    Asked {
        since: Instant,
    },
    Cancelling {
        since: Instant,
    },
    Held(Box<Job>),
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Job {
    grant: Fencing,
    /// One, or several updates.
    errands: Vec<Errand>,
    step: usize,
    undoing: bool,
    at: At,
    since: Instant,
    good: Option<DeviceNumber>,
    blames: Vec<Blame>,
    /// How many there were before this step.
    blames_before: usize,
    /// Others may know of it, and not all of them.
    begun: bool,
    /// Somebody did not answer while this node is leaving.
    abandoned: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum At {
    Settle,
    Begin,
    Task,
    Order(Message),
    Answers {
        message: Message,
        missing: BTreeMap<NodeSlot, Missing>,
    },
    Over,
}

/// What is missing of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Missing {
    Answer,
    Proof,
}

impl Sender {
    pub(super) fn is_idle(&self) -> bool {
        self.turn == Turn::Idle && self.queue.is_empty()
    }

    /// Whether it waits for what may never come: a proof.
    pub(super) fn is_stuck(&self) -> bool {
        let Turn::Held(job) = &self.turn else {
            return false;
        };
        match &job.at {
            // A handing over waits for nothing before it is told.
            At::Settle => job.first() != Errand::HandOver,
            At::Answers { missing, .. } => {
                let proofs = missing.values().all(|what| *what == Missing::Proof);
                job.abandoned || (proofs && !missing.is_empty())
            }
            _ => false,
        }
    }

    /// Whether some may know of something and others not.
    pub(super) fn is_half_done(&self) -> bool {
        matches!(&self.turn, Turn::Held(job) if job.begun)
    }

    pub(super) fn forget_queue(&mut self) {
        self.queue.clear();
    }

    /// Forgets what of a resync has not begun.
    pub(super) fn forget_resync(&mut self) {
        let of_resync = |errand: &Errand| matches!(errand, Errand::Start | Errand::Window(_));
        self.queue.retain(|errand| !of_resync(errand));
    }

    pub(super) fn push(&mut self, errand: Errand) {
        self.queue.push_back(errand);
    }

    pub(super) fn hand_over(&mut self, _now: Instant) {
        assert!(self.is_idle(), "everything else is over");
        self.queue.push_back(Errand::HandOver);
    }

    pub(super) fn waits(&self) -> Vec<Wait> {
        let wait = |what, since| vec![Wait { what, since }];
        match &self.turn {
            Turn::Idle => Vec::new(),
            Turn::Asked { since } => wait(WaitFor::Right(Right::Token), *since),
            Turn::Cancelling { since } => wait(WaitFor::Cancel(Right::Token), *since),
            Turn::Held(job) => match &job.at {
                At::Order(message) => wait(WaitFor::Place(*message), job.since),
                At::Answers { message, missing } => {
                    let missing = missing.iter();
                    let one = |(slot, what): (&NodeSlot, &Missing)| Wait {
                        what: match what {
                            Missing::Answer => WaitFor::Ack(*slot, *message),
                            Missing::Proof => WaitFor::Proof(*slot),
                        },
                        since: job.since,
                    };
                    missing.map(one).collect()
                }
                // Told as a task, or as a death.
                At::Settle | At::Begin | At::Task | At::Over => Vec::new(),
            },
        }
    }

    pub(super) fn check(&self, tasks: &BTreeMap<Desk, (Instant, &'static str)>) {
        let at_task = matches!(&self.turn, Turn::Held(job) if job.at == At::Task);
        let has_task = tasks.contains_key(&Desk::Turn);
        assert!(!at_task || has_task, "a turn waits for a task nobody has");
        if let Turn::Held(job) = &self.turn {
            assert!(!job.errands.is_empty(), "a turn without an errand");
            let passing = matches!(job.at, At::Begin | At::Over);
            assert!(!passing, "a step was left where nobody comes back to it");
        }
    }

    /// Whether peers are not answered because of what is sent: never, as long as the rules are
    /// kept.
    pub(super) fn is_deaf(&self, keep: impl Fn(Rule) -> bool) -> bool {
        if !matches!(self.turn, Turn::Asked { .. } | Turn::Cancelling { .. }) {
            return false;
        }
        match self.queue.front() {
            Some(Errand::Wish(_, Wish::Update)) => !keep(Rule::D1),
            Some(Errand::Wish(_, Wish::BitmapResize { .. })) => !keep(Rule::D7),
            Some(Errand::Wish(..)) => !keep(Rule::D4),
            Some(_) => !keep(Rule::D3) && self.queue.iter().any(|one| one.is_update()),
            None => false,
        }
    }
}

impl Job {
    fn first(&self) -> Errand {
        self.errands[0]
    }

    fn steps(&self) -> &'static [Step] {
        let script = self.first().script();
        match self.undoing {
            true => script.undo,
            false => script.steps,
        }
    }

    fn wishes(&self) -> Vec<WishId> {
        let errands = self.errands.iter();
        let ids = errands.filter_map(|errand| match errand {
            Errand::Wish(id, _) => Some(*id),
            _ => None,
        });
        ids.collect()
    }

    /// The step has ended: on to the next, or back.
    fn next(&mut self) {
        let failed = self.blames.len() > self.blames_before;
        let script = self.first().script();
        let begun = self.step >= script.begins_at;
        let undo = failed && begun && !self.undoing && self.step < script.decided_at;
        if undo {
            (self.undoing, self.step, self.at) = (true, 0, At::Begin);
        } else if failed && !self.undoing {
            self.at = At::Over;
        } else {
            self.step += 1;
            self.at = match self.step < self.steps().len() {
                true => At::Begin,
                false => At::Over,
            };
        }
        self.blames_before = self.blames.len();
    }
}

impl Node {
    pub(super) fn wish(&mut self, _now: Instant, id: WishId, wish: Wish, out: &mut Out) {
        let coming = self.end().is_none() && !self.lost && !self.is_stopping();
        if coming {
            self.sender.push(Errand::Wish(id, wish));
        } else {
            out.push(Effect::Done(id, Err(Failure::Leaving)));
        }
    }

    /// Answers all wishes: whether anything of them was done is not certain.
    pub(super) fn fail_wishes(&mut self, out: &mut Out) {
        let mut failed: Vec<WishId> = Vec::new();
        let draining = !self.lost && self.phase == super::Phase::Active;
        if let Turn::Held(job) = &self.sender.turn
            && !draining
        {
            failed.extend(job.wishes());
        }
        let queue = self.sender.queue.iter();
        failed.extend(queue.filter_map(|errand| match errand {
            Errand::Wish(id, _) => Some(*id),
            _ => None,
        }));
        let failed = failed.into_iter();
        out.extend(failed.map(|id| Effect::Done(id, Err(Failure::Leaving))));
    }

    pub(super) fn granted(&mut self, now: Instant, right: Right, grant: Fencing, out: &mut Out) {
        if right == Right::Resync {
            return self.resync_granted(grant, out);
        }
        match std::mem::take(&mut self.sender.turn) {
            Turn::Asked { .. } if !self.sender.queue.is_empty() => {
                self.sender.turn = Turn::Held(self.job(now, grant));
            }
            Turn::Asked { .. } | Turn::Cancelling { .. } | Turn::Idle => {
                out.push(Effect::Service(ServiceCommand::Release(right, grant)));
            }
            Turn::Held(_) => panic!("the token was granted twice"),
        }
    }

    fn job(&mut self, now: Instant, grant: Fencing) -> Box<Job> {
        let first = self.sender.queue.pop_front();
        let first = first.expect("somebody wanted the token");
        let mut errands = vec![first];
        if first.is_update() {
            // One write of superblocks tells all that is known.
            let (updates, rest) = std::mem::take(&mut self.sender.queue)
                .into_iter()
                .partition(|errand| errand.is_update());
            let (updates, rest): (Vec<Errand>, Vec<Errand>) = (updates, rest);
            errands.extend(updates);
            self.sender.queue = rest.into();
        }
        Box::new(Job {
            grant,
            errands,
            step: 0,
            undoing: false,
            at: At::Settle,
            since: now,
            good: None,
            blames: Vec::new(),
            blames_before: 0,
            begun: false,
            abandoned: false,
        })
    }

    pub(super) fn cancelled(&mut self, right: Right, out: &mut Out) {
        if matches!(self.phase, super::Phase::Leaving { .. }) {
            return; // It has forgotten what it wanted when it said that it leaves.
        }
        match right {
            Right::Resync => self.resync_cancelled(out),
            Right::Token => {
                let cancelling = matches!(self.sender.turn, Turn::Cancelling { .. });
                assert!(cancelling, "nothing was cancelled");
                self.sender.turn = Turn::Idle;
            }
        }
    }

    pub(super) fn advance_turn(&mut self, now: Instant, out: &mut Out) -> bool {
        match &self.sender.turn {
            Turn::Idle => {
                let hand_over = self.sender.queue.front() == Some(&Errand::HandOver);
                let message = hand_over.then_some(Message::BitmapNeedsSync);
                // Who cannot follow others tells them nothing: it hears them first.
                let waits = self.blind.is_some() && !hand_over;
                if self.sender.queue.is_empty() || waits || !self.may_send(message) {
                    return false;
                }
                self.sender.turn = Turn::Asked { since: now };
                let acquire = ServiceCommand::Acquire(Right::Token);
                out.push(Effect::Service(acquire));
                true
            }
            Turn::Asked { .. } if self.sender.queue.is_empty() => {
                self.sender.turn = Turn::Cancelling { since: now };
                let cancel = ServiceCommand::Cancel(Right::Token);
                out.push(Effect::Service(cancel));
                true
            }
            Turn::Asked { .. } | Turn::Cancelling { .. } => false,
            Turn::Held(_) => self.advance_job(now, out),
        }
    }

    fn advance_job(&mut self, now: Instant, out: &mut Out) -> bool {
        let settled = self.is_settled();
        let Turn::Held(mut job) = std::mem::take(&mut self.sender.turn) else {
            panic!("a job is under way");
        };
        match &job.at {
            At::Settle if settled || job.first() == Errand::HandOver => {
                job.at = At::Begin;
                self.begin_step(now, job, out);
                true
            }
            // What it could not follow is told again by somebody who needs the token for that.
            At::Settle if self.blind.is_some() => {
                let release = ServiceCommand::Release(Right::Token, job.grant);
                out.push(Effect::Service(release));
                for errand in job.errands.into_iter().rev() {
                    self.sender.queue.push_front(errand);
                }
                true
            }
            At::Answers { missing, .. } if missing.is_empty() => {
                job.next();
                self.begin_step(now, job, out);
                true
            }
            _ => {
                self.sender.turn = Turn::Held(job);
                false
            }
        }
    }

    /// Slots that somebody has, or that wait for a recovery.
    fn taken_slots(&self) -> BTreeSet<NodeSlot> {
        let me = self.me.map(|me| me.slot);
        let others = self.peers.keys().chain(self.deaths.keys());
        others.copied().chain(me).collect()
    }

    /// Whether what is on the members is known, and nobody else writes there.
    fn is_settled(&self) -> bool {
        self.unfenced().is_empty() && !self.inbox.is_stale() && self.blind.is_none()
    }

    /// Begins the step that the job has come to, or ends the job.
    fn begin_step(&mut self, now: Instant, mut job: Box<Job>, out: &mut Out) {
        job.since = now;
        if job.at == At::Over {
            return self.end_job(job, out);
        }
        assert!(job.at == At::Begin, "nothing of the step has begun");
        let first = job.first();
        let ids = job.wishes();
        let task = match job.steps()[job.step] {
            Step::Recheck if !self.keep(Rule::Recheck) => {
                job.next();
                return self.begin_step(now, job, out);
            }
            Step::Recheck => Task::Recheck(ids),
            Step::Write => {
                job.begun = true;
                Task::Write(ids)
            }
            Step::Apply => Task::Apply(ids[0]),
            Step::Undo => Task::Undo(ids[0]),
            Step::Vacant => Task::Vacant {
                id: ids[0],
                taken: self.taken_slots(),
            },
            Step::Show => {
                match first {
                    Errand::Wish(_, Wish::Resize { sectors, .. }) => {
                        // In what is added members differ until a resync that begins after this.
                        self.owes |= self.shown_sectors.is_none_or(|shown| shown < sectors);
                        self.resync.does_not_count();
                        self.shown_sectors = Some(sectors);
                    }
                    errand => self.resync.begin_errand(errand),
                }
                if first == Errand::End && self.resync.is_finished() {
                    self.owes = false;
                }
                if self.keep(Rule::ValueFirst) {
                    self.show(out);
                }
                job.next();
                return self.begin_step(now, job, out);
            }
            Step::Close => {
                // Who joins from here on sees it; who joined before is told what is told next.
                self.closed = true;
                self.show(out);
                job.next();
                return self.begin_step(now, job, out);
            }
            Step::Tell(words) => return self.say(now, job, words, out),
        };
        job.at = At::Task;
        self.sender.turn = Turn::Held(job);
        self.task(now, Desk::Turn, task, out);
    }

    fn say(&mut self, now: Instant, mut job: Box<Job>, words: Words, out: &mut Out) {
        let message = job.first().message(words, job.good, self.owes);
        // A handing over that not all have heard is no loss: leaving says the same.
        job.begun |= words != Words::HandOver;
        if matches!(words, Words::NewDisk | Words::ReAdd) {
            // All others wait for this node's resync now: it waits for nobody's.
            self.inbox.waits_for_nobody();
        }
        job.at = At::Order(message);
        out.push(Effect::Service(ServiceCommand::Broadcast {
            grant: job.grant,
            message,
            deadline: now + self.setup.answer_within,
        }));
        self.sender.turn = Turn::Held(job);
    }

    pub(super) fn turn_answered(&mut self, now: Instant, answer: Answer, out: &mut Out) {
        let Turn::Held(mut job) = std::mem::take(&mut self.sender.turn) else {
            panic!("nobody's turn had a task");
        };
        assert!(job.at == At::Task, "a turn had no task");
        match answer {
            Answer::Holds(ids) => {
                let (hold, moot) = job.errands.iter().partition(|errand| match errand {
                    Errand::Wish(id, _) => ids.contains(id),
                    _ => true,
                });
                let moot: Vec<Errand> = moot;
                for errand in moot {
                    if let Errand::Wish(id, _) = errand {
                        out.push(Effect::Done(id, Err(Failure::Moot)));
                    }
                }
                let hold: Vec<Errand> = hold;
                if hold.is_empty() {
                    let grant = job.grant;
                    let release = ServiceCommand::Release(Right::Token, grant);
                    return out.push(Effect::Service(release));
                }
                job.errands = hold;
            }
            Answer::Written(good) => job.good = Some(good),
            Answer::Cannot(why) => self.blame_self(&mut job, why),
            Answer::Done => {}
            other => panic!("{other:?} to a turn"),
        }
        job.next();
        self.begin_step(now, job, out);
    }

    fn blame_self(&self, job: &mut Job, why: Cannot) {
        let node = self.me.expect("a member sends").slot;
        job.blames.push(Blame { node, why });
        if job.undoing {
            // Without a device whose superblock is good there is nothing to tell.
            job.step = job.steps().len();
        }
    }

    pub(super) fn ordered(&mut self, to: BTreeSet<Peer>) {
        let dead: Vec<NodeSlot> = match self.keep(Rule::AwaitFence) {
            true => self.unfenced().into_iter().collect(),
            false => Vec::new(),
        };
        let Turn::Held(job) = &mut self.sender.turn else {
            return; // It has left meanwhile.
        };
        let At::Order(message) = job.at else {
            panic!("a message has one place");
        };
        let answers = to.iter().map(|peer| (peer.slot, Missing::Answer));
        let mut missing: BTreeMap<NodeSlot, Missing> = answers.collect();
        // Who is dead will not hear it, and has to be known to write no more by the old word.
        if job.first() != Errand::HandOver {
            missing.extend(dead.into_iter().map(|slot| (slot, Missing::Proof)));
        }
        job.at = At::Answers { message, missing };
    }

    pub(super) fn acked(&mut self, slot: NodeSlot, how: Answered, out: &mut Out) {
        let stopping = self.is_stopping();
        let peer = self.peers.get(&slot).copied();
        let Turn::Held(job) = &mut self.sender.turn else {
            return;
        };
        let At::Answers { message, missing } = &mut job.at else {
            return;
        };
        if missing.get(&slot) != Some(&Missing::Answer) {
            return;
        }
        match how {
            Answered::Acked(AckStatus::Done) | Answered::Left => {
                missing.remove(&slot);
            }
            Answered::Acked(AckStatus::Cannot(why)) => {
                let blame = Blame { node: slot, why };
                missing.remove(&slot);
                out.push(Effect::Refused(*message, blame));
                job.blames.push(blame);
            }
            Answered::TimedOut if stopping => job.abandoned = true,
            Answered::TimedOut => {
                if let Some(incarnation) = peer {
                    let peer = Peer { slot, incarnation };
                    out.push(Effect::Service(ServiceCommand::Expel(peer)));
                }
            }
        }
    }

    /// A node has died: instead of its answer, a proof is waited for.
    pub(super) fn sender_lost(&mut self, slot: NodeSlot) {
        let keep = self.keep(Rule::AwaitFence);
        if let Turn::Held(job) = &mut self.sender.turn
            && let At::Answers { missing, .. } = &mut job.at
            && missing.contains_key(&slot)
        {
            match keep && job.errands[0] != Errand::HandOver {
                true => missing.insert(slot, Missing::Proof),
                false => missing.remove(&slot),
            };
        }
    }

    /// A node writes no more, or left.
    pub(super) fn sender_freed(&mut self, slot: NodeSlot) {
        if let Turn::Held(job) = &mut self.sender.turn
            && let At::Answers { missing, .. } = &mut job.at
        {
            missing.remove(&slot);
        }
    }

    fn end_job(&mut self, job: Box<Job>, out: &mut Out) {
        let failure = Failure::Nodes(job.blames.clone());
        let result = match job.blames.is_empty() {
            true => Ok(()),
            false => Err(failure.clone()),
        };
        if std::mem::take(&mut self.closed) {
            self.show(out);
        }
        let release = ServiceCommand::Release(Right::Token, job.grant);
        out.push(Effect::Service(release));
        for errand in job.errands {
            match errand {
                Errand::Wish(id, _) => out.push(Effect::Done(id, result.clone())),
                Errand::HandOver => {}
                Errand::Start | Errand::Window(_) | Errand::End => {
                    self.errand_over(errand, result.clone(), out);
                }
            }
        }
    }
}
