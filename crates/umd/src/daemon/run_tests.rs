//! The loop with an engine that copies every request to one member, and breaks when it is told to.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc;

use umd_core::array::{
    ArrayState, Command, Commands, Completion, Control, ControlError, ControlReply, Event, IoDone,
    IoOp, MemberIo, Purpose, Reply, Request, RequestError, RequestOp, Status, Timer,
};
use umd_core::value::{IoError, IoId, MemberId, Now, Pool, RequestId, Rungs, Span};
use umd_disk::{Backend, MemberFile, Mux};
use umd_export::nbd::client::Client;
use umd_export::nbd::{Address, ExportInfo};
use umd_format::Uuid;

use super::super::array::Handle;
use super::super::array::Message;
use super::super::listener::{Listening, open_door};
use super::super::open::Opened;
use super::super::registry::Registry;
use super::super::start::Revived;
use super::super::turn::{Side, Turn, Work};
use super::{Attached, Engine, Loop, exchange};

const SECTORS: u64 = 2048;
/// A write to this sector breaks the engine.
const FATAL_SECTOR: u64 = 1000;

/// Copies requests to member 0.
struct Copycat {
    pool: Pool,
    pending: BTreeMap<u64, RequestId>,
    next: u64,
    ticks: mpsc::Sender<Timer>,
}

impl Copycat {
    fn io(&mut self, id: RequestId, op: IoOp, out: &mut Commands) {
        self.next += 1;
        self.pending.insert(self.next, id);
        out.push(Command::Io(MemberIo {
            io: IoId(self.next),
            member: MemberId(0),
            purpose: Purpose::Data,
            op,
        }));
    }

    fn request(&mut self, request: Request, out: &mut Commands) {
        let op = match request.op {
            RequestOp::Read {
                offset_sectors,
                len_sectors,
            } => IoOp::Read {
                offset_sectors,
                buf: self.pool.take(len_sectors as usize * 512),
            },
            RequestOp::Write {
                offset_sectors,
                data,
                fua,
            } => {
                assert_ne!(offset_sectors, FATAL_SECTOR, "a stripe was counted twice");
                IoOp::Write {
                    offset_sectors,
                    data: [data].into_iter().collect(),
                    fua,
                }
            }
            _ => IoOp::Flush,
        };
        self.io(request.id, op, out);
    }

    fn done(&mut self, done: Completion, out: &mut Commands) {
        let id = self.pending.remove(&done.io.0).expect("asked for");
        let result = match done.result {
            Ok(IoDone::Read(buf)) => Ok(Reply::Data([buf.freeze()].into())),
            Ok(_) => Ok(Reply::Done),
            Err(error) => Err(RequestError::Io(error.to_string())),
        };
        out.push(Command::Complete { id, result });
    }
}

impl Engine for Copycat {
    fn begin(&mut self, now: Now, out: &mut Commands) {
        out.push(Command::Arm(Timer::SafeMode, now.mono + Span::millis(20)));
    }

    fn handle(&mut self, now: Now, event: Event, out: &mut Commands) {
        match event {
            Event::Request(request) => self.request(request, out),
            Event::Requests(requests) => {
                let each = requests.into_iter();
                each.for_each(|request| self.request(request, out));
            }
            Event::Done(done) => self.done(done, out),
            Event::Ended(all) => all.into_iter().for_each(|done| self.done(done, out)),
            Event::Timer(timer) => {
                let _ = self.ticks.send(timer);
                out.push(Command::Arm(timer, now.mono + Span::millis(20)));
            }
            Event::Control(id, Control::Stop) => {
                let result = Ok(ControlReply::Done);
                out.push(Command::Answer { id, result });
                out.push(Command::Stopped);
            }
            Event::Control(id, _) => {
                let result = Err(ControlError::Busy("not now".into()));
                out.push(Command::Answer { id, result });
            }
        }
    }

    fn map(&self, _: u16) -> umd_core::array::Map {
        umd_core::array::Map::default()
    }

    fn rungs(&self) -> Rungs {
        Rungs::default()
    }

    fn status(&self) -> Status {
        crate::doc::tests::raid5()
    }
}

/// A running copycat and the way to it.
struct Rig {
    handle: Handle,
    ticks: mpsc::Receiver<Timer>,
    thread: std::thread::JoinHandle<()>,
}

