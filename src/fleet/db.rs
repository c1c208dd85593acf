//! The machines' records and what is done to them.

use std::net::IpAddr;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Row, Transaction};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::directory::Directory;
use super::enrolment::{Known, Policy, Verdict, decide};
use super::identity::{self, Identity};
use super::link::{CheckIn, Stage};
use super::machine::{Machine, MachineId, MachineState, NextBoot};
use super::pairing;
use super::rule::Rule;
use crate::access::{Principal, audit, db as access_db, secret};
use crate::api::Live;
use crate::db::{Db, Migration};
use crate::stdx::hex;
use crate::stdx::hint::Hint;
use crate::stdx::id::fresh;
use crate::stdx::time::{Clock, Timestamp};

pub const MIGRATIONS: &[Migration] = &[
    Migration {
        name: "fleet-1",
        sql: "
        CREATE TABLE machine (
            id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, state TEXT NOT NULL, next_boot TEXT NOT NULL,
            identity TEXT NOT NULL, protected INTEGER NOT NULL DEFAULT 0, waiting_key TEXT, pairing_code TEXT,
            approved_key TEXT, approved_by TEXT, address TEXT, stage TEXT NOT NULL, created_at INTEGER NOT NULL,
            seen_at INTEGER NOT NULL);
        CREATE TABLE collection (name TEXT PRIMARY KEY, note TEXT NOT NULL DEFAULT '', created_at INTEGER NOT NULL);
        CREATE TABLE collection_machine (
            collection TEXT NOT NULL REFERENCES collection(name) ON DELETE CASCADE,
            machine TEXT NOT NULL REFERENCES machine(id) ON DELETE CASCADE, PRIMARY KEY (collection, machine));",
    },
    Migration { name: "fleet-2", sql: "ALTER TABLE machine ADD COLUMN notice TEXT" },
];

/// Machines that nobody has approved, at most: a flood of invented check-ins must not fill the disk.
const WAITING_MAX: i64 = 2000;
/// A machine that waits and was not seen for so long is forgotten.
const WAITING_SECONDS_MAX: i64 = 86_400;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Db(#[from] crate::db::Error),
    #[error("there is no machine `{0}`")]
    NoMachine(String),
    #[error("there is no collection `{0}`")]
    NoCollection(String),
    #[error("there is no room or place `{0}`")]
    NoRoom(String),
    #[error("there is a {kind} `{name}` already")]
    Exists { kind: &'static str, name: String },
    #[error("`{0}` is no name: use letters, digits and hyphens, at most 63 characters")]
    BadName(String),
    #[error("{waiting} machines wait for approval already")]
    TooManyWaiting { waiting: i64 },
    #[error("the hardware fits several records: {}", .0.join(", "))]
    Clash(Vec<String>),
    #[error("read the record of machine `{0}`")]
    Record(String),
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Error {
        Error::Db(error.into())
    }
}

impl Hint for Error {
    fn hint(&self) -> Option<String> {
        match self {
            Error::Db(error) => error.hint(),
            Error::NoMachine(_) => Some("`remint machine list` shows them all".into()),
            Error::NoCollection(_) => Some("`remint collection list` shows them all".into()),
            Error::TooManyWaiting { .. } => {
                Some("approve or reject some: `remint machine list --state waiting`".into())
            }
            Error::Clash(_) => Some("retire the record that is not this machine: `remint machine retire NAME`".into()),
            _ => None,
        }
    }
}

/// All that is done to machines goes through here, so that the directory and the listeners learn of it.
pub struct Fleet {
    pub db: Arc<Db>,
    pub clock: Arc<dyn Clock>,
    pub directory: Arc<Directory>,
    pub live: Live,
    pub rules: Vec<Rule>,
    pub policy: Policy,
}

/// What becomes of a check-in.
#[derive(Clone, Debug)]
pub enum Admission {
    Admitted { machine: Machine, newly: Option<Newcomer> },
    Waiting { machine: Machine, pairing_code: String },
    Rejected { reason: String },
}

/// What the rule that let a machine in wants done with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Newcomer {
    pub deploy: Option<String>,
}

