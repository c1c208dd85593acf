//! XPRESS compression: the longest of the nearest matches, put off by one byte when the next is longer.

use super::huffman::LengthMaker;
use super::xpress::{LENGTHS_BYTES, MATCH_MIN, SYMBOLS};

const CODEWORD_BITS_MAX: usize = 15;
const HASH_BITS: u32 = 15;
/// Earlier places that are compared for one match, and the length that ends the search.
const SEARCH_DEPTH: usize = 24;
const LENGTH_ENOUGH: usize = 96;
const LENGTH_MAX: usize = 0xffff + MATCH_MIN;
/// Ends the data; Windows looks for it.
const END: usize = 256;
const NONE: u16 = u16::MAX;

/// Compresses chunk after chunk without allocating. Chunks are at most 32 KiB.
pub struct Compressor {
    heads: Vec<u16>,
    previous: Vec<u16>,
    /// Literals below 256; matches as `1 << 31 | (length - 3) << 15 | offset`.
    tokens: Vec<u32>,
    frequencies: [u32; SYMBOLS],
    lengths: [u8; SYMBOLS],
    codewords: [u16; SYMBOLS],
    maker: LengthMaker,
}

impl Default for Compressor {
    fn default() -> Self {
        Compressor {
            heads: vec![NONE; 1 << HASH_BITS],
            previous: vec![NONE; 1 << 15],
            tokens: Vec::with_capacity(1 << 15),
            frequencies: [0; SYMBOLS],
            lengths: [0; SYMBOLS],
            codewords: [0; SYMBOLS],
            maker: LengthMaker::new(SYMBOLS),
        }
    }
}

const IS_MATCH: u32 = 1 << 31;

impl Compressor {
    /// Appends the compressed chunk to `output`, or nothing and `false` when it would not be shorter.
    pub fn compress(&mut self, input: &[u8], output: &mut Vec<u8>) -> bool {
        let start = output.len();
        if input.len() <= LENGTHS_BYTES + 4 || input.len() > 1 << 15 {
            return false;
        }
        self.find_tokens(input);
        self.maker.lengths(&self.frequencies, CODEWORD_BITS_MAX, &mut self.lengths);
        self.assign_codewords();
        output.extend(self.lengths.chunks_exact(2).map(|pair| pair[0] | pair[1] << 4));
        self.write_tokens(output);
        let shorter = output.len() - start < input.len();
        if !shorter {
            output.truncate(start);
        }
        shorter
    }

    fn find_tokens(&mut self, input: &[u8]) {
        self.heads.fill(NONE);
        self.tokens.clear();
        self.frequencies.fill(0);
        let mut at = 0;
        let mut found = self.longest(input, 0, MATCH_MIN - 1);
        while at < input.len() {
            self.remember(input, at);
            let Some((length, offset)) = found else {
                self.literal(input[at]);
                at += 1;
                found = self.longest(input, at, MATCH_MIN - 1);
                continue;
            };
            let later = if length < LENGTH_ENOUGH { self.longest(input, at + 1, length) } else { None };
            if later.is_some() {
                self.literal(input[at]);
                at += 1;
                found = later;
                continue;
            }
            self.token(length, offset);
            (at + 1..at + length).for_each(|place| self.remember(input, place));
            at += length;
            found = self.longest(input, at, MATCH_MIN - 1);
        }
        self.frequencies[END] += 1;
    }

    fn literal(&mut self, byte: u8) {
        self.tokens.push(u32::from(byte));
        self.frequencies[usize::from(byte)] += 1;
    }

    fn token(&mut self, length: usize, offset: usize) {
        self.tokens.push(IS_MATCH | ((length - MATCH_MIN) as u32) << 15 | offset as u32);
        self.frequencies[symbol(length, offset)] += 1;
    }

    #[inline]
    fn remember(&mut self, input: &[u8], at: usize) {
        if let Some(hash) = hash(input, at) {
            self.previous[at] = std::mem::replace(&mut self.heads[hash], at as u16);
        }
    }

    /// The longest match at `at` that is longer than `shortest`, as (length, offset).
    #[inline]
    fn longest(&self, input: &[u8], at: usize, shortest: usize) -> Option<(usize, usize)> {
        let mut candidate = self.heads[hash(input, at)?];
        let limit = (input.len() - at).min(LENGTH_MAX);
        let mut best = (shortest, 0);
        for _ in 0..SEARCH_DEPTH {
            if candidate == NONE || best.0 >= limit {
                break;
            }
            let from = usize::from(candidate);
            if input[from + best.0] == input[at + best.0] {
                let length = common(&input[from..], &input[at..at + limit]);
                if length > best.0 {
                    best = (length, at - from);
                    if length >= LENGTH_ENOUGH {
                        break;
                    }
                }
            }
            candidate = self.previous[from];
        }
        // Three bytes from far away cost more than three literals.
        let pays = best.1 != 0 && (best.0 > MATCH_MIN || best.1 < 8192);
        pays.then_some(best)
    }

    fn assign_codewords(&mut self) {
        let mut codeword = 0;
        for length in 1..=CODEWORD_BITS_MAX as u8 {
            for symbol in 0..SYMBOLS {
                if self.lengths[symbol] == length {
                    self.codewords[symbol] = codeword;
                    codeword = codeword.wrapping_add(1);
                }
            }
            codeword <<= 1;
        }
    }

