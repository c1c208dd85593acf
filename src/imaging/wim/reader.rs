//! A WIM that is open for reading: all its parts, its blobs by name, its images.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};

use sha1::Digest;

use super::codec::{Compression, Decompressor};
use super::error::Error;
use super::format::{self, BlobEntry, Header, IntegrityTable, ResourceHeader, Sha1};
use super::metadata::{self, Fault, METADATA_BYTES_MAX};
use super::resource::{self, Resource};
use super::tree::Tree;
use super::xml::{self, ImageInfo, XML_BYTES_MAX};
use crate::stdx::io::{FileAt, ReadAt};

/// Some five million blobs; real files have some hundred thousand.
const BLOB_TABLE_BYTES_MAX: u64 = 256 << 20;
const INTEGRITY_BYTES_MAX: u64 = 64 << 20;

/// What to do about damage.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnDamage {
    /// Stop at the first.
    Stop,
    /// Take what is sound, say what is not.
    KeepGoing,
}

/// A content: where its plain bytes lie within the plain bytes of a resource.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Blob {
    pub hash: Sha1,
    pub plain_bytes: u64,
    /// Place in `resources`.
    pub resource: usize,
    pub offset: u64,
    pub references: u32,
}

/// One file of a split set, or the only one.
pub struct Part {
    pub path: PathBuf,
    pub source: FileAt,
    pub header: Header,
}

pub struct Wim {
    pub parts: Vec<Part>,
    pub compression: Compression,
    pub images: Vec<ImageInfo>,
    pub resources: Vec<Resource>,
    pub blobs: Vec<Blob>,
    by_hash: HashMap<Sha1, usize>,
    /// The metadata resource of each image, by index less one, with the SHA-1 of its plain bytes.
    pub metadata: Vec<(Resource, Sha1)>,
    /// Damage that was passed over, with its offset.
    pub faults: Vec<Error>,
}

impl Wim {
    /// Opens the WIM at `path`, and with it the other parts of a split set, found beside it by their names.
    pub fn open(path: &Path, on_damage: OnDamage) -> Result<Wim, Error> {
        let first = Part::open(path)?;
        let compression = first.header.compression()?;
        let (parts, missing) = open_siblings(path, first);
        let mut wim = Wim {
            parts,
            compression,
            images: Vec::new(),
            resources: Vec::new(),
            blobs: Vec::new(),
            by_hash: HashMap::new(),
            metadata: Vec::new(),
            faults: Vec::new(),
        };
        for fault in missing {
            wim.pass_over(Err(fault), on_damage)?;
        }
        for part in 0..wim.parts.len() {
            let read = wim.read_blob_table(part);
            wim.pass_over(read, on_damage)?;
        }
        let overlap = wim.find_overlap();
        wim.pass_over(overlap, on_damage)?;
        let read = wim.read_images();
        wim.pass_over(read, on_damage)?;
        Ok(wim)
    }

    pub fn header(&self) -> &Header {
        &self.parts[0].header
    }

    pub fn image_count(&self) -> u32 {
        self.metadata.len() as u32
    }

    pub fn blob(&self, hash: &Sha1) -> Option<&Blob> {
        self.by_hash.get(hash).map(|place| &self.blobs[*place])
    }

    pub fn blob_place(&self, hash: &Sha1) -> Option<usize> {
        self.by_hash.get(hash).copied()
    }

    /// Finds an image by its number or by its name; its index, from 1.
    pub fn find_image(&self, wanted: &str) -> Result<u32, Error> {
        let by_number = wanted.parse().ok().filter(|index| (1..=self.image_count()).contains(index));
        let by_name = || self.images.iter().find(|image| image.name == wanted).map(|image| image.index);
        let missing = || Error::NoImage { wanted: wanted.to_owned(), images: self.image_count() };
        by_number.or_else(by_name).ok_or_else(missing)
    }

