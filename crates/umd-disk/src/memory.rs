//! A member in memory, allocated as it is written.
//!
//! ```text
//!   chunk:  Base ---(first write copies the file's chunk)---> Data
//!             \                                               ^  |
//!              +--------------> Hole <------(zeroed whole)----|--+
//!                                 +---------(first write)-----+
//! ```

use std::io::IoSlice;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use umd_core::array::{Extent, IoError};

use crate::medium::{EXTENTS_MAX, Medium, push_extent};
use crate::raw::RawFile;

/// Unit of allocation.
const CHUNK_BYTES: usize = 256 << 10;

#[derive(Clone)]
enum Chunk {
    /// As the file has it.
    Base,
    /// Zeros.
    Hole,
    /// Its own content.
    Data(Box<[u8]>),
}

pub(crate) struct Memory {
    chunks: Mutex<Vec<Chunk>>,
    base: Option<Arc<RawFile>>,
    size_bytes: u64,
}

/// A range cut at chunk borders: index of the chunk, and the part of it.
fn parts(offset: u64, len: u64) -> impl Iterator<Item = (usize, Range<usize>)> {
    let (mut at, end) = (offset, offset + len);
    std::iter::from_fn(move || {
        if at == end {
            return None;
        }
        let start = (at % CHUNK_BYTES as u64) as usize;
        let part = (CHUNK_BYTES - start).min((end - at) as usize);
        let index = (at / CHUNK_BYTES as u64) as usize;
        at += part as u64;
        Some((index, start..start + part))
    })
}

impl Memory {
    /// `size_bytes` of zeros, or a private copy of `base`.
    pub(crate) fn new(size_bytes: u64, base: Option<Arc<RawFile>>) -> Memory {
        let first = match base {
            Some(_) => Chunk::Base,
            None => Chunk::Hole,
        };
        Memory {
            chunks: Mutex::new(vec![
                first;
                size_bytes.div_ceil(CHUNK_BYTES as u64) as usize
            ]),
            base,
            size_bytes,
        }
    }

    fn chunks(&self) -> MutexGuard<'_, Vec<Chunk>> {
        self.chunks.lock().expect("nothing panics under this lock")
    }

    fn base(&self) -> &RawFile {
        self.base
            .as_ref()
            .expect("only a member with a file has chunks in it")
    }

    /// The chunk, ready to be written to.
    fn data<'a>(&self, chunk: &'a mut Chunk, index: usize) -> Result<&'a mut [u8], IoError> {
        match chunk {
            Chunk::Data(_) => {}
            Chunk::Hole => *chunk = Chunk::Data(vec![0; CHUNK_BYTES].into()),
            Chunk::Base => {
                let mut bytes = vec![0; CHUNK_BYTES];
                let start = index as u64 * CHUNK_BYTES as u64;
                let len = (self.size_bytes - start).min(CHUNK_BYTES as u64) as usize;
                self.base().read(start, &mut bytes[..len])?;
                *chunk = Chunk::Data(bytes.into());
            }
        }
        match chunk {
            Chunk::Data(bytes) => Ok(bytes),
            _ => unreachable!("made above"),
        }
    }
}

impl Medium for Memory {
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), IoError> {
        let chunks = self.chunks();
        let mut filled = 0;
        for (index, part) in parts(offset, buf.len() as u64) {
            let out = &mut buf[filled..filled + part.len()];
            filled += part.len();
            match &chunks[index] {
                Chunk::Data(bytes) => out.copy_from_slice(&bytes[part]),
                Chunk::Hole => out.fill(0),
                Chunk::Base => {
                    let at = index as u64 * CHUNK_BYTES as u64 + part.start as u64;
                    self.base().read(at, out)?;
                }
            }
        }
        Ok(())
    }

    fn write(&self, offset: u64, pieces: &[IoSlice<'_>], _fua: bool) -> Result<(), IoError> {
        let mut chunks = self.chunks();
        let mut at = offset;
        for piece in pieces {
            let mut taken = 0;
            for (index, part) in parts(at, piece.len() as u64) {
                let len = part.len();
                let bytes = self.data(&mut chunks[index], index)?;
                bytes[part].copy_from_slice(&piece[taken..taken + len]);
                taken += len;
            }
            at += piece.len() as u64;
        }
        Ok(())
    }

    fn zero(&self, offset: u64, len: u64, _may_unmap: bool, _fua: bool) -> Result<(), IoError> {
        let mut chunks = self.chunks();
        for (index, part) in parts(offset, len) {
            match &mut chunks[index] {
                chunk if part.len() == CHUNK_BYTES => *chunk = Chunk::Hole,
                Chunk::Hole => {}
                chunk => self.data(chunk, index)?[part].fill(0),
            }
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), IoError> {
        Ok(())
    }

    fn extents(&self, offset: u64, len: u64, out: &mut Vec<Extent>) -> Result<(), IoError> {
        let chunks = self.chunks();
        for (index, part) in parts(offset, len) {
            let data = !matches!(chunks[index], Chunk::Hole);
            push_extent(out, part.len() as u64, data);
            if out.len() == EXTENTS_MAX {
                break;
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), IoError> {
        self.base.as_ref().map_or(Ok(()), |base| base.check())
    }

    fn unlock(&self) {
        if let Some(base) = &self.base {
            base.unlock();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_written_takes_memory() {
        let memory = Memory::new(1 << 40, None);
        let end = (1 << 40) - 512;
        memory
            .write(end, &[IoSlice::new(&[7; 512])], false)
            .expect("write");
        let held = |m: &Memory| {
            let chunks = m.chunks();
            chunks
                .iter()
                .filter(|c| matches!(c, Chunk::Data(_)))
                .count()
        };
        assert_eq!(held(&memory), 1);
        let down = (1 << 40) - CHUNK_BYTES as u64;
        memory
            .zero(down, CHUNK_BYTES as u64, true, false)
            .expect("zero");
        assert_eq!(held(&memory), 0);
        let mut buf = [1; 512];
        memory.read(end, &mut buf).expect("read");
        assert_eq!(buf, [0; 512]);
    }
}
