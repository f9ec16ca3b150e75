//! Opening: kinds, locks between opens and between processes, what `Auto` chooses, and the
//! blocking helpers.

mod common;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{disk_dir, make_file, pattern, tmpfs_dir};
use umd_core::array::IoError;
use umd_disk::{Engine, Holder, MemberFile, Mode, OpenError};

const CHILD: &str = "UMD_DISK_TEST_CHILD";

fn open(path: &Path, mode: Mode) -> Result<MemberFile, OpenError> {
    MemberFile::open(path, mode, Engine::Auto)
}

fn holder(result: Result<MemberFile, OpenError>) -> Holder {
    match result {
        Err(OpenError::InUse { holder, .. }) => holder,
        other => panic!("{other:?}"),
    }
}

/// Not a test of its own: holds the member named in the environment until killed.
#[test]
fn child_that_holds_a_member() {
    if let Some(path) = std::env::var_os(CHILD) {
        let _member = open(Path::new(&path), Mode::ReadWrite).expect("open");
        println!("\nheld");
        std::thread::sleep(Duration::from_secs(60));
    }
}

fn start_holder(path: &Path) -> Child {
    let mut child = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "child_that_holds_a_member", "--nocapture"])
        .env(CHILD, path)
        .stdout(Stdio::piped())
        .spawn()
        .expect("child");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    assert!(
        lines.any(|line| line.is_ok_and(|line| line == "held")),
        "the child opened the member"
    );
    child
}

#[test]
fn two_opens_exclude_each_other() {
    let dir = disk_dir();
    let path = dir.path().join("a.img");
    make_file(&path, 1 << 20);
    let first = open(&path, Mode::ReadWrite).expect("open");
    for mode in [Mode::ReadWrite, Mode::ReadOnly] {
        // On a file system that numbers its devices otherwise the holder stays unknown.
        match holder(open(&path, mode)) {
            Holder::Process { pid, comm } => {
                assert_eq!(pid, std::process::id());
                assert!(comm.is_some());
            }
            other => assert_eq!(other, Holder::Unknown),
        }
    }
    open(&path, Mode::Examine).expect("looking is always allowed");
    drop(first);
    open(&path, Mode::ReadWrite).expect("free again");
}

#[test]
fn readers_share_and_keep_writers_out() {
    let dir = disk_dir();
    let path = dir.path().join("a.img");
    make_file(&path, 1 << 20);
    let one = open(&path, Mode::ReadOnly).expect("open");
    let two = open(&path, Mode::ReadOnly).expect("open");
    holder(open(&path, Mode::ReadWrite));
    drop((one, two));
    open(&path, Mode::ReadWrite).expect("free again");
}

#[test]
fn another_process_is_named() {
    let dir = disk_dir();
    let path = dir.path().join("a.img");
    make_file(&path, 1 << 20);
    let mut child = start_holder(&path);
    let error = open(&path, Mode::ReadWrite).expect_err("it is held");
    if let Ok(locks) = std::fs::read_to_string("/proc/locks")
        && locks.contains(&format!(" {} ", child.id()))
    {
        let pid = format!("(pid {})", child.id());
        assert!(error.to_string().ends_with(&pid), "{error}");
    }
    child.kill().expect("kill");
    child.wait().expect("wait");
}

#[test]
fn the_lock_of_a_dying_process_is_waited_for() {
    let dir = disk_dir();
    let path = dir.path().join("a.img");
    make_file(&path, 1 << 20);
    let mut child = start_holder(&path);
    let open_waiting = |wait| MemberFile::open_waiting(&path, Mode::ReadWrite, Engine::Auto, wait);
    let start = Instant::now();
    holder(open_waiting(Duration::from_millis(200)));
    assert!(start.elapsed() >= Duration::from_millis(200));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(200));
            child.kill().expect("kill");
        });
        open_waiting(Duration::from_secs(30)).expect("free once the child is dead");
    });
    child.wait().expect("wait");
}

#[test]
fn only_files_and_devices_are_members() {
    let dir = disk_dir();
    let wrong_kind = |path: &Path| {
        let result = open(path, Mode::ReadWrite);
        assert!(
            matches!(result, Err(OpenError::WrongKind { .. })),
            "{result:?}"
        );
    };
    wrong_kind(dir.path());
    wrong_kind(Path::new("/dev/null"));
    let result = open(&dir.path().join("missing"), Mode::ReadWrite);
    let text = result.expect_err("not there").to_string();
    assert!(
        text.contains("missing: cannot open it: No such file"),
        "{text}"
    );
}

