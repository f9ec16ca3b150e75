//! Values and errors against the facts of real arrays (kernel 6.1).

use umd_core::array::{ArrayState, BitmapStatus, MemberRole, Status, SyncStatus};
use umd_core::value::SyncAction;
use umd_format::Format;

use super::*;
use crate::api::{ActionRequest, Limit};
use crate::doc::tests::{doc, member, raid5};

fn mounted(arrays: &[ArrayDoc]) -> Node {
    let mut names = Names::default();
    names.update(arrays);
    tree(arrays, &names, false)
}

fn read(array: &ArrayDoc, path: &str) -> String {
    let tree = mounted(std::slice::from_ref(array));
    let path = format!("sys/block/r5/md/{path}");
    match tree.find(path.split('/')) {
        Some(Node::Text {
            text: Some(text), ..
        }) => text.clone(),
        other => panic!("{path} is {other:?}"),
    }
}

fn write(array: &ArrayDoc, path: &str, text: &str) -> Result<Change, Errno> {
    let path: Vec<&str> = path.split('/').collect();
    change(array, &path, text)
}

/// A degraded RAID6 that is being rebuilt, with a bitmap, a spare and a faulty member.
fn busy() -> Status {
    let mut status = raid5();
    (status.level, status.raid_disks, status.degraded) = (6, 4, 1);
    let recovering = MemberRole::Recovering {
        recovered_sectors: 24_696,
    };
    status.members = vec![
        member(0, Some(0), MemberRole::InSync),
        member(1, None, MemberRole::Faulty),
        member(2, Some(2), MemberRole::InSync),
        member(3, Some(3), MemberRole::InSync),
        member(4, Some(1), recovering),
        member(5, None, MemberRole::Spare),
    ];
    status.members[3].write_mostly = true;
    status.members[3].bad_blocks = vec![(2056, 8), (9000, 1)];
    status.sync = Some(SyncStatus {
        action: SyncAction::Recover,
        done_sectors: 24_696,
        total_sectors: 129_024,
        speed_kib_s: 12_348,
        finish_seconds: Some(9),
        held: false,
    });
    status.bitmap = Some(BitmapStatus {
        file: None,
        fault: None,
        offset_sectors: 8,
        chunk_bytes: 64 << 20,
        bits: 1,
        dirty_bits: 0,
        daemon_sleep_seconds: 5,
        write_behind: 0,
        behind_writes: 0,
    });
    status
}

#[test]
fn values_are_those_of_a_real_raid5() {
    let array = doc(&raid5());
    for (path, value) in [
        ("level", "raid5\n"),
        ("layout", "2\n"),
        ("raid_disks", "3\n"),
        ("uuid", "11112222-3333-4444-5555-666677778888\n"),
        ("chunk_size", "524288\n"),
        ("component_size", "64512\n"),
        ("metadata_version", "1.2\n"),
        ("array_state", "clean\n"),
        ("resync_start", "none\n"),
        ("safe_mode_delay", "0.210\n"),
        ("array_size", "default\n"),
        ("consistency_policy", "resync\n"),
        ("serialize_policy", "n/a\n"),
        ("sync_action", "idle\n"),
        ("last_sync_action", "none\n"),
        ("sync_completed", "none\n"),
        ("sync_max", "max\n"),
        ("degraded", "0\n"),
        ("stripe_cache_size", "256\n"),
        ("journal_mode", ""),
        ("bitmap/location", "none\n"),
        ("bitmap/can_clear", ""),
        ("dev-a.img/state", "in_sync\n"),
        ("dev-a.img/slot", "0\n"),
        ("dev-a.img/offset", "2048\n"),
        ("dev-a.img/size", "64512\n"),
        ("dev-a.img/recovery_start", "none\n"),
        ("dev-a.img/bad_blocks", ""),
    ] {
        assert_eq!(read(&array, path), value, "{path}");
    }
}

