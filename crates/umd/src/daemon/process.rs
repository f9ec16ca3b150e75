//! The processes: the daemon that holds the household, and `umd serve` with one array.
//!
//! ```text
//!   umd create --spawn--> umd daemon --linger --report-ready
//!                            lock DIR/lock (waits for a daemon that is leaving; one that works
//!                            well means that there is nothing to do)
//!                            start again what ran under one that was killed (`memory`)
//!                            bind DIR/control.sock, DIR/nbd.sock, or take them from the service
//!                            manager, who has bound them (`passed`)
//!                            "ready" on stdout, then stdin and stdout let go, stderr to DIR/log
//!                            ... arrays come and go ...
//!                            no array, nobody asking, linger over: unlink, unlock, end
//! ```

use std::fs::File;
use std::future::Future;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use umd_export::nbd::{Address, Listener};

use super::activity::Activity;
use super::control::{self, ControlSocket};
use super::household::Household;
use super::listener::Listening;
use super::memory::Memory;
use super::opening::{DoorOptions, Keys, Left, both, listeners, listeners_of_one, open_doors};
use super::passed::{self, Passed};
use super::remote::Remote;
use super::scrubs;
use crate::api::{AssembleRequest, StartedDoc};
use crate::cli::assemble::addresses;
use crate::cli::outcome::{Failure, Outcome, say, say_with_time};
use crate::client::Client;
use crate::runtime::Runtime;

/// How long a daemon that is leaving may take.
const LOCK_PATIENCE: Duration = Duration::from_secs(15);
const LOCK_PAUSE: Duration = Duration::from_millis(20);
/// How long requests in flight may take when everything has been stopped.
const LAST_ANSWERS: Duration = Duration::from_secs(2);
/// How often a daemon with arrays looks whether it is time to go, besides when one of them ends.
const BUSY_LOOK: Duration = Duration::from_secs(5);
/// The least that one without any sleeps before it looks again.
const IDLE_LOOK: Duration = Duration::from_millis(20);
/// Threads that wait for disks, for operations; they go away when idle.
const BLOCKING_THREADS_MAX: usize = 8;
const BLOCKING_STACK_BYTES: usize = 512 << 10;

/// What glibc's malloc is told: buffers of 64 KiB and more, once freed, go back to the system.
/// By default it learns to keep what was large once, and an idle array would sit on it for ever.
const MALLOC: [(&str, &str); 2] = [
    ("MALLOC_MMAP_THRESHOLD_", "65536"),
    ("MALLOC_TRIM_THRESHOLD_", "65536"),
];

/// Runs this very command again, in this process, with malloc told to give memory back: it reads
/// its settings from the environment, once, at the start. What the user has set is left alone.
pub fn give_memory_back() {
    use std::os::unix::process::CommandExt;
    let told = MALLOC
        .iter()
        .any(|(key, _)| std::env::var_os(key).is_some());
    if told || !cfg!(target_env = "gnu") {
        return;
    }
    if let Ok(program) = std::env::current_exe() {
        // Only returns when it fails; then it goes on as it is.
        let _ = std::process::Command::new(program)
            .args(std::env::args_os().skip(1))
            .envs(MALLOC)
            .exec();
    }
}

/// How the daemon is to run.
#[derive(Debug, Clone)]
pub struct DaemonOptions {
    /// Where its sockets go.
    pub runtime: Runtime,
    /// End this long after the last array and the last request.
    pub linger: Option<Duration>,
    /// Further doors.
    pub doors: DoorOptions,
    /// A name that a client opens and nothing has is there from then on, as an empty array.
    pub create_on_open: bool,
    /// Arrays with parity may start unclean and degraded.
    pub start_dirty_degraded: bool,
    /// Report on stdout and let go of the terminal.
    pub report_ready: bool,
    /// What runs when it is told to go is started again by the next one.
    pub keep: bool,
    /// Arrays that had one of these devices are not started again.
    pub leave: Vec<String>,
}

fn tokio_runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let failed = |error: io::Error| Failure::failed(format!("cannot start: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .thread_stack_size(BLOCKING_STACK_BYTES)
        .thread_keep_alive(Duration::from_secs(1))
        .build()
        .map_err(failed)?;
    survive_file_size_limit(&runtime).map_err(failed)?;
    Ok(runtime)
}

/// Under `ulimit -f` a write past the limit ends the process, unless somebody listens to the
/// signal: then it is a failed write like any other. Tokio listens from here on.
fn survive_file_size_limit(runtime: &tokio::runtime::Runtime) -> io::Result<()> {
    let _inside = runtime.enter();
    let kind = SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw());
    signal(kind).map(drop)
}

