//! One connection in the transmission phase: requests in, replies out, no thread of its own.
//!
//! ```text
//!              header                          payload complete
//!   Header ----------------> Payload --------------------------------> to the engine --> Header
//!     |  (a write taken)     (straight into its buffer)
//!     +----------------> Refused  --- payload thrown away ---> error reply ------------> Header
//!     |  (a write refused)
//!     +----------------> to the engine, or answered at once ---------------------------> Header
//!
//!   Open --- DISC, end of stream, stop() ---> Draining --- all answers sent ---> finished
//!     +----- I/O error, nonsense, hang_up() ---> Closed (finished; answers are thrown away)
//! ```
//!
//! Back-pressure: no further request is taken while [`REQUESTS_MAX`] are being worked on, while
//! the payloads worked on and the replies not sent yet make 64 MiB, or while 1 MiB of small
//! replies waits. Bytes then stay in the socket, and the client waits.

use std::io::{self, Read, Write};

use umd_core::array::{Extent, Reply, Request, RequestError};
use umd_core::value::{Pool, RequestId, Slice, Slices, slices_len};

use super::input::{Filling, Input, Received};
use super::negotiation::{Transmission, clipped};
use super::output::Output;
use super::pending::{Entry, Pending, REQUESTS_MAX};
use super::proto::{REQUEST_BYTES, RequestHeader, chunk, cmd, only_chunk, simple_reply};
use super::request::{CUT_OFF, Kind, Refusal, Terms, Verdict, judge};
use super::reservation::Reservations;
use super::status;
use super::visitor::Pass;

const PAYLOAD_BYTES_MAX: u64 = 64 << 20;
const INLINE_BYTES_MAX: usize = 1 << 20;
/// A connection that always has more to read lets others have their turn after this many reads.
const READS_PER_CALL: usize = 16;

/// What a call of [`Connection::read_from`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadState {
    /// The socket is empty: wait until it is readable.
    Waiting,
    /// The socket may hold more: call again when others had their turn.
    More,
    /// Too much is in flight: complete some of it and send the answers, then read on once
    /// [`Connection::wants_read`].
    Paused,
    /// No request will come any more.
    Ended,
}

/// Why a connection is dead. It is to be dropped.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The client does not speak the protocol.
    #[error("the client sent something that is no NBD request")]
    Protocol,
    /// The socket failed.
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
}

#[derive(Debug)]
enum Receiving {
    Header,
    Payload {
        cookie: u64,
        kind: Kind,
        filling: Filling,
    },
    Refused {
        cookie: u64,
        refusal: Refusal,
        left: usize,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    Draining,
    Closed,
}

/// The server's half of a connection after its negotiation.
#[derive(Debug)]
pub struct Connection {
    terms: Terms,
    allocation_context: u32,
    pool: Pool,
    input: Input,
    receiving: Receiving,
    pending: Pending,
    output: Output,
    phase: Phase,
    /// The key that the client gave, and who decides what it may write with it.
    key: Option<u64>,
    reservations: Option<Reservations>,
    /// Dropped with the connection.
    _pass: Option<Pass>,
}

impl Connection {
    /// Takes over after a negotiation. `number` must never be used for another connection to the
    /// same engine. Requests may be here already, so [`Connection::read_from`] is to be called
    /// without waiting for the socket. Payloads of writes are put into buffers from `pool`.
    pub fn new(transmission: Transmission, number: u32, pool: Pool) -> Connection {
        let Transmission {
            export,
            structured,
            allocation_context,
            input,
            output,
            pass,
            key,
        } = transmission;
        let mut queue = Output::default();
        queue.push(&output);
        Connection {
            terms: Terms::new(&export, structured, allocation_context.is_some()),
            allocation_context: allocation_context.unwrap_or(0),
            pool,
            input: Input::new(&input),
            receiving: Receiving::Header,
            pending: Pending::new(number),
            output: queue,
            phase: Phase::Open,
            key,
            reservations: None,
            _pass: pass,
        }
    }

    /// The same where a table says who may write. To be said before the first request.
    pub fn under(mut self, reservations: Reservations) -> Connection {
        assert!(self.pending.is_empty(), "nothing was let in before");
        self.reservations = Some(reservations);
        self
    }

    /// Whether the socket's readability is of interest.
    pub fn wants_read(&self) -> bool {
        let inside_request = !matches!(self.receiving, Receiving::Header);
        self.phase == Phase::Open && (inside_request || !self.is_paused())
    }

    /// Whether there are replies to send.
    pub fn wants_write(&self) -> bool {
        !self.output.is_empty()
    }

    /// Whether there is nothing left to do: the connection can be dropped and the socket closed.
    pub fn is_finished(&self) -> bool {
        match self.phase {
            Phase::Open => false,
            Phase::Draining => self.pending.is_empty() && self.output.is_empty(),
            Phase::Closed => true,
        }
    }

