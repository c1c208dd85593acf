//! Manifests: what a version of an image consists of, as bytes that are signed. `docs/formats/manifest.md` is the format.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::access::signing::{PublicKey, SIGNATURE_BYTES, SigningKey};
use crate::imaging::chunk::{CHUNK_BYTES_MAX, ChunkId, ParseNameError};
use crate::stdx::hex;
use crate::stdx::time::Timestamp;

const MAGIC: &[u8; 8] = b"RMNTMAN1";
const FORMAT: u32 = 1;
const SIGNATURE_MAGIC: &[u8; 8] = b"RMNTSIG1";
/// Public key, signature, magic.
const TRAILER_BYTES: usize = 32 + SIGNATURE_BYTES + 8;
/// What stands before the SHA-256 in the bytes that are signed, so that no other signature of the key fits.
const SIGNED_CONTEXT: &[u8] = b"remint manifest 1\n";

/// Ten million chunks: a disk of 800 GB of content.
pub const MANIFEST_BYTES_MAX: usize = 400 << 20;
/// A partition table and a page of remarks take some KB.
const HEADER_BYTES_MAX: usize = 1 << 20;

const RUN_BYTES: usize = 12;
const CHUNK_BYTES: usize = 36;
const ZERO_BYTES: usize = 16;

/// What is wrong with the bytes of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("it is no manifest")]
    Magic,
    #[error("it is of format {0}, which this release does not know")]
    Format(u32),
    #[error("it is cut short")]
    Short,
    #[error("it is larger than {MANIFEST_BYTES_MAX} bytes")]
    Large,
    #[error("its header does not parse: {0}")]
    Header(String),
    #[error("it holds a `{0}` section, which this release does not know")]
    Section(String),
    #[error("{0}")]
    Content(&'static str),
    #[error("it is not signed by this site")]
    Signature,
}

/// What the image is of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A whole disk, or a partition.
    Disk,
    /// The content of one file: a package's payload.
    File,
    /// Files of any geometry: the distinct contents one behind the other, then the document that says whose they are
    /// (`docs/formats/tree.md`).
    Tree,
    #[serde(other)]
    Unknown,
}

/// The part that people read.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Header {
    pub kind: Kind,
    /// Bytes of the disk or file.
    pub size: u64,
    /// Logical sector of the disk, 512 or 4096 bytes.
    #[serde(default = "sector_bytes_usual")]
    pub sector_bytes: u32,
    pub created: Timestamp,
    /// The smallest disk on which everything but the second copy of the partition table fits; 0 when that is `size`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub needed_bytes: u64,
    /// What it was made from, in words.
    #[serde(default)]
    pub source: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub partitions: Vec<Partition>,
    /// What a person should know: a partition that was taken whole, sectors that could not be read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<String>,
    /// Of a tree, and of nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tree: Option<TreeHeader>,
}

/// What people want to know of a tree before its document is read.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TreeHeader {
    /// The document is the last bytes of the image.
    pub document_bytes: u64,
    pub folders: u64,
    /// Names that are no folders.
    pub files: u64,
    /// Of all files together, as often as they have names.
    pub files_bytes: u64,
    /// Of these, what further names of the same file count.
    pub hard_link_bytes: u64,
    /// What the WIM called the image it came from; of a folder, its name.
    pub name: String,
    pub description: String,
    /// Windows' edition.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub edition: String,
    /// When the WIM was made, 100 ns units since 1601; 0 when the tree was read from a folder at `created`.
    #[serde(skip_serializing_if = "is_zero")]
    pub captured: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub modified: u64,
    /// Elements of the WIM's XML that are not in the fields above (and the edition), to be written back as they are.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub xml: String,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn sector_bytes_usual() -> u32 {
    512
}

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Partition {
    /// 1-based; 0 when the file system lies on the disk without a table.
    pub number: u32,
    pub start: u64,
    pub size: u64,
    /// Type as its table writes it: GUID of GPT, two digits of MBR.
    pub type_id: String,
    pub name: String,
    /// `ext4`, `ntfs`, `swap`, `crypto_LUKS`; empty when nothing was recognised.
    pub filesystem: String,
    pub label: String,
    pub uuid: String,
    pub used_bytes: u64,
}

/// `len` bytes at `offset` are the content of `chunk`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    pub offset: u64,
    pub len: u32,
    pub chunk: ChunkId,
}

impl Extent {
    pub fn end(&self) -> u64 {
        self.offset + u64::from(self.len)
    }
}

