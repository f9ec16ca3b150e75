//! What an engine stands on: one ordered log for each array, and marks that expire.
//!
//! ```text
//!   begin(session) --> Mark, a sign of life that ends unless it is renewed
//!   append(mark, entry): only while the mark is there, once for each number
//!   open:   snapshot | entry entry entry          all of it, at one moment
//!   follow:                              entry entry ...   what comes behind a place
//!   trim:   ........ snapshot | entry entry ...   what nobody needs any more goes
//! ```
//!
//! A place in the log is a [`Entry::place`], which only grows, for as long as the service lives:
//! it is what grants and incarnations are numbered with.

use std::collections::BTreeSet;
use std::time::Duration;

/// A sign of life. Never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mark(pub u64);

/// Something that was appended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where. Entries that follow each other have growing places, with gaps.
    pub place: u64,
    /// What.
    pub text: String,
}

/// All that entries up to a place have come to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// The last entry in it.
    pub place: u64,
    /// Entries up to there may be gone.
    pub trimmed: u64,
    /// The book.
    pub text: String,
}

/// A log as it was at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Opened {
    /// The last snapshot, if there is one.
    pub snapshot: Option<Snapshot>,
    /// What comes behind it.
    pub entries: Vec<Entry>,
}

/// What came behind a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Follow {
    /// This, in order; perhaps nothing. `stirred`: a mark may have gone.
    Entries {
        /// What.
        entries: Vec<Entry>,
        /// A hint to look at the marks.
        stirred: bool,
    },
    /// Some of it is gone, or the log is another one than it was.
    Missed,
}

/// How a renewal went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// The mark is there, and was after it was renewed.
    Held,
    /// It is gone for good.
    Ended,
}

/// How an append went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// It is in the log: now, or since an attempt before.
    Done,
    /// The mark is gone, so it is not and will not be.
    Ended,
}

/// The service could not be asked, or gave no answer that makes sense. What was asked for may have
/// been done all the same. The text says who did not answer what.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Trouble(pub String);

/// A log of one array, as one node reaches it. Every call may block, but not for ever.
pub trait Ledger: Send + Sync + 'static {
    /// Sets a new mark, which goes after `session` unless it is renewed.
    ///
    /// # Errors
    /// [`Trouble`].
    fn begin(&self, session: Duration) -> Result<Mark, Trouble>;

    /// Renews a mark. The whole session begins again no earlier than this is called.
    ///
    /// # Errors
    /// [`Trouble`].
    fn renew(&self, mark: Mark) -> Result<Renewal, Trouble>;

    /// Takes the own mark away.
    ///
    /// # Errors
    /// [`Trouble`].
    fn end(&self, mark: Mark) -> Result<(), Trouble>;

    /// Appends under a mark, as the `number`th of it. The marks of `strike` go in the same moment.
    /// To be called with the same number again after [`Trouble`].
    ///
    /// # Errors
    /// [`Trouble`].
    fn append(
        &self,
        mark: Mark,
        number: u64,
        text: &str,
        strike: &[Mark],
    ) -> Result<Appended, Trouble>;

    /// The whole log.
    ///
    /// # Errors
    /// [`Trouble`].
    fn open(&self) -> Result<Opened, Trouble>;

    /// What lies behind `place`; waits for something for no longer than `wait`.
    ///
    /// # Errors
    /// [`Trouble`].
    fn follow(&self, place: u64, wait: Duration) -> Result<Follow, Trouble>;

    /// Nobody wants to hear any more: whoever is in [`Ledger::follow`] may come back at once.
    fn hang_up(&self) {}

    /// The marks that are there. Read after an entry was followed, it has the mark under which that
    /// was appended, unless it has gone.
    ///
    /// # Errors
    /// [`Trouble`].
    fn marks(&self) -> Result<BTreeSet<Mark>, Trouble>;

    /// Replaces the snapshot, if it is still the one at `old`, and lets go of the entries up to
    /// `new.trimmed`.
    ///
    /// # Errors
    /// [`Trouble`].
    fn trim(&self, old: Option<u64>, new: &Snapshot) -> Result<(), Trouble>;
}
