//! The fixed structures of a WIM file: header, blob table, chunk tables of solid resources, integrity table.
//!
//! Sources: Microsoft's white paper "Windows Imaging File Format (WIM)" (2007) for the original structures, the public
//! headers of wimlib for solid resources and pipable files. docs/formats/wim.md has them all in one place. All integers are
//! little-endian.

use nom::Parser;
use nom::bytes::complete::take;
use nom::combinator::map;
use nom::number::complete::{le_u16, le_u32, le_u64};

use super::codec::Compression;
use super::error::Error;

pub const HEADER_BYTES: usize = 208;
pub const BLOB_ENTRY_BYTES: usize = 50;
/// Header of a solid resource, before its chunk sizes.
pub const SOLID_HEADER_BYTES: usize = 16;
/// Each chunk of a pipable resource is preceded by its compressed length.
pub const PIPABLE_CHUNK_HEADER_BYTES: u64 = 4;
/// In pipable files each blob is announced in the stream: magic, plain length, SHA-1, flags.
pub const PIPABLE_BLOB_HEADER_BYTES: usize = 40;

/// Begins each announcement.
const PIPABLE_BLOB_MAGIC: u64 = 0x2b9b_9ba2_443d_b9d8;

const MAGIC: &[u8; 8] = b"MSWIM\0\0\0";
const MAGIC_PIPABLE: &[u8; 8] = b"WLPWM\0\0\0";
/// Whether a file that begins with `bytes` is a WIM, by its first 8 bytes.
pub fn is_wim(bytes: &[u8]) -> bool {
    bytes.first_chunk::<8>().is_some_and(|magic| magic == MAGIC || magic == MAGIC_PIPABLE)
}

pub const VERSION_DEFAULT: u32 = 0x10d00;
pub const VERSION_SOLID: u32 = 0xe00;

pub const FLAG_COMPRESSED: u32 = 0x2;
pub const FLAG_SPANNED: u32 = 0x8;
pub const FLAG_WRITE_IN_PROGRESS: u32 = 0x40;
pub const FLAG_REPARSE_FIX: u32 = 0x80;
pub const FLAG_XPRESS: u32 = 0x2_0000;
pub const FLAG_LZX: u32 = 0x4_0000;
pub const FLAG_LZMS: u32 = 0x8_0000;
/// Some writers mark XPRESS with this bit instead.
const FLAG_XPRESS_2: u32 = 0x20_0000;

pub const RESOURCE_METADATA: u8 = 0x2;
pub const RESOURCE_COMPRESSED: u8 = 0x4;
pub const RESOURCE_SOLID: u8 = 0x10;
/// Plain length of a blob table entry that describes a solid resource and is no blob itself.
pub const SOLID_MARK: u64 = 0x1_0000_0000;

/// The name of a blob: the SHA-1 of its plain content.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Sha1(pub [u8; 20]);

impl Sha1 {
    /// Stands for "no content".
    pub const ZERO: Sha1 = Sha1([0; 20]);
}

impl std::fmt::Display for Sha1 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&crate::stdx::hex::emit(&self.0))
    }
}

impl std::fmt::Debug for Sha1 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// Where a resource lies. 24 bytes: stored length (7 bytes), flags (1), offset (8), plain length (8).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ResourceHeader {
    pub stored_bytes: u64,
    pub flags: u8,
    pub offset: u64,
    pub plain_bytes: u64,
}

/// The first 208 bytes of each part.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    pub pipable: bool,
    pub version: u32,
    pub flags: u32,
    /// Plain length of each full chunk; 0 in some uncompressed files.
    pub chunk_bytes: u32,
    /// The same in all parts of a split set.
    pub guid: [u8; 16],
    /// 1 for the first.
    pub part: u16,
    pub parts: u16,
    pub images: u32,
    pub blob_table: ResourceHeader,
    pub xml: ResourceHeader,
    pub boot_metadata: ResourceHeader,
    /// The image that boots, 0 for none.
    pub boot_image: u32,
    pub integrity: ResourceHeader,
}

