//! A disk that is larger than its image is filled: table, partition and mounted file system, on a real block device.

use super::{Bench, MIB, have, run, run_any};
use remint::imaging::disk::fit::{Grow, Wish};
use remint::imaging::disk::host;
use remint::imaging::fs::{self, Kind};
use remint::stdx::hint::Hint;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
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

/// A disk that has one partition with `part` in it, of which an image was made, and that has become three times as large.
fn outgrown(bench: &Bench, type_code: &str, part: &str, image_bytes: u64) -> String {
    let disk = bench.blank("disk.img", image_bytes);
    run("sgdisk", &["-n1:2048:0", &format!("-t1:{type_code}"), "-c1:kept", &disk]);
    run("dd", &[&format!("if={part}"), &format!("of={disk}"), "bs=1M", "seek=1", "conv=notrunc,sparse", "status=none"]);
    std::fs::OpenOptions::new().write(true).open(&disk).unwrap().set_len(image_bytes * 3).unwrap();
    disk
}

/// Fits the disk of [`outgrown`] and grows its file system; a window on the partition. `None` where that is not to be had.
fn fitted(bench: &Bench, disk: &str, kind: Kind) -> Option<Loop> {
    let wish = Wish { grow: Grow::Number(1), renew: None };
    let (partition, _) = host::fit(Path::new(disk), wish).unwrap().grown.unwrap();
    let table = run("sgdisk", &["-i1", disk]);
    let grown = match host::grow_file_system(Path::new(disk), &partition, &bench.path("mount point")) {
        Err(fs::grow::Error::Device { source, .. }) => {
            println!("skipped: no loop device: {source}");
            return None;
        }
        grown => grown.unwrap(),
    };
    assert_eq!(grown.kind, kind);
    assert!(grown.new_bytes > grown.old_bytes * 5 / 2 && grown.new_bytes <= partition.new_bytes, "{grown:?}");
    assert!(partition.new_bytes - grown.new_bytes <= 2 * MIB, "{grown:?} of {partition:?}");
    assert_eq!(run("sgdisk", &["-i1", disk]), table, "the table is as it was fitted");
    let (offset, limit) = (partition.start.to_string(), partition.new_bytes.to_string());
    Loop::attach(disk, &["--offset", &offset, "--sizelimit", &limit])
}

/// Makes a disk with one partition of `make`'s file system, lets the disk become three times as large, and fits it.
fn grows_by_its_tool(kind: Kind, image_bytes: u64, type_code: &str, make: &[&str], check: &[&str]) {
    if !have(&["sgdisk", make[0], check[0]]) {
        return;
    }
    let bench = Bench::new();
    let part = bench.blank("part.img", image_bytes - 2 * MIB);
    run(make[0], &[&make[1..], &[part.as_str()]].concat());
    let disk = outgrown(&bench, type_code, &part, image_bytes);
    if let Some(device) = fitted(&bench, &disk, kind) {
        run(check[0], &[&check[1..], &[device.device.as_str()]].concat());
    }
}

#[test]
fn ntfs_fills_a_larger_disk_by_its_own_tool_and_keeps_its_files() {
    if !have(&["sgdisk", "mkntfs", "ntfscp", "ntfscat", "ntfsresize", "ntfsfix"]) {
        return;
    }
    let bench = Bench::new();
    let (part, file) = (bench.blank("part.img", 62 * MIB), format!("{}/deep/er/large.bin", bench.content()));
    run("mkntfs", &["-F", "-q", "-Q", &part]);
    run("ntfscp", &[&part, &file, "large.bin"]);
    let disk = outgrown(&bench, "0700", &part, 64 * MIB);
    let Some(device) = fitted(&bench, &disk, Kind::Ntfs) else { return };
    run("ntfsresize", &["-i", "-f", &device.device]);
    run("ntfsfix", &["-n", &device.device]);
    let read = || run_any("ntfscat", &["-f", &device.device, "large.bin"]).stdout;
    assert!(read() == std::fs::read(&file).unwrap(), "the file differs");
    let before = std::fs::read(&disk).unwrap();
    let again = host::grow_ntfs(Path::new(&device.device)).unwrap();
    assert_eq!(again.new_bytes, again.old_bytes, "what fills its partition is left alone");
    assert!(std::fs::read(&disk).unwrap() == before, "a byte was written");
}

