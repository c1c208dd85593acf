//! A lab as its file describes it (TOML). Paths are relative to the file.
//!
//! ```toml
//! network = "proxy"            # or "server": Remint gives the addresses itself
//! [[machine]]
//! name = "bench-1"
//! firmware = "bios"            # or "uefi", "uefi-secure-boot", "uefi-http", "uefi-http-secure-boot", "uefi-ia32", "uefi-arm64"
//! ```

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::error::Error;
use crate::stdx::mac::MacAddr;

/// Most machines in one lab: the last octet of their addresses counts them.
pub const MACHINES_MAX: usize = 60;

/// What `remint lab run` is given.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    #[serde(default)]
    pub network: Dhcp,
    /// The appliance's site folder.
    pub site: PathBuf,
    /// The state that every machine must reach, as `remint machine show` names it.
    #[serde(default = "managed")]
    pub until: String,
    #[serde(default = "fifteen_minutes")]
    pub time_limit_seconds: u64,
    /// TCP port on this computer's loopback address that leads to the appliance's console; 0 is none.
    #[serde(default)]
    pub console_port: u16,
    #[serde(rename = "machine")]
    pub machines: Vec<MachineSpec>,
}

/// Who gives addresses on the private network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Dhcp {
    /// A foreign server gives addresses only; Remint answers beside it as proxyDHCP.
    #[default]
    Proxy,
    /// Remint is the only DHCP server.
    Server,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineSpec {
    pub name: String,
    #[serde(default)]
    pub firmware: Firmware,
    #[serde(default = "one_gib")]
    pub memory_mib: u32,
    #[serde(default = "two")]
    pub cpus: u32,
    #[serde(default = "four_gib")]
    pub disk_mib: u32,
    #[serde(default)]
    pub disk: DiskBus,
    #[serde(default)]
    pub network_card: NetworkCard,
    /// A software TPM 2.0 (swtpm) with its maker's endorsement key, which stays the same as long as the machine's folder does.
    #[serde(default)]
    pub tpm: bool,
    /// What is not given is made from the machine's place in the list.
    pub mac: Option<MacAddr>,
    pub uuid: Option<String>,
    pub serial: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Firmware {
    #[default]
    Bios,
    /// x64, by PXE first.
    Uefi,
    /// The same with Secure Boot on and Microsoft's keys.
    UefiSecureBoot,
    /// x64, by HTTP Boot alone.
    UefiHttp,
    /// The same with Secure Boot on.
    UefiHttpSecureBoot,
    /// UEFI of 32 bits on a processor of 64, as early Atom tablets and boards have it, by PXE first.
    UefiIa32,
    /// arm64, by PXE first; always emulated.
    UefiArm64,
}

impl Firmware {
    pub fn is_uefi(self) -> bool {
        self != Firmware::Bios
    }

    /// PXE is switched off in the firmware.
    pub fn is_http(self) -> bool {
        matches!(self, Firmware::UefiHttp | Firmware::UefiHttpSecureBoot)
    }

    pub fn has_secure_boot(self) -> bool {
        matches!(self, Firmware::UefiSecureBoot | Firmware::UefiHttpSecureBoot)
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskBus {
    #[default]
    Virtio,
    Nvme,
    Ahci,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NetworkCard {
    #[default]
    Virtio,
    E1000,
}

impl Scenario {
    pub fn open(path: &Path) -> Result<Scenario, Error> {
        let text = std::fs::read_to_string(path).map_err(Error::file(path))?;
        let wrong = |message: String| Error::Scenario { path: path.to_owned(), message };
        let mut scenario: Scenario = toml::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        scenario.check().map_err(wrong)?;
        scenario.site = path.parent().unwrap_or(Path::new(".")).join(&scenario.site);
        Ok(scenario)
    }

    fn check(&self) -> Result<(), String> {
        if self.machines.is_empty() || self.machines.len() > MACHINES_MAX {
            return Err(format!("a lab has 1 to {MACHINES_MAX} machines"));
        }
        for (at, machine) in self.machines.iter().enumerate() {
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
            if machine.name.is_empty() || machine.name.len() > 60 || !machine.name.chars().all(plain) {
                return Err(format!("machine name `{}` is not made of letters, digits and `-`", machine.name));
            }
            if self.machines[..at].iter().any(|other| other.name == machine.name) {
                return Err(format!("two machines are called `{}`", machine.name));
            }
        }
        Ok(())
    }
}

impl MachineSpec {
    /// A machine with every default.
    pub fn new(name: &str, firmware: Firmware) -> MachineSpec {
        MachineSpec {
            name: name.to_owned(),
            firmware,
            memory_mib: one_gib(),
            cpus: two(),
            disk_mib: four_gib(),
            disk: DiskBus::default(),
            network_card: NetworkCard::default(),
            tpm: false,
            mac: None,
            uuid: None,
            serial: None,
        }
    }

    /// The card's address; `place` counts the machines of the lab from 0.
    pub fn mac_at(&self, place: usize) -> MacAddr {
        let last = u8::try_from(place + 1).unwrap_or(u8::MAX);
        self.mac.unwrap_or(MacAddr([0x52, 0x54, 0, 0x77, 0, last]))
    }

    pub fn uuid_at(&self, place: usize) -> String {
        self.uuid.clone().unwrap_or_else(|| format!("77a9c1d2-5b6e-4f3a-9c8d-0000000000{:02x}", place + 1))
    }

    pub fn serial_at(&self, place: usize) -> String {
        self.serial.clone().unwrap_or_else(|| format!("LAB-{}-{}", self.name.to_uppercase(), place + 1))
    }
}

fn managed() -> String {
    "managed".to_owned()
}

const fn fifteen_minutes() -> u64 {
    900
}

const fn one_gib() -> u32 {
    1024
}

const fn two() -> u32 {
    2
}

const fn four_gib() -> u32 {
    4096
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(text: &str) -> Result<Scenario, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lab.toml");
        std::fs::write(&path, text).unwrap();
        Scenario::open(&path).map_err(|error| error.to_string())
    }

    #[test]
    fn a_short_file_is_enough() {
        let lab = open("site = 'site'\n[[machine]]\nname = 'a'\n[[machine]]\nname = 'b'\nfirmware = 'uefi'\n").unwrap();
        assert_eq!((lab.network, lab.until.as_str()), (Dhcp::Proxy, "managed"));
        assert_eq!(lab.machines[1].firmware, Firmware::Uefi);
        assert_ne!(lab.machines[0].mac_at(0), lab.machines[1].mac_at(1));
        assert_ne!(lab.machines[0].uuid_at(0), lab.machines[1].uuid_at(1));
        assert!(lab.site.ends_with("site") && lab.site.is_absolute());
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_its_reason() {
        for (text, reason) in [
            ("site = 's'\nmachine = []\n", "1 to 60 machines"),
            ("site = 's'\n[[machine]]\nname = 'a b'\n", "letters"),
            ("site = 's'\n[[machine]]\nname = 'a'\n[[machine]]\nname = 'a'\n", "two machines"),
            ("site = 's'\n[[machine]]\nname = 'a'\nfirmwar = 'bios'\n", "firmwar"),
            ("site = 's'\n[[machine]]\nname = 'a'\nfirmware = 'mac'\n", "bios"),
        ] {
            let message = open(text).unwrap_err();
            assert!(message.contains(reason), "{text}: {message}");
        }
    }
}
