//! Blocks of an LZX stream: codes and tokens, as [MS-PATCH] 2 has them.

use super::huffman::LengthMaker;
use super::lzx::{
    ALIGNED_SYMBOLS, BLOCK_BYTES_DEFAULT, LENGTH_HEADERS, LENGTH_SYMBOLS, LITERALS, MAIN_SYMBOLS_MAX, MATCH_MIN,
    PRECODE_SYMBOLS, SLOT_BASES, slot_bits, slot_of,
};
use super::lzx_parse::{Counts, Token, main_symbol};

/// 16-bit little-endian units, each from its most significant bit.
pub(super) struct BitWriter<'a> {
    output: &'a mut Vec<u8>,
    buffer: u64,
    count: u32,
}

impl<'a> BitWriter<'a> {
    pub(super) fn new(output: &'a mut Vec<u8>) -> BitWriter<'a> {
        BitWriter { output, buffer: 0, count: 0 }
    }

    /// The low `bits` (at most 32) of `value`, which has no others.
    #[inline(always)]
    pub(super) fn write(&mut self, value: u32, bits: u32) {
        self.buffer = self.buffer << bits | u64::from(value);
        self.count += bits;
        while self.count >= 16 {
            self.count -= 16;
            self.output.extend(((self.buffer >> self.count) as u16).to_le_bytes());
        }
    }

    pub(super) fn block_len(&mut self, len: usize, is_wide: bool) {
        match len {
            BLOCK_BYTES_DEFAULT => self.write(1, 1),
            _ => {
                self.write(0, 1);
                self.write(len as u32, if is_wide { 24 } else { 16 });
            }
        }
    }

    pub(super) fn finish(mut self) {
        let fill = (16 - self.count % 16) % 16;
        self.write(0, fill);
    }
}

/// A canonical code: its lengths and codewords.
struct Code<const SYMBOLS: usize> {
    lengths: [u8; SYMBOLS],
    codewords: [u16; SYMBOLS],
}

impl<const SYMBOLS: usize> Code<SYMBOLS> {
    fn new() -> Self {
        Code { lengths: [0; SYMBOLS], codewords: [0; SYMBOLS] }
    }

    fn make(&mut self, counts: &[u32], bits_max: usize, maker: &mut LengthMaker) {
        let lengths = &mut self.lengths[..counts.len()];
        maker.lengths(counts, bits_max, lengths);
        let mut of_length = [0u16; 17];
        lengths.iter().for_each(|length| of_length[usize::from(*length)] += 1);
        let mut next = [0u16; 18];
        for length in 1..17 {
            next[length + 1] = next[length].wrapping_add(of_length[length]) << 1;
        }
        for (length, codeword) in lengths.iter().zip(&mut self.codewords) {
            *codeword = next[usize::from(*length)];
            next[usize::from(*length)] = codeword.wrapping_add(1);
        }
    }
}

/// The codes of a block.
pub(super) struct Codes {
    main: Code<MAIN_SYMBOLS_MAX>,
    length: Code<LENGTH_SYMBOLS>,
    aligned: Code<ALIGNED_SYMBOLS>,
    maker: LengthMaker,
}

impl Default for Codes {
    fn default() -> Self {
        let maker = LengthMaker::new(MAIN_SYMBOLS_MAX);
        Codes { main: Code::new(), length: Code::new(), aligned: Code::new(), maker }
    }
}

impl Codes {
    /// As they are before the first block: without codewords.
    pub(super) fn clear(&mut self) {
        self.main.lengths.fill(0);
        self.length.lengths.fill(0);
    }

    pub(super) fn make(&mut self, counts: &Counts, main_symbols: usize) {
        self.main.make(&counts.main[..main_symbols], 16, &mut self.maker);
        self.length.make(&counts.length, 16, &mut self.maker);
        self.aligned.make(&counts.aligned, 7, &mut self.maker);
    }

    /// Whether a code for the low three bits of offsets is shorter than the bits, its own lengths (24 bits) included.
    pub(super) fn aligned_pays(&self, counts: &Counts) -> bool {
        let with = counts.aligned.iter().zip(&self.aligned.lengths).map(|(n, length)| n * u32::from(*length));
        with.sum::<u32>() + 24 < 3 * counts.aligned.iter().sum::<u32>()
    }

