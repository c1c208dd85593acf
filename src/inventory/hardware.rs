//! Hardware, read from sysfs and procfs under a root.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::model::{
    Adapter, Battery, Board, Chassis, Disk, Firmware, Hardware, Health, Memory, PciDevice, Processor, System, Tpm,
    UsbDevice,
};
use super::{lldp, partitions, smbios, tpm};
use crate::stdx::{ata, interface, nvme};

/// What the machine at `root` (`/` for the running one) is made of. What cannot be read is left out.
pub fn collect(root: &Path) -> Hardware {
    let sys = root.join("sys");
    Hardware {
        architecture: std::env::consts::ARCH.to_owned(),
        system: system(&sys),
        board: board(&sys),
        chassis: chassis(&sys),
        firmware: firmware(&sys),
        processor: processor(root),
        memory: memory(root),
        disks: disks(&sys).into_iter().map(|disk| partitions::with_partitions(with_health(disk, &sys), root)).collect(),
        adapters: adapters(&sys),
        pci: pci(&sys),
        usb: usb(&sys),
        tpm: tpm(&sys),
        batteries: batteries(&sys),
    }
}

/// One line for a person: `LabCo LabBox, serial S1`.
pub fn describe(hardware: &Hardware) -> String {
    let known = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let name: Vec<String> =
        [known(&hardware.system.manufacturer), known(&hardware.system.product)].into_iter().flatten().collect();
    let name = if name.is_empty() { "unnamed machine".to_owned() } else { name.join(" ") };
    match known(&hardware.system.serial) {
        Some(serial) => format!("{name}, serial {serial}"),
        None => name,
    }
}

fn system(sys: &Path) -> System {
    let dmi = |name: &str| text(&sys.join("class/dmi/id").join(name));
    System {
        manufacturer: dmi("sys_vendor"),
        product: dmi("product_name"),
        version: dmi("product_version"),
        serial: dmi("product_serial"),
        uuid: dmi("product_uuid").map(|uuid| uuid.to_ascii_lowercase()),
        sku: dmi("product_sku"),
        family: dmi("product_family"),
    }
}

fn board(sys: &Path) -> Board {
    let dmi = |name: &str| text(&sys.join("class/dmi/id").join(name));
    Board {
        manufacturer: dmi("board_vendor"),
        product: dmi("board_name"),
        version: dmi("board_version"),
        serial: dmi("board_serial"),
        asset_tag: dmi("board_asset_tag"),
    }
}

fn chassis(sys: &Path) -> Chassis {
    let dmi = |name: &str| text(&sys.join("class/dmi/id").join(name));
    Chassis {
        manufacturer: dmi("chassis_vendor"),
        kind: dmi("chassis_type").and_then(|kind| kind.parse().ok()),
        serial: dmi("chassis_serial"),
        asset_tag: dmi("chassis_asset_tag"),
    }
}

fn firmware(sys: &Path) -> Firmware {
    let dmi = |name: &str| text(&sys.join("class/dmi/id").join(name));
    let efi = sys.join("firmware/efi");
    Firmware {
        kind: if efi.exists() { "uefi" } else { "bios" }.to_owned(),
        vendor: dmi("bios_vendor"),
        version: dmi("bios_version"),
        date: dmi("bios_date"),
        secure_boot: secure_boot(&efi.join("efivars")),
    }
}

/// The variable `SecureBoot` (UEFI 3.3): four bytes of attributes, then 1 when images are checked.
fn secure_boot(efivars: &Path) -> Option<bool> {
    let bytes = fs::read(efivars.join("SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c")).ok()?;
    Some(*bytes.get(4)? == 1)
}

/// `/proc/cpuinfo`: a block a thread; a core is a (physical id, core id), which some virtual machines do not give.
fn processor(root: &Path) -> Processor {
    let text = fs::read_to_string(root.join("proc/cpuinfo")).unwrap_or_default();
    let mut sockets = BTreeSet::new();
    let mut cores = BTreeSet::new();
    let mut processor = Processor::default();
    for block in text.split("\n\n") {
        let field = |name: &str| {
            let line = block.lines().find(|line| line.split(':').next().is_some_and(|key| key.trim_end() == name))?;
            line.split_once(':').map(|(_, value)| value.trim().to_owned()).filter(|value| !value.is_empty())
        };
        let Some(number) = field("processor") else { continue };
        processor.threads += 1;
        processor.model = processor.model.or_else(|| field("model name"));
        processor.vendor = processor.vendor.or_else(|| field("vendor_id").or_else(|| field("CPU implementer")));
        processor.hypervisor |= field("flags").is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor"));
        let socket = field("physical id").unwrap_or_default();
        cores.insert((socket.clone(), field("core id").unwrap_or(number)));
        sockets.insert(socket);
    }
    processor.sockets = sockets.len() as u32;
    processor.cores = cores.len() as u32;
    processor
}