impl Fleet {
    /// Reads all machines into the directory.
    pub fn open(
        db: Arc<Db>,
        clock: Arc<dyn Clock>,
        live: Live,
        rules: Vec<Rule>,
        policy: Policy,
    ) -> Result<Fleet, Error> {
        let fleet = Fleet { db, clock, directory: Arc::default(), live, rules, policy };
        for machine in fleet.machines()? {
            fleet.directory.update(&machine);
        }
        Ok(fleet)
    }

    pub fn machines(&self) -> Result<Vec<Machine>, Error> {
        self.db.read(|c| {
            let mut statement = c.prepare_cached(&format!("SELECT {COLUMNS} FROM machine ORDER BY name"))?;
            let machines: Vec<_> = statement.query_map([], read_machine)?.collect::<Result<_, _>>()?;
            Ok(machines)
        })
    }

    /// By identifier or name.
    pub fn machine(&self, name: &str) -> Result<Machine, Error> {
        self.db.read(|c| find(c, name))
    }

    /// Takes a check-in: recognises the machine, keeps what it says, decides whether it is let in.
    /// `public_key` is that of the request, whose proof of possession was checked.
    pub fn check_in(&self, check_in: &CheckIn, public_key: &[u8], address: Option<IpAddr>) -> Result<Admission, Error> {
        let now = self.clock.now();
        let evidence = check_in.identity.clone().bounded();
        let rule = self.rules.iter().find(|rule| rule.matches(&evidence, address));
        let key = hex::emit(&Sha256::digest(public_key));
        let admission = self.db.write(|tx| {
            let known = recognise(tx, &evidence)?;
            let stored_key: Option<String> = match &known {
                Some(machine) => {
                    tx.query_row("SELECT approved_key FROM machine WHERE id = ?1", [machine.id.as_str()], |row| {
                        row.get(0)
                    })?
                }
                None => None,
            };
            let is_new = known.is_none();
            let verdict = decide(
                known.as_ref().map(|machine| Known { state: machine.state, approved_key: stored_key.as_deref() }),
                &key,
                rule.map(|rule| rule.name.as_str()),
                &self.policy,
            );
            if let Verdict::Reject { reason } = verdict {
                return Ok(Admission::Rejected { reason: reason.to_owned() });
            }
            let id = match known {
                Some(machine) => machine.id,
                None => create(tx, &evidence, rule, now)?,
            };
            note_seen(tx, &id, &evidence, check_in.stage, address, now)?;
            match verdict {
                Verdict::Admit { by } => admit(tx, &id, &key, by.as_deref(), now)?,
                _ => wait(tx, &id, &key, &pairing::code(public_key))?,
            }
            let machine = find(tx, id.as_str())?;
            Ok::<_, Error>(match verdict_code(&machine) {
                Some(pairing_code) => Admission::Waiting { machine, pairing_code },
                None => {
                    let newly = is_new.then(|| Newcomer { deploy: rule.and_then(|rule| rule.deploy.clone()) });
                    Admission::Admitted { machine, newly }
                }
            })
        })?;
        if let Admission::Admitted { machine, .. } | Admission::Waiting { machine, .. } = &admission {
            self.announce(machine);
        }
        Ok(admission)
    }

    /// Lets the key that waits in: a person has compared the codes.
    pub fn approve(&self, name: &str, by: &Principal) -> Result<Machine, Error> {
        let now = self.clock.now();
        self.change(name, |tx, machine| {
            let state = match machine.state {
                MachineState::Deploying | MachineState::Managed => machine.state,
                _ => MachineState::Approved,
            };
            tx.execute(
                "UPDATE machine SET state = ?2, approved_key = COALESCE(waiting_key, approved_key), waiting_key = NULL,
                    pairing_code = NULL, approved_by = ?3 WHERE id = ?1",
                (machine.id.as_str(), state.name(), by.label()),
            )?;
            Ok(audit::append(
                tx,
                now,
                &by.label(),
                "machine-approve",
                &machine.name,
                machine.pairing_code.as_deref().unwrap_or(""),
            )?)
        })
    }

