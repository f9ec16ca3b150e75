//! Facts that contradict each other in every way: assembly answers, always the same, and never
//! takes what it must not.

use proptest::prelude::*;
use umd_format::bitmap::BitmapError;
use umd_format::v1::Features;
use umd_format::{Level, ParseError, Role};

use super::{array, in_sync, sb};
use crate::assembly::{MemberFacts, NoSuperblock, Plan, RefusalKind, SlotPlan, Wish, assemble};
use crate::value::MemberId;

/// One thing made wrong on one member.
#[derive(Debug, Clone)]
enum Twist {
    Events(u64),
    Role(u32, Role),
    Number(u32),
    Features(u32),
    Recovery(u64),
    Resync(u64),
    Level(i32),
    Layout(u32),
    Disks(u32),
    Size(u64),
    DataSize(u64),
    Device(u8),
    NoSuperblock,
    Bitmap(bool),
}

fn twist() -> impl Strategy<Value = Twist> {
    let role = prop_oneof![
        (0u16..6).prop_map(Role::Active),
        Just(Role::Faulty),
        Just(Role::Spare),
        Just(Role::Journal),
    ];
    prop_oneof![
        6 => prop_oneof![7u64..14, any::<u64>().prop_map(|one| one >> 1)].prop_map(Twist::Events),
        6 => (0u32..6, role).prop_map(|(number, role)| Twist::Role(number, role)),
        1 => prop_oneof![0u32..6, any::<u32>()].prop_map(Twist::Number),
        2 => (0u32..0x2000).prop_map(Twist::Features),
        2 => any::<u64>().prop_map(Twist::Recovery),
        1 => any::<u64>().prop_map(Twist::Resync),
        1 => (-6i32..12).prop_map(Twist::Level),
        1 => (0u32..22).prop_map(Twist::Layout),
        1 => (1u32..1920).prop_map(Twist::Disks),
        1 => prop_oneof![0u64..50_000, any::<u64>()].prop_map(Twist::Size),
        1 => prop_oneof![0u64..50_000, any::<u64>()].prop_map(Twist::DataSize),
        1 => (1u8..6).prop_map(Twist::Device),
        1 => Just(Twist::NoSuperblock),
        1 => any::<bool>().prop_map(Twist::Bitmap),
    ]
}

fn apply(member: &mut MemberFacts, twist: &Twist) {
    match *twist {
        Twist::NoSuperblock => {
            member.superblock = Err(NoSuperblock::Invalid(ParseError::NoMagic { found: 0 }));
            return;
        }
        Twist::Bitmap(lockless) => {
            member.bitmap = lockless.then_some(Err(BitmapError::FirstUse));
            return;
        }
        _ if member.superblock.is_err() => return,
        _ => {}
    }
    let fields = &mut sb(member).fields;
    match *twist {
        Twist::Events(events) => fields.events = events,
        Twist::Role(number, role) => fields.set_role(number, role),
        Twist::Number(number) => fields.dev_number = number,
        Twist::Features(bits) => fields.features = Features(bits),
        Twist::Recovery(offset) => {
            fields.features = fields.features.with(Features::RECOVERY_OFFSET);
            fields.recovery_offset_raw = offset;
        }
        Twist::Resync(offset) => fields.resync_offset_sectors = offset,
        Twist::Level(level) => fields.level = Level::from_raw(level),
        Twist::Layout(layout) => fields.layout = layout,
        Twist::Disks(disks) => fields.raid_disks = disks,
        Twist::Size(size) => fields.size_sectors = size,
        Twist::DataSize(size) => fields.data_size_sectors = size,
        Twist::Device(byte) => fields.device_uuid.0 = [byte; 16],
        Twist::NoSuperblock | Twist::Bitmap(_) => {}
    }
}

/// Only what `verify` lets through can be a fact.
fn reload(member: &mut MemberFacts) {
    if let Ok(superblock) = &member.superblock {
        let (bytes, minor) = (superblock.encode(4096), superblock.format());
        let loaded = umd_format::SuperblockV1::load(&bytes, minor, member.size_sectors);
        member.superblock = loaded.map_err(NoSuperblock::from);
    }
}

