//! Members, the snapshots requests plan by, and the I/O that is under way.

mod bad_blocks;
mod cover;
mod epoch;
mod gather;
mod held;
mod io;
mod read_errors;
mod table;

pub use bad_blocks::{BadBlocks, LogWrite};
pub use cover::{Access, Cover};
pub use epoch::{Column, Epoch};
pub use gather::{Columns, Gather, Round, blank};
pub use held::{Held, companions};
pub use io::{Effect, Io, Owner, Twin, Weight};
pub use read_errors::ReadErrors;
pub use table::{Member, Members, State};
