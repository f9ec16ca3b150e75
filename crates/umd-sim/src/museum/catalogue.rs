//! What is in the museum.

use umd_core::value::Exhibit;

use super::hosts::CLUSTERS;
use super::ours::OURS;
use crate::monitor::Rule;

/// An exhibit.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// Its switch.
    pub exhibit: Exhibit,
    /// Where it was mended: commits of the kernel or a mailing list, or our own.
    pub source: &'static str,
    /// The title there.
    pub title: &'static str,
    /// What went wrong, in our words.
    pub story: &'static str,
    /// The rule it was expected to break.
    pub expected: &'static str,
    /// The rule that its scene breaks.
    pub scripted: Rule,
}

pub(super) const fn entry(
    exhibit: Exhibit,
    (source, title): (&'static str, &'static str),
    story: &'static str,
    expected: &'static str,
    scripted: Rule,
) -> Entry {
    Entry {
        exhibit,
        source,
        title,
        story,
        expected,
        scripted,
    }
}

/// All of them.
pub fn catalogue() -> impl Iterator<Item = &'static Entry> + Clone {
    RAID.iter().chain(CORE).chain(CLUSTERS).chain(OURS)
}

/// The exhibit with this name.
pub fn by_name(name: &str) -> Option<&'static Entry> {
    catalogue().find(|entry| format!("{:?}", entry.exhibit) == name)
}

use Exhibit::*;

