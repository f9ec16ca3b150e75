//! Sparse members: whether their filesystems have the room that they may come to need.
//!
//! ```text
//!   a.img: 64 MiB, 10 of them there --+
//!                                     +--> filesystem: 30 MiB free, 108 MiB may be wanted
//!   b.img: 64 MiB, 10 of them there --+
//! ```
//!
//! Where it runs out, writes fail and with them members; on one filesystem all of them at about
//! the same time. So it is said when they start.

use std::collections::BTreeMap;

use umd_disk::{MemberFile, Room};

use crate::units::human;

/// A sentence for each filesystem that is too small for what its members may come to need.
pub fn warnings<'a>(members: impl Iterator<Item = &'a MemberFile>) -> Vec<String> {
    let rooms = members.filter_map(|member| {
        let path = member.path().display().to_string();
        Some((path, member.room()?))
    });
    sentences(rooms)
}

fn sentences(rooms: impl Iterator<Item = (String, Room)>) -> Vec<String> {
    let mut filesystems: BTreeMap<u64, (String, Room)> = BTreeMap::new();
    for (path, room) in rooms {
        let (_, sum) = filesystems.entry(room.filesystem).or_insert_with(|| {
            let nothing = Room {
                wanted_bytes: 0,
                ..room
            };
            (path, nothing)
        });
        sum.wanted_bytes = sum.wanted_bytes.saturating_add(room.wanted_bytes);
        sum.free_bytes = sum.free_bytes.min(room.free_bytes);
    }
    let short = filesystems
        .into_values()
        .filter(|(_, sum)| sum.wanted_bytes > sum.free_bytes);
    short
        .map(|(path, sum)| {
            format!(
                "the filesystem of {path} has {} free, and sparse members on it may come to need \
                 {}: once it is full, writes to them fail, and so do they",
                human(sum.free_bytes),
                human(sum.wanted_bytes)
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(filesystem: u64, wanted_mib: u64, free_mib: u64) -> (String, Room) {
        let room = Room {
            filesystem,
            wanted_bytes: wanted_mib << 20,
            free_bytes: free_mib << 20,
        };
        (format!("/fs{filesystem}/{wanted_mib}.img"), room)
    }

    #[test]
    fn members_of_one_filesystem_share_its_room() {
        let rooms = [
            room(1, 60, 100),
            room(2, 99, 100),
            room(1, 61, 100),
            room(3, 0, 0),
        ];
        assert_eq!(
            sentences(rooms.into_iter()),
            [
                "the filesystem of /fs1/60.img has 100.0 MiB free, and sparse members on it may \
                 come to need 121.0 MiB: once it is full, writes to them fail, and so do they"
            ]
        );
        assert_eq!(sentences([room(1, 100, 100)].into_iter()).len(), 0);
    }
}
