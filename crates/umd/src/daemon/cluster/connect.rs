//! From what was asked for to a lock service, and what stands against it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use umd_cluster::memory::Memory;
use umd_cluster::{Engine, LogEngine, Past, Setup, Waker};
use umd_core::assembly::{BitmapPlan, MemberFacts, Plan};
use umd_core::cluster::ProofKind;

use umd_core::value::SECTOR_BYTES;
use umd_format::bitmap::{SUPERBLOCK_BYTES, Slots};

use super::kennel::{self, Lease};
use crate::api::{AssembleRequest, ClusterRequest, ErrorDoc};
use crate::daemon::join;
use crate::daemon::open::Opened;

/// The lock service of one process.
pub const MEMORY: &str = "memory";
/// That of several hosts.
const ETCD: &str = "etcd";

/// Checks what can be seen without members.
///
/// # Errors
/// When it makes no sense, or goes with nothing else that was asked for.
pub fn check(request: &AssembleRequest) -> Result<(), ErrorDoc> {
    let Some(cluster) = &request.cluster else {
        return Ok(());
    };
    let usage = |text: String| ErrorDoc {
        exit_code: 2,
        ..ErrorDoc::new(text)
    };
    let joins = join::cluster(request);
    let others = [
        ("read-only", request.readonly || request.read_auto),
        ("with an overlay", request.overlay.is_some()),
        ("with a bitmap in a file", request.bitmap_file.is_some()),
        ("with --update", request.update.is_some() && joins.is_none()),
        ("with --force", request.force),
        (
            "with the I/O engine memory",
            request.io_engine.as_deref() == Some("memory"),
        ),
    ];
    if let Some((what, _)) = others.iter().find(|(_, asked)| *asked) {
        return Err(usage(format!("a node of a cluster is not started {what}")));
    }
    if let Some(joins) = joins.filter(|joins| *joins != cluster.name) {
        let said = &cluster.name;
        return Err(usage(format!(
            "it becomes one of cluster '{joins}', and cannot start in '{said}'"
        )));
    }
    if cluster.name.is_empty() || cluster.node.is_empty() {
        let what = "the cluster and this node of it need a name each";
        return Err(usage(what.into()));
    }
    let letting_in = cluster.tls_dir.is_some() || cluster.login_file.is_some();
    match (cluster.engine.as_str(), cluster.servers.is_empty()) {
        (MEMORY, true) if letting_in => Err(usage(
            "the lock service 'memory' asks nobody who they are: --cluster-tls and \
             --cluster-login are for etcd"
                .into(),
        )),
        (MEMORY, true) => Ok(()),
        (MEMORY, false) => Err(usage("the lock service 'memory' has no servers".into())),
        (ETCD, _) if !cfg!(feature = "etcd") => Err(usage(
            "this umd was built without the lock service etcd (feature 'etcd')".into(),
        )),
        (ETCD, true) => Err(usage(
            "the lock service etcd needs its servers: --cluster-server=http://HOST:PORT".into(),
        )),
        (ETCD, false) => encryption(cluster).map_err(usage),
        (other, _) => Err(usage(format!(
            "'{other}' is no lock service; memory and etcd are"
        ))),
    }
}

/// TLS for all servers, or for none.
fn encryption(cluster: &ClusterRequest) -> Result<(), String> {
    let (wanted, scheme) = match cluster.tls_dir {
        Some(_) => (true, "https"),
        None => (false, "http"),
    };
    let other = cluster.servers.iter().find(|url| {
        let url = url.split_once("://").map(|(scheme, _)| scheme);
        url != Some(scheme)
    });
    match other {
        None => Ok(()),
        Some(url) if url.starts_with("https://") => Err(format!(
            "{url} is spoken to with TLS: give --cluster-tls=DIR, with ca-cert.pem in it"
        )),
        Some(url) if wanted && url.starts_with("http://") => Err(format!(
            "with --cluster-tls every server is one of https://HOST:PORT, and {url} is not"
        )),
        Some(url) => Err(format!("'{url}' is no server: {scheme}://HOST:PORT is one")),
    }
}

