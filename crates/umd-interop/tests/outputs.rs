//! What mdadm prints of arrays, and what umd prints of the same arrays.
//!
//! ```text
//!   mdadm --create, --stop, --assemble --readonly   in the kernel: --detail in all its forms
//!                     | the members
//!                     v
//!   umd assemble --readonly                         the same forms, line by line
//!   mdadm -E file                                   umd -E file: the same bytes
//! ```
//!
//! What differs by nature is made alike first: the paths of members, their device numbers, and the
//! order in which members are listed. All else has to be equal.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests; clippy knows only #[test] functions"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use umd_interop::oracle::Oracle;
use umd_interop::scratch::Scratch;
use umd_interop::umd::{Umd, text};
use umd_interop::uml::Kernel;

const MIB: u64 = 1 << 20;
/// Name, members (spares included), and how it is made; `$` stands for the members.
const ARRAYS: [(&str, usize, &str); 6] = [
    ("five", 3, "-l5 -n3 -c64 $"),
    ("mirror", 3, "-l1 -n2 -x1 --bitmap=internal $"),
    ("short", 3, "-l6 -n4 -c64 -e1.1 $ missing"),
    ("ten", 3, "-l10 -n3 -pf2 -e1.0 $"),
    ("offset", 3, "-l10 -n3 -po2 $"),
    ("zero", 2, "-l0 -n2 $"),
];
/// The forms that are compared.
const FORMS: [&str; 5] = ["", "--export", "--brief", "--brief -v", "--test"];

fn members_of(index: usize) -> std::ops::Range<usize> {
    let first: usize = ARRAYS[..index].iter().map(|(_, count, _)| count).sum();
    first..first + ARRAYS[index].1
}

/// The sections that the script printed, by their headings.
fn sections(stdout: &str) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for part in stdout.split("=== ").skip(1) {
        let (head, body) = part.split_once('\n').unwrap();
        all.insert(head.to_owned(), body.to_owned());
    }
    all
}

