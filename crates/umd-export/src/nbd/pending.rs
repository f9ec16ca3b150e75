//! The requests of one connection that the engine has not answered yet.
//!
//! ```text
//! RequestId   63         32 31        8 7    0
//!             | connection |  serial  | slot |
//! ```
//!
//! The slot finds the request without a search; the serial tells this use of the slot from an
//! earlier one, so an answer given twice is noticed.

use umd_core::value::RequestId;

use super::request::Kind;

/// Requests of one connection the engine works on at a time.
pub const REQUESTS_MAX: usize = 128;

const SERIALS: u32 = 1 << 24;

/// The number of the connection a request belongs to.
pub fn connection_of(id: RequestId) -> u32 {
    (id.0 >> 32) as u32
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub cookie: u64,
    pub kind: Kind,
}

#[derive(Debug)]
pub(super) struct Pending {
    connection: u32,
    serial: u32,
    slots: Vec<Option<(u32, Entry)>>,
    free: Vec<u8>,
    payload_bytes: u64,
}

impl Pending {
    pub fn new(connection: u32) -> Pending {
        Pending {
            connection,
            serial: 0,
            slots: vec![None; REQUESTS_MAX],
            free: (0..REQUESTS_MAX as u8).rev().collect(),
            payload_bytes: 0,
        }
    }

    pub fn len(&self) -> usize {
        REQUESTS_MAX - self.free.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Payload of all requests held, in bytes.
    pub fn payload_bytes(&self) -> u64 {
        self.payload_bytes
    }

    /// Panics when [`REQUESTS_MAX`] are held.
    pub fn insert(&mut self, entry: Entry) -> RequestId {
        let slot = self
            .free
            .pop()
            .expect("no more requests are taken than fit");
        self.serial = (self.serial + 1) % SERIALS;
        self.payload_bytes += entry.kind.payload_bytes();
        self.slots[usize::from(slot)] = Some((self.serial, entry));
        let low = self.serial << 8 | u32::from(slot);
        RequestId(u64::from(self.connection) << 32 | u64::from(low))
    }

    /// Panics when the request is not held.
    pub fn remove(&mut self, id: RequestId) -> Entry {
        assert_eq!(
            connection_of(id),
            self.connection,
            "an answer for another connection"
        );
        let slot = id.0 as u8;
        let serial = id.0 as u32 >> 8;
        let held = self.slots.get_mut(usize::from(slot)).and_then(|held| {
            let right = held.is_some_and(|(holder, _)| holder == serial);
            if right { held.take() } else { None }
        });
        let (_, entry) = held.expect("every request is answered once");
        self.free.push(slot);
        self.payload_bytes -= entry.kind.payload_bytes();
        entry
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(cookie: u64) -> Entry {
        Entry {
            cookie,
            kind: Kind::Read {
                offset: 0,
                len: 512,
            },
        }
    }

    #[test]
    fn identities_are_unique_and_carry_the_connection() {
        let mut pending = Pending::new(0xfeed_beef);
        let first = pending.insert(entry(1));
        let second = pending.insert(entry(2));
        assert_ne!(first, second);
        assert_eq!(connection_of(second), 0xfeed_beef);
        assert_eq!(pending.payload_bytes(), 1024);
        assert_eq!(pending.remove(first).cookie, 1);
        let third = pending.insert(entry(3));
        assert_ne!(third, first);
        assert_eq!(pending.remove(third).cookie, 3);
        assert_eq!(pending.remove(second).cookie, 2);
        assert!(pending.is_empty());
        assert_eq!(pending.payload_bytes(), 0);
    }

    #[test]
    #[should_panic(expected = "answered once")]
    fn a_second_answer_is_noticed() {
        let mut pending = Pending::new(1);
        let id = pending.insert(entry(1));
        pending.remove(id);
        pending.insert(entry(2));
        pending.remove(id);
    }

    #[test]
    fn serials_wrap() {
        let mut pending = Pending::new(1);
        pending.serial = SERIALS - 1;
        let id = pending.insert(entry(9));
        assert_eq!(pending.remove(id).cookie, 9);
    }
}