/// A sound manifest: extents and zero ranges are sorted, lie within `header.size` and do not overlap. What neither of them
/// covers is free: it may hold anything.
#[derive(Clone, PartialEq, Debug)]
pub struct Manifest {
    pub header: Header,
    pub extents: Vec<Extent>,
    /// What must read as zero.
    pub zeros: Vec<Range<u64>>,
}

/// SHA-256 of the manifest; written as 64 hexadecimal digits. The name of a version.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VersionId(pub [u8; 32]);

impl fmt::Display for VersionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::emit(&self.0))
    }
}

impl fmt::Debug for VersionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for VersionId {
    type Err = ParseNameError;

    fn from_str(text: &str) -> Result<Self, ParseNameError> {
        hex::parse_array(text).map(VersionId).ok_or(ParseNameError)
    }
}

impl TryFrom<String> for VersionId {
    type Error = ParseNameError;

    fn try_from(text: String) -> Result<Self, ParseNameError> {
        text.parse()
    }
}

impl From<VersionId> for String {
    fn from(id: VersionId) -> String {
        id.to_string()
    }
}

/// A manifest as it is stored and travels: its bytes and the site's signature over them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Signed {
    bytes: Vec<u8>,
}

impl Signed {
    /// Signs `manifest` with the key of the site.
    pub fn sign(manifest: &Manifest, key: &SigningKey) -> Signed {
        let mut bytes = manifest.emit();
        let signature = key.sign(&signed_bytes(version_id(&bytes)));
        bytes.extend_from_slice(&key.public().0);
        bytes.extend_from_slice(&signature);
        bytes.extend_from_slice(SIGNATURE_MAGIC);
        Signed { bytes }
    }

    /// Takes bytes that came from somewhere; nothing is known about them yet.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Signed, Fault> {
        match bytes.len() {
            len if len > MANIFEST_BYTES_MAX => Err(Fault::Large),
            len if len < TRAILER_BYTES || !bytes.ends_with(SIGNATURE_MAGIC) => Err(Fault::Short),
            _ => Ok(Signed { bytes }),
        }
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn version(&self) -> VersionId {
        version_id(self.unsigned())
    }

    /// The manifest, if the owner of `key` signed exactly these bytes.
    pub fn verify(&self, key: &PublicKey) -> Result<Manifest, Fault> {
        let trailer = &self.bytes[self.bytes.len() - TRAILER_BYTES..];
        let (signer, signature) = (&trailer[..32], &trailer[32..32 + SIGNATURE_BYTES]);
        if signer != key.0 || !key.accepts(&signed_bytes(self.version()), signature) {
            return Err(Fault::Signature);
        }
        Manifest::parse(self.unsigned())
    }

    fn unsigned(&self) -> &[u8] {
        &self.bytes[..self.bytes.len() - TRAILER_BYTES]
    }
}

fn version_id(manifest: &[u8]) -> VersionId {
    VersionId(Sha256::digest(manifest).into())
}

fn signed_bytes(version: VersionId) -> Vec<u8> {
    [SIGNED_CONTEXT, &version.0].concat()
}

impl Manifest {
    /// Bytes of content, without zeros and free space.
    pub fn content_bytes(&self) -> u64 {
        self.extents.iter().map(|extent| u64::from(extent.len)).sum()
    }

    pub fn zero_bytes(&self) -> u64 {
        self.zeros.iter().map(|range| range.end - range.start).sum()
    }

    /// How large a target must be.
    pub fn needed_bytes(&self) -> u64 {
        match self.header.needed_bytes {
            0 => self.header.size,
            needed => needed.min(self.header.size),
        }
    }

