//! From a logical line to what it means, keyword by keyword.

use super::words::Line;
use super::{
    ArrayLine, ArrayName, AutoWord, Config, CreateLine, DeviceWord, Metadata, Place, Policy,
    Problem,
};
use crate::cli::values;
use crate::words as md_words;

/// mdadm's keywords, in the order in which an abbreviation finds them. Some mean nothing here.
const KEYWORDS: &[&str] = &[
    "device",
    "array",
    "mailaddr",
    "mailfrom",
    "program",
    "create",
    "homehost",
    "homecluster",
    "auto",
    "policy",
    "part-policy",
    "sysfs",
    "monitordelay",
    "encryption_no_verify",
    "probing",
];
/// Letters that an abbreviation needs.
const LETTERS_MIN: usize = 3;
/// The longest stored name.
const SET_NAME_BYTES_MAX: usize = 32;

/// A place to put what was left out.
struct Report<'a> {
    file: &'a str,
    problems: &'a mut Vec<Problem>,
}

impl Report<'_> {
    fn push(&mut self, line: usize, text: String) {
        self.problems.push(Problem {
            place: Place {
                file: self.file.to_owned(),
                line,
            },
            text,
        });
    }
}

fn keyword(word: &str) -> Option<&'static str> {
    let word = word.to_ascii_lowercase();
    let found = KEYWORDS.iter().find(|keyword| keyword.starts_with(&word));
    found.copied().filter(|_| word.len() >= LETTERS_MIN)
}

/// Takes one line in.
pub(super) fn take(config: &mut Config, file: &str, line: &Line, problems: &mut Vec<Problem>) {
    let mut report = Report { file, problems };
    let Some(keyword) = keyword(&line.keyword) else {
        report.push(line.number, format!("Unknown keyword {}", line.keyword));
        return;
    };
    match keyword {
        "device" => devices(config, line, &mut report),
        "array" => config.arrays.extend(array(line, &mut report)),
        "create" => create(&mut config.create, line, &mut report),
        "auto" => auto(config, line, &mut report),
        "policy" | "part-policy" => config.policies.push(policy(line, &mut report)),
        "monitordelay" => delay(config, line, &mut report),
        "mailaddr" => only(&mut config.mail_to, line, &mut report),
        "mailfrom" => mail_from(config, line),
        "program" => only(&mut config.program, line, &mut report),
        "homehost" => homehost(config, line, &mut report),
        "homecluster" => only(&mut config.homecluster, line, &mut report),
        _ => {} // sysfs, encryption_no_verify, probing: about kernels and other metadata.
    }
}

/// A keyword with one value: the first one counts.
fn only(value: &mut Option<String>, line: &Line, report: &mut Report<'_>) {
    for (word, number) in &line.words {
        if value.is_none() {
            *value = Some(word.clone());
        } else {
            let keyword = line.keyword.to_ascii_uppercase();
            let text = format!("only one {keyword} is used: {word} ignored");
            report.push(*number, text);
        }
    }
}

/// One word; but behind `<ignore>` a name may stand, for arrays that are made.
fn homehost(config: &mut Config, line: &Line, report: &mut Report<'_>) {
    let ignored = |word: &(String, usize)| word.0 == "<ignore>";
    match line.words.as_slice() {
        [first, (name, _), rest @ ..] if ignored(first) && config.homehost.is_none() => {
            config.homehost = Some(first.0.clone());
            config.homehost_stored = Some(name.clone());
            let rest = Line {
                words: rest.to_vec(),
                ..line.clone()
            };
            only(&mut config.homehost, &rest, report);
        }
        _ => only(&mut config.homehost, line, report),
    }
}

/// A sender may have blanks in it.
fn mail_from(config: &mut Config, line: &Line) {
    let words: Vec<&str> = line.words.iter().map(|(word, _)| word.as_str()).collect();
    if config.mail_from.is_none() && !words.is_empty() {
        config.mail_from = Some(words.join(" "));
    }
}

fn delay(config: &mut Config, line: &Line, report: &mut Report<'_>) {
    for (word, number) in &line.words {
        match word.parse::<u64>() {
            Ok(seconds) if seconds > 0 => {
                config.monitor_delay.get_or_insert(seconds);
            }
            _ => report.push(
                *number,
                format!("MONITORDELAY is a number of seconds, not {word}"),
            ),
        }
    }
}

