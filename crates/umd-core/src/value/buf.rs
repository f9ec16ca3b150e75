//! Stable, 4 KiB-aligned buffers from a shared pool.
//!
//! ```text
//!   Pool --take--> Buf (owned, writable) --freeze--> Slice (shared, read-only) --sub--> Slice
//!    ^                                                 |
//!    +------------- memory returns when the last owner is gone ----------------------+
//! ```
//!
//! A buffer outlives the request it was taken for whenever a member I/O still holds it (a hung
//! write may complete long after the host was answered): ownership is what keeps the memory, so a
//! late completion never touches a buffer that is in use again.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

const PAGE_BYTES: usize = 4096;
/// Buffers above this size are returned to the system rather than kept.
const KEEP_BYTES_MAX: usize = 2 << 20;
/// Free memory kept per pool.
const POOL_BYTES_MAX: usize = 64 << 20;
/// Size classes: 4 KiB << class, up to `KEEP_BYTES_MAX`.
const CLASSES: usize = 10;

#[derive(Clone, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(4096))]
struct Page([u8; PAGE_BYTES]);

#[derive(Default)]
struct Shelf {
    free: [Vec<Vec<Page>>; CLASSES],
    bytes: usize,
}

/// A shared store of free buffers. Cheap to clone; all clones share the memory.
#[derive(Clone, Default)]
pub struct Pool(Arc<Mutex<Shelf>>);

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pool")
    }
}

fn class_of(pages: usize) -> Option<usize> {
    let class = pages.next_power_of_two().trailing_zeros() as usize;
    (class < CLASSES && (PAGE_BYTES << class) <= KEEP_BYTES_MAX).then_some(class)
}

impl Pool {
    /// An empty pool.
    pub fn new() -> Pool {
        Pool::default()
    }

    /// A writable buffer of `len` bytes, aligned to 4 KiB. Its content is unspecified (zeros, or
    /// what an earlier user left): whoever takes it fills it.
    pub fn take(&self, len: usize) -> Buf {
        let pages = len.div_ceil(PAGE_BYTES).max(1);
        let memory = match class_of(pages) {
            Some(class) => {
                let mut shelf = self.0.lock().expect("pool lock is never poisoned");
                match shelf.free[class].pop() {
                    Some(memory) => {
                        assert_eq!(memory.len(), 1 << class, "a shelf holds one size");
                        shelf.bytes -= memory.len() * PAGE_BYTES;
                        memory
                    }
                    None => new_pages(1 << class),
                }
            }
            None => new_pages(pages),
        };
        Buf {
            memory,
            len,
            pool: Some(self.clone()),
        }
    }

    /// A buffer of `len` zero bytes.
    pub fn take_zeroed(&self, len: usize) -> Buf {
        let mut buf = self.take(len);
        buf.as_mut_slice().fill(0);
        buf
    }

    /// A frozen copy of `bytes`.
    pub fn copy_of(&self, bytes: &[u8]) -> Slice {
        let mut buf = self.take(bytes.len());
        buf.as_mut_slice().copy_from_slice(bytes);
        buf.freeze()
    }

    /// Gives all free memory back to the system. For a driver that has been idle for a while.
    pub fn trim(&self) {
        *self.0.lock().expect("pool lock is never poisoned") = Shelf::default();
    }

    fn give_back(&self, memory: Vec<Page>) {
        let Some(class) = class_of(memory.len()) else {
            return;
        };
        if memory.len() != 1 << class {
            return;
        }
        let bytes = memory.len() * PAGE_BYTES;
        let mut shelf = self.0.lock().expect("pool lock is never poisoned");
        assert!(
            shelf.bytes <= POOL_BYTES_MAX,
            "no more is kept than allowed"
        );
        if shelf.bytes + bytes <= POOL_BYTES_MAX {
            shelf.bytes += bytes;
            shelf.free[class].push(memory);
        }
    }
}

fn new_pages(count: usize) -> Vec<Page> {
    Page::new_vec_zeroed(count).expect("memory for an I/O buffer")
}

/// An owned, writable buffer, aligned to 4 KiB.
pub struct Buf {
    memory: Vec<Page>,
    len: usize,
    pool: Option<Pool>,
}