    pub(super) fn write(&mut self, bits: &mut BitWriter<'_>, before: &Codes, main_symbols: usize, with_aligned: bool) {
        if with_aligned {
            self.aligned.lengths.iter().for_each(|length| bits.write(u32::from(*length), 3));
        }
        let main = (&before.main.lengths[..main_symbols], &self.main.lengths[..main_symbols]);
        write_lengths(bits, &main.0[..LITERALS], &main.1[..LITERALS], &mut self.maker);
        write_lengths(bits, &main.0[LITERALS..], &main.1[LITERALS..], &mut self.maker);
        write_lengths(bits, &before.length.lengths, &self.length.lengths, &mut self.maker);
    }

    /// `data` is the block.
    pub(super) fn write_tokens(&self, bits: &mut BitWriter<'_>, tokens: &[Token], data: &[u8], with_aligned: bool) {
        let mut at = 0;
        for token in tokens {
            let length = token.length();
            if length == 1 {
                let byte = usize::from(data[at]);
                bits.write(u32::from(self.main.codewords[byte]), u32::from(self.main.lengths[byte]));
                at += 1;
                continue;
            }
            at += length;
            let slot = slot_of(token.adjusted());
            let symbol = main_symbol(slot, length);
            bits.write(u32::from(self.main.codewords[symbol]), u32::from(self.main.lengths[symbol]));
            if let Some(more) = length.checked_sub(MATCH_MIN + LENGTH_HEADERS - 1) {
                bits.write(u32::from(self.length.codewords[more]), u32::from(self.length.lengths[more]));
            }
            let (count, extra) = (slot_bits(slot), token.adjusted() - SLOT_BASES[slot]);
            if with_aligned && count >= 3 {
                let low = (extra & 7) as usize;
                bits.write(extra >> 3, count - 3);
                bits.write(u32::from(self.aligned.codewords[low]), u32::from(self.aligned.lengths[low]));
            } else {
                bits.write(extra, count);
            }
        }
    }
}

/// An item of the written lengths: a precode symbol, and for runs the bits after it.
struct Item {
    symbol: u8,
    extra: u8,
    extra_bits: u8,
    /// For symbol 19: the difference that is repeated.
    repeated: Option<u8>,
}

fn write_lengths(bits: &mut BitWriter<'_>, before: &[u8], lengths: &[u8], maker: &mut LengthMaker) {
    let items = length_items(before, lengths);
    let mut counts = [0u32; PRECODE_SYMBOLS];
    for item in &items {
        counts[usize::from(item.symbol)] += 1;
        if let Some(repeated) = item.repeated {
            counts[usize::from(repeated)] += 1;
        }
    }
    let mut precode = Code::<PRECODE_SYMBOLS>::new();
    precode.make(&counts, 15, maker);
    precode.lengths.iter().for_each(|length| bits.write(u32::from(*length), 4));
    let symbol = |bits: &mut BitWriter<'_>, symbol: u8| {
        let symbol = usize::from(symbol);
        bits.write(u32::from(precode.codewords[symbol]), u32::from(precode.lengths[symbol]));
    };
    for item in items {
        symbol(bits, item.symbol);
        bits.write(u32::from(item.extra), u32::from(item.extra_bits));
        if let Some(repeated) = item.repeated {
            symbol(bits, repeated);
        }
    }
}

fn length_items(before: &[u8], lengths: &[u8]) -> Vec<Item> {
    let mut items = Vec::with_capacity(lengths.len());
    let mut at = 0;
    while at < lengths.len() {
        let length = lengths[at];
        let run = lengths[at..].iter().take_while(|other| **other == length).count();
        let difference = (before[at] + 17 - length) % 17;
        let plain = |symbol| Item { symbol, extra: 0, extra_bits: 0, repeated: None };
        let (taken, item) = match (length, run) {
            (0, 20..) => {
                (run.min(51), Item { symbol: 18, extra: run.min(51) as u8 - 20, extra_bits: 5, repeated: None })
            }
            (0, 4..) => (run.min(19), Item { symbol: 17, extra: run.min(19) as u8 - 4, extra_bits: 4, repeated: None }),
            (_, 4..) => (
                run.min(5),
                Item { symbol: 19, extra: run.min(5) as u8 - 4, extra_bits: 1, repeated: Some(difference) },
            ),
            _ => (1, plain(difference)),
        };
        items.push(item);
        at += taken;
    }
    items
}
