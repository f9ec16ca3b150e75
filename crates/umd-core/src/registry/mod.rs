//! The names of arrays: who may open what, who waits for whom, and when an array is gone.
//!
//! ```text
//!            open, where names may be made by opening                      start
//!  (nothing) -----------------------------> Empty -------------------------> Starting
//!      ^  \                                 ^  |  held until a control         |   |
//!      |   '---- start: straight ahead -----|--|------> Starting      started, |   | with an array
//!      |                 the start failed --'  |        not run: members only  |   |
//!      |                                       |                               v   v
//!      |                                       |             Inactive <-- Starting Running
//!      |       no opener, no control request,  |                 \                 /
//!      |       no hold                         |                  '-- stop --> Stopping
//!   deleted                                    v                                   |  ^ refused:
//!      '--- Deleting <---- last close ---- Cleared <----------- stopped -----------'  | back
//! ```
//!
//! One object at a time has a name. Objects are known by a number that is never used twice, so what
//! was granted of one can never be taken for its successor. Opening waits while an object starts,
//! stops or goes away: it gets the old one alive, or the new one, or is refused. It looks again
//! after a deletion once, never twice.
//!
//! An object that was made by opening it is held until somebody asks something of it: an agent that
//! opens every new device and closes it again must not make it come and go for ever. A request that
//! was refused as invalid says nothing about anybody's wishes: it leaves the hold.
//!
//! Nothing here runs, opens or deletes anything: what has to be done is said in [`Effect`]s, and
//! whoever does it says when it is done. Ids only; what they stand for is the caller's.

use std::collections::{BTreeMap, BTreeSet};

/// So many names can be made by opening them, as with md: a client that opens whatever comes to its
/// mind does not fill the memory.
const EMPTY_MAX: usize = 512;

/// One life of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectId(pub u64);

/// Somebody's claim: an open, a start or a control request. Never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// Where an object stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// It has a name and nothing else (md: `clear`, made by opening it).
    Empty,
    /// It is being made into an array.
    Starting,
    /// It has members and does not run.
    Inactive,
    /// It runs.
    Running,
    /// It is coming to rest.
    Stopping,
    /// Stopped, and only there because somebody still has it open or asks something of it.
    Cleared,
    /// What belongs to it is being taken down.
    Deleting,
}

/// What a start finds or makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Onto {
    /// A free name, or an empty object.
    Nothing,
    /// An inactive array.
    Members,
}

/// What became of a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Started {
    /// An array that runs.
    Running,
    /// Members, which do not run.
    Inactive,
}

/// How a control request was answered, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Answered {
    /// Refused because it makes no sense (EINVAL): it changes nothing.
    Invalid,
    /// Anything else: done, or refused for another reason.
    Otherwise,
}

/// Why something was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Refusal {
    /// Nothing has this name.
    #[error("nothing has this name")]
    Unknown,
    /// Something else has it.
    #[error("the name is in use")]
    Taken,
    /// It is being started.
    #[error("it is being started")]
    Starting,
    /// It is being stopped.
    #[error("it is being stopped")]
    Stopping,
    /// Somebody has it open.
    #[error("it is open")]
    Open,
    /// No more names: the process is about to end.
    #[error("the daemon is leaving")]
    Leaving,
}

/// What the world is told about an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Word {
    /// It is there.
    Add,
    /// It began to run, or ended it.
    Change,
    /// It is gone, with all that belonged to it.
    Remove,
}

/// What has to be done, in order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// Tell everybody who listens.
    Announce(Word, ObjectId, String),
    /// The claim holds, on this object.
    Granted(Ticket, ObjectId),
    /// The claim is over.
    Refused(Ticket, Refusal),
    /// Close whatever has it open.
    Evict(ObjectId),
    /// Take down what belongs to it, then say [`Names::deleted`].
    Delete(ObjectId),
}

/// What a stop that was not refused has to go on with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stop {
    /// There was nothing to stop: the name is let go.
    LetGo(ObjectId),
    /// Bring it to rest, then say [`Names::stopped`] or [`Names::stop_refused`].
    Rest(ObjectId),
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Object {
    id: ObjectId,
    phase: Phase,
    /// What a start or a stop that fails goes back to.
    before: Phase,
    /// Made by opening it, and nobody has asked anything of it yet.
    held: bool,
    openers: BTreeSet<Ticket>,
    /// Control requests under way.
    controls: BTreeSet<Ticket>,
}

