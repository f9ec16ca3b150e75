//! Arrays that live through failures, crashes and partial starts, at random.
//!
//! The world keeps, beside each member's superblock, the history of acknowledged writes the member
//! holds. What may never happen, whatever the past: an unforced plan that takes members with
//! different histories as in sync. The world obeys the engine's own promises and no others:
//! superblocks say active before data is written, and a lost member is recorded on all others
//! before the write that lost it is acknowledged.

use proptest::prelude::*;
use umd_format::v1::Features;
use umd_format::{Level, Role};

use super::{array, sb};
use crate::assembly::{MemberFacts, Plan, SlotPlan, Wish, assemble};

#[derive(Debug, Clone)]
enum Step {
    /// Writes, with all superblock updates that belong to it.
    Write,
    /// Goes clean; `rollback` lowers the events as md does.
    Clean { rollback: bool },
    /// A member is lost; the next write records it.
    Lose(usize),
    /// The update that records the losses reaches only some members, then power fails.
    CrashWhileRecording { reached: u8 },
    /// The update that says active reaches only some members, then power fails.
    CrashWhileActivating { reached: u8 },
    /// Stops and starts with these members.
    Restart { listed: u8 },
    /// A lost member is put back and rebuilt, completely or not.
    Rebuild { member: usize, complete: bool },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Write),
        2 => any::<bool>().prop_map(|rollback| Step::Clean { rollback }),
        2 => (0usize..4).prop_map(Step::Lose),
        1 => any::<u8>().prop_map(|reached| Step::CrashWhileRecording { reached }),
        1 => any::<u8>().prop_map(|reached| Step::CrashWhileActivating { reached }),
        4 => any::<u8>().prop_map(|listed| Step::Restart { listed }),
        2 => (0usize..4, any::<bool>())
            .prop_map(|(member, complete)| Step::Rebuild { member, complete }),
    ]
}

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Slot {
    Running,
    Rebuilding,
    /// Not part of the running array; whether the role tables know.
    Out {
        recorded: bool,
    },
}

struct World {
    members: Vec<MemberFacts>,
    /// Acknowledged writes each member holds; `None` while it is half rebuilt.
    histories: Vec<Option<Vec<u32>>>,
    slots: Vec<Slot>,
    redundancy: usize,
    active: bool,
    writes: u32,
}

impl World {
    fn new(level: Level) -> World {
        World {
            members: array(level, 4),
            histories: vec![Some(Vec::new()); 4],
            slots: vec![Slot::Running; 4],
            redundancy: level.max_missing(4).expect("counted") as usize,
            active: false,
            writes: 0,
        }
    }

    fn events(&self) -> u64 {
        let present = (0..4).filter(|&one| !matches!(self.slots[one], Slot::Out { .. }));
        let events = present.map(|one| {
            let superblock = self.members[one].superblock.as_ref().expect("it has one");
            superblock.fields.events
        });
        events.max().expect("something runs")
    }

    fn running(&self) -> usize {
        self.slots
            .iter()
            .filter(|&&slot| slot == Slot::Running)
            .count()
    }

    fn is_broken(&self) -> bool {
        self.running() == 0 || self.running() + self.redundancy < 4
    }

    /// Writes superblocks to the present members in `reached`.
    fn update(&mut self, events: u64, active: bool, reached: u8) {
        let tables: Vec<Role> = (0..4)
            .map(|one| match self.slots[one] {
                Slot::Out { .. } => Role::Faulty,
                _ => Role::Active(one as u16),
            })
            .collect();
        for one in 0..4 {
            if matches!(self.slots[one], Slot::Out { .. }) || reached & (1 << one) == 0 {
                continue;
            }
            let rebuilding = self.slots[one] == Slot::Rebuilding;
            let fields = &mut sb(&mut self.members[one]).fields;
            fields.events = events;
            fields.resync_offset_sectors = if active { 0 } else { u64::MAX };
            fields.features = match rebuilding {
                true => fields.features.with(Features::RECOVERY_OFFSET),
                false => fields.features.without(Features::RECOVERY_OFFSET),
            };
            for (number, role) in tables.iter().enumerate() {
                fields.set_role(number as u32, *role);
            }
        }
    }

    fn has_unrecorded(&self) -> bool {
        self.slots.contains(&Slot::Out { recorded: false })
    }

    fn record(&mut self) {
        for slot in &mut self.slots {
            if let Slot::Out { recorded } = slot {
                *recorded = true;
            }
        }
    }

    fn write(&mut self) {
        if self.is_broken() {
            return;
        }
        if !self.active || self.has_unrecorded() {
            self.update(self.events() + 1, true, u8::MAX);
            self.active = true;
            self.record();
        }
        self.writes += 1;
        for one in 0..4 {
            if let (Slot::Running, Some(history)) = (self.slots[one], &mut self.histories[one]) {
                history.push(self.writes);
            }
        }
    }

    fn clean(&mut self, rollback: bool) {
        if !self.active || self.is_broken() || self.has_unrecorded() {
            return;
        }
        let complete = self.running() == 4;
        let events = self.events();
        let next = if rollback && complete && events > 1 {
            events - 1
        } else {
            events + 1
        };
        self.update(next, false, u8::MAX);
        self.active = false;
    }

