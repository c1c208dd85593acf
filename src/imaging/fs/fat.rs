//! FAT12, FAT16 and FAT32: boot sector and file allocation table (Microsoft, "FAT: General Overview of On-Disk Format").

pub mod files;

use super::probe::{Kind, Probed, serial};
use super::ranges::Ranges;
use super::{Fault, Map};
use crate::stdx::bytes::Fields;
use crate::stdx::io::ReadAt;

/// Bytes of the table that are read at once; divisible by 12 bits, 16 bits and 32 bits.
const PIECE_BYTES: u64 = 3 << 18;
/// A cluster that the medium cannot hold: nothing to read there.
const BAD_FAT12: u32 = 0xFF7;
const BAD_FAT16: u32 = 0xFFF7;
const BAD_FAT32: u32 = 0x0FFF_FFF7;

/// What the boot sector (BPB) says, in bytes.
struct Layout {
    kind: Kind,
    size: u64,
    fat_at: u64,
    fat_bytes: u64,
    data_at: u64,
    cluster_bytes: u64,
    clusters: u64,
}

impl Layout {
    /// `None` when this is no FAT: there is no signature worth the name, so every field must be one that FAT can have.
    fn read(boot: Fields<'_>) -> Option<Layout> {
        let sector = u64::from(boot.le16(11));
        let per_cluster = u64::from(boot.u8(13));
        let (reserved, fats) = (u64::from(boot.le16(14)), u64::from(boot.u8(16)));
        let root_bytes = u64::from(boot.le16(17)) * 32;
        let sectors = if boot.le16(19) != 0 { u64::from(boot.le16(19)) } else { u64::from(boot.le32(32)) };
        let fat_sectors = if boot.le16(22) != 0 { u64::from(boot.le16(22)) } else { u64::from(boot.le32(36)) };
        let jump = matches!(boot.u8(0), 0xEB | 0xE9);
        let media = boot.u8(21) >= 0xF8 || boot.u8(21) == 0xF0;
        let sizes = matches!(sector, 512 | 1024 | 2048 | 4096) && per_cluster.is_power_of_two();
        if !(jump && media && sizes && matches!(fats, 1 | 2) && reserved > 0 && fat_sectors > 0) {
            return None;
        }
        let data_at = (reserved + fats * fat_sectors) * sector + root_bytes.next_multiple_of(sector);
        let clusters = (sectors * sector).checked_sub(data_at)? / (per_cluster * sector);
        let kind = match clusters {
            _ if boot.le16(22) == 0 => Kind::Fat32,
            0..4085 => Kind::Fat12,
            _ => Kind::Fat16,
        };
        Some(Layout {
            kind,
            size: sectors * sector,
            fat_at: reserved * sector,
            fat_bytes: fat_sectors * sector,
            data_at,
            cluster_bytes: per_cluster * sector,
            clusters,
        })
    }

    /// Bits of an entry of the table.
    fn entry_bits(&self) -> u64 {
        match self.kind {
            Kind::Fat12 => 12,
            Kind::Fat16 => 16,
            _ => 32,
        }
    }
}

pub fn probe(head: Fields<'_>) -> Option<Probed> {
    let layout = Layout::read(head)?;
    let extended = if layout.kind == Kind::Fat32 { 64 } else { 36 };
    let signed = head.u8(extended + 2) == 0x29;
    let label = if signed { head.text(extended + 7, 11) } else { String::new() };
    Some(Probed {
        label: if label == "NO NAME" { String::new() } else { label },
        uuid: if signed { serial(head.le32(extended + 3)) } else { String::new() },
        size_bytes: layout.size,
        ..Probed::new(layout.kind)
    })
}

/// The used ranges: boot sectors, tables and fixed root folder, and each cluster whose entry is not 0. The table is the
/// truth on FAT, whether it was cleanly unmounted or not.
pub fn map(source: &dyn ReadAt) -> Result<Map, Fault> {
    let boot = source.read_vec_at(0, 512).map_err(Fault::unreadable("boot sector"))?;
    let layout = Layout::read(Fields(&boot)).ok_or_else(|| Fault::damaged("its boot sector makes no sense"))?;
    if layout.size > source.size() {
        return Err(Fault::damaged("it claims to be larger than its partition"));
    }
    let needed = ((layout.clusters + 2) * layout.entry_bits()).div_ceil(8);
    if needed > layout.fat_bytes {
        return Err(Fault::damaged("its table is too short for its clusters"));
    }
    let mut used = Ranges::new(layout.size);
    used.add(0, layout.data_at);
    let mut free = 0;
    let mut at = 0;
    while at < needed {
        let len = (needed - at).min(PIECE_BYTES);
        let piece = source.read_vec_at(layout.fat_at + at, len as usize).map_err(Fault::unreadable("table"))?;
        free += map_piece(&layout, &piece, at * 8 / layout.entry_bits(), &mut used);
        at += len;
    }
    Ok(Map::new(used.finish(), free * layout.cluster_bytes))
}

/// Adds the clusters of a piece of the table that starts with entry `first`; returns how many are free.
fn map_piece(layout: &Layout, piece: &[u8], first: u64, used: &mut Ranges) -> u64 {
    let entries = piece.len() as u64 * 8 / layout.entry_bits();
    let mut free = 0;
    for (index, number) in (0..entries as usize).zip(first..layout.clusters + 2) {
        let (entry, bad) = match layout.kind {
            Kind::Fat12 => (entry_12(piece, index), BAD_FAT12),
            Kind::Fat16 => (u32::from(Fields(piece).le16(index * 2)), BAD_FAT16),
            _ => (Fields(piece).le32(index * 4) & 0x0FFF_FFFF, BAD_FAT32),
        };
        if number < 2 || entry == bad {
            continue;
        }
        if entry == 0 {
            free += 1;
        } else {
            used.add(layout.data_at + (number - 2) * layout.cluster_bytes, layout.cluster_bytes);
        }
    }
    free
}

/// Two entries of 12 bits share three bytes.
fn entry_12(piece: &[u8], index: usize) -> u32 {
    let pair = u32::from(Fields(piece).le16(index / 2 * 3 + index % 2));
    if index.is_multiple_of(2) { pair & 0xFFF } else { pair >> 4 }
}
