//! Assembly, case by case. What is refused whoever is fresh is in `limits`, histories at random
//! are in `history`, nonsense in `nonsense`, what must make no difference in `metamorphic`.

mod history;
mod limits;
mod metamorphic;
mod nonsense;
mod replace;

use umd_format::create::{NewArray, NewMember, new_array, spare_for};
use umd_format::space::RegionWish;
use umd_format::v1::{DeviceFlags, Features};
use umd_format::{Format, Level, Role, SuperblockV1, Uuid};

use super::*;
use crate::value::{Events, MemberId};

const DEVICE_SECTORS: u64 = 40_960;
const ARRAY: Uuid = Uuid([0xaa; 16]);

/// Facts of the members of a clean array with these members, all at events 10.
pub(super) fn array(level: Level, members: usize) -> Vec<MemberFacts> {
    let new = |index: usize| NewMember {
        device_sectors: DEVICE_SECTORS,
        device_uuid: Uuid([index as u8 + 1; 16]),
        flags: DeviceFlags::default(),
    };
    let created = new_array(&NewArray {
        preferred_minor: 0,
        format: Format::V1_2,
        set_uuid: ARRAY,
        name: "host:r".to_owned(),
        ctime_seconds: 1_577_836_800,
        level,
        layout: if matches!(level, Level::Raid5 | Level::Raid6) {
            2
        } else {
            0
        },
        chunk_sectors: if level.is_striped() { 128 } else { 0 },
        size_sectors: None,
        data_offset_sectors: None,
        bitmap: level.is_redundant().then_some(RegionWish::Default),
        bad_block_log: true,
        assume_clean: true,
        slots: (0..members).map(|slot| Some(new(slot))).collect(),
        spares: vec![],
    })
    .expect("a valid array");
    let with_events = |(index, superblock): (usize, Option<SuperblockV1>)| {
        let mut superblock = superblock.expect("no member is missing");
        superblock.fields.events = 10;
        let bitmap = created.bitmap.clone().map(|mut bitmap| {
            bitmap.fields.events = 10;
            Ok(bitmap)
        });
        MemberFacts {
            id: MemberId(index as u32 + 1),
            name: format!("{}.img", (b'a' + index as u8) as char),
            size_sectors: DEVICE_SECTORS,
            logical_block_bytes: 512,
            superblock: Ok(superblock),
            bitmap,
            bad_blocks: None,
        }
    };
    created
        .slots
        .into_iter()
        .enumerate()
        .map(with_events)
        .collect()
}

/// The superblock of a member.
pub(super) fn sb(facts: &mut MemberFacts) -> &mut SuperblockV1 {
    facts.superblock.as_mut().expect("it has one")
}

/// Writes events and role table as the array does when `failed` members are gone: those keep
/// their old superblocks.
fn fail(members: &mut [MemberFacts], failed: &[usize], events: u64) {
    for (index, member) in members.iter_mut().enumerate() {
        if failed.contains(&index) {
            continue;
        }
        let fields = &mut sb(member).fields;
        fields.events = events;
        for &other in failed {
            fields.set_role(other as u32, Role::Faulty);
        }
        if let Some(Ok(bitmap)) = &mut member.bitmap {
            bitmap.fields.events = events;
        }
    }
}

fn unclean(members: &mut [MemberFacts]) {
    members
        .iter_mut()
        .for_each(|one| sb(one).fields.resync_offset_sectors = 0);
}

fn spare(members: &[MemberFacts], number: u32) -> MemberFacts {
    let peer = members[0].superblock.as_ref().expect("it has one");
    let device_uuid = Uuid([0x50 + number as u8; 16]);
    let flags = DeviceFlags::default();
    let new = NewMember {
        device_sectors: DEVICE_SECTORS,
        device_uuid,
        flags,
    };
    MemberFacts {
        id: MemberId(100 + number),
        name: format!("spare{number}.img"),
        superblock: Ok(spare_for(peer, number, &new).expect("the number is free")),
        bitmap: None,
        bad_blocks: None,
        ..members[0].clone()
    }
}

fn plain(members: &[MemberFacts]) -> Result<Plan, Refusal> {
    assemble(members, &Wish::default())
}

fn forced(members: &[MemberFacts]) -> Result<Plan, Refusal> {
    assemble(
        members,
        &Wish {
            force: true,
            ..Wish::default()
        },
    )
}

