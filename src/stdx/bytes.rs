//! Numbers at fixed offsets of foreign structures.

/// A structure as bytes, whose fields are read by their offset in the specification. Bytes past the end read as zero: a
/// truncated structure is one whose last fields are zero, and it then fails the checks that every field needs anyway.
#[derive(Clone, Copy)]
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    pub fn u8(self, at: usize) -> u8 {
        self.0.get(at).copied().unwrap_or(0)
    }

    pub fn le16(self, at: usize) -> u16 {
        u16::from_le_bytes(self.array(at))
    }

    pub fn le32(self, at: usize) -> u32 {
        u32::from_le_bytes(self.array(at))
    }

    pub fn le64(self, at: usize) -> u64 {
        u64::from_le_bytes(self.array(at))
    }

    pub fn be16(self, at: usize) -> u16 {
        u16::from_be_bytes(self.array(at))
    }

    pub fn be32(self, at: usize) -> u32 {
        u32::from_be_bytes(self.array(at))
    }

    pub fn be64(self, at: usize) -> u64 {
        u64::from_be_bytes(self.array(at))
    }

    /// `N` bytes from `at`.
    pub fn array<const N: usize>(self, at: usize) -> [u8; N] {
        let mut bytes = [0; N];
        let found = self.slice(at, N);
        bytes[..found.len()].copy_from_slice(found);
        bytes
    }

    /// At most `len` bytes from `at`: fewer at the end.
    pub fn slice(self, at: usize, len: usize) -> &'a [u8] {
        let start = at.min(self.0.len());
        &self.0[start..start.saturating_add(len).min(self.0.len())]
    }

    /// Text padded with zeros or blanks, as labels are.
    pub fn text(self, at: usize, len: usize) -> String {
        let bytes = self.slice(at, len);
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        String::from_utf8_lossy(&bytes[..end]).trim_end().to_owned()
    }

    /// UTF-16LE text of at most `len` bytes, ended by a zero.
    pub fn text_utf16(self, at: usize, len: usize) -> String {
        let (pairs, _) = self.slice(at, len).as_chunks::<2>();
        let units = pairs.iter().map(|pair| u16::from_le_bytes(*pair)).take_while(|unit| *unit != 0);
        char::decode_utf16(units).map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_in_both_orders_and_end_in_zeros() {
        let fields = Fields(&[1, 2, 3, 4, 5]);
        assert_eq!((fields.le16(0), fields.be16(0)), (0x0201, 0x0102));
        assert_eq!((fields.le32(1), fields.be32(1)), (0x0504_0302, 0x0203_0405));
        assert_eq!((fields.le32(4), fields.u8(9), fields.le64(usize::MAX)), (5, 0, 0));
        assert_eq!(Fields(b"ROOT  \0x").text(0, 8), "ROOT");
        assert_eq!(Fields(b"a\0b\0\0\0c\0").text_utf16(0, 8), "ab");
    }
}
