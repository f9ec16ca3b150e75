//! Buffers between the client and its socket, and the replies it waits for.

use std::io::{self, Read, Write};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::super::proto::{CHUNK_MAGIC, Fields, SIMPLE_REPLY_BYTES, SIMPLE_REPLY_MAGIC, chunk};
use super::super::socket::Socket;
use super::{Answer, ClientError, Completion, Operation, PATIENCE, Tls};

const READ_BYTES: usize = 256 << 10;

/// A socket with a buffer on either side. Receives while it waits to send, so that the two ends
/// never wait for each other.
#[derive(Debug)]
pub(in super::super) struct Stream {
    socket: Socket,
    output: Vec<u8>,
    input: Vec<u8>,
    start: usize,
    end: usize,
    /// When everything has to be over.
    deadline: Option<Instant>,
}

impl Stream {
    /// Whoever keeps silent is waited for as long as [`PATIENCE`].
    pub fn new(socket: Socket) -> Stream {
        Stream::until(socket, None)
    }

    /// The same, but nothing is waited for after `deadline`, however much comes till then.
    pub fn until(socket: Socket, deadline: Option<Instant>) -> Stream {
        Stream {
            deadline,
            socket,
            output: Vec::new(),
            input: vec![0; READ_BYTES],
            start: 0,
            end: 0,
        }
    }

    /// The socket, if nothing is buffered that nobody has looked at.
    pub fn into_socket(self) -> Option<Socket> {
        (self.start == self.end).then_some(self.socket)
    }

    /// Everything from here on goes over TLS.
    pub fn start_tls(&mut self, tls: &Tls) -> Result<(), ClientError> {
        if self.start != self.end {
            return Err(ClientError::Protocol("something came before TLS began"));
        }
        let started = self
            .socket
            .start_tls_with(tls.config.clone(), tls.name.clone());
        started.map_err(|error| ClientError::Io(io::Error::other(error)))
    }

    pub fn queue(&mut self, bytes: &[u8]) {
        self.output.extend_from_slice(bytes);
    }

    /// Sends what is queued, and `more` after it.
    pub fn send(&mut self, more: &[u8]) -> io::Result<()> {
        let queued = std::mem::take(&mut self.output);
        let result = self.send_all(&queued).and_then(|()| self.send_all(more));
        self.output = queued;
        self.output.clear();
        result
    }

