//! The household: runs arrays, owns the control socket and the NBD socket.
//!
//! | file        | what                                                             |
//! | ----------- | ---------------------------------------------------------------- |
//! | `array`     | an array's handle, and what is said to its thread                |
//! | `run`       | that thread: one loop over messages, member I/O and connections  |
//! | `engine`    | the wall around the engine: a broken invariant freezes one array |
//! | `gathering` | arrays whose members arrive one by one, until they are enough     |
//! | `incremental` | what the control API does about them                           |
//! | `scrubs`    | what checks and repairs found, kept in a file for each array     |
//! | `sync`      | threads, locks and sleep: the system's, or shuttle's               |
//! | `rebit`     | bitmaps that come and go while an array runs                     |
//! | `beneath`   | what the filesystem of a path lies on                            |
//! | `room`      | sparse members and filesystems too small for them                |
//! | `reserved`  | who may write to what is served, kept beyond the daemon          |
//! | `demands`   | what NBD clients and the control API ask of that                 |
//! | `doors`     | its NBD connections                                              |
//! | `memory`    | what runs, for the next daemon                                   |
//! | `meter`     | how long requests and member I/O take                             |
//! | `metrics`   | all that as Prometheus reads it                                  |
//! | `level`     | another level or layout                                          |
//! | `size`      | another size                                                     |
//! | `registry`  | the names, on the core's machine; who waits for whom             |
//! | `admission` | a client's claim on what it has open                             |
//! | `lobby`     | clients of what is no array                                      |
//! | `state`     | md's words for the state of an array, and what writing them does |
//! | `opening`   | which doors are to be open, with which keys                      |
//! | `remote`    | the control API over TCP, with TLS, certificates or a token      |
//! | `tls`       | keys and certificates, read and judged                           |
//! | `passed`    | sockets that the service manager keeps open                      |
//! | `fdstore`   | doors of our own that it keeps for the next daemon               |
//! | `page`      | the page for browsers, and what it shows                         |
//! | `web`       | its door: on this machine only, with a token                     |
//! | `notices`   | the engine's notices as events and log lines                     |

pub mod activity;
pub mod admission;
pub mod array;
pub mod beneath;
pub mod bitmap_file;
pub mod cluster;
pub mod confirm;
pub mod control;
pub mod create;
pub mod demands;
pub mod doors;
pub mod engine;
mod fdstore;
pub mod gathering;
pub mod household;
pub mod incremental;
pub mod join;
mod launch;
pub mod listener;

pub mod legs;
pub mod level;
pub mod lobby;
pub mod memory;
pub mod meter;
pub mod metrics;
pub mod notices;
pub mod open;
pub mod opening;
pub mod page;
mod parameters;
pub mod passed;
mod polling;
pub mod process;
pub mod rebit;
pub mod registry;
pub mod remote;
pub mod reserved;
pub mod room;
pub mod run;
pub mod scrubs;
pub mod secrets;
pub mod size;
pub mod start;
pub mod state;
mod sync;
pub mod tls;
pub mod turn;
pub mod update;
pub mod web;