const RAID: &[Entry] = &[
    entry(
        M01,
        (
            "c84a1372df92",
            "md/raid0: avoid RAID0 data corruption due to layout confusion.",
        ),
        "Two ways of placing chunks were in use for members of unequal size, and nothing on the \
         members said which. Here the layout that is stored is not looked at.",
        "bijection, golden image",
        Rule::Ack,
    ),
    entry(
        M02,
        (
            "e836007089ba",
            "md/raid0: add discard support for the 'original' layout",
        ),
        "Discards were mapped by the other layout, and trimmed live neighbours.",
        "Content",
        Rule::Content,
    ),
    entry(
        M03,
        (
            "47d68979cc96",
            "md/raid0: fix bug with chunksize not a power of 2.",
        ),
        "A division in place left its quotient in the variable that was used as the sector \
         afterwards.",
        "bijection",
        Rule::Ack,
    ),
    entry(
        M05,
        (
            "e555190d82c0",
            "md/raid1: delay reads that could overtake behind-writes.",
        ),
        "Reads that only a write-mostly member could serve overtook writes that had been answered \
         and had not landed there.",
        "G5",
        Rule::Source,
    ),
    entry(
        M06,
        (
            "3e148a320979",
            "md/raid1: fix potential data inconsistency issue with write behind device",
        ),
        "Of two overlapping writes that lagged the first could land last.",
        "G6, G11",
        Rule::Overlap,
    ),
    entry(
        M07,
        ("20cecae877a6", "md/raid1: check bitmap before behind write"),
        "Writes lagged in an array without a bitmap, where nobody counted them and nobody waited \
         for them.",
        "G5",
        Rule::Ack,
    ),
    entry(
        M08,
        (
            "46669e8616c6",
            "md/raid1: fix missing bitmap update w/o WriteMostly devices",
        ),
        "The call that marks the bitmap had moved into a branch for write-mostly members. Here \
         no write marks anything.",
        "G1",
        Rule::Intent,
    ),
    entry(
        M09,
        (
            "2417b9869b81",
            "md/raid1: properly indicate failure when ending a failed write request",
        ),
        "A write that had missed a member ended as a plain success, so its bit was cleared.",
        "G2",
        Rule::Clear,
    ),
    entry(
        M10,
        (
            "55ce74d4bfe1",
            "md/raid1: ensure device failure recorded before write request returns.",
        ),
        "A write was answered before the failure it had met was on the survivors: after a power \
         cut the failed member could win.",
        "G3, G4",
        Rule::Quarantine,
    ),
    entry(
        M11,
        (
            "203d27b0226a",
            "md/raid1: submit_bio_wait() returns 0 on success",
        ),
        "The result of writing again what had failed was taken the wrong way round. Here: the \
         rewrite of a sector that could not be read.",
        "Content",
        Rule::Quarantine,
    ),
    entry(
        M12,
        (
            "bd8688a199b8",
            "md/raid1: don't clear bitmap bit when bad-block-list write fails.",
        ),
        "A range that could not be recorded as bad counted as recorded. Here: the log of a member \
         that is being rebuilt takes no writes.",
        "G2",
        Rule::Checkpoint,
    ),
    entry(
        M13,
        (
            "3056e3aec8d8",
            "md/raid1: consider WRITE as successful only if at least one non-Faulty and \
             non-rebuilding drive completed it.",
        ),
        "A write that only a member being rebuilt had taken was answered as done. Such a member \
         is not read.",
        "G3",
        Rule::Ack,
    ),
    entry(
        M14,
        (
            "2f73d3c55d09",
            "md/raid1: make sure resync waits for conflicting writes to complete.",
        ),
        "A resync read old data, a write landed, and the resync put the old data back.",
        "G6",
        Rule::Overlap,
    ),
    entry(
        M15,
        (
            "c6d119cf1b5a",
            "md/raid1: be more cautious where we read-balance during resync.",
        ),
        "Reads were spread over members that the resync had not passed yet: two reads, two \
         versions.",
        "G5",
        Rule::Source,
    ),
    entry(
        M16,
        (
            "c916ca353088",
            "md/raid1: Fix data corruption for degraded array with slow disk",
        ),
        "With only a write-mostly member in sync, reads fell back to one that was being rebuilt.",
        "G5",
        Rule::Source,
    ),
    entry(
        M17,
        (
            "36a5c03f2327",
            "md/raid1: set max_sectors during early return from choose_slow_rdev()",
        ),
        "Only where a read began was looked for bad blocks, and it went on into them. Here on \
         every level.",
        "7.1",
        Rule::Content,
    ),
    entry(
        M18,
        (
            "93dec51e716d",
            "md/raid1: fix data lost for writemostly rdev",
        ),
        "The copy of a request for a write-mostly member lost its operation and became a read. \
         Here commands are made whole; the write to such a member is a read instead.",
        "G11",
        Rule::Ack,
    ),
    entry(
        M19,
        (
            "b7c178d9e57c",
            "md/raid1: Add check for missing source disk in process_checks()",
        ),
        "A check went on to compare although no member could be read.",
        "Panic",
        Rule::Panic,
    ),
    entry(
        M20,
        (
            "e7c0c3fa2928",
            "md/raid10: close race that lose writes lost when replacement completes.",
        ),
        "The original was marked faulty before its replacement was in its slot: writes in between \
         went to neither.",
        "G3",
        Rule::Quarantine,
    ),
    entry(
        M21,
        (
            "2ae6aaf76912",
            "md/raid10: fix io loss while replacement replace rdev",
        ),
        "The original was taken out before its replacement was in its slot: reads in between found \
         neither.",
        "G3",
        Rule::Error,
    ),
    entry(
        M22,
        (
            "7fcc7c8acf0f",
            "md/raid10: Fix bug when activating a hot-spare.",
        ),
        "A spare took the slot of a member that worked, not the empty one.",
        "G7, G11",
        Rule::Liveness,
    ),
    entry(
        M25,
        (
            "linux-raid 2023-06-02",
            "md/raid10: Do not add spare disk when recovery fails",
        ),
        "What no source could give was given up, and the rebuild was over all the same. Here on \
         every level.",
        "G8",
        Rule::Checkpoint,
    ),
    entry(
        M26,
        ("d30588b2731f", "md/raid10: improve raid10 discard request"),
        "A discard that began within a chunk began at its start on every copy but the first, and \
         trimmed what was alive there.",
        "7.1, G11",
        Rule::Ack,
    ),
    entry(
        M27,
        (
            "8bce6d35b308",
            "md/raid10: Fix the 'new' raid10 layout to work correctly.",
        ),
        "Far sets were cut so that two copies of a chunk lay on one member. Here every far copy \
         lies where the first one does.",
        "layout property",
        Rule::Ack,
    ),
    entry(
        M28r,
        (
            "6d7689317156",
            "md/raid10: fix two problems with RAID10 resync.",
        ),
        "What a resync wrote to copies that differed had no length, and they went on differing.",
        "G11",
        Rule::Clear,
    ),
    entry(
        M28,
        (
            "7c785b7a18dc",
            "md: fix some small races in bitmap plugging in raid5",
        ),
        "The number of the batch was taken before the bit was set, so a write went on with a \
         batch that did not carry its bit.",
        "G1",
        Rule::Intent,
    ),
    entry(
        M29,
        (
            "d0852df543e5",
            "md/raid5: close race between STRIPE_BIT_DELAY and batching.",
        ),
        "A write joined a region whose bit was being set, and did not wait for it.",
        "G1",
        Rule::Intent,
    ),
    entry(
        M30,
        (
            "9c4bdf697c39",
            "md/raid6: avoid data corruption during recovery of double-degraded RAID6",
        ),
        "With two members missing and one of them being rebuilt, a write used what that one did \
         not hold yet.",
        "G11, G5",
        Rule::Source,
    ),
    entry(
        M31,
        (
            "4f4fd7c5798b, undone by a25d8c327bb4",
            "Don't jump to compute_result state from check_result state",
        ),
        "The rebuild of one member of a RAID6 wrote its buffer before anything was computed into \
         it.",
        "G11",
        Rule::Checkpoint,
    ),
    entry(
        M33,
        ("e0a115e5aa55", "md: fix prexor vs sync_request race"),
        "The end of a write was taken for the end of the resync of its stripe.",
        "G8, G11",
        Rule::Clear,
    ),
    entry(
        M34,
        (
            "f8dfcffd0472",
            "md/raid5: ensure sync and DISCARD don't happen at the same time.",
        ),
        "A resync looked at stripes that were being discarded.",
        "G11, Liveness",
        Rule::Overlap,
    ),
    entry(
        M35,
        (
            "d63e2fc804c4",
            "md/raid5: fix data corruption of replacements after originals dropped",
        ),
        "The original vanished while it was being replaced, and reads trusted what of its \
         replacement had not been filled yet.",
        "G5",
        Rule::Checkpoint,
    ),
    entry(
        M36,
        (
            "e5c86471f933",
            "md/raid5: fix calculate of 'degraded' when a replacement becomes active.",
        ),
        "The count of missing members was wrong. Here: one that is being rebuilt counts as whole, \
         and bits are cleared.",
        "G7, G2",
        Rule::Clear,
    ),
    entry(
        M37,
        (
            "linux-raid 2022-07-07",
            "md/raid5: Fix sectors_to_do bitmap overflow in raid5_make_request()",
        ),
        "An unaligned request touched one stripe more than there was room for; the last one was \
         not written.",
        "Content, G3",
        Rule::Ack,
    ),
    entry(
        M41,
        (
            "a40687ff73a5",
            "md/raid5: avoid livelock caused by non-aligned writes.",
        ),
        "Who chose what to load and who said what was lacking did not agree, and went round for \
         ever.",
        "Liveness",
        Rule::Liveness,
    ),
    entry(
        M42,
        (
            "5e2cf333b7bd",
            "md/raid5: Wait for MD_SB_CHANGE_PENDING in raid5d",
        ),
        "Who had to write the superblocks waited for requests that waited for the superblocks.",
        "Liveness",
        Rule::Liveness,
    ),
    entry(
        M43,
        (
            "873f50ece41a",
            "md: fix data corruption for raid456 when reshape restart while grow up",
        ),
        "A reshape that had been interrupted began again at its beginning, over what it had moved \
         already.",
        "G9",
        Rule::Content,
    ),
    entry(
        M44,
        (
            "0aecb06e2249",
            "md/raid5: don't allow replacement while reshape is in progress/not done",
        ),
        "A member was replaced while a reshape was under way. After the next start the array could \
         not be assembled any more.",
        "it assembles",
        Rule::Error,
    ),
    entry(
        M47,
        (
            "25b3a8237a03",
            "md/raid5: recheck if reshape has finished with device_lock held",
        ),
        "How far a reshape was had been read before the lock under which that counts, and again \
         after it; a request was mapped by the geometry of before.",
        "G9",
        Rule::Ack,
    ),
    entry(
        M48,
        (
            "486f60558607",
            "md/raid5: Check all disks in a stripe_head for reshape progress",
        ),
        "Only the first sector of what was looked at told on which side of a reshape it lay, and \
         it lay on both.",
        "G9",
        Rule::Reshape,
    ),
];

