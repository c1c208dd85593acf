//! The machines' records and what is done to them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rusqlite::{Connection, OptionalExtension, Row, Transaction};
use serde_json::json;

use super::collection::Ask;
use super::directory::Directory;
use super::enrolment::Policy;
use super::identity::{Piece, db as evidence};
use super::link::Stage;
use super::machine::{Machine, MachineId, MachineState, NextBoot};
use super::rule::Rule;
use crate::access::{Principal, audit, db as access_db};
use crate::api::Live;
use crate::db::{Db, Migration};
use crate::stdx::hint::Hint;
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
    Migration {
        name: "fleet-3",
        sql: "
        ALTER TABLE machine ADD COLUMN question TEXT;
        CREATE INDEX machine_approved_key ON machine(approved_key);
        CREATE INDEX machine_waiting_key ON machine(waiting_key);
        CREATE TABLE machine_evidence (
            kind TEXT NOT NULL, value TEXT NOT NULL, machine TEXT NOT NULL REFERENCES machine(id) ON DELETE CASCADE,
            PRIMARY KEY (kind, value, machine)) WITHOUT ROWID;
        CREATE INDEX machine_evidence_machine ON machine_evidence(machine);
        INSERT INTO machine_evidence SELECT 'uuid', lower(identity ->> '$.uuid'), id FROM machine
            WHERE identity ->> '$.uuid' IS NOT NULL;
        INSERT INTO machine_evidence SELECT 'system-serial', lower(identity ->> '$.system_serial'), id FROM machine
            WHERE identity ->> '$.system_serial' IS NOT NULL;
        INSERT INTO machine_evidence SELECT 'board-serial', lower(identity ->> '$.board_serial'), id FROM machine
            WHERE identity ->> '$.board_serial' IS NOT NULL;
        INSERT INTO machine_evidence SELECT DISTINCT 'disk', lower(d.value), machine.id
            FROM machine, json_each(identity, '$.disk_serials') d;
        INSERT INTO machine_evidence SELECT DISTINCT 'mac', d.value, machine.id FROM machine, json_each(identity, '$.macs') d;
        CREATE TABLE shared_evidence (
            kind TEXT NOT NULL, value TEXT NOT NULL, how TEXT NOT NULL, learnt_at INTEGER NOT NULL,
            PRIMARY KEY (kind, value));
        CREATE TABLE sighting (
            number INTEGER PRIMARY KEY, machine TEXT NOT NULL REFERENCES machine(id) ON DELETE CASCADE,
            digest TEXT NOT NULL, identity TEXT NOT NULL, address TEXT, first_at INTEGER NOT NULL,
            last_at INTEGER NOT NULL, UNIQUE (machine, digest));
        CREATE TABLE stopped_key (key TEXT PRIMARY KEY, machine TEXT NOT NULL, stopped_at INTEGER NOT NULL);
        CREATE TABLE enrolment_code (
            hash TEXT PRIMARY KEY, terms TEXT NOT NULL, uses_left INTEGER NOT NULL, expires_at INTEGER NOT NULL);
        CREATE TABLE expected_machine (
            id INTEGER PRIMARY KEY, serial TEXT UNIQUE, tpm_key TEXT UNIQUE, document TEXT NOT NULL,
            added_at INTEGER NOT NULL);",
    },
    super::collection::db::QUERIES,
    Migration { name: "fleet-5", sql: "ALTER TABLE machine ADD COLUMN expected_until INTEGER" },
];

