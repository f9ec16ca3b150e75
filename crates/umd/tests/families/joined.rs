//! A plain array becomes one of a cluster, and a plain one again: data stays, and what is dirty.

use super::*;

const ALONE: &str = "--cluster-engine=memory --cluster-node=here";

/// `umd examine --bitmap` of a member, without blanks.
fn bitmap(rig: &Rig, member: &str) -> String {
    let shown = rig.umd(&format!("examine --bitmap {member}")).out;
    shown.replace(' ', "")
}

#[test]
fn an_array_joins_a_cluster_and_leaves_it() {
    for (count, options) in [(2, "-l1 -n2"), (4, "-l10 -n4 -c64")] {
        let mut rig = Rig::create(count, &format!("{options} --size 16M -b internal"));
        rig.stop();
        let before = rig.home.hashes();
        let names = rig.names();
        let update = "--update=cluster=hall --nodes=3";
        let planned = rig.umd(&format!("assemble r {update} --dry-run {names}"));
        assert!(planned.out.contains("('hall', 3 nodes)"), "{}", planned.out);
        assert!(rig.home.hashes() == before, "nothing was written");

        let said = rig.umd(&format!("assemble r {update} {names}")).err;
        assert!(said.contains(&format!("on {count} members")), "{said}");
        assert!(said.contains("was not started"), "{said}");
        let shown = bitmap(&rig, "m0");
        assert!(
            shown.contains("Clustername:hall") && shown.contains("nodes:3"),
            "{shown}"
        );
        let said = rig.umd(&format!("assemble r {update} {names}")).err;
        assert!(said.contains("needed no update"), "{said}");
        let plain = rig.home.umd(&format!("assemble r {names}")).fails(1);
        assert!(plain.contains("is of a clustered array"), "{plain}");

        rig.umd(&format!("assemble r {ALONE} --home-cluster=hall {names}"));
        rig.verify("in the cluster");
        rig.write(3 << 20, 5, 1 << 20);
        rig.agrees("in the cluster");
        let back = format!("assemble r --update=no-cluster=hall {names}");
        assert!(rig.home.umd(&back).fails(1).contains("in use"));
        rig.stop();
        rig.umd(&back);
        rig.home.settle("r");
        rig.verify("plain again");
        rig.agrees("plain again");
        rig.stop();
        // With one command, as the first node: who had other slots need not be asked for.
        let name = "--update=cluster=barn";
        rig.umd(&format!("assemble r {name} {ALONE} {names}"));
        assert_eq!(rig.home.detail("r")["cluster"]["name"], "barn");
        assert_eq!(
            rig.home.detail("r")["cluster"]["nodes"]
                .as_array()
                .map(Vec::len),
            Some(4)
        );
        rig.verify("in another cluster");
        rig.stop();
    }
}

/// A daemon that is killed leaves regions dirty: those are resynced in the cluster.
#[test]
fn what_was_under_way_is_resynced_in_the_cluster() {
    let mut rig = Rig::create(2, "-l1 -n2 --size 16M -b internal --bitmap-chunk 64K");
    rig.stop(); // Which clears all bits.
    rig.start();
    let (offset, _) = rig.room();
    rig.write(1 << 20, 7, 4096);
    let pid = rig.home.daemon_pid().expect("it runs");
    kill(pid);
    let shown = bitmap(&rig, "m0");
    assert!(shown.contains(",1dirty"), "{shown}");
    poke(&rig.home, "m1", offset + (1 << 20) + 8192, &POISON);
    poke(&rig.home, "m1", offset + (9 << 20), &POISON);
    let names = rig.names();
    rig.umd(&format!("assemble r --update=cluster=hall {ALONE} {names}"));
    rig.home.settle("r");
    rig.umd("action r check --wait");
    let detail = rig.home.detail("r");
    let found = detail["mismatches"].as_array().expect("places");
    assert_eq!(found.len(), 1, "only what was dirty was resynced: {detail}");
    rig.stop();
}