    pub fn emit(&self) -> Vec<u8> {
        let header = serde_json::to_vec(&self.header).expect("a header has only strings and numbers");
        let mut bytes = Vec::with_capacity(self.extents.len() * CHUNK_BYTES + header.len() + 1024);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        bytes.extend_from_slice(&(header.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&header);
        emit_section(&mut bytes, b"RUNS", |out| {
            for run in self.extents.chunk_by(|a, b| a.end() == b.offset) {
                out.extend_from_slice(&run[0].offset.to_le_bytes());
                out.extend_from_slice(&(run.len() as u32).to_le_bytes());
            }
        });
        emit_section(&mut bytes, b"CHNK", |out| {
            for extent in &self.extents {
                out.extend_from_slice(&extent.len.to_le_bytes());
                out.extend_from_slice(&extent.chunk.0);
            }
        });
        emit_section(&mut bytes, b"ZERO", |out| {
            for range in &self.zeros {
                out.extend_from_slice(&range.start.to_le_bytes());
                out.extend_from_slice(&(range.end - range.start).to_le_bytes());
            }
        });
        bytes
    }

    pub fn parse(bytes: &[u8]) -> Result<Manifest, Fault> {
        let mut rest = bytes;
        if take(&mut rest, 8).map_err(|_| Fault::Magic)? != MAGIC {
            return Err(Fault::Magic);
        }
        match take_u32(&mut rest)? {
            FORMAT => {}
            other => return Err(Fault::Format(other)),
        }
        let header = parse_header(&mut rest)?;
        let (mut runs, mut chunks, mut zeros): (&[u8], &[u8], &[u8]) = (&[], &[], &[]);
        while !rest.is_empty() {
            let (tag, body) = take_section(&mut rest)?;
            match tag {
                b"RUNS" => runs = body,
                b"CHNK" => chunks = body,
                b"ZERO" => zeros = body,
                // A lower-case first letter marks what a reader may leave out, as PNG does.
                [first, ..] if first.is_ascii_lowercase() => {}
                other => return Err(Fault::Section(other.escape_ascii().to_string())),
            }
        }
        let extents = parse_extents(runs, chunks)?;
        let zeros = parse_zeros(zeros)?;
        check_order(&header, &extents, &zeros)?;
        Ok(Manifest { header, extents, zeros })
    }
}

fn emit_section(bytes: &mut Vec<u8>, tag: &[u8; 4], body: impl FnOnce(&mut Vec<u8>)) {
    bytes.extend_from_slice(tag);
    let at = bytes.len();
    bytes.extend_from_slice(&[0; 8]);
    body(bytes);
    let len = (bytes.len() - at - 8) as u64;
    bytes[at..at + 8].copy_from_slice(&len.to_le_bytes());
}

fn parse_header(rest: &mut &[u8]) -> Result<Header, Fault> {
    let len = take_u32(rest)? as usize;
    if len > HEADER_BYTES_MAX {
        return Err(Fault::Content("its header is too large"));
    }
    let header: Header = serde_json::from_slice(take(rest, len)?).map_err(|error| Fault::Header(error.to_string()))?;
    match header.kind {
        Kind::Unknown => Err(Fault::Content("it is of a kind that this release does not know")),
        Kind::Tree if header.tree.as_ref().is_none_or(|tree| tree.document_bytes > header.size) => {
            Err(Fault::Content("it is of a tree and does not say where the document is"))
        }
        _ => Ok(header),
    }
}

fn parse_extents(mut runs: &[u8], mut chunks: &[u8]) -> Result<Vec<Extent>, Fault> {
    if !runs.len().is_multiple_of(RUN_BYTES) || !chunks.len().is_multiple_of(CHUNK_BYTES) {
        return Err(Fault::Short);
    }
    let mut extents = Vec::with_capacity(chunks.len() / CHUNK_BYTES);
    while !runs.is_empty() {
        let mut offset = take_u64(&mut runs)?;
        for _ in 0..take_u32(&mut runs)? {
            let len = take_u32(&mut chunks)?;
            if len == 0 || len as usize > CHUNK_BYTES_MAX {
                return Err(Fault::Content("a chunk has an impossible length"));
            }
            let mut chunk = ChunkId([0; 32]);
            chunk.0.copy_from_slice(take(&mut chunks, 32)?);
            extents.push(Extent { offset, len, chunk });
            offset = offset.checked_add(u64::from(len)).ok_or(Fault::Content("a run passes the end of the numbers"))?;
        }
    }
    if !chunks.is_empty() {
        return Err(Fault::Content("it lists chunks that have no place"));
    }
    Ok(extents)
}

fn parse_zeros(mut bytes: &[u8]) -> Result<Vec<Range<u64>>, Fault> {
    if !bytes.len().is_multiple_of(ZERO_BYTES) {
        return Err(Fault::Short);
    }
    let mut zeros = Vec::with_capacity(bytes.len() / ZERO_BYTES);
    while !bytes.is_empty() {
        let (start, len) = (take_u64(&mut bytes)?, take_u64(&mut bytes)?);
        let end = start.checked_add(len).ok_or(Fault::Content("a zero range passes the end of the numbers"))?;
        zeros.push(start..end);
    }
    Ok(zeros)
}

/// Everything sorted, within the size, nothing twice.
fn check_order(header: &Header, extents: &[Extent], zeros: &[Range<u64>]) -> Result<(), Fault> {
    let mut zeros = zeros.iter().cloned().peekable();
    let mut covered = 0;
    let mut next = |range: Range<u64>| {
        let sound = covered <= range.start && range.start < range.end && range.end <= header.size;
        covered = range.end;
        sound.then_some(()).ok_or(Fault::Content("its ranges overlap, are out of order or pass the end of the disk"))
    };
    for extent in extents {
        while let Some(zero) = zeros.next_if(|zero| zero.start < extent.offset) {
            next(zero)?;
        }
        next(extent.offset..extent.end())?;
    }
    zeros.try_for_each(next)
}

fn take_section<'a>(rest: &mut &'a [u8]) -> Result<(&'a [u8], &'a [u8]), Fault> {
    let tag = take(rest, 4)?;
    let len = usize::try_from(take_u64(rest)?).map_err(|_| Fault::Short)?;
    Ok((tag, take(rest, len)?))
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> Result<&'a [u8], Fault> {
    let (taken, left) = rest.split_at_checked(len).ok_or(Fault::Short)?;
    *rest = left;
    Ok(taken)
}