/// Runs the daemon until it is told to go, or lingers no longer.
///
/// # Errors
/// When another one runs already, or its sockets cannot be had.
pub fn daemon(options: DaemonOptions) -> Outcome {
    let runtime = &options.runtime;
    runtime
        .make()
        .map_err(|error| Failure::failed(error.to_string()))?;
    if options.report_ready {
        // Its own session: a Ctrl-C meant for the command that started it is not for it.
        let _ = rustix::process::setsid();
    }
    let passed = passed::take(&runtime.control())?;
    let keys = Keys::of(&options.doors)?;
    let lock = match take_lock(runtime, passed.control.is_some())? {
        Some(lock) => lock,
        None if options.report_ready => {
            report("ready\n");
            return Ok(0);
        }
        None => {
            let dir = runtime.dir().display();
            return Err(Failure::failed(format!(
                "a daemon is running already in {dir}"
            )));
        }
    };
    let outcome = tokio_runtime()?.block_on(household(&options, &keys, passed));
    drop(lock); // Only now: whoever waits for it finds no socket any more.
    outcome
}

fn report(text: &str) {
    let mut out = io::stdout();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// The daemon's lock; `None` when another daemon holds it and works. Who has the control socket in
/// `hand` is whom a question there would wait for: it asks nobody.
fn take_lock(runtime: &Runtime, hand: bool) -> Result<Option<File>, Failure> {
    let path = runtime.lock();
    let failed = |what: &str, error: io::Error| {
        Failure::failed(format!("cannot {what} {}: {error}", path.display()))
    };
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(|error| failed("open", error))?;
    let start = Instant::now();
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Some(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => {}
            Err(error) => return Err(failed("lock", error.into())),
        }
        // One that answers is there to stay (or leaves later, which is its caller's to notice).
        if !hand && matches!(Client::connect(&runtime.control()), Ok(Some(_)) | Err(_)) {
            return Ok(None);
        }
        if hand && start.elapsed() > LOCK_PATIENCE {
            return Ok(None);
        }
        if start.elapsed() > LOCK_PATIENCE {
            let text = "another process keeps it locked and does not answer".to_owned();
            return Err(failed(
                "lock",
                io::Error::new(io::ErrorKind::TimedOut, text),
            ));
        }
        std::thread::sleep(LOCK_PAUSE);
    }
}

async fn household(options: &DaemonOptions, keys: &Keys, passed: Passed) -> Outcome {
    let told = told_to_go();
    let household = Arc::new(Household::new(options.create_on_open));
    let may = &household.start_dirty_degraded;
    may.store(options.start_dirty_degraded, Ordering::Relaxed);
    // Before any door is open: who comes back finds the arrays that were there.
    let memory = Memory::at(&options.runtime.arrays());
    let left = Left::by(&memory, &options.doors);
    memory.keep_doors(both(&options.doors, &left.doors));
    let said = household
        .restore(memory, options.keep, &options.leave)
        .await;
    said.iter().for_each(|line| say(line));
    tokio::spawn(scrubs::keep(household.clone()));
    let activity = Arc::new(Activity::default());
    let socket = match passed.control {
        Some(listener) => ControlSocket::passed(listener)
            .map_err(|error| Failure::failed(format!("cannot use the control socket: {error}")))?,
        None => bind(&options.runtime.control())?,
    };
    let handed = (passed.doors, passed.stored);
    let (mut doors, remotes) = doors(&household, options, keys, &left, handed)?;
    household.remember().await;
    let routes = control::router(household.clone(), activity.clone());
    let failed = |error: io::Error| Failure::failed(format!("the control API over TCP: {error}"));
    for remote in remotes {
        remote.open(&routes).map_err(failed)?;
    }
    if options.report_ready {
        report("ready\n");
        let_go(&options.runtime.log());
        said.iter().for_each(|line| say(line)); // The log is to know, too.
    }
    tell_systemd(NotifyState::Ready);
    let (leave, leaving) = watch::channel(false);
    let outlived = socket.outlives_us();
    let server = control::serve(
        socket,
        household.clone(),
        activity.clone(),
        until_true(leaving),
    );
    let finish = async {
        tokio::select! {
            () = told => {}
            () = lingered(&household, &activity, options.linger) => {}
            () = household.keep_remembering() => {}
        }
        if let Some(memory) = household.memory.get().filter(|_| options.keep) {
            memory.seal();
        }
        if outlived {
            // Who asks from here on waits for the next daemon, instead of being sent away.
            let _ = leave.send(true);
        }
        doors.retain(|door| !door.outlives_us());
        let clean = stop_everything(&household).await;
        household.remember().await;
        drop(doors);
        clean
    };
    Ok(u8::from(!until_finished(server, finish, &leave).await?))
}

