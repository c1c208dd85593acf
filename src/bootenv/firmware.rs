//! Firmware files that the chosen drivers load into their devices.
//!
//! A module names what it wants (`modinfo -F firmware`); what Debian's `firmware-*` packages have of that goes into the
//! initramfs, nothing else: those packages also hold what graphics and sound want.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::debian::run;
use super::error::Error;

/// Packages with firmware of network cards and storage controllers. Their licences let anybody pass them on unchanged.
pub(super) const PACKAGES: &[&str] = &[
    "firmware-bnx2",
    "firmware-bnx2x",
    "firmware-intel-misc",
    "firmware-linux-free",
    "firmware-misc-nonfree",
    "firmware-netronome",
    "firmware-qlogic",
    "firmware-realtek",
];
/// The suite that has them, in its component `non-free-firmware`.
pub(super) const SUITE: &str = "trixie";

/// How the kernel finds a file that is compressed (CONFIG_FW_LOADER_COMPRESS).
const ENDINGS: [&str; 3] = ["", ".zst", ".xz"];

/// Name below `lib/firmware` and content of each file that `modules` want and the packages unpacked below `scratch` have.
pub(super) fn wanted(scratch: &Path, modules: &[PathBuf]) -> Result<BTreeMap<String, Vec<u8>>, Error> {
    let folders: Vec<PathBuf> = PACKAGES
        .iter()
        .flat_map(|package| ["lib/firmware", "usr/lib/firmware"].map(|place| scratch.join(package).join(place)))
        .filter(|folder| folder.is_dir())
        .collect();
    let mut found = BTreeMap::new();
    if folders.is_empty() || modules.is_empty() {
        return Ok(found);
    }
    let names = run(Command::new(modinfo()).args(["-F", "firmware"]).args(modules))?;
    for name in names.lines().map(str::trim).filter(|name| is_plain(name)) {
        let places = folders.iter().flat_map(|folder| ENDINGS.map(|ending| (folder, ending)));
        for (folder, ending) in places {
            let file = format!("{name}{ending}");
            if let Ok(content) = fs::read(folder.join(&file)) {
                found.insert(file, content);
                break;
            }
        }
    }
    Ok(found)
}

/// A path below the folder; some modules name patterns, which nothing loads by.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('/') && name.split('/').all(|part| part != "..") && !name.contains(['*', '?'])
}

/// An ordinary user's search path often lacks the folder where it is.
fn modinfo() -> &'static str {
    let place = "/sbin/modinfo";
    if Path::new(place).exists() { place } else { "modinfo" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_elsewhere_or_are_patterns_are_not_looked_up() {
        for (name, plain) in [
            ("bnx2/bnx2-mips-09.fw", true),
            ("rtl_nic/rtl8168g-2.fw", true),
            ("../../etc/shadow", false),
            ("/etc/shadow", false),
            ("ql*.bin", false),
            ("", false),
        ] {
            assert_eq!(is_plain(name), plain, "{name:?}");
        }
    }
}
