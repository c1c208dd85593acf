//! The one loop that carries out a run.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::stdx::time::Timestamp;

use super::condition::{self, ConditionError, Scope};
use super::engine::{Action, Engine};
use super::event::{Directive, Line, Reporter, StepProgress};
use super::host::{Host, Place, Watch};
use super::journal::{Entry, Finished, JournalError, JournalStore, RunResult, StepResult, What};
use super::link::RunOrder;
use super::model::{Block, Item, ItemId, Sequence, Step};
use super::steps::{self, Check, Done, On, StepError};

/// How a call of `drive` ended.
#[derive(Debug)]
pub enum Outcome {
    /// The run is over.
    Finished(RunResult, Then),
    /// The machine is to restart into this place, where `drive` is called again.
    Restart(Place),
    /// The journal could not be kept, so nothing more may be done.
    Lost(JournalError),
}

/// What becomes of the machine when its run is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// What it does anyway.
    GoOn,
    PowerOff,
}

/// How often a paused run looks whether it may go on.
const PAUSE: Duration = Duration::from_secs(2);

/// Carries the run on from wherever its journal ends, until it is over or the machine must restart.
///
/// `order.journal` is what `journal` holds already. An entry is reported only after `journal` has it.
pub fn drive(
    order: &RunOrder,
    journal: &mut dyn JournalStore,
    host: &mut dyn Host,
    reporter: &mut dyn Reporter,
) -> Outcome {
    let order = &complete(order, host);
    let engine = Engine::resume(&order.sequence, &host.boot(), &order.journal);
    let entries = order.journal.clone();
    let hidden = Hidden::of(order);
    let mut driver = Driver { order, engine, entries, journal, host, reporter, hidden };
    loop {
        match driver.step() {
            Ok(None) => {}
            Ok(Some(outcome)) => return outcome,
            Err(error) => return Outcome::Lost(error),
        }
    }
}

/// What inventory did not know when the order was made, the machine knows itself.
fn complete(order: &RunOrder, host: &mut dyn Host) -> RunOrder {
    let mut order = order.clone();
    let facts = &mut order.machine;
    if let (0, Ok(hardware)) = (facts.memory_bytes, host.hardware()) {
        facts.memory_bytes = hardware.memory_bytes;
        facts.processors = hardware.processors;
        facts.firmware = hardware.firmware;
        facts.architecture = hardware.architecture;
    }
    if let (true, Ok(disks)) = (facts.disks.is_empty(), host.disks()) {
        facts.disks = disks;
    }
    order
}

struct Driver<'a, 'b> {
    order: &'a RunOrder,
    engine: Engine<'a>,
    entries: Vec<Entry>,
    journal: &'b mut dyn JournalStore,
    host: &'b mut dyn Host,
    reporter: &'b mut dyn Reporter,
    hidden: Hidden,
}

