//! Greets clients until they have said what they want, then hands them on.
//!
//! ```text
//!   Listener --accept--> guests (socket + negotiation + deadline) --Ready--> handed on
//!                          |                                      --else---> closed
//!                          +-- at most GUESTS_MAX; the one waiting longest makes room
//! ```
//!
//! It holds an epoll instance of its own, which can itself be polled: a thread can sit in
//! [`Reception::turn`], or any loop can watch the reception's descriptor and call `turn` with a
//! timeout of zero when it is readable or [`Reception::deadline`] has come.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};
use rustls::ServerConfig;

use super::export::Exports;
use super::listener::Listener;
use super::negotiation::{Negotiation, Progress, Transmission};
use super::socket::Socket;
use super::visitor::Peer;

const GUESTS_MAX: usize = 128;
const PATIENCE: Duration = Duration::from_secs(10);
/// How long no client is taken in after the system had no descriptor or memory for one.
const BACK_OFF: Duration = Duration::from_millis(100);
/// The listener's mark; guests are numbered from 1.
const LISTENER: u64 = 0;
const EVENTS_PER_TURN: usize = 64;
/// How often a client is read from in a row that has more at hand than was taken.
const READS_PER_TURN: usize = 16;

#[derive(Debug)]
struct Guest {
    socket: Socket,
    negotiation: Negotiation,
    interest: epoll::EventFlags,
    deadline: Instant,
}

/// A listener and the clients that have not been handed on yet.
#[derive(Debug)]
pub struct Reception {
    listener: Listener,
    epoll: OwnedFd,
    guests: BTreeMap<u64, Guest>,
    numbers: u64,
    closed_until: Option<Instant>,
    patience: Duration,
    /// Nothing but TLS is spoken.
    tls: Option<Arc<ServerConfig>>,
}

impl AsFd for Reception {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

impl Reception {
    /// Opens the door.
    pub fn new(listener: Listener) -> io::Result<Reception> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mark = epoll::EventData::new_u64(LISTENER);
        epoll::add(&epoll, &listener, mark, epoll::EventFlags::IN)?;
        Ok(Reception {
            listener,
            epoll,
            guests: BTreeMap::new(),
            numbers: LISTENER,
            closed_until: None,
            patience: PATIENCE,
            tls: None,
        })
    }

    /// The same where nothing but TLS is spoken. The handshake has to end within the time that the
    /// whole negotiation has.
    pub fn over_tls(mut self, config: Arc<ServerConfig>) -> Reception {
        self.tls = Some(config);
        self
    }

    /// The listener.
    pub fn listener(&self) -> &Listener {
        &self.listener
    }

    /// When [`Reception::turn`] has to be called at the latest, whatever the descriptor says.
    pub fn deadline(&self) -> Option<Instant> {
        let guests = self.guests.values().map(|guest| guest.deadline);
        guests.chain(self.closed_until).min()
    }

    /// Waits for something to happen, at most `timeout` (`None`: as long as it takes), does what
    /// there is to do, and hands on who is ready. Errors are the system's, not a client's.
    pub fn turn(
        &mut self,
        exports: &dyn Exports,
        timeout: Option<Duration>,
        hand_on: &mut dyn FnMut(Socket, Transmission),
    ) -> io::Result<()> {
        let start = Instant::now();
        let until_deadline = self
            .deadline()
            .map(|at| at.saturating_duration_since(start));
        let wait = timeout.into_iter().chain(until_deadline).min();
        let wait = wait.map(|wait| Timespec {
            tv_sec: wait.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: wait.subsec_nanos().into(),
        });
        let empty = epoll::Event {
            flags: epoll::EventFlags::empty(),
            data: epoll::EventData::new_u64(LISTENER),
        };
        let mut events = [empty; EVENTS_PER_TURN];
        let count = match epoll::wait(&self.epoll, &mut events, wait.as_ref()) {
            Err(rustix::io::Errno::INTR) => 0,
            result => result?,
        };
        for event in &events[..count] {
            match event.data.u64() {
                LISTENER => self.admit()?,
                number => self.serve(number, event.flags, exports, hand_on)?,
            }
        }
        self.look_again(exports, hand_on)?;
        self.expire()
    }

