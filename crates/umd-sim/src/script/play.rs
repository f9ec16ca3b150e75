//! Plays scripts.

use std::cell::RefCell;
use std::rc::Rc;

use umd_core::array::Status;

use super::{Admin, Fate, Host, Step};
use crate::disk::{SimDisk, Stand, Write};
use crate::engine::Maker;
use crate::monitor::{Rule, Verdict, Violation};
use crate::options::Options;
use crate::run::{Outcome, Show, run_world};
use crate::trace::Trace;
use crate::world::{Ambush, Kind, Looked, Plan, World};

/// A world at the disposal of a script.
pub struct Script<'w, 'm> {
    world: &'w mut World<'m>,
}

/// Plays the steps: the array is created and started before the first one; after the last one it is
/// brought to rest, read and stopped. A first step that boots replaces the start.
pub fn play(options: &Options, steps: &[Step], maker: &dyn Maker, show: Show) -> Outcome {
    script(options, maker, show, |script| script.steps(steps))
}

/// Runs a script that is a function. Start and end are as in [`play`], but the array is always
/// started first.
pub fn script(
    options: &Options,
    maker: &dyn Maker,
    show: Show,
    body: impl FnOnce(&mut Script<'_, '_>) -> Verdict,
) -> Outcome {
    let trace = Trace::of(show);
    let mut world = World::new(options.clone(), maker, trace);
    run_world(&mut world, |world| {
        world.drive_by_hand();
        let mut script = Script { world };
        if !script.world.boot_by_hand(None)? {
            return Ok(());
        }
        body(&mut script)?;
        script.finish()
    })
}

/// Plays the steps with an ambush. Says also whether it struck.
pub fn play_ambushed(
    options: &Options,
    steps: &[Step],
    maker: &dyn Maker,
    ambush: Ambush,
    show: Show,
) -> (Outcome, bool) {
    let trace = Trace::of(show);
    let mut world = World::new(options.clone(), maker, trace);
    world.drive_by_hand();
    world.lay_ambush(ambush);
    let outcome = run_world(&mut world, |world| {
        let mut script = Script { world };
        if !script.world.boot_by_hand(None)? {
            return Ok(());
        }
        script.steps(steps)?;
        script.finish()
    });
    (outcome, world.is_sprung())
}

/// Plays the steps and looks at every crash image of every moment of them.
pub(crate) fn play_everywhere(
    options: &Options,
    steps: &[Step],
    maker: &dyn Maker,
    looked: Rc<RefCell<Looked>>,
    show: Show,
) -> Outcome {
    let mut world = World::new(options.clone(), maker, Trace::of(show));
    world.drive_by_hand();
    world.look_everywhere(looked);
    run_world(&mut world, |world| {
        let mut script = Script { world };
        if !script.world.boot_by_hand(None)? {
            return Ok(());
        }
        script.steps(steps)?;
        script.finish()
    })
}

/// What a fate says about one write.
fn survives(fate: &Fate, write: &Write, stand: Stand) -> bool {
    match fate {
        Fate::Lost => false,
        Fate::Kept => true,
        Fate::Cached => stand == Stand::Cached,
        Fate::Only(purposes) => purposes.contains(&write.purpose),
        Fate::Without(purposes) => !purposes.contains(&write.purpose),
    }
}

/// The entry of a list by disk, whose last entry counts for the rest.
fn by_disk<T>(list: &[T], disk: usize) -> &T {
    let last = list.last().expect("at least one entry");
    list.get(disk).unwrap_or(last)
}

