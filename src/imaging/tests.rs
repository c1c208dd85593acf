//! Images through the whole of it: source -> store -> target.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use tempfile::TempDir;

use super::apply::{Options, Receipt, Seed, look_and_plan, make_match};
use super::capture::{Content, capture};
use super::chunk::ChunkId;
use super::error::Error;
use super::manifest::{Extent, Header, Kind, Manifest, Signed};
use super::store::format::PackId;
use super::store::local::LocalStore;
use super::store::versions::{ImageSource, Reference, Version};
use super::store::{ChunkSource, Location};
use super::target::Target;
use crate::access::signing::SigningKey;
use crate::stdx::io::{FileAt, ReadAt};
use crate::stdx::monitor::Progress;
use crate::stdx::sparse::data_ranges;
use crate::stdx::time::Timestamp;

struct Site {
    folder: TempDir,
    store: LocalStore,
    key: SigningKey,
}

impl Site {
    fn new() -> Site {
        let folder = tempfile::tempdir().unwrap();
        let store = LocalStore::create(&folder.path().join("store")).unwrap();
        let key = SigningKey::create(&folder.path().join("key")).unwrap();
        Site { folder, store, key }
    }

    fn import(&self, source: &dyn ReadAt, content: Content) -> (Version, Manifest) {
        let header = Header {
            kind: Kind::Disk,
            size: source.size(),
            sector_bytes: 512,
            created: Timestamp::from_milliseconds(0),
            needed_bytes: 0,
            source: "test".into(),
            partitions: vec![],
            remarks: vec![],
            tree: None,
        };
        let mut upload = self.store.upload().unwrap();
        let manifest = capture(source, content, header, &mut upload, &Progress::default()).unwrap();
        let chunks: Vec<ChunkId> = manifest.extents.iter().map(|extent| extent.chunk).collect();
        let version = upload.publish("disk", &Signed::sign(&manifest, &self.key), &chunks).unwrap();
        (version, manifest)
    }

    fn import_bytes(&self, bytes: &[u8]) -> (Version, Manifest) {
        self.import(&bytes.to_vec(), Content::whole(bytes.len() as u64))
    }

    fn target(&self, name: &str) -> Target {
        Target::open(&self.folder.path().join(name)).unwrap()
    }

    fn content(&self, name: &str) -> Vec<u8> {
        fs::read(self.folder.path().join(name)).unwrap()
    }
}

fn options() -> Options {
    Options { patience: Duration::from_secs(60), ..Options::default() }
}

fn apply(manifest: &Manifest, source: &dyn ChunkSource, target: &Target) -> Result<Receipt, Error> {
    make_match(manifest, source, target, &options(), &Progress::default(), &mut |_| {})
}

/// Bytes that compress a little and repeat nowhere.
fn disk(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes.chunks_exact_mut(96).for_each(|line| line[..24].fill(7));
    bytes
}

#[test]
fn an_image_comes_out_as_it_went_in() {
    let site = Site::new();
    let mut bytes = disk(1, 20 << 20);
    bytes[3_000_000..9_000_000].fill(0);
    let (version, manifest) = site.import_bytes(&bytes);
    assert!(manifest.zero_bytes() > 5 << 20, "{}", manifest.zero_bytes());
    let stored = site.store.manifest(&version).unwrap().verify(&site.key.public()).unwrap();
    assert_eq!(stored, manifest);
    let receipt = apply(&stored, &site.store, &site.target("out")).unwrap();
    assert!(site.content("out") == bytes);
    assert_eq!(receipt.fetched_bytes, manifest.content_bytes());
    assert!(receipt.read_back_chunks > 30);
    assert!(receipt.wire_bytes < receipt.fetched_bytes);
}