fn in_sync(ids: &[u32]) -> Vec<SlotPlan> {
    ids.iter()
        .map(|&id| SlotPlan::InSync(MemberId(id)))
        .collect()
}

/// The sentence of a refusal.
fn refused(result: Result<Plan, Refusal>) -> String {
    result.expect_err("it must be refused").to_string()
}

#[test]
fn a_complete_clean_array_starts() {
    for level in [
        Level::Raid0,
        Level::Raid1,
        Level::Raid4,
        Level::Raid5,
        Level::Raid6,
    ] {
        let plan = plain(&array(level, 4)).expect("it starts");
        assert_eq!(plan.slots, in_sync(&[1, 2, 3, 4]));
        assert_eq!((plan.level, plan.raid_disks, plan.uuid), (level, 4, ARRAY));
        assert_eq!((plan.events, plan.degraded()), (Events(10), 0));
        assert!(!plan.is_unclean() && plan.warnings.is_empty() && plan.ignored.is_empty());
        assert_eq!(plan.drives(), "4 drives");
        let data_disks = match level {
            Level::Raid0 => 4,
            Level::Raid1 => 1,
            Level::Raid6 => 2,
            _ => 3,
        };
        assert_eq!(plan.array_sectors, data_disks * (DEVICE_SECTORS - 2048));
        let usable = matches!(
            plan.bitmap,
            BitmapPlan::Usable {
                source: MemberId(1),
                ..
            }
        );
        assert_eq!(usable, level != Level::Raid0);
    }
}

#[test]
fn no_members_is_said_so() {
    assert_eq!(refused(plain(&[])), "no member of the array was found");
    let other = Wish {
        uuid: Some(Uuid([1; 16])),
        ..Wish::default()
    };
    let refusal = assemble(&array(Level::Raid1, 2), &other).expect_err("not this array");
    assert_eq!(refusal.kind, RefusalKind::NoMembers);
    assert!(
        refusal.ignored[0]
            .text
            .starts_with("ignoring a.img: it belongs to aaaaaaaa:")
    );
}

#[test]
fn a_degraded_array_starts_and_says_so() {
    let mut members = array(Level::Raid5, 4);
    fail(&mut members, &[2], 12);
    let gone = members.remove(2);
    let plan = plain(&members).expect("three of four are enough");
    assert_eq!(plan.drives(), "3 drives (out of 4)");
    assert_eq!(plan.slots[2], SlotPlan::Missing);
    assert!(
        plan.warnings.is_empty(),
        "the array knew: {:?}",
        plan.warnings
    );
    members.push(gone);
    let plan = plain(&members).expect("the failed member is left out");
    assert_eq!(plan.slots[2], SlotPlan::Stale(MemberId(3)));
    let expected = "ignoring c.img (slot 2, events 10): a.img (events 12) says that it has failed";
    assert_eq!(
        plan.ignored,
        [Reason {
            member: MemberId(3),
            text: expected.to_owned()
        }]
    );
}

#[test]
fn no_degraded_wants_every_member_the_array_last_had() {
    let mut members = array(Level::Raid1, 3);
    members.pop();
    let strict = Wish {
        no_degraded: true,
        ..Wish::default()
    };
    let text = refused(assemble(&members, &strict));
    assert_eq!(
        text,
        "assembled from 2 drives - need all 3 to start it (use --run to insist)."
    );
    assert!(
        assemble(
            &members,
            &Wish {
                run: true,
                ..strict.clone()
            }
        )
        .is_ok()
    );
    assert_eq!(
        plain(&members).expect("it starts").warnings,
        ["slot 2 had a member when the array last ran and has none now"]
    );
    let mut known = array(Level::Raid1, 3);
    fail(&mut known, &[2], 12);
    known.pop();
    assert!(assemble(&known, &strict).is_ok());
}

#[test]
fn too_few_members_are_refused_in_mdadms_words() {
    for (level, present, text) in [
        (
            Level::Raid0,
            3,
            "assembled from 3 drives - not enough to start the array.",
        ),
        (
            Level::Raid5,
            2,
            "assembled from 2 drives - not enough to start the array.",
        ),
        (
            Level::Raid6,
            1,
            "assembled from 1 drive - not enough to start the array.",
        ),
    ] {
        let members = array(level, 4);
        assert_eq!(refused(plain(&members[..present])), text);
        assert_eq!(refused(forced(&members[..present])), text);
    }
    let members = array(Level::Raid1, 3);
    assert!(plain(&members[2..]).is_ok());
    let only_spares = [spare(&members, 3), spare(&members, 4)];
    let text = "assembled from 0 drives and 2 spares - not enough to start the array.";
    assert_eq!(refused(plain(&only_spares)), text);
}

