//! Contents out of a WIM, decompressed on all cores and checked by their SHA-1.
//!
//! Work is handed out in the order in which it lies in the file, in segments of about a mebibyte of plain content: some
//! small contents, or a run of chunks of a large one. Segments are decompressed (and delivered) side by side; what must be
//! in order, the hash of a content that spans segments, is taken in turn. Each worker holds one segment, so memory is
//! bounded by the number of workers.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use sha1::Digest;

use super::codec::{Compression, Decompressor};
use super::error::Error;
use super::format::Sha1;
use super::reader::{Blob, Wim};
use super::resource::{self, Chunk, ChunkTable, Layout, Resource};
use crate::stdx::io::ReadAt;
use crate::stdx::monitor::Progress;

/// Plain bytes of a segment; solid chunks can be longer and are then one segment each.
const SEGMENT_BYTES: u64 = 1 << 20;
/// All workers' buffers together. Chunks of 64 MiB let two workers in.
const BUFFERS_BYTES_MAX: u64 = 180 << 20;

/// Takes contents. Called from several threads at once, for different contents and for pieces of the same.
/// An error stops the extraction.
pub trait Sink: Sync {
    /// A whole content, already checked.
    fn whole(&self, blob: &Blob, content: &[u8]) -> Result<(), Error>;
    /// A run of a longer content, not checked yet.
    fn piece(&self, blob: &Blob, offset: u64, bytes: &[u8]) -> Result<(), Error>;
    /// The end of a content given in pieces. All of them have been delivered.
    fn checked(&self, blob: &Blob) -> Result<(), Error>;
    /// A content (or what was given of it) that is not what it should be.
    fn damaged(&self, blob: &Blob, error: Error) -> Result<(), Error>;
}

/// Extracts the blobs at these places of `wim.blobs`.
pub fn extract(wim: &Wim, blobs: &[usize], workers: usize, sink: &dyn Sink, progress: &Progress) -> Result<(), Error> {
    let mut order: Vec<&Blob> = blobs.iter().map(|place| &wim.blobs[*place]).collect();
    order.sort_by_key(|blob| (wim.resources[blob.resource].part, wim.resources[blob.resource].offset, blob.offset));
    drop_overlaps(&mut order, sink)?;
    Progress::add(&progress.total_bytes, order.iter().map(|blob| blob.plain_bytes).sum());
    let workers = affordable_workers(wim, &order, workers);
    let source = Mutex::new(SegmentSource { wim, blobs: &order, next: 0, current: None, sink });
    let run = Run { wim, sink, progress, stop: AtomicBool::new(false) };
    std::thread::scope(|scope| {
        let handles: Vec<_> = (0..workers).map(|_| scope.spawn(|| run.work(&source))).collect();
        // All are waited for, then the first error is given back.
        let joined =
            handles.into_iter().map(|handle| handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        let results: Vec<_> = joined.collect();
        results.into_iter().collect()
    })
}

/// Contents that share bytes with the one before cannot be taken in one pass, and no writer makes them.
fn drop_overlaps(order: &mut Vec<&Blob>, sink: &dyn Sink) -> Result<(), Error> {
    let mut end = (usize::MAX, 0);
    let mut overlapping = Vec::new();
    order.retain(|blob| {
        let sound = blob.resource != end.0 || blob.offset >= end.1;
        if sound {
            end = (blob.resource, blob.offset + blob.plain_bytes);
        } else {
            overlapping.push(*blob);
        }
        sound
    });
    overlapping.iter().try_for_each(|blob| {
        sink.damaged(blob, Error::Format { offset: blob.offset, what: "two contents of a solid resource overlap" })
    })
}

/// As many workers as their buffers may be, at least one.
fn affordable_workers(wim: &Wim, order: &[&Blob], workers: usize) -> usize {
    let mut largest = 2 * SEGMENT_BYTES;
    let mut last = usize::MAX;
    for blob in order.iter().filter(|blob| wim.resources[blob.resource].layout == Layout::Solid) {
        if std::mem::replace(&mut last, blob.resource) == blob.resource {
            continue;
        }
        let resource = &wim.resources[blob.resource];
        if u64::from(resource.chunk_bytes) > SEGMENT_BYTES {
            // A broken table is reported when its turn comes.
            let table = resource.chunks(&wim.parts[resource.part].source);
            let stored = table.map_or(0, |table| table.stored_bytes_max());
            largest = largest.max(u64::from(resource.chunk_bytes) + u64::from(stored));
        }
    }
    workers.clamp(1, (BUFFERS_BYTES_MAX / largest).max(1) as usize)
}

/// What a worker does next.
enum Segment<'a> {
    /// Contents with a resource each.
    Small(&'a [&'a Blob]),
    /// Chunks `first..end` of a resource that is longer than a segment, or solid.
    Run { large: Arc<Large<'a>>, first: usize, end: usize, turn: usize },
}

