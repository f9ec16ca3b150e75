//! A running array becomes one of a cluster, or a plain one again: `umd grow --bitmap=`.
//!
//! ```text
//!   asked --> may it? --> looked at: could the members be rewritten? --> Turn --> exchange
//!              | no, and not a byte is written        |                            |
//!              +--------------------------------------+        members rewritten by the work here:
//!                                                              join, or update (no-cluster)
//! ```
//!
//! From just before the members are rewritten until all is over the memory of this daemon has both
//! ways to start the array: whichever its members say after a kill is found there.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use umd_core::array::{ArrayState, BitmapWish, Control, ControlError, MemberRole, Status};
use umd_core::assembly::Wish;
use umd_core::value::{Pool, SyncAction};
use umd_disk::{Engine, Mode};
use umd_format::Uuid;
use umd_format::update::Update;

use super::array::{Handle, Message};
use super::cluster;
use super::household::{Answer, Household, blocking, nonsense, stopped};
use super::join;
use super::memory;
use super::open::{self, How, Opened};
use super::rebit::company;
use super::start::{self, Revived, Surroundings, Wishes};
use super::update;
use crate::api::{AssembleRequest, BitmapRequest, ClusterRequest, DoneDoc, ErrorDoc};
use crate::member;

/// How long what is left of a cluster's bitmap is waited for to go.
const BITMAP_PATIENCE: Duration = Duration::from_secs(5);
const BITMAP_PAUSE: Duration = Duration::from_millis(50);
/// How long somebody else may have a member that has to be opened another way.
const OPEN_PATIENCE: Duration = Duration::from_secs(10);
const OPEN_PAUSE: Duration = Duration::from_millis(100);

/// Which engine goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The one that was asked for.
    New,
    /// The one that the array had.
    Old,
}

/// What is done with members between two engines.
pub trait Work: Send {
    /// Rewrites them; `may` is asked before each write.
    ///
    /// # Errors
    /// When it is refused, or a member does not take it.
    fn rewrite(&mut self, members: &[Opened], may: &dyn Fn() -> bool) -> Result<(), String>;
    /// They become what they were.
    ///
    /// # Errors
    /// When that is not possible.
    fn undo(&mut self) -> Result<(), String>;
    /// An engine for them; without `members` they are opened again.
    ///
    /// # Errors
    /// When they make no array of that side.
    fn revive(
        &mut self,
        side: Side,
        members: Option<Vec<Opened>>,
        pool: &Pool,
    ) -> Result<Revived, String>;
    /// What a person does when no engine can go on.
    fn advice(&self) -> String;
    /// What there is to say when all is done.
    fn messages(&mut self) -> Vec<String>;
}

/// The engine of an array is to be exchanged.
pub struct Turn {
    /// What is done between the two.
    pub work: Box<dyn Work>,
    /// Who waits for it.
    pub sender: oneshot::Sender<Result<Vec<String>, String>>,
}

impl Turn {
    /// It serves again, as it was asked for.
    pub fn done(mut self) {
        let messages = self.work.messages();
        let _ = self.sender.send(Ok(messages)); // Whoever asked may have gone away.
    }

    /// It serves as before, or not at all: why.
    pub fn refuse(self, why: String) {
        let _ = self.sender.send(Err(why));
    }
}

/// What members are to become.
#[derive(Debug, Clone)]
enum Into {
    /// Those of this cluster, with so many nodes.
    Cluster(String, Option<u32>),
    /// Those of a plain array; they are of this cluster.
    Plain(String),
}

/// The members of an array that turns.
struct Conversion {
    around: Surroundings,
    handle: Handle,
    name: String,
    into: Into,
    /// Their names, in order, from when they were rewritten on.
    members: Vec<String>,
    old: Wishes,
    new: Wishes,
    messages: Vec<String>,
}

impl Conversion {
    fn wish(&self, into: &Into) -> Wish {
        Wish {
            uuid: self.old.wish.uuid,
            clustered: matches!(into, Into::Cluster(..)),
            ..Wish::default()
        }
    }

    fn write(
        &mut self,
        into: &Into,
        members: &[Opened],
        may: &dyn Fn() -> bool,
    ) -> Result<(), ErrorDoc> {
        let wish = self.wish(into);
        match into {
            Into::Cluster(cluster, nodes) => {
                let of = (Some(self.name.as_str()), cluster.as_str(), *nodes);
                let (prepared, messages) = join::of(members, &wish, of)?;
                // Nobody can have run it as one of a cluster, where each has to be changed.
                self.new.joined = prepared.changed() == members.len();
                prepared.write_while(members, may)?;
                self.messages.extend(messages);
            }
            Into::Plain(cluster) => {
                let facts = start::read_facts(members, None);
                let update = Update::NoCluster(Some(cluster.clone()));
                let prepared = update::prepare(&update, members, facts, &wish)?;
                prepared.write_while(members, may)?;
            }
        }
        Ok(())
    }