#[test]
fn unclean_and_degraded_is_the_write_hole() {
    for level in [Level::Raid4, Level::Raid5, Level::Raid6] {
        let mut members = array(level, 4);
        unclean(&mut members);
        let plan = plain(&members).expect("complete, so a resync mends it");
        assert_eq!(plan.resync_offset_sectors, 0);
        members.pop();
        assert_eq!(
            refused(plain(&members)),
            "assembled from 3 drives - not enough to start the array while not clean - consider \
             --force."
        );
        let plan = forced(&members).expect("the user insists");
        assert!(plan.forced.is_empty());
        // A RAID6 that lacks one member has a parity left to agree: the resync stays owed.
        let owes_resync = level == Level::Raid6;
        assert_eq!(plan.is_unclean(), owes_resync);
        assert_eq!(plan.marked_clean, !owes_resync);
        assert!(
            plan.warnings
                .iter()
                .any(|text| text.contains("not stopped cleanly"))
        );
    }
    let mut two_lost = array(Level::Raid6, 4);
    unclean(&mut two_lost);
    let plan = forced(&two_lost[..2]).expect("the user insists");
    assert!(plan.marked_clean && !plan.is_unclean());
    let mut mirror = array(Level::Raid1, 3);
    unclean(&mut mirror);
    mirror.pop();
    let plan = plain(&mirror).expect("a mirror has no write hole");
    assert_eq!((plan.resync_offset_sectors, plan.marked_clean), (0, false));
}

#[test]
fn a_member_being_rebuilt_counts_as_missing() {
    let mut members = array(Level::Raid5, 3);
    let fields = &mut sb(&mut members[1]).fields;
    fields.features = fields.features.with(Features::RECOVERY_OFFSET);
    fields.recovery_offset_raw = 4096;
    let plan = plain(&members).expect("two of three are in sync");
    let recovering = SlotPlan::Recovering {
        member: MemberId(2),
        from_sectors: 4096,
        bitmap_guided: false,
    };
    assert_eq!(plan.slots[1], recovering);
    assert_eq!(plan.drives(), "2 drives (out of 3) and 1 rebuilding");
    let fields = &mut sb(&mut members[1]).fields;
    fields.features = fields.features.with(Features::RECOVERY_BITMAP);
    fields.recovery_offset_raw = u64::MAX;
    let plan = plain(&members).expect("two of three are in sync");
    let size = plan.dev_sectors;
    let SlotPlan::Recovering {
        from_sectors,
        bitmap_guided,
        ..
    } = plan.slots[1]
    else {
        panic!("{:?}", plan.slots[1])
    };
    assert_eq!((from_sectors, bitmap_guided), (size, true));
    assert!(refused(plain(&members[1..])).starts_with("assembled from 1 drive and 1 rebuilding"));
    unclean(&mut members);
    assert!(refused(plain(&members)).contains("while not clean"));
}

#[test]
fn one_update_behind_is_accepted_two_are_not() {
    let mut members = array(Level::Raid1, 2);
    sb(&mut members[0]).fields.events = 11;
    let plan = plain(&members).expect("it starts");
    assert_eq!(plan.slots, in_sync(&[1, 2]));
    assert!(
        plan.warnings[0].contains("b.img is one update behind a.img"),
        "{:?}",
        plan.warnings
    );
    sb(&mut members[0]).fields.events = 12;
    let plan = plain(&members).expect("it starts");
    assert_eq!(plan.slots[1], SlotPlan::Stale(MemberId(2)));
    assert_eq!(
        plan.ignored[0].text,
        "ignoring b.img: its events 10 are 2 behind those of a.img"
    );
}

/// The member missed writes although its events are only one behind (the case where md mixes old
/// data into the array).
#[test]
fn a_fresher_role_table_stands_above_a_difference_of_one() {
    for role in [Role::Faulty, Role::Spare] {
        let mut members = array(Level::Raid6, 4);
        fail(&mut members, &[3], 11);
        for member in &mut members[..3] {
            sb(member).fields.set_role(3, role);
        }
        let plan = plain(&members).expect("three of four are enough");
        assert_eq!(plan.slots[3], SlotPlan::Stale(MemberId(4)));
        assert_eq!(plan.slots[..3], in_sync(&[1, 2, 3]));
    }
}

