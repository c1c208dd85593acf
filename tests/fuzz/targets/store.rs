//! What the store keeps and what travels from it: manifests, packs, places of chunks, chunks.

use remint::imaging::chunk::{CHUNK_BYTES_MAX, ChunkId, Encoding, Sealed, Verified};
use remint::imaging::manifest::{Extent, Manifest, Signed};
use remint::imaging::store::format::{FOOTER_BYTES, PackId, parse_tail};
use remint::imaging::store::locations;
use remint::imaging::store::salvage::salvage;
use std::collections::HashMap;

pub(crate) fn any(input: &[u8]) {
    super::one_of(&[manifest, pack, places, chunk, damaged_pack], input);
}

/// A manifest as it was signed: behind the signature is what is fuzzed, since nobody gets past it.
fn manifest(input: &[u8]) {
    let _ = Signed::from_bytes(input.to_vec()).map(|signed| signed.version());
    let Ok(manifest) = Manifest::parse(input) else { return };
    let mut end = 0;
    for extent in &manifest.extents {
        assert!(extent.offset >= end && extent.end() <= manifest.header.size, "extents out of order");
        end = extent.end();
    }
    assert!(manifest.zeros.iter().all(|range| range.start < range.end && range.end <= manifest.header.size));
    assert!(manifest.needed_bytes() <= manifest.header.size);
    let again = Manifest::parse(&manifest.emit()).expect("what is emitted parses");
    assert_eq!(again, manifest);
}

/// A pack whose name is made to fit its index, as that of a pack from a hostile store would.
fn pack(input: &[u8]) {
    let tail = input.len().checked_sub(FOOTER_BYTES).map(|at| input.split_at(at));
    let offset = tail.and_then(|(_, footer)| footer.first_chunk()).map(|offset| u64::from_le_bytes(*offset));
    let index = offset.and_then(|offset| tail?.0.get(usize::try_from(offset).ok()?..)).unwrap_or_default();
    let Ok(entries) = parse_tail(input, PackId(ChunkId::of(index).0)) else { return };
    let mut verified = Verified::with_capacity(CHUNK_BYTES_MAX).expect("memory for a chunk");
    for entry in entries {
        let at = entry.offset as usize;
        let bytes = input.get(at..at + entry.stored_bytes as usize).expect("a chunk lies in its pack");
        verified.begin(0);
        let _ = verified.open(entry.sealed(bytes));
    }
}

/// A pack whose index is not believed: only what hashes to its name is found in it.
fn damaged_pack(input: &[u8]) {
    let some = [ChunkId::of(b"chunk"), ChunkId::of(&[0; 512])];
    let wanted = HashMap::from([(some[0], 5), (some[1], 512)]);
    let mut verified = Verified::with_capacity(CHUNK_BYTES_MAX).expect("memory for a chunk");
    for entry in salvage(input, &wanted) {
        let at = entry.offset as usize;
        let bytes = input.get(at..at + entry.stored_bytes as usize).expect("a chunk lies in its pack");
        verified.begin(0);
        verified.open(entry.sealed(bytes)).expect("what is found is what its name says");
    }
}

/// Number of chunks (1), then the answer of an appliance about them.
fn places(input: &[u8]) {
    let Some((count, answer)) = input.split_first() else { return };
    let extent = |n: u8| Extent { offset: u64::from(n) << 16, len: 1 << 16, chunk: ChunkId::of(&[n]) };
    let extents: Vec<Extent> = (0..*count % 32).map(extent).collect();
    let Ok(places) = locations::parse(answer, &extents) else { return };
    assert_eq!(places.len(), extents.len());
    assert!(places.iter().flatten().all(|place| place.entry.stored_bytes as usize <= CHUNK_BYTES_MAX));
}

/// Encoding (1), plain length (4), sealed bytes: only what hashes to its name comes out.
fn chunk(input: &[u8]) {
    let Some((head, bytes)) = input.split_first_chunk::<5>() else { return };
    let Some(encoding) = Encoding::from_byte(head[0] & 1) else { return };
    let plain_bytes = u32::from_le_bytes([head[1], head[2], head[3], head[4]]);
    let mut verified = Verified::with_capacity(CHUNK_BYTES_MAX).expect("memory for a chunk");
    verified.begin(0);
    let plain = match encoding {
        Encoding::Stored => Some(bytes.to_vec()),
        Encoding::Zstd => None,
    };
    let id = ChunkId::of(plain.as_deref().unwrap_or_default());
    match verified.open(Sealed { id, plain_bytes, encoding, bytes }) {
        Ok(()) => assert_eq!(ChunkId::of(verified.as_bytes()), id),
        Err(_) => assert!(verified.as_bytes().is_empty()),
    }
}
