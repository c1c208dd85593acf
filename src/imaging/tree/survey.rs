//! What a folder holds already of a tree image: for every file, by its content and nothing else.

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::imaging::chunk::{CHUNK_BYTES_MAX, ChunkId};
use crate::imaging::error::Error;
use crate::imaging::manifest::Manifest;
use crate::imaging::plan::Summary;
use crate::imaging::tree::format::{Document, Layout};
use crate::imaging::wim::files::{Files, Use};
use crate::stdx::buffer::is_zero;
use crate::stdx::monitor::Progress;

/// What stands in a file's place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Found {
    /// Nothing that is of use.
    Nothing,
    /// A file of its own whose bytes are wrong in part: which of the content's extents are right.
    Part(Vec<bool>),
    Whole,
}

/// A content, and the files that are to have it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Wanted {
    pub content: usize,
    pub uses: Vec<(Use, Found)>,
    /// Numbers of the manifest's extents that some file lacks.
    pub missing: Vec<usize>,
}

impl Wanted {
    pub(super) fn is_whole(&self) -> bool {
        self.uses.iter().all(|(_, found)| *found == Found::Whole)
    }
}

/// Whether files that are there are read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Look {
    Read,
    Assume,
}

/// Looks at every file of the image; contents in the order of the image.
pub(super) fn survey(
    manifest: &Manifest,
    document: &Document,
    layout: &Layout,
    files: &Files<'_>,
    look: Look,
    threads: usize,
    progress: &Progress,
) -> Result<Vec<Wanted>, Error> {
    let mut wanted: Vec<(usize, Vec<Use>)> = Vec::new();
    for (hash, uses) in files.uses() {
        // Link data is in the document.
        let Some(content) = layout.find(&hash) else { continue };
        wanted.push((content, uses));
    }
    wanted.sort_unstable_by_key(|(content, _)| *content);
    // On NTFS every file is made anew: streams and compression are not compared.
    let look = if files.target.is_ntfs || files.target.is_fresh { Look::Assume } else { look };
    if look == Look::Read {
        let bytes = wanted.iter().map(|(content, uses)| document.contents[*content].bytes * uses.len() as u64).sum();
        Progress::add(&progress.survey_total_bytes, bytes);
    }
    let surveyor = Surveyor { manifest, layout, files, look, groups: groups(files), progress };
    let next = AtomicUsize::new(0);
    let work = || -> Vec<(usize, Wanted)> {
        let mut buffer = vec![0; CHUNK_BYTES_MAX];
        let mut done = Vec::new();
        loop {
            let number = next.fetch_add(1, Relaxed);
            let Some((content, uses)) = wanted.get(number) else { return done };
            done.push((number, surveyor.content(*content, uses, &mut buffer)));
        }
    };
    let mut all: Vec<(usize, Wanted)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("looking does not panic")).collect()
    });
    all.sort_unstable_by_key(|(number, _)| *number);
    Ok(all.into_iter().map(|(_, wanted)| wanted).collect())
}

struct Surveyor<'a, 'b> {
    manifest: &'a Manifest,
    layout: &'a Layout,
    files: &'a Files<'b>,
    look: Look,
    groups: HashMap<usize, Vec<usize>>,
    progress: &'a Progress,
}

impl Surveyor<'_, '_> {
    fn content(&self, content: usize, uses: &[Use], buffer: &mut [u8]) -> Wanted {
        let range = self.layout.range(content);
        let extents = Layout::extents(self.manifest, &range);
        let mut found = Vec::with_capacity(uses.len());
        for user in uses {
            found.push((*user, self.look_at(*user, &extents, &range, buffer)));
        }
        let lacks = |number: &usize| {
            found.iter().any(|(_, found)| match found {
                Found::Nothing => true,
                Found::Part(right) => !right[number - extents.start],
                Found::Whole => false,
            })
        };
        let missing = extents.clone().filter(lacks).collect();
        Wanted { content, uses: found, missing }
    }

    fn look_at(&self, user: Use, extents: &Range<usize>, range: &Range<u64>, buffer: &mut [u8]) -> Found {
        let Use::Content(place) = user else { return Found::Nothing };
        if self.look == Look::Assume {
            return Found::Nothing;
        }
        Progress::add(&self.progress.surveyed_bytes, range.end - range.start);
        let Ok(file) = self.files.target.look_file(place) else { return Found::Nothing };
        let Ok(found) = file.metadata() else { return Found::Nothing };
        let others = self.groups.get(&place).map_or(&[][..], Vec::as_slice);
        let inode = (found.dev(), found.ino());
        let is_same = |other: &usize| self.files.target.inode(*other).is_ok_and(|other| other == inode);
        // A file that has names beyond the image's would change there as well.
        if found.nlink() != 1 + others.len() as u64 || !others.iter().all(is_same) {
            return Found::Nothing;
        }
        compare(self.manifest, extents, range, &file, found.len(), buffer)
    }
}

/// The names of each file that has several, by the first of them.
fn groups(files: &Files<'_>) -> HashMap<usize, Vec<usize>> {
    let mut groups: HashMap<usize, Vec<usize>> = HashMap::new();
    for place in (0..files.tree.entries.len()).filter(|place| files.first_name(*place) != *place) {
        groups.entry(files.first_name(place)).or_default().push(place);
    }
    groups
}

fn compare(
    manifest: &Manifest,
    extents: &Range<usize>,
    range: &Range<u64>,
    file: &File,
    len: u64,
    buffer: &mut [u8],
) -> Found {
    let mut at = range.start;
    let mut right = Vec::with_capacity(extents.len());
    for extent in &manifest.extents[extents.clone()] {
        if !zero_until(file, at - range.start..extent.offset - range.start, len, buffer) {
            return Found::Nothing;
        }
        let bytes = &mut buffer[..extent.len as usize];
        let read = file.read_exact_at(bytes, extent.offset - range.start);
        right.push(read.is_ok() && ChunkId::of(bytes) == extent.chunk);
        at = extent.end();
    }
    if !zero_until(file, at - range.start..range.end - range.start, len, buffer) {
        return Found::Nothing;
    }
    match right.iter().all(|right| *right) && len == range.end - range.start {
        true => Found::Whole,
        false if extents.is_empty() || right.iter().any(|right| *right) => Found::Part(right),
        false => Found::Nothing,
    }
}

/// Whether `range` of the file reads as zero, as far as the file goes.
fn zero_until(file: &File, range: Range<u64>, len: u64, buffer: &mut [u8]) -> bool {
    let end = range.end.min(len);
    let mut at = range.start;
    while at < end {
        let piece = &mut buffer[..(end - at).min(CHUNK_BYTES_MAX as u64) as usize];
        if file.read_exact_at(piece, at).is_err() || !is_zero(piece) {
            return false;
        }
        at += piece.len() as u64;
    }
    true
}

/// The plan in numbers; a content counts once, however many files have it.
pub(super) fn summary(manifest: &Manifest, document: &Document, wanted: &[Wanted]) -> Summary {
    let mut summary = Summary::default();
    for wanted in wanted {
        let bytes = document.contents[wanted.content].bytes;
        let fetch = wanted.missing.iter().map(|number| u64::from(manifest.extents[*number].len)).sum::<u64>();
        summary.image_bytes += bytes;
        summary.fetch_bytes += fetch;
        summary.fetch_chunks += wanted.missing.len() as u64;
        summary.in_place_bytes += bytes - fetch;
    }
    summary
}