fn kill(pid: u32) {
    let done = std::process::Command::new("kill")
        .args(["-9", &pid.to_string()])
        .status();
    assert!(done.expect("kill runs").success());
    let gone = || !std::path::Path::new(&format!("/proc/{pid}/fd/0")).exists();
    common::eventually("the daemon is gone", gone);
}

/// `umd grow` while it runs: clients keep their connection, and what they wrote.
#[test]
fn a_running_array_joins_a_cluster_and_leaves_it() {
    for (count, options) in [(2, "-l1 -n2"), (4, "-l10 -n4 -c64")] {
        let mut rig = Rig::create(count, &format!("{options} --size 16M -b internal"));
        let join = format!("grow r --bitmap=clustered --nodes=3 {ALONE} --home-cluster=hall");
        let planned = rig.umd(&format!("{join} --dry-run")).out;
        assert!(
            planned.contains("cluster 'hall', which 3 nodes"),
            "{planned}"
        );
        assert!(
            !bitmap(&rig, "m0").contains("Clustername"),
            "nothing was written"
        );
        let mut client = rig.home.nbd("r");
        let said = rig.umd(&join).err;
        assert!(said.contains("an array of cluster 'hall' now"), "{said}");
        let piece = pattern(9, 4096);
        client
            .pwrite(4096, &piece)
            .expect("the connection is as it was");
        rig.data[4096..8192].copy_from_slice(&piece);
        let detail = rig.home.detail("r");
        assert_eq!(detail["cluster"]["nodes"].as_array().map(Vec::len), Some(3));
        assert_eq!(detail["cluster"]["node"], 0);
        let shown = bitmap(&rig, "m0");
        assert!(shown.contains("Clustername:hall"), "{shown}");
        let again = rig.home.umd(&join).fails(1);
        assert!(again.contains("of cluster 'hall' already"), "{again}");
        // The next daemon finds it as what it is by now.
        kill(rig.home.daemon_pid().expect("it runs"));
        assert_eq!(rig.home.detail("r")["cluster"]["name"], "hall");
        rig.verify("in the cluster");
        let mut client = rig.home.nbd("r");
        let planned = rig.umd("grow r --bitmap=internal --dry-run").out;
        assert!(planned.contains("would make r a plain array"), "{planned}");
        let said = rig.umd("grow r --bitmap=internal").err;
        assert!(said.contains("a plain array now"), "{said}");
        let read = client
            .pread(4096, 4096)
            .expect("the connection is as it was");
        assert!(read == piece, "what was written in the cluster");
        let detail = rig.home.detail("r");
        assert!(
            detail["cluster"].is_null() && detail["bitmap"].is_object(),
            "{detail}"
        );
        kill(rig.home.daemon_pid().expect("it runs"));
        assert!(rig.home.detail("r")["cluster"].is_null());
        rig.umd(&join);
        rig.write(1 << 20, 3, 1 << 16);
        // What the kill left is resynced.
        let rests = |rig: &Rig| {
            common::eventually("nothing is to be resynced", || {
                let detail = rig.home.detail("r");
                detail["sync"].is_null() && detail["sync_pending"] == false
            });
        };
        rests(&rig);
        rig.umd("grow r --bitmap=none");
        assert!(rig.home.detail("r")["bitmap"].is_null());
        rig.umd(&join);
        rests(&rig);
        rig.umd("grow r --bitmap=none");
        rig.verify("plain again");
        rig.agrees("plain again");
        rig.stop();
    }
}

