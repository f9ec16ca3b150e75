//! What a client is told about an export.

use umd_core::value::SECTOR_BYTES;

use super::demand::{Deciding, Demand, Denied};
use super::proto::can;
use super::reservation::State;
use super::visitor::{Opened, Opening, Peer};

/// The largest READ or WRITE, in bytes: what every client may assume without asking. Commands
/// without a payload (TRIM, WRITE_ZEROES, BLOCK_STATUS) may be as long as the protocol can say.
pub const REQUEST_BYTES_MAX: u32 = 32 << 20;

const PREFERRED_BYTES_MIN: u32 = 4096;

/// An export as it is shown to clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportInfo {
    /// Its name.
    pub name: String,
    /// A line for humans; may be empty.
    pub description: String,
    /// Its size. A tail that is no whole logical block is not exported.
    pub size_sectors: u64,
    /// The smallest unit a request can address: 512 or 4096 (any power of two from 512 to 64 KiB
    /// will do).
    pub logical_block_bytes: u32,
    /// The size from which on aligned requests are efficient: a chunk or a full stripe. Clients
    /// are told the largest power of two in it, between 4096 bytes and 32 MiB.
    pub preferred_bytes: u32,
    /// Writes are refused.
    pub read_only: bool,
}

impl ExportInfo {
    /// The size clients see, in bytes. Panics when it does not fit 64 bits or the block size is
    /// no power of two from 512 to 64 KiB.
    pub fn size_bytes(&self) -> u64 {
        let block = self.logical_block_bytes;
        assert!(
            block.is_power_of_two() && (512..=65536).contains(&block),
            "logical block size {block} of export {}",
            self.name
        );
        let bytes = self.size_sectors.checked_mul(SECTOR_BYTES);
        let bytes = bytes.expect("an export is smaller than 2^64 bytes");
        bytes - bytes % u64::from(block)
    }

    /// Minimum, preferred and maximum block size in bytes (`NBD_INFO_BLOCK_SIZE`).
    pub(super) fn block_sizes(&self) -> [u32; 3] {
        let wanted = self.preferred_bytes.max(1);
        let power_of_two = 1 << wanted.ilog2();
        let least = self.logical_block_bytes.max(PREFERRED_BYTES_MIN);
        let preferred = u32::clamp(power_of_two, least, REQUEST_BYTES_MAX);
        [self.logical_block_bytes, preferred, REQUEST_BYTES_MAX]
    }

    /// The transmission flags. DF goes with structured replies.
    pub(super) fn flags(&self, structured: bool) -> u16 {
        let mut flags = can::HAS_FLAGS | can::FLUSH | can::FUA | can::MULTI_CONN;
        flags |= match self.read_only {
            true => can::READ_ONLY,
            false => can::TRIM | can::WRITE_ZEROES,
        };
        if structured {
            flags |= can::DF;
        }
        flags
    }
}

/// The exports there are. Asked during negotiation; one that goes away between `find` and the
/// first request is the caller's to notice, when it is handed the connection.
pub trait Exports {
    /// All of them, in the order clients shall see.
    fn list(&self) -> Vec<ExportInfo>;
    /// The one of this name. The empty name asks for a default export; when there is none and
    /// only one export is listed, the door takes that one.
    fn find(&self, name: &str) -> Option<ExportInfo>;
    /// The name under which an export goes that may not be ready to be shown; clients ask about
    /// its metadata before they open it.
    fn canonical(&self, name: &str) -> Option<String> {
        self.find(name).map(|export| export.name)
    }
    /// A client opens the one of this name. Where nobody counts, whatever is found is open.
    fn open(&self, name: &str, who: &Peer) -> Opening {
        let _ = who;
        match self.find(name) {
            Some(info) => Opening::Open(Box::new(Opened { info, pass: None })),
            None => Opening::Refused,
        }
    }
    /// Who may write to the one of this name; `None` where no table says so.
    fn reservations(&self, name: &str) -> Option<State> {
        let _ = name;
        None
    }
    /// A client asks something of the table of the one of this name.
    ///
    /// # Errors
    /// When there is none, or it is not asked for it now.
    fn demand(&self, name: &str, demand: Demand, who: &Peer) -> Result<Box<dyn Deciding>, Denied> {
        let _ = (name, demand, who);
        let text = "this export has no reservations";
        Err(Denied::NotOffered(text.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn export(size_sectors: u64, logical_block_bytes: u32, preferred_bytes: u32) -> ExportInfo {
        ExportInfo {
            name: "r".into(),
            description: String::new(),
            size_sectors,
            logical_block_bytes,
            preferred_bytes,
            read_only: false,
        }
    }

    #[test]
    fn preferred_size_is_a_power_of_two_in_bounds() {
        for (asked, told) in [
            (0, 4096),
            (512, 4096),
            (65536, 65536),
            (3 * 65536, 131072),
            (u32::MAX, 32 << 20),
        ] {
            assert_eq!(export(8, 512, asked).block_sizes(), [512, told, 32 << 20]);
        }
        assert_eq!(export(8, 65536, 4096).block_sizes()[1], 65536);
    }

    #[test]
    fn a_broken_tail_is_not_exported() {
        assert_eq!(export(15, 4096, 0).size_bytes(), 4096);
        assert_eq!(export(15, 512, 0).size_bytes(), 15 * 512);
    }

    #[test]
    fn a_read_only_export_offers_no_writes() {
        let mut info = export(8, 512, 0);
        assert_eq!(info.flags(true), 0b1_1110_1101);
        info.read_only = true;
        assert_eq!(info.flags(false), 0b1_0000_1111);
    }
}
