//! Which disk of a machine is meant.

use serde::Deserialize;

use crate::tasksequence::host::Disk;
use crate::tasksequence::quantity::{Bytes, bytes_for_people};

use super::StepError;

/// A disk by its place among the others, or by what it is.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum DiskRule {
    Named(Named),
    Described(Description),
    #[default]
    #[serde(skip)]
    First,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Named {
    First,
    Largest,
    Smallest,
}

/// Words for `disk:`.
pub const NAMED: [&str; 3] = ["first", "largest", "smallest"];
/// Keys for `disk: {...}`.
pub const DESCRIBED: [&str; 5] = ["serial", "path", "model", "at-least", "at-most"];

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Description {
    pub serial: Option<String>,
    pub path: Option<String>,
    /// A part of the model's name, in any case.
    pub model: Option<String>,
    pub at_least: Option<Bytes>,
    pub at_most: Option<Bytes>,
}

/// The one disk that `rule` means. Removable disks are chosen only by serial number or path.
pub fn choose<'a>(rule: &DiskRule, disks: &'a [Disk]) -> Result<&'a Disk, StepError> {
    let mut fixed: Vec<&Disk> = disks.iter().filter(|disk| !disk.removable).collect();
    let found = match rule {
        DiskRule::First | DiskRule::Named(Named::First) => fixed.first().copied(),
        DiskRule::Named(Named::Largest) => fixed.into_iter().rev().max_by_key(|disk| disk.bytes),
        DiskRule::Named(Named::Smallest) => fixed.into_iter().min_by_key(|disk| disk.bytes),
        DiskRule::Described(wanted) => {
            if wanted.serial.is_some() || wanted.path.is_some() {
                fixed = disks.iter().collect();
            }
            fixed.retain(|disk| wanted.fits(disk));
            if fixed.len() > 1 {
                return Err(StepError::new(format!("{} disks fit: {}", fixed.len(), listed(&fixed)))
                    .hint("say which by `serial:`, or by `at-least:` and `at-most:`"));
            }
            fixed.first().copied()
        }
    };
    found.ok_or_else(|| {
        let all: Vec<&Disk> = disks.iter().collect();
        let have = if all.is_empty() { "it has none".to_owned() } else { format!("it has {}", listed(&all)) };
        StepError::new(format!("no disk of the machine fits; {have}"))
            .hint("a missing disk often needs a driver: see the start of the machine's log")
    })
}

impl Description {
    fn fits(&self, disk: &Disk) -> bool {
        let model = |wanted: &String| {
            disk.model.as_ref().is_some_and(|model| model.to_lowercase().contains(&wanted.to_lowercase()))
        };
        self.serial.as_ref().is_none_or(|serial| disk.serial.as_ref() == Some(serial))
            && self.path.as_ref().is_none_or(|path| disk.path == *path)
            && self.model.as_ref().is_none_or(model)
            && self.at_least.is_none_or(|least| disk.bytes >= least.0)
            && self.at_most.is_none_or(|most| disk.bytes <= most.0)
    }
}

fn listed(disks: &[&Disk]) -> String {
    let one = |disk: &&Disk| {
        let serial = disk.serial.as_ref().map(|serial| format!(", serial {serial}")).unwrap_or_default();
        let removable = if disk.removable { ", removable" } else { "" };
        format!("{} ({}{serial}{removable})", disk.path, bytes_for_people(disk.bytes))
    };
    disks.iter().map(one).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_rule_means_one_disk_or_is_refused() {
        let disk = |path: &str, gigabytes: u64, serial: Option<&str>, removable| Disk {
            path: path.into(),
            bytes: gigabytes << 30,
            serial: serial.map(str::to_owned),
            model: Some("QEMU HARDDISK".into()),
            rotational: false,
            removable,
        };
        let disks = [
            disk("/dev/sda", 8, Some("STICK"), true),
            disk("/dev/vda", 20, None, false),
            disk("/dev/vdb", 40, Some("B"), false),
            disk("/dev/vdc", 40, None, false),
        ];
        for (rule, expect) in [
            (json!("first"), Some("/dev/vda")),
            (json!("largest"), Some("/dev/vdb")),
            (json!("smallest"), Some("/dev/vda")),
            (json!({"serial": "B"}), Some("/dev/vdb")),
            (json!({"serial": "STICK"}), Some("/dev/sda")),
            (json!({"path": "/dev/vdc"}), Some("/dev/vdc")),
            (json!({"at-most": "30GiB"}), Some("/dev/vda")),
            (json!({"at-least": "30GiB"}), None),
            (json!({"model": "qemu"}), None),
            (json!({"serial": "C"}), None),
        ] {
            let parsed: DiskRule = serde_json::from_value(rule.clone()).unwrap();
            assert_eq!(choose(&parsed, &disks).ok().map(|disk| disk.path.as_str()), expect, "{rule}");
        }
        for bad in [json!("frist"), json!({"serail": "B"}), json!(3)] {
            assert!(serde_json::from_value::<DiskRule>(bad).is_err());
        }
    }
}
