//! Growing a file system to all of its partition: a mounted one by one request to the kernel, NTFS and FAT by the programs of
//! those who know them.

use super::{Kind, probe};
use crate::stdx::blockdev;
use crate::stdx::bytes::Fields;
use crate::stdx::hint::Hint;
use crate::stdx::io::{FileAt, ReadAt};
use nix::sys::statvfs::statvfs;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
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
            Error::NotMounted { .. } => "NTFS and FAT grow while they are not mounted".to_owned(),
            Error::NoWay { .. } => "the partition has grown; the space behind the file system stays free".to_owned(),
            Error::NoTool { tool, .. } => {
                let package = match *tool {
                    NTFS_TOOL => "ntfs-3g",
                    FAT_TOOL => "fatresize",
                    _ => "e2fsprogs",
                };
                format!("install {package} and start again, or leave the space free (a sequence says `grow: none`)")
            }
            Error::Tool { tool, .. } if *tool == FAT_TOOL => {
                "the partition has grown and its file system keeps its size: fatresize takes FAT32 of 512 MB and more; format \
                 a smaller one anew"
                    .to_owned()
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

const NTFS_TOOL: &str = "ntfsresize";
/// `--force` answers the question whether to go on; a volume that is marked for a check is refused all the same.
const NTFS_WORDS: &[&str] = &["--force", "--no-progress-bar"];
const FAT_TOOL: &str = "fatresize";
/// fatresize of Debian 12 and 13 fails when it is asked for all of a device, or nearly all.
const FAT_SPARE_BYTES: u64 = 1 << 20;
/// What a volume says of itself and fatresize writes anew: who made it, and how many sectors lie before it.
const FAT_KEPT: [Range<usize>; 2] = [3..11, 28..32];
const FAT_LABEL_BYTES: usize = 11;
const FAT_BOOT_BYTES: usize = 512;
/// Before the first table there are few sectors.
const FAT_BACKUP_MAX: u16 = 64;
/// Of what a program prints when it fails: its last words say why.
const SAID_BYTES_MAX: usize = 600;

/// Grows the file system of `kind` on `device`, which is not mounted, to the end of the device, by its own program. For FAT
/// the device must not be a partition, but a window on one: fatresize changes the table of the disk that a partition is of.
pub fn grow_unmounted(device: &Path, kind: Kind) -> Result<Grown, Error> {
    let name = || device.display().to_string();
    let size = || {
        let probed = File::open(device).and_then(FileAt::new).and_then(|file| probe(&file));
        probed.map(|probed| probed.size_bytes).map_err(|source| Error::Device { device: name(), source })
    };
    let old_bytes = size()?;
    match kind {
        Kind::Ntfs => run(NTFS_TOOL, NTFS_WORDS, device, kind, 0)?,
        Kind::Fat16 | Kind::Fat32 => grow_fat(device, kind, old_bytes)?,
        Kind::Ext2 | Kind::Ext3 | Kind::Ext4 => {
            // resize2fs wants a file system that was just checked; 1: it mended something.
            run("e2fsck", &["-f", "-p"], device, kind, 1)?;
            run("resize2fs", &[], device, kind, 0)?;
        }
        _ => return Err(Error::NoWay { kind }),
    }
    Ok(Grown { old_bytes, new_bytes: size()? })
}

fn grow_fat(device: &Path, kind: Kind, old_bytes: u64) -> Result<(), Error> {
    let failed = |source| Error::Device { device: device.display().to_string(), source };
    let open = || FileAt::new(File::options().read(true).write(true).open(device)?);
    let (before, bytes) = open().and_then(|file| Ok((fat_boot(&file, 0)?, file.size()))).map_err(failed)?;
    let new_bytes = bytes.saturating_sub(FAT_SPARE_BYTES) / 512 * 512;
    if new_bytes <= old_bytes {
        return Ok(());
    }
    run(FAT_TOOL, &["--force-yes", "--partition", "1", "--size", &new_bytes.to_string()], device, kind, 0)?;
    let file = open().map_err(failed)?;
    let kept_its_kind = probe(&file).map_err(failed)?.kind == kind;
    if kept_its_kind { tell_what_was_known(&file, kind, &before).map_err(failed) } else { Ok(()) }
}

fn fat_boot(file: &FileAt, offset: u64) -> io::Result<Vec<u8>> {
    file.read_vec_at(offset, FAT_BOOT_BYTES)
}

/// Writes what the boot sector `before` said of the volume into the one that it has now, and into its backup.
fn tell_what_was_known(file: &FileAt, kind: Kind, before: &[u8]) -> io::Result<()> {
    let label_at = if kind == Kind::Fat32 { 71 } else { 43 };
    let now = fat_boot(file, 0)?;
    let (sector_bytes, backup) = (u64::from(Fields(&now).le16(11)), Fields(&now).le16(50));
    let has_backup = kind == Kind::Fat32 && (1..FAT_BACKUP_MAX).contains(&backup);
    for copy in std::iter::once(0).chain(has_backup.then_some(u64::from(backup) * sector_bytes)) {
        for range in FAT_KEPT.into_iter().chain(std::iter::once(label_at..label_at + FAT_LABEL_BYTES)) {
            file.file().write_all_at(&before[range.clone()], copy + range.start as u64)?;
        }
    }
    file.file().sync_all()
}

fn run(tool: &'static str, words: &[&str], device: &Path, kind: Kind, status_max: i32) -> Result<(), Error> {
    let name = device.display().to_string();
    let mut command = Command::new(tool);
    command.args(words).arg(device).env("LC_ALL", "C").stdin(Stdio::null());
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
