//! What this node receives: one message after another, each answered.
//!
//! ```text
//!   Deliver, Refresh, Lift --> queue --> task of the array --> Ack(Done | Cannot), next
//! ```
//!
//! A message is answered whatever this node waits for itself; only a node that is loading keeps
//! messages, for as long as its own members take. What cannot be done is answered, too: a sender
//! that hears nothing waits for ever, and everybody else behind it.

use std::collections::VecDeque;

use super::super::message::{Message, Window};
use super::super::rules::Rule;
use super::super::service::{AckStatus, Cannot, DeliveryId, NodeSlot, Peer, ServiceCommand};
use super::super::work::{Answer, Desk, Effect, Task};
use super::door::Phase;
use super::{Node, Out};
use crate::value::{Instant, Span};

/// Without [`Rule::Follow`]: when a thread finds the time to read what was told.
const READ_LATER: Span = Span::secs(1);

#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Inbox {
    queue: VecDeque<Incoming>,
    at: Option<Incoming>,
    /// A reload that failed is tried again.
    again: Option<Instant>,
    /// Whose new disk waits for the start of its resync.
    starts: Option<NodeSlot>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Incoming {
    Message(DeliveryId, Peer, Message),
    /// A node died, or left in the middle of something: what has it written?
    Refresh,
    /// A node resyncs no more.
    Lift(NodeSlot),
}

impl Inbox {
    /// Whether superblocks have to be read before they are written.
    pub(super) fn is_stale(&self) -> bool {
        let stale = |one: &Incoming| *one == Incoming::Refresh;
        self.again.is_some() || self.at.iter().chain(&self.queue).any(stale)
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.again
    }

    /// This node adds a disk: the others wait for it.
    pub(super) fn waits_for_nobody(&mut self) {
        self.starts = None;
    }

    /// A node is gone, and what it wrote has to be read.
    pub(super) fn lift(&mut self, slot: NodeSlot, refresh: bool) {
        self.queue.push_back(Incoming::Lift(slot));
        if refresh {
            self.queue.push_back(Incoming::Refresh);
        }
        if self.starts == Some(slot) {
            self.starts = None;
        }
    }
}

impl Node {
    pub(super) fn deliver(&mut self, id: DeliveryId, from: Peer, message: Message) {
        let message = Incoming::Message(id, from, message);
        self.inbox.queue.push_back(message);
    }

    fn is_deaf(&self) -> bool {
        let stopping = self.is_stopping() && !self.keep(Rule::D2);
        let loading = matches!(self.phase, Phase::Loading { .. }) && self.keep(Rule::LoadFirst);
        loading || stopping || self.sender.is_deaf(|rule| self.keep(rule))
    }

    pub(super) fn advance_inbox(&mut self, now: Instant, out: &mut Out) -> bool {
        if let Some(again) = self.inbox.again
            && now >= again
        {
            self.inbox.again = None;
            self.inbox.queue.push_back(Incoming::Refresh);
        }
        if self.inbox.at.is_some() || self.tasks.contains_key(&Desk::Inbox) || self.is_deaf() {
            return false;
        }
        let Some(incoming) = self.inbox.queue.pop_front() else {
            return false;
        };
        if matches!(self.phase, Phase::Leaving { .. }) {
            // It has come to rest and reads and writes nothing any more: whatever is told it is
            // followed. What it did for it now, it might do as nobody's node.
            if let Incoming::Message(id, ..) = incoming {
                out.push(Effect::Service(ServiceCommand::Ack(id, AckStatus::Done)));
            }
            return true;
        }
        match incoming {
            Incoming::Message(id, from, message) => self.receive(now, (id, from, message), out),
            Incoming::Refresh => {
                let use_spares = self.inbox.starts.is_none();
                let from = None;
                self.read(now, incoming, Task::Reload { from, use_spares }, out);
            }
            Incoming::Lift(owner) => {
                let window = None;
                self.read(now, incoming, Task::Suspend { owner, window }, out);
            }
        }
        true
    }

    fn read(&mut self, now: Instant, incoming: Incoming, task: Task, out: &mut Out) {
        self.inbox.at = Some(incoming);
        self.task(now, Desk::Inbox, task, out);
    }

