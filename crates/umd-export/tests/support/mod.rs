//! A server on memory: the loop an array's thread runs, with a `Vec` in place of an array.
//!
//! ```text
//!   Reception --Ready--> connections[number]
//!   readable: read_from -> requests -> Memory::answer -> complete -> write_to
//!                             ^                                        |
//!                             +------------ until none comes ----------+
//! ```
// Each test binary uses its own part of this.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::epoll::{self, EventData, EventFlags};
use umd_core::array::{Extent, Reply, Request, RequestError, RequestOp};
use umd_core::value::{Pool, RequestId};
use umd_export::nbd::{
    Address, Connection, Deciding, Demand, Denied, ExportInfo, Exports, Peer, Reception, Refused,
    ReservationState, Reservations, Socket, connection_of, listen,
};

const SECTOR: usize = 512;
const BLOCK: usize = 4096;

/// Bytes, and which 4 KiB blocks of them were ever written.
pub struct Memory {
    bytes: Vec<u8>,
    data: Vec<bool>,
    pool: Pool,
    /// Requests touching this byte fail.
    pub bad: Option<u64>,
    /// Flushes and durable writes seen.
    pub durable: u64,
    /// Holes kept by write-zeroes that must not make any.
    pub provisioned: u64,
}

impl Memory {
    pub fn new(len: usize, pool: Pool) -> Memory {
        Memory {
            bytes: vec![0; len],
            data: vec![false; len.div_ceil(BLOCK)],
            pool,
            bad: None,
            durable: 0,
            provisioned: 0,
        }
    }

    fn range(
        &self,
        offset_sectors: u64,
        len: usize,
    ) -> Result<std::ops::Range<usize>, RequestError> {
        let start = offset_sectors as usize * SECTOR;
        let range = start..start + len;
        if range.end > self.bytes.len() {
            return Err(RequestError::OutOfRange);
        }
        if self.bad.is_some_and(|bad| range.contains(&(bad as usize))) {
            return Err(RequestError::Io("a bad spot".into()));
        }
        Ok(range)
    }

    fn mark(&mut self, range: std::ops::Range<usize>, data: bool) {
        let (start, end) = match data {
            true => (range.start / BLOCK, range.end.div_ceil(BLOCK)),
            false => (range.start.div_ceil(BLOCK), range.end / BLOCK),
        };
        if start < end {
            self.data[start..end].fill(data);
        }
    }

    pub fn answer(&mut self, op: RequestOp) -> Result<Reply, RequestError> {
        match op {
            RequestOp::Read {
                offset_sectors,
                len_sectors,
            } => {
                let range = self.range(offset_sectors, len_sectors as usize * SECTOR)?;
                // In two pieces where it can be, as an array of chunks would.
                let cut = range.start + range.len() / 2;
                let piece = |range| self.pool.copy_of(&self.bytes[range]);
                Ok(Reply::Data(match len_sectors {
                    0..=32 => [piece(range)].into(),
                    _ => vec![piece(range.start..cut), piece(cut..range.end)].into(),
                }))
            }
            RequestOp::Write {
                offset_sectors,
                data,
                fua,
            } => {
                let range = self.range(offset_sectors, data.len())?;
                self.bytes[range.clone()].copy_from_slice(data.as_slice());
                self.mark(range, true);
                self.durable += u64::from(fua);
                Ok(Reply::Done)
            }
            RequestOp::WriteZeroes {
                offset_sectors,
                len_sectors,
                fua,
                may_unmap,
            } => {
                let range = self.range(offset_sectors, len_sectors as usize * SECTOR)?;
                self.bytes[range.clone()].fill(0);
                self.mark(range, !may_unmap);
                self.durable += u64::from(fua);
                self.provisioned += u64::from(!may_unmap);
                Ok(Reply::Done)
            }
            RequestOp::Trim {
                offset_sectors,
                len_sectors,
                fua,
            } => {
                let range = self.range(offset_sectors, len_sectors as usize * SECTOR)?;
                self.trim(range);
                self.durable += u64::from(fua);
                Ok(Reply::Done)
            }
            RequestOp::Flush => {
                self.durable += 1;
                Ok(Reply::Done)
            }
            RequestOp::Allocation {
                offset_sectors,
                len_sectors,
            } => {
                let range = self.range(offset_sectors, len_sectors as usize * SECTOR)?;
                Ok(Reply::Extents(self.extents(range)))
            }
        }
    }

