//! Disks of this machine: fitting them, and having the kernel see it.

use super::fit::{self, Grown, Target, Wish};
use super::table::Error;
use crate::stdx::blockdev;
use crate::stdx::io::FileAt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What was done to a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fitted {
    /// The partition that grew, with its device.
    pub grown: Option<(Grown, PathBuf)>,
}

/// Carries out [`fit::plan`] on a disk or an image file, syncs it, has the kernel read the table again.
pub fn fit(path: &Path, wish: Wish) -> Result<Fitted, Error> {
    let failed = |what| device_error(what, path);
    let file = OpenOptions::new().read(true).write(true).open(path).map_err(failed("open"))?;
    let geometry = blockdev::geometry(&file).map_err(failed("ask the size of"))?;
    let disk = FileAt::new(file).map_err(failed("ask the size of"))?;
    let bytes = crate::stdx::io::ReadAt::size(&disk);
    let target = Target { bytes, sector_bytes: geometry.map(|geometry| geometry.logical_sector_bytes) };
    let plan = fit::plan(&disk, target, wish)?;
    for patch in &plan.patches {
        disk.file().write_all_at(&patch.bytes, patch.offset).map_err(failed("write the partition table of"))?;
    }
    disk.file().sync_all().map_err(failed("sync"))?;
    if geometry.is_some() {
        tell_kernel(disk.file(), plan.grown).map_err(failed("have the kernel read the partition table of"))?;
    }
    Ok(Fitted { grown: plan.grown.map(|grown| (grown, partition_path(path, grown.number))) })
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
