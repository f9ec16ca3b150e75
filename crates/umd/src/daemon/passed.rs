//! Sockets that the service manager listens at and hands to us: they stay open when we are gone.
//!
//! ```text
//!   systemd: bind, listen --LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES, descriptors 3..--> daemon
//!                |                                                                       |
//!                |  killed, restarted, upgraded: who connects meanwhile waits <----------+
//!                +--the same descriptors--> next daemon: answers who waited
//! ```
//!
//! A socket named `control`, or bound to the path of the control socket, is the control socket.
//! Every other one is a door for NBD clients. Doors that an earlier daemon had opened itself, and
//! asked the service manager to keep (`fdstore`), come back under names of their own.

use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixListener;
use std::path::Path;

use listenfd::ListenFd;
use rustix::net::sockopt::socket_acceptconn;
use umd_export::nbd::{Address, Listener};

use super::fdstore;
use crate::cli::outcome::Failure;

/// The name that makes a socket the control socket (`FileDescriptorName=`).
const CONTROL: &str = "control";

/// What was handed to us; mostly nothing.
#[derive(Debug, Default)]
pub struct Passed {
    /// The control socket.
    pub control: Option<UnixListener>,
    /// Doors for NBD clients.
    pub doors: Vec<Listener>,
    /// Doors that an earlier daemon had opened: open again where one is asked for.
    pub stored: Vec<Listener>,
}

/// Takes what is meant for this process. To be called before there are threads: it changes the
/// environment.
///
/// # Errors
/// When something else than listening stream sockets was passed.
pub fn take(control: &Path) -> Result<Passed, Failure> {
    let mut passed = Passed::default();
    let ours = std::process::id().to_string();
    if std::env::var("LISTEN_PID").ok().as_deref() != Some(ours.as_str()) {
        return Ok(passed); // Nothing, or meant for whoever started us.
    }
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let names: Vec<&str> = names.split(':').collect();
    let mut descriptors = ListenFd::from_env();
    for number in 0..descriptors.len() {
        let name = names.get(number).copied().unwrap_or_default();
        let wrong = |why: String| {
            let number = number + 3;
            Failure::failed(format!(
                "descriptor {number} ({name}) from the service manager is of no use here: {why}; \
                 pass listening stream sockets only"
            ))
        };
        let failed = |error: std::io::Error| wrong(error.to_string());
        if name.starts_with(fdstore::PREFIX) {
            passed.stored.extend(stored(&mut descriptors, number));
            continue;
        }
        if let Ok(Some(socket)) = descriptors.take_unix_listener(number) {
            listens(&socket).map_err(wrong)?;
            let bound = socket.local_addr().map_err(failed)?;
            if name == CONTROL || bound.as_pathname() == Some(control) {
                if passed.control.replace(socket).is_some() {
                    return Err(wrong("there is a control socket already".into()));
                }
            } else {
                passed
                    .doors
                    .push(Listener::of_unix(socket).map_err(failed)?);
            }
            continue;
        }
        match descriptors.take_tcp_listener(number) {
            Ok(Some(_)) if name == CONTROL => {
                return Err(wrong("the control socket is a Unix socket".into()));
            }
            Ok(Some(socket)) => {
                listens(&socket).map_err(wrong)?;
                passed.doors.push(Listener::of_tcp(socket).map_err(failed)?);
            }
            _ => return Err(wrong("it is no stream socket".into())),
        }
    }
    Ok(passed)
}

/// A door that was kept for us. One that is of no use is closed: what is asked for is opened anew.
fn stored(descriptors: &mut ListenFd, number: usize) -> Option<Listener> {
    if let Ok(Some(socket)) = descriptors.take_unix_listener(number) {
        listens(&socket).ok()?;
        let door = Listener::of_unix(socket).ok()?;
        // Who has only the path has to find it there.
        let Address::Unix(path) = door.address() else {
            return None;
        };
        let there = std::fs::symlink_metadata(path).ok()?;
        return there.file_type().is_socket().then_some(door);
    }
    let socket = descriptors.take_tcp_listener(number).ok()??;
    listens(&socket).ok()?;
    Listener::of_tcp(socket).ok()
}

fn listens(socket: impl AsFd) -> Result<(), String> {
    match socket_acceptconn(socket) {
        Ok(true) => Ok(()),
        _ => Err("it does not listen".into()),
    }
}
