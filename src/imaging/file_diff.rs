//! What changed from one version to another, in files, where both hold a file system whose files are listed.
//!
//! Two files are the same when rights, owner and content are. Content that is the same piece of the same chunk is not read;
//! the rest is compared byte by byte, so a file that only moved on the disk did not change.

use serde::Serialize;

use crate::imaging::error::Error;
use crate::imaging::fs::files::{Content, Entry, EntryKind, Files, Piece, is_listed, list};
use crate::imaging::fs::{Kind, probe};
use crate::imaging::manifest::Partition;
use crate::imaging::view::{Segment, View};
use crate::stdx::hint::chain;
use crate::stdx::io::{ReadAt, Section};

/// Content that is compared at once.
const COMPARE_BYTES: u64 = 1 << 20;

/// One partition's files.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct FileDiff {
    /// Of the newer version.
    pub partition: u32,
    pub filesystem: String,
    pub added: Vec<Name>,
    pub removed: Vec<Name>,
    pub changed: Vec<Name>,
    pub same: u64,
    /// Why its files are not told.
    pub not_listed: Option<String>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Name {
    pub path: String,
    pub kind: EntryKind,
    /// In the newer version, or in the older one when it is gone.
    pub bytes: u64,
}

/// A partition of a version.
struct Volume<'a> {
    view: &'a View<'a>,
    start: u64,
    files: Files,
}

/// Compares each partition of `new` with the one of the same number in `old`.
pub fn file_diff(old: (&View<'_>, &[Partition]), new: (&View<'_>, &[Partition])) -> Result<Vec<FileDiff>, Error> {
    let mut diffs = Vec::new();
    for partition in new.1 {
        let mut diff =
            FileDiff { partition: partition.number, filesystem: partition.filesystem.clone(), ..FileDiff::default() };
        let before = old.1.iter().find(|before| before.number == partition.number);
        let before = before.ok_or_else(|| "the older version has no such partition".to_owned());
        let both = before.and_then(|before| Ok((open(old.0, before)?, open(new.0, partition)?)));
        match both {
            Err(why) => diff.not_listed = Some(why),
            Ok((before, after)) => compare(&before, &after, &mut diff)?,
        }
        diffs.push(diff);
    }
    Ok(diffs)
}

fn open<'a>(view: &'a View<'a>, partition: &Partition) -> Result<Volume<'a>, String> {
    let section = Section::new(view, partition.start, partition.size).ok_or("it does not lie on the disk")?;
    let kind = probe(&section).map_err(|error| error.to_string())?.kind;
    if !is_listed(kind) {
        let what = if kind == Kind::Unknown { "what it holds".to_owned() } else { kind.to_string() };
        return Err(format!("the files of {what} are not known here"));
    }
    let files = list(&section, kind).map_err(|fault| chain(&fault))?;
    Ok(Volume { view, start: partition.start, files })
}

fn compare(old: &Volume<'_>, new: &Volume<'_>, diff: &mut FileDiff) -> Result<(), Error> {
    let name = |(path, entry): (&String, &Entry)| Name { path: path.clone(), kind: entry.kind, bytes: entry.bytes };
    diff.removed.extend(old.files.iter().filter(|(path, _)| !new.files.contains_key(*path)).map(name));
    for (path, entry) in &new.files {
        match old.files.get(path) {
            None => diff.added.push(name((path, entry))),
            Some(before) if is_same((old, before), (new, entry))? => diff.same += 1,
            Some(_) => diff.changed.push(name((path, entry))),
        }
    }
    Ok(())
}

fn is_same(old: (&Volume<'_>, &Entry), new: (&Volume<'_>, &Entry)) -> Result<bool, Error> {
    let (before, after) = (old.1, new.1);
    if (before.kind, before.bytes, before.rights) != (after.kind, after.bytes, after.rights) {
        return Ok(false);
    }
    match (&before.content, &after.content) {
        (Content::Pieces(a), Content::Pieces(b)) => is_same_content((old.0, a), (new.0, b), after.bytes),
        (Content::Unknown, Content::Unknown) => Ok(true),
        (a, b) => Ok(a == b),
    }
}

fn is_same_content(old: (&Volume<'_>, &[Piece]), new: (&Volume<'_>, &[Piece]), bytes: u64) -> Result<bool, Error> {
    let mut at = 0;
    while at < bytes {
        let (a, b) = (old.0.segment(old.1, at, bytes - at), new.0.segment(new.1, at, bytes - at));
        let len = a.segment.len.min(b.segment.len).min(COMPARE_BYTES);
        if a.segment.chunk != b.segment.chunk && old.0.read(a, len)? != new.0.read(b, len)? {
            return Ok(false);
        }
        at += len;
    }
    Ok(true)
}

/// A part of a file: what it is made of, and where on the disk it lies.
#[derive(Clone, Copy)]
struct Part {
    segment: Segment,
    at: u64,
}

impl Volume<'_> {
    fn segment(&self, pieces: &[Piece], in_file: u64, len: u64) -> Part {
        let number = pieces.partition_point(|piece| piece.in_file + piece.len <= in_file);
        match pieces.get(number) {
            Some(piece) if piece.in_file <= in_file => {
                let skip = in_file - piece.in_file;
                let at = self.start + piece.at + skip;
                Part { segment: self.view.segment(at, len.min(piece.len - skip)), at }
            }
            Some(piece) => Part { segment: Segment { chunk: None, len: len.min(piece.in_file - in_file) }, at: 0 },
            None => Part { segment: Segment { chunk: None, len }, at: 0 },
        }
    }

    fn read(&self, part: Part, len: u64) -> Result<Vec<u8>, Error> {
        match part.segment.chunk {
            None => Ok(vec![0; len as usize]),
            Some(_) => self.view.read_vec_at(part.at, len as usize).map_err(Error::read("the version")),
        }
    }
}
