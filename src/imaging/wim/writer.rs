//! Writes WIM files: contents in order, each once, metadata of images, then blob table, XML, integrity table, and the
//! header last. In a pipable file the XML and all metadata come first, each resource is announced, and the header that
//! tells where everything is comes at the very end, so that it is written and read from its first byte to its last.
//!
//! A new file gets its name when it is whole. To a file that exists, images are appended behind all that it holds; its
//! header, which until then tells of the file as it was, is written last.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use sha1::Digest;

use super::codec::{Compression, Compressor};
use super::error::Error;
use super::format::{self, BlobEntry, Header, IntegrityTable, ResourceHeader, Sha1, SolidHeader};
use super::reader::{OnDamage, Wim};
use super::xml::{self, ImageInfo};
use crate::stdx::io::FileAt;

/// What every reader of WIM files takes.
pub const CHUNK_BYTES: u32 = 32768;
/// Chunks of solid resources: the longer, the more they share; workers hold some thirty times as much.
const SOLID_LZX_CHUNK_BYTES: u32 = 1 << 20;
/// What a row of an integrity table covers, as in all other writers' files.
const INTEGRITY_PIECE_BYTES: u32 = 10 << 20;
/// What is called so in messages.
const STREAM: &str = "standard output";
/// Read of the spool at once.
const SPOOL_BYTES: usize = 1 << 20;

/// What a file is to be.
#[derive(Clone, Debug)]
pub struct Shape {
    pub compression: Compression,
    /// With an integrity table.
    pub integrity: bool,
    /// Parts of a split set are at most this long, unless one content is longer.
    pub part_bytes_max: u64,
    /// To be read from a pipe, as wimlib does.
    pub pipable: bool,
    pub guid: [u8; 16],
}

impl Shape {
    pub fn new(compression: Compression, guid: [u8; 16]) -> Shape {
        Shape { compression, integrity: false, part_bytes_max: u64::MAX, pipable: false, guid }
    }
}

pub struct Writer {
    path: PathBuf,
    compression: Compression,
    chunk_bytes: u32,
    parts: Vec<PartFile>,
    part_bytes_max: u64,
    by_hash: HashMap<Sha1, (usize, usize)>,
    metadata: Vec<BlobEntry>,
    /// Metadata of a pipable file until all images are known.
    waiting: Vec<Vec<u8>>,
    images: Vec<ImageInfo>,
    /// Fields that stay as they are.
    header: Header,
    integrity: bool,
}

/// A part that is being written.
struct PartFile {
    path: PathBuf,
    file: File,
    begun: Begun,
    position: u64,
    rows: Vec<BlobEntry>,
}

enum Begun {
    /// Under another name, which goes away when the part gets its own.
    New {
        temporary: PathBuf,
    },
    /// In a file that had this length.
    Appended {
        bytes: u64,
    },
    /// What lies before `sent` has gone to `to`, which never goes back; the part's file holds the resource that comes next.
    Streamed {
        to: File,
        sent: u64,
    },
    Finished,
}

/// A resource that is being written.
pub struct Open {
    /// Place of the part.
    part: usize,
    offset: u64,
    plain_bytes: u64,
    /// Bytes before the chunks.
    table_bytes: u64,
    written: u64,
    chunk_bytes: Vec<u32>,
}

impl Writer {
    /// Begins a file beside `path`, or the first part of a set.
    pub fn create(path: &Path, shape: &Shape) -> Result<Writer, Error> {
        let header = header(path, shape)?;
        Ok(Writer::of(PartFile::create(path)?, header, shape))
    }

