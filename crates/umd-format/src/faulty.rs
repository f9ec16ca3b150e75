//! Layouts of level faulty: which faults are pretended, and how often.
//!
//! ```text
//!   31                      5 4        0
//!   +------------------------+----------+
//!   |  period (0: once)      |   mode   |     0x81: read-transient, every 4th
//!   +------------------------+----------+
//! ```
//!
//! The words are mdadm's, with the period behind them: `rt4`, `write-persistent100`, `wa`. Seen in
//! superblocks that mdadm 4.2 wrote.

use std::fmt;

/// A way to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FaultyMode {
    /// A write fails, once (0).
    WriteTransient,
    /// A read fails, once (1).
    ReadTransient,
    /// A write fails, and every later one to the same place (2).
    WritePersistent,
    /// A read fails, and every later one of the same place (3).
    ReadPersistent,
    /// Every write fails (4).
    WriteAll,
    /// A read fails, and every later one of the same place, until that is written (5).
    ReadFixable,
    /// Places that were remembered are forgotten (30).
    Flush,
    /// Nothing more fails but at places that are remembered (31).
    Clear,
}

/// A layout of level faulty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FaultyLayout {
    /// How it fails.
    pub mode: FaultyMode,
    /// Every how many requests; 0: the next one, and no more.
    pub period: u32,
}

/// Modes with their numbers and words; the first word is printed.
const MODES: &[(FaultyMode, u32, &[&str])] = &[
    (FaultyMode::WriteTransient, 0, &["write-transient", "wt"]),
    (FaultyMode::ReadTransient, 1, &["read-transient", "rt"]),
    (FaultyMode::WritePersistent, 2, &["write-persistent", "wp"]),
    (FaultyMode::ReadPersistent, 3, &["read-persistent", "rp"]),
    (FaultyMode::WriteAll, 4, &["write-all", "wa"]),
    (FaultyMode::ReadFixable, 5, &["read-fixable", "rf"]),
    (FaultyMode::Flush, 30, &["flush"]),
    (FaultyMode::Clear, 31, &["clear", "none", "default"]),
];

const MODE_BITS: u32 = 5;

/// The longest period: a layout is a positive number for kernels.
const PERIOD_MAX: u32 = (1 << (31 - MODE_BITS)) - 1;

impl FaultyLayout {
    /// No faults.
    pub const NONE: FaultyLayout = FaultyLayout {
        mode: FaultyMode::Clear,
        period: 0,
    };

    /// The meaning of a layout; `None` when it has none. A kernel that has taken a layout over
    /// shows -1, which asks for nothing.
    pub fn parse(layout: u32) -> Option<FaultyLayout> {
        if layout == u32::MAX {
            return Some(FaultyLayout::NONE);
        }
        let period = layout >> MODE_BITS;
        let number = layout & ((1 << MODE_BITS) - 1);
        let (mode, ..) = MODES.iter().find(|(_, known, _)| *known == number)?;
        let mode = *mode;
        (period <= PERIOD_MAX).then_some(FaultyLayout { mode, period })
    }

    /// The layout behind a word of mdadm's: a mode, and a period or none.
    pub fn from_word(word: &str) -> Option<FaultyLayout> {
        let digits = word.find(|c: char| c.is_ascii_digit());
        let (name, number) = word.split_at(digits.unwrap_or(word.len()));
        let (mode, ..) = MODES.iter().find(|(.., words)| words.contains(&name))?;
        let period = match number {
            "" => 0,
            number => number.parse().ok().filter(|n| *n <= PERIOD_MAX)?,
        };
        let mode = *mode;
        Some(FaultyLayout { mode, period })
    }

    /// The number in superblocks.
    ///
    /// # Panics
    /// When the period is too long for it.
    pub fn to_raw(self) -> u32 {
        assert!(self.period <= PERIOD_MAX, "a layout has room for it");
        let known = MODES.iter().find(|(mode, ..)| *mode == self.mode);
        self.period << MODE_BITS | known.expect("each mode has a number").1
    }
}

/// The word that reads back as this layout.
impl fmt::Display for FaultyLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = MODES.iter().find(|(mode, ..)| *mode == self.mode);
        f.write_str(known.expect("each mode has a word").2[0])?;
        match self.period {
            0 => Ok(()),
            period => write!(f, "{period}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_that_mdadm_writes() {
        // Seen by `mdadm --create -l faulty -p rt4` and `mdadm --grow -p wt3`, `rf4`, `clear`.
        for (word, layout) in [
            ("rt4", 0x81),
            ("wt3", 96),
            ("rf4", 133),
            ("clear", 31),
            ("none", 31),
            ("default", 31),
            ("flush", 30),
            ("wa", 4),
            ("write-persistent2", 66),
            ("rp", 3),
            ("rt0", 1),
        ] {
            let found = FaultyLayout::from_word(word).expect(word);
            assert_eq!(found.to_raw(), layout, "{word}");
            assert_eq!(FaultyLayout::parse(layout), Some(found), "{word}");
            assert_eq!(FaultyLayout::from_word(&found.to_string()), Some(found));
        }
    }

    #[test]
    fn what_means_nothing_is_no_layout() {
        for word in [
            "",
            "wp-3",
            "x3",
            "6",
            "37",
            "all",
            "rt3x",
            "rt 3",
            "rt67108864",
            "wt99999999999",
        ] {
            assert_eq!(FaultyLayout::from_word(word), None, "{word:?}");
        }
        for layout in [6, 29, 0x20 | 7, 0x8000_0001, 0xffff_fffe] {
            assert_eq!(FaultyLayout::parse(layout), None, "{layout:#x}");
        }
        assert_eq!(FaultyLayout::parse(u32::MAX), Some(FaultyLayout::NONE));
        let longest = FaultyLayout::from_word("rt67108863").expect("fits");
        assert_eq!(FaultyLayout::parse(longest.to_raw()), Some(longest));
    }
}
