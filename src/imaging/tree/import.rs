//! An image of a WIM becomes a tree image: decompressed and checked on all cores, in the order of the file.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::imaging::cutter::Piece as Cut;
use crate::imaging::error::Error;
use crate::imaging::import::{Imported, Importer};
use crate::imaging::manifest::{Header, Kind, TreeHeader};
use crate::imaging::store::versions::check_name;
use crate::imaging::tree::builder::{Builder, Piece, Runs, Stored};
use crate::imaging::tree::format::Content;
use crate::imaging::wim::error::Error as WimError;
use crate::imaging::wim::extract::{Sink, extract};
use crate::imaging::wim::format::Sha1;
use crate::imaging::wim::reader::{Blob, OnDamage, Wim};
use crate::imaging::wim::reparse;
use crate::imaging::wim::tree::Tree;

impl Importer<'_> {
    /// Image `index` (from 1) of `wim`, which people know as `source`.
    pub fn wim_image(&self, name: &str, wim: &Wim, index: u32, source: &str) -> Result<Imported, Error> {
        check_name(name)?;
        let (tree, _) = wim.tree(index, OnDamage::Stop)?;
        let wanted = Wanted::new(wim, &tree)?;
        let builder = Builder::new(self.store, self.progress)?;
        let (done, links) = take_contents(wim, &wanted, &builder, self.progress)?;
        let stored = wanted.contents.iter().map(|place| {
            let blob = &wim.blobs[*place];
            let pieces = done.get(&blob.hash).cloned().unwrap_or_default();
            Stored { content: Content { hash: blob.hash, bytes: blob.plain_bytes }, pieces }
        });
        let header = self.wim_header(wim, index, source, &tree);
        let (manifest, upload) = builder.finish(stored.collect(), links, tree, header)?;
        self.publish(name, manifest, upload)
    }

    fn wim_header(&self, wim: &Wim, index: u32, source: &str, tree: &Tree) -> Header {
        let info = wim.images.iter().find(|image| image.index == index).cloned().unwrap_or_default();
        let called = if info.name.is_empty() { String::new() } else { format!(" ({})", info.name) };
        let folders = tree.entries.iter().filter(|entry| entry.is_folder()).count() as u64;
        let bytes_of = |hash: &Sha1| wim.blob(hash).map_or(0, |blob| blob.plain_bytes);
        let bytes = tree.entries.iter().map(|entry| bytes_of(&entry.content)).fold(0, u64::saturating_add);
        // What the XML counts is kept, so that an export says the same; it need not be there.
        let or_counted = |said: u64, counted: u64| if said == 0 { counted } else { said };
        let tree = TreeHeader {
            document_bytes: 0,
            folders: or_counted(info.folders, folders),
            files: or_counted(info.files, tree.entries.len() as u64 - folders),
            files_bytes: or_counted(info.bytes, bytes),
            hard_link_bytes: info.hard_link_bytes,
            name: info.name,
            description: info.description,
            edition: info.edition,
            captured: info.created,
            modified: info.modified,
            xml: info.other,
        };
        tree_header(format!("{source}, image {index}{called}"), tree, self.now)
    }
}

pub(super) fn tree_header(source: String, tree: TreeHeader, created: crate::stdx::time::Timestamp) -> Header {
    Header {
        kind: Kind::Tree,
        size: 0,
        sector_bytes: 512,
        created,
        needed_bytes: 0,
        source,
        partitions: Vec::new(),
        remarks: Vec::new(),
        tree: Some(tree),
    }
}

/// What of the WIM belongs to an image.
struct Wanted {
    /// Places in the WIM's list of blobs, in the order in which they lie in the file.
    contents: Vec<usize>,
    is_content: HashSet<Sha1>,
    is_link: HashSet<Sha1>,
}

impl Wanted {
    fn new(wim: &Wim, tree: &Tree) -> Result<Wanted, Error> {
        let mut wanted = Wanted { contents: Vec::new(), is_content: HashSet::new(), is_link: HashSet::new() };
        for (place, entry) in tree.entries.iter().enumerate() {
            let link = entry.reparse.map(|reparse| reparse.data);
            for hash in entry.contents() {
                let missing = || WimError::Missing { hash, path: tree.path_text(place) };
                let blob = wim.blob(&hash).ok_or_else(missing)?;
                let is_link = link == Some(hash) && hash != entry.content;
                match is_link && blob.plain_bytes <= reparse::DATA_BYTES_MAX {
                    true => wanted.is_link.insert(hash),
                    false => wanted.is_content.insert(hash),
                };
            }
        }
        let mut contents: Vec<usize> = wanted.is_content.iter().filter_map(|hash| wim.blob_place(hash)).collect();
        contents.sort_unstable_by_key(|place| {
            let blob = &wim.blobs[*place];
            let resource = &wim.resources[blob.resource];
            (resource.part, resource.offset, blob.offset)
        });
        wanted.contents = contents;
        Ok(wanted)
    }

