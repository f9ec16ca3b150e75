//! The core's nodes on an engine with real threads and real time: what the engine tells is what a
//! node can live with.
//!
//! ```text
//!   host: Node::handle <-- events -- LogEngine        one thread a host, as in a daemon
//!          | tasks: answered at once, and counted
//!          | fences: proven by hand
//! ```

use std::collections::BTreeSet;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant as Moment};

use umd_cluster::memory::{Link, Memory};
use umd_cluster::{Engine, LogEngine, Past, Setup};
use umd_core::cluster::{
    self, Answer, DeviceNumber, Effect, End, Event, FenceProof, Node, NodeSlot, ProofKind, Task,
    Wish, WishId,
};
use umd_core::value::{Instant, Span};

/// What a host has seen, as text.
#[derive(Default)]
struct Diary {
    effects: Vec<Effect>,
}

struct Host {
    orders: Sender<Option<Event>>,
    diary: Arc<Mutex<Diary>>,
    link: Link,
    thread: Option<JoinHandle<()>>,
}

fn answer(task: &Task) -> Answer {
    match task {
        Task::Load { .. } => Answer::Loaded {
            dirty: false,
            sectors: 1 << 20,
        },
        Task::Recheck(ids) => Answer::Holds(ids.clone()),
        Task::Write(_) => Answer::Written(DeviceNumber(0)),
        Task::CopyBits(_) => Answer::Copied { any: true },
        Task::Drain => Answer::Drained { dirty: false },
        Task::Undo(_) => panic!("nothing fails here"),
        _ => Answer::Done,
    }
}

fn live(mut engine: LogEngine<Link>, orders: &Receiver<Option<Event>>, diary: &Mutex<Diary>) {
    let mut setup = cluster::Setup::new(4);
    setup.answer_within = Span::secs(10);
    setup.stop_within = Span::secs(5);
    let mut node = Node::new(setup);
    let mut todo = vec![Event::Start];
    while node.end().is_none() {
        for event in std::mem::take(&mut todo) {
            if node.end().is_some() {
                break;
            }
            let mut effects = Vec::new();
            node.handle(engine.now(), event, &mut effects);
            diary.lock().unwrap().effects.extend(effects.clone());
            for effect in effects {
                match effect {
                    Effect::Service(command) => engine.submit(command),
                    Effect::Task(desk, task) => todo.push(Event::Answer(desk, answer(&task))),
                    Effect::Fence(peer) => {
                        let kind = ProofKind::Confirmed;
                        todo.push(Event::Fenced(FenceProof { peer, kind }));
                    }
                    _ => {}
                }
            }
        }
        if !todo.is_empty() {
            continue;
        }
        match orders.try_recv() {
            Ok(Some(event)) => todo.push(event),
            Ok(None) | Err(std::sync::mpsc::TryRecvError::Disconnected) => return, // It dies.
            Err(std::sync::mpsc::TryRecvError::Empty) => {}
        }
        let event = engine.wait_event(Duration::from_millis(5));
        todo.extend(event.map(Event::Service));
        let due = |at: Instant| engine.now() >= at;
        if node.next_deadline().is_some_and(due) {
            todo.push(Event::Tick);
        }
    }
}

impl Host {
    fn start(memory: &Arc<Memory>, name: &str) -> Host {
        let mut setup = Setup::new([7; 16], "blue", name);
        setup.session = Duration::from_secs(6);
        setup.past = Past::New;
        let link = memory.link();
        let engine = LogEngine::new(link.clone(), setup, Arc::new(|| ()));
        let (orders, inbox) = channel();
        let diary = Arc::new(Mutex::new(Diary::default()));
        let written = Arc::clone(&diary);
        let thread = std::thread::spawn(move || live(engine, &inbox, &written));
        Host {
            orders,
            diary,
            link,
            thread: Some(thread),
        }
    }

    fn tell(&self, event: Event) {
        self.orders.send(Some(event)).unwrap();
    }

