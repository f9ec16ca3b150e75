//! The lock of a member that is no file: a socket's name in the network namespace of this machine.
//!
//! ```text
//!   one alone    binds NAME/alone        and finds nobody at NAME/0, NAME/1, ...
//!   shared       binds the first free of NAME/0, NAME/1, ...    and finds nobody at NAME/alone
//! ```
//!
//! Whoever is in the way of another sees it, or is seen: names are taken before they are looked
//! for. The system frees a name when the process ends, however it ends. Nothing is said over these
//! sockets; who holds one is told by the system.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use umd_disk::{Holder, OpenError};

/// As many as a cluster has nodes.
const SHARERS_MAX: u32 = 64;
/// How often it is tried again.
const RETRY: Duration = Duration::from_millis(20);

/// Held until it is dropped.
#[derive(Debug)]
pub(super) struct Lock {
    _name: UnixListener,
}

impl Lock {
    /// Takes the lock of a member, waiting for others to let go.
    ///
    /// # Errors
    /// When somebody else on this machine has it.
    pub fn take(member: &str, alone: bool, wait: Duration) -> Result<Lock, OpenError> {
        let deadline = Instant::now() + wait;
        loop {
            match attempt(member, alone) {
                Ok(lock) => return Ok(lock),
                Err(holder) if Instant::now() >= deadline => {
                    let path = PathBuf::from(member);
                    return Err(OpenError::InUse { path, holder });
                }
                Err(_) => std::thread::sleep(RETRY),
            }
        }
    }
}

/// FNV-1a: names are short, URIs are not.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// A name that nobody has to clean up.
fn abstract_name(member: &str, place: &str) -> String {
    format!("umd-member/{:016x}/{place}", hash(member))
}

fn bind(name: &str) -> io::Result<UnixListener> {
    UnixListener::bind_addr(&SocketAddr::from_abstract_name(name)?)
}

/// Who has a name. Only where nobody answers for it is it free.
fn holder(name: &str) -> Option<Holder> {
    match ask(name) {
        Ok(holder) => Some(holder),
        Err(Errno::CONNREFUSED) => None,
        // Its queue is full, or this process has no socket left.
        Err(_) => Some(Holder::Unknown),
    }
}

fn ask(name: &str) -> Result<Holder, Errno> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(
        &socket,
        &SocketAddrUnix::new_abstract_name(name.as_bytes())?,
    )?;
    let Ok(peer) = socket_peercred(&socket) else {
        return Ok(Holder::Unknown);
    };
    let Ok(pid) = u32::try_from(peer.pid.as_raw_nonzero().get()) else {
        return Ok(Holder::Unknown);
    };
    let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok();
    let comm = comm.map(|comm| comm.trim_end().to_owned());
    Ok(Holder::Process { pid, comm })
}

fn attempt(member: &str, alone: bool) -> Result<Lock, Holder> {
    let one = abstract_name(member, "alone");
    let sharers = || (0..SHARERS_MAX).map(|number| abstract_name(member, &number.to_string()));
    let (name, others): (_, Vec<String>) = match alone {
        true => (bind(&one).ok(), sharers().collect()),
        false => {
            let free = sharers().find_map(|place| bind(&place).ok());
            (free, vec![one.clone()])
        }
    };
    let Some(name) = name else {
        return Err(holder(&one).unwrap_or(Holder::Unknown));
    };
    match others.iter().find_map(|name| holder(name)) {
        Some(holder) => Err(holder),
        None => Ok(Lock { _name: name }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(member: &str, alone: bool) -> Result<Lock, OpenError> {
        Lock::take(member, alone, Duration::ZERO)
    }

    #[test]
    fn one_alone_or_several_who_share() {
        let member = format!("nbd://here/{}", std::process::id());
        let alone = take(&member, true).unwrap();
        for other in [true, false] {
            let error = take(&member, other).unwrap_err().to_string();
            assert!(error.contains("this very process"), "{error}");
        }
        take(&format!("{member}x"), true).unwrap();
        drop(alone);
        let shared = [take(&member, false).unwrap(), take(&member, false).unwrap()];
        assert!(take(&member, true).is_err());
        drop(shared);
        take(&member, true).unwrap();
    }

    #[test]
    fn who_lets_go_is_waited_for() {
        let member = format!("nbd://there/{}", std::process::id());
        let held = take(&member, true).unwrap();
        let later = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            drop(held);
        });
        Lock::take(&member, true, Duration::from_secs(20)).unwrap();
        later.join().unwrap();
    }
}
