//! Identities. Each is a newtype so that a slot is never taken for a member or an I/O.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty), $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $inner);

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

id! {
    /// A device held open for an array (kernel: rdev). Chosen by the driver, unique within an
    /// array for as long as the array runs; never used again after the member was released.
    MemberId(u32), "m"
}
id! {
    /// A place in the array (kernel: `raid_disk`, the role), `0..raid_disks`.
    Slot(u16), "s"
}
id! {
    /// A host request, chosen by the door; unique among those in flight.
    RequestId(u64), "r"
}
id! {
    /// A member I/O, chosen by the core; never used twice by one array.
    IoId(u64), "io"
}
id! {
    /// A control request, chosen by the driver; unique among those in flight.
    ControlId(u64), "c"
}
id! {
    /// The metadata generation (superblock `events`).
    Events(u64), "e"
}

/// A unit of the sync machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnitId {
    /// Of the run.
    Run(u32),
    /// Of a read that waits until members agree.
    Commit(u32),
    /// The window of a reshape.
    Reshape,
}

impl Events {
    /// The generation after this one. Panics after 2^64 updates, which no array lives to see.
    pub fn next(self) -> Events {
        Events(self.0.checked_add(1).expect("event counter exhausted"))
    }
}
