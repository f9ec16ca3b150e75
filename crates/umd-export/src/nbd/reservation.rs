//! Who may write to an export: registrations, a reservation, and how they are taken away.
//!
//! ```text
//!   control   register(key) ... reserve(key) ... preempt_abort(key, victim)  one table an export
//!                                                        |
//!   connection of NAME@key=HEX:  begin(write) --refused--+-- in flight --> ended(write)
//!                                                        |
//!                                        returns when nothing of the victim is in flight
//! ```
//!
//! The rules are those of SCSI's "write exclusive, all registrants". Nothing is refused before
//! somebody reserved; then only who is registered writes; reads are everybody's. Three things are
//! stricter here. A key that was preempted is never registered again, and never writes again, even
//! when no reservation is left: it is that of one life of a node. Whoever is preempted, or is not
//! registered when somebody reserves, has nothing in flight when the call returns. And to preempt
//! what is not registered succeeds, once nothing of it is in flight: it does not write, which is
//! all that is asked.
//!
//! Connecting registers nobody: who was preempted would come back by that. Whoever owns the table
//! keeps its [`State`] durable before it answers the call that changed it; a server that forgot it
//! would let everybody write.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use umd_core::value::RequestId;

use super::demand::Demand;

/// So many keys are registered at once: a cluster has 64 nodes at the most.
const REGISTERED_MAX: usize = 1024;
/// So many are remembered as preempted, each a life of a node that was fenced.
const PREEMPTED_MAX: usize = 1 << 16;

/// What has to outlive a server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// Who is registered.
    pub registered: BTreeSet<u64>,
    /// Whose registration was taken away.
    pub preempted: BTreeSet<u64>,
    /// Only who is registered may write.
    pub reserved: bool,
}

#[derive(Debug, Default)]
struct Table {
    state: State,
    /// Writes that the engine has not ended, and whose they are.
    writing: BTreeMap<RequestId, Option<u64>>,
    /// Writes that were not let in.
    refused: u64,
}

impl Table {
    fn may_write(&self, key: Option<u64>) -> bool {
        let State {
            registered,
            preempted,
            reserved,
        } = &self.state;
        match key {
            Some(key) if preempted.contains(&key) => false,
            Some(key) => !reserved || registered.contains(&key),
            None => !reserved,
        }
    }
}

/// Why a call on a table was refused, or is no proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// A key is not zero.
    #[error("zero is no key")]
    Zero,
    /// Only who is registered may ask for that.
    #[error("key {0:#x} is not registered")]
    NotRegistered(u64),
    /// It was taken away, for good.
    #[error("key {0:#x} was preempted: it belongs to a node that was fenced")]
    Preempted(u64),
    /// It would cut itself off.
    #[error("a key does not preempt itself")]
    Itself,
    /// There is no room for another one.
    #[error(
        "the export has no room for another key: end registrations that nobody uses any more, or \
         clear them when no host has it open"
    )]
    Full,
    /// Nothing more of it is let in, but what was let in before is not over.
    #[error("{0} writes that were under way have not ended; ask again")]
    Writing(usize),
}

/// The table of an export. Copies of it are the same table.
#[derive(Debug, Clone, Default)]
pub struct Reservations {
    shared: Arc<(Mutex<Table>, Condvar)>,
}

