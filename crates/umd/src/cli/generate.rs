//! `umd generate`: what packages ship beside the program, made from the one definition of every
//! option: man pages, shell completions, systemd units, the description of the API.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Command, CommandFactory, Subcommand};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use super::args::Cli;
use super::outcome::{Failure, Outcome, print, say};

/// The section of the manual: programs of administrators, where mdadm is.
const SECTION: &str = "8";

/// `umd generate WHAT`
#[derive(Debug, Clone, Args)]
pub struct GenerateArgs {
    /// What to make.
    #[command(subcommand)]
    pub what: What,
}

/// What can be made.
#[derive(Debug, Clone, Subcommand)]
pub enum What {
    /// Manual pages: umd.8 and one for each command
    Man {
        /// Where they go
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
    /// What a shell needs to complete commands and options, on stdout
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Units for systemd: the daemon and its sockets, single arrays, the monitor, a monthly check
    Units {
        /// Where they go
        #[arg(value_name = "DIR")]
        dir: PathBuf,
        /// The program they start [default: this one]
        #[arg(long, value_name = "PATH")]
        program: Option<PathBuf>,
    },
    /// The description of the control API (OpenAPI), on stdout
    Openapi,
}

/// Makes it.
///
/// # Errors
/// When it cannot be written.
pub fn run(args: &GenerateArgs) -> Outcome {
    match &args.what {
        What::Man { dir } => write_all(dir, pages())?,
        What::Units { dir, program } => {
            let own = std::env::current_exe();
            let program = match program {
                Some(path) => path.clone(),
                None => own.map_err(|error| Failure::failed(format!("who am I: {error}")))?,
            };
            write_all(dir, units(&program))?;
        }
        What::Completions { shell } => print(&completions(*shell))?,
        What::Openapi => print(&crate::daemon::control::openapi())?,
    }
    Ok(0)
}

fn write_all(dir: &Path, files: Vec<(String, String)>) -> Result<(), Failure> {
    let failed = |path: &Path, error: io::Error| {
        Failure::failed(format!("cannot write {}: {error}", path.display()))
    };
    fs::create_dir_all(dir).map_err(|error| failed(dir, error))?;
    for (name, text) in files {
        let path = dir.join(name);
        fs::write(&path, text).map_err(|error| failed(&path, error))?;
        say(&format!("wrote {}", path.display()));
    }
    Ok(())
}

fn completions(shell: Shell) -> String {
    let mut out = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "umd", &mut out);
    String::from_utf8(out).expect("options are text")
}

/// All pages: file name and text.
fn pages() -> Vec<(String, String)> {
    let mut whole = Cli::command();
    whole.build();
    let mut pages = vec![("umd.8".to_owned(), page(&whole, true))];
    for command in whole.get_subcommands().filter(|c| !c.is_hide_set()) {
        let name = format!("umd-{}", command.get_name());
        pages.push((format!("{name}.{SECTION}"), page(command, false)));
    }
    pages
}

fn page(command: &Command, main: bool) -> String {
    let man = Man::new(command.clone())
        .section(SECTION)
        .manual("System Manager's Manual");
    let mut out = Vec::new();
    let rendered = render(&man, main, &mut out);
    rendered.expect("memory takes everything");
    String::from_utf8(out).expect("options are text")
}

fn render(man: &Man, main: bool, out: &mut Vec<u8>) -> io::Result<()> {
    man.render_title(out)?;
    man.render_name_section(out)?;
    man.render_synopsis_section(out)?;
    man.render_description_section(out)?;
    man.render_options_section(out)?;
    if main {
        man.render_subcommands_section(out)?;
    }
    man.render_extra_section(out)?;
    if main {
        exit_status(out)?;
    }
    see_also(main, out)
}

