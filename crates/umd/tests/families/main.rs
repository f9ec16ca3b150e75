//! The scenarios that mdadm's own test families stand for, from the outside, on files.
//!
//! ```text
//!   levels  00*   what every level is for, and names
//!   losses  01*   members fail in every combination the level allows; 02r1add
//!   replaced      01replace, and 05r1-failfast
//!   starts  03*   assembly by every word, in every order, with strangers and stale members
//!   incremental   03assem-incr
//!   changes 04*   what `--update=` leaves
//!   bitmaps 05*   what a bitmap saves, counted on the members themselves
//!   grown         the same of bitmaps that come and go while the array runs
//!   joined        a plain array becomes one of a cluster, and a plain one again
//!   reshaped      05r6tor0: an array becomes others, and back
//!   manners 06*   names and write-mostly members
//!   sysfs   06*   all that scripts do with /sys/block/mdX/md, on a real mount
//!   parity  19*   a check that knows who is wrong, and a repair that does no harm
//! ```
//!
//! The names are mdadm's, for reference; the scenarios are our own. docs/testing.md lists the
//! names that have none yet.

#[path = "../common/mod.rs"]
mod common;

mod bitmapfiles;
mod bitmaps;
mod changes;
mod fenced;
mod grown;
mod incremental;
mod joined;
mod levels;
mod losses;
mod manners;
mod parity;
mod replaced;
mod reshaped;
mod starts;
mod sysfs;

use common::{Home, pattern};
use std::fs;
use std::os::unix::fs::FileExt;

/// Bytes in a MiB.
const MIB: u64 = 1 << 20;
/// What a place holds that must not be read, or must be written over.
const POISON: [u8; 4096] = [0x5a; 4096];

/// An array and what it should hold.
struct Rig {
    home: Home,
    files: Vec<String>,
    data: Vec<u8>,
}

impl Rig {
    /// `options` are those of `create`, without the files; every byte is written. All is in sync.
    fn create(count: usize, options: &str) -> Rig {
        let files: Vec<String> = (0..count).map(|index| format!("m{index}")).collect();
        let home = Home::new();
        home.umd(&format!("create r {options} {}", files.join(" ")))
            .ok();
        home.settle("r");
        let mut rig = Rig {
            home,
            files,
            data: Vec::new(),
        };
        rig.fill(1);
        rig
    }

    /// Writes all of the array.
    fn fill(&mut self, seed: u64) {
        let bytes = self.home.detail("r")["array_bytes"].as_u64();
        let bytes = bytes.expect("a size") as usize;
        self.data = pattern(seed, bytes);
        let mut client = self.home.nbd("r");
        for (index, piece) in self.data.chunks(8 << 20).enumerate() {
            let at = index as u64 * (8 << 20);
            client.pwrite(at, piece).expect("writes");
        }
        client.flush().expect("flushes");
        client.disconnect().expect("leaves");
    }

    /// Writes a part.
    fn write(&mut self, at: u64, seed: u64, bytes: usize) {
        let piece = pattern(seed, bytes);
        let mut client = self.home.nbd("r");
        client.pwrite(at, &piece).expect("writes");
        client.flush().expect("flushes");
        client.disconnect().expect("leaves");
        self.data[at as usize..at as usize + bytes].copy_from_slice(&piece);
    }

    /// Reads all of it and compares.
    #[track_caller]
    fn verify(&self, when: &str) {
        let mut client = self.home.nbd("r");
        for (index, piece) in self.data.chunks(8 << 20).enumerate() {
            let at = index as u64 * (8 << 20);
            let read = client.pread(at, piece.len() as u32).expect("reads");
            assert!(read == piece, "{when}: other bytes than were written");
        }
        client.disconnect().expect("leaves");
    }

    /// A command about the array that must work.
    #[track_caller]
    fn r(&self, words: &str) -> common::Ran {
        self.home.umd(&format!("r {words}")).ok()
    }

    #[track_caller]
    fn umd(&self, line: &str) -> common::Ran {
        self.home.umd(line).ok()
    }

    fn stop(&self) {
        self.umd("stop r");
    }

    fn names(&self) -> String {
        self.files.join(" ")
    }

    /// Starts it with all of its members.
    #[track_caller]
    fn start(&self) {
        self.umd(&format!("assemble r {}", self.names()));
    }

    /// Members in sync are equal or agree with their parity.
    #[track_caller]
    fn agrees(&self, when: &str) {
        self.umd("action r check --wait");
        assert_eq!(self.home.detail("r")["mismatch_cnt"], 0, "{when}");
    }

    /// Where array data begins on members, and how many bytes each gives.
    fn room(&self) -> (u64, usize) {
        let detail = self.home.detail("r");
        let offset = detail["members"][0]["data_offset_bytes"].as_u64();
        let bytes = detail["dev_bytes"].as_u64();
        (offset.expect("a place"), bytes.expect("a size") as usize)
    }

    /// Every member's data, by slot. Read from the files.
    fn columns(&self, (offset, bytes): (u64, usize)) -> Vec<Vec<u8>> {
        let column = |name: &String| peek(&self.home, name, offset, bytes);
        self.files.iter().map(column).collect()
    }
}

/// Bytes of a file.
fn peek(home: &Home, name: &str, at: u64, bytes: usize) -> Vec<u8> {
    let mut read = vec![0; bytes];
    let file = fs::File::open(home.path(name)).expect("opens");
    file.read_exact_at(&mut read, at).expect("reads");
    read
}

/// Writes into a file behind umd's back.
fn poke(home: &Home, name: &str, at: u64, bytes: &[u8]) {
    let file = fs::OpenOptions::new().write(true).open(home.path(name));
    file.expect("opens")
        .write_all_at(bytes, at)
        .expect("writes");
}

/// Every order of the words.
fn orders(words: &[String]) -> Vec<Vec<String>> {
    if words.len() < 2 {
        return vec![words.to_vec()];
    }
    let mut all = Vec::new();
    for index in 0..words.len() {
        let mut rest = words.to_vec();
        let first = rest.remove(index);
        for mut order in orders(&rest) {
            order.insert(0, first.clone());
            all.push(order);
        }
    }
    all
}

/// Every pair below `count`.
fn pairs(count: usize) -> Vec<(usize, usize)> {
    let pair = |one| (one + 1..count).map(move |other| (one, other));
    (0..count).flat_map(pair).collect()
}
