//! The running arrays by name, oldest first: what the control API and the NBD listener share.

use std::sync::{Arc, Mutex, MutexGuard};

use umd_export::nbd::{ExportInfo, Exports};
use umd_format::Uuid;

use super::array::Handle;

enum Entry {
    /// Being started: the name is taken.
    Reserved,
    Running {
        uuid: Uuid,
        handle: Handle,
    },
}

#[derive(Default)]
struct Inner {
    entries: Vec<(String, Entry)>,
    /// The process is leaving: no more arrays.
    closed: bool,
}

/// All arrays. Cheap to clone; all clones share them.
#[derive(Clone, Default)]
pub struct Registry(Arc<Mutex<Inner>>);

/// A name that is taken while its array is being started. Dropping it frees the name, unless the
/// array has been put in its place.
pub struct Reservation {
    registry: Registry,
    name: String,
}

/// Why an array cannot run under a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Taken {
    /// The name is in use.
    #[error("an array named {0} is running already; choose another name")]
    Name(String),
    /// The array is.
    #[error("the array {uuid} is running already, as {name}")]
    Array {
        /// Which.
        uuid: Uuid,
        /// Under which name.
        name: String,
    },
    /// This process is about to end; another one will have to take the array.
    #[error("the daemon is leaving")]
    Leaving,
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0
            .lock()
            .expect("no thread panics while it holds the registry")
    }

    /// Takes a name for an array that is about to be started.
    ///
    /// # Errors
    /// When it is taken.
    pub fn reserve(&self, name: &str) -> Result<Reservation, Taken> {
        let mut inner = self.lock();
        if inner.closed {
            return Err(Taken::Leaving);
        }
        let entries = &mut inner.entries;
        if entries.iter().any(|(taken, _)| taken == name) {
            return Err(Taken::Name(name.to_owned()));
        }
        entries.push((name.to_owned(), Entry::Reserved));
        Ok(Reservation {
            registry: self.clone(),
            name: name.to_owned(),
        })
    }

    /// The handle of a running array.
    pub fn get(&self, name: &str) -> Option<Handle> {
        let inner = self.lock();
        let entries = &inner.entries;
        let found = entries.iter().find(|(taken, _)| taken == name);
        found.and_then(|(_, entry)| match entry {
            Entry::Running { handle, .. } => Some(handle.clone()),
            Entry::Reserved => None,
        })
    }

    /// The name under which the array with this UUID runs.
    pub fn running(&self, wanted: Uuid) -> Option<String> {
        let inner = self.lock();
        let mut entries = inner.entries.iter();
        let found = entries
            .find(|(_, entry)| matches!(entry, Entry::Running { uuid, .. } if *uuid == wanted));
        found.map(|(name, _)| name.clone())
    }

    /// All running arrays, oldest first.
    pub fn all(&self) -> Vec<(String, Handle)> {
        let inner = self.lock();
        let entries = &inner.entries;
        let running = entries.iter().filter_map(|(name, entry)| match entry {
            Entry::Running { handle, .. } => Some((name.clone(), handle.clone())),
            Entry::Reserved => None,
        });
        running.collect()
    }

    /// Whether nothing runs and nothing is being started.
    pub fn is_empty(&self) -> bool {
        self.lock().entries.is_empty()
    }

    /// No more arrays from here on. Those that run or are being started are not touched.
    pub fn close(&self) {
        self.lock().closed = true;
    }

    /// Closes, but only if nothing runs and nothing is being started; tells whether it did.
    pub fn close_if_empty(&self) -> bool {
        let mut inner = self.lock();
        inner.closed |= inner.entries.is_empty();
        inner.closed
    }

    /// Takes an array out that has stopped.
    pub fn remove(&self, name: &str) {
        self.lock().entries.retain(|(taken, _)| taken != name);
    }
}

impl Reservation {
    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Puts the running array in place of the reservation.
    ///
    /// # Errors
    /// When the same array runs already, under another name.
    pub fn fill(self, uuid: Uuid, handle: Handle) -> Result<(), Taken> {
        let mut inner = self.registry.lock();
        let entries = &mut inner.entries;
        let twin = entries.iter().find_map(|(name, entry)| match entry {
            Entry::Running { uuid: other, .. } if *other == uuid => Some(name.clone()),
            _ => None,
        });
        if let Some(name) = twin {
            return Err(Taken::Array { uuid, name });
        }
        let own = entries.iter_mut().find(|(name, _)| *name == self.name);
        own.expect("a reservation holds its place").1 = Entry::Running { uuid, handle };
        Ok(())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let reserved = |entry: &Entry| matches!(entry, Entry::Reserved);
        self.registry
            .lock()
            .entries
            .retain(|(name, entry)| *name != self.name || !reserved(entry));
    }
}

impl Exports for Registry {
    fn list(&self) -> Vec<ExportInfo> {
        self.all()
            .into_iter()
            .map(|(_, handle)| handle.export())
            .collect()
    }

    fn find(&self, name: &str) -> Option<ExportInfo> {
        self.get(name).map(|handle| handle.export())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handle(name: &str) -> Handle {
        let export = ExportInfo {
            name: name.into(),
            description: String::new(),
            size_sectors: 8,
            logical_block_bytes: 512,
            preferred_bytes: 4096,
            read_only: false,
        };
        let (events, _) = tokio::sync::broadcast::channel(4);
        Handle::new(export, events, Default::default())
            .expect("a descriptor")
            .0
    }

    #[test]
    fn a_name_is_held_while_an_array_starts() {
        let registry = Registry::default();
        let first = registry.reserve("r5").expect("free");
        assert_eq!(registry.reserve("r5").err(), Some(Taken::Name("r5".into())));
        assert!(registry.get("r5").is_none() && !registry.is_empty());
        drop(first);
        assert!(registry.is_empty());
        let second = registry.reserve("r5").expect("free again");
        second.fill(Uuid([1; 16]), handle("r5")).expect("fills");
        assert!(registry.get("r5").is_some());
        assert_eq!(
            registry.find("r5").map(|info| info.name).as_deref(),
            Some("r5")
        );
        registry.remove("r5");
        assert!(registry.is_empty());
    }

    #[test]
    fn a_closed_registry_takes_nothing_more() {
        let registry = Registry::default();
        let starting = registry.reserve("a").expect("free");
        assert!(!registry.close_if_empty(), "one is being started");
        drop(starting);
        assert!(registry.close_if_empty());
        assert_eq!(registry.reserve("b").err(), Some(Taken::Leaving));
    }

    #[test]
    fn one_array_does_not_run_twice() {
        let registry = Registry::default();
        let first = registry.reserve("a").expect("free");
        first.fill(Uuid([1; 16]), handle("a")).expect("fills");
        let second = registry.reserve("b").expect("free");
        assert!(second.fill(Uuid([1; 16]), handle("b")).is_err());
        assert_eq!(registry.all().len(), 1);
        assert!(registry.reserve("b").is_ok());
    }
}
