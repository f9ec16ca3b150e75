//! Finding whoever runs an array: an `umd serve` of that name, or the daemon; and starting the
//! daemon when it is not there.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::outcome::{Failure, say};
use crate::api::{ArraysDoc, ErrorDoc};
use crate::client::{Client, ClientError, quote};
use crate::daemon::household::find_in;
use crate::daemon::memory::Memory;
use crate::doc::{ArrayDoc, MemberDoc};
use crate::runtime::Runtime;

/// How long a daemon that leaves and comes back is tried.
const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(20);

/// The way to the arrays of a runtime directory.
#[derive(Debug, Clone)]
pub struct Reach {
    /// The directory.
    pub runtime: Runtime,
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        match error {
            ClientError::Refused(refused) => from_doc(&refused),
            other => Failure::failed(other.to_string()),
        }
    }
}

/// The failure a daemon's refusal is: its messages first, one line each.
pub fn from_doc(error: &ErrorDoc) -> Failure {
    let mut lines = error.messages.clone();
    lines.push(error.error.clone());
    Failure {
        code: error.exit_code,
        text: lines.join("\n"),
    }
}

impl Reach {
    /// The way to the arrays of this directory (or the default one).
    ///
    /// # Errors
    /// When there can be no sockets in it.
    pub fn new(given: Option<&Path>) -> Result<Reach, Failure> {
        let runtime = Runtime::at(given).map_err(|error| Failure::failed(error.to_string()))?;
        Ok(Reach { runtime })
    }

    /// Whoever runs the array of this name, if anybody does.
    ///
    /// # Errors
    /// When somebody is there and is not understood.
    pub fn find(&self, name: &str) -> Result<Option<Client>, Failure> {
        if let Some(client) = Client::connect(&self.runtime.serve_control(name))? {
            return Ok(Some(client));
        }
        self.running_daemon()
    }

    /// The daemon, if it runs. One that was killed while it had arrays is started again: it goes
    /// on with them.
    ///
    /// # Errors
    /// When somebody is there and is not understood.
    pub fn running_daemon(&self) -> Result<Option<Client>, Failure> {
        self.revive_without(&[])?;
        Ok(Client::connect(&self.runtime.control())?)
    }

