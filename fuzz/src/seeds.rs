//! The first corpus: images as `umd create` makes them, superblocks of kernel 7.2, and what NBD
//! clients and the command line send.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::images::{Image, Members};
use umd_core::assembly::Wish;
use umd_format::bitmap::{BitmapSuperblock, initial_slots};
use umd_format::create::{NewArray, NewMember, new_array};
use umd_format::space::RegionWish;
use umd_format::v1::DeviceFlags;
use umd_format::{Format, Level, Uuid, badblocks};

/// Superblocks and bitmaps that kernels wrote.
const KERNEL: &[(&str, &[u8], &[u8])] = &[
    (
        "k72",
        include_bytes!("../../crates/umd-format/tests/data/k72-raid6-lbs.superblock.bin"),
        include_bytes!("../../crates/umd-format/tests/data/k72-raid6-lbs.bitmap.bin"),
    ),
    (
        "llb1",
        include_bytes!("../../crates/umd-format/tests/data/llb-raid1-dirty.superblock.bin"),
        include_bytes!("../../crates/umd-format/tests/data/llb-raid1-dirty.bitmap.bin"),
    ),
    (
        "llb5",
        include_bytes!("../../crates/umd-format/tests/data/llb-raid5-clean.superblock.bin"),
        include_bytes!("../../crates/umd-format/tests/data/llb-raid5-clean.bitmap.bin"),
    ),
];

/// Inputs, by target and name.
pub type Corpus = BTreeMap<PathBuf, Vec<u8>>;

/// All of it.
pub fn corpus() -> Corpus {
    let mut corpus = Corpus::new();
    kernel(&mut corpus);
    created(&mut corpus);
    nbd(&mut corpus);
    words(&mut corpus);
    household(&mut corpus);
    bad_blocks(&mut corpus);
    corpus
}

fn bad_blocks(corpus: &mut Corpus) {
    let ranges =
        [(40, 8), (5000, 512)].map(|(start_sectors, length_sectors)| badblocks::BadRange {
            start_sectors,
            length_sectors,
        });
    let log = badblocks::encode(&ranges, 0, 1).expect("two entries fit");
    corpus.insert("badblocks/two".into(), [&[0][..], &log].concat());
    // All 512 entries; then some are cleared, and some come.
    let full: Vec<badblocks::BadRange> = (0..512)
        .map(|n| badblocks::BadRange {
            start_sectors: 4096 + n * 24,
            length_sectors: 16,
        })
        .collect();
    let log = badblocks::encode(&full, 0, 8).expect("512 entries fit");
    let changes = [
        4, 0, 3, 0, 15, 0, 200, 4, 3, 0, 1, 20, 255, 40, 1, 7, 2, 0b101,
    ];
    corpus.insert("badblocks/full".into(), [&[0][..], &log, &changes].concat());
}

fn kernel(corpus: &mut Corpus) {
    for (name, superblock, bitmap) in KERNEL {
        // 24 MiB members of version 1.2.
        let head = [&[0, 48][..], superblock].concat();
        corpus.insert(format!("superblock/{name}").into(), head);
        let mut bits = vec![0];
        bits.extend((47_104u64 << 9).to_le_bytes());
        bits.extend_from_slice(bitmap);
        corpus.insert(format!("bitmap/{name}").into(), bits);
    }
    let plain = BitmapSuperblock::new(Uuid([7; 16]), 47_104, 1 << 20);
    let mut slots = vec![0];
    slots.extend((47_104u64 << 9).to_le_bytes());
    slots.extend(initial_slots(&plain, 2, [b'c'; 64]));
    corpus.insert("bitmap/cluster".into(), slots);
    let mut old = vec![0u8; 4096];
    for (word, value) in [(0, umd_format::MD_MAGIC), (2, 90), (7, 1), (9, 2), (10, 2)] {
        old[4 * word..4 * word + 4].copy_from_slice(&value.to_le_bytes());
    }
    corpus.insert("v090/little".into(), [&[0, 200][..], &old].concat());
    old.chunks_mut(4).for_each(<[u8]>::reverse);
    corpus.insert("v090/big".into(), [&[0, 200][..], &old].concat());
}