#[test]
fn of_a_disk_with_windows_the_volume_grows_and_not_the_recovery() {
    if !have(&["sgdisk", "mkntfs", "mkfs.vfat"]) {
        return;
    }
    let bench = Bench::new();
    let disk = bench.blank("disk.img", 64 * MIB);
    let make = |name: &str, mib: u64, at_mib: u64, words: &[&str]| {
        let part = bench.blank(name, mib * MIB);
        run(words[0], &[&words[1..], &[part.as_str()]].concat());
        let seek = format!("seek={at_mib}");
        run(
            "dd",
            &[&format!("if={part}"), &format!("of={disk}"), "bs=1M", &seek, "conv=notrunc,sparse", "status=none"],
        );
    };
    let parts = ["-n1:1M:+8M", "-t1:ef00", "-n2:9M:+30M", "-t2:0700", "-n3:39M:+8M", "-t3:2700"];
    run("sgdisk", &[&parts[..], &[disk.as_str()]].concat());
    make("esp.img", 8, 1, &["mkfs.vfat", "-F", "16", "-s", "1"]);
    make("windows.img", 30, 9, &["mkntfs", "-F", "-q", "-Q"]);
    make("recovery.img", 8, 39, &["mkntfs", "-F", "-q", "-Q"]);
    std::fs::OpenOptions::new().write(true).open(&disk).unwrap().set_len(128 * MIB).unwrap();
    let wish = Wish { grow: Grow::Root, renew: None };
    assert_eq!(host::fit(Path::new(&disk), wish).unwrap().grown, None, "the recovery lies behind it");
    run("sgdisk", &["-d3", &disk]);
    let (grown, _) = host::fit(Path::new(&disk), wish).unwrap().grown.unwrap();
    assert_eq!((grown.number, grown.start, grown.new_bytes), (2, 9 * MIB, 118 * MIB));
}

#[test]
fn fat32_fills_a_larger_disk_and_keeps_its_files_its_label_and_its_place_in_the_table() {
    if !have(&["sgdisk", "mkfs.vfat", "fsck.vfat", "mcopy", "mtype", "fatlabel", "fatresize"]) {
        return;
    }
    let bench = Bench::new();
    let (part, content) = (bench.blank("part.img", 598 * MIB), bench.content());
    run("mkfs.vfat", &["-F", "32", "-n", "LABEL", "-h", "2048", &part]);
    run("mcopy", &["-s", "-i", &part, &content, "::/content"]);
    let serial = |path: &str| run("fatlabel", &["-i", path]);
    let before = serial(&part);
    let disk = outgrown(&bench, "0700", &part, 600 * MIB);
    let Some(device) = fitted(&bench, &disk, Kind::Fat32) else { return };
    run("fsck.vfat", &["-n", &device.device]);
    assert_eq!(run("fatlabel", &[&device.device]).trim(), "LABEL");
    assert_eq!(serial(&device.device), before, "the serial number");
    let mut hidden = [0; 4];
    std::fs::File::open(&device.device).unwrap().read_exact_at(&mut hidden, 28).unwrap();
    assert_eq!(hidden, 2048u32.to_le_bytes(), "the sectors before it");
    for name in ["deep/er/large.bin", "file-0.bin", "file-60.bin", "file-119.bin"] {
        let found = run_any("mtype", &["-i", &device.device, &format!("::/content/{name}")]).stdout;
        assert!(found == std::fs::read(format!("{content}/{name}")).unwrap(), "{name} differs");
    }
}