    /// Begins a pipable file that is written from its first byte to its last. Each resource waits in `spool` until it is whole.
    pub fn stream(to: File, spool: File, shape: &Shape) -> Result<Writer, Error> {
        let path = Path::new(STREAM);
        if !shape.pipable {
            return Err(refused(path, "only a pipable file is written from its first byte to its last"));
        }
        if shape.integrity {
            return Err(refused(path, "what has gone into a pipe cannot be read again for an integrity table"));
        }
        let header = header(path, shape)?;
        let begun = Begun::Streamed { to, sent: 0 };
        let position = format::HEADER_BYTES as u64;
        let part = PartFile { path: path.to_owned(), file: spool, begun, position, rows: Vec::new() };
        Ok(Writer::of(part, header, shape))
    }

    fn of(part: PartFile, header: Header, shape: &Shape) -> Writer {
        Writer {
            path: part.path.clone(),
            compression: shape.compression,
            chunk_bytes: CHUNK_BYTES,
            parts: vec![part],
            part_bytes_max: shape.part_bytes_max,
            by_hash: HashMap::new(),
            metadata: Vec::new(),
            waiting: Vec::new(),
            images: Vec::new(),
            header,
            integrity: shape.integrity,
        }
    }

    /// Opens a file for more images; `integrity` gives it an integrity table if it has none.
    pub fn append_to(path: &Path, integrity: bool) -> Result<Writer, Error> {
        let wim = Wim::open(path, OnDamage::Stop)?;
        let header = wim.header().clone();
        let what = match header.compression()? {
            _ if header.parts > 1 => Some("it is a part of a split set"),
            _ if header.pipable => Some("it is pipable"),
            Compression::Lzms => Some("it is compressed with LZMS, which nothing here writes"),
            Compression::Xpress if header.chunk_bytes > CHUNK_BYTES => Some("its chunks are longer than 32 KiB"),
            _ => None,
        };
        if let Some(what) = what {
            return Err(refused(path, what));
        }
        let (mut rows, mut metadata) = (Vec::new(), Vec::new());
        for row in wim.rows(0)? {
            match row.resource.is_metadata() {
                true if row.references == 0 => {}
                true => metadata.push(row),
                false => rows.push(row),
            }
        }
        let file = File::options().read(true).write(true).open(path);
        let file = file.map_err(|source| Error::Write { path: path.to_owned(), source })?;
        let bytes = file.metadata().map_err(|source| Error::Write { path: path.to_owned(), source })?.len();
        let in_rows = rows.iter().enumerate().filter(|(_, row)| !row.is_solid_resource());
        let by_hash = in_rows.map(|(place, row)| (row.hash, (0, place))).collect();
        let begun = Begun::Appended { bytes };
        Ok(Writer {
            path: path.to_owned(),
            compression: wim.compression,
            chunk_bytes: if wim.compression == Compression::None { CHUNK_BYTES } else { header.chunk_bytes },
            parts: vec![PartFile { path: path.to_owned(), file, begun, position: bytes, rows }],
            part_bytes_max: u64::MAX,
            by_hash,
            metadata,
            waiting: Vec::new(),
            images: wim.images,
            integrity: integrity || header.integrity.stored_bytes > 0,
            header,
        })
    }

    /// Of the file, or of the first part.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// So far.
    pub fn part_count(&self) -> usize {
        self.parts.len()
    }

    pub fn compression(&self) -> Compression {
        self.compression
    }

    /// Plain bytes of a chunk.
    pub fn chunk_bytes(&self) -> u32 {
        self.chunk_bytes
    }

    /// Plain bytes of a chunk of a solid resource.
    pub fn solid_chunk_bytes(&self) -> u32 {
        if self.compression == Compression::Lzx { SOLID_LZX_CHUNK_BYTES } else { CHUNK_BYTES }
    }

    /// Compresses chunks of this length.
    pub fn compressor(&self, chunk_bytes: u32) -> Result<Compressor, Error> {
        let made = Compressor::new(self.compression, chunk_bytes as usize);
        made.map_err(|source| Error::Chunk { offset: 0, source })
    }

    pub fn has(&self, hash: &Sha1) -> bool {
        self.by_hash.contains_key(hash)
    }

