//! Spares that move: an array that lacks a member and has no spare gets one of another array that
//! lacks none. Pure.
//!
//! ```text
//!   ARRAY r1 spare-group=g        r1 [UU] + spare  --move--> r5 [U_U]
//!   ARRAY r5 spare-group=g
//!   POLICY domain=g path=...      devices of one domain: of arrays whose members are in it
//! ```
//!
//! Arrays lend each other spares only if a line of the configuration says so.

use std::collections::BTreeSet;

use crate::conf::{ArrayLine, ArrayName, Config, glob};
use crate::doc::{ArrayDoc, MemberDoc};

/// A spare that should go elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// The array that has it.
    pub from: String,
    /// The array that needs it.
    pub to: String,
    /// Its path.
    pub device: String,
}

/// The configuration, as far as spares may move by it.
pub struct Sharing<'a> {
    config: &'a Config,
    /// What else a device is called: its names in /dev/disk/by-path.
    names: &'a dyn Fn(&str) -> Vec<String>,
}

impl<'a> Sharing<'a> {
    /// Spares move as `config` says.
    pub fn new(config: &'a Config, names: &'a dyn Fn(&str) -> Vec<String>) -> Sharing<'a> {
        Sharing { config, names }
    }

    /// Spares that should move now: one at the most for each array that needs one.
    pub fn moves(&self, arrays: &[ArrayDoc]) -> Vec<Move> {
        let mut moves: Vec<Move> = Vec::new();
        for to in arrays.iter().filter(|array| needs_spare(array)) {
            let found = arrays.iter().filter(|from| has_spare_to_give(from));
            let found = found.flat_map(|from| spares(from).map(move |spare| (from, spare)));
            let mut found = found.filter(|(from, spare)| {
                let taken = moves.iter().any(|one| one.device == spare.path);
                !taken && from.name != to.name && is_large_enough(spare, to)
            });
            if let Some((from, spare)) = found.find(|(from, spare)| self.lends(from, spare, to)) {
                moves.push(Move {
                    from: from.name.clone(),
                    to: to.name.clone(),
                    device: spare.path.clone(),
                });
            }
        }
        moves
    }

    /// Whether an array may give this spare to another one: they are of one group, or the spare is
    /// of no domain that the members of the other one are not of, and of one at least.
    fn lends(&self, from: &ArrayDoc, spare: &MemberDoc, to: &ArrayDoc) -> bool {
        let group = |array| {
            self.line(array)
                .and_then(|line| line.spare_group.as_deref())
        };
        if group(from).is_some() && group(from) == group(to) {
            return true;
        }
        let serving = to.members.iter().filter(|member| member.state == "in_sync");
        let there: BTreeSet<&str> = serving.flat_map(|one| self.domains(&one.path)).collect();
        let own = self.domains(&spare.path);
        !own.is_empty() && own.iter().all(|domain| there.contains(domain))
    }

    /// The line that is about an array.
    fn line(&self, array: &ArrayDoc) -> Option<&ArrayLine> {
        let uuid = array.uuid.parse().ok();
        self.config.arrays.iter().find(|line| match line.uuid {
            Some(one) => Some(one) == uuid,
            None if line.name == ArrayName::Named(array.name.clone()) => true,
            None => line.set_name.as_ref() == Some(&array.set_name),
        })
    }

    /// The domains that `POLICY` lines put a device in.
    fn domains(&self, path: &str) -> BTreeSet<&str> {
        let mut domains = BTreeSet::new();
        for policy in &self.config.policies {
            let said = |key: &'static str| {
                let words = policy.words.iter();
                words
                    .filter(move |(word, _)| word == key)
                    .map(|(_, value)| value.as_str())
            };
            let mut patterns = said("path").peekable();
            let known = patterns.peek().is_none() || patterns.any(|one| self.is_at(path, one));
            // What kind of device it is, and what is on it, nobody has looked.
            let asks_more = said("type").chain(said("metadata")).next().is_some();
            if known && !asks_more {
                domains.extend(said("domain"));
            }
        }
        domains
    }

    fn is_at(&self, path: &str, pattern: &str) -> bool {
        let fits = |name: &str| {
            let (names, patterns) = (name.split('/'), pattern.split('/'));
            names.clone().count() == patterns.clone().count()
                && names
                    .zip(patterns)
                    .all(|(name, part)| glob::matches(part, name))
        };
        fits(path) || (self.names)(path).iter().any(|name| fits(name))
    }
}

fn spares(array: &ArrayDoc) -> impl Iterator<Item = &MemberDoc> {
    let members = array.members.iter();
    members.filter(|member| member.state == "spare" && !member.replacement)
}

/// It runs, lacks a member, and has nobody to step in.
fn needs_spare(array: &ArrayDoc) -> bool {
    let helps = |member: &MemberDoc| matches!(member.state.as_str(), "spare" | "recovering");
    let can = matches!(array.level_number, 1 | 4 | 5 | 6 | 10)
        && matches!(
            array.array_state.as_str(),
            "clean" | "active" | "write-pending" | "active-idle"
        );
    can && array.degraded > 0 && array.overlay.is_none() && !array.members.iter().any(helps)
}

