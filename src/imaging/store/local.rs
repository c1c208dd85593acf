//! A content store in a folder.
//!
//! ```text
//! format              "remint store 1\n"
//! lock                held shared by uploads, alone by what removes
//! packs/4f/4f09...    packs, under the first two digits of their id
//! versions/NAME/7     signed manifests; 7.gone is a removed one: whole for runs under way, later empty
//!                     because a number is not given again
//! tags/NAME/prod      "7\n"
//! far/4f09...         index of a pack that is kept far away (near.rs); only then may the pack itself be absent
//! tmp/                what is being written; garbage when nobody holds the lock
//! ```

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use crate::imaging::chunk::ChunkId;
use crate::imaging::error::Error;
use crate::imaging::store::files::{Disk, Existing, Files, write_whole};
use crate::imaging::store::format::{Entry, FOOTER_BYTES, Footer, PackDamage, PackId, parse_index};
use crate::imaging::store::index::Index;
use crate::imaging::store::near::Far;
use crate::imaging::store::{ChunkSource, Location};
use crate::stdx::hex;

const FORMAT: &str = "remint store 1\n";

/// Open packs that are kept open; beyond that all are closed and opened again as they are needed.
const OPEN_PACKS_MAX: usize = 256;
/// How often a pack is brought here before its reader gives up: others are brought at the same time, and room is short.
const BRING_ATTEMPTS: usize = 16;

/// A store in a folder. Threads share it; processes may too.
pub struct LocalStore {
    pub(super) root: PathBuf,
    pub(super) files: Arc<dyn Files>,
    index: RwLock<Index>,
    open: Mutex<HashMap<PackId, Arc<File>>>,
    pub(super) far: Option<Far>,
}

impl LocalStore {
    /// Makes an empty store in `root`, or opens the one that is there.
    pub fn create(root: &Path) -> Result<LocalStore, Error> {
        LocalStore::create_with(root, Arc::new(Disk))
    }

    pub fn create_with(root: &Path, files: Arc<dyn Files>) -> Result<LocalStore, Error> {
        let format = root.join("format");
        if !format.exists() {
            let made =
                ["packs", "versions", "tags", "tmp"].iter().try_for_each(|name| files.make_folder(&root.join(name)));
            made.and_then(|()| {
                let temporary = root.join("tmp").join(fresh_name()?);
                write_whole(&*files, temporary, &format, FORMAT.as_bytes(), Existing::Replace)
            })
            .map_err(Error::write(root.display()))?;
        }
        LocalStore::open_with(root, files)
    }

    pub fn open(root: &Path) -> Result<LocalStore, Error> {
        LocalStore::open_with(root, Arc::new(Disk))
    }

    pub fn open_with(root: &Path, files: Arc<dyn Files>) -> Result<LocalStore, Error> {
        check_format(root)?;
        Ok(LocalStore { root: root.to_owned(), files, index: RwLock::default(), open: Mutex::default(), far: None })
    }

    /// Whether the store is there and can be listed, far places included.
    pub fn check(&self) -> Result<(), Error> {
        check_format(&self.root)?;
        self.packs().map(drop)
    }

    /// Whether the store has `id`, as far as is known without looking for packs of other processes.
    pub fn has(&self, id: &ChunkId) -> bool {
        self.index.read().unwrap_or_else(PoisonError::into_inner).contains(id)
    }

    /// The chunk that lies behind `id` in its pack: what most likely follows it on another disk too.
    pub(in crate::imaging) fn behind(&self, id: &ChunkId) -> Option<Entry> {
        self.index.read().unwrap_or_else(PoisonError::into_inner).behind(id)
    }

