//! `remint wim ...`: plain WIM files, without a site.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde_json::json;

use super::context::Context;
use super::{Failure, output};
use crate::imaging::wim::codec::Compression;
use crate::imaging::wim::reader::{OnDamage, Wim};
use crate::imaging::wim::tree::{self, Tree};
use crate::imaging::wim::verify;
use crate::imaging::wim::{apply, capture};
use crate::stdx::hint::{Hint, chain};
use crate::stdx::monitor::Progress;
use crate::stdx::time::{Clock, SystemClock, Timestamp};

#[derive(Subcommand)]
pub(super) enum Command {
    /// What a WIM file is and which images it holds
    Info { file: PathBuf },
    /// The files of an image
    List {
        file: PathBuf,
        /// Number or name of the image
        #[arg(default_value = "1")]
        image: String,
        /// List what is sound in a damaged file
        #[arg(long)]
        keep_going: bool,
    },
    /// Read everything and check it
    Verify { file: PathBuf },
    /// Write the files of an image into a folder
    Apply {
        file: PathBuf,
        /// Number or name of the image
        image: String,
        folder: PathBuf,
        /// Apply what is sound of a damaged file
        #[arg(long)]
        keep_going: bool,
    },
    /// Read a folder into a new WIM file, with owners, permissions, links and attributes
    Capture {
        folder: PathBuf,
        file: PathBuf,
        #[arg(long, value_parser = ["none", "xpress", "lzx"], default_value = "xpress")]
        compress: String,
        /// Paths to leave out, from the root of the folder: `/proc/*`, `*.tmp`; may be repeated
        #[arg(long, value_name = "PATTERN")]
        exclude: Vec<String>,
        /// Name of the image; the folder's without it
        #[arg(long)]
        name: Option<String>,
    },
}

pub(super) fn run(command: Command, context: &Context) -> Result<(), Failure> {
    match command {
        Command::Info { file } => info(&file, context),
        Command::List { file, image, keep_going } => list(&file, &image, on_damage(keep_going), context),
        Command::Verify { file } => verify(&file, context),
        Command::Apply { file, image, folder, keep_going } => {
            apply(&file, &image, &folder, on_damage(keep_going), context)
        }
        Command::Capture { folder, file, compress, exclude, name } => {
            let compression = match compress.as_str() {
                "none" => Compression::None,
                "lzx" => Compression::Lzx,
                _ => Compression::Xpress,
            };
            let folder_name = || folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let name = name.unwrap_or_else(folder_name);
            capture(&folder, &file, compression, &exclude, name, context)
        }
    }
}

fn on_damage(keep_going: bool) -> OnDamage {
    if keep_going { OnDamage::KeepGoing } else { OnDamage::Stop }
}

/// One for each core that this process may use.
fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get())
}

fn info(file: &Path, context: &Context) -> Result<(), Failure> {
    let wim = Wim::open(file, OnDamage::Stop)?;
    let header = wim.header();
    let solid = wim.resources.iter().any(|resource| resource.layout == crate::imaging::wim::resource::Layout::Solid);
    let plain: u64 = wim.blobs.iter().map(|blob| blob.plain_bytes).sum();
    let stored: u64 = wim.parts.iter().map(|part| crate::stdx::io::ReadAt::size(&part.source)).sum();
    if context.json() {
        return output::json(&json!({
            "compression": wim.compression, "chunk_bytes": header.chunk_bytes, "solid": solid, "pipable": header.pipable,
            "parts": header.parts, "guid": crate::stdx::hex::emit(&header.guid), "boot_image": header.boot_image,
            "integrity": header.integrity.stored_bytes > 0, "contents": wim.blobs.len(), "plain_bytes": plain,
            "stored_bytes": stored, "images": wim.images,
        }));
    }
    let mut kind = format!("{} compression", wim.compression.name());
    for (holds, word) in
        [(solid, "solid"), (header.pipable, "pipable"), (header.integrity.stored_bytes > 0, "integrity table")]
    {
        if holds {
            kind.push_str(", ");
            kind.push_str(word);
        }
    }
    output::line(format!("{}: {kind}, {} part(s)", file.display(), header.parts));
    output::line(format!("{} contents, {} in {}", wim.blobs.len(), output::size(plain), output::size(stored)));
    let rows = wim.images.iter().map(|image| {
        let created = output::time(Timestamp::from_milliseconds(tree::unix_milliseconds(image.created)));
        let name =
            if image.edition.is_empty() { image.name.clone() } else { format!("{} ({})", image.name, image.edition) };
        vec![
            image.index.to_string(),
            name,
            image.files.to_string(),
            output::size(image.bytes),
            created,
            image.description.clone(),
        ]
    });
    output::table(&["IMAGE", "NAME", "FILES", "SIZE", "CREATED", "DESCRIPTION"], rows.collect(), "No images.");
    Ok(())
}

