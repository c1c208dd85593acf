//! The decision of a run: (sequence, journal so far, now) -> what to do next. Pure.
//!
//! | an item's state | from | the next action |
//! |---|---|---|
//! | untouched | - | `Decide`: the driver computes `when:` and records `Entered` or `Skipped` |
//! | entered | `Entered` | a step: record `Started`; a group: its first item |
//! | started in this life of the driver | `Started` | `Run` |
//! | started in an earlier life | `Started` | record `Started` once more, then `Run` as interrupted |
//! | failed, attempts left | `Finished(failed)` | `Wait` for the back-off, then record `Started` |
//! | over | `Skipped`, `Finished` | the item after it |
//!
//! A failed item ends its block unless it has `continue-on-error`: the rest of `steps` is left out, `on-failure` runs, then
//! `always`, and the block has failed. Cancelling leaves out everything that was not started but `always`.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::stdx::backoff::Backoff;
use crate::stdx::time::Timestamp;

use super::host::Place;
use super::journal::{Entry, Finished, RunResult, StepResult, What};
use super::layout::Target;
use super::model::{Block, Item, ItemId, Sequence, Step, Work};

/// A step that never comes to its end because the machine dies under it is not begun more often than this.
const INTERRUPTIONS_MAX: u32 = 5;

/// What to do next. `Decide` and `Record` change the journal; the rest touches the world.
#[derive(Debug, PartialEq)]
pub enum Action<'a> {
    /// Compute the item's condition and record `Entered` or `Skipped`.
    Decide(&'a Item),
    /// Append this to the journal, then `accept` it.
    Record(ItemId, What),
    /// Run the step, and record `Finished`.
    Run { item: &'a Item, step: &'a Step, interrupted: bool },
    /// Nothing is due before this instant.
    Wait(Timestamp),
    /// Restart the machine into this place.
    Restart(Place),
    /// The run is over, and the journal says so.
    Finish(RunResult),
}

pub struct Engine<'a> {
    sequence: &'a Sequence,
    /// Which boot of the machine this is.
    boot: String,
    states: HashMap<ItemId, State>,
    /// Position of every item in the order of the document, for `Rewound`.
    order: HashMap<&'a ItemId, usize>,
    sets: Vec<(ItemId, Map<String, Value>)>,
    target: Option<Target>,
    /// A restart that a finished step asked for, and the boot in which it did.
    restart: Option<(String, Place)>,
    power_off: bool,
    cancelled: bool,
    ended: Option<RunResult>,
    first_error: Option<(ItemId, String)>,
}

#[derive(Clone, Debug, Default)]
struct State {
    entered: bool,
    skipped: bool,
    /// `Some` while the step is started and not finished: whether that was in an earlier life of the driver.
    running: Option<Running>,
    /// The boot in which it was last started.
    boot: String,
    attempts: u32,
    interruptions: u32,
    finished: Option<(Timestamp, StepResult)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Running {
    earlier: bool,
    interrupted: bool,
}

/// What became of an item or a block.
enum Walk<'a> {
    Next(Action<'a>),
    Over(bool),
}

impl<'a> Engine<'a> {
    /// The engine of a run whose journal so far is `entries`, in the boot of the machine called `boot`.
    pub fn resume(sequence: &'a Sequence, boot: &str, entries: &[Entry]) -> Engine<'a> {
        let order = sequence.items().into_iter().enumerate().map(|(index, item)| (&item.id, index)).collect();
        let mut engine = Engine {
            sequence,
            boot: boot.to_owned(),
            states: HashMap::new(),
            order,
            sets: Vec::new(),
            target: None,
            restart: None,
            power_off: false,
            cancelled: false,
            ended: None,
            first_error: None,
        };
        for entry in entries {
            engine.accept(entry);
        }
        for running in engine.states.values_mut().filter_map(|state| state.running.as_mut()) {
            running.earlier = true;
        }
        engine
    }

    /// Takes in an entry that is in the journal.
    pub fn accept(&mut self, entry: &Entry) {
        let state = self.states.entry(entry.item.clone()).or_default();
        match &entry.what {
            What::Entered => state.entered = true,
            What::Skipped { .. } => state.skipped = true,
            What::Started { attempt, boot } => {
                state.boot.clone_from(boot);
                let again = state.running.is_some();
                state.interruptions += u32::from(again);
                state.attempts = *attempt;
                state.running = Some(Running { earlier: false, interrupted: again });
            }
            What::Finished(finished) => self.finish(entry, finished),
            What::Cancelled => self.cancelled = true,
            What::Rewound => self.rewind(&entry.item),
            What::Ended { result } => self.ended = Some(*result),
            What::Unknown => {}
        }
    }

    fn finish(&mut self, entry: &Entry, finished: &Finished) {
        let state = self.states.entry(entry.item.clone()).or_default();
        self.restart = finished.restart.map(|place| (state.boot.clone(), place));
        state.running = None;
        state.finished = Some((entry.at, finished.result));
        self.sets.push((entry.item.clone(), finished.sets.clone()));
        self.power_off |= finished.power_off;
        if finished.target.is_some() || finished.blank {
            self.target = finished.target.as_deref().cloned();
        }
        if let (StepResult::Failed, Some(error)) = (finished.result, &finished.error) {
            self.first_error.get_or_insert_with(|| (entry.item.clone(), error.clone()));
        }
    }

    /// Forgets the item and everything after it in the document.
    fn rewind(&mut self, to: &ItemId) {
        let from = self.order.get(to).copied().unwrap_or(usize::MAX);
        let order = &self.order;
        let earlier = |item: &ItemId| order.get(item).is_some_and(|index| *index < from);
        self.states.retain(|item, _| earlier(item));
        self.sets.retain(|(item, _)| earlier(item));
        self.ended = None;
        self.cancelled = false;
        self.restart = None;
        self.first_error = None;
    }

    /// The next action. `now` decides only whether a back-off is over.
    pub fn next(&self, now: Timestamp) -> Action<'a> {
        if let Some(result) = self.ended {
            return Action::Finish(result);
        }
        if let Some((_, place)) = self.restart.as_ref().filter(|(boot, _)| *boot == self.boot) {
            return Action::Restart(*place);
        }
        match self.walk_block(&self.sequence.body, self.cancelled, now) {
            Walk::Next(action) => action,
            Walk::Over(ok) => {
                let result = match (self.cancelled, ok) {
                    (true, _) => RunResult::Cancelled,
                    (false, true) => RunResult::Succeeded,
                    (false, false) => RunResult::Failed,
                };
                Action::Record(ItemId(String::new()), What::Ended { result })
            }
        }
    }

