//! The command line: from arguments to an exit code.

pub mod args;
pub mod args_cluster;
pub mod args_daemon;
pub mod args_incremental;
pub mod args_monitor;
pub mod args_state;
pub mod argv;
pub mod assemble;
pub mod bad_blocks;
pub mod bitmap;
pub mod build;
pub mod change;
pub mod cluster;
pub mod create;
pub mod flags;
pub mod generate;
pub mod grow;
pub mod incremental;
pub mod later;
pub mod monitor;
pub mod mount;
pub mod outcome;
pub mod reach;
pub mod scan;
pub mod show;
pub mod state;
pub mod values;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{ArgMatches, CommandFactory, FromArgMatches};

use self::args::{Cli, Command};
use self::args_daemon::DaemonArgs;
use self::flags::Marks;
use self::outcome::{Failure, Outcome, USAGE, say};
use self::reach::Reach;
use crate::daemon::opening::DoorOptions;
use crate::daemon::process::{DaemonOptions, daemon, give_memory_back};

/// Runs the program with its arguments (without the program's name); returns the exit code.
pub fn run(args: Vec<OsString>) -> u8 {
    let (cli, matches) = match parse(args) {
        Ok(parsed) => parsed,
        Err(code) => return code,
    };
    match dispatch(&cli, &matches) {
        Ok(code) => code,
        Err(failure) => {
            say(&failure.text);
            failure.code
        }
    }
}

/// The command line understood, or the exit code when everything has been said.
fn parse(args: Vec<OsString>) -> Result<(Cli, ArgMatches), u8> {
    let complain = |failure: Failure| {
        say(&failure.text);
        failure.code
    };
    let args = argv::rewrite(args).map_err(complain)?;
    later::refuse(&args).map_err(complain)?;
    let all = [OsString::from("umd")].into_iter().chain(args);
    let parsed = Cli::command()
        .try_get_matches_from(all)
        .and_then(|matches| {
            let cli = Cli::from_arg_matches(&matches)?;
            Ok((cli, matches))
        });
    parsed.map_err(|error| {
        if !error.use_stderr() {
            return u8::from(error.print().is_err()); // Help that was asked for.
        }
        let text = error.render().to_string();
        let lines = text.trim_start_matches("error: ").lines();
        let lines: Vec<&str> = lines.filter(|line| !line.trim().is_empty()).collect();
        say(&lines.join("\n"));
        USAGE
    })
}

fn dispatch(cli: &Cli, matches: &ArgMatches) -> Outcome {
    let common = &cli.common;
    let quiet = common.quiet;
    if matches!(cli.command, Command::Serve(_) | Command::Daemon(_)) {
        give_memory_back();
    }
    let reach = || Reach::new(common.runtime_dir.as_deref());
    let own = matches.subcommand().map(|(_, own)| own);
    match &cli.command {
        Command::Create(args) => {
            let flags = own.map(Marks::of_targets).unwrap_or_default();
            create::run(args, &flags, &reach()?, quiet)
        }
        Command::Build(args) => {
            let flags = own.map(Marks::of_targets).unwrap_or_default();
            build::run(args, &flags, &reach()?, quiet)
        }
        Command::Assemble(args) => assemble::run(args, &reach()?, (quiet, common.verbose > 0)),
        Command::Incremental(args) => incremental::run(args, &reach()?, quiet),
        Command::Monitor(args) => monitor::run(args, &reach()?),
        Command::Serve(args) => assemble::serve(args, common, &reach()?),
        Command::Detail(args) => show::detail(args, &reach()?, common.verbose > 0),
        Command::Examine(args) => show::run_examine(args, common.verbose > 0),
        Command::ExamineBadblocks(args) => bad_blocks::run(args),
        Command::Mdstat(args) => show::run_mdstat(args, &reach()?),
        Command::Mount(args) => mount::run(args, &reach()?, quiet),
        Command::Query(args) => show::run_query(args, &reach()?),
        Command::Manage(args) => {
            let steps = own.map(change::steps).unwrap_or_default();
            change::manage(args, &steps, &reach()?, quiet)
        }
        Command::Grow(args) => grow::run(args, &reach()?, quiet),
        Command::Action(args) => change::action(args, &reach()?),
        Command::Wait(args) => change::wait(args, &reach()?, quiet),
        Command::ArrayState(args) => state::array_state(args, &reach()?),
        Command::Stop(args) => change::stop(args, &reach()?, quiet),
        Command::Cluster(args) => cluster::run(args, &reach()?, quiet),
        Command::ZeroSuperblock(args) => change::zero(args, &reach()?, quiet),
        Command::Daemon(args) => run_daemon(args, &reach()?),
        Command::Demo(args) => crate::demo::run(args, &reach()?),
        Command::Web(args) => show::run_web(args, &reach()?),
        Command::Generate(args) => generate::run(args),
        Command::Version(args) => show::run_version(args),
    }
}

/// A path that is the same for a daemon that is started elsewhere.
///
/// # Errors
/// When the directory we are in is gone.
pub fn whole_path(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path)
        .map_err(|error| Failure::failed(format!("{}: {error}", path.display())))
}

fn run_daemon(args: &DaemonArgs, reach: &Reach) -> Outcome {
    daemon(DaemonOptions {
        runtime: reach.runtime.clone(),
        linger: args.linger.then(|| Duration::from_millis(args.linger_ms)),
        doors: DoorOptions {
            listen: args.listen.clone(),
            token_file: args.token_file.as_deref().map(whole_path).transpose()?,
            ..assemble::doors(&args.doors)?
        },
        create_on_open: args.create_on_open,
        start_dirty_degraded: args.start_dirty_degraded,
        report_ready: args.report_ready,
        keep: args.keep,
        leave: args.leave.clone(),
    })
}
