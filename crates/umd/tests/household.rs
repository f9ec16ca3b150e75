//! The daemon: started when needed, once, gone when not needed; and `umd serve` without it.

mod common;

use common::{Home, PATIENCE, eventually, pattern, terminate};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Child;
use std::time::{Duration, Instant};
use umd_export::nbd::Address;
use umd_export::nbd::client::Client;

#[test]
fn commands_that_race_to_start_the_daemon_all_succeed() {
    let home = Home::new();
    let children: Vec<Child> = (0..6)
        .map(|n| {
            home.spawn(&format!(
                "create r{n} -l1 -n2 --size 4M --assume-clean a{n}.img b{n}.img"
            ))
        })
        .collect();
    for child in children {
        let output = child.wait_with_output().expect("ends");
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{err}");
    }
    let list = home.umd("mdstat --json").ok().json();
    let arrays = list["arrays"].as_array().expect("arrays");
    assert_eq!(arrays.len(), 6);
    let pids: Vec<_> = arrays.iter().map(|array| array["pid"].as_u64()).collect();
    assert!(
        pids.iter().all(|pid| *pid == pids[0]),
        "one daemon runs them all: {pids:?}"
    );
}

#[test]
fn the_daemon_leaves_after_the_last_array_and_comes_back() {
    let home = Home::new();
    home.umd("create r1 -l1 -n2 --size 4M --assume-clean a b")
        .ok();
    let socket = home.runtime().join("umd/control.sock");
    let mode = fs::metadata(&socket)
        .expect("a socket")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let first = home.daemon_pid().expect("a daemon");
    home.umd("stop r1").ok();
    eventually("the daemon leaves", || !socket.exists());
    assert!(!home.runtime().join("umd/nbd.sock").exists());
    home.umd("assemble r1 a b").ok();
    assert_ne!(home.daemon_pid().expect("a daemon"), first);
}

/// Creation right at the moment the daemon leaves, again and again.
#[test]
fn leaving_does_not_race_with_creating() {
    let home = Home::new();
    home.umd("create r1 -l1 -n2 --size 4M --assume-clean a b")
        .ok();
    home.umd("stop r1").ok();
    let dir = home.runtime().join("umd");
    for linger_ms in [0, 20, 60, 120, 200, 210, 220, 240] {
        eventually("the last daemon is gone", || {
            !dir.join("control.sock").exists()
        });
        let mut daemon = home.spawn(&format!("daemon --linger --linger-ms {linger_ms}"));
        home.umd("assemble r1 a b").ok();
        home.umd("stop r1").ok();
        let _ = daemon.wait();
    }
}

#[test]
fn a_second_daemon_is_refused() {
    let home = Home::new();
    home.umd("create r1 -l1 -n2 --size 4M --assume-clean a b")
        .ok();
    let refusal = home.umd("daemon").fails(1);
    assert!(refusal.contains("a daemon is running already"), "{refusal}");
}

#[test]
fn a_daemon_of_another_version_is_not_talked_to() {
    let home = Home::new();
    fs::create_dir_all(home.runtime().join("umd")).expect("directory");
    let listener = UnixListener::bind(home.runtime().join("umd/control.sock")).expect("binds");
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        let mut request = [0; 1024];
        let _ = stream.read(&mut request).expect("a request");
        let body = r#"{"schema":1,"version":"99.0.0","api":9,"pid":1,"nbd":[]}"#;
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
        stream
            .write_all(format!("{head}{body}").as_bytes())
            .expect("answers");
    });
    let refusal = home.umd("mdstat").fails(1);
    assert!(
        refusal.contains("is version 99.0.0 (API 9), this is"),
        "{refusal}"
    );
    server.join().expect("served");
}

#[test]
fn a_runtime_directory_of_somebody_else_is_refused() {
    let home = Home::new();
    fs::write(home.path("file"), "").expect("writes");
    let line = format!("--runtime-dir {} daemon", home.path("file").display());
    let refusal = home.umd(&line).fails(1);
    assert!(refusal.contains("runtime directory"), "{refusal}");
}

