//! What is still there of a pack whose index is damaged: chunks are told by what they are, not by what the index says.
//!
//! Chunks lie back to back, so one ends where the next begins. What is at such a place is decompressed if it is a zstd frame,
//! and hashed at every length that a wanted chunk has. What is left of the index says more places, counted from the pack's
//! beginning and from its end; where nothing is found, the search goes on at the next thing that looks like a frame.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::ops::Range;

use crate::access::signing::PublicKey;
use crate::imaging::chunk::{CHUNK_BYTES_MAX, ChunkId, Encoding, room_for};
use crate::imaging::error::Error;
use crate::imaging::manifest::Signed;
use crate::imaging::store::format::{ENTRY_BYTES, Entry, FOOTER_BYTES, MAGIC, PACK_BYTES_MAX};
use crate::imaging::store::local::LocalStore;

/// RFC 8878, 3.1.1.
const FRAME_MAGIC: [u8; 4] = 0xFD2F_B528_u32.to_le_bytes();

/// Chunks that versions need, removed ones that are kept for a while included, and the plain bytes of each. A manifest that
/// cannot be read is left out: scrub says so.
pub(super) fn wanted(store: &LocalStore, key: &PublicKey) -> Result<HashMap<ChunkId, u32>, Error> {
    let mut wanted = HashMap::new();
    for path in store.manifest_files()? {
        let bytes = fs::read(&path).map_err(Error::read(path.display()))?;
        let manifest = Signed::from_bytes(bytes).and_then(|signed| signed.verify(key));
        wanted.extend(manifest.iter().flat_map(|manifest| &manifest.extents).map(|extent| (extent.chunk, extent.len)));
    }
    Ok(wanted)
}

/// The chunks of `wanted`, and those that its index names, which lie in the bytes of a pack: each was hashed, and
/// a short one may be found more than once.
pub fn salvage(pack: &[u8], wanted: &HashMap<ChunkId, u32>) -> Vec<Entry> {
    if pack.len() as u64 > PACK_BYTES_MAX {
        return Vec::new();
    }
    let Ok(decompressor) = zstd::bulk::Decompressor::new() else { return Vec::new() };
    let hints = hints(pack);
    let mut wanted = wanted.clone();
    for hint in &hints {
        wanted.entry(hint.id).or_insert(hint.plain_bytes);
    }
    let mut lengths: Vec<usize> = wanted.values().map(|bytes| *bytes as usize).collect();
    lengths.retain(|len| (1..=CHUNK_BYTES_MAX).contains(len));
    lengths.sort_unstable();
    lengths.dedup();
    let search = Search { pack, wanted, lengths, decompressor, plain: Vec::new(), found: Vec::new() };
    search.run(hints)
}

/// What is left of the record of a chunk in the index, and where the chunk would begin.
struct Hint {
    at: usize,
    id: ChunkId,
    plain_bytes: u32,
}

/// Reads the index without believing it: its footer tells its beginning in two ways, its records tell where chunks begin,
/// counted from both ends.
fn hints(pack: &[u8]) -> Vec<Hint> {
    let Some(end) = pack.len().checked_sub(FOOTER_BYTES) else { return Vec::new() };
    let number = |range: Range<usize>| {
        let bytes = pack[end..][range].iter().rev();
        bytes.fold(0usize, |number, byte| number.wrapping_shl(8) | usize::from(*byte))
    };
    let mut starts = vec![number(0..8)];
    starts.extend(number(8..12).checked_mul(ENTRY_BYTES).and_then(|bytes| end.checked_sub(bytes)));
    starts.retain(|start| (MAGIC.len()..end).contains(start) && (end - start).is_multiple_of(ENTRY_BYTES));
    starts.dedup();
    starts.into_iter().flat_map(|start| hints_of(&pack[start..end], start)).collect()
}

fn hints_of(index: &[u8], start: usize) -> Vec<Hint> {
    let records: Vec<(Option<ChunkId>, u32, u32)> = index.chunks_exact(ENTRY_BYTES).map(record).collect();
    let mut hints = Vec::with_capacity(records.len() * 2);
    let mut hint = |at: usize, record: &(Option<ChunkId>, u32, u32)| {
        hints.extend(record.0.map(|id| Hint { at, id, plain_bytes: record.2 }));
    };
    let mut at = MAGIC.len();
    for record in &records {
        hint(at, record);
        at = at.saturating_add(record.1 as usize);
    }
    let mut at = start;
    for record in records.iter().rev() {
        let Some(begin) = at.checked_sub(record.1 as usize) else { break };
        hint(begin, record);
        at = begin;
    }
    hints
}

/// Identifier, bytes in the pack, plain bytes, as format.rs has them.
fn record(bytes: &[u8]) -> (Option<ChunkId>, u32, u32) {
    let number =
        |at: usize| bytes.get(at..at + 4).and_then(|bytes| bytes.first_chunk()).map_or(0, |b| u32::from_le_bytes(*b));
    (bytes.first_chunk().copied().map(ChunkId), number(32), number(36))
}

