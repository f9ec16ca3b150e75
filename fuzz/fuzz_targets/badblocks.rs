//! See `umd_fuzz::targets::badblocks`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| umd_fuzz::targets::badblocks::run(data));
