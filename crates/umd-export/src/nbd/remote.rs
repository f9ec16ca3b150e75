//! An export of another server, used by several threads at once: what a member over NBD is.
//!
//! ```text
//!   read, write, zero, flush (any thread)          one thread, which owns the socket
//!     cookie, bytes -----> queue ------------------> send
//!     wait, not for ever <- answer <- waiting[cookie] <- receive: header, then data
//!                                          |
//!         silence, nonsense, the end of the connection: all that wait are told, once for all
//! ```
//!
//! One connection, and none after it. Whoever asks again over another one would let a write land
//! that is older than what was written since, as nobody knows when a server ends what it had taken.
//! So a connection that is lost is lost like a disk: who wants it back opens it anew.
//!
//! Simple replies only. Nothing that the server says decides how much memory is taken.

mod wheel;

use std::io::{self, IoSlice};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use super::address::Address;
use super::client::handshake::{Options, negotiate};
use super::client::wire::Stream;
use super::client::{ClientError, Tls};
use super::proto::{RequestHeader, can, cmd, errno};
use super::socket::Socket;
use wheel::{Shared, Wheel};

/// How long connecting may take, handshake included.
pub const OPEN_PATIENCE: Duration = Duration::from_secs(10);
/// How long a request may take: longer than arrays wait for a member.
pub const ANSWER_PATIENCE: Duration = Duration::from_secs(60);
/// What is asked for at once.
const PIECE_BYTES_MAX: u32 = 1 << 20;
/// What is zeroed at once.
const ZERO_BYTES_MAX: u32 = 32 << 20;
/// Where a server says nothing of blocks (the protocol's rule).
const BLOCK_SIZES: [u32; 3] = [512, 4096, 32 << 20];

/// Why a request was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// The server said so, with this error value of the protocol (one of Linux's).
    #[error("the server answered with error {0}")]
    Refused(u32),
    /// The connection is over. What was asked for before may still be done, sooner or later.
    #[error("the connection is lost: {0}")]
    Lost(String),
}

/// An export of another server. See the drawing above.
///
/// Offsets and lengths are in bytes, whole sectors of 512, inside the export.
#[derive(Debug)]
pub struct Remote {
    shared: Arc<Shared>,
    size_bytes: u64,
    block_bytes: u32,
    piece_bytes: u32,
    flags: u16,
    patience: Duration,
    /// Held by who changes a part of a block.
    edge: RwLock<()>,
}

/// What a server said that cannot be.
const NONSENSE: ClientError = ClientError::Protocol("sizes that no export has");

