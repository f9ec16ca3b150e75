//! The command line: one item per option, mdadm's names and letters wherever mdadm has them.
//!
//! Values are taken as text here and read in `values`, because mdadm's own words for a wrong one
//! (`invalid raid level: 17`) are what scripts look for.

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand};

use super::args_cluster::{ClusterArgs, ClusterCommandArgs};
use super::args_daemon::{DaemonArgs, DoorArgs};
use super::args_incremental::IncrementalArgs;
use super::args_monitor::MonitorArgs;
use super::args_state::ArrayStateArgs;
use super::generate::GenerateArgs;

/// Linux software RAID (md) in user space.
#[derive(Debug, Parser)]
#[command(
    name = "umd",
    version,
    disable_version_flag = true,
    max_term_width = 100
)]
#[command(after_help = PLACES)]
pub struct Cli {
    /// Options every command has.
    #[command(flatten)]
    pub common: Common,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Over the options every command has, so that they do not stand among its own.
const COMMON: &str = "Options of every command";

/// Where everything is.
const PLACES: &str = "\
The daemon's sockets and log are in $XDG_RUNTIME_DIR/umd; without that variable in /run/umd for
root, in /tmp/umd-UID for others; or where --runtime-dir says:
  nbd.sock      all running arrays, as NBD exports by their names
  control.sock  HTTP and JSON, for programs
  log           what the daemon had to say since it started
  serve/        the sockets of each `umd serve`

mdadm's own ways work too: `umd --create ...`, `umd -E a.img`,
`umd r5 --fail b.img --remove b.img --add c.img`.";

/// Where writes to an overlay go, and how to come back to them.
const OVERLAY: &str = "\
With --overlay every write goes to DIR, which is made if need be: two files for each device,
NAME-HASH.cow with the data and NAME-HASH.map. The next start with the same DIR sees these writes
again. Without --overlay, or after DIR was removed, the devices are what they were.";

/// What `assemble` says last.
const UPDATES: &str = "\
With --update the superblocks of all devices are changed before the array starts, or none if one of
them cannot be:
  name                  the stored name becomes that of --name
  uuid                  the UUID becomes that of --uuid, or a random one
  homehost              the host in the name (1.x) or in the UUID (0.90)
  resync                redundancy is made right again
  no-bitmap             the bitmap is given up
  cluster=NAME          an array becomes one of that cluster, for --nodes hosts; without
                        --cluster-engine it is only written, and not started
  no-cluster=NAME       an array of that cluster becomes a plain one of this host
  bbl, no-bbl           with a bad-block log, without
  devicesize            all of a device that has grown is used (1.1, 1.2)
  layout-original, layout-alternate, layout-unspecified
                        how a raid0 of devices that differ in size is laid out
  lbs=BYTES             the logical block size that kernels from 6.19 store; 0 takes it out
  metadata              0.90 becomes 1.0
  summaries, super-minor, byteorder
                        what only 0.90 has

With --overlay every write goes to DIR, which is made if need be: two files for each device,
NAME-HASH.cow with the data and NAME-HASH.map. The next start with the same DIR sees these writes
again. Without --overlay, or after DIR was removed, the devices are what they were.";

/// Options every command has.
#[derive(Debug, Clone, Args)]
pub struct Common {
    /// Sockets and log are here [default: $XDG_RUNTIME_DIR/umd, else /run/umd (root), /tmp/umd-UID]
    #[arg(long, global = true, value_name = "DIR", help_heading = COMMON)]
    pub runtime_dir: Option<PathBuf>,
    /// Say more
    #[arg(short, long, global = true, action = ArgAction::Count, help_heading = COMMON)]
    pub verbose: u8,
    /// Say less
    #[arg(short, long, global = true, help_heading = COMMON)]
    pub quiet: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a new array and start it
    Create(Box<CreateArgs>),
    /// Start an array of devices without superblocks; nothing about it is written down
    Build(Box<BuildArgs>),
    /// Start an existing array, made by the kernel or by umd
    Assemble(Box<AssembleArgs>),
    /// Take members as they appear, and start their arrays when they are complete
    Incremental(IncrementalArgs),
    /// Tell of what happens to arrays: by a program, by mail, in the system log
    Monitor(Box<MonitorArgs>),
    /// Run one array in the foreground, in this process
    Serve(ServeArgs),
    /// Show a running array
    Detail(DetailArgs),
    /// Show what is written on a member
    Examine(ExamineArgs),
    /// Show the bad blocks that a member's log names
    ExamineBadblocks(ExamineBadblocksArgs),
    /// Show all running arrays as /proc/mdstat does
    Mdstat(MdstatArgs),
    /// Show all running arrays as files in a directory: /proc/mdstat, sysfs and the bytes
    Mount(super::mount::MountArgs),
    /// Tell in a line what something is
    Query(QueryArgs),
    /// Fail, remove and add members of a running array
    Manage(ManageArgs),
    /// Change what a running array is made with: bitmap, level, layout, number of devices, size
    Grow(GrowArgs),
    /// Start or stop a check, repair, resync or recovery
    Action(ActionArgs),
    /// Wait until a resync, recovery or check has ended
    Wait(WaitArgs),
    /// Stop an array
    Stop(StopArgs),
    /// Show the state of an array in md's words, or change it
    ArrayState(ArrayStateArgs),
    /// Say what only an administrator can know of a clustered array
    Cluster(ClusterCommandArgs),
    /// Erase the md superblock of devices
    ZeroSuperblock(ZeroArgs),
    /// Run the arrays of all other commands (they start it by themselves)
    Daemon(DaemonArgs),
    /// Show the main job on image files: make, serve, lose a member, rebuild, check
    Demo(DemoArgs),
    /// Open a page for browsers on this machine: arrays, health, progress, maps, actions
    Web(WebArgs),
    /// Make man pages, shell completions, systemd units
    Generate(GenerateArgs),
    /// Print the version
    Version(VersionArgs),
}

/// `umd create NAME -l LEVEL -n COUNT DEVICE...`
#[derive(Debug, Clone, Args)]
#[command(override_usage = "umd create NAME -l LEVEL -n COUNT [OPTIONS] DEVICE...")]
pub struct CreateArgs {
    /// Name of the array, then its devices (`missing` for one that is not there)
    #[arg(value_name = "NAME DEVICE")]
    pub targets: Vec<String>,
    /// Level: 0, 1, 4, 5, 6, 10, linear, faulty (or raid0, stripe, mirror, ...)
    #[arg(short, long)]
    pub level: Option<String>,
    /// Number of active devices
    #[arg(short = 'n', long, value_name = "COUNT")]
    pub raid_devices: Option<String>,
    /// Number of spares
    #[arg(short = 'x', long, value_name = "COUNT")]
    pub spare_devices: Option<String>,
    /// Chunk size [default: 512K]; of linear: members are cut to a multiple of it [default: none]
    #[arg(short, long, value_name = "SIZE", visible_alias = "rounding")]
    pub chunk: Option<String>,
    /// Size used of each device; files that do not exist are made large enough
    #[arg(short = 'z', long)]
    pub size: Option<String>,
    /// Layout, such as left-symmetric (ls); n2, f2, o2 for raid10
    #[arg(short = 'p', long, visible_alias = "parity")]
    pub layout: Option<String>,
    /// Metadata version: 0.90, 1.0, 1.1, 1.2 [default: what CREATE in mdadm.conf says, or 1.2]
    #[arg(short = 'e', long, value_name = "VERSION")]
    pub metadata: Option<String>,
    /// Write-intent bitmap: internal, lockless, clustered, none, or a file for it (a path with a
    /// / in it)
    #[arg(short, long)]
    pub bitmap: Option<String>,
    /// How many hosts can run it at the same time (with --bitmap=clustered) [default: 4]
    #[arg(long, value_name = "COUNT")]
    pub nodes: Option<String>,
    /// The name of their cluster [default: HOMECLUSTER of mdadm.conf]
    #[arg(long, value_name = "NAME")]
    pub home_cluster: Option<String>,
    /// Size of what one bit of the bitmap covers
    #[arg(long, value_name = "SIZE")]
    pub bitmap_chunk: Option<String>,
    /// What keeps the array consistent: resync or bitmap
    #[arg(short = 'k', long, value_name = "POLICY")]
    pub consistency_policy: Option<String>,
    /// Where data begins on each device
    #[arg(long, value_name = "SIZE")]
    pub data_offset: Option<String>,
    /// Name to store [default: HOST:NAME]
    #[arg(short = 'N', long)]
    pub name: Option<String>,
    /// Array UUID to store [default: random]
    #[arg(short, long)]
    pub uuid: Option<String>,
    /// Host to store with the name, or none
    #[arg(long, value_name = "HOST")]
    pub homehost: Option<String>,
    /// Reserve a bad-block log: yes or no
    #[arg(long, value_name = "yes|no", hide = true)]
    pub bbl: Option<String>,
    /// Read this configuration file for CREATE and HOMEHOST (none: no file)
    #[arg(long, value_name = "FILE")]
    pub config: Option<String>,
    /// The devices are in sync already (or all zeros): no first resync
    #[arg(long)]
    pub assume_clean: bool,
    /// Devices named after this are read from only when there is no other way
    #[arg(short = 'W', long, num_args = 0, default_missing_value = "")]
    pub write_mostly: Vec<String>,
    /// Devices named after this are given up at the first trouble, while another mirror is there
    #[arg(long, num_args = 0, default_missing_value = "")]
    pub failfast: Vec<String>,
    /// Devices named after this are not
    #[arg(long, num_args = 0, default_missing_value = "")]
    pub nofailfast: Vec<String>,
    /// Let up to N writes lag on write-mostly devices of a RAID1 (needs --bitmap=internal)
    #[arg(long, value_name = "N", num_args = 0..=1, require_equals = true,
          default_missing_value = "256")]
    pub write_behind: Option<String>,
    /// Seconds between sweeps that clear bits of the bitmap (needs --bitmap=internal; 5)
    #[arg(short, long, value_name = "SECONDS")]
    pub delay: Option<String>,
    /// Write over what is on this device (repeat for each)
    #[arg(long, value_name = "PATH")]
    pub destroy: Vec<String>,
    /// Write over what is on any of the devices
    #[arg(short, long)]
    pub force: bool,
    /// Do not ask
    #[arg(short = 'R', long, visible_alias = "yes")]
    pub run: bool,
    /// Start the array read-only
    #[arg(short = 'o', long)]
    pub readonly: bool,
    /// Show what would be written where, and write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// How member I/O is done: auto, io_uring, sync, threads, memory
    #[arg(long, value_name = "ENGINE")]
    pub io_engine: Option<String>,
    /// Print a JSON document
    #[arg(long)]
    pub json: bool,
}

