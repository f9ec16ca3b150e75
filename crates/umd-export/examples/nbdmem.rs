//! Serves memory over NBD with one thread: `nbdmem ADDRESS [MIB] [ro]`, until interrupted.
//!
//! The very loop the tests use; for trying other clients and for measurements.

#[path = "../tests/support/mod.rs"]
mod support;

use umd_export::nbd::Address;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let address: Address = arguments
        .next()
        .ok_or("usage: nbdmem ADDRESS [MIB] [ro]")?
        .parse()?;
    let mib: u64 = arguments.next().map_or(Ok(64), |text| text.parse())?;
    let mut export = support::export("mem", mib << 20);
    export.read_only = arguments.next().as_deref() == Some("ro");
    let mut server = support::Server::new(&address, vec![export], None)?;
    println!("{}", server.address().uri("mem"));
    Ok(server.run()?)
}
