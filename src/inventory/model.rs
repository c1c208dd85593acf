//! Hardware and software as they travel and are stored.
//!
//! All of it is said by the machine, so all of it may be wrong: strings are bounded and without control characters when
//! they leave `bounded`, lists have a limit that is far above any real machine.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::fleet::identity::Identity;
use crate::stdx::mac::MacAddr;

/// Longest text in inventory. The longest that firmware really gives are product names of some 64 characters.
pub const TEXT_CHARACTERS_MAX: usize = 256;
/// Most entries of one kind of device.
pub const DEVICES_MAX: usize = 1024;
/// Most packages of one machine: a full desktop has 4,000.
pub const PACKAGES_MAX: usize = 20_000;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Hardware {
    /// As `uname -m` says: `x86_64`.
    pub architecture: String,
    pub system: System,
    pub board: Board,
    pub chassis: Chassis,
    pub firmware: Firmware,
    pub processor: Processor,
    pub memory: Memory,
    pub disks: Vec<Disk>,
    pub adapters: Vec<Adapter>,
    pub pci: Vec<PciDevice>,
    pub usb: Vec<UsbDevice>,
    pub tpm: Option<Tpm>,
    pub batteries: Vec<Battery>,
}

impl Hardware {
    /// The evidence that tells this machine from others. Only disks that stay in it and adapters that are built in count.
    pub fn identity(&self) -> Identity {
        let built_in = self.adapters.iter().filter(|adapter| adapter.bus.as_deref() != Some("usb"));
        let fixed = self.disks.iter().filter(|disk| !disk.removable && disk.transport.as_deref() != Some("usb"));
        Identity {
            uuid: self.system.uuid.clone(),
            system_serial: self.system.serial.clone(),
            board_serial: self.board.serial.clone(),
            tpm_key: self.tpm.as_ref().and_then(|tpm| tpm.key.clone()),
            disk_serials: fixed.filter_map(|disk| disk.serial.clone()).collect(),
            macs: built_in.filter_map(|adapter| adapter.permanent_mac.or(adapter.mac)).collect(),
            manufacturer: self.system.manufacturer.clone(),
            model: self.system.product.clone(),
        }
    }

    /// Whether a hypervisor shows itself, or the makers' names are those that hypervisors give.
    pub fn is_virtual(&self) -> bool {
        const MAKERS: [&str; 8] =
            ["qemu", "kvm", "vmware", "virtualbox", "innotek", "xen", "microsoft corporation virtual machine", "bochs"];
        let said = |text: &Option<String>| text.clone().unwrap_or_default().to_ascii_lowercase();
        let system = format!("{} {}", said(&self.system.manufacturer), said(&self.system.product));
        let bios = said(&self.firmware.vendor);
        self.processor.hypervisor || MAKERS.iter().any(|maker| system.contains(maker) || bios.contains(maker))
    }
}

/// SMBIOS type 1.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct System {
    pub manufacturer: Option<String>,
    pub product: Option<String>,
    pub version: Option<String>,
    pub serial: Option<String>,
    pub uuid: Option<String>,
    pub sku: Option<String>,
    pub family: Option<String>,
}

/// SMBIOS type 2.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Board {
    pub manufacturer: Option<String>,
    pub product: Option<String>,
    pub version: Option<String>,
    pub serial: Option<String>,
    pub asset_tag: Option<String>,
}

/// SMBIOS type 3.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Chassis {
    pub manufacturer: Option<String>,
    /// The enumeration of SMBIOS 7.4.1: 3 is a desktop, 9 a laptop, 10 a notebook, 23 a rack mount.
    pub kind: Option<u8>,
    pub serial: Option<String>,
    pub asset_tag: Option<String>,
}

