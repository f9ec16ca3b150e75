//! Superblock 0.90, either byte order: read for showing only.

use umd_format::v090::SuperblockV090;

/// Runs it.
pub fn run(data: &[u8]) {
    if let Ok(found) = SuperblockV090::parse(data) {
        assert!(found.disks.len() <= umd_format::v090::DEVICES_MAX);
        let _ = (
            found.checksum_matches(),
            found.level.to_string(),
            found.uuid.to_string(),
        );
    }
}
