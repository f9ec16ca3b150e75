//! What a monitor makes of what it sees and hears: mdadm's events. Pure.
//!
//! What is heard (`heard`) tells of changes at once and misses none. What is seen (`look`) tells of
//! the rest: arrays that are new, gone or degraded, how far a rebuild has come, missing spares. An
//! array that nobody is heard of is only looked at, and all is told from the difference.

use std::collections::BTreeMap;

use crate::api::EventDoc;
use crate::doc::ArrayDoc;

/// Something to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alert {
    /// mdadm's name for it.
    pub event: String,
    /// The array: `/dev/md/NAME`.
    pub array: String,
    /// The member, or a remark, which begins with a blank as in mdadm.
    pub detail: Option<String>,
}

/// What is expected of an array: a line of the configuration, or a name on the command line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expected {
    /// Its name.
    pub name: String,
    /// Spares it should have.
    pub spares: Option<u32>,
}

/// An array as it was last seen.
#[derive(Debug, Clone, Default)]
struct Seen {
    /// States of members by path.
    members: BTreeMap<String, String>,
    /// What syncs, and the last step that was told.
    sync: Option<(String, u64)>,
    /// A sync was seen to have ended, and that was not heard.
    unheard_end: bool,
    spares_missing: bool,
}

/// The watch.
#[derive(Debug, Clone)]
pub struct Watch {
    expected: Vec<Expected>,
    /// Arrays that nobody expects are watched too.
    scan: bool,
    increment: u64,
    seen: BTreeMap<String, Seen>,
    missed: Vec<String>,
}

fn alert(event: &str, name: &str, detail: Option<String>) -> Alert {
    Alert {
        event: event.to_owned(),
        array: format!("/dev/md/{name}"),
        detail,
    }
}

/// Whether an array can lose members at all.
fn has_redundancy(array: &ArrayDoc) -> bool {
    matches!(array.level_number, 1 | 4 | 5 | 6 | 10)
}

/// The remark of `RebuildFinished` when members were found to differ.
fn mismatches(array: &ArrayDoc) -> Option<String> {
    let scrub = matches!(array.last_sync_action.as_deref(), Some("check" | "repair"));
    (scrub && array.mismatch_cnt > 0).then(|| {
        format!(
            " mismatches found: {} (on raid level {})",
            array.mismatch_cnt, array.level_number
        )
    })
}

/// mdadm's `MoveSpare`: the array that got it, and the one that gave it.
pub fn moved(from: &str, to: &str) -> Alert {
    alert("MoveSpare", to, Some(format!("/dev/md/{from}")))
}

impl Watch {
    /// A watch over these arrays; with `scan` over all others as well.
    pub fn new(expected: Vec<Expected>, scan: bool, increment: u64) -> Watch {
        assert!((1..100).contains(&increment), "checked with the options");
        Watch {
            expected,
            scan,
            increment,
            seen: BTreeMap::new(),
            missed: Vec::new(),
        }
    }

    fn expects(&self, name: &str) -> Option<&Expected> {
        self.expected.iter().find(|one| one.name == name)
    }

    /// Whether an array of this name is watched.
    fn watches(&self, array: &ArrayDoc) -> bool {
        array.array_state != "inactive"
            && (self.expects(&array.name).is_some() || self.scan && has_redundancy(array))
    }

    /// `TestMessage` for each array that is watched.
    pub fn test(&self, arrays: &[ArrayDoc]) -> Vec<Alert> {
        let watched = arrays.iter().filter(|array| self.watches(array));
        let mut names: Vec<&str> = watched.map(|array| array.name.as_str()).collect();
        for one in &self.expected {
            if !names.contains(&one.name.as_str()) {
                names.push(&one.name);
            }
        }
        let tests = names.iter().map(|name| alert("TestMessage", name, None));
        tests.collect()
    }

