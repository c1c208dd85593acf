//! Deployments as the site keeps them, and what moves them on.

use rusqlite::{Connection, OptionalExtension, Row, Transaction};
use serde_json::json;

use crate::access::{Principal, audit, secret};
use crate::fleet::deployment::{RunState, decide};
use crate::fleet::machine::{Machine, MachineId, MachineState, NextBoot};
use crate::stdx::id::fresh;
use crate::stdx::time::Timestamp;
use crate::tasksequence::db::{Error, Sequences, due, end_run, stored};
use crate::tasksequence::event::Directive;
use crate::tasksequence::link::{RunId, RunOrder};
use crate::tasksequence::model::{Sequence, Values};
use crate::tasksequence::{plan, steps};

use super::{Counts, DeploymentDetail, DeploymentRecord, Preview, Request};

/// Machines of one deployment, at most: each has its order in the database.
const MACHINES_MAX: usize = 20_000;

impl Sequences {
    /// What the deployment would do, and what stands in its way.
    pub fn preview(&self, request: &Request) -> Result<Preview, Error> {
        Ok(self.prepare(request)?.preview)
    }

    fn prepare(&self, request: &Request) -> Result<Prepared, Error> {
        let (record, sequence) = self.sequence(&request.sequence)?;
        let machines = self.machines_of(request)?;
        let mut refusals = unknown_variables(&sequence, &request.variables);
        let erasing = sequence.steps().any(|(_, step)| steps::row(&step.kind).is_some_and(|row| row.erases));
        let mut prepared = Vec::new();
        for machine in machines {
            refusals.extend(self.refuses(&machine, erasing)?);
            let order = self.order(&sequence, &machine, &request.variables)?;
            let order = RunOrder { debug: request.debug, ..order };
            for wrong in wrong_variables(&sequence, &order.variables) {
                if !refusals.contains(&wrong) {
                    refusals.push(wrong);
                }
            }
            let plan = plan::plan(&order);
            let failures =
                plan.failures().map(|(item, error)| format!("{}: {} {}: {error}", machine.name, item.id, item.name));
            refusals.extend(failures);
            prepared.push((machine, order, plan));
        }
        let erases = prepared.iter().filter(|(_, _, plan)| !plan.erases.is_empty()).count() as u32;
        let plans = prepared.iter().map(|(_, _, plan)| plan.clone()).collect();
        let preview = Preview { sequence: record.name, version: record.version, plans, erases, refusals };
        Ok(Prepared { preview, orders: prepared.into_iter().map(|(machine, order, _)| (machine, order)).collect() })
    }

    fn machines_of(&self, request: &Request) -> Result<Vec<Machine>, Error> {
        let mut machines = Vec::new();
        for name in &request.machines {
            machines.push(self.fleet.machine(name)?);
        }
        if let Some(collection) = &request.collection {
            for member in self.fleet.collection(collection)?.machines {
                machines.push(self.fleet.machine(member.id.as_str())?);
            }
        }
        let mut seen = std::collections::HashSet::new();
        machines.retain(|machine| seen.insert(machine.id.clone()));
        match machines.len() {
            0 => Err(Error::Request(
                "no machine is named".into(),
                Some("name some with `--machine NAME`, or a collection that has some".into()),
            )),
            count if count > MACHINES_MAX => {
                Err(Error::Request(format!("{count} machines are too many, at most {MACHINES_MAX}"), None))
            }
            _ => Ok(machines),
        }
    }

    fn refuses(&self, machine: &Machine, erasing: bool) -> Result<Option<String>, Error> {
        let name = &machine.name;
        if machine.protected && erasing {
            return Ok(Some(format!(
                "{name} is protected against being erased (`remint machine wipe-guard {name} off`)"
            )));
        }
        let usable = !matches!(machine.state, MachineState::Waiting | MachineState::Rejected | MachineState::Retired);
        if !usable {
            return Ok(Some(format!("{name} is {}, not approved", machine.state.name())));
        }
        let unfinished = self.fleet.db.read(|c| unfinished(c, &machine.id))?;
        Ok(unfinished.map(|run| format!("{name} has the run {run} already (`remint deploy cancel {run}`)")))
    }

