//! Members that fail on purpose: for tests, and the daemon's hidden option `--fault SPEC`.
//!
//! | word            | meaning                                                                    |
//! |-----------------|----------------------------------------------------------------------------|
//! | `cache`         | a volatile write cache in this process: what no flush or FUA write covered |
//! |                 | is lost when the process is killed (the page cache would keep it)          |
//! | `ignore-flush`  | with `cache`: flushes and FUA are acknowledged and do nothing              |
//! | `seed=N`        | which unflushed writes reach the file early all the same (default 0)       |
//! | `bad=SECTOR+LEN`| these sectors are unreadable until they are written; may be repeated       |
//! | `worn=SECTOR+LEN`| these sectors take no writes, and can be read; may be repeated          |
//! | `lag=MS`        | each write takes some time longer, up to so many milliseconds: those of    |
//! |                 | two members, or two writes of one, end far apart                           |
//! | `error-at=N`    | the Nth I/O, counted from 1, fails with a media error                      |
//! | `fail-after=N`  | every I/O after the Nth fails: the device is gone                          |
//!
//! Words are separated by commas: `cache,seed=7,bad=2048+8`.

use std::collections::BTreeMap;
use std::fmt;
use std::io::IoSlice;
use std::ops::Range;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use umd_core::array::{Extent, IoError};
use umd_core::value::SECTOR_BYTES;

use crate::medium::{Medium, pieces_len, push_extent};
use crate::pieces::copy_out;

/// Zeroing more than this goes past the cache.
const CACHED_ZERO_BYTES_MAX: u64 = 1 << 20;
/// One write in this many reaches the file at once.
const EARLY_ONE_IN: u64 = 4;
/// At one write in this many, some older ones reach it, block by block.
const SPILL_ONE_IN: u64 = 8;
/// Blocks that reach the file early at a time.
const SPILL_BLOCKS_MAX: u64 = 4;

/// What is to go wrong. See the [module](self) for the text form.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FaultSpec {
    /// A write cache that dies with the process.
    pub cache: bool,
    /// The cache takes flushes and FUA without obeying: a device that lies, or what a program that
    /// never flushes would see.
    pub ignore_flush: bool,
    /// Seed of the choices the cache makes.
    pub seed: u64,
    /// Sectors that cannot be read until they are written.
    pub bad_sectors: Vec<Range<u64>>,
    /// Sectors that take no writes.
    pub worn_sectors: Vec<Range<u64>>,
    /// Each write takes up to so many milliseconds longer.
    pub lag_ms: u64,
    /// This I/O, counted from 1, fails with a media error.
    pub error_at: Option<u64>,
    /// Everything after this many I/Os fails.
    pub fail_after: Option<u64>,
}

impl FromStr for FaultSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<FaultSpec, String> {
        let mut spec = FaultSpec::default();
        for word in text.split(',').map(str::trim).filter(|w| !w.is_empty()) {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            let number = |text: &str| {
                let wrong = format!("'{word}': '{text}' is not a number");
                text.parse::<u64>().map_err(|_| wrong)
            };
            match key {
                "cache" if value.is_empty() => spec.cache = true,
                "ignore-flush" if value.is_empty() => spec.ignore_flush = true,
                "seed" => spec.seed = number(value)?,
                "lag" => spec.lag_ms = number(value)?,
                "error-at" => spec.error_at = Some(number(value)?),
                "fail-after" => spec.fail_after = Some(number(value)?),
                "bad" | "worn" => {
                    let form = || format!("'{word}': write {key}=SECTOR+LEN");
                    let (sector, len) = value.split_once('+').ok_or_else(form)?;
                    let (sector, len) = (number(sector)?, number(len)?);
                    let end = sector.checked_add(len).filter(|_| len > 0);
                    let range = sector..end.ok_or_else(form)?;
                    match key {
                        "worn" => spec.worn_sectors.push(range),
                        _ => spec.bad_sectors.push(range),
                    }
                }
                _ => return Err(format!("'{word}': not a fault this program knows")),
            }
        }
        if spec.ignore_flush && !spec.cache {
            return Err("'ignore-flush' makes sense only with 'cache'".into());
        }
        Ok(spec)
    }
}

impl fmt::Display for FaultSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed={}", self.seed)?;
        if self.cache {
            f.write_str(",cache")?;
        }
        if self.ignore_flush {
            f.write_str(",ignore-flush")?;
        }
        for bad in &self.bad_sectors {
            write!(f, ",bad={}+{}", bad.start, bad.end - bad.start)?;
        }
        for worn in &self.worn_sectors {
            write!(f, ",worn={}+{}", worn.start, worn.end - worn.start)?;
        }
        if self.lag_ms > 0 {
            write!(f, ",lag={}", self.lag_ms)?;
        }
        if let Some(n) = self.error_at {
            write!(f, ",error-at={n}")?;
        }
        if let Some(n) = self.fail_after {
            write!(f, ",fail-after={n}")?;
        }
        Ok(())
    }
}

