//! Every fuzz target on its seeds, and on the same changed inputs each time.

use umd_fuzz::mutate::Mutator;
use umd_fuzz::seeds;
use umd_fuzz::targets;

/// Changed inputs for each target.
const CHANGED: usize = 20_000;

#[test]
fn no_target_breaks_on_its_seeds_or_on_what_is_made_of_them() {
    let corpus = seeds::corpus();
    for (name, run) in targets::ALL {
        let own = corpus.iter().filter(|(path, _)| path.starts_with(name));
        let inputs: Vec<&Vec<u8>> = own.map(|(_, bytes)| bytes).collect();
        assert!(!inputs.is_empty(), "{name} has no seeds");
        inputs.iter().for_each(|input| run(input));
        run(&[]);
        let mut mutator = Mutator::new(1);
        for count in 0..CHANGED {
            let other = inputs[(count / 7) % inputs.len()];
            run(&mutator.change(inputs[count % inputs.len()], other));
        }
    }
    let known =
        |path: &std::path::Path| targets::ALL.iter().any(|(name, _)| path.starts_with(name));
    assert!(corpus.keys().all(|path| known(path)), "seeds of no target");
}
