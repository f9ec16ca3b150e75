//! See `umd_fuzz::targets::signature`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| umd_fuzz::targets::signature::run(data));
