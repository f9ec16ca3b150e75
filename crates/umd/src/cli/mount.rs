//! `umd mount`.

use std::path::PathBuf;

use clap::Args;

use super::outcome::Outcome;
use super::reach::Reach;
use crate::mount::{Wishes, mount};

/// `umd mount DIR`
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
DIR then has what tools look for:
  proc/mdstat            as `umd mdstat` prints it
  sys/block/NAME/md/     md's attributes, to read and to write: echo check > .../sync_action
  dev/NAME               the bytes of the array: mkfs, fsck, dd, mount -o loop
sys/block and dev also have each array as mdN, for tools that want such names. It ends with SIGTERM,
SIGINT or `umount DIR`; arrays are left alone.")]
pub struct MountArgs {
    /// An empty directory
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// In proc/mdstat too, call arrays mdN
    #[arg(long)]
    pub md_names: bool,
    /// Let other users look (as an ordinary user: if /etc/fuse.conf has user_allow_other)
    #[arg(long)]
    pub allow_other: bool,
}

/// Runs the command.
///
/// # Errors
/// When DIR cannot be mounted on.
pub fn run(args: &MountArgs, reach: &Reach, quiet: bool) -> Outcome {
    let wishes = Wishes {
        md_names: args.md_names,
        allow_other: args.allow_other,
        quiet,
    };
    mount(reach.runtime.clone(), &args.dir, &wishes)
}