#[test]
fn a_fat_that_its_tool_does_not_take_keeps_its_size_and_the_error_says_so() {
    if !have(&["sgdisk", "mkfs.vfat", "fsck.vfat", "fatresize"]) {
        return;
    }
    let bench = Bench::new();
    let part = bench.blank("part.img", 62 * MIB);
    run("mkfs.vfat", &["-F", "32", "-s", "1", &part]);
    let disk = outgrown(&bench, "ef00", &part, 64 * MIB);
    let wish = Wish { grow: Grow::Number(1), renew: None };
    let (partition, _) = host::fit(Path::new(&disk), wish).unwrap().grown.unwrap();
    match host::grow_file_system(Path::new(&disk), &partition, &bench.path("mount point")) {
        Err(fs::grow::Error::Device { source, .. }) => println!("skipped: no loop device: {source}"),
        Ok(grown) => panic!("{grown:?}"),
        Err(error) => {
            assert!(error.to_string().contains("fatresize says: "), "{error}");
            assert!(error.hint().unwrap().contains("keeps its size"), "{error:?}");
            let after = std::fs::read(&disk).unwrap();
            let (start, end) = (MIB as usize, 63 * MIB as usize);
            assert!(after[start..end] == std::fs::read(&part).unwrap(), "it was written to");
        }
    }
}