fn exit_status(out: &mut dyn Write) -> io::Result<()> {
    let codes = [
        ("0", "Done."),
        (
            "1",
            "Refused, or failed: one sentence on stderr says what, and what to do.",
        ),
        (
            "2",
            "The command line made no sense, or nothing was changed by `manage --test`.",
        ),
        (
            "4",
            "`detail --test`: the array cannot be read (0 whole, 1 degraded, 2 unusable).",
        ),
    ];
    let mut roff = Roff::new();
    roff.control("SH", ["EXIT STATUS"]);
    for (code, meaning) in codes {
        roff.control("TP", []);
        roff.text([bold(code)]);
        roff.text([roman(meaning)]);
    }
    roff.to_writer(out)
}

fn see_also(main: bool, out: &mut dyn Write) -> io::Result<()> {
    let mut roff = Roff::new();
    roff.control("SH", ["SEE ALSO"]);
    let others = match main {
        true => "md(4), mdadm(8), mdadm.conf(5), nbd-client(8)",
        false => "umd(8), md(4), mdadm(8)",
    };
    roff.text([roman(others)]);
    roff.to_writer(out)
}

/// All units: file name and text, for a program at `program`.
pub fn units(program: &Path) -> Vec<(String, String)> {
    let program = program.display();
    let unit =
        |name: &str, text: &str| (name.to_owned(), text.replace("@UMD@", &program.to_string()));
    vec![
        unit("umd.service", DAEMON),
        unit("umd.socket", DAEMON_SOCKETS),
        unit("umd@.service", SINGLE),
        unit("umd@.socket", SINGLE_SOCKETS),
        unit("umd-monitor.service", MONITOR),
        unit("umd-check@.service", CHECK),
        unit("umd-check@.timer", CHECK_TIMER),
    ]
}

/// The household. What runs when it is restarted runs again afterwards: clients that reconnect go
/// on.
const DAEMON: &str = "\
[Unit]
Description=Linux software RAID in user space
Documentation=man:umd(8)
After=local-fs.target umd.socket
Requires=umd.socket
Before=remote-fs-pre.target

[Service]
Type=notify
# OPTIONS=--nbd tcp:0.0.0.0:10809 --tls /etc/umd/keys
EnvironmentFile=-/etc/default/umd
ExecStart=@UMD@ daemon --keep --runtime-dir /run/umd $OPTIONS
Restart=on-failure
# Doors that OPTIONS asks for outlive the daemon, too.
NotifyAccess=main
FileDescriptorStoreMax=64
# Stopping an array waits for its members.
TimeoutStopSec=15min
LimitMEMLOCK=infinity
LimitNOFILE=65536
NoNewPrivileges=yes

[Install]
WantedBy=multi-user.target
Also=umd.socket
";

/// Its sockets, which stay open when it is restarted, upgraded or killed.
const DAEMON_SOCKETS: &str = "\
[Unit]
Description=Linux software RAID in user space: sockets that outlive the daemon
Documentation=man:umd(8)

[Socket]
ListenStream=/run/umd/control.sock
ListenStream=/run/umd/nbd.sock
# More doors for NBD clients, as --nbd makes them: ListenStream=127.0.0.1:10809
SocketMode=0600
DirectoryMode=0700
RemoveOnStop=yes

[Install]
WantedBy=sockets.target
";

/// One array in a process of its own; /etc/umd/NAME names its devices.
const SINGLE: &str = "\
[Unit]
Description=Linux software RAID in user space: array %i
Documentation=man:umd-serve(8)
After=local-fs.target umd@%i.socket
Requires=umd@%i.socket

[Service]
Type=notify
# DEVICES=/dev/sdb /dev/sdc     OPTIONS=--nbd tcp:127.0.0.1:10809
EnvironmentFile=/etc/umd/%i
ExecStart=@UMD@ serve --runtime-dir /run/umd $OPTIONS %i $DEVICES
Restart=on-failure
NotifyAccess=main
FileDescriptorStoreMax=64
TimeoutStopSec=15min
LimitMEMLOCK=infinity
LimitNOFILE=65536
NoNewPrivileges=yes

