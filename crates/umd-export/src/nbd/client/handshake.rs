//! The client's half of the handshake.

use super::super::address::Address;
use super::super::proto::{
    BASE_ALLOCATION, FLAG_FIXED_NEWSTYLE, FLAG_NO_ZEROES, Fields, NBD_MAGIC, OPTION_MAGIC,
    OPTION_REPLY_MAGIC, info, opt, rep,
};
use super::wire::Stream;
use super::{ClientError, Tls, open};

/// What to ask for in the handshake.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Structured replies.
    pub structured: bool,
    /// `base:allocation`; needs structured replies.
    pub allocation: bool,
    /// Use the option of old, EXPORT_NAME, instead of GO.
    pub export_name: bool,
    /// Do without the 124 zeroes of EXPORT_NAME.
    pub no_zeroes: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            structured: true,
            allocation: true,
            export_name: false,
            no_zeroes: true,
        }
    }
}

/// What the server said.
#[derive(Debug, Default)]
pub(in super::super) struct Agreed {
    pub size_bytes: u64,
    pub flags: u16,
    pub block_sizes: Option<[u32; 3]>,
    pub name: Option<String>,
    pub description: Option<String>,
    pub structured: bool,
}

const REPLY_BYTES_MAX: u32 = 1 << 20;
const SHORT: ClientError = ClientError::Protocol("an option reply is too short");

pub(in super::super) fn greet(stream: &mut Stream, no_zeroes: bool) -> Result<(), ClientError> {
    let greeting = stream.take::<18>()?;
    let mut fields = Fields(&greeting);
    if (fields.u64(), fields.u64()) != (Some(NBD_MAGIC), Some(OPTION_MAGIC)) {
        return Err(ClientError::Protocol("no NBD greeting"));
    }
    let offered = fields.u16().ok_or(SHORT)?;
    if offered & FLAG_FIXED_NEWSTYLE == 0 {
        return Err(ClientError::Protocol("no fixed newstyle"));
    }
    let mut flags = FLAG_FIXED_NEWSTYLE;
    if no_zeroes {
        flags |= offered & FLAG_NO_ZEROES;
    }
    stream.queue(&u32::from(flags).to_be_bytes());
    Ok(())
}

fn ask(stream: &mut Stream, option: u32, data: &[u8]) {
    stream.queue(&OPTION_MAGIC.to_be_bytes());
    stream.queue(&option.to_be_bytes());
    stream.queue(&(data.len() as u32).to_be_bytes());
    stream.queue(data);
}

/// Asks, and hands every reply before the final acknowledgement to `each`.
pub(in super::super) fn haggle(
    stream: &mut Stream,
    option: u32,
    data: &[u8],
    each: &mut dyn FnMut(u32, Fields<'_>) -> Option<()>,
) -> Result<(), ClientError> {
    ask(stream, option, data);
    stream.send(&[])?;
    loop {
        let header = stream.take::<20>()?;
        let mut fields = Fields(&header);
        if (fields.u64(), fields.u32()) != (Some(OPTION_REPLY_MAGIC), Some(option)) {
            return Err(ClientError::Protocol("not a reply to this option"));
        }
        let kind = fields.u32().ok_or(SHORT)?;
        let len = fields.u32().ok_or(SHORT)?;
        if len > REPLY_BYTES_MAX {
            return Err(ClientError::Protocol("an option reply is too long"));
        }
        let mut payload = vec![0; len as usize];
        stream.take_into(&mut payload)?;
        if kind == rep::ACK {
            return Ok(());
        }
        if kind & rep::ERROR_BIT != 0 {
            return Err(ClientError::Option {
                option,
                error: kind,
                text: String::from_utf8_lossy(&payload).into_owned(),
            });
        }
        each(kind, Fields(&payload)).ok_or(SHORT)?;
    }
}

pub(in super::super) fn string(text: &str) -> Vec<u8> {
    let mut bytes = (text.len() as u32).to_be_bytes().to_vec();
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

/// All options of the handshake.
pub(in super::super) fn negotiate(
    stream: &mut Stream,
    export: &str,
    options: Options,
    tls: Option<&Tls>,
) -> Result<Agreed, ClientError> {
    greet(stream, options.no_zeroes)?;
    if let Some(tls) = tls {
        haggle(stream, opt::STARTTLS, &[], &mut |_, _| Some(()))?;
        stream.start_tls(tls)?;
    }
    let mut agreed = Agreed::default();
    if options.structured {
        haggle(stream, opt::STRUCTURED_REPLY, &[], &mut |_, _| Some(()))?;
        agreed.structured = true;
    }
    if options.allocation {
        let mut data = string(export);
        data.extend(1u32.to_be_bytes());
        data.extend(string(BASE_ALLOCATION));
        haggle(stream, opt::SET_META_CONTEXT, &data, &mut |_, _| Some(()))?;
    }
    if options.export_name {
        ask(stream, opt::EXPORT_NAME, export.as_bytes());
        stream.send(&[])?;
        agreed.size_bytes = u64::from_be_bytes(stream.take()?);
        agreed.flags = u16::from_be_bytes(stream.take()?);
        if !options.no_zeroes {
            stream.take::<124>()?;
        }
        return Ok(agreed);
    }
    let mut data = string(export);
    let wanted = [info::NAME, info::DESCRIPTION, info::BLOCK_SIZE];
    data.extend((wanted.len() as u16).to_be_bytes());
    data.extend(wanted.iter().flat_map(|kind| kind.to_be_bytes()));
    haggle(stream, opt::GO, &data, &mut |kind, mut fields| {
        if kind != rep::INFO {
            return Some(());
        }
        match fields.u16()? {
            info::EXPORT => {
                agreed.size_bytes = fields.u64()?;
                agreed.flags = fields.u16()?;
            }
            info::NAME => agreed.name = Some(String::from_utf8_lossy(fields.0).into()),
            info::DESCRIPTION => {
                agreed.description = Some(String::from_utf8_lossy(fields.0).into());
            }
            info::BLOCK_SIZE => {
                agreed.block_sizes = Some([fields.u32()?, fields.u32()?, fields.u32()?]);
            }
            _ => {}
        }
        Some(())
    })?;
    Ok(agreed)
}

/// Names and descriptions of the exports at an address.
pub fn list(address: &Address) -> Result<Vec<(String, String)>, ClientError> {
    let mut stream = Stream::new(open(address)?);
    greet(&mut stream, true)?;
    let mut exports = Vec::new();
    haggle(&mut stream, opt::LIST, &[], &mut |kind, mut fields| {
        if kind == rep::SERVER {
            let name = fields.string()?.to_owned();
            exports.push((name, String::from_utf8_lossy(fields.0).into_owned()));
        }
        Some(())
    })?;
    haggle(&mut stream, opt::ABORT, &[], &mut |_, _| Some(()))?;
    Ok(exports)
}
