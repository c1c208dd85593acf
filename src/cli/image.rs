//! `remint image ...`

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, Subcommand};
use serde_json::json;

use super::apply::{Apply, apply, make};
use super::context::Context;
use super::progress::shown;
use super::{Failure, output, tree};
use crate::access::signing::PublicKey;
use crate::imaging::api::{ImageDetail, ImageRow};
use crate::imaging::apply::{Receipt, Seed};
use crate::imaging::diff;
use crate::imaging::disk::container::{self, Format};
use crate::imaging::file_diff::{FileDiff, file_diff};
use crate::imaging::import::{Imported, Importer, Source};
use crate::imaging::manifest::{Kind, Manifest};
use crate::imaging::store::local::LocalStore;
use crate::imaging::store::verify::verify;
use crate::imaging::store::versions::{ImageSource, Reference, Version};
use crate::imaging::target::Target;
use crate::imaging::view::View;
use crate::imaging::wim::codec::Compression;
use crate::server::site::Site;
use crate::stdx::monitor::Progress;

#[derive(Subcommand)]
pub(super) enum Command {
    /// Publish an image as a version: of a disk by what its file systems use (raw, qcow2, VHD, VHDX, VMDK, partclone, a
    /// folder of Clonezilla or FOG), of a WIM or ESD each of its images as a tree of files
    Import(Import),
    /// Publish a disk or partition of this machine, or the files of a folder, as a version; they are only read
    Capture(Capture),
    /// List images and their versions
    List,
    /// Show a version: NAME, NAME@7, NAME@prod
    Show { image: String },
    /// Make a file, block device or (for a tree) folder match a version: writes only what differs
    Apply(Apply),
    /// Make a tag mean a version
    Tag {
        image: String,
        tag: String,
        /// Take the tag away
        #[arg(long)]
        remove: bool,
    },
    /// Compare two versions: in files where the file system is known, in bytes else
    Diff {
        old: String,
        new: String,
        /// Compare bytes only, which is quicker
        #[arg(long)]
        bytes: bool,
    },
    /// Read and check every chunk of a version
    Verify { image: String },
    /// Write a version to a new file
    Export(Export),
    /// Remove a version (NAME@7); `store gc` frees its space
    Remove { image: String },
}

#[derive(Args)]
pub(super) struct Import {
    #[command(flatten)]
    capture: Capture,
    /// Its format, where that is not told by its first bytes
    #[arg(long, value_parser = parse_format)]
    format: Option<Format>,
    /// Of a WIM, take only the image of this number or name; without it several are called NAME-1, NAME-2 ...
    #[arg(long, value_name = "IMAGE")]
    index: Option<String>,
}

#[derive(Args)]
pub(super) struct Capture {
    /// File, device or folder
    file: PathBuf,
    /// Name of the image
    #[arg(long)]
    name: String,
    /// Make this tag mean the new version
    #[arg(long)]
    tag: Option<String>,
    /// Of a folder, paths to leave out, from its root: `/proc/*`, `*.tmp`; may be repeated
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,
}

#[derive(Args)]
pub(super) struct Export {
    /// NAME, NAME@7, NAME@prod
    image: String,
    /// File to make
    file: PathBuf,
    /// Of a disk: raw or qcow2; a tree becomes a WIM
    #[arg(long, value_parser = parse_format)]
    format: Option<Format>,
    /// Of a WIM
    #[arg(long, value_parser = parse_compression, default_value = "xpress")]
    compress: Compression,
}

fn parse_format(text: &str) -> Result<Format, String> {
    Format::from_name(text).ok_or_else(|| format!("write one of {}", Format::ALL.map(Format::name).join(", ")))
}

fn parse_compression(text: &str) -> Result<Compression, String> {
    match text {
        "none" => Ok(Compression::None),
        "xpress" => Ok(Compression::Xpress),
        "lzx" => Ok(Compression::Lzx),
        _ => Err("write none, xpress or lzx".to_owned()),
    }
}

