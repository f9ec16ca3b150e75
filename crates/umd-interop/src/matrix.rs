//! The interop matrix: which arrays are exchanged with the kernel.
//!
//! | factor | values |
//! | --- | --- |
//! | kind | linear, raid0 in both layouts, raid1, raid4, raid5 in 6 layouts, raid6 in 14 layouts, |
//! |      | raid10 near, far and offset |
//! | metadata | 0.90 (not raid0: mdadm 4.2 makes none), 1.0, 1.1, 1.2 |
//! | chunk | 4K, 64K, 512K (not raid1); of linear the rounding, none or 64K |
//! | bitmap | internal, none (not linear, raid0) |
//!
//! [`full`] is their product. [`pairwise`] is a small selection in which any two values of two
//! factors that can meet do meet; the defects of such tables are almost always about one or two
//! factors. What is lost is not a factor: every tolerable loss is tried on every chosen case.

use std::collections::BTreeSet;
use std::fmt;

/// A level with a layout.
#[derive(Debug, PartialEq, Eq)]
pub struct Kind {
    /// md's number; -1 is linear.
    pub level: i8,
    /// As mdadm's `--layout` takes it; empty where there is no choice.
    pub layout: &'static str,
    /// Members.
    pub disks: usize,
    /// How many members may be lost; of raid10 at the most, as it depends on which.
    pub tolerates: usize,
}

const fn kind(level: i8, layout: &'static str, disks: usize, tolerates: usize) -> Kind {
    Kind {
        level,
        layout,
        disks,
        tolerates,
    }
}

/// Every level and layout that mdadm makes (facts: data layouts, sections 1 to 5).
pub const KINDS: [Kind; 35] = [
    kind(0, "original", 3, 0),
    kind(0, "alternate", 4, 0),
    kind(1, "", 2, 1),
    kind(4, "", 4, 1),
    kind(5, "left-asymmetric", 4, 1),
    kind(5, "right-asymmetric", 4, 1),
    kind(5, "left-symmetric", 4, 1),
    kind(5, "right-symmetric", 4, 1),
    kind(5, "parity-first", 4, 1),
    kind(5, "parity-last", 3, 1),
    kind(6, "left-asymmetric", 5, 2),
    kind(6, "right-asymmetric", 5, 2),
    kind(6, "left-symmetric", 5, 2),
    kind(6, "right-symmetric", 5, 2),
    kind(6, "parity-first", 5, 2),
    kind(6, "parity-last", 5, 2),
    kind(6, "ddf-zero-restart", 5, 2),
    kind(6, "ddf-N-restart", 5, 2),
    kind(6, "ddf-N-continue", 5, 2),
    kind(6, "left-asymmetric-6", 5, 2),
    kind(6, "right-asymmetric-6", 5, 2),
    kind(6, "left-symmetric-6", 5, 2),
    kind(6, "right-symmetric-6", 5, 2),
    kind(6, "parity-first-6", 4, 2),
    kind(10, "n2", 4, 2),
    kind(10, "n2", 3, 1),
    kind(10, "n2", 5, 2),
    kind(10, "n3", 4, 2),
    kind(10, "f2", 4, 2),
    kind(10, "f2", 3, 1),
    kind(10, "f3", 4, 2),
    kind(10, "o2", 4, 2),
    kind(10, "o2", 3, 1),
    kind(10, "o3", 5, 2),
    kind(-1, "", 3, 0),
];

const METADATA: [&str; 4] = ["0.90", "1.0", "1.1", "1.2"];
const CHUNKS_KIB: [u32; 3] = [4, 64, 512];

impl Kind {
    /// Every set of slots whose loss the level tolerates; the first is the empty one.
    pub fn losses(&self) -> Vec<Vec<usize>> {
        let mut losses = vec![Vec::new()];
        if self.tolerates >= 1 {
            losses.extend((0..self.disks).map(|slot| vec![slot]));
        }
        if self.tolerates >= 2 {
            for first in 0..self.disks {
                losses.extend((first + 1..self.disks).map(|second| vec![first, second]));
            }
        }
        losses.retain(|loss| self.survives(loss));
        losses
    }

