//! XPRESS compression: the longest of the nearest matches, put off by one byte when the next is longer.

use super::huffman::LengthMaker;
use super::matches::{Effort, Finder, PADDING_BYTES};
use super::xpress::{LENGTHS_BYTES, MATCH_MIN, SYMBOLS};

const CODEWORD_BITS_MAX: usize = 15;
/// What we write; offsets and lengths fit into fifteen bits.
const CHUNK_BYTES_MAX: usize = 1 << 15;
const LENGTH_ENOUGH: usize = 32;
const EFFORT: Effort = Effort { depth: 6, enough: LENGTH_ENOUGH };
/// Where a match is at hand already.
const EFFORT_LATER: Effort = Effort { depth: 2, enough: LENGTH_ENOUGH };
/// Ends the data; Windows looks for it.
const END: usize = 256;

/// Compresses chunk after chunk without allocating. Chunks are at most 32 KiB.
pub struct Compressor {
    /// The chunk and padding.
    data: Vec<u8>,
    finder: Finder,
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
            data: Vec::with_capacity(CHUNK_BYTES_MAX + PADDING_BYTES),
            finder: Finder::new(CHUNK_BYTES_MAX),
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
        if input.len() <= LENGTHS_BYTES + 4 || input.len() > CHUNK_BYTES_MAX {
            return false;
        }
        self.data.clear();
        self.data.extend(input);
        self.data.resize(input.len() + PADDING_BYTES, 0);
        self.find_tokens(input.len());
        self.maker.lengths(&self.frequencies, CODEWORD_BITS_MAX, &mut self.lengths);
        self.assign_codewords();
        output.extend(self.lengths.chunks_exact(2).map(|pair| pair[0] | pair[1] << 4));
        let tokens_at = output.len();
        // One less than the data: what is not shorter does not fit.
        output.resize(start + input.len() - 1, 0);
        let written = self.write_tokens(&mut output[tokens_at..]);
        output.truncate(written.map_or(start, |len| tokens_at + len));
        written.is_some()
    }

    /// `len` bytes of data and padding.
    fn find_tokens(&mut self, len: usize) {
        let data = std::mem::take(&mut self.data);
        self.finder.restart();
        self.tokens.clear();
        self.frequencies.fill(0);
        let mut at = 0;
        let mut best = self.longest(&data, 0, len, MATCH_MIN - 1, EFFORT);
        while at < len {
            let (length, offset) = best;
            at += 1;
            if length < MATCH_MIN {
                self.literal(data[at - 1]);
                best = self.longest(&data, at, len, MATCH_MIN - 1, EFFORT);
                continue;
            }
            let mut taken = at;
            if length < 12 && at < len {
                let later = self.longest(&data, at, len, length, EFFORT_LATER);
                if later.0 > length {
                    self.literal(data[at - 1]);
                    best = later;
                    continue;
                }
                taken += 1;
            }
            self.token(length, offset);
            at += length - 1;
            self.finder.skip(&data, taken..at);
            best = self.longest(&data, at, len, MATCH_MIN - 1, EFFORT);
        }
        self.frequencies[END] += 1;
        self.data = data;
    }

    /// The longest match at `at` that is longer than `shortest`, as (length, offset), or one of length 0.
    #[inline(always)]
    fn longest(&mut self, data: &[u8], at: usize, len: usize, shortest: usize, effort: Effort) -> (usize, usize) {
        if at >= len {
            return (0, 0);
        }
        let mut best = (0, 0);
        self.finder.search(data, at, len - at, shortest, effort, |length, offset| best = (length, offset));
        // Three bytes from far away cost more than three literals.
        if best.0 == MATCH_MIN && best.1 >= 8192 { (0, 0) } else { best }
    }

    fn literal(&mut self, byte: u8) {
        self.tokens.push(u32::from(byte));
        self.frequencies[usize::from(byte)] += 1;
    }

    fn token(&mut self, length: usize, offset: usize) {
        self.tokens.push(IS_MATCH | ((length - MATCH_MIN) as u32) << 15 | offset as u32);
        self.frequencies[symbol(length, offset)] += 1;
    }

    fn assign_codewords(&mut self) {
        let mut next = [0u16; CODEWORD_BITS_MAX + 2];
        let mut counts = [0u16; CODEWORD_BITS_MAX + 1];
        self.lengths.iter().for_each(|length| counts[usize::from(*length)] += 1);
        for length in 1..=CODEWORD_BITS_MAX {
            next[length + 1] = next[length].wrapping_add(counts[length]) << 1;
        }
        for (length, codeword) in self.lengths.iter().zip(&mut self.codewords) {
            *codeword = next[usize::from(*length)];
            next[usize::from(*length)] = codeword.wrapping_add(1);
        }
    }

    /// `None` when there is no room for the tokens.
    fn write_tokens(&self, output: &mut [u8]) -> Option<usize> {
        let mut bits = BitWriter::new(output)?;
        for token in &self.tokens {
            if token & IS_MATCH == 0 {
                let literal = (token & 0xff) as usize;
                bits.write(u32::from(self.codewords[literal]), u32::from(self.lengths[literal]))?;
                continue;
            }
            let (more, offset) = ((token >> 15 & 0xffff) as usize, token & 0x7fff);
            let symbol = symbol(more + MATCH_MIN, offset as usize) & (SYMBOLS - 1);
            let offset_bits = offset.ilog2();
            bits.write(u32::from(self.codewords[symbol]), u32::from(self.lengths[symbol]))?;
            match more {
                0..15 => {}
                15..270 => bits.byte((more - 15) as u8)?,
                _ => {
                    bits.byte(255)?;
                    bits.byte(more as u8)?;
                    bits.byte((more >> 8) as u8)?;
                }
            }
            bits.write(offset & ((1 << offset_bits) - 1), offset_bits)?;
        }
        bits.write(u32::from(self.codewords[END]), u32::from(self.lengths[END]))?;
        bits.finish()
    }
}