/// One of a minute's life is renewed a thousand times a day.
const CERTIFICATES_SHOWN_MAX: u32 = 50;
/// How long a machine may take from its installed system into the boot environment: shutting down, firmware, network boot.
const RETURN_SECONDS_MAX: i64 = 1800;

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
    #[error("`{machine}` may be {}: a person must say so first", .candidates.join(" or "))]
    Question { machine: String, candidates: Vec<String> },
    #[error("`{0}` has no open question")]
    NoQuestion(String),
    #[error("`{machine}` has no sighting {number}")]
    NoSighting { machine: String, number: i64 },
    #[error("the certificate of `{0}` was stopped: it was used from two machines")]
    Stopped(String),
    #[error("a machine cannot be merged with itself")]
    Itself,
    #[error("{0}")]
    Terms(String),
    #[error("{machine} is out of reach: your rights end at {collections}")]
    OutOfReach { machine: String, collections: String },
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
            Error::Question { machine, candidates } => Some(format!(
                "`remint machine resolve {machine} --same-as {}`, or `remint machine resolve {machine} --new`",
                candidates.first().map_or("NAME", String::as_str)
            )),
            Error::NoSighting { machine, .. } => Some(format!("`remint machine show {machine}` lists them")),
            _ => None,
        }
    }
}

/// That a machine spoke is written down this often at most; ten thousand of them ask for a run every minute.
const SEEN_AGAIN_MILLISECONDS: u64 = 30_000;

/// All that is done to machines goes through here, so that the directory and the listeners learn of it.
pub struct Fleet {
    pub db: Arc<Db>,
    pub clock: Arc<dyn Clock>,
    pub directory: Arc<Directory>,
    pub live: Live,
    pub rules: Vec<Rule>,
    pub policy: Policy,
    pub(super) ask: OnceLock<Box<Ask>>,
    pub(super) inventory_changed: AtomicBool,
    /// Machines that spoke and had nothing new to say; written down together.
    seen_lately: Mutex<HashMap<MachineId, Timestamp>>,
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
        let fleet = Fleet {
            db,
            clock,
            directory: Arc::default(),
            live,
            rules,
            policy,
            ask: OnceLock::new(),
            inventory_changed: AtomicBool::new(true),
            seen_lately: Mutex::default(),
        };
        for piece in fleet.db.read(evidence::shared)? {
            fleet.directory.forget_shared(&piece);
        }
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
    /// How many machines are in each state, in the order of [`MachineState::ALL`].
    pub fn state_counts(&self) -> Result<Vec<(MachineState, u64)>, Error> {
        let counts: HashMap<String, u64> = self.db.read(|c| {
            let mut statement = c.prepare_cached("SELECT state, count(*) FROM machine GROUP BY state")?;
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            Ok::<_, Error>(rows.collect::<Result<_, _>>()?)
        })?;
        let count = |state: MachineState| (state, counts.get(state.name()).copied().unwrap_or(0));
        Ok(MachineState::ALL.into_iter().map(count).collect())
    }

    pub fn machine(&self, name: &str) -> Result<Machine, Error> {
        self.db.read(|c| find(c, name))
    }

    /// Lets the key that waits in: a person has compared the codes.
    pub fn approve(&self, name: &str, by: &Principal) -> Result<Machine, Error> {
        let now = self.clock.now();
        let mut lent = Vec::new();
        let machine = self.change(name, |tx, machine| {
            if machine.question.is_some() {
                return Err(question_error(tx, machine));
            }
            let state = match machine.state {
                MachineState::Deploying | MachineState::Managed => machine.state,
                _ => MachineState::Approved,
            };
            tx.execute(
                "UPDATE machine SET state = ?2, approved_key = COALESCE(waiting_key, approved_key), waiting_key = NULL,
                    pairing_code = NULL, notice = NULL, approved_by = ?3 WHERE id = ?1",
                (machine.id.as_str(), state.name(), by.label()),
            )?;
            lent = evidence::learn_lent_adapters(tx, &machine.id, now)?;
            let code = machine.pairing_code.as_deref().unwrap_or("");
            Ok(audit::append(tx, now, &by.label(), "machine-approve", &machine.name, code)?)
        })?;
        self.forget_shared(&lent);
        Ok(machine)
    }

