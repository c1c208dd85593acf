//! Bytes in: a source is read once, cut and hashed, compressed on all processors and stored in the order of the disk.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::imaging::chunk::{ChunkId, Encoding, Sealed, Sealer};
use crate::imaging::chunker::CUT_BYTES_MAX;
use crate::imaging::cutter::{Cutter, NamedPiece};
use crate::imaging::error::Error;
use crate::imaging::manifest::{Extent, Header, Manifest};
use crate::imaging::ranges::{gaps, intersection, merged, total};
use crate::imaging::store::local::LocalStore;
use crate::imaging::store::upload::Upload;
use crate::stdx::buffer::{Lent, Pool};
use crate::stdx::io::ReadAt;
use crate::stdx::monitor::Progress;

/// What is read at once.
const BATCH_BYTES: usize = 4 << 20;
/// What its chunks take at most when they are sealed: never more than they are, and what the compressor wants on the way.
const SEALED_BYTES: usize = BATCH_BYTES + (CUT_BYTES_MAX >> 8) + 128;
/// Memory is bounded by these, on machines of many processors to some 190 MB.
const WORKERS_MAX: usize = 16;
const PLAIN_MAX: usize = 16;
const SEALED_MAX: usize = 24;
/// After a read error the rest of a batch is read in pieces of this size, so that little is lost.
const RESCUE_BYTES: u64 = 4096;
/// Bad places that are named; the rest is counted.
const BAD_PLACES_NAMED_MAX: usize = 20;

/// What of a source belongs in an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// To be read: sorted, none touching another.
    pub used: Vec<Range<u64>>,
    /// Must read as zero but need not be read: holes. Sorted, and not in `used`.
    pub zeros: Vec<Range<u64>>,
}

impl Content {
    /// Every byte of `size`.
    pub fn whole(size: u64) -> Content {
        Content { used: std::iter::once(0..size).filter(|range| !range.is_empty()).collect(), zeros: Vec::new() }
    }

    /// Everything in the ranges of `data`; the rest of `size` is zero.
    pub fn with_holes(data: Vec<Range<u64>>, size: u64) -> Content {
        let zeros = gaps(&data, size);
        Content { used: data, zeros }
    }

    /// Only what lies in `used` counts; of that, what is outside `data` is zero.
    pub fn of_used(used: &[Range<u64>], data: &[Range<u64>], size: u64) -> Content {
        let read = intersection(used, data);
        Content { zeros: intersection(used, &gaps(&read, size)), used: read }
    }
}

/// Reads `content` of `source`, puts it into `upload` and returns what the image consists of.
pub fn capture(
    source: &dyn ReadAt,
    content: Content,
    mut header: Header,
    upload: &mut Upload<'_>,
    progress: &Progress,
) -> Result<Manifest, Error> {
    Progress::add(&progress.total_bytes, total(&content.used));
    let line = Line::new(source, upload.owner(), progress);
    let (work_in, work_out) = bounded::<Batch>(line.workers);
    let (done_in, done_out) = bounded::<Result<SealedBatch, Error>>(line.workers);
    let mut collector = Collector { extents: Vec::new(), zeros: content.zeros, bad: BadPlaces::default() };
    let collected = thread::scope(|scope| {
        let (line, used, done_for_reader) = (&line, &content.used, done_in.clone());
        scope.spawn(move || {
            if let Err(error) = line.read_batches(used, &work_in) {
                let _ = done_for_reader.send(Err(error));
            }
        });
        for _ in 0..line.workers {
            let (work, done) = (work_out.clone(), done_in.clone());
            scope.spawn(move || line.seal_batches(&work, &done));
        }
        drop((work_out, done_in));
        let collected = collector.collect(&done_out, upload, progress);
        line.stop.store(true, Relaxed);
        done_out.iter().for_each(drop);
        collected
    });
    collected?;
    header.remarks.extend(collector.bad.remarks());
    Ok(Manifest { header, extents: collector.extents, zeros: merged(collector.zeros) })
}

/// What the threads of a capture share.
struct Line<'a> {
    source: &'a dyn ReadAt,
    store: &'a LocalStore,
    progress: &'a Progress,
    workers: usize,
    stop: AtomicBool,
    plain: Pool,
    /// A batch has its place for sealed bytes before it is read: the one that all others wait for never waits itself.
    sealed: Pool,
}

