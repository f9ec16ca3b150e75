//! Stable, 4 KiB-aligned buffers from a shared pool.
//!
//! ```text
//!   Pool --take--> Buf (owned, writable) --freeze--> Slice (shared, read-only) --sub--> Slice
//!    ^                                                 |
//!    +------------- memory returns when the last owner is gone ----------------------+
//! ```
//!
//! What makes the memory shared (a count of its owners) is made once, with the memory, and comes
//! back with it: a buffer that the pool has costs no allocation.
//!
//! A buffer outlives the request it was taken for whenever a member I/O still holds it (a hung
//! write may complete long after the host was answered): ownership is what keeps the memory, so a
//! late completion never touches a buffer that is in use again.

use smallvec::SmallVec;
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

/// Memory, and the pool that it goes back to while somebody has it.
struct Pages {
    pages: Vec<Page>,
    pool: Option<Pool>,
}

/// A share of it. Whoever has the last one gives it back; where two let go of the last two in the
/// same instant, it goes to the system.
#[derive(Clone)]
struct Share(Option<Arc<Pages>>);

impl Share {
    fn pages(&self) -> &Pages {
        self.0.as_ref().expect("it is there until it is dropped")
    }

    fn bytes(&self) -> &[u8] {
        self.pages().pages.as_slice().as_bytes()
    }

    /// # Panics
    /// When others have a share.
    fn bytes_mut(&mut self) -> &mut [u8] {
        let memory = self.0.as_mut().and_then(Arc::get_mut);
        let memory = memory.expect("what can be written has one owner");
        memory.pages.as_mut_slice().as_mut_bytes()
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let Some(mut memory) = self.0.take() else {
            return;
        };
        let last = Arc::get_mut(&mut memory);
        if let Some(pool) = last.and_then(|last| last.pool.take()) {
            pool.give_back(memory);
        }
    }
}

#[derive(Default)]
struct Shelf {
    /// Nobody else has any of these.
    free: [Vec<Arc<Pages>>; CLASSES],
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
        let mut memory = match class_of(pages) {
            Some(class) => self.shelved(class).unwrap_or_else(|| new_pages(1 << class)),
            None => new_pages(pages),
        };
        let only = Arc::get_mut(&mut memory).expect("what lies on a shelf has no owner");
        only.pool = Some(self.clone());
        Buf {
            memory: Share(Some(memory)),
            len,
        }
    }

    fn shelved(&self, class: usize) -> Option<Arc<Pages>> {
        let mut shelf = self.0.lock().expect("pool lock is never poisoned");
        let memory = shelf.free[class].pop()?;
        assert_eq!(memory.pages.len(), 1 << class, "a shelf holds one size");
        shelf.bytes -= memory.pages.len() * PAGE_BYTES;
        Some(memory)
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

    fn give_back(&self, memory: Arc<Pages>) {
        let pages = memory.pages.len();
        let Some(class) = class_of(pages).filter(|class| pages == 1 << class) else {
            return;
        };
        let bytes = pages * PAGE_BYTES;
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

fn new_pages(count: usize) -> Arc<Pages> {
    let pages = Page::new_vec_zeroed(count).expect("memory for an I/O buffer");
    Arc::new(Pages { pages, pool: None })
}

/// An owned, writable buffer, aligned to 4 KiB.
pub struct Buf {
    memory: Share,
    len: usize,
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
        &self.memory.bytes()[..self.len]
    }

    /// The bytes, writable.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.memory.bytes_mut()[..self.len]
    }

    /// Makes the content final: from here on it can be shared and never changes.
    pub fn freeze(self) -> Slice {
        let len = self.len;
        assert!(len <= self.memory.bytes().len(), "its pages hold it");
        Slice {
            memory: self.memory,
            start: 0,
            len,
        }
    }
}

impl fmt::Debug for Buf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buf({})", self.len)
    }
}

/// Pieces of one run of bytes, in order; mostly there is one.
pub type Slices = SmallVec<[Slice; 1]>;

/// A shared, read-only piece of a frozen buffer. Cloning shares the memory.
#[derive(Clone)]
pub struct Slice {
    memory: Share,
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
        &self.memory.bytes()[self.start..self.start + self.len]
    }

    /// A part of this piece. Panics when `range` does not lie inside it.
    pub fn sub(&self, range: Range<usize>) -> Slice {
        assert!(
            range.start <= range.end && range.end <= self.len,
            "slice out of bounds"
        );
        Slice {
            memory: self.memory.clone(),
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

    /// Whoever is last, on whichever thread, gives the memory back or frees it: nobody else has it.
    #[test]
    fn the_last_two_may_let_go_at_once() {
        let pool = Pool::new();
        for round in 0..2000_u32 {
            let slice = pool.copy_of(&round.to_le_bytes());
            let other = slice.clone();
            std::thread::scope(|scope| {
                let beside = scope.spawn(move || other.as_slice() == round.to_le_bytes());
                assert_eq!(slice.as_slice(), round.to_le_bytes());
                drop(slice);
                assert!(beside.join().expect("it ends"));
            });
            let shelf = pool.0.lock().expect("lock");
            let free: usize = shelf.free.iter().map(Vec::len).sum();
            assert!(free <= 1 && shelf.bytes == free * PAGE_BYTES);
            let memory = shelf.free.iter().flatten();
            assert!(memory.into_iter().all(|one| one.pool.is_none()));
        }
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
