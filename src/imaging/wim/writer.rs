//! Writes a WIM file with one image: contents in order, each once, then metadata, blob table, XML, and the header last.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use sha1::Digest;

use super::codec::{Compression, Compressor};
use super::error::Error;
use super::format::{self, BlobEntry, Header, ResourceHeader, Sha1};
use super::xml::{self, ImageInfo};

/// What every reader of WIM files takes.
pub const CHUNK_BYTES: usize = 32768;

/// A run of whole chunks (but the last of a content), compressed.
#[derive(Default)]
pub struct Packed {
    pub bytes: Vec<u8>,
    pub chunk_bytes: Vec<u32>,
}

/// Compresses the chunks of `plain`; what does not shrink is stored as it is.
pub fn pack(plain: &[u8], compressor: &mut Compressor) -> Packed {
    let mut packed = Packed::default();
    for chunk in plain.chunks(CHUNK_BYTES) {
        let start = packed.bytes.len();
        if !compressor.compress(chunk, &mut packed.bytes) {
            packed.bytes.extend(chunk);
        }
        packed.chunk_bytes.push((packed.bytes.len() - start) as u32);
    }
    packed
}

pub(super) fn compressor(compression: Compression) -> Result<Compressor, Error> {
    Compressor::new(compression, CHUNK_BYTES).map_err(|source| Error::Chunk { offset: 0, source })
}

/// A content that is being written.
pub struct Content {
    offset: u64,
    plain_bytes: u64,
    table_bytes: u64,
    written: u64,
    chunk_bytes: Vec<u32>,
}

pub struct Writer {
    path: PathBuf,
    temporary: PathBuf,
    file: File,
    position: u64,
    compression: Compression,
    blobs: Vec<BlobEntry>,
    by_hash: HashMap<Sha1, usize>,
}

