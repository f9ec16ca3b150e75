//! Options of `umd daemon`, and of doors, which `umd serve` has as well.

use std::path::PathBuf;

use clap::Args;

/// Doors of `daemon` and `serve`.
#[derive(Debug, Clone, Default, Args)]
pub struct DoorArgs {
    /// Serve here too: unix:PATH or tcp:HOST:PORT (repeat for several); without --tls, HOST is this
    /// machine
    #[arg(long, value_name = "ADDRESS")]
    pub nbd: Vec<String>,
    /// Over TCP speak TLS only, with ca-cert.pem, server-cert.pem and server-key.pem in DIR, and
    /// let in who shows a certificate that ca-cert.pem has signed
    #[arg(long, value_name = "DIR")]
    pub tls: Option<PathBuf>,
    /// NBD clients need no certificate: who can connect may read and write
    #[arg(long, requires = "tls")]
    pub tls_any_client: bool,
}

/// What `daemon` says last.
const DOORS: &str = "\
With --listen the control API is spoken over TCP as well. Who comes in may do what the owner of the
control socket may: by a certificate that control-ca-cert.pem in the directory of --tls has signed
(that of an NBD client is not enough), or by the token of --token-file, sent as bearer token.
Without --tls it is for this machine only, and takes the token.";

/// `umd daemon`
#[derive(Debug, Clone, Args)]
#[command(after_help = DOORS)]
pub struct DaemonArgs {
    /// End a moment after the last array has been stopped
    #[arg(long)]
    pub linger: bool,
    /// How long that moment is, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 3000, hide = true)]
    pub linger_ms: u64,
    /// Which doors.
    #[command(flatten)]
    pub doors: DoorArgs,
    /// The control API is at HOST:PORT, too (repeat for several); see below
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Vec<String>,
    /// Who knows the token in this file may use the control API at --listen
    #[arg(long, value_name = "FILE", requires = "listen")]
    pub token_file: Option<PathBuf>,
    /// A name that a client opens and no array has is an empty array of size 0 from then on
    #[arg(long)]
    pub create_on_open: bool,
    /// Start arrays with parity although they are unclean and degraded, as md does with its module
    /// parameter of that name
    #[arg(long)]
    pub start_dirty_degraded: bool,
    /// Start what runs when this daemon ends again when the next one starts (it is so in any case
    /// after a crash)
    #[arg(long)]
    pub keep: bool,
    /// Do not start arrays again that had this device
    #[arg(long, value_name = "DEVICE", hide = true)]
    pub leave: Vec<String>,
    /// Report readiness on stdout, then detach from it
    #[arg(long, hide = true)]
    pub report_ready: bool,
}
