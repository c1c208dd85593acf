//! The used ranges of a whole disk: partition table, boot loaders, and each partition's file system.

use super::probe::{self, Kind, Probed};
use super::ranges::{Ranges, total};
use crate::imaging::disk::table::{self, Error, Partition, Table};
use crate::stdx::io::{ReadAt, Section};
use std::ops::Range;

/// Boot loaders lie in front of the first partition; a gap larger than this is not all theirs.
const BOOT_GAP_BYTES_MAX: u64 = 16 << 20;
/// Bytes behind a file system, to the end of its partition, that are taken along: NTFS keeps its second boot sector there.
const TAIL_BYTES: u64 = 1 << 20;

/// What an image of a disk must hold.
#[derive(Clone, Debug)]
pub struct Used {
    /// Bytes of the disk.
    pub size: u64,
    /// Sorted, none touching another.
    pub ranges: Vec<Range<u64>>,
    /// `None` for a bare file system.
    pub table: Option<Table>,
    pub volumes: Vec<Volume>,
    /// What a person should know: what is taken whole and why, what is damaged.
    pub warnings: Vec<String>,
}

impl Used {
    pub fn used_bytes(&self) -> u64 {
        total(&self.ranges)
    }
}

/// One partition (or the whole of a bare file system) and what became of it.
#[derive(Clone, Debug)]
pub struct Volume {
    /// 0 for a bare file system.
    pub number: u32,
    pub start: u64,
    pub bytes: u64,
    pub probed: Probed,
    pub treatment: Treatment,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// Only what is in use is taken.
    UsedOnly { free_bytes: u64 },
    /// Every byte is taken.
    Whole { why: String },
    /// Only what says what it is is taken, the content is not.
    Skipped { why: &'static str },
}

/// Finds out what of `disk` is in use. Fails only when the partition table cannot be read at all; a file system that
/// cannot be relied on is taken whole.
pub fn used_ranges(disk: &dyn ReadAt) -> Result<Used, Error> {
    let size = disk.size();
    let found = table::read(disk, None)?;
    let mut used = Used { size, ranges: Vec::new(), table: found, volumes: Vec::new(), warnings: Vec::new() };
    let mut ranges = Ranges::new(size);
    match used.table.clone() {
        None => add_bare(disk, &mut used, &mut ranges),
        Some(table) => add_partitioned(disk, &table, &mut used, &mut ranges),
    }
    used.ranges = ranges.finish();
    Ok(used)
}

fn add_bare(disk: &dyn ReadAt, used: &mut Used, ranges: &mut Ranges) {
    add_volume(disk, 0, 0..disk.size(), "the disk", used, ranges);
}

fn add_partitioned(disk: &dyn ReadAt, table: &Table, used: &mut Used, ranges: &mut Ranges) {
    used.warnings.extend(table.warnings());
    let partitions = table.partitions();
    add_table(table, used.size, ranges);
    let first = partitions.iter().map(|partition| partition.start).min().unwrap_or(0);
    ranges.add(0, first.min(BOOT_GAP_BYTES_MAX));
    if first > BOOT_GAP_BYTES_MAX {
        let gap = BOOT_GAP_BYTES_MAX >> 20;
        used.warnings.push(format!("of the space before the first partition only {gap} MiB are taken"));
    }
    for partition in &partitions {
        add_partition(disk, partition, used, ranges);
    }
}

/// The sectors that the table itself takes.
fn add_table(table: &Table, size: u64, ranges: &mut Ranges) {
    match table {
        Table::Gpt(gpt) => {
            let front = gpt.front_bytes();
            ranges.add(0, front);
            let back = front - gpt.sector_bytes;
            let end = (gpt.backup_sector.saturating_add(1)).saturating_mul(gpt.sector_bytes).min(size);
            ranges.add(end.saturating_sub(back), back);
        }
        Table::Mbr(mbr) => {
            ranges.add(0, mbr.sector_bytes);
            mbr.links().iter().for_each(|link| ranges.add(*link, mbr.sector_bytes));
        }
    }
}

fn add_partition(disk: &dyn ReadAt, partition: &Partition, used: &mut Used, ranges: &mut Ranges) {
    let name = format!("partition {}", partition.number);
    let end = partition.end().min(used.size);
    if partition.start >= used.size {
        used.warnings.push(format!("{name} lies behind the end of the disk"));
        return;
    }
    if end < partition.end() {
        used.warnings.push(format!("{name} reaches beyond the end of the disk"));
    }
    let at = partition.start..end;
    if partition.kind.is_raw_boot() {
        ranges.add(at.start, at.end - at.start);
        let treatment = Treatment::Whole { why: "it holds a boot loader without a file system".to_owned() };
        let probed = Probed::new(Kind::Unknown);
        used.volumes.push(Volume {
            number: partition.number,
            start: at.start,
            bytes: end - at.start,
            probed,
            treatment,
        });
        return;
    }
    add_volume(disk, partition.number, at, &name, used, ranges);
}

/// Looks into one partition, adds what must be taken of it, and says what a person should know.
fn add_volume(disk: &dyn ReadAt, number: u32, at: Range<u64>, name: &str, used: &mut Used, ranges: &mut Ranges) {
    let bytes = at.end - at.start;
    let mut remarks = Vec::new();
    let (probed, treatment) = match Section::new(disk, at.start, bytes) {
        Some(section) => look(&section, at.start, ranges, &mut remarks),
        None => (Probed::new(Kind::Unknown), Treatment::Whole { why: "it does not lie on the disk".to_owned() }),
    };
    if let Treatment::Whole { why } = &treatment {
        ranges.add(at.start, bytes);
        remarks.push(format!("is taken whole: {why}"));
    }
    used.warnings.extend(remarks.iter().map(|remark| format!("{name} ({}) {remark}", probed.kind)));
    used.volumes.push(Volume { number, start: at.start, bytes, probed, treatment });
}

fn look(section: &dyn ReadAt, start: u64, ranges: &mut Ranges, remarks: &mut Vec<String>) -> (Probed, Treatment) {
    let probed = match probe::probe(section) {
        Ok(probed) => probed,
        Err(error) => {
            return (Probed::new(Kind::Unknown), Treatment::Whole { why: format!("it cannot be read: {error}") });
        }
    };
    if probed.kind == Kind::Swap {
        ranges.add(start, probe::swap_header_bytes(section));
        return (probed, Treatment::Skipped { why: "swap holds nothing that outlives a restart" });
    }
    let treatment = match super::map(section, probed.kind) {
        Ok(map) => {
            ranges.add_all(start, &map.used);
            let tail = section.size().saturating_sub(probed.size_bytes).min(TAIL_BYTES);
            ranges.add(start + section.size() - tail, tail);
            remarks.extend(map.remarks);
            Treatment::UsedOnly { free_bytes: map.free_bytes }
        }
        Err(fault) => Treatment::Whole { why: fault.to_string() },
    };
    (probed, treatment)
}
