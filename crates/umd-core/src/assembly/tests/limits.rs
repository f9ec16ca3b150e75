//! What is refused or left out before and after the question of freshness: other devices,
//! unsupported arrays, bitmaps, spares.

use umd_format::bitmap::{BitmapError, BitmapSuperblock, State};
use umd_format::v1::Features;
use umd_format::{Level, ParseError, Role, SuperblockV1, Uuid};

use super::*;
use crate::geometry::Raid0Error;

#[test]
fn two_members_in_one_slot_and_copies_are_refused() {
    let mut members = array(Level::Raid1, 3);
    let mut clone = members[0].clone();
    clone.id = MemberId(9);
    clone.name = "clone.img".to_owned();
    sb(&mut clone).fields.events = 3;
    members.push(clone);
    let text = "a.img and clone.img are copies of the same member - leave one of them out";
    assert_eq!(refused(forced(&members)), text);
    let fields = &mut sb(&mut members[3]).fields;
    fields.device_uuid = Uuid([0xcc; 16]);
    fields.events = 10;
    let text = "a.img and clone.img both claim slot 0 - leave one of them out";
    assert_eq!(refused(forced(&members)), text);
}

#[test]
fn devices_of_other_arrays_need_a_choice() {
    let mut members = array(Level::Raid1, 2);
    let mut other = array(Level::Raid5, 3).remove(2);
    other.id = MemberId(9);
    other.name = "x.img".to_owned();
    let fields = &mut sb(&mut other).fields;
    fields.set_uuid = Uuid([0xbb; 16]);
    fields.set_name[5] = b'q';
    members.push(other);
    let text = refused(plain(&members));
    assert!(
        text.contains("x.img to bbbbbbbb:") && text.ends_with("--uuid"),
        "{text}"
    );
    for wish in [
        Wish {
            uuid: Some(ARRAY),
            ..Wish::default()
        },
        Wish {
            name: Some("r".to_owned()),
            ..Wish::default()
        },
        Wish {
            name: Some("host:r".to_owned()),
            ..Wish::default()
        },
    ] {
        let plan = assemble(&members, &wish).expect("the choice is made");
        assert_eq!(
            (plan.ignored.len(), plan.ignored[0].member),
            (1, MemberId(9))
        );
    }
}

#[test]
fn devices_without_a_superblock_are_refused_by_name() {
    let mut members = array(Level::Raid1, 3);
    let small = ParseError::DeviceTooSmall {
        data_end_sectors: 40_960,
        device_sectors: 40_000,
    };
    for (fault, text) in [
        (
            ParseError::NoMagic { found: 0 }.into(),
            "c.img: no md superblock found",
        ),
        (
            small.into(),
            "c.img: device is too small: data ends at sector 40960",
        ),
        (
            ParseError::ByteSwapped.into(),
            "c.img: superblock of version 0.90 was written by a machine with the other byte order",
        ),
        (
            NoSuperblock::Unreadable("EIO".to_owned()),
            "c.img: superblock cannot be read: EIO",
        ),
    ] {
        members[2].superblock = Err(fault);
        let refusal = refused(plain(&members));
        assert!(refusal.starts_with(text), "{refusal}");
        for wish in [
            Wish {
                force: true,
                ..Wish::default()
            },
            Wish {
                uuid: Some(ARRAY),
                ..Wish::default()
            },
        ] {
            let plan = assemble(&members, &wish).expect("the others are enough");
            assert!(
                plan.ignored[0].text.starts_with("ignoring c.img: "),
                "{:?}",
                plan.ignored
            );
        }
    }
}