/// `umd build NAME -l LEVEL -n COUNT DEVICE...`
#[derive(Debug, Clone, Args)]
#[command(override_usage = "umd build NAME -l LEVEL -n COUNT [OPTIONS] DEVICE...")]
pub struct BuildArgs {
    /// Name of the array, then its devices (`missing` for one that is not there)
    #[arg(value_name = "NAME DEVICE")]
    pub targets: Vec<String>,
    /// Level: 0, 1, 10, linear, faulty
    #[arg(short, long)]
    pub level: Option<String>,
    /// Number of devices
    #[arg(short = 'n', long, value_name = "COUNT")]
    pub raid_devices: Option<String>,
    /// Chunk size, or rounding of linear [default: 64K]
    #[arg(short, long, value_name = "SIZE", visible_alias = "rounding")]
    pub chunk: Option<String>,
    /// Size used of each device
    #[arg(short = 'z', long)]
    pub size: Option<String>,
    /// Layout: n2, f2, o2 for raid10; original or alternate for raid0 of devices that differ; which
    /// requests fail for faulty: wt, rt, wp, rp, wa, rf, and every how many (rt100)
    #[arg(short = 'p', long, visible_alias = "parity")]
    pub layout: Option<String>,
    /// The devices are in sync already: no first resync
    #[arg(long)]
    pub assume_clean: bool,
    /// The file that holds the bitmap; it is made when it is not there
    #[arg(short, long, value_name = "FILE")]
    pub bitmap: Option<String>,
    /// Size of what one bit of the bitmap covers
    #[arg(long, value_name = "SIZE")]
    pub bitmap_chunk: Option<String>,
    /// Devices named after this are read from only when there is no other way
    #[arg(short = 'W', long, num_args = 0, default_missing_value = "")]
    pub write_mostly: Vec<String>,
    /// Devices named after this are given up at the first trouble, while another mirror is there
    #[arg(long, num_args = 0, default_missing_value = "")]
    pub failfast: Vec<String>,
    /// Devices named after this are not
    #[arg(long, num_args = 0, default_missing_value = "")]
    pub nofailfast: Vec<String>,
    /// Use devices although they carry md superblocks
    #[arg(short, long)]
    pub force: bool,
    /// Do not ask (nothing is asked)
    #[arg(short = 'R', long, visible_alias = "yes", hide = true)]
    pub run: bool,
    /// Start the array read-only
    #[arg(short = 'o', long)]
    pub readonly: bool,
    /// Show what would be started
    #[arg(long)]
    pub dry_run: bool,
    /// How member I/O is done: auto, io_uring, sync, threads, memory
    #[arg(long, value_name = "ENGINE")]
    pub io_engine: Option<String>,
    /// Print a JSON document
    #[arg(long)]
    pub json: bool,
}

