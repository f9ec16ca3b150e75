//! What clients ask of the table of an export, in words of the handshake.
//!
//! ```text
//!   SET_META_CONTEXT   NAME, "x-umd-reservation:register=2a"    the same words back: it is done
//!                                                           or an error, and why it is not
//!   LIST_META_CONTEXT  NAME, "x-umd-reservation:"        "...:offered", "...:reserved",
//!                                                        "...:registered=2a", and so on
//! ```
//!
//! The protocol leaves namespaces of metadata contexts that begin with `x-` to whoever wants one,
//! and a server that does not know one says nothing of it: so a client finds out whether it talks
//! to a server that keeps a table. Nothing is selected by it. Such a query stands alone in its
//! option. Keys are hexadecimal, without a sign or a prefix.

use std::fmt;
use std::str::FromStr;

use super::proto::rep;
use super::reservation::{Refused, State, parse_key};

/// What every such query begins with.
pub(super) const NAMESPACE: &str = "x-umd-reservation:";
const OFFERED: &str = "offered";
const RESERVED: &str = "reserved";
const REGISTERED: &str = "registered=";

/// Something that is asked of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demand {
    /// [`Reservations::register`](super::Reservations::register).
    Register(u64),
    /// [`Reservations::unregister`](super::Reservations::unregister).
    Unregister(u64),
    /// [`Reservations::reserve`](super::Reservations::reserve).
    Reserve(u64),
    /// [`Reservations::preempt_abort`](super::Reservations::preempt_abort).
    PreemptAbort {
        /// Who asks.
        key: u64,
        /// Whose registration goes.
        victim: u64,
    },
}

impl fmt::Display for Demand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Demand::Register(key) => write!(f, "register={key:x}"),
            Demand::Unregister(key) => write!(f, "unregister={key:x}"),
            Demand::Reserve(key) => write!(f, "reserve={key:x}"),
            Demand::PreemptAbort { key, victim } => write!(f, "preempt-abort={key:x},{victim:x}"),
        }
    }
}

/// It is none of the words above.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "write register=KEY, unregister=KEY, reserve=KEY or preempt-abort=KEY,VICTIM, each key one to \
     sixteen hexadecimal digits and not zero"
)]
pub struct NoDemand;

impl FromStr for Demand {
    type Err = NoDemand;

    fn from_str(text: &str) -> Result<Demand, NoDemand> {
        let (word, keys) = text.split_once('=').ok_or(NoDemand)?;
        let one = || parse_key(keys).ok_or(NoDemand);
        Ok(match word {
            "register" => Demand::Register(one()?),
            "unregister" => Demand::Unregister(one()?),
            "reserve" => Demand::Reserve(one()?),
            "preempt-abort" => {
                let (key, victim) = keys.split_once(',').ok_or(NoDemand)?;
                let pair = parse_key(key).zip(parse_key(victim));
                let (key, victim) = pair.ok_or(NoDemand)?;
                Demand::PreemptAbort { key, victim }
            }
            _ => return Err(NoDemand),
        })
    }
}

/// Why a demand was not met, or not yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Denied {
    /// The export has no table.
    NotOffered(String),
    /// The key that asks is not registered, or was preempted.
    Refused(String),
    /// Something else: it may be asked for again.
    Failed(String),
}

impl From<Refused> for Denied {
    fn from(why: Refused) -> Denied {
        match why {
            Refused::NotRegistered(_) | Refused::Preempted(_) => Denied::Refused(why.to_string()),
            _ => Denied::Failed(why.to_string()),
        }
    }
}

impl Denied {
    /// What a server says of it.
    pub fn text(&self) -> &str {
        match self {
            Denied::NotOffered(text) | Denied::Refused(text) | Denied::Failed(text) => text,
        }
    }

    /// The type of the reply that says so.
    pub(super) fn reply(&self) -> u32 {
        match self {
            Denied::NotOffered(_) => rep::ERR_UNSUP,
            Denied::Refused(_) => rep::ERR_POLICY,
            Denied::Failed(_) => rep::ERR_INVALID,
        }
    }
}

/// A demand that is being met, or not.
pub trait Deciding: Send + fmt::Debug {
    /// Looks again: `None` as long as there is no answer. Dropped without one, nobody is told.
    fn look(&mut self) -> Option<Result<(), Denied>>;
}

/// The query among these that is about a table, if there is one.
pub(super) fn query<'a>(queries: &[&'a str]) -> Option<Result<&'a str, &'static str>> {
    let mut ours = queries.iter().filter_map(|one| one.strip_prefix(NAMESPACE));
    let first = ours.next()?;
    Some(match queries.len() {
        1 => Ok(first),
        _ => Err("a query about reservations stands alone"),
    })
}

/// The contexts that tell of a table.
pub(super) fn contexts(state: &State) -> Vec<String> {
    let reserved = state.reserved.then(|| RESERVED.to_owned());
    let keys = state.registered.iter();
    let keys = keys.map(|key| format!("{REGISTERED}{key:x}"));
    let all = std::iter::once(OFFERED.to_owned()).chain(reserved);
    let all = all.chain(keys);
    all.map(|word| format!("{NAMESPACE}{word}")).collect()
}

/// What such contexts tell; nothing when none says that there is a table. Keys that were preempted
/// are not told.
pub(super) fn told(contexts: &[String]) -> Option<State> {
    let words = contexts.iter();
    let words: Vec<&str> = words
        .filter_map(|one| one.strip_prefix(NAMESPACE))
        .collect();
    words.contains(&OFFERED).then(|| State {
        reserved: words.contains(&RESERVED),
        registered: words
            .iter()
            .filter_map(|word| parse_key(word.strip_prefix(REGISTERED)?))
            .collect(),
        ..State::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn demands_are_read_as_they_are_written() {
        let (key, victim) = (u64::MAX, 0x2a);
        for demand in [
            Demand::Register(1),
            Demand::Unregister(0xfeed),
            Demand::Reserve(key),
            Demand::PreemptAbort { key, victim },
        ] {
            assert_eq!(demand.to_string().parse(), Ok(demand));
        }
        for text in [
            "",
            "register",
            "register=",
            "register=0",
            "register=+1",
            "register=-1",
            "register=0x2a",
            "register=g",
            "register=11111111111111111",
            "register=1,2",
            "preempt-abort=1",
            "preempt-abort=1,0",
            "preempt-abort=1,2,3",
            "clear=1",
        ] {
            assert_eq!(text.parse::<Demand>(), Err(NoDemand), "{text}");
        }
    }

    #[test]
    fn a_table_is_told_and_understood() {
        let state = State {
            registered: [0x2a, 7].into(),
            reserved: true,
            ..State::default()
        };
        assert_eq!(told(&contexts(&state)), Some(state));
        assert_eq!(told(&contexts(&State::default())), Some(State::default()));
        assert_eq!(told(&["base:allocation".into()]), None);
        assert_eq!(told(&["x-umd-reservation:reserved".into()]), None);
    }

    #[test]
    fn a_query_about_it_stands_alone() {
        assert_eq!(query(&["base:allocation", "qemu:"]), None);
        let own = "x-umd-reservation:register=1";
        assert_eq!(query(&[own]), Some(Ok("register=1")));
        assert!(matches!(query(&["base:allocation", own]), Some(Err(_))));
    }
}
