//! Fencing by a command: power switches, hypervisors, whatever has a fence agent.
//!
//! ```text
//!   stdin    action=off, port=HOST, plug=HOST, nodename=HOST, the options: one key=value a line
//!   exit 0   the proof                      anything else, or too late: none
//!   output   kept for the message
//! ```
//!
//! That is how fence agents are called, so any of them fits.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use umd_core::cluster::{FenceProof, ProofKind};

use super::{Fencer, NotFenced, Target, Wanted};

/// How much of a command's output is read.
const OUTPUT_BYTES_MAX: u64 = 64 << 10;

/// A command that fences.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// The program.
    pub program: PathBuf,
    /// What it is told besides: address, user, ...
    pub options: Vec<(String, String)>,
    /// What the command calls hosts, where that is not their name.
    pub plugs: BTreeMap<String, String>,
    /// This host: it is not to switch itself off.
    pub own_host: String,
    /// How long it may take.
    pub timeout: Duration,
}

impl Command {
    fn input(&self, host: &str) -> Result<String, NotFenced> {
        let plug = self.plugs.get(host).map_or(host, String::as_str);
        let mut all = vec![
            ("action", "off"),
            ("port", plug),
            ("plug", plug),
            ("nodename", host),
        ];
        let options = self.options.iter();
        all.extend(options.map(|(key, value)| (key.as_str(), value.as_str())));
        let mut input = String::new();
        for (key, value) in all {
            if key.is_empty() || key.contains(['=', '\n']) || value.contains('\n') {
                return Err(NotFenced(format!(
                    "{} cannot be told {key:?}: an option is one line",
                    self.program.display()
                )));
            }
            input.push_str(&format!("{key}={value}\n"));
        }
        Ok(input)
    }

    fn run(&self, input: &str, wanted: &Wanted<'_>) -> Result<(), String> {
        let mut child = std::process::Command::new(&self.program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // What it starts ends with it.
            .process_group(0)
            .spawn()
            .map_err(|error| format!("cannot be started: {error}"))?;
        let mut stdin = child.stdin.take().expect("piped");
        let input = input.to_owned();
        // Whoever reads nothing gets nothing.
        thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
        let outputs = [
            keep(child.stdout.take().expect("piped")),
            keep(child.stderr.take().expect("piped")),
        ];
        let status = self.wait(&mut child, wanted);
        let text = outputs.map(|receiver| {
            // What it left behind may hold its output open: that is not waited for.
            let output = receiver.recv_timeout(Duration::from_secs(1));
            String::from_utf8_lossy(&output.unwrap_or_default()).into_owned()
        });
        let text = text.concat();
        let said = match text.trim() {
            "" => "it said nothing".to_owned(),
            text => format!("it said: {}", text.replace('\n', " / ")),
        };
        match status? {
            status if status.success() => Ok(()),
            status => Err(format!("ended with {status}; {said}")),
        }
    }

    fn wait(
        &self,
        child: &mut Child,
        wanted: &Wanted<'_>,
    ) -> Result<std::process::ExitStatus, String> {
        let begin = Instant::now();
        let why = loop {
            match child.try_wait() {
                Ok(Some(status)) => return Ok(status),
                Ok(None) if !wanted() => {
                    break "was killed: nobody waits for its answer any more".to_owned();
                }
                Ok(None) if begin.elapsed() < self.timeout => {
                    thread::sleep(Duration::from_millis(10));
                }
                Ok(None) => {
                    let seconds = self.timeout.as_secs_f32();
                    break format!("did not end in {seconds} s and was killed");
                }
                Err(error) => return Err(format!("cannot be waited for: {error}")),
            }
        };
        let id = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let _ = kill_process_group(id.expect("a process has an id"), Signal::KILL);
        let _ = child.wait();
        Err(why)
    }
}

/// Reads an output in a thread of its own.
fn keep(output: impl Read + Send + 'static) -> std::sync::mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let mut kept = Vec::new();
        let mut output = output.take(OUTPUT_BYTES_MAX);
        let _ = output.read_to_end(&mut kept);
        // The rest is read, too, so that the command is not held up by us.
        let _ = std::io::copy(&mut output.into_inner(), &mut std::io::sink());
        let _ = sender.send(kept);
    });
    receiver
}

