//! Superblock bytes from the members' state.

use umd_format::Role;
use umd_format::v1::{Features, Listed, UnixTime};

use crate::member::{Member, Members, State};
use crate::value::{Events, MemberId, Pool, Slice};

/// What all superblocks of one update have in common.
#[derive(Debug, Clone, Copy)]
pub struct Head {
    /// The generation.
    pub events: Events,
    /// Wall clock.
    pub utime_seconds: u64,
    /// Everything below this agrees.
    pub resync_offset_sectors: u64,
    /// The array is that of a cluster.
    pub clustered: bool,
}

/// One superblock to write.
#[derive(Debug)]
pub struct Part {
    /// On whom.
    pub member: MemberId,
    /// Whether that member is in sync.
    pub in_sync: bool,
    /// Where.
    pub sector: u64,
    /// What.
    pub bytes: Slice,
}

/// The superblocks of all members that still work; none where there are none.
pub fn encode_all(pool: &Pool, members: &mut Members, head: Head) -> Vec<Part> {
    let format = members.format();
    if !format.is_stored() {
        return Vec::new();
    }
    if !format.keeps_members_apart() {
        members.renumber();
    }
    let roles = role_table(members);
    let listed = listed(members);
    let working = members.iter_mut().filter(|m| m.state != State::Faulty);
    working
        .map(|member| encode(pool, member, (&roles, &listed), head))
        .collect()
}

/// What is recorded of a member. One that is being rebuilt has its slot only where it is recorded,
/// too, how far the rebuild got: elsewhere it would be taken for whole.
fn recorded_role(member: &Member) -> Role {
    let partly = matches!(member.state, State::Recovering { .. });
    match partly && !member.superblock.format().keeps_members_apart() {
        true => Role::Spare,
        false => member.role(),
    }
}

/// By device number. Numbers of members that left are free again.
fn role_table(members: &Members) -> Vec<Role> {
    let numbers = members.iter().map(|m| m.number() as usize + 1);
    let kept = members.iter().map(|m| m.superblock.fields.roles.len());
    let mut roles = vec![Role::Spare; numbers.chain(kept).max().unwrap_or(0)];
    for member in members.iter() {
        assert!(
            roles[member.number() as usize] == Role::Spare,
            "a device number is given once"
        );
        roles[member.number() as usize] = recorded_role(member);
    }
    roles
}

/// Everybody, as version 0.90 lists them.
fn listed(members: &Members) -> Vec<Listed> {
    let one = |member: &Member| Listed {
        number: member.number(),
        node: member.superblock.fields.node,
        role: recorded_role(member),
        flags: member.superblock.fields.flags,
    };
    members.iter().map(one).collect()
}

fn encode(
    pool: &Pool,
    member: &mut Member,
    (roles, listed): (&[Role], &[Listed]),
    head: Head,
) -> Part {
    let role = recorded_role(member);
    member
        .superblock
        .set_members(roles.to_vec(), listed.to_vec());
    let format = member.superblock.format();
    let fields = &mut member.superblock.fields;
    assert!(fields.events <= head.events.0, "events only rise");
    fields.events = head.events.0;
    fields.utime = UnixTime::from_seconds(head.utime_seconds);
    fields.resync_offset_sectors = head.resync_offset_sectors;
    assert_eq!(fields.own_role(), role, "a member is told its own role");
    let partly = Features::RECOVERY_OFFSET;
    // Who comes back from a cluster that the array has left since says so from now on.
    let gone = Features::REPLACEMENT.with(Features::CLUSTERED);
    fields.features = fields.features.without(gone);
    if head.clustered {
        fields.features = fields.features.with(Features::CLUSTERED);
    }
    if member.replacement && format.keeps_members_apart() {
        fields.features = fields.features.with(Features::REPLACEMENT);
    }
    match member.state {
        State::Recovering { checkpoint_sectors } if format.keeps_members_apart() => {
            fields.features = fields.features.with(partly);
            fields.recovery_offset_raw = checkpoint_sectors;
        }
        _ => {
            fields.features = fields
                .features
                .without(partly)
                .without(Features::RECOVERY_BITMAP);
            fields.recovery_offset_raw = 0;
        }
    }
    let sector = fields.super_offset_sectors;
    assert!(
        sector < member.size_sectors,
        "a superblock lies on its device"
    );
    let bytes = member
        .superblock
        .encode(member.logical_block_bytes as usize);
    Part {
        member: member.id,
        in_sync: member.state == State::InSync,
        sector,
        bytes: pool.copy_of(&bytes),
    }
}