    /// One extent per block, as a thoughtless engine would.
    fn extents(&self, range: std::ops::Range<usize>) -> Vec<Extent> {
        let mut extents = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let end = ((at / BLOCK + 1) * BLOCK).min(range.end);
            extents.push(Extent {
                len_sectors: ((end - at) / SECTOR) as u64,
                data: self.data[at / BLOCK],
            });
            at = end;
        }
        extents
    }

    /// Whole blocks only: it is advice.
    fn trim(&mut self, range: std::ops::Range<usize>) {
        let (start, end) = (
            range.start.next_multiple_of(BLOCK),
            range.end / BLOCK * BLOCK,
        );
        if start < end {
            self.bytes[start..end].fill(0);
            self.mark(start..end, false);
        }
    }
}

/// Shows every export of a server; each number is an index into the memories.
pub struct Shown(pub Vec<ExportInfo>, pub Option<Reservations>);

impl Exports for Shown {
    fn list(&self) -> Vec<ExportInfo> {
        self.0.clone()
    }

    fn find(&self, name: &str) -> Option<ExportInfo> {
        self.0.iter().find(|export| export.name == name).cloned()
    }

    fn reservations(&self, _: &str) -> Option<ReservationState> {
        Some(self.1.as_ref()?.state())
    }

    fn demand(&self, _: &str, demand: Demand, _: &Peer) -> Result<Box<dyn Deciding>, Denied> {
        let table = self.1.clone();
        let table = table.ok_or_else(|| Denied::NotOffered("there is no table".into()))?;
        Ok(Box::new(Asked(table, demand)))
    }
}

/// A demand that is looked at until nothing is under way any more.
#[derive(Debug)]
struct Asked(Reservations, Demand);

impl Deciding for Asked {
    fn look(&mut self) -> Option<Result<(), Denied>> {
        match self.0.meet(self.1, Duration::ZERO) {
            Err(Refused::Writing(_)) => None,
            met => Some(met.map_err(Denied::from)),
        }
    }
}

pub fn export(name: &str, bytes: u64) -> ExportInfo {
    ExportInfo {
        name: name.into(),
        description: format!("{bytes} bytes of memory"),
        size_sectors: bytes / SECTOR as u64,
        logical_block_bytes: 512,
        preferred_bytes: 65536,
        read_only: false,
    }
}

/// What tests can turn while the server runs.
#[derive(Default)]
pub struct Knobs {
    pub stop: AtomicBool,
    /// Requests are kept unanswered while set.
    pub hold: AtomicBool,
    /// The most requests ever held unanswered.
    pub held_most: AtomicU64,
    /// Connections there are.
    pub connections: AtomicU64,
}

struct Guest {
    socket: Socket,
    connection: Connection,
    interest: EventFlags,
}

/// The loop.
pub struct Server {
    reception: Reception,
    shown: Shown,
    epoll: OwnedFd,
    guests: BTreeMap<u32, Guest>,
    numbers: u32,
    pool: Pool,
    pub memory: Arc<Mutex<Memory>>,
    pub knobs: Arc<Knobs>,
    /// Who may write.
    pub reservations: Reservations,
    held: Vec<Request>,
    requests: Vec<Request>,
}

const RECEPTION: u64 = u64::MAX;

