//! `umd monitor`: sees what happens to arrays, and tells.
//!
//! ```text
//!   daemon, each `umd serve` --server-sent events--> ears --+
//!                            --/v1/arrays, each delay-------+--> watch --Alert--> deliver
//!                                                                 (pure)          program, mail,
//!                                                                                 syslog, stdout
//! ```
//!
//! Event names, arguments and mails are those of mdadm.

pub mod deliver;
pub mod ears;
pub mod sharing;
pub mod watch;