/// A small generator of choices (splitmix64, Steele and others, 2014).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

struct State {
    ios: u64,
    bad_sectors: Vec<Range<u64>>,
    /// Blocks written and not on the file yet, by byte offset.
    pending: BTreeMap<u64, Box<[u8]>>,
    dice: Dice,
}

/// See the [module](self). One I/O at a time, but for the time that writes are held back.
pub(crate) struct FaultMedium {
    inner: Arc<dyn Medium>,
    spec: FaultSpec,
    /// Unit of the cache: a device writes its blocks whole.
    block_bytes: u64,
    state: Mutex<State>,
}

impl FaultMedium {
    pub(crate) fn new(inner: Arc<dyn Medium>, spec: &FaultSpec, block_bytes: u64) -> FaultMedium {
        FaultMedium {
            inner,
            block_bytes,
            state: Mutex::new(State {
                ios: 0,
                bad_sectors: spec.bad_sectors.clone(),
                pending: BTreeMap::new(),
                dice: Dice(spec.seed),
            }),
            spec: spec.clone(),
        }
    }

    /// Holds a write back, with nobody waiting for that.
    fn lag(&self) {
        if self.spec.lag_ms > 0 {
            let mut state = self.state.lock().expect("nothing panics under this lock");
            let micros = state.dice.below(self.spec.lag_ms.saturating_mul(1000));
            drop(state);
            thread::sleep(Duration::from_micros(micros));
        }
    }

    /// Counts the I/O and decides whether it fails by number.
    fn begin(&self) -> Result<MutexGuard<'_, State>, IoError> {
        let mut state = self.state.lock().expect("nothing panics under this lock");
        state.ios += 1;
        if self.spec.fail_after.is_some_and(|n| state.ios > n) {
            return Err(IoError::Gone);
        }
        if self.spec.error_at == Some(state.ios) {
            return Err(IoError::Media);
        }
        Ok(state)
    }

    /// Writes a block of the cache to the file. It stays in the cache when that fails.
    fn apply(&self, state: &mut State, at: u64) -> Result<(), IoError> {
        if let Some(block) = state.pending.get(&at) {
            self.inner.write(at, &[IoSlice::new(block)], false)?;
            state.pending.remove(&at);
        }
        Ok(())
    }

    fn apply_all(&self, state: &mut State) -> Result<(), IoError> {
        while let Some((&at, _)) = state.pending.first_key_value() {
            self.apply(state, at)?;
        }
        Ok(())
    }

    /// Puts whole blocks in the cache; now and then lets others out of it.
    fn keep(&self, state: &mut State, offset: u64, bytes: &[u8]) -> Result<(), IoError> {
        for (at, block) in (offset..)
            .step_by(self.block_bytes as usize)
            .zip(bytes.chunks(self.block_bytes as usize))
        {
            state.pending.insert(at, block.into());
        }
        if state.dice.below(SPILL_ONE_IN) == 0 {
            for _ in 0..=state.dice.below(SPILL_BLOCKS_MAX) {
                let from = state.dice.below(offset + bytes.len() as u64);
                let chosen = state.pending.range(from..).next().map(|(&at, _)| at);
                if let Some(at) = chosen {
                    self.apply(state, at)?;
                }
            }
        }
        Ok(())
    }

    /// Whether this write waits in the cache. If it does not, nothing older of it may remain there.
    fn cached(&self, state: &mut State, offset: u64, len: u64, fua: bool) -> bool {
        let whole = offset.is_multiple_of(self.block_bytes) && len.is_multiple_of(self.block_bytes);
        let durable = fua && !self.spec.ignore_flush;
        self.spec.cache && whole && !durable && state.dice.below(EARLY_ONE_IN) != 0
    }

    /// Makes room for a write that goes past the cache: blocks it replaces are forgotten, blocks it
    /// touches in part go to the file first.
    fn yield_range(&self, state: &mut State, offset: u64, end: u64) -> Result<(), IoError> {
        let first = offset - offset % self.block_bytes;
        let touched: Vec<u64> = state.pending.range(first..end).map(|(&at, _)| at).collect();
        for at in touched {
            if at >= offset && at + self.block_bytes <= end {
                state.pending.remove(&at);
            } else {
                self.apply(state, at)?;
            }
        }
        Ok(())
    }
}

/// Takes written sectors off the list of bad ones.
fn heal(bad_sectors: &mut Vec<Range<u64>>, offset: u64, len: u64) {
    let (start, end) = (offset / SECTOR_BYTES, (offset + len) / SECTOR_BYTES);
    let kept = bad_sectors
        .iter()
        .flat_map(|bad| [bad.start..bad.end.min(start), bad.start.max(end)..bad.end]);
    *bad_sectors = kept.filter(|bad| !bad.is_empty()).collect();
}

