//! The files of a file system that is known: their names, what is said of them and where their content lies.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Fault, Kind, ext4, fat, ntfs};
use crate::stdx::io::ReadAt;

/// More is a lie, or a disk on which listing files helps nobody.
pub const FILES_MAX: usize = 8 << 20;
/// A folder of a million names takes some 40 MB.
pub const FOLDER_BYTES_MAX: u64 = 256 << 20;
/// Pieces of all files together: a disk in fragments of 4 KiB has this many in 64 GB.
pub const PIECES_MAX: usize = 16 << 20;

/// Path from the root, beginning with `/` -> what is there.
pub type Files = BTreeMap<String, Entry>;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum EntryKind {
    File,
    Folder,
    Link,
    /// A device, a socket, a pipe.
    Other,
}

/// A name and what it stands for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    pub kind: EntryKind,
    pub bytes: u64,
    /// Rights, owner, group, attributes: whatever the file system says besides, as one number to compare.
    pub rights: u128,
    pub content: Content,
}

/// Where the content of a file lies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Content {
    /// In the order of the file; what is in none of them is zero.
    Pieces(Vec<Piece>),
    /// In the file's own record.
    Inline(Vec<u8>),
    /// Not told by what is read here (compressed, encrypted, in too many fragments): only its size is compared.
    Unknown,
}

/// `len` bytes of a file, in bytes from its start and from the start of the file system.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    pub in_file: u64,
    pub at: u64,
    pub len: u64,
}

/// Whether [`list`] knows the files of `kind`.
pub fn is_listed(kind: Kind) -> bool {
    kind.is_ext() || matches!(kind, Kind::Fat12 | Kind::Fat16 | Kind::Fat32 | Kind::Ntfs)
}

/// All files of the file system of `kind` in `source`.
pub fn list(source: &dyn ReadAt, kind: Kind) -> Result<Files, Fault> {
    match kind {
        Kind::Ext2 | Kind::Ext3 | Kind::Ext4 => ext4::files::list(source),
        Kind::Fat12 | Kind::Fat16 | Kind::Fat32 => fat::files::list(source),
        Kind::Ntfs => ntfs::files::list(source),
        other => Err(Fault::Unsupported(format!("listing the files of {other}"))),
    }
}

/// Adds a piece, to the last one where it follows it.
pub(super) fn push(pieces: &mut Vec<Piece>, piece: Piece) {
    match pieces.last_mut() {
        Some(last) if last.in_file + last.len == piece.in_file && last.at + last.len == piece.at => {
            last.len += piece.len
        }
        _ => pieces.push(piece),
    }
}

/// The content of a folder, which a walk must read.
pub(super) fn read_pieces(source: &dyn ReadAt, pieces: &[Piece]) -> Result<Vec<u8>, Fault> {
    let total: u64 = pieces.iter().fold(0, |total, piece| piece.len.saturating_add(total));
    if total > FOLDER_BYTES_MAX {
        return Err(Fault::damaged("one of its folders is too large to be one"));
    }
    let mut bytes = Vec::new();
    for piece in pieces {
        let more = source.read_vec_at(piece.at, piece.len as usize).map_err(Fault::unreadable("folders"))?;
        bytes.extend_from_slice(&more);
    }
    Ok(bytes)
}
