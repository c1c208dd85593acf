//! Makes the sums in a damaged disk right again: a fuzzer that must guess a CRC first never gets behind it.

use remint::stdx::bytes::Fields;
use remint::stdx::crc32;
use remint::stdx::io::ReadAt;

use super::sectors::{Disk, SECTOR};

/// What is summed at once; a GPT's entries may claim more and are then left.
const SUMMED_BYTES_MAX: u64 = 1 << 20;

/// Both copies of a GPT, in sectors of both sizes.
pub(crate) fn mend_gpt(disk: &mut Disk) {
    for sector in [512, 4096] {
        let last = (disk.size / sector).saturating_sub(1);
        for number in [1, last] {
            mend_gpt_header(disk, number * sector, sector);
        }
    }
}

fn mend_gpt_header(disk: &mut Disk, at: u64, sector: u64) {
    let Ok(bytes) = disk.read_vec_at(at, 512) else { return };
    let header = Fields(&bytes);
    if header.slice(0, 8) != b"EFI PART" {
        return;
    }
    let array_bytes = u64::from(header.le32(80)) * u64::from(header.le32(84));
    let array_at = header.le64(72).checked_mul(sector);
    let array = array_at.filter(|_| array_bytes <= SUMMED_BYTES_MAX);
    if let Some(array) = array.and_then(|at| disk.read_vec_at(at, array_bytes as usize).ok()) {
        disk.write(at + 88, &crc32::ieee(&array).to_le_bytes());
    }
    disk.write(at + 16, &[0; 4]);
    let header_bytes = header.le32(12).min(sector as u32) as usize;
    if let Ok(header) = disk.read_vec_at(at, header_bytes) {
        disk.write(at + 16, &crc32::ieee(&header).to_le_bytes());
    }
}

/// The superblock and every tree block that is there.
pub(crate) fn mend_btrfs(disk: &mut Disk) {
    const SUPERBLOCK_AT: u64 = 64 << 10;
    let Ok(superblock) = disk.read_vec_at(SUPERBLOCK_AT, 4096) else { return };
    disk.write(SUPERBLOCK_AT, &crc32::castagnoli(&superblock[32..]).to_le_bytes());
    let node_bytes = u64::from(Fields(&superblock).le32(0x94));
    if !node_bytes.is_power_of_two() || !(4096..=64 << 10).contains(&node_bytes) {
        return;
    }
    let mut nodes: Vec<u64> = disk.places().into_iter().map(|at| at / node_bytes * node_bytes).collect();
    nodes.dedup();
    for at in nodes.into_iter().filter(|at| *at > SUPERBLOCK_AT) {
        if let Ok(node) = disk.read_vec_at(at, node_bytes as usize) {
            disk.write(at, &crc32::castagnoli(&node[32..]).to_le_bytes());
        }
    }
}

/// Headers of metadata areas and the texts that they point at.
pub(crate) fn mend_lvm(disk: &mut Disk) {
    const START: u32 = 0xF597_A6CF;
    for at in disk.places() {
        let Ok(header) = disk.read_vec_at(at, SECTOR) else { continue };
        let fields = Fields(&header);
        if fields.slice(4, 16) != b" LVM2 x[5A%r0N*>" {
            continue;
        }
        let (offset, size) = (fields.le64(40), fields.le64(48));
        let text = at.checked_add(offset).filter(|_| size <= SUMMED_BYTES_MAX);
        if let Some(text) = text.and_then(|at| disk.read_vec_at(at, size as usize).ok()) {
            disk.write(at + 56, &crc32::ieee_raw(START, &text).to_le_bytes());
        }
        if let Ok(header) = disk.read_vec_at(at, SECTOR) {
            disk.write(at, &crc32::ieee_raw(START, &header[4..]).to_le_bytes());
        }
    }
}

/// The footer, its copy, and the dynamic header that they name.
pub(crate) fn mend_vhd(disk: &mut Disk) {
    let end = disk.size.saturating_sub(SECTOR as u64);
    let dynamic = disk.read_vec_at(0, SECTOR).map_or(0, |copy| Fields(&copy).be64(16));
    for (at, len, sum_at) in [(0, SECTOR, 64), (end, SECTOR, 64), (dynamic, 1024, 36)] {
        let Ok(mut bytes) = disk.read_vec_at(at, len) else { continue };
        if bytes.starts_with(b"conectix") || bytes.starts_with(b"cxsparse") {
            bytes[sum_at..sum_at + 4].fill(0);
            let sum = !bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>();
            disk.write(at + sum_at as u64, &sum.to_be_bytes());
        }
    }
}

/// Headers and region tables.
pub(crate) fn mend_vhdx(disk: &mut Disk) {
    for (at, len) in [(64 << 10, 4096), (128 << 10, 4096), (192 << 10, 64 << 10), (256 << 10, 64 << 10)] {
        let Ok(mut bytes) = disk.read_vec_at(at, len) else { continue };
        if bytes.starts_with(b"head") || bytes.starts_with(b"regi") {
            bytes[4..8].fill(0);
            disk.write(at + 4, &crc32::castagnoli(&bytes).to_le_bytes());
        }
    }
}

/// The description of format 0002, and the bitmap behind it.
pub(crate) fn mend_partclone(image: &mut [u8]) {
    if image.len() < 110 || &image[30..34] != b"0002" {
        return;
    }
    let sum = crc32::ieee_raw(!0, &image[..106]);
    image[106..110].copy_from_slice(&sum.to_le_bytes());
    let bitmap_bytes = Fields(image).le64(60).div_ceil(8).min(image.len() as u64) as usize;
    let end = 110 + bitmap_bytes;
    if image[105] == 1 && end + 4 <= image.len() {
        let sum = crc32::ieee_raw(!0, &image[110..end]);
        image[end..end + 4].copy_from_slice(&sum.to_le_bytes());
    }
}
