//! All subjects over one site, and the one table of their routes.

use std::path::Path;
use std::sync::Arc;

use super::audit_head;
use super::health::{self, Parts};
use super::metrics::{self, Observed};
use super::sequences;
use super::site::Site;
use super::support::{self, Sources};
use crate::access::db::Gate;
use crate::api::people::{self, PeopleState};
use crate::api::{Live, Table, live};
use crate::console::settings::{self, SettingsPages};
use crate::console::{assets, audit, door};
use crate::fleet;
use crate::fleet::MachineId;
use crate::fleet::api::{FleetState, Hooks};
use crate::fleet::console::FleetPages;
use crate::fleet::db::Fleet;
use crate::fleet::enrolment::Policy;
use crate::fleet::link::{CheckIn, Stage};
use crate::imaging;
use crate::imaging::api::Images;
use crate::inventory;
use crate::inventory::api::InventoryState;
use crate::inventory::db::Inventory;
use crate::inventory::names::Names;
use crate::link::client::authority_fingerprint;
use crate::pxe;
use crate::pxe::recorder::Recorder;
use crate::software;
use crate::software::api::SoftwareState;
use crate::software::console::SoftwarePages;
use crate::software::db::SoftwareStore;
use crate::stdx::hint::{Hint, chain};
use crate::tasksequence;
use crate::tasksequence::capture::api::Captures;
use crate::tasksequence::db::Sequences;

/// Where Debian (pci.ids, usb.ids) and Fedora (hwdata) have the names of devices.
const DEVICE_NAMES: [&str; 2] = ["/usr/share/misc", "/usr/share/hwdata"];

/// The subjects of a running site.
pub struct Assembly {
    pub fleet: Arc<Fleet>,
    pub sequences: Arc<Sequences>,
    pub recorder: Arc<Recorder>,
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
    let inventory = Arc::new(Inventory {
        db: site.db.clone(),
        clock: site.clock.clone(),
        names: Names::open(&DEVICE_NAMES.map(Path::new)),
    });
    let sequences = sequences::open(&fleet, &inventory, &site.store, site.signing.public(), site.vault.clone());
    let software = Arc::new(SoftwareStore { db: site.db.clone(), clock: site.clock.clone() });
    let recorder = Arc::new(Recorder::new(site.clock.clone()));
    let hooks = Hooks {
        checked_in: record_arrival(&recorder),
        hardware: keep_hardware(&inventory),
        deploy: sequences::deployer(&sequences),
    };
    let fleet_state = FleetState {
        fleet: fleet.clone(),
        authority: site.authority.clone(),
        site_key: site.signing.public(),
        machine_certificate_seconds,
        hooks: Arc::new(hooks),
    };
    let pages =
        FleetPages { fleet: fleet.clone(), hooks: Arc::new(page_hooks(&sequences, &inventory, &software, &recorder)) };
    let settings = SettingsPages { gate: gate.clone(), about: Arc::new(about(site)) };
    let mirrors = site.written.delivery.mirrors.iter().map(|mirror| mirror.0.clone()).collect();
    let images = Images::new(site.store.clone(), site.signing.public(), mirrors);
    let table = Table::default()
        .merge(people::routes(PeopleState {
            gate: gate.clone(),
            authority: site.authority.clone(),
            audit_anchor: Some(audit_anchor(site)),
        }))
        .merge(fleet::api::routes(fleet_state))
        .merge(fleet::room::api::routes(fleet.clone()))
        .merge(imaging::console::routes(images.clone()))
        .merge(imaging::api::routes(images.clone()))
        .merge(tasksequence::api::routes(sequences.clone()))
        .merge(tasksequence::capture::api::routes(Arc::new(Captures::new(
            sequences.clone(),
            site.store.clone(),
            site.signing.clone(),
        ))))
        .merge(tasksequence::variable::api::routes(sequences.clone()))
        .merge(tasksequence::console::routes(sequences.clone()))
        .merge(inventory::console::routes(inventory.clone()))
        .merge(inventory::api::routes(InventoryState { inventory, fleet: fleet.clone() }))
        .merge(software::console::routes(SoftwarePages { software: software.clone(), fleet: fleet.clone() }))
        .merge(software::api::routes(SoftwareState { software, fleet: fleet.clone() }))
        .merge(live::routes(live.clone()))
        .merge(watching(site, &fleet, &sequences, &recorder, &images))
        .merge(assets::routes())
        .merge(door::routes(gate.clone()))
        .merge(audit::routes(gate.clone()))
        .merge(settings::routes(settings))
        .merge(pxe::console::routes(recorder.clone()))
        .merge(fleet::console::routes(pages));
    Ok(Assembly { fleet, sequences, recorder, live, gate, table })
}

