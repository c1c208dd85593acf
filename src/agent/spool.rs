//! What the agent keeps so that nothing is lost when the appliance is away or the agent is killed.

use std::fs;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};

use super::state::{Folder, StateError};
use crate::inventory::link::ReportInventory;
use crate::software::link::{Policy, ReportCompliance};
use crate::software::memory::Memory;
use crate::stdx::file::write_whole_private;
use crate::stdx::hex;

/// Files of the folder `spool`, each whole or absent.
pub struct Spool {
    folder: PathBuf,
    taken: Taken,
}

/// Digests of the inventory that the appliance has taken.
#[derive(Default, Serialize, Deserialize)]
struct Taken {
    hardware: String,
    software: String,
}

impl Spool {
    pub fn open(folder: &Folder) -> Result<Spool, StateError> {
        let folder = folder.spool();
        let mut spool = Spool { folder, taken: Taken::default() };
        spool.taken = spool.read("inventory-taken.json").unwrap_or_default();
        Ok(spool)
    }

    /// What of `found` the appliance does not know yet; `None` when it knows all.
    pub fn what_is_new(&self, mut found: ReportInventory) -> Option<ReportInventory> {
        if digest(&found.hardware) == self.taken.hardware {
            found.hardware = None;
        }
        if digest(&found.software) == self.taken.software {
            found.software = None;
        }
        (found.hardware.is_some() || found.software.is_some()).then_some(found)
    }

    pub fn inventory_taken(&mut self, report: &ReportInventory) -> Result<(), StateError> {
        if report.hardware.is_some() {
            self.taken.hardware = digest(&report.hardware);
        }
        if report.software.is_some() {
            self.taken.software = digest(&report.software);
        }
        self.write("inventory-taken.json", &self.taken)
    }

    /// The last policy that was received: what the machine is held to while the appliance is away.
    pub fn policy(&self) -> Option<Policy> {
        self.read("policy.json")
    }

    pub fn keep_policy(&self, policy: &Policy) -> Result<(), StateError> {
        self.write("policy.json", policy)
    }

    /// The compliance that the appliance has not taken yet. Only the latest counts.
    pub fn compliance(&self) -> Option<ReportCompliance> {
        self.read("compliance.json")
    }

    pub fn keep_compliance(&self, report: &ReportCompliance) -> Result<(), StateError> {
        self.write("compliance.json", report)
    }

    pub fn compliance_taken(&self) -> Result<(), StateError> {
        let path = self.folder.join("compliance.json");
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(StateError::Write { path, source }),
            _ => Ok(()),
        }
    }

    /// What failed and when it is tried again.
    pub fn memory(&self) -> Memory {
        self.read("memory.json").unwrap_or_default()
    }

    pub fn keep_memory(&self, memory: &Memory) -> Result<(), StateError> {
        self.write("memory.json", memory)
    }

    /// A file that is damaged is as good as absent: everything in here is found out again.
    fn read<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        serde_json::from_slice(&fs::read(self.folder.join(name)).ok()?).ok()
    }

    fn write<T: Serialize>(&self, name: &str, value: &T) -> Result<(), StateError> {
        let path = self.folder.join(name);
        let bytes = serde_json::to_vec(value).expect("what is kept is plain data");
        write_whole_private(&path, &bytes).map_err(|source| StateError::Write { path, source })
    }
}

fn digest<T: Serialize>(value: &T) -> String {
    hex::emit(&Sha256::digest(serde_json::to_vec(value).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::model::{Hardware, Software};
    use crate::stdx::time::Timestamp;

    fn found(sockets: u32) -> ReportInventory {
        let mut hardware = Hardware::default();
        hardware.processor.sockets = sockets;
        ReportInventory { at: Timestamp::default(), hardware: Some(hardware), software: Some(Software::default()) }
    }

    #[test]
    fn only_what_the_appliance_does_not_know_is_sent_and_that_survives_a_kill() {
        let root = tempfile::tempdir().unwrap();
        let open = || Spool::open(&Folder::open(root.path()).unwrap()).unwrap();
        let mut spool = open();
        let news = spool.what_is_new(found(1)).unwrap();
        spool.inventory_taken(&news).unwrap();
        let spool = open();
        assert!(spool.what_is_new(found(1)).is_none());
        let news = spool.what_is_new(found(2)).unwrap();
        assert!(news.hardware.is_some() && news.software.is_none());
    }

    #[test]
    fn a_report_is_kept_until_it_is_taken_and_a_damaged_file_is_forgotten() {
        let root = tempfile::tempdir().unwrap();
        let spool = Spool::open(&Folder::open(root.path()).unwrap()).unwrap();
        spool.keep_compliance(&ReportCompliance { at: Timestamp::default(), findings: Vec::new() }).unwrap();
        assert!(spool.compliance().is_some());
        spool.compliance_taken().unwrap();
        assert!(spool.compliance().is_none());
        fs::write(root.path().join("spool/policy.json"), "{\"packages\":[").unwrap();
        assert!(spool.policy().is_none());
    }
}
