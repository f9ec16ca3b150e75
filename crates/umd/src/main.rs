//! The umd binary.

fn main() {}
