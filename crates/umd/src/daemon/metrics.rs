//! `/metrics`: what monitoring reads, in the text form of OpenMetrics that Prometheus scrapes.
//!
//! ```text
//!   node_md_*   names, labels and meaning of node_exporter's mdadm collector, as if it read our
//!               mdstat: dashboards and alerts made for md go on working
//!   umd_*       what only we know: how long requests took, and writes stood on each rung, what is
//!               under way, bits of the bitmap, speed and progress of a sync action
//! ```

use std::fmt::Error;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, LabelValueEncoder, MetricEncoder};
use prometheus_client::encoding::{EncodeLabelValue, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::household::Household;
use super::meter::{Counted, KINDS, PURPOSES};
use crate::doc::{ArrayDoc, ClusterDoc};
use umd_core::value::{Histogram, RUNGS, Span};

/// The content type of [`render`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What is known of one array.
#[derive(Debug)]
pub struct Sample {
    /// The array.
    pub array: ArrayDoc,
    /// What it has done.
    pub counted: Counted,
    /// Clients connected.
    pub clients: usize,
}

impl Household {
    /// All metrics of all arrays.
    pub async fn metrics(&self) -> String {
        let mut samples = Vec::new();
        for (name, handle) in self.registry.all() {
            if let Ok((snapshot, array)) = self.look(&name, &handle).await {
                samples.push(Sample {
                    array,
                    counted: *snapshot.counted,
                    clients: snapshot.clients,
                });
            }
        }
        render(samples)
    }
}

/// The text for some arrays.
pub fn render(samples: Vec<Sample>) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Samples(samples)));
    let mut out = String::new();
    text::encode(&mut out, &registry).expect("a string takes everything");
    out
}

#[derive(Debug)]
struct Samples(Vec<Sample>);

impl Collector for Samples {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut page = Page {
            encoder: &mut encoder,
            samples: &self.0,
        };
        node_md(&mut page)?;
        health(&mut page)?;
        sync(&mut page)?;
        bitmap(&mut page)?;
        cluster(&mut page)?;
        requests(&mut page)?;
        rungs(&mut page)?;
        member_io(&mut page)
    }
}

/// What other nodes of its cluster are, and whether they keep writes waiting.
fn cluster(page: &mut Page<'_, '_>) -> Result<(), Error> {
    const STATES: [&str; 4] = ["this", "member", "dead", "free"];
    let name = "umd_cluster_nodes";
    let help = "Nodes of the array's cluster, by state.";
    page.numbers((name, help, MetricType::Gauge), |sample| {
        let Some(cluster) = &sample.array.cluster else {
            return Vec::new();
        };
        let count = |state: &str| {
            let nodes = cluster.nodes.iter();
            nodes.filter(|node| node.state == state).count() as f64
        };
        let labelled = |state| (vec![("state", state)], count(state));
        STATES.into_iter().map(labelled).collect()
    })?;
    let of = |sample: &Sample, value: fn(&ClusterDoc) -> f64| {
        let cluster = sample.array.cluster.as_ref();
        cluster.map(value)
    };
    page.gauge(
        "umd_cluster_frozen",
        "Whether writes wait for what has to be known of another node.",
        |sample| of(sample, |cluster| f64::from(cluster.frozen.is_some())),
    )?;
    page.gauge(
        "umd_cluster_waits",
        "What this node of the array's cluster waits for.",
        |sample| of(sample, |cluster| cluster.waits.len() as f64),
    )
}

/// Labels of one value, the device first.
type Labels<'a> = Vec<(&'static str, &'a str)>;

/// Where metrics are written, one after the other.
struct Page<'a, 'e> {
    encoder: &'a mut DescriptorEncoder<'e>,
    samples: &'a [Sample],
}

impl Page<'_, '_> {
    /// One number for each array that has it, or several told apart by a second label.
    fn numbers<'s>(
        &'s mut self,
        (name, help, kind): (&str, &str, MetricType),
        values: impl Fn(&'s Sample) -> Vec<(Labels<'s>, f64)>,
    ) -> Result<(), Error> {
        let mut metric = self.encoder.encode_descriptor(name, help, None, kind)?;
        for sample in self.samples {
            for (labels, value) in values(sample) {
                let labels = with_device(sample, labels);
                let mut one = metric.encode_family(&labels)?;
                match kind {
                    MetricType::Counter => {
                        one.encode_counter::<NoLabels, _, f64>(&value, None)?;
                    }
                    _ => one.encode_gauge(&value)?,
                }
            }
        }
        Ok(())
    }

    /// A gauge with one value for each array.
    fn gauge(
        &mut self,
        name: &str,
        help: &str,
        value: impl Fn(&Sample) -> Option<f64>,
    ) -> Result<(), Error> {
        self.numbers((name, help, MetricType::Gauge), |sample| {
            value(sample).into_iter().map(|v| (Vec::new(), v)).collect()
        })
    }

    /// A histogram for each word of a label.
    fn histograms<'s>(
        &'s mut self,
        name: &str,
        help: &str,
        label: &'static str,
        values: impl Fn(&'s Sample) -> Vec<(&'static str, &'s Histogram)>,
    ) -> Result<(), Error> {
        let kind = MetricType::Histogram;
        let mut metric = self.encoder.encode_descriptor(name, help, None, kind)?;
        for sample in self.samples {
            for (word, histogram) in values(sample) {
                let labels = with_device(sample, vec![(label, word)]);
                encode_histogram(metric.encode_family(&labels)?, histogram)?;
            }
        }
        Ok(())
    }
}

