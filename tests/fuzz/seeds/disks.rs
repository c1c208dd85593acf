//! Partition tables and file systems, made by their own tools.

use super::Seeds;
use super::tools::{Bench, disk_of, run, shell};
use crate::targets::sectors::Disk;

const MIB: u64 = 1 << 20;

/// Target, name, MiB, command.
const MADE: &[(&str, &str, u64, &str)] = &[
    ("tables", "gpt", 16, "sgdisk -n1:2048:+2M -t1:ef02 -n2:0:+4M -n3:0:0 {}"),
    ("tables", "gpt-empty", 4, "sgdisk -o {}"),
    ("tables", "gpt-hybrid", 16, "sgdisk -n1:2048:+2M -n2:0:+4M -h 1:2 {}"),
    ("tables", "gpt-named", 16, "sgdisk -n5:2048:+2M -c5:daten -u5:R -A5:set:63 {}"),
    ("ext4", "ext4", 4, "mke2fs -q -F -t ext4 {}"),
    ("ext4", "ext4-bigalloc", 40, "mke2fs -q -F -t ext4 -O bigalloc,meta_bg,^resize_inode,^has_journal {}"),
    ("ext4", "ext4-64bit", 24, "mke2fs -q -F -t ext4 -O 64bit,^has_journal,sparse_super2,^resize_inode -g 1024 {}"),
    ("ext4", "ext3", 6, "mke2fs -q -F -t ext3 -b 1024 {}"),
    ("ext4", "ext2", 20, "mke2fs -q -F -t ext2 -b 1024 -O ^resize_inode -g 512 {}"),
    ("xfs", "xfs", 320, "mkfs.xfs -q {}"),
    ("xfs", "xfs-v4", 320, "mkfs.xfs -q -m crc=0,finobt=0 {}"),
    ("xfs", "xfs-bigger-blocks", 320, "mkfs.xfs -q -b size=1024 -m reflink=0,rmapbt=0 {}"),
    ("btrfs", "btrfs", 120, "mkfs.btrfs -q {}"),
    ("btrfs", "btrfs-mixed", 24, "mkfs.btrfs -q --mixed -n 4096 {}"),
    ("btrfs", "btrfs-xxhash", 120, "mkfs.btrfs -q --csum xxhash {}"),
    ("ntfs", "ntfs", 4, "mkntfs -F -q -Q {}"),
    ("ntfs", "ntfs-small-clusters", 2, "mkntfs -F -q -Q -c 512 {}"),
    ("fat", "fat12", 2, "mkfs.vfat -F 12 {}"),
    ("fat", "fat16", 16, "mkfs.vfat -F 16 {}"),
    ("fat", "fat32", 40, "mkfs.vfat -F 32 -s 1 {}"),
    ("fat", "fat32-4k", 300, "mkfs.vfat -F 32 -S 4096 {}"),
    ("fat", "exfat", 8, "mkfs.exfat {}"),
    ("tables", "ext4-labelled", 4, "mke2fs -q -F -t ext4 -L daten {}"),
    ("tables", "xfs-labelled", 320, "mkfs.xfs -q -L daten {}"),
    ("tables", "btrfs-labelled", 120, "mkfs.btrfs -q -L daten {}"),
    ("tables", "ntfs-labelled", 4, "mkntfs -F -q -Q -L daten {}"),
    ("tables", "fat16-labelled", 16, "mkfs.vfat -F 16 -n DATEN {}"),
    ("tables", "exfat-labelled", 8, "mkfs.exfat -L daten {}"),
    ("tables", "swap", 1, "mkswap -L daten {}"),
];

/// Signatures of what is only recognised: place, bytes.
const SIGNED: &[(&str, u64, &[u8])] = &[
    ("luks1", 0, b"LUKS\xBA\xBE\0\x01"),
    ("luks2", 0, b"LUKS\xBA\xBE\0\x02"),
    ("bitlocker", 3, b"-FVE-FS-"),
    ("raid-1.2", 4096, &[0xFC, 0x4E, 0x2B, 0xA9, 1, 0, 0, 0]),
    ("swap-raw", 4086, b"SWAPSPACE2"),
];

pub fn seeds(target: &str) -> Seeds {
    let mut seeds = Seeds::new();
    for (_, name, mebibytes, command) in MADE.iter().filter(|made| made.0 == target) {
        let bench = Bench::new();
        let disk = bench.blank("disk", mebibytes * MIB);
        if run(command, &disk).is_some() {
            seeds.push(((*name).to_owned(), disk_of(&disk)));
        }
    }
    if target == "tables" {
        seeds.extend(mbr());
        seeds.push(("lvm".to_owned(), physical_volume()));
        seeds.extend(SIGNED.iter().map(|(name, at, bytes)| ((*name).to_owned(), signed(*at, bytes))));
    }
    seeds
}

fn mbr() -> Seeds {
    let script = "printf 'label: dos\\nsize=4M\\ntype=5,size=8M\\nsize=3M\\nsize=2M\\n' | sfdisk -q \"$1\"";
    let bench = Bench::new();
    let disk = bench.blank("disk", 16 * MIB);
    shell(script, &disk).map(|_| ("mbr-with-logical-partitions".to_owned(), disk_of(&disk))).into_iter().collect()
}

fn signed(at: u64, bytes: &[u8]) -> Vec<u8> {
    let mut disk = Disk::blank(MIB);
    disk.write(at, bytes);
    disk.emit()
}

/// A physical volume as LVM2 writes it, with a volume in two pieces: LVM's own tools need a device of the kernel.
fn physical_volume() -> Vec<u8> {
    const AREA_AT: u64 = 4096;
    let mut disk = Disk::blank(48 * MIB);
    let mut label = b"LABELONE".to_vec();
    label.extend(1u64.to_le_bytes());
    label.extend([0; 4]);
    label.extend(32u32.to_le_bytes());
    label.extend(b"LVM2 001");
    label.extend(b"abcdefghijklmnopqrstuvwxyz012345");
    for number in [disk.size, MIB, 0, 0, 0, AREA_AT, MIB - AREA_AT, 0, 0] {
        label.extend(number.to_le_bytes());
    }
    disk.write(512, &label);
    disk.write(AREA_AT + 512, VOLUME_GROUP.as_bytes());
    let mut header = vec![0; 4];
    header.extend(b" LVM2 x[5A%r0N*>");
    header.extend(1u32.to_le_bytes());
    for number in [AREA_AT, MIB - AREA_AT, 512, VOLUME_GROUP.len() as u64, 0] {
        header.extend(number.to_le_bytes());
    }
    disk.write(AREA_AT, &header);
    disk.emit()
}

const VOLUME_GROUP: &str = r#"lab {
id = "6oT3cs-0000-0000-0000-0000-0000-000000"
seqno = 4
extent_size = 8192
physical_volumes {
pv0 {
id = "abcdef-ghij-klmn-opqr-stuv-wxyz-012345"
pe_start = 2048
pe_count = 11
}
}
logical_volumes {
root {
status = ["READ", "WRITE", "VISIBLE"]
segment_count = 2
segment1 {
start_extent = 0
extent_count = 2
type = "striped"
stripe_count = 1
stripes = ["pv0", 0]
}
segment2 {
start_extent = 2
extent_count = 1
type = "striped"
stripe_count = 1
stripes = ["pv0", 5]
}
}
}
}
"#;
