//! What only NTFS holds, through the interfaces of a volume that ntfs-3g has mounted: see ntfs-3g(8), "system extended
//! attributes" and `streams_interface`.
//!
//! Files are made empty first, because streams need a file and because compression is inherited at creation; all else is set
//! last, from the innermost outwards, because writing changes times and a reparse point hides what it is made of.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::PoisonError;

use super::error::Error;
use super::files::{Files, is_regular};
use super::tree::{ATTRIBUTE_COMPRESSED, ATTRIBUTE_REPARSE_POINT, ATTRIBUTE_SPARSE, Entry, Xattr, name_bytes};
use crate::stdx::buffer::is_zero;

/// The kernel's limit for an attribute's value; longer streams need `streams_interface=windows`.
const STREAM_ATTRIBUTE_BYTES_MAX: usize = 65536;

/// Zeros shorter than a cluster save nothing; this is the largest that Windows gives by itself.
const SPARSE_BLOCK_BYTES: usize = 65536;

impl Files<'_> {
    /// Makes every file that is one, without content.
    pub(super) fn empty_ntfs_files(&self) -> Result<(), Error> {
        let mut compressed: Option<usize> = None;
        for (place, entry) in self.tree.entries.iter().enumerate().skip(1) {
            let is_file = is_regular(entry) || (entry.reparse.is_some() && !entry.is_folder());
            if !is_file || self.clashes(place) || !self.inodes.is_first(place) {
                continue;
            }
            let wanted = (entry.attributes & ATTRIBUTE_COMPRESSED != 0).then_some(entry.parent);
            if wanted != compressed {
                compressed.iter().for_each(|folder| self.set_ntfs_attributes(*folder, 0));
                wanted.iter().for_each(|folder| self.set_ntfs_attributes(*folder, ATTRIBUTE_COMPRESSED));
                compressed = wanted;
            }
            let made = self.target.create_file(place);
            if self.opened(place, made)?.is_some() && wanted.is_some() && !self.is_compressed(place) {
                // The volume must be mounted with the option `compression`.
                self.not_held("compression");
            }
        }
        compressed.iter().for_each(|folder| self.set_ntfs_attributes(*folder, 0));
        Ok(())
    }

    fn is_compressed(&self, place: usize) -> bool {
        let read = self.target.xattr(place, c"system.ntfs_attrib_be");
        let bits = read.ok().and_then(|read| read.first_chunk().map(|bits| u32::from_be_bytes(*bits)));
        bits.is_some_and(|bits| bits & ATTRIBUTE_COMPRESSED != 0)
    }

    /// Whether zeros of the file take no room on the volume. Windows keeps that of each file.
    pub fn is_sparse(&self, place: usize) -> bool {
        self.target.is_ntfs && self.tree.entries[place].attributes & ATTRIBUTE_SPARSE != 0
    }

    /// Writes bytes of a file's content. A sparse file, which has its length already, is left alone where they are zero.
    pub fn write_content(&self, place: usize, file: &File, bytes: &[u8], offset: u64) -> Result<(), Error> {
        if !self.is_sparse(place) {
            return self.written(place, file.write_all_at(bytes, offset));
        }
        let blocks = bytes.chunks(SPARSE_BLOCK_BYTES).enumerate().filter(|(_, block)| !is_zero(block));
        for (number, block) in blocks {
            self.written(place, file.write_all_at(block, offset + (number * SPARSE_BLOCK_BYTES) as u64))?;
        }
        Ok(())
    }

    fn set_ntfs_attributes(&self, place: usize, attributes: u32) {
        self.ntfs_attribute(place, b"system.ntfs_attrib_be", &attributes.to_be_bytes(), "Windows attributes");
    }

    /// Opens a stream for content that comes in pieces. `None` when the volume's interface holds no such long ones.
    pub fn create_stream(&self, place: usize, stream: usize) -> Result<Option<File>, Error> {
        if !self.target.streams_are_files {
            self.not_held("alternate data streams over 64 KiB");
            return Ok(None);
        }
        let name = &self.tree.entries[place].named_streams[stream].name;
        let made = self.target.create_stream(place, &name_bytes(name));
        self.opened(place, made)
    }

    /// Writes a whole stream.
    pub fn set_stream(&self, place: usize, stream: usize, content: &[u8]) -> Result<(), Error> {
        if self.target.streams_are_files {
            let Some(file) = self.create_stream(place, stream)? else { return Ok(()) };
            return self.written(place, file.write_all_at(content, 0));
        }
        let name = &self.tree.entries[place].named_streams[stream].name;
        let attribute = [b"user.".as_slice(), &name_bytes(name)].concat();
        match content.len() <= STREAM_ATTRIBUTE_BYTES_MAX {
            true => self.ntfs_attribute(place, &attribute, content, "alternate data streams"),
            false => self.not_held("alternate data streams over 64 KiB"),
        }
        Ok(())
    }

    /// Everything but names, contents and streams.
    pub(super) fn ntfs_metadata(&self, place: usize) {
        let entry = &self.tree.entries[place];
        if !entry.short_name.is_empty() && place != 0 {
            self.ntfs_attribute(place, b"system.ntfs_dos_name", &name_bytes(&entry.short_name), "short names");
        }
        if !self.inodes.is_first(place) {
            return;
        }
        if let Some(descriptor) = entry.descriptor {
            self.ntfs_attribute(place, b"system.ntfs_acl", &self.tree.descriptors[descriptor], "security descriptors");
        }
        if !entry.object_id.is_empty() {
            self.ntfs_attribute(place, b"system.ntfs_object_id", &entry.object_id, "object ids");
        }
        if !entry.xattrs.is_empty() {
            self.ntfs_attribute(place, b"system.ntfs_ea", &full_eas(&entry.xattrs), "extended attributes");
        }
        self.set_ntfs_attributes(place, entry.attributes & !ATTRIBUTE_REPARSE_POINT);
        self.ntfs_reparse_point(place, entry);
        let times = [entry.created, entry.written, entry.accessed, entry.written].map(u64::to_be_bytes).concat();
        self.ntfs_attribute(place, b"system.ntfs_times_be", &times, "creation times");
    }

    fn ntfs_reparse_point(&self, place: usize, entry: &Entry) {
        let Some(reparse) = entry.reparse else { return };
        let link_data = self.link_data.lock().unwrap_or_else(PoisonError::into_inner);
        let data = link_data.get(&reparse.data).map_or(&[][..], Vec::as_slice);
        let mut whole = reparse.tag.to_le_bytes().to_vec();
        whole.extend((data.len() as u16).to_le_bytes());
        whole.extend(reparse.reserved.to_le_bytes());
        whole.extend(data);
        self.ntfs_attribute(place, b"system.ntfs_reparse_data", &whole, "reparse points");
        self.report().links += 1;
    }

    fn ntfs_attribute(&self, place: usize, name: &[u8], value: &[u8], what: &'static str) {
        if self.target.set_xattr(place, name, value).is_err() {
            self.not_held(what);
        }
    }
}

