//! What can go wrong with a WIM file, where, and the way out.

use std::io;
use std::path::PathBuf;

use super::codec::Damaged;
use super::format::Sha1;
use crate::stdx::hint::Hint;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("open {path}")]
    Open { path: PathBuf, source: io::Error },
    #[error("read the WIM at offset {offset}")]
    Read { offset: u64, source: io::Error },
    #[error("understand the WIM at offset {offset}: {what}")]
    Format { offset: u64, what: &'static str },
    #[error("understand the metadata of image {image} at offset {offset} of its {len} bytes: {what}")]
    Metadata { image: u32, offset: usize, len: usize, what: &'static str },
    #[error("understand the XML of the WIM: {what}")]
    Xml { what: String },
    #[error("decompress the chunk at offset {offset} of the WIM: {source}")]
    Chunk { offset: u64, source: Damaged },
    #[error("accept content {expected}: what the WIM holds at offset {offset} hashes to {found}")]
    Content { expected: Sha1, found: Sha1, offset: u64 },
    #[error("find content {hash} of {path}: no part of the WIM has it")]
    Missing { hash: Sha1, path: String },
    #[error("use {path} as part {part} of {parts}: {what}")]
    Part { path: PathBuf, part: u16, parts: u16, what: &'static str },
    #[error("use the split WIM: part {part} of {parts} is missing")]
    PartMissing { part: u16, parts: u16 },
    #[error("find image {wanted}: the WIM has {images}")]
    NoImage { wanted: String, images: u32 },
    #[error("accept the WIM: piece {piece} of its integrity table does not match, at offset {offset}")]
    Integrity { piece: usize, offset: u64 },
    #[error("use {what} of {bytes} bytes: the limit is {limit}")]
    TooLarge { what: &'static str, bytes: u64, limit: u64 },
    #[error("{action} {path}")]
    Target { action: &'static str, path: String, source: io::Error },
    #[error("read {path}")]
    Source { path: PathBuf, source: io::Error },
    #[error("write {path}")]
    Write { path: PathBuf, source: io::Error },
    #[error("add to {path}: {what}")]
    Refused { path: PathBuf, what: &'static str },
    #[error("capture {path}: {what}")]
    Capture { path: PathBuf, what: &'static str },
}

impl Hint for Error {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Error::Open { .. } => "check the path and that it may be read".to_owned(),
            Error::Read { .. } => "the file is shorter than it says, or the disk failed: copy it again".to_owned(),
            Error::Format { .. } | Error::Metadata { .. } | Error::Xml { .. } | Error::Chunk { .. } => {
                "the file is damaged: copy it again, or take what is sound with --keep-going".to_owned()
            }
            Error::Content { .. } | Error::Integrity { .. } => {
                "the file is damaged: copy it again, or take what is sound with --keep-going".to_owned()
            }
            Error::Missing { .. } => "name all parts of the set, and the WIM that a delta was made against".to_owned(),
            Error::Part { .. } | Error::PartMissing { .. } => {
                "name the first part (x.swm); the others (x2.swm, x3.swm ...) are looked for beside it".to_owned()
            }
            Error::NoImage { .. } => "`remint wim info FILE` lists the images with their numbers and names".to_owned(),
            Error::TooLarge { .. } => "no sound image is that large: the file is damaged or hostile".to_owned(),
            Error::Target { .. } | Error::Write { .. } => {
                "check free space and permissions; owners and devices need root".to_owned()
            }
            Error::Source { .. } => "check that it may be read; captures of a whole system need root".to_owned(),
            Error::Refused { .. } => {
                "choose another --name or --compress, or write a new file with `remint wim export`".to_owned()
            }
            Error::Capture { .. } => "rename it, or leave it out with --exclude".to_owned(),
        })
    }
}
