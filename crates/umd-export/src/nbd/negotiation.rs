//! The handshake: from a fresh connection to an agreed export.
//!
//! ```text
//!   greeting out --> client flags in --> option in --> replies out --+--> GO, EXPORT_NAME: Ready
//!                                           ^                        +--> ABORT, nonsense: Closed
//!                                           +---- any other option --+
//! ```
//!
//! A door speaks TLS or it does not (`FORCEDTLS` and `NOTLS` of the protocol). Where it does, a
//! client that asks for anything but STARTTLS is told so; once it has asked, everything else goes
//! over TLS. What came in the clear behind the question closes: it could be anybody's. Where it
//! does not, STARTTLS is answered "unsupported" and the client decides.
//!
//! Nothing a client sends makes this side hold more than one option (64 KiB), and after
//! [`OPTIONS_MAX`] options it is shown the door. How long it may take is the caller's affair
//! ([`Reception`](super::Reception) gives it ten seconds).

use std::io::{self, Read, Write};

use super::demand::{self, Deciding, Denied};
use super::export::{ExportInfo, Exports};
use super::proto::{
    BASE_ALLOCATION, FLAG_FIXED_NEWSTYLE, FLAG_NO_ZEROES, Fields, NBD_MAGIC, OPTION_MAGIC,
    OPTION_REPLY_MAGIC, STRING_BYTES_MAX, info, opt, rep,
};
use super::reservation::split_key;
use super::visitor::{Opened, Opening, Pass, Peer, Waiting};

/// Longest option data taken in. GO with a name of the longest kind needs less than a tenth.
const OPTION_BYTES_MAX: usize = 64 << 10;
const OPTION_HEADER_BYTES: usize = 16;
const OPTIONS_MAX: u32 = 256;
/// To be told a table counts as so many options: it may be long, and comes at the price of a line.
const TABLE_OPTIONS: u32 = 32;
const READ_BYTES: usize = 16 << 10;
/// No more input is taken while this much output is unsent.
const UNSENT_BYTES_MAX: usize = 64 << 10;
/// The identity of `base:allocation`, once selected.
const ALLOCATION_ID: u32 = 1;
/// That of a demand that was met: it tells nothing of blocks.
const DEMAND_ID: u32 = 2;

/// What was agreed. Handed to [`Connection::new`](super::Connection::new).
#[derive(Debug)]
pub struct Transmission {
    /// The export as the client was told about it; its name is the canonical one.
    pub export: ExportInfo,
    /// Structured replies are to be used.
    pub structured: bool,
    /// `base:allocation` was selected under this identity.
    pub allocation_context: Option<u32>,
    /// Bytes received that belong to the transmission phase already.
    pub input: Vec<u8>,
    /// Bytes of the handshake that were not sent yet.
    pub output: Vec<u8>,
    /// What is to be kept while the export is open.
    pub pass: Option<Pass>,
    /// The key that the client gave with the export's name (see [`super::Reservations`]).
    pub key: Option<u64>,
}

/// Where a negotiation stands.
#[derive(Debug)]
pub enum Progress {
    /// More input is needed. The output is to be sent.
    Continue,
    /// Agreed. The negotiation is over and can be dropped.
    Ready(Box<Transmission>),
    /// The output is to be sent as it is; from there on both sides speak TLS.
    StartTls,
    /// To be closed, after an attempt to send the output.
    Closed,
}

/// How a door stands to TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tls {
    /// It has none.
    None,
    /// The client has to ask for it first.
    Wanted,
    /// It is on.
    On,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    ClientFlags,
    Options,
    Over,
}

/// The server's half of a handshake.
#[derive(Debug)]
pub struct Negotiation {
    stage: Stage,
    input: Vec<u8>,
    output: Vec<u8>,
    no_zeroes: bool,
    tls: Tls,
    structured: bool,
    /// The export `base:allocation` was selected for.
    allocation_of: Option<String>,
    options: u32,
    who: Peer,
    /// The key that came with the name of the export being opened.
    key: Option<u64>,
    /// What has no answer yet: no further option is looked at before.
    asked: Option<Asked>,
}

/// How a client asked for its export.
#[derive(Debug)]
enum Way {
    ExportName,
    /// By its name, and with what it wants to know.
    Go(String, Vec<u16>),
}

/// What waits for its answer.
#[derive(Debug)]
enum Asked {
    Open {
        way: Way,
        waiting: Box<dyn Waiting>,
    },
    /// Something of a table, in these words.
    Demand {
        query: String,
        deciding: Box<dyn Deciding>,
    },
}

