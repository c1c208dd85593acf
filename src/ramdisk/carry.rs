//! Carries out a run in the boot environment and shows it on the screen.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::screen::{Event, Step};
use super::shell;
use super::terminal::Terminal;
use crate::agent::report::{self, ApplianceJournal, Health, Reports};
use crate::agent::state::Identity;
use crate::agent::surroundings::Around;
use crate::link::client::Client;
use crate::tasksequence::event::{Directive, Line, Reporter, StepProgress};
use crate::tasksequence::host::real::Real;
use crate::tasksequence::host::{Host, Place};
use crate::tasksequence::journal::{Entry, RunResult, StepResult, What};
use crate::tasksequence::link::RunOrder;
use crate::tasksequence::model::{Item, ItemId, Work};
use crate::tasksequence::run::{Outcome, Then, drive};

/// How long the last report may take before the machine restarts without it; the journal is with the appliance anyway.
const FAREWELL: Duration = Duration::from_secs(60);

/// What comes after a run, or a part of it.
pub enum Next {
    Restart,
    PowerOff,
    AskAgain,
}

/// Goes on with the run from wherever its journal ends.
pub fn carry_out(
    terminal: &Terminal,
    client: &Client,
    identity: &Identity,
    order: &RunOrder,
) -> Result<Next, Box<dyn Error>> {
    terminal.activity(format!("Carrying out {}", order.sequence.name));
    let around = Around { client: client.clone(), identity: identity.clone(), folder: None };
    let mut host = Real::new(Place::BootEnvironment, around);
    let post_client = client.clone();
    let screen = terminal.clone();
    let reports = Reports::start(
        order.run.clone(),
        &host.boot(),
        order.journal.clone(),
        order.journal.len(),
        Box::new(move |events| post_client.call(events)),
        Box::new(move |health| show_health(&screen, health)),
    );
    let mut reporter = OnScreen::new(terminal.clone(), reports.clone(), order);
    let mut journal = ApplianceJournal(reports.clone());
    let outcome = drive(order, &mut journal, &mut host, &mut reporter);
    // What a program in between has not written yet, as ntfs-3g may have, would be lost at the restart.
    if let Err(error) = host.release_target() {
        terminal.trouble(error.message, error.hint);
    }
    match outcome {
        Outcome::Restart(place) => {
            reports.finish(Some(place), FAREWELL);
            Ok(Next::Restart)
        }
        Outcome::Finished(result, then) => {
            reports.finish(None, FAREWELL);
            terminal.activity(match result {
                RunResult::Succeeded => "The run has succeeded",
                RunResult::Failed => "The run has failed. Retry it from the appliance, or restart the machine",
                RunResult::Cancelled => "The run was cancelled",
            });
            Ok(match (then, result) {
                (Then::PowerOff, _) => Next::PowerOff,
                (_, RunResult::Succeeded) => Next::Restart,
                _ => Next::AskAgain,
            })
        }
        Outcome::Lost(error) => Err(Box::new(error)),
    }
}

fn show_health(terminal: &Terminal, health: Health) {
    match health {
        Health::Connected => terminal.show(Event::Recovered),
        Health::Away { text, hint } => terminal.trouble(text, hint),
        Health::Refused(text) => terminal.trouble(text, None),
    }
}

/// Shows on the screen what is reported to the appliance.
struct OnScreen {
    terminal: Terminal,
    reports: Reports,
    /// The sequence's steps in order.
    steps: Arc<[ItemId]>,
    debug: bool,
    /// How often Enter was pressed when it was last looked at.
    keys: Option<u64>,
}

impl OnScreen {
    fn new(terminal: Terminal, reports: Reports, order: &RunOrder) -> OnScreen {
        let items = order.sequence.items();
        let steps = items.iter().filter(|item| matches!(item.work, Work::Step(_))).map(|item| item.id.clone());
        OnScreen { terminal, reports, steps: steps.collect(), debug: order.debug, keys: None }
    }
}

impl OnScreen {
    /// The run waits before a step: whoever stands before the machine may look around.
    fn offer_shell(&mut self) {
        self.terminal
            .show(Event::Advice("Paused before the next step. Press Enter for a shell, `exit` leaves it.".into()));
        let keys = self.terminal.keys();
        let before = self.keys.replace(keys);
        if before.is_none_or(|before| before == keys) {
            return;
        }
        self.terminal.log("a shell was opened on the console");
        self.reports.line(report::line("a shell was opened on the machine's console"));
        if let Err(error) = shell::open(&self.terminal) {
            self.terminal.log(format!("no shell: {error}"));
        }
        self.keys = Some(self.terminal.keys());
    }
}

impl Reporter for OnScreen {
    fn entry(&mut self, entry: &Entry, item: Option<&Item>) {
        let name = item.map(|item| item.name.clone()).unwrap_or_default();
        match &entry.what {
            What::Started { .. } => {
                let number = self.steps.iter().position(|id| *id == entry.item).map_or(0, |index| index as u32 + 1);
                self.terminal.show(Event::Step(Step { number, total: self.steps.len() as u32, name }));
            }
            What::Finished(finished) if finished.result == StepResult::Failed => {
                let error = finished.error.clone().unwrap_or_default();
                self.terminal.trouble(format!("{name}: {error}"), finished.hint.clone());
            }
            What::Finished(finished) if finished.result == StepResult::Held => {
                self.terminal.log(format!("{name}: held already"));
            }
            What::Skipped { why } => self.terminal.log(format!("{name}: skipped, {why}")),
            _ => {}
        }
        self.reports.entry(entry, item);
    }

    fn line(&mut self, line: Line) {
        self.terminal.log(line.text.clone());
        self.reports.line(line);
    }

    fn progress(&mut self, progress: StepProgress) {
        self.terminal.show(Event::Progress { done: progress.done, total: progress.total });
        self.reports.progress(progress);
    }

    fn directive(&mut self) -> Directive {
        let directive = self.reports.directive();
        if directive == Directive::Pause && self.debug && shell::is_there() {
            self.offer_shell();
        }
        directive
    }

    fn settle(&mut self) {
        self.reports.settle();
    }

    fn answer(&mut self, item: &ItemId) -> Option<Value> {
        self.reports.answer(item)
    }
}
