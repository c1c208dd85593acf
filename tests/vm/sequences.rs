//! The example sequences of docs/guide, carried out for real.

use std::path::{Path, PathBuf};

use remint::lab::console::Mark;
use remint::lab::disk::Ext4;
use remint::lab::run::Lab;
use remint::lab::scenario::{Dhcp, DiskBus, Firmware, MachineSpec};
use serde_json::Value;

use crate::Test;
use crate::bench::{Bench, STEP_LIMIT, WHOLE_PATH_LIMIT, machine, remint};
use crate::trees;

pub(super) const TESTS: &[Test] = &[
    ("a_returned_machine_is_wiped_and_tested_with_both_on_record", |bench| wipe_and_test(bench, Firmware::Bios)),
    ("a_returned_uefi_machine_is_wiped_and_tested_with_both_on_record", |bench| wipe_and_test(bench, Firmware::Uefi)),
    ("a_server_is_made_by_steps_with_what_a_person_gives", |bench| server_by_steps(bench, Firmware::Bios)),
    ("a_uefi_server_is_made_by_steps_with_what_a_person_gives", |bench| server_by_steps(bench, Firmware::Uefi)),
    ("a_disk_is_divided_and_formatted_and_found_again_after_a_restart", layout_by_steps),
    ("a_reference_image_is_built_captured_and_deployed_to_another_machine", |bench| {
        capture_and_deploy(bench, [Firmware::Uefi, Firmware::Bios]);
    }),
    ("the_same_from_a_bios_machine_to_a_uefi_one", |bench| capture_and_deploy(bench, [Firmware::Bios, Firmware::Uefi])),
];

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/guide/sequences");

/// Publishes an example, changed where it names what a test's site calls otherwise.
pub(crate) fn publish(site: &Path, name: &str, changes: &[(&str, &str)]) {
    let folder = site.join("examples");
    let copied = std::process::Command::new("cp").args(["-r", EXAMPLES]).arg(&folder).status();
    assert!(folder.join(name).exists() || copied.unwrap().success());
    let file = folder.join(name);
    let text = std::fs::read_to_string(&file).unwrap();
    let changed = changes.iter().fold(text, |text, (from, to)| {
        assert!(text.contains(from), "{name} does not say {from}");
        text.replace(from, to)
    });
    std::fs::write(&file, changed).unwrap();
    remint(site, &["sequence", "publish", file.to_str().unwrap()]);
}

/// Lets machines in by themselves; those with one of the serial numbers get a sequence at once.
pub(crate) fn rules(site: &Path, rules: &[(&str, &str)]) {
    let rule = |(serial, sequence): &(&str, &str)| {
        format!(
            "[[enrolment.rule]]\nname = \"lab\"\nserials = [\"{serial}\"]\nmachine_name = \"{{{{ serial | lower }}}}\"\ndeploy = \"{sequence}\"\n"
        )
    };
    std::fs::write(site.join("remint.toml"), rules.iter().map(rule).collect::<String>()).unwrap();
}

fn step<'a>(record: &'a Value, kind: &str) -> &'a Value {
    let steps = record["run"]["steps"].as_array().unwrap_or_else(|| panic!("no run in {record}"));
    steps.iter().find(|step| step["kind"] == kind).unwrap_or_else(|| panic!("no step {kind} in {record}"))
}

/// Waits until the machine has switched itself off.
fn wait_until_off(lab: &mut Lab, place: usize) {
    let begun = std::time::Instant::now();
    while lab.machines[place].is_on() {
        assert!(begun.elapsed() < STEP_LIMIT, "the machine did not switch itself off");
        std::thread::sleep(std::time::Duration::from_millis(300));
    }
}