impl Default for Negotiation {
    fn default() -> Negotiation {
        Negotiation::new(Peer::Unknown)
    }
}

impl Negotiation {
    /// A fresh handshake; its first output is there already.
    pub fn new(who: Peer) -> Negotiation {
        let mut output = Vec::with_capacity(256);
        output.extend(NBD_MAGIC.to_be_bytes());
        output.extend(OPTION_MAGIC.to_be_bytes());
        output.extend((FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES).to_be_bytes());
        Negotiation {
            stage: Stage::ClientFlags,
            input: Vec::new(),
            output,
            no_zeroes: false,
            tls: Tls::None,
            structured: false,
            allocation_of: None,
            options: 0,
            who,
            key: None,
            asked: None,
        }
    }

    /// The same where nothing but TLS is spoken.
    pub fn demanding_tls(mut self) -> Negotiation {
        assert_eq!(self.options, 0, "it is known before the first option");
        self.tls = Tls::Wanted;
        self
    }

    /// Whether an answer is outstanding: [`Negotiation::look_again`] finds it out.
    pub fn is_waiting(&self) -> bool {
        self.asked.is_some()
    }

    /// Looks whether what had to wait has its answer, and goes on then.
    pub fn look_again(&mut self, exports: &dyn Exports) -> Progress {
        let progress = match self.asked.take() {
            None => return Progress::Continue,
            Some(Asked::Open { way, mut waiting }) => match waiting.look() {
                Some(answer) => self.opened(way, answer),
                None => {
                    self.asked = Some(Asked::Open { way, waiting });
                    return Progress::Continue;
                }
            },
            Some(Asked::Demand { query, deciding }) => {
                self.decide(query, deciding);
                Progress::Continue
            }
        };
        match progress {
            Progress::Continue => self.receive(&[], exports),
            over => self.over(over, Vec::new()),
        }
    }

    /// Takes what the socket has, once, and goes as far as that allows. End of stream and errors
    /// close; `io` must not block.
    pub fn read_from(&mut self, io: &mut impl Read, exports: &dyn Exports) -> Progress {
        let mut bytes = [0; READ_BYTES];
        match io.read(&mut bytes) {
            Ok(0) => self.close(),
            Ok(count) => self.receive(&bytes[..count], exports),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Progress::Continue,
            Err(_) => self.close(),
        }
    }

