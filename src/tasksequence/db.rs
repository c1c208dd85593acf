//! Task sequences and runs as the site keeps them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Row, Transaction};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::access::vault::Vault;
use crate::access::{Principal, audit};
use crate::db::Migration;
use crate::fleet::db::Fleet;
use crate::fleet::deployment::RunState;
use crate::fleet::machine::{Machine, MachineId, NextBoot};
use crate::stdx::hint::Hint;
use crate::stdx::time::Timestamp;

use super::event::{Directive, Line, StepProgress};
use super::facts::Facts;
use super::host::Place;
use super::journal::{Entry, What};
use super::link::{ImageGrant, RunId, RunOrder};
use super::model::{ItemId, Sequence, Values, Work};
use super::parser::{self, Files, Problem};
use super::plan;

pub const MIGRATIONS: &[Migration] = &[
    Migration {
        name: "tasksequence-1",
        sql: "
        CREATE TABLE sequence (
            name TEXT NOT NULL, version TEXT NOT NULL, document TEXT NOT NULL, created_at INTEGER NOT NULL,
            created_by TEXT NOT NULL, PRIMARY KEY (name, version));
        CREATE TABLE deployment (
            id TEXT PRIMARY KEY, sequence TEXT NOT NULL, version TEXT NOT NULL, target TEXT NOT NULL,
            rollout TEXT NOT NULL, stopped TEXT, created_at INTEGER NOT NULL, created_by TEXT NOT NULL);
        CREATE TABLE run (
            id TEXT PRIMARY KEY, deployment TEXT NOT NULL REFERENCES deployment(id), position INTEGER NOT NULL,
            machine TEXT NOT NULL, state TEXT NOT NULL, directive TEXT NOT NULL, run_order TEXT NOT NULL,
            step TEXT NOT NULL DEFAULT '', step_name TEXT NOT NULL DEFAULT '', steps_over INTEGER NOT NULL DEFAULT 0,
            steps INTEGER NOT NULL, progress TEXT, error TEXT, hint TEXT, created_at INTEGER NOT NULL,
            started_at INTEGER, finished_at INTEGER);
        CREATE INDEX run_machine ON run (machine, state);
        CREATE INDEX run_deployment ON run (deployment, position);
        CREATE TABLE run_entry (
            run TEXT NOT NULL REFERENCES run(id), number INTEGER NOT NULL, entry TEXT NOT NULL,
            PRIMARY KEY (run, number));
        CREATE TABLE run_line (
            run TEXT NOT NULL REFERENCES run(id), boot TEXT NOT NULL, number INTEGER NOT NULL, at INTEGER NOT NULL,
            item TEXT NOT NULL, text TEXT NOT NULL, PRIMARY KEY (run, boot, number));",
    },
    Migration {
        name: "tasksequence-2",
        sql: "
        CREATE TABLE run_answer (
            run TEXT NOT NULL REFERENCES run(id), item TEXT NOT NULL, value TEXT NOT NULL, answered_by TEXT NOT NULL,
            answered_at INTEGER NOT NULL, PRIMARY KEY (run, item));
        ALTER TABLE run ADD COLUMN question TEXT;",
    },
    Migration { name: "tasksequence-3", sql: "ALTER TABLE run ADD COLUMN sent INTEGER NOT NULL DEFAULT 0" },
    Migration {
        name: "tasksequence-4",
        sql: "
        ALTER TABLE run ADD COLUMN sealed TEXT NOT NULL DEFAULT '';
        ALTER TABLE run ADD COLUMN debug INTEGER NOT NULL DEFAULT 0;
        ALTER TABLE sequence ADD COLUMN files TEXT NOT NULL DEFAULT '{}';
        CREATE TABLE variable (
            scope TEXT NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL, secret INTEGER NOT NULL,
            changed_at INTEGER NOT NULL, changed_by TEXT NOT NULL, PRIMARY KEY (scope, name));",
    },
];

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Db(#[from] crate::db::Error),
    #[error(transparent)]
    Fleet(#[from] crate::fleet::db::Error),
    #[error("there is no sequence `{name}`")]
    NoSequence { name: String, known: Vec<String> },
    #[error("the document has {} problems, the first in {}", .0.len(), .0.first().map(ToString::to_string).unwrap_or_default())]
    Document(Vec<Problem>),
    #[error("`image` names `{reference}`, which this site does not have")]
    NoImage { reference: String, known: Vec<String> },
    #[error("there is no run `{0}`")]
    NoRun(String),
    #[error("there is no deployment `{0}`")]
    NoDeployment(String),
    #[error("{0}")]
    Request(String, Option<String>),
    #[error("{}", .0)]
    Guard(String, Option<String>),
    #[error("read the stored {what} `{name}`: {detail}")]
    Record { what: &'static str, name: String, detail: String },
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Error {
        Error::Db(error.into())
    }
}

impl Hint for Error {
    fn hint(&self) -> Option<String> {
        let there_is = |known: &[String], otherwise: &str| match known {
            [] => otherwise.to_owned(),
            known => format!("there is {}", known.join(", ")),
        };
        match self {
            Error::Db(error) => error.hint(),
            Error::Fleet(error) => error.hint(),
            Error::NoSequence { known, .. } => Some(there_is(known, "publish one: `remint sequence publish FILE`")),
            Error::Document(problems) => problems.first().and_then(|problem| problem.hint.clone()),
            Error::NoImage { known, .. } => Some(there_is(known, "import one: `remint image import FILE --name NAME`")),
            Error::NoRun(_) | Error::NoDeployment(_) => Some("`remint deploy list` shows them all".into()),
            Error::Request(_, hint) | Error::Guard(_, hint) => hint.clone(),
            Error::Record { .. } => Some("was the database edited by hand? restore it from a backup".into()),
        }
    }
}

/// Reference -> the version that it means now.
pub type FindImage = dyn Fn(&str) -> Result<Option<ImageGrant>, String> + Send + Sync;

/// What other subjects know; the wiring fills it.
pub struct Lookup {
    /// The version that a reference to an image means now, or `None`.
    pub image: Box<FindImage>,
    /// Names of all images.
    pub images: Box<dyn Fn() -> Vec<String> + Send + Sync>,
    /// What inventory knows of a machine.
    pub facts: Box<dyn Fn(&Machine) -> Facts + Send + Sync>,
    /// Wakes a machine.
    pub wake: Box<dyn Fn(&Machine) + Send + Sync>,
}

/// All that is done to sequences, deployments and runs goes through here.
pub struct Sequences {
    pub fleet: Arc<Fleet>,
    pub lookup: Lookup,
    /// Seals what variables hold in secret.
    pub vault: Arc<Vault>,
}

/// A version of a sequence as it is listed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SequenceRecord {
    pub name: String,
    /// SHA-256 of its JSON form.
    pub version: String,
    pub document: String,
    /// The files that it names, as they were when it was published.
    #[serde(default, skip_serializing_if = "Files::is_empty")]
    pub files: Files,
    pub created_at: Timestamp,
    pub created_by: String,
}

/// A run as it is listed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunRecord {
    pub id: RunId,
    pub deployment: String,
    pub machine: MachineId,
    pub machine_name: String,
    pub sequence: String,
    pub version: String,
    pub state: RunState,
    pub directive: Directive,
    /// Where it is.
    pub step: ItemId,
    pub step_name: String,
    pub steps_over: u32,
    pub steps: u32,
    pub progress: Option<StepProgress>,
    pub error: Option<String>,
    pub hint: Option<String>,
    /// What the step under way asks, while it waits for the answer.
    pub question: Option<String>,
    pub created_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
}