impl Object {
    /// Dead, or about to be: nobody gets it any more.
    fn is_leaving(&self) -> bool {
        matches!(
            self.phase,
            Phase::Stopping | Phase::Cleared | Phase::Deleting
        )
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Claim {
    /// An open that waits, and whether it has looked again after a deletion.
    Opening {
        again: bool,
    },
    Open(ObjectId),
    /// A start that waits for a deletion.
    WaitingToStart,
    Start(ObjectId),
    Control(ObjectId),
}

/// All names of a household.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Names {
    objects: BTreeMap<String, Object>,
    claims: BTreeMap<Ticket, (String, Claim)>,
    next_object: u64,
    next_ticket: u64,
    make_by_opening: bool,
    closed: bool,
}

type Out = Vec<Effect>;

impl Names {
    /// None yet. `make_by_opening`: opening a name that nothing has makes an empty object (md's
    /// `create_on_open`).
    pub fn new(make_by_opening: bool) -> Names {
        Names {
            objects: BTreeMap::new(),
            claims: BTreeMap::new(),
            next_object: 1,
            next_ticket: 1,
            make_by_opening,
            closed: false,
        }
    }

    /// Whether there is nothing at all.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// Whether there is nothing but names that somebody once opened and nobody has open now.
    pub fn is_idle(&self) -> bool {
        let mut objects = self.objects.values();
        objects.all(|one| one.phase == Phase::Empty && one.openers.is_empty())
    }

    /// The object that has a name now, and where it stands.
    pub fn find(&self, name: &str) -> Option<(ObjectId, Phase)> {
        let object = self.objects.get(name)?;
        Some((object.id, object.phase))
    }

    /// The name of an object.
    pub fn name_of(&self, id: ObjectId) -> Option<&str> {
        let mut objects = self.objects.iter();
        let found = objects.find(|(_, object)| object.id == id);
        found.map(|(name, _)| name.as_str())
    }

    /// Who has an object open.
    pub fn openers(&self, id: ObjectId) -> impl Iterator<Item = Ticket> + '_ {
        let object = self.objects.values().find(|object| object.id == id);
        object
            .into_iter()
            .flat_map(|one| one.openers.iter().copied())
    }

    /// No name is made any more; those there are stay.
    pub fn close_for_new(&mut self) {
        self.closed = true;
    }