    /// Starts a daemon that was killed while it had arrays again, with those that have none of
    /// these devices. Otherwise does nothing.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn revive_without(&self, devices: &[String]) -> Result<(), Failure> {
        if !Memory::at(&self.runtime.arrays()).orphans()
            || Client::connect(&self.runtime.control())?.is_some()
        {
            return Ok(());
        }
        say("the daemon was killed; it is started again, with the arrays it ran");
        self.daemon_without(devices).map(drop)
    }

    /// Whoever runs the array of this name.
    ///
    /// # Errors
    /// When nobody does.
    pub fn require(&self, name: &str) -> Result<Client, Failure> {
        self.find(name)?.ok_or_else(|| no_such_array(name))
    }

    /// The document of an array.
    ///
    /// # Errors
    /// When it does not run.
    pub fn detail(&self, name: &str) -> Result<ArrayDoc, Failure> {
        let mut client = self.require(name)?;
        Ok(client.get(&format!("/v1/arrays/{}", quote(name)))?)
    }

    /// All arrays: the daemon's, then those of every `umd serve`.
    ///
    /// # Errors
    /// When somebody is there and is not understood.
    pub fn all(&self) -> Result<Vec<ArrayDoc>, Failure> {
        let mut arrays = Vec::new();
        let mut clients: Vec<Client> = self.running_daemon()?.into_iter().collect();
        for socket in self.runtime.served() {
            clients.extend(Client::connect(&socket)?);
        }
        for mut client in clients {
            let found: ArraysDoc = client.get("/v1/arrays")?;
            arrays.extend(found.arrays);
        }
        Ok(arrays)
    }

    /// A POST about one array.
    ///
    /// # Errors
    /// When nobody runs it, or it is refused.
    pub fn post<B: Serialize, T: DeserializeOwned>(
        &self,
        name: &str,
        operation: &str,
        body: &B,
    ) -> Result<T, Failure> {
        let mut client = self.require(name)?;
        let path = format!("/v1/arrays/{}/{operation}", quote(name));
        let answer = client.post(&path, body).map_err(Failure::from);
        answer.map_err(|failure| self.name_holder(failure))
    }

    /// A POST to the daemon, which is started when it is not there. A daemon that leaves just now
    /// has done nothing yet, so the next one is asked.
    ///
    /// # Errors
    /// When no daemon comes up, or it refuses.
    pub fn post_to_daemon<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T, Failure> {
        let start = Instant::now();
        loop {
            let mut client = self.daemon()?;
            match client.post(path, body) {
                Err(ClientError::Gone(_)) if start.elapsed() < PATIENCE => {}
                other => {
                    let answer = other.map_err(Failure::from);
                    return answer.map_err(|failure| self.name_holder(failure));
                }
            }
        }
    }

    /// The running array that has this device, and the member it is there.
    pub fn holder_of(&self, device: &str) -> Option<(ArrayDoc, MemberDoc)> {
        let arrays = self.all().ok()?; // Who cannot be asked cannot be named.
        arrays.into_iter().find_map(|array| {
            let member = find_in(&array, device)?.clone();
            Some((array, member))
        })
    }

    /// A failure that says which process uses a device says which array, where it is one of ours.
    pub fn name_holder(&self, mut failure: Failure) -> Failure {
        let Some((before, last)) = split_last_line(&failure.text) else {
            return failure;
        };
        let Some((device, _)) = last.split_once(": in use by ") else {
            return failure;
        };
        if let Some((array, _)) = self.holder_of(device) {
            failure.text = format!("{before}{device} is in use by array {}", array.name);
        }
        failure
    }

    /// The daemon, started when it is not there.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn daemon(&self) -> Result<Client, Failure> {
        self.daemon_without(&[])
    }

    fn daemon_without(&self, devices: &[String]) -> Result<Client, Failure> {
        let start = Instant::now();
        loop {
            if let Some(client) = Client::connect(&self.runtime.control())? {
                return Ok(client);
            }
            if start.elapsed() > PATIENCE {
                let dir = self.runtime.dir().display();
                return Err(Failure::failed(format!("no daemon comes up in {dir}")));
            }
            self.runtime
                .make()
                .map_err(|error| Failure::failed(error.to_string()))?;
            self.spawn_daemon(devices)?;
            std::thread::sleep(PAUSE);
        }
    }

    /// Starts a daemon and waits until it (or another one that was faster) is ready.
    fn spawn_daemon(&self, without: &[String]) -> Result<(), Failure> {
        let failed =
            |error: std::io::Error| Failure::failed(format!("cannot start the daemon: {error}"));
        let program = std::env::current_exe().map_err(failed)?;
        let mut child = Command::new(program)
            .arg("daemon")
            .args(["--linger", "--report-ready", "--runtime-dir"])
            .arg(self.runtime.dir())
            .args(without.iter().map(|device| format!("--leave={device}")))
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let mut said = String::new();
        let out = child.stdout.take().expect("its stdout is a pipe");
        out.take(64).read_to_string(&mut said).map_err(failed)?;
        if said.starts_with("ready") {
            return Ok(()); // It goes on by itself, or has found another daemon at work.
        }
        let status = child.wait().map_err(failed)?;
        // It has said on stderr why.
        Err(Failure::silent(
            status
                .code()
                .and_then(|code| u8::try_from(code).ok())
                .unwrap_or(1),
        ))
    }
}

/// The last line, which is the failure itself, and the messages before it.
fn split_last_line(text: &str) -> Option<(&str, &str)> {
    let start = text.rfind('\n').map_or(0, |at| at + 1);
    (!text.is_empty()).then(|| text.split_at(start))
}

/// What mdadm says of a name that stands for nothing.
pub fn no_such_array(name: &str) -> Failure {
    Failure::failed(format!("{name} does not appear to be an active array"))
}