    /// Sends as much output as `io` takes; `io` must not block.
    pub fn write_to(&mut self, io: &mut impl Write) -> io::Result<()> {
        while !self.output.is_empty() {
            match io.write(&self.output) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => drop(self.output.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether the socket's readability is of interest.
    pub fn wants_read(&self) -> bool {
        let open = self.stage != Stage::Over && self.asked.is_none();
        open && self.output.len() < UNSENT_BYTES_MAX
    }

    /// Whether there is output to send.
    pub fn wants_write(&self) -> bool {
        !self.output.is_empty()
    }

    /// Takes bytes from the client. After [`Progress::Ready`] or [`Progress::Closed`] the
    /// negotiation is over: every further call answers `Closed`.
    pub fn receive(&mut self, bytes: &[u8], exports: &dyn Exports) -> Progress {
        if self.stage == Stage::Over {
            return Progress::Closed;
        }
        self.input.extend_from_slice(bytes);
        let mut input = std::mem::take(&mut self.input);
        let mut taken = 0;
        let progress = loop {
            if self.asked.is_some() {
                break Progress::Continue;
            }
            let mut rest = Fields(&input[taken..]);
            let step = match self.stage {
                Stage::ClientFlags => self.take_client_flags(&mut rest),
                _ => self.take_option(&mut rest, exports),
            };
            let Some(step) = step else {
                break Progress::Continue;
            };
            taken = input.len() - rest.0.len();
            match step {
                Progress::Continue => {}
                over => break over,
            }
        };
        input.drain(..taken);
        self.over(progress, input)
    }

    /// What is left of the input stays for later, or goes on with the client.
    fn over(&mut self, progress: Progress, mut input: Vec<u8>) -> Progress {
        input.append(&mut self.input);
        match progress {
            Progress::Continue => self.input = input,
            Progress::Ready(mut transmission) => {
                self.stage = Stage::Over;
                transmission.input = input;
                transmission.output = std::mem::take(&mut self.output);
                return Progress::Ready(transmission);
            }
            // In the clear, after TLS was asked for: nobody who waits for the answer does that.
            Progress::StartTls if !input.is_empty() => return self.close(),
            Progress::StartTls => {}
            Progress::Closed => self.stage = Stage::Over,
        }
        progress
    }

    fn close(&mut self) -> Progress {
        self.stage = Stage::Over;
        Progress::Closed
    }

    fn take_client_flags(&mut self, input: &mut Fields<'_>) -> Option<Progress> {
        let flags = input.u32()?;
        if flags & !u32::from(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES) != 0 {
            return Some(Progress::Closed);
        }
        self.no_zeroes = flags & u32::from(FLAG_NO_ZEROES) != 0;
        self.stage = Stage::Options;
        Some(Progress::Continue)
    }

    /// `None`: the option is not here in full yet.
    fn take_option(&mut self, input: &mut Fields<'_>, exports: &dyn Exports) -> Option<Progress> {
        let mut header = Fields(input.0);
        // Nonsense is not waited for: what is here of the magic has to be right.
        let start = &input.0[..input.0.len().min(8)];
        if !OPTION_MAGIC.to_be_bytes().starts_with(start) {
            return Some(Progress::Closed);
        }
        header.u64()?;
        let option = header.u32()?;
        let len = usize::try_from(header.u32()?).unwrap_or(usize::MAX);
        if len > OPTION_BYTES_MAX {
            if option != opt::EXPORT_NAME {
                self.refuse(option, rep::ERR_TOO_BIG, "the option is too long");
            }
            return Some(Progress::Closed);
        }
        input.0.get(..OPTION_HEADER_BYTES + len)?;
        input.bytes(OPTION_HEADER_BYTES)?;
        let data = input.bytes(len)?;
        self.options += 1;
        if self.options > OPTIONS_MAX {
            return Some(Progress::Closed);
        }
        Some(self.answer(option, data, exports))
    }

    fn answer(&mut self, option: u32, data: &[u8], exports: &dyn Exports) -> Progress {
        if self.tls == Tls::Wanted && !matches!(option, opt::STARTTLS | opt::ABORT) {
            if option == opt::EXPORT_NAME {
                return Progress::Closed; // Nothing can be said to it.
            }
            let text = "only TLS is spoken here: ask for it first (STARTTLS)";
            self.refuse(option, rep::ERR_TLS_REQD, text);
            return Progress::Continue;
        }
        match option {
            opt::EXPORT_NAME => return self.export_name(data, exports),
            opt::ABORT => {
                self.acknowledge(option);
                return Progress::Closed;
            }
            opt::GO | opt::INFO => return self.go_or_info(option, data, exports),
            opt::LIST_META_CONTEXT | opt::SET_META_CONTEXT => {
                self.meta_context(option, data, exports);
            }
            opt::LIST | opt::STRUCTURED_REPLY | opt::STARTTLS if !data.is_empty() => {
                self.refuse(option, rep::ERR_INVALID, "this option takes no data");
            }
            opt::LIST => self.list(exports),
            opt::STRUCTURED_REPLY => {
                self.structured = true;
                self.acknowledge(option);
            }
            opt::STARTTLS => match self.tls {
                Tls::None => self.refuse(option, rep::ERR_UNSUP, "no TLS is spoken here"),
                Tls::On => self.refuse(option, rep::ERR_INVALID, "TLS is on already"),
                Tls::Wanted => {
                    self.tls = Tls::On;
                    self.acknowledge(option);
                    return Progress::StartTls;
                }
            },
            _ => self.refuse(option, rep::ERR_UNSUP, "unknown option"),
        }
        Progress::Continue
    }

    fn reply(&mut self, option: u32, kind: u32, data: &[&[u8]]) {
        let len: usize = data.iter().map(|piece| piece.len()).sum();
        let len = u32::try_from(len).expect("option replies are made of short strings");
        self.output.extend(OPTION_REPLY_MAGIC.to_be_bytes());
        self.output.extend(option.to_be_bytes());
        self.output.extend(kind.to_be_bytes());
        self.output.extend(len.to_be_bytes());
        for piece in data {
            self.output.extend_from_slice(piece);
        }
    }

    fn acknowledge(&mut self, option: u32) {
        self.reply(option, rep::ACK, &[]);
    }

    fn refuse(&mut self, option: u32, error: u32, text: &str) {
        self.reply(option, error, &[text.as_bytes()]);
    }

    fn list(&mut self, exports: &dyn Exports) {
        for export in exports.list() {
            if export.name.len() > STRING_BYTES_MAX {
                continue; // No option could ask for it.
            }
            let len = export.name.len() as u32;
            self.reply(
                opt::LIST,
                rep::SERVER,
                &[
                    &len.to_be_bytes(),
                    export.name.as_bytes(),
                    clipped(&export.description).as_bytes(),
                ],
            );
        }
        self.acknowledge(opt::LIST);
    }

    /// The option of old: no error can be said, so an unknown name ends the session.
    fn export_name(&mut self, data: &[u8], exports: &dyn Exports) -> Progress {
        let name = std::str::from_utf8(data)
            .ok()
            .filter(|name| name.len() <= STRING_BYTES_MAX);
        let (name, key) = name.map_or((None, None), |name| {
            let (name, key) = split_key(name);
            (canonical(exports, name), key)
        });
        let Some(name) = name else {
            return Progress::Closed;
        };
        self.key = key;
        self.open(&name, Way::ExportName, exports)
    }

    fn open(&mut self, name: &str, way: Way, exports: &dyn Exports) -> Progress {
        match exports.open(name, &self.who) {
            Opening::Open(opened) => self.opened(way, Some(*opened)),
            Opening::Refused => self.opened(way, None),
            Opening::Waits(waiting) => {
                self.asked = Some(Asked::Open { way, waiting });
                Progress::Continue
            }
        }
    }

    /// An open has its answer.
    fn opened(&mut self, way: Way, answer: Option<Opened>) -> Progress {
        match (way, answer) {
            (Way::ExportName, None) => Progress::Closed,
            (Way::ExportName, Some(opened)) => self.named(opened),
            (Way::Go(..), None) => {
                self.refuse(opt::GO, rep::ERR_UNKNOWN, "no export has this name");
                Progress::Continue
            }
            (Way::Go(name, wanted), Some(opened)) => {
                self.tell(opt::GO, &opened.info, &name, &wanted);
                self.ready(opened)
            }
        }
    }

    fn named(&mut self, opened: Opened) -> Progress {
        let export = &opened.info;
        self.output.extend(export.size_bytes().to_be_bytes());
        self.output
            .extend(export.flags(self.structured).to_be_bytes());
        if !self.no_zeroes {
            self.output.extend([0; 124]);
        }
        self.ready(opened)
    }

    fn go_or_info(&mut self, option: u32, data: &[u8], exports: &dyn Exports) -> Progress {
        let Some((name, wanted)) = parse_go(data) else {
            self.refuse(option, rep::ERR_INVALID, "the option's data is malformed");
            return Progress::Continue;
        };
        let (name, key) = split_key(name);
        if option == opt::GO
            && let Some(found) = canonical(exports, name)
        {
            self.key = key;
            return self.open(&found, Way::Go(name.to_owned(), wanted), exports);
        }
        let Some(export) = find(exports, name) else {
            self.refuse(option, rep::ERR_UNKNOWN, "no export has this name");
            return Progress::Continue;
        };
        self.tell(option, &export, name, &wanted);
        Progress::Continue
    }

    fn tell(&mut self, option: u32, export: &ExportInfo, name: &str, wanted: &[u16]) {
        let size = export.size_bytes().to_be_bytes();
        let flags = export.flags(self.structured).to_be_bytes();
        self.info(option, info::EXPORT, &[&size, &flags]);
        if wanted.contains(&info::NAME) || name != export.name {
            self.info(option, info::NAME, &[clipped(&export.name).as_bytes()]);
        }
        if wanted.contains(&info::DESCRIPTION) && !export.description.is_empty() {
            let text = clipped(&export.description);
            self.info(option, info::DESCRIPTION, &[text.as_bytes()]);
        }
        if wanted.contains(&info::BLOCK_SIZE) {
            let [least, preferred, most] = export.block_sizes().map(u32::to_be_bytes);
            self.info(option, info::BLOCK_SIZE, &[&least, &preferred, &most]);
        }
        self.acknowledge(option);
    }

    fn info(&mut self, option: u32, kind: u16, data: &[&[u8]]) {
        let kind = kind.to_be_bytes();
        let mut pieces: Vec<&[u8]> = vec![&kind];
        pieces.extend(data);
        self.reply(option, rep::INFO, &pieces);
    }

    fn meta_context(&mut self, option: u32, data: &[u8], exports: &dyn Exports) {
        let set = option == opt::SET_META_CONTEXT;
        if set {
            // Whatever comes of it, the earlier selection is gone.
            self.allocation_of = None;
            if !self.structured {
                let text = "ask for structured replies first";
                return self.refuse(option, rep::ERR_INVALID, text);
            }
        }
        let Some((name, queries)) = parse_meta_context(data) else {
            return self.refuse(option, rep::ERR_INVALID, "the option's data is malformed");
        };
        let (name, _) = split_key(name);
        let Some(export) = canonical(exports, name) else {
            return self.refuse(option, rep::ERR_UNKNOWN, "no export has this name");
        };
        match demand::query(&queries) {
            None => {}
            Some(Ok(query)) if set => return self.demand(&export, query, exports),
            Some(Ok(_)) => return self.tell_reservations(&export, exports),
            Some(Err(text)) => return self.refuse(option, rep::ERR_INVALID, text),
        }
        let named = queries.contains(&BASE_ALLOCATION);
        if set && named {
            self.allocation_of = Some(export);
        }
        if named || !set && (queries.is_empty() || queries.contains(&"base:")) {
            let id = if set { ALLOCATION_ID } else { 0 };
            let data: [&[u8]; 2] = [&id.to_be_bytes(), BASE_ALLOCATION.as_bytes()];
            self.reply(option, rep::META_CONTEXT, &data);
        }
        self.acknowledge(option);
    }

    fn tell_reservations(&mut self, export: &str, exports: &dyn Exports) {
        self.options += TABLE_OPTIONS;
        let state = exports.reservations(export);
        for context in state.iter().flat_map(demand::contexts) {
            let data: [&[u8]; 2] = [&0u32.to_be_bytes(), context.as_bytes()];
            self.reply(opt::LIST_META_CONTEXT, rep::META_CONTEXT, &data);
        }
        self.acknowledge(opt::LIST_META_CONTEXT);
    }

    fn demand(&mut self, export: &str, query: &str, exports: &dyn Exports) {
        let demanded = query.parse();
        let demanded = demanded.map_err(|why: demand::NoDemand| Denied::Failed(why.to_string()));
        match demanded.and_then(|demand| exports.demand(export, demand, &self.who)) {
            Ok(deciding) => self.decide(query.to_owned(), deciding),
            Err(denied) => self.refuse(opt::SET_META_CONTEXT, denied.reply(), denied.text()),
        }
    }

    /// Answers a demand, or waits on.
    fn decide(&mut self, query: String, mut deciding: Box<dyn Deciding>) {
        match deciding.look() {
            None => self.asked = Some(Asked::Demand { query, deciding }),
            Some(Err(denied)) => self.refuse(opt::SET_META_CONTEXT, denied.reply(), denied.text()),
            Some(Ok(())) => {
                let context = format!("{}{query}", demand::NAMESPACE);
                let data: [&[u8]; 2] = [&DEMAND_ID.to_be_bytes(), context.as_bytes()];
                self.reply(opt::SET_META_CONTEXT, rep::META_CONTEXT, &data);
                self.acknowledge(opt::SET_META_CONTEXT);
            }
        }
    }

    fn ready(&mut self, opened: Opened) -> Progress {
        let Opened { info: export, pass } = opened;
        let selected = self.allocation_of.as_deref() == Some(export.name.as_str());
        Progress::Ready(Box::new(Transmission {
            structured: self.structured,
            allocation_context: selected.then_some(ALLOCATION_ID),
            export,
            pass,
            key: self.key,
            // Both are filled in by `receive`, which holds them.
            input: Vec::new(),
            output: Vec::new(),
        }))
    }
}

fn find(exports: &dyn Exports, name: &str) -> Option<ExportInfo> {
    if let Some(export) = exports.find(name) {
        return Some(export);
    }
    let mut all = exports.list();
    (name.is_empty() && all.len() == 1).then(|| all.remove(0))
}

/// The name of the export that a client means.
fn canonical(exports: &dyn Exports, name: &str) -> Option<String> {
    let known = exports.canonical(name);
    known.or_else(|| find(exports, name).map(|export| export.name))
}

/// As much of a text as the protocol lets a string be long.
pub(super) fn clipped(text: &str) -> &str {
    let mut end = text.len().min(STRING_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Name and wanted information of INFO and GO.
fn parse_go(data: &[u8]) -> Option<(&str, Vec<u16>)> {
    let mut fields = Fields(data);
    let name = fields.string()?;
    let count = fields.u16()?;
    let wanted = (0..count).map(|_| fields.u16()).collect::<Option<_>>()?;
    fields.is_empty().then_some((name, wanted))
}

/// Name and queries of the two metadata options. A query takes at least four bytes, so their
/// number is bounded by the option's length.
fn parse_meta_context(data: &[u8]) -> Option<(&str, Vec<&str>)> {
    let mut fields = Fields(data);
    let name = fields.string()?;
    let count = fields.u32()?;
    let mut queries = Vec::new();
    for _ in 0..count {
        queries.push(fields.string()?);
    }
    fields.is_empty().then_some((name, queries))
}

#[cfg(test)]
mod tests;
