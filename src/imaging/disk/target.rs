//! Whether a disk may be written to: nothing of it is mounted, swapped to, or held by something above it.

use crate::stdx::hint::Hint;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What the kernel says of its block devices, as folders to read: the machine's own, or a test's.
pub struct Kernel {
    proc: PathBuf,
    sys: PathBuf,
}

/// One reason not to write to a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Use {
    Mounted {
        device: String,
        at: String,
    },
    Swap {
        device: String,
    },
    /// LVM, LUKS, RAID or a loop device sits on it.
    Held {
        device: String,
        by: String,
    },
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Use::Mounted { device, at } => write!(f, "{device} is mounted at {at}"),
            Use::Swap { device } => write!(f, "{device} is swapped to"),
            Use::Held { device, by } => write!(f, "{device} is held by {by}"),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("write to {target}: {}", uses.iter().map(Use::to_string).collect::<Vec<_>>().join(", "))]
    InUse { target: String, uses: Vec<Use> },
    #[error("find out who uses {target}")]
    Look { target: String, source: io::Error },
}

impl Hint for Error {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Error::InUse { .. } => {
                "unmount it, swapoff, or close what holds it; force it by name only if its content may be lost"
                    .to_owned()
            }
            Error::Look { .. } => "check that the target exists and that /proc and /sys are mounted".to_owned(),
        })
    }
}

impl Kernel {
    /// The kernel of this machine.
    pub fn host() -> Kernel {
        Kernel { proc: "/proc".into(), sys: "/sys".into() }
    }

    /// A kernel whose `proc` and `sys` are folders of `folder`.
    pub fn at(folder: &Path) -> Kernel {
        Kernel { proc: folder.join("proc"), sys: folder.join("sys") }
    }

    /// Refuses a disk, partition or image file that is in use in any way.
    pub fn check_unused(&self, target: &Path) -> Result<(), Error> {
        let name = target.display().to_string();
        match self.uses(target) {
            Err(source) => Err(Error::Look { target: name, source }),
            Ok(uses) if uses.is_empty() => Ok(()),
            Ok(uses) => Err(Error::InUse { target: name, uses }),
        }
    }

