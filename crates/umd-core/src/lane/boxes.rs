//! Places of jobs, used again.
//!
//! ```text
//!   a job begins --take--> Box --(stepped by value: eight bytes move)--> over --give back--> shelf
//! ```
//!
//! A machine that is stepped by value moves at each step. In its box it does not, and the box of a
//! job that is over is the box of the next one: nobody asks for memory, and what a job begins with
//! is written where it stays.

/// As many are kept.
const KEPT_MAX: usize = 256;

/// A job that lies in a box.
pub(super) trait Boxed: Default {
    /// The job is over: what it had goes, and what is left is as [`Default`] makes it, but for
    /// memory that lists have for the next one.
    fn vacate(&mut self);
}

/// Boxes of one kind of job; those here hold nothing.
#[derive(Debug)]
pub(super) struct Boxes<T>(Vec<Box<T>>);

impl<T> Default for Boxes<T> {
    fn default() -> Self {
        Boxes(Vec::new())
    }
}

impl<T: Boxed> Boxes<T> {
    /// A box that holds nothing.
    pub fn empty(&mut self) -> Box<T> {
        self.0.pop().unwrap_or_default()
    }

    /// Puts a job into a box.
    pub fn take(&mut self, job: T) -> Box<T> {
        let mut place = self.empty();
        *place = job;
        place
    }

    /// The job is over: what it had goes now.
    pub fn give_back(&mut self, mut place: Box<T>) {
        if self.0.len() < KEPT_MAX {
            place.vacate();
            self.0.push(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;

    impl<T> Boxed for Option<T> {
        fn vacate(&mut self) {
            *self = None;
        }
    }

    #[test]
    fn what_a_job_had_goes_when_it_is_over() {
        let (mut boxes, held) = (Boxes::default(), Rc::new(7));
        let place = boxes.take(Some(held.clone()));
        let address = std::ptr::from_ref(&*place).addr();
        boxes.give_back(place);
        assert_eq!(Rc::strong_count(&held), 1);
        let again = boxes.take(Some(held.clone()));
        assert_eq!(std::ptr::from_ref(&*again).addr(), address);
        assert_eq!(*again, Some(held));
    }

    #[test]
    fn no_more_are_kept_than_may_be() {
        let mut boxes = Boxes::default();
        let many: Vec<Box<Option<u8>>> = (0..=KEPT_MAX).map(|_| boxes.take(Some(1))).collect();
        many.into_iter().for_each(|place| boxes.give_back(place));
        assert_eq!(boxes.0.len(), KEPT_MAX);
        assert_eq!(*boxes.empty(), None);
    }
}