const LAYOUT: &str = "name: Layout
steps:
  - partition-disk:
      partitions:
        - { name: bios, type: bios-boot, size: 1MiB }
        - { name: esp, type: esp, size: 64MiB }
        - { name: swap, type: swap, size: 2% }
        - { name: home, type: linux-home, size: 400MiB }
        - { name: data, type: linux, size: 300MiB }
        - { name: shared, type: windows, size: 64MiB }
        - { name: root, type: linux-root, size: rest }
  - format:
      file-systems:
        - { partition: esp, type: fat, label: ESP, at: /boot/efi }
        - { partition: swap, type: swap, label: swap }
        - { partition: home, type: xfs, label: home, at: /home }
        - { partition: data, type: btrfs, label: data, at: /srv/data }
        - { partition: shared, type: ntfs, label: shared }
        - { partition: 7, type: ext4, label: root, at: / }
  - restart: { into: boot-environment }
  - write-file: { path: /etc/motd, content: after the restart }
  - write-file: { path: /home/ann/letter, content: at home }
  - write-file: { path: /boot/efi/note.txt, content: for firmware }
  - power-off:
";

fn layout_by_steps(bench: &Bench) {
    let spec = MachineSpec { disk_mib: 2048, ..machine(Firmware::Uefi) };
    let mut lab = bench.lab(Dhcp::Proxy, spec, |site| {
        let file = site.join("layout.yaml");
        std::fs::write(&file, LAYOUT).unwrap();
        remint(site, &["sequence", "publish", file.to_str().unwrap()]);
        rules(site, &[("BENCH-1", "Layout")]);
    });
    lab.power_on(0).unwrap();
    let over = |record: &Value| ["succeeded", "failed"].contains(&record["run"]["state"].as_str().unwrap_or_default());
    let record = lab.appliance.wait_for_machine("BENCH-1", "the end of the run", WHOLE_PATH_LIMIT, over);
    let record = record.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(record["run"]["state"], "succeeded", "{record}");
    wait_until_off(&mut lab, 0);
    let disk = lab.machines[0].disk();
    let made = step(&record, "format")["evidence"]["file_systems"].as_array().unwrap();
    let placed = step(&record, "partition-disk")["evidence"]["partitions"].as_array().unwrap();
    for one in made {
        let place = placed.iter().find(|place| place["number"] == one["partition"]).unwrap();
        let seen = blkid(&disk, place["start"].as_u64().unwrap(), place["bytes"].as_u64().unwrap());
        let kind = if one["type"] == "fat" { "vfat" } else { one["type"].as_str().unwrap() };
        assert!(seen.contains(&format!("TYPE={kind}\n")), "{one}: {seen}");
        for name in ["uuid", "label"] {
            // NTFS keeps its label where a superblock does not tell it.
            let value = one[name].as_str().unwrap();
            assert!(value.is_empty() || seen.contains(&format!("{}={value}\n", name.to_uppercase())), "{one}: {seen}");
        }
    }
    let root = Ext4::open(&disk, "root").unwrap();
    assert_eq!(root.read("/etc/motd").unwrap().as_deref(), Some("after the restart"));
    assert_eq!(root.read("/home/ann/letter").unwrap(), None, "it was written to the file system that is mounted there");
}

/// What blkid sees at a place of a disk.
fn blkid(disk: &Path, start: u64, bytes: u64) -> String {
    let mut command = std::process::Command::new("/sbin/blkid");
    command.args(["--probe", "--output", "export", "--offset", &start.to_string(), "--size", &bytes.to_string()]);
    String::from_utf8(command.arg(disk).output().unwrap().stdout).unwrap() + "\n"
}

