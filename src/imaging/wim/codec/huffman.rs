//! Canonical Huffman codes: tables that decode them, and code lengths made from frequencies.

use super::{Damaged, bits::BitReader};

/// The longest codeword of any code here: 16 bits (LZX); XPRESS and LZMS stop at 15.
pub(super) const CODEWORD_BITS_MAX: usize = 16;

/// Decodes a code of at most `SYMBOLS` symbols. Codewords of up to log2(`TABLE`) bits take one look-up, longer ones
/// (rare by construction) a walk over the lengths.
pub(super) struct Decoder<const SYMBOLS: usize, const TABLE: usize> {
    /// `symbol << 4 | length`, 0 for longer codewords and for bits that no codeword begins with.
    table: [u16; TABLE],
    /// For each length: the first 17-bit left-aligned value above the codewords of this length.
    limit: [u32; CODEWORD_BITS_MAX + 1],
    /// For each length: what to add to a codeword (right-aligned) for its place in `sorted`.
    base: [i32; CODEWORD_BITS_MAX + 1],
    /// Symbols in order of their codewords.
    sorted: [u16; SYMBOLS],
}

impl<const SYMBOLS: usize, const TABLE: usize> Decoder<SYMBOLS, TABLE> {
    const TABLE_BITS: u32 = TABLE.trailing_zeros();

    pub(super) fn new() -> Self {
        Decoder {
            table: [0; TABLE],
            limit: [0; CODEWORD_BITS_MAX + 1],
            base: [0; CODEWORD_BITS_MAX + 1],
            sorted: [0; SYMBOLS],
        }
    }

    /// Makes the table for a code given by the codeword length of each symbol (0: not in the code). A code with too
    /// many codewords is refused; one with gaps is accepted, and `decode` refuses the gap when it meets it.
    pub(super) fn build(&mut self, lengths: &[u8]) -> Result<(), Damaged> {
        let mut counts = [0u32; CODEWORD_BITS_MAX + 1];
        for length in lengths {
            counts[usize::from(*length & 31).min(CODEWORD_BITS_MAX)] += 1;
        }
        let first = self.place_codewords(&counts)?;
        self.sort_symbols(lengths, first);
        self.fill_table(&counts);
        Ok(())
    }

    /// Fills `limit` and `base`; returns for each length where its symbols begin in `sorted`.
    fn place_codewords(&mut self, counts: &[u32; CODEWORD_BITS_MAX + 1]) -> Result<[usize; 17], Damaged> {
        let (mut codeword, mut place) = (0u32, 0u32);
        let mut first = [0; CODEWORD_BITS_MAX + 1];
        for length in 1..=CODEWORD_BITS_MAX {
            codeword <<= 1;
            first[length] = place as usize;
            self.base[length] = place as i32 - codeword as i32;
            codeword += counts[length];
            place += counts[length];
            if codeword > 1 << length {
                return Err(Damaged("a Huffman code has too many codewords"));
            }
            self.limit[length] = codeword << (CODEWORD_BITS_MAX - length);
        }
        Ok(first)
    }

    fn sort_symbols(&mut self, lengths: &[u8], mut next: [usize; CODEWORD_BITS_MAX + 1]) {
        for (symbol, length) in lengths.iter().enumerate().filter(|(_, length)| **length != 0) {
            let place = &mut next[usize::from(*length & 31).min(CODEWORD_BITS_MAX)];
            if let Some(slot) = self.sorted.get_mut(*place) {
                *slot = symbol as u16;
            }
            *place += 1;
        }
    }

    fn fill_table(&mut self, counts: &[u32; CODEWORD_BITS_MAX + 1]) {
        let (mut at, mut place) = (0, 0);
        for (length, count) in counts.iter().enumerate().take(Self::TABLE_BITS as usize + 1).skip(1) {
            let span = TABLE >> length;
            for _ in 0..*count {
                let entry = self.sorted[place] << 4 | length as u16;
                self.table[at..at + span].fill(entry);
                at += span;
                place += 1;
            }
        }
        self.table[at..].fill(0);
    }

    /// The next symbol. At least 16 bits are at hand.
    #[inline(always)]
    pub(super) fn decode(&self, bits: &mut BitReader<'_>) -> Result<usize, Damaged> {
        let entry = self.table[bits.peek(Self::TABLE_BITS) as usize];
        if entry == 0 {
            return self.decode_long(bits);
        }
        bits.consume(u32::from(entry & 15));
        Ok(usize::from(entry >> 4))
    }

    #[cold]
    fn decode_long(&self, bits: &mut BitReader<'_>) -> Result<usize, Damaged> {
        let (symbol, length) = self.look_up_long(bits.peek(16)).ok_or(Damaged("bits that are no codeword"))?;
        bits.consume(length);
        Ok(symbol)
    }

    /// The table entry for the next 16 bits as (symbol, codeword length), however they are read.
    #[inline(always)]
    pub(super) fn look_up(&self, next16: u32) -> Option<(usize, u32)> {
        let entry = self.table[(next16 >> (16 - Self::TABLE_BITS)) as usize & (TABLE - 1)];
        match entry {
            0 => self.look_up_long(next16),
            _ => Some((usize::from(entry >> 4), u32::from(entry & 15))),
        }
    }