/// A resource that is worked on in several segments.
struct Large<'a> {
    resource: Resource,
    table: ChunkTable,
    /// The wanted contents in it, in order.
    blobs: &'a [&'a Blob],
    hashing: Mutex<Hashing>,
    next_turn: Condvar,
}

/// The content that goes from one segment into the next.
#[derive(Default)]
struct Hashing {
    turn: usize,
    hasher: sha1::Sha1,
    failed: Option<Error>,
}

struct SegmentSource<'a> {
    wim: &'a Wim,
    blobs: &'a [&'a Blob],
    next: usize,
    current: Option<(Arc<Large<'a>>, usize, usize)>,
    sink: &'a dyn Sink,
}

impl<'a> SegmentSource<'a> {
    fn next(&mut self) -> Result<Option<Segment<'a>>, Error> {
        loop {
            if let Some((large, first, turn)) = self.current.take()
                && let Some((first, end)) = large.segment_from(first)
            {
                self.current = Some((large.clone(), end, turn + 1));
                return Ok(Some(Segment::Run { large, first, end, turn }));
            }
            let Some(blob) = self.blobs.get(self.next) else { return Ok(None) };
            let resource = self.wim.resources[blob.resource];
            if resource.layout != Layout::Solid && resource.plain_bytes <= SEGMENT_BYTES {
                return Ok(Some(self.small()));
            }
            let rest = &self.blobs[self.next..];
            let blobs = &rest[..rest.iter().take_while(|other| other.resource == blob.resource).count()];
            self.next += blobs.len();
            match resource.chunks(&self.wim.parts[resource.part].source) {
                Ok(table) => {
                    let (hashing, next_turn) = Default::default();
                    self.current = Some((Arc::new(Large { resource, table, blobs, hashing, next_turn }), 0, 0));
                }
                Err(error) => {
                    for blob in blobs {
                        self.sink.damaged(blob, again(&error, &resource))?;
                    }
                }
            }
        }
    }

    fn small(&mut self) -> Segment<'a> {
        let mut bytes = 0;
        let rest = &self.blobs[self.next..];
        let fits = rest.iter().take_while(|blob| {
            let resource = &self.wim.resources[blob.resource];
            bytes += resource.plain_bytes;
            resource.layout != Layout::Solid && bytes <= SEGMENT_BYTES
        });
        let count = fits.count().max(1);
        self.next += count;
        Segment::Small(&rest[..count])
    }
}

impl Large<'_> {
    /// The next chunks from `first` on that hold wanted contents: a segment's worth of them.
    fn segment_from(&self, first: usize) -> Option<(usize, usize)> {
        let chunk_bytes = u64::from(self.resource.chunk_bytes);
        let wanted = self.blobs.iter().find(|blob| blob.offset + blob.plain_bytes > first as u64 * chunk_bytes)?;
        let first = first.max((wanted.offset / chunk_bytes) as usize);
        let count = (SEGMENT_BYTES / chunk_bytes).max(1) as usize;
        let end = (first + count).min(self.table.chunks().len());
        (first < end).then_some((first, end))
    }

    fn wait_for(&self, turn: usize) -> MutexGuard<'_, Hashing> {
        let hashing = self.hashing.lock().unwrap_or_else(PoisonError::into_inner);
        self.next_turn.wait_while(hashing, |hashing| hashing.turn != turn).unwrap_or_else(PoisonError::into_inner)
    }
}

struct Run<'a> {
    wim: &'a Wim,
    sink: &'a dyn Sink,
    progress: &'a Progress,
    stop: AtomicBool,
}

/// What a worker keeps from segment to segment.
#[derive(Default)]
pub(super) struct Buffers {
    stored: Vec<u8>,
    plain: Vec<u8>,
    decompressors: Vec<(Compression, u32, Decompressor)>,
}

impl Buffers {
    fn decompressor(&mut self, resource: &Resource) -> Result<usize, Error> {
        let (compression, chunk_bytes) = (resource.compression, resource.chunk_bytes);
        let known = self.decompressors.iter().position(|(c, bytes, _)| *c == compression && *bytes == chunk_bytes);
        if let Some(known) = known {
            return Ok(known);
        }
        let made = Decompressor::new(compression, chunk_bytes as usize);
        let made = made.map_err(|source| Error::Chunk { offset: resource.offset, source })?;
        self.decompressors.push((compression, chunk_bytes, made));
        Ok(self.decompressors.len() - 1)
    }

