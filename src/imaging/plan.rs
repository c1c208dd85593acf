//! All that an apply will do, complete and printable, before anything is touched.

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::imaging::error::Error;
use crate::imaging::manifest::{Kind, Manifest};
use crate::imaging::moves::{Piece, moves};
use crate::imaging::ranges::total;
use crate::imaging::survey::Found;

/// What makes a target match a manifest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// What is moved on the target, in this order, before anything else is written.
    pub moves: Vec<Piece>,
    /// Extents of the manifest to fetch, in the order of the disk.
    pub fetch: Vec<usize>,
    pub zero: Vec<Range<u64>>,
    pub summary: Summary,
}

/// The plan in numbers: bytes of the target.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Summary {
    /// Of the disk or file.
    pub image_bytes: u64,
    pub in_place_bytes: u64,
    pub move_bytes: u64,
    pub fetch_bytes: u64,
    pub fetch_chunks: u64,
    pub zero_bytes: u64,
    /// In neither an extent nor a zero range: left as it is.
    pub free_bytes: u64,
}

impl Summary {
    /// All that the progress counts.
    pub fn total_bytes(&self) -> u64 {
        self.in_place_bytes + self.move_bytes + self.fetch_bytes + self.zero_bytes
    }
}

/// Refuses a target that is too small. `None` is a file, which takes any size.
pub fn check_size(manifest: &Manifest, target_bytes: Option<u64>) -> Result<(), Error> {
    let needed = manifest.needed_bytes();
    match target_bytes {
        Some(have) if have < needed => Err(Error::TargetTooSmall { needed, have }),
        _ => Ok(()),
    }
}

/// Plans what makes `found` into `manifest`. What lies behind the end of a smaller disk that is large enough for all
/// partitions (the second copy of a partition table) is left out.
pub fn plan(manifest: &Manifest, found: &Found, target_bytes: Option<u64>) -> Result<Plan, Error> {
    check_size(manifest, target_bytes)?;
    let end = target_bytes.unwrap_or(u64::MAX);
    let mut summary = Summary { image_bytes: manifest.header.size, ..Summary::default() };
    let mut missing = Vec::new();
    for (number, (extent, in_place)) in manifest.extents.iter().zip(&found.in_place).enumerate() {
        if extent.end() > end {
            continue;
        }
        if *in_place {
            summary.in_place_bytes += u64::from(extent.len);
        } else {
            summary.fetch_bytes += u64::from(extent.len);
            missing.push(number);
        }
    }
    let moves = moves(&manifest.extents, &missing, &found.elsewhere, end);
    let moved: HashSet<usize> = moves.iter().flat_map(|piece| piece.extents.clone()).collect();
    let fetch: Vec<usize> = missing.into_iter().filter(|number| !moved.contains(number)).collect();
    summary.move_bytes = moves.iter().map(|piece| piece.to.end - piece.to.start).sum();
    summary.fetch_bytes -= summary.move_bytes;
    let zero: Vec<Range<u64>> =
        found.not_zero.iter().map(|range| range.start..range.end.min(end)).filter(|range| !range.is_empty()).collect();
    summary.fetch_chunks = fetch.len() as u64;
    summary.zero_bytes = total(&zero);
    summary.in_place_bytes += manifest.zero_bytes().saturating_sub(summary.zero_bytes);
    summary.free_bytes = match manifest.header.kind {
        Kind::File => 0,
        _ => manifest.header.size.saturating_sub(manifest.content_bytes() + manifest.zero_bytes()),
    };
    Ok(Plan { moves, fetch, zero, summary })
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mega = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
        write!(
            f,
            "{} in place, {} to move, {} to fetch in {} chunks, {} to zero, {} free",
            mega(self.in_place_bytes),
            mega(self.move_bytes),
            mega(self.fetch_bytes),
            self.fetch_chunks,
            mega(self.zero_bytes),
            mega(self.free_bytes)
        )
    }
}
