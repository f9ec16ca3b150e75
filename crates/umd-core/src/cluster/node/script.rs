//! What is done under the token for each errand, as tables.
//!
//! ```text
//!   Update        recheck  write   METADATA_UPDATED
//!   AddDisk       recheck  NEWDISK*  apply*  write*  METADATA_UPDATED
//!                                         * undo, METADATA_UPDATED
//!   FillSlot      recheck  NEWDISK*  apply*  write*  METADATA_UPDATED*
//!                                         * undo, METADATA_UPDATED
//!   RemoveDisk    recheck  REMOVE  apply  write  METADATA_UPDATED
//!   ReAdd         recheck  RE_ADD*  apply*  write*  METADATA_UPDATED*
//!                                         * undo, METADATA_UPDATED
//!   Resize        recheck  BITMAP_RESIZE*  write*  METADATA_UPDATED*  vacant*
//!                 value  CHANGE_CAPACITY  apply       * undo, METADATA_UPDATED
//!   BitmapResize  recheck  apply*  BITMAP_RESIZE*
//!                                         * undo, BITMAP_RESIZE (old)
//!   Rechunk       recheck  BITMAP_CHUNK (asks)  apply*  value (closed)  BITMAP_CHUNK*
//!                 vacant  value
//!                                         * undo, BITMAP_CHUNK (old)
//!   Move          recheck  BITMAP_MOVE (asks)  value (closed)  BITMAP_MOVE (hold)  vacant*
//!                 BITMAP_MOVE (moved)  value
//!                                         * undo, BITMAP_MOVE (back)
//!   resync        RESYNCING_START;  value  RESYNCING(window);  value  RESYNCING(none)
//!   leaving       BITMAP_NEEDS_SYNC
//! ```
//!
//! A star: if that fails here or with anybody, nobody is to have it. The votes that md takes with a
//! lock (`no-new-dev`) are the answers themselves here. After a vote that was lost,
//! METADATA_UPDATED makes everybody drop the candidate.

