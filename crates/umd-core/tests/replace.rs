//! Members are replaced while they serve, at every level: what they hold, and what happens when
//! one of the two dies, cannot be read, or the program is killed on the way.
//!
//! ```text
//!   slot 1:   disk 1  serves ------------------------------> faulty
//!             disk 9  ....::::####  every write, and a copy -> in sync
//! ```

mod world;

use umd_core::array::{
    Control, ControlError, MemberRole, MemberStatus, Options, SyncLimits, SyncRequest,
};
use umd_core::assembly::Wish;
use umd_core::sync::SyncAction;
use umd_core::value::{MAX_SECTOR, MemberId};
use umd_format::v1::Features;
use umd_format::{Format, Level, Role};
use world::{DISK_BYTES, Lcg, Shape, World};

const OLD: MemberId = MemberId(1);
const NEW: MemberId = MemberId(9);

fn shapes() -> Vec<Shape> {
    let mut all = Vec::new();
    for bitmap in [false, true] {
        for (level, layout, disks, chunk_sectors) in [
            (Level::Raid1, 0, 2, 0),
            (Level::Raid1, 0, 3, 0),
            (Level::Raid4, 0, 3, 8),
            (Level::Raid5, 2, 3, 8),
            (Level::Raid6, 2, 5, 8),
            (Level::Raid10, 0x102, 4, 8),
            (Level::Raid10, 0x102, 3, 8),
            (Level::Raid10, 0x201, 3, 8),
            (Level::Raid10, 0x10201, 4, 8),
        ] {
            all.push(Shape {
                level,
                layout,
                disks,
                chunk_sectors,
                bitmap,
                format: if bitmap { Format::V1_0 } else { Format::V1_2 },
                assume_clean: false,
            });
        }
    }
    all
}

/// An array, and what it is known to hold.
struct Known {
    world: World,
    data: Vec<u8>,
    rng: Lcg,
}

impl Known {
    fn started(shape: &Shape) -> Known {
        let mut world = World::create(shape);
        world.begin();
        world.drain();
        let size = world.array().status().array_sectors as usize;
        let mut known = Known {
            world,
            data: vec![0; size * 512],
            rng: Lcg(7),
        };
        let all: Vec<u8> = (0..known.data.len())
            .map(|i| (i * 31 % 241) as u8 ^ (i >> 9) as u8)
            .collect();
        known.write(0, &all);
        known
    }

    fn write(&mut self, sector: usize, bytes: &[u8]) {
        self.world.write(sector as u64, bytes).expect("written");
        self.data[sector * 512..][..bytes.len()].copy_from_slice(bytes);
    }

    fn scribble(&mut self, times: usize) {
        for _ in 0..times {
            let len = 1 + self.rng.below(20) as usize;
            let most = self.data.len() / 512 - len;
            let at = self.rng.below(most as u64) as usize;
            let byte = self.rng.below(256) as u8;
            self.write(at, &vec![byte; len * 512]);
        }
    }

    fn check(&mut self, what: &str) {
        let sectors = self.data.len() / 512;
        let read = self.world.read(0, sectors as u32).expect("read");
        assert!(
            read == self.data,
            "{what}: what is read is not what was written"
        );
    }

    fn member(&mut self, id: MemberId) -> MemberStatus {
        let status = self.world.array().status();
        let found = status.members.into_iter().find(|m| m.id == id);
        found.expect("a member")
    }

    fn limit(&mut self, to: u64) {
        let limits = SyncLimits {
            to_sectors: Some(to),
            ..SyncLimits::default()
        };
        self.world
            .control(Control::Limits(limits, None))
            .expect("limited");
    }

    fn replace(&mut self, with: Option<MemberId>) -> Result<(), ControlError> {
        let replace = Control::Replace { member: OLD, with };
        self.world.control(replace).map(|_| ())
    }

