//! Packs as bytes: immutable, self-describing, in the order in which a disk wants the chunks.
//!
//! ```text
//! 0        "RMNTPCK1"
//! 8        the sealed bytes of each chunk, back to back
//! I        index: for each chunk, in the order of the bytes, 44 bytes:
//!            0  32  chunk id          32  4  bytes in the pack
//!           36   4  plain bytes       40  1  encoding (0 as it is, 1 zstd)   41  3  zero
//! end-24   offset I (8), number of chunks (4), zero (4), "RMNTIDX1"
//! ```
//! All numbers are little-endian. The pack's id is the BLAKE3 of the index.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::imaging::chunk::{CHUNK_BYTES_MAX, ChunkId, Encoding, ParseNameError, Sealed};
use crate::stdx::hex;

pub const MAGIC: &[u8; 8] = b"RMNTPCK1";
const INDEX_MAGIC: &[u8; 8] = b"RMNTIDX1";
pub const ENTRY_BYTES: usize = 44;
pub const FOOTER_BYTES: usize = 24;

/// A pack is closed when its chunks reach this: small enough to be rewritten when most of it is garbage and for an object
/// store to take in one request, large enough that a disk has some dozens of them.
pub const PACK_BYTES: u64 = 64 << 20;

/// No pack is larger: its offsets fit 32 bits with room to spare.
pub const PACK_BYTES_MAX: u64 = 1 << 30;

/// The BLAKE3 of a pack's index; written as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PackId(pub [u8; 32]);

impl fmt::Display for PackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::emit(&self.0))
    }
}

impl fmt::Debug for PackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for PackId {
    type Error = ParseNameError;

    fn try_from(text: String) -> Result<Self, ParseNameError> {
        text.parse()
    }
}

impl From<PackId> for String {
    fn from(id: PackId) -> String {
        id.to_string()
    }
}

impl FromStr for PackId {
    type Err = ParseNameError;

    fn from_str(text: &str) -> Result<Self, ParseNameError> {
        hex::parse_array(text).map(PackId).ok_or(ParseNameError)
    }
}

/// One chunk of a pack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    pub id: ChunkId,
    /// From the start of the pack.
    pub offset: u32,
    pub stored_bytes: u32,
    pub plain_bytes: u32,
    pub encoding: Encoding,
}

impl Entry {
    /// The chunk, given the bytes that lie at its place.
    pub fn sealed<'a>(&self, bytes: &'a [u8]) -> Sealed<'a> {
        Sealed { id: self.id, plain_bytes: self.plain_bytes, encoding: self.encoding, bytes }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PackDamage {
    #[error("it is cut short or has no footer")]
    Footer,
    #[error("its index does not hash to its name")]
    Index,
    #[error("its index lies about the chunks")]
    Entries,
}

/// Where the index lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Footer {
    pub index_offset: u64,
    pub chunks: u32,
}

impl Footer {
    pub fn index_bytes(&self) -> usize {
        self.chunks as usize * ENTRY_BYTES
    }

    /// Reads the last [`FOOTER_BYTES`] of a pack of `pack_bytes`.
    pub fn parse(bytes: &[u8], pack_bytes: u64) -> Result<Footer, PackDamage> {
        let (Some(offset), Some(chunks), Some(magic)) = (bytes.first_chunk::<8>(), bytes.get(8..12), bytes.get(16..24))
        else {
            return Err(PackDamage::Footer);
        };
        let chunks = u32::from_le_bytes([chunks[0], chunks[1], chunks[2], chunks[3]]);
        let footer = Footer { index_offset: u64::from_le_bytes(*offset), chunks };
        let index = u64::from(chunks) * ENTRY_BYTES as u64;
        let adds_up = footer.index_offset.checked_add(index + FOOTER_BYTES as u64) == Some(pack_bytes);
        let sound = magic == INDEX_MAGIC && adds_up && pack_bytes <= PACK_BYTES_MAX;
        sound.then_some(footer).ok_or(PackDamage::Footer)
    }
}

/// Index and footer of a pack whose chunks are `entries`, and its id.
pub fn emit_tail(entries: &[Entry]) -> (Vec<u8>, PackId) {
    let mut tail = Vec::with_capacity(entries.len() * ENTRY_BYTES + FOOTER_BYTES);
    for entry in entries {
        tail.extend_from_slice(&entry.id.0);
        tail.extend_from_slice(&entry.stored_bytes.to_le_bytes());
        tail.extend_from_slice(&entry.plain_bytes.to_le_bytes());
        tail.extend_from_slice(&[entry.encoding as u8, 0, 0, 0]);
    }
    let id = PackId(*blake3::hash(&tail).as_bytes());
    let index_offset = entries.last().map_or(MAGIC.len() as u64, |last| u64::from(last.offset + last.stored_bytes));
    tail.extend_from_slice(&index_offset.to_le_bytes());
    tail.extend_from_slice(&(entries.len() as u32).to_le_bytes());
    tail.extend_from_slice(&[0; 4]);
    tail.extend_from_slice(INDEX_MAGIC);
    (tail, id)
}

