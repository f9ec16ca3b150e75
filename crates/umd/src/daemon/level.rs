//! A running array becomes one of another level, or gets another layout.

use axum::extract::{Path as Segment, State};
use axum::response::Response;
use umd_core::array::{Control, LayoutWish, LevelWish, Status};
use umd_core::geometry::{Shape, convert};
use umd_format::Level;

use super::array::Handle;
use super::control::{Body, Refusals, Shared, asked, understood};
use super::household::{Answer, Household, blocking, nonsense, open_candidate, refused, stopped};
use crate::api::{DoneDoc, ErrorDoc, LevelRequest, ManageRequest};
use crate::doc::level_word;
use crate::words;

/// The least that a superblock at the end of a member takes: itself, and what aligns it.
const BEHIND_SECTORS: u64 = 16;

/// What a request asks for, of an array of this level.
///
/// # Errors
/// When a word means nothing.
pub fn wish(request: &LevelRequest, current: i32) -> Result<LevelWish, String> {
    let number = match &request.level {
        None => current,
        Some(word) => {
            words::level_number(word).ok_or_else(|| format!("invalid raid level: {word}"))?
        }
    };
    let layout = match request.layout.as_deref() {
        None => LayoutWish::Default,
        Some("preserve") => LayoutWish::Preserve,
        Some(word) => {
            let known = words::layout_number(number, word);
            let known = known.and_then(|layout| u32::try_from(layout).ok());
            let level = level_word(number);
            let known = known.ok_or_else(|| format!("layout {word} not understood for {level}."));
            LayoutWish::Number(known?)
        }
    };
    Ok(LevelWish {
        level: Level::from_raw(number),
        layout,
        coming: u16::try_from(request.devices.len()).unwrap_or(u16::MAX),
        force: request.force,
    })
}

pub(super) fn adding(device: &str, force: bool) -> ManageRequest {
    ManageRequest {
        operation: "add".into(),
        device: device.into(),
        with: None,
        write_mostly: None,
        failfast: None,
        force,
        bad_block_log: None,
    }
}

/// What a device has to have to hold the data of a member where the others hold theirs.
fn needed_sectors(status: &Status) -> u64 {
    let holding = || status.members.iter().filter(|one| one.slot.is_some());
    let least = holding().map(|one| one.data_size_sectors).min();
    let used = match status.dev_sectors {
        0 => least.unwrap_or(0),
        used => used,
    };
    let before = holding().map(|one| one.data_offset_sectors).max();
    // A superblock that does not lie before the data lies behind it.
    used + before
        .filter(|before| *before > 0)
        .unwrap_or(BEHIND_SECTORS)
}

fn shape(status: &Status) -> Shape {
    Shape {
        level: Level::from_raw(status.level),
        layout: u32::try_from(status.layout).unwrap_or(0),
        raid_disks: status.raid_disks,
    }
}

impl Household {
    /// Changes level or layout; devices are added when that is recorded.
    ///
    /// # Errors
    /// When the array refuses, or one of the devices cannot be added.
    pub async fn level(&self, name: &str, request: &LevelRequest) -> Answer<DoneDoc> {
        let handle = self.handle(name)?;
        let (before, _) = self.look(name, &handle).await?;
        let status = &before.status;
        let wish = wish(request, status.level).map_err(nonsense)?;
        let target = convert(shape(status), wish.level, wish.layout);
        let target = target.map(|conversion| conversion.result(shape(status)));
        if let (Ok(target), Some(wanted)) = (&target, request.raid_devices)
            && target.raid_disks != wanted
        {
            return Err(nonsense(format!(
                "{} of {wanted} devices cannot be had in this version: it has {} here",
                target.level, target.raid_disks
            )));
        }
        self.may_come(&request.devices, request.force, status, &handle)
            .await?;
        let answer = handle.control(Control::Level(wish)).await;
        let what = format!("cannot change the level or layout of {name}");
        let answer = answer.map_err(stopped(name))?;
        answer.map_err(|error| refused(&what, &error))?;
        let (now, _) = self.look(name, &handle).await?;
        let mut messages = self.told(name, status, &now.status);
        for device in &request.devices {
            let add = self.manage(name, adding(device, request.force));
            let added = add.await.map_err(|error| {
                let text = error.error;
                ErrorDoc::new(format!("{}; {text}", messages.join("; ")))
            })?;
            messages.extend(added.messages);
        }
        Ok(DoneDoc {
            messages,
            ..DoneDoc::plain()
        })
    }

    /// Whether all devices that are to be added can be, before anything is changed for them.
    pub(super) async fn may_come(
        &self,
        devices: &[String],
        force: bool,
        status: &Status,
        handle: &Handle,
    ) -> Answer<()> {
        let (needed, block_bytes) = (needed_sectors(status), status.logical_block_bytes);
        let devices = devices.to_vec();
        let (uuid, how) = (status.uuid, handle.how());
        let opened = blocking(move || {
            // All of them at the same time: none is named twice.
            let mut offers = Vec::new();
            for device in &devices {
                let offer = open_candidate(&adding(device, force), uuid, &how)?;
                if offer.file.size_sectors() < needed {
                    let text = format!("{device} not large enough to join array");
                    return Err(ErrorDoc::new(text));
                }
                let blocks = offer.file.logical_block_bytes();
                if blocks > block_bytes {
                    let offered = format!("the array offers {block_bytes}");
                    let text = format!("{device} has logical blocks of {blocks} bytes, {offered}");
                    return Err(ErrorDoc::new(text));
                }
                offers.push(offer);
            }
            Ok(())
        });
        match opened.await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.explain(error).await),
        }
    }

    fn told(&self, name: &str, before: &Status, now: &Status) -> Vec<String> {
        let mut messages = Vec::new();
        if before.level != now.level {
            let level = level_word(now.level);
            messages.push(format!("level of {name} changed to {level}"));
        }
        let word = |level, layout| {
            words::layout_name(level, layout).unwrap_or_else(|| format!("layout {layout}"))
        };
        if let Some(reshape) = &now.reshape {
            let new = i32::try_from(reshape.new_layout).unwrap_or(-1);
            let (old, new) = (word(now.level, now.layout), word(now.level, new));
            let then = reshape.then_level.map_or(String::new(), |level| {
                format!(", and becomes {} when that is over", level_word(level))
            });
            messages.push(format!("{name} is reshaped from {old} to {new}{then}"));
        } else if before.level == now.level {
            let layout = word(now.level, now.layout);
            messages.push(format!("layout of {name} changed to {layout}"));
        }
        messages
    }
}

/// Another level or layout; answered when it is recorded, data is moved afterwards.
#[utoipa::path(
    post,
    path = "/v1/arrays/{name}/level",
    params(("name" = String, Path, description = "The array")),
    request_body = LevelRequest,
    responses((status = 200, body = DoneDoc), Refusals)
)]
pub(super) async fn level(
    State(shared): State<Shared>,
    Segment(name): Segment<String>,
    body: Body<LevelRequest>,
) -> Response {
    match understood(body) {
        Ok(request) => asked(&shared, &name, shared.household.level(&name, &request)).await,
        Err(response) => *response,
    }
}
