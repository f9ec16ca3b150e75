//! Reservations of NVMe namespaces, where they differ from those of SCSI disks.
//!
//! ```text
//!   register     the kernel's call; a host that is registered with another key is refused, and
//!                  replaces it then: the kernel makes that command when an old key is given
//!   reserve      the kernel's call; a holder of "all registrants" may be refused, and looks
//!                  whether that very reservation is there, and its own key (Reservation Report)
//!   preempt      the kernel's call
//!   unregister   there is no such call: Reservation Register, action 1, passed through
//! ```
//!
//! Before Linux 6.4 the kernel's calls end with the status of NVMe, later with one of their own;
//! what is passed through always ends with the former. Numbers: NVM Express base specification,
//! Reservation Register (opcode 0Dh) and Reservation Report (0Eh), and `linux/nvme_ioctl.h`.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::ioctl::{self, IGNORE_KEY, NvmeCommand, Preemption, Registration, Reservation};
use super::reservation::{
    Conflict, Persistent, RESERVATION_CONFLICT, WRITE_EXCLUSIVE_ALL_REGISTRANTS, judge,
};

const REGISTER: u8 = 0x0d;
const REPORT: u8 = 0x0e;
/// Of Reservation Register: the host's registration ends.
const UNREGISTER: u32 = 1;
/// Of Reservation Report: with host identifiers of 128 bits.
const EXTENDED: u32 = 1;
/// Status: somebody else's reservation, or another key.
const CONFLICT: i32 = 0x83;
/// Status: such a command, or such a field in it, is not known there.
const UNKNOWN: [i32; 2] = [0x01, 0x02];
/// Status: host identifiers have the other length.
const OTHER_LENGTH: i32 = 0x18;
/// What a status is, without the bits that say whether to try again.
const STATUS: i32 = 0x7ff;
/// Reservation Report: what is reserved, and "write exclusive, all registrants".
const TYPE: usize = 4;
const ALL_REGISTRANTS: u8 = 5;
/// Room for a report: 63 registrants with long identifiers.
const REPORT_BYTES: usize = 4096;

/// Whether a device is a namespace of NVMe: by the name the kernel gave it.
pub fn is_nvme(path: &Path) -> bool {
    let real = std::fs::canonicalize(path).unwrap_or_else(|_| path.into());
    let name = real.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name.starts_with("nvme"))
}

/// The calls that reach a namespace.
pub(super) trait Calls: Send + Sync {
    fn register(&self, argument: Registration) -> io::Result<i32>;
    fn reserve(&self, argument: Reservation) -> io::Result<i32>;
    fn preempt_abort(&self, argument: Preemption) -> io::Result<i32>;
    /// Passes a command through; `data` goes there, or comes back.
    fn submit(&self, command: NvmeCommand, data: &mut [u8]) -> io::Result<i32>;
}

impl Calls for File {
    fn register(&self, argument: Registration) -> io::Result<i32> {
        ioctl::register(self, argument)
    }

    fn reserve(&self, argument: Reservation) -> io::Result<i32> {
        ioctl::reserve(self, argument)
    }

    fn preempt_abort(&self, argument: Preemption) -> io::Result<i32> {
        ioctl::preempt_abort(self, argument)
    }

    fn submit(&self, command: NvmeCommand, data: &mut [u8]) -> io::Result<i32> {
        ioctl::nvme_submit(self, command, data)
    }
}

/// A namespace of an NVMe device.
#[derive(Debug)]
pub struct Namespace {
    file: File,
    path: PathBuf,
}

impl Namespace {
    /// Opens a device for this.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path) -> io::Result<Namespace> {
        let file = File::options().read(true).write(true).open(path)?;
        let path = path.to_owned();
        Ok(Namespace { file, path })
    }
}

impl Persistent for Namespace {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn register(&self, key: u64) -> Result<(), Conflict> {
        register(&self.file, key)
    }

    fn reserve(&self, key: u64) -> Result<(), Conflict> {
        reserve(&self.file, key)
    }

    fn unregister(&self, key: u64) -> Result<(), Conflict> {
        unregister(&self.file, key)
    }

    fn preempt_abort(&self, key: u64, victim: u64) -> Result<(), Conflict> {
        preempt_abort(&self.file, key, victim)
    }
}

