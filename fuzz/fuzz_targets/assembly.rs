//! See `umd_fuzz::targets::assembly`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| umd_fuzz::targets::assembly::run(data));
