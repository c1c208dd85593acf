//! Images that lie. Nothing may panic, loop or ask for memory without end, and what comes back must lie on the disk.

use super::lies::{lie_about, lie_about_container};
use super::{Bench, MIB, have, run};
use remint::imaging::disk::container::{self, Format};
use remint::imaging::fs;
use remint::stdx::io::FileAt;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;

fn lies_in(rounds: u64, bytes: u64, make: &[&str]) {
    if !have(&[make[0]]) {
        return;
    }
    let bench = Bench::new();
    let disk = bench.blank("disk.img", bytes);
    run(make[0], &[&make[1..], &[disk.as_str()]].concat());
    lie_about(&disk, 0..rounds);
}

#[test]
fn lies_in_ext4_are_survived() {
    lies_in(375, 40 * MIB, &["mke2fs", "-q", "-F", "-t", "ext4"]);
    lies_in(125, 40 * MIB, &["mke2fs", "-q", "-F", "-t", "ext4", "-O", "bigalloc,meta_bg,^resize_inode"]);
}

#[test]
fn lies_in_xfs_are_survived() {
    lies_in(100, 320 * MIB, &["mkfs.xfs", "-q"]);
}

#[test]
fn lies_in_btrfs_are_survived() {
    lies_in(100, 120 * MIB, &["mkfs.btrfs", "-q", "--csum", "xxhash"]);
}

#[test]
fn lies_in_ntfs_are_survived() {
    lies_in(250, 16 * MIB, &["mkntfs", "-F", "-q", "-Q"]);
}

#[test]
fn lies_in_fat_and_exfat_are_survived() {
    lies_in(250, 16 * MIB, &["mkfs.vfat", "-F", "16"]);
    lies_in(250, 40 * MIB, &["mkfs.vfat", "-F", "32", "-s", "1"]);
    lies_in(250, 16 * MIB, &["mkfs.exfat"]);
}

#[test]
fn lies_in_partition_tables_are_survived() {
    lies_in(375, 16 * MIB, &["sgdisk", "-n1:2048:+2M", "-t1:ef02", "-n2:0:+4M", "-n3:0:0"]);
    if !have(&["sfdisk", "sh"]) {
        return;
    }
    let bench = Bench::new();
    let disk = bench.blank("disk.img", 16 * MIB);
    run("sh", &["-c", &format!("printf 'label: dos\\nsize=4M\\ntype=5\\nsize=3M\\nsize=2M\\n' | sfdisk -q {disk}")]);
    let file = OpenOptions::new().write(true).open(&disk).unwrap();
    // Boot code, so that there is more than a few bytes to lie about.
    file.write_all_at(&[0x90; 300], 0).unwrap();
    lie_about(&disk, 0..500);
}

fn lies_in_container(options: &[&str], rounds: u64) {
    if !have(&["qemu-img"]) {
        return;
    }
    let bench = Bench::new();
    let raw = bench.blank("disk.raw", 8 * MIB);
    let file = OpenOptions::new().write(true).open(&raw).unwrap();
    file.write_all_at(&b"words ".repeat(40_000), 3 * MIB).unwrap();
    let image = bench.name("image");
    run("qemu-img", &[&["convert", "-f", "raw"], options, &[raw.as_str(), image.as_str()]].concat());
    lie_about_container(&image, &bench.path(""), 0..rounds, 4 * MIB);
}

#[test]
fn lies_in_qcow2_are_survived() {
    lies_in_container(&["-O", "qcow2", "-o", "cluster_size=4096"], 375);
    lies_in_container(&["-c", "-O", "qcow2", "-o", "extended_l2=on,compression_type=zstd"], 250);
}

#[test]
fn lies_in_vhd_and_vhdx_are_survived() {
    lies_in_container(&["-O", "vpc"], 250);
    lies_in_container(&["-O", "vhdx"], 250);
}

#[test]
fn lies_in_vmdk_are_survived() {
    lies_in_container(&["-O", "vmdk"], 250);
    lies_in_container(&["-O", "vmdk", "-o", "subformat=streamOptimized"], 250);
}

#[test]
fn lies_in_partclone_images_are_survived() {
    if !have(&["partclone.ext4", "mke2fs"]) {
        return;
    }
    let bench = Bench::new();
    let (source, image) = (bench.blank("part.raw", 8 * MIB), bench.name("image.pcl"));
    run("mke2fs", &["-q", "-F", "-t", "ext4", &source]);
    run("partclone.ext4", &["-c", "-F", "-q", "-L", "/dev/null", "-s", &source, "-o", &image]);
    lie_about_container(&image, &bench.path(""), 0..400, 2048);
}

