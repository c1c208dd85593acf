//! `remint wim ...`: plain WIM files, without a site.

use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;

use super::context::Context;
use super::progress::shown;
use super::{Failure, output};
use crate::imaging::wim::codec::Compression;
use crate::imaging::wim::reader::{OnDamage, Wim};
use crate::imaging::wim::tree::{self, Tree};
use crate::imaging::wim::verify;
use crate::imaging::wim::{apply, capture, export};
use crate::stdx::file::unnamed;
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
    /// Read a folder into a WIM file, with owners, permissions, links and attributes
    Capture(CaptureArguments),
    /// Take images over into another WIM file: compressed anew, solid, split, or with those that it has
    Export(ExportArguments),
}

#[derive(Args)]
pub(super) struct CaptureArguments {
    folder: PathBuf,
    /// `-` is standard output, with --pipable
    file: PathBuf,
    /// none, xpress (the default) or lzx; a file that is appended to keeps its own
    #[arg(long, value_parser = ["none", "xpress", "lzx"])]
    compress: Option<String>,
    /// Compress all contents together: smaller, and slower to take single files from
    #[arg(long)]
    solid: bool,
    /// Write an integrity table
    #[arg(long)]
    integrity: bool,
    /// Lay the file out so that wimlib applies it from a pipe; the contents are read twice
    #[arg(long, conflicts_with = "append", conflicts_with = "solid")]
    pipable: bool,
    /// Add the image to a file that exists
    #[arg(long)]
    append: bool,
    /// Paths to leave out, from the root of the folder: `/proc/*`, `*.tmp`; may be repeated
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// Name of the image; the folder's without it
    #[arg(long)]
    name: Option<String>,
    #[arg(long, default_value = "")]
    description: String,
}

#[derive(Args)]
pub(super) struct ExportArguments {
    source: PathBuf,
    /// Number or name of the image, or `all`
    image: String,
    file: PathBuf,
    /// none, xpress or lzx; as the source without it
    #[arg(long, value_parser = ["none", "xpress", "lzx"])]
    compress: Option<String>,
    /// Compress all contents together
    #[arg(long)]
    solid: bool,
    /// Write an integrity table
    #[arg(long)]
    integrity: bool,
    /// Lay the file out so that wimlib applies it from a pipe
    #[arg(long, conflicts_with = "append", conflicts_with = "solid")]
    pipable: bool,
    /// Add the images to a file that exists
    #[arg(long)]
    append: bool,
    /// Write a set of parts (FILE, FILE2, FILE3 ...) of at most this many MiB each
    #[arg(long, value_name = "MIB", conflicts_with = "append", conflicts_with = "solid", conflicts_with = "pipable", value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    split: Option<u64>,
    /// Another name for the image
    #[arg(long)]
    name: Option<String>,
    #[arg(long)]
    description: Option<String>,
}

pub(super) fn run(command: Command, context: &Context) -> Result<(), Failure> {
    match command {
        Command::Info { file } => info(&file, context),
        Command::List { file, image, keep_going } => list(&file, &image, on_damage(keep_going), context),
        Command::Verify { file } => verify(&file, context),
        Command::Apply { file, image, folder, keep_going } => {
            apply(&file, &image, &folder, on_damage(keep_going), context)
        }
        Command::Capture(arguments) => capture(&arguments, context),
        Command::Export(arguments) => export(&arguments, context),
    }
}

fn compression(name: &str) -> Compression {
    match name {
        "none" => Compression::None,
        "lzx" => Compression::Lzx,
        _ => Compression::Xpress,
    }
}

fn random_guid() -> Result<[u8; 16], Failure> {
    let mut guid = [0; 16];
    let random = ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut guid);
    random.map_err(|_| Failure::new("draw random numbers"))?;
    Ok(guid)
}

