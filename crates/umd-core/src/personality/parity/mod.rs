//! RAID4/5/6: how a band of a row is written, and how lost columns come back.
//!
//! A *band* is the same byte range of every column of one row.
//!
//! ```text
//!              slot   0      1      2      3
//!   row S            d0     d1      P     d2        touched: d1
//!        band  ->   |..|   |##|   |##|   |..|       read-modify-write: read old d1, P
//!                                                   reconstruct-write: read d0, d2
//! ```
//!
//! | plan | reads | needs |
//! |---|---|---|
//! | full | nothing | every column touched, or no parity left to keep |
//! | read-modify | old touched data, P, Q | all of those usable, parity trusted |
//! | reconstruct | untouched data | all of it usable |
//! | recover | everything usable | no more unusable columns than parities |

use smallvec::SmallVec;
use umd_parity::{Loss, Lost};

use crate::geometry::Row;
use crate::member::Access;
use crate::value::{Buf, Pool, Purpose, Slice};

/// How a band will be written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WriteKind {
    /// No reads.
    #[default]
    Full,
    /// Parity changes by the difference of old and new data.
    ReadModify,
    /// Parity from new and untouched data.
    Reconstruct,
    /// As reconstruct, after recovering unusable untouched columns.
    Recover,
}

/// A plan for writing one band.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WritePlan {
    /// The way.
    pub kind: WriteKind,
    /// Slots to read first.
    pub reads: SmallVec<[u16; 16]>,
}

/// One member write of a band.
#[derive(Debug)]
pub struct BandWrite {
    /// Where to.
    pub slot: u16,
    /// Data or parity.
    pub purpose: Purpose,
    /// The bytes.
    pub bytes: Slice,
}

fn usable(access: &[Access], slot: u16) -> bool {
    access[usize::from(slot)] == Access::Usable
}

fn present(access: &[Access], slot: u16) -> bool {
    access[usize::from(slot)] != Access::Lost
}

/// P and Q slots of a row.
fn parities(row: &Row) -> impl Iterator<Item = u16> {
    [Some(row.p), row.q].into_iter().flatten()
}

/// Chooses the cheapest way to write a band, or `None` if more columns are lost than parity can
/// make up for.
///
/// `access` is by slot; `touched` is asked by data index. `trusted` says that parity is known to
/// agree with the data here (no resync pending): otherwise a difference would only carry an error
/// on.
pub fn plan_write(
    row: &Row,
    access: &[Access],
    touched: impl Fn(usize) -> bool,
    trusted: bool,
) -> Option<WritePlan> {
    let plan = cheapest(row, access, touched, trusted);
    if let Some(plan) = &plan {
        let sound = plan.reads.iter().all(|slot| usable(access, *slot));
        assert!(sound, "a plan reads only what holds what it should");
        let modifies = plan.kind == WriteKind::ReadModify;
        assert!(trusted || !modifies, "parity in doubt is computed afresh");
    }
    plan
}

fn cheapest(
    row: &Row,
    access: &[Access],
    touched: impl Fn(usize) -> bool,
    trusted: bool,
) -> Option<WritePlan> {
    let keep: SmallVec<[u16; 2]> = parities(row).filter(|s| present(access, *s)).collect();
    let by_touch = |wanted: bool| {
        let chosen = row.data.iter().enumerate();
        let chosen = chosen.filter(|(index, _)| touched(*index) == wanted);
        let slots: SmallVec<[u16; 16]> = chosen.map(|(_, slot)| *slot).collect();
        slots
    };
    let old = by_touch(true);
    if keep.is_empty() {
        let writable = old.iter().all(|s| present(access, *s));
        let plan = WritePlan {
            kind: WriteKind::Full,
            reads: SmallVec::new(),
        };
        return writable.then_some(plan);
    }
    let modify = trusted && old.iter().chain(&keep).all(|s| usable(access, *s));
    let fewer = row.data.len() - old.len() <= old.len() + keep.len();
    let rest = if modify && !fewer {
        SmallVec::new() // Of many columns one is written: the others are not looked at.
    } else {
        by_touch(false)
    };
    let reconstruct = rest.iter().all(|s| usable(access, *s));
    if reconstruct && (!modify || fewer) {
        let kind = if rest.is_empty() {
            WriteKind::Full
        } else {
            WriteKind::Reconstruct
        };
        return Some(WritePlan { kind, reads: rest });
    }
    if modify {
        let reads = old.iter().chain(&keep).copied().collect();
        return Some(WritePlan {
            kind: WriteKind::ReadModify,
            reads,
        });
    }
    let lost_data = row.data.iter().filter(|s| !usable(access, **s)).count();
    let good: SmallVec<[u16; 2]> = parities(row).filter(|s| usable(access, *s)).collect();
    if lost_data > good.len() {
        return None;
    }
    let data = row.data.iter().copied().filter(|s| usable(access, *s));
    let reads = data.chain(good.iter().copied()).collect();
    Some(WritePlan {
        kind: WriteKind::Recover,
        reads,
    })
}

