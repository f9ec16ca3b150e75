//! Whole arrays of several nodes on the same disks.

mod drawn;
mod scenes;
mod world;
