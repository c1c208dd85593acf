//! What can go wrong with images, and the way out.

use std::io;
use std::path::PathBuf;

use crate::imaging::chunk::{ChunkId, Damage};
use crate::imaging::manifest;
use crate::imaging::store::format::{PackDamage, PackId};
use crate::stdx::hint::Hint;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("read {what}")]
    Read { what: String, source: io::Error },
    #[error("write {what}")]
    Write { what: String, source: io::Error },
    #[error("{path} holds no content store")]
    NoStore { path: PathBuf },
    #[error("{path} holds a content store of another format ({found})")]
    StoreFormat { path: PathBuf, found: String },
    #[error("chunk {chunk} is in no pack of the store")]
    MissingChunk { chunk: ChunkId },
    #[error("pack {pack} is not in the store")]
    MissingPack { pack: PackId },
    #[error("pack {pack} has no bytes {offset}+{len}")]
    PackRange { pack: PackId, offset: u64, len: u64 },
    #[error("chunk {chunk} in pack {pack} of {from} is damaged: {damage}")]
    DamagedChunk { chunk: ChunkId, pack: PackId, from: Box<str>, damage: Damage },
    #[error("pack {pack} is damaged: {damage}")]
    DamagedPack { pack: PackId, damage: PackDamage },
    #[error("there is no image `{name}`")]
    NoImage { name: String },
    #[error("image `{name}` has no version `{version}`")]
    NoVersion { name: String, version: String },
    #[error("`{name}` cannot name an image or a tag")]
    BadName { name: String },
    #[error("version {version} of image `{name}` carries the tag `{tag}`")]
    Tagged { name: String, version: u32, tag: String },
    #[error("the manifest is not sound: {0}")]
    Manifest(#[from] manifest::Fault),
    #[error("understand {what} as a disk: {reason}")]
    NoDisk { what: String, reason: String },
    #[error("take {what} as a tree of files: {reason}")]
    NoTree { what: String, reason: String },
    #[error("the image is {image}, and the target is not")]
    OtherKind { image: &'static str },
    #[error(transparent)]
    Files(#[from] crate::imaging::wim::error::Error),
    #[error("the target has {have} bytes and the image needs {needed}")]
    TargetTooSmall { needed: u64, have: u64 },
    #[error("{target} is mounted or in use")]
    TargetInUse { target: String },
    #[error("what was written to {target} at byte {offset} does not read back as chunk {chunk}")]
    ReadBack { target: String, offset: u64, chunk: ChunkId },
    #[error("{from} did not answer: {reason}")]
    Unreachable { from: String, reason: String },
    #[error("{from} refused: {reason}")]
    Refused { from: String, reason: String },
    #[error("{0} is still in use")]
    Busy(String),
}

impl Error {
    pub(crate) fn read(what: impl ToString) -> impl FnOnce(io::Error) -> Error {
        let what = what.to_string();
        move |source| Error::Read { what, source }
    }

    pub(crate) fn write(what: impl ToString) -> impl FnOnce(io::Error) -> Error {
        let what = what.to_string();
        move |source| Error::Write { what, source }
    }

    /// Whether the same request may succeed later without anybody doing anything: the appliance is away for a minute.
    pub fn is_transient(&self) -> bool {
        matches!(self, Error::Unreachable { .. })
    }
}

impl Hint for Error {
    fn hint(&self) -> Option<String> {
        let text = match self {
            Error::Write { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                "make room (`remint store gc` removes what no version needs) and start again: nothing was half-published"
            }
            Error::NoStore { .. } => "`remint init` makes a site",
            Error::StoreFormat { .. } => "use the release that wrote it, or a newer one",
            Error::MissingChunk { .. } | Error::MissingPack { .. } => {
                "`remint store scrub` names the images that this touches; restore the pack or import the image again"
            }
            Error::PackRange { .. } | Error::DamagedChunk { .. } | Error::DamagedPack { .. } => {
                "`remint store scrub` repairs it from another copy or names the images to import again"
            }
            Error::NoImage { .. } | Error::NoVersion { .. } => "`remint image list` shows what there is",
            Error::BadName { .. } => "use 1 to 64 letters, digits, `.`, `_` or `-`, and begin with a letter or digit",
            Error::Tagged { .. } => "move or remove the tag first (`remint image tag`)",
            Error::Manifest(_) => "it was altered or written by a newer release; import the image again",
            Error::NoTree { .. } => "it was damaged or written by a newer release; import the image again",
            Error::OtherKind { .. } => "a tree of files goes into a folder, everything else onto a disk or into a file",
            Error::Files(error) => return error.hint(),
            Error::TargetTooSmall { .. } => "nothing was written; use a larger disk, or an image of a smaller one",
            Error::TargetInUse { .. } => {
                "unmount what lies on it; the disk that the system runs from is never a target"
            }
            Error::ReadBack { .. } => "the disk does not keep what is written to it: replace it",
            Error::Unreachable { .. } => "is the appliance running and reachable from here?",
            Error::Busy(_) => "wait until uploads and deployments are done, then start again",
            Error::NoDisk { .. } => "name its format with --format, or check it with the program that made it",
            Error::Read { .. } | Error::Write { .. } | Error::Refused { .. } => return None,
        };
        Some(text.to_owned())
    }
}
