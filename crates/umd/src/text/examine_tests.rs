//! Against what mdadm 4.2 printed for the same superblocks (`tests/examine/cases.txt`).

use super::*;
use crate::text::tests::context;
use umd_format::Minor;

const CASES: &str = include_str!("../../tests/examine/cases.txt");

struct Case {
    found: Examined,
    full: String,
    export: String,
    brief: String,
}

/// One case: `== NAME DEVICE_SECTORS MINOR BITMAP_SECTORS`, the superblock as `offset:word` (what
/// is left out is 0 in the header and all ones in the roles), then the three outputs.
fn parse(text: &str) -> Case {
    let (head, rest) = text.split_once('\n').expect("a head line");
    let head: Vec<&str> = head.split(' ').collect();
    let (words, rest) = rest.split_once("\n-- full\n").expect("full");
    let (full, rest) = rest.split_once("-- export\n").expect("export");
    let (export, brief) = rest.split_once("-- brief\n").expect("brief");
    let mut bytes = vec![0; 512];
    bytes[256..].fill(0xff);
    for word in words.split(' ') {
        let (offset, value) = word.split_once(':').expect("offset:word");
        let offset: usize = offset.parse().expect("offset");
        let value = u32::from_str_radix(value, 16).expect("hex");
        bytes[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
    }
    let minor = match head[2] {
        "0" => Minor::V1_0,
        "1" => Minor::V1_1,
        _ => Minor::V1_2,
    };
    let bitmap: u64 = head[3].parse().expect("bitmap sectors");
    Case {
        found: Examined {
            name: format!("{}.img", head[0]),
            device_sectors: head[1].parse().expect("device sectors"),
            superblock: Unverified::parse(&bytes, minor).expect("a superblock"),
            bitmap_sectors: (bitmap > 0).then_some(bitmap),
            bitmap_version: None,
            cluster: None,
        },
        full: full.to_owned(),
        export: export.to_owned(),
        brief: format!("{}\n", brief.trim_end_matches('\n')),
    }
}

fn cases() -> Vec<Case> {
    let cases: Vec<Case> = format!("\n{CASES}")
        .split("\n== ")
        .skip(1)
        .map(parse)
        .collect();
    assert!(cases.len() > 50, "{} cases", cases.len());
    cases
}

#[test]
fn examine_is_mdadms() {
    for case in cases() {
        assert_eq!(
            examine(&case.found, &context()),
            case.full,
            "{}",
            case.found.name
        );
    }
}

#[test]
fn export_is_mdadms() {
    for case in cases() {
        assert_eq!(export(&case.found), case.export, "{}", case.found.name);
    }
}

#[test]
fn brief_is_mdadms() {
    for case in cases() {
        let printed = brief(std::slice::from_ref(&case.found), false);
        assert_eq!(printed, case.brief, "{}", case.found.name);
    }
}

fn case(name: &str) -> Examined {
    let found = cases().into_iter().find(|case| case.found.name == name);
    found.expect("a case of that name").found
}

#[test]
fn verbose_brief_groups_members() {
    let found = [case("r5.img"), case("r6.img"), case("spare.img")];
    let expected = "\
ARRAY /dev/md/0  level=raid6 metadata=1.2 num-devices=5 \
UUID=11112222:33334444:55556666:77778888 name=host:0
   devices=r6.img
ARRAY /dev/md/0  level=raid5 metadata=1.2 num-devices=3 \
UUID=11112222:33334444:55556666:77778888 name=host:0
   spares=1   devices=r5.img,spare.img
";
    assert_eq!(brief(&found, true), expected);
}

#[test]
fn names_of_this_host_are_local() {
    let mut fields_host = context();
    fields_host.host = "host".into();
    let text = examine(&case("r5.img"), &fields_host);
    assert!(text.contains("           Name : host:0  (local to host host)\n"));
}

#[test]
fn a_partition_table_is_shown_as_mdadm_shows_it() {
    let mut boot = vec![0; 512];
    boot[510] = 0x55;
    boot[511] = 0xaa;
    boot[450] = 0xee;
    boot[454..458].copy_from_slice(&1u32.to_le_bytes());
    boot[458..462].copy_from_slice(&u32::MAX.to_le_bytes());
    boot[478 + 4] = 0x83;
    boot[478 + 8..478 + 12].copy_from_slice(&2048u32.to_le_bytes());
    boot[478 + 12..478 + 16].copy_from_slice(&100_000u32.to_le_bytes());
    let expected = "\
mbr.img:
   MBR Magic : aa55
Partition[0] :   4294967295 sectors at            1 (type ee)
Partition[2] :       100000 sectors at         2048 (type 83)
";
    assert_eq!(examine_mbr("mbr.img", &boot).as_deref(), Some(expected));
    assert_eq!(examine_mbr("zero.img", &[0; 512]), None);
}

/// The words of a v0.90 superblock, with its checksum made right.
fn v090(patch: &[(usize, u32)]) -> SuperblockV090 {
    let mut words = [0u32; 1024];
    let head = [
        (0, 0xa92b_4efc),
        (2, 90),
        (5, 0x1111_2222),
        (6, 1_577_836_800),
        (7, 5),
        (8, 64_512),
        (9, 4),
        (10, 3),
        (11, 3),
        (13, 0x3333_4444),
        (14, 0x5555_6666),
        (15, 0x7777_8888),
        (32, 1_577_837_800),
        (33, 1),
        (34, 3),
        (35, 4),
        (37, 1),
        (39, 18),
        (64, 2),
        (65, 65_536),
    ];
    for (at, value) in head.iter().chain(patch) {
        words[*at] = *value;
    }
    for disk in 0..4u32 {
        let at = 128 + 32 * disk as usize;
        let state = if disk < 3 { 6 } else { 0 };
        words[at..at + 5].copy_from_slice(&[disk, 8, 1 + disk, disk, state]);
    }
    words.copy_within(128..133, 992);
    let sum: u64 = words.iter().map(|word| u64::from(*word)).sum();
    words[38] = (sum as u32).wrapping_add((sum >> 32) as u32);
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    SuperblockV090::parse(&bytes).expect("a v0.90 superblock")
}

#[test]
fn the_old_format_is_shown_as_mdadm_shows_it() {
    let expected = "\
v90.img:
          Magic : a92b4efc
        Version : 0.90.00
           UUID : 11112222:33334444:55556666:77778888
  Creation Time : Wed Jan  1 00:00:00 2020
     Raid Level : raid5
  Used Dev Size : 64512 (63.00 MiB 66.06 MB)
     Array Size : 129024 (126.00 MiB 132.12 MB)
   Raid Devices : 3
  Total Devices : 4
Preferred Minor : 3

    Update Time : Wed Jan  1 00:16:40 2020
          State : clean
 Active Devices : 3
Working Devices : 4
 Failed Devices : 0
  Spare Devices : 1
       Checksum : 76566717 - correct
         Events : 18

         Layout : left-symmetric
     Chunk Size : 64K

      Number   Major   Minor   RaidDevice State
this     0       8        1        0      active sync

   0     0       8        1        0      active sync
   1     1       8        2        1      active sync
   2     2       8        3        2      active sync
   3     3       8        4        3      spare
";
    assert_eq!(examine_v090("v90.img", &v090(&[]), &context()), expected);
}
