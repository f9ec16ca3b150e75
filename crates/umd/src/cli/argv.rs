//! mdadm's ways to say what is wanted, turned into sub-commands. Pure.
//!
//! | typed                                   | read as                               |
//! | --------------------------------------- | ------------------------------------- |
//! | `--create ...`, `-C ...`, `-CfR ...`    | `create ...`, `create -fR ...`        |
//! | `-Es a b`, `-Evvs`                      | `examine -s a b`, `examine -vvs`      |
//! | `-X a`, `--examine-bitmap a`            | `examine --bitmap a`                  |
//! | `-vD r5`                                | `detail -v r5`                        |
//! | `r5 --fail b.img --add c.img`           | `manage r5 --fail b.img --add c.img`  |
//! | `r5 --stop`, `r5 -D`                    | `stop r5`, `detail r5`                |
//! | `--add r5 c.img`                        | `manage --add r5 c.img`               |
//! | `--readonly r5`, `-w r5`                | `manage r5 --readonly`, ...           |

use std::ffi::OsString;

use super::outcome::Failure;

/// The sub-commands there are.
pub const COMMANDS: &[&str] = &[
    "create",
    "build",
    "assemble",
    "incremental",
    "monitor",
    "serve",
    "detail",
    "examine",
    "examine-badblocks",
    "mdstat",
    "mount",
    "query",
    "manage",
    "grow",
    "action",
    "wait",
    "stop",
    "array-state",
    "zero-superblock",
    "cluster",
    "daemon",
    "demo",
    "web",
    "generate",
    "version",
    "help",
];

/// mdadm's mode options and the sub-command each stands for.
const MODES: &[(&str, char, &str)] = &[
    ("--create", 'C', "create"),
    ("--build", 'B', "build"),
    ("--assemble", 'A', "assemble"),
    ("--incremental", 'I', "incremental"),
    ("--monitor", 'F', "monitor"),
    ("--follow", '\0', "monitor"),
    ("--detail", 'D', "detail"),
    ("--examine", 'E', "examine"),
    ("--examine-bitmap", 'X', "examine --bitmap"),
    ("--examine-badblocks", '\0', "examine-badblocks"),
    ("--query", 'Q', "query"),
    ("--grow", 'G', "grow"),
    ("--stop", 'S', "stop"),
    ("--wait", 'W', "wait"),
    ("--manage", '\0', "manage"),
    ("--zero-superblock", '\0', "zero-superblock"),
    ("--version", 'V', "version"),
];

/// Modes that belong to later rounds.
const LATER_MODES: &[(&str, char, &str)] = &[
    ("--dump", '\0', "dump"),
    ("--restore", '\0', "restore"),
    ("--update-subarray", '\0', "update-subarray"),
    ("--kill-subarray", '\0', "kill-subarray"),
    ("--detail-platform", '\0', "detail-platform"),
    ("--wait-clean", '\0', "wait-clean"),
    ("--udev-rules", '\0', "udev-rules"),
    ("--auto-detect", '\0', "auto-detect"),
];

/// mdadm's misc options that name an array and change how it runs: part of `manage` here.
const RUN_MODES: &[(&str, char, &str)] = &[
    ("--readonly", 'o', "--readonly"),
    ("--readwrite", 'w', "--readwrite"),
    ("--run", 'R', "--run"),
];

/// Options that mean `manage` when they come first, as in mdadm: `--add r5 c.img`.
const MANAGE_FIRST: &[&str] = &[
    "--add",
    "-a",
    "--re-add",
    "--fail",
    "--set-faulty",
    "-f",
    "--remove",
    "-r",
];

/// The arguments (without the program's name) with mdadm's modes made sub-commands.
///
/// # Errors
/// When the mode exists in mdadm and not here, or two modes are given.
pub fn rewrite(args: Vec<OsString>) -> Result<Vec<OsString>, Failure> {
    let Some(first) = args.first().map(|arg| arg.to_string_lossy().into_owned()) else {
        return Ok(args);
    };
    if COMMANDS.contains(&first.as_str()) {
        return Ok(args);
    }
    if let Some((_, _, mode)) = LATER_MODES.iter().find(|mode| mode.2 == first) {
        return Err(later(mode));
    }
    if first == "--misc" {
        return rewrite(args[1..].to_vec());
    }
    if first.starts_with('-') {
        return mode_first(args);
    }
    if args.len() > 1 && args[1].to_string_lossy().starts_with('-') {
        return array_first(args);
    }
    Ok(args)
}

