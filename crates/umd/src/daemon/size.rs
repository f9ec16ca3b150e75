//! A running array uses more of each member.

use axum::extract::{Path as Segment, State};
use axum::response::Response;
use umd_core::array::{Control, SizeWish};

use super::control::{Body, Refusals, Shared, asked, understood};
use super::household::{Answer, Household, refused, stopped};
use super::rebit::chunk_kib;
use crate::api::{DoneDoc, SizeRequest};

impl Household {
    /// Gives the array another size; answered when all its hosts have it.
    ///
    /// # Errors
    /// When the array refuses, or a host cannot follow.
    pub async fn size(&self, name: &str, request: &SizeRequest) -> Answer<DoneDoc> {
        let handle = self.handle(name)?;
        let (before, known) = self.look(name, &handle).await?;
        let wish = request.sectors.map_or(SizeWish::Max, SizeWish::Sectors);
        let answer = handle.control(Control::Size(wish)).await;
        let answer = answer.map_err(stopped(name))?;
        let what = format!("cannot change the size of {name}");
        answer.map_err(|error| refused(&what, &error))?;
        let (now, after) = self.look(name, &handle).await?;
        let (from, to) = (before.status.dev_sectors / 2, now.status.dev_sectors / 2);
        let message = match from == to {
            true => format!("{name} uses {to} KiB of each member, as before"),
            false => format!("{name} uses {to} KiB of each member from now on, {from} KiB before"),
        };
        let mut messages = vec![message];
        let (short, long) = (chunk_kib(&known), chunk_kib(&after));
        if short != long {
            messages.push(format!(
                "each bit of the bitmaps stands for {long} KiB, {short} KiB before: they had no \
                 room for more bits"
            ));
        }
        Ok(DoneDoc {
            messages,
            ..DoneDoc::plain()
        })
    }
}

/// Another size; answered when all hosts have it, what was added is resynced afterwards.
#[utoipa::path(
    post,
    path = "/v1/arrays/{name}/size",
    params(("name" = String, Path, description = "The array")),
    request_body = SizeRequest,
    responses((status = 200, body = DoneDoc), Refusals)
)]
pub(super) async fn size(
    State(shared): State<Shared>,
    Segment(name): Segment<String>,
    body: Body<SizeRequest>,
) -> Response {
    match understood(body) {
        Ok(request) => asked(&shared, &name, shared.household.size(&name, &request)).await,
        Err(response) => *response,
    }
}
