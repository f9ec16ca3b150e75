//! One node of a clustered array: the owner of all that the cluster knows of it here.
//!
//! ```text
//!   New -- Start --> Joining -- Joined --> Loading -- loaded --> Active
//!                       |                     |                     | Stop
//!                       | Stop, or not loaded |                     v
//!                       '------> Leaving <----'---- HandingOver <-- Draining
//!                                   | Left, or Lost
//!                                   v
//!                                  Over
//!
//!   handle: event -> its machine (door, turn, inbox, recovery, resync)
//!           -> advance all of them, until nothing moves
//! ```
//!
//! Machines do not call each other to wait: each looks at the others' state when it advances. The
//! turn (what is sent) and the inbox (what is received) never exclude each other.

mod door;
mod inbox;
mod recovery;
mod resync;
mod script;
mod turn;

use std::collections::{BTreeMap, BTreeSet};

use super::rules::{Rule, Rules};
use super::service::{
    Cannot, Incarnation, NodeSlot, Peer, ServiceCommand, ServiceEvent, SlotValue,
};
use super::wait::{Wait, WaitFor};
use super::work::{Answer, Desk, Effect, Event, Freeze, Task};
use crate::value::{Instant, Span};
use door::Phase;
use inbox::Inbox;
use recovery::Death;
use resync::Resync;
use turn::Sender;

/// What a node is told at its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Setup {
    /// How many bitmaps the members have (md: `nodes`).
    pub capacity: u16,
    /// The newest version of the protocol to speak.
    pub version: u8,
    /// A peer that has not acknowledged a message by then is expelled.
    pub answer_within: Span,
    /// A disk that another node adds has to be found here in that time.
    pub find_disk_within: Span,
    /// What failed (a fence, a recovery, a reload) is tried again after that time.
    pub retry_after: Span,
    /// A stop waits so long for others, and then leaves its slot to them.
    pub stop_within: Span,
    /// Which rules are kept: all of them.
    pub rules: Rules,
}

impl Setup {
    /// For members with so many bitmaps.
    pub fn new(capacity: u16) -> Setup {
        Setup {
            capacity,
            version: super::message::VERSION,
            answer_within: Span::secs(30),
            find_disk_within: Span::secs(5),
            retry_after: Span::secs(10),
            stop_within: Span::secs(30),
            rules: Rules::ALL,
        }
    }
}

/// How a node ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum End {
    /// It was no member.
    NeverJoined,
    /// It left.
    Left,
    /// Its session ended before it could leave: it will be fenced.
    Lost,
}

/// A node. Plain data: it can be cloned, compared and hashed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Node {
    setup: Setup,
    phase: Phase,
    /// The session ended by itself.
    lost: bool,
    me: Option<Peer>,
    valid_until: Instant,
    peers: BTreeMap<NodeSlot, Incarnation>,
    /// Who is dead and not recovered.
    deaths: BTreeMap<NodeSlot, Death>,
    sender: Sender,
    inbox: Inbox,
    resync: Resync,
    /// Tasks that are not answered, with when they began.
    tasks: BTreeMap<Desk, (Instant, &'static str)>,
    /// Bits of dead nodes are ours and not yet resynced.
    owes: bool,
    /// The same of peers.
    owing: BTreeSet<NodeSlot>,
    /// The size with which the array is shown here.
    shown_sectors: Option<u64>,
    /// The bitmaps of nobody are written: who joins now is not let in.
    closed: bool,
    /// Why superblocks as others left them are not known.
    blind: Option<Cannot>,
    /// A membership is being made.
    prep: bool,
    told_frozen: Option<Freeze>,
    told_read_first: bool,
}

type Out = Vec<Effect>;

impl Node {
    /// One that has not begun.
    pub fn new(setup: Setup) -> Node {
        Node {
            setup,
            phase: Phase::New,
            lost: false,
            me: None,
            valid_until: Instant(u64::MAX),
            peers: BTreeMap::new(),
            deaths: BTreeMap::new(),
            sender: Sender::default(),
            inbox: Inbox::default(),
            resync: Resync::Idle,
            tasks: BTreeMap::new(),
            owes: false,
            owing: BTreeSet::new(),
            shown_sectors: None,
            closed: false,
            blind: None,
            prep: false,
            told_frozen: None,
            told_read_first: false,
        }
    }

