//! Growing a file system to all of its partition: a mounted one by one request to the kernel, NTFS by the program of those
//! who know it.

use super::{Kind, probe};
use crate::stdx::blockdev;
use crate::stdx::hint::Hint;
use crate::stdx::io::FileAt;
use nix::sys::statvfs::statvfs;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

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
    #[error("grow {kind}: nothing that is known here does it")]
    NoWay { kind: Kind },
    #[error("grow the {kind} on {device}: {tool} is not installed")]
    NoTool { kind: Kind, device: String, tool: &'static str },
    #[error("grow the {kind} on {device}: {tool} says: {said}")]
    Tool { kind: Kind, device: String, tool: &'static str, said: String },
    #[error("look at {device}")]
    Device { device: String, source: io::Error },
}

impl Hint for Error {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Error::NotMounted { .. } => "NTFS grows while it is not mounted".to_owned(),
            Error::NoWay { .. } => "the partition has grown; the space behind the file system stays free".to_owned(),
            Error::NoTool { tool, .. } => {
                let package = if *tool == NTFS_TOOL[0] { "ntfs-3g" } else { "e2fsprogs" };
                format!("install {package} and start again, or leave the space free")
            }
            Error::Tool { .. } => "check the file system first (chkdsk, e2fsck), then start again".to_owned(),
            Error::Device { .. } => "is the partition there?".to_owned(),
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

/// `--force` answers the question whether to go on; a volume that is marked for a check is refused all the same.
const NTFS_TOOL: &[&str] = &["ntfsresize", "--force", "--no-progress-bar"];
/// resize2fs wants a file system that was just checked.
const EXT_CHECK: &[&str] = &["e2fsck", "-f", "-p"];
const EXT_TOOL: &[&str] = &["resize2fs"];
/// Of what a program prints when it fails: its last words say why.
const SAID_BYTES_MAX: usize = 600;

/// Grows the file system of `kind` on `device`, which is not mounted, to the end of the device, by its own program. FAT has
/// none that leaves the partition table alone: fatresize gives the partition another type and size.
pub fn grow_unmounted(device: &Path, kind: Kind) -> Result<Grown, Error> {
    let name = || device.display().to_string();
    let size = || {
        let probed = File::open(device).and_then(FileAt::new).and_then(|file| probe(&file));
        probed.map(|probed| probed.size_bytes).map_err(|source| Error::Device { device: name(), source })
    };
    let old_bytes = size()?;
    match kind {
        Kind::Ntfs => run(NTFS_TOOL, device, kind, 0)?,
        Kind::Ext2 | Kind::Ext3 | Kind::Ext4 => {
            // 1: it mended something.
            run(EXT_CHECK, device, kind, 1)?;
            run(EXT_TOOL, device, kind, 0)?;
        }
        _ => return Err(Error::NoWay { kind }),
    }
    Ok(Grown { old_bytes, new_bytes: size()? })
}

fn run(words: &[&'static str], device: &Path, kind: Kind, status_max: i32) -> Result<(), Error> {
    let (name, tool) = (device.display().to_string(), words[0]);
    let mut command = Command::new(tool);
    command.args(&words[1..]).arg(device).env("LC_ALL", "C").stdin(Stdio::null());
    let output = match command.output() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Error::NoTool { kind, device: name, tool });
        }
        Err(error) => return Err(Error::Tool { kind, device: name, tool, said: error.to_string() }),
        Ok(output) => output,
    };
    if output.status.code().is_some_and(|code| code <= status_max) {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).trim().to_owned();
    let from = said.ceil_char_boundary(said.len().saturating_sub(SAID_BYTES_MAX));
    Err(Error::Tool { kind, device: name, tool, said: said[from..].to_owned() })
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
