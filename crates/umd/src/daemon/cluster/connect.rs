//! From what was asked for to a lock service, and what stands against it. Asks no service yet.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use umd_cluster::memory::Memory;
use umd_cluster::{Engine, LogEngine, Past, Setup, Waker};
use umd_core::assembly::{BitmapPlan, MemberFacts, Plan};
use umd_core::cluster::ProofKind;

use umd_core::value::SECTOR_BYTES;
use umd_format::bitmap::{SUPERBLOCK_BYTES, Slots};

use crate::api::{AssembleRequest, ClusterRequest, ErrorDoc};
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
    let others = [
        ("read-only", request.readonly || request.read_auto),
        ("with an overlay", request.overlay.is_some()),
        ("with a bitmap in a file", request.bitmap_file.is_some()),
        ("with --update", request.update.is_some()),
        ("with --force", request.force),
        (
            "with the I/O engine memory",
            request.io_engine.as_deref() == Some("memory"),
        ),
    ];
    if let Some((what, _)) = others.iter().find(|(_, asked)| *asked) {
        return Err(usage(format!("a node of a cluster is not started {what}")));
    }
    if cluster.name.is_empty() || cluster.node.is_empty() {
        let what = "the cluster and this node of it need a name each";
        return Err(usage(what.into()));
    }
    match (cluster.engine.as_str(), cluster.servers.is_empty()) {
        (MEMORY, true) => Ok(()),
        (MEMORY, false) => Err(usage("the lock service 'memory' has no servers".into())),
        (ETCD, _) if !cfg!(feature = "etcd") => Err(usage(
            "this umd was built without the lock service etcd (feature 'etcd')".into(),
        )),
        (ETCD, true) => Err(usage(
            "the lock service etcd needs its servers: --cluster-server=http://HOST:PORT".into(),
        )),
        (ETCD, false) => Ok(()),
        (other, _) => Err(usage(format!(
            "'{other}' is no lock service; memory and etcd are"
        ))),
    }
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
    /// For the array of this plan.
    ///
    /// # Errors
    /// When it belongs to another cluster, or has no bitmaps that can be used.
    pub fn of(
        request: &ClusterRequest,
        plan: &Plan,
        opened: &[Opened],
        facts: &[MemberFacts],
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
        let made = just_made(opened, facts);
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
        use umd_cluster::etcd::{Etcd, Servers};
        let servers = Servers {
            urls: self.request.servers.clone(),
            ..Servers::default()
        };
        let etcd = Etcd::new(&servers, setup.array, setup.session);
        let etcd = etcd.map_err(|error| ErrorDoc::new(error.to_string()))?;
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
