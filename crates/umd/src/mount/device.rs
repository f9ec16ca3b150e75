//! `dev/NAME`: the bytes of an array, over an NBD connection for each open file.
//!
//! ```text
//!   write   |..###|#####|##...|      whole blocks go as they are; the rest of a block that is
//!            read        read        written in part is read first
//! ```
//!
//! The kernel lets one write at a time into a file, so no other one of this mount comes between
//! the reading and the writing. A connection that broke stays broken until the file is opened
//! anew: a new one could not tell whether what was answered on the old one has become durable.

use umd_export::nbd::Address;
use umd_export::nbd::client::{Client, ClientError};

use crate::doc::ArrayDoc;
use crate::sysfs::Errno;

/// The flag of an export that cannot be written.
const READ_ONLY: u16 = 1 << 1;

/// An open array.
pub struct Device {
    client: Option<Box<Client>>,
    block_bytes: u64,
    bytes: u64,
}

impl Device {
    /// Connects to an array.
    ///
    /// # Errors
    /// EACCES if it is read-only and is to be written; EIO if nobody answers.
    pub fn open(array: &ArrayDoc, write: bool) -> Result<Device, Errno> {
        let address = array
            .nbd
            .iter()
            .find_map(|text| text.parse::<Address>().ok());
        let address = address.ok_or(Errno::IO)?;
        let client = Client::connect(&address, &array.name).map_err(|_| Errno::IO)?;
        if write && client.flags() & READ_ONLY != 0 {
            return Err(Errno::ACCESS);
        }
        let block = client.block_sizes().map_or(1, |sizes| sizes[0]);
        let block = block.max(array.logical_block_bytes);
        Ok(Device {
            bytes: client.size_bytes(),
            block_bytes: u64::from(block.max(1)),
            client: Some(Box::new(client)),
        })
    }

    /// Carries one request out; a connection that fails is not used again.
    fn run<T>(
        &mut self,
        request: impl FnOnce(&mut Client) -> Result<T, ClientError>,
    ) -> Result<T, Errno> {
        let client = self.client.as_mut().ok_or(Errno::IO)?;
        request(client).map_err(|error| match error.errno() {
            Some(number) => errno(number),
            None => {
                self.client = None;
                Errno::IO
            }
        })
    }

    /// The first and last byte of the blocks that hold a range.
    fn blocks(&self, offset: u64, len: u64) -> (u64, u64) {
        let start = offset - offset % self.block_bytes;
        let end = (offset + len).next_multiple_of(self.block_bytes);
        (start, end.min(self.bytes))
    }

    /// Reads; less than asked for at the end, nothing beyond it.
    ///
    /// # Errors
    /// The array's own, EIO when the connection ends.
    pub fn read(&mut self, offset: u64, len: u32) -> Result<Vec<u8>, Errno> {
        let len = u64::from(len).min(self.bytes.saturating_sub(offset));
        if len == 0 {
            return Ok(Vec::new());
        }
        let (start, end) = self.blocks(offset, len);
        let mut data = self.run(|client| client.pread(start, (end - start) as u32))?;
        data.drain(..(offset - start) as usize);
        data.truncate(len as usize);
        Ok(data)
    }

    /// Writes; less than asked for at the end.
    ///
    /// # Errors
    /// ENOSPC beyond the end, otherwise as [`Device::read`].
    pub fn write(&mut self, offset: u64, data: &[u8], durable: bool) -> Result<u32, Errno> {
        let len = (data.len() as u64).min(self.bytes.saturating_sub(offset));
        if len == 0 && !data.is_empty() {
            return Err(Errno::NOSPC);
        }
        let data = &data[..len as usize];
        let (start, end) = self.blocks(offset, len);
        let mut whole;
        let payload = match start == offset && end == offset + len {
            true => data,
            false => {
                whole = self.run(|client| client.pread(start, (end - start) as u32))?;
                let at = (offset - start) as usize;
                whole[at..at + data.len()].copy_from_slice(data);
                &whole[..]
            }
        };
        self.run(|client| match durable {
            true => client.pwrite_fua(start, payload),
            false => client.pwrite(start, payload),
        })?;
        Ok(len as u32)
    }

    /// Makes what was answered durable.
    ///
    /// # Errors
    /// As [`Device::read`].
    pub fn flush(&mut self) -> Result<(), Errno> {
        self.run(|client| client.flush())
    }

    /// A range reads as zeros from now on; `keep` its room.
    ///
    /// # Errors
    /// EINVAL where it is not made of whole blocks within the array.
    pub fn zero(&mut self, offset: u64, len: u64, keep: bool) -> Result<(), Errno> {
        const PIECE_BYTES: u64 = 1 << 30;
        let end = offset.checked_add(len).ok_or(Errno::INVAL)?;
        let odd = |bytes: u64| !bytes.is_multiple_of(self.block_bytes);
        if odd(offset) || odd(len) || end > self.bytes {
            return Err(Errno::INVAL);
        }
        let mut at = offset;
        while at < end {
            let piece = PIECE_BYTES.min(end - at);
            self.run(|client| client.write_zeroes(at, piece as u32, keep))?;
            at += piece;
        }
        Ok(())
    }

    /// Says goodbye.
    pub fn close(&mut self) {
        if let Some(client) = self.client.take() {
            let _ = client.disconnect(); // Nothing is under way that could be lost.
        }
    }
}

/// The system's number for a number of NBD's, which are Linux's own.
fn errno(number: u32) -> Errno {
    const SHUTTING_DOWN: u32 = 108;
    match number {
        SHUTTING_DOWN => Errno::NODEV,
        number => i32::try_from(number).map_or(Errno::IO, Errno::from_raw_os_error),
    }
}
