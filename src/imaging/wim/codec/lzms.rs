//! LZMS, the format of solid WIM and ESD files. There is no public specification; what is here was learnt from wimlib's
//! description of the format and from files.
//!
//! A chunk is a run of 16-bit little-endian units read from both ends: a range coder reads forward and says what comes
//! next (literal, match, delta match, repeat), Huffman codes and extra bits are read backward from the end. All codes
//! adapt: a bit's probability is the share of zeros among the last 64 decisions in the same state, and Huffman codes are
//! made anew from the decoded frequencies after every 512 or 1,024 symbols.

use super::copy::copy_match;
use super::huffman::{Decoder, LengthMaker};
use super::lzms_x86;
use super::{Damaged, damaged_unless};

pub(super) const CHUNK_BYTES_MAX: usize = 1 << 26;
const OFFSET_SLOTS_MAX: usize = 799;
const LENGTH_SLOTS: usize = 54;
const POWER_SYMBOLS: usize = 8;
const CODEWORD_BITS_MAX: usize = 15;

/// How many consecutive slots have `index` extra bits; each is as wide as the step to the next.
const OFFSET_RUNS: [u8; 21] = [9, 0, 9, 7, 10, 15, 15, 20, 20, 30, 33, 40, 42, 45, 60, 73, 80, 85, 95, 105, 6];
const LENGTH_RUNS: [u8; 17] = [27, 4, 6, 4, 5, 2, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 1];
/// Extra bits of the last slot of either table, which is open-ended.
const LAST_SLOT_BITS: u8 = 30;

static OFFSET_TABLE: [Slot; OFFSET_SLOTS_MAX] = slot_table(&OFFSET_RUNS);
static LENGTH_TABLE: [Slot; LENGTH_SLOTS] = slot_table(&LENGTH_RUNS);

/// A range of values that share a symbol: `base` and `bits` more.
#[derive(Clone, Copy)]
struct Slot {
    base: u32,
    bits: u8,
}

const fn slot_table<const SLOTS: usize>(runs: &[u8]) -> [Slot; SLOTS] {
    let mut table = [Slot { base: 0, bits: LAST_SLOT_BITS }; SLOTS];
    let (mut base, mut slot, mut run) = (0, 0, 0);
    while run < runs.len() {
        let mut left = runs[run];
        while left > 0 {
            base += 1 << run;
            table[slot].base = base;
            if slot > 0 {
                table[slot - 1].bits = run as u8;
            }
            slot += 1;
            left -= 1;
        }
        run += 1;
    }
    table
}

/// Slots that a chunk of `len` bytes uses for offsets.
fn offset_slots(len: usize) -> usize {
    OFFSET_TABLE.iter().take_while(|slot| (slot.base as usize) < len).count()
}

/// Decompresses chunk after chunk without allocating.
pub struct Decompressor {
    literal: Adaptive<256, 1024>,
    length: Adaptive<LENGTH_SLOTS, 512>,
    lz_offset: Adaptive<OFFSET_SLOTS_MAX, 1024>,
    delta_offset: Adaptive<OFFSET_SLOTS_MAX, 1024>,
    delta_power: Adaptive<POWER_SYMBOLS, 512>,
    maker: LengthMaker,
    last_uses: Vec<i32>,
}

impl Default for Decompressor {
    fn default() -> Self {
        Decompressor {
            literal: Adaptive::new(),
            length: Adaptive::new(),
            lz_offset: Adaptive::new(),
            delta_offset: Adaptive::new(),
            delta_power: Adaptive::new(),
            maker: LengthMaker::new(OFFSET_SLOTS_MAX),
            last_uses: vec![0; 1 << 16],
        }
    }
}

impl Decompressor {
    /// Fills `output`, whose length the container knows, from the compressed chunk `input`.
    pub fn decompress(&mut self, input: &[u8], output: &mut [u8]) -> Result<(), Damaged> {
        damaged_unless(input.len() >= 4 && input.len().is_multiple_of(2), "an LZMS chunk of an odd or tiny length")?;
        self.restart(output.len());
        let mut ranges = RangeDecoder::new(input);
        let mut bits = BackwardBits::new(input);
        self.decode_items(&mut ranges, &mut bits, output)?;
        lzms_x86::undo(output, &mut self.last_uses);
        Ok(())
    }

    fn restart(&mut self, len: usize) {
        let slots = offset_slots(len);
        self.literal.restart(256, &mut self.maker);
        self.length.restart(LENGTH_SLOTS, &mut self.maker);
        self.lz_offset.restart(slots, &mut self.maker);
        self.delta_offset.restart(slots, &mut self.maker);
        self.delta_power.restart(POWER_SYMBOLS, &mut self.maker);
    }

