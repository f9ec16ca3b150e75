//! Every interleaving of a handful of clients over one name.
//!
//! ```text
//!   state = Names + what each client is about to do + what was seen from outside (Watch)
//!   breadth first over all states; after each event the effects go to Watch, which knows the rules
//! ```
//!
//! The rules are judged by effects alone, so a mistake in the machine cannot hide in its own state.

use super::*;

const NAME: &str = "r5";

/// What a client still wants to do, and holds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Client {
    /// Opens so many times, and closes each time; it may lose patience while it waits.
    Opener { left: u8, ticket: Option<Ticket> },
    /// Looks the name up.
    Prober { left: u8 },
    /// Starts something, with every outcome.
    Starter {
        left: u8,
        onto: Onto,
        ticket: Option<Ticket>,
    },
    /// Stops, with or without force; the object at rest is what it waits for.
    Stopper {
        left: u8,
        force: bool,
        stopping: Option<ObjectId>,
    },
    /// Asks something else, with every kind of answer.
    Asker { left: u8, ticket: Option<Ticket> },
    /// The process ends.
    Leaver { left: u8 },
    /// An array ends by itself.
    Death { left: u8 },
}

/// What was seen of an object.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Seen {
    made_by_opening: bool,
    touched: bool,
    running: bool,
    members: bool,
    starting: bool,
    stopping: bool,
    stopped: bool,
    dying: bool,
    gone: bool,
    open: BTreeSet<Ticket>,
    asked: u8,
}

/// What was seen of a claim that waits.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Watch {
    objects: BTreeMap<ObjectId, Seen>,
    /// Open tickets without an answer, and the deletions they have waited for.
    waiting: BTreeMap<Ticket, u8>,
    granted: BTreeMap<Ticket, ObjectId>,
    refused: BTreeSet<Ticket>,
    evicted: bool,
    left: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct World {
    names: Names,
    watch: Watch,
    clients: Vec<Client>,
}

impl Watch {
    fn alive(&self) -> Option<(ObjectId, &Seen)> {
        let mut alive = self.objects.iter().filter(|(_, seen)| !seen.gone);
        let found = alive.next().map(|(id, seen)| (*id, seen));
        assert!(alive.next().is_none(), "two objects under one name");
        found
    }

    fn seen(&mut self, id: ObjectId) -> &mut Seen {
        self.objects.get_mut(&id).expect("announced before")
    }

    fn take_in(&mut self, effects: Vec<Effect>, opening: bool) {
        for effect in effects {
            match effect {
                Effect::Announce(Word::Add, id, _) => {
                    assert!(self.alive().is_none(), "added beside another");
                    assert!(!self.left, "added after the end");
                    let seen = Seen {
                        made_by_opening: opening,
                        ..Seen::default()
                    };
                    assert!(self.objects.insert(id, seen).is_none(), "added twice");
                }
                Effect::Announce(Word::Change, id, _) => {
                    assert!(!self.seen(id).gone, "a change of what is gone");
                }
                Effect::Announce(Word::Remove, id, _) => {
                    let seen = self.seen(id);
                    assert!(seen.dying && !seen.gone, "removed without a deletion");
                    seen.gone = true;
                    self.waiting.values_mut().for_each(|count| *count += 1);
                }
                Effect::Delete(id) => {
                    let touched = self.left || self.seen(id).touched;
                    let seen = self.seen(id);
                    assert!(!seen.dying, "deleted twice");
                    assert!(seen.open.is_empty(), "deleted while it is open");
                    assert!(seen.asked == 0, "deleted while it is asked");
                    assert!(!seen.running && !seen.members && !seen.starting);
                    assert!(touched || !seen.made_by_opening, "the hold was lost");
                    seen.dying = true;
                }
                Effect::Evict(id) => {
                    assert!(!self.seen(id).open.is_empty(), "nobody to show out");
                    self.evicted = true;
                }
                Effect::Granted(ticket, id) => {
                    if self.waiting.remove(&ticket).is_some() {
                        let seen = self.seen(id);
                        let dead = seen.stopping || seen.stopped || seen.dying || seen.gone;
                        assert!(!dead, "a dead one was granted");
                        assert!(!seen.starting, "granted before it is what it will be");
                        seen.open.insert(ticket);
                    }
                    assert!(self.granted.insert(ticket, id).is_none(), "granted twice");
                }
                Effect::Refused(ticket, _) => {
                    self.waiting.remove(&ticket);
                    assert!(!self.granted.contains_key(&ticket), "granted and refused");
                    assert!(self.refused.insert(ticket), "refused twice");
                }
            }
        }
        assert!(
            self.waiting.values().all(|count| *count <= 1),
            "looked again more than once"
        );
        assert!(!self.left || self.waiting.is_empty(), "waits after the end");
        let Some((_, seen)) = self.alive() else {
            return assert!(self.waiting.is_empty(), "waits for nothing");
        };
        let leaving = seen.stopping || seen.stopped || seen.dying;
        assert!(
            seen.starting || leaving || self.waiting.is_empty(),
            "waits for what it could have"
        );
        let something = seen.running || seen.members || seen.starting || seen.stopping;
        let used = !seen.open.is_empty() || seen.asked > 0;
        let held = seen.made_by_opening && !seen.touched && !self.left;
        assert!(
            something || used || held || seen.dying,
            "nobody needs it, and it stays"
        );
    }
}

