//! What must not matter does not matter: devices that have nothing to do with the array, or
//! nothing to add to it, change no decision.

use proptest::prelude::*;
use umd_format::v1::Features;
use umd_format::{ParseError, Uuid};

use super::nonsense::{Recipe, any_wish, recipe};
use super::{ARRAY, sb};
use crate::assembly::{MemberFacts, NoSuperblock, Plan, Refusal, SlotPlan, Wish, assemble};
use crate::value::MemberId;

/// Something that does not belong to the array.
#[derive(Debug, Clone)]
enum Stranger {
    /// A member of another array, with these events.
    OtherArray { events: u64 },
    /// A superblock of which this many bytes are there.
    CutShort { bytes: usize },
    /// Nothing at all.
    Blank,
    /// An old format of another machine.
    Swapped,
    /// A device that gives errors.
    Unreadable,
}

fn stranger() -> impl Strategy<Value = Stranger> {
    prop_oneof![
        (0u64..1 << 40).prop_map(|events| Stranger::OtherArray { events }),
        (0usize..511).prop_map(|bytes| Stranger::CutShort { bytes }),
        Just(Stranger::Blank),
        Just(Stranger::Swapped),
        Just(Stranger::Unreadable),
    ]
}

impl Stranger {
    fn facts(&self, id: MemberId) -> MemberFacts {
        let mut facts = super::array(umd_format::Level::Raid1, 2).remove(0);
        facts.id = id;
        facts.name = format!("stranger{id}.img");
        facts.bitmap = None;
        let fault = match *self {
            Stranger::OtherArray { events } => {
                let fields = &mut sb(&mut facts).fields;
                fields.set_uuid = Uuid([0xbb; 16]);
                fields.device_uuid = Uuid([0xcc; 16]);
                fields.events = events;
                return facts;
            }
            Stranger::CutShort { bytes } => {
                let whole = sb(&mut facts).encode(512);
                let (minor, size) = (sb(&mut facts).format(), facts.size_sectors);
                let loaded = umd_format::SuperblockV1::load(&whole[..bytes], minor, size);
                NoSuperblock::from(loaded.expect_err("a superblock of 512 bytes was cut"))
            }
            Stranger::Blank => NoSuperblock::from(ParseError::NoMagic { found: 0 }),
            Stranger::Swapped => NoSuperblock::from(ParseError::ByteSwapped),
            Stranger::Unreadable => NoSuperblock::Unreadable("EIO".to_owned()),
        };
        facts.superblock = Err(fault);
        facts
    }
}

/// A decision without its remarks about members that were left out.
fn decision(result: Result<Plan, Refusal>) -> Result<Plan, String> {
    match result {
        Ok(plan) => Ok(Plan {
            ignored: Vec::new(),
            ..plan
        }),
        Err(refusal) => Err(refusal.to_string()),
    }
}

/// The list with one more, before or behind all others in the order of identities.
fn with(members: &[MemberFacts], make: impl Fn(MemberId) -> MemberFacts) -> [Vec<MemberFacts>; 2] {
    let more = |id| {
        let mut more = members.to_vec();
        more.push(make(MemberId(id)));
        more
    };
    [more(0), more(1000)]
}

