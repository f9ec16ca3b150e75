//! The lock service: what an engine gives a clustered array, as plain data.
//!
//! ```text
//!   Join ------------> Joined(Session) | JoinRefused
//!   Acquire(right) --> Granted(right, fencing)          Cancel --> Cancelled | Granted came first
//!   Broadcast -------> Ordered{to} --> Answered{by}...  one for each of `to`, unless Down or Gone
//!                      Deliver at each of `to` --> Ack
//!   RecordFence -----> Fenced, to every member
//!   BeginRecovery ---> RecoveryGranted, to one at a time --> EndRecovery --> RecoveryEnded, to all
//!   Leave -----------> Left; Gone to the others
//!   (by itself)        Renewed, Lost, Prep, Down, Done
//! ```
//!
//! What an engine promises (in-process, etcd and corosync can all be built behind it):
//!
//! 1. **One order.** A node gets its events in one order, and `Down`, `Gone`, `Done`, `Fenced`,
//!    `RecoveryEnded` and `Deliver` come in the same order to all. The addressees of a broadcast
//!    are the members at its place in that order, without the sender.
//! 2. **Sessions.** A slot has one owner. An incarnation is never used twice. The slot of an owner
//!    that did not leave clean is given to nobody until its recovery was recorded as done; what the
//!    engine cannot remember it counts as not recovered.
//! 3. **Time.** `valid_until` is on the node's own monotonic clock, and earlier than the moment at
//!    which the service would let others know. A node that has passed it does nothing more,
//!    whatever it still hears.
//! 4. **Rights.** `Fencing` numbers of a right only grow. What a node that is down held is granted
//!    again only after everybody was told that it is down. A broadcast with a number that is not
//!    the token's newest is dropped. After `Cancelled` nothing is queued.
//! 5. **No silence.** Each addressee of a broadcast is in `Answered`, or in `Down` or `Gone`. At
//!    the deadline the sender is told `TimedOut`; the addressee may then be expelled.
//!    What an engine cannot decode it answers itself, with `Cannot::Understand`.
//! 6. **Values.** A slot's value is visible in each [`Session`] that begins after `SetValue`.
//! 7. **Proof.** `BeginRecovery` is refused unless the death was recorded as fenced, or its owner
//!    left by itself. The engine never fences: that is somebody else's, who gives a [`FenceProof`].
//!    A recovery whose node goes is granted to the next who asked.
//! 8. **Leaving.** `Leave` is answered at any time after `Join`, with `Left` or `Lost`, at
//!    `valid_until` at the latest; who was not let in meanwhile is told that, and nothing else.
//!    Answers that are still owed to others count as `Gone`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::message::{Message, Window};
use crate::value::Instant;

/// A node's place in the cluster: the number of its bitmap on the members, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeSlot(pub u16);

impl fmt::Display for NodeSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {}", self.0)
    }
}

/// One life of a node in the cluster of an array.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(pub u64);

/// A generation of the membership.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MembershipEpoch(pub u64);

/// The number of a grant. The next grant of the same right has a larger one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fencing(pub u64);

/// A message that was delivered and has to be answered. Chosen by the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeliveryId(pub u64);

/// Who is in a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Peer {
    /// Where.
    pub slot: NodeSlot,
    /// In which of its lives.
    pub incarnation: Incarnation,
}

/// What one node at a time may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Right {
    /// To send, and to write superblocks.
    Token,
    /// To resync, recover or reshape.
    Resync,
}

/// What others see of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SlotValue {
    /// Where its owner may be resyncing.
    pub window: Option<Window>,
    /// Its owner has regions of a dead node to resync: until then members may differ there.
    pub owes_resync: bool,
    /// The size with which its owner shows the array; `None` before it does.
    pub shown_sectors: Option<u64>,
}

/// Why it is certain that a dead node writes no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProofKind {
    /// Every member refuses it (reservation or registration preempted, with abort).
    Storage,
    /// Its watchdog has ended it: the session's time and the watchdog's have passed.
    Watchdog,
    /// A command said so by its exit code.
    Command,
    /// An administrator said so.
    Confirmed,
    /// It left, and its I/O had ended before.
    LeftByItself,
}

/// A proof that one life of a node writes no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FenceProof {
    /// Who.
    pub peer: Peer,
    /// Why that is certain.
    pub kind: ProofKind,
}

/// Why a receiver could not do what a message asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum Cannot {
    /// The superblock could not be read from the device named.
    #[error("it cannot read the superblock")]
    Read,
    /// What the superblock says now is more than this node can do.
    #[error("it cannot follow the change")]
    Follow,
    /// The disk to be added is not there.
    #[error("it does not see the disk")]
    SeeDisk,
    /// The device is not one of the array, or not in the state for it.
    #[error("the device is in no state for it")]
    Device,
    /// The message is of a kind or version that is not known here.
    #[error("it does not know this message")]
    Understand,
    /// The work failed on its members.
    #[error("its members failed")]
    Work,
    /// What it has of a member, or of a bitmap, has no room for it.
    #[error("its members or bitmaps are too small")]
    Small,
    /// It resyncs, or a member is being filled.
    #[error("it resyncs, or fills a member")]
    Busy,
}

