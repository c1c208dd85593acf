//! Buffers that direct I/O accepts, and the question whether bytes are all zero.

/// What direct I/O wants offset, length and address to be a multiple of: the page, which covers 512 and 4096 byte sectors.
pub const ALIGNMENT: usize = 4096;

/// A zeroed buffer whose first byte lies at an address that is a multiple of [`ALIGNMENT`].
pub struct AlignedBuffer {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBuffer {
    pub fn new(len: usize) -> AlignedBuffer {
        let bytes = vec![0u8; len + ALIGNMENT];
        let start = bytes.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        AlignedBuffer { bytes, start, len }
    }

    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }

    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }
}

/// Whether every byte is zero; a few GB/s, because it compares whole cache lines.
pub fn is_zero(bytes: &[u8]) -> bool {
    const ZERO: [u8; 256] = [0; 256];
    let mut lines = bytes.chunks_exact(ZERO.len());
    lines.all(|line| line == ZERO) && lines.remainder().iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_zero() {
        for len in [0, 1, 4096, 100_000] {
            let mut buffer = AlignedBuffer::new(len);
            assert_eq!(buffer.as_slice().as_ptr() as usize % ALIGNMENT, 0);
            assert_eq!(buffer.as_mut_slice().len(), len);
            assert!(is_zero(buffer.as_slice()));
        }
    }

    #[test]
    fn one_byte_anywhere_is_not_zero() {
        for len in [1, 255, 256, 257, 5000] {
            let mut bytes = vec![0u8; len];
            assert!(is_zero(&bytes));
            for at in [0, len / 2, len - 1] {
                bytes[at] = 1;
                assert!(!is_zero(&bytes), "{len} {at}");
                bytes[at] = 0;
            }
        }
    }
}