fn server_by_steps(bench: &Bench, firmware: Firmware) {
    let spec = MachineSpec { disk_mib: 4096, ..machine(firmware) };
    let mut lab = bench.lab(Dhcp::Server, spec, |site| {
        trees::make_wim(site);
        let wim = site.join("debian.wim");
        remint(site, &["image", "import", wim.to_str().unwrap(), "--name", "debian-tree"]);
        std::fs::remove_file(wim).unwrap();
        publish(site, "server.yaml", &[("gateway: 10.20.0.1", "gateway: 10.77.0.1"), ("10.20.0.{{", "10.77.0.5{{")]);
        let rule = "[[enrolment.rule]]\nname = \"lab\"\nserials = [\"BENCH-1\"]\n";
        std::fs::write(site.join("remint.toml"), rule).unwrap();
    });
    lab.power_on(0).unwrap();
    let record = lab.wait_for_state(0, "approved", STEP_LIMIT).unwrap_or_else(|error| panic!("{error}"));
    let name = record["name"].as_str().unwrap().to_owned();
    let key = "admin_key=ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAz6mOQ2yMMgIcAMG0ZkZzUSxjfJ2g5LwMMuTAyEKNjO admin";
    lab.appliance.ask(&["deploy", "start", "Server", "--machine", &name, "--set", key, "--yes", "1"]).unwrap();
    let asked = |record: &Value| record["run"]["question"].is_string();
    let record = lab.appliance.wait_for_machine("BENCH-1", "the question", STEP_LIMIT, asked).unwrap();
    lab.appliance.ask(&["deploy", "answer", record["run"]["id"].as_str().unwrap(), "3"]).unwrap();
    let record = lab.wait_for_state(0, "managed", WHOLE_PATH_LIMIT).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(record["run"]["state"], "succeeded", "{record}");
    assert_eq!(step(&record, "install-packages")["state"], "skipped");
    let console = lab.machines[0].console();
    console.wait_for(Mark::default(), "srv-3 login:", STEP_LIMIT).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(record["address"], "10.77.0.53", "{record}");
    lab.machines[0].shut_down(STEP_LIMIT).unwrap();
    let root = Ext4::open(&lab.machines[0].disk(), "root").unwrap();
    let read = |path: &str| root.read(path).unwrap().unwrap_or_else(|| panic!("{path} is not on the disk"));
    assert!(read("/home/admin/.ssh/authorized_keys").ends_with("KNjO admin\n"));
    assert_eq!(read("/etc/sudoers.d/admin"), "admin ALL=(ALL) NOPASSWD: ALL\n");
    let fstab = read("/etc/fstab");
    assert!(["/boot/efi", "/srv", "swap"].iter().all(|word| fstab.contains(word)), "{fstab}");
}

const MARKER: &[u8] = b"THE SECRETS OF WHOEVER HAD THIS MACHINE BEFORE";

fn wipe_and_test(bench: &Bench, firmware: Firmware) {
    let spec = MachineSpec { disk_mib: 256, disk: DiskBus::Nvme, ..machine(firmware) };
    let mut lab = bench.lab(Dhcp::Proxy, spec, |site| {
        let method = ("default: overwrite", "default: nvme-format");
        publish(
            site,
            "wipe-and-test.yaml",
            &[method, ("processor: 30s", "processor: 3s"), ("memory: 512MiB", "memory: 128MiB")],
        );
        rules(site, &[("BENCH-1", "Wipe and test")]);
    });
    let disk = lab.machines[0].disk();
    std::fs::write(&disk, MARKER.repeat((256 << 20) / MARKER.len())).unwrap();
    std::fs::File::options().write(true).open(&disk).unwrap().set_len(256 << 20).unwrap();
    lab.power_on(0).unwrap();
    let asked = |record: &Value| record["run"]["question"].is_string();
    let record = lab.appliance.wait_for_machine("BENCH-1", "the question", STEP_LIMIT, asked);
    let record = record.unwrap_or_else(|error| panic!("{error}"));
    let run = record["run"]["id"].as_str().unwrap();
    lab.appliance.ask(&["deploy", "answer", run, "yes"]).unwrap();
    let record = lab.wait_for_state(0, "managed", WHOLE_PATH_LIMIT).unwrap_or_else(|error| panic!("{error}"));
    lab.machines[0].cut();
    let wiped = &step(&record, "wipe-disk")["evidence"];
    assert_eq!((&wiped["method"], &wiped["serial"]), (&"nvme-format".into(), &"LABDISK1".into()), "{wiped}");
    assert_eq!((&wiped["bytes"], &wiped["read_back_bytes"]), (&(256 << 20).into(), &(256 << 20).into()), "{wiped}");
    let tested = &step(&record, "hardware-test")["evidence"];
    assert!(tested["smart"]["celsius"].is_i64() && tested["network"]["bytes"].as_u64().unwrap() > 0, "{tested}");
    assert_eq!(step(&record, "set-variable")["state"], "done");
    let left = std::fs::read(disk).unwrap();
    assert!(!left.windows(8).any(|window| window == &MARKER[4..12]), "something of the marker is left");
}

