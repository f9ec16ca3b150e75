//! What the filesystem of a path lies on, as far as sysfs tells.
//!
//! ```text
//!   /mnt/bits --filesystem--> dm-3 --slaves--> nbd0p1 --partition of--> nbd0, 1953125 sectors
//! ```
//!
//! An array that is served over NBD may end up beneath a file of its own. Writes to the array would
//! wait for the file then, and the file for the array.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Major number of NBD devices.
const NBD: u32 = 43;
/// Devices on devices that are looked through.
const DEPTH_MAX: u32 = 8;

/// An NBD device of this size that the path, or the directory it is to be made in, lies on.
pub fn nbd_of_size(path: &Path, sectors: u64) -> Option<String> {
    let there = [Some(path), path.parent()];
    let found = there
        .into_iter()
        .flatten()
        .find_map(|path| fs::metadata(path).ok())?;
    let device = found.dev();
    let numbers = (rustix::fs::major(device), rustix::fs::minor(device));
    let mut found = Vec::new();
    look(Path::new("/sys"), numbers, 0, &mut found);
    let fits = |(name, size): (String, u64)| (size == sectors).then_some(name);
    found.into_iter().find_map(fits)
}

/// Enters the NBD devices beneath a device, with their sizes in sectors.
fn look(sys: &Path, (major, minor): (u32, u32), depth: u32, found: &mut Vec<(String, u64)>) {
    let link = sys.join(format!("dev/block/{major}:{minor}"));
    let Ok(mut device) = fs::canonicalize(link) else {
        return; // Such as a filesystem over several devices, or over none.
    };
    if device.join("partition").exists() {
        device.pop();
    }
    if major == NBD {
        let name = device
            .file_name()
            .map(|name| name.to_string_lossy().into_owned());
        if let (Some(name), Some(size)) = (name, number(&device.join("size"))) {
            found.push((name, size));
        }
    }
    if depth < DEPTH_MAX {
        for beneath in beneath(&device) {
            look(sys, beneath, depth + 1, found);
        }
    }
}

/// The devices right beneath: what it is mapped to, or where its file lies.
fn beneath(device: &Path) -> Vec<(u32, u32)> {
    let slaves = fs::read_dir(device.join("slaves")).into_iter().flatten();
    let slaves = slaves.filter_map(|slave| numbers(&slave.ok()?.path().join("dev")));
    let mut all: Vec<(u32, u32)> = slaves.collect();
    if let Ok(text) = fs::read_to_string(device.join("loop/backing_file")) {
        let file = PathBuf::from(text.trim_end_matches('\n'));
        let lies = fs::metadata(file).map(|found| found.dev());
        all.extend(lies.map(|dev| (rustix::fs::major(dev), rustix::fs::minor(dev))));
    }
    all
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn numbers(path: &Path) -> Option<(u32, u32)> {
    let text = fs::read_to_string(path).ok()?;
    let (major, minor) = text.trim().split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_nbd_device_is_found_beneath_others() {
        let dir = tempfile::tempdir().expect("tempdir");
        let sys = dir.path();
        let put = |path: &str, text: &str| {
            let path = sys.join(path);
            fs::create_dir_all(path.parent().expect("inside")).expect("makes");
            fs::write(path, text).expect("writes");
        };
        let link = |to: &str, from: &str| {
            let from = sys.join(from);
            fs::create_dir_all(from.parent().expect("inside")).expect("makes");
            std::os::unix::fs::symlink(sys.join(to), from).expect("links");
        };
        put("block/nbd7/size", "2048\n");
        put("block/nbd7/nbd7p1/partition", "1\n");
        put("block/nbd7/nbd7p1/size", "2000\n");
        put("block/nbd7/nbd7p1/dev", "43:113\n");
        put("block/dm-3/dev", "253:3\n");
        put("block/sda/size", "2048\n");
        link("block/nbd7/nbd7p1", "block/dm-3/slaves/nbd7p1");
        link("block/nbd7/nbd7p1", "dev/block/43:113");
        link("block/dm-3", "dev/block/253:3");
        link("block/sda", "dev/block/8:0");
        let nbds = |numbers| {
            let mut found = Vec::new();
            look(sys, numbers, 0, &mut found);
            found
        };
        assert_eq!(nbds((253, 3)), [("nbd7".to_owned(), 2048)]);
        assert_eq!(nbds((43, 113)), [("nbd7".to_owned(), 2048)]);
        assert_eq!(nbds((8, 0)), []);
        assert_eq!(nbds((0, 25)), [], "no device at all");
    }
}
