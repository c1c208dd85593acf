//! Collecting garbage: the space of chunks that no version needs.
//!
//! It holds the store's lock alone, so no upload counts on what goes. Packs that hold nothing alive are removed; packs that
//! are mostly dead are rewritten: what is alive becomes durable in a new pack before the old one goes. A deployment that was
//! about to read an old pack looks the place up again.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::Serialize;

use crate::access::signing::PublicKey;
use crate::imaging::chunk::{CHUNK_BYTES_MAX, ChunkId, Verified};
use crate::imaging::error::Error;
use crate::imaging::manifest::Signed;
use crate::imaging::store::ChunkSource;
use crate::imaging::store::files::{Existing, write_whole};
use crate::imaging::store::format::{Entry, PackId};
use crate::imaging::store::local::{LocalStore, names};
use crate::imaging::store::upload::PackWriter;
use crate::imaging::store::versions::GONE;
use crate::stdx::time::Timestamp;

/// A removed version's chunks are kept this long: longer than any run takes.
pub const GRACE_HOURS: u32 = 24;

/// What a collection came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Freed {
    pub removed_packs: u64,
    pub rewritten_packs: u64,
    pub freed_bytes: u64,
    /// Bytes of chunks that are needed.
    pub live_bytes: u64,
}

/// Frees what no version needs. [`Error::Busy`] when uploads are under way. A manifest that cannot be read stops it: what it
/// needs is not known.
pub fn gc(store: &LocalStore, key: &PublicKey, now: Timestamp, grace_hours: u32) -> Result<Freed, Error> {
    let lock = store.lock_file()?;
    lock.try_lock().map_err(|_| Error::Busy("the store".to_owned()))?;
    forget_removed_versions(store, now, grace_hours)?;
    clear_temporary(store)?;
    let live = live_chunks(store, key)?;
    let mut freed = Freed::default();
    let mut kept: HashSet<ChunkId> = HashSet::new();
    let (mut dead, mut sparse) = (Vec::new(), Vec::new());
    for pack in store.packs()? {
        // A damaged pack is the business of scrub.
        let Ok(entries) = store.pack_entries(pack) else { continue };
        let all: u64 = entries.iter().map(|entry| u64::from(entry.stored_bytes)).sum();
        let alive = entries.iter().filter(|entry| live.contains(&entry.id));
        let alive: u64 = alive.map(|entry| u64::from(entry.stored_bytes)).sum();
        freed.live_bytes += alive;
        match alive {
            0 => dead.push(pack),
            alive if alive * 2 < all => sparse.push((pack, entries)),
            _ => kept.extend(entries.iter().map(|entry| entry.id)),
        }
    }
    let rewritten = rewrite(store, &sparse, &live, &mut kept)?;
    freed.rewritten_packs = rewritten.len() as u64;
    freed.removed_packs = dead.len() as u64;
    dead.extend(rewritten);
    let before = folder_bytes(store)?;
    for pack in dead {
        remove_pack(store, pack)?;
    }
    store.forget();
    freed.freed_bytes = before.saturating_sub(folder_bytes(store)?);
    Ok(freed)
}

/// The chunks of every version, and of those that were removed a short while ago.
pub(super) fn live_chunks(store: &LocalStore, key: &PublicKey) -> Result<HashSet<ChunkId>, Error> {
    let mut live = HashSet::new();
    for path in store.manifest_files()? {
        let bytes = fs::read(&path).map_err(Error::read(path.display()))?;
        let manifest = Signed::from_bytes(bytes)?.verify(key)?;
        live.extend(manifest.extents.iter().map(|extent| extent.chunk));
    }
    Ok(live)
}

fn forget_removed_versions(store: &LocalStore, now: Timestamp, grace_hours: u32) -> Result<(), Error> {
    let oldest = now.milliseconds() / 1000 - i64::from(grace_hours) * 3600;
    for path in store.manifest_files()? {
        let metadata = fs::metadata(&path).map_err(Error::read(path.display()))?;
        // The rename that removed it is the last change of its status.
        if path.extension().is_some_and(|extension| extension == GONE) && metadata.ctime() <= oldest {
            write_whole(&*store.files, store.temporary()?, &path, b"", Existing::Replace)
                .map_err(Error::write(path.display()))?;
        }
    }
    Ok(())
}

/// Copies what is alive of `sparse` into new packs; the packs whose content is safe elsewhere now.
fn rewrite(
    store: &LocalStore,
    sparse: &[(PackId, Vec<Entry>)],
    live: &HashSet<ChunkId>,
    kept: &mut HashSet<ChunkId>,
) -> Result<Vec<PackId>, Error> {
    let mut writer = PackWriter::new(store);
    let mut verified = Verified::with_capacity(CHUNK_BYTES_MAX).map_err(Error::read("a decompressor"))?;
    let mut rewritten = Vec::new();
    for (pack, entries) in sparse {
        let mut sound = true;
        for entry in entries.iter().filter(|entry| live.contains(&entry.id)) {
            if kept.contains(&entry.id) {
                continue;
            }
            let bytes = store.read_range(*pack, entry.offset.into(), entry.stored_bytes as usize)?;
            verified.begin(0);
            // Damage is not carried on: the pack stays as it is until it is scrubbed.
            if verified.open(entry.sealed(&bytes)).is_err() {
                sound = false;
                continue;
            }
            writer.append(entry.sealed(&bytes))?;
            kept.insert(entry.id);
        }
        rewritten.extend(sound.then_some(*pack));
    }
    // A pack is named by its index: what was written anew may have the name of what it replaces.
    let written = writer.finish()?;
    store.secure(&written.iter().copied().collect())?;
    rewritten.retain(|pack| !written.contains(pack));
    Ok(rewritten)
}

/// Removes a pack from everywhere: first from far away, so that what a crash leaves is found here again.
pub(super) fn remove_pack(store: &LocalStore, pack: PackId) -> Result<(), Error> {
    store.remove_far(pack)?;
    let path = store.pack_path(pack);
    let folder = path.parent().unwrap_or(Path::new("."));
    let removed = match store.files.remove(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && store.far.is_some() => Ok(()),
        other => other.and_then(|()| store.files.sync_folder(folder)),
    };
    removed.map_err(Error::write(path.display()))
}

/// Nobody writes while the lock is held alone: what lies in `tmp/` was left by a crash.
fn clear_temporary(store: &LocalStore) -> Result<(), Error> {
    let folder = store.root.join("tmp");
    for name in names(&folder)? {
        store.files.remove(&folder.join(&name)).map_err(Error::write(folder.display()))?;
    }
    Ok(())
}

fn folder_bytes(store: &LocalStore) -> Result<u64, Error> {
    store.packs()?.into_iter().map(|pack| store.pack_bytes(pack)).sum()
}