/// Reads an index; `id` is the name that the pack goes by.
pub fn parse_index(bytes: &[u8], footer: Footer, id: PackId) -> Result<Vec<Entry>, PackDamage> {
    if blake3::hash(bytes).as_bytes() != &id.0 {
        return Err(PackDamage::Index);
    }
    let mut offset = MAGIC.len() as u64;
    let mut entries = Vec::with_capacity(bytes.len() / ENTRY_BYTES);
    for record in bytes.chunks_exact(ENTRY_BYTES) {
        let entry = parse_entry(record, offset).ok_or(PackDamage::Entries)?;
        offset += u64::from(entry.stored_bytes);
        entries.push(entry);
    }
    (offset == footer.index_offset).then_some(entries).ok_or(PackDamage::Entries)
}

fn parse_entry(record: &[u8], offset: u64) -> Option<Entry> {
    let id = ChunkId(*record.first_chunk()?);
    let number = |at: usize| Some(u32::from_le_bytes(*record.get(at..at + 4)?.first_chunk()?));
    let (stored_bytes, plain_bytes) = (number(32)?, number(36)?);
    let encoding = Encoding::from_byte(*record.get(40)?)?;
    let sound = stored_bytes <= plain_bytes && plain_bytes as usize <= CHUNK_BYTES_MAX;
    let offset = u32::try_from(offset).ok()?;
    sound.then_some(Entry { id, offset, stored_bytes, plain_bytes, encoding })
}

/// Reads the tail of a whole pack that is given as bytes: what a fuzzer calls.
pub fn parse_tail(pack: &[u8], id: PackId) -> Result<Vec<Entry>, PackDamage> {
    let at = pack.len().checked_sub(FOOTER_BYTES).ok_or(PackDamage::Footer)?;
    let footer = Footer::parse(&pack[at..], pack.len() as u64)?;
    let index = usize::try_from(footer.index_offset).ok().and_then(|from| pack.get(from..at));
    parse_index(index.ok_or(PackDamage::Footer)?, footer, id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entries(count: u32) -> Vec<Entry> {
        let mut offset = 8;
        let entry = |n: u32| {
            let entry = Entry {
                id: ChunkId::of(&n.to_le_bytes()),
                offset,
                stored_bytes: 10 + n,
                plain_bytes: 20 + n,
                encoding: if n.is_multiple_of(2) { Encoding::Zstd } else { Encoding::Stored },
            };
            offset += entry.stored_bytes;
            entry
        };
        (0..count).map(entry).collect()
    }

    fn pack(count: u32) -> (Vec<u8>, PackId) {
        let entries = entries(count);
        let (tail, id) = emit_tail(&entries);
        let body = entries.last().map_or(8, |last| last.offset + last.stored_bytes) as usize;
        let mut pack = vec![0; body];
        pack.extend_from_slice(&tail);
        (pack, id)
    }

    #[test]
    fn an_index_that_is_emitted_parses_back() {
        for count in [0, 1, 2, 100] {
            let (pack, id) = pack(count);
            assert_eq!(parse_tail(&pack, id).unwrap(), entries(count));
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_of_the_tail_is_noticed() {
        let (pack, id) = pack(3);
        let tail = pack.len() - FOOTER_BYTES - 3 * ENTRY_BYTES;
        for at in (tail..pack.len()).filter(|at| !(pack.len() - 12..pack.len() - 8).contains(at)) {
            let mut broken = pack.clone();
            broken[at] ^= 0x10;
            assert!(parse_tail(&broken, id).is_err(), "byte {at}");
        }
        for len in 0..pack.len() {
            assert!(parse_tail(&pack[..len], id).is_err(), "length {len}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(mut bytes in proptest::collection::vec(any::<u8>(), 0..400), offset in 0u64..400, chunks in 0u32..8) {
            bytes.extend_from_slice(&offset.to_le_bytes());
            bytes.extend_from_slice(&chunks.to_le_bytes());
            bytes.extend_from_slice(&[0; 4]);
            bytes.extend_from_slice(INDEX_MAGIC);
            let index = bytes.get(offset as usize..bytes.len() - FOOTER_BYTES).unwrap_or_default();
            let id = PackId(*blake3::hash(index).as_bytes());
            let _ = parse_tail(&bytes, id);
        }
    }
}
