//! GUID partition tables (UEFI 2.10, chapter 5), read from either copy and moved to disks of other sizes.
//!
//! Entries are kept as the bytes they are: what this program does not know (attributes, vendors' fields, names that are
//! no UTF-16) moves with them.

use super::guid::Guid;
use super::table::{Error, Kind, Partition, Patch};
use crate::stdx::bytes::Fields;
use crate::stdx::crc32;
use crate::stdx::io::ReadAt;

/// Bytes of the header that revision 1.0 defines; its CRC covers as many as it claims, at most a sector.
const HEADER_BYTES: usize = 92;
/// The specification's minimum is 128 entries of 128 bytes; 64 times as much is still a table and not an attack.
const ARRAY_BYTES_MAX: u64 = 1 << 20;
/// Partitions end on this grid when they are grown, as every partitioner aligns them.
const ALIGN_BYTES: u64 = 1 << 20;

/// Which of the two copies was sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copy {
    Primary,
    Backup,
}

/// A table with the geometry that its numbers are in.
#[derive(Clone, Debug)]
pub struct Gpt {
    pub sector_bytes: u64,
    pub disk: Guid,
    /// The copy that was read. `Backup` means that the primary is damaged.
    pub copy: Copy,
    /// Sector of the backup's header.
    pub backup_sector: u64,
    pub first_usable: u64,
    pub last_usable: u64,
    entry_bytes: usize,
    /// All entries, used or not.
    array: Vec<u8>,
}

/// The table of `disk`, in sectors of `sector_bytes` or, when that is not known, of whichever size holds a sound table.
/// `Ok(None)` when neither copy is one.
pub fn read(disk: &dyn ReadAt, sector_bytes: Option<u32>) -> Result<Option<Gpt>, Error> {
    let sizes: Vec<u64> = sector_bytes.map_or(vec![512, 4096], |size| vec![u64::from(size)]);
    for size in &sizes {
        if let Some(gpt) = read_copy(disk, *size, 1, Copy::Primary)? {
            return Ok(Some(gpt));
        }
    }
    for size in &sizes {
        for sector in backup_sectors(disk, *size)? {
            if let Some(gpt) = read_copy(disk, *size, sector, Copy::Backup)? {
                return Ok(Some(gpt));
            }
        }
    }
    Ok(None)
}

/// Where the backup may be: at the end of the disk, and where the damaged primary says.
fn backup_sectors(disk: &dyn ReadAt, sector_bytes: u64) -> Result<Vec<u64>, Error> {
    let sectors = disk.size() / sector_bytes;
    if sectors < 3 {
        return Ok(Vec::new());
    }
    let primary = disk.read_vec_at(sector_bytes, HEADER_BYTES).map_err(Error::read("the GPT header"))?;
    let told = Fields(&primary).le64(32);
    Ok([sectors - 1, told].into_iter().filter(|sector| (2..sectors).contains(sector)).collect())
}

fn read_copy(disk: &dyn ReadAt, sector_bytes: u64, sector: u64, copy: Copy) -> Result<Option<Gpt>, Error> {
    let sectors = disk.size() / sector_bytes;
    if sector >= sectors {
        return Ok(None);
    }
    let sector_len = usize::try_from(sector_bytes).unwrap_or(512);
    let bytes = disk.read_vec_at(sector * sector_bytes, sector_len).map_err(Error::read("a GPT header"))?;
    let header = Fields(&bytes);
    let header_bytes = header.le32(12) as usize;
    if &bytes[..8] != b"EFI PART" || !(HEADER_BYTES..=bytes.len()).contains(&header_bytes) {
        return Ok(None);
    }
    let mut summed = bytes[..header_bytes].to_vec();
    summed[16..20].fill(0);
    if crc32::ieee(&summed) != header.le32(16) || header.le64(24) != sector {
        return Ok(None);
    }
    let (count, entry_bytes) = (u64::from(header.le32(80)), u64::from(header.le32(84)));
    let array_at = header.le64(72).checked_mul(sector_bytes);
    if entry_bytes < 128 || !entry_bytes.is_multiple_of(8) || count == 0 || count * entry_bytes > ARRAY_BYTES_MAX {
        return Ok(None);
    }
    let array_bytes = (count * entry_bytes) as usize;
    let Some(array_at) = array_at.filter(|at| at.saturating_add(array_bytes as u64) <= disk.size()) else {
        return Ok(None);
    };
    let array = disk.read_vec_at(array_at, array_bytes).map_err(Error::read("the GPT entries"))?;
    if crc32::ieee(&array) != header.le32(88) {
        return Ok(None);
    }
    Ok(Some(Gpt {
        sector_bytes,
        disk: Guid(header.array(56)),
        copy,
        backup_sector: if copy == Copy::Backup { sector } else { header.le64(32) },
        first_usable: header.le64(40),
        last_usable: header.le64(48),
        entry_bytes: entry_bytes as usize,
        array,
    }))
}