    /// Clients whose export was not to be had at once: perhaps it is now.
    fn look_again(
        &mut self,
        exports: &dyn Exports,
        hand_on: &mut dyn FnMut(Socket, Transmission),
    ) -> io::Result<()> {
        let guests = self.guests.iter();
        let waiting = guests.filter(|(_, guest)| guest.negotiation.is_waiting());
        let waiting: Vec<u64> = waiting.map(|(number, _)| *number).collect();
        for number in waiting {
            let guest = self.guests.get_mut(&number).expect("it was there just now");
            let progress = guest.negotiation.look_again(exports);
            self.go_on(number, progress, hand_on)?;
            if self.holds_input(number) {
                self.serve(number, epoll::EventFlags::empty(), exports, hand_on)?;
            }
        }
        Ok(())
    }

    /// Whether a client is to be read from though its descriptor may not say so.
    fn holds_input(&self, number: u64) -> bool {
        let guest = self.guests.get(&number);
        guest.is_some_and(|guest| guest.socket.holds_input() && guest.negotiation.wants_read())
    }

    fn admit(&mut self) -> io::Result<()> {
        for _ in 0..EVENTS_PER_TURN {
            let mut socket = match self.listener.accept() {
                Ok(socket) => socket,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => return self.close_for_a_while(),
            };
            let mut negotiation = Negotiation::new(Peer::of(&socket));
            if self.tls.is_some() {
                negotiation = negotiation.demanding_tls();
            }
            if negotiation.write_to(&mut socket).is_err() {
                continue;
            }
            if self.guests.len() == GUESTS_MAX {
                self.guests.pop_first();
            }
            self.numbers += 1;
            let interest = interest_of(&negotiation, &socket);
            let mark = epoll::EventData::new_u64(self.numbers);
            epoll::add(&self.epoll, &socket, mark, interest)?;
            let guest = Guest {
                socket,
                negotiation,
                interest,
                deadline: Instant::now() + self.patience,
            };
            self.guests.insert(self.numbers, guest);
        }
        Ok(())
    }

    fn serve(
        &mut self,
        number: u64,
        flags: epoll::EventFlags,
        exports: &dyn Exports,
        hand_on: &mut dyn FnMut(Socket, Transmission),
    ) -> io::Result<()> {
        for _ in 0..READS_PER_TURN {
            let Some(guest) = self.guests.get_mut(&number) else {
                return Ok(()); // Made room for somebody in this very turn.
            };
            let Guest {
                socket,
                negotiation,
                ..
            } = guest;
            let left = flags.intersects(epoll::EventFlags::ERR | epoll::EventFlags::HUP);
            let progress = match negotiation.wants_read() {
                true => negotiation.read_from(socket, exports),
                // Nobody is there any more who would wait.
                false if left => Progress::Closed,
                false => Progress::Continue,
            };
            self.go_on(number, progress, hand_on)?;
            if !self.holds_input(number) {
                return Ok(());
            }
        }
        self.guests.remove(&number); // So many options at once are no negotiation.
        Ok(())
    }

    fn go_on(
        &mut self,
        number: u64,
        progress: Progress,
        hand_on: &mut dyn FnMut(Socket, Transmission),
    ) -> io::Result<()> {
        let guest = self.guests.get_mut(&number).expect("it was there just now");
        let sent = guest.negotiation.write_to(&mut guest.socket);
        match progress {
            Progress::Continue if sent.is_ok() => self.watch(number)?,
            Progress::StartTls if sent.is_ok() && !guest.negotiation.wants_write() => {
                let config = self.tls.clone().expect("nobody else is told to start it");
                match guest.socket.start_tls(config) {
                    Ok(()) => self.watch(number)?,
                    Err(_) => drop(self.guests.remove(&number)),
                }
            }
            // Who asks for TLS and does not read what was said before goes as well.
            Progress::Continue | Progress::StartTls | Progress::Closed => {
                drop(self.guests.remove(&number));
            }
            Progress::Ready(transmission) => {
                let guest = self.guests.remove(&number).expect("it was there just now");
                epoll::delete(&self.epoll, &guest.socket)?;
                hand_on(guest.socket, *transmission);
            }
        }
        Ok(())
    }

