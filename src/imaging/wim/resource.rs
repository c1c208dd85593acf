//! Resources: runs of bytes in a part, cut into chunks that are compressed each by itself.
//!
//! ```text
//! plain:      bytes
//! compressed: offsets of all chunks but the first (4 bytes each, 8 from 4 GiB on), chunks
//! pipable:    each chunk after its length (4 bytes); the offsets (which do not count the lengths) come last
//! solid:      plain length (8), chunk length (4), format (4), length of each chunk (4 each), chunks
//! ```

use super::codec::Compression;
use super::error::Error;
use super::format::{self, ResourceHeader, SOLID_HEADER_BYTES, SolidHeader};
use crate::stdx::io::ReadAt;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Layout {
    Plain,
    Chunked,
    Pipable,
    Solid,
}

/// A resource whose place has been checked to lie within its part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Resource {
    /// Place in the list of parts.
    pub part: usize,
    pub offset: u64,
    pub stored_bytes: u64,
    pub plain_bytes: u64,
    pub layout: Layout,
    pub compression: Compression,
    pub chunk_bytes: u32,
}

/// Where each chunk of a resource lies in its part.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChunkTable {
    chunks: Vec<Chunk>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Chunk {
    pub offset: u64,
    pub stored_bytes: u32,
    pub plain_bytes: u32,
}

/// What chunks of uncompressed resources are made up as, for reading them piece by piece.
const PLAIN_CHUNK_BYTES: u32 = 1 << 18;

impl Resource {
    /// A resource that is no solid one. `compression` and `chunk_bytes` are those of the part's header.
    pub fn new(
        header: &ResourceHeader,
        part: usize,
        part_bytes: u64,
        pipable: bool,
        compression: Compression,
        chunk_bytes: u32,
    ) -> Result<Resource, Error> {
        let at = |what| Error::Format { offset: header.offset, what };
        if header.offset.checked_add(header.stored_bytes).is_none_or(|end| end > part_bytes) {
            return Err(at("a resource goes beyond the end of the file"));
        }
        let mut resource = Resource {
            part,
            offset: header.offset,
            stored_bytes: header.stored_bytes,
            plain_bytes: header.plain_bytes,
            layout: Layout::Plain,
            compression: Compression::None,
            chunk_bytes: PLAIN_CHUNK_BYTES,
        };
        if header.is_compressed() {
            resource.layout = if pipable { Layout::Pipable } else { Layout::Chunked };
            resource.compression = compression;
            resource.chunk_bytes = chunk_bytes;
            let sound = chunk_bytes.is_power_of_two() && chunk_bytes as usize <= compression.chunk_bytes_max();
            if compression == Compression::None || !sound {
                return Err(at("a compressed resource, and the header names no way to decompress it"));
            }
        } else if header.stored_bytes != header.plain_bytes {
            return Err(at("an uncompressed resource whose two lengths differ"));
        }
        Ok(resource)
    }

    /// A solid resource; reads its own header.
    pub fn solid(header: &ResourceHeader, part: usize, source: &impl ReadAt) -> Result<Resource, Error> {
        let at = |what| Error::Format { offset: header.offset, what };
        if header.offset.checked_add(header.stored_bytes).is_none_or(|end| end > source.size()) {
            return Err(at("a resource goes beyond the end of the file"));
        }
        if header.stored_bytes < SOLID_HEADER_BYTES as u64 {
            return Err(at("a solid resource is shorter than its header"));
        }
        let mut bytes = [0; SOLID_HEADER_BYTES];
        read(source, &mut bytes, header.offset)?;
        let solid = SolidHeader::parse(&bytes, header.offset)?;
        let sound =
            solid.chunk_bytes.is_power_of_two() && solid.chunk_bytes as usize <= solid.compression.chunk_bytes_max();
        if !sound {
            return Err(at("a solid resource with chunks of an impossible length"));
        }
        Ok(Resource {
            part,
            offset: header.offset,
            stored_bytes: header.stored_bytes,
            plain_bytes: solid.plain_bytes,
            layout: Layout::Solid,
            compression: solid.compression,
            chunk_bytes: solid.chunk_bytes,
        })
    }

    pub fn chunk_count(&self) -> u64 {
        self.plain_bytes.div_ceil(u64::from(self.chunk_bytes))
    }

    fn chunk_plain_bytes(&self, index: u64) -> u32 {
        let start = index * u64::from(self.chunk_bytes);
        (self.plain_bytes - start).min(u64::from(self.chunk_bytes)) as u32
    }