/// What `assemble` and `serve` share.
#[derive(Debug, Clone, Args)]
pub struct StartArgs {
    /// Name to run under (may be left out), then the devices
    #[arg(value_name = "[NAME] DEVICE")]
    pub targets: Vec<String>,
    /// Only devices of the array with this UUID
    #[arg(short, long)]
    pub uuid: Option<String>,
    /// Only devices of the array with this stored name
    #[arg(short = 'N', long)]
    pub name: Option<String>,
    /// Start although members are stale or the array is unclean and degraded
    #[arg(short, long)]
    pub force: bool,
    /// Start although members are missing that were there last time
    #[arg(short = 'R', long)]
    pub run: bool,
    /// Start although the array is unclean and degraded, but with no stale member
    #[arg(long)]
    pub start_dirty_degraded: bool,
    /// Start read-only
    #[arg(short = 'o', long)]
    pub readonly: bool,
    /// Start read-only until something is written (md's auto-read-only)
    #[arg(long, conflicts_with = "readonly")]
    pub read_auto: bool,
    /// The file that holds the array's bitmap
    #[arg(short, long, value_name = "FILE")]
    pub bitmap: Option<String>,
    /// Leave the devices untouched: writes go to copy-on-write files in DIR, see below
    #[arg(long, value_name = "DIR")]
    pub overlay: Option<PathBuf>,
    /// How member I/O is done: auto, io_uring, sync, threads, memory
    #[arg(long, value_name = "ENGINE")]
    pub io_engine: Option<String>,
    /// Make member I/O fail, for tests: MEMBER:RULE
    #[arg(long, value_name = "SPEC", hide = true)]
    pub fault: Vec<String>,
}