pub(super) fn run(command: Command, context: &Context) -> Result<(), Failure> {
    match command {
        Command::Import(arguments) if arguments.format.is_none() && tree::is_wim_file(&arguments.capture.file) => {
            let Capture { file, name, .. } = &arguments.capture;
            let imported = tree::import_wim(file, name, arguments.index.as_deref(), context)?;
            report_all(&imported, &arguments.capture, context)
        }
        Command::Import(arguments) => {
            let path = &arguments.capture.file;
            let opened = container::open(path, arguments.format, &context.site()?.folder)?;
            import(&arguments.capture, Source::opened(opened, path), context)
        }
        Command::Capture(arguments) if arguments.file.is_dir() => {
            let imported = tree::capture_folder(&arguments.file, &arguments.name, &arguments.exclude, context)?;
            report_all(&[imported], &arguments, context)
        }
        Command::Capture(arguments) => import(&arguments, Source::raw(&arguments.file)?, context),
        Command::List => list(context),
        Command::Show { image } => show(&image, context),
        Command::Apply(arguments) => apply(&arguments, context),
        Command::Tag { image, tag, remove } => set_tag(&image, &tag, remove, context),
        Command::Diff { old, new, bytes } => show_diff(&old, &new, bytes, context),
        Command::Verify { image } => check(&image, context),
        Command::Export(arguments) => export(&arguments, context),
        Command::Remove { image } => remove(&image, context),
    }
}

/// A version of the site's own store, its manifest checked against the site's key.
pub(super) struct Chosen {
    pub(super) store: Arc<LocalStore>,
    pub(super) version: Version,
    pub(super) manifest: Manifest,
    key: PublicKey,
}

impl Chosen {
    pub(super) fn open(text: &str, context: &Context) -> Result<Chosen, Failure> {
        let site = context.site()?;
        let store = site.store.clone();
        let version = store.resolve(&Reference::parse(text)?)?;
        let manifest = manifest(&store, &version, &site)?;
        Ok(Chosen { store, version, manifest, key: site.signing.public() })
    }

    pub(super) fn source(&self) -> ImageSource<'_> {
        ImageSource { store: &self.store, version: &self.version, key: self.key }
    }
}

fn manifest(store: &LocalStore, version: &Version, site: &Site) -> Result<Manifest, Failure> {
    let fault = crate::imaging::error::Error::from;
    Ok(store.manifest(version)?.verify(&site.signing.public()).map_err(fault)?)
}

fn import(arguments: &Capture, source: Source, context: &Context) -> Result<(), Failure> {
    let site = context.site()?;
    let store = site.store.clone();
    let progress = Progress::default();
    let importer = Importer { store: &store, key: &site.signing, now: site.clock.now(), progress: &progress };
    let imported = shown("importing", &progress, || importer.disk(&arguments.name, source))?;
    report_all(&[imported], arguments, context)
}

/// Tags and shows what was published: one as an object in JSON, several as a list.
fn report_all(imported: &[Imported], arguments: &Capture, context: &Context) -> Result<(), Failure> {
    if let Some(tag) = &arguments.tag {
        let store = context.site()?.store.clone();
        imported.iter().try_for_each(|imported| store.tag(&imported.version, tag))?;
    }
    match (context.json(), imported) {
        (true, [one]) => output::json(&import_json(one)),
        (true, several) => output::json(&several.iter().map(import_json).collect::<Vec<_>>()),
        (false, all) => {
            all.iter().for_each(report_import);
            Ok(())
        }
    }
}

fn import_json(imported: &Imported) -> serde_json::Value {
    let Imported { version, id, manifest, stored_bytes, is_new } = imported;
    json!({
        "name": version.name, "version": version.number, "id": id, "new": is_new, "stored_bytes": stored_bytes,
        "content_bytes": manifest.content_bytes(), "header": manifest.header,
    })
}

