//! Options mdadm has and a later round of umd will: each is refused with one clear sentence, not
//! with "unexpected argument". Pure.

use std::ffi::OsString;

use super::outcome::Failure;

/// Option and what it would be.
const LATER: &[(&str, &str)] = &[
    ("--array-size", "a limited array size"),
    ("--backup-file", "reshape"),
    ("--invalid-backup", "reshape"),
    ("--freeze-reshape", "reshape"),
    ("--continue", "reshape"),
    ("--add-journal", "a write journal"),
    ("--write-journal", "a write journal"),
    ("--cluster-confirm", "a clustered array"),
    ("--add-spare", "adding without rebuilding"),
    ("--readwrite-auto", "read-auto"),
    ("--super-minor", "finding arrays by minor number"),
    ("--ublk", "the ublk door"),
    ("--fuse", "the FUSE door"),
    ("--vhost-user", "the vhost-user door"),
    ("--subarray", "containers"),
];

/// Refuses the first option that belongs to a later round.
///
/// # Errors
/// Exit code 2, with the option and what it would be.
pub fn refuse(args: &[OsString]) -> Result<(), Failure> {
    for arg in args {
        let text = arg.to_string_lossy();
        if text == "--" {
            break;
        }
        let option = text.split_once('=').map_or(&*text, |(option, _)| option);
        if let Some((option, what)) = LATER.iter().find(|(name, _)| *name == option) {
            return Err(Failure::usage(format!(
                "{option} ({what}) is not available in this version"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(line: &str) -> Result<(), Failure> {
        let args: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        refuse(&args)
    }

    #[test]
    fn later_options_are_named() {
        let failure = run("create r5 -l5 --write-journal=j a b c").expect_err("refused");
        assert_eq!(failure.code, 2);
        assert_eq!(
            failure.text,
            "--write-journal (a write journal) is not available in this version"
        );
        assert!(run("manage r5 --add-spare a").is_err());
        assert!(run("serve r5 --ublk").is_err());
    }

    #[test]
    fn todays_options_pass() {
        for line in [
            "create r5 -l5 -n3 --size=1G a b c",
            "manage r5 -- --add-spare",
            "manage r5 --replace a --with b",
            "",
        ] {
            assert_eq!(run(line), Ok(()));
        }
    }

    #[test]
    fn no_option_of_today_is_refused() {
        use clap::CommandFactory;
        let command = crate::cli::args::Cli::command();
        for sub in command.get_subcommands() {
            for argument in sub.get_arguments() {
                if let Some(long) = argument.get_long() {
                    assert!(run(&format!("--{long}")).is_ok(), "--{long}");
                }
            }
        }
    }
}