/// Opens all doors but the control socket. Where those are that are ours is to be remembered: ports
/// are known now.
fn doors(
    household: &Household,
    options: &DaemonOptions,
    keys: &Keys,
    left: &Left,
    handed: (Vec<Listener>, Vec<Listener>),
) -> Result<(Vec<Listening>, Vec<Remote>), Failure> {
    let theirs: Vec<Address> = handed.0.iter().map(|door| door.address().clone()).collect();
    let own = Address::Unix(options.runtime.nbd());
    let asked = addresses(&options.doors.nbd)?;
    let all = listeners(own.clone(), &asked, left, keys, handed)?;
    let remotes = left.remotes(&options.doors, keys)?;
    let ours = all.iter().map(|(listener, _)| listener.address());
    let ours = ours.filter(|address| **address != own && !theirs.contains(address));
    let kept = DoorOptions {
        nbd: ours.map(Address::to_string).collect(),
        listen: remotes.iter().flat_map(Remote::addresses).collect(),
        ..both(&options.doors, &left.doors)
    };
    if let Some(memory) = household.memory.get() {
        memory.keep_doors(kept);
    }
    Ok((open_doors(household, all)?, remotes))
}

/// Runs the server until `finish` ends, then lets it answer what is in flight, for a moment: a
/// client that listens to events never ends by itself.
async fn until_finished(
    server: impl Future<Output = io::Result<()>>,
    finish: impl Future<Output = bool>,
    leave: &watch::Sender<bool>,
) -> Result<bool, Failure> {
    tokio::pin!(server, finish);
    let failed = |served: io::Result<()>| match served {
        Ok(()) => Failure::failed("the control socket was closed"),
        Err(error) => Failure::failed(format!("the control socket failed: {error}")),
    };
    tokio::select! {
        clean = &mut finish => {
            let _ = leave.send(true);
            let _ = tokio::time::timeout(LAST_ANSWERS, server).await;
            Ok(clean)
        }
        served = &mut server => match served {
            // It was told to take nobody in any more before everything has come to rest.
            Ok(()) if *leave.borrow() => Ok(finish.await),
            other => Err(failed(other)),
        },
    }
}

fn bind(path: &Path) -> Result<ControlSocket, Failure> {
    ControlSocket::bind(path)
        .map_err(|error| Failure::failed(format!("cannot listen on {}: {error}", path.display())))
}

/// Stdin and stdout let go, stderr a log: the command that started us can end, and so can its
/// terminal.
fn let_go(log: &Path) {
    let log = File::options()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(log);
    let null = File::options().read(true).write(true).open("/dev/null");
    if let Ok(null) = null {
        let _ = rustix::stdio::dup2_stdin(&null);
        let _ = rustix::stdio::dup2_stdout(&null);
        let _ = match &log {
            Ok(log) => rustix::stdio::dup2_stderr(log),
            Err(_) => rustix::stdio::dup2_stderr(&null),
        };
    }
    say_with_time();
}

fn until_true(mut leaving: watch::Receiver<bool>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(async move {
        let _ = leaving.wait_for(|leave| *leave).await; // A sender that is gone means the same.
    })
}

/// Where systemd started us and waits for it, it is told; elsewhere nothing happens.
fn tell_systemd(state: NotifyState<'_>) {
    let _ = sd_notify::notify(&[state]); // It finds out in time, by its own time-out.
}

/// SIGTERM or SIGINT. From this call on, not from the first look at what it returns, they end
/// arrays properly instead of the process.
fn told_to_go() -> impl Future<Output = ()> {
    let term = signal(SignalKind::terminate());
    let int = signal(SignalKind::interrupt());
    async {
        let (Ok(mut term), Ok(mut int)) = (term, int) else {
            return std::future::pending().await;
        };
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    }
}

/// No array, and nobody wanted anything for as long as the linger.
async fn lingered(household: &Household, activity: &Activity, linger: Option<Duration>) {
    let Some(linger) = linger else {
        return std::future::pending().await;
    };
    loop {
        // Before the look at the registry: who ends after that look is heard of.
        let ended = household.ended.notified();
        let quiet = activity.quiet_for();
        if !household.registry.is_empty() {
            let _ = tokio::time::timeout(BUSY_LOOK, ended).await;
            continue;
        }
        // A request that comes in just now finds the registry closed, and asks the next daemon.
        if quiet >= Some(linger) && household.registry.close_if_empty() {
            return;
        }
        let left = linger.saturating_sub(quiet.unwrap_or_default());
        tokio::time::sleep(left.max(IDLE_LOOK)).await;
    }
}

/// Takes nothing more in, and stops all arrays, also those that are being started; tells whether
/// all stopped cleanly.
async fn stop_everything(household: &Household) -> bool {
    household.registry.close();
    tell_systemd(NotifyState::Stopping);
    let start = Instant::now();
    loop {
        let failures = household.stop_all().await;
        for failure in &failures {
            say(&failure.error);
        }
        if !failures.is_empty() || household.registry.is_empty() {
            return failures.is_empty();
        }
        if start.elapsed() > LOCK_PATIENCE {
            say("an array that is being started does not come up; it is left behind");
            return false;
        }
        tokio::time::sleep(LOCK_PAUSE).await;
    }
}