impl World {
    fn new(make_by_opening: bool, clients: &[Client]) -> World {
        World {
            names: Names::new(make_by_opening),
            watch: Watch::default(),
            clients: clients.to_vec(),
        }
    }

    /// All that can happen next.
    fn next(&self) -> Vec<World> {
        let mut all = Vec::new();
        for index in 0..self.clients.len() {
            self.steps_of(index, &mut all);
        }
        if let Some((id, seen)) = self.watch.alive()
            && seen.dying
        {
            let mut world = self.clone();
            let mut out = Vec::new();
            world.names.deleted(id, &mut out);
            world.over(out, true);
            all.push(world);
        }
        all
    }

    fn over(&mut self, out: Vec<Effect>, opening: bool) {
        // A start that waited and was granted after a deletion makes an object that is no probe.
        let starts: Vec<Ticket> = self.clients.iter().filter_map(starting).collect();
        let by_start = |effect: &Effect| match effect {
            Effect::Granted(ticket, _) => starts.contains(ticket),
            _ => false,
        };
        let started = out.iter().any(by_start);
        let granted: Vec<ObjectId> = out
            .iter()
            .filter(|effect| by_start(effect))
            .filter_map(|effect| match effect {
                Effect::Granted(_, id) => Some(*id),
                _ => None,
            })
            .collect();
        for id in &granted {
            if let Some(seen) = self.watch.objects.get_mut(id) {
                seen.starting = true;
            }
        }
        // What a start has just made is announced in this very list.
        let fresh: Vec<ObjectId> = granted
            .into_iter()
            .filter(|id| !self.watch.objects.contains_key(id))
            .collect();
        let (adds, rest): (Vec<_>, Vec<_>) = out.into_iter().partition(
            |effect| matches!(effect, Effect::Announce(Word::Add, id, _) if fresh.contains(id)),
        );
        let (removes, rest): (Vec<_>, Vec<_>) = rest
            .into_iter()
            .partition(|effect| matches!(effect, Effect::Announce(Word::Remove, ..)));
        for effect in removes.into_iter().chain(adds) {
            if let Effect::Announce(word, id, _) = effect {
                match word {
                    Word::Remove => {
                        let seen = self.watch.seen(id);
                        assert!(seen.dying && !seen.gone, "removed without a deletion");
                        seen.gone = true;
                        let waiting = self.watch.waiting.values_mut();
                        waiting.for_each(|count| *count += 1);
                    }
                    _ => {
                        assert!(self.watch.alive().is_none(), "added beside another");
                        let seen = Seen {
                            starting: true,
                            ..Seen::default()
                        };
                        self.watch.objects.insert(id, seen);
                    }
                }
            }
        }
        self.watch.take_in(rest, opening && !started);
        self.names.check();
    }

