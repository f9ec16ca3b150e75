//! A small blocking NBD client: for tests, demonstrations and measurements.
//!
//! ```text
//!   connect --> pread, pwrite, flush, trim, write_zeroes, block_status     one at a time
//!           `-> start, start, ... submit, reap, start, submit, reap ...    many in flight
//! ```
//!
//! It waits at most [`PATIENCE`] for the server, so a test that goes wrong ends.

pub(super) mod handshake;
mod keys;
pub(super) mod wire;

use std::io;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use super::address::Address;
use super::proto::{RequestHeader, cmd};
use super::socket::Socket;

pub use handshake::{Options, list};
pub use keys::{Asking, NotMet};
use wire::{Stream, Waiting};

/// How long the server may keep silent.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Payloads from this size on are sent from where they are.
const LARGE_BYTES: usize = 32 << 10;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The connection failed, or the server kept silent.
    #[error("connection: {0}")]
    Io(#[from] io::Error),
    /// The server broke the protocol.
    #[error("the server broke the protocol: {0}")]
    Protocol(&'static str),
    /// The server refused an option of the handshake.
    #[error("option {option} refused ({error:#x}): {text}")]
    Option {
        /// The option.
        option: u32,
        /// The reply type.
        error: u32,
        /// The server's words.
        text: String,
    },
    /// The server failed a request.
    #[error("error {errno}: {text}")]
    Request {
        /// The error value.
        errno: u32,
        /// The server's words; empty with simple replies.
        text: String,
    },
}

impl ClientError {
    /// The error value of a failed request.
    pub fn errno(&self) -> Option<u32> {
        match self {
            ClientError::Request { errno, .. } => Some(*errno),
            _ => None,
        }
    }
}

/// How a server is made certain of, and what it is shown.
#[derive(Debug, Clone)]
pub struct Tls {
    /// Keys and certificates.
    pub config: Arc<ClientConfig>,
    /// The name in its certificate.
    pub name: ServerName<'static>,
}

/// A request to start. Offsets and lengths are in bytes.
#[derive(Debug, Clone, Copy)]
pub enum Operation<'a> {
    /// Read.
    Read {
        /// From here on.
        offset: u64,
        /// Length.
        len: u32,
        /// In one piece.
        df: bool,
    },
    /// Write.
    Write {
        /// From here on.
        offset: u64,
        /// The bytes.
        data: &'a [u8],
        /// Durable before the answer.
        fua: bool,
    },
    /// Write zeros.
    WriteZeroes {
        /// From here on.
        offset: u64,
        /// Length.
        len: u32,
        /// Keep the space.
        no_hole: bool,
        /// Durable before the answer.
        fua: bool,
    },
    /// Trim.
    Trim {
        /// From here on.
        offset: u64,
        /// Length.
        len: u32,
        /// Durable before the answer.
        fua: bool,
    },
    /// Flush.
    Flush,
    /// Query `base:allocation`.
    BlockStatus {
        /// From here on.
        offset: u64,
        /// Length.
        len: u32,
        /// The first extent only.
        one: bool,
    },
    /// Anything at all, sensible or not; `data` follows as it is.
    Raw {
        /// Command flags.
        flags: u16,
        /// Command.
        command: u16,
        /// Offset field.
        offset: u64,
        /// Length field.
        len: u32,
        /// What follows the header.
        data: &'a [u8],
    },
}

