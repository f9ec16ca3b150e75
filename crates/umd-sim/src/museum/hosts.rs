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
        M67,
        (
            "bca5b0658020",
            "md/cluster: fix deadlock when node is doing resync job",
        ),
        "A node that resyncs wanted the right to send, and its own superblock update waited behind \
         that with a lock that answering a message needs: who had the right waited for its answer.",
        "liveness",
        Rule::Liveness,
    ),
    entry(
        M68,
        (
            "a8da01f79c89",
            "md/cluster: block reshape with remote resync job",
        ),
        "An array was grown on one node while another one resynced it.",
        "G14",
        Rule::Size,
    ),
    entry(
        M69,
        (
            "51e453aecb26",
            "md-cluster: gather resync infos and enable recv_thread after bitmap is ready",
        ),
        "A node that joined received messages before it had an array: a window, or its end, was \
         acknowledged and forgotten.",
        "G14",
        Rule::Liveness,
    ),
    entry(
        M70,
        (
            "db5e653d7c9f, linux-raid 2024-06-12",
            "md-cluster: fix no recovery job when adding/re-adding a disk",
        ),
        "A node that read of a disk's new slot activated it by itself, as one to which nothing has \
         to be copied, and recorded that: nobody filled it.",
        "G5, G8",
        Rule::Content,
    ),
    entry(
        M71,
        (
            "linux-raid 2025-03-02",
            "md/md-bitmap: fix wrong bitmap_limit for clustermd when write sb",
        ),
        "The end of a node's bitmap was counted from where that of the first node begins: no other \
         node ever wrote the superblock of its own, so that nothing says since when its bits are \
         missing.",
        "G1",
        Rule::Clear,
    ),
    entry(
        M72,
        (
            "a1fd37f97808, linux-raid 2025-07-28",
            "md/md-cluster: handle REMOVE message earlier",
        ),
        "A node acknowledged that a member had failed, and read of it later: the message that \
         removes it came first, and found it in use.",
        "G14",
        Rule::Size,
    ),
    entry(
        M73,
        (
            "1bbe254e4336, 659b254fa739",
            "md-cluster: check for timeout while a new disk adding, and another",
        ),
        "A node that could not do what it was asked, such as find a new disk, answered nothing, \
         and the one that had asked waited.",
        "liveness",
        Rule::Liveness,
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
