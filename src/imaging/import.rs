//! A file or a disk becomes a published version of an image.

use std::fs::File;
use std::ops::Range;
use std::path::Path;

use crate::access::signing::SigningKey;
use crate::imaging::capture::{Content, capture};
use crate::imaging::chunk::ChunkId;
#[cfg(feature = "server")]
use crate::imaging::disk::container::{Format, Opened};
use crate::imaging::disk::table::{Kind as PartitionKind, Table};
use crate::imaging::error::Error;
use crate::imaging::fs::{Treatment, Used, Volume, used_ranges};
use crate::imaging::manifest::{Header, Kind, Manifest, Partition, Signed, VersionId};
use crate::imaging::store::local::LocalStore;
use crate::imaging::store::upload::Upload;
use crate::imaging::store::versions::{Version, check_name};
use crate::stdx::io::{FileAt, ReadAt};
use crate::stdx::monitor::Progress;
use crate::stdx::sparse::data_ranges;
use crate::stdx::time::Timestamp;

/// What is to become an image; it is only ever read.
pub struct Source {
    pub content: Box<dyn ReadAt>,
    /// What is stored of it, sorted; the rest reads as zero. `None` when that is not known.
    pub stored: Option<Vec<Range<u64>>>,
    /// Where it comes from, in words.
    pub description: String,
    pub remarks: Vec<String>,
}

impl Source {
    /// A file or a device, as its bytes are.
    pub fn raw(path: &Path) -> Result<Source, Error> {
        let file = File::open(path).and_then(FileAt::new).map_err(Error::read(path.display()))?;
        let stored = data_ranges(file.file(), file.size()).map_err(Error::read(path.display()))?;
        let description = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Source { content: Box::new(file), stored: Some(stored), description, remarks: Vec::new() })
    }

    /// The disk inside of a container that was opened from `path`.
    #[cfg(feature = "server")]
    pub fn opened(opened: Opened, path: &Path) -> Source {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let description = match opened.format {
            Format::Raw => name,
            format => format!("{name} ({})", format.name()),
        };
        Source { content: opened.content, stored: opened.stored, description, remarks: opened.warnings }
    }
}

/// Where versions go and who signs them.
pub struct Importer<'a> {
    pub store: &'a LocalStore,
    pub key: &'a SigningKey,
    pub now: Timestamp,
    pub progress: &'a Progress,
}

/// What an import came to.
#[derive(Clone, Debug)]
pub struct Imported {
    pub version: Version,
    pub id: VersionId,
    pub manifest: Manifest,
    /// Bytes that the store grew by.
    pub stored_bytes: u64,
    /// False when the newest version holds exactly this already; then that is `version`.
    pub is_new: bool,
}

impl Importer<'_> {
    /// A disk, or a partition: only what its file systems use.
    pub fn disk(&self, name: &str, source: Source) -> Result<Imported, Error> {
        check_name(name)?;
        let (header, content) = disk_content(&source, self.now)?;
        self.take(name, &source, content, header)
    }

    /// The bytes of one file: the payload of a package.
    pub fn file(&self, name: &str, source: Source) -> Result<Imported, Error> {
        check_name(name)?;
        let size = source.content.size();
        let content = match source.stored.clone() {
            Some(stored) => Content::with_holes(stored, size),
            None => Content::whole(size),
        };
        self.take(name, &source, content, header(Kind::File, size, &source, self.now))
    }

    fn take(&self, name: &str, source: &Source, content: Content, header: Header) -> Result<Imported, Error> {
        let mut upload = self.store.upload()?;
        let manifest = capture(&*source.content, content, header, &mut upload, self.progress)?;
        self.publish(name, manifest, upload)
    }

    /// Signs and publishes `manifest`, whose chunks `upload` took, unless the newest version is that already.
    pub(in crate::imaging) fn publish(
        &self,
        name: &str,
        manifest: Manifest,
        upload: Upload<'_>,
    ) -> Result<Imported, Error> {
        let stored_bytes = upload.stored_bytes();
        if let Some((version, id)) = self.same(name, &manifest)? {
            return Ok(Imported { version, id, manifest, stored_bytes, is_new: false });
        }
        let signed = Signed::sign(&manifest, self.key);
        let chunks: Vec<ChunkId> = manifest.extents.iter().map(|extent| extent.chunk).collect();
        let version = upload.publish(name, &signed, &chunks)?;
        Ok(Imported { version, id: signed.version(), manifest, stored_bytes, is_new: true })
    }

    /// The newest version of `name`, if it has the content of `manifest`.
    pub(super) fn same(&self, name: &str, manifest: &Manifest) -> Result<Option<(Version, VersionId)>, Error> {
        let Some(newest) = self.store.versions(name)?.pop() else { return Ok(None) };
        let signed = self.store.manifest(&newest)?;
        let Ok(old) = signed.verify(&self.key.public()) else { return Ok(None) };
        let same_header =
            Header { created: manifest.header.created, source: manifest.header.source.clone(), ..old.header };
        let same = same_header == manifest.header && old.extents == manifest.extents && old.zeros == manifest.zeros;
        Ok(same.then(|| (newest, signed.version())))
    }
}

