//! Scripts in which disks lie.

use umd_core::value::{Now, Pool};

use crate::disk::Armed;
use crate::engine::{Candidate, How, Maker, Refused, Started};
use crate::monitor::{Rule, Violation};
use crate::options::Options;
use crate::run::Show;
use crate::script::*;
use crate::shipped::Shipped;

const SHAPES: [(i32, u16); 5] = [(1, 2), (1, 3), (4, 3), (5, 3), (6, 4)];

#[track_caller]
fn passes(options: &Options, steps: &[Step]) {
    let outcome = play(options, steps, &Shipped, Show::Tail);
    assert_eq!(
        outcome.violation, None,
        "RAID{}: {:#?}",
        options.level, outcome.tail
    );
}

/// Sectors of one row.
fn row(options: &Options) -> u64 {
    match options.level {
        1 => 8,
        6 => 8 * u64::from(options.slots - 2),
        _ => 8 * u64::from(options.slots - 1),
    }
}

/// What a check counts for one place that disagrees: a mirror is compared in pieces of 64 KiB,
/// or in regions of its bitmap, parity in pages.
fn piece(options: &Options) -> u64 {
    match (options.level, options.bitmap_bytes) {
        (1, None) => 128,
        _ => 8,
    }
}

/// A check counts so many sectors, a repair leaves none.
fn found_and_repaired(sectors: u64) -> Vec<Step> {
    vec![
        quiet(),
        check(),
        quiet(),
        mismatch(sectors),
        read_all(),
        repair(),
        quiet(),
        mismatch(sectors),
        check(),
        quiet(),
        mismatch(0),
        read_all(),
    ]
}

#[test]
fn rot_on_any_disk_is_found_by_a_check() {
    for (level, slots) in SHAPES {
        for disk in 0..usize::from(slots) {
            let options = plain(level, slots);
            let mut steps = vec![write(0..2 * row(&options)), quiet(), rot(disk, 3..4)];
            steps.extend(found_and_repaired(piece(&options)));
            passes(&options, &steps);
        }
    }
}

#[test]
fn a_lost_write_is_found_by_a_check() {
    for (level, slots) in SHAPES {
        for disk in 0..usize::from(slots) {
            let options = with_bitmap(plain(level, slots));
            let mut steps = vec![
                write(0..2 * row(&options)),
                quiet(),
                arm(disk, Armed::LostWrite),
                write(0..row(&options)),
                flush(),
            ];
            steps.extend(found_and_repaired(piece(&options)));
            passes(&options, &steps);
        }
    }
}

#[test]
fn a_misdirected_write_is_found_where_it_was_meant_to_be_and_where_it_went() {
    for (level, slots) in SHAPES {
        for disk in 0..usize::from(slots) {
            let options = with_bitmap(plain(level, slots));
            let mut steps = vec![
                write(0..2 * row(&options)),
                quiet(),
                arm(disk, Armed::Misdirected(8)),
                write(0..row(&options)),
                flush(),
            ];
            steps.extend(found_and_repaired(2 * piece(&options)));
            passes(&options, &steps);
        }
    }
}

#[test]
fn a_write_that_lands_on_another_disk_spoils_both_and_no_third() {
    for (level, slots) in SHAPES {
        for disk in 0..usize::from(slots) {
            let other = (disk + 1) % usize::from(slots);
            let options = with_bitmap(plain(level, slots));
            let steps = [
                write(0..2 * row(&options)),
                quiet(),
                arm(disk, Armed::Elsewhere(other)),
                write(0..8),
                flush(),
                read_all(),
                repair(),
                quiet(),
                check(),
                quiet(),
                mismatch(0),
                read_all(),
            ];
            passes(&options, &steps);
        }
    }
}

#[test]
fn a_lie_shows_where_the_disk_lied_and_nowhere_else() {
    // The host reads what rotted, and knows the disk lied: legal. It reads what rotted and nobody
    // told: the checkers must not let that pass.
    for (level, slots) in SHAPES {
        let options = plain(level, slots);
        let told = [
            write(0..2 * row(&options)),
            quiet(),
            rot(0, 3..4),
            read_all(),
        ];
        passes(&options, &told);
        let outcome = script(&options, &Shipped, Show::Tail, |script| {
            script.steps(&[write(0..2 * row(&options)), quiet()])?;
            script.rot_untold(0, 3..4);
            script.steps(&[read_all(), stop()])
        });
        let rule = outcome.violation.map(|violation| violation.rule);
        assert!(
            matches!(rule, Some(Rule::Content | Rule::Parity | Rule::Source)),
            "RAID{level}: {rule:?}"
        );
    }
}

#[test]
fn what_is_written_over_a_lie_counts_again() {
    for (level, slots) in SHAPES {
        let options = plain(level, slots);
        let lied = [
            write(0..2 * row(&options)),
            quiet(),
            rot(0, 3..4),
            write(0..row(&options)),
            flush(),
            quiet(),
        ];
        passes(
            &options,
            &[&lied[..], &[check(), quiet(), mismatch(0), fail(0)]].concat(),
        );
        let outcome = script(&options, &Shipped, Show::Tail, |script| {
            script.steps(&lied)?;
            script.rot_untold(0, 3..4);
            script.steps(&[read_all(), stop()])
        });
        assert!(outcome.violation.is_some(), "RAID{level}");
    }
}

