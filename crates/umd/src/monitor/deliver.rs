//! Telling: a program, a mail, the system log, or stdout.

use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::watch::Alert;
use crate::cli::outcome::{Failure, print, say};

/// Where alerts go. Where none of these is given, to stdout.
#[derive(Debug, Clone, Default)]
pub struct Channels {
    /// A program, run with the event, the array and the member.
    pub program: Option<String>,
    /// A mail address.
    pub mail_to: Option<String>,
    /// The sender of mails.
    pub mail_from: Option<String>,
    /// The system log.
    pub syslog: bool,
    /// This machine's name.
    pub host: String,
}

/// Where the system log listens, unless `UMD_SYSLOG` says otherwise.
const SYSLOG: &str = "/dev/log";
/// Where sendmail is, unless `UMD_SENDMAIL` says otherwise; else it is looked for in PATH.
const SENDMAIL: [&str; 2] = ["/usr/sbin/sendmail", "/usr/lib/sendmail"];
/// The facility `daemon` of the system log.
const FACILITY: u8 = 3 << 3;

/// The level of an event in the system log: critical, warning or information.
fn level(event: &str) -> u8 {
    match event {
        "DeviceDisappeared" | "Fail" | "FailSpare" | "DegradedArray" => 2,
        "SparesMissing" => 4,
        event if event.starts_with("Rebuild") => 4,
        _ => 6,
    }
}

/// Whether an event is worth a mail.
fn is_mailed(event: &str) -> bool {
    matches!(
        event,
        "Fail" | "FailSpare" | "DegradedArray" | "SparesMissing" | "TestMessage"
    )
}

impl Channels {
    /// Tells of one event. What cannot be told is said on stderr; the monitor goes on.
    ///
    /// # Errors
    /// When stdout is where it goes, and takes nothing.
    pub fn tell(&self, alert: &Alert, mdstat: impl Fn() -> String) -> Result<(), Failure> {
        if self.program.is_none() && self.mail_to.is_none() && !self.syslog {
            let time = jiff::Zoned::now().strftime("%b %e %H:%M:%S").to_string();
            let detail = alert.detail.as_deref().unwrap_or("unknown device");
            let (event, array) = (&alert.event, &alert.array);
            return print(&format!("{time}: {event} on {array} {detail}\n"));
        }
        if let Some(program) = &self.program
            && let Err(error) = run(program, alert)
        {
            say(&format!("cannot run {program}: {error}"));
        }
        if let Some(to) = &self.mail_to
            && is_mailed(&alert.event)
            && let Err(error) = send(&self.mail(to, alert, &mdstat()))
        {
            say(&format!("cannot send mail to {to}: {error}"));
        }
        if self.syslog
            && let Err(error) = log(alert)
        {
            say(&format!("cannot write to the system log: {error}"));
        }
        Ok(())
    }

    /// The mail, as mdadm writes it.
    fn mail(&self, to: &str, alert: &Alert, mdstat: &str) -> String {
        // What was read from files must not begin a header of its own.
        let clean = |text: &str| text.replace(['\r', '\n'], " ");
        let from = self.mail_from.as_deref();
        let from = from.map_or("mdadm monitoring <root>".to_owned(), clean);
        let Alert {
            event,
            array,
            detail,
        } = alert;
        let host = &self.host;
        let about = match detail {
            Some(detail) if detail.starts_with(' ') => format!("It could be related to{detail}.\n"),
            Some(member) => format!("It could be related to component device {member}.\n"),
            None => String::new(),
        };
        let about = match about.is_empty() {
            true => about,
            false => format!("\n{about}"),
        };
        format!(
            "From: {from}\nTo: {}\nSubject: {event} event on {array}:{host}\n\n\
             This is an automatically generated mail message from mdadm\nrunning on {host}\n\n\
             A {event} event had been detected on md device {array}.\n{about}\n\
             Faithfully yours, etc.\n\n\
             P.S. The /proc/mdstat file currently contains the following:\n\n{mdstat}",
            clean(to)
        )
    }
}

fn run(program: &str, alert: &Alert) -> io::Result<()> {
    let status = Command::new(program)
        .arg(&alert.event)
        .arg(&alert.array)
        .args(&alert.detail)
        .stdin(Stdio::null())
        .status();
    status.map(drop) // How it ended is its own affair, as in mdadm.
}

fn sendmail() -> PathBuf {
    if let Some(path) = std::env::var_os("UMD_SENDMAIL") {
        return path.into();
    }
    let known = SENDMAIL.iter().map(PathBuf::from);
    let found = known.into_iter().find(|path| path.exists());
    found.unwrap_or_else(|| "sendmail".into())
}

fn send(mail: &str) -> io::Result<()> {
    let mut child = Command::new(sendmail())
        .arg("-t")
        .stdin(Stdio::piped())
        .spawn()?;
    let mut pipe = child.stdin.take().expect("its stdin is a pipe");
    let written = pipe.write_all(mail.as_bytes());
    drop(pipe);
    let status = child.wait()?;
    written?;
    match status.success() {
        true => Ok(()),
        false => Err(io::Error::other(format!("sendmail ended with {status}"))),
    }
}

fn log(alert: &Alert) -> io::Result<()> {
    let path = std::env::var_os("UMD_SYSLOG").map_or_else(|| PathBuf::from(SYSLOG), PathBuf::from);
    let socket = UnixDatagram::unbound()?;
    let time = jiff::Zoned::now().strftime("%b %e %H:%M:%S").to_string();
    let priority = FACILITY | level(&alert.event);
    let mut text = format!(
        "<{priority}>{time} umd[{}]: {} event detected on md device {}",
        std::process::id(),
        alert.event,
        alert.array
    );
    if let Some(detail) = &alert.detail {
        text.push_str(&match detail.strip_prefix(' ') {
            Some(remark) => format!(": {remark}"),
            None => format!(", component device {detail}"),
        });
    }
    socket.send_to(text.as_bytes(), path).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mail_reads_as_mdadms() {
        let channels = Channels {
            mail_from: Some("Me <a@b>\nBcc: x".into()),
            host: "nas".into(),
            ..Channels::default()
        };
        let alert = Alert {
            event: "DegradedArray".into(),
            array: "/dev/md/r5".into(),
            detail: None,
        };
        assert_eq!(
            channels.mail("root@x", &alert, "Personalities : \n"),
            "From: Me <a@b> Bcc: x\nTo: root@x\nSubject: DegradedArray event on /dev/md/r5:nas\n\n\
             This is an automatically generated mail message from mdadm\nrunning on nas\n\n\
             A DegradedArray event had been detected on md device /dev/md/r5.\n\n\
             Faithfully yours, etc.\n\n\
             P.S. The /proc/mdstat file currently contains the following:\n\nPersonalities : \n"
        );
        let alert = Alert {
            detail: Some("/x/a.img".into()),
            ..alert
        };
        let mail = channels.mail("root@x", &alert, "");
        assert!(mail.contains("r5.\n\nIt could be related to component device /x/a.img.\n\nFaith"));
    }

    #[test]
    fn events_have_mdadms_levels() {
        assert_eq!(level("Fail"), 2);
        assert_eq!(level("Rebuild40"), 4);
        assert_eq!(level("SpareActive"), 6);
        assert!(is_mailed("Fail") && !is_mailed("RebuildFinished"));
    }
}