/// `umd assemble [NAME] DEVICE...`
#[derive(Debug, Clone, Args)]
#[command(override_usage = "umd assemble [OPTIONS] [NAME] DEVICE...", after_help = UPDATES)]
pub struct AssembleArgs {
    /// Which array, and how.
    #[command(flatten)]
    pub start: StartArgs,
    /// Start every array that is found on the devices given, or without any: every array of the
    /// configuration file, and what else is found on the devices it names
    #[arg(short, long)]
    pub scan: bool,
    /// Read this configuration file (or the *.conf of this directory; none: no file)
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<String>,
    /// Do not start with fewer devices than last time
    #[arg(long)]
    pub no_degraded: bool,
    /// Ask for members of this metadata version only
    #[arg(short = 'e', long, value_name = "VERSION")]
    pub metadata: Option<String>,
    /// Change the superblocks of all members first; see below
    #[arg(short = 'U', long, value_name = "WHAT")]
    pub update: Option<String>,
    /// With --update=cluster=NAME: how many hosts can run it at the same time [default: 4]
    #[arg(long, value_name = "N")]
    pub nodes: Option<String>,
    /// With --update=name, homehost or metadata: the host to store
    #[arg(long, value_name = "HOST")]
    pub homehost: Option<String>,
    /// How it is run as one node of a cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// Show what would be started and written, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Print a JSON document
    #[arg(long)]
    pub json: bool,
}

