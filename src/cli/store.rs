//! `remint store ...`

use clap::Subcommand;
use serde_json::json;

use super::context::Context;
use super::progress::shown;
use super::{Failure, output};
use crate::imaging::store::gc::{self, gc};
use crate::imaging::store::local::LocalStore;
use crate::imaging::store::scrub::scrub;
use crate::imaging::store::stats::stats;
use crate::stdx::monitor::Progress;

#[derive(Subcommand)]
pub(super) enum Command {
    /// What lies in the store, what is shared, what is garbage
    Stats,
    /// Read everything, name what is damaged and the images it touches, and repair what another copy allows
    Scrub,
    /// Free the space of chunks that no version needs
    Gc {
        /// Hours for which a removed version is still kept for runs that are under way
        #[arg(long, default_value_t = gc::GRACE_HOURS)]
        grace_hours: u32,
    },
}

pub(super) fn run(command: Command, context: &Context) -> Result<(), Failure> {
    let site = context.site()?;
    let store = site.store.clone();
    let key = site.signing.public();
    match command {
        Command::Stats => show_stats(&store, &key, context),
        Command::Scrub => show_scrub(&store, &key, context),
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
    }
}

fn show_stats(store: &LocalStore, key: &crate::access::signing::PublicKey, context: &Context) -> Result<(), Failure> {
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

fn show_scrub(store: &LocalStore, key: &crate::access::signing::PublicKey, context: &Context) -> Result<(), Failure> {
    let progress = Progress::default();
    let report = shown("scrubbing", &progress, || scrub(store, key, None, &progress))?;
    if context.json() {
        output::json(&json!(report))?;
    } else {
        for damage in &report.lost {
            output::line(format!("lost: {}: {}; images: {}", damage.what, damage.reason, damage.images.join(", ")));
        }
        output::line(format!(
            "{} chunks in {} packs are sound, {} were repaired, {} are lost",
            report.sound_chunks,
            report.packs,
            report.repaired_chunks,
            report.lost.len()
        ));
    }
    match report.lost.len() {
        0 => Ok(()),
        lost => Err(Failure::new(format!("{lost} pieces of the store are lost")).with_hint(
            "import the images that are named again: what is missing comes back, the rest is not stored twice",
        )),
    }
}
