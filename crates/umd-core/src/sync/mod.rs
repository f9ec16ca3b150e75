//! Sync actions: resync, recovery, check, repair.

pub use crate::value::SyncAction;