    /// Starts a deployment that was confirmed.
    pub fn start(&self, request: &Request, by: &Principal) -> Result<DeploymentRecord, Error> {
        self.fleet.require_within(by, &self.machines_of(request)?)?;
        let prepared = self.prepare(request)?;
        let preview = &prepared.preview;
        if let Some(first) = preview.refusals.first() {
            let more = match preview.refusals.len() {
                1 => String::new(),
                count => format!(" (and {} more)", count - 1),
            };
            let hint = "`remint sequence plan` shows all of it; nothing was started".to_owned();
            return Err(Error::Guard(format!("{first}{more}"), Some(hint)));
        }
        if preview.erases > 0 && request.confirm != Some(preview.erases) {
            let said = request.confirm.map(|said| format!(", not of {said}")).unwrap_or_default();
            let count = preview.erases;
            let machines = if count == 1 { "machine" } else { "machines" };
            return Err(Error::Guard(
                format!("this erases the disks of {count} {machines}{said}"),
                Some(format!("confirm with `--yes {count}`")),
            ));
        }
        let id = self.keep(request, &prepared, by)?;
        self.tick()?;
        self.deployment(&id).map(|detail| detail.deployment)
    }

    /// Starts `sequence` on one machine that a rule of the site has let in; the rule is the confirmation.
    pub fn start_for(&self, machine: &MachineId, sequence: &str, by: &Principal) -> Result<DeploymentRecord, Error> {
        let request = Request {
            sequence: sequence.to_owned(),
            machines: vec![machine.0.clone()],
            confirm: Some(1),
            ..Request::default()
        };
        let erases = self.preview(&request)?.erases;
        self.start(&Request { confirm: Some(erases), ..request }, by)
    }

