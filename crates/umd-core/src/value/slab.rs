//! A store with small, reusable indices, iterated in index order (so: deterministic).

/// Values under indices that stay valid until removed.
#[derive(Debug, Clone)]
pub struct Slab<T> {
    entries: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Slab {
            entries: Vec::new(),
            free: Vec::new(),
        }
    }
}

impl<T> Slab<T> {
    /// Stores a value and says where.
    pub fn insert(&mut self, value: T) -> u32 {
        match self.free.pop() {
            Some(index) => {
                let entry = &mut self.entries[index as usize];
                assert!(entry.is_none(), "a free slab entry is empty");
                *entry = Some(value);
                index
            }
            None => {
                self.entries.push(Some(value));
                u32::try_from(self.entries.len() - 1).expect("fewer than 2^32 entries")
            }
        }
    }

    /// The value at `index`, if there is one.
    pub fn get(&self, index: u32) -> Option<&T> {
        self.entries.get(index as usize)?.as_ref()
    }

    /// The value at `index`, if there is one.
    pub fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        self.entries.get_mut(index as usize)?.as_mut()
    }

    /// Takes the value out.
    pub fn remove(&mut self, index: u32) -> Option<T> {
        let value = self.entries.get_mut(index as usize)?.take()?;
        self.free.push(index);
        Some(value)
    }

    /// Drops the value where it is.
    ///
    /// # Panics
    /// When there is none.
    pub fn discard(&mut self, index: u32) {
        let entry = self.entries.get_mut(index as usize);
        let entry = entry.filter(|entry| entry.is_some());
        *entry.expect("only what is there can go") = None;
        self.free.push(index);
    }

    /// Values stored.
    pub fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// Whether nothing is stored.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All values with their indices, in index order.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.entries
            .iter()
            .enumerate()
            .filter_map(|(i, e)| Some((i as u32, e.as_ref()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_are_reused_after_removal_only() {
        let mut slab = Slab::default();
        let a = slab.insert('a');
        let b = slab.insert('b');
        assert_eq!(slab.remove(a), Some('a'));
        assert_eq!(slab.remove(a), None);
        assert_eq!(slab.insert('c'), a);
        assert_eq!(slab.get(b), Some(&'b'));
        assert_eq!(slab.len(), 2);
        assert_eq!(slab.iter().map(|(_, v)| *v).collect::<String>(), "cb");
        slab.discard(b);
        assert_eq!((slab.get(b), slab.len()), (None, 1));
        assert_eq!(slab.insert('d'), b);
    }

    #[test]
    #[should_panic(expected = "only what is there")]
    fn nothing_goes_twice() {
        let mut slab = Slab::default();
        let a = slab.insert('a');
        slab.discard(a);
        slab.discard(a);
    }
}
