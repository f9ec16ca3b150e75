//! See `umd_fuzz::targets::api`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| umd_fuzz::targets::api::run(data));
