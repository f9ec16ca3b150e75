//! docs/museum.md, made of the catalogue, the scenes and the figures.

use std::fmt::Write;

use super::catalogue::{Entry, catalogue};
use super::clustered;
use super::rates::{Rate, kept};
use super::scenes::scene;
use crate::run::Show;
use crate::script::play;
use crate::shipped::Shipped;

/// Where it is kept.
pub const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/museum.md");

const HEAD: &str = "\
# The museum

Made by `cargo xtask sim --museum --write-docs`; do not edit.

What finds bugs has to be shown to find them. Each exhibit is a mistake that was made in the
kernel's md, or here, and was mended since. A switch in the engine makes it again, in the place
where this engine takes the decision that was once taken wrongly: look for its name in
`crates/umd-core/src`. The switches exist only in a simulator built with the feature `museum`; a
shipped `umd` has no trace of them, which `cargo xtask test` checks.

Each exhibit is shown to be noticed in two ways:

* a **scene**, a short script that breaks a rule with the switch on, and none with it off
  (`cargo xtask test`, stage museum);
* **random search**: how many seeds, from seed 0 on, until one notices it that passes without the
  mistake (`cargo xtask sim --museum --seeds 20000 --record`; a search that has found nothing goes
  on with `--start`).

*Expected* is the rule that the study behind the simulator expected to be broken (G1 to G14 are its
numbers); *scene* and *random* are the rules that were broken first. The rules are told at `Rule` in
`crates/umd-sim/src/monitor/mod.rs`. Titles are those of the kernel's commits.
";

const TAIL: &str = "
## What is not here

| exhibits of the study | why |
|---|---|
| M04 | the split of a discard is one computation here, there is nothing to restart from |
| M23, M24 | RAID10 is not reshaped |
| M32 | the engine has no such decision: a write is addressed by the members as they are at that \
moment, and a unit that met a failure writes nothing |
| M38, M39, M40 | no partial parity log and no journal yet |
| M45 | nothing is rebuilt while an array is reshaped, and no reshape takes devices away |
| M46, M49 | the number of members that a reshape works on does not change |
| M50 | one value holds the reshape that there is |
| M64 | the refusal is there; all simulated disks of an array have sectors of one size, of 512 or \
of 4096 bytes |
| M64b | simulated arrays have no names; the core's names are explored event by event \
(`umd_core::registry`), and their wiring under shuttle |
| ack_unrecorded, sb_outruns (prototype) | the same decisions as M10 and M55 |
";

fn figure(rate: Option<&Rate>) -> String {
    match rate {
        None => "not measured".into(),
        Some(Rate { seeds, rule: None }) => format!("none of {seeds}"),
        Some(Rate {
            seeds,
            rule: Some(rule),
        }) => format!("{seeds} ({rule})"),
    }
}

/// What the tables come to.
fn summary(text: &mut String) {
    let rates = kept();
    let found = |entry: &&Entry| {
        let rate = rates.get(&format!("{:?}", entry.exhibit));
        rate.is_some_and(|rate| rate.rule.is_some())
    };
    let shown = |entry: &&Entry| {
        use crate::monitor::Rule::{Content, Error, Liveness, Panic};
        !matches!(entry.scripted, Content | Error | Liveness | Panic)
    };
    let missed = catalogue().filter(|entry| !found(entry));
    let missed: Vec<String> = missed.map(|entry| format!("{:?}", entry.exhibit)).collect();
    write!(
        text,
        "\n{} exhibits. {} of the scenes break a rule about the engine's own conduct, before a \
         host could\nsee anything. Random search has noticed {}.",
        catalogue().count(),
        catalogue().filter(shown).count(),
        catalogue().filter(found).count(),
    )
    .expect("strings take everything");
    if !missed.is_empty() {
        let missed = missed.join(", ");
        write!(text, " Not so far, in the seeds that were run: {missed}.")
            .expect("strings take everything");
    }
    text.push('\n');
}

fn row(text: &mut String, entry: &Entry) {
    let name = format!("{:?}", entry.exhibit);
    let rates = kept();
    let forced = super::search::forced(entry.exhibit);
    let forced = forced.map_or_else(String::new, |word| format!(", with `{word}`"));
    writeln!(
        text,
        "| {name} | {} | {} | {:?} | {} |",
        entry.title,
        entry.expected,
        entry.scripted,
        figure(rates.get(&name)) + &forced,
    )
    .expect("strings take everything");
}

fn story(text: &mut String, entry: &Entry) {
    let plot = match clustered::scene(entry.exhibit) {
        Some((_, plot)) => plot,
        None => scene(entry.exhibit).plot,
    };
    let Entry {
        exhibit,
        source,
        story,
        ..
    } = entry;
    writeln!(
        text,
        "* **{exhibit:?}** ({source}). {story} *Scene:* {plot}."
    )
    .expect("strings take everything");
}

fn part<'a>(text: &mut String, title: &str, entries: impl Iterator<Item = &'a Entry> + Clone) {
    let head = "| | title | expected | scene | random: seeds |\n|---|---|---|---|---|\n";
    write!(text, "\n## {title}\n\n{head}").expect("strings take everything");
    entries.clone().for_each(|entry| row(text, entry));
    text.push('\n');
    entries.for_each(|entry| story(text, entry));
}

/// The document.
pub fn document() -> String {
    let mut text = String::from(HEAD);
    summary(&mut text);
    let ours = |entry: &&Entry| format!("{:?}", entry.exhibit).starts_with('U');
    let md = move |entry: &&Entry| !ours(entry);
    part(&mut text, "Mistakes of md", catalogue().filter(md));
    part(&mut text, "Our own bugs", catalogue().filter(ours));
    text.push_str(TAIL);
    text
}

/// Plays a scene without and with its mistake: what each of them broke.
pub fn perform(entry: &Entry, show: Show) -> [Option<crate::monitor::Violation>; 2] {
    let clusters = clustered::make(entry.exhibit).zip(clustered::scene(entry.exhibit));
    if let Some((make, (plan, _))) = clusters {
        return clustered::both(&plan, make, show);
    }
    let scene = scene(entry.exhibit);
    let maker = super::Mistaken(entry.exhibit);
    let off = play(&scene.options, &scene.steps, &Shipped, Show::Hash);
    let on = play(&scene.options, &scene.steps, &maker, show);
    [off.violation, on.violation]
}
