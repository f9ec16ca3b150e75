//! The one place where data and parity writes are made: none without its three proofs.

use smallvec::SmallVec;

use crate::bitmap::Intent;
use crate::member::{Column, Io, Owner};
use crate::metadata::{Active, FaultRecorded};
use crate::value::{IoOp, Purpose, Slice};

/// What must hold before a member is written for a host.
pub struct Proofs<'a> {
    /// Superblocks say active.
    pub active: &'a Active,
    /// The regions are marked on every member.
    pub intent: &'a Intent,
    /// Every known fault stands on the surviving superblocks.
    pub recorded: &'a FaultRecorded,
}

/// Where a write goes.
pub struct Target<'a> {
    /// The column.
    pub column: &'a Column,
    /// First member data sector.
    pub member_sectors: u64,
    /// Where its job lies, as intents count, and how long that is: of a RAID10 array sectors.
    pub intent_sectors: (u64, u64),
    /// Durable on completion.
    pub fua: bool,
    /// Who hears of the end.
    pub owner: Owner,
}

impl Proofs<'_> {
    /// The types of the other two say all there is to say; what the intent covers can be looked at.
    fn check(&self, target: &Target<'_>, len_sectors: u64) {
        let (Active { .. }, FaultRecorded { .. }) = (self.active, self.recorded);
        assert!(len_sectors > 0, "a write that writes something");
        let (start, len) = target.intent_sectors;
        assert!(len_sectors <= len, "a write within its job");
        self.intent.assert_covers(start, len);
    }
}

/// Writes `data`.
pub fn write(io: &mut Io, proofs: &Proofs<'_>, target: &Target<'_>, data: Slice, what: Purpose) {
    proofs.check(target, (data.len() / 512) as u64);
    let offset_sectors = target.column.data_offset_sectors + target.member_sectors;
    let mut pieces = SmallVec::new();
    pieces.push(data);
    let op = IoOp::Write {
        offset_sectors,
        data: pieces,
        fua: target.fua,
    };
    io.submit(target.column.member, what, op, target.owner);
}

/// Zeroes `len_sectors`; with `may_unmap` the space may be given back.
pub fn write_zeroes(
    io: &mut Io,
    proofs: &Proofs<'_>,
    target: &Target<'_>,
    len_sectors: u64,
    may_unmap: bool,
) {
    proofs.check(target, len_sectors);
    let offset_sectors = target.column.data_offset_sectors + target.member_sectors;
    let op = IoOp::WriteZeroes {
        offset_sectors,
        len_sectors,
        may_unmap,
        fua: target.fua,
    };
    io.submit(target.column.member, Purpose::Data, op, target.owner);
}
