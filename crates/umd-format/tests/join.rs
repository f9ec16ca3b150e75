//! A plain array becomes one of a cluster: what is dirty stays so, wherever that is cut short, and
//! what a cluster cannot run is refused.

use proptest::prelude::*;
use umd_format::bitmap::*;
use umd_format::create::{NewArray, NewMember, new_array};
use umd_format::space::RegionWish;
use umd_format::update::cluster::{Nodes, leave};
use umd_format::update::join::{Before, Joined, Member, join};
use umd_format::v1::{DeviceFlags, Features, Fields, Role};
use umd_format::{Format, Level, SuperblockV1, Uuid};

const ARRAY: Uuid = Uuid([7; 16]);
const DEVICE: u64 = 65_536;
const HEAD: usize = 1024 * 512;

fn new(bitmap: Option<RegionWish>, log: bool) -> NewArray {
    let member = |index: u8| {
        Some(NewMember {
            device_sectors: DEVICE,
            device_uuid: Uuid([index; 16]),
            flags: DeviceFlags::default(),
        })
    };
    NewArray {
        format: Format::V1_2,
        set_uuid: ARRAY,
        name: "r".into(),
        preferred_minor: 0,
        ctime_seconds: 1_700_000_000,
        level: Level::Raid1,
        layout: 0,
        chunk_sectors: 0,
        size_sectors: None,
        data_offset_sectors: Some(1024),
        bitmap,
        bad_block_log: log,
        assume_clean: true,
        slots: vec![member(1), member(2)],
        spares: Vec::new(),
    }
}

/// What lies in front of the data of both members, where these regions are dirty.
fn made(array: &NewArray, dirty: &[u64]) -> Vec<Vec<u8>> {
    let made = new_array(array).expect("an array");
    let write = |found: &SuperblockV1| {
        let mut bytes = vec![0xee; HEAD];
        if let Some(bitmap) = &made.bitmap {
            let mut area = initial_image(bitmap);
            area[SUPERBLOCK_BYTES..].fill(0);
            for region in dirty {
                let (byte, mask) = bit_position(*region);
                area[byte as usize] |= mask;
            }
            put(
                &mut bytes,
                found.fields.bitmap_sector().expect("a bitmap"),
                &area,
            );
        }
        put(&mut bytes, 8, &found.encode(512));
        bytes
    };
    made.slots.iter().flatten().map(write).collect()
}

fn put(bytes: &mut [u8], sector: u64, new: &[u8]) {
    let at = sector as usize * 512;
    bytes[at..at + new.len()].copy_from_slice(new);
}

fn superblock(bytes: &[u8]) -> SuperblockV1 {
    SuperblockV1::load(&bytes[4096..8192], Format::V1_2, DEVICE).expect("a superblock")
}

fn edit(bytes: &mut [u8], edit: impl Fn(&mut Fields)) {
    let mut found = superblock(bytes);
    edit(&mut found.fields);
    put(bytes, 8, &found.encode(512));
}

fn read(bytes: &[u8], at: u64) -> impl Fn(u64) -> Option<Vec<u8>> + '_ {
    move |sectors| {
        let (from, len) = (at as usize * 512, sectors as usize * 512);
        bytes.get(from..from + len).map(<[u8]>::to_vec)
    }
}

fn joined(set: &[Vec<u8>], nodes: Option<u32>) -> Result<Joined, String> {
    let found: Vec<SuperblockV1> = set.iter().map(|one| superblock(one)).collect();
    let members = found.iter().zip(set).map(|(found, bytes)| {
        let at = found.fields.bitmap_sector().unwrap_or(0);
        Member {
            found,
            before: Before::of(found, read(bytes, at)),
            block_bytes: 512,
        }
    });
    let members: Vec<Member<'_>> = members.collect();
    join(&members, "hall", nodes).map_err(|refused| {
        let at = refused
            .member
            .map_or(String::new(), |one| format!("{one}: "));
        format!("{at}{refused}")
    })
}

/// Of each node what is dirty on a member of the cluster.
fn nodes(bytes: &[u8]) -> Vec<Vec<u64>> {
    let found = superblock(bytes);
    assert!(found.fields.features.contains(Features::CLUSTERED));
    let at = found.fields.bitmap_sector().expect("bitmaps");
    let slots = Slots::of(&bytes[at as usize * 512..], ARRAY).expect("of a cluster");
    assert_eq!(slots.cluster(), "hall");
    assert!(at + slots.all_sectors() <= found.fields.data_offset_sectors);
    let area = read(bytes, at)(slots.all_sectors()).expect("it is there");
    let read = slots.read(&area, ARRAY).into_iter().map(|node| {
        let fields = node.fields.expect("each is one");
        assert_eq!(fields.events, found.fields.events);
        assert_eq!((fields.write_behind, fields.state), (0, State::default()));
        assert_eq!(fields.sync_size_sectors, found.fields.size_sectors);
        node.dirty
    });
    read.collect()
}