/// Lines with members called `member N`, without device numbers, lists of members sorted.
fn alike(output: &str, names: &[(String, usize)]) -> Vec<String> {
    let mut lines = Vec::new();
    for line in output.lines() {
        let mut line = line.to_owned();
        for (name, number) in names {
            let key: String = name
                .trim_start_matches('/')
                .chars()
                .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
                .collect();
            line = line.replace(
                &format!("MD_DEVICE_{key}_"),
                &format!("MD_DEVICE_m{number}_"),
            );
            line = line.replace(name.as_str(), &format!("m{number}"));
        }
        if let Some((head, list)) = line.split_once("devices=m") {
            let mut list: Vec<&str> = list.split(',').map(|m| m.trim_start_matches('m')).collect();
            list.sort_unstable();
            line = format!("{head}devices={}", list.join(","));
        }
        // mdadm 4.2 does not know how a RAID0 is laid out; umd says so.
        let layout = "            Layout : ";
        if [format!("{layout}-unknown-"), format!("{layout}original")].contains(&line) {
            line = format!("{layout}of RAID0");
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let is_row = words.len() > 4 && words[1].parse::<u32>().is_ok();
        if is_row && words[2].parse::<u32>().is_ok() && words[3] != ":" {
            line = format!("{} {}", words[0], words[3..].join(" "));
        }
        lines.push(line);
    }
    if output.contains("MD_LEVEL=") {
        lines.sort(); // Members come in another order.
    }
    lines
}

#[test]
fn detail_prints_what_mdadm_prints() {
    let what = "the output of --detail";
    let (Some(oracle), Some(umd)) = (Oracle::or_skip(what), Umd::or_skip(what)) else {
        return;
    };
    let scratch = Scratch::new().unwrap();
    let total = ARRAYS.iter().map(|(_, count, _)| count).sum();
    let set = scratch.images("m", total, 24 * MIB).unwrap();
    let mut script = String::from("export TZ=UTC\nmkdir -p /dev/md /run/mdadm\nset +e\n");
    for (index, (name, _, options)) in ARRAYS.iter().enumerate() {
        let devices: String = members_of(index).map(|n| format!("$D{n} ")).collect();
        let options = options.replace('$', &devices);
        script.push_str(&format!(
            "mdadm -CR -q --assume-clean --homehost=nas /dev/md/{name} {options} >/dev/null 2>&1
            mdadm -S -q /dev/md/{name}; mdadm -A -q --run --readonly /dev/md/{name} {devices}\n"
        ));
        for form in FORMS {
            script.push_str(&format!(
                "echo \"=== {name} {form}\"; mdadm -D {form} /dev/md/{name}; echo rc=$?\n"
            ));
        }
    }
    script.push_str("echo '=== scan'; mdadm -D --scan\n");
    for (name, _, _) in ARRAYS {
        script.push_str(&format!("mdadm -S -q /dev/md/{name}\n"));
    }
    let run = Kernel::new(&oracle)
        .members(&set)
        .script(&script)
        .run()
        .unwrap();
    let theirs = sections(&run.stdout);
    let kernel_names: Vec<_> = (0..total).map(|n| (Kernel::device(n), n)).collect();
    let our_names: Vec<_> = set
        .iter()
        .map(|path| text(path).to_owned())
        .zip(0..)
        .collect();
    for (index, (name, _, _)) in ARRAYS.iter().enumerate() {
        let mut args = vec!["assemble", "--run", "--readonly", name];
        args.extend(set[members_of(index)].iter().map(|path| text(path)));
        umd.ok(&args).unwrap();
        for form in FORMS {
            let node = format!("/dev/md/{name}");
            let mut args = vec!["detail"];
            args.extend(form.split_whitespace());
            args.push(&node);
            let output = umd.command(&args).env("TZ", "UTC").output().unwrap();
            let code = output.status.code().unwrap();
            let ours = format!("{}rc={code}\n", String::from_utf8_lossy(&output.stdout));
            let ours = alike(&ours, &our_names);
            let theirs = alike(&theirs[&format!("{name} {form}")], &kernel_names);
            assert_eq!(ours, theirs, "{name} {form}\n{}", run.stdout);
        }
    }
    let sorted = |text: &str, names: &[(String, usize)]| {
        let mut lines = alike(text, names);
        lines.sort();
        lines
    };
    let ours = umd.ok(&["detail", "--scan"]).unwrap();
    assert_eq!(
        sorted(&ours, &our_names),
        sorted(&theirs["scan"], &kernel_names)
    );
    examined(&oracle, &umd, &set);
}

/// `--examine` of the same members: equal to the byte.
fn examined(oracle: &Oracle, umd: &Umd, set: &[PathBuf]) {
    let all: Vec<&str> = set
        .iter()
        .map(|path: &PathBuf| text(Path::new(path)))
        .collect();
    let forms: [&[&str]; 6] = [
        &["-E"],
        &["-E", "--export"],
        &["-E", "--brief"],
        &["-E", "--brief", "-v"],
        &["-E", "--scan"],
        &["-E", "--scan", "-v"],
    ];
    for form in forms {
        let args: Vec<&str> = form.iter().chain(&all).copied().collect();
        let mut mdadm = oracle.command("mdadm").unwrap();
        let theirs = mdadm.args(&args).env("TZ", "UTC").output().unwrap();
        let ours = umd.command(&args).env("TZ", "UTC").output().unwrap();
        let utf8 = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert_eq!(utf8(&ours.stdout), utf8(&theirs.stdout), "{form:?}");
        assert_eq!(ours.status.code(), theirs.status.code(), "{form:?}");
    }
    // By a configuration file, which mdadm reads as well: the same arrays in the same order.
    let conf = set[0].with_file_name("conf");
    let dir = set[0].parent().unwrap().display();
    std::fs::write(&conf, format!("DEVICE {dir}/m*\nARRAY x name=y zork=1\n")).unwrap();
    let args = ["-E", "--scan", "-v", "-c", text(&conf)];
    let mut mdadm = oracle.command("mdadm").unwrap();
    let theirs = mdadm.args(args).output().unwrap();
    let ours = umd.command(&args).output().unwrap();
    let utf8 = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert_eq!(utf8(&ours.stdout), utf8(&theirs.stdout));
    let sentence = "unrecognised word on ARRAY line: zork=1";
    assert!(utf8(&theirs.stderr).contains(sentence));
    assert!(utf8(&ours.stderr).contains(&format!("conf:2: {sentence}")));
}