impl Gpt {
    /// A table without partitions for a disk of `disk_bytes`, with room for the usual 128.
    pub fn create(disk_bytes: u64, sector_bytes: u64, disk: Guid) -> Gpt {
        let mut gpt = Gpt {
            sector_bytes,
            disk,
            copy: Copy::Primary,
            backup_sector: 0,
            first_usable: 0,
            last_usable: 0,
            entry_bytes: 128,
            array: vec![0; 128 * 128],
        };
        gpt.first_usable = 2 + gpt.array_sectors();
        gpt.set_last_usable(disk_bytes);
        gpt
    }

    /// Writes an entry: `number` counts from 1, `start` and `bytes` are multiples of the sector.
    pub fn set(&mut self, number: u32, kind: Guid, guid: Guid, name: &str, start: u64, bytes: u64) {
        let (first, end) = (start / self.sector_bytes, (start + bytes) / self.sector_bytes);
        let Some(entry) = self.entry_mut(number) else { return };
        entry.fill(0);
        entry[..16].copy_from_slice(&kind.0);
        entry[16..32].copy_from_slice(&guid.0);
        entry[32..40].copy_from_slice(&first.to_le_bytes());
        entry[40..48].copy_from_slice(&(end.saturating_sub(1)).to_le_bytes());
        for (place, unit) in entry[56..128].chunks_exact_mut(2).zip(name.encode_utf16()) {
            place.copy_from_slice(&unit.to_le_bytes());
        }
    }

    /// The used entries, in the order of the table. Entries whose numbers overflow are left out.
    pub fn partitions(&self) -> Vec<Partition> {
        let entries = self.array.chunks_exact(self.entry_bytes).zip(1u32..);
        entries.filter_map(|(entry, number)| self.partition(Fields(entry), number)).collect()
    }

    fn partition(&self, entry: Fields<'_>, number: u32) -> Option<Partition> {
        let kind = Guid(entry.array(0));
        let (first, last) = (entry.le64(32), entry.le64(40));
        if kind.is_zero() || last < first {
            return None;
        }
        Some(Partition {
            number,
            start: first.checked_mul(self.sector_bytes)?,
            bytes: (last - first).checked_add(1)?.checked_mul(self.sector_bytes)?,
            kind: Kind::Gpt(kind),
            guid: Some(Guid(entry.array(16))),
            name: entry.text_utf16(56, 72),
        })
    }

    /// The entry of partition `number` as stored.
    fn entry_mut(&mut self, number: u32) -> Option<&mut [u8]> {
        let index = usize::try_from(number).ok()?.checked_sub(1)?;
        self.array.chunks_exact_mut(self.entry_bytes).nth(index)
    }

    /// Gives partition `number` a new size.
    pub fn resize(&mut self, number: u32, bytes: u64) {
        let sectors = bytes / self.sector_bytes;
        if let Some(entry) = self.entry_mut(number) {
            let last = Fields(entry).le64(32) + sectors.max(1) - 1;
            entry[40..48].copy_from_slice(&last.to_le_bytes());
        }
    }

    /// Gives the disk and each partition a new identifier, drawn from `draw` by number (0 is the disk).
    pub fn renew(&mut self, draw: impl Fn(u32) -> Guid) {
        self.disk = draw(0);
        for partition in self.partitions() {
            if let Some(entry) = self.entry_mut(partition.number) {
                entry[16..32].copy_from_slice(&draw(partition.number).0);
            }
        }
    }

