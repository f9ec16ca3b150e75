//! The names of the sync actions.

/// What the sync machine can do. Never mixed: resync makes redundancy agree after an unclean stop,
/// recovery fills a member, check counts differences, repair removes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncAction {
    /// Make redundancy agree with the data.
    Resync,
    /// Rebuild members that are not in sync.
    Recover,
    /// Read everything, count differences.
    Check,
    /// Read everything, mend differences.
    Repair,
    /// Move everything into another layout. The sync machine has no part in it.
    Reshape,
}

impl SyncAction {
    /// md's word for it in sysfs `sync_action`.
    pub fn word(self) -> &'static str {
        match self {
            SyncAction::Resync => "resync",
            SyncAction::Recover => "recover",
            SyncAction::Check => "check",
            SyncAction::Repair => "repair",
            SyncAction::Reshape => "reshape",
        }
    }
}