    fn receive(
        &mut self,
        now: Instant,
        (id, from, message): (DeliveryId, Peer, Message),
        out: &mut Out,
    ) {
        let ack = |status| Effect::Service(ServiceCommand::Ack(id, status));
        if self.me.is_none_or(|me| me.slot == from.slot) {
            return out.push(ack(AckStatus::Cannot(Cannot::Understand)));
        }
        let task = match message {
            Message::MetadataUpdated { .. } if !self.keep(Rule::Follow) => {
                self.inbox.again = Some(now + READ_LATER);
                return out.push(ack(AckStatus::Done));
            }
            Message::MetadataUpdated { good } => Task::Reload {
                from: Some(good),
                use_spares: self.inbox.starts.is_none(),
            },
            Message::Resyncing { window, .. } => {
                let window = window.filter(|one| self.is_window(*one));
                let owner = from.slot;
                if !self.keep(Rule::Quiesce) {
                    out.push(ack(AckStatus::Done));
                }
                Task::Suspend { owner, window }
            }
            Message::NewDisk(disk) | Message::ReAdd(disk) => {
                self.inbox.starts = Some(from.slot);
                Task::FindDisk {
                    disk,
                    until: now + self.setup.find_disk_within,
                    returns: matches!(message, Message::ReAdd(_)),
                }
            }
            Message::Remove(device) => Task::Remove(device),
            Message::ChangeCapacity { sectors } => Task::Publish { sectors },
            Message::BitmapResize { sync_sectors } => Task::ResizeBitmap { sync_sectors },
            Message::BitmapChunk {
                region_bytes,
                sync_sectors,
                asks,
            } => Task::Rechunk {
                region_bytes,
                sync_sectors,
                asks,
            },
            Message::BitmapMove {
                region_bytes,
                sync_sectors,
                stage,
            } => Task::Move {
                region_bytes,
                sync_sectors,
                stage,
            },
            Message::BitmapNeedsSync => {
                // Its slot is taken when it has gone, which is when it is free to be taken.
                return out.push(ack(AckStatus::Done));
            }
            Message::ResyncingStart => {
                self.inbox.starts = None;
                return out.push(ack(AckStatus::Done));
            }
        };
        self.read(now, Incoming::Message(id, from, message), task, out);
    }

    /// Every window is one; md's form could not tell some of them from none.
    fn is_window(&self, window: Window) -> bool {
        self.keep(Rule::ZeroIsNotNone) || window.start_sectors() > 0
    }

    pub(super) fn inbox_answered(&mut self, now: Instant, answer: Answer, out: &mut Out) {
        let incoming = self.inbox.at.take();
        let Some(incoming) = incoming else {
            return; // It left meanwhile.
        };
        let status = match answer {
            Answer::Done => AckStatus::Done,
            Answer::Cannot(why) => AckStatus::Cannot(why),
            other => panic!("{other:?} to {incoming:?}"),
        };
        match incoming {
            Incoming::Refresh => self.reloaded(now, status),
            Incoming::Lift(_) => assert!(status == AckStatus::Done, "writes could not be let in"),
            Incoming::Message(id, from, message) => {
                match message {
                    Message::MetadataUpdated { .. } => self.reloaded(now, status),
                    Message::Resyncing { window, owes } => {
                        self.note_owing(from, owes);
                        if window.is_none() {
                            self.inbox.starts = None;
                        }
                    }
                    Message::ChangeCapacity { sectors } if status == AckStatus::Done => {
                        if self.shown_sectors.is_none_or(|shown| shown < sectors) {
                            self.note_owing(from, true);
                        }
                        self.shown_sectors = Some(sectors);
                        self.show(out);
                    }
                    _ => {}
                }
                let early =
                    matches!(message, Message::Resyncing { .. }) && !self.keep(Rule::Quiesce);
                let silent = status != AckStatus::Done && !self.keep(Rule::D6);
                if !early && !silent {
                    out.push(Effect::Service(ServiceCommand::Ack(id, status)));
                }
            }
        }
    }

    /// Where a peer has yet to resync, mirrors may differ.
    fn note_owing(&mut self, from: Peer, owes: bool) {
        let there = self.peers.get(&from.slot) == Some(&from.incarnation);
        match owes && there {
            true => self.owing.insert(from.slot),
            false => self.owing.remove(&from.slot),
        };
    }

    /// What could not be read is read again, whether somebody tells of it or not.
    fn reloaded(&mut self, now: Instant, status: AckStatus) {
        self.blind = match status {
            AckStatus::Done => None,
            AckStatus::Cannot(why) => Some(why),
        };
        let again = now + self.setup.retry_after;
        let later = self.inbox.again.filter(|_| !self.keep(Rule::Follow));
        self.inbox.again = self.blind.map(|_| again).or(later);
    }
}
