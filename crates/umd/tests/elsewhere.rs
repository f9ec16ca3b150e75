//! Members that are exports of another umd: made, served, lost and taken back, over a Unix socket
//! and over TLS.

mod common;

use std::fs;
use std::path::Path;
use std::process::Child;

use common::{Home, eventually, pattern, terminate};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

const MIB: usize = 1 << 20;

/// A household that serves files of its own as exports.
struct Server {
    home: Home,
}

impl Server {
    fn new(disks: &[&str]) -> Server {
        let server = Server { home: Home::new() };
        for disk in disks {
            fs::write(server.home.path(disk), vec![0; 32 * MIB]).expect("writes");
            server.serve(disk);
        }
        server
    }

    fn serve(&self, disk: &str) {
        let line = format!("build {disk} -l linear -n1 --force {disk}");
        self.home.umd(&line).ok();
    }

    fn uri(&self, disk: &str) -> String {
        let socket = self.home.runtime().join("umd/nbd.sock");
        format!("nbd+unix:///{disk}?socket={}", socket.display())
    }
}

#[test]
fn a_mirror_of_an_export_and_a_file_lives_through_the_loss_of_its_server() {
    let server = Server::new(&["d0"]);
    let uri = server.uri("d0");
    let home = Home::new();
    fs::write(home.path("b"), vec![0; 32 * MIB]).expect("writes");
    home.umd(&format!("create r -l1 -n2 --bitmap=internal {uri} b"))
        .ok();
    home.settle("r");
    let mut nbd = home.nbd("r");
    let first = pattern(1, 3 * MIB);
    nbd.pwrite(0, &first).expect("writes");
    nbd.flush().expect("flushes");
    let line = home.umd("mdstat").ok().out;
    assert!(line.contains("d0[0]"), "a member's short name: {line}");
    // What is open here is nobody else's here, and the server shows who has it.
    let busy = home.umd(&format!("assemble s {uri} b")).fails(1);
    assert!(busy.contains("in use"), "{busy}");
    let zero = home.umd(&format!("zero-superblock {uri}"));
    assert!(zero.err.contains("not zeroing"), "{}", zero.err);
    server.home.umd("stop d0").fails(1);
    // The server goes; writes go on.
    server.home.umd("stop --force d0").ok();
    let second = pattern(2, MIB);
    nbd.pwrite(MIB as u64, &second)
        .expect("the other member has it");
    eventually("the loss is seen", || {
        home.detail("r")["members"][0]["state"] == "faulty"
    });
    let refused = home.umd(&format!("examine {uri}")).fails(1);
    assert!(refused.contains("cannot open nbd+unix:///d0"), "{refused}");
    // It comes back, with what it held: the bitmap knows the rest.
    server.serve("d0");
    home.umd(&format!("manage r --remove {uri}")).ok();
    home.umd(&format!("manage r --re-add {uri}")).ok();
    home.settle("r");
    assert_eq!(home.detail("r")["degraded"], 0);
    home.umd("manage r --fail b").ok();
    let mut read = nbd.pread(0, 3 * MIB as u32).expect("reads");
    assert!(read[MIB..2 * MIB] == second, "what it had missed");
    read[MIB..2 * MIB].copy_from_slice(&first[MIB..2 * MIB]);
    assert!(read == first, "what it had");
    drop(nbd);
    home.umd("stop r").ok();
    // Found again by what is on it, and a daemon that was killed finds it by itself.
    home.umd(&format!("assemble r --run {uri}")).ok();
    let pid = home.daemon_pid().expect("a daemon");
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("kills");
    eventually("the next daemon runs it", || {
        let shown = home.umd("detail --json r");
        shown.code == 0 && shown.out.contains("d0")
    });
    let mut nbd = home.nbd("r");
    assert!(nbd.pread(MIB as u64, MIB as u32).expect("reads") == second);
    drop(nbd);
    home.umd("stop r").ok();
    server.home.umd("stop d0").ok();
}

