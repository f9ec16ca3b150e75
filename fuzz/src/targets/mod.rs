//! The fuzz targets: each takes any bytes, and panics where something is wrong.

pub mod api;
pub mod assembly;
pub mod badblocks;
pub mod bitmap;
pub mod conf;
pub mod negotiation;
pub mod signature;
pub mod superblock;
pub mod sysfs;
pub mod transmission;
pub mod v090;
pub mod words;

/// A target: its name, and what it does.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const ALL: [Target; 12] = [
    ("api", api::run),
    ("assembly", assembly::run),
    ("badblocks", badblocks::run),
    ("bitmap", bitmap::run),
    ("conf", conf::run),
    ("negotiation", negotiation::run),
    ("signature", signature::run),
    ("superblock", superblock::run),
    ("sysfs", sysfs::run),
    ("transmission", transmission::run),
    ("v090", v090::run),
    ("words", words::run),
];
