//! A member that came back, and that this node was never told where to find.
//!
//! ```text
//!   RE_ADD is told ... who joins here loads, and is not told ... superblocks name a member
//!                              |                                        | that it lacks
//!                              '--> what it saw then: uuid, path -------+--> Find --> candidate
//!                                                                             next reload: adopted
//! ```
//!
//! Its bringer sees to such a node as long as it lives: it takes the member out again. If it has
//! died, the others go on with the member, and nobody brings it any more. It is looked for where
//! it was when this node loaded the array; what is there is believed as any other candidate is: by
//! the superblock that is on it then.

use umd_format::Role;

use crate::array::{Array, Setup};
use crate::cluster::{DeviceNumber, DiskPath, NewDisk};
use crate::value::{Command, NewMember, Now};

/// Disks of this array that are seen at its start, and where they are.
pub(super) fn seen(setup: &Setup) -> Vec<NewDisk> {
    let ours = setup.facts.iter().filter_map(|fact| {
        let found = fact.superblock.as_ref().ok()?;
        (found.fields.set_uuid == setup.plan.uuid).then_some(NewDisk {
            uuid: found.fields.device_uuid.0,
            device: DeviceNumber(found.fields.dev_number),
            size_sectors: fact.size_sectors,
            path: DiskPath::new(&fact.name)?,
        })
    });
    ours.collect()
}

impl Array {
    /// Superblocks name members that are none here: one of those that this node has seen is to be
    /// looked for.
    pub(super) fn seek_strangers(&mut self) {
        let Some(reference) = self.reference() else {
            return;
        };
        let roles = reference.fields.roles.iter().zip(0u32..);
        let active = roles.filter(|(role, _)| matches!(role, Role::Active(_)));
        let shared = self.shared.as_ref().expect("in a cluster");
        let mut strangers = active.map(|(_, number)| number).filter(|number| {
            let mut members = self.members.iter();
            let none = members.all(|member| member.number() != *number);
            none && !shared.absent.contains(number)
        });
        let seen = |number| shared.seen.iter().find(|disk| disk.device.0 == number);
        let sought = strangers.find_map(seen);
        let sought = sought.copied();
        self.shared_mut().sought = sought;
    }

    /// What was looked for is a candidate of the next reload, if nobody has brought one meanwhile.
    pub(super) fn sought(
        &mut self,
        now: Now,
        disk: NewDisk,
        found: NewMember,
        out: &mut Vec<Command>,
    ) {
        let shared = self.shared_mut();
        let busy = shared.candidate.is_some() || shared.reload.is_some() || shared.is_leaving();
        match busy || self.stopped {
            true => out.push(Command::Release(found.id)),
            false => drop(self.found(now, (disk, true), Some(found), out)),
        }
    }
}
