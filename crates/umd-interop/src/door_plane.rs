//! NBD servers before a client that batches: what is asked for together is sent together, and so
//! what is measured is the server. fio's own client ends at about 150,000 requests a second.
//!
//! ```text
//!   client:  64 requests, one send --> server --> answers, as they come --> as many requests more
//! ```

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use umd_export::nbd::Address;
use umd_export::nbd::client::{Answer, Client, Operation};

/// A load at random places.
#[derive(Debug, Clone, Copy)]
pub struct DoorLoad {
    /// Writes, else reads.
    pub write: bool,
    /// Bytes of each request.
    pub block: u32,
    /// Requests in flight.
    pub depth: usize,
    /// Only this much of the export is used, in bytes.
    pub span: u64,
}

/// What a server did.
#[derive(Debug, Clone, Copy)]
pub struct DoorRate {
    /// Requests a second.
    pub rate: f64,
    /// Of a processor, microseconds for each request, by all threads of the server.
    pub server_us: f64,
}

/// Runs a load on an export for so long. `pid` is the server, which serves nobody else meanwhile.
///
/// # Errors
/// When the server cannot be reached, or refuses a request.
pub fn measure(
    (address, export): (&Address, &str),
    pid: u32,
    load: DoorLoad,
    seconds: f64,
) -> Result<DoorRate> {
    let mut client = Client::connect(address, export)?;
    let data = vec![0xa5; usize::try_from(load.block)?];
    let blocks = (load.span / u64::from(load.block)).max(1);
    let (mut seed, mut done, mut ended) = (1_u64, 0_u64, Vec::new());
    let limit = Duration::from_secs_f64(seconds);
    let (start, before) = (Instant::now(), processor_nanos(pid)?);
    loop {
        let more = start.elapsed() < limit;
        while more && client.in_flight() < load.depth {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005);
            seed = seed.wrapping_add(1_442_695_040_888_963_407);
            let offset = (seed >> 33) % blocks * u64::from(load.block);
            client.start(match load.write {
                true => Operation::Write {
                    offset,
                    data: &data,
                    fua: false,
                },
                false => Operation::Read {
                    offset,
                    len: load.block,
                    df: false,
                },
            })?;
        }
        if client.in_flight() == 0 {
            break;
        }
        client.submit()?;
        client.reap(&mut ended)?;
        for completion in ended.drain(..) {
            let answer: Answer = completion.result?;
            client.recycle(answer);
            done += 1;
        }
    }
    let took = start.elapsed().as_secs_f64();
    let nanos = processor_nanos(pid)?.saturating_sub(before);
    client.disconnect()?;
    Ok(DoorRate {
        rate: done as f64 / took,
        server_us: nanos as f64 / 1000.0 / done as f64,
    })
}

/// How long the threads of a process have run.
fn processor_nanos(pid: u32) -> Result<u64> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).context("the server has ended")?;
    let mut sum = 0;
    for task in tasks.flatten() {
        // A thread may end just now.
        let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        sum += text
            .split(' ')
            .next()
            .map_or(0, |word| word.parse().unwrap_or(0));
    }
    Ok(sum)
}