    /// Whether no name is made any more.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    fn ticket(&mut self, name: &str, claim: Claim) -> Ticket {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        let before = self.claims.insert(ticket, (name.to_owned(), claim));
        assert!(before.is_none(), "a ticket is never used twice");
        ticket
    }

    fn make(&mut self, name: &str, phase: Phase, out: &mut Out) -> ObjectId {
        assert!(!self.closed, "made after closing");
        let id = ObjectId(self.next_object);
        self.next_object += 1;
        let object = Object {
            id,
            phase,
            before: Phase::Empty,
            held: phase == Phase::Empty,
            openers: BTreeSet::new(),
            controls: BTreeSet::new(),
        };
        let other = self.objects.insert(name.to_owned(), object);
        assert!(other.is_none(), "one object at a time has a name");
        out.push(Effect::Announce(Word::Add, id, name.to_owned()));
        id
    }

    /// Somebody looks a name up, without opening it: where names may be made by opening, that makes
    /// it. The object is held until somebody has opened it, and on.
    pub fn probe(&mut self, name: &str, out: &mut Out) -> Option<(ObjectId, Phase)> {
        let free = !self.objects.contains_key(name) && !self.closed;
        if free && self.make_by_opening && self.count_empty() < EMPTY_MAX {
            self.make(name, Phase::Empty, out);
        }
        self.find(name)
    }

    fn count_empty(&self) -> usize {
        let objects = self.objects.values();
        objects.filter(|one| one.phase == Phase::Empty).count()
    }

    /// Somebody opens a name. The answer is an effect, now or later.
    pub fn open(&mut self, name: &str, out: &mut Out) -> Ticket {
        let ticket = self.ticket(name, Claim::Opening { again: false });
        self.try_open(ticket, name, out);
        ticket
    }

    fn try_open(&mut self, ticket: Ticket, name: &str, out: &mut Out) {
        if self.closed {
            return self.refuse(ticket, Refusal::Leaving, out);
        }
        self.probe(name, out);
        let Some(object) = self.objects.get_mut(name) else {
            return self.refuse(ticket, Refusal::Unknown, out);
        };
        match object.phase {
            Phase::Empty | Phase::Inactive | Phase::Running => {
                let id = object.id;
                object.openers.insert(ticket);
                let claim = self.claims.get_mut(&ticket).expect("it was made just now");
                assert!(matches!(claim.1, Claim::Opening { .. }), "opened once");
                claim.1 = Claim::Open(id);
                out.push(Effect::Granted(ticket, id));
            }
            // What comes of it is worth waiting for.
            Phase::Starting => {}
            Phase::Stopping | Phase::Cleared | Phase::Deleting => {
                let claim = self.claims.get(&ticket).expect("it was made just now");
                // Whoever looked again once does not wait for another one to go.
                if claim.1 == (Claim::Opening { again: true }) {
                    self.refuse(ticket, Refusal::Unknown, out);
                }
            }
        }
    }

    fn refuse(&mut self, ticket: Ticket, why: Refusal, out: &mut Out) {
        let claim = self.claims.remove(&ticket);
        assert!(claim.is_some(), "only who waits is refused");
        out.push(Effect::Refused(ticket, why));
    }

    /// Whoever opened a name closes it, or does not wait for it any longer.
    ///
    /// # Panics
    /// When the ticket is not one of an open.
    pub fn close(&mut self, ticket: Ticket, out: &mut Out) {
        let Some((name, claim)) = self.claims.remove(&ticket) else {
            return; // Refused before.
        };
        let id = match claim {
            Claim::Opening { .. } => return,
            Claim::Open(id) => id,
            _ => panic!("the ticket is not one of an open"),
        };
        let object = self.objects.get_mut(&name).expect("who is open is there");
        assert!(object.id == id, "an object outlived by who has it open");
        assert!(object.openers.remove(&ticket), "an opener is counted");
        self.settle(&name, out);
    }

    /// Somebody wants to start something under a name. A free one is granted at once; one that is
    /// going away is waited for. The answer is an effect.
    pub fn start(&mut self, name: &str, onto: Onto, out: &mut Out) -> Ticket {
        let ticket = self.ticket(name, Claim::WaitingToStart);
        self.try_start(ticket, name, onto, out);
        ticket
    }

    fn try_start(&mut self, ticket: Ticket, name: &str, onto: Onto, out: &mut Out) {
        let phase = self.find(name).map(|(_, phase)| phase);
        let refusal = match (phase, onto) {
            _ if self.closed => Some(Refusal::Leaving),
            (None | Some(Phase::Empty), Onto::Nothing) => None,
            (Some(Phase::Inactive), Onto::Members) => None,
            (None | Some(Phase::Empty), Onto::Members) => Some(Refusal::Unknown),
            (Some(Phase::Starting), _) => Some(Refusal::Starting),
            (Some(Phase::Inactive | Phase::Running), _) => Some(Refusal::Taken),
            (Some(_), Onto::Members) => Some(Refusal::Stopping),
            // Whoever comes first gets it once the old one is gone.
            (Some(Phase::Stopping | Phase::Cleared | Phase::Deleting), Onto::Nothing) => return,
        };
        if let Some(why) = refusal {
            return self.refuse(ticket, why, out);
        }
        let id = match phase {
            None => self.make(name, Phase::Starting, out),
            Some(phase) => {
                let object = self.objects.get_mut(name).expect("it was found");
                object.before = phase;
                object.phase = Phase::Starting;
                object.id
            }
        };
        let claim = self.claims.get_mut(&ticket).expect("it was made just now");
        assert!(claim.1 == Claim::WaitingToStart, "granted once");
        claim.1 = Claim::Start(id);
        out.push(Effect::Granted(ticket, id));
    }

    fn starting(&mut self, ticket: Ticket) -> Option<(String, &mut Object)> {
        let (name, claim) = self.claims.remove(&ticket)?;
        let id = match claim {
            Claim::WaitingToStart => return None,
            Claim::Start(id) => id,
            _ => panic!("the ticket is not one of a start"),
        };
        let object = self.objects.get_mut(&name).expect("what starts is there");
        assert!(object.id == id, "an object outlived by its start");
        assert!(object.phase == Phase::Starting, "a start is over once");
        Some((name, object))
    }

    /// A granted start has come to its end.
    ///
    /// # Panics
    /// When it was not granted.
    pub fn started(&mut self, ticket: Ticket, with: Started, out: &mut Out) {
        let (name, object) = self.starting(ticket).expect("it was granted");
        object.held = false;
        object.phase = match with {
            Started::Running => Phase::Running,
            Started::Inactive => Phase::Inactive,
        };
        let id = object.id;
        out.push(Effect::Announce(Word::Change, id, name.clone()));
        self.look_again(&name, false, out);
    }

    /// A start has come to nothing, or is not waited for any longer.
    ///
    /// # Panics
    /// When the ticket is not one of a start.
    pub fn start_failed(&mut self, ticket: Ticket, answered: Answered, out: &mut Out) {
        let Some((name, object)) = self.starting(ticket) else {
            return;
        };
        object.phase = object.before;
        object.held &= answered == Answered::Invalid;
        self.settle(&name, out);
        self.look_again(&name, false, out);
    }

    /// A control request to what has a name begins; it stays until that is answered. `None` when
    /// nothing is there, or nothing any more.
    pub fn control(&mut self, name: &str) -> Option<(Ticket, ObjectId)> {
        let object = self.objects.get(name)?;
        if matches!(object.phase, Phase::Cleared | Phase::Deleting) {
            return None;
        }
        let id = object.id;
        let ticket = self.ticket(name, Claim::Control(id));
        let object = self.objects.get_mut(name).expect("it was found");
        assert!(object.controls.insert(ticket), "a ticket is new");
        Some((ticket, id))
    }

    /// A control request was answered.
    ///
    /// # Panics
    /// When the ticket is not one of a control request.
    pub fn answered(&mut self, ticket: Ticket, answered: Answered, out: &mut Out) {
        let (name, claim) = self.claims.remove(&ticket).expect("answered once");
        let Claim::Control(id) = claim else {
            panic!("the ticket is not one of a control request");
        };
        let object = self.objects.get_mut(&name).expect("who is asked is there");
        assert!(object.id == id, "an object outlived by a request to it");
        assert!(object.controls.remove(&ticket), "a request is counted");
        object.held &= answered == Answered::Invalid;
        self.settle(&name, out);
    }

    /// Somebody stops what has a name. With `force` those who have it open are shown out; without,
    /// they are a reason to refuse.
    ///
    /// # Errors
    /// When nothing is there to be stopped, or not now.
    pub fn stop(&mut self, name: &str, force: bool, out: &mut Out) -> Result<Stop, Refusal> {
        let object = self.objects.get_mut(name).ok_or(Refusal::Unknown)?;
        match object.phase {
            Phase::Empty | Phase::Inactive | Phase::Running => {}
            Phase::Starting => return Err(Refusal::Starting),
            Phase::Stopping => return Err(Refusal::Stopping),
            Phase::Cleared | Phase::Deleting => return Err(Refusal::Unknown),
        }
        if !object.openers.is_empty() {
            if !force {
                return Err(Refusal::Open);
            }
            out.push(Effect::Evict(object.id));
        }
        let id = object.id;
        if object.phase == Phase::Empty {
            object.held = false;
            object.phase = Phase::Cleared;
            self.settle(name, out);
            return Ok(Stop::LetGo(id));
        }
        object.before = object.phase;
        object.phase = Phase::Stopping;
        Ok(Stop::Rest(id))
    }

    /// What was to be stopped refuses to: it goes on as before.
    ///
    /// # Panics
    /// When it was not being stopped.
    pub fn stop_refused(&mut self, id: ObjectId, out: &mut Out) {
        let Some(name) = self.name_of(id).map(str::to_owned) else {
            return; // It has ended by itself meanwhile.
        };
        let object = self.objects.get_mut(&name).expect("it was found");
        if matches!(object.phase, Phase::Cleared | Phase::Deleting) {
            return;
        }
        assert!(object.phase == Phase::Stopping, "nobody stops it");
        object.phase = object.before;
        self.look_again(&name, false, out);
    }

    /// An array has come to rest, asked or not; its members are let go.
    ///
    /// # Panics
    /// When it was at rest before.
    pub fn stopped(&mut self, id: ObjectId, out: &mut Out) {
        let name = self.name_of(id).expect("what stops is there").to_owned();
        let object = self.objects.get_mut(&name).expect("it was found");
        let ran = matches!(
            object.phase,
            Phase::Stopping | Phase::Running | Phase::Inactive
        );
        assert!(ran, "only what was there stops, and once");
        object.held = false;
        object.phase = Phase::Cleared;
        out.push(Effect::Announce(Word::Change, id, name.clone()));
        self.settle(&name, out);
    }

    /// All that belonged to an object is gone: its name is free.
    ///
    /// # Panics
    /// When nobody was asked to take it down.
    pub fn deleted(&mut self, id: ObjectId, out: &mut Out) {
        let name = self.name_of(id).expect("it is deleted once").to_owned();
        let object = self.objects.remove(&name).expect("it was found");
        assert!(object.phase == Phase::Deleting, "nobody asked for that");
        assert!(object.openers.is_empty(), "deleted while it is open");
        assert!(object.controls.is_empty(), "deleted while it is asked");
        out.push(Effect::Announce(Word::Remove, id, name.clone()));
        self.look_again(&name, true, out);
    }

    /// The end of the process: nobody waits any longer, and no name is held.
    pub fn shut_down(&mut self, out: &mut Out) {
        self.closed = true;
        let names: Vec<String> = self.objects.keys().cloned().collect();
        for name in &names {
            if let Some(object) = self.objects.get_mut(name) {
                object.held = false;
                if object.phase == Phase::Empty && !object.openers.is_empty() {
                    out.push(Effect::Evict(object.id));
                }
            }
            self.settle(name, out);
        }
        let waiting =
            |claim: &Claim| matches!(claim, Claim::Opening { .. } | Claim::WaitingToStart);
        for ticket in self.tickets(waiting) {
            self.refuse(ticket, Refusal::Leaving, out);
        }
    }

    fn tickets(&self, which: impl Fn(&Claim) -> bool) -> Vec<Ticket> {
        let claims = self.claims.iter();
        let found = claims.filter(|(_, (_, claim))| which(claim));
        found.map(|(ticket, _)| *ticket).collect()
    }

    /// Those who wait for a name look again, those who start something first: a new array is what
    /// the others would rather have.
    fn look_again(&mut self, name: &str, after_deletion: bool, out: &mut Out) {
        for ticket in self.tickets(|claim| *claim == Claim::WaitingToStart) {
            if self.claims.get(&ticket).is_some_and(|(of, _)| of == name) {
                self.try_start(ticket, name, Onto::Nothing, out);
            }
        }
        for ticket in self.tickets(|claim| matches!(claim, Claim::Opening { .. })) {
            let Some((_, claim)) = self.claims.get_mut(&ticket).filter(|(of, _)| of == name) else {
                continue;
            };
            if after_deletion {
                assert!(
                    *claim == (Claim::Opening { again: false }),
                    "nobody waits for two deletions"
                );
                *claim = Claim::Opening { again: true };
            }
            self.try_open(ticket, name, out);
        }
    }

    /// Lets an object go that nobody holds, has open or asks.
    fn settle(&mut self, name: &str, out: &mut Out) {
        let Some(object) = self.objects.get_mut(name) else {
            return;
        };
        let nothing = matches!(object.phase, Phase::Empty | Phase::Cleared);
        let wanted = object.held || !object.openers.is_empty() || !object.controls.is_empty();
        if nothing && !wanted {
            object.phase = Phase::Deleting;
            out.push(Effect::Delete(object.id));
        }
    }

    /// What must hold between any two events.
    ///
    /// # Panics
    /// When it does not.
    pub fn check(&self) {
        for (name, object) in &self.objects {
            let dead = object.phase == Phase::Deleting;
            let used = !object.openers.is_empty() || !object.controls.is_empty();
            assert!(!(dead && used), "{name} is deleted while it is used");
            assert!(!(object.held && object.is_leaving()), "{name} is held dead");
            let of = |ticket: &Ticket| self.claims.get(ticket).map(|(_, claim)| *claim);
            let open = |ticket: &Ticket| of(ticket) == Some(Claim::Open(object.id));
            assert!(object.openers.iter().all(open), "{name}: a lost opener");
            let asks = |ticket: &Ticket| of(ticket) == Some(Claim::Control(object.id));
            assert!(object.controls.iter().all(asks), "{name}: a lost request");
        }
    }
}

#[cfg(test)]
mod tests;
