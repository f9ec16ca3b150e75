//! Who holds a member: advisory locks, `/proc/locks`, and devices built on devices.
//!
//! The lock is taken with `flock` on the descriptor that does the I/O. The kernel drops it when
//! the last reference to that open file is gone, and I/O in flight is one: after a crash the lock
//! lives exactly as long as writes that may still land.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, major, minor};
use rustix::io::Errno;

use crate::error::{Holder, OpenError};

/// How often a taken lock is tried again.
pub(crate) const RETRY: Duration = Duration::from_millis(20);

/// Locks the file, exclusively or shared, waiting up to `wait` for another holder to let go.
pub(crate) fn lock(
    file: &File,
    path: &Path,
    exclusive: bool,
    wait: Duration,
) -> Result<(), OpenError> {
    let operation = match exclusive {
        true => FlockOperation::NonBlockingLockExclusive,
        false => FlockOperation::NonBlockingLockShared,
    };
    let deadline = Instant::now() + wait;
    loop {
        match rustix::fs::flock(file, operation) {
            Ok(()) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(Errno::WOULDBLOCK) => {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(OpenError::InUse {
                        path: path.to_owned(),
                        holder: lock_holder(file),
                    });
                }
                std::thread::sleep(RETRY.min(left));
            }
            Err(errno) => return Err(OpenError::io(path, "lock it", errno)),
        }
    }
}

fn lock_holder(file: &File) -> Holder {
    let Ok(stat) = rustix::fs::fstat(file) else {
        return Holder::Unknown;
    };
    let Ok(locks) = std::fs::read_to_string("/proc/locks") else {
        return Holder::Unknown;
    };
    let inode = (major(stat.st_dev), minor(stat.st_dev), stat.st_ino);
    match holder_pid(&locks, inode) {
        Some(pid) => Holder::Process {
            pid,
            comm: std::fs::read_to_string(format!("/proc/{pid}/comm"))
                .ok()
                .map(|comm| comm.trim_end().to_owned()),
        },
        None => Holder::Unknown,
    }
}

/// Finds who holds a `flock` in the text of `/proc/locks` (proc_locks(5)): number, class, mode,
/// access, pid, `major:minor:inode` (hexadecimal but for the inode), start, end. Lines with `->`
/// are waiters; a pid of 0 or below is nobody in our pid namespace.
fn holder_pid(locks: &str, inode: (u32, u32, u64)) -> Option<u32> {
    locks.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        if words.next()? != "FLOCK" {
            return None;
        }
        let pid = words.nth(2)?.parse::<u32>().ok().filter(|&pid| pid > 0)?;
        let mut parts = words.next()?.split(':');
        let major = u32::from_str_radix(parts.next()?, 16).ok()?;
        let minor = u32::from_str_radix(parts.next()?, 16).ok()?;
        let number = parts.next()?.parse::<u64>().ok()?;
        ((major, minor, number) == inode).then_some(pid)
    })
}

/// What in the kernel uses a block device: devices built on it (`/sys/dev/block/M:m/holders`), or
/// a mount.
pub(crate) fn kernel_holder(rdev: u64) -> Holder {
    let number = format!("{}:{}", major(rdev), minor(rdev));
    let mut names: Vec<String> = std::fs::read_dir(format!("/sys/dev/block/{number}/holders"))
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    if !names.is_empty() {
        return Holder::Kernel(names.join(", "));
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mount = mounts.lines().find_map(|line| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        (words.get(2) == Some(&number.as_str())).then(|| words.get(4).copied())?
    });
    match mount {
        Some(place) => Holder::Kernel(format!("the mount at {place}")),
        None => Holder::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCKS: &str = "\
1: POSIX  ADVISORY  WRITE 700 fe:00:42 0 EOF
2: FLOCK  ADVISORY  WRITE 1839 fe:0a:42 0 EOF
2: -> FLOCK  ADVISORY  WRITE 1900 fe:0a:42 0 EOF
3: FLOCK  ADVISORY  READ  0 fe:00:43 0 EOF
4: OFDLCK ADVISORY  READ -1 00:06:1066 0 EOF
5: FLOCK  ADVISORY  READ  77 fe:00:43 0 EOF
garbage
";

    #[test]
    fn the_holder_is_found_by_device_and_inode() {
        assert_eq!(holder_pid(LOCKS, (0xfe, 0x0a, 42)), Some(1839));
    }

    #[test]
    fn other_kinds_of_locks_and_other_files_do_not_count() {
        assert_eq!(holder_pid(LOCKS, (0xfe, 0, 42)), None);
        assert_eq!(holder_pid(LOCKS, (0xfe, 0, 44)), None);
    }

    #[test]
    fn a_holder_outside_our_pid_namespace_is_skipped() {
        assert_eq!(holder_pid(LOCKS, (0xfe, 0, 43)), Some(77));
    }
}
