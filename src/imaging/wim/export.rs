//! Images of a WIM into another file, new or not: their metadata as it is, and the contents that they refer to. Chunks
//! that are compressed as the new file's are taken over, everything else is compressed anew; all is hashed on the way.

use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::contents::{self, Kind, Source, Stored};
use super::error::Error;
use super::extract::{self, Sink};
use super::format::Sha1;
use super::metadata;
use super::reader::{Blob, OnDamage, Wim};
use super::resource::Layout;
pub use super::writer::Shape;
use super::writer::Writer;
use crate::stdx::io::FileAt;
use crate::stdx::monitor::Progress;

pub struct Options {
    /// What a new file is to be.
    pub shape: Shape,
    /// All contents in one resource, compressed together.
    pub solid: bool,
    /// Into a file that exists, which keeps its shape.
    pub append: bool,
    /// Name and description of the image in place of its own; only for one image.
    pub name: Option<String>,
    pub description: Option<String>,
    pub workers: usize,
}

#[derive(Debug, Default)]
pub struct Report {
    pub images: u64,
    /// Contents that the file did not have.
    pub contents: u64,
    pub bytes: u64,
    /// Length of the file, of all parts.
    pub stored_bytes: u64,
    pub parts: u64,
}

/// Exports the images of these numbers (from 1) to the WIM at `file`.
pub fn export(wim: &Wim, images: &[u32], file: &Path, options: &Options, progress: &Progress) -> Result<Report, Error> {
    let mut writer = match options.append {
        true => Writer::append_to(file, options.shape.integrity)?,
        false => Writer::create(file, &options.shape)?,
    };
    let mut report = Report::default();
    let mut wanted = Wanted::default();
    for index in images {
        image(wim, *index, &mut writer, options, &mut wanted)?;
        report.images += 1;
    }
    writer.begin_contents()?;
    let new = wanted.new_places(wim, &writer);
    report.contents = new.len() as u64;
    report.bytes = new.iter().map(|place| wim.blobs[*place].plain_bytes).sum();
    Progress::add(&progress.total_bytes, report.bytes);
    write_contents(wim, &new, &mut writer, options, progress)?;
    let mut counted: HashSet<Sha1> = new.iter().map(|place| wim.blobs[*place].hash).collect();
    for hash in &wanted.references {
        // The first comes with the content itself.
        if !counted.remove(hash) {
            writer.refer(hash);
        }
    }
    report.parts = writer.part_count() as u64;
    report.stored_bytes = writer.finish()?;
    Ok(report)
}

/// Contents of the images that are exported.
#[derive(Default)]
struct Wanted {
    /// One for each name of a file, as WIM files count references.
    references: Vec<Sha1>,
    places: HashSet<usize>,
}

impl Wanted {
    /// In the order in which they lie in the file.
    fn new_places(&self, wim: &Wim, writer: &Writer) -> Vec<usize> {
        let mut places: Vec<usize> =
            self.places.iter().copied().filter(|place| !writer.has(&wim.blobs[*place].hash)).collect();
        places.sort_by_key(|place| {
            let blob = &wim.blobs[*place];
            let resource = &wim.resources[blob.resource];
            (resource.part, resource.offset, blob.offset)
        });
        places
    }
}

fn image(wim: &Wim, index: u32, writer: &mut Writer, options: &Options, wanted: &mut Wanted) -> Result<(), Error> {
    let (tree, _) = wim.tree(index, OnDamage::Stop)?;
    for (place, entry) in tree.entries.iter().enumerate() {
        for hash in entry.contents() {
            let found = wim.blob_place(&hash);
            wanted.places.insert(found.ok_or_else(|| Error::Missing { hash, path: tree.path_text(place) })?);
            wanted.references.push(hash);
        }
    }
    let mut info = wim.images.iter().find(|image| image.index == index).cloned().unwrap_or_default();
    info.name = options.name.clone().unwrap_or(info.name);
    info.description = options.description.clone().unwrap_or(info.description);
    writer.add_image(metadata::emit(&tree), info)?;
    Ok(())
}

fn write_contents(
    wim: &Wim,
    places: &[usize],
    writer: &mut Writer,
    options: &Options,
    progress: &Progress,
) -> Result<(), Error> {
    let is_solid = |place: &&usize| wim.resources[wim.blobs[**place].resource].layout == Layout::Solid;
    let solid: Vec<usize> = places.iter().filter(is_solid).copied().collect();
    let spool = Spool::fill(wim, &solid, writer.path(), options.workers)?;
    let mut sources = Vec::with_capacity(places.len());
    let mut spooled = spool.offsets.iter();
    for place in places {
        let blob = &wim.blobs[*place];
        let kind = match wim.resources[blob.resource].layout {
            Layout::Solid => {
                let offset = spooled.next().map_or(0, |(_, offset)| *offset);
                Kind::At { source: &spool.source, offset, bytes: blob.plain_bytes }
            }
            _ => Kind::Blob(Stored::new(wim, blob)),
        };
        sources.push(Source { places: Vec::new(), kind, hash: None });
    }
    let hashes = match options.solid {
        true => contents::write_solid(writer, &sources, options.workers, progress)?,
        false => contents::write(writer, &sources, options.workers, progress)?,
    };
    for (place, found) in places.iter().zip(hashes) {
        let blob = &wim.blobs[*place];
        if found != blob.hash {
            let offset = wim.resources[blob.resource].offset;
            return Err(Error::Content { expected: blob.hash, found, offset });
        }
    }
    Ok(())
}

/// Contents of solid resources, which can only be read in order, laid down plain in a file without a name.
struct Spool {
    source: FileAt,
    /// By place in `blobs`, in order.
    offsets: Vec<(usize, u64)>,
}

impl Spool {
    fn fill(wim: &Wim, places: &[usize], beside: &Path, workers: usize) -> Result<Spool, Error> {
        let path = beside.with_file_name(format!(".remint-spool.{}", std::process::id()));
        let cannot = |source| Error::Write { path: path.clone(), source };
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&path).map_err(cannot)?;
        std::fs::remove_file(&path).map_err(cannot)?;
        let mut end = 0;
        let mut offsets = Vec::with_capacity(places.len());
        for place in places {
            offsets.push((*place, end));
            end += wim.blobs[*place].plain_bytes;
        }
        file.set_len(end).map_err(cannot)?;
        let by_hash = offsets.iter().map(|(place, offset)| (wim.blobs[*place].hash, *offset)).collect();
        let sink = SpoolSink { file: &file, path: &path, offsets: by_hash };
        extract::extract(wim, places, workers, &sink, &Progress::default())?;
        Ok(Spool { source: FileAt::new(file).map_err(cannot)?, offsets })
    }
}

struct SpoolSink<'a> {
    file: &'a File,
    path: &'a PathBuf,
    offsets: std::collections::HashMap<Sha1, u64>,
}

impl SpoolSink<'_> {
    fn put(&self, blob: &Blob, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        let start = self.offsets.get(&blob.hash).copied().unwrap_or_default();
        let written = self.file.write_all_at(bytes, start + offset);
        written.map_err(|source| Error::Write { path: self.path.clone(), source })
    }
}

impl Sink for SpoolSink<'_> {
    fn whole(&self, blob: &Blob, content: &[u8]) -> Result<(), Error> {
        self.put(blob, 0, content)
    }

    fn piece(&self, blob: &Blob, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        self.put(blob, offset, bytes)
    }

    fn checked(&self, _: &Blob) -> Result<(), Error> {
        Ok(())
    }

    fn damaged(&self, _: &Blob, error: Error) -> Result<(), Error> {
        Err(error)
    }
}
