//! What a target holds already: read once, hashed on all processors, compared with what the manifest wants there.
//!
//! A target that holds another version is not read whole: that version's manifest tells what can be in place, and that is
//! looked at. A sample of the rest says whether the target is what it seems; one on which an update was cut off is not.

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
/// Chunks that should not be in place, of which this many are looked at: of a target that holds more than 2 % of the image beyond
/// what its seeds say, 99 % are found out.
const DOUBT_CHUNKS: usize = 256;

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

/// Reads the places that the manifest speaks of, as far as they can hold something. `seeds` are versions that the target
/// seems to hold, as [`held`] found them.
pub fn survey(
    manifest: &Manifest,
    target: &Target,
    seeds: &[Manifest],
    threads: usize,
    progress: &Progress,
) -> Result<Found, Error> {
    let data = target.data_ranges(manifest.header.size)?;
    let zeros = intersection(&manifest.zeros, &data);
    if target.is_fresh() {
        return Ok(Found { not_zero: zeros, ..Found::nothing(manifest) });
    }
    let looked_at = candidates(manifest, target, seeds)?;
    let reads = reads(&manifest.extents, &looked_at, &data);
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

    /// Notes where on the target missing chunks lie, which holds `seeds`. Nothing of it is proven: what is moved is hashed on
    /// the way.
    pub fn look_elsewhere(&mut self, manifest: &Manifest, seeds: &[Manifest], target: &Target) -> Result<(), Error> {
        let missing = manifest.extents.iter().zip(&self.in_place).filter(|(_, in_place)| !**in_place);
        let missing: HashSet<ChunkId> = missing.map(|(extent, _)| extent.chunk).collect();
        let end = target.bytes()?;
        for seed in seeds {
            let usable = seed.extents.iter().filter(|extent| missing.contains(&extent.chunk) && extent.end() <= end);
            for extent in usable {
                self.elsewhere.entry(extent.chunk).or_insert(extent.offset);
            }
        }
        Ok(())
    }
}

/// Those of `seeds` of which `target` holds something in place.
pub fn held(mut seeds: Vec<Manifest>, target: &Target) -> Result<Vec<Manifest>, Error> {
    let held = seeds.iter().map(|seed| holds_some(&seed.extents, target)).collect::<Result<Vec<bool>, Error>>()?;
    let mut held = held.into_iter();
    seeds.retain(|_| held.next().unwrap_or_default());
    Ok(seeds)
}

/// Whether all of some chunks, spread over the image, are in place.
pub fn seems_whole(manifest: &Manifest, target: &Target) -> Result<bool, Error> {
    Ok(!any(sample(&manifest.extents), target, false)?)
}

/// Which extents of `manifest` may be in place: those of the seeds, if the target is what they say; else all or, when none of
/// a sample is, none.
fn candidates(manifest: &Manifest, target: &Target, seeds: &[Manifest]) -> Result<Vec<bool>, Error> {
    let extents = &manifest.extents;
    if seeds.is_empty() {
        return Ok(vec![holds_some(extents, target)?; extents.len()]);
    }
    let in_seed = |extent: &Extent, seed: &Manifest| {
        let place = seed.extents.binary_search_by_key(&extent.offset, |other| other.offset);
        place.is_ok_and(|place| seed.extents[place] == *extent)
    };
    let in_seeds: Vec<bool> = extents.iter().map(|extent| seeds.iter().any(|seed| in_seed(extent, seed))).collect();
    let others: Vec<&Extent> =
        extents.iter().zip(&in_seeds).filter(|(_, in_seeds)| !**in_seeds).map(|(extent, _)| extent).collect();
    let doubted = others.iter().step_by(others.len().div_ceil(DOUBT_CHUNKS).max(1)).copied();
    match any(doubted, target, true)? {
        true => Ok(vec![true; extents.len()]),
        false => Ok(in_seeds),
    }
}

/// Whether any of some chunks, spread over the image, is in place.
fn holds_some(extents: &[Extent], target: &Target) -> Result<bool, Error> {
    any(sample(extents), target, true)
}

fn sample(extents: &[Extent]) -> impl Iterator<Item = &Extent> {
    let step = extents.len().div_ceil(SAMPLE_CHUNKS).max(1);
    extents.iter().take(SAMPLE_CHUNKS / 2).chain(extents.iter().step_by(step))
}

/// Whether the target holds any of `extents` in place, or does not hold one, as `is_right` says.
fn any<'a>(extents: impl Iterator<Item = &'a Extent>, target: &Target, is_right: bool) -> Result<bool, Error> {
    let mut buffer = AlignedBuffer::new(READ_BYTES as usize + 2 * ALIGNMENT);
    for extent in extents {
        let found = ChunkId::of(target.read(extent.offset..extent.end(), &mut buffer)?);
        if (found == extent.chunk) == is_right {
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

/// Those of `extents` that are to be looked at and touch, grouped into reads, without those of which the target holds nothing.
fn reads(extents: &[Extent], looked_at: &[bool], data: &[Range<u64>]) -> Vec<Range<usize>> {
    let mut reads: Vec<Range<usize>> = Vec::new();
    let mut data = data.iter().peekable();
    for (number, extent) in extents.iter().enumerate().filter(|(number, _)| looked_at[*number]) {
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