    /// Whether some copy of everything is left. Of raid10 by the rule, not by the map: any members
    /// fewer than the copies, and else none that are neighbours, which hold copies of each other.
    fn survives(&self, loss: &[usize]) -> bool {
        if self.level != 10 || loss.len() < self.copies() {
            return true;
        }
        let near_pairs = self.layout == "n2" && self.disks.is_multiple_of(2);
        let together = |first: usize, second: usize| match near_pairs {
            true => first / 2 == second / 2,
            false => (first + 1) % self.disks == second || (second + 1) % self.disks == first,
        };
        !together(loss[0], loss[1])
    }

    fn copies(&self) -> usize {
        self.layout[1..]
            .parse()
            .expect("raid10 layouts end with a number")
    }

    /// Whether there is anything to check, rebuild and mark in a bitmap.
    pub fn is_redundant(&self) -> bool {
        self.tolerates > 0
    }

    /// The name of the level.
    pub fn level_name(&self) -> String {
        match self.level {
            -1 => "linear".to_owned(),
            level => format!("raid{level}"),
        }
    }
}

/// One array of the matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Case {
    /// Level and layout.
    pub kind: &'static Kind,
    /// `0.90`, `1.0`, `1.1` or `1.2`.
    pub metadata: &'static str,
    /// Chunk in KiB; `None` for raid1.
    pub chunk_kib: Option<u32>,
    /// With an internal bitmap or without one.
    pub bitmap: bool,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind.level_name())?;
        if !self.kind.layout.is_empty() {
            write!(f, "/{}", self.kind.layout)?;
        }
        if self.kind.level == 10 {
            write!(f, " on {}", self.kind.disks)?;
        }
        write!(f, "/{}", self.metadata)?;
        if let Some(chunk_kib) = self.chunk_kib {
            write!(f, "/{chunk_kib}K")?;
        }
        write!(f, "{}", if self.bitmap { "/bitmap" } else { "" })
    }
}

impl Case {
    /// The options for `create`, which mdadm and umd share.
    pub fn create_options(&self) -> Vec<String> {
        let mut options = vec![
            format!("-l{}", self.kind.level_name()),
            format!("-n{}", self.kind.disks),
            format!("-e{}", self.metadata),
        ];
        options.extend(self.chunk_kib.map(|chunk_kib| format!("-c{chunk_kib}")));
        if !self.kind.layout.is_empty() {
            options.push(format!("--layout={}", self.kind.layout));
        }
        if self.kind.is_redundant() {
            options.push(format!(
                "--bitmap={}",
                if self.bitmap { "internal" } else { "none" }
            ));
        }
        options
    }

    /// Bytes of the member in a slot. Room for at least six chunks after the metadata; unequal, so
    /// that raid0 has several zones and no level has ends that fit.
    pub fn member_bytes(&self, slot: usize) -> u64 {
        let base = match self.chunk_kib {
            Some(512) => 6 << 20,
            _ => 3 << 20,
        };
        let step = if !self.kind.is_redundant() {
            700 << 10
        } else {
            20 << 10
        };
        base + (slot as u64 * 7 + 3) % 5 * step
    }

    /// The values of the factors, to count pairs.
    fn values(&self) -> [String; 4] {
        [
            format!("{}{}{}", self.kind.level, self.kind.layout, self.kind.disks),
            self.metadata.to_string(),
            format!("{:?}", self.chunk_kib),
            self.bitmap.to_string(),
        ]
    }

    fn pairs(&self) -> Vec<(usize, String, usize, String)> {
        let values = self.values();
        let mut pairs = Vec::new();
        for first in 0..values.len() {
            for second in first + 1..values.len() {
                pairs.push((first, values[first].clone(), second, values[second].clone()));
            }
        }
        pairs
    }
}

