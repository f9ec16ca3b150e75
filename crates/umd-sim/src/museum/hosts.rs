//! Mistakes of clusters, as the museum tells them: those of md-cluster, its lock service and DRBD,
//! and rules of ours that something needs.

use umd_core::value::Exhibit::*;

use super::catalogue::{Entry, entry};
use crate::monitor::Rule;

pub(super) const CLUSTERS: &[Entry] = &[
    entry(
        M65,
        (
            "0ba959774e93",
            "md-cluster: use sync way to handle METADATA_UPDATED msg",
        ),
        "Who had to read superblocks that another node had written waited for a lock, which was \
         held by who waited for the right to write superblocks itself, which that other node had \
         until it was answered.",
        "Liveness, G14",
        Rule::Liveness,
    ),
    entry(
        M66,
        (
            "48df498daf62",
            "md: move bitmap_destroy to the beginning of __md_stop",
        ),
        "A node took down what serves messages before it had left the cluster: a message came, and \
         nobody answered.",
        "G13",
        Rule::Clear,
    ),
    entry(
        M74,
        (
            "DRBD cb1ce8a99 and others",
            "a dead node's bits are ours, durably, before they are cleared",
        ),
        "A bitmap was copied in an order in which a crash in between left the bits nowhere. (One \
         of six of a kind in DRBD; md-cluster's takeover has the same order.)",
        "G1, G8",
        Rule::Content,
    ),
    entry(
        U66,
        (
            "DRBD 415a2c408; a rule of ours",
            "a window is acknowledged when no write is under way in it",
        ),
        "A node said that it kept out of a window while writes of it were still under way there, \
         and the resync copied beside them.",
        "S1",
        Rule::Window,
    ),
    entry(
        U67,
        (
            "own reading of md-cluster; a rule of ours",
            "a window at the start of the array is one",
        ),
        "A window is told as its first sector and its end, and none as two zeros: one that began \
         at 0 was taken for none.",
        "S1",
        Rule::Window,
    ),
    entry(
        U68,
        (
            "found by the search of cluster/tests; a rule of ours",
            "a window is shown to who joins before it is told to who is there",
        ),
        "Who joined between the two neither heard of the window nor saw it.",
        "S1",
        Rule::Liveness,
    ),
];