    /// Decompresses `chunks`, whose stored bytes are `self.stored` from file offset `stored_from` on, into `self.plain`.
    fn decompress(&mut self, resource: &Resource, chunks: &[Chunk], stored_from: u64) -> Result<(), Error> {
        let decompressor = self.decompressor(resource)?;
        let len: usize = chunks.iter().map(|chunk| chunk.plain_bytes as usize).sum();
        if self.plain.len() < len {
            self.plain.resize(len, 0);
        }
        let mut at = 0;
        for chunk in chunks {
            let from = (chunk.offset - stored_from) as usize;
            let stored = &self.stored[from..from + chunk.stored_bytes as usize];
            let plain = &mut self.plain[at..at + chunk.plain_bytes as usize];
            let decompressed = self.decompressors[decompressor].2.decompress(stored, plain);
            decompressed.map_err(|source| Error::Chunk { offset: chunk.offset, source })?;
            at += chunk.plain_bytes as usize;
        }
        Ok(())
    }

    /// Reads consecutive chunks of a resource and decompresses them.
    pub(super) fn read_chunks(
        &mut self,
        source: &impl ReadAt,
        resource: &Resource,
        chunks: &[Chunk],
    ) -> Result<(), Error> {
        let (Some(first), Some(last)) = (chunks.first(), chunks.last()) else { return Ok(()) };
        let len = last.offset + u64::from(last.stored_bytes) - first.offset;
        self.read(source, first.offset, len)?;
        match resource.layout {
            Layout::Plain => Ok(()),
            _ => self.decompress(resource, chunks, first.offset),
        }
    }

    /// What the chunks read last hold. There may be more behind it.
    pub(super) fn plain_of(&self, resource: &Resource) -> &[u8] {
        if resource.layout == Layout::Plain { &self.stored } else { &self.plain }
    }

    /// What was read for them.
    pub(super) fn stored(&self) -> &[u8] {
        &self.stored
    }

    fn read(&mut self, source: &impl ReadAt, offset: u64, len: u64) -> Result<(), Error> {
        let len = len as usize;
        if self.stored.len() < len {
            self.stored.resize(len, 0);
        }
        resource::read(source, &mut self.stored[..len], offset)
    }
}

impl<'a> Run<'a> {
    fn work(&self, source: &Mutex<SegmentSource<'a>>) -> Result<(), Error> {
        let mut buffers = Buffers::default();
        loop {
            // A worker that stops early has handed on its turn, so the others come to their ends.
            if self.stop.load(Relaxed) {
                return Ok(());
            }
            let segment = source.lock().unwrap_or_else(PoisonError::into_inner).next();
            let worked = match segment {
                Ok(None) => return Ok(()),
                Ok(Some(Segment::Small(blobs))) => self.small(blobs, &mut buffers),
                Ok(Some(Segment::Run { large, first, end, turn })) => self.run(&large, first..end, turn, &mut buffers),
                Err(error) => Err(error),
            };
            if worked.is_err() {
                self.stop.store(true, Relaxed);
                return worked;
            }
        }
    }

    fn small(&self, blobs: &[&Blob], buffers: &mut Buffers) -> Result<(), Error> {
        for blob in blobs {
            let resource = &self.wim.resources[blob.resource];
            match self.small_content(resource, blob, buffers) {
                Ok(content) => self.sink.whole(blob, content)?,
                Err(error) => self.sink.damaged(blob, error)?,
            }
            Progress::add(&self.progress.done_bytes, blob.plain_bytes);
        }
        Ok(())
    }

