//! The metadata resource of an image: security descriptors, then directory entries, each folder's in one run that ends
//! with eight zero bytes. Offsets within the resource stand beside each field.
//!
//! Directory entry (102 bytes, then names, then tagged items; extra streams follow after its length, all aligned to 8):
//! ```text
//!   0 length (8)        8 attributes (4)   12 descriptor (4)   16 offset of the folder's entries (8)   24 unused (16)
//!  40 created (8)      48 accessed (8)     56 written (8)      64 SHA-1 (20)                           84 unknown (4)
//!  88 link group (8), or reparse tag (4) reserved (2) flags (2)   96 extra streams (2)
//!  98 bytes of short name (2)             100 bytes of name (2)  102 name, NUL, short name, NUL
//! ```
//! Extra stream: length (8), reserved (8), SHA-1 (20), bytes of name (2), name, NUL. Tagged item: tag (4), length (4), data.

use nom::Parser;
use nom::bytes::complete::take;
use nom::number::complete::{le_u16, le_u32, le_u64, u8};

use super::format::{Sha1, array};
use super::tree::{
    ATTRIBUTE_DIRECTORY, ATTRIBUTE_ENCRYPTED, ATTRIBUTE_REPARSE_POINT, Entry, NamedStream, Reparse, Tree, UnixData,
    Xattr,
};

/// No real image comes near: a Windows installation has some 30 MiB.
pub const METADATA_BYTES_MAX: u64 = 128 << 20;

const ENTRY_BYTES: usize = 102;
const STREAM_BYTES: usize = 38;
const TAG_OBJECT_ID: u32 = 1;
const TAG_XATTRS: u32 = 2;
const TAG_UNIX_DATA: u32 = 0x337d_d873;
const NO_DESCRIPTOR: u32 = u32::MAX;

/// What is wrong with the metadata and where. The rest is read all the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    pub offset: usize,
    pub what: &'static str,
}

type Input<'a> = &'a [u8];
type Parsed<'a, T> = nom::IResult<Input<'a>, T>;

/// The tree, and every fault; without a fault the tree is the whole image.
pub fn parse(bytes: &[u8]) -> (Tree, Vec<Fault>) {
    let mut parser = MetadataParser { bytes, tree: Tree::default(), faults: Vec::new(), runs_seen: Default::default() };
    let root = parser.descriptors();
    parser.root(root);
    (parser.tree, parser.faults)
}

struct MetadataParser<'a> {
    bytes: &'a [u8],
    tree: Tree,
    faults: Vec<Fault>,
    /// Offsets of the runs that were read: no folder may be read twice, or folders could contain themselves.
    runs_seen: std::collections::HashSet<usize>,
}