#[test]
fn a_fresher_spare_is_a_witness_too() {
    let mut members = array(Level::Raid1, 2);
    let mut witness = spare(&members, 2);
    fail(std::slice::from_mut(&mut witness), &[], 13);
    sb(&mut witness).fields.set_role(0, Role::Faulty);
    members[1] = witness;
    let text = refused(plain(&members));
    assert_eq!(
        text,
        "assembled from 0 drives and 1 spare - not enough to start the array. --force would \
         trust a.img (events 10) although out of date."
    );
    let plan = forced(&members).expect("the user insists");
    assert_eq!(
        plan.slots,
        [SlotPlan::InSync(MemberId(1)), SlotPlan::Missing]
    );
    assert_eq!((plan.events, plan.reference), (Events(13), MemberId(1)));
    assert_eq!(plan.spares, [MemberId(102)]);
}

/// What a member holds cannot be told without its log of bad blocks. What it says can.
#[test]
fn a_fresher_member_whose_log_is_gone_is_a_witness_too() {
    let mut members = array(Level::Raid1, 3);
    fail(&mut members, &[1], 11);
    members[2] = array(Level::Raid1, 3).swap_remove(2);
    let fields = &mut sb(&mut members[0]).fields;
    fields.features = fields.features.with(Features::BAD_BLOCKS);
    let by_name = Wish {
        name: Some("r".to_owned()),
        ..Wish::default()
    };
    let force = Wish {
        force: true,
        ..Wish::default()
    };
    for wish in [by_name, force] {
        let plan = assemble(&members, &wish).expect("one leg is not called failed");
        assert_eq!(plan.slots[0], SlotPlan::Missing);
        assert_eq!(plan.slots[1], SlotPlan::Stale(MemberId(2)));
        assert_eq!(plan.slots[2], SlotPlan::InSync(MemberId(3)));
        assert!(plan.forced.is_empty());
        let ignored: Vec<MemberId> = plan.ignored.iter().map(|one| one.member).collect();
        assert_eq!(ignored, [MemberId(1), MemberId(2)]);
    }
    let text = refused(plain(&members));
    assert!(text.starts_with("a.img"), "{text}");
}

#[test]
fn members_that_call_each_other_failed_are_not_mixed() {
    let mut members = array(Level::Raid1, 2);
    sb(&mut members[0]).fields.set_role(1, Role::Faulty);
    sb(&mut members[1]).fields.set_role(0, Role::Faulty);
    for wish in [
        Wish::default(),
        Wish {
            force: true,
            ..Wish::default()
        },
    ] {
        let text = refused(assemble(&members, &wish));
        assert!(
            text.starts_with("a.img and b.img each say that the other has failed"),
            "{text}"
        );
    }
    assert!(plain(&members[..1]).is_ok() && plain(&members[1..]).is_ok());
    sb(&mut members[1]).fields.events = 11;
    let plan = plain(&members).expect("the fresher one wins");
    assert_eq!(
        plan.slots,
        [SlotPlan::Stale(MemberId(1)), SlotPlan::InSync(MemberId(2))]
    );
    assert!(
        plan.ignored[0].text.contains("both went on alone"),
        "{:?}",
        plan.ignored
    );
}

#[test]
fn a_third_member_does_not_settle_who_is_right() {
    let mut members = array(Level::Raid1, 3);
    sb(&mut members[0]).fields.set_role(1, Role::Faulty);
    sb(&mut members[1]).fields.set_role(0, Role::Faulty);
    assert!(refused(plain(&members)).starts_with("a.img and b.img each say"));
    // Alone, an accusation is believed.
    sb(&mut members[1]).fields.set_role(0, Role::Active(0));
    let plan = plain(&members).expect("two of three");
    assert_eq!(plan.slots[1], SlotPlan::Stale(MemberId(2)));
    assert_eq!(plan.degraded(), 1);
}

#[test]
fn a_ring_of_accusations_is_refused() {
    let mut members = array(Level::Raid1, 3);
    for (index, member) in members.iter_mut().enumerate() {
        sb(member)
            .fields
            .set_role((index as u32 + 1) % 3, Role::Faulty);
    }
    assert!(refused(forced(&members)).contains("each say that the other has failed"));
}

