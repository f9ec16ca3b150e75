//! mdadm's words for levels, layouts and metadata versions.
//!
//! | level          | words on the command line    | layouts                                      |
//! | -------------- | ---------------------------- | -------------------------------------------- |
//! | 0              | `0 raid0 stripe`             | original (1), alternate (2), dangerous (0)   |
//! | 1              | `1 raid1 mirror`             | none                                         |
//! | 4              | `4 raid4`                    | none                                         |
//! | 5              | `5 raid5`                    | la ra ls rs parity-first parity-last         |
//! | 6              | `6 raid6`                    | as 5, ddf-*, and the raid5 ones with `-6`    |
//! | 10             | `10 raid10`                  | nN fN oN: near, far, offset copies           |
//! | -1             | `linear`                     | none                                         |
//! | -5             | `faulty`                     | wt rt wp rp wa rf clear flush, and a period  |
//! | -4             | `multipath`                  | known by name; not run by this version       |

use umd_format::FaultyLayout;

/// What every word stands for, the name to print first.
const LEVELS: &[(i32, &[&str])] = &[
    (0, &["raid0", "0", "stripe"]),
    (1, &["raid1", "1", "mirror"]),
    (4, &["raid4", "4"]),
    (5, &["raid5", "5"]),
    (6, &["raid6", "6"]),
    (10, &["raid10", "10"]),
    (-1, &["linear"]),
    (-4, &["multipath", "mp"]),
    (-5, &["faulty"]),
];

const RAID0_LAYOUTS: &[(i32, &[&str])] = &[
    (1, &["original", "1"]),
    (2, &["alternate", "2"]),
    (0, &["dangerous", "0"]),
];

const RAID5_LAYOUTS: &[(i32, &[&str])] = &[
    (0, &["left-asymmetric", "la", "0"]),
    (1, &["right-asymmetric", "ra", "1"]),
    (2, &["left-symmetric", "ls", "default", "2"]),
    (3, &["right-symmetric", "rs", "3"]),
    (4, &["parity-first", "4"]),
    (5, &["parity-last", "5"]),
];

const RAID6_EXTRA_LAYOUTS: &[(i32, &[&str])] = &[
    (8, &["ddf-zero-restart"]),
    (9, &["ddf-N-restart"]),
    (10, &["ddf-N-continue"]),
    (16, &["left-asymmetric-6"]),
    (17, &["right-asymmetric-6"]),
    (18, &["left-symmetric-6"]),
    (19, &["right-symmetric-6"]),
    (20, &["parity-first-6"]),
];

fn by_word(table: &[(i32, &[&str])], word: &str) -> Option<i32> {
    let found = table.iter().find(|(_, words)| words.contains(&word));
    found.map(|(number, _)| *number)
}

fn by_number(table: &[(i32, &'static [&'static str])], number: i32) -> Option<&'static str> {
    let found = table.iter().find(|(value, _)| *value == number);
    found.map(|(_, words)| words[0])
}

/// The level number behind a word, whether or not this version can run it.
pub fn level_number(word: &str) -> Option<i32> {
    by_word(LEVELS, word)
}

/// The level's name (`raid5`), if md has one for the number.
pub fn level_name(level: i32) -> Option<&'static str> {
    by_number(LEVELS, level)
}

/// Whether this version runs arrays of the level.
pub fn level_runs(level: i32) -> bool {
    matches!(level, -5 | -1 | 0 | 1 | 4 | 5 | 6 | 10)
}

/// The layout number behind a word, for a level.
pub fn layout_number(level: i32, word: &str) -> Option<i32> {
    match level {
        0 => by_word(RAID0_LAYOUTS, word),
        5 => by_word(RAID5_LAYOUTS, word),
        6 => by_word(RAID5_LAYOUTS, word).or_else(|| by_word(RAID6_EXTRA_LAYOUTS, word)),
        10 => raid10_layout_number(word),
        -5 => FaultyLayout::from_word(word).map(|layout| layout.to_raw() as i32),
        _ => None,
    }
}

/// `n2`, `f2`, `o2`, as mdadm has them, and the words that it prints for them.
fn raid10_layout_number(word: &str) -> Option<i32> {
    let kinds = [("near=", 'n'), ("far=", 'f'), ("offset=", 'o')];
    let printed = kinds.iter().find_map(|(name, kind)| {
        let count = word.strip_prefix(name)?;
        Some((*kind, count))
    });
    let (kind, count) = match printed {
        Some(found) => found,
        None => {
            let kind = word.chars().next()?;
            (kind, &word[kind.len_utf8()..])
        }
    };
    let count: u8 = count.parse().ok().filter(|count| *count > 0)?;
    let count = i32::from(count);
    match kind {
        'n' => Some(0x100 | count),
        'f' => Some(count << 8 | 1),
        'o' => Some(0x10000 | count << 8 | 1),
        _ => None,
    }
}

