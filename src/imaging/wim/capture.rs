//! Reads a Linux tree into a WIM: names and metadata first, then contents, a batch of segments at a time on all cores.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use sha1::Digest;

use super::codec::{Compression, Compressor};
use super::error::Error;
use super::format::Sha1;
use super::metadata;
use super::reparse;
use super::tree::{
    ATTRIBUTE_DIRECTORY, ATTRIBUTE_NORMAL, ATTRIBUTE_REPARSE_POINT, Entry, REPARSE_TAG_SYMLINK, Reparse, Tree,
    UnixData, Xattr, name_units,
};
use super::writer::{Packed, Writer, compressor, pack};
use super::xml::ImageInfo;
use crate::stdx::io::ReadAt;
use crate::stdx::monitor::Progress;
use crate::stdx::xattr;

/// Plain bytes that one thread takes at a time; a whole number of chunks.
const SEGMENT_BYTES: u64 = 1 << 20;
/// Segments between two rounds of writing; what they hold is the memory that a capture takes.
const BATCH_SEGMENTS: usize = 48;

pub struct Options<'a> {
    pub compression: Compression,
    /// Patterns (`*`, `?`) of paths from the root of the tree, such as `/proc/*`.
    pub exclude: &'a [String],
    pub name: String,
    /// 100 ns units since 1601.
    pub now: u64,
    pub guid: [u8; 16],
    pub workers: usize,
}

#[derive(Debug, Default)]
pub struct Report {
    pub folders: u64,
    pub files: u64,
    pub bytes: u64,
    pub excluded: u64,
    /// Length of the file.
    pub stored_bytes: u64,
}

/// Captures `folder` into a new WIM at `file`, with one image.
pub fn capture(folder: &Path, file: &Path, options: &Options<'_>, progress: &Progress) -> Result<Report, Error> {
    let Scanned { mut tree, sources, mut report } = scan(folder, options.exclude)?;
    Progress::add(&progress.total_bytes, sources.iter().map(Source::bytes).sum());
    let mut writer = Writer::create(file, options.compression)?;
    let hashes = write_contents(&mut writer, &sources, options, progress)?;
    let mut hard_link_bytes = 0;
    for (source, hash) in sources.iter().zip(hashes) {
        source.name_in(&mut tree, hash);
        for _ in source.places.iter().skip(1) {
            hard_link_bytes += source.bytes();
            writer.refer(&hash);
        }
    }
    let image = ImageInfo {
        index: 1,
        name: options.name.clone(),
        folders: report.folders,
        files: report.files,
        bytes: report.bytes,
        hard_link_bytes,
        created: options.now,
        modified: options.now,
        ..ImageInfo::default()
    };
    report.stored_bytes = writer.finish(&metadata::emit(&tree), &image, options.guid)?;
    Ok(report)
}

/// Writes the image `tree`, whose contents are `sources` and named in it already, into a new WIM at `file`.
pub fn write(
    file: &Path,
    tree: &Tree,
    sources: &[Source<'_>],
    image: &ImageInfo,
    options: &Options<'_>,
    progress: &Progress,
) -> Result<u64, Error> {
    Progress::add(&progress.total_bytes, sources.iter().map(Source::bytes).sum());
    let mut writer = Writer::create(file, options.compression)?;
    let hashes = write_contents(&mut writer, sources, options, progress)?;
    for (found, expected) in hashes.iter().zip(sources).filter_map(|(found, source)| Some((*found, source.hash?))) {
        if found != expected {
            return Err(Error::Content { expected, found, offset: 0 });
        }
    }
    let mut written: HashSet<Sha1> = hashes.into_iter().collect();
    for hash in tree.contents() {
        // The first name of a content came with it.
        if !written.remove(&hash) {
            writer.refer(&hash);
        }
    }
    writer.finish(&metadata::emit(tree), image, options.guid)
}

/// A content to be captured and the entries that have it.
pub struct Source<'a> {
    pub places: Vec<usize>,
    pub kind: Kind<'a>,
    /// What it must hash to, where that is known.
    pub hash: Option<Sha1>,
}

pub enum Kind<'a> {
    File {
        path: PathBuf,
        bytes: u64,
    },
    Memory(Vec<u8>),
    /// A run of something else.
    At {
        source: &'a dyn ReadAt,
        offset: u64,
        bytes: u64,
    },
}

