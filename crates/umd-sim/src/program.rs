//! A run written down: what hosts, faults and administrators did, and when.
//!
//! ```text
//!   seed --run--> record --> Program --delete items--> smaller Program --run--> same violation?
//!                              |
//!     h0.1.5@1200   boot 0: operation 5 of client 1, 1200 ns after the array was started
//!     f0@90:g2      boot 0: disk 2 vanishes          a0@90:fail1   boot 0: disk 1 is failed
//!     o0@9000+31    boot 0: hosts are done; the stream of faults has been drawn from 31 times
//!     e0@9500+33    boot 0: ends                     x0            boot 0 is left out
//!     k0.2@70       boot 0: crash images are drawn, with the chances of fork 2
//!     s3            disks draw other chances
//! ```
//!
//! What is not an item stays as the seed draws it: options, disks, contents, power cuts.

use std::fmt;

use umd_core::value::Span;

use crate::disk::Armed;
use crate::options::Fault;
use crate::script::Admin;

/// A fault in all its details.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// Something is armed on a disk.
    Armed(usize, Armed),
    /// Sectors become unreadable.
    Damaged {
        /// The disk.
        disk: usize,
        /// First device sector.
        at: u64,
        /// How many.
        len: u64,
    },
    /// Sectors take no writes any more.
    Worn {
        /// The disk.
        disk: usize,
        /// First device sector.
        at: u64,
        /// How many.
        len: u64,
    },
    /// A disk vanishes.
    Gone(usize),
    /// Content changes by itself.
    Rotten {
        /// The disk.
        disk: usize,
        /// First device sector.
        at: u64,
        /// How many.
        len: u64,
    },
}

impl Broken {
    /// Its kind and its disk.
    pub fn kind(self) -> (Fault, usize) {
        match self {
            Broken::Armed(disk, Armed::WriteError | Armed::WriteErrorAt(..)) => {
                (Fault::WriteError, disk)
            }
            Broken::Armed(disk, Armed::MetadataWriteError) => (Fault::MetadataError, disk),
            Broken::Armed(disk, Armed::FlushError | Armed::FlushRefused) => {
                (Fault::FlushError, disk)
            }
            Broken::Armed(disk, Armed::Hang(span)) if span.0 < 30_000_000_000 => {
                (Fault::Hiccup, disk)
            }
            Broken::Armed(disk, Armed::Hang(_)) => (Fault::Hang, disk),
            Broken::Damaged { disk, .. } => (Fault::Latent, disk),
            Broken::Worn { disk, .. } => (Fault::Worn, disk),
            Broken::Gone(disk) => (Fault::Gone, disk),
            Broken::Rotten { disk, .. } => (Fault::Rot, disk),
            Broken::Armed(disk, Armed::LostWrite) => (Fault::LostWrite, disk),
            Broken::Armed(disk, Armed::Misdirected(_) | Armed::Elsewhere(_)) => {
                (Fault::Misdirected, disk)
            }
        }
    }
}

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// A client's operation.
    Host {
        /// Whose.
        client: u16,
        /// Which of this boot.
        index: u64,
    },
    /// Crash images are drawn.
    Fork {
        /// Which of the run: says what becomes of writes.
        number: u64,
    },
    /// Something breaks.
    Fault(Broken),
    /// The administrator asks.
    Admin(Admin),
}

/// Something that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item {
    /// The boot.
    pub boot: u16,
    /// When, from its start.
    pub at_ns: u64,
    /// What.
    pub what: What,
}

/// A moment in a boot, and how often the stream of faults had been drawn from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// The boot.
    pub boot: u16,
    /// When, from its start.
    pub at_ns: u64,
    /// Draws.
    pub draws: u64,
}

/// A run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Program {
    /// What happens, in order.
    pub items: Vec<Item>,
    /// When hosts are done.
    pub overs: Vec<Mark>,
    /// When boots end that do not end well.
    pub ends: Vec<Mark>,
    /// Boots that are left out.
    pub skipped: Vec<u16>,
    /// Not 0: disks draw other chances than those of the seed.
    pub salt: u64,
}

impl Program {
    /// Host operations in it.
    pub fn host_operations(&self) -> usize {
        let is_host = |item: &&Item| matches!(item.what, What::Host { .. });
        self.items.iter().filter(is_host).count()
    }

    /// The mark of a boot.
    pub fn mark(marks: &[Mark], boot: u16) -> Option<Mark> {
        marks.iter().find(|mark| mark.boot == boot).copied()
    }

    /// Reads the text of a program.
    pub fn parse(text: &str) -> Result<Program, String> {
        let mut program = Program::default();
        for word in text.split(',').filter(|word| !word.is_empty()) {
            program
                .parse_word(word)
                .ok_or_else(|| format!("{word} is no part of a program"))?;
        }
        Ok(program)
    }

