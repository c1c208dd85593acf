//! Reads a Linux tree into a WIM: names and metadata first, then contents ([`contents`]).

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use super::codec::Compression;
use super::contents;
pub use super::contents::{Kind, Source};
use super::error::Error;
use super::format::Sha1;
use super::metadata;
use super::reparse;
use super::tree::{
    ATTRIBUTE_DIRECTORY, ATTRIBUTE_NORMAL, ATTRIBUTE_REPARSE_POINT, Entry, REPARSE_TAG_SYMLINK, Reparse, Tree,
    UnixData, Xattr, name_units,
};
use super::writer::{Shape, Writer};
use super::xml::ImageInfo;
use crate::stdx::monitor::Progress;
use crate::stdx::xattr;

pub struct Options<'a> {
    /// Of a new file; one that is appended to keeps its own.
    pub compression: Compression,
    /// All contents in one resource, compressed together.
    pub solid: bool,
    /// With an integrity table.
    pub integrity: bool,
    /// To be read from a pipe; the contents are read twice.
    pub pipable: bool,
    /// As one more image of a file that exists.
    pub append: bool,
    /// Patterns (`*`, `?`) of paths from the root of the tree, such as `/proc/*`.
    pub exclude: &'a [String],
    pub name: String,
    pub description: String,
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
    /// Number of the image in the file.
    pub image: u32,
    /// Length of the file.
    pub stored_bytes: u64,
}

impl Options<'_> {
    fn shape(&self) -> Shape {
        Shape { integrity: self.integrity, pipable: self.pipable, ..Shape::new(self.compression, self.guid) }
    }

    fn writer(&self, file: &Path) -> Result<Writer, Error> {
        let writer = match self.append {
            true => Writer::append_to(file, self.integrity)?,
            false => Writer::create(file, &self.shape())?,
        };
        writer.check_name(&self.name)?;
        Ok(writer)
    }

    fn image(&self, report: &Report, sources: &[Source<'_>]) -> ImageInfo {
        let again = |source: &Source<'_>| source.bytes() * (source.places.len() as u64).saturating_sub(1);
        ImageInfo {
            name: self.name.clone(),
            description: self.description.clone(),
            folders: report.folders,
            files: report.files,
            bytes: report.bytes,
            hard_link_bytes: sources.iter().map(again).sum(),
            created: self.now,
            modified: self.now,
            ..ImageInfo::default()
        }
    }

    fn contents(&self, writer: &mut Writer, sources: &[Source<'_>], progress: &Progress) -> Result<Vec<Sha1>, Error> {
        Progress::add(&progress.total_bytes, sources.iter().map(Source::bytes).sum());
        match self.solid {
            true => contents::write_solid(writer, sources, self.workers, progress),
            false => contents::write(writer, sources, self.workers, progress),
        }
    }
}

/// Captures `folder` into the WIM at `file`, as one image.
pub fn capture(folder: &Path, file: &Path, options: &Options<'_>, progress: &Progress) -> Result<Report, Error> {
    capture_with(folder, options.writer(file)?, options, progress)
}

/// Captures `folder` into a pipable WIM that goes to `to` from its first byte to its last. Of its contents, one at a time waits
/// in `spool`, an empty file.
pub fn capture_to(
    folder: &Path,
    to: File,
    spool: File,
    options: &Options<'_>,
    progress: &Progress,
) -> Result<Report, Error> {
    capture_with(folder, Writer::stream(to, spool, &options.shape())?, options, progress)
}

fn capture_with(
    folder: &Path,
    mut writer: Writer,
    options: &Options<'_>,
    progress: &Progress,
) -> Result<Report, Error> {
    let Scanned { mut tree, mut sources, mut report } = scan(folder, options.exclude)?;
    let image = options.image(&report, &sources);
    if options.pipable {
        let hashes = contents::hash_all(&sources, options.workers)?;
        for (source, hash) in sources.iter_mut().zip(hashes) {
            source.hash = Some(hash);
            source.name_in(&mut tree, hash);
        }
        report.image = writer.add_image(metadata::emit(&tree), image.clone())?;
        writer.begin_contents()?;
    }
    let hashes = options.contents(&mut writer, &sources, progress)?;
    for (source, hash) in sources.iter().zip(hashes) {
        if source.hash.is_some_and(|expected| expected != hash) {
            return Err(source.changed());
        }
        source.name_in(&mut tree, hash);
        source.places.iter().skip(1).for_each(|_| writer.refer(&hash));
    }
    if !options.pipable {
        report.image = writer.add_image(metadata::emit(&tree), image)?;
    }
    report.stored_bytes = writer.finish()?;
    Ok(report)
}

/// Writes the image `tree`, whose contents are `sources` and named in it already, into the WIM at `file`.
pub fn write(
    file: &Path,
    tree: &Tree,
    sources: &[Source<'_>],
    image: &ImageInfo,
    options: &Options<'_>,
    progress: &Progress,
) -> Result<u64, Error> {
    let mut writer = options.writer(file)?;
    if options.pipable {
        writer.add_image(metadata::emit(tree), image.clone())?;
        writer.begin_contents()?;
    }
    let hashes = options.contents(&mut writer, sources, progress)?;
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
    if !options.pipable {
        writer.add_image(metadata::emit(tree), image.clone())?;
    }
    writer.finish()
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
