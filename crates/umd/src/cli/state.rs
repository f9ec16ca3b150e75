//! `umd array-state`: md's word for the state of an array, and what md does when it is written.

use super::args_state::ArrayStateArgs;
use super::outcome::{Outcome, print, print_json};
use super::reach::Reach;
use super::values;
use crate::api::{DoneDoc, SettingsRequest, StateDoc, StateRequest};
use crate::client::quote;

/// Runs `umd array-state`.
///
/// # Errors
/// With the exit code and sentence for the user.
pub fn array_state(args: &ArrayStateArgs, reach: &Reach) -> Outcome {
    let name = values::array_name(&args.array)?;
    let settings = SettingsRequest {
        safe_mode_delay_ms: args.safe_mode_delay,
        max_read_errors: args.max_read_errors,
        fail_last_dev: args.fail_last_dev,
        suspend_lo_sectors: args.suspend_lo,
        suspend_hi_sectors: args.suspend_hi,
    };
    let changes = settings != SettingsRequest::default();
    if changes {
        let _: DoneDoc = reach.post(&name, "settings", &settings)?;
    }
    if let Some(state) = &args.state {
        let state = state.clone();
        let _: DoneDoc = reach.post(&name, "state", &StateRequest { state })?;
        return Ok(0);
    }
    if changes && !args.json {
        return Ok(0);
    }
    let path = format!("/v1/arrays/{}/state", quote(&name));
    let found: StateDoc = reach.require(&name)?.get(&path)?;
    if args.json {
        print_json(&found)?;
    } else {
        print(&format!("{}\n", found.state))?;
    }
    Ok(0)
}