fn report_import(imported: &Imported) {
    let Imported { version, id, manifest, stored_bytes, is_new } = imported;
    manifest.header.remarks.iter().for_each(|remark| output::line(format!("note: {remark}")));
    output::line(match is_new {
        true => format!(
            "{version} {id}: {} of content in {} chunks, the store grew by {}",
            output::size(manifest.content_bytes()),
            manifest.extents.len(),
            output::size(*stored_bytes)
        ),
        false => format!("{version} holds exactly this already"),
    });
}

fn list(context: &Context) -> Result<(), Failure> {
    let images: Vec<ImageRow> = context.api()?.get("/api/v1/images")?;
    if context.json() {
        return output::json(&images);
    }
    let rows = images.iter().map(|image| {
        vec![
            format!("{}@{}", image.name, image.version),
            image.tags.join(" "),
            output::size(image.size),
            output::size(image.content_bytes),
            output::time(image.created),
            image.id.to_string()[..12].to_owned(),
        ]
    });
    let headings = ["IMAGE", "TAGS", "SIZE", "CONTENT", "CREATED", "ID"];
    output::table(
        &headings,
        rows.collect(),
        "There is no image yet: `remint image import FILE --name NAME` makes one.",
    );
    Ok(())
}

fn show(image: &str, context: &Context) -> Result<(), Failure> {
    let detail: ImageDetail = context.api()?.get(&format!("/api/v1/images/{image}"))?;
    output::json(&detail)
}

fn set_tag(image: &str, tag: &str, remove: bool, context: &Context) -> Result<(), Failure> {
    let reference = Reference::parse(image)?;
    let path = format!("/api/v1/images/{}/tags/{tag}", reference.name);
    if remove {
        context.api()?.delete(&path)?;
        output::line(format!("{}@{tag} is no more", reference.name));
        return Ok(());
    }
    let detail: ImageDetail = context.api()?.get(&format!("/api/v1/images/{image}"))?;
    let version = detail.row.version.to_string();
    let _: serde_json::Value = context.api()?.put(&path, &json!({ "version": version }))?;
    output::line(format!("{0}@{tag} is {0}@{version}", reference.name));
    Ok(())
}

fn remove(image: &str, context: &Context) -> Result<(), Failure> {
    context.api()?.delete(&format!("/api/v1/images/{image}"))?;
    output::line(format!("{image} is removed; `remint store gc` frees its space"));
    Ok(())
}

fn export(arguments: &Export, context: &Context) -> Result<(), Failure> {
    let chosen = Chosen::open(&arguments.image, context)?;
    if arguments.file.exists() {
        return Err(Failure::new(format!("{} exists", arguments.file.display()))
            .with_hint("export makes a new file; `remint image apply` changes one that is there"));
    }
    if chosen.manifest.header.kind == Kind::Tree {
        if let Some(format) = arguments.format {
            return Err(Failure::new(format!("{} is a tree of files and no {}", chosen.version, format.name()))
                .with_hint("leave --format out: it becomes a WIM"));
        }
        return tree::export_wim(&chosen.manifest, &chosen.source(), &arguments.file, arguments.compress, context);
    }
    let receipt = match arguments.format.unwrap_or(Format::Raw) {
        Format::Raw => make(&chosen, None, &Target::file(&arguments.file)?, Seed::Nothing, context)?.receipt,
        Format::Qcow2 => export_qcow2(&chosen, &arguments.file, context)?,
        other => {
            return Err(Failure::new(format!("{} is not a format of export", other.name()))
                .with_hint("export as raw or qcow2; qemu-img convert makes the others of these"));
        }
    };
    match context.json() {
        true => output::json(&receipt),
        false => {
            output::line(format!("{} is {}", path_of(&arguments.file), chosen.version));
            Ok(())
        }
    }
}

/// By way of a sparse raw file beside the new one, which is removed.
fn export_qcow2(chosen: &Chosen, file: &Path, context: &Context) -> Result<Receipt, Failure> {
    let mut raw = file.as_os_str().to_owned();
    raw.push(".raw");
    let raw = PathBuf::from(raw);
    let made = make(chosen, None, &Target::file(&raw)?, Seed::Nothing, context).inspect_err(|_| {
        let _ = std::fs::remove_file(&raw);
    })?;
    let written = container::qcow2_writer::write_file(&raw, file);
    let removed = std::fs::remove_file(&raw);
    written.and(removed).map_err(|error| Failure::new(format!("write {}: {error}", file.display())))?;
    Ok(made.receipt)
}

