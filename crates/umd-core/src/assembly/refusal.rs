//! Why an array is not started.

use umd_format::Uuid;

use super::plan::Reason;
use crate::geometry::Raid0Error;

/// A refusal: the sentence, and the reasons why members were not counted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind}")]
pub struct Refusal {
    /// What stands in the way, and what to do.
    pub kind: RefusalKind,
    /// Members that were not used, so that the user sees what happened to them.
    pub ignored: Vec<Reason>,
}

/// What stands in the way. Names of members are given, numbers of slots where they matter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RefusalKind {
    /// Nothing was given, or nothing that was given belongs to the array.
    #[error("no member of the array was found")]
    NoMembers,
    /// A device that was named is no usable member.
    #[error("{member}: {why} - leave it out to assemble without it")]
    Unusable {
        /// Which.
        member: String,
        /// Its fault.
        why: String,
    },
    /// The devices belong to more than one array.
    #[error("{a} belongs to array {a_uuid} and {b} to {b_uuid} - choose one with --uuid")]
    DifferentArrays {
        /// A member.
        a: String,
        /// Its array.
        a_uuid: Uuid,
        /// Another.
        b: String,
        /// Its array.
        b_uuid: Uuid,
    },
    /// One member twice, for example a disk and its clone.
    #[error("{a} and {b} are copies of the same member - leave one of them out")]
    Copies {
        /// One.
        a: String,
        /// The other.
        b: String,
    },
    /// Two members that both went on without the other.
    #[error(
        "{a} and {b} each say that the other has failed, so both may hold data that the other \
         lacks - leave one of them out"
    )]
    SplitBrain {
        /// One.
        a: String,
        /// The other.
        b: String,
    },
    /// Equally fresh members that describe different arrays.
    #[error("{a} and {b} are equally recent but differ in {what} - leave one of them out")]
    Contradiction {
        /// One.
        a: String,
        /// The other.
        b: String,
        /// What differs.
        what: String,
    },
    /// Two up-to-date members in one slot.
    #[error("{a} and {b} both claim slot {slot} - leave one of them out")]
    SameSlot {
        /// One.
        a: String,
        /// The other.
        b: String,
        /// The slot.
        slot: u16,
    },
    /// The array uses something that is not supported yet.
    #[error("{what} is not supported yet ({member}); the members are left as they are")]
    NotSupported {
        /// What.
        what: String,
        /// Whose superblock says so.
        member: String,
    },
    /// Too few members.
    #[error("assembled from {drives} - not enough to start the array.{hint}")]
    NotEnough {
        /// What there is.
        drives: String,
        /// What `--force` would do, with a blank in front; or nothing.
        hint: String,
    },
    /// Parity may be wrong, and data would have to be computed from it.
    #[error(
        "assembled from {drives} - not enough to start the array while not clean - consider \
         --force."
    )]
    NotEnoughWhileUnclean {
        /// What there is.
        drives: String,
    },
    /// Members are missing, and the user does not want that.
    #[error("assembled from {drives} - need all {needed} to start it (use --run to insist).")]
    Incomplete {
        /// What there is.
        drives: String,
        /// How many there were.
        needed: usize,
    },
    /// raid0 members whose data cannot be placed.
    #[error(transparent)]
    Raid0(#[from] Raid0Error),
    /// The bitmap is damaged on every member.
    #[error(
        "the bitmap cannot be used ({member}: {why}) - --force starts the array without a bitmap"
    )]
    Bitmap {
        /// Where it was looked for last.
        member: String,
        /// Its fault.
        why: String,
    },
}