    fn decode_items(
        &mut self,
        ranges: &mut RangeDecoder<'_>,
        bits: &mut BackwardBits<'_>,
        output: &mut [u8],
    ) -> Result<(), Damaged> {
        let mut is_match = BitModel::<16>::new();
        let mut is_delta = BitModel::<32>::new();
        let mut lz = Source::new([1, 2, 3, 4]);
        let mut delta = Source::new([1, 2, 3, 4]);
        let mut position = 0;
        while position < output.len() {
            if !is_match.decode(ranges) {
                output[position] = self.literal.decode(bits, &mut self.maker)? as u8;
                position += 1;
                lz.just_used = false;
                delta.just_used = false;
                continue;
            }
            let length = if !is_delta.decode(ranges) {
                let maker = &mut self.maker;
                let offset = lz.next(ranges, || slot_value(&OFFSET_TABLE, &mut self.lz_offset, bits, maker))?;
                delta.just_used = false;
                let length = slot_value(&LENGTH_TABLE, &mut self.length, bits, &mut self.maker)?;
                copy_match(output, position, offset as usize, length as usize)?;
                length
            } else {
                let maker = &mut self.maker;
                let pair = delta.next(ranges, || {
                    let power = self.delta_power.decode(bits, maker)? as u64;
                    Ok(power << 32 | slot_value(&OFFSET_TABLE, &mut self.delta_offset, bits, maker)?)
                })?;
                lz.just_used = false;
                let length = slot_value(&LENGTH_TABLE, &mut self.length, bits, &mut self.maker)?;
                copy_delta(output, position, (pair >> 32) as u32, pair & 0xffff_ffff, length as usize)?;
                length
            };
            position += length as usize;
        }
        Ok(())
    }
}

/// A value: its slot's symbol, then the extra bits.
#[inline(always)]
fn slot_value<const SYMBOLS: usize, const REBUILD: u32>(
    table: &[Slot],
    code: &mut Adaptive<SYMBOLS, REBUILD>,
    bits: &mut BackwardBits<'_>,
    maker: &mut LengthMaker,
) -> Result<u64, Damaged> {
    let slot = table[code.decode(bits, maker)?];
    bits.refill();
    Ok(u64::from(slot.base + bits.take(u32::from(slot.bits))))
}

/// Each byte is predicted from three: `out[i] = out[i - offset] + out[i - span] - out[i - offset - span]`, where the span is
/// 2^power and offsets count spans.
fn copy_delta(output: &mut [u8], position: usize, power: u32, raw: u64, length: usize) -> Result<(), Damaged> {
    let span = 1usize << power;
    let offset = (raw << power) as usize;
    damaged_unless(offset + span <= position, "a delta match that begins before the data")?;
    damaged_unless(length <= output.len() - position, "a delta match that ends after the data")?;
    for at in position..position + length {
        let predicted = output[at - offset].wrapping_add(output[at - span]);
        output[at] = predicted.wrapping_sub(output[at - offset - span]);
    }
    Ok(())
}

/// Where matches of one kind come from: an explicit source, or one of the last three. The latest one is not among
/// them right after its own match, as the two would have been one.
struct Source {
    recent: [u64; 4],
    just_used: bool,
    is_repeat: BitModel<64>,
    repeats_later: [BitModel<64>; 2],
}

impl Source {
    fn new(recent: [u64; 4]) -> Source {
        Source {
            recent,
            just_used: false,
            is_repeat: BitModel::new(),
            repeats_later: [BitModel::new(), BitModel::new()],
        }
    }

    #[inline(always)]
    fn next(
        &mut self,
        ranges: &mut RangeDecoder<'_>,
        explicit: impl FnOnce() -> Result<u64, Damaged>,
    ) -> Result<u64, Damaged> {
        let place = if !self.is_repeat.decode(ranges) {
            self.recent[3] = explicit()?;
            3
        } else {
            let mut place = usize::from(self.just_used);
            for model in &mut self.repeats_later {
                if !model.decode(ranges) {
                    break;
                }
                place += 1;
            }
            place
        };
        self.recent[..=place].rotate_right(1);
        self.just_used = true;
        Ok(self.recent[0])
    }
}

/// The forward half: a binary range decoder with 32 bits of state.
struct RangeDecoder<'a> {
    range: u32,
    code: u32,
    units: std::slice::ChunksExact<'a, u8>,
}

impl<'a> RangeDecoder<'a> {
    fn new(input: &'a [u8]) -> RangeDecoder<'a> {
        let mut decoder = RangeDecoder { range: u32::MAX, code: 0, units: input.chunks_exact(2) };
        decoder.code = decoder.unit() << 16;
        decoder.code |= decoder.unit();
        decoder
    }

    #[inline(always)]
    fn unit(&mut self) -> u32 {
        self.units.next().map_or(0, |unit| u32::from(u16::from_le_bytes([unit[0], unit[1]])))
    }

    /// One bit; `zeros` of 64 is the probability of 0.
    #[inline(always)]
    fn bit(&mut self, zeros: u32) -> bool {
        if self.range <= 0xffff {
            self.range <<= 16;
            self.code = self.code << 16 | self.unit();
        }
        let bound = (self.range >> 6) * zeros;
        if self.code < bound {
            self.range = bound;
            false
        } else {
            self.range -= bound;
            self.code -= bound;
            true
        }
    }
}

/// Decisions of one sort, told apart by what the last few of them were.
struct BitModel<const STATES: usize> {
    state: usize,
    recent: [u64; STATES],
}

impl<const STATES: usize> BitModel<STATES> {
    fn new() -> Self {
        // 48 of the last 64 were zeros.
        BitModel { state: 0, recent: [0x5555_5555; STATES] }
    }

