//! Doors that the daemon opened itself, in systemd's store: they outlive it. The tests are systemd:
//! they take descriptors from the notification socket, and hand them to the next daemon.
//!
//! ```text
//!   daemon 1 --FDSTORE=1, FDNAME, SCM_RIGHTS--> test --descriptors 3..--> daemon 2
//!                 killed, or told to go          |
//!                 clients connect and wait <-----+
//! ```

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{Home, PATIENCE, eventually, inode, pattern, terminate};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use umd_export::nbd::Address;
use umd_export::nbd::client::Client;

/// What systemd is for one service.
struct Manager<'a> {
    home: &'a Home,
    socket: UnixDatagram,
    store: BTreeMap<String, OwnedFd>,
    /// Everything it was told, descriptors aside.
    heard: Vec<String>,
}

impl<'a> Manager<'a> {
    fn of(home: &'a Home) -> Manager<'a> {
        fs::create_dir_all(home.runtime()).expect("runtime directory");
        let socket = UnixDatagram::bind(home.path("notify.sock")).expect("binds");
        socket.set_read_timeout(Some(PATIENCE)).expect("a limit");
        Manager {
            home,
            socket,
            store: BTreeMap::new(),
            heard: Vec::new(),
        }
    }

    /// Takes one message in.
    fn hear(&mut self) -> String {
        let mut text = [0; 1024];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut rights = RecvAncillaryBuffer::new(&mut space);
        let mut into = [IoSliceMut::new(&mut text)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let len = recvmsg(&self.socket, &mut into, &mut rights, flags);
        let len = len.expect("a message in time").bytes;
        let text = String::from_utf8(text[..len].to_vec()).expect("text");
        let name = || {
            let name = text.lines().find_map(|line| line.strip_prefix("FDNAME="));
            name.expect("a name").to_owned()
        };
        if text.starts_with("FDSTORE=1\n") {
            let passed = rights.drain().flat_map(|message| match message {
                RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect(),
                _ => Vec::new(),
            });
            let passed: Vec<OwnedFd> = passed.collect();
            assert_eq!(passed.len(), 1, "{text}");
            self.store.extend(passed.into_iter().map(|fd| (name(), fd)));
        } else if text.starts_with("FDSTOREREMOVE=1\n") {
            self.store.remove(&name()).expect("it is in the store");
        }
        self.heard.push(text.clone());
        text
    }

    /// Starts the service with what is in the store, and waits until it is ready.
    fn start(&mut self, line: &str) -> Service {
        let umd = self.home.command(line);
        let mut shell = Command::new("sh");
        // Descriptors come in as the standard ones: nothing else is passed on without unsafe code.
        let script = "exec 3<&0 4<&1 5<&2 </dev/null >/dev/null 2>>errors; \
                      LISTEN_PID=$$ exec \"$0\" \"$@\"";
        let names: Vec<&str> = self.store.keys().map(String::as_str).collect();
        assert!(names.len() <= 3, "there are no more standard descriptors");
        let mut handed = self
            .store
            .values()
            .map(|fd| fd.try_clone().expect("a copy"));
        let mut next = || handed.next().map_or(Stdio::null(), Stdio::from);
        shell
            .args(["-c", script])
            .arg(umd.get_program())
            .args(umd.get_args())
            .current_dir(self.home.path(""))
            .env("XDG_RUNTIME_DIR", self.home.runtime())
            .env("XDG_STATE_HOME", self.home.path("state"))
            .env("NOTIFY_SOCKET", self.home.path("notify.sock"))
            .env("LISTEN_FDS", names.len().to_string())
            .env("LISTEN_FDNAMES", names.join(":"))
            .stdin(next())
            .stdout(next())
            .stderr(next());
        let service = Service(shell.spawn().expect("starts"));
        while self.hear() != "READY=1\n" {}
        service
    }

    /// What clients of an array are told to connect to.
    fn doors(&self) -> Vec<Address> {
        let doors = self.home.detail("r1")["nbd"].clone();
        let texts = doors.as_array().expect("a list").iter();
        let mut texts: Vec<&str> = texts.map(|text| text.as_str().expect("text")).collect();
        texts.sort_unstable();
        let all = texts.into_iter().map(str::parse);
        all.collect::<Result<_, _>>().expect("addresses")
    }
}

/// A daemon that does not outlive its test.
struct Service(Child);

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill(); // It has ended, mostly.
        let _ = self.0.wait();
    }
}

fn end(mut service: Service, kill: bool) {
    match kill {
        true => service.0.kill().expect("killed"),
        false => terminate(&service.0),
    }
    let status = service.0.wait().expect("ends");
    assert_eq!(status.success(), !kill, "{status}");
}

