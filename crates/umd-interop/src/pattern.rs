//! Contents in which every 8-byte word tells where it belongs, so that a misplaced, stale or torn
//! block shows.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, bail};

const STEP: usize = 1 << 20;

/// The word at byte offset `offset` (a multiple of 8) of the content named `seed`.
pub fn word(seed: u64, offset: u64) -> u64 {
    // The finaliser of splitmix64: a bijection, so equal seeds never repeat a word at another
    // place.
    let mut z = (offset / 8).wrapping_add(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Fills `buf` with the content named `seed`, as it is from byte `offset`.
///
/// # Panics
/// When `offset` or the length is no multiple of 8.
pub fn fill(seed: u64, offset: u64, buf: &mut [u8]) {
    assert!(
        offset.is_multiple_of(8) && buf.len().is_multiple_of(8),
        "whole words only"
    );
    for (place, bytes) in (offset..).step_by(8).zip(buf.chunks_exact_mut(8)) {
        bytes.copy_from_slice(&word(seed, place).to_le_bytes());
    }
}

/// Writes a file with the first `len` bytes of the content named `seed`.
///
/// # Errors
/// When the file cannot be written.
pub fn write_file(path: &Path, seed: u64, len: u64) -> Result<()> {
    let mut file = File::create(path).with_context(|| format!("cannot make {}", path.display()))?;
    let mut buf = vec![0; STEP];
    let mut offset = 0;
    while offset < len {
        let part = STEP.min(usize::try_from(len - offset).unwrap_or(STEP));
        fill(seed, offset, &mut buf[..part]);
        file.write_all(&buf[..part])?;
        offset += part as u64;
    }
    Ok(())
}

/// Writes the content named `seed` over `len` bytes at `offset` of an existing file.
///
/// # Errors
/// When the file cannot be written.
pub fn write_at(path: &Path, seed: u64, offset: u64, len: usize) -> Result<()> {
    let mut buf = vec![0; len];
    fill(seed, offset, &mut buf);
    let file = File::options().write(true).open(path)?;
    file.write_all_at(&buf, offset)
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Checks that two files have equal bytes in `len` bytes from `offset_a` and `offset_b`.
///
/// # Errors
/// When they differ; the message names the first differing place and shows both sides.
pub fn compare(a: (&Path, u64), b: (&Path, u64), len: u64) -> Result<()> {
    let open = |(path, offset): (&Path, u64)| -> Result<File> {
        let mut file =
            File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        file.seek(SeekFrom::Start(offset))?;
        Ok(file)
    };
    let (mut file_a, mut file_b) = (open(a)?, open(b)?);
    let (mut buf_a, mut buf_b) = (vec![0; STEP], vec![0; STEP]);
    let mut done = 0;
    while done < len {
        let part = STEP.min(usize::try_from(len - done).unwrap_or(STEP));
        let short = |path: &Path| format!("{} ends before byte {}", path.display(), done);
        file_a
            .read_exact(&mut buf_a[..part])
            .with_context(|| short(a.0))?;
        file_b
            .read_exact(&mut buf_b[..part])
            .with_context(|| short(b.0))?;
        if let Some(at) = (0..part).find(|&at| buf_a[at] != buf_b[at]) {
            let at8 = at / 8 * 8;
            bail!(
                "{} and {} differ at byte {} of {len}: {:02x?} and {:02x?}",
                a.0.display(),
                b.0.display(),
                done + at as u64,
                &buf_a[at8..(at8 + 8).min(part)],
                &buf_b[at8..(at8 + 8).min(part)],
            );
        }
        done += part as u64;
    }
    Ok(())
}

/// A sequence of choices, the same for the same seed.
#[derive(Debug)]
pub struct Dice {
    /// Which sequence.
    pub seed: u64,
    /// How far it is.
    pub place: u64,
}

impl Dice {
    /// A number from 0 on, below this one.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.place += 8;
        word(self.seed, self.place) % limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_depend_on_place_and_seed_and_fill_is_seamless() {
        let mut whole = vec![0; 4096];
        fill(7, 0, &mut whole);
        let mut half = vec![0; 2048];
        fill(7, 2048, &mut half);
        assert_eq!(whole[2048..], half[..]);
        fill(8, 2048, &mut half);
        assert_ne!(whole[2048..], half[..]);
    }

    #[test]
    fn compare_names_the_first_difference_and_short_files() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        write_file(&a, 1, 3 << 20).unwrap();
        write_file(&b, 1, 3 << 20).unwrap();
        compare((&a, 0), (&b, 0), 3 << 20).unwrap();
        compare((&a, 4096), (&b, 4096), 4096).unwrap();
        write_at(&b, 2, 2 << 20, 8).unwrap();
        let error = compare((&a, 0), (&b, 0), 3 << 20).unwrap_err().to_string();
        assert!(error.contains("differ at byte 2097152"), "{error}");
        let error = format!("{:#}", compare((&a, 0), (&b, 0), 4 << 20).unwrap_err());
        assert!(
            error.contains("differ") || error.contains("ends before"),
            "{error}"
        );
    }
}
