//! Images of partclone, formats 0001 and 0002, as Clonezilla and FOG keep them: plain, or compressed with gzip or zstd.
//!
//! A stream: description, bitmap of the used blocks, then these blocks with checksums between them. It is unpacked to a
//! sparse file, and every CRC-32 is checked on the way. Little-endian, packed.

use super::{Error, Format, Opened};
use crate::stdx::bytes::Fields;
use crate::stdx::crc32;
use crate::stdx::file;
use crate::stdx::io::FileAt;
use std::fs::File;
use std::io::{self, BufReader, Cursor, Read, Seek};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Length of the description in format 0002 with its CRC, and of format 0001's without the unused rest.
const HEAD_BYTES: usize = 110;
const HEAD_V1_BYTES: usize = 36 + 28 + 4096;
/// partclone's own limit of a block.
const BLOCK_BYTES_MAX: u64 = 64 << 20;
/// 64 TiB in blocks of 4 KiB: more would make the bitmap alone 2 GiB.
const BLOCKS_MAX: u64 = 1 << 34;
const SIZE_MAX: u64 = 1 << 60;
/// Runs of used blocks: 64 MB of them.
const RUNS_MAX: usize = 1 << 22;
const PIECE_BYTES: usize = 1 << 20;
const CHECKSUM_NONE: u16 = 0;
const CHECKSUM_CRC32: u16 = 0x20;
const CHECKSUM_BYTES_MAX: u16 = 64;
/// How format 0001 ends its bitmap.
const BITMAP_END: &[u8; 8] = b"BiTmAgIc";

/// What was unpacked.
#[derive(Clone, Debug)]
pub struct Unpacked {
    /// Of the partition that was saved.
    pub bytes: u64,
    /// The blocks that were in use, in bytes.
    pub used: Vec<Range<u64>>,
    /// Whether each block was covered by a checksum that is known here.
    pub checked: bool,
}

/// Opens an image file by unpacking it to an unnamed file in `scratch`.
pub fn open(image: &File, scratch: &Path) -> Result<Opened, Error> {
    let unreadable = Error::unreadable(Format::Partclone);
    let mut image = image;
    image.rewind().map_err(&unreadable)?;
    let target = file::unnamed(scratch).map_err(&unreadable)?;
    let unpacked = unpack(decompressed(image)?, &target, 0)?;
    target.set_len(unpacked.bytes).map_err(&unreadable)?;
    let content = FileAt::new(target).map_err(&unreadable)?;
    let warnings = if unpacked.checked { Vec::new() } else { vec![unchecked()] };
    let stored = Some(unpacked.used);
    Ok(Opened { format: Format::Partclone, content: Box::new(content), stored, warnings })
}

/// What is said of images whose checksums are missing or of a kind that is not known.
pub fn unchecked() -> String {
    "it carries no checksums that are known here, so its blocks could not be checked".to_owned()
}

/// The plain stream of a file that may be compressed.
pub fn decompressed<'r>(image: impl Read + Send + 'r) -> Result<Box<dyn Read + Send + 'r>, Error> {
    let unreadable = Error::unreadable(Format::Partclone);
    let mut image = image;
    let mut magic = Vec::new();
    image.by_ref().take(6).read_to_end(&mut magic).map_err(&unreadable)?;
    let whole = BufReader::with_capacity(PIECE_BYTES, Cursor::new(magic.clone()).chain(image));
    match magic[..] {
        [0x1F, 0x8B, ..] => Ok(Box::new(flate2::bufread::MultiGzDecoder::new(whole))),
        [0x28, 0xB5, 0x2F, 0xFD, ..] => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(whole).map_err(&unreadable)?;
            // `zstd --long` as FOG and Clonezilla may use it; 128 MiB of memory at most.
            decoder.window_log_max(27).map_err(&unreadable)?;
            Ok(Box::new(decoder))
        }
        [0xFD, b'7', b'z', b'X', b'Z', ..]
        | [b'B', b'Z', b'h', ..]
        | [4, 0x22, 0x4D, 0x18, ..]
        | [0x89, b'L', b'Z', b'O', ..] => Err(Error::Refused {
            format: "partclone",
            what: "it is compressed with xz, bzip2, lz4 or lzop".to_owned(),
            way_out: "compress it anew: xz -dc IMAGE | zstd -o NEW",
        }),
        _ => Ok(Box::new(whole)),
    }
}

/// What the description says.
struct Head {
    bytes: u64,
    blocks: u64,
    block_bytes: u64,
    checksum_kind: u16,
    checksum_bytes: usize,
    /// Blocks between two checksums; 0 when there are none between.
    blocks_per_checksum: u64,
    /// Each checksum starts anew, instead of going on from the last.
    reseed: bool,
}

fn damaged(what: &str) -> Error {
    Error::damaged(Format::Partclone)(what)
}

