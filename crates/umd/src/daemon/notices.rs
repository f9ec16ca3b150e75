//! The engine's notices, as events for programs (mdadm's names) and lines for the log.

use umd_core::array::Notice;
use umd_core::value::MemberId;

use crate::api::{EventDoc, SCHEMA};
use crate::doc::action_word;

/// The event for a notice about `array`; `path` tells where a member is.
pub fn event(
    array: &str,
    notice: &Notice,
    path: impl Fn(MemberId) -> Option<String>,
) -> Option<EventDoc> {
    let (event, member, text) = match notice {
        Notice::Failed { member, why } => ("Fail", path(*member), why.clone()),
        Notice::BadBlocks { member, text, .. } => ("BadBlocks", path(*member), text.clone()),
        Notice::Activated(member) => ("SpareActive", path(*member), String::new()),
        Notice::SyncStarted(action) => ("RebuildStarted", None, action_word(*action).to_owned()),
        Notice::SyncEnded {
            action,
            complete,
            mismatch_sectors,
        } => {
            let how = if *complete { "done" } else { "interrupted" };
            let mut text = format!("{} {how}", action_word(*action));
            if *mismatch_sectors > 0 {
                text.push_str(&format!(", mismatches found: {mismatch_sectors}"));
            }
            ("RebuildFinished", None, text)
        }
        Notice::Broken(why) => ("Broken", None, why.clone()),
        Notice::Frozen(why) => ("Frozen", None, why.clone()),
        Notice::Message(text) => ("Message", None, text.clone()),
        Notice::Changed => ("Changed", None, String::new()),
    };
    Some(EventDoc {
        schema: SCHEMA,
        array: array.to_owned(),
        event: event.to_owned(),
        member,
        text,
    })
}

/// The log's line for an event, in the manner of mdadm's monitor; none for mere changes.
pub fn log_line(event: &EventDoc) -> Option<String> {
    if event.event == "Changed" {
        return None;
    }
    let mut line = format!(
        "{} event detected on md device {}",
        event.event, event.array
    );
    if let Some(member) = &event.member {
        line.push_str(&format!(", component device {member}"));
    }
    if !event.text.is_empty() {
        line.push_str(&format!(": {}", event.text));
    }
    Some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_member_reads_as_mdadms_event() {
        let notice = Notice::Failed {
            member: MemberId(1),
            why: "write error".into(),
        };
        let event = event("r5", &notice, |_| Some("/tmp/b.img".into())).expect("an event");
        assert_eq!(event.event, "Fail");
        assert_eq!(
            log_line(&event).as_deref(),
            Some("Fail event detected on md device r5, component device /tmp/b.img: write error")
        );
    }

    #[test]
    fn changes_are_not_logged() {
        let event = event("r5", &Notice::Changed, |_| None).expect("an event");
        assert_eq!(log_line(&event), None);
    }
}
