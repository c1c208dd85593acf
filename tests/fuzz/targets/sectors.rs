//! A disk of any size in a few kilobytes: only its sectors that are not zero.
//!
//! ```text
//! 0   flags (1; bit 0: sums are made right before the disk is read), zero (7)
//! 8   size of the disk in bytes (8)
//! 16  records of 516 bytes: number of a sector (4), its 512 bytes
//! ```
//! Numbers are little-endian. Records have one length so that a mutation of one leaves the others what they are.

use std::collections::BTreeMap;
use std::io;

use remint::stdx::io::ReadAt;

pub(crate) const SECTOR: usize = 512;
pub(crate) const HEADER_BYTES: usize = 16;
pub(crate) const RECORD_BYTES: usize = 4 + SECTOR;
/// Disks are at most as large as numbers of sectors reach.
const SIZE_MAX: u64 = 1 << 41;
const FLAG_MEND: u8 = 1;

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Disk {
    pub(crate) size: u64,
    /// Whether sums shall be made right, so that what lies behind them is reached.
    pub(crate) mend: bool,
    sectors: BTreeMap<u32, [u8; SECTOR]>,
}

impl Disk {
    /// Zeros, whose sums will be made right.
    pub(crate) fn blank(size: u64) -> Disk {
        Disk { size, mend: true, sectors: BTreeMap::new() }
    }

    /// Any bytes are a disk.
    pub(crate) fn parse(bytes: &[u8]) -> Disk {
        let (header, records) = bytes.split_at(bytes.len().min(HEADER_BYTES));
        let size = header.get(8..16).and_then(<[u8]>::first_chunk).map_or(0, |size| u64::from_le_bytes(*size));
        let sectors = records.chunks_exact(RECORD_BYTES).filter_map(|record| {
            let (number, content) = record.split_first_chunk::<4>()?;
            Some((u32::from_le_bytes(*number), *content.first_chunk()?))
        });
        let mend = header.first().is_some_and(|flags| flags & FLAG_MEND != 0);
        Disk { size: size.min(SIZE_MAX), mend, sectors: sectors.collect() }
    }

    pub(crate) fn emit(&self) -> Vec<u8> {
        let mut bytes = vec![u8::from(self.mend), 0, 0, 0, 0, 0, 0, 0];
        bytes.extend_from_slice(&self.size.to_le_bytes());
        for (number, content) in &self.sectors {
            bytes.extend_from_slice(&number.to_le_bytes());
            bytes.extend_from_slice(content);
        }
        bytes
    }

    /// Writes within the disk.
    pub(crate) fn write(&mut self, mut at: u64, mut bytes: &[u8]) {
        while !bytes.is_empty() && at < self.size {
            let skip = (at % SECTOR as u64) as usize;
            let here = bytes.len().min(SECTOR - skip);
            let sector = self.sectors.entry((at / SECTOR as u64) as u32).or_insert([0; SECTOR]);
            sector[skip..skip + here].copy_from_slice(&bytes[..here]);
            (at, bytes) = (at + here as u64, &bytes[here..]);
        }
    }

    /// The places of sectors that are there.
    pub(crate) fn places(&self) -> Vec<u64> {
        self.sectors.keys().map(|number| u64::from(*number) * SECTOR as u64).collect()
    }
}

impl ReadAt for Disk {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buffer.len() as u64).filter(|end| *end <= self.size);
        let end = end.ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.fill(0);
        let (first, last) = ((offset / SECTOR as u64) as u32, end.div_ceil(SECTOR as u64) as u32);
        for (number, content) in self.sectors.range(first..last.max(first)) {
            let start = u64::from(*number) * SECTOR as u64;
            let (from, to) = (start.max(offset), (start + SECTOR as u64).min(end));
            let target = &mut buffer[(from - offset) as usize..(to - offset) as usize];
            target.copy_from_slice(&content[(from - start) as usize..(to - start) as usize]);
        }
        Ok(())
    }
}
