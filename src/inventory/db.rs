//! Inventory as it is stored: what each machine has now, and what changed when.

use std::sync::Arc;

use rusqlite::{OptionalExtension, Transaction};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::difference::{self, Change};
use super::link::ReportInventory;
use super::model::{DEVICES_MAX, Hardware, Os, PACKAGES_MAX, Package, Software, bounded};
use super::names::Names;
use crate::db::{Db, Error, Migration};
use crate::fleet::MachineId;
use crate::stdx::time::{Clock, Timestamp};

pub const MIGRATIONS: &[Migration] = &[
    Migration {
        name: "inventory-1",
        sql: "
        CREATE TABLE inventory (
            machine TEXT PRIMARY KEY REFERENCES machine(id) ON DELETE CASCADE, hardware TEXT, hardware_at INTEGER,
            os TEXT, software_at INTEGER);
        CREATE TABLE inventory_package (
            machine TEXT NOT NULL REFERENCES machine(id) ON DELETE CASCADE, manager TEXT NOT NULL, name TEXT NOT NULL,
            architecture TEXT NOT NULL, version TEXT NOT NULL,
            PRIMARY KEY (machine, manager, name, architecture, version)) WITHOUT ROWID;
        CREATE INDEX inventory_package_name ON inventory_package (name, version);
        CREATE TABLE inventory_change (
            id INTEGER PRIMARY KEY, machine TEXT NOT NULL REFERENCES machine(id) ON DELETE CASCADE,
            at INTEGER NOT NULL, subject TEXT NOT NULL, name TEXT NOT NULL, before TEXT, after TEXT);
        CREATE INDEX inventory_change_machine ON inventory_change (machine, at);",
    },
    Migration { name: "inventory-2", sql: "ALTER TABLE inventory ADD COLUMN running TEXT" },
];

/// Changes of one machine that are kept; older ones are forgotten first. A distribution upgrade makes some 2,000.
const CHANGES_KEPT_MAX: i64 = 20_000;

pub struct Inventory {
    pub db: Arc<Db>,
    pub clock: Arc<dyn Clock>,
    /// Of PCI and USB devices.
    pub names: Names,
}

/// A change with its time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dated {
    pub at: Timestamp,
    #[serde(flatten)]
    pub change: Change,
}

/// What the appliance has of a machine, and since when.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Kept<T> {
    pub at: Timestamp,
    pub what: T,
}

impl Inventory {
    /// Takes a report in. Times are the appliance's: a machine's clock may be years off.
    pub fn record(&self, machine: &MachineId, report: &ReportInventory) -> Result<(), Error> {
        let now = self.clock.now();
        self.db.write(|tx| {
            if let Some(hardware) = &report.hardware {
                let mut hardware: Hardware = bounded(hardware, DEVICES_MAX);
                self.names.fill(&mut hardware);
                record_hardware(tx, machine, &hardware, now)?;
            }
            if let Some(software) = &report.software {
                record_software(tx, machine, &bounded(software, PACKAGES_MAX), now)?;
            }
            Ok(())
        })
    }

    /// What a check-in brought; what is no hardware is none.
    pub fn record_check_in(&self, machine: &MachineId, hardware: &Value) -> Result<(), Error> {
        let hardware = serde_json::from_value(hardware.clone()).ok();
        self.record(machine, &ReportInventory { hardware, ..ReportInventory::default() })
    }

    pub fn hardware(&self, machine: &MachineId) -> Result<Option<Kept<Hardware>>, Error> {
        self.db.read(|c| {
            let row = c
                .prepare_cached(
                    "SELECT hardware, hardware_at FROM inventory WHERE machine = ?1 AND hardware IS NOT NULL",
                )?
                .query_row([machine.as_str()], |row| Ok((row.get::<_, String>(0)?, row.get(1)?)))
                .optional()?;
            Ok(row.map(|(text, at)| Kept {
                at: Timestamp::from_milliseconds(at),
                what: serde_json::from_str(&text).unwrap_or_default(),
            }))
        })
    }

    pub fn software(&self, machine: &MachineId) -> Result<Option<Kept<Software>>, Error> {
        self.db.read(|c| {
            let known = os_of(c, machine)?;
            let Some((os, at)) = known else { return Ok(None) };
            Ok(Some(Kept { at, what: software_of(c, machine, os)? }))
        })
    }

