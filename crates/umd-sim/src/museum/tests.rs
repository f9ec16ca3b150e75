use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::*;
use crate::run::Show;

#[test]
fn every_exhibit_is_noticed_by_its_scene_and_only_with_its_mistake() {
    let mut wrong = Vec::new();
    for entry in catalogue() {
        let began = Instant::now();
        let [off, on] = perform(entry, Show::Hash);
        let name = entry.exhibit;
        let rule = on.as_ref().map(|on| on.rule);
        match off {
            Some(off) => wrong.push(format!("{name:?}, not mistaken, broke {off}")),
            None if rule != Some(entry.scripted) => {
                wrong.push(format!(
                    "{name:?} broke {on:?} instead of {:?}",
                    entry.scripted
                ));
            }
            None => {}
        }
        if began.elapsed() > Duration::from_secs(5) {
            wrong.push(format!("{name:?} took {:?}", began.elapsed()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn exhibits_are_told_once_and_found_by_their_names() {
    let names: Vec<String> = catalogue().map(|e| format!("{:?}", e.exhibit)).collect();
    let once: BTreeSet<&String> = names.iter().collect();
    assert_eq!(once.len(), names.len());
    assert!(names.len() > 50, "{}", names.len());
    assert!(by_name("M08").is_some_and(|e| e.source == "46669e8616c6"));
    assert!(by_name("M99").is_none());
    for name in rates::kept().keys() {
        assert!(names.contains(name), "a figure of {name}");
    }
}

#[test]
fn the_document_says_what_the_code_says() {
    let kept = std::fs::read_to_string(document::FILE).expect("docs/museum.md");
    assert!(
        kept == document(),
        "docs/museum.md is old: cargo xtask sim --museum --write-docs"
    );
}

#[test]
fn random_search_finds_what_is_common() {
    for name in ["M08", "M10", "M14", "U17"] {
        let entry = by_name(name).expect("an exhibit");
        let found = search(entry.exhibit, 0, 200);
        assert!(found.is_some_and(|found| found.seeds <= 200), "{name}");
    }
}

#[test]
fn a_program_with_the_museum_can_be_told_by_its_marker() {
    // That a shipped program has none is looked at by `cargo xtask test`, for the same words.
    let program = std::env::current_exe().expect("this program");
    let bytes = std::fs::read(program).expect("it can be read");
    let marker = umd_core::value::MARKER.as_bytes();
    assert!(bytes.windows(marker.len()).any(|window| window == marker));
}

#[test]
fn mistakes_about_bits_are_noticed_where_the_bits_lie_in_a_file() {
    use crate::monitor::Rule;
    use crate::script::*;
    let steps = [quiet(), write(0..8), quiet(), write(0..8)];
    for (level, slots) in [(1, 2), (5, 3), (6, 4)] {
        let options = with_bitmap_file(plain(level, slots));
        let rule = |maker: &dyn crate::engine::Maker| {
            let outcome = play(&options, &steps, maker, Show::Hash);
            outcome.violation.map(|violation| violation.rule)
        };
        assert_eq!(rule(&crate::shipped::Shipped), None, "RAID{level}");
        let unmarked = Mistaken(umd_core::value::Exhibit::M08);
        assert_eq!(rule(&unmarked), Some(Rule::Intent), "RAID{level}");
        let unflushed = Mistaken(umd_core::value::Exhibit::U06);
        assert_eq!(rule(&unflushed), Some(Rule::Clear), "RAID{level}");
    }
}
