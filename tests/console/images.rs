//! Two versions of an image with two partitions, for pages that show images.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::appliance::remint;

const DISK_BYTES: u64 = 192 << 20;
const TABLE: &str = "label: gpt\nstart=2048, size=32MiB, type=uefi, name=EFI\nsize=96MiB, type=linux, name=root\n";
const ROOT_AT: u64 = 33 << 20;
const ROOT_KIB: u64 = 96 << 10;

/// Publishes them while the site is served, the second with a tag.
pub(crate) fn publish_two_versions(site: &Path, folder: &Path) {
    let files = folder.join("files");
    fs::create_dir_all(&files).unwrap();
    for (number, tag) in [(1u8, "old"), (2, "prod")] {
        fs::write(files.join(format!("data-{number}")), noise(u64::from(number), 12 << 20)).unwrap();
        let disk = folder.join("disk.raw");
        make_disk(&disk, &files);
        remint(site, &["image", "import", disk.to_str().unwrap(), "--name", "debian-12", "--tag", tag]);
    }
}

fn make_disk(disk: &Path, files: &Path) {
    let _ = fs::remove_file(disk);
    fs::File::create(disk).unwrap().set_len(DISK_BYTES).unwrap();
    let mut sfdisk = Command::new("/sbin/sfdisk");
    let mut child = sfdisk.arg("--quiet").arg(disk).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(TABLE.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "sfdisk");
    let offset = format!("offset={ROOT_AT}");
    let root =
        ["-q", "-t", "ext4", "-L", "system", "-E", &offset, "-d", files.to_str().unwrap(), disk.to_str().unwrap()];
    let made = Command::new("/sbin/mke2fs").args(root).arg(format!("{ROOT_KIB}k")).status();
    assert!(made.unwrap().success(), "mke2fs");
    let efi = ["--offset", "2048", "-F", "32", "-n", "EFI", disk.to_str().unwrap(), "32768"];
    let made = Command::new("/sbin/mkfs.vfat").args(efi).stdout(Stdio::null()).stderr(Stdio::null()).status();
    assert!(made.unwrap().success(), "mkfs.vfat");
}

/// Bytes that no other seed has: SplitMix64.
pub(crate) fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed;
    let words = (0..bytes / 8).flat_map(|_| {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB).to_le_bytes()
    });
    words.collect()
}
