//! Two hosts whose members another umd serves over NBD, and which are fenced by that server.
//!
//! ```text
//!   alpha --- d0@key=ALPHA, d1@key=ALPHA ---+
//!                                           +--- storage: d0, d1 (a file each)
//!   beta ---- d0@key=BETA,  d1@key=BETA ----+
//! ```
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests; clippy knows only #[test] functions"
)]

#[path = "support/hosts.rs"]
mod hosts;

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use umd_interop::nbd::Client;
use umd_interop::oracle::{Oracle, skipped};
use umd_interop::scratch::{Scratch, fingerprints};
use umd_interop::umd::{Umd, text};

use hosts::{Etcd, MIB, assert_legs_alike, join_with, refused, settled, states};

const PATIENCE: Duration = Duration::from_secs(90);
/// How long a write of alpha lies before it is sent.
const LAG_MS: u64 = 2500;

/// The host that serves the members, and the files behind them.
struct Storage {
    umd: Umd,
    files: Vec<PathBuf>,
    /// What the hosts call them.
    members: Vec<PathBuf>,
}

impl Storage {
    fn new(test: &str, scratch: &Scratch) -> Option<Storage> {
        let umd = Umd::or_skip(test)?;
        let files = scratch.images("d", 2, 24 * MIB as u64).unwrap();
        let members = (0..files.len()).map(|at| umd.daemon_uri(&format!("d{at}")).into());
        let members = members.collect();
        let storage = Storage {
            umd,
            files,
            members,
        };
        storage.serve();
        Some(storage)
    }

    /// What has no superblock is built again after each end of its daemon.
    fn serve(&self) {
        for (at, file) in self.files.iter().enumerate() {
            let (name, file) = (format!("d{at}"), text(file));
            let args = ["build", &name, "-l", "linear", "-n1", "--force", file];
            self.umd.ok(&args).unwrap();
        }
    }

    fn table(&self, export: &str) -> Value {
        let text = self
            .umd
            .ok(&["cluster", "reservations", "--json", export])
            .unwrap();
        serde_json::from_str(&text).unwrap()
    }

    fn keys(&self, export: &str, which: &str) -> Vec<String> {
        let table = self.table(export);
        let keys = table[which].as_array().unwrap().iter();
        keys.map(|key| key.as_str().unwrap().to_owned()).collect()
    }

    /// Whether a write of somebody with this key is let in.
    fn writes(&self, export: &str, key: Option<&str>) -> bool {
        let socket = self.umd.runtime_dir().join("nbd.sock");
        let key = key.map_or(String::new(), |key| format!("@key={key}"));
        let mut client = Client::connect(&socket, &format!("{export}{key}")).unwrap();
        // The last block, which no array of these members uses.
        let (mut block, at) = (vec![0; 4096], client.bytes - 4096);
        client.read(at, &mut block).unwrap();
        client.write(at, &block, false).is_ok()
    }
}

fn until(what: &str, mut so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !so() {
        assert!(begin.elapsed() < PATIENCE, "not in time: {what}");
        thread::sleep(Duration::from_millis(50));
    }
}

fn pid_of(umd: &Umd, name: &str) -> Pid {
    let pid = umd.detail(name).unwrap()["pid"].as_i64().unwrap();
    Pid::from_raw(i32::try_from(pid).unwrap()).unwrap()
}

/// A process that does not run, until this is dropped: nobody waits for it after a failure.
struct Paused(Pid);

impl Paused {
    fn new(pid: Pid) -> Paused {
        kill_process(pid, Signal::STOP).unwrap();
        Paused(pid)
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::CONT);
    }
}

/// A thread that writes until it is answered no more; how often it was.
fn load(umd: &Umd, name: &str, offset: u64) -> thread::JoinHandle<u64> {
    let socket = umd.runtime_dir().join("nbd.sock");
    let mut client = Client::connect(&socket, name).unwrap();
    thread::spawn(move || {
        let mut answered = 0;
        while client.write(offset, &[0xa1; 8192], false).is_ok() {
            answered += 1;
        }
        answered
    })
}

fn pair(umd: &Umd, members: &[PathBuf]) {
    let mut args = vec!["create", "pair", "-l1", "-n2", "--bitmap=clustered"];
    args.extend(["--home-cluster=hall", "--nodes=2", "--bitmap-chunk=64K"]);
    args.push("--config=none");
    args.extend(members.iter().map(|path| text(path)));
    umd.ok(&args).unwrap();
}

