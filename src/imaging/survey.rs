//! What a target holds already: read once, hashed on all processors, compared with what the manifest wants there.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;

use crate::imaging::chunk::ChunkId;
use crate::imaging::error::Error;
use crate::imaging::manifest::{Extent, Manifest};
use crate::imaging::ranges::{intersection, merged, total};
use crate::imaging::target::Target;
use crate::stdx::buffer::{ALIGNMENT, AlignedBuffer, is_zero};
use crate::stdx::monitor::Progress;

/// What is read at once; each thread holds one such buffer.
const READ_BYTES: u64 = 4 << 20;
/// Chunks that are looked at before all are: a disk on which none of them is right holds nothing of the image.
const SAMPLE_CHUNKS: usize = 64;

/// What was found on a target.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Found {
    /// For each extent of the manifest, whether it is in place.
    pub in_place: Vec<bool>,
    /// Where on the target, by what it seems to hold, chunks lie that are not in place.
    pub elsewhere: HashMap<ChunkId, u64>,
    /// What of the manifest's zero ranges does not read as zero, or was not looked at.
    pub not_zero: Vec<Range<u64>>,
}

/// Nothing is read back: everything counts as missing but the holes of a file.
pub fn assume_nothing(manifest: &Manifest, target: &Target) -> Result<Found, Error> {
    let data = target.data_ranges(manifest.header.size)?;
    let not_zero = intersection(&manifest.zeros, &data);
    Ok(Found { not_zero, ..Found::nothing(manifest) })
}

/// Reads the places that the manifest speaks of, as far as they can hold something.
pub fn survey(manifest: &Manifest, target: &Target, threads: usize, progress: &Progress) -> Result<Found, Error> {
    let data = target.data_ranges(manifest.header.size)?;
    let zeros = intersection(&manifest.zeros, &data);
    if target.is_fresh() {
        return Ok(Found { not_zero: zeros, ..Found::nothing(manifest) });
    }
    let reads = if holds_some(&manifest.extents, target)? { reads(&manifest.extents, &data) } else { Vec::new() };
    let pieces = pieces(&zeros);
    let read: u64 = reads.iter().map(|read| read_bytes(manifest, read)).sum();
    Progress::add(&progress.survey_total_bytes, read + total(&pieces));
    let next = AtomicUsize::new(0);
    let outcomes = thread::scope(|scope| {
        let look = || look(manifest, target, &reads, &pieces, &next, progress);
        let threads: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(look)).collect();
        threads.into_iter().map(|thread| thread.join().expect("looking does not panic")).collect::<Vec<_>>()
    });
    let mut found = Found::nothing(manifest);
    for outcome in outcomes {
        let outcome = outcome?;
        outcome.in_place.into_iter().for_each(|extent| found.in_place[extent] = true);
        found.not_zero.extend(outcome.not_zero);
    }
    found.not_zero = merged(found.not_zero);
    Ok(found)
}

impl Found {
    fn nothing(manifest: &Manifest) -> Found {
        Found { in_place: vec![false; manifest.extents.len()], ..Found::default() }
    }

    /// Whether nothing is missing.
    pub fn is_complete(&self) -> bool {
        self.in_place.iter().all(|in_place| *in_place)
    }

    /// Notes where on the target missing chunks lie, if it holds one of `seeds`, versions that it may hold. Nothing of it
    /// is proven: what is moved is hashed on the way.
    pub fn look_elsewhere(&mut self, manifest: &Manifest, seeds: &[Manifest], target: &Target) -> Result<(), Error> {
        let missing = manifest.extents.iter().zip(&self.in_place).filter(|(_, in_place)| !**in_place);
        let missing: HashSet<ChunkId> = missing.map(|(extent, _)| extent.chunk).collect();
        let end = target.bytes()?;
        for seed in seeds {
            if holds_some(&seed.extents, target)? {
                let usable =
                    seed.extents.iter().filter(|extent| missing.contains(&extent.chunk) && extent.end() <= end);
                for extent in usable {
                    self.elsewhere.entry(extent.chunk).or_insert(extent.offset);
                }
            }
        }
        Ok(())
    }
}

