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

use super::api::problem;
use super::db::{RunRecord, Sequences};
use super::event::{Line, StepProgress};
use super::journal::Entry;
use super::model::Sequence;
use super::story::{StepRecord, StepState, tell};

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

fn timeline(sequence: &Sequence, entries: &[Entry], run: &RunRecord) -> Markup {
    html! {
        table {
            thead { tr { th { "Step" } th { "State" } th { "Took" } th { "What it found" } } }
            tbody { @for step in tell(sequence, entries) { (step_row(&step, run)) } }
        }
    }
}

fn step_row(step: &StepRecord, run: &RunRecord) -> Markup {
    let (tone, word) = match step.state {
        StepState::ToDo => (Tone::Quiet, "to do"),
        StepState::Running => (Tone::Busy, "running"),
        StepState::Done => (Tone::Good, "done"),
        StepState::Held => (Tone::Good, "held already"),
        StepState::Failed => (Tone::Bad, "failed"),
        StepState::Skipped => (Tone::Quiet, "skipped"),
    };
    let current = run.step.0 == step.id && run.state == RunState::Running;
    let progress = run.progress.as_ref().filter(|progress| current && progress.total > 0);
    html! {
        tr {
            td { (step.name) }
            td { (badge(tone, word)) @if step.attempts > 1 { " attempt " (step.attempts) } }
            td { (step.took_milliseconds.map_or_else(|| "-".to_owned(), duration)) }
            td {
                @if let Some(progress) = progress { (progress_bar(progress)) }
                (findings(step))
                @if let Some(why) = &step.skipped_because { (why) }
            }
        }
    }
}

fn findings(step: &StepRecord) -> Markup {
    html! {
        @if let Some(error) = &step.error { p.problem { (error) } }
        @if let Some(hint) = &step.hint { p.hint { "What to do: " (hint) } }
        @if !step.evidence.is_empty() {
            details {
                summary { (step.evidence.len()) " findings" }
                dl.facts { @for (name, value) in &step.evidence { div { dt { (name.replace(['_', '-'], " ")) } dd { (shown(name, value)) } } } }
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
