//! A machine from a WIM of a Debian tree: its disk is partitioned and formatted by steps, filled with files, made to boot.

use std::path::Path;
use std::process::Command;

use remint::lab::console::Mark;
use remint::lab::scenario::{Dhcp, Firmware, MachineSpec};

use crate::Test;
use crate::bench::{Bench, STEP_LIMIT, WHOLE_PATH_LIMIT, machine, record, remint, step, wait_for};
use crate::whole_path::{assert_managed, wait_for_software};

pub(super) const TESTS: &[Test] = &[("a_wim_of_a_debian_tree_becomes_a_managed_machine", from_a_wim)];

const RECIPE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/images/debian-12-small/build");
const SEQUENCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/examples/from-files.yaml");

/// The tar's files in a WIM. Owners need root, or a user namespace that has one.
const TO_WIM: &str = "mkdir \"$1/tree\" && tar -C \"$1/tree\" --numeric-owner -xf \"$1/tree.tar\" --exclude='./dev/*' \
                      && \"$2\" wim capture \"$1/tree\" \"$1/debian.wim\" && rm -rf \"$1/tree\"";

/// Makes `debian.wim` in the folder.
pub(crate) fn make_wim(folder: &Path) {
    let built = Command::new(RECIPE).arg("--tree").arg(folder.join("tree.tar")).status();
    assert!(built.unwrap().success(), "the tree of Debian was not built");
    let shell = ["bash", "-c", TO_WIM, "bash"];
    let mut command = match nix::unistd::geteuid().is_root() {
        true => Command::new(shell[0]),
        false => {
            let mut command = Command::new("unshare");
            command.args(["--user", "--map-auto", "--map-root-user", shell[0]]);
            command
        }
    };
    let made = command.args(&shell[1..]).arg(folder).arg(env!("CARGO_BIN_EXE_remint")).status();
    assert!(made.unwrap().success(), "the WIM was not made");
    std::fs::remove_file(folder.join("tree.tar")).unwrap();
}

fn from_a_wim(bench: &Bench) {
    let spec = MachineSpec { disk_mib: 1536, ..machine(Firmware::Uefi) };
    let mut lab = bench.lab(Dhcp::Proxy, spec, |site| {
        make_wim(site);
        let wim = site.join("debian.wim");
        remint(site, &["image", "import", wim.to_str().unwrap(), "--name", "debian-files"]);
        std::fs::remove_file(wim).unwrap();
        remint(site, &["sequence", "publish", SEQUENCE]);
        let settings = std::fs::read_to_string(site.join("remint.toml")).unwrap();
        let deploy = settings.lines().find(|line| line.starts_with("deploy = ")).unwrap().to_owned();
        std::fs::write(site.join("remint.toml"), settings.replace(&deploy, "deploy = \"From files\"")).unwrap();
    });
    lab.power_on(0).unwrap();
    lab.wait_for_state(0, "managed", WHOLE_PATH_LIMIT).unwrap_or_else(|error| panic!("{error}"));
    wait_for_software(&lab);
    wait_for(&lab, Mark::default(), "bench-1 login:");
    let record = record(&lab);
    assert_managed(&record);
    let applied = &step(&record, "apply-image")["evidence"];
    let count = |name: &str| applied[name].as_u64().unwrap_or_else(|| panic!("{name} in {applied}"));
    assert!(count("files") > 5000 && count("links") > 200, "{applied}");
    assert!(count("verified_chunks") > 20 && count("fetched_bytes") < count("written_bytes"), "{applied}");
    assert_eq!(applied["not_held"], serde_json::json!({}), "{applied}");
    lab.machines[0].shut_down(STEP_LIMIT).unwrap();
    let root = remint::lab::disk::Ext4::open(&lab.machines[0].disk(), "root").unwrap();
    let fstab = root.read("/etc/fstab").unwrap().unwrap();
    assert!(fstab.contains("UUID=") && fstab.contains("/boot/efi"), "{fstab}");
}
