//! What a killed server still owes: for every block the versions it may hold and the one it must
//! hold at least.
//!
//! ```text
//!   write v sent        -> v possible
//!   write v answered    -> v acknowledged            (not durable yet)
//!   FUA or a flush that began after that, answered   -> v durable: nothing older may be read
//! ```
//!
//! A sector is the unit that cannot tear: the sectors of a block may come from different writes,
//! but each from one that is still possible.

use anyhow::{Result, bail};

/// Bytes of a block: what the load writes at a time at least.
pub const BLOCK: usize = 4096;
const SECTOR: usize = 512;

/// One block's history.
#[derive(Debug, Clone, Default)]
struct Block {
    /// Newest version sent.
    sent: u64,
    /// Newest version answered.
    acknowledged: u64,
    /// Newest version that is durable.
    durable: u64,
}

/// The books of a range of blocks that one connection writes. Version 0 is a block of zeros.
#[derive(Debug, Clone)]
pub struct Ledger {
    first: u64,
    blocks: Vec<Block>,
}

impl Ledger {
    /// Books for `count` blocks from block number `first`, all of zeros and durable.
    pub fn new(first: u64, count: usize) -> Ledger {
        Ledger {
            first,
            blocks: vec![Block::default(); count],
        }
    }

    /// Blocks in the books.
    pub fn len(&self) -> usize {
        self.blocks.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Byte offset of a block of these books.
    pub fn offset(&self, index: usize) -> u64 {
        (self.first + index as u64) * BLOCK as u64
    }

    /// Begins a write of `count` blocks: books new versions and returns the bytes to send.
    pub fn send(&mut self, index: usize, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count * BLOCK);
        for number in index..index + count {
            self.blocks[number].sent += 1;
            let version = self.blocks[number].sent;
            for sector in 0..BLOCK / SECTOR {
                bytes.extend(stamp(self.first + number as u64, sector, version));
            }
        }
        bytes
    }

    /// Books the answer to the write of `count` blocks.
    pub fn acknowledge(&mut self, index: usize, count: usize, durable: bool) {
        for block in &mut self.blocks[index..index + count] {
            block.acknowledged = block.sent;
            if durable {
                block.durable = block.sent;
            }
        }
    }

    /// Books the answer to a flush that was sent after every booked answer.
    pub fn flushed(&mut self) {
        for block in &mut self.blocks {
            block.durable = block.acknowledged;
        }
    }

    /// Books a kill: what was answered but not durable may be gone, and no later flush brings it
    /// back.
    pub fn killed(&mut self) {
        for block in &mut self.blocks {
            block.acknowledged = block.durable;
        }
    }

    /// Checks the bytes of a block like [`Ledger::check`], and books that they were read: nobody
    /// may read anything older later.
    ///
    /// # Errors
    /// As there.
    pub fn read(&mut self, index: usize, bytes: &[u8]) -> Result<()> {
        self.check(index, bytes)?;
        let versions = bytes.chunks_exact(SECTOR).map(version);
        let oldest = versions.min().expect("a block has sectors");
        let block = &mut self.blocks[index];
        block.durable = block.durable.max(oldest);
        Ok(())
    }

    /// Checks the bytes of a block as read after a kill.
    ///
    /// # Errors
    /// When a sector holds something lost, foreign or never sent.
    pub fn check(&self, index: usize, bytes: &[u8]) -> Result<()> {
        let block = &self.blocks[index];
        let number = self.first + index as u64;
        for (sector, read) in bytes.chunks_exact(SECTOR).enumerate() {
            let version = version(read);
            if read != stamp(number, sector, version) {
                bail!("block {number} sector {sector} holds bytes that were never sent there");
            }
            if !(block.durable..=block.sent).contains(&version) {
                bail!(
                    "block {number} sector {sector} holds version {version}; version {} was \
                    acknowledged as durable, {} was the last sent",
                    block.durable,
                    block.sent
                );
            }
        }
        Ok(())
    }
}

/// The version that a sector says it is of.
fn version(sector: &[u8]) -> u64 {
    u64::from_le_bytes(sector[..8].try_into().expect("eight bytes"))
}

/// A sector of a version of a block: the version, then words that depend on all three.
fn stamp(block: u64, sector: usize, version: u64) -> [u8; SECTOR] {
    let mut bytes = [0; SECTOR];
    if version != 0 {
        let seed = version << 32 | block;
        crate::pattern::fill(seed, (sector * SECTOR) as u64, &mut bytes);
        bytes[..8].copy_from_slice(&version.to_le_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_only_sent_may_be_there_or_not() {
        let mut ledger = Ledger::new(10, 2);
        ledger.check(0, &[0; BLOCK]).unwrap();
        let first = ledger.send(0, 1);
        ledger.check(0, &[0; BLOCK]).unwrap();
        ledger.check(0, &first).unwrap();
        ledger.acknowledge(0, 1, false);
        ledger.check(0, &[0; BLOCK]).unwrap();
    }

    #[test]
    fn what_is_durable_may_not_be_missing() {
        let mut ledger = Ledger::new(10, 2);
        let first = ledger.send(0, 2);
        ledger.acknowledge(0, 2, true);
        assert!(ledger.check(0, &[0; BLOCK]).is_err(), "FUA");
        let second = ledger.send(0, 1);
        ledger.acknowledge(0, 1, false);
        ledger.check(0, &first[..BLOCK]).unwrap();
        ledger.flushed();
        assert!(ledger.check(0, &first[..BLOCK]).is_err(), "flush");
        ledger.check(0, &second).unwrap();
        ledger.check(1, &first[BLOCK..]).unwrap();
        assert!(
            ledger.check(1, &first[..BLOCK]).is_err(),
            "another block's bytes"
        );
    }

    #[test]
    fn a_flush_after_a_kill_does_not_cover_what_was_lost_before() {
        let mut ledger = Ledger::new(10, 1);
        ledger.send(0, 1);
        ledger.acknowledge(0, 1, false);
        ledger.killed();
        ledger.flushed();
        ledger.check(0, &[0; BLOCK]).unwrap();
        let second = ledger.send(0, 1);
        ledger.acknowledge(0, 1, false);
        ledger.flushed();
        ledger.check(0, &second).unwrap();
        assert!(ledger.check(0, &[0; BLOCK]).is_err());
    }

    #[test]
    fn what_was_read_once_does_not_go_back() {
        let mut ledger = Ledger::new(0, 1);
        let first = ledger.send(0, 1);
        let mut torn = first.clone();
        torn[..SECTOR].fill(0);
        ledger.read(0, &torn).unwrap();
        ledger.check(0, &[0; BLOCK]).unwrap();
        ledger.read(0, &first).unwrap();
        assert!(ledger.check(0, &torn).is_err());
    }

    #[test]
    fn a_block_may_be_torn_between_sectors_but_not_within() {
        let mut ledger = Ledger::new(0, 1);
        let first = ledger.send(0, 1);
        ledger.acknowledge(0, 1, true);
        let mut torn = ledger.send(0, 1);
        torn[..SECTOR].copy_from_slice(&first[..SECTOR]);
        ledger.check(0, &torn).unwrap();
        torn[8..16].copy_from_slice(&first[SECTOR..SECTOR + 8]);
        assert!(ledger.check(0, &torn).is_err());
    }
}
