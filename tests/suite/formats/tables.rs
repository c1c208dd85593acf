//! Partition tables as sgdisk and sfdisk write and read them.

use super::{Bench, MIB, have, run};
use remint::imaging::disk::fit::{Grow, Wish};
use remint::imaging::disk::table::{self, Table};
use remint::imaging::disk::{fit, gpt, host};
use remint::imaging::fs::{self, Treatment};
use remint::stdx::io::FileAt;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

const KEEP: Wish = Wish { grow: Grow::Root, renew: None };

fn open(name: &str) -> FileAt {
    FileAt::new(File::open(name).unwrap()).unwrap()
}

fn write_at(name: &str, offset: u64, bytes: &[u8]) {
    OpenOptions::new().write(true).open(name).unwrap().write_all_at(bytes, offset).unwrap();
}

fn set_len(name: &str, bytes: u64) {
    OpenOptions::new().write(true).open(name).unwrap().set_len(bytes).unwrap();
}

/// BIOS boot, ESP and an ext4 root, on 64 MiB.
fn gpt_disk(bench: &Bench) -> String {
    let disk = bench.blank("disk.img", 64 * MIB);
    run(
        "sgdisk",
        &["-n1:2048:+1M", "-t1:ef02", "-n2:0:+16M", "-t2:ef00", "-c2:EFI system", "-n3:0:0", "-t3:8300", &disk],
    );
    let root = bench.blank("root.img", 45 * MIB);
    run("mke2fs", &["-q", "-F", "-t", "ext4", &root]);
    write_at(&disk, 18 * MIB, &std::fs::read(root).unwrap());
    disk
}

fn sound(disk: &str) {
    let said = run("sgdisk", &["-v", disk]);
    assert!(said.contains("No problems found"), "{said}");
}

#[test]
fn a_gpt_by_sgdisk_is_listed_in_bytes() {
    if !have(&["sgdisk", "mke2fs"]) {
        return;
    }
    let bench = Bench::new();
    let table = table::read(&open(&gpt_disk(&bench)), None).unwrap().unwrap();
    let partitions = table.partitions();
    assert_eq!(table.scheme(), "gpt");
    assert_eq!(
        partitions.iter().map(|p| (p.number, p.start, p.bytes)).collect::<Vec<_>>()[..2],
        [(1, MIB, MIB), (2, 2 * MIB, 16 * MIB)]
    );
    assert!(partitions[0].kind.is_raw_boot());
    assert_eq!((partitions[1].kind, partitions[1].name.as_str()), (table::Kind::Gpt(table::ESP), "EFI system"));
}

#[test]
fn a_gpt_moves_to_a_larger_disk_and_its_root_grows() {
    if !have(&["sgdisk", "mke2fs"]) {
        return;
    }
    let bench = Bench::new();
    let disk = gpt_disk(&bench);
    set_len(&disk, 200 * MIB + 512);
    let fitted = host::fit(Path::new(&disk), KEEP).unwrap();
    let (grown, _) = fitted.grown.unwrap();
    assert_eq!((grown.number, grown.start, grown.new_bytes), (3, 18 * MIB, 181 * MIB));
    sound(&disk);
    assert_eq!(host::fit(Path::new(&disk), KEEP).unwrap().grown, None, "fitting twice is fitting once");
    sound(&disk);
}

#[test]
fn a_damaged_primary_is_read_from_its_backup_and_repaired() {
    if !have(&["sgdisk", "mke2fs"]) {
        return;
    }
    let bench = Bench::new();
    let disk = gpt_disk(&bench);
    let before = table::read(&open(&disk), None).unwrap().unwrap().partitions();
    write_at(&disk, 512 + 60, b"damage");
    let table = table::read(&open(&disk), None).unwrap().unwrap();
    assert!(matches!(&table, Table::Gpt(gpt) if gpt.copy == gpt::Copy::Backup));
    assert_eq!(table.partitions(), before);
    assert_eq!(fs::used_ranges(&open(&disk)).unwrap().warnings[0], "the primary GPT is damaged, its backup was read");
    host::fit(Path::new(&disk), KEEP).unwrap();
    sound(&disk);
}

