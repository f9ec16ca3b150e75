//! See `umd_fuzz::targets::words`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| umd_fuzz::targets::words::run(data));
