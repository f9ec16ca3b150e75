//! Whole arrays of several nodes on the same disks.

mod asked;
mod door;
mod drawn;
mod follow;
mod legs;
mod members;
mod moving;
mod readd;
mod rechunk;
mod replaced;
mod resize;
mod scenes;
mod share;
mod slots;
mod walk;
mod world;