use super::super::message::{DeviceNumber, Message, MoveStage, Window};
use super::super::work::{Wish, WishId};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Errand {
    Wish(WishId, Wish),
    Start,
    Window(Window),
    End,
    HandOver,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Step {
    Recheck,
    Write,
    Apply,
    Undo,
    Vacant,
    Show,
    /// Nobody is let in until the errand is over.
    Close,
    Tell(Words),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Words {
    Metadata,
    NewDisk,
    Remove,
    ReAdd,
    Capacity,
    Bitmap,
    BitmapBack,
    AskChunk,
    Chunk,
    ChunkBack,
    Move(MoveStage),
    Start,
    Window,
    HandOver,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Script {
    pub(super) steps: &'static [Step],
    /// What fails before this step has changed nothing, and ends there.
    pub(super) begins_at: usize,
    /// What fails before this step is undone.
    pub(super) decided_at: usize,
    pub(super) undo: &'static [Step],
}

macro_rules! script {
    ($steps:expr) => {
        script!($steps, 0, &[])
    };
    ($steps:expr, $decided_at:expr, $undo:expr) => {{
        const SCRIPT: Script = Script {
            steps: $steps,
            begins_at: 0,
            decided_at: $decided_at,
            undo: $undo,
        };
        &SCRIPT
    }};
}

use Step::{Apply, Close, Recheck, Show, Tell, Undo, Vacant, Write};

const RESIZE: &Script = &Script {
    steps: &[
        Recheck,
        Tell(Words::Bitmap),
        Write,
        Tell(Words::Metadata),
        Vacant,
        Show,
        Tell(Words::Capacity),
        Apply,
    ],
    begins_at: 0,
    decided_at: 5,
    undo: &[Undo, Tell(Words::Metadata)],
};

const RECHUNK: &Script = &Script {
    steps: &[
        Recheck,
        Tell(Words::AskChunk),
        Apply,
        Close,
        Tell(Words::Chunk),
        Vacant,
    ],
    begins_at: 2,
    decided_at: 5,
    undo: &[Undo, Tell(Words::ChunkBack)],
};

const MOVE: &Script = &Script {
    steps: &[
        Recheck,
        Tell(Words::Move(MoveStage::Ask)),
        Close,
        Tell(Words::Move(MoveStage::Hold)),
        Vacant,
        Tell(Words::Move(MoveStage::Moved)),
    ],
    begins_at: 2,
    decided_at: 5,
    undo: &[Undo, Tell(Words::Move(MoveStage::Back))],
};

impl Errand {
    pub(super) fn script(self) -> &'static Script {
        match self {
            Errand::Wish(_, Wish::Update) => script!(&[Recheck, Write, Tell(Words::Metadata)]),
            Errand::Wish(_, Wish::AddDisk(_)) => script!(
                &[
                    Recheck,
                    Tell(Words::NewDisk),
                    Apply,
                    Write,
                    Tell(Words::Metadata)
                ],
                4,
                &[Undo, Tell(Words::Metadata)]
            ),
            Errand::Wish(_, Wish::FillSlot(_)) => script!(
                &[
                    Recheck,
                    Tell(Words::NewDisk),
                    Apply,
                    Write,
                    Tell(Words::Metadata)
                ],
                5,
                &[Undo, Tell(Words::Metadata)]
            ),
            Errand::Wish(_, Wish::RemoveDisk(_)) => {
                script!(&[
                    Recheck,
                    Tell(Words::Remove),
                    Apply,
                    Write,
                    Tell(Words::Metadata)
                ])
            }
            Errand::Wish(_, Wish::ReAdd(_)) => script!(
                &[
                    Recheck,
                    Tell(Words::ReAdd),
                    Apply,
                    Write,
                    Tell(Words::Metadata)
                ],
                5,
                &[Undo, Tell(Words::Metadata)]
            ),
            Errand::Wish(_, Wish::Resize { .. }) => RESIZE,
            Errand::Wish(_, Wish::BitmapResize { .. }) => script!(
                &[Recheck, Apply, Tell(Words::Bitmap)],
                3,
                &[Undo, Tell(Words::BitmapBack)]
            ),
            Errand::Wish(_, Wish::Rechunk { .. }) => RECHUNK,
            Errand::Wish(_, Wish::Move { .. }) => MOVE,
            Errand::Start => script!(&[Tell(Words::Start)]),
            Errand::Window(_) | Errand::End => script!(&[Show, Tell(Words::Window)]),
            Errand::HandOver => script!(&[Tell(Words::HandOver)]),
        }
    }

    pub(super) fn is_update(self) -> bool {
        matches!(self, Errand::Wish(_, Wish::Update))
    }

    /// The message of a step.
    pub(super) fn message(self, words: Words, good: Option<DeviceNumber>, owes: bool) -> Message {
        match (words, self) {
            (Words::Metadata, _) => Message::MetadataUpdated {
                good: good.expect("superblocks were written before they are told of"),
            },
            (Words::NewDisk, Errand::Wish(_, Wish::AddDisk(disk) | Wish::FillSlot(disk))) => {
                Message::NewDisk(disk)
            }
            (Words::Remove, Errand::Wish(_, Wish::RemoveDisk(device))) => Message::Remove(device),
            (Words::ReAdd, Errand::Wish(_, Wish::ReAdd(disk))) => Message::ReAdd(disk),
            (Words::Capacity, Errand::Wish(_, Wish::Resize { sectors, .. })) => {
                Message::ChangeCapacity { sectors }
            }
            (
                Words::Bitmap,
                Errand::Wish(
                    _,
                    Wish::BitmapResize { sync_sectors, .. } | Wish::Resize { sync_sectors, .. },
                ),
            ) => Message::BitmapResize { sync_sectors },
            (
                Words::BitmapBack,
                Errand::Wish(
                    _,
                    Wish::BitmapResize {
                        old_sync_sectors, ..
                    },
                ),
            ) => Message::BitmapResize {
                sync_sectors: old_sync_sectors,
            },
            (words, Errand::Wish(_, wish @ Wish::Rechunk { .. })) => wish.chunk(words),
            (
                Words::Move(stage),
                Errand::Wish(
                    _,
                    Wish::Move {
                        region_bytes,
                        sync_sectors,
                    },
                ),
            ) => Message::BitmapMove {
                region_bytes,
                sync_sectors,
                stage,
            },
            (Words::Start, Errand::Start) => Message::ResyncingStart,
            (Words::Window, Errand::Window(window)) => Message::Resyncing {
                window: Some(window),
                owes,
            },
            (Words::Window, Errand::End) => Message::Resyncing { window: None, owes },
            (Words::HandOver, Errand::HandOver) => Message::BitmapNeedsSync,
            (words, errand) => panic!("{words:?} in the script of {errand:?}"),
        }
    }
}

impl Wish {
    /// What is said of another length of regions.
    fn chunk(self, words: Words) -> Message {
        let Wish::Rechunk {
            region_bytes,
            old_region_bytes,
            sync_sectors,
        } = self
        else {
            panic!("{words:?} in the script of {self:?}");
        };
        let (region_bytes, sync_sectors) = match words {
            Words::AskChunk | Words::Chunk => (region_bytes, sync_sectors),
            // Room for the size that was to come is what the old ones lack.
            Words::ChunkBack => (old_region_bytes, 0),
            other => panic!("{other:?} in the script of {self:?}"),
        };
        Message::BitmapChunk {
            region_bytes,
            sync_sectors,
            asks: words == Words::AskChunk,
        }
    }
}