    /// First byte behind what partitions may use.
    pub fn usable_end(&self) -> u64 {
        self.last_usable.saturating_add(1).saturating_mul(self.sector_bytes) / ALIGN_BYTES * ALIGN_BYTES
    }

    /// Moves the table to a disk of another size. Refused when a partition would not fit.
    pub fn relocate(&mut self, disk_bytes: u64) -> Result<(), Error> {
        self.set_last_usable(disk_bytes);
        let end = self.partitions().iter().map(Partition::end).max().unwrap_or(0).max(self.front_bytes());
        let needed = end.saturating_add((self.array_sectors() + 1) * self.sector_bytes);
        if needed > disk_bytes {
            return Err(Error::TooSmall { disk_bytes, needed_bytes: needed });
        }
        Ok(())
    }

    /// Counts in sectors of another size from now on, for a disk whose sectors differ from the captured one's. A partition
    /// that ends within one of the new sectors takes the rest of it, where that is free.
    pub fn recount(&mut self, sector_bytes: u64) -> Result<(), Error> {
        let partitions = self.partitions();
        self.sector_bytes = sector_bytes;
        self.first_usable = 2 + self.array_sectors();
        for partition in &partitions {
            let end = partition.end().checked_next_multiple_of(sector_bytes).unwrap_or(u64::MAX);
            let taken = partitions.iter().any(|other| other.start > partition.start && other.start < end);
            let in_front = partition.start / sector_bytes < self.first_usable;
            if taken || in_front || !partition.start.is_multiple_of(sector_bytes) {
                return Err(Error::Unaligned { number: partition.number, sector_bytes });
            }
            if let Some(entry) = self.entry_mut(partition.number) {
                entry[32..40].copy_from_slice(&(partition.start / sector_bytes).to_le_bytes());
                entry[40..48].copy_from_slice(&(end / sector_bytes - 1).to_le_bytes());
            }
        }
        Ok(())
    }

    /// Both copies as they are written to a disk of `disk_bytes`, the backup first: an interruption leaves one copy whole.
    pub fn emit(&self, disk_bytes: u64) -> Vec<Patch> {
        let backup = disk_bytes / self.sector_bytes - 1;
        let backup_array = backup - self.array_sectors();
        vec![
            Patch { offset: backup_array * self.sector_bytes, bytes: self.array.clone() },
            Patch { offset: backup * self.sector_bytes, bytes: self.header(backup, 1, backup_array) },
            Patch { offset: 2 * self.sector_bytes, bytes: self.array.clone() },
            Patch { offset: self.sector_bytes, bytes: self.header(1, backup, 2) },
        ]
    }

    /// One sector with the header at sector `own`, the other copy at `other`, the entries from `array`.
    fn header(&self, own: u64, other: u64, array: u64) -> Vec<u8> {
        let mut bytes = vec![0; self.sector_bytes as usize];
        let count = (self.array.len() / self.entry_bytes) as u32;
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, b"EFI PART");
        put(8, &0x0001_0000u32.to_le_bytes());
        put(12, &(HEADER_BYTES as u32).to_le_bytes());
        put(24, &own.to_le_bytes());
        put(32, &other.to_le_bytes());
        put(40, &self.first_usable.to_le_bytes());
        put(48, &self.last_usable.to_le_bytes());
        put(56, &self.disk.0);
        put(72, &array.to_le_bytes());
        put(80, &count.to_le_bytes());
        put(84, &(self.entry_bytes as u32).to_le_bytes());
        put(88, &crc32::ieee(&self.array).to_le_bytes());
        let sum = crc32::ieee(&bytes[..HEADER_BYTES]);
        bytes[16..20].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// Bytes that a copy takes at the front (with the sector of the protective MBR) or, one sector fewer, at the end.
    pub fn front_bytes(&self) -> u64 {
        (2 + self.array_sectors()) * self.sector_bytes
    }

    fn array_sectors(&self) -> u64 {
        (self.array.len() as u64).div_ceil(self.sector_bytes)
    }

    fn set_last_usable(&mut self, disk_bytes: u64) {
        let sectors = disk_bytes / self.sector_bytes;
        self.backup_sector = sectors.saturating_sub(1);
        self.last_usable = sectors.saturating_sub(self.array_sectors() + 2);
    }
}
