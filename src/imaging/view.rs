//! A version as a disk that can be read at any place, without applying it.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use crate::imaging::chunk::{CHUNK_BYTES_MAX, ChunkId, Verified};
use crate::imaging::error::Error;
use crate::imaging::manifest::{Extent, Manifest};
use crate::imaging::store::{ChunkSource, Location};
use crate::stdx::io::ReadAt;

/// Chunks that stay open: some 16 MB, and whoever reads files in order reads each chunk once.
const OPEN_CHUNKS: usize = 128;

/// What a manifest lists reads as its content, all else as zero.
pub struct View<'a> {
    manifest: &'a Manifest,
    source: &'a dyn ChunkSource,
    places: Vec<Option<Location>>,
    open: Mutex<VecDeque<(ChunkId, Arc<Vec<u8>>)>>,
}

/// Bytes that are one piece of a chunk, or zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// The chunk and where in it the bytes begin.
    pub chunk: Option<(ChunkId, u64)>,
    pub len: u64,
}

impl<'a> View<'a> {
    pub fn open(manifest: &'a Manifest, source: &'a dyn ChunkSource) -> Result<View<'a>, Error> {
        let chunks: Vec<ChunkId> = manifest.extents.iter().map(|extent| extent.chunk).collect();
        Ok(View { manifest, source, places: source.locate(&chunks)?, open: Mutex::default() })
    }

    /// What the bytes at `at` are made of, at most `len` of them.
    pub fn segment(&self, at: u64, len: u64) -> Segment {
        let number = self.manifest.extents.partition_point(|extent| extent.end() <= at);
        match self.manifest.extents.get(number) {
            Some(extent) if extent.offset <= at => {
                Segment { chunk: Some((extent.chunk, at - extent.offset)), len: len.min(extent.end() - at) }
            }
            Some(extent) => Segment { chunk: None, len: len.min(extent.offset - at) },
            None => Segment { chunk: None, len },
        }
    }

    fn chunk(&self, number: usize) -> Result<Arc<Vec<u8>>, Error> {
        let extent = self.manifest.extents[number];
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, bytes)) = open.iter().find(|(id, _)| *id == extent.chunk) {
            return Ok(Arc::clone(bytes));
        }
        let bytes = Arc::new(self.read_chunk(&extent, self.places[number])?);
        if open.len() >= OPEN_CHUNKS {
            open.pop_front();
        }
        open.push_back((extent.chunk, Arc::clone(&bytes)));
        Ok(bytes)
    }

    fn read_chunk(&self, extent: &Extent, place: Option<Location>) -> Result<Vec<u8>, Error> {
        let Location { pack, entry } = place.ok_or(Error::MissingChunk { chunk: extent.chunk })?;
        let bytes = self.source.read_range(pack, entry.offset.into(), entry.stored_bytes as usize)?;
        let mut verified = Verified::with_capacity(CHUNK_BYTES_MAX).map_err(Error::read("a decompressor"))?;
        verified.begin(0);
        let damaged =
            |damage| Error::DamagedChunk { chunk: extent.chunk, pack, from: self.source.name().into(), damage };
        verified.open(entry.sealed(&bytes)).map_err(damaged)?;
        Ok(verified.as_bytes().to_vec())
    }
}

impl ReadAt for View<'_> {
    fn size(&self) -> u64 {
        self.manifest.header.size
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buffer.len() as u64).filter(|end| *end <= self.size());
        let end = end.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        buffer.fill(0);
        let first = self.manifest.extents.partition_point(|extent| extent.end() <= offset);
        let here = self.manifest.extents.iter().enumerate().skip(first);
        for (number, extent) in here.take_while(|(_, extent)| extent.offset < end) {
            let bytes = self.chunk(number).map_err(io::Error::other)?;
            let (from, to) = (extent.offset.max(offset), extent.end().min(end));
            let content = &bytes[(from - extent.offset) as usize..(to - extent.offset) as usize];
            buffer[(from - offset) as usize..(to - offset) as usize].copy_from_slice(content);
        }
        Ok(())
    }
}