fn symbol(length: usize, offset: usize) -> usize {
    256 + ((offset.ilog2() as usize) << 4 | (length - MATCH_MIN).min(15))
}

/// Units go where a decoder that stays one unit ahead fetches them; whole bytes lie between.
struct BitWriter<'a> {
    output: &'a mut [u8],
    len: usize,
    /// Places that are kept for the next two units.
    places: [usize; 2],
    buffer: u32,
    count: u32,
}

impl<'a> BitWriter<'a> {
    fn new(output: &'a mut [u8]) -> Option<BitWriter<'a>> {
        (output.len() >= 4).then_some(BitWriter { output, len: 4, places: [0, 2], buffer: 0, count: 0 })
    }

    #[inline(always)]
    fn write(&mut self, value: u32, bits: u32) -> Option<()> {
        self.buffer = self.buffer << bits | value;
        self.count += bits;
        if self.count > 16 {
            self.count -= 16;
            self.put((self.buffer >> self.count) as u16)?;
            self.places = [self.places[1], self.len];
            self.len += 2;
        }
        Some(())
    }

    #[inline(always)]
    fn put(&mut self, unit: u16) -> Option<()> {
        *self.output.get_mut(self.places[0]..)?.first_chunk_mut()? = unit.to_le_bytes();
        Some(())
    }

    fn byte(&mut self, byte: u8) -> Option<()> {
        *self.output.get_mut(self.len)? = byte;
        self.len += 1;
        Some(())
    }

    /// The length of what was written.
    fn finish(mut self) -> Option<usize> {
        self.put((self.buffer << (16 - self.count)) as u16)?;
        // The second place holds nothing more, but decoders fetch it.
        *self.output.get_mut(self.places[1]..)?.first_chunk_mut()? = [0; 2];
        Some(self.len)
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