type NoLabels = [(&'static str, &'static str); 0];

/// A label's value, escaped as the text form wants it: a name or path may hold anything.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Escaped(String);

impl Escaped {
    fn new(text: &str) -> Escaped {
        let text = text.replace('\\', "\\\\").replace('"', "\\\"");
        Escaped(text.replace('\n', "\\n"))
    }
}

impl EncodeLabelValue for Escaped {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), Error> {
        self.0.as_str().encode(encoder)
    }
}

fn with_device(sample: &Sample, labels: Labels<'_>) -> Vec<(&'static str, Escaped)> {
    let device = ("device", Escaped::new(&sample.array.name));
    let further = labels
        .into_iter()
        .map(|(key, value)| (key, Escaped::new(value)));
    std::iter::once(device).chain(further).collect()
}

fn encode_histogram(mut one: MetricEncoder<'_>, histogram: &Histogram) -> Result<(), Error> {
    let buckets = histogram.counts.iter().enumerate();
    let buckets: Vec<(f64, u64)> = buckets
        .map(|(bucket, count)| {
            let bound = Histogram::bound(bucket).map_or(f64::INFINITY, seconds);
            (bound, *count)
        })
        .collect();
    let sum = seconds(histogram.sum);
    one.encode_histogram::<NoLabels>(sum, histogram.count(), &buckets, None)
}

/// A length of time in seconds.
pub fn seconds(span: Span) -> f64 {
    std::time::Duration::from_nanos(span.0).as_secs_f64()
}

fn flag(yes: bool) -> f64 {
    f64::from(u8::from(yes))
}

/// A counter or size as Prometheus keeps it; beyond 2^53 the last digits go.
fn float(number: u64) -> f64 {
    number as f64
}

/// The collector of node_exporter 1.10 reads mdstat, where a pending resync is one that runs.
fn node_state(array: &ArrayDoc) -> &'static str {
    let action = array.sync.as_ref().map(|sync| sync.action.as_str());
    match action {
        Some("recover") => "recovering",
        Some("check") => "check",
        Some(_) => "resync",
        None if array.sync_pending => "resync",
        None if array.array_state == "inactive" => "inactive",
        None => "active",
    }
}

fn node_disks(array: &ArrayDoc) -> Vec<(Labels<'static>, f64)> {
    let count = |state: &str| array.members.iter().filter(|m| m.state == state).count() as f64;
    let active = match array.array_state.as_str() {
        "inactive" => 0.0,
        _ => float(array.active_devices() as u64),
    };
    vec![
        (vec![("state", "active")], active),
        (vec![("state", "failed")], count("faulty")),
        (vec![("state", "spare")], count("spare")),
    ]
}

fn node_md(page: &mut Page<'_, '_>) -> Result<(), Error> {
    let states = ["active", "inactive", "recovering", "resync", "check"];
    page.numbers(
        (
            "node_md_state",
            "Indicates the state of md-device.",
            MetricType::Gauge,
        ),
        |sample| {
            let current = node_state(&sample.array);
            let each = states.iter();
            each.map(|state| (vec![("state", *state)], flag(*state == current)))
                .collect()
        },
    )?;
    page.numbers(
        (
            "node_md_disks",
            "Number of active/failed/spare disks of device.",
            MetricType::Gauge,
        ),
        |sample| node_disks(&sample.array),
    )?;
    page.gauge(
        "node_md_disks_required",
        "Total number of disks of device.",
        |sample| Some(f64::from(sample.array.raid_disks)),
    )?;
    page.gauge(
        "node_md_blocks",
        "Total number of blocks on device.",
        |sample| Some(float(sample.array.array_bytes / 1024)),
    )?;
    page.gauge(
        "node_md_blocks_synced",
        "Number of blocks synced on device.",
        |sample| {
            let array = &sample.array;
            Some(match &array.sync {
                Some(sync) => float(sync.done_sectors / 2),
                None if array.sync_pending => 0.0,
                None => float(array.array_bytes / 1024),
            })
        },
    )?;
    page.gauge(
        "node_md_raid_disks",
        "Number of raid disks on device.",
        |sample| Some(f64::from(sample.array.raid_disks)),
    )?;
    page.gauge(
        "node_md_degraded",
        "Number of degraded disks on device.",
        |sample| Some(f64::from(sample.array.degraded)),
    )
}

