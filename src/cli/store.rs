//! `remint store ...`

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use clap::Subcommand;
use serde_json::{Value, json};

use super::context::Context;
use super::progress::shown;
use super::{Failure, output};
use crate::access::signing::PublicKey;
use crate::imaging::api::ImageRow;
use crate::imaging::store::ChunkSource;
use crate::imaging::store::failover::Failover;
use crate::imaging::store::gc::{self, gc};
use crate::imaging::store::local::LocalStore;
use crate::imaging::store::scrub::{Report, scrub};
use crate::imaging::store::stats::stats;
use crate::stdx::monitor::Progress;

#[derive(Subcommand)]
pub(super) enum Command {
    /// What lies in the store, what is shared, what is garbage
    Stats,
    /// Read everything, name what is damaged and the images and machines it touches, and repair what another copy allows
    Scrub {
        /// Folder of another store (of a backup, of another site) to take damaged and missing chunks from; may be repeated
        #[arg(long, value_name = "DIR")]
        from: Vec<PathBuf>,
    },
    /// Free the space of chunks that no version needs
    Gc {
        /// Hours for which a removed version is still kept for runs that are under way
        #[arg(long, default_value_t = gc::GRACE_HOURS)]
        grace_hours: u32,
    },
    /// Compare the store with the places far away that remint.toml names: send what is only here, find what is only there
    Sync,
}

pub(super) fn run(command: Command, context: &Context) -> Result<(), Failure> {
    let site = context.site()?;
    let store = site.store.clone();
    let key = site.signing.public();
    match command {
        Command::Stats => show_stats(&store, &key, context),
        Command::Scrub { from } => show_scrub(&store, &key, &from, context),
        Command::Gc { grace_hours } => {
            let freed = gc(&store, &key, site.clock.now(), grace_hours)?;
            if context.json() {
                return output::json(&freed);
            }
            output::line(format!(
                "freed {} in {} packs, rewrote {} packs, {} of live chunks remain",
                output::size(freed.freed_bytes),
                freed.removed_packs,
                freed.rewritten_packs,
                output::size(freed.live_bytes)
            ));
            Ok(())
        }
        Command::Sync => {
            let synced = store.sync(&key)?;
            if context.json() {
                return output::json(&synced);
            }
            output::line(format!(
                "sent {} packs and {} versions, found {} packs and {} versions",
                synced.sent_packs, synced.sent_versions, synced.found_packs, synced.found_versions
            ));
            Ok(())
        }
    }
}

fn show_stats(store: &LocalStore, key: &PublicKey, context: &Context) -> Result<(), Failure> {
    let stats = stats(store, key)?;
    if context.json() {
        return output::json(&stats);
    }
    output::line(format!(
        "{} in {} packs, {} chunks; images hold {}, which is {:.1} times as much; {} is garbage",
        output::size(stats.stored_bytes),
        stats.packs,
        stats.chunks,
        output::size(stats.image_bytes),
        stats.ratio(),
        output::size(stats.garbage_bytes)
    ));
    let rows = stats.images.iter().map(|image| {
        vec![
            image.version.clone(),
            output::size(image.content_bytes),
            output::size(image.unique_bytes),
            output::size(image.shared_bytes),
        ]
    });
    output::table(
        &["IMAGE", "CONTENT", "UNIQUE (STORED)", "SHARED (STORED)"],
        rows.collect(),
        "There is no image yet.",
    );
    Ok(())
}

fn show_scrub(store: &LocalStore, key: &PublicKey, from: &[PathBuf], context: &Context) -> Result<(), Failure> {
    let other = others(from)?;
    let progress = Progress::default();
    let other = other.as_ref().map(|other| other as &dyn ChunkSource);
    let report = shown("scrubbing", &progress, || scrub(store, key, other, &progress))?;
    let images: BTreeSet<&String> = report.lost.iter().flat_map(|lost| &lost.images).collect();
    let machines = if images.is_empty() { BTreeMap::new() } else { machines(&images, context)? };
    if context.json() {
        output::json(&json!({ "report": report, "machines": machines }))?;
    } else {
        show_report(&report, &machines);
    }
    match report.lost.len() {
        0 => Ok(()),
        lost => Err(Failure::new(format!("{lost} pieces of the store are lost")).with_hint(
            "import the images that are named again, or give --from another store: what is missing comes back, the rest is \
             not stored twice",
        )),
    }
}

/// The stores of `folders`, as one source.
pub(super) fn others(folders: &[PathBuf]) -> Result<Option<Failover<'static>>, Failure> {
    let open = |folder: &PathBuf| -> Result<Box<dyn ChunkSource>, Failure> {
        // The folder of a site holds its store.
        let inside = folder.join("store");
        Ok(Box::new(LocalStore::open(if inside.is_dir() { &inside } else { folder })?))
    };
    let sources = folders.iter().map(open).collect::<Result<Vec<_>, Failure>>()?;
    Ok((!sources.is_empty()).then(|| Failover::new(sources)))
}

/// For each of `images` (`NAME@7`), the machines that hold it by their last run, or are about to get it.
fn machines(images: &BTreeSet<&String>, context: &Context) -> Result<BTreeMap<String, Vec<String>>, Failure> {
    let api = context.api()?;
    let rows: Vec<ImageRow> = api.get("/api/v1/images")?;
    let named = |row: &ImageRow| format!("{}@{}", row.name, row.version);
    let ids: BTreeMap<String, String> =
        rows.iter().filter(|row| images.contains(&named(row))).map(|row| (row.id.to_string(), named(row))).collect();
    let mut runs: Vec<Value> = api.get("/api/v1/runs")?;
    runs.sort_by_key(|run| std::cmp::Reverse(run["created_at"].as_i64()));
    let (mut seen, mut found) = (BTreeSet::new(), BTreeMap::<String, Vec<String>>::new());
    for run in &runs {
        let is_over = run["finished_at"].is_i64();
        if is_over && (run["state"] != "succeeded" || !seen.insert(run["machine"].to_string())) {
            continue;
        }
        let detail: Value = api.get(&format!("/api/v1/runs/{}", run["id"].as_str().unwrap_or_default()))?;
        for image in detail["images"].as_array().into_iter().flatten() {
            if let Some(name) = image["version"].as_str().and_then(|id| ids.get(id)) {
                let machines = found.entry(name.clone()).or_default();
                machines.push(run["machine_name"].as_str().unwrap_or_default().to_owned());
            }
        }
    }
    for machines in found.values_mut() {
        machines.sort_unstable();
        machines.dedup();
    }
    Ok(found)
}

fn show_report(report: &Report, machines: &BTreeMap<String, Vec<String>>) {
    for pack in &report.removed_packs {
        output::line(format!("removed: pack {pack}"));
    }
    if !report.removed_packs.is_empty() {
        output::line(format!("recovered: {} chunks of the removed packs", report.recovered_chunks));
    }
    for damage in &report.lost {
        output::line(format!("lost: {}: {}; images: {}", damage.what, damage.reason, damage.images.join(", ")));
    }
    for (image, machines) in machines {
        output::line(format!("{image} is on, or on its way to: {}", machines.join(", ")));
    }
    output::line(format!(
        "{} chunks in {} packs are sound, {} were repaired, {} pieces are lost",
        report.sound_chunks,
        report.packs,
        report.repaired_chunks,
        report.lost.len()
    ));
}
