//! Which change of this program is on: `UMD_MUTANT` says it, read once.
//!
//! Only in the copy of umd-core that `cargo xtask mutants` makes. With `UMD_MUTANT=record` none
//! is, and the numbers of those that are reached are added to the file `UMD_MUTANT_REACHED`.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

const UNREAD: u32 = u32::MAX;
const RECORD: u32 = u32::MAX - 1;
/// More than there are.
const MUTANTS_MAX: usize = 1 << 16;

static ACTIVE: AtomicU32 = AtomicU32::new(UNREAD);
static REACHED: [AtomicBool; MUTANTS_MAX] = [const { AtomicBool::new(false) }; MUTANTS_MAX];
static LOG: OnceLock<File> = OnceLock::new();

/// Whether change `number` is on.
#[inline]
pub fn on(number: u32) -> bool {
    let active = ACTIVE.load(Ordering::Relaxed);
    if active < RECORD {
        return active == number;
    }
    slow(number)
}

#[cold]
fn slow(number: u32) -> bool {
    if ACTIVE.load(Ordering::Relaxed) == UNREAD {
        let wanted = std::env::var("UMD_MUTANT").unwrap_or_default();
        let active = match wanted.as_str() {
            "" => 0,
            "record" => RECORD,
            number => number.parse().expect("UMD_MUTANT is a number"),
        };
        ACTIVE.store(active, Ordering::Relaxed);
        return on(number);
    }
    if !REACHED[number as usize].swap(true, Ordering::Relaxed) {
        let log = LOG.get_or_init(|| {
            let path = std::env::var("UMD_MUTANT_REACHED").expect("a file to record in");
            let mut options = OpenOptions::new();
            options.create(true).append(true);
            options.open(path).expect("a file to record in")
        });
        let mut log: &File = log;
        let line = format!("{number}\n");
        log.write_all(line.as_bytes()).expect("it is recorded");
    }
    false
}
