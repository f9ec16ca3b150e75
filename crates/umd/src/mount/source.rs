//! Where documents come from and changes go to: the daemon, and every `umd serve`.
//!
//! Documents are asked for anew at each look. The connections for that are kept; a change has one
//! of its own, as it may take long.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use crate::api::{
    ArraysDoc, DoneDoc, ErrorDoc, IncrementalDoc, IncrementalRequest, ManageRequest, ParametersDoc,
    ParametersRequest, StateRequest, StopRequest,
};
use crate::cli::outcome::say;
use crate::client::{Client, ClientError, quote};
use crate::doc::ArrayDoc;
use crate::runtime::Runtime;
use crate::sysfs::{Change, Errno};

/// The way to the arrays of a runtime directory.
pub struct Source {
    runtime: Runtime,
    clients: Mutex<BTreeMap<PathBuf, Client>>,
}

impl Source {
    /// Nobody is asked yet.
    pub fn new(runtime: Runtime) -> Source {
        Source {
            runtime,
            clients: Mutex::new(BTreeMap::new()),
        }
    }

    /// All arrays, the oldest first: the daemon's, then those of every `umd serve`.
    ///
    /// # Errors
    /// EIO, when somebody is there and is not understood.
    pub fn arrays(&self) -> Result<Vec<ArrayDoc>, Errno> {
        let control = [self.runtime.control()];
        let sockets: Vec<PathBuf> = control.into_iter().chain(self.runtime.served()).collect();
        // Connections are whole or dropped: whoever panicked left none half used.
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        clients.retain(|socket, _| sockets.contains(socket));
        let mut arrays = Vec::new();
        for socket in &sockets {
            let kept = clients.remove(socket);
            if let Some((client, found)) = ask(socket, kept).map_err(complain)? {
                clients.insert(socket.clone(), client);
                // What cannot be the name of a file is seen by other ways only.
                let fit = |array: &ArrayDoc| !array.name.contains('/');
                arrays.extend(found.arrays.into_iter().filter(fit));
            }
        }
        Ok(arrays)
    }

    /// One array.
    ///
    /// # Errors
    /// ENODEV when it does not run.
    pub fn array(&self, name: &str) -> Result<ArrayDoc, Errno> {
        let arrays = self.arrays()?;
        let mut named = arrays.into_iter().filter(|array| array.name == name);
        named.next().ok_or(Errno::NODEV)
    }

    /// Carries a change out.
    ///
    /// # Errors
    /// The errno for the refusal; its sentence goes to stderr.
    pub fn apply(&self, name: &str, change: &Change) -> Result<(), Errno> {
        match change {
            Change::Nothing => Ok(()),
            Change::Stop => self.post(name, "stop", &StopRequest::default()),
            Change::State(state) => {
                let state = state.clone();
                self.post(name, "state", &StateRequest { state })
            }
            Change::Settings(request) => self.post(name, "settings", request),
            Change::Action(request) => self.post(name, "action", request),
            Change::Bitmap(request) => self.post(name, "bitmap", request),
            Change::Layout(request) => self.post(name, "layout", request),
            Change::NewDevice(device) => self.take_in(name, &path_of(device)?),
            Change::Manage(requests) => {
                let mut requests = requests.iter();
                requests.try_for_each(|request| self.post(name, "manage", request))
            }
        }
    }

    /// One that runs gets a spare, as from `umd manage --add`; one that does not gets one more of
    /// its members, as from `umd incremental`.
    fn take_in(&self, name: &str, device: &str) -> Result<(), Errno> {
        let array = self.array(name)?;
        if array.members.iter().any(|member| member.path == device) {
            return Err(Errno::EXIST);
        }
        if array.array_state == "inactive" {
            let request = IncrementalRequest {
                device: device.to_owned(),
                name: Some(name.to_owned()),
                run: false,
                bad_block_log: None,
            };
            let mut client = self.daemon()?.ok_or(Errno::NODEV)?;
            let answer = client.post::<_, IncrementalDoc>("/v1/incremental", &request);
            return answer.map(drop).map_err(complain);
        }
        let request = ManageRequest {
            operation: "add".to_owned(),
            device: device.to_owned(),
            with: None,
            write_mostly: None,
            failfast: None,
            force: false,
            bad_block_log: None,
        };
        self.post(name, "manage", &request)
    }

    fn daemon(&self) -> Result<Option<Client>, Errno> {
        Client::connect(&self.runtime.control()).map_err(complain)
    }

    /// What holds for all arrays of the daemon; `None` when there is none.
    ///
    /// # Errors
    /// EIO, when it is not understood.
    pub fn parameters(&self) -> Result<Option<ParametersDoc>, Errno> {
        let client = self.daemon()?;
        let asked = client.map(|mut client| client.get("/v1/parameters"));
        asked.transpose().map_err(complain)
    }

    /// Changes that.
    ///
    /// # Errors
    /// ENODEV when there is no daemon.
    pub fn set_parameters(&self, request: &ParametersRequest) -> Result<(), Errno> {
        let mut client = self.daemon()?.ok_or(Errno::NODEV)?;
        let answer = client.post::<_, ParametersDoc>("/v1/parameters", request);
        answer.map(drop).map_err(complain)
    }

    fn post(&self, name: &str, operation: &str, body: &impl Serialize) -> Result<(), Errno> {
        let own = Client::connect(&self.runtime.serve_control(name)).map_err(complain)?;
        let client = match own {
            Some(client) => Some(client),
            None => Client::connect(&self.runtime.control()).map_err(complain)?,
        };
        let path = format!("/v1/arrays/{}/{operation}", quote(name));
        let answer = client.ok_or(Errno::NODEV)?.post::<_, DoneDoc>(&path, body);
        answer.map(drop).map_err(complain)
    }
}

/// Where a device is that was named by its numbers.
fn path_of(device: &str) -> Result<String, Errno> {
    let path = match device.contains(':') && !device.starts_with('/') {
        true => Path::new("/dev/block").join(device),
        false => PathBuf::from(device),
    };
    let path = path.canonicalize().map_err(|_| Errno::NXIO)?;
    path.to_str().map(str::to_owned).ok_or(Errno::INVAL)
}

/// What runs behind a socket; `None` when nobody listens there.
fn ask(socket: &Path, kept: Option<Client>) -> Result<Option<(Client, ArraysDoc)>, ClientError> {
    if let Some(mut client) = kept {
        // A connection that has ended meanwhile says nothing about who listens now.
        if let Ok(found) = client.get("/v1/arrays") {
            return Ok(Some((client, found)));
        }
    }
    let Some(mut client) = Client::connect(socket)? else {
        return Ok(None);
    };
    match client.get("/v1/arrays") {
        Err(ClientError::Gone(_)) => Ok(None),
        Err(error) => Err(error),
        Ok(found) => Ok(Some((client, found))),
    }
}

/// A file can only fail with a number; the sentence is for whoever runs `umd mount`.
fn complain(error: ClientError) -> Errno {
    say(&error.to_string());
    match error {
        ClientError::Refused(refused) => errno(&refused),
        ClientError::Gone(_) => Errno::NODEV,
        ClientError::OtherVersion { .. } | ClientError::Io { .. } => Errno::IO,
    }
}

/// md's error for a refusal: nonsense, or not now.
fn errno(refused: &ErrorDoc) -> Errno {
    match refused.exit_code {
        _ if refused.not_found => Errno::NODEV,
        2 => Errno::INVAL,
        _ => Errno::BUSY,
    }
}