/// Runs `remint ARGUMENTS` on a site in the bench; what it printed.
fn remint(bench: &Bench, path: &str, arguments: &[&str]) -> String {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_remint"));
    let site = bench.name("site");
    let output = command.args(arguments).args(["--data", &site]).env("PATH", path).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

const USUAL_PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// The disk is what an image of sectors of 512 bytes says, counted in 4096: its table is sound, its ext4 whole with its files.
fn is_whole_with_large_sectors(bench: &Bench, disk: &str, device: &Loop, content: &str) {
    let said = run("sgdisk", &["-v", &device.device]);
    assert!(said.contains("No problems found"), "{said}");
    let said = run("sgdisk", &["-i2", &device.device]);
    assert!(said.contains("First sector: 2304 "), "9 MiB in sectors of 4096 bytes: {said}");
    let first = 9 * MIB;
    let sectors = said.lines().find_map(|line| line.strip_prefix("Partition size: ")).unwrap();
    let bytes = sectors.split(' ').next().unwrap().parse::<u64>().unwrap() * 4096;
    let (offset, limit) = (first.to_string(), bytes.to_string());
    let root = Loop::attach(disk, &["--offset", &offset, "--sizelimit", &limit, "--sector-size", "4096"]).unwrap();
    run("e2fsck", &["-fn", &root.device]);
    let found = bench.name("found");
    run("debugfs", &["-R", &format!("dump /deep/er/large.bin {found}"), &root.device]);
    assert!(std::fs::read(found).unwrap() == std::fs::read(format!("{content}/deep/er/large.bin")).unwrap());
}

#[test]
fn an_image_made_with_small_sectors_fills_a_disk_with_large_ones_and_is_captured_from_it() {
    if !have(&["sgdisk", "mke2fs", "e2fsck", "resize2fs", "debugfs", "mkfs.vfat", "losetup"]) {
        return;
    }
    let bench = Bench::new();
    let (disk, content) = (bench.blank("disk.img", 64 * MIB), bench.content());
    run("sgdisk", &["-n1:1M:+8M", "-t1:ef00", "-n2:9M:0", "-t2:8300", &disk]);
    let (esp, root) = (bench.blank("esp.img", 8 * MIB), bench.blank("root.img", 54 * MIB));
    run("mkfs.vfat", &["-F", "16", "-s", "1", &esp]);
    run("mke2fs", &["-q", "-F", "-t", "ext4", "-b", "4096", "-d", &content, &root]);
    for (part, seek) in [(&esp, "seek=1"), (&root, "seek=9")] {
        run("dd", &[&format!("if={part}"), &format!("of={disk}"), "bs=1M", seek, "conv=notrunc,sparse", "status=none"]);
    }
    let large = |name: &str| {
        let file = bench.blank(name, 128 * MIB);
        Loop::attach(&file, &["--sector-size", "4096"]).map(|device| (file, device))
    };
    let (Some((one, first)), Some((two, second))) = (large("one.img"), large("two.img")) else { return };
    remint(&bench, USUAL_PATH, &["init"]);
    remint(&bench, USUAL_PATH, &["image", "import", &disk, "--name", "small"]);
    let apply = ["image", "apply", "small", &first.device, "--fit", "root", "--json"];
    let said: serde_json::Value = serde_json::from_str(&remint(&bench, USUAL_PATH, &apply)).unwrap();
    let fitted = &said["fitted"];
    assert_eq!((&fitted["grown_partition"], &fitted["not_grown"]), (&2.into(), &serde_json::Value::Null), "{fitted}");
    assert!(fitted["file_system_bytes"].as_u64().unwrap() > 100 * MIB, "{fitted}");
    let remark = fitted["remarks"][0].as_str().unwrap();
    assert!(remark.starts_with("partition 1 (fat16) was made with sectors of 512 bytes"), "{remark}");
    is_whole_with_large_sectors(&bench, &one, &first, &content);
    remint(&bench, USUAL_PATH, &["image", "capture", &first.device, "--name", "large"]);
    remint(&bench, USUAL_PATH, &["image", "apply", "large", &second.device]);
    is_whole_with_large_sectors(&bench, &two, &second, &content);
    let again: serde_json::Value =
        serde_json::from_str(&remint(&bench, USUAL_PATH, &["image", "apply", "large", &second.device, "--json"]))
            .unwrap();
    assert_eq!(again["receipt"]["fetched_chunks"], 0, "{again}");
}

#[test]
fn where_the_tool_is_missing_the_apply_says_which_one() {
    if !have(&["sgdisk", "mkntfs"]) {
        return;
    }
    let bench = Bench::new();
    let part = bench.blank("part.img", 30 * MIB);
    run("mkntfs", &["-F", "-q", "-Q", &part]);
    let disk = outgrown(&bench, "0700", &part, 32 * MIB);
    std::fs::OpenOptions::new().write(true).open(&disk).unwrap().set_len(32 * MIB).unwrap();
    let target = bench.blank("target.img", 64 * MIB);
    let remint = |arguments: &[&str]| remint(&bench, "/nowhere", arguments);
    remint(&["init"]);
    remint(&["image", "import", &disk, "--name", "windows"]);
    let Some(device) = Loop::attach(&target, &[]) else { return };
    let said = remint(&["image", "apply", "windows", &device.device, "--fit", "root", "--json"]);
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    let fitted = &said["fitted"];
    assert!(fitted["not_grown"].as_str().unwrap().contains("ntfsresize is not installed"), "{fitted}");
    assert!(fitted["hint"].as_str().unwrap().contains("install ntfs-3g"), "{fitted}");
}

#[test]
fn ext4_of_an_image_file_is_grown_through_a_loop_device() {
    grows_by_its_tool(Kind::Ext4, 64 * MIB, "8300", &["mke2fs", "-q", "-F", "-t", "ext4"], &["e2fsck", "-fn"]);
}

#[test]
fn what_nothing_grows_is_refused() {
    let refused = fs::grow(Path::new("/"), Kind::Fat32).unwrap_err().to_string();
    assert_eq!(refused, "grow fat32: it does not grow while it is mounted");
    let bench = Bench::new();
    let refused = fs::grow_unmounted(Path::new(&bench.blank("part.img", MIB)), Kind::Exfat).unwrap_err().to_string();
    assert_eq!(refused, "grow exfat: nothing that is known here does it");
}