    fn steps_of(&self, index: usize, all: &mut Vec<World>) {
        match &self.clients[index] {
            Client::Opener { left, ticket } => self.opener(index, *left, *ticket, all),
            Client::Prober { left: 0 } => {}
            Client::Prober { left } => {
                let mut world = self.clone();
                let mut out = Vec::new();
                world.names.probe(NAME, &mut out);
                world.clients[index] = Client::Prober { left: left - 1 };
                world.over(out, true);
                all.push(world);
            }
            Client::Starter { left, onto, ticket } => {
                self.starter(index, (*left, *onto), *ticket, all);
            }
            Client::Stopper {
                left,
                force,
                stopping,
            } => self.stopper(index, (*left, *force), *stopping, all),
            Client::Asker { left, ticket } => self.asker(index, *left, *ticket, all),
            Client::Leaver { left: 0 } | Client::Death { left: 0 } => {}
            Client::Leaver { .. } => {
                let mut world = self.clone();
                let mut out = Vec::new();
                world.names.shut_down(&mut out);
                world.watch.left = true;
                world.clients[index] = Client::Leaver { left: 0 };
                world.over(out, false);
                all.push(world);
            }
            Client::Death { left } => {
                let Some((id, _)) = self.watch.alive().filter(|(_, seen)| seen.running) else {
                    return;
                };
                let mut world = self.clone();
                world.clients[index] = Client::Death { left: left - 1 };
                world.rested(id);
                all.push(world);
            }
        }
    }

    fn opener(&self, index: usize, left: u8, ticket: Option<Ticket>, all: &mut Vec<World>) {
        let mut world = self.clone();
        let mut out = Vec::new();
        match ticket {
            None if left == 0 => return,
            None => {
                // The watch has to know the ticket before its answer comes.
                let ticket = Ticket(world.names.next_ticket);
                world.watch.waiting.insert(ticket, 0);
                assert_eq!(world.names.open(NAME, &mut out), ticket);
                let ticket = Some(ticket);
                let left = left - 1;
                world.clients[index] = Client::Opener { left, ticket };
            }
            Some(ticket) => {
                world.clients[index] = Client::Opener { left, ticket: None };
                world.watch.waiting.remove(&ticket);
                if let Some(id) = world.watch.granted.get(&ticket).copied() {
                    assert!(world.watch.seen(id).open.remove(&ticket), "closed once");
                }
                world.names.close(ticket, &mut out);
            }
        }
        world.over(out, true);
        all.push(world);
    }

    fn starter(
        &self,
        index: usize,
        (left, onto): (u8, Onto),
        ticket: Option<Ticket>,
        all: &mut Vec<World>,
    ) {
        let Some(ticket) = ticket else {
            if left == 0 {
                return;
            }
            let mut world = self.clone();
            let ticket = Ticket(world.names.next_ticket);
            world.clients[index] = Client::Starter {
                left: left - 1,
                onto,
                ticket: Some(ticket),
            };
            let mut out = Vec::new();
            assert_eq!(world.names.start(NAME, onto, &mut out), ticket);
            world.over(out, false);
            return all.push(world);
        };
        let done = Client::Starter {
            left,
            onto,
            ticket: None,
        };
        let mut worlds = Vec::new();
        match self.watch.granted.get(&ticket) {
            // Refused, or it waits and may lose patience.
            None => {
                let mut world = self.clone();
                let mut out = Vec::new();
                world
                    .names
                    .start_failed(ticket, Answered::Otherwise, &mut out);
                worlds.push((world, out));
            }
            Some(id) => {
                for with in [Started::Running, Started::Inactive] {
                    let mut world = self.clone();
                    let mut out = Vec::new();
                    let seen = world.watch.seen(*id);
                    (seen.starting, seen.touched) = (false, true);
                    seen.running = with == Started::Running;
                    seen.members = with == Started::Inactive;
                    world.names.started(ticket, with, &mut out);
                    worlds.push((world, out));
                }
                for answered in [Answered::Invalid, Answered::Otherwise] {
                    let mut world = self.clone();
                    let mut out = Vec::new();
                    let seen = world.watch.seen(*id);
                    seen.starting = false;
                    seen.touched |= answered == Answered::Otherwise;
                    world.names.start_failed(ticket, answered, &mut out);
                    worlds.push((world, out));
                }
            }
        }
        for (mut world, out) in worlds {
            world.clients[index] = done.clone();
            world.over(out, true);
            all.push(world);
        }
    }

