//! Runs as machines move them on.

use rusqlite::Transaction;
use serde_json::{Value, json};

use crate::fleet::deployment::RunState;
use crate::fleet::machine::{MachineId, MachineState, NextBoot};
use crate::tasksequence::db::{
    Error, RunRecord, Sequences, answers, due, end_run, entries, entry_count, find_run, insert_entry, next_boot,
    stored_order,
};
use crate::tasksequence::host::Place;
use crate::tasksequence::journal::{Entry, RunResult, What};
use crate::tasksequence::link::{EventsReply, FetchRunReply, PostEvents, RunId, RunOrder};
use crate::tasksequence::model::Work;
use crate::tasksequence::plan;
use crate::tasksequence::steps::{self, Gives};

/// Lines of a run that are kept; a program that prints without end must not fill the site's disk.
const LINES_MAX: u64 = 200_000;
const LINE_CHARACTERS_MAX: usize = 4096;
/// How often a machine is restarted to begin its run elsewhere.
const SENT_MAX: u32 = 3;

impl Sequences {
    /// The run that is due on the machine that asks from `place`.
    pub fn fetch(&self, machine: &MachineId, place: Place) -> Result<FetchRunReply, Error> {
        let now = self.fleet.clock.now();
        let record = self.fleet.machine(machine.as_str())?;
        let (reply, began) = self.fleet.db.write(|tx| {
            let Some((run, state)) = due(tx, machine)? else {
                let notice = record.notice.clone();
                return Ok((FetchRunReply { notice, ..FetchRunReply::default() }, None));
            };
            let mut order = stored_order(tx, run.as_str())?;
            order.journal = entries(tx, run.as_str())?;
            let begins = begins_in(&order);
            if state == RunState::Waiting && place != begins {
                let restart = send_elsewhere(tx, &run, begins)?;
                return Ok((FetchRunReply { restart, ..FetchRunReply::default() }, None));
            }
            if state == RunState::Waiting {
                order.machine = (self.lookup.facts)(&record);
                let kept = RunOrder { journal: Vec::new(), ..order.clone() };
                tx.execute(
                    "UPDATE run SET state = 'running', started_at = COALESCE(started_at, ?2), run_order = ?3, error = NULL,
                        hint = NULL WHERE id = ?1",
                    (run.as_str(), now.milliseconds(), json!(kept).to_string()),
                )?;
            }
            Ok::<_, Error>((FetchRunReply { order: Some(Box::new(order)), ..FetchRunReply::default() }, Some(run)))
        })?;
        if reply.restart == Some(Place::BootEnvironment) {
            self.fleet.expect_back(machine)?;
        }
        if let Some(run) = began {
            self.fleet.set_state(machine, MachineState::Deploying)?;
            self.announce(run.as_str());
        }
        Ok(reply)
    }

    /// Takes in what a machine reports about its run. What is known already changes nothing.
    pub fn post(&self, machine: &MachineId, message: &PostEvents) -> Result<EventsReply, Error> {
        let (reply, consequences) = self.fleet.db.write(|tx| {
            let run = find_run(tx, message.run.as_str())?;
            if run.machine != *machine {
                return Err(Error::NoRun(message.run.0.clone()));
            }
            let consequences = take_entries(tx, &run, message)?;
            let lines = take_lines(tx, message)?;
            if let Some(progress) = &message.progress {
                let text = json!(progress).to_string();
                tx.execute("UPDATE run SET progress = ?2 WHERE id = ?1", (run.id.as_str(), text))?;
            }
            let (journal, answers) = (entry_count(tx, run.id.as_str())?, answers(tx, run.id.as_str())?);
            let directive = find_run(tx, run.id.as_str())?.directive;
            let reply = EventsReply { journal, lines, directive, answers };
            Ok::<_, Error>((reply, consequences))
        })?;
        self.carry_out(machine, message, &consequences)?;
        Ok(reply)
    }

    fn carry_out(&self, machine: &MachineId, message: &PostEvents, consequences: &Consequences) -> Result<(), Error> {
        if let Some(place) = message.restart.or(consequences.restart) {
            self.fleet.set_next_boot(machine, next_boot(place))?;
        }
        if let Some(result) = consequences.ended {
            let state = if result == RunResult::Succeeded { MachineState::Managed } else { MachineState::Failed };
            self.fleet.set_state(machine, state)?;
            if result == RunResult::Succeeded {
                self.fleet.set_next_boot(machine, NextBoot::LocalDisk)?;
            }
            self.tick()?;
        }
        let run = message.run.as_str();
        for line in &message.lines {
            self.fleet.live.publish("log", run, json!(line));
        }
        match &message.progress {
            Some(progress) if !consequences.changed => {
                let mut data = json!(progress);
                data["machine"] = json!(machine);
                self.fleet.live.publish("progress", run, data);
            }
            _ => {}
        }
        if consequences.changed {
            self.announce(run);
        }
        Ok(())
    }
}

/// Where a run that waits begins: in the boot environment, or where the step is to which it was sent back.
fn begins_in(order: &RunOrder) -> Place {
    let back = order.journal.last().filter(|entry| entry.what == What::Rewound);
    back.map_or(Place::BootEnvironment, |entry| plan::place_of(&order.sequence, &entry.item))
}

