//! What goes wrong on the way, and what is said then.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use remint::lab::console::Mark;
use remint::lab::run::Lab;
use remint::lab::scenario::{Dhcp, Firmware, MachineSpec};

use crate::Test;
use crate::bench::{Bench, STEP_LIMIT, WHOLE_PATH_LIMIT, machine, record, remint, step, wait_for, wait_for_apply};

pub(super) const TESTS: &[Test] = &[
    ("a_machine_that_nobody_approved_waits_and_shows_its_code", unapproved_machine),
    ("a_run_survives_the_appliance_killed_in_the_middle_of_an_apply", appliance_killed),
    ("a_run_survives_a_power_cut_in_the_middle_of_an_apply", power_cut),
    ("a_flipped_byte_in_a_pack_is_named_and_never_written", flipped_byte),
    ("an_image_larger_than_the_disk_is_refused_before_anything_is_written", small_disk),
];

fn unapproved_machine(bench: &Bench) {
    let no_rules = |site: &Path| std::fs::write(site.join("remint.toml"), "").unwrap();
    let mut lab = bench.lab(Dhcp::Proxy, machine(Firmware::Bios), no_rules);
    lab.power_on(0).unwrap();
    let record = lab.wait_for_state(0, "waiting", STEP_LIMIT).unwrap();
    let code = record["pairing_code"].as_str().unwrap();
    let shown = wait_for(&lab, Mark::default(), &format!("pairing code: {code}"));
    wait_for(&lab, shown, "remint machine approve");
    let written = std::fs::metadata(lab.machines[0].disk()).unwrap().blocks();
    assert_eq!(written, 0, "the disk of a machine that nobody approved was written to");
    lab.appliance.ask(&["machine", "approve", record["id"].as_str().unwrap()]).unwrap();
    lab.wait_for_state(0, "approved", STEP_LIMIT).unwrap();
}

fn appliance_killed(bench: &Bench) {
    let mut lab = bench.lab(Dhcp::Proxy, machine(Firmware::Bios), |_| ());
    lab.power_on(0).unwrap();
    wait_for_apply(&lab, 0.1);
    lab.restart_appliance().unwrap();
    lab.wait_for_state(0, "managed", WHOLE_PATH_LIMIT).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(step(&record(&lab), "apply-image")["state"], "done");
}

fn power_cut(bench: &Bench) {
    let mut lab = bench.lab(Dhcp::Proxy, machine(Firmware::Bios), |_| ());
    lab.power_on(0).unwrap();
    let done_before = wait_for_apply(&lab, 0.4);
    lab.machines[0].cut();
    lab.power_on(0).unwrap();
    lab.wait_for_state(0, "managed", WHOLE_PATH_LIMIT).unwrap_or_else(|error| panic!("{error}"));
    let evidence = &step(&record(&lab), "apply-image")["evidence"];
    let bytes = |name: &str| evidence[name].as_u64().unwrap_or_else(|| panic!("{name} in {evidence}"));
    // The disk kept what was reported as done, but for the last pieces that were still on their way to it.
    let on_the_way = 32 << 20;
    assert!(bytes("kept_bytes") + on_the_way >= done_before, "{done_before} bytes were done: {evidence}");
    assert_eq!(
        bytes("kept_bytes") + bytes("written_bytes") + bytes("zeroed_bytes"),
        bytes("total_bytes"),
        "{evidence}"
    );
    let share_fetched = bytes("fetched_bytes") as f64 / store_bytes(&lab) as f64;
    assert!(share_fetched < 0.75, "{share_fetched:.2} of the store was fetched again: {evidence}");
}

/// Bytes of all packs, which is what a first deployment fetches.
fn store_bytes(lab: &Lab) -> u64 {
    packs(lab.appliance.site()).iter().map(|pack| pack.metadata().unwrap().len()).sum()
}

/// The packs of a site's store, largest first.
fn packs(site: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![site.join("store/packs")];
    while let Some(folder) = todo.pop() {
        for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() { todo.push(path) } else { found.push(path) }
        }
    }
    found.sort_by_key(|path| std::cmp::Reverse(path.metadata().unwrap().len()));
    found
}

fn flipped_byte(bench: &Bench) {
    let mut broken = String::new();
    let mut lab = bench.lab(Dhcp::Proxy, machine(Firmware::Bios), |site| {
        let pack = packs(site).remove(0);
        let mut bytes = std::fs::read(&pack).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&pack, bytes).unwrap();
        broken = pack.file_stem().unwrap().to_string_lossy().into_owned();
    });
    lab.power_on(0).unwrap();
    lab.wait_for_state(0, "failed", WHOLE_PATH_LIMIT).unwrap_or_else(|error| panic!("{error}"));
    let error = record(&lab)["run"]["error"].as_str().unwrap_or_default().to_owned();
    assert!(error.contains(&broken), "the pack {broken} is not named: {error}");
    assert!(error.contains("chunk"), "the chunk is not named: {error}");
    wait_for(&lab, Mark::default(), "failed");
}

fn small_disk(bench: &Bench) {
    let spec = MachineSpec { disk_mib: 512, ..machine(Firmware::Bios) };
    let mut lab = bench.lab(Dhcp::Proxy, spec, |site| {
        let sequence = site.join("small.yaml");
        let text = "name: debian\nsteps:\n  - apply-image:\n      image: debian-12-small\n";
        std::fs::write(&sequence, text).unwrap();
        remint(site, &["sequence", "publish", sequence.to_str().unwrap()]);
    });
    lab.power_on(0).unwrap();
    lab.wait_for_state(0, "approved", STEP_LIMIT).unwrap_or_else(|error| panic!("{error}"));
    wait_for(&lab, Mark::default(), "Checked in as bench-1");
    let shown = wait_for(&lab, Mark::default(), "needs a disk of 639 MiB, and /dev/vda has 512 MiB");
    wait_for(&lab, shown, "Start a deployment on the appliance");
    let record = record(&lab);
    assert!(record["notice"].as_str().is_some_and(|notice| notice.contains("needs a disk of")), "{record}");
    assert!(record["run"].is_null(), "a run was made that cannot succeed");
    assert_eq!(std::fs::metadata(lab.machines[0].disk()).unwrap().blocks(), 0, "something was written");
}