/// Whether the lock service can be had, as far as that is known before anybody joins.
///
/// # Errors
/// When it cannot.
pub fn reachable(request: &ClusterRequest) -> Result<(), ErrorDoc> {
    match request.engine.as_str() {
        MEMORY => Ok(()),
        _ => asked(request),
    }
}

#[cfg(feature = "etcd")]
fn asked(request: &ClusterRequest) -> Result<(), ErrorDoc> {
    use umd_cluster::Ledger;
    use umd_cluster::etcd::Etcd;
    let servers = super::access::servers(request)?;
    let etcd = Etcd::new(&servers, [0; 16], std::time::Duration::from_secs(10));
    let told = |error: umd_cluster::Trouble| ErrorDoc::new(error.to_string());
    let etcd = etcd.map_err(told)?;
    etcd.lets_in().map_err(told)?;
    etcd.marks().map(drop).map_err(told)
}

#[cfg(not(feature = "etcd"))]
fn asked(_: &ClusterRequest) -> Result<(), ErrorDoc> {
    Err(ErrorDoc::new("this umd was built without etcd"))
}

/// What an array of a cluster is started with.
pub struct Wanted {
    /// How.
    pub request: ClusterRequest,
    /// How many bitmaps the members have.
    pub capacity: u16,
    setup: Setup,
}

impl Wanted {
    /// For the array of this plan; `joined` just now, it has never been run by its cluster.
    ///
    /// # Errors
    /// When it belongs to another cluster, or has no bitmaps that can be used.
    pub fn of(
        request: &ClusterRequest,
        plan: &Plan,
        (opened, facts, joined): (&[Opened], &[MemberFacts], bool),
    ) -> Result<Wanted, ErrorDoc> {
        let (BitmapPlan::Usable { superblock, .. } | BitmapPlan::Stale { superblock, .. }) =
            &plan.bitmap
        else {
            return Err(ErrorDoc::new("no member has bitmaps that can be used"));
        };
        let stored = superblock.fields.cluster().unwrap_or_default();
        if stored != request.name {
            let said = &request.name;
            return Err(ErrorDoc::new(format!(
                "the array belongs to cluster '{stored}', not to '{said}'"
            )));
        }
        let mut setup = Setup::new(plan.uuid.0, &stored, &request.node);
        let made = joined || just_made(opened, facts);
        setup.watchdog = request.watchdog.as_ref().map(|_| kennel::TIMEOUT);
        setup.past = match (made, request.engine.as_str()) {
            (true, _) => Past::New,
            // Members are open for this process alone, on the one host that may run them.
            (false, MEMORY) => Past::Unknown {
                fenced: Some(ProofKind::Confirmed),
            },
            (false, _) => Past::Unknown { fenced: None },
        };
        Ok(Wanted {
            request: request.clone(),
            capacity: u16::try_from(superblock.fields.nodes).expect("64 at the most"),
            setup,
        })
    }

    /// The watchdog, opened, if there is to be one.
    ///
    /// # Errors
    /// When it cannot be used.
    pub fn watchdog(&self) -> Result<Option<Lease>, ErrorDoc> {
        let device = self.request.watchdog.as_deref();
        device.map(kennel::lease).transpose().map_err(ErrorDoc::new)
    }

    /// The lock service.
    ///
    /// # Errors
    /// When its servers are described in a way that cannot be.
    pub fn connect(&self, waker: Waker) -> Result<Box<dyn Engine>, ErrorDoc> {
        let setup = self.setup.clone();
        match self.request.engine.as_str() {
            MEMORY => {
                let link = memory(setup.array).link();
                Ok(Box::new(LogEngine::new(link, setup, waker)))
            }
            _ => self.etcd(setup, waker),
        }
    }

