//! All subjects over one site, and the one table of their routes.

use std::sync::Arc;

use super::audit_head;
use super::sequences;
use super::site::Site;
use crate::access::db::Gate;
use crate::api::people::{self, PeopleState};
use crate::api::{Live, Table, live};
use crate::console::{assets, door};
use crate::fleet;
use crate::fleet::MachineId;
use crate::fleet::api::{FleetState, Hooks};
use crate::fleet::console::{Activity, FleetPages, Section};
use crate::fleet::db::Fleet;
use crate::fleet::enrolment::Policy;
use crate::imaging;
use crate::imaging::api::Images;
use crate::inventory;
use crate::inventory::api::InventoryState;
use crate::inventory::db::Inventory;
use crate::software;
use crate::software::api::SoftwareState;
use crate::software::console::SoftwarePages;
use crate::software::db::SoftwareStore;
use crate::stdx::hint::{Hint, chain};
use crate::tasksequence;
use crate::tasksequence::db::Sequences;

/// The subjects of a running site.
pub struct Assembly {
    pub fleet: Arc<Fleet>,
    pub sequences: Arc<Sequences>,
    pub live: Live,
    pub gate: Arc<Gate>,
    pub table: Table,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Fleet(#[from] fleet::db::Error),
}

impl Hint for Error {
    fn hint(&self) -> Option<String> {
        match self {
            Error::Fleet(error) => error.hint(),
        }
    }
}

/// Opens every subject and merges their routes.
pub fn assemble(site: &Site) -> Result<Assembly, Error> {
    let live = Live::default();
    let enrolment = site.written.enrolment.clone();
    let machine_certificate_seconds = enrolment.certificate_seconds();
    let policy = Policy { continue_runs: enrolment.continue_runs };
    let fleet = Arc::new(Fleet::open(site.db.clone(), site.clock.clone(), live.clone(), enrolment.rule, policy)?);
    let gate = Arc::new(Gate::new(site.db.clone(), site.clock.clone()));
    let reached = fleet.clone();
    gate.reach_by(Box::new(move |machine, collections| reached.is_within(machine, collections).unwrap_or(false)));
    fleet.ask_with(ask_inventory(site));
    let inventory = Arc::new(Inventory { db: site.db.clone(), clock: site.clock.clone() });
    let sequences = sequences::open(&fleet, &inventory, &site.store, site.signing.public());
    let software = Arc::new(SoftwareStore { db: site.db.clone(), clock: site.clock.clone() });
    let hooks = Hooks { hardware: keep_hardware(&inventory), deploy: sequences::deployer(&sequences) };
    let fleet_state = FleetState {
        fleet: fleet.clone(),
        authority: site.authority.clone(),
        site_key: site.signing.public(),
        machine_certificate_seconds,
        hooks: Arc::new(hooks),
    };
    let pages = FleetPages {
        fleet: fleet.clone(),
        sections: Arc::new(sections(&sequences, &inventory, &software)),
        activity: activity(&sequences),
    };
    let images = Images::new(site.store.clone(), site.signing.public());
    let table = Table::default()
        .merge(people::routes(PeopleState {
            gate: gate.clone(),
            authority: site.authority.clone(),
            audit_anchor: Some(audit_anchor(site)),
        }))
        .merge(fleet::api::routes(fleet_state))
        .merge(imaging::console::routes(images.clone()))
        .merge(imaging::api::routes(images))
        .merge(tasksequence::api::routes(sequences.clone()))
        .merge(tasksequence::console::routes(sequences.clone()))
        .merge(inventory::api::routes(InventoryState { inventory, fleet: fleet.clone() }))
        .merge(software::console::routes(SoftwarePages { software: software.clone(), fleet: fleet.clone() }))
        .merge(software::api::routes(SoftwareState { software, fleet: fleet.clone() }))
        .merge(live::routes(live.clone()))
        .merge(assets::routes())
        .merge(door::routes(gate.clone()))
        .merge(fleet::console::routes(pages));
    Ok(Assembly { fleet, sequences, live, gate, table })
}

/// What the subjects show on a machine's page, in this order.
fn sections(
    sequences: &Arc<Sequences>,
    inventory: &Arc<Inventory>,
    software: &Arc<SoftwareStore>,
) -> Vec<Box<Section>> {
    let (runs, inventory, software) = (sequences.clone(), inventory.clone(), software.clone());
    vec![
        Box::new(move |machine| tasksequence::console::machine_section(&runs, machine)),
        Box::new(move |machine| software::console::machine_section(&software, machine)),
        Box::new(move |machine| inventory::console::machine_section(&inventory, machine)),
    ]
}

fn activity(sequences: &Arc<Sequences>) -> Arc<Activity> {
    let sequences = sequences.clone();
    Arc::new(move |machine| tasksequence::console::activity(&sequences, machine))
}

fn ask_inventory(site: &Site) -> Box<fleet::collection::Ask> {
    let db = site.db.clone();
    Box::new(move |sql| inventory::query::first_column(&db, sql).map_err(|error| chain(&error)))
}

fn audit_anchor(site: &Site) -> Arc<people::AuditAnchor> {
    let (path, key) = (site.folder.join("audit.head"), site.signing.public());
    Arc::new(move || audit_head::read(&path, &key))
}

type KeepHardware = dyn Fn(&MachineId, &serde_json::Value) + Send + Sync;

/// What a check-in says of the hardware is kept; that it could not be is no reason to turn the machine away.
fn keep_hardware(inventory: &Arc<Inventory>) -> Box<KeepHardware> {
    let inventory = inventory.clone();
    Box::new(move |machine, hardware| {
        if let Err(error) = inventory.record_check_in(machine, hardware) {
            tracing::warn!(machine = machine.as_str(), "the hardware was not kept: {error}");
        }
    })
}
