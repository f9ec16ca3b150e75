//! The thread that owns the socket of a [`Remote`](super::Remote), and what it shares.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::super::proto::{Fields, RequestHeader, SIMPLE_REPLY_BYTES, SIMPLE_REPLY_MAGIC, cmd};
use super::super::socket::Socket;
use super::Trouble;

/// How long a goodbye may take to be sent, in seconds.
const GOODBYE_SECONDS: i64 = 1;

/// What was read, or the error of the server.
type Answer = Result<Vec<u8>, u32>;

/// A request that was not answered.
#[derive(Debug)]
struct Asked {
    /// As long as what is read.
    data: Vec<u8>,
    answer: SyncSender<Answer>,
}

impl Asked {
    fn tell(self, errno: u32) {
        // Who asked may have given up.
        let _ = self.answer.send(match errno {
            0 => Ok(self.data),
            errno => Err(errno),
        });
    }
}

#[derive(Debug, Default)]
pub(super) struct State {
    queue: VecDeque<Vec<u8>>,
    waiting: BTreeMap<u64, Asked>,
    cookie: u64,
    closing: bool,
    /// Why nothing is asked any more.
    pub over: Option<String>,
}

/// What callers and the thread share.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    wake: OwnedFd,
}

impl Shared {
    pub fn new() -> io::Result<Shared> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Shared {
            state: Mutex::default(),
            wake: eventfd(0, flags)?,
        })
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn signal(&self) {
        // The only failure is a counter about to overflow, and then it is readable anyway.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    pub fn submit(
        &self,
        header: RequestHeader,
        data: &[u8],
        read: usize,
        answer: SyncSender<Answer>,
    ) -> Result<(), Trouble> {
        let mut state = self.lock();
        if let Some(why) = &state.over {
            return Err(Trouble::Lost(why.clone()));
        }
        if state.closing {
            return Err(Trouble::Lost("it was closed".into()));
        }
        state.cookie += 1;
        let cookie = state.cookie;
        let header = RequestHeader { cookie, ..header };
        let mut bytes = header.encode().to_vec();
        bytes.extend_from_slice(data);
        let data = vec![0; read];
        state.waiting.insert(cookie, Asked { data, answer });
        state.queue.push_back(bytes);
        drop(state);
        self.signal();
        Ok(())
    }

    /// Ends it, unless it has ended: whoever waits is told. What it ended for.
    pub fn end(&self, why: &str) -> Trouble {
        let mut state = self.lock();
        let why = state.over.get_or_insert_with(|| why.to_owned()).clone();
        state.queue.clear();
        state.waiting.clear();
        drop(state);
        self.signal();
        Trouble::Lost(why)
    }

    /// Nothing more is asked. Where answers are owed nobody waits for them.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closing = true;
        let owed = !state.waiting.is_empty();
        drop(state);
        match owed {
            true => drop(self.end("it was closed before everything was answered")),
            false => self.signal(),
        }
    }
}

/// Its last deed, also when it breaks.
struct Ended(Arc<Shared>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.end("an invariant of the connection broke");
    }
}

/// The thread.
pub(super) struct Wheel {
    socket: Socket,
    shared: Arc<Shared>,
    output: VecDeque<Vec<u8>>,
    /// What of the first one was sent.
    sent: usize,
    head: [u8; SIMPLE_REPLY_BYTES],
    have: usize,
    /// Whose data comes, and how much has.
    body: Option<(Asked, usize)>,
    goodbye: bool,
}

impl Wheel {
    pub fn new(socket: Socket, shared: Arc<Shared>) -> Wheel {
        Wheel {
            socket,
            shared,
            output: VecDeque::new(),
            sent: 0,
            head: [0; SIMPLE_REPLY_BYTES],
            have: 0,
            body: None,
            goodbye: false,
        }
    }

    pub fn run(mut self) {
        let shared = Ended(self.shared.clone());
        if let Err(why) = self.turn() {
            shared.0.end(&why);
        }
    }

    /// Until it is over; why.
    fn turn(&mut self) -> Result<(), String> {
        loop {
            // Cleared before the queue is looked at; fails when nothing was signalled.
            let _ = rustix::io::read(&self.shared.wake, &mut [0u8; 8]);
            {
                let mut state = self.shared.lock();
                if state.over.is_some() {
                    return Ok(());
                }
                self.output.append(&mut state.queue);
                if state.closing && state.waiting.is_empty() && !self.goodbye {
                    self.goodbye = true;
                    self.output.push_back(disconnect());
                }
            }
            self.send().map_err(|error| text(&error))?;
            if self.goodbye && self.output.is_empty() {
                return Err("it was closed".into());
            }
            self.receive()?;
            if !self.wait().map_err(|error| text(&error))? {
                return Err("it was closed".into());
            }
        }
    }

    /// Sleeps until there is something to do. `false`: a goodbye takes too long.
    fn wait(&self) -> io::Result<bool> {
        let mut flags = PollFlags::IN;
        if !self.output.is_empty() || self.socket.owes() {
            flags |= PollFlags::OUT;
        }
        let patience = Timespec {
            tv_sec: GOODBYE_SECONDS,
            tv_nsec: 0,
        };
        let mut fds = [
            PollFd::new(&self.socket, flags),
            PollFd::new(&self.shared.wake, PollFlags::IN),
        ];
        loop {
            match poll(&mut fds, self.goodbye.then_some(&patience)) {
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
                Ok(count) => return Ok(count > 0),
            }
        }
    }

    fn send(&mut self) -> io::Result<()> {
        while let Some(first) = self.output.front() {
            match self.socket.write(&first[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
            if self.sent == first.len() {
                self.output.pop_front();
                self.sent = 0;
            }
        }
        Ok(())
    }

    fn receive(&mut self) -> Result<(), String> {
        loop {
            let place = match &mut self.body {
                Some((asked, have)) => &mut asked.data[*have..],
                None => &mut self.head[self.have..],
            };
            let count = match self.socket.read(place) {
                Ok(0) => return Err("the server closed it".into()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(text(&error)),
            };
            match self.body.take() {
                Some((asked, have)) if have + count == asked.data.len() => asked.tell(0),
                Some((asked, have)) => self.body = Some((asked, have + count)),
                None => {
                    self.have += count;
                    if self.have == self.head.len() {
                        self.have = 0;
                        self.understand()?;
                    }
                }
            }
        }
    }

    /// A reply has begun.
    fn understand(&mut self) -> Result<(), String> {
        let mut fields = Fields(&self.head);
        let whole = "a header has all fields";
        if fields.u32().expect(whole) != SIMPLE_REPLY_MAGIC {
            return Err("the server sent something that is no reply".into());
        }
        let (errno, cookie) = (fields.u32().expect(whole), fields.u64().expect(whole));
        let asked = self.shared.lock().waiting.remove(&cookie);
        let Some(asked) = asked else {
            return Err("the server answered what nobody had asked".into());
        };
        match errno == 0 && !asked.data.is_empty() {
            true => self.body = Some((asked, 0)),
            false => asked.tell(errno),
        }
        Ok(())
    }
}

fn disconnect() -> Vec<u8> {
    let header = RequestHeader {
        flags: 0,
        command: cmd::DISC,
        cookie: 0,
        offset: 0,
        len: 0,
    };
    header.encode().to_vec()
}

/// The system's words without the number.
fn text(error: &io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}
