//! Trees through the store and back, compared by everything that a folder holds.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::apply::{look_and_plan, make_match};
use super::{diff, export, reader};
use crate::access::signing::SigningKey;
use crate::imaging::apply::Options;
use crate::imaging::chunk::ChunkId;
use crate::imaging::error::Error;
use crate::imaging::import::{Imported, Importer};
use crate::imaging::manifest::Manifest;
use crate::imaging::store::format::PackId;
use crate::imaging::store::gc::gc;
use crate::imaging::store::local::LocalStore;
use crate::imaging::store::stats::stats;
use crate::imaging::store::verify::verify;
use crate::imaging::store::{ChunkSource, Location};
use crate::imaging::wim::capture::{self, capture as capture_wim};
use crate::imaging::wim::codec::Compression;
use crate::imaging::wim::reader::{OnDamage, Wim};
use crate::stdx::monitor::Progress;
use crate::stdx::time::Timestamp;

struct Lab {
    folder: tempfile::TempDir,
    store: LocalStore,
    key: SigningKey,
}

impl Lab {
    fn new() -> Lab {
        let folder = tempfile::tempdir().unwrap();
        let store = LocalStore::create(&folder.path().join("store")).unwrap();
        let key = SigningKey::create(&folder.path().join("key")).unwrap();
        Lab { folder, store, key }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn import(&self, take: impl FnOnce(&Importer<'_>) -> Result<Imported, Error>) -> Imported {
        let progress = Progress::default();
        let now = Timestamp::from_milliseconds(1_700_000_000_000);
        take(&Importer { store: &self.store, key: &self.key, now, progress: &progress }).unwrap()
    }

    fn capture(&self, name: &str, folder: &Path) -> Imported {
        self.import(|importer| importer.folder(name, folder, &[]))
    }

    fn apply(&self, manifest: &Manifest, folder: &Path) -> super::apply::Receipt {
        let progress = Progress::default();
        make_match(manifest, &self.store, folder, &Options::default(), &progress, &mut |_| {}).unwrap()
    }
}

fn wim_options(compression: Compression) -> capture::Options<'static> {
    capture::Options {
        compression,
        solid: false,
        pipable: false,
        integrity: false,
        append: false,
        exclude: &[],
        name: "tree".into(),
        description: String::new(),
        now: 1,
        guid: [1; 16],
        workers: 2,
    }
}

/// Bytes that differ from seed to seed and do not compress.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Files of all kinds: small, empty, large, with holes, equal ones, links of both kinds, modes, times.
fn make_tree(root: &Path, seed: u64) {
    fs::create_dir_all(root.join("usr/share/doc")).unwrap();
    fs::create_dir_all(root.join("etc")).unwrap();
    for number in 0..60 {
        let folder = ["usr", "usr/share", "usr/share/doc", "etc"][number % 4];
        fs::write(root.join(folder).join(format!("file{number}")), noise(seed + number as u64, 50 + number * 317))
            .unwrap();
    }
    fs::write(root.join("etc/empty"), "").unwrap();
    fs::write(root.join("usr/large"), noise(seed, 3_000_000)).unwrap();
    fs::write(root.join("usr/same"), noise(seed, 3_000_000)).unwrap();
    fs::write(root.join("usr/zeros"), vec![0; 700_000]).unwrap();
    let holes = fs::File::create(root.join("usr/holes")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&holes, b"middle", 1_500_000).unwrap();
    holes.set_len(4_000_000).unwrap();
    fs::hard_link(root.join("usr/large"), root.join("etc/also-large")).unwrap();
    symlink("../usr/large", root.join("etc/link")).unwrap();
    symlink("/nowhere", root.join("etc/absolute")).unwrap();
    fs::set_permissions(root.join("etc/file3"), fs::Permissions::from_mode(0o4750)).unwrap();
    let time = std::time::UNIX_EPOCH + std::time::Duration::new(1_234_567_890, 123_456_700);
    fs::File::open(root.join("etc/file7")).and_then(|file| file.set_modified(time)).unwrap();
}

/// Everything of a tree that a folder holds, by path.
fn snapshot(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut seen = BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    while let Some(path) = todo.pop() {
        let stat = path.symlink_metadata().unwrap();
        let content = match () {
            () if stat.is_symlink() => format!("{:?}", fs::read_link(&path).unwrap()),
            () if stat.is_file() => blake3::hash(&fs::read(&path).unwrap()).to_hex().to_string(),
            () => {
                todo.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
                String::new()
            }
        };
        let links = if stat.is_dir() { 0 } else { stat.nlink() };
        let time = (stat.mtime(), stat.mtime_nsec() / 100);
        let facts = format!("{:o} {} {} {links} {time:?} {content}", stat.mode(), stat.uid(), stat.gid());
        seen.insert(path.strip_prefix(root).unwrap().to_owned(), facts);
    }
    seen
}

#[test]
fn a_folder_that_was_captured_comes_back_and_is_not_published_twice() {
    let lab = Lab::new();
    make_tree(&lab.path("tree"), 1);
    let first = lab.capture("tree", &lab.path("tree"));
    let again = lab.capture("tree", &lab.path("tree"));
    assert!(first.is_new);
    assert_eq!((again.is_new, again.stored_bytes), (false, 0), "reading changed nothing");
    assert!(verify(&lab.store, &first.manifest, &Progress::default()).unwrap().is_empty());
    let receipt = lab.apply(&first.manifest, &lab.path("out"));
    assert_eq!(snapshot(&lab.path("out")), snapshot(&lab.path("tree")));
    assert!(receipt.bytes.read_back_chunks > 20 && receipt.not_held.is_empty(), "{receipt:?}");
    let holes = lab.path("out/usr/holes").metadata().unwrap();
    assert!(holes.blocks() * 512 < 1_000_000, "what reads as zero is not written");
}

#[test]
fn what_is_right_is_kept_and_what_is_wrong_is_mended() {
    let lab = Lab::new();
    make_tree(&lab.path("tree"), 1);
    let manifest = lab.capture("tree", &lab.path("tree")).manifest;
    let out = lab.path("out");
    lab.apply(&manifest, &out);
    let receipt = lab.apply(&manifest, &out);
    assert_eq!((receipt.bytes.fetched_bytes, receipt.bytes.wire_bytes > 0), (0, true), "only the document is read");
    let inode = |name: &str| out.join(name).symlink_metadata().unwrap().ino();
    let before = ["etc/file3", "usr/same", "etc/link"].map(inode);

    // One chunk, a length, a mode, a link, a stranger's name for a file, a file that is gone.
    let same = fs::OpenOptions::new().write(true).open(out.join("usr/same")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&same, b"wrong", 1_000_000).unwrap();
    fs::write(out.join("usr/file0"), "short").unwrap();
    fs::OpenOptions::new().append(true).open(out.join("usr/zeros")).unwrap().set_len(800_000).unwrap();
    fs::set_permissions(out.join("etc/file3"), fs::Permissions::from_mode(0o777)).unwrap();
    fs::remove_file(out.join("etc/absolute")).unwrap();
    symlink("/etc/passwd", out.join("etc/absolute")).unwrap();
    fs::hard_link(out.join("usr/file4"), lab.path("stranger")).unwrap();
    fs::write(lab.path("stranger"), "changed through the other name").unwrap();
    fs::remove_file(out.join("etc/also-large")).unwrap();
    fs::write(out.join("etc/also-large"), noise(1, 3_000_000)).unwrap();
    fs::remove_file(out.join("etc/file11")).unwrap();

    let plan = look_and_plan(&manifest, &lab.store, &out, &Options::default(), &Progress::default()).unwrap();
    let receipt = lab.apply(&manifest, &out);
    assert_eq!(snapshot(&out), snapshot(&lab.path("tree")));
    assert_eq!(plan.fetch_bytes, receipt.bytes.fetched_bytes);
    assert_eq!(fs::read(lab.path("stranger")).unwrap(), b"changed through the other name");
    assert_eq!(["etc/file3", "usr/same", "etc/link"].map(inode), before, "mended in place");
    assert!(receipt.bytes.kept_bytes > receipt.bytes.fetched_bytes, "{receipt:?}");
}

/// Hands out so many ranges, then fails as a machine does whose power goes.
struct Cut<'a> {
    store: &'a LocalStore,
    left: AtomicU64,
}