/// What has to be read to get the content of a data slot that cannot be read, or `None` if it
/// cannot be had.
pub fn plan_reconstruct(row: &Row, access: &[Access], wanted: u16) -> Option<SmallVec<[u16; 16]>> {
    let lost = row
        .data
        .iter()
        .filter(|s| **s == wanted || !usable(access, **s))
        .count();
    let good: SmallVec<[u16; 2]> = parities(row).filter(|s| usable(access, *s)).collect();
    if lost > good.len() {
        return None;
    }
    let others = row
        .data
        .iter()
        .copied()
        .filter(|s| *s != wanted && usable(access, *s));
    let reads: SmallVec<[u16; 16]> = others.chain(good[..lost].iter().copied()).collect();
    assert_eq!(reads.len(), row.data.len(), "as many as are to be known");
    assert!(!reads.contains(&wanted), "what is wanted is not read");
    Some(reads)
}

/// P and Q of a row whose data is all there. `column` gives the bytes of a slot.
pub fn parity_of<'a>(
    row: &Row,
    column: impl Fn(u16) -> &'a [u8],
    p: Option<&mut [u8]>,
    q: Option<&mut [u8]>,
) {
    let columns = || row.order.iter().map(|slot| slot.map(&column));
    match (p, q) {
        (Some(p), None) => {
            let data: SmallVec<[&[u8]; 16]> = columns().flatten().collect();
            umd_parity::xor_many(p, &data);
        }
        (p, Some(q)) => {
            let data: SmallVec<[Option<&[u8]>; 16]> = columns().collect();
            match p {
                Some(p) => umd_parity::pq(p, q, &data),
                None => umd_parity::q_only(q, &data),
            }
        }
        (None, None) => {}
    }
}

/// A slot, and where its bytes go; empty once it was given away.
type Wanted<'a> = SmallVec<[Option<(u16, &'a mut [u8])>; 4]>;

/// Computes the content of the `wanted` slots of a row from those that were read. Slots without
/// bytes count as lost, all of them; panics if those are more than the parities.
pub fn rebuild(row: &Row, column: &[Option<&[u8]>], wanted: &mut [(u16, &mut [u8])]) {
    let data: SmallVec<[Option<&[u8]>; 16]> = row
        .order
        .iter()
        .map(|s| s.and_then(|s| column[usize::from(s)]))
        .collect();
    let p = column[usize::from(row.p)];
    let q = row.q.and_then(|q| column[usize::from(q)]);
    let mut lost: SmallVec<[Loss<'_>; 4]> = SmallVec::new();
    let mut wanted: Wanted<'_> = wanted
        .iter_mut()
        .map(|(slot, out)| Some((*slot, &mut **out)))
        .collect();
    let slots = row.data.iter().copied().chain(parities(row));
    for slot in slots.filter(|s| column[usize::from(*s)].is_none()) {
        let what = match row.power_of(slot) {
            Some(power) => Lost::Data(power),
            None if slot == row.p => Lost::P,
            None => Lost::Q,
        };
        let entry = wanted
            .iter_mut()
            .find(|w| w.as_ref().is_some_and(|w| w.0 == slot));
        lost.push((what, entry.and_then(Option::take).map(|w| w.1)));
    }
    assert!(
        wanted.iter().all(Option::is_none),
        "a wanted column was read"
    );
    umd_parity::recover(&data, p, q, &mut lost);
}

/// What a band's writer has in hand.
pub struct Band<'a> {
    /// The row.
    pub row: &'a Row,
    /// By slot.
    pub access: &'a [Access],
    /// New data by data index.
    pub new: &'a [Option<Slice>],
    /// What was read, by slot; what becomes parity is taken out.
    pub old: &'a mut [Option<Buf>],
    /// Length of the band.
    pub len_bytes: usize,
    /// Where parity buffers come from.
    pub pool: &'a Pool,
}

