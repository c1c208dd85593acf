//! Packs and manifests far away: what is published comes back, and what goes wrong there is noticed here.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::crash::{import, piece};
use super::*;
use crate::access::signing::SigningKey;
use crate::imaging::store::gc::gc;
use crate::imaging::store::near::{Far, Synced};
use crate::imaging::store::objects::{Check, Folder, Objects, Several, checked};
use crate::imaging::store::scrub::scrub;
use crate::imaging::store::verify::verify;
use crate::imaging::store::versions::Version;
use crate::stdx::hint::chain;
use crate::stdx::monitor::Progress;
use crate::stdx::time::{Clock, SystemClock};

/// What is wrong with a place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Trouble {
    None,
    /// It does not answer.
    Gone,
    /// What it gives is cut short.
    Truncated,
    /// It gives another object.
    Other,
    /// One byte in the middle is another.
    Flipped,
}

struct Memory {
    objects: Mutex<BTreeMap<String, Vec<u8>>>,
    trouble: Mutex<Trouble>,
}

impl Memory {
    fn new() -> Arc<Memory> {
        Arc::new(Memory { objects: Mutex::default(), trouble: Mutex::new(Trouble::None) })
    }

    fn set(&self, trouble: Trouble) {
        *self.trouble.lock().unwrap() = trouble;
    }

    fn names(&self) -> Vec<String> {
        self.objects.lock().unwrap().keys().cloned().collect()
    }

    fn asked(&self) -> Result<Trouble, Error> {
        match *self.trouble.lock().unwrap() {
            Trouble::Gone => Err(Error::Unreachable { from: "memory".into(), reason: "it is gone".into() }),
            other => Ok(other),
        }
    }
}

impl Objects for Memory {
    fn name(&self) -> String {
        "memory".into()
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>, Error> {
        self.asked()?;
        Ok(self.names().into_iter().filter(|name| name.starts_with(prefix)).collect())
    }

    fn get(&self, name: &str, bytes_max: u64, check: Check<'_>) -> Result<Option<Vec<u8>>, Error> {
        let trouble = self.asked()?;
        let objects = self.objects.lock().unwrap();
        let Some(mut bytes) = objects.get(name).cloned() else { return Ok(None) };
        let middle = bytes.len() / 2;
        match trouble {
            Trouble::Truncated => bytes.truncate(middle),
            Trouble::Flipped => bytes[middle] ^= 1,
            Trouble::Other => bytes = objects.values().find(|other| **other != bytes).cloned().unwrap(),
            _ => {}
        }
        checked(self, name, bytes, bytes_max, check).map(Some)
    }

    fn get_end(&self, name: &str, len: u64) -> Result<Option<Vec<u8>>, Error> {
        self.asked()?;
        let found = self.objects.lock().unwrap().get(name).cloned();
        Ok(found.map(|mut bytes| bytes.split_off(bytes.len().saturating_sub(len as usize))))
    }

    fn put(&self, name: &str, bytes: Vec<u8>, existing: Existing) -> Result<bool, Error> {
        self.asked()?;
        let mut objects = self.objects.lock().unwrap();
        if existing == Existing::Keep && objects.contains_key(name) {
            return Ok(false);
        }
        objects.insert(name.to_owned(), bytes);
        Ok(true)
    }

    fn remove(&self, name: &str) -> Result<(), Error> {
        self.asked()?;
        self.objects.lock().unwrap().remove(name);
        Ok(())
    }
}

struct Bench {
    folder: TempDir,
    key: SigningKey,
}

impl Bench {
    fn new() -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let key = SigningKey::create(&folder.path().join("key")).unwrap();
        Bench { folder, key }
    }

    /// A store that keeps nothing here but the pack that was used last.
    fn store(&self, name: &str, objects: Arc<dyn Objects>) -> LocalStore {
        LocalStore::create(&self.folder.path().join(name)).unwrap().with_far(Far::new(objects, 0))
    }

    fn check(&self, store: &LocalStore, version: &Version) {
        let manifest = store.manifest(version).unwrap().verify(&self.key.public()).unwrap();
        let bad = verify(store, &manifest, &Progress::default()).unwrap();
        assert!(bad.is_empty(), "{version}: {bad:?}");
    }
}

fn near(store: &LocalStore) -> usize {
    store.near_packs().unwrap().len()
}

#[test]
fn what_is_published_lies_far_away_and_comes_back_when_it_is_asked_for() {
    let (bench, memory) = (Bench::new(), Memory::new());
    let store = bench.store("store", memory.clone());
    let first = import(&store, &bench.key, &piece(1, 300_000)).unwrap();
    let second = import(&store, &bench.key, &piece(2, 300_000)).unwrap();
    let packs = memory.names().iter().filter(|name| name.starts_with("packs/")).count();
    assert_eq!((packs, near(&store)), (2, 1), "one went to make room for the other");
    let again = bench.store("store", memory.clone());
    for version in [&first, &second, &first] {
        bench.check(&again, version);
        assert_eq!(near(&again), 1);
    }
    assert!(memory.names().contains(&"versions/image/2".to_owned()));
}