impl MetadataParser<'_> {
    fn fault(&mut self, offset: usize, what: &'static str) {
        self.faults.push(Fault { offset, what });
    }

    /// Total length (4), count (4), lengths (8 each), descriptors. Returns where the root entry begins.
    fn descriptors(&mut self) -> usize {
        let header: Parsed<'_, _> = (le_u32, le_u32).parse(self.bytes);
        let Ok((rest, (total, count))) = header else {
            self.fault(0, "the security data is cut short");
            return 8;
        };
        let end = (total as usize).max(8).next_multiple_of(8);
        let mut at = 8 + 8 * count as usize;
        for length in rest.chunks_exact(8).take(count as usize) {
            let length = u64::from_le_bytes(length.try_into().expect("8 bytes"));
            let descriptor =
                usize::try_from(length).ok().and_then(|length| self.bytes.get(at..at.checked_add(length)?));
            let Some(descriptor) = descriptor.filter(|descriptor| at + descriptor.len() <= end) else {
                self.fault(at.min(self.bytes.len()), "a security descriptor goes beyond the security data");
                break;
            };
            at += descriptor.len();
            self.tree.descriptors.push(descriptor.to_vec());
        }
        end
    }

    fn root(&mut self, offset: usize) {
        let Some((mut root, folder_offset, _)) = self.entry(offset) else {
            self.fault(offset, "there is no root folder");
            return;
        };
        if !root.is_folder() {
            self.fault(offset, "the root is not a folder");
            return;
        }
        root.name.clear();
        root.short_name.clear();
        self.tree.entries.push(root);
        // Folders still to be read: (place in the tree, offset of its entries). Kept in a list, as trees can be deep.
        let mut folders = vec![(0, folder_offset)];
        while let Some((folder, offset)) = folders.pop() {
            if offset != 0 {
                self.folder(folder, offset, &mut folders);
            }
        }
    }

    fn folder(&mut self, folder: usize, offset: u64, folders: &mut Vec<(usize, u64)>) {
        let mut at = usize::try_from(offset).unwrap_or(usize::MAX);
        if !self.runs_seen.insert(at) {
            self.fault(at, "a folder contains itself or is in two places");
            return;
        }
        loop {
            if self.tree.entries.len() > self.bytes.len() / ENTRY_BYTES {
                self.fault(at, "folders overlap");
                return;
            }
            let Some((mut entry, folder_offset, next)) = self.entry(at) else { return };
            match name_fault(&entry.name) {
                Some(what) => self.fault(at, what),
                None => {
                    entry.parent = folder;
                    if entry.is_folder() && entry.reparse.is_none() {
                        folders.push((self.tree.entries.len(), folder_offset));
                    }
                    self.tree.entries.push(entry);
                }
            }
            at = next;
        }
    }

    /// The entry at `at`, the offset of its folder's entries, and where the next entry begins; `None` at the end of the
    /// run or after a fault.
    fn entry(&mut self, at: usize) -> Option<(Entry, u64, usize)> {
        let Some(bytes) = self.bytes.get(at..).filter(|bytes| bytes.len() >= 8) else {
            self.fault(at.min(self.bytes.len()), "an entry lies beyond the end");
            return None;
        };
        let length = u64::from_le_bytes(*bytes.first_chunk().expect("8 bytes"));
        if length <= 8 {
            return None;
        }
        let fixed = usize::try_from(length).ok().filter(|length| *length >= ENTRY_BYTES);
        let Some(fixed) = fixed.and_then(|length| bytes.get(..length)) else {
            self.fault(at, "the length of an entry is impossible");
            return None;
        };
        let Ok((items, raw)) = raw_entry(fixed) else {
            self.fault(at, "the names of an entry go beyond its length");
            return None;
        };
        let mut entry = raw.entry;
        self.items(&mut entry, items, at + fixed.len() - items.len());
        entry.descriptor = (raw.descriptor != NO_DESCRIPTOR).then_some(raw.descriptor as usize);
        if entry.descriptor.is_some_and(|place| place >= self.tree.descriptors.len()) {
            self.fault(at + 12, "a security descriptor that does not exist");
            entry.descriptor = None;
        }
        let mut next = at + fixed.len().next_multiple_of(8);
        let mut streams = vec![(Vec::new(), entry.content)];
        for _ in 0..raw.extra_streams {
            let Some((stream, length)) = self.bytes.get(next..).and_then(extra_stream) else {
                self.fault(next, "a stream of an entry goes beyond the end");
                return None;
            };
            streams.push(stream);
            next += length;
        }
        assign_streams(&mut entry, streams);
        Some((entry, raw.folder_offset, next))
    }

    fn items(&mut self, entry: &mut Entry, mut bytes: &[u8], mut at: usize) {
        let padding = at.next_multiple_of(8) - at;
        bytes = bytes.get(padding..).unwrap_or_default();
        at += padding;
        while bytes.len() >= 8 {
            let header: Parsed<'_, _> = (le_u32, le_u32).parse(bytes);
            let Ok((rest, (tag, length))) = header else { return };
            let Some(data) = rest.get(..length as usize) else {
                self.fault(at, "a tagged item goes beyond its entry");
                return;
            };
            if !take_item(entry, tag, data) {
                self.fault(at, "a tagged item is malformed");
            }
            let step = (8 + data.len()).next_multiple_of(8);
            bytes = bytes.get(step..).unwrap_or_default();
            at += step;
        }
    }
}