/// One request to the control socket, as any HTTP client would make it.
fn http(home: &Home, request: &str) -> (String, String) {
    let mut stream =
        UnixStream::connect(home.runtime().join("umd/control.sock")).expect("connects");
    stream.write_all(request.as_bytes()).expect("asks");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answers");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    (head.to_owned(), body.to_owned())
}

#[test]
fn the_api_answers_any_http_client() {
    let home = Home::new();
    home.umd("create r1 -l1 -n2 --size 4M --assume-clean a b")
        .ok();
    let get = |path: &str| {
        http(
            &home,
            &format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
        )
    };
    let (head, body) = get("/v1/arrays/r1");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let array: serde_json::Value = serde_json::from_str(&body).expect("json");
    assert_eq!(
        (&array["schema"], &array["level"]),
        (&1.into(), &"raid1".into())
    );
    let (head, body) = get("/v1/mdstat");
    assert!(
        head.contains("text/plain") && body.contains("r1 : active raid1 "),
        "{head}\n{body}"
    );
    let (head, body) = get("/v1/arrays/nobody");
    assert!(head.starts_with("HTTP/1.1 404"), "{head}");
    assert!(
        body.contains("does not appear to be an active array"),
        "{body}"
    );
    let (head, _) = get("/v2/arrays");
    assert!(head.starts_with("HTTP/1.1 404"), "{head}");
    let bad = "POST /v1/create HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
               Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
    let (head, body) = http(&home, bad);
    assert!(head.starts_with("HTTP/1.1 400"), "{head}");
    assert!(body.contains("missing field"), "{body}");
}