    /// All arrays as they are now; `heard` tells of which of them changes are heard.
    pub fn look(&mut self, arrays: &[ArrayDoc], heard: impl Fn(&ArrayDoc) -> bool) -> Vec<Alert> {
        let mut alerts = self.gone(arrays);
        for array in arrays {
            if !self.watches(array) {
                continue;
            }
            if !has_redundancy(array) {
                // Somebody counts on being told; this is all there will ever be to tell.
                if !self.missed.contains(&array.name) {
                    self.missed.push(array.name.clone());
                    let why = Some(" Wrong-Level".to_owned());
                    alerts.push(alert("DeviceDisappeared", &array.name, why));
                }
                continue;
            }
            let back = self.missed.contains(&array.name);
            self.missed.retain(|name| *name != array.name);
            match self.seen.get(&array.name).cloned() {
                None => self.first_sight(array, back, &mut alerts),
                Some(before) => self.again(array, before, heard(array), &mut alerts),
            }
        }
        alerts
    }

    fn gone(&mut self, arrays: &[ArrayDoc]) -> Vec<Alert> {
        let there = |name: &str| {
            let active = |array: &&ArrayDoc| array.array_state != "inactive";
            arrays.iter().filter(active).any(|array| array.name == name)
        };
        let mut alerts = Vec::new();
        let names: Vec<String> = self.seen.keys().cloned().collect();
        for name in names.iter().filter(|name| !there(name)) {
            self.seen.remove(name);
            self.missed.push(name.clone());
            alerts.push(alert("DeviceDisappeared", name, None));
        }
        for one in &self.expected {
            // Named and never seen: that is told once.
            if !there(&one.name) && !self.missed.contains(&one.name) {
                self.missed.push(one.name.clone());
                alerts.push(alert("DeviceDisappeared", &one.name, None));
            }
        }
        alerts
    }

    fn first_sight(&mut self, array: &ArrayDoc, back: bool, alerts: &mut Vec<Alert>) {
        let name = &array.name;
        if self.scan && (back || self.expects(name).is_none()) {
            alerts.push(alert("NewArray", name, None));
        }
        if array.degraded > 0 {
            alerts.push(alert("DegradedArray", name, None));
        }
        self.seen.insert(name.clone(), Seen::default());
        let before = Seen {
            members: states(array),
            ..Seen::default()
        };
        self.again(array, before, false, alerts);
    }

    fn again(&mut self, array: &ArrayDoc, mut seen: Seen, heard: bool, alerts: &mut Vec<Alert>) {
        let name = &array.name;
        let now = states(array);
        if !heard {
            changes(name, &seen.members, &now, alerts);
        }
        seen.members = now;
        match (&array.sync, seen.sync.take()) {
            (Some(sync), before) => {
                seen.unheard_end = false;
                let told = match before {
                    Some((action, told)) if action == sync.action => told,
                    _ => {
                        alerts.push(alert("RebuildStarted", name, None));
                        0
                    }
                };
                let step = (sync.percent as u64).min(99) / self.increment * self.increment;
                if step > told {
                    alerts.push(alert(&format!("Rebuild{step:02}"), name, None));
                }
                seen.sync = Some((sync.action.clone(), step.max(told)));
            }
            // The end will be heard; if it is not until the next look, it was missed.
            (None, Some(sync)) if heard && !seen.unheard_end => {
                seen.unheard_end = true;
                seen.sync = Some(sync);
            }
            (None, Some(_)) => {
                seen.unheard_end = false;
                alerts.push(alert("RebuildFinished", name, mismatches(array)));
            }
            (None, None) => {}
        }
        let wanted = self.expects(name).and_then(|one| one.spares).unwrap_or(0);
        let spares = array.members.iter().filter(|one| one.state == "spare");
        let missing = (spares.count() as u64) < u64::from(wanted);
        if missing && !seen.spares_missing && array.sync.is_none() {
            alerts.push(alert("SparesMissing", name, None));
        }
        seen.spares_missing = missing;
        self.seen.insert(name.clone(), seen);
    }