fn any_bad(bad_sectors: &[Range<u64>], offset: u64, len: u64) -> bool {
    let (start, end) = (offset / SECTOR_BYTES, (offset + len) / SECTOR_BYTES);
    bad_sectors
        .iter()
        .any(|bad| bad.start < end && start < bad.end)
}

impl Medium for FaultMedium {
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), IoError> {
        let state = self.begin()?;
        if any_bad(&state.bad_sectors, offset, buf.len() as u64) {
            return Err(IoError::Media);
        }
        self.inner.read(offset, buf)?;
        let end = offset + buf.len() as u64;
        let first = offset - offset % self.block_bytes;
        for (&at, block) in state.pending.range(first..end) {
            let (from, to) = (at.max(offset), end.min(at + self.block_bytes));
            let part = &block[(from - at) as usize..(to - at) as usize];
            buf[(from - offset) as usize..(to - offset) as usize].copy_from_slice(part);
        }
        Ok(())
    }

    fn write(&self, offset: u64, pieces: &[IoSlice<'_>], fua: bool) -> Result<(), IoError> {
        self.lag();
        let mut state = self.begin()?;
        let len = pieces_len(pieces);
        if any_bad(&self.spec.worn_sectors, offset, len) {
            return Err(IoError::Media);
        }
        if self.cached(&mut state, offset, len, fua) {
            let mut bytes = vec![0; len as usize];
            copy_out(pieces, 0, &mut bytes);
            self.keep(&mut state, offset, &bytes)?;
        } else {
            self.yield_range(&mut state, offset, offset + len)?;
            self.inner.write(offset, pieces, fua)?;
        }
        heal(&mut state.bad_sectors, offset, len);
        Ok(())
    }

    fn zero(&self, offset: u64, len: u64, may_unmap: bool, fua: bool) -> Result<(), IoError> {
        self.lag();
        let mut state = self.begin()?;
        if any_bad(&self.spec.worn_sectors, offset, len) {
            return Err(IoError::Media);
        }
        if len <= CACHED_ZERO_BYTES_MAX && self.cached(&mut state, offset, len, fua) {
            self.keep(&mut state, offset, &vec![0; len as usize])?;
        } else {
            self.yield_range(&mut state, offset, offset + len)?;
            self.inner.zero(offset, len, may_unmap, fua)?;
        }
        heal(&mut state.bad_sectors, offset, len);
        Ok(())
    }

    fn flush(&self) -> Result<(), IoError> {
        let mut state = self.begin()?;
        if self.spec.ignore_flush {
            return Ok(());
        }
        self.apply_all(&mut state)?;
        self.inner.flush()
    }

    fn extents(&self, offset: u64, len: u64, out: &mut Vec<Extent>) -> Result<(), IoError> {
        let state = self.begin()?;
        if state.pending.is_empty() {
            return self.inner.extents(offset, len, out);
        }
        push_extent(out, len, true);
        Ok(())
    }

    fn check(&self) -> Result<(), IoError> {
        let state = self.state.lock().expect("nothing panics under this lock");
        match self.spec.fail_after.is_some_and(|n| state.ios > n) {
            true => Err(IoError::Gone),
            false => self.inner.check(),
        }
    }

    fn unlock(&self) {
        // A device that is let go in order writes its cache back.
        let mut state = self.state.lock().expect("nothing panics under this lock");
        let _ = self.apply_all(&mut state);
        self.inner.unlock();
    }
}