/// FILE_FULL_EA_INFORMATION ([MS-FSCC] 2.4.16): offset of the next (4; 0 in the last), flags (1), length of name (1), length
/// of value (2), name, NUL, value, padded to 4.
fn full_eas(xattrs: &[Xattr]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (number, xattr) in xattrs.iter().enumerate() {
        let start = bytes.len();
        bytes.extend([0; 4]);
        bytes.extend([xattr.flags, xattr.name.len() as u8]);
        bytes.extend((xattr.value.len() as u16).to_le_bytes());
        bytes.extend(&xattr.name);
        bytes.push(0);
        bytes.extend(&xattr.value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        if number + 1 < xattrs.len() {
            let next = (bytes.len() - start) as u32;
            bytes[start..start + 4].copy_from_slice(&next.to_le_bytes());
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_of_a_file_are_one_list() {
        let xattr = |name: &str, value: &[u8]| Xattr { name: name.into(), value: value.into(), flags: 0 };
        let bytes = full_eas(&[xattr("AB", b"xyz"), xattr("C", b"")]);
        assert_eq!(bytes[..16], *b"\x10\0\0\0\0\x02\x03\0AB\0xyz\0\0");
        assert_eq!(bytes[16..], *b"\0\0\0\0\0\x01\0\0C\0\0\0");
    }
}
