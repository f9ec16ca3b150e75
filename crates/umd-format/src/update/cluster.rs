//! A member of a clustered array becomes one of a plain array.
//!
//! ```text
//!   1  bitmap of node 0 := bits of all nodes       still of the cluster, and right
//!   2  its superblock   := version 4               the other nodes' bits are not needed any more
//!   3  superblock       := without the feature     a plain array
//! ```
//!
//! Cut short between two of them it is done again: bits are only added before 3. A member that was
//! about to join one (see `join`) has steps 1 and 2 before it, too.

use super::{Change, UpdateError, no};
use crate::SuperblockV1;
use crate::bitmap::{BitmapError, BitmapSuperblock, Slots, Unverified};
use crate::v1::{Features, Role};

/// The bitmap area of a member, as far as it is needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Nodes {
    /// The bitmaps of all nodes.
    Clustered(Box<Slots>, Vec<u8>),
    /// Step 2 was done before.
    Merged(Box<BitmapSuperblock>),
    /// There is none, or none that can be used.
    None(BitmapError),
}

impl Nodes {
    /// What lies behind a bitmap superblock: `head` is that, and `read` gives so many sectors from
    /// there on, or `None`.
    pub fn of(
        found: &SuperblockV1,
        head: &[u8],
        read: impl FnOnce(u64) -> Option<Vec<u8>>,
    ) -> Nodes {
        let array = found.bitmap_uuid();
        let slots = match Slots::of(head, array) {
            Ok(slots) => slots,
            Err(why) => {
                let plain = Unverified::parse(head).and_then(|plain| plain.verify(array));
                return plain.map_or(Nodes::None(why), |plain| Nodes::Merged(Box::new(plain)));
            }
        };
        let fields = &found.fields;
        let start = fields.bitmap_sector();
        let end = start.and_then(|start| start.checked_add(slots.all_sectors()));
        let fits = end.is_some_and(|end| end <= fields.data_offset_sectors);
        let area = fits.then(|| read(slots.all_sectors())).flatten();
        match area {
            Some(area) => Nodes::Clustered(Box::new(slots), area),
            None => Nodes::None(BitmapError::Impossible(format!(
                "the bitmaps of {} nodes cannot be read in front of the data",
                slots.nodes()
            ))),
        }
    }
}

/// Computes the change for one member of the cluster that is called `cluster`.
///
/// # Errors
/// When it is not in that cluster, or has a role and no bitmaps that can be used.
pub fn leave(
    found: &SuperblockV1,
    nodes: &Nodes,
    cluster: Option<&str>,
    block_bytes: usize,
) -> Result<Change, UpdateError> {
    let mut superblock = found.clone();
    let fields = &mut superblock.fields;
    let in_cluster = fields.features.contains(Features::CLUSTERED);
    if !in_cluster && !matches!(nodes, Nodes::Clustered(..)) {
        let bitmap = match nodes {
            Nodes::Merged(plain) => Some((**plain).clone()),
            _ => None,
        };
        return Ok(Change {
            superblock,
            bitmap,
            writes: Vec::new(),
        });
    }
    let mut writes = Vec::new();
    let mut new = None;
    match nodes {
        Nodes::Clustered(slots, area) => {
            confirm(&slots.cluster(), cluster)?;
            let merged = slots.merge(area, found.bitmap_uuid(), found.fields.events);
            let at = fields.bitmap_sector().expect("they were read there");
            writes = vec![(at, merged.clustered), (at, merged.plain)];
            new = Some(merged.superblock);
            if merged.dirty > 0 {
                fields.resync_offset_sectors = 0;
            }
        }
        // Its bits are all there, and may be needed.
        Nodes::Merged(plain) => {
            new = Some((**plain).clone());
            fields.resync_offset_sectors = 0;
        }
        Nodes::None(why) if matches!(fields.own_role(), Role::Active(_)) => {
            return no(format!(
                "{why}, so nobody knows what its nodes have written"
            ));
        }
        Nodes::None(_) => {}
    }
    fields.features = fields.features.without(Features::CLUSTERED);
    let bytes = superblock.encode(block_bytes);
    writes.push((superblock.fields.super_offset_sectors, bytes));
    Ok(Change {
        superblock,
        bitmap: new,
        writes,
    })
}

/// Whoever takes members out of a cluster says which, and has thought of its other hosts.
fn confirm(stored: &str, said: Option<&str>) -> Result<(), UpdateError> {
    match said {
        Some(said) if said == stored => Ok(()),
        Some(said) => no(format!("it belongs to cluster '{stored}', not '{said}'")),
        None => no(format!(
            "it belongs to cluster '{stored}', whose hosts may be running it: stop it on all of \
             them, and say --update=no-cluster={stored}"
        )),
    }
}
