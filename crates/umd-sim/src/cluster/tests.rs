//! Clusters in virtual time: seeds that have to be quiet.

use super::*;

#[test]
fn a_seed_is_all_there_is() {
    for seed in 100..104 {
        let outcome = run_twice(&Plan::draw(seed), Make::default());
        assert_eq!(outcome.violation, None, "seed {seed}");
    }
}