impl Header {
    /// Parses the header that stands at `offset` (0, or the end of a pipable file).
    pub fn parse(bytes: &[u8], offset: u64) -> Result<Header, Error> {
        let pipable = match bytes.first_chunk::<8>() {
            Some(MAGIC) => false,
            Some(MAGIC_PIPABLE) => true,
            _ => return Err(Error::Format { offset, what: "this is not a WIM file: its first 8 bytes are no magic" }),
        };
        let (_, header) =
            header(&bytes[8..], pipable).map_err(|_| Error::Format { offset, what: "the header is cut short" })?;
        let at = |distance, what| Error::Format { offset: offset + distance, what };
        if header.version != VERSION_DEFAULT && header.version != VERSION_SOLID {
            return Err(at(12, "an unknown version of the format"));
        }
        if header.parts == 0 || header.part == 0 || header.part > header.parts {
            return Err(at(40, "the part number is not within the number of parts"));
        }
        if header.flags & FLAG_WRITE_IN_PROGRESS != 0 {
            return Err(at(16, "the file is still being written, or its writer was interrupted"));
        }
        Ok(header)
    }

    /// How compressed resources are compressed.
    pub fn compression(&self) -> Result<Compression, Error> {
        const FORMATS: u32 = FLAG_XPRESS | FLAG_XPRESS_2 | FLAG_LZX | FLAG_LZMS;
        match self.flags & FORMATS {
            _ if self.flags & FLAG_COMPRESSED == 0 => Ok(Compression::None),
            FLAG_XPRESS | FLAG_XPRESS_2 => Ok(Compression::Xpress),
            FLAG_LZX => Ok(Compression::Lzx),
            FLAG_LZMS => Ok(Compression::Lzms),
            _ => Err(Error::Format { offset: 16, what: "the flags name no single compression format" }),
        }
    }

    pub fn emit(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.extend(if self.pipable { MAGIC_PIPABLE } else { MAGIC });
        bytes.extend((HEADER_BYTES as u32).to_le_bytes());
        bytes.extend(self.version.to_le_bytes());
        bytes.extend(self.flags.to_le_bytes());
        bytes.extend(self.chunk_bytes.to_le_bytes());
        bytes.extend(self.guid);
        bytes.extend(self.part.to_le_bytes());
        bytes.extend(self.parts.to_le_bytes());
        bytes.extend(self.images.to_le_bytes());
        self.blob_table.emit(&mut bytes);
        self.xml.emit(&mut bytes);
        self.boot_metadata.emit(&mut bytes);
        bytes.extend(self.boot_image.to_le_bytes());
        self.integrity.emit(&mut bytes);
        bytes.resize(HEADER_BYTES, 0);
        bytes
    }
}

type Input<'a> = &'a [u8];
type Parsed<'a, T> = nom::IResult<Input<'a>, T>;