    /// The packet path goes by what these pieces say no longer.
    pub(super) fn forget_shared(&self, pieces: &[Piece]) {
        pieces.iter().for_each(|piece| self.directory.forget_shared(piece));
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
                "UPDATE machine SET state = ?2, next_boot = ?3, approved_key = NULL, waiting_key = NULL, pairing_code = NULL,
                    question = NULL WHERE id = ?1",
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

    /// The newest certificates of a machine, newest first.
    pub fn certificates(&self, name: &str) -> Result<Vec<access_db::Certificate>, Error> {
        self.db.read(|c| Ok(access_db::certificates(c, find(c, name)?.id.as_str(), CERTIFICATES_SHOWN_MAX)?))
    }

    /// The machine itself, with its certificate, is about to restart into the boot environment, where it makes a new key.
    pub fn expect_back(&self, id: &MachineId) -> Result<(), Error> {
        let until = self.clock.now().plus_seconds(RETURN_SECONDS_MAX).milliseconds();
        self.db.write(|tx| {
            tx.execute("UPDATE machine SET expected_until = ?2 WHERE id = ?1", (id.as_str(), until))?;
            Ok(())
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
        let known = self.machine(id.as_str())?;
        let text = address.map(|address| address.to_canonical().to_string());
        let is_news = known.stage != stage.name() || (text.is_some() && text != known.address);
        if !is_news {
            if now.since(known.seen_at) >= SEEN_AGAIN_MILLISECONDS {
                self.seen_lately.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone(), now);
            }
            return Ok(known);
        }
        self.change(id.as_str(), |tx, machine| note_place(tx, &machine.id, stage, address, now))
    }

    /// Writes down in one transaction when machines were seen that had nothing new to say. A power cut loses some seconds of it.
    pub fn note_seen_lately(&self) -> Result<(), Error> {
        let seen = std::mem::take(&mut *self.seen_lately.lock().unwrap_or_else(PoisonError::into_inner));
        if seen.is_empty() {
            return Ok(());
        }
        self.db.write(|tx| {
            let mut note = tx.prepare_cached("UPDATE machine SET seen_at = max(seen_at, ?2) WHERE id = ?1")?;
            for (id, at) in seen {
                note.execute((id.as_str(), at.milliseconds()))?;
            }
            Ok(())
        })
    }

    pub(super) fn change(
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

    pub(super) fn announce(&self, machine: &Machine) {
        self.directory.update(machine);
        self.inventory_changed();
        self.live.publish("machine", machine.id.as_str(), json!({ "name": machine.name, "state": machine.state }));
    }
}

const COLUMNS: &str = "id, name, state, next_boot, identity, protected, pairing_code, approved_by, address, stage, created_at, seen_at, notice, question";

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
        question: row.get::<_, Option<String>>(13)?.and_then(|text| serde_json::from_str(&text).ok()),
    })
}

pub(super) fn find(c: &Connection, name: &str) -> Result<Machine, Error> {
    let mut statement = c.prepare_cached(&format!("SELECT {COLUMNS} FROM machine WHERE id = ?1 OR name = ?1"))?;
    let found = statement.query_row([name], read_machine).optional()?;
    found.ok_or_else(|| Error::NoMachine(name.to_owned()))
}

/// RFC 1123 2.1: letters, digits and hyphens, neither first nor last a hyphen, at most 63.
pub(super) fn is_host_name(name: &str) -> bool {
    let inner = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    inner && !name.is_empty() && name.len() <= 63 && !name.starts_with('-') && !name.ends_with('-')
}

/// The error of a deed that must wait for the answer to the machine's question.
fn question_error(c: &Connection, machine: &Machine) -> Error {
    let candidates = machine.question.iter().flat_map(|question| &question.candidates);
    let name = |id: &MachineId| find(c, id.as_str()).map_or_else(|_| id.to_string(), |machine| machine.name);
    Error::Question { machine: machine.name.clone(), candidates: candidates.map(name).collect() }
}

pub(super) fn note_place(
    tx: &Transaction<'_>,
    id: &MachineId,
    stage: Stage,
    address: Option<IpAddr>,
    now: Timestamp,
) -> Result<(), Error> {
    let address = address.map(|address| address.to_canonical().to_string());
    tx.execute(
        "UPDATE machine SET stage = ?2, address = COALESCE(?3, address), seen_at = ?4 WHERE id = ?1",
        (id.as_str(), stage.name(), address, now.milliseconds()),
    )?;
    Ok(())
}
