//! What changed from one tree image to another, in files.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use crate::imaging::tree::format::{Document, Layout};
use crate::imaging::wim::format::Sha1;
use crate::imaging::wim::tree::{Entry, Tree};

/// Paths are those of the image, `/` between names.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Diff {
    pub same_files: u64,
    pub added: Vec<Change>,
    pub removed: Vec<Change>,
    /// Of other content, or another kind.
    pub changed: Vec<Change>,
    /// Of the same content, with another owner, mode, time, attribute, stream or security descriptor.
    pub metadata: Vec<Change>,
    /// Bytes of contents that only the new version has, and that only the old one had.
    pub new_bytes: u64,
    pub gone_bytes: u64,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Change {
    pub path: String,
    pub bytes: u64,
}

pub fn diff(old: &Document, new: &Document) -> Diff {
    let (before, after) = (Side::new(old), Side::new(new));
    let mut diff = Diff::default();
    for (path, place) in &after.paths {
        let entry = &new.tree.entries[*place];
        let change = || Change { path: text(path), bytes: after.bytes(&entry.content) };
        let Some(was) = before.paths.get(path).map(|place| &old.tree.entries[*place]) else {
            diff.added.push(change());
            continue;
        };
        match () {
            () if !same_content(was, entry) => diff.changed.push(change()),
            () if !same_metadata(&old.tree, was, &new.tree, entry) => diff.metadata.push(change()),
            () => diff.same_files += 1,
        }
    }
    for (path, place) in before.paths.iter().filter(|(path, _)| !after.paths.contains_key(*path)) {
        let bytes = before.bytes(&old.tree.entries[*place].content);
        diff.removed.push(Change { path: text(path), bytes });
    }
    diff.new_bytes = only_in(new, &before.layout);
    diff.gone_bytes = only_in(old, &after.layout);
    diff
}

fn text(path: &[u8]) -> String {
    format!("/{}", String::from_utf8_lossy(path))
}

fn only_in(document: &Document, other: &Layout) -> u64 {
    let only = document.contents.iter().filter(|content| other.find(&content.hash).is_none());
    only.map(|content| content.bytes).sum()
}

/// One of the two trees, by path.
struct Side {
    paths: BTreeMap<Vec<u8>, usize>,
    bytes: HashMap<Sha1, u64>,
    layout: Layout,
}

impl Side {
    fn new(document: &Document) -> Side {
        let places = 0..document.tree.entries.len();
        Side {
            paths: places.map(|place| (document.tree.path(place), place)).collect(),
            bytes: document.contents.iter().map(|content| (content.hash, content.bytes)).collect(),
            layout: Layout::new(&document.contents),
        }
    }

    fn bytes(&self, hash: &Sha1) -> u64 {
        self.bytes.get(hash).copied().unwrap_or(0)
    }
}

fn same_content(old: &Entry, new: &Entry) -> bool {
    let kind = |entry: &Entry| (entry.is_folder(), entry.unix.map(|unix| (unix.mode & 0o170_000, unix.device)));
    (old.content, old.reparse) == (new.content, new.reparse) && kind(old) == kind(new)
}

fn same_metadata(old_tree: &Tree, old: &Entry, new_tree: &Tree, new: &Entry) -> bool {
    let descriptor = |tree: &Tree, entry: &Entry| entry.descriptor.map(|place| tree.descriptors[place].clone());
    // When a file was last read is no change of it.
    let plain = |entry: &Entry| Entry {
        parent: 0,
        descriptor: None,
        accessed: 0,
        link_group: u64::from(entry.link_group != 0),
        ..entry.clone()
    };
    plain(old) == plain(new) && descriptor(old_tree, old) == descriptor(new_tree, new)
}