    /// Variables that steps have set.
    pub fn sets(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.sets.iter().flat_map(|(_, sets)| sets)
    }

    /// The same with the steps that have set them, in the order of the journal.
    pub fn sets_by(&self) -> impl Iterator<Item = &(ItemId, Map<String, Value>)> {
        self.sets.iter()
    }

    /// Where the system is, once a step has said so.
    pub fn target(&self) -> Option<&Target> {
        self.target.as_ref()
    }

    /// Where the run failed first, and why.
    pub fn first_error(&self) -> Option<(&ItemId, &str)> {
        self.first_error.as_ref().map(|(item, error)| (item, error.as_str()))
    }

    /// Whether a step has asked for the machine to be switched off in the end.
    pub fn power_off(&self) -> bool {
        self.power_off
    }

    pub fn is_cancelled(&self) -> bool {
        self.cancelled
    }

    /// `closing`: the run was cancelled, nothing that is untouched is begun.
    fn walk_block(&self, block: &'a Block, closing: bool, now: Timestamp) -> Walk<'a> {
        let mut ok = match self.walk_list(&block.steps, closing, now) {
            Walk::Over(ok) => ok,
            next => return next,
        };
        if !ok && let next @ Walk::Next(_) = self.walk_list(&block.on_failure, closing, now) {
            return next;
        }
        match self.walk_list(&block.always, false, now) {
            Walk::Over(always_ok) => ok &= always_ok,
            next => return next,
        }
        Walk::Over(ok)
    }

    /// The items one after the other, up to the first that failed.
    fn walk_list(&self, items: &'a [Item], closing: bool, now: Timestamp) -> Walk<'a> {
        for item in items {
            match self.walk_item(item, closing, now) {
                Walk::Over(true) => {}
                Walk::Over(false) if item.continue_on_error && !closing => {}
                other => return other,
            }
        }
        Walk::Over(true)
    }

    fn walk_item(&self, item: &'a Item, closing: bool, now: Timestamp) -> Walk<'a> {
        let known = |state: &&State| state.entered || state.skipped || state.finished.is_some();
        let Some(state) = self.states.get(&item.id).filter(known) else {
            return if closing { Walk::Over(false) } else { Walk::Next(Action::Decide(item)) };
        };
        match &item.work {
            _ if state.skipped => Walk::Over(true),
            // The condition could not be computed.
            _ if !state.entered => Walk::Over(false),
            Work::Group(block) => self.walk_block(block, closing, now),
            Work::Step(step) => self.walk_step(item, step, state, closing, now),
        }
    }

    fn walk_step(&self, item: &'a Item, step: &'a Step, state: &State, closing: bool, now: Timestamp) -> Walk<'a> {
        if let Some(running) = state.running {
            return Walk::Next(self.go_on(item, step, state, running));
        }
        match state.finished {
            None if closing => Walk::Over(false),
            None => Walk::Next(self.start(item, state.attempts + 1)),
            Some((_, StepResult::Done | StepResult::Held)) => Walk::Over(true),
            Some((at, StepResult::Failed)) if state.attempts < step.retry.attempts && !closing => {
                let due = at.plus_seconds(retry_delay(step, state.attempts, &item.id).as_secs().cast_signed());
                Walk::Next(if now >= due { self.start(item, state.attempts + 1) } else { Action::Wait(due) })
            }
            Some((_, StepResult::Failed)) => Walk::Over(false),
        }
    }

    fn go_on(&self, item: &'a Item, step: &'a Step, state: &State, running: Running) -> Action<'a> {
        if !running.earlier {
            return Action::Run { item, step, interrupted: running.interrupted };
        }
        if state.interruptions >= INTERRUPTIONS_MAX {
            let finished = Finished {
                error: Some(format!("the step was interrupted {} times", state.interruptions + 1)),
                hint: Some("see the machine's console: it restarts or loses power while this step runs".into()),
                ..Finished::default()
            };
            return Action::Record(item.id.clone(), What::Finished(finished));
        }
        self.start(item, state.attempts)
    }

    fn start(&self, item: &Item, attempt: u32) -> Action<'a> {
        Action::Record(item.id.clone(), What::Started { attempt, boot: self.boot.clone() })
    }
}

/// The wait before the attempt after `attempts`: the same in every life of the driver.
fn retry_delay(step: &Step, attempts: u32, id: &ItemId) -> Duration {
    let backoff = Backoff {
        first: Duration::from_secs(step.retry.first_seconds),
        max: Duration::from_secs(step.retry.max_seconds.max(step.retry.first_seconds)),
    };
    let seed = id.0.bytes().fold(7u64, |seed, byte| seed.wrapping_mul(31).wrapping_add(u64::from(byte)));
    backoff.delay(attempts.saturating_sub(1), seed)
}