    /// Reads the indexes of the packs that have come since the last time. A pack that is damaged is left out, and named.
    pub fn refresh(&self) -> Result<Vec<(PackId, PackDamage)>, Error> {
        let mut damaged = Vec::new();
        let packs = self.packs()?;
        if !self.index.read().unwrap_or_else(PoisonError::into_inner).are_all_among(&packs) {
            self.forget();
        }
        for pack in packs {
            if self.index.read().unwrap_or_else(PoisonError::into_inner).knows(pack) {
                continue;
            }
            match self.pack_entries(pack) {
                Ok(entries) => self.learn(pack, &entries),
                Err(Error::DamagedPack { pack, damage }) => damaged.push((pack, damage)),
                Err(Error::MissingPack { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(damaged)
    }

    /// Empties the index, because packs went away; the next one who looks fills it again.
    pub(super) fn forget(&self) {
        *self.index.write().unwrap_or_else(PoisonError::into_inner) = Index::default();
        guard(&self.open).clear();
    }

    /// The ids of all packs.
    pub fn packs(&self) -> Result<Vec<PackId>, Error> {
        let mut packs = self.near_packs()?;
        packs.extend(self.far_packs()?);
        packs.sort_unstable();
        packs.dedup();
        Ok(packs)
    }

    /// The packs that lie in the store's own folder.
    pub fn near_packs(&self) -> Result<Vec<PackId>, Error> {
        let folder = self.root.join("packs");
        let mut packs = Vec::new();
        for shard in names(&folder)? {
            packs.extend(names(&folder.join(shard))?.iter().filter_map(|name| name.parse::<PackId>().ok()));
        }
        Ok(packs)
    }

    /// The index of one pack, checked against its name.
    pub fn pack_entries(&self, pack: PackId) -> Result<Vec<Entry>, Error> {
        if let Some(entries) = self.far_entries(pack)? {
            return Ok(entries);
        }
        let file = self.pack_file(pack)?;
        let read = || -> io::Result<Result<Vec<Entry>, PackDamage>> {
            let size = file.metadata()?.len();
            let Some(at) = size.checked_sub(FOOTER_BYTES as u64) else { return Ok(Err(PackDamage::Footer)) };
            let mut bytes = [0; FOOTER_BYTES];
            file.read_exact_at(&mut bytes, at)?;
            let footer = match Footer::parse(&bytes, size) {
                Ok(footer) => footer,
                Err(damage) => return Ok(Err(damage)),
            };
            let mut index = vec![0; footer.index_bytes()];
            file.read_exact_at(&mut index, footer.index_offset)?;
            Ok(parse_index(&index, footer, pack))
        };
        let entries = read().map_err(Error::read(format!("pack {pack}")))?;
        entries.map_err(|damage| Error::DamagedPack { pack, damage })
    }

    /// A pack, open for reading: what the appliance sends from. One that is far away is brought here first.
    pub fn pack_file(&self, pack: PackId) -> Result<Arc<File>, Error> {
        let mut found = self.near_file(pack);
        for _ in 0..BRING_ATTEMPTS {
            match found {
                // It may have to make room for another at once, before it is opened.
                Err(Error::MissingPack { .. }) if self.bring(pack)? => found = self.near_file(pack),
                _ => break,
            }
        }
        found
    }

    fn near_file(&self, pack: PackId) -> Result<Arc<File>, Error> {
        let path = self.pack_path(pack);
        let mut open = guard(&self.open);
        if let Some(file) = open.get(&pack).filter(|file| !was_replaced(file, &path)) {
            return Ok(Arc::clone(file));
        }
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                drop(open);
                if self.far.is_none() {
                    self.forget();
                }
                return Err(Error::MissingPack { pack });
            }
            other => Arc::new(other.map_err(Error::read(format!("pack {pack}")))?),
        };
        if open.len() >= OPEN_PACKS_MAX {
            open.clear();
        }
        open.insert(pack, Arc::clone(&file));
        self.far.iter().for_each(|far| far.touch(pack));
        Ok(file)
    }

    /// Lets go of a pack's file: it is about to be removed from here.
    pub(super) fn close_file(&self, pack: PackId) {
        guard(&self.open).remove(&pack);
    }

    pub fn pack_path(&self, pack: PackId) -> PathBuf {
        let name = pack.to_string();
        self.root.join("packs").join(&name[..2]).join(name)
    }

    pub(super) fn learn(&self, pack: PackId, entries: &[Entry]) {
        self.index.write().unwrap_or_else(PoisonError::into_inner).add(pack, entries);
    }

    /// A new name under `tmp/`.
    pub(super) fn temporary(&self) -> Result<PathBuf, Error> {
        let name = fresh_name().map_err(Error::write(self.root.join("tmp").display()))?;
        Ok(self.root.join("tmp").join(name))
    }

    fn find(&self, ids: &[ChunkId]) -> Vec<Option<Location>> {
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        ids.iter().map(|id| index.find(id)).collect()
    }
}

fn check_format(root: &Path) -> Result<(), Error> {
    let found = match fs::read_to_string(root.join("format")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Error::NoStore { path: root.to_owned() });
        }
        other => other.map_err(Error::read(root.join("format").display()))?,
    };
    if found != FORMAT {
        return Err(Error::StoreFormat { path: root.to_owned(), found: found.trim().to_owned() });
    }
    Ok(())
}

impl ChunkSource for LocalStore {
    fn name(&self) -> String {
        self.root.display().to_string()
    }

    fn locate(&self, ids: &[ChunkId]) -> Result<Vec<Option<Location>>, Error> {
        let found = self.find(ids);
        if found.iter().all(Option::is_some) {
            return Ok(found);
        }
        self.refresh()?;
        Ok(self.find(ids))
    }

    fn read_range(&self, pack: PackId, offset: u64, len: usize) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0; len];
        self.read_into(pack, offset, &mut bytes)?;
        Ok(bytes)
    }

    fn read_into(&self, pack: PackId, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        match self.pack_file(pack)?.read_exact_at(buffer, offset) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(Error::PackRange { pack, offset, len: buffer.len() as u64 })
            }
            other => other.map_err(Error::read(format!("pack {pack}"))),
        }
    }
}

/// The names in a folder, sorted; none when it does not exist.
pub(super) fn names(folder: &Path) -> Result<Vec<String>, Error> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(Error::read(folder.display()))?,
    };
    let names: io::Result<Vec<String>> =
        entries.map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned())).collect();
    let mut names = names.map_err(Error::read(folder.display()))?;
    names.sort_unstable();
    Ok(names)
}

/// Whether another file has the name now: scrub repaired it. One that is gone can still be read here.
fn was_replaced(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(named)) => open.ino() != named.ino(),
        _ => false,
    }
}

fn fresh_name() -> io::Result<String> {
    let random = ring::rand::generate::<[u8; 12]>(&ring::rand::SystemRandom::new());
    Ok(hex::emit(&random.map_err(|_| io::Error::other("no random numbers"))?.expose()))
}

fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