/// What is resynced if the plain array on this member is started: `None` if it cannot be.
fn plain(bytes: &[u8]) -> Option<Vec<(u64, u64)>> {
    let found = superblock(bytes);
    if found.fields.features.contains(Features::CLUSTERED) {
        return None;
    }
    let size = found.fields.size_sectors;
    let Some(at) = found.fields.bitmap_sector() else {
        return Some(vec![(0, if found.fields.is_clean() { 0 } else { size })]);
    };
    let at = at as usize * 512;
    let bitmap = Unverified::parse(&bytes[at..]).and_then(|one| one.verify(ARRAY));
    let bitmap = bitmap.ok()?;
    if bitmap.is_stale(found.fields.events) {
        return Some(vec![(0, size)]);
    }
    let region = bitmap.fields.region_bytes() / 512;
    let set = |region: &u64| {
        let (byte, mask) = bit_position(*region);
        bytes[at + byte as usize] & mask != 0
    };
    let regions = (0..bitmap.regions(size)).filter(set);
    Some(
        regions
            .map(|one| (one * region, (one + 1) * region))
            .collect(),
    )
}

fn covers(areas: &[(u64, u64)], sector: u64) -> bool {
    areas
        .iter()
        .any(|(from, to)| (*from..*to).contains(&sector))
}

/// All writes up to a cut, in the order in which they are made.
fn write(set: &mut [Vec<u8>], joined: &Joined, mut cut: usize) -> usize {
    let mut done = 0;
    for (bytes, change) in set.iter_mut().zip(&joined.changes) {
        for (sector, new) in &change.writes {
            if cut == 0 {
                return done;
            }
            (cut, done) = (cut - 1, done + 1);
            put(bytes, *sector, new);
        }
    }
    done
}

/// So many bits that those of 61 nodes do not fit.
const SMALL: u32 = 512;

fn array(region: u32, log: bool, dirty: &[u64]) -> Vec<Vec<u8>> {
    let mut set = made(&new(Some(RegionWish::Bytes(region.max(4096))), log), dirty);
    for bytes in set.iter_mut().filter(|_| region < 4096) {
        let found = superblock(bytes);
        let bitmap = BitmapSuperblock::new(ARRAY, found.fields.size_sectors, region);
        let mut area = initial_image(&bitmap);
        area[SUPERBLOCK_BYTES..].fill(0);
        for region in dirty {
            let (byte, mask) = bit_position(*region);
            area[byte as usize] |= mask;
        }
        put(bytes, 16, &area);
    }
    set
}

fn unclean(set: &mut [Vec<u8>]) {
    let unclean = |fields: &mut Fields| fields.resync_offset_sectors = 0;
    set.iter_mut().for_each(|one| edit(one, unclean));
}

#[test]
fn it_is_done_again_wherever_it_was_cut_short() {
    let dirty = [0, 5, 6, 7001];
    for (region, log, wide, then) in [
        (4096_u32, true, None, 4096_u32),
        (4096, false, Some(64), 4096),
        (SMALL, false, Some(61), 1024),
        (SMALL, false, Some(64), 2048),
    ] {
        let mut before = array(region, log, &dirty);
        unclean(&mut before);
        let writes = |of: &Joined| of.changes.iter().map(|one| one.writes.len()).sum::<usize>();
        let whole = joined(&before, wide).expect("it can join");
        let smaller = (then > region).then_some(u64::from(region));
        assert_eq!(
            (whole.region_bytes, whole.smaller_bytes),
            (then.into(), smaller)
        );
        let each = 3 + usize::from(log) + usize::from(then > region);
        assert_eq!(writes(&whole), 2 * each);
        let mut wanted: Vec<u64> = dirty
            .map(|one| one * u64::from(region) / u64::from(then))
            .into();
        wanted.dedup();
        for cut in 0..=2 * each {
            let mut set = before.clone();
            let first = joined(&set, wide).expect("it can join");
            assert_eq!(write(&mut set, &first, cut), cut);
            for areas in set.iter().filter_map(|bytes| plain(bytes)) {
                for one in dirty {
                    let sector = one * u64::from(region) / 512;
                    assert!(covers(&areas, sector), "{cut} writes: {areas:?}");
                }
            }
            // How many nodes need not be said again.
            let again = joined(&set, wide.filter(|_| cut < each)).expect("again");
            write(&mut set, &again, usize::MAX);
            for bytes in &set {
                let found = nodes(bytes);
                assert_eq!(found.len() as u32, wide.unwrap_or(4));
                assert!(found[1..].iter().all(Vec::is_empty), "{cut}");
                let regions = superblock(bytes)
                    .fields
                    .size_sectors
                    .div_ceil(u64::from(then) / 512);
                let all = then > region && found[0].len() as u64 == regions;
                assert!(found[0] == wanted || all, "{cut} writes: {:?}", found[0]);
                let fields = superblock(bytes).fields;
                assert_eq!(
                    (fields.resync_offset_sectors, fields.bblog_offset_sectors),
                    (0, 0)
                );
            }
            let over = joined(&set, None).expect("nothing to do");
            assert_eq!(writes(&over), 0);
        }
    }
}