fn devices(config: &mut Config, line: &Line, report: &mut Report<'_>) {
    for (word, number) in &line.words {
        config.devices.push(match word.as_str() {
            "partitions" => DeviceWord::Partitions,
            "containers" => DeviceWord::Containers,
            path if path.starts_with('/') => DeviceWord::Pattern(path.to_owned()),
            other => {
                let text = format!("unrecognised word on DEVICE line: {other}");
                report.push(*number, text);
                continue;
            }
        });
    }
}

/// A value of a word like `uuid=...`, whatever case it is written in.
fn value<'a>(word: &'a str, key: &str) -> Option<&'a str> {
    let head = word.get(..key.len())?;
    let rest = &word[key.len()..];
    head.eq_ignore_ascii_case(key)
        .then(|| rest.strip_prefix('='))?
}

fn array(line: &Line, report: &mut Report<'_>) -> Option<ArrayLine> {
    let mut made = ArrayLine::at(report.file, line.number);
    let mut called: Option<&str> = None;
    for (word, number) in &line.words {
        let said = if word.contains('=') {
            array_word(&mut made, word)
        } else if let Some(before) = called {
            Err(format!(
                "only give one device per ARRAY line: {before} and {word}"
            ))
        } else {
            called = Some(word);
            array_name(word).map(|name| made.name = name)
        };
        if let Err(text) = said {
            report.push(*number, text);
        }
    }
    let identified = made.uuid.is_some()
        || made.set_name.is_some()
        || made.super_minor.is_some()
        || !made.devices.is_empty()
        || made.container.is_some() && made.member.is_some();
    if !identified {
        let called = called.map_or(String::new(), |called| format!(" {called}"));
        report.push(
            line.number,
            format!("ARRAY line{called} has no identity information."),
        );
        return None;
    }
    Some(made)
}

fn array_name(word: &str) -> Result<ArrayName, String> {
    if word.eq_ignore_ascii_case("<ignore>") {
        return Ok(ArrayName::Ignored);
    }
    let elsewhere = word.starts_with('/') && !word.starts_with("/dev/md");
    match values::array_name(word) {
        Ok(name) if !elsewhere => Ok(ArrayName::Named(name)),
        _ => Err(format!(
            "{word} is an invalid name for an md device - ignored."
        )),
    }
}

/// A word of an `ARRAY` line that says something about its array.
fn array_word(line: &mut ArrayLine, word: &str) -> Result<(), String> {
    let number = |text: &str| text.parse::<u32>().ok();
    if let Some(text) = value(word, "uuid") {
        let uuid = values::uuid(text).map_err(|_| format!("bad uuid: {word}"))?;
        once(&mut line.uuid, uuid, || {
            format!("only specify uuid once, {word} ignored.")
        })
    } else if let Some(text) = value(word, "name") {
        if text.len() > SET_NAME_BYTES_MAX {
            return Err(format!("name too long, ignoring {word}"));
        }
        once(&mut line.set_name, text.to_owned(), || {
            format!("only specify name once, {word} ignored.")
        })
    } else if let Some(text) = value(word, "super-minor") {
        let minor = number(text).ok_or_else(|| format!("invalid super-minor number: {word}"))?;
        once(&mut line.super_minor, minor, || {
            format!("only specify super-minor once, {word} ignored.")
        })
    } else if let Some(text) = value(word, "devices") {
        if !line.devices.is_empty() {
            return Err(format!(
                "only specify devices once (use a comma separated list). {word} ignored"
            ));
        }
        let paths = text.split(',').filter(|path| !path.is_empty());
        line.devices = paths.map(str::to_owned).collect();
        Ok(())
    } else if let Some(text) = value(word, "level") {
        let level = md_words::level_number(text);
        let level = level.ok_or_else(|| format!("invalid raid level: {text}"))?;
        line.level = Some(level);
        Ok(())
    } else if let Some(text) = value(word, "num-devices").or_else(|| value(word, "disks")) {
        let disks = text.parse::<u16>().ok().filter(|disks| *disks > 0);
        line.raid_disks =
            Some(disks.ok_or_else(|| format!("invalid number of raid devices: {text}"))?);
        Ok(())
    } else {
        array_care(line, word)
    }
}