#[test]
fn events_are_streamed() {
    let home = Home::new();
    home.umd("create r1 -l1 -n2 --size 4M --assume-clean a b")
        .ok();
    let mut stream =
        UnixStream::connect(home.runtime().join("umd/control.sock")).expect("connects");
    stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
    stream
        .write_all(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
        .expect("asks");
    let mut lines = BufReader::new(stream).lines();
    let head = lines.next().expect("a head").expect("reads");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    home.umd("manage r1 --fail b").ok();
    let fail = lines
        .map(|line| line.expect("reads"))
        .find(|line| line == "event: Fail");
    assert!(fail.is_some());
}

/// Waits for the line that says where an `umd serve` listens.
fn served_at(child: &mut Child) -> String {
    let mut err = BufReader::new(child.stderr.take().expect("a pipe")).lines();
    let line = err.find_map(|line| {
        let line = line.expect("reads");
        line.contains(" is served at ").then_some(line)
    });
    // Keep reading, so that it never blocks on a full pipe.
    std::thread::spawn(move || err.for_each(drop));
    line.expect("it says where it listens")
}

#[test]
fn serve_runs_one_array_in_the_foreground() {
    let home = Home::new();
    home.umd("create r5 -l5 -n3 --size 8M --assume-clean a b c")
        .ok();
    home.umd("stop r5").ok();
    let daemon_socket = home.runtime().join("umd/control.sock");
    eventually("the daemon leaves", || !daemon_socket.exists());
    let mut serve = home.spawn("serve r5 a b c");
    let at = served_at(&mut serve);
    assert!(
        at.contains("r5 is served at nbd+unix:///r5?socket="),
        "{at}"
    );
    // Other commands find it without a daemon.
    let mut client = home.nbd("r5");
    client.pwrite(0, &pattern(5, 1 << 20)).expect("writes");
    client.disconnect().expect("leaves");
    assert!(home.umd("mdstat").ok().out.contains("r5 : active raid5 "));
    home.umd("manage r5 --fail b").ok();
    assert_eq!(home.detail("r5")["pid"].as_u64(), Some(serve.id().into()));
    assert!(!daemon_socket.exists());
    home.umd("serve r5 a b c").fails(1);
    terminate(&serve);
    assert_eq!(serve.wait().expect("ends").code(), Some(0));
    let examined = home.umd("examine a --json").ok().json();
    assert_eq!(examined["devices"][0]["superblock"]["state"], "clean");
    assert_eq!(examined["devices"][0]["superblock"]["array_state"], "A.A");
    assert_eq!(
        home.umd("mdstat").ok().out.lines().count(),
        2,
        "nothing is left behind"
    );
}

/// `ulimit -f` is in the environment of many services. It must cost writes, not the process.
#[test]
fn a_file_size_limit_fails_writes_and_nothing_more() {
    let home = Home::new();
    home.umd("create r1 -l1 -n2 --size 16M --assume-clean a b")
        .ok();
    let data = pattern(11, 1 << 20);
    let mut client = home.nbd("r1");
    client.pwrite(0, &data).expect("writes");
    client.disconnect().expect("leaves");
    home.umd("stop r1").ok();
    let serve = home.command("serve r1 a b");
    let mut limited = std::process::Command::new("sh");
    limited
        .args(["-c", "ulimit -f 16384; exec \"$0\" \"$@\""]) // 8 or 16 MiB: shells differ.
        .arg(serve.get_program())
        .args(serve.get_args())
        .current_dir(home.path(""))
        .env("XDG_RUNTIME_DIR", home.runtime())
        .stdin(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped());
    let mut serve = limited.spawn().expect("sh runs");
    served_at(&mut serve);
    let mut client = home.nbd("r1");
    client
        .pwrite((16 << 20) - 4096, &[1; 4096])
        .expect_err("there is a limit");
    assert_eq!(client.pread(0, 1 << 20).expect("reads"), data);
    let reason = home.detail("r1")["reason"].to_string();
    assert!(reason.contains("File too large"), "{reason}");
    client.disconnect().expect("leaves");
    terminate(&serve);
    serve.wait().expect("ends");
}

#[test]
fn serve_listens_where_it_is_told_and_stops_when_asked() {
    let home = Home::new();
    home.umd("create r1 -l1 -n2 --size 4M --assume-clean a b")
        .ok();
    home.umd("stop r1").ok();
    let socket = home.path("door.sock");
    let line = format!(
        "serve r1 a b --nbd unix:{} --nbd tcp:127.0.0.1:0",
        socket.display()
    );
    let mut serve = home.spawn(&line);
    served_at(&mut serve);
    eventually("both doors are open", || {
        home.detail("r1")["nbd"].as_array().map(Vec::len) == Some(2)
    });
    assert!(socket.exists());
    let start = Instant::now();
    home.umd("stop r1").ok();
    assert_eq!(serve.wait().expect("ends").code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(10));
    assert!(!socket.exists());
}

#[test]
fn a_socket_path_that_is_taken_is_left_alone() {
    let home = Home::new();
    home.umd("create r1 -l1 -n2 --size 4M --assume-clean a b")
        .ok();
    home.umd("stop r1").ok();
    fs::write(home.path("precious"), "precious").expect("writes");
    let before = home.hashes();
    let line = format!(
        "serve r1 a b --nbd unix:{}",
        home.path("precious").display()
    );
    let refusal = home.umd(&line).fails(1);
    assert!(refusal.contains("exists and is not a socket"), "{refusal}");
    assert_eq!(home.hashes(), before);
}

#[test]
fn the_daemon_stops_its_arrays_cleanly_when_told_to_go() {
    let home = Home::new();
    let mut daemon = home.spawn("daemon");
    eventually("the daemon is there", || home.daemon_pid().is_some());
    home.umd("create r5 -l5 -n3 --size 8M --assume-clean a b c")
        .ok();
    home.nbd("r5")
        .pwrite(0, &pattern(1, 1 << 20))
        .expect("writes");
    terminate(&daemon);
    assert_eq!(daemon.wait().expect("ends").code(), Some(0));
    let examined = home.umd("examine a b c --json").ok().json();
    for device in examined["devices"].as_array().expect("devices") {
        assert_eq!(device["superblock"]["state"], "clean");
    }
}

#[test]
fn a_killed_daemon_leaves_nothing_in_the_way() {
    let home = Home::new();
    home.umd("create r5 -l5 -n3 --size 8M --assume-clean --bitmap internal a b c")
        .ok();
    let data = pattern(9, 1 << 20);
    let mut client = home.nbd("r5");
    client.pwrite(0, &data).expect("writes");
    client.flush().expect("flushes");
    let pid = i32::try_from(home.daemon_pid().expect("a daemon")).expect("a pid");
    let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("signals");
    let socket = home.runtime().join("umd/control.sock");
    eventually("the daemon is dead", || home.daemon_pid().is_none());
    assert!(socket.exists(), "it had no time to tidy up");
    let started = home.umd("assemble a b c").ok();
    let last = started.err.lines().last();
    assert_eq!(last, Some("umd: r5 has been started with 3 drives."));
    assert_eq!(home.nbd("r5").pread(0, 1 << 20).expect("reads"), data);
    home.settle("r5");
    home.umd("action r5 check --wait").ok();
    assert_eq!(home.detail("r5")["mismatch_cnt"], 0);
}

/// A daemon with one idle array stays under 20 MiB, also when it had a lot to do before.
#[test]
fn an_idle_daemon_is_small() {
    let home = Home::new();
    home.umd("create r5 -l5 -n3 --size 32M --assume-clean a b c")
        .ok();
    let pid = home.daemon_pid().expect("a daemon");
    let resident_kib = || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("reads");
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .expect("VmRSS");
        let digits: String = line.chars().filter(char::is_ascii_digit).collect();
        digits.parse::<u64>().expect("a number")
    };
    let fresh = resident_kib();
    assert!(fresh < 20 << 10, "{fresh} KiB before anything was done");
    let clients: Vec<_> = (0..4u64)
        .map(|n| {
            let mut client = home.nbd("r5");
            std::thread::spawn(move || {
                for round in 0..8 {
                    let offset = (n * 8 + round) << 20;
                    client
                        .pwrite(offset, &pattern(offset, 1 << 20))
                        .expect("writes");
                }
                client.disconnect().expect("leaves");
            })
        })
        .collect();
    clients
        .into_iter()
        .for_each(|client| client.join().expect("works"));
    eventually("the daemon gives memory back", || resident_kib() < 20 << 10);
}