#[test]
fn values_of_an_array_at_work() {
    let mut status = busy();
    status.sync_limits.speed_max_kib_s = Some(5000);
    status.resync_from_sectors = Some(4096);
    status.last_sync = Some(SyncAction::Recover);
    let array = doc(&status);
    for (path, value) in [
        ("sync_action", "recover\n"),
        ("last_sync_action", "recovery\n"),
        ("sync_completed", "24696 / 129024\n"),
        ("sync_speed", "12348\n"),
        ("sync_speed_max", "5000 (local)\n"),
        ("resync_start", "4096\n"),
        ("degraded", "1\n"),
        ("consistency_policy", "bitmap\n"),
        ("bitmap/location", "+8\n"),
        ("bitmap/chunksize", "67108864\n"),
        ("bitmap/time_base", "5\n"),
        ("bitmap/can_clear", "false\n"),
        ("dev-b.img/state", "faulty\n"),
        ("dev-b.img/slot", "none\n"),
        ("dev-d.img/state", "in_sync,write_mostly\n"),
        ("dev-d.img/bad_blocks", "2056 8\n9000 1\n"),
        ("dev-e.img/state", "spare\n"),
        ("dev-e.img/slot", "1\n"),
        ("dev-e.img/recovery_start", "24696\n"),
    ] {
        assert_eq!(read(&array, path), value, "{path}");
    }
    let tree = mounted(&[array]);
    let link = tree.find("sys/block/r5/md/rd1".split('/'));
    assert_eq!(link, Some(&Node::Link("dev-e.img".into())));
}

/// Table: a value written to an idle RAID5, and what comes of it.
#[test]
fn writes_are_refused_as_md_refuses_them() {
    let array = doc(&raid5());
    for (path, text, errno) in [
        ("level", "raid6\n", Errno::INVAL),
        ("layout", "1", Errno::BUSY),
        ("layout", "x", Errno::INVAL),
        ("raid_disks", "0", Errno::INVAL),
        ("chunk_size", "1000", Errno::INVAL),
        ("chunk_size", "65536", Errno::BUSY),
        ("component_size", "99999999", Errno::NOSPC),
        ("metadata_version", "1.0", Errno::BUSY),
        ("metadata_version", "7.0", Errno::NOENT),
        ("metadata_version", "1", Errno::INVAL),
        ("array_state", "suspended", Errno::INVAL),
        ("array_state", "active-idle", Errno::INVAL),
        ("array_state", "", Errno::INVAL),
        ("safe_mode_delay", "1.x", Errno::INVAL),
        ("safe_mode_delay", ".", Errno::INVAL),
        ("safe_mode_delay", "4294967.296", Errno::INVAL),
        ("max_read_errors", "-1", Errno::INVAL),
        ("resync_start", "0", Errno::BUSY),
        ("array_size", "99999999999", Errno::TOOBIG),
        ("reshape_direction", "sideways", Errno::INVAL),
        ("serialize_policy", "1", Errno::INVAL),
        ("sync_action", "nonsense", Errno::INVAL),
        ("sync_action", "reshape", Errno::INVAL),
        ("sync_speed_min", "0", Errno::INVAL),
        ("sync_speed_max", "4294967296", Errno::INVAL),
        ("sync_min", "-1", Errno::INVAL),
        ("stripe_cache_size", "16", Errno::INVAL),
        ("stripe_cache_size", "512", Errno::BUSY),
        ("rmw_level", "3", Errno::INVAL),
        ("journal_mode", "write-back", Errno::NODEV),
        ("bitmap/location", "0", Errno::INVAL),
        ("bitmap/location", "file", Errno::INVAL),
        ("bitmap/backlog", "16384", Errno::INVAL),
        ("bitmap/chunksize", "1000", Errno::INVAL),
        ("bitmap/metadata", "x", Errno::INVAL),
        ("dev-a.img/state", "remove", Errno::BUSY),
        ("dev-a.img/state", "insync", Errno::INVAL),
        ("dev-a.img/state", "re-add", Errno::BUSY),
        ("dev-a.img/state", "external_bbl", Errno::INVAL),
        ("dev-a.img/slot", "3", Errno::NOSPC),
        ("dev-a.img/slot", "1", Errno::BUSY),
        ("dev-a.img/offset", "4096", Errno::BUSY),
        ("dev-a.img/bad_blocks", "-1 1", Errno::INVAL),
        ("dev-x.img/state", "faulty", Errno::NODEV),
        ("uuid", "x", Errno::ACCESS),
    ] {
        assert_eq!(write(&array, path, text), Err(errno), "{path} <- {text}");
    }
    for (path, text) in [
        ("level", "raid5\n"),
        ("array_state", "active"),
        ("array_size", "default"),
        ("stripe_cache_size", "256"),
        ("bitmap/location", "none"),
        ("dev-a.img/state", "-blocked"),
    ] {
        assert_eq!(write(&array, path, text), Ok(Change::Nothing), "{path}");
    }
}

