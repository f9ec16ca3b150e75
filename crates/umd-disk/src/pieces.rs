//! What O_DIRECT wants of memory and offsets, and how to give it that.

use std::io::IoSlice;
use std::sync::LazyLock;

use umd_core::value::{Pool, Slice};

/// Pieces the kernel takes in one call (`UIO_MAXIOV`).
pub(crate) const PIECES_MAX: usize = 1024;
/// Bytes moved through an aligned buffer at a time.
pub(crate) const BOUNCE_BYTES: usize = 1 << 20;

static BOUNCE: LazyLock<Pool> = LazyLock::new(Pool::new);
static ZEROS: LazyLock<Slice> = LazyLock::new(|| BOUNCE.take_zeroed(BOUNCE_BYTES).freeze());

/// Where aligned buffers come from, for all members.
pub(crate) fn bounce_pool() -> &'static Pool {
    &BOUNCE
}

/// `BOUNCE_BYTES` aligned zeros.
pub(crate) fn zeros() -> &'static Slice {
    &ZEROS
}

/// Alignment in bytes (powers of two, at most 4096) that a descriptor asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Align {
    /// Of memory addresses.
    pub(crate) memory: usize,
    /// Of offsets, total lengths, and the length of each piece.
    pub(crate) offset: usize,
}

impl Align {
    /// Through the page cache anything goes.
    pub(crate) const NONE: Align = Align {
        memory: 1,
        offset: 1,
    };

    pub(crate) fn fits_range(self, offset: u64, len: u64) -> bool {
        (offset | len).is_multiple_of(self.offset as u64)
    }

    pub(crate) fn fits_piece(self, piece: &[u8]) -> bool {
        piece.as_ptr().addr().is_multiple_of(self.memory) && piece.len().is_multiple_of(self.offset)
    }

    /// The part of `moved` bytes that an I/O can be continued after.
    pub(crate) fn progress(self, moved: usize) -> usize {
        moved - moved % self.offset
    }
}

/// Fills `out` with the bytes from `start` on.
///
/// Panics when the pieces end before.
pub(crate) fn copy_out(pieces: &[IoSlice<'_>], start: usize, out: &mut [u8]) {
    let (mut skip, mut filled) = (start, 0);
    for piece in pieces {
        if skip >= piece.len() {
            skip -= piece.len();
            continue;
        }
        let len = (piece.len() - skip).min(out.len() - filled);
        out[filled..filled + len].copy_from_slice(&piece[skip..skip + len]);
        filled += len;
        skip = 0;
        if filled == out.len() {
            return;
        }
    }
    assert_eq!(filled, out.len(), "pieces end too early");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_gathered_across_pieces() {
        let (a, b, c) = ([1u8; 3], [2u8; 0], [3u8; 4]);
        let pieces = [IoSlice::new(&a), IoSlice::new(&b), IoSlice::new(&c)];
        let mut out = [0; 4];
        copy_out(&pieces, 2, &mut out);
        assert_eq!(out, [1, 3, 3, 3]);
    }

    #[test]
    #[should_panic(expected = "too early")]
    fn gathering_past_the_end_is_a_bug() {
        copy_out(&[IoSlice::new(&[1u8; 3])], 2, &mut [0; 2]);
    }

    #[test]
    fn alignment_covers_address_offset_and_length() {
        let align = Align {
            memory: 512,
            offset: 4096,
        };
        assert!(align.fits_range(8192, 4096));
        assert!(!align.fits_range(512, 4096));
        assert!(!align.fits_range(4096, 512));
        let zeros = zeros().as_slice();
        assert!(align.fits_piece(&zeros[512..512 + 4096]));
        assert!(!align.fits_piece(&zeros[1..4097]));
        assert!(!align.fits_piece(&zeros[..512]));
        assert_eq!(align.progress(5000), 4096);
        assert_eq!(Align::NONE.progress(5000), 5000);
    }
}
