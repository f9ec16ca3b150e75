//! Doors: NBD.
#![forbid(unsafe_code)]
