//! The document of a tree image: which files there are and which contents are theirs. `docs/formats/tree.md`.
//!
//! ```text
//! 0       "RMNTTRE1"
//! 8       number of contents C (8), number of link targets L (8), bytes of metadata M (8)
//! 32      C contents of 28 bytes, in the order in which they lie in the image, without gaps: length (8), SHA-1 (20)
//! 32+28C  L link targets (reparse data), which lie in no chunk: SHA-1 (20), length (4), that many bytes
//! end-M   the names and all that is no content, as the metadata resource of a WIM (docs/formats/wim.md)
//! ```
//! All numbers are little-endian.

use std::collections::HashMap;
use std::ops::Range;

use crate::imaging::manifest::{Extent, Manifest};
use crate::imaging::wim::format::Sha1;
use crate::imaging::wim::metadata::{self, METADATA_BYTES_MAX};
use crate::imaging::wim::reparse;
use crate::imaging::wim::tree::Tree;

const MAGIC: &[u8; 8] = b"RMNTTRE1";
const HEADER_BYTES: usize = 32;
const CONTENT_BYTES: usize = 28;
const LINK_BYTES: usize = 24;

/// Metadata as large as a WIM may have, and five million contents.
pub const DOCUMENT_BYTES_MAX: u64 = METADATA_BYTES_MAX + (140 << 20);

/// A content of one or many files.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Content {
    pub hash: Sha1,
    pub bytes: u64,
}

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Document {
    /// In the order in which they lie in the image.
    pub contents: Vec<Content>,
    /// Reparse data by its SHA-1: short, and needed before anything is written.
    pub links: Vec<(Sha1, Vec<u8>)>,
    pub tree: Tree,
}

/// Why bytes are no document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("it is no document of a tree")]
    Magic,
    #[error("it is cut short")]
    Short,
    #[error("it counts more than it can hold")]
    Count,
    #[error("its contents are not those of the image")]
    Contents,
    #[error("its files at byte {offset}: {what}")]
    Metadata { offset: usize, what: &'static str },
}

impl Document {
    pub fn emit(&self) -> Vec<u8> {
        let metadata = metadata::emit(&self.tree);
        let mut bytes = Vec::with_capacity(metadata.len() + HEADER_BYTES + self.contents.len() * CONTENT_BYTES);
        bytes.extend_from_slice(MAGIC);
        for number in [self.contents.len(), self.links.len(), metadata.len()] {
            bytes.extend_from_slice(&(number as u64).to_le_bytes());
        }
        for content in &self.contents {
            bytes.extend_from_slice(&content.bytes.to_le_bytes());
            bytes.extend_from_slice(&content.hash.0);
        }
        for (hash, data) in &self.links {
            bytes.extend_from_slice(&hash.0);
            bytes.extend_from_slice(&(data.len() as u32).to_le_bytes());
            bytes.extend_from_slice(data);
        }
        bytes.extend_from_slice(&metadata);
        bytes
    }

    /// Reads a document whose contents take `contents_bytes` in all.
    pub fn parse(bytes: &[u8], contents_bytes: u64) -> Result<Document, Fault> {
        let (header, mut rest) = bytes.split_at_checked(HEADER_BYTES).ok_or(Fault::Short)?;
        if &header[..8] != MAGIC {
            return Err(Fault::Magic);
        }
        let count = |at: usize| usize::try_from(word(&header[at..])).map_err(|_| Fault::Count);
        let (contents, links, metadata) = (count(8)?, count(16)?, count(24)?);
        if contents > bytes.len() / CONTENT_BYTES || links > bytes.len() / LINK_BYTES {
            return Err(Fault::Count);
        }
        let contents = (0..contents).map(|_| take_content(&mut rest)).collect::<Result<Vec<_>, Fault>>()?;
        let total = contents.iter().try_fold(0u64, |total, content| total.checked_add(content.bytes));
        if total != Some(contents_bytes) || contents.iter().any(|content| content.bytes == 0) {
            return Err(Fault::Contents);
        }
        let links = (0..links).map(|_| take_link(&mut rest)).collect::<Result<Vec<_>, Fault>>()?;
        if rest.len() != metadata {
            return Err(Fault::Short);
        }
        let (tree, faults) = metadata::parse(rest);
        match faults.first() {
            Some(fault) => Err(Fault::Metadata { offset: fault.offset, what: fault.what }),
            None => Ok(Document { contents, links, tree }),
        }
    }
}