fn capture_and_deploy(bench: &Bench, [first, second]: [Firmware; 2]) {
    let second = MachineSpec { serial: Some("BENCH-2".to_owned()), ..MachineSpec::new("bench-2", second) };
    let machines = vec![machine(first), second];
    let mut lab = bench.lab_of(Dhcp::Proxy, machines, |site| {
        publish(site, "build-and-capture.yaml", &[("default: debian-lab", "default: debian-12-small")]);
        // The small system has no SSH server whose keys would be made.
        let changes = [("image: debian-lab", "image: debian-golden@candidate"), ("default: unknown", "default: kiosk")];
        publish(site, "lab-workstation.yaml", &changes);
        rules(site, &[("BENCH-1", "Build and capture"), ("BENCH-2", "Lab workstation")]);
    });
    lab.power_on(0).unwrap();
    let captured =
        |record: &Value| ["succeeded", "failed"].contains(&record["run"]["state"].as_str().unwrap_or_default());
    let record = lab.appliance.wait_for_machine("BENCH-1", "the capture", WHOLE_PATH_LIMIT, captured);
    let record = record.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(record["run"]["state"], "succeeded", "{record}");
    let evidence = &step(&record, "capture-image")["evidence"];
    let count = |name: &str| evidence[name].as_u64().unwrap_or_else(|| panic!("{name} in {evidence}"));
    assert!(count("sent_chunks") < count("chunks") / 2, "what the base image holds travelled again: {evidence}");
    assert_eq!(evidence["number"], 1);
    let removed = evidence["removed"].as_array().unwrap();
    assert!(removed.iter().any(|path| path == "/var/lib/remint"), "{evidence}");
    wait_until_off(&mut lab, 0);

    lab.power_on(1).unwrap();
    let deployed = |record: &Value| record["state"] == "managed" || record["state"] == "failed";
    let record = lab.appliance.wait_for_machine("BENCH-2", "the deployment", WHOLE_PATH_LIMIT, deployed);
    let record = record.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((&record["state"], &record["stage"]), (&"managed".into(), &"installed-system".into()), "{record}");
    let console = lab.machines[1].console();
    console.wait_for(Mark::default(), "lab-bench-2 login:", STEP_LIMIT).unwrap_or_else(|error| panic!("{error}"));
    lab.machines[1].shut_down(STEP_LIMIT).unwrap();
    let root = Ext4::open(&lab.machines[1].disk(), "root").unwrap();
    let read = |path: &str| root.read(path).unwrap().unwrap_or_else(|| panic!("{path} is not on the disk"));
    assert!(read("/etc/reference").starts_with("debian-golden made of debian-12-small by run-"));
    assert_eq!(read("/etc/hostname"), "lab-bench-2\n");
    assert_ne!(identity_of(&lab, 1), identity_of(&lab, 0), "two machines have one identity");
}

/// The identifier that the system on a machine's disk has made for itself.
fn identity_of(lab: &Lab, place: usize) -> String {
    let disk: PathBuf = lab.machines[place].disk();
    Ext4::open(&disk, "root").unwrap().read("/etc/machine-id").unwrap().unwrap_or_default()
}