/// `umd serve NAME DEVICE... [--nbd ADDRESS]`
#[derive(Debug, Clone, Args)]
#[command(override_usage = "umd serve [OPTIONS] [NAME] DEVICE...", after_help = OVERLAY)]
pub struct ServeArgs {
    /// Which array, and how.
    #[command(flatten)]
    pub start: StartArgs,
    /// Which doors.
    #[command(flatten)]
    pub doors: DoorArgs,
}

/// `umd detail NAME...`
#[derive(Debug, Clone, Args)]
pub struct DetailArgs {
    /// Arrays
    #[arg(value_name = "NAME")]
    pub arrays: Vec<String>,
    /// All running arrays, one line each
    #[arg(short, long)]
    pub scan: bool,
    /// One line, for a configuration file
    #[arg(short, long)]
    pub brief: bool,
    /// KEY=value lines
    #[arg(short = 'Y', long)]
    pub export: bool,
    /// Read this configuration file (or the *.conf of this directory; none: no file)
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<String>,
    /// Exit with 0 whole, 1 degraded, 2 unusable, 4 unreadable
    #[arg(short, long)]
    pub test: bool,
    /// Print a JSON document
    #[arg(long)]
    pub json: bool,
}

/// `umd examine DEVICE...`
#[derive(Debug, Clone, Args)]
pub struct ExamineArgs {
    /// Devices
    #[arg(value_name = "DEVICE")]
    pub devices: Vec<String>,
    /// One entry per array, for a configuration file
    #[arg(short, long)]
    pub brief: bool,
    /// The same, leaving out devices that are no members; without devices those of the
    /// configuration file
    #[arg(short, long)]
    pub scan: bool,
    /// Read this configuration file (or the *.conf of this directory; none: no file)
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<String>,
    /// KEY=value lines
    #[arg(short = 'Y', long)]
    pub export: bool,
    /// Look for this metadata version only
    #[arg(short = 'e', long, value_name = "VERSION")]
    pub metadata: Option<String>,
    /// Show the write-intent bitmaps
    #[arg(long)]
    pub bitmap: bool,
    /// Print a JSON document
    #[arg(long)]
    pub json: bool,
}

/// `umd examine-badblocks DEVICE...`
#[derive(Debug, Clone, Args)]
pub struct ExamineBadblocksArgs {
    /// Devices
    #[arg(value_name = "DEVICE")]
    pub devices: Vec<String>,
}

/// `umd mdstat`
#[derive(Debug, Clone, Args)]
pub struct MdstatArgs {
    /// Print a JSON document
    #[arg(long)]
    pub json: bool,
}

