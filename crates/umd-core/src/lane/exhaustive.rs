//! Every short story of range locks, against a list that is searched from the front.

use super::locks::{Holder, LockId, RangeLocks};

/// Ranges that touch, overlap and contain each other; the last two are found by another index than
/// short ones.
const RANGES: [(u64, u64); 6] = [(0, 8), (8, 16), (4, 12), (0, 16), (6, 5000), (4096, 9000)];

/// The same promise, told naively: whoever overlaps an earlier one that is not gone waits.
#[derive(Default)]
struct Queue {
    /// In the order of asking: range, and whether it is held.
    entries: Vec<(u32, (u64, u64), bool)>,
}

fn overlap(a: (u64, u64), b: (u64, u64)) -> bool {
    a.0 < b.1 && b.0 < a.1
}

impl Queue {
    /// Who may hold now: everybody without an earlier entry in the way, and those who do already.
    fn grant(&mut self) -> Vec<u32> {
        let mut granted = Vec::new();
        for at in 0..self.entries.len() {
            let (name, range, held) = self.entries[at];
            let free = self.entries.iter().enumerate().all(|(other, entry)| {
                let earlier = other < at || entry.2;
                other == at || !earlier || !overlap(entry.1, range)
            });
            if !held && free {
                self.entries[at].2 = true;
                granted.push(name);
            }
        }
        granted
    }
}

/// Plays a story: a choice below the number of ranges asks for one, others release the lock that
/// is the first, second or third of those asked for. `false` if it makes no sense.
fn play(story: &[usize]) -> bool {
    let (mut locks, mut queue) = (RangeLocks::default(), Queue::default());
    let mut ids: Vec<(u32, LockId)> = Vec::new();
    for (step, &choice) in story.iter().enumerate() {
        if let Some(range) = RANGES.get(choice) {
            let name = step as u32;
            let (id, held) = locks.acquire(Holder::Job(name), range.0, range.1);
            queue.entries.push((name, *range, false));
            let granted = queue.grant();
            assert_eq!(held, granted == [name], "{range:?}");
            ids.push((name, id));
        } else {
            let which = choice - RANGES.len();
            if which >= ids.len() {
                return false;
            }
            let (name, id) = ids.remove(which);
            queue.entries.retain(|entry| entry.0 != name);
            let granted: Vec<Holder> = queue.grant().into_iter().map(Holder::Job).collect();
            assert_eq!(locks.release(id), granted);
        }
        let held = queue.entries.iter().filter(|entry| entry.2).count();
        let waiting = queue.entries.len() - held;
        assert_eq!((locks.held(), locks.waiting()), (held, waiting));
    }
    for (_, id) in ids {
        locks.release(id);
    }
    assert_eq!(
        (locks.held(), locks.waiting()),
        (0, 0),
        "everybody has a turn"
    );
    true
}

/// Plays the story and every longer one; counts those that make sense.
fn tell(story: &mut Vec<usize>, length_max: usize) -> u32 {
    if !play(story) {
        return 0;
    }
    let mut told = 1;
    let longer = story.len() < length_max;
    let choices = if longer { RANGES.len() + 3 } else { 0 };
    for choice in 0..choices {
        story.push(choice);
        told += tell(story, length_max);
        story.pop();
    }
    told
}

#[test]
fn every_story_of_five_steps_is_fair_and_exclusive() {
    let told = tell(&mut Vec::new(), 5);
    assert!(told > 10_000, "{told}");
}

#[test]
#[ignore = "takes some ten seconds"]
fn every_story_of_six_steps_is_fair_and_exclusive() {
    let told = tell(&mut Vec::new(), 6);
    assert!(told > 50_000, "{told}");
}