/// A small array as `umd create` makes it.
fn array(level: Level, minor: Format, spares: usize, bitmap: bool) -> Members {
    const SECTORS: u64 = 24 + 4 * 40 + 128;
    let member = |index: usize| NewMember {
        device_sectors: SECTORS,
        device_uuid: Uuid([index as u8 + 1; 16]),
        flags: DeviceFlags::default(),
    };
    let slots = if level == Level::Raid6 { 4 } else { 3 };
    let made = new_array(&NewArray {
        format: minor,
        preferred_minor: 0,
        set_uuid: Uuid([7; 16]),
        name: "host:fuzz".to_owned(),
        ctime_seconds: 1_700_000_000,
        level,
        layout: if matches!(level, Level::Raid5 | Level::Raid6) {
            2
        } else {
            0
        },
        chunk_sectors: if level.is_striped() { 8 } else { 0 },
        size_sectors: None,
        data_offset_sectors: Some(if minor.is_at_end() { 0 } else { 32 }),
        bitmap: bitmap.then_some(RegionWish::Bytes(4096)),
        bad_block_log: true,
        assume_clean: bitmap,
        slots: (0..slots).map(|slot| Some(member(slot))).collect(),
        spares: (0..spares).map(|spare| member(slots + spare)).collect(),
    })
    .expect("a small array");
    let bitmap = made.bitmap_image();
    let superblocks = made.slots.iter().flatten().chain(&made.spares);
    let images = superblocks.map(|superblock| {
        let mut image = Image {
            sectors: SECTORS,
            ..Image::default()
        };
        let fields = &superblock.fields;
        image.write(fields.super_offset_sectors, &superblock.encode(512));
        if let (Some(bits), Some(sector)) = (&bitmap, fields.bitmap_sector()) {
            image.write(sector, &bits[..512]);
        }
        image
    });
    Members {
        images: images.collect(),
        wish: Wish::default(),
    }
}

fn created(corpus: &mut Corpus) {
    let levels = [
        Level::Raid0,
        Level::Raid1,
        Level::Raid4,
        Level::Raid5,
        Level::Raid6,
    ];
    for level in levels {
        for minor in Format::ALL {
            let redundant = level.is_redundant();
            let mut members = array(level, minor, usize::from(redundant), redundant);
            let name = format!("{level}-{minor}");
            corpus.insert(format!("assembly/{name}").into(), members.describe());
            let image = &members.images[0];
            let place = minor
                .superblock_sector(image.sectors)
                .expect("large enough");
            let index = Format::ALL
                .iter()
                .position(|one| *one == minor)
                .expect("one of them");
            if minor == Format::V090 {
                let bytes = [vec![0, 0], image.read(place, 8)].concat();
                corpus.insert(format!("v090/{level}").into(), bytes);
            } else {
                let mut bytes = vec![index as u8 | 4];
                bytes.extend(image.sectors.to_le_bytes());
                bytes.extend(image.read(place, 1));
                corpus.insert(format!("superblock/{name}").into(), bytes);
            }
            members.images.remove(1);
            members.wish.force = true;
            corpus.insert(
                format!("assembly/{name}-degraded").into(),
                members.describe(),
            );
        }
        let unclean = array(level, Format::V1_2, 0, false);
        corpus.insert(
            format!("assembly/{level}-unclean").into(),
            unclean.describe(),
        );
    }
    let mut signature = vec![1, 0, 4, 0, 0, 0, 0, 0, 0, 1, 8, 0];
    signature.extend(array(Level::Raid1, Format::V1_1, 0, false).images[0].read(0, 4));
    corpus.insert("signature/md".into(), signature);
}

fn nbd(corpus: &mut Corpus) {
    let option = |code: u32, data: &[u8]| {
        let mut bytes = b"IHAVEOPT".to_vec();
        bytes.extend(code.to_be_bytes());
        bytes.extend((data.len() as u32).to_be_bytes());
        bytes.extend_from_slice(data);
        bytes
    };
    let flags = 3u32.to_be_bytes();
    let context = [
        &[0, 0, 0, 2][..],
        b"r5",
        &[0, 0, 0, 1, 0, 0, 0, 15],
        b"base:allocation",
    ];
    let go = [&[0, 0, 0, 2][..], b"r5", &[0, 1, 0, 3]].concat();
    let talk = [
        &[40][..],
        &flags,
        &option(3, &[]),
        &option(8, &[]),
        &option(10, &context.concat()),
        &option(7, &go),
    ];
    corpus.insert("negotiation/go".into(), talk.concat());
    corpus.insert(
        "negotiation/name".into(),
        [&[3][..], &flags, &option(1, b"r6")].concat(),
    );
    corpus.insert(
        "negotiation/abort".into(),
        [&[3][..], &flags, &option(2, &[])].concat(),
    );
    let request = |command: u16, offset: u64, len: u32, payload: &[u8]| {
        let mut bytes = 0x2560_9513u32.to_be_bytes().to_vec();
        bytes.extend(0u16.to_be_bytes());
        bytes.extend(command.to_be_bytes());
        bytes.extend((u64::from(command) + 100).to_be_bytes());
        bytes.extend(offset.to_be_bytes());
        bytes.extend(len.to_be_bytes());
        bytes.extend_from_slice(payload);
        bytes
    };
    let all = [
        request(0, 4096, 1024, &[]),
        request(1, 512, 512, &[9; 512]),
        request(3, 0, 0, &[]),
        request(4, 8192, 4096, &[]),
        request(6, 0, 1 << 20, &[]),
        request(7, 0, 1 << 20, &[]),
        request(2, 0, 0, &[]),
    ];
    for (name, choice) in [("simple", 0u8), ("structured", 1), ("one-by-one", 9)] {
        let bytes = [&[choice, 255][..], &all.concat()].concat();
        corpus.insert(format!("transmission/{name}").into(), bytes);
    }
}