#[test]
fn a_disk_that_is_too_small_is_refused_with_the_size_that_would_be_enough() {
    if !have(&["sgdisk", "mke2fs"]) {
        return;
    }
    let bench = Bench::new();
    let disk = gpt_disk(&bench);
    let target = fit::Target { bytes: 60 * MIB, sector_bytes: Some(512) };
    let refused = fit::plan(&open(&disk), target, KEEP).unwrap_err().to_string();
    assert!(refused.starts_with("use a disk of 62914560 bytes: the partitions need 671"), "{refused}");
}

/// The identifiers of a disk as blkid reads them: the table's, then those of its partitions.
fn identifiers(disk: &str) -> Vec<String> {
    let said = run("sfdisk", &["--dump", disk]).to_lowercase();
    let after = |line: &str, key: &str| Some(line.split_once(key)?.1.split([',', ' ']).next()?.to_owned());
    let table = said.lines().find_map(|line| after(line, "label-id: ")).unwrap();
    std::iter::once(table).chain(said.lines().filter_map(|line| after(line, " uuid="))).collect()
}

#[test]
fn new_identifiers_are_given_on_request_and_the_old_ones_are_told() {
    if !have(&["sgdisk", "mke2fs", "sfdisk"]) {
        return;
    }
    let bench = Bench::new();
    let disk = gpt_disk(&bench);
    let before = identifiers(&disk);
    let wish = Wish { grow: Grow::Nothing, renew: Some([9; 32]) };
    let renewed = host::fit(Path::new(&disk), wish).unwrap().renewed;
    sound(&disk);
    assert_eq!(renewed.iter().map(|renewed| renewed.old.clone()).collect::<Vec<_>>(), before);
    assert_eq!(renewed.iter().map(|renewed| renewed.new.clone()).collect::<Vec<_>>(), identifiers(&disk));
    assert!(renewed.iter().all(|renewed| renewed.old != renewed.new));
    let mbr = bench.blank("mbr.img", 64 * MIB);
    std::fs::write(bench.path("script"), "label: dos\nlabel-id: 0x1234abcd\nsize=8M,type=83\n").unwrap();
    run("sh", &["-c", &format!("sfdisk -q {mbr} < {}", bench.name("script"))]);
    let renewed = host::fit(Path::new(&mbr), wish).unwrap().renewed;
    assert_eq!(renewed.iter().map(|renewed| renewed.old.as_str()).collect::<Vec<_>>(), ["1234abcd", "1234abcd-01"]);
    assert_eq!(identifiers(&mbr), [format!("0x{}", renewed[0].new)]);
}

#[test]
fn a_file_system_that_large_sectors_cannot_carry_is_told() {
    if !have(&["sgdisk", "mke2fs", "mkfs.vfat"]) {
        return;
    }
    let bench = Bench::new();
    let disk = gpt_disk(&bench);
    let esp = bench.blank("esp.img", 16 * MIB);
    run("mkfs.vfat", &[&esp]);
    write_at(&disk, 2 * MIB, &std::fs::read(esp).unwrap());
    let remarks = |sector_bytes| {
        let target = fit::Target { bytes: 128 * MIB, sector_bytes: Some(sector_bytes) };
        fit::plan(&open(&disk), target, KEEP).unwrap().remarks
    };
    assert_eq!(remarks(512), Vec::<String>::new());
    let found = remarks(4096);
    assert!(found.len() == 2 && found[0].starts_with("partition 2 (fat"), "{found:?}");
    assert!(found[1].starts_with("partition 3 (ext4) was made with sectors of 1024 bytes"), "{found:?}");
}

