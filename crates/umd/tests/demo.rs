//! `umd demo` from beginning to end, and a second time.

mod common;

use common::Home;

#[test]
fn the_demonstration_plays_to_its_end() {
    let home = Home::new();
    let played = home.umd("demo show --size 16M").ok();
    for words in [
        "array demo started.",
        "every byte as written",
        "demo: clean, degraded, 2 of 3 members in sync",
        "mismatch_cnt 0",
        "What to type next:",
        "umd assemble show/a.img show/c.img show/d.img",
    ] {
        assert!(played.out.contains(words), "{words}\n{}", played.out);
    }
    let refusal = home.umd("demo show").fails(1);
    assert!(refusal.contains("exists and is not empty"), "{refusal}");
    // What it says to type next works.
    home.umd("detail demo").ok();
    home.umd("stop demo").ok();
    home.umd("assemble show/a.img show/c.img show/d.img").ok();
}