#[test]
fn what_is_in_place_is_not_fetched_again() {
    let site = Site::new();
    let bytes = disk(1, 20 << 20);
    let (_, manifest) = site.import_bytes(&bytes);
    apply(&manifest, &site.store, &site.target("out")).unwrap();
    let again = apply(&manifest, &site.store, &site.target("out")).unwrap();
    assert_eq!((again.fetched_chunks, again.wire_bytes, again.kept_bytes), (0, 0, 20 << 20));
    let damaged: Vec<usize> = (0..20).map(|n| n * 1_000_003).collect();
    let out = File::options().write(true).open(site.folder.path().join("out")).unwrap();
    damaged.iter().for_each(|at| out.write_all_at(b"damage", *at as u64).unwrap());
    let repaired = apply(&manifest, &site.store, &site.target("out")).unwrap();
    assert!((15..=40).contains(&repaired.fetched_chunks), "{repaired:?}");
    assert!(site.content("out") == bytes);
}

#[test]
fn nothing_is_read_back_when_nothing_is_to_be_seed() {
    let site = Site::new();
    let (_, manifest) = site.import_bytes(&disk(1, 5 << 20));
    apply(&manifest, &site.store, &site.target("out")).unwrap();
    let options = Options { seed: Seed::Nothing, ..options() };
    let target = site.target("out");
    let receipt = make_match(&manifest, &site.store, &target, &options, &Progress::default(), &mut |_| {}).unwrap();
    assert_eq!(receipt.fetched_bytes, 5 << 20);
}

#[test]
fn an_older_version_on_the_target_is_a_seed_and_a_longer_file_is_cut() {
    let site = Site::new();
    let old = disk(1, 20 << 20);
    let mut new = old[..18 << 20].to_vec();
    new.splice(9_000_000..9_000_000, *b"some more bytes");
    let (_, first) = site.import_bytes(&old);
    let (version, second) = site.import_bytes(&new);
    assert_eq!(version.number, 2);
    apply(&first, &site.store, &site.target("out")).unwrap();
    let receipt = apply(&second, &site.store, &site.target("out")).unwrap();
    assert!(site.content("out") == new);
    assert!(receipt.kept_bytes > 8 << 20, "{receipt:?}");
}

#[test]
fn what_must_be_zero_is_made_zero_and_what_is_free_is_left_alone() {
    let site = Site::new();
    let mut bytes = disk(1, 4 << 20);
    bytes[1 << 20..3 << 20].fill(0);
    let content = Content { used: vec![0..1 << 20, 3 << 20..4 << 20], zeros: vec![1 << 20..3 << 19, 3 << 19..2 << 20] };
    let (_, manifest) = site.import(&bytes, content);
    let garbage = vec![0xAA; 5 << 20];
    fs::write(site.folder.path().join("out"), &garbage).unwrap();
    let receipt = apply(&manifest, &site.store, &site.target("out")).unwrap();
    let found = site.content("out");
    assert!(found[..2 << 20] == bytes[..2 << 20] && found[3 << 20..] == bytes[3 << 20..]);
    assert!(found[2 << 20..3 << 20] == garbage[..1 << 20], "free space was written");
    assert_eq!((found.len(), receipt.zeroed_bytes), (4 << 20, 1 << 20));
}

#[test]
fn sparse_files_are_read_by_their_holes_and_stay_sparse() {
    let site = Site::new();
    let path = site.folder.path().join("sparse");
    let file = File::create_new(&path).unwrap();
    file.set_len(1 << 40).unwrap();
    file.write_all_at(&disk(3, 1 << 20), 1 << 39).unwrap();
    let source = FileAt::new(File::open(&path).unwrap()).unwrap();
    let data = data_ranges(source.file(), source.size()).unwrap();
    let (_, manifest) = site.import(&source, Content::with_holes(data, source.size()));
    assert_eq!(manifest.zero_bytes() + manifest.content_bytes(), 1 << 40);
    apply(&manifest, &site.store, &site.target("out")).unwrap();
    let out = File::open(site.folder.path().join("out")).unwrap();
    let data = data_ranges(&out, 1 << 40).unwrap();
    assert!(data.iter().map(|range| range.end - range.start).sum::<u64>() < 2 << 20);
    assert!(out.read_vec(1 << 39, 1 << 20) == disk(3, 1 << 20));
}

