//! What is asked of the tables of arrays (`reserved`): by NBD clients in their handshake, and over
//! the control API.
//!
//! ```text
//!   NBD client --Exports::demand--> a thread --> table --> answer, then the doors are woken
//!   control API ------------------> a thread of the pool --'
//! ```

use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{Path as Segment, State};
use axum::response::Response;
use umd_export::nbd::{Deciding, Demand, Denied, parse_key};

use super::control::{Body, Refusals, Shared, answer, asked, understood};
use super::household::{Answer, Household, blocking, nonsense};
use super::registry::Registry;
use super::reserved::{self, Reserved};
use crate::api::{DoneDoc, ErrorDoc, ReservationsDoc, ReservationsRequest, SCHEMA};

/// Stack of a thread that asks a table.
const STACK_BYTES: usize = 256 << 10;

fn not_offered(name: &str) -> String {
    format!(
        "{name} has no reservations: its cluster runs it here, or nothing can be kept on this host \
         (neither XDG_STATE_HOME nor HOME is set)"
    )
}

/// A demand of an NBD client.
#[derive(Debug, Clone, Default)]
struct Asked(Arc<Mutex<Option<Result<(), Denied>>>>);

impl Deciding for Asked {
    fn look(&mut self) -> Option<Result<(), Denied>> {
        let mut answer = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        answer.take()
    }
}

/// Asks the table of an array, by a thread of its own.
///
/// # Errors
/// When there is no such array, it has no table, or there is no thread.
pub(super) fn begin(
    registry: &Registry,
    name: &str,
    demand: Demand,
) -> Result<Box<dyn Deciding>, Denied> {
    let handle = registry.get(name);
    let handle = handle.ok_or_else(|| Denied::Failed(format!("{name} is not an active array")))?;
    let Some(reserved) = handle.reserved() else {
        return Err(Denied::NotOffered(not_offered(name)));
    };
    let place = reserved.place()?;
    let (asked, registry) = (Asked::default(), registry.clone());
    let slot = asked.0.clone();
    let thread = std::thread::Builder::new()
        .name("nbd-demand".into())
        .stack_size(STACK_BYTES);
    let spawned = thread.spawn(move || {
        let met = place.meet(demand);
        *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(met);
        registry.ring_doors();
    });
    match spawned {
        Ok(_) => Ok(Box::new(asked)),
        Err(error) => Err(Denied::Failed(format!("it cannot be asked: {error}"))),
    }
}

/// Who may write to an array that is served: the keys that are registered, and whether that counts.
#[utoipa::path(
    get,
    path = "/v1/arrays/{name}/reservations",
    params(("name" = String, Path, description = "The array")),
    responses((status = 200, body = ReservationsDoc), Refusals)
)]
pub(super) async fn reservations(
    State(shared): State<Shared>,
    Segment(name): Segment<String>,
) -> Response {
    answer(shared.household.reservations(&name))
}

/// Registers a key, takes one away, or reserves the array for those who have one.
#[utoipa::path(
    post,
    path = "/v1/arrays/{name}/reservations",
    params(("name" = String, Path, description = "The array")),
    request_body = ReservationsRequest,
    responses((status = 200, body = DoneDoc), Refusals)
)]
pub(super) async fn reserve(
    State(shared): State<Shared>,
    Segment(name): Segment<String>,
    body: Body<ReservationsRequest>,
) -> Response {
    match understood(body) {
        Ok(request) => {
            let work = shared.household.reserve(&name, request);
            asked(&shared, &name, work).await
        }
        Err(response) => *response,
    }
}

/// What is to be done to a table.
enum Wish {
    Clear,
    Demand(Demand),
}

fn key(what: &str, text: Option<&String>) -> Answer<u64> {
    let text = text.ok_or_else(|| nonsense(format!("{what} is missing")))?;
    parse_key(text).ok_or_else(|| {
        nonsense(format!(
            "{what} '{text}' is no key: one to sixteen hexadecimal digits are, and not zero"
        ))
    })
}

fn wish(request: &ReservationsRequest) -> Answer<Wish> {
    let own = || key("key", request.key.as_ref());
    let demand = match request.operation.as_str() {
        "clear" => return Ok(Wish::Clear),
        "register" => Demand::Register(own()?),
        "unregister" => Demand::Unregister(own()?),
        "reserve" => Demand::Reserve(own()?),
        "preempt-abort" => Demand::PreemptAbort {
            key: own()?,
            victim: key("victim", request.victim.as_ref())?,
        },
        other => {
            return Err(nonsense(format!(
                "'{other}' is no operation on reservations: register, unregister, reserve, \
                 preempt-abort and clear are"
            )));
        }
    };
    Ok(Wish::Demand(demand))
}

impl Household {
    fn table(&self, name: &str) -> Answer<Arc<Reserved>> {
        let handle = self.handle(name)?;
        let table = handle.reserved().cloned();
        table.ok_or_else(|| ErrorDoc::new(not_offered(name)))
    }

    /// Who may write to an array.
    ///
    /// # Errors
    /// When it does not run, or has no table.
    pub fn reservations(&self, name: &str) -> Answer<ReservationsDoc> {
        let table = self.table(name)?;
        let state = table.state();
        Ok(ReservationsDoc {
            schema: SCHEMA,
            reserved: state.reserved,
            registered: reserved::words(&state.registered),
            preempted: reserved::words(&state.preempted),
            writes_refused: table.refused(),
        })
    }

    /// Changes who may write to an array.
    ///
    /// # Errors
    /// When it makes no sense, or the table refuses.
    pub async fn reserve(&self, name: &str, request: ReservationsRequest) -> Answer<DoneDoc> {
        let wish = wish(&request)?;
        let (table, name) = (self.table(name)?, name.to_owned());
        blocking(move || {
            let met = match wish {
                Wish::Clear => table.clear(),
                Wish::Demand(demand) => table.meet(demand),
            };
            met.map_err(|denied| ErrorDoc::new(format!("{name}: {}", denied.text())))
        })
        .await?;
        Ok(DoneDoc::plain())
    }
}
