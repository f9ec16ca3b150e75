//! The bad-block log: what can be read can be written, and is the same again.

use crate::Input;
use umd_format::badblocks::{encode, parse};

/// Runs it.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let shift = input.byte();
    let bytes = input.bytes(8 * 512);
    let Ok(ranges) = parse(bytes, shift) else {
        return;
    };
    if shift > 54 {
        assert!(ranges.is_empty(), "no unit is that large");
        return;
    }
    let log = encode(&ranges, shift, 8).expect("it had room before");
    assert_eq!(parse(&log, shift), Ok(ranges.clone()));
    assert_eq!(log[..8 * ranges.len()], bytes[..8 * ranges.len()]);
}
