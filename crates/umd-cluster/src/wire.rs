//! What is written into the log, and how: JSON, which an administrator can read.
//!
//! The core's types have no form of their own outside of it; these are theirs here.

use serde::{Deserialize, Serialize};
use umd_core::cluster::{
    AckStatus, Cannot, Incarnation, Leave, NodeSlot, Peer, ProofKind, Right, ServiceCommand,
    SlotValue, Window,
};

use crate::engine::hex;

/// One entry: what a node says at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Under which sign of life.
    pub mark: u64,
    /// The how many-th of it, from 1.
    pub number: u64,
    /// What.
    pub words: Vec<Word>,
}

/// One life of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Life {
    /// Where.
    pub slot: u16,
    /// Which.
    pub incarnation: u64,
}

impl From<Peer> for Life {
    fn from(peer: Peer) -> Life {
        Life {
            slot: peer.slot.0,
            incarnation: peer.incarnation.0,
        }
    }
}

impl From<Life> for Peer {
    fn from(life: Life) -> Peer {
        Peer {
            slot: NodeSlot(life.slot),
            incarnation: Incarnation(life.incarnation),
        }
    }
}

/// What a node says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Word {
    /// It wants to be a member.
    Join(Join),
    /// It wants a right.
    Acquire(RightName),
    /// It wants it no more.
    Cancel(RightName),
    /// It has done with it.
    Release(RightName, u64),
    /// It tells the others.
    Broadcast {
        /// The sender's own number of it.
        nth: u64,
        /// Under which grant of the token.
        grant: u64,
        /// The message's bytes, in hexadecimal digits.
        message: String,
    },
    /// It answers.
    Ack(u64, Status),
    /// What it shows of its slot.
    Value(Shown),
    /// A member shall be none.
    Expel(Life),
    /// A dead one writes no more.
    Fence(Life, Proof),
    /// It wants to take the slot of a dead one.
    Begin(Life),
    /// It has, or has not.
    End {
        /// Whose.
        life: Life,
        /// Whether it has.
        done: bool,
        /// Whether there were bits.
        bits: bool,
    },
    /// It leaves.
    Leave {
        /// Somebody has to take its slot.
        dirty: bool,
    },
    /// Somebody gives no sign of life.
    Expired {
        /// Whose.
        mark: u64,
        /// It was expelled, and the session it may still have believed in has run out.
        expelled: bool,
    },
}

impl Word {
    /// What a command comes to; of a broadcast as the `nth` of its sender. `None`: joining, which
    /// says more than the command does.
    pub fn of(command: &ServiceCommand, nth: u64) -> Option<Word> {
        Some(match *command {
            ServiceCommand::Join { .. } => return None,
            ServiceCommand::Acquire(right) => Word::Acquire(right.into()),
            ServiceCommand::Cancel(right) => Word::Cancel(right.into()),
            ServiceCommand::Release(right, grant) => Word::Release(right.into(), grant.0),
            ServiceCommand::Broadcast { grant, message, .. } => Word::Broadcast {
                nth,
                grant: grant.0,
                message: hex(&message.encode()),
            },
            ServiceCommand::Ack(id, status) => Word::Ack(id.0, status.into()),
            ServiceCommand::SetValue(value) => Word::Value(value.into()),
            ServiceCommand::Expel(peer) => Word::Expel(peer.into()),
            ServiceCommand::RecordFence(proof) => Word::Fence(proof.peer.into(), proof.kind.into()),
            ServiceCommand::BeginRecovery(peer) => Word::Begin(peer.into()),
            ServiceCommand::EndRecovery { peer, done, bits } => {
                let life = peer.into();
                Word::End { life, done, bits }
            }
            ServiceCommand::Leave(how) => Word::Leave {
                dirty: how == Leave::Dirty,
            },
        })
    }
}

/// Who joins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    /// The cluster's name, by the members.
    pub cluster: String,
    /// The host.
    pub host: String,
    /// How many slots the members have.
    pub capacity: u16,
    /// The newest version it speaks.
    pub version: u8,
    /// How long its session holds.
    pub session_ms: u64,
    /// The time of its watchdog.
    pub watchdog_ms: Option<u64>,
    /// Whether slots that nobody knows of may have had an owner.
    pub unknown_past: bool,
    /// The proof that they have none any more.
    pub past_fenced: Option<Proof>,
}