/// The layout's name for a level, if it has one. RAID0's "none stored" (0 or -1) has no name.
pub fn layout_name(level: i32, layout: i32) -> Option<String> {
    match level {
        0 if layout > 0 => by_number(RAID0_LAYOUTS, layout).map(str::to_owned),
        5 => by_number(RAID5_LAYOUTS, layout).map(str::to_owned),
        6 => by_number(RAID5_LAYOUTS, layout)
            .or_else(|| by_number(RAID6_EXTRA_LAYOUTS, layout))
            .map(str::to_owned),
        10 => raid10_layout_name(layout),
        _ => None,
    }
}

fn raid10_layout_name(layout: i32) -> Option<String> {
    let near = layout & 0xff;
    let far = (layout >> 8) & 0xff;
    let offset = layout & (1 << 16) != 0;
    if near == 0 || far == 0 {
        return None;
    }
    let mut words = Vec::new();
    if near > 1 || far == 1 {
        words.push(format!("near={near}"));
    }
    if far > 1 {
        words.push(format!("{}={far}", if offset { "offset" } else { "far" }));
    }
    Some(words.join(", "))
}

/// The layout a new array gets when none is asked for; -1 where the level has none.
pub fn layout_default(level: i32) -> i32 {
    match level {
        5 | 6 => 2,
        0 => 1,
        10 => 0x102,
        -5 => FaultyLayout::NONE.to_raw() as i32,
        _ => 0,
    }
}

/// Flags of a member as the options that set them; empty where none is named.
pub fn flag_words(write_mostly: Option<bool>, failfast: Option<bool>) -> String {
    let mostly = write_mostly.map(|on| if on { "write-mostly" } else { "readwrite" });
    let fast = failfast.map(|on| if on { "failfast" } else { "nofailfast" });
    let words: Vec<&str> = [mostly, fast].into_iter().flatten().collect();
    words.join(", ")
}

/// Sixteen random bytes made a version 4 UUID, for a new array or member.
pub fn random_uuid() -> umd_format::Uuid {
    let mut uuid = [0; 16];
    let mut filled = 0;
    while filled < uuid.len() {
        let flags = rustix::rand::GetRandomFlags::empty();
        filled += rustix::rand::getrandom(&mut uuid[filled..], flags)
            .expect("the kernel has random bytes");
    }
    uuid[6] = uuid[6] & 0x0f | 0x40;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    umd_format::Uuid(uuid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_have_their_words() {
        for (word, level) in [
            ("0", 0),
            ("stripe", 0),
            ("mirror", 1),
            ("raid6", 6),
            ("10", 10),
        ] {
            assert_eq!(level_number(word), Some(level));
        }
        assert_eq!(level_number("raid7"), None);
        assert_eq!(level_name(5), Some("raid5"));
        assert_eq!(level_name(17), None);
        assert!(level_runs(10) && level_runs(-1) && level_runs(-5) && !level_runs(-4));
    }

    #[test]
    fn layouts_belong_to_levels() {
        for (word, layout) in [
            ("n2", 0x102),
            ("f3", 0x301),
            ("o2", 0x10201),
            ("near=4", 0x104),
        ] {
            assert_eq!(layout_number(10, word), Some(layout));
        }
        for word in ["", "n", "n0", "x2", "n256", "near", "2"] {
            assert_eq!(layout_number(10, word), None, "{word}");
        }
        assert_eq!(layout_number(5, "ls"), Some(2));
        assert_eq!(layout_number(5, "left-symmetric-6"), None);
        assert_eq!(layout_number(6, "left-symmetric-6"), Some(18));
        assert_eq!(layout_number(6, "ddf-N-restart"), Some(9));
        assert_eq!(layout_number(0, "alternate"), Some(2));
        assert_eq!(layout_number(1, "ls"), None);
        assert_eq!(layout_number(-5, "rt4"), Some(0x81));
        assert_eq!(layout_number(-5, "wp-3"), None);
        assert_eq!(layout_name(-5, 0x81), None, "as in mdadm");
        assert_eq!(layout_name(6, 16).as_deref(), Some("left-asymmetric-6"));
        assert_eq!(layout_name(5, 77), None);
        assert_eq!(layout_name(0, -1), None);
        assert_eq!(layout_name(10, 0x102).as_deref(), Some("near=2"));
        assert_eq!(layout_name(10, 0x201).as_deref(), Some("far=2"));
        assert_eq!(layout_name(10, 0x10201).as_deref(), Some("offset=2"));
    }

    #[test]
    fn every_layout_word_reads_back() {
        for level in [0, 5, 6] {
            for number in 0..32 {
                if let Some(name) = layout_name(level, number) {
                    assert_eq!(layout_number(level, &name), Some(number));
                }
            }
        }
    }

    #[test]
    fn random_uuids_differ() {
        assert_ne!(random_uuid(), random_uuid());
        assert_eq!(random_uuid().0[6] >> 4, 4);
    }
}