    fn send_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.socket.write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let ready = self.wait(PollFlags::IN | PollFlags::OUT)?;
                    if ready.contains(PollFlags::IN) {
                        self.receive()?;
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn wait(&self, flags: PollFlags) -> io::Result<PollFlags> {
        let left = self
            .deadline
            .map(|end| end.saturating_duration_since(Instant::now()));
        let left = left.unwrap_or(PATIENCE).min(PATIENCE);
        let timeout = Timespec {
            tv_sec: left.as_secs() as i64,
            tv_nsec: left.subsec_nanos().into(),
        };
        let flags = match self.socket.owes() {
            true => flags | PollFlags::OUT,
            false => flags,
        };
        let mut fds = [PollFd::new(&self.socket, flags)];
        loop {
            match poll(&mut fds, Some(&timeout)) {
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
                Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
                Ok(_) => return Ok(fds[0].revents()),
            }
        }
    }

    /// Receives something behind what is buffered already.
    fn receive(&mut self) -> io::Result<()> {
        if self.deadline.is_some_and(|end| Instant::now() >= end) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        if self.start > 0 {
            self.input.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.input.len() - self.end < READ_BYTES / 2 {
            self.input.resize(self.input.len() * 2, 0);
        }
        self.end += receive(&mut self.socket, &mut self.input[self.end..])?.unwrap_or(0);
        Ok(())
    }

    /// Whether a reply can be begun without waiting.
    pub fn holds_a_header(&self) -> bool {
        self.end - self.start >= SIMPLE_REPLY_BYTES
    }

    pub fn take<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.take_into(&mut bytes)?;
        Ok(bytes)
    }

    /// Fills `bytes`, from the buffer and then from the socket.
    pub fn take_into(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        let mut filled = 0;
        loop {
            let count = (bytes.len() - filled).min(self.end - self.start);
            let source = &self.input[self.start..self.start + count];
            bytes[filled..filled + count].copy_from_slice(source);
            self.start += count;
            filled += count;
            if filled == bytes.len() {
                return Ok(());
            }
            let received = if bytes.len() - filled >= READ_BYTES / 4 {
                let received = receive(&mut self.socket, &mut bytes[filled..])?;
                filled += received.unwrap_or(0);
                received
            } else {
                self.receive()?;
                Some(self.end - self.start).filter(|&count| count > 0)
            };
            if received.is_none() {
                self.wait(PollFlags::IN)?;
            }
        }
    }
}

/// `None`: nothing is here now.
fn receive(socket: &mut Socket, bytes: &mut [u8]) -> io::Result<Option<usize>> {
    match socket.read(bytes) {
        Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(count) => Ok(Some(count)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

#[derive(Debug)]
struct Awaited {
    tag: u64,
    /// Of a read: its offset and the bytes so far.
    read: Option<(u64, Vec<u8>)>,
    extents: Option<Vec<(u32, u32)>>,
    error: Option<ClientError>,
}

/// The replies waited for, by cookie. The low bits of a cookie are the place in the table.
#[derive(Debug)]
pub(super) struct Waiting {
    structured: bool,
    table: Vec<Option<Awaited>>,
    free: Vec<u32>,
    started: u64,
    /// Memory for reads to come.
    pub spare: Vec<Vec<u8>>,
}

const UNKNOWN_COOKIE: ClientError = ClientError::Protocol("a reply to no request");
const SHORT: ClientError = ClientError::Protocol("a reply chunk is too short");
const CHUNK_BYTES_MAX: u32 = (32 << 20) + 8;

impl Waiting {
    pub fn new(structured: bool) -> Waiting {
        Waiting {
            structured,
            table: Vec::new(),
            free: Vec::new(),
            started: 0,
            spare: Vec::new(),
        }
    }

    pub fn len(&self) -> usize {
        self.table.len() - self.free.len()
    }

    pub fn add(&mut self, operation: &Operation<'_>) -> u64 {
        let read = match *operation {
            // Memory only for what the server may send.
            Operation::Read { offset, len, .. } if len < CHUNK_BYTES_MAX => {
                let mut data = self.spare.pop().unwrap_or_default();
                data.resize(len as usize, 0);
                Some((offset, data))
            }
            _ => None,
        };
        let place = self.free.pop().unwrap_or_else(|| {
            self.table.push(None);
            (self.table.len() - 1) as u32
        });
        self.started += 1;
        let tag = self.started << 32 | u64::from(place);
        self.table[place as usize] = Some(Awaited {
            tag,
            read,
            extents: None,
            error: None,
        });
        tag
    }

    fn find(&mut self, cookie: u64) -> Result<&mut Awaited, ClientError> {
        let awaited = self.table.get_mut(cookie as u32 as usize);
        let awaited = awaited.and_then(Option::as_mut).filter(|a| a.tag == cookie);
        awaited.ok_or(UNKNOWN_COOKIE)
    }

    fn finish(&mut self, cookie: u64) -> Result<Completion, ClientError> {
        self.find(cookie)?;
        let awaited = self.table[cookie as u32 as usize]
            .take()
            .ok_or(UNKNOWN_COOKIE)?;
        self.free.push(cookie as u32);
        let result = match awaited {
            Awaited {
                error: Some(error), ..
            } => Err(error),
            Awaited {
                extents: Some(extents),
                ..
            } => Ok(Answer::Extents(extents)),
            Awaited {
                read: Some((_, data)),
                ..
            } => Ok(Answer::Data(data)),
            _ => Ok(Answer::Done),
        };
        Ok(Completion {
            tag: cookie,
            result,
        })
    }

    /// Takes one message. `None`: a chunk that did not end its reply.
    pub fn take_message(&mut self, stream: &mut Stream) -> Result<Option<Completion>, ClientError> {
        let header = stream.take::<SIMPLE_REPLY_BYTES>()?;
        let mut fields = Fields(&header);
        match fields.u32() {
            Some(SIMPLE_REPLY_MAGIC) => {
                let errno = fields.u32().ok_or(SHORT)?;
                let cookie = fields.u64().ok_or(SHORT)?;
                self.take_simple(stream, errno, cookie).map(Some)
            }
            Some(CHUNK_MAGIC) if self.structured => {
                let flags = fields.u16().ok_or(SHORT)?;
                let kind = fields.u16().ok_or(SHORT)?;
                let cookie = fields.u64().ok_or(SHORT)?;
                self.take_chunk(stream, kind, cookie)?;
                let done = flags & chunk::FLAG_DONE != 0;
                done.then(|| self.finish(cookie)).transpose()
            }
            _ => Err(ClientError::Protocol("not a reply")),
        }
    }

    fn take_simple(
        &mut self,
        stream: &mut Stream,
        errno: u32,
        cookie: u64,
    ) -> Result<Completion, ClientError> {
        let structured = self.structured;
        let awaited = self.find(cookie)?;
        match &mut awaited.read {
            _ if errno != 0 => {
                let text = String::new();
                awaited.error = Some(ClientError::Request { errno, text });
            }
            Some(_) if structured => {
                return Err(ClientError::Protocol("a simple reply to a structured read"));
            }
            Some((_, data)) => stream.take_into(data)?,
            None => {}
        }
        self.finish(cookie)
    }

    fn take_chunk(
        &mut self,
        stream: &mut Stream,
        kind: u16,
        cookie: u64,
    ) -> Result<(), ClientError> {
        let len = u32::from_be_bytes(stream.take()?);
        if len > CHUNK_BYTES_MAX {
            return Err(ClientError::Protocol("a reply chunk is too long"));
        }
        let awaited = self.find(cookie)?;
        if kind == chunk::OFFSET_DATA {
            let offset = u64::from_be_bytes(stream.take()?);
            let place = awaited.place(offset, len.checked_sub(8).ok_or(SHORT)?)?;
            return Ok(stream.take_into(place)?);
        }
        let mut payload = vec![0; len as usize];
        stream.take_into(&mut payload)?;
        let mut fields = Fields(&payload);
        match kind {
            chunk::NONE => {}
            chunk::OFFSET_HOLE => {
                let offset = fields.u64().ok_or(SHORT)?;
                let hole_len = fields.u32().ok_or(SHORT)?;
                awaited.place(offset, hole_len)?.fill(0);
            }
            chunk::BLOCK_STATUS => {
                fields.u32().ok_or(SHORT)?;
                let extents = awaited.extents.get_or_insert_default();
                while !fields.is_empty() {
                    extents.push((fields.u32().ok_or(SHORT)?, fields.u32().ok_or(SHORT)?));
                }
            }
            chunk::ERROR | chunk::ERROR_OFFSET => {
                let errno = fields.u32().ok_or(SHORT)?;
                let text_len = fields.u16().ok_or(SHORT)?;
                let text = fields.bytes(text_len.into()).ok_or(SHORT)?;
                let text = String::from_utf8_lossy(text).into_owned();
                awaited.error = Some(ClientError::Request { errno, text });
            }
            _ => return Err(ClientError::Protocol("an unknown reply chunk")),
        }
        Ok(())
    }
}

impl Awaited {
    /// Where the bytes of the export from `offset` on go.
    fn place(&mut self, offset: u64, len: u32) -> Result<&mut [u8], ClientError> {
        let outside = ClientError::Protocol("data outside the request");
        let Some((first, data)) = &mut self.read else {
            return Err(outside);
        };
        let start = offset
            .checked_sub(*first)
            .and_then(|start| usize::try_from(start).ok());
        let range = start.and_then(|start| Some(start..start.checked_add(len as usize)?));
        range.and_then(|range| data.get_mut(range)).ok_or(outside)
    }
}
