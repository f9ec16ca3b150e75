//! The interop matrix: which arrays are exchanged with the kernel.
//!
//! | factor | values |
//! | --- | --- |
//! | kind | linear, raid0 in both layouts, raid1, raid4, raid5 in 6 layouts, raid6 in 14 layouts, |
//! |      | raid10 near, far and offset, faulty |
//! | metadata | 0.90 (not raid0: mdadm 4.2 makes none), 1.0, 1.1, 1.2 (faulty: 0.90 and 1.0) |
//! | chunk | 4K, 64K, 512K (not raid1, faulty); of linear the rounding, none or 64K |
//! | bitmap | none, internal, in a file (not linear, raid0, faulty) |
//! | log | of bad blocks: none, an empty one, one that names sectors (redundant, not 0.90) |
//! | legs | plain, one write-mostly (raid1), all failfast (raid1, raid10) |
//!
//! Where one leg is write-mostly and there is a bitmap, writes may lag on it. Level faulty has a
//! mode that strikes after more requests than are made here: what its modes do is not about
//! exchange (`faulty.rs`). With metadata 1.1 and 1.2 kernels write over its superblock.
//!
//! [`full`] is their product. [`pairwise`] is a small selection in which any two values of two
//! factors that can meet do meet; the defects of such tables are almost always about one or two
//! factors. What is lost is not a factor: every tolerable loss is tried on every chosen case.

use std::collections::BTreeSet;
use std::fmt;

/// A level with a layout.
#[derive(Debug, PartialEq, Eq)]
pub struct Kind {
    /// md's number; -1 is linear, -5 faulty.
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
pub const KINDS: [Kind; 36] = [
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
    kind(-5, "wt1000000", 1, 0),
];

const METADATA: [&str; 4] = ["0.90", "1.0", "1.1", "1.2"];
const CHUNKS_KIB: [u32; 3] = [4, 64, 512];

/// How many writes may lag on a write-mostly leg.
pub const BACKLOG: u32 = 77;

/// Where the write-intent bitmap is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bitmap {
    /// Nowhere.
    None,
    /// On every member.
    Internal,
    /// In a file of its own.
    File,
}

/// The bad-block log of a redundant array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Log {
    /// There is none.
    None,
    /// As arrays are made: an empty one.
    Empty,
    /// One that names sectors of one member.
    Marked,
}

/// What members are flagged as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Legs {
    /// Nothing.
    Plain,
    /// The last one is write-mostly; with a bitmap, writes may lag there.
    Mostly,
    /// All are to fail fast.
    Failfast,
}

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
            -5 => "faulty".to_owned(),
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
    /// Where its bitmap is.
    pub bitmap: Bitmap,
    /// What its members are known not to hold. Of arrays without redundancy always `Empty`, and
    /// left as it was made.
    pub log: Log,
    /// Flags of its members.
    pub legs: Legs,
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
        f.write_str(match self.bitmap {
            Bitmap::None => "",
            Bitmap::Internal => "/bitmap",
            Bitmap::File => "/bitmap file",
        })?;
        f.write_str(match self.log {
            Log::None if self.metadata != "0.90" => "/no log",
            Log::None | Log::Empty => "",
            Log::Marked => "/bad blocks",
        })?;
        f.write_str(match self.legs {
            Legs::Plain => "",
            Legs::Mostly => "/write-mostly",
            Legs::Failfast => "/failfast",
        })
    }
}

impl Case {
    /// The options for `create`, which mdadm and umd share; `file` is for the bitmap.
    pub fn create_options(&self, file: &str) -> Vec<String> {
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
            options.push(match self.bitmap {
                Bitmap::None => "--bitmap=none".into(),
                Bitmap::Internal => "--bitmap=internal".into(),
                Bitmap::File => format!("--bitmap={file}"),
            });
        }
        if self.bitmap == Bitmap::File {
            options.push("--bitmap-chunk=64K".into());
        }
        if self.lags() {
            options.push(format!("--write-behind={BACKLOG}"));
        }
        options
    }

    /// Members as `create` takes them: with the flags they get.
    pub fn flagged(&self, members: &[String]) -> Vec<String> {
        let mut words = members.to_vec();
        match self.legs {
            Legs::Plain => {}
            Legs::Mostly => words.insert(members.len() - 1, "--write-mostly".into()),
            Legs::Failfast => words.insert(0, "--failfast".into()),
        }
        words
    }

    /// Whether writes may lag on a leg.
    pub fn lags(&self) -> bool {
        self.legs == Legs::Mostly && self.bitmap != Bitmap::None
    }

    /// The losses of the kind after which all can be read that a member with bad blocks, if there
    /// is one, does not hold.
    pub fn losses(&self, marked: Option<usize>) -> Vec<Vec<usize>> {
        let all = self.kind.losses();
        let with = |loss: &Vec<usize>, slot: usize| {
            let mut both = loss.clone();
            both.push(slot);
            both.sort_unstable();
            both.dedup();
            both
        };
        let bearable =
            |loss: &&Vec<usize>| marked.is_none_or(|slot| all.contains(&with(loss, slot)));
        all.iter().filter(bearable).cloned().collect()
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
    fn values(&self) -> [String; 6] {
        [
            format!("{}{}{}", self.kind.level, self.kind.layout, self.kind.disks),
            self.metadata.to_string(),
            format!("{:?}", self.chunk_kib),
            format!("{:?}", self.bitmap),
            format!("{:?}", self.log),
            format!("{:?}", self.legs),
        ]
    }

    fn pairs(&self) -> Vec<Pair> {
        let values = self.values();
        let mut pairs = Vec::new();
        for first in 0..values.len() {
            for second in first + 1..values.len() {
                pairs.push((first, values[first].clone(), second, values[second].clone()));
            }
        }
        pairs
    }

    /// Every case of a kind with some metadata and chunk.
    fn of(kind: &'static Kind, metadata: &'static str, chunk_kib: Option<u32>) -> Vec<Case> {
        let bitmaps: &[Bitmap] = match kind.is_redundant() {
            true => &[Bitmap::None, Bitmap::Internal, Bitmap::File],
            false => &[Bitmap::None],
        };
        let logs: &[Log] = match (kind.is_redundant(), metadata) {
            (true, "0.90") => &[Log::None],
            (true, _) => &[Log::None, Log::Empty, Log::Marked],
            (false, _) => &[Log::Empty],
        };
        let legs: &[Legs] = match kind.level {
            1 => &[Legs::Plain, Legs::Mostly, Legs::Failfast],
            10 => &[Legs::Plain, Legs::Failfast],
            _ => &[Legs::Plain],
        };
        let mut cases = Vec::new();
        for &bitmap in bitmaps {
            for &log in logs {
                cases.extend(legs.iter().map(|&legs| Case {
                    kind,
                    metadata,
                    chunk_kib,
                    bitmap,
                    log,
                    legs,
                }));
            }
        }
        cases
    }
}

