//! File systems of a system that is being installed: mounting and unmounting.

use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::stdx::io::FileAt;
use crate::tasksequence::fstab::linux_type;

use super::real::failed_to_read;
use super::{HostError, partition};

/// Streams as files, because the kernel's attributes end at 64 KiB; files compressed as their folder is; reading leaves the
/// times of files as the image has them.
const NTFS_OPTIONS: &str = "streams_interface=windows,compression,noatime";
/// The boot environment has its programs in the first.
const PROGRAM_FOLDERS: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// Mounts what `format` calls `kind`. Gives what people should know of its driver.
pub(super) fn mount_file_system(device: &Path, kind: &str, folder: &Path) -> Result<Option<String>, HostError> {
    if kind == "ntfs" {
        return mount_ntfs(device, folder);
    }
    mount_at(device, linux_type(kind), folder).map(|()| None)
}

/// By ntfs-3g, which holds all that NTFS has. Where it is not on board, by the kernel's driver.
fn mount_ntfs(device: &Path, folder: &Path) -> Result<Option<String>, HostError> {
    let wrong = |error: &str| HostError::new(format!("mount {} (ntfs-3g): {error}", device.display()));
    fs::create_dir_all(folder).map_err(|error| wrong(&error.to_string()))?;
    let mut command = Command::new("ntfs-3g");
    command.args(["-o", NTFS_OPTIONS]).arg(device).arg(folder).env("PATH", PROGRAM_FOLDERS).stdin(Stdio::null());
    match command.output() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            mount_at(device, linux_type("ntfs"), folder)?;
            Ok(Some(format!(
                "{} is mounted by the kernel's driver, since ntfs-3g is not on board: short names, reparse points, streams and security descriptors of an image are not held",
                device.display()
            )))
        }
        Err(error) => Err(wrong(&error.to_string())),
        Ok(output) if output.status.success() => Ok(None),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            let first = said.lines().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
            Err(wrong(first)
                .hint("the kernel needs the module `fuse`; the volume must be sound, which `chkdsk` sees to"))
        }
    }
}

/// Refuses a partition that holds another file system than the one that was made in it.
pub(super) fn same_content(device: &Path, uuid: &str) -> Result<(), HostError> {
    let found = fs::File::open(device).and_then(FileAt::new).and_then(|source| partition::content(&source));
    let found = found.map_err(failed_to_read(device))?;
    if found.uuid == uuid {
        return Ok(());
    }
    let (name, there) = (device.display(), if found.uuid.is_empty() { "none" } else { &found.uuid });
    Err(HostError::new(format!("{name} holds the file system {there} instead of {uuid}"))
        .hint("it was formatted anew since: restart the run from the step `format`"))
}

/// There is no udev here, and programs such as grub-mkconfig look for a file system where udev names it.
pub(super) fn name_by_uuid(device: &Path, uuid: &str) {
    let link = Path::new("/dev/disk/by-uuid").join(uuid);
    let _ = fs::create_dir_all("/dev/disk/by-uuid").and_then(|()| match fs::remove_file(&link) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => std::os::unix::fs::symlink(device, &link),
    });
}

/// Mounts by the kernel's own driver of that name.
pub(super) fn mount_at(device: &Path, kind: &str, folder: &Path) -> Result<(), HostError> {
    let wrong = |error: String| HostError::new(format!("mount {} ({kind}): {error}", device.display()));
    fs::create_dir_all(folder).map_err(|error| wrong(error.to_string()))?;
    mount(Some(device), folder, Some(kind), MsFlags::empty(), None::<&str>)
        .map_err(|error| wrong(error.to_string()).hint("the boot environment needs the driver of that file system"))
}

/// Shows a folder of the running system in the one at `root`.
pub(super) fn share(name: &str, root: &Path) -> Result<(), HostError> {
    let (from, to) = (Path::new("/").join(name), root.join(name));
    let wrong = |error: String| HostError::new(format!("mount /{name} into the system: {error}"));
    fs::create_dir_all(&to).map_err(|error| wrong(error.to_string()))?;
    mount(Some(&from), &to, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
        .map_err(|error| wrong(error.to_string()))
}

/// Unmounts now, or, when something a step left running still uses it, as soon as that ends. ntfs-3g has written everything
/// when this comes back: the kernel waits for its answer before it lets go of a block device.
pub(super) fn unmount(folder: &Path) -> Result<(), HostError> {
    match umount2(folder, MntFlags::empty()) {
        Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => Ok(()),
        Err(_) => umount2(folder, MntFlags::MNT_DETACH)
            .map_err(|error| HostError::new(format!("unmount {}: {error}", folder.display()))),
    }
}