#[test]
fn an_older_member_that_calls_a_newer_one_failed_is_left_out() {
    let mut members = array(Level::Raid1, 2);
    sb(&mut members[0]).fields.events = 11;
    sb(&mut members[1]).fields.set_role(0, Role::Faulty);
    let plan = plain(&members).expect("it starts");
    assert_eq!(
        plan.ignored[0].text,
        "ignoring b.img as it reports a.img as failed"
    );
    // But not when the newer one only just joined.
    let fields = &mut sb(&mut members[0]).fields;
    fields.features = fields.features.with(Features::RECOVERY_OFFSET);
    sb(&mut members[1]).fields.set_role(0, Role::Spare);
    let plan = plain(&members).expect("it starts");
    assert_eq!(plan.slots[1], SlotPlan::InSync(MemberId(2)));
}

/// Four of six members drop at once; the two that stay record it and stop.
#[test]
fn force_raises_the_freshest_members_needed_and_no_more() {
    let mut members = array(Level::Raid6, 6);
    fail(&mut members, &[0, 1, 2, 3], 20);
    sb(&mut members[1]).fields.events = 12;
    sb(&mut members[3]).fields.events = 12;
    sb(&mut members[0]).fields.events = 11;
    unclean(&mut members);
    let refusal = plain(&members).expect_err("two of six are not enough");
    let text = refusal.to_string();
    assert_eq!(
        text,
        "assembled from 2 drives - not enough to start the array. --force would trust b.img \
         (events 12) and d.img (events 12) although out of date."
    );
    assert_eq!(refusal.ignored.len(), 4);
    let plan = forced(&members).expect("the user insists");
    let raised: Vec<String> = plan.forced.iter().map(ToString::to_string).collect();
    assert_eq!(
        raised,
        [
            "forcing event count in b.img(1) from 12 up to 20",
            "forcing event count in d.img(3) from 12 up to 20"
        ]
    );
    assert_eq!(
        plan.slots,
        [
            SlotPlan::Stale(MemberId(1)),
            SlotPlan::InSync(MemberId(2)),
            SlotPlan::Stale(MemberId(3)),
            SlotPlan::InSync(MemberId(4)),
            SlotPlan::InSync(MemberId(5)),
            SlotPlan::InSync(MemberId(6))
        ]
    );
    assert!(plan.marked_clean);
    assert!(matches!(
        plan.bitmap,
        BitmapPlan::Usable {
            source: MemberId(5),
            ..
        }
    ));
}

#[test]
fn force_never_trusts_a_half_rebuilt_or_replaced_member() {
    let mut members = array(Level::Raid5, 3);
    fail(&mut members, &[0, 1], 20);
    let fields = &mut sb(&mut members[0]).fields;
    fields.features = fields.features.with(Features::RECOVERY_OFFSET);
    let plan = forced(&members).expect("one stale member is good");
    assert_eq!(plan.forced.len(), 1);
    assert_eq!(plan.forced[0].name, "b.img");
    // The number of the stale member was given to another one since.
    sb(&mut members[2]).fields.dev_number = 1;
    sb(&mut members[2]).fields.set_role(1, Role::Active(2));
    assert!(refused(forced(&members)).contains("not enough to start"));
}

#[test]
fn a_change_of_shape_makes_older_members_useless() {
    let mut members = array(Level::Raid1, 3);
    for member in &mut members[..2] {
        let fields = &mut sb(member).fields;
        fields.events = 11;
        fields.size_sectors -= 128;
    }
    let plan = forced(&members).expect("it starts");
    assert_eq!(
        plan.ignored[0].text,
        "ignoring c.img: its size is not that of a.img"
    );
    assert_eq!(plan.slots[2], SlotPlan::Missing);
    sb(&mut members[2]).fields.events = 11;
    let text = refused(plain(&members));
    assert_eq!(
        text,
        "a.img and c.img are equally recent but differ in size - leave one of them out"
    );
}

#[test]
fn an_array_made_anew_with_the_old_identity_is_another_array() {
    let mut members = array(Level::Raid1, 2);
    sb(&mut members[1]).fields.ctime.0 += 60;
    sb(&mut members[1]).fields.events = 500;
    assert!(refused(forced(&members)).contains("differ in creation time"));
}
