//! Whether the write-intent bitmap can be used.

use umd_format::Level;
use umd_format::bitmap::{BitmapError, BitmapSuperblock};
use umd_format::v1::{Features, Fields};

use super::decide::raid10;
use super::facts::Wish;
use super::plan::BitmapPlan;
use super::refusal::RefusalKind;
use super::select::Candidate;
use crate::value::SECTOR_BYTES;

/// Decides on the bitmap of the array of `reference`. `sources` are the in-sync members in slot
/// order, those that were not raised by force first; `trusted` is the number of those.
///
/// All members hold the same bits: they are durable on all of them before any data is written. So
/// the first one that is up to date serves. One that is older than the array may lack bits.
pub(super) fn decide(
    reference: &Candidate<'_>,
    sources: &[Candidate<'_>],
    trusted: usize,
    wish: &Wish,
    warnings: &mut Vec<String>,
) -> Result<BitmapPlan, RefusalKind> {
    let fields = &reference.superblock.fields;
    if !fields.features.contains(Features::BITMAP_OFFSET) {
        return Ok(BitmapPlan::None);
    }
    let mut outdated = None;
    let mut fault = (reference.name(), "it was not read".to_owned());
    for (index, candidate) in sources.iter().enumerate() {
        if let Some(what) = unsupported(candidate, wish) {
            let (what, member) = (what.to_owned(), candidate.name().to_owned());
            return Err(RefusalKind::NotSupported { what, member });
        }
        let superblock = match bitmap_of(candidate) {
            Ok(superblock) => superblock.clone(),
            Err(why) => {
                fault = (candidate.name(), why);
                continue;
            }
        };
        let source = candidate.facts.id;
        if index < trusted && !superblock.is_stale(fields.events) {
            return Ok(BitmapPlan::Usable { source, superblock });
        }
        outdated = outdated.or(Some(BitmapPlan::Stale { source, superblock }));
    }
    if let Some(stale) = outdated {
        return Ok(stale);
    }
    let (member, why) = fault;
    if wish.force || wish.readonly {
        warnings.push(format!("the bitmap is not used ({member}: {why})"));
        return Ok(BitmapPlan::None);
    }
    Err(RefusalKind::Bitmap {
        member: member.to_owned(),
        why,
    })
}

fn unsupported(candidate: &Candidate<'_>, wish: &Wish) -> Option<&'static str> {
    match &candidate.facts.bitmap {
        Some(Err(BitmapError::FirstUse)) => Some("a lockless bitmap that was never initialised"),
        Some(Err(BitmapError::Clustered)) => Some("a clustered bitmap (version 5)"),
        Some(Ok(one)) if one.is_clustered() && !wish.clustered => {
            Some("a clustered bitmap (version 5)")
        }
        Some(Ok(one)) if !one.is_clustered() && wish.clustered => {
            Some("a plain bitmap in a cluster")
        }
        _ => None,
    }
}

/// What a bitmap covers: the data of each member, or a RAID10 as a whole. (layouts.md section 5)
fn covered_sectors(fields: &Fields) -> u64 {
    match raid10(fields) {
        Ok(map) if fields.level == Level::Raid10 => map.array_sectors(),
        _ => fields.size_sectors,
    }
}

/// The bitmap on one member, or why it cannot be used.
fn bitmap_of<'a>(candidate: &Candidate<'a>) -> Result<&'a BitmapSuperblock, String> {
    let superblock = match &candidate.facts.bitmap {
        None => return Err("it was not read".to_owned()),
        Some(Err(why)) => return Err(why.to_string()),
        Some(Ok(superblock)) => superblock,
    };
    let fields = &candidate.superblock.fields;
    let start = fields
        .bitmap_sector()
        .ok_or("its place is not on the device")?;
    let regions = superblock.regions(covered_sectors(fields));
    let sectors = match superblock.is_clustered() {
        true => superblock.area_sectors(regions) * u64::from(superblock.fields.nodes),
        false => superblock.area_bytes(regions).div_ceil(SECTOR_BYTES),
    };
    let end = start.saturating_add(sectors);
    let data_end = fields.data_offset_sectors + fields.data_size_sectors;
    let super_end = fields.super_offset_sectors + candidate.superblock.sectors();
    let overlaps = |from: u64, to: u64| start < to && from < end;
    if end > candidate.facts.size_sectors
        || overlaps(fields.data_offset_sectors, data_end)
        || overlaps(fields.super_offset_sectors, super_end)
    {
        return Err(format!("its bits would reach from sector {start} to {end}"));
    }
    Ok(superblock)
}