fn take_content(rest: &mut &[u8]) -> Result<Content, Fault> {
    let record = take(rest, CONTENT_BYTES)?;
    Ok(Content { bytes: word(record), hash: sha1(&record[8..]) })
}

fn take_link(rest: &mut &[u8]) -> Result<(Sha1, Vec<u8>), Fault> {
    let header = take(rest, LINK_BYTES)?;
    let len = u32::from_le_bytes([header[20], header[21], header[22], header[23]]);
    match u64::from(len) <= reparse::DATA_BYTES_MAX {
        true => Ok((sha1(header), take(rest, len as usize)?.to_vec())),
        false => Err(Fault::Count),
    }
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> Result<&'a [u8], Fault> {
    let (taken, left) = rest.split_at_checked(len).ok_or(Fault::Short)?;
    *rest = left;
    Ok(taken)
}

/// The first 8 of at least 8 bytes.
fn word(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(*bytes.first_chunk().expect("8 bytes were taken"))
}

/// The first 20 of at least 20 bytes.
fn sha1(bytes: &[u8]) -> Sha1 {
    Sha1(*bytes.first_chunk().expect("20 bytes were taken"))
}

/// Where contents lie in an image.
pub struct Layout {
    /// The start of each content, and the end of the last.
    starts: Vec<u64>,
    by_hash: HashMap<Sha1, usize>,
}

impl Layout {
    pub fn new(contents: &[Content]) -> Layout {
        let mut starts = Vec::with_capacity(contents.len() + 1);
        let mut at = 0;
        starts.push(at);
        for content in contents {
            at += content.bytes;
            starts.push(at);
        }
        let by_hash = contents.iter().enumerate().map(|(number, content)| (content.hash, number)).collect();
        Layout { starts, by_hash }
    }

    pub fn find(&self, hash: &Sha1) -> Option<usize> {
        self.by_hash.get(hash).copied()
    }

    pub fn range(&self, content: usize) -> Range<u64> {
        self.starts[content]..self.starts[content + 1]
    }

    /// The content that byte `offset` of the image belongs to; `None` for the document.
    pub fn content_at(&self, offset: u64) -> Option<usize> {
        let content = self.starts.partition_point(|start| *start <= offset).checked_sub(1)?;
        (content + 1 < self.starts.len()).then_some(content)
    }

    /// Numbers of the extents of `manifest` that lie in `range`, which no extent crosses the ends of.
    pub fn extents(manifest: &Manifest, range: &Range<u64>) -> Range<usize> {
        let from = |at: u64| manifest.extents.partition_point(|extent: &Extent| extent.offset < at);
        from(range.start)..from(range.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::imaging::wim::metadata::empty_root;
    use crate::imaging::wim::tree::{Entry, UnixData};
    use proptest::prelude::*;

    fn sample() -> Document {
        let content = |n: u8| Content { hash: Sha1([n; 20]), bytes: u64::from(n) * 1000 };
        let file = |name: &str, n: u8| Entry {
            name: name.encode_utf16().collect(),
            attributes: 0x20,
            content: Sha1([n; 20]),
            unix: Some(UnixData { uid: 1, gid: 2, mode: 0o100_644, device: 0 }),
            ..Entry::default()
        };
        let entries = vec![empty_root(), file("a", 1), file("b", 2)];
        let links = vec![(Sha1([9; 20]), b"target".to_vec())];
        Document {
            contents: vec![content(1), content(2)],
            links,
            tree: Tree { entries, descriptors: vec![vec![1; 8]] },
        }
    }

    #[test]
    fn a_document_that_is_emitted_parses_back() {
        let document = sample();
        assert_eq!(Document::parse(&document.emit(), 3000).unwrap(), document);
        assert_eq!(Document::parse(&document.emit(), 2999), Err(Fault::Contents));
    }

    #[test]
    fn contents_are_found_by_their_place() {
        let layout = Layout::new(&sample().contents);
        for (offset, content) in [(0, Some(0)), (999, Some(0)), (1000, Some(1)), (2999, Some(1)), (3000, None)] {
            assert_eq!(layout.content_at(offset), content, "{offset}");
        }
        assert_eq!(layout.range(1), 1000..3000);
        assert_eq!(layout.find(&Sha1([2; 20])), Some(1));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(at in 0usize..600, byte in any::<u8>(), len in 0usize..600, garbage: Vec<u8>) {
            let mut bytes = sample().emit();
            let at = at % bytes.len();
            bytes[at] = byte;
            bytes.truncate(len.max(at));
            let _ = Document::parse(&bytes, 3000);
            let _ = Document::parse(&garbage, 0);
        }
    }
}