struct RawEntry {
    entry: Entry,
    descriptor: u32,
    folder_offset: u64,
    extra_streams: u16,
}

/// The fixed part and the names; what is left are the tagged items.
fn raw_entry(input: Input<'_>) -> Parsed<'_, RawEntry> {
    let (input, (_length, attributes, descriptor, folder_offset)) = (le_u64, le_u32, le_u32, le_u64).parse(input)?;
    let (input, _unused) = take(16usize)(input)?;
    let (input, (created, accessed, written)) = (le_u64, le_u64, le_u64).parse(input)?;
    let (input, (hash, unknown_0x54)) = (array::<20>, le_u32).parse(input)?;
    let (input, (link_or_tag, reserved, flags)) = (le_u32, le_u16, le_u16).parse(input)?;
    let (input, (extra_streams, short_bytes, name_bytes)) = (le_u16, le_u16, le_u16).parse(input)?;
    let (input, name) = name_and_nul(input, name_bytes)?;
    let (input, short_name) = name_and_nul(input, short_bytes)?;
    let is_reparse = attributes & ATTRIBUTE_REPARSE_POINT != 0;
    let link_group = u64::from(link_or_tag) | u64::from(reserved) << 32 | u64::from(flags) << 48;
    let entry = Entry {
        name,
        short_name,
        attributes,
        created,
        accessed,
        written,
        link_group: if is_reparse { 0 } else { link_group },
        reparse: is_reparse.then_some(Reparse { tag: link_or_tag, reserved, flags, data: Sha1::ZERO }),
        content: Sha1(hash),
        unknown_0x54,
        ..Entry::default()
    };
    Ok((input, RawEntry { entry, descriptor, folder_offset, extra_streams }))
}

/// UTF-16 of `bytes` bytes, and a NUL when there is any.
fn name_and_nul(input: Input<'_>, bytes: u16) -> Parsed<'_, Vec<u16>> {
    let (input, name) = take(usize::from(bytes))(input)?;
    let units = name.chunks_exact(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]])).collect();
    // The last entry of some writers lacks the NUL.
    let nul = if bytes == 0 { 0 } else { 2.min(input.len()) };
    Ok((&input[nul..], units))
}

fn extra_stream(input: Input<'_>) -> Option<((Vec<u16>, Sha1), usize)> {
    let header: Parsed<'_, _> = (le_u64, le_u64, array::<20>, le_u16).parse(input);
    let (rest, (length, _reserved, hash, name_bytes)) = header.ok()?;
    let lengths = STREAM_BYTES + usize::from(name_bytes)..=input.len();
    let length = usize::try_from(length).ok().filter(|length| lengths.contains(length))?;
    let (_, name) = name_and_nul(rest, name_bytes).ok()?;
    let aligned = length.next_multiple_of(8);
    (aligned <= input.len()).then_some(((name, Sha1(hash)), aligned))
}

/// Which stream is which, as wimlib documents it: named ones are data; the first unnamed one of a reparse point that has
/// content (or is not the entry's own field) is its data, any other unnamed one is the content.
fn assign_streams(entry: &mut Entry, streams: Vec<(Vec<u16>, Sha1)>) {
    entry.content = Sha1::ZERO;
    let mut wants_reparse = entry.reparse.is_some() && entry.attributes & ATTRIBUTE_ENCRYPTED == 0;
    let mut wants_content = true;
    for (index, (name, content)) in streams.into_iter().enumerate() {
        if !name.is_empty() {
            entry.named_streams.push(NamedStream { name, content });
        } else if index == 0 && content == Sha1::ZERO {
        } else if let Some(reparse) = entry.reparse.as_mut().filter(|_| wants_reparse) {
            reparse.data = content;
            wants_reparse = false;
        } else if wants_content {
            entry.content = content;
            wants_content = false;
        }
    }
}

