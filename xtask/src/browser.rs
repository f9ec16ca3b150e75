//! `cargo xtask oracle --browser`: a Chromium and its driver, to look at the page with. An extra
//! like the newer kernel: CI does not ask for it, and without network it is SKIPPED.
//!
//! ```text
//!   target/oracle-browser/
//!     stamp     what it was made of; written last: there means complete
//!     debs/     the packages as fetched
//!     root/     Chromium, its driver, libraries and fonts that the machine has not
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::oracle::Apt;
use crate::workspace;

/// Raised when what is fetched changes.
const RECIPE: u32 = 1;
const WANTED: [&str; 3] = ["chromium", "chromium-driver", "fonts-dejavu-core"];

/// Runs the task. What this machine cannot do is said, and is no error.
pub fn run(fresh: bool) -> Result<()> {
    match ensure(fresh) {
        Ok(dir) => println!("browser: ready in {}", dir.display()),
        Err(error) => println!("\n*** SKIPPED browser: {error:#}\n"),
    }
    Ok(())
}

fn ensure(fresh: bool) -> Result<PathBuf> {
    let dir = workspace::browser_oracle();
    let stamp = dir.join("stamp");
    let head = format!("recipe {RECIPE}");
    if !fresh && fs::read_to_string(&stamp).is_ok_and(|text| text.lines().next() == Some(&head)) {
        return Ok(dir);
    }
    for part in ["debs", "root"] {
        let path = dir.join(part);
        if path.is_dir() {
            fs::remove_dir_all(&path)?;
        }
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
    }
    let system = Apt::system();
    let apt = match system.knows(&WANTED) {
        true => system,
        false => Apt::own(&dir)?,
    };
    if !apt.knows(&WANTED) {
        bail!(
            "no package source of this machine has {}",
            WANTED.join(", ")
        );
    }
    let got = fetch(&apt, &dir)?;
    let mut text = format!("{head}\n");
    for (package, version) in &got {
        text.push_str(&format!("{package}={version}\n"));
    }
    fs::write(&stamp, text)?;
    Ok(dir)
}

/// Everything the browser needs, into `dir`; what was fetched, with its version.
fn fetch(apt: &Apt, dir: &std::path::Path) -> Result<BTreeMap<String, String>> {
    let mut got = BTreeMap::new();
    for (package, version) in apt.not_installed(&WANTED)? {
        apt.unpack(&package, &version, &dir.join("debs"), &dir.join("root"))?;
        got.insert(package, version);
    }
    Ok(got)
}