#[test]
fn a_gpt_is_recounted_for_a_disk_with_large_sectors() {
    if !have(&["sgdisk", "mke2fs"]) {
        return;
    }
    let bench = Bench::new();
    let disk = gpt_disk(&bench);
    let target = fit::Target { bytes: 128 * MIB, sector_bytes: Some(4096) };
    let wish = Wish { grow: Grow::Number(3), renew: Some([7; 32]) };
    let plan = fit::plan(&open(&disk), target, wish).unwrap();
    set_len(&disk, 128 * MIB);
    plan.patches.iter().for_each(|patch| write_at(&disk, patch.offset, &patch.bytes));
    let Some(Table::Gpt(gpt)) = table::read(&open(&disk), None).unwrap() else { panic!("no GPT") };
    assert_eq!((gpt.sector_bytes, gpt.copy), (4096, gpt::Copy::Primary));
    let partitions = gpt.partitions();
    assert_eq!((partitions[2].start, partitions[2].bytes), (18 * MIB, 109 * MIB));
    assert!(partitions.iter().all(|p| p.guid.unwrap().0[8] & 0xC0 == 0x80));
}

#[test]
fn a_table_made_here_is_sound_to_sgdisk() {
    if !have(&["sgdisk"]) {
        return;
    }
    let bench = Bench::new();
    let disk = bench.blank("disk.img", 64 * MIB);
    let guid = |byte| remint::imaging::disk::guid::Guid::from_random([byte; 16]);
    let mut gpt = gpt::Gpt::create(64 * MIB, 512, guid(1));
    gpt.set(1, table::ESP, guid(2), "EFI system", MIB, 16 * MIB);
    gpt.set(2, table::LINUX_ROOT_X64, guid(3), "root", 17 * MIB, 40 * MIB);
    gpt.emit(64 * MIB).iter().for_each(|patch| write_at(&disk, patch.offset, &patch.bytes));
    host::fit(Path::new(&disk), KEEP).unwrap();
    sound(&disk);
    assert!(run("sgdisk", &["-p", &disk]).contains("EFI system"));
}

#[test]
fn an_mbr_with_logical_partitions_is_listed_and_its_last_one_grows() {
    if !have(&["sfdisk", "mke2fs"]) {
        return;
    }
    let bench = Bench::new();
    let disk = bench.blank("disk.img", 64 * MIB);
    let script = "label: dos\nsize=8M,type=ef,bootable\ntype=5\nsize=10M,type=83\nsize=20M,type=83\n";
    std::fs::write(bench.path("script"), script).unwrap();
    run("sh", &["-c", &format!("sfdisk -q {disk} < {}", bench.name("script"))]);
    let listed = table::read(&open(&disk), None).unwrap().unwrap();
    assert_eq!(listed.partitions().iter().map(|p| p.number).collect::<Vec<_>>(), [1, 5, 6]);
    let last = listed.partitions()[2].clone();
    let root = bench.blank("root.img", 20 * MIB);
    run("mke2fs", &["-q", "-F", "-t", "ext4", &root]);
    write_at(&disk, last.start, &std::fs::read(root).unwrap());
    let used = fs::used_ranges(&open(&disk)).unwrap();
    assert!(matches!(used.volumes[2].treatment, Treatment::UsedOnly { .. }), "{:?}", used.volumes[2]);
    set_len(&disk, 256 * MIB);
    let (grown, path) = host::fit(Path::new(&disk), KEEP).unwrap().grown.unwrap();
    assert_eq!((grown.number, grown.start + grown.new_bytes), (6, 256 * MIB));
    assert!(path.to_string_lossy().ends_with("disk.img6"), "{path:?}");
    run("sfdisk", &["--verify", &disk]);
    let said = run("sfdisk", &["-l", "-o", "Device,End", &disk]);
    assert!(said.lines().last().unwrap().trim().ends_with("524287"), "{said}");
}
