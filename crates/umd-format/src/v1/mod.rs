//! Version 1.x superblocks.
/// Placeholder until merged.
#[derive(Debug, Clone)]
pub struct Superblock;
