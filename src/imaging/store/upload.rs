//! Putting chunks into a store: packs that are written once.

use std::collections::HashSet;
use std::fs::File;
use std::path::PathBuf;

use crate::imaging::chunk::{ChunkId, Sealed};
use crate::imaging::error::Error;
use crate::imaging::store::files::Output;
use crate::imaging::store::format::{Entry, MAGIC, PACK_BYTES, PackId, emit_tail};
use crate::imaging::store::local::LocalStore;
use crate::stdx::owner::adopt;

/// Writes go to the file in pieces of this size.
const WRITE_BYTES: usize = 1 << 20;

/// An upload under way. Chunks become visible to others a pack at a time; the version, when it is published. Dropping it
/// removes what is not yet a pack; the packs that were closed stay for whoever needs the same chunks, or for the collector.
pub struct Upload<'a> {
    packs: PackWriter<'a>,
    /// Holds the store's lock shared until the upload ends, however it ends.
    _lock: File,
}

/// While it lives nothing goes that no version needs yet.
pub struct Hold {
    _lock: File,
}

/// Writes chunks into packs, as many as it takes.
pub(super) struct PackWriter<'a> {
    store: &'a LocalStore,
    pack: Option<OpenPack>,
    /// Chunks of the pack that is open.
    pending: HashSet<ChunkId>,
    /// Packs that were closed.
    written: Vec<PackId>,
    stored_bytes: u64,
}

struct OpenPack {
    temporary: PathBuf,
    file: Box<dyn Output>,
    buffer: Vec<u8>,
    entries: Vec<Entry>,
    offset: u64,
}

impl LocalStore {
    /// Begins an upload; waits while garbage is being collected.
    pub fn upload(&self) -> Result<Upload<'_>, Error> {
        let lock = self.lock_shared()?;
        self.refresh()?;
        Ok(Upload { packs: PackWriter::new(self), _lock: lock })
    }

    /// Keeps the collector of garbage away for as long as it lives; waits while it works.
    pub fn hold(&self) -> Result<Hold, Error> {
        self.lock_shared().map(|lock| Hold { _lock: lock })
    }

    /// Keeps the collector away for as long as the file is open; waits until it is done.
    /// Nothing that is in the store now goes away while the lock is held.
    pub fn lock_shared(&self) -> Result<File, Error> {
        let lock = self.lock_file()?;
        lock.lock_shared().map_err(Error::write("the store's lock"))?;
        Ok(lock)
    }

    pub(super) fn lock_file(&self) -> Result<File, Error> {
        let path = self.root.join("lock");
        let open = File::options().create(true).truncate(false).write(true).open(&path);
        let lock = open.map_err(Error::write(path.display()))?;
        adopt(&path).map_err(Error::write(path.display()))?;
        Ok(lock)
    }
}

impl<'a> Upload<'a> {
    /// Stores a chunk unless it is there; says whether it was new.
    pub fn put(&mut self, sealed: Sealed<'_>) -> Result<bool, Error> {
        if self.packs.holds(&sealed.id) || self.packs.store.has(&sealed.id) {
            return Ok(false);
        }
        self.packs.append(sealed).map(|()| true)
    }

    /// Bytes that this upload has added to the store.
    pub fn stored_bytes(&self) -> u64 {
        self.packs.stored_bytes
    }

    /// Makes everything that was put durable and visible.
    pub fn close_pack(&mut self) -> Result<(), Error> {
        self.packs.close()
    }

    /// The store that it goes into.
    pub(in crate::imaging) fn owner(&self) -> &'a LocalStore {
        self.packs.store
    }
}

impl<'a> PackWriter<'a> {
    pub(super) fn new(store: &'a LocalStore) -> PackWriter<'a> {
        PackWriter { store, pack: None, pending: HashSet::new(), written: Vec::new(), stored_bytes: 0 }
    }

    /// Whether the chunk is in the pack that is open.
    pub(super) fn holds(&self, id: &ChunkId) -> bool {
        self.pending.contains(id)
    }

    pub(super) fn append(&mut self, sealed: Sealed<'_>) -> Result<(), Error> {
        let pack = match &mut self.pack {
            Some(pack) => pack,
            none => none.insert(OpenPack::create(self.store)?),
        };
        pack.append(sealed)?;
        self.stored_bytes += sealed.bytes.len() as u64;
        self.pending.insert(sealed.id);
        if pack.offset >= PACK_BYTES { self.close() } else { Ok(()) }
    }

    /// Closes the last pack; all that were written.
    pub(super) fn finish(mut self) -> Result<Vec<PackId>, Error> {
        self.close()?;
        Ok(std::mem::take(&mut self.written))
    }

    fn close(&mut self) -> Result<(), Error> {
        if let Some(pack) = &mut self.pack {
            self.written.push(pack.close(self.store)?);
            self.pack = None;
            self.pending.clear();
        }
        Ok(())
    }
}

impl Drop for PackWriter<'_> {
    fn drop(&mut self) {
        if let Some(pack) = &self.pack {
            let _ = self.store.files.remove(&pack.temporary);
        }
    }
}

impl OpenPack {
    fn create(store: &LocalStore) -> Result<OpenPack, Error> {
        let temporary = store.temporary()?;
        let file = store.files.create(&temporary).map_err(Error::write(temporary.display()))?;
        let mut buffer = Vec::with_capacity(WRITE_BYTES * 2);
        buffer.extend_from_slice(MAGIC);
        Ok(OpenPack { temporary, file, buffer, entries: Vec::new(), offset: MAGIC.len() as u64 })
    }

    fn append(&mut self, sealed: Sealed<'_>) -> Result<(), Error> {
        self.entries.push(Entry {
            id: sealed.id,
            offset: self.offset as u32,
            stored_bytes: sealed.bytes.len() as u32,
            plain_bytes: sealed.plain_bytes,
            encoding: sealed.encoding,
        });
        self.offset += sealed.bytes.len() as u64;
        self.buffer.extend_from_slice(sealed.bytes);
        if self.buffer.len() >= WRITE_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), Error> {
        self.file.write(&self.buffer).map_err(Error::write(self.temporary.display()))?;
        self.buffer.clear();
        Ok(())
    }

    /// Index, footer, sync, rename, sync of the folder: from here on the pack exists, for ever the same.
    fn close(&mut self, store: &LocalStore) -> Result<PackId, Error> {
        let (tail, id) = emit_tail(&self.entries);
        self.buffer.extend_from_slice(&tail);
        self.flush()?;
        let path = store.pack_path(id);
        let folder = path.parent().map(PathBuf::from).unwrap_or_default();
        let placed = self.file.sync().and_then(|()| {
            store.files.make_folder(&folder)?;
            store.files.rename(&self.temporary, &path)?;
            store.files.sync_folder(&folder)
        });
        placed.map_err(Error::write(path.display()))?;
        store.learn(id, &self.entries);
        Ok(id)
    }
}
