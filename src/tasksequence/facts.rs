//! What `machine` is in conditions and templates.

use serde::{Deserialize, Serialize};

use super::host::Disk;

/// Facts about a machine, as inventory has them when a run begins. What is not known is null, never absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Facts {
    pub id: String,
    pub name: String,
    pub mac: Option<String>,
    pub serial: Option<String>,
    pub uuid: Option<String>,
    pub manufacturer: Option<String>,
    pub model: Option<String>,
    pub firmware: String,
    pub architecture: String,
    pub memory_bytes: u64,
    pub processors: u32,
    pub virtual_machine: bool,
    pub collections: Vec<String>,
    pub disks: Vec<Disk>,
}

/// Name, what it is. The parser knows names by this table and the reference is made from it.
pub const FACTS: &[(&str, &str)] = &[
    ("id", "the machine's identifier in the site"),
    ("name", "the machine's name in the site"),
    ("mac", "the address of the card that it booted from, as `52:54:00:aa:00:01`"),
    ("serial", "the system's serial number, or none"),
    ("uuid", "the system's UUID, or none"),
    ("manufacturer", "the system's maker, or none"),
    ("model", "the system's model, or none"),
    ("firmware", "`uefi` or `bios`"),
    ("architecture", "`x86_64`"),
    ("memory_bytes", "bytes of memory"),
    ("processors", "logical processors"),
    ("virtual_machine", "true in a virtual machine"),
    ("collections", "list of names of the collections that it is in"),
    ("disks", "list of disks, each with `path`, `bytes`, `serial`, `model`, `rotational`, `removable`"),
];

/// What `run` is: name, what it is.
pub const RUN_FACTS: &[(&str, &str)] = &[
    ("id", "the run's identifier"),
    ("sequence", "the sequence's name"),
    ("version", "SHA-256 of the sequence"),
    ("failed_step", "identifier of the step that failed first, or none"),
    ("error", "why it failed, or none"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_facts_is_what_conditions_see() {
        let value = serde_json::to_value(Facts::default()).unwrap();
        let mut seen: Vec<&String> = value.as_object().unwrap().keys().collect();
        let mut table: Vec<&str> = FACTS.iter().map(|(name, _)| *name).collect();
        seen.sort();
        table.sort_unstable();
        assert_eq!(seen, table);
    }
}
