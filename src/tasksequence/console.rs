//! Pages: the runs, one run with its step timeline and log, and what a machine's page shows of its runs.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::Response;
use maud::{Markup, html};

use crate::access::Capability;
use crate::api::{Access, Caller, Problem, Routes, Table, blocking};
use crate::console::page::page;
use crate::console::part::{Tone, badge, bar, duration, facts, instant, nothing, section, size};
use crate::fleet::deployment::RunState;
use crate::fleet::machine::Machine;
use crate::stdx::time::Timestamp;

use super::api::problem;
use super::db::{RunRecord, Sequences};
use super::event::{Line, StepProgress};
use super::journal::{Entry, Finished, StepResult, What};
use super::model::Sequence;

/// Lines of the log that a page shows, the last ones.
const LOG_LINES: u64 = 400;
/// Runs that a machine's page lists.
const MACHINE_RUNS: usize = 5;

pub fn routes(sequences: Arc<Sequences>) -> Table {
    let read = Access::Person(Capability::Read);
    Routes::new()
        .get("/runs", read, "All runs", runs)
        .get("/runs/{run}", read, "A run with its steps and its log", run)
        .with_state(sequences)
}

async fn runs(State(sequences): State<Arc<Sequences>>, caller: Caller) -> Result<Response, Problem> {
    blocking(move || {
        let runs = sequences.runs(None, None).map_err(|error| problem(&error))?;
        let body = match runs.is_empty() {
            true => nothing("Nothing was deployed yet: `remint deploy start SEQUENCE --machine NAME`."),
            false => section(&format!("{} runs, newest first", runs.len()), &run_table(&runs)),
        };
        Ok(page(&caller, "/runs", "Runs", &body))
    })
    .await
}

async fn run(
    State(sequences): State<Arc<Sequences>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    blocking(move || {
        let run = sequences.run(&id).map_err(|error| problem(&error))?;
        let entries = sequences.entries(&id).map_err(|error| problem(&error))?;
        let order = sequences.run_order(&id).map_err(|error| problem(&error))?;
        let lines = last_lines(&sequences, &id)?;
        let title = format!("{} on {}", run.sequence, run.machine_name);
        let body = html! {
            (section("Run", &summary(&run)))
            (section("Steps", &timeline(&order.sequence, &entries, &run)))
            (section("Log", &log(&lines)))
        };
        Ok(page(&caller, "/runs", &title, &body))
    })
    .await
}

fn last_lines(sequences: &Sequences, run: &str) -> Result<Vec<Line>, Problem> {
    let mut lines = sequences.lines(run, 0, u64::from(u32::MAX)).map_err(|error| problem(&error))?;
    let keep = usize::try_from(LOG_LINES).unwrap_or(usize::MAX);
    Ok(lines.split_off(lines.len().saturating_sub(keep)))
}

/// What a machine's page shows: its last runs, the newest with its steps.
pub fn machine_section(sequences: &Sequences, machine: &Machine) -> Markup {
    let runs = sequences.runs(Some(machine.id.as_str()), None).unwrap_or_default();
    let Some(newest) = runs.first() else {
        return section("Runs", &nothing("Nothing was deployed to this machine yet."));
    };
    let entries = sequences.entries(newest.id.as_str()).unwrap_or_default();
    let order = sequences.run_order(newest.id.as_str()).ok();
    html! {
        (section("Latest run", &html! {
            (summary(newest))
            @if let Some(order) = &order { (timeline(&order.sequence, &entries, newest)) }
            p { a href={ "/runs/" (newest.id) } { "The run with its log" } }
        }))
        @if runs.len() > 1 { (section("Earlier runs", &run_table(&runs[1..runs.len().min(MACHINE_RUNS + 1)]))) }
    }
}

/// What a machine is doing right now, for lists.
pub fn activity(sequences: &Sequences, machine: &Machine) -> Option<Markup> {
    let runs = sequences.runs(Some(machine.id.as_str()), None).ok()?;
    let run = runs.first()?;
    Some(html! {
        a href={ "/runs/" (run.id) } { (run.sequence) } " "
        @match run.state {
            RunState::Running => { (step_now(run)) }
            RunState::Failed => { (run.error.as_deref().unwrap_or("failed")) }
            state => { (state.name()) }
        }
    })
}

fn step_now(run: &RunRecord) -> Markup {
    html! {
        "step " (run.steps_over + 1) " of " (run.steps) ": " (run.step_name)
        @if let Some(progress) = run.progress.as_ref().filter(|progress| progress.total > 0) { (progress_bar(progress)) }
    }
}

fn progress_bar(progress: &StepProgress) -> Markup {
    bar(progress.done as f64 / progress.total.max(1) as f64, "progress of the step")
}

fn run_table(runs: &[RunRecord]) -> Markup {
    html! {
        table {
            thead { tr { th { "Run" } th { "Machine" } th { "State" } th { "Steps" } th { "Started" } th { "Took" } } }
            tbody {
                @for run in runs {
                    tr {
                        td { a href={ "/runs/" (run.id) } { (run.sequence) } }
                        td { a href={ "/machines/" (run.machine) } { (run.machine_name) } }
                        td { (badge(tone(run.state), run.state.name())) @if let Some(error) = &run.error { " " (error) } }
                        td { (run.steps_over) " of " (run.steps) @if run.state == RunState::Running { ": " (run.step_name) } }
                        td { @if let Some(at) = run.started_at { (instant(at)) } @else { "-" } }
                        td { (took(run)) }
                    }
                }
            }
        }
    }
}