#[test]
fn a_host_that_was_stopped_past_its_lease_is_cut_off_by_the_server_of_its_members() {
    let test = "hosts that are fenced by the umd that serves their members";
    let (Some(oracle), Some(alpha)) = (Oracle::or_skip(test), Umd::or_skip(test)) else {
        return;
    };
    let (beta, scratch) = (Umd::or_skip(test).unwrap(), Scratch::new().unwrap());
    let storage = Storage::new(test, &scratch).unwrap();
    let Some(etcd) = Etcd::start(&oracle, &scratch.path("")) else {
        return;
    };
    let set = &storage.members;
    pair(&alpha, set);
    assert!(storage.writes("d0", None), "nobody has reserved it");

    let lag = format!("*:lag={LAG_MS},seed=1");
    let mut more = vec!["--cluster-reservations"];
    let joined = join_with(&beta, ("beta", "pair"), &etcd, set, &more);
    if joined
        .as_ref()
        .is_err_and(|said| said.contains("without the lock service"))
    {
        return skipped(test, "this umd was built without the feature etcd");
    }
    joined.unwrap();
    more.extend(["--fault", &lag]);
    let betas = storage.keys("d0", "registered");
    join_with(&alpha, ("alpha", "pair"), &etcd, set, &more).unwrap();
    beta.until("pair", settled).unwrap();
    let both = storage.keys("d1", "registered");
    assert!(both.len() == 2 && betas.len() == 1, "{both:?}, {betas:?}");
    let own = &betas[0];
    let dead = both.iter().find(|key| *key != own).unwrap();
    assert!(!storage.writes("d0", None) && storage.writes("d0", Some(dead)));

    // It does not run while a write of it waits to be sent.
    let writing = load(&alpha, "pair", 0);
    thread::sleep(Duration::from_millis(LAG_MS / 2));
    let paused = Paused::new(pid_of(&alpha, "pair"));
    let mine = load(&beta, "pair", 1 << 20);
    until("beta takes over", || {
        let array = beta.detail("pair").unwrap();
        states(&array).contains(&"- free".to_owned()) && settled(&array)
    });
    for export in ["d0", "d1"] {
        assert_eq!(storage.keys(export, "registered"), *betas);
        assert_eq!(storage.keys(export, "preempted"), [dead.as_str()]);
        assert!(!storage.writes(export, Some(dead)), "it was cut off");
    }
    let counted = |export| storage.table(export)["writes_refused"].as_u64().unwrap();
    let before = counted("d0") + counted("d1");
    let after_takeover = [0xb2; 8192];
    let socket = beta.runtime_dir().join("nbd.sock");
    let mut client = Client::connect(&socket, "pair").unwrap();
    client.write(0, &after_takeover, false).unwrap();

    drop(paused);
    let answered = writing.join().unwrap();
    until("its late write is refused", || {
        counted("d0") + counted("d1") > before
    });
    until("its array ends", || alpha.detail("pair").is_err());
    println!("alpha had {answered} answers, and writes after its end were refused");
    let mut found = [0; 8192];
    client.read(0, &mut found).unwrap();
    assert!(found == after_takeover, "what was dead has written");
    client.disconnect().unwrap();
    assert!(!mine.is_finished(), "beta writes on");

    // A member is none twice. Who is none any more is let go, and taken in again with a key.
    let member = text(&set[1]);
    let twice = refused(&beta, &["manage", "pair", "--add", member]);
    assert!(twice.contains("is a member already"), "{twice}");
    for what in ["--fail", "--remove"] {
        beta.ok(&["manage", "pair", what, member]).unwrap();
    }
    until("its key is taken back", || {
        storage.keys("d1", "registered").is_empty()
    });
    assert_eq!(storage.keys("d0", "registered"), *betas);
    beta.ok(&["manage", "pair", "--re-add", member]).unwrap();
    beta.until("pair", settled).unwrap();
    assert_eq!(storage.keys("d1", "registered"), *betas);
    assert!(!storage.writes("d1", None) && !mine.is_finished());

    beta.ok(&["stop", "pair", "--force"]).unwrap();
    mine.join().unwrap();
    assert_legs_alike(&storage.files);
    // Beta has left in order: its key is gone, and with the last one the reservation. Alpha's is
    // refused for good.
    assert!(storage.writes("d0", None) && !storage.writes("d0", Some(dead)));

    // A server that is killed forgets nothing.
    for args in [["register", "d0", "77"], ["reserve", "d0", "77"]] {
        let [what, export, key] = args;
        storage.umd.ok(&["cluster", what, export, key]).unwrap();
    }
    storage.umd.crash_daemon("d0").unwrap();
    storage.serve();
    let table = storage.table("d0");
    assert_eq!(table["reserved"], true, "{table}");
    assert_eq!(storage.keys("d0", "preempted"), [dead.as_str()]);
    assert!(!storage.writes("d0", Some(dead)) && !storage.writes("d0", None));
    assert!(storage.writes("d0", Some("77")));
    let back = refused(&storage.umd, &["cluster", "register", "d0", dead]);
    assert!(back.contains("was preempted"), "{back}");
    storage
        .umd
        .ok(&["cluster", "clear-reservations", "d0"])
        .unwrap();
    assert!(storage.writes("d0", Some(dead)));
}