impl Server {
    /// One memory behind all exports shown.
    pub fn new(
        address: &Address,
        shown: Vec<ExportInfo>,
        tls: Option<Arc<rustls::ServerConfig>>,
    ) -> io::Result<Server> {
        let listener = listen(address).map_err(io::Error::other)?;
        let reception = Reception::new(listener)?;
        let reception = match tls {
            Some(config) => reception.over_tls(config),
            None => reception,
        };
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(
            &epoll,
            &reception,
            EventData::new_u64(RECEPTION),
            EventFlags::IN,
        )?;
        let pool = Pool::new();
        let bytes = shown.iter().map(ExportInfo::size_bytes).max().unwrap_or(0);
        let memory = Memory::new(bytes as usize, pool.clone());
        let reservations = Reservations::default();
        Ok(Server {
            reception,
            shown: Shown(shown, Some(reservations.clone())),
            epoll,
            guests: BTreeMap::new(),
            numbers: 0,
            pool,
            memory: Arc::new(Mutex::new(memory)),
            knobs: Arc::default(),
            reservations,
            held: Vec::new(),
            requests: Vec::new(),
        })
    }

    pub fn address(&self) -> &Address {
        self.reception.listener().address()
    }

    pub fn run(&mut self) -> io::Result<()> {
        let tick = rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: 20_000_000,
        };
        let empty = epoll::Event {
            flags: EventFlags::empty(),
            data: EventData::new_u64(0),
        };
        while !self.knobs.stop.load(Ordering::Relaxed) {
            let mut events = [empty; 64];
            let count = match epoll::wait(&self.epoll, &mut events, Some(&tick)) {
                Err(rustix::io::Errno::INTR) => 0,
                other => other?,
            };
            for event in &events[..count] {
                match event.data.u64() {
                    RECEPTION => self.receive_guests()?,
                    number => self.turn(number as u32, event.flags)?,
                }
            }
            // Someone may wait there for what was under way.
            self.receive_guests()?;
            if !self.held.is_empty() && !self.knobs.hold.load(Ordering::Relaxed) {
                self.release()?;
            }
        }
        Ok(())
    }

    fn receive_guests(&mut self) -> io::Result<()> {
        let mut arrived = Vec::new();
        let hand_on = &mut |socket, transmission| arrived.push((socket, transmission));
        self.reception
            .turn(&self.shown, Some(Duration::ZERO), hand_on)?;
        for (socket, transmission) in arrived {
            self.numbers += 1;
            let connection = Connection::new(transmission, self.numbers, self.pool.clone());
            let connection = connection.under(self.reservations.clone());
            let interest = EventFlags::IN;
            let mark = EventData::new_u64(self.numbers.into());
            epoll::add(&self.epoll, &socket, mark, interest)?;
            self.guests.insert(
                self.numbers,
                Guest {
                    socket,
                    connection,
                    interest,
                },
            );
            self.turn(self.numbers, EventFlags::IN)?;
        }
        Ok(())
    }

    fn turn(&mut self, number: u32, flags: EventFlags) -> io::Result<()> {
        let Some(guest) = self.guests.get_mut(&number) else {
            return Ok(());
        };
        let mut alive =
            !flags.intersects(EventFlags::HUP | EventFlags::ERR) || flags.contains(EventFlags::IN);
        if alive && guest.connection.wants_read() {
            let state = guest
                .connection
                .read_from(&mut guest.socket, &mut self.requests);
            alive = state.is_ok();
        }
        self.serve(number, alive)?;
        // What TLS has decrypted already the poller does not see.
        let again = self
            .guests
            .get(&number)
            .is_some_and(|guest| guest.connection.wants_read() && guest.socket.holds_input());
        match again {
            true => self.turn(number, EventFlags::IN),
            false => Ok(()),
        }
    }

    /// Answers what came in and sends, until nothing more comes.
    fn serve(&mut self, number: u32, mut alive: bool) -> io::Result<()> {
        let Some(guest) = self.guests.get_mut(&number) else {
            return Ok(());
        };
        let Guest {
            socket, connection, ..
        } = guest;
        while alive {
            if self.knobs.hold.load(Ordering::Relaxed) {
                self.held.append(&mut self.requests);
                let held = self.held.len() as u64;
                self.knobs.held_most.fetch_max(held, Ordering::Relaxed);
            }
            let mut memory = self.memory.lock().expect("memory lock");
            for Request { id, op } in self.requests.drain(..) {
                connection.complete(id, memory.answer(op));
            }
            drop(memory);
            alive = connection.write_to(socket, &mut self.requests).is_ok();
            if self.requests.is_empty() {
                break;
            }
        }
        for Request { id, .. } in self.requests.drain(..) {
            self.reservations.ended(id);
        }
        if !alive || guest.connection.is_finished() {
            self.guests.remove(&number);
        } else {
            let mut interest = EventFlags::empty();
            interest.set(EventFlags::IN, guest.connection.wants_read());
            interest.set(EventFlags::OUT, guest.connection.wants_write());
            if interest != guest.interest {
                guest.interest = interest;
                let mark = EventData::new_u64(number.into());
                epoll::modify(&self.epoll, guest.socket.as_fd(), mark, interest)?;
            }
        }
        self.knobs
            .connections
            .store(self.guests.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Answers what was held, the latest first, whoever is still there.
    fn release(&mut self) -> io::Result<()> {
        let held = std::mem::take(&mut self.held);
        let numbers: Vec<u32> = held
            .iter()
            .map(|request| connection_of(request.id))
            .collect();
        for Request { id, op } in held.into_iter().rev() {
            let result = self.memory.lock().expect("memory lock").answer(op);
            self.complete(id, result);
        }
        for number in numbers {
            self.turn(number, EventFlags::IN)?;
        }
        Ok(())
    }

    fn complete(&mut self, id: RequestId, result: Result<Reply, RequestError>) {
        match self.guests.get_mut(&connection_of(id)) {
            Some(guest) => guest.connection.complete(id, result),
            None => self.reservations.ended(id),
        }
    }
}

/// A server on a thread of its own, until dropped.
pub struct Running {
    pub address: Address,
    pub memory: Arc<Mutex<Memory>>,
    pub knobs: Arc<Knobs>,
    pub reservations: Reservations,
    thread: Option<JoinHandle<()>>,
    _directory: tempfile::TempDir,
}

impl Running {
    pub fn unix(shown: Vec<ExportInfo>) -> Running {
        let directory = tempfile::tempdir().expect("a directory");
        let address = Address::Unix(directory.path().join("nbd.sock"));
        Running::at(&address, shown, directory, None)
    }

    pub fn tcp(shown: Vec<ExportInfo>) -> Running {
        let address = "tcp:127.0.0.1:0".parse().expect("an address");
        Running::at(
            &address,
            shown,
            tempfile::tempdir().expect("a directory"),
            None,
        )
    }

    /// One that speaks nothing but TLS.
    pub fn tls(shown: Vec<ExportInfo>, config: Arc<rustls::ServerConfig>) -> Running {
        let address = "tcp:127.0.0.1:0".parse().expect("an address");
        let directory = tempfile::tempdir().expect("a directory");
        Running::at(&address, shown, directory, Some(config))
    }

    fn at(
        address: &Address,
        shown: Vec<ExportInfo>,
        directory: tempfile::TempDir,
        tls: Option<Arc<rustls::ServerConfig>>,
    ) -> Running {
        let mut server = Server::new(address, shown, tls).expect("a server");
        Running {
            address: server.address().clone(),
            memory: server.memory.clone(),
            knobs: server.knobs.clone(),
            reservations: server.reservations.clone(),
            thread: Some(std::thread::spawn(move || server.run().expect("the loop"))),
            _directory: directory,
        }
    }

    /// Waits until the server is in a state, or panics.
    pub fn until(&self, what: &str, holds: impl Fn(&Running) -> bool) {
        for _ in 0..1000 {
            if holds(self) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("not within ten seconds: {what}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.knobs.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            if !std::thread::panicking() {
                ended.expect("the server did not panic");
            }
        }
    }
}