/// A machine that is told to restart and comes up in the same place again is not told for ever.
fn send_elsewhere(tx: &Transaction<'_>, run: &RunId, place: Place) -> Result<Option<Place>, Error> {
    let sent: u32 =
        tx.query_row("UPDATE run SET sent = sent + 1 WHERE id = ?1 RETURNING sent", [run.as_str()], |row| row.get(0))?;
    if sent <= SENT_MAX {
        return Ok(Some(place));
    }
    let error = format!("the machine was restarted {SENT_MAX} times and did not come up in the {}", place.words());
    let hint = "put the network first in its boot order, or start it from the network by hand";
    tx.execute("UPDATE run SET error = ?2, hint = ?3 WHERE id = ?1", (run.as_str(), error, hint))?;
    Ok(None)
}

/// What follows from entries, outside of the transaction that keeps them.
#[derive(Default)]
struct Consequences {
    changed: bool,
    restart: Option<Place>,
    ended: Option<RunResult>,
}

fn take_entries(tx: &Transaction<'_>, run: &RunRecord, message: &PostEvents) -> Result<Consequences, Error> {
    let have = entry_count(tx, run.id.as_str())?;
    let mut consequences = Consequences::default();
    if message.journal_from > have {
        return Ok(consequences);
    }
    let known = usize::try_from(have - message.journal_from).unwrap_or(usize::MAX);
    let new = message.journal.get(known..).unwrap_or_default();
    let order = if new.is_empty() { return Ok(consequences) } else { stored_order(tx, run.id.as_str())? };
    for (number, entry) in (have..).zip(new) {
        insert_entry(tx, run.id.as_str(), number, entry)?;
        note_entry(tx, run, &order, entry, &mut consequences)?;
    }
    Ok(consequences)
}

/// Brings the run's record up to date with an entry.
fn note_entry(
    tx: &Transaction<'_>,
    run: &RunRecord,
    order: &RunOrder,
    entry: &Entry,
    consequences: &mut Consequences,
) -> Result<(), Error> {
    consequences.changed = true;
    let id = run.id.as_str();
    let item = order.sequence.item(&entry.item);
    match &entry.what {
        What::Started { attempt, .. } => {
            if *attempt > 1 {
                // What went wrong is being tried again: it is not why the run fails, if it does.
                tx.execute("UPDATE run SET error = NULL, hint = NULL WHERE id = ?1", [id])?;
            }
            let name = item.map(|item| item.name.as_str()).unwrap_or_default();
            tx.execute(
                "UPDATE run SET state = 'running', step = ?2, step_name = ?3, progress = NULL, question = ?4,
                    directive = CASE WHEN debug AND directive = 'go' THEN 'pause' ELSE directive END WHERE id = ?1",
                (id, entry.item.as_str(), name, item.and_then(|item| question(&item.work))),
            )?;
            consequences.restart = item.and_then(|item| restarts_into(&item.work)).or(consequences.restart);
        }
        What::Finished(finished) => {
            consequences.restart = finished.restart.or(consequences.restart);
            let over = order.sequence.steps().position(|(step, _)| step.id == entry.item).map_or(0, |index| index + 1);
            tx.execute(
                "UPDATE run SET steps_over = max(steps_over, ?2), error = COALESCE(error, ?3), hint = COALESCE(hint, ?4),
                    question = NULL WHERE id = ?1",
                (id, over as i64, finished.error.as_deref(), finished.hint.as_deref()),
            )?;
        }
        What::Ended { result } => {
            let state = match result {
                RunResult::Succeeded => RunState::Succeeded,
                RunResult::Failed => RunState::Failed,
                RunResult::Cancelled => RunState::Cancelled,
            };
            end_run(tx, &run.id, state, entry.at)?;
            consequences.ended = Some(*result);
        }
        What::Entered | What::Skipped { .. } | What::Cancelled | What::Rewound | What::Unknown => {}
    }
    Ok(())
}

/// What a step asks a person, its templates as written.
fn question(work: &Work) -> Option<String> {
    let Work::Step(step) = work else { return None };
    let row = steps::row(&step.kind)?;
    row.parameter("question").and(step.with.get("question")?.as_str().map(str::to_owned))
}

/// Where the machine is to come up after this step, which has just been started.
fn restarts_into(work: &Work) -> Option<Place> {
    let Work::Step(step) = work else { return None };
    steps::row(&step.kind).filter(|row| row.gives == Gives::Place)?;
    let into = step.with.get("into").and_then(Value::as_str);
    Some(if into == Some(Place::BootEnvironment.name()) { Place::BootEnvironment } else { Place::InstalledSystem })
}

fn take_lines(tx: &Transaction<'_>, message: &PostEvents) -> Result<u64, Error> {
    let have: u64 = tx.query_row(
        "SELECT COALESCE(max(number) + 1, 0) FROM run_line WHERE run = ?1 AND boot = ?2",
        (message.run.as_str(), &message.boot),
        |row| row.get(0),
    )?;
    if message.lines_from > have {
        return Ok(have);
    }
    let mut insert = tx.prepare_cached(
        "INSERT INTO run_line (run, boot, number, at, item, text) VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO NOTHING",
    )?;
    for (number, line) in (message.lines_from..).zip(&message.lines).filter(|(number, _)| *number < LINES_MAX) {
        let text: String = line.text.chars().take(LINE_CHARACTERS_MAX).collect();
        let (run, boot) = (message.run.as_str(), &message.boot);
        insert.execute((run, boot, number, line.at.milliseconds(), line.item.as_str(), text))?;
    }
    Ok(have.max(message.lines_from + message.lines.len() as u64))
}
