//! Columns of a row that are being read together.
//!
//! ```text
//!   begin(slots) --reads--> done, done, ... last --> all there: take the columns
//!                                               `--> one failed: plan again without it
//! ```
//!
//! Shared by whoever computes with whole rows: writes to a band, reconstruction, units of a sync.

use smallvec::SmallVec;

use super::epoch::Epoch;
use super::io::{Effect, Io, Owner};
use crate::geometry::Copy;
use crate::value::{Buf, IoDone, IoError, MemberId, Purpose};

/// What was read of each slot; more columns than these are kept on the heap.
pub type Columns = SmallVec<[Option<Buf>; 6]>;

/// The machine: one round of reads at a time. The tag of each read is its slot.
#[derive(Debug, Default)]
pub struct Gather {
    columns: Columns,
    /// Slots whose sectors here could not be read, in any round.
    unreadable: SmallVec<[u16; 2]>,
    left: usize,
    failed: bool,
}

/// Makes a list as long, of nothing. One that is as long already, and of nothing for the most part,
/// is looked through and not made anew: that is every small write of a wide array.
pub fn blank<A: smallvec::Array<Item = Option<T>>, T>(list: &mut SmallVec<A>, len: usize) {
    for one in list.iter_mut().filter(|one| one.is_some()) {
        *one = None;
    }
    if list.len() != len {
        list.resize_with(len, || None);
    }
}

/// What a round reads.
pub struct Round<'a> {
    /// Who holds what.
    pub epoch: &'a Epoch,
    /// First member data sector.
    pub start_sectors: u64,
    /// Length.
    pub len_sectors: u64,
    /// What for.
    pub purpose: Purpose,
}

impl Gather {
    /// One that knows of these slots that they cannot be read.
    pub fn without(unreadable: impl IntoIterator<Item = u16>) -> Gather {
        Gather {
            unreadable: unreadable.into_iter().collect(),
            ..Gather::default()
        }
    }

    /// Forgets everything, as if it had never read.
    ///
    /// # Panics
    /// While a round is under way.
    pub fn clear(&mut self) {
        assert_eq!(self.left, 0, "not all is read yet");
        self.drop_columns();
        self.unreadable.clear();
        self.failed = false;
    }

    /// Starts to read the columns of `slots`; what was read before is forgotten.
    ///
    /// # Panics
    /// While a round is under way, and when a slot has no member.
    pub fn begin(
        &mut self,
        io: &mut Io,
        round: &Round<'_>,
        slots: impl IntoIterator<Item = u16>,
        owner: impl Fn(u32) -> Owner,
    ) {
        let row = |slot| Copy {
            slot,
            member_sectors: round.start_sectors,
        };
        self.begin_at(io, round, slots.into_iter().map(row), owner);
    }

    /// The same where columns do not lie side by side: copies, in the columns of their slots.
    ///
    /// # Panics
    /// While a round is under way, and when a slot has no member.
    pub fn begin_at(
        &mut self,
        io: &mut Io,
        round: &Round<'_>,
        places: impl IntoIterator<Item = Copy>,
        owner: impl Fn(u32) -> Owner,
    ) {
        assert_eq!(self.left, 0, "one round at a time");
        blank(&mut self.columns, round.epoch.columns.len());
        self.failed = false;
        for place in places {
            let slot = place.slot;
            let column = round.epoch.column(slot);
            let lost = self.unreadable.contains(&slot);
            assert!(!lost, "what could not be read is not asked for again");
            let column = column.expect("a slot that is read has a member");
            let sector = column.data_offset_sectors + place.member_sectors;
            let owner = owner(u32::from(slot));
            io.read(
                column.member,
                sector,
                round.len_sectors,
                round.purpose,
                owner,
            );
            self.left += 1;
        }
    }

    /// A read of this round ended. Whether it was the last one.
    pub fn done(
        &mut self,
        io: &mut Io,
        tag: u32,
        member: MemberId,
        result: Result<IoDone, IoError>,
    ) -> bool {
        assert!(self.left > 0, "a read that nobody started");
        self.left -= 1;
        let slot = u16::try_from(tag).expect("the tag of a read is its slot");
        let place = &mut self.columns[usize::from(slot)];
        assert!(place.is_none(), "a column is read once");
        match Io::read_result(result) {
            Ok(buf) => *place = Some(buf),
            Err(error) => {
                if error == IoError::Gone {
                    let why = "the device is gone".into();
                    io.effects.push(Effect::Fail(member, why));
                }
                self.unreadable.push(slot);
                self.failed = true;
            }
        }
        self.left == 0
    }

    /// Whether nothing is being read.
    pub fn is_idle(&self) -> bool {
        self.left == 0
    }

    /// Whether a read of this round failed.
    pub fn has_failed(&self) -> bool {
        self.failed
    }

    /// Slots that could not be read, in this round or an earlier one.
    pub fn unreadable(&self) -> &[u16] {
        &self.unreadable
    }

    /// What was read, by slot.
    pub fn columns(&self) -> &[Option<Buf>] {
        &self.columns
    }

    /// What was read, by slot, to be changed or taken out.
    pub fn columns_mut(&mut self) -> &mut [Option<Buf>] {
        assert_eq!(self.left, 0, "not all is read yet");
        &mut self.columns
    }

    /// What was read has been used. What could not be read stays known.
    pub fn drop_columns(&mut self) {
        assert_eq!(self.left, 0, "not all is read yet");
        let columns = self.columns.len();
        blank(&mut self.columns, columns);
    }

    /// What was read, by slot, to keep.
    pub fn take(&mut self) -> Columns {
        assert_eq!(self.left, 0, "not all is read yet");
        std::mem::take(&mut self.columns)
    }
}
