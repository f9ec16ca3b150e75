//! 04*: what `--update=` leaves.

use super::{Rig, peek, poke};
use std::fs;
use umd_format::v090::{SUPERBLOCK_BYTES, swapped};

fn start_with(rig: &Rig, options: &str) {
    rig.umd(&format!("assemble r {options} {}", rig.names()));
}

/// An array that has no redundancy has nothing to resync, but a name and a UUID.
#[test]
fn m04r0update() {
    let rig = Rig::create(3, "-l0 -n3 -z 2M -c 64K");
    rig.stop();
    let uuid = "00000000:11111111:22222222:33333333";
    start_with(&rig, &format!("--update=uuid --uuid={uuid}"));
    rig.verify("with another uuid");
    assert_eq!(rig.home.detail("r")["uuid"], uuid);
    rig.stop();
    start_with(&rig, &format!("--uuid={uuid} --update=name --name=stripes"));
    rig.stop();
    start_with(&rig, "--name=stripes");
    rig.verify("with another name");
}

/// A resync that was asked for mends what differs.
#[test]
fn m04r1update() {
    let rig = Rig::create(2, "-l1 -n2 -z 2M");
    let (offset, _) = rig.room();
    rig.stop();
    poke(&rig.home, "m1", offset + 8192, &super::POISON);
    start_with(&rig, "");
    rig.home.settle("r");
    rig.stop();
    let held = peek(&rig.home, "m1", offset + 8192, 4096);
    assert_eq!(held, super::POISON, "nobody looked");
    start_with(&rig, "--update=resync");
    rig.home.settle("r");
    rig.stop();
    let held = peek(&rig.home, "m1", offset + 8192, 4096);
    assert_eq!(held, rig.data[8192..12_288], "resynced");
}

/// Superblocks of version 0.90 as machines of the other byte order write them.
#[test]
fn m04r5swap() {
    let rig = Rig::create(3, "-l5 -n3 -z 2M -c 64K -e 0.90");
    rig.stop();
    for name in &rig.files {
        let bytes = fs::metadata(rig.home.path(name)).expect("there").len();
        let at = bytes / 65_536 * 65_536 - 65_536;
        let block = peek(&rig.home, name, at, SUPERBLOCK_BYTES);
        let block: &[u8; SUPERBLOCK_BYTES] = block[..].try_into().expect("a superblock");
        poke(&rig.home, name, at, &swapped(block));
    }
    let before = rig.home.hashes();
    let all = rig.names();
    rig.home.umd(&format!("assemble r {all}")).fails(1);
    assert_eq!(rig.home.hashes(), before);
    start_with(&rig, "--update=byteorder");
    rig.verify("turned");
    rig.agrees("turned");
    rig.stop();
    start_with(&rig, "");
    rig.verify("stays turned");
}

#[test]
fn m04update_metadata() {
    for (level, count) in [(0, 2), (1, 2), (4, 3), (5, 3), (6, 4), (10, 4)] {
        let options = format!("-l{level} -n{count} -z 2M -c 64K -e 0.90");
        let rig = Rig::create(count, &options);
        rig.stop();
        start_with(&rig, "--update=metadata --homehost=nas");
        rig.verify("as version 1.0");
        assert_eq!(rig.home.detail("r")["metadata"], "1.0");
        rig.stop();
        start_with(&rig, "-e 1.0");
        rig.verify(&format!("raid{level} of version 1.0"));
        if level != 0 {
            rig.agrees("as version 1.0");
        }
    }
}

#[test]
fn m04update_uuid() {
    for options in [
        "-e 1.2",
        "-e 1.0 --bitmap=internal",
        "-e 0.90 --bitmap=internal",
    ] {
        let rig = Rig::create(3, &format!("-l5 -n3 -z 2M -c 64K {options}"));
        let old = rig.home.detail("r")["uuid"].to_string();
        rig.stop();
        let uuid = "44444444:55555555:66666666:77777777";
        start_with(&rig, &format!("--update=uuid --uuid={uuid}"));
        rig.verify(options);
        rig.stop();
        let old = old.trim_matches('"');
        let all = rig.names();
        rig.home
            .umd(&format!("assemble r --uuid={old} {all}"))
            .fails(1);
        start_with(&rig, &format!("--uuid={uuid}"));
        let detail = rig.home.detail("r");
        let with = options.contains("bitmap");
        assert_eq!(
            detail["bitmap"].is_object(),
            with,
            "it is still the array's"
        );
        assert_eq!(
            (&detail["degraded"], &detail["uuid"]),
            (&0.into(), &uuid.into())
        );
        rig.verify(options);
        rig.stop();
        start_with(&rig, "--update=uuid");
        assert_ne!(rig.home.detail("r")["uuid"], uuid);
        rig.verify("a random one");
    }
}
