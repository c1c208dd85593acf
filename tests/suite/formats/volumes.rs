//! A file system of which only the used ranges were copied is clean to its own checker and holds the same files.

use super::grow::Loop;
use super::{Bench, MIB, copy_used, have, run, run_any};
use remint::imaging::fs;
use remint::imaging::fs::{Kind, Treatment, Used};
use remint::stdx::io::FileAt;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// The one volume of a bare file system, of which only the used part was taken.
fn check_used_only(used: &Used, kind: Kind, most_bytes: u64) {
    assert_eq!(used.warnings, Vec::<String>::new());
    assert_eq!(used.volumes.len(), 1);
    assert_eq!(used.volumes[0].probed.kind, kind);
    assert!(matches!(used.volumes[0].treatment, Treatment::UsedOnly { .. }), "{:?}", used.volumes[0]);
    assert!(used.used_bytes() <= most_bytes, "{} bytes used, at most {most_bytes} expected", used.used_bytes());
}

fn ext_round_trip(kind: Kind, bytes: u64, most_bytes: u64, options: &[&str]) {
    if !have(&["mke2fs", "e2fsck", "debugfs", "diff"]) {
        return;
    }
    let bench = Bench::new();
    let (content, source) = (bench.content(), bench.blank("source.img", bytes));
    let mut arguments = vec!["-q", "-F", "-L", "ROOT", "-d", &content];
    arguments.extend(options);
    arguments.push(&source);
    run("mke2fs", &arguments);
    let copy = bench.name("copy.img");
    let used = copy_used(&source, &copy);
    check_used_only(&used, kind, most_bytes);
    assert_eq!(used.volumes[0].probed.label, "ROOT");
    assert_eq!(used.volumes[0].probed.uuid, run("blkid", &["-p", "-s", "UUID", "-o", "value", &source]).trim());
    run("e2fsck", &["-fn", &copy]);
    let back = bench.path("back");
    std::fs::create_dir(&back).unwrap();
    run("debugfs", &["-R", &format!("rdump / {}", back.display()), &copy]);
    run("diff", &["-r", "--exclude=lost+found", &content, &bench.name("back")]);
}

#[test]
fn ext2_with_small_blocks_survives_as_its_used_ranges() {
    ext_round_trip(Kind::Ext2, 48 * MIB, 12 * MIB, &["-t", "ext2", "-b", "1024"]);
}

#[test]
fn ext2_without_sparse_superblocks_survives_as_its_used_ranges() {
    ext_round_trip(Kind::Ext2, 48 * MIB, 14 * MIB, &["-t", "ext2", "-b", "1024", "-O", "^sparse_super,^resize_inode"]);
}

#[test]
fn ext3_survives_as_its_used_ranges() {
    ext_round_trip(Kind::Ext3, 64 * MIB, 20 * MIB, &["-t", "ext3"]);
}

#[test]
fn ext4_as_made_by_default_survives_as_its_used_ranges() {
    ext_round_trip(Kind::Ext4, 640 * MIB, 70 * MIB, &["-t", "ext4", "-b", "4096"]);
}

#[test]
fn ext4_without_flexible_groups_and_with_32_bits_survives_as_its_used_ranges() {
    ext_round_trip(Kind::Ext4, 300 * MIB, 60 * MIB, &["-t", "ext4", "-b", "4096", "-O", "^flex_bg,^64bit"]);
}

#[test]
fn ext4_with_uninitialised_groups_of_old_survives_as_its_used_ranges() {
    ext_round_trip(Kind::Ext4, 300 * MIB, 60 * MIB, &["-t", "ext4", "-b", "4096", "-O", "^metadata_csum,uninit_bg"]);
}

#[test]
fn ext4_with_spread_descriptors_survives_as_its_used_ranges() {
    ext_round_trip(Kind::Ext4, 300 * MIB, 60 * MIB, &["-t", "ext4", "-b", "1024", "-O", "meta_bg,^resize_inode"]);
}

#[test]
fn ext4_with_clusters_survives_as_its_used_ranges() {
    ext_round_trip(Kind::Ext4, 300 * MIB, 70 * MIB, &["-t", "ext4", "-b", "4096", "-O", "bigalloc", "-C", "65536"]);
}

#[test]
fn ext4_with_two_backups_survives_as_its_used_ranges() {
    ext_round_trip(Kind::Ext4, 300 * MIB, 60 * MIB, &["-t", "ext4", "-b", "4096", "-O", "sparse_super2"]);
}

