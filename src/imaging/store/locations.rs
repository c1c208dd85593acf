//! Where the chunks of a manifest lie, as a document that travels.
//!
//! ```text
//! 0        "RMNTLOC1"
//! 8        number of packs P (4), number of places N (4)
//! 16       P pack ids of 32 bytes
//! 16+32P   N places of 16 bytes, one for each extent of the manifest in its order:
//!            0 4 pack, from 0; all ones when the chunk is nowhere    4 4 offset    8 4 bytes in the pack
//!           12 1 encoding   13 3 zero
//! ```
//! All numbers are little-endian.

use std::collections::HashMap;

use crate::imaging::chunk::{CHUNK_BYTES_MAX, Encoding};
use crate::imaging::manifest::{Extent, MANIFEST_BYTES_MAX};
use crate::imaging::store::Location;
use crate::imaging::store::format::{Entry, PACK_BYTES_MAX, PackId};

const MAGIC: &[u8; 8] = b"RMNTLOC1";
const HEADER_BYTES: usize = 16;
const PACK_BYTES: usize = 32;
const PLACE_BYTES: usize = 16;
const NOWHERE: u32 = u32::MAX;

/// A place takes less than half of what its extent takes in the manifest.
pub const LOCATIONS_BYTES_MAX: usize = MANIFEST_BYTES_MAX;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("it is no list of places")]
    Magic,
    #[error("it is cut short")]
    Short,
    #[error("it does not fit the manifest")]
    Count,
    #[error("a place lies outside every pack")]
    Place,
}

pub fn emit(places: &[Option<Location>]) -> Vec<u8> {
    let mut numbers: HashMap<PackId, u32> = HashMap::new();
    let mut packs = Vec::new();
    let mut body = Vec::with_capacity(places.len() * PLACE_BYTES);
    for place in places {
        let Some(Location { pack, entry }) = place else {
            body.extend_from_slice(&NOWHERE.to_le_bytes());
            body.extend_from_slice(&[0; PLACE_BYTES - 4]);
            continue;
        };
        let number = *numbers.entry(*pack).or_insert_with(|| {
            packs.push(*pack);
            packs.len() as u32 - 1
        });
        for word in [number, entry.offset, entry.stored_bytes, entry.encoding as u32] {
            body.extend_from_slice(&word.to_le_bytes());
        }
    }
    let mut bytes = Vec::with_capacity(HEADER_BYTES + packs.len() * PACK_BYTES + body.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&(packs.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&(places.len() as u32).to_le_bytes());
    packs.iter().for_each(|pack| bytes.extend_from_slice(&pack.0));
    bytes.extend_from_slice(&body);
    bytes
}

/// Reads the places of `extents`, whose names and lengths it takes from there.
pub fn parse(bytes: &[u8], extents: &[Extent]) -> Result<Vec<Option<Location>>, Fault> {
    let (header, rest) = bytes.split_at_checked(HEADER_BYTES).ok_or(Fault::Short)?;
    if &header[..8] != MAGIC {
        return Err(Fault::Magic);
    }
    let (packs, places) = (word(header, 8)? as usize, word(header, 12)? as usize);
    if places != extents.len() {
        return Err(Fault::Count);
    }
    let (packs, rest) = rest.split_at_checked(packs.saturating_mul(PACK_BYTES)).ok_or(Fault::Short)?;
    if rest.len() != places.saturating_mul(PLACE_BYTES) {
        return Err(Fault::Short);
    }
    let packs: Vec<PackId> =
        packs.chunks_exact(PACK_BYTES).filter_map(<[u8]>::first_chunk).map(|id| PackId(*id)).collect();
    rest.chunks_exact(PLACE_BYTES).zip(extents).map(|(place, extent)| parse_place(place, extent, &packs)).collect()
}

fn parse_place(place: &[u8], extent: &Extent, packs: &[PackId]) -> Result<Option<Location>, Fault> {
    let number = word(place, 0)?;
    if number == NOWHERE {
        return Ok(None);
    }
    let pack = *packs.get(number as usize).ok_or(Fault::Place)?;
    let encoding = Encoding::from_byte(place[12]).ok_or(Fault::Place)?;
    let (offset, stored_bytes) = (word(place, 4)?, word(place, 8)?);
    let lies_in_a_pack = u64::from(offset) + u64::from(stored_bytes) <= PACK_BYTES_MAX;
    if stored_bytes as usize > CHUNK_BYTES_MAX || !lies_in_a_pack {
        return Err(Fault::Place);
    }
    let entry = Entry { id: extent.chunk, offset, stored_bytes, plain_bytes: extent.len, encoding };
    Ok(Some(Location { pack, entry }))
}

fn word(bytes: &[u8], at: usize) -> Result<u32, Fault> {
    let bytes = bytes.get(at..at + 4).and_then(<[u8]>::first_chunk).ok_or(Fault::Short)?;
    Ok(u32::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::imaging::chunk::ChunkId;
    use proptest::prelude::*;

    fn sample() -> (Vec<Extent>, Vec<Option<Location>>) {
        let extent = |n: u32| Extent { offset: u64::from(n) * 100, len: 100, chunk: ChunkId::of(&[n as u8]) };
        let extents: Vec<Extent> = (0..9).map(extent).collect();
        let place = |(n, extent): (usize, &Extent)| {
            let entry = Entry {
                id: extent.chunk,
                offset: 8 + n as u32 * 50,
                stored_bytes: 50,
                plain_bytes: 100,
                encoding: Encoding::Zstd,
            };
            (n != 4).then_some(Location { pack: PackId([n as u8 % 2; 32]), entry })
        };
        let places = extents.iter().enumerate().map(place).collect();
        (extents, places)
    }

    #[test]
    fn places_that_are_emitted_parse_back() {
        let (extents, places) = sample();
        assert_eq!(parse(&emit(&places), &extents).unwrap(), places);
        assert_eq!(parse(&emit(&places), &extents[1..]), Err(Fault::Count));
        assert_eq!(parse(&emit(&[]), &[]).unwrap(), []);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(at in 0usize..300, byte in any::<u8>(), len in 0usize..300) {
            let (extents, places) = sample();
            let mut bytes = emit(&places);
            let at = at % bytes.len();
            bytes[at] = byte;
            bytes.truncate(len.max(at));
            let _ = parse(&bytes, &extents);
        }
    }
}