trait ReadVec {
    fn read_vec(&self, offset: u64, len: usize) -> Vec<u8>;
}

impl ReadVec for File {
    fn read_vec(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.read_exact_at(&mut bytes, offset).unwrap();
        bytes
    }
}

/// A source that misbehaves: `answer` may replace what the store says to the n-th read.
struct Between<'a, F> {
    store: &'a LocalStore,
    reads: AtomicU64,
    answer: F,
}

impl<'a, F: Fn(u64, Vec<u8>) -> Result<Vec<u8>, Error> + Send + Sync> Between<'a, F> {
    fn new(store: &'a LocalStore, answer: F) -> Self {
        Between { store, reads: AtomicU64::new(0), answer }
    }
}

impl<F: Fn(u64, Vec<u8>) -> Result<Vec<u8>, Error> + Send + Sync> ChunkSource for Between<'_, F> {
    fn name(&self) -> String {
        "between".into()
    }

    fn locate(&self, ids: &[ChunkId]) -> Result<Vec<Option<Location>>, Error> {
        self.store.locate(ids)
    }

    fn read_range(&self, pack: PackId, offset: u64, len: usize) -> Result<Vec<u8>, Error> {
        let bytes = self.store.read_range(pack, offset, len)?;
        (self.answer)(self.reads.fetch_add(1, SeqCst), bytes)
    }
}

#[test]
fn a_source_that_is_away_for_a_while_is_asked_again() {
    let site = Site::new();
    let bytes = disk(1, 9 << 20);
    let (_, manifest) = site.import_bytes(&bytes);
    let away = |read: u64, bytes: Vec<u8>| match read {
        1 | 2 => Err(Error::Unreachable { from: "between".into(), reason: "restarting".into() }),
        _ => Ok(bytes),
    };
    let receipt = apply(&manifest, &Between::new(&site.store, away), &site.target("out")).unwrap();
    assert_eq!(receipt.retries, 2);
    assert!(site.content("out") == bytes);
}

#[test]
fn a_chunk_that_arrives_damaged_is_fetched_again() {
    let site = Site::new();
    let bytes = disk(1, 9 << 20);
    let (_, manifest) = site.import_bytes(&bytes);
    let flip = |read: u64, mut bytes: Vec<u8>| {
        if read == 1 {
            bytes[1000] ^= 1;
        }
        Ok(bytes)
    };
    let receipt = apply(&manifest, &Between::new(&site.store, flip), &site.target("out")).unwrap();
    assert_eq!(receipt.retries, 1);
    assert!(site.content("out") == bytes);
}

#[test]
fn a_chunk_that_stays_damaged_is_never_written_and_the_error_names_it() {
    let site = Site::new();
    let bytes = disk(1, 9 << 20);
    let (_, manifest) = site.import_bytes(&bytes);
    let victim = manifest.extents[50];
    let place = site.store.locate(&[victim.chunk]).unwrap()[0].unwrap();
    let pack = File::options().write(true).open(site.store.pack_path(place.pack)).unwrap();
    pack.write_all_at(b"flip", u64::from(place.entry.offset) + 100).unwrap();
    match apply(&manifest, &site.store, &site.target("out")) {
        Err(Error::DamagedChunk { chunk, pack, .. }) => assert_eq!((chunk, pack), (victim.chunk, place.pack)),
        other => panic!("{other:?}"),
    }
    let at = victim.offset as usize..victim.end() as usize;
    let found = site.content("out");
    assert!(found[at.clone()].iter().all(|byte| *byte == 0), "damaged bytes were written");
    let wrong = found.iter().zip(&bytes).filter(|(found, right)| **found != 0 && found != right).count();
    assert_eq!(wrong, 0);
}