    /// Half of the member is copied, and things are written everywhere.
    fn half_way(shape: &Shape) -> Known {
        let mut known = Known::started(shape);
        known.world.add(NEW.0).expect("added");
        let middle = half(&mut known);
        known.limit(middle);
        known.replace(Some(NEW)).expect("taken");
        known.world.pass(2);
        let new = known.member(NEW);
        assert!(new.replacement && known.member(OLD).want_replacement);
        let role = MemberRole::Recovering {
            recovered_sectors: half(&mut known),
        };
        assert_eq!(new.role, role);
        assert_eq!(known.member(OLD).role, MemberRole::InSync);
        assert_eq!(known.world.array().status().degraded, 0);
        known.scribble(60);
        known
    }

    /// Everybody else of the slot's group is taken away: the new member is what is read.
    fn check_new_alone(mut self, shape: &Shape, what: &str) {
        let mut lost = 0;
        for id in [0, 2, 3] {
            let there = id < u32::from(shape.disks) && lost < world::redundancy(shape);
            if there && self.world.control(Control::Fail(MemberId(id))).is_ok() {
                lost += 1;
            }
        }
        assert!(lost > 0, "{what}: nobody was to lose");
        self.check(what);
    }

    fn check_done(&mut self, what: &str) {
        let status = self.world.array().status();
        assert_eq!((status.degraded, &status.sync), (0, &None), "{what}");
        let new = self.member(NEW);
        assert_eq!((new.role, new.replacement), (MemberRole::InSync, false));
        let check = Control::Sync(SyncRequest::Start(SyncAction::Check));
        self.world.control(check).expect("checked");
        self.world.drain();
        let mismatches = self.world.array().status().mismatch_sectors;
        assert_eq!(mismatches, 0, "{what}");
        self.check(what);
    }
}

fn half(known: &mut Known) -> u64 {
    let sectors = known.world.array().status().dev_sectors;
    sectors / 2 / 8 * 8
}

fn name(shape: &Shape) -> String {
    format!("{:?} {:#x} of {}", shape.level, shape.layout, shape.disks)
}

#[test]
fn what_is_written_meanwhile_is_on_the_new_member() {
    for shape in shapes() {
        let what = name(&shape);
        let mut known = Known::half_way(&shape);
        known.limit(MAX_SECTOR);
        known.world.pass(2);
        known.check_done(&what);
        let old = known.member(OLD);
        assert_eq!(
            (old.role, old.want_replacement),
            (MemberRole::Faulty, false)
        );
        let fields = known.world.superblock(NEW.0).fields;
        assert_eq!(fields.own_role(), Role::Active(1));
        assert!(!fields.features.contains(Features::REPLACEMENT));
        assert!(!fields.features.contains(Features::RECOVERY_OFFSET));
        assert_eq!(fields.role_of(OLD.0), Role::Faulty);
        known.check_new_alone(&shape, &what);
    }
}

#[test]
fn nothing_but_the_old_member_is_read_for_it() {
    for shape in shapes() {
        let mut known = Known::started(&shape);
        known.world.add(NEW.0).expect("added");
        for disk in known.world.disks.values_mut() {
            disk.read_sectors = 0;
        }
        known.replace(None).expect("taken");
        known.world.drain();
        for (id, disk) in &known.world.disks {
            assert_eq!(
                disk.read_sectors > 0,
                *id == OLD,
                "{}: {id:?}",
                name(&shape)
            );
        }
        known.check_done(&name(&shape));
    }
}

#[test]
fn the_old_member_dies_on_the_way() {
    for shape in shapes() {
        let what = name(&shape);
        let mut known = Known::half_way(&shape);
        known.world.disks.get_mut(&OLD).expect("there").gone = true;
        known
            .world
            .control(Control::Lost(OLD, "gone".into()))
            .expect("lost");
        known.scribble(30);
        known.check(&what);
        let new = known.member(NEW);
        let held = half(&mut known);
        let role = MemberRole::Recovering {
            recovered_sectors: held,
        };
        assert_eq!((new.role, new.replacement), (role, false), "{what}");
        assert_eq!(known.world.array().status().degraded, 1);
        known.limit(MAX_SECTOR);
        known.world.pass(2);
        known.check_done(&what);
        known.check_new_alone(&shape, &what);
    }
}

