//! The bit stream that XPRESS and LZX share: 16-bit little-endian units, each read from its most significant bit, with
//! whole bytes between the units where the format wants them ([MS-XCA] 2.2.4, [MS-PATCH] 2.1).

/// Reads bits from the front of a buffer. Past the end it reads zeros; `overran` tells that afterwards, so that the
/// inner loops need no check for each symbol.
pub(super) struct BitReader<'a> {
    input: &'a [u8],
    /// First byte that is not in `buffer` yet; runs past the end of `input` by what was invented.
    position: usize,
    /// The next bits, the first one on top.
    buffer: u64,
    /// How many bits of `buffer` count (those below are a preview of what comes).
    count: u32,
}

impl<'a> BitReader<'a> {
    pub(super) fn new(input: &'a [u8]) -> BitReader<'a> {
        BitReader { input, position: 0, buffer: 0, count: 0 }
    }

    /// Afterwards at least 48 bits are at hand.
    #[inline(always)]
    pub(super) fn refill(&mut self) {
        let words = match self.input.get(self.position..self.position + 8) {
            Some(bytes) => {
                let raw = u64::from_le_bytes(bytes.try_into().expect("the slice has 8 bytes"));
                let halves = raw.rotate_left(32);
                (halves & 0xffff_0000_ffff_0000) >> 16 | (halves & 0x0000_ffff_0000_ffff) << 16
            }
            None => self.last_words(),
        };
        self.buffer |= words >> self.count;
        let units = (63 - self.count) >> 4;
        self.position += 2 * units as usize;
        self.count += 16 * units;
    }

    /// The units near the end of the input, zeros after them.
    #[cold]
    fn last_words(&self) -> u64 {
        let mut words = 0;
        for unit in 0..4 {
            let at = self.position + 2 * unit;
            let low = self.input.get(at).copied().unwrap_or(0);
            let high = self.input.get(at + 1).copied().unwrap_or(0);
            words = words << 16 | u64::from(u16::from_le_bytes([low, high]));
        }
        words
    }

    /// The next `bits` bits, 1 to 48, without consuming them.
    #[inline(always)]
    pub(super) fn peek(&self, bits: u32) -> u32 {
        (self.buffer >> (64 - bits)) as u32
    }

    #[inline(always)]
    pub(super) fn consume(&mut self, bits: u32) {
        self.buffer <<= bits;
        self.count -= bits;
    }

    /// `bits` bits, 0 to 32; the caller has seen to the refill.
    #[inline(always)]
    pub(super) fn take(&mut self, bits: u32) -> u32 {
        let value = (self.buffer >> 1 >> (63 - bits)) as u32;
        self.consume(bits);
        value
    }

    /// `bits` bits, 0 to 32, refilled where needed.
    #[inline(always)]
    pub(super) fn read(&mut self, bits: u32) -> u32 {
        if self.count < bits {
            self.refill();
        }
        self.take(bits)
    }

    /// Bits that can be taken without a refill.
    #[inline(always)]
    pub(super) fn available(&self) -> u32 {
        self.count
    }

    /// Where a reader stands that only fetches a unit when fewer than 16 bits are left, which is where [MS-XCA] puts
    /// whole bytes between the units. Gives back the units that were fetched ahead of that.
    #[inline]
    fn unread_ahead(&mut self) {
        if self.count < 16 {
            self.refill();
        }
        let ahead = (self.count - 16) >> 4;
        self.count -= 16 * ahead;
        self.position -= 2 * ahead as usize;
    }

    /// The whole bytes that lie after the units fetched so far.
    #[inline]
    fn bytes_after_units<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = self.input.get(self.position + index).copied().unwrap_or(0);
        }
        self.position += N;
        bytes
    }

    /// [MS-XCA] 2.2.4: makes ready for `take` of up to 16 bits followed by `interleaved_byte`.
    #[inline]
    pub(super) fn one_unit_ahead(&mut self) {
        self.unread_ahead();
    }

    /// A byte that lies between the units. `one_unit_ahead` was called since the last refill.
    #[inline]
    pub(super) fn interleaved_byte(&mut self) -> u8 {
        let [byte] = self.bytes_after_units::<1>();
        self.drop_preview();
        byte
    }

    /// Two bytes that lie between the units.
    #[inline]
    pub(super) fn interleaved_u16(&mut self) -> u16 {
        let bytes = self.bytes_after_units::<2>();
        self.drop_preview();
        u16::from_le_bytes(bytes)
    }

    /// Clears the bits below `count`: what follows in the input is no longer what they show.
    #[inline]
    fn drop_preview(&mut self) {
        self.buffer &= !(u64::MAX >> self.count);
    }

    /// LZX uncompressed blocks begin at the next unit; a whole unit is skipped when the stream stands at one.
    pub(super) fn align_to_unit(&mut self) {
        if self.count == 0 {
            self.refill();
        }
        // Units in the buffer are whole but the first, which ends where `count` leaves no remainder.
        let skip = if self.count.is_multiple_of(16) { 16 } else { self.count % 16 };
        self.consume(skip);
        self.position -= 2 * (self.count / 16) as usize;
        self.buffer = 0;
        self.count = 0;
    }

    /// Whole bytes at the unit where the reader stands after `align_to_unit`.
    pub(super) fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let bytes = self.input.get(self.position..self.position.checked_add(len)?)?;
        self.position += len;
        Some(bytes)
    }

    /// Whether more bits were consumed than the input holds.
    pub(super) fn overran(&self) -> bool {
        self.position.saturating_sub((self.count / 8) as usize) > self.input.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_come_from_the_top_of_little_endian_units() {
        let mut bits = BitReader::new(&[0x34, 0x12, 0x78, 0x56, 0xff]);
        assert_eq!(bits.read(4), 1);
        assert_eq!(bits.read(12), 0x234);
        assert_eq!(bits.read(16), 0x5678);
        assert!(!bits.overran());
        assert_eq!(bits.read(16), 0x00ff);
        assert!(bits.overran());
    }

    #[test]
    fn interleaved_bytes_follow_the_units_that_were_needed() {
        // Two units are fetched before the byte: the first is half used, the second is the one that is ahead.
        let mut bits = BitReader::new(&[0x34, 0x12, 0x78, 0x56, 0xab, 0xbc, 0x9a, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bits.read(8), 0x12);
        bits.one_unit_ahead();
        assert_eq!(bits.take(8), 0x34);
        assert_eq!(bits.interleaved_byte(), 0xab);
        assert_eq!(bits.read(16), 0x5678);
        assert_eq!(bits.read(16), 0x9abc);
    }

    #[test]
    fn alignment_skips_a_whole_unit_when_there_is_nothing_to_skip() {
        let input: Vec<u8> = (0..32).collect();
        let mut bits = BitReader::new(&input);
        bits.read(3);
        bits.align_to_unit();
        assert_eq!(bits.bytes(2), Some(&[2, 3][..]));
        bits.read(16);
        bits.align_to_unit();
        assert_eq!(bits.bytes(1), Some(&[8][..]));
    }
}
