//! See `umd_fuzz::targets::superblock`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| umd_fuzz::targets::superblock::run(data));
