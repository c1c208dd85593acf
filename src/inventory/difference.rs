//! What changed between two looks at a machine.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::model::{Account, Hardware, Port, Software};

/// One thing that is new, gone or different.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// `hardware`, `os`, `package`, `service`, `port` or `account`.
    pub subject: String,
    /// What: `disks[QM0001].firmware`, or the package's name.
    pub name: String,
    #[serde(default)]
    pub before: Option<String>,
    #[serde(default)]
    pub after: Option<String>,
}

/// Fields that come and go with the day and say nothing about what a machine is made of.
const PASSING: [&str; 8] =
    [".link", ".megabits", ".cycles", ".driver", ".percent_used", ".kind", ".vendor_name", ".device_name"];

/// What is written on a disk is not what a machine is made of.
const CONTENT: &str = ".partitions[";

pub fn hardware(before: &Hardware, after: &Hardware) -> Vec<Change> {
    let flat = |hardware: &Hardware| {
        let mut found = BTreeMap::new();
        flatten(&serde_json::to_value(hardware).unwrap_or_default(), String::new(), &mut found);
        found.retain(|path, _| !path.contains(CONTENT) && !PASSING.iter().any(|passing| path.ends_with(passing)));
        found
    };
    compare("hardware", &flat(before), &flat(after))
}

pub fn software(before: &Software, after: &Software) -> Vec<Change> {
    let packages = |software: &Software| -> BTreeMap<String, String> {
        let mut found: BTreeMap<String, String> = BTreeMap::new();
        for package in &software.packages {
            let versions = found.entry(format!("{}:{}", package.name, package.architecture)).or_default();
            // An rpm kernel is there in several versions at once.
            let separator = if versions.is_empty() { "" } else { ", " };
            versions.push_str(&format!("{separator}{}", package.version));
        }
        found
    };
    let os = |software: &Software| {
        let mut found = BTreeMap::new();
        flatten(&serde_json::to_value(&software.os).unwrap_or_default(), String::new(), &mut found);
        found
    };
    let mut changes = compare("os", &os(before), &os(after));
    changes.extend(compare("package", &packages(before), &packages(after)));
    changes.extend(compare("service", &services(before), &services(after)));
    changes.extend(compare("port", &ports(before), &ports(after)));
    changes.extend(compare("account", &accounts(before), &accounts(after)));
    changes
}

/// Whether they start with the system; that they run comes and goes with the hour.
fn services(software: &Software) -> BTreeMap<String, String> {
    let enabled = software.services.iter().filter(|service| service.enabled);
    enabled.map(|service| (service.name.clone(), "enabled".to_owned())).collect()
}

fn ports(software: &Software) -> BTreeMap<String, String> {
    let row = |port: &Port| {
        let name = format!("{} {}:{}", port.protocol, port.address, port.port);
        (name, port.program.clone().unwrap_or_default())
    };
    software.ports.iter().map(row).collect()
}

fn accounts(software: &Software) -> BTreeMap<String, String> {
    let row = |account: &Account| {
        (account.name.clone(), format!("{} {} {}", account.uid, account.shell, account.groups.join(",")))
    };
    software.accounts.iter().map(row).collect()
}

fn compare(subject: &str, before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> Vec<Change> {
    let mut names: Vec<&String> = before.keys().chain(after.keys()).collect();
    names.sort_unstable();
    names.dedup();
    let change = |name: &String| Change {
        subject: subject.to_owned(),
        name: name.clone(),
        before: before.get(name).cloned(),
        after: after.get(name).cloned(),
    };
    names.into_iter().map(change).filter(|change| change.before != change.after).collect()
}

/// `{"disks": [{"serial": "A", "bytes": 1}]}` becomes `disks[A].bytes = 1`: entries of a list are known by what is theirs,
/// so that a disk that is found in another order has not changed.
fn flatten(value: &Value, path: String, found: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(fields) => {
            for (name, inner) in fields {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                flatten(inner, path, found);
            }
        }
        Value::Array(entries) => {
            let mut taken: BTreeMap<String, u32> = BTreeMap::new();
            for entry in entries {
                let key = key_of(entry);
                let times = taken.entry(key.clone()).or_default();
                *times += 1;
                let key = if *times == 1 { key } else { format!("{key}#{times}") };
                flatten(entry, format!("{path}[{key}]"), found);
            }
        }
        Value::Null => {}
        Value::String(text) => {
            found.insert(path, text.clone());
        }
        other => {
            found.insert(path, other.to_string());
        }
    }
}

fn key_of(entry: &Value) -> String {
    const NAMES: [&str; 6] = ["serial", "permanent_mac", "mac", "address", "slot", "name"];
    let text = |name: &&str| entry.get(name).and_then(Value::as_str).map(str::to_owned);
    NAMES.iter().find_map(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::model::{Adapter, Disk, Package};

    fn disk(name: &str, serial: &str, bytes: u64) -> Disk {
        Disk { name: name.into(), serial: Some(serial.into()), bytes, ..Disk::default() }
    }

    fn shown(changes: &[Change]) -> Vec<String> {
        let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".into());
        changes.iter().map(|c| format!("{} {} -> {}", c.name, text(&c.before), text(&c.after))).collect()
    }

    #[test]
    fn a_disk_that_was_exchanged_is_seen_and_one_that_was_found_in_another_order_is_not() {
        let before = Hardware { disks: vec![disk("sda", "A", 1), disk("sdb", "B", 2)], ..Hardware::default() };
        let reordered = Hardware { disks: vec![disk("sdb", "B", 2), disk("sda", "A", 1)], ..Hardware::default() };
        assert!(hardware(&before, &reordered).is_empty());
        let exchanged = Hardware { disks: vec![disk("sda", "A", 1), disk("sdb", "C", 2)], ..Hardware::default() };
        let changes = shown(&hardware(&before, &exchanged));
        assert!(changes.contains(&"disks[B].serial B -> -".to_owned()), "{changes:?}");
        assert!(changes.contains(&"disks[C].serial - -> C".to_owned()), "{changes:?}");
    }

    #[test]
    fn a_cable_that_was_pulled_is_no_change_of_the_machine() {
        let adapter = |link| Adapter { name: "eth0".into(), link, ..Adapter::default() };
        let machine = |link| Hardware { adapters: vec![adapter(link)], ..Hardware::default() };
        assert!(hardware(&machine(true), &machine(false)).is_empty());
    }

    #[test]
    fn packages_are_added_removed_and_upgraded() {
        let package = |name: &str, version: &str| Package {
            manager: "deb".into(),
            name: name.into(),
            version: version.into(),
            architecture: "all".into(),
        };
        let machine = |packages: Vec<Package>| Software { packages, ..Software::default() };
        let before = machine(vec![package("a", "1"), package("b", "1")]);
        let after = machine(vec![package("b", "2"), package("c", "1")]);
        assert_eq!(shown(&software(&before, &after)), ["a:all 1 -> -", "b:all 1 -> 2", "c:all - -> 1"]);
    }
}
