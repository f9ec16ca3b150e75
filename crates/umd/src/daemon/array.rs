//! One array: its handle for everybody else, and the thread that owns everything it has.
//!
//! ```text
//!   control thread --Message--> channel + eventfd --+
//!   NBD listener ----Message-----------------------+|
//!                                                  vv
//!                        Loop::run: epoll over {messages, member I/O, connections}
//!                            gather what is ready -> Array::handle -> carry out commands
//!                            -> one kick, one reap -> ... until quiet -> sleep, or a timer
//! ```

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, mpsc};

use tokio::sync::{broadcast, oneshot};
use umd_core::array::{Control, ControlError, ControlReply, FlagWish, Map, NewBitmap, Status};
use umd_core::value::MemberId;
use umd_disk::MemberFile;
use umd_export::nbd::{ExportInfo, Socket, Transmission};
use umd_format::SuperblockV1;

use super::meter::Counted;
use super::open::How;
use super::reserved::Reserved;
use super::sync;
use super::turn::Turn;
use crate::api::{AssembleRequest, EventDoc, OpenerDoc};
use crate::doc::{ArrayDoc, ClusterDoc, Surroundings};

/// The answer to a control request.
pub type ControlAnswer = Result<ControlReply, ControlError>;

/// A device that was opened and locked, offered to a running array.
pub struct Offer {
    /// The device.
    pub file: MemberFile,
    /// Its name for messages.
    pub name: String,
    /// The superblock found on it.
    pub superblock: Option<Box<SuperblockV1>>,
    /// The flags it is to have.
    pub flags: FlagWish,
    /// Into its old slot, by the bitmap.
    pub re_add: bool,
    /// It gets the bad-block log that the others have.
    pub bad_block_log: bool,
}

/// A file that was opened and locked, to hold the bitmap of a running array.
pub struct BitmapOffer {
    /// The file.
    pub file: MemberFile,
    /// Its name for messages.
    pub name: String,
    /// What the bitmap is to be like.
    pub new: NewBitmap,
}

/// What the other threads say to an array's.
pub enum Message {
    /// A client whose negotiation is over.
    Connection(Socket, Box<Transmission>),
    /// A control request that brings no device.
    Control(Control, oneshot::Sender<ControlAnswer>),
    /// A device to take in.
    Add(Box<Offer>, oneshot::Sender<ControlAnswer>),
    /// A file for its bitmap.
    Bitmap(Box<BitmapOffer>, oneshot::Sender<ControlAnswer>),
    /// Close the doors: no more requests from anybody who is here.
    Evict,
    /// What can be seen of it?
    Look(oneshot::Sender<Snapshot>),
    /// This node of its cluster is dead for certain.
    ConfirmDead(u16, oneshot::Sender<Result<(), String>>),
    /// Where dirty regions, in so many parts, and bad blocks lie?
    Map(u16, oneshot::Sender<Map>),
    /// Members are rewritten, and another engine goes on with them.
    Turn(Box<Turn>),
}

/// What can be seen of an array.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The engine's own view.
    pub status: Status,
    /// Why it is frozen or broken.
    pub reason: Option<String>,
    /// Which I/O engine each member runs on.
    pub engines: Vec<(MemberId, &'static str)>,
    /// Device numbers of members that are block devices.
    pub devices: Vec<(u32, (u32, u32))>,
    /// What it has done, and how long that took.
    pub counted: Box<Counted>,
    /// Clients connected.
    pub clients: usize,
    /// Its cluster.
    pub cluster: Option<ClusterDoc>,
}

/// Everybody else's way to a running array. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    sender: mpsc::Sender<Message>,
    wake: Arc<OwnedFd>,
    export: ExportInfo,
    read_only: Arc<AtomicBool>,
    size_sectors: Arc<AtomicU64>,
    /// What happens to it.
    pub events: broadcast::Sender<EventDoc>,
    now: Arc<RwLock<Current>>,
    reserved: Option<Arc<Reserved>>,
}

/// What of an array is exchanged while it runs.
struct Current {
    how: Arc<How>,
    /// While that is going on: how it is started if it is cut short.
    cut_short: Option<Box<AssembleRequest>>,
}

/// The array's thread is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the array has stopped")]
pub struct Stopped;

impl Handle {
    /// The two ends of an array's channel.
    ///
    /// # Errors
    /// When the system has no descriptor for it.
    pub fn new(
        export: ExportInfo,
        events: broadcast::Sender<EventDoc>,
        how: How,
    ) -> std::io::Result<(Handle, Inbox)> {
        use rustix::event::{EventfdFlags, eventfd};
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let (sender, receiver) = mpsc::channel();
        let inbox = Inbox {
            receiver,
            wake: wake.clone(),
        };
        let handle = Handle {
            sender,
            wake,
            read_only: Arc::new(AtomicBool::new(export.read_only)),
            size_sectors: Arc::new(AtomicU64::new(export.size_sectors)),
            export,
            events,
            now: Arc::new(RwLock::new(Current {
                how: Arc::new(how),
                cut_short: None,
            })),
            reserved: None,
        };
        Ok((handle, inbox))
    }

    /// The same where a table says who may write. To be said before there are clients.
    pub fn under(mut self, reserved: Option<Arc<Reserved>>) -> Handle {
        self.reserved = reserved;
        self
    }

    /// How its members were opened, and new ones will be.
    pub fn how(&self) -> Arc<How> {
        let now = self.now.read().unwrap_or_else(PoisonError::into_inner);
        now.how.clone()
    }