    /// Requests the engine has not answered yet.
    pub fn in_flight(&self) -> usize {
        self.pending.len()
    }

    /// No more requests; those in flight are still answered. For an array that stops.
    pub fn stop(&mut self) {
        if self.phase == Phase::Open {
            self.phase = Phase::Draining;
            self.receiving = Receiving::Header;
        }
    }

    /// The other side is gone (the poller says so): answers go nowhere from here on.
    pub fn hang_up(&mut self) {
        self.phase = Phase::Closed;
        self.receiving = Receiving::Header;
        self.output.clear();
    }

    /// Reads until there are requests, and appends all that are complete to `requests`. `io` must
    /// not block. An error means the connection is dead: drop it.
    ///
    /// One read that brings requests is enough at a time: while they are answered the client can
    /// prepare more, where it would wait for the end of a larger batch.
    pub fn read_from(
        &mut self,
        io: &mut impl Read,
        requests: &mut Vec<Request>,
    ) -> Result<ReadState, ConnectionError> {
        let before = requests.len();
        self.take_requests(requests)?;
        for _ in 0..READS_PER_CALL {
            if let Some(state) = self.no_reading() {
                return Ok(state);
            }
            let filling = match &mut self.receiving {
                Receiving::Payload { filling, .. } => Some(filling),
                _ => None,
            };
            let received = self
                .input
                .receive(io, filling)
                .inspect_err(|_| self.hang_up())?;
            match received {
                Received::Nothing => return Ok(ReadState::Waiting),
                Received::End => self.stop(),
                Received::Some | Received::Full => self.take_requests(requests)?,
            }
            if received == Received::Some {
                return Ok(self.no_reading().unwrap_or(ReadState::Waiting));
            }
            if requests.len() > before {
                break;
            }
        }
        Ok(self.no_reading().unwrap_or(ReadState::More))
    }

    fn no_reading(&self) -> Option<ReadState> {
        match self.phase {
            Phase::Open if self.wants_read() => None,
            Phase::Open => Some(ReadState::Paused),
            _ => Some(ReadState::Ended),
        }
    }

    /// Takes requests out of what was received: as many as are complete and the limits allow.
    fn take_requests(&mut self, requests: &mut Vec<Request>) -> Result<(), ConnectionError> {
        while self.phase == Phase::Open && self.take_one(requests)? {}
        Ok(())
    }

    /// Whether the limits forbid to take another request.
    fn is_paused(&self) -> bool {
        self.pending.len() >= REQUESTS_MAX
            || self.pending.payload_bytes() + self.output.bytes() >= PAYLOAD_BYTES_MAX
            || self.output.inline_bytes() >= INLINE_BYTES_MAX
    }