impl Sequences {
    /// Keeps the document as the newest version of its sequence. The same content is the same version.
    pub fn publish(&self, document: &str, files: &Files, by: &Principal) -> Result<SequenceRecord, Error> {
        let sequence = parser::parse_with(document, files).map_err(Error::Document)?;
        let now = self.fleet.clock.now();
        let record = SequenceRecord {
            name: sequence.name.clone(),
            version: sequence.version(),
            document: document.to_owned(),
            files: files.clone(),
            created_at: now,
            created_by: by.label(),
        };
        self.fleet.db.write(|tx| {
            tx.execute(
                "INSERT INTO sequence (name, version, document, created_at, created_by, files) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                 ON CONFLICT (name, version) DO UPDATE SET document = ?3, created_at = ?4, created_by = ?5, files = ?6",
                (
                    &record.name,
                    &record.version,
                    document,
                    now.milliseconds(),
                    &record.created_by,
                    json!(files).to_string(),
                ),
            )?;
            audit::append(tx, now, &by.label(), "sequence-publish", &record.name, &record.version)?;
            Ok::<_, Error>(())
        })?;
        Ok(record)
    }

    /// The newest version of each sequence.
    pub fn sequences(&self) -> Result<Vec<SequenceRecord>, Error> {
        self.fleet.db.read(|c| {
            let mut statement = c.prepare_cached(
                "SELECT name, version, document, created_at, created_by, files FROM sequence s
                 WHERE created_at = (SELECT max(created_at) FROM sequence WHERE name = s.name)
                 GROUP BY name ORDER BY name",
            )?;
            let records = statement.query_map([], read_sequence)?.collect::<Result<_, _>>()?;
            Ok(records)
        })
    }

