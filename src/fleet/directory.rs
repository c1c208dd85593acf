//! What the packet path asks: which machine is this address, and what does it boot? In memory, no SQL for a packet.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use super::machine::{Machine, MachineId, NextBoot};
use crate::stdx::mac::MacAddr;

/// What a machine that boots from the network is to be given. MAC address and UUID are hints, not credentials: a wrong
/// answer here costs a detour through the boot environment and gives away nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Assignment {
    Unknown,
    BootEnvironment { machine: MachineId },
    LocalDisk { machine: MachineId },
}

#[derive(Default)]
pub struct Directory(RwLock<Maps>);

#[derive(Default)]
struct Maps {
    by_uuid: HashMap<String, MachineId>,
    by_mac: HashMap<MacAddr, MachineId>,
    next_boot: HashMap<MachineId, NextBoot>,
    model: HashMap<MachineId, String>,
}

impl Maps {
    /// The UUID counts more than the address, because adapters are lent.
    fn machine(&self, mac: Option<MacAddr>, uuid: Option<&str>) -> Option<&MachineId> {
        let by_uuid = uuid.and_then(|uuid| self.by_uuid.get(&uuid.to_ascii_lowercase()));
        by_uuid.or_else(|| mac.and_then(|mac| self.by_mac.get(&mac)))
    }
}

impl Directory {
    /// Takes in a machine's record, new or changed.
    pub fn update(&self, machine: &Machine) {
        let mut maps = self.0.write().unwrap_or_else(PoisonError::into_inner);
        maps.by_uuid.retain(|_, id| *id != machine.id);
        maps.by_mac.retain(|_, id| *id != machine.id);
        if let Some(uuid) = machine.identity.usable_uuid() {
            maps.by_uuid.insert(uuid, machine.id.clone());
        }
        for mac in &machine.identity.macs {
            maps.by_mac.insert(*mac, machine.id.clone());
        }
        if let Some(model) = &machine.identity.model {
            maps.model.insert(machine.id.clone(), model.clone());
        }
        maps.next_boot.insert(machine.id.clone(), machine.next_boot);
    }

    /// The model of a machine that is known.
    pub fn model(&self, mac: Option<MacAddr>, uuid: Option<&str>) -> Option<String> {
        let maps = self.0.read().unwrap_or_else(PoisonError::into_inner);
        maps.machine(mac, uuid).and_then(|machine| maps.model.get(machine)).cloned()
    }

    pub fn assignment(&self, mac: Option<MacAddr>, uuid: Option<&str>) -> Assignment {
        let maps = self.0.read().unwrap_or_else(PoisonError::into_inner);
        match maps.machine(mac, uuid).and_then(|id| Some((id, maps.next_boot.get(id)?))) {
            None => Assignment::Unknown,
            Some((id, NextBoot::BootEnvironment)) => Assignment::BootEnvironment { machine: id.clone() },
            Some((id, NextBoot::LocalDisk)) => Assignment::LocalDisk { machine: id.clone() },
        }
    }
}