impl<'m> Script<'_, 'm> {
    /// Plays some steps. Ends early when the array is rightly refused, or
    /// an ambush has taken it down.
    pub fn steps(&mut self, steps: &[Step]) -> Verdict {
        for step in steps {
            self.step(step)?;
            if self.world.is_over() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Plays one step.
    pub fn step(&mut self, step: &Step) -> Verdict {
        self.world.remark(format_args!("step {step:?}"));
        let world = &mut *self.world;
        match step {
            Step::Host { host, wait } => {
                let id = world.host_asks(plan(host))?;
                if *wait {
                    world.await_request(id)
                } else {
                    Ok(())
                }
            }
            Step::Await => world.await_all(),
            Step::Admin {
                admin,
                refused,
                wait,
            } => self.admin(*admin, *refused, *wait),
            Step::Arm(disk, armed) => {
                world.arm_by_hand(*disk, *armed);
                Ok(())
            }
            Step::Damage(disk, range) => {
                world.damage_by_hand(*disk, range.clone());
                Ok(())
            }
            Step::Wear(disk, range) => {
                world.wear_by_hand(*disk, range.clone());
                Ok(())
            }
            Step::Vanish(disk) => {
                world.vanish_by_hand(*disk);
                Ok(())
            }
            Step::Settle => world.settle_by_hand(),
            Step::Quiet => world.quieten(),
            Step::Sleep(ns) => world.sleep(*ns),
            Step::Until(pattern) => world.run_until(pattern),
            Step::Hold(pattern) => {
                world.hold(pattern);
                Ok(())
            }
            Step::Release => {
                world.release();
                Ok(())
            }
            Step::PowerCut(fates) => {
                world
                    .cut_by_hand(|disk, write, stand| survives(by_disk(fates, disk), write, stand));
                Ok(())
            }
            Step::Kill { landing } => {
                world.kill_by_hand(|disk| *by_disk(landing, disk));
                Ok(())
            }
            Step::Stop => world.stop_by_hand(),
            Step::Boot(chosen) => self.boot(chosen.as_deref()),
            Step::Refused(chosen) => world.boot_is_refused(chosen),
            Step::ReadAll => world.read_everything(),
            Step::InSync(wanted) => self.in_sync(*wanted),
            Step::Mismatch(wanted) => self.mismatch(*wanted),
            Step::Rot(..) | Step::Shear(_) | Step::Clone(_) | Step::Shorten(_) => {
                self.lie(step);
                Ok(())
            }
        }
    }

    fn boot(&mut self, chosen: Option<&[usize]>) -> Verdict {
        match self.world.boot_by_hand(chosen)? {
            true => Ok(()),
            // It may be: more was broken than redundancy covers.
            false => Ok(()),
        }
    }

    fn admin(&mut self, admin: Admin, refused: bool, wait: bool) -> Verdict {
        let Some(request) = self.world.admin_request(admin) else {
            return match self.world.is_sprung() {
                true => Ok(()),
                false => broken(format!("{admin:?} is about the wrong disk")),
            };
        };
        let error = self.world.ask_by_hand(request, wait)?;
        match error {
            // What an ambush has done may stand in the way of everything.
            _ if !wait || self.world.is_sprung() => Ok(()),
            Some(error) if !refused => broken(format!("{admin:?} was refused: {error}")),
            None if refused => broken(format!("{admin:?} was done, and must be refused")),
            _ => Ok(()),
        }
    }

    fn lie(&mut self, step: &Step) {
        match step {
            Step::Rot(disk, range) => self.world.rot_by_hand(*disk, range.clone()),
            Step::Shear(disk) => self.world.shear_by_hand(*disk),
            Step::Clone(disk) => self.world.clone_disk(*disk),
            Step::Shorten(disk) => self.world.shrink_disk(*disk),
            other => unreachable!("{other:?} is no lie"),
        }
    }

    /// Content rots, and nobody tells the oracle.
    #[cfg(test)]
    pub(crate) fn rot_untold(&mut self, disk: usize, range: std::ops::Range<u64>) {
        self.world.rot_untold(disk, range);
    }

    fn mismatch(&self, wanted: u64) -> Verdict {
        let found = self.status().map(|status| status.mismatch_sectors);
        if found == Some(wanted) || self.world.is_sprung() {
            return Ok(());
        }
        broken(format!("{found:?} sectors disagree instead of {wanted}"))
    }

    fn in_sync(&self, wanted: usize) -> Verdict {
        let found = self.world.members_in_sync();
        if found == wanted || self.world.is_sprung() {
            return Ok(());
        }
        broken(format!("{found} members are in sync instead of {wanted}"))
    }

    /// Brings the world to rest: starts the array if it is down, lets go of what is held back, lets
    /// it settle, reads everything, stops.
    pub fn finish(&mut self) -> Verdict {
        let world = &mut *self.world;
        if !world.is_live() && !world.boot_by_hand(None)? {
            return Ok(());
        }
        world.remark(format_args!("the end"));
        world.release();
        world.calm();
        world.settle_by_hand()?;
        world.read_everything()?;
        if world.is_live() {
            world.stop_by_hand()?;
        }
        Ok(())
    }

    /// The array as it shows itself; `None`: none is running.
    pub fn status(&self) -> Option<&Status> {
        self.world.status()
    }

    /// A disk.
    pub fn disk(&self, disk: usize) -> &SimDisk {
        &self.world.disks()[disk]
    }

    /// Size of the array.
    pub fn array_sectors(&self) -> u64 {
        self.world.array_sectors()
    }

    /// Whether more was broken than redundancy covers.
    pub fn is_beyond(&self) -> bool {
        self.world.is_beyond()
    }
}

fn broken(text: String) -> Verdict {
    Err(Violation::new(Rule::Error, format!("script: {text}")))
}

/// The request of the world.
pub(crate) fn plan(host: &Host) -> Plan {
    let (kind, zero, range) = match host {
        Host::Read(range) => (Kind::Read, false, range.clone()),
        Host::Write { range, fua } => (Kind::Write { fua: *fua }, false, range.clone()),
        Host::Zero(range) => (Kind::Write { fua: false }, true, range.clone()),
        Host::Trim(range) => (Kind::Trim { fua: false }, false, range.clone()),
        Host::Flush => (Kind::Flush, false, 0..1),
        Host::Allocation(range) => (Kind::Allocation, false, range.clone()),
    };
    Plan { kind, zero, range }
}
