//! The generated units, read by systemd itself: what it does not know, it would pass over.

mod common;

use std::fs;
use std::process::Command;

use common::Home;

/// `systemd-analyze verify` is silent about units in which nothing is wrong. What it says about one
/// with a misspelt word shows that it looks.
#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    if Command::new("systemd-analyze")
        .arg("--version")
        .output()
        .is_err()
    {
        eprintln!("SKIPPED systemd_finds_nothing_wrong_with_the_units: no systemd-analyze");
        return;
    }
    let home = Home::new();
    home.umd("generate units units").ok();
    let dir = home.path("units");
    let verify = |names: &[&str]| {
        let mut command = Command::new("systemd-analyze");
        command.args(["verify", "--man=no"]).current_dir(&dir);
        command.env("SYSTEMD_UNIT_PATH", format!("{}:", dir.display()));
        let output = command.args(names).output().expect("runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        // About what the machine has installed it may say what it likes.
        let about = |line: &&str| line.contains("umd") || line.contains("units/");
        let lines: Vec<&str> = said.lines().filter(about).collect();
        (output.status.success(), lines.join("\n"))
    };
    for (template, instance) in [
        ("umd@.service", "umd@r5.service"),
        ("umd@.socket", "umd@r5.socket"),
        ("umd-check@.service", "umd-check@r5.service"),
        ("umd-check@.timer", "umd-check@r5.timer"),
    ] {
        fs::copy(dir.join(template), dir.join(instance)).expect("copies");
    }
    let all = [
        "umd.service",
        "umd.socket",
        "umd-monitor.service",
        "umd@r5.service",
        "umd@r5.socket",
        "umd-check@r5.service",
        "umd-check@r5.timer",
    ];
    for name in all {
        assert_eq!(verify(&[name]), (true, String::new()), "{name}");
    }
    let path = dir.join("umd.service");
    let text = fs::read_to_string(&path).expect("reads");
    assert!(text.contains("\nFileDescriptorStoreMax=") && text.contains("\nNotifyAccess=main\n"));
    let wrong = text.replace("FileDescriptorStoreMax", "FileDescriptorStoreMux");
    fs::write(&path, wrong).expect("writes");
    let (_, said) = verify(&["umd.service"]);
    assert!(said.contains("FileDescriptorStoreMux"), "it looks: {said}");
}
