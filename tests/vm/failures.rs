//! What goes wrong on the way, and what is said then.

use std::os::unix::fs::MetadataExt;

use remint::lab::console::Mark;
use remint::lab::scenario::{Dhcp, Firmware};

use crate::Test;
use crate::bench::{Bench, STEP_LIMIT, machine, wait_for};

pub(crate) const TESTS: &[Test] = &[("a_machine_that_nobody_approved_waits_and_shows_its_code", unapproved_machine)];

fn unapproved_machine(bench: &Bench) {
    let no_rules = |site: &std::path::Path| std::fs::write(site.join("remint.toml"), "").unwrap();
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
