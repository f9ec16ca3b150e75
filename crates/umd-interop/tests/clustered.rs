//! One array, two daemons: each runs it as one node of its cluster, with etcd between them, on the
//! same member files.
//!
//! ```text
//!   qemu-io --NBD--> umd alpha --+            +-- m0, m1
//!                                 >-- members <
//!   qemu-io --NBD--> umd beta  --+            +-- all legs alike afterwards
//!                        \    /
//!                         etcd
//!
//!   SIGKILL to alpha, in the middle of writes: beta freezes, is told that alpha is dead, takes its
//!   bitmap over, resyncs what alpha had under way, and writes again
//! ```
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests; clippy knows only #[test] functions"
)]

#[path = "support/authority.rs"]
mod authority;
#[path = "support/hosts.rs"]
mod hosts;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use umd_format::{Format, SuperblockV1};
use umd_interop::oracle::{Oracle, skipped};
use umd_interop::scratch::Scratch;
use umd_interop::umd::{Umd, export_bytes, qemu_io, text};
use umd_interop::uml::Kernel;

use authority::Authority;
use hosts::*;

#[test]
fn two_daemons_write_to_one_array_and_one_is_killed() {
    let what = "clustered arrays with etcd";
    let (Some(oracle), Some(alpha)) = (Oracle::or_skip(what), Umd::or_skip(what)) else {
        return;
    };
    let beta = Umd::or_skip(what).unwrap();
    let scratch = Scratch::new().unwrap();
    let Some(etcd) = Etcd::start(&oracle, &scratch.path("")) else {
        return;
    };
    for array in ARRAYS {
        let set = made(&alpha, &scratch, array);
        let name = array.0;
        let joined = join(&alpha, "alpha", name, &etcd, &set);
        if joined.as_ref().is_err_and(|said| said.contains("without")) {
            skipped(what, "this umd was built without the feature etcd");
            return;
        }
        joined.unwrap();
        alone(&beta, name, &set);
        join(&beta, "beta", name, &etcd, &set).unwrap();
        assert_eq!(
            states(&beta.detail(name).unwrap()),
            ["alpha member", "beta this"]
        );
        full(&etcd, name, &set);
        both_write(&oracle, (&alpha, &beta), name);
        killed(&oracle, (&alpha, &beta), name);
        // Its slot is free again.
        join(&alpha, "alpha", name, &etcd, &set).unwrap();
        alpha.until(name, settled).unwrap();
        qemu_io(&oracle, &alpha.daemon_uri(name), &reads(1, 0x44)).unwrap();
        stops_amid_messages((&alpha, &beta), name, || {
            join(&alpha, "alpha", name, &etcd, &set).unwrap();
        });
        let left = |array: &Value| states(array)[0] == "- free";
        beta.until(name, left).unwrap();
        beta.ok(&["stop", name]).unwrap();
        assert_legs_alike(&set);
    }
}

/// A plain array joins a cluster with one command on the first host: nobody has to be said to be
/// dead, and other hosts join as ever. Then it is plain again, with what both wrote.
#[test]
fn a_plain_array_becomes_one_of_two_daemons() {
    let what = "plain arrays that join a cluster with etcd";
    let (Some(oracle), Some(alpha)) = (Oracle::or_skip(what), Umd::or_skip(what)) else {
        return;
    };
    let beta = Umd::or_skip(what).unwrap();
    let scratch = Scratch::new().unwrap();
    let Some(etcd) = Etcd::start(&oracle, &scratch.path("")) else {
        return;
    };
    let (name, options, count) = ARRAYS[0];
    let set = scratch.images(name, count, 24 * MIB as u64).unwrap();
    let mut args = vec!["create", name, "--bitmap=internal", "--bitmap-chunk=1M"];
    args.extend(["--config=none"].into_iter().chain(options.split(' ')));
    args.extend(set.iter().map(|path| text(path)));
    alpha.ok(&args).unwrap();
    qemu_io(&oracle, &alpha.daemon_uri(name), &writes(0, 0x11)).unwrap();
    alpha.ok(&["stop", name]).unwrap();
    let update = ["--update=cluster=hall", "--nodes=2"];
    let joined = join_with(&alpha, ("alpha", name), &etcd, &set, &update);
    if joined.as_ref().is_err_and(|said| said.contains("without")) {
        skipped(what, "this umd was built without the feature etcd");
        return;
    }
    joined.unwrap();
    join(&beta, "beta", name, &etcd, &set).unwrap();
    let array = beta.detail(name).unwrap();
    assert_eq!(states(&array), ["alpha member", "beta this"]);
    qemu_io(&oracle, &beta.daemon_uri(name), &reads(0, 0x11)).unwrap();
    both_write(&oracle, (&alpha, &beta), name);
    for umd in [&alpha, &beta] {
        umd.until(name, settled).unwrap();
        umd.ok(&["stop", name]).unwrap();
    }
    assert_legs_alike(&set);
    let mut args = vec!["assemble", name, "--update=no-cluster=hall"];
    args.extend(set.iter().map(|path| text(path)));
    alpha.ok(&args).unwrap();
    qemu_io(&oracle, &alpha.daemon_uri(name), &reads(1, 0x22)).unwrap();
    alpha.ok(&["stop", name]).unwrap();
}