    /// `NAME` (the newest) or `NAME@VERSION`, the version by its first digits.
    pub fn sequence(&self, reference: &str) -> Result<(SequenceRecord, Sequence), Error> {
        let (name, version) = reference.split_once('@').unwrap_or((reference, ""));
        let found = self.fleet.db.read(|c| {
            let mut statement = c.prepare_cached(
                "SELECT name, version, document, created_at, created_by, files FROM sequence
                 WHERE name = ?1 AND substr(version, 1, length(?2)) = ?2 ORDER BY created_at DESC LIMIT 1",
            )?;
            Ok::<_, Error>(statement.query_row((name, version), read_sequence).optional()?)
        })?;
        let Some(record) = found else {
            let known = self.sequences()?.into_iter().map(|record| record.name).collect();
            return Err(Error::NoSequence { name: reference.to_owned(), known });
        };
        let sequence = parser::parse_with(&record.document, &record.files).map_err(Error::Document)?;
        Ok((record, sequence))
    }

    /// The order of a run on `machine`; its run has no identifier yet.
    pub fn order(&self, sequence: &Sequence, machine: &Machine, variables: &Values) -> Result<RunOrder, Error> {
        let variables = &self.values_for(sequence, machine, variables)?;
        Ok(RunOrder {
            run: RunId(String::new()),
            sequence: sequence.clone(),
            version: sequence.version(),
            variables: variables.clone(),
            images: self.images(sequence, machine, variables)?,
            machine: (self.lookup.facts)(machine),
            debug: false,
            journal: Vec::new(),
        })
    }

    /// Every image that a step may name, templates replaced as far as they can be now.
    fn images(&self, sequence: &Sequence, machine: &Machine, variables: &Values) -> Result<Vec<ImageGrant>, Error> {
        let facts = (self.lookup.facts)(machine);
        let mut grants: Vec<ImageGrant> = Vec::new();
        for reference in plan::images(sequence, &facts, variables) {
            let found = (self.lookup.image)(&reference).map_err(|error| Error::Request(error, None))?;
            let Some(grant) = found else {
                return Err(Error::NoImage { reference, known: (self.lookup.images)() });
            };
            grants.push(ImageGrant { reference, ..grant });
        }
        Ok(grants)
    }

    /// Notes in the audit log that a run has published a version of an image.
    pub fn captured(&self, run: &str, version: &str) -> Result<(), Error> {
        let record = self.run(run)?;
        let now = self.fleet.clock.now();
        self.fleet.db.write(|tx| Ok(audit::append(tx, now, &record.machine_name, "image-capture", version, run)?))
    }

    pub fn run(&self, id: &str) -> Result<RunRecord, Error> {
        let record = self.fleet.db.read(|c| find_run(c, id))?;
        Ok(self.named(record))
    }

    /// Runs, newest first: of a machine, of a deployment (in its order, which makes the rings), or all.
    pub fn runs(&self, machine: Option<&str>, deployment: Option<&str>) -> Result<Vec<RunRecord>, Error> {
        let machine = machine.map(|name| self.fleet.machine(name)).transpose()?.map(|machine| machine.id);
        let records: Vec<RunRecord> = self.fleet.db.read(|c| {
            let mut statement = c.prepare_cached(&format!(
                "SELECT {RUN_COLUMNS} WHERE (?1 IS NULL OR run.machine = ?1) AND (?2 IS NULL OR run.deployment = ?2)
                 ORDER BY CASE WHEN ?2 IS NULL THEN run.created_at END DESC, run.position LIMIT 5000"
            ))?;
            let rows = statement.query_map((machine.as_ref().map(MachineId::as_str), deployment), read_run)?;
            Ok::<_, Error>(rows.collect::<Result<_, _>>()?)
        })?;
        let machines = self.fleet.machines()?;
        let names: HashMap<&MachineId, &String> = machines.iter().map(|machine| (&machine.id, &machine.name)).collect();
        let named = |mut record: RunRecord| {
            if let Some(name) = names.get(&record.machine) {
                record.machine_name.clone_from(name);
            }
            record
        };
        Ok(records.into_iter().map(named).collect())
    }

