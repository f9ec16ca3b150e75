//! The key of a node of a cluster, with which it writes to exports.
//!
//! ```text
//!   open --> connection without a key: reads only
//!   joined, registered there --> say(key) --> another connection, with the key: reads and writes
//! ```
//!
//! A key is known only when the node has joined, and members are opened before that.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::Export;

/// Exports that are to be written with a key.
#[derive(Default)]
pub struct Keys {
    open: Mutex<Vec<(String, Weak<Export>)>>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").finish_non_exhaustive()
    }
}

impl Keys {
    fn lock(&self) -> MutexGuard<'_, Vec<(String, Weak<Export>)>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn watch(&self, name: &str, export: &Arc<Export>) {
        let mut open = self.lock();
        open.retain(|(_, one)| one.strong_count() > 0);
        open.push((name.to_owned(), Arc::downgrade(export)));
    }

    /// The exports of this name that are open and have no key yet are written with this one. It is
    /// registered there already.
    ///
    /// # Errors
    /// When their server cannot be reached once more.
    pub fn say(&self, name: &str, key: u64) -> Result<(), String> {
        let open = self.lock().clone();
        let named = open.iter().filter(|(one, _)| one == name);
        for export in named.filter_map(|(_, export)| export.upgrade()) {
            if export.lacks_key() {
                let connected = export.with_key(key);
                connected.map_err(|why| format!("{name} cannot be opened with its key: {why}"))?;
            }
        }
        Ok(())
    }
}
