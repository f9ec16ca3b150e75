//! The running array: control, and the one way in and out.

mod status;

pub use crate::value::{
    Command, Commands, Completion, Control, ControlError, ControlReply, Event, Extent, IoDone,
    IoError, IoOp, MemberIo, NewMember, Notice, Purpose, Reply, Request, RequestError, RequestOp,
    SyncRequest, Timer,
};
pub use status::{ArrayState, BitmapStatus, MemberRole, MemberStatus, Status, SyncStatus};
