//! Which kernels would refuse a member, and why.
//!
//! Bytes that we keep because they are none of our business can still matter elsewhere:
//! kernel 6.19 gave byte 224 a meaning, and every kernel before it refuses a member where that
//! byte is not 0. Facts: superblocks.md section 2 and 6, bitmap.md section 10.

use std::fmt;

use crate::Level;
use crate::bitmap;
use crate::bytes::u32_at;
use crate::v1::{Fields, HEADER_BYTES};

/// One reason why some kernels do not take a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelRefusal {
    /// The kernels, for example "up to 6.18".
    pub kernels: &'static str,
    /// What they do not accept.
    pub why: String,
}

/// A sentence for whoever looks at the array.
impl fmt::Display for KernelRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kernels {
            ALL_KNOWN => write!(f, "all known kernels")?,
            some => write!(f, "kernels {some}")?,
        }
        write!(f, " refuse this array: {}", self.why)
    }
}

const ALL_KNOWN: &str = "all known";

/// Lists the refusals for a member with these `fields`, whose superblock of version 1.x has the
/// bytes `raw`, and, when it is known, for a bitmap of `bitmap_version`.
///
/// # Panics
/// When `raw` is shorter than a superblock's header.
pub fn refusals(
    fields: &Fields,
    raw: Option<&[u8]>,
    bitmap_version: Option<u32>,
) -> Vec<KernelRefusal> {
    let mut found = Vec::new();
    if let Some(raw) = raw {
        assert!(raw.len() >= HEADER_BYTES);
        header(fields, raw, &mut found);
    }
    let mut refuse = |kernels, why: String| found.push(KernelRefusal { kernels, why });
    match fields.level {
        Level::Linear => refuse("6.8 to 6.13", "level linear is not there".to_owned()),
        Level::Multipath | Level::Faulty => {
            refuse("from 6.8", format!("level {} is not there", fields.level));
        }
        _ => {}
    }
    match bitmap_version {
        Some(bitmap::VERSION_LOCKLESS) => {
            refuse(
                "up to 6.17",
                "the bitmap is lockless (version 6)".to_owned(),
            );
        }
        Some(bitmap::VERSION_CLUSTERED) => {
            refuse(
                "without md-cluster",
                "the bitmap is clustered (version 5)".to_owned(),
            );
        }
        _ => {}
    }
    found
}

/// The refusal of a raid0 that does not say how it is laid out. One superblock does not tell
/// whether the members differ in size; where they do not, kernels take it.
pub fn raid0_refusal(fields: &Fields) -> Option<KernelRefusal> {
    let silent = fields.level == Level::Raid0 && fields.raid0_layout().is_none();
    silent.then(|| KernelRefusal {
        kernels: "from 5.4",
        why: "raid0 without a layout, if its members differ in size; assemble with \
              --update=layout-alternate (written by kernels from 3.14) or \
              --update=layout-original (by older ones)"
            .to_owned(),
    })
}

/// What the bytes of a version 1.x header say.
fn header(fields: &Fields, raw: &[u8], found: &mut Vec<KernelRefusal>) {
    let mut refuse = |kernels, why: String| found.push(KernelRefusal { kernels, why });
    if fields.features.unknown() != 0 {
        refuse(
            ALL_KNOWN,
            format!("features {:#x} are unknown", fields.features.unknown()),
        );
    }
    if u32_at(raw, 12) != 0 {
        refuse(ALL_KNOWN, "bytes 12 to 15 must be 0".to_owned());
    }
    if raw[228..HEADER_BYTES].iter().any(|&byte| byte != 0) {
        refuse(ALL_KNOWN, "bytes 228 to 255 must be 0".to_owned());
    }
    if fields.logical_block_bytes != 0 {
        let bytes = fields.logical_block_bytes;
        refuse(
            "up to 6.18",
            format!(
                "its logical block size ({bytes}) is recorded, at byte 224 of the superblock; \
                 assemble with --update=lbs=0 to take it out"
            ),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_one_sentence() {
        let refusal = |kernels| KernelRefusal {
            kernels,
            why: "features 0x8000 are unknown".to_owned(),
        };
        assert_eq!(
            refusal("up to 6.18").to_string(),
            "kernels up to 6.18 refuse this array: features 0x8000 are unknown"
        );
        assert_eq!(
            refusal(ALL_KNOWN).to_string(),
            "all known kernels refuse this array: features 0x8000 are unknown"
        );
    }
}