#[test]
fn ext4_that_was_not_unmounted_is_taken_whole_and_that_is_said() {
    if !have(&["mke2fs", "debugfs"]) {
        return;
    }
    let bench = Bench::new();
    let source = bench.blank("source.img", 16 * MIB);
    run("mke2fs", &["-q", "-F", "-t", "ext4", &source]);
    run("debugfs", &["-w", "-R", "feature +needs_recovery", &source]);
    let used = copy_used(&source, &bench.name("copy.img"));
    assert_eq!(used.ranges, vec![0..16 * MIB]);
    assert_eq!(used.warnings, ["the disk (ext4) is taken whole: it was not cleanly unmounted"]);
}

fn fat_round_trip(kind: Kind, bytes: u64, most_bytes: u64, options: &[&str]) {
    if !have(&["mkfs.vfat", "fsck.vfat", "mcopy", "diff"]) {
        return;
    }
    let bench = Bench::new();
    let (content, source) = (bench.content(), bench.blank("source.img", bytes));
    let mut arguments = vec!["-n", "EFI", "-i", "1234abcd"];
    arguments.extend(options);
    arguments.push(&source);
    run("mkfs.vfat", &arguments);
    run("mcopy", &["-s", "-i", &source, &content, "::/"]);
    let copy = bench.name("copy.img");
    let used = copy_used(&source, &copy);
    check_used_only(&used, kind, most_bytes);
    assert_eq!(used.volumes[0].probed.label, "EFI");
    assert_eq!(used.volumes[0].probed.uuid, "1234-ABCD");
    let checked = run_any("fsck.vfat", &["-n", &copy]);
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
    std::fs::create_dir(bench.path("back")).unwrap();
    run("mcopy", &["-s", "-i", &copy, "::/content", &bench.name("back")]);
    run("diff", &["-r", &content, &bench.name("back/content")]);
}

#[test]
fn fat12_survives_as_its_used_ranges() {
    fat_round_trip(Kind::Fat12, 14 * MIB, 8 * MIB, &["-F", "12", "-s", "8"]);
}

#[test]
fn fat16_survives_as_its_used_ranges() {
    fat_round_trip(Kind::Fat16, 100 * MIB, 9 * MIB, &["-F", "16"]);
}

#[test]
fn fat32_survives_as_its_used_ranges() {
    fat_round_trip(Kind::Fat32, 300 * MIB, 13 * MIB, &["-F", "32"]);
}

#[test]
fn fat32_with_large_sectors_survives_as_its_used_ranges() {
    fat_round_trip(Kind::Fat32, 600 * MIB, 13 * MIB, &["-F", "32", "-S", "4096", "-s", "1"]);
}

fn xfs_round_trip(bytes: u64, most_bytes: u64, options: &[&str]) {
    if !have(&["mkfs.xfs", "xfs_repair", "xfs_copy"]) {
        return;
    }
    let bench = Bench::new();
    let (content, source) = (bench.content(), bench.blank("source.img", bytes));
    run("mkfs.xfs", &[&["-q", "-L", "ROOT"], options, &[source.as_str()]].concat());
    let filled = bench.mounted(&source, |folder| {
        run("cp", &["-r", &content, folder]);
        (0..40).for_each(|index| std::fs::remove_file(format!("{folder}/content/file-{}.bin", index * 3)).unwrap());
    });
    let copy = bench.name("copy.img");
    let used = copy_used(&source, &copy);
    check_used_only(&used, Kind::Xfs, most_bytes);
    assert_eq!(used.volumes[0].probed.label, "ROOT");
    run("xfs_repair", &["-n", &copy]);
    if filled {
        bench.mounted(&copy, |folder| {
            let found = run(
                "sh",
                &["-c", &format!("diff -r {content} {folder}/content | grep -cv '^Only in {content}'; true")],
            );
            assert_eq!(found.trim(), "0");
        });
    }
}

#[test]
fn xfs_survives_as_its_used_ranges() {
    xfs_round_trip(320 * MIB, 90 * MIB, &[]);
}

#[test]
fn xfs_of_many_groups_and_small_blocks_survives_as_its_used_ranges() {
    xfs_round_trip(500 * MIB, 90 * MIB, &["-b", "size=1024", "-d", "agcount=5"]);
}

#[test]
fn xfs_that_is_mounted_is_taken_whole() {
    if !have(&["mkfs.xfs"]) {
        return;
    }
    let bench = Bench::new();
    let source = bench.blank("source.img", 320 * MIB);
    run("mkfs.xfs", &["-q", &source]);
    bench.mounted(&source, |folder| {
        std::fs::write(format!("{folder}/file"), b"content").unwrap();
        run("sync", &[]);
        let disk = FileAt::new(File::open(&source).unwrap()).unwrap();
        let used = fs::used_ranges(&disk).unwrap();
        assert_eq!(used.warnings, ["the disk (xfs) is taken whole: it was not cleanly unmounted"]);
    });
}