    pub fn reject(&self, name: &str, by: &Principal) -> Result<Machine, Error> {
        self.shut_out(name, by, MachineState::Rejected, "machine-reject")
    }

    /// Ends a machine's membership: its certificates are void from now on, its record stays.
    pub fn retire(&self, name: &str, by: &Principal) -> Result<Machine, Error> {
        self.shut_out(name, by, MachineState::Retired, "machine-retire")
    }

    fn shut_out(&self, name: &str, by: &Principal, state: MachineState, what: &str) -> Result<Machine, Error> {
        let now = self.clock.now();
        self.change(name, |tx, machine| {
            access_db::revoke_certificates(tx, machine.id.as_str(), now)?;
            tx.execute(
                "UPDATE machine SET state = ?2, next_boot = ?3, approved_key = NULL, waiting_key = NULL, pairing_code = NULL
                 WHERE id = ?1",
                (machine.id.as_str(), state.name(), NextBoot::LocalDisk.name()),
            )?;
            Ok(audit::append(tx, now, &by.label(), what, &machine.name, "")?)
        })
    }

    pub fn rename(&self, name: &str, new: &str, by: &Principal) -> Result<Machine, Error> {
        if !is_host_name(new) {
            return Err(Error::BadName(new.to_owned()));
        }
        let now = self.clock.now();
        self.change(name, |tx, machine| {
            if tx
                .query_row("SELECT 1 FROM machine WHERE name = ?1 AND id <> ?2", (new, machine.id.as_str()), |_| Ok(()))
                .optional()?
                .is_some()
            {
                return Err(Error::Exists { kind: "machine", name: new.to_owned() });
            }
            tx.execute("UPDATE machine SET name = ?2 WHERE id = ?1", (machine.id.as_str(), new))?;
            Ok(audit::append(tx, now, &by.label(), "machine-rename", &machine.name, new)?)
        })
    }

    /// Sets or lifts the guard: a protected machine is never erased by a deployment.
    pub fn protect(&self, name: &str, protected: bool, by: &Principal) -> Result<Machine, Error> {
        let now = self.clock.now();
        self.change(name, |tx, machine| {
            tx.execute("UPDATE machine SET protected = ?2 WHERE id = ?1", (machine.id.as_str(), protected))?;
            let what = if protected { "machine-protect" } else { "machine-unprotect" };
            Ok(audit::append(tx, now, &by.label(), what, &machine.name, "")?)
        })
    }

    pub fn set_next_boot(&self, id: &MachineId, next_boot: NextBoot) -> Result<Machine, Error> {
        self.change(id.as_str(), |tx, machine| {
            tx.execute(
                "UPDATE machine SET next_boot = ?2, notice = NULL WHERE id = ?1",
                (machine.id.as_str(), next_boot.name()),
            )?;
            Ok(())
        })
    }

    /// Keeps what a technician should know of the machine, for its screen and its page, until something is deployed to it.
    pub fn set_notice(&self, id: &MachineId, notice: &str) -> Result<Machine, Error> {
        self.change(id.as_str(), |tx, machine| {
            tx.execute("UPDATE machine SET notice = ?2 WHERE id = ?1", (machine.id.as_str(), notice))?;
            Ok(())
        })
    }

    pub fn set_state(&self, id: &MachineId, state: MachineState) -> Result<Machine, Error> {
        self.change(id.as_str(), |tx, machine| {
            tx.execute("UPDATE machine SET state = ?2 WHERE id = ?1", (machine.id.as_str(), state.name()))?;
            Ok(())
        })
    }

    /// Notes that the machine with this certificate spoke.
    pub fn seen(&self, id: &MachineId, stage: Stage, address: Option<IpAddr>) -> Result<Machine, Error> {
        let now = self.clock.now();
        self.change(id.as_str(), |tx, machine| note_place(tx, &machine.id, stage, address, now))
    }