    fn parse_word(&mut self, word: &str) -> Option<()> {
        let (kind, rest) = word.split_at_checked(1)?;
        match kind {
            "s" => self.salt = rest.parse().ok()?,
            "x" => self.skipped.push(rest.parse().ok()?),
            "o" => self.overs.push(parse_mark(rest)?),
            "e" => self.ends.push(parse_mark(rest)?),
            "h" => {
                let (who, at) = rest.split_once('@')?;
                let mut numbers = who.split('.');
                let boot = numbers.next()?.parse().ok()?;
                let client = numbers.next()?.parse().ok()?;
                let index = numbers.next()?.parse().ok()?;
                self.push(boot, at, What::Host { client, index })?;
            }
            "k" => {
                let (which, at) = rest.split_once('@')?;
                let (boot, number) = which.split_once('.')?;
                let number = number.parse().ok()?;
                self.push(boot.parse().ok()?, at, What::Fork { number })?;
            }
            "f" | "a" => {
                let (boot, rest) = rest.split_once('@')?;
                let (at, what) = rest.split_once(':')?;
                let what = match kind {
                    "f" => What::Fault(parse_broken(what)?),
                    _ => What::Admin(parse_admin(what)?),
                };
                self.push(boot.parse().ok()?, at, what)?;
            }
            _ => return None,
        }
        Some(())
    }

    fn push(&mut self, boot: u16, at: &str, what: What) -> Option<()> {
        let at_ns = at.parse().ok()?;
        self.items.push(Item { boot, at_ns, what });
        Some(())
    }
}

fn parse_mark(text: &str) -> Option<Mark> {
    let (boot, rest) = text.split_once('@')?;
    let (at, draws) = rest.split_once('+')?;
    Some(Mark {
        boot: boot.parse().ok()?,
        at_ns: at.parse().ok()?,
        draws: draws.parse().ok()?,
    })
}

fn parse_broken(text: &str) -> Option<Broken> {
    let (kind, rest) = text.split_at_checked(1)?;
    let mut numbers = rest.split('.');
    let disk = numbers.next()?.parse().ok()?;
    let mut more = || numbers.next()?.parse::<u64>().ok();
    Some(match kind {
        "w" => Broken::Armed(disk, Armed::WriteError),
        "a" => Broken::Armed(disk, Armed::WriteErrorAt(more()?, more()?)),
        "m" => Broken::Armed(disk, Armed::MetadataWriteError),
        "l" => Broken::Armed(disk, Armed::FlushError),
        "L" => Broken::Armed(disk, Armed::FlushRefused),
        "t" => Broken::Armed(disk, Armed::Hang(Span(more()?))),
        "u" => {
            let (at, len) = (more()?, more()?);
            Broken::Damaged { disk, at, len }
        }
        "v" => {
            let (at, len) = (more()?, more()?);
            Broken::Worn { disk, at, len }
        }
        "g" => Broken::Gone(disk),
        "r" => {
            let (at, len) = (more()?, more()?);
            Broken::Rotten { disk, at, len }
        }
        "p" => Broken::Armed(disk, Armed::LostWrite),
        "d" => Broken::Armed(disk, Armed::Misdirected(more()?)),
        "j" => Broken::Armed(disk, Armed::Elsewhere(more()? as usize)),
        _ => return None,
    })
}

