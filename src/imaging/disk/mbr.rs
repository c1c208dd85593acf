//! MBR partition tables with their extended partitions, and the protective MBR in front of a GPT.
//!
//! Four entries of 16 bytes at 446: status, first CHS, type, last CHS, first sector, sectors. An extended partition (type
//! 05, 0F, 85) holds a chain of such sectors: entry 0 is a logical partition counted from that sector, entry 1 the
//! next link counted from the extended partition's start.

use super::table::{Error, Kind, Partition, Patch};
use crate::stdx::bytes::Fields;
use crate::stdx::io::ReadAt;

/// Linux names no more than this many partitions of a disk; a longer chain is a loop or an attack.
const LOGICAL_MAX: usize = 124;
const SIGNATURE_AT: usize = 510;
const ENTRIES_AT: usize = 446;
pub const TYPE_PROTECTIVE: u8 = 0xEE;

/// An entry where it stands on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slot {
    /// Byte offset of the 16 bytes.
    at: u64,
    kind: u8,
    /// In sectors from the start of the disk.
    start: u64,
    sectors: u64,
}

/// A table as it stands.
#[derive(Clone, Debug)]
pub struct Mbr {
    pub sector_bytes: u64,
    pub signature: u32,
    primary: Vec<(u32, Slot)>,
    logical: Vec<(u32, Slot)>,
    /// The sectors that hold the chain of an extended partition, as byte offsets.
    links: Vec<u64>,
    pub warnings: Vec<String>,
}

/// Whether sector 0 can be an MBR at all: signed, with at least one entry, and no status byte but 00 and 80, which
/// tells it from the boot sector of a file system (the same test as the Linux kernel's).
fn is_table(sector: Fields<'_>) -> bool {
    let status_fits = (0..4).all(|index| sector.u8(ENTRIES_AT + 16 * index) & 0x7F == 0);
    sector.le16(SIGNATURE_AT) == 0xAA55 && status_fits && (0..4).any(|index| slot(sector, 0, 0, index).is_some())
}

/// The used entry `index` of the table in the sector at byte `at`, its start counted from sector `base`.
fn slot(sector: Fields<'_>, at: u64, base: u64, index: usize) -> Option<Slot> {
    let place = ENTRIES_AT + 16 * index;
    let kind = sector.u8(place + 4);
    let (start, sectors) = (u64::from(sector.le32(place + 8)), u64::from(sector.le32(place + 12)));
    (kind != 0 && sectors != 0).then_some(Slot { at: at + place as u64, kind, start: base + start, sectors })
}

fn is_extended(kind: u8) -> bool {
    matches!(kind, 0x05 | 0x0F | 0x85)
}

/// The table of `disk`. `Ok(None)` when its first sector is none, or only protects a GPT.
pub fn read(disk: &dyn ReadAt, sector_bytes: Option<u32>) -> Result<Option<Mbr>, Error> {
    if disk.size() < 512 {
        return Ok(None);
    }
    let sector_bytes = u64::from(sector_bytes.unwrap_or(512));
    let bytes = disk.read_vec_at(0, 512).map_err(Error::read("the master boot record"))?;
    let sector = Fields(&bytes);
    if !is_table(sector) {
        return Ok(None);
    }
    let primary: Vec<(u32, Slot)> =
        (0..4).filter_map(|index| Some((index as u32 + 1, slot(sector, 0, 0, index)?))).collect();
    let mut mbr = Mbr {
        sector_bytes,
        signature: sector.le32(440),
        primary,
        logical: Vec::new(),
        links: Vec::new(),
        warnings: Vec::new(),
    };
    if let Some((_, extended)) = mbr.primary.iter().copied().find(|(_, slot)| is_extended(slot.kind)) {
        mbr.follow_chain(disk, extended)?;
    }
    Ok(Some(mbr))
}

