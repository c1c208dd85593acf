//! Software of machines that exist in their words only: a package, the baseline that wants it, and what they report.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::appliance::{Machine, remint};

/// The package of docs/examples/first-site, wanted on every machine.
pub(crate) fn want_a_package(site: &Path, folder: &Path) {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/examples/first-site");
    let package = folder.join("welcome.yaml");
    std::fs::copy(example.join("packages/welcome/welcome.yaml"), &package).unwrap();
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(example.join("packages/welcome/payload")).arg("-czf").arg(folder.join("welcome.tar.gz")).arg(".");
    assert!(tar.status().unwrap().success(), "tar");
    remint(site, &["package", "add", package.to_str().unwrap()]);
    let baseline = folder.join("baseline.yaml");
    std::fs::write(&baseline, "name: everybody\npackages: [welcome]\n").unwrap();
    remint(site, &["baseline", "apply", baseline.to_str().unwrap()]);
}

/// One in three has another system, and there the package could not be installed.
pub(crate) fn report_software(machines: &[Machine]) {
    for (at, machine) in machines.iter().enumerate() {
        let (os, version, name) = match at % 3 {
            2 => ("debian", "11", "Debian GNU/Linux 11 (bullseye)"),
            _ => ("debian", "12", "Debian GNU/Linux 12 (bookworm)"),
        };
        machine.tell("/link/v1/inventory", &json!({ "at": 1, "software": {
            "os": { "id": os, "version": version, "name": name, "kernel": "6.1.0-41-amd64", "hostname": machine.name() },
            "packages": [{ "manager": "deb", "name": "openssl", "version": "3.0.17-1", "architecture": "amd64" }],
        } }));
        let finding: Value = match at % 3 {
            2 => {
                json!({ "package": "welcome", "version": "1.0", "state": "failed", "reason": "install: no space left on device" })
            }
            _ => json!({ "package": "welcome", "version": "1.0", "state": "installed" }),
        };
        machine.tell("/link/v1/compliance", &json!({ "at": 1, "findings": [finding] }));
    }
}