#[test]
fn the_new_member_dies_on_the_way() {
    for shape in shapes() {
        let what = name(&shape);
        let mut known = Known::half_way(&shape);
        known.world.disks.get_mut(&NEW).expect("there").stuck = true;
        known.scribble(30);
        assert_eq!(known.member(NEW).role, MemberRole::Faulty, "{what}");
        assert_eq!(known.member(OLD).role, MemberRole::InSync);
        assert_eq!(known.world.array().status().degraded, 0);
        known.check(&what);
        let fields = known.world.superblock(0).fields;
        assert_eq!(fields.role_of(known.member(NEW).number), Role::Faulty);
        // Another one takes its part: the member is still to be replaced.
        known.limit(MAX_SECTOR);
        known.world.add(10).expect("added");
        known.world.pass(2);
        assert_eq!(known.member(MemberId(10)).role, MemberRole::InSync);
        assert_eq!(known.member(OLD).role, MemberRole::Faulty);
        known.check(&what);
        known.check_new_alone(&shape, &what);
    }
}

#[test]
fn what_the_old_member_cannot_read_comes_from_the_others() {
    for shape in shapes() {
        let what = name(&shape);
        let mut known = Known::started(&shape);
        known.world.add(NEW.0).expect("added");
        let start = known.world.superblock(OLD.0).fields.data_offset_sectors;
        let disk = known.world.disks.get_mut(&OLD).expect("there");
        disk.bad
            .extend([start + 3, start + 200, start + 201, start + 777]);
        let writes = disk.writes;
        known.replace(None).expect("taken");
        known.world.drain();
        // Nothing is rewritten on a member that is about to go.
        let disk = &known.world.disks[&OLD];
        assert!(disk.writes <= writes + 16 && disk.bad.len() == 4, "{what}");
        known.check_done(&what);
        known.check_new_alone(&shape, &what);
    }
}

#[test]
fn what_nobody_can_read_is_never_called_replaced() {
    for shape in shapes().into_iter().filter(|s| s.level == Level::Raid5) {
        let mut known = Known::started(&shape);
        known.world.add(NEW.0).expect("added");
        let start = known.world.superblock(OLD.0).fields.data_offset_sectors;
        for id in [0, 1] {
            let disk = known.world.disks.get_mut(&MemberId(id)).expect("there");
            disk.bad.insert(start + 200);
        }
        known.replace(None).expect("taken");
        known.world.pass(2);
        assert_eq!(known.member(OLD).role, MemberRole::InSync);
        assert!(known.member(NEW).replacement);
        assert!(known.world.array().status().sync.is_none(), "it waits");
        // Redundancy does not wait with it.
        let start = known.world.superblock(2).fields.data_offset_sectors;
        let good = known.world.disks.get_mut(&MemberId(2)).expect("there");
        assert!(good.bad.range(start..).next().is_none());
        for id in [0, 1] {
            let disk = known.world.disks.get_mut(&MemberId(id)).expect("there");
            disk.bad.clear();
        }
        known
            .world
            .control(Control::Fail(MemberId(2)))
            .expect("failed");
        known.world.add(10).expect("added");
        known.world.pass(2);
        let role = known.member(MemberId(10)).role;
        assert_eq!(role, MemberRole::InSync);
    }
}

