//! The members of a running array.

use std::cell::Cell;

use umd_format::v1::Features;
use umd_format::{Format, Role, SuperblockV1};

use super::read_errors::ReadErrors;
use crate::value::{MemberId, Slot};

/// What a member is to the array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// In a slot, with valid data everywhere.
    InSync,
    /// In a slot, valid below the offset that was last made durable.
    Recovering {
        /// Checkpoint, in sectors of its data.
        checkpoint_sectors: u64,
    },
    /// Without a slot.
    Spare,
    /// Failed; no I/O goes to it any more.
    Faulty,
}

/// One member. (kernel: `md_rdev`)
#[derive(Debug, Clone)]
pub struct Member {
    /// The driver's identity for it.
    pub id: MemberId,
    /// Its name for messages (a path).
    pub name: String,
    /// What it is.
    pub state: State,
    /// Its slot; faulty members keep the one they had for messages.
    pub slot: Option<Slot>,
    /// It is being filled to take the slot from the member in it, which serves meanwhile.
    pub replacement: bool,
    /// It is to be replaced as soon as there is a spare. (kernel: `WantReplacement`)
    pub want_replacement: bool,
    /// A spare that was named to replace the member in this slot.
    pub meant_for: Option<Slot>,
    /// Size of the device.
    pub size_sectors: u64,
    /// Logical block size of the device.
    pub logical_block_bytes: u32,
    /// Host reads avoid it.
    pub write_mostly: bool,
    /// Its superblock, as last written or about to be.
    pub superblock: SuperblockV1,
    /// Why it failed.
    pub fault: Option<String>,
    /// Its recent read errors.
    pub read_errors: ReadErrors,
    /// The writes that it refused lately.
    pub write_errors: ReadErrors,
}

impl Member {
    /// Its device number (kernel: `desc_nr`).
    pub fn number(&self) -> u32 {
        self.superblock.fields.dev_number
    }

    /// Where array data starts on it.
    pub fn data_offset_sectors(&self) -> u64 {
        self.superblock.fields.data_offset_sectors
    }

    /// How far a reshape that is under way moves its data, in sectors.
    pub fn moves_by_sectors(&self) -> i64 {
        let fields = &self.superblock.fields;
        let moves = Features::RESHAPE_ACTIVE.with(Features::NEW_OFFSET);
        match fields.features.contains(moves) {
            true if self.is_active() => i64::from(fields.new_offset_sectors),
            _ => 0,
        }
    }

    /// Whether it takes part in I/O with a slot.
    pub fn is_active(&self) -> bool {
        matches!(self.state, State::InSync | State::Recovering { .. })
    }

    /// The role that superblocks record for it.
    pub fn role(&self) -> Role {
        match (self.state, self.slot) {
            (State::InSync | State::Recovering { .. }, Some(slot)) => Role::Active(slot.0),
            (State::Faulty, _) => Role::Faulty,
            _ => Role::Spare,
        }
    }
}

/// What is asked of all members after every event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Summary {
    replacement: bool,
    wanted: bool,
    filled: bool,
    filled_in_own_slot: bool,
}

impl Summary {
    fn of(list: &[Member]) -> Summary {
        let filled = |m: &&Member| matches!(m.state, State::Recovering { .. });
        Summary {
            replacement: list.iter().any(|m| m.replacement),
            wanted: list.iter().any(|m| m.want_replacement),
            filled: list.iter().any(|m| filled(&m)),
            filled_in_own_slot: list.iter().filter(filled).any(|m| !m.replacement),
        }
    }
}

/// All members, in the order they were added.
#[derive(Debug, Clone, Default)]
pub struct Members {
    list: Vec<Member>,
    /// Known until somebody may change a member: there is no other way than by `list_mut`.
    summary: Cell<Option<Summary>>,
}

impl Members {
    /// The members of a starting array.
    pub fn new(list: Vec<Member>) -> Members {
        let members = Members {
            list,
            summary: Cell::new(None),
        };
        members.check();
        members
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Member> {
        self.list.iter()
    }

    fn list_mut(&mut self) -> &mut Vec<Member> {
        self.summary.set(None);
        &mut self.list
    }

    fn summary(&self) -> Summary {
        let known = self.summary.get();
        known.unwrap_or_else(|| {
            let summary = Summary::of(&self.list);
            self.summary.set(Some(summary));
            summary
        })
    }

    /// All of them, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Member> {
        self.list_mut().iter_mut()
    }