/// The session runs out, and nobody else can be certain of this node any more: it ends by itself,
/// whatever is under way, and its clients are told.
#[test]
fn without_its_lock_service_an_array_ends() {
    let what = "clustered arrays that lose etcd";
    let (Some(oracle), Some(alpha)) = (Oracle::or_skip(what), Umd::or_skip(what)) else {
        return;
    };
    let scratch = Scratch::new().unwrap();
    let Some(mut etcd) = Etcd::start(&oracle, &scratch.path("")) else {
        return;
    };
    let set = made(&alpha, &scratch, ARRAYS[0]);
    let joined = join(&alpha, "alpha", "pair", &etcd, &set);
    if joined.as_ref().is_err_and(|said| said.contains("without")) {
        skipped(what, "this umd was built without the feature etcd");
        return;
    }
    joined.unwrap();
    let uri = alpha.daemon_uri("pair");
    qemu_io(&oracle, &uri, &writes(0, 0x11)).unwrap();
    etcd.child.kill().unwrap();
    let begin = Instant::now();
    while alpha.detail("pair").is_ok() {
        let late = begin.elapsed() > Duration::from_secs(30);
        assert!(!late, "it goes on without a session");
        thread::sleep(Duration::from_millis(200));
    }
    assert!(begin.elapsed() > Duration::from_secs(2), "it had a session");
    assert!(qemu_io(&oracle, &uri, &writes(0, 0x22)).is_err());
    let said = join(&alpha, "alpha", "pair", &etcd, &set).unwrap_err();
    assert!(said.contains("the lock service does not answer"), "{said}");
}

