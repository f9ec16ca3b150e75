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
        Rule::Liveness,
    ),
    entry(
        M67,
        (
            "bca5b0658020",
            "md/cluster: fix deadlock when node is doing resync job",
        ),
        "A resync waited for the right to send, an update of superblocks behind it, and what was \
         received behind that: nobody was answered, so the right never came.",
        "Liveness",
        Rule::Liveness,
    ),
    entry(
        M68,
        (
            "a8da01f79c89",
            "md/cluster: block reshape with remote resync job",
        ),
        "An array got another size on one node while another one resynced it. (Here that is a size \
         that grows.)",
        "G14",
        Rule::Size,
    ),
    entry(
        M69,
        (
            "51e453aecb26",
            "md-cluster: gather resync infos and enable recv_thread after bitmap is ready",
        ),
        "Who joined was told where another node resynced before it had an array that could keep \
         out of there, and wrote in the middle of it.",
        "G14",
        Rule::Window,
    ),
    entry(
        M70,
        (
            "linux-raid 2024-06-12",
            "md-cluster: fix no recovery job when adding/re-adding a disk",
        ),
        "Who heard of a new disk did not wait until the node that had added it began to fill it.",
        "G5, G8",
        Rule::Liveness,
    ),
    entry(
        M71,
        (
            "linux-raid 2025-03-02",
            "md/md-bitmap: fix wrong bitmap_limit for clustermd when write sb",
        ),
        "A node that is not the first one never wrote the superblock of its own bitmap. (Here it \
         does not when the array gets larger.)",
        "G1 per slot",
        Rule::Size,
    ),
    entry(
        M73,
        (
            "1bbe254e4336, 659b254fa739",
            "md-cluster: check for timeout while a new disk adding",
        ),
        "A node that could not do what a message asked said nothing at all, and its sender kept the \
         right to send.",
        "Liveness",
        Rule::Liveness,
    ),
    entry(
        M74,
        (
            "DRBD cb1ce8a99 and others",
            "a dead node's bits are ours, durably, before they are cleared",
        ),
        "A bitmap was copied in an order in which a crash in between left the bits nowhere. (One of \
         six of a kind in DRBD; md-cluster's takeover has the same order.)",
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
        "A window is told as its first sector and its end, and none as two zeros: one that began at \
         0 was taken for none.",
        "S1",
        Rule::Window,
    ),
    entry(
        U68,
        (
            "found by the search of cluster/tests; a rule of ours",
            "an update is over when who is down was fenced, too",
        ),
        "A message counted as answered when its last receiver had died. What that one had under way \
         landed afterwards.",
        "S1, S3",
        Rule::Window,
    ),
    entry(
        U69,
        (
            "found by the search of cluster/tests; a rule of ours",
            "a window is shown to who joins before it is told to who is there",
        ),
        "Who joined between the two neither heard of the window nor saw it.",
        "S1",
        Rule::Window,
    ),
    entry(
        U70,
        (
            "found by the search of cluster/tests; a rule of ours",
            "who joins shows the array no larger than who is there",
        ),
        "A new size was on superblocks and not agreed on yet, and who joined showed it.",
        "S7",
        Rule::Size,
    ),
    entry(
        U71,
        (
            "found by the search of cluster/tests; a rule of ours",
            "after a node died superblocks are read again before they are written",
        ),
        "A node died after it had written superblocks and before it told: the next one wrote its \
         own over them.",
        "S6",
        Rule::Size,
    ),
    entry(
        U72,
        (
            "a rule of ours",
            "what the right to write was wanted for is looked at again when it has come",
        ),
        "What was waited behind had changed the array, and superblocks were written as if it had \
         not.",
        "S6",
        Rule::Size,
    ),
    entry(
        U73,
        (
            "D4 of md-cluster; a rule of ours",
            "peers are answered while any other message waits for the token",
        ),
        "A removal waited for the right to send, and what was received waited behind it.",
        "Liveness",
        Rule::Liveness,
    ),
];