/// What is under way when the power goes is fetched again: at most one job of some MB a worker, however large the image.
#[test]
fn an_apply_that_is_cut_off_goes_on_where_it_stopped() {
    let site = Site::new();
    let bytes = disk(1, 24 << 20);
    let (_, manifest) = site.import_bytes(&bytes);
    let chunks: Vec<ChunkId> = manifest.extents.iter().map(|extent| extent.chunk).collect();
    let places = site.store.locate(&chunks).unwrap();
    let stored: u64 = places.iter().flatten().map(|place| u64::from(place.entry.stored_bytes)).sum();
    for (percent, workers) in [(10, 1), (50, 1), (90, 1), (10, 2), (50, 2), (90, 2)] {
        let total = Mutex::new(0u64);
        let cut = |_: u64, bytes: Vec<u8>| {
            let mut total = total.lock().unwrap();
            match *total + bytes.len() as u64 > stored * percent / 100 {
                true => Err(Error::Refused { from: "power".into(), reason: "cut".into() }),
                false => {
                    *total += bytes.len() as u64;
                    Ok(bytes)
                }
            }
        };
        let name = format!("out {percent} {workers}");
        let options = Options { workers, ..options() };
        let (target, first) = (site.target(&name), Progress::default());
        make_match(&manifest, &Between::new(&site.store, cut), &target, &options, &first, &mut |_| {}).unwrap_err();
        let second = apply(&manifest, &site.store, &site.target(&name)).unwrap();
        let twice = Progress::get(&first.wire_bytes) + second.wire_bytes - stored;
        assert!(twice <= (workers as u64) << 22, "{percent} %, {workers} workers: {twice} bytes were fetched twice");
        let written = Progress::get(&first.fetched_bytes) + second.fetched_bytes - manifest.content_bytes();
        assert!(written * 100 <= manifest.content_bytes() * 2, "{percent} %: {written} bytes were written twice");
        assert!(site.content(&name) == bytes);
    }
}

/// One percent of a disk is damaged in random places: those chunks are fetched and written, and nothing else is.
#[test]
fn of_a_disk_that_was_damaged_here_and_there_only_that_is_written() {
    let site = Site::new();
    let bytes = disk(1, 40 << 20);
    let (_, manifest) = site.import_bytes(&bytes);
    apply(&manifest, &site.store, &site.target("out")).unwrap();
    let out = File::options().write(true).open(site.folder.path().join("out")).unwrap();
    // Four places of 100 KB, drawn from a fixed stream.
    let mut places = [0u8; 16];
    blake3::Hasher::new().update(b"places").finalize_xof().fill(&mut places);
    let place = |bytes: &[u8]| u64::from(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])) % (39 << 20);
    let damaged: Vec<u64> = places.chunks_exact(4).map(place).collect();
    damaged.iter().for_each(|at| out.write_all_at(&disk(9, 100_000), *at).unwrap());
    let touched = |extent: &&Extent| damaged.iter().any(|at| extent.offset < at + 100_000 && *at < extent.end());
    let wrong: Vec<&Extent> = manifest.extents.iter().filter(touched).collect();
    let receipt = apply(&manifest, &site.store, &site.target("out")).unwrap();
    let wrong_bytes: u64 = wrong.iter().map(|extent| u64::from(extent.len)).sum();
    assert_eq!((receipt.fetched_chunks, receipt.fetched_bytes), (wrong.len() as u64, wrong_bytes));
    assert_eq!(receipt.kept_bytes, manifest.content_bytes() - wrong_bytes);
    assert!(site.content("out") == bytes);
}

