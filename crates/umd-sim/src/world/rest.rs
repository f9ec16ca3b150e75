//! Rest: read-auto, suspending, and stopping, whatever is under way.
//!
//! ```text
//!   started read-auto --- nothing is written --- first write, or something is changed --> works
//!
//!   works --- suspend ---- what was begun ends | nothing is written --- goes on --> works
//!         \__ stop, beside requests and sync actions
//! ```
//!
//! Whoever has the engine in a program of his own suspends it to look at its members, or to take
//! them over, and stops it when he wants it gone: without asking whether hosts are done. What was
//! begun is answered, what comes later is refused, and then there is silence.

use umd_core::array::{ArrayState, Control, Event, IoError, MemberRole, RequestOp};
use umd_core::sync::SyncAction;
use umd_core::value::{ControlId, RequestId};

use super::admin::Request;
use super::{Ev, World};
use crate::engine::now_at;
use crate::monitor::{Rule, Verdict, Violation};
use crate::rng::{Rng, Stream};
use crate::script::IoKind;

/// How often in a boot.
const TIMES: u64 = 4;

impl World<'_> {
    /// Whether the array waits for its first write at this start.
    pub(super) fn is_started_dormant(&self) -> bool {
        let drawn = || Rng::new(self.options.seed, Stream::Dormant(self.boot)).coin();
        self.options.rare.dormant && (self.manual.on || drawn())
    }

    /// When the array is suspended or stopped first.
    pub(super) fn plan_embedder(&mut self) {
        if !self.options.rare.embedded || self.program.is_some() {
            return;
        }
        let mut rng = Rng::new(self.options.seed, Stream::Embedder(self.boot));
        for _ in 0..rng.range(1, TIMES) {
            let scale = rng.pick(&[300_000, 3_000_000, 50_000_000, 1_000_000_000]);
            let pause = rng.spread(scale);
            self.after(pause, Ev::Embedder);
        }
        self.embedder_rng = rng;
    }

    /// The array is suspended or stopped, often just after a sync action was begun.
    pub(super) fn embed(&mut self) -> Verdict {
        if !self.live().phase.is_work() {
            return Ok(());
        }
        let rng = &mut self.embedder_rng;
        let scrub = rng.permille(400).then(|| {
            let actions = [SyncAction::Check, SyncAction::Repair];
            Request::Start(rng.pick(&actions))
        });
        let rest = match rng.weighted(&[5, 3, 2]) {
            0 => Request::ReadOnly,
            1 => Request::ReadAuto,
            _ => Request::Stop,
        };
        if let Some(scrub) = scrub {
            self.record_action(scrub);
            self.ask(scrub)?;
        }
        self.record_action(rest);
        match rest {
            Request::Stop => self.stop_amid(),
            rest => self.ask(rest),
        }
    }

    /// A stop while hosts may be at work.
    pub(super) fn stop_amid(&mut self) -> Verdict {
        self.note(format_args!("stopped amid what goes on"));
        self.record_over();
        self.stop(false)
    }

    /// What is asked for: nothing is to be written once it is answered.
    pub(super) fn begin_rest(&mut self, request: Request) -> Control {
        let live = self.live_mut();
        live.read_only = true;
        live.dormant = false;
        live.pending
            .values_mut()
            .for_each(|pending| pending.read_only = true);
        match request {
            Request::ReadAuto => Control::ReadAuto,
            _ => Control::ReadOnly(true),
        }
    }

    /// The array rests, or was on its way to rest already.
    pub(super) fn rests(&mut self, request: Request, done: bool) -> Verdict {
        if done {
            self.check_rest()?;
        }
        let live = self.live_mut();
        live.read_only |= done;
        if done {
            live.dormant = request == Request::ReadAuto;
            live.monitor.note_resting(true);
        }
        let rng = match request {
            Request::ReadAuto => &mut self.embedder_rng,
            _ => &mut self.admin_rng,
        };
        let pause = rng.spread(200_000_000);
        self.undo_after(pause, Request::ReadWrite);
        Ok(())
    }

    /// Nothing that was begun is still being written, but to members that were given up. A broken
    /// array keeps those in their slots.
    fn check_rest(&self) -> Verdict {
        let live = self.live();
        let given_up = |member| {
            let mut members = live.status.members.iter();
            let found = members.find(|m| m.id == member);
            found.is_none_or(|m| m.role == MemberRole::Faulty)
        };
        if live.status.state == ArrayState::Broken {
            return Ok(());
        }
        let is_file = |member| self.file.is_some() && self.file_id == Some(member);
        let flies = live.ios.iter().find(|(_, info)| {
            let writes = info.view.kind == IoKind::Write;
            writes && !given_up(info.member) && !is_file(info.member)
        });
        match flies {
            None => Ok(()),
            Some((io, info)) => {
                let text = format!(
                    "told to be at rest while {io:?} is under way: {:?}",
                    info.view
                );
                Err(Violation::new(Rule::Rest, text))
            }
        }
    }

    /// It goes on.
    pub(super) fn goes_on(&mut self) {
        // Another wish to rest may be on its way.
        let live = self.live_mut();
        let mut asked = live.admin.values();
        live.read_only = asked.any(|other| matches!(other, Request::ReadOnly | Request::ReadAuto));
        live.dormant = false;
    }

    /// Something is to be written: who waited for that waits no longer.
    pub(super) fn wake(&mut self) {
        let live = self.live_mut();
        let stops = live.admin.values().any(|asked| *asked == Request::Stop);
        if live.dormant && live.status.state != ArrayState::Broken && !stops {
            self.goes_on();
            self.live_mut().monitor.note_resting(false);
        }
    }

    /// What was on its way to the array comes after it has stopped: timers, ends of I/O that was
    /// given up, a request, a question. Nobody is there.
    pub(super) fn rouse_the_stopped(&mut self) -> Verdict {
        let now = now_at(self.now);
        let live = self.live.as_mut().expect("an array is running");
        let gone = |io| umd_core::array::Completion {
            io,
            result: Err(IoError::Gone),
        };
        let request = umd_core::array::Request {
            id: RequestId(u64::MAX),
            op: RequestOp::WriteZeroes {
                offset_sectors: 0,
                len_sectors: 8,
                fua: false,
                may_unmap: false,
            },
        };
        let timers: Vec<_> = live.timers.keys().copied().collect();
        let ios: Vec<_> = live.ios.keys().copied().collect();
        let late = timers.into_iter().map(Event::Timer);
        let late = late.chain(ios.into_iter().map(|io| Event::Done(gone(io))));
        let late = late.chain([
            Event::Request(request),
            Event::Control(ControlId(u64::MAX), Control::Stop),
        ]);
        let mut commands = Vec::new();
        for event in late {
            let what = super::commands::show_event(&event);
            live.engine.handle(now, event, &mut commands);
            if let Some(command) = commands.first() {
                let text = format!("{command:?} after the array stopped, when this came: {what}");
                return Err(Violation::new(Rule::Lifetime, text));
            }
        }
        Ok(())
    }
}
