//! What an administrator is certain of, said over the control API.

use axum::extract::{Path as Segment, State};
use axum::response::Response;

use super::control::{Body, Refusals, Shared, asked, understood};
use super::household::{Answer, Household, stopped};
use crate::api::{ConfirmDeadRequest, DoneDoc, ErrorDoc};

/// A node of a cluster is dead for certain: its bitmap is taken over, and writes go on.
#[utoipa::path(
    post,
    path = "/v1/arrays/{name}/cluster/confirm-dead",
    params(("name" = String, Path, description = "The array")),
    request_body = ConfirmDeadRequest,
    responses((status = 200, body = DoneDoc), Refusals)
)]
pub(super) async fn confirm_dead(
    State(shared): State<Shared>,
    Segment(name): Segment<String>,
    body: Body<ConfirmDeadRequest>,
) -> Response {
    match understood(body) {
        Ok(request) => {
            let work = shared.household.confirm_dead(&name, request.node);
            asked(&shared, &name, work).await
        }
        Err(response) => *response,
    }
}

impl Household {
    /// An administrator is certain that a node of an array's cluster is dead.
    ///
    /// # Errors
    /// When nobody waits for that.
    pub async fn confirm_dead(&self, name: &str, node: u16) -> Answer<DoneDoc> {
        let handle = self.handle(name)?;
        let answer = handle.confirm_dead(node).await.map_err(stopped(name))?;
        answer.map_err(|why| ErrorDoc::new(format!("{name}: {why}")))?;
        let text = format!("{name}: node {node} counts as dead; its bitmap is taken over.");
        Ok(DoneDoc {
            messages: vec![text],
            ..DoneDoc::plain()
        })
    }
}
