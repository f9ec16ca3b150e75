//! md names for arrays: many tools know a device of md by `md` and a number only.
//!
//! An array has its number for as long as it runs and this table is kept. Metadata 0.90 has a
//! number of its own, which is taken where it is free; the others count down from 127, as mdadm
//! does. A name that is an md name already is its own.

use std::collections::BTreeSet;

use crate::doc::ArrayDoc;

/// Where counting begins.
const FIRST: u32 = 127;
/// Where it goes on when all below are taken: the number of a device of md has 20 bits.
const BEYOND: u32 = 1 << 20;

/// Which array has which number.
#[derive(Debug, Clone, Default)]
pub struct Names {
    known: Vec<(Identity, u32)>,
}

type Identity = (String, String, u32);

/// Another array may come under the same name, and the same array from another process.
fn identity(array: &ArrayDoc) -> Identity {
    (array.name.clone(), array.uuid.clone(), array.pid)
}

/// The number in an md name.
fn number_in(name: &str) -> Option<u32> {
    let number: u32 = name.strip_prefix("md")?.parse().ok()?;
    (format!("md{number}") == name && number < BEYOND).then_some(number)
}

impl Names {
    /// Forgets arrays that do not run any more, and gives numbers to those that are new.
    pub fn update(&mut self, arrays: &[ArrayDoc]) {
        let there: BTreeSet<Identity> = arrays.iter().map(identity).collect();
        self.known.retain(|(array, _)| there.contains(array));
        for array in arrays.iter().filter(|a| number_in(&a.name).is_some()) {
            let number = number_in(&array.name).expect("it was looked for");
            // Whoever has had the number goes on with it, and this array with its name.
            self.give(array, number, arrays);
        }
        for array in arrays {
            if let Some(number) = array.preferred_minor {
                self.give(array, number, arrays);
            }
        }
        for array in arrays {
            let free = (0..=FIRST).rev().chain(FIRST + 1..BEYOND);
            let free = free
                .into_iter()
                .find(|number| self.is_free(*number, array, arrays));
            if let Some(number) = free {
                self.give(array, number, arrays);
            }
        }
    }

    fn is_free(&self, number: u32, array: &ArrayDoc, arrays: &[ArrayDoc]) -> bool {
        let given = self.known.iter().any(|(_, taken)| *taken == number);
        let mut others = arrays.iter().filter(|other| other.name != array.name);
        !given && !others.any(|other| number_in(&other.name) == Some(number))
    }

    fn give(&mut self, array: &ArrayDoc, number: u32, arrays: &[ArrayDoc]) {
        if self.number(array).is_none() && self.is_free(number, array, arrays) {
            self.known.push((identity(array), number));
        }
    }

    /// The number of an array.
    pub fn number(&self, array: &ArrayDoc) -> Option<u32> {
        let mut known = self.known.iter();
        let identity = identity(array);
        known
            .find(|(one, _)| *one == identity)
            .map(|(_, number)| *number)
    }

    /// The md name of an array.
    pub fn of(&self, array: &ArrayDoc) -> Option<String> {
        match number_in(&array.name) {
            Some(_) => Some(array.name.clone()),
            None => self.number(array).map(|number| format!("md{number}")),
        }
    }
}
