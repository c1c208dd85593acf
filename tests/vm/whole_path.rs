//! From power on to managed: each firmware, beside another DHCP server and as the only one.

use remint::lab::console::Mark;
use remint::lab::disk::Ext4;
use remint::lab::run::Lab;
use remint::lab::scenario::{Dhcp, DiskBus, Firmware, MachineSpec};
use serde_json::Value;

use crate::Test;
use crate::bench::{Bench, STEP_LIMIT, WHOLE_PATH_LIMIT, machine, record, step, wait_for};
use crate::console::Watcher;
use crate::inventory::{ask_the_tools, assert_as_the_tools_say};
use crate::secrets::assert_no_key_is_told;

pub(super) const TESTS: &[Test] = &[
    ("bios_beside_another_dhcp_server", |bench| whole_path(bench, Firmware::Bios, Dhcp::Proxy)),
    ("bios_with_remint_as_dhcp_server", |bench| whole_path(bench, Firmware::Bios, Dhcp::Server)),
    ("uefi_beside_another_dhcp_server", |bench| whole_path(bench, Firmware::Uefi, Dhcp::Proxy)),
    ("uefi_with_remint_as_dhcp_server", |bench| whole_path(bench, Firmware::Uefi, Dhcp::Server)),
];

fn whole_path(bench: &Bench, firmware: Firmware, dhcp: Dhcp) {
    // Beside another server the inventory is compared as well, with each kind of disk.
    let compare = dhcp == Dhcp::Proxy;
    let disk = if compare && firmware == Firmware::Uefi { DiskBus::Nvme } else { DiskBus::Virtio };
    let mut lab = bench.lab(dhcp, MachineSpec { disk, ..machine(firmware) }, |site| {
        if compare {
            ask_the_tools(site);
        }
    });
    let watched = firmware == Firmware::Bios && dhcp == Dhcp::Server;
    let mut watcher = watched.then(|| Watcher::open(&lab)).flatten();
    lab.power_on(0).unwrap();
    watcher.iter_mut().for_each(Watcher::sees_progress);
    lab.wait_for_state(0, "managed", WHOLE_PATH_LIMIT).unwrap_or_else(|error| panic!("{error}"));
    watcher.into_iter().for_each(Watcher::sees_that_it_is_managed);
    wait_for_software(&lab);
    let kernel = wait_for(&lab, Mark::default(), "Linux version");
    wait_for(&lab, kernel, "bench-1 login:");
    let record = record(&lab);
    assert_managed(&record);
    assert_no_key_is_told(&lab);
    lab.machines[0].shut_down(STEP_LIMIT).unwrap();
    assert_installed(&mut lab);
    if compare {
        let disk = lab.machines[0].disk();
        assert_as_the_tools_say(&record, &Ext4::open(&disk, "root").unwrap(), disk.parent().unwrap());
    }
}

/// The service reports its inventory when it has started, which is not a part of the run.
pub(crate) fn wait_for_software(lab: &Lab) {
    let reported = |record: &Value| {
        record["software"].is_object() && record["compliance"].as_array().is_some_and(|all| all.len() == 2)
    };
    let waited = lab.appliance.wait_for_machine("BENCH-1", "the software inventory", STEP_LIMIT, reported);
    waited.unwrap_or_else(|error| panic!("{error}"));
}

/// What the site says of a machine that went the whole way.
pub(crate) fn assert_managed(record: &Value) {
    assert_eq!(record["state"], "managed", "{record}");
    assert_eq!(
        (&record["stage"], &record["run"]["state"]),
        (&"installed-system".into(), &"succeeded".into()),
        "{record}"
    );
    assert!(record["run"]["error"].is_null(), "a run that succeeded shows an error: {record}");
    for step in record["run"]["steps"].as_array().unwrap() {
        assert!(
            step["took_milliseconds"].is_u64() && ["done", "held"].contains(&step["state"].as_str().unwrap()),
            "{step}"
        );
    }
    let baseline = &step(record, "install-baseline")["evidence"];
    assert_eq!(
        (&baseline["welcome"]["state"], &baseline["media-types"]["state"]),
        (&"installed".into(), &"installed".into())
    );
    assert_eq!(record["hardware"]["what"]["disks"][0]["serial"], "LABDISK1");
    let packages = record["software"]["what"]["packages"].as_array().unwrap();
    assert!(packages.iter().any(|package| package["name"] == "media-types"), "{packages:?}");
    for finding in record["compliance"].as_array().unwrap() {
        assert!(["held", "installed"].contains(&finding["state"].as_str().unwrap()), "{finding}");
    }
}

/// What lies on the disk of a machine that went the whole way and is off.
pub(crate) fn assert_installed(lab: &mut Lab) {
    let disk = lab.machines[0].disk();
    let root = Ext4::open(&disk, "root").unwrap();
    let disk_bytes = std::fs::metadata(&disk).unwrap().len();
    assert!(
        root.size_bytes > disk_bytes * 9 / 10,
        "the root file system has {} of {disk_bytes} bytes",
        root.size_bytes
    );
    let read = |path: &str| root.read(path).unwrap().unwrap_or_else(|| panic!("{path} is not on the disk"));
    assert_eq!(read("/etc/hostname"), "bench-1\n");
    assert!(read("/var/lib/dpkg/status").contains("Package: media-types\nStatus: install ok installed"));
    assert_eq!(read("/etc/motd"), include_str!("../../docs/examples/first-site/packages/welcome/payload/motd"));
}