    /// From here on members are opened like this.
    pub fn run_as(&self, how: How) {
        let mut now = self.now.write().unwrap_or_else(PoisonError::into_inner);
        now.how = Arc::new(how);
    }

    /// How it is started if it is cut short while its engine is exchanged.
    pub fn cut_short(&self) -> Option<AssembleRequest> {
        let now = self.now.read().unwrap_or_else(PoisonError::into_inner);
        now.cut_short.as_deref().cloned()
    }

    /// Its engine is about to be exchanged, and it is started like this if that is cut short.
    /// `false`: it is being exchanged already.
    #[must_use]
    pub fn begin_exchange(&self, cut_short: AssembleRequest) -> bool {
        let mut now = self.now.write().unwrap_or_else(PoisonError::into_inner);
        let free = now.cut_short.is_none();
        if free {
            now.cut_short = Some(Box::new(cut_short));
        }
        free
    }

    /// That is over.
    pub fn end_exchange(&self) {
        let mut now = self.now.write().unwrap_or_else(PoisonError::into_inner);
        now.cut_short = None;
    }

    /// Who may write, if a table says so: none does while a cluster runs the array.
    pub fn reserved(&self) -> Option<&Arc<Reserved>> {
        let table = self.reserved.as_ref();
        table.filter(|_| self.how().cluster.is_none())
    }

    /// It has stopped: nobody changes who may write any more.
    pub fn over(&self) {
        if let Some(table) = &self.reserved {
            table.close();
        }
    }

    /// The export as new clients are shown it.
    pub fn export(&self) -> ExportInfo {
        ExportInfo {
            read_only: self.read_only.load(Ordering::Relaxed),
            size_sectors: self.size_sectors.load(Ordering::Relaxed),
            ..self.export.clone()
        }
    }

    /// New clients are told that it is read-only, or is not any more.
    pub fn set_read_only(&self, read_only: bool) {
        self.read_only.store(read_only, Ordering::Relaxed);
    }

    /// New clients are shown this size.
    pub fn set_size(&self, sectors: u64) {
        self.size_sectors.store(sectors, Ordering::Relaxed);
    }

    /// Sends a message and wakes the array's thread.
    ///
    /// # Errors
    /// When the thread is gone.
    pub fn send(&self, message: Message) -> Result<(), Stopped> {
        sync::step();
        self.sender.send(message).map_err(|_| Stopped)?;
        sync::ring(&self.wake);
        Ok(())
    }

    /// What wakes the array's thread, from any other.
    pub fn waker(&self) -> umd_cluster::Waker {
        let wake = self.wake.clone();
        Arc::new(move || sync::ring(&wake))
    }

    /// Says that a node of its cluster is dead for certain. The outer error: it has stopped.
    ///
    /// # Errors
    /// When it has stopped.
    pub async fn confirm_dead(&self, node: u16) -> Result<Result<(), String>, Stopped> {
        let (sender, receiver) = oneshot::channel();
        self.send(Message::ConfirmDead(node, sender))?;
        receiver.await.map_err(|_| Stopped)
    }

    /// What can be seen of the array.
    ///
    /// # Errors
    /// When it has stopped.
    pub async fn look(&self) -> Result<Snapshot, Stopped> {
        let (sender, receiver) = oneshot::channel();
        self.send(Message::Look(sender))?;
        receiver.await.map_err(|_| Stopped)
    }

    /// Where dirty regions, in at most `cells` parts, and bad blocks lie.
    ///
    /// # Errors
    /// When it has stopped.
    pub async fn map(&self, cells: u16) -> Result<Map, Stopped> {
        let (sender, receiver) = oneshot::channel();
        self.send(Message::Map(cells, sender))?;
        receiver.await.map_err(|_| Stopped)
    }

    /// Asks for something and waits for the answer. The outer error: it has stopped meanwhile.
    ///
    /// # Errors
    /// When it has stopped.
    pub async fn control(&self, control: Control) -> Result<ControlAnswer, Stopped> {
        let (sender, receiver) = oneshot::channel();
        self.send(Message::Control(control, sender))?;
        receiver.await.map_err(|_| Stopped)
    }

    /// Offers a device and waits for the answer.
    ///
    /// # Errors
    /// When it has stopped.
    pub async fn add(&self, offer: Offer) -> Result<ControlAnswer, Stopped> {
        let (sender, receiver) = oneshot::channel();
        self.send(Message::Add(Box::new(offer), sender))?;
        receiver.await.map_err(|_| Stopped)
    }

    /// Offers a file for the bitmap and waits for the answer.
    ///
    /// # Errors
    /// When it has stopped.
    pub async fn keep_bitmap(&self, offer: BitmapOffer) -> Result<ControlAnswer, Stopped> {
        let (sender, receiver) = oneshot::channel();
        self.send(Message::Bitmap(Box::new(offer), sender))?;
        receiver.await.map_err(|_| Stopped)
    }
}

/// The array's end of the channel.
pub struct Inbox {
    pub(super) receiver: mpsc::Receiver<Message>,
    pub(super) wake: Arc<OwnedFd>,
}

impl Snapshot {
    /// The document for it.
    pub fn doc(&self, name: &str, nbd: &[String], openers: Vec<OpenerDoc>, how: &How) -> ArrayDoc {
        let around = Surroundings {
            name: name.to_owned(),
            reason: self.reason.clone(),
            nbd: nbd.to_vec(),
            overlay: how.overlay.as_ref().map(|dir| dir.display().to_string()),
            devices: self.devices.clone(),
            openers,
        };
        ArrayDoc {
            cluster: self.cluster.clone(),
            ..ArrayDoc::new(&self.status, &around)
        }
    }
}