/// Killed or upgraded: no client is refused at any of the doors, whoever bound them.
#[test]
fn doors_of_our_own_outlive_the_daemon_in_systemds_store() {
    let home = Home::new();
    let mut manager = Manager::of(&home);
    let extra = home.path("door.sock");
    let line = format!(
        "daemon --keep --nbd tcp:localhost:0 --nbd unix:{}",
        extra.display()
    );
    let mut daemon = manager.start(&line);
    assert_eq!(manager.store.len(), 3, "{:?}", manager.heard);
    home.umd("create r1 -l1 -n2 --size 8M --assume-clean a b")
        .ok();
    let data = pattern(3, 65536);
    home.nbd("r1").pwrite(0, &data).expect("writes");
    let doors = manager.doors();
    assert_eq!(doors.len(), 3, "{doors:?}");
    let own = home.runtime().join("umd/nbd.sock");
    let inodes = || [&own, &extra].map(|path| inode(path));
    let before = inodes();
    for kill in [true, false, true] {
        end(daemon, kill);
        assert_eq!(inodes(), before, "the sockets are what they were");
        let readers: Vec<_> = doors
            .iter()
            .cloned()
            .map(|door| {
                std::thread::spawn(move || {
                    let mut client = Client::connect(&door, "r1").expect("is let in");
                    client.pread(0, 65536).expect("reads")
                })
            })
            .collect();
        std::thread::sleep(Duration::from_millis(200)); // All have connected by now, or soon.
        let waits = readers.iter().all(|reader| !reader.is_finished());
        assert!(waits, "nobody is there to answer, and nobody is refused");
        let told = manager.heard.len();
        daemon = manager.start(&line);
        for reader in readers {
            assert!(reader.join().expect("no error") == data);
        }
        assert_eq!(manager.doors(), doors, "the port is the same");
        let new = manager.heard[told..].iter();
        let stored = new.filter(|text| text.starts_with("FDSTORE"));
        assert_eq!(stored.count(), 0, "what is kept is not kept twice");
    }
    end(daemon, false);
}

/// What nobody asks for any more is closed, and what is of no use does not keep the daemon down.
#[test]
fn a_door_that_is_asked_for_no_more_is_closed() {
    let home = Home::new();
    let mut manager = Manager::of(&home);
    let extra = home.path("door.sock");
    let with_extra = format!("daemon --keep --nbd unix:{}", extra.display());
    let daemon = manager.start(&with_extra);
    end(daemon, false);
    assert!(UnixStream::connect(&extra).is_ok(), "it is kept");
    let daemon = manager.start("daemon --keep");
    let names: Vec<&String> = manager.store.keys().collect();
    assert!(
        names.len() == 1 && names[0].ends_with("nbd.sock"),
        "{names:?}"
    );
    // Programs that other tests start hold copies of our descriptors until they have replaced
    // themselves: it is not closed at that very moment.
    eventually("the door is closed", || {
        let refused = UnixStream::connect(&extra).map_err(|error| error.kind());
        refused.err() == Some(std::io::ErrorKind::ConnectionRefused)
    });
    end(daemon, false);

    // Somebody has taken the path away: whoever has only that would not find the door.
    let own = home.runtime().join("umd/nbd.sock");
    fs::remove_file(&own).expect("removed");
    let file = fs::File::create(home.path("file")).expect("a file");
    manager.store.insert("umd-nbd@nonsense".into(), file.into());
    let daemon = manager.start("daemon --keep");
    home.umd("create r1 -l1 -n2 --size 8M --assume-clean a b")
        .ok();
    home.nbd("r1").flush().expect("is served there");
    end(daemon, false);
}

/// Others can connect to a door that was opened with TLS: it is no door without it.
#[test]
fn a_kept_door_of_the_network_is_not_used_without_tls() {
    let home = Home::new();
    let mut manager = Manager::of(&home);
    let tcp = std::net::TcpListener::bind("0.0.0.0:0").expect("binds");
    let port = tcp.local_addr().expect("bound").port();
    let name = format!("umd-nbd@tcp_0.0.0.0_{port}");
    manager.store.insert(name, tcp.into());
    let umd = format!("daemon --nbd tcp:0.0.0.0:{port}");
    let script = "exec 3<&0 </dev/null; \
                  LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=$NAME exec \"$0\" $LINE";
    let (name, door) = manager.store.pop_first().expect("it is there");
    let output = Command::new("sh")
        .args(["-c", script])
        .arg(home.command("").get_program())
        .env("XDG_RUNTIME_DIR", home.runtime())
        .env("NAME", name)
        .env("LINE", umd)
        .stdin(door)
        .output()
        .expect("runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("--tls"), "{said}");
}

/// One array in a process of its own, with a door that its command line asks for.
#[test]
fn serve_keeps_its_doors_as_well() {
    let home = Home::new();
    home.umd("create r1 -l1 -n2 --size 8M --assume-clean a b")
        .ok();
    home.umd("stop r1").ok();
    let control = home.runtime().join("umd/control.sock");
    eventually("the daemon has gone", || !control.exists());
    let mut manager = Manager::of(&home);
    let line = "serve r1 a b --nbd tcp:127.0.0.1:0";
    let first = manager.start(line);
    let doors = manager.doors();
    assert_eq!((doors.len(), manager.store.len()), (1, 1));
    end(first, true);
    let door = doors[0].clone();
    let reader = std::thread::spawn(move || Client::connect(&door, "r1").map(drop));
    let second = manager.start(line);
    reader.join().expect("no panic").expect("is let in");
    assert_eq!(manager.doors(), doors);
    end(second, false);
}