/// The member writes of a band, once its plan's reads are in.
pub fn compute_write(kind: WriteKind, mut band: Band<'_>) -> SmallVec<[BandWrite; 8]> {
    let parity = match kind {
        WriteKind::ReadModify => modify_parity(&mut band),
        WriteKind::Full | WriteKind::Reconstruct => fresh_parity(&band),
        WriteKind::Recover => {
            recover_untouched(&mut band);
            fresh_parity(&band)
        }
    };
    let mut writes: SmallVec<[BandWrite; 8]> = SmallVec::new();
    let mut write = |slot: u16, purpose: Purpose, bytes: Slice| {
        assert_eq!(bytes.len(), band.len_bytes, "all of the band");
        writes.push(BandWrite {
            slot,
            purpose,
            bytes,
        });
    };
    for (slot, new) in band.row.data.iter().zip(band.new) {
        if let Some(bytes) = new.as_ref().filter(|_| present(band.access, *slot)) {
            write(*slot, Purpose::Data, bytes.clone());
        }
    }
    for (slot, buf) in parity {
        write(slot, Purpose::Parity, buf.freeze());
    }
    writes
}

/// What was computed of a row, with the slots that it belongs to.
fn by_slot(row: &Row, p: Option<Buf>, q: Option<Buf>) -> SmallVec<[(u16, Buf); 2]> {
    let mut parity = SmallVec::new();
    if let Some(buf) = p {
        parity.push((row.p, buf));
    }
    if let Some(pair) = row.q.zip(q) {
        parity.push(pair);
    }
    parity
}

fn modify_parity(band: &mut Band<'_>) -> SmallVec<[(u16, Buf); 2]> {
    let mut take = |slot: u16| {
        let wanted = present(band.access, slot);
        wanted.then(|| {
            band.old[usize::from(slot)]
                .take()
                .expect("old parity was read")
        })
    };
    let mut p = take(band.row.p);
    let mut q = band.row.q.and_then(&mut take);
    for (slot, new) in band.row.data.iter().zip(band.new) {
        let Some(new) = new else { continue };
        let old = band.old[usize::from(*slot)]
            .as_ref()
            .expect("old data was read");
        let power = band.row.power_of(*slot).expect("data has a power");
        let power = u8::try_from(power).expect("powers of g fit a byte");
        umd_parity::pq_delta(
            p.as_mut().map(Buf::as_mut_slice),
            q.as_mut().map(Buf::as_mut_slice),
            power,
            old.as_slice(),
            new.as_slice(),
        );
    }
    by_slot(band.row, p, q)
}

fn fresh_parity(band: &Band<'_>) -> SmallVec<[(u16, Buf); 2]> {
    let mut fresh = |slot: u16| present(band.access, slot).then(|| band.pool.take(band.len_bytes));
    let mut p = fresh(band.row.p);
    let mut q = band.row.q.and_then(&mut fresh);
    if p.is_some() || q.is_some() {
        let column = |slot: u16| {
            let index = band.row.index_of(slot).expect("a data slot");
            match &band.new[index] {
                Some(new) => new.as_slice(),
                None => band.old[usize::from(slot)]
                    .as_ref()
                    .expect("old data")
                    .as_slice(),
            }
        };
        let p = p.as_mut().map(Buf::as_mut_slice);
        parity_of(band.row, column, p, q.as_mut().map(Buf::as_mut_slice));
    }
    by_slot(band.row, p, q)
}

/// Fills in the old content of untouched columns that could not be read.
fn recover_untouched(band: &mut Band<'_>) {
    let need: SmallVec<[u16; 2]> = band
        .row
        .data
        .iter()
        .zip(band.new)
        .filter(|(slot, new)| new.is_none() && band.old[usize::from(**slot)].is_none())
        .map(|(slot, _)| *slot)
        .collect();
    let mut bufs: SmallVec<[(u16, Buf); 2]> = need
        .iter()
        .map(|slot| (*slot, band.pool.take(band.len_bytes)))
        .collect();
    if bufs.is_empty() {
        return;
    }
    let parities = parities(band.row).count();
    assert!(
        bufs.len() <= parities,
        "no more is lost than parities make up for"
    );
    {
        let column: SmallVec<[Option<&[u8]>; 16]> = band
            .old
            .iter()
            .map(|b| b.as_ref().map(Buf::as_slice))
            .collect();
        let mut wanted: SmallVec<[(u16, &mut [u8]); 2]> = bufs
            .iter_mut()
            .map(|(slot, buf)| (*slot, buf.as_mut_slice()))
            .collect();
        rebuild(band.row, &column, &mut wanted);
    }
    for (slot, buf) in bufs {
        band.old[usize::from(slot)] = Some(buf);
    }
}

#[cfg(test)]
mod tests;
