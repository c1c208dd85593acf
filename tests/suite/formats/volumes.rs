//! A file system of which only the used ranges were copied is clean to its own checker and holds the same files.

use super::{Bench, MIB, copy_used, have, run, run_any};
use remint::imaging::fs::{Kind, Treatment, Used};

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
