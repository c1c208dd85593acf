//! Containers, made by qemu-img and partclone.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::tools::{Bench, disk_of, run, shell};
use super::{Seeds, behind};
use crate::targets::containers::emit_members;

const MIB: u64 = 1 << 20;

/// Target, name, options of `qemu-img convert`.
const CONVERTED: &[(&str, &str, &str)] = &[
    ("qcow2", "qcow2", "-O qcow2 -o cluster_size=512"),
    ("qcow2", "qcow2-version-2", "-O qcow2 -o compat=0.10,cluster_size=4096"),
    ("qcow2", "qcow2-compressed", "-c -O qcow2 -o cluster_size=4096"),
    ("qcow2", "qcow2-subclusters-zstd", "-c -O qcow2 -o extended_l2=on,compression_type=zstd,cluster_size=16384"),
    ("qcow2", "qcow2-lazy", "-O qcow2 -o lazy_refcounts=on,cluster_size=2M"),
    ("virtual-disks", "vhd-dynamic", "-O vpc"),
    ("virtual-disks", "vhd-fixed", "-O vpc -o subformat=fixed"),
    ("virtual-disks", "vhdx", "-O vhdx -o block_size=1M"),
    ("virtual-disks", "vhdx-fixed", "-O vhdx -o subformat=fixed"),
    ("virtual-disks", "vmdk-sparse", "-O vmdk"),
    ("virtual-disks", "vmdk-stream", "-O vmdk -o subformat=streamOptimized"),
];

/// Name, options of partclone, how the image is packed.
const SAVED: &[(&str, &str, &str)] = &[
    ("partclone", "", "cat"),
    ("partclone-often-summed", "-k 3", "cat"),
    ("partclone-not-reseeded", "-k 3 -K", "cat"),
    ("partclone-without-sums", "-a 0", "cat"),
    ("partclone-gzip", "", "gzip -9"),
    ("partclone-zstd", "", "zstd -q"),
];

pub fn seeds(target: &str) -> Seeds {
    match target {
        "partclone" => [partclone(), behind(2, folders())].concat(),
        _ => converted(target),
    }
}

fn converted(target: &str) -> Seeds {
    let mut seeds = Seeds::new();
    for (_, name, options) in CONVERTED.iter().filter(|made| made.0 == target) {
        let bench = Bench::new();
        let raw = bench.blank("raw", MIB);
        let file = File::options().write(true).open(&raw).expect("it was just made");
        file.write_all_at(&b"words ".repeat(700), 300 << 10).expect("a file is written");
        let image = bench.path("image");
        if run(&format!("qemu-img convert -f raw {options} {} {{}}", raw.display()), &image).is_some() {
            seeds.push(((*name).to_owned(), disk_of(&image)));
        }
    }
    if target == "virtual-disks" {
        let text = "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\n\
            RW 8 FLAT \"image.vmdk\" 0\nRW 16 ZERO\nRDONLY 8 SPARSE \"image.vmdk\"\n";
        let bench = Bench::new();
        let path = bench.path("descriptor");
        std::fs::write(&path, text).expect("a file is written");
        seeds.push(("vmdk-descriptor".to_owned(), disk_of(&path)));
    }
    seeds
}

/// A small ext2 and the image that partclone makes of it.
fn saved(bench: &Bench, options: &str) -> Option<Vec<u8>> {
    let (raw, image) = (bench.blank("part", 96 << 10), bench.path("image"));
    run("mke2fs -q -F -t ext2 -b 1024 -N 16 -O ^resize_inode,^dir_index {}", &raw)?;
    let between = if options.is_empty() { String::new() } else { format!(" {options}") };
    run(&format!("partclone.ext4 -c -F -q -L /dev/null -s {}{between} -o {{}}", raw.display()), &image)?;
    std::fs::read(&image).ok()
}

fn partclone() -> Seeds {
    let mut seeds = Seeds::new();
    for (name, options, pack) in SAVED {
        let bench = Bench::new();
        let packed = saved(&bench, options).and_then(|_| shell(&format!("{pack} < \"$1\""), &bench.path("image")));
        if let Some(image) = packed {
            seeds.push(((*name).to_owned(), image));
        }
    }
    seeds.push(("partclone-format-0001".to_owned(), old_format()));
    behind(1, seeds)
}

/// Format 0001 of two blocks, of which the second is used: no tool writes it any more.
fn old_format() -> Vec<u8> {
    let mut image = b"partclone-imageEXTFS\0\0\0\0\0\0\0\0\0\x000001\0\0".to_vec();
    image.extend(1024u32.to_le_bytes());
    [2048u64, 2, 1].iter().for_each(|number| image.extend(number.to_le_bytes()));
    image.resize(image.len() + 4096, 0);
    image.extend([0, 1]);
    image.extend(b"BiTmAgIc");
    image.extend([7; 1024]);
    image.extend(0xB0CF_FD21u32.to_le_bytes());
    image
}

/// Folders as Clonezilla and FOG save a disk of two partitions, of which the first was saved.
fn folders() -> Seeds {
    let bench = Bench::new();
    let disk = bench.blank("sda", 4 * MIB);
    let Some(image) = saved(&bench, "") else { return Seeds::new() };
    if run("sgdisk -n1:2048:+96K -n2:0:+1M {}", &disk).is_none() {
        return Seeds::new();
    }
    let bytes = std::fs::read(&disk).expect("what a tool made can be read");
    let (front, back) = (&bytes[..34 * 512], &bytes[bytes.len() - 33 * 512..]);
    let backup = sgdisk_backup(&disk);
    let clonezilla = emit_members([
        ("disk", &b"sda\n"[..]),
        ("parts", b"sda1 sda2\n"),
        ("sda-gpt-1st", front),
        ("sda-gpt-2nd", back),
        ("sda1.ext2-ptcl-img.aa", &image[..image.len() / 2]),
        ("sda1.ext2-ptcl-img.ab", &image[image.len() / 2..]),
    ]);
    let fog = emit_members([("d1.mbr", &backup[..]), ("d1p1.img", &image)]);
    vec![("clonezilla".to_owned(), clonezilla), ("fog".to_owned(), fog)]
}

fn sgdisk_backup(disk: &Path) -> Vec<u8> {
    let backup = disk.with_extension("backup");
    run(&format!("sgdisk -b {} {{}}", backup.display()), disk);
    std::fs::read(backup).unwrap_or_default()
}
