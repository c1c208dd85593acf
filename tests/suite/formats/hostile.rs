//! Images that lie. Nothing may panic, loop or ask for memory without end, and what comes back must lie on the disk.

use super::{Bench, MIB, have, run};
use remint::imaging::disk::container::{self, Format};
use remint::imaging::disk::fit::{self, Grow, Target, Wish};
use remint::imaging::disk::table;
use remint::imaging::fs;
use remint::stdx::io::{FileAt, ReadAt};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// A disk with some of its bytes replaced, as a lie costs no copy of it.
struct Lying<'a> {
    disk: &'a FileAt,
    lies: Vec<(u64, u8)>,
}

impl ReadAt for Lying<'_> {
    fn size(&self) -> u64 {
        self.disk.size()
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
        self.disk.read_exact_at(buffer, offset)?;
        for (at, byte) in &self.lies {
            if let Some(index) = at.checked_sub(offset).filter(|index| *index < buffer.len() as u64) {
                buffer[index as usize] = *byte;
            }
        }
        Ok(())
    }
}

/// Numbers that repeat from run to run.
struct Draw(u64);

impl Draw {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 20) % limit.max(1)
    }

    /// Bytes that hurt: extremes more often than others.
    fn byte(&mut self) -> u8 {
        match self.below(4) {
            0 => 0xFF,
            1 => 0,
            2 => 1 << self.below(8),
            _ => self.below(256) as u8,
        }
    }
}

/// Bytes of `disk` that are not zero, by their place, from blocks that hold structures: few bytes and many zeros.
fn structures(disk: &FileAt, used: &fs::Used) -> Vec<u64> {
    let mut places = Vec::new();
    for range in &used.ranges {
        for at in (range.start..range.end).step_by(512) {
            let len = (range.end - at).min(512) as usize;
            let block = disk.read_vec_at(at, len).unwrap();
            let filled = block.iter().filter(|byte| **byte != 0).count();
            if (1..400).contains(&filled) {
                places.extend((0..len as u64).filter(|index| block[*index as usize] != 0).map(|index| at + index));
            }
        }
    }
    places
}

fn lie_about(disk: &str, rounds: u64) {
    let disk = FileAt::new(File::open(disk).unwrap()).unwrap();
    let honest = fs::used_ranges(&disk).unwrap();
    let places = structures(&disk, &honest);
    assert!(places.len() > 100, "{} places", places.len());
    for round in 0..rounds {
        let mut draw = Draw(round);
        let near = places[draw.below(places.len() as u64) as usize];
        let lies = (0..=draw.below(6)).map(|_| {
            let scattered = places[draw.below(places.len() as u64) as usize];
            let at = if draw.below(3) == 0 { scattered } else { near + draw.below(16) };
            (at, draw.byte())
        });
        let lying = Lying { disk: &disk, lies: lies.collect() };
        let Ok(used) = fs::used_ranges(&lying) else { continue };
        assert!(used.ranges.windows(2).all(|pair| pair[0].end < pair[1].start), "round {round}");
        assert!(used.ranges.iter().all(|range| range.start < range.end && range.end <= disk.size()), "round {round}");
        let wish = Wish { grow: Grow::Root, renew: Some([1; 32]) };
        for sector_bytes in [None, Some(512), Some(4096)] {
            let target = Target { bytes: disk.size() + 9 * MIB, sector_bytes };
            if let Ok(plan) = fit::plan(&lying, target, wish) {
                let fits = |patch: &table::Patch| patch.offset + patch.bytes.len() as u64 <= target.bytes;
                assert!(plan.patches.iter().all(fits), "round {round}");
            }
        }
    }
}

fn lies_in(rounds: u64, bytes: u64, make: &[&str]) {
    if !have(&[make[0]]) {
        return;
    }
    let bench = Bench::new();
    let disk = bench.blank("disk.img", bytes);
    run(make[0], &[&make[1..], &[disk.as_str()]].concat());
    lie_about(&disk, rounds);
}