fn later(mode: &str) -> Failure {
    Failure::usage(format!("{mode} is not available in this version"))
}

/// `--create ...` or `-CfR ...`: the mode is somewhere in the leading options.
fn mode_first(args: Vec<OsString>) -> Result<Vec<OsString>, Failure> {
    let mut command = None;
    let mut rest = Vec::new();
    let mut leading = true;
    for arg in args {
        let text = arg.to_string_lossy().into_owned();
        leading = leading && text.starts_with('-') && text != "--";
        if !leading || command.is_some() && !is_mode(&text) {
            rest.push(arg);
            continue;
        }
        let (found, kept) = split_mode(&text)?;
        if let Some(found) = found
            && command.replace(found).is_some_and(|before| before != found)
        {
            return Err(Failure::usage(format!(
                "{text} would set the mode a second time"
            )));
        }
        rest.extend(kept.map(OsString::from));
    }
    let Some(command) = command else {
        let first = rest.first().map(|first| first.to_string_lossy());
        if first.is_some_and(|first| MANAGE_FIRST.contains(&&*first)) {
            rest.insert(0, "manage".into());
        }
        return Ok(rest);
    };
    if let Some(option) = command.strip_prefix("examine ") {
        rest.insert(0, option.into());
        rest.insert(0, "examine".into());
    } else if let Some(option) = command.strip_prefix("manage ") {
        // `--readonly r5`: the option follows the array's name.
        rest.push(option.into());
        rest.insert(0, "manage".into());
    } else {
        rest.insert(0, command.into());
    }
    Ok(rest)
}

fn is_mode(text: &str) -> bool {
    MODES.iter().any(|mode| mode.0 == text)
}

/// The mode in one option (or cluster of short ones), and what is left of it.
fn split_mode(text: &str) -> Result<(Option<&'static str>, Option<String>), Failure> {
    if text.starts_with("--") {
        if let Some(mode) = LATER_MODES.iter().find(|mode| mode.0 == text) {
            return Err(later(mode.2));
        }
        if let Some(mode) = MODES.iter().find(|mode| mode.0 == text) {
            return Ok((Some(mode.2), None));
        }
        let run = RUN_MODES.iter().find(|mode| mode.0 == text);
        return Ok(match run {
            Some(mode) => (Some(run_command(mode.1)), None),
            None => (None, Some(text.to_owned())),
        });
    }
    let mut found = None;
    let mut kept = String::new();
    for letter in text.chars().skip(1) {
        if let Some(mode) = LATER_MODES.iter().find(|mode| mode.1 == letter) {
            return Err(later(mode.2));
        }
        match MODES.iter().find(|mode| mode.1 == letter) {
            Some(mode) if found.is_none() => found = Some(mode.2),
            _ => kept.push(letter),
        }
    }
    if found.is_none() && kept.chars().count() == 1 {
        let letter = kept.chars().next().unwrap_or_default();
        if RUN_MODES.iter().any(|mode| mode.1 == letter) {
            return Ok((Some(run_command(letter)), None));
        }
    }
    let kept = (!kept.is_empty()).then(|| format!("-{kept}"));
    Ok((found, kept))
}

fn run_command(letter: char) -> &'static str {
    match letter {
        'o' => "manage --readonly",
        'w' => "manage --readwrite",
        _ => "manage --run",
    }
}

