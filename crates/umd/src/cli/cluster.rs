//! `umd cluster`, and what `umd assemble` is told of a cluster.

use umd_export::nbd::NoDemand;

use super::args_cluster::{ClusterArgs, ClusterCommand, ClusterCommandArgs, KeyArgs};
use super::outcome::{Failure, Outcome, print, print_json, say};
use super::reach::Reach;
use super::values;
use crate::api::{
    ClusterRequest, ConfirmDeadRequest, DoneDoc, ReservationsDoc, ReservationsRequest, SCHEMA,
};
use crate::client::quote;
use crate::daemon::reserved::words;
use crate::member::{self, Served};
use crate::text::Context;

/// Runs `umd cluster`.
///
/// # Errors
/// With the exit code and sentence for the user.
pub fn run(args: &ClusterCommandArgs, reach: &Reach, quiet: bool) -> Outcome {
    match &args.what {
        ClusterCommand::ConfirmDead { array, node } => {
            let request = ConfirmDeadRequest { node: *node };
            let done: DoneDoc = reach.post(array, "cluster/confirm-dead", &request)?;
            if !quiet {
                done.messages.iter().for_each(|line| say(line));
            }
            Ok(0)
        }
        ClusterCommand::Reservations { export, json } => show_reservations(export, *json, reach),
        ClusterCommand::Register(by) => demand("register", by, None, reach),
        ClusterCommand::Unregister(by) => demand("unregister", by, None, reach),
        ClusterCommand::Reserve(by) => demand("reserve", by, None, reach),
        ClusterCommand::Preempt { by, victim } => demand("preempt-abort", by, Some(victim), reach),
        ClusterCommand::ClearReservations { array } => {
            let request = ReservationsRequest {
                operation: "clear".into(),
                key: None,
                victim: None,
            };
            reach
                .post(array, "reservations", &request)
                .map(|_: DoneDoc| 0)
        }
    }
}

fn show_reservations(export: &str, json: bool, reach: &Reach) -> Outcome {
    let found = match member::is_elsewhere(export) {
        true => {
            let state = Served::open(export).and_then(|served| served.state());
            let state = state.map_err(Failure::failed)?;
            ReservationsDoc {
                schema: SCHEMA,
                reserved: state.reserved,
                registered: words(&state.registered),
                preempted: Vec::new(),
                writes_refused: 0,
            }
        }
        false => {
            let path = format!("/v1/arrays/{}/reservations", quote(export));
            reach.require(export)?.get(&path)?
        }
    };
    if json {
        print_json(&found)?;
        return Ok(0);
    }
    let reserved = if found.reserved { "yes" } else { "no" };
    let list = |keys: &[String]| match keys.is_empty() {
        true => "none".to_owned(),
        false => keys.join(" "),
    };
    let (registered, preempted) = (list(&found.registered), list(&found.preempted));
    print(&format!(
        "  Reserved : {reserved}\nRegistered : {registered}\n"
    ))?;
    if !found.preempted.is_empty() {
        print(&format!(" Preempted : {preempted}\n"))?;
    }
    if found.writes_refused > 0 {
        print(&format!("   Refused : {} writes\n", found.writes_refused))?;
    }
    Ok(0)
}

/// Asks something of a table, here or at another host.
fn demand(operation: &str, by: &KeyArgs, victim: Option<&String>, reach: &Reach) -> Outcome {
    if !member::is_elsewhere(&by.export) {
        let request = ReservationsRequest {
            operation: operation.into(),
            key: Some(by.key.clone()),
            victim: victim.cloned(),
        };
        let done: Result<DoneDoc, Failure> = reach.post(&by.export, "reservations", &request);
        return done.map(|_| 0);
    }
    let victim = victim.map_or(String::new(), |victim| format!(",{victim}"));
    let text = format!("{operation}={}{victim}", by.key);
    let demand = text
        .parse()
        .map_err(|why: NoDemand| Failure::usage(format!("{text} makes no sense: {why}")))?;
    let served = Served::open(&by.export).map_err(Failure::failed)?;
    let met = served.demand(demand);
    met.map_err(|why| Failure::failed(format!("{}: {why}", by.export)))?;
    Ok(0)
}

/// How an array is to be run as a node, if it is: of the cluster that it `joins` with this command,
/// unless another one is named.
///
/// # Errors
/// When the cluster has no name.
pub fn request(
    args: &ClusterArgs,
    config: Option<&str>,
    joins: Option<String>,
) -> Result<Option<ClusterRequest>, Failure> {
    let Some(engine) = &args.cluster_engine else {
        return Ok(None);
    };
    let name = match args.home_cluster.clone().or(joins) {
        Some(name) => Some(name),
        None => super::scan::config(config)?.homecluster,
    };
    let name = name.ok_or_else(|| {
        Failure::usage(
            "--cluster-engine needs the name of the cluster: --home-cluster=NAME, or HOMECLUSTER \
             in mdadm.conf",
        )
    })?;
    let node = args.cluster_node.clone();
    Ok(Some(ClusterRequest {
        name,
        engine: engine.clone(),
        servers: args.cluster_server.clone(),
        node: node.unwrap_or_else(|| Context::system().host),
        tls_dir: args.cluster_tls.as_deref().map(path).transpose()?,
        login_file: args.cluster_login.as_deref().map(path).transpose()?,
        fence_agent: args.cluster_fence.as_deref().map(path).transpose()?,
        reservations: args.cluster_reservations,
        watchdog: args.cluster_watchdog.as_deref().map(path).transpose()?,
    }))
}

/// What the daemon finds wherever it runs.
fn path(given: &str) -> Result<String, Failure> {
    let path = values::absolute(given)?;
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| Failure::usage(format!("{} is not a UTF-8 path", path.display())))
}
