//! What counts as a change for whoever waits with poll(2): md notifies of some values only, and of
//! progress only now and then.

/// Equal for two values of a file between which nobody who waits is told anything.
pub fn mark(path: &str, text: &str) -> String {
    if path == "proc/mdstat" {
        return without_progress(text);
    }
    let mut parts = path.rsplit('/');
    let name = parts.next().unwrap_or_default();
    let above = parts.next().unwrap_or_default();
    match name {
        "sync_completed" => steps(text),
        "array_state" | "sync_action" | "degraded" | "level" | "can_clear" => text.to_owned(),
        "state" if above.starts_with("dev-") => text.to_owned(),
        _ => String::new(),
    }
}

/// The events of arrays: not how far they have come, nor what their bitmaps hold in memory.
fn without_progress(text: &str) -> String {
    let mut mark = String::new();
    for line in text.lines() {
        let shown = match (line.split_once("] "), line.contains(" finish=")) {
            (Some((_, rest)), true) => rest.split('=').next().unwrap_or_default(),
            _ if line.trim_start().starts_with("bitmap:") => "",
            _ => line,
        };
        mark.push_str(shown);
        mark.push('\n');
    }
    mark
}

/// Sixteen on the way: md writes down as often how far it came.
fn steps(text: &str) -> String {
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let parts = text.split_once('/');
    let parts = parts.and_then(|(done, total)| Some((number(done)?, number(total)?)));
    match parts {
        Some((done, total)) if total > 0 => (done.saturating_mul(16) / total).to_string(),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_no_change_and_its_beginning_and_end_are() {
        let stat = |progress: &str, state: &str| {
            format!(
                "Personalities : [raid1] \nmd1 : active raid1 b[1] a[0]\n      60416 blocks super \
                 1.2 [2/2] {state}\n{progress}      \nunused devices: <none>\n"
            )
        };
        let at = |percent: &str| {
            let bar = "      [=>...................]  ";
            stat(
                &format!("{bar}resync = {percent}% (1/2) finish=0.1min speed=1K/sec\n"),
                "[UU]",
            )
        };
        let mark = |text: &str| mark("proc/mdstat", text);
        assert_eq!(mark(&at(" 9.2")), mark(&at("99.2")));
        assert_ne!(mark(&at(" 9.2")), mark(&stat("", "[UU]")));
        assert_ne!(
            mark(&at(" 9.2")),
            mark(&at(" 9.2").replace("resync", "check"))
        );
        assert_ne!(mark(&stat("", "[UU]")), mark(&stat("", "[U_]")));
        let pages = |n| {
            stat(
                &format!("      bitmap: {n}/1 pages [4KB], 65536KB chunk\n"),
                "[UU]",
            )
        };
        assert_eq!(mark(&pages(0)), mark(&pages(1)));
    }

    #[test]
    fn attributes_are_notified_of_as_md_does() {
        let same = |name: &str, one, other| {
            let path = format!("sys/block/r5/md/{name}");
            mark(&path, one) == mark(&path, other)
        };
        assert!(!same("array_state", "clean\n", "active\n"));
        assert!(!same("degraded", "0\n", "1\n"));
        assert!(!same("dev-sda/state", "in_sync\n", "faulty\n"));
        assert!(same("sync_speed", "1\n", "2\n"), "md tells nobody");
        assert!(same("sync_completed", "0 / 1600\n", "99 / 1600\n"));
        assert!(!same("sync_completed", "0 / 1600\n", "100 / 1600\n"));
        assert!(!same("sync_completed", "0 / 0\n", "none\n"));
    }
}