/// The next daemon goes on with what ran, and clients that come back find what they were told was
/// written.
#[test]
fn a_killed_daemon_is_followed_by_one_that_runs_the_same_arrays() {
    let home = Home::new();
    home.umd("create r5 -l5 -n3 -x1 --size 8M --bitmap internal a b c d")
        .ok();
    home.umd("create r1 -l1 -n2 --size 4M --assume-clean e f")
        .ok();
    home.umd("create gone -l1 -n2 --size 4M --assume-clean g h")
        .ok();
    home.settle("r5");
    home.umd("manage r5 --fail b").ok();
    home.settle("r5");
    home.umd("stop gone").ok();
    let data = pattern(9, 65536);
    let mut client = home.nbd("r5");
    client.pwrite(4096, &data).expect("writes");
    client.flush().expect("flushes");
    let first = home.daemon_pid().expect("a daemon");
    kill(first);
    let text = home.umd("mdstat").ok();
    assert!(text.err.contains("the daemon was killed"), "{}", text.err);
    assert!(text.out.contains("r5 : active raid5"), "{}", text.out);
    assert!(text.out.contains("r1 : active raid1"), "{}", text.out);
    assert!(!text.out.contains("gone"), "{}", text.out);
    assert_ne!(home.daemon_pid().expect("a daemon"), first);
    let array = home.detail("r5");
    assert_eq!(
        array["degraded"], 0,
        "the spare has taken its place: {array}"
    );
    assert!(home.nbd("r5").pread(4096, 65536).expect("reads") == data);
    home.umd("stop --scan").ok();
    assert!(!home.runtime().join("umd/arrays.json").exists());
}

