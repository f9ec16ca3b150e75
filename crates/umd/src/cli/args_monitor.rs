//! Options of `umd monitor`.

use std::path::PathBuf;

use clap::Args;

/// `umd monitor --scan`
#[derive(Debug, Clone, Args)]
#[command(
    override_usage = "umd monitor [OPTIONS] NAME...\n       umd monitor --scan [OPTIONS]",
    after_help = "\
Events: DeviceDisappeared, RebuildStarted, RebuildNN, RebuildFinished, Fail, FailSpare, SpareActive,
NewArray, DegradedArray, MoveSpare, SparesMissing, TestMessage. The program is run with the event,
the array and, where there is one, the member. Mail is sent for Fail, FailSpare, DegradedArray,
SparesMissing and TestMessage, through sendmail (or what $UMD_SENDMAIL names)."
)]
pub struct MonitorArgs {
    /// Arrays; --scan is all
    #[arg(value_name = "NAME")]
    pub arrays: Vec<String>,
    /// All arrays, also those that start later
    #[arg(short, long)]
    pub scan: bool,
    /// Send mail to this address [default: MAILADDR of the configuration file]
    #[arg(short, long, value_name = "ADDRESS")]
    pub mail: Option<String>,
    /// Run this program for each event [default: PROGRAM of the configuration file]
    #[arg(short, long, value_name = "PROGRAM", visible_alias = "alert")]
    pub program: Option<String>,
    /// Write events to the system log
    #[arg(short = 'y', long)]
    pub syslog: bool,
    /// Seconds between looks at arrays [default: MONITORDELAY, or 60]
    #[arg(short, long, value_name = "SECONDS")]
    pub delay: Option<String>,
    /// Tell how far a rebuild is every so many percent
    #[arg(short = 'r', long, value_name = "PERCENT", default_value = "20")]
    pub increment: String,
    /// Run in the background; its process number is printed
    #[arg(short = 'f', long, visible_alias = "daemonize")]
    pub daemonise: bool,
    /// Write the process number to this file
    #[arg(short = 'i', long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Look once, and end
    #[arg(short = '1', long)]
    pub oneshot: bool,
    /// Begin with a TestMessage for each array
    #[arg(short, long)]
    pub test: bool,
    /// Do not move spares between arrays of one spare-group or POLICY domain, as --scan does
    #[arg(long)]
    pub no_sharing: bool,
    /// Read this configuration file (or the *.conf of this directory; none: no file)
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<String>,
    /// Leave the session of whoever started it
    #[arg(long, hide = true)]
    pub detached: bool,
}
