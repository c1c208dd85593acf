//! What was read becomes chunks with names. A disk that is like one the store has is followed rather than cut: where a known
//! chunk ended, the one that lies behind it in the pack is looked at first, and its hash says whether it is that one.

use std::ops::Range;

use crate::imaging::chunk::ChunkId;
use crate::imaging::chunker::{CUT_BYTES_MAX, cut, may_end};
use crate::imaging::store::local::LocalStore;
use crate::stdx::buffer::is_zero;

/// A run of plain bytes that becomes a chunk, or zeros.
pub(super) struct Piece {
    pub(super) range: Range<usize>,
    pub(super) zero: bool,
}

/// The same with the chunk's name; `None` are zeros.
pub(super) struct NamedPiece {
    pub(super) range: Range<usize>,
    pub(super) chunk: Option<ChunkId>,
}

/// Cuts `bytes` into pieces as far as the cuts are certain, and returns where they end.
pub(super) fn cut_batch(bytes: &[u8], is_last: bool) -> (Vec<Piece>, usize) {
    let mut pieces = Vec::new();
    let end = each_window(bytes, is_last, |at, window| {
        let (len, zero) = cut_one(window);
        pieces.push(Piece { range: at..at + len, zero });
        len
    });
    (pieces, end)
}

/// Cuts and names what is read piece after piece.
#[derive(Default)]
pub(super) struct Cutter<'a> {
    store: Option<&'a LocalStore>,
    /// The chunk that lies behind the last one in the store, and its plain bytes.
    next: Option<(ChunkId, usize)>,
}

impl<'a> Cutter<'a> {
    /// One that follows what `store` holds. The cuts are those that it would make without.
    pub(super) fn following(store: &'a LocalStore) -> Cutter<'a> {
        Cutter { store: Some(store), next: None }
    }

    /// Cuts `bytes` into pieces as far as the cuts are certain, and returns where they end.
    pub(super) fn cut(&mut self, bytes: &[u8], is_last: bool) -> (Vec<NamedPiece>, usize) {
        let mut pieces = Vec::new();
        let end = each_window(bytes, is_last, |at, window| {
            let (len, chunk) = self.next_piece(window);
            pieces.push(NamedPiece { range: at..at + len, chunk });
            len
        });
        (pieces, end)
    }

    fn next_piece(&mut self, window: &[u8]) -> (usize, Option<ChunkId>) {
        if let Some((id, len)) = self.next
            && may_end(window, len)
            && ChunkId::of(&window[..len]) == id
        {
            self.next = self.behind(&id);
            return (len, Some(id));
        }
        let (len, zero) = cut_one(window);
        if zero {
            return (len, None);
        }
        let id = ChunkId::of(&window[..len]);
        self.next = self.behind(&id);
        (len, Some(id))
    }

    fn behind(&self, id: &ChunkId) -> Option<(ChunkId, usize)> {
        let entry = self.store?.behind(id)?;
        Some((entry.id, entry.plain_bytes as usize))
    }
}

/// Hands out what lies before each next cut, and [`CUT_BYTES_MAX`] at most, as long as a cut in it is certain; `take` says
/// how much of it was one piece.
fn each_window(bytes: &[u8], is_last: bool, mut take: impl FnMut(usize, &[u8]) -> usize) -> usize {
    let mut at = 0;
    while bytes.len() - at >= CUT_BYTES_MAX || (is_last && at < bytes.len()) {
        at += take(at, &bytes[at..bytes.len().min(at + CUT_BYTES_MAX)]);
    }
    at
}

/// The length of the first piece of `window`, and whether it is zeros.
fn cut_one(window: &[u8]) -> (usize, bool) {
    // The chunker finds no cut in zeros: looking first only spares rolling over them.
    let zero = is_zero(window);
    let len = if zero { window.len() } else { cut(window) };
    (len, zero || is_zero(&window[..len]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::imaging::chunk::Sealer;
    use proptest::prelude::*;

    fn noise(seed: u8, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
        bytes
    }

    /// The disk without anything to follow: pieces and their names.
    fn blind(bytes: &[u8]) -> Vec<(Range<usize>, Option<ChunkId>)> {
        let name = |piece: Piece| {
            let chunk = (!piece.zero).then(|| ChunkId::of(&bytes[piece.range.clone()]));
            (piece.range, chunk)
        };
        cut_batch(bytes, true).0.into_iter().map(name).collect()
    }

    fn store_with(folder: &std::path::Path, bytes: &[u8]) -> LocalStore {
        let store = LocalStore::create(folder).unwrap();
        let (mut upload, mut sealer) = (store.upload().unwrap(), Sealer::new().unwrap());
        for (range, chunk) in blind(bytes) {
            if let Some(id) = chunk {
                upload.put(sealer.seal(id, &bytes[range])).unwrap();
            }
        }
        upload.close_pack().unwrap();
        drop(upload);
        store
    }

    #[test]
    fn a_disk_that_is_known_is_followed_from_its_second_chunk_on() {
        let folder = tempfile::tempdir().unwrap();
        let disk = [noise(1, 3 << 20), vec![0; 1 << 20], noise(2, 2 << 20)].concat();
        let store = store_with(folder.path(), &disk);
        let mut cutter = Cutter::following(&store);
        let (mut at, mut followed, mut cut) = (0, 0, 0);
        while at < disk.len() {
            let window = &disk[at..disk.len().min(at + CUT_BYTES_MAX)];
            let expected = cutter.next;
            let (len, chunk) = cutter.next_piece(window);
            match chunk.is_some() && chunk == expected.map(|(id, _)| id) {
                true => followed += 1,
                false => cut += usize::from(chunk.is_some()),
            }
            at += len;
        }
        // The first chunk is cut; so are those around the zeros, whose ends are no cuts, and the one at the end of the disk.
        assert!(followed > 50 && cut <= 4, "{followed} followed, {cut} cut");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn following_changes_no_cut(
            edits in proptest::collection::vec((0usize..2_000_000, 0usize..70_000, 0usize..70_000, any::<bool>()), 0..6),
            batch in 300_000usize..1_500_000,
        ) {
            let folder = tempfile::tempdir().unwrap();
            let old = noise(3, 2 << 20);
            let mut new = old.clone();
            for (at, removed, added, zero) in edits {
                let at = at.min(new.len());
                let end = (at + removed).min(new.len());
                let added = if zero { vec![0; added * 8] } else { noise(4, added) };
                new.splice(at..end, added);
            }
            let store = store_with(folder.path(), &old);
            let mut cutter = Cutter::following(&store);
            let (mut found, mut at, mut end) = (Vec::new(), 0, 0);
            while at < new.len() {
                end = (end + batch).min(new.len());
                let (pieces, cut) = cutter.cut(&new[at..end], end == new.len());
                found.extend(pieces.into_iter().map(|piece| (at + piece.range.start..at + piece.range.end, piece.chunk)));
                at += cut;
            }
            prop_assert_eq!(found, blind(&new));
        }
    }
}