    #[cold]
    fn look_up_long(&self, next16: u32) -> Option<(usize, u32)> {
        let length = (1..=CODEWORD_BITS_MAX).find(|length| next16 < self.limit[*length])?;
        let codeword = next16 >> (CODEWORD_BITS_MAX - length);
        let place = usize::try_from(self.base[length] + codeword as i32).ok()?;
        Some((usize::from(*self.sorted.get(place)?), length as u32))
    }
}

/// Codeword lengths of a canonical Huffman code for `frequencies`, at most `bits_max` bits long; symbols of frequency 0
/// get none. Fewer than two symbols still get two codewords of one bit, which every decoder accepts.
///
/// LZMS decoders rebuild codes from what they have decoded, so there the result is part of the format: symbols are taken
/// in order of (frequency, symbol); when a leaf and a node weigh the same the leaf is merged first; a codeword that
/// would be too long takes the place of the longest shorter one that can be split.
pub(super) struct LengthMaker {
    /// Leaves as `frequency << 16 | symbol`; then the nodes' weights and, in the end, depths.
    leaves: Vec<u64>,
    weights: Vec<u64>,
    parents: Vec<u32>,
    depths: Vec<u8>,
}

impl LengthMaker {
    pub(super) fn new(symbols_max: usize) -> LengthMaker {
        LengthMaker {
            leaves: Vec::with_capacity(symbols_max),
            weights: Vec::with_capacity(symbols_max),
            parents: Vec::with_capacity(2 * symbols_max),
            depths: Vec::with_capacity(symbols_max),
        }
    }

    pub(super) fn lengths(&mut self, frequencies: &[u32], bits_max: usize, lengths: &mut [u8]) {
        lengths.fill(0);
        self.leaves.clear();
        let used = frequencies.iter().enumerate().filter(|(_, frequency)| **frequency != 0);
        self.leaves.extend(used.map(|(symbol, frequency)| u64::from(*frequency) << 16 | symbol as u64));
        if self.leaves.len() < 2 {
            let only = self.leaves.first().map_or(0, |leaf| (leaf & 0xffff) as usize);
            for symbol in [only, usize::from(only == 0)] {
                if let Some(length) = lengths.get_mut(symbol) {
                    *length = 1;
                }
            }
            return;
        }
        self.leaves.sort_unstable();
        self.merge();
        let counts = self.counts_of_lengths(bits_max);
        let mut leaves = self.leaves.iter();
        for length in (1..=bits_max).rev() {
            for leaf in leaves.by_ref().take(counts[length] as usize) {
                lengths[(leaf & 0xffff) as usize] = length as u8;
            }
        }
    }

    /// Joins the two lightest of leaves and nodes until one node is left: two queues, each sorted by itself.
    fn merge(&mut self) {
        let leaves = self.leaves.len();
        self.weights.clear();
        self.parents.clear();
        self.parents.resize(leaves - 1, 0);
        let (mut leaf, mut node) = (0, 0);
        for made in 0..leaves - 1 {
            let mut weight = 0;
            for _ in 0..2 {
                let leaf_weight = self.leaves.get(leaf).map(|leaf| leaf >> 16);
                let node_weight = self.weights.get(node).copied();
                match (leaf_weight, node_weight) {
                    (Some(light), heavy) if heavy.is_none_or(|heavy| light <= heavy) => {
                        weight += light;
                        leaf += 1;
                    }
                    (_, heavy) => {
                        weight += heavy.unwrap_or(0);
                        self.parents[node] = made as u32;
                        node += 1;
                    }
                }
            }
            self.weights.push(weight);
        }
    }

    /// How many codewords of each length, going down from the root: every node turns one codeword of its depth into two
    /// one bit longer, or, at the limit, does so where there is room above.
    fn counts_of_lengths(&mut self, bits_max: usize) -> [u32; CODEWORD_BITS_MAX + 1] {
        let nodes = self.weights.len();
        let mut counts = [0; CODEWORD_BITS_MAX + 1];
        counts[1] = 2;
        self.depths.clear();
        self.depths.resize(nodes, 0);
        for node in (0..nodes - 1).rev() {
            let depth = self.depths[self.parents[node] as usize].saturating_add(1);
            self.depths[node] = depth;
            let mut split = usize::from(depth);
            if split >= bits_max {
                split = bits_max - 1;
                while counts[split] == 0 {
                    split -= 1;
                }
            }
            counts[split] -= 1;
            counts[split + 1] += 2;
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn too_many_codewords_are_refused_and_gaps_are_met_later() {
        let mut decoder = Decoder::<8, 8>::new();
        assert!(decoder.build(&[1, 1, 1, 0]).is_err());
        decoder.build(&[2, 2, 0, 0]).unwrap();
        assert_eq!(decoder.look_up(0x4000), Some((1, 2)));
        assert_eq!(decoder.look_up(0x8000), None);
    }

    proptest! {
        #[test]
        fn a_made_code_is_complete_and_decodes(frequencies in proptest::collection::vec(0u32..70_000, 2..300), limit in 9usize..=16) {
            let mut lengths = vec![0; frequencies.len()];
            LengthMaker::new(300).lengths(&frequencies, limit, &mut lengths);
            let sum: u64 = lengths.iter().filter(|length| **length > 0).map(|length| 1 << (16 - length)).sum();
            prop_assert_eq!(sum, 1 << 16);
            let mut decoder = Decoder::<300, 64>::new();
            decoder.build(&lengths).unwrap();
            for next in 0..=0xffff {
                let (symbol, length) = decoder.look_up(next).unwrap();
                prop_assert_eq!(u32::from(lengths[symbol]), length);
            }
        }
    }
}
