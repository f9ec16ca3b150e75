//! Bytes on their way out: small pieces copied together, large ones sent from where they lie.
//!
//! ```text
//!   pieces   | Inline 32 | Shared 4096 | Inline 16 | Shared 1M | ...      front is sent first
//!   inline   [ sent | 32 bytes | 16 bytes | ...                           one growing buffer
//! ```

use std::collections::VecDeque;
use std::io::{self, IoSlice, Write};

use umd_core::value::Slice;

/// A slice up to this length is copied: cheaper than an entry of its own in the send list.
const COPY_BYTES_MAX: usize = 1024;
/// Pieces per system call; the system takes 1024.
const PIECES_PER_CALL: usize = 256;
/// The buffer of small pieces is moved to its front when this much of it has been sent.
const COMPACT_BYTES: usize = 256 << 10;

#[derive(Debug)]
enum Piece {
    Inline(usize),
    Shared(Slice),
}

impl Piece {
    fn len(&self) -> usize {
        match self {
            Piece::Inline(len) => *len,
            Piece::Shared(slice) => slice.len(),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Output {
    inline: Vec<u8>,
    /// How much of `inline` was sent.
    inline_sent: usize,
    pieces: VecDeque<Piece>,
    bytes: u64,
}

impl Output {
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// What waits to be sent, in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The part of it that was copied together.
    pub fn inline_bytes(&self) -> usize {
        self.inline.len() - self.inline_sent
    }

    pub fn push(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.inline.extend_from_slice(bytes);
        self.bytes += bytes.len() as u64;
        match self.pieces.back_mut() {
            Some(Piece::Inline(len)) => *len += bytes.len(),
            _ => self.pieces.push_back(Piece::Inline(bytes.len())),
        }
    }

    pub fn push_slice(&mut self, slice: Slice) {
        if slice.len() <= COPY_BYTES_MAX {
            return self.push(slice.as_slice());
        }
        self.bytes += slice.len() as u64;
        self.pieces.push_back(Piece::Shared(slice));
    }

    /// Sends until nothing is left or `io` would block.
    pub fn write_to(&mut self, io: &mut impl Write) -> io::Result<()> {
        while !self.is_empty() {
            match self.write_once(io) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => self.consume(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn write_once(&self, io: &mut impl Write) -> io::Result<usize> {
        if let (Some(Piece::Inline(len)), 1) = (self.pieces.front(), self.pieces.len()) {
            return io.write(&self.inline[self.inline_sent..self.inline_sent + len]);
        }
        let mut list = [IoSlice::new(&[]); PIECES_PER_CALL];
        let mut count = 0;
        let mut inline = &self.inline[self.inline_sent..];
        for (entry, piece) in list.iter_mut().zip(&self.pieces) {
            *entry = match piece {
                Piece::Inline(len) => {
                    let (front, rest) = inline.split_at(*len);
                    inline = rest;
                    IoSlice::new(front)
                }
                Piece::Shared(slice) => IoSlice::new(slice.as_slice()),
            };
            count += 1;
        }
        io.write_vectored(&list[..count])
    }

    fn consume(&mut self, mut count: usize) {
        self.bytes -= count as u64;
        while count > 0 {
            let front = self
                .pieces
                .front_mut()
                .expect("no more is sent than there was");
            let whole = front.len();
            let sent = whole.min(count);
            count -= sent;
            match front {
                Piece::Inline(len) => {
                    self.inline_sent += sent;
                    *len -= sent;
                }
                Piece::Shared(slice) => *slice = slice.sub(sent..whole),
            }
            if sent == whole {
                self.pieces.pop_front();
            }
        }
        if self.inline_sent == self.inline.len() {
            self.inline.clear();
            self.inline_sent = 0;
        } else if self.inline_sent >= COMPACT_BYTES {
            self.inline.drain(..self.inline_sent);
            self.inline_sent = 0;
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Output::default();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use umd_core::value::Pool;

    use super::*;

    /// Takes `limits[i]` bytes in call i, then blocks once; 0 blocks at once.
    struct Trickle {
        limits: Vec<usize>,
        call: usize,
        seen: Vec<u8>,
    }

    impl Write for Trickle {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let limit = self.limits[self.call % self.limits.len()];
            self.call += 1;
            if limit == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let count = bytes.len().min(limit);
            self.seen.extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
            assert!(pieces.len() <= PIECES_PER_CALL);
            self.write(&pieces.iter().flat_map(|p| p.to_vec()).collect::<Vec<_>>())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    proptest! {
        #[test]
        fn bytes_come_out_in_order(
            pieces in prop::collection::vec((any::<bool>(), 0usize..5000), 0..300),
            limits in prop::collection::vec(0usize..20000, 1..8),
        ) {
            let pool = Pool::new();
            let mut output = Output::default();
            let mut expected = Vec::new();
            let limits = limits.into_iter().chain([70_000]).collect();
            let mut io = Trickle { limits, call: 0, seen: Vec::new() };
            for (number, &(shared, len)) in pieces.iter().enumerate() {
                let bytes = vec![number as u8; len];
                match shared {
                    true => output.push_slice(pool.copy_of(&bytes)),
                    false => output.push(&bytes),
                }
                expected.extend(bytes);
                if number % 7 == 0 {
                    output.write_to(&mut io).unwrap();
                }
                prop_assert_eq!(output.bytes(), (expected.len() - io.seen.len()) as u64);
            }
            while !output.is_empty() {
                output.write_to(&mut io).unwrap();
            }
            prop_assert_eq!(output.inline_bytes(), 0);
            prop_assert_eq!(io.seen, expected);
        }
    }

    /// The front of a ring may be a part of what is to be sent: a header would be sent alone, and
    /// its reader woken twice.
    #[test]
    fn an_answer_is_one_call() {
        let pool = Pool::new();
        let mut output = Output::default();
        let mut io = Trickle {
            limits: vec![usize::MAX],
            call: 0,
            seen: Vec::new(),
        };
        for answers in 1..=40 {
            output.push(b"header");
            // The first one says that something was written: the ring is at odds from then on.
            if answers > 1 {
                output.push_slice(pool.copy_of(&[7; 4096]));
            }
            output.write_to(&mut io).expect("it takes everything");
            assert_eq!(io.call, answers, "calls for so many answers");
        }
        assert_eq!(io.seen.len(), 40 * 6 + 39 * 4096);
    }

    #[test]
    fn a_closed_socket_is_an_error() {
        let mut output = Output::default();
        output.push(b"x");
        let mut full: &mut [u8] = &mut [];
        assert!(output.write_to(&mut full).is_err());
    }
}