    #[inline(always)]
    fn decode(&mut self, ranges: &mut RangeDecoder<'_>) -> bool {
        let recent = &mut self.recent[self.state % STATES];
        let bit = ranges.bit(recent.count_zeros().clamp(1, 63));
        *recent = *recent << 1 | u64::from(bit);
        self.state = (self.state << 1 | usize::from(bit)) % STATES;
        bit
    }
}

/// The backward half: units from the end of the chunk, each from its most significant bit.
struct BackwardBits<'a> {
    units: std::slice::RChunksExact<'a, u8>,
    buffer: u64,
    count: u32,
}

impl<'a> BackwardBits<'a> {
    fn new(input: &'a [u8]) -> BackwardBits<'a> {
        BackwardBits { units: input.rchunks_exact(2), buffer: 0, count: 0 }
    }

    /// Afterwards at least 48 bits are at hand; zeros past the beginning.
    #[inline(always)]
    fn refill(&mut self) {
        while self.count < 48 {
            let unit = self.units.next().map_or(0, |unit| u64::from(u16::from_le_bytes([unit[0], unit[1]])));
            self.buffer |= unit << (48 - self.count);
            self.count += 16;
        }
    }

    /// `bits` bits, 0 to 32, that a refill has provided.
    #[inline(always)]
    fn take(&mut self, bits: u32) -> u32 {
        let value = (self.buffer >> 1 >> (63 - bits)) as u32;
        self.buffer <<= bits;
        self.count -= bits;
        value
    }
}

/// A Huffman code made anew from what it has decoded, after every `REBUILD` symbols.
struct Adaptive<const SYMBOLS: usize, const REBUILD: u32> {
    symbols: usize,
    until_rebuild: u32,
    frequencies: [u32; SYMBOLS],
    lengths: [u8; SYMBOLS],
    code: Decoder<SYMBOLS, 1024>,
}

impl<const SYMBOLS: usize, const REBUILD: u32> Adaptive<SYMBOLS, REBUILD> {
    fn new() -> Self {
        Adaptive {
            symbols: 0,
            until_rebuild: 0,
            frequencies: [0; SYMBOLS],
            lengths: [0; SYMBOLS],
            code: Decoder::new(),
        }
    }

    fn restart(&mut self, symbols: usize, maker: &mut LengthMaker) {
        self.symbols = symbols;
        self.frequencies[..symbols].fill(1);
        self.rebuild(maker);
    }

    fn rebuild(&mut self, maker: &mut LengthMaker) {
        let symbols = self.symbols;
        maker.lengths(&self.frequencies[..symbols], CODEWORD_BITS_MAX, &mut self.lengths[..symbols]);
        self.code.build(&self.lengths[..symbols]).expect("lengths made from frequencies are a code");
        self.until_rebuild = REBUILD;
    }

    #[inline(always)]
    fn decode(&mut self, bits: &mut BackwardBits<'_>, maker: &mut LengthMaker) -> Result<usize, Damaged> {
        bits.refill();
        let (symbol, length) =
            self.code.look_up((bits.buffer >> 48) as u32).ok_or(Damaged("bits that are no codeword"))?;
        bits.take(length);
        self.frequencies[symbol] += 1;
        self.until_rebuild -= 1;
        if self.until_rebuild == 0 {
            self.dilute_and_rebuild(maker);
        }
        Ok(symbol)
    }

    #[inline(never)]
    fn dilute_and_rebuild(&mut self, maker: &mut LengthMaker) {
        // The code is made from the frequencies as they are; only then do older symbols lose weight.
        self.rebuild(maker);
        for frequency in &mut self.frequencies[..self.symbols] {
            *frequency = (*frequency >> 1) + 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_cover_what_the_format_can_say() {
        assert_eq!((OFFSET_TABLE[8].base, OFFSET_TABLE[8].bits), (9, 2));
        assert_eq!((OFFSET_TABLE[798].base, OFFSET_TABLE[798].bits), (0x065b_e4a5, 30));
        assert_eq!((LENGTH_TABLE[25].base, LENGTH_TABLE[26].bits), (0x1a, 1));
        assert_eq!((LENGTH_TABLE[53].base, LENGTH_TABLE[53].bits), (0x1_08ab, 30));
        assert_eq!((offset_slots(1), offset_slots(2), offset_slots(10), offset_slots(11)), (0, 1, 9, 9));
    }

    #[test]
    fn garbage_is_refused_or_decoded_but_never_worse() {
        let mut decompressor = Decompressor::default();
        let mut seed = 1u64;
        for len in (4..2000).step_by(2) {
            let input: Vec<u8> = std::iter::repeat_with(|| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (seed >> 56) as u8
            })
            .take(len)
            .collect();
            let _ = decompressor.decompress(&input, &mut vec![0; len * 2]);
        }
    }
}
