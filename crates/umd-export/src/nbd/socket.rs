//! A stream socket that never blocks and never raises SIGPIPE, whatever its descriptor is set to,
//! with or without TLS on it.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use rustix::net::sockopt::set_socket_keepalive;
use rustix::net::{
    RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendFlags, recv, recvmsg, send, sendmsg,
};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};

use super::session::Session;

/// A connected stream socket, Unix or TCP. Every call returns at once, with
/// [`io::ErrorKind::WouldBlock`] when there is nothing to do. A write that would block is repeated
/// with the same bytes, and perhaps more behind them.
#[derive(Debug)]
pub struct Socket {
    raw: Raw,
    session: Option<Box<Session>>,
}

impl From<UnixStream> for Socket {
    fn from(stream: UnixStream) -> Socket {
        Socket::of(stream.into())
    }
}

impl From<TcpStream> for Socket {
    /// Turns delayed sending off, for replies are sent in batches of our own making, and has the
    /// system look after peers that vanished without a word.
    fn from(stream: TcpStream) -> Socket {
        // Nothing is wrong without them, only slower and longer.
        let _ = stream.set_nodelay(true);
        let _ = set_socket_keepalive(&stream, true);
        Socket::of(stream.into())
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.raw.0.as_fd()
    }
}

impl Socket {
    fn of(descriptor: OwnedFd) -> Socket {
        Socket {
            raw: Raw(descriptor),
            session: None,
        }
    }

    /// Everything from here on goes over TLS; the client begins.
    ///
    /// # Errors
    /// When the settings make no session.
    ///
    /// # Panics
    /// When it was started before.
    pub fn start_tls(&mut self, config: Arc<ServerConfig>) -> Result<(), rustls::Error> {
        assert!(self.session.is_none(), "TLS is started once");
        self.session = Some(Box::new(Session::new(config)?));
        Ok(())
    }

    /// The same for whoever called a server of this name: we begin.
    ///
    /// # Errors
    /// When the settings make no session.
    ///
    /// # Panics
    /// When it was started before.
    pub fn start_tls_with(
        &mut self,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<(), rustls::Error> {
        assert!(self.session.is_none(), "TLS is started once");
        self.session = Some(Box::new(Session::with(config, name)?));
        Ok(())
    }

    /// Whether there may be more to read than the system knows of: nobody is to wait for the
    /// descriptor before it has been read.
    pub fn holds_input(&self) -> bool {
        self.session.as_ref().is_some_and(|one| one.holds_input())
    }

    /// Whether something waits to be sent of which no writer knows: parts of a handshake. It is
    /// sent by reading when the descriptor is writable.
    pub fn owes(&self) -> bool {
        self.session.as_ref().is_some_and(|one| one.wants_write())
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Some(session) = &mut self.session {
            session.close(&mut self.raw);
        }
    }
}

impl Read for Socket {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match &mut self.session {
            None => self.raw.read(bytes),
            Some(session) => read_over(session, &mut self.raw, bytes),
        }
    }

    fn read_vectored(&mut self, pieces: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let Some(session) = &mut self.session else {
            return self.raw.read_vectored(pieces);
        };
        let mut sum = 0;
        for piece in pieces {
            match read_over(session, &mut self.raw, piece) {
                Ok(count) => {
                    sum += count;
                    if count < piece.len() {
                        break;
                    }
                }
                // What is here is taken first; the rest shows again at the next call.
                Err(_) if sum > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(sum)
    }
}

fn read_over(session: &mut Session, raw: &mut Raw, bytes: &mut [u8]) -> io::Result<usize> {
    match session.send(raw) {
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        _ => session.read(raw, bytes),
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.session {
            None => self.raw.write(bytes),
            Some(session) => session.write(&mut self.raw, &[IoSlice::new(bytes)]),
        }
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        match &mut self.session {
            None => self.raw.write_vectored(pieces),
            Some(session) => session.write(&mut self.raw, pieces),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The descriptor itself.
#[derive(Debug)]
struct Raw(OwnedFd);

fn retried<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(rustix::io::Errno::INTR) => continue,
            result => return result.map_err(io::Error::from),
        }
    }
}

const SEND: SendFlags = SendFlags::DONTWAIT.union(SendFlags::NOSIGNAL);

impl Read for Raw {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        retried(|| recv(&self.0, &mut *bytes, RecvFlags::DONTWAIT)).map(|(count, _)| count)
    }

    fn read_vectored(&mut self, pieces: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        retried(|| {
            let mut nothing = RecvAncillaryBuffer::default();
            recvmsg(&self.0, pieces, &mut nothing, RecvFlags::DONTWAIT)
        })
        .map(|message| message.bytes)
    }
}

impl Write for Raw {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        retried(|| send(&self.0, bytes, SEND))
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        retried(|| {
            let mut nothing = SendAncillaryBuffer::default();
            sendmsg(&self.0, pieces, &mut nothing, SEND)
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
