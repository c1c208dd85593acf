//! LZX as WIM files use it: [MS-PATCH] describes the family, wimlib's documentation the differences.
//!
//! A chunk stands for itself: the window is the chunk, the recent offsets begin as 1, 1, 1 and the codeword lengths as 0.
//! There is no E8 header bit: the translation of x86 calls is always on, for a file of 12,000,000 bytes. The length of
//! a block is one bit for 32,768, else 16 bits, and 24 where chunks are longer than 32 KiB.

use super::bits::BitReader;
use super::copy::copy_match;
use super::huffman::Decoder;
use super::{Damaged, damaged_unless};

pub(super) const WINDOW_BYTES_MIN: usize = 1 << 15;
pub(super) const WINDOW_BYTES_MAX: usize = 1 << 21;
pub(super) const LITERALS: usize = 256;
/// Values of the length header in a main symbol; the last one says that a length symbol follows.
pub(super) const LENGTH_HEADERS: usize = 8;
pub(super) const MATCH_MIN: usize = 2;
pub(super) const MAIN_SYMBOLS_MAX: usize = LITERALS + SLOTS_MAX * LENGTH_HEADERS;
pub(super) const LENGTH_SYMBOLS: usize = 249;
pub(super) const ALIGNED_SYMBOLS: usize = 8;
pub(super) const PRECODE_SYMBOLS: usize = 20;
/// Offsets are counted from 3: the slots 0 to 2 repeat a recent one.
pub(super) const OFFSET_BIAS: u32 = 2;
pub(super) const BLOCK_BYTES_DEFAULT: usize = 32768;
pub(super) const VERBATIM: u32 = 1;
pub(super) const ALIGNED: u32 = 2;
const UNCOMPRESSED: u32 = 3;
/// The file size that WIM's call translation pretends.
const TRANSLATION_SIZE: i32 = 12_000_000;
pub(super) const SLOTS_MAX: usize = 50;

/// First biased offset of each offset slot, and one beyond ([MS-PATCH] 2.6.1).
pub(super) const SLOT_BASES: [u32; SLOTS_MAX + 1] = slot_bases();

const fn slot_bases() -> [u32; SLOTS_MAX + 1] {
    let mut bases = [0; SLOTS_MAX + 1];
    let mut slot = 0;
    while slot < SLOTS_MAX {
        bases[slot + 1] = bases[slot] + (1 << slot_bits(slot));
        slot += 1;
    }
    bases
}

/// Bits that follow the symbol of an offset slot.
pub(super) const fn slot_bits(slot: usize) -> u32 {
    match slot {
        0..4 => 0,
        4..36 => slot as u32 / 2 - 1,
        _ => 17,
    }
}

/// The slot of an offset that has been adjusted: a recent one (0 to 2) or the offset plus 2.
#[inline(always)]
pub(super) fn slot_of(adjusted: u32) -> usize {
    match adjusted {
        0..4 => adjusted as usize,
        // Two slots for each power of two ...
        4..0x4_0000 => {
            let top = adjusted.ilog2();
            (2 * top + (adjusted >> (top - 1) & 1)) as usize
        }
        // ... and from 2^18 on one for each 2^17.
        _ => (34 + (adjusted >> 17)) as usize,
    }
}

/// Offset slots for a window: those that reach its length.
pub(super) fn slots(window_bytes: usize) -> usize {
    SLOT_BASES.iter().position(|base| *base as usize >= window_bytes).unwrap_or(SLOTS_MAX)
}

/// The window, a power of two, for chunks of `chunk_bytes`.
pub(super) fn window_bytes(chunk_bytes: usize) -> Result<usize, Damaged> {
    let window = chunk_bytes.next_power_of_two().max(WINDOW_BYTES_MIN);
    damaged_unless(window <= WINDOW_BYTES_MAX, "LZX chunks are longer than 2 MiB")?;
    Ok(window)
}

/// Decompresses chunk after chunk without allocating.
pub struct Decompressor {
    window_bytes: usize,
    main_symbols: usize,
    main: Decoder<MAIN_SYMBOLS_MAX, 2048>,
    length: Decoder<LENGTH_SYMBOLS, 1024>,
    aligned: Decoder<ALIGNED_SYMBOLS, 128>,
    precode: Decoder<PRECODE_SYMBOLS, 64>,
    main_lengths: [u8; MAIN_SYMBOLS_MAX],
    length_lengths: [u8; LENGTH_SYMBOLS],
}

impl Decompressor {
    pub fn new(chunk_bytes: usize) -> Result<Decompressor, Damaged> {
        let window_bytes = window_bytes(chunk_bytes)?;
        Ok(Decompressor {
            window_bytes,
            main_symbols: LITERALS + slots(window_bytes) * LENGTH_HEADERS,
            main: Decoder::new(),
            length: Decoder::new(),
            aligned: Decoder::new(),
            precode: Decoder::new(),
            main_lengths: [0; MAIN_SYMBOLS_MAX],
            length_lengths: [0; LENGTH_SYMBOLS],
        })
    }

