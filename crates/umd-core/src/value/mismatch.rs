//! Places where members differ.

use super::ids::Slot;

/// A place where a check or repair found members to differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// Where it lies on the members: slot, and first sector from the start of the member's data.
    pub members: Vec<(Slot, u64)>,
    /// Its length on each of them.
    pub len_sectors: u64,
    /// First sectors of the array's data that may be wrong, each of that length; none where only
    /// parity is.
    pub array_sectors: Vec<u64>,
    /// The slots whose members are wrong; none where it cannot be told.
    pub wrong: Vec<Slot>,
    /// It was mended: where it can be told who is wrong there, else by computing parity from data
    /// and copying the first leg over the others.
    pub repaired: bool,
}
