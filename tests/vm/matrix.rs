//! Every firmware, beside another DHCP server and with Remint as the only one: from power on to the check-in.

use std::path::Path;
use std::time::{Duration, Instant};

use remint::lab::console::Mark;
use remint::lab::run::Lab;
use remint::lab::scenario::{Dhcp, Firmware, MachineSpec};
use serde_json::Value;

use crate::Test;
use crate::bench::{Bench, STEP_LIMIT};

pub(super) const TESTS: &[Test] = &[
    ("every_firmware_boots_beside_another_dhcp_server", |bench| every_firmware(bench, Dhcp::Proxy)),
    ("every_firmware_boots_with_remint_as_dhcp_server", |bench| every_firmware(bench, Dhcp::Server)),
];

/// Those of one group are on at the same time.
const GROUPS: [&[Firmware]; 3] = [
    &[Firmware::Bios, Firmware::UefiArm64],
    &[Firmware::Uefi, Firmware::UefiSecureBoot, Firmware::UefiIa32],
    &[Firmware::UefiHttp, Firmware::UefiHttpSecureBoot],
];

/// Made by `grub-mkpasswd-pbkdf2 -c 1000` of `sesame`.
pub(crate) const SESAME: &str = "grub.pbkdf2.sha512.1000.6F3B873011F0EFD93E6EBD01373CAADBDA31E134AA0BF96FE063AD744DB1CF305A90E1F2FDC75F0B231A79D7A62CACF75981E7624428F06FF48BE55946153C65.0A848EFBAE92AC205D7B3017A2FBCFB8F2122C8BB5A6E2EA195C1C1D08062F271ABF48FED1CB9D507BD7EDCFBA4E2696AE948E57249E1B4AB15487BBC26B764F";

fn every_firmware(bench: &Bench, dhcp: Dhcp) {
    let firmwares: Vec<Firmware> = GROUPS.concat();
    let machines: Vec<MachineSpec> = firmwares.iter().map(|firmware| spec(*firmware)).collect();
    let secure = machines[3].mac_at(3);
    let mut lab = bench.lab_of(dhcp, machines, |site| {
        // Nobody is let in, so that a machine that has checked in stays in the boot environment. Beside shim, which HTTP Boot
        // gets anyway, this firmware would need two attempts: the first teaches that it refuses iPXE.
        // Beside the other server every machine is shown a menu first, by iPXE or by GRUB, and goes on after a second.
        // Nobody is asked for its password where the default is taken.
        let shown = format!("[[boot.menu]]\nseconds = 1\npassword = \"{SESAME}\"\n");
        let menu = if dhcp == Dhcp::Proxy { shown.as_str() } else { "" };
        let configuration = format!("[[boot.machine]]\nmac = \"{secure}\"\nprogram = \"shim\"\n{menu}");
        std::fs::write(site.join("remint.toml"), configuration).unwrap();
    });
    let arm64 = arm64_has_agent(lab.appliance.site());
    if arm64.is_none() {
        println!("skipped: the site has no boot files for arm64 (scripts/first-site DIR --arm64)");
    }
    let ia32 = lab.appliance.site().join("boot/current/shimia32.efi").exists();
    if !ia32 {
        println!("skipped: the site has no boot files for UEFI of 32 bits (scripts/first-site DIR --ia32)");
    }
    let mut failures = Vec::new();
    for group in GROUPS {
        let is_there = |place: &usize| match firmwares[*place] {
            Firmware::UefiArm64 => arm64.is_some(),
            Firmware::UefiIa32 => ia32,
            _ => true,
        };
        let places = || (0..firmwares.len()).filter(|place| group.contains(&firmwares[*place]));
        let mut left: Vec<usize> = places().filter(is_there).collect();
        left.iter().for_each(|place| lab.power_on(*place).unwrap());
        let start = Instant::now();
        while !left.is_empty() && start.elapsed() < STEP_LIMIT {
            left.retain(|place| match arrived(&lab, *place, arm64 == Some(true)) {
                Some(how) => {
                    let seconds = start.elapsed().as_secs_f64();
                    println!("  {dhcp:?} {}: {how}, {seconds:.1} s from power on", lab.machines[*place].spec.name);
                    false
                }
                None => true,
            });
            std::thread::sleep(Duration::from_millis(300));
        }
        failures.extend(left.iter().map(|place| lab.machines[*place].spec.name.clone()));
        places().for_each(|place| lab.machines[place].cut());
    }
    assert!(
        failures.is_empty(),
        "did not arrive: {}; {}",
        failures.join(", "),
        lab.appliance.ask(&["machine", "boots"]).unwrap()
    );
}

fn spec(firmware: Firmware) -> MachineSpec {
    let name = match firmware {
        Firmware::Bios => "bios",
        Firmware::Uefi => "uefi",
        Firmware::UefiSecureBoot => "secure",
        Firmware::UefiHttp => "http",
        Firmware::UefiHttpSecureBoot => "secure-http",
        Firmware::UefiArm64 => "arm64",
        Firmware::UefiIa32 => "ia32",
    };
    MachineSpec { cpus: 1, disk_mib: 64, ..MachineSpec::new(name, firmware) }
}

/// What was seen of a machine that has come to its end here: it has checked in, and its firmware is the one that it should
/// be. Without an agent for arm64, its kernel has started from our boot path and our `/init` has spoken.
fn arrived(lab: &Lab, place: usize, arm64_has_agent: bool) -> Option<String> {
    let machine = &lab.machines[place];
    if machine.spec.firmware == Firmware::UefiArm64 && !arm64_has_agent {
        let said = |words: &str| machine.console().wait_for(Mark::default(), words, Duration::ZERO).is_ok();
        let spoke = said("Linux version") && said("it holds no remint-agent for this processor");
        return spoke.then(|| "the kernel and /init have started (no agent was built for arm64)".to_owned());
    }
    let record = lab.appliance.machine(&machine.serial()).unwrap()?;
    if record["hardware"].is_null() {
        return None;
    }
    assert_eq!(record["state"], "waiting", "{record}");
    let firmware = &record["hardware"]["what"]["firmware"];
    let expect = match machine.spec.firmware {
        Firmware::Bios => ("bios", Value::Null),
        firmware => ("uefi", Value::Bool(firmware.has_secure_boot())),
    };
    assert_eq!((firmware["kind"].as_str().unwrap(), &firmware["secure_boot"]), (expect.0, &expect.1), "{record}");
    let architecture = &record["hardware"]["what"]["architecture"];
    Some(format!("checked in, {architecture}, Secure Boot {}", firmware["secure_boot"]))
}

/// None where the site has no boot files for arm64.
fn arm64_has_agent(site: &Path) -> Option<bool> {
    let manifest = std::fs::read_to_string(site.join("boot/current/manifest.json")).unwrap();
    let manifest: Value = serde_json::from_str(&manifest).unwrap();
    manifest["arm64"].is_object().then(|| manifest["arm64"]["agent_sha256"].is_string())
}