impl<'a> Driver<'a, '_> {
    fn step(&mut self) -> Result<Option<Outcome>, JournalError> {
        match self.engine.next(self.host.now()) {
            Action::Finish(result) => {
                let then = if self.engine.power_off() { Then::PowerOff } else { Then::GoOn };
                return Ok(Some(Outcome::Finished(result, then)));
            }
            Action::Restart(place) => return self.restart(place).map(Some),
            Action::Record(item, what) => {
                if matches!(what, What::Started { .. }) && !self.may_start()? {
                    return Ok(None);
                }
                self.record(item, what)?;
            }
            Action::Decide(item) => {
                let what = self.decide(item);
                self.record(item.id.clone(), what)?;
            }
            Action::Wait(due) => self.wait(due)?,
            Action::Run { item, step, interrupted } => return self.run(item, step, interrupted),
        }
        Ok(None)
    }

    fn record(&mut self, item: ItemId, what: What) -> Result<(), JournalError> {
        let what = self.hidden.what(what);
        let entry = Entry { at: self.host.now(), item, what };
        self.journal.append(&entry)?;
        self.engine.accept(&entry);
        self.reporter.entry(&entry, self.order.sequence.item(&entry.item));
        self.entries.push(entry);
        Ok(())
    }

    /// Waits while the run is paused. False: it was cancelled instead, which is in the journal now.
    fn may_start(&mut self) -> Result<bool, JournalError> {
        if self.order.debug {
            self.reporter.settle();
        }
        loop {
            match self.reporter.directive() {
                Directive::Cancel if !self.engine.is_cancelled() => {
                    self.record(ItemId(String::new()), What::Cancelled)?;
                    return Ok(false);
                }
                Directive::Pause if !self.engine.is_cancelled() => self.host.sleep(PAUSE),
                _ => return Ok(true),
            }
        }
    }

    fn wait(&mut self, due: Timestamp) -> Result<(), JournalError> {
        if self.may_start()? {
            self.host.sleep(Duration::from_millis(due.since(self.host.now()).min(1000)));
        }
        Ok(())
    }

    /// Whether the item is entered or skipped. A condition that cannot be computed fails the item.
    fn decide(&mut self, item: &Item) -> What {
        let Some(when) = &item.when else { return What::Entered };
        match self.scope(&item.id).and_then(|scope| condition::holds(when, &scope)) {
            Ok(true) => What::Entered,
            Ok(false) => What::Skipped { why: format!("`{when}` is false") },
            Err(error) => What::Finished(Finished {
                error: Some(error.to_string()),
                hint: Some("`remint sequence plan FILE --machine NAME` computes every condition for a machine".into()),
                ..Finished::default()
            }),
        }
    }

    fn scope(&self, item: &ItemId) -> Result<Scope, ConditionError> {
        scope_at(self.order, &self.engine, item)
    }

    fn run(&mut self, item: &'a Item, step: &'a Step, interrupted: bool) -> Result<Option<Outcome>, JournalError> {
        match self.carry_out(item, step, interrupted) {
            Ok((result, done)) => {
                if let Some(place) = done.restart_now {
                    return self.restart(place).map(Some);
                }
                let mut sets = done.sets;
                if let Some(name) = &step.register {
                    sets.insert(name.clone(), Value::Object(done.evidence.clone()));
                }
                let finished = Finished {
                    result,
                    evidence: done.evidence,
                    sets,
                    restart: done.restart_after,
                    target: done.target.map(Box::new),
                    blank: done.blank,
                    power_off: done.power_off,
                    ..Finished::default()
                };
                self.record(item.id.clone(), What::Finished(finished))?;
            }
            Err(error) => {
                let finished = Finished { error: Some(error.message), hint: error.hint, ..Finished::default() };
                self.record(item.id.clone(), What::Finished(finished))?;
            }
        }
        Ok(None)
    }

    /// check -> apply -> verify.
    fn carry_out(&mut self, item: &Item, step: &Step, interrupted: bool) -> Result<(StepResult, Done), StepError> {
        let row = steps::row(&step.kind).ok_or_else(|| StepError::unknown_kind(&step.kind))?;
        let place = self.host.place();
        if !row.places.contains(&place) {
            return Err(StepError::misplaced(row, place));
        }
        let mut scope = self.scope(&item.id)?;
        self.add_secrets(item, step, &mut scope)?;
        let with = row.render(&step.with, &scope)?;
        let work = row.load(with)?;
        // A step that erases begins with whatever an interrupted one has left: there may be nothing to mount.
        if let Some(target) = self.engine.target().filter(|_| !row.erases) {
            self.host.use_target(target)?;
        }
        let deadline = step.timeout_seconds.map(|seconds| self.host.now().plus_seconds(seconds.cast_signed()));
        let first = first_start(&self.entries, &item.id);
        let mut on = On {
            order: self.order,
            journal: &self.entries,
            host: self.host,
            target: self.engine.target(),
            watch: &mut Told { item: &item.id, reporter: self.reporter, deadline, hidden: &self.hidden },
            started_at: first.as_ref().map(|(at, _)| *at),
            started_in: first.map(|(_, boot)| boot),
        };
        let mut done = Done::default();
        let result = match work.check(&mut on)? {
            Check::Holds => StepResult::Held,
            Check::CannotTell if interrupted && !work.repeatable() => return Err(StepError::interrupted()),
            Check::CannotTell | Check::Needed => {
                done = work.apply(&mut on)?;
                StepResult::Done
            }
        };
        if done.restart_now.is_none() {
            work.verify(&mut on, &mut done)?;
        }
        Ok((result, done))
    }

    /// What the step needs in secret is asked for right before it runs, and hidden in all that is told from then on.
    fn add_secrets(&mut self, item: &Item, step: &Step, scope: &mut Scope) -> Result<(), StepError> {
        let needed = secrets_of(&self.order.sequence, step);
        if needed.iter().all(|name| self.order.variables.contains_key(name)) {
            return Ok(());
        }
        for (name, value) in self.host.secrets(&self.order.run, &item.id)? {
            self.hidden.add(&value);
            scope.vars.insert(name, value);
        }
        match needed.iter().find(|name| !scope.vars.contains_key(*name)) {
            Some(name) => Err(StepError::new(format!("the appliance has no secret `{name}` for this step"))
                .hint(format!("give it one: `remint variable set {name} --secret`, and start the deployment anew"))),
            None => Ok(()),
        }
    }

    fn restart(&mut self, place: Place) -> Result<Outcome, JournalError> {
        Ok(match self.host.hand_over(self.order, &self.entries) {
            Ok(()) => Outcome::Restart(place),
            Err(error) => Outcome::Lost(JournalError::Appliance(format!("leave the run to the next system: {error}"))),
        })
    }
}

/// When and in which boot the step was started first in its present attempt.
fn first_start(entries: &[Entry], item: &ItemId) -> Option<(Timestamp, String)> {
    let mut first = None;
    for entry in entries.iter().filter(|entry| entry.item == *item) {
        match &entry.what {
            What::Started { boot, .. } => first = first.or_else(|| Some((entry.at, boot.clone()))),
            _ => first = None,
        }
    }
    first
}

