//! See `umd_fuzz::targets::bitmap`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| umd_fuzz::targets::bitmap::run(data));