/// Lines of mdadm.conf, and what scripts write to sysfs.
fn household(corpus: &mut Corpus) {
    let lines = [
        "DEVICE partitions /dev/sd[a-d]* containers\nHOMEHOST <system>\nMAILADDR root\n",
        "ARRAY /dev/md/r5 metadata=1.2 UUID=23d5df6b:1c017be0:d40e086f:9867cb64\n  name=h:r5 \
         spares=1 spare-group='a b' devices=/dev/sda,/dev/sdb # and so on\n",
        "ARRAY <ignore> super-minor=3 level=raid5 num-devices=3 bitmap=/b\nCREATE bbl=no owner=x \
         metadata=1.0\nAUTO +1.x homehost -all\n",
        "POLICY domain=d path=pci-*-sas-* action=spare\nPART-POLICY auto=yes\nMONITORDELAY 60\n\
         PROGRAM /bin/true\nMAILFROM me\nHOMECLUSTER c\n",
    ];
    for (index, text) in lines.iter().enumerate() {
        corpus.insert(format!("conf/{index}").into(), text.as_bytes().to_vec());
    }
    let written = [
        "clear",
        "idle",
        "frozen",
        "check",
        "none",
        "+8",
        "/b",
        "max",
        "0",
        "1",
        "4096",
        "0.204",
        "system",
        "faulty",
        "-writemostly",
        "re-add",
        "8:16",
        "1.2",
        "default",
        "1-5,7",
        "raid6",
    ];
    for (index, text) in written.iter().enumerate() {
        for array in 0..4u8 {
            let start = [array, (index * 5) as u8];
            let bytes = [&start[..], text.as_bytes(), b"\n"].concat();
            corpus.insert(format!("sysfs/{index}-{array}").into(), bytes);
        }
    }
}

fn words(corpus: &mut Corpus) {
    let texts = [
        "23d5df6b:1c017be0:d40e086f:9867cb64",
        "unix:/run/umd/nbd.sock",
        "tcp:127.0.0.1:10809",
        "[::1]:10809",
        "read-error@100+8,slow=5ms",
    ];
    for (index, text) in texts.iter().enumerate() {
        corpus.insert(format!("words/{index}").into(), text.as_bytes().to_vec());
    }
    let documents = [
        r#"{"operation":"add","device":"/dev/a","write_mostly":false,"force":true}"#,
        r#"{"action":"check"}"#,
        r#"{"readonly":true}"#,
        r#"{"name":"r5","uuid":null,"set_name":"h:r5","minor":2,"devices":["/a","/b"],
            "force":false,"run":false,"no_degraded":false,"readonly":false,"overlay":null,
            "io_engine":null,"faults":[]}"#,
        r#"{"name":"r5","set_name":"h:r5","uuid":null,"minor":2,"level":5,"layout":2,
            "chunk_sectors":128,"size_sectors":null,"data_offset_sectors":null,"bitmap":null,
            "bitmap_chunk_bytes":null,"bad_block_log":true,"assume_clean":false,
            "slots":[{"path":"/a","write_mostly":false},null],"spares":[],"destroy":[],
            "destroy_all":false,"readonly":false,"io_engine":null}"#,
    ];
    for (index, text) in documents.iter().enumerate() {
        corpus.insert(format!("api/{index}").into(), text.as_bytes().to_vec());
    }
}
