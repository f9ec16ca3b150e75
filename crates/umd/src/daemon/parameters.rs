//! What holds for all arrays of this process, as md's module parameters do for all of a kernel.

use std::sync::atomic::Ordering;

use axum::extract::State;
use axum::response::{Json, Response};

use super::control::{Body, Refusals, Shared, answer, understood};
use super::household::{Answer, Household, nonsense};
use crate::api::{ParametersDoc, ParametersRequest, SCHEMA};

impl Household {
    /// What they are.
    pub fn parameters(&self) -> ParametersDoc {
        ParametersDoc {
            schema: SCHEMA,
            start_dirty_degraded: self.start_dirty_degraded.load(Ordering::Relaxed),
        }
    }

    /// Changes those that are named; arrays that run already are not touched.
    ///
    /// # Errors
    /// When none is named.
    pub fn set_parameters(&self, request: &ParametersRequest) -> Answer<ParametersDoc> {
        let Some(may) = request.start_dirty_degraded else {
            return Err(nonsense("no parameter was named".into()));
        };
        self.start_dirty_degraded.store(may, Ordering::Relaxed);
        Ok(self.parameters())
    }
}

/// What holds for all arrays, as md's module parameters do.
#[utoipa::path(
    get,
    path = "/v1/parameters",
    responses((status = 200, body = ParametersDoc), Refusals)
)]
pub async fn parameters(State(shared): State<Shared>) -> Json<ParametersDoc> {
    Json(shared.household.parameters())
}

/// Changes those that are named.
#[utoipa::path(
    post,
    path = "/v1/parameters",
    request_body = ParametersRequest,
    responses((status = 200, body = ParametersDoc), Refusals)
)]
pub async fn set_parameters(
    State(shared): State<Shared>,
    body: Body<ParametersRequest>,
) -> Response {
    match understood(body) {
        Ok(request) => answer(shared.household.set_parameters(&request)),
        Err(response) => *response,
    }
}