const CORE: &[Entry] = &[
    entry(
        M51,
        (
            "1a855a060665",
            "md: fix bug with re-adding of partially recovered device.",
        ),
        "A member that was half rebuilt, taken out and put back lacked only what the bitmap \
         marks, it was thought.",
        "G5, G7",
        Rule::Checkpoint,
    ),
    entry(
        M52,
        (
            "8c2e870a625b",
            "Ensure interrupted recovery completed properly (v1 metadata plus bitmap)",
        ),
        "After a restart in the middle of a rebuild the bitmap was clean, so the rebuild was over \
         at once.",
        "G8",
        Rule::Checkpoint,
    ),
    entry(
        M53,
        (
            "133d4527eab8",
            "md: flush writes before starting a recovery.",
        ),
        "A rebuild began while writes that did not know the new member were on their way.",
        "G8, G11",
        Rule::Ack,
    ),
    entry(
        M54,
        (
            "dc1cc22ed58f",
            "md: Whenassemble the array, consult the superblock of the freshest device",
        ),
        "A member one update behind was taken as in sync although that very update said that it \
         had failed.",
        "G7",
        Rule::Content,
    ),
    entry(
        M55,
        (
            "6a5cb53aaa4e",
            "md: no longer compare spare disk superblock events in super_load",
        ),
        "After the members with data had dropped out, the one being rebuilt kept counting events, \
         and made them look stale.",
        "G7",
        Rule::Events,
    ),
    entry(
        M56,
        (
            "a0da84f35b25",
            "Improve setting of \"events_cleared\" for write-intent bitmaps.",
        ),
        "events_cleared did not follow the clearing of bits. Here in the direction that loses \
         data: bits go, it stays, and an old member is taken back.",
        "G2",
        Rule::Checkpoint,
    ),
    entry(
        M57,
        (
            "4aaf7694f841",
            "md/bitmap: don't read page from device with Bitmap_sync",
        ),
        "The bitmap was read from the member that was to be brought up to date by it. (Here such \
         a member is given a copy of the bits first; that is left out as well.)",
        "G1, G7",
        Rule::Checkpoint,
    ),
    entry(
        M58,
        (
            "7202082b7b7a",
            "md: prevent incorrect update of resync/recovery offset",
        ),
        "The offset went on past sectors that could not be read.",
        "G8",
        Rule::Checkpoint,
    ),
    entry(
        M59,
        ("ab99a87542f1", "md/md-bitmap: fix writing non bitmap pages"),
        "The last write of the bitmap was rounded up and carried foreign memory past its end.",
        "Extent",
        Rule::Extent,
    ),
    entry(
        M60,
        (
            "4b10a3bc67c1",
            "md: ensure resync is prioritized over recovery",
        ),
        "A disk that was added during a resync took its place: what was rebuilt was a copy of \
         data that did not agree, and the resync was forgotten.",
        "G8",
        Rule::Clear,
    ),
    entry(
        M61,
        ("b75197e86e6d", "md: Remove flush handling"),
        "A member's flush failed, and the host was told that all was well.",
        "G12",
        Rule::Quarantine,
    ),
    entry(
        M62,
        ("062f5b2ae12a", "md: don't set In_sync if array is frozen"),
        "A disk added to a frozen array was called in sync, with nothing on it.",
        "G5",
        Rule::Source,
    ),
    entry(
        M63,
        (
            "linux-raid 2025-02",
            "badblocks: return error if any badblock set fails",
        ),
        "A range for which the log had no room left was lost, and the rebuild went on.",
        "G5",
        Rule::Checkpoint,
    ),
];
