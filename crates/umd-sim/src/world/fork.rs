//! Crash forking: what would a power cut leave, right here? And here?
//!
//! ```text
//!   main line ----o---------o-----------------o----> goes on as if nothing had happened
//!                 |         |                 |
//!              K images  K images          K images       each: disks cloned and cut, assembled,
//!                                                         settled, read back, stopped, compared
//! ```
//!
//! A fork costs a boot without a workload, and not the run that led to its point. Points lie a
//! moment after a member write was submitted, more often after one of metadata.

use umd_core::array::Purpose;
use umd_core::value::{Instant, Span};

use super::exact::Record;
use super::manual::Manual;
use super::{Counts, Ev, Live, World};
use crate::disk::Power;
use crate::metaview::{BitmapView, SuperView, super_sector};
use crate::monitor::{Verdict, Violation};
use crate::options::{Ending, Forks, Options, Trigger};
use crate::queue::Queue;
use crate::rng::{Rng, Stream};
use crate::script::{IoKind, IoView};

/// Of 1000 moments at which members tell of different arrays so many are looked at.
const SPLIT_PERMILLE: u64 = 300;
/// What each host does in an image of an array that becomes another one: nobody sees otherwise
/// where it believes its rows to be.
const IMAGE_OPERATIONS: u64 = 6;

/// Where forks stand in a run.
#[derive(Debug)]
pub(super) struct ForkPlan {
    rng: Rng,
    left: u64,
    /// Moments at which members tell of different arrays.
    splits_left: u64,
    next: Option<Instant>,
    points: u64,
}

impl ForkPlan {
    /// The plan of a run.
    pub(super) fn new(options: &Options) -> ForkPlan {
        ForkPlan {
            rng: Rng::new(options.seed, Stream::Fork(0)),
            left: options.forks.points,
            splits_left: options.forks.splits,
            next: None,
            points: 0,
        }
    }
}

impl<'a> World<'a> {
    /// A member I/O goes out: a moment later may be a good one.
    pub(super) fn tempt(&mut self, io: &IoView) {
        let plan = &mut self.forks;
        if plan.left == 0 || plan.next.is_some() || io.kind != IoKind::Write {
            return;
        }
        let permille = match io.purpose {
            Purpose::Super | Purpose::Bitmap => 60,
            _ => 15,
        };
        if self.program.is_none() && plan.rng.permille(permille) {
            let latency = self.options.latency_of(io.disk).write_ns;
            plan.next = Some(self.now + Span(plan.rng.spread(latency)));
            plan.left -= 1;
        }
    }

    /// Members tell of different arrays: this may be a good moment.
    pub(super) fn tempt_between_shapes(&mut self) {
        let plan = &mut self.forks;
        let wanted = plan.splits_left > 0 && self.program.is_none();
        if wanted && plan.rng.permille(SPLIT_PERMILLE) {
            plan.splits_left -= 1;
            plan.next = Some(self.now);
        }
    }

    /// Forks, if the moment has come. `now` is that of the next event.
    pub(super) fn fork_if_due(&mut self) -> Verdict {
        if self.forks.next.is_none_or(|due| due > self.now) || self.live.is_none() {
            return Ok(());
        }
        self.forks.next = None;
        self.forks.points += 1;
        self.fork(self.forks.points)
    }

    /// Draws crash images of this moment and looks at each.
    pub(super) fn fork(&mut self, number: u64) -> Verdict {
        self.record_fork(number);
        self.counts.forks += 1;
        for image in 0..self.options.forks.images {
            let stream = Stream::Fork((number * 64 + image + 1) as u16);
            let rng = Rng::new(self.options.seed, stream);
            let mut world = self.crash_image(rng);
            let verdict = world.live_on();
            self.counts.images += 1;
            self.trace.word(world.trace.hash() as u64);
            if let Err(Violation { rule, text }) = verdict {
                self.note(format_args!("image {image} of fork {number}"));
                self.trace.adopt(&world.trace);
                let text = format!("image {image} of fork {number}: {text}");
                return Err(Violation { rule, text });
            }
        }
        Ok(())
    }

