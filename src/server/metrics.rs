//! What Prometheus reads: counters that the services keep where things happen, and gauges that are taken when it asks.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use metrics::{describe_counter, describe_gauge, describe_histogram, gauge};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::sync::watch;

use crate::access::Capability;
use crate::api::{Access, Problem, Routes, Table, blocking};
use crate::fleet::db::Fleet;
use crate::imaging::store::local::LocalStore;
use crate::tasksequence::db::Sequences;

/// The text format that `PrometheusHandle::render` writes.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Upper bounds of the histogram's buckets, in seconds: from a look at the database to a list of a large fleet.
const BUCKETS_SECONDS: [f64; 9] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 5.0];
/// A histogram keeps each sample until it is sorted into its bucket; this often nobody need ask for that.
const UPKEEP: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A metric as it is described to Prometheus and in docs/guide/monitoring.md.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    pub name: &'static str,
    pub kind: Kind,
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

const fn metric(name: &'static str, kind: Kind, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, kind, labels, help }
}

/// All that are ours; those of the process itself have Prometheus' usual names (`process_resident_memory_bytes`, ...).
pub const METRICS: [Metric; 15] = [
    metric("remint_info", Kind::Gauge, &["version"], "Always 1; the version is in the label"),
    metric("remint_machines", Kind::Gauge, &["state"], "Machines in this state"),
    metric("remint_runs", Kind::Gauge, &["state"], "Runs of task sequences in this state, past ones included"),
    metric("remint_site_disk_bytes", Kind::Gauge, &[], "Size of the file system that holds the site's folder"),
    metric("remint_site_free_bytes", Kind::Gauge, &[], "What is free on it"),
    metric("remint_store_packs", Kind::Gauge, &[], "Packs in the site's folder; those of a store far away are more"),
    metric("remint_store_bytes", Kind::Gauge, &[], "What these packs take on the disk"),
    metric("remint_delivered_bytes_total", Kind::Counter, &[], "Bytes of packs that were sent to machines"),
    metric("remint_http_requests_total", Kind::Counter, &["method", "route", "status"], "Requests that were answered"),
    metric("remint_http_response_seconds", Kind::Histogram, &["route"], "Time until an answer begins"),
    metric("remint_dhcp_replies_total", Kind::Counter, &["kind"], "Replies that were sent: offer, ack, nak"),
    metric("remint_dhcp_unsent_total", Kind::Counter, &[], "Replies that could not be sent"),
    metric("remint_dhcp_ignored_total", Kind::Counter, &[], "Packets that are no request"),
    metric(
        "remint_tftp_transfers_total",
        Kind::Counter,
        &["outcome"],
        "Transfers: complete, stopped by the client, silent, unanswered",
    ),
    metric("remint_tftp_acknowledged_bytes_total", Kind::Counter, &[], "Bytes of files that clients acknowledged"),
];

/// What gauges are taken from.
pub(super) struct Observed {
    pub(super) fleet: Arc<Fleet>,
    pub(super) sequences: Arc<Sequences>,
    pub(super) store: Arc<LocalStore>,
    pub(super) folder: PathBuf,
}

pub(super) fn routes(observed: Arc<Observed>) -> Table {
    recorder();
    Routes::new()
        .get("/metrics", Access::Person(Capability::Read), "Counters and gauges, as Prometheus reads them", scrape)
        .with_state(observed)
}

async fn scrape(State(observed): State<Arc<Observed>>) -> Result<Response, Problem> {
    let text = blocking(move || text(&observed)).await?;
    Ok(([(header::CONTENT_TYPE, TEXT_FORMAT)], text).into_response())
}

/// All metrics as they are now.
pub(super) fn text(observed: &Observed) -> Result<String, Problem> {
    take(observed)?;
    Ok(recorder().render())
}

/// The one recorder of the process: counters find it by themselves.
fn recorder() -> &'static PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE.get_or_init(|| {
        let seconds = Matcher::Full("remint_http_response_seconds".to_owned());
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(seconds, &BUCKETS_SECONDS)
            .expect("there are buckets")
            .build_recorder();
        let handle = recorder.handle();
        metrics::set_global_recorder(recorder).expect("nobody else sets one");
        METRICS.iter().for_each(describe);
        metrics_process::Collector::default().describe();
        handle
    })
}

fn describe(metric: &Metric) {
    match metric.kind {
        Kind::Counter => describe_counter!(metric.name, metric.help),
        Kind::Gauge => describe_gauge!(metric.name, metric.help),
        Kind::Histogram => describe_histogram!(metric.name, metric.help),
    }
}

/// Sorts samples into their buckets until the appliance stops.
pub(super) async fn keep_small(mut stopped: watch::Receiver<bool>) {
    while tokio::time::timeout(UPKEEP, stopped.wait_for(|stopped| *stopped)).await.is_err() {
        recorder().run_upkeep();
    }
}

fn take(observed: &Observed) -> Result<(), Problem> {
    let unreadable = |error: String| Problem::internal(error);
    gauge!("remint_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    let machines = observed.fleet.state_counts().map_err(|error| unreadable(error.to_string()))?;
    for (state, count) in machines {
        gauge!("remint_machines", "state" => state.name()).set(count as f64);
    }
    for (state, count) in observed.sequences.run_counts().map_err(|error| unreadable(error.to_string()))? {
        gauge!("remint_runs", "state" => state.name()).set(count as f64);
    }
    if let Ok(space) = nix::sys::statvfs::statvfs(&observed.folder) {
        gauge!("remint_site_disk_bytes").set((space.blocks() * space.fragment_size()) as f64);
        gauge!("remint_site_free_bytes").set((space.blocks_available() * space.fragment_size()) as f64);
    }
    let packs = observed.store.near_packs().map_err(|error| unreadable(error.to_string()))?;
    let bytes = packs.iter().map(|pack| file_bytes(&observed.store.pack_path(*pack))).sum::<u64>();
    gauge!("remint_store_packs").set(packs.len() as f64);
    gauge!("remint_store_bytes").set(bytes as f64);
    metrics_process::Collector::default().collect();
    Ok(())
}

/// 0 for one that was removed meanwhile.
fn file_bytes(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |metadata| metadata.len())
}
