//! Doors that outlive us although we opened them: the service manager keeps a copy of each
//! listening socket, and hands it to the next daemon.
//!
//! ```text
//!   bind, listen --FDSTORE=1, FDNAME=umd-nbd@ADDRESS, socket--> systemd: FileDescriptorStoreMax
//!        |                                                              |
//!        |   killed, restarted, upgraded: who connects meanwhile waits  |
//!        |                                                              v
//!   next daemon: asked for again? <--LISTEN_FDS, LISTEN_FDNAMES---------+
//!        yes: it is the door     no: closed, FDSTOREREMOVE=1
//! ```
//!
//! Only listening sockets are kept. What a connection is about is known to the process alone: who
//! is connected connects again.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use umd_export::nbd::{Address, Listener};

/// What the names of stored sockets begin with.
pub const PREFIX: &str = "umd-nbd@";
/// The longest name that systemd takes.
const NAME_BYTES_MAX: usize = 255;

/// The name of a door: systemd takes no colon and nothing that is not printed.
fn name_of(address: &Address) -> String {
    let plain = |c: char| match c {
        ' '..='~' if c != ':' => c,
        _ => '_',
    };
    let text: String = address.to_string().chars().map(plain).collect();
    let mut name = format!("{PREFIX}{text}");
    name.truncate(NAME_BYTES_MAX);
    name
}

/// Where systemd hears us, if it started us and keeps anything.
fn manager() -> Option<UnixDatagram> {
    let path = std::env::var_os("NOTIFY_SOCKET")?;
    // Newer ones tell how much they keep.
    if std::env::var_os("FDSTORE").is_some_and(|most| most == "0") {
        return None;
    }
    let address = match path.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&path),
    };
    let socket = UnixDatagram::unbound().ok()?;
    socket.connect_addr(&address.ok()?).ok()?;
    Some(socket)
}

/// Asks the service manager to keep this door; tells whether it was told. Then its path has to stay
/// when we go.
pub fn keep(door: &Listener) -> bool {
    let Some(manager) = manager() else {
        return false;
    };
    let text = format!("FDSTORE=1\nFDNAME={}\n", name_of(&door.bound()));
    let descriptors = [door.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut rights = SendAncillaryBuffer::new(&mut space);
    let room = rights.push(SendAncillaryMessage::ScmRights(&descriptors));
    assert!(room, "there is room for one descriptor");
    let text = [IoSlice::new(text.as_bytes())];
    sendmsg(&manager, &text, &mut rights, SendFlags::NOSIGNAL).is_ok()
}

/// A door that nobody asks for any more is not kept any longer.
///
/// # Errors
/// When the service manager cannot be told.
pub fn forget(door: &Listener) -> io::Result<()> {
    let Some(manager) = manager() else {
        return Ok(());
    };
    let text = format!("FDSTOREREMOVE=1\nFDNAME={}\n", name_of(&door.bound()));
    manager.send(text.as_bytes()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_such_as_systemd_takes() {
        let name = |text: &str| name_of(&text.parse().expect("an address"));
        assert_eq!(name("tcp:127.0.0.1:10809"), "umd-nbd@tcp_127.0.0.1_10809");
        assert_eq!(name("unix:/run/a\u{e4}:b"), "umd-nbd@unix_/run/a__b");
        let long = format!("unix:/{}", "x".repeat(400));
        assert_eq!(name(&long).len(), NAME_BYTES_MAX);
    }
}