    fn small_content<'b>(&self, resource: &Resource, blob: &Blob, buffers: &'b mut Buffers) -> Result<&'b [u8], Error> {
        buffers.read(&self.wim.parts[resource.part].source, resource.offset, resource.stored_bytes)?;
        let len = resource.plain_bytes as usize;
        if resource.layout == Layout::Plain {
            check(blob, &buffers.stored[..len], resource.offset)?;
            return Ok(&buffers.stored[..len]);
        }
        let table = resource.chunks_in(&buffers.stored[..resource.stored_bytes as usize])?;
        buffers.decompress(resource, table.chunks(), resource.offset)?;
        check(blob, &buffers.plain[..len], resource.offset)?;
        Ok(&buffers.plain[..len])
    }

    fn run(
        &self,
        large: &Large<'_>,
        chunks: std::ops::Range<usize>,
        turn: usize,
        buffers: &mut Buffers,
    ) -> Result<(), Error> {
        let plain_from = chunks.start as u64 * u64::from(large.resource.chunk_bytes);
        let chunks = &large.table.chunks()[chunks];
        let source = &self.wim.parts[large.resource.part].source;
        let decompressed = buffers.read_chunks(source, &large.resource, chunks);
        let plain_end = plain_from + chunks.iter().map(|chunk| u64::from(chunk.plain_bytes)).sum::<u64>();
        let ended = |blob: &Blob| blob.offset + blob.plain_bytes <= plain_from;
        let first = large.blobs.partition_point(|blob| ended(blob));
        let here = &large.blobs[first..large.blobs.partition_point(|blob| blob.offset < plain_end).max(first)];
        let mut delivered = Ok(());
        let bytes = buffers.plain_of(&large.resource);
        if decompressed.is_ok() {
            delivered = self.deliver(here, bytes, plain_from..plain_end);
        }
        let mut hashing = large.wait_for(turn);
        let finished =
            delivered.and_then(|()| self.finish(large, here, &mut hashing, bytes, decompressed, plain_from..plain_end));
        hashing.turn += 1;
        drop(hashing);
        large.next_turn.notify_all();
        finished
    }

    /// Hands out what needs no turn: contents that lie in this segment whole, and the pieces of others.
    fn deliver(&self, blobs: &[&Blob], plain: &[u8], range: std::ops::Range<u64>) -> Result<(), Error> {
        for blob in blobs {
            let bytes = within(blob, plain, &range);
            if bytes.len() as u64 == blob.plain_bytes {
                match check(blob, bytes, range.start) {
                    Ok(()) => self.sink.whole(blob, bytes)?,
                    Err(error) => self.sink.damaged(blob, error)?,
                }
            } else {
                self.sink.piece(blob, range.start.max(blob.offset) - blob.offset, bytes)?;
            }
            Progress::add(&self.progress.done_bytes, bytes.len() as u64);
        }
        Ok(())
    }

    /// In turn: goes on with the hash of the content that came from the segment before, and begins that of the last one.
    fn finish(
        &self,
        large: &Large<'_>,
        blobs: &[&Blob],
        hashing: &mut Hashing,
        plain: &[u8],
        decompressed: Result<(), Error>,
        range: std::ops::Range<u64>,
    ) -> Result<(), Error> {
        let damage = decompressed.err();
        for blob in blobs {
            let (starts, ends) = (blob.offset >= range.start, blob.offset + blob.plain_bytes <= range.end);
            if starts {
                hashing.failed = None;
                hashing.hasher = sha1::Sha1::new();
            }
            match &damage {
                Some(error) => hashing.failed = Some(again(error, &large.resource)),
                None if starts && ends => continue,
                None => hashing.hasher.update(within(blob, plain, &range)),
            }
            if !ends {
                continue;
            }
            let found = Sha1(std::mem::take(&mut hashing.hasher).finalize().into());
            match hashing.failed.take() {
                Some(error) => self.sink.damaged(blob, error)?,
                None if found == blob.hash => self.sink.checked(blob)?,
                None => {
                    let offset = large.resource.offset;
                    self.sink.damaged(blob, Error::Content { expected: blob.hash, found, offset })?;
                }
            }
        }
        Ok(())
    }
}

/// The bytes of `blob` in a segment of plain content.
fn within<'b>(blob: &Blob, plain: &'b [u8], range: &std::ops::Range<u64>) -> &'b [u8] {
    let start = blob.offset.max(range.start) - range.start;
    let end = (blob.offset + blob.plain_bytes).min(range.end) - range.start;
    &plain[start as usize..end as usize]
}

fn check(blob: &Blob, content: &[u8], offset: u64) -> Result<(), Error> {
    let found = Sha1(sha1::Sha1::digest(content).into());
    if found == blob.hash {
        return Ok(());
    }
    Err(Error::Content { expected: blob.hash, found, offset })
}

/// The same damage for another content that it touches.
fn again(error: &Error, resource: &Resource) -> Error {
    match error {
        Error::Chunk { offset, source } => Error::Chunk { offset: *offset, source: *source },
        Error::Read { offset, source } => Error::Read { offset: *offset, source: source.kind().into() },
        Error::Format { offset, what } => Error::Format { offset: *offset, what },
        _ => Error::Format { offset: resource.offset, what: "a chunk that cannot be read" },
    }
}