    /// Something was heard about an array that is watched.
    pub fn heard(&mut self, event: &EventDoc, array: Option<&ArrayDoc>) -> Vec<Alert> {
        let name = &event.array;
        let Some(seen) = self.seen.get_mut(name) else {
            return Vec::new(); // The next look will tell of it.
        };
        let mut alerts = Vec::new();
        let state = |state: &str| state.to_owned();
        match (event.event.as_str(), &event.member) {
            ("Fail", Some(path)) => {
                let before = seen.members.insert(path.clone(), state("faulty"));
                let was = before.as_deref().unwrap_or("in_sync");
                alerts.extend(failed(name, path, was));
            }
            ("SpareActive", Some(path)) => {
                seen.members.insert(path.clone(), state("in_sync"));
                alerts.push(alert("SpareActive", name, Some(path.clone())));
            }
            ("RebuildStarted", _) if seen.sync.is_none() => {
                seen.sync = Some((event.text.clone(), 0));
                alerts.push(alert("RebuildStarted", name, None));
            }
            ("RebuildFinished", _) if seen.sync.take().is_some() => {
                seen.unheard_end = false;
                let remark = array.and_then(mismatches);
                alerts.push(alert("RebuildFinished", name, remark));
            }
            _ => {}
        }
        alerts
    }
}

fn states(array: &ArrayDoc) -> BTreeMap<String, String> {
    let members = array.members.iter();
    let states = members.map(|member| (member.path.clone(), member.state.clone()));
    states.collect()
}

/// `Fail` for a member in use, `FailSpare` for a spare; nothing is told twice.
fn failed(name: &str, path: &str, was: &str) -> Option<Alert> {
    let event = match was {
        "faulty" => return None,
        "in_sync" => "Fail",
        _ => "FailSpare",
    };
    Some(alert(event, name, Some(path.to_owned())))
}

