//! A tree image out: makes a folder hold its files, straight from the store.
//!
//! What is compared: the content of each file, chunk by chunk; targets of links; numbers of devices; which names are one
//! file. Owners, permissions, attributes and times are set whatever they were. Names that the image has not stay.
//! Started again after any interruption it does what is left, because a file counts by what it holds.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::imaging::apply::{self, Options, Seed, Writer, fetch};
use crate::imaging::chunk::{ChunkId, Verified};
use crate::imaging::error::Error;
use crate::imaging::manifest::Manifest;
use crate::imaging::plan::Summary;
use crate::imaging::store::ChunkSource;
use crate::imaging::tree::format::{Document, Layout};
use crate::imaging::tree::reader;
use crate::imaging::tree::survey::{Found, Look, Wanted, summary, survey};
use crate::imaging::wim::files::{Files, Use};
use crate::imaging::wim::reader::OnDamage;
use crate::stdx::monitor::Progress;

/// What is written at once where a file must have zeros and no hole.
const ZEROS_BYTES: usize = 256 << 10;

/// What was done, for the record of the run.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Receipt {
    #[serde(flatten)]
    pub bytes: apply::Receipt,
    pub folders: u64,
    pub files: u64,
    pub links: u64,
    /// Contents that were right in every file.
    pub kept_contents: u64,
    /// What the target has no place for, and how often.
    pub not_held: BTreeMap<String, u64>,
}

/// Makes `folder` hold the files of `manifest`: looks, shows the plan to `planned`, carries it out, syncs, reads back a
/// sample. The folder is never left, whatever the image says.
pub fn make_match(
    manifest: &Manifest,
    source: &dyn ChunkSource,
    folder: &Path,
    options: &Options,
    progress: &Progress,
    planned: &mut dyn FnMut(&Summary),
) -> Result<Receipt, Error> {
    let document = reader::document(manifest, source, options, progress)?;
    let layout = Layout::new(&document.contents);
    let files = Files::open(folder, &document.tree, OnDamage::Stop)?;
    let wanted = survey(manifest, &document, &layout, &files, look(options), options.workers, progress)?;
    // ntfs-3g takes one request at a time, and compressed files only from their beginning to their end.
    let workers = if files.target.is_ntfs { 1 } else { options.workers };
    let options = &Options { workers, ..options.clone() };
    let summary = summary(manifest, &document, &wanted);
    planned(&summary);
    let growth = |content: &Wanted| {
        let new = content.uses.iter().filter(|(_, found)| *found == Found::Nothing).count() as u64;
        document.contents[content.content].bytes.saturating_mul(new)
    };
    files.check_free(wanted.iter().map(growth).fold(0, u64::saturating_add))?;
    Progress::add(&progress.total_bytes, summary.total_bytes());
    Progress::add(&progress.done_bytes, summary.in_place_bytes);
    Progress::add(&progress.skipped_bytes, summary.in_place_bytes);
    document.links.iter().for_each(|(hash, data)| files.keep_link_data(*hash, data));
    files.folders()?;
    files.without_content()?;
    write_contents(manifest, &document, &layout, &files, &wanted, source, options, progress)?;
    files.links()?;
    files.folder_metadata()?;
    files.sync()?;
    let read_back_chunks = read_back(manifest, &layout, &files, &wanted, options.sample)?;
    let kept_contents = wanted.iter().filter(|wanted| wanted.is_whole()).count() as u64;
    let report = files.into_report();
    Ok(Receipt {
        bytes: apply::Receipt {
            kept_bytes: summary.in_place_bytes,
            fetched_bytes: summary.fetch_bytes,
            fetched_chunks: summary.fetch_chunks,
            wire_bytes: Progress::get(&progress.wire_bytes),
            retries: Progress::get(&progress.retries),
            read_back_chunks,
            ..apply::Receipt::default()
        },
        folders: report.folders,
        files: report.files,
        links: report.links,
        kept_contents,
        not_held: report.not_held.into_iter().map(|(what, count)| (what.to_owned(), count)).collect(),
    })
}

/// Looks at the folder and plans; nothing is written.
pub fn look_and_plan(
    manifest: &Manifest,
    source: &dyn ChunkSource,
    folder: &Path,
    options: &Options,
    progress: &Progress,
) -> Result<Summary, Error> {
    let document = reader::document(manifest, source, options, progress)?;
    let layout = Layout::new(&document.contents);
    let files = Files::look(folder, &document.tree)?;
    let wanted = survey(manifest, &document, &layout, &files, look(options), options.workers, progress)?;
    Ok(summary(manifest, &document, &wanted))
}

