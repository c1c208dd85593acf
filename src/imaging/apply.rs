//! Bytes out: makes a target match a manifest.
//!
//! Some workers each take the next job in the order of the disk: fetch the packs' bytes of a few MB of it with as few
//! requests as possible, open every chunk into one aligned buffer, write that. So the wire, the processors and the disk
//! work at the same time, and memory is bounded by the number of workers.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::imaging::chunk::{ChunkId, Damage, Verified};
use crate::imaging::error::Error;
use crate::imaging::manifest::{Extent, Kind, Manifest};
use crate::imaging::moves::{PIECE_BYTES_MAX, Piece};
use crate::imaging::plan::{Plan, Summary, check_size, plan};
use crate::imaging::store::format::{Entry, PackId};
use crate::imaging::store::{ChunkSource, Location};
use crate::imaging::survey::{assume_nothing, held, seems_whole, survey};
use crate::imaging::target::Target;
use crate::stdx::backoff::Backoff;
use crate::stdx::buffer::{ALIGNMENT, AlignedBuffer};
use crate::stdx::monitor::Progress;

/// What a worker fetches, opens and writes at once. Memory is about two and a half times this for each worker.
const JOB_BYTES: u64 = 4 << 20;
/// Bytes between two wanted chunks of a pack that are read along rather than asked for separately.
const GAP_BYTES_MAX: u32 = 64 << 10;
/// Threads that hash and write what is moved, and pieces that are read ahead of them.
const MOVERS: usize = 2;
const MOVES_AHEAD: usize = 2;
/// How often a chunk that arrives damaged is asked for again.
const DAMAGE_RETRIES: u32 = 2;
/// How often places are looked up anew when a pack is gone because the store was compacted meanwhile.
const RELOCATE_RETRIES: u32 = 3;

/// What an apply may take for granted and how hard it tries.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whether what the target holds is read and used.
    pub seed: Seed,
    /// Jobs under way at the same time.
    pub workers: usize,
    /// How long a source that does not answer is asked again before giving up.
    pub patience: Duration,
    /// Chunks that are read back at the end.
    pub sample: usize,
    /// Sets the retries of many machines apart.
    pub jitter: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seed {
    Target,
    Nothing,
}

impl Default for Options {
    fn default() -> Options {
        let patience = Duration::from_secs(15 * 60);
        Options { seed: Seed::Target, workers: 4, patience, sample: 64, jitter: std::process::id().into() }
    }
}

/// What was done, for the record of the run. Bytes are of the target, but for the wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Receipt {
    pub kept_bytes: u64,
    pub moved_bytes: u64,
    pub fetched_bytes: u64,
    pub fetched_chunks: u64,
    pub zeroed_bytes: u64,
    /// As they came from the source, compressed.
    pub wire_bytes: u64,
    /// Requests that had to be made again.
    pub retries: u64,
    /// Chunks that were read back from the target after the sync and were right.
    pub read_back_chunks: u64,
}

/// Makes `target` match `manifest`: looks, plans, shows the plan to `planned`, carries it out, syncs, reads back a sample.
/// Started again after any interruption it does what is left.
pub fn make_match(
    manifest: &Manifest,
    source: &dyn ChunkSource,
    target: &Target,
    options: &Options,
    progress: &Progress,
    planned: &mut dyn FnMut(&Summary),
) -> Result<Receipt, Error> {
    if manifest.header.kind == Kind::Tree {
        return Err(Error::OtherKind { image: "a tree of files" });
    }
    check_size(manifest, target.device_bytes())?;
    let plan = look_and_plan(manifest, source, target, options, progress)?;
    planned(&plan.summary);
    apply(manifest, &plan, source, target, options, progress)
}

/// Looks at the target and plans; nothing is written.
pub fn look_and_plan(
    manifest: &Manifest,
    source: &dyn ChunkSource,
    target: &Target,
    options: &Options,
    progress: &Progress,
) -> Result<Plan, Error> {
    let found = match options.seed {
        Seed::Nothing => assume_nothing(manifest, target)?,
        Seed::Target if target.is_fresh() => survey(manifest, target, &[], options.workers, progress)?,
        Seed::Target => {
            let seems_whole = seems_whole(manifest, target)?;
            let mut seeds = if seems_whole { Vec::new() } else { held(source.seeds()?, target)? };
            let mut found = survey(manifest, target, &seeds, options.workers, progress)?;
            if seems_whole && !found.is_complete() {
                seeds = held(source.seeds()?, target)?;
            }
            found.look_elsewhere(manifest, &seeds, target)?;
            found
        }
    };
    plan(manifest, &found, target.device_bytes())
}

