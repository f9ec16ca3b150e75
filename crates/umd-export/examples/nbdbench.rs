//! Measures an NBD server: `nbdbench ADDRESS EXPORT read|write BYTES DEPTH SECONDS`.
//!
//! Keeps DEPTH requests in flight at random offsets, sends every batch at once, and prints
//! requests and bytes per second.

use std::time::{Duration, Instant};

use umd_export::nbd::client::{Client, Operation};
use umd_export::nbd::{Address, client};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, export, direction, len, depth, seconds] = &arguments[..] else {
        return Err("usage: nbdbench ADDRESS EXPORT read|write BYTES DEPTH SECONDS".into());
    };
    let address: Address = address.parse()?;
    let write = match direction.as_str() {
        "write" => true,
        "read" => false,
        _ => return Err("the direction is read or write".into()),
    };
    let (len, depth): (u32, usize) = (len.parse()?, depth.parse()?);
    let duration = Duration::from_secs_f64(seconds.parse()?);
    let mut client = Client::connect_with(&address, export, client::Options::default())?;
    let places = client.size_bytes() / u64::from(len);
    if places == 0 {
        return Err("the export is smaller than one request".into());
    }
    let data = vec![0x5a; len as usize];
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    let mut done = 0u64;
    let mut completions = Vec::with_capacity(depth);
    let start = Instant::now();
    while start.elapsed() < duration {
        while client.in_flight() < depth {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let offset = random % places * u64::from(len);
            client.start(match write {
                true => Operation::Write {
                    offset,
                    data: &data,
                    fua: false,
                },
                false => Operation::Read {
                    offset,
                    len,
                    df: false,
                },
            })?;
        }
        client.submit()?;
        client.reap(&mut completions)?;
        for completion in completions.drain(..) {
            client.recycle(completion.result?);
            done += 1;
        }
    }
    let rate = done as f64 / start.elapsed().as_secs_f64();
    let gigabytes = rate * f64::from(len) / 1e9;
    println!("{direction} {len} bytes, {depth} in flight: {rate:.0} per s, {gigabytes:.2} GB/s");
    Ok(())
}
