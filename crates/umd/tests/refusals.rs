//! What makes no sense is refused in one sentence, with mdadm's exit code, and nothing is touched.

mod common;

use common::Home;
use std::fs;

/// Command, exit code, stderr.
const REFUSALS: &[(&str, i32, &str)] = &[
    ("-E", 2, "umd: No devices to examine\n"),
    ("-D", 2, "umd: No devices given.\n"),
    ("-Q", 2, "umd: No devices given.\n"),
    ("-S", 2, "umd: No devices given.\n"),
    ("-W", 2, "umd: No devices given.\n"),
    ("-C", 2, "umd: an md device must be given in this mode\n"),
    (
        "-A",
        1,
        "umd: No arrays found in config file or automatically\n",
    ),
    ("-C md0 -l 5", 1, "umd: no raid-devices specified.\n"),
    (
        "-C md0 -n 3",
        1,
        "umd: a RAID level is needed to create an array.\n",
    ),
    ("-C md0 -l 17 -n 3 a", 2, "umd: invalid raid level: 17\n"),
    (
        "-C md0 -l 5 -n x a",
        2,
        "umd: invalid number of raid devices: x\n",
    ),
    (
        "-C md0 -l 5 -n 2 -c x a b",
        2,
        "umd: invalid chunk/rounding value: x\n",
    ),
    ("-C md0 -l 5 -n 2 -z x a b", 2, "umd: invalid size: x\n"),
    (
        "-C md0 -l 5 -n 2 -e 7 a b",
        2,
        "umd: unrecognised metadata identifier: 7\n",
    ),
    (
        "-C md0 -l 5 -n 2 -p foo a b",
        2,
        "umd: layout foo not understood for raid5.\n",
    ),
    (
        "-C md0 -l 5 -n 3 a",
        1,
        "umd: You haven't given enough devices (real or missing) to create this array\n",
    ),
    (
        "-C md0 -l 5 -n 2 a b c",
        1,
        "umd: You have listed more devices (3) than are in the array(2)!\n",
    ),
    (
        "-C md0 -l multipath -n 2 a b",
        2,
        "umd: multipath is not available in this version; linear, raid0, raid1, raid4, raid5, \
         raid6, raid10 and faulty are\n",
    ),
    (
        "-C md0 -l 10 -n 4 -p ls a b c d",
        2,
        "umd: layout ls not understood for raid10.\n",
    ),
    (
        "-C md0 -l faulty -n 1 -p wp-3 a",
        2,
        "umd: layout wp-3 not understood for faulty.\n",
    ),
    (
        "-C md0 -l faulty -n 1 -p x3 a",
        2,
        "umd: layout x3 not understood for faulty.\n",
    ),
    (
        "-C md0 -l faulty -n 1 -p rt67108864 a",
        2,
        "umd: layout rt67108864 not understood for faulty.\n",
    ),
    (
        "-B md0 -l faulty -n 1 -p 37 a",
        2,
        "umd: layout 37 not understood for faulty.\n",
    ),
    (
        "-C md0 -l faulty -n 1 -c 64 a",
        2,
        "umd: specifying chunk size is forbidden for this level\n",
    ),
    (
        "-C md0 -l faulty -n 1 -b internal a",
        2,
        "umd: bitmaps not meaningful with level faulty\n",
    ),
    (
        "-C md0 -l linear -n 2 -b internal a b",
        2,
        "umd: bitmaps not meaningful with level linear\n",
    ),
    (
        "action md0 check --repair parity",
        2,
        "umd: --repair goes with the action repair\n",
    ),
    (
        "action md0 repair --repair data",
        2,
        "umd: --repair is others or parity, not data\n",
    ),
    (
        "action md0 idle --from 0",
        2,
        "umd: --from is where check and repair begin; what is owed begins where it was\n",
    ),
    (
        "action md0 check --from max",
        2,
        "umd: --from is a size such as 64M or 131072s: max\n",
    ),
    (
        "action md0 --to=-1",
        2,
        "umd: --to is a size such as 64M or 131072s, or max: -1\n",
    ),
    (
        "action md0 --speed-max 0",
        2,
        "umd: --speed-max is a speed in KiB per second such as 20000 or 20M, or system: 0\n",
    ),
    (
        "action md0 --speed-min 1s",
        2,
        "umd: --speed-min is a speed in KiB per second such as 20000 or 20M, or system: 1s\n",
    ),
    (
        "action md0 --speed-min 5T",
        2,
        "umd: --speed-min is a speed in KiB per second such as 20000 or 20M, or system: 5T\n",
    ),
    (
        "-C md0 -l 5 -n 3 -k ppl a b c",
        2,
        "umd: consistency policy ppl is not available in this version; resync and bitmap are\n",
    ),
    (
        "-C md0 -l 1 -n 2 --write-behind a b",
        2,
        "umd: --write-behind needs --bitmap=internal\n",
    ),
    (
        "-C md0 -l 1 -n 2 -b none --write-behind=8 a -W b",
        2,
        "umd: --write-behind needs --bitmap=internal\n",
    ),
    (
        "-C md0 -l 10 -n 2 -b internal --write-behind a -W b",
        2,
        "umd: --write-behind is for raid1, not for raid10\n",
    ),
    (
        "-C md0 -l 1 -n 2 -b internal --write-behind=16384 a -W b",
        2,
        "umd: Invalid value for maximum outstanding write-behind writes: 16384. Must be between 0 \
         and 16383.\n",
    ),
    (
        "-C md0 -l 1 -n 2 -b internal --write-behind=x a -W b",
        2,
        "umd: Invalid value for maximum outstanding write-behind writes: x. Must be between 0 and \
         16383.\n",
    ),
    (
        "-C md0 -l 1 -n 2 -b internal --delay=0 a b",
        2,
        "umd: invalid delay: 0; it is a whole number of seconds from 1 to 86400\n",
    ),
    (
        "-C md0 -l 1 -n 2 -b none -d 10 a b",
        2,
        "umd: --delay needs --bitmap=internal\n",
    ),
    (
        "-C md0 -l 1 -n 2 -b clustered a b",
        2,
        "umd: --bitmap=clustered needs the name of the cluster: --home-cluster=NAME, or \
         HOMECLUSTER in mdadm.conf\n",
    ),
    (
        "-C md0 -l 1 -n 2 -b internal --nodes=3 a b",
        2,
        "umd: --nodes needs --bitmap=clustered\n",
    ),
    (
        "-C md0 -l 1 -n 2 --home-cluster=hall a b",
        2,
        "umd: --home-cluster needs --bitmap=clustered\n",
    ),
    (
        "-C md0 -l 1 -n 2 -b clustered --home-cluster=hall --nodes=1 a b",
        2,
        "umd: invalid number of nodes: 1; a clustered array has 2 to 64\n",
    ),
    (
        "-C md0 -l 0 -n 2 -b internal a b",
        2,
        "umd: bitmaps not meaningful with level raid0\n",
    ),
    (
        "-C a/b -l 1 -n 2 a b",
        2,
        "umd: 'a/b' cannot be the name of an array: blanks, '/', ':', \
                                 '[' and ']' are not allowed\n",
    ),
    (
        "-G md0 -n 4",
        1,
        "umd: md0 does not appear to be an active array\n",
    ),
    (
        "-G md0 -n 4 --add",
        2,
        "umd: --add needs the devices that are to be added\n",
    ),
    (
        "grow md0 -n 4 --bitmap=none",
        2,
        "umd: --raid-devices, --layout and --bitmap are changed one after the other\n",
    ),
    (
        "grow md0 --level=6",
        1,
        "umd: md0 does not appear to be an active array\n",
    ),
    ("grow md0 --level=7", 2, "umd: invalid raid level: 7\n"),
    (
        "grow md0 --level=6 --bitmap=none",
        2,
        "umd: --level, --layout and --bitmap are changed one after the other\n",
    ),
    (
        "grow md0 --bitmap=none --add x.img",
        2,
        "umd: devices are put in with umd manage --add, or with --add for a new level or for \
         --raid-devices\n",
    ),
    (
        "grow md0",
        2,
        "umd: nothing to change: --bitmap=internal, --bitmap=/path/file or --bitmap=none?\n",
    ),
    ("grow", 2, "umd: an md device must be given in this mode\n"),
    (
        "grow md0 x.img --bitmap=none",
        2,
        "umd: x.img: devices are put in with umd manage --add, or for a new level, or for \
         --raid-devices, with umd grow --add\n",
    ),
    (
        "grow md0 --bitmap=foo",
        2,
        "umd: 'foo' is not a bitmap this version knows; internal, lockless, clustered, none and \
         ./FILE are\n",
    ),
    (
        "grow md0 --bitmap=none --bitmap-chunk=64K",
        2,
        "umd: --bitmap-chunk needs --bitmap=internal or --bitmap=/path/file\n",
    ),
    (
        "grow md0 --bitmap=/dir/file",
        1,
        "umd: md0 does not appear to be an active array\n",
    ),
    (
        "grow md0 --layout=rt100 --force",
        2,
        "umd: --layout and --bitmap cannot be given together: level faulty has no bitmap\n",
    ),
    (
        "grow md0 --bitmap=none",
        1,
        "umd: md0 does not appear to be an active array\n",
    ),
    (
        "serve md0 a --ublk",
        2,
        "umd: --ublk (the ublk door) is not available in this version\n",
    ),
    (
        "md0 --write-mostly a",
        1,
        "umd: md0 does not appear to be an active array\n",
    ),
    (
        "manage md0 a --failfast",
        2,
        "umd: a: say what to do with it, such as --add\n",
    ),
    (
        "md0 --replace a --with b",
        1,
        "umd: md0 does not appear to be an active array\n",
    ),
    (
        "-E nonexist",
        1,
        "umd: cannot open nonexist: No such file or directory\n",
    ),
    (
        "-E zero.img",
        1,
        "umd: No md superblock detected on zero.img.\n",
    ),
    (
        "-E --export zero.img",
        1,
        "umd: No md superblock detected on zero.img.\n",
    ),
    (
        "-Q nonexist",
        1,
        "umd: cannot open nonexist: No such file or directory\n",
    ),
    (
        "-D zero.img",
        1,
        "umd: zero.img does not appear to be an md device\n",
    ),
    (
        "-S zero.img",
        1,
        "umd: zero.img does not appear to be an md device\n",
    ),
    (
        "-D md0",
        1,
        "umd: md0 does not appear to be an active array\n",
    ),
    (
        "-D --test md0",
        4,
        "umd: md0 does not appear to be an active array\n",
    ),
    (
        "-S md0",
        1,
        "umd: md0 does not appear to be an active array\n",
    ),
    (
        "-W md0",
        2,
        "umd: md0 does not appear to be an active array\n",
    ),
    (
        "md0 --fail x",
        1,
        "umd: md0 does not appear to be an active array\n",
    ),
    (
        "action md0 reshape",
        1,
        "umd: md0 does not appear to be an active array\n",
    ),
    (
        "serve md0 zero.img --nbd tcp",
        2,
        "umd: \"tcp\" is not an address: write unix:PATH or \
                                         tcp:HOST:PORT\n",
    ),
];