struct Search<'a> {
    pack: &'a [u8],
    wanted: HashMap<ChunkId, u32>,
    /// Plain lengths of what is wanted, each once, in order.
    lengths: Vec<usize>,
    decompressor: zstd::bulk::Decompressor<'static>,
    plain: Vec<u8>,
    found: Vec<Entry>,
}

/// Why a place is looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reason {
    /// A chunk begins here if what was read so far is right; of this length, if the index is.
    Boundary(Option<u32>),
    /// It looks like a frame, which may as well be inside of a chunk that is stored as it is.
    Frame,
}

impl Search<'_> {
    fn run(mut self, hints: Vec<Hint>) -> Vec<Entry> {
        let mut todo = BTreeMap::from([(MAGIC.len(), Reason::Boundary(None))]);
        todo.extend(hints.into_iter().map(|hint| (hint.at, Reason::Boundary(Some(hint.plain_bytes)))));
        // What is added lies behind what is taken, so this ends.
        while let Some((at, reason)) = todo.pop_first().filter(|(at, _)| *at < self.pack.len()) {
            let ends = self.look(at, reason);
            for end in &ends {
                todo.entry(*end).and_modify(promote).or_insert(Reason::Boundary(None));
            }
            if ends.is_empty()
                && let Some(next) = next_frame(self.pack, at + 1)
            {
                todo.entry(next).or_insert(Reason::Frame);
            }
        }
        self.found
    }

    /// Where what was found to begin at `at` ends.
    fn look(&mut self, at: usize, reason: Reason) -> Vec<usize> {
        let mut ends = Vec::new();
        if let Some((len, id)) = self.frame(at) {
            let is_wanted = self.wanted.contains_key(&id) && len <= self.plain.len();
            if is_wanted {
                self.keep(at, len, id, self.plain.len(), Encoding::Zstd);
            }
            if is_wanted || reason != Reason::Frame {
                ends.push(at + len);
            }
        }
        if let Reason::Boundary(likely) = reason {
            ends.extend(self.stored(at, likely));
        }
        ends
    }

    /// The bytes that the frame at `at` takes and the name of what is in it, which stays in `plain`.
    fn frame(&mut self, at: usize) -> Option<(usize, ChunkId)> {
        let rest = self.pack[at..].get(..room_for(CHUNK_BYTES_MAX)).unwrap_or(&self.pack[at..]);
        if !rest.starts_with(&FRAME_MAGIC) {
            return None;
        }
        let plain_bytes = usize::try_from(zstd::zstd_safe::get_frame_content_size(rest).ok()??).ok()?;
        if plain_bytes > CHUNK_BYTES_MAX {
            return None;
        }
        let len = zstd::zstd_safe::find_frame_compressed_size(rest).ok()?;
        self.plain.resize(plain_bytes, 0);
        let filled = self.decompressor.decompress_to_buffer(rest.get(..len)?, self.plain.as_mut_slice()).ok()?;
        (filled == plain_bytes).then(|| (len, ChunkId::of(&self.plain)))
    }

    /// Where wanted chunks that begin at `at` and are stored as they are end: hashed on and on, looked at after each length.
    fn stored(&mut self, at: usize, likely: Option<u32>) -> Vec<usize> {
        let rest = &self.pack[at..];
        if let Some(plain) =
            likely.and_then(|len| rest.get(..len as usize)).filter(|plain| plain.len() <= CHUNK_BYTES_MAX)
        {
            let id = ChunkId::of(plain);
            if self.wanted.contains_key(&id) {
                self.keep(at, plain.len(), id, plain.len(), Encoding::Stored);
                return vec![at + plain.len()];
            }
        }
        let (mut hasher, mut hashed, mut found) = (blake3::Hasher::new(), 0, Vec::new());
        for len in &self.lengths {
            let Some(more) = rest.get(hashed..*len) else { break };
            hasher.update(more);
            hashed = *len;
            let id = ChunkId(*hasher.finalize().as_bytes());
            found.extend(self.wanted.contains_key(&id).then_some((*len, id)));
        }
        found.iter().for_each(|(len, id)| self.keep(at, *len, *id, *len, Encoding::Stored));
        found.into_iter().map(|(len, _)| at + len).collect()
    }

    fn keep(&mut self, at: usize, stored_bytes: usize, id: ChunkId, plain_bytes: usize, encoding: Encoding) {
        let (offset, stored_bytes, plain_bytes) = (at as u32, stored_bytes as u32, plain_bytes as u32);
        self.found.push(Entry { id, offset, stored_bytes, plain_bytes, encoding });
    }
}

/// A place that looked like a frame turns out to follow a chunk.
fn promote(reason: &mut Reason) {
    if *reason == Reason::Frame {
        *reason = Reason::Boundary(None);
    }
}