    /// The member with this identity.
    pub fn get(&self, id: MemberId) -> Option<&Member> {
        self.list.iter().find(|m| m.id == id)
    }

    /// The member with this identity, to be changed.
    pub fn get_mut(&mut self, id: MemberId) -> Option<&mut Member> {
        self.list_mut().iter_mut().find(|m| m.id == id)
    }

    /// The working member in a slot: who is to take it over does not count.
    pub fn in_slot(&self, slot: Slot) -> Option<&Member> {
        self.list
            .iter()
            .find(|m| m.slot == Some(slot) && m.is_active() && !m.replacement)
    }

    /// Who is to take over a slot.
    pub fn replacement_in(&self, slot: Slot) -> Option<&Member> {
        self.list
            .iter()
            .find(|m| m.slot == Some(slot) && m.is_active() && m.replacement)
    }

    /// Whether anybody is to take over the slot of another.
    pub fn any_replacement(&self) -> bool {
        self.summary().replacement
    }

    /// Whether anybody is to be replaced.
    pub fn any_wanted(&self) -> bool {
        self.summary().wanted
    }

    /// Whether anybody is being filled; without `replacements` they do not count.
    pub fn any_filled(&self, replacements: bool) -> bool {
        match replacements {
            true => self.summary().filled,
            false => self.summary().filled_in_own_slot,
        }
    }

    /// Members that serve, each with who is to take over its slot.
    pub fn pairs(&self) -> impl Iterator<Item = (&Member, &Member)> {
        let replacements = self.list.iter().filter(|m| m.is_active() && m.replacement);
        replacements.filter_map(|new| Some((self.in_slot(new.slot?)?, new)))
    }

    /// Sectors of the largest logical block: nothing smaller can be read from all members.
    pub fn block_sectors(&self) -> u64 {
        let blocks = self.list.iter().map(|m| m.logical_block_bytes / 512);
        u64::from(blocks.max().unwrap_or(1).max(1))
    }

    /// Takes a member in. Panics on an identity or number that is in use.
    pub fn push(&mut self, member: Member) {
        self.list_mut().push(member);
        self.check();
    }

    /// Takes a member out.
    pub fn remove(&mut self, id: MemberId) -> Option<Member> {
        let index = self.list.iter().position(|m| m.id == id)?;
        Some(self.list_mut().remove(index))
    }

    /// The lowest device number at or above `from` that nobody has.
    pub fn free_number(&self, from: u32) -> u32 {
        (from..)
            .find(|n| self.list.iter().all(|m| m.number() != *n))
            .expect("a free number")
    }

    /// How members are stored: all in one way.
    pub fn format(&self) -> Format {
        let first = self.list.first().expect("an array has members");
        first.superblock.format()
    }

    /// Numbers as version 0.90 has them: members in sync have that of their slot, all others
    /// follow behind the last slot, those that failed at the end.
    pub fn renumber(&mut self) {
        let slots = |m: &Member| m.superblock.fields.raid_disks;
        let mut next = self.list.first().map_or(0, slots);
        for failed in [false, true] {
            for member in self.list_mut() {
                let number = &mut member.superblock.fields.dev_number;
                match (member.state, member.slot) {
                    (State::InSync, Some(slot)) => *number = u32::from(slot.0),
                    (state, _) if (state == State::Faulty) == failed => {
                        *number = next;
                        next += 1;
                    }
                    _ => {}
                }
            }
        }
        self.check();
    }

    /// What must hold at any moment: identities and numbers are held once; slots, too, but for
    /// who is to take one over.
    pub fn check(&self) {
        let known = self.summary.get();
        let right = known.is_none_or(|known| known == Summary::of(&self.list));
        assert!(right, "what is known of all members is so");
        for (i, a) in self.list.iter().enumerate() {
            assert!(
                !a.is_active() || a.slot.is_some(),
                "an active member has a slot"
            );
            assert!(
                a.state != State::Spare || a.slot.is_none(),
                "a spare has no slot"
            );
            assert!(
                !a.replacement || matches!(a.state, State::Recovering { .. }),
                "who replaces another is being filled"
            );
            for b in &self.list[i + 1..] {
                assert!(a.id != b.id, "two members with one identity");
                assert!(
                    a.number() != b.number(),
                    "two members with one device number"
                );
                let both = a.is_active() && b.is_active();
                assert!(
                    !both || a.slot != b.slot || a.replacement != b.replacement,
                    "two members in slot {:?}",
                    a.slot
                );
            }
        }
    }
}