impl<'a> Operation<'a> {
    fn encode(&self, cookie: u64) -> (RequestHeader, &'a [u8]) {
        let flag = |on: bool, flag: u16| if on { flag } else { 0 };
        let header = |command, flags, offset, len| RequestHeader {
            flags,
            command,
            cookie,
            offset,
            len,
        };
        let no_data: &[u8] = &[];
        match *self {
            Operation::Read { offset, len, df } => (
                header(cmd::READ, flag(df, cmd::FLAG_DF), offset, len),
                no_data,
            ),
            Operation::Write { offset, data, fua } => {
                let len = u32::try_from(data.len()).expect("a write below 4 GiB");
                (
                    header(cmd::WRITE, flag(fua, cmd::FLAG_FUA), offset, len),
                    data,
                )
            }
            Operation::WriteZeroes {
                offset,
                len,
                no_hole,
                fua,
            } => {
                let flags = flag(no_hole, cmd::FLAG_NO_HOLE) | flag(fua, cmd::FLAG_FUA);
                (header(cmd::WRITE_ZEROES, flags, offset, len), no_data)
            }
            Operation::Trim { offset, len, fua } => (
                header(cmd::TRIM, flag(fua, cmd::FLAG_FUA), offset, len),
                no_data,
            ),
            Operation::Flush => (header(cmd::FLUSH, 0, 0, 0), no_data),
            Operation::BlockStatus { offset, len, one } => {
                let flags = flag(one, cmd::FLAG_REQ_ONE);
                (header(cmd::BLOCK_STATUS, flags, offset, len), no_data)
            }
            Operation::Raw {
                flags,
                command,
                offset,
                len,
                data,
            } => (header(command, flags, offset, len), data),
        }
    }
}

/// What a successful request brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Nothing but success.
    Done,
    /// The bytes read.
    Data(Vec<u8>),
    /// Lengths in bytes and status flags.
    Extents(Vec<(u32, u32)>),
}

/// The end of a request begun with [`Client::start`].
#[derive(Debug)]
pub struct Completion {
    /// What `start` returned.
    pub tag: u64,
    /// How it ended.
    pub result: Result<Answer, ClientError>,
}

/// A connection to an export.
#[derive(Debug)]
pub struct Client {
    stream: Stream,
    agreed: handshake::Agreed,
    waiting: Waiting,
}

fn open(address: &Address) -> io::Result<Socket> {
    Ok(match address {
        Address::Unix(path) => UnixStream::connect(path)?.into(),
        Address::Tcp { host, port } => TcpStream::connect((host.as_str(), *port))?.into(),
    })
}

impl Client {
    /// Connects to an export with structured replies and `base:allocation`.
    pub fn connect(address: &Address, export: &str) -> Result<Client, ClientError> {
        Client::connect_with(address, export, Options::default())
    }

    /// Connects to an export.
    pub fn connect_with(
        address: &Address,
        export: &str,
        options: Options,
    ) -> Result<Client, ClientError> {
        Client::over(open(address)?, export, options)
    }

    /// Negotiates over a connected socket.
    pub fn over(socket: Socket, export: &str, options: Options) -> Result<Client, ClientError> {
        let mut stream = Stream::new(socket);
        let agreed = handshake::negotiate(&mut stream, export, options, None)?;
        let waiting = Waiting::new(agreed.structured);
        Ok(Client {
            stream,
            agreed,
            waiting,
        })
    }

