//! An array without a door: the shipped core over the shipped member engines, in this process.
//!
//! What is measured here is the engine alone. Writes all carry the same bytes, so the one copy that
//! a door makes of them is not in the figures.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant as Clock};

use anyhow::{Context, Result, anyhow, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use umd_core::array::{Array, Command, Event, Options, Request, RequestOp, Setup, Timer};
use umd_core::assembly::{MemberFacts, Wish, assemble};
use umd_core::value::{ControlId, Instant, MemberId, Now, Pool, RequestId, Slice};
use umd_disk::{Backend, Engine, MemberFile, Mode, Mux};
use umd_format::{Format, SuperblockV1};

/// A load: sizes in bytes.
#[derive(Debug, Clone, Copy)]
pub struct CoreLoad {
    /// Writes, else reads.
    pub write: bool,
    /// At random, else one behind the other.
    pub random: bool,
    /// Bytes of each request.
    pub block: u64,
    /// Requests in flight.
    pub depth: u32,
    /// Only this much of the array is used.
    pub span: u64,
}

/// A running array.
pub struct CorePlane {
    array: Array,
    mux: Mux,
    pool: Pool,
    out: Vec<Command>,
    timers: BTreeMap<Timer, Instant>,
    epoch: Clock,
    next: u64,
    seed: u64,
    completed: u64,
    failed: Option<String>,
}

impl CorePlane {
    /// Starts the array of these members (metadata 1.2, no bitmap).
    ///
    /// # Errors
    /// When a member cannot be opened, or they make no array.
    pub fn open(members: &[impl AsRef<Path>]) -> Result<CorePlane> {
        let mut mux = Mux::new()?;
        let mut facts = Vec::new();
        let mut files = Vec::new();
        for (index, path) in members.iter().enumerate() {
            let file = MemberFile::open(path.as_ref(), Mode::ReadWrite, Engine::Auto)?;
            let size_sectors = file.size_sectors();
            let at = Format::V1_2
                .superblock_sector(size_sectors)
                .context("too small")?;
            let bytes = file.read_at(at * 512, 4096)?;
            let superblock = SuperblockV1::load(&bytes, Format::V1_2, size_sectors)?;
            let id = MemberId(u32::try_from(index)?);
            facts.push(MemberFacts {
                id,
                name: path.as_ref().display().to_string(),
                size_sectors,
                logical_block_bytes: file.logical_block_bytes(),
                superblock: Ok(superblock),
                bitmap: None,
                bad_blocks: None,
            });
            files.push((id, file));
        }
        let plan = assemble(&facts, &Wish::default()).map_err(|refusal| anyhow!("{refusal}"))?;
        for (id, file) in files {
            mux.attach(id, file);
        }
        let pool = Pool::new();
        let setup = Setup {
            plan,
            facts,
            bitmap_area: None,
            pool: pool.clone(),
            options: Options::default(),
        };
        let mut plane = CorePlane {
            array: Array::start(setup),
            mux,
            pool,
            out: Vec::new(),
            timers: BTreeMap::new(),
            epoch: Clock::now(),
            next: 0,
            seed: 1,
            completed: 0,
            failed: None,
        };
        let now = plane.now();
        plane.array.begin(now, &mut plane.out);
        Ok(plane)
    }

    fn now(&self) -> Now {
        let nanos = u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX);
        Now {
            mono: Instant(nanos),
            wall_seconds: 1_700_000_000,
        }
    }

    /// Runs a load for a while: requests per second.
    ///
    /// # Errors
    /// When a request fails.
    pub fn run(&mut self, load: CoreLoad, time: Duration) -> Result<f64> {
        let span = load.span.min(self.array.array_sectors() * 512) / load.block;
        let bytes = vec![0xa5; usize::try_from(load.block)?];
        let data = self.pool.copy_of(&bytes);
        let (begin, first) = (Clock::now(), self.completed);
        let mut position = 0;
        let mut asked = self.completed;
        while begin.elapsed() < time {
            while asked - self.completed < u64::from(load.depth) {
                self.ask(load, span, &data, &mut position);
                asked += 1;
            }
            self.turn()?;
        }
        let seconds = begin.elapsed().as_secs_f64();
        let done = self.completed - first;
        while self.completed < asked {
            self.turn()?;
        }
        Ok(done as f64 / seconds)
    }

    fn ask(&mut self, load: CoreLoad, span: u64, data: &Slice, position: &mut u64) {
        let block = if load.random {
            self.seed = self
                .seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (self.seed >> 33) % span
        } else {
            *position = (*position + 1) % span;
            *position
        };
        let offset_sectors = block * load.block / 512;
        let op = if load.write {
            RequestOp::Write {
                offset_sectors,
                data: data.clone(),
                fua: false,
            }
        } else {
            let len_sectors = u32::try_from(load.block / 512).expect("blocks are small");
            RequestOp::Read {
                offset_sectors,
                len_sectors,
            }
        };
        self.next += 1;
        let request = Request {
            id: RequestId(self.next),
            op,
        };
        let now = self.now();
        self.array
            .handle(now, Event::Request(request), &mut self.out);
    }

    /// One turn of the loop: commands out, completions in, timers.
    fn turn(&mut self) -> Result<()> {
        let before = self.completed;
        for command in std::mem::take(&mut self.out) {
            match command {
                Command::Io(io) => self.mux.submit(io),
                Command::Complete { result, .. } => {
                    self.completed += 1;
                    if let Err(error) = result {
                        self.failed = Some(error.to_string());
                    }
                }
                Command::Arm(timer, at) => {
                    self.timers.insert(timer, at);
                }
                Command::Release(member) => self.mux.close(member),
                Command::Answer { .. } | Command::Notify(_) | Command::Stopped => {}
            }
        }
        if let Some(why) = self.failed.take() {
            bail!("a request failed: {why}");
        }
        let ready = self.mux.kick();
        if !ready && self.out.is_empty() && self.completed == before {
            let mut fds = [PollFd::from_borrowed_fd(self.mux.event_fd(), PollFlags::IN)];
            let limit = Timespec {
                tv_sec: 0,
                tv_nsec: 10_000_000,
            };
            let _ = poll(&mut fds, Some(&limit));
        }
        let mut done = Vec::new();
        self.mux.reap(&mut done);
        for one in done {
            let now = self.now();
            self.array.handle(now, Event::Done(one), &mut self.out);
        }
        self.fire();
        Ok(())
    }

    fn fire(&mut self) {
        let now = self.now();
        let due: Vec<Timer> = self
            .timers
            .iter()
            .filter(|(_, at)| **at <= now.mono)
            .map(|(t, _)| *t)
            .collect();
        for timer in due {
            self.timers.remove(&timer);
            self.array.handle(now, Event::Timer(timer), &mut self.out);
        }
    }

    /// Stops the array cleanly.
    ///
    /// # Errors
    /// When that takes longer than it may.
    pub fn stop(mut self) -> Result<()> {
        let now = self.now();
        let control = Event::Control(ControlId(1), umd_core::array::Control::Stop);
        self.array.handle(now, control, &mut self.out);
        let limit = Clock::now() + Duration::from_secs(20);
        while !self.array.is_stopped() {
            self.turn()?;
            if Clock::now() > limit {
                bail!("the array does not stop");
            }
        }
        self.turn()
    }
}