    fn blobs(&self, wim: &Wim) -> Vec<usize> {
        let links = self.is_link.difference(&self.is_content).filter_map(|hash| wim.blob_place(hash));
        self.contents.iter().copied().chain(links).collect()
    }
}

type Pieces = HashMap<Sha1, Vec<Piece>>;
type Links = HashMap<Sha1, Vec<u8>>;

fn take_contents(
    wim: &Wim,
    wanted: &Wanted,
    builder: &Builder<'_>,
    progress: &crate::stdx::monitor::Progress,
) -> Result<(Pieces, Links), Error> {
    let taker = Taker {
        wanted,
        builder,
        done: Mutex::default(),
        links: Mutex::default(),
        open: Mutex::default(),
        failure: Mutex::default(),
    };
    let workers = std::thread::available_parallelism().map_or(2, NonZeroUsize::get);
    let taken = extract(wim, &wanted.blobs(wim), workers, &taker, progress);
    let Taker { done, links, failure, .. } = taker;
    match into_inner(failure) {
        Some(failure) => Err(failure),
        None => taken.map(|()| (into_inner(done), into_inner(links))).map_err(Error::Files),
    }
}

fn into_inner<T>(mutex: Mutex<T>) -> T {
    mutex.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Takes contents as they come out of the WIM.
struct Taker<'a, 'b> {
    wanted: &'a Wanted,
    builder: &'a Builder<'b>,
    done: Mutex<Pieces>,
    links: Mutex<Links>,
    open: Mutex<HashMap<Sha1, Arc<Mutex<Open>>>>,
    /// Why the store did not take something: the WIM's errors have no place for it.
    failure: Mutex<Option<Error>>,
}

/// A content that comes in pieces, not always in their order.
#[derive(Default)]
struct Open {
    next: u64,
    waiting: BTreeMap<u64, Vec<u8>>,
    runs: Runs,
    /// How many runs were cut; each run's pieces by its number.
    cut: usize,
    pieces: BTreeMap<usize, Vec<Piece>>,
    link: Vec<u8>,
}

impl Open {
    /// Cuts what has its turn.
    fn take(&mut self, offset: u64, bytes: &[u8], plain_bytes: u64, is_link: bool) -> Vec<(usize, Vec<u8>, Vec<Cut>)> {
        self.waiting.insert(offset, bytes.to_vec());
        let mut runs = Vec::new();
        while let Some(bytes) = self.waiting.remove(&self.next) {
            self.next += bytes.len() as u64;
            if is_link {
                self.link.extend_from_slice(&bytes);
            }
            let (bytes, cuts) = self.runs.take(&bytes, self.next == plain_bytes);
            runs.push((self.cut, bytes, cuts));
            self.cut += 1;
        }
        runs
    }
}

impl Taker<'_, '_> {
    /// Keeps the reason and stops the extraction.
    fn kept<T>(&self, result: Result<T, Error>) -> Result<T, WimError> {
        result.map_err(|error| {
            *lock(&self.failure) = Some(error);
            let source = std::io::Error::other("the store did not take it");
            WimError::Write { path: "the store".into(), source }
        })
    }
}

impl Sink for Taker<'_, '_> {
    fn whole(&self, blob: &Blob, content: &[u8]) -> Result<(), WimError> {
        if self.wanted.is_link.contains(&blob.hash) {
            lock(&self.links).insert(blob.hash, content.to_vec());
        }
        if self.wanted.is_content.contains(&blob.hash) {
            let pieces = self.kept(self.builder.whole(content))?;
            lock(&self.done).insert(blob.hash, pieces);
        }
        Ok(())
    }

    fn piece(&self, blob: &Blob, offset: u64, bytes: &[u8]) -> Result<(), WimError> {
        let open = lock(&self.open).entry(blob.hash).or_default().clone();
        let is_link = self.wanted.is_link.contains(&blob.hash);
        let runs = lock(&open).take(offset, bytes, blob.plain_bytes, is_link);
        if self.wanted.is_content.contains(&blob.hash) {
            for (number, bytes, cuts) in runs {
                let pieces = self.kept(self.builder.run(&bytes, &cuts))?;
                lock(&open).pieces.insert(number, pieces);
            }
        }
        Ok(())
    }

    fn checked(&self, blob: &Blob) -> Result<(), WimError> {
        let Some(open) = lock(&self.open).remove(&blob.hash) else { return Ok(()) };
        let mut open = lock(&open);
        if self.wanted.is_link.contains(&blob.hash) {
            lock(&self.links).insert(blob.hash, std::mem::take(&mut open.link));
        }
        if self.wanted.is_content.contains(&blob.hash) {
            let pieces = std::mem::take(&mut open.pieces).into_values().flatten().collect();
            lock(&self.done).insert(blob.hash, pieces);
        }
        Ok(())
    }

    fn damaged(&self, _: &Blob, error: WimError) -> Result<(), WimError> {
        Err(error)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