impl Writer {
    /// Begins a file beside `path`; it gets its name when it is whole.
    pub fn create(path: &Path, compression: Compression) -> Result<Writer, Error> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let temporary = path.with_file_name(format!(".{name}.{}.new", std::process::id()));
        let file = File::create(&temporary).map_err(|source| Error::Write { path: temporary.clone(), source })?;
        let position = format::HEADER_BYTES as u64;
        let (blobs, by_hash) = Default::default();
        Ok(Writer { path: path.to_owned(), temporary, file, position, compression, blobs, by_hash })
    }

    pub fn has(&self, hash: &Sha1) -> bool {
        self.by_hash.contains_key(hash)
    }

    fn put(&self, bytes: &[u8], offset: u64) -> Result<(), Error> {
        self.file.write_all_at(bytes, offset).map_err(|source| Error::Write { path: self.temporary.clone(), source })
    }

    /// A content of `plain_bytes` that comes in several runs.
    pub fn begin(&self, plain_bytes: u64) -> Content {
        let width = if plain_bytes > u64::from(u32::MAX) { 8 } else { 4 };
        let table_bytes = match self.compression {
            Compression::None => 0,
            _ => (plain_bytes.div_ceil(CHUNK_BYTES as u64) - 1) * width,
        };
        Content { offset: self.position, plain_bytes, table_bytes, written: 0, chunk_bytes: Vec::new() }
    }

    pub fn append(&self, content: &mut Content, packed: &Packed) -> Result<(), Error> {
        self.put(&packed.bytes, content.offset + content.table_bytes + content.written)?;
        content.written += packed.bytes.len() as u64;
        content.chunk_bytes.extend(&packed.chunk_bytes);
        Ok(())
    }

    /// Ends a content. One that is in the file already is forgotten: the next is written over it.
    pub fn end(&mut self, content: Content, hash: Sha1) -> Result<(), Error> {
        if let Some(known) = self.by_hash.get(&hash) {
            self.blobs[*known].references += 1;
            return Ok(());
        }
        let resource = self.end_resource(&content, 0)?;
        self.by_hash.insert(hash, self.blobs.len());
        self.blobs.push(BlobEntry { resource, part: 1, references: 1, hash });
        Ok(())
    }

    /// One more name for a content.
    pub fn refer(&mut self, hash: &Sha1) {
        if let Some(known) = self.by_hash.get(hash) {
            self.blobs[*known].references += 1;
        }
    }

    fn end_resource(&mut self, content: &Content, flags: u8) -> Result<ResourceHeader, Error> {
        let mut table = Vec::with_capacity(content.table_bytes as usize);
        let mut offset = 0u64;
        for bytes in content.chunk_bytes.iter().take(content.chunk_bytes.len().saturating_sub(1)) {
            offset += u64::from(*bytes);
            match content.plain_bytes > u64::from(u32::MAX) {
                true => table.extend(offset.to_le_bytes()),
                false => table.extend((offset as u32).to_le_bytes()),
            }
        }
        if content.table_bytes > 0 {
            self.put(&table, content.offset)?;
        }
        let stored_bytes = content.table_bytes + content.written;
        let compressed = if self.compression == Compression::None { 0 } else { format::RESOURCE_COMPRESSED };
        self.position = content.offset + stored_bytes;
        let flags = flags | compressed;
        Ok(ResourceHeader { stored_bytes, flags, offset: content.offset, plain_bytes: content.plain_bytes })
    }

    /// A content that is at hand whole; `packed` when that is shorter.
    pub fn whole(&mut self, plain: &[u8], packed: &Packed, hash: Sha1) -> Result<(), Error> {
        let mut content = self.begin(plain.len() as u64);
        if self.compression != Compression::None
            && content.table_bytes + (packed.bytes.len() as u64) < plain.len() as u64
        {
            self.append(&mut content, packed)?;
            return self.end(content, hash);
        }
        let resource = self.plain_resource(plain, 0)?;
        self.by_hash.insert(hash, self.blobs.len());
        self.blobs.push(BlobEntry { resource, part: 1, references: 1, hash });
        Ok(())
    }

    fn plain_resource(&mut self, plain: &[u8], flags: u8) -> Result<ResourceHeader, Error> {
        self.put(plain, self.position)?;
        let bytes = plain.len() as u64;
        let resource = ResourceHeader { stored_bytes: bytes, flags, offset: self.position, plain_bytes: bytes };
        self.position += bytes;
        Ok(resource)
    }

    /// Writes all that describes the contents, gives the file its name and returns its length.
    pub fn finish(mut self, metadata: &[u8], image: &ImageInfo, guid: [u8; 16]) -> Result<u64, Error> {
        let hash = Sha1(sha1::Sha1::digest(metadata).into());
        let resource = match self.compression {
            Compression::None => self.plain_resource(metadata, format::RESOURCE_METADATA)?,
            _ => {
                let mut content = self.begin(metadata.len() as u64);
                self.append(&mut content, &pack(metadata, &mut compressor(self.compression)?))?;
                self.end_resource(&content, format::RESOURCE_METADATA)?
            }
        };
        let stored = self.position;
        let mut table = Vec::new();
        BlobEntry { resource, part: 1, references: 1, hash }.emit(&mut table);
        self.blobs.iter().for_each(|blob| blob.emit(&mut table));
        let blob_table = self.plain_resource(&table, format::RESOURCE_METADATA)?;
        let xml = self.plain_resource(&xml::emit(std::slice::from_ref(image), stored), format::RESOURCE_METADATA)?;
        let flags = match self.compression {
            Compression::None => 0,
            Compression::Lzx => format::FLAG_COMPRESSED | format::FLAG_LZX,
            _ => format::FLAG_COMPRESSED | format::FLAG_XPRESS,
        };
        let header = Header {
            pipable: false,
            version: format::VERSION_DEFAULT,
            flags,
            chunk_bytes: if flags == 0 { 0 } else { CHUNK_BYTES as u32 },
            guid,
            part: 1,
            parts: 1,
            images: 1,
            blob_table,
            xml,
            boot_metadata: ResourceHeader::default(),
            boot_image: 0,
            integrity: ResourceHeader::default(),
        };
        self.put(&header.emit(), 0)?;
        let named = self.name();
        named.map_err(|source| Error::Write { path: self.path.clone(), source })?;
        Ok(self.position)
    }

    /// A duplicate may have left bytes behind the end. Whole on disk before it has its name.
    fn name(&self) -> io::Result<()> {
        self.file.set_len(self.position)?;
        self.file.sync_all()?;
        std::fs::rename(&self.temporary, &self.path)?;
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Gone already when the file has its name.
        let _ = std::fs::remove_file(&self.temporary);
    }
}