/// SMBIOS type 0, and how the machine was started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Firmware {
    /// `uefi` or `bios`.
    pub kind: String,
    pub vendor: Option<String>,
    pub version: Option<String>,
    pub date: Option<String>,
    /// `None` where the firmware has no such thing.
    pub secure_boot: Option<bool>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Processor {
    pub vendor: Option<String>,
    pub model: Option<String>,
    pub sockets: u32,
    pub cores: u32,
    pub threads: u32,
    /// A hypervisor says that it is there: CPUID leaf 1, bit 31 of ECX, which no real processor sets.
    pub hypervisor: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// What the kernel has to give, a little less than what is plugged in.
    pub total_bytes: u64,
    pub modules: Vec<MemoryModule>,
}

/// SMBIOS type 17; empty slots are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemoryModule {
    pub slot: Option<String>,
    pub bytes: u64,
    /// `DDR4`
    pub kind: Option<String>,
    pub mega_transfers: Option<u32>,
    pub manufacturer: Option<String>,
    pub serial: Option<String>,
    pub part: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Disk {
    /// The kernel's name for it, `sda`; it changes with the order of discovery.
    pub name: String,
    pub bytes: u64,
    pub sector_bytes: u32,
    pub model: Option<String>,
    pub serial: Option<String>,
    pub wwn: Option<String>,
    pub firmware: Option<String>,
    pub rotational: bool,
    pub removable: bool,
    /// `nvme`, `sata`, `sas`, `usb`, `virtio`, `mmc` or `scsi`.
    pub transport: Option<String>,
    /// `None` where the drive does not say (virtual disks, USB).
    pub health: Option<Health>,
    /// In the order of the partition table.
    pub partitions: Vec<Partition>,
}

/// A part of a disk as the partition table and the file system's own header have it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Partition {
    /// As Linux numbers it; 0 is a file system that has the whole disk.
    pub number: u32,
    /// What a GPT calls it.
    pub name: Option<String>,
    /// Bytes from the beginning of the disk.
    pub start: u64,
    pub bytes: u64,
    /// `ext4`, `ntfs`, `swap`, `luks` ...; `None` where nothing is recognised.
    pub filesystem: Option<String>,
    pub label: Option<String>,
    /// `None` where the file system's header does not say (FAT, NTFS) and it is not mounted.
    pub used_bytes: Option<u64>,
    pub mounted_at: Option<String>,
}