    pub fn hashes(&self) -> impl Iterator<Item = Sha1> + '_ {
        self.by_hash.keys().copied()
    }

    /// One more name for a content.
    pub fn refer(&mut self, hash: &Sha1) {
        if let Some((part, row)) = self.by_hash.get(hash) {
            let references = &mut self.parts[*part].rows[*row].references;
            *references = references.saturating_add(1);
        }
    }

    /// A compressed resource for a content of `plain_bytes`; it will take about `stored_bytes`.
    pub fn begin(&mut self, plain_bytes: u64, stored_bytes: u64) -> Result<Open, Error> {
        let width = if plain_bytes > u64::from(u32::MAX) { 8 } else { 4 };
        let table_bytes = match self.compression {
            Compression::None => 0,
            _ => plain_bytes.div_ceil(u64::from(self.chunk_bytes)).saturating_sub(1) * width,
        };
        self.make_room(table_bytes.saturating_add(stored_bytes))?;
        Ok(self.open(plain_bytes, table_bytes))
    }

    /// The solid resource that is to hold `plain_bytes`.
    pub fn begin_solid(&mut self, plain_bytes: u64) -> Open {
        let chunks = plain_bytes.div_ceil(u64::from(self.solid_chunk_bytes()));
        self.header.version = format::VERSION_SOLID;
        self.open(plain_bytes, format::SOLID_HEADER_BYTES as u64 + 4 * chunks)
    }

    fn open(&self, plain_bytes: u64, table_bytes: u64) -> Open {
        let part = self.parts.len() - 1;
        let offset = self.parts[part].position + self.announcement_bytes();
        Open { part, offset, plain_bytes, table_bytes, written: 0, chunk_bytes: Vec::new() }
    }

    /// Before each resource.
    fn announcement_bytes(&self) -> u64 {
        if self.header.pipable { format::PIPABLE_BLOB_HEADER_BYTES as u64 } else { 0 }
    }

    /// Goes on in a new part when this one would become too long.
    fn make_room(&mut self, bytes: u64) -> Result<(), Error> {
        let position = self.parts[self.parts.len() - 1].position;
        if position == format::HEADER_BYTES as u64 || position.saturating_add(bytes) <= self.part_bytes_max {
            return Ok(());
        }
        let path = part_path(&self.path, self.parts.len() + 1);
        self.parts.push(PartFile::create(&path)?);
        Ok(())
    }

    /// The next chunks.
    pub fn append(&self, open: &mut Open, bytes: &[u8], chunk_bytes: &[u32]) -> Result<(), Error> {
        open.chunk_bytes.extend(chunk_bytes);
        let part = &self.parts[open.part];
        if !self.header.pipable {
            part.put(bytes, open.offset + open.table_bytes + open.written)?;
            open.written += bytes.len() as u64;
            return Ok(());
        }
        let bytes = with_lengths(bytes, chunk_bytes);
        part.put(&bytes, open.offset + open.written)?;
        open.written += bytes.len() as u64;
        Ok(())
    }

    /// Ends a content. One that is in the file already is forgotten: the next is written over it.
    pub fn end(&mut self, open: Open, hash: Sha1) -> Result<(), Error> {
        if self.has(&hash) {
            self.refer(&hash);
            return Ok(());
        }
        let resource = self.end_resource(&open, 0, &hash)?;
        self.add_row(resource, hash, 1);
        Ok(())
    }

    fn add_row(&mut self, resource: ResourceHeader, hash: Sha1, references: u32) {
        let place = self.parts.len() - 1;
        let rows = &mut self.parts[place].rows;
        self.by_hash.insert(hash, (place, rows.len()));
        rows.push(BlobEntry { resource, part: place as u16 + 1, references, hash });
    }

    fn end_resource(&mut self, open: &Open, flags: u8, hash: &Sha1) -> Result<ResourceHeader, Error> {
        let mut table = Vec::with_capacity(open.table_bytes as usize);
        let mut offset = 0u64;
        for bytes in open.chunk_bytes.iter().take(open.chunk_bytes.len().saturating_sub(1)) {
            offset += u64::from(*bytes);
            match open.plain_bytes > u64::from(u32::MAX) {
                true => table.extend(offset.to_le_bytes()),
                false => table.extend((offset as u32).to_le_bytes()),
            }
        }
        let compressed = if self.compression == Compression::None { 0 } else { format::RESOURCE_COMPRESSED };
        let flags = flags | compressed;
        let part = &mut self.parts[open.part];
        if self.header.pipable {
            part.put(&format::emit_announcement(open.plain_bytes, hash, flags), part.position)?;
        }
        if open.table_bytes > 0 {
            // In a pipable file behind the chunks, whose lengths nobody knows before.
            part.put(&table, open.offset + if self.header.pipable { open.written } else { 0 })?;
        }
        let stored_bytes = open.table_bytes + open.written;
        part.advance(open.offset + stored_bytes)?;
        Ok(ResourceHeader { stored_bytes, flags, offset: open.offset, plain_bytes: open.plain_bytes })
    }

    /// Ends the solid resource, which holds `contents` (hash, plain length) in this order.
    pub fn end_solid(&mut self, open: &Open, contents: &[(Sha1, u64)]) -> Result<(), Error> {
        let header = SolidHeader {
            plain_bytes: open.plain_bytes,
            chunk_bytes: self.solid_chunk_bytes(),
            compression: self.compression,
        };
        let mut table = header.emit();
        open.chunk_bytes.iter().for_each(|bytes| table.extend(bytes.to_le_bytes()));
        let part = &mut self.parts[open.part];
        part.put(&table, open.offset)?;
        let stored_bytes = open.table_bytes + open.written;
        part.advance(open.offset + stored_bytes)?;
        let row = |stored_bytes, offset, plain_bytes| ResourceHeader {
            stored_bytes,
            flags: format::RESOURCE_SOLID,
            offset,
            plain_bytes,
        };
        let resource = row(stored_bytes, open.offset, format::SOLID_MARK);
        part.rows.push(BlobEntry { resource, part: open.part as u16 + 1, references: 1, hash: Sha1::ZERO });
        let mut at = 0;
        for (hash, bytes) in contents {
            self.add_row(row(*bytes, at, 0), *hash, 0);
            at += bytes;
        }
        Ok(())
    }

    /// A content that is at hand whole; compressed when that is shorter.
    pub fn whole(&mut self, plain: &[u8], packed: &[u8], chunk_bytes: &[u32], hash: Sha1) -> Result<(), Error> {
        let table_bytes = 4 * (chunk_bytes.len() as u64).saturating_sub(1);
        let is_shorter = table_bytes + (packed.len() as u64) < plain.len() as u64;
        if self.compression != Compression::None && is_shorter {
            let mut open = self.begin(plain.len() as u64, packed.len() as u64)?;
            self.append(&mut open, packed, chunk_bytes)?;
            return self.end(open, hash);
        }
        self.make_room(plain.len() as u64)?;
        let resource = self.plain_resource(self.parts.len() - 1, plain, 0, &hash)?;
        self.add_row(resource, hash, 1);
        Ok(())
    }

    fn plain_resource(&mut self, part: usize, plain: &[u8], flags: u8, hash: &Sha1) -> Result<ResourceHeader, Error> {
        if self.header.pipable {
            let announcement = format::emit_announcement(plain.len() as u64, hash, flags);
            self.bare_resource(part, &announcement, 0)?;
        }
        self.bare_resource(part, plain, flags)
    }

    /// Blob table or XML, whose hash stands nowhere but in a pipable file.
    fn table_resource(&mut self, part: usize, plain: &[u8]) -> Result<ResourceHeader, Error> {
        let hash = if self.header.pipable { Sha1(sha1::Sha1::digest(plain).into()) } else { Sha1::ZERO };
        self.plain_resource(part, plain, format::RESOURCE_METADATA, &hash)
    }

    fn bare_resource(&mut self, part: usize, plain: &[u8], flags: u8) -> Result<ResourceHeader, Error> {
        let part = &mut self.parts[part];
        part.put(plain, part.position)?;
        let bytes = plain.len() as u64;
        let resource = ResourceHeader { stored_bytes: bytes, flags, offset: part.position, plain_bytes: bytes };
        part.advance(part.position + bytes)?;
        Ok(resource)
    }

    /// An error when there is an image of this name.
    pub fn check_name(&self, name: &str) -> Result<(), Error> {
        match !name.is_empty() && self.images.iter().any(|image| image.name == name) {
            true => Err(refused(&self.path, "it has an image of this name already")),
            false => Ok(()),
        }
    }

    /// An error when solid resources of this file could not be read by others.
    pub fn check_solid(&self) -> Result<(), Error> {
        match self.compression {
            _ if self.header.pipable => Err(refused(&self.path, "a pipable file holds no solid resources")),
            Compression::None => {
                Err(refused(&self.path, "contents are stored together only where they are compressed"))
            }
            _ => Ok(()),
        }
    }

    /// Writes an image's metadata. In a set it comes first: all metadata is in the first part. In a pipable file it waits
    /// until the contents begin.
    pub fn add_image(&mut self, metadata: Vec<u8>, mut image: ImageInfo) -> Result<u32, Error> {
        self.check_name(&image.name)?;
        image.index = self.images.len() as u32 + 1;
        self.images.push(image);
        match self.header.pipable {
            true => self.waiting.push(metadata),
            false => self.put_metadata(&metadata)?,
        }
        Ok(self.images.len() as u32)
    }

    /// All images have been added: a pipable file begins with what they are.
    pub fn begin_contents(&mut self) -> Result<(), Error> {
        if !self.header.pipable {
            return Ok(());
        }
        self.header.images = self.images.len() as u32;
        self.parts[0].put(&self.header.emit(), 0)?;
        self.table_resource(0, &xml::emit(&self.images, None))?;
        let waiting = std::mem::take(&mut self.waiting);
        waiting.iter().try_for_each(|metadata| self.put_metadata(metadata))
    }

    fn put_metadata(&mut self, metadata: &[u8]) -> Result<(), Error> {
        let hash = Sha1(sha1::Sha1::digest(metadata).into());
        let resource = match self.compression {
            Compression::None => self.plain_resource(0, metadata, format::RESOURCE_METADATA, &hash)?,
            _ => {
                let mut open = self.begin(metadata.len() as u64, 0)?;
                let (mut packed, mut chunk_bytes) = Default::default();
                pack(
                    metadata,
                    self.chunk_bytes,
                    &mut self.compressor(self.chunk_bytes)?,
                    &mut packed,
                    &mut chunk_bytes,
                );
                self.append(&mut open, &packed, &chunk_bytes)?;
                self.end_resource(&open, format::RESOURCE_METADATA, &hash)?
            }
        };
        self.metadata.push(BlobEntry { resource, part: 1, references: 1, hash });
        Ok(())
    }

    /// Writes all that describes the contents, gives each part its name and returns their length together.
    pub fn finish(mut self) -> Result<u64, Error> {
        let contents: u64 = self.parts.iter().map(|part| part.position - format::HEADER_BYTES as u64).sum();
        self.header.images = self.images.len() as u32;
        self.header.parts = self.parts.len() as u16;
        self.header.flags = match self.parts.len() {
            1 => self.header.flags & !format::FLAG_SPANNED,
            _ => self.header.flags | format::FLAG_SPANNED,
        };
        for number in 0..self.parts.len() {
            let header = self.describe(number, contents)?;
            self.parts[number].finish(&header)?;
        }
        if !self.parts.iter().any(PartFile::is_streamed) {
            let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let synced = File::open(folder).and_then(|folder| folder.sync_all());
            synced.map_err(|source| Error::Write { path: folder.to_owned(), source })?;
        }
        Ok(self.parts.iter().map(|part| part.position).sum())
    }

    /// Blob table, XML and integrity table of a part; its header.
    fn describe(&mut self, number: usize, contents: u64) -> Result<Header, Error> {
        let mut table = Vec::new();
        if number == 0 {
            self.metadata.iter().for_each(|row| row.emit(&mut table));
        }
        self.parts[number].rows.iter().for_each(|row| row.emit(&mut table));
        let mut header = Header { part: number as u16 + 1, ..self.header.clone() };
        header.blob_table = self.table_resource(number, &table)?;
        let covered = self.parts[number].position;
        header.xml = self.table_resource(number, &xml::emit(&self.images, Some(contents)))?;
        header.integrity = ResourceHeader::default();
        if self.integrity {
            let table = self.parts[number].integrity_table(covered)?;
            header.integrity = self.bare_resource(number, &table.emit(), 0)?;
        }
        Ok(header)
    }
}

