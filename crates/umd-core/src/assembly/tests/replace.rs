//! Two members of one slot: one serves, the other is being filled to replace it.

use super::*;
use crate::value::Slot;

const NEW: MemberId = MemberId(103);

/// A RAID5 of three, and a member that is to replace the second, filled up to `offset`.
fn replacing(offset: u64) -> Vec<MemberFacts> {
    let mut members = array(Level::Raid5, 3);
    members.push(spare(&members, 3));
    for member in &mut members {
        sb(member).fields.set_role(3, Role::Active(1));
    }
    let fields = &mut sb(&mut members[3]).fields;
    fields.features = fields.features.with(Features::REPLACEMENT);
    fields.features = fields.features.with(Features::RECOVERY_OFFSET);
    fields.recovery_offset_raw = offset;
    members
}

fn size(members: &[MemberFacts]) -> u64 {
    let superblock = members[0].superblock.as_ref().expect("it has one");
    superblock.fields.size_sectors
}

#[test]
fn it_goes_on_where_it_was_unless_a_crash_came_between() {
    let mut members = replacing(512);
    let plan = plain(&members).expect("it starts");
    let mut one = ReplacementPlan {
        slot: Slot(1),
        member: NEW,
        from_sectors: 512,
        begins_again: false,
    };
    assert_eq!(plan.replacements, [one]);
    assert_eq!(plan.degraded(), 0);
    assert_eq!(plan.slots[1], SlotPlan::InSync(MemberId(2)));
    assert_eq!(plan.drives(), "3 drives and 1 rebuilding");
    unclean(&mut members);
    let plan = plain(&members).expect("it starts");
    (one.from_sectors, one.begins_again) = (0, true);
    assert_eq!(plan.replacements, [one]);
}

#[test]
fn without_the_original_its_replacement_is_what_it_holds() {
    let mut members = replacing(512);
    members.remove(1);
    let plan = plain(&members).expect("it starts degraded");
    let recovering = SlotPlan::Recovering {
        member: NEW,
        from_sectors: 512,
        bitmap_guided: false,
    };
    assert_eq!((plan.slots[1], plan.replacements.len()), (recovering, 0));
    // It is not enough, though, where nobody else can be spared.
    members.remove(0);
    assert!(refused(plain(&members)).contains("not enough to start"));
    // Unless it has everything: it was about to be called in sync.
    let mut members = replacing(0);
    let all = size(&members);
    sb(&mut members[3]).fields.recovery_offset_raw = all;
    members.remove(1);
    members.remove(0);
    let plan = plain(&members).expect("it starts degraded");
    assert_eq!(plan.slots[1], SlotPlan::InSync(NEW));
}

/// The update that hands the slot over is cut short: whoever it reached, the slot has a member
/// with all of its data.
#[test]
fn a_handover_that_is_cut_short_leaves_a_whole_member() {
    for written in [
        vec![0],
        vec![2],
        vec![3],
        vec![0, 2],
        vec![0, 3],
        vec![0, 2, 3],
    ] {
        let mut members = replacing(0);
        let all = size(&members);
        sb(&mut members[3]).fields.recovery_offset_raw = all;
        for &index in &written {
            let fields = &mut sb(&mut members[index]).fields;
            fields.events = 11;
            fields.set_role(1, Role::Faulty);
            let whole = fields.features.without(Features::REPLACEMENT);
            fields.features = whole.without(Features::RECOVERY_OFFSET);
        }
        let plan = plain(&members).expect("it starts");
        assert_eq!(plan.slots[1], SlotPlan::InSync(NEW), "{written:?}");
        assert_eq!((plan.degraded(), plan.replacements.len()), (0, 0));
        assert_eq!(plan.ignored[0].member, MemberId(2));
    }
}

#[test]
fn what_makes_no_sense_is_left_out_or_refused() {
    // Its source is being rebuilt itself.
    let mut members = replacing(512);
    let fields = &mut sb(&mut members[1]).fields;
    fields.features = fields.features.with(Features::RECOVERY_OFFSET);
    let plan = plain(&members).expect("it starts degraded");
    assert_eq!(plan.replacements, []);
    let text = "ignoring spare3.img: it was to replace b.img, which is being rebuilt itself";
    assert_eq!(plan.ignored[0].text, text);
    // Two that are to replace the same one.
    let mut members = replacing(512);
    let mut second = members[3].clone();
    (second.id, second.name) = (MemberId(104), "second.img".to_owned());
    members.push(second);
    for member in &mut members {
        sb(member).fields.set_role(4, Role::Active(1));
    }
    let fields = &mut sb(&mut members[4]).fields;
    (fields.dev_number, fields.device_uuid) = (4, Uuid([0x77; 16]));
    assert!(refused(plain(&members)).contains("spare3.img and second.img"));
}