    /// Bytes of the chunk table, after checking that the chunks can lie in the resource at all: what is allocated for the
    /// table is at most what the file holds.
    fn table_bytes(&self) -> Result<u64, Error> {
        let count = self.chunk_count();
        let bytes = match self.layout {
            Layout::Plain => Some(0),
            Layout::Solid => count.checked_mul(4),
            Layout::Chunked | Layout::Pipable => {
                let width = if self.plain_bytes > u64::from(u32::MAX) { 8 } else { 4 };
                count.saturating_sub(1).checked_mul(width)
            }
        };
        let fits = bytes.filter(|bytes| *bytes <= self.stored_bytes);
        fits.ok_or(Error::Format { offset: self.offset, what: "a resource is shorter than its chunk table" })
    }

    /// The chunk table of a resource that is in `source` (its part).
    pub fn chunks(&self, source: &impl ReadAt) -> Result<ChunkTable, Error> {
        let table_bytes = self.table_bytes()?;
        let table_offset = match self.layout {
            Layout::Plain | Layout::Chunked => self.offset,
            Layout::Pipable => self.offset + self.stored_bytes - table_bytes,
            Layout::Solid => self.offset + SOLID_HEADER_BYTES as u64,
        };
        let mut table = vec![0; table_bytes as usize];
        read(source, &mut table, table_offset)?;
        let entries: Vec<u64> = match self.layout {
            Layout::Chunked | Layout::Pipable if self.plain_bytes > u64::from(u32::MAX) => {
                table.chunks_exact(8).map(|e| u64::from_le_bytes(e.try_into().expect("8 bytes"))).collect()
            }
            _ => table.chunks_exact(4).map(|e| u64::from(u32::from_le_bytes(e.try_into().expect("4 bytes")))).collect(),
        };
        self.place_chunks(&entries, table_bytes)
    }

    /// The table from bytes already at hand: `stored` are all bytes of this resource.
    pub fn chunks_in(&self, stored: &[u8]) -> Result<ChunkTable, Error> {
        self.chunks(&Shifted { bytes: stored, offset: self.offset })
    }

    fn place_chunks(&self, entries: &[u64], table_bytes: u64) -> Result<ChunkTable, Error> {
        let broken = Error::Format { offset: self.offset, what: "a chunk table whose chunks do not follow each other" };
        let end = self.offset + self.stored_bytes;
        let count = self.chunk_count();
        let mut chunks = Vec::with_capacity(count as usize);
        let headers = if self.layout == Layout::Pipable { format::PIPABLE_CHUNK_HEADER_BYTES } else { 0 };
        let first = match self.layout {
            Layout::Plain | Layout::Pipable => self.offset,
            Layout::Chunked => self.offset + table_bytes,
            Layout::Solid => self.offset + SOLID_HEADER_BYTES as u64 + table_bytes,
        };
        let data_end = if self.layout == Layout::Pipable { end - table_bytes } else { end };
        let mut offset = first;
        for index in 0..count {
            let plain_bytes = self.chunk_plain_bytes(index);
            let next = match self.layout {
                Layout::Plain => Some(offset + u64::from(plain_bytes)),
                Layout::Solid => offset.checked_add(entries[index as usize]),
                _ if index + 1 == count => Some(data_end),
                _ => {
                    first.checked_add(entries[index as usize]).and_then(|next| next.checked_add(headers * (index + 1)))
                }
            };
            let start = offset + headers;
            let stored = next.filter(|next| *next <= data_end).and_then(|next| next.checked_sub(start));
            // A chunk that does not shrink is stored as it is, so none is longer than its content.
            let stored = stored.filter(|stored| *stored <= u64::from(plain_bytes));
            let (Some(stored), Some(next)) = (stored, next) else { return Err(broken) };
            chunks.push(Chunk { offset: start, stored_bytes: stored as u32, plain_bytes });
            offset = next;
        }
        Ok(ChunkTable { chunks })
    }
}

impl ChunkTable {
    pub fn chunks(&self) -> &[Chunk] {
        &self.chunks
    }

    pub fn stored_bytes_max(&self) -> u32 {
        self.chunks.iter().map(|chunk| chunk.stored_bytes).max().unwrap_or(0)
    }
}

pub(super) fn read(source: &impl ReadAt, buffer: &mut [u8], offset: u64) -> Result<(), Error> {
    source.read_exact_at(buffer, offset).map_err(|source| Error::Read { offset, source })
}

/// Bytes that stand for a range of a file.
struct Shifted<'a> {
    bytes: &'a [u8],
    offset: u64,
}

impl ReadAt for Shifted<'_> {
    fn size(&self) -> u64 {
        self.offset + self.bytes.len() as u64
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
        let offset = offset.checked_sub(self.offset).ok_or(std::io::ErrorKind::UnexpectedEof)?;
        self.bytes.read_exact_at(buffer, offset)
    }
}