impl Reservations {
    /// One that goes on where another ended.
    pub fn restored(state: State) -> Reservations {
        let table = Table {
            state,
            ..Table::default()
        };
        Reservations {
            shared: Arc::new((Mutex::new(table), Condvar::new())),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // Each change is one assignment.
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What has to outlive the server.
    pub fn state(&self) -> State {
        self.lock().state.clone()
    }

    /// How many writes were refused since the server has this table.
    pub fn refused(&self) -> u64 {
        self.lock().refused
    }

    /// Registers a key. Registering it again changes nothing.
    ///
    /// # Errors
    /// When it was preempted, or is no key.
    pub fn register(&self, key: u64) -> Result<(), Refused> {
        let mut table = self.lock();
        if key == 0 {
            return Err(Refused::Zero);
        }
        if table.state.preempted.contains(&key) {
            return Err(Refused::Preempted(key));
        }
        let known = table.state.registered.contains(&key);
        if !known && table.state.registered.len() == REGISTERED_MAX {
            return Err(Refused::Full);
        }
        table.state.registered.insert(key);
        Ok(())
    }

    /// Ends a registration of one's own. With the last one the reservation ends.
    ///
    /// # Errors
    /// When the key is not registered.
    pub fn unregister(&self, key: u64) -> Result<(), Refused> {
        let mut table = self.lock();
        match table.state.registered.remove(&key) {
            true => {
                table.state.reserved &= !table.state.registered.is_empty();
                Ok(())
            }
            false => Err(Refused::NotRegistered(key)),
        }
    }

    /// From here on only who is registered writes. Waits for what others have in flight.
    ///
    /// # Errors
    /// When the key is not registered; [`Refused::Writing`] when others have not ended in time.
    pub fn reserve(&self, key: u64, patience: Duration) -> Result<(), Refused> {
        let mut table = self.lock();
        if !table.state.registered.contains(&key) {
            return Err(Refused::NotRegistered(key));
        }
        table.state.reserved = true;
        self.quiet(table, patience, |table, writer| !table.may_write(writer))
    }

    /// Takes a registration away, for good. When this returns, nothing of it is in flight, and
    /// nothing ever will be. Who has no key at all is kept out by a reservation only: who wants a
    /// proof that a host writes no more reserves before.
    ///
    /// # Errors
    /// When the key may not ask for that; [`Refused::Writing`] when what was in flight has not
    /// ended in time: it is no proof, and may be asked for again.
    pub fn preempt_abort(&self, key: u64, victim: u64, patience: Duration) -> Result<(), Refused> {
        let mut table = self.lock();
        if !table.state.registered.contains(&key) {
            return Err(Refused::NotRegistered(key));
        }
        if victim == key {
            return Err(Refused::Itself);
        }
        let known = table.state.preempted.contains(&victim);
        if !known && table.state.preempted.len() == PREEMPTED_MAX {
            return Err(Refused::Full);
        }
        table.state.registered.remove(&victim);
        table.state.preempted.insert(victim);
        self.quiet(table, patience, |_, writer| writer == Some(victim))
    }

    /// Whatever is asked for.
    ///
    /// # Errors
    /// As the calls above.
    pub fn meet(&self, demand: Demand, patience: Duration) -> Result<(), Refused> {
        match demand {
            Demand::Register(key) => self.register(key),
            Demand::Unregister(key) => self.unregister(key),
            Demand::Reserve(key) => self.reserve(key, patience),
            Demand::PreemptAbort { key, victim } => self.preempt_abort(key, victim, patience),
        }
    }

    /// Forgets everything: whoever comes may write, those who were preempted as well.
    pub fn clear(&self) {
        self.lock().state = State::default();
    }

    /// Waits until nothing of these writers is in flight.
    fn quiet(
        &self,
        mut table: MutexGuard<'_, Table>,
        patience: Duration,
        of: impl Fn(&Table, Option<u64>) -> bool,
    ) -> Result<(), Refused> {
        let begin = Instant::now();
        loop {
            let writers = table.writing.values();
            let left = writers.filter(|writer| of(&table, **writer)).count();
            let rest = patience.saturating_sub(begin.elapsed());
            match left {
                0 => return Ok(()),
                left if rest.is_zero() => return Err(Refused::Writing(left)),
                _ => {}
            }
            let waited = self.shared.1.wait_timeout(table, rest);
            table = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Lets a write in, or not. One that was let in is in flight until [`Reservations::ended`].
    pub(super) fn begin(&self, id: RequestId, key: Option<u64>) -> bool {
        let mut table = self.lock();
        let may = table.may_write(key);
        if may {
            let before = table.writing.insert(id, key);
            assert!(before.is_none(), "a request is begun once");
        } else {
            table.refused += 1;
        }
        may
    }

    /// A request is over: the engine has answered it, or will never see it. A connection says so
    /// of those it is told of; of the others, those of connections that are gone, the loop does.
    /// Requests that are not in flight are ignored.
    pub fn ended(&self, id: RequestId) {
        if self.lock().writing.remove(&id).is_some() {
            self.shared.1.notify_all();
        }
    }
}

/// The name of an export as a client gave it, and the key it gave with it: `NAME@key=HEX`.
pub(super) fn split_key(name: &str) -> (&str, Option<u64>) {
    let Some((export, digits)) = name.rsplit_once("@key=") else {
        return (name, None);
    };
    match parse_key(digits) {
        Some(key) => (export, Some(key)),
        None => (name, None),
    }
}

/// A key as it is written: one to sixteen hexadecimal digits, not zero.
pub fn parse_key(digits: &str) -> Option<u64> {
    let hex = (1..=16).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
    let key = hex.then(|| u64::from_str_radix(digits, 16).ok()).flatten();
    key.filter(|key| *key != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(20);

    fn table(keys: &[u64]) -> Reservations {
        let table = Reservations::default();
        for key in keys {
            table.register(*key).unwrap();
        }
        table
    }

    /// Whether a write of that key is let in; it is over at once.
    fn writes(table: &Reservations, key: Option<u64>) -> bool {
        let id = RequestId(1 << 60);
        let may = table.begin(id, key);
        table.ended(id);
        may
    }

    #[test]
    fn names_may_carry_a_key() {
        assert_eq!(split_key("r5@key=2A"), ("r5", Some(0x2a)));
        assert_eq!(split_key("@key=ffffffffffffffff"), ("", Some(u64::MAX)));
        assert_eq!(split_key("a@key=1@key=2"), ("a@key=1", Some(2)));
        for name in [
            "r5",
            "r5@key=",
            "r5@key=0",
            "r5@key=+1",
            "r5@key=x",
            "r5@key=11111111111111111",
        ] {
            assert_eq!(split_key(name), (name, None));
        }
    }

    #[test]
    fn nothing_is_refused_before_somebody_reserves_and_then_all_who_are_not_registered() {
        let table = table(&[1, 2]);
        assert!(writes(&table, None) && writes(&table, Some(9)));
        assert_eq!(table.reserve(9, SOON), Err(Refused::NotRegistered(9)));
        table.reserve(1, SOON).unwrap();
        assert!(writes(&table, Some(1)) && writes(&table, Some(2)));
        assert!(!writes(&table, None) && !writes(&table, Some(9)));
        // All registrants hold it: it stays when one goes, and ends with the last.
        table.unregister(1).unwrap();
        assert!(!writes(&table, Some(1)) && writes(&table, Some(2)));
        table.unregister(2).unwrap();
        assert!(writes(&table, None));
        assert_eq!(table.unregister(2), Err(Refused::NotRegistered(2)));
        assert_eq!(table.register(0), Err(Refused::Zero));
    }

    #[test]
    fn who_is_preempted_never_writes_again() {
        let table = table(&[1, 2]);
        table.register(9).unwrap();
        table.preempt_abort(1, 9, SOON).unwrap();
        assert!(
            !writes(&table, Some(9)) && writes(&table, None),
            "it is gone before"
        );
        table.reserve(1, SOON).unwrap();
        assert_eq!(table.preempt_abort(1, 1, SOON), Err(Refused::Itself));
        let stranger = table.preempt_abort(3, 2, SOON);
        assert_eq!(stranger, Err(Refused::NotRegistered(3)));
        assert!(writes(&table, Some(2)), "those changed nothing");
        table.preempt_abort(1, 2, SOON).unwrap();
        table.preempt_abort(1, 2, SOON).unwrap();
        assert!(!writes(&table, Some(2)) && writes(&table, Some(1)));
        assert_eq!(table.register(2), Err(Refused::Preempted(2)));
        let back = table.preempt_abort(2, 1, SOON);
        assert_eq!(back, Err(Refused::NotRegistered(2)));
        // Not even when nobody is registered any more, nor after a restart.
        table.unregister(1).unwrap();
        assert!(!writes(&table, Some(2)) && writes(&table, None));
        let again = Reservations::restored(table.state());
        assert_eq!((table.refused(), again.refused()), (3, 0));
        assert!(!writes(&again, Some(2)));
    }

    #[test]
    fn what_is_in_flight_has_ended_before_it_is_a_proof() {
        let table = table(&[1, 2]);
        table.reserve(1, SOON).unwrap();
        let (a, b, other) = (RequestId(1), RequestId(2), RequestId(3));
        assert!(table.begin(a, Some(2)) && table.begin(b, Some(2)) && table.begin(other, Some(1)));
        let writing = table.preempt_abort(1, 2, SOON);
        assert_eq!(writing, Err(Refused::Writing(2)));
        table.ended(a);
        let fence = {
            let table = table.clone();
            let long = Duration::from_secs(30);
            std::thread::spawn(move || table.preempt_abort(1, 2, long))
        };
        std::thread::sleep(Duration::from_millis(100));
        assert!(!fence.is_finished(), "one is in flight");
        table.ended(b);
        assert_eq!(fence.join().unwrap(), Ok(()));
        table.ended(b); // It was over.
    }

    #[test]
    fn a_table_has_an_end_and_can_be_cleared() {
        let table = Reservations::default();
        for key in 1..=REGISTERED_MAX as u64 {
            table.register(key).unwrap();
        }
        assert_eq!(table.register(1 << 40), Err(Refused::Full));
        table.register(1).unwrap();
        table.meet(Demand::Unregister(7), SOON).unwrap();
        table.meet(Demand::Register(1 << 40), SOON).unwrap();
        table.meet(Demand::Reserve(1), SOON).unwrap();
        let (key, victim) = (1, 2);
        let demand = Demand::PreemptAbort { key, victim };
        table.meet(demand, SOON).unwrap();
        assert!(!writes(&table, None) && !writes(&table, Some(2)));
        table.clear();
        assert_eq!(table.state(), State::default());
        assert!(writes(&table, None) && writes(&table, Some(2)));
    }

    #[test]
    fn who_has_no_key_has_ended_before_a_reservation_counts() {
        let table = table(&[1]);
        let (nobodys, own) = (RequestId(1), RequestId(2));
        assert!(table.begin(nobodys, None) && table.begin(own, Some(1)));
        assert_eq!(table.reserve(1, SOON), Err(Refused::Writing(1)));
        assert!(!writes(&table, None), "no more is let in meanwhile");
        table.ended(nobodys);
        table.reserve(1, SOON).unwrap();
    }
}