impl ChunkSource for Cut<'_> {
    fn name(&self) -> String {
        "a store".to_owned()
    }

    fn locate(&self, ids: &[ChunkId]) -> Result<Vec<Option<Location>>, Error> {
        self.store.locate(ids)
    }

    fn read_range(&self, pack: PackId, offset: u64, len: usize) -> Result<Vec<u8>, Error> {
        match self.left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)) {
            Ok(_) => self.store.read_range(pack, offset, len),
            Err(_) => Err(Error::Refused { from: self.name(), reason: "the power went".to_owned() }),
        }
    }
}

#[test]
fn an_apply_that_was_cut_anywhere_goes_on_to_the_same_folder() {
    let lab = Lab::new();
    make_tree(&lab.path("tree"), 5);
    let manifest = lab.capture("tree", &lab.path("tree")).manifest;
    let expected = snapshot(&lab.path("tree"));
    for left in 0..6 {
        let out = lab.path(&format!("out{left}"));
        let source = Cut { store: &lab.store, left: AtomicU64::new(left) };
        let options = Options { workers: 1, ..Options::default() };
        let cut = make_match(&manifest, &source, &out, &options, &Progress::default(), &mut |_| {});
        let receipt = lab.apply(&manifest, &out);
        assert_eq!(snapshot(&out), expected, "cut after {left} reads");
        assert!(cut.is_ok() || receipt.bytes.fetched_bytes > 0);
        assert!(left < 3 || receipt.bytes.kept_bytes > 0, "what came before the cut is kept");
    }
}

