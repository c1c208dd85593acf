//! Growing a mounted file system to all of its partition, by one request to the kernel.

use super::Kind;
use crate::stdx::blockdev;
use crate::stdx::hint::Hint;
use nix::sys::statvfs::statvfs;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Sizes in bytes as the mounted file system reports them, before and after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grown {
    pub old_bytes: u64,
    pub new_bytes: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("grow {kind}: it does not grow while it is mounted")]
    NotMounted { kind: Kind },
    #[error("ask the size of the file system at {folder}")]
    Size { folder: String, source: io::Error },
    #[error("grow the {kind} at {folder}")]
    Grow { kind: Kind, folder: String, source: io::Error },
}

impl Hint for Error {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Error::NotMounted { .. } => {
                "grow NTFS with ntfsresize and FAT with fatresize, or leave the space free".to_owned()
            }
            Error::Size { .. } => "check that the file system is mounted there".to_owned(),
            Error::Grow { .. } => {
                "check the file system first (e2fsck -f, xfs_repair, btrfs check), and look at dmesg".to_owned()
            }
        })
    }
}

/// Grows the file system of `kind` that is mounted at `folder` to its partition's end, and reads back its size.
pub fn grow(folder: &Path, kind: Kind) -> Result<Grown, Error> {
    if !kind.grows_mounted() {
        return Err(Error::NotMounted { kind });
    }
    let name = || folder.display().to_string();
    let size = |source| Error::Size { folder: name(), source };
    let (block_bytes, old_bytes) = sizes(folder).map_err(size)?;
    let handle = File::open(folder).map_err(size)?;
    let asked = match kind {
        Kind::Btrfs => blockdev::grow_btrfs(&handle),
        Kind::Xfs => device_bytes(&handle).and_then(|bytes| blockdev::grow_xfs(&handle, bytes / block_bytes)),
        _ => device_bytes(&handle).and_then(|bytes| blockdev::grow_ext4(&handle, bytes / block_bytes)),
    };
    asked.map_err(|source| Error::Grow { kind, folder: name(), source })?;
    let (_, new_bytes) = sizes(folder).map_err(size)?;
    Ok(Grown { old_bytes, new_bytes })
}

/// Bytes of a block, and of the whole file system.
fn sizes(folder: &Path) -> io::Result<(u64, u64)> {
    let stat = statvfs(folder)?;
    let block_bytes = stat.block_size();
    Ok((block_bytes, stat.blocks() * stat.fragment_size()))
}

/// Bytes of the block device that holds an open folder.
fn device_bytes(folder: &File) -> io::Result<u64> {
    let device = folder.metadata()?.dev();
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let sectors = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/size"))?;
    let sectors: u64 = sectors.trim().parse().map_err(io::Error::other)?;
    Ok(sectors * 512)
}