/// Carries out `plan`.
pub fn apply(
    manifest: &Manifest,
    plan: &Plan,
    source: &dyn ChunkSource,
    target: &Target,
    options: &Options,
    progress: &Progress,
) -> Result<Receipt, Error> {
    let summary = plan.summary;
    Progress::add(&progress.total_bytes, summary.total_bytes());
    Progress::add(&progress.done_bytes, summary.in_place_bytes);
    Progress::add(&progress.skipped_bytes, summary.in_place_bytes);
    if manifest.header.kind == Kind::File || target.device_bytes().is_none() {
        target.resize(manifest.header.size)?;
    }
    let not_moved = carry_out_moves(manifest, &plan.moves, target, progress)?;
    let not_moved_bytes: u64 = not_moved.iter().map(|number| u64::from(manifest.extents[*number].len)).sum();
    let mut fetch = [plan.fetch.as_slice(), &not_moved].concat();
    fetch.sort_unstable();
    let asked = Asked { source, options, progress, stop: AtomicBool::new(false) };
    let places = asked.locate(&fetch.iter().map(|number| manifest.extents[*number].chunk).collect::<Vec<_>>())?;
    for range in &plan.zero {
        target.zero(range)?;
        Progress::add(&progress.zeroed_bytes, range.end - range.start);
        Progress::add(&progress.done_bytes, range.end - range.start);
    }
    let wanted = fetch.iter().zip(places).map(|(number, place)| Wanted { extent: manifest.extents[*number], place });
    let wanted: Vec<Wanted> = wanted.collect();
    carry_out(&jobs(&wanted), &asked, target)?;
    Progress::timed(&progress.disk_nanoseconds, || target.sync())?;
    let read_back_chunks = read_back(manifest, target, options.sample)?;
    Ok(Receipt {
        kept_bytes: summary.in_place_bytes,
        moved_bytes: summary.move_bytes - not_moved_bytes,
        fetched_bytes: summary.fetch_bytes + not_moved_bytes,
        fetched_chunks: fetch.len() as u64,
        zeroed_bytes: summary.zero_bytes,
        wire_bytes: Progress::get(&progress.wire_bytes),
        retries: Progress::get(&progress.retries),
        read_back_chunks,
    })
}

/// Moves `pieces`: one thread reads them in their order, others hash and write. A write never overtakes the read of what it
/// overwrites, because that was read before. Returns the extents whose bytes were not what they seemed.
fn carry_out_moves(
    manifest: &Manifest,
    pieces: &[Piece],
    target: &Target,
    progress: &Progress,
) -> Result<Vec<usize>, Error> {
    let (work_in, work_out) = crossbeam_channel::bounded::<(&Piece, Verified)>(MOVES_AHEAD);
    let (free_in, free_out) = crossbeam_channel::bounded::<Verified>(MOVES_AHEAD + MOVERS);
    for _ in 0..(MOVES_AHEAD + MOVERS).min(pieces.len()) {
        let buffer = Verified::with_capacity(PIECE_BYTES_MAX as usize).map_err(Error::read("a decompressor"))?;
        let _ = free_in.send(buffer);
    }
    let write = || -> Result<Vec<usize>, Error> {
        let mut outcome = Ok(Vec::new());
        for (piece, mut loaded) in &work_out {
            if let Ok(wrong) = &mut outcome {
                match write_piece(manifest, piece, &mut loaded, target, progress) {
                    Ok(more) => wrong.extend(more),
                    Err(error) => outcome = Err(error),
                }
            }
            // Buffers go back even after an error: the reader waits for them.
            let _ = free_in.send(loaded);
        }
        outcome
    };
    thread::scope(|scope| {
        let writers: Vec<_> = (0..MOVERS.min(pieces.len())).map(|_| scope.spawn(write)).collect();
        let mut aside = AlignedBuffer::new(PIECE_BYTES_MAX as usize + 2 * ALIGNMENT);
        let read = pieces.iter().try_for_each(|piece| {
            let Ok(mut buffer) = free_out.recv() else { return Ok(()) };
            load_piece(piece, &mut buffer, &mut aside, target)?;
            let _ = work_in.send((piece, buffer));
            Ok(())
        });
        drop(work_in);
        let written: Result<Vec<Vec<usize>>, Error> =
            writers.into_iter().map(|writer| writer.join().expect("moving does not panic")).collect();
        read.and(written).map(|wrong| wrong.concat())
    })
}

