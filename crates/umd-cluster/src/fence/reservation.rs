//! Fencing by storage: every member device refuses a node's key.
//!
//! ```text
//!   join    register(own key), reserve(write exclusive, all registrants)      on every member
//!   fence   preempt_abort(its key)      on every member: only then it is a proof
//! ```
//!
//! A device that holds such a reservation takes writes from registered hosts only. Who is preempted
//! is registered no more, on every path, and what it had under way is over when the call returns.
//! "All registrants" means that the reservation stays while anybody is registered, whoever goes.
//!
//! A key is a node's for one life. A registration belongs to a host: two daemons of one host share
//! it, and the lock on the members keeps them apart.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use umd_core::cluster::{FenceProof, Peer, ProofKind};

use super::ioctl::{self, IGNORE_KEY, Preemption, Registration, Reservation};
use super::{Fencer, NotFenced, Target, Wanted};

/// Writes by registered hosts only, for as long as there are any (`PR_WRITE_EXCLUSIVE_ALL_REGS`).
const WRITE_EXCLUSIVE_ALL_REGISTRANTS: u32 = 5;

/// The status of SCSI (and what the kernel makes of NVMe's) for a key that is not, or not any more,
/// what was said.
const RESERVATION_CONFLICT: i32 = 0x18;

/// The key of one life of a node: never zero, and no other life's of the array.
pub fn key(peer: Peer) -> u64 {
    let life = peer.incarnation.0 & ((1 << 48) - 1);
    ((u64::from(peer.slot.0) + 1) << 48) | life
}

/// Why a device did not do what a key asked for.
#[derive(Debug, thiserror::Error)]
pub enum Conflict {
    /// It has no reservations.
    #[error("has no persistent reservations")]
    None,
    /// The key is not registered there, or the one to be ended is not.
    #[error("refuses the key: it is not registered there, or was preempted")]
    Refused,
    /// It gave a status that is not known here.
    #[error("ended with status {0:#x}")]
    Status(i32),
    /// It could not be asked.
    #[error("cannot be asked: {0}")]
    Io(#[from] io::Error),
}

/// What has registrations and a reservation: a block device, or a server that plays one.
pub trait Persistent: Send + Sync {
    /// What messages call it.
    fn name(&self) -> String;

    /// Registers a key for this host, in the place of whatever it had.
    ///
    /// # Errors
    /// [`Conflict`].
    fn register(&self, key: u64) -> Result<(), Conflict>;

    /// From here on only who is registered writes.
    ///
    /// # Errors
    /// [`Conflict`].
    fn reserve(&self, key: u64) -> Result<(), Conflict>;

    /// Ends the registration of `victim`; when this returns, nothing of it is under way.
    ///
    /// # Errors
    /// [`Conflict`]: it may still write.
    fn preempt_abort(&self, key: u64, victim: u64) -> Result<(), Conflict>;
}

/// A disk, or a path to one. SCSI and NVMe have the same calls.
#[derive(Debug)]
pub struct BlockDevice {
    file: File,
    path: PathBuf,
}

impl BlockDevice {
    /// Opens a device for this.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path) -> io::Result<BlockDevice> {
        let file = File::options().read(true).write(true).open(path)?;
        let path = path.to_owned();
        Ok(BlockDevice { file, path })
    }
}

/// What a call's result means.
fn judge(result: io::Result<i32>) -> Result<(), Conflict> {
    const NOT_A_DEVICE_FOR_IT: [rustix::io::Errno; 3] = [
        rustix::io::Errno::NOTTY,
        rustix::io::Errno::OPNOTSUPP,
        rustix::io::Errno::INVAL,
    ];
    match result {
        Ok(0) => Ok(()),
        Ok(RESERVATION_CONFLICT) => Err(Conflict::Refused),
        Ok(status) => Err(Conflict::Status(status)),
        Err(error) => {
            let code = rustix::io::Errno::from_io_error(&error);
            Err(match code {
                Some(code) if NOT_A_DEVICE_FOR_IT.contains(&code) => Conflict::None,
                Some(rustix::io::Errno::BADE) => Conflict::Refused,
                _ => Conflict::Io(error),
            })
        }
    }
}

impl Persistent for BlockDevice {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn register(&self, key: u64) -> Result<(), Conflict> {
        let argument = Registration {
            old_key: 0,
            new_key: key,
            flags: IGNORE_KEY,
            pad: 0,
        };
        judge(ioctl::register(&self.file, argument))
    }

    fn reserve(&self, key: u64) -> Result<(), Conflict> {
        let argument = Reservation {
            key,
            kind: WRITE_EXCLUSIVE_ALL_REGISTRANTS,
            flags: 0,
        };
        judge(ioctl::reserve(&self.file, argument))
    }

    fn preempt_abort(&self, key: u64, victim: u64) -> Result<(), Conflict> {
        let argument = Preemption {
            old_key: victim,
            new_key: key,
            kind: WRITE_EXCLUSIVE_ALL_REGISTRANTS,
            flags: 0,
        };
        judge(ioctl::preempt_abort(&self.file, argument))
    }
}

/// The members of an array, with the key of this node.
pub struct Reservations {
    members: Vec<Box<dyn Persistent>>,
    key: u64,
}