/// The compression of a file that is appended to cannot be chosen.
fn chosen(compress: Option<&str>, append: bool) -> Result<Option<Compression>, Failure> {
    match (compress, append) {
        (Some(_), true) => Err(Failure::new("append with a compression of its own")
            .with_hint("leave --compress out: the file keeps its compression; `remint wim export` writes a new one")),
        (compress, _) => Ok(compress.map(compression)),
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
    let progress = Progress::default();
    let report = shown("verify", &progress, || verify::verify(&wim, workers(), &progress))?;
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
    let progress = Progress::default();
    let work = || apply::apply(&wim, index, folder, on_damage, workers(), &progress);
    let report = shown("apply", &progress, work)?;
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

fn capture(arguments: &CaptureArguments, context: &Context) -> Result<(), Failure> {
    let compression = chosen(arguments.compress.as_deref(), arguments.append)?;
    let folder_name = || arguments.folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let options = capture::Options {
        compression: compression.unwrap_or(Compression::Xpress),
        solid: arguments.solid,
        integrity: arguments.integrity,
        pipable: arguments.pipable,
        append: arguments.append,
        exclude: &arguments.exclude,
        name: arguments.name.clone().unwrap_or_else(folder_name),
        description: arguments.description.clone(),
        now: tree::windows_time(SystemClock.now().milliseconds()),
        guid: random_guid()?,
        workers: workers(),
    };
    let progress = Progress::default();
    if arguments.file == Path::new("-") {
        return capture_to_output(arguments, &options, &progress);
    }
    let work = || capture::capture(&arguments.folder, &arguments.file, &options, &progress);
    let report = shown("capture", &progress, work)?;
    if context.json() {
        return output::json(&json!({
            "image": report.image, "folders": report.folders, "files": report.files, "bytes": report.bytes,
            "excluded": report.excluded, "stored_bytes": report.stored_bytes,
        }));
    }
    let (bytes, stored) = (output::size(report.bytes), output::size(report.stored_bytes));
    let (image, folders) = (report.image, report.folders);
    output::line(format!("image {image}: {} files, {folders} folders, {bytes}; the file has {stored}", report.files));
    if report.excluded > 0 {
        output::line(format!("left out by pattern: {}", report.excluded));
    }
    Ok(())
}

/// The WIM is all that goes to standard output; its reader counts what it gets.
fn capture_to_output(
    arguments: &CaptureArguments,
    options: &capture::Options<'_>,
    progress: &Progress,
) -> Result<(), Failure> {
    let hint = "remint wim capture DIR - --pipable | ssh HOST 'wimlib-imagex apply - 1 DIR'";
    if !options.pipable {
        return Err(Failure::new("write to standard output what is not pipable").with_hint(hint));
    }
    if std::io::stdout().is_terminal() {
        return Err(Failure::new("write a WIM file to a terminal").with_hint(hint));
    }
    let wrong = |error| Failure::new(format!("write to standard output: {error}"));
    let output = std::io::stdout().as_fd().try_clone_to_owned().map_err(wrong)?;
    let spool = unnamed(&std::env::temp_dir()).map_err(wrong)?;
    shown("capture", progress, || capture::capture_to(&arguments.folder, output.into(), spool, options, progress))?;
    Ok(())
}

fn export(arguments: &ExportArguments, context: &Context) -> Result<(), Failure> {
    let wim = Wim::open(&arguments.source, OnDamage::Stop)?;
    let images: Vec<u32> = match arguments.image.as_str() {
        "all" => (1..=wim.image_count()).collect(),
        image => vec![wim.find_image(image)?],
    };
    if images.len() != 1 && (arguments.name.is_some() || arguments.description.is_some()) {
        return Err(Failure::new("give several images one name").with_hint("export them one by one, with --append"));
    }
    let own = if wim.compression == Compression::Lzms { Compression::Lzx } else { wim.compression };
    let compression = chosen(arguments.compress.as_deref(), arguments.append)?.unwrap_or(own);
    let shape = export::Shape {
        integrity: arguments.integrity,
        pipable: arguments.pipable,
        part_bytes_max: arguments.split.map_or(u64::MAX, |mebibytes| mebibytes << 20),
        ..export::Shape::new(compression, random_guid()?)
    };
    let options = export::Options {
        shape,
        solid: arguments.solid,
        append: arguments.append,
        name: arguments.name.clone(),
        description: arguments.description.clone(),
        workers: workers(),
    };
    let progress = Progress::default();
    let work = || export::export(&wim, &images, &arguments.file, &options, &progress);
    let report = shown("export", &progress, work)?;
    if context.json() {
        return output::json(&json!({
            "images": report.images, "contents": report.contents, "bytes": report.bytes,
            "stored_bytes": report.stored_bytes, "parts": report.parts,
        }));
    }
    let (bytes, stored) = (output::size(report.bytes), output::size(report.stored_bytes));
    let (images, contents, parts) = (report.images, report.contents, report.parts);
    output::line(format!(
        "{images} images: {contents} contents that were not there, {bytes}; {stored} in {parts} files"
    ));
    Ok(())
}