/// Reads the source of `piece` to where it is written from; by way of `aside`, when it lies otherwise in its blocks than it will.
fn load_piece(piece: &Piece, buffer: &mut Verified, aside: &mut AlignedBuffer, target: &Target) -> Result<(), Error> {
    let place = |offset: u64| (offset % ALIGNMENT as u64) as usize;
    let room = buffer.load(piece.to.start);
    if place(piece.from.start) == place(piece.to.start) {
        return target.read(piece.from.clone(), room).map(drop);
    }
    let bytes = target.read(piece.from.clone(), aside)?;
    room.as_mut_slice()[place(piece.to.start)..][..bytes.len()].copy_from_slice(bytes);
    Ok(())
}

/// Writes what of `piece`, whose source is `loaded`, is what its names say, and returns the rest.
fn write_piece(
    manifest: &Manifest,
    piece: &Piece,
    loaded: &mut Verified,
    target: &Target,
    progress: &Progress,
) -> Result<Vec<usize>, Error> {
    let mut wrong = Vec::new();
    for number in piece.extents.clone() {
        let Extent { len, chunk, .. } = manifest.extents[number];
        if !loaded.prove(chunk, len as usize) {
            write_moved(loaded, target, progress)?;
            loaded.leave_out(len as usize);
            wrong.push(number);
        }
    }
    write_moved(loaded, target, progress)?;
    Ok(wrong)
}

fn write_moved(verified: &Verified, target: &Target, progress: &Progress) -> Result<(), Error> {
    target.write(verified)?;
    let bytes = verified.as_bytes().len() as u64;
    Progress::add(&progress.done_bytes, bytes);
    Progress::add(&progress.moved_bytes, bytes);
    Ok(())
}

/// What takes the bytes of an image: a disk, or the files that they belong to.
pub(super) trait Writer: Sync {
    fn write(&self, bytes: &Verified) -> Result<(), Error>;
}

impl Writer for Target {
    fn write(&self, bytes: &Verified) -> Result<(), Error> {
        Target::write(self, bytes)
    }
}

/// Brings the extents of these numbers, which are sorted, to `writer`.
pub(super) fn fetch(
    manifest: &Manifest,
    extents: &[usize],
    source: &dyn ChunkSource,
    options: &Options,
    progress: &Progress,
    writer: &dyn Writer,
) -> Result<(), Error> {
    let asked = Asked { source, options, progress, stop: AtomicBool::new(false) };
    let places = asked.locate(&extents.iter().map(|number| manifest.extents[*number].chunk).collect::<Vec<_>>())?;
    let wanted = extents.iter().zip(places).map(|(number, place)| Wanted { extent: manifest.extents[*number], place });
    carry_out(&jobs(&wanted.collect::<Vec<_>>()), &asked, writer)
}

/// A place on the target and where its bytes come from.
#[derive(Clone, Copy)]
struct Wanted {
    extent: Extent,
    place: Location,
}

/// Neighbours in the order of the disk, at most [`JOB_BYTES`] of them.
fn jobs(wanted: &[Wanted]) -> Vec<&[Wanted]> {
    let mut jobs = Vec::new();
    let mut rest = wanted;
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = |wanted: &&Wanted| {
            bytes += u64::from(wanted.extent.len);
            bytes <= JOB_BYTES
        };
        let count = rest.iter().take_while(fits).count().max(1);
        let (job, more) = rest.split_at(count);
        jobs.push(job);
        rest = more;
    }
    jobs
}

