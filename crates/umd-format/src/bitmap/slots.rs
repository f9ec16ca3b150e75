//! The bitmap of a clustered array (version 5): one for each node, one behind the other.
//!
//! ```text
//!   bitmap offset
//!   | superblock, bits of node 0 | superblock, bits of node 1 | ... | of node n-1 |
//!   |<--- whole pages of 4 KiB ->|
//! ```
//!
//! A node writes its own bits only. What any of them has set may differ between members.
//! Facts: cluster.md section 13.

use super::{
    BitmapError, BitmapSuperblock, Fields, SUPERBLOCK_BYTES, State, Unverified, VERSION_CLUSTERED,
    VERSION_NORMAL, carried_over, check, on_disk_sectors,
};
use crate::bytes::put;
use crate::{SECTOR_BYTES, Uuid};

/// The most nodes there are: lock managers count them in a word.
pub const NODES_MAX: u32 = 64;

/// How the bitmaps of the nodes lie on a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slots {
    /// What the first one says.
    pub first: Fields,
    regions: u64,
}

/// The bitmap of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeBitmap {
    /// What its superblock says, or why it cannot be used.
    pub fields: Result<Fields, BitmapError>,
    /// Regions that it calls dirty, in order.
    pub dirty: Vec<u64>,
}

/// What all nodes together left behind, as bitmaps of a whole area each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merged {
    /// The area of node 0 with the bits of all, still of the cluster.
    pub clustered: Vec<u8>,
    /// The same as the bitmap of a plain array.
    pub plain: Vec<u8>,
    /// The superblock of that.
    pub superblock: BitmapSuperblock,
    /// Regions that some node calls dirty; all of them where one cannot be believed.
    pub dirty: u64,
}

impl Slots {
    /// The bitmaps of which the first begins with `head`, of the array with this identity.
    ///
    /// # Errors
    /// When the first one cannot be used, or is none of a cluster (`UnknownVersion`).
    pub fn of(head: &[u8], array: Uuid) -> Result<Slots, BitmapError> {
        let fields = Unverified::parse(head)?.fields;
        if fields.version != VERSION_CLUSTERED {
            return Err(BitmapError::UnknownVersion(fields.version));
        }
        check_node(&fields, array)?;
        check_nodes(&fields)?;
        let region = fields.region_bytes() / SECTOR_BYTES as u64;
        let regions = fields.sync_size_sectors.div_ceil(region);
        Ok(Slots {
            first: fields,
            regions,
        })
    }

    /// How many nodes have one.
    pub fn nodes(&self) -> u32 {
        self.first.nodes
    }

    /// The cluster's name.
    pub fn cluster(&self) -> String {
        self.first.cluster().expect("checked by `of`")
    }

    /// Regions that each of them covers.
    pub fn regions(&self) -> u64 {
        self.regions
    }

    /// Sectors that each of them takes.
    pub fn each_sectors(&self) -> u64 {
        on_disk_sectors(self.regions)
    }

    /// Sectors of all of them; they are 2^64 at the most.
    pub fn all_sectors(&self) -> u64 {
        self.each_sectors()
            .saturating_mul(u64::from(self.first.nodes))
    }

    /// The bitmap of each node in the bytes of all of them.
    ///
    /// # Panics
    /// When these are not `all_sectors` long.
    pub fn read(&self, area: &[u8], array: Uuid) -> Vec<NodeBitmap> {
        self.areas(area).map(|one| self.node(one, array)).collect()
    }

    /// What a node calls dirty, in regions of the first one.
    fn in_first(&self, node: &NodeBitmap) -> Vec<u64> {
        let to = sectors_of(&self.first);
        let from = node.fields.as_ref().map_or(to, sectors_of);
        carried_over(&node.dirty, from, to, self.regions)
    }