#[test]
fn writes_become_requests() {
    let array = doc(&raid5());
    let check = ActionRequest {
        action: Some("check".into()),
        ..ActionRequest::default()
    };
    let max = ActionRequest {
        sync_max: Some(Limit::Number(1024)),
        ..ActionRequest::default()
    };
    let checked = write(&array, "sync_action", "check\n");
    assert_eq!(checked, Ok(Change::Action(check)));
    assert_eq!(write(&array, "sync_max", "1024\n"), Ok(Change::Action(max)));
    assert_eq!(write(&array, "array_state", "clear\n"), Ok(Change::Stop));
    let readonly = write(&array, "array_state", "readonly");
    assert_eq!(readonly, Ok(Change::State("readonly".into())));
    for (text, ms) in [("1.5\n", 1500), ("0", 0), ("0.0019", 1), ("2.", 0)] {
        let delay = write(&array, "safe_mode_delay", text);
        match ms {
            0 if text != "0" => assert_eq!(delay, Err(Errno::INVAL), "{text}"),
            _ => assert!(
                matches!(&delay, Ok(Change::Settings(r)) if r.safe_mode_delay_ms == Some(ms)),
                "{text}: {delay:?}"
            ),
        }
    }
    let Ok(Change::Manage(requests)) = write(&array, "dev-b.img/state", "faulty\n") else {
        panic!("a request expected");
    };
    assert_eq!(requests[0].operation, "fail");
    assert_eq!(requests[0].device, "/tmp/b.img");
    assert!(matches!(
        write(&array, "bitmap/location", "-16\n"),
        Ok(Change::Bitmap(request)) if request.internal && request.offset_sectors == Some(-16)
    ));
}

#[test]
fn what_is_under_way_and_what_is_read_only_refuses_more() {
    let array = doc(&busy());
    for (path, text, errno) in [
        ("sync_action", "check", Errno::BUSY),
        ("sync_action", "nonsense", Errno::BUSY),
        ("level", "raid5", Errno::BUSY),
        ("bitmap/location", "none", Errno::BUSY),
        ("bitmap/can_clear", "true", Errno::BUSY),
        ("dev-f.img/slot", "none", Errno::EXIST),
        ("dev-e.img/state", "remove", Errno::BUSY),
    ] {
        assert_eq!(write(&array, path, text), Err(errno), "{path} <- {text}");
    }
    let mut status = raid5();
    status.state = ArrayState::ReadOnly;
    let array = doc(&status);
    for (path, text, errno) in [
        ("array_state", "readonly", Errno::NXIO),
        ("sync_action", "check", Errno::ROFS),
        ("layout", "0", Errno::ROFS),
        ("raid_disks", "4", Errno::ROFS),
    ] {
        assert_eq!(write(&array, path, text), Err(errno), "{path} <- {text}");
    }
    let writable = write(&array, "array_state", "clean");
    assert_eq!(writable, Ok(Change::State("clean".into())));
}

