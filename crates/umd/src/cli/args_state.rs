//! Options of `umd array-state`.

use clap::Args;

/// `umd array-state NAME [STATE]`
#[derive(Debug, Clone, Args)]
pub struct ArrayStateArgs {
    /// The array
    #[arg(value_name = "NAME")]
    pub array: String,
    /// clear, inactive, readonly, read-auto, clean or active; without it the state is printed
    #[arg(value_name = "STATE")]
    pub state: Option<String>,
    /// Mark it clean this long after the last write (safe_mode_delay), in milliseconds; 0: never
    #[arg(long, value_name = "MS")]
    pub safe_mode_delay: Option<u32>,
    /// Fail a member after this many read errors in an hour (max_read_errors)
    #[arg(long, value_name = "COUNT")]
    pub max_read_errors: Option<u32>,
    /// Whether the last working member of a mirror may be failed as well (fail_last_dev): 1 or 0
    #[arg(long, value_name = "0|1", value_parser = super::values::switch)]
    pub fail_last_dev: Option<bool>,
    /// Writes from this sector of the array on wait (suspend_lo) ...
    #[arg(long, value_name = "SECTOR")]
    pub suspend_lo: Option<u64>,
    /// ... up to this one (suspend_hi), until both are 0 again
    #[arg(long, value_name = "SECTOR")]
    pub suspend_hi: Option<u64>,
    /// Print a JSON document
    #[arg(long)]
    pub json: bool,
}
