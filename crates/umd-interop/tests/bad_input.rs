//! Bad input: one clear sentence on stderr, mdadm's exit code, and not one byte changed.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests; clippy knows only #[test] functions"
)]

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use umd_interop::oracle::Oracle;
use umd_interop::scratch::{Scratch, edit_superblock, fingerprints};
use umd_interop::umd::Umd;
use umd_interop::uml::Kernel;

const MIB: u64 = 1 << 20;
/// Where metadata 1.2 lies.
const PLACE: u64 = 4096;

/// Two RAID5 arrays made by the kernel, `a` and `b`, three members each.
fn arrays(oracle: &Oracle) -> Scratch {
    let scratch = Scratch::new().unwrap();
    let a = scratch.images("a", 3, 8 * MIB).unwrap();
    let b = scratch.images("b", 3, 8 * MIB).unwrap();
    Kernel::new(oracle)
        .members(a.iter().chain(&b))
        .script(
            "mdadm --create --run /dev/md0 -l5 -n3 -c64 --name=a $D0 $D1 $D2
            mdadm --create --run /dev/md1 -l5 -n3 -c64 --name=b $D3 $D4 $D5
            wait_idle md0; wait_idle md1
            mdadm --stop /dev/md0; mdadm --stop /dev/md1",
        )
        .run_ok()
        .unwrap();
    scratch
}

/// What is done to a fresh copy of the arrays, and what must be refused then.
struct Refused {
    name: &'static str,
    spoil: fn(&Path),
    /// Members given, by name in the folder.
    members: &'static [&'static str],
    /// The message must contain one of these (in lower case).
    words: &'static [&'static str],
}

