//! `umd monitor`: mdadm's events, as programs, mails and the system log get them.

mod common;

use common::{Home, eventually};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};

/// A program that writes down what it was run with, and the file it writes to.
fn program(home: &Home, name: &str, script: &str) {
    let path = home.path(name);
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("writes");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("permissions");
}

fn recorder(home: &Home) {
    let file = home.path("events");
    let line = r#"echo "$# [$1] [$2] [$3]""#;
    program(home, "prog", &format!("{line} >> {}", file.display()));
}

fn events(home: &Home) -> String {
    fs::read_to_string(home.path("events")).unwrap_or_default()
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn monitor(home: &Home, options: &str) -> Running {
    let program = home.path("prog");
    let line = format!(
        "monitor --scan -c none --program {} {options}",
        program.display()
    );
    let mut command: Command = home.command(&line);
    Running(command.stdout(Stdio::null()).spawn().expect("umd runs"))
}

/// States of an array's members, by their names.
fn members(home: &Home, name: &str) -> Vec<(String, String)> {
    let members = home.detail(name)["members"].clone();
    let mut all: Vec<(String, String)> = members
        .as_array()
        .expect("members")
        .iter()
        .map(|member| {
            let text = |key: &str| member[key].as_str().expect("text").to_owned();
            let path = text("path");
            let name = path.rsplit('/').next().expect("a name");
            (name.to_owned(), text("state"))
        })
        .collect();
    all.sort();
    all
}

#[test]
fn a_spare_moves_to_where_it_is_needed() {
    let home = Home::new();
    recorder(&home);
    home.umd("create rich -l1 -n2 -x1 -z 4M --assume-clean a b spare")
        .ok();
    home.umd("create poor -l5 -n3 -z 2M --assume-clean x y z")
        .ok();
    home.umd("create alone -l1 -n2 -z 2M --assume-clean p q")
        .ok();
    let conf = "ARRAY rich name=rich spare-group=shelf\nARRAY poor name=poor spare-group=shelf\n\
                ARRAY alone name=alone\n";
    fs::write(home.path("conf"), conf).expect("writes");
    let program = home.path("prog");
    let program = program.display();
    let lack = ["x", "y"].map(|name| (name.to_owned(), "in_sync".to_owned()));
    home.umd("manage poor --fail z --remove z").ok();
    home.umd("manage alone --fail q --remove q").ok();
    let once = format!("monitor --scan -1 -c conf --program {program}");
    home.umd(&format!("{once} --no-sharing")).ok();
    assert_eq!(members(&home, "poor"), lack);
    assert!(!events(&home).contains("MoveSpare"));
    fs::remove_file(home.path("events")).expect("removes");
    home.umd(&once).ok();
    let told = events(&home);
    let line = "3 [MoveSpare] [/dev/md/poor] [/dev/md/rich]\n";
    assert_eq!(told.matches("MoveSpare").count(), 1, "{told}");
    assert!(told.ends_with(line), "{told}");
    home.settle("poor");
    eventually("the rebuild", || home.detail("poor")["degraded"] == 0);
    assert!(
        members(&home, "poor")
            .iter()
            .any(|(name, _)| name == "spare")
    );
    assert_eq!(members(&home, "rich").len(), 2);
    assert_eq!(members(&home, "alone").len(), 1, "it is of no group");

    // A monitor that runs does it at once.
    let file = fs::File::create(home.path("large")).expect("makes");
    file.set_len(16 << 20).expect("grows");
    home.umd("manage rich --add large").ok();
    let running = format!("monitor --scan -d 1 -c conf --program {program}");
    let _running = Running(
        home.command(&running)
            .stdout(Stdio::null())
            .spawn()
            .expect("runs"),
    );
    eventually("it to be awake", || {
        events(&home).matches("DegradedArray").count() == 3
    });
    home.umd("manage poor --fail x").ok();
    eventually("the move", || events(&home).matches(line).count() == 2);
    assert!(
        members(&home, "poor")
            .iter()
            .any(|(name, _)| name == "large")
    );
}

#[test]
fn one_look_tells_of_new_degraded_and_missing() {
    let home = Home::new();
    recorder(&home);
    home.umd("create r5 -l5 -n3 -z 1M --assume-clean --run a.img b.img missing")
        .ok();
    home.umd("create z -l0 -n2 -z 1M x.img y.img").ok();
    let program = home.path("prog");
    let line = format!("monitor --scan -1 -c none --program {}", program.display());
    home.umd(&line).ok();
    assert_eq!(
        events(&home),
        "2 [NewArray] [/dev/md/r5] []\n2 [DegradedArray] [/dev/md/r5] []\n"
    );
    fs::remove_file(home.path("events")).expect("removes");
    fs::write(home.path("conf"), "ARRAY r5 name=r5 spares=1\nMAILADDR x\n").expect("writes");
    let line = format!("-F -s -1 -t -c conf -p {}", program.display());
    let mut command = home.command(&line);
    command.env("UMD_SENDMAIL", "/bin/true");
    assert!(command.status().expect("umd runs").success());
    assert_eq!(
        events(&home),
        "2 [TestMessage] [/dev/md/r5] []\n2 [DegradedArray] [/dev/md/r5] []\n\
         2 [SparesMissing] [/dev/md/r5] []\n"
    );
    fs::remove_file(home.path("events")).expect("removes");
    home.umd(&format!(
        "monitor -1 -c none nobody z --program {}",
        program.display()
    ))
    .ok();
    assert_eq!(
        events(&home),
        "2 [DeviceDisappeared] [/dev/md/nobody] []\n\
         3 [DeviceDisappeared] [/dev/md/z] [ Wrong-Level]\n"
    );
    let silent = home.umd("monitor --scan -1 -c none").fails(1);
    assert_eq!(
        silent,
        "umd: No mail address or alert command - not monitoring.\n"
    );
    home.umd("monitor").fails(1);
    home.umd("monitor --scan --delay x").fails(2);
    home.umd("monitor --scan -r 100 --mail x").fails(2);
}

#[test]
fn a_life_of_an_array_is_told() {
    let home = Home::new();
    recorder(&home);
    let _monitor = monitor(&home, "--delay 1 --increment 50");
    home.umd("create r1 -l1 -n2 -z 8M --assume-clean a.img b.img")
        .ok();
    let told = |line: &str| eventually(line, || events(&home).contains(line));
    told("2 [NewArray] [/dev/md/r1] []\n");
    home.umd("r1 --fail b.img").ok();
    let b = home.path("b.img").display().to_string();
    told(&format!("3 [Fail] [/dev/md/r1] [{b}]\n"));
    let size = fs::metadata(home.path("a.img")).expect("there").len();
    let new = fs::File::create(home.path("c.img")).expect("creates");
    new.set_len(size).expect("grows");
    home.umd("r1 --remove b.img --add c.img").ok();
    told("2 [RebuildStarted] [/dev/md/r1] []\n");
    told("2 [RebuildFinished] [/dev/md/r1] []\n");
    let c = home.path("c.img").display().to_string();
    told(&format!("3 [SpareActive] [/dev/md/r1] [{c}]\n"));
    home.settle("r1");
    // A slow check over members that differ.
    let offset = home.detail("r1")["members"][0]["data_offset_bytes"]
        .as_u64()
        .expect("a place");
    let file = fs::OpenOptions::new()
        .write(true)
        .open(home.path("c.img"))
        .expect("opens");
    std::os::unix::fs::FileExt::write_all_at(&file, &[7; 4096], offset + 65536).expect("writes");
    home.umd("action r1 check --speed-max 3000").ok();
    told("2 [Rebuild50] [/dev/md/r1] []\n");
    home.umd("action r1 --speed-max system").ok();
    let mismatch = "3 [RebuildFinished] [/dev/md/r1] [ mismatches found: 128 (on raid level 1)]\n";
    told(mismatch);
    home.umd("stop r1").ok();
    told("2 [DeviceDisappeared] [/dev/md/r1] []\n");
    home.umd("assemble r1 a.img c.img").ok();
    eventually("it is new again", || {
        events(&home).matches("[NewArray]").count() == 2
    });
    assert_eq!(
        events(&home).matches("[Fail]").count(),
        1,
        "{}",
        events(&home)
    );
    assert_eq!(
        events(&home).matches("[RebuildStarted]").count(),
        2,
        "{}",
        events(&home)
    );
    assert_eq!(
        events(&home).matches("[RebuildFinished]").count(),
        2,
        "{}",
        events(&home)
    );
}

#[test]
fn mails_and_the_system_log_get_what_mdadm_sends() {
    let home = Home::new();
    let mail = home.path("mail");
    program(
        &home,
        "sendmail",
        &format!("{{ echo \"ARGS $*\"; cat; }} >> {}", mail.display()),
    );
    let log = UnixDatagram::bind(home.path("log")).expect("binds");
    log.set_read_timeout(Some(common::PATIENCE)).expect("sets");
    home.umd("create r1 -l1 -n2 -z 1M --assume-clean --run a.img missing")
        .ok();
    fs::write(home.path("conf"), "MAILADDR root@x\nMAILFROM Me <a@b>\n").expect("writes");
    let mut command = home.command("monitor --scan --oneshot --syslog --config conf");
    command
        .env("UMD_SENDMAIL", home.path("sendmail"))
        .env("UMD_SYSLOG", home.path("log"));
    assert!(command.status().expect("umd runs").success());
    let mail = fs::read_to_string(mail).expect("a mail");
    let head = "ARGS -t\nFrom: Me <a@b>\nTo: root@x\nSubject: DegradedArray event on /dev/md/r1:";
    assert!(mail.starts_with(head), "{mail}");
    assert!(mail.contains("\nr1 : active raid1 a.img[0]\n"), "{mail}");
    assert_eq!(
        mail.matches("ARGS").count(),
        1,
        "NewArray is no reason for a mail"
    );
    let receive = || {
        let mut bytes = [0; 1024];
        let length = log.recv(&mut bytes).expect("a line");
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    };
    let (new, degraded) = (receive(), receive());
    assert!(new.starts_with("<30>"), "{new}");
    assert!(
        new.ends_with(": NewArray event detected on md device /dev/md/r1"),
        "{new}"
    );
    assert!(
        degraded.starts_with("<26>") && degraded.contains("DegradedArray"),
        "{degraded}"
    );
}

#[test]
fn in_the_background_it_says_who_it_is() {
    let home = Home::new();
    recorder(&home);
    home.umd("create r1 -l1 -n2 -z 1M --assume-clean a.img b.img")
        .ok();
    let line = format!(
        "monitor --scan -c none --daemonise --pid-file pid --program {}",
        home.path("prog").display()
    );
    let ran = home.umd(&line).ok();
    let pid = fs::read_to_string(home.path("pid")).expect("a pid file");
    assert_eq!(ran.out, pid);
    eventually("it tells", || events(&home).contains("NewArray"));
    let killed = Command::new("kill").arg(pid.trim()).status();
    assert!(killed.expect("kill runs").success());
}

#[test]
fn scrubs_are_remembered_beyond_the_daemon() {
    let home = Home::new();
    home.umd("create r1 -l1 -n2 -z 1M --assume-clean a.img b.img")
        .ok();
    let offset = home.detail("r1")["members"][0]["data_offset_bytes"]
        .as_u64()
        .expect("a place");
    let file = fs::OpenOptions::new()
        .write(true)
        .open(home.path("b.img"))
        .expect("opens");
    std::os::unix::fs::FileExt::write_all_at(&file, &[7; 4096], offset + 65536).expect("writes");
    home.umd("action r1 check --wait").ok();
    home.umd("action r1 repair --wait").ok();
    eventually("both are remembered", || {
        home.detail("r1")["scrubs"]
            .as_array()
            .is_some_and(|all| all.len() == 2)
    });
    let pid = home.daemon_pid().expect("a daemon");
    home.umd("stop r1").ok();
    // Not by asking it: it goes when nobody does.
    let process = std::path::PathBuf::from(format!("/proc/{pid}/cmdline"));
    eventually("the daemon goes", || {
        fs::read(&process).is_ok_and(|words| words.is_empty()) || !process.exists()
    });
    home.umd("assemble r1 a.img b.img").ok();
    let detail = home.detail("r1");
    assert_eq!(detail["scrubs"][0]["action"], "check");
    assert_eq!(detail["scrubs"][0]["complete"], true);
    assert_eq!(detail["scrubs"][0]["mismatch_cnt"], 128);
    assert_eq!(detail["scrubs"][1]["action"], "repair");
    let text = home.umd("detail r1").ok().out;
    assert!(text.contains("             Scrub : "), "{text}");
    assert!(text.contains("(check done after 0:00:0"), "{text}");
    assert!(text.contains(", mismatches: 128)\n"), "{text}");
}