#[test]
fn lies_in_ext4_are_survived() {
    lies_in(1500, 40 * MIB, &["mke2fs", "-q", "-F", "-t", "ext4"]);
    lies_in(500, 40 * MIB, &["mke2fs", "-q", "-F", "-t", "ext4", "-O", "bigalloc,meta_bg,^resize_inode"]);
}

#[test]
fn lies_in_xfs_are_survived() {
    lies_in(400, 320 * MIB, &["mkfs.xfs", "-q"]);
}

#[test]
fn lies_in_btrfs_are_survived() {
    lies_in(400, 120 * MIB, &["mkfs.btrfs", "-q", "--csum", "xxhash"]);
}

#[test]
fn lies_in_ntfs_are_survived() {
    lies_in(1000, 16 * MIB, &["mkntfs", "-F", "-q", "-Q"]);
}

#[test]
fn lies_in_fat_and_exfat_are_survived() {
    lies_in(1000, 16 * MIB, &["mkfs.vfat", "-F", "16"]);
    lies_in(1000, 40 * MIB, &["mkfs.vfat", "-F", "32", "-s", "1"]);
    lies_in(1000, 16 * MIB, &["mkfs.exfat"]);
}

#[test]
fn lies_in_partition_tables_are_survived() {
    lies_in(1500, 16 * MIB, &["sgdisk", "-n1:2048:+2M", "-t1:ef02", "-n2:0:+4M", "-n3:0:0"]);
    if !have(&["sfdisk", "sh"]) {
        return;
    }
    let bench = Bench::new();
    let disk = bench.blank("disk.img", 16 * MIB);
    run("sh", &["-c", &format!("printf 'label: dos\\nsize=4M\\ntype=5\\nsize=3M\\nsize=2M\\n' | sfdisk -q {disk}")]);
    let file = OpenOptions::new().write(true).open(&disk).unwrap();
    // Boot code, so that there is more than a few bytes to lie about.
    file.write_all_at(&[0x90; 300], 0).unwrap();
    lie_about(&disk, 1500);
}

/// Damages an image in many ways and reads whatever opens.
fn lie_about_container(image: &str, scratch: &Path, rounds: u64, in_first: u64) {
    let honest = std::fs::read(image).unwrap();
    let places: Vec<u64> = (0..(honest.len() as u64).min(in_first)).filter(|at| honest[*at as usize] != 0).collect();
    let file = OpenOptions::new().write(true).open(image).unwrap();
    for round in 0..rounds {
        let mut draw = Draw(round);
        let mut touched = Vec::new();
        for _ in 0..=draw.below(4) {
            let at = (places[draw.below(places.len() as u64) as usize] + draw.below(3)).min(honest.len() as u64 - 1);
            file.write_all_at(&[draw.byte()], at).unwrap();
            touched.push(at);
        }
        if let Ok(opened) = container::open(Path::new(image), None, scratch) {
            let len = opened.content.size().min(MIB);
            for at in [0, opened.content.size() - len] {
                let _ = opened.content.read_vec_at(at, len as usize);
            }
        }
        touched.iter().for_each(|at| file.write_all_at(&honest[*at as usize..][..1], *at).unwrap());
    }
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
    lie_about_container(&image, &bench.path(""), rounds, 4 * MIB);
}

#[test]
fn lies_in_qcow2_are_survived() {
    lies_in_container(&["-O", "qcow2", "-o", "cluster_size=4096"], 1500);
    lies_in_container(&["-c", "-O", "qcow2", "-o", "extended_l2=on,compression_type=zstd"], 1000);
}

#[test]
fn lies_in_vhd_and_vhdx_are_survived() {
    lies_in_container(&["-O", "vpc"], 1000);
    lies_in_container(&["-O", "vhdx"], 1000);
}

#[test]
fn lies_in_vmdk_are_survived() {
    lies_in_container(&["-O", "vmdk"], 1000);
    lies_in_container(&["-O", "vmdk", "-o", "subformat=streamOptimized"], 1000);
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
    lie_about_container(&image, &bench.path(""), 800, 2048);
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
