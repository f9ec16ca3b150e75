use umd_core::array::Purpose;
use umd_core::value::Span;

use super::*;
use crate::monitor::{Rule, Violation};
use crate::run::Show;
use crate::sabotage::{Harm, Sabotage};

fn fails(options: &Options, steps: &[Step], harm: Harm) -> Option<Violation> {
    play(options, steps, &Sabotage(harm), Show::Tail).violation
}

#[track_caller]
fn passes(options: &Options, steps: &[Step]) {
    let outcome = play(options, steps, &Sabotage(Harm::None), Show::Tail);
    assert_eq!(outcome.violation, None, "{:#?}", outcome.tail);
}

#[track_caller]
fn caught(options: &Options, steps: &[Step], harm: Harm, rules: &[Rule]) {
    passes(options, steps);
    let found = fails(options, steps, harm).map(|violation| violation.rule);
    assert!(found.is_some_and(|rule| rules.contains(&rule)), "{found:?}");
}

#[test]
fn every_level_can_be_driven() {
    for (level, slots) in [(1, 2), (4, 3), (5, 3), (6, 4)] {
        let options = with_drawer(with_bitmap(plain(level, slots)), 1);
        let steps = [
            write(3..21),
            start(write_fua(40..44)),
            zero(0..5),
            trim(16..32),
            flush(),
            await_all(),
            fail(1),
            write(8..9),
            remove(1),
            add(usize::from(slots)),
            settle(),
            in_sync(usize::from(slots)),
            check(),
            quiet(),
            read_all(),
            stop(),
            boot_all(),
            read(0..64),
        ];
        passes(&options, &steps);
    }
}

#[test]
fn a_step_that_is_not_true_is_said_so() {
    let found = fails(&plain(1, 2), &[fail(0), in_sync(2)], Harm::None);
    assert!(found.expect("one is missing").text.contains("1 members"));
    let found = fails(&plain(1, 2), &[refused(check())], Harm::None);
    assert!(found.expect("it is done").text.contains("must be refused"));
    let wait = hold(io().writes().purpose(data()).disk(1));
    let found = fails(&plain(5, 3), &[wait, write(0..8), settle()], Harm::None);
    // A member that never answers is failed, and the write goes on without it.
    assert_eq!(found, None);
}

#[test]
fn the_write_hole_of_a_whole_raid5_is_closed_by_the_resync() {
    for bitmap in [false, true] {
        for fates in [
            [Fate::Lost, Fate::Kept, Fate::Lost],
            [Fate::Kept, Fate::Lost, Fate::Lost],
        ] {
            let options = match bitmap {
                true => with_bitmap(plain(5, 3)),
                false => plain(5, 3),
            };
            let both_flying = until(io().writes().purpose(parity()));
            let steps = [
                write(0..16),
                flush(),
                start(write(0..8)),
                both_flying,
                power_cut(fates.to_vec()),
                boot_all(),
                settle(),
                fail(2),
                read_all(),
            ];
            passes(&options, &steps);
        }
    }
}

#[test]
fn a_stale_member_comes_back_and_is_not_believed() {
    let steps = [
        write(0..8),
        fail(0),
        write(0..8),
        flush(),
        power_cut([Fate::Kept]),
        boot([0, 1]),
        read_all(),
        in_sync(1),
        stop(),
        boot([1]),
        re_add(0),
        settle(),
        in_sync(2),
        fail(1),
        read_all(),
    ];
    passes(&with_bitmap(plain(1, 2)), &steps);
}

#[test]
fn held_writes_end_when_they_are_released() {
    let landed = io().writes().purpose(data()).disk(0).done();
    let steps = [
        write(0..1),
        hold(io().writes().purpose(Purpose::Data).disk(1)),
        start(write(8..16)),
        until(landed),
        sleep_ms(50),
        release(),
        await_all(),
        kill(true),
        boot_all(),
        settle(),
        read_all(),
    ];
    passes(&plain(1, 2), &steps);
}

#[test]
fn faults_within_redundancy_are_survived() {
    for (level, slots) in [(1, 2), (5, 3), (6, 4)] {
        let options = with_bitmap(plain(level, slots));
        passes(
            &options,
            &[
                write(0..64),
                flush(),
                damage(1, 0..16),
                read_all(),
                write(0..3),
            ],
        );
        passes(
            &options,
            &[write(0..64), vanish(0), write(1..33), read_all()],
        );
        let faults = [
            Armed::WriteError,
            Armed::MetadataWriteError,
            Armed::FlushError,
            Armed::Hang(Span(90_000_000_000)),
        ];
        for armed in faults {
            passes(
                &options,
                &[
                    write(0..8),
                    arm(1, armed),
                    write(0..64),
                    flush(),
                    read_all(),
                ],
            );
        }
    }
}

/// A crash comes before any superblock has recorded who failed a flush, and was removed at once:
/// it is believed again, and so is what it lost.
#[test]
fn who_was_removed_before_that_was_recorded_is_believed_after_a_crash() {
    let options = with_bitmap(plain(5, 3));
    let parts = |disk| {
        [
            write(0..8),
            arm(disk, Armed::FlushError),
            hold(io().purpose(Purpose::Super)),
            start(flush()),
            sleep_ms(200),
            start(remove(disk)),
            sleep_ms(200),
            kill(false),
            boot_all(),
            vanish((disk + 1) % 3),
            read_all(),
        ]
    };
    for disk in 0..3 {
        passes(&options, &parts(disk));
    }
}