/// Whether any of some chunks, spread over the image, is in place.
fn holds_some(extents: &[Extent], target: &Target) -> Result<bool, Error> {
    let mut buffer = AlignedBuffer::new(READ_BYTES as usize + 2 * ALIGNMENT);
    let step = extents.len().div_ceil(SAMPLE_CHUNKS).max(1);
    let spread = extents.iter().step_by(step);
    for extent in extents.iter().take(SAMPLE_CHUNKS / 2).chain(spread) {
        if ChunkId::of(target.read(extent.offset..extent.end(), &mut buffer)?) == extent.chunk {
            return Ok(true);
        }
    }
    Ok(false)
}

#[derive(Default)]
struct Seen {
    in_place: Vec<usize>,
    not_zero: Vec<Range<u64>>,
}

fn look(
    manifest: &Manifest,
    target: &Target,
    reads: &[Range<usize>],
    pieces: &[Range<u64>],
    next: &AtomicUsize,
    progress: &Progress,
) -> Result<Seen, Error> {
    let mut buffer = AlignedBuffer::new(READ_BYTES as usize + 2 * ALIGNMENT);
    let mut seen = Seen::default();
    loop {
        let job = next.fetch_add(1, Relaxed);
        if let Some(read) = reads.get(job) {
            compare(manifest, target, read.clone(), &mut buffer, &mut seen.in_place, progress)?;
            Progress::add(&progress.surveyed_bytes, read_bytes(manifest, read));
        } else if let Some(piece) = pieces.get(job - reads.len()) {
            let bytes = Progress::timed(&progress.disk_nanoseconds, || target.read(piece.clone(), &mut buffer))?;
            if !is_zero(bytes) {
                seen.not_zero.push(piece.clone());
            }
            Progress::add(&progress.surveyed_bytes, piece.end - piece.start);
        } else {
            return Ok(seen);
        }
    }
}

/// Reads the extents of `read`, which lie together, and notes which are right.
fn compare(
    manifest: &Manifest,
    target: &Target,
    read: Range<usize>,
    buffer: &mut AlignedBuffer,
    in_place: &mut Vec<usize>,
    progress: &Progress,
) -> Result<(), Error> {
    let extents = &manifest.extents[read.clone()];
    let range = extents[0].offset..extents[extents.len() - 1].end();
    let bytes = Progress::timed(&progress.disk_nanoseconds, || target.read(range.clone(), buffer))?;
    let is_right = |extent: &Extent| {
        let at = (extent.offset - range.start) as usize;
        ChunkId::of(&bytes[at..at + extent.len as usize]) == extent.chunk
    };
    Progress::timed(&progress.processor_nanoseconds, || {
        in_place.extend(read.zip(extents).filter(|(_, extent)| is_right(extent)).map(|(number, _)| number));
    });
    Ok(())
}

/// Extents that touch, grouped into reads, without those of which the target holds nothing.
fn reads(extents: &[Extent], data: &[Range<u64>]) -> Vec<Range<usize>> {
    let mut reads: Vec<Range<usize>> = Vec::new();
    let mut data = data.iter().peekable();
    for (number, extent) in extents.iter().enumerate() {
        while data.next_if(|data| data.end <= extent.offset).is_some() {}
        if data.peek().is_none_or(|data| extent.end() <= data.start) {
            continue;
        }
        match reads.last_mut() {
            Some(last)
                if last.end == number
                    && extents[number - 1].end() == extent.offset
                    && extent.end() - extents[last.start].offset <= READ_BYTES =>
            {
                last.end += 1;
            }
            _ => reads.push(number..number + 1),
        }
    }
    reads
}

fn pieces(ranges: &[Range<u64>]) -> Vec<Range<u64>> {
    let cut = |range: &Range<u64>| {
        let end = range.end;
        (range.start..end).step_by(READ_BYTES as usize).map(move |at| at..end.min(at + READ_BYTES))
    };
    ranges.iter().flat_map(cut).collect()
}

fn read_bytes(manifest: &Manifest, read: &Range<usize>) -> u64 {
    manifest.extents[read.end - 1].end() - manifest.extents[read.start].offset
}
