//! What the tests share: a reference that has nothing in common with the kernels, and buffers
//! that notice writes beyond their ends.

#![allow(dead_code, reason = "each test program uses its own part")]

use std::sync::{Mutex, PoisonError};

use umd_parity::{Kernel, force, kernel};

/// The kernel in use is one for the process; tests that choose it take turns.
static TURN: Mutex<()> = Mutex::new(());

/// Runs `check` with each kernel this CPU has.
pub fn each_kernel(mut check: impl FnMut(Kernel)) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let before = kernel();
    let mut ran = 0;
    for candidate in Kernel::ALL
        .into_iter()
        .filter(|kernel| kernel.is_available())
    {
        force(candidate).expect("it is available");
        assert_eq!(kernel(), candidate);
        check(candidate);
        ran += 1;
    }
    assert!(ran >= 1, "at least the scalar kernel runs everywhere");
    force(before).expect("it was in use");
}

/// a * b in GF(2^8) by long multiplication.
pub fn gf_mul(a: u8, b: u8) -> u8 {
    let mut product = 0u8;
    let mut shifted = a;
    for bit in 0..8 {
        if b >> bit & 1 == 1 {
            product ^= shifted;
        }
        let carry = shifted & 0x80 != 0;
        shifted <<= 1;
        if carry {
            shifted ^= 0x1d;
        }
    }
    product
}

/// 2^exponent by repeated multiplication.
pub fn gf_pow(exponent: usize) -> u8 {
    (0..exponent).fold(1, |power, _| gf_mul(power, 2))
}

/// P and Q of a row, a byte at a time.
pub fn reference_pq(data: &[Option<&[u8]>], len: usize) -> (Vec<u8>, Vec<u8>) {
    let (mut p, mut q) = (vec![0u8; len], vec![0u8; len]);
    for (i, column) in data.iter().enumerate() {
        let weight = gf_pow(i);
        let times: Vec<u8> = (0..=255).map(|byte| gf_mul(byte, weight)).collect();
        for (at, byte) in column.iter().flat_map(|column| column.iter()).enumerate() {
            p[at] ^= byte;
            q[at] ^= times[usize::from(*byte)];
        }
    }
    (p, q)
}

/// Bytes that look random and are the same every time.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..len).map(|_| next()).collect()
}

/// Bytes that must not change around a [`Slot`].
const FENCE: usize = 128;

/// A buffer at a chosen distance from cache-line alignment, fenced on both sides.
pub struct Slot {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl Slot {
    /// `content`, `skew` bytes after a multiple of 64.
    pub fn new(content: &[u8], skew: usize) -> Self {
        let mut memory = vec![0xa5u8; content.len() + 2 * FENCE + 128];
        let start = memory[FENCE..].as_ptr().align_offset(64) + FENCE + skew % 64;
        memory[start..start + content.len()].copy_from_slice(content);
        Self {
            memory,
            start,
            len: content.len(),
        }
    }

    /// A slot of `len` bytes whose content is not to matter.
    pub fn scratch(len: usize, skew: usize) -> Self {
        Self::new(&vec![0x5a; len], skew)
    }

    pub fn get(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len]
    }

    pub fn get_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }

    /// Asserts the content, and that the fences stand.
    #[track_caller]
    pub fn expect(&self, content: &[u8], what: &str) {
        assert!(self.get() == content, "{what}: wrong bytes");
        let around = self.memory[..self.start]
            .iter()
            .chain(&self.memory[self.start + self.len..]);
        assert!(
            around.into_iter().all(|byte| *byte == 0xa5),
            "{what}: wrote beyond its end"
        );
    }
}

/// Slots as columns.
pub fn columns(slots: &[Slot]) -> Vec<Option<&[u8]>> {
    slots.iter().map(|slot| Some(slot.get())).collect()
}