    fn keep(&self, request: &Request, prepared: &Prepared, by: &Principal) -> Result<String, Error> {
        let now = self.fleet.clock.now();
        let id = fresh("deployment", now, secret::random());
        let preview = &prepared.preview;
        let target = match &request.collection {
            Some(collection) => format!("collection {collection}"),
            None => prepared.orders.iter().map(|(machine, _)| machine.name.as_str()).collect::<Vec<_>>().join(", "),
        };
        self.fleet.db.write(|tx| {
            tx.execute(
                "INSERT INTO deployment (id, sequence, version, target, rollout, created_at, created_by)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                (
                    &id,
                    &preview.sequence,
                    &preview.version,
                    &target,
                    json!(request.rollout).to_string(),
                    now.milliseconds(),
                    by.label(),
                ),
            )?;
            for (position, (machine, order)) in prepared.orders.iter().enumerate() {
                self.insert_run(tx, &id, position, machine, order, now)?;
            }
            let detail = format!("{} on {target}, erases {}", preview.sequence, preview.erases);
            audit::append(tx, now, &by.label(), "deployment-start", &id, &detail)?;
            Ok::<_, Error>(())
        })?;
        Ok(id)
    }

    pub fn deployments(&self) -> Result<Vec<DeploymentRecord>, Error> {
        self.fleet.db.read(|c| {
            let mut statement = c.prepare_cached(&format!("{DEPLOYMENT} ORDER BY created_at DESC LIMIT 1000"))?;
            let records: Vec<_> = statement.query_map([], read_deployment)?.collect::<Result<_, _>>()?;
            records.into_iter().map(|record| counted(c, record?)).collect()
        })
    }

    pub fn deployment(&self, id: &str) -> Result<DeploymentDetail, Error> {
        let deployment = self.fleet.db.read(|c| find(c, id))?;
        let runs = self.runs(None, Some(id))?;
        Ok(DeploymentDetail { deployment, runs })
    }

    /// Cancels all runs that are not over.
    pub fn cancel(&self, id: &str, by: &Principal) -> Result<DeploymentDetail, Error> {
        for run in self.deployment(id)?.runs.iter().filter(|run| !run.state.is_over()) {
            self.direct(run.id.as_str(), Directive::Cancel, by)?;
        }
        self.deployment(id)
    }

    /// Lets a stopped deployment go on, with another share of failures allowed.
    pub fn resume(&self, id: &str, failures_percent_max: u32, by: &Principal) -> Result<DeploymentRecord, Error> {
        let now = self.fleet.clock.now();
        self.fleet.db.write(|tx| {
            let mut record = find(tx, id)?;
            record.rollout.failures_percent_max = failures_percent_max;
            tx.execute(
                "UPDATE deployment SET stopped = NULL, rollout = ?2 WHERE id = ?1",
                (id, json!(record.rollout).to_string()),
            )?;
            audit::append(tx, now, &by.label(), "deployment-resume", id, &failures_percent_max.to_string())?;
            Ok::<_, Error>(())
        })?;
        self.tick()?;
        self.deployment(id).map(|detail| detail.deployment)
    }

    /// Keeps the order of a run, its secrets sealed.
    fn insert_run(
        &self,
        tx: &Transaction<'_>,
        deployment: &str,
        position: usize,
        machine: &Machine,
        order: &RunOrder,
        now: Timestamp,
    ) -> Result<(), Error> {
        let id = RunId(fresh("run", now, secret::random()));
        let (order, sealed) = self.seal(&RunOrder { run: id.clone(), ..order.clone() });
        let directive = if order.debug { "pause" } else { "go" };
        tx.execute(
            "INSERT INTO run (id, deployment, position, machine, state, directive, run_order, steps, created_at, sealed, debug)
             VALUES (?1, ?2, ?3, ?4, 'queued', ?5, ?6, ?7, ?8, ?9, ?10)",
            (
                id.as_str(),
                deployment,
                position as i64,
                machine.id.as_str(),
                directive,
                json!(order).to_string(),
                order.sequence.steps().count() as i64,
                now.milliseconds(),
                sealed,
                order.debug,
            ),
        )?;
        Ok(())
    }

    /// Moves every deployment on: whose turn it is, what the deadline has overtaken, which must stop. Called when a run
    /// ends and every few seconds.
    pub fn tick(&self) -> Result<(), Error> {
        let now = self.fleet.clock.now();
        let open: Vec<String> = self.fleet.db.read(|c| {
            let mut statement = c.prepare_cached("SELECT DISTINCT deployment FROM run WHERE state = 'queued'")?;
            let rows = statement.query_map([], |row| row.get(0))?;
            Ok::<_, Error>(rows.collect::<Result<_, _>>()?)
        })?;
        for id in open {
            let moved = self.fleet.db.write(|tx| move_on(tx, &id, now))?;
            for machine in moved.released {
                let machine = self.fleet.set_next_boot(&machine, NextBoot::BootEnvironment)?;
                if moved.wake {
                    (self.lookup.wake)(&machine);
                }
            }
            moved.runs.iter().for_each(|run| self.announce(run.as_str()));
        }
        Ok(())
    }
}

struct Prepared {
    preview: Preview,
    orders: Vec<(Machine, RunOrder)>,
}

#[derive(Default)]
struct Moved {
    released: Vec<MachineId>,
    runs: Vec<RunId>,
    wake: bool,
}

fn move_on(tx: &Transaction<'_>, id: &str, now: Timestamp) -> Result<Moved, Error> {
    let record = find(tx, id)?;
    let mut statement =
        tx.prepare_cached("SELECT id, machine, state FROM run WHERE deployment = ?1 ORDER BY position")?;
    let rows = statement.query_map([id], |row| {
        Ok((RunId(row.get(0)?), MachineId(row.get(1)?), RunState::parse(&row.get::<_, String>(2)?)))
    })?;
    let runs: Vec<(RunId, MachineId, Option<RunState>)> = rows.collect::<Result<_, _>>()?;
    let states: Vec<RunState> = runs.iter().map(|(_, _, state)| state.unwrap_or(RunState::Failed)).collect();
    let mut moved = Moved { wake: record.rollout.wake, ..Moved::default() };
    if record.stopped.is_some() {
        return Ok(moved);
    }
    let decision = decide(&record.rollout, &states, now);
    if let Some(why) = decision.stop {
        tx.execute("UPDATE deployment SET stopped = ?2 WHERE id = ?1", (id, &why))?;
        audit::append(tx, now, "appliance", "deployment-stop", id, &why)?;
    }
    for index in decision.expire {
        end_run(tx, &runs[index].0, RunState::Cancelled, now)?;
        tx.execute("UPDATE run SET error = 'the deadline has passed' WHERE id = ?1", [runs[index].0.as_str()])?;
        moved.runs.push(runs[index].0.clone());
    }
    for index in decision.release {
        let (run, machine, _) = &runs[index];
        if due(tx, machine)?.is_none() {
            tx.execute("UPDATE run SET state = 'waiting' WHERE id = ?1", [run.as_str()])?;
            moved.released.push(machine.clone());
            moved.runs.push(run.clone());
        }
    }
    Ok(moved)
}