    #[cfg(feature = "etcd")]
    fn etcd(&self, setup: Setup, waker: Waker) -> Result<Box<dyn Engine>, ErrorDoc> {
        use umd_cluster::etcd::Etcd;
        let servers = super::access::servers(&self.request)?;
        let etcd = Etcd::new(&servers, setup.array, setup.session);
        let told = |error: umd_cluster::Trouble| ErrorDoc::new(error.to_string());
        let etcd = etcd.map_err(told)?;
        etcd.lets_in().map_err(told)?;
        Ok(Box::new(LogEngine::new(etcd, setup, waker)))
    }

    #[cfg(not(feature = "etcd"))]
    fn etcd(&self, _: Setup, _: Waker) -> Result<Box<dyn Engine>, ErrorDoc> {
        Err(ErrorDoc::new("this umd was built without etcd"))
    }
}

/// Whether nobody ever ran it: no events, and bitmaps as they were made. Who runs it clears bits of
/// the first, or sets some of another one, before anything else differs.
fn just_made(opened: &[Opened], facts: &[MemberFacts]) -> bool {
    let untouched = |(one, fact): (&Opened, &MemberFacts)| {
        let found = fact.superblock.as_ref().ok()?;
        let start = found.fields.bitmap_sector()? * SECTOR_BYTES;
        let uuid = found.bitmap_uuid();
        let head = one.file.read_at(start, SUPERBLOCK_BYTES).ok()?;
        let slots = Slots::of(&head, uuid).ok()?;
        let bytes = usize::try_from(slots.all_sectors() * SECTOR_BYTES).ok()?;
        let nodes = slots.read(&one.file.read_at(start, bytes).ok()?, uuid);
        let first = nodes[0].dirty.len() as u64 == slots.regions();
        let others = nodes[1..].iter().all(|node| node.dirty.is_empty());
        Some(found.fields.events == 0 && first && others)
    };
    assert_eq!(opened.len(), facts.len(), "each was read");
    opened
        .iter()
        .zip(facts)
        .all(|pair| untouched(pair) == Some(true))
}

/// The log of an array in this process.
fn memory(array: [u8; 16]) -> Arc<Memory> {
    static LOGS: Mutex<BTreeMap<[u8; 16], Arc<Memory>>> = Mutex::new(BTreeMap::new());
    let mut logs = LOGS.lock().unwrap_or_else(PoisonError::into_inner);
    Arc::clone(logs.entry(array).or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of these servers, with keys and certificates or without.
    fn said(servers: &[&str], tls: bool) -> Result<(), String> {
        encryption(&ClusterRequest {
            servers: servers.iter().map(|one| (*one).to_owned()).collect(),
            tls_dir: tls.then(|| "/etc/umd/etcd".to_owned()),
            ..ClusterRequest::default()
        })
    }

    #[test]
    fn servers_are_spoken_to_with_tls_or_without_and_never_with_both() {
        assert_eq!(said(&["http://a:2379", "http://b:2379"], false), Ok(()));
        assert_eq!(said(&["https://a:2379", "https://b:2379"], true), Ok(()));
        for (servers, tls, why) in [
            (
                ["http://a:2379", "https://b:2379"],
                false,
                "https://b:2379 is spoken to with TLS: give --cluster-tls=DIR",
            ),
            (
                ["https://a:2379", "http://b:2379"],
                true,
                "with --cluster-tls every server is one of https://HOST:PORT",
            ),
            (["a:2379", "http://b:2379"], false, "'a:2379' is no server"),
            (["https://a", "ftp://b"], true, "'ftp://b' is no server"),
        ] {
            let refused = said(&servers, tls).unwrap_err();
            assert!(refused.contains(why), "{refused}");
        }
    }

    #[test]
    fn who_asks_nobody_gets_no_password() {
        let cluster = ClusterRequest {
            name: "hall".into(),
            node: "alpha".into(),
            engine: MEMORY.into(),
            login_file: Some("/etc/umd/login".into()),
            ..ClusterRequest::default()
        };
        let refused = check(&AssembleRequest {
            cluster: Some(cluster),
            ..AssembleRequest::default()
        });
        let refused = refused.unwrap_err();
        assert_eq!(refused.exit_code, 2);
        let said = refused.error;
        assert!(said.contains("--cluster-login are for etcd"), "{said}");
    }
}
