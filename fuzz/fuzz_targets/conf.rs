//! See `umd_fuzz::targets::conf`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| umd_fuzz::targets::conf::run(data));
