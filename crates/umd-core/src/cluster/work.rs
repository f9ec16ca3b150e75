//! What a node and its array say to each other.
//!
//! ```text
//!   array --- Wish, ResyncCall, Answer, Stop ---> Node
//!   array <-- Task, Done, ResyncWord, Frozen ---- Node
//! ```
//!
//! A task belongs to a [`Desk`]. A desk has one task at a time, which is answered exactly once,
//! however long it takes; no task waits for another node.

use std::collections::BTreeSet;
use std::fmt;

use super::message::{DeviceNumber, Message, MoveStage, NewDisk, Window};
use super::node::End;
use super::service::{
    Cannot, FenceProof, JoinRefusal, NodeSlot, Peer, ServiceCommand, ServiceEvent,
};
use crate::value::Instant;

/// A wish of the array. Chosen by the array; unique among those that are not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WishId(pub u64);

/// What the array wants all nodes to know or to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Wish {
    /// Superblocks have to be written: a failure, a role, a checkpoint. The array knows what for.
    Update,
    /// A disk is to be added. Every node has to see it.
    AddDisk(NewDisk),
    /// A spare is to get a slot of the array. Every node has to have it.
    FillSlot(NewDisk),
    /// A device is to be removed.
    RemoveDisk(DeviceNumber),
    /// A disk that has left is to have its slot again. Every node has to see it.
    ReAdd(NewDisk),
    /// The array's size is to change, on all nodes or on none.
    Resize {
        /// The new size.
        sectors: u64,
        /// What the bitmaps are for then.
        sync_sectors: u64,
    },
    /// The bitmaps are to be for another size, on all nodes or on none.
    BitmapResize {
        /// The new size.
        sync_sectors: u64,
        /// That of now, for the way back.
        old_sync_sectors: u64,
    },
    /// The bits of all bitmaps are to stand for another length, on all nodes or on none.
    Rechunk {
        /// Bytes that a bit is to stand for.
        region_bytes: u32,
        /// What it stands for now, for the way back.
        old_region_bytes: u32,
        /// The bitmaps have to have room for so many sectors.
        sync_sectors: u64,
    },
    /// The same, where they get another number of pages and so other places.
    Move {
        /// Bytes that a bit is to stand for.
        region_bytes: u32,
        /// The members have to have room for so many sectors.
        sync_sectors: u64,
    },
}

/// What the array's resync wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResyncCall {
    /// To begin. Answered with [`ResyncWord::May`], in time.
    Want,
    /// To go on to there. What lies before its start is over: no write of the resync is under way
    /// there. Until [`ResyncWord::Open`] only what it shares with the last one may be written.
    Window(Window),
    /// It is over, or is not wanted any more: no write of it is under way.
    Over {
        /// Whether nothing is left to do.
        finished: bool,
    },
}

/// What the array's resync is told.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResyncWord {
    /// It is the one resync of the cluster.
    May,
    /// No other node writes there.
    Open(Window),
    /// The last window is not to be had.
    Refused(Failure),
    /// Its end was told; another node may begin.
    Ended,
}

/// Whose task it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Desk {
    /// Joining and stopping.
    Door,
    /// What this node sends.
    Turn,
    /// What it receives.
    Inbox,
    /// The slot of a dead node.
    Recovery(NodeSlot),
}