fn list(file: &Path, image: &str, on_damage: OnDamage, context: &Context) -> Result<(), Failure> {
    let wim = Wim::open(file, on_damage)?;
    let (tree, faults) = wim.tree(wim.find_image(image)?, on_damage)?;
    if context.json() {
        let entries: Vec<_> = (1..tree.entries.len()).map(|index| entry_json(&wim, &tree, index)).collect();
        let damage: Vec<String> = wim.faults.iter().map(|fault| chain(fault)).collect();
        let damage: Vec<String> = damage
            .into_iter()
            .chain(faults.iter().map(|fault| format!("metadata offset {}: {}", fault.offset, fault.what)))
            .collect();
        return output::json(&json!({ "files": entries, "damage": damage }));
    }
    for index in 1..tree.entries.len() {
        output::line(tree.path_text(index));
    }
    match wim.faults.len() + faults.len() {
        0 => Ok(()),
        count => Err(Failure::new(format!("list all of {}: {count} places are damaged", file.display()))
            .with_hint("--json says what and where")),
    }
}

fn entry_json(wim: &Wim, tree: &Tree, index: usize) -> serde_json::Value {
    let entry = &tree.entries[index];
    json!({
        "path": tree.path_text(index), "folder": entry.is_folder(), "attributes": entry.attributes,
        "bytes": wim.blob(&entry.content).map_or(0, |blob| blob.plain_bytes), "sha1": entry.content.to_string(),
        "written_ms": tree::unix_milliseconds(entry.written), "link_group": entry.link_group,
        "reparse_tag": entry.reparse.map(|reparse| reparse.tag),
        "mode": entry.unix.map(|unix| unix.mode), "uid": entry.unix.map(|unix| unix.uid), "gid": entry.unix.map(|unix| unix.gid),
        "streams": entry.named_streams.iter().map(|stream| String::from_utf16_lossy(&stream.name)).collect::<Vec<_>>(),
        "xattrs": entry.xattrs.iter().map(|xattr| String::from_utf8_lossy(&xattr.name).into_owned()).collect::<Vec<_>>(),
    })
}

fn verify(file: &Path, context: &Context) -> Result<(), Failure> {
    let wim = Wim::open(file, OnDamage::KeepGoing)?;
    let report = verify::verify(&wim, workers(), &Progress::default())?;
    let faults: Vec<_> = wim.faults.iter().chain(&report.faults).collect();
    if context.json() {
        let said: Vec<String> = faults.iter().map(|fault| chain(*fault)).collect();
        output::json(&json!({
            "sound": faults.is_empty(), "contents": report.contents, "bytes": report.bytes, "files": report.files,
            "integrity_pieces": report.integrity_pieces, "damage": said,
        }))?;
    } else {
        let bytes = output::size(report.bytes);
        output::line(format!("{} files, {} contents, {bytes}: read and checked", report.files, report.contents));
        faults.iter().for_each(|fault| output::line(format!("damaged: {}", chain(*fault))));
    }
    match faults.first() {
        None => Ok(()),
        Some(first) => {
            let failure = Failure::new(format!(
                "verify {}: {} places are damaged, the first: {}",
                file.display(),
                faults.len(),
                chain(*first)
            ));
            Err(first.hint().into_iter().fold(failure, |failure, hint| failure.with_hint(hint)))
        }
    }
}

fn apply(file: &Path, image: &str, folder: &Path, on_damage: OnDamage, context: &Context) -> Result<(), Failure> {
    let wim = Wim::open(file, on_damage)?;
    let index = wim.find_image(image)?;
    let report = apply::apply(&wim, index, folder, on_damage, workers(), &Progress::default())?;
    let faults: Vec<String> = wim.faults.iter().chain(&report.faults).map(|fault| chain(fault)).collect();
    if context.json() {
        output::json(&json!({
            "folders": report.folders, "files": report.files, "links": report.links, "bytes": report.bytes,
            "not_held": report.not_held, "damage": faults,
        }))?;
    } else {
        let (files, bytes) = (report.files, output::size(report.bytes));
        output::line(format!("{files} files, {bytes}, {} folders, {} links", report.folders, report.links));
        for (what, count) in &report.not_held {
            output::line(format!("not applied, as {} cannot hold them: {what} ({count})", folder.display()));
        }
        faults.iter().for_each(|fault| output::line(format!("damaged: {fault}")));
    }
    match faults.len() {
        0 => Ok(()),
        count => Err(Failure::new(format!("apply all of {}: {count} places are damaged", file.display()))
            .with_hint("what is sound was applied; copy the file again for the rest")),
    }
}

fn capture(
    folder: &Path,
    file: &Path,
    compression: Compression,
    exclude: &[String],
    name: String,
    context: &Context,
) -> Result<(), Failure> {
    let mut guid = [0; 16];
    let random = ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut guid);
    random.map_err(|_| Failure::new("draw random numbers"))?;
    let now = tree::windows_time(SystemClock.now().milliseconds());
    let options = capture::Options { compression, exclude, name, now, guid, workers: workers() };
    let report = capture::capture(folder, file, &options, &Progress::default())?;
    if context.json() {
        return output::json(&json!({
            "folders": report.folders, "files": report.files, "bytes": report.bytes, "excluded": report.excluded,
            "stored_bytes": report.stored_bytes,
        }));
    }
    let (bytes, stored) = (output::size(report.bytes), output::size(report.stored_bytes));
    output::line(format!("{} files, {} folders, {bytes} in {stored}", report.files, report.folders));
    if report.excluded > 0 {
        output::line(format!("left out by pattern: {}", report.excluded));
    }
    Ok(())
}
