//! Windows' steps on a machine: a tree of NTFS with all that NTFS has, the files of its boot manager, an answer file and
//! drivers. What starts in the end is a stand-in: no Windows from Microsoft is at hand.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Command;

use remint::lab::console::Mark;
use remint::lab::scenario::{Dhcp, Firmware, MachineSpec};
use serde_json::{Value, json};

use crate::Test;
use crate::bench::{Bench, WHOLE_PATH_LIMIT, machine, remint, step, wait_for};
use crate::ntfs::{self, Volume};
use crate::sequences::{publish, rules};

pub(super) const TESTS: &[Test] = &[("windows_files_lie_as_they_were_and_its_boot_manager_is_started", by_files)];

const WORDS: &str = "THE STAND-IN FOR BOOTMGFW HAS STARTED";
const ANSWERS: &str = "Windows/Panther/unattend.xml";

fn by_files(bench: &Bench) {
    let work = tempfile::tempdir().unwrap();
    let Some(wim) = windows(work.path()) else { return };
    let spec = MachineSpec { disk_mib: 1024, ..machine(Firmware::Uefi) };
    let mut lab = bench.lab(Dhcp::Proxy, spec, |site| {
        remint(site, &["image", "import", ntfs::text(&wim), "--name", "windows-11"]);
        let drivers = drivers(work.path());
        for name in ["drivers-latitude-5440", "drivers-optiplex-7010"] {
            remint(site, &["image", "import", ntfs::text(&drivers), "--name", name]);
        }
        publish(site, "windows.yaml", &[("disk: 3GB", "disk: 900MB"), ("'OptiPlex 7010'", "'Lab'")]);
        rules(site, &[("BENCH-1", "Windows")]);
    });
    lab.power_on(0).unwrap();
    let record = lab.wait_for_state(0, "managed", WHOLE_PATH_LIMIT).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(record["run"]["state"], "succeeded", "{record}");
    assert_evidence(&record);
    // The firmware starts the disk's own program, which is what the image had as bootmgfw.efi.
    wait_for(&lab, Mark::default(), WORDS);
    lab.machines[0].cut();
    assert_on_disk(&lab.machines[0].disk(), &wim, work.path());
}

/// A WIM of a volume with all that NTFS has and the folders of Windows that matter for its start; `None` where this machine
/// cannot mount such a volume.
fn windows(work: &Path) -> Option<PathBuf> {
    let (image, wim) = (work.join("windows.img"), work.join("windows.wim"));
    match Volume::make(&image).and_then(|()| Volume::mount(&image, &work.join("mounted"))) {
        Err(reason) => {
            println!("skipped: no NTFS volume can be made and mounted here: {reason}");
            None
        }
        Ok(volume) => {
            ntfs::fill(&volume.folder);
            let windows = volume.folder.join("Windows");
            for folder in ["Boot/EFI/de-DE", "Boot/Fonts", "Panther"] {
                fs::create_dir_all(windows.join(folder)).unwrap();
            }
            stand_in(&windows.join("Boot/EFI/bootmgfw.efi"), work);
            fs::write(windows.join("Boot/EFI/de-DE/bootmgfw.efi.mui"), "words").unwrap();
            fs::write(windows.join("Boot/Fonts/segoe_slboot.ttf"), "font").unwrap();
            fs::write(windows.join("Boot/BCD"), b"regf and what else a hive has").unwrap();
            volume.unmount();
            ntfs::capture(&image, &wim);
            Some(wim)
        }
    }
}

/// An EFI program that says its words and ends the machine.
fn stand_in(program: &Path, work: &Path) {
    let config = work.join("stand-in.cfg");
    fs::write(&config, format!("echo \"{WORDS}\"\nsleep 5\nhalt\n")).unwrap();
    let made = work.join("stand-in.efi");
    let mut command = Command::new("grub-mkimage");
    command.args(["-O", "x86_64-efi", "-p", "/", "-c"]).arg(&config).arg("-o").arg(&made);
    assert!(command.args(["echo", "sleep", "halt"]).status().unwrap().success(), "grub-mkimage failed");
    fs::copy(made, program).unwrap();
}