/// What an `ARRAY` line says of an array beyond who it is.
fn array_care(line: &mut ArrayLine, word: &str) -> Result<(), String> {
    if let Some(text) = value(word, "spares") {
        let spares = text.parse::<u32>();
        line.spares = Some(spares.map_err(|_| format!("invalid number of spares: {text}"))?);
        Ok(())
    } else if let Some(text) = value(word, "spare-group") {
        once(&mut line.spare_group, text.to_owned(), || {
            format!("only specify one spare group per array. {word} ignored.")
        })
    } else if let Some(text) = value(word, "bitmap") {
        once(&mut line.bitmap, text.to_owned(), || {
            format!("only specify bitmap file once. {word} ignored")
        })
    } else if let Some(text) = value(word, "metadata") {
        let metadata = Metadata::parse(text);
        let metadata =
            metadata.ok_or_else(|| format!("metadata format {text} unknown, ignored."))?;
        line.metadata = Some(metadata);
        Ok(())
    } else if let Some(text) = value(word, "container") {
        line.container = Some(text.to_owned());
        Ok(())
    } else if let Some(text) = value(word, "member") {
        line.member = Some(text.to_owned());
        Ok(())
    } else if value(word, "auto").is_some() {
        Ok(()) // How a node is made; there are none.
    } else {
        Err(format!("unrecognised word on ARRAY line: {word}"))
    }
}

fn once<T>(value: &mut Option<T>, new: T, again: impl FnOnce() -> String) -> Result<(), String> {
    if value.is_some() {
        return Err(again());
    }
    *value = Some(new);
    Ok(())
}

fn create(create: &mut CreateLine, line: &Line, report: &mut Report<'_>) {
    for (word, number) in &line.words {
        let unknown = || format!("unrecognised word on CREATE line: {word}");
        let said = if let Some(text) = value(word, "metadata") {
            let format = match text {
                "1" | "1.x" | "default" => Some(umd_format::Format::V1_2),
                _ => umd_format::Format::parse(text).filter(|format| format.is_stored()),
            };
            let format = format.ok_or_else(|| format!("metadata format {text} unknown, ignoring"));
            format.map(|format| create.metadata = Some(format))
        } else if let Some(text) = value(word, "bbl") {
            match text.to_ascii_lowercase().as_str() {
                "yes" => Ok(true),
                "no" => Ok(false),
                _ => Err(unknown()),
            }
            .map(|yes| create.bbl = Some(yes))
        } else {
            // Who owns a node, and what it is called: there are no nodes.
            let nodes = ["owner", "group", "mode", "auto", "names", "symlinks"];
            match nodes.iter().any(|key| value(word, key).is_some()) {
                true => Ok(()),
                false => Err(unknown()),
            }
        };
        if let Err(text) = said {
            report.push(*number, text);
        }
    }
}

fn auto(config: &mut Config, line: &Line, report: &mut Report<'_>) {
    for (word, number) in &line.words {
        let lower = word.to_ascii_lowercase();
        let (allow, what) = match (lower.strip_prefix('+'), lower.strip_prefix('-')) {
            (Some(what), _) => (true, what),
            (None, Some(what)) => (false, what),
            // As in mdadm, a word of its own is meant to be had.
            (None, None) => (true, lower.as_str()),
        };
        let known = matches!(what, "all" | "homehost") || Metadata::parse(what).is_some();
        if known {
            config.auto.push(AutoWord {
                allow,
                what: what.to_owned(),
            });
        } else {
            report.push(*number, format!("unrecognised word on AUTO line: {word}"));
        }
    }
}

fn policy(line: &Line, report: &mut Report<'_>) -> Policy {
    let mut made = Policy::default();
    for (word, number) in &line.words {
        let keys = ["path", "type", "domain", "metadata", "action", "auto"];
        let found = keys.iter().find_map(|key| Some((*key, value(word, key)?)));
        match found {
            Some((key, text)) => made.words.push((key.to_owned(), text.to_owned())),
            None => report.push(
                *number,
                format!("policy rule {word} unrecognised and ignored"),
            ),
        }
    }
    made
}
