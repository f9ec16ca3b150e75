//! Options of `umd incremental`.

use clap::Args;

/// `umd incremental DEVICE`
#[derive(Debug, Clone, Args)]
#[command(
    override_usage = "umd incremental [--run] [--export] DEVICE\n       \
                      umd incremental --run --scan\n       \
                      umd incremental --fail DEVICE",
    after_help = "\
Members are handed over one by one, as they appear. Their array is started when all are here that
were there last time, or with --run as soon as it can be. Until then it is `inactive`, and its
members stay locked; `umd stop NAME` lets them go."
)]
pub struct IncrementalArgs {
    /// The device
    #[arg(value_name = "DEVICE")]
    pub devices: Vec<String>,
    /// Start the array as soon as it can be started; add the device to one that runs
    #[arg(short = 'R', long)]
    pub run: bool,
    /// With --run: start every array that waits
    #[arg(short, long)]
    pub scan: bool,
    /// The device has gone: it is failed and taken out
    #[arg(short, long)]
    pub fail: bool,
    /// KEY=value lines
    #[arg(short = 'Y', long)]
    pub export: bool,
    /// Find out again which arrays there are (they are known at any time: nothing is done)
    #[arg(short, long)]
    pub rebuild_map: bool,
    /// Read this configuration file (or the *.conf of this directory; none: no file)
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<String>,
    /// Where the device is attached (nothing is done with it)
    #[arg(long, value_name = "PATH", hide = true)]
    pub path: Option<String>,
    /// Print a JSON document
    #[arg(long)]
    pub json: bool,
}