    /// The only way in.
    ///
    /// # Panics
    /// When the array answers a task that it was not given.
    pub fn handle(&mut self, now: Instant, event: Event, out: &mut Out) {
        assert!(
            !matches!(self.phase, Phase::Over(_)) || !matches!(event, Event::Answer(..)),
            "over with a task left"
        );
        if now >= self.valid_until && !self.lost {
            self.lose(now, out);
        }
        match event {
            Event::Start => self.start(now, out),
            Event::Stop => self.stop(now, out),
            Event::Service(event) => self.hear(now, event, out),
            Event::Answer(desk, answer) => self.answered(now, desk, answer, out),
            Event::Wish(id, wish) => self.wish(now, id, wish, out),
            Event::Resync(call) => self.call(now, call, out),
            Event::Fenced(proof) => self.proven(proof, out),
            Event::NotFenced(peer) => self.not_proven(now, peer),
            Event::Tick => {}
        }
        while self.advance(now, out) {}
        self.tell(out);
        self.check();
    }

    /// When to come back with [`Event::Tick`] if nothing else happens.
    pub fn next_deadline(&self) -> Option<Instant> {
        let session = (!self.lost && self.me.is_some()).then_some(self.valid_until);
        let deaths = self.deaths.values().filter_map(Death::deadline);
        // What the array has to do goes on, however late it is.
        let phase = self.phase.deadline().filter(|_| self.tasks.is_empty());
        let all = session.into_iter().chain(deaths);
        all.chain(self.inbox.deadline()).chain(phase).min()
    }

    /// Whether the array serves here; writes may wait all the same.
    pub fn is_active(&self) -> bool {
        self.phase == Phase::Active && !self.lost
    }

    /// Whether all is over, and how.
    pub fn end(&self) -> Option<End> {
        match self.phase {
            Phase::Over(end) => Some(end),
            _ => None,
        }
    }