/// How to make a list of members (short when printed, unlike the members).
#[derive(Debug, Clone)]
pub(super) struct Recipe {
    level: Level,
    count: usize,
    left_out: Vec<usize>,
    twists: Vec<(usize, Twist)>,
}

impl Recipe {
    pub(super) fn members(&self) -> Vec<MemberFacts> {
        let mut members = array(self.level, self.count);
        for (index, twist) in &self.twists {
            apply(&mut members[index % self.count], twist);
        }
        members.iter_mut().for_each(reload);
        for index in &self.left_out {
            members.remove(index % members.len());
        }
        members
    }
}

prop_compose! {
    pub(super) fn recipe()(
        level in prop::sample::select(vec![
            Level::Raid0, Level::Raid1, Level::Raid4, Level::Raid5, Level::Raid6,
        ]),
        count in 4usize..6,
        left_out in prop::collection::vec(0usize..6, 0..3),
        twists in prop::collection::vec((0usize..6, twist()), 0..12),
    ) -> Recipe {
        Recipe { level, count, left_out, twists }
    }
}

pub(super) fn any_wish() -> impl Strategy<Value = Wish> {
    any::<[bool; 5]>().prop_map(|[force, dirty, run, no_degraded, readonly]| Wish {
        force,
        start_dirty_degraded: dirty,
        run,
        no_degraded,
        readonly,
        ..Wish::default()
    })
}

