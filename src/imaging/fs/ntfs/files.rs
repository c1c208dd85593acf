//! The records of an NTFS file table: names, folders, data.

use std::collections::HashMap;

use super::{ATTRIBUTE_DATA, ATTRIBUTE_LIST, ATTRIBUTES_END, Volume, resident};
use crate::imaging::fs::Fault;
use crate::imaging::fs::files::{Content, Entry, EntryKind, FILES_MAX, Files, Piece};
use crate::stdx::bytes::Fields;
use crate::stdx::io::ReadAt;

const ROOT: u64 = 5;
/// The first records are the file system's own: their files are not people's.
const OWN_RECORDS: u64 = 24;
const ATTRIBUTE_NAME: u32 = 0x30;
const ATTRIBUTE_REPARSE: u32 = 0xC0;
const NAMESPACE_DOS: u8 = 2;
const RECORD_IN_USE: u16 = 1;
const RECORD_FOLDER: u16 = 2;
/// Compressed, encrypted: what lies on the disk is not the content.
const DATA_TRANSFORMED: u16 = 0x4001;
/// Windows refuses paths that are deeper than some thousands; a circle of parents has no end.
const DEPTH_MAX: usize = 4096;

struct Found {
    names: Vec<(u64, String)>,
    entry: Entry,
}

pub fn list(source: &dyn ReadAt) -> Result<Files, Fault> {
    let volume = Volume::open(source)?;
    let table_bytes: u64 = volume.table.iter().map(|run| run.end - run.start).sum();
    let count = table_bytes / volume.record_bytes;
    if count > FILES_MAX as u64 {
        return Err(Fault::damaged("it claims to hold too many files"));
    }
    let mut found: HashMap<u64, Found> = HashMap::new();
    for number in OWN_RECORDS..count {
        // Records that were never used have no signature.
        let Ok(record) = volume.record(number) else { continue };
        let fields = Fields(&record);
        // What continues another record is found through that one.
        if fields.le16(22) & RECORD_IN_USE != 0 && fields.le64(32) & 0xFFFF_FFFF_FFFF == 0 {
            found.insert(number, look(&volume, &record));
        }
    }
    let mut files = Files::new();
    for file in found.values() {
        for (parent, name) in &file.names {
            if let Some(folder) = path_of(*parent, &found) {
                files.insert(format!("{folder}/{name}"), file.entry.clone());
            }
        }
    }
    Ok(files)
}

/// `None` for what lies in the file system's own folders, or in none.
fn path_of(mut number: u64, found: &HashMap<u64, Found>) -> Option<String> {
    let mut names = Vec::new();
    while number != ROOT {
        let (parent, name) = found.get(&number)?.names.first()?;
        names.push(name.as_str());
        if names.len() > DEPTH_MAX {
            return None;
        }
        number = *parent;
    }
    Some(names.iter().rev().fold(String::new(), |path, name| format!("{path}/{name}")))
}

fn look(volume: &Volume<'_>, record: &[u8]) -> Found {
    let is_folder = Fields(record).le16(22) & RECORD_FOLDER != 0;
    let (mut names, mut data, mut in_pieces, mut kind) = (Vec::new(), None, false, EntryKind::File);
    for attribute in attributes(record) {
        match attribute.le32(0) {
            // Parent 0, length of the name 64, name space 65, name 66.
            ATTRIBUTE_NAME => {
                let value = resident(attribute);
                if value.u8(65) != NAMESPACE_DOS {
                    let name = value.text_utf16(66, usize::from(value.u8(64)) * 2);
                    names.push((value.le64(0) & 0xFFFF_FFFF_FFFF, name));
                }
            }
            ATTRIBUTE_DATA if attribute.u8(9) == 0 => data = Some(attribute),
            ATTRIBUTE_LIST => in_pieces = true,
            ATTRIBUTE_REPARSE => kind = EntryKind::Link,
            _ => {}
        }
    }
    let (bytes, content) = match data {
        _ if is_folder => (0, Content::Unknown),
        Some(data) => content(volume, data, in_pieces),
        None => (0, if in_pieces { Content::Unknown } else { Content::Inline(Vec::new()) }),
    };
    let kind = if is_folder && kind == EntryKind::File { EntryKind::Folder } else { kind };
    Found { names, entry: Entry { kind, bytes, rights: 0, content } }
}

/// Flags 12; not resident: runs 32, size 48.
fn content(volume: &Volume<'_>, data: Fields<'_>, in_pieces: bool) -> (u64, Content) {
    if data.u8(8) == 0 {
        let value = resident(data).0.to_vec();
        return (value.len() as u64, Content::Inline(value));
    }
    let bytes = data.le64(48);
    if in_pieces || data.le16(12) & DATA_TRANSFORMED != 0 {
        return (bytes, Content::Unknown);
    }
    // A sparse file has runs without a place, which are not followed here.
    let Some(runs) = volume.runs(Fields(data.slice(usize::from(data.le16(32)), data.0.len()))) else {
        return (bytes, Content::Unknown);
    };
    let (mut pieces, mut in_file) = (Vec::new(), 0);
    for run in runs {
        let len = (run.end - run.start).min(bytes.saturating_sub(in_file));
        if len > 0 {
            pieces.push(Piece { in_file, at: run.start, len });
        }
        in_file += len;
    }
    (bytes, Content::Pieces(pieces))
}

fn attributes(record: &[u8]) -> impl Iterator<Item = Fields<'_>> {
    let mut at = usize::from(Fields(record).le16(20));
    std::iter::from_fn(move || {
        let header = Fields(record.get(at..)?);
        let len = header.le32(4) as usize;
        if header.le32(0) == ATTRIBUTES_END || len < 24 || len > header.0.len() {
            return None;
        }
        at += len;
        Some(Fields(&header.0[..len]))
    })
}
