//! A disk whose parts lie scattered over one or several files, plain or packed.

use crate::stdx::io::ReadAt;
use std::collections::VecDeque;
use std::io::{self, Read};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// Extents that a list may have: 160 MB of them, which is 256 GiB in single clusters of 64 KiB.
pub const EXTENTS_MAX: usize = 1 << 22;
/// Unpacked clusters that are kept, for reads that end within one and go on there.
const KEPT: usize = 8;

/// `start..start + len` of the disk and where it is stored. What lies in no extent reads as zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    pub start: u64,
    pub len: u64,
    pub place: Place,
}

/// Where an extent is stored: at which byte of which file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Plain { file: u16, at: u64 },
    Packed { at: u64, bytes: u32, codec: Codec },
}

/// How a single cluster is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// RFC 1951, without a wrapper.
    Deflate,
    /// RFC 1950.
    Zlib,
    Zstd,
}

/// A list of extents under construction, in ascending order, joined where they touch on both sides.
#[derive(Default)]
pub struct Extents(Vec<Extent>);

impl Extents {
    /// Adds an extent behind all others; `None` when the list is full, or it is not behind them.
    pub fn push(&mut self, extent: Extent) -> Option<()> {
        let full = self.0.len() >= EXTENTS_MAX;
        let last = self.0.last_mut();
        if last.as_ref().is_some_and(|last| last.start + last.len > extent.start) {
            return None;
        }
        match last {
            Some(last) if last.goes_on_with(&extent) => last.len += extent.len,
            _ if full => return None,
            _ => self.0.push(extent),
        }
        Some(())
    }
}

impl Extent {
    fn goes_on_with(&self, next: &Extent) -> bool {
        match (self.place, next.place) {
            (Place::Plain { file, at }, Place::Plain { file: next_file, at: next_at }) => {
                file == next_file && self.start + self.len == next.start && at + self.len == next_at
            }
            _ => false,
        }
    }
}

/// The disk of `size` bytes that the extents make.
pub struct Mapped {
    files: Vec<Box<dyn ReadAt>>,
    size: u64,
    extents: Vec<Extent>,
    /// Start of a packed extent, and its plain bytes.
    kept: Mutex<VecDeque<(u64, Arc<Vec<u8>>)>>,
}

impl Mapped {
    /// Extents beyond `size` are cut off.
    pub fn new(files: Vec<Box<dyn ReadAt>>, size: u64, extents: Extents) -> Mapped {
        Mapped { files, size, extents: extents.0, kept: Mutex::default() }
    }

    /// The ranges that are stored.
    pub fn stored(&self) -> Vec<Range<u64>> {
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for extent in self.extents.iter().filter(|extent| extent.start < self.size) {
            let end = (extent.start + extent.len).min(self.size);
            match ranges.last_mut().filter(|last| last.end == extent.start) {
                Some(last) => last.end = end,
                None => ranges.push(extent.start..end),
            }
        }
        ranges
    }

    /// Fills `buffer` from `skip` bytes within an extent.
    fn read_extent(&self, extent: &Extent, skip: u64, buffer: &mut [u8]) -> io::Result<()> {
        match extent.place {
            Place::Plain { file, at } => {
                let file = self.files.get(usize::from(file)).ok_or(io::ErrorKind::NotFound)?;
                read_padded(file, buffer, at + skip)
            }
            Place::Packed { at, bytes, codec } => {
                let plain = self.unpacked(extent, at, bytes, codec)?;
                let from = plain.get(skip as usize..).unwrap_or_default();
                buffer.copy_from_slice(from.get(..buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?);
                Ok(())
            }
        }
    }

    fn unpacked(&self, extent: &Extent, at: u64, bytes: u32, codec: Codec) -> io::Result<Arc<Vec<u8>>> {
        let lock = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, plain)) = lock().iter().find(|(start, _)| *start == extent.start) {
            return Ok(plain.clone());
        }
        let file = self.files.first().ok_or(io::ErrorKind::NotFound)?;
        let mut packed = vec![0; bytes as usize];
        read_padded(file, &mut packed, at)?;
        let plain = Arc::new(unpack(&packed, extent.len as usize, codec)?);
        let mut kept = lock();
        kept.push_back((extent.start, plain.clone()));
        if kept.len() > KEPT {
            kept.pop_front();
        }
        Ok(plain)
    }
}

/// Exactly `len` bytes out of a packed cluster; what it claims beyond is not looked at.
fn unpack(packed: &[u8], len: usize, codec: Codec) -> io::Result<Vec<u8>> {
    let mut plain = vec![0; len];
    match codec {
        Codec::Deflate => flate2::read::DeflateDecoder::new(packed).read_exact(&mut plain)?,
        Codec::Zlib => flate2::read::ZlibDecoder::new(packed).read_exact(&mut plain)?,
        Codec::Zstd => zstd::stream::read::Decoder::new(packed)?.read_exact(&mut plain)?,
    }
    Ok(plain)
}

/// Reads what the file has; the last sector of an image may be cut short, and the rest of it is then zero.
fn read_padded(file: &dyn ReadAt, buffer: &mut [u8], at: u64) -> io::Result<()> {
    let there = file.size().saturating_sub(at).min(buffer.len() as u64) as usize;
    let (head, tail) = buffer.split_at_mut(there);
    tail.fill(0);
    if there == 0 { Ok(()) } else { file.read_exact_at(head, at) }
}

impl ReadAt for Mapped {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buffer.len() as u64).filter(|end| *end <= self.size);
        let end = end.ok_or(io::ErrorKind::UnexpectedEof)?;
        let mut at = offset;
        let mut index = self.extents.partition_point(|extent| extent.start + extent.len <= offset);
        while at < end {
            let here = &mut buffer[(at - offset) as usize..];
            let next = self.extents.get(index).filter(|extent| extent.start < end);
            let zeros = next.map_or(end, |extent| extent.start).saturating_sub(at);
            if zeros > 0 {
                here[..zeros as usize].fill(0);
                at += zeros;
            } else if let Some(extent) = next {
                let skip = at - extent.start;
                let len = (extent.len - skip).min(end - at);
                self.read_extent(extent, skip, &mut here[..len as usize])?;
                at += len;
                index += 1;
            }
        }
        Ok(())
    }
}