    /// The files of image `index` (from 1). With `KeepGoing` also what is wrong with them.
    pub fn tree(&self, index: u32, on_damage: OnDamage) -> Result<(Tree, Vec<Fault>), Error> {
        let missing = || Error::NoImage { wanted: index.to_string(), images: self.image_count() };
        let place = (index as usize).checked_sub(1).ok_or_else(missing)?;
        let (resource, hash) = self.metadata.get(place).ok_or_else(missing)?;
        let bytes = self.read_checked(resource, *hash, on_damage)?;
        let (tree, faults) = metadata::parse(&bytes);
        match faults.first() {
            Some(fault) if on_damage == OnDamage::Stop || tree.entries.is_empty() => {
                Err(Error::Metadata { image: index, offset: fault.offset, len: bytes.len(), what: fault.what })
            }
            _ => Ok((tree, faults)),
        }
    }

    fn read_checked(&self, resource: &Resource, hash: Sha1, on_damage: OnDamage) -> Result<Vec<u8>, Error> {
        let bytes = read_whole(&self.parts[resource.part].source, resource, METADATA_BYTES_MAX, "metadata")?;
        let found = Sha1(sha1::Sha1::digest(&bytes).into());
        if found != hash && on_damage == OnDamage::Stop {
            return Err(Error::Content { expected: hash, found, offset: resource.offset });
        }
        Ok(bytes)
    }

    fn pass_over(&mut self, result: Result<(), Error>, on_damage: OnDamage) -> Result<(), Error> {
        match (result, on_damage) {
            (Err(error), OnDamage::Stop) => return Err(error),
            (Err(error), OnDamage::KeepGoing) => self.faults.push(error),
            (Ok(()), _) => {}
        }
        Ok(())
    }

    /// The rows of a part's blob table that are about this part: some writers list those of the others, too.
    pub(super) fn rows(&self, part: usize) -> Result<Vec<BlobEntry>, Error> {
        let header = &self.parts[part].header;
        if header.blob_table.plain_bytes == 0 {
            return Ok(Vec::new());
        }
        let table = self.header_resource(part, &header.blob_table)?;
        let bytes = read_whole(&self.parts[part].source, &table, BLOB_TABLE_BYTES_MAX, "a blob table")?;
        let mut rows = format::blob_table(&bytes);
        rows.retain(|row| row.part == header.part || row.part == 0);
        Ok(rows)
    }

    fn read_blob_table(&mut self, part: usize) -> Result<(), Error> {
        let mut run = SolidRun::default();
        self.rows(part)?.iter().try_for_each(|row| self.take_entry(part, row, &mut run))
    }

    fn take_entry(&mut self, part: usize, entry: &BlobEntry, run: &mut SolidRun) -> Result<(), Error> {
        if entry.is_solid_resource() {
            if std::mem::take(&mut run.in_blobs) {
                run.resources.clear();
            }
            let resource = Resource::solid(&entry.resource, part, &self.parts[part].source)?;
            run.resources.push((self.resources.len(), resource.plain_bytes));
            self.resources.push(resource);
            return Ok(());
        }
        if entry.resource.is_solid() {
            run.in_blobs = true;
            let (resource, offset) = run.place(&entry.resource)?;
            self.add_blob(entry, resource, offset, entry.resource.stored_bytes);
            return Ok(());
        }
        let resource = self.header_resource(part, &entry.resource)?;
        if entry.resource.is_metadata() {
            // A metadata resource of an image that was deleted has no references.
            if entry.references > 0 {
                self.metadata.push((resource, entry.hash));
            }
        } else if resource.plain_bytes > 0 {
            self.resources.push(resource);
            self.add_blob(entry, self.resources.len() - 1, 0, resource.plain_bytes);
        }
        Ok(())
    }

    fn add_blob(&mut self, entry: &BlobEntry, resource: usize, offset: u64, plain_bytes: u64) {
        let place = self.blobs.len();
        self.blobs.push(Blob { hash: entry.hash, plain_bytes, resource, offset, references: entry.references });
        self.by_hash.entry(entry.hash).or_insert(place);
    }