    /// An array has come to rest.
    fn rested(&mut self, id: ObjectId) {
        let mut out = Vec::new();
        let seen = self.watch.seen(id);
        (seen.running, seen.members, seen.stopping) = (false, false, false);
        (seen.stopped, seen.touched) = (true, true);
        self.names.stopped(id, &mut out);
        self.over(out, false);
    }

    fn stopper(
        &self,
        index: usize,
        (left, force): (u8, bool),
        stopping: Option<ObjectId>,
        all: &mut Vec<World>,
    ) {
        let idle = Client::Stopper {
            left,
            force,
            stopping: None,
        };
        if let Some(id) = stopping {
            let mut world = self.clone();
            world.clients[index] = idle.clone();
            // It may have ended by itself.
            if world.watch.seen(id).stopping {
                world.rested(id);
            }
            all.push(world);
            let mut world = self.clone();
            world.clients[index] = idle;
            let seen = world.watch.seen(id);
            seen.stopping = false;
            let mut out = Vec::new();
            world.names.stop_refused(id, &mut out);
            world.over(out, false);
            return all.push(world);
        }
        if left == 0 {
            return;
        }
        let mut world = self.clone();
        let mut out = Vec::new();
        let alive = world.watch.alive().map(|(id, seen)| (id, seen.clone()));
        let result = world.names.stop(NAME, force, &mut out);
        if let (Ok(_), Some((id, seen))) = (&result, &alive) {
            let shown_out = out.contains(&Effect::Evict(*id));
            assert_eq!(shown_out, !seen.open.is_empty(), "who has it open must go");
        }
        let mut stopping = None;
        match (&result, &alive) {
            (Ok(Stop::LetGo(id)), Some((there, seen))) => {
                assert_eq!(id, there);
                assert!(force || seen.open.is_empty(), "stopped while it is open");
                let seen = world.watch.seen(*id);
                (seen.touched, seen.stopped) = (true, true);
            }
            (Ok(Stop::Rest(id)), Some((there, seen))) => {
                assert_eq!(id, there);
                assert!(force || seen.open.is_empty(), "stopped while it is open");
                assert!(seen.running || seen.members, "nothing to stop");
                world.watch.seen(*id).stopping = true;
                stopping = Some(*id);
            }
            (Ok(_), None) => panic!("stopped what is not there"),
            (Err(_), None) => {}
            (Err(_), Some((_, seen))) => {
                let free = seen.open.is_empty() || force;
                let calm = !seen.starting && !seen.stopping && !seen.stopped && !seen.dying;
                assert!(!(free && calm), "refused without a reason: {result:?}");
            }
        }
        world.clients[index] = Client::Stopper {
            left: left - 1,
            force,
            stopping,
        };
        world.over(out, false);
        all.push(world);
    }

    fn asker(&self, index: usize, left: u8, ticket: Option<Ticket>, all: &mut Vec<World>) {
        let Some(ticket) = ticket else {
            if left == 0 {
                return;
            }
            let mut world = self.clone();
            let asked = world.names.control(NAME);
            if let Some((ticket, id)) = asked {
                let seen = world.watch.seen(id);
                assert!(!seen.dying && !seen.gone, "asked a dead one");
                seen.asked += 1;
                world.watch.granted.insert(ticket, id);
            }
            let ticket = asked.map(|(ticket, _)| ticket);
            let left = left - 1;
            world.clients[index] = Client::Asker { left, ticket };
            return all.push(world);
        };
        for answered in [Answered::Invalid, Answered::Otherwise] {
            let mut world = self.clone();
            let mut out = Vec::new();
            let id = world.watch.granted[&ticket];
            let seen = world.watch.seen(id);
            seen.asked -= 1;
            seen.touched |= answered == Answered::Otherwise;
            world.names.answered(ticket, answered, &mut out);
            world.clients[index] = Client::Asker { left, ticket: None };
            world.over(out, false);
            all.push(world);
        }
    }

