//! LZX compression: matches are found once, then the cheapest way through them, by the costs of the codes that the last
//! way would get.

use std::ops::Range;

use super::Damaged;
use super::lzx::{self, ALIGNED, LITERALS, VERBATIM, WINDOW_BYTES_MIN};
use super::lzx_parse::{LENGTH_ENOUGH, LENGTH_MAX, Parser};
use super::lzx_split::{self, PIECE_BYTES};
use super::lzx_write::{BitWriter, Codes};
use super::matches::{Effort, Finder, PADDING_BYTES};

/// Shorter chunks do not pay for their codes.
const CHUNK_BYTES_MIN: usize = 64;
const EFFORT: Effort = Effort { depth: 16, enough: LENGTH_ENOUGH };

/// Compresses chunk after chunk without allocating.
pub struct Compressor {
    window_bytes: usize,
    main_symbols: usize,
    /// The chunk with its calls translated, and padding.
    data: Vec<u8>,
    finder: Finder,
    parser: Parser,
    codes: [Codes; 2],
    /// Where blocks end, in pieces.
    ends: Vec<usize>,
}

impl Compressor {
    /// For chunks of up to `chunk_bytes`; those of one resource must all be made with the same.
    pub fn new(chunk_bytes: usize) -> Result<Compressor, Damaged> {
        let window_bytes = lzx::window_bytes(chunk_bytes)?;
        Ok(Compressor {
            window_bytes,
            main_symbols: LITERALS + lzx::slots(window_bytes) * lzx::LENGTH_HEADERS,
            data: Vec::with_capacity(window_bytes + PADDING_BYTES),
            finder: Finder::new(window_bytes),
            parser: Parser::new(window_bytes),
            codes: Default::default(),
            ends: Vec::new(),
        })
    }

    /// Appends the compressed chunk to `output`, or nothing and `false` when it would not be shorter.
    pub fn compress(&mut self, input: &[u8], output: &mut Vec<u8>) -> bool {
        if input.len() < CHUNK_BYTES_MIN || input.len() > self.window_bytes {
            return false;
        }
        self.data.clear();
        self.data.extend(input);
        lzx::translate(&mut self.data);
        self.data.resize(input.len() + PADDING_BYTES, 0);
        let start = output.len();
        self.find_matches(input.len());
        self.codes[0].clear();
        let mut bits = BitWriter::new(output);
        let mut recent = [1; 3];
        self.parser.guess(&self.data, input.len(), PIECE_BYTES);
        let mut ends = std::mem::take(&mut self.ends);
        lzx_split::blocks(&self.parser.pieces, &mut ends);
        let mut first = 0;
        for end in &ends {
            recent = self.block(&mut bits, first..*end, input.len(), recent);
            first = *end;
        }
        self.ends = ends;
        bits.finish();
        let shorter = output.len() - start < input.len();
        if !shorter {
            output.truncate(start);
        }
        shorter
    }

    fn find_matches(&mut self, len: usize) {
        self.finder.restart();
        self.parser.matches.clear();
        let mut at = 0;
        while at < len {
            let length_max = (len - at).min(LENGTH_MAX);
            let matches = &mut self.parser.matches;
            let best =
                self.finder.search(&self.data, at, length_max, 2, EFFORT, |length, offset| matches.add(length, offset));
            matches.end_place();
            at += 1;
            if best >= EFFORT.enough {
                self.finder.skip(&self.data, at..at + best - 1);
                matches.end_places(best - 1);
                at += best - 1;
            }
        }
    }

    fn block(&mut self, bits: &mut BitWriter<'_>, pieces: Range<usize>, len: usize, recent: [u32; 3]) -> [u32; 3] {
        let data = &self.data;
        let (from, end) = (pieces.start * PIECE_BYTES, (pieces.end * PIECE_BYTES).min(len));
        self.parser.take_guess(pieces);
        let after = self.parser.parse(data, from, end, recent);
        let [before, codes] = &mut self.codes;
        codes.make(&self.parser.counts, self.main_symbols);
        let with_aligned = codes.aligned_pays(&self.parser.counts);
        bits.write(if with_aligned { ALIGNED } else { VERBATIM }, 3);
        bits.block_len(end - from, self.window_bytes > WINDOW_BYTES_MIN);
        codes.write(bits, before, self.main_symbols, with_aligned);
        codes.write_tokens(bits, &self.parser.tokens, &data[from..end], with_aligned);
        self.codes.swap(0, 1);
        after
    }
}

#[cfg(test)]
mod tests {
    use super::super::lzx::Decompressor;
    use super::*;
    use proptest::prelude::*;

    fn check(plain: &[u8], chunk_bytes: usize) {
        let mut stored = Vec::new();
        if Compressor::new(chunk_bytes).unwrap().compress(plain, &mut stored) {
            let mut output = vec![0; plain.len()];
            Decompressor::new(chunk_bytes).unwrap().decompress(&stored, &mut output).unwrap();
            assert!(output == plain);
        } else {
            assert!(stored.is_empty());
        }
    }

    #[test]
    fn runs_texts_and_calls_come_back_shorter() {
        let calls = || (0..40_000u32).flat_map(|i| [0xe8, i as u8, (i >> 8) as u8 & 3, 0, 0, 0x90, (i % 7) as u8]);
        for plain in [vec![7; 32768], b"some text ".repeat(3000), calls().take(32768).collect::<Vec<u8>>()] {
            let mut stored = Vec::new();
            let mut compressor = Compressor::new(32768).unwrap();
            assert!(compressor.compress(&plain, &mut stored) && stored.len() < plain.len() * 8 / 10);
            check(&plain, 32768);
        }
        check(&calls().collect::<Vec<u8>>(), 1 << 19);
        check(&b"far away ".repeat(40_000), 1 << 21);
    }

    #[test]
    fn noise_is_left_alone() {
        let mut seed = 1u64;
        let noise = std::iter::repeat_with(|| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 56) as u8
        });
        let mut stored = Vec::new();
        assert!(!Compressor::new(32768).unwrap().compress(&noise.take(32768).collect::<Vec<u8>>(), &mut stored));
        assert!(stored.is_empty());
    }

    proptest! {
        #[test]
        fn what_is_compressed_decompresses(pieces in proptest::collection::vec((any::<[u8; 3]>(), 1usize..900, 0u8..5), 1..60)) {
            let mut plain = Vec::new();
            for (seed, len, kind) in pieces {
                match kind {
                    0 => plain.extend(vec![seed[0]; len]),
                    1 => plain.extend((0..len).map(|i| seed[0].wrapping_mul(i as u8).wrapping_add(seed[1]))),
                    2 => plain.extend(seed.repeat(len / 3)),
                    3 => plain.extend([0xe8, seed[0], seed[1] & 1, 0, 0].repeat(len / 5)),
                    _ => {
                        let from = plain.len() * usize::from(seed[0]) / 256;
                        let again: Vec<u8> = plain[from..].iter().copied().take(len).collect();
                        plain.extend(again);
                    }
                }
            }
            check(&plain[..plain.len().min(32768)], 32768);
            check(&plain, 1 << 16);
        }
    }
}
