//! `umd monitor`.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use super::args_monitor::MonitorArgs;
use super::outcome::{Failure, Outcome, print, say};
use super::reach::Reach;
use super::scan::{config, host};
use super::values;
use crate::api::{DoneDoc, ManageRequest};
use crate::conf::{ArrayName, Config};
use crate::doc::ArrayDoc;
use crate::monitor::deliver::Channels;
use crate::monitor::ears::{self, Heard};
use crate::monitor::sharing::{Move, Sharing};
use crate::monitor::watch::{Expected, Watch, moved};
use crate::text::mdstat::mdstat;

/// Seconds between looks, when nobody says.
const DELAY_SECONDS: u64 = 60;
/// How often it is looked whether a daemon has come.
const TICK: Duration = Duration::from_millis(500);

/// Runs `umd monitor`.
///
/// # Errors
/// With the exit code and sentence for the user.
pub fn run(args: &MonitorArgs, reach: &Reach) -> Outcome {
    if args.arrays.is_empty() && !args.scan {
        return Err(Failure::failed(
            "Cannot monitor: need --scan or at least one device",
        ));
    }
    let increment = increment(&args.increment)?;
    let config = config(args.config.as_deref())?;
    let delay = delay(args.delay.as_deref(), &config)?;
    let channels = Channels {
        program: args.program.clone().or(config.program.clone()),
        mail_to: args.mail.clone().or(config.mail_to.clone()),
        mail_from: config.mail_from.clone(),
        syslog: args.syslog,
        host: host(),
    };
    let silent = channels.program.is_none() && channels.mail_to.is_none() && !channels.syslog;
    if args.scan && silent {
        return Err(Failure::failed(
            "No mail address or alert command - not monitoring.",
        ));
    }
    let expected = expected(args, &config)?;
    if args.daemonise {
        return daemonise(args, reach);
    }
    if args.detached {
        let _ = rustix::process::setsid(); // Its own session already: as good.
    }
    if let Some(path) = &args.pid_file {
        write_pid(path, std::process::id())?;
    }
    let watch = Watch::new(expected, args.scan, increment);
    Monitor {
        reach,
        watch,
        channels,
        delay,
        sharing: (args.scan && !args.no_sharing).then_some(config),
        arrays: Vec::new(),
        listening: BTreeSet::new(),
    }
    .run(args)
}

fn increment(text: &str) -> Result<u64, Failure> {
    let number = text.parse::<u64>().ok();
    number.filter(|one| (1..100).contains(one)).ok_or_else(|| {
        Failure::usage("please specify positive integer between 1 and 99 as rebuild increments.")
    })
}

fn delay(text: Option<&str>, config: &Config) -> Result<Duration, Failure> {
    let seconds = match text {
        None => config.monitor_delay.unwrap_or(DELAY_SECONDS),
        Some(text) => {
            let number = text.parse::<u64>().ok().filter(|seconds| *seconds > 0);
            number.ok_or_else(|| Failure::usage(format!("invalid delay: {text}")))?
        }
    };
    Ok(Duration::from_secs(seconds.min(365 * 86_400)))
}

/// Arrays that were named, by options or lines.
fn expected(args: &MonitorArgs, config: &Config) -> Result<Vec<Expected>, Failure> {
    let spares = |name: &str| config.named(name).and_then(|line| line.spares);
    let mut all = Vec::new();
    for text in &args.arrays {
        let name = values::array_name(text)?;
        all.push(Expected {
            spares: spares(&name),
            name,
        });
    }
    let lines = config.arrays.iter().filter(|_| args.scan);
    for line in lines {
        if let ArrayName::Named(name) = &line.name
            && all.iter().all(|one| one.name != *name)
        {
            all.push(Expected {
                name: name.clone(),
                spares: line.spares,
            });
        }
    }
    Ok(all)
}

fn write_pid(path: &std::path::Path, pid: u32) -> Result<(), Failure> {
    std::fs::write(path, format!("{pid}\n"))
        .map_err(|error| Failure::failed(format!("cannot write {}: {error}", path.display())))
}

/// Runs this very command again, in the background.
fn daemonise(args: &MonitorArgs, reach: &Reach) -> Outcome {
    let failed = |error: std::io::Error| {
        Failure::failed(format!(
            "cannot start the monitor in the background: {error}"
        ))
    };
    let program = std::env::current_exe().map_err(failed)?;
    let mut command = Command::new(program);
    command.arg("monitor").arg("--detached");
    let mut pairs: Vec<(&str, Option<&str>)> = vec![
        ("--mail", args.mail.as_deref()),
        ("--program", args.program.as_deref()),
        ("--delay", args.delay.as_deref()),
        ("--increment", Some(&args.increment)),
        ("--config", args.config.as_deref()),
    ];
    pairs.retain(|(_, value)| value.is_some());
    for (option, value) in pairs {
        command.arg(format!("{option}={}", value.unwrap_or_default()));
    }
    let flags = [
        ("--scan", args.scan),
        ("--syslog", args.syslog),
        ("--oneshot", args.oneshot),
        ("--test", args.test),
        ("--no-sharing", args.no_sharing),
    ];
    let flags = flags.iter().filter(|(_, set)| *set).map(|(flag, _)| *flag);
    command.arg("--runtime-dir").arg(reach.runtime.dir());
    command.args(flags).arg("--").args(&args.arrays);
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    if let Some(path) = &args.pid_file {
        write_pid(path, child.id())?;
    }
    print(&format!("{}\n", child.id()))?;
    Ok(0)
}

