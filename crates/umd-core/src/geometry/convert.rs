//! Which level and layout becomes which, and how. Facts: layouts.md section 6.
//!
//! ```text
//!   raid0 of n  ==  raid4 of n+1, P missing  ==  raid5 parity-last of n+1, P missing
//!                                                raid5 X of n  ==  raid6 X-6 of n+1, Q missing
//!     ==  takeover: every byte of data stays where it is
//!
//!   raid5 X --reshape--> raid5 Y,  raid6 X --reshape--> raid6 Y:  rows stay, columns change places
//!
//!   any change:   [takeover] -> [reshape] -> [takeover]
//! ```

use umd_format::Level;

use super::Raid456;
use crate::value::LayoutWish;

/// Parity on the last slot, of RAID5, and of RAID6 with Q behind it.
const PARITY_LAST: u32 = 5;
/// What is added to a RAID5 layout for the RAID6 that has its Q on a slot of its own.
const PLUS_Q: u32 = 16;
/// The default of RAID5 and RAID6.
const LEFT_SYMMETRIC: u32 = 2;
/// RAID0 as kernels from 3.14 have it; where members are equal both are the same.
const RAID0_LAYOUT: u32 = 2;

/// What an array is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Level.
    pub level: Level,
    /// Layout.
    pub layout: u32,
    /// Slots.
    pub raid_disks: u16,
}

/// How one becomes the other, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conversion {
    /// A takeover at once.
    pub first: Option<Shape>,
    /// The layout to reshape into.
    pub reshape: Option<u32>,
    /// A takeover when that is over.
    pub last: Option<Shape>,
}

impl Conversion {
    /// What the array is in the end.
    pub fn result(&self, from: Shape) -> Shape {
        let begun = self.first.unwrap_or(from);
        let layout = self.reshape.unwrap_or(begun.layout);
        self.last.unwrap_or(Shape { layout, ..begun })
    }
}

/// The array of another level that holds the same bytes in the same places, if there is one.
pub fn takeover(from: Shape, to: Level) -> Option<Shape> {
    let (layout, more) = match (from.level, from.layout, to) {
        (Level::Raid0, _, Level::Raid4) => (0, 1),
        (Level::Raid0, _, Level::Raid5) => (PARITY_LAST, 1),
        (Level::Raid4, _, Level::Raid5) => (PARITY_LAST, 0),
        (Level::Raid5, PARITY_LAST, Level::Raid4) => (0, 0),
        (Level::Raid4, _, Level::Raid0) | (Level::Raid5, PARITY_LAST, Level::Raid0) => {
            (RAID0_LAYOUT, -1)
        }
        (Level::Raid5, PARITY_LAST, Level::Raid6) => (PARITY_LAST, 1),
        (Level::Raid5, layout @ 0..=4, Level::Raid6) => (layout + PLUS_Q, 1),
        (Level::Raid6, PARITY_LAST, Level::Raid5) => (PARITY_LAST, -1),
        (Level::Raid6, layout @ 16..=20, Level::Raid5) => (layout - PLUS_Q, -1),
        _ => return None,
    };
    let raid_disks = u16::try_from(i32::from(from.raid_disks) + more).ok()?;
    let made = Shape {
        level: to,
        layout,
        raid_disks,
    };
    made.is_possible().then_some(made)
}

/// Whether both are the same bytes in the same places: so are mirrors, however many there are.
pub fn same_bytes(a: Shape, b: Shape) -> bool {
    let equal = |x: Shape, y: Shape| {
        let layouts = x.level == Level::Raid0 || x.layout == y.layout;
        x.level == y.level && layouts && x.raid_disks == y.raid_disks
    };
    let mirrors = a.level == Level::Raid1 && b.level == Level::Raid1 && a.layout == b.layout;
    let becomes = |x: Shape, y: Shape| takeover(x, y.level).is_some_and(|made| equal(made, y));
    equal(a, b) || mirrors || becomes(a, b) || becomes(b, a)
}

impl Shape {
    fn is_possible(self) -> bool {
        let least = self.level.min_disks().try_into().unwrap_or(u16::MAX);
        let few = self.raid_disks < least;
        let map = || Raid456::new(self.level, self.layout, self.raid_disks, 8, 8);
        !few && (self.level == Level::Raid0 || map().is_some())
    }
}