/// Something the array has to do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Task {
    /// Read superblocks and the own bitmap, and make everything ready to serve.
    /// ([`Answer::Loaded`].)
    Load {
        /// No write is let into these windows of others.
        windows: Vec<(NodeSlot, Window)>,
        /// The array is shown no larger than that, whatever superblocks say: a larger size is not
        /// yet that of all.
        most_sectors: Option<u64>,
    },
    /// Which of these wishes still hold, by the superblocks as they are known now? One that was
    /// answered meanwhile does not. ([`Answer::Holds`].)
    Recheck(Vec<WishId>),
    /// Write what they want into the superblocks of all members. ([`Answer::Written`].)
    Write(Vec<WishId>),
    /// Do, here, what the wish wants. ([`Answer::Done`].)
    Apply(WishId),
    /// Undo what was done for the wish: here, and in the superblocks where they were written. For a
    /// disk, a slot or a size the answer is [`Answer::Written`] in any case, for a bitmap
    /// [`Answer::Done`].
    Undo(WishId),
    /// Write what the wish wants into the bitmaps of nobody, which are all but these; nobody takes
    /// one of them meanwhile. Those that get other places are all written. ([`Answer::Done`].)
    Vacant {
        /// The wish.
        id: WishId,
        /// Slots that somebody has, or that wait for a recovery.
        taken: BTreeSet<NodeSlot>,
    },
    /// Read superblocks again and adopt them: from a device, or from whichever is newest.
    /// ([`Answer::Done`]; on [`Answer::Cannot`] nothing was adopted.)
    Reload {
        /// From where.
        from: Option<DeviceNumber>,
        /// Whether a spare that has a role now may be used.
        use_spares: bool,
    },
    /// Let no write into the window of another node; those under way end first. Its last one is
    /// forgotten. ([`Answer::Done`].)
    Suspend {
        /// Whose.
        owner: NodeSlot,
        /// Where.
        window: Option<Window>,
    },
    /// Find a disk that another node adds, as a candidate until the next reload tells its role. At
    /// the deadline the answer is no. ([`Answer::Done`].)
    FindDisk {
        /// Which.
        disk: NewDisk,
        /// The deadline.
        until: Instant,
        /// It comes back: its superblock has to be on it.
        returns: bool,
    },
    /// Remove a device as soon as it has no role. ([`Answer::Done`].)
    Remove(DeviceNumber),
    /// Show the array with this size. ([`Answer::Done`].)
    Publish {
        /// Its size.
        sectors: u64,
    },
    /// Can the array, and the own bitmap, be of this size? Superblocks will say so.
    /// ([`Answer::Done`].)
    ResizeBitmap {
        /// Its size.
        sync_sectors: u64,
    },
    /// Let the bits of the own bitmap stand for another length; or only say whether they can.
    /// ([`Answer::Done`].)
    Rechunk {
        /// Bytes that a bit is to stand for.
        region_bytes: u32,
        /// The bitmap has to have room for so many sectors.
        sync_sectors: u64,
        /// It is a question only.
        asks: bool,
    },
    /// What another node does with the bitmaps of all. ([`Answer::Done`].)
    Move {
        /// Bytes that a bit stands for then.
        region_bytes: u32,
        /// The members have to have room for so many sectors.
        sync_sectors: u64,
        /// How far it is.
        stage: MoveStage,
    },
    /// Set the bits of a slot in the own bitmap, on all members, and flush. They stay set until a
    /// resync that begins after this. ([`Answer::Copied`].)
    CopyBits(NodeSlot),
    /// Clear the bitmap of a slot on all members. ([`Answer::Done`].)
    ClearBits(NodeSlot),
    /// End all writes, with those that lag, and the resync; write no more. ([`Answer::Drained`].)
    Drain,
}

impl Task {
    /// What the array is waited for to do.
    pub fn told(&self) -> &'static str {
        match self {
            Task::Load { .. } => "to be loaded",
            Task::Recheck(_) => "to look whether a change is still needed",
            Task::Write(_) => "to write superblocks",
            Task::Apply(_) => "to make a change",
            Task::Undo(_) => "to undo a change",
            Task::Vacant { .. } => "to write the bitmaps of nobody",
            Task::Reload { .. } => "to read superblocks",
            Task::Suspend { .. } => "to end its writes in another node's resync window",
            Task::FindDisk { .. } => "to find a disk that another node adds",
            Task::Remove(_) => "to remove a device",
            Task::Publish { .. } => "to show its new size",
            Task::ResizeBitmap { .. } => "to look whether it can have another size",
            Task::Rechunk { asks: true, .. } => "to look whether its bitmap can be another one",
            Task::Rechunk { .. } => "to write its bitmap with another chunk",
            Task::Move { stage, .. } => match stage {
                MoveStage::Ask => "to look whether the bitmaps can get other places",
                MoveStage::Hold => "to write no bitmap for a while",
                MoveStage::Moved => "to write its bitmap at another place",
                MoveStage::Back => "to go on with the bitmaps as they were",
            },
            Task::CopyBits(_) => "to copy a dead node's bitmap",
            Task::ClearBits(_) => "to clear a dead node's bitmap",
            Task::Drain => "to end its writes",
        }
    }
}

