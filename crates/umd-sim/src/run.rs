//! Running seeds.

use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};

use crate::engine::Maker;
use crate::monitor::{Rule, Verdict, Violation};
use crate::options::Options;
use crate::trace::Trace;
use crate::world::{Counts, World};

/// How a seed ended.
#[derive(Debug)]
pub struct Outcome {
    /// What was broken, if anything was.
    pub violation: Option<Violation>,
    /// Hash of everything that happened.
    pub hash: u128,
    /// What happened, in numbers.
    pub counts: Counts,
    /// The last lines of the trace, if they were kept.
    pub tail: Vec<String>,
}

/// What is done with the trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Show {
    /// It is hashed only.
    Hash,
    /// Its last lines are kept.
    Tail,
    /// All lines are kept.
    All,
    /// It is printed.
    Print,
}

thread_local! {
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Makes panics of the engine quiet: their text becomes a violation. For a program that does
/// nothing but run seeds.
pub fn capture_panics() {
    panic::set_hook(Box::new(|info| {
        PANIC.with(|slot| *slot.borrow_mut() = Some(info.to_string()));
    }));
}

fn panic_text(payload: &(dyn std::any::Any + Send)) -> String {
    let captured = PANIC.with(|slot| slot.borrow_mut().take());
    let plain = || {
        let text = payload.downcast_ref::<String>().cloned();
        text.or_else(|| {
            payload
                .downcast_ref::<&str>()
                .map(|text| (*text).to_owned())
        })
    };
    captured
        .or_else(plain)
        .unwrap_or_else(|| "a panic without words".into())
}

/// Runs these options.
pub fn run_options(options: Options, maker: &dyn Maker, show: Show) -> Outcome {
    let trace = Trace::of(show);
    let mut world = World::new(options, maker, trace);
    run_world(&mut world, World::run)
}

/// Runs this. A panic is a violation.
pub(crate) fn caught(run: impl FnOnce() -> Verdict) -> Verdict {
    let ran = panic::catch_unwind(AssertUnwindSafe(run));
    ran.unwrap_or_else(|payload| {
        let text = panic_text(payload.as_ref());
        Err(Violation::new(Rule::Panic, text))
    })
}

/// Runs a world in this way. A panic is a violation.
pub(crate) fn run_world<'a>(
    world: &mut World<'a>,
    run: impl FnOnce(&mut World<'a>) -> Verdict,
) -> Outcome {
    let violation = caught(|| run(world)).err();
    Outcome {
        violation,
        hash: world.trace().hash(),
        counts: world.counts(),
        tail: world.trace().tail().map(str::to_owned).collect(),
    }
}

/// Runs a seed.
pub fn run_seed(seed: u64, maker: &dyn Maker, show: Show) -> Outcome {
    run_options(Options::draw(seed), maker, show)
}

/// Runs a seed twice; the runs must not differ.
pub fn run_twice(seed: u64, maker: &dyn Maker) -> Outcome {
    run_options_twice(&Options::draw(seed), maker)
}

/// Runs these options twice; the runs must not differ.
pub fn run_options_twice(options: &Options, maker: &dyn Maker) -> Outcome {
    let mut first = run_options(options.clone(), maker, Show::Hash);
    let second = run_options(options.clone(), maker, Show::Hash);
    let seed = options.seed;
    if first.violation.is_none() && first.hash != second.hash {
        let text = format!("two runs of seed {seed} differ");
        first.violation = Some(Violation::new(Rule::Determinism, text));
    }
    first
}