/// What udev calls a device by where it is plugged in.
fn names_by_path(path: &str) -> Vec<String> {
    let links = std::fs::read_dir("/dev/disk/by-path").into_iter().flatten();
    let links = links.flatten().filter(|link| {
        let target = link.path().canonicalize();
        target.is_ok_and(|target| target == std::path::Path::new(path))
    });
    let names = links.map(|link| link.file_name().to_string_lossy().into_owned());
    names.collect()
}

/// The monitor at work.
struct Monitor<'a> {
    reach: &'a Reach,
    watch: Watch,
    channels: Channels,
    delay: Duration,
    /// By which spares are moved, if they are.
    sharing: Option<Config>,
    /// As they were at the last look.
    arrays: Vec<ArrayDoc>,
    /// Sockets that are listened at.
    listening: BTreeSet<PathBuf>,
}

impl Monitor<'_> {
    fn run(mut self, args: &MonitorArgs) -> Outcome {
        let (to, heard) = channel();
        self.refresh();
        if args.test {
            let alerts = self.watch.test(&self.arrays);
            self.tell(&alerts)?;
        }
        if args.oneshot {
            self.look()?;
            return Ok(0);
        }
        let mut due = Instant::now();
        loop {
            if self.listen(&to) || Instant::now() >= due {
                self.look()?;
                due = Instant::now() + self.delay;
            }
            let wait = TICK.min(due.saturating_duration_since(Instant::now()));
            let first = match heard.recv_timeout(wait) {
                Ok(first) => first,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return Ok(0),
            };
            self.take(first, &heard)?;
            due = due.min(Instant::now()); // What was heard is looked at, too.
        }
    }

    /// Takes in what was heard, all that is there.
    fn take(
        &mut self,
        first: Heard,
        rest: &std::sync::mpsc::Receiver<Heard>,
    ) -> Result<(), Failure> {
        let all: Vec<Heard> = std::iter::once(first).chain(rest.try_iter()).collect();
        self.refresh();
        for one in all {
            match one {
                Heard::Silence(socket) => {
                    self.listening.remove(&socket);
                }
                Heard::Event(event) => {
                    let mut arrays = self.arrays.iter();
                    let array = arrays.find(|array| array.name == event.array);
                    let alerts = self.watch.heard(&event, array);
                    self.tell(&alerts)?;
                }
            }
        }
        Ok(())
    }

    /// Listens wherever somebody has come; tells whether anybody has.
    fn listen(&mut self, to: &std::sync::mpsc::Sender<Heard>) -> bool {
        let runtime = &self.reach.runtime;
        let sockets = [runtime.control()].into_iter().chain(runtime.served());
        let mut more = false;
        for socket in sockets {
            if self.listening.contains(&socket) || !socket.exists() {
                continue;
            }
            if ears::listen(&socket, to.clone()).is_ok() {
                self.listening.insert(socket);
                more = true;
            }
        }
        more
    }

    /// Asks how all arrays are. Who does not answer now is asked again at the next look.
    fn refresh(&mut self) {
        match self.reach.all() {
            Ok(arrays) => self.arrays = arrays,
            Err(failure) => say(&failure.text),
        }
    }

    fn look(&mut self) -> Result<(), Failure> {
        self.refresh();
        let runtime = &self.reach.runtime;
        let listening = &self.listening;
        let heard = |array: &ArrayDoc| {
            listening.contains(&runtime.serve_control(&array.name))
                || listening.contains(&runtime.control())
        };
        let alerts = self.watch.look(&self.arrays, heard);
        self.tell(&alerts)?;
        self.share()
    }

    /// Moves spares to where they are needed.
    fn share(&mut self) -> Result<(), Failure> {
        let Some(config) = &self.sharing else {
            return Ok(());
        };
        let moves = Sharing::new(config, &names_by_path).moves(&self.arrays);
        for one in &moves {
            match self.carry(one) {
                Ok(()) => self.tell(&[moved(&one.from, &one.to)])?,
                Err(failure) => say(&failure.text),
            }
        }
        if !moves.is_empty() {
            self.refresh();
        }
        Ok(())
    }

    /// A spare that its new array does not take goes back to the old one.
    fn carry(&self, one: &Move) -> Result<(), Failure> {
        let ask = |array: &str, operation: &str| {
            let request = ManageRequest {
                operation: operation.to_owned(),
                device: one.device.clone(),
                with: None,
                write_mostly: None,
                failfast: None,
                // It carries the superblock of a spare, which is nothing to lose.
                force: true,
                bad_block_log: self.sharing.as_ref().and_then(|config| config.create.bbl),
            };
            self.reach.post::<_, DoneDoc>(array, "manage", &request)
        };
        ask(&one.from, "remove")?;
        ask(&one.to, "add").map(drop).map_err(|failure| {
            let back = ask(&one.from, "add");
            let what = match back {
                Ok(_) => format!("it went back to {}", one.from),
                Err(other) => format!("and {} does not take it back: {}", one.from, other.text),
            };
            Failure::failed(format!("{}; {what}", failure.text))
        })
    }

    fn tell(&self, alerts: &[crate::monitor::watch::Alert]) -> Result<(), Failure> {
        for alert in alerts {
            self.channels.tell(alert, || mdstat(&self.arrays))?;
        }
        Ok(())
    }
}
