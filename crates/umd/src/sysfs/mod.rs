//! What `umd mount` shows: /proc/mdstat and sysfs as the kernel has them for md, made of documents.
//!
//! ```text
//!   proc/mdstat
//!   sys/block/NAME/{dev,ro,size,queue/logical_block_size}
//!   sys/block/NAME/md/ATTRIBUTE                     `attributes`
//!   sys/block/NAME/md/bitmap/ATTRIBUTE              `bitmap`
//!   sys/block/NAME/md/dev-MEMBER/ATTRIBUTE          `members`
//!   sys/block/NAME/md/rdSLOT    -> dev-MEMBER
//!   sys/block/md127             -> NAME             `names`
//!   sys/module/md_mod/parameters/NAME             `parameters`
//!   dev/NAME, dev/md127 -> NAME                     the bytes of the array
//!
//!   ArrayDoc --tree--> Node         what there is to read
//!   ArrayDoc, path, text --change--> Change (a request for the control API), or an errno
//! ```
//!
//! Pure: no file, no socket. Facts: names, values, permissions and errors are those of kernel 6.1.
//! What a kernel can change and umd cannot is never accepted: a value that makes no sense is
//! EINVAL, one that does is EBUSY, unless the kernel says something else in a like case; writing
//! what is there already changes nothing and succeeds.

mod attributes;
mod bitmap;
mod change;
mod device_state;
mod members;
mod names;
mod notified;
mod parameters;
#[cfg(test)]
mod tests;

pub use change::{Change, change};
pub use names::Names;
pub use notified::mark;
pub use parameters::{PARAMETERS, change_parameters, parameters};

use crate::doc::ArrayDoc;
use crate::text::mdstat::mdstat;

/// The error of a read or write.
pub type Errno = rustix::io::Errno;

/// Names and what is behind them.
pub type Entries = Vec<(String, Node)>;

/// Something in the tree.
#[derive(Debug, Clone, PartialEq)]
pub enum Node {
    /// A directory.
    Directory(Entries),
    /// A symbolic link.
    Link(String),
    /// A file of text.
    Text {
        /// What is read; none where the file can only be written.
        text: Option<String>,
        /// Whether it can be written.
        writable: bool,
        /// What it says about its size.
        size: u64,
    },
    /// The bytes of an array.
    Device {
        /// Its name.
        array: String,
        /// Its size.
        bytes: u64,
    },
}

/// What sysfs says the size of every attribute is.
const ATTRIBUTE_BYTES: u64 = 4096;

impl Node {
    /// The permission bits.
    pub fn mode(&self) -> u16 {
        match self {
            Node::Directory(_) => 0o555,
            Node::Link(_) => 0o777,
            Node::Device { .. } => 0o600,
            Node::Text { text, writable, .. } => match (text, writable) {
                (Some(_), true) => 0o644,
                (Some(_), false) => 0o444,
                (None, _) => 0o200,
            },
        }
    }

    /// What is at a path below; the path of a directory itself is empty.
    pub fn find<'a>(&self, path: impl IntoIterator<Item = &'a str>) -> Option<&Node> {
        let mut node = self;
        for name in path {
            let Node::Directory(entries) = node else {
                return None;
            };
            node = &entries.iter().find(|(known, _)| known == name)?.1;
        }
        Some(node)
    }
}

/// Nothing can be written to it.
fn read_only(text: impl ToString) -> Node {
    attribute(Some(text.to_string()), false)
}

/// Read and written.
fn writable(text: impl ToString) -> Node {
    attribute(Some(text.to_string()), true)
}

fn attribute(text: Option<String>, writable: bool) -> Node {
    Node::Text {
        text: text.map(|text| match text.is_empty() || text.ends_with('\n') {
            true => text,
            false => text + "\n",
        }),
        writable,
        size: ATTRIBUTE_BYTES,
    }
}

fn named<const N: usize>(entries: [(&str, Node); N]) -> Entries {
    let entries = entries.into_iter();
    entries
        .map(|(name, node)| (name.to_owned(), node))
        .collect()
}

/// The whole tree; `arrays` oldest first. With `md_names` mdstat calls arrays by their aliases.
pub fn tree(arrays: &[ArrayDoc], names: &Names, md_names: bool) -> Node {
    let mut renamed = arrays.to_vec();
    for array in &mut renamed {
        if let Some(alias) = names.of(array).filter(|_| md_names) {
            array.name = alias;
        }
    }
    let stat = Node::Text {
        text: Some(mdstat(&renamed)),
        writable: false,
        size: 0,
    };
    let (mut block, mut dev) = (Entries::new(), Entries::new());
    for array in arrays {
        let link = || Node::Link(array.name.clone());
        if let Some(alias) = names.of(array).filter(|alias| *alias != array.name) {
            block.push((alias.clone(), link()));
            if !is_inactive(array) {
                dev.push((alias, link()));
            }
        }
        block.push((array.name.clone(), device(array, names)));
        let bytes = Node::Device {
            array: array.name.clone(),
            bytes: array.array_bytes,
        };
        if !is_inactive(array) {
            dev.push((array.name.clone(), bytes));
        }
    }
    let below = |name: &str, entries| Node::Directory(vec![(name.to_owned(), entries)]);
    Node::Directory(named([
        ("proc", below("mdstat", stat)),
        (
            "sys",
            Node::Directory(named([
                ("block", Node::Directory(block)),
                // What is below is asked for apart.
                ("module", Node::Directory(Entries::new())),
            ])),
        ),
        ("dev", Node::Directory(dev)),
    ]))
}

/// What the block device of an array has.
fn device(array: &ArrayDoc, names: &Names) -> Node {
    let queue = named([("logical_block_size", read_only(array.logical_block_bytes))]);
    let number = names.number(array).unwrap_or(0);
    Node::Directory(named([
        ("dev", read_only(format!("9:{number}"))),
        ("ro", read_only(u8::from(is_read_only(array)))),
        ("size", read_only(array.array_bytes / 512)),
        ("queue", Node::Directory(queue)),
        ("md", Node::Directory(attributes::of(array))),
    ]))
}

/// Whether hosts cannot write.
fn is_read_only(array: &ArrayDoc) -> bool {
    array.array_state == "readonly"
}

/// Whether it waits for members, or for somebody to start it.
fn is_inactive(array: &ArrayDoc) -> bool {
    array.array_state == "inactive"
}

/// Whether there is something to check or rebuild: such arrays have more attributes, once they run.
fn is_redundant(array: &ArrayDoc) -> bool {
    !is_inactive(array) && matches!(array.level_number, 1 | 4 | 5 | 6 | 10)
}

/// Whether the level computes parity.
fn has_parity(array: &ArrayDoc) -> bool {
    !is_inactive(array) && matches!(array.level_number, 4..=6)
}