#[test]
fn what_cannot_join_while_it_runs_goes_on_as_it_is() {
    let mut rig = Rig::create(2, "-l1 -n2 --size 16M -b internal");
    let join = format!("grow r --bitmap=clustered {ALONE} --home-cluster=hall");
    for (line, code, sentence) in [
        (
            "grow r --bitmap=clustered".to_owned(),
            2,
            "--cluster-engine=memory",
        ),
        (
            format!("grow r --bitmap=clustered {ALONE}"),
            2,
            "needs the name of the cluster",
        ),
        (
            "grow r --bitmap=none --nodes=3".into(),
            2,
            "--nodes needs --bitmap=clustered",
        ),
        (
            format!("grow r --bitmap=none {ALONE}"),
            2,
            "--cluster-engine needs --bitmap=clustered",
        ),
        (
            format!("{join} --bitmap-chunk=64M"),
            2,
            "does not go with --bitmap=clustered",
        ),
        (format!("{join} --nodes=1"), 2, "invalid number of nodes: 1"),
        (
            "grow r --bitmap=clustered --cluster-engine=dlm --home-cluster=hall".into(),
            2,
            "'dlm' is no lock service",
        ),
    ] {
        let said = rig.home.umd(&line).fails(code);
        assert!(said.contains(sentence), "{line}: {said}");
    }
    rig.umd("manage r --readonly");
    let said = rig.home.umd(&join).fails(1);
    assert!(said.contains("it is read-only"), "{said}");
    rig.umd("manage r --readwrite");
    rig.umd("grow r --bitmap=none");
    let file = rig.home.path("bits");
    rig.umd(&format!("grow r --bitmap={}", file.display()));
    let said = rig.home.umd(&join).fails(1);
    assert!(said.contains("its bitmap is in a file"), "{said}");
    rig.umd("grow r --bitmap=none");
    rig.write(0, 4, 4096);
    rig.verify("as before");
    rig.umd(&join);
    let said = rig
        .home
        .umd("grow r --bitmap=internal --bitmap-chunk=4M")
        .fails(2);
    assert!(said.contains("change it afterwards"), "{said}");
    rig.stop();
    rig.umd(&format!(
        "assemble r --update=no-cluster=hall {}",
        rig.names()
    ));
    rig.umd("stop r");
    std::fs::create_dir(rig.home.path("over")).expect("a directory");
    rig.umd(&format!("assemble r --overlay over {}", rig.names()));
    let said = rig.home.umd(&join).fails(1);
    assert!(said.contains("it runs with --overlay"), "{said}");
    let other = Rig::create(3, "-l5 -n3 --size 16M");
    let said = other.home.umd(&join).fails(2);
    assert!(said.contains("not raid5"), "{said}");
    other.verify("as before");
}

#[test]
fn what_cannot_join_is_left_as_it_is() {
    let rig = Rig::create(2, "-l1 -n2 --size 16M -b internal --bitmap-chunk 4K");
    let names = rig.names();
    let update = "assemble r --update=cluster=hall";
    let said = rig.home.umd(&format!("{update} {names}")).fails(1);
    assert!(said.contains("in use"), "{said}");
    rig.stop();
    let before = rig.home.hashes();
    let long = "n".repeat(64);
    for (line, code, sentence) in [
        (
            format!("assemble r --update=cluster {names}"),
            2,
            "cluster=NAME",
        ),
        (
            format!("assemble r --nodes=3 {names}"),
            2,
            "--nodes needs --update=cluster=NAME",
        ),
        (
            format!("{update} --nodes=1 {names}"),
            2,
            "invalid number of nodes: 1",
        ),
        (
            format!("assemble r --update=cluster={long} {names}"),
            2,
            "1 to 63 bytes",
        ),
        (
            format!("{update} --readonly {names}"),
            2,
            "does not go with --readonly",
        ),
        (format!("{update} --json {names}"), 2, "only written"),
        (
            format!("{update} {ALONE} --home-cluster=barn {names}"),
            2,
            "cannot start in 'barn'",
        ),
        (format!("{update} m0 m0"), 1, "more than once"),
        (format!("{update} m0 m9"), 1, "cannot open"),
        (
            "assemble r --update=cluster=hall".into(),
            2,
            "needs the devices named",
        ),
    ] {
        let said = rig.home.umd(&line).fails(code);
        assert!(said.contains(sentence), "{line}: {said}");
    }
    assert!(rig.home.hashes() == before, "nothing was written");
    rig.start();
    rig.verify("as before");
    rig.stop();
    let other = Rig::create(3, "-l5 -n3 --size 16M");
    other.stop();
    let before = other.home.hashes();
    let names = other.names();
    let said = other
        .home
        .umd(&format!("assemble r --update=cluster=hall {names}"));
    assert!(said.fails(2).contains("not raid5"));
    assert!(other.home.hashes() == before, "nothing was written");
}