    /// Opens the members again. Whoever has one for a moment, as a host that is refused by the
    /// cluster has, is waited for.
    fn open(&self, how: &How) -> Result<Vec<Opened>, String> {
        let begin = Instant::now();
        loop {
            let opened = self.members.iter().map(|name| open::open(name, how));
            match opened.collect::<Result<_, _>>() {
                Err(_) if begin.elapsed() < OPEN_PATIENCE => std::thread::sleep(OPEN_PAUSE),
                opened => return opened,
            }
        }
    }

    /// Whether members that are open for one side can be used for the other as they are.
    fn alike(&self) -> bool {
        let apart = |how: &How| how.is_shared() || how.storage.is_some();
        !apart(&self.old.how) && !apart(&self.new.how)
    }
}

fn text(error: ErrorDoc) -> String {
    error.error
}

impl Work for Conversion {
    fn rewrite(&mut self, members: &[Opened], may: &dyn Fn() -> bool) -> Result<(), String> {
        self.members = members.iter().map(|one| one.name.clone()).collect();
        let into = self.into.clone();
        self.write(&into, members, may).map_err(text)
    }

    fn undo(&mut self) -> Result<(), String> {
        let Into::Cluster(cluster, _) = self.into.clone() else {
            return Ok(()); // A plain array is a plain one, and no node.
        };
        if self.new.how.is_shared() {
            // Its members were let go, and said that they are of a cluster.
            return Err("another host may have joined the cluster with its members since".into());
        }
        let how = How {
            cluster: None, // For this process alone.
            ..self.new.how.clone()
        };
        let opened = self.open(&how)?;
        let back = Into::Plain(cluster);
        self.write(&back, &opened, &|| true).map_err(text)
    }

    fn revive(
        &mut self,
        side: Side,
        members: Option<Vec<Opened>>,
        pool: &Pool,
    ) -> Result<Revived, String> {
        let wishes = match side {
            Side::New => &self.new,
            Side::Old => &self.old,
        };
        let members = members.filter(|_| side == Side::Old || self.alike());
        let members = match members {
            Some(members) => members,
            None => {
                let opened = self
                    .members
                    .iter()
                    .map(|name| open::open(name, &wishes.how));
                opened.collect::<Result<_, _>>()?
            }
        };
        let to = (self.name.as_str(), &self.handle);
        let revived = start::revive(&self.around, to, members, wishes, pool);
        revived.map_err(text)
    }

    fn advice(&self) -> String {
        let (name, devices) = (&self.name, self.members.join(" "));
        let (Into::Cluster(cluster, _) | Into::Plain(cluster)) = &self.into;
        format!(
            "umd stop {name}; then umd assemble {name} --update=no-cluster={cluster} {devices} \
             makes it a plain one, when no other host runs it"
        )
    }

    fn messages(&mut self) -> Vec<String> {
        std::mem::take(&mut self.messages)
    }
}

/// An exchange that has begun; dropped, it is over.
struct Exchanged(Handle);

impl Drop for Exchanged {
    fn drop(&mut self) {
        self.0.end_exchange();
    }
}

/// Why an array does not turn now, whatever into.
fn unfit(status: &Status, how: &How) -> Option<String> {
    let busy = |what: &str| format!("{what}: that can be done when it is over");
    let said = if how.overlay.is_some() {
        "it runs with --overlay, which leaves members alone".to_owned()
    } else if how.readonly {
        "it was started read-only".to_owned()
    } else if how.engine == Engine::Memory {
        "it runs on a copy in memory".to_owned()
    } else if !status.format.is_stored() {
        "it has no superblocks".to_owned()
    } else if matches!(status.state, ArrayState::ReadOnly | ArrayState::ReadAuto) {
        "it is read-only".to_owned()
    } else if matches!(
        status.state,
        ArrayState::Broken | ArrayState::Frozen | ArrayState::Inactive
    ) {
        "it does not serve".to_owned()
    } else if status.reshape.is_some() {
        busy("a reshape is under way")
    } else if let Some(action) = scrub(status) {
        busy(&format!("{} is running", action.word()))
    } else if status.sync_frozen {
        "its sync action is frozen: let that go first (umd action)".to_owned()
    } else if status.suspended_sectors.0 < status.suspended_sectors.1 {
        "writes to a part of it are suspended".to_owned()
    } else if status.bitmap.as_ref().is_some_and(|one| one.file.is_some()) {
        "its bitmap is in a file: take that away first (--bitmap=none)".to_owned()
    } else {
        return None;
    };
    Some(said)
}