fn header(input: Input<'_>, pipable: bool) -> Parsed<'_, Header> {
    let (input, (_size, version, flags, chunk_bytes)) = (le_u32, le_u32, le_u32, le_u32).parse(input)?;
    let (input, guid) = array::<16>(input)?;
    let (input, (part, parts, images)) = (le_u16, le_u16, le_u32).parse(input)?;
    let (input, (blob_table, xml, boot_metadata)) = (resource, resource, resource).parse(input)?;
    let (input, (boot_image, integrity)) = (le_u32, resource).parse(input)?;
    let (input, _reserved) = take(60usize)(input)?;
    let header = Header {
        pipable,
        version,
        flags,
        chunk_bytes,
        guid,
        part,
        parts,
        images,
        blob_table,
        xml,
        boot_metadata,
        boot_image,
        integrity,
    };
    Ok((input, header))
}

fn resource(input: Input<'_>) -> Parsed<'_, ResourceHeader> {
    map((le_u64, le_u64, le_u64), |(length_and_flags, offset, plain_bytes)| ResourceHeader {
        stored_bytes: length_and_flags & 0x00ff_ffff_ffff_ffff,
        flags: (length_and_flags >> 56) as u8,
        offset,
        plain_bytes,
    })
    .parse(input)
}

pub(super) fn array<const N: usize>(input: Input<'_>) -> Parsed<'_, [u8; N]> {
    map(take(N), |bytes: &[u8]| bytes.try_into().expect("take gave N bytes")).parse(input)
}

impl ResourceHeader {
    pub fn is_metadata(&self) -> bool {
        self.flags & RESOURCE_METADATA != 0
    }

    pub fn is_compressed(&self) -> bool {
        self.flags & RESOURCE_COMPRESSED != 0
    }

    pub fn is_solid(&self) -> bool {
        self.flags & RESOURCE_SOLID != 0
    }

    fn emit(&self, bytes: &mut Vec<u8>) {
        bytes.extend((self.stored_bytes | u64::from(self.flags) << 56).to_le_bytes());
        bytes.extend(self.offset.to_le_bytes());
        bytes.extend(self.plain_bytes.to_le_bytes());
    }
}

/// The announcement of a resource in a pipable file. 40 bytes: magic (8), plain length (8), SHA-1 (20), flags (4).
pub fn emit_announcement(plain_bytes: u64, hash: &Sha1, flags: u8) -> Vec<u8> {
    let mut bytes = PIPABLE_BLOB_MAGIC.to_le_bytes().to_vec();
    bytes.extend(plain_bytes.to_le_bytes());
    bytes.extend(hash.0);
    bytes.extend(u32::from(flags).to_le_bytes());
    bytes
}

/// One row of the blob table. 50 bytes: resource header (24), part (2), references (4), SHA-1 (20).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlobEntry {
    pub resource: ResourceHeader,
    pub part: u16,
    pub references: u32,
    pub hash: Sha1,
}

impl BlobEntry {
    /// Whether this row describes a solid resource; the blobs within it have rows of their own after it, whose offset
    /// counts within the plain content of the run of solid resources and whose stored length is their plain length.
    pub fn is_solid_resource(&self) -> bool {
        self.resource.is_solid() && self.resource.plain_bytes == SOLID_MARK
    }

    pub fn emit(&self, bytes: &mut Vec<u8>) {
        self.resource.emit(bytes);
        bytes.extend(self.part.to_le_bytes());
        bytes.extend(self.references.to_le_bytes());
        bytes.extend(self.hash.0);
    }
}

/// All rows; bytes after the last whole row are left alone, as wimlib does.
pub fn blob_table(bytes: &[u8]) -> Vec<BlobEntry> {
    let rows = bytes.chunks_exact(BLOB_ENTRY_BYTES);
    rows.filter_map(|row| blob_entry(row).ok().map(|(_, entry)| entry)).collect()
}

fn blob_entry(input: Input<'_>) -> Parsed<'_, BlobEntry> {
    map((resource, le_u16, le_u32, array::<20>), |(resource, part, references, hash)| BlobEntry {
        resource,
        part,
        references,
        hash: Sha1(hash),
    })
    .parse(input)
}

/// First 16 bytes of a solid resource: plain length (8), chunk length (4), compression format (4). The compressed
/// length of each chunk (4 each) and the chunks follow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SolidHeader {
    pub plain_bytes: u64,
    pub chunk_bytes: u32,
    pub compression: Compression,
}

impl SolidHeader {
    pub fn parse(bytes: &[u8; SOLID_HEADER_BYTES], offset: u64) -> Result<SolidHeader, Error> {
        let parsed: Parsed<'_, _> = (le_u64, le_u32, le_u32).parse(bytes);
        let (_, (plain_bytes, chunk_bytes, format)) = parsed.expect("16 bytes are 16 bytes");
        let compression = match format {
            0 => Compression::None,
            1 => Compression::Xpress,
            2 => Compression::Lzx,
            3 => Compression::Lzms,
            _ => return Err(Error::Format { offset: offset + 12, what: "a solid resource of unknown compression" }),
        };
        Ok(SolidHeader { plain_bytes, chunk_bytes, compression })
    }

    pub fn emit(&self) -> Vec<u8> {
        let format: u32 = match self.compression {
            Compression::None => 0,
            Compression::Xpress => 1,
            Compression::Lzx => 2,
            Compression::Lzms => 3,
        };
        let mut bytes = self.plain_bytes.to_le_bytes().to_vec();
        bytes.extend(self.chunk_bytes.to_le_bytes());
        bytes.extend(format.to_le_bytes());
        bytes
    }
}

/// The integrity table: length (4), rows (4), bytes each row covers (4), a SHA-1 a row. It covers the file from the end
/// of the header to the end of the blob table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IntegrityTable {
    pub piece_bytes: u32,
    pub hashes: Vec<Sha1>,
}

impl IntegrityTable {
    pub fn parse(bytes: &[u8], offset: u64) -> Result<IntegrityTable, Error> {
        let short = Error::Format { offset, what: "the integrity table is cut short" };
        let parsed: Parsed<'_, _> = (le_u32, le_u32, le_u32).parse(bytes);
        let Ok((rest, (_, rows, piece_bytes))) = parsed else { return Err(short) };
        let hashes: Vec<Sha1> =
            rest.chunks_exact(20).take(rows as usize).map(|row| Sha1(row.try_into().expect("20 bytes"))).collect();
        if hashes.len() != rows as usize || piece_bytes == 0 {
            return Err(short);
        }
        Ok(IntegrityTable { piece_bytes, hashes })
    }

    pub fn emit(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(12 + 20 * self.hashes.len());
        bytes.extend((12 + 20 * self.hashes.len() as u32).to_le_bytes());
        bytes.extend((self.hashes.len() as u32).to_le_bytes());
        bytes.extend(self.piece_bytes.to_le_bytes());
        self.hashes.iter().for_each(|hash| bytes.extend(hash.0));
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    prop_compose! {
        fn any_resource()(stored_bytes in 0u64..1 << 56, flags: u8, offset: u64, plain_bytes: u64) -> ResourceHeader {
            ResourceHeader { stored_bytes, flags, offset, plain_bytes }
        }
    }

    proptest! {
        #[test]
        fn a_header_parses_back(
            pipable: bool, flags in 0u32..0x40, chunk_bytes: u32, guid: [u8; 16], part in 1u16..9, images: u32,
            blob_table in any_resource(), xml in any_resource(), boot_metadata in any_resource(), boot_image: u32,
            integrity in any_resource(),
        ) {
            let header = Header {
                pipable, version: VERSION_SOLID, flags, chunk_bytes, guid, part, parts: 9, images, blob_table, xml,
                boot_metadata, boot_image, integrity,
            };
            let bytes = header.emit();
            prop_assert_eq!(bytes.len(), HEADER_BYTES);
            prop_assert_eq!(Header::parse(&bytes, 0).unwrap(), header);
        }

        #[test]
        fn a_blob_table_parses_back(rows in proptest::collection::vec((any_resource(), any::<u16>(), any::<u32>(), any::<[u8; 20]>()), 0..9)) {
            let rows: Vec<BlobEntry> = rows
                .into_iter()
                .map(|(resource, part, references, hash)| BlobEntry { resource, part, references, hash: Sha1(hash) })
                .collect();
            let mut bytes = Vec::new();
            rows.iter().for_each(|row| row.emit(&mut bytes));
            prop_assert_eq!(blob_table(&bytes), rows);
        }

        #[test]
        fn garbage_never_panics(bytes: Vec<u8>) {
            let _ = Header::parse(&bytes, 0);
            let _ = IntegrityTable::parse(&bytes, 0);
            let _ = blob_table(&bytes);
            let with_magic: Vec<u8> = MAGIC.iter().copied().chain(bytes).collect();
            let _ = Header::parse(&with_magic, 0);
        }
    }
}
