//! Carrying out what the engine wants.

use umd_core::array::{Command, Commands, Control, Event, IoOp, MemberIo, Notice, RequestOp};

use super::{Ev, IoInfo, World};
use crate::monitor::{Rule, Scene, Verdict, Violation};
use crate::rng::mix;
use crate::script::IoView;

/// An event in one line.
pub(super) fn show_event(event: &Event) -> String {
    match event {
        Event::Request(request) => format!("{:?} {}", request.id, show_op(&request.op)),
        Event::Requests(requests) => format!("{} requests at once", requests.len()),
        Event::Done(done) => match &done.result {
            Ok(_) => format!("{:?} done", done.io),
            Err(error) => format!("{:?} failed: {error}", done.io),
        },
        Event::Ended(all) => {
            let failed = all.iter().filter(|done| done.result.is_err()).count();
            let names: Vec<String> = all.iter().map(|done| format!("{:?}", done.io)).collect();
            format!("{} ended, {failed} of them failed", names.join(", "))
        }
        Event::Timer(timer) => format!("timer {timer:?}"),
        Event::Control(id, Control::Add(new)) => format!("{id:?} add {} as {:?}", new.name, new.id),
        Event::Control(id, Control::ReAdd(new)) => {
            format!("{id:?} re-add {} as {:?}", new.name, new.id)
        }
        Event::Control(id, control) => format!("{id:?} {control:?}"),
    }
}

fn show_op(op: &RequestOp) -> String {
    match op {
        RequestOp::Read {
            offset_sectors,
            len_sectors,
        } => format!("read {offset_sectors}+{len_sectors}"),
        RequestOp::Write {
            offset_sectors,
            data,
            fua,
        } => {
            let len = data.len() / 512;
            format!(
                "write {offset_sectors}+{len}{}",
                if *fua { " fua" } else { "" }
            )
        }
        RequestOp::WriteZeroes {
            offset_sectors,
            len_sectors,
            fua,
            ..
        } => format!(
            "zero {offset_sectors}+{len_sectors}{}",
            if *fua { " fua" } else { "" }
        ),
        RequestOp::Trim {
            offset_sectors,
            len_sectors,
            ..
        } => format!("trim {offset_sectors}+{len_sectors}"),
        RequestOp::Flush => "flush".into(),
        RequestOp::Allocation {
            offset_sectors,
            len_sectors,
        } => format!("allocation {offset_sectors}+{len_sectors}"),
    }
}

fn show_io(io: &MemberIo) -> String {
    let op = match &io.op {
        IoOp::Read {
            offset_sectors,
            buf,
        } => format!("read {offset_sectors}+{}", buf.len() / 512),
        IoOp::Write {
            offset_sectors,
            data,
            fua,
        } => {
            let len: usize = data.iter().map(|piece| piece.len()).sum();
            format!(
                "write {offset_sectors}+{}{}",
                len / 512,
                if *fua { " fua" } else { "" }
            )
        }
        IoOp::WriteZeroes {
            offset_sectors,
            len_sectors,
            fua,
            ..
        } => format!(
            "zero {offset_sectors}+{len_sectors}{}",
            if *fua { " fua" } else { "" }
        ),
        IoOp::Flush => "flush".into(),
        IoOp::Allocation {
            offset_sectors,
            len_sectors,
        } => format!("allocation {offset_sectors}+{len_sectors}"),
    };
    format!("{:?} {:?} {:?} {op}", io.io, io.member, io.purpose)
}

fn io_word(io: &MemberIo) -> u64 {
    let (kind, at, len) = match &io.op {
        IoOp::Read {
            offset_sectors,
            buf,
        } => (1, *offset_sectors, buf.len() as u64),
        IoOp::Write {
            offset_sectors,
            data,
            fua,
        } => {
            let sum = data.iter().fold(0, |sum, piece| {
                let bytes = piece.as_slice();
                let head = bytes
                    .first_chunk()
                    .map_or(0, |head| u64::from_le_bytes(*head));
                mix(sum ^ head ^ bytes.len() as u64)
            });
            (2 + u64::from(*fua), *offset_sectors, sum)
        }
        IoOp::WriteZeroes {
            offset_sectors,
            len_sectors,
            ..
        } => (4, *offset_sectors, *len_sectors),
        IoOp::Flush => (5, 0, 0),
        IoOp::Allocation {
            offset_sectors,
            len_sectors,
        } => (6, *offset_sectors, *len_sectors),
    };
    mix(kind ^ mix(at ^ mix(len ^ mix(u64::from(io.member.0) ^ ((io.purpose as u64) << 32)))))
}

