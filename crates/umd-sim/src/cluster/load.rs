//! What file systems ask of an array that several hosts run, and what they are answered.
//!
//! ```text
//!   Act::Write --> nobody else writes there? --> oracle, host        a cluster's file system keeps
//! hosts apart; `contested` plans
//!   answered: the oracle judges     failed, died: it may land        have one that does not
//!                                   until that life is over
//! ```

use std::ops::Range;

use umd_core::array::Input;
use umd_core::cluster::Peer;
use umd_core::value::{Event, Reply, Request, RequestError, RequestId, RequestOp, Slice};

use super::host::Asked;
use super::plan::Act;
use super::world::{World, Written};
use crate::monitor::{Rule, Verdict, Violation};
use crate::oracle::{Ended, Issue, Look};
use crate::stamp::{SECTOR, stamp_all};

impl World {
    /// A host is asked for something, if it serves and that lies in what it shows.
    pub(super) fn ask(&mut self, act: Act) -> Verdict {
        let (host, range) = match act {
            Act::Write(host, at, len, _)
            | Act::Zero(host, at, len)
            | Act::Trim(host, at, len)
            | Act::Read(host, at, len) => (host, at..at + len),
            Act::Flush(host) => (host, 0..0),
            _ => unreachable!("a request"),
        };
        let one = &self.hosts[host];
        let shown = one.array.as_ref().map_or(0, |one| one.shown_sectors);
        if !one.serves() || self.is_paused(host) || range.end > shown {
            return Ok(());
        }
        let changes = !matches!(act, Act::Read(..) | Act::Flush(_));
        if changes && !self.reserve(host, &range) {
            return Ok(());
        }
        self.request(host, &act, range)
    }

    /// Whether a host may write here: nobody else does.
    fn reserve(&mut self, host: usize, range: &Range<u64>) -> bool {
        let life = self.hosts[host].life;
        let meets = |one: &&Written| {
            let other = one.host != host || one.life != life;
            other && one.range.start < range.end && range.start < one.range.end
        };
        let met: Vec<Range<u64>> = self
            .writes
            .values()
            .filter(meets)
            .map(|w| w.range.clone())
            .collect();
        if !self.plan.contested {
            return met.is_empty();
        }
        for other in met {
            let shared = other.start.max(range.start)..other.end.min(range.end);
            self.contested.extend(shared);
        }
        true
    }

    pub(super) fn request(&mut self, host: usize, act: &Act, range: Range<u64>) -> Verdict {
        let id = self.number();
        let (offset_sectors, len_sectors) = (range.start, range.end - range.start);
        let (op, look, weak) = match act {
            Act::Write(_, _, _, fua) => {
                let mut bytes = vec![0; len_sectors as usize * SECTOR];
                stamp_all(&mut bytes, offset_sectors, id);
                let op = RequestOp::Write {
                    offset_sectors,
                    data: self.pool.copy_of(&bytes),
                    fua: *fua,
                };
                (op, Some(Look::Stamp(id)), false)
            }
            Act::Zero(..) => {
                let op = RequestOp::WriteZeroes {
                    offset_sectors,
                    len_sectors,
                    fua: false,
                    may_unmap: false,
                };
                (op, Some(Look::Zero), false)
            }
            Act::Trim(..) => {
                let op = RequestOp::Trim {
                    offset_sectors,
                    len_sectors,
                    fua: false,
                };
                (op, Some(Look::Zero), true)
            }
            Act::Read(..) => {
                let op = RequestOp::Read {
                    offset_sectors,
                    len_sectors: len_sectors as u32,
                };
                (op, None, false)
            }
            _ => (RequestOp::Flush, None, false),
        };
        let life = self.hosts[host].life;
        let running = self.hosts[host].array.as_mut().expect("it serves");
        let peer = running.me;
        let asked = match (look, act) {
            (Some(look), _) => {
                let of = range.clone();
                let issue = Issue { range, look, weak };
                self.oracle.write_issued(id, issue);
                let written = Written {
                    range: of,
                    host,
                    life,
                    peer,
                };
                self.writes.insert(id, written);
                Asked::Write(id, matches!(act, Act::Write(_, _, _, true)))
            }
            (None, Act::Read(..)) => Asked::Read(self.oracle.began(), offset_sectors),
            _ => {
                self.oracle.flush_issued(id);
                Asked::Flush(id)
            }
        };
        running.requests.insert(id, asked);
        let request = Request {
            id: RequestId(id),
            op,
        };
        self.input(host, Input::Array(Event::Request(request)))
    }

    /// A host has answered.
    pub(super) fn completed(
        &mut self,
        host: usize,
        id: RequestId,
        result: Result<Reply, RequestError>,
    ) -> Verdict {
        let running = self.hosts[host].array.as_mut().expect("it runs");
        let asked = running.requests.remove(&id.0).expect("it was asked");
        let excused = running.lost || running.stopping || self.now >= running.line.valid_until;
        self.counts.answers += 1;
        if let (Err(error), false) = (&result, excused) {
            let text = format!("h{host} answers {asked:?} with {error}");
            return Err(Violation::new(Rule::Error, text));
        }
        match (asked, result) {
            (Asked::Read(began, first), Ok(Reply::Data(parts))) => {
                let verdict = self.judge_read(host, began, first, &parts);
                self.oracle.ended(began);
                return verdict;
            }
            (Asked::Read(began, _), _) => self.oracle.ended(began),
            (Asked::Flush(number), result) => {
                self.oracle.flush_ended(number, result.is_ok());
            }
            // What was not written well may land as long as its life may.
            (Asked::Write(..), Err(_)) => {}
            (Asked::Write(number, fua), Ok(_)) => {
                let how = if fua { Ended::Durable } else { Ended::Done };
                if self.writes.remove(&number).is_some() {
                    self.oracle.write_ended(number, how);
                }
            }
        }
        Ok(())
    }

    fn judge_read(&mut self, host: usize, began: u64, first: u64, parts: &[Slice]) -> Verdict {
        let pieces: Vec<&[u8]> = parts.iter().map(Slice::as_slice).collect();
        let end = first
            + pieces
                .iter()
                .map(|piece| piece.len() / SECTOR)
                .sum::<usize>() as u64;
        // Where two wrote at once mirrors may differ until somebody repairs them.
        let contested = self.contested.range(first..end).next().is_some();
        let read = match contested {
            true => self.oracle.read_ended_undecided(began, first, &pieces),
            false => self.oracle.read_ended(began, first, &pieces),
        };
        read.map_err(|wrong| {
            let text = format!("h{host} at {} ms: {wrong}", self.now.0 / 1_000_000);
            Violation::new(Rule::Content, text)
        })
    }

    /// The process of a host is gone: what it was asked stays unanswered.
    pub(super) fn forget_requests(&mut self, host: usize) {
        let Some(running) = self.hosts[host].array.as_mut() else {
            return;
        };
        for (_, asked) in std::mem::take(&mut running.requests) {
            match asked {
                Asked::Read(began, _) => self.oracle.ended(began),
                Asked::Flush(number) => drop(self.oracle.flush_ended(number, false)),
                Asked::Write(..) => {}
            }
        }
    }

    /// Nothing of a life lands any more: what it did not finish has happened, or has not.
    pub(super) fn end_writes(&mut self, peer: Peer) {
        let ended = self.writes.iter();
        let ended = ended.filter(|(_, one)| one.peer == Some(peer));
        for number in ended.map(|(number, _)| *number).collect::<Vec<u64>>() {
            self.writes.remove(&number);
            self.oracle.write_ended(number, Ended::Failed);
        }
    }
}