/// One way and back, and back from the middle of the way.
#[test]
fn who_leaves_the_cluster_again_has_the_same_regions_to_resync() {
    let dirty = [3, 800, 8000];
    for cut in 0..=6 {
        let mut set = array(4096, false, &dirty);
        unclean(&mut set);
        let to = joined(&set, Some(3)).expect("it can join");
        write(&mut set, &to, cut);
        for bytes in &mut set {
            let found = superblock(bytes);
            let nodes = Nodes::of(&found, &bytes[8192..8192 + 256], read(bytes, 16));
            let back = leave(&found, &nodes, Some("hall"), 512).expect("it can leave");
            for (sector, new) in &back.writes {
                put(bytes, *sector, new);
            }
            let areas = plain(bytes).expect("a plain array");
            let wanted: Vec<(u64, u64)> = dirty.iter().map(|one| (one * 8, one * 8 + 8)).collect();
            assert_eq!(areas, wanted, "{cut}");
            assert!(!superblock(bytes).fields.is_clean());
            let again = Nodes::of(
                &superblock(bytes),
                &bytes[8192..8192 + 256],
                read(bytes, 16),
            );
            let nothing = leave(&superblock(bytes), &again, Some("hall"), 512);
            assert!(nothing.expect("it has left").writes.is_empty());
        }
    }
}

#[test]
fn what_is_not_known_to_be_the_same_is_dirty() {
    // Without a bitmap: what its resync has not reached.
    let without = || made(&new(None, true), &[]);
    let first = |set: &[Vec<u8>]| {
        let mut set = set.to_vec();
        let change = joined(&set, Some(2)).expect("it can join");
        write(&mut set, &change, usize::MAX);
        let found = set
            .iter()
            .map(|one| (nodes(one), superblock(one).fields.is_clean()));
        let found: Vec<_> = found.collect();
        assert_eq!(found[0], found[1]);
        assert_eq!(found[0].0.len(), 2);
        (found[0].0[0].clone(), found[0].1)
    };
    assert_eq!(first(&without()), (vec![], true));
    let mut set = without();
    unclean(&mut set);
    assert_eq!(first(&set), (vec![0], false));
    // One bit for each 64 MiB: those of a larger array than the one here.
    let mut larger = new(None, false);
    for one in larger.slots.iter_mut().flatten() {
        one.device_sectors = 1 << 21;
    }
    let made_larger = new_array(&larger).expect("an array");
    let mut found: Vec<SuperblockV1> = made_larger.slots.iter().flatten().cloned().collect();
    for one in &mut found {
        one.fields.resync_offset_sectors = 131_072 * 3 + 5;
    }
    let member = |found| Member {
        found,
        before: Before::None,
        block_bytes: 4096,
    };
    let members: Vec<Member<'_>> = found.iter().map(member).collect();
    let change = join(&members, "hall", Some(2)).expect("it can join");
    assert_eq!(change.dirty, 16 - 3);
    // Out of date: all. One member's bits are the other's.
    let mut set = array(4096, false, &[1]);
    let (byte, mask) = bit_position(77);
    set[1][8192 + byte as usize] |= mask;
    assert_eq!(first(&set), (vec![1, 77], false));
    set[0][8192 + 48] |= 2;
    assert_eq!(
        first(&set).0.len() as u64,
        superblock(&set[0]).fields.size_sectors / 8
    );
}