#[test]
fn a_wim_goes_through_the_store_and_back() {
    let lab = Lab::new();
    make_tree(&lab.path("tree"), 2);
    for compression in [Compression::None, Compression::Xpress] {
        let (file, back) = (lab.path("x.wim"), lab.path("back.wim"));
        capture_wim(&lab.path("tree"), &file, &wim_options(compression), &Progress::default()).unwrap();
        let wim = Wim::open(&file, OnDamage::Stop).unwrap();
        let imported = lab.import(|importer| importer.wim_image("wim", &wim, 1, "x.wim"));
        let _ = fs::remove_file(&back);
        let progress = Progress::default();
        export::export(&imported.manifest, &lab.store, &back, &wim_options(compression), &progress).unwrap();
        let (before, after) = (wim, Wim::open(&back, OnDamage::Stop).unwrap());
        assert_eq!(before.images, after.images);
        assert_eq!(before.tree(1, OnDamage::Stop).unwrap(), after.tree(1, OnDamage::Stop).unwrap());
        let references = |wim: &Wim| -> BTreeMap<_, _> {
            wim.blobs.iter().map(|blob| (blob.hash, (blob.plain_bytes, blob.references))).collect()
        };
        assert_eq!(references(&before), references(&after));
    }
}

#[test]
fn a_wim_and_a_folder_of_the_same_files_share_every_content() {
    let lab = Lab::new();
    make_tree(&lab.path("tree"), 3);
    let file = lab.path("x.wim");
    capture_wim(&lab.path("tree"), &file, &wim_options(Compression::Xpress), &Progress::default()).unwrap();
    let wim = Wim::open(&file, OnDamage::Stop).unwrap();
    let from_wim = lab.import(|importer| importer.wim_image("wim", &wim, 1, "x.wim"));
    let from_folder = lab.capture("folder", &lab.path("tree"));
    let document = from_folder.manifest.header.tree.as_ref().unwrap().document_bytes;
    assert!(from_folder.stored_bytes <= document, "{} of {document}", from_folder.stored_bytes);
    assert!(from_wim.stored_bytes > 3_000_000);
}

