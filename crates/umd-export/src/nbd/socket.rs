//! A stream socket that never blocks and never raises SIGPIPE, whatever its descriptor is set to.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::sockopt::set_socket_keepalive;
use rustix::net::{
    RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendFlags, recv, recvmsg, send, sendmsg,
};

/// A connected stream socket, Unix or TCP. Every call returns at once, with
/// [`io::ErrorKind::WouldBlock`] when there is nothing to do.
#[derive(Debug)]
pub struct Socket(OwnedFd);

impl From<UnixStream> for Socket {
    fn from(stream: UnixStream) -> Socket {
        Socket(stream.into())
    }
}

impl From<TcpStream> for Socket {
    /// Turns delayed sending off, for replies are sent in batches of our own making, and has the
    /// system look after peers that vanished without a word.
    fn from(stream: TcpStream) -> Socket {
        // Nothing is wrong without them, only slower and longer.
        let _ = stream.set_nodelay(true);
        let _ = set_socket_keepalive(&stream, true);
        Socket(stream.into())
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn retried<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(rustix::io::Errno::INTR) => continue,
            result => return result.map_err(io::Error::from),
        }
    }
}

const SEND: SendFlags = SendFlags::DONTWAIT.union(SendFlags::NOSIGNAL);

impl Read for Socket {
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

impl Write for Socket {
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