impl Drop for Writer {
    /// What was not finished is as if it had never been begun.
    fn drop(&mut self) {
        for part in &self.parts {
            match &part.begun {
                Begun::New { temporary } => drop(std::fs::remove_file(temporary)),
                Begun::Appended { bytes } => drop(part.file.set_len(*bytes)),
                Begun::Streamed { .. } | Begun::Finished => {}
            }
        }
    }
}

impl PartFile {
    fn create(path: &Path) -> Result<PartFile, Error> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let temporary = path.with_file_name(format!(".{name}.{}.new", std::process::id()));
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&temporary);
        let file = file.map_err(|source| Error::Write { path: temporary.clone(), source })?;
        let begun = Begun::New { temporary };
        let position = format::HEADER_BYTES as u64;
        Ok(PartFile { path: path.to_owned(), file, begun, position, rows: Vec::new() })
    }

    fn is_streamed(&self) -> bool {
        matches!(self.begun, Begun::Streamed { .. })
    }

    fn put(&self, bytes: &[u8], offset: u64) -> Result<(), Error> {
        let sent = if let Begun::Streamed { sent, .. } = &self.begun { *sent } else { 0 };
        self.file.write_all_at(bytes, offset - sent).map_err(|source| Error::Write { path: self.path.clone(), source })
    }

    /// All before `position` is final: a part that is streamed sends it.
    fn advance(&mut self, position: u64) -> Result<(), Error> {
        self.position = position;
        let Begun::Streamed { to, sent } = &mut self.begun else { return Ok(()) };
        let mut buffer = vec![0; SPOOL_BYTES.min((position - *sent) as usize)];
        let begin = *sent;
        while *sent < position {
            let piece = &mut buffer[..SPOOL_BYTES.min((position - *sent) as usize)];
            let read = self.file.read_exact_at(piece, *sent - begin);
            read.and_then(|()| to.write_all(piece))
                .map_err(|source| Error::Write { path: self.path.clone(), source })?;
            *sent += piece.len() as u64;
        }
        Ok(())
    }

    /// Of all from the header to `end`, the end of the blob table.
    fn integrity_table(&self, end: u64) -> Result<IntegrityTable, Error> {
        let cannot = |source| Error::Read { offset: 0, source };
        let source = FileAt::new(self.file.try_clone().map_err(cannot)?).map_err(cannot)?;
        let mut buffer = Vec::new();
        let starts = (format::HEADER_BYTES as u64..end).step_by(INTEGRITY_PIECE_BYTES as usize);
        let hashes = starts.map(|start| {
            let len = (end - start).min(u64::from(INTEGRITY_PIECE_BYTES));
            super::verify::hash_range(&source, start, len, &mut buffer)
        });
        Ok(IntegrityTable { piece_bytes: INTEGRITY_PIECE_BYTES, hashes: hashes.collect::<Result<_, _>>()? })
    }

    /// Whole on disk before its header says so, and named after that.
    fn finish(&mut self, header: &Header) -> Result<(), Error> {
        if self.is_streamed() {
            self.put(&header.emit(), self.position)?;
            return self.advance(self.position + format::HEADER_BYTES as u64);
        }
        let mut write = || -> io::Result<()> {
            // A duplicate may have left bytes behind the end.
            self.file.set_len(self.position)?;
            if matches!(self.begun, Begun::Appended { .. }) {
                self.file.sync_all()?;
            }
            let offset = if header.pipable { self.position } else { 0 };
            self.file.write_all_at(&header.emit(), offset)?;
            if header.pipable {
                self.position += format::HEADER_BYTES as u64;
            }
            self.file.sync_all()?;
            if let Begun::New { temporary } = &self.begun {
                std::fs::rename(temporary, &self.path)?;
            }
            self.begun = Begun::Finished;
            Ok(())
        };
        write().map_err(|source| Error::Write { path: self.path.clone(), source })
    }
}

