//! A cut after every write, sync, rename, link and removal of an import, a publication, a removal and a collection: whatever
//! of it reached the disk, what is left is a store in which every version is whole.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::*;
use crate::access::signing::SigningKey;
use crate::imaging::capture::{Content, capture};
use crate::imaging::manifest::{Header, Kind, Manifest, Signed};
use crate::imaging::store::gc::gc;
use crate::imaging::store::verify::verify;
use crate::imaging::store::versions::Version;
use crate::stdx::monitor::Progress;
use crate::stdx::time::{Clock, SystemClock, Timestamp};

/// What of a file system survives.
#[derive(Clone, Copy, Debug)]
enum Loss {
    /// `kill -9`: everything that was done is there.
    Process,
    /// Power: only what was synced is there, names and content.
    Power,
    /// Power, on a file system that keeps names eagerly and content late: files are there and empty.
    ContentOnly,
}

/// A file system that stops after some changes and remembers what was durable by then.
struct Cut {
    left: Mutex<usize>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    next: usize,
    /// Content of each file as it was written, and as it was when it was last synced.
    written: HashMap<usize, Vec<u8>>,
    synced: HashMap<usize, Vec<u8>>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
}

impl Cut {
    /// Everything under `root` is durable; `changes` are let through.
    fn after(changes: usize, root: &Path) -> Cut {
        let mut state = State::default();
        walk(root, &mut |path| {
            let file = state.next;
            state.next += 1;
            state.synced.insert(file, fs::read(path).unwrap());
            state.names.insert(path.to_owned(), file);
        });
        state.written = state.synced.clone();
        state.durable_names = state.names.clone();
        Cut { left: Mutex::new(changes), state: Arc::new(Mutex::new(state)) }
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut left = self.left.lock().unwrap();
        if *left == 0 {
            return Err(io::Error::other("the power is off"));
        }
        *left -= 1;
        change(&mut self.state.lock().unwrap())
    }

    /// The files that are there after `loss`.
    fn survivors(&self, loss: Loss) -> Vec<(PathBuf, Vec<u8>)> {
        let state = self.state.lock().unwrap();
        let (names, content) = match loss {
            Loss::Process => (&state.names, &state.written),
            Loss::Power => (&state.durable_names, &state.synced),
            Loss::ContentOnly => (&state.names, &state.synced),
        };
        names.iter().map(|(path, file)| (path.clone(), content.get(file).cloned().unwrap_or_default())).collect()
    }
}

impl Files for Arc<Cut> {
    fn create(&self, path: &Path) -> io::Result<Box<dyn Output>> {
        self.change(|state| {
            let file = state.next;
            state.next += 1;
            state.names.insert(path.to_owned(), file);
            state.written.insert(file, Vec::new());
            Ok(Box::new(CutFile { cut: Arc::clone(self), file, real: Disk.create(path)? }) as Box<dyn Output>)
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change(|state| {
            Disk.rename(from, to)?;
            let file = state.names.remove(from).unwrap();
            state.names.insert(to.to_owned(), file);
            Ok(())
        })
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change(|state| {
            Disk.link(from, to)?;
            let file = state.names[from];
            state.names.insert(to.to_owned(), file);
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.change(|state| {
            Disk.remove(path)?;
            state.names.remove(path);
            Ok(())
        })
    }

    fn make_folder(&self, path: &Path) -> io::Result<()> {
        Disk.make_folder(path)
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        self.change(|state| {
            let inside = |name: &PathBuf| name.parent() == Some(path);
            state.durable_names.retain(|name, _| !inside(name));
            let names: Vec<_> =
                state.names.iter().filter(|(name, _)| inside(name)).map(|(n, f)| (n.clone(), *f)).collect();
            state.durable_names.extend(names);
            Ok(())
        })
    }
}

struct CutFile {
    cut: Arc<Cut>,
    file: usize,
    real: Box<dyn Output>,
}

impl Output for CutFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let written = self.cut.change(|state| {
            state.written.entry(self.file).or_default().extend_from_slice(bytes);
            self.real.write(bytes)
        });
        if written.is_err() {
            // The cut falls into the middle of the write.
            let half = &bytes[..bytes.len() / 2];
            self.cut.state.lock().unwrap().written.entry(self.file).or_default().extend_from_slice(half);
        }
        written
    }

    fn sync(&mut self) -> io::Result<()> {
        self.cut.change(|state| {
            let content = state.written[&self.file].clone();
            state.synced.insert(self.file, content);
            Ok(())
        })
    }
}

fn walk(folder: &Path, visit: &mut impl FnMut(&Path)) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { walk(&path, visit) } else { visit(&path) }
    }
}

pub(super) fn piece(seed: u8, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
    bytes
}

pub(super) fn import(store: &LocalStore, key: &SigningKey, bytes: &[u8]) -> Result<Version, Error> {
    let header = Header {
        kind: Kind::File,
        size: bytes.len() as u64,
        sector_bytes: 512,
        created: Timestamp::from_milliseconds(0),
        needed_bytes: 0,
        source: String::new(),
        partitions: vec![],
        remarks: vec![],
        tree: None,
    };
    let mut upload = store.upload()?;
    let content = Content::whole(bytes.len() as u64);
    let manifest: Manifest = capture(&bytes, content, header, &mut upload, &Progress::default())?;
    let chunks: Vec<ChunkId> = manifest.extents.iter().map(|extent| extent.chunk).collect();
    upload.publish("image", &Signed::sign(&manifest, key), &chunks)
}

