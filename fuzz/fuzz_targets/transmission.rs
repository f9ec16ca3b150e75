//! See `umd_fuzz::targets::transmission`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| umd_fuzz::targets::transmission::run(data));