fn btrfs_round_trip(bytes: u64, most_bytes: u64, options: &[&str]) {
    if !have(&["mkfs.btrfs", "btrfs"]) {
        return;
    }
    let bench = Bench::new();
    let (content, source) = (bench.content(), bench.blank("source.img", bytes));
    run("mkfs.btrfs", &[&["-q", "-L", "ROOT", "--rootdir", content.as_str()], options, &[source.as_str()]].concat());
    let copy = bench.name("copy.img");
    let used = copy_used(&source, &copy);
    check_used_only(&used, Kind::Btrfs, most_bytes);
    assert_eq!(used.volumes[0].probed.label, "ROOT");
    run("btrfs", &["check", "--check-data-csum", &copy]);
    std::fs::create_dir(bench.path("back")).unwrap();
    run("btrfs", &["restore", &copy, &bench.name("back")]);
    run("diff", &["-r", &content, &bench.name("back")]);
}

#[test]
fn btrfs_survives_as_its_used_ranges() {
    btrfs_round_trip(300 * MIB, 12 * MIB, &[]);
}

#[test]
fn btrfs_with_double_metadata_survives_as_its_used_ranges() {
    btrfs_round_trip(400 * MIB, 12 * MIB, &["-m", "dup", "-d", "single"]);
}

#[test]
fn btrfs_with_mixed_groups_survives_as_its_used_ranges() {
    btrfs_round_trip(200 * MIB, 12 * MIB, &["--mixed"]);
}

fn ntfs_round_trip(options: &[&str]) {
    if !have(&["mkntfs", "ntfscp", "ntfscat", "ntfsresize", "ntfsinfo", "ntfsfix"]) {
        return;
    }
    let bench = Bench::new();
    let (content, source) = (bench.content(), bench.blank("source.img", 80 * MIB));
    run("mkntfs", &[&["-F", "-q", "-Q", "-L", "WINDOWS"], options, &[source.as_str()]].concat());
    let file = format!("{content}/deep/er/large.bin");
    run("ntfscp", &[&source, &file, "large.bin"]);
    let copy = bench.name("copy.img");
    let used = copy_used(&source, &copy);
    check_used_only(&used, Kind::Ntfs, 12 * MIB);
    run("ntfsresize", &["-i", "-f", &copy]);
    run("ntfsfix", &["-n", &copy]);
    let cat = run_any("ntfscat", &[&copy, "large.bin"]).stdout;
    assert!(cat == std::fs::read(file).unwrap(), "the file differs");
    let said = run("ntfsinfo", &["-m", &source]);
    let number = |name: &str| {
        let line = said.lines().find(|line| line.contains(name)).unwrap();
        line.split(':').nth(1).unwrap().trim().split(' ').next().unwrap().parse::<u64>().unwrap()
    };
    let free_bytes = number("Free Clusters") * number("Cluster Size");
    assert_eq!(used.volumes[0].treatment, Treatment::UsedOnly { free_bytes });
}

#[test]
fn ntfs_survives_as_its_used_ranges() {
    ntfs_round_trip(&[]);
}

#[test]
fn ntfs_with_large_clusters_survives_as_its_used_ranges() {
    ntfs_round_trip(&["-c", "65536"]);
}

#[test]
fn ntfs_that_is_marked_dirty_is_taken_whole() {
    if !have(&["mkntfs", "ntfsfix"]) {
        return;
    }
    let bench = Bench::new();
    let source = bench.blank("source.img", 16 * MIB);
    run("mkntfs", &["-F", "-q", "-Q", &source]);
    run("ntfsfix", &[&source]);
    let used = copy_used(&source, &bench.name("copy.img"));
    assert_eq!(used.warnings, ["the disk (ntfs) is taken whole: it was not cleanly unmounted"]);
}

#[test]
fn exfat_survives_as_its_used_ranges() {
    if !have(&["mkfs.exfat", "fsck.exfat", "dump.exfat"]) {
        return;
    }
    let bench = Bench::new();
    let source = bench.blank("source.img", 80 * MIB);
    run("mkfs.exfat", &["-L", "STICK", &source]);
    let copy = bench.name("copy.img");
    let used = copy_used(&source, &copy);
    check_used_only(&used, Kind::Exfat, 4 * MIB);
    run("fsck.exfat", &["-n", &copy]);
    let said = run("dump.exfat", &[&source]);
    let number = |name: &str| {
        let line = said.lines().find(|line| line.starts_with(name)).unwrap();
        line.rsplit(['\t', ' ']).next().unwrap().parse::<u64>().unwrap()
    };
    let free_bytes = number("Free Clusters") * number("Cluster size");
    assert_eq!(used.volumes[0].treatment, Treatment::UsedOnly { free_bytes }, "{said}");
}