/// A daemon that is told to go forgets, unless it keeps; and what rests then is not woken by
/// somebody who only looks.
#[test]
fn a_daemon_that_keeps_starts_its_arrays_again() {
    let home = Home::new();
    fs::create_dir_all(home.runtime()).expect("runtime directory");
    let socket = home.runtime().join("umd/control.sock");
    let start = |options: &str| {
        let child = home.spawn(&format!("daemon {options}"));
        eventually("the daemon answers", || {
            home.daemon_pid() == Some(child.id())
        });
        child
    };
    let end = |mut child: Child| {
        terminate(&child);
        assert!(child.wait().expect("ends").success());
        assert!(!socket.exists());
    };
    let daemon = start("--keep");
    home.umd("create r1 -l1 -n2 --size 4M --assume-clean a b")
        .ok();
    end(daemon);
    assert!(!home.umd("mdstat").ok().out.contains("r1"));
    assert!(!socket.exists(), "nobody was started for a look");
    let daemon = start("");
    assert!(
        !home.umd("mdstat").ok().out.contains("r1"),
        "it does not keep"
    );
    end(daemon);
    let daemon = start("--keep");
    assert!(home.umd("mdstat").ok().out.contains("r1 : active raid1"));
    home.umd("stop r1").ok();
    end(daemon);
    let daemon = start("--keep");
    assert!(
        !home.umd("mdstat").ok().out.contains("r1"),
        "it was stopped by a person"
    );
    end(daemon);
}

/// What cannot be started again is said, and the rest runs.
#[test]
fn an_array_whose_members_are_gone_does_not_keep_the_others_away() {
    let home = Home::new();
    home.umd("create r1 -l1 -n2 --size 4M --assume-clean a b")
        .ok();
    home.umd("create lost -l1 -n2 --size 4M --assume-clean c d")
        .ok();
    for round in 1..=3 {
        kill(home.daemon_pid().expect("a daemon"));
        for name in ["c", "d"] {
            let _ = fs::rename(home.path(name), home.path(&format!("{name}.away")));
        }
        let text = home.umd("mdstat").ok();
        assert!(text.out.contains("r1 : active"), "{}", text.out);
        assert!(!text.out.contains("lost"), "{}", text.out);
        let log = fs::read_to_string(home.runtime().join("umd/log")).expect("a log");
        for said in [&text.err, &log] {
            let sentence = "lost ran until the last daemon was killed";
            assert!(said.contains(sentence), "{said}");
            assert_eq!(said.contains("it is left to you"), round == 3, "{said}");
        }
    }
    let kept = fs::read_to_string(home.runtime().join("umd/arrays.json")).expect("a file");
    assert!(!kept.contains("lost"), "{kept}");
}

/// Kills a process of this test, and waits until it is gone (or a zombie).
fn kill(pid: u32) {
    let sent = std::process::Command::new("kill")
        .args(["-KILL", &pid.to_string()])
        .status();
    assert!(sent.expect("kill runs").success());
    eventually("the process ends", || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
        let zombie = |stat: String| stat.rsplit(") ").next().is_some_and(|r| r.starts_with('Z'));
        stat.map_or(true, zombie)
    });
}

/// systemd waits for the word that a daemon is ready; from then on its signal ends it properly.
#[test]
fn systemd_is_told_when_the_daemon_is_ready_and_when_it_goes() {
    let home = Home::new();
    fs::create_dir_all(home.runtime()).expect("runtime directory");
    let path = home.path("notify.sock");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).expect("binds");
    socket.set_read_timeout(Some(PATIENCE)).expect("a limit");
    // Doors that it hands over are looked at in fdstore.rs.
    let word = || loop {
        let mut text = [0; 512];
        let len = socket.recv(&mut text).expect("a word");
        let word = String::from_utf8_lossy(&text[..len]).into_owned();
        if !word.starts_with("FDSTORE=1\n") {
            return word;
        }
    };
    let mut command = home.command("daemon --keep");
    let mut daemon = command.env("NOTIFY_SOCKET", &path).spawn().expect("starts");
    assert_eq!(word(), "READY=1\n");
    terminate(&daemon);
    assert_eq!(word(), "STOPPING=1\n");
    assert!(daemon.wait().expect("ends").success());
}

