//! A list of things for every sector that has any; few have.
//!
//! ```text
//!   leaves:  [ - ] [ leaf ] [ - ] [ leaf ] ...      clones share a leaf until one changes it
//!                      |
//!                      +-- sectors 32..64:  [] [a b] [] [c] ...
//! ```

use std::rc::Rc;

/// Sectors of a leaf.
const LEAF: usize = 32;

type Leaf<T> = [Vec<T>; LEAF];

/// Lists by sector. Cloning shares all of them.
#[derive(Debug, Clone)]
pub struct Registers<T> {
    leaves: Vec<Option<Rc<Leaf<T>>>>,
}

impl<T: Clone> Registers<T> {
    /// Nothing for any sector.
    pub fn new() -> Registers<T> {
        Registers { leaves: Vec::new() }
    }

    fn place(sector: u64) -> (usize, usize) {
        let sector = usize::try_from(sector).expect("simulated arrays are small");
        (sector / LEAF, sector % LEAF)
    }

    /// What a sector has; empty if it has nothing.
    pub fn get(&self, sector: u64) -> &[T] {
        let (leaf, at) = Self::place(sector);
        match self.leaves.get(leaf) {
            Some(Some(leaf)) => &leaf[at],
            _ => &[],
        }
    }

    /// What a sector has, to be changed.
    pub fn get_mut(&mut self, sector: u64) -> &mut Vec<T> {
        let (leaf, at) = Self::place(sector);
        if leaf >= self.leaves.len() {
            self.leaves.resize(leaf + 1, None);
        }
        let fresh = || Rc::new(std::array::from_fn(|_| Vec::new()));
        &mut Rc::make_mut(self.leaves[leaf].get_or_insert_with(fresh))[at]
    }

    /// The sectors that have something, in order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &[T])> + '_ {
        let leaves = self.leaves.iter().enumerate();
        let leaves = leaves.filter_map(|(number, leaf)| Some((number, leaf.as_ref()?)));
        let all = leaves.flat_map(|(number, leaf)| {
            let first = (number * LEAF) as u64;
            (first..).zip(leaf.iter().map(Vec::as_slice))
        });
        all.filter(|(_, list)| !list.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sectors_keep_their_own_lists() {
        let mut all = Registers::new();
        for sector in [900u64, 3, 31, 32, 64] {
            all.get_mut(sector).push(sector);
        }
        all.get_mut(5);
        let sectors: Vec<u64> = all.iter().map(|(sector, _)| sector).collect();
        assert_eq!(sectors, [3, 31, 32, 64, 900]);
        assert!(all.iter().all(|(sector, list)| list == [sector]));
        assert_eq!((all.get(4), all.get(5000)), (&[][..], &[][..]));
    }

    #[test]
    fn clones_part_ways() {
        let mut one = Registers::new();
        one.get_mut(7).push('a');
        let mut two = one.clone();
        two.get_mut(7).push('b');
        one.get_mut(6).push('c');
        assert_eq!((one.get(7), two.get(7)), (&['a'][..], &['a', 'b'][..]));
        assert_eq!((one.get(6), two.get(6)), (&['c'][..], &[][..]));
    }
}
