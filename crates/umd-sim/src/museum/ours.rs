//! What is in the museum: the mistakes that were made here.
//!
//! ```text
//!   found by the simulator or in review --> mended, in the commit that is named --> told here
//! ```

use umd_core::value::Exhibit::*;

use super::catalogue::{Entry, entry};
use crate::monitor::Rule;

pub(super) const OURS: &[Entry] = &[
    entry(
        U01,
        (
            "6318889",
            "Bits are cleared only for regions unwritten since the members were flushed",
        ),
        "A region that was written, and idle again, during a clearing pass was cleared by it, \
         though the pass's flush was older than the write.",
        "G2",
        Rule::Clear,
    ),
    entry(
        U02,
        (
            "6ecae21",
            "a range counts as rebuilt only when its unit is done",
        ),
        "A write that held the lock before the unit queued behind it trusted what the unit had \
         yet to rebuild.",
        "G5",
        Rule::Source,
    ),
    entry(
        U03,
        (
            "94813d5",
            "The offset that superblocks record is the one of the moment they are written",
        ),
        "An update that had begun before a resync ended recorded the old offset and counted the \
         end as recorded.",
        "G2",
        Rule::Clear,
    ),
    entry(
        U04,
        (
            "ce260c8",
            "A failed flush is never followed by reads of what it may have lost",
        ),
        "The last member was read on after its flush had failed and its cache was gone.",
        "Content",
        Rule::Content,
    ),
    entry(
        U05,
        (
            "b57cefd",
            "Uneven events left by an update that was cut short are evened",
        ),
        "Two updates cut short in a row left members two events apart: one of them looked stale.",
        "G7",
        Rule::Error,
    ),
    entry(
        U06,
        ("hypothesis of the study, section 7.3", "clear_noflush"),
        "A bit went on one member while another still held the region's data in its cache.",
        "G2",
        Rule::Clear,
    ),
    entry(
        U07,
        (
            "5325776",
            "bits as read count as durable only after they were written to all",
        ),
        "A crash left a bit on one member only; read from there it was taken to be on all.",
        "G1",
        Rule::Intent,
    ),
    entry(
        U08,
        ("the study's prototype", "issue_unrecorded"),
        "Survivors were written while a failure was known and not yet on their superblocks.",
        "G4",
        Rule::Quarantine,
    ),
    entry(
        U09,
        ("the study's prototype", "bitmap_not_rewritten"),
        "A new or returning member did not get the bits that were set already.",
        "G1",
        Rule::Intent,
    ),
    entry(
        U10,
        ("3b00b33", "A broken array acknowledges no change"),
        "Writes that had gone well on what was left were acknowledged by an array that had lost \
         too much to record it.",
        "G4",
        Rule::Quarantine,
    ),
    entry(
        U11,
        (
            "3b00b33",
            "... and computes nothing with the member it broke over",
        ),
        "A write ended half-way on the second lost member; a neighbour computed from that row \
         came back wrong.",
        "Content",
        Rule::Content,
    ),
    entry(
        U12,
        (
            "d34b687",
            "Rebuilds begin again where an unclean array was marked clean by force",
        ),
        "A rebuild went on from its checkpoint, below which parity had only been declared right.",
        "G8, G11",
        Rule::Clear,
    ),
    entry(
        U13,
        (
            "94813d5",
            "Anything that moves the offset also asks for a flush before it",
        ),
        "A checkpoint counted what members still held in their caches.",
        "G8",
        Rule::Checkpoint,
    ),
    entry(
        U14,
        (
            "94813d5",
            "Anything that moves the offset also asks for a flush before it",
        ),
        "Superblocks called a rebuilt member in sync before its cache was flushed.",
        "G8",
        Rule::Checkpoint,
    ),
    entry(
        U15,
        (
            "6ecae21",
            "re-add refuses a member that ran on without the others",
        ),
        "A member that had gone on alone was taken back by a bitmap that knows nothing of that.",
        "G7, G8",
        Rule::Checkpoint,
    ),
    entry(
        U16,
        ("ce260c8", "RAID0 flushes before it rests"),
        "An array without a clean superblock to write stopped with data in the members' caches.",
        "Content",
        Rule::Content,
    ),
    entry(
        U17,
        ("6ecae21", "the safe-mode timer no longer fires in a circle"),
        "While superblocks were on their way a timer was armed for a moment that was over.",
        "Liveness",
        Rule::Liveness,
    ),
    entry(
        U18,
        (
            "6ecae21",
            "the source of a mirror is always the first leg in sync",
        ),
        "A resync copied another leg over the one that hosts had read.",
        "G5",
        Rule::Source,
    ),
    entry(
        U19,
        ("7bf3a88", "Reads in doubt are answered when members agree"),
        "A read where members differ after a crash left the others as they were.",
        "G5",
        Rule::Content,
    ),
    entry(
        U20,
        (
            "hypothesis",
            "the first write to a region of a lockless bitmap is like any other",
        ),
        "Parity that nobody had ever computed was modified, and counted as right.",
        "G2, G11",
        Rule::Clear,
    ),
    entry(
        U21,
        (
            "hypothesis",
            "what a resync has passed over counts as resynced",
        ),
        "A region that was first written behind the back of a resync was called clean at its end.",
        "G2, G11",
        Rule::Clear,
    ),
    entry(
        U22,
        (
            "found by random search before lockless bitmaps were offered",
            "who replaces a member gets what nobody has written, too",
        ),
        "A replacement lacked what parity was computed with before the slot was handed over.",
        "G8, Content",
        Rule::Checkpoint,
    ),
    entry(
        U23,
        (
            "165cb6f",
            "A broken mirror reads what its last write touched from one leg only",
        ),
        "The last write of an array that broke had reached one leg and not the other, and reads \
         were spread over both: the new and the old by turns.",
        "Content",
        Rule::Source,
    ),
    entry(
        U24,
        (
            "8b6ca54",
            "A write that outlives a rebuild is held by who was rebuilt",
        ),
        "Who was in sync was looked at when a write began. It failed on the old member after the \
         new one was whole and held it, and was answered with an error.",
        "Error",
        Rule::Error,
    ),
    entry(
        U25,
        (
            "befe2f9",
            "a flush that failed is known before that of a replacement ends",
        ),
        "What failed on a member that is being replaced was known only when its replacement had \
         ended it, too; survivors were written meanwhile.",
        "G4",
        Rule::Quarantine,
    ),
    entry(
        U26,
        ("2dde903", "A bitmap's file that failed is outrun"),
        "The bitmap's file hung while it was told the events of an update, and superblocks went on \
         with the same. When that landed late the file was believed, without the bits that came \
         after it.",
        "G1",
        Rule::Intent,
    ),
    entry(
        U27,
        ("2dde903", "0.90: who was rebuilt is not called failed"),
        "With metadata 0.90 members list who is being rebuilt as a spare, by another number. Those \
         that had not heard of its end seemed to call it failed, and counted as out of date.",
        "G7",
        Rule::Error,
    ),
    entry(
        U28,
        (
            "3835c51",
            "a pass of clearing waits for superblocks instead of being given up",
        ),
        "Bits may go only while no superblock is written. The last pass of a stop that met one was \
         given up, and the bits stayed.",
        "G2",
        Rule::Clear,
    ),
    entry(
        U29,
        (
            "found in review, and left open at first",
            "writes split where a member cannot be read and parity may be wrong",
        ),
        "A write beside a sector that could not be read left parity that fitted nothing around it.",
        "G11, Content",
        Rule::Parity,
    ),
    entry(
        U30,
        (
            "found with U29",
            "a unit asks for each block where parity may be wrong",
        ),
        "Whoever made a row agree put what wrong parity said over what could be read.",
        "Content",
        Rule::Content,
    ),
    entry(
        U40,
        (
            "hypothesis",
            "a refused write is a known fault until its log is on the disk",
        ),
        "A write that a member had refused was answered before that member's log, and the \
         superblock that makes it count, named the sectors.",
        "G4",
        Rule::Ack,
    ),
    entry(
        U41,
        (
            "hypothesis",
            "what a member refuses is recorded only where others hold it",
        ),
        "Whether the array could do without the member was asked, not whether it could do without \
         these sectors of it: the last copy was recorded as bad, too.",
        "G3",
        Rule::Refused,
    ),
    entry(
        U42,
        (
            "hypothesis",
            "every block of a write that is refused is recorded",
        ),
        "Of a write that a member refused, only the first block it refused was recorded; what lies \
         behind it counted as written.",
        "G3",
        Rule::Refused,
    ),
    entry(
        U43,
        (
            "hypothesis",
            "who holds a write is asked again when it is answered",
        ),
        "A member refused a part of a write; the one that had taken it was lost while that was \
         recorded. Each loss was bearable, and the write was answered.",
        "G3",
        Rule::Refused,
    ),
    entry(
        U44,
        (
            "found by random search before refused writes were recorded",
            "a log counts before anybody claims that members agree",
        ),
        "The superblocks that said that all is resynced, and the one that makes a log count for \
         the first time, were of one update: after a crash in between the log was not read.",
        "G8",
        Rule::Clear,
    ),
    entry(
        U45,
        (
            "hypothesis",
            "an array that waits for its first write begins nothing by itself",
        ),
        "Read-auto kept hosts' writes out and nothing else: the resync that was owed began as the \
         array was started, on members that somebody may only have wanted to look at.",
        "Rest",
        Rule::Rest,
    ),
    entry(
        U46,
        (
            "hypothesis; kernels before 6.9 had it below dm-raid",
            "a suspended array has no sync action under way",
        ),
        "A sync action was told to end when the array was suspended, and not waited for: what it \
         had read it wrote after whoever had suspended it was told that all is quiet.",
        "Rest",
        Rule::Rest,
    ),
    entry(
        U47,
        ("hypothesis", "what comes after the stop is nobody's"),
        "A request that was on its way while the array stopped was carried out, on members that \
         were somebody else's by then.",
        "G13",
        Rule::Lifetime,
    ),
    entry(
        U48,
        (
            "found by random search when arrays were first started read-auto",
            "a flush reaches members that nothing is written to",
        ),
        "The daemon was killed and its array started again, read-auto. A flush was answered \
         without asking the members, whose caches had what was written before.",
        "G12",
        Rule::Flush,
    ),
    entry(
        U49,
        (
            "found by random search when sync_max was first played with",
            "a resync makes all agree that is trusted",
        ),
        "A mirror crashed while a member was being rebuilt. Where the resync looked at a range \
         that had been rebuilt in part it passed over the new member, which was trusted as far as \
         that, and had another half of what was under way.",
        "G8",
        Rule::Clear,
    ),
    entry(
        U50,
        (
            "found by random search; needs a member that fails in the midst of a resync's write",
            "what was read stays",
        ),
        "After a crash a resync wrote what one leg held to the other, and then the first one \
         failed. The other was read at once, while it was still being written: the old content, \
         and then the new.",
        "G2",
        Rule::Content,
    ),
    entry(
        U51,
        (
            "found in review of a seed that the monitor had stopped",
            "what agrees but for what a log does not name yet does not agree",
        ),
        "After a crash a leg of a mirror refused what a resync wrote to it. That was to be \
         recorded, and the others were read before it was: after the next crash, without them, \
         the leg was believed.",
        "G2",
        Rule::Source,
    ),
    entry(
        U60,
        (
            "found by random search when level changes were first drawn",
            "a raid0 and a raid4 have one layout",
        ),
        "A RAID0 was asked to become a RAID4 of a layout by number, as a RAID5 has them: it was \
         reshaped, and such a RAID4 is none that assembles. A RAID4 that was to become such a \
         RAID0 ended the engine.",
        "it assembles",
        Rule::Error,
    ),
    entry(
        U61,
        (
            "found in review",
            "a raid0 is one on all its members before it is written",
        ),
        "The power went when one member said that the RAID5 was a RAID0. Superblocks of a RAID0 \
         are not written for writes, so it stayed so, and without that member parity that nobody \
         had kept passed for parity.",
        "G9",
        Rule::Reshape,
    ),
    entry(
        U62,
        ("found in review", "who left before a change is rebuilt"),
        "A member that had left before the layout was changed was taken back by the bitmap: what \
         was not marked was believed to be where it had never been moved to.",
        "G5",
        Rule::Checkpoint,
    ),
    entry(
        U63,
        (
            "found by random search when the power went between superblocks of a change",
            "a raid0 is one durably before it is written",
        ),
        "The process that made a RAID0 of a RAID5 was killed while it wrote the superblocks, and \
         the next one read them from caches: all told of a RAID0. It was written at once. A power \
         cut would have brought back what some members had told before, with parity that nobody \
         had kept.",
        "G9",
        Rule::Reshape,
    ),
    entry(
        U64,
        (
            "found by random search with `--levels`",
            "who rests mends nothing",
        ),
        "An array that was to be read-only had waited for all that writes, and wrote its last \
         superblocks. A host read what could not be read: it was computed, and written. Whoever \
         had asked was told that the array was at rest while that was under way.",
        "Rest",
        Rule::Rest,
    ),
    entry(
        U65,
        (
            "found by random search with `--rests`",
            "a stop flushes what a life before left in caches",
        ),
        "The daemon was killed and its array started again, read-auto, and stopped before its \
         first write. Nothing was flushed: what had been answered was in caches, and gone with the \
         power after an orderly stop.",
        "G12",
        Rule::Content,
    ),
];
