//! The NBD door, server side; a client for members that are elsewhere ([`Remote`]); and a small
//! one for tests and measurements ([`client`]).
//!
//! Source of every number and rule here: the NBD protocol document (`doc/proto.md` of the NBD
//! project). Fixed newstyle negotiation, simple and structured replies, `base:allocation`, TLS.
//!
//! ```text
//!   Listener --accept--> Reception ---- Negotiation ----> Transmission (what was agreed)
//!                        (any loop)     bytes in, out            |
//!                                                                v
//!   array's loop:  socket readable --> Connection::read_from --> requests for the engine
//!                  engine answered --> Connection::complete, then write_to
//!                  socket writable --> Connection::write_to  --> requests held back till now
//! ```
//!
//! [`Negotiation`] and [`Connection`] are state machines over bytes: they own no descriptor and no
//! thread, and do I/O only through the [`Read`](std::io::Read) and [`Write`](std::io::Write) they
//! are handed, which must not block ([`Socket`] never does). One loop can drive any number of them.
//!
//! What the loop of an array does with a connection:
//!
//! 1. It gives it a number that no other connection of this array has or ever had: request
//!    identities carry it ([`connection_of`]), so a completion that arrives after the connection
//!    was dropped finds nobody, rather than somebody else.
//! 2. It calls [`Connection::read_from`] once at the beginning and then whenever the socket is
//!    readable, and [`Connection::write_to`] after completions and whenever the socket is writable.
//!    Requests come out of both: the limits on what is in flight may have held some back.
//! 3. It waits for readability while [`Connection::wants_read`], for writability while
//!    [`Connection::wants_write`], and drops the connection when [`Connection::is_finished`], on
//!    an error, and when the poller reports a hang-up.
//! 4. Over TLS the socket may hold what it has decrypted: while [`Connection::wants_read`] and
//!    [`Socket::holds_input`], it reads on instead of waiting.
//! 5. Where an export has [`Reservations`], it tells them of each request that ends without its
//!    connection ([`Reservations::ended`]): what was answered after the connection was dropped, and
//!    what came out of it and was thrown away.

mod address;
pub mod client;
mod connection;
mod demand;
mod export;
mod input;
mod listener;
mod negotiation;
mod output;
mod pending;
mod proto;
mod reception;
mod remote;
mod request;
mod reservation;
mod session;
mod socket;
mod status;
mod uri;
mod visitor;

pub use address::{Address, AddressError};
pub use connection::{Connection, ConnectionError, ReadState};
pub use demand::{Deciding, Demand, Denied, NoDemand};
pub use export::{ExportInfo, Exports, REQUEST_BYTES_MAX};
pub use listener::{ListenError, Listener, listen, listen_here};
pub use negotiation::{Negotiation, Progress, Transmission};
pub use pending::{REQUESTS_MAX, connection_of};
pub use reception::Reception;
pub use remote::{Remote, Trouble};
pub use reservation::{Refused, Reservations, State as ReservationState, parse_key};
pub use socket::Socket;
pub use uri::{Uri, UriError};
pub use visitor::{Opened, Opening, Pass, Peer, Waiting};