/// `umd query NAME|DEVICE...`
#[derive(Debug, Clone, Args)]
pub struct QueryArgs {
    /// Arrays or devices
    #[arg(value_name = "NAME|DEVICE")]
    pub targets: Vec<String>,
    /// Print a JSON document
    #[arg(long)]
    pub json: bool,
}

/// `umd manage NAME --fail DEVICE --remove DEVICE --add DEVICE`
///
/// The order of the operations on the command line is the order in which they are done. As in
/// mdadm, an operation is for the devices behind it up to the next operation, and other options
/// may stand between: `--add --force DEVICE`. That is why an operation may be given no value here;
/// `change::steps` reads the words in their order.
#[derive(Debug, Clone, Args)]
#[command(
    override_usage = "umd manage NAME [--fail DEVICE...] [--remove DEVICE...] [--add DEVICE...] \
    [OPTIONS]",
    after_help = "\
These are done in the order in which they are typed. Other options may stand anywhere:
  umd manage r5 --fail b.img --remove b.img --add --force c.img
Words for --remove instead of devices: failed (all faulty members), detached (those whose file is
gone).
--write-mostly, --readwrite, --failfast and --nofailfast are for the devices behind them: those that
are put in, and members that stand behind no operation, whose flags are switched while they serve:
  umd manage r1 --write-mostly b.img"
)]
pub struct ManageArgs {
    /// The array
    #[arg(value_name = "NAME")]
    pub targets: Vec<String>,
    /// Mark members faulty
    #[arg(
        short,
        long,
        visible_alias = "set-faulty",
        num_args = 0..,
        default_missing_value = "",
        value_name = "DEVICE",
    )]
    pub fail: Vec<String>,
    /// Take faulty or spare members out (or `failed`: all faulty ones)
    #[arg(
        short,
        long,
        num_args = 0..,
        default_missing_value = "",
        value_name = "DEVICE",
    )]
    pub remove: Vec<String>,
    /// Put devices in: rebuilt at once if a slot is empty, otherwise spares
    #[arg(
        short,
        long,
        num_args = 0..,
        default_missing_value = "",
        value_name = "DEVICE",
    )]
    pub add: Vec<String>,
    /// Put members back that were here before and missed little
    #[arg(
        long,
        num_args = 0..,
        default_missing_value = "",
        value_name = "DEVICE",
    )]
    pub re_add: Vec<String>,
    /// Replace members while they serve: a spare is filled, then takes the place
    #[arg(
        long,
        num_args = 0..,
        default_missing_value = "",
        value_name = "DEVICE",
    )]
    pub replace: Vec<String>,
    /// The spares to replace them with, in the same order
    #[arg(
        long,
        num_args = 0..,
        default_missing_value = "",
        value_name = "DEVICE",
    )]
    pub with: Vec<String>,
    /// Switch to read-only
    #[arg(short = 'o', long)]
    pub readonly: bool,
    /// Switch to read-write; before devices: they are not write-mostly
    #[arg(short = 'w', long, num_args = 0, default_missing_value = "")]
    pub readwrite: Vec<String>,
    /// Start an array that was assembled but not started, with the members it has
    #[arg(short = 'R', long)]
    pub run: bool,
    /// Devices named after this are read from only when there is no other way
    #[arg(short = 'W', long, num_args = 0, default_missing_value = "")]
    pub write_mostly: Vec<String>,
    /// Devices named after this are given up at the first trouble, while another mirror is there
    #[arg(long, num_args = 0, default_missing_value = "")]
    pub failfast: Vec<String>,
    /// Devices named after this are not
    #[arg(long, num_args = 0, default_missing_value = "")]
    pub nofailfast: Vec<String>,
    /// Add a device although it carries data
    #[arg(long)]
    pub force: bool,
    /// With --add: read this configuration file (CREATE bbl=no: no bad-block log; none: no file)
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<String>,
    /// Exit with 0 if anything changed, 2 if nothing
    #[arg(short, long)]
    pub test: bool,
    /// Show what would be written where, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Print the array as a JSON document afterwards
    #[arg(long)]
    pub json: bool,
}