fn take_u32(rest: &mut &[u8]) -> Result<u32, Fault> {
    let bytes = take(rest, 4)?.first_chunk().ok_or(Fault::Short)?;
    Ok(u32::from_le_bytes(*bytes))
}

fn take_u64(rest: &mut &[u8]) -> Result<u64, Fault> {
    let bytes = take(rest, 8)?.first_chunk().ok_or(Fault::Short)?;
    Ok(u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key() -> SigningKey {
        let folder = tempfile::tempdir().unwrap();
        SigningKey::create(&folder.path().join("key")).unwrap()
    }

    fn header(size: u64) -> Header {
        Header {
            kind: Kind::Disk,
            size,
            sector_bytes: 512,
            created: Timestamp::from_milliseconds(1_700_000_000_000),
            needed_bytes: 0,
            source: "disk.img".into(),
            partitions: vec![Partition { number: 1, filesystem: "ext4".into(), ..Partition::default() }],
            remarks: vec![],
            tree: None,
        }
    }

    fn extent(offset: u64, len: u32) -> Extent {
        Extent { offset, len, chunk: ChunkId::of(&offset.to_le_bytes()) }
    }

    fn sample() -> Manifest {
        let extents = vec![extent(0, 100), extent(100, 50), extent(400, 7)];
        Manifest { header: header(1000), extents, zeros: vec![150..200, 500..1000] }
    }

    #[test]
    fn a_manifest_that_is_emitted_parses_back() {
        assert_eq!(Manifest::parse(&sample().emit()).unwrap(), sample());
        assert_eq!(sample().content_bytes(), 157);
        assert_eq!(sample().needed_bytes(), 1000);
    }

    #[test]
    fn only_what_the_site_signed_verifies() {
        let (key, other) = (key(), key());
        let signed = Signed::sign(&sample(), &key);
        let public = key.public();
        assert_eq!(signed.verify(&public).unwrap(), sample());
        assert_eq!(signed.verify(&other.public()), Err(Fault::Signature));
        for at in 0..signed.as_bytes().len() {
            let mut bytes = signed.as_bytes().to_vec();
            bytes[at] ^= 1;
            let altered = Signed::from_bytes(bytes).and_then(|altered| altered.verify(&public));
            assert!(altered.is_err(), "byte {at}");
        }
    }

    #[test]
    fn manifests_that_lie_are_refused() {
        let lies: Vec<(&str, Manifest)> = vec![
            ("past the end", Manifest { header: header(400), ..sample() }),
            ("overlap", Manifest { zeros: vec![120..200, 500..600], ..sample() }),
            ("order", Manifest { zeros: vec![500..600, 150..200], ..sample() }),
            ("empty zero range", Manifest { zeros: vec![150..150, 500..600], ..sample() }),
            ("empty chunk", Manifest { extents: vec![extent(0, 0)], ..sample() }),
            ("huge chunk", Manifest { extents: vec![extent(0, u32::MAX)], header: header(u64::MAX), zeros: vec![] }),
            (
                "end of numbers",
                Manifest { extents: vec![extent(u64::MAX - 3, 7)], header: header(u64::MAX), zeros: vec![] },
            ),
        ];
        for (name, lie) in lies {
            assert!(Manifest::parse(&lie.emit()).is_err(), "{name}");
        }
        let mut unknown = sample().emit();
        unknown.extend_from_slice(b"NEWS\0\0\0\0\0\0\0\0");
        assert_eq!(Manifest::parse(&unknown), Err(Fault::Section("NEWS".into())));
        let mut extra = sample().emit();
        extra.extend_from_slice(b"news\0\0\0\0\0\0\0\0");
        assert_eq!(Manifest::parse(&extra).unwrap(), sample());
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(at in 0usize..400, byte in any::<u8>(), len in 0usize..600) {
            let mut bytes = sample().emit();
            let at = at % bytes.len();
            bytes[at] = byte;
            bytes.truncate(len.max(at));
            let _ = Manifest::parse(&bytes);
        }
    }
}
