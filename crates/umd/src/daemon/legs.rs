//! A running RAID1 gets more devices, or fewer.

use axum::extract::{Path as Segment, State};
use axum::response::Response;
use umd_core::array::{Control, LegsWish};

use super::array::Handle;
use super::control::{Body, Refusals, Shared, asked, understood};
use super::household::{Answer, Household, refused, stopped};
use crate::api::{DoneDoc, ErrorDoc, LegsRequest};

/// What mdadm says of a change that is none.
pub fn no_change(name: &str) -> String {
    format!("{name}: no change requested")
}

impl Household {
    /// Gives a RAID1 another number of slots; devices are added for them.
    ///
    /// # Errors
    /// When the array refuses, or one of the devices cannot be added.
    pub async fn legs(&self, name: &str, request: &LegsRequest) -> Answer<DoneDoc> {
        let handle = self.handle(name)?;
        let (before, _) = self.look(name, &handle).await?;
        let status = &before.status;
        let coming = u16::try_from(request.devices.len()).unwrap_or(u16::MAX);
        self.slots(name, (request, coming), true, &handle).await?;
        self.may_come(&request.devices, request.force, status, &handle)
            .await?;
        let mut messages = Vec::new();
        // As spares they have no part in anything yet: whatever goes wrong with one of them, the
        // array is as it was. Where a slot is empty already, they would be filled first.
        let first = status.degraded == 0;
        if first {
            self.add_all(name, request, &mut messages).await?;
        }
        let left = if first { 0 } else { coming };
        let slots = self.slots(name, (request, left), false, &handle).await;
        slots.map_err(|error| after(&messages, error))?;
        messages.push(if request.raid_devices == status.raid_disks {
            no_change(name)
        } else {
            format!("raid_disks for {name} set to {}", request.raid_devices)
        });
        if !first {
            self.add_all(name, request, &mut messages).await?;
        }
        Ok(DoneDoc {
            messages,
            ..DoneDoc::plain()
        })
    }

    async fn slots(
        &self,
        name: &str,
        (request, coming): (&LegsRequest, u16),
        only_asked: bool,
        handle: &Handle,
    ) -> Answer<()> {
        let wish = LegsWish {
            raid_disks: request.raid_devices,
            coming,
            force: request.force,
            only_asked,
        };
        let answer = handle.control(Control::Legs(wish)).await;
        let answer = answer.map_err(stopped(name))?;
        let what = format!("cannot set raid_disks for {name}");
        answer.map(drop).map_err(|error| refused(&what, &error))
    }

    async fn add_all(
        &self,
        name: &str,
        request: &LegsRequest,
        messages: &mut Vec<String>,
    ) -> Answer<()> {
        for device in &request.devices {
            let add = self.manage(name, super::level::adding(device, request.force));
            let added = add.await.map_err(|error| after(messages, error))?;
            messages.extend(added.messages);
        }
        Ok(())
    }
}

/// What was done before it went wrong is told, too.
fn after(messages: &[String], error: ErrorDoc) -> ErrorDoc {
    match messages {
        [] => error,
        done => ErrorDoc::new(format!("{}; {}", done.join("; "), error.error)),
    }
}

/// Another number of devices of a RAID1; answered when it is recorded, spares are filled
/// afterwards.
#[utoipa::path(
    post,
    path = "/v1/arrays/{name}/raid-devices",
    params(("name" = String, Path, description = "The array")),
    request_body = LegsRequest,
    responses((status = 200, body = DoneDoc), Refusals)
)]
pub(super) async fn legs(
    State(shared): State<Shared>,
    Segment(name): Segment<String>,
    body: Body<LegsRequest>,
) -> Response {
    match understood(body) {
        Ok(request) => asked(&shared, &name, shared.household.legs(&name, &request)).await,
        Err(response) => *response,
    }
}