/// `umd grow NAME --bitmap=none`, `umd grow NAME --layout=rt100`
#[derive(Debug, Clone, Args)]
#[command(
    override_usage = "umd grow NAME --bitmap=internal|none|/path/file [OPTIONS]\n       \
                            umd grow NAME --bitmap=clustered --cluster-engine=ENGINE ...\n       \
                            umd grow NAME --bitmap-chunk=SIZE [OPTIONS]\n       \
                            umd grow NAME --level=LEVEL [--layout=LAYOUT] [--add DEV...]\n       \
                            umd grow NAME --raid-devices=COUNT [--add DEV...]\n       \
                            umd grow NAME --layout=LAYOUT|MODE [OPTIONS]"
)]
pub struct GrowArgs {
    /// The array, and with --add the devices that are put in
    #[arg(value_name = "NAME")]
    pub targets: Vec<String>,
    /// Put the devices in that follow, for the new level or the new number of devices
    #[arg(short, long)]
    pub add: bool,
    /// Write-intent bitmap: internal, none, or a file (a path with a '/'; it is named again with
    /// each assemble). clustered: it becomes an array of a cluster; one that is becomes a plain one
    /// with internal or none
    #[arg(short, long)]
    pub bitmap: Option<String>,
    /// Size of what one bit of the bitmap covers
    #[arg(long, value_name = "SIZE")]
    pub bitmap_chunk: Option<String>,
    /// How many hosts can run it at the same time (with --bitmap=clustered) [default: 4]
    #[arg(long, value_name = "N")]
    pub nodes: Option<String>,
    /// With --bitmap=clustered: how this host runs it as a node.
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// Let up to N writes lag on write-mostly devices of a RAID1 (with the new bitmap)
    #[arg(long, value_name = "N", num_args = 0..=1, require_equals = true,
          default_missing_value = "256")]
    pub write_behind: Option<String>,
    /// Write over a bitmap file that is there already; take a level, or a number of devices, with
    /// fewer than it needs
    #[arg(short, long)]
    pub force: bool,
    /// How many devices a raid1 is to have, more or fewer. With --level: to be sure
    #[arg(short = 'n', long, visible_alias = "raid-disks", value_name = "COUNT")]
    pub raid_devices: Option<String>,
    /// The level it is to have: 0, 4, 5 or 6
    #[arg(short, long)]
    pub level: Option<String>,
    /// How much of each member an array of a cluster is to use, on all its hosts: 100G, or max for
    /// as much as there is
    #[arg(short = 'z', long, value_name = "SIZE|max")]
    pub size: Option<String>,
    /// Not there yet
    #[arg(short, long, hide = true)]
    pub chunk: Option<String>,
    /// The layout it is to have (left-symmetric, parity-last, left-symmetric-6 ...; preserve: the
    /// one in which nothing is moved). Or one more way in which level faulty fails: wt, rt, wp, rp,
    /// rf, wa, and a period (rt100); clear ends all, flush forgets places that are bad
    #[arg(short = 'p', long, visible_alias = "parity", value_name = "LAYOUT")]
    pub layout: Option<String>,
    /// Not there yet
    #[arg(short = 'k', long, hide = true)]
    pub consistency_policy: Option<String>,
    /// Show what would be written where, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Print the array as a JSON document afterwards
    #[arg(long)]
    pub json: bool,
}

