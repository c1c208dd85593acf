//! Chunks: named by the BLAKE3 of their plain content, sealed for the store, opened into the buffer that is written.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::stdx::buffer::{ALIGNMENT, AlignedBuffer};
use crate::stdx::hex;

/// No chunk is larger, whoever cut it: what a reader must be ready to hold. The chunker stays at a quarter of it.
pub const CHUNK_BYTES_MAX: usize = 1 << 20;

/// The zstd level of the store: 3 takes half as much time again and saves 4 % of the space, see
/// docs/decisions/chunk-names.md.
pub const ZSTD_LEVEL: i32 = 1;

/// The BLAKE3 hash of a chunk's plain content; written as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ChunkId(pub [u8; 32]);

impl ChunkId {
    pub fn of(plain: &[u8]) -> ChunkId {
        ChunkId(*blake3::hash(plain).as_bytes())
    }
}

impl fmt::Display for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::emit(&self.0))
    }
}

impl fmt::Debug for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[derive(Debug, thiserror::Error)]
#[error("a name of 64 hexadecimal digits was expected")]
pub struct ParseNameError;

impl FromStr for ChunkId {
    type Err = ParseNameError;

    fn from_str(text: &str) -> Result<Self, ParseNameError> {
        hex::parse_array(text).map(ChunkId).ok_or(ParseNameError)
    }
}

impl TryFrom<String> for ChunkId {
    type Error = ParseNameError;

    fn try_from(text: String) -> Result<Self, ParseNameError> {
        text.parse()
    }
}

impl From<ChunkId> for String {
    fn from(id: ChunkId) -> String {
        id.to_string()
    }
}

/// How a chunk's bytes lie in a pack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Encoding {
    /// As they are: compression would not have made them smaller.
    Stored = 0,
    /// One zstd frame.
    Zstd = 1,
}

impl Encoding {
    pub fn from_byte(byte: u8) -> Option<Encoding> {
        match byte {
            0 => Some(Encoding::Stored),
            1 => Some(Encoding::Zstd),
            _ => None,
        }
    }
}

/// A chunk as the store keeps it. Nothing is proven about its bytes until they are opened.
#[derive(Clone, Copy, Debug)]
pub struct Sealed<'a> {
    pub id: ChunkId,
    pub plain_bytes: u32,
    pub encoding: Encoding,
    pub bytes: &'a [u8],
}

/// Seals chunks; holds the compressor's memory, so each thread keeps one.
pub struct Sealer {
    compressor: zstd::bulk::Compressor<'static>,
    scratch: Vec<u8>,
}

impl Sealer {
    pub fn new() -> std::io::Result<Sealer> {
        Ok(Sealer { compressor: zstd::bulk::Compressor::new(ZSTD_LEVEL)?, scratch: Vec::new() })
    }

    /// Compresses `plain`, or leaves it as it is when that saves nothing. `id` is its name, which the caller has.
    pub fn seal<'a>(&'a mut self, id: ChunkId, plain: &'a [u8]) -> Sealed<'a> {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.resize(room_for(plain.len()).max(scratch.len()), 0);
        let (encoding, len) = self.seal_into(plain, &mut scratch);
        self.scratch = scratch;
        Sealed { id, plain_bytes: plain.len() as u32, encoding, bytes: &self.scratch[..len] }
    }

    /// The same, to the start of `room`, which has at least [`room_for`] bytes; how many it took.
    pub fn seal_into(&mut self, plain: &[u8], room: &mut [u8]) -> (Encoding, usize) {
        match self.compressor.compress_to_buffer(plain, room) {
            Ok(len) if len < plain.len() => (Encoding::Zstd, len),
            _ => {
                room[..plain.len()].copy_from_slice(plain);
                (Encoding::Stored, plain.len())
            }
        }
    }
}

/// Bytes that sealing `plain_bytes` may need on the way.
pub fn room_for(plain_bytes: usize) -> usize {
    zstd::zstd_safe::compress_bound(plain_bytes)
}

/// Why sealed bytes are not the chunk that they claim to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    #[error("it does not decompress")]
    Frame,
    #[error("it has {found} bytes instead of {expected}")]
    Length { expected: u32, found: u64 },
    #[error("its content hashes to {found}")]
    Content { found: ChunkId },
}

/// Bytes that lie together on the target, each of which was hashed in this very buffer. Writers accept nothing else, and
/// only [`open`](Verified::open) and [`prove`](Verified::prove) add to it.
///
/// The buffer is laid out so that what is aligned on the target is aligned in memory: direct I/O needs no copy.
pub struct Verified {
    buffer: AlignedBuffer,
    decompressor: zstd::bulk::Decompressor<'static>,
    offset: u64,
    start: usize,
    len: usize,
    capacity: usize,
}

impl Verified {
    /// Room for `capacity` bytes, to be used again and again.
    pub fn with_capacity(capacity: usize) -> std::io::Result<Verified> {
        // What begins and ends inside of a block is read with all of both.
        let buffer = AlignedBuffer::new(capacity + 2 * ALIGNMENT);
        let decompressor = zstd::bulk::Decompressor::new()?;
        Ok(Verified { buffer, decompressor, offset: 0, start: 0, len: 0, capacity })
    }

    /// Empties it; what comes next belongs at `offset` of the target.
    pub fn begin(&mut self, offset: u64) {
        self.offset = offset;
        self.start = (offset % ALIGNMENT as u64) as usize;
        self.len = 0;
    }

    /// Empties it and gives its buffer away to be filled, for [`prove`](Verified::prove): what belongs at `offset` of the target
    /// goes to `offset` modulo [`ALIGNMENT`].
    pub fn load(&mut self, offset: u64) -> &mut AlignedBuffer {
        self.begin(offset);
        &mut self.buffer
    }