#[test]
fn assembly_refuses_what_it_must() {
    let options = plain(5, 3);
    passes(
        &options,
        &[stop(), boot_refused([0]), boot([0, 2]), read_all()],
    );
    let dirty = [start(write(0..8)), until(io().writes().purpose(data()))];
    let mut steps = dirty.to_vec();
    steps.extend([power_cut([Fate::Kept]), boot_refused([0, 1]), boot_all()]);
    passes(&options, &steps);
    let found = fails(&options, &[stop(), boot_refused([0, 2])], Harm::None);
    assert!(
        found
            .expect("two of three start")
            .text
            .contains("must be refused")
    );
}

#[test]
fn planted_faults_are_caught() {
    let mirror = with_bitmap(plain(1, 2));
    let flushed = [write(0..8), flush(), power_cut([Fate::Lost]), boot_all()];
    caught(&mirror, &flushed, Harm::FlushSkipped, &[Rule::Flush]);
    let forced = [write_fua(0..8), power_cut([Fate::Lost]), boot_all()];
    caught(&mirror, &forced, Harm::FuaDropped, &[Rule::Flush]);
    // The bits of a new bitmap are set: here they stay so.
    caught(&mirror, &[write(0..8)], Harm::BitsDropped, &[Rule::Clear]);
    caught(
        &mirror,
        &[write(0..8)],
        Harm::SuperVolatile,
        &[Rule::Intent],
    );
    let failing = [arm(1, Armed::WriteError), write(0..8), settle()];
    caught(
        &mirror,
        &failing,
        Harm::ErrorsSwallowed,
        &[Rule::Quarantine],
    );
    let mut many: Vec<Step> = (0..20).map(|n| write(n * 3..n * 3 + 2)).collect();
    many.push(stop());
    caught(
        &plain(5, 3),
        &many,
        Harm::ParityDropped,
        &[Rule::Parity, Rule::Clear],
    );
}

#[test]
fn a_script_may_be_a_function() {
    let outcome = script(&plain(5, 3), &Sabotage(Harm::None), Show::Tail, |script| {
        script.step(&write(0..script.array_sectors()))?;
        let degraded = script.status().expect("it runs").degraded;
        assert_eq!((degraded, script.is_beyond()), (0, false));
        script.step(&fail(0))?;
        assert_eq!(script.disk(0).in_flight(), 0);
        script.step(&vanish(1))?;
        assert!(script.is_beyond());
        Ok(())
    });
    assert_eq!(outcome.violation, None);
    let again = |steps: &[Step]| play(&plain(6, 4), steps, &Sabotage(Harm::None), Show::Hash).hash;
    assert_eq!(again(&[write(0..9)]), again(&[write(0..9)]));
    assert_ne!(again(&[write(0..9)]), again(&[write(0..10)]));
}

/// A mirror whose first member is write-mostly, and a write that lags there when the process dies:
/// nothing in flight lands.
fn killed_while_it_lags() -> (Options, Vec<Step>) {
    let steps = [
        quiet(),
        hold(io().writes().purpose(data()).disk(0)),
        write(0..8),
        kill(false),
    ];
    (with_behind(with_bitmap(plain(1, 2)), 1, 8), steps.into())
}

#[test]
fn what_lagged_is_taken_from_ordinary_members_after_a_kill() {
    let (options, mut steps) = killed_while_it_lags();
    steps.extend([boot_all(), read(0..8), settle(), read_all()]);
    passes(&options, &steps);
}

/// A member becomes write-mostly, writes lag there, and the process dies: what was answered is on
/// the other one, and the superblocks say which that is.
#[test]
fn members_become_write_mostly_and_ordinary_again() {
    let mut steps = vec![quiet(), mostly(0), fast(1)];
    steps.extend([
        hold(io().writes().purpose(data()).disk(0)),
        write(0..8),
        start(mostly(0)),
        start(write(8..16)),
        sleep_ms(10),
        release(),
        await_all(),
        // Now writes lag on neither, then on the other one.
        mostly(1),
        hold(io().writes().purpose(data()).disk(1)),
        write(0..8),
        kill(false),
        boot_all(),
        read(0..8),
        settle(),
        read_all(),
    ]);
    passes(&with_behind(with_bitmap(plain(1, 2)), 0, 8), &steps);
    passes(&with_behind(with_bitmap(plain(1, 2)), 0, 1), &steps);
}

/// What write-behind may lose: the process died, and the ordinary member does not come back.
#[test]
fn what_lagged_may_be_old_where_no_ordinary_member_comes_back() {
    let (options, mut steps) = killed_while_it_lags();
    steps.insert(3, vanish(1));
    steps.extend([boot([0]), read(0..8)]);
    passes(&options, &steps);
}

/// Without a crash nothing may be lost: the read waits until the write has landed.
#[test]
fn while_the_array_runs_what_lags_is_not_lost_with_the_ordinary_member() {
    let (options, mut steps) = killed_while_it_lags();
    steps.truncate(3);
    steps.extend([
        vanish(1),
        start(read(0..8)),
        sleep_ms(10),
        release(),
        await_all(),
    ]);
    passes(&options, &steps);
}