fn set_u64(sb: &mut [u8], at: usize, value: u64) {
    sb[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

const REFUSED: [Refused; 13] = [
    Refused {
        name: "a truncated member",
        spoil: |dir| {
            let file = File::options()
                .write(true)
                .open(dir.join("a1.img"))
                .unwrap();
            file.set_len(5 * MIB).unwrap();
        },
        members: &["a0.img", "a1.img", "a2.img"],
        words: &["a1.img"],
    },
    Refused {
        name: "a member cut inside its superblock",
        spoil: |dir| {
            let file = File::options()
                .write(true)
                .open(dir.join("a1.img"))
                .unwrap();
            file.set_len(PLACE + 100).unwrap();
        },
        members: &["a0.img", "a1.img", "a2.img"],
        words: &["a1.img"],
    },
    Refused {
        name: "an empty file",
        spoil: |dir| fs::write(dir.join("e.img"), "").unwrap(),
        members: &["a0.img", "a1.img", "e.img"],
        words: &["e.img"],
    },
    Refused {
        name: "a foreign file",
        spoil: |dir| fs::write(dir.join("f.img"), "letters, no array\n".repeat(99_999)).unwrap(),
        members: &["a0.img", "a1.img", "f.img"],
        words: &["f.img"],
    },
    Refused {
        name: "a file that is not there",
        spoil: |_| {},
        members: &["a0.img", "a1.img", "gone.img"],
        words: &["gone.img"],
    },
    Refused {
        name: "a folder",
        spoil: |dir| fs::create_dir(dir.join("folder")).unwrap(),
        members: &["a0.img", "a1.img", "folder"],
        words: &["folder"],
    },
    Refused {
        name: "two members with one role",
        spoil: |dir| {
            fs::copy(dir.join("a0.img"), dir.join("twin.img")).unwrap();
        },
        members: &["a0.img", "twin.img", "a1.img", "a2.img"],
        words: &["twin.img", "a0.img"],
    },
    Refused {
        name: "the same member twice",
        spoil: |_| {},
        members: &["a0.img", "a0.img", "a1.img", "a2.img"],
        words: &["a0.img"],
    },
    Refused {
        name: "members of two arrays",
        spoil: |_| {},
        members: &["a0.img", "a1.img", "b2.img"],
        words: &["b2.img"],
    },
    Refused {
        name: "a bad checksum",
        spoil: |dir| {
            let file = File::options()
                .write(true)
                .open(dir.join("a1.img"))
                .unwrap();
            file.write_all_at(&[7], PLACE + 200).unwrap();
        },
        members: &["a0.img", "a1.img", "a2.img"],
        words: &["checksum"],
    },
    Refused {
        name: "unknown feature bits",
        spoil: |dir| edit_superblock(&dir.join("a1.img"), PLACE, |sb| sb[10] = 0x80).unwrap(),
        members: &["a0.img", "a1.img", "a2.img"],
        words: &["feature"],
    },
    Refused {
        name: "an event count that cannot be",
        spoil: |dir| {
            let member = dir.join("a1.img");
            edit_superblock(&member, PLACE, |sb| set_u64(sb, 200, u64::MAX)).unwrap();
        },
        members: &["a0.img", "a1.img", "a2.img"],
        words: &["event"],
    },
    Refused {
        name: "a superblock larger than its member",
        spoil: |dir| {
            for name in ["a0.img", "a1.img", "a2.img"] {
                let member = dir.join(name);
                edit_superblock(&member, PLACE, |sb| set_u64(sb, 136, 1 << 40)).unwrap();
            }
        },
        members: &["a0.img", "a1.img", "a2.img"],
        words: &["a0.img", "size", "small", "large", "beyond"],
    },
];

fn copy_folder(from: &Path) -> Scratch {
    let copy = Scratch::new().unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(
            &path,
            copy.path(path.file_name().unwrap().to_str().unwrap()),
        )
        .unwrap();
    }
    copy
}

/// Sentences in a message. As with mdadm, the choice of a default is told in a line of its own, a
/// line that ends with a colon goes on in the next, and details are indented.
fn sentences(message: &str) -> usize {
    let lines = message.trim().lines();
    let said = lines.filter(|line| {
        let text = line.strip_prefix("umd: ").unwrap_or(line);
        !text.starts_with("Defaulting to") && !text.starts_with(' ') && !text.ends_with(':')
    });
    said.count()
}

/// Runs umd; checks that it refuses with one sentence and changes nothing. Returns what is wrong.
fn refusal(umd: &Umd, folder: &Path, args: &[String], codes: &[i32], words: &[&str]) -> String {
    let before = fingerprints(folder).unwrap();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let output = umd.output(&args).unwrap();
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    let mut wrong = Vec::new();
    if !output
        .status
        .code()
        .is_some_and(|code| codes.contains(&code))
    {
        wrong.push(format!("ended with {}", output.status));
    }
    if sentences(&message) != 1 || message.contains("panicked") {
        wrong.push("did not say one sentence".to_string());
    }
    let lower = message.to_lowercase();
    if !words.iter().any(|word| lower.contains(word)) {
        wrong.push(format!("named none of {words:?}"));
    }
    if fingerprints(folder).unwrap() != before {
        wrong.push("changed a file".to_string());
    }
    if wrong.is_empty() {
        return String::new();
    }
    format!(
        "umd {}: {}; said:\n{message}",
        args.join(" "),
        wrong.join(", ")
    )
}

fn finish(failures: &[String]) {
    let failures: Vec<&String> = failures.iter().filter(|text| !text.is_empty()).collect();
    assert!(
        failures.is_empty(),
        "{} refusals are wrong:\n{failures:#?}",
        failures.len()
    );
}

#[test]
fn what_cannot_be_assembled_is_refused_untouched() {
    let Some(oracle) = Oracle::or_skip("bad input to assemble") else {
        return;
    };
    let Some(umd) = Umd::or_skip("bad input to assemble") else {
        return;
    };
    let originals = arrays(&oracle);
    let mut failures = Vec::new();
    for refused in &REFUSED {
        for command in ["assemble", "serve"] {
            let copy = copy_folder(&originals.path(""));
            let folder = copy.path("");
            (refused.spoil)(&folder);
            let mut args = vec![command.to_string(), "bad".to_string()];
            args.extend(
                refused
                    .members
                    .iter()
                    .map(|name| folder.join(name).display().to_string()),
            );
            let wrong = refusal(&umd, &folder, &args, &[1], refused.words);
            if !wrong.is_empty() {
                failures.push(format!("{}: {wrong}", refused.name));
            }
        }
    }
    finish(&failures);
}

#[test]
fn a_member_in_use_and_a_socket_that_exists_are_refused() {
    let Some(oracle) = Oracle::or_skip("members in use") else {
        return;
    };
    let Some(umd) = Umd::or_skip("members in use") else {
        return;
    };
    let scratch = arrays(&oracle);
    let folder = scratch.path("");
    let set = |prefix: &str| -> Vec<PathBuf> {
        (0..3)
            .map(|number| folder.join(format!("{prefix}{number}.img")))
            .collect()
    };
    let strings = |paths: &[PathBuf]| -> Vec<String> {
        paths
            .iter()
            .map(|path| path.display().to_string())
            .collect()
    };
    let serving = umd.serve("first", &set("a"), &[]).unwrap();
    let mut failures = Vec::new();
    for command in ["serve", "assemble"] {
        let mut args = vec![command.to_string(), "second".to_string()];
        args.extend(strings(&set("a")));
        failures.push(refusal(
            &umd,
            &folder,
            &args,
            &[1],
            &["in use", "busy", "locked"],
        ));
    }
    // Also through another umd with another runtime directory: the lock is on the file.
    let other = Umd::or_skip("members in use").unwrap();
    let mut args = vec!["assemble".to_string(), "second".to_string()];
    args.extend(strings(&set("a")));
    failures.push(refusal(
        &other,
        &folder,
        &args,
        &[1],
        &["in use", "busy", "locked"],
    ));
    serving.stop().unwrap();

    let taken = scratch.path("taken");
    fs::write(&taken, "a file of the user").unwrap();
    let live = scratch.path("live");
    let _listener = UnixListener::bind(&live).unwrap();
    for socket in [&taken, &live] {
        let mut args = vec!["serve".to_string(), "third".to_string()];
        args.extend(strings(&set("b")));
        args.extend(["--nbd".to_string(), format!("unix:{}", socket.display())]);
        failures.push(refusal(&umd, &folder, &args, &[1], &["exists", "in use"]));
    }
    finish(&failures);
}

#[test]
fn what_cannot_be_created_is_refused_untouched() {
    let Some(oracle) = Oracle::or_skip("bad input to create") else {
        return;
    };
    let Some(umd) = Umd::or_skip("bad input to create") else {
        return;
    };
    let scratch = arrays(&oracle);
    let folder = scratch.path("");
    scratch.images("n", 3, 8 * MIB).unwrap();
    scratch.images("tiny", 3, 64 << 10).unwrap();
    let create = |rest: &str| -> Vec<String> {
        let mut args: Vec<String> = vec!["create".into(), "bad".into()];
        args.extend(
            rest.split_whitespace()
                .map(|word| match word.ends_with(".img") {
                    true => folder.join(word).display().to_string(),
                    false => word.to_string(),
                }),
        );
        args
    };
    let rows: [(&str, &[i32], &[&str]); 10] = [
        ("-l5 -n3 a0.img n1.img n2.img", &[1, 2], &["a0.img"]),
        (
            "-l5 -n3 tiny0.img tiny1.img tiny2.img",
            &[1, 2],
            &["small", "tiny"],
        ),
        (
            "-l5 -n3 --size 64M n0.img n1.img n2.img",
            &[1, 2],
            &["size", "small", "large"],
        ),
        ("-l5 -n3 n0.img n1.img", &[1, 2], &["device"]),
        (
            "-l5 -n3 n0.img n1.img n1.img",
            &[1, 2],
            &["n1.img", "twice", "more than once"],
        ),
        ("-l17 -n3 n0.img n1.img n2.img", &[2], &["level"]),
        (
            "-l6 -n3 n0.img n1.img n2.img",
            &[1, 2],
            &["device", "at least", "4"],
        ),
        ("-l5 -n3 -c 5K n0.img n1.img n2.img", &[1, 2], &["chunk"]),
        (
            "-l5 -n3 --layout=sideways n0.img n1.img n2.img",
            &[1, 2],
            &["layout"],
        ),
        (
            "-l5 -n3 -e 7.1 n0.img n1.img n2.img",
            &[1, 2],
            &["metadata"],
        ),
    ];
    let failures: Vec<String> = rows
        .iter()
        .map(|(rest, codes, words)| refusal(&umd, &folder, &create(rest), codes, words))
        .collect();
    finish(&failures);
}

#[test]
fn a_member_that_is_too_small_is_not_added() {
    let Some(umd) = Umd::or_skip("adding a small member") else {
        return;
    };
    let scratch = Scratch::new().unwrap();
    let members: Vec<String> = scratch
        .images("a", 3, 8 * MIB)
        .unwrap()
        .iter()
        .map(|p| p.display().to_string())
        .collect();
    let small = scratch.images("small", 1, 4 * MIB).unwrap()[0]
        .display()
        .to_string();
    let mut args: Vec<&str> = vec!["create", "r5", "-l5", "-n3", "--assume-clean"];
    args.extend(members.iter().map(String::as_str));
    umd.ok(&args).unwrap();
    umd.ok(&[
        "manage",
        "r5",
        "--fail",
        &members[1],
        "--remove",
        &members[1],
    ])
    .unwrap();
    let wrong = umd.output(&["manage", "r5", "--add", &small]).unwrap();
    let message = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert_eq!(wrong.status.code(), Some(1), "{message}");
    assert!(
        message.contains("not large enough to join array"),
        "{message}"
    );
    assert!(
        fs::read(&small).unwrap().iter().all(|byte| *byte == 0),
        "the file was written"
    );
    umd.ok(&["stop", "r5"]).unwrap();
}