impl Reservations {
    /// Registers this node's key on all members, and reserves them.
    ///
    /// # Errors
    /// When one of them does not take it: fencing would be no proof.
    pub fn take(members: Vec<Box<dyn Persistent>>, me: Peer) -> Result<Reservations, NotFenced> {
        let key = key(me);
        assert!(!members.is_empty(), "an array has members");
        for member in &members {
            let taken = member.register(key).and_then(|()| member.reserve(key));
            taken.map_err(|why| NotFenced(format!("{} {why}", member.name())))?;
        }
        Ok(Reservations { members, key })
    }
}

impl Fencer for Reservations {
    fn fence(&self, target: &Target, _: &Wanted<'_>) -> Result<FenceProof, NotFenced> {
        let victim = key(target.peer);
        assert_ne!(victim, self.key, "a node does not fence itself");
        let mut failed = Vec::new();
        for member in &self.members {
            // The others are cut off all the same: less can be spoilt.
            if let Err(why) = member.preempt_abort(self.key, victim) {
                failed.push(format!("{} {why}", member.name()));
            }
        }
        if !failed.is_empty() {
            let (all, bad) = (self.members.len(), failed.len());
            let why = failed.join(", ");
            return Err(NotFenced(format!(
                "it may still write to {bad} of {all} members: {why}"
            )));
        }
        Ok(FenceProof {
            peer: target.peer,
            kind: ProofKind::Storage,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::{Arc, Mutex};

    use umd_core::cluster::{Incarnation, NodeSlot};

    use super::super::tests::target;
    use super::*;

    fn peer(slot: u16, incarnation: u64) -> Peer {
        let (slot, incarnation) = (NodeSlot(slot), Incarnation(incarnation));
        Peer { slot, incarnation }
    }

    #[test]
    fn every_life_has_a_key_of_its_own() {
        let lives = [
            peer(0, 0),
            peer(0, 1 << 16),
            peer(1, 1 << 16),
            peer(u16::MAX - 1, 7),
        ];
        let keys: BTreeSet<u64> = lives.into_iter().map(key).collect();
        assert_eq!(keys.len(), 4);
        assert!(!keys.contains(&0), "no key is none");
        assert_eq!(key(peer(1, 0x77_0000)), 0x0002_0000_0077_0000);
    }

    /// A device that keeps registrations.
    #[derive(Clone, Default)]
    struct Disk {
        keys: Arc<Mutex<BTreeSet<u64>>>,
        broken: bool,
    }

    impl Persistent for Disk {
        fn name(&self) -> String {
            "disk".into()
        }
        fn register(&self, key: u64) -> Result<(), Conflict> {
            self.keys.lock().unwrap().insert(key);
            Ok(())
        }
        fn reserve(&self, key: u64) -> Result<(), Conflict> {
            match self.keys.lock().unwrap().contains(&key) {
                true => Ok(()),
                false => Err(Conflict::Refused),
            }
        }
        fn preempt_abort(&self, key: u64, victim: u64) -> Result<(), Conflict> {
            let mut keys = self.keys.lock().unwrap();
            if self.broken || !keys.contains(&key) || !keys.remove(&victim) {
                return Err(Conflict::Refused);
            }
            Ok(())
        }
    }

    fn take(disks: &[Disk], me: Peer) -> Reservations {
        let all = disks
            .iter()
            .map(|disk| Box::new(disk.clone()) as Box<dyn Persistent>);
        Reservations::take(all.collect(), me).unwrap()
    }

    #[test]
    fn only_all_members_together_are_a_proof() {
        let target = target(Some("beta"));
        let mut disks = [Disk::default(), Disk::default()];
        let me = take(&disks, peer(0, 1));
        take(&disks, target.peer);
        assert_eq!(
            me.fence(&target, &|| true).unwrap().kind,
            ProofKind::Storage
        );
        for disk in &disks {
            assert_eq!(
                *disk.keys.lock().unwrap(),
                BTreeSet::from([key(peer(0, 1))])
            );
        }
        disks[0].broken = true;
        let me = take(&disks, peer(0, 1));
        take(&disks, target.peer);
        let why = me.fence(&target, &|| true).unwrap_err().0;
        assert!(
            why.starts_with("it may still write to 1 of 2 members: disk refuses"),
            "{why}"
        );
        // It is cut off where that could be had.
        assert!(!disks[1].keys.lock().unwrap().contains(&key(target.peer)));
    }

    #[test]
    fn a_file_has_no_reservations_and_says_so() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let open = || Box::new(BlockDevice::open(file.path()).unwrap());
        let why = Reservations::take(vec![open()], peer(0, 1))
            .err()
            .unwrap()
            .0;
        let name = file.path().display();
        assert_eq!(why, format!("{name} has no persistent reservations"));
        assert!(matches!(open().preempt_abort(1, 2), Err(Conflict::None)));
    }

    #[test]
    fn what_devices_answer_is_understood() {
        let error = |errno: rustix::io::Errno| judge(Err(errno.into())).unwrap_err();
        assert!(judge(Ok(0)).is_ok());
        assert!(matches!(judge(Ok(0x18)), Err(Conflict::Refused)));
        assert!(matches!(judge(Ok(2)), Err(Conflict::Status(2))));
        assert!(matches!(
            error(rustix::io::Errno::OPNOTSUPP),
            Conflict::None
        ));
        assert!(matches!(error(rustix::io::Errno::BADE), Conflict::Refused));
        assert!(matches!(error(rustix::io::Errno::IO), Conflict::Io(_)));
    }
}
