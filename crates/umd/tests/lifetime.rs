//! How long the name of an array lives, who keeps it from being stopped, and md's words for its
//! state.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Child;

use common::{Home, PATIENCE, eventually, pattern};
use serde_json::Value;
use umd_export::nbd::Address;
use umd_export::nbd::client::Client;

/// A household whose daemon runs in the foreground, with these options.
struct Daemon {
    home: Home,
    child: Child,
}

impl Daemon {
    fn new(options: &str) -> Daemon {
        let home = Home::new();
        let child = home.spawn(&format!("daemon {options}"));
        eventually("the daemon is there", || home.daemon_pid().is_some());
        Daemon { home, child }
    }

    fn connect(&self, name: &str) -> Option<Client> {
        let socket = self.home.runtime().join("umd/nbd.sock");
        Client::connect(&Address::Unix(socket), name).ok()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.child.wait();
    }
}

fn http(home: &Home, method: &str, path: &str, body: &str) -> (u16, Value) {
    let mut stream =
        UnixStream::connect(home.runtime().join("umd/control.sock")).expect("connects");
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).expect("asks");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answers");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let code = head.split_whitespace().nth(1).expect("a code");
    let document = serde_json::from_str(body).unwrap_or(Value::Null);
    (code.parse().expect("a number"), document)
}