fn look(options: &Options) -> Look {
    match options.seed {
        Seed::Target => Look::Read,
        Seed::Nothing => Look::Assume,
    }
}

#[expect(clippy::too_many_arguments, reason = "all of an apply's parts meet here")]
fn write_contents(
    manifest: &Manifest,
    document: &Document,
    layout: &Layout,
    files: &Files<'_>,
    wanted: &[Wanted],
    source: &dyn ChunkSource,
    options: &Options,
    progress: &Progress,
) -> Result<(), Error> {
    let by_content = wanted.iter().map(|wanted| (wanted.content, wanted)).collect();
    let writing = Writing { manifest, document, layout, files, wanted: by_content, open: Mutex::default() };
    for wanted in wanted {
        for (user, _) in wanted.uses.iter().filter(|(_, found)| *found == Found::Whole) {
            files.keep_file(user.place())?;
        }
        if wanted.missing.is_empty() && !wanted.is_whole() {
            // Zeros, or a file that is only too long.
            let open = writing.open(wanted)?;
            writing.finish(&open)?;
        }
    }
    let missing: Vec<usize> = wanted.iter().flat_map(|wanted| wanted.missing.iter().copied()).collect();
    fetch(manifest, &missing, source, options, progress, &writing)
}

/// Puts bytes of the image into the files that have them.
struct Writing<'a, 'b> {
    manifest: &'a Manifest,
    document: &'a Document,
    layout: &'a Layout,
    files: &'a Files<'b>,
    wanted: HashMap<usize, &'a Wanted>,
    /// Files of contents of which something is still to come.
    open: Mutex<HashMap<usize, Arc<Open>>>,
}

struct Open {
    files: Vec<(Use, File)>,
    left_bytes: AtomicU64,
}

impl Writer for Writing<'_, '_> {
    fn write(&self, verified: &Verified) -> Result<(), Error> {
        let (mut at, mut bytes) = (verified.offset(), verified.as_bytes());
        while !bytes.is_empty() {
            let content = self.layout.content_at(at);
            let wanted = content.and_then(|content| self.wanted.get(&content)).ok_or_else(|| Error::NoTree {
                what: "the image".to_owned(),
                reason: format!("no file has byte {at} of it"),
            })?;
            let range = self.layout.range(wanted.content);
            let (here, rest) = bytes.split_at(bytes.len().min((range.end - at) as usize));
            self.part(wanted, at - range.start, here)?;
            at += here.len() as u64;
            bytes = rest;
        }
        Ok(())
    }
}