    fn header_resource(&self, part: usize, header: &ResourceHeader) -> Result<Resource, Error> {
        let own = &self.parts[part];
        let compression = own.header.compression()?;
        Resource::new(header, part, own.source.size(), own.header.pipable, compression, own.header.chunk_bytes)
    }

    /// Two resources that share bytes are no accident that a writer makes.
    fn find_overlap(&self) -> Result<(), Error> {
        let metadata = self.metadata.iter().map(|(resource, _)| resource);
        let mut all: Vec<_> = self.resources.iter().chain(metadata).collect();
        all.sort_unstable_by_key(|resource| (resource.part, resource.offset));
        match all.windows(2).find(|pair| {
            pair[0].part == pair[1].part
                && pair[0].offset + pair[0].stored_bytes > pair[1].offset
                && pair[0].offset != pair[1].offset
        }) {
            Some(pair) => Err(Error::Format { offset: pair[1].offset, what: "two resources overlap" }),
            None => Ok(()),
        }
    }

    fn read_images(&mut self) -> Result<(), Error> {
        let header = self.header().clone();
        if header.images as usize != self.metadata.len() {
            let what = "the header counts other images than the blob table has metadata for";
            return Err(Error::Format { offset: 44, what });
        }
        if header.xml.plain_bytes > 0 {
            let resource = self.header_resource(0, &header.xml)?;
            let bytes = read_whole(&self.parts[0].source, &resource, XML_BYTES_MAX, "XML")?;
            self.images = xml::parse(&bytes)?;
        }
        self.images.retain(|image| (1..=header.images).contains(&image.index));
        for index in 1..=header.images {
            if self.images.iter().all(|image| image.index != index) {
                self.images.push(ImageInfo { index, ..ImageInfo::default() });
            }
        }
        self.images.sort_by_key(|image| image.index);
        self.images.dedup_by_key(|image| image.index);
        Ok(())
    }

    /// The integrity table of a part, with what it covers: from the end of the header to the end of the blob table.
    pub fn integrity(&self, part: usize) -> Result<Option<(IntegrityTable, std::ops::Range<u64>)>, Error> {
        let part = &self.parts[part];
        let (place, table) = (&part.header.integrity, &part.header.blob_table);
        if place.stored_bytes == 0 {
            return Ok(None);
        }
        let len = bounded(place.stored_bytes, INTEGRITY_BYTES_MAX, "an integrity table")?;
        let mut bytes = vec![0; len];
        resource::read(&part.source, &mut bytes, place.offset)?;
        let end = table.offset.saturating_add(table.stored_bytes).min(part.source.size());
        let range = format::HEADER_BYTES as u64..end;
        let integrity = IntegrityTable::parse(&bytes, place.offset)?;
        if (range.end.saturating_sub(range.start)).div_ceil(u64::from(integrity.piece_bytes))
            != integrity.hashes.len() as u64
        {
            let what = "the integrity table has another number of pieces than the file";
            return Err(Error::Format { offset: place.offset, what });
        }
        Ok(Some((integrity, range)))
    }
}

/// A run of solid resources, in whose joined plain content the blobs after it have their offsets.
#[derive(Default)]
struct SolidRun {
    /// Places in the list of resources, and plain lengths.
    resources: Vec<(usize, u64)>,
    in_blobs: bool,
}

impl SolidRun {
    fn place(&self, header: &ResourceHeader) -> Result<(usize, u64), Error> {
        let mut offset = header.offset;
        for (resource, plain_bytes) in &self.resources {
            if offset < *plain_bytes {
                let fits = header.stored_bytes <= plain_bytes - offset;
                let what = "a blob goes beyond the end of its solid resource";
                return if fits { Ok((*resource, offset)) } else { Err(Error::Format { offset: header.offset, what }) };
            }
            offset -= plain_bytes;
        }
        Err(Error::Format { offset: header.offset, what: "a blob lies in no solid resource" })
    }
}