/// The daemon as systemd starts it, which holds the sockets itself: the first is the control
/// socket, the others are doors.
fn start_with(home: &Home, line: &str, control: &UnixListener, door: &UnixListener) -> Child {
    let umd = home.command(line);
    let mut shell = std::process::Command::new("sh");
    // Descriptors come in as stdin and stdout: nothing else is passed on without unsafe code.
    let script = "exec 3<&0 4<&1 </dev/null 1>&2; \
                  LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=umd.socket:umd.socket \
                  exec \"$0\" \"$@\"";
    shell
        .args(["-c", script])
        .arg(umd.get_program())
        .args(umd.get_args())
        .current_dir(home.path(""))
        .env("XDG_RUNTIME_DIR", home.runtime())
        .env("XDG_STATE_HOME", home.path("state"))
        .stdin(std::os::fd::OwnedFd::from(
            control.try_clone().expect("a copy"),
        ))
        .stdout(std::os::fd::OwnedFd::from(
            door.try_clone().expect("a copy"),
        ));
    shell.spawn().expect("starts")
}

/// Control and NBD sockets of a household, bound by somebody else.
fn sockets(home: &Home) -> (UnixListener, UnixListener) {
    let dir = home.runtime().join("umd");
    fs::create_dir_all(&dir).expect("directory");
    let bind = |name| UnixListener::bind(dir.join(name)).expect("binds");
    (bind("control.sock"), bind("nbd.sock"))
}

