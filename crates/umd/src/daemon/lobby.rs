//! Where clients are who have something open that is no array: a name, or members that do not run.
//!
//! ```text
//!   admission::hand_on --Admit--> one thread: epoll over its messages and the clients
//!   Registry --Evict----------->  a flush is done at once; there is nothing to read or write
//! ```
//!
//! They see a device of size 0, for as long as they stay, as md shows one that does not run.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, mpsc};

use rustix::event::{EventfdFlags, epoll, eventfd};
use umd_core::array::{Reply, RequestError, RequestOp};
use umd_core::registry::ObjectId;
use umd_core::value::Pool;
use umd_export::nbd::{Socket, Transmission};

use super::doors::Doors;
use crate::cli::outcome::say;

const STACK_BYTES: usize = 256 << 10;
const MARK_WAKE: u64 = 0;
const EVENTS_PER_TURN: usize = 64;

enum Message {
    Admit(ObjectId, Socket, Box<Transmission>),
    Evict(ObjectId),
}

/// The way into it. Cheap to clone.
#[derive(Clone)]
pub struct Lobby {
    sender: mpsc::Sender<Message>,
    wake: Arc<OwnedFd>,
}

impl Lobby {
    /// Starts its thread.
    ///
    /// # Errors
    /// When the system has no descriptor or thread for it.
    pub fn open() -> std::io::Result<Lobby> {
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let (sender, receiver) = mpsc::channel();
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mark = epoll::EventData::new_u64(MARK_WAKE);
        epoll::add(&epoll, &*wake, mark, epoll::EventFlags::IN)?;
        let room = Room {
            receiver,
            wake: wake.clone(),
            epoll,
            doors: Doors::new(Pool::new()),
            guests: BTreeMap::new(),
        };
        std::thread::Builder::new()
            .name("nbd-lobby".into())
            .stack_size(STACK_BYTES)
            .spawn(move || {
                if let Err(error) = room.run() {
                    say(&format!(
                        "clients of inactive arrays are left alone: {error}"
                    ));
                }
            })?;
        Ok(Lobby { sender, wake })
    }

    /// Takes a client in.
    pub fn admit(&self, id: ObjectId, socket: Socket, transmission: Transmission) {
        self.say(Message::Admit(id, socket, Box::new(transmission)));
    }

    /// Shows all out who have this open.
    pub fn evict(&self, id: ObjectId) {
        self.say(Message::Evict(id));
    }

    fn say(&self, message: Message) {
        // Without a thread the client is dropped with its message, which closes.
        if self.sender.send(message).is_ok() {
            // A counter at its limit wakes as well.
            let _ = rustix::io::write(&*self.wake, &1u64.to_ne_bytes());
        }
    }
}

struct Room {
    receiver: mpsc::Receiver<Message>,
    wake: Arc<OwnedFd>,
    epoll: OwnedFd,
    doors: Doors,
    /// What each client has open.
    guests: BTreeMap<u32, ObjectId>,
}

impl Room {
    fn run(mut self) -> std::io::Result<()> {
        let mut requests = Vec::new();
        loop {
            let empty = epoll::Event {
                flags: epoll::EventFlags::empty(),
                data: epoll::EventData::new_u64(MARK_WAKE),
            };
            let mut events = [empty; EVENTS_PER_TURN];
            let patience = self.doors.has_more().then_some(rustix::event::Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            });
            let count = match epoll::wait(&self.epoll, &mut events, patience.as_ref()) {
                Err(rustix::io::Errno::INTR) => 0,
                result => result?,
            };
            self.doors.read_more(&mut requests);
            for event in &events[..count] {
                match event.data.u64() {
                    MARK_WAKE => self.read_messages(&mut requests),
                    mark => self.doors.ready(mark, event.flags, &mut requests),
                }
            }
            while !requests.is_empty() {
                for request in std::mem::take(&mut requests) {
                    let result = match request.op {
                        RequestOp::Flush => Ok(Reply::Done),
                        _ => Err(RequestError::OutOfRange),
                    };
                    self.doors.complete(request.id, result);
                }
                self.doors.send(&mut requests);
            }
            self.doors.send(&mut requests);
            self.doors.tend(&self.epoll);
            let doors = &self.doors;
            self.guests.retain(|number, _| doors.has(*number));
        }
    }

    fn read_messages(&mut self, requests: &mut Vec<umd_core::array::Request>) {
        let mut count = [0; 8];
        let _ = rustix::io::read(&*self.wake, &mut count); // Somebody read it already.
        while let Ok(message) = self.receiver.try_recv() {
            match message {
                Message::Admit(id, socket, transmission) => {
                    // One that cannot be watched is dropped, which closes.
                    let admitted = self
                        .doors
                        .admit(&self.epoll, socket, *transmission, requests);
                    if let Ok(number) = admitted {
                        self.guests.insert(number, id);
                    }
                }
                Message::Evict(id) => {
                    let guests = self.guests.iter().filter(|(_, of)| **of == id);
                    guests.for_each(|(number, _)| self.doors.close(*number));
                }
            }
        }
    }
}
