//! Buffers that change while they are written: kernel bug 99171, where mirrors came to differ.
//!
//! ```text
//!   scribbler --pwrite--> pages of a file --sendfile--> socket --> umd --> legs
//!                              ^ changed while they are on their way
//! ```
//!
//! The kernel hands a program's own pages to every leg in turn, and parity is computed from them at
//! a third moment. umd copies once and writes that copy; whichever bytes it caught, all legs hold
//! them. Two clients write the same places at the same time, too.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests; clippy knows only #[test] functions"
)]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use umd_interop::nbd::Client;
use umd_interop::scratch::Scratch;
use umd_interop::umd::{Served, Umd};

const MIB: u64 = 1 << 20;
const WRITES: u64 = 150;
const LEN: usize = 256 << 10;

/// A page: what the scribbler changes at once.
const PAGE: usize = 4096;

fn serve(umd: &Umd, members: &[PathBuf], shape: &str) -> Served {
    let paths: Vec<String> = members.iter().map(|m| m.display().to_string()).collect();
    let mut args = vec!["create", "b"];
    args.extend(shape.split(' '));
    args.push("--assume-clean");
    args.extend(paths.iter().map(String::as_str));
    umd.ok(&args).unwrap();
    umd.ok(&["stop", "b"]).unwrap();
    umd.serve("b", members, &[]).unwrap()
}

/// Fills pages of the file, over and over, each with one value.
fn scribble(file: &File, stop: &AtomicBool) {
    let mut value = 0_u8;
    while !stop.load(Ordering::Relaxed) {
        value = value.wrapping_add(1);
        for page in 0..LEN / PAGE {
            let at = (page * PAGE) as u64;
            file.write_all_at(&[value; PAGE], at).unwrap();
        }
    }
}

/// Writes the file's pages while they change; counts writes that caught more than one state.
fn write(socket: &Path, file: &File, first: u64) -> usize {
    let mut client = Client::connect(socket, "b").unwrap();
    let mut mixed = 0;
    for n in 0..WRITES {
        let offset = (first + n * 7 % 16) * LEN as u64 / 2 + 512 * (n % 5);
        client.write_pages(offset, file, LEN).unwrap();
        let mut back = vec![0; LEN];
        client.read(offset, &mut back).unwrap();
        mixed += usize::from(back.iter().any(|byte| *byte != back[0]));
    }
    client.flush().unwrap();
    client.disconnect().unwrap();
    mixed
}

fn mismatches(umd: &Umd) -> String {
    umd.ok(&["action", "b", "check"]).unwrap();
    // Ends with 1 when there was nothing left to wait for.
    umd.output(&["wait", "b"]).unwrap();
    let detail = umd.ok(&["detail", "--json", "b"]).unwrap();
    let detail: serde_json::Value = serde_json::from_str(&detail).unwrap();
    detail["arrays"][0]["mismatch_cnt"].to_string()
}

/// Two clients, one file whose pages change all the time.
fn changing_buffers_leave_no_difference(shape: &str, members: usize) {
    let Some(umd) = Umd::or_skip("buffers") else {
        return;
    };
    let scratch = Scratch::new().unwrap();
    let images = scratch.images("m", members, 16 * MIB).unwrap();
    let served = serve(&umd, &images, shape);
    let pages = scratch.images("pages", 1, LEN as u64).unwrap();
    let file = File::options()
        .read(true)
        .write(true)
        .open(&pages[0])
        .unwrap();
    let stop = AtomicBool::new(false);
    let mixed = thread::scope(|scope| {
        let scribbler = scope.spawn(|| scribble(&file, &stop));
        let other = scope.spawn(|| write(served.socket(), &file, 1));
        let mixed = write(served.socket(), &file, 0) + other.join().unwrap();
        stop.store(true, Ordering::Relaxed);
        scribbler.join().unwrap();
        mixed
    });
    assert!(
        mixed > 0,
        "no write caught its buffer changing: nothing was shown"
    );
    assert_eq!(
        mismatches(&umd),
        "0",
        "{shape}: {mixed} writes caught a change"
    );
    // A member that does differ is seen.
    let member = File::options().write(true).open(&images[1]).unwrap();
    member.write_all_at(&[0x99; PAGE], 8 * MIB).unwrap();
    assert_ne!(
        mismatches(&umd),
        "0",
        "{shape}: a difference that nobody saw"
    );
    served.stop().unwrap();
}

#[test]
fn on_three_mirrors() {
    changing_buffers_leave_no_difference("-l1 -n3", 3);
}

#[test]
fn on_raid10() {
    changing_buffers_leave_no_difference("-l10 -n4 -c64", 4);
}

#[test]
fn on_raid5() {
    changing_buffers_leave_no_difference("-l5 -n3 -c64", 3);
}

#[test]
fn on_raid6() {
    changing_buffers_leave_no_difference("-l6 -n5 -c64", 5);
}