/// An older state of a member that the plan has in sync, under an identity of its own.
fn earlier_self(members: &[MemberFacts], plan: &Plan, slot: usize) -> Option<MemberFacts> {
    let SlotPlan::InSync(id) = *plan.slots.get(slot)? else {
        return None;
    };
    let mut old = members.iter().find(|one| one.id == id)?.clone();
    old.name = "old.img".to_owned();
    let fields = &mut sb(&mut old).fields;
    fields.events = fields.events.checked_sub(3)?;
    fields.device_uuid = Uuid([0xdd; 16]);
    Some(old)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    /// Named by its identity, an array is the same whatever else is looked at.
    #[test]
    fn strangers_change_nothing(recipe in recipe(), wish in any_wish(), stranger in stranger()) {
        let members = recipe.members();
        let wish = Wish { uuid: Some(ARRAY), ..wish };
        let alone = decision(assemble(&members, &wish));
        for more in with(&members, |id| stranger.facts(id)) {
            let result = assemble(&more, &wish);
            let ignored = match &result {
                Ok(plan) => &plan.ignored,
                Err(refusal) => &refusal.ignored,
            };
            let id = more.last().expect("the stranger").id;
            prop_assert!(ignored.iter().any(|reason| reason.member == id), "not accounted for");
            prop_assert!(decision(result) == alone, "a stranger made a difference");
        }
    }

    /// A member's own past, cloned to another device and attached beside it, is never mixed in: the
    /// plan is the same, or the array is refused because two claim one identity.
    #[test]
    fn the_past_of_a_member_is_never_mixed_in(
        recipe in recipe(),
        wish in any_wish(),
        slot in 0usize..6,
    ) {
        let members = recipe.members();
        let Ok(plan) = assemble(&members, &wish) else { return Ok(()) };
        let Some(old) = earlier_self(&members, &plan, slot) else { return Ok(()) };
        let alone = decision(Ok(plan));
        for more in with(&members, |id| MemberFacts { id, ..old.clone() }) {
            match assemble(&more, &wish) {
                Ok(plan) => {
                    let id = more.last().expect("the old one").id;
                    let used = plan.slots.iter().any(|slot| match slot {
                        SlotPlan::InSync(one) => *one == id,
                        SlotPlan::Recovering { member, .. } => *member == id,
                        SlotPlan::Stale(_) | SlotPlan::Missing => false,
                    });
                    prop_assert!(!used, "an old copy took part");
                    prop_assert!(decision(Ok(plan)) == alone, "an old copy made a difference");
                }
                Err(refusal) => prop_assert!(!refusal.to_string().is_empty()),
            }
        }
    }

    /// Any member twice, byte for byte: refused, whatever was asked for.
    #[test]
    fn a_duplicate_is_refused(recipe in recipe(), wish in any_wish(), which in 0usize..6) {
        let members = recipe.members();
        let Some(twin) = members.get(which).filter(|one| one.superblock.is_ok()) else {
            return Ok(());
        };
        for more in with(&members, |id| MemberFacts { id, ..twin.clone() }) {
            let result = assemble(&more, &wish);
            // Who has bad blocks, and not the log that names them, is no member of anything: both
            // are left out.
            let Ok(plan) = result else { continue };
            let id = more.last().expect("the twin").id;
            let left_out = |id: MemberId| plan.ignored.iter().any(|one| one.member == id);
            let bad = twin.superblock.as_ref().expect("looked at").fields.features;
            prop_assert!(bad.contains(Features::BAD_BLOCKS), "a duplicate was taken");
            prop_assert!(left_out(id) && left_out(twin.id), "one of two was taken");
        }
    }

    /// The name in messages and the driver's numbering are no facts about the array.
    #[test]
    fn renamed_members_make_the_same_array(recipe in recipe(), wish in any_wish()) {
        let members = recipe.members();
        let renamed: Vec<MemberFacts> = members
            .iter()
            .map(|one| MemberFacts { name: format!("/dev/{}", one.name), ..one.clone() })
            .collect();
        let (before, after) = (assemble(&members, &wish), assemble(&renamed, &wish));
        prop_assert_eq!(before.is_ok(), after.is_ok());
        if let (Ok(before), Ok(after)) = (before, after) {
            prop_assert!(before.slots == after.slots && before.spares == after.spares);
            prop_assert!(before.events == after.events && before.geometry == after.geometry);
        }
    }
}

/// The members of a random array really start often enough for the tests above to mean something.
#[test]
fn enough_random_arrays_start() {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut started = 0;
    for _ in 0..400 {
        let recipe: Recipe = recipe().new_tree(&mut runner).expect("a recipe").current();
        started += usize::from(assemble(&recipe.members(), &Wish::default()).is_ok());
    }
    assert!(started > 40, "{started} of 400");
}