fn carry_out(jobs: &[&[Wanted]], asked: &Asked<'_>, target: &dyn Writer) -> Result<(), Error> {
    let next = AtomicUsize::new(0);
    let work = || -> Result<(), Error> {
        let capacity = JOB_BYTES as usize;
        let mut buffer = Verified::with_capacity(capacity).map_err(Error::read("a decompressor"))?;
        let mut fetched = Fetched::default();
        while let Some(job) = jobs.get(next.fetch_add(1, Relaxed)).filter(|_| !asked.stop.load(Relaxed)) {
            let mut job = job.to_vec();
            let done = asked.fetch_where_it_lies_now(&mut job, &mut fetched);
            let done = done.and_then(|()| asked.open_and_write(&job, &fetched, &mut buffer, target));
            if done.is_err() {
                asked.stop.store(true, Relaxed);
                return done;
            }
        }
        Ok(())
    };
    let workers = asked.options.workers.clamp(1, jobs.len().max(1));
    thread::scope(|scope| {
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("a worker does not panic"))
    })
}

/// Bytes of packs as they came, in memory that is used again for the next job.
#[derive(Default)]
struct Fetched {
    bytes: Vec<u8>,
    pieces: Vec<FetchedPiece>,
}

struct FetchedPiece {
    pack: PackId,
    /// Where in the pack its first byte lies.
    offset: u64,
    /// Where in `bytes` it is.
    at: Range<usize>,
}

impl Fetched {
    /// Room for `len` bytes of `pack`, for which there is a place behind what came before.
    fn add(&mut self, pack: PackId, offset: u64, len: usize) -> &mut [u8] {
        let start = self.pieces.last().map_or(0, |piece| piece.at.end);
        let at = start..start + len;
        if self.bytes.len() < at.end {
            self.bytes.resize(at.end, 0);
        }
        self.pieces.push(FetchedPiece { pack, offset, at: at.clone() });
        &mut self.bytes[at]
    }

    fn sealed(&self, place: &Location) -> Option<&[u8]> {
        let start = u64::from(place.entry.offset);
        self.pieces.iter().find_map(|piece| {
            let at = usize::try_from(start.checked_sub(piece.offset)?).ok()?;
            let bytes = &self.bytes[piece.at.clone()];
            bytes.get(at..at + place.entry.stored_bytes as usize).filter(|_| piece.pack == place.pack)
        })
    }
}

/// A source, asked with patience.
struct Asked<'a> {
    source: &'a dyn ChunkSource,
    options: &'a Options,
    progress: &'a Progress,
    stop: AtomicBool,
}

