//! The thread of an array: its loops, one for each engine that it is driven by.
//!
//! ```text
//!   LoopParts --spawn--> Loop (an array of this host, or a node) --stopped--> the name is free
//!                          |        ^
//!                          rests    +-- another loop, with the same clients (exchange)
//! ```

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use umd_core::array::{Array, Setup};
use umd_core::registry::ObjectId;
use umd_core::value::{MemberId, Pool};
use umd_disk::{Backend, Mux};

use super::array::{Handle, Inbox};
use super::engine::{Engine, panic_text};
use super::household::Answer;
use super::open::Opened;
use super::run::exchange::{self, Rested};
use super::run::{Attached, Loop};
use super::start::Surroundings;
use super::sync::{mpsc, thread};
use crate::api::{ErrorDoc, EventDoc};
use crate::cli::outcome::say;

/// Stack of an array's thread: buffers are on the heap.
const STACK_BYTES: usize = 1 << 20;

/// Told when a node serves, or why it does not.
pub type Joined = Option<mpsc::Receiver<Result<(), String>>>;

/// Starts the thread of what has its name already, and waits until it serves. After an error of its
/// cluster the name is free again.
///
/// # Errors
/// When the system has no thread for it, or it cannot join its cluster.
pub fn launch(around: &Surroundings, id: ObjectId, parts: LoopParts, joined: Joined) -> Answer<()> {
    let name = parts.name.clone();
    let refused = |text: String| ErrorDoc::new(text);
    spawn(around, id, parts).map_err(|error| refused(format!("cannot start {name}: {error}")))?;
    if let Some(joined) = joined {
        let outcome = joined.recv();
        if let Ok(Err(_)) = outcome {
            around.registry.wait_until_gone(id); // It is leaving its cluster, and ends.
        }
        let outcome = outcome.unwrap_or_else(|_| Err("an invariant of it broke".into()));
        outcome.map_err(|why| refused(format!("{name} cannot join its cluster: {why}")))?;
    }
    tell(around, &name, "NewArray");
    Ok(())
}

/// What the loop drives.
pub enum Driven {
    /// An array of this host.
    Array(Box<Setup>),
    /// One that others run as well.
    Node(Box<dyn Engine>),
}

/// What an array's thread builds its loop from. The backend is made by the thread itself: a ring
/// belongs to one thread.
pub struct LoopParts {
    /// What it is called.
    pub name: String,
    /// What it is driven by first.
    pub driven: Driven,
    /// Its members.
    pub members: Vec<(MemberId, Opened)>,
    /// Where buffers come from.
    pub pool: Pool,
    /// Its channel.
    pub ends: (Handle, Inbox),
}

impl LoopParts {
    /// Runs until the array has stopped; `ready` is told when all is there that it needs.
    fn run(self, ready: &mpsc::SyncSender<std::io::Result<()>>) -> std::io::Result<()> {
        let mut rested = match self.driven {
            Driven::Array(_) => self.drive(ready, |driven| match driven {
                Driven::Array(setup) => Box::new(Array::start(*setup)),
                Driven::Node(_) => unreachable!("just looked at"),
            }),
            Driven::Node(_) => self.drive(ready, |driven| match driven {
                Driven::Node(node) => node,
                Driven::Array(_) => unreachable!("just looked at"),
            }),
        }?;
        while let Some(array) = rested {
            rested = exchange::go_on(*array)?;
        }
        Ok(())
    }

    fn drive<E: Engine + ?Sized>(
        self,
        ready: &mpsc::SyncSender<std::io::Result<()>>,
        engine: impl FnOnce(Driven) -> Box<E>,
    ) -> std::io::Result<Option<Rested>> {
        match self.build(engine) {
            Ok(run) => {
                let _ = ready.send(Ok(()));
                run.run()
            }
            Err(error) => {
                let _ = ready.send(Err(error));
                Ok(None)
            }
        }
    }

    fn build<E: Engine + ?Sized>(
        self,
        engine: impl FnOnce(Driven) -> Box<E>,
    ) -> std::io::Result<Loop<E, Mux>> {
        let (backend, attached) = attached(self.members)?;
        let engine = engine(self.driven);
        Loop::new(&self.name, engine, backend, attached, self.pool, self.ends)
    }
}

/// Members behind a door of their own.
///
/// # Errors
/// When the system has no descriptor for it.
pub fn attached(
    members: Vec<(MemberId, Opened)>,
) -> std::io::Result<(Mux, BTreeMap<MemberId, Attached>)> {
    let mut backend = Mux::new()?;
    let mut attached = BTreeMap::new();
    for (id, one) in members {
        attached.insert(id, Attached::of(&one.file, &one.name));
        backend.attach(id, one.file);
    }
    Ok((backend, attached))
}

/// An array has come or gone.
fn tell(around: &Surroundings, name: &str, event: &str) {
    let event = EventDoc {
        schema: crate::api::SCHEMA,
        array: name.to_owned(),
        event: event.to_owned(),
        member: None,
        text: String::new(),
    };
    let _ = around.events.send(event); // Nobody may be listening.
}

/// Starts the thread, and waits until it has all it needs.
fn spawn(around: &Surroundings, id: ObjectId, parts: LoopParts) -> std::io::Result<()> {
    let registry = around.registry.clone();
    let (around, name) = (around.clone(), parts.name.clone());
    let (report, ready) = mpsc::sync_channel(1);
    let thread = thread::Builder::new()
        .name(format!("md:{name}"))
        .stack_size(STACK_BYTES);
    let spawned = thread.spawn(move || {
        // Everything the array had is dropped inside: its members are free when it is taken out.
        let work = || parts.run(&report);
        match catch_unwind(AssertUnwindSafe(work)) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => say(&format!("{name}: its loop failed: {error}")),
            Err(payload) => {
                let text = panic_text(payload.as_ref());
                say(&format!("{name}: an invariant of its loop broke: {text}"));
            }
        }
        around.registry.ended(id);
        tell(&around, &name, "DeviceDisappeared");
    });
    if let Err(error) = spawned {
        registry.ended(id);
        return Err(error);
    }
    ready.recv().unwrap_or_else(|_| {
        Err(std::io::Error::other(
            "an invariant did not hold while it was started",
        ))
    })
}
