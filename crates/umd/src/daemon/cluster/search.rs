//! Disks that other nodes add: opened here, under the same path, by a thread each.
//!
//! ```text
//!   NEWDISK --> begin --> thread: open, lock --> found --> the loop gives it an identity
//! ```

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use umd_cluster::Waker;
use umd_core::cluster::NewDisk;
use umd_format::SuperblockV1;

use crate::cli::outcome::say;
use crate::daemon::engine::Newcomer;
use crate::daemon::open::{self, How, Opened};

/// What was opened, with the superblock that is on it; or why it was not.
type Found = Result<(Opened, Option<Box<SuperblockV1>>), String>;

/// Searches, and what has come of them.
pub struct Search {
    how: Arc<How>,
    sender: Sender<(NewDisk, Found)>,
    receiver: Receiver<(NewDisk, Found)>,
    waker: Waker,
}

impl Search {
    /// Disks are opened as the members were.
    pub fn new(how: Arc<How>, waker: Waker) -> Search {
        let (sender, receiver) = channel();
        Search {
            how,
            sender,
            receiver,
            waker,
        }
    }

    /// Begins to open one.
    pub fn begin(&self, disk: NewDisk) {
        let (how, sender, waker) = (self.how.clone(), self.sender.clone(), self.waker.clone());
        let work = move || {
            let path = disk.path.as_str();
            let opened = open::open(path, &how).and_then(|opened| {
                if let Some(storage) = &how.storage {
                    storage.also(path)?;
                }
                let superblock = superblock_on(&opened);
                Ok((opened, superblock))
            });
            let _ = sender.send((disk, opened)); // The array may have ended meanwhile.
            waker();
        };
        let spawned = thread::Builder::new().name("md-search".into()).spawn(work);
        if let Err(error) = spawned {
            let _ = self.sender.send((disk, Err(error.to_string())));
            (self.waker)();
        }
    }

    /// One that has ended.
    pub fn next(&self, array: &str) -> Option<Newcomer> {
        let (disk, opened) = self.receiver.try_recv().ok()?;
        if let Err(why) = &opened {
            say(&format!("{array}: a disk that another node adds: {why}"));
        }
        let (opened, superblock) = opened.ok().unzip();
        Some(Newcomer {
            uuid: disk.uuid,
            opened,
            superblock: superblock.flatten(),
        })
    }
}

/// Who comes back says so. What cannot be read or makes no sense says nothing.
fn superblock_on(opened: &Opened) -> Option<Box<SuperblockV1>> {
    let found = open::superblock(&opened.file, None).ok()??;
    let verified = found.verify(opened.file.size_sectors()).ok()?;
    Some(Box::new(verified))
}
