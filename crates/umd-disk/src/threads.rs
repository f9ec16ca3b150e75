//! Worker threads for members whose I/O blocks: a few per member, so that a member that hangs
//! keeps its own workers only.
//!
//! ```text
//!   stage --> staged --kick--> jobs --> worker: execute(medium, op) --> DoneList --> loop
//!                               |         started when there is work and nobody idle,
//!                               |         up to WORKERS_MAX; gone after IDLE
//! ```

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use umd_core::array::{IoError, MemberIo};

use crate::finish::{DoneList, Finished};
use crate::medium::{Medium, execute};

/// Calls in flight per member.
const WORKERS_MAX: usize = 8;
/// A worker without work leaves after this.
const IDLE: Duration = Duration::from_secs(10);

/// The workers of one member.
///
/// Dropping it lets the workers finish the I/O they are in and leave; what waits is forgotten. The
/// medium is let go of at once when they are in none: whoever closes a member may then unmount
/// what it lay on.
pub(crate) struct Workers {
    shared: Arc<Shared>,
    staged: Vec<MemberIo>,
}

struct Shared {
    done: Arc<DoneList>,
    queue: Mutex<Queue>,
    work: Condvar,
}

struct Queue {
    /// Gone when no more I/O is to be done.
    medium: Option<Arc<dyn Medium>>,
    jobs: VecDeque<MemberIo>,
    workers: usize,
    idle: usize,
}

impl Workers {
    pub(crate) fn new(medium: Arc<dyn Medium>, done: Arc<DoneList>) -> Workers {
        Workers {
            shared: Arc::new(Shared {
                done,
                queue: Mutex::new(Queue {
                    medium: Some(medium),
                    jobs: VecDeque::new(),
                    workers: 0,
                    idle: 0,
                }),
                work: Condvar::new(),
            }),
            staged: Vec::new(),
        }
    }

    /// Keeps the I/O until the next `kick`. Returns whether it is the first one to wait.
    pub(crate) fn stage(&mut self, io: MemberIo) -> bool {
        self.staged.push(io);
        self.staged.len() == 1
    }

    /// Hands what was staged to the workers.
    pub(crate) fn kick(&mut self) {
        let mut queue = self.shared.queue();
        let new = self.staged.len();
        queue.jobs.extend(self.staged.drain(..));
        let wanted = queue.jobs.len().saturating_sub(queue.idle);
        for _ in 0..wanted.min(WORKERS_MAX - queue.workers) {
            let shared = self.shared.clone();
            let builder = std::thread::Builder::new().name("umd-member".into());
            match builder.spawn(move || shared.run()) {
                Ok(_) => queue.workers += 1,
                // The others do it.
                Err(_) if queue.workers > 0 => break,
                Err(error) => return self.shared.refuse(queue, &error),
            }
        }
        for _ in 0..new.min(queue.idle) {
            self.shared.work.notify_one();
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        let mut queue = self.shared.queue();
        queue.medium = None;
        queue.jobs.clear();
        self.shared.work.notify_all();
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect("nothing panics under this lock")
    }

    fn refuse(&self, mut queue: MutexGuard<'_, Queue>, error: &std::io::Error) {
        for job in queue.jobs.drain(..) {
            let why = format!("no thread could be started for it: {error}");
            self.done.push(Finished {
                member: job.member,
                io: job.io,
                result: Err(IoError::Other(why)),
            });
        }
    }

    fn next_job(&self) -> Option<(Arc<dyn Medium>, MemberIo)> {
        let mut queue = self.queue();
        loop {
            let Some(medium) = queue.medium.clone() else {
                queue.workers -= 1;
                return None;
            };
            if let Some(job) = queue.jobs.pop_front() {
                return Some((medium, job));
            }
            drop(medium);
            queue.idle += 1;
            let (guard, waited) = self
                .work
                .wait_timeout(queue, IDLE)
                .expect("nothing panics under this lock");
            queue = guard;
            queue.idle -= 1;
            if waited.timed_out() && queue.jobs.is_empty() {
                queue.workers -= 1;
                return None;
            }
        }
    }

    fn run(&self) {
        while let Some((medium, job)) = self.next_job() {
            let (member, io) = (job.member, job.io);
            // A panic fails this I/O (and so the member), not the whole household.
            let call = AssertUnwindSafe(|| execute(medium.as_ref(), job.op));
            let result = std::panic::catch_unwind(call).unwrap_or_else(|_| {
                Err(IoError::Other(
                    "the I/O worker panicked: see the log".into(),
                ))
            });
            // Before anybody learns that it ended, and closes the member.
            drop(medium);
            self.done.push(Finished { member, io, result });
        }
    }
}
