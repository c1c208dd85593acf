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

    use remint::inventory::hardware;
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

    #[test]
    fn memory_modules_are_those_of_dmidecode() {
        let Some(text) = output("dmidecode", &["--type", "17"]) else {
            return println!("skipped: dmidecode says nothing here");
        };
        let sizes = text.lines().filter_map(|line| line.trim().strip_prefix("Size: "));
        let expected: Vec<u64> = sizes
            .filter_map(|size| {
                let (number, unit) = size.split_once(' ')?;
                let shift = match unit {
                    "kB" => 10,
                    "MB" => 20,
                    "GB" => 30,
                    "TB" => 40,
                    _ => return None,
                };
                Some(number.parse::<u64>().ok()? << shift)
            })
            .collect();
        let modules = hardware::collect(Path::new("/")).memory.modules;
        assert_eq!(modules.iter().map(|module| module.bytes).collect::<Vec<_>>(), expected);
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
