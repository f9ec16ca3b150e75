//! Doors besides the control socket: which are to be open, with which keys, and opening them.
//!
//! ```text
//!   command line ----- must be opened --------------------+
//!   the daemon that was killed (`memory`) -- if they can --+--> Listener --> Listening (a thread)
//!   the service manager (`passed`) -- bound already -------+        TCP: with TLS, or of this
//!   DIR/nbd.sock -------------------------------------------+        machine only
//!
//!   opened by an earlier daemon and kept for us (`fdstore`): instead of binding, where asked for
//! ```

use std::path::PathBuf;
use std::sync::Arc;

use rustls::ServerConfig;
use serde::{Deserialize, Serialize};
use umd_export::nbd::{Address, ListenError, Listener, listen, listen_here};

use super::fdstore;
use super::household::Household;
use super::listener::{Listening, open_door};
use super::memory::Memory;
use super::remote::{self, Remote};
use super::tls::TlsOptions;
use crate::cli::outcome::{Failure, say};

/// Doors as a command line asks for them; paths are absolute.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DoorOptions {
    /// For NBD clients.
    pub nbd: Vec<String>,
    /// For the control API, over TCP.
    #[serde(default)]
    pub listen: Vec<String>,
    /// What TCP is encrypted with.
    #[serde(default)]
    pub tls: Option<TlsOptions>,
    /// Where the token of the control API is.
    #[serde(default)]
    pub token_file: Option<PathBuf>,
}

/// What doors need, read and found good before anything listens.
#[derive(Debug, Default)]
pub struct Keys {
    /// Of NBD doors over TCP.
    nbd: Option<Arc<ServerConfig>>,
    control: Option<(Arc<ServerConfig>, bool)>,
    token: Option<Arc<str>>,
}

impl Keys {
    /// Reads them.
    ///
    /// # Errors
    /// When a file is missing or of no use, or anybody could come in.
    pub fn of(doors: &DoorOptions) -> Result<Keys, Failure> {
        let tls = doors.tls.as_ref();
        let control = tls.filter(|_| !doors.listen.is_empty());
        let keys = Keys {
            nbd: tls.map(TlsOptions::nbd).transpose()?,
            control: control.map(TlsOptions::control).transpose()?,
            token: doors.token_file.as_deref().map(remote::token).transpose()?,
        };
        let by_certificate = keys.control.as_ref().map(|(_, certificate)| *certificate);
        if !doors.listen.is_empty() && keys.token.is_none() && by_certificate != Some(true) {
            return Err(Failure::usage(match by_certificate {
                Some(_) => {
                    "nobody could control this daemon over TCP: put control-ca-cert.pem into the \
                     directory of --tls, or give --token-file FILE"
                }
                None => {
                    "whoever connects could control this daemon: give --token-file FILE, or --tls \
                     DIR with control-ca-cert.pem in it"
                }
            }));
        }
        Ok(keys)
    }

    /// Listens there, unless somebody did so for us.
    fn listen(&self, address: &Address, stored: &mut Vec<Listener>) -> Result<Ready, Failure> {
        if let Some(at) = stored.iter().position(|one| one.answers(address)) {
            let door = stored.swap_remove(at).kept_as(address);
            return Ok(heard_by_nobody(vec![door], self)?.remove(0));
        }
        let listener = match self.nbd {
            Some(_) => listen(address),
            None => listen_here(address),
        };
        let listener = listener.map_err(listen_failure)?;
        let listener = match fdstore::keep(&listener) {
            true => listener.kept_as(address),
            false => listener,
        };
        Ok(self.with(listener))
    }

    /// Unix sockets have no TLS: who may open them their permissions say, and nobody listens in.
    fn with(&self, listener: Listener) -> Ready {
        let tcp = matches!(listener.address(), Address::Tcp { .. });
        let tls = self.nbd.clone().filter(|_| tcp);
        (listener, tls)
    }

    /// Listens for clients of the control API.
    ///
    /// # Errors
    /// When an address is none, is taken, or would be heard by others.
    pub fn remote(&self, doors: &DoorOptions) -> Result<Remote, Failure> {
        let config = self.control.as_ref().map(|(config, _)| config.clone());
        Remote::listen(&doors.listen, config, self.token.clone())
    }
}

/// A listener, and what is spoken there.
pub type Ready = (Listener, Option<Arc<ServerConfig>>);

/// What a daemon that was killed had open, and the keys it takes to open that again.
#[derive(Debug)]
pub struct Left {
    /// What it was asked for.
    pub doors: DoorOptions,
    keys: Option<Keys>,
}

impl Left {
    /// What is remembered. Who is `asked` for TLS uses the keys of today.
    pub fn by(memory: &Memory, asked: &DoorOptions) -> Left {
        let mut doors = memory.doors();
        doors.tls = asked.tls.clone().or(doors.tls);
        doors.token_file = asked.token_file.clone().or(doors.token_file);
        doors.listen.retain(|one| !asked.listen.contains(one));
        let keys = Keys::of(&doors).inspect_err(lost).ok();
        Left { doors, keys }
    }

    /// Listens for clients of the control API: where it was asked for, and where there was one.
    ///
    /// # Errors
    /// When what was asked for cannot be had.
    pub fn remotes(&self, asked: &DoorOptions, keys: &Keys) -> Result<Vec<Remote>, Failure> {
        let again = self.keys.as_ref().map(|keys| keys.remote(&self.doors));
        let again = again.and_then(|again| again.inspect_err(lost).ok());
        // A port of the system's choice was chosen already, as for NBD.
        let host = |text: &str| text.rsplit_once(':').map(|(host, _)| host.to_owned());
        let chosen = |one: &String| {
            let mut before = self.doors.listen.iter();
            one.ends_with(":0") && before.any(|before| host(before) == host(one))
        };
        let mut asked = asked.clone();
        asked.listen.retain(|one| !chosen(one));
        Ok([keys.remote(&asked)?].into_iter().chain(again).collect())
    }
}

