//! What each level does with a piece of work: pure plans and pure maths, no I/O.

pub mod faulty;
pub mod parity;