/// Some MB of the source, cut and named.
struct Batch<'a> {
    number: u64,
    plain: Lent<'a>,
    /// Where on the disk the first byte lies.
    offset: u64,
    pieces: Vec<NamedPiece>,
    bad: Vec<Range<u64>>,
    sealed: Lent<'a>,
}

impl<'a> Line<'a> {
    fn new(source: &'a dyn ReadAt, store: &'a LocalStore, progress: &'a Progress) -> Line<'a> {
        let workers = thread::available_parallelism().map_or(2, NonZeroUsize::get).min(WORKERS_MAX);
        let plain = Pool::new(2 * workers.min(PLAIN_MAX / 2) + 2);
        let sealed = Pool::new(4 * workers.min(SEALED_MAX / 4) + 2);
        Line { source, store, progress, workers, stop: AtomicBool::new(false), plain, sealed }
    }

    fn read_batches(&'a self, used: &[Range<u64>], work: &Sender<Batch<'a>>) -> Result<(), Error> {
        let mut number = 0;
        let mut carried = Vec::new();
        let mut cutter = Cutter::following(self.store);
        for range in used {
            let mut at = range.start;
            while at < range.end || !carried.is_empty() {
                if self.stop.load(Relaxed) {
                    return Ok(());
                }
                let (mut plain, sealed) = (self.plain.lend(BATCH_BYTES), self.sealed.lend(SEALED_BYTES));
                let (offset, known) = (at - carried.len() as u64, carried.len());
                let len = (range.end - at).min((BATCH_BYTES - known) as u64);
                let end = known + len as usize;
                plain[..known].copy_from_slice(&carried);
                let read = || read_or_rescue(self.source, &mut plain[known..end], at);
                let bad = Progress::timed(&self.progress.disk_nanoseconds, read)?;
                at += len;
                let cut = || cutter.cut(&plain[..end], at == range.end);
                let (pieces, rest) = Progress::timed(&self.progress.processor_nanoseconds, cut);
                carried.clear();
                carried.extend_from_slice(&plain[rest..end]);
                if work.send(Batch { number, plain, offset, pieces, bad, sealed }).is_err() {
                    return Ok(());
                }
                number += 1;
            }
        }
        Ok(())
    }

    fn seal_batches(&'a self, work: &Receiver<Batch<'a>>, done: &Sender<Result<SealedBatch<'a>, Error>>) {
        let mut sealer = match Sealer::new() {
            Ok(sealer) => sealer,
            Err(source) => {
                let _ = done.send(Err(Error::Read { what: "a compressor".to_owned(), source }));
                return;
            }
        };
        for batch in work {
            if self.stop.load(Relaxed) {
                return;
            }
            let sealed = Progress::timed_share(&self.progress.processor_nanoseconds, self.workers, || {
                seal_batch(self.store, &mut sealer, batch)
            });
            if done.send(Ok(sealed)).is_err() {
                return;
            }
        }
    }
}

/// Fills `buffer`; what the medium does not give up stays zero and is returned.
fn read_or_rescue(source: &dyn ReadAt, buffer: &mut [u8], offset: u64) -> Result<Vec<Range<u64>>, Error> {
    match source.read_exact_at(buffer, offset) {
        Ok(()) => return Ok(Vec::new()),
        Err(error) if is_medium_error(&error) => {}
        Err(error) => return Err(Error::Read { what: format!("the source at byte {offset}"), source: error }),
    }
    let mut bad: Vec<Range<u64>> = Vec::new();
    let mut at = offset;
    for piece in buffer.chunks_mut(RESCUE_BYTES as usize) {
        let end = at + piece.len() as u64;
        if source.read_exact_at(piece, at).is_err() {
            piece.fill(0);
            match bad.last_mut() {
                Some(last) if last.end == at => last.end = end,
                _ => bad.push(at..end),
            }
        }
        at = end;
    }
    Ok(bad)
}

fn is_medium_error(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EIO | libc::ENODATA | libc::EILSEQ))
}

/// A batch of which those chunks that the store has not are sealed.
struct SealedBatch<'a> {
    number: u64,
    offset: u64,
    pieces: Vec<SealedPiece>,
    bytes: Lent<'a>,
    bad: Vec<Range<u64>>,
}

struct SealedPiece {
    len: u32,
    content: PieceContent,
}

