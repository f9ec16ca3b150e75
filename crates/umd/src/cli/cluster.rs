//! `umd cluster`, and what `umd assemble` is told of a cluster.

use super::args_cluster::{ClusterArgs, ClusterCommand, ClusterCommandArgs};
use super::outcome::{Failure, Outcome, say};
use super::reach::Reach;
use super::values;
use crate::api::{ClusterRequest, ConfirmDeadRequest, DoneDoc};
use crate::text::Context;

/// Runs `umd cluster`.
///
/// # Errors
/// With the exit code and sentence for the user.
pub fn run(args: &ClusterCommandArgs, reach: &Reach, quiet: bool) -> Outcome {
    let ClusterCommand::ConfirmDead { array, node } = &args.what;
    let request = ConfirmDeadRequest { node: *node };
    let done: DoneDoc = reach.post(array, "cluster/confirm-dead", &request)?;
    if !quiet {
        done.messages.iter().for_each(|line| say(line));
    }
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