fn next_frame(pack: &[u8], from: usize) -> Option<usize> {
    let rest = pack.get(from..)?;
    rest.windows(FRAME_MAGIC.len()).position(|bytes| bytes == FRAME_MAGIC).map(|at| from + at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::imaging::chunk::Sealer;
    use crate::imaging::store::format::{PackId, emit_tail};
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn noise(seed: u8, len: usize) -> Vec<u8> {
        let mut output = vec![0; len];
        blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut output);
        output
    }

    /// A pack of every kind of chunk: text, noise, a frame that is stored as it is, a frame before noise, and one of one byte.
    fn pack() -> (Vec<u8>, PackId, Vec<Entry>) {
        let text = |seed: u32| (0..900u32).flat_map(|n| (n ^ seed).to_le_bytes()).collect::<Vec<u8>>();
        let frame = zstd::bulk::compress(&noise(9, 700), 1).unwrap();
        let with_frame = [frame.clone(), noise(8, 300)].concat();
        let inside = [noise(7, 200), frame.clone(), noise(6, 200)].concat();
        let plains = [
            text(1),
            noise(1, 900),
            noise(2, 901),
            frame,
            text(2),
            with_frame,
            inside,
            noise(3, 1),
            text(3),
            noise(4, 512),
        ];
        let (mut bytes, mut entries, mut sealer) = (MAGIC.to_vec(), Vec::new(), Sealer::new().unwrap());
        for plain in &plains {
            let sealed = sealer.seal(ChunkId::of(plain), plain);
            entries.push(Entry {
                id: sealed.id,
                offset: bytes.len() as u32,
                stored_bytes: sealed.bytes.len() as u32,
                plain_bytes: sealed.plain_bytes,
                encoding: sealed.encoding,
            });
            bytes.extend_from_slice(sealed.bytes);
        }
        assert_eq!(entries.iter().filter(|entry| entry.encoding == Encoding::Stored).count(), 7);
        let (tail, id) = emit_tail(&entries);
        bytes.extend_from_slice(&tail);
        (bytes, id, entries)
    }

    /// Short chunks are found by chance elsewhere too.
    fn names(entries: &[Entry]) -> BTreeSet<ChunkId> {
        entries.iter().map(|entry| entry.id).collect()
    }

    fn all(entries: &[Entry]) -> HashMap<ChunkId, u32> {
        entries.iter().map(|entry| (entry.id, entry.plain_bytes)).collect()
    }

    #[test]
    fn no_flipped_bit_of_index_or_footer_loses_a_chunk() {
        let (bytes, _, entries) = pack();
        let body = (entries[9].offset + entries[9].stored_bytes) as usize;
        for at in body..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                assert_eq!(names(&salvage(&damaged, &all(&entries))), names(&entries), "bit {bit} of byte {at}");
            }
        }
    }

    #[test]
    fn a_pack_that_has_lost_its_index_gives_all_that_versions_need() {
        let (bytes, _, entries) = pack();
        let body = (entries[9].offset + entries[9].stored_bytes) as usize;
        assert_eq!(names(&salvage(&bytes[..body], &all(&entries))), names(&entries));
        let wiped = [&bytes[..body], &vec![0; bytes.len() - body]].concat();
        assert_eq!(names(&salvage(&wiped, &all(&entries))), names(&entries));
    }

    /// With an index that is nearly right, a chunk that no readable manifest names is kept as well, and damage stays with its
    /// chunk.
    #[test]
    fn damage_in_a_chunk_and_in_the_index_loses_that_chunk_only() {
        let (mut bytes, _, entries) = pack();
        let last = bytes.len() - FOOTER_BYTES - 1;
        bytes[last] ^= 1;
        for victim in &entries {
            let mut damaged = bytes.clone();
            damaged[victim.offset as usize + victim.stored_bytes as usize / 2] ^= 1;
            let mut rest = names(&entries);
            rest.remove(&victim.id);
            assert_eq!(names(&salvage(&damaged, &HashMap::new())), rest, "{victim:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_happens_to_a_pack_what_is_found_is_what_its_name_says(
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..40),
            cut in any::<prop::sample::Index>(),
        ) {
            let (mut bytes, _, entries) = pack();
            changes.iter().for_each(|(at, byte)| { let at = at.index(bytes.len()); bytes[at] = *byte; });
            bytes.truncate(cut.index(bytes.len()) + 1);
            let mut opened = crate::imaging::chunk::Verified::with_capacity(CHUNK_BYTES_MAX).unwrap();
            for entry in salvage(&bytes, &all(&entries)) {
                opened.begin(0);
                let from = entry.offset as usize;
                prop_assert!(opened.open(entry.sealed(&bytes[from..from + entry.stored_bytes as usize])).is_ok());
            }
        }
    }
}