    fn until<T>(&self, what: &str, wanted: impl Fn(&Effect) -> Option<T>) -> T {
        let begin = Moment::now();
        loop {
            let found = self.diary.lock().unwrap().effects.iter().find_map(&wanted);
            if let Some(found) = found {
                return found;
            }
            let effects = &self.diary.lock().unwrap().effects;
            let patient = begin.elapsed() < Duration::from_secs(30);
            assert!(patient, "{what} did not come: {effects:#?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn is_ready(&self) {
        self.until("ready", |effect| (*effect == Effect::Ready).then_some(()));
    }

    fn wish(&self, id: u64, wish: Wish) {
        let id = WishId(id);
        self.tell(Event::Wish(id, wish));
        let result = self.until("an answer to a wish", |effect| match effect {
            Effect::Done(of, result) if *of == id => Some(result.clone()),
            _ => None,
        });
        let effects = &self.diary.lock().unwrap().effects;
        assert_eq!(result, Ok(()), "{effects:?}");
    }

    fn tasks(&self, of: impl Fn(&Task) -> bool) -> usize {
        let diary = self.diary.lock().unwrap();
        let tasks = diary.effects.iter();
        let tasks = tasks.filter(|effect| matches!(effect, Effect::Task(_, task) if of(task)));
        tasks.count()
    }

    fn stop(mut self) -> End {
        self.tell(Event::Stop);
        self.thread.take().unwrap().join().unwrap();
        self.until("its end", |effect| match effect {
            Effect::Over(end) => Some(*end),
            _ => None,
        })
    }

    fn kill(mut self) {
        self.orders.send(None).unwrap();
        self.thread.take().unwrap().join().unwrap();
    }
}

#[test]
fn nodes_follow_each_other_take_the_dead_ones_slot_and_leave() {
    let memory = Memory::new();
    let [a, b, c] = ["a", "b", "c"].map(|name| {
        let host = Host::start(&memory, name);
        host.is_ready();
        host
    });
    // All follow what one does, though they all want something at once.
    std::thread::scope(|scope| {
        for host in [&a, &b, &c] {
            scope.spawn(|| (0..10).for_each(|id| host.wish(id, Wish::Update)));
        }
    });
    let reloads = |host: &Host| host.tasks(|task| matches!(task, Task::Reload { .. }));
    for host in [&a, &b, &c] {
        assert!(reloads(host) >= 20, "{} of 20", reloads(host));
    }
    let sectors = 1 << 21;
    b.wish(
        100,
        Wish::Resize {
            sectors,
            sync_sectors: sectors,
        },
    );
    let publish = Task::Publish { sectors };
    for host in [&a, &c] {
        assert_eq!(host.tasks(|task| *task == publish), 1);
    }
    // One dies in the middle of things: its slot is taken once, and its bits are resynced.
    c.kill();
    a.wish(200, Wish::Update);
    b.wish(200, Wish::Update);
    let wanted = |effect: &Effect| (*effect == Effect::ResyncNeeded).then_some(());
    let begin = Moment::now();
    let copies = |host: &Host| host.tasks(|task| *task == Task::CopyBits(NodeSlot(2)));
    while copies(&a) + copies(&b) == 0 {
        assert!(begin.elapsed() < Duration::from_secs(30), "nobody took it");
        std::thread::sleep(Duration::from_millis(5));
    }
    let taker = if copies(&a) > 0 { &a } else { &b };
    taker.until("a resync", wanted);
    let mut d = Host::start(&memory, "d");
    d.is_ready();
    assert_eq!(copies(&a) + copies(&b), 1);
    // One is cut off: it freezes by itself, and is over when it is told to stop.
    d.link.cut(true);
    d.until("a freeze", |effect| match effect {
        Effect::Frozen(Some(cluster::Freeze::Lost)) => Some(()),
        _ => None,
    });
    d.tell(Event::Stop);
    d.thread.take().unwrap().join().unwrap();
    a.wish(300, Wish::Update);
    let ends: BTreeSet<End> = [a.stop(), b.stop()].into();
    assert_eq!(ends, BTreeSet::from([End::Left]));
}
