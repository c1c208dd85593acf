//! Task sequences in this process: where their images and facts come from, and what moves their deployments on.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::access::Principal;
use crate::access::signing::PublicKey;
use crate::fleet::db::Fleet;
use crate::fleet::machine::{Machine, MachineId};
use crate::imaging::store::local::LocalStore;
use crate::stdx::hint::chain;
use crate::tasksequence::db::{Lookup, Sequences};
use crate::tasksequence::facts::Facts;
use crate::tasksequence::grant;

/// How often deployments that wait for a time or a deadline are looked at.
const TICK: Duration = Duration::from_secs(5);

pub(super) fn open(fleet: &Arc<Fleet>, store: &Arc<LocalStore>, key: PublicKey) -> Arc<Sequences> {
    let (images, names, known) = (store.clone(), store.clone(), fleet.clone());
    let lookup = Lookup {
        image: Box::new(move |reference| grant::find(&images, &key, reference).map_err(|error| chain(&error))),
        images: Box::new(move || names.images().unwrap_or_default()),
        facts: Box::new(move |machine| facts(&known, machine)),
        wake: Box::new(|_| ()),
    };
    Arc::new(Sequences { fleet: fleet.clone(), lookup })
}

type Deploy = dyn Fn(&MachineId, &str) + Send + Sync;

/// What a rule that lets a machine in calls to deploy to it.
pub(super) fn deployer(sequences: &Arc<Sequences>) -> Box<Deploy> {
    let sequences = sequences.clone();
    Box::new(move |machine, sequence| {
        let rule = Principal::Person { name: "rule".into(), role: crate::access::Role::Deployer };
        if let Err(error) = sequences.start_for(machine, sequence, &rule) {
            tracing::warn!("{machine} was let in, but `{sequence}` was not deployed to it: {}", chain(&error));
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

fn facts(fleet: &Fleet, machine: &Machine) -> Facts {
    let identity = &machine.identity;
    Facts {
        id: machine.id.0.clone(),
        name: machine.name.clone(),
        mac: identity.macs.first().map(ToString::to_string),
        serial: identity.usable_serial().map(str::to_owned),
        uuid: identity.usable_uuid(),
        manufacturer: identity.manufacturer.clone(),
        model: identity.model.clone(),
        collections: fleet.collections_of(&machine.id).unwrap_or_default(),
        ..Facts::default()
    }
}
