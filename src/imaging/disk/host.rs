//! Disks of this machine: fitting them, and having the kernel see it.

use super::fit::{self, Grown, Renewed, Target, Wish};
use super::table::Error;
use crate::imaging::fs::{self, Kind, grow};
use crate::stdx::blockdev::{self, LoopDevice};
use crate::stdx::io::{FileAt, ReadAt};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// An NTFS that fills its partition ends before it: by its backup boot sector, and by a part of a cluster.
const NTFS_SPARE_BYTES: u64 = 1 << 20;

/// What was done to a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fitted {
    /// The partition that grew, with its device.
    pub grown: Option<(Grown, PathBuf)>,
    /// Identifiers that are not what they were.
    pub renewed: Vec<Renewed>,
    /// What a person should know.
    pub remarks: Vec<String>,
}

/// Carries out [`fit::plan`] on a disk or an image file, syncs it, has the kernel read the table again.
pub fn fit(path: &Path, wish: Wish) -> Result<Fitted, Error> {
    let failed = |what| device_error(what, path);
    let file = OpenOptions::new().read(true).write(true).open(path).map_err(failed("open"))?;
    let geometry = blockdev::geometry(&file).map_err(failed("ask the size of"))?;
    let disk = FileAt::new(file).map_err(failed("ask the size of"))?;
    let bytes = disk.size();
    let target = Target { bytes, sector_bytes: geometry.map(|geometry| geometry.logical_sector_bytes) };
    let plan = fit::plan(&disk, target, wish)?;
    for patch in &plan.patches {
        disk.file().write_all_at(&patch.bytes, patch.offset).map_err(failed("write the partition table of"))?;
    }
    disk.file().sync_all().map_err(failed("sync"))?;
    if geometry.is_some() {
        tell_kernel(disk.file(), plan.grown).map_err(failed("have the kernel read the partition table of"))?;
    }
    let grown = plan.grown.map(|grown| (grown, partition_path(path, grown.number)));
    Ok(Fitted { grown, renewed: plan.renewed, remarks: plan.remarks })
}

/// A file system that was grown with its partition; sizes in bytes as it says itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSystemGrown {
    pub kind: Kind,
    pub old_bytes: u64,
    pub new_bytes: u64,
}

/// Grows the file system of the partition that [`fit`] has grown on `disk`, a device or an image file: mounted for a moment
/// at `mount_point`, a folder that is made and removed, where it grows so, by its own program where not.
pub fn grow_file_system(disk: &Path, partition: &Grown, mount_point: &Path) -> Result<FileSystemGrown, grow::Error> {
    let failed = |source| grow::Error::Device { device: disk.display().to_string(), source };
    let node = partition_path(disk, partition.number);
    // The kernel may know no partitions of this disk, and of a file never does: then it is shown the part.
    let window = match node.exists() {
        true => None,
        false => {
            Some(LoopDevice::attach(disk, partition.start..partition.start + partition.new_bytes).map_err(failed)?)
        }
    };
    let device = window.as_ref().map_or(node.as_path(), LoopDevice::path);
    let kind = File::open(device).and_then(FileAt::new).and_then(|file| fs::probe(&file)).map_err(failed)?.kind;
    // The program of FAT must not see that it is given a partition of a disk.
    let shield = match kind.is_fat() && window.is_none() {
        true => Some(LoopDevice::attach(device, 0..partition.new_bytes).map_err(failed)?),
        false => None,
    };
    let device = shield.as_ref().map_or(device, LoopDevice::path);
    let grown = match kind.grows_mounted() {
        true => match grow_mounted_for_a_moment(device, kind, mount_point) {
            // The kernel grants neither to everybody; an ext4 grows without it too.
            Err(grow::Error::Grow { .. } | grow::Error::Device { .. }) if kind.is_ext() => {
                fs::grow_unmounted(device, kind)?
            }
            other => other?,
        },
        false if kind == Kind::Ntfs => grow_ntfs(device)?,
        false => fs::grow_unmounted(device, kind)?,
    };
    Ok(FileSystemGrown { kind, old_bytes: grown.old_bytes, new_bytes: grown.new_bytes })
}

/// Grows the NTFS on `device`, unless it fills it: what ntfsresize has touched is checked by Windows at its next start.
pub fn grow_ntfs(device: &Path) -> Result<grow::Grown, grow::Error> {
    let failed = |source| grow::Error::Device { device: device.display().to_string(), source };
    let file = File::open(device).and_then(FileAt::new).map_err(failed)?;
    let old_bytes = fs::probe(&file).map_err(failed)?.size_bytes;
    if file.size().saturating_sub(old_bytes) < NTFS_SPARE_BYTES {
        return Ok(grow::Grown { old_bytes, new_bytes: old_bytes });
    }
    drop(file);
    fs::grow_unmounted(device, Kind::Ntfs)
}

fn grow_mounted_for_a_moment(device: &Path, kind: Kind, folder: &Path) -> Result<grow::Grown, grow::Error> {
    let failed = |source: io::Error| grow::Error::Device { device: device.display().to_string(), source };
    std::fs::create_dir(folder).map_err(failed)?;
    let mounted = mount(Some(device), folder, Some(kind.name()), MsFlags::empty(), None::<&str>);
    let grown = mounted.map_err(|error| failed(error.into())).and_then(|()| {
        let grown = grow(folder, kind);
        let unmounted = umount2(folder, MntFlags::empty()).map_err(|error| failed(error.into()));
        unmounted.and(grown)
    });
    let _ = std::fs::remove_dir(folder);
    grown
}

/// Has the kernel read the partition table of `path` again, as after an apply.
pub fn reread_partitions(path: &Path) -> Result<(), Error> {
    let failed = |what| device_error(what, path);
    let file = File::open(path).map_err(failed("open"))?;
    if blockdev::geometry(&file).map_err(failed("ask the size of"))?.is_some() {
        tell_kernel(&file, None).map_err(failed("have the kernel read the partition table of"))?;
    }
    Ok(())
}

/// Reads the whole table again; while a partition is in use only the grown one is told, which works on mounted ones.
fn tell_kernel(disk: &File, grown: Option<Grown>) -> io::Result<()> {
    const ATTEMPTS: u32 = 10;
    for attempt in 0..ATTEMPTS {
        match blockdev::reread_partitions(disk) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && attempt + 1 < ATTEMPTS => {
                if let Some(grown) = grown
                    && blockdev::resize_partition(disk, grown.number, grown.start, grown.new_bytes).is_ok()
                {
                    return Ok(());
                }
                // udev looks at a disk for some milliseconds after every change.
                std::thread::sleep(Duration::from_millis(100));
            }
            // A loop device without partition scanning has no partitions to read.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return Ok(()),
            done => return done,
        }
    }
    Ok(())
}

/// `/dev/sda` and 2 make `/dev/sda2`; a name that ends in a digit takes a `p` between (`/dev/nvme0n1p2`).
pub fn partition_path(disk: &Path, number: u32) -> PathBuf {
    let name = disk.to_string_lossy();
    let between = if name.ends_with(|last: char| last.is_ascii_digit()) { "p" } else { "" };
    PathBuf::from(format!("{name}{between}{number}"))
}

fn device_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.display().to_string();
    move |source| Error::Device { what, path, source }
}
