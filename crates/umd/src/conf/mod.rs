//! mdadm.conf: what it says, as values. Pure; `files` alone touches the system.
//!
//! ```text
//!   text --words--> logical lines (keyword, words, where) --lines--> Config + Problems
//!             ^                                                         |
//!   files: which files, conf.d, partitions, globs <---------------------+ DEVICE
//! ```
//!
//! What makes no sense is left out and named: one sentence each, with file and line. Nothing in a
//! configuration file can do more harm than that.

pub mod files;
pub mod glob;
mod lines;
pub mod probe;
mod words;

#[cfg(test)]
mod tests;

use umd_format::{Format, Uuid};

/// All that was said in the files read, in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// `DEVICE`: where members are looked for; none means `partitions`.
    pub devices: Vec<DeviceWord>,
    /// `ARRAY`: one per line that identifies an array.
    pub arrays: Vec<ArrayLine>,
    /// `MAILADDR`: whom the monitor tells.
    pub mail_to: Option<String>,
    /// `MAILFROM`: as whom.
    pub mail_from: Option<String>,
    /// `PROGRAM`: what the monitor runs.
    pub program: Option<String>,
    /// `HOMEHOST`: whose arrays are local.
    pub homehost: Option<String>,
    /// Behind `HOMEHOST <ignore>`: the host that new arrays get all the same.
    pub homehost_stored: Option<String>,
    /// `HOMECLUSTER`.
    pub homecluster: Option<String>,
    /// `CREATE`: what new arrays get.
    pub create: CreateLine,
    /// `AUTO`: which arrays without a line are assembled; the first word that fits decides.
    pub auto: Vec<AutoWord>,
    /// `POLICY` and `PART-POLICY`, word by word.
    pub policies: Vec<Policy>,
    /// `MONITORDELAY`, in seconds.
    pub monitor_delay: Option<u64>,
}

/// A word of `DEVICE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceWord {
    /// All block devices that the system lists.
    Partitions,
    /// Arrays that hold arrays; there are none here.
    Containers,
    /// A path, maybe with `*`, `?` and `[...]` in it.
    Pattern(String),
}

/// What an `ARRAY` line calls its array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ArrayName {
    /// Nothing: the stored name counts.
    Stored,
    /// `<ignore>`: it is never assembled by itself.
    Ignored,
    /// A name to run under.
    Named(String),
}

/// An `ARRAY` line. A device has to fit all that it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArrayLine {
    /// Where it stands.
    pub place: Place,
    /// The name.
    pub name: ArrayName,
    /// `uuid=`.
    pub uuid: Option<Uuid>,
    /// `name=`: the stored name, with or without its host.
    pub set_name: Option<String>,
    /// `super-minor=`, of version 0.90.
    pub super_minor: Option<u32>,
    /// `devices=`: paths, maybe with wildcards.
    pub devices: Vec<String>,
    /// `level=`.
    pub level: Option<i32>,
    /// `num-devices=` or `disks=`.
    pub raid_disks: Option<u16>,
    /// `spares=`: how many the monitor expects.
    pub spares: Option<u32>,
    /// `spare-group=`: arrays that lend each other spares.
    pub spare_group: Option<String>,
    /// `bitmap=`: the file that holds it.
    pub bitmap: Option<String>,
    /// `metadata=`: the version, where it is one that can be a member's.
    pub metadata: Option<Metadata>,
    /// `container=`, `member=`: parts of a container.
    pub container: Option<String>,
    /// Its number in there.
    pub member: Option<String>,
}

/// A metadata version, or md's `1` or `1.x` for all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metadata {
    /// 1.0, 1.1 or 1.2.
    Any1,
    /// This one.
    Only(Format),
    /// One that no member here can have (`imsm`, `ddf`).
    Foreign,
}

impl Metadata {
    /// A version by mdadm's word.
    pub fn parse(word: &str) -> Option<Metadata> {
        Some(match word {
            "1" | "1.x" | "default" => Metadata::Any1,
            "0" => Metadata::Only(Format::V090),
            "imsm" | "ddf" => Metadata::Foreign,
            _ => Metadata::Only(Format::parse(word).filter(|format| format.is_stored())?),
        })
    }

    /// Whether a member of this version is meant.
    pub fn fits(self, format: Format) -> bool {
        match self {
            Metadata::Any1 => matches!(format, Format::V1(_)),
            Metadata::Only(one) => one == format,
            Metadata::Foreign => false,
        }
    }
}