/// How a receiver answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AckStatus {
    /// Done.
    Done,
    /// Not done.
    Cannot(Cannot),
}

/// How a member took a broadcast.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Answered {
    /// It answered.
    Acked(AckStatus),
    /// It left in order before it answered; `Gone` was told before.
    Left,
    /// It has not answered by the deadline.
    TimedOut,
}

/// Why a node cannot join.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum JoinRefusal {
    /// All slots have an owner, or wait for the recovery of one.
    #[error("all {capacity} node slots are taken")]
    Full {
        /// How many there are.
        capacity: u16,
    },
    /// The nodes that are there speak no version that this one speaks.
    #[error("the nodes that are there speak version {theirs} of the protocol, this one {ours}")]
    Version {
        /// Theirs.
        theirs: u8,
        /// Ours.
        ours: u8,
    },
    /// Its members have another cluster's name.
    #[error("the array belongs to another cluster")]
    WrongCluster,
    /// The service cannot be reached.
    #[error("the lock service does not answer")]
    Unreachable,
}

/// How a node leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Leave {
    /// No bit of its bitmap is set, no update of its is half done.
    Clean,
    /// Somebody has to take its slot.
    Dirty,
}

/// A slot whose last owner did not leave clean and that nobody has taken yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Unrecovered {
    /// Its last owner.
    pub peer: Peer,
    /// Whether there is a proof that it writes no more.
    pub fenced: Option<FenceProof>,
}

/// A membership that began.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Session {
    /// The slot and incarnation given.
    pub me: Peer,
    /// The membership it began with.
    pub epoch: MembershipEpoch,
    /// The version that all members speak.
    pub version: u8,
    /// Until when it holds, on this node's own clock.
    pub valid_until: Instant,
    /// The other members.
    pub peers: BTreeSet<Peer>,
    /// What they showed then.
    pub values: BTreeMap<NodeSlot, SlotValue>,
    /// Who died and was not recovered.
    pub unrecovered: Vec<Unrecovered>,
}

/// What a node asks of the service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ServiceCommand {
    /// To be a member. `capacity`: how many bitmaps the members have.
    Join {
        /// Slots.
        capacity: u16,
        /// The newest version that this node speaks.
        version: u8,
    },
    /// To be given a right, after those who asked before.
    Acquire(Right),
    /// Not any more.
    Cancel(Right),
    /// It is over.
    Release(Right, Fencing),
    /// To tell everybody.
    Broadcast {
        /// The grant of the token under which it is sent.
        grant: Fencing,
        /// What.
        message: Message,
        /// When to be told who has not answered.
        deadline: Instant,
    },
    /// A delivery is done with.
    Ack(DeliveryId, AckStatus),
    /// What others see of this slot.
    SetValue(SlotValue),
    /// A member does not answer: it is to be one no more.
    Expel(Peer),
    /// Somebody who died writes no more.
    RecordFence(FenceProof),
    /// To take the slot of somebody who died.
    BeginRecovery(Peer),
    /// It was taken; or, with `done` false, somebody else has to.
    EndRecovery {
        /// Whose slot.
        peer: Peer,
        /// Whether its bits are on the members as this node's.
        done: bool,
        /// Whether there were any.
        bits: bool,
    },
    /// To be no member any more.
    Leave(Leave),
}

/// What the service tells a node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ServiceEvent {
    /// It is a member.
    Joined(Session),
    /// It is none.
    JoinRefused(JoinRefusal),
    /// It remains one until then.
    Renewed(Instant),
    /// It is none any more.
    Lost,
    /// Somebody has gone or will go: nothing is certain until `Done`.
    Prep,
    /// Somebody died. Nothing is known of what it still does to the members.
    Down(Peer),
    /// Somebody left in order.
    Gone(Peer, Leave),
    /// The membership from now on, without this node.
    Done(MembershipEpoch, BTreeSet<Peer>),
    /// Here is the right.
    Granted(Right, Fencing),
    /// It is not queued any more.
    Cancelled(Right),
    /// The broadcast has its place; who will answer.
    Ordered(BTreeSet<Peer>),
    /// One of them has.
    Answered(NodeSlot, Answered),
    /// A message of another member.
    Deliver(DeliveryId, Peer, Message),
    /// It was recorded that a dead one writes no more.
    Fenced(FenceProof),
    /// The slot is this node's to take.
    RecoveryGranted(Peer),
    /// Somebody took it.
    RecoveryEnded {
        /// Whose slot.
        peer: Peer,
        /// Who took it.
        by: NodeSlot,
        /// Whether there are regions to resync.
        bits: bool,
    },
    /// It has left.
    Left,
}