fn start(name: &'static str, registry: &Registry) -> Rig {
    let export = ExportInfo {
        name: name.into(),
        description: String::new(),
        size_sectors: SECTORS,
        logical_block_bytes: 512,
        preferred_bytes: 4096,
        read_only: false,
    };
    let (events, _) = tokio::sync::broadcast::channel(16);
    let ends = Handle::new(export, events, Default::default()).expect("descriptors");
    let handle = ends.0.clone();
    let reservation = registry.reserve(name).expect("free");
    let uuid = Uuid([name.as_bytes()[0]; 16]);
    reservation.fill(uuid, handle.clone()).expect("fills");
    let (sender, ticks) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        let pool = Pool::new();
        let engine = Copycat {
            pool: pool.clone(),
            pending: BTreeMap::new(),
            next: 0,
            ticks: sender,
        };
        let mut backend = Mux::new().expect("a backend");
        let file = MemberFile::in_memory(SECTORS, 512);
        let attached = BTreeMap::from([(MemberId(0), Attached::of(&file, "memory"))]);
        backend.attach(MemberId(0), file);
        let run = Loop::new(name, Box::new(engine), backend, attached, pool, ends).expect("a loop");
        let mut rested = run.run().expect("runs");
        while let Some(array) = rested {
            rested = exchange::go_on(*array).expect("runs");
        }
    });
    Rig {
        handle,
        ticks,
        thread,
    }
}

fn door(dir: &Path, registry: &Registry) -> (Listening, Address) {
    let address = Address::Unix(dir.join("nbd.sock"));
    let listener = umd_export::nbd::listen(&address).expect("listens");
    let door = open_door(listener, None, registry.clone()).expect("listens");
    (door, address)
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    runtime.block_on(future)
}

#[test]
fn requests_timers_and_control_go_through_the_loop() {
    let dir = tempfile::tempdir().expect("tempdir");
    let registry = Registry::default();
    let rig = start("copy", &registry);
    let (_door, address) = door(dir.path(), &registry);
    let mut client = Client::connect(&address, "copy").expect("connects");
    let data: Vec<u8> = (0..512 * 100).map(|n| (n / 7) as u8).collect();
    client.pwrite(512 * 3, &data).expect("writes");
    client.flush().expect("flushes");
    assert_eq!(client.pread(512 * 3, 512 * 100).expect("reads"), data);
    for _ in 0..3 {
        assert_eq!(rig.ticks.recv(), Ok(Timer::SafeMode));
    }
    let snapshot = wait(rig.handle.look()).expect("alive");
    assert_eq!(snapshot.reason, None);
    let refused = wait(rig.handle.control(Control::Fail(MemberId(0)))).expect("alive");
    assert_eq!(refused, Err(ControlError::Busy("not now".into())));
    let stopped = wait(rig.handle.control(Control::Stop)).expect("alive");
    assert_eq!(stopped, Ok(ControlReply::Done));
    rig.thread.join().expect("ends");
    assert!(client.pread(0, 512).is_err(), "the connection is closed");
    assert!(wait(rig.handle.look()).is_err());
}

#[test]
fn a_broken_invariant_freezes_one_array_and_no_other() {
    let dir = tempfile::tempdir().expect("tempdir");
    let registry = Registry::default();
    let broken = start("broken", &registry);
    let other = start("other", &registry);
    let (_door, address) = door(dir.path(), &registry);
    let mut client = Client::connect(&address, "broken").expect("connects");
    client.pwrite(0, &[7; 512]).expect("writes");
    client
        .pwrite(FATAL_SECTOR * 512, &[9; 512])
        .expect_err("the engine breaks over it");
    // The connection lives, and every request is answered with an error.
    client.pread(0, 512).expect_err("frozen");
    client.pwrite(0, &[8; 512]).expect_err("frozen");
    let snapshot = wait(broken.handle.look()).expect("alive");
    assert_eq!(snapshot.status.state, ArrayState::Frozen);
    assert!(
        snapshot
            .reason
            .expect("a reason")
            .contains("a stripe was counted twice")
    );
    let refused = wait(broken.handle.control(Control::Fail(MemberId(0)))).expect("alive");
    assert!(
        refused
            .expect_err("frozen")
            .to_string()
            .contains("it can only be stopped")
    );
    // The other array does not notice.
    let mut second = Client::connect(&address, "other").expect("connects");
    second.pwrite(0, &[1; 512]).expect("writes");
    assert_eq!(second.pread(0, 512).expect("reads"), [1; 512]);
    for rig in [broken, other] {
        wait(rig.handle.control(Control::Stop))
            .expect("alive")
            .expect("stops");
        rig.thread.join().expect("ends");
    }
}