/// What tells those who watch over the appliance how it is.
fn watching(
    site: &Site,
    fleet: &Arc<Fleet>,
    sequences: &Arc<Sequences>,
    recorder: &Arc<Recorder>,
    images: &Images,
) -> Table {
    let observed = Arc::new(Observed {
        fleet: fleet.clone(),
        sequences: sequences.clone(),
        store: site.store.clone(),
        folder: site.folder.clone(),
    });
    let parts = Parts { db: site.db.clone(), store: site.store.clone(), folder: site.folder.clone() };
    let sources = Sources {
        folder: site.folder.clone(),
        clock: site.clock.clone(),
        fleet: fleet.clone(),
        sequences: sequences.clone(),
        recorder: recorder.clone(),
        images: images.clone(),
        observed: observed.clone(),
    };
    health::routes(parts).merge(metrics::routes(observed)).merge(support::routes(sources))
}

/// What the subjects show on the pages of machines, the overview and the reports, in this order.
fn page_hooks(
    sequences: &Arc<Sequences>,
    inventory: &Arc<Inventory>,
    software: &Arc<SoftwareStore>,
    recorder: &Arc<Recorder>,
) -> fleet::console::Hooks {
    let (runs, doing, under_way, run_reports) =
        (sequences.clone(), sequences.clone(), sequences.clone(), sequences.clone());
    let (stock, hardware, stock_reports) = (inventory.clone(), inventory.clone(), inventory.clone());
    let (standing, standing_reports) = (software.clone(), software.clone());
    let boots = recorder.clone();
    fleet::console::Hooks {
        sections: vec![
            Box::new(move |machine, who| tasksequence::console::machine_section(&runs, machine, who)),
            Box::new(move |machine, _| pxe::console::machine_section(&boots, machine)),
            Box::new(move |machine, _| software::console::machine_section(&standing, machine)),
            Box::new(move |machine, _| inventory::console::machine_section(&stock, machine)),
        ],
        doing: Box::new(move || tasksequence::console::doing(&doing)),
        hardware: Box::new(move || inventory::console::hardware_lines(&hardware)),
        overview: vec![Box::new(move || tasksequence::deployment::console::overview(&under_way))],
        reports: vec![
            Box::new(move || tasksequence::console::reports(&run_reports)),
            Box::new(move || software::console::reports(&standing_reports)),
            Box::new(move || inventory::console::reports(&stock_reports)),
        ],
    }
}

/// What the page of settings says of the site.
fn about(site: &Site) -> Vec<(&'static str, String)> {
    let fingerprint = authority_fingerprint(site.authority.certificate_pem()).unwrap_or_default();
    vec![
        ("Folder", site.folder.display().to_string()),
        ("Version", env!("CARGO_PKG_VERSION").to_owned()),
        ("SHA-256 of the authority", fingerprint),
        ("Key that signs images", site.signing.public().to_string()),
        ("Certificates of machines end after", format!("{} days", site.written.enrolment.certificate_days)),
        ("Rules that let machines in", site.written.enrolment.rule.len().to_string()),
    ]
}

fn ask_inventory(site: &Site) -> Box<fleet::collection::Ask> {
    let db = site.db.clone();
    Box::new(move |sql| inventory::query::first_column(&db, sql).map_err(|error| chain(&error)))
}

fn audit_anchor(site: &Site) -> Arc<people::AuditAnchor> {
    let (path, key) = (site.folder.join("audit.head"), site.signing.public());
    Arc::new(move || audit_head::read(&path, &key))
}

/// That a machine's boot environment speaks is the end of its boot.
fn record_arrival(recorder: &Arc<Recorder>) -> Box<dyn Fn(&CheckIn) + Send + Sync> {
    let recorder = recorder.clone();
    Box::new(move |check_in| {
        if check_in.stage == Stage::BootEnvironment {
            let arrived_by = check_in.arrived_by.iter();
            let macs: Vec<_> = check_in.identity.macs.iter().chain(arrived_by).copied().collect();
            if let Some(trial) = &check_in.trial {
                recorder.tested(&macs, trial);
            }
            recorder.checked_in(&macs);
        }
    })
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
