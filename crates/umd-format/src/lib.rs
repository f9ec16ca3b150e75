//! md on-disk formats: bytes to types and back.
#![forbid(unsafe_code)]

pub mod v1;