    /// One step; `false` when more bytes or more room are needed.
    fn take_one(&mut self, requests: &mut Vec<Request>) -> Result<bool, ConnectionError> {
        match std::mem::replace(&mut self.receiving, Receiving::Header) {
            Receiving::Header => self.take_header(requests),
            Receiving::Payload {
                cookie,
                kind,
                mut filling,
            } => {
                self.input.copy_to(&mut filling);
                match filling.full() {
                    Ok(buf) => self.admit(cookie, kind, Some(buf.freeze()), requests),
                    Err(filling) => {
                        self.receiving = Receiving::Payload {
                            cookie,
                            kind,
                            filling,
                        };
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            Receiving::Refused {
                cookie,
                refusal,
                left,
            } => {
                let left = left - self.input.skip(left);
                if left == 0 {
                    self.refuse(cookie, refusal);
                } else {
                    self.receiving = Receiving::Refused {
                        cookie,
                        refusal,
                        left,
                    };
                }
                Ok(left == 0)
            }
        }
    }

    fn take_header(&mut self, requests: &mut Vec<Request>) -> Result<bool, ConnectionError> {
        if self.is_paused() {
            return Ok(false);
        }
        let Some(bytes) = self.input.header() else {
            return Ok(false);
        };
        let Some(header) = RequestHeader::decode(bytes) else {
            self.hang_up();
            return Err(ConnectionError::Protocol);
        };
        self.input.skip(REQUEST_BYTES);
        let cookie = header.cookie;
        let payload = if header.command == cmd::WRITE {
            header.len as usize
        } else {
            0
        };
        self.input.expect_payload(0);
        match judge(&header, &self.terms) {
            Verdict::Admit(kind @ Kind::Write { .. }) => {
                self.input.expect_payload(payload);
                let filling = Filling::new(self.pool.take(payload));
                self.receiving = Receiving::Payload {
                    cookie,
                    kind,
                    filling,
                };
            }
            Verdict::Admit(kind) => self.admit(cookie, kind, None, requests),
            Verdict::Refuse(refusal) if payload > 0 => {
                self.receiving = Receiving::Refused {
                    cookie,
                    refusal,
                    left: payload,
                };
            }
            Verdict::Refuse(refusal) => self.refuse(cookie, refusal),
            Verdict::Nothing => self.nothing(cookie, header.command),
            Verdict::Disconnect => self.stop(),
        }
        Ok(true)
    }

    fn admit(&mut self, cookie: u64, kind: Kind, data: Option<Slice>, requests: &mut Vec<Request>) {
        let id = self.pending.insert(Entry { cookie, kind });
        // When all of it is here: its key may have been taken away while it came.
        if kind.writes() && !self.may_write(id) {
            self.pending.remove(id);
            return self.refuse(cookie, CUT_OFF);
        }
        let op = kind.into_op(data);
        requests.push(Request { id, op });
    }

    fn may_write(&self, id: RequestId) -> bool {
        let table = self.reservations.as_ref();
        table.is_none_or(|table| table.begin(id, self.key))
    }

    /// Queues the engine's answer. Ignored when the connection is closed already.
    ///
    /// Panics when the request is not one of this connection's in flight, or when the answer does
    /// not fit it (data to a write, too little data to a read): the engine would be broken.
    pub fn complete(&mut self, id: RequestId, result: Result<Reply, RequestError>) {
        if let Some(table) = &self.reservations {
            table.ended(id);
        }
        if self.phase == Phase::Closed {
            return;
        }
        let Entry { cookie, kind } = self.pending.remove(id);
        match (result, kind) {
            (Ok(Reply::Data(slices)), Kind::Read { offset, len }) => {
                self.data(cookie, offset, len, slices);
            }
            (Ok(Reply::Extents(extents)), Kind::Status { len, one, .. }) => {
                self.status(cookie, len, one, &extents);
            }
            (
                Ok(Reply::Done),
                Kind::Write { .. } | Kind::WriteZeroes { .. } | Kind::Trim { .. } | Kind::Flush,
            ) => self.output.push(&simple_reply(0, cookie)),
            (Err(error), kind) => self.error(cookie, kind.errno(&error), &error.to_string()),
            (Ok(reply), kind) => panic!("{reply:?} is no answer to {kind:?}"),
        }
    }

    fn data(&mut self, cookie: u64, offset: u64, len: u32, slices: Slices) {
        assert_eq!(
            slices_len(&slices),
            len as usize,
            "a read is answered in full"
        );
        if self.terms.structured {
            self.output
                .push(&only_chunk(chunk::OFFSET_DATA, cookie, 8 + len));
            self.output.push(&offset.to_be_bytes());
        } else {
            self.output.push(&simple_reply(0, cookie));
        }
        for slice in slices {
            self.output.push_slice(slice);
        }
    }

    fn status(&mut self, cookie: u64, len: u32, one: bool, extents: &[Extent]) {
        let descriptors = status::descriptors(extents, len, self.terms.block_bytes, one);
        let payload = 4 + 8 * descriptors.len() as u32;
        self.output
            .push(&only_chunk(chunk::BLOCK_STATUS, cookie, payload));
        self.output.push(&self.allocation_context.to_be_bytes());
        for (length, flags) in descriptors {
            self.output.push(&length.to_be_bytes());
            self.output.push(&flags.to_be_bytes());
        }
    }

    /// Success without the engine. A read, even of nothing, is answered in the form agreed upon.
    fn nothing(&mut self, cookie: u64, command: u16) {
        if self.terms.structured && command == cmd::READ {
            self.output.push(&only_chunk(chunk::NONE, cookie, 0));
        } else {
            self.output.push(&simple_reply(0, cookie));
        }
    }

    fn refuse(&mut self, cookie: u64, refusal: Refusal) {
        self.error(cookie, refusal.errno, refusal.text);
    }

    fn error(&mut self, cookie: u64, errno: u32, text: &str) {
        if !self.terms.structured {
            return self.output.push(&simple_reply(errno, cookie));
        }
        let text = clipped(text).as_bytes();
        let payload = 6 + text.len() as u32;
        self.output.push(&only_chunk(chunk::ERROR, cookie, payload));
        self.output.push(&errno.to_be_bytes());
        self.output.push(&(text.len() as u16).to_be_bytes());
        self.output.push(text);
    }

    /// Sends as many replies as `io` takes; it must not block. Then appends to `requests` what the
    /// limits held back and room was made for, by completions or by sending: to be called after
    /// completions and when the socket is writable, again and again while requests come out of it.
    /// An error means the connection is dead: drop it.
    pub fn write_to(
        &mut self,
        io: &mut impl Write,
        requests: &mut Vec<Request>,
    ) -> Result<(), ConnectionError> {
        self.output.write_to(io).inspect_err(|_| self.hang_up())?;
        self.take_requests(requests)
    }
}

#[cfg(test)]
mod tests;
