//! The running array: control, and the one way in and out.

mod command;
mod control;
mod event;
mod status;

pub use command::{Command, Commands, IoOp, MemberIo, Notice, Purpose};
pub use control::{Control, ControlError, ControlReply, NewMember, SyncRequest};
pub use event::{
    Completion, Event, Extent, IoDone, IoError, Reply, Request, RequestError, RequestOp, Timer,
};
pub use status::{ArrayState, BitmapStatus, MemberRole, MemberStatus, Status, SyncStatus};