    /// Appends the next `len` bytes of what was loaded, if they hash to `id`; says whether they did.
    pub fn prove(&mut self, id: ChunkId, len: usize) -> bool {
        let end = self.start + self.len;
        let is_it = self.buffer.as_slice().get(end..end + len).is_some_and(|bytes| ChunkId::of(bytes) == id);
        if is_it {
            self.len += len;
        }
        is_it
    }

    /// Forgets what was proven, and leaves out the next `len` bytes of what was loaded.
    pub fn leave_out(&mut self, len: usize) {
        self.start += self.len + len;
        self.offset += (self.len + len) as u64;
        self.len = 0;
    }

    /// Where on the target its first byte belongs.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.buffer.as_slice()[self.start..self.start + self.len]
    }

    /// Whether `bytes` more fit.
    pub fn has_room(&self, bytes: usize) -> bool {
        self.len + bytes <= self.capacity
    }

    /// Appends the content of `sealed` if it is what its name says, else leaves everything as it was.
    pub fn open(&mut self, sealed: Sealed<'_>) -> Result<(), Damage> {
        let expected = sealed.plain_bytes as usize;
        let end = self.start + self.len;
        let Some(room) =
            self.buffer.as_mut_slice().get_mut(end..end + expected).filter(|_| expected <= CHUNK_BYTES_MAX)
        else {
            return Err(Damage::Length { expected: sealed.plain_bytes, found: sealed.bytes.len() as u64 });
        };
        let found = match sealed.encoding {
            Encoding::Stored if sealed.bytes.len() == expected => {
                room.copy_from_slice(sealed.bytes);
                expected
            }
            Encoding::Stored => sealed.bytes.len(),
            Encoding::Zstd => self.decompressor.decompress_to_buffer(sealed.bytes, room).map_err(|_| Damage::Frame)?,
        };
        if found != expected {
            return Err(Damage::Length { expected: sealed.plain_bytes, found: found as u64 });
        }
        match ChunkId::of(room) {
            id if id == sealed.id => self.len += expected,
            found => return Err(Damage::Content { found }),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(len: usize) -> Vec<u8> {
        let mut output = vec![0; len];
        blake3::Hasher::new().finalize_xof().fill(&mut output);
        output
    }

    #[test]
    fn a_chunk_is_named_by_the_blake3_of_its_content() {
        let id = ChunkId::of(b"abc");
        assert_eq!(id.to_string(), "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85");
        assert_eq!(id.to_string().parse::<ChunkId>().unwrap(), id);
        assert!("64".parse::<ChunkId>().is_err());
    }

    #[test]
    fn what_is_sealed_opens_to_the_same_bytes_and_noise_is_stored_as_it_is() {
        let mut sealer = Sealer::new().unwrap();
        let mut verified = Verified::with_capacity(1 << 20).unwrap();
        for (plain, encoding) in [(vec![7; 70_000], Encoding::Zstd), (noise(70_000), Encoding::Stored)] {
            let sealed = sealer.seal(ChunkId::of(&plain), &plain);
            assert_eq!(sealed.encoding, encoding);
            verified.begin(12345);
            verified.open(sealed).unwrap();
            verified.open(sealed).unwrap();
            assert_eq!(verified.as_bytes(), [plain.clone(), plain].concat());
            assert_eq!(verified.as_bytes().as_ptr() as usize % ALIGNMENT, 12345 % ALIGNMENT);
        }
    }

    #[test]
    fn of_what_was_loaded_only_what_is_right_is_proven() {
        let mut verified = Verified::with_capacity(3 * ALIGNMENT).unwrap();
        let (one, two, three) = (noise(3000), vec![5; 2000], noise(4000));
        let start = 12345 % ALIGNMENT;
        let loaded = [&one[..], &[6; 2000], &three].concat();
        verified.load(12345).as_mut_slice()[start..][..loaded.len()].copy_from_slice(&loaded);
        assert!(verified.as_bytes().is_empty());
        assert!(verified.prove(ChunkId::of(&one), one.len()));
        assert_eq!((verified.offset(), verified.as_bytes()), (12345, &one[..]));
        assert!(!verified.prove(ChunkId::of(&two), two.len()));
        verified.leave_out(two.len());
        assert!(verified.as_bytes().is_empty());
        assert!(verified.prove(ChunkId::of(&three), three.len()));
        assert_eq!((verified.offset(), verified.as_bytes()), (12345 + 5000, &three[..]));
        assert_eq!(verified.as_bytes().as_ptr() as usize % ALIGNMENT, (12345 + 5000) % ALIGNMENT);
        assert!(!verified.prove(ChunkId::of(&three), 4 * ALIGNMENT));
    }

    #[test]
    fn no_flipped_byte_is_ever_opened() {
        let plain: Vec<u8> = (0..4000u32).flat_map(|n| (n / 3).to_le_bytes()).collect();
        let mut sealer = Sealer::new().unwrap();
        let sealed = sealer.seal(ChunkId::of(&plain), &plain);
        let mut verified = Verified::with_capacity(1 << 20).unwrap();
        verified.begin(0);
        for at in 0..sealed.bytes.len() {
            let mut bytes = sealed.bytes.to_vec();
            bytes[at] ^= 1;
            let outcome = verified.open(Sealed { bytes: &bytes, ..sealed });
            assert!(outcome.is_err() || verified.as_bytes() == plain, "byte {at}");
            verified.begin(0);
        }
        for lie in [0, 1, plain.len() as u32 - 1, plain.len() as u32 + 1, u32::MAX] {
            assert!(verified.open(Sealed { plain_bytes: lie, ..sealed }).is_err(), "{lie}");
            assert!(verified.as_bytes().is_empty());
        }
    }
}