/// How an array becomes one of level `to`.
///
/// # Errors
/// One sentence: what cannot be, and what to do instead.
pub fn convert(from: Shape, to: Level, wish: LayoutWish) -> Result<Conversion, String> {
    let level = from.level;
    if level == to {
        return relayout(from, wish);
    }
    let known = |level| {
        matches!(
            level,
            Level::Raid0 | Level::Raid4 | Level::Raid5 | Level::Raid6
        )
    };
    if !known(level) || !known(to) {
        return Err(format!("{level} cannot become {to} in this version"));
    }
    let one_step = matches!(
        (level, to),
        (Level::Raid6, Level::Raid5) | (Level::Raid5, Level::Raid6)
    ) || (level != Level::Raid6 && to != Level::Raid6);
    if !one_step {
        return Err(format!(
            "{level} does not become {to} in one step: change it to raid5 first (--level=5)"
        ));
    }
    let few = || format!("{level} on {} devices cannot become {to}", from.raid_disks);
    // What has to be reshaped before, so that the takeover can be.
    let before = match (level, to) {
        (Level::Raid6, _) => Some(last_q(from.layout, wish)?),
        (Level::Raid5, Level::Raid0 | Level::Raid4) => Some(PARITY_LAST),
        _ => None,
    };
    if let Some(layout) = before {
        let ready = Shape { layout, ..from };
        let last = takeover(ready, to).ok_or_else(few)?;
        check_wish(last, wish)?;
        return Ok(Conversion {
            first: None,
            reshape: Some(layout).filter(|layout| *layout != from.layout),
            last: Some(last),
        });
    }
    let first = takeover(from, to).ok_or_else(few)?;
    let wanted = match (wish, to) {
        // They have one layout, whatever is wished.
        (_, Level::Raid0 | Level::Raid4) | (LayoutWish::Preserve, _) => first.layout,
        (LayoutWish::Number(layout), _) => layout,
        (_, Level::Raid5) => LEFT_SYMMETRIC,
        (_, Level::Raid6) => from.layout,
        _ => first.layout,
    };
    let result = Shape {
        layout: wanted,
        ..first
    };
    check_wish(result, wish)?;
    Ok(Conversion {
        first: Some(first),
        reshape: Some(wanted).filter(|layout| *layout != first.layout),
        last: None,
    })
}

/// The layout of RAID6 with Q on the last slot that lies nearest to this one.
fn last_q(layout: u32, wish: LayoutWish) -> Result<u32, String> {
    let plus = |layout: u32| match layout {
        PARITY_LAST => PARITY_LAST,
        other => other + PLUS_Q,
    };
    match (wish, layout) {
        (LayoutWish::Number(wanted @ 0..=5), _) => Ok(plus(wanted)),
        (LayoutWish::Number(other), _) => Err(format!("raid5 has no layout {other}")),
        (_, PARITY_LAST | 16..=20) => Ok(layout),
        (LayoutWish::Preserve, _) => Err(
            "--layout=preserve is for layouts of raid6 with Q on the last device (left-symmetric-6 \
             and its like): this one has to be reshaped"
                .into(),
        ),
        (LayoutWish::Default, 0..=4) => Ok(plus(layout)),
        (LayoutWish::Default, _) => Ok(plus(LEFT_SYMMETRIC)),
    }
}

fn check_wish(result: Shape, wish: LayoutWish) -> Result<(), String> {
    let level = result.level;
    let LayoutWish::Number(wanted) = wish else {
        return Ok(());
    };
    if wanted != result.layout || !result.is_possible() {
        return Err(format!("{level} cannot get layout {wanted} here"));
    }
    Ok(())
}