    fn watch(&mut self, number: u64) -> io::Result<()> {
        let guest = self.guests.get_mut(&number).expect("it was there just now");
        let interest = interest_of(&guest.negotiation, &guest.socket);
        if interest != guest.interest {
            guest.interest = interest;
            let mark = epoll::EventData::new_u64(number);
            epoll::modify(&self.epoll, &guest.socket, mark, interest)?;
        }
        Ok(())
    }

    /// Without descriptors a waiting client would keep the listener readable: look away.
    fn close_for_a_while(&mut self) -> io::Result<()> {
        self.closed_until = Some(Instant::now() + BACK_OFF);
        Ok(epoll::delete(&self.epoll, &self.listener)?)
    }

    fn expire(&mut self) -> io::Result<()> {
        let now = Instant::now();
        self.guests.retain(|_, guest| guest.deadline > now);
        if self.closed_until.is_some_and(|until| until <= now) {
            self.closed_until = None;
            let mark = epoll::EventData::new_u64(LISTENER);
            epoll::add(&self.epoll, &self.listener, mark, epoll::EventFlags::IN)?;
        }
        Ok(())
    }
}

fn interest_of(negotiation: &Negotiation, socket: &Socket) -> epoll::EventFlags {
    let mut flags = epoll::EventFlags::empty();
    flags.set(epoll::EventFlags::IN, negotiation.wants_read());
    let sends = negotiation.wants_write() || socket.owes();
    flags.set(epoll::EventFlags::OUT, sends);
    flags
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::super::address::Address;
    use super::super::export::ExportInfo;
    use super::super::listener::listen;
    use super::*;

    struct Nothing;

    impl Exports for Nothing {
        fn list(&self) -> Vec<ExportInfo> {
            Vec::new()
        }
        fn find(&self, _: &str) -> Option<ExportInfo> {
            None
        }
    }

    fn reception(directory: &tempfile::TempDir) -> (Reception, std::path::PathBuf) {
        let path = directory.path().join("nbd.sock");
        let listener = listen(&Address::Unix(path.clone())).unwrap();
        (Reception::new(listener).unwrap(), path)
    }

    fn turn(reception: &mut Reception, timeout: Duration) {
        let nobody = &mut |_, _| panic!("nobody is handed on");
        reception.turn(&Nothing, Some(timeout), nobody).unwrap();
    }

    #[test]
    fn who_says_nothing_is_shown_the_door() {
        let directory = tempfile::tempdir().unwrap();
        let (mut reception, path) = reception(&directory);
        reception.patience = Duration::from_millis(50);
        let mut silent = UnixStream::connect(&path).unwrap();
        assert_eq!(reception.deadline(), None);
        turn(&mut reception, Duration::ZERO);
        assert_eq!(reception.guests.len(), 1);
        let deadline = reception.deadline().unwrap();
        turn(&mut reception, Duration::from_secs(60));
        assert!(
            Instant::now() >= deadline,
            "it waits for the deadline, not longer"
        );
        assert!(reception.guests.is_empty());
        let mut greeting = Vec::new();
        silent.read_to_end(&mut greeting).unwrap();
        assert_eq!(greeting.len(), 18);
    }

    #[test]
    fn the_one_waiting_longest_makes_room() {
        let directory = tempfile::tempdir().unwrap();
        let (mut reception, path) = reception(&directory);
        let mut guests = Vec::new();
        for _ in 0..GUESTS_MAX + 2 {
            guests.push(UnixStream::connect(&path).unwrap());
            turn(&mut reception, Duration::ZERO);
        }
        assert_eq!(reception.guests.len(), GUESTS_MAX);
        for (guest, ends) in guests.iter_mut().zip([true, true, false]) {
            guest.read_exact(&mut [0; 18]).unwrap();
            guest.set_nonblocking(true).unwrap();
            assert_eq!(guest.read(&mut [0; 1]).is_ok_and(|count| count == 0), ends);
        }
    }

    #[test]
    fn it_looks_away_when_the_system_is_short() {
        let directory = tempfile::tempdir().unwrap();
        let (mut reception, path) = reception(&directory);
        reception.close_for_a_while().unwrap();
        let _guest = UnixStream::connect(&path).unwrap();
        let start = Instant::now();
        turn(&mut reception, Duration::from_secs(60));
        assert!(start.elapsed() >= BACK_OFF / 2 && reception.guests.is_empty());
        turn(&mut reception, Duration::from_secs(60));
        assert_eq!(reception.guests.len(), 1);
    }
}