    /// The other members.
    pub fn peers(&self) -> impl Iterator<Item = Peer> + '_ {
        let peers = self.peers.iter();
        peers.map(|(&slot, &incarnation)| Peer { slot, incarnation })
    }

    /// Whether somebody is dead, or left in the middle of something, and its slot is not empty yet.
    pub fn has_unrecovered(&self) -> bool {
        !self.deaths.is_empty()
    }

    /// Why writes wait.
    pub fn frozen(&self) -> Option<&Freeze> {
        self.told_frozen.as_ref()
    }

    /// Who this is, as a member.
    pub fn me(&self) -> Option<Peer> {
        self.me
    }

    /// Whether all reads go to the first good mirror.
    pub fn reads_first(&self) -> bool {
        self.told_read_first
    }

    /// All that is waited for.
    pub fn waits(&self) -> Vec<Wait> {
        let mut waits: Vec<Wait> = self.phase.wait().into_iter().collect();
        let tasks = self.tasks.values();
        waits.extend(tasks.map(|&(since, what)| Wait {
            what: WaitFor::Array(what),
            since,
        }));
        let deaths = self.deaths.iter();
        waits.extend(deaths.filter_map(|(slot, death)| death.wait(*slot)));
        waits.extend(self.sender.waits());
        waits.extend(self.resync.wait());
        waits
    }

    fn keep(&self, rule: Rule) -> bool {
        self.setup.rules.keep(rule)
    }

    /// Gives the array something to do.
    fn task(&mut self, now: Instant, desk: Desk, task: Task, out: &mut Out) {
        let before = self.tasks.insert(desk, (now, task.told()));
        assert!(before.is_none(), "a desk has one task at a time");
        out.push(Effect::Task(desk, task));
    }

    fn answered(&mut self, now: Instant, desk: Desk, answer: Answer, out: &mut Out) {
        let task = self.tasks.remove(&desk);
        assert!(task.is_some(), "an answer to a task that was not given");
        match desk {
            Desk::Door => self.door_answered(now, answer, out),
            _ if self.lost => {}
            Desk::Turn => self.turn_answered(now, answer, out),
            Desk::Inbox => self.inbox_answered(now, answer, out),
            Desk::Recovery(slot) => self.recovery_answered(now, slot, answer, out),
        }
    }

    fn hear(&mut self, now: Instant, event: ServiceEvent, out: &mut Out) {
        let left = matches!(self.phase, Phase::Leaving { left: true, .. });
        if self.lost || left || self.end().is_some() {
            return;
        }
        match event {
            ServiceEvent::Joined(session) => self.joined(now, session, out),
            ServiceEvent::JoinRefused(why) => self.join_refused(why, out),
            ServiceEvent::Renewed(until) => self.valid_until = self.valid_until.max(until),
            ServiceEvent::Lost => self.lose(now, out),
            ServiceEvent::Left => self.left(),
            _ if self.me.is_none() => {} // It did not wait for its session.
            ServiceEvent::Prep => self.prep = true,
            ServiceEvent::Down(peer) => self.down(now, peer, out),
            ServiceEvent::Gone(peer, leave) => self.gone(now, peer, leave),
            ServiceEvent::Done(_, peers) => {
                self.prep = false;
                let peers = peers.into_iter();
                self.peers = peers.map(|peer| (peer.slot, peer.incarnation)).collect();
            }
            ServiceEvent::Granted(right, grant) => self.granted(now, right, grant, out),
            ServiceEvent::Cancelled(right) => self.cancelled(right, out),
            ServiceEvent::Ordered(to) => self.ordered(to),
            ServiceEvent::Answered(slot, how) => self.acked(slot, how, out),
            ServiceEvent::Deliver(id, from, message) => self.deliver(id, from, message),
            ServiceEvent::Fenced(proof) => self.fenced(now, proof),
            ServiceEvent::RecoveryGranted(peer) => self.recovery_granted(now, peer, out),
            ServiceEvent::RecoveryEnded { peer, by, bits } => {
                self.recovery_ended(peer, by, bits);
            }
        }
    }

    /// The session is over. What this node still does to the members ends by being fenced.
    fn lose(&mut self, now: Instant, out: &mut Out) {
        self.lost = true;
        self.fail_wishes(out);
        self.sender = Sender::default();
        self.inbox = Inbox::default();
        self.resync = Resync::Idle;
        self.peers.clear();
        self.deaths.clear();
        self.owing.clear();
        self.lose_door(now, out);
    }

    /// One round over all machines; whether anything moved.
    fn advance(&mut self, now: Instant, out: &mut Out) -> bool {
        if self.end().is_some() {
            return false;
        }
        self.advance_door(now, out)
            || self.advance_inbox(now, out)
            || self.advance_recovery(now, out)
            || self.advance_turn(now, out)
    }

    fn unfenced(&self) -> BTreeSet<NodeSlot> {
        let dead = self.deaths.iter().filter(|(_, death)| death.is_unfenced());
        dead.map(|(slot, _)| *slot).collect()
    }

    /// What others see of this slot.
    fn show(&self, out: &mut Out) {
        let value = SlotValue {
            window: self.resync.shown(),
            owes_resync: self.owes,
            // No array is so large: who reads it takes it for a size that is agreed on.
            shown_sectors: match self.closed {
                true => Some(u64::MAX),
                false => self.shown_sectors,
            },
        };
        out.push(Effect::Service(ServiceCommand::SetValue(value)));
    }

    /// Says what changed for the array's reads and writes.
    fn tell(&mut self, out: &mut Out) {
        if self.end().is_some() {
            return;
        }
        let unfenced = self.unfenced();
        let frozen = match self.blind {
            _ if self.lost => Some(Freeze::Lost),
            _ if !unfenced.is_empty() && self.keep(Rule::Proof) => Some(Freeze::Unfenced(unfenced)),
            Some(why) => Some(Freeze::Blind(why)),
            None => None,
        };
        if frozen != self.told_frozen {
            out.push(Effect::Frozen(frozen.clone()));
            self.told_frozen = frozen;
        }
        let unsure = self.owes || !self.owing.is_empty() || !self.deaths.is_empty();
        let read_first = self.prep || unsure;
        if read_first != self.told_read_first {
            out.push(Effect::ReadFirst(read_first));
            self.told_read_first = read_first;
        }
    }

    /// What holds between any two events.
    fn check(&self) {
        if let Some(me) = self.me {
            assert!(!self.peers.contains_key(&me.slot), "a peer of itself");
        }
        assert!(
            self.end().is_none() || self.tasks.is_empty(),
            "over, and the array is still asked something"
        );
        assert!(
            !self.lost || self.sender.is_idle(),
            "what was lost sends no more"
        );
        self.sender.check(&self.tasks);
    }
}