#[test]
fn levels_without_redundancy_have_fewer_attributes() {
    let mut status = raid5();
    (status.level, status.layout) = (0, -1);
    let tree = mounted(&[doc(&status)]);
    let has = |name: &str| tree.find(["sys", "block", "r5", "md", name]).is_some();
    assert!(has("layout") && has("array_state"));
    for name in ["sync_action", "degraded", "suspend_lo", "stripe_cache_size"] {
        assert!(!has(name), "{name}");
    }
    let sync = write(&doc(&status), "sync_action", "check");
    assert_eq!(sync, Err(Errno::ACCESS));
}

#[test]
fn permissions_are_those_of_sysfs() {
    let tree = mounted(&[doc(&raid5())]);
    let mode = |path: &str| tree.find(path.split('/')).expect("there").mode();
    assert_eq!(mode("proc/mdstat"), 0o444);
    assert_eq!(mode("sys/block/r5/md/level"), 0o644);
    assert_eq!(mode("sys/block/r5/md/degraded"), 0o444);
    assert_eq!(mode("sys/block/r5/md/bitmap_set_bits"), 0o200);
    assert_eq!(mode("dev/r5"), 0o600);
}

#[test]
fn md_names_are_stable_and_unique() {
    let named = |name: &str| ArrayDoc {
        name: name.into(),
        uuid: name.into(),
        ..doc(&raid5())
    };
    let mut names = Names::default();
    let (a, b) = (named("a"), named("b"));
    names.update(&[a.clone(), b.clone()]);
    assert_eq!(names.of(&a).as_deref(), Some("md127"));
    assert_eq!(names.of(&b).as_deref(), Some("md126"));
    let md125 = named("md125");
    let mut status = raid5();
    (status.format, status.preferred_minor) = (Format::V090, 3);
    let old = ArrayDoc {
        name: "old".into(),
        ..doc(&status)
    };
    let c = named("c");
    names.update(&[b.clone(), md125.clone(), c.clone(), old.clone()]);
    assert_eq!(names.of(&a), None);
    assert_eq!(names.of(&b).as_deref(), Some("md126"));
    assert_eq!(names.of(&md125).as_deref(), Some("md125"));
    assert_eq!(names.of(&old).as_deref(), Some("md3"));
    assert_eq!(names.of(&c).as_deref(), Some("md127"));
    let text = tree(std::slice::from_ref(&b), &names, true);
    let Some(Node::Text { text, .. }) = text.find(["proc", "mdstat"]) else {
        panic!("mdstat expected");
    };
    assert!(text.as_ref().expect("read").contains("\nmd126 : active"));
}

#[test]
fn members_of_one_name_have_directories_of_their_own() {
    let mut status = raid5();
    status.members[1].name = "/elsewhere/a.img".into();
    let array = doc(&status);
    assert_eq!(read(&array, "dev-a.img/slot"), "0\n");
    assert_eq!(read(&array, "dev-a.img-1/slot"), "1\n");
}

#[test]
fn arrays_that_wait_for_members_have_no_bytes_and_fewer_attributes() {
    let mut array = doc(&raid5());
    array.array_state = "inactive".into();
    array.members[0].state = "waiting".into();
    assert_eq!(read(&array, "array_state"), "inactive\n");
    assert_eq!(read(&array, "dev-a.img/state"), "in_sync\n");
    let tree = mounted(std::slice::from_ref(&array));
    assert!(tree.find(["dev", "r5"]).is_none());
    assert!(
        tree.find("sys/block/r5/md/sync_action".split('/'))
            .is_none()
    );
    for (text, answer) in [
        ("inactive", Ok(Change::Nothing)),
        ("clear", Ok(Change::Stop)),
        ("clean", Err(Errno::INVAL)),
        ("active", Ok(Change::State("active".into()))),
        ("readonly", Err(Errno::BUSY)),
    ] {
        assert_eq!(write(&array, "array_state", text), answer, "{text}");
    }
}