/// How a task went.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Answer {
    /// Done.
    Done,
    /// Done.
    Loaded {
        /// Whether a bit of the own bitmap is set.
        dirty: bool,
        /// The size with which the array is shown.
        sectors: u64,
    },
    /// These still hold.
    Holds(Vec<WishId>),
    /// Done; the superblock of this device is good.
    Written(DeviceNumber),
    /// Done.
    Copied {
        /// Whether there were any bits.
        any: bool,
    },
    /// Done.
    Drained {
        /// Whether a bit of the own bitmap is left set.
        dirty: bool,
    },
    /// Not done.
    Cannot(Cannot),
}

/// Who could not follow, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Blame {
    /// Who.
    pub node: NodeSlot,
    /// Why.
    pub why: Cannot,
}

impl fmt::Display for Blame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.node, self.why)
    }
}

/// Why a wish was not fulfilled.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Failure {
    /// Somebody else has done it, or made it pointless.
    Moot,
    /// These nodes could not follow. What has to be on all nodes or on none is on none.
    Nodes(Vec<Blame>),
    /// This node is leaving, or is none of the cluster. Whether others know of it is not certain.
    Leaving,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Moot => f.write_str("another node has changed the array meanwhile"),
            Failure::Leaving => f.write_str("this node is leaving the cluster"),
            Failure::Nodes(blames) => {
                for (index, blame) in blames.iter().enumerate() {
                    let comma = if index > 0 { ", " } else { "" };
                    write!(f, "{comma}{blame}")?;
                }
                Ok(())
            }
        }
    }
}

/// Why no write is let in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Freeze {
    /// These nodes are gone, and there is no proof that they write no more.
    Unfenced(BTreeSet<NodeSlot>),
    /// What another node has changed could not be read.
    Blind(Cannot),
    /// This node is no member any more.
    Lost,
}

impl fmt::Display for Freeze {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Freeze::Unfenced(slots) => {
                let names: Vec<String> = slots.iter().map(|slot| slot.0.to_string()).collect();
                write!(
                    f,
                    "writes wait: node {} is gone and not known to have ended; fence it, or \
                     confirm that it is dead",
                    names.join(", ")
                )
            }
            Freeze::Blind(why) => write!(
                f,
                "writes wait: another node changed the array, and this one {}",
                why.to_string().trim_start_matches("it ")
            ),
            Freeze::Lost => {
                f.write_str("this node lost the cluster: stop the array here and start it again")
            }
        }
    }
}

/// What reaches a node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Event {
    /// Join, please.
    Start,
    /// Leave, please. Answered with [`Effect::Over`], whatever the others do.
    Stop,
    /// The lock service says.
    Service(ServiceEvent),
    /// A task was done, or not.
    Answer(Desk, Answer),
    /// The array wants.
    Wish(WishId, Wish),
    /// The array's resync wants.
    Resync(ResyncCall),
    /// Somebody writes no more.
    Fenced(FenceProof),
    /// No proof could be had: one is asked for again later, and another node's or an
    /// administrator's is taken at any time.
    NotFenced(Peer),
    /// Time has passed; see [`super::Node::next_deadline`].
    Tick,
}

/// What a node wants done, in order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Effect {
    /// Tell the lock service.
    Service(ServiceCommand),
    /// The array has something to do.
    Task(Desk, Task),
    /// See to it that this life of a node writes no more. Several nodes may ask; the same life may
    /// be asked for more than once.
    Fence(Peer),
    /// The array serves.
    Ready,
    /// The array cannot be started: this node is not let in.
    NotJoined(JoinRefusal),
    /// The array cannot be started: its members are not as they have to be.
    NotLoaded(Cannot),
    /// A wish is over. `Ok`: every node that may still write has followed.
    Done(WishId, Result<(), Failure>),
    /// To the array's resync.
    Resync(ResyncWord),
    /// The own bitmap has bits of a dead node: a resync is wanted.
    ResyncNeeded,
    /// A message was refused by somebody.
    Refused(Message, Blame),
    /// Writes wait, with this reason, or may go on.
    Frozen(Option<Freeze>),
    /// All reads go to the first good mirror; or to any.
    ReadFirst(bool),
    /// What serves messages may be taken down (only then, md's `bitmap_destroy` before all else).
    Over(End),
}