/// What a drive counts of itself (SMART), without what changes by the hour.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Health {
    /// It should be replaced: NVMe's critical warning, or sectors that cannot be read.
    pub failing: bool,
    /// Wear of flash, of what its maker reckons with.
    pub percent_used: Option<u32>,
    /// ATA attributes 5, 197 and 198.
    pub reallocated_sectors: Option<u64>,
    pub pending_sectors: Option<u64>,
    pub lost_sectors: Option<u64>,
    pub media_errors: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Adapter {
    pub name: String,
    pub mac: Option<MacAddr>,
    /// The maker's address, where the driver tells it.
    pub permanent_mac: Option<MacAddr>,
    pub driver: Option<String>,
    pub link: bool,
    pub megabits: Option<u32>,
    /// `pci`, `usb` or `virtio`.
    pub bus: Option<String>,
    /// Where it is plugged in: `0000:00:02.0`.
    pub address: Option<String>,
    /// The switch at the other end of its cable, as it says itself (LLDP).
    pub neighbour: Option<Neighbour>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Neighbour {
    /// The switch's identifier, mostly its hardware address.
    pub chassis: String,
    pub system: Option<String>,
    pub port: String,
    pub port_description: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PciDevice {
    /// `0000:00:1f.2`
    pub address: String,
    /// Six hexadecimal digits: class, subclass, programming interface.
    pub class: String,
    pub vendor: String,
    pub device: String,
    pub subsystem_vendor: String,
    pub subsystem_device: String,
    pub revision: String,
    pub driver: Option<String>,
    /// Names of class, vendor and device. The appliance puts them in.
    pub kind: Option<String>,
    pub vendor_name: Option<String>,
    pub device_name: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UsbDevice {
    /// Bus and ports: `1-4.2`.
    pub address: String,
    pub vendor: String,
    pub device: String,
    pub manufacturer: Option<String>,
    pub product: Option<String>,
    pub serial: Option<String>,
    /// Names of vendor and device by their numbers. The appliance puts them in.
    pub vendor_name: Option<String>,
    pub device_name: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tpm {
    /// `1.2` or `2.0`.
    pub version: String,
    /// SHA-256 of the endorsement public key (its SubjectPublicKeyInfo), which the TPM keeps through everything but a clear
    /// by its maker's means.
    pub key: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Battery {
    pub name: String,
    pub manufacturer: Option<String>,
    pub model: Option<String>,
    pub serial: Option<String>,
    pub cycles: Option<u32>,
    /// What it holds when full, as a share of what it was made for.
    pub health_percent: Option<u32>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Software {
    pub os: Os,
    pub packages: Vec<Package>,
    pub services: Vec<Service>,
    pub ports: Vec<Port>,
    pub accounts: Vec<Account>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct Service {
    /// The unit's name: `ssh.service`.
    pub name: String,
    /// It starts with the system.
    pub enabled: bool,
    pub running: bool,
}

/// A socket that waits for others.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct Port {
    /// `tcp` or `udp`.
    pub protocol: String,
    pub address: String,
    pub port: u16,
    /// The program behind it, where it may be seen.
    pub program: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Account {
    pub name: String,
    pub uid: u32,
    pub shell: String,
    pub groups: Vec<String>,
}

/// os-release(5) and uname(2).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Os {
    pub id: String,
    pub version: String,
    pub name: String,
    pub kernel: String,
    pub hostname: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct Package {
    /// `deb` or `rpm`.
    pub manager: String,
    pub name: String,
    pub version: String,
    pub architecture: String,
}

/// The same with every text cut and cleaned and every list cut: what a machine says is never trusted to be short.
pub fn bounded<T: Serialize + for<'de> Deserialize<'de> + Default>(said: &T, entries_max: usize) -> T {
    let mut value = serde_json::to_value(said).unwrap_or_default();
    bound(&mut value, entries_max);
    serde_json::from_value(value).unwrap_or_default()
}

fn bound(value: &mut Value, entries_max: usize) {
    match value {
        Value::String(text) if text.len() > TEXT_CHARACTERS_MAX || text.contains(char::is_control) => {
            *text = text.chars().filter(|c| !c.is_control()).take(TEXT_CHARACTERS_MAX).collect();
        }
        Value::Array(entries) => {
            entries.truncate(entries_max);
            entries.iter_mut().for_each(|entry| bound(entry, entries_max));
        }
        Value::Object(fields) => fields.values_mut().for_each(|field| bound(field, entries_max)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inventory_that_lies_is_cut_to_what_fits() {
        let mut hardware = Hardware::default();
        hardware.system.serial = Some(format!("x'; DROP TABLE machine; --\0<script>{}", "y".repeat(10_000_000)));
        hardware.usb = vec![UsbDevice::default(); 5000];
        let bounded = bounded(&hardware, DEVICES_MAX);
        let serial = bounded.system.serial.unwrap();
        assert!(serial.chars().count() == TEXT_CHARACTERS_MAX && !serial.contains('\0'));
        assert!(serial.starts_with("x'; DROP TABLE machine; --<script>"), "text is kept as text: {serial}");
        assert_eq!(bounded.usb.len(), DEVICES_MAX);
    }

    #[test]
    fn wrong_types_are_refused_and_what_is_new_is_ignored() {
        let parse = |text: &str| serde_json::from_str::<Hardware>(text);
        assert!(parse(r#"{"system": {"serial": 5}}"#).is_err());
        assert!(parse(r#"{"memory": {"total_bytes": -1}}"#).is_err());
        assert_eq!(parse(r#"{"from_the_future": {"a": 1}}"#).unwrap(), Hardware::default());
    }
}
