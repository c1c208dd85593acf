//! VHDX ([MS-VHDX]): headers, regions, metadata, block allocation table. Little-endian. An image whose log must be replayed
//! is refused: it is one that was open when its host stopped.

use super::mapped::{Extent, Extents, Mapped, Place};
use super::{Error, Format, Opened};
use crate::imaging::disk::guid::Guid;
use crate::stdx::bytes::Fields;
use crate::stdx::crc32;
use crate::stdx::io::ReadAt;

const HEADERS_AT: [u64; 2] = [64 << 10, 128 << 10];
const REGIONS_AT: [u64; 2] = [192 << 10, 256 << 10];
const TABLE_BYTES: usize = 64 << 10;
const REGION_BAT: Guid = Guid::from_fields(0x2DC2_7766, 0xF623, 0x4200, 0x9D64, 0x115E_9BFD_4A08);
const REGION_METADATA: Guid = Guid::from_fields(0x8B7C_A206, 0x4790, 0x4B9A, 0xB8FE, 0x575F_050F_886E);
const ITEM_PARAMETERS: Guid = Guid::from_fields(0xCAA1_6737, 0xFA36, 0x4D43, 0xB3B6, 0x33F0_AA44_E76B);
const ITEM_SIZE: Guid = Guid::from_fields(0x2FA5_4224, 0xCD1B, 0x4876, 0xB211, 0x5DBE_D83B_F4B8);
const ITEM_SECTOR: Guid = Guid::from_fields(0x8141_BF1D, 0xA96F, 0x4709, 0xBA47, 0xF233_A8FA_AB5F);
/// The format's own limit (section 2.6.2.2).
const SIZE_MAX: u64 = 64 << 40;
const HAS_PARENT: u32 = 2;
/// States of a block in the lower three bits of its entry; all others hold nothing.
const STATE_PRESENT: u64 = 6;
const STATE_PARTIAL: u64 = 7;

/// A part of the file.
#[derive(Clone, Copy)]
struct Region {
    at: u64,
    len: u64,
}

/// What the metadata says.
struct Shape {
    size: u64,
    block_bytes: u64,
    sector_bytes: u64,
}

pub fn open(file: impl ReadAt + 'static) -> Result<Opened, Error> {
    check_log(&file)?;
    let [bat, metadata] = regions(&file)?;
    let shape = shape(&file, metadata)?;
    let extents = extents(&file, bat, &shape)?;
    let mapped = Mapped::new(vec![Box::new(file)], shape.size, extents);
    let stored = Some(mapped.stored());
    Ok(Opened { format: Format::Vhdx, content: Box::new(mapped), stored, warnings: Vec::new() })
}

fn damaged(what: &str) -> Error {
    Error::damaged(Format::Vhdx)(what)
}

/// A structure of `len` bytes whose CRC-32C stands at 4; `None` when it is not sound.
fn summed(file: &dyn ReadAt, at: u64, len: usize, magic: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = file.read_vec_at(at, len).ok()?;
    let sum = Fields(&bytes).le32(4);
    bytes[4..8].fill(0);
    (bytes.starts_with(magic) && crc32::castagnoli(&bytes) == sum).then_some(bytes)
}

/// The header with the higher sequence number (8) is current; its log identifier (48) is zero when all was written.
fn check_log(file: &dyn ReadAt) -> Result<(), Error> {
    let headers = HEADERS_AT.iter().filter_map(|at| summed(file, *at, 4096, b"head"));
    let current =
        headers.max_by_key(|header| Fields(header).le64(8)).ok_or_else(|| damaged("neither header is sound"))?;
    if Guid(Fields(&current).array(48)).is_zero() {
        return Ok(());
    }
    Err(Error::Refused {
        format: "vhdx",
        what: "its log was not written back".to_owned(),
        way_out: "open and close it once: qemu-img check -r all IMAGE, or mount and dismount it in Windows",
    })
}