fn memory(root: &Path) -> Memory {
    let text = fs::read_to_string(root.join("proc/meminfo")).unwrap_or_default();
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap_or_default();
    let kibibytes: u64 = total.trim().trim_end_matches("kB").trim().parse().unwrap_or(0);
    let table = fs::read(root.join("sys/firmware/dmi/tables/DMI")).unwrap_or_default();
    Memory { total_bytes: kibibytes << 10, modules: smbios::memory_modules(&table) }
}

/// Whole disks. Left out: what has no device behind it (loop, RAM, device mapper), optical drives, and NVMe's hidden
/// multipath nodes, which have no `dev`.
pub fn disks(sys: &Path) -> Vec<Disk> {
    let mut disks = Vec::new();
    for folder in entries(&sys.join("block")) {
        let name = name_of(&folder);
        let optical = name.starts_with("sr") || name.starts_with("fd");
        if optical || !folder.join("device").exists() || !folder.join("dev").exists() {
            continue;
        }
        let number = |file: &str| text(&folder.join(file)).and_then(|text| text.parse::<u64>().ok());
        disks.push(Disk {
            bytes: number("size").unwrap_or(0).saturating_mul(512),
            sector_bytes: number("queue/logical_block_size").and_then(|n| u32::try_from(n).ok()).unwrap_or(512),
            model: text(&folder.join("device/model")),
            serial: disk_serial(&folder),
            wwn: text(&folder.join("wwid")).or_else(|| text(&folder.join("device/wwid"))),
            firmware: text(&folder.join("device/firmware_rev")).or_else(|| text(&folder.join("device/rev"))),
            rotational: number("queue/rotational") == Some(1),
            removable: number("removable") == Some(1),
            transport: transport(&name, &folder),
            health: None,
            partitions: Vec::new(),
            name,
        });
    }
    disks
}

/// virtio has it at the disk, NVMe and MMC at the device, SCSI in the vital product data page 0x80 (SPC-5 7.7.19: four
/// bytes of header).
fn disk_serial(folder: &Path) -> Option<String> {
    let page = || fs::read(folder.join("device/vpd_pg80")).ok().and_then(|page| cleaned(page.get(4..)?));
    text(&folder.join("serial")).or_else(|| text(&folder.join("device/serial"))).or_else(page)
}

/// Asks the drive itself. A drive that does not answer has no health.
fn with_health(disk: Disk, sys: &Path) -> Disk {
    let ask = |drive: File| match disk.transport.as_deref() {
        Some("nvme") => nvme::health(&drive).ok().map(of_nvme),
        Some("sata") => ata::attributes(&drive).ok().map(|attributes| of_ata(&attributes)),
        _ => None,
    };
    let device = (sys == Path::new("/sys")).then(|| Path::new("/dev").join(&disk.name));
    let health = device.and_then(|device| File::open(device).ok()).and_then(ask);
    Disk { health, ..disk }
}

fn of_nvme(said: nvme::Health) -> Health {
    Health {
        failing: said.warning != 0,
        percent_used: Some(said.percent_used.into()),
        media_errors: Some(said.media_errors),
        ..Health::default()
    }
}

fn of_ata(attributes: &[ata::Attribute]) -> Health {
    // The upper bytes of some raw values count something else.
    let count = |id: u8| attributes.iter().find(|one| one.id == id).map(|one| one.raw & 0xFFFF_FFFF);
    let (pending, lost) = (count(197), count(198));
    Health {
        failing: pending.unwrap_or(0) > 0 || lost.unwrap_or(0) > 0,
        reallocated_sectors: count(5),
        pending_sectors: pending,
        lost_sectors: lost,
        ..Health::default()
    }
}

fn transport(name: &str, folder: &Path) -> Option<String> {
    let path = fs::canonicalize(folder.join("device")).unwrap_or_default();
    let path = path.to_string_lossy().into_owned();
    let known = [
        ("nvme", name.starts_with("nvme")),
        ("mmc", name.starts_with("mmcblk")),
        ("usb", path.contains("/usb")),
        ("sas", path.contains("/end_device-")),
        ("sata", path.contains("/ata")),
        ("virtio", path.contains("/virtio")),
        ("scsi", name.starts_with("sd")),
    ];
    known.iter().find(|(_, holds)| *holds).map(|(transport, _)| (*transport).to_owned())
}