impl Part {
    fn open(path: &Path) -> Result<Part, Error> {
        let opened = File::open(path).and_then(FileAt::new);
        let source = opened.map_err(|source| Error::Open { path: path.to_owned(), source })?;
        let mut bytes = [0; format::HEADER_BYTES];
        resource::read(&source, &mut bytes, 0)?;
        let mut header = Header::parse(&bytes, 0)?;
        if header.pipable {
            // The first header of a pipable file was written before anything was known; the last bytes repeat it.
            let offset = source.size().saturating_sub(format::HEADER_BYTES as u64);
            resource::read(&source, &mut bytes, offset)?;
            header = Header::parse(&bytes, offset)?;
        }
        Ok(Part { path: path.to_owned(), source, header })
    }
}

/// `x.swm` is followed by `x2.swm`, `x3.swm`, ...; any of them may be the one that was named. Returns the parts in order and
/// what is wrong with those that are not there.
fn open_siblings(path: &Path, named: Part) -> (Vec<Part>, Vec<Error>) {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let (number, count) = (named.header.part, named.header.parts);
    let base = stem.strip_suffix(&number.to_string()).filter(|_| number > 1).unwrap_or(&stem);
    let extension = path.extension().unwrap_or_default().to_string_lossy();
    let guid = named.header.guid;
    let (mut parts, mut missing) = (BTreeMap::from([(number, named)]), Vec::new());
    for part in (1..=count).filter(|part| *part != number) {
        let suffix = if part == 1 { String::new() } else { part.to_string() };
        match open_sibling(&path.with_file_name(format!("{base}{suffix}.{extension}")), guid, part, count) {
            Ok(opened) => drop(parts.insert(part, opened)),
            Err(error) => missing.push(error),
        }
    }
    (parts.into_values().collect(), missing)
}

fn open_sibling(path: &Path, guid: [u8; 16], part: u16, parts: u16) -> Result<Part, Error> {
    if !path.exists() {
        return Err(Error::PartMissing { part, parts });
    }
    let opened = Part::open(path)?;
    let fault = |what| Err(Error::Part { path: path.to_owned(), part, parts, what });
    match (opened.header.guid == guid, (opened.header.part, opened.header.parts) == (part, parts)) {
        (false, _) => fault("it belongs to another set"),
        (_, false) => fault("it is another part"),
        _ => Ok(opened),
    }
}

fn bounded(bytes: u64, limit: u64, what: &'static str) -> Result<usize, Error> {
    if bytes > limit {
        return Err(Error::TooLarge { what, bytes, limit });
    }
    Ok(bytes as usize)
}

/// All plain bytes of a resource of at most `limit` bytes.
pub(super) fn read_whole(
    source: &impl ReadAt,
    resource: &Resource,
    limit: u64,
    what: &'static str,
) -> Result<Vec<u8>, Error> {
    let len = bounded(resource.plain_bytes, limit, what)?;
    let table = resource.chunks(source)?;
    let at = |error| Error::Chunk { offset: resource.offset, source: error };
    let mut decompressor = Decompressor::new(resource.compression, resource.chunk_bytes as usize).map_err(at)?;
    let mut plain = Vec::new();
    let mut stored = Vec::new();
    for chunk in table.chunks() {
        // Grown chunk by chunk, so that a file must hold chunks for all that it claims.
        stored.resize(chunk.stored_bytes as usize, 0);
        resource::read(source, &mut stored, chunk.offset)?;
        let start = plain.len();
        plain.resize((start + chunk.plain_bytes as usize).min(len), 0);
        let decompressed = decompressor.decompress(&stored, &mut plain[start..]);
        decompressed.map_err(|source| Error::Chunk { offset: chunk.offset, source })?;
    }
    Ok(plain)
}