#[test]
fn what_a_cluster_cannot_run_is_refused() {
    let set = || array(4096, true, &[1]);
    let refused = |set: &[Vec<u8>], nodes| joined(set, nodes).expect_err("refused");
    let edited = |change: &dyn Fn(&mut Fields)| {
        let mut set = set();
        edit(&mut set[1], change);
        refused(&set, None)
    };
    let feature =
        |feature: Features| edited(&|fields| fields.features = fields.features.with(feature));
    let bad = feature(Features::BAD_BLOCKS);
    assert!(bad.contains("1: its bad-block log is not empty"), "{bad}");
    assert!(feature(Features::RECOVERY_OFFSET).contains("being filled"));
    assert!(feature(Features::CLUSTERED).contains("its bitmaps cannot be used"));
    let flagged = |fields: &mut Fields| fields.flags = DeviceFlags::WRITE_MOSTLY;
    assert!(edited(&flagged).contains("write-mostly"));
    let later = |fields: &mut Fields| fields.events += 2;
    assert!(edited(&later).starts_with("0: it is out of date"));
    let failed = |fields: &mut Fields| {
        fields.events += 1;
        fields.roles[0] = Role::Faulty;
    };
    assert!(edited(&failed).starts_with("0: it is out of date"));
    let other = |fields: &mut Fields| fields.size_sectors -= 2;
    assert!(edited(&other).contains("assemble it first"));
    assert!(refused(&set(), Some(1)).contains("2 to 64 nodes"));
    let mut broken = set();
    broken[0][8192] ^= 1;
    assert!(refused(&broken, None).starts_with("0: its bitmap cannot be used"));
    // Fields of the wrong kind for the whole array.
    let whole = |change: &dyn Fn(&mut Fields)| {
        let mut set = set();
        set.iter_mut().for_each(|one| edit(one, change));
        refused(&set, None)
    };
    let parity = |fields: &mut Fields| {
        (fields.level, fields.layout, fields.chunk_sectors) = (Level::Raid5, 2, 8);
    };
    assert!(whole(&parity).contains("not raid5"));
    assert!(whole(&|fields| fields.bitmap_offset_raw = 16).contains("not behind its superblock"));
    let far = |fields: &mut Fields| {
        (fields.level, fields.layout, fields.chunk_sectors) = (Level::Raid10, 0x201, 128);
    };
    assert!(whole(&far).contains("near layout"));
    // Room for 126 pages in front of the data, less than that for all.
    let mut near = new(Some(RegionWish::Bytes(65_536)), false);
    near.data_offset_sectors = Some(40);
    let tight = made(&near, &[]);
    let text = refused(&tight, None);
    assert!(
        text.contains("bitmaps of 4 nodes do not fit") && text.contains("those of 3 fit"),
        "{text}"
    );
    assert!(joined(&tight, Some(3)).is_ok());
}

#[test]
fn what_was_begun_is_finished_as_it_was_begun() {
    let mut set = array(4096, false, &[1]);
    let change = joined(&set, Some(5)).expect("it can join");
    write(&mut set, &change, 3);
    let text = joined(&set, Some(4)).expect_err("other nodes");
    assert!(
        text.starts_with("0: ") && text.contains("say --nodes=5"),
        "{text}"
    );
    set[0][8192 + 72] = b'b';
    let text = joined(&set, None).expect_err("another cluster");
    assert!(
        text.contains("it belongs to cluster 'ball', not 'hall'"),
        "{text}"
    );
}

proptest! {
    #[test]
    fn every_dirty_sector_stays_dirty(
        marks in prop::collection::vec((0_usize..2, 0_u64..64_000), 0..30),
        wide in 2_u32..=64,
        small in any::<bool>(),
    ) {
        let region = if small { SMALL } else { 4096 };
        let mut set = array(region, false, &[]);
        let unit = u64::from(region) / 512;
        for (member, sector) in &marks {
            let (byte, mask) = bit_position(sector / unit);
            set[*member][8192 + byte as usize] |= mask;
        }
        let change = joined(&set, Some(wide)).expect("it can join");
        write(&mut set, &change, usize::MAX);
        let then = change.region_bytes / 512;
        let marked = marks.iter().map(|(_, sector)| sector / unit * unit / then);
        let mut wanted: Vec<u64> = marked.collect();
        wanted.sort_unstable();
        wanted.dedup();
        prop_assert_eq!(change.dirty, wanted.len() as u64);
        for bytes in &set {
            prop_assert_eq!(&nodes(bytes)[0], &wanted);
        }
    }
}