#[test]
fn a_source_with_bad_sectors_is_kept_as_far_as_it_can_be_read() {
    struct Bad(Vec<u8>);
    impl ReadAt for Bad {
        fn size(&self) -> u64 {
            self.0.size()
        }
        fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
            let bad = (5 << 20)..(5 << 20) + 512u64;
            match offset < bad.end && offset + buffer.len() as u64 > bad.start {
                true => Err(io::Error::from_raw_os_error(libc::EIO)),
                false => self.0.read_exact_at(buffer, offset),
            }
        }
    }
    let site = Site::new();
    let mut bytes = disk(1, 9 << 20);
    let source = Bad(bytes.clone());
    let (_, manifest) = site.import(&source, Content::whole(9 << 20));
    assert_eq!(manifest.header.remarks.len(), 1);
    assert!(manifest.header.remarks[0].contains("4096 bytes in 1 places"), "{}", manifest.header.remarks[0]);
    apply(&manifest, &site.store, &site.target("out")).unwrap();
    bytes[5 << 20..(5 << 20) + 4096].fill(0);
    assert!(site.content("out") == bytes);
}

#[test]
fn a_target_that_is_too_small_is_refused_with_the_size_that_would_do() {
    let site = Site::new();
    let (_, manifest) = site.import_bytes(&disk(1, 5 << 20));
    let refused = super::plan::check_size(&manifest, Some((5 << 20) - 1));
    assert!(matches!(refused, Err(Error::TargetTooSmall { needed, .. }) if needed == 5 << 20));
    super::plan::check_size(&manifest, Some(5 << 20)).unwrap();
}