fn health(page: &mut Page<'_, '_>) -> Result<(), Error> {
    page.gauge(
        "umd_array_failed",
        "More members are lost than the level tolerates.",
        |s| Some(flag(s.array.failed)),
    )?;
    page.gauge(
        "umd_array_mismatch_sectors",
        "Sectors found to differ by the last check or repair.",
        |s| Some(float(s.array.mismatch_cnt)),
    )?;
    let corrected = (
        "umd_member_corrected_read_errors",
        "Read errors mended by rewriting.",
        MetricType::Gauge,
    );
    page.numbers(corrected, |sample| {
        let members = sample.array.members.iter();
        members
            .map(|m| {
                (
                    vec![("member", m.path.as_str())],
                    f64::from(m.corrected_read_errors),
                )
            })
            .collect()
    })?;
    let bad = (
        "umd_member_bad_bytes",
        "Bytes that the member's bad-block log names.",
        MetricType::Gauge,
    );
    page.numbers(bad, |sample| {
        let members = sample.array.members.iter();
        members
            .map(|m| (vec![("member", m.path.as_str())], float(m.bad_bytes)))
            .collect()
    })
}

fn sync(page: &mut Page<'_, '_>) -> Result<(), Error> {
    page.gauge(
        "umd_sync_speed_bytes",
        "Bytes a second that a sync action does now.",
        |s| {
            Some(
                s.array
                    .sync
                    .as_ref()
                    .map_or(0.0, |sync| float(sync.speed_kib_s * 1024)),
            )
        },
    )?;
    page.gauge(
        "umd_sync_done_ratio",
        "How much of the sync action is done.",
        |s| Some(s.array.sync.as_ref()?.percent / 100.0),
    )?;
    page.gauge(
        "umd_sync_finish_seconds",
        "Time until the sync action has ended, as far as it can be told.",
        |s| s.array.sync.as_ref()?.finish_seconds.map(float),
    )
}

fn bitmap(page: &mut Page<'_, '_>) -> Result<(), Error> {
    page.gauge("umd_bitmap_bits", "Bits of the write-intent bitmap.", |s| {
        Some(float(s.array.bitmap.as_ref()?.bits))
    })?;
    page.gauge(
        "umd_bitmap_dirty_bits",
        "Bits of the write-intent bitmap that are set.",
        |s| Some(float(s.array.bitmap.as_ref()?.dirty_bits)),
    )?;
    page.gauge(
        "umd_behind_writes",
        "Writes that lag on write-mostly members.",
        |s| Some(f64::from(s.array.bitmap.as_ref()?.behind_writes)),
    )
}

fn requests(page: &mut Page<'_, '_>) -> Result<(), Error> {
    page.gauge("umd_clients", "Clients connected.", |s| {
        Some(float(s.clients as u64))
    })?;
    page.gauge(
        "umd_requests_in_flight",
        "Requests of hosts under way.",
        |s| Some(float(s.array.requests_in_flight)),
    )?;
    page.histograms(
        "umd_request_seconds",
        "Time from the door to the answer of requests.",
        "op",
        |s| {
            let words = KINDS.iter().map(|(_, word)| *word);
            words.zip(&s.counted.requests).collect()
        },
    )?;
    let failed = (
        "umd_requests_failed",
        "Requests that were answered with an error.",
        MetricType::Counter,
    );
    page.numbers(failed, |s| vec![(Vec::new(), float(s.counted.failed))])?;
    let bytes = (
        "umd_request_bytes",
        "Bytes that requests were about.",
        MetricType::Counter,
    );
    page.numbers(bytes, |s| {
        let words = KINDS.iter().map(|(_, word)| vec![("op", *word)]);
        words.zip(s.counted.bytes.map(float)).collect()
    })
}

fn rungs(page: &mut Page<'_, '_>) -> Result<(), Error> {
    page.histograms(
        "umd_write_rung_seconds",
        "How long writes stood on each rung of the ladder.",
        "rung",
        |s| {
            let words = RUNGS.iter().map(|(_, word)| *word);
            words.zip(&s.counted.rungs.times).collect()
        },
    )
}

fn member_io(page: &mut Page<'_, '_>) -> Result<(), Error> {
    page.gauge(
        "umd_member_io_in_flight",
        "I/O to members under way.",
        |s| Some(float(s.counted.member_io_in_flight)),
    )?;
    page.histograms(
        "umd_member_io_seconds",
        "Time of I/O to members, by what it was for.",
        "purpose",
        |s| {
            let words = PURPOSES.iter().map(|(_, word)| *word);
            words.zip(&s.counted.member_io).collect()
        },
    )?;
    let bytes = (
        "umd_member_io_bytes",
        "Bytes of I/O to members, by what it was for.",
        MetricType::Counter,
    );
    page.numbers(bytes, |s| {
        let words = PURPOSES.iter().map(|(_, word)| vec![("purpose", *word)]);
        words.zip(s.counted.member_bytes.map(float)).collect()
    })
}
