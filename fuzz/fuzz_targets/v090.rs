//! See `umd_fuzz::targets::v090`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| umd_fuzz::targets::v090::run(data));