#[test]
fn what_cannot_be_a_member_is_named_and_nothing_is_made() {
    let server = Server::new(&["d0"]);
    server.home.umd("create ro -l1 -n1 --force -z 8M x").ok();
    server.home.umd("stop ro").ok();
    server.home.umd("assemble ro --readonly x").ok();
    let home = Home::new();
    for (uri, why) in [
        (server.uri("none"), "no export has this name"),
        (server.uri("ro"), "takes no writes"),
        ("nbd://127.0.0.1:1/d0".into(), "Connection refused"),
        ("nbds://127.0.0.1:1/d0".into(), "TLS wants its keys"),
        ("nbd+unix:///d0".into(), "socket is missing"),
    ] {
        let line = format!("create r -l1 -n1 --force --size=8M {uri}");
        let said = home.umd(&line).fails(1);
        assert!(said.contains(why), "{uri}: {said}");
        assert!(said.contains(&uri), "{uri}: {said}");
    }
    let left: Vec<_> = fs::read_dir(home.path("")).expect("lists").collect();
    assert!(
        left.iter()
            .flatten()
            .all(|one| one.file_name() == "run" || one.file_name() == "state")
    );
    let copy = home.umd(&format!(
        "create r -l1 -n1 --force --io-engine=memory {}",
        server.uri("d0")
    ));
    assert!(copy.fails(1).contains("keeps a copy of files only"));
    // To look is allowed, also at what is read-only.
    home.umd(&format!("examine {}", server.uri("ro"))).fails(1);
    server.home.umd("stop ro").ok();
    server.home.umd("stop d0").ok();
}

/// Keys of a server and of a client, by the same authority.
fn furnish(dir: &Path) {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = params.self_signed(&key).expect("a certificate").pem();
    let issuer = Issuer::new(params, key);
    fs::create_dir_all(dir).expect("directory");
    fs::write(dir.join("ca-cert.pem"), authority).expect("writes");
    for who in ["server", "client"] {
        let key = KeyPair::generate().expect("a key");
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut params = CertificateParams::new(names).expect("parameters");
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let signed = params.signed_by(&key, &issuer).expect("signed");
        fs::write(dir.join(format!("{who}-cert.pem")), signed.pem()).expect("writes");
        fs::write(dir.join(format!("{who}-key.pem")), key.serialize_pem()).expect("writes");
    }
}

/// Ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        terminate(&self.0);
        let _ = self.0.wait();
    }
}

#[test]
fn members_on_other_machines_are_spoken_to_over_tls() {
    let far = Home::new();
    let (keys, strangers) = (far.path("keys"), far.path("strangers"));
    furnish(&keys);
    furnish(&strangers);
    fs::write(far.path("a"), vec![0; 32 * MIB]).expect("writes");
    let line = format!(
        "daemon --keep --nbd tcp:127.0.0.1:0 --tls {}",
        keys.display()
    );
    let _daemon = Running(far.spawn(&line));
    eventually("the daemon is there", || {
        far.umd("mdstat").code == 0 && far.daemon_pid().is_some()
    });
    far.umd("build d0 -l linear -n1 --force a").ok();
    let detail = far.detail("d0");
    let doors = detail["nbd"].as_array().expect("addresses");
    let mut tcp = doors
        .iter()
        .filter_map(|one| one.as_str()?.strip_prefix("tcp:"));
    let door = tcp.next_back().expect("a TCP door").to_owned();
    let uri = |keys: &Path| format!("nbds://{door}/d0?tls-certificates={}", keys.display());
    let home = Home::new();
    fs::write(home.path("b"), vec![0; 32 * MIB]).expect("writes");
    let create = |uri: &str| home.umd(&format!("create r -l1 -n2 --bitmap=internal {uri} b"));
    let stranger = create(&uri(&strangers)).fails(1);
    assert!(stranger.contains("certificate"), "{stranger}");
    let plain = create(&format!("nbd://{door}/d0")).fails(1);
    assert!(plain.contains("TLS"), "{plain}");
    let uri = uri(&keys);
    create(&uri).ok();
    let data = pattern(5, 8 * MIB);
    let mut nbd = home.nbd("r");
    nbd.pwrite(0, &data).expect("writes");
    home.settle("r");
    home.umd("manage r --fail b").ok();
    assert!(nbd.pread(0, 8 * MIB as u32).expect("reads") == data);
    drop(nbd);
    home.umd("stop r").ok();
    far.umd("stop d0").ok();
}
