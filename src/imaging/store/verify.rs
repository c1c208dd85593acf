//! Reading chunks to see whether they are what they should be.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;

use crate::imaging::chunk::{CHUNK_BYTES_MAX, Verified};
use crate::imaging::error::Error;
use crate::imaging::manifest::Manifest;
use crate::imaging::store::format::{Entry, PackId};
use crate::imaging::store::local::LocalStore;
use crate::imaging::store::{ChunkSource, Location};
use crate::stdx::monitor::Progress;

/// Bytes of a pack that are read at once.
const READ_BYTES: u64 = 4 << 20;

/// Checks every chunk of `manifest` and returns what is wrong, each a [`Error::DamagedChunk`], [`Error::MissingChunk`] or a
/// failure to read.
pub fn verify(store: &LocalStore, manifest: &Manifest, progress: &Progress) -> Result<Vec<Error>, Error> {
    let mut chunks: Vec<_> = manifest.extents.iter().map(|extent| extent.chunk).collect();
    chunks.sort_unstable();
    chunks.dedup();
    let places = store.locate(&chunks)?;
    let missing = chunks.iter().zip(&places).filter(|(_, place)| place.is_none());
    let mut bad: Vec<Error> = missing.map(|(chunk, _)| Error::MissingChunk { chunk: *chunk }).collect();
    bad.extend(check(store, places.into_iter().flatten().collect(), progress));
    Ok(bad)
}

/// What is wrong with a pack: its index, or chunks in it.
pub fn faults_of_pack(store: &LocalStore, pack: PackId) -> Vec<Error> {
    match store.pack_entries(pack) {
        Ok(entries) => check(store, places(pack, &entries).collect(), &Progress::default()),
        Err(error) => vec![error],
    }
}

/// Reads and hashes the chunks at `places`, on all processors; what is wrong with them, each naming its chunk or pack.
pub(super) fn check(store: &LocalStore, mut places: Vec<Location>, progress: &Progress) -> Vec<Error> {
    places.sort_unstable_by_key(|place| (place.pack, place.entry.offset));
    Progress::add(&progress.total_bytes, places.iter().map(|place| u64::from(place.entry.plain_bytes)).sum());
    let (jobs, next) = (jobs(&places), AtomicUsize::new(0));
    let work = || {
        let mut bad = Vec::new();
        while let Some(job) = jobs.get(next.fetch_add(1, Relaxed)) {
            bad.extend(check_neighbours(store, job));
            Progress::add(&progress.done_bytes, job.iter().map(|place| u64::from(place.entry.plain_bytes)).sum());
        }
        bad
    };
    thread::scope(|scope| {
        let threads = thread::available_parallelism().map_or(2, usize::from);
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("checking does not panic")).collect()
    })
}

/// Chunks of one pack, some MB from first to last.
fn jobs(places: &[Location]) -> Vec<&[Location]> {
    let mut jobs = Vec::new();
    let mut rest = places;
    while let Some(first) = rest.first() {
        let near = |place: &&Location| {
            place.pack == first.pack && span(first, place).end - span(first, place).start <= READ_BYTES
        };
        let (job, more) = rest.split_at(rest.iter().take_while(near).count().max(1));
        jobs.push(job);
        rest = more;
    }
    jobs
}

fn span(first: &Location, last: &Location) -> Range<u64> {
    u64::from(first.entry.offset)..u64::from(last.entry.offset) + u64::from(last.entry.stored_bytes)
}

fn check_neighbours(store: &LocalStore, job: &[Location]) -> Vec<Error> {
    let (Some(first), Some(last)) = (job.first(), job.last()) else { return Vec::new() };
    let range = span(first, last);
    let read = store.read_range(first.pack, range.start, (range.end - range.start) as usize);
    let bytes = match read {
        Ok(bytes) => bytes,
        // One bad sector must not hide the chunks around it.
        Err(_) if job.len() > 1 => return job.chunks(1).flat_map(|one| check_neighbours(store, one)).collect(),
        Err(error) => return vec![error],
    };
    let mut verified = match Verified::with_capacity(CHUNK_BYTES_MAX) {
        Ok(verified) => verified,
        Err(error) => return vec![Error::read("a decompressor")(error)],
    };
    let damage = |place: &Location| {
        verified.begin(0);
        let damage = verified.open(place.entry.sealed(slice_of(&bytes, range.start, &place.entry))).err()?;
        Some(Error::DamagedChunk { chunk: place.entry.id, pack: place.pack, from: store.name().into(), damage })
    };
    job.iter().filter_map(damage).collect()
}

/// The bytes of `entry` in `bytes`, which lie at `start` of its pack.
pub(super) fn slice_of<'a>(bytes: &'a [u8], start: u64, entry: &Entry) -> &'a [u8] {
    let at = (u64::from(entry.offset) - start) as usize;
    bytes.get(at..at + entry.stored_bytes as usize).unwrap_or_default()
}

/// All chunks of a pack, as places.
pub(super) fn places(pack: PackId, entries: &[Entry]) -> impl Iterator<Item = Location> {
    entries.iter().map(move |entry| Location { pack, entry: *entry })
}
