//! Tells the appliance how a run goes: journal entries in order and for certain, log lines in order, progress coalesced.
//!
//! One sender thread posts what has gathered, about once a second, and goes on from where the appliance says it is. When the
//! appliance is away the sender waits for it; meanwhile entries pile up (a run has some dozens) and log lines beyond a limit
//! are counted instead of kept.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::link;
use crate::stdx::backoff::Backoff;
use crate::stdx::hint::{Hint, chain};
use crate::stdx::time::{Clock, SystemClock};
use crate::tasksequence::event::{Directive, Line, Reporter, StepProgress};
use crate::tasksequence::host::Place;
use crate::tasksequence::journal::{Entry, JournalError, JournalStore};
use crate::tasksequence::link::{EventsReply, PostEvents, RunId};
use crate::tasksequence::model::{Item, ItemId};

/// Lines that wait to be sent; a step that floods loses its middle, which the log then says.
const LINES_MAX: usize = 4000;
/// Lines and entries of one message.
const LINES_PER_MESSAGE: usize = 500;
const ENTRIES_PER_MESSAGE: usize = 200;
/// What is not urgent gathers for so long.
const GATHER: Duration = Duration::from_millis(700);
/// Without anything to say the appliance is asked for its directive this often.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// How the sender is doing, for a screen or a log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Health {
    Connected,
    /// The appliance is away; nothing is lost.
    Away {
        text: String,
        hint: Option<String>,
    },
    /// The appliance refuses this run for good.
    Refused(String),
}

/// How events reach the appliance. A test puts a model of it here.
pub type Post = Box<dyn Fn(&PostEvents) -> Result<EventsReply, link::Error> + Send>;
type Told = Box<dyn FnMut(Health) + Send>;

/// The machine's end of one run's reports. Clones share it; the last one gone ends the sender.
#[derive(Clone)]
pub struct Reports {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    run: RunId,
    boot: String,
    /// All entries of the run; `acknowledged` of them are with the appliance.
    entries: Vec<Entry>,
    acknowledged: usize,
    lines: VecDeque<Line>,
    /// Number of the first waiting line; unknown until the appliance has said how many it has of this boot.
    lines_from: Option<u64>,
    lines_lost: u64,
    progress: Option<StepProgress>,
    restart: Option<Place>,
    restart_known: bool,
    directive: Directive,
    answers: BTreeMap<ItemId, Value>,
    urgent: bool,
    refused: Option<String>,
    closed: bool,
}

impl Reports {
    /// Begins to report. `entries` is the journal so far, of which the appliance has `known`.
    pub fn start(run: RunId, boot: &str, entries: Vec<Entry>, known: usize, post: Post, told: Told) -> Reports {
        Reports::start_with(Backoff::PATIENT, run, boot, entries, known, post, told)
    }