fn take_item(entry: &mut Entry, tag: u32, data: &[u8]) -> bool {
    match tag {
        TAG_UNIX_DATA => {
            let parsed: Parsed<'_, _> = (le_u32, le_u32, le_u32, le_u32).parse(data);
            let Ok((_, (uid, gid, mode, device))) = parsed else { return false };
            entry.unix = Some(UnixData { uid, gid, mode, device });
        }
        TAG_XATTRS => {
            let mut rest = data;
            while !rest.is_empty() {
                let Ok((after, xattr)) = xattr(rest) else { return false };
                entry.xattrs.push(xattr);
                rest = after;
            }
        }
        TAG_OBJECT_ID => entry.object_id = data.to_vec(),
        _ => entry.other_items.push((tag, data.to_vec())),
    }
    true
}

/// Length of value (2), length of name (1), flags (1), name, NUL, value.
fn xattr(input: Input<'_>) -> Parsed<'_, Xattr> {
    let (input, (value_bytes, name_bytes, flags)) = (le_u16, u8, u8).parse(input)?;
    let (input, (name, _nul, value)) =
        (take(usize::from(name_bytes)), u8, take(usize::from(value_bytes))).parse(input)?;
    Ok((input, Xattr { name: name.to_vec(), value: value.to_vec(), flags }))
}

/// Why a name cannot be one, on any system.
fn name_fault(name: &[u16]) -> Option<&'static str> {
    const DOT: u16 = b'.' as u16;
    match name {
        [] => Some("an entry without a name"),
        [DOT] | [DOT, DOT] => Some("an entry named . or .."),
        _ if name.contains(&0) => Some("a name with a NUL in it"),
        _ if name.contains(&u16::from(b'/')) => Some("a name with a / in it"),
        _ => None,
    }
}

/// The resource for a tree. Entries of a folder are written in the order in which they stand in the tree.
pub fn emit(tree: &Tree) -> Vec<u8> {
    let mut children: Vec<Vec<usize>> = vec![Vec::new(); tree.entries.len()];
    for (index, entry) in tree.entries.iter().enumerate().skip(1) {
        children[entry.parent].push(index);
    }
    let mut bytes = emit_descriptors(&tree.descriptors);
    let mut fields = vec![0; tree.entries.len()];
    fields[0] = emit_entry(&mut bytes, &tree.entries[0]);
    bytes.extend([0; 8]);
    let mut folders = std::collections::VecDeque::from([0]);
    while let Some(folder) = folders.pop_front() {
        let offset = bytes.len() as u64;
        bytes[fields[folder]..fields[folder] + 8].copy_from_slice(&offset.to_le_bytes());
        for child in &children[folder] {
            let entry = &tree.entries[*child];
            fields[*child] = emit_entry(&mut bytes, entry);
            if entry.is_folder() && entry.reparse.is_none() {
                folders.push_back(*child);
            }
        }
        bytes.extend([0; 8]);
    }
    bytes
}

fn emit_descriptors(descriptors: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    bytes.extend((descriptors.len() as u32).to_le_bytes());
    descriptors.iter().for_each(|descriptor| bytes.extend((descriptor.len() as u64).to_le_bytes()));
    descriptors.iter().for_each(|descriptor| bytes.extend(descriptor));
    align(&mut bytes);
    let total = bytes.len() as u32;
    bytes[..4].copy_from_slice(&total.to_le_bytes());
    bytes
}