/// The events about an array, as they come.
fn events(home: &Home) -> impl Iterator<Item = String> {
    let mut stream =
        UnixStream::connect(home.runtime().join("umd/control.sock")).expect("connects");
    stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
    stream
        .write_all(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
        .expect("asks");
    let mut lines = BufReader::new(stream)
        .lines()
        .map(|line| line.expect("reads"));
    lines.find(|line| line.is_empty()).expect("a head");
    lines.filter_map(|line| Some(line.strip_prefix("event: ")?.to_owned()))
}

fn next_word(events: &mut impl Iterator<Item = String>) -> String {
    let words = ["ADD", "CHANGE", "REMOVE"];
    let found = events.find(|word| words.contains(&word.as_str()));
    found.expect("it goes on")
}

#[test]
fn an_array_that_is_open_is_not_stopped() {
    let home = Home::new();
    home.umd("create r1 -l1 -n2 --size 4M --assume-clean a b")
        .ok();
    let mut client = home.nbd("r1");
    let data = pattern(3, 1 << 20);
    client.pwrite(0, &data).expect("writes");
    let refusal = home.umd("stop r1").fails(1);
    let pid = std::process::id();
    assert!(
        refusal.starts_with("umd: failed to stop array r1: it is open by ")
            && refusal.contains(&format!("(process {pid})"))
            && refusal.contains("umd stop --force r1"),
        "{refusal}"
    );
    let (code, document) = http(&home, "POST", "/v1/arrays/r1/stop", "null");
    assert_eq!((code, &document["openers"][0]["pid"]), (409, &pid.into()));
    assert_eq!(home.detail("r1")["openers"][0]["door"], "nbd");
    // It goes on as if nothing had been asked.
    assert_eq!(client.pread(0, 1 << 20).expect("reads"), data);
    home.umd("stop --force r1").ok();
    client.pread(0, 512).expect_err("the door is closed");
    home.umd("assemble r1 a b").ok();
    let mut client = home.nbd("r1");
    assert_eq!(client.pread(0, 1 << 20).expect("reads"), data);
    // Whoever has left does not stand in the way, however they left.
    drop(client);
    home.umd("stop r1").ok();
}

/// Writes under way when the doors are closed are answered, or were never begun.
#[test]
fn a_stop_by_force_keeps_what_was_answered() {
    let home = Home::new();
    home.umd("create r5 -l5 -n3 --size 16M --assume-clean --bitmap internal a b c")
        .ok();
    let mut client = home.nbd("r5");
    let writer = std::thread::spawn(move || {
        let mut answered = 0u64;
        while answered < 10_000 {
            let at = answered % 500 * 65536;
            let bytes = pattern(answered, 65536);
            if client.pwrite(at, &bytes).is_err() {
                break;
            }
            answered += 1;
        }
        answered
    });
    std::thread::sleep(std::time::Duration::from_millis(200));
    home.umd("stop --force r5").ok();
    let answered = writer.join().expect("it ends");
    assert!(answered > 0 && answered < 10_000, "{answered}");
    let examined = home.umd("examine a b c --json").ok().json();
    for device in examined["devices"].as_array().expect("devices") {
        assert_eq!(device["superblock"]["state"], "clean");
    }
    home.umd("assemble r5 a b c").ok();
    let mut client = home.nbd("r5");
    for number in answered.saturating_sub(499)..answered {
        let read = client.pread(number % 500 * 65536, 65536).expect("reads");
        assert_eq!(read, pattern(number, 65536), "{number}");
    }
    client.disconnect().expect("leaves");
}

#[test]
fn names_come_and_go_with_events() {
    let daemon = Daemon::new("");
    let home = &daemon.home;
    let mut events = events(home);
    home.umd("create r1 -l1 -n2 --size 4M --assume-clean a b")
        .ok();
    assert_eq!(next_word(&mut events), "ADD");
    assert_eq!(next_word(&mut events), "CHANGE");
    home.umd("stop r1").ok();
    assert_eq!(next_word(&mut events), "CHANGE");
    assert_eq!(next_word(&mut events), "REMOVE");
    assert!(daemon.connect("r1").is_none());
}

#[test]
fn opening_an_unknown_name_makes_an_array_only_where_that_is_wanted() {
    let daemon = Daemon::new("");
    assert!(daemon.connect("r9").is_none());
    assert_eq!(http(&daemon.home, "GET", "/v1/arrays/r9/state", "").0, 404);
}

#[test]
fn what_was_made_by_opening_it_stays_until_it_is_asked_something() {
    let daemon = Daemon::new("--create-on-open");
    let home = &daemon.home;
    let mut events = events(home);
    for _ in 0..3 {
        let mut client = daemon.connect("r9").expect("made");
        assert_eq!(client.size_bytes(), 0);
        client.flush().expect("there is nothing to flush");
        client.disconnect().expect("leaves");
    }
    assert_eq!(next_word(&mut events), "ADD");
    let state = || http(home, "GET", "/v1/arrays/r9/state", "");
    assert_eq!(state().1["state"], "clear");
    assert_eq!(home.umd("array-state r9").ok().out, "clear\n");
    // Nonsense is no wish; and an array that has nothing to show is not shown.
    home.umd("array-state r9 sideways").fails(2);
    assert_eq!(state().0, 200);
    assert!(!home.umd("mdstat").ok().out.contains("r9"));
    // Somebody has it open: it stays, and is not stopped.
    let client = daemon.connect("r9").expect("there");
    let refusal = home.umd("stop r9").fails(1);
    assert!(refusal.contains("it is open by"), "{refusal}");
    home.umd("action r9 check").fails(1);
    assert_eq!(state().0, 200);
    drop(client);
    eventually("it goes with the last close", || state().0 == 404);
    assert_eq!(next_word(&mut events), "REMOVE");
    // An array is made under a name that was opened, and whoever opened it sees nothing of it.
    let early = daemon.connect("r9").expect("made");
    home.umd("create r9 -l1 -n2 --size 4M --assume-clean a b")
        .ok();
    assert_eq!(early.size_bytes(), 0);
    assert!(daemon.connect("r9").expect("it runs").size_bytes() > 0);
    home.umd("stop r9").fails(1);
    home.umd("stop -f r9").ok();
    assert_eq!(state().0, 404);
}

#[test]
fn an_array_with_too_few_members_waits_for_more() {
    let home = Home::new();
    home.umd("create r5 -l5 -n3 --size 8M --assume-clean a b c")
        .ok();
    let data = pattern(5, 1 << 20);
    home.nbd("r5").pwrite(0, &data).expect("writes");
    home.umd("stop r5").ok();
    let before = home.hashes();
    let refusal = home.umd("assemble r5 --no-degraded a c").fails(1);
    assert!(refusal.contains("umd manage r5 --run"), "{refusal}");
    let mdstat = home.umd("mdstat").ok().out;
    assert!(
        mdstat.contains("r5 : inactive c[2](S) a[0](S)\n      ")
            && mdstat.contains(" blocks super 1.2\n       \n"),
        "{mdstat}"
    );
    let detail = home.umd("detail r5").ok().out;
    assert!(
        detail.contains("             State : inactive\n"),
        "{detail}"
    );
    assert_eq!(home.umd("array-state r5").ok().out, "inactive\n");
    assert_eq!(home.detail("r5")["array_state"], "inactive");
    // Its members are its own.
    home.umd("create x -l1 -n2 --size 4M --force a d").fails(1);
    home.umd("stop r5").ok();
    assert_eq!(home.hashes(), before, "nothing was written");
    home.umd("assemble r5 --no-degraded a c").fails(1);
    home.umd("manage r5 --run").ok();
    assert_eq!(home.detail("r5")["degraded"], 1);
    assert_eq!(home.nbd("r5").pread(0, 1 << 20).expect("reads"), data);
    // And back again.
    home.umd("array-state r5 inactive").ok();
    assert_eq!(home.detail("r5")["array_state"], "inactive");
    home.umd("array-state r5 active").ok();
    assert_eq!(home.nbd("r5").pread(0, 1 << 20).expect("reads"), data);
    home.umd("array-state r5 clear").ok();
    home.umd("assemble r5 --run a c").ok();
}

#[test]
fn states_are_written_as_with_md() {
    let home = Home::new();
    home.umd("create r1 -l1 -n2 --size 4M --assume-clean a b")
        .ok();
    let state = || home.umd("array-state r1").ok().out.trim_end().to_owned();
    home.umd("array-state r1 --safe-mode-delay 600000").ok();
    assert_eq!(home.detail("r1")["safe_mode_delay_ms"], 600_000);
    let mut client = home.nbd("r1");
    client.pwrite(0, &[1; 4096]).expect("writes");
    assert_eq!(state(), "active");
    home.umd("array-state r1 clean").ok();
    eventually("it is clean", || state() == "clean");
    for word in ["readonly", "read-auto", "inactive", "clear"] {
        let refusal = home.umd(&format!("array-state r1 {word}")).fails(1);
        assert!(refusal.contains("it is open by"), "{refusal}");
    }
    for word in ["suspended", "write-pending", "active-idle", "broken", "up"] {
        home.umd(&format!("array-state r1 {word}")).fails(2);
    }
    client.disconnect().expect("leaves");
    eventually("the door is closed", || {
        home.umd("array-state r1 read-auto").code == 0
    });
    assert_eq!(state(), "read-auto");
    let mdstat = home.umd("mdstat").ok().out;
    assert!(
        mdstat.contains("r1 : active (auto-read-only) raid1"),
        "{mdstat}"
    );
    let before = home.hashes();
    let mut client = home.nbd("r1");
    client.pread(0, 4096).expect("reads");
    assert_eq!(home.hashes(), before);
    client.pwrite(4096, &[2; 4096]).expect("the first write");
    assert_eq!(state(), "active");
    client.disconnect().expect("leaves");
    eventually("the door is closed", || {
        home.umd("array-state r1 readonly").code == 0
    });
    assert_eq!(state(), "readonly");
    home.umd("array-state r1 active").ok();
    assert_eq!(state(), "clean");
    // The name goes by itself, and the next array of that name waits for that.
    home.umd("array-state r1 clear").ok();
    home.umd("assemble r1 --read-auto a b").ok();
    assert_eq!(state(), "read-auto");
    home.umd("manage r1 --fail b").ok();
    assert_ne!(state(), "read-auto", "who wants a change wants it written");
}