    /// Everything that uses `target` or one of its partitions.
    fn uses(&self, target: &Path) -> io::Result<Vec<Use>> {
        let path = fs::canonicalize(target).or_else(|error| match error.kind() {
            io::ErrorKind::NotFound if folder_of(target).is_dir() => Ok(target.to_owned()),
            _ => Err(error),
        })?;
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let block = self.sys.join("class/block").join(&name);
        if !path.starts_with("/dev") || !block.exists() {
            return self.loops_over(&path);
        }
        let mut devices = vec![name];
        for entry in fs::read_dir(&block)?.filter_map(Result::ok) {
            if entry.path().join("partition").exists() {
                devices.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        let mounts = fs::read_to_string(self.proc.join("self/mountinfo"))?;
        let swaps = fs::read_to_string(self.proc.join("swaps")).unwrap_or_default();
        let mut uses = Vec::new();
        for device in devices {
            self.uses_of(&device, &mounts, &swaps, &mut uses);
        }
        Ok(uses)
    }

    fn uses_of(&self, device: &str, mounts: &str, swaps: &str, uses: &mut Vec<Use>) {
        let block = self.sys.join("class/block").join(device);
        let number = fs::read_to_string(block.join("dev")).unwrap_or_default();
        let path = format!("/dev/{device}");
        let points = mounts.lines().filter_map(|line| mounted_at(line, number.trim(), &path));
        uses.extend(points.map(|at| Use::Mounted { device: path.clone(), at }));
        if swaps.lines().any(|line| line.split_whitespace().next() == Some(&path)) {
            uses.push(Use::Swap { device: path.clone() });
        }
        for holder in fs::read_dir(block.join("holders")).into_iter().flatten().filter_map(Result::ok) {
            let by = format!("/dev/{}", holder.file_name().to_string_lossy());
            uses.push(Use::Held { device: path.clone(), by });
        }
    }

    /// The loop devices whose content is the file at `path`.
    fn loops_over(&self, path: &Path) -> io::Result<Vec<Use>> {
        let Ok(entries) = fs::read_dir(self.sys.join("class/block")) else { return Ok(Vec::new()) };
        let mut uses = Vec::new();
        for entry in entries.filter_map(Result::ok) {
            let backing = fs::read_to_string(entry.path().join("loop/backing_file")).unwrap_or_default();
            if Path::new(backing.trim_end_matches('\n')) == path {
                let by = format!("/dev/{}", entry.file_name().to_string_lossy());
                uses.push(Use::Held { device: path.display().to_string(), by });
            }
        }
        Ok(uses)
    }
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder.as_os_str().is_empty() => Path::new("."),
        Some(folder) => folder,
        None => path,
    }
}

/// Where a line of `mountinfo` mounts the device, by its number or (btrfs has numbers of its own) by its path:
/// `36 35 98:0 /root /mount/point options - type source options`.
fn mounted_at(line: &str, number: &str, path: &str) -> Option<String> {
    let (mount, source) = line.split_once(" - ")?;
    let fields: Vec<&str> = mount.split(' ').collect();
    let source = source.split(' ').nth(1)?;
    let at = fields.get(4)?;
    (fields.get(2) == Some(&number) || source == path).then(|| at.replace("\\040", " "))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "22 1 8:2 / / rw,relatime shared:1 - ext4 /dev/sda2 rw
31 22 0:29 /@ /srv/my\\040data rw - btrfs /dev/sda3 rw
";

    /// A machine whose disk has the name of a device that every machine has, and three partitions.
    fn machine(mounts: &str, swaps: &str) -> (tempfile::TempDir, Kernel) {
        let folder = tempfile::tempdir().unwrap();
        let block = folder.path().join("sys/class/block/null");
        for part in ["sda2", "sda3", "sda4"] {
            fs::create_dir_all(block.join(part)).unwrap();
            fs::write(block.join(part).join("partition"), "1").unwrap();
            fs::create_dir_all(folder.path().join("sys/class/block").join(part).join("holders")).unwrap();
        }
        fs::write(folder.path().join("sys/class/block/sda2/dev"), "8:2\n").unwrap();
        fs::create_dir_all(folder.path().join("sys/class/block/sda4/holders/dm-0")).unwrap();
        fs::create_dir_all(folder.path().join("proc/self")).unwrap();
        fs::write(folder.path().join("proc/self/mountinfo"), mounts).unwrap();
        fs::write(folder.path().join("proc/swaps"), swaps).unwrap();
        let kernel = Kernel::at(folder.path());
        (folder, kernel)
    }

    #[test]
    fn a_disk_is_refused_for_what_its_partitions_are_used_for() {
        let swaps = "Filename Type Size Used Priority\n/dev/sda3 partition 1 0 -2\n";
        let (_folder, kernel) = machine(MOUNTS, swaps);
        let refused = kernel.check_unused(Path::new("/dev/null")).unwrap_err().to_string();
        for part in [
            "write to /dev/null: ",
            "/dev/sda2 is mounted at /",
            "/dev/sda3 is mounted at /srv/my data",
            "/dev/sda3 is swapped to",
            "/dev/sda4 is held by /dev/dm-0",
        ] {
            assert!(refused.contains(part), "{refused}");
        }
    }

    #[test]
    fn a_file_is_refused_only_while_a_loop_device_shows_it() {
        let (folder, kernel) = machine("", "");
        let image = folder.path().join("disk.img");
        fs::write(&image, "").unwrap();
        assert!(kernel.check_unused(&image).is_ok());
        assert!(kernel.check_unused(&folder.path().join("not-yet-there.img")).is_ok());
        assert!(kernel.check_unused(Path::new("not-yet-there.img")).is_ok(), "in the folder that we are in");
        fs::create_dir_all(folder.path().join("sys/class/block/loop3/loop")).unwrap();
        let line = format!("{}\n", fs::canonicalize(&image).unwrap().display());
        fs::write(folder.path().join("sys/class/block/loop3/loop/backing_file"), line).unwrap();
        let refused = kernel.check_unused(&image).unwrap_err().to_string();
        assert!(refused.ends_with("is held by /dev/loop3"), "{refused}");
    }
}