impl Asked<'_> {
    fn locate(&self, chunks: &[ChunkId]) -> Result<Vec<Location>, Error> {
        let found = self.patiently(|| self.source.locate(chunks))?;
        let places = chunks.iter().zip(found).map(|(chunk, place)| place.ok_or(Error::MissingChunk { chunk: *chunk }));
        places.collect()
    }

    /// Fetches `job`; when a pack is gone, because the store was compacted meanwhile, from where its chunks lie now.
    fn fetch_where_it_lies_now(&self, job: &mut [Wanted], fetched: &mut Fetched) -> Result<(), Error> {
        for _ in 0..RELOCATE_RETRIES {
            match self.fetch(job, fetched) {
                Err(Error::MissingPack { .. }) => {}
                done => return done,
            }
            let chunks: Vec<ChunkId> = job.iter().map(|wanted| wanted.extent.chunk).collect();
            job.iter_mut().zip(self.locate(&chunks)?).for_each(|(wanted, place)| wanted.place = place);
        }
        self.fetch(job, fetched)
    }

    fn fetch(&self, job: &[Wanted], fetched: &mut Fetched) -> Result<(), Error> {
        fetched.pieces.clear();
        for (pack, range) in requests(job.iter().map(|wanted| wanted.place).collect()) {
            let room = fetched.add(pack, range.start, (range.end - range.start) as usize);
            self.patiently(|| self.source.read_into(pack, range.start, room))?;
            Progress::add(&self.progress.wire_bytes, room.len() as u64);
        }
        Ok(())
    }

    fn open_and_write(
        &self,
        job: &[Wanted],
        fetched: &Fetched,
        buffer: &mut Verified,
        target: &dyn Writer,
    ) -> Result<(), Error> {
        let progress = self.progress;
        for stretch in job.chunk_by(|a, b| a.extent.end() == b.extent.offset) {
            buffer.begin(stretch[0].extent.offset);
            Progress::timed(&progress.processor_nanoseconds, || {
                stretch.iter().try_for_each(|wanted| self.open(wanted, fetched, buffer))
            })?;
            Progress::timed(&progress.disk_nanoseconds, || target.write(buffer))?;
            let bytes = buffer.as_bytes().len() as u64;
            Progress::add(&progress.done_bytes, bytes);
            Progress::add(&progress.fetched_bytes, bytes);
            Progress::add(&progress.fetched_chunks, stretch.len() as u64);
        }
        Ok(())
    }

    /// Opens a chunk into `buffer`; one that is damaged is asked for again, and never written.
    fn open(&self, wanted: &Wanted, fetched: &Fetched, buffer: &mut Verified) -> Result<(), Error> {
        let Wanted { extent, place } = wanted;
        let entry = Entry { id: extent.chunk, plain_bytes: extent.len, ..place.entry };
        let bytes = fetched.sealed(place).unwrap_or_default();
        let mut outcome = buffer.open(entry.sealed(bytes));
        for attempt in 1..=DAMAGE_RETRIES {
            if outcome.is_ok() {
                break;
            }
            Progress::add(&self.progress.retries, 1);
            outcome = self.open_again(wanted, attempt, buffer)?;
        }
        outcome.map_err(|damage| Error::DamagedChunk {
            chunk: extent.chunk,
            pack: place.pack,
            from: self.source.name().into(),
            damage,
        })
    }

    fn open_again(&self, wanted: &Wanted, attempt: u32, buffer: &mut Verified) -> Result<Result<(), Damage>, Error> {
        let (Location { entry, .. }, bytes) =
            self.patiently(|| self.source.fetch_again(wanted.extent.chunk, attempt))?;
        Progress::add(&self.progress.wire_bytes, bytes.len() as u64);
        Ok(buffer.open(Entry { plain_bytes: wanted.extent.len, ..entry }.sealed(&bytes)))
    }

    /// Asks again, later and later, while the source does not answer.
    fn patiently<T>(&self, mut ask: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
        let mut waited = Duration::ZERO;
        for attempt in 0u32.. {
            match Progress::timed(&self.progress.wire_nanoseconds, &mut ask) {
                Err(error) if error.is_transient() && waited < self.options.patience && !self.stop.load(Relaxed) => {
                    let delay = Backoff::PATIENT.delay(attempt, self.options.jitter);
                    Progress::timed(&self.progress.wire_nanoseconds, || thread::sleep(delay));
                    waited += delay;
                    Progress::add(&self.progress.retries, 1);
                }
                done => return done,
            }
        }
        unreachable!("the loop above ends by returning")
    }
}

/// The requests that bring all of `places`: in the order of the packs, neighbours in one.
fn requests(mut places: Vec<Location>) -> Vec<(PackId, Range<u64>)> {
    places.sort_unstable_by_key(|place| (place.pack, place.entry.offset));
    let mut requests: Vec<(PackId, Range<u64>)> = Vec::new();
    for Location { pack, entry } in places {
        let range = u64::from(entry.offset)..u64::from(entry.offset) + u64::from(entry.stored_bytes);
        match requests.last_mut() {
            Some((last, wide)) if *last == pack && range.start <= wide.end + u64::from(GAP_BYTES_MAX) => {
                wide.end = wide.end.max(range.end);
            }
            _ => requests.push((pack, range)),
        }
    }
    requests
}

/// Reads some chunks, spread over the target, from the medium; how many were right, which is all of them.
fn read_back(manifest: &Manifest, target: &Target, sample: usize) -> Result<u64, Error> {
    if sample == 0 || manifest.extents.is_empty() {
        return Ok(0);
    }
    target.forget_cache();
    let end = target.device_bytes().unwrap_or(u64::MAX);
    let longest = manifest.extents.iter().map(|extent| extent.len).max().unwrap_or(0);
    let mut buffer = AlignedBuffer::new(longest as usize + 2 * ALIGNMENT);
    let step = manifest.extents.len().div_ceil(sample);
    let mut right = 0;
    for extent in manifest.extents.iter().step_by(step).filter(|extent| extent.end() <= end) {
        if ChunkId::of(target.read(extent.offset..extent.end(), &mut buffer)?) != extent.chunk {
            return Err(Error::ReadBack { target: target.name(), offset: extent.offset, chunk: extent.chunk });
        }
        right += 1;
    }
    Ok(right)
}