/// What `CREATE` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CreateLine {
    /// `metadata=`.
    pub metadata: Option<Format>,
    /// `bbl=`.
    pub bbl: Option<bool>,
}

/// A word of `AUTO`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AutoWord {
    /// `+` rather than `-`.
    pub allow: bool,
    /// `1.x`, `0.90`, `all`, `homehost` or what else it says.
    pub what: String,
}

/// A `POLICY` line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// `path=`, `type=`, `domain=`, `action=`, `auto=`, `metadata=`: word and value.
    pub words: Vec<(String, String)>,
}

/// A line of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: String,
    /// Its line, from 1.
    pub line: usize,
}

/// Something in a file that was left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// One sentence, mdadm's where it has one.
    pub text: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            out,
            "{}:{}: {}",
            self.place.file, self.place.line, self.text
        )
    }
}

impl Config {
    /// Takes in one file's text; what makes no sense is pushed to `problems`.
    pub fn read(&mut self, file: &str, text: &str, problems: &mut Vec<Problem>) {
        for line in words::logical_lines(text) {
            lines::take(self, file, &line, problems);
        }
    }

    /// The line that names an array so.
    pub fn named(&self, name: &str) -> Option<&ArrayLine> {
        let wanted = ArrayName::Named(name.to_owned());
        self.arrays.iter().find(|line| line.name == wanted)
    }

    /// Whether an array that no line names is assembled by itself: by the first word of `AUTO`
    /// that fits. Without one it is.
    pub fn allows(&self, format: Format, local: bool) -> bool {
        let fits = |word: &&AutoWord| match word.what.as_str() {
            "all" => true,
            "homehost" => local,
            what => Metadata::parse(what).is_some_and(|one| one.fits(format)),
        };
        self.auto.iter().find(fits).is_none_or(|word| word.allow)
    }

    /// The host whose arrays are local: what `HOMEHOST` says, or this machine; `None` when no
    /// array is foreign (`<ignore>`).
    pub fn home(&self, host: &str) -> Option<String> {
        match self.homehost.as_deref() {
            None | Some("<system>") => Some(host.to_owned()),
            Some("<none>") => Some(String::new()),
            Some("<ignore>") => None,
            Some(given) => Some(given.to_owned()),
        }
    }
}

impl Config {
    /// The host that is stored with the name of a new array; `None` for this machine's.
    pub fn stored_home(&self) -> Option<&str> {
        match self.homehost.as_deref() {
            Some("<ignore>") => self.homehost_stored.as_deref(),
            other => other,
        }
    }
}

/// A device's superblock as far as an `ARRAY` line asks about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The array.
    pub uuid: Uuid,
    /// The stored name.
    pub set_name: String,
    /// Version 0.90: its number.
    pub preferred_minor: Option<u32>,
    /// The version.
    pub format: Format,
    /// The level.
    pub level: i32,
    /// Slots.
    pub raid_disks: u32,
}

impl ArrayLine {
    /// A line that says nothing yet.
    pub fn at(file: &str, line: usize) -> ArrayLine {
        ArrayLine {
            place: Place {
                file: file.to_owned(),
                line,
            },
            name: ArrayName::Stored,
            uuid: None,
            set_name: None,
            super_minor: None,
            devices: Vec::new(),
            level: None,
            raid_disks: None,
            spares: None,
            spare_group: None,
            bitmap: None,
            metadata: None,
            container: None,
            member: None,
        }
    }

    /// Whether a device with this superblock is meant; `devices=` is not asked here.
    pub fn fits(&self, found: &Identity, home: Option<&str>) -> bool {
        let named = |wanted: &String| match found.set_name.split_once(':') {
            _ if *wanted == found.set_name => true,
            Some((host, name)) => name == wanted && home.is_none_or(|home| home == host),
            None => false,
        };
        self.uuid.is_none_or(|uuid| uuid == found.uuid)
            && self.set_name.as_ref().is_none_or(named)
            && (self.super_minor.is_none() || self.super_minor == found.preferred_minor)
            && self.metadata.is_none_or(|one| one.fits(found.format))
            && self.level.is_none_or(|level| level == found.level)
            && self
                .raid_disks
                .is_none_or(|disks| u32::from(disks) == found.raid_disks)
            && self.container.is_none()
            && self.member.is_none()
    }
}