/// Every case.
pub fn full() -> Vec<Case> {
    let mut cases = Vec::new();
    for kind in &KINDS {
        let chunks: &[u32] = match kind.level {
            1 => &[0],
            -1 => &[0, 64],
            _ => &CHUNKS_KIB,
        };
        let bitmaps: &[bool] = match kind.is_redundant() {
            true => &[false, true],
            false => &[false],
        };
        let known = |metadata: &&str| kind.level != 0 || *metadata != "0.90";
        for metadata in METADATA.into_iter().filter(known) {
            for chunk_kib in chunks {
                let chunk_kib = Some(*chunk_kib).filter(|chunk_kib| *chunk_kib != 0);
                let cases_here = bitmaps.iter().map(|&bitmap| Case {
                    kind,
                    metadata,
                    chunk_kib,
                    bitmap,
                });
                cases.extend(cases_here);
            }
        }
    }
    cases
}

/// A selection of [`full`] with every pair of values that occurs there: always the case that brings
/// most new pairs, the first of them if several do.
pub fn pairwise() -> Vec<Case> {
    let all = full();
    let mut open: BTreeSet<_> = all.iter().flat_map(Case::pairs).collect();
    let mut chosen = Vec::new();
    while !open.is_empty() {
        let gain = |case: &Case| {
            case.pairs()
                .iter()
                .filter(|pair| open.contains(*pair))
                .count()
        };
        let best = all
            .iter()
            .rev()
            .max_by_key(|case| gain(case))
            .expect("the matrix has cases");
        for pair in best.pairs() {
            open.remove(&pair);
        }
        chosen.push(*best);
    }
    chosen
}

/// The cases this run is asked for: all with `UMD_FULL` in the environment, else the selection; of
/// these only those whose name contains `UMD_CASE`, if that is set.
pub fn chosen() -> Vec<Case> {
    let cases = if std::env::var_os("UMD_FULL").is_some() {
        full()
    } else {
        pairwise()
    };
    let part = std::env::var("UMD_CASE").unwrap_or_default();
    cases
        .into_iter()
        .filter(|case| case.to_string().contains(&part))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_full_matrix_is_the_product() {
        // raid0 2 x 3 x 3, raid1 4 x 2, raid4/5/6 21 x 4 x 3 x 2, raid10 10 x 4 x 3 x 2,
        // linear 4 x 2
        assert_eq!(full().len(), 18 + 8 + 504 + 240 + 8);
    }

    #[test]
    fn the_selection_is_small_and_has_every_pair() {
        let selection = pairwise();
        let pairs =
            |cases: &[Case]| -> BTreeSet<_> { cases.iter().flat_map(Case::pairs).collect() };
        assert_eq!(pairs(&selection), pairs(&full()));
        assert!((120..145).contains(&selection.len()), "{}", selection.len());
    }

    #[test]
    fn losses_are_all_sets_up_to_the_tolerated_size() {
        assert_eq!(KINDS[0].losses(), [vec![0; 0]]);
        assert_eq!(KINDS[2].losses(), [vec![], vec![0], vec![1]]);
        assert_eq!(KINDS[12].losses().len(), 1 + 5 + 10);
        let raid10 = |number: usize| KINDS[number].losses();
        assert_eq!(raid10(24).len(), 1 + 4 + 4, "all pairs but two");
        assert!(!raid10(24).contains(&vec![2, 3]) && raid10(24).contains(&vec![1, 2]));
        assert_eq!(raid10(27).len(), 1 + 4 + 6, "three copies");
        assert_eq!(raid10(28).len(), 1 + 4 + 2, "no neighbours");
    }

    #[test]
    fn names_tell_the_case() {
        let case = Case {
            kind: &KINDS[12],
            metadata: "1.2",
            chunk_kib: Some(64),
            bitmap: true,
        };
        assert_eq!(case.to_string(), "raid6/left-symmetric/1.2/64K/bitmap");
        let options = case.create_options().join(" ");
        assert_eq!(
            options,
            "-lraid6 -n5 -e1.2 -c64 --layout=left-symmetric --bitmap=internal"
        );
    }
}