fn took(run: &RunRecord) -> String {
    match (run.started_at, run.finished_at) {
        (Some(started), Some(finished)) => duration(finished.since(started)),
        _ => "-".into(),
    }
}

fn tone(state: RunState) -> Tone {
    match state {
        RunState::Succeeded => Tone::Good,
        RunState::Failed => Tone::Bad,
        RunState::Running => Tone::Busy,
        _ => Tone::Quiet,
    }
}

fn summary(run: &RunRecord) -> Markup {
    html! {
        p { (badge(tone(run.state), run.state.name())) " " @if run.state == RunState::Running { (step_now(run)) } }
        @if let Some(error) = &run.error { p.problem { (error) } }
        @if let Some(hint) = &run.hint { p.hint { "What to do: " (hint) } }
        (facts(&[
            ("Machine", Some(run.machine_name.clone())),
            ("Sequence", Some(format!("{} ({})", run.sequence, run.version.get(..12).unwrap_or(&run.version)))),
            ("Took", run.finished_at.map(|_| took(run))),
            ("Identifier", Some(run.id.to_string())),
        ]))
        @if let Some(at) = run.started_at { p.hint { "Started " (instant(at)) } }
    }
}

/// The last that is known of a step.
#[derive(Default)]
struct StepStory<'a> {
    started: Option<Timestamp>,
    finished: Option<(Timestamp, &'a Finished)>,
    skipped: Option<&'a str>,
    attempts: u32,
}

impl<'a> StepStory<'a> {
    fn of(entries: &'a [Entry], item: &super::model::ItemId) -> StepStory<'a> {
        let mut story = StepStory::default();
        for entry in entries.iter().filter(|entry| entry.item == *item) {
            match &entry.what {
                What::Started { attempt, .. } => {
                    story.attempts = *attempt;
                    story.started = story.started.or(Some(entry.at));
                    story.finished = None;
                }
                What::Finished(finished) => story.finished = Some((entry.at, finished)),
                What::Skipped { why } => story.skipped = Some(why),
                What::Rewound => story = StepStory::default(),
                _ => {}
            }
        }
        story
    }

    fn verdict(&self) -> (Tone, &'static str) {
        match (&self.finished, self.started, self.skipped) {
            (Some((_, finished)), _, _) => match finished.result {
                StepResult::Done => (Tone::Good, "done"),
                StepResult::Held => (Tone::Good, "held already"),
                StepResult::Failed => (Tone::Bad, "failed"),
            },
            (None, Some(_), _) => (Tone::Busy, "running"),
            (None, None, Some(_)) => (Tone::Quiet, "skipped"),
            (None, None, None) => (Tone::Quiet, "to do"),
        }
    }
}

fn timeline(sequence: &Sequence, entries: &[Entry], run: &RunRecord) -> Markup {
    html! {
        table {
            thead { tr { th { "Step" } th { "State" } th { "Took" } th { "What it found" } } }
            tbody { @for (item, _) in sequence.steps() { (step_row(&StepStory::of(entries, &item.id), &item.name, run, run.step == item.id)) } }
        }
    }
}

fn step_row(story: &StepStory<'_>, name: &str, run: &RunRecord, current: bool) -> Markup {
    let (tone, word) = story.verdict();
    let took = story.started.zip(story.finished.as_ref()).map(|(from, (to, _))| duration(to.since(from)));
    let progress =
        run.progress.as_ref().filter(|progress| current && run.state == RunState::Running && progress.total > 0);
    html! {
        tr {
            td { (name) }
            td { (badge(tone, word)) @if story.attempts > 1 { " attempt " (story.attempts) } }
            td { (took.as_deref().unwrap_or("-")) }
            td {
                @if let Some(progress) = progress { (progress_bar(progress)) }
                @if let Some((_, finished)) = &story.finished { (evidence(finished)) }
                @if let Some(why) = story.skipped { (why) }
            }
        }
    }
}

fn evidence(finished: &Finished) -> Markup {
    html! {
        @if let Some(error) = &finished.error { p.problem { (error) } }
        @if let Some(hint) = &finished.hint { p.hint { "What to do: " (hint) } }
        @if !finished.evidence.is_empty() {
            details {
                summary { (finished.evidence.len()) " findings" }
                dl.facts { @for (name, value) in &finished.evidence { div { dt { (name.replace(['_', '-'], " ")) } dd { (shown(name, value)) } } } }
            }
        }
    }
}

/// Byte counts as people write them, everything else as it is.
fn shown(name: &str, value: &serde_json::Value) -> String {
    match (value.as_u64(), value.as_str()) {
        (Some(bytes), _) if name.ends_with("bytes") => size(bytes),
        (_, Some(text)) => text.to_owned(),
        _ => value.to_string(),
    }
}

fn log(lines: &[Line]) -> Markup {
    html! {
        @if lines.is_empty() { (nothing("The machine has not logged anything yet.")) }
        @else { pre.log tabindex="0" { @for line in lines { (line.text) "\n" } } }
    }
}
