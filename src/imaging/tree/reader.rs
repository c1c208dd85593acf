//! A tree image out of the store: its document, and contents at any offset.

use std::sync::{Mutex, PoisonError};

use crate::imaging::apply::{self, Options};
use crate::imaging::chunk::{CHUNK_BYTES_MAX, Verified};
use crate::imaging::error::Error;
use crate::imaging::manifest::{Kind, Manifest, TreeHeader};
use crate::imaging::store::format::Entry;
use crate::imaging::store::{ChunkSource, Location};
use crate::imaging::tree::format::{DOCUMENT_BYTES_MAX, Document, Layout};
use crate::stdx::io::ReadAt;
use crate::stdx::monitor::Progress;

/// What the header says of the tree; refuses an image that is none.
pub fn tree_header(manifest: &Manifest) -> Result<&TreeHeader, Error> {
    match (&manifest.header.tree, manifest.header.kind) {
        (Some(tree), Kind::Tree) => Ok(tree),
        _ => Err(Error::OtherKind { image: "no tree of files" }),
    }
}

/// Fetches the document of the image: which files it has. `progress` counts only what that takes on the wire.
pub fn document(
    manifest: &Manifest,
    source: &dyn ChunkSource,
    options: &Options,
    progress: &Progress,
) -> Result<Document, Error> {
    let len = tree_header(manifest)?.document_bytes;
    let wrong = |reason: String| Error::NoTree { what: manifest.header.source.clone(), reason };
    if len > DOCUMENT_BYTES_MAX {
        return Err(wrong(format!("its document has {len} bytes, at most {DOCUMENT_BYTES_MAX} are read")));
    }
    let start = manifest.header.size - len;
    let memory = Memory { start, bytes: Mutex::new(vec![0; len as usize]) };
    let extents: Vec<usize> = Layout::extents(manifest, &(start..manifest.header.size)).collect();
    let own = Progress::default();
    apply::fetch(manifest, &extents, source, options, &own, &memory)?;
    Progress::add(&progress.wire_bytes, Progress::get(&own.wire_bytes));
    Progress::add(&progress.retries, Progress::get(&own.retries));
    let bytes = memory.bytes.into_inner().unwrap_or_else(PoisonError::into_inner);
    Document::parse(&bytes, start).map_err(|fault| wrong(fault.to_string()))
}

/// Bytes of the image from `start` on.
struct Memory {
    start: u64,
    bytes: Mutex<Vec<u8>>,
}

impl apply::Writer for Memory {
    fn write(&self, verified: &Verified) -> Result<(), Error> {
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let from = verified.offset().checked_sub(self.start).and_then(|from| usize::try_from(from).ok());
        let room = from.and_then(|from| bytes.get_mut(from..from + verified.as_bytes().len()));
        let room = room.ok_or_else(|| Error::NoTree {
            what: "the image".to_owned(),
            reason: "a chunk lies across the start of its document".to_owned(),
        })?;
        room.copy_from_slice(verified.as_bytes());
        Ok(())
    }
}

/// The bytes of an image, read at any offset by several threads; each chunk is checked on the way.
pub struct ImageBytes<'a> {
    manifest: &'a Manifest,
    source: &'a dyn ChunkSource,
    places: Vec<Location>,
    /// Buffers at rest.
    buffers: Mutex<Vec<Verified>>,
}

impl<'a> ImageBytes<'a> {
    pub fn open(manifest: &'a Manifest, source: &'a dyn ChunkSource) -> Result<ImageBytes<'a>, Error> {
        let chunks: Vec<_> = manifest.extents.iter().map(|extent| extent.chunk).collect();
        let found = source.locate(&chunks)?;
        let places = chunks.iter().zip(found).map(|(chunk, place)| place.ok_or(Error::MissingChunk { chunk: *chunk }));
        Ok(ImageBytes { manifest, source, places: places.collect::<Result<_, _>>()?, buffers: Mutex::default() })
    }

    /// Fills `buffer` from `offset`; what no chunk covers is zero.
    fn read(&self, buffer: &mut [u8], offset: u64) -> Result<(), Error> {
        let end = offset + buffer.len() as u64;
        let first = self.manifest.extents.partition_point(|extent| extent.end() <= offset);
        let resting = self.buffers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut verified = match resting {
            Some(verified) => verified,
            None => Verified::with_capacity(CHUNK_BYTES_MAX).map_err(Error::read("a decompressor"))?,
        };
        buffer.fill(0);
        for (extent, place) in self.manifest.extents.iter().zip(&self.places).skip(first) {
            if extent.offset >= end {
                break;
            }
            let Location { pack, entry } = *place;
            let sealed = self.source.read_range(pack, entry.offset.into(), entry.stored_bytes as usize)?;
            verified.begin(extent.offset);
            let entry = Entry { id: extent.chunk, plain_bytes: extent.len, ..entry };
            verified.open(entry.sealed(&sealed)).map_err(|damage| Error::DamagedChunk {
                chunk: extent.chunk,
                pack,
                from: self.source.name().into(),
                damage,
            })?;
            let (from, to) = (extent.offset.max(offset), extent.end().min(end));
            let plain = &verified.as_bytes()[(from - extent.offset) as usize..(to - extent.offset) as usize];
            buffer[(from - offset) as usize..(to - offset) as usize].copy_from_slice(plain);
        }
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner).push(verified);
        Ok(())
    }
}

impl ReadAt for ImageBytes<'_> {
    fn size(&self) -> u64 {
        self.manifest.header.size
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
        match offset.checked_add(buffer.len() as u64) {
            Some(end) if end <= self.size() => self.read(buffer, offset).map_err(std::io::Error::other),
            _ => Err(std::io::ErrorKind::UnexpectedEof.into()),
        }
    }
}
