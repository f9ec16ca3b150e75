//! What can be started from the members at hand: facts in, a plan or a refusal out. Pure.
//!
//! ```text
//!   MemberFacts --select--> members of one array --judge--> who is up to date, who is stale
//!                  |                                |
//!               refused                          force: raise stale members if there are too few
//!                                                   |
//!              Refusal <--not enough, unclean-- slots filled --bitmap, geometry--> Plan
//! ```
//!
//! The rules (superblocks.md section 5, and where umd is stricter than md):
//!
//! 1. The newest events among members with a slot decide what the array is; spares never do.
//! 2. A member one update behind is accepted: the crash came between the superblock writes.
//! 3. But the word of a fresher member stands above what a member says of itself: when the fresher
//!    one's role table does not give it its slot, it is stale, however small the difference. md
//!    accepts such a member and mixes old data into the array.
//! 4. Two members that each call the other one failed have lived apart. The fresher one wins, and
//!    the user is told; when they are equally fresh nobody can tell here whose data is wanted, so
//!    the user must say, even with `--force`.
//! 5. `--force` raises as few stale members as are needed to start, the freshest first.
//! 6. Parity on an array that is both unclean and degraded may be wrong (the write hole), and what
//!    is missing would be computed from it: refused without `--force`.
//!
//! Every member that is not used is listed with the reason.

mod bitmap;
mod decide;
mod facts;
mod judge;
mod plan;
mod refusal;
mod reshape;
mod select;
#[cfg(test)]
mod tests;

pub use decide::assemble;
pub use facts::{MemberFacts, NoSuperblock, Wish};
pub use plan::{BitmapPlan, Forced, Plan, Reason, ReplacementPlan, SlotPlan};
pub use refusal::{Refusal, RefusalKind};
pub use reshape::ReshapePlan;
pub(crate) use reshape::agree;