impl Source<'_> {
    pub fn bytes(&self) -> u64 {
        match &self.kind {
            Kind::File { bytes, .. } | Kind::At { bytes, .. } => *bytes,
            Kind::Memory(data) => data.len() as u64,
        }
    }

    /// Enters the hash of the content where it belongs.
    pub fn name_in(&self, tree: &mut Tree, hash: Sha1) {
        for place in &self.places {
            let entry = &mut tree.entries[*place];
            match &mut entry.reparse {
                Some(reparse) => reparse.data = hash,
                None => entry.content = hash,
            }
        }
    }
}

/// What a folder holds: names and all that is no content, and where the contents are.
pub struct Scanned {
    pub tree: Tree,
    pub sources: Vec<Source<'static>>,
    pub report: Report,
}

/// Reads names and metadata of all that is in `folder` but for what the patterns `exclude`.
pub fn scan(folder: &Path, exclude: &[String]) -> Result<Scanned, Error> {
    let mut scan =
        Scan { exclude, tree: Tree::default(), sources: Vec::new(), inodes: HashMap::new(), report: Report::default() };
    scan.scan(folder)?;
    Ok(Scanned { tree: scan.tree, sources: scan.sources, report: scan.report })
}

struct Scan<'a> {
    exclude: &'a [String],
    tree: Tree,
    sources: Vec<Source<'static>>,
    /// Files with several names: their source, by device and inode.
    inodes: HashMap<(u64, u64), (u64, Option<usize>)>,
    report: Report,
}

impl Scan<'_> {
    fn scan(&mut self, folder: &Path) -> Result<(), Error> {
        let stat = fs::metadata(folder).map_err(|source| Error::Source { path: folder.to_owned(), source })?;
        if !stat.is_dir() {
            return Err(Error::Capture { path: folder.to_owned(), what: "it is not a folder" });
        }
        let root = entry(folder, &stat, 0, Vec::new())?;
        self.tree.entries.push(root);
        let mut folders = std::collections::VecDeque::from([(0, folder.to_owned(), String::new())]);
        while let Some((parent, path, inner)) = folders.pop_front() {
            self.report.folders += 1;
            let read = fs::read_dir(&path)
                .and_then(|names| names.map(|name| Ok(name?.file_name())).collect::<io::Result<Vec<_>>>());
            let mut names = read.map_err(|source| Error::Source { path: path.clone(), source })?;
            names.sort();
            for name in names {
                let (path, inner) = (path.join(&name), format!("{inner}/{}", name.to_string_lossy()));
                if self.exclude.iter().any(|pattern| matches(pattern.as_bytes(), inner.as_bytes())) {
                    self.report.excluded += 1;
                    continue;
                }
                let place = self.tree.entries.len();
                if self.take(parent, &path, &name)? {
                    folders.push_back((place, path, inner));
                }
            }
        }
        Ok(())
    }

    /// Takes one name in; whether it is a folder.
    fn take(&mut self, parent: usize, path: &Path, name: &OsStr) -> Result<bool, Error> {
        let stat = fs::symlink_metadata(path).map_err(|source| Error::Source { path: path.to_owned(), source })?;
        let units = name_units(name.as_bytes()).filter(|units| units.len() <= usize::from(u16::MAX) / 2);
        let units = units.ok_or(Error::Capture {
            path: path.to_owned(),
            what: "its name is not UTF-8, and a WIM holds nothing else",
        })?;
        let mut entry = entry(path, &stat, parent, units)?;
        let place = self.tree.entries.len();
        if !stat.is_dir() {
            self.report.files += 1;
            self.content(path, &stat, place, &mut entry)?;
        }
        self.tree.entries.push(entry);
        Ok(stat.is_dir())
    }

    fn content(&mut self, path: &Path, stat: &Metadata, place: usize, entry: &mut Entry) -> Result<(), Error> {
        self.report.bytes += stat.len();
        if stat.nlink() > 1 && !stat.is_symlink() {
            let next_group = self.inodes.len() as u64 + 1;
            let (group, source) = self.inodes.entry((stat.dev(), stat.ino())).or_insert((next_group, None));
            entry.link_group = *group;
            if let Some(source) = source {
                self.sources[*source].places.push(place);
                return Ok(());
            }
            *source = (stat.is_file() && stat.len() > 0).then_some(self.sources.len());
        }
        let kind = if stat.is_symlink() {
            let target = fs::read_link(path).map_err(|source| Error::Source { path: path.to_owned(), source })?;
            let data = reparse::link_data(target.as_os_str().as_bytes());
            Kind::Memory(data.ok_or(Error::Capture { path: path.to_owned(), what: "its target is not UTF-8" })?)
        } else if stat.is_file() && stat.len() > 0 {
            Kind::File { path: path.to_owned(), bytes: stat.len() }
        } else {
            return Ok(());
        };
        self.sources.push(Source { places: vec![place], kind, hash: None });
        Ok(())
    }
}