    /// Nothing can happen any more: what may be left?
    fn at_the_end(&self) {
        assert!(self.watch.waiting.is_empty(), "somebody waits for ever");
        let Some((_, seen)) = self.watch.alive() else {
            return assert!(self.names.is_empty());
        };
        let held = seen.made_by_opening && !seen.touched && !self.watch.left;
        assert!(seen.running || seen.members || held, "something is left");
    }
}

fn starting(client: &Client) -> Option<Ticket> {
    match client {
        Client::Starter { ticket, .. } => *ticket,
        _ => None,
    }
}

/// Walks all states; how many there are.
fn walk(make_by_opening: bool, clients: &[Client]) -> usize {
    let mut seen = BTreeSet::new();
    let mut now = vec![World::new(make_by_opening, clients)];
    while !now.is_empty() {
        let mut then = Vec::new();
        for world in now {
            let next = world.next();
            if next.is_empty() {
                world.at_the_end();
            }
            for one in next {
                if !seen.contains(&one) {
                    seen.insert(one.clone());
                    then.push(one);
                }
            }
        }
        now = then;
    }
    seen.len()
}

fn opener(left: u8) -> Client {
    Client::Opener { left, ticket: None }
}

fn starter(left: u8, onto: Onto) -> Client {
    Client::Starter {
        left,
        onto,
        ticket: None,
    }
}

fn stopper(left: u8, force: bool) -> Client {
    Client::Stopper {
        left,
        force,
        stopping: None,
    }
}

fn asker(left: u8) -> Client {
    Client::Asker { left, ticket: None }
}

#[test]
fn two_who_open_one_who_starts_and_one_who_stops() {
    for make_by_opening in [false, true] {
        let clients = [
            opener(2),
            opener(1),
            starter(2, Onto::Nothing),
            stopper(2, false),
        ];
        let states = walk(make_by_opening, &clients);
        assert!(states > 1000, "{states}");
    }
}

#[test]
fn two_who_start_while_another_stops_by_force() {
    for make_by_opening in [false, true] {
        let clients = [
            opener(2),
            starter(2, Onto::Nothing),
            starter(1, Onto::Nothing),
            stopper(2, true),
        ];
        assert!(walk(make_by_opening, &clients) > 1000);
    }
}

#[test]
fn members_that_run_later() {
    for make_by_opening in [false, true] {
        let clients = [
            opener(1),
            starter(1, Onto::Nothing),
            starter(2, Onto::Members),
            stopper(1, false),
            asker(1),
        ];
        assert!(walk(make_by_opening, &clients) > 1000);
    }
}

#[test]
fn agents_that_open_whatever_is_new() {
    let clients = [
        Client::Prober { left: 2 },
        opener(2),
        opener(2),
        asker(2),
        stopper(1, false),
    ];
    assert!(walk(true, &clients) > 1000);
}

#[test]
fn the_end_of_the_process_and_of_arrays() {
    for make_by_opening in [false, true] {
        let clients = [
            opener(2),
            starter(1, Onto::Nothing),
            stopper(1, true),
            Client::Leaver { left: 1 },
            Client::Death { left: 1 },
            Client::Prober { left: 1 },
        ];
        assert!(walk(make_by_opening, &clients) > 1000);
    }
}

/// An agent as udev starts one: it opens what is new, looks, and closes.
#[test]
fn opening_and_closing_does_not_make_it_flap() {
    let mut names = Names::new(true);
    let mut out = Vec::new();
    for _ in 0..10 {
        let ticket = names.open(NAME, &mut out);
        names.close(ticket, &mut out);
    }
    let added = |effect: &&Effect| matches!(effect, Effect::Announce(Word::Add, ..));
    assert_eq!(out.iter().filter(added).count(), 1);
    assert_eq!(names.find(NAME), Some((ObjectId(1), Phase::Empty)));
    // A request that was refused as invalid leaves it, any other lets it go.
    for (answered, there) in [(Answered::Invalid, true), (Answered::Otherwise, false)] {
        out.clear();
        let (ticket, _) = names.control(NAME).expect("it is there");
        names.answered(ticket, answered, &mut out);
        assert_eq!(out.is_empty(), there);
    }
    assert_eq!(out, [Effect::Delete(ObjectId(1))]);
}