#[test]
fn requests_that_make_no_sense() {
    let home = Home::new();
    fs::write(home.path("zero.img"), vec![0; 1 << 20]).expect("writes");
    let before = home.hashes();
    for (line, code, text) in REFUSALS {
        let ran = home.umd(line);
        assert_eq!((ran.code, ran.err.as_str()), (*code, *text), "umd {line}");
        assert_eq!(ran.out, "", "umd {line}");
    }
    assert_eq!(home.hashes(), before);
    assert_eq!(home.daemon_pid(), None, "no daemon is started for nothing");
}

#[test]
fn nothing_found_is_no_failure_where_mdadm_says_so() {
    let home = Home::new();
    fs::write(home.path("zero.img"), vec![0; 1 << 20]).expect("writes");
    assert_eq!(home.umd("-Es zero.img").ok().out, "");
    assert_eq!(home.umd("-Ds").ok().out, "");
    assert_eq!(home.umd("-Ss").ok().out, "");
    assert_eq!(
        home.umd("-Q zero.img").ok().out,
        "zero.img: is not an md array\n"
    );
    let erased = home.umd("--zero-superblock zero.img").ok();
    assert_eq!(
        erased.err,
        "umd: Unrecognised md component device - zero.img\n"
    );
    let levels = "[linear] [raid0] [raid1] [raid6] [raid5] [raid4] [raid10] [faulty]";
    let empty = format!("Personalities : {levels} \nunused devices: <none>\n");
    assert_eq!(home.umd("mdstat").ok().out, empty);
}