#[test]
fn a_stop_on_the_way_costs_nothing() {
    for shape in shapes() {
        let what = name(&shape);
        let mut known = Known::half_way(&shape);
        let held = half(&mut known);
        known.world.stop();
        let fields = known.world.superblock(NEW.0).fields;
        assert_eq!(fields.own_role(), Role::Active(1));
        assert!(fields.features.contains(Features::REPLACEMENT));
        assert_eq!(fields.recovery_offset_sectors(), Some(held), "{what}");
        known.world.kill();
        known.world.begin();
        known.world.drain();
        let read = known.world.disks[&OLD].read_sectors;
        let rest = known.world.array().status().dev_sectors - held;
        assert!(read <= rest + 64, "{what}: {read} of {rest}");
        known.check_done(&what);
        known.check_new_alone(&shape, &what);
    }
}

#[test]
fn killed_on_the_way_it_begins_again() {
    for shape in shapes() {
        let what = name(&shape);
        let mut known = Known::half_way(&shape);
        known.world.kill();
        known.world.begin();
        known.world.pass(2);
        known.check_done(&what);
        assert_eq!(known.member(OLD).role, MemberRole::Faulty);
        known.check_new_alone(&shape, &what);
    }
}

/// Whoever of the two is missing at the start: the other one is what it was.
#[test]
fn one_of_the_two_is_missing_at_the_start() {
    for shape in shapes() {
        let what = name(&shape);
        for lost in [OLD, NEW] {
            let mut known = Known::half_way(&shape);
            let held = half(&mut known);
            known.world.stop();
            known.world.kill();
            known.world.disks.remove(&lost);
            let wish = Wish {
                readonly: true,
                ..Wish::default()
            };
            let options = Options {
                read_only: true,
                ..Options::default()
            };
            known.world.start(&wish, options).expect("starts");
            known.check(&what);
            let degraded = known.world.array().status().degraded;
            if lost == OLD {
                let role = MemberRole::Recovering {
                    recovered_sectors: held,
                };
                assert_eq!((known.member(NEW).role, degraded), (role, 1), "{what}");
                known.world.control(Control::ReadOnly(false)).expect("rw");
                known.world.drain();
                known.check_done(&what);
            } else {
                assert_eq!((known.member(OLD).role, degraded), (MemberRole::InSync, 0));
            }
        }
    }
}

#[test]
fn what_cannot_be_replaced_is_refused_and_nothing_is_changed() {
    let mut known = Known::started(&shapes()[5]);
    let busy = |result: Result<(), ControlError>, words: &str| {
        let error = result.expect_err("refused");
        assert!(error.to_string().contains(words), "{error}");
    };
    busy(known.replace(Some(MemberId(2))), "not a spare");
    busy(known.replace(Some(OLD)), "not a spare");
    assert!(!known.member(OLD).want_replacement, "nothing was changed");
    // Without a spare it waits for one.
    known.replace(None).expect("noted");
    assert!(known.member(OLD).want_replacement);
    let middle = half(&mut known);
    known.limit(middle);
    known.world.add(NEW.0).expect("added");
    known.world.pass(1);
    busy(known.replace(None), "being replaced by");
    let other = Control::Replace {
        member: NEW,
        with: None,
    };
    let error = known.world.control(other).expect_err("refused");
    assert!(error.to_string().contains("not in sync"), "{error}");
    known.world.control(Control::Fail(NEW)).expect("failed");
    let fields = known.world.superblock(0).fields;
    assert_eq!(fields.role_of(OLD.0), Role::Active(1));
}

#[test]
fn redundancy_comes_first() {
    let shape = Shape {
        level: Level::Raid6,
        layout: 2,
        disks: 5,
        chunk_sectors: 8,
        bitmap: true,
        format: Format::V1_2,
        assume_clean: false,
    };
    let mut known = Known::half_way(&shape);
    known
        .world
        .control(Control::Fail(MemberId(3)))
        .expect("failed");
    known.world.add(10).expect("added");
    known.scribble(30);
    known.limit(MAX_SECTOR);
    known.world.pass(2);
    assert_eq!(known.member(MemberId(10)).role, MemberRole::InSync);
    known.check_done("RAID6");
    assert_eq!(known.world.disks[&NEW].bytes.len(), DISK_BYTES);
    known.check_new_alone(&shape, "RAID6");
}