/// Import, publication, removal of the old version, collection; stops at the first change that is not let through.
fn work(root: &Path, files: Arc<Cut>, key: &SigningKey, new: &[u8]) -> Result<(), Error> {
    let store = LocalStore::open_with(root, Arc::new(files))?;
    import(&store, key, new)?;
    store.remove_version(&Version { name: "image".into(), number: 1 })?;
    let freed = gc(&store, &key.public(), SystemClock.now().plus_seconds(2), 0)?;
    assert_eq!(freed.rewritten_packs, 1, "the collection is meant to rewrite a pack");
    Ok(())
}

#[test]
fn a_cut_after_any_change_leaves_every_version_whole() {
    let key = SigningKey::create(&tempfile::tempdir().unwrap().path().join("key")).unwrap();
    let (dropped, shared, added) = (piece(1, 600_000), piece(2, 200_000), piece(3, 100_000));
    let old = [shared.clone(), dropped].concat();
    let new = [shared, added].concat();
    let mut changes = 0;
    loop {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("store");
        let store = LocalStore::create(&root).unwrap();
        import(&store, &key, &old).unwrap();
        let cut = Arc::new(Cut::after(changes, &root));
        let finished = work(&root, Arc::clone(&cut), &key, &new).is_ok();
        for loss in [Loss::Process, Loss::Power, Loss::ContentOnly] {
            let after = folder.path().join(format!("after {loss:?}"));
            for (path, content) in cut.survivors(loss) {
                let path = after.join(path.strip_prefix(&root).unwrap());
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, content).unwrap();
            }
            check(&after, &key, &new, finished, &format!("{changes} changes, {loss:?}"));
        }
        if finished {
            break;
        }
        changes += 1;
    }
    assert!(changes > 15, "only {changes} changes were cut");
}

/// Every version that is there is whole, one of the two is there, and work goes on.
fn check(root: &Path, key: &SigningKey, new: &[u8], finished: bool, what: &str) {
    let store = LocalStore::open(root).unwrap_or_else(|error| panic!("{what}: {error}"));
    fs::create_dir_all(root.join("tmp")).unwrap();
    let versions = store.versions("image").unwrap();
    assert!(!versions.is_empty(), "{what}: no version is left");
    assert!(!finished || versions.iter().all(|version| version.number == 2), "{what}: {versions:?}");
    for version in &versions {
        let manifest = store.manifest(version).and_then(|signed| Ok(signed.verify(&key.public())?));
        let manifest = manifest.unwrap_or_else(|error| panic!("{what}: {version}: {error}"));
        let bad = verify(&store, &manifest, &Progress::default()).unwrap();
        assert!(bad.is_empty(), "{what}: {version}: {bad:?}");
    }
    let again = import(&store, key, new).unwrap_or_else(|error| panic!("{what}: import: {error}"));
    let manifest = store.manifest(&again).unwrap().verify(&key.public()).unwrap();
    gc(&store, &key.public(), SystemClock.now().plus_seconds(2), 0)
        .unwrap_or_else(|error| panic!("{what}: gc: {error}"));
    assert!(verify(&store, &manifest, &Progress::default()).unwrap().is_empty(), "{what}: after gc");
    assert_eq!(fs::read_dir(root.join("tmp")).unwrap().count(), 0, "{what}: temporary files are left");
}

/// A disk with room for so many bytes more: what does not fit is written in part.
struct Full {
    left: Mutex<usize>,
}

struct FullFile {
    file: Box<dyn Output>,
    disk: Arc<Full>,
}

impl Output for FullFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut left = self.disk.left.lock().unwrap();
        let fits = bytes.len().min(*left);
        *left -= fits;
        self.file.write(&bytes[..fits])?;
        if fits == bytes.len() { Ok(()) } else { Err(io::ErrorKind::StorageFull.into()) }
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync()
    }
}

impl Files for Arc<Full> {
    fn create(&self, path: &Path) -> io::Result<Box<dyn Output>> {
        Ok(Box::new(FullFile { file: Disk.create(path)?, disk: Arc::clone(self) }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        Disk.rename(from, to)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        Disk.link(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        Disk.remove(path)
    }

    fn make_folder(&self, path: &Path) -> io::Result<()> {
        Disk.make_folder(path)
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        Disk.sync_folder(path)
    }
}

/// Full in every part of what an import writes: chunks, the index and the footer of the pack, the manifest.
#[test]
fn a_disk_that_is_full_at_any_byte_leaves_the_store_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("store");
    let key = SigningKey::create(&folder.path().join("key")).unwrap();
    let version = import(&LocalStore::create(&root).unwrap(), &key, &piece(1, 300_000)).unwrap();
    let new = piece(2, 100_000);
    let (mut room, mut failures) = (0, 0);
    loop {
        let disk = Arc::new(Full { left: Mutex::new(room) });
        let store = LocalStore::open_with(&root, Arc::new(disk)).unwrap();
        let Err(error) = import(&store, &key, &new) else { break };
        let hint = crate::stdx::hint::Hint::hint(&error).unwrap();
        assert!(hint.contains("make room"), "{room}: {hint}");
        let store = LocalStore::open(&root).unwrap();
        assert_eq!(store.versions("image").unwrap(), std::slice::from_ref(&version), "{room}");
        assert_eq!(fs::read_dir(root.join("tmp")).unwrap().count(), 0, "{room}: something half-written is left");
        gc(&store, &key.public(), SystemClock.now(), 0).unwrap();
        (room, failures) = (room + if room < 99_000 { 9_001 } else { 13 }, failures + 1);
    }
    assert!(failures > 100, "only {failures} places were tried");
    let store = LocalStore::open(&root).unwrap();
    let newest = store.versions("image").unwrap().pop().unwrap();
    let manifest = store.manifest(&newest).unwrap().verify(&key.public()).unwrap();
    assert!(verify(&store, &manifest, &Progress::default()).unwrap().is_empty());
}
