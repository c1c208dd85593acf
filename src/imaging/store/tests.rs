mod crash;
mod far;

use super::files::*;
use super::format::*;
use super::local::LocalStore;
use super::*;
use crate::imaging::chunk::{Sealer, Verified};
use tempfile::TempDir;

fn store() -> (TempDir, LocalStore) {
    let folder = tempfile::tempdir().unwrap();
    let store = LocalStore::create(&folder.path().join("store")).unwrap();
    (folder, store)
}

fn content(number: u32) -> Vec<u8> {
    (0..3000 + number).flat_map(|n| (n ^ number).to_le_bytes()).collect()
}

fn put(store: &LocalStore, contents: impl IntoIterator<Item = Vec<u8>>) -> Vec<ChunkId> {
    let mut upload = store.upload().unwrap();
    let mut sealer = Sealer::new().unwrap();
    let mut ids = Vec::new();
    for plain in contents {
        ids.push(ChunkId::of(&plain));
        upload.put(sealer.seal(ChunkId::of(&plain), &plain)).unwrap();
    }
    upload.close_pack().unwrap();
    ids
}

fn read(store: &LocalStore, id: ChunkId) -> Vec<u8> {
    let place = store.locate(&[id]).unwrap()[0].expect("the chunk is there");
    let bytes = store.read_range(place.pack, place.entry.offset.into(), place.entry.stored_bytes as usize).unwrap();
    let mut verified = Verified::with_capacity(1 << 20).unwrap();
    verified.begin(0);
    verified.open(place.entry.sealed(&bytes)).unwrap();
    verified.as_bytes().to_vec()
}

#[test]
fn what_is_put_is_read_back_by_another_process() {
    let (folder, store) = store();
    let ids = put(&store, (0..20).map(content));
    let other = LocalStore::open(&folder.path().join("store")).unwrap();
    for (number, id) in ids.iter().enumerate() {
        assert_eq!(read(&other, *id), content(number as u32));
    }
    let late = put(&store, [content(99)]);
    assert_eq!(read(&other, late[0]), content(99), "a pack that came later is found");
}

#[test]
fn equal_content_is_stored_once() {
    let (_folder, store) = store();
    put(&store, (0..20).map(content));
    put(&store, (0..20).chain(0..20).map(content));
    assert_eq!(store.packs().unwrap().len(), 1);
    let mut upload = store.upload().unwrap();
    let (plain, mut sealer) = (content(77), Sealer::new().unwrap());
    let sealed = sealer.seal(ChunkId::of(&plain), &plain);
    assert!(upload.put(sealed).unwrap());
    assert!(!upload.put(sealed).unwrap(), "in the pack that is still open");
}

#[test]
fn an_upload_that_is_dropped_leaves_nothing() {
    let (folder, store) = store();
    let mut upload = store.upload().unwrap();
    let (plain, mut sealer) = (content(1), Sealer::new().unwrap());
    upload.put(sealer.seal(ChunkId::of(&plain), &plain)).unwrap();
    drop(upload);
    assert_eq!(std::fs::read_dir(folder.path().join("store/tmp")).unwrap().count(), 0);
    assert!(store.locate(&[ChunkId::of(&plain)]).unwrap()[0].is_none());
}

#[test]
fn a_damaged_pack_is_named_and_the_rest_is_read() {
    let (folder, store) = store();
    let lost = put(&store, [content(1)]);
    let kept = put(&store, [content(2)]);
    let pack = store.locate(&lost).unwrap()[0].unwrap().pack;
    let path = store.pack_path(pack);
    let bytes = std::fs::read(&path).unwrap();
    let other = || LocalStore::open(&folder.path().join("store")).unwrap();
    for (damaged, damage) in [
        (bytes[..bytes.len() - 1].to_vec(), PackDamage::Footer),
        (vec![], PackDamage::Footer),
        ([&bytes[..bytes.len() - 60], &[9], &bytes[bytes.len() - 59..]].concat(), PackDamage::Index),
    ] {
        std::fs::write(&path, damaged).unwrap();
        assert_eq!(other().refresh().unwrap(), [(pack, damage)]);
        assert!(other().locate(&lost).unwrap()[0].is_none());
        assert_eq!(read(&other(), kept[0]), content(2));
    }
}

#[test]
fn ranges_outside_a_pack_and_packs_that_are_gone_are_errors() {
    let (_folder, store) = store();
    let ids = put(&store, [content(1)]);
    let pack = store.locate(&ids).unwrap()[0].unwrap().pack;
    assert!(matches!(store.read_range(pack, 1 << 40, 10), Err(Error::PackRange { .. })));
    assert!(matches!(store.read_range(PackId([1; 32]), 0, 10), Err(Error::MissingPack { .. })));
}

#[test]
fn write_whole_keeps_or_replaces_as_it_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let (temporary, path) = (folder.path().join("t"), folder.path().join("a/b"));
    write_whole(&Disk, temporary.clone(), &path, b"old", Existing::Keep).unwrap();
    let kept = write_whole(&Disk, temporary.clone(), &path, b"new", Existing::Keep);
    assert_eq!(kept.unwrap_err().kind(), std::io::ErrorKind::AlreadyExists);
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
    write_whole(&Disk, temporary.clone(), &path, b"new", Existing::Replace).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"new");
    assert!(!temporary.exists());
}
