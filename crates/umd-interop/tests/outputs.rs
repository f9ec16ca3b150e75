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
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use umd_interop::oracle::{Oracle, notice};
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

/// What `jc --mdadm` reads in an output, if it was fetched and this machine has a Python for it.
fn jc(oracle: &Oracle, output: &str) -> Option<Value> {
    let (folder, _) = oracle.find_with_folder("jc")?;
    let mut child = Command::new("python3")
        .args(["-m", "jc", "--mdadm"])
        .env(
            "PYTHONPATH",
            folder.root().join("usr/lib/python3/dist-packages"),
        )
        .env("TZ", "UTC")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .ok()?;
    let mut input = child.stdin.take().unwrap();
    input.write_all(output.as_bytes()).unwrap();
    drop(input);
    let read = child.wait_with_output().unwrap();
    assert!(read.status.success(), "jc does not understand:\n{output}");
    Some(serde_json::from_slice(&read.stdout).unwrap())
}

/// Members by their numbers, without device numbers; see [`alike`] for the layout.
fn alike_to_jc(mut read: Value, names: &[(String, usize)]) -> Value {
    let object = read.as_object_mut().unwrap();
    if let Some(layout) = object.get_mut("layout")
        && ["-unknown-", "original"].contains(&layout.as_str().unwrap())
    {
        *layout = "of RAID0".into();
    }
    let table = object.get_mut("device_table").unwrap();
    for row in table.as_array_mut().unwrap() {
        let row = row.as_object_mut().unwrap();
        row.retain(|key, _| !["major", "minor"].contains(&key.as_str()));
        let device = row.get("device").and_then(Value::as_str);
        let member = names.iter().find(|(name, _)| Some(name.as_str()) == device);
        if let Some((_, number)) = member {
            row.insert("device".into(), Value::from(*number));
        }
    }
    let rows = table.as_array_mut().unwrap();
    rows.sort_by_key(ToString::to_string);
    read
}

/// A program that reads mdadm's output finds the same in ours, field by field.
fn same_to_jc(oracle: &Oracle, name: &str, said: [(&str, &Vec<(String, usize)>); 2]) {
    let read = said.map(|(text, names)| {
        let (text, _) = text.rsplit_once("rc=").unwrap();
        jc(oracle, text).map(|read| alike_to_jc(read, names))
    });
    let [Some(ours), Some(theirs)] = read else {
        return notice(&format!("jc is not there: {name} is not compared by it"));
    };
    assert!(theirs["device_table"].as_array().unwrap().len() > 1);
    assert_eq!(ours, theirs, "{name}");
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
            let section = &theirs[&format!("{name} {form}")];
            if form.is_empty() {
                let said = [(&*ours, &our_names), (section, &kernel_names)];
                same_to_jc(&oracle, name, said);
            }
            let ours = alike(&ours, &our_names);
            let theirs = alike(section, &kernel_names);
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