/// Killed, restarted, upgraded: who asks while there is no daemon waits, and nobody is refused.
#[test]
fn sockets_that_somebody_else_holds_outlive_the_daemon() {
    let home = Home::new();
    let (control, door) = sockets(&home);
    let inodes = || ["control.sock", "nbd.sock"].map(|n| home.runtime().join("umd").join(n));
    let inodes = || inodes().map(|path| common::inode(&path));
    let before = inodes();
    let data = pattern(3, 65536);
    // Before there is a daemon at all.
    let early = home.spawn("create r1 -l1 -n2 --size 8M --assume-clean a b");
    let mut daemon = start_with(&home, "daemon --keep", &control, &door);
    let output = early.wait_with_output().expect("ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert_eq!(home.daemon_pid(), Some(daemon.id()), "no other was started");
    let nbd = home.detail("r1")["nbd"].clone();
    let own = format!("unix:{}", home.runtime().join("umd/nbd.sock").display());
    assert_eq!(nbd, serde_json::json!([own]));
    home.nbd("r1").pwrite(0, &data).expect("writes");

    // Killed, and told to go: the second is an upgrade.
    for round in 0..2 {
        match round {
            0 => kill(daemon.id()),
            _ => terminate(&daemon),
        }
        let status = daemon.wait().expect("ends");
        assert_eq!(status.success(), round == 1, "{status}");
        assert_eq!(inodes(), before, "the sockets are what they were");
        let asked = home.spawn("detail --json r1");
        let own: Address = own.parse().expect("an address");
        let reader = std::thread::spawn(move || {
            let mut client = Client::connect(&own, "r1").expect("is let in");
            client.pread(0, 65536).expect("reads")
        });
        std::thread::sleep(Duration::from_millis(200)); // Both have connected by now, or soon.
        assert!(!reader.is_finished(), "nobody is there to answer");
        daemon = start_with(&home, "daemon --keep", &control, &door);
        let output = asked.wait_with_output().expect("ends");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{said}");
        let document: serde_json::Value = serde_json::from_slice(&output.stdout).expect("json");
        assert_eq!(
            document["arrays"][0]["pid"].as_u64(),
            Some(daemon.id().into())
        );
        assert!(reader.join().expect("no error") == data);
    }
    home.umd("stop r1").ok();
    terminate(&daemon);
    assert!(daemon.wait().expect("ends").success());
    assert_eq!(inodes(), before);
}

#[test]
fn serve_takes_the_sockets_it_is_handed() {
    let home = Home::new();
    home.umd("create r1 -l1 -n2 --size 8M --assume-clean a b")
        .ok();
    home.umd("stop r1").ok();
    let dir = home.runtime().join("umd/serve");
    fs::create_dir_all(&dir).expect("directory");
    let bind = |name| UnixListener::bind(dir.join(name)).expect("binds");
    let (control, door) = (bind("r1.sock"), bind("r1.nbd"));
    let mut first = start_with(&home, "serve r1 a b", &control, &door);
    let data = pattern(4, 65536);
    assert_eq!(home.detail("r1")["pid"].as_u64(), Some(first.id().into()));
    home.nbd("r1").pwrite(0, &data).expect("writes");
    kill(first.id());
    let _ = first.wait();
    let mut second = start_with(&home, "serve r1 a b", &control, &door);
    assert!(home.nbd("r1").pread(0, 65536).expect("reads") == data);
    home.umd("stop r1").ok();
    assert!(second.wait().expect("ends").success());
    assert!(dir.join("r1.sock").exists() && dir.join("r1.nbd").exists());
}

#[test]
fn descriptors_that_are_no_listening_sockets_are_refused() {
    let home = Home::new();
    fs::create_dir_all(home.runtime()).expect("runtime directory");
    let (_control, door) = sockets(&home);
    let refusal = |name: &str, descriptor: std::os::fd::OwnedFd| {
        let umd = home.command("daemon");
        let script = "exec 3<&0 </dev/null; \
                      LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=$UMD_NAME exec \"$0\" daemon";
        let output = std::process::Command::new("sh")
            .args(["-c", script])
            .arg(umd.get_program())
            .env("XDG_RUNTIME_DIR", home.runtime())
            .env("UMD_NAME", name)
            .stdin(descriptor)
            .output()
            .expect("runs");
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).expect("text")
    };
    let file = fs::File::create(home.path("file")).expect("a file");
    let said = refusal("x", file.into());
    assert!(
        said.contains("descriptor 3 (x) from the service manager"),
        "{said}"
    );
    let (pair, _other) = UnixStream::pair().expect("a pair");
    assert!(refusal("x", pair.into()).contains("does not listen"));
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    assert!(refusal("control", tcp.into()).contains("is a Unix socket"));
    drop(door);
}

/// What clients had been told, the next daemon keeps: also a port that the system chose.
#[test]
fn doors_are_where_they_were_after_a_kill() {
    let home = Home::new();
    fs::create_dir_all(home.runtime()).expect("runtime directory");
    let mut daemon = home.spawn("daemon --nbd tcp:127.0.0.1:0");
    eventually("the daemon answers", || home.daemon_pid().is_some());
    home.umd("create r1 -l1 -n2 --size 8M --assume-clean a b")
        .ok();
    let doors = home.detail("r1")["nbd"].clone();
    assert_eq!(doors.as_array().map(Vec::len), Some(2), "{doors}");
    kill(daemon.id());
    let _ = daemon.wait();
    // The next command starts another one, and does not know of the port.
    assert_eq!(home.detail("r1")["nbd"], doors);
    kill(home.daemon_pid().expect("a daemon"));
    let mut daemon = home.spawn("daemon --nbd tcp:127.0.0.1:0");
    eventually("the daemon answers", || {
        home.daemon_pid() == Some(daemon.id())
    });
    assert_eq!(home.detail("r1")["nbd"], doors);
    terminate(&daemon);
    assert!(daemon.wait().expect("ends").success());
}
