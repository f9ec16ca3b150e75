//! The trace: a hash of everything that happened, and the text of it for whoever looks.

use std::collections::VecDeque;
use std::fmt;

use crate::rng::mix;
use crate::run::Show;

/// How much text is kept for the report of a failure.
const TAIL_LINES: usize = 400;

/// Collects what happens in a run.
#[derive(Debug, Default)]
pub struct Trace {
    hash: [u64; 2],
    lines: u64,
    print: bool,
    keep: bool,
    tail: VecDeque<String>,
    limit: usize,
}

struct Hasher<'a>(&'a mut [u64; 2]);

impl fmt::Write for Hasher<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for piece in text.as_bytes().chunks(8) {
            let mut word = [0; 8];
            word[..piece.len()].copy_from_slice(piece);
            let word = u64::from_le_bytes(word) ^ piece.len() as u64;
            self.0[0] = mix(self.0[0] ^ word);
            self.0[1] = self.0[1]
                .rotate_left(23)
                .wrapping_mul(0x2545_f491_4f6c_dd1d)
                ^ word;
        }
        Ok(())
    }
}

impl Trace {
    /// A trace that hashes; with `print` it also writes every line to standard output.
    pub fn new(print: bool, keep: bool) -> Trace {
        Trace {
            print,
            keep,
            limit: TAIL_LINES,
            ..Trace::default()
        }
    }

    /// The trace that this show wants.
    pub fn of(show: Show) -> Trace {
        let keep = matches!(show, Show::Tail | Show::All);
        let mut trace = Trace::new(show == Show::Print, keep);
        if show == Show::All {
            trace.limit = usize::MAX;
        }
        trace
    }

    /// An empty trace that shows as much as this one.
    pub fn twin(&self) -> Trace {
        let mut trace = Trace::new(self.print, self.keep);
        trace.limit = self.limit;
        trace
    }

    /// Takes over the lines of another trace.
    pub fn adopt(&mut self, other: &Trace) {
        if self.keep {
            self.tail.extend(other.tail.iter().cloned());
            let surplus = self.tail.len().saturating_sub(self.limit);
            self.tail.drain(..surplus);
        }
    }

    /// Whether lines are wanted as text.
    pub fn wants_text(&self) -> bool {
        self.print || self.keep
    }

    /// Adds numbers to the hash alone (the hot path of a run without text).
    pub fn word(&mut self, word: u64) {
        self.hash[0] = mix(self.hash[0] ^ word);
        self.hash[1] = self.hash[1].rotate_left(17).wrapping_add(mix(word));
        self.lines += 1;
    }

    /// Adds a line of text that does not take part in the hash.
    pub fn note(&mut self, line: fmt::Arguments<'_>) {
        if self.print {
            println!("{line}");
        }
        if self.keep {
            if self.tail.len() == self.limit {
                self.tail.pop_front();
            }
            self.tail.push_back(line.to_string());
        }
    }

    /// Adds text to the hash.
    pub fn text(&mut self, text: fmt::Arguments<'_>) {
        fmt::Write::write_fmt(&mut Hasher(&mut self.hash), text).expect("hashing never fails");
        self.lines += 1;
    }

    /// The hash of everything so far.
    pub fn hash(&self) -> u128 {
        let high = mix(self.hash[0] ^ self.lines);
        (u128::from(high) << 64) | u128::from(mix(self.hash[1]))
    }

    /// The last lines.
    pub fn tail(&self) -> impl Iterator<Item = &str> {
        self.tail.iter().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_content_change_the_hash() {
        let hash = |words: &[u64]| {
            let mut trace = Trace::new(false, false);
            words.iter().for_each(|&word| trace.word(word));
            trace.hash()
        };
        assert_eq!(hash(&[1, 2]), hash(&[1, 2]));
        assert_ne!(hash(&[1, 2]), hash(&[2, 1]));
        assert_ne!(hash(&[1]), hash(&[1, 0]));
        let mut a = Trace::new(false, false);
        a.text(format_args!("io{}", 1));
        assert_ne!(a.hash(), Trace::new(false, false).hash());
    }
}