/// A right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RightName {
    /// To send.
    Token,
    /// To resync.
    Resync,
}

impl From<Right> for RightName {
    fn from(right: Right) -> RightName {
        match right {
            Right::Token => RightName::Token,
            Right::Resync => RightName::Resync,
        }
    }
}

impl From<RightName> for Right {
    fn from(right: RightName) -> Right {
        match right {
            RightName::Token => Right::Token,
            RightName::Resync => Right::Resync,
        }
    }
}

/// How a message was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// As it was meant.
    Done,
    /// A superblock could not be read.
    CannotRead,
    /// The change is beyond it.
    CannotFollow,
    /// A disk is not seen.
    CannotSeeDisk,
    /// A device is in no state for it.
    CannotDevice,
    /// The message is not known.
    CannotUnderstand,
    /// Members failed.
    CannotWork,
    /// Members or bitmaps are too small.
    CannotSmall,
    /// It resyncs.
    CannotBusy,
}

impl From<AckStatus> for Status {
    fn from(status: AckStatus) -> Status {
        match status {
            AckStatus::Done => Status::Done,
            AckStatus::Cannot(Cannot::Read) => Status::CannotRead,
            AckStatus::Cannot(Cannot::Follow) => Status::CannotFollow,
            AckStatus::Cannot(Cannot::SeeDisk) => Status::CannotSeeDisk,
            AckStatus::Cannot(Cannot::Device) => Status::CannotDevice,
            AckStatus::Cannot(Cannot::Understand) => Status::CannotUnderstand,
            AckStatus::Cannot(Cannot::Work) => Status::CannotWork,
            AckStatus::Cannot(Cannot::Small) => Status::CannotSmall,
            AckStatus::Cannot(Cannot::Busy) => Status::CannotBusy,
        }
    }
}

impl From<Status> for AckStatus {
    fn from(status: Status) -> AckStatus {
        AckStatus::Cannot(match status {
            Status::Done => return AckStatus::Done,
            Status::CannotRead => Cannot::Read,
            Status::CannotFollow => Cannot::Follow,
            Status::CannotSeeDisk => Cannot::SeeDisk,
            Status::CannotDevice => Cannot::Device,
            Status::CannotUnderstand => Cannot::Understand,
            Status::CannotWork => Cannot::Work,
            Status::CannotSmall => Cannot::Small,
            Status::CannotBusy => Cannot::Busy,
        })
    }
}

/// Why a node writes no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Proof {
    /// Members refuse it.
    Storage,
    /// Its watchdog ended it.
    Watchdog,
    /// A command said so.
    Command,
    /// An administrator said so.
    Confirmed,
    /// It left.
    LeftByItself,
}

impl From<ProofKind> for Proof {
    fn from(kind: ProofKind) -> Proof {
        match kind {
            ProofKind::Storage => Proof::Storage,
            ProofKind::Watchdog => Proof::Watchdog,
            ProofKind::Command => Proof::Command,
            ProofKind::Confirmed => Proof::Confirmed,
            ProofKind::LeftByItself => Proof::LeftByItself,
        }
    }
}

impl From<Proof> for ProofKind {
    fn from(proof: Proof) -> ProofKind {
        match proof {
            Proof::Storage => ProofKind::Storage,
            Proof::Watchdog => ProofKind::Watchdog,
            Proof::Command => ProofKind::Command,
            Proof::Confirmed => ProofKind::Confirmed,
            Proof::LeftByItself => ProofKind::LeftByItself,
        }
    }
}

/// What others see of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// The first sector of its resync's window, and the one after its last.
    pub window: Option<(u64, u64)>,
    /// It owes a resync.
    pub owes: bool,
    /// The array's size there.
    pub sectors: Option<u64>,
}

impl From<SlotValue> for Shown {
    fn from(value: SlotValue) -> Shown {
        let window = value.window;
        Shown {
            window: window.map(|window| (window.start_sectors(), window.end_sectors())),
            owes: value.owes_resync,
            sectors: value.shown_sectors,
        }
    }
}

impl From<Shown> for SlotValue {
    fn from(shown: Shown) -> SlotValue {
        SlotValue {
            window: shown
                .window
                .and_then(|(start, end)| Window::new(start, end)),
            owes_resync: shown.owes,
            shown_sectors: shown.sectors,
        }
    }
}