/// What holds in every plan, whatever it was made from.
fn check(plan: &Plan, members: &[MemberFacts], wish: &Wish) -> Result<(), TestCaseError> {
    let by_id = |id: MemberId| {
        let member = members
            .iter()
            .find(|one| one.id == id)
            .expect("a member of the list");
        &member
            .superblock
            .as_ref()
            .expect("it has a superblock")
            .fields
    };
    let mut used: Vec<MemberId> = plan.spares.clone();
    let mut numbers: Vec<u32> = plan.spares.iter().map(|&id| by_id(id).dev_number).collect();
    for (slot, planned) in plan.slots.iter().enumerate() {
        let (SlotPlan::InSync(id) | SlotPlan::Recovering { member: id, .. }) = *planned else {
            continue;
        };
        let fields = by_id(id);
        prop_assert_eq!(fields.own_role(), Role::Active(slot as u16));
        let complete = matches!(planned, SlotPlan::InSync(_));
        // Who was to replace a member that is gone, and had been filled, is as good as that one.
        let replaces = fields.features.contains(Features::REPLACEMENT);
        let filled = |offset: u64| replaces && offset >= fields.size_sectors;
        prop_assert_eq!(
            complete,
            fields.recovery_offset_sectors().is_none_or(filled)
        );
        let raised = plan.forced.iter().any(|one| one.member == id);
        if !raised {
            for other in members
                .iter()
                .filter_map(|one| one.superblock.as_ref().ok())
            {
                let fresher = other.fields.events > fields.events;
                let holds = other.fields.role_of(fields.dev_number) == Role::Active(slot as u16);
                prop_assert!(!fresher || holds, "a disowned member is trusted");
            }
            prop_assert!(fields.events + 1 >= by_id(plan.reference).events);
        }
        used.push(id);
        numbers.push(fields.dev_number);
    }
    for replacement in &plan.replacements {
        used.push(replacement.member);
        numbers.push(by_id(replacement.member).dev_number);
    }
    let missing = plan.degraded();
    prop_assert!(missing <= plan.level.max_missing(plan.raid_disks.into()).unwrap_or(0) as usize);
    let may = wish.force || wish.start_dirty_degraded;
    prop_assert!(wish.force || plan.forced.is_empty());
    prop_assert!(may || !plan.marked_clean);
    let parities = if plan.level == Level::Raid6 { 2 } else { 1 };
    let no_parity_left = plan.level.is_parity() && missing >= parities;
    prop_assert!(!(no_parity_left && plan.is_unclean()));
    prop_assert!(may || !(plan.level.is_parity() && plan.is_unclean() && missing > 0));
    let left_out = |id| plan.ignored.iter().any(|one| one.member == id);
    for member in members.iter().filter(|one| !left_out(one.id)) {
        prop_assert!(by_id(member.id).events <= plan.events.0);
    }
    used.extend(plan.ignored.iter().map(|one| one.member));
    let total = used.len();
    used.sort_unstable();
    used.dedup();
    prop_assert_eq!(used.len(), total, "a member appears twice");
    prop_assert_eq!(total, members.len(), "a member is not accounted for");
    let numbered = numbers.len();
    numbers.sort_unstable();
    numbers.dedup();
    prop_assert_eq!(
        numbers.len(),
        numbered,
        "two members with one device number"
    );
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn nonsense_is_answered_soundly(recipe in recipe(), wish in any_wish()) {
        let members = recipe.members();
        match assemble(&members, &wish) {
            Ok(plan) => check(&plan, &members, &wish)?,
            Err(refusal) => prop_assert!(!refusal.to_string().is_empty()),
        }
    }

    #[test]
    fn the_order_of_the_members_does_not_matter(
        recipe in recipe(),
        order in Just((0..6).collect::<Vec<usize>>()).prop_shuffle(),
        wish in any_wish(),
    ) {
        let members = recipe.members();
        let places = order.into_iter().filter(|&place| place < members.len());
        let shuffled: Vec<MemberFacts> = places.map(|place| members[place].clone()).collect();
        prop_assert!(assemble(&members, &wish) == assemble(&shuffled, &wish));
    }

    /// More permission never makes a start impossible.
    #[test]
    fn force_starts_whatever_starts_without(recipe in recipe()) {
        let members = recipe.members();
        let wish = Wish::default();
        if let Ok(plan) = assemble(&members, &wish) {
            let forced = assemble(&members, &Wish { force: true, ..wish });
            prop_assert!(forced.as_ref() == Ok(&plan), "{:?}", forced.map(|one| one.forced));
        }
    }

    /// What md's parameter permits is a part of what force does: it trusts no stale member.
    #[test]
    fn unclean_and_degraded_is_all_that_is_permitted(recipe in recipe()) {
        let members = recipe.members();
        let wish = Wish::default();
        let permitted = assemble(&members, &Wish { start_dirty_degraded: true, ..wish.clone() });
        match (assemble(&members, &wish), &permitted) {
            (Ok(plan), permitted) => prop_assert!(permitted.as_ref() == Ok(&plan)),
            (Err(refusal), Ok(plan)) => {
                let unclean = matches!(refusal.kind, RefusalKind::NotEnoughWhileUnclean { .. });
                prop_assert!(unclean && plan.forced.is_empty(), "{refusal}");
            }
            (Err(_), Err(_)) => {}
        }
    }
}

/// Every subset of every small array that is clean and complete: starts exactly when enough
/// members are there.
#[test]
fn every_subset_starts_exactly_when_it_is_enough() {
    for level in [
        Level::Raid0,
        Level::Raid1,
        Level::Raid4,
        Level::Raid5,
        Level::Raid6,
    ] {
        let members = array(level, 5);
        for subset in 1u32..1 << 5 {
            let is_in = |one: &&MemberFacts| subset & (1 << (one.id.0 - 1)) != 0;
            let listed: Vec<MemberFacts> = members.iter().filter(is_in).cloned().collect();
            let most = level.max_missing(5).expect("counted") as usize;
            let result = assemble(&listed, &Wish::default());
            assert_eq!(
                result.is_ok(),
                listed.len() + most >= 5,
                "{level} {subset:05b}"
            );
            if let Ok(plan) = result {
                for (slot, planned) in plan.slots.iter().enumerate() {
                    let expected = match subset & (1 << slot) {
                        0 => SlotPlan::Missing,
                        _ => in_sync(&[slot as u32 + 1])[0],
                    };
                    assert_eq!(*planned, expected);
                }
            }
        }
    }
}
