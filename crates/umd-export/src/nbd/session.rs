//! A TLS session, over a socket that does not block.
//!
//! ```text
//!   socket --ciphertext--> inbox --> rustls --plaintext--> who reads
//!   socket <--ciphertext-- rustls (at most UNSENT_BYTES_MAX) <--plaintext-- who writes
//! ```
//!
//! Two things differ from a bare socket, and both are kept from who uses it:
//!
//! * What was decrypted and not read yet makes no socket readable. So a read goes on until it has
//!   all that was asked for or the socket is empty, and [`Session::holds_input`] tells whether it
//!   stopped for the first reason.
//! * What was encrypted is not sent yet. A write is done when its ciphertext has left; until then
//!   it would block, and whoever comes back offers the same bytes again, as with a bare socket
//!   that took nothing.

use std::io::{self, IoSlice, Read, Write};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection};

/// Ciphertext taken from the socket at once: four records of the largest kind.
const INBOX_BYTES: usize = 64 << 10;
/// Plaintext encrypted at once.
const UNSENT_BYTES_MAX: usize = 256 << 10;

#[derive(Debug)]
pub(super) struct Session {
    tls: Connection,
    inbox: Box<[u8]>,
    /// What of the inbox was not looked at.
    start: usize,
    end: usize,
    /// Plaintext that was encrypted, and whose writer was not told so.
    owed: usize,
    /// The last read found everything empty.
    drained: bool,
}

impl Session {
    /// One whose handshake begins with what the client sends next.
    ///
    /// # Errors
    /// When the settings make no session.
    pub fn new(config: Arc<ServerConfig>) -> Result<Session, rustls::Error> {
        let mut tls = ServerConnection::new(config)?;
        tls.set_buffer_limit(Some(UNSENT_BYTES_MAX));
        Ok(Session::over(tls.into()))
    }

    /// One with a server of this name; its handshake begins with the next read or write.
    ///
    /// # Errors
    /// When the settings make no session.
    pub fn with(
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<Session, rustls::Error> {
        let mut tls = ClientConnection::new(config, name)?;
        tls.set_buffer_limit(Some(UNSENT_BYTES_MAX));
        Ok(Session::over(tls.into()))
    }

    fn over(tls: Connection) -> Session {
        Session {
            tls,
            inbox: vec![0; INBOX_BYTES].into_boxed_slice(),
            start: 0,
            end: 0,
            owed: 0,
            drained: true,
        }
    }

    /// Whether there may be more to read than the socket shows.
    pub fn holds_input(&self) -> bool {
        !self.drained
    }

    /// Whether ciphertext waits for the socket to take it.
    pub fn wants_write(&self) -> bool {
        self.tls.wants_write()
    }

    /// Reads plaintext; the handshake goes on by this, too.
    pub fn read(&mut self, socket: &mut impl Stream, bytes: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        self.drained = false;
        while filled < bytes.len() {
            match self.tls.reader().read(&mut bytes[filled..]) {
                Ok(0) => break, // They have closed.
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    match self.take_in(socket) {
                        Ok(true) => {}
                        Ok(false) => break, // Gone without a word, as clients may.
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                            self.drained = true;
                            return if filled > 0 { Ok(filled) } else { Err(error) };
                        }
                        Err(error) => return Err(error),
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    /// Looks at some ciphertext; `false` when there will be none any more.
    fn take_in(&mut self, socket: &mut impl Stream) -> io::Result<bool> {
        if self.start == self.end {
            let count = socket.read(&mut self.inbox)?;
            if count == 0 {
                return Ok(false);
            }
            (self.start, self.end) = (0, count);
        }
        let mut rest = &self.inbox[self.start..self.end];
        let before = rest.len();
        let taken = self.tls.read_tls(&mut rest)?;
        self.start += before - rest.len();
        let understood = self.tls.process_new_packets();
        // Answers of the handshake, and why it failed.
        let sent = self.send(socket);
        understood.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        match sent {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(taken > 0),
        }
    }

    /// Sends ciphertext until there is none left or the socket would block.
    pub fn send(&mut self, socket: &mut impl Stream) -> io::Result<()> {
        while self.tls.wants_write() {
            self.tls.write_tls(socket)?;
        }
        Ok(())
    }

    /// Writes plaintext. As long as this would block, the same bytes have to be offered again.
    pub fn write(&mut self, socket: &mut impl Stream, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        self.send(socket)?;
        if self.owed == 0 {
            self.owed = self.tls.writer().write_vectored(pieces)?;
            self.send(socket)?;
        }
        Ok(std::mem::take(&mut self.owed))
    }

    /// Says that nothing comes any more, if the socket takes it.
    pub fn close(&mut self, socket: &mut impl Stream) {
        self.tls.send_close_notify();
        let _ = self.send(socket); // Who is gone need not hear it.
    }
}

/// What a session runs over: reads and writes that do not block.
pub(super) trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}