/// Offset and length of the block allocation table and of the metadata. Entries 8; each of 32 bytes from 16 on: identifier,
/// offset 16, length 24, required 28.
fn regions(file: &dyn ReadAt) -> Result<[Region; 2], Error> {
    let table = REGIONS_AT.iter().find_map(|at| summed(file, *at, TABLE_BYTES, b"regi"));
    let table = table.ok_or_else(|| damaged("neither region table is sound"))?;
    let (mut bat, mut metadata) = (None, None);
    let count = Fields(&table).le32(8) as usize;
    for entry in table[16..].chunks_exact(32).take(count).map(Fields) {
        let place = Some(Region { at: entry.le64(16), len: u64::from(entry.le32(24)) });
        match Guid(entry.array(0)) {
            REGION_BAT => bat = place,
            REGION_METADATA => metadata = place,
            _ if entry.le32(28) & 1 == 1 => return Err(damaged("it requires a region that is not known here")),
            _ => {}
        }
    }
    bat.zip(metadata).map(|(bat, metadata)| [bat, metadata]).ok_or_else(|| damaged("it lacks a region"))
}

/// Metadata table: entries 10; each of 32 bytes from 32 on: identifier, offset 16, length 20.
fn shape(file: &dyn ReadAt, Region { at, len }: Region) -> Result<Shape, Error> {
    let unreadable = Error::unreadable(Format::Vhdx);
    if len < TABLE_BYTES as u64 {
        return Err(damaged("its metadata is too short"));
    }
    let table = file.read_vec_at(at, TABLE_BYTES).map_err(&unreadable)?;
    let fields = Fields(&table);
    if fields.slice(0, 8) != b"metadata" {
        return Err(damaged("its metadata has no signature"));
    }
    let item = |wanted: Guid| {
        let mut entries = table[32..].chunks_exact(32).take(usize::from(fields.le16(10))).map(Fields);
        let entry = entries.find(|entry| Guid(entry.array(0)) == wanted).ok_or_else(|| damaged("it lacks metadata"))?;
        let place = at.checked_add(u64::from(entry.le32(16))).ok_or_else(|| damaged("its metadata lies nowhere"))?;
        file.read_vec_at(place, 8).map_err(&unreadable)
    };
    let parameters = item(ITEM_PARAMETERS)?;
    let parameters = Fields(&parameters);
    if parameters.le32(4) & HAS_PARENT != 0 {
        return Err(Error::Refused {
            format: "vhdx",
            what: "it is a difference to a parent, which is never followed".to_owned(),
            way_out: "merge it into its parent first (Merge-VHD)",
        });
    }
    let shape = Shape {
        size: Fields(&item(ITEM_SIZE)?).le64(0),
        block_bytes: u64::from(parameters.le32(0)),
        sector_bytes: u64::from(Fields(&item(ITEM_SECTOR)?).le32(0)),
    };
    let blocks = shape.block_bytes.is_power_of_two() && (1 << 20..=256 << 20).contains(&shape.block_bytes);
    if !blocks || !matches!(shape.sector_bytes, 512 | 4096) || shape.size > SIZE_MAX {
        return Err(damaged("its sizes are none that VHDX can have"));
    }
    Ok(shape)
}

/// An entry of 8 bytes a block: state in bits 0 to 2, offset in MiB from bit 20 on. After every `ratio` blocks an entry of a
/// bitmap comes between, which only differences use.
fn extents(file: &dyn ReadAt, Region { at, len }: Region, shape: &Shape) -> Result<Extents, Error> {
    let ratio = (shape.sector_bytes << 23) / shape.block_bytes;
    let blocks = shape.size.div_ceil(shape.block_bytes);
    let entries = blocks + blocks.saturating_sub(1) / ratio;
    let table_bytes = entries * 8;
    if table_bytes > len || at.saturating_add(table_bytes) > file.size() {
        return Err(damaged("its allocation table is too short"));
    }
    let table = file.read_vec_at(at, table_bytes as usize).map_err(Error::unreadable(Format::Vhdx))?;
    let mut extents = Extents::default();
    for block in 0..blocks {
        let entry = Fields(&table).le64((block + block / ratio) as usize * 8);
        let at = entry >> 20 << 20;
        match entry & 7 {
            STATE_PRESENT if at >= file.size() => return Err(damaged("a block lies outside of the file")),
            STATE_PRESENT => {
                let place = Place::Plain { file: 0, at };
                let extent = Extent { start: block * shape.block_bytes, len: shape.block_bytes, place };
                extents.push(extent).ok_or_else(|| damaged("it is in too many pieces"))?;
            }
            STATE_PARTIAL => return Err(damaged("a block is only partly there, without a parent")),
            _ => {}
        }
    }
    Ok(extents)
}