/// It lacks nothing itself.
fn has_spare_to_give(array: &ArrayDoc) -> bool {
    let can = matches!(
        array.array_state.as_str(),
        "clean" | "active" | "write-pending" | "active-idle"
    );
    can && array.degraded == 0 && array.overlay.is_none()
}

/// What an array uses of each member fits on the spare, with what lies before it.
fn is_large_enough(spare: &MemberDoc, to: &ArrayDoc) -> bool {
    let ends = to.members.iter().map(|member| member.data_offset_bytes);
    let needed = ends.min().unwrap_or(0) + to.dev_bytes.unwrap_or(0);
    spare.data_offset_bytes + spare.data_size_bytes >= needed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doc::tests::{doc, member, raid5};
    use umd_core::array::MemberRole;

    /// An array of three in sync, `degraded` or with spares.
    fn array(name: &str, degraded: bool, spares: usize) -> ArrayDoc {
        let mut status = raid5();
        if degraded {
            status.degraded = 1;
            status.members[2] = member(2, Some(2), MemberRole::Faulty);
        }
        for number in 0..spares {
            status
                .members
                .push(member(3 + number as u32, None, MemberRole::Spare));
        }
        for one in &mut status.members {
            one.name = format!("/dev/{name}-{}", one.number);
        }
        status.uuid = [name.len() as u8; 16];
        ArrayDoc {
            name: name.into(),
            ..doc(&status)
        }
    }

    fn moves(text: &str, arrays: &[ArrayDoc]) -> Vec<Move> {
        let mut config = Config::default();
        config.read("test", text, &mut Vec::new());
        let by_path = |path: &str| vec![format!("pci-{}", path.trim_start_matches("/dev/"))];
        Sharing::new(&config, &by_path).moves(arrays)
    }

    fn moved(from: &str, to: &str, device: &str) -> Move {
        Move {
            from: from.into(),
            to: to.into(),
            device: device.into(),
        }
    }

    const GROUP: &str = "ARRAY a name=a spare-group=g\nARRAY bb name=bb spare-group=g\n\
        ARRAY ccc name=ccc spare-group=g\n";

    #[test]
    fn an_array_that_lacks_a_member_gets_the_spare_of_one_that_does_not() {
        let (poor, rich) = (array("a", true, 0), array("bb", false, 2));
        let both = [poor.clone(), rich.clone()];
        assert_eq!(moves(GROUP, &both), [moved("bb", "a", "/dev/bb-3")]);
        // Two in need do not get the same one.
        let all = [poor.clone(), rich.clone(), array("ccc", true, 0)];
        let expected = [
            moved("bb", "a", "/dev/bb-3"),
            moved("bb", "ccc", "/dev/bb-4"),
        ];
        assert_eq!(moves(GROUP, &all), expected);
        let by_uuid = format!(
            "ARRAY x uuid={} spare-group=g\nARRAY bb name=bb spare-group=g",
            poor.uuid
        );
        assert_eq!(moves(&by_uuid, &both).len(), 1);
    }

    #[test]
    fn nothing_moves_unasked_or_from_who_needs_it() {
        let (poor, rich) = (array("a", true, 0), array("bb", false, 1));
        for text in [
            "",
            "ARRAY a name=a spare-group=g\nARRAY bb name=bb spare-group=h\n",
            "ARRAY a name=a\nARRAY bb name=bb\n",
        ] {
            assert_eq!(moves(text, &[poor.clone(), rich.clone()]), [], "{text}");
        }
        let none = |to: ArrayDoc, from: ArrayDoc| assert_eq!(moves(GROUP, &[to, from]), []);
        none(array("a", false, 0), rich.clone());
        none(array("a", true, 1), rich.clone());
        none(poor.clone(), array("bb", true, 1));
        none(poor.clone(), array("bb", false, 0));
        let states = ["readonly", "read-auto", "broken", "frozen", "inactive"];
        for state in states {
            let with = |array: &ArrayDoc| ArrayDoc {
                array_state: state.into(),
                ..array.clone()
            };
            none(with(&poor), rich.clone());
            none(poor.clone(), with(&rich));
        }
        let mut filling = array("a", true, 1);
        filling.members[3].state = "recovering".into();
        none(filling, rich.clone());
        let mut small = rich.clone();
        small.members[3].data_size_bytes = poor.dev_bytes.expect("a size") - 512;
        none(poor, small);
    }

    #[test]
    fn domains_say_which_devices_stand_in_for_each_other() {
        let arrays = [array("a", true, 0), array("bb", false, 1)];
        let shared = [moved("bb", "a", "/dev/bb-3")];
        for (text, expected) in [
            ("POLICY domain=d path=/dev/*\n", &shared[..]),
            ("POLICY domain=d\n", &shared[..]),
            ("POLICY domain=d path=pci-*\n", &shared[..]),
            ("POLICY domain=d path=/dev/a-*\n", &[]),
            ("POLICY domain=d path=/dev/bb-*\n", &[]),
            ("POLICY domain=d path=/*\n", &[]),
            ("POLICY domain=d type=disk\n", &[]),
            // Whoever is of two domains serves no array that is of one.
            ("POLICY domain=d\nPOLICY domain=e path=/dev/bb-*\n", &[]),
        ] {
            assert_eq!(moves(text, &arrays), expected, "{text}");
        }
    }
}
