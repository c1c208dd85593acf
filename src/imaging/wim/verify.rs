//! Reads everything that a WIM holds and says what is not as it should be.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use sha1::Digest;

use super::error::Error;
use super::extract::{self, Sink};
use super::format::Sha1;
use super::reader::{Blob, OnDamage, Wim};
use super::resource;
use crate::stdx::io::ReadAt;
use crate::stdx::monitor::Progress;

/// What was found.
#[derive(Debug, Default)]
pub struct Report {
    pub contents: u64,
    pub bytes: u64,
    pub files: u64,
    /// Pieces of integrity tables that were checked.
    pub integrity_pieces: u64,
    /// Everything that is wrong; empty for a sound WIM.
    pub faults: Vec<Error>,
}

/// Checks the integrity tables, each image's metadata, that every content the images refer to is there, and every
/// content's SHA-1.
pub fn verify(wim: &Wim, workers: usize, progress: &Progress) -> Result<Report, Error> {
    let mut report = Report::default();
    for part in 0..wim.parts.len() {
        integrity(wim, part, workers, &mut report);
    }
    for index in 1..=wim.image_count() {
        image(wim, index, &mut report);
    }
    let sink = Collect { faults: Mutex::new(Vec::new()) };
    let all: Vec<usize> = (0..wim.blobs.len()).collect();
    extract::extract(wim, &all, workers, &sink, progress)?;
    report.contents = wim.blobs.len() as u64;
    report.bytes = wim.blobs.iter().map(|blob| blob.plain_bytes).sum();
    report.faults.extend(sink.faults.into_inner().unwrap_or_else(PoisonError::into_inner));
    Ok(report)
}

fn integrity(wim: &Wim, part: usize, workers: usize, report: &mut Report) {
    let (table, range) = match wim.integrity(part) {
        Ok(Some(found)) => found,
        Ok(None) => return,
        Err(error) => return report.faults.push(error),
    };
    let next = std::sync::atomic::AtomicUsize::new(0);
    let faults = Mutex::new(Vec::new());
    let check = || {
        let mut bytes = Vec::new();
        loop {
            let piece = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let Some(expected) = table.hashes.get(piece) else { return };
            let offset = range.start + piece as u64 * u64::from(table.piece_bytes);
            let len = (range.end - offset).min(u64::from(table.piece_bytes));
            let found = hash_range(&wim.parts[part].source, offset, len, &mut bytes);
            let fault = match found {
                Ok(found) if found == *expected => continue,
                Ok(_) => Error::Integrity { piece, offset },
                Err(error) => error,
            };
            faults.lock().unwrap_or_else(PoisonError::into_inner).push(fault);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(check);
        }
    });
    report.integrity_pieces += table.hashes.len() as u64;
    report.faults.extend(faults.into_inner().unwrap_or_else(PoisonError::into_inner));
}

/// SHA-1 of a range of a file, read a mebibyte at a time.
pub(super) fn hash_range(source: &impl ReadAt, mut offset: u64, len: u64, buffer: &mut Vec<u8>) -> Result<Sha1, Error> {
    const STEP: u64 = 1 << 20;
    let mut hasher = sha1::Sha1::new();
    let end = offset + len;
    while offset < end {
        let step = STEP.min(end - offset);
        buffer.resize(step as usize, 0);
        resource::read(source, buffer, offset)?;
        hasher.update(&buffer);
        offset += step;
    }
    Ok(Sha1(hasher.finalize().into()))
}

fn image(wim: &Wim, index: u32, report: &mut Report) {
    // First strictly, for the SHA-1 of the metadata; then whatever can be had.
    if let Err(error) = wim.tree(index, OnDamage::Stop) {
        report.faults.push(error);
    }
    let Ok((tree, _)) = wim.tree(index, OnDamage::KeepGoing) else { return };
    report.files += tree.entries.len() as u64 - 1;
    let mut missing = HashSet::new();
    for (place, entry) in tree.entries.iter().enumerate() {
        for hash in entry.contents() {
            if wim.blob(&hash).is_none() && missing.insert(hash) {
                report.faults.push(Error::Missing { hash, path: tree.path_text(place) });
            }
        }
    }
}

/// Counts what is damaged and lets the rest go.
struct Collect {
    faults: Mutex<Vec<Error>>,
}

impl Sink for Collect {
    fn whole(&self, _: &Blob, _: &[u8]) -> Result<(), Error> {
        Ok(())
    }

    fn piece(&self, _: &Blob, _: u64, _: &[u8]) -> Result<(), Error> {
        Ok(())
    }

    fn checked(&self, _: &Blob) -> Result<(), Error> {
        Ok(())
    }

    fn damaged(&self, _: &Blob, error: Error) -> Result<(), Error> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).push(error);
        Ok(())
    }
}