    /// Fills `output`, whose length the container knows, from the compressed chunk `input`.
    pub fn decompress(&mut self, input: &[u8], output: &mut [u8]) -> Result<(), Damaged> {
        damaged_unless(output.len() <= self.window_bytes, "an LZX chunk is longer than its window")?;
        self.main_lengths.fill(0);
        self.length_lengths.fill(0);
        let mut bits = BitReader::new(input);
        let mut recent = [1u32; 3];
        let mut position = 0;
        while position < output.len() {
            bits.refill();
            let kind = bits.take(3);
            let end = self.block_end(&mut bits, position, output.len())?;
            match kind {
                VERBATIM | ALIGNED => {
                    self.read_codes(&mut bits, kind == ALIGNED)?;
                    let block = &mut output[..end];
                    match kind {
                        VERBATIM => self.decode_block::<false>(&mut bits, block, position, &mut recent)?,
                        _ => self.decode_block::<true>(&mut bits, block, position, &mut recent)?,
                    }
                }
                UNCOMPRESSED => read_uncompressed(&mut bits, &mut output[position..end], &mut recent)?,
                _ => return Err(Damaged("an LZX block of an unknown kind")),
            }
            damaged_unless(!bits.overran(), "an LZX chunk ends too early")?;
            position = end;
        }
        translate_back(output);
        Ok(())
    }

    fn block_end(&self, bits: &mut BitReader<'_>, position: usize, chunk_end: usize) -> Result<usize, Damaged> {
        let len = match bits.take(1) {
            1 => BLOCK_BYTES_DEFAULT,
            _ if self.window_bytes > WINDOW_BYTES_MIN => bits.take(24) as usize,
            _ => bits.take(16) as usize,
        };
        damaged_unless(len > 0 && len <= chunk_end - position, "an LZX block does not fit its chunk")?;
        Ok(position + len)
    }

    fn read_codes(&mut self, bits: &mut BitReader<'_>, with_aligned: bool) -> Result<(), Damaged> {
        if with_aligned {
            let mut lengths = [0; ALIGNED_SYMBOLS];
            lengths.iter_mut().for_each(|length| *length = bits.read(3) as u8);
            self.aligned.build(&lengths)?;
        }
        let (literals, matches) = self.main_lengths[..self.main_symbols].split_at_mut(LITERALS);
        read_lengths(&mut self.precode, bits, literals)?;
        read_lengths(&mut self.precode, bits, matches)?;
        read_lengths(&mut self.precode, bits, &mut self.length_lengths)?;
        self.main.build(&self.main_lengths[..self.main_symbols])?;
        self.length.build(&self.length_lengths)
    }

    fn decode_block<const WITH_ALIGNED: bool>(
        &self,
        bits: &mut BitReader<'_>,
        output: &mut [u8],
        mut position: usize,
        recent: &mut [u32; 3],
    ) -> Result<(), Damaged> {
        while position < output.len() {
            if bits.available() < 32 {
                bits.refill();
            }
            let symbol = self.main.decode(bits)?;
            if symbol < LITERALS {
                output[position] = symbol as u8;
                position += 1;
                continue;
            }
            let mut length = (symbol - LITERALS) % LENGTH_HEADERS + MATCH_MIN;
            let slot = (symbol - LITERALS) / LENGTH_HEADERS;
            if length == LENGTH_HEADERS - 1 + MATCH_MIN {
                length += self.length.decode(bits)?;
            }
            let offset = self.offset::<WITH_ALIGNED>(bits, slot, recent)?;
            copy_match(output, position, offset as usize, length)?;
            position += length;
        }
        Ok(())
    }

    #[inline(always)]
    fn offset<const WITH_ALIGNED: bool>(
        &self,
        bits: &mut BitReader<'_>,
        slot: usize,
        recent: &mut [u32; 3],
    ) -> Result<u32, Damaged> {
        if slot < 3 {
            recent.swap(0, slot);
            return Ok(recent[0]);
        }
        bits.refill();
        let count = slot_bits(slot);
        let extra = match count {
            3.. if WITH_ALIGNED => {
                let high = bits.take(count - 3) << 3;
                high + self.aligned.decode(bits)? as u32
            }
            _ => bits.take(count),
        };
        let offset = SLOT_BASES[slot] + extra - OFFSET_BIAS;
        *recent = [offset, recent[0], recent[1]];
        Ok(offset)
    }
}

