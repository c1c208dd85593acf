//! `file_systems SEED SECONDS`: used ranges and growth of a disk that lies, made by a tool of that name.

mod driver;
#[path = "../../suite/formats/lies.rs"]
#[expect(dead_code, reason = "the containers' half is the other target's")]
mod lies;

/// Name, megabytes, command.
const SEEDS: [(&str, u64, &str); 12] = [
    ("ext4", 40, "mke2fs -q -F -t ext4"),
    ("ext4-bigalloc", 40, "mke2fs -q -F -t ext4 -O bigalloc,meta_bg,^resize_inode"),
    ("ext2", 20, "mke2fs -q -F -t ext2 -b 1024"),
    ("xfs", 320, "mkfs.xfs -q"),
    ("btrfs", 120, "mkfs.btrfs -q --csum xxhash"),
    ("ntfs", 16, "mkntfs -F -q -Q"),
    ("fat12", 4, "mkfs.vfat -F 12"),
    ("fat16", 16, "mkfs.vfat -F 16"),
    ("fat32", 40, "mkfs.vfat -F 32 -s 1"),
    ("exfat", 16, "mkfs.exfat"),
    ("gpt", 16, "sgdisk -n1:2048:+2M -t1:ef02 -n2:0:+4M -n3:0:0"),
    ("swap", 4, "mkswap"),
];

fn main() {
    let (name, seconds) = driver::arguments();
    let (_, megabytes, command) = SEEDS.into_iter().find(|seed| seed.0 == name).expect("a seed of that name");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let disk = folder.path().join("disk").display().to_string();
    std::fs::File::create(&disk).and_then(|file| file.set_len(megabytes << 20)).expect("a sparse file");
    driver::run(&format!("{command} {disk}"));
    driver::rounds(&name, seconds, |rounds| lies::lie_about(&disk, rounds));
}