/// What `umd serve` needs to know.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// Where it registers.
    pub runtime: Runtime,
    /// Whether it must be able to: the user named the directory.
    pub must_register: bool,
    /// Where to serve; in the runtime directory when nothing is said.
    pub doors: DoorOptions,
    /// The array.
    pub request: AssembleRequest,
    /// Say nothing but errors.
    pub quiet: bool,
}

/// Runs one array in the foreground until it is stopped, by a signal or over its control socket.
///
/// # Errors
/// When it cannot be started, or did not stop cleanly.
pub fn serve(options: ServeOptions, passed: Passed) -> Outcome {
    let keys = Keys::of(&options.doors)?;
    tokio_runtime()?.block_on(serve_one(&options, &keys, passed))
}

async fn serve_one(options: &ServeOptions, keys: &Keys, passed: Passed) -> Outcome {
    let told = told_to_go();
    let household = Arc::new(Household::default());
    tokio::spawn(scrubs::keep(household.clone()));
    let started = household
        .assemble(options.request.clone())
        .await
        .map_err(|error| {
            error.messages.iter().for_each(|line| say(line));
            Failure::failed(error.error).with_code(error.exit_code)
        })?;
    let outcome = served(options, &household, &started, (keys, passed), told).await;
    // Whatever happened: a running array is stopped cleanly.
    let clean = stop_everything(&household).await;
    let code = outcome?;
    Ok(if clean { code } else { 1 })
}

async fn served(
    options: &ServeOptions,
    household: &Arc<Household>,
    started: &StartedDoc,
    (keys, passed): (&Keys, Passed),
    told: impl Future<Output = ()>,
) -> Outcome {
    let name = started.array.name.clone();
    let registered = register(options, &name, passed.control)?;
    let own = Address::Unix(options.runtime.serve_nbd(&name));
    let own = registered.as_ref().map(|_| own);
    let asked = addresses(&options.doors.nbd)?;
    let handed = (passed.doors, passed.stored);
    let all = listeners_of_one(own, &asked, keys, handed)?;
    let mut doors = open_doors(household, all)?;
    if !options.quiet {
        started.messages.iter().for_each(|line| say(line));
        for door in &doors {
            say(&format!("{name} is served at {}", door.uri(&name)));
        }
    }
    tell_systemd(NotifyState::Ready);
    let stopped = async {
        loop {
            let ended = household.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            if household.registry.get(&name).is_none() {
                return;
            }
            ended.await;
        }
    };
    let finish = async {
        tokio::select! {
            () = told => {}
            () = stopped => {}
        }
        doors.retain(|door| !door.outlives_us());
        let clean = stop_everything(household).await;
        drop(doors);
        clean
    };
    let clean = match registered {
        None => finish.await,
        Some((socket, _lock)) => {
            let (leave, leaving) = watch::channel(false);
            let activity = Arc::new(Activity::default());
            let server = control::serve(socket, household.clone(), activity, until_true(leaving));
            until_finished(server, finish, &leave).await?
        }
    };
    if !options.quiet && clean {
        say(&format!("stopped {name}"));
    }
    Ok(u8::from(!clean))
}

/// Makes the array known to other commands; `None` when that cannot be had and need not be.
fn register(
    options: &ServeOptions,
    name: &str,
    control: Option<UnixListener>,
) -> Result<Option<(ControlSocket, File)>, Failure> {
    match try_register(&options.runtime, name, control) {
        Ok(registered) => Ok(Some(registered)),
        Err(failure) if options.must_register => Err(failure),
        Err(failure) => {
            say(&format!(
                "{} (other commands will not see {name})",
                failure.text
            ));
            Ok(None)
        }
    }
}

fn try_register(
    runtime: &Runtime,
    name: &str,
    control: Option<UnixListener>,
) -> Result<(ControlSocket, File), Failure> {
    runtime
        .make()
        .map_err(|error| Failure::failed(error.to_string()))?;
    let failed = |path: &Path, error: io::Error| {
        Failure::failed(format!("cannot use {}: {error}", path.display()))
    };
    let dir = runtime.serve_dir();
    match std::fs::create_dir(&dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(failed(&dir, error));
        }
        _ => {}
    }
    let path = runtime.serve_control(name);
    let lock_path = path.with_extension("lock");
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&lock_path)
        .map_err(|error| failed(&lock_path, error))?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| Failure::failed(format!("an array named {name} is being served already")))?;
    let socket = match control {
        Some(listener) => ControlSocket::passed(listener),
        None => ControlSocket::bind(&path),
    };
    Ok((socket.map_err(|error| failed(&path, error))?, lock))
}