/// Crimes that random damage does not find, each in a handful of bytes.
#[test]
fn each_crime_of_the_corpus_is_refused_or_taken_whole() {
    let bench = Bench::new();
    for crime in CRIMES {
        let path = bench.path(crime.name);
        let file = File::create(&path).unwrap();
        file.set_len(crime.bytes).unwrap();
        crime.content.iter().for_each(|(at, bytes)| file.write_all_at(bytes, *at).unwrap());
        let disk = FileAt::new(File::open(&path).unwrap()).unwrap();
        match crime.verdict {
            Verdict::Refused(what) => {
                let error = container::open(&path, None, &bench.path("")).err();
                let said = error.unwrap_or_else(|| panic!("{}: opened", crime.name)).to_string();
                assert!(said.contains(what), "{}: {said}", crime.name);
            }
            Verdict::Warned(what) => {
                let warnings = fs::used_ranges(&disk).unwrap().warnings;
                assert!(warnings.iter().any(|said| said.contains(what)), "{}: {warnings:?}", crime.name);
            }
        }
    }
}

struct Crime {
    name: &'static str,
    bytes: u64,
    content: &'static [(u64, &'static [u8])],
    verdict: Verdict,
}

enum Verdict {
    Refused(&'static str),
    Warned(&'static str),
}

const CRIMES: [Crime; 7] = [
    Crime {
        name: "qcow2-whose-first-table-is-4-gigabytes",
        bytes: 65536,
        content: &[(0, b"QFI\xFB\0\0\0\x02"), (20, &[0, 0, 0, 16]), (36, &[0x20, 0, 0, 0])],
        verdict: Verdict::Refused("none that qcow2 can have"),
    },
    Crime {
        name: "qcow2-that-names-one-table-twice",
        bytes: 1 << 20,
        content: &[
            (0, b"QFI\xFB\0\0\0\x02"),
            (20, &[0, 0, 0, 16, 0, 0, 0, 0, 0x40, 0, 0, 0]),
            (36, &[0, 0, 0, 2, 0, 0, 0, 0, 0, 1, 0, 0]),
            (65536, &[0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0]),
        ],
        verdict: Verdict::Refused("used twice"),
    },
    Crime {
        name: "vhd-without-a-checksum",
        bytes: 1 << 20,
        content: &[((1 << 20) - 512, b"conectix")],
        verdict: Verdict::Refused("neither of its footers is sound"),
    },
    Crime {
        name: "vmdk-with-an-endless-disk",
        bytes: 60,
        content: &[(0, b"# Disk DescriptorFile\nRW 1099511627776 FLAT \"a\" 0\n")],
        verdict: Verdict::Refused("an extent has no size"),
    },
    Crime {
        name: "partclone-of-a-future-format",
        bytes: 4096,
        content: &[(0, b"partclone-image\x000.9\0\0\0\0\0\0\0\0\0\0\x000009")],
        verdict: Verdict::Refused("its format is none of"),
    },
    Crime {
        name: "mbr-whose-logical-partitions-run-in-a-circle",
        bytes: 1 << 20,
        content: &[
            (446 + 4, &[5, 0, 0, 0, 8, 0, 0, 0, 0, 4, 0, 0]),
            (510, &[0x55, 0xAA]),
            (8 * 512 + 446 + 4, &[0x83, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0]),
            (8 * 512 + 462 + 4, &[5, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0]),
            (8 * 512 + 510, &[0x55, 0xAA]),
        ],
        verdict: Verdict::Warned("the chain of logical partitions is damaged"),
    },
    Crime {
        name: "mbr-whose-partition-lies-behind-the-disk",
        bytes: 1 << 20,
        content: &[(446 + 4, &[0x83, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF]), (510, &[0x55, 0xAA])],
        verdict: Verdict::Warned("lies behind the end of the disk"),
    },
];

#[test]
fn the_format_is_told_by_its_signature_and_its_name() {
    for format in Format::ALL {
        assert_eq!(Format::from_name(format.name()), Some(format));
    }
    assert_eq!(Format::from_name("iso"), None);
    let scratch = Bench::new();
    std::fs::write(scratch.path("short"), b"QF").unwrap();
    let opened = container::open(&scratch.path("short"), None, &scratch.path("")).unwrap();
    assert_eq!((opened.format, opened.content.size()), (Format::Raw, 2));
}