    fn named(&self, mut record: RunRecord) -> RunRecord {
        if let Ok(machine) = self.fleet.machine(record.machine.as_str()) {
            record.machine_name = machine.name;
        }
        record
    }

    /// The journal of a run.
    pub fn entries(&self, run: &str) -> Result<Vec<Entry>, Error> {
        self.fleet.db.read(|c| entries(c, run))
    }

    /// What the run was ordered to do.
    pub fn run_order(&self, run: &str) -> Result<RunOrder, Error> {
        self.fleet.db.read(|c| stored_order(c, run))
    }

    /// The log of a run, from the `from`th line on, at most `most`.
    pub fn lines(&self, run: &str, from: u64, most: u64) -> Result<Vec<Line>, Error> {
        self.fleet.db.read(|c| {
            let mut statement = c.prepare_cached(
                "SELECT at, item, text FROM run_line WHERE run = ?1 ORDER BY at, boot, number LIMIT ?3 OFFSET ?2",
            )?;
            let rows = statement.query_map((run, from, most), |row| {
                Ok(Line { at: Timestamp::from_milliseconds(row.get(0)?), item: ItemId(row.get(1)?), text: row.get(2)? })
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }

    /// Tells whoever listens how the run stands.
    pub(super) fn announce(&self, run: &str) {
        if let Ok(record) = self.run(run) {
            self.fleet.live.publish("run", run, json!(record));
        }
    }

    /// Pauses, continues or cancels a run. One that has not begun is cancelled at once.
    pub fn direct(&self, run: &str, directive: Directive, by: &Principal) -> Result<RunRecord, Error> {
        let now = self.fleet.clock.now();
        let record = self.fleet.db.write(|tx| {
            let run = find_run(tx, run)?;
            if run.state.is_over() {
                let text = format!("run {} is over: it {}", run.id, run.state.name());
                return Err(Error::Request(text, Some("`remint deploy retry RUN --from STEP` goes back".into())));
            }
            let begun = run.state == RunState::Running;
            if directive == Directive::Cancel && !begun {
                end_run(tx, &run.id, RunState::Cancelled, now)?;
            }
            tx.execute("UPDATE run SET directive = ?2 WHERE id = ?1", (run.id.as_str(), word(directive)))?;
            audit::append(tx, now, &by.label(), "run-direct", run.id.as_str(), &word(directive))?;
            find_run(tx, run.id.as_str())
        })?;
        if record.state == RunState::Cancelled {
            self.fleet.set_next_boot(&record.machine, NextBoot::LocalDisk)?;
        }
        self.announce(record.id.as_str());
        Ok(self.named(record))
    }

    /// Answers the question that a run's step asks.
    pub fn answer(&self, run: &str, value: &Value, by: &Principal) -> Result<RunRecord, Error> {
        let now = self.fleet.clock.now();
        let record = self.fleet.db.write(|tx| {
            let run = find_run(tx, run)?;
            if run.question.is_none() || run.state != RunState::Running {
                return Err(Error::Request(format!("run {} asks nothing", run.id), None));
            }
            check_answer(&stored_order(tx, run.id.as_str())?, &run.step, value)?;
            tx.execute(
                "INSERT INTO run_answer (run, item, value, answered_by, answered_at) VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT (run, item) DO UPDATE SET value = ?3, answered_by = ?4, answered_at = ?5",
                (run.id.as_str(), run.step.as_str(), value.to_string(), by.label(), now.milliseconds()),
            )?;
            audit::append(tx, now, &by.label(), "run-answer", run.id.as_str(), run.step.as_str())?;
            find_run(tx, run.id.as_str())
        })?;
        self.announce(record.id.as_str());
        Ok(self.named(record))
    }

    /// Sends a run that is over back to one of its steps.
    pub fn retry(&self, run: &str, from: Option<&str>, by: &Principal) -> Result<RunRecord, Error> {
        let now = self.fleet.clock.now();
        let (record, begins) = self.fleet.db.write(|tx| {
            let run = find_run(tx, run)?;
            if !run.state.is_over() {
                let hint = Some(format!("cancel it first: `remint deploy cancel {}`", run.id));
                return Err(Error::Request(format!("run {} is {}", run.id, run.state.name()), hint));
            }
            if due(tx, &run.machine)?.is_some() {
                return Err(Error::Request("the machine has another run by now".into(), None));
            }
            let order = stored_order(tx, run.id.as_str())?;
            let item = rewind_to(&order, &entries(tx, run.id.as_str())?, from)?;
            let begins = plan::place_of(&order.sequence, &item);
            let number = entry_count(tx, run.id.as_str())?;
            // Questions are asked anew.
            tx.execute("DELETE FROM run_answer WHERE run = ?1", [run.id.as_str()])?;
            insert_entry(tx, run.id.as_str(), number, &Entry { at: now, item, what: What::Rewound })?;
            tx.execute(
                "UPDATE run SET state = 'waiting', directive = CASE WHEN debug THEN 'pause' ELSE 'go' END, error = NULL, hint = NULL, finished_at = NULL,
                    progress = NULL, sent = 0 WHERE id = ?1",
                [run.id.as_str()],
            )?;
            audit::append(tx, now, &by.label(), "run-retry", run.id.as_str(), from.unwrap_or(""))?;
            Ok((find_run(tx, run.id.as_str())?, begins))
        })?;
        self.fleet.set_next_boot(&record.machine, next_boot(begins))?;
        self.announce(record.id.as_str());
        Ok(self.named(record))
    }
}

pub(super) fn next_boot(place: Place) -> NextBoot {
    match place {
        Place::BootEnvironment => NextBoot::BootEnvironment,
        Place::InstalledSystem => NextBoot::LocalDisk,
    }
}

/// The item to go back to: the one named, or the one that failed first.
fn rewind_to(order: &RunOrder, entries: &[Entry], from: Option<&str>) -> Result<ItemId, Error> {
    let engine = super::engine::Engine::resume(&order.sequence, "", entries);
    let item = match from {
        Some(from) => ItemId::from(from),
        None => engine.first_error().map(|(item, _)| item.clone()).unwrap_or_else(|| ItemId::from("1")),
    };
    if order.sequence.item(&item).is_some() {
        return Ok(item);
    }
    let steps = order.sequence.steps().map(|(item, _)| format!("{} ({})", item.id, item.name));
    let hint = format!("there is {}", steps.collect::<Vec<_>>().join(", "));
    Err(Error::Request(format!("the run has no step `{item}`"), Some(hint)))
}

/// The run that a machine has under way or may begin.
pub(super) fn due(c: &Connection, machine: &MachineId) -> Result<Option<(RunId, RunState)>, Error> {
    let mut statement = c.prepare_cached(
        "SELECT id, state FROM run WHERE machine = ?1 AND state IN ('waiting', 'running')
         ORDER BY state, created_at LIMIT 1",
    )?;
    let found = statement.query_row([machine.as_str()], |row| Ok((RunId(row.get(0)?), row.get::<_, String>(1)?)));
    Ok(found.optional()?.map(|(run, state)| (run, RunState::parse(&state).unwrap_or(RunState::Waiting))))
}

pub(super) fn end_run(tx: &Transaction<'_>, run: &RunId, state: RunState, at: Timestamp) -> Result<(), Error> {
    tx.execute(
        "UPDATE run SET state = ?2, finished_at = ?3, progress = NULL,
            error = CASE WHEN ?2 = 'succeeded' THEN NULL ELSE error END,
            hint = CASE WHEN ?2 = 'succeeded' THEN NULL ELSE hint END WHERE id = ?1",
        (run.as_str(), state.name(), at.milliseconds()),
    )?;
    Ok(())
}

pub(super) fn insert_entry(tx: &Transaction<'_>, run: &str, number: u64, entry: &Entry) -> Result<(), Error> {
    let text = json!(entry).to_string();
    tx.execute("INSERT INTO run_entry (run, number, entry) VALUES (?1, ?2, ?3)", (run, number, text))?;
    Ok(())
}

pub(super) fn answers(c: &Connection, run: &str) -> Result<BTreeMap<ItemId, Value>, Error> {
    let mut statement = c.prepare_cached("SELECT item, value FROM run_answer WHERE run = ?1")?;
    let rows = statement.query_map([run], |row| Ok((ItemId(row.get(0)?), row.get::<_, String>(1)?)))?;
    rows.map(|row| row.map_err(Error::from).and_then(|(item, text)| Ok((item, stored("answer of run", run, &text)?))))
        .collect()
}

/// An answer that the step would refuse is refused at once, where the person can give another.
fn check_answer(order: &RunOrder, item: &ItemId, value: &Value) -> Result<(), Error> {
    let Some(Work::Step(step)) = order.sequence.item(item).map(|item| &item.work) else { return Ok(()) };
    let choices = step.with.get("choices").and_then(Value::as_array);
    match choices {
        Some(choices) if !choices.is_empty() && !choices.contains(value) => {
            let allowed: Vec<String> = choices.iter().map(ToString::to_string).collect();
            Err(Error::Request(
                format!("{value} is not among the answers allowed"),
                Some(format!("answer {}", allowed.join(", "))),
            ))
        }
        _ => Ok(()),
    }
}

pub(super) fn entry_count(c: &Connection, run: &str) -> Result<u64, Error> {
    let mut statement = c.prepare_cached("SELECT count(*) FROM run_entry WHERE run = ?1")?;
    Ok(statement.query_row([run], |row| row.get(0))?)
}

pub(super) fn entries(c: &Connection, run: &str) -> Result<Vec<Entry>, Error> {
    let mut statement = c.prepare_cached("SELECT entry FROM run_entry WHERE run = ?1 ORDER BY number")?;
    let texts: Vec<String> = statement.query_map([run], |row| row.get(0))?.collect::<Result<_, _>>()?;
    texts.iter().map(|text| stored("journal of run", run, text)).collect()
}

pub(super) fn stored_order(c: &Connection, run: &str) -> Result<RunOrder, Error> {
    let mut statement = c.prepare_cached("SELECT run_order FROM run WHERE id = ?1")?;
    let text: Option<String> = statement.query_row([run], |row| row.get(0)).optional()?;
    stored("order of run", run, &text.ok_or_else(|| Error::NoRun(run.to_owned()))?)
}

pub(super) fn stored<T: serde::de::DeserializeOwned>(what: &'static str, name: &str, text: &str) -> Result<T, Error> {
    serde_json::from_str(text).map_err(|error| Error::Record { what, name: name.to_owned(), detail: error.to_string() })
}

/// An enum as its JSON form writes it.
fn word(directive: Directive) -> String {
    json!(directive).as_str().unwrap_or_default().to_owned()
}

pub(super) fn read_sequence(row: &Row<'_>) -> Result<SequenceRecord, rusqlite::Error> {
    Ok(SequenceRecord {
        name: row.get(0)?,
        version: row.get(1)?,
        document: row.get(2)?,
        created_at: Timestamp::from_milliseconds(row.get(3)?),
        created_by: row.get(4)?,
        files: serde_json::from_str(&row.get::<_, String>(5)?).unwrap_or_default(),
    })
}

pub(super) const RUN_COLUMNS: &str = "run.id, run.deployment, run.machine, deployment.sequence, deployment.version, run.state,
    run.directive, run.step, run.step_name, run.steps_over, run.steps, run.progress, run.error, run.hint, run.created_at,
    run.started_at, run.finished_at, run.question FROM run JOIN deployment ON deployment.id = run.deployment";

pub(super) fn find_run(c: &Connection, id: &str) -> Result<RunRecord, Error> {
    let mut statement = c.prepare_cached(&format!("SELECT {RUN_COLUMNS} WHERE run.id = ?1"))?;
    statement.query_row([id], read_run).optional()?.ok_or_else(|| Error::NoRun(id.to_owned()))
}

pub(super) fn read_run(row: &Row<'_>) -> Result<RunRecord, rusqlite::Error> {
    let text = |at| row.get::<_, String>(at);
    let instant = |at| Ok::<_, rusqlite::Error>(row.get::<_, Option<i64>>(at)?.map(Timestamp::from_milliseconds));
    let machine = MachineId(text(2)?);
    Ok(RunRecord {
        id: RunId(text(0)?),
        deployment: text(1)?,
        machine_name: machine.to_string(),
        machine,
        sequence: text(3)?,
        version: text(4)?,
        state: RunState::parse(&text(5)?).unwrap_or(RunState::Failed),
        directive: serde_json::from_value(Value::from(text(6)?)).unwrap_or_default(),
        step: ItemId(text(7)?),
        step_name: text(8)?,
        steps_over: row.get(9)?,
        steps: row.get(10)?,
        progress: row.get::<_, Option<String>>(11)?.and_then(|text| serde_json::from_str(&text).ok()),
        error: row.get(12)?,
        hint: row.get(13)?,
        question: row.get(17)?,
        created_at: instant(14)?.unwrap_or_default(),
        started_at: instant(15)?,
        finished_at: instant(16)?,
    })
}