/// What the kernel's calls mean.
fn judged(result: io::Result<i32>) -> Result<(), Conflict> {
    match result {
        Ok(status) if status & 0xff == RESERVATION_CONFLICT => Err(Conflict::Refused),
        result => passed(result),
    }
}

/// What the device itself said means.
fn passed(result: io::Result<i32>) -> Result<(), Conflict> {
    match result.map(|status| status & STATUS) {
        Ok(CONFLICT) => Err(Conflict::Refused),
        Ok(status) if UNKNOWN.contains(&status) => Err(Conflict::None),
        Ok(0) => Ok(()),
        Ok(status) => Err(Conflict::Status(status)),
        Err(error) => judge(Err(error)),
    }
}

fn register(device: &dyn Calls, key: u64) -> Result<(), Conflict> {
    let with = |old_key| {
        judged(device.register(Registration {
            old_key,
            new_key: key,
            flags: IGNORE_KEY,
            pad: 0,
        }))
    };
    match with(0) {
        // This host is registered already, from a life that did not end in order. Which key that
        // was is ignored; that one is given makes it a replacement.
        Err(Conflict::Refused) => with(key),
        done => done,
    }
}

fn reserve(device: &dyn Calls, key: u64) -> Result<(), Conflict> {
    let argument = Reservation {
        key,
        kind: WRITE_EXCLUSIVE_ALL_REGISTRANTS,
        flags: 0,
    };
    match judged(device.reserve(argument)) {
        Err(Conflict::Refused) if is_held(device, key)? => Ok(()),
        done => done,
    }
}

/// Whether it is reserved for all registrants, of whom this is the key of one.
fn is_held(device: &dyn Calls, key: u64) -> Result<bool, Conflict> {
    let mut report = vec![0; REPORT_BYTES];
    let mut ask = |lengths: u32| {
        let command = NvmeCommand {
            opcode: REPORT,
            // In words of four bytes, one less.
            cdw10: (REPORT_BYTES / 4 - 1) as u32,
            cdw11: lengths,
        };
        device.submit(command, &mut report)
    };
    let first = ask(EXTENDED);
    let long = !matches!(&first, Ok(status) if status & STATUS == OTHER_LENGTH);
    passed(if long { first } else { ask(0) })?;
    // Where the list begins, how long one is, and where its key lies.
    let (begin, each, at) = if long { (64, 64, 8) } else { (24, 24, 16) };
    let count = usize::from(u16::from_le_bytes([report[5], report[6]]));
    let mut keys = report[begin..].chunks_exact(each).take(count);
    Ok(report[TYPE] == ALL_REGISTRANTS && keys.any(|one| one[at..at + 8] == key.to_le_bytes()))
}

fn unregister(device: &dyn Calls, key: u64) -> Result<(), Conflict> {
    // Its own key, and a new one, which does not count here.
    let mut data = [0; 16];
    data[..8].copy_from_slice(&key.to_le_bytes());
    let command = NvmeCommand {
        opcode: REGISTER,
        cdw10: UNREGISTER,
        cdw11: 0,
    };
    passed(device.submit(command, &mut data))
}

