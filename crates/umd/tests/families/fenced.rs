//! What fences a cluster has to be there before anybody joins it.

use std::fs;

use crate::common::Home;

#[test]
fn what_cannot_fence_is_named_and_nothing_is_written() {
    let home = Home::new();
    let create = "create c -l1 -n2 --bitmap=clustered --nodes=2 --home-cluster=hall -z 64M a b";
    home.umd(create).ok();
    let before = home.hashes();
    let assemble = |more: &str| {
        home.umd(&format!(
            "assemble c --cluster-engine=memory --home-cluster=hall --cluster-node=alpha {more} a b"
        ))
    };
    let file = home.path("a").display().to_string();
    let no = assemble("--cluster-reservations").fails(1);
    assert!(
        no.contains(&format!("{file} has no persistent reservations")),
        "{no}"
    );
    fs::write(home.path("dog"), b"").expect("writes");
    let dog = home.path("dog").display().to_string();
    let no = assemble(&format!("--cluster-watchdog={dog}")).fails(1);
    assert!(
        no.contains(&format!("{dog} is no watchdog to be used")),
        "{no}"
    );
    fs::remove_file(home.path("dog")).expect("removes");
    let no = assemble("--cluster-watchdog=/nowhere/dog").fails(1);
    assert!(
        no.contains("/nowhere/dog is no watchdog to be used: No such file"),
        "{no}"
    );
    assert!(home.hashes() == before, "nothing was written");
    // And its name is free again.
    assemble("--cluster-fence=/sbin/agent").ok();
    let ways = &home.detail("c")["cluster"]["fencing"];
    assert_eq!(
        *ways,
        serde_json::json!(["command /sbin/agent", "confirmation"])
    );
    let shown = home.umd("detail c").ok().out;
    assert!(
        shown.contains("Fenced By : command /sbin/agent, confirmation\n"),
        "{shown}"
    );
    home.umd("stop c").ok();
}