fn parse_admin(text: &str) -> Option<Admin> {
    let split = text.find(|c: char| c.is_ascii_digit());
    let (name, digits) = text.split_at(split.unwrap_or(text.len()));
    let disk = || digits.parse::<usize>().ok();
    Some(match name {
        "fail" => Admin::Fail(disk()?),
        "remove" => Admin::Remove(disk()?),
        "add" => Admin::Add(disk()?),
        "readd" => Admin::ReAdd(disk()?),
        "replace" => Admin::Replace(disk()?),
        "mostly" => Admin::Mostly(disk()?),
        "fast" => Admin::Fast(disk()?),
        "nobitmap" => Admin::NoBitmap,
        "bitmap" => Admin::Bitmap,
        "bitmapfile" => Admin::BitmapFile,
        "check" => Admin::Check,
        "repair" => Admin::Repair,
        "idle" => Admin::Idle,
        "freeze" => Admin::Freeze,
        "readonly" => Admin::ReadOnly,
        "readauto" => Admin::ReadAuto,
        "stop" => Admin::Stop,
        "readwrite" => Admin::ReadWrite,
        "limit" => Admin::Limit(digits.parse().ok()?),
        "mode" => Admin::Mode(digits.parse().ok()?),
        "level" => Admin::Level(digits.parse().ok()?),
        _ => return None,
    })
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Broken::Armed(disk, Armed::WriteError) => write!(f, "w{disk}"),
            Broken::Armed(disk, Armed::WriteErrorAt(at, len)) => write!(f, "a{disk}.{at}.{len}"),
            Broken::Armed(disk, Armed::MetadataWriteError) => write!(f, "m{disk}"),
            Broken::Armed(disk, Armed::FlushError) => write!(f, "l{disk}"),
            Broken::Armed(disk, Armed::FlushRefused) => write!(f, "L{disk}"),
            Broken::Armed(disk, Armed::Hang(span)) => write!(f, "t{disk}.{}", span.0),
            Broken::Damaged { disk, at, len } => write!(f, "u{disk}.{at}.{len}"),
            Broken::Worn { disk, at, len } => write!(f, "v{disk}.{at}.{len}"),
            Broken::Gone(disk) => write!(f, "g{disk}"),
            Broken::Rotten { disk, at, len } => write!(f, "r{disk}.{at}.{len}"),
            Broken::Armed(disk, Armed::LostWrite) => write!(f, "p{disk}"),
            Broken::Armed(disk, Armed::Misdirected(shift)) => write!(f, "d{disk}.{shift}"),
            Broken::Armed(disk, Armed::Elsewhere(to)) => write!(f, "j{disk}.{to}"),
        }
    }
}

fn admin_text(admin: Admin) -> String {
    match admin {
        Admin::Fail(disk) => format!("fail{disk}"),
        Admin::Remove(disk) => format!("remove{disk}"),
        Admin::Add(disk) => format!("add{disk}"),
        Admin::ReAdd(disk) => format!("readd{disk}"),
        Admin::Replace(disk) => format!("replace{disk}"),
        Admin::Mostly(disk) => format!("mostly{disk}"),
        Admin::Fast(disk) => format!("fast{disk}"),
        Admin::NoBitmap => "nobitmap".into(),
        Admin::Bitmap => "bitmap".into(),
        Admin::BitmapFile => "bitmapfile".into(),
        Admin::Check => "check".into(),
        Admin::Repair => "repair".into(),
        Admin::Idle => "idle".into(),
        Admin::Freeze => "freeze".into(),
        Admin::ReadOnly => "readonly".into(),
        Admin::ReadAuto => "readauto".into(),
        Admin::Stop => "stop".into(),
        Admin::ReadWrite => "readwrite".into(),
        Admin::Limit(number) => format!("limit{number}"),
        Admin::Mode(layout) => format!("mode{layout}"),
        Admin::Level(number) => format!("level{number}"),
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Item { boot, at_ns, what } = self;
        match what {
            What::Host { client, index } => write!(f, "h{boot}.{client}.{index}@{at_ns}"),
            What::Fork { number } => write!(f, "k{boot}.{number}@{at_ns}"),
            What::Fault(broken) => write!(f, "f{boot}@{at_ns}:{broken}"),
            What::Admin(admin) => write!(f, "a{boot}@{at_ns}:{}", admin_text(*admin)),
        }
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words: Vec<String> = self.items.iter().map(Item::to_string).collect();
        let marks = |kind: char, marks: &[Mark]| {
            let show = |m: &Mark| format!("{kind}{}@{}+{}", m.boot, m.at_ns, m.draws);
            marks.iter().map(show).collect::<Vec<_>>()
        };
        words.extend(marks('o', &self.overs));
        words.extend(marks('e', &self.ends));
        words.extend(self.skipped.iter().map(|boot| format!("x{boot}")));
        if self.salt != 0 {
            words.push(format!("s{}", self.salt));
        }
        f.write_str(&words.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_program_are_the_same_thing() {
        let text = "h0.1.5@1200,k0.2@1300,f0@90:g2,f0@91:t1.5000,f1@7:u0.64.8,f1@8:w3,f1@8:m3,\
                    f1@8:l3,f1@9:r0.64.1,f1@9:p2,f1@9:d2.8,\
                    a0@90:fail1,a0@91:readd2,a1@4:check,a1@5:limit77,a1@6:mode129,\
                    a1@7:readauto,a1@8:stop,\
                    o0@9000+31,e0@9500+33,x1,s3";
        let program = Program::parse(text).expect("a program");
        assert_eq!(program.to_string(), text);
        assert_eq!(program.host_operations(), 1);
        assert!(Program::parse("").expect("empty").items.is_empty());
        for wrong in [
            "h0.1@5",
            "q",
            "f0@1:z9",
            "a0@1:dance",
            "o0@1",
            "h0.1.2",
            "f0@1:u1.2",
        ] {
            assert!(Program::parse(wrong).is_err(), "{wrong}");
        }
    }
}