fn unfinished(c: &Connection, machine: &MachineId) -> Result<Option<String>, Error> {
    let mut statement = c.prepare_cached(
        "SELECT id FROM run WHERE machine = ?1 AND state IN ('queued', 'waiting', 'running') LIMIT 1",
    )?;
    Ok(statement.query_row([machine.as_str()], |row| row.get(0)).optional()?)
}

const DEPLOYMENT: &str =
    "SELECT id, sequence, version, target, rollout, stopped, created_at, created_by FROM deployment";

fn find(c: &Connection, id: &str) -> Result<DeploymentRecord, Error> {
    let mut statement = c.prepare_cached(&format!("{DEPLOYMENT} WHERE id = ?1"))?;
    let record = statement.query_row([id], read_deployment).optional()?;
    counted(c, record.ok_or_else(|| Error::NoDeployment(id.to_owned()))??)
}

fn counted(c: &Connection, record: DeploymentRecord) -> Result<DeploymentRecord, Error> {
    let mut statement = c.prepare_cached("SELECT state, count(*) FROM run WHERE deployment = ?1 GROUP BY state")?;
    let rows = statement.query_map([&record.id], |row| Ok((row.get::<_, String>(0)?, row.get::<_, u32>(1)?)))?;
    let mut counts = Counts::default();
    for row in rows {
        let (state, count) = row?;
        if let Some(state) = RunState::parse(&state) {
            *counts.slot(state) = count;
        }
    }
    Ok(DeploymentRecord { counts, ..record })
}

type Read<T> = Result<Result<T, Error>, rusqlite::Error>;

fn read_deployment(row: &Row<'_>) -> Read<DeploymentRecord> {
    let (id, rollout) = (row.get::<_, String>(0)?, row.get::<_, String>(4)?);
    let rollout = match stored("deployment", &id, &rollout) {
        Ok(rollout) => rollout,
        Err(error) => return Ok(Err(error)),
    };
    Ok(Ok(DeploymentRecord {
        id,
        sequence: row.get(1)?,
        version: row.get(2)?,
        target: row.get(3)?,
        rollout,
        stopped: row.get(5)?,
        created_at: Timestamp::from_milliseconds(row.get(6)?),
        created_by: row.get(7)?,
        counts: Counts::default(),
    }))
}

/// Variables that are given and that the sequence does not have.
fn unknown_variables(sequence: &Sequence, values: &Values) -> Vec<String> {
    let unknown = values.keys().filter(|name| !sequence.variables.iter().any(|variable| variable.name == **name));
    unknown.map(|name| format!("the sequence has no variable `{name}`")).collect()
}

/// Variables that are missing or of another type.
fn wrong_variables(sequence: &Sequence, values: &Values) -> Vec<String> {
    let mut wrong = Vec::new();
    for variable in &sequence.variables {
        let name = &variable.name;
        match values.get(name) {
            None if variable.default.is_none() => {
                wrong.push(format!("the variable `{name}` has no value (`--set {name}=VALUE`)"))
            }
            Some(value) if !variable.kind.accepts(value) => {
                wrong.push(format!("the variable `{name}` must be of type {}", variable.kind.name()));
            }
            Some(value) if !variable.choices.is_empty() && !variable.choices.contains(value) => {
                let choices: Vec<String> = variable.choices.iter().map(ToString::to_string).collect();
                wrong.push(format!("the variable `{name}` must be one of {}", choices.join(", ")));
            }
            _ => {}
        }
    }
    wrong
}
