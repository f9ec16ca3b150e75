//! The running array: control, and the one way in and out.

mod clustered;
mod control;
mod engine;
mod faults;
mod flags;
mod legs;
mod map;
mod rebit;
mod regrade;
mod replace;
mod reshape;
mod setup;
mod status;
mod stop;
mod suspend;
mod view;

pub use crate::personality::faulty::{FaultyStatus, PretendedMode};
pub use crate::value::{
    BitmapFile, BitmapWish, Command, Commands, Completion, Control, ControlError, ControlReply,
    Event, Extent, FlagWish, IoDone, IoError, IoOp, LayoutWish, LegsWish, LevelWish, MemberIo,
    NewBitmap, NewMember, Notice, Purpose, Reply, Request, RequestError, RequestOp, Settings,
    SizeWish, SyncLimits, SyncRequest, Timer,
};
pub use clustered::{Clustered, Input, Output};
pub use engine::Array;
pub use map::Map;
pub use setup::{Options, Setup};
pub use status::{
    ArrayState, BitmapStatus, LimitsStatus, MemberRole, MemberStatus, ReshapeStatus, Status,
    SyncStatus,
};
