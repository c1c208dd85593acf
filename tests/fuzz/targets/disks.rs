//! Partition tables, volume managers and file systems: used ranges, growth, identifiers.

use remint::imaging::disk::fit::{self, Grow, Target, Wish};
use remint::imaging::disk::table;
use remint::imaging::fs::{self, Fault, Map};
use remint::stdx::io::ReadAt;

use super::sectors::Disk;
use super::sums::{mend_btrfs, mend_gpt, mend_lvm};

const MIB: u64 = 1 << 20;

/// GPT, MBR, LVM and every signature of a file system: what is used of the disk, and every way to fit it to another.
pub(crate) fn tables(input: &[u8]) {
    let disk = disk(input, |disk| {
        mend_gpt(disk);
        mend_lvm(disk);
    });
    let _ = fs::probe(&disk);
    if let Ok(map) = fs::lvm::map(&disk) {
        check_ranges(&map.used, disk.size);
    }
    if let Ok(used) = fs::used_ranges(&disk) {
        check_ranges(&used.ranges, disk.size);
    }
    for sector_bytes in [None, Some(512), Some(4096)] {
        let Ok(Some(found)) = table::read(&disk, sector_bytes) else { continue };
        let numbers = found.partitions().into_iter().map(|partition| partition.number);
        let wishes = [Grow::Root, Grow::Nothing].into_iter().chain(numbers.take(3).map(Grow::Number));
        for grow in wishes {
            for bytes in [disk.size, disk.size + 9 * MIB, disk.size / 2] {
                let target = Target { bytes, sector_bytes };
                let Ok(plan) = fit::plan(&disk, target, Wish { grow, renew: Some([1; 32]) }) else { continue };
                for patch in &plan.patches {
                    assert!(patch.offset + patch.bytes.len() as u64 <= bytes, "{grow:?} {sector_bytes:?} {bytes}");
                }
            }
        }
    }
}

pub(crate) fn ext4(input: &[u8]) {
    volume(&disk(input, |_| {}), fs::ext4::map);
}

pub(crate) fn xfs(input: &[u8]) {
    volume(&disk(input, |_| {}), fs::xfs::map);
}

pub(crate) fn btrfs(input: &[u8]) {
    volume(&disk(input, mend_btrfs), fs::btrfs::map);
}

pub(crate) fn ntfs(input: &[u8]) {
    volume(&disk(input, |_| {}), fs::ntfs::map);
}

/// FAT12, FAT16, FAT32 and exFAT, which begin alike.
pub(crate) fn fat(input: &[u8]) {
    let disk = disk(input, |_| {});
    volume(&disk, fs::fat::map);
    volume(&disk, fs::exfat::map);
}

fn disk(input: &[u8], mend: impl Fn(&mut Disk)) -> Disk {
    let mut disk = Disk::parse(input);
    if disk.mend {
        mend(&mut disk);
    }
    disk
}

/// One file system, as its own parser sees it and as a disk without partitions is seen.
fn volume(disk: &Disk, map: fn(&dyn ReadAt) -> Result<Map, Fault>) {
    if let Ok(map) = map(disk) {
        check_ranges(&map.used, disk.size);
    }
    if let Ok(used) = fs::used_ranges(disk) {
        check_ranges(&used.ranges, disk.size);
    }
}

fn check_ranges(ranges: &[std::ops::Range<u64>], size: u64) {
    assert!(ranges.iter().all(|range| range.start < range.end && range.end <= size));
    assert!(ranges.windows(2).all(|pair| pair[0].end < pair[1].start), "ranges overlap or touch");
}
