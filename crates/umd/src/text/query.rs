//! `umd query`: one or two lines about a device or an array.

use crate::doc::ArrayDoc;
use crate::units::human_brief;

/// What is known of a member that was looked at.
#[derive(Debug, Clone, Copy)]
pub struct MemberFound<'a> {
    /// Its number in its array.
    pub number: u32,
    /// Slots of the array.
    pub raid_disks: u32,
    /// The array's level.
    pub level: &'a str,
    /// The name the array runs under, if it runs here.
    pub running_as: Option<&'a str>,
}

/// The line for a running array.
pub fn array(title: &str, array: &ArrayDoc) -> String {
    format!(
        "{title}: {} {} {} devices, {} spare{}. Use umd detail for more detail.\n",
        human_brief(array.array_bytes),
        array.level,
        array.raid_disks,
        array.spare_devices(),
        if array.spare_devices() == 1 { "" } else { "s" }
    )
}

/// The lines for anything that is no array.
pub fn device(title: &str, member: Option<MemberFound<'_>>) -> String {
    let mut out = format!("{title}: is not an md array\n");
    if let Some(member) = member {
        let state = match member.running_as {
            Some(name) => format!("active {} {name}", member.level),
            None => format!("inactive {} array", member.level),
        };
        out.push_str(&format!(
            "{title}: device {} in {} device {state}.  Use umd examine for more detail.\n",
            member.number, member.raid_disks
        ));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doc::tests::{doc, raid5};

    #[test]
    fn arrays_members_and_strangers() {
        assert_eq!(
            array("r5", &doc(&raid5())),
            "r5: 126.00MiB raid5 3 devices, 0 spares. Use umd detail for more detail.\n"
        );
        assert_eq!(device("d0.img", None), "d0.img: is not an md array\n");
        let mut found = MemberFound {
            number: 0,
            raid_disks: 3,
            level: "raid5",
            running_as: None,
        };
        assert_eq!(
            device("d0.img", Some(found)),
            "d0.img: is not an md array\n\
             d0.img: device 0 in 3 device inactive raid5 array.  \
             Use umd examine for more detail.\n"
        );
        found.running_as = Some("r5");
        assert!(device("d0.img", Some(found)).contains("3 device active raid5 r5.  Use"));
    }
}
