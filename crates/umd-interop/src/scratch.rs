//! Member images in a temporary folder, and what can be done to them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hasher};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::TempDir;

/// A temporary folder with image files; kept when `UMD_KEEP` is in the environment.
#[derive(Debug)]
pub struct Scratch {
    dir: Option<TempDir>,
    path: PathBuf,
}

impl Scratch {
    /// Makes the folder.
    ///
    /// # Errors
    /// When the temporary folder cannot be written.
    pub fn new() -> Result<Scratch> {
        let dir = tempfile::Builder::new().prefix("umd-scratch").tempdir()?;
        let path = dir.path().to_path_buf();
        Ok(Scratch {
            dir: Some(dir),
            path,
        })
    }

    /// The path of a file in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Makes sparse images `PREFIX0.img`, `PREFIX1.img`, ... of these many bytes each.
    ///
    /// # Errors
    /// When they cannot be made.
    pub fn images(&self, prefix: &str, count: usize, bytes: u64) -> Result<Vec<PathBuf>> {
        (0..count)
            .map(|number| {
                let path = self.path(&format!("{prefix}{number}.img"));
                File::create(&path)?.set_len(bytes)?;
                Ok(path)
            })
            .collect()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if std::env::var_os("UMD_KEEP").is_some()
            && let Some(dir) = self.dir.take()
        {
            println!("kept: {}", dir.keep().display());
        }
    }
}

/// Length and hash of every file in a folder (not below), to see that nothing was touched.
///
/// # Errors
/// When a file cannot be read.
pub fn fingerprints(folder: &Path) -> Result<BTreeMap<PathBuf, (u64, u64)>> {
    let mut prints = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_file() {
            let bytes = fs::read(&path)?;
            let mut hasher = DefaultHasher::new();
            hasher.write(&bytes);
            prints.insert(path, (bytes.len() as u64, hasher.finish()));
        }
    }
    Ok(prints)
}

/// Changes the v1 superblock at byte `place` of a member and makes its checksum right again: sum of
/// the little-endian words with the checksum as zero, folded once (facts: superblocks, section 4).
///
/// # Errors
/// When the member cannot be read or written.
///
/// # Panics
/// When there is no superblock with an even number of device slots.
pub fn edit_superblock(member: &Path, place: u64, edit: impl FnOnce(&mut [u8])) -> Result<()> {
    let file = File::options().read(true).write(true).open(member)?;
    let mut bytes = vec![0; 4096];
    file.read_exact_at(&mut bytes, place)
        .context("no room for a superblock")?;
    let word = |bytes: &[u8], at: usize| {
        u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
    };
    assert_eq!(
        word(&bytes, 0),
        0xa92b_4efc,
        "{} has no superblock there",
        member.display()
    );
    edit(&mut bytes);
    let devices = usize::try_from(word(&bytes, 220)).expect("a small number");
    assert!(
        devices.is_multiple_of(2) && devices <= 1920,
        "{devices} device slots"
    );
    bytes[216..220].fill(0);
    let sum: u64 = (0..256 + 2 * devices)
        .step_by(4)
        .map(|at| u64::from(word(&bytes, at)))
        .sum();
    let folded = u32::try_from(sum & 0xffff_ffff).expect("masked");
    let folded = folded.wrapping_add(u32::try_from(sum >> 32).expect("the sum is short"));
    bytes[216..220].copy_from_slice(&folded.to_le_bytes());
    file.write_all_at(&bytes, place)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edited_superblock_has_the_checksum_of_the_worked_example() {
        let words: [(usize, u32); 31] = [
            (0, 0xa92b_4efc),
            (4, 1),
            (8, 1),
            (16, 0x6028_0087),
            (20, 0x1c1d_fa52),
            (24, 0xed0b_75c6),
            (28, 0x3432_9191),
            (32, 0x6e6f_6e28),
            (36, 0x743a_2965),
            (40, 0x6565_7268),
            (64, 0x6b00_5863),
            (72, 5),
            (76, 2),
            (80, 0x1f800),
            (88, 0x80),
            (92, 3),
            (96, 8),
            (128, 0x800),
            (136, 0x1f800),
            (144, 8),
            (168, 0x158e_3a9e),
            (172, 0xf502_35b0),
            (176, 0x3874_43ff),
            (180, 0xaa18_4567),
            (184, 0x0008_0000),
            (188, 0x10),
            (192, 0x6b00_5867),
            (200, 0x14),
            (220, 0x80),
            (256, 0x0001_0000),
            (264, 0xffff_0002),
        ];
        let scratch = Scratch::new().unwrap();
        let member = scratch.path("a");
        let mut bytes = vec![0; 8192];
        bytes[..4].copy_from_slice(&0xa92b_4efc_u32.to_le_bytes());
        fs::write(&member, &bytes).unwrap();
        edit_superblock(&member, 0, |sb| {
            for (at, value) in words {
                sb[at..at + 4].copy_from_slice(&value.to_le_bytes());
            }
            for at in [208, 212, 260].into_iter().chain((268..512).step_by(4)) {
                sb[at..at + 4].fill(0xff);
            }
        })
        .unwrap();
        let bytes = fs::read(&member).unwrap();
        assert_eq!(bytes[216..220], 0x51e7_fee8_u32.to_le_bytes());
    }

    #[test]
    fn fingerprints_see_a_changed_byte_and_a_changed_length() {
        let scratch = Scratch::new().unwrap();
        let images = scratch.images("a", 2, 4096).unwrap();
        let folder = images[0].parent().unwrap();
        let before = fingerprints(folder).unwrap();
        assert_eq!(before.len(), 2);
        assert_eq!(before, fingerprints(folder).unwrap());
        crate::pattern::write_at(&images[0], 1, 8, 8).unwrap();
        assert_ne!(before, fingerprints(folder).unwrap());
    }
}