/// Two values of two factors.
type Pair = (usize, String, usize, String);

/// Every case.
pub fn full() -> Vec<Case> {
    let mut cases = Vec::new();
    for kind in &KINDS {
        let chunks: &[u32] = match kind.level {
            1 | -5 => &[0],
            -1 => &[0, 64],
            _ => &CHUNKS_KIB,
        };
        let known = |metadata: &&str| match kind.level {
            0 => *metadata != "0.90",
            -5 => matches!(*metadata, "0.90" | "1.0"),
            _ => true,
        };
        for metadata in METADATA.into_iter().filter(known) {
            for chunk_kib in chunks {
                let chunk_kib = Some(*chunk_kib).filter(|chunk_kib| *chunk_kib != 0);
                cases.extend(Case::of(kind, metadata, chunk_kib));
            }
        }
    }
    cases
}

/// A selection of [`full`] with every pair of values that occurs there: always the case that brings
/// most new pairs, the first of them if several do.
pub fn pairwise() -> Vec<Case> {
    let mut all: Vec<(Case, Vec<Pair>)> = full()
        .into_iter()
        .map(|case| (case, case.pairs()))
        .collect();
    let mut open: BTreeSet<Pair> = all.iter().flat_map(|(_, pairs)| pairs.clone()).collect();
    let mut chosen = Vec::new();
    while !open.is_empty() {
        for (_, pairs) in &mut all {
            pairs.retain(|pair| open.contains(pair));
        }
        all.retain(|(_, pairs)| !pairs.is_empty());
        let (best, pairs) = all
            .iter()
            .rev()
            .max_by_key(|(_, pairs)| pairs.len())
            .expect("the matrix has cases");
        chosen.push(*best);
        let pairs = pairs.clone();
        for pair in &pairs {
            open.remove(pair);
        }
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
        // raid0 2 x 3 x 3; linear 4 x 2; faulty 2; with redundancy 1 + 3 x 3 times metadata and
        // logs, 3 bitmaps: raid1 x 3 legs, raid4/5/6 21 x 3 chunks, raid10 10 x 3 x 2 legs
        let redundant = (1 + 3 * 3) * 3 * (3 + 21 * 3 + 10 * 3 * 2);
        assert_eq!(full().len(), 18 + 8 + 2 + redundant);
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
            bitmap: Bitmap::Internal,
            log: Log::Empty,
            legs: Legs::Plain,
        };
        assert_eq!(case.to_string(), "raid6/left-symmetric/1.2/64K/bitmap");
        let options = case.create_options("/b").join(" ");
        assert_eq!(
            options,
            "-lraid6 -n5 -e1.2 -c64 --layout=left-symmetric --bitmap=internal"
        );
    }

    #[test]
    fn who_has_bad_blocks_is_missed_as_who_is_lost() {
        let case = |kind: usize| Case::of(&KINDS[kind], "1.2", None)[0];
        assert_eq!(case(2).losses(Some(1)), [vec![], vec![1]]);
        assert_eq!(case(12).losses(None).len(), 1 + 5 + 10);
        assert_eq!(case(12).losses(Some(3)).len(), 1 + 5 + 4);
        // Copies of each other: 0 and 1, 2 and 3.
        let losses = case(24).losses(Some(0));
        assert_eq!(
            losses,
            [vec![], vec![0], vec![2], vec![3], vec![0, 2], vec![0, 3]]
        );
    }

    #[test]
    fn flags_stand_before_the_members_they_are_for() {
        let mut case = Case::of(&KINDS[2], "1.2", None)[0];
        let members = ["a".to_owned(), "b".to_owned()];
        case.legs = Legs::Mostly;
        assert_eq!(case.flagged(&members).join(" "), "a --write-mostly b");
        assert!(!case.lags());
        case.bitmap = Bitmap::File;
        let options = case.create_options("/b").join(" ");
        let wanted = "-lraid1 -n2 -e1.2 --bitmap=/b --bitmap-chunk=64K --write-behind=77";
        assert_eq!(options, wanted);
        case.legs = Legs::Failfast;
        assert_eq!(case.flagged(&members).join(" "), "--failfast a b");
    }
}