impl World<'_> {
    pub(super) fn carry_out(&mut self, commands: &mut Commands) -> Verdict {
        for command in commands.drain(..) {
            if self.live().monitor.is_stopped() {
                let text = format!("{command:?} after the array stopped");
                return Err(Violation::new(Rule::Lifetime, text));
            }
            self.trace_command(&command);
            match command {
                Command::Io(io) => self.submit(io)?,
                Command::Complete { id, result } => self.answered(id, result)?,
                Command::Arm(timer, due) => {
                    let live = self.live_mut();
                    live.armed += 1;
                    let armed = live.armed;
                    live.timers.insert(timer, armed);
                    let due = due.max(self.now);
                    self.queue.push(due, Ev::Timer { timer, armed });
                }
                Command::Answer { id, result } => self.admin_answered(id, result)?,
                Command::Notify(notice) => self.noticed(notice)?,
                Command::Release(member) => {
                    let live = self.live_mut();
                    live.monitor.note_released(member);
                    if live.phase.is_stopping() {
                        continue;
                    }
                    self.file_let_go(member);
                    let live = self.live_mut();
                    if let Some(disk) = live.members.remove(&member) {
                        if live.monitor.is_unrecorded(member) {
                            live.released.push((member, disk));
                        }
                        self.atlas.forget(disk);
                    }
                }
                Command::Stopped => self.stopped()?,
            }
        }
        self.look_at_media()?;
        if self.live().monitor.is_stopped() {
            return self.boot_over();
        }
        Ok(())
    }

    /// What the monitor looks at after every event.
    fn look_at_media(&mut self) -> Verdict {
        let live = self.live.as_mut().expect("an array is running");
        let scene = Scene {
            disks: &self.disks,
            status: &live.status,
            oracle: &self.oracle,
        };
        live.monitor.settle_failures(scene);
        live.monitor.check_events_at_rest(scene)
    }

    fn trace_command(&mut self, command: &Command) {
        let word = match command {
            Command::Io(io) => io_word(io),
            Command::Complete { id, result } => 11 ^ (id.0 << 8) ^ u64::from(result.is_ok()),
            Command::Arm(timer, due) => 12 ^ ((*timer as u64) << 8) ^ due.0.rotate_left(20),
            Command::Answer { id, result } => 13 ^ (id.0 << 8) ^ u64::from(result.is_ok()),
            Command::Notify(_) => 14,
            Command::Release(member) => 15 ^ (u64::from(member.0) << 8),
            Command::Stopped => 16,
        };
        self.trace.word(word);
        if !self.trace.wants_text() {
            return;
        }
        let text = match command {
            Command::Io(io) => show_io(io),
            Command::Complete { id, result: Ok(_) } => format!("{id:?} answered"),
            Command::Complete { id, result } => format!("{id:?} answered: {result:?}"),
            Command::Notify(Notice::Changed) => return,
            other => format!("{other:?}"),
        };
        let now = self.show_time();
        self.trace.note(format_args!("{now}     < {text}"));
    }

    fn submit(&mut self, io: MemberIo) -> Verdict {
        self.counts.ios += 1;
        let live = self.live.as_mut().expect("an array is running");
        let scene = Scene {
            disks: &self.disks,
            status: &live.status,
            oracle: &self.oracle,
        };
        live.monitor.check_io(scene, &io)?;
        let file = self.file.filter(|_| self.file_id == Some(io.member));
        let disk = live.members.get(&io.member).copied().or(file);
        let disk = disk.expect("the monitor knows the members");
        let writes = matches!(
            io.op,
            IoOp::Write { .. } | IoOp::WriteZeroes { .. } | IoOp::Flush
        );
        let view = IoView::new(disk, &io);
        let info = IoInfo {
            view: view.clone(),
            member: io.member,
            writes,
            query: io.purpose == umd_core::array::Purpose::Query,
        };
        if live.ios.insert(io.io, info).is_some() {
            let text = format!("{:?} was used twice", io.io);
            return Err(Violation::new(Rule::Lifetime, text));
        }
        let number = io.io;
        if io.purpose == umd_core::array::Purpose::Super && writes {
            self.carries[disk] = true;
            self.trigger_by_supers();
        }
        self.spring(&view);
        self.linger(&io, disk);
        let due = self.disks[disk].submit(self.now, number.0, io.purpose, io.op);
        if let Some(due) = due {
            self.queue.push(due, Ev::Io { disk, io: number });
        }
        Ok(())
    }

    fn noticed(&mut self, notice: Notice) -> Verdict {
        match notice {
            Notice::Frozen(why) => Err(Violation::new(
                Rule::Panic,
                format!("the engine froze the array: {why}"),
            )),
            Notice::Broken(why) if !self.atlas.exceeded() && self.geometry.level > 0 => {
                let text = format!("the array is broken within its redundancy: {why}");
                Err(Violation::new(Rule::Error, text))
            }
            Notice::Activated(_) => {
                self.was_activated();
                Ok(())
            }
            Notice::SyncStarted(_) => {
                self.sync_started();
                Ok(())
            }
            Notice::Failed { member, .. } => {
                self.live_mut().monitor.note_said(member);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

impl IoInfo {
    /// Whether it is an I/O of this disk.
    pub(super) fn is_on(&self, disk: usize) -> bool {
        self.view.disk == disk
    }
}