#[test]
fn a_place_that_is_gone_fails_the_publication_and_nothing_is_stored_twice_when_it_is_back() {
    let (bench, memory) = (Bench::new(), Memory::new());
    let store = bench.store("store", memory.clone());
    memory.set(Trouble::Gone);
    let error = import(&store, &bench.key, &piece(1, 300_000)).unwrap_err();
    assert!(error.is_transient(), "{}", chain(&error));
    assert!(store.versions("image").unwrap().is_empty());
    memory.set(Trouble::None);
    let version = import(&store, &bench.key, &piece(1, 300_000)).unwrap();
    assert_eq!((version.number, store.packs().unwrap().len()), (1, 1));
    bench.check(&store, &version);
}

#[test]
fn what_comes_damaged_never_gets_its_name_here() {
    let (bench, memory) = (Bench::new(), Memory::new());
    let store = bench.store("store", memory.clone());
    let first = import(&store, &bench.key, &piece(1, 300_000)).unwrap();
    import(&store, &bench.key, &piece(2, 300_000)).unwrap();
    let manifest = store.manifest(&first).unwrap().verify(&bench.key.public()).unwrap();
    for trouble in [Trouble::Gone, Trouble::Truncated, Trouble::Other, Trouble::Flipped] {
        memory.set(trouble);
        let bad = verify(&store, &manifest, &Progress::default()).unwrap();
        assert!(!bad.is_empty(), "{trouble:?}");
        assert_eq!(near(&store), 1, "{trouble:?}");
        assert_eq!(std::fs::read_dir(store.root.join("tmp")).unwrap().count(), 0, "{trouble:?}");
    }
    memory.set(Trouble::None);
    bench.check(&store, &first);
}

#[test]
fn with_several_places_what_one_lacks_or_gives_damaged_comes_from_another() {
    let bench = Bench::new();
    let (memory, folder) = (Memory::new(), bench.folder.path().join("share"));
    std::fs::create_dir(&folder).unwrap();
    let both = || Arc::new(Several(vec![memory.clone() as Arc<dyn Objects>, Arc::new(Folder::new(&folder))]));
    let store = bench.store("store", both());
    let first = import(&store, &bench.key, &piece(1, 300_000)).unwrap();
    import(&store, &bench.key, &piece(2, 300_000)).unwrap();
    let pack = |store: &LocalStore| {
        let manifest = store.manifest(&first).unwrap().verify(&bench.key.public()).unwrap();
        store.locate(&[manifest.extents[0].chunk]).unwrap()[0].unwrap().pack
    };
    let evict = || std::fs::remove_file(store.pack_path(pack(&store)));
    for trouble in [Trouble::Gone, Trouble::Truncated, Trouble::Flipped] {
        memory.set(trouble);
        let _ = evict();
        store.close_file(pack(&store));
        bench.check(&store, &first);
    }
    memory.set(Trouble::None);
    memory.objects.lock().unwrap().clear();
    let _ = evict();
    store.close_file(pack(&store));
    bench.check(&store, &first);
}

#[test]
fn a_copy_that_is_damaged_here_is_mended_from_far_away_and_never_the_other_way_round() {
    let (bench, memory) = (Bench::new(), Memory::new());
    let store = bench.store("store", memory.clone());
    let version = import(&store, &bench.key, &piece(1, 300_000)).unwrap();
    let pack = store.near_packs().unwrap()[0];
    let mut bytes = std::fs::read(store.pack_path(pack)).unwrap();
    bytes[1000] ^= 1;
    std::fs::write(store.pack_path(pack), bytes).unwrap();
    let report = scrub(&store, &bench.key.public(), None, &Progress::default()).unwrap();
    assert_eq!((report.repaired_chunks, report.lost.len()), (1, 0), "{report:?}");
    bench.check(&store, &version);
    let bytes = std::fs::read(store.pack_path(pack)).unwrap();
    std::fs::write(store.pack_path(pack), &bytes[..bytes.len() / 2]).unwrap();
    std::fs::write(store.root.join("far").join(pack.to_string()), "no index").unwrap();
    let report = scrub(&store, &bench.key.public(), None, &Progress::default()).unwrap();
    assert!(report.lost.is_empty(), "{report:?}");
    bench.check(&store, &version);
    assert_eq!(memory.names().len(), 2);
}