impl Mbr {
    /// Collects the logical partitions. The chain ends where it leaves the extended partition, comes back to a link that
    /// was seen, or grows too long; that is said.
    fn follow_chain(&mut self, disk: &dyn ReadAt, extended: Slot) -> Result<(), Error> {
        let mut link = extended.start;
        loop {
            let at = link.saturating_mul(self.sector_bytes);
            if at.saturating_add(512) > disk.size() || self.links.contains(&at) || self.links.len() >= LOGICAL_MAX {
                self.warnings.push(format!("the chain of logical partitions is damaged at sector {link}"));
                return Ok(());
            }
            let bytes = disk.read_vec_at(at, 512).map_err(Error::read("an extended boot record"))?;
            let sector = Fields(&bytes);
            if sector.le16(SIGNATURE_AT) != 0xAA55 {
                self.warnings.push(format!("the extended boot record at sector {link} is not signed"));
                return Ok(());
            }
            self.links.push(at);
            if let Some(slot) = slot(sector, at, link, 0).filter(|slot| !is_extended(slot.kind)) {
                self.logical.push((5 + self.logical.len() as u32, slot));
            }
            match slot(sector, at, extended.start, 1).filter(|slot| is_extended(slot.kind)) {
                Some(next) => link = next.start,
                None => return Ok(()),
            }
        }
    }

    /// Primary and logical partitions, without the extended one that contains the latter.
    pub fn partitions(&self) -> Vec<Partition> {
        let primary = self.primary.iter().filter(|(_, slot)| !is_extended(slot.kind));
        let all = primary.chain(&self.logical);
        all.map(|(number, slot)| Partition {
            number: *number,
            start: slot.start * self.sector_bytes,
            bytes: slot.sectors * self.sector_bytes,
            kind: Kind::Mbr(slot.kind),
            guid: None,
            name: String::new(),
        })
        .collect()
    }

    pub fn has_extended(&self) -> bool {
        self.primary.iter().any(|(_, slot)| is_extended(slot.kind))
    }

    /// Byte offsets of the sectors that hold the chain of logical partitions.
    pub fn links(&self) -> &[u64] {
        &self.links
    }

    /// Where the space ends that partition `number` could grow into: the next partition, the next link of the chain, the
    /// end of the disk or what 32 bits of sectors can name.
    pub fn limit_of(&self, number: u32, disk_bytes: u64) -> u64 {
        let Some((_, own)) = self.slots().find(|(n, _)| *n == number) else { return 0 };
        let start = own.start * self.sector_bytes;
        let nameable = u64::from(u32::MAX) * self.sector_bytes;
        let others = self.slots().filter(|(n, slot)| *n != number && !is_extended(slot.kind));
        let starts = others.map(|(_, slot)| slot.start * self.sector_bytes).chain(self.links.iter().copied());
        let next = starts.filter(|other| *other > start).min().unwrap_or(u64::MAX);
        let container = if number >= 5 { u64::MAX } else { self.extended_start_after(start) };
        next.min(container).min(disk_bytes).min(nameable)
    }

    fn extended_start_after(&self, start: u64) -> u64 {
        let extended = self.primary.iter().filter(|(_, slot)| is_extended(slot.kind));
        let starts = extended.map(|(_, slot)| slot.start * self.sector_bytes).filter(|other| *other > start);
        starts.min().unwrap_or(u64::MAX)
    }

    fn slots(&self) -> impl Iterator<Item = &(u32, Slot)> {
        self.primary.iter().chain(&self.logical)
    }

    /// The writes that give partition `number` its new size; a logical one takes its extended partition along.
    pub fn resize(&self, number: u32, bytes: u64) -> Vec<Patch> {
        let Some((_, own)) = self.slots().find(|(n, _)| *n == number) else { return Vec::new() };
        let sectors = bytes / self.sector_bytes;
        let mut patches = vec![size_patch(own.at, sectors)];
        if number >= 5 {
            let end = own.start + sectors;
            let extended = self.primary.iter().filter(|(_, slot)| is_extended(slot.kind));
            let short = extended.filter(|(_, slot)| slot.start < own.start && slot.start + slot.sectors < end);
            patches.extend(short.map(|(_, slot)| size_patch(slot.at, end - slot.start)));
            patches.reverse();
        }
        patches
    }