#[test]
fn what_cannot_be_run_yet_is_named() {
    let set = |bits: Features| move |one: &mut SuperblockV1| one.fields.features = bits;
    type Change = Box<dyn Fn(&mut SuperblockV1)>;
    let cases: Vec<(Change, &str)> = vec![
        (
            Box::new(set(Features::RESHAPE_ACTIVE)),
            "a reshape that is under way",
        ),
        (
            Box::new(set(Features::CLUSTERED)),
            "a clustered array (--update=no-cluster=NAME makes it a plain one)",
        ),
        (Box::new(set(Features::JOURNAL)), "a write journal"),
        (Box::new(set(Features::PPL)), "a partial parity log"),
        (
            Box::new(set(Features::MULTIPLE_PPLS)),
            "a partial parity log",
        ),
        (
            Box::new(|one| one.fields.level = Level::Multipath),
            "level multipath",
        ),
        (
            Box::new(|one| one.fields.level = Level::Other(7)),
            "level unknown level 7",
        ),
        (
            Box::new(|one| one.fields.layout = 7),
            "raid5 with layout 7 on 3 devices",
        ),
        (
            Box::new(|one| one.fields.logical_block_bytes = 8192),
            "an array with logical blocks of 8192 bytes",
        ),
    ];
    for (change, what) in cases {
        let mut members = array(Level::Raid5, 3);
        members.iter_mut().for_each(|one| change(sb(one)));
        for result in [plain(&members), forced(&members)] {
            assert!(
                refused(result).starts_with(&format!("{what} is not supported yet")),
                "{what}"
            );
        }
    }
}

#[test]
fn raid0_of_unequal_members_needs_its_layout() {
    let mut members = array(Level::Raid0, 3);
    for member in &mut members[1..] {
        sb(member).fields.data_size_sectors = 4096;
    }
    sb(&mut members[0]).fields.data_size_sectors = 2048;
    let refusal = plain(&members).expect_err("which of the two layouts?");
    assert_eq!(refusal.kind, RefusalKind::Raid0(Raid0Error::LayoutUnknown));
    for member in &mut members {
        let fields = &mut sb(member).fields;
        fields.features = Features::RAID0_LAYOUT;
        fields.layout = 1;
    }
    assert_eq!(
        plain(&members).expect("it is said").array_sectors,
        2048 + 2 * 4096
    );
}

#[test]
fn a_bitmap_serves_when_it_is_as_recent_as_the_array() {
    let mut members = array(Level::Raid1, 3);
    members[0].bitmap = Some(Err(BitmapError::NoMagic { found: 0 }));
    let events = |member: &mut MemberFacts, events| {
        let Some(Ok(bitmap)) = &mut member.bitmap else {
            panic!("it has one")
        };
        bitmap.fields.events = events;
    };
    events(&mut members[1], 9);
    let plan = plain(&members).expect("it starts");
    assert!(matches!(
        plan.bitmap,
        BitmapPlan::Usable {
            source: MemberId(3),
            ..
        }
    ));
    events(&mut members[2], 9);
    let plan = plain(&members).expect("it starts");
    assert!(matches!(
        plan.bitmap,
        BitmapPlan::Stale {
            source: MemberId(2),
            ..
        }
    ));
    events(&mut members[2], 11);
    let Some(Ok(bitmap)) = &mut members[2].bitmap else {
        panic!("it has one")
    };
    bitmap.fields.state = State::STALE;
    assert!(matches!(
        plain(&members).expect("it starts").bitmap,
        BitmapPlan::Stale { .. }
    ));
}

/// Hosts count bytes in 64 bits.
#[test]
fn an_array_of_all_bytes_that_can_be_counted_is_the_largest() {
    for level in [Level::Raid0, Level::Linear] {
        let chunk = 128;
        let most = u64::MAX / 512 / chunk * chunk;
        for (more, fits) in [(0, true), (chunk, false), (u64::MAX / 2, false)] {
            let mut members = array(Level::Raid0, 2);
            for member in &mut members {
                member.size_sectors = u64::MAX;
                let fields = &mut sb(member).fields;
                fields.level = level;
                fields.features = Features::RAID0_LAYOUT;
                fields.layout = if level == Level::Raid0 { 1 } else { 0 };
                fields.data_size_sectors = 1 << 40;
            }
            sb(&mut members[0]).fields.data_size_sectors = most - (1 << 40) + more;
            let found = plain(&members);
            assert_eq!(found.is_ok(), fits, "{level} {more}: {found:?}");
        }
    }
}

