//! The NBD connections of one array, as its loop sees them.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;

use rustix::event::epoll;
use umd_core::array::{Reply, Request, RequestError};
use umd_core::value::{Pool, RequestId};
use umd_export::nbd::{Connection, ReadState, Reservations, Socket, Transmission, connection_of};

/// Marks below this are the loop's own; a connection's mark is its number.
pub const FIRST_NUMBER: u32 = 16;

struct Door {
    socket: Socket,
    connection: Connection,
    interest: epoll::EventFlags,
    /// It said that there is more to read than it took in one go.
    more: bool,
    /// There may be something to send, or room for requests that were held back.
    answered: bool,
    /// Something happened to it since it was last tended.
    touched: bool,
}

/// All connections.
pub struct Doors {
    doors: BTreeMap<u32, Door>,
    next: u32,
    pool: Pool,
    /// Who may write, if a table says so.
    reservations: Option<Reservations>,
    /// Nothing is read from anybody.
    held: bool,
}

impl Doors {
    /// None yet.
    pub fn new(pool: Pool) -> Doors {
        Doors {
            doors: BTreeMap::new(),
            next: FIRST_NUMBER,
            pool,
            reservations: None,
            held: false,
        }
    }

    /// From here on nothing is read from anybody, and clients wait; or it is again. What was read
    /// before may still come out as requests.
    pub fn hold(&mut self, held: bool) {
        self.held = held;
        for door in self.doors.values_mut() {
            door.touched = true;
            // What came meanwhile may lie where the poller does not see it.
            door.more |= !held && door.connection.wants_read();
        }
    }

    /// The same where a table says who may write. To be said before the first client.
    pub fn under(mut self, reservations: Option<Reservations>) -> Doors {
        assert!(self.doors.is_empty(), "nobody was let in before");
        self.reservations = reservations;
        self
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.doors.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.doors.is_empty()
    }

    /// Takes a client in whose negotiation is over, and numbers it; its first requests may be here
    /// already.
    ///
    /// # Errors
    /// When the system cannot watch one more descriptor: the client is turned away.
    pub fn admit(
        &mut self,
        epoll: &OwnedFd,
        socket: Socket,
        transmission: Transmission,
        requests: &mut Vec<Request>,
    ) -> io::Result<u32> {
        let number = self.next;
        self.next = self
            .next
            .checked_add(1)
            .expect("2^32 connections to one array");
        let mut connection = Connection::new(transmission, number, self.pool.clone());
        if let Some(table) = &self.reservations {
            connection = connection.under(table.clone());
        }
        let interest = interest_of(&connection, self.held);
        epoll::add(
            epoll,
            &socket,
            epoll::EventData::new_u64(number.into()),
            interest,
        )?;
        let mut door = Door {
            socket,
            connection,
            interest,
            more: false,
            answered: true,
            touched: true,
        };
        match self.held {
            true => door.more = true,
            false => door.read(requests),
        }
        self.doors.insert(number, door);
        Ok(number)
    }

    /// Whether a connection is still there.
    pub fn has(&self, number: u32) -> bool {
        self.doors.contains_key(&number)
    }

    /// No more requests from this one; those in flight are still answered.
    pub fn close(&mut self, number: u32) {
        if let Some(door) = self.doors.get_mut(&number) {
            door.close();
        }
    }

    /// The poller said something about a connection.
    pub fn ready(&mut self, mark: u64, flags: epoll::EventFlags, requests: &mut Vec<Request>) {
        let door = u32::try_from(mark)
            .ok()
            .and_then(|n| self.doors.get_mut(&n));
        let Some(door) = door else {
            return; // Dropped earlier in this very turn.
        };
        door.touched = true;
        door.answered |= flags.contains(epoll::EventFlags::OUT);
        if flags.intersects(epoll::EventFlags::ERR | epoll::EventFlags::HUP) {
            door.connection.hang_up();
        } else if flags.contains(epoll::EventFlags::IN) && !self.held {
            door.read(requests);
        }
    }

    /// Reads on from connections that had more than one turn's worth.
    pub fn read_more(&mut self, requests: &mut Vec<Request>) {
        if self.held {
            return;
        }
        for door in self.doors.values_mut().filter(|door| door.more) {
            door.touched = true;
            door.read(requests);
        }
    }

    /// Whether `read_more` has something to do: the loop must not sleep.
    pub fn has_more(&self) -> bool {
        !self.held && self.doors.values().any(|door| door.more)
    }

    /// Passes the engine's answer on. Nobody is there any more when the client left.
    pub fn complete(&mut self, id: RequestId, result: Result<Reply, RequestError>) {
        if let Some(door) = self.doors.get_mut(&connection_of(id)) {
            door.connection.complete(id, result);
            door.answered = true;
            door.touched = true;
        } else if let Some(table) = &self.reservations {
            table.ended(id);
        }
    }

    /// Sends what there is to send, and takes requests that had been held back until now.
    pub fn send(&mut self, requests: &mut Vec<Request>) {
        for door in self.doors.values_mut().filter(|door| door.answered) {
            let before = requests.len();
            if door
                .connection
                .write_to(&mut door.socket, requests)
                .is_err()
            {
                door.connection.hang_up();
            }
            // As long as requests come out of it there may be more.
            door.answered = requests.len() > before;
            door.look_beneath();
        }
    }

    /// Watches for what is of interest now, drops who is done.
    pub fn tend(&mut self, epoll: &OwnedFd) {
        let mut finished = Vec::new();
        for (number, door) in self.doors.iter_mut().filter(|(_, door)| door.touched) {
            door.touched = false;
            let interest = interest_of(&door.connection, self.held);
            let watched = interest == door.interest || {
                let mark = epoll::EventData::new_u64((*number).into());
                door.interest = interest;
                epoll::modify(epoll, &door.socket, mark, interest).is_ok()
            };
            if door.connection.is_finished() || !watched {
                finished.push(*number);
            }
        }
        for number in finished {
            self.drop_door(epoll, number);
        }
    }

    /// No more requests from anybody; those in flight are still answered.
    pub fn stop(&mut self) {
        self.doors.values_mut().for_each(Door::close);
    }

    fn drop_door(&mut self, epoll: &OwnedFd, number: u32) {
        if let Some(door) = self.doors.remove(&number) {
            // Closing the descriptor takes it out of the poller as well.
            let _ = epoll::delete(epoll, &door.socket);
        }
    }
}

impl Door {
    fn close(&mut self) {
        self.connection.stop();
        self.more = false;
        self.answered = true;
        self.touched = true;
    }

    /// What TLS has decrypted already the poller does not see: it is read without being asked to.
    fn look_beneath(&mut self) {
        self.more |= self.connection.wants_read() && self.socket.holds_input();
    }

    fn read(&mut self, requests: &mut Vec<Request>) {
        match self.connection.read_from(&mut self.socket, requests) {
            Ok(state) => {
                self.more = state == ReadState::More;
                self.look_beneath();
            }
            Err(_) => {
                self.more = false;
                self.connection.hang_up();
            }
        }
    }
}

fn interest_of(connection: &Connection, held: bool) -> epoll::EventFlags {
    let mut flags = epoll::EventFlags::empty();
    flags.set(epoll::EventFlags::IN, connection.wants_read() && !held);
    flags.set(epoll::EventFlags::OUT, connection.wants_write());
    flags
}
