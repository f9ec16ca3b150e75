//! A client's claim on an object, from the moment it asks until it is gone.
//!
//! ```text
//!   Registry::open --> Visit --(answered)--> Admission, kept with the connection --drop--> closed
//!                        \--drop--> given up
//! ```

use std::fmt;

use umd_core::registry::{ObjectId, Ticket};
use umd_export::nbd::{Opened, Opening, Pass, Socket, Transmission, Waiting};

use super::array::{Handle, Message};
use super::registry::Registry;
use crate::cli::outcome::say;

/// An open that may have to wait.
pub(super) struct Visit {
    registry: Registry,
    /// `None` once it was answered.
    ticket: Option<Ticket>,
}

/// An open: dropping it closes.
pub struct Admission {
    registry: Registry,
    ticket: Ticket,
    id: ObjectId,
    /// The array; `None` when it is none.
    array: Option<Handle>,
}

impl Visit {
    pub(super) fn new(registry: Registry, ticket: Ticket) -> Visit {
        let ticket = Some(ticket);
        Visit { registry, ticket }
    }

    pub(super) fn opening(mut self) -> Opening {
        match self.look() {
            Some(Some(opened)) => Opening::Open(Box::new(opened)),
            Some(None) => Opening::Refused,
            None => Opening::Waits(Box::new(self)),
        }
    }
}

impl Waiting for Visit {
    fn look(&mut self) -> Option<Option<Opened>> {
        let ticket = self.ticket.expect("nobody looks after the answer");
        let answer = self.registry.visit(ticket)?;
        let Some((id, info, array)) = answer else {
            return Some(None); // Dropping this gives the claim up.
        };
        self.ticket = None;
        let admission = Admission {
            registry: self.registry.clone(),
            ticket,
            id,
            array,
        };
        let pass: Pass = Box::new(admission);
        let pass = Some(pass);
        Some(Some(Opened { info, pass }))
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.registry.close_visit(ticket);
        }
    }
}

impl fmt::Debug for Visit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Visit")
            .field("ticket", &self.ticket)
            .finish()
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.registry.close_visit(self.ticket);
    }
}

/// Hands a client whose negotiation is over to what it has opened, and to nothing else.
pub fn hand_on(socket: Socket, transmission: Transmission) {
    let pass = transmission.pass.as_ref();
    let admission = pass.and_then(|pass| pass.downcast_ref::<Admission>());
    let Some(admission) = admission else {
        return; // Nobody has let it in: closing is the answer.
    };
    match admission.array.clone() {
        // One that has ended meanwhile: closing is the answer.
        Some(array) => drop(array.send(Message::Connection(socket, Box::new(transmission)))),
        None => match admission.registry.lobby() {
            Ok(lobby) => lobby.admit(admission.id, socket, transmission),
            Err(error) => say(&format!("a client was turned away: {error}")),
        },
    }
}
