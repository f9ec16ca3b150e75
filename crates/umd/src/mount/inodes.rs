//! Which path a number stands for. A path has the same number whenever it is looked up, made of
//! its bytes; the table is of those that the kernel remembers.

use std::collections::BTreeMap;

use fuser::FileType;

/// The number of the root.
pub const ROOT: u64 = 1;

/// Paths by number. The path of the root is empty, others begin without a slash.
#[derive(Debug, Default)]
pub struct Inodes {
    known: BTreeMap<u64, Known>,
}

#[derive(Debug)]
struct Known {
    path: String,
    kind: FileType,
    /// How often the kernel was told of it.
    times: u64,
}

/// The number of a path.
pub fn number(path: &str) -> u64 {
    if path.is_empty() {
        return ROOT;
    }
    let hash = path.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash | 2 // Neither nothing nor the root.
}

/// A path and a name in it.
pub fn join(parent: &str, name: &str) -> String {
    match parent {
        "" => name.to_owned(),
        _ => format!("{parent}/{name}"),
    }
}

impl Inodes {
    /// The path of a number the kernel knows.
    pub fn path(&self, inode: u64) -> Option<&str> {
        match inode {
            ROOT => Some(""),
            _ => self.known.get(&inode).map(|known| known.path.as_str()),
        }
    }

    /// What a number stands for that the kernel knows.
    pub fn kind(&self, inode: u64) -> Option<FileType> {
        self.known.get(&inode).map(|known| known.kind)
    }

    /// The kernel is told of a path once more. `None` if another path has that number.
    pub fn remember(&mut self, path: &str, kind: FileType) -> Option<u64> {
        let inode = number(path);
        let known = self.known.entry(inode).or_insert_with(|| Known {
            path: path.to_owned(),
            kind,
            times: 0,
        });
        if known.path != path {
            return None;
        }
        known.kind = kind;
        known.times += 1;
        Some(inode)
    }

    /// The kernel has forgotten it so many times.
    pub fn forget(&mut self, inode: u64, times: u64) {
        if let Some(known) = self.known.get_mut(&inode) {
            known.times = known.times.saturating_sub(times);
            if known.times == 0 {
                self.known.remove(&inode);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_keep_their_numbers_and_are_forgotten() {
        let mut inodes = Inodes::default();
        assert_eq!(inodes.path(ROOT), Some(""));
        let path = join(&join("", "sys"), "block");
        assert_eq!(path, "sys/block");
        let inode = inodes.remember(&path, FileType::Directory).expect("free");
        assert_eq!(inodes.remember(&path, FileType::Directory), Some(inode));
        inodes.forget(inode, 1);
        assert_eq!(inodes.path(inode), Some("sys/block"));
        inodes.forget(inode, 1);
        assert_eq!(inodes.path(inode), None);
        assert_eq!(inodes.remember(&path, FileType::Directory), Some(inode));
        inodes.forget(12_345, 1);
    }
}
