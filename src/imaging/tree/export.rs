//! A tree image as a WIM file, its contents straight from the store; their SHA-1s are checked as they are written.

use std::path::Path;

use crate::imaging::apply::Options;
use crate::imaging::error::Error;
use crate::imaging::manifest::Manifest;
use crate::imaging::store::ChunkSource;
use crate::imaging::tree::format::Layout;
use crate::imaging::tree::reader::{self, ImageBytes};
use crate::imaging::wim::capture;
use crate::imaging::wim::contents::{Kind, Source};
use crate::imaging::wim::tree::windows_time;
use crate::imaging::wim::xml::ImageInfo;
use crate::stdx::monitor::Progress;

/// Writes the image into a new WIM at `file`; the bytes of the file.
pub fn export(
    manifest: &Manifest,
    source: &dyn ChunkSource,
    file: &Path,
    options: &capture::Options<'_>,
    progress: &Progress,
) -> Result<u64, Error> {
    let document = reader::document(manifest, source, &Options::default(), progress)?;
    let layout = Layout::new(&document.contents);
    let bytes = ImageBytes::open(manifest, source)?;
    let contents = document.contents.iter().enumerate().map(|(number, content)| Source {
        places: Vec::new(),
        kind: Kind::At { source: &bytes, offset: layout.range(number).start, bytes: content.bytes },
        hash: Some(content.hash),
    });
    let links = document.links.iter().filter(|(hash, _)| layout.find(hash).is_none());
    let links =
        links.map(|(hash, data)| Source { places: Vec::new(), kind: Kind::Memory(data.clone()), hash: Some(*hash) });
    let sources: Vec<Source<'_>> = contents.chain(links).collect();
    let image = image_info(manifest)?;
    Ok(capture::write(file, &document.tree, &sources, &image, options, progress)?)
}

fn image_info(manifest: &Manifest) -> Result<ImageInfo, Error> {
    let tree = reader::tree_header(manifest)?;
    let read = windows_time(manifest.header.created.milliseconds());
    let or_read = |time: u64| if time == 0 { read } else { time };
    Ok(ImageInfo {
        index: 1,
        name: tree.name.clone(),
        description: tree.description.clone(),
        folders: tree.folders,
        files: tree.files,
        bytes: tree.files_bytes,
        hard_link_bytes: tree.hard_link_bytes,
        created: or_read(tree.captured),
        modified: or_read(tree.modified),
        edition: tree.edition.clone(),
        other: tree.xml.clone(),
    })
}