#[test]
fn trees_that_share_nine_files_in_ten_grow_the_store_by_the_tenth() {
    let lab = Lab::new();
    let write = |root: &str, changed: bool| {
        for number in 0..600u64 {
            let folder = lab.path(root).join(format!("d{}", number % 20));
            fs::create_dir_all(&folder).unwrap();
            let seed = if changed && number % 10 == 3 { number + 10_000 } else { number };
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000 + seed);
            let path = folder.join(format!("f{number}"));
            fs::write(&path, noise(seed, 300 + (number as usize * 7919) % 30_000)).unwrap();
            fs::File::open(&path).and_then(|file| file.set_modified(time)).unwrap();
        }
    };
    write("old", false);
    write("new", true);
    let wim = |root: &str| {
        let file = lab.path(&format!("{root}.wim"));
        capture_wim(&lab.path(root), &file, &wim_options(Compression::Xpress), &Progress::default()).unwrap();
        let wim = Wim::open(&file, OnDamage::Stop).unwrap();
        lab.import(|importer| importer.wim_image(root, &wim, 1, root))
    };
    let (old, new) = (wim("old"), wim("new"));
    let options = Options::default();
    let document =
        |imported: &Imported| reader::document(&imported.manifest, &lab.store, &options, &Progress::default()).unwrap();
    let diff = diff::diff(&document(&old), &document(&new));
    let documents = new.manifest.header.tree.as_ref().unwrap().document_bytes;
    assert_eq!((diff.changed.len(), diff.added.len(), diff.removed.len()), (60, 0, 0));
    assert!(new.stored_bytes >= diff.new_bytes, "noise does not compress");
    assert!(
        new.stored_bytes <= diff.new_bytes + documents,
        "the store grew by {}, new content is {}, the list of files {documents}",
        new.stored_bytes,
        diff.new_bytes
    );
    assert!(new.stored_bytes * 7 < old.stored_bytes, "{} against {}", new.stored_bytes, old.stored_bytes);
    let stats = stats(&lab.store, &lab.key.public()).unwrap();
    assert!(stats.images.iter().all(|image| image.shared_bytes > 4 * image.unique_bytes), "{stats:?}");
    assert_eq!(stats.garbage_bytes, 0);
    lab.store.remove_version(&old.version).unwrap();
    let later = Timestamp::from_milliseconds(i64::MAX / 2);
    let freed = gc(&lab.store, &lab.key.public(), later, 0).unwrap();
    assert!(freed.live_bytes > 0);
    lab.apply(&new.manifest, &lab.path("out"));
    assert_eq!(snapshot(&lab.path("out")), snapshot(&lab.path("new")));
}

#[test]
fn a_folder_is_never_left_through_a_link_that_stands_in_the_way() {
    let lab = Lab::new();
    make_tree(&lab.path("tree"), 4);
    let manifest = lab.capture("tree", &lab.path("tree")).manifest;
    fs::create_dir_all(lab.path("outside/share")).unwrap();
    fs::create_dir_all(lab.path("out")).unwrap();
    symlink(lab.path("outside"), lab.path("out/usr")).unwrap();
    let applied =
        make_match(&manifest, &lab.store, &lab.path("out"), &Options::default(), &Progress::default(), &mut |_| {});
    assert!(applied.is_err());
    assert_eq!(fs::read_dir(lab.path("outside")).unwrap().count(), 1);
    assert_eq!(fs::read_dir(lab.path("outside/share")).unwrap().count(), 0);
}

/// Counts requests.
struct Counted<'a> {
    store: &'a LocalStore,
    ranges: Mutex<Vec<usize>>,
}

impl ChunkSource for Counted<'_> {
    fn name(&self) -> String {
        "a store".to_owned()
    }

    fn locate(&self, ids: &[ChunkId]) -> Result<Vec<Option<Location>>, Error> {
        self.store.locate(ids)
    }

    fn read_range(&self, pack: PackId, offset: u64, len: usize) -> Result<Vec<u8>, Error> {
        self.ranges.lock().unwrap().push(len);
        self.store.read_range(pack, offset, len)
    }
}

#[test]
fn small_files_are_fetched_many_with_one_request() {
    let lab = Lab::new();
    fs::create_dir(lab.path("tree")).unwrap();
    for number in 0..2000u64 {
        fs::write(lab.path("tree").join(format!("f{number}")), noise(number, 3000)).unwrap();
    }
    let manifest = lab.capture("tree", &lab.path("tree")).manifest;
    assert!(manifest.extents.len() > 2000);
    let source = Counted { store: &lab.store, ranges: Mutex::default() };
    let out = lab.path("out");
    make_match(&manifest, &source, &out, &Options::default(), &Progress::default(), &mut |_| {}).unwrap();
    let requests = source.ranges.lock().unwrap().len();
    assert!(requests <= 10, "{requests} requests for {} chunks", manifest.extents.len());
}