/// What the conditions and templates of one item see: within an included document, its own variables in front of all.
pub fn scope_at(order: &RunOrder, engine: &Engine, item: &ItemId) -> Result<Scope, ConditionError> {
    let mut scope = scope(order, engine.sets(), engine.first_error())?;
    for (group, block) in order.sequence.around(item) {
        give(&mut scope, block)?;
        for (_, sets) in engine.sets_by().filter(|(setter, _)| setter.is_within(group)) {
            scope.vars.extend(sets.clone());
        }
    }
    Ok(scope)
}

/// Puts the variables of an included document in front of those around it.
pub(super) fn give(scope: &mut Scope, block: &Block) -> Result<(), ConditionError> {
    let around = scope.clone();
    for given in &block.given {
        let value = condition::render_all(&given.value, if given.here { &around } else { scope })?;
        scope.vars.insert(given.name.clone(), value);
    }
    Ok(())
}

/// Names of the secret variables that the templates of a step use.
pub fn secrets_of(sequence: &Sequence, step: &Step) -> Vec<String> {
    let used = condition::names_in_all(&Value::Object(step.with.clone()));
    let is_used = |name: &&str| used.iter().any(|used| used.strip_prefix("vars.") == Some(name));
    sequence.secrets().filter(is_used).map(str::to_owned).collect()
}

/// What conditions and templates see: given values, then defaults in their order, then what steps have set.
pub fn scope<'s>(
    order: &RunOrder,
    sets: impl Iterator<Item = (&'s String, &'s Value)>,
    failed: Option<(&ItemId, &str)>,
) -> Result<Scope, ConditionError> {
    let run = json!({
        "id": order.run,
        "sequence": order.sequence.name,
        "version": order.version,
        "failed_step": failed.map(|(item, _)| item),
        "error": failed.map(|(_, error)| error),
    });
    let machine = serde_json::to_value(&order.machine).unwrap_or_default();
    let mut scope = Scope { machine, vars: Map::new(), run };
    for (name, value) in &order.variables {
        scope.vars.insert(name.clone(), value.clone());
    }
    for variable in &order.sequence.variables {
        if let (false, Some(default)) = (scope.vars.contains_key(&variable.name), &variable.default) {
            let value = condition::render_all(default, &scope)?;
            scope.vars.insert(variable.name.clone(), value);
        }
    }
    for (name, value) in sets {
        scope.vars.insert(name.clone(), value.clone());
    }
    Ok(scope)
}

/// The values of secret variables, which no journal, log or plan ever shows.
pub(super) struct Hidden(Vec<String>);

impl Hidden {
    pub(super) fn of(order: &RunOrder) -> Hidden {
        let values = order.sequence.secrets().filter_map(|name| order.variables.get(name)?.as_str());
        Hidden(values.filter(|value| !value.is_empty()).map(str::to_owned).collect())
    }

    fn add(&mut self, value: &Value) {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        if !text.is_empty() && !self.0.contains(&text) {
            self.0.push(text);
        }
    }

    pub(super) fn text(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), "******"))
    }

    fn value(&self, value: &mut Value) {
        match value {
            Value::String(text) => *text = self.text(text),
            Value::Array(list) => list.iter_mut().for_each(|value| self.value(value)),
            Value::Object(map) => map.values_mut().for_each(|value| self.value(value)),
            _ => {}
        }
    }

    fn what(&self, what: What) -> What {
        match what {
            What::Finished(mut finished) if !self.0.is_empty() => {
                finished.error = finished.error.map(|error| self.text(&error));
                finished.evidence.values_mut().for_each(|value| self.value(value));
                finished.sets.values_mut().for_each(|value| self.value(value));
                What::Finished(finished)
            }
            other => other,
        }
    }
}

/// Passes a step's words on, and stops it when its time is over or the run is cancelled.
struct Told<'a> {
    item: &'a ItemId,
    reporter: &'a mut dyn Reporter,
    deadline: Option<Timestamp>,
    hidden: &'a Hidden,
}

impl Watch for Told<'_> {
    fn line(&mut self, now: Timestamp, text: &str) {
        self.reporter.line(Line { at: now, item: self.item.clone(), text: self.hidden.text(text) });
    }

    fn progress(&mut self, done: u64, total: u64, unit: &str, note: &str) {
        let (unit, note) = (unit.to_owned(), note.to_owned());
        self.reporter.progress(StepProgress { item: self.item.clone(), done, total, unit, note });
    }

    fn answer(&mut self) -> Option<Value> {
        self.reporter.answer(self.item)
    }

    fn must_stop(&mut self, now: Timestamp) -> Option<&'static str> {
        if self.deadline.is_some_and(|deadline| now >= deadline) {
            return Some("it took longer than its timeout");
        }
        (self.reporter.directive() == Directive::Cancel).then_some("the run was cancelled")
    }
}
