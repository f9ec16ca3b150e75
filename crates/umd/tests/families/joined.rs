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

/// What `umd grow` says to type instead is typed.
#[test]
fn an_array_that_runs_is_told_what_to_do_first() {
    let rig = Rig::create(2, "-l1 -n2 --size 16M -b internal");
    let told = |line: &str| {
        let dry = rig.home.umd(&format!("{line} --dry-run")).fails(1);
        let said = rig.home.umd(line).fails(1);
        assert_eq!(dry, said);
        said
    };
    let typed = |said: &str, from: &str| {
        let (_, command) = said.trim_end().split_once(from).expect("what to type");
        let command = command.trim_end_matches(" makes it a plain one");
        rig.umd("stop r");
        rig.umd(&format!("assemble r {command}"));
    };
    let said = told("grow r --bitmap=clustered --nodes=3 --home-cluster=hall");
    assert!(said.contains("umd stop r; then"), "{said}");
    typed(&said, "umd assemble r ");
    let names = rig.names();
    rig.umd(&format!("assemble r {ALONE} --home-cluster=hall {names}"));
    let said = told("grow r --bitmap=clustered --home-cluster=hall");
    assert!(
        said.contains("an array of cluster 'hall' already"),
        "{said}"
    );
    for word in ["none", "internal"] {
        let said = told(&format!("grow r --bitmap={word}"));
        assert!(
            said.contains("while cluster 'hall' runs it: umd stop r; then"),
            "{said}"
        );
    }
    typed(&told("grow r --bitmap=none"), "umd assemble r ");
    rig.verify("plain again");
    rig.umd("grow r --bitmap=none");
    rig.stop();
    for (line, sentence) in [
        ("grow r --bitmap=clustered", "needs the name of the cluster"),
        (
            "grow r --bitmap=none --nodes=3",
            "--nodes needs --bitmap=clustered",
        ),
    ] {
        let said = rig.home.umd(line).fails(2);
        assert!(said.contains(sentence), "{said}");
    }
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