fn lost(failure: &Failure) {
    say(&format!(
        "clients of the daemon that was killed do not find this one: {}",
        failure.text
    ));
}

/// All NBD doors of a daemon; the one in the runtime directory is the first. What was passed to us
/// is taken as it is, the rest is bound; what the last daemon left only if it can be.
///
/// # Errors
/// When one that was asked for cannot be had.
pub fn listeners(
    own: Address,
    asked: &[Address],
    left: &Left,
    keys: &Keys,
    (passed, mut stored): (Vec<Listener>, Vec<Listener>),
) -> Result<Vec<Ready>, Failure> {
    let before: Vec<Address> = left
        .doors
        .nbd
        .iter()
        .flat_map(|text| text.parse())
        .collect();
    let mut wanted = vec![own.clone()];
    // A port of the system's choice was chosen already when clients are to find it again.
    let asked = asked.iter().filter(|one| !chosen_before(one, &before));
    wanted.extend(asked.cloned());
    let is_passed = |address: &Address| passed.iter().any(|one| one.address() == address);
    let mut ready = Vec::new();
    for address in wanted.iter().filter(|address| !is_passed(address)) {
        ready.push(keys.listen(address, &mut stored)?);
    }
    let again = before
        .iter()
        .filter(|one| !wanted.contains(one) && !is_passed(one));
    for address in again {
        let keys = left.keys.as_ref();
        let listener = keys.map(|keys| keys.listen(address, &mut stored));
        ready.extend(listener.and_then(|one| one.inspect_err(lost).ok()));
    }
    ready.extend(heard_by_nobody(passed, keys)?);
    close(stored);
    ready.sort_by_key(|(listener, _)| *listener.address() != own);
    Ok(ready)
}

/// The doors of `umd serve`: where it was asked for, what was passed, and `own` if that is nothing.
///
/// # Errors
/// When one cannot be had, or there is none.
pub fn listeners_of_one(
    own: Option<Address>,
    asked: &[Address],
    keys: &Keys,
    (passed, mut stored): (Vec<Listener>, Vec<Listener>),
) -> Result<Vec<Ready>, Failure> {
    let own = own.filter(|_| asked.is_empty() && passed.is_empty());
    let mut ready = heard_by_nobody(passed, keys)?;
    for address in asked.iter().chain(&own) {
        if !ready.iter().any(|(passed, _)| passed.address() == address) {
            ready.push(keys.listen(address, &mut stored)?);
        }
    }
    close(stored);
    if ready.is_empty() {
        return Err(Failure::failed(
            "nowhere to serve: give --nbd unix:PATH or tcp:HOST:PORT",
        ));
    }
    Ok(ready)
}

/// Doors that were kept for us and nobody asks for any more.
fn close(stored: Vec<Listener>) {
    for door in stored {
        if let Err(error) = fdstore::forget(&door) {
            say(&format!("{} is open still: {error}", door.address()));
        }
    }
}

/// Others have bound these: that nobody hears what goes over them is looked at here.
fn heard_by_nobody(passed: Vec<Listener>, keys: &Keys) -> Result<Vec<Ready>, Failure> {
    let open = passed.iter().find(|one| !one.is_of_this_machine());
    match open.filter(|_| keys.nbd.is_none()) {
        Some(open) => {
            let address = open.address().clone();
            Err(listen_failure(ListenError::NotEncrypted(address)))
        }
        None => Ok(passed.into_iter().map(|one| keys.with(one)).collect()),
    }
}

fn chosen_before(address: &Address, left: &[Address]) -> bool {
    let Address::Tcp { host, port: 0 } = address else {
        return false;
    };
    left.iter()
        .any(|one| matches!(one, Address::Tcp { host: before, .. } if before == host))
}

/// Opens them: from here on clients are let in.
///
/// # Errors
/// When the system refuses.
pub fn open_doors(household: &Household, all: Vec<Ready>) -> Result<Vec<Listening>, Failure> {
    let mut doors = Vec::new();
    for (listener, tls) in all {
        let registry = household.registry.clone();
        let door = open_door(listener, tls, registry).map_err(listen_failure)?;
        let mut listed = household
            .nbd
            .lock()
            .expect("nobody panics while holding the list");
        listed.push(door.address().to_string());
        doors.push(door);
    }
    Ok(doors)
}

fn listen_failure(error: ListenError) -> Failure {
    // A sentence without the system's number for an error at its end.
    let text = error.to_string();
    let end = text.find(" (os error").unwrap_or(text.len());
    Failure::failed(&text[..end])
}

/// The union, with the keys and the token of the first one if it has any.
pub fn both(asked: &DoorOptions, left: &DoorOptions) -> DoorOptions {
    let union = |mut all: Vec<String>, more: &[String]| {
        let more = more.iter().filter(|one| !all.contains(one)).cloned();
        let more: Vec<String> = more.collect();
        all.extend(more);
        all
    };
    DoorOptions {
        nbd: union(asked.nbd.clone(), &left.nbd),
        listen: union(asked.listen.clone(), &left.listen),
        tls: asked.tls.clone().or_else(|| left.tls.clone()),
        token_file: asked.token_file.clone().or_else(|| left.token_file.clone()),
    }
}