#[test]
fn clap_errors_have_our_prefix_and_mdadms_code() {
    let home = Home::new();
    let text = home.umd("create --bogus").fails(2);
    assert!(
        text.starts_with("umd: unexpected argument '--bogus'"),
        "{text}"
    );
    assert!(text.lines().all(|line| line.starts_with("umd: ")), "{text}");
    let text = home.umd("crate x").fails(2);
    assert!(text.contains("unrecognized subcommand 'crate'"), "{text}");
    let help = home.umd("--help").ok();
    assert!(help.out.contains("zero-superblock"), "{}", help.out);
    let version = home.umd("--version").ok();
    assert_eq!(version.out, format!("umd {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_dry_run_changes_nothing_and_needs_no_daemon() {
    let home = Home::new();
    let made = home
        .umd("create r1 -l1 -n2 --size 8M --dry-run a.img b.img")
        .ok();
    assert!(made.out.contains("would make "), "{}", made.out);
    assert!(!home.path("a.img").exists());
    home.umd("create r1 -l1 -n2 --size 8M a.img b.img").ok();
    home.umd("wait r1");
    home.umd("stop r1").ok();
    let before = home.hashes();
    let text = home.umd("assemble r1 --dry-run a.img b.img").ok().out;
    assert!(text.contains("would start r1 (raid1 "), "{text}");
    assert!(text.contains("slot 1: "), "{text}");
    let text = home.umd("zero-superblock --dry-run a.img").ok().out;
    assert!(
        text.starts_with("would write zeros at sector 8 of a.img"),
        "{text}"
    );
    assert_eq!(home.hashes(), before);
}