/// What would start an array on a plan that makes no sense stops here.
#[test]
fn a_plan_that_makes_no_sense_is_noticed() {
    type Break = fn(&mut Plan);
    let good = plain(&array(Level::Raid5, 3)).expect("it starts");
    good.check();
    let wrong: [(&str, Break); 9] = [
        ("an entry a slot", |plan| plan.slots.push(SlotPlan::Missing)),
        ("one shape", |plan| {
            plan.slots.push(SlotPlan::Missing);
            plan.raid_disks += 1;
        }),
        ("every block can be read", |plan| {
            plan.slots[..2].fill(SlotPlan::Missing)
        }),
        ("parity that may be wrong", |plan| {
            plan.slots[0] = SlotPlan::Missing;
            plan.reference = MemberId(2);
            plan.resync_offset_sectors = 0;
        }),
        ("bytes fit 64 bits", |plan| plan.array_sectors = u64::MAX),
        ("a logical block", |plan| plan.logical_block_bytes = 256),
        ("a member is used once", |plan| {
            plan.spares.push(MemberId(1))
        }),
        ("who describes the array", |plan| {
            plan.reference = MemberId(9)
        }),
        ("who is ignored is not used", |plan| {
            plan.ignored.push(Reason {
                member: MemberId(1),
                text: String::new(),
            });
        }),
    ];
    for (why, break_it) in wrong {
        let mut plan = good.clone();
        break_it(&mut plan);
        let check = std::panic::AssertUnwindSafe(|| plan.check());
        let panic = std::panic::catch_unwind(check).expect_err(why);
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
        let text = text.expect("a panic with a text");
        assert!(text.contains(why), "{why}: {text}");
    }
}

/// Bits that reach over what belongs to others would be written over that.
#[test]
fn a_bitmap_has_to_lie_between_superblock_data_and_the_end_of_the_device() {
    let members = array(Level::Raid1, 1);
    let fields = &members[0].superblock.as_ref().expect("it has one").fields;
    let Some(Ok(superblock)) = &members[0].bitmap else {
        panic!("it has one")
    };
    let regions = superblock.regions(fields.size_sectors);
    let area = superblock.area_bytes(regions).div_ceil(512);
    let super_sector = fields.super_offset_sectors;
    let behind = super_sector
        + members[0]
            .superblock
            .as_ref()
            .map_or(0, SuperblockV1::sectors);
    // Where the bitmap begins, where the data does and how much there is, and whether that can be.
    let end = DEVICE_SECTORS;
    for (at, data, data_sectors, fits) in [
        (16, 2048, end - 2048, true),
        (16, 16 + area, end - 16 - area, true),
        (16, 16 + area - 1, end - 16 - area, false),
        (behind, 2048, end - 2048, true),
        (behind - 1, 2048, end - 2048, false),
        (super_sector - area, 2048, end - 2048, true),
        (super_sector - area + 1, 2048, end - 2048, false),
        (end - area, 2048, end - 2048 - area, true),
        (end - area, 2048, end - 2048 - area + 1, false),
        (end - area + 1, 2048, end - 2048 - area, false),
        (end - area + 9, 2048, end - 2048 - area, false),
    ] {
        let mut members = members.clone();
        let fields = &mut sb(&mut members[0]).fields;
        fields.bitmap_offset_raw = (at as i32 - super_sector as i32) as u32;
        fields.data_offset_sectors = data;
        fields.data_size_sectors = data_sectors;
        fields.size_sectors = fields.size_sectors.min(data_sectors);
        let found = plain(&members);
        assert_eq!(found.is_ok(), fits, "{at} {data} {data_sectors}: {found:?}");
    }
}

#[test]
fn a_bitmap_damaged_everywhere_needs_force() {
    let mut members = array(Level::Raid1, 2);
    members[0].bitmap = None;
    let region = 1 << 10;
    let oversized = BitmapSuperblock::new(ARRAY, DEVICE_SECTORS, region);
    members[1].bitmap = Some(Ok(oversized));
    for member in &mut members {
        sb(member).fields.data_offset_sectors = 18;
        sb(member).fields.data_size_sectors = DEVICE_SECTORS - 2048;
    }
    let text = refused(plain(&members));
    assert!(
        text.starts_with("the bitmap cannot be used (b.img: its bits would reach"),
        "{text}"
    );
    let readonly = Wish {
        readonly: true,
        ..Wish::default()
    };
    for plan in [forced(&members), assemble(&members, &readonly)] {
        let plan = plan.expect("it starts without");
        assert_eq!((plan.bitmap, plan.warnings.len()), (BitmapPlan::None, 1));
    }
    for (error, what) in [
        (
            BitmapError::FirstUse,
            "a lockless bitmap that was never initialised is not supported yet (b.img)",
        ),
        (
            BitmapError::Clustered,
            "a clustered bitmap (version 5) is not supported yet (b.img)",
        ),
    ] {
        members[1].bitmap = Some(Err(error));
        assert!(refused(forced(&members)).starts_with(what));
    }
}