/// Why it joins no cluster: its keys would keep out clients of this host only.
fn has_keys(name: &str, handle: &Handle) -> Option<String> {
    let used = handle.reserved().is_some_and(|table| table.is_used());
    used.then(|| {
        format!(
            "keys are registered with it, which would keep out clients of this host only: umd \
             cluster clear-reservations {name}"
        )
    })
}

/// A check or repair, which would not go on.
fn scrub(status: &Status) -> Option<SyncAction> {
    let running = status.sync.as_ref().map(|sync| sync.action);
    let all = running.into_iter().chain(status.sync_requested);
    let mut scrubs = all.filter(|one| matches!(one, SyncAction::Check | SyncAction::Repair));
    scrubs.next()
}

impl Household {
    /// A plain array becomes one of a cluster.
    pub(super) async fn turn_clustered(
        &self,
        name: &str,
        cluster: &ClusterRequest,
        request: &BitmapRequest,
    ) -> Answer<DoneDoc> {
        let other = BitmapRequest {
            clustered: true,
            cluster: Some(cluster.clone()),
            nodes: request.nodes,
            ..BitmapRequest::default()
        };
        if *request != other {
            let text = "the bitmaps of an array that joins a cluster are as the one it has, or as \
                        those of a new array: give them another chunk afterwards";
            return Err(nonsense(text.into()));
        }
        let handle = self.handle(name)?;
        let (snapshot, array) = self.look(name, &handle).await?;
        if let Some(already) = &array.cluster {
            let already = &already.name;
            let text = format!("{name} is an array of cluster '{already}' already");
            return Err(ErrorDoc::new(text));
        }
        let cannot = format!("{name} cannot join cluster '{}'", cluster.name);
        let refused = |why: String| ErrorDoc::new(format!("{cannot}: {why}"));
        unfit(&snapshot.status, &handle.how()).map_or(Ok(()), |why| Err(refused(why)))?;
        has_keys(name, &handle).map_or(Ok(()), |why| Err(refused(why)))?;
        let now = memory::request(name, &handle, &snapshot);
        let now = now.ok_or_else(|| refused("it could not be started again".into()))?;
        let cut_short = AssembleRequest {
            update: Some(format!("cluster={}", cluster.name)),
            nodes: request.nodes,
            cluster: Some(cluster.clone()),
            ..now.clone()
        };
        cluster::check(&cut_short)?;
        let into = Into::Cluster(cluster.name.clone(), request.nodes);
        let how = How {
            storage: cluster.reservations.then(Arc::default),
            cluster: Some(cluster.clone()),
            ..(*handle.how()).clone()
        };
        let conversion = self.conversion(name, &handle, (&snapshot.status, into.clone()), how);
        let (wish, title) = (conversion.wish(&into), name.to_owned());
        let (to, wanted) = (cluster.clone(), request.nodes);
        blocking(move || {
            cluster::reachable(&to)?;
            look_at(&now.devices, |members| {
                join::of(members, &wish, (Some(&title), &to.name, wanted)).map(drop)
            })
        })
        .await?;
        let messages = self.turn(&handle, conversion, cut_short).await;
        let mut messages = messages.map_err(refused)?;
        let others = match cluster.engine.as_str() {
            cluster::MEMORY => String::new(),
            engine => format!(
                ": start it on its other hosts (umd assemble {name} --cluster-engine={engine})"
            ),
        };
        messages.push(format!(
            "{name} is an array of cluster '{}' now{others}",
            cluster.name
        ));
        Ok(DoneDoc {
            messages,
            ..DoneDoc::plain()
        })
    }

