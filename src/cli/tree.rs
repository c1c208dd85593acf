//! Tree images in `remint image ...`: WIM files and folders in, folders and WIM files out.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::context::Context;
use super::image::Chosen;
use super::progress::shown;
use super::{Failure, output};
use crate::imaging::apply::Options;
use crate::imaging::import::{Imported, Importer};
use crate::imaging::manifest::Manifest;
use crate::imaging::plan::Summary;
use crate::imaging::store::ChunkSource;
use crate::imaging::tree::apply::{Receipt, look_and_plan, make_match};
use crate::imaging::tree::{diff, export, reader};
use crate::imaging::wim::codec::Compression;
use crate::imaging::wim::format::is_wim;
use crate::imaging::wim::reader::{OnDamage, Wim};
use crate::imaging::wim::{capture, tree};
use crate::stdx::monitor::Progress;

/// Changes of one kind that are named; the rest is counted.
const CHANGES_NAMED_MAX: usize = 50;

/// Whether the file begins as a WIM does.
pub(super) fn is_wim_file(path: &Path) -> bool {
    let mut magic = [0; 8];
    File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && is_wim(&magic)
}

/// Images of a WIM: the one that `wanted` names by number or name, or all. One is called `name`, several `name-1`, `name-2`.
pub(super) fn import_wim(
    path: &Path,
    name: &str,
    wanted: Option<&str>,
    context: &Context,
) -> Result<Vec<Imported>, Failure> {
    let wim = Wim::open(path, OnDamage::Stop)?;
    let images: Vec<u32> = match wanted {
        Some(wanted) => vec![wim.find_image(wanted)?],
        None => (1..=wim.image_count()).collect(),
    };
    let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let import = |index: u32| {
        let name = if images.len() == 1 { name.to_owned() } else { format!("{name}-{index}") };
        with_importer(context, |importer| importer.wim_image(&name, &wim, index, &file))
    };
    if images.is_empty() {
        return Err(Failure::new(format!("{} has no image", path.display())));
    }
    images.iter().map(|index| import(*index)).collect()
}

pub(super) fn capture_folder(
    folder: &Path,
    name: &str,
    exclude: &[String],
    context: &Context,
) -> Result<Imported, Failure> {
    with_importer(context, |importer| importer.folder(name, folder, exclude))
}

fn with_importer(
    context: &Context,
    import: impl FnOnce(&Importer<'_>) -> Result<Imported, crate::imaging::error::Error>,
) -> Result<Imported, Failure> {
    let site = context.site()?;
    let store = site.store.clone();
    let progress = Progress::default();
    let importer = Importer { store: &store, key: &site.signing, now: site.clock.now(), progress: &progress };
    Ok(shown("importing", &progress, || import(&importer))?)
}

fn check_folder(chosen: &Chosen, target: &Path) -> Result<(), Failure> {
    if target.exists() && !target.is_dir() {
        let (target, version) = (target.display(), &chosen.version);
        return Err(Failure::new(format!("{target} is no folder, and {version} is a tree of files"))
            .with_hint("mount the file system that is to hold them and name the folder"));
    }
    Ok(())
}

/// Makes the folder `target` hold the files of the image.
pub(super) fn apply(chosen: &Chosen, target: &Path, options: &Options, context: &Context) -> Result<(), Failure> {
    check_folder(chosen, target)?;
    let (progress, source) = (Progress::default(), chosen.source());
    let mut plan = Summary::default();
    let mut planned = |summary: &Summary| {
        plan = *summary;
        if !context.json() {
            output::line(format!("plan: {summary}"));
        }
    };
    let work = || make_match(&chosen.manifest, &source, target, options, &progress, &mut planned);
    let receipt = shown("applying", &progress, work)?;
    if context.json() {
        let version = chosen.version.to_string();
        return output::json(&json!({ "target": target, "version": version, "plan": plan, "receipt": receipt }));
    }
    report(&receipt, target, &chosen.version.to_string());
    Ok(())
}

fn report(receipt: &Receipt, folder: &Path, image: &str) {
    let bytes = &receipt.bytes;
    output::line(format!(
        "{} holds {image}: {} files, {} folders, {} links; {} kept, {} fetched ({} read from packs), {} chunks read back",
        folder.display(),
        receipt.files,
        receipt.folders,
        receipt.links,
        output::size(bytes.kept_bytes),
        output::size(bytes.fetched_bytes),
        output::size(bytes.wire_bytes),
        bytes.read_back_chunks
    ));
    for (what, count) in &receipt.not_held {
        output::line(format!("not held by the target: {count} {what}"));
    }
}

/// What applying would do.
pub(super) fn plan(chosen: &Chosen, target: &Path, options: &Options, context: &Context) -> Result<(), Failure> {
    check_folder(chosen, target)?;
    let (progress, source) = (Progress::default(), chosen.source());
    let look = || look_and_plan(&chosen.manifest, &source, target, options, &progress);
    let summary = shown("looking", &progress, look)?;
    if context.json() {
        let version = chosen.version.to_string();
        return output::json(&json!({ "target": target, "version": version, "plan": summary }));
    }
    output::line(format!("plan: {summary}"));
    Ok(())
}

/// Writes the image as a WIM file.
pub(super) fn export_wim(
    manifest: &Manifest,
    source: &dyn ChunkSource,
    file: &Path,
    compression: Compression,
    context: &Context,
) -> Result<(), Failure> {
    let mut guid = [0; 16];
    let random = ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut guid);
    random.map_err(|_| Failure::new("draw random numbers"))?;
    let now = tree::windows_time(context.site()?.clock.now().milliseconds());
    let workers = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let options = capture::Options {
        compression,
        pipable: false,
        solid: false,
        integrity: false,
        append: false,
        exclude: &[],
        name: String::new(),
        description: String::new(),
        now,
        guid,
        workers,
    };
    let progress = Progress::default();
    let work = || export::export(manifest, source, file, &options, &progress);
    let bytes = shown("exporting", &progress, work)?;
    match context.json() {
        true => output::json(&json!({ "file": PathBuf::from(file), "stored_bytes": bytes })),
        false => {
            output::line(format!("{}: {}", file.display(), output::size(bytes)));
            Ok(())
        }
    }
}

/// What changed in files.
pub(super) fn show_diff(old: &Chosen, new: &Chosen, context: &Context) -> Result<(), Failure> {
    let (options, progress) = (Options::default(), Progress::default());
    let document = |chosen: &Chosen| reader::document(&chosen.manifest, &chosen.source(), &options, &progress);
    let diff = diff::diff(&document(old)?, &document(new)?);
    let (old, new) = (&old.version, &new.version);
    if context.json() {
        return output::json(&diff);
    }
    output::line(format!(
        "{old} -> {new}: {} files the same, {} added, {} removed, {} changed, {} of other metadata; {} of content new, {} gone",
        diff.same_files,
        diff.added.len(),
        diff.removed.len(),
        diff.changed.len(),
        diff.metadata.len(),
        output::size(diff.new_bytes),
        output::size(diff.gone_bytes)
    ));
    for (word, changes) in
        [("added", &diff.added), ("removed", &diff.removed), ("changed", &diff.changed), ("metadata", &diff.metadata)]
    {
        for change in changes.iter().take(CHANGES_NAMED_MAX) {
            output::line(format!("{word:>8} {} ({})", change.path, output::size(change.bytes)));
        }
        if changes.len() > CHANGES_NAMED_MAX {
            output::line(format!("{word:>8} and {} more; --json lists all", changes.len() - CHANGES_NAMED_MAX));
        }
    }
    Ok(())
}