    /// The write that gives the disk a new signature, which is what PARTUUIDs of an MBR are made of.
    pub fn renew(&self, signature: u32) -> Patch {
        Patch { offset: 440, bytes: signature.to_le_bytes().to_vec() }
    }
}

/// The length of the entry at byte `at`. Its last CHS stays: nothing that reads disks of this size looks at it.
fn size_patch(at: u64, sectors: u64) -> Patch {
    Patch { offset: at + 12, bytes: (sectors.min(u64::from(u32::MAX)) as u32).to_le_bytes().to_vec() }
}

/// A partition of a new table, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct New {
    pub kind: u8,
    pub start: u64,
    pub bytes: u64,
    /// Marked as the one that boot code of the old kind starts.
    pub active: bool,
}

/// The first sector with a new table of up to four partitions, without boot code.
pub fn create(signature: u32, sector_bytes: u64, partitions: &[New]) -> Vec<u8> {
    let mut bytes = vec![0; 512];
    bytes[440..444].copy_from_slice(&signature.to_le_bytes());
    bytes[SIGNATURE_AT..].copy_from_slice(&[0x55, 0xAA]);
    for (index, one) in partitions.iter().take(4).enumerate() {
        let entry = &mut bytes[ENTRIES_AT + 16 * index..][..16];
        let sectors = |bytes: u64| u32::try_from(bytes / sector_bytes).unwrap_or(u32::MAX).to_le_bytes();
        // Cylinders, heads and sectors that cannot be said are FE FF FF.
        entry[..8].copy_from_slice(&[0, 0xFE, 0xFF, 0xFF, one.kind, 0xFE, 0xFF, 0xFF]);
        entry[0] = if one.active { 0x80 } else { 0 };
        entry[8..12].copy_from_slice(&sectors(one.start));
        entry[12..16].copy_from_slice(&sectors(one.bytes));
    }
    bytes
}

/// The protective MBR for a disk of `sectors`, made of the first 512 bytes that are there: boot code, signature and
/// entries of a hybrid table stay. `None` when it needs no change.
pub fn protective(first: &[u8], sectors: u64) -> Option<Vec<u8>> {
    let mut bytes = first.to_vec();
    bytes.resize(512, 0);
    let used: Vec<usize> = (0..4).filter(|index| bytes[ENTRIES_AT + 16 * index + 4] != 0).collect();
    let place = match used[..] {
        [] => ENTRIES_AT,
        [only] if bytes[ENTRIES_AT + 16 * only + 4] == TYPE_PROTECTIVE => ENTRIES_AT + 16 * only,
        _ => return None,
    };
    let size = u32::try_from(sectors.saturating_sub(1)).unwrap_or(u32::MAX);
    if used.is_empty() {
        bytes[place..place + 8].copy_from_slice(&[0, 0, 2, 0, TYPE_PROTECTIVE, 0xFF, 0xFF, 0xFF]);
    }
    bytes[place + 5..place + 8].fill(0xFF);
    bytes[place + 8..place + 12].copy_from_slice(&1u32.to_le_bytes());
    bytes[place + 12..place + 16].copy_from_slice(&size.to_le_bytes());
    bytes[SIGNATURE_AT..].copy_from_slice(&[0x55, 0xAA]);
    (bytes != first).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_table_reads_back_as_it_was_made() {
        let new = [
            New { kind: 0xEF, start: 1 << 20, bytes: 64 << 20, active: false },
            New { kind: 0x83, start: 65 << 20, bytes: 900 << 20, active: true },
        ];
        let table = read(&create(0xDEAD_BEEF, 512, &new), None).unwrap().unwrap();
        assert_eq!(table.signature, 0xDEAD_BEEF);
        let found: Vec<(u32, u64, u64, Kind)> =
            table.partitions().iter().map(|one| (one.number, one.start, one.bytes, one.kind)).collect();
        assert_eq!(found, [(1, 1 << 20, 64 << 20, Kind::Mbr(0xEF)), (2, 65 << 20, 900 << 20, Kind::Mbr(0x83))]);
    }
}