#[test]
fn what_makes_no_sense_changes_no_table() {
    let test = "keys that are none";
    let Some(umd) = Umd::or_skip(test) else {
        return;
    };
    let scratch = Scratch::new().unwrap();
    let storage = Storage::new(test, &scratch).unwrap();
    let uri = text(&storage.members[0]).to_owned();
    for export in ["d0", &uri] {
        storage
            .umd
            .ok(&["cluster", "register", export, "a"])
            .unwrap();
        for (args, why) in [
            (vec!["register", export, "0"], "not zero"),
            (vec!["register", export, "0x2a"], "hexadecimal"),
            (vec!["register", export, "11111111111111111"], "hexadecimal"),
            (vec!["preempt", export, "a", "g"], "hexadecimal"),
            (vec!["reserve", export, "b"], "is not registered"),
            (vec!["unregister", export, "b"], "is not registered"),
            (vec!["preempt", export, "b", "a"], "is not registered"),
            (vec!["preempt", export, "a", "a"], "does not preempt itself"),
        ] {
            let args: Vec<&str> = ["cluster"].into_iter().chain(args).collect();
            let said = refused(&storage.umd, &args);
            assert!(said.contains(why), "{args:?}: {said}");
        }
        let table = storage.table("d0");
        assert_eq!(table["reserved"], false, "{table}");
        assert_eq!(storage.keys("d0", "registered"), ["a"]);
        assert_eq!(storage.keys("d0", "preempted"), [""; 0]);
        storage
            .umd
            .ok(&["cluster", "unregister", export, "a"])
            .unwrap();
    }
    let nowhere = uri.replace("/d0?", "/d9?");
    for (export, why) in [
        ("d9", "d9 does not appear to be an active array"),
        (nowhere.as_str(), "no export has this name"),
        ("nbd://127.0.0.1:1/d0@key=2", "names a key"),
    ] {
        let said = refused(&storage.umd, &["cluster", "register", export, "a"]);
        assert!(said.contains(why), "{said}");
    }
    drop(umd);
}

/// A server that keeps no keys. It ends with this.
struct Nbdkit(Child);

impl Nbdkit {
    fn serve(oracle: &Oracle, file: &Path, socket: &Path) -> Nbdkit {
        let plugin = oracle.nbdkit_plugin("file").unwrap();
        let mut command = oracle.command("nbdkit").unwrap();
        command.args(["-f", "-U", text(socket), text(&plugin), text(file)]);
        let child = command.stdout(Stdio::null()).spawn().unwrap();
        until("nbdkit serves", || {
            std::os::unix::net::UnixStream::connect(socket).is_ok()
        });
        Nbdkit(child)
    }
}

impl Drop for Nbdkit {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_server_that_keeps_no_keys_is_refused_and_not_written_to() {
    let test = "members of a server that keeps no keys";
    let (Some(oracle), Some(umd)) = (Oracle::or_skip(test), Umd::or_skip(test)) else {
        return;
    };
    let scratch = Scratch::new().unwrap();
    let files = scratch.images("m", 2, 24 * MIB as u64).unwrap();
    pair(&umd, &files);
    let sockets = tempfile::tempdir().unwrap();
    let served = files.iter().enumerate().map(|(at, file)| {
        let socket = sockets.path().join(format!("s{at}"));
        let server = Nbdkit::serve(&oracle, file, &socket);
        (server, format!("nbd+unix:///?socket={}", text(&socket)))
    });
    let (_servers, members): (Vec<Nbdkit>, Vec<String>) = served.unzip();
    let folder = files[0].parent().unwrap();
    let before = fingerprints(folder).unwrap();
    let mut args = vec!["assemble", "pair", "--cluster-engine=memory"];
    args.extend([
        "--home-cluster=hall",
        "--cluster-node=alpha",
        "--cluster-reservations",
    ]);
    args.extend(members.iter().map(String::as_str));
    let said = refused(&umd, &args);
    assert!(said.contains(&members[0]), "{said}");
    assert!(said.contains("its server offers no reservations"), "{said}");
    assert!(
        fingerprints(folder).unwrap() == before,
        "a byte was written"
    );
}
