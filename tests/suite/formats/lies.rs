//! Damage that is drawn from a number, so that a finding can be made again. Shared with the fuzz targets.

use remint::imaging::disk::container;
use remint::imaging::disk::fit::{self, Grow, Target, Wish};
use remint::imaging::disk::table;
use remint::imaging::fs;
use remint::stdx::io::{FileAt, ReadAt};
use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

const MIB: u64 = 1 << 20;

/// A disk with some of its bytes replaced, as a lie costs no copy of it.
struct Lying<'a> {
    disk: &'a FileAt,
    lies: Vec<(u64, u8)>,
}

impl ReadAt for Lying<'_> {
    fn size(&self) -> u64 {
        self.disk.size()
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
        self.disk.read_exact_at(buffer, offset)?;
        for (at, byte) in &self.lies {
            if let Some(index) = at.checked_sub(offset).filter(|index| *index < buffer.len() as u64) {
                buffer[index as usize] = *byte;
            }
        }
        Ok(())
    }
}

/// Numbers that repeat from run to run.
struct Draw(u64);

impl Draw {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 20) % limit.max(1)
    }

    /// Bytes that hurt: extremes more often than others.
    fn byte(&mut self) -> u8 {
        match self.below(4) {
            0 => 0xFF,
            1 => 0,
            2 => 1 << self.below(8),
            _ => self.below(256) as u8,
        }
    }
}

/// Bytes of `disk` that are not zero, by their place, from blocks that hold structures: few bytes and many zeros.
fn structures(disk: &FileAt, used: &fs::Used) -> Vec<u64> {
    let mut places = Vec::new();
    for range in &used.ranges {
        for at in (range.start..range.end).step_by(512) {
            let len = (range.end - at).min(512) as usize;
            let block = disk.read_vec_at(at, len).unwrap();
            let filled = block.iter().filter(|byte| **byte != 0).count();
            if (1..400).contains(&filled) {
                places.extend((0..len as u64).filter(|index| block[*index as usize] != 0).map(|index| at + index));
            }
        }
    }
    places
}

/// Reads the disk in `file` with other lies in each of `rounds`; what comes back must lie on the disk.
pub(crate) fn lie_about(file: &str, rounds: Range<u64>) {
    let disk = FileAt::new(File::open(file).unwrap()).unwrap();
    let honest = fs::used_ranges(&disk).unwrap();
    let places = structures(&disk, &honest);
    assert!(places.len() > 100, "{} places", places.len());
    for round in rounds {
        let mut draw = Draw(round);
        let near = places[draw.below(places.len() as u64) as usize];
        let lies = (0..=draw.below(6)).map(|_| {
            let scattered = places[draw.below(places.len() as u64) as usize];
            let at = if draw.below(3) == 0 { scattered } else { near + draw.below(16) };
            (at, draw.byte())
        });
        let lying = Lying { disk: &disk, lies: lies.collect() };
        let Ok(used) = fs::used_ranges(&lying) else { continue };
        assert!(used.ranges.windows(2).all(|pair| pair[0].end < pair[1].start), "round {round}");
        assert!(used.ranges.iter().all(|range| range.start < range.end && range.end <= disk.size()), "round {round}");
        let wish = Wish { grow: Grow::Root, renew: Some([1; 32]) };
        for sector_bytes in [None, Some(512), Some(4096)] {
            let target = Target { bytes: disk.size() + 9 * MIB, sector_bytes };
            if let Ok(plan) = fit::plan(&lying, target, wish) {
                let fits = |patch: &table::Patch| patch.offset + patch.bytes.len() as u64 <= target.bytes;
                assert!(plan.patches.iter().all(fits), "round {round}");
            }
        }
    }
}

/// Damages an image in many ways and reads whatever opens.
pub(crate) fn lie_about_container(image: &str, scratch: &Path, rounds: Range<u64>, in_first: u64) {
    let honest = std::fs::read(image).unwrap();
    let places: Vec<u64> = (0..(honest.len() as u64).min(in_first)).filter(|at| honest[*at as usize] != 0).collect();
    let file = OpenOptions::new().write(true).open(image).unwrap();
    for round in rounds {
        let mut draw = Draw(round);
        let mut touched = Vec::new();
        for _ in 0..=draw.below(4) {
            let at = (places[draw.below(places.len() as u64) as usize] + draw.below(3)).min(honest.len() as u64 - 1);
            file.write_all_at(&[draw.byte()], at).unwrap();
            touched.push(at);
        }
        if let Ok(opened) = container::open(Path::new(image), None, scratch) {
            let len = opened.content.size().min(MIB);
            for at in [0, opened.content.size() - len] {
                let _ = opened.content.read_vec_at(at, len as usize);
            }
        }
        touched.iter().for_each(|at| file.write_all_at(&honest[*at as usize..][..1], *at).unwrap());
    }
}