pub(super) fn connect(address: &Address, deadline: Instant) -> io::Result<Socket> {
    let (host, port) = match address {
        Address::Unix(path) => return Ok(UnixStream::connect(path)?.into()),
        Address::Tcp { host, port } => (host.as_str(), *port),
    };
    let mut last = io::Error::other("the name has no address");
    for one in (host, port).to_socket_addrs()? {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        match TcpStream::connect_timeout(&one, left) {
            Ok(stream) => return Ok(stream.into()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

impl Remote {
    /// Connects to an export, over TLS if that is given.
    ///
    /// # Errors
    /// When that takes longer than ten seconds, the server refuses, or what it says makes
    /// no sense.
    pub fn connect(
        address: &Address,
        export: &str,
        tls: Option<&Tls>,
    ) -> Result<Remote, ClientError> {
        Remote::patient(address, export, tls, (OPEN_PATIENCE, ANSWER_PATIENCE))
    }

    /// The same with other limits: for connecting, and for each request.
    ///
    /// # Errors
    /// As above.
    pub fn patient(
        address: &Address,
        export: &str,
        tls: Option<&Tls>,
        (open, patience): (Duration, Duration),
    ) -> Result<Remote, ClientError> {
        let deadline = Instant::now() + open;
        let mut stream = Stream::until(connect(address, deadline)?, Some(deadline));
        let options = Options {
            structured: false,
            allocation: false,
            ..Options::default()
        };
        let agreed = negotiate(&mut stream, export, options, tls)?;
        let socket = stream.into_socket();
        let early = ClientError::Protocol("an answer before a request");
        let socket = socket.ok_or(early)?;
        let [block_bytes, _, most] = agreed.block_sizes.unwrap_or(BLOCK_SIZES);
        let block_bytes = block_bytes.max(512);
        let sane = block_bytes.is_power_of_two() && block_bytes <= 65536 && most >= block_bytes;
        if !sane || i64::try_from(agreed.size_bytes).is_err() {
            return Err(NONSENSE);
        }
        let piece_bytes = most.min(PIECE_BYTES_MAX) / block_bytes * block_bytes;
        let shared = Arc::new(Shared::new()?);
        let wheel = Wheel::new(socket, shared.clone());
        let name = "umd-remote".to_owned();
        let thread = std::thread::Builder::new().name(name);
        thread.spawn(move || wheel.run())?;
        Ok(Remote {
            shared,
            size_bytes: agreed.size_bytes - agreed.size_bytes % u64::from(block_bytes),
            block_bytes,
            piece_bytes,
            flags: agreed.flags,
            patience,
            edge: RwLock::new(()),
        })
    }

    /// The size of the export, in bytes: whole blocks.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The smallest unit that the server takes, in bytes: 512 at least.
    pub fn block_bytes(&self) -> u32 {
        self.block_bytes
    }

    fn can(&self, flag: u16) -> bool {
        self.flags & can::HAS_FLAGS != 0 && self.flags & flag != 0
    }

    /// Whether the server takes no writes.
    pub fn is_read_only(&self) -> bool {
        self.can(can::READ_ONLY)
    }

    /// Whether the server can make writes durable.
    pub fn can_flush(&self) -> bool {
        self.can(can::FLUSH)
    }

    /// Whether the server zeroes without being sent zeros.
    pub fn can_zero(&self) -> bool {
        self.can(can::WRITE_ZEROES)
    }

    /// Fills `buf`.
    ///
    /// # Errors
    /// [`Trouble`].
    pub fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), Trouble> {
        let (start, end) = self.blocks(offset, buf.len());
        if (start, end) != (offset, offset + buf.len() as u64) {
            let whole = self.read_blocks(start, end)?;
            let skip = (offset - start) as usize;
            buf.copy_from_slice(&whole[skip..skip + buf.len()]);
            return Ok(());
        }
        let mut at = offset;
        for part in buf.chunks_mut(self.piece_bytes as usize) {
            let len = u32::try_from(part.len()).expect("a piece");
            let data = self.ask(request(cmd::READ, 0, at, len), &[], part.len())?;
            part.copy_from_slice(&data);
            at += u64::from(len);
        }
        Ok(())
    }

    fn read_blocks(&self, start: u64, end: u64) -> Result<Vec<u8>, Trouble> {
        let mut whole = vec![0; (end - start) as usize];
        self.read(start, &mut whole)?;
        Ok(whole)
    }

    /// The blocks of a range.
    fn blocks(&self, offset: u64, len: usize) -> (u64, u64) {
        let (block, end) = (u64::from(self.block_bytes), offset + len as u64);
        assert!(end <= self.size_bytes, "the range leaves the export");
        (offset - offset % block, end.next_multiple_of(block))
    }

    /// Writes the pieces one behind the other; with `fua`, durable on return.
    ///
    /// # Errors
    /// [`Trouble`]: any part of it may have been written, or is written later.
    pub fn write(&self, offset: u64, pieces: &[IoSlice<'_>], fua: bool) -> Result<(), Trouble> {
        let len = pieces.iter().map(|piece| piece.len()).sum();
        let (start, end) = self.blocks(offset, len);
        if (start, end) == (offset, offset + len as u64) {
            let _whole = self.edge.read().unwrap_or_else(PoisonError::into_inner);
            return self.write_blocks(offset, pieces, fua);
        }
        // What is read here, and written back around the new part, must not change meanwhile.
        let _edge = self.edge.write().unwrap_or_else(PoisonError::into_inner);
        let mut whole = self.read_blocks(start, end)?;
        let mut at = (offset - start) as usize;
        for piece in pieces {
            whole[at..at + piece.len()].copy_from_slice(piece);
            at += piece.len();
        }
        self.write_blocks(start, &[IoSlice::new(&whole)], fua)
    }

    fn write_blocks(&self, offset: u64, pieces: &[IoSlice<'_>], fua: bool) -> Result<(), Trouble> {
        let by_flag = fua && self.can(can::FUA);
        let flags = if by_flag { cmd::FLAG_FUA } else { 0 };
        let mut list = pieces.to_vec();
        let (mut rest, mut at) = (list.as_mut_slice(), offset);
        let mut part: Vec<u8> = Vec::new();
        while !rest.is_empty() {
            let room = self.piece_bytes as usize - part.len();
            let taken = rest[0].len().min(room);
            part.extend_from_slice(&rest[0][..taken]);
            IoSlice::advance_slices(&mut rest, taken);
            if part.len() == self.piece_bytes as usize || rest.is_empty() {
                let len = u32::try_from(part.len()).expect("a piece");
                self.ask(request(cmd::WRITE, flags, at, len), &part, 0)?;
                at += u64::from(len);
                part.clear();
            }
        }
        match fua && !by_flag {
            true => self.flush(),
            false => Ok(()),
        }
    }

    /// Makes the range read as zeros.
    ///
    /// # Errors
    /// As [`Remote::write`].
    pub fn zero(&self, offset: u64, len: u64, may_unmap: bool, fua: bool) -> Result<(), Trouble> {
        let (mut at, end) = (offset, offset + len);
        while at < end {
            let by_command = self.can_zero() && self.blocks(at, 0).0 == at;
            let most = if by_command {
                ZERO_BYTES_MAX
            } else {
                PIECE_BYTES_MAX
            };
            let mut part = (end - at).min(u64::from(most));
            if by_command && part >= u64::from(self.block_bytes) {
                part -= part % u64::from(self.block_bytes);
                let hole = if may_unmap { 0 } else { cmd::FLAG_NO_HOLE };
                let len = u32::try_from(part).expect("a piece");
                let _whole = self.edge.read().unwrap_or_else(PoisonError::into_inner);
                self.ask(request(cmd::WRITE_ZEROES, hole, at, len), &[], 0)?;
            } else {
                part = part.min(u64::from(PIECE_BYTES_MAX));
                let zeros = vec![0; part as usize];
                self.write(at, &[IoSlice::new(&zeros)], false)?;
            }
            at += part;
        }
        match fua {
            true => self.flush(),
            false => Ok(()),
        }
    }

    /// Makes everything durable that was answered before.
    ///
    /// # Errors
    /// [`Trouble`]; also when the server has no such request.
    pub fn flush(&self) -> Result<(), Trouble> {
        match self.can_flush() {
            true => self.ask(request(cmd::FLUSH, 0, 0, 0), &[], 0).map(drop),
            false => Err(Trouble::Refused(errno::INVAL)),
        }
    }

    /// Why the connection is over, if it is.
    pub fn lost(&self) -> Option<String> {
        self.shared.lock().over.clone()
    }

    /// Says goodbye. Requests that come later fail.
    pub fn close(&self) {
        self.shared.close();
    }

    fn ask(&self, header: RequestHeader, data: &[u8], read: usize) -> Result<Vec<u8>, Trouble> {
        let (sender, receiver) = sync_channel(1);
        self.shared.submit(header, data, read, sender)?;
        match receiver.recv_timeout(self.patience) {
            Ok(answer) => answer.map_err(Trouble::Refused),
            Err(RecvTimeoutError::Timeout) => {
                let seconds = self.patience.as_secs_f32();
                Err(self
                    .shared
                    .end(&format!("the server did not answer within {seconds} s")))
            }
            Err(RecvTimeoutError::Disconnected) => Err(self.shared.end("it ended")),
        }
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.close();
    }
}

fn request(command: u16, flags: u16, offset: u64, len: u32) -> RequestHeader {
    RequestHeader {
        flags,
        command,
        cookie: 0,
        offset,
        len,
    }
}