#[test]
fn a_sector_that_a_power_cut_made_unreadable_is_cured() {
    for (level, slots) in SHAPES {
        for disk in 0..usize::from(slots) {
            let options = with_bitmap(plain(level, slots));
            let mut shorn = 0;
            let outcome = script(&options, &Shipped, Show::Tail, |script| {
                script.steps(&[
                    write(0..2 * row(&options)),
                    quiet(),
                    shear(disk),
                    hold(io().writes().purpose(data())),
                    hold(io().writes().purpose(parity())),
                    start(write(0..row(&options))),
                    sleep_ms(50),
                    power_cut([Fate::Lost]),
                ])?;
                shorn = script.disk(disk).damaged().len();
                script.steps(&[
                    boot_all(),
                    settle(),
                    read_all(),
                    check(),
                    quiet(),
                    mismatch(0),
                ])?;
                let left = script.disk(disk).damaged().clone();
                assert!(left.is_empty(), "RAID{level}, disk {disk}: {left:?}");
                Ok(())
            });
            assert_eq!(outcome.violation, None, "{:#?}", outcome.tail);
            assert_eq!(shorn, 1, "RAID{level}, disk {disk}");
        }
    }
}

#[test]
fn what_can_be_read_is_not_computed_from_parity_in_doubt() {
    // Parity of sector 20 has been written, and its data has not. Sector 0 of the other column
    // cannot be read. Nothing was being written to sector 20 there, so it is what it was.
    // The resync takes a while to come there.
    let mut options = plain(5, 3);
    options.chunk_sectors = 64;
    options.disk_sectors.fill(64 + 16_384);
    let at = 252 * 128;
    let steps = [
        write(at..at + 128),
        quiet(),
        shear(0),
        hold(io().writes().purpose(data())),
        start(write(at..at + 1)),
        start(write(at + 84..at + 85)),
        sleep_ms(50),
        power_cut([Fate::Lost, Fate::Lost, Fate::Kept]),
        boot_all(),
        read(at..at + 64),
        settle(),
        read_all(),
    ];
    passes(&options, &steps);
}

/// Takes the copy and leaves the disk that it is of.
struct Believes(&'static str);

impl Maker for Believes {
    fn start(
        &self,
        candidates: &[Candidate<'_>],
        how: How<'_>,
        now: Now,
        pool: &Pool,
    ) -> Result<Started, Refused> {
        let some = |name: &str| candidates.iter().any(|one| one.name == name);
        let believed: Vec<Candidate<'_>> = candidates
            .iter()
            .filter(|one| one.name != self.0 || !some("copy"))
            .map(|one| Candidate {
                id: one.id,
                disk: one.disk,
                name: one.name.clone(),
            })
            .collect();
        Shipped.start(&believed, how, now, pool)
    }
}

fn with_a_copy(options: &Options, maker: &dyn Maker) -> Option<Violation> {
    let steps = [
        write(0..16),
        stop(),
        clone(1),
        boot_all(),
        write(0..32),
        stop(),
        boot_all(),
        in_sync(usize::from(options.slots)),
        read_all(),
    ];
    play(options, &steps, maker, Show::Tail).violation
}

#[test]
fn an_old_copy_of_a_member_is_never_mixed_in() {
    for (level, slots) in SHAPES {
        for bitmap in [false, true] {
            for minor in [0, 1, 2] {
                let mut options = plain(level, slots);
                if minor == 0 {
                    options.data_offset_sectors = None;
                }
                options.minor = minor;
                if bitmap {
                    options = with_bitmap(options);
                }
                assert_eq!(
                    with_a_copy(&options, &Shipped),
                    None,
                    "RAID{level} 1.{minor}"
                );
            }
        }
        let found = with_a_copy(&plain(level, slots), &Believes("disk1"));
        assert_eq!(found.expect("mixed in").rule, Rule::Source, "RAID{level}");
    }
}

#[test]
fn a_member_that_lost_a_sector_is_refused_with_a_reason() {
    for (level, slots) in SHAPES {
        for minor in [1, 2] {
            let mut options = plain(level, slots);
            options.minor = minor;
            let all: Vec<usize> = (0..usize::from(slots)).collect();
            let rest: Vec<usize> = all.iter().copied().filter(|disk| *disk != 1).collect();
            let steps = [
                write(0..64),
                stop(),
                shorten(1),
                boot_refused(all),
                boot(rest.clone()),
                in_sync(rest.len()),
                read_all(),
                write(0..8),
            ];
            let outcome = play(&options, &steps, &Shipped, Show::All);
            assert_eq!(outcome.violation, None, "{:#?}", outcome.tail);
            let reason = "refused: disk1: device is too small";
            let some = outcome.tail.iter().any(|line| line.contains(reason));
            assert!(some, "RAID{level} 1.{minor}: {:#?}", outcome.tail);
        }
    }
}

#[test]
fn a_member_whose_superblock_left_with_its_end_is_not_there() {
    for (level, slots) in SHAPES {
        let mut options = plain(level, slots);
        (options.minor, options.data_offset_sectors) = (0, None);
        let left = usize::from(slots) - 1;
        let steps = [
            write(0..64),
            stop(),
            shorten(1),
            boot_all(),
            in_sync(left),
            read_all(),
            write(0..8),
        ];
        passes(&options, &steps);
    }
}

#[test]
fn disks_that_flush_for_fua_do_more_than_they_are_asked_for() {
    for (level, slots) in SHAPES {
        let mut options = with_bitmap(plain(level, slots));
        options.emulated_fua = u64::MAX;
        let steps = [
            write(0..8),
            write_fua(64..66),
            power_cut([Fate::Lost]),
            boot_all(),
            settle(),
            read_all(),
        ];
        passes(&options, &steps);
    }
}
