//! Writing a run down while it happens, and running what was written down.

use std::rc::Rc;

use umd_core::sync::SyncAction;
use umd_core::value::{Instant, Span};

use super::admin::{Bits, Request};
use super::host::plan_of;
use super::{Ev, World};
use crate::disk::{Cut, Power};
use crate::monitor::Verdict;
use crate::program::{Broken, Item, Mark, Program, What};
use crate::rng::{Rng, Stream, mix};
use crate::script::Admin;

/// What happened so far.
#[derive(Debug, Default)]
pub(super) struct Record {
    pub(super) began: Instant,
    program: Program,
}

impl World<'_> {
    /// What happened so far, written down so that it happens again.
    pub fn recorded(&self) -> Program {
        let mut program = self.record.program.clone();
        let boot = self.boot;
        if Program::mark(&program.overs, boot).is_none() {
            // Hosts were not done when the run ended: give them a second.
            let at_ns = (self.now - self.record.began).0 + 1_000_000_000;
            let draws = self.fault_rng.draws();
            program.overs.push(Mark { boot, at_ns, draws });
        }
        program
    }

    /// Makes the world follow a program. Before the first boot.
    pub fn follow(&mut self, program: Program) {
        if program.salt != 0 {
            for (n, disk) in self.disks.iter_mut().enumerate() {
                let seed = self.options.seed ^ mix(program.salt);
                disk.reseed(Rng::new(seed, Stream::Disk(n as u16)));
            }
        }
        self.program = Some(Rc::new(program));
    }

    pub(super) fn is_skipped(&self) -> bool {
        let program = self.program.as_ref();
        program.is_some_and(|program| program.skipped.contains(&self.boot))
    }

    fn record_item(&mut self, what: What) {
        let at_ns = (self.now - self.record.began).0;
        let boot = self.boot;
        self.record.program.items.push(Item { boot, at_ns, what });
    }

    pub(super) fn record_host(&mut self, client: u16, index: u64) {
        self.record_item(What::Host { client, index });
    }

    pub(super) fn record_fork(&mut self, number: u64) {
        self.record_item(What::Fork { number });
    }

    pub(super) fn record_fault(&mut self, broken: Broken) {
        self.record_item(What::Fault(broken));
    }

    pub(super) fn record_action(&mut self, request: Request) {
        let disk = |member| self.live().members.get(&member).copied();
        let admin = match request {
            Request::Fail(member) => disk(member).map(Admin::Fail),
            Request::Remove(member) => disk(member).map(Admin::Remove),
            Request::Add { disk, back: false } => Some(Admin::Add(disk)),
            Request::Add { disk, back: true } => Some(Admin::ReAdd(disk)),
            Request::Replace(member) => disk(member).map(Admin::Replace),
            Request::Flags(member, wish) => disk(member).map(|disk| match wish.failfast {
                None => Admin::Mostly(disk),
                Some(_) => Admin::Fast(disk),
            }),
            Request::Bitmap(Bits::None) => Some(Admin::NoBitmap),
            Request::Bitmap(Bits::Internal) => Some(Admin::Bitmap),
            Request::Bitmap(Bits::File) => Some(Admin::BitmapFile),
            Request::Start(SyncAction::Check) => Some(Admin::Check),
            Request::Start(_) => Some(Admin::Repair),
            Request::Idle => Some(Admin::Idle),
            Request::Freeze => Some(Admin::Freeze),
            Request::ReadOnly => Some(Admin::ReadOnly),
            Request::ReadAuto => Some(Admin::ReadAuto),
            Request::Stop => Some(Admin::Stop),
            Request::Limit(number) => Some(Admin::Limit(number)),
            Request::Mode(layout) => Some(Admin::Mode(layout)),
            Request::Level(number) => Some(Admin::Level(number)),
            _ => None,
        };
        if let Some(admin) = admin {
            self.record_item(What::Admin(admin));
        }
    }

    fn mark_now(&self) -> Mark {
        Mark {
            boot: self.boot,
            at_ns: (self.now - self.record.began).0,
            draws: self.fault_rng.draws(),
        }
    }

    /// Hosts are done.
    pub(super) fn record_over(&mut self) {
        let known = |program: &Program, boot| Program::mark(&program.overs, boot);
        if let Some(program) = &self.program {
            self.rewind(known(program, self.boot));
        }
        let mark = self.mark_now();
        self.record.program.overs.push(mark);
    }

    /// The boot ends.
    pub(super) fn record_end(&mut self) {
        let known = |program: &Program, boot| Program::mark(&program.ends, boot);
        if let Some(program) = &self.program {
            self.rewind(known(program, self.boot));
        }
        let mark = self.mark_now();
        if Program::mark(&self.record.program.ends, self.boot).is_none() {
            self.record.program.ends.push(mark);
        }
    }

    /// Sets the stream of faults to where it was when this was recorded.
    fn rewind(&mut self, mark: Option<Mark>) {
        if let Some(mark) = mark {
            self.fault_rng = Rng::new(self.options.seed, Stream::Fault(self.boot));
            self.fault_rng.advance_to(mark.draws);
        }
    }

    /// The boot ends after this time, unless the program knows when.
    pub(super) fn end_after(&mut self, ns: u64) {
        let program = self.program.as_ref();
        if program.is_none_or(|program| Program::mark(&program.ends, self.boot).is_none()) {
            self.after(ns, Ev::End);
        }
    }

    /// Puts what the program says about this boot into the queue. What was written down at the
    /// instant of an answer followed from that answer.
    pub(super) fn plan_program(&mut self) {
        let program = self.program.clone().expect("a program is followed");
        let began = self.record.began;
        for client in &mut self.live_mut().clients {
            client.left = 0;
        }
        for (index, item) in program.items.iter().enumerate() {
            if item.boot == self.boot {
                self.queue
                    .push_last(began + Span(item.at_ns), Ev::Item(index));
            }
        }
        if let Some(mark) = Program::mark(&program.overs, self.boot) {
            self.queue.push_last(began + Span(mark.at_ns), Ev::Poll);
        }
        if let Some(mark) = Program::mark(&program.ends, self.boot) {
            self.queue.push_last(began + Span(mark.at_ns), Ev::End);
        }
    }

    /// Whether the program has more for hosts to do in this boot.
    pub(super) fn is_program_busy(&self) -> bool {
        let Some(program) = &self.program else {
            return false;
        };
        match Program::mark(&program.overs, self.boot) {
            Some(mark) => self.now < self.record.began + Span(mark.at_ns),
            // It ended before hosts were done.
            None => true,
        }
    }

    pub(super) fn item_is_due(&mut self, index: usize) -> Verdict {
        let program = self.program.clone().expect("a program is followed");
        let what = program.items[index].what;
        // Hosts go on while the power is going; administrators and faults do not.
        let goes_on = matches!(what, What::Host { .. } | What::Fork { .. });
        if !self.live().phase.is_work() && !goes_on {
            return Ok(());
        }
        match what {
            What::Host { client, index } => {
                let rng = Rng::new(self.options.seed, Stream::Client(self.boot, client));
                let array = self.geometry.array_sectors();
                let plan = plan_of(
                    rng,
                    &self.options.workload,
                    client,
                    index,
                    (array, self.is_long()),
                );
                self.record_host(client, index);
                self.request(Some(client), plan)
            }
            What::Fork { number } => self.fork(number),
            What::Fault(broken) => {
                let (kind, disk) = broken.kind();
                if self.may_break(kind, disk) {
                    self.record_fault(broken);
                    self.counts.faults += 1;
                    self.note(format_args!("fault {kind:?} on disk {disk}"));
                    self.break_it(broken);
                }
                Ok(())
            }
            What::Admin(Admin::Stop) => self.stop_amid(),
            What::Admin(admin) => match self.request_again(admin) {
                Some(request) => {
                    self.record_action(request);
                    self.ask(request)
                }
                None => Ok(()),
            },
        }
    }

    /// What the administrator asked for, if it still makes sense.
    fn request_again(&mut self, admin: Admin) -> Option<Request> {
        let live = self.live();
        let on = |disk: usize| {
            let mut members = live.members.iter();
            members.find(|(_, d)| **d == disk).map(|(id, _)| *id)
        };
        Some(match admin {
            Admin::Fail(disk) => {
                let member = on(disk)?;
                self.doom(disk).then_some(Request::Fail(member))?
            }
            Admin::Remove(disk) => Request::Remove(on(disk)?),
            Admin::Add(disk) | Admin::ReAdd(disk) => {
                let busy = live.ios.values().any(|info| info.is_on(disk));
                let back = matches!(admin, Admin::ReAdd(_));
                if busy || on(disk).is_some() || self.absent[disk] || back && !self.carries[disk] {
                    return None;
                }
                if self.disks[disk].power() == Power::Gone {
                    self.disks[disk].cut(Cut::Sectors(500));
                }
                Request::Add { disk, back }
            }
            Admin::Replace(disk) => Request::Replace(on(disk)?),
            Admin::Mostly(disk) => self.switch_mostly(on(disk)?),
            Admin::Fast(disk) => self.switch_fast(on(disk)?),
            Admin::NoBitmap => Request::Bitmap(Bits::None),
            Admin::Bitmap => Request::Bitmap(Bits::Internal),
            Admin::BitmapFile => Request::Bitmap(Bits::File),
            Admin::Check => Request::Start(SyncAction::Check),
            Admin::Repair => Request::Start(SyncAction::Repair),
            Admin::Idle => Request::Idle,
            Admin::Freeze => Request::Freeze,
            Admin::ReadOnly => Request::ReadOnly,
            Admin::ReadAuto => Request::ReadAuto,
            Admin::Stop => Request::Stop,
            Admin::ReadWrite => Request::ReadWrite,
            Admin::Limit(number) => Request::Limit(number),
            Admin::Mode(layout) => Request::Mode(layout),
            Admin::Level(number) => self.may_become(number).then_some(Request::Level(number))?,
        })
    }
}