/// Codeword lengths are written as differences to those of the block before, in a code of their own.
fn read_lengths(
    precode: &mut Decoder<PRECODE_SYMBOLS, 64>,
    bits: &mut BitReader<'_>,
    lengths: &mut [u8],
) -> Result<(), Damaged> {
    let mut precode_lengths = [0; PRECODE_SYMBOLS];
    precode_lengths.iter_mut().for_each(|length| *length = bits.read(4) as u8);
    precode.build(&precode_lengths)?;
    let mut at = 0;
    while at < lengths.len() {
        bits.refill();
        let symbol = precode.decode(bits)?;
        let (run, length) = match symbol {
            17 => (4 + bits.take(4) as usize, 0),
            18 => (20 + bits.take(5) as usize, 0),
            19 => {
                let run = 4 + bits.take(1) as usize;
                let difference = precode.decode(bits)?;
                damaged_unless(difference <= 16, "an LZX run of codeword lengths repeats a run")?;
                (run, (lengths[at] + 17 - difference as u8) % 17)
            }
            difference => (1, (lengths[at] + 17 - difference as u8) % 17),
        };
        // Some writers let the last run go beyond the end.
        let end = (at + run).min(lengths.len());
        lengths[at..end].fill(length);
        at = end;
    }
    Ok(())
}

/// [MS-PATCH] 2.7.3: the recent offsets, the bytes, and padding to an even length.
fn read_uncompressed(bits: &mut BitReader<'_>, output: &mut [u8], recent: &mut [u32; 3]) -> Result<(), Damaged> {
    const SHORT: Damaged = Damaged("an uncompressed LZX block ends too early");
    bits.align_to_unit();
    for offset in recent.iter_mut() {
        let bytes = bits.bytes(4).ok_or(SHORT)?;
        *offset = u32::from_le_bytes(bytes.try_into().map_err(|_| SHORT)?);
    }
    output.copy_from_slice(bits.bytes(output.len()).ok_or(SHORT)?);
    if output.len() % 2 == 1 {
        // The last block of a chunk may leave the padding out.
        let _ = bits.bytes(1);
    }
    Ok(())
}

/// Turns the absolute targets of x86 calls back into relative ones. The last ten bytes begin no translation.
fn translate_back(data: &mut [u8]) {
    for_each_call(data, |target, position| {
        if (0..TRANSLATION_SIZE).contains(&target) {
            target - position
        } else if target < 0 && target >= -position {
            target + TRANSLATION_SIZE
        } else {
            target
        }
    });
}

/// The reverse, before compression.
pub(super) fn translate(data: &mut [u8]) {
    for_each_call(data, |target, position| {
        if target < -position || target >= TRANSLATION_SIZE {
            target
        } else if target < TRANSLATION_SIZE - position {
            target + position
        } else {
            target - TRANSLATION_SIZE
        }
    });
}

fn for_each_call(data: &mut [u8], replace: impl Fn(i32, i32) -> i32) {
    let Some(end) = data.len().checked_sub(10) else { return };
    let mut position = 0;
    while let Some(found) = data.get(position..end).and_then(next_call) {
        position += found;
        if let Some(target) = data.get_mut(position + 1..position + 5).and_then(|bytes| bytes.as_mut_array::<4>()) {
            *target = replace(i32::from_le_bytes(*target), position as i32).to_le_bytes();
        }
        position += 5;
    }
}

/// Where the next x86 call is. Blocks without one are told by comparing all their bytes at once.
fn next_call(data: &[u8]) -> Option<usize> {
    const CALL: u8 = 0xe8;
    let (blocks, _) = data.as_chunks::<32>();
    let has_call = |block: &[u8; 32]| block.iter().fold(false, |found, byte| found | (*byte == CALL));
    let skipped = blocks.iter().position(has_call).unwrap_or(blocks.len()) * 32;
    data[skipped..].iter().position(|byte| *byte == CALL).map(|found| skipped + found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn slots_are_those_of_the_windows() {
        for (window, expected) in [(15, 30), (16, 32), (17, 34), (18, 36), (19, 38), (20, 42), (21, 50)] {
            assert_eq!(slots(1 << window), expected, "window of 2^{window} bytes");
        }
    }

    #[test]
    fn a_slot_begins_at_its_base() {
        for slot in 0..SLOTS_MAX {
            assert_eq!(slot_of(SLOT_BASES[slot]), slot);
            assert_eq!(slot_of(SLOT_BASES[slot + 1] - 1), slot);
        }
    }

    proptest! {
        #[test]
        fn call_translation_is_undone(mut data in proptest::collection::vec(prop_oneof![Just(0xe8u8), Just(0), any::<u8>()], 0..400)) {
            let plain = data.clone();
            translate(&mut data);
            translate_back(&mut data);
            prop_assert_eq!(data, plain);
        }
    }
}
