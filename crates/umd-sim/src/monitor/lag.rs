//! Writes that lag on write-mostly members: the host was answered, and they have not landed.
//!
//! ```text
//!   ordinary leg      |==W==|
//!   write-mostly leg  |==W==============|      between: W counts as held, the leg is not read
//!                           ^ answered  ^ landed
//! ```

use std::fmt;
use std::ops::Range;
use std::rc::Rc;

use umd_core::array::Purpose;

use super::{MemberView, Monitor, Rule, Scene, Verdict, Violation, broken};
use crate::disk::Write;
use crate::metaview::SuperView;
use crate::stamp::{SECTOR, recognise};

static ZERO: [u8; SECTOR] = [0; SECTOR];

/// Whether a host's write on its way carries something there that was answered.
fn is_answered(scene: Scene<'_>, view: &MemberView, write: &Write, at: u64) -> bool {
    let content = recognise(write.content(at).unwrap_or(&ZERO));
    let of_the_host = write.purpose == Purpose::Data;
    of_the_host && scene.oracle.is_answered(at - view.data_offset, content)
}

fn covers(write: &Write, at: u64) -> bool {
    write.offset_sectors <= at && at < write.end_sectors()
}

impl Monitor {
    /// Whether a member in sync need not hold an array sector yet that was answered: it is on its
    /// way, and the superblocks allow it to lag.
    pub(super) fn may_lag(
        &self,
        scene: Scene<'_>,
        view: &MemberView,
        (sector, at): (u64, u64),
        what: &dyn fmt::Display,
    ) -> Result<bool, Violation> {
        let claims = Monitor::durable_super(view, scene.disks);
        let mostly = claims.is_some_and(SuperView::is_write_mostly);
        let most = self.bitmap(view, scene.disks);
        let most = most.map_or(0, |bits| bits.shape.write_behind as usize);
        if self.geometry.level != 1 || !mostly || most == 0 {
            return Ok(false);
        }
        let disk = &scene.disks[view.disk];
        let content = |write: &Write| recognise(write.content(at).unwrap_or(&ZERO));
        let coming =
            |write: &Write| covers(write, at) && scene.oracle.is_current(sector, content(write));
        if !disk.writes_in_flight().any(|write| coming(write)) {
            return Ok(false);
        }
        let lags = |write: &&Rc<Write>| is_answered(scene, view, write, write.offset_sectors);
        let lagging = disk.writes_in_flight().filter(lags).count();
        if lagging > most {
            let text = format!("{what}: {lagging} writes lag, and {most} may");
            return Err(Violation::new(Rule::Ack, text));
        }
        Ok(true)
    }

    /// A read does not overtake what was answered.
    pub(super) fn check_landed(
        &self,
        scene: Scene<'_>,
        view: &MemberView,
        range: &Range<u64>,
        what: &dyn fmt::Display,
    ) -> Verdict {
        if self.geometry.level != 1 {
            return Ok(());
        }
        for write in scene.disks[view.disk].writes_in_flight() {
            let (from, to) = (write.offset_sectors.max(range.start), write.end_sectors());
            let mut overtaken = from..to.min(range.end);
            if let Some(at) = overtaken.find(|at| is_answered(scene, view, write, *at)) {
                let text = format!("{what} at {at}, where an answered write has not landed");
                return broken(Rule::Source, text);
            }
        }
        Ok(())
    }
}
