//! Who stands at the door, and what it takes to let them in.
//!
//! ```text
//!   GO, EXPORT_NAME --Exports::open--> Opening::Open -----------------> Transmission with its Pass
//!                                 \--> Opening::Waits --(look again)--> Open, or refused
//!                                  \-> Opening::Refused
//! ```
//!
//! A [`Pass`] is whatever the owner of the exports wants to be kept for as long as the client has
//! the export open. It goes from the negotiation to the connection and is dropped with it,
//! whichever way that ends: no way of leaving is forgotten.

use std::any::Any;
use std::fmt;
use std::net::SocketAddr;
use std::os::fd::AsFd;

use rustix::net::getpeername;
use rustix::net::sockopt::socket_peercred;

use super::export::ExportInfo;

/// Who is at the other end, as far as the system tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Peer {
    /// A process on this machine.
    Process {
        /// Its number when it connected.
        pid: u32,
        /// Its user.
        uid: u32,
    },
    /// A host.
    Host(SocketAddr),
    /// The system does not say: a process of another container, say.
    #[default]
    Unknown,
}

impl Peer {
    /// Who is at the other end of a socket.
    pub fn of(socket: impl AsFd) -> Peer {
        let address = getpeername(&socket).ok().flatten();
        match address.and_then(|any| SocketAddr::try_from(any).ok()) {
            Some(address) => Peer::Host(address),
            // No address of a network: a Unix socket.
            None => match socket_peercred(&socket) {
                Ok(process) => Peer::Process {
                    pid: u32::try_from(process.pid.as_raw_nonzero().get()).unwrap_or(0),
                    uid: process.uid.as_raw(),
                },
                Err(_) => Peer::Unknown,
            },
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Process { pid, uid } => write!(f, "process {pid} of user {uid}"),
            Peer::Host(address) => write!(f, "{address}"),
            Peer::Unknown => f.write_str("somebody"),
        }
    }
}

/// Kept for as long as a client has an export open, and dropped then.
pub type Pass = Box<dyn Any + Send>;

/// An export that was opened.
#[derive(Debug)]
pub struct Opened {
    /// What the client is told about it.
    pub info: ExportInfo,
    /// What is dropped when the client is gone; `None` when nobody counts.
    pub pass: Option<Pass>,
}

/// The export cannot be had now, and may be soon.
pub trait Waiting: Send + fmt::Debug {
    /// Looks again: `None` as long as there is no answer, then the export, or that there is none.
    /// Dropped without an answer, it is given up.
    fn look(&mut self) -> Option<Option<Opened>>;
}

/// What opening an export came to.
#[derive(Debug)]
pub enum Opening {
    /// It is open.
    Open(Box<Opened>),
    /// Look again.
    Waits(Box<dyn Waiting>),
    /// There is no such export.
    Refused,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;

    #[test]
    fn peers_are_known_by_process_or_address() {
        let (one, _other) = UnixStream::pair().unwrap();
        let uid = rustix::process::geteuid().as_raw();
        let pid = std::process::id();
        assert_eq!(Peer::of(&one), Peer::Process { pid, uid });
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        assert_eq!(Peer::of(&server), Peer::Host(client.local_addr().unwrap()));
    }
}