    /// The world after a power cut at this moment.
    fn crash_image(&mut self, rng: Rng) -> World<'a> {
        let before = self.atlas.clone();
        self.prune_holes();
        let atlas = std::mem::replace(&mut self.atlas, before);
        let pages = self.pages_at_risk(true);
        let unreadable = self.unreadable_in(&pages);
        let shredded = self.choose_shredded();
        let mut world = self.twin(rng, atlas);
        world.open_holes_in_image(pages, unreadable);
        shredded
            .into_iter()
            .for_each(|disk| world.disks[disk].shred_next_cut());
        world.cut_all();
        world.oracle.crashed(true);
        world
    }

    /// This world without its engine, on disks of its own.
    pub(super) fn twin(&self, mut rng: Rng, atlas: super::atlas::Atlas) -> World<'a> {
        let mut options = self.options.clone();
        options.boots = vec![(Ending::Stop, Trigger::Answers(u64::MAX))];
        let hosts = u16::from(options.rare.levels);
        options.workload.clients = options.workload.clients.min(hosts);
        options.workload.operations = options.workload.operations.min(IMAGE_OPERATIONS);
        options.faults.clear();
        options.actions.clear();
        options.forks = Forks::default();
        options.clones = false;
        options.rare.alone = false;
        options.rare.embedded = false;
        let mut fresh = || Rng::from_draw(&mut rng);
        let disks = self.disks.iter().map(|disk| disk.twin(fresh())).collect();
        World {
            now: self.now,
            queue: Queue::new(fresh()),
            disks,
            carries: self.carries.clone(),
            absent: self.absent.clone(),
            file: self.file,
            file_id: None,
            geometry: self.geometry.clone(),
            pool: self.pool.clone(),
            oracle: self.oracle.clone(),
            atlas,
            trace: self.trace.twin(),
            counts: Counts::default(),
            live: None::<Live>,
            pretence: None,
            spare_commands: Vec::new(),
            boot: 0,
            next_member: self.next_member,
            next_request: self.next_request,
            fault_rng: fresh(),
            admin_rng: fresh(),
            setup_rng: fresh(),
            limit_rng: Rng::new(options.seed, Stream::Limits(0)),
            embedder_rng: Rng::new(options.seed, Stream::Embedder(0)),
            limits_left: 0,
            manual: Manual::default(),
            record: Record::default(),
            program: None,
            forks: ForkPlan::new(&options),
            looked: None,
            clones: Vec::new(),
            alone: self.alone,
            was_whole: self.is_whole(),
            maker: self.maker,
            options,
        }
    }

    /// One boot in which nobody wants much: it settles, is read and stopped.
    pub(super) fn live_on(&mut self) -> Verdict {
        if !self.start()? {
            return Ok(());
        }
        self.after(0, Ev::Poll);
        self.run_boot()
    }

    /// The power of all disks goes.
    pub(super) fn cut_all(&mut self) {
        let style = self.fault_rng.weighted(&[2, 1, 3, 2, 3]);
        let odd = self.fault_rng.index(self.disks.len());
        for disk in 0..self.disks.len() {
            let gone = self.disks[disk].power() == Power::Gone;
            let how = super::boot::draw_cut(&mut self.fault_rng, style, disk == odd);
            self.disks[disk].cut(how);
            self.absent[disk] = gone && self.fault_rng.permille(400);
        }
    }

    /// Whether a bit that is found set at rest should have been cleared. The setting or clearing of
    /// a bit that a crash cut short leaves it set on some members; a clean array does not ask them
    /// all, and if nobody writes it stays so. It costs a resync of one region, later.
    pub(super) fn must_be_clear(&self, bit: u64) -> bool {
        let is_set = |disk: usize| {
            let medium = self.disks[disk].durable();
            let at = super_sector(self.options.minor, medium.sectors());
            let sb = SuperView::on_medium(&self.disks[disk], at);
            let offset = sb.and_then(SuperView::bitmap_offset);
            let start = offset.and_then(|offset| at.checked_add_signed(i64::from(offset)));
            let Some(start) = start else { return false };
            let bitmap = BitmapView::new(medium.sector(start), self.geometry.walk_sectors());
            bitmap.is_some_and(|bitmap| {
                let place = bitmap.place(bit);
                place.is_set(medium.sector(start + place.sector))
            })
        };
        let written = self.options.workload.clients > 0;
        written || self.in_sync().iter().all(|(_, disk)| is_set(*disk))
    }
}

#[cfg(test)]
#[path = "fork_tests.rs"]
mod tests;
