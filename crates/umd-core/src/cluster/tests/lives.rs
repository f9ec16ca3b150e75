//! A test for each scene: what fails has its name, and the short ones are over at once.
//!
//! ```text
//!   a_writer_is_paused   ->   "a writer is paused"   ->   every life of it ends well
//! ```

use super::scenes::{SCENES, Scene};
use super::{STATES_MAX, live};

/// The name of the test of a scene.
fn test_of(scene: &Scene) -> String {
    scene.name.replace(',', "").replace(' ', "_")
}

fn ends_well(test: &str) {
    let found = SCENES.iter().find(|scene| test_of(scene) == test);
    assert!(live(found.expect("a scene of that name"), STATES_MAX));
}

macro_rules! lives {
    ($($test:ident)*) => {
        const TESTS: &[&str] = &[$(stringify!($test)),*];
        $(
            #[test]
            fn $test() {
                ends_well(stringify!($test));
            }
        )*
    };
}

lives! {
    two_update_at_once
    three_update_at_once
    an_updater_dies
    one_of_three_updaters_dies
    a_writer_dies
    a_writer_dies_and_who_takes_its_slot
    a_writer_is_paused
    a_resync_while_others_write
    a_resync_and_its_node_dies
    a_resync_and_its_node_is_paused
    a_resync_and_its_node_leaves
    one_joins_while_others_update
    one_joins_while_others_update_and_leaves
    a_resync_while_both_update
    all_leave
    one_leaves_while_another_is_paused
    a_message_is_timed_out_though_its_receiver_lives
    no_proof_is_to_be_had
    one_dies_and_comes_back
    a_copy_fails
    both_have_something_else_to_say
    both_resize_their_bitmaps
    one_cannot_follow
    both_change_what_bits_stand_for_and_one_dies
    a_size_grows_and_a_node_dies
    a_size_grows_while_one_joins
    a_size_cannot_grow_while_one_joins
}

#[test]
fn every_scene_is_lived() {
    let scenes: Vec<String> = SCENES.iter().map(test_of).collect();
    assert_eq!(scenes, TESTS);
}