/// Returns where the offset of the folder's entries is to be written.
fn emit_entry(bytes: &mut Vec<u8>, entry: &Entry) -> usize {
    let start = bytes.len();
    let has_extra = entry.reparse.is_some() || !entry.named_streams.is_empty();
    bytes.extend([0; 8]);
    bytes.extend(entry.attributes.to_le_bytes());
    bytes.extend(entry.descriptor.map_or(NO_DESCRIPTOR, |place| place as u32).to_le_bytes());
    bytes.extend([0; 24]);
    bytes.extend(entry.created.to_le_bytes());
    bytes.extend(entry.accessed.to_le_bytes());
    bytes.extend(entry.written.to_le_bytes());
    bytes.extend(if has_extra { Sha1::ZERO.0 } else { entry.content.0 });
    bytes.extend(entry.unknown_0x54.to_le_bytes());
    match entry.reparse {
        Some(reparse) => {
            bytes.extend(reparse.tag.to_le_bytes());
            bytes.extend(reparse.reserved.to_le_bytes());
            bytes.extend(reparse.flags.to_le_bytes());
        }
        None => bytes.extend(entry.link_group.to_le_bytes()),
    }
    let unnamed = if has_extra { 1 + usize::from(entry.reparse.is_some()) } else { 0 };
    bytes.extend(((unnamed + entry.named_streams.len()) as u16).to_le_bytes());
    bytes.extend((2 * entry.short_name.len() as u16).to_le_bytes());
    bytes.extend((2 * entry.name.len() as u16).to_le_bytes());
    emit_name(bytes, &entry.name);
    emit_name(bytes, &entry.short_name);
    align(bytes);
    emit_items(bytes, entry);
    let length = (bytes.len() - start) as u64;
    bytes[start..start + 8].copy_from_slice(&length.to_le_bytes());
    if has_extra {
        emit_streams(bytes, entry);
    }
    start + 16
}

fn emit_streams(bytes: &mut Vec<u8>, entry: &Entry) {
    if let Some(reparse) = entry.reparse {
        emit_stream(bytes, &[], reparse.data);
    }
    emit_stream(bytes, &[], entry.content);
    entry.named_streams.iter().for_each(|stream| emit_stream(bytes, &stream.name, stream.content));
}

fn emit_stream(bytes: &mut Vec<u8>, name: &[u16], content: Sha1) {
    let start = bytes.len();
    bytes.extend([0; 16]);
    bytes.extend(content.0);
    bytes.extend((2 * name.len() as u16).to_le_bytes());
    emit_name(bytes, name);
    align(bytes);
    let length = (bytes.len() - start) as u64;
    bytes[start..start + 8].copy_from_slice(&length.to_le_bytes());
}

fn emit_items(bytes: &mut Vec<u8>, entry: &Entry) {
    if !entry.object_id.is_empty() {
        emit_item(bytes, TAG_OBJECT_ID, &entry.object_id);
    }
    if let Some(unix) = entry.unix {
        let fields = [unix.uid, unix.gid, unix.mode, unix.device];
        emit_item(bytes, TAG_UNIX_DATA, &fields.map(u32::to_le_bytes).concat());
    }
    if !entry.xattrs.is_empty() {
        let mut data = Vec::new();
        for xattr in &entry.xattrs {
            data.extend((xattr.value.len() as u16).to_le_bytes());
            data.extend([xattr.name.len() as u8, xattr.flags]);
            data.extend(&xattr.name);
            data.push(0);
            data.extend(&xattr.value);
        }
        emit_item(bytes, TAG_XATTRS, &data);
    }
    entry.other_items.iter().for_each(|(tag, data)| emit_item(bytes, *tag, data));
}

fn emit_item(bytes: &mut Vec<u8>, tag: u32, data: &[u8]) {
    bytes.extend(tag.to_le_bytes());
    bytes.extend((data.len() as u32).to_le_bytes());
    bytes.extend(data);
    align(bytes);
}

fn emit_name(bytes: &mut Vec<u8>, name: &[u16]) {
    if !name.is_empty() {
        name.iter().chain(&[0]).for_each(|unit| bytes.extend(unit.to_le_bytes()));
    }
}

fn align(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(8), 0);
}

/// A folder entry that holds nothing yet.
pub fn empty_root() -> Entry {
    Entry { attributes: ATTRIBUTE_DIRECTORY, ..Entry::default() }
}

#[cfg(test)]
mod tests;