    /// The latest changes, newest first, since `since`.
    pub fn changes(&self, machine: &MachineId, since: Timestamp, limit: u32) -> Result<Vec<Dated>, Error> {
        self.db.read(|c| {
            let mut statement = c.prepare_cached(
                "SELECT at, subject, name, before, after FROM inventory_change WHERE machine = ?1 AND at >= ?2
                 ORDER BY at DESC, id DESC LIMIT ?3",
            )?;
            let rows = statement.query_map((machine.as_str(), since.milliseconds(), limit), |row| {
                Ok(Dated {
                    at: Timestamp::from_milliseconds(row.get(0)?),
                    change: Change { subject: row.get(1)?, name: row.get(2)?, before: row.get(3)?, after: row.get(4)? },
                })
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }
}

fn record_hardware(tx: &Transaction<'_>, machine: &MachineId, now_has: &Hardware, now: Timestamp) -> Result<(), Error> {
    let before: Option<Option<String>> = tx
        .prepare_cached("SELECT hardware FROM inventory WHERE machine = ?1")?
        .query_row([machine.as_str()], |row| row.get(0))
        .optional()?;
    if let Some(before) = before.flatten().and_then(|text| serde_json::from_str(&text).ok()) {
        record_changes(tx, machine, &difference::hardware(&before, now_has), now)?;
    }
    tx.prepare_cached(
        "INSERT INTO inventory (machine, hardware, hardware_at) VALUES (?1, ?2, ?3)
         ON CONFLICT (machine) DO UPDATE SET hardware = excluded.hardware, hardware_at = excluded.hardware_at",
    )?
    .execute((machine.as_str(), json!(now_has).to_string(), now.milliseconds()))?;
    Ok(())
}

fn record_software(tx: &Transaction<'_>, machine: &MachineId, now_has: &Software, now: Timestamp) -> Result<(), Error> {
    let known = os_of(tx, machine)?;
    let before = software_of(tx, machine, known.clone().unwrap_or_default().0)?;
    if known.is_some() {
        record_changes(tx, machine, &difference::software(&before, now_has), now)?;
    }
    tx.prepare_cached(
        "INSERT INTO inventory (machine, os, running, software_at) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (machine) DO UPDATE
            SET os = excluded.os, running = excluded.running, software_at = excluded.software_at",
    )?
    .execute((machine.as_str(), json!(now_has.os).to_string(), running_text(now_has), now.milliseconds()))?;
    let mut remove = tx.prepare_cached(
        "DELETE FROM inventory_package
         WHERE machine = ?1 AND manager = ?2 AND name = ?3 AND architecture = ?4 AND version = ?5",
    )?;
    let mut add = tx.prepare_cached(
        "INSERT INTO inventory_package (machine, manager, name, architecture, version) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT DO NOTHING",
    )?;
    let mut sorted = now_has.packages.clone();
    sorted.sort();
    let row = |package: &Package| {
        let Package { manager, name, architecture, version } = package.clone();
        (machine.as_str().to_owned(), manager, name, architecture, version)
    };
    for package in before.packages.iter().filter(|package| sorted.binary_search(package).is_err()) {
        remove.execute(row(package))?;
    }
    for package in sorted.iter().filter(|package| before.packages.binary_search(package).is_err()) {
        add.execute(row(package))?;
    }
    Ok(())
}

fn record_changes(tx: &Transaction<'_>, machine: &MachineId, changes: &[Change], now: Timestamp) -> Result<(), Error> {
    if changes.is_empty() {
        return Ok(());
    }
    let mut add = tx.prepare_cached(
        "INSERT INTO inventory_change (machine, at, subject, name, before, after) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?;
    for change in changes {
        add.execute((
            machine.as_str(),
            now.milliseconds(),
            &change.subject,
            &change.name,
            &change.before,
            &change.after,
        ))?;
    }
    tx.prepare_cached(
        "DELETE FROM inventory_change WHERE machine = ?1 AND id <= (
            SELECT id FROM inventory_change WHERE machine = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)",
    )?
    .execute((machine.as_str(), CHANGES_KEPT_MAX))?;
    Ok(())
}

fn os_of(c: &rusqlite::Connection, machine: &MachineId) -> Result<Option<(Os, Timestamp)>, Error> {
    let row = c
        .prepare_cached("SELECT os, software_at FROM inventory WHERE machine = ?1 AND os IS NOT NULL")?
        .query_row([machine.as_str()], |row| Ok((row.get::<_, String>(0)?, row.get(1)?)))
        .optional()?;
    Ok(row.map(|(text, at)| (serde_json::from_str(&text).unwrap_or_default(), Timestamp::from_milliseconds(at))))
}

/// What runs and who may use it, in one text: it is shown and asked through views, and never looked up by machine alone.
fn running_text(software: &Software) -> String {
    json!({ "services": software.services, "ports": software.ports, "accounts": software.accounts }).to_string()
}

fn software_of(c: &rusqlite::Connection, machine: &MachineId, os: Os) -> Result<Software, Error> {
    let text: Option<String> = c
        .prepare_cached("SELECT running FROM inventory WHERE machine = ?1")?
        .query_row([machine.as_str()], |row| row.get(0))
        .optional()?
        .flatten();
    let running: Software = text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
    Ok(Software { os, packages: packages_of(c, machine)?, ..running })
}

/// Sorted, as `Package` sorts.
fn packages_of(c: &rusqlite::Connection, machine: &MachineId) -> Result<Vec<Package>, Error> {
    let mut statement = c.prepare_cached(
        "SELECT manager, name, version, architecture FROM inventory_package WHERE machine = ?1
         ORDER BY manager, name, version, architecture",
    )?;
    let rows = statement.query_map([machine.as_str()], |row| {
        Ok(Package { manager: row.get(0)?, name: row.get(1)?, version: row.get(2)?, architecture: row.get(3)? })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stdx::time::ManualClock;

    fn inventory(folder: &tempfile::TempDir) -> (Inventory, MachineId) {
        let tables = &[crate::access::db::MIGRATIONS, crate::fleet::db::MIGRATIONS, MIGRATIONS];
        let db = Arc::new(Db::open(&folder.path().join("db"), tables, Timestamp::default()).unwrap());
        db.write::<_, Error>(|tx| {
            Ok(tx.execute(
                "INSERT INTO machine (id, name, state, next_boot, identity, stage, created_at, seen_at)
                 VALUES ('m', 'one', 'managed', 'local-disk', '{}', 'installed-system', 0, 0)",
                [],
            )?)
        })
        .unwrap();
        let clock = Arc::new(ManualClock::at(Timestamp::from_milliseconds(1000)));
        (Inventory { db, clock, names: Names::default() }, MachineId::from("m"))
    }

    fn software(packages: &[(&str, &str)]) -> ReportInventory {
        let package = |(name, version): &(&str, &str)| Package {
            manager: "deb".into(),
            name: (*name).into(),
            version: (*version).into(),
            architecture: "all".into(),
        };
        let software = Software { packages: packages.iter().map(package).collect(), ..Software::default() };
        ReportInventory { software: Some(software), ..ReportInventory::default() }
    }

    #[test]
    fn the_latest_report_counts_and_what_changed_is_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let (inventory, machine) = inventory(&folder);
        assert!(inventory.software(&machine).unwrap().is_none());
        inventory.record(&machine, &software(&[("a", "1"), ("b", "1")])).unwrap();
        assert!(
            inventory.changes(&machine, Timestamp::default(), 10).unwrap().is_empty(),
            "the first look is no change"
        );
        inventory.record(&machine, &software(&[("c", "1"), ("b", "2")])).unwrap();
        inventory.record(&machine, &software(&[("b", "2"), ("c", "1")])).unwrap();
        let names: Vec<String> =
            inventory.software(&machine).unwrap().unwrap().what.packages.into_iter().map(|p| p.name).collect();
        assert_eq!(names, ["b", "c"]);
        let changes = inventory.changes(&machine, Timestamp::default(), 10).unwrap();
        assert_eq!(changes.len(), 3);
        assert!(changes.iter().any(|c| c.change.name == "b:all" && c.change.after.as_deref() == Some("2")));
        assert!(inventory.changes(&machine, Timestamp::from_milliseconds(1001), 10).unwrap().is_empty());
    }

    #[test]
    fn services_ports_and_accounts_are_kept_and_their_changes_remembered() {
        use crate::inventory::model::{Account, Port, Service};
        let folder = tempfile::tempdir().unwrap();
        let (inventory, machine) = inventory(&folder);
        let service = |enabled| Service { name: "ssh.service".into(), enabled, running: true };
        let port = Port { protocol: "tcp".into(), address: "0.0.0.0".into(), port: 22, program: Some("sshd".into()) };
        let account = Account { name: "ops".into(), uid: 1000, shell: "/bin/sh".into(), groups: vec!["adm".into()] };
        let report = |services: Vec<Service>, ports: Vec<Port>| {
            let software = Software { services, ports, accounts: vec![account.clone()], ..Software::default() };
            ReportInventory { software: Some(software), ..ReportInventory::default() }
        };
        inventory.record(&machine, &report(vec![service(true)], Vec::new())).unwrap();
        inventory.record(&machine, &report(vec![service(false)], vec![port.clone()])).unwrap();
        let kept = inventory.software(&machine).unwrap().unwrap().what;
        assert_eq!((kept.services, kept.ports, kept.accounts), (vec![service(false)], vec![port], vec![account]));
        let changes = inventory.changes(&machine, Timestamp::default(), 10).unwrap();
        let mut subjects: Vec<&str> = changes.iter().map(|dated| dated.change.subject.as_str()).collect();
        subjects.sort_unstable();
        assert_eq!(subjects, ["port", "service"]);
    }

    #[test]
    fn a_check_in_with_nonsense_for_hardware_is_taken_without_it() {
        let folder = tempfile::tempdir().unwrap();
        let (inventory, machine) = inventory(&folder);
        inventory.record_check_in(&machine, &json!({"system": {"serial": [1, 2]}})).unwrap();
        assert!(inventory.hardware(&machine).unwrap().is_none());
        inventory.record_check_in(&machine, &json!({"system": {"serial": "S1\u{0}"}})).unwrap();
        assert_eq!(inventory.hardware(&machine).unwrap().unwrap().what.system.serial.as_deref(), Some("S1"));
    }
}