    fn start_with(
        backoff: Backoff,
        run: RunId,
        boot: &str,
        entries: Vec<Entry>,
        known: usize,
        post: Post,
        told: Told,
    ) -> Reports {
        let state = State {
            run,
            boot: boot.to_owned(),
            acknowledged: known.min(entries.len()),
            entries,
            lines: VecDeque::new(),
            lines_from: None,
            lines_lost: 0,
            progress: None,
            restart: None,
            restart_known: false,
            directive: Directive::Go,
            answers: BTreeMap::new(),
            urgent: true,
            refused: None,
            closed: false,
        };
        let reports = Reports { shared: Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() }) };
        let shared = reports.shared.clone();
        thread::spawn(move || send(&shared, backoff, &post, told));
        reports
    }

    /// Adds an entry that must be with the appliance before anything else happens, and waits until it is.
    fn append_and_wait(&self, entry: &Entry) -> Result<(), JournalError> {
        let mut state = self.lock();
        state.entries.push(entry.clone());
        let number = state.entries.len();
        self.hurry(&mut state);
        while state.acknowledged < number {
            if let Some(why) = &state.refused {
                return Err(JournalError::Appliance(why.clone()));
            }
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }

    /// Sends all that is left, and that the machine restarts when it does. Waits until the appliance has it, at most
    /// `patience`; whether it has.
    pub fn finish(&self, restart: Option<Place>, patience: Duration) -> bool {
        let mut state = self.lock();
        state.restart = restart;
        self.hurry(&mut state);
        let waited = self
            .shared
            .changed
            .wait_timeout_while(state, patience, |state| state.refused.is_none() && !state.is_all_known());
        let mut state = waited.unwrap_or_else(PoisonError::into_inner).0;
        state.closed = true;
        self.shared.changed.notify_all();
        state.is_all_known()
    }

    fn hurry(&self, state: &mut State) {
        state.urgent = true;
        self.shared.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_all_known(&self) -> bool {
        let restart_told = self.restart.is_none() || self.restart_known;
        self.acknowledged == self.entries.len() && self.lines.is_empty() && restart_told
    }

    fn has_news(&self) -> bool {
        !self.is_all_known() || self.progress.is_some()
    }

    fn message(&mut self) -> PostEvents {
        self.urgent = false;
        let entries = self.entries.iter().skip(self.acknowledged).take(ENTRIES_PER_MESSAGE);
        let lines = self.lines.iter().take(if self.lines_from.is_some() { LINES_PER_MESSAGE } else { 0 });
        PostEvents {
            run: self.run.clone(),
            journal_from: self.acknowledged as u64,
            journal: entries.cloned().collect(),
            boot: self.boot.clone(),
            lines_from: self.lines_from.unwrap_or(0),
            lines: lines.cloned().collect(),
            progress: self.progress.take(),
            restart: self.restart,
            sent_at: SystemClock.now(),
        }
    }

    fn acknowledge(&mut self, sent: &PostEvents, reply: &EventsReply) {
        self.acknowledged = usize::try_from(reply.journal).unwrap_or(usize::MAX).min(self.entries.len());
        let from = *self.lines_from.get_or_insert(reply.lines);
        let known = usize::try_from(reply.lines.saturating_sub(from)).unwrap_or(usize::MAX);
        let known = known.min(sent.lines.len()).min(self.lines.len());
        self.lines.drain(..known);
        self.lines_from = Some(from + known as u64);
        self.restart_known |= sent.restart.is_some();
        self.directive = reply.directive;
        self.answers.clone_from(&reply.answers);
        // More than one message's worth is waiting.
        self.urgent |= !self.is_all_known();
    }

    fn add_line(&mut self, line: Line) {
        if self.lines.len() >= LINES_MAX {
            self.lines_lost += 1;
            return;
        }
        if self.lines_lost > 0 {
            let text =
                format!("({} lines were left out here: they came faster than they could be sent)", self.lines_lost);
            self.lines.push_back(Line { text, ..line.clone() });
            self.lines_lost = 0;
        }
        self.lines.push_back(line);
    }
}

fn send(shared: &Shared, backoff: Backoff, post: &Post, mut told: Told) {
    let mut attempt = 0;
    while let Some(message) = next_message(shared) {
        let answer = post(&message);
        let mut state = shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        match answer {
            Ok(reply) => {
                attempt = 0;
                state.acknowledge(&message, &reply);
                told(Health::Connected);
            }
            Err(error) if error.is_transient() => {
                drop(state);
                told(Health::Away { text: chain(&error), hint: error.hint() });
                thread::sleep(backoff.delay(attempt, u64::from(std::process::id())));
                attempt += 1;
                shared.state.lock().unwrap_or_else(PoisonError::into_inner).urgent = true;
            }
            Err(error) => {
                told(Health::Refused(chain(&error)));
                state.refused = Some(chain(&error));
            }
        }
        shared.changed.notify_all();
    }
}

/// Waits until there is something to say; `None` when nothing will be said any more.
fn next_message(shared: &Shared) -> Option<PostEvents> {
    let mut state = shared.state.lock().unwrap_or_else(PoisonError::into_inner);
    let started = Instant::now();
    loop {
        if state.closed || state.refused.is_some() {
            return None;
        }
        let due = if state.has_news() { GATHER } else { HEARTBEAT };
        let waited = started.elapsed();
        if state.urgent || waited >= due {
            return Some(state.message());
        }
        let timeout = (due - waited).min(GATHER);
        state = shared.changed.wait_timeout(state, timeout).unwrap_or_else(PoisonError::into_inner).0;
    }
}

impl Reporter for Reports {
    /// In the boot environment the entry is with the appliance already, which is where the journal is kept there.
    fn entry(&mut self, entry: &Entry, _item: Option<&Item>) {
        let mut state = self.lock();
        if state.entries.last() != Some(entry) {
            state.entries.push(entry.clone());
        }
        self.hurry(&mut state);
    }

    fn line(&mut self, line: Line) {
        self.lock().add_line(line);
    }

    fn progress(&mut self, progress: StepProgress) {
        self.lock().progress = Some(progress);
    }

    fn directive(&mut self) -> Directive {
        self.lock().directive
    }

    fn settle(&mut self) {
        let mut state = self.lock();
        self.hurry(&mut state);
        let unheard = |state: &mut State| state.refused.is_none() && state.acknowledged < state.entries.len();
        drop(self.shared.changed.wait_while(state, unheard));
    }

    fn answer(&mut self, item: &ItemId) -> Option<Value> {
        self.lock().answers.get(item).cloned()
    }
}

/// The journal of the boot environment, where nothing local survives: an entry is kept when the appliance has it.
pub struct ApplianceJournal(pub Reports);

impl JournalStore for ApplianceJournal {
    fn append(&mut self, entry: &Entry) -> Result<(), JournalError> {
        self.0.append_and_wait(entry)
    }
}

/// A line that is about the run as a whole.
pub fn line(text: impl Into<String>) -> Line {
    Line { at: SystemClock.now(), item: ItemId(String::new()), text: text.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stdx::time::Timestamp;
    use crate::tasksequence::journal::What;

    const QUICK: Backoff = Backoff { first: Duration::from_millis(1), max: Duration::from_millis(1) };

    #[derive(Default)]
    struct Appliance {
        journal: Vec<Entry>,
        lines: Vec<String>,
        restart: Option<Place>,
        failures: u32,
    }

    fn entry(number: i64) -> Entry {
        Entry { at: Timestamp::from_milliseconds(number), item: ItemId("a".into()), what: What::Entered }
    }

    fn text(text: &str) -> Line {
        line(text)
    }

    /// An appliance that fails every other call after having taken it in, as a lost answer does.
    fn flaky(appliance: &Arc<Mutex<Appliance>>) -> Post {
        let appliance = appliance.clone();
        Box::new(move |message| {
            let mut appliance = appliance.lock().unwrap();
            let known = appliance.journal.len();
            let skip = known.saturating_sub(message.journal_from as usize);
            appliance.journal.extend(message.journal.iter().skip(skip).cloned());
            let skip = appliance.lines.len().saturating_sub(message.lines_from as usize);
            appliance.lines.extend(message.lines.iter().skip(skip).map(|line| line.text.clone()));
            appliance.restart = message.restart.or(appliance.restart);
            appliance.failures += 1;
            if appliance.failures % 2 == 1 {
                let refused = link::Error::Refused { url: "x".into(), status: 503, detail: "busy".into(), hint: None };
                return Err(refused);
            }
            Ok(EventsReply {
                journal: appliance.journal.len() as u64,
                lines: appliance.lines.len() as u64,
                directive: Directive::Pause,
                answers: BTreeMap::new(),
            })
        })
    }

    #[test]
    fn entries_and_lines_arrive_once_each_although_every_other_answer_is_lost() {
        let appliance =
            Arc::new(Mutex::new(Appliance { lines: vec!["of an earlier life".into()], ..Appliance::default() }));
        let mut reports = Reports::start_with(
            QUICK,
            "run-1".into(),
            "boot-1",
            vec![entry(0)],
            0,
            flaky(&appliance),
            Box::new(|_| {}),
        );
        let mut journal = ApplianceJournal(reports.clone());
        reports.line(text("one"));
        journal.append(&entry(1)).unwrap();
        reports.entry(&entry(1), None);
        assert_eq!(appliance.lock().unwrap().journal, [entry(0), entry(1)]);
        reports.line(text("two"));
        reports.entry(&entry(2), None);
        assert!(reports.finish(Some(Place::InstalledSystem), Duration::from_secs(60)));
        let appliance = appliance.lock().unwrap();
        assert_eq!(appliance.journal, [entry(0), entry(1), entry(2)]);
        assert_eq!(appliance.lines, ["of an earlier life", "one", "two"]);
        assert_eq!(appliance.restart, Some(Place::InstalledSystem));
        assert_eq!(reports.directive(), Directive::Pause);
    }

    #[test]
    fn a_flood_of_lines_is_bounded_and_says_what_is_missing() {
        let post: Post = Box::new(|_| Err(link::Error::Setup("stop".into())));
        let mut reports = Reports::start("run-1".into(), "b", Vec::new(), 0, post, Box::new(|_| {}));
        for number in 0..LINES_MAX + 10 {
            reports.line(text(&number.to_string()));
        }
        let mut state = reports.lock();
        assert_eq!((state.lines.len(), state.lines_lost), (LINES_MAX, 10));
        state.lines.clear();
        state.add_line(text("after"));
        assert!(state.lines[0].text.starts_with("(10 lines"));
    }

    #[test]
    fn what_the_appliance_refuses_for_good_ends_the_journal() {
        let post: Post = Box::new(|_| Err(link::Error::Setup("no such run".into())));
        let reports = Reports::start("run-1".into(), "b", Vec::new(), 0, post, Box::new(|_| {}));
        assert!(ApplianceJournal(reports).append(&entry(0)).is_err());
    }
}
