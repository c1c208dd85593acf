//! XPRESS with Huffman codes, as [MS-XCA] 2.2 describes it; in a WIM each chunk stands for itself.
//!
//! A chunk is 256 bytes of codeword lengths (512 symbols, four bits each, the even symbol low) and a bit stream.
//! Symbols below 256 are literals; others are `256 + (log2(offset) << 4 | length - 3)`, where 15 says that the length goes
//! on in one or three whole bytes that lie between the 16-bit units.

use super::bits::BitReader;
use super::copy::copy_match;
use super::huffman::Decoder;
use super::{Damaged, damaged_unless};

pub(super) const SYMBOLS: usize = 512;
pub(super) const LENGTHS_BYTES: usize = 256;
pub(super) const MATCH_MIN: usize = 3;
/// WIM writers stop at 64 KiB, which is as far as an offset reaches.
pub(super) const CHUNK_BYTES_MAX: usize = 65536;

/// Decompresses chunk after chunk without allocating.
pub struct Decompressor {
    code: Decoder<SYMBOLS, 2048>,
}

impl Default for Decompressor {
    fn default() -> Self {
        Decompressor { code: Decoder::new() }
    }
}

impl Decompressor {
    /// Fills `output`, whose length the container knows, from the compressed chunk `input`.
    pub fn decompress(&mut self, input: &[u8], output: &mut [u8]) -> Result<(), Damaged> {
        damaged_unless(input.len() >= LENGTHS_BYTES, "an XPRESS chunk is shorter than its codeword lengths")?;
        let (packed, stream) = input.split_at(LENGTHS_BYTES);
        let mut lengths = [0; SYMBOLS];
        for (pair, packed) in lengths.chunks_exact_mut(2).zip(packed) {
            pair[0] = packed & 15;
            pair[1] = packed >> 4;
        }
        self.code.build(&lengths)?;
        let mut bits = BitReader::new(stream);
        self.decode_symbols(&mut bits, output)?;
        damaged_unless(!bits.overran(), "an XPRESS chunk ends too early")
    }

    fn decode_symbols(&self, bits: &mut BitReader<'_>, output: &mut [u8]) -> Result<(), Damaged> {
        let mut position = 0;
        while position < output.len() {
            if bits.available() < 32 {
                bits.refill();
            }
            let symbol = self.code.decode(bits)?;
            if symbol < 256 {
                output[position] = symbol as u8;
                position += 1;
                continue;
            }
            let offset_bits = (symbol >> 4 & 15) as u32;
            let (offset, length) = match symbol & 15 {
                15 => {
                    bits.one_unit_ahead();
                    let offset = bits.take(offset_bits);
                    (offset, long_length(bits))
                }
                short => (bits.read(offset_bits), short),
            };
            let length = length + MATCH_MIN;
            copy_match(output, position, 1 << offset_bits | offset as usize, length)?;
            position += length;
        }
        Ok(())
    }
}

/// A length (less 3) of 15 and more: a byte, or 255 and sixteen bits.
#[inline]
fn long_length(bits: &mut BitReader<'_>) -> usize {
    match bits.interleaved_byte() {
        255 => usize::from(bits.interleaved_u16()),
        more => 15 + usize::from(more),
    }
}
