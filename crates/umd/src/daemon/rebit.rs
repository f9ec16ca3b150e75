//! Bitmaps that come and go while an array runs.
//!
//! ```text
//!   file:  may it? how long? --> laid out, locked --> the engine makes it a bitmap --> kept
//!              |                     |                     |
//!              +-- no byte written   +-- taken away again -+  (unless it was there before)
//! ```

use std::path::Path;

use umd_core::array::{BitmapWish, Control, ControlError, ControlReply, NewBitmap};
use umd_core::value::SECTOR_BYTES;

use super::array::{BitmapOffer, Handle};
use super::beneath;
use super::bitmap_file;
use super::household::{Answer, Household, blocking, nonsense, refused, stopped};
use crate::api::{BitmapRequest, DoneDoc, ErrorDoc};
use crate::doc::{ArrayDoc, NodeDoc};

impl Household {
    /// Takes the bitmap of a running array away, or makes one; makes the array one of a cluster, or
    /// a plain one again; or gives the bitmaps of a cluster's nodes another chunk.
    ///
    /// # Errors
    /// When the array refuses it, or its file cannot be made.
    pub async fn bitmap(&self, name: &str, request: &BitmapRequest) -> Answer<DoneDoc> {
        if let Some(cluster) = &request.cluster {
            return self.turn_clustered(name, cluster, request).await;
        }
        if request.clustered {
            return self.bitmap_chunk(name, request).await;
        }
        let handle = self.handle(name)?;
        match self.look(name, &handle).await?.1.cluster {
            Some(cluster) => self.turn_plain(name, &cluster.name, request).await,
            None => self.bitmap_of_one(name, request).await,
        }
    }

    async fn bitmap_of_one(&self, name: &str, request: &BitmapRequest) -> Answer<DoneDoc> {
        let handle = self.handle(name)?;
        let new = NewBitmap {
            region_bytes: request.chunk_bytes,
            write_behind: request.write_behind,
            offset_sectors: request.offset_sectors,
        };
        if request.offset_sectors.is_some() && !request.internal {
            let text = "only a bitmap on the members lies somewhere on them";
            return Err(nonsense(text.into()));
        }
        let done = match (&request.file, request.internal) {
            (Some(_), true) => {
                let text = "a bitmap lies in a file or on the members, not both";
                return Err(nonsense(text.into()));
            }
            (Some(path), false) => {
                self.bitmap_file(name, &handle, path, (new, request.force))
                    .await?;
                format!(
                    "added a bitmap to {name}, in {path}: name it when the array is assembled \
                     (--bitmap={path})"
                )
            }
            (None, true) => {
                let wish = Control::Bitmap(BitmapWish::Internal(new));
                let answer = handle.control(wish).await.map_err(stopped(name))?;
                answer.map_err(|error| match &error {
                    // Never, wherever the array is and whatever it does.
                    ControlError::Invalid(_) | ControlError::TooSmall(_)
                        if new.offset_sectors.is_some() =>
                    {
                        nonsense(format!("{}: {error}", cannot_add(name)))
                    }
                    _ => refused(&cannot_add(name), &error),
                })?;
                format!("added a bitmap to {name}")
            }
            (None, false) => {
                let file = self.look(name, &handle).await?.1.bitmap;
                let wish = Control::Bitmap(BitmapWish::None);
                let answer = handle.control(wish).await.map_err(stopped(name))?;
                let what = format!("cannot remove the bitmap of {name}");
                answer.map_err(|error| refused(&what, &error))?;
                match file.and_then(|bitmap| bitmap.path) {
                    Some(path) => format!(
                        "removed the bitmap of {name}: its file {path} is of no use any more"
                    ),
                    None => format!("removed the bitmap of {name}"),
                }
            }
        };
        let mut done = DoneDoc {
            messages: vec![done],
            ..DoneDoc::plain()
        };
        if request.write_behind > 0 {
            let array = self.look(name, &handle).await?.1;
            if !array.members.iter().any(|member| member.write_mostly) {
                done.messages.push(format!(
                    "no member of {name} is write-mostly: no write lags until one is (umd manage \
                     {name} --write-mostly DEVICE)"
                ));
            }
        }
        Ok(done)
    }