/// All of an entry but its content.
fn entry(path: &Path, stat: &Metadata, parent: usize, name: Vec<u16>) -> Result<Entry, Error> {
    let kind = stat.file_type();
    let is_special = kind.is_fifo() || kind.is_socket() || kind.is_block_device() || kind.is_char_device();
    let written = windows_time(stat.mtime(), stat.mtime_nsec());
    Ok(Entry {
        parent,
        name,
        attributes: match () {
            () if kind.is_dir() => ATTRIBUTE_DIRECTORY,
            () if kind.is_symlink() => ATTRIBUTE_REPARSE_POINT,
            () if is_special => 0,
            () => ATTRIBUTE_NORMAL,
        },
        created: written,
        accessed: windows_time(stat.atime(), stat.atime_nsec()),
        written,
        // Flag 1: the target is as it was found.
        reparse: kind.is_symlink().then_some(Reparse { tag: REPARSE_TAG_SYMLINK, flags: 1, ..Reparse::default() }),
        unix: Some(UnixData {
            uid: stat.uid(),
            gid: stat.gid(),
            mode: stat.mode(),
            device: if is_special { stat.rdev() as u32 } else { 0 },
        }),
        xattrs: xattrs(path)?,
        ..Entry::default()
    })
}

/// A file system without attributes has none.
fn xattrs(path: &Path) -> Result<Vec<Xattr>, Error> {
    let names = match xattr::names_at(path) {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Vec::new(),
        names => names.map_err(|source| Error::Source { path: path.to_owned(), source })?,
    };
    let mut xattrs = Vec::new();
    for name in names {
        let value = xattr::value_at(path, &name).map_err(|source| Error::Source { path: path.to_owned(), source })?;
        if value.len() > usize::from(u16::MAX) {
            return Err(Error::Capture {
                path: path.to_owned(),
                what: "an extended attribute is longer than a WIM holds",
            });
        }
        xattrs.push(Xattr { name: name.into_bytes(), value, flags: 0 });
    }
    Ok(xattrs)
}

fn windows_time(seconds: i64, nanoseconds: i64) -> u64 {
    let ticks = (i128::from(seconds) + 11_644_473_600) * 10_000_000 + i128::from(nanoseconds / 100);
    u64::try_from(ticks.max(0)).unwrap_or(u64::MAX)
}

/// `*` stands for any run of characters, `?` for one.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(byte) if *byte == b'?' || *byte == text[t] => {
                p += 1;
                t += 1;
            }
            _ => {
                let Some((from, at)) = star else { return false };
                star = Some((from, at + 1));
                p = from + 1;
                t = at + 1;
            }
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

/// A run of a source, as one thread takes it.
struct Segment {
    source: usize,
    offset: u64,
    len: usize,
}

/// What became of it. `plain` is kept where it is still needed: for hashing in order, for storing as it is.
struct Work {
    plain: Vec<u8>,
    packed: Packed,
    /// The hash of a source that is one segment.
    hash: Option<Sha1>,
}

