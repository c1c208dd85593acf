//! A disk that is larger than its image is filled: table, partition and mounted file system, on a real block device.

use super::{Bench, MIB, have, run, run_any};
use remint::imaging::disk::fit::{Grow, Wish};
use remint::imaging::disk::host;
use remint::imaging::fs::{self, Kind};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// A loop device over a file, and a mount of one of its partitions; both are taken back.
pub(super) struct Loop {
    pub(super) device: String,
    mounted: Option<PathBuf>,
}

impl Loop {
    /// `None` where loop devices cannot be had.
    pub(super) fn attach(file: &str, options: &[&str]) -> Option<Loop> {
        let output = run_any("losetup", &[&["--find", "--show", file], options].concat());
        if !output.status.success() {
            println!("skipped: no loop device: {}", String::from_utf8_lossy(&output.stderr).trim());
            return None;
        }
        Some(Loop { device: String::from_utf8_lossy(&output.stdout).trim().to_owned(), mounted: None })
    }

    pub(super) fn mount(&mut self, folder: PathBuf) -> bool {
        std::fs::create_dir_all(&folder).unwrap();
        let output = run_any("mount", &[self.device.as_str(), folder.to_str().unwrap()]);
        if !output.status.success() {
            println!("skipped: cannot mount: {}", String::from_utf8_lossy(&output.stderr).trim());
            return false;
        }
        self.mounted = Some(folder);
        true
    }

    pub(super) fn unmount(&mut self) {
        if let Some(folder) = self.mounted.take() {
            run("umount", &[folder.to_str().unwrap()]);
        }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        if let Some(folder) = self.mounted.take() {
            run_any("umount", &[folder.to_str().unwrap()]);
        }
        run_any("losetup", &["-d", &self.device]);
    }
}

fn grows(kind: Kind, image_bytes: u64, make: &[&str], check: &[&str]) {
    if !have(&["sgdisk", make[0], check[0], "losetup"]) {
        return;
    }
    let bench = Bench::new();
    let disk = bench.blank("disk.img", image_bytes);
    run("sgdisk", &["-n1:2048:0", "-t1:8300", &disk]);
    let root_bytes = image_bytes - 2 * MIB;
    let root = bench.blank("root.img", root_bytes);
    run(make[0], &[&make[1..], &[root.as_str()]].concat());
    run("dd", &[&format!("if={root}"), &format!("of={disk}"), "bs=1M", "seek=1", "conv=notrunc,sparse"]);
    let new_bytes = image_bytes * 3;
    std::fs::OpenOptions::new().write(true).open(&disk).unwrap().set_len(new_bytes).unwrap();
    let wish = Wish { grow: Grow::Root, renew: None };
    let Some(whole) = Loop::attach(&disk, &[]) else { return };
    let (grown, _) = host::fit(Path::new(&whole.device), wish).unwrap().grown.unwrap();
    assert_eq!((grown.start, grown.new_bytes), (MIB, new_bytes - 2 * MIB));
    drop(whole);
    // The kernel that runs the tests may know no partition tables: the partition is a window of the file.
    let (offset, limit) = (grown.start.to_string(), grown.new_bytes.to_string());
    let Some(mut device) = Loop::attach(&disk, &["--offset", &offset, "--sizelimit", &limit]) else { return };
    if !device.mount(bench.path("mounted")) {
        return;
    }
    let sizes = match fs::grow(&bench.path("mounted"), kind) {
        Err(fs::grow::Error::Grow { source, .. }) if source.kind() == ErrorKind::PermissionDenied => {
            println!("skipped: {kind} does not grow without CAP_SYS_RESOURCE, which is not to be had here");
            return;
        }
        grown => grown.unwrap(),
    };
    assert!(sizes.old_bytes <= root_bytes, "{sizes:?}");
    assert!(sizes.new_bytes > sizes.old_bytes * 2, "{sizes:?}");
    std::fs::write(bench.path("mounted/after"), b"grown").unwrap();
    device.unmount();
    run(check[0], &[&check[1..], &[device.device.as_str()]].concat());
    run("sgdisk", &["-v", &disk]);
}