    /// Has the bits of all nodes of a cluster stand for another length.
    async fn bitmap_chunk(&self, name: &str, request: &BitmapRequest) -> Answer<DoneDoc> {
        let handle = self.handle(name)?;
        let other = BitmapRequest {
            clustered: true,
            chunk_bytes: request.chunk_bytes,
            ..BitmapRequest::default()
        };
        let Some(bytes) = request.chunk_bytes.filter(|_| *request == other) else {
            let text = "of the bitmaps of a cluster's nodes only the chunk is changed";
            return Err(nonsense(text.into()));
        };
        let before = chunk_kib(&self.look(name, &handle).await?.1);
        let answer = handle.control(Control::Rechunk(bytes)).await;
        let what = format!("cannot change the bitmaps of {name}");
        let answer = answer.map_err(stopped(name))?;
        answer.map_err(|error| refused(&what, &error))?;
        let message = match (before, u64::from(bytes) / 1024) {
            (from, to) if from == to => {
                format!("each bit of the bitmaps of {name} stands for {to} KiB, as before")
            }
            (from, to) => format!(
                "each bit of the bitmaps of {name} stands for {to} KiB from now on, {from} KiB \
                 before"
            ),
        };
        Ok(DoneDoc {
            messages: vec![message],
            ..DoneDoc::plain()
        })
    }

    async fn bitmap_file(
        &self,
        name: &str,
        handle: &Handle,
        path: &str,
        (new, over): (NewBitmap, bool),
    ) -> Answer<()> {
        let cannot = |text: &str| ErrorDoc::new(format!("{}: {text}", cannot_add(name)));
        if handle.how().overlay.is_some() {
            return Err(cannot(&format!(
                "it runs with --overlay, which leaves members alone, and would not leave {path} \
                 alone"
            )));
        }
        let room = handle.control(Control::BitmapRoom(new)).await;
        let room = room.map_err(stopped(name))?;
        let sectors = match room.map_err(|error| refused(&cannot_add(name), &error))? {
            ControlReply::Room { sectors } => sectors,
            other => return Err(cannot(&format!("an answer to something else: {other:?}"))),
        };
        let array_sectors = handle.export().size_sectors;
        if let Some(nbd) = beneath::nbd_of_size(Path::new(path), array_sectors) {
            return Err(cannot(&format!(
                "{path} lies on {nbd}, an NBD device as long as {name} itself: on its own export \
                 it would wait for itself; take a path on another disk"
            )));
        }
        let (to, how) = (path.to_owned(), handle.how());
        let laid =
            blocking(move || bitmap_file::lay_out(&to, sectors * SECTOR_BYTES, over, &how)).await;
        let (made, opened) = match laid {
            Ok(laid) => laid,
            Err(error) => return Err(self.explain(error).await),
        };
        let offer = BitmapOffer {
            file: opened.file,
            name: opened.name,
            new,
        };
        let answer = handle.keep_bitmap(offer).await.map_err(stopped(name))?;
        answer.map_err(|error| refused(&cannot_add(name), &error))?;
        made.keep();
        Ok(())
    }
}

/// What a bit of its bitmaps stands for, in KiB; nothing without one.
pub fn chunk_kib(array: &ArrayDoc) -> u64 {
    array
        .bitmap
        .as_ref()
        .map_or(0, |bitmap| bitmap.chunk_bytes / 1024)
}

/// Why an array does not leave its cluster: who else is in it, or may be.
pub fn company(array: &ArrayDoc) -> Option<String> {
    let cluster = array.cluster.as_ref()?;
    let named = |node: &NodeDoc| match &node.host {
        Some(host) => format!("node {} ({host})", node.node),
        None => format!("node {}", node.node),
    };
    let of = |state: &str| {
        let nodes = cluster.nodes.iter().filter(|node| node.state == state);
        nodes.map(named).collect::<Vec<String>>()
    };
    let (others, dead) = (of("member"), of("dead"));
    let name = &array.name;
    let mut why = Vec::new();
    if !others.is_empty() {
        let (verb, others) = (verb(&others, "runs", "run"), others.join(", "));
        why.push(format!(
            "{others} {verb} it as well: umd stop {name} there first"
        ));
    }
    if !dead.is_empty() {
        let (verb, dead) = (verb(&dead, "is", "are"), dead.join(", "));
        why.push(format!("{dead} {verb} not known to have ended"));
    }
    if cluster.frozen.is_some() && why.is_empty() {
        why.extend(cluster.frozen.clone());
    }
    (!why.is_empty()).then(|| why.join("; "))
}

fn verb<'a>(nodes: &[String], one: &'a str, several: &'a str) -> &'a str {
    match nodes {
        [_] => one,
        _ => several,
    }
}

fn cannot_add(name: &str) -> String {
    format!("cannot add a bitmap to {name}")
}