/// What has become of members, where only that can be seen.
fn changes(
    name: &str,
    before: &BTreeMap<String, String>,
    now: &BTreeMap<String, String>,
    alerts: &mut Vec<Alert>,
) {
    for (path, state) in now {
        let was = before.get(path).map(String::as_str);
        match (was, state.as_str()) {
            (Some(was), "faulty") => alerts.extend(failed(name, path, was)),
            (Some("spare" | "recovering"), "in_sync") => {
                alerts.push(alert("SpareActive", name, Some(path.clone())));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doc::SyncDoc;
    use crate::doc::tests::{doc, raid5};

    fn words(alerts: &[Alert]) -> Vec<String> {
        let word = |one: &Alert| {
            let detail = one.detail.clone().unwrap_or_default();
            format!("{} {} {detail}", one.event, one.array)
        };
        alerts
            .iter()
            .map(|one| word(one).trim_end().to_owned())
            .collect()
    }

    fn syncing(array: &mut ArrayDoc, action: &str, percent: f64) {
        array.sync = Some(SyncDoc {
            action: action.into(),
            done_sectors: 0,
            total_sectors: 1,
            percent,
            speed_kib_s: 0,
            finish_seconds: None,
            held: false,
        });
    }

    fn all(increment: u64) -> Watch {
        Watch::new(Vec::new(), true, increment)
    }

    #[test]
    fn arrays_come_degraded_and_go() {
        let mut watch = all(20);
        let mut array = doc(&raid5());
        array.degraded = 1;
        let looked = watch.look(std::slice::from_ref(&array), |_| false);
        assert_eq!(
            words(&looked),
            ["NewArray /dev/md/r5", "DegradedArray /dev/md/r5"]
        );
        assert_eq!(watch.look(std::slice::from_ref(&array), |_| false), []);
        assert_eq!(
            words(&watch.look(&[], |_| false)),
            ["DeviceDisappeared /dev/md/r5"]
        );
        assert_eq!(watch.look(&[], |_| false), []);
        array.level_number = 0;
        assert_eq!(
            watch.look(&[array.clone()], |_| false),
            [],
            "nothing to lose"
        );
        let named = Expected {
            name: "r5".into(),
            spares: None,
        };
        let mut watch = Watch::new(vec![named], false, 20);
        let looked = watch.look(&[array], |_| false);
        assert_eq!(
            words(&looked),
            ["DeviceDisappeared /dev/md/r5  Wrong-Level"]
        );
    }

    #[test]
    fn what_is_only_seen_is_told_from_the_difference() {
        let mut watch = all(20);
        let mut array = doc(&raid5());
        watch.look(&[array.clone()], |_| false);
        array.members[1].state = "faulty".into();
        let looked = watch.look(&[array.clone()], |_| false);
        assert_eq!(words(&looked), ["Fail /dev/md/r5 /tmp/b.img"]);
        array.members[1].state = "recovering".into();
        syncing(&mut array, "recover", 45.0);
        let looked = watch.look(&[array.clone()], |_| false);
        assert_eq!(
            words(&looked),
            ["RebuildStarted /dev/md/r5", "Rebuild40 /dev/md/r5"]
        );
        assert_eq!(watch.look(&[array.clone()], |_| false), []);
        array.sync = None;
        array.members[1].state = "in_sync".into();
        let looked = watch.look(&[array.clone()], |_| false);
        assert_eq!(
            words(&looked),
            [
                "SpareActive /dev/md/r5 /tmp/b.img",
                "RebuildFinished /dev/md/r5"
            ]
        );
        array.members[2].state = "spare".into();
        watch.look(&[array.clone()], |_| false);
        array.members[2].state = "faulty".into();
        let looked = watch.look(&[array], |_| false);
        assert_eq!(words(&looked), ["FailSpare /dev/md/r5 /tmp/c.img"]);
    }

    #[test]
    fn what_is_heard_is_told_once() {
        let mut watch = all(50);
        let mut array = doc(&raid5());
        watch.look(&[array.clone()], |_| true);
        let event = |event: &str, member: Option<&str>, text: &str| EventDoc {
            schema: 1,
            array: "r5".into(),
            event: event.into(),
            member: member.map(str::to_owned),
            text: text.into(),
        };
        let fail = event("Fail", Some("/tmp/b.img"), "write error");
        assert_eq!(
            words(&watch.heard(&fail, None)),
            ["Fail /dev/md/r5 /tmp/b.img"]
        );
        array.members[1].state = "faulty".into();
        assert_eq!(watch.look(&[array.clone()], |_| true), []);
        assert_eq!(watch.heard(&fail, None), []);
        let started = event("RebuildStarted", None, "check");
        assert_eq!(
            words(&watch.heard(&started, None)),
            ["RebuildStarted /dev/md/r5"]
        );
        syncing(&mut array, "check", 7.0);
        assert_eq!(watch.look(&[array.clone()], |_| true), []);
        array.sync = None;
        array.last_sync_action = Some("check".into());
        array.mismatch_cnt = 128;
        assert_eq!(
            watch.look(&[array.clone()], |_| true),
            [],
            "it will be heard"
        );
        let finished = event("RebuildFinished", None, "check done");
        assert_eq!(
            words(&watch.heard(&finished, Some(&array))),
            ["RebuildFinished /dev/md/r5  mismatches found: 128 (on raid level 5)"]
        );
        assert_eq!(watch.look(&[array.clone()], |_| true), []);
        // An end that was missed is told by the second look.
        watch.heard(&started, None);
        assert_eq!(watch.look(&[array.clone()], |_| true), []);
        assert_eq!(watch.look(&[array], |_| true).len(), 1);
    }

    #[test]
    fn missing_spares_are_told_once_until_they_are_back() {
        let one = Expected {
            name: "r5".into(),
            spares: Some(1),
        };
        let mut watch = Watch::new(vec![one], true, 20);
        let array = doc(&raid5());
        let looked = watch.look(std::slice::from_ref(&array), |_| false);
        assert_eq!(words(&looked), ["SparesMissing /dev/md/r5"]);
        assert_eq!(watch.look(&[array], |_| false), []);
        assert_eq!(words(&watch.test(&[])), ["TestMessage /dev/md/r5"]);
    }
}