#[test]
fn not_every_name_is_made_by_opening_it() {
    let mut names = Names::new(true);
    let mut out = Vec::new();
    for number in 0..EMPTY_MAX {
        assert!(names.probe(&format!("md{number}"), &mut out).is_some());
    }
    assert_eq!(names.probe("one-more", &mut out), None);
    assert!(names.probe("md0", &mut out).is_some());
    names
        .stop("md0", false, &mut out)
        .expect("nobody has it open");
    names.deleted(ObjectId(1), &mut out);
    assert!(names.probe("one-more", &mut out).is_some());
}

#[test]
fn an_open_that_meets_the_end_gets_the_new_one() {
    let mut names = Names::new(false);
    let mut out = Vec::new();
    let start = names.start(NAME, Onto::Nothing, &mut out);
    names.started(start, Started::Running, &mut out);
    assert_eq!(
        names.stop(NAME, false, &mut out),
        Ok(Stop::Rest(ObjectId(1)))
    );
    out.clear();
    let open = names.open(NAME, &mut out);
    let next = names.start(NAME, Onto::Nothing, &mut out);
    names.stopped(ObjectId(1), &mut out);
    let granted = |effect: &Effect| matches!(effect, Effect::Granted(..));
    assert!(!out.iter().any(granted), "both wait: {out:?}");
    names.deleted(ObjectId(1), &mut out);
    assert!(out.contains(&Effect::Granted(next, ObjectId(2))));
    assert!(!out.contains(&Effect::Granted(open, ObjectId(2))));
    names.started(next, Started::Running, &mut out);
    assert!(out.contains(&Effect::Granted(open, ObjectId(2))));
}

/// A process that is about to end takes nothing new, and leaves what runs alone.
#[test]
fn no_name_is_made_once_that_is_over() {
    let mut names = Names::new(true);
    let mut out = Vec::new();
    let start = names.start(NAME, Onto::Nothing, &mut out);
    names.started(start, Started::Running, &mut out);
    let there = names.find(NAME);
    assert!(!names.is_closed());
    names.close_for_new();
    assert!(names.is_closed());
    out.clear();
    assert_eq!(names.probe("other", &mut out), None);
    let open = names.open("other", &mut out);
    let second = names.start("other", Onto::Nothing, &mut out);
    let leaving = |ticket| Effect::Refused(ticket, Refusal::Leaving);
    assert_eq!(out, [leaving(open), leaving(second)]);
    assert_eq!(names.find(NAME), there);
    names.check();
}

/// What would be a name that is gone for one and there for another is noticed.
#[test]
fn names_that_make_no_sense_are_noticed() {
    type Break = fn(&mut Names);
    let wrong: [(&str, Break); 4] = [
        ("deleted while it is used", |names| {
            first(names).phase = Phase::Deleting
        }),
        ("held dead", |names| {
            first(names).openers.clear();
            (first(names).held, first(names).phase) = (true, Phase::Deleting);
        }),
        ("a lost opener", |names| {
            first(names).openers.insert(Ticket(99));
        }),
        ("a lost request", |names| {
            first(names).controls.insert(Ticket(99));
        }),
    ];
    for (why, break_it) in wrong {
        let mut names = Names::new(true);
        let mut out = Vec::new();
        names.open(NAME, &mut out);
        names.check();
        break_it(&mut names);
        let check = std::panic::AssertUnwindSafe(|| names.check());
        let panic = std::panic::catch_unwind(check).expect_err(why);
        let text = panic.downcast_ref::<String>().expect("a sentence");
        assert!(text.contains(why), "{why}: {text}");
    }
}

fn first(names: &mut Names) -> &mut Object {
    names.objects.values_mut().next().expect("there is one")
}