impl Drop for FaultMedium {
    fn drop(&mut self) {
        // As in `unlock`, for members that were never part of an array. A kill does not get here.
        if let Ok(mut state) = self.state.lock() {
            let _ = self.apply_all(&mut state);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Memory;

    fn medium(spec: &str) -> (Arc<Memory>, FaultMedium) {
        let inner = Arc::new(Memory::new(1 << 20, None));
        let spec = spec.parse().expect("spec");
        (inner.clone(), FaultMedium::new(inner, &spec, 512))
    }

    fn read(medium: &dyn Medium, sector: u64) -> Result<u8, IoError> {
        let mut buf = [0; 512];
        medium.read(sector * 512, &mut buf).map(|()| buf[0])
    }

    fn write(medium: &dyn Medium, sector: u64, value: u8, fua: bool) -> Result<(), IoError> {
        medium.write(sector * 512, &[IoSlice::new(&[value; 512])], fua)
    }

    #[test]
    fn writes_that_lag_are_late_and_nothing_else_is() {
        let (inner, medium) = medium("lag=40,seed=3");
        let begin = std::time::Instant::now();
        (0..10).for_each(|sector| write(&medium, sector, 7, false).expect("written"));
        // Ten of 20 ms on average; a tenth of that will do.
        assert!(begin.elapsed() > Duration::from_millis(20));
        assert_eq!(read(inner.as_ref(), 9), Ok(7));
    }

    #[test]
    fn a_spec_is_what_its_text_says() {
        let spec: FaultSpec =
            "cache,ignore-flush,seed=7,bad=8+2,bad=100+1,lag=5,error-at=3,fail-after=9"
                .parse()
                .expect("spec");
        assert_eq!(
            spec,
            FaultSpec {
                cache: true,
                ignore_flush: true,
                seed: 7,
                bad_sectors: vec![8..10, 100..101],
                worn_sectors: Vec::new(),
                lag_ms: 5,
                error_at: Some(3),
                fail_after: Some(9),
            }
        );
        assert_eq!(spec.to_string().parse(), Ok(spec));
        for wrong in [
            "cash",
            "ignore-flush",
            "seed=x",
            "bad=1",
            "bad=1+0",
            "cache=1",
            "bad=1+-1",
            "worn=1",
        ] {
            assert!(wrong.parse::<FaultSpec>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn bad_sectors_are_unreadable_until_written() {
        let (_, medium) = medium("bad=8+4");
        let mut buf = [0; 1024];
        assert_eq!(medium.read(7 * 512, &mut buf), Err(IoError::Media));
        assert_eq!(read(&medium, 7), Ok(0));
        assert_eq!(read(&medium, 12), Ok(0));
        write(&medium, 9, 5, false).expect("write");
        assert_eq!(read(&medium, 9), Ok(5));
        assert_eq!(read(&medium, 8), Err(IoError::Media));
        assert_eq!(read(&medium, 10), Err(IoError::Media));
    }

    #[test]
    fn worn_sectors_keep_what_they_have() {
        let (_, medium) = medium("worn=8+4");
        assert_eq!(write(&medium, 8, 5, false), Err(IoError::Media));
        assert_eq!(
            medium.zero(7 * 512, 1024, false, false),
            Err(IoError::Media)
        );
        assert_eq!(read(&medium, 8), Ok(0));
        write(&medium, 12, 5, false).expect("write");
        assert_eq!(read(&medium, 12), Ok(5));
    }

    #[test]
    fn the_nth_io_fails_and_after_the_last_all_do() {
        let (_, medium) = medium("error-at=2,fail-after=3");
        assert_eq!(read(&medium, 0), Ok(0));
        assert_eq!(read(&medium, 0), Err(IoError::Media));
        assert_eq!(medium.check(), Ok(()));
        assert_eq!(medium.flush(), Ok(()));
        assert_eq!(write(&medium, 0, 1, false), Err(IoError::Gone));
        assert_eq!(medium.check(), Err(IoError::Gone));
    }

    #[test]
    fn the_cache_keeps_most_writes_until_a_flush() {
        let (inner, medium) = medium("cache,seed=1");
        for sector in 0..200 {
            write(&medium, sector, 9, false).expect("write");
            assert_eq!(read(&medium, sector), Ok(9), "own writes are read back");
        }
        let reached = (0..200).filter(|&s| read(&*inner, s) == Ok(9)).count();
        assert!((1..180).contains(&reached), "{reached} of 200 early");
        medium.flush().expect("flush");
        assert!((0..200).all(|s| read(&*inner, s) == Ok(9)));
    }

    #[test]
    fn a_cache_that_ignores_flushes_keeps_what_it_has() {
        let (inner, medium) = medium("cache,ignore-flush,seed=1");
        for sector in 0..200 {
            write(&medium, sector, 9, true).expect("write");
        }
        medium.flush().expect("flush");
        assert!((0..200).any(|s| read(&*inner, s) == Ok(0)));
        assert!((0..200).all(|s| read(&medium, s) == Ok(9)));
    }

    #[test]
    fn a_fua_write_brings_only_itself() {
        let (inner, medium) = medium("cache,seed=1");
        for sector in 0..100 {
            write(&medium, sector, 1, false).expect("write");
        }
        write(&medium, 50, 2, true).expect("fua");
        assert_eq!(read(&*inner, 50), Ok(2));
        assert_eq!(read(&medium, 50), Ok(2));
        assert!((0..100).any(|s| read(&*inner, s) == Ok(0)));
    }

    #[test]
    fn zeroing_replaces_what_was_cached() {
        let (inner, medium) = medium("cache,seed=3");
        for sector in 0..64 {
            write(&medium, sector, 1, false).expect("write");
        }
        medium.zero(16 * 512, 32 * 512, true, true).expect("zero");
        assert!((16..48).all(|s| read(&*inner, s) == Ok(0)));
        medium.flush().expect("flush");
        assert!((0..64).all(|s| read(&*inner, s) == Ok(u8::from(!(16..48).contains(&s)))));
    }
}