/// `umd action NAME check`
#[derive(Debug, Clone, Args)]
pub struct ActionArgs {
    /// The array
    #[arg(value_name = "NAME")]
    pub array: String,
    /// check, repair, resync, recover, reshape, idle or frozen; the current one is printed without
    /// it
    #[arg(value_name = "ACTION")]
    pub action: Option<String>,
    /// What a repair believes where members differ: the others, where they show that one is wrong
    /// (RAID6, three mirrors), or data and the first mirror, as md does [default: others]
    #[arg(long, value_name = "others|parity")]
    pub repair: Option<String>,
    /// Begin a check or repair here (sync_min): 64M, or 131072s for sectors, of each member, or of
    /// a RAID10 as a whole
    #[arg(long, value_name = "SIZE")]
    pub from: Option<String>,
    /// Wait here (sync_max), whatever runs, until this is raised; max is the end
    #[arg(long, value_name = "SIZE|max")]
    pub to: Option<String>,
    /// While hosts work, go on at this speed (sync_speed_min), KiB/s or 10M; system is the default
    #[arg(long, value_name = "SPEED|system")]
    pub speed_min: Option<String>,
    /// Never go faster than this (sync_speed_max), KiB/s or 100M; system is the default
    #[arg(long, value_name = "SPEED|system")]
    pub speed_max: Option<String>,
    /// Wait until it has ended, or waits at --to
    #[arg(short = 'W', long)]
    pub wait: bool,
    /// Print a JSON document
    #[arg(long)]
    pub json: bool,
}

/// `umd wait NAME...`
#[derive(Debug, Clone, Args)]
pub struct WaitArgs {
    /// Arrays
    #[arg(value_name = "NAME")]
    pub arrays: Vec<String>,
    /// All running arrays
    #[arg(short, long)]
    pub scan: bool,
    /// Print a JSON document
    #[arg(long)]
    pub json: bool,
}

/// `umd stop NAME...`
#[derive(Debug, Clone, Args)]
pub struct StopArgs {
    /// Arrays
    #[arg(value_name = "NAME")]
    pub arrays: Vec<String>,
    /// Also when somebody has it open: the doors are closed first
    #[arg(short, long)]
    pub force: bool,
    /// All running arrays
    #[arg(short, long)]
    pub scan: bool,
    /// Show what would be written where, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Print a JSON document
    #[arg(long)]
    pub json: bool,
}

/// `umd zero-superblock DEVICE...`
#[derive(Debug, Clone, Args)]
pub struct ZeroArgs {
    /// Devices
    #[arg(value_name = "DEVICE")]
    pub devices: Vec<String>,
    /// Erase a damaged superblock too
    #[arg(short, long)]
    pub force: bool,
    /// Erase this metadata version only
    #[arg(short = 'e', long, value_name = "VERSION")]
    pub metadata: Option<String>,
    /// Show what would be written where, and write nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// `umd web [ADDRESS]`
#[derive(Debug, Clone, Args)]
pub struct WebArgs {
    /// HOST:PORT of this machine; port 0 is any that is free
    #[arg(default_value = "127.0.0.1:0", value_name = "ADDRESS")]
    pub address: String,
}

/// `umd demo [DIR]`
#[derive(Debug, Clone, Args)]
pub struct DemoArgs {
    /// Where the image files go
    #[arg(default_value = "umd-demo", value_name = "DIR")]
    pub dir: PathBuf,
    /// Size of each image
    #[arg(long, default_value = "64M", value_name = "SIZE")]
    pub size: String,
}

/// `umd version`
#[derive(Debug, Clone, Args)]
pub struct VersionArgs {
    /// Print a JSON document
    #[arg(long)]
    pub json: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn shorts_combine_and_values_stick() {
        let cli = Cli::try_parse_from(["umd", "create", "-vfR", "r5", "-l5", "-n", "3", "a", "b"])
            .expect("parses");
        let Command::Create(args) = cli.command else {
            panic!("create expected");
        };
        assert!(args.force && args.run && cli.common.verbose == 1);
        assert_eq!(args.level.as_deref(), Some("5"));
        assert_eq!(args.targets, ["r5", "a", "b"]);
    }
}
