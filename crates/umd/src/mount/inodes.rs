//! Which path a number stands for. A path has the same number whenever it is looked up, made of
//! its bytes; the table is of those that the kernel remembers.

use std::collections::BTreeMap;

/// The number of the root.
pub const ROOT: u64 = 1;

/// Paths by number. The path of the root is empty, others begin without a slash.
#[derive(Debug, Default)]
pub struct Inodes {
    known: BTreeMap<u64, (String, u64)>,
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
            _ => self.known.get(&inode).map(|(path, _)| path.as_str()),
        }
    }

    /// The kernel is told of a path once more. `None` if another path has that number.
    pub fn remember(&mut self, path: &str) -> Option<u64> {
        let inode = number(path);
        let (known, times) = self
            .known
            .entry(inode)
            .or_insert_with(|| (path.to_owned(), 0));
        if known != path {
            return None;
        }
        *times += 1;
        Some(inode)
    }

    /// The kernel has forgotten it so many times.
    pub fn forget(&mut self, inode: u64, times: u64) {
        if let Some((_, left)) = self.known.get_mut(&inode) {
            *left = left.saturating_sub(times);
            if *left == 0 {
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
        let inode = inodes.remember(&path).expect("free");
        assert_eq!(inodes.remember(&path), Some(inode));
        inodes.forget(inode, 1);
        assert_eq!(inodes.path(inode), Some("sys/block"));
        inodes.forget(inode, 1);
        assert_eq!(inodes.path(inode), None);
        assert_eq!(inodes.remember(&path), Some(inode));
        inodes.forget(12_345, 1);
    }
}