#[test]
fn each_place_gets_the_engine_that_suits_it() {
    let (disk, tmpfs) = (disk_dir(), tmpfs_dir());
    let name = |dir: &Path, engine| {
        let path = dir.join("a.img");
        make_file(&path, 1 << 20);
        let member = MemberFile::open(&path, Mode::ReadWrite, engine);
        member.map(|member| member.engine_name())
    };
    assert_eq!(name(tmpfs.path(), Engine::Auto).expect("open"), "sync");
    let ring = name(disk.path(), Engine::Uring);
    match name(disk.path(), Engine::Auto).expect("open") {
        "io_uring" => assert_eq!(ring.expect("works when chosen"), "io_uring"),
        other => assert_eq!(other, "threads"),
    }
    for engine in [Engine::Sync, Engine::Threads, Engine::Memory] {
        assert_eq!(name(disk.path(), engine).expect("open"), engine.name());
        assert_eq!(engine.to_string().parse(), Ok(engine));
    }
    assert!("fast".parse::<Engine>().is_err());
}

#[test]
fn sizes_are_whole_sectors() {
    for dir in [disk_dir(), tmpfs_dir()] {
        for (len, sectors) in [
            (0, 0),
            (511, 0),
            (512, 1),
            (1 << 20, 2048),
            (1_000_000, 1953),
        ] {
            let path = dir.path().join("a.img");
            make_file(&path, len);
            let member = open(&path, Mode::ReadWrite).expect("open");
            assert_eq!(member.size_sectors(), sectors, "{len} bytes");
            assert!(matches!(member.logical_block_bytes(), 512 | 4096));
            assert!(!member.is_block());
            if sectors > 0 {
                let last = (sectors - 1) * 512;
                member.write_at(last, &[7; 512]).expect("the last sector");
                assert_eq!(member.read_at(last, 512), Ok(vec![7; 512]));
            }
            drop(member);
            assert_eq!(std::fs::metadata(&path).expect("stat").len(), len);
        }
    }
}

#[test]
fn the_helpers_read_anything_and_write_sectors() {
    for dir in [disk_dir(), tmpfs_dir()] {
        let path = dir.path().join("a.img");
        make_file(&path, 1 << 20);
        let member = open(&path, Mode::ReadWrite).expect("open");
        let bytes = pattern(1, 8192);
        member.write_at(4096, &bytes).expect("write");
        member.sync().expect("sync");
        assert_eq!(member.read_at(4096, 8192).as_ref(), Ok(&bytes));
        assert_eq!(
            member.read_at(4096 + 7, 1000).expect("read"),
            bytes[7..1007]
        );
        assert_eq!(member.read_at((1 << 20) - 1, 1), Ok(vec![0]));
        assert_eq!(member.read_at(0, 0), Ok(vec![]));
        for (offset, len) in [(1 << 20, 1), ((1 << 20) - 512, 513), (u64::MAX, 2)] {
            let result = member.read_at(offset, len);
            assert!(matches!(result, Err(IoError::Other(_))), "{result:?}");
        }
        let result = member.write_at((1 << 20) - 512, &[0; 1024]);
        assert!(matches!(result, Err(IoError::Other(_))), "{result:?}");
        drop(member);
        let member = open(&path, Mode::ReadOnly).expect("open");
        assert!(member.is_read_only() && !member.can_unmap());
        assert_eq!(member.read_at(4096, 8192), Ok(bytes));
        let result = member.write_at(0, &[0; 512]);
        assert!(matches!(result, Err(IoError::Other(_))), "{result:?}");
    }
}

/// A real block device with 4096-byte blocks, where this machine lets us make one.
#[test]
fn a_block_device_is_held_exclusively() {
    let dir = disk_dir();
    let path = dir.path().join("backing.img");
    make_file(&path, 4 << 20);
    let made = Command::new("losetup")
        .args(["--find", "--show", "--sector-size", "4096"])
        .arg(&path)
        .output();
    let device = match made {
        Ok(output) if output.status.success() => String::from_utf8(output.stdout)
            .expect("a path")
            .trim()
            .to_owned(),
        _ => return eprintln!("skipped: no loop device to be had"),
    };
    let checked = std::panic::catch_unwind(|| check_device(Path::new(&device)));
    let detached = Command::new("losetup").args(["--detach", &device]).status();
    assert!(detached.expect("losetup").success());
    if let Err(panic) = checked {
        std::panic::resume_unwind(panic);
    }
}

fn check_device(device: &Path) {
    let member = open(device, Mode::ReadWrite).expect("open");
    assert!(member.is_block());
    assert_eq!(member.size_sectors(), 8192);
    assert_eq!(member.logical_block_bytes(), 4096);
    assert_eq!(member.check(), Ok(()));
    holder(open(device, Mode::ReadWrite));
    // Half a block, between two others.
    member.write_at(0, &pattern(1, 12288)).expect("write");
    member
        .write_at(4096 + 512, &pattern(2, 2048))
        .expect("write");
    member.sync().expect("sync");
    let mut expected = pattern(1, 12288);
    expected[4608..6656].copy_from_slice(&pattern(2, 2048));
    assert_eq!(member.read_at(0, 12288), Ok(expected.clone()));
    let mut rig = umd_disk::Mux::new().expect("backend");
    let id = umd_core::value::MemberId(0);
    umd_disk::Backend::attach(&mut rig, id, member);
    drop(rig);
    let member = open(device, Mode::ReadOnly).expect("free again");
    assert_eq!(member.read_at(0, 12288), Ok(expected));
}
