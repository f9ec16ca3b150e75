//! The shipped core with a hand in its works: what it wants or hears is changed on the way, so that
//! the tests of the simulator's modes can see each of them catch something.
//!
//! ```text
//!   world --event--> Sabotaged --event--> shipped core --command--> Sabotaged --command--> world
//!                        ^                                              |
//!                        +------- ends what it keeps to itself ---------+
//! ```

use umd_core::array::{
    Command, Commands, Completion, Control, ControlReply, Event, IoDone, IoOp, MemberIo, Purpose,
    Reply, RequestError, Status,
};
use umd_core::value::{Now, Pool, RequestId};

use crate::engine::{Candidate, Engine, How, Maker, Refused, Started};
use crate::shipped::Shipped;

/// What is done to the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Harm {
    /// Nothing.
    None,
    /// Flushes of the member with the highest number never reach it.
    FlushSkipped,
    /// Host data is written without FUA.
    FuaDropped,
    /// Bits of the bitmap are never written.
    BitsDropped,
    /// Parity is not written once the array has seen 40 events.
    ParityDropped,
    /// Resyncs and rebuilds write nothing.
    ResyncDropped,
    /// Failed member I/O is reported as done.
    ErrorsSwallowed,
    /// Superblocks are written without FUA, after a flush that never happens.
    SuperVolatile,
    /// Modes of level faulty that are asked for while it runs are taken and not set.
    ModesIgnored,
    /// Writes that are to fail are answered as done.
    PretenceSwallowed,
    /// Every seventh request fails as at level faulty, though nobody asked for it.
    PretenceInvented,
}

/// Starts sabotaged engines.
pub(crate) struct Sabotage(pub(crate) Harm);

struct Sabotaged {
    inner: Box<dyn Engine>,
    harm: Harm,
    events: u64,
    last: u32,
}

impl Sabotaged {
    /// Whether this command is kept from the world and reported as done.
    fn keeps(&self, io: &MemberIo) -> bool {
        let writes = matches!(io.op, IoOp::Write { .. });
        match self.harm {
            Harm::FlushSkipped => matches!(io.op, IoOp::Flush) && io.member.0 == self.last,
            Harm::BitsDropped => writes && io.purpose == Purpose::Bitmap,
            Harm::ResyncDropped => writes && io.purpose == Purpose::Resync,
            Harm::ParityDropped => writes && io.purpose == Purpose::Parity && self.events > 40,
            _ => false,
        }
    }

    /// Changes what a host is told.
    fn tell(&self, id: RequestId, result: &mut Result<Reply, RequestError>) {
        let pretended = |error: &RequestError| error.to_string().contains("level faulty");
        match self.harm {
            Harm::PretenceSwallowed if result.as_ref().is_err_and(pretended) => {
                *result = Ok(Reply::Done);
            }
            Harm::PretenceInvented if id.0.is_multiple_of(7) => {
                *result = Err(RequestError::Io("no reason (level faulty)".into()));
            }
            _ => {}
        }
    }

    fn change(&self, io: &mut MemberIo) {
        if let IoOp::Write { fua, .. } = &mut io.op {
            match (self.harm, io.purpose) {
                (Harm::FuaDropped, Purpose::Data) | (Harm::SuperVolatile, Purpose::Super) => {
                    *fua = false;
                }
                _ => {}
            }
        }
    }

    /// Passes commands on, but for those it keeps.
    fn pass(&mut self, now: Now, mut wanted: Commands, out: &mut Commands) {
        while !wanted.is_empty() {
            let mut kept = Vec::new();
            for mut command in wanted.drain(..) {
                if let Command::Complete { id, result } = &mut command {
                    self.tell(*id, result);
                }
                if let Command::Io(io) = &mut command {
                    self.change(io);
                    if self.keeps(io) {
                        kept.push(io.io);
                        continue;
                    }
                }
                out.push(command);
            }
            for io in kept {
                let result = Ok(IoDone::Done);
                let done = Event::Done(Completion { io, result });
                self.inner.handle(now, done, &mut wanted);
            }
        }
    }
}

impl Engine for Sabotaged {
    fn handle(&mut self, now: Now, mut event: Event, commands: &mut Commands) {
        self.events += 1;
        if self.harm == Harm::ErrorsSwallowed {
            let all = match &mut event {
                Event::Done(done) => std::slice::from_mut(done),
                Event::Ended(all) => all,
                _ => &mut [],
            };
            for done in all.iter_mut().filter(|done| done.result.is_err()) {
                done.result = Ok(IoDone::Done);
            }
        }
        if let (Harm::ModesIgnored, &Event::Control(id, Control::Layout(_))) = (self.harm, &event) {
            let result = Ok(ControlReply::Done);
            return commands.push(Command::Answer { id, result });
        }
        let mut wanted = Commands::new();
        self.inner.handle(now, event, &mut wanted);
        self.pass(now, wanted, commands);
    }

    fn status(&self) -> Status {
        self.inner.status()
    }
}

impl Maker for Sabotage {
    fn start(
        &self,
        candidates: &[Candidate<'_>],
        how: How<'_>,
        now: Now,
        pool: &Pool,
    ) -> Result<Started, Refused> {
        let started = Shipped.start(candidates, how, now, pool)?;
        let last = started.members.iter().map(|id| id.0).max();
        let mut engine = Sabotaged {
            inner: started.engine,
            harm: self.0,
            events: 0,
            last: last.expect("an array has members"),
        };
        let mut commands = Commands::new();
        engine.pass(now, started.commands, &mut commands);
        Ok(Started {
            engine: Box::new(engine),
            commands,
            members: started.members,
        })
    }
}
