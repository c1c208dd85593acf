//! VHD (Microsoft, "Virtual Hard Disk Image Format Specification" 1.0): fixed and dynamic. Big-endian.

use super::mapped::{Extent, Extents, Mapped, Place};
use super::{Error, Format, Opened};
use crate::stdx::bytes::Fields;
use crate::stdx::io::{ReadAt, Section};
use std::io;

const FOOTER_BYTES: u64 = 512;
const SECTOR: u64 = 512;
const TYPE_FIXED: u32 = 2;
const TYPE_DYNAMIC: u32 = 3;
const UNUSED: u32 = u32::MAX;
/// The format ends at 2040 GiB; with the usual blocks of 2 MiB its table is then 4 MiB. Small blocks may make it longer.
const TABLE_ENTRIES_MAX: u64 = 1 << 24;
const BLOCK_BYTES_MAX: u64 = 256 << 20;

/// Whether the last sector is a footer: a fixed VHD is told from a raw disk by nothing else.
pub fn has_footer(file: &dyn ReadAt) -> io::Result<bool> {
    let Some(at) = file.size().checked_sub(FOOTER_BYTES) else { return Ok(false) };
    Ok(file.read_vec_at(at, 8)? == b"conectix")
}

pub fn open(file: impl ReadAt + 'static) -> Result<Opened, Error> {
    let damaged = Error::damaged(Format::Vhd);
    let footer = footer(&file)?;
    let footer = Fields(&footer);
    let size = footer.be64(48);
    match footer.be32(60) {
        TYPE_FIXED => {
            let section = Section::new(file, 0, size).ok_or_else(|| damaged("it is shorter than the disk it holds"))?;
            Ok(Opened { format: Format::Vhd, content: Box::new(section), stored: None, warnings: Vec::new() })
        }
        TYPE_DYNAMIC => {
            let extents = dynamic(&file, footer.be64(16), size)?;
            let mapped = Mapped::new(vec![Box::new(file)], size, extents);
            let stored = Some(mapped.stored());
            Ok(Opened { format: Format::Vhd, content: Box::new(mapped), stored, warnings: Vec::new() })
        }
        _ => Err(Error::Refused {
            format: "vhd",
            what: "it is a difference to a parent, which is never followed".to_owned(),
            way_out: "merge it into its parent first (Merge-VHD)",
        }),
    }
}

/// The footer at the end, or where that is damaged its copy at the start of a dynamic image. Checksum 64.
fn footer(file: &dyn ReadAt) -> Result<Vec<u8>, Error> {
    let end = file.size().saturating_sub(FOOTER_BYTES);
    for at in [end, 0] {
        let bytes = file.read_vec_at(at, FOOTER_BYTES as usize).map_err(Error::unreadable(Format::Vhd))?;
        if bytes.starts_with(b"conectix") && checksum(&bytes, 64) == Fields(&bytes).be32(64) {
            return Ok(bytes);
        }
    }
    Err(Error::damaged(Format::Vhd)("neither of its footers is sound"))
}

/// The sum of all bytes but the checksum's own at `skip`, inverted.
fn checksum(bytes: &[u8], skip: usize) -> u32 {
    let counted = bytes.iter().enumerate().filter(|(at, _)| !(skip..skip + 4).contains(at));
    !counted.map(|(_, byte)| u32::from(*byte)).sum::<u32>()
}

/// The dynamic header: table 16, entries 28, block size 32, checksum 36. A block is a bitmap of its sectors, then data.
fn dynamic(file: &dyn ReadAt, at: u64, size: u64) -> Result<Extents, Error> {
    let (damaged, unreadable) = (Error::damaged(Format::Vhd), Error::unreadable(Format::Vhd));
    let bytes = file.read_vec_at(at, 1024).map_err(&unreadable)?;
    let header = Fields(&bytes);
    let (entries, block_bytes) = (u64::from(header.be32(28)), u64::from(header.be32(32)));
    if header.slice(0, 8) != b"cxsparse" || checksum(&bytes, 36) != header.be32(36) {
        return Err(damaged("its dynamic header is damaged"));
    }
    let sizes = block_bytes.is_power_of_two() && (SECTOR..=BLOCK_BYTES_MAX).contains(&block_bytes);
    if !sizes || entries > TABLE_ENTRIES_MAX || entries * block_bytes < size {
        return Err(damaged("its sizes contradict each other"));
    }
    let table = file.read_vec_at(header.be64(16), (entries * 4) as usize).map_err(&unreadable)?;
    let bitmap_bytes = (block_bytes / SECTOR).div_ceil(8).next_multiple_of(SECTOR);
    let mut extents = Extents::default();
    for (entry, start) in table.chunks_exact(4).zip((0..size).step_by(block_bytes as usize)) {
        let sector = Fields(entry).be32(0);
        if sector == UNUSED {
            continue;
        }
        let at = u64::from(sector) * SECTOR;
        let bitmap = file.read_vec_at(at, bitmap_bytes as usize).map_err(&unreadable)?;
        let block = Extent { start, len: block_bytes, place: Place::Plain { file: 0, at: at + bitmap_bytes } };
        add_block(&bitmap, block, &mut extents).ok_or_else(|| damaged("it is in too many pieces"))?;
    }
    Ok(extents)
}

/// Adds the sectors of a block whose bits are set, the most significant bit first.
fn add_block(bitmap: &[u8], block: Extent, extents: &mut Extents) -> Option<()> {
    let Place::Plain { file, at } = block.place else { return None };
    if bitmap.iter().all(|byte| *byte == 0xFF) {
        return extents.push(block);
    }
    for sector in 0..block.len / SECTOR {
        if bitmap[(sector / 8) as usize] >> (7 - sector % 8) & 1 == 1 {
            let skip = sector * SECTOR;
            extents.push(Extent {
                start: block.start + skip,
                len: SECTOR,
                place: Place::Plain { file, at: at + skip },
            })?;
        }
    }
    Some(())
}