#[test]
fn a_pack_whose_index_is_damaged_in_both_places_is_found_chunk_by_chunk_wherever_it_lies() {
    let (bench, memory) = (Bench::new(), Memory::new());
    let store = bench.store("store", memory.clone());
    let version = import(&store, &bench.key, &piece(1, 300_000)).unwrap();
    for here in [true, false] {
        let pack = store.packs().unwrap()[0];
        let name = format!("packs/{pack}");
        let mut objects = memory.objects.lock().unwrap();
        let bytes = objects.get_mut(&name).unwrap();
        let at = bytes.len() - FOOTER_BYTES - 10;
        bytes[at] ^= 1;
        let path = store.pack_path(pack);
        if here {
            std::fs::write(path, &*bytes).unwrap()
        } else {
            std::fs::remove_file(path).unwrap()
        }
        drop(objects);
        std::fs::write(store.root.join("far").join(pack.to_string()), "no index").unwrap();
        let report = scrub(&store, &bench.key.public(), None, &Progress::default()).unwrap();
        assert_eq!((report.removed_packs.len(), &report.lost), (1, &vec![]), "{here}: {report:?}");
        assert!(report.recovered_chunks > 0 && report.recovered_chunks == report.sound_chunks, "{report:?}");
        bench.check(&store, &version);
        assert_eq!(memory.names().len(), 2, "the pack and the manifest");
        let far = bench.store(if here { "one" } else { "two" }, memory.clone());
        far.sync(&bench.key.public()).unwrap();
        bench.check(&far, &version);
    }
}

#[test]
fn a_site_whose_folder_was_lost_finds_its_images_again() {
    let (bench, memory) = (Bench::new(), Memory::new());
    let store = bench.store("store", memory.clone());
    let first = import(&store, &bench.key, &piece(1, 300_000)).unwrap();
    let second = import(&store, &bench.key, &piece(2, 300_000)).unwrap();
    let fresh = bench.store("fresh", memory.clone());
    let synced = fresh.sync(&bench.key.public()).unwrap();
    assert_eq!(synced, Synced { found_packs: 2, found_versions: 2, ..Synced::default() });
    assert_eq!(near(&fresh), 0, "only indexes are fetched");
    bench.check(&fresh, &first);
    bench.check(&fresh, &second);
    assert_eq!(fresh.sync(&bench.key.public()).unwrap(), Synced::default());
    let other_key = SigningKey::create(&bench.folder.path().join("other")).unwrap();
    let other = bench.store("other-site", memory);
    assert!(other.sync(&other_key.public()).is_err(), "manifests of another site are not taken");
}

#[test]
fn a_store_that_was_filled_before_is_sent_whole() {
    let (bench, memory) = (Bench::new(), Memory::new());
    let root = bench.folder.path().join("store");
    let version = import(&LocalStore::create(&root).unwrap(), &bench.key, &piece(1, 300_000)).unwrap();
    let store = bench.store("store", memory.clone());
    let synced = store.sync(&bench.key.public()).unwrap();
    assert_eq!(synced, Synced { sent_packs: 1, sent_versions: 1, ..Synced::default() });
    std::fs::remove_file(store.pack_path(store.packs().unwrap()[0])).unwrap();
    bench.check(&bench.store("store", memory), &version);
}

#[test]
fn numbers_that_another_appliance_gave_are_not_given_again() {
    let (bench, memory) = (Bench::new(), Memory::new());
    let (one, two) = (bench.store("one", memory.clone()), bench.store("two", memory));
    assert_eq!(import(&one, &bench.key, &piece(1, 90_000)).unwrap().number, 1);
    assert_eq!(import(&two, &bench.key, &piece(2, 90_000)).unwrap().number, 2);
}

#[test]
fn what_no_version_needs_goes_from_both_places() {
    let (bench, memory) = (Bench::new(), Memory::new());
    let store = bench.store("store", memory.clone());
    let (shared, dropped) = (piece(2, 200_000), piece(1, 600_000));
    let first = import(&store, &bench.key, &[shared.clone(), dropped].concat()).unwrap();
    let second = import(&store, &bench.key, &[shared, piece(3, 100_000)].concat()).unwrap();
    store.remove_version(&first).unwrap();
    let freed = gc(&store, &bench.key.public(), SystemClock.now().plus_seconds(2), 0).unwrap();
    assert_eq!(freed.rewritten_packs, 1);
    assert!(freed.freed_bytes > 300_000, "{freed:?}");
    let there: HashSet<String> = memory.names().into_iter().collect();
    let known: HashSet<String> = store.packs().unwrap().iter().map(|pack| format!("packs/{pack}")).collect();
    assert_eq!(there, known.into_iter().chain(["versions/image/2".to_owned()]).collect());
    bench.check(&store, &second);
}

#[test]
fn a_share_that_is_not_mounted_is_no_empty_place() {
    let folder = Folder::new(Path::new("/nonexistent/share"));
    assert!(folder.get("packs/x", 10, &|_| Ok(())).unwrap_err().is_transient());
    assert!(folder.list("packs/").unwrap_err().is_transient());
    assert!(folder.put("packs/x", vec![1], Existing::Keep).unwrap_err().is_transient());
    assert!(!Path::new("/nonexistent").exists());
}