fn relayout(from: Shape, wish: LayoutWish) -> Result<Conversion, String> {
    let level = from.level;
    let LayoutWish::Number(wanted) = wish else {
        return Err(format!("the array is {level} already"));
    };
    if !matches!(level, Level::Raid5 | Level::Raid6) {
        return Err(format!("{level} keeps its layout in this version"));
    }
    if wanted == from.layout {
        return Err("the array has that layout already".into());
    }
    let result = Shape {
        layout: wanted,
        ..from
    };
    check_wish(result, wish)?;
    Ok(Conversion {
        first: None,
        reshape: Some(wanted),
        last: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(level: Level, layout: u32, raid_disks: u16) -> Shape {
        Shape {
            level,
            layout,
            raid_disks,
        }
    }

    const R0: Level = Level::Raid0;
    const R4: Level = Level::Raid4;
    const R5: Level = Level::Raid5;
    const R6: Level = Level::Raid6;

    /// The table of layouts.md section 6, as seen on kernels, for the levels with chunks.
    #[test]
    fn takeovers_are_those_of_kernels() {
        let table = [
            (shape(R0, 2, 3), R4, Some((0, 4))),
            (shape(R0, 2, 3), R5, Some((5, 4))),
            (shape(R0, 2, 3), R6, None),
            (shape(R4, 0, 4), R5, Some((5, 4))),
            (shape(R4, 0, 4), R0, Some((2, 3))),
            (shape(R5, 5, 4), R0, Some((2, 3))),
            (shape(R5, 2, 4), R0, None),
            (shape(R5, 5, 4), R4, Some((0, 4))),
            (shape(R5, 2, 4), R4, None),
            (shape(R5, 0, 4), R6, Some((16, 5))),
            (shape(R5, 1, 4), R6, Some((17, 5))),
            (shape(R5, 2, 4), R6, Some((18, 5))),
            (shape(R5, 3, 4), R6, Some((19, 5))),
            (shape(R5, 4, 4), R6, Some((20, 5))),
            (shape(R5, 5, 4), R6, Some((5, 5))),
            (shape(R5, 2, 2), R6, None),
            (shape(R6, 18, 5), R5, Some((2, 4))),
            (shape(R6, 5, 5), R5, Some((5, 4))),
            (shape(R6, 2, 5), R5, None),
            (shape(R6, 10, 5), R5, None),
            (shape(Level::Raid1, 0, 2), R5, None),
        ];
        for (from, to, wanted) in table {
            let made = takeover(from, to).map(|made| (made.layout, made.raid_disks));
            assert_eq!(made, wanted, "{from:?} -> {to}");
        }
    }

    /// After a takeover every data block lies where it lay, by the maps themselves.
    #[test]
    fn takeovers_move_no_byte() {
        let place = |one: Shape, sector: u64| -> (u16, u64) {
            if one.level == R0 {
                let (chunk, within) = (sector / 8, sector % 8);
                let n = u64::from(one.raid_disks);
                return ((chunk % n) as u16, chunk / n * 8 + within);
            }
            let map = Raid456::new(one.level, one.layout, one.raid_disks, 8, 800).expect("map");
            let at = map.locate(sector);
            let slot = map.row(at.row).data[usize::from(at.index)];
            (slot, at.row * 8 + at.within_sectors)
        };
        let mut tried = 0;
        for level in [R0, R4, R5, R6] {
            for layout in 0..=20 {
                for disks in 2..7 {
                    let from = shape(level, layout, disks);
                    let there = level == R0 || Raid456::new(level, layout, disks, 8, 8).is_some();
                    for to in [R0, R4, R5, R6] {
                        let Some(made) = takeover(from, to).filter(|_| there) else {
                            continue;
                        };
                        tried += 1;
                        assert!(same_bytes(from, made) && same_bytes(made, from));
                        for sector in 0..300 {
                            assert_eq!(place(from, sector), place(made, sector), "{from:?} {to}");
                        }
                    }
                }
            }
        }
        assert!(tried > 60, "{tried}");
    }

    #[test]
    fn every_way_ends_where_it_was_to() {
        let number = LayoutWish::Number;
        let table = [
            (
                shape(R6, 2, 5),
                R5,
                LayoutWish::Default,
                (None, Some(18), Some((2, 4))),
            ),
            (
                shape(R6, 0, 5),
                R5,
                LayoutWish::Default,
                (None, Some(16), Some((0, 4))),
            ),
            (
                shape(R6, 10, 5),
                R5,
                LayoutWish::Default,
                (None, Some(18), Some((2, 4))),
            ),
            (
                shape(R6, 18, 5),
                R5,
                LayoutWish::Default,
                (None, None, Some((2, 4))),
            ),
            (
                shape(R6, 18, 5),
                R5,
                LayoutWish::Preserve,
                (None, None, Some((2, 4))),
            ),
            (
                shape(R6, 18, 5),
                R5,
                number(0),
                (None, Some(16), Some((0, 4))),
            ),
            (
                shape(R5, 2, 4),
                R0,
                LayoutWish::Default,
                (None, Some(5), Some((2, 3))),
            ),
            (
                shape(R5, 5, 4),
                R0,
                LayoutWish::Default,
                (None, None, Some((2, 3))),
            ),
            (
                shape(R0, 2, 3),
                R5,
                LayoutWish::Default,
                (Some((5, 4)), Some(2), None),
            ),
            (
                shape(R0, 2, 3),
                R5,
                LayoutWish::Preserve,
                (Some((5, 4)), None, None),
            ),
            (
                shape(R0, 2, 3),
                R5,
                number(3),
                (Some((5, 4)), Some(3), None),
            ),
            (
                shape(R5, 2, 4),
                R6,
                LayoutWish::Default,
                (Some((18, 5)), Some(2), None),
            ),
            (
                shape(R5, 2, 4),
                R6,
                LayoutWish::Preserve,
                (Some((18, 5)), None, None),
            ),
            (
                shape(R5, 5, 4),
                R6,
                LayoutWish::Default,
                (Some((5, 5)), None, None),
            ),
            (
                shape(R5, 2, 4),
                R6,
                number(10),
                (Some((18, 5)), Some(10), None),
            ),
            (shape(R5, 2, 4), R5, number(5), (None, Some(5), None)),
            (
                shape(R4, 0, 4),
                R5,
                LayoutWish::Default,
                (Some((5, 4)), Some(2), None),
            ),
            (
                shape(R5, 2, 4),
                R4,
                LayoutWish::Default,
                (None, Some(5), Some((0, 4))),
            ),
        ];
        for (from, to, wish, wanted) in table {
            let made = convert(from, to, wish).expect("possible");
            let seen = |one: Option<Shape>| one.map(|one| (one.layout, one.raid_disks));
            assert_eq!(
                (seen(made.first), made.reshape, seen(made.last)),
                wanted,
                "{from:?} {to}"
            );
            assert_eq!(made.result(from).level, to);
        }
    }

    #[test]
    fn what_cannot_be_is_refused_with_a_sentence() {
        let number = LayoutWish::Number;
        for (from, to, wish, part) in [
            (shape(R6, 2, 5), R0, LayoutWish::Default, "raid5 first"),
            (shape(R0, 2, 3), R6, LayoutWish::Default, "raid5 first"),
            (shape(R4, 0, 3), R6, LayoutWish::Default, "raid5 first"),
            (shape(R6, 2, 5), R6, LayoutWish::Default, "already"),
            (shape(R4, 0, 4), R0, number(1), "cannot get layout 1"),
            (shape(R0, 2, 3), R4, number(3), "cannot get layout 3"),
            (shape(R6, 2, 5), R6, number(2), "already"),
            (shape(R6, 2, 5), R6, number(7), "cannot get layout 7"),
            (shape(R5, 2, 5), R5, number(6), "cannot get layout 6"),
            (shape(R6, 2, 5), R5, LayoutWish::Preserve, "reshaped"),
            (shape(R6, 2, 5), R5, number(16), "no layout 16"),
            (shape(R5, 2, 2), R6, LayoutWish::Default, "2 devices"),
            (shape(Level::Raid1, 0, 2), R5, LayoutWish::Default, "raid1"),
            (
                shape(R5, 2, 3),
                Level::Raid10,
                LayoutWish::Default,
                "raid10",
            ),
            (shape(R4, 0, 3), R4, number(1), "keeps"),
        ] {
            let why = convert(from, to, wish).expect_err("refused");
            assert!(why.contains(part), "{why}");
        }
    }

    #[test]
    fn what_it_is_in_the_end_is_known_before() {
        for (from, to, wish, end) in [
            (shape(R5, 2, 4), R6, LayoutWish::Number(8), shape(R6, 8, 5)),
            (shape(R5, 2, 4), R5, LayoutWish::Number(5), shape(R5, 5, 4)),
            (shape(R6, 10, 5), R5, LayoutWish::Default, shape(R5, 2, 4)),
            (
                shape(R5, 2, 4),
                R0,
                LayoutWish::Default,
                shape(R0, RAID0_LAYOUT, 3),
            ),
        ] {
            let made = convert(from, to, wish).expect("it can be");
            assert_eq!(made.result(from), end, "{from:?} to {to}");
        }
    }
}