#[test]
fn a_disk_with_large_sectors_gets_its_table_in_large_sectors() {
    if !have(&["sgdisk", "losetup"]) {
        return;
    }
    let bench = Bench::new();
    let disk = bench.blank("disk.img", 64 * MIB);
    run("sgdisk", &["-n1:2048:0", "-t1:8300", &disk]);
    std::fs::OpenOptions::new().write(true).open(&disk).unwrap().set_len(65 * MIB).unwrap();
    let Some(device) = Loop::attach(&disk, &["--sector-size", "4096"]) else { return };
    let wish = Wish { grow: Grow::Number(1), renew: None };
    host::fit(Path::new(&device.device), wish).unwrap();
    let said = run("sgdisk", &["-v", &device.device]);
    assert!(said.contains("No problems found"), "{said}");
    let said = run("sgdisk", &["-p", &device.device]);
    assert!(said.contains("4096/512 bytes") || said.contains("4096/4096 bytes"), "{said}");
}

#[test]
fn ext4_fills_a_larger_disk_while_it_is_mounted() {
    grows(Kind::Ext4, 64 * MIB, &["mke2fs", "-q", "-F", "-t", "ext4"], &["e2fsck", "-fn"]);
}

#[test]
fn xfs_fills_a_larger_disk_while_it_is_mounted() {
    grows(Kind::Xfs, 320 * MIB, &["mkfs.xfs", "-q"], &["xfs_repair", "-n"]);
}

#[test]
fn btrfs_fills_a_larger_disk_while_it_is_mounted() {
    grows(Kind::Btrfs, 256 * MIB, &["mkfs.btrfs", "-q"], &["btrfs", "check"]);
}

/// Makes a disk with one partition of `make`'s file system, lets the disk become three times as large, and fits it.
fn grows_by_its_tool(kind: Kind, image_bytes: u64, type_code: &str, make: &[&str], check: &[&str]) {
    if !have(&["sgdisk", make[0], check[0]]) {
        return;
    }
    let bench = Bench::new();
    let disk = bench.blank("disk.img", image_bytes);
    run("sgdisk", &["-n1:2048:0", &format!("-t1:{type_code}"), &disk]);
    let part = bench.blank("part.img", image_bytes - 2 * MIB);
    run(make[0], &[&make[1..], &[part.as_str()]].concat());
    run("dd", &[&format!("if={part}"), &format!("of={disk}"), "bs=1M", "seek=1", "conv=notrunc,sparse"]);
    std::fs::OpenOptions::new().write(true).open(&disk).unwrap().set_len(image_bytes * 3).unwrap();
    let wish = Wish { grow: Grow::Number(1), renew: None };
    let (partition, _) = host::fit(Path::new(&disk), wish).unwrap().grown.unwrap();
    match host::grow_file_system(Path::new(&disk), &partition, &bench.path("mount point")) {
        Err(fs::grow::Error::NoTool { tool, .. }) => println!("skipped: {tool} is not installed"),
        Err(fs::grow::Error::Device { source, .. }) => println!("skipped: no loop device: {source}"),
        Err(error) => panic!("{error}"),
        Ok(grown) => {
            assert_eq!(grown.kind, kind);
            assert!(grown.new_bytes > grown.old_bytes * 5 / 2, "{grown:?}");
            let (offset, limit) = (partition.start.to_string(), partition.new_bytes.to_string());
            let device = Loop::attach(&disk, &["--offset", &offset, "--sizelimit", &limit]).unwrap();
            run(check[0], &[&check[1..], &[device.device.as_str()]].concat());
        }
    }
}

#[test]
fn ntfs_fills_a_larger_disk_by_its_own_tool() {
    grows_by_its_tool(Kind::Ntfs, 64 * MIB, "0700", &["mkntfs", "-F", "-q", "-Q"], &["ntfsresize", "-i", "-f"]);
}

#[test]
fn ext4_of_an_image_file_is_grown_through_a_loop_device() {
    grows_by_its_tool(Kind::Ext4, 64 * MIB, "8300", &["mke2fs", "-q", "-F", "-t", "ext4"], &["e2fsck", "-fn"]);
}

#[test]
fn fat_is_refused_because_nothing_grows_it() {
    let refused = fs::grow(Path::new("/"), Kind::Fat32).unwrap_err().to_string();
    assert_eq!(refused, "grow fat32: it does not grow while it is mounted");
    let bench = Bench::new();
    let refused = fs::grow_unmounted(Path::new(&bench.blank("part.img", MIB)), Kind::Fat32).unwrap_err().to_string();
    assert_eq!(refused, "grow fat32: nothing that is known here does it");
}