    fn areas<'a>(&self, area: &'a [u8]) -> std::slice::Chunks<'a, u8> {
        let all = self.all_sectors() * SECTOR_BYTES as u64;
        assert_eq!(area.len() as u64, all, "the bitmaps of all nodes");
        area.chunks(area.len() / self.first.nodes as usize)
    }

    fn node(&self, area: &[u8], array: Uuid) -> NodeBitmap {
        let found = Unverified::parse(area).map(|found| found.fields);
        let fields = found.and_then(|fields| {
            check_node(&fields, array)?;
            self.agrees(&fields)?;
            Ok(fields)
        });
        let set = |region: &u64| {
            let byte = area[SUPERBLOCK_BYTES + (region / 8) as usize];
            byte >> (region % 8) & 1 == 1
        };
        // Of a size that was being changed, bits that this node has not got yet are not there.
        let regions = match &fields {
            Ok(fields) if fields.region_raw != self.first.region_raw => {
                fields.sync_size_sectors.div_ceil(sectors_of(fields))
            }
            _ => self.regions,
        };
        NodeBitmap {
            fields,
            dirty: (0..regions).filter(set).collect(),
        }
    }

    /// Whether the bits of another node lie where they should.
    fn agrees(&self, fields: &Fields) -> Result<(), BitmapError> {
        // Of a size or a chunk that was being changed some may not know yet: then they begin where
        // they did.
        let each = on_disk_sectors(fields.sync_size_sectors.div_ceil(sectors_of(fields)));
        match fields.version == VERSION_CLUSTERED && each == self.each_sectors() {
            true => Ok(()),
            false => Err(BitmapError::Impossible(
                "the bitmaps of the nodes do not agree about the array".to_owned(),
            )),
        }
    }

    /// What all nodes left behind. What is dirty for any of them is dirty; everything is where a
    /// node's bitmap is out of date or cannot be read. `events` are those of the member.
    pub fn merge(&self, area: &[u8], array: Uuid, events: u64) -> Merged {
        let nodes = self.read(area, array);
        let own = area.len() / self.first.nodes as usize;
        // A size that only some know of was being changed when all ended.
        let size = self.first.sync_size_sectors;
        let stale = |fields: &Fields| {
            fields.state.contains(State::STALE) || fields.sync_size_sectors != size
        };
        let sizes = nodes.iter().filter_map(|node| node.fields.as_ref().ok());
        let size = sizes.map(|fields| fields.sync_size_sectors).max();
        let whole = nodes
            .iter()
            .any(|node| node.fields.as_ref().map_or(true, stale));
        let cleared = nodes.iter().filter_map(|node| node.fields.as_ref().ok());
        let cleared = cleared.map(|fields| fields.events_cleared).max();
        let mut clustered = area[..own].to_vec();
        for region in nodes.iter().flat_map(|node| self.in_first(node)) {
            clustered[SUPERBLOCK_BYTES + (region / 8) as usize] |= 1 << (region % 8);
        }
        if whole {
            clustered[SUPERBLOCK_BYTES..].fill(0xff);
        }
        let fields = Fields {
            version: VERSION_NORMAL,
            events: events.max(self.first.events),
            events_cleared: cleared.unwrap_or(0),
            state: self.first.state.without(State::STALE),
            sectors_reserved: 0,
            sync_size_sectors: size.unwrap_or(self.first.sync_size_sectors),
            nodes: 0,
            cluster_name: [0; 64],
            ..self.first.clone()
        };
        let raw = [0; SUPERBLOCK_BYTES];
        let superblock = BitmapSuperblock { raw, fields };
        let mut plain = clustered.clone();
        put(&mut plain, 0, &superblock.encode());
        let dirty = self.node(&clustered, array).dirty.len() as u64;
        Merged {
            clustered,
            plain,
            superblock,
            dirty,
        }
    }
}

fn sectors_of(fields: &Fields) -> u64 {
    (fields.region_bytes() / SECTOR_BYTES as u64).max(1)
}

pub(super) fn check_nodes(fields: &Fields) -> Result<(), BitmapError> {
    match (1..=NODES_MAX).contains(&fields.nodes) {
        true => Ok(()),
        false => {
            let text = format!("{} nodes (1 to {NODES_MAX} are possible)", fields.nodes);
            Err(BitmapError::Impossible(text))
        }
    }
}

pub(super) fn check_node(fields: &Fields, array: Uuid) -> Result<(), BitmapError> {
    if fields.uuid != array {
        return Err(BitmapError::WrongArray {
            found: fields.uuid,
            expected: array,
        });
    }
    check(fields)
}

/// The bytes of new bitmaps for `nodes` of the cluster with this name: all of node 0 is dirty, and
/// nothing of the others. `plain` is the superblock that a plain array would have.
///
/// # Panics
/// When a cluster cannot have so many nodes.
pub fn initial_slots(plain: &BitmapSuperblock, nodes: u32, name: [u8; 64]) -> Vec<u8> {
    assert!((1..=NODES_MAX).contains(&nodes), "nodes of a cluster");
    let mut superblock = plain.clone();
    superblock.fields.version = VERSION_CLUSTERED;
    superblock.fields.nodes = nodes;
    superblock.fields.cluster_name = name;
    let regions = superblock.regions(superblock.fields.sync_size_sectors);
    let bytes = on_disk_sectors(regions) * SECTOR_BYTES as u64;
    let each = usize::try_from(bytes).expect("a bitmap fits into memory");
    let mut all = Vec::with_capacity(each * nodes as usize);
    for node in 0..nodes {
        let start = all.len();
        all.resize(start + each, if node == 0 { 0xff } else { 0 });
        put(&mut all[start..], 0, &superblock.encode());
    }
    all
}