    fn write_tokens(&self, output: &mut Vec<u8>) {
        let mut bits = BitWriter::new(output);
        for token in &self.tokens {
            if token & IS_MATCH == 0 {
                let literal = *token as usize;
                bits.write(self.codewords[literal], self.lengths[literal]);
                continue;
            }
            let (more, offset) = ((token >> 15 & 0xffff) as usize, (token & 0x7fff) as usize);
            let symbol = symbol(more + MATCH_MIN, offset);
            bits.write(self.codewords[symbol], self.lengths[symbol]);
            match more {
                0..15 => {}
                15..270 => bits.byte((more - 15) as u8),
                _ => {
                    bits.byte(255);
                    bits.byte(more as u8);
                    bits.byte((more >> 8) as u8);
                }
            }
            let offset_bits = offset.ilog2();
            bits.write((offset & ((1 << offset_bits) - 1)) as u16, offset_bits as u8);
        }
        bits.write(self.codewords[END], self.lengths[END]);
        bits.finish();
    }
}

fn symbol(length: usize, offset: usize) -> usize {
    256 + ((offset.ilog2() as usize) << 4 | (length - MATCH_MIN).min(15))
}

#[inline]
fn hash(input: &[u8], at: usize) -> Option<usize> {
    let bytes = input.get(at..at + 3)?;
    let value = u32::from(bytes[0]) | u32::from(bytes[1]) << 8 | u32::from(bytes[2]) << 16;
    Some((value.wrapping_mul(0x9e37_79b1) >> (32 - HASH_BITS)) as usize)
}

/// How many leading bytes are the same.
#[inline]
fn common(a: &[u8], b: &[u8]) -> usize {
    let mut same = 0;
    for (a, b) in a.chunks_exact(8).zip(b.chunks_exact(8)) {
        let difference =
            u64::from_le_bytes(a.try_into().expect("8 bytes")) ^ u64::from_le_bytes(b.try_into().expect("8 bytes"));
        if difference != 0 {
            return same + (difference.trailing_zeros() / 8) as usize;
        }
        same += 8;
    }
    same + a[same.min(a.len())..].iter().zip(&b[same..]).take_while(|(a, b)| a == b).count()
}

/// Units go where a decoder that stays one unit ahead fetches them; whole bytes lie between.
struct BitWriter<'a> {
    output: &'a mut Vec<u8>,
    /// Places that are kept for the next two units.
    places: [usize; 2],
    buffer: u32,
    count: u32,
}

impl<'a> BitWriter<'a> {
    fn new(output: &'a mut Vec<u8>) -> BitWriter<'a> {
        let at = output.len();
        output.extend([0; 4]);
        BitWriter { output, places: [at, at + 2], buffer: 0, count: 0 }
    }

    #[inline]
    fn write(&mut self, value: u16, bits: u8) {
        self.buffer = self.buffer << bits | u32::from(value);
        self.count += u32::from(bits);
        if self.count > 16 {
            self.count -= 16;
            self.put((self.buffer >> self.count) as u16);
            self.places = [self.places[1], self.output.len()];
            self.output.extend([0; 2]);
        }
    }

    fn put(&mut self, unit: u16) {
        let at = self.places[0];
        self.output[at..at + 2].copy_from_slice(&unit.to_le_bytes());
    }

    fn byte(&mut self, byte: u8) {
        self.output.push(byte);
    }

    fn finish(mut self) {
        self.put((self.buffer << (16 - self.count)) as u16);
    }
}

#[cfg(test)]
mod tests {
    use super::super::xpress::Decompressor;
    use super::*;
    use proptest::prelude::*;

    fn check(plain: &[u8]) {
        let mut stored = Vec::new();
        if Compressor::default().compress(plain, &mut stored) {
            let mut output = vec![0; plain.len()];
            Decompressor::default().decompress(&stored, &mut output).unwrap();
            assert!(output == plain);
        } else {
            assert!(stored.is_empty());
        }
    }

    #[test]
    fn runs_and_texts_come_back_shorter() {
        for plain in [vec![7; 32768], b"some text ".repeat(3000), (0..32768u32).map(|i| ((i * i) >> 9) as u8).collect()]
        {
            let mut stored = Vec::new();
            assert!(Compressor::default().compress(&plain, &mut stored) && stored.len() < plain.len() * 9 / 10);
            check(&plain);
        }
    }

    proptest! {
        #[test]
        fn what_is_compressed_decompresses(pieces in proptest::collection::vec((any::<[u8; 3]>(), 1usize..600, 0u8..4), 1..60)) {
            let mut plain = Vec::new();
            for (seed, len, kind) in pieces {
                match kind {
                    0 => plain.extend(vec![seed[0]; len]),
                    1 => plain.extend((0..len).map(|i| seed[0].wrapping_mul(i as u8).wrapping_add(seed[1]))),
                    2 => plain.extend(seed.repeat(len / 3)),
                    _ => {
                        let from = plain.len() * usize::from(seed[0]) / 256;
                        let again: Vec<u8> = plain[from..].iter().copied().take(len).collect();
                        plain.extend(again);
                    }
                }
            }
            plain.truncate(32768);
            check(&plain);
        }
    }
}