impl Buf {
    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the buffer holds no byte.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        &self.memory.as_slice().as_bytes()[..self.len]
    }

    /// The bytes, writable.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.memory.as_mut_slice().as_mut_bytes()[..self.len]
    }

    /// Makes the content final: from here on it can be shared and never changes.
    pub fn freeze(self) -> Slice {
        let len = self.len;
        assert!(len <= self.memory.len() * PAGE_BYTES, "its pages hold it");
        Slice {
            buf: Arc::new(self),
            start: 0,
            len,
        }
    }
}

impl Drop for Buf {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.take() {
            pool.give_back(std::mem::take(&mut self.memory));
        }
    }
}

impl fmt::Debug for Buf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buf({})", self.len)
    }
}

/// A shared, read-only piece of a frozen buffer. Cloning shares the memory.
#[derive(Clone)]
pub struct Slice {
    buf: Arc<Buf>,
    start: usize,
    len: usize,
}

impl Slice {
    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds no byte.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        &self.buf.as_slice()[self.start..self.start + self.len]
    }

    /// A part of this piece. Panics when `range` does not lie inside it.
    pub fn sub(&self, range: Range<usize>) -> Slice {
        assert!(
            range.start <= range.end && range.end <= self.len,
            "slice out of bounds"
        );
        Slice {
            buf: self.buf.clone(),
            start: self.start + range.start,
            len: range.len(),
        }
    }
}

impl fmt::Debug for Slice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Slice({}+{})", self.start, self.len)
    }
}

/// Total length of a list of pieces, in bytes.
pub fn slices_len(slices: &[Slice]) -> usize {
    slices.iter().map(Slice::len).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_recycled() {
        let pool = Pool::new();
        let mut buf = pool.take(5000);
        assert_eq!(buf.as_slice().as_ptr().addr() % 4096, 0);
        buf.as_mut_slice().fill(7);
        let slice = buf.freeze();
        let part = slice.sub(100..200);
        drop(slice);
        assert_eq!(part.as_slice(), &[7u8; 100][..]);
        let address = part.as_slice().as_ptr().addr() - 100;
        drop(part);
        assert_eq!(pool.take(8192).as_slice().as_ptr().addr(), address);
    }

    #[test]
    fn memory_is_held_while_any_part_lives() {
        let pool = Pool::new();
        let slice = pool.copy_of(&[1u8; 4096]);
        let late = slice.sub(0..512);
        drop(slice);
        let mut other = pool.take(4096);
        other.as_mut_slice().fill(2);
        assert_eq!(late.as_slice(), &[1u8; 512][..]);
    }

    #[test]
    #[should_panic(expected = "out of bounds")]
    fn a_part_lies_inside() {
        let _ = Pool::new().copy_of(&[0; 10]).sub(5..11);
    }

    /// After a burst the daemon keeps so much memory and no more, and none when it is told so.
    #[test]
    fn a_pool_keeps_some_memory_and_no_more() {
        let kept = |pool: &Pool| pool.0.lock().expect("lock").bytes;
        let pool = Pool::new();
        let burst: Vec<Buf> = (0..40).map(|_| pool.take(2 << 20)).collect();
        assert_eq!(kept(&pool), 0);
        drop(burst);
        assert_eq!(kept(&pool), 64 << 20);
        let again = pool.take(2 << 20);
        assert_eq!(kept(&pool), 62 << 20);
        drop(pool.take(4096));
        assert_eq!(kept(&pool), (62 << 20) + 4096);
        drop(again);
        assert_eq!(kept(&pool), (62 << 20) + 4096, "a page more than it may");
        pool.trim();
        assert_eq!(kept(&pool), 0);
    }

    #[test]
    fn only_what_holds_no_byte_is_empty() {
        let pool = Pool::new();
        assert!(!pool.take(1).is_empty() && !pool.copy_of(&[1]).is_empty());
        assert!(pool.take(0).is_empty() && pool.copy_of(&[]).is_empty());
        assert!(pool.copy_of(&[1]).sub(1..1).is_empty());
    }

    #[test]
    fn large_buffers_go_back_to_the_system() {
        let pool = Pool::new();
        drop(pool.take(32 << 20));
        assert_eq!(pool.0.lock().expect("lock").bytes, 0);
    }
}
