//! The parameters of md as a kernel module: those that mean something here.

use super::{Errno, Node, named, writable};
use crate::api::{ParametersDoc, ParametersRequest};

/// Where they are.
pub const PARAMETERS: &str = "sys/module/md_mod/parameters";

/// Each in its file.
pub fn parameters(shown: &ParametersDoc) -> Node {
    let may = u8::from(shown.start_dirty_degraded);
    Node::Directory(named([("start_dirty_degraded", writable(may))]))
}

/// What is written to one of them.
///
/// # Errors
/// EINVAL for what is no number, EACCES for what is not there.
pub fn change_parameters(name: &str, text: &str) -> Result<ParametersRequest, Errno> {
    let number = text.trim().parse::<i32>().map_err(|_| Errno::INVAL)?;
    match name {
        "start_dirty_degraded" => Ok(ParametersRequest {
            start_dirty_degraded: Some(number != 0),
        }),
        _ => Err(Errno::ACCESS),
    }
}
