//! Clustered arrays: several nodes run one array on the same members, and stay of one mind.
//!
//! ```text
//!    array                      Node (one owner per array and node)              lock service
//!   wish, answer, stop ----->  join/leave   turn   inbox   recovery  resync  <---- ServiceEvent
//!   Task, Done, Frozen <-----        every wait is a state             ----> ServiceCommand
//!                                         |        ^
//!                                   Fence v        | Fenced (a proof)
//!                                          fencing
//! ```
//!
//! The messages and what they mean are md-cluster's ([`Message`]); locks are not: who sends holds
//! the token, each message is answered by every member or its sender is told why not. The engine
//! behind that is described as data ([`ServiceCommand`], [`ServiceEvent`]) and is none of the core.
//!
//! md's known deadlocks all need a thread that waits for the cluster while it holds what the
//! receiver needs. Here nothing is held: [`Node::handle`] is the only way in, "waiting for the
//! token" is a state of it, and it answers its peers in every state but one: while it loads, which
//! waits for its own members and for nobody else, and during which it sends nothing. The rules that
//! this stands on are [`Rule`]s, which tests can switch off to see the deadlock come back.
//!
//! Nothing here touches a member. What the array has to do is a [`Task`], and it says when it is
//! done.

mod message;
mod node;
mod rules;
mod service;
#[cfg(test)]
pub(crate) mod tests;
mod wait;
mod work;

pub use message::{
    DeviceNumber, DiskPath, Malformed, Message, MoveStage, NewDisk, VERSION, Window,
};
pub use node::{End, Node, Setup};
pub use rules::{Rule, Rules};
pub use service::{
    AckStatus, Answered, Cannot, DeliveryId, FenceProof, Fencing, Incarnation, JoinRefusal, Leave,
    MembershipEpoch, NodeSlot, Peer, ProofKind, Right, ServiceCommand, ServiceEvent, Session,
    SlotValue, Unrecovered,
};
pub use wait::{Wait, WaitFor};
pub use work::{
    Answer, Blame, Desk, Effect, Event, Failure, Freeze, ResyncCall, ResyncWord, Task, Wish, WishId,
};
