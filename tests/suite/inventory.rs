//! The page on inventory queries says what the views are, and its examples run.

use remint::inventory::query::{VIEWS, run};
use remint::server::site::Site;

const PAGE: &str = include_str!("../../docs/reference/inventory.md");

#[test]
fn the_page_lists_every_view_as_the_program_describes_it() {
    for view in VIEWS {
        assert!(PAGE.contains(&format!("| `{}` | {} |", view.name, view.about)), "{}", view.name);
    }
    assert_eq!(PAGE.lines().filter(|line| line.starts_with("| `")).count(), VIEWS.len());
}

#[test]
fn the_examples_of_the_page_run() {
    let folder = tempfile::tempdir().unwrap();
    let site = Site::create(&folder.path().join("site"), "test").unwrap();
    let examples = PAGE.split("```sql\n").nth(1).unwrap().split("```").next().unwrap();
    for sql in examples.lines() {
        run(&site.db, sql.trim_end_matches(';')).unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
    assert!(run(&site.db, "SELECT * FROM token").is_err(), "only the views may be asked");
}

/// What the system's own tools say of the same hardware: no difference in the fields that both list.
#[cfg(feature = "agent")]
mod oracles {
    use std::collections::BTreeMap;
    use std::path::Path;
    use std::process::Command;

    use remint::inventory::model::MemoryModule;
    use remint::inventory::{hardware, smbios};
    use serde_json::Value;

    fn output(program: &str, arguments: &[&str]) -> Option<String> {
        let output = Command::new(program).args(arguments).output().ok().filter(|output| output.status.success())?;
        String::from_utf8(output.stdout).ok().filter(|text| !text.trim().is_empty())
    }

    #[test]
    fn disks_are_those_of_lsblk() {
        let columns = "NAME,SIZE,TYPE,ROTA,RM,SERIAL";
        let Some(text) = output("lsblk", &["--bytes", "--nodeps", "--json", "--output", columns]) else {
            return println!("skipped: lsblk lists nothing here");
        };
        let all: Value = serde_json::from_str(&text).unwrap();
        let listed = all["blockdevices"].as_array().unwrap().iter().filter(|device| {
            let name = device["name"].as_str().unwrap();
            device["type"] == "disk" && Path::new("/sys/block").join(name).join("device").exists()
        });
        let fields = |device: &Value| {
            let (bytes, serial) =
                (device["size"].as_u64(), device["serial"].as_str().map(str::trim).map(str::to_owned));
            (bytes, device["rota"].as_bool(), device["rm"].as_bool(), serial.filter(|serial| !serial.is_empty()))
        };
        let expected: BTreeMap<String, _> =
            listed.map(|device| (device["name"].as_str().unwrap().to_owned(), fields(device))).collect();
        let found: BTreeMap<String, _> = hardware::disks(Path::new("/sys"))
            .into_iter()
            .map(|disk| {
                // Without udev, lsblk does not know where virtio has the serial number.
                let listed = expected.get(&disk.name).and_then(|(_, _, _, serial)| serial.clone());
                let serial = disk.serial.filter(|_| listed.is_some());
                (disk.name, (Some(disk.bytes), Some(disk.rotational), Some(disk.removable), serial))
            })
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn pci_devices_are_those_of_lspci() {
        let Some(text) = output("lspci", &["-D", "-n", "-mm"]) else {
            return println!("skipped: lspci lists nothing here");
        };
        // 0000:00:1f.2 "0106" "8086" "2922" -r02 ...
        let expected: Vec<[String; 4]> = text
            .lines()
            .map(|line| {
                let words: Vec<&str> = line.split_whitespace().map(|word| word.trim_matches('"')).collect();
                [words[0], words[1], words[2], words[3]].map(str::to_owned)
            })
            .collect();
        let found: Vec<[String; 4]> = hardware::collect(Path::new("/"))
            .pci
            .into_iter()
            .map(|device| [device.address, device.class[..4].to_owned(), device.vendor, device.device])
            .collect();
        assert_eq!(found, expected);
    }

    const DMIDECODE: &str = "/usr/sbin/dmidecode";

    #[test]
    fn memory_modules_are_those_of_dmidecode() {
        let Some(text) = output(DMIDECODE, &["--type", "17"]) else {
            return println!("skipped: this computer shows no SMBIOS tables; tests/vm compares an emulated machine's");
        };
        assert_modules(&hardware::collect(Path::new("/")).memory.modules, &text);
    }

    /// More than one computer could show: every kind of memory, every way to say a size and a speed.
    #[test]
    fn odd_memory_modules_are_those_of_dmidecode_too() {
        // dmidecode of Debian 12 knows the kinds up to 0x23.
        let kinds = (0x01..=0x23).map(|kind| module(0x5C, 16_384, 0, kind, 3200, 0));
        let sizes = [0, 0xFFFF, 0x8000 | 512, 0x7FFE, 1].map(|size| module(0x5C, size, 0, 0x1A, 2400, 0));
        let extended = [32_768, 65_536, 0x7FFF_FC00].map(|size| module(0x5C, 0x7FFF, size, 0x22, 4800, 0));
        let speeds = [(0, 0), (0xFFFF, 0), (0xFFFF, 70_000), (1, 9)].map(|(a, b)| module(0x5C, 2048, 0, 0x22, a, b));
        let of_old = [module(0x1B, 1024, 0, 0x12, 333, 0), module(0x15, 256, 0, 0x0F, 0, 0)];
        let table: Vec<u8> = kinds.chain(sizes).chain(extended).chain(speeds).chain(of_old).flatten().collect();
        let table = [table, vec![127, 4, 0, 0, 0, 0]].concat();

        let folder = tempfile::tempdir().unwrap();
        let dump = folder.path().join("smbios");
        std::fs::write(&dump, [entry_point(table.len()), table.clone()].concat()).unwrap();
        let Some(text) = output(DMIDECODE, &["--from-dump", dump.to_str().unwrap(), "--type", "17"]) else {
            return println!("skipped: there is no dmidecode");
        };
        let modules = smbios::memory_modules(&table);
        assert_eq!(modules.len(), 0x23 + 3 + 3 + 4 + 2);
        assert_modules(&modules, &text);
    }

    /// DSP0134 5.2.2, with the table at 32.
    fn entry_point(table_bytes: usize) -> Vec<u8> {
        let mut bytes = b"_SM3_\0\x18\x03\x03\0\x01\0".to_vec();
        bytes.extend(u32::try_from(table_bytes).unwrap().to_le_bytes());
        bytes.extend(32_u64.to_le_bytes());
        bytes[5] = bytes.iter().fold(0, |sum: u8, byte| sum.wrapping_sub(*byte));
        bytes.resize(32, 0);
        bytes
    }

    /// A memory device (7.18) of so many bytes.
    fn module(bytes: u8, size: u16, extended_size: u32, kind: u8, speed: u16, extended_speed: u32) -> Vec<u8> {
        let mut body = vec![0; 0x5C];
        body[..4].copy_from_slice(&[17, bytes, kind, size as u8]);
        body[0x0C..0x0E].copy_from_slice(&size.to_le_bytes());
        (body[0x10], body[0x12]) = (1, kind);
        body[0x15..0x17].copy_from_slice(&speed.to_le_bytes());
        (body[0x17], body[0x18], body[0x1A]) = (2, 3, 4);
        body[0x1C..0x20].copy_from_slice(&extended_size.to_le_bytes());
        body[0x54..0x58].copy_from_slice(&extended_speed.to_le_bytes());
        body.truncate(bytes.into());
        body.extend(b"DIMM 0\0MakerCo\0S-1\0P 1\0\0");
        body
    }

    fn assert_modules(modules: &[MemoryModule], text: &str) {
        let expected: Vec<MemoryModule> = text.split("\n\n").filter_map(module_of_dmidecode).collect();
        assert_eq!(modules, expected);
    }

    fn module_of_dmidecode(block: &str) -> Option<MemoryModule> {
        let field = |name: &str| {
            let line =
                block.lines().find_map(|line| line.strip_prefix('\t')?.strip_prefix(name)?.strip_prefix(": "))?;
            let says_nothing = ["Not Specified", "Unknown", "Other", "Reserved"].contains(&line.trim());
            (!says_nothing).then(|| line.trim().to_owned())
        };
        let (size, unit) = field("Size")?.split_once(' ').map(|(size, unit)| (size.to_owned(), unit.to_owned()))?;
        let shift = 10 * (1 + ["kB", "MB", "GB", "TB"].iter().position(|one| *one == unit)?);
        Some(MemoryModule {
            slot: field("Locator"),
            bytes: size.parse::<u64>().ok()? << shift,
            kind: field("Type"),
            mega_transfers: field("Speed").map(|speed| speed.trim_end_matches(" MT/s").parse().unwrap()),
            manufacturer: field("Manufacturer"),
            serial: field("Serial Number"),
            part: field("Part Number"),
        })
    }

    #[test]
    fn accounts_are_those_of_getent() {
        let Some(text) = output("getent", &["--service=files", "passwd"]) else {
            return println!("skipped: getent lists nothing here");
        };
        let mut expected: Vec<&str> = text.lines().filter_map(|line| line.split(':').next()).collect();
        expected.sort_unstable();
        let accounts = remint::inventory::running::accounts(Path::new("/"));
        assert_eq!(accounts.iter().map(|account| account.name.as_str()).collect::<Vec<_>>(), expected);
    }
}
