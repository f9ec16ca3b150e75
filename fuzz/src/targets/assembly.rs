//! Whole members from any bytes: facts, a plan or a refusal, and when there is a plan the array
//! runs: reads, writes, stops, and assembles again.

use crate::images::{Members, Running};
use umd_core::array::{Reply, RequestOp};
use umd_core::assembly::{SlotPlan, assemble};

/// Runs it.
pub fn run(data: &[u8]) {
    let members = Members::of(data);
    let facts = members.facts();
    let decided = assemble(&facts, &members.wish);
    let backwards: Vec<_> = facts.iter().rev().cloned().collect();
    assert_eq!(
        assemble(&backwards, &members.wish),
        decided,
        "the order of members matters"
    );
    let Ok(plan) = decided else { return };
    if !members.wish.force {
        assert!(plan.forced.is_empty() && !plan.marked_clean);
    }
    for (slot, planned) in plan.slots.iter().enumerate() {
        if let SlotPlan::InSync(id) = planned {
            let fact = facts.iter().find(|one| one.id == *id).expect("a member");
            let fields = &fact.superblock.as_ref().expect("it has one").fields;
            assert_eq!(fields.own_role(), umd_format::Role::Active(slot as u16));
            assert_eq!(fields.recovery_offset_sectors(), None);
        }
    }
    let (wish, degraded) = (members.wish.clone(), plan.degraded());
    let mut running = Running::start(members, facts, plan);
    let sectors = running.sectors();
    for at in [0, sectors / 2, sectors.saturating_sub(1)] {
        if at >= sectors {
            continue;
        }
        let pattern = [at as u8 ^ 0x5a; 512];
        let written = running.write(at, &pattern);
        let read = running.ask(RequestOp::Read {
            offset_sectors: at,
            len_sectors: 1,
        });
        let Reply::Data(pieces) = read.expect("what was assembled can be read") else {
            panic!("no data");
        };
        if written.is_ok() {
            assert!(
                pieces.iter().all(|piece| piece.as_slice() == pattern),
                "a write is lost"
            );
        }
    }
    for _ in 0..4 {
        running.tick();
    }
    let images = running.stop();
    let after = Members { images, wish };
    let plan = assemble(&after.facts(), &after.wish).expect("what was stopped starts again");
    assert!(plan.degraded() <= degraded, "a stop loses no member");
}
