//! What the packet path asks: which machine is this address, and what does it boot? In memory, no SQL for a packet.

use std::collections::{HashMap, HashSet};
use std::sync::{PoisonError, RwLock};

use super::identity::{Kind, Piece};
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
    known: HashMap<MachineId, Entry>,
    /// Addresses and UUIDs that several machines have shown: they name none of them.
    shared: HashSet<String>,
    collections: HashMap<MachineId, Vec<String>>,
}

/// What is in the maps for one machine.
struct Entry {
    uuid: Option<String>,
    macs: Vec<MacAddr>,
    model: Option<String>,
    next_boot: NextBoot,
}

impl Maps {
    /// The UUID counts more than the address, because adapters are lent.
    fn machine(&self, mac: Option<MacAddr>, uuid: Option<&str>) -> Option<&MachineId> {
        let by_uuid = uuid.and_then(|uuid| self.by_uuid.get(&uuid.to_ascii_lowercase()));
        by_uuid.or_else(|| mac.and_then(|mac| self.by_mac.get(&mac)))
    }

    /// What another machine has taken over since stays that machine's.
    fn forget(&mut self, machine: &MachineId) {
        let Some(entry) = self.known.remove(machine) else { return };
        if let Some(uuid) = entry.uuid.filter(|uuid| self.by_uuid.get(uuid) == Some(machine)) {
            self.by_uuid.remove(&uuid);
        }
        for mac in entry.macs {
            if self.by_mac.get(&mac) == Some(machine) {
                self.by_mac.remove(&mac);
            }
        }
    }
}

impl Directory {
    /// Takes in a machine's record, new or changed.
    pub fn update(&self, machine: &Machine) {
        let mut maps = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let maps = &mut *maps;
        maps.forget(&machine.id);
        let uuid = machine.identity.usable_uuid().filter(|uuid| !maps.shared.contains(uuid));
        let macs = machine.identity.macs.iter().filter(|mac| !maps.shared.contains(&mac.to_string()));
        let macs: Vec<MacAddr> = macs.copied().collect();
        if let Some(uuid) = &uuid {
            maps.by_uuid.insert(uuid.clone(), machine.id.clone());
        }
        for mac in &macs {
            maps.by_mac.insert(*mac, machine.id.clone());
        }
        let model = machine.identity.model.clone();
        maps.known.insert(machine.id.clone(), Entry { uuid, macs, model, next_boot: machine.next_boot });
    }

    /// From now on this piece of evidence names no machine.
    pub fn forget_shared(&self, piece: &Piece) {
        if !matches!(piece.kind, Kind::Mac | Kind::Uuid) {
            return;
        }
        let mut maps = self.0.write().unwrap_or_else(PoisonError::into_inner);
        maps.by_uuid.remove(&piece.value);
        maps.by_mac.retain(|mac, _| mac.to_string() != piece.value);
        maps.shared.insert(piece.value.clone());
    }

    /// A record that is no more.
    pub fn remove(&self, machine: &MachineId) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).forget(machine);
    }

    /// Which collections hold which machine, all of them anew.
    pub fn set_collections(&self, collections: HashMap<MachineId, Vec<String>>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).collections = collections;
    }

    /// The collections of a machine that is known.
    pub fn collections(&self, mac: Option<MacAddr>, uuid: Option<&str>) -> Vec<String> {
        let machine = {
            let maps = self.0.read().unwrap_or_else(PoisonError::into_inner);
            maps.machine(mac, uuid).cloned()
        };
        machine.map(|machine| self.collections_of(&machine)).unwrap_or_default()
    }

    pub fn collections_of(&self, machine: &MachineId) -> Vec<String> {
        let maps = self.0.read().unwrap_or_else(PoisonError::into_inner);
        maps.collections.get(machine).cloned().unwrap_or_default()
    }

    /// The model of a machine that is known.
    pub fn model(&self, mac: Option<MacAddr>, uuid: Option<&str>) -> Option<String> {
        let maps = self.0.read().unwrap_or_else(PoisonError::into_inner);
        maps.machine(mac, uuid).and_then(|machine| maps.known.get(machine)?.model.clone())
    }

    pub fn assignment(&self, mac: Option<MacAddr>, uuid: Option<&str>) -> Assignment {
        let maps = self.0.read().unwrap_or_else(PoisonError::into_inner);
        match maps.machine(mac, uuid).and_then(|id| Some((id, maps.known.get(id)?.next_boot))) {
            None => Assignment::Unknown,
            Some((id, NextBoot::BootEnvironment)) => Assignment::BootEnvironment { machine: id.clone() },
            Some((id, NextBoot::LocalDisk)) => Assignment::LocalDisk { machine: id.clone() },
        }
    }
}
