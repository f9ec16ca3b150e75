//! Bytes on their way in: one buffer for requests and small payloads, and a way past it for large
//! ones.
//!
//! ```text
//!   buffer    [ parsed | start .. end | free ]
//!   receiving a large payload:   socket --> [ rest of the payload | free part of the buffer ]
//! ```
//!
//! The part of a payload that arrived with its request's header is copied out of the buffer; the
//! rest goes from the socket to where it stays. After a large payload only a little is read at a
//! time while waiting for a header, so that of a stream of large writes almost nothing is copied.

use std::io::{self, IoSliceMut, Read};

use umd_core::value::Buf;

use super::proto::REQUEST_BYTES;

/// Room for a batch of requests: 31 writes of 4 KiB. Twice that measured no faster: answers to the
/// first half are on their way while the second is read.
const BUFFER_BYTES: usize = 128 << 10;
/// How much is read at a time after a large payload.
const NARROW_BYTES: usize = 4096;
/// What counts as large.
const LARGE_BYTES: usize = 32 << 10;

/// A buffer being filled.
#[derive(Debug)]
pub(super) struct Filling {
    buf: Buf,
    filled: usize,
}

impl Filling {
    pub fn new(buf: Buf) -> Filling {
        Filling { buf, filled: 0 }
    }

    /// The buffer, once it is full.
    pub fn full(self) -> Result<Buf, Filling> {
        if self.filled == self.buf.len() {
            Ok(self.buf)
        } else {
            Err(self)
        }
    }
}

#[derive(Debug)]
pub(super) struct Input {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    narrow: bool,
}

/// What one read brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Received {
    /// Everything asked for; there may be more.
    Full,
    /// Less than asked for: the socket is empty now.
    Some,
    /// Nothing, for now.
    Nothing,
    /// End of stream.
    End,
}

impl Input {
    /// `bytes` were received before.
    pub fn new(bytes: &[u8]) -> Input {
        let mut buffer = vec![0; BUFFER_BYTES.max(bytes.len())].into_boxed_slice();
        buffer[..bytes.len()].copy_from_slice(bytes);
        Input {
            buffer,
            start: 0,
            end: bytes.len(),
            narrow: false,
        }
    }

    fn rest(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// The next header, left where it is.
    pub fn header(&self) -> Option<&[u8; REQUEST_BYTES]> {
        self.rest().first_chunk()
    }

    /// Moves up to `count` bytes out of the way; how many there were.
    pub fn skip(&mut self, count: usize) -> usize {
        let count = count.min(self.end - self.start);
        self.start += count;
        count
    }

    /// Copies what is here into `filling`, as far as it goes.
    pub fn copy_to(&mut self, filling: &mut Filling) {
        let rest = &mut filling.buf.as_mut_slice()[filling.filled..];
        let count = rest.len().min(self.end - self.start);
        rest[..count].copy_from_slice(&self.buffer[self.start..self.start + count]);
        self.start += count;
        filling.filled += count;
    }

    /// A request with a payload of `len` bytes to be kept was seen; what follows is likely alike.
    pub fn expect_payload(&mut self, len: usize) {
        self.narrow = len >= LARGE_BYTES;
    }

    /// Reads once: `filling` first, then the buffer. What is left of the buffer has to be less
    /// than a request header.
    pub fn receive(
        &mut self,
        io: &mut impl Read,
        filling: Option<&mut Filling>,
    ) -> io::Result<Received> {
        let left = self.end - self.start;
        assert!(
            left < REQUEST_BYTES,
            "the buffer is parsed before it is refilled"
        );
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, left);
        let window = if self.narrow {
            NARROW_BYTES
        } else {
            self.buffer.len() - left
        };
        let free = &mut self.buffer[left..][..window];
        let (asked, direct, result) = match filling {
            None => (window, 0, io.read(free)),
            Some(filling) => {
                let rest = &mut filling.buf.as_mut_slice()[filling.filled..];
                let rest_len = rest.len();
                let mut pieces = [IoSliceMut::new(rest), IoSliceMut::new(free)];
                let result = io.read_vectored(&mut pieces);
                let direct = result.as_ref().map_or(0, |count| rest_len.min(*count));
                filling.filled += direct;
                (rest_len + window, direct, result)
            }
        };
        match result {
            Ok(0) => Ok(Received::End),
            Ok(count) => {
                self.end += count - direct;
                Ok(if count == asked {
                    Received::Full
                } else {
                    Received::Some
                })
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Received::Nothing),
            Err(error) => Err(error),
        }
    }
}