#[test]
fn swap_keeps_its_header_and_nothing_else() {
    if !have(&["mkswap", "blkid"]) {
        return;
    }
    let bench = Bench::new();
    let source = bench.blank("source.img", 16 * MIB);
    run("mkswap", &["-L", "SWAP", &source]);
    let used = copy_used(&source, &bench.name("copy.img"));
    assert_eq!(used.ranges, vec![0..4096]);
    assert!(matches!(used.volumes[0].treatment, Treatment::Skipped { .. }));
    let uuid = run("blkid", &["-p", "-s", "UUID", "-o", "value", &bench.name("copy.img")]);
    assert_eq!((used.volumes[0].probed.uuid.as_str(), used.volumes[0].probed.label.as_str()), (uuid.trim(), "SWAP"));
}

#[test]
fn what_is_not_known_is_taken_whole_and_that_is_said() {
    let bench = Bench::new();
    let source = bench.name("source.img");
    std::fs::write(&source, super::noise(3, MIB as usize)).unwrap();
    let used = copy_used(&source, &bench.name("copy.img"));
    assert_eq!(used.ranges, vec![0..MIB]);
    assert_eq!(used.warnings, ["the disk (unknown) is taken whole: it holds no file system that is known here"]);
}

/// A volume group of one physical volume with an ext4, a swap area and something unknown, made by LVM itself without its
/// kernel driver; where each logical volume starts is read from the metadata that LVM prints.
#[test]
fn lvm_is_looked_into_and_its_free_extents_are_left_out() {
    if !have(&["pvcreate", "vgcreate", "lvcreate", "lvs", "mke2fs", "e2fsck", "losetup"]) {
        return;
    }
    let bench = Bench::new();
    let source = bench.blank("source.img", 200 * MIB);
    let Some(device) = Loop::attach(&source, &[]) else { return };
    let config = "devices{use_devicesfile=0 scan_lvs=0 filter=[\"a|^/dev/loop|\",\"r|.*|\"]} activation{udev_sync=0 udev_rules=0}";
    let group = format!("remint-test-{}", std::process::id());
    let lvm = |tool: &str, arguments: &[&str]| {
        let all = [&["--config", config, "--driverloaded", "n"], arguments].concat();
        run_any(tool, &all)
    };
    if !lvm("pvcreate", &["-q", &device.device]).status.success() {
        println!("skipped: LVM does not take a loop device here");
        return;
    }
    assert!(lvm("vgcreate", &["-q", &group, &device.device]).status.success());
    for (name, size) in [("root", "64M"), ("swap", "16M"), ("odd", "8M")] {
        let made = lvm("lvcreate", &["-q", "-an", "-Zn", "-Wn", "-n", name, "-L", size, &group]);
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }
    // Grown later, so that it lies in two pieces.
    assert!(lvm("lvextend", &["-q", "-L", "+24M", &format!("{group}/root")]).status.success());
    drop(device);
    // Extents of 4 MiB from 1 MiB on: root 16, swap 4, odd 2, root 6 more.
    let root = bench.blank("root.img", 88 * MIB);
    let content = bench.content();
    run("mke2fs", &["-q", "-F", "-t", "ext4", "-d", &content, &root]);
    let root_bytes = std::fs::read(&root).unwrap();
    let disk = std::fs::OpenOptions::new().write(true).open(&source).unwrap();
    disk.write_all_at(&root_bytes[..64 * MIB as usize], MIB).unwrap();
    disk.write_all_at(&root_bytes[64 * MIB as usize..], MIB + 88 * MIB).unwrap();
    disk.write_all_at(&super::noise(9, 8 * MIB as usize), MIB + 80 * MIB).unwrap();
    let copy = bench.name("copy.img");
    let used = copy_used(&source, &copy);
    assert_eq!(used.volumes[0].probed.kind, Kind::Lvm);
    let warnings = used.warnings.join("\n");
    assert!(used.used_bytes() < 110 * MIB, "{} bytes: {warnings}", used.used_bytes());
    assert!(warnings.contains("logical volume odd, which is taken whole: it holds no file system"), "{warnings}");
    assert!(warnings.contains("logical volume swap"), "{warnings}");
    assert!(!warnings.contains("root"), "{warnings}");
    let copied = std::fs::read(&copy).unwrap();
    let piece = |start: u64, len: u64| &copied[(MIB + start) as usize..(MIB + start + len) as usize];
    std::fs::write(bench.path("back.img"), [piece(0, 64 * MIB), piece(88 * MIB, 24 * MIB)].concat()).unwrap();
    run("e2fsck", &["-fn", &bench.name("back.img")]);
    assert_eq!(piece(80 * MIB, 8 * MIB), super::noise(9, 8 * MIB as usize));
}
