//! The event queue: virtual time, and a seeded choice among events of the same instant.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use umd_core::value::Instant;

use crate::rng::Rng;

struct Entry<E> {
    due: Instant,
    tie: u64,
    number: u64,
    event: E,
}

impl<E> Entry<E> {
    fn key(&self) -> (Instant, u64, u64) {
        (self.due, self.tie, self.number)
    }
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl<E> Eq for Entry<E> {}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Entry<E> {
    /// Reversed: the heap gives its greatest entry, and the earliest is wanted.
    fn cmp(&self, other: &Self) -> Ordering {
        other.key().cmp(&self.key())
    }
}

/// Events to come.
pub struct Queue<E> {
    heap: BinaryHeap<Entry<E>>,
    rng: Rng,
    number: u64,
}

impl<E> Queue<E> {
    /// An empty queue; `rng` orders events of the same instant.
    pub fn new(rng: Rng) -> Queue<E> {
        Queue {
            heap: BinaryHeap::new(),
            rng,
            number: 0,
        }
    }

    /// Adds an event.
    pub fn push(&mut self, due: Instant, event: E) {
        let tie = self.rng.next_u64();
        self.push_at(due, tie, event);
    }

    /// Adds an event that comes after all others of its instant. Such events keep their order.
    pub fn push_last(&mut self, due: Instant, event: E) {
        self.push_at(due, u64::MAX, event);
    }

    fn push_at(&mut self, due: Instant, tie: u64, event: E) {
        self.number += 1;
        self.heap.push(Entry {
            due,
            tie,
            number: self.number,
            event,
        });
    }

    /// Takes the next event out.
    pub fn pop(&mut self) -> Option<(Instant, E)> {
        self.heap.pop().map(|entry| (entry.due, entry.event))
    }

    /// The next event, and when it is due.
    pub fn peek(&self) -> Option<(Instant, &E)> {
        self.heap.peek().map(|entry| (entry.due, &entry.event))
    }

    /// When the next event is due.
    pub fn next_due(&self) -> Option<Instant> {
        self.heap.peek().map(|entry| entry.due)
    }

    /// Events waiting.
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// Forgets everything (the machine went off).
    pub fn clear(&mut self) {
        self.heap.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Stream;

    fn order(seed: u64) -> Vec<u32> {
        let mut queue = Queue::new(Rng::new(seed, Stream::Schedule));
        for n in 0..20 {
            queue.push(Instant(if n < 10 { 5 } else { 3 }), n);
        }
        std::iter::from_fn(|| queue.pop()).map(|(_, n)| n).collect()
    }

    #[test]
    fn time_orders_first_and_the_seed_among_equals() {
        let a = order(1);
        assert!(a[..10].iter().all(|&n| n >= 10) && a[10..].iter().all(|&n| n < 10));
        assert_eq!(a, order(1));
        assert_ne!(a, order(2));
        assert_ne!(a[..10], (10..20).collect::<Vec<_>>()[..]);
    }

    #[test]
    fn what_comes_last_keeps_its_order() {
        let mut queue = Queue::new(Rng::new(1, Stream::Schedule));
        queue.push_last(Instant(3), 20);
        queue.push_last(Instant(3), 21);
        (0..20).for_each(|n| queue.push(Instant(3), n));
        queue.push_last(Instant(3), 22);
        let order: Vec<u32> = std::iter::from_fn(|| queue.pop()).map(|(_, n)| n).collect();
        assert_eq!(order[20..], [20, 21, 22]);
    }
}