fn preempt_abort(device: &dyn Calls, key: u64, victim: u64) -> Result<(), Conflict> {
    judged(device.preempt_abort(Preemption {
        old_key: key,
        new_key: victim,
        kind: WRITE_EXCLUSIVE_ALL_REGISTRANTS,
        flags: 0,
    }))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use umd_core::cluster::{Incarnation, NodeSlot, Peer, ProofKind};

    use super::super::reservation::{Reservations, key};
    use super::super::tests::target;
    use super::super::{Fencer, Target};
    use super::*;

    /// Which device, and below which kernel.
    #[derive(Debug, Clone, Copy)]
    struct Kind {
        /// The calls end with the status of NVMe.
        raw: bool,
        /// A holder of the reservation may reserve again, whichever of them it is.
        lenient: bool,
        /// Host identifiers of 128 bits are reported.
        long: bool,
    }

    /// A namespace: hosts and their keys, and whether it is reserved for all of them.
    #[derive(Debug, Default)]
    struct Table {
        keys: Vec<(u8, u64)>,
        holder: Option<u8>,
    }

    /// How a host sees it.
    #[derive(Clone)]
    struct Seen {
        host: u8,
        kind: Kind,
        table: Arc<Mutex<Table>>,
    }

    impl Seen {
        fn conflict(&self) -> io::Result<i32> {
            // The highest bits say that it is of no use to try again.
            Ok(if self.kind.raw { 0x4083 } else { 0x18 })
        }

        fn key_in(&self, table: &Table) -> Option<u64> {
            let mut keys = table.keys.iter();
            keys.find_map(|(host, key)| (*host == self.host).then_some(*key))
        }

        fn end(&self, table: &mut Table, gone: impl Fn(&(u8, u64)) -> bool) -> usize {
            let before = table.keys.len();
            table.keys.retain(|one| !gone(one));
            if !table.keys.iter().any(|one| Some(one.0) == table.holder) {
                table.holder = table.holder.and_then(|_| Some(table.keys.first()?.0));
            }
            before - table.keys.len()
        }

        fn report(&self, table: &Table, long: bool, data: &mut [u8]) {
            let (begin, each, at) = if long { (64, 64, 8) } else { (24, 24, 16) };
            data[4] = if table.holder.is_some() { 5 } else { 0 };
            data[5] = table.keys.len() as u8;
            for (index, (_, key)) in table.keys.iter().enumerate() {
                let at = begin + index * each + at;
                data[at..at + 8].copy_from_slice(&key.to_le_bytes());
            }
        }
    }

    impl Calls for Seen {
        fn register(&self, argument: Registration) -> io::Result<i32> {
            assert_eq!(argument.flags, IGNORE_KEY);
            let mut table = self.table.lock().unwrap();
            let mine = self.key_in(&table);
            if argument.old_key == 0 {
                match mine {
                    None => table.keys.push((self.host, argument.new_key)),
                    Some(key) if key == argument.new_key => {}
                    Some(_) => return self.conflict(),
                }
                return Ok(0);
            }
            let mut keys = table.keys.iter_mut();
            match keys.find(|(host, _)| *host == self.host) {
                Some(mine) => mine.1 = argument.new_key,
                None => return self.conflict(),
            }
            Ok(0)
        }

        fn reserve(&self, argument: Reservation) -> io::Result<i32> {
            assert_eq!(argument.kind, 5);
            let mut table = self.table.lock().unwrap();
            let mine = self.key_in(&table) == Some(argument.key);
            let free = table
                .holder
                .is_none_or(|host| host == self.host || self.kind.lenient);
            match mine && free {
                true => table.holder = table.holder.or(Some(self.host)),
                false => return self.conflict(),
            }
            Ok(0)
        }

        fn preempt_abort(&self, argument: Preemption) -> io::Result<i32> {
            let mut table = self.table.lock().unwrap();
            if self.key_in(&table) != Some(argument.old_key) {
                return self.conflict();
            }
            match self.end(&mut table, |one| one.1 == argument.new_key) {
                0 => self.conflict(),
                _ => Ok(0),
            }
        }

        fn submit(&self, command: NvmeCommand, data: &mut [u8]) -> io::Result<i32> {
            let mut table = self.table.lock().unwrap();
            match (command.opcode, command.cdw10, command.cdw11) {
                (0x0d, 1, 0) => {
                    let key = u64::from_le_bytes(data[..8].try_into().unwrap());
                    let host = self.host;
                    match self.end(&mut table, |one| *one == (host, key)) {
                        0 => Ok(0x4083),
                        _ => Ok(0),
                    }
                }
                (0x0e, words, long) => {
                    assert_eq!((words as usize + 1) * 4, data.len());
                    if (long == 1) != self.kind.long {
                        return Ok(0x4018);
                    }
                    self.report(&table, self.kind.long, data);
                    Ok(0)
                }
                _ => Ok(0x4001),
            }
        }
    }

    impl Persistent for Seen {
        fn name(&self) -> String {
            "/dev/nvme0n1".into()
        }
        fn register(&self, key: u64) -> Result<(), Conflict> {
            super::register(self, key)
        }
        fn reserve(&self, key: u64) -> Result<(), Conflict> {
            super::reserve(self, key)
        }
        fn unregister(&self, key: u64) -> Result<(), Conflict> {
            super::unregister(self, key)
        }
        fn preempt_abort(&self, key: u64, victim: u64) -> Result<(), Conflict> {
            super::preempt_abort(self, key, victim)
        }
    }

    fn peer(slot: u16, incarnation: u64) -> Peer {
        let (slot, incarnation) = (NodeSlot(slot), Incarnation(incarnation));
        Peer { slot, incarnation }
    }

    fn kinds() -> impl Iterator<Item = Kind> {
        (0..8).map(|bits: u8| Kind {
            raw: bits & 1 != 0,
            lenient: bits & 2 != 0,
            long: bits & 4 != 0,
        })
    }

    fn take(seen: &Seen, me: Peer) -> Reservations {
        Reservations::take(vec![Box::new(seen.clone())], me).unwrap()
    }

    #[test]
    fn hosts_come_go_and_are_fenced_whatever_device_and_kernel_it_is() {
        for kind in kinds() {
            let table = Arc::<Mutex<Table>>::default();
            let keys = || table.lock().unwrap().keys.clone();
            let seen = |host| Seen {
                host,
                kind,
                table: Arc::clone(&table),
            };
            let target = target(Some("beta"));
            let me = take(&seen(0), peer(0, 1));
            take(&seen(1), target.peer);
            // The holder of the reservation dies and comes again: its old key is in the way.
            drop(me);
            let me = take(&seen(0), peer(0, 2));
            assert_eq!(keys()[0], (0, key(peer(0, 2))), "{kind:?}");
            let proof = me.fence(&target, &|| true).unwrap();
            assert_eq!(proof.kind, ProofKind::Storage, "{kind:?}");
            assert_eq!(keys().len(), 1, "{kind:?}");
            assert_eq!(me.release(), [""; 0], "{kind:?}");
            assert!(keys().is_empty() && table.lock().unwrap().holder.is_none());
        }
    }

    #[test]
    fn who_does_not_hold_the_reservation_fences_who_does() {
        for kind in kinds() {
            let table = Arc::<Mutex<Table>>::default();
            let seen = |host| Seen {
                host,
                kind,
                table: Arc::clone(&table),
            };
            let dead = target(Some("beta"));
            take(&seen(1), dead.peer);
            let me = take(&seen(0), peer(0, 1));
            me.fence(&dead, &|| true).unwrap();
            assert_eq!(table.lock().unwrap().holder, Some(0), "{kind:?}");
            // Once more, by its new life, which has no right to what the old one had.
            let again = Target {
                peer: peer(1, 0x99_0000),
                ..dead
            };
            take(&seen(1), again.peer);
            me.fence(&again, &|| true).unwrap();
        }
    }

    #[test]
    fn a_reservation_of_somebody_else_is_none_of_ours() {
        for kind in kinds().filter(|kind| !kind.lenient) {
            let table = Arc::new(Mutex::new(Table {
                keys: vec![(7, 0xbad)],
                holder: Some(7),
            }));
            let seen = Seen {
                host: 0,
                kind,
                table: Arc::clone(&table),
            };
            let strange = Arc::clone(&table);
            assert!(matches!(super::reserve(&seen, 5), Err(Conflict::Refused)));
            assert_eq!(strange.lock().unwrap().keys, [(7, 0xbad)]);
        }
    }

    #[test]
    fn what_namespaces_answer_is_understood() {
        assert!(judged(Ok(0)).is_ok() && passed(Ok(0)).is_ok());
        for status in [0x83, 0x4083, 0x18] {
            assert!(matches!(judged(Ok(status)), Err(Conflict::Refused)));
        }
        assert!(matches!(passed(Ok(0x18)), Err(Conflict::Status(0x18))));
        assert!(matches!(passed(Ok(0x4001)), Err(Conflict::None)));
        assert!(matches!(judged(Ok(0x4002)), Err(Conflict::None)));
        let error = || io::Error::from(rustix::io::Errno::OPNOTSUPP);
        assert!(matches!(judged(Err(error())), Err(Conflict::None)));
    }

    #[test]
    fn a_file_is_no_namespace_and_says_so() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(!is_nvme(file.path()));
        assert!(is_nvme(Path::new("/dev/nvme0n1")));
        let namespace = Namespace::open(file.path()).unwrap();
        let why = Reservations::take(vec![Box::new(namespace)], peer(0, 1));
        let text = why.err().unwrap().0;
        assert!(text.ends_with("has no persistent reservations"), "{text}");
        let namespace = Namespace::open(file.path()).unwrap();
        assert!(matches!(namespace.unregister(1), Err(Conflict::None)));
    }
}