/// Compresses the chunks of `plain`; what does not shrink is stored as it is.
pub fn pack(
    plain: &[u8],
    chunk_len: u32,
    compressor: &mut Compressor,
    packed: &mut Vec<u8>,
    chunk_bytes: &mut Vec<u32>,
) {
    for chunk in plain.chunks(chunk_len as usize) {
        let start = packed.len();
        if !compressor.compress(chunk, packed) {
            packed.extend(chunk);
        }
        chunk_bytes.push((packed.len() - start) as u32);
    }
}

/// Each chunk of a pipable resource after its length; what has no chunks is as it is.
fn with_lengths(bytes: &[u8], chunk_bytes: &[u32]) -> Vec<u8> {
    if chunk_bytes.is_empty() {
        return bytes.to_vec();
    }
    let mut all = Vec::with_capacity(bytes.len() + 4 * chunk_bytes.len());
    let mut rest = bytes;
    for len in chunk_bytes {
        let (chunk, behind) = rest.split_at(*len as usize);
        all.extend(len.to_le_bytes());
        all.extend(chunk);
        rest = behind;
    }
    all
}

/// `x.swm`, `x2.swm`, `x3.swm` ...
fn part_path(first: &Path, number: usize) -> PathBuf {
    let stem = first.file_stem().unwrap_or_default().to_string_lossy();
    let extension = first.extension().map_or_else(String::new, |extension| format!(".{}", extension.to_string_lossy()));
    first.with_file_name(format!("{stem}{number}{extension}"))
}

/// Of a new file of this shape.
fn header(path: &Path, shape: &Shape) -> Result<Header, Error> {
    let compressed = match shape.compression {
        Compression::None => 0,
        Compression::Xpress => format::FLAG_COMPRESSED | format::FLAG_XPRESS,
        Compression::Lzx => format::FLAG_COMPRESSED | format::FLAG_LZX,
        Compression::Lzms => return Err(refused(path, "nothing here writes LZMS")),
    };
    if shape.pipable && shape.part_bytes_max != u64::MAX {
        return Err(refused(path, "a pipable file is no split set"));
    }
    let chunk_bytes = if compressed == 0 { 0 } else { CHUNK_BYTES };
    Ok(Header {
        pipable: shape.pipable,
        version: format::VERSION_DEFAULT,
        flags: compressed,
        chunk_bytes,
        guid: shape.guid,
        part: 1,
        parts: 1,
        images: 0,
        blob_table: ResourceHeader::default(),
        xml: ResourceHeader::default(),
        boot_metadata: ResourceHeader::default(),
        boot_image: 0,
        integrity: ResourceHeader::default(),
    })
}

fn refused(path: &Path, what: &'static str) -> Error {
    Error::Refused { path: path.to_owned(), what }
}