/// A WIM of a folder of drivers.
fn drivers(work: &Path) -> PathBuf {
    let (folder, wim) = (work.join("drivers"), work.join("drivers.wim"));
    fs::create_dir_all(folder.join("net")).unwrap();
    fs::write(folder.join("net/e1d.inf"), "[Version]\r\nSignature=\"$WINDOWS NT$\"\r\n").unwrap();
    fs::write(folder.join("net/e1d.sys"), vec![0x90; 40_000]).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_remint"));
    assert!(command.args(["wim", "capture"]).arg(folder).arg(&wim).status().unwrap().success());
    wim
}

fn assert_evidence(record: &Value) {
    let evidence = |name: &str| step(record, name)["evidence"].clone();
    let applied = evidence("apply-image");
    assert_eq!(applied["not_held"], json!({}), "{applied}");
    let boot = evidence("install-bootloader");
    assert_eq!((&boot["files"], &boot["bcd"]), (&json!(3), &json!("/Windows/Boot/BCD")), "{boot}");
    assert_eq!(boot["program"], "/boot/efi/EFI/Boot/bootx64.efi", "{boot}");
    assert_eq!(evidence("write-unattend")["path"], format!("/{ANSWERS}"));
    let steps = record["run"]["steps"].as_array().unwrap();
    let states: Vec<_> = steps.iter().filter(|step| step["kind"] == "add-drivers").map(|step| &step["state"]).collect();
    assert_eq!(states, ["skipped", "done"], "{record}");
}

/// wimlib sees of the machine's volume what it saw of the one that the image is of, and what the steps have added.
fn assert_on_disk(disk: &Path, wim: &Path, work: &Path) {
    let (volume, again) = (work.join("found.img"), work.join("found.wim"));
    copy_partition(disk, "windows", &volume);
    ntfs::capture(&volume, &again);
    let (expected, mut found) = (ntfs::seen(wim), ntfs::seen(&again));
    let added: Vec<String> = found.keys().filter(|path| !expected.contains_key(*path)).cloned().collect();
    let names: Vec<&str> = added.iter().map(|path| path.trim_start_matches('/')).collect();
    assert_eq!(names, ["Drivers", "Drivers/net", "Drivers/net/e1d.inf", "Drivers/net/e1d.sys", ANSWERS]);
    added.iter().for_each(|path| drop(found.remove(path)));
    let differences = ntfs::differences(&expected, &found);
    // Their times changed when something came into them.
    let grown = |line: &&String| {
        let path = line.split(':').next().unwrap_or_default().trim_matches('/');
        path.is_empty() || path == "Windows/Panther"
    };
    assert!(differences.iter().all(|line| grown(&line)), "{differences:#?}");
    let mounted = Volume::mount(&volume, &work.join("mounted")).unwrap();
    let answers = fs::read_to_string(mounted.folder.join(ANSWERS)).unwrap();
    assert!(answers.contains("<ComputerName>bench-1</ComputerName>"), "{answers}");
    assert!(answers.contains("<RegisteredOwner>Example &amp; Sons</RegisteredOwner>"), "{answers}");
    mounted.unmount();
}

/// The bytes of a partition into a file of their own.
fn copy_partition(disk: &Path, name: &str, to: &Path) {
    let table = Command::new("/sbin/sfdisk").arg("--json").arg(disk).output().unwrap();
    let table: Value = serde_json::from_slice(&table.stdout).unwrap();
    let partitions = table["partitiontable"]["partitions"].as_array().unwrap();
    let found = partitions.iter().find(|partition| partition["name"] == name).unwrap();
    let mut from = File::open(disk).unwrap();
    from.seek(SeekFrom::Start(512 * found["start"].as_u64().unwrap())).unwrap();
    io::copy(&mut from.take(512 * found["size"].as_u64().unwrap()), &mut File::create(to).unwrap()).unwrap();
}
