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

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::net::sockopt::socket_peercred;
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

fn address(member: &str, place: &str) -> SocketAddr {
    let name = format!("umd-member/{:016x}/{place}", hash(member));
    SocketAddr::from_abstract_name(name).expect("a short name")
}

/// Who has a name.
fn holder(address: &SocketAddr) -> Option<Holder> {
    let stream = UnixStream::connect_addr(address).ok()?;
    let pid = socket_peercred(&stream).ok()?.pid;
    let pid = u32::try_from(pid.as_raw_nonzero().get()).ok()?;
    let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok();
    let comm = comm.map(|comm| comm.trim_end().to_owned());
    Some(Holder::Process { pid, comm })
}

fn attempt(member: &str, alone: bool) -> Result<Lock, Holder> {
    let one = address(member, "alone");
    let sharers = || (0..SHARERS_MAX).map(|number| address(member, &number.to_string()));
    let (name, others): (_, Vec<SocketAddr>) = match alone {
        true => (UnixListener::bind_addr(&one).ok(), sharers().collect()),
        false => {
            let free = sharers().find_map(|place| UnixListener::bind_addr(&place).ok());
            (free, vec![one.clone()])
        }
    };
    let Some(name) = name else {
        return Err(holder(&one).unwrap_or(Holder::Unknown));
    };
    match others.iter().find_map(holder) {
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