/// What of a disk, or a partition, becomes an image: what its file systems use.
pub fn disk_content(source: &Source, now: Timestamp) -> Result<(Header, Content), Error> {
    let used = used_ranges(&*source.content)
        .map_err(|error| Error::NoDisk { what: source.description.clone(), reason: error.to_string() })?;
    let header = disk_header(&used, source, now);
    let ranges = split(used.ranges, last_partition_end(&used.volumes));
    let content = match &source.stored {
        Some(stored) => Content::of_used(&ranges, stored, used.size),
        None => Content { used: ranges, zeros: Vec::new() },
    };
    Ok((header, content))
}

fn header(kind: Kind, size: u64, source: &Source, created: Timestamp) -> Header {
    Header {
        kind,
        size,
        sector_bytes: 512,
        created,
        needed_bytes: 0,
        source: source.description.clone(),
        partitions: Vec::new(),
        remarks: source.remarks.clone(),
        tree: None,
    }
}

fn disk_header(used: &Used, source: &Source, created: Timestamp) -> Header {
    let mut header = header(Kind::Disk, used.size, source, created);
    header.remarks.extend(used.warnings.iter().cloned());
    header.partitions = used.volumes.iter().map(|volume| partition(volume, used.table.as_ref())).collect();
    match &used.table {
        Some(Table::Gpt(gpt)) => {
            header.sector_bytes = gpt.sector_bytes as u32;
            header.needed_bytes = last_partition_end(&used.volumes) + gpt.front_bytes();
        }
        Some(Table::Mbr(mbr)) => {
            header.sector_bytes = mbr.sector_bytes as u32;
            header.needed_bytes = last_partition_end(&used.volumes);
        }
        None => {}
    }
    header
}

fn last_partition_end(volumes: &[Volume]) -> u64 {
    volumes.iter().map(|volume| volume.start + volume.bytes).max().unwrap_or(0)
}

fn partition(volume: &Volume, table: Option<&Table>) -> Partition {
    let entry = table.and_then(|table| table.partitions().into_iter().find(|entry| entry.number == volume.number));
    let (type_id, name) = match entry {
        Some(entry) => {
            let type_id = match entry.kind {
                PartitionKind::Gpt(guid) => guid.to_string(),
                PartitionKind::Mbr(byte) => format!("{byte:02x}"),
            };
            (type_id, entry.name)
        }
        None => (String::new(), String::new()),
    };
    let free = match &volume.treatment {
        Treatment::UsedOnly { free_bytes } => *free_bytes,
        _ => 0,
    };
    Partition {
        number: volume.number,
        start: volume.start,
        size: volume.bytes,
        type_id,
        name,
        filesystem: volume.probed.kind.name().to_owned(),
        label: volume.probed.label.clone(),
        uuid: volume.probed.uuid.clone(),
        used_bytes: volume.bytes.saturating_sub(free),
    }
}

/// Cuts the range that crosses `at`: no chunk lies on both sides of the end of the last partition, so that what is behind
/// it can be left out on a smaller disk.
fn split(ranges: Vec<Range<u64>>, at: u64) -> Vec<Range<u64>> {
    let halves = |range: Range<u64>| {
        let middle = at.clamp(range.start, range.end);
        [range.start..middle, middle..range.end]
    };
    ranges.into_iter().flat_map(halves).filter(|range| range.start < range.end).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::imaging::apply::{Options, make_match};
    use crate::imaging::target::Target;
    use std::os::unix::fs::FileExt;

    #[test]
    fn no_range_crosses_the_end_of_the_last_partition() {
        assert_eq!(split(vec![0..10, 20..40], 30), [0..10, 20..30, 30..40]);
        assert_eq!(split(vec![0..10, 20..40], 20), [0..10, 20..40]);
        assert_eq!(split(vec![0..10, 20..40], 99), [0..10, 20..40]);
    }

    #[test]
    fn a_payload_that_was_imported_comes_back_and_is_not_published_twice() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("payload");
        let bytes: Vec<u8> = (0..300_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        std::fs::write(&path, &bytes).unwrap();
        File::options().write(true).open(&path).unwrap().set_len(5_000_000).unwrap();
        let store = LocalStore::create(&folder.path().join("store")).unwrap();
        let key = SigningKey::create(&folder.path().join("key")).unwrap();
        let progress = Progress::default();
        let import = |now| {
            let now = Timestamp::from_milliseconds(now);
            let importer = Importer { store: &store, key: &key, now, progress: &progress };
            importer.file("payload", Source::raw(&path).unwrap()).unwrap()
        };
        let (first, second) = (import(1), import(2));
        assert!(first.is_new && !second.is_new);
        assert_eq!((first.id, first.version), (second.id, second.version));
        assert_eq!(second.stored_bytes, 0);
        let out = folder.path().join("out");
        let target = Target::open(&out).unwrap();
        make_match(&first.manifest, &store, &target, &Options::default(), &progress, &mut |_| {}).unwrap();
        assert!(std::fs::read(&out).unwrap() == std::fs::read(&path).unwrap());
        File::options().write(true).open(&path).unwrap().write_all_at(b"changed", 77).unwrap();
        assert!(import(3).is_new);
    }
}