#[test]
fn many_clients_share_a_loop() {
    let dir = tempfile::tempdir().expect("tempdir");
    let registry = Registry::default();
    let rig = start("many", &registry);
    let (_door, address) = door(dir.path(), &registry);
    let clients: Vec<_> = (0..8u64)
        .map(|n| {
            let address = address.clone();
            std::thread::spawn(move || {
                let mut client = Client::connect(&address, "many").expect("connects");
                for round in 0..50u64 {
                    let data = vec![(n * 50 + round) as u8; 512];
                    client.pwrite(n * 512, &data).expect("writes");
                    assert_eq!(client.pread(n * 512, 512).expect("reads"), data);
                }
                if n % 2 == 0 {
                    client.disconnect().expect("leaves");
                }
            })
        })
        .collect();
    for client in clients {
        client.join().expect("works");
    }
    wait(rig.handle.control(Control::Stop))
        .expect("alive")
        .expect("stops");
    rig.thread.join().expect("ends");
}

/// An export is known by its address, and what cannot be looked at is nobody's twin.
#[test]
fn members_elsewhere_are_told_apart() {
    struct Far;
    impl umd_disk::Medium for Far {
        fn read(&self, _: u64, _: &mut [u8]) -> Result<(), IoError> {
            Err(IoError::Gone)
        }
        fn write(&self, _: u64, _: &[std::io::IoSlice<'_>], _: bool) -> Result<(), IoError> {
            Err(IoError::Gone)
        }
        fn zero(&self, _: u64, _: u64, _: bool, _: bool) -> Result<(), IoError> {
            Err(IoError::Gone)
        }
        fn flush(&self) -> Result<(), IoError> {
            Err(IoError::Gone)
        }
        fn check(&self) -> Result<(), IoError> {
            Err(IoError::Gone)
        }
        fn unlock(&self) {}
    }
    let far = |name| {
        let facts = umd_disk::Elsewhere {
            engine_name: "nbd",
            size_sectors: SECTORS,
            logical_block_bytes: 512,
            read_only: false,
            can_unmap: false,
        };
        let file = MemberFile::elsewhere(name, std::sync::Arc::new(Far), facts);
        super::identity(&file)
    };
    let [one, other] = ["nbd://nas/d0", "nbd://nas/d1"].map(far);
    assert!(one.is_some() && one == far("nbd://nas/d0"));
    assert_ne!(one, other);
    assert_eq!(far("/nowhere/at/all"), None);
}

/// Another copycat goes on, on the same member or on one of zeros.
struct Swap {
    /// Told with the members in hand; goes on when it is told to, with that outcome.
    at_rest: mpsc::Sender<()>,
    outcome: mpsc::Receiver<Result<(), String>>,
    /// No engine can be had for that side.
    dead: Vec<Side>,
    revived: mpsc::Sender<Side>,
    undone: mpsc::Sender<()>,
}

impl Work for Swap {
    fn rewrite(&mut self, members: &[Opened], may: &dyn Fn() -> bool) -> Result<(), String> {
        assert_eq!(members.len(), 1);
        assert!(may());
        self.at_rest.send(()).expect("somebody waits");
        self.outcome.recv().expect("somebody says")
    }

    fn undo(&mut self) -> Result<(), String> {
        self.undone.send(()).map_err(|_| "nobody waits".to_owned())
    }

    fn revive(
        &mut self,
        side: Side,
        members: Option<Vec<Opened>>,
        pool: &Pool,
    ) -> Result<Revived, String> {
        self.revived.send(side).expect("somebody looks");
        if self.dead.contains(&side) {
            return Err("it makes no array".into());
        }
        let file = members.map_or_else(
            || MemberFile::in_memory(SECTORS, 512),
            |mut members| members.remove(0).file,
        );
        let name = "memory".to_owned();
        let engine = Copycat {
            pool: pool.clone(),
            pending: BTreeMap::new(),
            next: 0,
            ticks: mpsc::channel().0,
        };
        Ok(Revived {
            driven: super::super::launch::Driven::Node(Box::new(engine)),
            members: vec![(MemberId(0), Opened { name, file })],
            joined: None,
        })
    }

    fn advice(&self) -> String {
        "look at it".into()
    }

    fn messages(&mut self) -> Vec<String> {
        vec!["turned".into()]
    }
}

/// A turn under way, and the ends of it that a test holds.
struct Turned {
    at_rest: mpsc::Receiver<()>,
    outcome: mpsc::Sender<Result<(), String>>,
    revived: mpsc::Receiver<Side>,
    undone: mpsc::Receiver<()>,
    answer: tokio::sync::oneshot::Receiver<Result<Vec<String>, String>>,
}

fn turn(handle: &Handle, dead: &[Side]) -> Turned {
    let (at_rest, rests) = mpsc::channel();
    let (says, outcome) = mpsc::channel();
    let (revived, sides) = mpsc::channel();
    let (undone, undoes) = mpsc::channel();
    let (sender, answer) = tokio::sync::oneshot::channel();
    let work = Box::new(Swap {
        at_rest,
        outcome,
        dead: dead.to_vec(),
        revived,
        undone,
    });
    let turn = Turn { work, sender };
    let sent = handle.send(Message::Turn(Box::new(turn)));
    sent.expect("alive");
    Turned {
        at_rest: rests,
        outcome: says,
        revived: sides,
        undone: undoes,
        answer,
    }
}

/// Nobody is told anything while members are rewritten, nothing is lost, and the connection is the
/// same one. Who wants it stopped meanwhile waits.
#[test]
fn another_engine_goes_on_and_clients_only_wait() {
    let dir = tempfile::tempdir().expect("tempdir");
    let registry = Registry::default();
    let rig = start("turns", &registry);
    let (_door, address) = door(dir.path(), &registry);
    let mut client = Client::connect(&address, "turns").expect("connects");
    client.pwrite(0, &[1; 512]).expect("writes");
    let turned = turn(&rig.handle, &[]);
    turned.at_rest.recv().expect("it rests");
    let (sender, answered) = mpsc::channel();
    let writer = std::thread::spawn(move || {
        client.pwrite(512, &[2; 512]).expect("writes");
        sender.send(()).expect("somebody looks");
        let late = Client::connect(&address, "turns");
        late.expect("connects")
            .pwrite(1024, &[3; 512])
            .expect("writes");
        client
    });
    let handle = rig.handle.clone();
    let failed = std::thread::spawn(move || wait(handle.control(Control::Fail(MemberId(0)))));
    let early = answered.recv_timeout(std::time::Duration::from_millis(300));
    assert!(early.is_err(), "a request was answered in between");
    assert!(!failed.is_finished(), "a control request was, too");
    turned.outcome.send(Ok(())).expect("it waits");
    let said = wait(turned.answer).expect("answered").expect("turned");
    assert_eq!(said, ["turned"]);
    assert_eq!(turned.revived.recv(), Ok(Side::New));
    let mut client = writer.join().expect("works");
    let answer = failed.join().expect("works").expect("alive");
    assert_eq!(answer, Err(ControlError::Busy("not now".into())));
    for (sector, byte) in [(0, 1), (1, 2), (2, 3)] {
        let read = client.pread(sector * 512, 512).expect("reads");
        assert_eq!(read, [byte; 512], "the same member");
    }
    wait(rig.handle.control(Control::Stop))
        .expect("alive")
        .expect("stops");
    rig.thread.join().expect("ends");
}

/// Whatever fails, clients are served as before; and when nothing goes any more, they are told.
#[test]
fn a_turn_that_fails_goes_back_or_freezes() {
    let dir = tempfile::tempdir().expect("tempdir");
    let registry = Registry::default();
    let rig = start("back", &registry);
    let (_door, address) = door(dir.path(), &registry);
    let mut client = Client::connect(&address, "back").expect("connects");
    client.pwrite(0, &[1; 512]).expect("writes");
    let turned = turn(&rig.handle, &[]);
    turned
        .outcome
        .send(Err("a member is full".into()))
        .expect("it waits");
    let why = wait(turned.answer).expect("answered").unwrap_err();
    assert_eq!(why, "a member is full");
    assert_eq!(turned.revived.recv(), Ok(Side::Old));
    assert!(turned.undone.try_recv().is_err(), "nothing to undo");
    assert_eq!(client.pread(0, 512).expect("reads"), [1; 512]);
    let turned = turn(&rig.handle, &[Side::New]);
    turned.outcome.send(Ok(())).expect("it waits");
    let why = wait(turned.answer).expect("answered").unwrap_err();
    assert_eq!(why, "it makes no array");
    let sides: Vec<Side> = turned.revived.iter().collect();
    assert_eq!(sides, [Side::New, Side::Old]);
    assert_eq!(turned.undone.recv(), Ok(()));
    client.pwrite(0, &[4; 512]).expect("writes");
    let turned = turn(&rig.handle, &[Side::New, Side::Old]);
    turned.outcome.send(Ok(())).expect("it waits");
    let why = wait(turned.answer).expect("answered").unwrap_err();
    assert_eq!(why, "it makes no array; look at it");
    client.pread(0, 512).expect_err("frozen");
    let snapshot = wait(rig.handle.look()).expect("alive");
    assert_eq!(snapshot.status.state, ArrayState::Frozen);
    assert_eq!(snapshot.reason, Some(why));
    wait(rig.handle.control(Control::Stop))
        .expect("alive")
        .expect("stops");
    rig.thread.join().expect("ends");
}
