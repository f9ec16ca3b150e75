//! Fencing by storage: every member device refuses a node's key.
//!
//! ```text
//!   join    register(own key), reserve(write exclusive, all registrants)      on every member
//!   fence   reserve, preempt_abort(its key)      on every member: only then it is a proof
//!   a disk that is opened later     register; nobody who was fenced is let in there
//!     once it is certain that it may be taken       reserve, by who adds it
//!   it is let go    unregister(own key)
//!   leave   unregister(own key)
//! ```
//!
//! A device that holds such a reservation takes writes from registered hosts only. Who is preempted
//! is registered no more, on every path, and what it had under way is over when the call returns.
//! "All registrants" means that the reservation stays while anybody is registered, whoever goes.
//!
//! Who is refused because a key is not registered (any more) has no proof: another node may have
//! ended that registration, and not be through with what was under way. It says so to all when it
//! is. So each node goes through the members in the order of their names, and stops where it is
//! refused: of several nodes that fence the same one, the first goes on alone.
//!
//! A key is a node's for one life. A registration belongs to a host: two daemons of one host share
//! it, and the lock on the members keeps them apart.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use umd_core::cluster::{FenceProof, Peer, ProofKind};

use super::ioctl::{self, IGNORE_KEY, Preemption, Registration, Reservation};
use super::{Fencer, NotFenced, Target, Wanted};

/// Writes by registered hosts only, for as long as there are any (`PR_WRITE_EXCLUSIVE_ALL_REGS`).
pub(super) const WRITE_EXCLUSIVE_ALL_REGISTRANTS: u32 = 5;

/// The status of SCSI (and what kernels since 6.4 make of NVMe's) for a key that is not, or not any
/// more, what was said.
pub(super) const RESERVATION_CONFLICT: i32 = 0x18;

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

    /// Ends the registration of a key of one's own. With the last one the reservation ends.
    ///
    /// # Errors
    /// [`Conflict`].
    fn unregister(&self, key: u64) -> Result<(), Conflict>;

    /// Ends the registration of `victim`; when this returns, nothing of it is under way.
    ///
    /// # Errors
    /// [`Conflict`]: it may still write.
    fn preempt_abort(&self, key: u64, victim: u64) -> Result<(), Conflict>;
}

