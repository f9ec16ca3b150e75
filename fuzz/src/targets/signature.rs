//! Foreign signatures: any windows onto a device of any size.

use crate::Input;
use umd_format::signature::{Window, scan};

/// Runs it.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let device_bytes = match input.byte() & 1 {
        0 => input.number(),
        _ => (input.number() & 0xffff) * 512,
    };
    let mut windows = Vec::new();
    while !input.0.is_empty() && windows.len() < 4 {
        let offset_bytes = match input.byte() & 1 {
            0 => input.number(),
            _ => 0,
        };
        let count = (usize::from(input.byte()) << 8) + usize::from(input.byte());
        let bytes = input.bytes(count);
        windows.push(Window {
            offset_bytes,
            bytes,
        });
    }
    for found in scan(&windows, device_bytes) {
        let _ = found.kind.to_string();
    }
}