impl Writing<'_, '_> {
    fn part(&self, wanted: &Wanted, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        if bytes.len() as u64 == self.document.contents[wanted.content].bytes {
            return self.whole(wanted, bytes);
        }
        let mut all = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let open = match all.get(&wanted.content) {
            Some(open) => open.clone(),
            None => {
                let open = Arc::new(self.open(wanted)?);
                all.insert(wanted.content, open.clone());
                open
            }
        };
        drop(all);
        let [before, behind] = self.zeros_around(wanted.content, offset, offset + bytes.len() as u64);
        for (user, file) in &open.files {
            let holds_zeros = self.holds_zeros(user.place());
            if holds_zeros {
                self.write_zeros(user.place(), file, &before)?;
            }
            match user {
                Use::Content(place) => self.files.write_content(*place, file, bytes, offset)?,
                Use::Stream(place, _) => self.files.written(*place, file.write_all_at(bytes, offset))?,
                Use::LinkData => {}
            }
            if holds_zeros {
                self.write_zeros(user.place(), file, &behind)?;
            }
        }
        if open.left_bytes.fetch_sub(bytes.len() as u64, Relaxed) == bytes.len() as u64 {
            self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&wanted.content);
            self.finish(&open)?;
        }
        Ok(())
    }

    /// A content that came in one: most files are small.
    fn whole(&self, wanted: &Wanted, bytes: &[u8]) -> Result<(), Error> {
        for (user, found) in &wanted.uses {
            match (user, found) {
                (_, Found::Whole) => {}
                (Use::Stream(place, stream), _) => self.files.set_stream(*place, *stream, bytes)?,
                (Use::LinkData, _) => {}
                (Use::Content(place), found) => {
                    let Some(file) = self.file(*place, found)? else { continue };
                    self.files.write_content(*place, &file, bytes, 0)?;
                    self.files.finish_file(*place, &file)?;
                }
            }
        }
        Ok(())
    }

    /// Opens the files that lack something, with their length.
    fn open(&self, wanted: &Wanted) -> Result<Open, Error> {
        let mut files = Vec::new();
        for (user, found) in wanted.uses.iter().filter(|(_, found)| *found != Found::Whole) {
            let file = match user {
                Use::Content(place) => self.file(*place, found)?,
                Use::Stream(place, stream) => self.files.create_stream(*place, *stream)?,
                Use::LinkData => None,
            };
            let Some(file) = file else { continue };
            let bytes = self.document.contents[wanted.content].bytes;
            match self.holds_zeros(user.place()) {
                true if wanted.missing.is_empty() => self.write_zeros(user.place(), &file, &(0..bytes))?,
                true => {}
                false => self.files.written(user.place(), file.set_len(bytes))?,
            }
            files.push((*user, file));
        }
        let bytes = wanted.missing.iter().map(|number| u64::from(self.manifest.extents[*number].len)).sum();
        Ok(Open { files, left_bytes: AtomicU64::new(bytes) })
    }

    /// Whether the file must have its zeros written, because a hole would make it sparse.
    fn holds_zeros(&self, place: usize) -> bool {
        self.files.target.is_ntfs && !self.files.is_sparse(place)
    }

    /// The zeros of a content right before its byte `offset`, and those behind byte `end` when no chunk follows.
    fn zeros_around(&self, content: usize, offset: u64, end: u64) -> [Range<u64>; 2] {
        let range = self.layout.range(content);
        let extents = &self.manifest.extents[Layout::extents(self.manifest, &range)];
        let before = extents.partition_point(|extent| extent.offset < range.start + offset);
        let lead = before.checked_sub(1).map_or(0, |last| extents[last].end() - range.start);
        let follows = extents.last().is_some_and(|last| last.offset - range.start >= end);
        [lead..offset, end..if follows { end } else { range.end - range.start }]
    }

    fn write_zeros(&self, place: usize, file: &File, range: &Range<u64>) -> Result<(), Error> {
        let zeros = vec![0; ZEROS_BYTES];
        for at in range.clone().step_by(ZEROS_BYTES) {
            let piece = &zeros[..(range.end - at).min(ZEROS_BYTES as u64) as usize];
            self.files.written(place, file.write_all_at(piece, at))?;
        }
        Ok(())
    }

    fn file(&self, place: usize, found: &Found) -> Result<Option<File>, Error> {
        let content = self.layout.find(&self.files.tree.entries[place].content);
        let bytes = content.map_or(0, |content| self.document.contents[content].bytes);
        let Found::Part(_) = found else { return Ok(self.files.create_file(place, bytes)?) };
        let file = self.files.open_file(place)?;
        if let Some(file) = &file {
            self.files.written(place, file.set_len(bytes))?;
        }
        Ok(file)
    }

    fn finish(&self, open: &Open) -> Result<(), Error> {
        for (user, file) in &open.files {
            if let Use::Content(place) = user {
                self.files.finish_file(*place, file)?;
            }
        }
        Ok(())
    }
}

/// Reads some chunks, spread over the files, from the medium; how many were right, which is all of them.
fn read_back(
    manifest: &Manifest,
    layout: &Layout,
    files: &Files<'_>,
    wanted: &[Wanted],
    sample: usize,
) -> Result<u64, Error> {
    let of_files = |wanted: &Wanted| {
        let place = wanted.uses.iter().find_map(|(user, _)| match user {
            Use::Content(place) => Some(*place),
            Use::Stream(..) | Use::LinkData => None,
        })?;
        Some((place, layout.range(wanted.content)))
    };
    let chosen: Vec<_> = wanted.iter().filter_map(of_files).collect();
    let mut right = 0;
    let mut buffer = Vec::new();
    for (place, range) in chosen.iter().step_by(chosen.len().div_ceil(sample.max(1)).max(1)).take(sample) {
        let extents = Layout::extents(manifest, range);
        let Some(extent) = manifest.extents.get(extents.start + extents.len() / 2).filter(|_| !extents.is_empty())
        else {
            continue;
        };
        // What the target could not hold was counted.
        let Ok(file) = files.target.look_file(*place) else { continue };
        let _ = nix::fcntl::posix_fadvise(&file, 0, 0, nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED);
        buffer.resize(extent.len as usize, 0);
        let offset = extent.offset - range.start;
        let read = file.read_exact_at(&mut buffer, offset);
        let target = files.tree.path_text(*place);
        read.map_err(Error::read(&target))?;
        if ChunkId::of(&buffer) != extent.chunk {
            return Err(Error::ReadBack { target, offset, chunk: extent.chunk });
        }
        right += 1;
    }
    Ok(right)
}