/// A SCSI disk, or a path to one. For NVMe: [`super::Namespace`].
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
pub(super) fn judge(result: io::Result<i32>) -> Result<(), Conflict> {
    const NOT_A_DEVICE_FOR_IT: [rustix::io::Errno; 3] = [
        rustix::io::Errno::NOTTY,
        rustix::io::Errno::OPNOTSUPP,
        rustix::io::Errno::INVAL,
    ];
    match result {
        Ok(0) => Ok(()),
        // The status is the low byte; drivers put words of their own above it.
        Ok(status) if status & 0xff == RESERVATION_CONFLICT => Err(Conflict::Refused),
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

    fn unregister(&self, key: u64) -> Result<(), Conflict> {
        let argument = Registration {
            old_key: key,
            new_key: 0,
            flags: 0,
            pad: 0,
        };
        judge(ioctl::register(&self.file, argument))
    }

    fn preempt_abort(&self, key: u64, victim: u64) -> Result<(), Conflict> {
        // Whatever these are called: the first is shown, the second goes, as in the commands that
        // the kernel makes of it (SCSI's reservation key and service action key).
        let argument = Preemption {
            old_key: key,
            new_key: victim,
            kind: WRITE_EXCLUSIVE_ALL_REGISTRANTS,
            flags: 0,
        };
        judge(ioctl::preempt_abort(&self.file, argument))
    }
}

/// A device of the array.
struct Member {
    device: Box<dyn Persistent>,
    /// Whom this node has cut off there.
    cut: Mutex<BTreeSet<u64>>,
}

impl Member {
    fn told(&self, why: &Conflict) -> String {
        format!("{} {why}", self.device.name())
    }

    fn cut_off(&self, key: u64, victim: u64) -> Result<(), Conflict> {
        if lock(&self.cut).contains(&victim) {
            return Ok(());
        }
        // Nobody but who adds a disk has reserved it so far, and that one may be dead.
        self.device.reserve(key)?;
        self.device.preempt_abort(key, victim)?;
        lock(&self.cut).insert(victim);
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is under these locks is changed by single calls.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The members of an array, with the key of this node.
pub struct Reservations {
    members: Mutex<Vec<Arc<Member>>>,
    /// Whom this node has fenced.
    fenced: Mutex<BTreeSet<u64>>,
    key: u64,
}

impl fmt::Debug for Reservations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key {:#x}", self.key)
    }
}

impl Reservations {
    /// The key of this node.
    pub fn key(&self) -> u64 {
        self.key
    }

    /// Registers this node's key on all members, and reserves them. All nodes should be given them
    /// in the same order.
    ///
    /// # Errors
    /// When one of them does not take it: fencing would be no proof. No key is left on the others.
    pub fn take(devices: Vec<Box<dyn Persistent>>, me: Peer) -> Result<Reservations, NotFenced> {
        assert!(!devices.is_empty(), "an array has members");
        let reservations = Reservations {
            members: Mutex::default(),
            fenced: Mutex::default(),
            key: key(me),
        };
        for device in devices {
            let name = device.name();
            let taken = reservations.add(device);
            if let Err(why) = taken.and_then(|()| reservations.hold(&name)) {
                reservations.release();
                return Err(why);
            }
        }
        Ok(reservations)
    }

    /// Registers this node's key on a device that may become a member: nothing else changes there.
    /// Nobody whom this node has fenced stays registered.
    ///
    /// # Errors
    /// When it does not take the key, or may let somebody in who was fenced.
    pub fn add(&self, device: Box<dyn Persistent>) -> Result<(), NotFenced> {
        let cut = Mutex::default();
        let member = Member { device, cut };
        let registered = member.device.register(self.key);
        registered.map_err(|why| NotFenced(member.told(&why)))?;
        for victim in lock(&self.fenced).iter() {
            match member.device.preempt_abort(self.key, *victim) {
                Ok(()) | Err(Conflict::Refused) => {} // It is not registered, and we are.
                Err(why) => return Err(NotFenced(member.told(&why))),
            }
        }
        let mut members = lock(&self.members);
        let name = member.device.name();
        members.retain(|one| one.device.name() != name);
        members.push(Arc::new(member));
        Ok(())
    }

    /// Whether a device was added, and not let go.
    pub fn has(&self, name: &str) -> bool {
        let members = lock(&self.members);
        members.iter().any(|one| one.device.name() == name)
    }

    /// From here on only who is registered writes to a device that was added.
    ///
    /// # Errors
    /// When it does not do that, or was not added.
    pub fn hold(&self, name: &str) -> Result<(), NotFenced> {
        let members = lock(&self.members).clone();
        let member = members.iter().find(|one| one.device.name() == name);
        let member = member.ok_or_else(|| NotFenced(format!("{name} is not registered")))?;
        let reserved = member.device.reserve(self.key);
        reserved.map_err(|why| NotFenced(member.told(&why)))
    }

    /// A device is no member, or none any more: who writes there is nobody's business. With this
    /// node's key on it the last reservation may go. May take as long as the device likes.
    ///
    /// # Errors
    /// When it keeps the key; why.
    pub fn let_go(&self, name: &str) -> Result<(), String> {
        let mut members = lock(&self.members);
        let found = members.iter().position(|one| one.device.name() == name);
        let Some(member) = found.map(|index| members.remove(index)) else {
            return Ok(());
        };
        drop(members);
        let gone = member.device.unregister(self.key);
        gone.map_err(|why| member.told(&why))
    }

    /// This node has left in order. What does not take that keeps its key; why.
    pub fn release(&self) -> Vec<String> {
        let members = std::mem::take(&mut *lock(&self.members));
        let left = members.iter().map(|one| {
            let result = one.device.unregister(self.key);
            result.map_err(|why| one.told(&why))
        });
        left.filter_map(Result::err).collect()
    }
}

impl Fencer for Reservations {
    fn fence(&self, target: &Target, wanted: &Wanted<'_>) -> Result<FenceProof, NotFenced> {
        let victim = key(target.peer);
        assert_ne!(victim, self.key, "a node does not fence itself");
        let mut members = lock(&self.members).clone();
        members.sort_by_key(|one| one.device.name());
        let all = members.len();
        let (mut failed, mut bad) = (Vec::new(), 0);
        for (index, member) in members.iter().enumerate() {
            if !wanted() {
                return Err(NotFenced("its end is not waited for any more".into()));
            }
            // After a device that fails the others are cut off all the same: less can be spoilt.
            match member.cut_off(self.key, victim) {
                Ok(()) => {}
                Err(why @ Conflict::Refused) => {
                    failed.push(member.told(&why));
                    bad += all - index;
                    break;
                }
                Err(why) => {
                    failed.push(member.told(&why));
                    bad += 1;
                }
            }
        }
        if !failed.is_empty() {
            let why = failed.join(", ");
            return Err(NotFenced(format!(
                "it may still write to {bad} of {all} members: {why}"
            )));
        }
        if members.is_empty() {
            return Err(NotFenced("the array has no members".into()));
        }
        lock(&self.fenced).insert(victim);
        Ok(FenceProof {
            peer: target.peer,
            kind: ProofKind::Storage,
        })
    }
}

impl Fencer for Arc<Reservations> {
    fn fence(&self, target: &Target, wanted: &Wanted<'_>) -> Result<FenceProof, NotFenced> {
        Reservations::fence(self, target, wanted)
    }
}

#[cfg(test)]
mod tests {
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
        name: &'static str,
        keys: Arc<Mutex<BTreeSet<u64>>>,
        broken: Arc<Mutex<bool>>,
    }

    impl Disk {
        fn well(&self) -> Result<(), Conflict> {
            match *lock(&self.broken) {
                true => Err(Conflict::Status(2)),
                false => Ok(()),
            }
        }
    }

    impl Persistent for Disk {
        fn name(&self) -> String {
            self.name.into()
        }
        fn register(&self, key: u64) -> Result<(), Conflict> {
            self.well()?;
            lock(&self.keys).insert(key);
            Ok(())
        }
        fn reserve(&self, key: u64) -> Result<(), Conflict> {
            match lock(&self.keys).contains(&key) {
                true => Ok(()),
                false => Err(Conflict::Refused),
            }
        }
        fn unregister(&self, key: u64) -> Result<(), Conflict> {
            self.well()?;
            match lock(&self.keys).remove(&key) {
                true => Ok(()),
                false => Err(Conflict::Refused),
            }
        }
        fn preempt_abort(&self, key: u64, victim: u64) -> Result<(), Conflict> {
            self.well()?;
            let mut keys = lock(&self.keys);
            if !keys.contains(&key) || !keys.remove(&victim) {
                return Err(Conflict::Refused);
            }
            Ok(())
        }
    }

    fn disk(name: &'static str) -> Disk {
        Disk {
            name,
            ..Disk::default()
        }
    }

    fn boxed(disk: &Disk) -> Box<dyn Persistent> {
        Box::new(disk.clone())
    }

    fn take(disks: &[Disk], me: Peer) -> Reservations {
        Reservations::take(disks.iter().map(boxed).collect(), me).unwrap()
    }

    #[test]
    fn only_all_members_together_are_a_proof() {
        let target = target(Some("beta"));
        let disks = [disk("a"), disk("b")];
        let me = take(&disks, peer(0, 1));
        take(&disks, target.peer);
        *lock(&disks[0].broken) = true;
        let why = me.fence(&target, &|| true).unwrap_err().0;
        let said = "it may still write to 1 of 2 members: a ended with status 0x2";
        assert_eq!(why, said);
        // It is cut off where that could be had, and not asked for again there.
        assert!(!lock(&disks[1].keys).contains(&key(target.peer)));
        *lock(&disks[0].broken) = false;
        let kind = me.fence(&target, &|| true).unwrap().kind;
        assert_eq!(kind, ProofKind::Storage);
        let mine = BTreeSet::from([key(peer(0, 1))]);
        assert!(disks.iter().all(|disk| *lock(&disk.keys) == mine));
    }

    #[test]
    fn of_two_who_fence_the_first_goes_on_and_the_other_has_no_proof() {
        let target = target(Some("beta"));
        let disks = [disk("a"), disk("b")];
        let (me, other) = (take(&disks, peer(0, 1)), take(&disks, peer(2, 1)));
        take(&disks, target.peer);
        disks[0]
            .preempt_abort(key(peer(2, 1)), key(target.peer))
            .unwrap();
        let why = me.fence(&target, &|| true).unwrap_err().0;
        assert!(
            why.starts_with("it may still write to 2 of 2 members: a refuses"),
            "{why}"
        );
        // What the first has not come to is left to it.
        assert!(lock(&disks[1].keys).contains(&key(target.peer)));
        lock(&lock(&other.members)[0].cut).insert(key(target.peer));
        other.fence(&target, &|| true).unwrap();
        assert!(me.fence(&target, &|| true).is_err());
    }

    #[test]
    fn who_was_fenced_does_not_write_to_a_disk_that_comes_later() {
        let target = target(Some("beta"));
        let (disks, late) = ([disk("a")], disk("late"));
        let me = take(&disks, peer(0, 1));
        take(&[disks[0].clone(), late.clone()], target.peer);
        me.fence(&target, &|| true).unwrap();
        me.add(boxed(&late)).unwrap();
        assert_eq!(*lock(&late.keys), BTreeSet::from([key(peer(0, 1))]));
        // One that went out is asked nothing any more.
        *lock(&disks[0].broken) = true;
        let again = peer(1, 0x88_0000);
        take(std::slice::from_ref(&late), again);
        let target = Target {
            peer: again,
            ..target
        };
        assert!(me.fence(&target, &|| true).is_err());
        assert_eq!(me.let_go("a").unwrap_err(), "a ended with status 0x2");
        me.fence(&target, &|| true).unwrap();
        me.let_go("late").unwrap();
        assert!(lock(&late.keys).is_empty(), "its key went with it");
        me.let_go("late").unwrap();
    }

    #[test]
    fn who_leaves_takes_its_keys_along_and_so_does_who_is_refused() {
        let disks = [disk("a"), disk("b")];
        let me = take(&disks, peer(0, 1));
        *lock(&disks[1].broken) = true;
        assert_eq!(me.release(), ["b ended with status 0x2"]);
        assert!(lock(&disks[0].keys).is_empty());
        let refused = Reservations::take(disks.iter().map(boxed).collect(), peer(0, 2));
        assert_eq!(refused.err().unwrap().0, "b ended with status 0x2");
        assert!(lock(&disks[0].keys).is_empty());
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
        assert!(matches!(judge(Ok(0x118)), Err(Conflict::Refused)));
        assert!(matches!(judge(Ok(2)), Err(Conflict::Status(2))));
        assert!(matches!(
            error(rustix::io::Errno::OPNOTSUPP),
            Conflict::None
        ));
        assert!(matches!(error(rustix::io::Errno::BADE), Conflict::Refused));
        assert!(matches!(error(rustix::io::Errno::IO), Conflict::Io(_)));
    }
}