    fn change(
        &self,
        name: &str,
        work: impl FnOnce(&Transaction<'_>, &Machine) -> Result<(), Error>,
    ) -> Result<Machine, Error> {
        let machine = self.db.write(|tx| {
            let machine = find(tx, name)?;
            work(tx, &machine)?;
            find(tx, machine.id.as_str())
        })?;
        self.announce(&machine);
        Ok(machine)
    }

    fn announce(&self, machine: &Machine) {
        self.directory.update(machine);
        self.live.publish("machine", machine.id.as_str(), json!({ "name": machine.name, "state": machine.state }));
    }
}

const COLUMNS: &str = "id, name, state, next_boot, identity, protected, pairing_code, approved_by, address, stage, created_at, seen_at, notice";

fn read_machine(row: &Row<'_>) -> Result<Machine, rusqlite::Error> {
    let text = |at| row.get::<_, String>(at);
    Ok(Machine {
        id: MachineId(text(0)?),
        name: text(1)?,
        state: MachineState::parse(&text(2)?).unwrap_or(MachineState::Waiting),
        next_boot: if text(3)? == NextBoot::LocalDisk.name() { NextBoot::LocalDisk } else { NextBoot::BootEnvironment },
        identity: serde_json::from_str(&text(4)?).unwrap_or_default(),
        protected: row.get(5)?,
        pairing_code: row.get(6)?,
        approved_by: row.get(7)?,
        address: row.get(8)?,
        stage: text(9)?,
        created_at: Timestamp::from_milliseconds(row.get(10)?),
        seen_at: Timestamp::from_milliseconds(row.get(11)?),
        notice: row.get(12)?,
    })
}

fn find(c: &Connection, name: &str) -> Result<Machine, Error> {
    let mut statement = c.prepare_cached(&format!("SELECT {COLUMNS} FROM machine WHERE id = ?1 OR name = ?1"))?;
    let found = statement.query_row([name], read_machine).optional()?;
    found.ok_or_else(|| Error::NoMachine(name.to_owned()))
}

fn recognise(tx: &Transaction<'_>, evidence: &Identity) -> Result<Option<Machine>, Error> {
    let mut statement = tx.prepare_cached(&format!("SELECT {COLUMNS} FROM machine"))?;
    let machines: Vec<Machine> = statement.query_map([], read_machine)?.collect::<Result<_, _>>()?;
    let name = |id: &MachineId| {
        machines.iter().find(|machine| machine.id == *id).map_or_else(|| id.to_string(), |m| m.name.clone())
    };
    match identity::resolve(evidence, machines.iter().map(|machine| (&machine.id, &machine.identity))) {
        identity::Verdict::New => Ok(None),
        identity::Verdict::Clash(ids) => Err(Error::Clash(ids.iter().map(name).collect())),
        identity::Verdict::Same(id) => Ok(machines.into_iter().find(|machine| machine.id == id)),
    }
}

fn create(tx: &Transaction<'_>, evidence: &Identity, rule: Option<&Rule>, now: Timestamp) -> Result<MachineId, Error> {
    tx.execute(
        "DELETE FROM machine WHERE state = 'waiting' AND seen_at < ?1",
        [now.plus_seconds(-WAITING_SECONDS_MAX).milliseconds()],
    )?;
    let waiting: i64 = tx.query_row("SELECT count(*) FROM machine WHERE state = 'waiting'", [], |row| row.get(0))?;
    if rule.is_none() && waiting >= WAITING_MAX {
        return Err(Error::TooManyWaiting { waiting });
    }
    let id = MachineId(fresh("machine", now, secret::random()));
    tx.execute(
        "INSERT INTO machine (id, name, state, next_boot, identity, stage, created_at, seen_at)
         VALUES (?1, ?2, 'waiting', 'boot-environment', ?3, 'boot-environment', ?4, ?4)",
        (id.as_str(), free_name(tx, &id, evidence, rule)?, json!(evidence).to_string(), now.milliseconds()),
    )?;
    for collection in rule.iter().flat_map(|rule| &rule.collections) {
        tx.execute(
            "INSERT INTO collection (name, created_at) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
            (collection, now.milliseconds()),
        )?;
        tx.execute("INSERT INTO collection_machine (collection, machine) VALUES (?1, ?2)", (collection, id.as_str()))?;
    }
    Ok(id)
}

/// The rule's template filled in, or `machine-` and the end of the identifier; with a number when it is taken.
fn free_name(tx: &Transaction<'_>, id: &MachineId, evidence: &Identity, rule: Option<&Rule>) -> Result<String, Error> {
    let context = json!({
        "serial": evidence.usable_serial(), "model": evidence.model, "mac": evidence.macs.first(),
    });
    let filled = rule.and_then(|rule| rule.machine_name.as_deref()).and_then(|template| {
        let mut environment = minijinja::Environment::new();
        environment.set_undefined_behavior(minijinja::UndefinedBehavior::Strict);
        environment.render_str(template, minijinja::value::Serde(&context)).ok()
    });
    let plain = id.as_str();
    let name = filled.map(|name| host_name(&name)).filter(|name| is_host_name(name));
    let name = name.unwrap_or_else(|| format!("machine-{}", &plain[plain.len() - 6..]));
    let taken = |name: &str| tx.query_row("SELECT 1 FROM machine WHERE name = ?1", [name], |_| Ok(())).optional();
    for number in 1.. {
        let candidate = if number == 1 { name.clone() } else { format!("{name}-{number}") };
        if taken(&candidate)?.is_none() {
            return Ok(candidate);
        }
    }
    unreachable!("some number is free")
}

/// RFC 1123 2.1: letters, digits and hyphens, neither first nor last a hyphen, at most 63.
fn is_host_name(name: &str) -> bool {
    let inner = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    inner && !name.is_empty() && name.len() <= 63 && !name.starts_with('-') && !name.ends_with('-')
}

fn host_name(text: &str) -> String {
    let replaced: String =
        text.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    let shortened: String = replaced.trim_matches('-').chars().take(60).collect();
    shortened.trim_end_matches('-').to_owned()
}

fn note_seen(
    tx: &Transaction<'_>,
    id: &MachineId,
    evidence: &Identity,
    stage: Stage,
    address: Option<IpAddr>,
    now: Timestamp,
) -> Result<(), Error> {
    tx.execute("UPDATE machine SET identity = ?2 WHERE id = ?1", (id.as_str(), json!(evidence).to_string()))?;
    note_place(tx, id, stage, address, now)
}

fn note_place(
    tx: &Transaction<'_>,
    id: &MachineId,
    stage: Stage,
    address: Option<IpAddr>,
    now: Timestamp,
) -> Result<(), Error> {
    let stage = json!(stage);
    let address = address.map(|address| address.to_canonical().to_string());
    tx.execute(
        "UPDATE machine SET stage = ?2, address = COALESCE(?3, address), seen_at = ?4 WHERE id = ?1",
        (id.as_str(), stage.as_str().unwrap_or_default(), address, now.milliseconds()),
    )?;
    Ok(())
}

fn admit(tx: &Transaction<'_>, id: &MachineId, key: &str, by: Option<&str>, now: Timestamp) -> Result<(), Error> {
    let Some(by) = by else { return Ok(()) };
    tx.execute(
        "UPDATE machine SET approved_key = ?2, approved_by = ?3, waiting_key = NULL, pairing_code = NULL,
            state = CASE WHEN state = 'waiting' THEN 'approved' ELSE state END WHERE id = ?1",
        (id.as_str(), key, by),
    )?;
    Ok(audit::append(tx, now, by, "machine-approve", id.as_str(), "")?)
}

fn wait(tx: &Transaction<'_>, id: &MachineId, key: &str, code: &str) -> Result<(), Error> {
    tx.execute("UPDATE machine SET waiting_key = ?2, pairing_code = ?3 WHERE id = ?1", (id.as_str(), key, code))?;
    Ok(())
}

/// The code that is shown while the machine waits; none once it is let in.
fn verdict_code(machine: &Machine) -> Option<String> {
    machine.pairing_code.clone()
}
