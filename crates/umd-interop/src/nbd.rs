//! A small NBD client of our own, for loads that must know of every write whether it was answered.
//!
//! One request at a time per connection, simple replies; everything else the servers may offer is
//! left to the real clients. Numbers are big-endian. (NBD protocol, doc/proto.md of the NBD
//! project: "Fixed newstyle negotiation", "Transmission phase".)

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

const MAGIC: u64 = 0x4e42_444d_4147_4943;
const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;

/// Fixed newstyle, no padding of zeros.
const CLIENT_FLAGS: u32 = 1 | 2;
const OPT_GO: u32 = 7;
const REP_ACK: u32 = 1;
const REP_INFO: u32 = 3;
const INFO_EXPORT: u16 = 0;

const CMD_READ: u16 = 0;
const CMD_WRITE: u16 = 1;
const CMD_DISC: u16 = 2;
const CMD_FLUSH: u16 = 3;
const FLAG_FUA: u16 = 1;

/// A connection in the transmission phase.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    /// Bytes of the export.
    pub bytes: u64,
    /// Transmission flags as the server sent them.
    pub flags: u16,
    cookie: u64,
}

impl Client {
    /// Connects to a Unix socket and asks for an export.
    ///
    /// # Errors
    /// When the server cannot be reached, does not know the export, or breaks the protocol.
    pub fn connect(socket: &Path, export: &str) -> Result<Client> {
        let mut stream = UnixStream::connect(socket)
            .with_context(|| format!("cannot connect to {}", socket.display()))?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        ensure!(u64_from(&mut stream)? == MAGIC, "not an NBD server");
        ensure!(
            u64_from(&mut stream)? == OPTION_MAGIC,
            "an oldstyle NBD server"
        );
        ensure!(
            u16_from(&mut stream)? & 1 == 1,
            "not a fixed newstyle server"
        );
        stream.write_all(&CLIENT_FLAGS.to_be_bytes())?;
        let mut go = Vec::new();
        go.extend(
            u32::try_from(export.len())
                .expect("names are short")
                .to_be_bytes(),
        );
        go.extend(export.as_bytes());
        go.extend(0_u16.to_be_bytes());
        let mut option = OPTION_MAGIC.to_be_bytes().to_vec();
        option.extend(OPT_GO.to_be_bytes());
        option.extend(
            u32::try_from(go.len())
                .expect("names are short")
                .to_be_bytes(),
        );
        option.extend(go);
        stream.write_all(&option)?;
        let mut client = Client {
            stream,
            bytes: 0,
            flags: 0,
            cookie: 0,
        };
        client.await_go()?;
        Ok(client)
    }

    fn await_go(&mut self) -> Result<()> {
        loop {
            let stream = &mut self.stream;
            ensure!(
                u64_from(stream)? == OPTION_REPLY_MAGIC,
                "not a reply to an option"
            );
            let (_option, kind) = (u32_from(stream)?, u32_from(stream)?);
            let len = usize::try_from(u32_from(stream)?)?;
            let mut data = vec![0; len];
            stream.read_exact(&mut data)?;
            match kind {
                REP_ACK => return Ok(()),
                REP_INFO if len >= 12 && data[..2] == INFO_EXPORT.to_be_bytes() => {
                    self.bytes = u64::from_be_bytes(data[2..10].try_into().expect("eight bytes"));
                    self.flags = u16::from_be_bytes(data[10..12].try_into().expect("two bytes"));
                }
                REP_INFO => {}
                other => bail!("the server refused the export with {other:#x}"),
            }
        }
    }

    /// Reads from byte `offset`.
    ///
    /// # Errors
    /// When the server answers with an error or the connection breaks.
    pub fn read(&mut self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.request(CMD_READ, 0, offset, buf.len(), &[])?;
        self.stream.read_exact(buf)?;
        Ok(())
    }

    /// Writes at byte `offset`; with `fua` the data is durable when this returns.
    ///
    /// # Errors
    /// When the server answers with an error or the connection breaks.
    pub fn write(&mut self, offset: u64, data: &[u8], fua: bool) -> Result<()> {
        let flags = if fua { FLAG_FUA } else { 0 };
        self.request(CMD_WRITE, flags, offset, data.len(), data)
    }

    /// Writes the first `len` bytes of `file` at byte `offset`, without a copy on this side: the
    /// socket is given the file's own pages, so what changes in them before the server has read
    /// them is what the server reads.
    ///
    /// # Errors
    /// When the server answers with an error or the connection breaks.
    pub fn write_pages(&mut self, offset: u64, file: &File, len: usize) -> Result<()> {
        let header = self.header(CMD_WRITE, 0, offset, len);
        self.stream.write_all(&header)?;
        let mut at = 0;
        while at < len as u64 {
            let left = len - usize::try_from(at)?;
            let sent = rustix::fs::sendfile(&self.stream, file, Some(&mut at), left)?;
            ensure!(sent > 0, "the file is shorter than what is to be written");
        }
        self.reply()
    }

    /// Makes every write that was answered before durable.
    ///
    /// # Errors
    /// When the server answers with an error or the connection breaks.
    pub fn flush(&mut self) -> Result<()> {
        self.request(CMD_FLUSH, 0, 0, 0, &[])
    }

    /// Ends the connection in order.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn disconnect(mut self) -> Result<()> {
        let bytes = self.header(CMD_DISC, 0, 0, 0);
        Ok(self.stream.write_all(&bytes)?)
    }

    fn header(&mut self, command: u16, flags: u16, offset: u64, len: usize) -> Vec<u8> {
        self.cookie += 1;
        let mut bytes = REQUEST_MAGIC.to_be_bytes().to_vec();
        bytes.extend(flags.to_be_bytes());
        bytes.extend(command.to_be_bytes());
        bytes.extend(self.cookie.to_be_bytes());
        bytes.extend(offset.to_be_bytes());
        bytes.extend(
            u32::try_from(len)
                .expect("requests are smaller than 4 GiB")
                .to_be_bytes(),
        );
        bytes
    }

    fn request(
        &mut self,
        command: u16,
        flags: u16,
        offset: u64,
        len: usize,
        data: &[u8],
    ) -> Result<()> {
        let mut bytes = self.header(command, flags, offset, len);
        bytes.extend_from_slice(data);
        self.stream.write_all(&bytes)?;
        self.reply()
    }

    /// The answer to the request that was sent last.
    fn reply(&mut self) -> Result<()> {
        let stream = &mut self.stream;
        ensure!(
            u32_from(stream)? == SIMPLE_REPLY_MAGIC,
            "not a simple reply"
        );
        let (error, cookie) = (u32_from(stream)?, u64_from(stream)?);
        ensure!(
            cookie == self.cookie,
            "a reply to a request that was not sent"
        );
        ensure!(error == 0, "the server answered with error {error}");
        Ok(())
    }
}

fn array_from<const N: usize>(stream: &mut UnixStream) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    stream
        .read_exact(&mut bytes)
        .context("the server closed the connection")?;
    Ok(bytes)
}

fn u16_from(stream: &mut UnixStream) -> Result<u16> {
    array_from(stream).map(u16::from_be_bytes)
}

fn u32_from(stream: &mut UnixStream) -> Result<u32> {
    array_from(stream).map(u32::from_be_bytes)
}

fn u64_from(stream: &mut UnixStream) -> Result<u64> {
    array_from(stream).map(u64::from_be_bytes)
}
