//! Options about clusters: of `umd assemble`, and `umd cluster`.

use clap::{Args, Subcommand};

/// An array of a cluster.
#[derive(Debug, Clone, Default, Args)]
pub struct ClusterArgs {
    /// Run it as one node of its cluster, kept of one mind with others by this lock service: etcd,
    /// or memory for an array that no other host runs
    #[arg(long, value_name = "ENGINE")]
    pub cluster_engine: Option<String>,
    /// Where etcd is: http://HOST:PORT, or https://HOST:PORT (repeat for each of its members)
    #[arg(long, value_name = "URL", requires = "cluster_engine")]
    pub cluster_server: Vec<String>,
    /// Speak TLS with etcd: ca-cert.pem in DIR vouches for its members, and client-cert.pem with
    /// client-key.pem is shown to those who ask
    #[arg(long, value_name = "DIR", requires = "cluster_engine")]
    pub cluster_tls: Option<String>,
    /// A file with one line USER:PASSWORD for an etcd that asks for it; only its owner may be able
    /// to read it
    #[arg(long, value_name = "FILE", requires = "cluster_engine")]
    pub cluster_login: Option<String>,
    /// The name of this host in its cluster, as the fence agent knows it [default: host name]
    #[arg(long, value_name = "NAME", requires = "cluster_engine")]
    pub cluster_node: Option<String>,
    /// A fence agent, which is asked to switch off the host of a node that died
    #[arg(long, value_name = "PROGRAM", requires = "cluster_engine")]
    pub cluster_fence: Option<String>,
    /// Fence by persistent reservations of every member (SCSI disks, and exports of umd)
    #[arg(long, requires = "cluster_engine")]
    pub cluster_reservations: bool,
    /// Let a watchdog reset this host when its session is lost [default: /dev/watchdog]
    #[arg(long, value_name = "DEVICE", requires = "cluster_engine", num_args = 0..=1,
          require_equals = true, default_missing_value = crate::daemon::cluster::WATCHDOG)]
    pub cluster_watchdog: Option<String>,
    /// The name of the cluster [default: HOMECLUSTER of mdadm.conf]
    #[arg(long, value_name = "NAME", requires = "cluster_engine")]
    pub home_cluster: Option<String>,
}

/// `umd cluster WHAT ...`
#[derive(Debug, Clone, Args)]
pub struct ClusterCommandArgs {
    /// What.
    #[command(subcommand)]
    pub what: ClusterCommand,
}

/// A key, and where it is to be.
#[derive(Debug, Clone, Args)]
pub struct KeyArgs {
    /// An array that is served here, or nbd://HOST/EXPORT of another umd
    #[arg(value_name = "EXPORT")]
    pub export: String,
    /// The key: one to sixteen hexadecimal digits, not zero
    #[arg(value_name = "KEY")]
    pub key: String,
}

/// What can be told a clustered array, or what its members are served by.
#[derive(Debug, Clone, Subcommand)]
pub enum ClusterCommand {
    /// Say that a node is dead for certain: others take its bitmap over and write again. A wrong
    /// word destroys data: two hosts would write without knowing of each other
    ConfirmDead {
        /// The array
        #[arg(value_name = "ARRAY")]
        array: String,
        /// The number of the node, as `umd detail` shows it
        #[arg(value_name = "NODE")]
        node: u16,
    },
    /// Show which keys may write to an array that is served here, or to an export of another umd
    Reservations {
        /// The array, or nbd://HOST/EXPORT
        #[arg(value_name = "EXPORT")]
        export: String,
        /// Print a JSON document
        #[arg(long)]
        json: bool,
    },
    /// Register a key there
    Register(KeyArgs),
    /// End the registration of a key there; with the last one everybody may write
    Unregister(KeyArgs),
    /// Let only those write who are registered, until nobody is
    Reserve(KeyArgs),
    /// Take the registration of a host that is dead away, for good. When this returns nothing that
    /// it wrote is under way any more, and nothing ever will be
    Preempt {
        /// Whose, and where
        #[command(flatten)]
        by: KeyArgs,
        /// The key that is taken away
        #[arg(value_name = "VICTIM")]
        victim: String,
    },
    /// Forget all keys of an array that is served here: whoever was cut off may write again. Do
    /// that only when no host of a cluster uses it
    ClearReservations {
        /// The array
        #[arg(value_name = "ARRAY")]
        array: String,
    },
}