/// Ethernet adapters with a device behind them.
fn adapters(sys: &Path) -> Vec<Adapter> {
    const ARPHRD_ETHER: &str = "1";
    let mut adapters = Vec::new();
    for folder in entries(&sys.join("class/net")) {
        let read = |file: &str| text(&folder.join(file));
        if !folder.join("device").exists() || read("type").as_deref() != Some(ARPHRD_ETHER) {
            continue;
        }
        let name = name_of(&folder);
        let mac = read("address").and_then(|text| text.parse().ok());
        adapters.push(Adapter {
            permanent_mac: interface::permanent_address(&name).filter(|_| sys == Path::new("/sys")),
            mac,
            driver: link_name(&folder.join("device/driver")),
            link: read("carrier").as_deref() == Some("1"),
            megabits: read("speed")
                .and_then(|text| text.parse::<i64>().ok())
                .and_then(|speed| u32::try_from(speed).ok()),
            bus: link_name(&folder.join("device/subsystem")),
            address: link_name(&folder.join("device")),
            neighbour: read("ifindex")
                .filter(|_| sys == Path::new("/sys"))
                .and_then(|index| lldp::neighbour(index.parse().ok()?)),
            name,
        });
    }
    adapters
}

fn pci(sys: &Path) -> Vec<PciDevice> {
    let number = |folder: &Path, file: &str| {
        text(&folder.join(file)).map(|text| text.trim_start_matches("0x").to_owned()).unwrap_or_default()
    };
    let folders = entries(&sys.join("bus/pci/devices"));
    let devices = folders.iter().map(|folder| PciDevice {
        address: name_of(folder),
        class: number(folder, "class"),
        vendor: number(folder, "vendor"),
        device: number(folder, "device"),
        subsystem_vendor: number(folder, "subsystem_vendor"),
        subsystem_device: number(folder, "subsystem_device"),
        revision: number(folder, "revision"),
        driver: link_name(&folder.join("driver")),
        ..PciDevice::default()
    });
    devices.collect()
}

/// Devices, not their interfaces; root hubs (`usb1`) are part of the controller.
fn usb(sys: &Path) -> Vec<UsbDevice> {
    let is_device = |folder: &PathBuf| {
        let name = name_of(folder);
        !name.contains(':') && !name.starts_with("usb")
    };
    let folders = entries(&sys.join("bus/usb/devices"));
    let devices = folders.iter().filter(|folder| is_device(folder)).map(|folder| UsbDevice {
        address: name_of(folder),
        vendor: text(&folder.join("idVendor")).unwrap_or_default(),
        device: text(&folder.join("idProduct")).unwrap_or_default(),
        manufacturer: text(&folder.join("manufacturer")),
        product: text(&folder.join("product")),
        serial: text(&folder.join("serial")),
        ..UsbDevice::default()
    });
    devices.collect()
}

fn tpm(sys: &Path) -> Option<Tpm> {
    let folder = sys.join("class/tpm/tpm0");
    let major = text(&folder.join("tpm_version_major"));
    folder.exists().then(|| Tpm {
        version: if major.as_deref() == Some("2") { "2.0" } else { "1.2" }.to_owned(),
        key: tpm::endorsement_key(Path::new("/dev/tpmrm0")).filter(|_| sys == Path::new("/sys")),
    })
}

fn batteries(sys: &Path) -> Vec<Battery> {
    let folders = entries(&sys.join("class/power_supply"));
    let is_system = |folder: &&PathBuf| {
        text(&folder.join("type")).as_deref() == Some("Battery")
            && text(&folder.join("scope")).as_deref() != Some("Device")
    };
    let batteries = folders.iter().filter(is_system).map(|folder| {
        let number = |file: &str| text(&folder.join(file)).and_then(|text| text.parse::<u64>().ok());
        let full = number("energy_full").or_else(|| number("charge_full"));
        let design = number("energy_full_design").or_else(|| number("charge_full_design"));
        Battery {
            name: name_of(folder),
            manufacturer: text(&folder.join("manufacturer")),
            model: text(&folder.join("model_name")),
            serial: text(&folder.join("serial_number")),
            cycles: number("cycle_count").and_then(|count| u32::try_from(count).ok()),
            health_percent: full
                .zip(design)
                .and_then(|(full, design)| u32::try_from(full.saturating_mul(100).checked_div(design)?).ok()),
        }
    });
    batteries.collect()
}

/// A small file's text, trimmed; `None` when it is absent, unreadable or empty.
fn text(path: &Path) -> Option<String> {
    cleaned(&fs::read(path).ok()?)
}

