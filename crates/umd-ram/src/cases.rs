//! The loads whose instructions are counted.

use umd_format::Level;

use crate::{Load, Plane, Shape};

const MIB: u64 = 1 << 20;
/// Members here are of no bytes: their size costs nothing.
const MEMBER_BYTES: u64 = 256 * MIB;
/// Members as they are sold.
const VAST: u64 = 8 << 40;
/// Small enough for the warming up to have dirtied every region of it.
const SPAN: u64 = 32 * MIB;

/// A load on an array.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// As it is called in the file of counts.
    pub name: &'static str,
    /// The array.
    pub shape: Shape,
    /// The load.
    pub load: Load,
    /// Requests of the longer run beyond those of the shorter one.
    pub requests: u64,
}

/// All of them.
pub fn all() -> Vec<Case> {
    let array = |level, disks| Shape::new(level, disks, MEMBER_BYTES);
    let (raid0, raid1) = (array(Level::Raid0, 3), array(Level::Raid1, 2));
    let (raid5, raid6) = (array(Level::Raid5, 3), array(Level::Raid6, 6));
    let raid10 = array(Level::Raid10, 4);
    let marked = |shape: Shape| shape.with_bitmap(1 << 20);
    // What a request costs is to depend on the array as little as can be.
    let wide6 = array(Level::Raid6, 64);
    let vast1 = Shape::new(Level::Raid1, 2, VAST).with_bitmap(16 << 20);
    let vast5 = Shape::new(Level::Raid5, 3, VAST);
    let write = |name, shape| case(name, shape, load(true, true, 4096, 32), 2000);
    let read = |name, shape| case(name, shape, load(false, true, 4096, 32), 2000);
    let alone = |name, shape, write| case(name, shape, load(write, true, 4096, 1), 2000);
    let large = |name, shape| case(name, shape, load(true, false, MIB, 4), 60);
    let row = |name, shape| case(name, shape, load(true, false, 65536, 8), 400);
    vec![
        write("raid0x3 4K write", raid0),
        write("raid1x2 4K write", raid1),
        write("raid10x4 4K write", raid10),
        write("raid5x3 4K write", raid5),
        write("raid6x6 4K write", raid6),
        write("raid1x2 4K write, dirty bitmap", marked(raid1)),
        write("raid5x3 4K write, dirty bitmap", marked(raid5)),
        read("raid0x3 4K read", raid0),
        read("raid1x2 4K read", raid1),
        read("raid10x4 4K read", raid10),
        read("raid5x3 4K read", raid5),
        alone("raid1x2 4K read, one at a time", raid1, false),
        alone("raid1x2 4K write, one at a time", raid1, true),
        alone("raid5x3 4K write, one at a time", raid5, true),
        row("raid5x3 64K sequential write", raid5),
        row("raid6x6 64K sequential write", raid6),
        write("raid6x64 4K write", wide6),
        read("raid5x64 4K read", array(Level::Raid5, 64)),
        write("raid1x2 of 8 TiB 4K write, dirty bitmap", vast1),
        read("raid5x3 of 8 TiB 4K read", vast5),
        large("raid1x2 1M write", raid1),
        large("raid5x3 1M write", raid5),
        large("raid6x6 1M write", raid6),
    ]
}

fn case(name: &'static str, shape: Shape, load: Load, requests: u64) -> Case {
    Case {
        name,
        shape,
        load,
        requests,
    }
}

fn load(write: bool, random: bool, block: u64, depth: u64) -> Load {
    Load {
        write,
        random,
        block,
        depth,
        span: SPAN,
    }
}

impl Case {
    /// Starts the array, and serves enough for everything to have been asked for once. With
    /// `counted` the requests of the case follow.
    pub fn run(&self, counted: bool) {
        let mut plane = Plane::without_members(&self.shape);
        let warm = Load {
            write: true,
            random: false,
            block: MIB,
            ..self.load
        };
        plane.run(&warm, SPAN / MIB);
        plane.run(&self.load, self.requests / 4);
        if counted {
            plane.run(&self.load, self.requests);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_case_has_a_name_of_its_own() {
        let names: BTreeSet<_> = all().iter().map(|case| case.name).collect();
        assert_eq!(names.len(), all().len());
    }

    /// What is counted is what is meant: rows that are written whole read nothing; a small write of
    /// three disks with parity reads the other column, and of six the old data, P and Q.
    #[test]
    fn the_cases_do_what_their_names_say() {
        let traffic = |name: &str| {
            let case = all().into_iter().find(|case| case.name == name);
            let case = case.expect("a case");
            let mut plane = Plane::without_members(&case.shape);
            plane.run(&case.load, 96);
            let before = plane.traffic();
            plane.run(&case.load, 96);
            (plane.traffic() - before) as f64 / (96 * case.load.block) as f64
        };
        assert_eq!(traffic("raid0x3 4K write"), 1.0);
        assert_eq!(traffic("raid1x2 4K write"), 2.0);
        assert_eq!(traffic("raid1x2 4K write, dirty bitmap"), 2.0);
        assert_eq!(traffic("raid5x3 4K write"), 3.0);
        assert_eq!(traffic("raid6x6 4K write"), 6.0);
        assert_eq!(traffic("raid5x3 4K read"), 1.0);
        // Most of a stream is gathered: alone such a write moves three times its bytes, and six.
        let streams = ["raid5x3", "raid6x6"].map(|name| format!("{name} 64K sequential write"));
        let [five, six] = streams.map(|name| traffic(&name));
        eprintln!("streams move {five} and {six} times what they write");
        assert!((1.5..2.0).contains(&five), "{five}");
        assert!((1.5..3.0).contains(&six), "{six}");
        assert_eq!(traffic("raid5x3 1M write"), 1.5);
    }
}