/// `r5 --fail b.img`: manage, unless the option behind the array is a mode of its own.
fn array_first(mut args: Vec<OsString>) -> Result<Vec<OsString>, Failure> {
    let second = args[1].to_string_lossy().into_owned();
    if RUN_MODES
        .iter()
        .all(|mode| mode.0 != second && format!("-{}", mode.1) != second)
    {
        let (mode, kept) = if second.starts_with("--") || second.chars().count() == 2 {
            split_mode(&second)?
        } else {
            (None, None)
        };
        if let (Some(mode), None) = (mode, kept) {
            args.remove(1);
            args.splice(0..0, mode.split(' ').map(OsString::from));
            return Ok(args);
        }
    }
    args.insert(0, "manage".into());
    Ok(args)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    /// Whoever is not known here is taken for an array when an option follows.
    #[test]
    fn every_command_is_known() {
        let command = super::super::args::Cli::command();
        for one in command.get_subcommands() {
            assert!(COMMANDS.contains(&one.get_name()), "{}", one.get_name());
        }
        assert_eq!(
            run("array-state --suspend-hi 0 r5"),
            "array-state --suspend-hi 0 r5"
        );
    }

    fn run(line: &str) -> String {
        let args = line.split_whitespace().map(OsString::from).collect();
        match rewrite(args) {
            Ok(args) => {
                let words: Vec<_> = args.iter().map(|arg| arg.to_string_lossy()).collect();
                words.join(" ")
            }
            Err(failure) => format!("{}: {}", failure.code, failure.text),
        }
    }

    #[test]
    fn modes_become_commands() {
        assert_eq!(run("--create r5 -l5 -n3 a b c"), "create r5 -l5 -n3 a b c");
        assert_eq!(run("-C r5 -l 5"), "create r5 -l 5");
        assert_eq!(run("--build md8 -l1 -n2 a b"), "build md8 -l1 -n2 a b");
        assert_eq!(run("-B md8 -l1"), "build md8 -l1");
        assert_eq!(run("-CfR r5 a b"), "create -fR r5 a b");
        assert_eq!(run("-Asf r5 a b"), "assemble -sf r5 a b");
        assert_eq!(run("-Es a b"), "examine -s a b");
        assert_eq!(run("-Evvs a"), "examine -vvs a");
        assert_eq!(run("-X a b"), "examine --bitmap a b");
        assert_eq!(run("--examine-bitmap a"), "examine --bitmap a");
        assert_eq!(run("a -X"), "examine --bitmap a");
        assert_eq!(run("-Xv a"), "examine --bitmap -v a");
        assert_eq!(run("-vD r5"), "detail -v r5");
        assert_eq!(run("--grow r5 -n 4"), "grow r5 -n 4");
        assert_eq!(run("-G r5 --bitmap=none"), "grow r5 --bitmap=none");
        assert_eq!(run("r5 --grow -b none"), "grow r5 -b none");
        assert_eq!(run("-v --detail r5"), "detail -v r5");
        assert_eq!(run("-Ss"), "stop -s");
        assert_eq!(run("-Q a"), "query a");
        assert_eq!(run("-W r5"), "wait r5");
        assert_eq!(run("--misc --detail r5"), "detail r5");
        assert_eq!(run("--zero-superblock a b"), "zero-superblock a b");
        assert_eq!(run("-V"), "version");
        assert_eq!(run("--incremental a"), "incremental a");
        assert_eq!(run("-F --scan -1"), "monitor --scan -1");
        assert_eq!(run("-IRs"), "incremental -Rs");
        assert_eq!(run("-I --fail sdb"), "incremental --fail sdb");
        assert_eq!(run("--detail --scan -v"), "detail --scan -v");
    }

    #[test]
    fn commands_pass_unchanged() {
        for line in [
            "create r5 -l 5 --stop",
            "help",
            "",
            "--help",
            "examine -E",
            "crate r5",
        ] {
            assert_eq!(run(line), line);
        }
    }

    #[test]
    fn an_array_first_means_manage() {
        assert_eq!(
            run("r5 --fail b --remove b"),
            "manage r5 --fail b --remove b"
        );
        assert_eq!(
            run("/dev/md0 -f b -r b -a c"),
            "manage /dev/md0 -f b -r b -a c"
        );
        assert_eq!(run("--manage r5 --add c"), "manage r5 --add c");
        assert_eq!(run("--add r5 c"), "manage --add r5 c");
        assert_eq!(run("-f r5 b -r b"), "manage -f r5 b -r b");
        assert_eq!(run("-f --assemble r5 b"), "assemble -f r5 b");
        assert_eq!(run("r5 --stop"), "stop r5");
        assert_eq!(run("r5 -D"), "detail r5");
        assert_eq!(run("r5 --readonly"), "manage r5 --readonly");
        assert_eq!(run("-o r5"), "manage r5 --readonly");
        assert_eq!(run("--readwrite r5"), "manage r5 --readwrite");
    }

    #[test]
    fn later_modes_are_refused_by_name() {
        assert_eq!(run("--dump a"), "2: dump is not available in this version");
    }

    #[test]
    fn two_modes_are_one_too_many() {
        let refused = run("--create --assemble r5");
        assert_eq!(refused, "2: --assemble would set the mode a second time");
        assert_eq!(run("--detail --detail r5"), "detail r5");
    }
}