fn path_of(path: &Path) -> String {
    path.display().to_string()
}

fn check(image: &str, context: &Context) -> Result<(), Failure> {
    let chosen = Chosen::open(image, context)?;
    let progress = Progress::default();
    let bad = shown("verifying", &progress, || verify(&chosen.store, &chosen.manifest, &progress))?;
    if context.json() {
        let bad: Vec<_> = bad.iter().map(ToString::to_string).collect();
        output::json(
            &json!({ "version": chosen.version.to_string(), "chunks": chosen.manifest.extents.len(), "bad": bad }),
        )?;
    }
    if let Some(first) = bad.first() {
        return Err(Failure::new(format!("{} of {}: {first}", bad.len(), chosen.version)).with_hint(
            "`remint store scrub` repairs what another copy allows; importing the image again brings the rest back",
        ));
    }
    if !context.json() {
        let bytes = output::size(chosen.manifest.content_bytes());
        output::line(format!("{} is sound: {} chunks, {bytes}", chosen.version, chosen.manifest.extents.len()));
    }
    Ok(())
}

fn show_diff(old: &str, new: &str, bytes_only: bool, context: &Context) -> Result<(), Failure> {
    let (old, new) = (Chosen::open(old, context)?, Chosen::open(new, context)?);
    if [&old, &new].iter().all(|chosen| chosen.manifest.header.kind == Kind::Tree) {
        return tree::show_diff(&old, &new, context);
    }
    let diff = diff::diff(&old.manifest, &new.manifest);
    let files = if bytes_only { Vec::new() } else { files_of(&old, &new)? };
    if context.json() {
        return output::json(&json!({ "bytes": diff, "files": files }));
    }
    output::line(format!(
        "{} -> {}: {} the same in place, {} moved, {} new, {} gone",
        old.version,
        new.version,
        output::size(diff.same_bytes),
        output::size(diff.moved_bytes),
        output::size(diff.new_bytes),
        output::size(diff.gone_bytes)
    ));
    let rows = diff.partitions.iter().map(|row| {
        vec![
            row.number.to_string(),
            row.filesystem.clone(),
            output::size(row.same_bytes),
            output::size(row.moved_bytes),
            output::size(row.new_bytes),
        ]
    });
    output::table(&["PARTITION", "FILE SYSTEM", "SAME", "MOVED", "NEW"], rows.collect(), "");
    files.iter().for_each(show_files);
    Ok(())
}

fn files_of(old: &Chosen, new: &Chosen) -> Result<Vec<FileDiff>, Failure> {
    let (before, after) = (old.source(), new.source());
    let before = View::open(&old.manifest, &before)?;
    let after = View::open(&new.manifest, &after)?;
    Ok(file_diff((&before, &old.manifest.header.partitions), (&after, &new.manifest.header.partitions))?)
}

/// Names of one kind that are shown; `--json` has them all.
const NAMES_SHOWN: usize = 20;

fn show_files(diff: &FileDiff) {
    let what = format!("partition {} ({})", diff.partition, diff.filesystem);
    if let Some(why) = &diff.not_listed {
        return output::line(format!("{what}: in bytes only: {why}"));
    }
    let (added, removed, changed) = (diff.added.len(), diff.removed.len(), diff.changed.len());
    output::line(format!("{what}: {added} added, {removed} removed, {changed} changed, {} the same", diff.same));
    for (sign, names) in [("+", &diff.added), ("-", &diff.removed), ("~", &diff.changed)] {
        for name in names.iter().take(NAMES_SHOWN) {
            output::line(format!("  {sign} {} ({})", name.path, output::size(name.bytes)));
        }
        if names.len() > NAMES_SHOWN {
            output::line(format!("  {sign} and {} more (--json lists them)", names.len() - NAMES_SHOWN));
        }
    }
}