[Install]
WantedBy=multi-user.target
Also=umd@%i.socket
";

/// Its door. The control socket is not among them: who only looks at arrays would start one that
/// was stopped.
const SINGLE_SOCKETS: &str = "\
[Unit]
Description=Linux software RAID in user space: door of array %i, which outlives its process
Documentation=man:umd-serve(8)

[Socket]
ListenStream=/run/umd/serve/%i.nbd
SocketMode=0600
DirectoryMode=0700
RemoveOnStop=yes

[Install]
WantedBy=sockets.target
";

/// Mail goes where the configuration file says, and everything to the system log.
const MONITOR: &str = "\
[Unit]
Description=Monitor of software RAID in user space
Documentation=man:umd-monitor(8)
After=umd.service

[Service]
ExecStart=@UMD@ monitor --scan --syslog
Restart=on-failure
NoNewPrivileges=yes

[Install]
WantedBy=multi-user.target
";

/// A check of one array, to its end.
const CHECK: &str = "\
[Unit]
Description=Check of array %i
Documentation=man:umd-action(8)

[Service]
Type=oneshot
ExecStart=@UMD@ action %i check --wait
IOSchedulingClass=idle
Nice=19
";

/// As mdadm does: the first Sunday of a month, at night.
const CHECK_TIMER: &str = "\
[Unit]
Description=Monthly check of array %i

[Timer]
OnCalendar=Sun *-*-1..7 0:45:00
RandomizedDelaySec=1h
Persistent=yes

[Install]
WantedBy=timers.target
";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Runtime;
    use clap::Parser;

    #[test]
    fn every_command_has_a_page_and_every_option_stands_in_it() {
        let pages = pages();
        let whole = Cli::command();
        for command in whole.get_subcommands() {
            let name = format!("umd-{}.8", command.get_name());
            let (_, text) = pages
                .iter()
                .find(|(file, _)| *file == name)
                .expect("a page");
            let options = command.get_arguments().filter(|arg| !arg.is_hide_set());
            for option in options.filter_map(clap::Arg::get_long) {
                let escaped = option.replace('-', "\\-");
                assert!(
                    text.contains(&format!("\\-\\-{escaped}")),
                    "{name}: --{option}"
                );
            }
        }
    }

    #[test]
    fn units_start_commands_that_exist() {
        for (file, text) in units(Path::new("umd")) {
            let starts = text
                .lines()
                .filter_map(|line| line.strip_prefix("ExecStart="));
            for line in starts {
                let line = line.replace("%i", "r5").replace(" $OPTIONS", "");
                let line = line.replace("$DEVICES", "a b");
                let parsed = Cli::try_parse_from(line.split(' '));
                assert!(parsed.is_ok(), "{file}: {line}: {:?}", parsed.err());
            }
        }
    }

    /// A socket that the program does not recognise would be a door where none was wanted.
    #[test]
    fn sockets_of_units_are_where_the_program_looks_for_them() {
        let runtime = Runtime::at(Some(Path::new("/run/umd"))).expect("a runtime directory");
        let all = units(Path::new("umd"));
        let listens = |file: &str| {
            let (_, text) = all.iter().find(|(name, _)| name == file).expect("a unit");
            let lines = text.lines();
            let paths = lines.filter_map(|line| line.strip_prefix("ListenStream="));
            paths.map(PathBuf::from).collect::<Vec<_>>()
        };
        assert_eq!(listens("umd.socket"), [runtime.control(), runtime.nbd()]);
        assert_eq!(listens("umd@.socket"), [runtime.serve_nbd("%i")]);
        for (_, text) in all {
            let mut starts = text.lines().filter(|line| line.starts_with("ExecStart="));
            let needs = text.contains(".socket\n");
            assert!(starts.all(|line| needs == line.contains("--runtime-dir /run/umd")));
        }
    }

    #[test]
    fn completions_know_the_commands() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let text = completions(shell);
            assert!(text.contains("zero-superblock"), "{shell}");
        }
    }
}
