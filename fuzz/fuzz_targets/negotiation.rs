//! See `umd_fuzz::targets::negotiation`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| umd_fuzz::targets::negotiation::run(data));
