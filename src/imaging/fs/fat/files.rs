//! Folders and chains of clusters of FAT12, FAT16 and FAT32.

use std::collections::HashSet;

use super::{BAD_FAT12, Layout, entry_12};
use crate::imaging::fs::files::{Content, Entry, EntryKind, FILES_MAX, Files, Piece, push, read_pieces};
use crate::imaging::fs::{Fault, Kind};
use crate::stdx::bytes::Fields;
use crate::stdx::io::ReadAt;

/// The table of a FAT32 of 2 TiB in clusters of 32 KiB.
const TABLE_BYTES_MAX: u64 = 256 << 20;
const RECORD_BYTES: usize = 32;
const ATTRIBUTE_VOLUME: u8 = 0x08;
const ATTRIBUTE_FOLDER: u8 = 0x10;
const ATTRIBUTE_LONG_NAME: u8 = 0x0F;

pub fn list(source: &dyn ReadAt) -> Result<Files, Fault> {
    let boot = source.read_vec_at(0, 512).map_err(Fault::unreadable("boot sector"))?;
    let fields = Fields(&boot);
    let layout = Layout::read(fields).ok_or_else(|| Fault::damaged("its boot sector makes no sense"))?;
    if layout.size > source.size() || layout.fat_bytes > TABLE_BYTES_MAX {
        return Err(Fault::damaged("it claims to be larger than its partition"));
    }
    let table = source.read_vec_at(layout.fat_at, layout.fat_bytes as usize).map_err(Fault::unreadable("table"))?;
    let root = match layout.kind {
        Kind::Fat32 => Start::Cluster(fields.le32(44)),
        _ => Start::Fixed(u64::from(fields.le16(17)) * RECORD_BYTES as u64),
    };
    Volume { source, layout, table }.walk(root)
}

struct Volume<'a> {
    source: &'a dyn ReadAt,
    layout: Layout,
    table: Vec<u8>,
}

/// Where a folder begins: the root of FAT12 and FAT16 lies before the clusters.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Start {
    Cluster(u32),
    Fixed(u64),
}

struct Record {
    name: String,
    attributes: u8,
    cluster: u32,
    bytes: u64,
}

impl Volume<'_> {
    fn walk(&self, root: Start) -> Result<Files, Fault> {
        let mut files = Files::new();
        let (mut folders, mut seen) = (vec![(String::new(), root)], HashSet::from([root]));
        while let Some((path, start)) = folders.pop() {
            let pieces = match start {
                Start::Fixed(len) => vec![Piece { in_file: 0, at: self.layout.data_at - len, len }],
                Start::Cluster(cluster) => self.chain(cluster)?,
            };
            for record in records(&read_pieces(self.source, &pieces)?) {
                let path = format!("{path}/{}", record.name);
                if files.len() >= FILES_MAX {
                    return Err(Fault::damaged("it claims to hold too many files"));
                }
                let is_folder = record.attributes & ATTRIBUTE_FOLDER != 0;
                if is_folder && seen.insert(Start::Cluster(record.cluster)) {
                    folders.push((path.clone(), Start::Cluster(record.cluster)));
                }
                files.insert(path, self.entry(&record)?);
            }
        }
        Ok(files)
    }

    fn entry(&self, record: &Record) -> Result<Entry, Fault> {
        let rights = u128::from(record.attributes);
        if record.attributes & ATTRIBUTE_FOLDER != 0 {
            return Ok(Entry { kind: EntryKind::Folder, bytes: 0, rights, content: Content::Unknown });
        }
        let mut pieces = if record.bytes == 0 { Vec::new() } else { self.chain(record.cluster)? };
        pieces.retain_mut(|piece| {
            piece.len = piece.len.min(record.bytes.saturating_sub(piece.in_file));
            piece.len > 0
        });
        Ok(Entry { kind: EntryKind::File, bytes: record.bytes, rights, content: Content::Pieces(pieces) })
    }

    /// The clusters from `first` on; a chain longer than the volume is a circle.
    fn chain(&self, first: u32) -> Result<Vec<Piece>, Fault> {
        let unit = self.layout.cluster_bytes;
        let (mut cluster, mut in_file, mut pieces) = (u64::from(first), 0, Vec::new());
        while (2..self.layout.clusters + 2).contains(&cluster) {
            if in_file / unit > self.layout.clusters {
                return Err(Fault::damaged("its table has a circle"));
            }
            push(&mut pieces, Piece { in_file, at: self.layout.data_at + (cluster - 2) * unit, len: unit });
            in_file += unit;
            cluster = u64::from(self.next(cluster as usize));
        }
        Ok(pieces)
    }

    /// What the table says behind a cluster; an end of chain is no cluster of the volume.
    fn next(&self, cluster: usize) -> u32 {
        match self.layout.kind {
            Kind::Fat12 if entry_12(&self.table, cluster) >= BAD_FAT12 => u32::MAX,
            Kind::Fat12 => entry_12(&self.table, cluster),
            Kind::Fat16 => u32::from(Fields(&self.table).le16(cluster * 2)),
            _ => Fields(&self.table).le32(cluster * 4) & 0x0FFF_FFFF,
        }
    }
}

/// Name 0 (8 and 3), attributes 11, cluster 20 and 26, bytes 28; a long name stands in front, its last part first.
fn records(folder: &[u8]) -> Vec<Record> {
    let (mut records, mut long) = (Vec::new(), Vec::<u16>::new());
    for bytes in folder.chunks_exact(RECORD_BYTES) {
        let (fields, attributes) = (Fields(bytes), bytes[11]);
        match bytes[0] {
            0 => break,
            0xE5 => long.clear(),
            _ if attributes == ATTRIBUTE_LONG_NAME => {
                let units = [1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30].map(|at| fields.le16(at));
                let end = units.iter().position(|unit| *unit == 0).unwrap_or(units.len());
                long.splice(0..0, units[..end].iter().copied());
            }
            _ if attributes & ATTRIBUTE_VOLUME != 0 || bytes[0] == b'.' => long.clear(),
            _ => {
                let name = if long.is_empty() { short_name(fields) } else { String::from_utf16_lossy(&long) };
                let cluster = u32::from(fields.le16(26)) | u32::from(fields.le16(20)) << 16;
                records.push(Record { name, attributes, cluster, bytes: fields.le32(28).into() });
                long.clear();
            }
        }
    }
    records
}

/// Byte 12 says of a name that is all lower-case, before or behind the dot, that it is.
fn short_name(record: Fields<'_>) -> String {
    let cased = |text: String, bit: u8| if record.u8(12) & bit == 0 { text } else { text.to_lowercase() };
    let (name, extension) = (cased(record.text(0, 8), 0x08), cased(record.text(8, 3), 0x10));
    if extension.is_empty() { name } else { format!("{name}.{extension}") }
}