impl Fencer for Command {
    fn fence(&self, target: &Target, wanted: &Wanted<'_>) -> Result<FenceProof, NotFenced> {
        let program = self.program.display();
        let Some(host) = target.host() else {
            return Err(NotFenced(format!(
                "{program} was not asked: nobody remembers on which host it ran"
            )));
        };
        if host == self.own_host {
            return Err(NotFenced(format!(
                "{program} was not asked: it ran on this very host, which would switch itself off"
            )));
        }
        let input = self.input(host)?;
        let ran = self.run(&input, wanted);
        ran.map_err(|why| NotFenced(format!("{program} {why}")))?;
        Ok(FenceProof {
            peer: target.peer,
            kind: ProofKind::Command,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::{Mutex, MutexGuard, PoisonError};

    use super::super::tests::target;
    use super::*;

    /// A program that is being written while another test starts one would be busy.
    fn alone() -> MutexGuard<'static, ()> {
        static ALONE: Mutex<()> = Mutex::new(());
        ALONE.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn agent(dir: &std::path::Path, script: &str) -> Command {
        let program = dir.join("agent");
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        Command {
            program,
            options: vec![("ip".into(), "10.0.0.1".into())],
            plugs: BTreeMap::from([("beta".into(), "7".into())]),
            own_host: "alpha".into(),
            timeout: Duration::from_secs(20),
        }
    }

    #[test]
    fn an_agent_is_told_who_and_its_exit_is_the_proof() {
        let _alone = alone();
        let dir = tempfile::tempdir().unwrap();
        let heard = dir.path().join("heard");
        let command = agent(dir.path(), &format!("cat > {}", heard.display()));
        let proof = command.fence(&target(Some("beta")), &|| true).unwrap();
        let peer = target(None).peer;
        let kind = ProofKind::Command;
        assert_eq!(proof, FenceProof { peer, kind });
        let told = "action=off\nport=7\nplug=7\nnodename=beta\nip=10.0.0.1\n";
        assert_eq!(fs::read_to_string(&heard).unwrap(), told);
        command.fence(&target(Some("gamma")), &|| true).unwrap();
        assert!(fs::read_to_string(heard).unwrap().contains("plug=gamma\n"));
    }

    #[test]
    fn one_that_fails_is_no_proof_and_is_quoted() {
        let _alone = alone();
        let dir = tempfile::tempdir().unwrap();
        let command = agent(dir.path(), "echo no power; echo to it >&2; exit 3");
        let why = command
            .fence(&target(Some("beta")), &|| true)
            .unwrap_err()
            .0;
        assert!(why.contains("exit status: 3"), "{why}");
        assert!(why.contains("no power / to it"), "{why}");
        let command = agent(dir.path(), "kill -9 $$");
        let why = command
            .fence(&target(Some("beta")), &|| true)
            .unwrap_err()
            .0;
        assert!(why.contains("signal: 9"), "{why}");
        let none = Command {
            program: dir.path().join("none"),
            ..command
        };
        let why = none.fence(&target(Some("beta")), &|| true).unwrap_err().0;
        assert!(why.contains("cannot be started"), "{why}");
    }

    #[test]
    fn one_that_hangs_is_killed_with_all_it_started() {
        let _alone = alone();
        let dir = tempfile::tempdir().unwrap();
        let after = dir.path().join("after");
        let script = format!("(sleep 2; touch {}) & sleep 60", after.display());
        let command = Command {
            timeout: Duration::from_millis(300),
            ..agent(dir.path(), &script)
        };
        let begin = Instant::now();
        let why = command
            .fence(&target(Some("beta")), &|| true)
            .unwrap_err()
            .0;
        assert!(why.contains("did not end in 0.3 s"), "{why}");
        assert!(begin.elapsed() < Duration::from_secs(10));
        thread::sleep(Duration::from_millis(2500));
        assert!(!after.exists(), "its child went on");
    }

    #[test]
    fn one_that_nobody_waits_for_any_more_is_killed() {
        let _alone = alone();
        let dir = tempfile::tempdir().unwrap();
        let (begun, after) = (dir.path().join("begun"), dir.path().join("after"));
        let script = format!(
            "touch {}; sleep 2; touch {}",
            begun.display(),
            after.display()
        );
        let command = agent(dir.path(), &script);
        let begin = Instant::now();
        let why = command.fence(&target(Some("beta")), &|| !begun.exists());
        let why = why.unwrap_err().0;
        assert!(why.contains("nobody waits for its answer"), "{why}");
        assert!(
            begin.elapsed() < Duration::from_secs(2),
            "it was waited for"
        );
        thread::sleep(Duration::from_millis(2500));
        assert!(!after.exists(), "it went on");
    }

    #[test]
    fn one_that_leaves_somebody_behind_is_not_waited_for_longer() {
        let _alone = alone();
        let dir = tempfile::tempdir().unwrap();
        let command = agent(dir.path(), "sleep 8 & echo fine");
        let begin = Instant::now();
        command.fence(&target(Some("beta")), &|| true).unwrap();
        assert!(begin.elapsed() < Duration::from_secs(6));
    }

    #[test]
    fn who_is_not_known_and_this_host_are_not_switched_off() {
        let _alone = alone();
        let dir = tempfile::tempdir().unwrap();
        let ran = dir.path().join("ran");
        let command = agent(dir.path(), &format!("touch {}", ran.display()));
        let why = command.fence(&target(None), &|| true).unwrap_err().0;
        assert!(why.contains("nobody remembers"), "{why}");
        let why = command
            .fence(&target(Some("alpha")), &|| true)
            .unwrap_err()
            .0;
        assert!(why.contains("this very host"), "{why}");
        let why = command
            .fence(&target(Some("b\naction=on")), &|| true)
            .unwrap_err()
            .0;
        assert!(why.contains("one line"), "{why}");
        assert!(!ran.exists());
    }
}
