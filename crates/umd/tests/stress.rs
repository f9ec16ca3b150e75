//! Eight clients that open, close, stop and start arrays under one name as fast as they can.
//!
//! Three arrays of different sizes take turns under the name; each holds its own stamp. Whoever
//! opens the name gets one of them whole: the size it was told belongs to the stamp it reads, for
//! as long as it stays. In the end nothing is left of any of it in the daemon.
//!
//! A few seconds of it here; all of it with
//! `UMD_STRESS_CYCLES=10000 cargo test --release -p umd --test stress`.

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use common::{Home, eventually};
use umd::api::{ArraysDoc, AssembleRequest, DoneDoc, StartedDoc, StopRequest};
use umd::client::Client as Control;
use umd_export::nbd::Address;
use umd_export::nbd::client::Client;

const CLIENTS: u64 = 8;
const NAME: &str = "turn";
/// Sizes of the arrays' members; what each holds is stamped with its number.
const SIZES: [&str; 3] = ["4M", "5M", "6M"];
const STAMP_BYTES: u32 = 65536;

struct Place {
    control: PathBuf,
    door: PathBuf,
    devices: Vec<Vec<String>>,
    /// The size of each array, as clients see it.
    sizes: Vec<u64>,
}

#[derive(Default)]
struct Counts {
    cycles: AtomicU64,
    opened: AtomicU64,
    started: AtomicU64,
    stopped: AtomicU64,
    busy: AtomicU64,
}

fn stamp(number: usize) -> Vec<u8> {
    vec![number as u8 + 1; STAMP_BYTES as usize]
}

fn prepared(home: &Home) -> Place {
    let mut place = Place {
        control: home.runtime().join("umd/control.sock"),
        door: home.runtime().join("umd/nbd.sock"),
        devices: Vec::new(),
        sizes: Vec::new(),
    };
    for (number, size) in SIZES.iter().enumerate() {
        let files = [format!("a{number}"), format!("b{number}")];
        let line = files.join(" ");
        home.umd(&format!(
            "create {NAME} -l1 -n2 --size {size} --assume-clean {line}"
        ))
        .ok();
        let mut client = home.nbd(NAME);
        client.pwrite(0, &stamp(number)).expect("writes");
        place.sizes.push(client.size_bytes());
        client.disconnect().expect("leaves");
        home.umd(&format!("stop {NAME}")).ok();
        let paths = files
            .iter()
            .map(|file| home.path(file).display().to_string());
        place.devices.push(paths.collect());
    }
    place
}

/// Opens the name and looks whether all of what is there is one array.
fn open(place: &Place, counts: &Counts) {
    let address = Address::Unix(place.door.clone());
    let Ok(mut client) = Client::connect(&address, NAME) else {
        return;
    };
    let size = client.size_bytes();
    let number = place.sizes.iter().position(|one| *one == size);
    let number = number.unwrap_or_else(|| panic!("an array of {size} bytes"));
    for _ in 0..3 {
        match client.pread(0, STAMP_BYTES) {
            Ok(read) => assert!(read == stamp(number), "another array's content"),
            Err(_) => return, // Stopped by force.
        }
    }
    counts.opened.fetch_add(1, Ordering::SeqCst);
    if size.is_multiple_of(2) {
        let _ = client.disconnect(); // The others leave without a word.
    }
}

fn client(seed: u64, place: &Place, counts: &Counts, total: u64) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut below = |n: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 20) % n
    };
    let mut control = connect(&place.control);
    while counts.cycles.fetch_add(1, Ordering::SeqCst) < total {
        match below(6) {
            0 | 1 => {
                let request = AssembleRequest {
                    name: Some(NAME.to_owned()),
                    devices: place.devices[below(3) as usize].clone(),
                    ..AssembleRequest::default()
                };
                let answer: Result<StartedDoc, _> = control.post("/v1/assemble", &request);
                counts
                    .started
                    .fetch_add(u64::from(answer.is_ok()), Ordering::SeqCst);
            }
            2 => {
                let force = below(2) == 0;
                let path = format!("/v1/arrays/{NAME}/stop");
                let answer: Result<DoneDoc, _> = control.post(&path, &StopRequest { force });
                match answer {
                    Ok(_) => counts.stopped.fetch_add(1, Ordering::SeqCst),
                    Err(_) => counts.busy.fetch_add(1, Ordering::SeqCst),
                };
            }
            _ => open(place, counts),
        }
    }
}

fn connect(socket: &Path) -> Control {
    let client = Control::connect(socket).expect("understood");
    client.expect("the daemon is there")
}

fn descriptors(pid: u32) -> usize {
    let listed = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("lists");
    listed.count()
}

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("reads");
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let digits = line.expect("VmRSS").chars().filter(char::is_ascii_digit);
    digits.collect::<String>().parse().expect("a number")
}

#[test]
fn eight_clients_over_one_name() {
    let total = std::env::var("UMD_STRESS_CYCLES").ok();
    let total: u64 = total.map_or(400, |text| text.parse().expect("a number"));
    let home = Home::new();
    let mut daemon = home.spawn("daemon");
    eventually("the daemon is there", || home.daemon_pid().is_some());
    let place = Arc::new(prepared(&home));
    let pid = home.daemon_pid().expect("a daemon");
    let before = descriptors(pid);
    let counts = Arc::new(Counts::default());
    let threads: Vec<_> = (0..CLIENTS)
        .map(|seed| {
            let (place, counts) = (place.clone(), counts.clone());
            std::thread::spawn(move || client(seed + 1, &place, &counts, total))
        })
        .collect();
    for thread in threads {
        thread.join().expect("no rule was broken");
    }
    home.umd("stop --scan --force").ok();
    let arrays: ArraysDoc = connect(&place.control).get("/v1/arrays").expect("lists");
    assert!(arrays.arrays.is_empty(), "{arrays:?}");
    let seen = |count: &AtomicU64| count.load(Ordering::SeqCst);
    println!(
        "{total} cycles: {} opened, {} started, {} stopped, {} not; {before} descriptors before, \
         {} after, {} KiB",
        seen(&counts.opened),
        seen(&counts.started),
        seen(&counts.stopped),
        seen(&counts.busy),
        descriptors(pid),
        resident_kib(pid)
    );
    for count in [&counts.opened, &counts.started, &counts.stopped] {
        assert!(seen(count) > 0, "something was never done");
    }
    eventually("descriptors are given back", || descriptors(pid) <= before);
    eventually("memory is given back", || resident_kib(pid) < 40 << 10);
    let raw = rustix::process::Pid::from_raw(i32::try_from(pid).expect("a pid"));
    let term = rustix::process::Signal::TERM;
    rustix::process::kill_process(raw.expect("a pid"), term).expect("signals");
    assert_eq!(daemon.wait().expect("ends").code(), Some(0));
}