    /// The size of the export, in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.agreed.size_bytes
    }

    /// The transmission flags.
    pub fn flags(&self) -> u16 {
        self.agreed.flags
    }

    /// Minimum, preferred and maximum block size in bytes, if the server said.
    pub fn block_sizes(&self) -> Option<[u32; 3]> {
        self.agreed.block_sizes
    }

    /// The canonical name and the description of the export, if the server said.
    pub fn names(&self) -> (Option<&str>, Option<&str>) {
        (
            self.agreed.name.as_deref(),
            self.agreed.description.as_deref(),
        )
    }

    /// Queues a request; a large one is sent at once. Returns the tag of its completion.
    pub fn start(&mut self, operation: Operation<'_>) -> Result<u64, ClientError> {
        let tag = self.waiting.add(&operation);
        let (header, data) = operation.encode(tag);
        self.stream.queue(&header.encode());
        if data.len() < LARGE_BYTES {
            self.stream.queue(data);
        } else {
            self.stream.send(data)?;
        }
        Ok(tag)
    }

    /// Sends what is queued.
    pub fn submit(&mut self) -> Result<(), ClientError> {
        Ok(self.stream.send(&[])?)
    }

    /// Waits for at least one completion and appends all that are here.
    pub fn reap(&mut self, completions: &mut Vec<Completion>) -> Result<(), ClientError> {
        let before = completions.len();
        while completions.len() == before || self.stream.holds_a_header() {
            if let Some(completion) = self.waiting.take_message(&mut self.stream)? {
                completions.push(completion);
            }
        }
        Ok(())
    }

    /// Gives the memory of a read back for another: fresh memory costs more than the transfer.
    pub fn recycle(&mut self, answer: Answer) {
        if let Answer::Data(data) = answer {
            self.waiting.spare.push(data);
        }
    }

    /// Requests started and not reaped yet.
    pub fn in_flight(&self) -> usize {
        self.waiting.len()
    }

    /// Carries out one request. Panics when others are in flight.
    pub fn run(&mut self, operation: Operation<'_>) -> Result<Answer, ClientError> {
        assert_eq!(self.in_flight(), 0, "one at a time");
        self.start(operation)?;
        self.submit()?;
        let mut completions = Vec::with_capacity(1);
        self.reap(&mut completions)?;
        let only = completions.pop().expect("reap brings one");
        only.result
    }

    fn run_plain(&mut self, operation: Operation<'_>) -> Result<(), ClientError> {
        match self.run(operation)? {
            Answer::Done => Ok(()),
            _ => Err(ClientError::Protocol("data nobody asked for")),
        }
    }

    /// Reads `len` bytes.
    pub fn pread(&mut self, offset: u64, len: u32) -> Result<Vec<u8>, ClientError> {
        match self.run(Operation::Read {
            offset,
            len,
            df: false,
        })? {
            Answer::Data(data) => Ok(data),
            _ => Err(ClientError::Protocol("a read without data")),
        }
    }

    /// Writes.
    pub fn pwrite(&mut self, offset: u64, data: &[u8]) -> Result<(), ClientError> {
        self.run_plain(Operation::Write {
            offset,
            data,
            fua: false,
        })
    }

    /// Writes durably.
    pub fn pwrite_fua(&mut self, offset: u64, data: &[u8]) -> Result<(), ClientError> {
        self.run_plain(Operation::Write {
            offset,
            data,
            fua: true,
        })
    }

    /// Makes everything answered so far durable.
    pub fn flush(&mut self) -> Result<(), ClientError> {
        self.run_plain(Operation::Flush)
    }

    /// Trims.
    pub fn trim(&mut self, offset: u64, len: u32) -> Result<(), ClientError> {
        self.run_plain(Operation::Trim {
            offset,
            len,
            fua: false,
        })
    }

    /// Writes zeros; holes are allowed unless `no_hole`.
    pub fn write_zeroes(
        &mut self,
        offset: u64,
        len: u32,
        no_hole: bool,
    ) -> Result<(), ClientError> {
        self.run_plain(Operation::WriteZeroes {
            offset,
            len,
            no_hole,
            fua: false,
        })
    }

    /// Lengths in bytes and status flags (1: hole, 2: zeros) from `offset` on.
    pub fn block_status(&mut self, offset: u64, len: u32) -> Result<Vec<(u32, u32)>, ClientError> {
        match self.run(Operation::BlockStatus {
            offset,
            len,
            one: false,
        })? {
            Answer::Extents(extents) => Ok(extents),
            _ => Err(ClientError::Protocol("a block status without extents")),
        }
    }

    /// Says goodbye and waits until the server has closed the connection.
    pub fn disconnect(mut self) -> Result<(), ClientError> {
        self.start(Operation::Raw {
            flags: 0,
            command: cmd::DISC,
            offset: 0,
            len: 0,
            data: &[],
        })?;
        self.submit()?;
        loop {
            match self.reap(&mut Vec::new()) {
                Ok(()) => {}
                Err(ClientError::Io(e)) if e.kind() == io::ErrorKind::UnexpectedEof => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