    fn lose(&mut self, member: usize) {
        if self.slots[member] == Slot::Rebuilding || self.running() > 1 {
            self.slots[member] = match self.slots[member] {
                out @ Slot::Out { .. } => out,
                _ => Slot::Out { recorded: false },
            };
        }
    }

    /// A member comes back to the running array and is rebuilt.
    fn rebuild(&mut self, member: usize, complete: bool) {
        if self.is_broken() || !matches!(self.slots[member], Slot::Out { .. }) {
            return;
        }
        self.update(self.events() + 1, self.active, u8::MAX);
        self.record();
        self.slots[member] = Slot::Rebuilding;
        self.histories[member] = None;
        let number = member as u32;
        sb(&mut self.members[member]).fields.dev_number = number;
        self.update(self.events() + 1, self.active, u8::MAX);
        if complete {
            let source = (0..4).find(|&one| self.slots[one] == Slot::Running);
            self.histories[member] = self.histories[source.expect("it runs")].clone();
            self.slots[member] = Slot::Running;
            self.update(self.events() + 1, self.active, u8::MAX);
        }
    }

    /// Stops as it is and starts from the listed members, if assembly says so; else from all.
    fn restart(&mut self, listed: u8) -> Result<(), TestCaseError> {
        for wanted in [listed, u8::MAX] {
            let members: Vec<MemberFacts> = (0..4)
                .filter(|one| wanted & (1 << one) != 0)
                .map(|one| self.members[one].clone())
                .collect();
            if let Ok(plan) = assemble(&members, &Wish::default()) {
                self.start(&plan)?;
                return Ok(());
            }
        }
        // Nothing starts without force; the story ends with nobody running.
        self.slots = vec![Slot::Out { recorded: true }; 4];
        Ok(())
    }

    fn start(&mut self, plan: &Plan) -> Result<(), TestCaseError> {
        let mut held: Option<(usize, &Vec<u32>)> = None;
        for (index, slot) in plan.slots.iter().enumerate() {
            self.slots[index] = match slot {
                SlotPlan::InSync(_) => Slot::Running,
                SlotPlan::Recovering { .. } => Slot::Rebuilding,
                SlotPlan::Stale(_) | SlotPlan::Missing => Slot::Out { recorded: false },
            };
            if !matches!(slot, SlotPlan::InSync(_)) {
                continue;
            }
            let history = self.histories[index].as_ref();
            prop_assert!(history.is_some(), "a half rebuilt member counts as in sync");
            let history = history.expect("just checked");
            let (first, expected) = *held.get_or_insert((index, history));
            prop_assert_eq!(history, expected, "members {} and {} differ", first, index);
        }
        self.active = plan.is_unclean();
        // Starting levels the superblocks of its members, as any update does.
        self.update(plan.events.0 + 1, self.active, u8::MAX);
        self.record();
        Ok(())
    }

    fn take(&mut self, step: &Step) -> Result<(), TestCaseError> {
        if self.running() == 0 {
            return Ok(());
        }
        match *step {
            Step::Write => self.write(),
            Step::Clean { rollback } => self.clean(rollback),
            Step::Lose(member) => self.lose(member),
            Step::CrashWhileRecording { reached } => {
                if self.has_unrecorded() && !self.is_broken() {
                    self.update(self.events() + 1, true, reached);
                }
                self.restart(u8::MAX)?;
            }
            Step::CrashWhileActivating { reached } => {
                if !self.active && !self.has_unrecorded() && !self.is_broken() {
                    self.update(self.events() + 1, true, reached);
                }
                self.restart(u8::MAX)?;
            }
            Step::Restart { listed } => self.restart(listed)?,
            Step::Rebuild { member, complete } => self.rebuild(member, complete),
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn members_with_different_pasts_are_never_mixed(
        level in prop::sample::select(vec![Level::Raid1, Level::Raid5, Level::Raid6]),
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let mut world = World::new(level);
        for step in &steps {
            world.take(step)?;
        }
    }

    /// What keeps running without a crash can be started again with the members it had.
    #[test]
    fn an_orderly_past_leads_to_the_same_members(
        level in prop::sample::select(vec![Level::Raid1, Level::Raid5, Level::Raid6]),
        steps in prop::collection::vec((0usize..4, any::<bool>(), any::<bool>()), 0..20),
    ) {
        let mut world = World::new(level);
        for (member, lose, complete) in steps {
            let spares_one = world.running() + world.redundancy > 4;
            match lose {
                true if spares_one => world.lose(member),
                _ => world.rebuild(member, complete),
            }
            world.write();
        }
        world.clean(false);
        let plan = assemble(&world.members, &Wish::default()).expect("an orderly stop");
        for (slot, planned) in world.slots.iter().zip(&plan.slots) {
            let same = match planned {
                SlotPlan::InSync(_) => *slot == Slot::Running,
                SlotPlan::Recovering { .. } => *slot == Slot::Rebuilding,
                _ => matches!(slot, Slot::Out { .. }),
            };
            prop_assert!(same, "{:?} became {:?}", slot, planned);
        }
    }
}
