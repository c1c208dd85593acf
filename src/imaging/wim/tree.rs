//! The files of an image, as its metadata resource describes them: names, links, streams, and all that is not content.

use super::format::Sha1;

pub const ATTRIBUTE_READONLY: u32 = 0x1;
pub const ATTRIBUTE_DIRECTORY: u32 = 0x10;
pub const ATTRIBUTE_NORMAL: u32 = 0x80;
pub const ATTRIBUTE_SPARSE: u32 = 0x200;
pub const ATTRIBUTE_REPARSE_POINT: u32 = 0x400;
pub const ATTRIBUTE_COMPRESSED: u32 = 0x800;
pub const ATTRIBUTE_ENCRYPTED: u32 = 0x4000;

pub const REPARSE_TAG_SYMLINK: u32 = 0xa000_000c;
pub const REPARSE_TAG_JUNCTION: u32 = 0xa000_0003;

/// An image's files. `entries[0]` is the root; a folder comes before what is in it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tree {
    pub entries: Vec<Entry>,
    /// Security descriptors (self-relative, as Windows stores them), shared by entries.
    pub descriptors: Vec<Vec<u8>>,
}

/// One name in a folder. Names that share an inode (`link_group` not 0) repeat everything but the names.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Entry {
    /// Place of the folder in `entries`; the root is its own parent.
    pub parent: usize,
    /// UTF-16, as in the file: it may hold anything but NUL and `/`, unpaired surrogates too.
    pub name: Vec<u16>,
    /// The 8.3 name, often empty.
    pub short_name: Vec<u16>,
    pub attributes: u32,
    /// Place in `descriptors`.
    pub descriptor: Option<usize>,
    /// 100 ns units since 1601-01-01T00:00:00Z.
    pub created: u64,
    pub accessed: u64,
    pub written: u64,
    pub link_group: u64,
    pub reparse: Option<Reparse>,
    /// The unnamed content, `ZERO` for none.
    pub content: Sha1,
    pub named_streams: Vec<NamedStream>,
    pub unix: Option<UnixData>,
    pub xattrs: Vec<Xattr>,
    /// Object id and birth ids, 16 or 64 bytes.
    pub object_id: Vec<u8>,
    /// Tagged items that nobody here knows, kept for writing back.
    pub other_items: Vec<(u32, Vec<u8>)>,
    pub unknown_0x54: u32,
}

/// A reparse point: the tag and where its data (without the 8-byte header) lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Reparse {
    pub tag: u32,
    pub reserved: u16,
    /// Bit 0: the target was not rewritten at capture ("rpfix").
    pub flags: u16,
    pub data: Sha1,
}

/// An alternate data stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NamedStream {
    pub name: Vec<u16>,
    pub content: Sha1,
}

/// What wimlib keeps of a UNIX inode.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct UnixData {
    pub uid: u32,
    pub gid: u32,
    /// File type and permissions, as in `st_mode`.
    pub mode: u32,
    /// Device number as Linux encodes it in 32 bits.
    pub device: u32,
}

/// An extended attribute; Windows keeps its own (EAs) in the same place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Xattr {
    pub name: Vec<u8>,
    pub value: Vec<u8>,
    pub flags: u8,
}

impl Tree {
    /// The path from the root, `/` between names, for people and for relative opens; the root is empty.
    pub fn path(&self, mut index: usize) -> Vec<u8> {
        let mut names = Vec::new();
        while index != 0 {
            names.push(name_bytes(&self.entries[index].name));
            index = self.entries[index].parent;
        }
        names.reverse();
        names.join(&b'/')
    }

    /// The same as text.
    pub fn path_text(&self, index: usize) -> String {
        format!("/{}", String::from_utf8_lossy(&self.path(index)))
    }

    /// Every content that the entry refers to.
    pub fn contents(&self) -> impl Iterator<Item = Sha1> + '_ {
        self.entries.iter().flat_map(Entry::contents)
    }
}

impl Entry {
    pub fn is_folder(&self) -> bool {
        self.attributes & ATTRIBUTE_DIRECTORY != 0
    }

    pub fn contents(&self) -> impl Iterator<Item = Sha1> + '_ {
        let reparse = self.reparse.map(|reparse| reparse.data);
        let named = self.named_streams.iter().map(|stream| stream.content);
        std::iter::once(self.content).chain(reparse).chain(named).filter(|hash| *hash != Sha1::ZERO)
    }
}

/// Windows' time (100 ns units since 1601) as milliseconds since 1970; what does not fit is the nearest that does.
pub fn unix_milliseconds(time: u64) -> i64 {
    i64::try_from(time / 10_000).unwrap_or(i64::MAX) - 11_644_473_600_000
}

/// The reverse.
pub fn windows_time(unix_milliseconds: i64) -> u64 {
    u64::try_from(unix_milliseconds.saturating_add(11_644_473_600_000)).unwrap_or(0).saturating_mul(10_000)
}

/// UTF-16 to the bytes of a Linux name: UTF-8, and unpaired surrogates as three bytes (WTF-8), so that they come back.
pub fn name_bytes(name: &[u16]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(name.len());
    for unit in char::decode_utf16(name.iter().copied()) {
        match unit {
            Ok(c) => bytes.extend(c.encode_utf8(&mut [0; 4]).as_bytes()),
            Err(error) => {
                let unit = error.unpaired_surrogate();
                bytes.extend([0xe0 | (unit >> 12) as u8, 0x80 | (unit >> 6 & 0x3f) as u8, 0x80 | (unit & 0x3f) as u8]);
            }
        }
    }
    bytes
}

/// The reverse; `None` when the bytes are neither UTF-8 nor WTF-8.
pub fn name_units(bytes: &[u8]) -> Option<Vec<u16>> {
    let mut units = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while !rest.is_empty() {
        let valid = match std::str::from_utf8(rest) {
            Ok(text) => text,
            Err(error) => std::str::from_utf8(&rest[..error.valid_up_to()]).unwrap_or_default(),
        };
        units.extend(valid.encode_utf16());
        rest = &rest[valid.len()..];
        if let [0xed, second @ 0xa0..=0xbf, third @ 0x80..=0xbf, tail @ ..] = rest {
            units.push(0xd000 | u16::from(second & 0x3f) << 6 | u16::from(third & 0x3f));
            rest = tail;
        } else if !rest.is_empty() {
            return None;
        }
    }
    Some(units)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_utf16_name_comes_back_from_its_bytes(units in proptest::collection::vec(prop_oneof![any::<u16>(), 0xd7f0u16..0xe010, 0x20u16..0x7f], 0..20)) {
            prop_assert_eq!(name_units(&name_bytes(&units)), Some(units));
        }

        #[test]
        fn bytes_that_are_no_name_are_refused(bytes: Vec<u8>) {
            if let Some(units) = name_units(&bytes) {
                prop_assert!(std::str::from_utf8(&bytes).is_err() || name_bytes(&units) == bytes);
            }
        }
    }
}