fn cleaned(bytes: &[u8]) -> Option<String> {
    let text: String = String::from_utf8_lossy(bytes).chars().filter(|c| !c.is_control()).collect();
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path()).collect();
    paths.sort();
    paths
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The last part of what a symbolic link points to: sysfs names drivers and buses that way.
fn link_name(path: &Path) -> Option<String> {
    fs::read_link(path).ok().map(|target| name_of(&target))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn write(root: &Path, path: &str, content: &[u8]) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    #[test]
    fn a_machine_is_described_by_what_its_files_say() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        for (file, content) in [
            ("sys_vendor", "LabCo\n"),
            ("product_name", "LabBox\n"),
            ("product_serial", "S1\n"),
            ("product_uuid", "11111111-2222-3333-4444-55555555AAAA\n"),
            ("board_serial", "\n"),
            ("chassis_type", "10\n"),
        ] {
            write(root, &format!("sys/class/dmi/id/{file}"), content.as_bytes());
        }
        write(root, "proc/meminfo", b"MemTotal:         476340 kB\nMemFree: 1 kB\n");
        let thread = |n: u32, core: u32| {
            format!(
                "processor\t: {n}\nvendor_id\t: GenuineIntel\nmodel name\t: Q\nphysical id\t: 0\ncore id\t\t: {core}\nflags\t\t: fpu hypervisor\n\n"
            )
        };
        write(root, "proc/cpuinfo", [thread(0, 0), thread(1, 0), thread(2, 1), thread(3, 1)].concat().as_bytes());
        write(root, "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c", &[6, 0, 0, 0, 1]);
        let hardware = collect(root);
        assert_eq!(describe(&hardware), "LabCo LabBox, serial S1");
        assert_eq!(hardware.board.serial, None);
        assert_eq!(hardware.chassis.kind, Some(10));
        assert_eq!(hardware.memory.total_bytes, 476_340 << 10);
        assert_eq!((hardware.processor.sockets, hardware.processor.cores, hardware.processor.threads), (1, 2, 4));
        assert!(hardware.is_virtual());
        assert_eq!((hardware.firmware.kind.as_str(), hardware.firmware.secure_boot), ("uefi", Some(true)));
        assert_eq!(hardware.identity().usable_uuid().unwrap(), "11111111-2222-3333-4444-55555555aaaa");
    }

    #[test]
    fn a_drive_that_lost_sectors_is_failing() {
        let attribute = |id, raw| ata::Attribute { id, value: 100, raw };
        let worn = of_ata(&[attribute(5, 7), attribute(197, 0), attribute(194, 40)]);
        assert_eq!((worn.failing, worn.reallocated_sectors, worn.lost_sectors), (false, Some(7), None));
        assert!(of_ata(&[attribute(198, 0x5_0000_0001)]).failing);
        let nvme = nvme::Health { warning: 0, celsius: 40, percent_used: 7, hours: 9, media_errors: 0 };
        assert_eq!((of_nvme(nvme).failing, of_nvme(nvme).percent_used), (false, Some(7)));
        assert!(of_nvme(nvme::Health { warning: 4, ..nvme }).failing);
    }

    #[test]
    fn disks_are_whole_devices_with_the_serial_number_of_their_bus() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let disk = |name: &str, behind: &str| {
            let device = root.join("sys/devices").join(behind);
            fs::create_dir_all(&device).unwrap();
            let folder = root.join("sys/block").join(name);
            fs::create_dir_all(&folder).unwrap();
            symlink(&device, folder.join("device")).unwrap();
            write(&folder, "dev", b"8:0\n");
            write(&folder, "size", b"2048\n");
            write(&folder, "queue/rotational", b"0\n");
        };
        disk("sda", "pci0000:00/ata1/host0/target0:0:0/0:0:0:0");
        disk("sdb", "pci0000:00/usb1/1-4/host2/target2:0:0/2:0:0:0");
        disk("vda", "pci0000:00/virtio1");
        disk("sr0", "pci0000:00/ata2/host1");
        write(root, "sys/block/vda/serial", b"disk-1\n");
        write(root, "sys/block/sda/device/vpd_pg80", b"\x00\x80\x00\x08  QM0001");
        write(root, "sys/block/sdb/removable", b"1\n");
        fs::create_dir_all(root.join("sys/block/loop0")).unwrap();
        let disks = disks(&root.join("sys"));
        let shown: Vec<(&str, Option<&str>, Option<&str>)> =
            disks.iter().map(|d| (d.name.as_str(), d.serial.as_deref(), d.transport.as_deref())).collect();
        assert_eq!(
            shown,
            [
                ("sda", Some("QM0001"), Some("sata")),
                ("sdb", None, Some("usb")),
                ("vda", Some("disk-1"), Some("virtio"))
            ]
        );
        assert_eq!(disks[0].bytes, 1 << 20);
        let hardware = Hardware { disks, ..Hardware::default() };
        assert_eq!(hardware.identity().disk_serials, ["QM0001", "disk-1"], "the USB disk is lent");
    }
}