enum PieceContent {
    Zero,
    /// Another pack of the store has it.
    Known(ChunkId),
    New {
        id: ChunkId,
        encoding: Encoding,
        range: Range<usize>,
    },
}

fn seal_batch<'a>(store: &LocalStore, sealer: &mut Sealer, batch: Batch<'a>) -> SealedBatch<'a> {
    let mut bytes = batch.sealed;
    let mut filled = 0;
    let mut pieces = Vec::with_capacity(batch.pieces.len());
    for piece in batch.pieces {
        let plain = &batch.plain[piece.range];
        let content = match piece.chunk {
            None => PieceContent::Zero,
            Some(id) if store.has(&id) => PieceContent::Known(id),
            Some(id) => {
                let (encoding, len) = sealer.seal_into(plain, &mut bytes[filled..]);
                filled += len;
                PieceContent::New { id, encoding, range: filled - len..filled }
            }
        };
        pieces.push(SealedPiece { len: plain.len() as u32, content });
    }
    SealedBatch { number: batch.number, offset: batch.offset, pieces, bytes, bad: batch.bad }
}

/// Puts batches back into order and into the store.
struct Collector {
    extents: Vec<Extent>,
    zeros: Vec<Range<u64>>,
    bad: BadPlaces,
}

impl Collector {
    fn collect(
        &mut self,
        done: &Receiver<Result<SealedBatch<'_>, Error>>,
        upload: &mut Upload<'_>,
        progress: &Progress,
    ) -> Result<(), Error> {
        let mut waiting = BTreeMap::new();
        let mut next = 0;
        for batch in done {
            let batch = batch?;
            waiting.insert(batch.number, batch);
            while let Some(batch) = waiting.remove(&next) {
                self.add(batch, upload, progress)?;
                next += 1;
            }
        }
        Ok(())
    }

    fn add(&mut self, batch: SealedBatch<'_>, upload: &mut Upload<'_>, progress: &Progress) -> Result<(), Error> {
        let mut offset = batch.offset;
        for piece in batch.pieces {
            let len = piece.len;
            let chunk = match piece.content {
                PieceContent::Zero => {
                    self.zeros.push(offset..offset + u64::from(len));
                    Progress::add(&progress.zeroed_bytes, len.into());
                    None
                }
                PieceContent::Known(id) => {
                    Progress::add(&progress.skipped_bytes, len.into());
                    Some(id)
                }
                PieceContent::New { id, encoding, range } => {
                    let sealed = Sealed { id, plain_bytes: len, encoding, bytes: &batch.bytes[range] };
                    match Progress::timed(&progress.wire_nanoseconds, || upload.put(sealed))? {
                        true => Progress::add(&progress.stored_bytes, sealed.bytes.len() as u64),
                        false => Progress::add(&progress.skipped_bytes, len.into()),
                    }
                    Some(id)
                }
            };
            self.extents.extend(chunk.map(|chunk| Extent { offset, len, chunk }));
            Progress::add(&progress.done_bytes, len.into());
            offset += u64::from(len);
        }
        self.bad.extend(batch.bad);
        Ok(())
    }
}

#[derive(Default)]
struct BadPlaces {
    named: Vec<Range<u64>>,
    places: u64,
    bytes: u64,
}

impl BadPlaces {
    fn extend(&mut self, places: Vec<Range<u64>>) {
        for place in places {
            self.places += 1;
            self.bytes += place.end - place.start;
            if self.named.len() < BAD_PLACES_NAMED_MAX {
                self.named.push(place);
            }
        }
    }

    fn remarks(&self) -> Vec<String> {
        if self.places == 0 {
            return Vec::new();
        }
        let named: Vec<String> =
            self.named.iter().map(|place| format!("{}+{}", place.start, place.end - place.start)).collect();
        vec![format!(
            "{} bytes in {} places could not be read and are zero in this image (byte+length): {}",
            self.bytes,
            self.places,
            named.join(", ")
        )]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_what_is_used_and_no_hole() {
        let (used, data) = ([0..10, 20..30, 40..50], [5..25, 28..45]);
        let content = Content::of_used(&used, &data, 60);
        assert_eq!(content.used, [5..10, 20..25, 28..30, 40..45]);
        assert_eq!(content.zeros, [0..5, 25..28, 45..50]);
        assert_eq!(Content::with_holes(vec![3..5, 6..7], 7).zeros, [0..3, 5..6]);
    }
}
