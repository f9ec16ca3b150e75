//! What people and their scripts read: pure functions from documents to mdadm's text.

pub mod bitmap;
pub mod detail;
pub mod examine;
pub mod mdstat;
pub mod progress;
pub mod query;

use jiff::tz::TimeZone;
use umd_format::Uuid;

/// What rendering depends on besides the document.
#[derive(Debug, Clone)]
pub struct Context {
    /// Times are printed in this zone.
    pub zone: TimeZone,
    /// This machine's name, for `(local to host ...)`.
    pub host: String,
}

impl Context {
    /// The zone and name of this machine.
    pub fn system() -> Context {
        Context {
            zone: TimeZone::system(),
            host: rustix::system::uname()
                .nodename()
                .to_string_lossy()
                .into_owned(),
        }
    }

    /// A time as mdadm prints it: `Wed Jan  1 00:16:40 2020`.
    pub fn time(&self, seconds: u64) -> String {
        let stamp = i64::try_from(seconds)
            .ok()
            .and_then(|s| jiff::Timestamp::from_second(s).ok());
        match stamp {
            Some(stamp) => {
                let zoned = stamp.to_zoned(self.zone.clone());
                zoned.strftime("%a %b %e %H:%M:%S %Y").to_string()
            }
            None => format!("@{seconds}"),
        }
    }

    /// `  (local to host H)` behind a set name of this host, otherwise nothing.
    pub fn local_tail(&self, set_name: &str) -> String {
        match set_name.split_once(':') {
            Some((host, _)) if host == self.host => format!("  (local to host {host})"),
            _ => String::new(),
        }
    }
}

impl Context {
    /// The same behind a UUID of version 0.90, whose second half tells the host.
    pub fn local_uuid_tail(&self, uuid: Uuid) -> String {
        match umd_format::v090::with_host(uuid, &self.host) == uuid {
            true => format!(" (local to host {})", self.host),
            false => String::new(),
        }
    }
}

/// The array part of a set name: what follows the host.
pub fn short_name(set_name: &str) -> &str {
    set_name.split_once(':').map_or(set_name, |(_, name)| name)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn context() -> Context {
        Context {
            zone: TimeZone::UTC,
            host: "vm".into(),
        }
    }

    #[test]
    fn times_have_mdadms_shape() {
        assert_eq!(context().time(1_577_837_800), "Wed Jan  1 00:16:40 2020");
        assert_eq!(context().time(0), "Thu Jan  1 00:00:00 1970");
        assert_eq!(context().time(u64::MAX), format!("@{}", u64::MAX));
    }

    #[test]
    fn names_are_local_only_to_their_host() {
        assert_eq!(context().local_tail("vm:5"), "  (local to host vm)");
        assert_eq!(context().local_tail("host:5"), "");
        assert_eq!(context().local_tail("plain"), "");
        assert_eq!(short_name("host:5"), "5");
        assert_eq!(short_name("plain"), "plain");
    }
}