/// Unpacks a plain stream into `target`, the partition's first byte at `offset`. Blocks that were not in use are not
/// touched.
pub fn unpack(mut stream: impl Read, target: &File, offset: u64) -> Result<Unpacked, Error> {
    let unreadable = Error::unreadable(Format::Partclone);
    let mut head = [0; HEAD_BYTES];
    stream.read_exact(&mut head).map_err(&unreadable)?;
    let fields = Fields(&head);
    if fields.slice(0, 15) != b"partclone-image" {
        return Err(damaged("it does not start as an image of partclone"));
    }
    if fields.slice(30, 4) == b"0001" {
        return unpack_v1(fields, stream, target, offset);
    }
    let head = Head::read(fields)?;
    let used = read_bitmap(&mut stream, &head, fields.u8(105))?;
    Blocks { stream, target, offset, head: &head, register: !0, since: 0 }.copy(&used)?;
    let checked = head.checksum_kind == CHECKSUM_CRC32;
    Ok(Unpacked { bytes: head.bytes, used: in_bytes(&used, &head), checked })
}

impl Head {
    /// Format 0002: magic 0, version 30, byte order 34, file system 36, device bytes 52, blocks 60, block bytes 84, then
    /// the options: kind of checksum 96, its bytes 98, blocks per checksum 100, reseed 104, kind of bitmap 105; CRC 106.
    fn read(fields: Fields<'_>) -> Result<Head, Error> {
        if fields.slice(30, 4) != b"0002" || fields.le16(34) != 0xC0DE {
            return Err(damaged("its format is none of 0001 and 0002, or it was made on a big-endian machine"));
        }
        if crc32::ieee_raw(!0, &fields.0[..HEAD_BYTES - 4]) != fields.le32(106) {
            return Err(damaged("its description does not match its checksum"));
        }
        let checksum_bytes = fields.le16(98);
        if checksum_bytes > CHECKSUM_BYTES_MAX {
            return Err(damaged("its checksums are too long"));
        }
        let head = Head {
            bytes: fields.le64(52),
            blocks: fields.le64(60),
            block_bytes: u64::from(fields.le32(84)),
            checksum_kind: fields.le16(96),
            checksum_bytes: if fields.le16(96) == CHECKSUM_NONE { 0 } else { usize::from(checksum_bytes) },
            blocks_per_checksum: u64::from(fields.le32(100)),
            reseed: fields.u8(104) != 0,
        };
        head.checked()
    }

    /// Format 0001: block bytes 36, device bytes 40, blocks 48.
    fn read_v1(fields: Fields<'_>) -> Result<Head, Error> {
        let head = Head {
            bytes: fields.le64(40),
            blocks: fields.le64(48),
            block_bytes: u64::from(fields.le32(36)),
            checksum_kind: CHECKSUM_NONE,
            checksum_bytes: 4,
            blocks_per_checksum: 1,
            reseed: false,
        };
        head.checked()
    }

    fn checked(mut self) -> Result<Head, Error> {
        let fits = (1..=BLOCK_BYTES_MAX).contains(&self.block_bytes) && self.blocks <= BLOCKS_MAX;
        let bytes = self.blocks.checked_mul(self.block_bytes).filter(|bytes| fits && *bytes <= SIZE_MAX);
        let bytes = bytes.ok_or_else(|| damaged("its sizes are none that partclone makes"))?;
        if self.bytes > SIZE_MAX {
            return Err(damaged("its device is larger than any"));
        }
        // The last block of some file systems is only partly on the device.
        if self.bytes < bytes && bytes - self.bytes >= self.block_bytes {
            self.bytes = bytes;
        }
        Ok(self)
    }
}

/// The runs of used blocks. Kind 1 has a bit each (least significant first) and ends with its CRC, kind 8 a byte, kind 0
/// is no bitmap: all are used.
fn read_bitmap(stream: &mut impl Read, head: &Head, kind: u8) -> Result<Vec<Range<u64>>, Error> {
    let unreadable = Error::unreadable(Format::Partclone);
    let mut runs = Runs(Vec::new());
    let per_byte = match kind {
        0 => return Ok(std::iter::once(0..head.blocks).filter(|run| run.end > 0).collect()),
        1 => 8,
        8 => 1,
        _ => return Err(damaged("its bitmap is of a kind that is not known here")),
    };
    let (mut block, mut register, mut piece) = (0, !0, vec![0; PIECE_BYTES]);
    while block < head.blocks {
        let left = (head.blocks - block).div_ceil(per_byte).min(PIECE_BYTES as u64) as usize;
        stream.read_exact(&mut piece[..left]).map_err(&unreadable)?;
        register = crc32::ieee_raw(register, &piece[..left]);
        for byte in &piece[..left] {
            let here = per_byte.min(head.blocks - block);
            let used = |bit: &u64| if per_byte == 1 { *byte == 1 } else { byte >> bit & 1 == 1 };
            (0..here).filter(used).try_for_each(|bit| runs.push(block + bit))?;
            block += here;
        }
    }
    let mut end = [0; 8];
    let end = if kind == 1 { &mut end[..4] } else { &mut end[..] };
    stream.read_exact(end).map_err(&unreadable)?;
    let sound = if kind == 1 { *end == register.to_le_bytes() } else { end == BITMAP_END };
    if sound { Ok(runs.0) } else { Err(damaged("its bitmap does not match its checksum")) }
}

