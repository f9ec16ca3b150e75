//! Secrets in files of an administrator's.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::cli::outcome::Failure;

/// No secret is longer.
const BYTES_MAX: u64 = 4096;

/// What a file holds that only its owner can read, without the white space around it. `others` says
/// what others could do who read it.
///
/// # Errors
/// When it cannot be read, is no regular file, or could be read by others.
pub fn secret(path: &Path, others: &str) -> Result<String, Failure> {
    let failed = |why: String| Failure::failed(format!("{} {why}", path.display()));
    let read = || -> io::Result<(u32, String)> {
        // Of a pipe that nobody writes to one would never hear.
        if !std::fs::metadata(path)?.is_file() {
            let why = "it is no regular file";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        let file = File::open(path)?;
        let mode = file.metadata()?.mode();
        let mut text = String::new();
        file.take(BYTES_MAX).read_to_string(&mut text)?;
        Ok((mode, text))
    };
    let (mode, text) = read()
        .map_err(|error| failed(format!("cannot be read: {}", super::open::os_text(&error))))?;
    if mode & 0o077 != 0 {
        return Err(failed(format!(
            "can be read by others, who could {others}: chmod 600"
        )));
    }
    Ok(text.trim().to_owned())
}