    /// An array of a cluster becomes a plain one, with a bitmap on its members or without.
    pub(super) async fn turn_plain(
        &self,
        name: &str,
        of: &str,
        request: &BitmapRequest,
    ) -> Answer<DoneDoc> {
        let internal = BitmapRequest {
            internal: request.internal,
            ..BitmapRequest::default()
        };
        if *request != internal {
            let text = "an array that leaves its cluster keeps the bitmap it has, or none: change \
                        it afterwards";
            return Err(nonsense(text.into()));
        }
        let handle = self.handle(name)?;
        let (snapshot, array) = self.look(name, &handle).await?;
        let cannot = format!("{name} cannot leave cluster '{of}'");
        let refused = |why: String| ErrorDoc::new(format!("{cannot}: {why}"));
        let why = company(&array).or_else(|| unfit(&snapshot.status, &handle.how()));
        let why = why.or_else(|| unfinished(&snapshot.status).filter(|_| !request.internal));
        if let Some(why) = why {
            return Err(refused(why));
        }
        let now = memory::request(name, &handle, &snapshot);
        let now = now.ok_or_else(|| refused("it could not be started again".into()))?;
        let cut_short = AssembleRequest {
            cluster: None,
            ..now
        };
        let how = How {
            storage: None,
            cluster: None,
            ..(*handle.how()).clone()
        };
        let into = Into::Plain(of.to_owned());
        let conversion = self.conversion(name, &handle, (&snapshot.status, into), how);
        let messages = self.turn(&handle, conversion, cut_short).await;
        let mut messages = messages.map_err(refused)?;
        messages.push(format!("{name} is a plain array now, of this host"));
        if !request.internal {
            messages.push(self.without_bitmap(name, &handle).await?);
        }
        Ok(DoneDoc {
            messages,
            ..DoneDoc::plain()
        })
    }

    fn conversion(
        &self,
        name: &str,
        handle: &Handle,
        (status, into): (&Status, Into),
        how: How,
    ) -> Conversion {
        let wishes = |how: How| Wishes {
            name: Some(name.to_owned()),
            wish: Wish {
                uuid: Some(Uuid(status.uuid)),
                clustered: how.cluster.is_some(),
                ..Wish::default()
            },
            how,
            ..Wishes::default()
        };
        Conversion {
            around: self.surroundings(),
            handle: handle.clone(),
            name: name.to_owned(),
            into,
            members: Vec::new(),
            old: wishes((*handle.how()).clone()),
            new: wishes(how),
            messages: Vec::new(),
        }
    }

    /// The engine is exchanged. Who asked may go away: what was begun is brought to its end.
    async fn turn(
        &self,
        handle: &Handle,
        conversion: Conversion,
        cut_short: AssembleRequest,
    ) -> Result<Vec<String>, String> {
        if !handle.begin_exchange(cut_short) {
            return Err("it is being changed already".into());
        }
        // Whoever asks may go away at any moment.
        let over = Exchanged(handle.clone());
        self.remember().await;
        let (sender, receiver) = oneshot::channel();
        let turn = Turn {
            work: Box::new(conversion),
            sender,
        };
        let handle = handle.clone();
        let turned = tokio::spawn(async move {
            let sent = handle.send(Message::Turn(Box::new(turn)));
            let answer = match sent {
                Ok(()) => receiver.await.ok(),
                Err(_) => None,
            };
            drop(over);
            answer.unwrap_or_else(|| Err("it has stopped".into()))
        });
        let turned = turned.await;
        turned.unwrap_or_else(|error| Err(format!("an invariant did not hold: {error}")))
    }

    /// The bitmap that was node 0's goes: nothing is dirty, or nearly.
    async fn without_bitmap(&self, name: &str, handle: &Handle) -> Answer<String> {
        let begin = Instant::now();
        loop {
            let wish = Control::Bitmap(BitmapWish::None);
            match handle.control(wish).await.map_err(stopped(name))? {
                Ok(_) => return Ok(format!("removed the bitmap of {name}")),
                Err(ControlError::Busy(_)) if begin.elapsed() < BITMAP_PATIENCE => {
                    tokio::time::sleep(BITMAP_PAUSE).await;
                }
                Err(error) => {
                    return Err(ErrorDoc::new(format!(
                        "{name} is a plain array of this host now, and its bitmap stays: {error}"
                    )));
                }
            }
        }
    }
}

/// What a bitmap is still needed for.
fn unfinished(status: &Status) -> Option<String> {
    let partly = |role: &MemberRole| matches!(role, MemberRole::Recovering { .. });
    let filled = status.members.iter().find(|one| partly(&one.role));
    let what = match (&status.sync, filled) {
        (Some(sync), _) => format!("{} is running", sync.action.word()),
        (None, Some(member)) => format!("{} is being rebuilt", member.name),
        (None, None) if status.sync_pending => "a resync is owed".to_owned(),
        (None, None) => return None,
    };
    Some(format!(
        "{what}: the bitmap can go when that is over, and can stay (--bitmap=internal)"
    ))
}

/// Looks at members that are in use.
fn look_at(devices: &[String], work: impl FnOnce(&[Opened]) -> Answer<()>) -> Answer<()> {
    let opened = devices.iter().map(|device| {
        let file = member::open(Path::new(device), Mode::Examine, Engine::Sync)?;
        let name = device.clone();
        Ok(Opened { name, file })
    });
    let opened: Result<Vec<Opened>, _> = opened.collect();
    work(&opened.map_err(|error| ErrorDoc::new(open::open_text(error)))?)
}