/// etcd's own API, by hand: a user and a password, and nobody without them any more.
fn ask_for_passwords(etcd: &Etcd) {
    let address: SocketAddr = etcd.url.strip_prefix("http://").unwrap().parse().unwrap();
    for (path, body) in [
        ("auth/role/add", r#"{"name": "root"}"#),
        ("auth/user/add", r#"{"name": "root", "password": "sesame"}"#),
        ("auth/user/grant", r#"{"user": "root", "role": "root"}"#),
        ("auth/enable", "{}"),
    ] {
        let length = body.len();
        let head = format!("POST /v3/{path} HTTP/1.0\r\nContent-Length: {length}\r\n\r\n");
        let mut stream = TcpStream::connect(address).unwrap();
        stream
            .write_all(format!("{head}{body}").as_bytes())
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let status = answer.lines().next().unwrap_or_default();
        assert!(status.contains(" 200 "), "{path}: {answer}");
    }
}

/// An etcd that wants to know who comes, by certificate and by password.
#[test]
fn an_etcd_that_asks_who_comes_is_told() {
    let what = "clustered arrays with an etcd that asks who comes";
    let (Some(oracle), Some(alpha)) = (Oracle::or_skip(what), Umd::or_skip(what)) else {
        return;
    };
    let scratch = Scratch::new().unwrap();
    let tls = scratch.path("tls");
    let mut authority = Authority::new();
    authority.nameless = true;
    authority.furnish(&tls, "etcd");
    authority.furnish(&tls, "client");
    let Some(open) = Etcd::start(&oracle, &scratch.path("")) else {
        return;
    };
    ask_for_passwords(&open);
    drop(open);
    let etcd = Etcd::start_with(&oracle, &scratch.path(""), Some(&tls)).unwrap();
    let login = scratch.path("login");
    fs::write(&login, "root:sesame\n").unwrap();
    fs::set_permissions(&login, fs::Permissions::from_mode(0o600)).unwrap();
    let wrong = scratch.path("wrong");
    fs::write(&wrong, "root:open\n").unwrap();
    fs::set_permissions(&wrong, fs::Permissions::from_mode(0o600)).unwrap();

    let set = made(&alpha, &scratch, ARRAYS[0]);
    let before: Vec<Vec<u8>> = set.iter().map(|path| fs::read(path).unwrap()).collect();
    let join = |more: &[&str]| join_with(&alpha, ("alpha", "pair"), &etcd, &set, more);
    let tls_option = format!("--cluster-tls={}", text(&tls));
    let said = join(&[&tls_option]);
    if said.as_ref().is_err_and(|said| said.contains("without")) {
        skipped(what, "this umd was built without the feature etcd");
        return;
    }
    let login = |path: &Path| format!("--cluster-login={}", text(path));
    for (more, why) in [
        (vec![], "give --cluster-tls=DIR"),
        (vec![tls_option.as_str()], "user name is empty"),
        (
            vec![&tls_option, &login(&wrong)],
            "does not let user root in",
        ),
    ] {
        let said = join(&more).unwrap_err();
        assert!(said.contains(why) && !said.contains("open"), "{said}");
    }
    for (path, bytes) in set.iter().zip(&before) {
        assert!(fs::read(path).unwrap() == *bytes, "{path:?} was written");
    }
    join(&[&tls_option, &login(&scratch.path("login"))]).unwrap();
    let uri = alpha.daemon_uri("pair");
    qemu_io(&oracle, &uri, &writes(0, 0x11)).unwrap();
    // The next life of the daemon finds what lets it in again.
    alpha.crash_daemon("pair").unwrap();
    let dead = |array: &Value| states(array) == ["alpha dead", "alpha this"];
    alpha.until("pair", dead).unwrap();
    alpha.ok(&["cluster", "confirm-dead", "pair", "0"]).unwrap();
    alpha.until("pair", settled).unwrap();
    qemu_io(&oracle, &uri, &reads(0, 0x11)).unwrap();
    alpha.ok(&["stop", "pair"]).unwrap();
}

/// Who does not come as a node gets no member.
fn alone(umd: &Umd, name: &str, set: &[PathBuf]) {
    let mut args = vec!["assemble", name, "--update=no-cluster=hall"];
    args.extend(set.iter().map(|path| text(path)));
    let output = umd.output(&args).unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && said.contains("in use"),
        "{said}"
    );
}

/// A third host finds no slot, and leaves no trace.
fn full(etcd: &Etcd, name: &str, set: &[PathBuf]) {
    let gamma = Umd::or_skip("a third host").unwrap();
    let said = join(&gamma, "gamma", name, etcd, set).unwrap_err();
    assert!(said.contains("all 2 node slots are taken"), "{said}");
    assert!(gamma.detail(name).is_err());
}

/// One leaves while the other sends: it repairs, and says where. That neither waits for the other's
/// patience (30 seconds) to run out is what is shown.
fn stops_amid_messages((alpha, beta): (&Umd, &Umd), name: &str, join: impl Fn()) {
    for round in 0..6 {
        if round > 0 {
            join();
        }
        beta.ok(&["action", name, "repair"]).unwrap();
        thread::sleep(Duration::from_millis(round * 15));
        let begin = Instant::now();
        alpha.ok(&["stop", name]).unwrap();
        let took = begin.elapsed();
        assert!(took < Duration::from_secs(15), "round {round}: {took:?}");
        beta.until(name, settled).unwrap();
    }
}

/// One is killed while it writes. The other waits for a word, and goes on.
fn killed(oracle: &Oracle, (alpha, beta): (&Umd, &Umd), name: &str) {
    let uri = alpha.daemon_uri(name);
    thread::scope(|scope| {
        scope.spawn(move || (0..50).all(|_| qemu_io(oracle, &uri, &writes(0, 0x33)).is_ok()));
        thread::sleep(Duration::from_millis(300));
        alpha.kill_daemon(name).unwrap();
    });
    let early = beta
        .output(&["cluster", "confirm-dead", name, "0"])
        .unwrap();
    assert!(!early.status.success(), "nobody is down yet");
    let down = |array: &Value| {
        let told = array["cluster"]["nodes"][0]["reason"].is_string();
        states(array)[0] == "alpha dead" && array["cluster"]["frozen"].is_string() && told
    };
    beta.until(name, down).unwrap();
    let said = beta.ok(&["detail", name]).unwrap();
    assert!(said.contains("waiting for a proof that node 0"), "{said}");
    let wrong = beta
        .output(&["cluster", "confirm-dead", name, "1"])
        .unwrap();
    assert!(!wrong.status.success(), "it is alive");
    beta.ok(&["cluster", "confirm-dead", name, "0"]).unwrap();
    let over = |array: &Value| settled(array) && array["cluster"]["frozen"].is_null();
    beta.until(name, over).unwrap();
    qemu_io(oracle, &beta.daemon_uri(name), &writes(1, 0x44)).unwrap();
}

/// What one host is told about members the other one knows when the command returns; a new member
/// is filled while both write.
#[test]
fn members_are_changed_on_one_host_and_known_on_the_other() {
    let what = "members of clustered arrays";
    let (Some(oracle), Some(alpha)) = (Oracle::or_skip(what), Umd::or_skip(what)) else {
        return;
    };
    let beta = Umd::or_skip(what).unwrap();
    let scratch = Scratch::new().unwrap();
    let Some(etcd) = Etcd::start(&oracle, &scratch.path("")) else {
        return;
    };
    for array in ARRAYS {
        let mut set = made(&alpha, &scratch, array);
        let name = array.0;
        let joined = join(&alpha, "alpha", name, &etcd, &set);
        if joined.as_ref().is_err_and(|said| said.contains("without")) {
            skipped(what, "this umd was built without the feature etcd");
            return;
        }
        joined.unwrap();
        join(&beta, "beta", name, &etcd, &set).unwrap();
        beta.until(name, settled).unwrap();
        let hosts = (&alpha, &beta);
        nonsense_is_refused(hosts, name, &scratch, &set);
        let fresh = scratch
            .images(&format!("new-{name}"), 1, 24 * MIB as u64)
            .unwrap();
        let last = set.len() - 1;
        swapped(&oracle, hosts, name, (&set[last], &fresh[0]));
        set[last] = fresh[0].clone();
        for umd in [&alpha, &beta] {
            umd.ok(&["stop", name]).unwrap();
        }
        assert_legs_alike(&set);
        examined(&oracle, &alpha, &set);
    }
}

/// Other data where nobody writes. That it is there still shows that nothing was copied but what
/// was missed.
fn poison(member: &Path, offset: u64) {
    use std::os::unix::fs::FileExt;
    let file = fs::File::options().write(true).open(member).unwrap();
    file.write_all_at(&[0xbd; 4096], offset).unwrap();
}

/// A member leaves, both write without it, and it comes back, through the host that has not taken
/// it out: it gets what both have written, and nothing else.
#[test]
fn a_member_that_left_comes_back_with_what_both_have_written() {
    let what = "members that come back to clustered arrays";
    let (Some(oracle), Some(alpha)) = (Oracle::or_skip(what), Umd::or_skip(what)) else {
        return;
    };
    let beta = Umd::or_skip(what).unwrap();
    let scratch = Scratch::new().unwrap();
    let Some(etcd) = Etcd::start(&oracle, &scratch.path("")) else {
        return;
    };
    for array in ARRAYS {
        let set = made(&alpha, &scratch, array);
        let name = array.0;
        let joined = join(&alpha, "alpha", name, &etcd, &set);
        if joined.as_ref().is_err_and(|said| said.contains("without")) {
            skipped(what, "this umd was built without the feature etcd");
            return;
        }
        joined.unwrap();
        join(&beta, "beta", name, &etcd, &set).unwrap();
        for umd in [&alpha, &beta] {
            umd.until(name, settled).unwrap();
        }
        comes_back(&oracle, (&alpha, &beta), name, &set);
        for umd in [&alpha, &beta] {
            umd.ok(&["stop", name]).unwrap();
        }
        assert_legs_alike(&set);
        examined(&oracle, &alpha, &set);
    }
}

fn comes_back(oracle: &Oracle, (alpha, beta): (&Umd, &Umd), name: &str, set: &[PathBuf]) {
    let old = &set[0];
    let superblock = {
        let bytes = fs::read(old).unwrap();
        let sectors = bytes.len() as u64 / 512;
        SuperblockV1::load(&bytes[4096..8192], Format::V1_2, sectors).unwrap()
    };
    // Bits of the first resync are cleared first: what is left is what is missed.
    let clean = |array: &Value| array["bitmap"]["dirty_bits"] == 0;
    for umd in [alpha, beta] {
        umd.until(name, clean).unwrap();
    }
    alpha.ok(&["manage", name, "--fail", text(old)]).unwrap();
    alpha.ok(&["manage", name, "--remove", text(old)]).unwrap();
    assert_eq!(state_of(beta, name, old), None);
    let far = superblock.fields.data_offset_sectors * 512 + 20 * MIB as u64;
    let kept = fs::read(old).unwrap()[far as usize..][..4096].to_vec();
    poison(old, far);
    thread::scope(|scope| {
        for (umd, first, pattern) in [(alpha, 0, 0x61), (beta, 1, 0x62)] {
            let uri = umd.daemon_uri(name);
            scope.spawn(move || qemu_io(oracle, &uri, &writes(first, pattern)).unwrap());
        }
    });
    let output = beta.output(&["manage", name, "--re-add", text(old)]);
    let said = String::from_utf8_lossy(&output.unwrap().stderr).into_owned();
    assert!(said.contains("re-added"), "{said}");
    for umd in [alpha, beta] {
        umd.until(name, |array| array["degraded"] == 0 && in_sync(array))
            .unwrap();
    }
    let here = fs::read(old).unwrap()[far as usize..][..4096].to_vec();
    assert!(here == [0xbd; 4096], "more was copied than was missed");
    let file = fs::File::options().write(true).open(old).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &kept, far).unwrap();
    qemu_io(oracle, &alpha.daemon_uri(name), &reads(1, 0x62)).unwrap();
    qemu_io(oracle, &beta.daemon_uri(name), &reads(0, 0x61)).unwrap();
}

/// Arrays that use a half of their members.
const HALVES: [(&str, &str, usize); 2] = [
    ("half", "-l1 -n2 --size=12M", 2),
    ("halves", "-l10 -n4 -c64 --size=12M", 4),
];

#[test]
fn an_array_grows_on_both_hosts_while_both_write() {
    let what = "sizes of clustered arrays";
    let (Some(oracle), Some(alpha)) = (Oracle::or_skip(what), Umd::or_skip(what)) else {
        return;
    };
    let beta = Umd::or_skip(what).unwrap();
    let scratch = Scratch::new().unwrap();
    let Some(etcd) = Etcd::start(&oracle, &scratch.path("")) else {
        return;
    };
    for array in HALVES {
        let set = made(&alpha, &scratch, array);
        let name = array.0;
        let joined = join(&alpha, "alpha", name, &etcd, &set);
        if joined.as_ref().is_err_and(|said| said.contains("without")) {
            skipped(what, "this umd was built without the feature etcd");
            return;
        }
        joined.unwrap();
        join(&beta, "beta", name, &etcd, &set).unwrap();
        beta.until(name, settled).unwrap();
        let size = |umd: &Umd| export_bytes(&oracle, &umd.daemon_uri(name)).unwrap();
        let pairs = set.len() as u64 / 2;
        assert_eq!([size(&alpha), size(&beta)], [pairs * 12 * MIB as u64; 2]);
        let smaller = refused(&beta, &["grow", name, "--size=8M"]);
        assert!(smaller.contains("does not get smaller"), "{smaller}");
        thread::scope(|scope| {
            let writer = scope.spawn(|| both_write(&oracle, (&alpha, &beta), name));
            let said = alpha.ok(&["grow", name, "--size=20M"]).unwrap();
            assert!(said.is_empty(), "{said}");
            writer.join().unwrap();
        });
        let grown = pairs * 20 * MIB as u64;
        assert_eq!([size(&alpha), size(&beta)], [grown; 2]);
        let last = grown - BLOCK as u64;
        let say = |what: &str| vec![format!("{what} -P 0x33 {last} {BLOCK}")];
        qemu_io(&oracle, &beta.daemon_uri(name), &say("write")).unwrap();
        qemu_io(&oracle, &alpha.daemon_uri(name), &say("read")).unwrap();
        qemu_io(&oracle, &beta.daemon_uri(name), &reads(0, 0x11)).unwrap();
        for umd in [&alpha, &beta] {
            umd.until(name, settled).unwrap();
            umd.ok(&["stop", name]).unwrap();
        }
        assert_legs_alike(&set);
        examined(&oracle, &alpha, &set);
        grown_for_mdadm(&oracle, &set, pairs * 20 * 1024);
    }
}

/// mdadm sees the same (it finds bitmaps on block devices only), and so say the bitmaps of all.
fn grown_for_mdadm(oracle: &Oracle, set: &[PathBuf], sync_kib: u64) {
    for member in set {
        let examine = oracle.text("mdadm", &["--examine", text(member)]).unwrap();
        assert!(examine.contains("(20.00 MiB"), "{examine}");
        let bytes = fs::read(member).unwrap();
        let sectors = bytes.len() as u64 / 512;
        let found = SuperblockV1::load(&bytes[4096..8192], Format::V1_2, sectors).unwrap();
        let start = found.fields.bitmap_sector().unwrap() as usize * 512;
        for node in 0..2 {
            // Of a RAID10 they are for all of it.
            let at = start + node * 4096 + 40;
            let sync = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
            assert_eq!(sync, sync_kib * 2, "node {node}");
        }
    }
}

/// What bits of all nodes stand for is changed on either host while both write; mdadm and the
/// kernel's md-cluster take what is left for what they would have made.
#[test]
fn the_bits_of_all_nodes_stand_for_more_while_both_hosts_write() {
    let what = "chunks of clustered bitmaps";
    let (Some(oracle), Some(alpha)) = (Oracle::or_skip(what), Umd::or_skip(what)) else {
        return;
    };
    let beta = Umd::or_skip(what).unwrap();
    let scratch = Scratch::new().unwrap();
    let Some(etcd) = Etcd::start(&oracle, &scratch.path("")) else {
        return;
    };
    for array in ARRAYS {
        let set = made(&alpha, &scratch, array);
        let name = array.0;
        let joined = join(&alpha, "alpha", name, &etcd, &set);
        if joined.as_ref().is_err_and(|said| said.contains("without")) {
            skipped(what, "this umd was built without the feature etcd");
            return;
        }
        joined.unwrap();
        join(&beta, "beta", name, &etcd, &set).unwrap();
        beta.until(name, settled).unwrap();
        let no = refused(&alpha, &["grow", name, "--bitmap-chunk=3M"]);
        assert!(no.contains("a power of two"), "{no}");
        thread::scope(|scope| {
            let writer = scope.spawn(|| both_write(&oracle, (&alpha, &beta), name));
            for (umd, chunk) in [(&alpha, "4M"), (&beta, "64K"), (&beta, "2M")] {
                let chunk = format!("--bitmap-chunk={chunk}");
                umd.ok(&["grow", name, "--bitmap=clustered", &chunk])
                    .unwrap();
            }
            writer.join().unwrap();
        });
        for umd in [&alpha, &beta] {
            let detail = umd.detail(name).unwrap();
            assert_eq!(detail["bitmap"]["chunk_bytes"], 2 << 20, "{detail}");
        }
        qemu_io(&oracle, &beta.daemon_uri(name), &reads(0, 0x11)).unwrap();
        for umd in [&alpha, &beta] {
            umd.until(name, settled).unwrap();
            umd.ok(&["stop", name]).unwrap();
        }
        assert_legs_alike(&set);
        examined(&oracle, &alpha, &set);
        rechunked_for_mdadm(&oracle, &alpha, &set, ("2 MB", 2 << 20, 1));
    }
}

/// mdadm shows all bitmaps as umd does, of so many pages each, and the kernel joins with them.
fn rechunked_for_mdadm(
    oracle: &Oracle,
    umd: &Umd,
    set: &[PathBuf],
    (shown, chunk_bytes, pages): (&str, u32, usize),
) {
    let shown = format!("Chunksize : {shown}");
    let ours = umd.ok(&["-X", text(&set[1])]).unwrap();
    assert!(ours.contains(&shown), "{ours}");
    // mdadm shows that of the first one, and takes it to be that of all.
    for member in set {
        let bytes = fs::read(member).unwrap();
        let sectors = bytes.len() as u64 / 512;
        let found = SuperblockV1::load(&bytes[4096..8192], Format::V1_2, sectors).unwrap();
        let start = found.fields.bitmap_sector().unwrap() as usize * 512;
        for node in 0..2 {
            let at = start + node * pages * 4096 + 52;
            let chunk = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
            assert_eq!(chunk, chunk_bytes, "node {node}");
        }
    }
    let kernel = Kernel::new(oracle).members(set);
    let run = kernel.clone().script("mdadm -X $D1\n").run_ok().unwrap();
    let theirs = run.stdout.replace(&Kernel::device(1), text(&set[1]));
    assert_eq!(ours.trim_end(), theirs.trim_end());
    let devices: String = (0..set.len()).map(|n| format!("$D{n} ")).collect();
    let script = format!(
        "cluster_up hall\ncluster_start md0 {devices}\nwait_idle md0\n\
         dd if=/dev/zero of=/dev/md0 bs=1M count=4 conv=fsync 2>/dev/null\n\
         sleep 12\ncluster_stop md0\nmdadm -X $D1\n"
    );
    let run = kernel.cluster().script(&script).run_ok().unwrap();
    let clean = run.stdout.matches(" 0 dirty").count();
    assert_eq!(clean, 2, "{}", run.stdout);
    assert!(run.stdout.contains(&shown), "{}", run.stdout);
}

/// Where bits have no room for a size, they stand for more first.
#[test]
fn a_size_for_which_bits_have_no_room_makes_them_longer() {
    let what = "sizes that need longer bits";
    let (Some(oracle), Some(alpha)) = (Oracle::or_skip(what), Umd::or_skip(what)) else {
        return;
    };
    let beta = Umd::or_skip(what).unwrap();
    let scratch = Scratch::new().unwrap();
    let Some(etcd) = Etcd::start(&oracle, &scratch.path("")) else {
        return;
    };
    let (name, set) = ("long", scratch.images("long", 2, 200 * MIB as u64).unwrap());
    let mut args = vec!["create", name, "--bitmap=clustered", "--home-cluster=hall"];
    args.extend([
        "--nodes=2",
        "--bitmap-chunk=4K",
        "--config=none",
        "-l1",
        "-n2",
    ]);
    args.extend([
        "--size=100M",
        "--assume-clean",
        text(&set[0]),
        text(&set[1]),
    ]);
    alpha.ok(&args).unwrap();
    let joined = join(&alpha, "alpha", name, &etcd, &set);
    if joined.as_ref().is_err_and(|said| said.contains("without")) {
        skipped(what, "this umd was built without the feature etcd");
        return;
    }
    joined.unwrap();
    // A host that resyncs is not asked for another size.
    alpha.until(name, settled).unwrap();
    join(&beta, "beta", name, &etcd, &set).unwrap();
    beta.until(name, settled).unwrap();
    let grown = beta.output(&["grow", name, "--size=150M"]).unwrap();
    let grown = String::from_utf8_lossy(&grown.stderr).into_owned();
    assert!(grown.contains("stands for 8 KiB, 4 KiB before"), "{grown}");
    alpha.until(name, settled).unwrap();
    beta.until(name, settled).unwrap();
    // There is room before the data for a second page of each: the bitmaps move, and back.
    thread::scope(|scope| {
        let writer = scope.spawn(|| both_write(&oracle, (&alpha, &beta), name));
        for (umd, chunk) in [(&alpha, "4K"), (&beta, "8K"), (&beta, "4K")] {
            let chunk = format!("--bitmap-chunk={chunk}");
            umd.ok(&["grow", name, &chunk]).unwrap();
        }
        writer.join().unwrap();
    });
    qemu_io(&oracle, &beta.daemon_uri(name), &reads(0, 0x11)).unwrap();
    for umd in [&alpha, &beta] {
        umd.until(name, settled).unwrap();
        umd.ok(&["stop", name]).unwrap();
    }
    assert_legs_alike(&set);
    examined(&oracle, &alpha, &set);
    rechunked_for_mdadm(&oracle, &alpha, &set, ("4 KB", 4 << 10, 2));
}

/// Refused, and not a byte of it changed.
fn nonsense_is_refused(
    (alpha, beta): (&Umd, &Umd),
    name: &str,
    scratch: &Scratch,
    set: &[PathBuf],
) {
    let small = scratch
        .images(&format!("small-{name}"), 1, 2 * MIB as u64)
        .unwrap();
    let hidden = scratch
        .images(&format!("hidden-{name}"), 1, 24 * MIB as u64)
        .unwrap();
    // The way to it leads through the process of alpha's daemon, so beta's does not get there.
    let path = scratch.path(&format!("disk-{name}"));
    let pid = alpha.detail(name).unwrap()["pid"].as_i64().unwrap();
    let through = format!("/proc/self/task/{pid}/cwd{}", text(&hidden[0]));
    std::os::unix::fs::symlink(through, &path).unwrap();
    let before: Vec<Vec<u8>> = [&small[0], &hidden[0]]
        .map(|one| fs::read(one).unwrap())
        .into();
    let said = refused(alpha, &["manage", name, "--add", text(&path)]);
    assert!(
        said.contains("node 1 (beta): it does not see the disk"),
        "{said}"
    );
    let said = refused(alpha, &["manage", name, "--add", text(&small[0])]);
    assert!(said.contains("not large enough"), "{said}");
    let said = refused(alpha, &["manage", name, "--add", text(&set[0])]);
    assert!(
        said.contains("already") || said.contains("in use"),
        "{said}"
    );
    let said = refused(alpha, &["manage", name, "--remove", text(&set[0])]);
    assert!(said.contains("set it faulty before"), "{said}");
    let said = refused(beta, &["manage", name, "--fail", "/nowhere"]);
    assert!(said.contains("/nowhere"), "{said}");
    let after: Vec<Vec<u8>> = [&small[0], &hidden[0]]
        .map(|one| fs::read(one).unwrap())
        .into();
    assert!(before == after, "a byte was changed");
    for umd in [alpha, beta] {
        assert_eq!(members(umd, name).len(), set.len());
        assert!(umd.detail(name).unwrap()["cluster"]["frozen"].is_null());
    }
}

/// One member leaves, another one comes, on one host each; both write all the time.
fn swapped(oracle: &Oracle, (alpha, beta): (&Umd, &Umd), name: &str, (old, new): (&Path, &Path)) {
    let over = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        for (umd, first, pattern) in [(alpha, 0, 0x51), (beta, 1, 0x52)] {
            let (uri, over) = (umd.daemon_uri(name), &over);
            scope.spawn(move || {
                while !over.load(std::sync::atomic::Ordering::Relaxed) {
                    qemu_io(oracle, &uri, &writes(first, pattern)).unwrap();
                }
            });
        }
        let work = std::panic::AssertUnwindSafe(|| {
            thread::sleep(Duration::from_millis(300));
            alpha.ok(&["manage", name, "--fail", text(old)]).unwrap();
            assert_eq!(state_of(beta, name, old).as_deref(), Some("faulty"));
            alpha.ok(&["manage", name, "--remove", text(old)]).unwrap();
            assert_eq!(state_of(beta, name, old), None);
            beta.ok(&["manage", name, "--add", text(new)]).unwrap();
            let known = state_of(alpha, name, new);
            assert!(known.is_some(), "{:?}", members(alpha, name));
            for umd in [alpha, beta] {
                umd.until(name, |array| array["degraded"] == 0 && in_sync(array))
                    .unwrap();
            }
        });
        let done = std::panic::catch_unwind(work);
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        if let Err(why) = done {
            std::panic::resume_unwind(why);
        }
    });
    qemu_io(oracle, &alpha.daemon_uri(name), &reads(1, 0x52)).unwrap();
    qemu_io(oracle, &beta.daemon_uri(name), &reads(0, 0x51)).unwrap();
}
