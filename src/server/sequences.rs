//! Task sequences in this process: where their images and facts come from, and what moves their deployments on.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::interface;
use crate::access::Principal;
use crate::access::signing::PublicKey;
use crate::access::vault::Vault;
use crate::config::Interface;
use crate::fleet::db::Fleet;
use crate::fleet::machine::{Machine, MachineId};
use crate::fleet::wake;
use crate::imaging::store::local::LocalStore;
use crate::inventory::db::Inventory;
use crate::stdx::hint::chain;
use crate::tasksequence::db::{Lookup, Sequences};
use crate::tasksequence::facts::Facts;
use crate::tasksequence::grant;
use crate::tasksequence::host::Disk;

/// How often deployments that wait for a time or a deadline are looked at.
const TICK: Duration = Duration::from_secs(5);

pub(super) fn open(
    fleet: &Arc<Fleet>,
    inventory: &Arc<Inventory>,
    store: &Arc<LocalStore>,
    key: PublicKey,
    vault: Arc<Vault>,
) -> Arc<Sequences> {
    let (images, names, known, inventory) = (store.clone(), store.clone(), fleet.clone(), inventory.clone());
    let lookup = Lookup {
        image: Box::new(move |reference| grant::find(&images, &key, reference).map_err(|error| chain(&error))),
        images: Box::new(move || names.images().unwrap_or_default()),
        facts: Box::new(move |machine| facts(&known, &inventory, machine)),
        wake: Box::new(wake),
    };
    let sequences = Arc::new(Sequences { fleet: fleet.clone(), lookup, vault });
    match sequences.seal_open_runs() {
        Ok(0) => {}
        Ok(count) => tracing::info!("the secrets of {count} runs of an earlier release are sealed now"),
        Err(error) => tracing::error!("secrets of earlier runs are not sealed: {}", chain(&error)),
    }
    sequences
}

/// Sends a packet for each of the machine's cards into every network of this host.
fn wake(machine: &Machine) {
    let networks = interface::interfaces().into_iter().filter(|interface| interface.up && !interface.loopback);
    let broadcast =
        |interface: &Interface| Ipv4Addr::from_bits(interface.address.to_bits() | !interface.netmask.to_bits());
    let broadcasts: Vec<Ipv4Addr> = networks.map(|interface| broadcast(&interface)).collect();
    for mac in &machine.identity.macs {
        if let Err(error) = wake::send(*mac, &broadcasts) {
            tracing::warn!("{} ({mac}) was not woken: {error}", machine.name);
        }
    }
}

type Deploy = dyn Fn(&MachineId, &str) + Send + Sync;

/// What a rule that lets a machine in calls to deploy to it.
pub(super) fn deployer(sequences: &Arc<Sequences>) -> Box<Deploy> {
    let sequences = sequences.clone();
    Box::new(move |machine, sequence| {
        let rule =
            Principal::Person { name: "rule".into(), role: crate::access::Role::Deployer, limits: Default::default() };
        if let Err(error) = sequences.start_for(machine, sequence, &rule) {
            let why = format!("`{sequence}` was not deployed: {}", chain(&error));
            tracing::warn!("{machine} was let in, but {why}");
            let kept = sequences.fleet.set_notice(machine, &why);
            if let Err(error) = kept {
                tracing::error!("{machine} is not told so: {}", chain(&error));
            }
        }
    })
}

/// Moves deployments on until the appliance stops.
pub(super) async fn keep_moving(sequences: Arc<Sequences>, mut stopped: watch::Receiver<bool>) {
    loop {
        let tick = sequences.clone();
        let moved = tokio::task::spawn_blocking(move || tick.tick()).await;
        if let Ok(Err(error)) = moved {
            tracing::error!("deployments do not move on: {}", chain(&error));
        }
        tokio::select! {
            () = tokio::time::sleep(TICK) => {}
            _ = stopped.wait_for(|stop| *stop) => return,
        }
    }
}

/// What is known of a machine; hardware that was not reported yet is as if it had none.
fn facts(fleet: &Fleet, inventory: &Inventory, machine: &Machine) -> Facts {
    let identity = &machine.identity;
    let hardware = inventory.hardware(&machine.id).ok().flatten().unwrap_or_default().what;
    Facts {
        id: machine.id.0.clone(),
        name: machine.name.clone(),
        mac: identity.macs.first().map(ToString::to_string),
        serial: identity.usable_serial().map(str::to_owned),
        uuid: identity.usable_uuid(),
        manufacturer: identity.manufacturer.clone(),
        model: identity.model.clone(),
        collections: fleet.collections_of(&machine.id).unwrap_or_default(),
        firmware: hardware.firmware.kind.clone(),
        architecture: hardware.architecture.clone(),
        memory_bytes: hardware.memory.total_bytes,
        processors: hardware.processor.threads,
        virtual_machine: hardware.is_virtual(),
        disks: hardware.disks.into_iter().map(Disk::from).collect(),
    }
}