#[test]
fn spares_are_taken_unless_they_are_unfit() {
    let mut members = array(Level::Raid1, 2);
    members.push(spare(&members, 3));
    members.push(spare(&members, 2));
    let mut failed = spare(&members, 4);
    sb(&mut failed).fields.events = 9;
    sb(&mut members[0]).fields.set_role(4, Role::Faulty);
    members.push(failed);
    let mut small = spare(&members, 5);
    sb(&mut small).fields.data_size_sectors -= 7;
    members.push(small);
    let mut twin = spare(&members, 3);
    twin.id = MemberId(200);
    sb(&mut twin).fields.device_uuid = Uuid([0x99; 16]);
    members.push(twin);
    let plan = plain(&members).expect("it starts");
    assert_eq!(plan.spares, [MemberId(102), MemberId(103)]);
    assert_eq!(plan.drives(), "2 drives and 2 spares");
    let texts: Vec<&str> = plan.ignored.iter().map(|one| one.text.as_str()).collect();
    assert_eq!(
        texts,
        [
            "ignoring spare4.img: a.img says that it has failed",
            "ignoring spare5.img: it is too small by 7 sectors",
            "ignoring spare3.img: its device number 3 is that of spare3.img"
        ]
    );
}

#[test]
fn the_freshest_members_decide_whether_the_array_is_clean() {
    let mut members = array(Level::Raid1, 2);
    sb(&mut members[0]).fields.resync_offset_sectors = 4096;
    assert_eq!(
        plain(&members).expect("it starts").resync_offset_sectors,
        4096
    );
    sb(&mut members[1]).fields.events = 11;
    assert_eq!(
        plain(&members).expect("it starts").resync_offset_sectors,
        crate::value::MAX_SECTOR
    );
}

#[test]
fn bytes_that_other_kernels_refuse_are_reported() {
    let mut members = array(Level::Raid1, 2);
    members[1].logical_block_bytes = 4096;
    sb(&mut members[0]).fields.logical_block_bytes = 512;
    let plan = plain(&members).expect("it starts");
    assert_eq!(
        plan.warnings,
        ["kernels up to 6.18 refuse this array: \
         its logical block size (512) is recorded, at byte 224 of the superblock; \
             assemble with --update=lbs=0 to take it out"]
    );
    assert_eq!(plan.logical_block_bytes, 4096);
}

/// A spare that was away while the array changed its shape: with a slot it would contradict the
/// others, and the array would not start again.
#[test]
fn a_spare_of_another_shape_is_left_out() {
    let mut members = array(Level::Raid5, 4);
    let mut old = spare(&members, 4);
    sb(&mut old).fields.layout = 1;
    members.push(old);
    let plan = plain(&members).expect("it starts");
    assert_eq!(plan.spares, []);
    let text = "ignoring spare4.img: its layout is not that of a.img";
    assert_eq!(plan.ignored[0].text, text);
    let fields = &mut sb(&mut members[4]).fields;
    fields.layout = 2;
    fields.features = fields.features.with(Features::CLUSTERED);
    let plan = plain(&members).expect("it starts");
    let text = "ignoring spare4.img: it belongs to a clustered array \
                (--update=no-cluster=NAME makes it a plain one)";
    assert_eq!(plan.ignored[0].text, text);
    let fields = &mut sb(&mut members[4]).fields;
    fields.features = Features::default();
    let plan = plain(&members).expect("it starts");
    let text = "ignoring spare4.img: its bitmap is not where that of a.img is";
    assert_eq!(plan.ignored[0].text, text);
    let features = sb(&mut members[0]).fields.features;
    sb(&mut members[4]).fields.features = features.with(Features::REPLACEMENT);
    let plan = plain(&members).expect("it starts");
    let text = "ignoring spare4.img: it was to replace another member";
    assert_eq!(plan.ignored[0].text, text);
}
