//! Contents in: each cut on its own, named, sealed and stored; then the document behind them, and the manifest.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::imaging::chunk::{ChunkId, Sealer};
use crate::imaging::cutter::{Piece as Cut, cut_batch};
use crate::imaging::error::Error;
use crate::imaging::manifest::{Extent, Header, Manifest};
use crate::imaging::ranges::merged;
use crate::imaging::store::local::LocalStore;
use crate::imaging::store::upload::Upload;
use crate::imaging::tree::format::{Content, Document};
use crate::imaging::wim::format::Sha1;
use crate::imaging::wim::tree::Tree;
use crate::stdx::monitor::Progress;

/// Takes contents from several threads.
pub(super) struct Builder<'a> {
    store: &'a LocalStore,
    upload: Mutex<Upload<'a>>,
    /// Compressors at rest.
    sealers: Mutex<Vec<Sealer>>,
    progress: &'a Progress,
}

/// A run of a content: a chunk, or zeros.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Piece {
    pub len: u32,
    pub chunk: Option<ChunkId>,
}

/// A content that is in the store.
pub(super) struct Stored {
    pub content: Content,
    pub pieces: Vec<Piece>,
}

impl<'a> Builder<'a> {
    pub(super) fn new(store: &'a LocalStore, progress: &'a Progress) -> Result<Builder<'a>, Error> {
        Ok(Builder { store, upload: Mutex::new(store.upload()?), sealers: Mutex::default(), progress })
    }

    /// Stores a content that is at hand whole.
    pub(super) fn whole(&self, bytes: &[u8]) -> Result<Vec<Piece>, Error> {
        let (cuts, _) = cut_batch(bytes, true);
        self.run(bytes, &cuts)
    }

    /// Stores what was cut.
    pub(super) fn run(&self, bytes: &[u8], cuts: &[Cut]) -> Result<Vec<Piece>, Error> {
        let sealer = lock(&self.sealers).pop();
        let mut sealer = match sealer {
            Some(sealer) => sealer,
            None => Sealer::new().map_err(Error::read("a compressor"))?,
        };
        let pieces = cuts.iter().map(|cut| self.piece(&mut sealer, cut, &bytes[cut.range.clone()])).collect();
        lock(&self.sealers).push(sealer);
        pieces
    }

    fn piece(&self, sealer: &mut Sealer, cut: &Cut, plain: &[u8]) -> Result<Piece, Error> {
        let len = plain.len() as u32;
        if cut.zero {
            Progress::add(&self.progress.zeroed_bytes, len.into());
            return Ok(Piece { len, chunk: None });
        }
        let id = ChunkId::of(plain);
        let is_new = !self.store.has(&id) && {
            let sealed = sealer.seal(id, plain);
            let is_new = lock(&self.upload).put(sealed)?;
            if is_new {
                Progress::add(&self.progress.stored_bytes, sealed.bytes.len() as u64);
            }
            is_new
        };
        if !is_new {
            Progress::add(&self.progress.skipped_bytes, len.into());
        }
        Ok(Piece { len, chunk: Some(id) })
    }

    /// Puts the document of `tree` behind the contents; the manifest, and the upload that holds all of it.
    pub(super) fn finish(
        self,
        stored: Vec<Stored>,
        links: HashMap<Sha1, Vec<u8>>,
        tree: Tree,
        mut header: Header,
    ) -> Result<(Manifest, Upload<'a>), Error> {
        let mut places = Places::default();
        let mut contents = Vec::with_capacity(stored.len());
        for Stored { content, pieces } in stored {
            places.add(&pieces);
            contents.push(content);
        }
        let mut links: Vec<(Sha1, Vec<u8>)> = links.into_iter().collect();
        links.sort_unstable_by_key(|(hash, _)| *hash);
        let document = Document { contents, links, tree }.emit();
        places.add(&self.whole(&document)?);
        header.size = places.end;
        if let Some(tree) = &mut header.tree {
            tree.document_bytes = document.len() as u64;
        }
        let manifest = Manifest { header, extents: places.extents, zeros: merged(places.zeros) };
        Ok((manifest, self.upload.into_inner().unwrap_or_else(PoisonError::into_inner)))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One piece behind the other.
#[derive(Default)]
struct Places {
    end: u64,
    extents: Vec<Extent>,
    zeros: Vec<std::ops::Range<u64>>,
}

impl Places {
    fn add(&mut self, pieces: &[Piece]) {
        for Piece { len, chunk } in pieces {
            let (offset, len) = (self.end, *len);
            self.end += u64::from(len);
            match chunk {
                Some(chunk) => self.extents.push(Extent { offset, len, chunk: *chunk }),
                None => self.zeros.push(offset..self.end),
            }
        }
    }
}

/// Cuts a content that comes in runs, one behind the other.
#[derive(Default)]
pub(super) struct Runs {
    carried: Vec<u8>,
}

impl Runs {
    /// The bytes whose cuts are certain, with the cuts; the rest is kept for the next run.
    pub(super) fn take(&mut self, bytes: &[u8], is_last: bool) -> (Vec<u8>, Vec<Cut>) {
        let mut all = std::mem::take(&mut self.carried);
        all.extend_from_slice(bytes);
        let (cuts, rest) = cut_batch(&all, is_last);
        self.carried = all.split_off(rest);
        (all, cuts)
    }
}