#[test]
fn versions_are_found_by_number_tag_and_digits() {
    let site = Site::new();
    let (one, manifest) = site.import_bytes(&disk(1, 1 << 20));
    let (two, _) = site.import_bytes(&disk(2, 1 << 20));
    let resolve = |text: &str| site.store.resolve(&Reference::parse(text).unwrap());
    site.store.tag(&one, "prod").unwrap();
    let digits = Signed::sign(&manifest, &site.key).version().to_string();
    assert_eq!(resolve("disk").unwrap(), two);
    for text in ["disk@1", "disk@prod", &format!("disk@{}", &digits[..8]), &format!("disk@{digits}")] {
        assert_eq!(resolve(text).unwrap(), one, "{text}");
    }
    assert!(matches!(site.store.remove_version(&one), Err(Error::Tagged { .. })));
    site.store.tag(&two, "prod").unwrap();
    site.store.remove_version(&one).unwrap();
    assert!(matches!(resolve("disk@1"), Err(Error::NoVersion { .. })));
    site.store.remove_tag("disk", "prod").unwrap();
    site.store.remove_version(&two).unwrap();
    assert!(matches!(resolve("disk"), Err(Error::NoImage { .. })));
    assert_eq!(site.import_bytes(&disk(1, 1 << 20)).0.number, 3, "a number is not given twice");
    for bad in ["", "..", "a/b", "-x", "disk@", "disk@../x", &"x".repeat(65)] {
        assert!(Reference::parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn what_lies_elsewhere_on_the_target_is_moved_and_not_fetched() {
    let site = Site::new();
    let old = disk(1, 20 << 20);
    let new = [disk(2, 1 << 20), old[..10 << 20].to_vec(), disk(3, 2 << 20), old[12 << 20..].to_vec()].concat();
    let (_, first) = site.import_bytes(&old);
    let (version, second) = site.import_bytes(&new);
    for (from, to, wanted) in [(&first, &second, &new), (&second, &first, &old)] {
        apply(from, &site.store, &site.target("out")).unwrap();
        let version =
            if std::ptr::eq(to, &second) { version.clone() } else { Version { number: 1, ..version.clone() } };
        let source = ImageSource { store: &site.store, version: &version, key: site.key.public() };
        let receipt = apply(to, &source, &site.target("out")).unwrap();
        assert!(site.content("out") == *wanted);
        assert!(receipt.moved_bytes > 15 << 20 && receipt.fetched_bytes < 4 << 20, "{receipt:?}");
    }
}

#[test]
fn of_a_target_with_another_version_only_what_that_left_in_place_is_read() {
    let site = Site::new();
    let old = disk(1, 20 << 20);
    let new = [&old[..4 << 20], &disk(2, 1 << 20), &old[4 << 20..]].concat();
    let (_, first) = site.import_bytes(&old);
    let (version, second) = site.import_bytes(&new);
    apply(&first, &site.store, &site.target("out")).unwrap();
    let source = ImageSource { store: &site.store, version: &version, key: site.key.public() };
    let progress = Progress::default();
    let plan = look_and_plan(&second, &source, &site.target("out"), &options(), &progress).unwrap().summary;
    let read = Progress::get(&progress.survey_total_bytes);
    assert!(read < 5 << 20, "{read} bytes were read");
    assert!(plan.in_place_bytes == read && read > 3 << 20 && plan.fetch_bytes < 2 << 20, "{plan}");
}

#[test]
fn an_update_that_was_cut_off_is_not_taken_for_the_version_before() {
    let site = Site::new();
    let (old, new) = (disk(1, 20 << 20), disk(2, 20 << 20));
    let (_, first) = site.import_bytes(&old);
    let (version, second) = site.import_bytes(&new);
    let half = &new[..10 << 20];
    apply(&first, &site.store, &site.target("out")).unwrap();
    File::options().write(true).open(site.folder.path().join("out")).unwrap().write_all_at(half, 0).unwrap();
    let source = ImageSource { store: &site.store, version: &version, key: site.key.public() };
    let receipt = apply(&second, &source, &site.target("out")).unwrap();
    assert!(receipt.kept_bytes > 19 << 19 && receipt.fetched_bytes < 21 << 19, "{receipt:?}");
    assert!(site.content("out") == new);
}

#[test]
fn what_seemed_to_lie_elsewhere_and_does_not_is_fetched() {
    let site = Site::new();
    let old = disk(1, 8 << 20);
    let new = [disk(2, 1 << 20), old.clone()].concat();
    let (_, first) = site.import_bytes(&old);
    let (version, second) = site.import_bytes(&new);
    apply(&first, &site.store, &site.target("out")).unwrap();
    let out = File::options().write(true).open(site.folder.path().join("out")).unwrap();
    out.write_all_at(&[0xAA; 1 << 20], 5 << 20).unwrap();
    let source = ImageSource { store: &site.store, version: &version, key: site.key.public() };
    let receipt = apply(&second, &source, &site.target("out")).unwrap();
    assert!(site.content("out") == new);
    assert!(receipt.moved_bytes > 5 << 20 && receipt.fetched_bytes > 2 << 20, "{receipt:?}");
    assert_eq!(receipt.moved_bytes + receipt.fetched_bytes + receipt.kept_bytes, 9 << 20);
}

mod upkeep {
    use super::*;
    use crate::imaging::diff::diff;
    use crate::imaging::store::gc::{GRACE_HOURS, gc};
    use crate::imaging::store::scrub::scrub;
    use crate::imaging::store::stats::stats;
    use crate::imaging::store::verify::verify;
    use crate::stdx::time::{Clock, SystemClock};

    fn now() -> Timestamp {
        SystemClock.now()
    }

    fn is_sound(site: &Site, manifest: &Manifest) -> bool {
        let store = LocalStore::open(&site.folder.path().join("store")).unwrap();
        verify(&store, manifest, &Progress::default()).unwrap().is_empty()
    }

    #[test]
    fn garbage_goes_and_what_versions_need_stays() {
        let site = Site::new();
        let shared = disk(1, 8 << 20);
        let (old, _) = site.import_bytes(&[disk(2, 20 << 20), shared.clone()].concat());
        let (_, new) = site.import_bytes(&[disk(3, 8 << 20), shared].concat());
        let key = site.key.public();
        let before = stats(&site.store, &key).unwrap();
        assert_eq!((before.garbage_bytes, before.images.len()), (0, 2));
        assert!(before.images.iter().all(|image| image.unique_bytes > 5 << 20 && image.shared_bytes > 5 << 20));
        assert_eq!(gc(&site.store, &key, now(), 0).unwrap().freed_bytes, 0);
        site.store.remove_version(&old).unwrap();
        assert_eq!(gc(&site.store, &key, now(), GRACE_HOURS).unwrap().freed_bytes, 0, "a run may still need it");
        let freed = gc(&site.store, &key, now().plus_seconds(2), 0).unwrap();
        assert!(freed.freed_bytes > 12 << 20, "{freed:?}");
        assert_eq!(freed.rewritten_packs, 1);
        let after = stats(&site.store, &key).unwrap();
        assert_eq!((after.garbage_bytes, after.images.len()), (0, 1));
        assert!(is_sound(&site, &new));
        apply(&new, &site.store, &site.target("out")).unwrap();
    }

    #[test]
    fn a_store_that_another_process_compacted_is_read_and_written_on() {
        let site = Site::new();
        let shared = disk(1, 8 << 20);
        let (old, _) = site.import_bytes(&[disk(2, 20 << 20), shared.clone()].concat());
        let (_, new) = site.import_bytes(&shared);
        let other = LocalStore::open(&site.folder.path().join("store")).unwrap();
        other.refresh().unwrap();
        site.store.remove_version(&old).unwrap();
        let later = now().plus_seconds(2);
        gc(&site.store, &site.key.public(), later, 0).unwrap();
        apply(&new, &other, &site.target("out")).unwrap();
        assert!(site.content("out") == shared);
        let mut upload = other.upload().unwrap();
        let header = Header { created: later, ..new.header.clone() };
        let bytes = disk(2, 20 << 20);
        let again = capture(&bytes, Content::whole(20 << 20), header, &mut upload, &Progress::default()).unwrap();
        upload.close_pack().unwrap();
        assert!(is_sound(&site, &again), "an upload counted on chunks that were collected");
    }

    #[test]
    fn garbage_is_not_collected_beside_an_upload() {
        let site = Site::new();
        let upload = site.store.upload().unwrap();
        let other = LocalStore::open(&site.folder.path().join("store")).unwrap();
        assert!(matches!(gc(&other, &site.key.public(), now(), 0), Err(Error::Busy(_))));
        drop(upload);
        gc(&other, &site.key.public(), now(), 0).unwrap();
    }

    #[test]
    fn damage_is_found_named_and_mended_by_a_copy_or_a_new_import() {
        let site = Site::new();
        let bytes = disk(1, 8 << 20);
        let (version, manifest) = site.import_bytes(&bytes);
        let copy = Site::new();
        copy.import_bytes(&bytes);
        let key = site.key.public();
        let victim = manifest.extents[7].chunk;
        let flip = || {
            let place = site.store.locate(&[victim]).unwrap()[0].unwrap();
            let pack = File::options().write(true).open(site.store.pack_path(place.pack)).unwrap();
            pack.write_all_at(b"flip", u64::from(place.entry.offset) + 100).unwrap();
        };
        flip();
        assert_eq!(verify(&site.store, &manifest, &Progress::default()).unwrap().len(), 1);
        let report = scrub(&site.store, &key, Some(&copy.store), &Progress::default()).unwrap();
        assert_eq!((report.repaired_chunks, report.lost.len()), (1, 0));
        assert!(is_sound(&site, &manifest));
        flip();
        let report = scrub(&site.store, &key, None, &Progress::default()).unwrap();
        assert_eq!(report.lost.len(), 1);
        assert_eq!(report.lost[0].what, format!("chunk {victim}"));
        assert_eq!(report.lost[0].images, [version.to_string()]);
        assert!(!is_sound(&site, &manifest));
        site.import_bytes(&bytes);
        assert!(is_sound(&site, &manifest));
        assert_eq!(scrub(&site.store, &key, None, &Progress::default()).unwrap().lost, []);
    }

    #[test]
    fn a_pack_that_is_gone_or_has_no_index_any_more_comes_back_from_another_store() {
        let (site, copy) = (Site::new(), Site::new());
        let bytes = disk(1, 8 << 20);
        let (_, manifest) = site.import_bytes(&bytes);
        copy.import_bytes(&disk(2, 1 << 20));
        copy.import_bytes(&bytes);
        let key = site.key.public();
        let cut = |path: &Path| File::options().write(true).open(path).unwrap().set_len(1000).unwrap();
        let lose: [&dyn Fn(&Path); 2] = [&|path| fs::remove_file(path).unwrap(), &cut];
        for lose in lose {
            site.store.packs().unwrap().iter().for_each(|pack| lose(&site.store.pack_path(*pack)));
            let report = scrub(&site.store, &key, Some(&copy.store), &Progress::default()).unwrap();
            assert_eq!(report.lost, []);
            assert_eq!(report.repaired_chunks, manifest.extents.len() as u64);
            assert!(is_sound(&site, &manifest));
        }
        site.store.packs().unwrap().iter().for_each(|pack| cut(&site.store.pack_path(*pack)));
        let report = scrub(&site.store, &key, None, &Progress::default()).unwrap();
        assert_eq!((report.removed_packs.len(), report.lost.len()), (1, manifest.extents.len()));
        assert!(report.lost.iter().all(|lost| lost.images == ["disk@1"]));
    }

    #[test]
    fn a_bit_that_flips_in_an_index_loses_nothing() {
        let site = Site::new();
        let (old, _) = site.import_bytes(&disk(1, 4 << 20));
        let (_, manifest) = site.import_bytes(&[disk(1, 4 << 20), disk(2, 4 << 20)].concat());
        site.store.remove_version(&old).unwrap();
        let key = site.key.public();
        for from_end in [1, 10, 20, 24, 25, 26, 60, 5000] {
            for pack in site.store.packs().unwrap() {
                let path = site.store.pack_path(pack);
                let mut bytes = fs::read(&path).unwrap();
                let at = bytes.len() - from_end;
                bytes[at] ^= 0x20;
                fs::write(&path, bytes).unwrap();
            }
            let report = scrub(&site.store, &key, None, &Progress::default()).unwrap();
            let damaged = report.removed_packs.len() as u64;
            assert!(damaged == report.packs || from_end == 10, "{from_end}: {report:?}");
            assert_eq!((&report.lost, report.repaired_chunks), (&vec![], 0), "{from_end}");
            assert!(damaged == 0 || report.recovered_chunks >= manifest.extents.len() as u64, "{report:?}");
            assert!(is_sound(&site, &manifest), "{from_end}");
        }
        apply(&manifest, &site.store, &site.target("out")).unwrap();
        assert!(site.content("out") == [disk(1, 4 << 20), disk(2, 4 << 20)].concat());
        assert!(fs::read_dir(site.folder.path().join("store/tmp")).unwrap().next().is_none());
    }

    #[test]
    fn a_diff_tells_the_same_the_moved_and_the_new() {
        let site = Site::new();
        let (one, two, three) = (disk(1, 4 << 20), disk(2, 4 << 20), disk(3, 4 << 20));
        let (_, old) = site.import_bytes(&[one.clone(), two.clone()].concat());
        let (_, new) = site.import_bytes(&[one, three, two].concat());
        let diff = diff(&old, &new);
        let near = |bytes: u64| (bytes as i64 - (4 << 20)).abs() < 1 << 20;
        assert!(near(diff.same_bytes) && near(diff.moved_bytes) && near(diff.new_bytes), "{diff:?}");
        assert!(diff.gone_bytes < 1 << 20);
    }
}
