//! What a release wrote is read by every later one: `tests/archives` is never edited, only added to.

use std::fs;
use std::path::{Path, PathBuf};

use remint::access::signing::PublicKey;
use remint::imaging::apply::{Options, make_match};
use remint::imaging::fs::files::{EntryKind, list};
use remint::imaging::fs::probe;
use remint::imaging::store::local::LocalStore;
use remint::imaging::store::verify::verify;
use remint::imaging::store::versions::Reference;
use remint::imaging::target::Target;
use remint::imaging::view::View;
use remint::stdx::hex;
use remint::stdx::io::Section;
use remint::stdx::monitor::Progress;
use sha2::{Digest, Sha256};

/// A copy of an archive, because opening a store makes its lock file.
fn copy(name: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/archives").join(name);
    copy_folder(&from, folder.path());
    let path = folder.path().to_owned();
    (folder, path)
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_folder(&path, &to);
        } else {
            fs::copy(&path, &to).unwrap();
        }
    }
}

#[test]
fn the_store_of_format_1_is_read_to_the_last_byte() {
    let (_folder, path) = copy("store-1");
    let store = LocalStore::open(&path.join("store")).unwrap();
    assert_eq!(store.refresh().unwrap(), []);
    let key = PublicKey::parse(fs::read_to_string(path.join("site.key")).unwrap().trim()).unwrap();
    let expected = fs::read_to_string(path.join("expected")).unwrap();
    for line in expected.lines() {
        let mut words = line.split_whitespace();
        let (reference, id, sum) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
        let version = store.resolve(&Reference::parse(reference).unwrap()).unwrap();
        let signed = store.manifest(&version).unwrap();
        assert_eq!(signed.version().to_string(), id, "{reference}");
        let manifest = signed.verify(&key).unwrap();
        assert!(verify(&store, &manifest, &Progress::default()).unwrap().is_empty(), "{reference}");
        let out = path.join(reference);
        let target = Target::open(&out).unwrap();
        make_match(&manifest, &store, &target, &Options::default(), &Progress::default(), &mut |_| {}).unwrap();
        assert_eq!(hex::emit(&Sha256::digest(fs::read(&out).unwrap())), sum, "{reference}");
    }
    assert_eq!(expected.lines().count(), 3);
}

#[test]
fn the_files_of_an_archived_version_are_listed() {
    let (_folder, path) = copy("store-1");
    let store = LocalStore::open(&path.join("store")).unwrap();
    let key = PublicKey::parse(fs::read_to_string(path.join("site.key")).unwrap().trim()).unwrap();
    let version = store.resolve(&Reference::parse("disk@prod").unwrap()).unwrap();
    let manifest = store.manifest(&version).unwrap().verify(&key).unwrap();
    let partition = &manifest.header.partitions[0];
    let view = View::open(&manifest, &store).unwrap();
    let section = Section::new(&view, partition.start, partition.size).unwrap();
    let files = list(&section, probe(&section).unwrap().kind).unwrap();
    assert_eq!(files["/folder/words.txt"].kind, EntryKind::File);
}
