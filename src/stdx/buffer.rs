//! Buffers that direct I/O accepts, buffers that are used again, and the question whether bytes are all zero.

use std::ops::{Deref, DerefMut};

use crossbeam_channel::{Receiver, Sender};

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

/// Buffers that go round between threads: there are never more than were made, so whoever is ahead waits.
pub struct Pool {
    give: Sender<Vec<u8>>,
    take: Receiver<Vec<u8>>,
}

/// A buffer of a [`Pool`], to which it goes back when it is dropped. What it holds first is what it was last used for.
pub struct Lent<'a> {
    bytes: Vec<u8>,
    pool: &'a Pool,
}

impl Pool {
    /// `count` buffers. Their memory is taken when they are first lent.
    pub fn new(count: usize) -> Pool {
        let (give, take) = crossbeam_channel::bounded(count);
        (0..count).for_each(|_| drop(give.send(Vec::new())));
        Pool { give, take }
    }

    /// The next free buffer, with at least `len` bytes; waits for one.
    pub fn lend(&self, len: usize) -> Lent<'_> {
        let mut bytes = self.take.recv().expect("the pool holds the other end itself");
        if bytes.len() < len {
            bytes.resize(len, 0);
        }
        Lent { bytes, pool: self }
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        // There is room: no more buffers exist than it was made for.
        let _ = self.pool.give.send(std::mem::take(&mut self.bytes));
    }
}

impl Deref for Lent<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for Lent<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
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
    fn a_buffer_that_is_given_back_is_lent_again() {
        let pool = Pool::new(1);
        pool.lend(10)[3] = 7;
        assert_eq!(pool.lend(5)[..5], [0, 0, 0, 7, 0]);
        let held = pool.lend(5);
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| pool.lend(20).len());
            drop(held);
            assert_eq!(waits.join().unwrap(), 20);
        });
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
