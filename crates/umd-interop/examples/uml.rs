//! Runs a shell script inside the kernel oracle: `uml SCRIPT-FILE MEMBER...`.

use anyhow::Result;
use umd_interop::{oracle::Oracle, uml::Kernel};

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let script = std::fs::read_to_string(args.next().unwrap_or_default())?;
    let run = Kernel::new(&Oracle::open()?)
        .members(args)
        .script(&script)
        .run()?;
    println!("{}status {:?}, {:?}", run.stdout, run.status, run.elapsed);
    if run.status != Some(0) {
        println!("{}", run.log);
    }
    Ok(())
}
