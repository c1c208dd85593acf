//! Content-defined chunking: the same content is cut in the same places wherever on a disk it lies.
//!
//! FastCDC (Xia et al., USENIX ATC 2016): a gear hash rolls over the bytes and a cut is made where its chosen bits are
//! zero; more bits are chosen before the wished size and fewer after it, which draws the sizes together. The constants
//! are part of the store's promise: change one, and nothing is found again. `docs/formats/store.md` lists them.

/// No cut before this many bytes.
pub const CUT_BYTES_MIN: usize = 16 << 10;
/// The size that is wished for; the mean on real disks is 84 KB, because small pieces are never cut.
pub const CUT_BYTES_WISHED: usize = 64 << 10;
/// A cut at the latest here.
pub const CUT_BYTES_MAX: usize = 256 << 10;

/// 18 bits, spread over the hash's upper half: hard to meet, used below the wished size.
const MASK_BEFORE: u64 = spread(18);
/// 14 bits: easy to meet, used above it.
const MASK_AFTER: u64 = spread(14);

/// A hash of 64 bits, shifted by one with each byte, knows so many of them.
const REMEMBERED_BYTES: usize = 64;

/// One random word for each byte value, from SplitMix64 with the seed 0.
static GEAR: [u64; 256] = gear_table();

/// The length of the chunk that begins at the start of `bytes`: all of it, when no cut is found and it is at most
/// [`CUT_BYTES_MAX`]. The caller passes that many bytes, unless the content ends before.
pub fn cut(bytes: &[u8]) -> usize {
    let end = bytes.len().min(CUT_BYTES_MAX);
    if end <= CUT_BYTES_MIN {
        return end;
    }
    let wished = end.min(CUT_BYTES_WISHED);
    let mut hash = 0u64;
    if let Some(at) = roll(&bytes[CUT_BYTES_MIN..wished], &mut hash, MASK_BEFORE) {
        return CUT_BYTES_MIN + at;
    }
    match roll(&bytes[wished..end], &mut hash, MASK_AFTER) {
        Some(at) => wished + at,
        None => end,
    }
}

/// Whether [`cut`] may end a chunk after the first `len` of `bytes`, judged by the last bytes before it alone; whether there is
/// an earlier cut is not looked at. False for a chunk that only ended because the content did.
pub fn may_end(bytes: &[u8], len: usize) -> bool {
    if len <= CUT_BYTES_MIN || len > bytes.len().min(CUT_BYTES_MAX) {
        return false;
    }
    let mask = if len <= CUT_BYTES_WISHED { MASK_BEFORE } else { MASK_AFTER };
    let start = CUT_BYTES_MIN.max(len - REMEMBERED_BYTES);
    let hash = bytes[start..len].iter().fold(0, |hash, byte| step(hash, *byte));
    len == CUT_BYTES_MAX || hash & mask == 0
}

/// Rolls `hash` over `bytes` and returns the length after which the bits of `mask` are all zero.
fn roll(bytes: &[u8], hash: &mut u64, mask: u64) -> Option<usize> {
    let mut rolling = *hash;
    for (at, byte) in bytes.iter().enumerate() {
        rolling = step(rolling, *byte);
        if rolling & mask == 0 {
            return Some(at + 1);
        }
    }
    *hash = rolling;
    None
}

fn step(hash: u64, byte: u8) -> u64 {
    (hash << 1).wrapping_add(GEAR[usize::from(byte)])
}

/// `count` ones at every second bit from the top: high bits depend on the most bytes (64 - position of them).
const fn spread(count: u32) -> u64 {
    let mut mask = 0u64;
    let mut bit = 0;
    while bit < count {
        mask |= 1 << (63 - 2 * bit);
        bit += 1;
    }
    mask
}

const fn gear_table() -> [u64; 256] {
    let mut table = [0u64; 256];
    let mut state = 0u64;
    let mut at = 0;
    while at < 256 {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        table[at] = word ^ (word >> 31);
        at += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that never change: BLAKE3's output stream of the empty input.
    fn stream(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        bytes
    }

    fn cuts(mut bytes: &[u8]) -> Vec<usize> {
        let mut lengths = Vec::new();
        while !bytes.is_empty() {
            let length = cut(bytes);
            lengths.push(length);
            bytes = &bytes[length..];
        }
        lengths
    }

    #[test]
    fn the_constants_that_every_store_relies_on_have_not_moved() {
        assert_eq!(GEAR[0], 0xE220_A839_7B1D_CDAF);
        assert_eq!(GEAR[255], 0x5A58_32BB_47BC_F19E);
        assert_eq!(MASK_BEFORE, 0xAAAA_AAAA_A000_0000);
        assert_eq!(MASK_AFTER, 0xAAAA_AAA0_0000_0000);
        let pinned = [
            115_368, 107_902, 79_978, 65_818, 111_457, 65_945, 71_202, 67_929, 37_934, 68_906, 73_065, 112_914, 66_944,
            3_214,
        ];
        assert_eq!(cuts(&stream(1 << 20)), pinned);
        assert_eq!(cuts(&vec![0; 600_000]), [262_144, 262_144, 75_712]);
    }

    #[test]
    fn a_chunk_may_end_where_it_was_cut() {
        let bytes = stream(4 << 20);
        let mut at = 0;
        for length in cuts(&bytes) {
            let rest = &bytes[at..];
            assert_eq!(may_end(rest, length), at + length < bytes.len(), "{at}");
            assert!(!may_end(rest, length - 1) && !may_end(rest, rest.len() + 1), "{at}");
            at += length;
        }
        assert!(may_end(&vec![0; CUT_BYTES_MAX], CUT_BYTES_MAX) && !may_end(&bytes, CUT_BYTES_MIN));
    }

    #[test]
    fn an_insertion_moves_the_cuts_only_near_it() {
        let old = stream(8 << 20);
        let mut new = old.clone();
        new.splice(3_000_000..3_000_000, *b"inserted");
        let ends = |bytes: &[u8]| -> std::collections::BTreeSet<usize> {
            cuts(bytes)
                .iter()
                .scan(0, |at, length| {
                    *at += length;
                    Some(bytes.len() - *at)
                })
                .collect()
        };
        let near = old.len() - 3_000_000 - 3 * CUT_BYTES_MAX;
        let (before, after) = (ends(&old), ends(&new));
        let (before, after) = (before.range(..near), after.range(..near));
        assert!(before.eq(after), "cuts far after the insertion moved");
    }

    #[test]
    fn chunks_keep_to_their_limits() {
        let lengths = cuts(&stream(16 << 20));
        let (last, rest) = lengths.split_last().unwrap();
        assert!(rest.iter().all(|length| (CUT_BYTES_MIN..=CUT_BYTES_MAX).contains(length)));
        assert!(*last <= CUT_BYTES_MAX);
        let mean = (16 << 20) / lengths.len();
        assert!((50_000..110_000).contains(&mean), "mean {mean}");
    }
}