struct Runs(Vec<Range<u64>>);

impl Runs {
    fn push(&mut self, block: u64) -> Result<(), Error> {
        let full = self.0.len() >= RUNS_MAX;
        match self.0.last_mut().filter(|run| run.end == block) {
            Some(run) => run.end += 1,
            None if full => return Err(damaged("it is in too many pieces")),
            None => self.0.push(block..block + 1),
        }
        Ok(())
    }
}

fn in_bytes(used: &[Range<u64>], head: &Head) -> Vec<Range<u64>> {
    let end = |run: &Range<u64>| (run.end * head.block_bytes).min(head.bytes);
    used.iter().map(|run| run.start * head.block_bytes..end(run)).collect()
}

/// The blocks of a stream on their way to a file.
struct Blocks<'a, R> {
    stream: R,
    target: &'a File,
    offset: u64,
    head: &'a Head,
    register: u32,
    /// Blocks since the last checksum.
    since: u64,
}

impl<R: Read> Blocks<'_, R> {
    fn copy(mut self, used: &[Range<u64>]) -> Result<(), Error> {
        let mut piece = vec![0; PIECE_BYTES.max(self.head.block_bytes as usize)];
        for run in used {
            let mut block = run.start;
            while block < run.end {
                let room = piece.len() as u64 / self.head.block_bytes;
                let until_checksum = match self.head.blocks_per_checksum {
                    0 => u64::MAX,
                    every => every - self.since,
                };
                let count = (run.end - block).min(room).min(until_checksum);
                self.copy_blocks(block, &mut piece[..(count * self.head.block_bytes) as usize])?;
                block += count;
                self.since += count;
                if self.since == self.head.blocks_per_checksum {
                    self.check()?;
                }
            }
        }
        let open = self.head.blocks_per_checksum > 0 && self.since > 0;
        if open { self.check() } else { Ok(()) }
    }

    fn copy_blocks(&mut self, block: u64, bytes: &mut [u8]) -> Result<(), Error> {
        let unreadable = Error::unreadable(Format::Partclone);
        self.stream.read_exact(bytes).map_err(&unreadable)?;
        if self.head.checksum_kind == CHECKSUM_CRC32 {
            self.register = crc32::ieee_raw(self.register, bytes);
        }
        let start = block * self.head.block_bytes;
        let len = (bytes.len() as u64).min(self.head.bytes.saturating_sub(start)) as usize;
        self.target.write_all_at(&bytes[..len], self.offset + start).map_err(&unreadable)
    }

    fn check(&mut self) -> Result<(), Error> {
        let mut sum = [0; CHECKSUM_BYTES_MAX as usize];
        let sum = &mut sum[..self.head.checksum_bytes];
        self.stream.read_exact(sum).map_err(Error::unreadable(Format::Partclone))?;
        if self.head.checksum_kind == CHECKSUM_CRC32 && *sum != self.register.to_le_bytes() {
            return Err(damaged("a block does not match its checksum"));
        }
        if self.head.reseed {
            self.register = !0;
        }
        self.since = 0;
        Ok(())
    }
}

/// Format 0001: a checksum after every block that covers nothing but each block's first byte, and which a faulty version
/// wrote in 8 bytes instead of 4. Which it was, the second block tells.
fn unpack_v1(start: Fields<'_>, mut stream: impl Read, target: &File, offset: u64) -> Result<Unpacked, Error> {
    let unreadable = Error::unreadable(Format::Partclone);
    let mut head = Head::read_v1(start)?;
    io::copy(&mut stream.by_ref().take((HEAD_V1_BYTES - HEAD_BYTES) as u64), &mut io::sink()).map_err(&unreadable)?;
    let used = read_bitmap(&mut stream, &head, 8)?;
    let block = head.block_bytes as usize;
    let mut first = Vec::new();
    stream.by_ref().take(2 * (head.block_bytes + 8)).read_to_end(&mut first).map_err(&unreadable)?;
    let sum = |gap: usize| {
        let byte = |at: usize| Fields(&first).u8(at);
        let register = checksum_v1(checksum_v1(!0, byte(0), block), byte(block + gap), block);
        Fields(&first).le32(2 * block + gap) == register
    };
    if first.len() > block + 8 && !sum(4) && sum(8) {
        head.checksum_bytes = 8;
    }
    let stream = Cursor::new(&first).chain(stream);
    Blocks { stream, target, offset, head: &head, register: !0, since: 0 }.copy(&used)?;
    Ok(Unpacked { bytes: head.bytes, used: in_bytes(&used, &head), checked: false })
}

/// The register after the first byte of a block, taken as often as the block has bytes.
fn checksum_v1(register: u32, byte: u8, times: usize) -> u32 {
    (0..times).fold(register, |register, _| crc32::ieee_raw(register, &[byte]))
}
