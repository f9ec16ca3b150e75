//! See `umd_fuzz::targets::sysfs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| umd_fuzz::targets::sysfs::run(data));