/// Writes the contents and returns their hashes, in the order of `sources`.
fn write_contents(
    writer: &mut Writer,
    sources: &[Source<'_>],
    options: &Options<'_>,
    progress: &Progress,
) -> Result<Vec<Sha1>, Error> {
    let mut segments = sources.iter().enumerate().flat_map(|(source, content)| {
        let bytes = content.bytes();
        (0..bytes.div_ceil(SEGMENT_BYTES)).map(move |number| {
            let offset = number * SEGMENT_BYTES;
            Segment { source, offset, len: (bytes - offset).min(SEGMENT_BYTES) as usize }
        })
    });
    let mut hashes = Vec::with_capacity(sources.len());
    let mut open = None;
    loop {
        let batch = next_batch(&mut segments);
        if batch.is_empty() {
            return Ok(hashes);
        }
        let works = work_batch(&batch, sources, writer, options)?;
        for (segment, work) in batch.iter().zip(works) {
            Progress::add(&progress.done_bytes, segment.len as u64);
            let total = sources[segment.source].bytes();
            if let Some(hash) = work.hash {
                match writer.has(&hash) {
                    true => writer.refer(&hash),
                    false => writer.whole(&work.plain, &work.packed, hash)?,
                }
                hashes.push(hash);
                continue;
            }
            let (mut content, mut hasher) = open.take().unwrap_or_else(|| (writer.begin(total), sha1::Sha1::new()));
            hasher.update(&work.plain);
            writer.append(&mut content, &work.packed)?;
            if segment.offset + segment.len as u64 == total {
                let hash = Sha1(hasher.finalize().into());
                writer.end(content, hash)?;
                hashes.push(hash);
            } else {
                open = Some((content, hasher));
            }
        }
    }
}

/// Segments that together hold no more than `BATCH_SEGMENTS` full ones.
fn next_batch(segments: &mut impl Iterator<Item = Segment>) -> Vec<Segment> {
    let mut bytes = 0;
    let mut batch = Vec::new();
    while bytes < BATCH_SEGMENTS * SEGMENT_BYTES as usize {
        let Some(segment) = segments.next() else { break };
        bytes += segment.len;
        batch.push(segment);
    }
    batch
}

fn work_batch(
    batch: &[Segment],
    sources: &[Source<'_>],
    writer: &Writer,
    options: &Options<'_>,
) -> Result<Vec<Work>, Error> {
    let next = AtomicUsize::new(0);
    let worker = || {
        let mut compressor = compressor(options.compression)?;
        let mut done = Vec::new();
        loop {
            let number = next.fetch_add(1, Relaxed);
            let Some(segment) = batch.get(number) else { return Ok(done) };
            done.push((number, work(segment, &sources[segment.source], writer, options.compression, &mut compressor)?));
        }
    };
    let mut works: Vec<(usize, Work)> = Vec::with_capacity(batch.len());
    std::thread::scope(|scope| {
        let handles: Vec<_> = (0..options.workers.max(1)).map(|_| scope.spawn(worker)).collect();
        for handle in handles {
            let done: Result<Vec<_>, Error> = handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            works.extend(done?);
        }
        Ok(())
    })?;
    works.sort_by_key(|(number, _)| *number);
    Ok(works.into_iter().map(|(_, work)| work).collect())
}

fn work(
    segment: &Segment,
    source: &Source<'_>,
    writer: &Writer,
    compression: Compression,
    compressor: &mut Compressor,
) -> Result<Work, Error> {
    let plain = read_segment(segment, source)?;
    let is_whole = segment.len as u64 == source.bytes();
    let hash = is_whole.then(|| Sha1(sha1::Sha1::digest(&plain).into()));
    let packed = match compression {
        _ if hash.is_some_and(|hash| writer.has(&hash)) => Packed::default(),
        Compression::None if is_whole => Packed::default(),
        Compression::None => Packed { bytes: plain.clone(), chunk_bytes: Vec::new() },
        _ => pack(&plain, compressor),
    };
    Ok(Work { plain, packed, hash })
}

fn read_segment(segment: &Segment, source: &Source<'_>) -> Result<Vec<u8>, Error> {
    match &source.kind {
        Kind::Memory(data) => Ok(data.clone()),
        Kind::At { source, offset, .. } => {
            let at = offset + segment.offset;
            let path = PathBuf::from(format!("the store, at byte {at} of the image"));
            source.read_vec_at(at, segment.len).map_err(|source| Error::Source { path, source })
        }
        Kind::File { path, .. } => {
            let mut plain = vec![0; segment.len];
            let opened = fs::OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
            let read = opened.and_then(|file: File| file.read_exact_at(&mut plain, segment.offset));
            read.map_err(|source| Error::Source { path: path.clone(), source })?;
            Ok(plain)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_paths() {
        for (pattern, text, expect) in [
            ("/proc/*", "/proc/1/fd", true),
            ("*.tmp", "/a/b.tmp", true),
            ("/a?c", "/abc", true),
            ("/proc", "/proc/1", false),
            ("*a*b", "/xaxb", true),
            ("*a*b", "/xaxc", false),
            ("", "/", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expect, "{pattern} {text}");
        }
    }
}
