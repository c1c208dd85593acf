//! Pages: the runs, one run with its step timeline and log, and what other pages show of runs.

use std::sync::Arc;

use axum::Form;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Redirect, Response};
use maud::{Markup, html};
use serde_json::Value;

use crate::access::{Capability, Principal};
use crate::api::{Access, Caller, Problem, Routes, Table, blocking};
use crate::console::chart::{self, Column};
use crate::console::form::{Fields, escaped};
use crate::console::page::live_page;
use crate::console::part::{
    Tone, badge, counted, duration, facts, instant, nothing, pager, quiet_action, run_progress, section, size, table,
    words,
};
use crate::fleet::console::{AllDoing, Doing};
use crate::fleet::deployment::RunState;
use crate::fleet::machine::Machine;

use super::api::problem;
use super::board::{Cause, Day, Filter};
use super::db::{RunRecord, Sequences};
use super::event::{Directive, Line};
use super::model::{Sequence, VariableType, Work};
use super::story::{StepRecord, StepState, tell};
use super::{deployment, editor};

/// Lines of the log that a page shows, the last ones.
const LOG_LINES: u64 = 400;
/// Runs that a machine's page lists.
const MACHINE_RUNS: usize = 5;
/// Runs on one page of the list.
const RUNS_AT_ONCE: usize = 100;
/// How far back reports look.
const REPORT_DAYS: i64 = 14;

type Shared = State<Arc<Sequences>>;

pub fn routes(sequences: Arc<Sequences>) -> Table {
    let read = Access::Person(Capability::Read);
    let deploy = Access::Person(Capability::Deploy);
    Routes::new()
        .get("/runs", read, "Page: all runs", runs)
        .get("/runs/{run}", read, "Page: a run with its steps and its log", run)
        .post("/runs/{run}/directive", deploy, "Pause, continue or cancel a run from its page", direct)
        .post("/runs/{run}/retry", deploy, "Send a run back to a step from its page", retry)
        .post("/runs/{run}/answer", deploy, "Answer a run's question from its page", answer)
        .with_state(sequences.clone())
        .merge(deployment::console::routes(sequences.clone()))
        .merge(editor::console::routes(sequences))
}

async fn runs(State(sequences): Shared, caller: Caller, Form(fields): Form<Fields>) -> Result<Response, Problem> {
    blocking(move || {
        let state = RunState::parse(fields.text("state"));
        let filter = Filter { state, sequence: fields.given("sequence").map(str::to_owned) };
        let page: usize = fields.number("page").unwrap_or(1).max(1);
        let skip = (page - 1) * RUNS_AT_ONCE;
        let found = sequences.run_page(&filter, skip as u64, RUNS_AT_ONCE as u64).map_err(|error| problem(&error))?;
        let (runs, all) = (found.0, found.1 as usize);
        let counts = sequences.run_counts().map_err(|error| problem(&error))?;
        let sequence = fields.text("sequence");
        let more = format!("/runs?state={}&sequence={}&page=", state.map_or("", RunState::name), escaped(sequence));
        let body = html! {
            (choices(&counts, state, sequence))
            section {
                h2 { (counted(all, "run", "runs")) }
                @if runs.is_empty() { (nothing("No run is here. A deployment makes one for each of its machines.")) }
                @else { (run_table(&runs)) }
                (pager(&more, page, all.div_ceil(RUNS_AT_ONCE).max(1)))
            }
        };
        Ok(live_page(&caller, "/runs", "Runs", "kinds=run,progress", &body))
    })
    .await
}

fn choices(counts: &[(RunState, u64)], state: Option<RunState>, sequence: &str) -> Markup {
    let address = |name: &str| format!("/runs?state={name}&sequence={}", escaped(sequence));
    let all: u64 = counts.iter().map(|(_, count)| count).sum();
    html! {
        form.search method="get" action="/runs" role="search" {
            @if let Some(state) = state { input type="hidden" name="state" value=(state.name()); }
            input type="search" name="sequence" value=(sequence) placeholder="Name of the sequence" aria-label="Search runs by sequence";
            button.quiet type="submit" { "Search" }
        }
        ul.tabs aria-label="States" {
            li { a href=(address("")) aria-current=[state.is_none().then_some("true")] { "all " (all) } }
            @for (known, count) in counts.iter().filter(|(known, count)| *count > 0 || Some(*known) == state) {
                li { a href=(address(known.name())) aria-current=[(Some(*known) == state).then_some("true")] { (known.name()) " " (count) } }
            }
        }
    }
}

async fn run(State(sequences): Shared, caller: Caller, Path(id): Path<String>) -> Result<Response, Problem> {
    blocking(move || {
        let run = sequences.run(&id).map_err(|error| problem(&error))?;
        let entries = sequences.entries(&id).map_err(|error| problem(&error))?;
        let order = sequences.run_order(&id).map_err(|error| problem(&error))?;
        let lines = last_lines(&sequences, &id)?;
        let title = format!("{} on {}", run.sequence, run.machine_name);
        let steps = tell(&order.sequence, &entries);
        let body = html! {
            @if let Some(question) = &run.question {
                @if run.state == RunState::Running { (question_form(&run, question, &order.sequence, &caller.principal)) }
            }
            (section("Run", &summary(&run)))
            @if caller.principal.may(Capability::Deploy) { (run_actions(&run, &steps)) }
            (section("Steps", &timeline(&steps, &run)))
            (section("Log", &log(&lines)))
        };
        let events = format!("kinds=run,progress,log&subject={}", run.id);
        Ok(live_page(&caller, "/runs", &title, &events, &body))
    })
    .await
}

fn last_lines(sequences: &Sequences, run: &str) -> Result<Vec<Line>, Problem> {
    let mut lines = sequences.lines(run, 0, u64::from(u32::MAX)).map_err(|error| problem(&error))?;
    let keep = usize::try_from(LOG_LINES).unwrap_or(usize::MAX);
    Ok(lines.split_off(lines.len().saturating_sub(keep)))
}

/// What the step under way wants to know, as buttons for its choices or a field.
fn question_form(run: &RunRecord, question: &str, sequence: &Sequence, who: &Principal) -> Markup {
    let step = sequence.item(&run.step).and_then(|item| match &item.work {
        Work::Step(step) => Some(step),
        Work::Group(_) => None,
    });
    let choices = step.and_then(|step| step.with.get("choices")).and_then(Value::as_array).cloned().unwrap_or_default();
    let approval = step.is_some_and(|step| step.kind == "wait-for-approval");
    section(
        "The run asks",
        &html! {
            p { b { (question) } }
            @if who.may(Capability::Deploy) {
                form.search method="post" action={ "/runs/" (run.id) "/answer" } {
                    @if approval { button type="submit" name="value" value="true" { "Yes, go on" } button.quiet type="submit" name="value" value="false" { "No" } }
                    @else if choices.is_empty() { input name="text" aria-label="Answer" required; button type="submit" { "Answer" } }
                    @else { @for choice in &choices { button type="submit" name="value" value=(choice) { (shown("", choice)) } } }
                }
            }
        },
    )
}

fn run_actions(run: &RunRecord, steps: &[StepRecord]) -> Markup {
    let path = |verb: &str| format!("/runs/{}/{verb}", run.id);
    let direct = |directive: &str, name: &str| {
        html! { form.inline method="post" action=(path("directive")) { button.quiet type="submit" name="directive" value=(directive) { (name) } } }
    };
    html! {
        @if run.state.is_over() {
            form.search method="post" action=(path("retry")) {
                label { "Go back to " select name="from" aria-label="Step to go back to" {
                    option value="" { "the step that failed, or the first" }
                    @for step in steps { option value=(step.id) { (step.id) " " (step.name) } }
                } }
                button.quiet type="submit" { "Run again from there" }
            }
        } @else {
            div.actions {
                @if run.directive == Directive::Pause { (direct("go", "Continue")) } @else if run.state == RunState::Running { (direct("pause", "Pause")) }
                @if run.directive != Directive::Cancel {
                    details.guard {
                        summary { "Cancel this run…" }
                        form method="post" action=(path("directive")) {
                            p { "The step under way is stopped; what it has written stays on the disk as it is. The sections that always run still do." }
                            label.tick { input type="checkbox" name="sure" value="yes" required; " Yes, cancel it" }
                            button.danger type="submit" name="directive" value="cancel" { "Cancel the run" }
                        }
                    }
                }
            }
        }
    }
}

/// What a machine's page shows: its last runs, the newest with its steps.
pub fn machine_section(sequences: &Sequences, machine: &Machine, who: &Principal) -> Markup {
    let runs = sequences.runs(Some(machine.id.as_str()), None).unwrap_or_default();
    let Some(newest) = runs.first() else {
        return section("Runs", &nothing("Nothing was deployed to this machine yet."));
    };
    let entries = sequences.entries(newest.id.as_str()).unwrap_or_default();
    let order = sequences.run_order(newest.id.as_str()).ok();
    html! {
        (section("Latest run", &html! {
            (summary(newest))
            @if let Some(order) = &order { (timeline(&tell(&order.sequence, &entries), newest)) }
            div.actions {
                a.button.quiet href={ "/runs/" (newest.id) } { "The run with its log" }
                @if who.may(Capability::Deploy) && newest.state == RunState::Failed { (quiet_action(&format!("/runs/{}/retry", newest.id), "Try again from the step that failed")) }
            }
        }))
        @if runs.len() > 1 { (section("Earlier runs", &run_table(&runs[1..runs.len().min(MACHINE_RUNS + 1)]))) }
    }
}

/// What every machine is doing, for lists and tiles.
pub fn doing(sequences: &Sequences) -> AllDoing {
    let runs = sequences.latest_runs().unwrap_or_default();
    let told = |run: RunRecord| {
        let progress = run.progress.as_ref();
        Doing {
            run: run.id.0,
            sequence: run.sequence,
            state: run.state,
            step: run.step_name,
            steps_over: run.steps_over,
            steps: run.steps,
            done: progress.map_or(0, |progress| progress.done),
            total: progress.map_or(0, |progress| progress.total),
            note: progress.map_or_else(String::new, |progress| progress.note.clone()),
            error: run.error,
            hint: run.hint,
            question: run.question,
        }
    };
    runs.into_iter().map(|(machine, run)| (machine, told(run))).collect()
}

fn step_now(run: &RunRecord) -> Markup {
    html! {
        "step " (run.steps_over + 1) " of " (run.steps) ": " (run.step_name)
        (progress_of(run))
    }
}

fn progress_of(run: &RunRecord) -> Markup {
    let progress = run.progress.as_ref();
    let (done, total) = progress.map_or((0, 0), |progress| (progress.done, progress.total));
    run_progress(run.id.as_str(), done, total, progress.map_or("", |progress| progress.note.as_str()))
}

pub(super) fn run_table(runs: &[RunRecord]) -> Markup {
    table(
        &["Run", "Machine", "State", "Steps", "Started", "Took"],
        &html! {
            @for run in runs {
                tr data-key=(run.id) {
                    td { a href={ "/runs/" (run.id) } { (run.sequence) } }
                    td { a href={ "/machines/" (run.machine) } { (run.machine_name) } }
                    td { (run_badge(run)) @if let Some(error) = &run.error { " " (error) } }
                    td { @if run.state == RunState::Running { (step_now(run)) } @else { (run.steps_over) " of " (run.steps) } }
                    td { @if let Some(at) = run.started_at { (instant(at)) } @else { "-" } }
                    td { (took(run)) }
                }
            }
        },
    )
}

fn took(run: &RunRecord) -> String {
    match (run.started_at, run.finished_at) {
        (Some(started), Some(finished)) => duration(finished.since(started)),
        _ => "-".into(),
    }
}

pub(super) fn tone(state: RunState) -> Tone {
    match state {
        RunState::Succeeded => Tone::Good,
        RunState::Failed => Tone::Bad,
        RunState::Running => Tone::Busy,
        RunState::Waiting => Tone::Attention,
        RunState::Queued | RunState::Cancelled => Tone::Quiet,
    }
}

fn run_badge(run: &RunRecord) -> Markup {
    html! {
        (badge(tone(run.state), run.state.name()))
        @if !run.state.is_over() && run.directive == Directive::Pause { " " (badge(Tone::Attention, "paused")) }
        @if !run.state.is_over() && run.directive == Directive::Cancel { " " (badge(Tone::Attention, "being cancelled")) }
        @if run.question.is_some() && run.state == RunState::Running { " " (badge(Tone::Attention, "asks")) }
    }
}

fn summary(run: &RunRecord) -> Markup {
    html! {
        p { (run_badge(run)) " " @if run.state == RunState::Running { (step_now(run)) } }
        @if let Some(error) = &run.error { p.problem { (words(error)) } }
        @if let Some(hint) = &run.hint { p { b { "What to do: " } (words(hint)) } }
        (facts(&[
            ("Sequence", Some(format!("{} ({})", run.sequence, run.version.get(..12).unwrap_or(&run.version)))),
            ("Took", run.finished_at.map(|_| took(run))),
            ("Identifier", Some(run.id.to_string())),
        ]))
        p.hint {
            @if let Some(at) = run.started_at { "Started " (instant(at)) " on " } @else { "For " }
            a href={ "/machines/" (run.machine) } { (run.machine_name) }
            ", part of " a href={ "/deployments/" (run.deployment) } { "this deployment" } "."
        }
    }
}

fn timeline(steps: &[StepRecord], run: &RunRecord) -> Markup {
    table(&["Step", "State", "Took", "What it found"], &html! { @for step in steps { (step_row(step, run)) } })
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
    html! {
        tr data-key={ "step-" (step.id) } {
            td { (step.name) }
            td { (badge(tone, word)) @if step.attempts > 1 { " attempt " (step.attempts) } }
            td { (step.took_milliseconds.map_or_else(|| "-".to_owned(), duration)) }
            td {
                @if current { (progress_of(run)) }
                (findings(step))
                @if let Some(why) = &step.skipped_because { (why) }
            }
        }
    }
}

fn findings(step: &StepRecord) -> Markup {
    html! {
        @if let Some(error) = &step.error { p.problem { (words(error)) } }
        @if let Some(hint) = &step.hint { p.hint { "What to do: " (words(hint)) } }
        @if !step.evidence.is_empty() {
            details {
                summary { (counted(step.evidence.len(), "finding", "findings")) }
                dl.facts { @for (name, value) in &step.evidence { div { dt { (name.replace(['_', '-'], " ")) } dd { (shown(name, value)) } } } }
            }
        }
    }
}

/// Byte counts as people write them, everything else as it is.
fn shown(name: &str, value: &Value) -> String {
    match (value.as_u64(), value.as_str()) {
        (Some(bytes), _) if name.ends_with("bytes") => size(bytes),
        (_, Some(text)) => text.to_owned(),
        _ => value.to_string(),
    }
}

fn log(lines: &[Line]) -> Markup {
    html! {
        @if lines.is_empty() { (nothing("The machine has not logged anything yet.")) }
        @else { pre.log #log-lines tabindex="0" aria-label="Log" { @for line in lines { (line.text) "\n" } } }
    }
}

/// What `PAGE` shows after something was done to a run: the run.
async fn acted(
    sequences: Arc<Sequences>,
    work: impl FnOnce(&Sequences) -> Result<RunRecord, super::db::Error> + Send + 'static,
) -> Result<Response, Problem> {
    blocking(move || {
        let run = work(&sequences).map_err(|error| problem(&error))?;
        Ok(Redirect::to(&format!("/runs/{}", run.id)).into_response())
    })
    .await
}

async fn direct(
    State(sequences): Shared,
    caller: Caller,
    Path(run): Path<String>,
    Form(fields): Form<Fields>,
) -> Result<Response, Problem> {
    let directive = match fields.text("directive") {
        "go" => Directive::Go,
        "pause" => Directive::Pause,
        "cancel" => Directive::Cancel,
        other => return Err(Problem::bad_request(format!("`{other}` is neither go, pause nor cancel"))),
    };
    acted(sequences, move |sequences| sequences.direct(&run, directive, &caller.principal)).await
}

async fn retry(
    State(sequences): Shared,
    caller: Caller,
    Path(run): Path<String>,
    Form(fields): Form<Fields>,
) -> Result<Response, Problem> {
    acted(sequences, move |sequences| sequences.retry(&run, fields.given("from"), &caller.principal)).await
}

async fn answer(
    State(sequences): Shared,
    caller: Caller,
    Path(run): Path<String>,
    Form(fields): Form<Fields>,
) -> Result<Response, Problem> {
    let value = match fields.given("value") {
        Some(json) => serde_json::from_str(json).unwrap_or_else(|_| Value::from(json)),
        None => Value::from(fields.text("text")),
    };
    acted(sequences, move |sequences| sequences.answer(&run, &value, &caller.principal)).await
}

/// A form's text as a value of that type; what does not fit stays text and is refused with the reason.
pub(super) fn typed(kind: VariableType, text: &str) -> Value {
    match kind {
        VariableType::Text => text.into(),
        VariableType::Integer => text.trim().parse::<i64>().map_or_else(|_| text.into(), Value::from),
        VariableType::Boolean => text.trim().parse::<bool>().map_or_else(|_| text.into(), Value::from),
        VariableType::List => {
            text.lines().map(str::trim).filter(|line| !line.is_empty()).map(Value::from).collect::<Vec<_>>().into()
        }
    }
}

/// What the reports show of runs.
pub fn reports(sequences: &Sequences) -> Markup {
    let today = sequences.fleet.clock.now();
    let since = today.plus_seconds(-REPORT_DAYS * 86_400);
    let days = sequences.days(since).unwrap_or_default();
    let causes = sequences.causes(since).unwrap_or_default();
    html! {
        (section(&format!("Runs that ended, last {REPORT_DAYS} days"), &html! {
            @if days.is_empty() { (nothing("No run has ended in this time.")) } @else { (day_chart(&days, today.milliseconds() / 86_400_000)) }
        }))
        (section(&format!("Where runs failed, last {REPORT_DAYS} days"), &html! {
            @if causes.is_empty() { (nothing("No run has failed in this time.")) } @else { (cause_chart(&causes)) }
        }))
    }
}

fn day_chart(days: &[Day], today: i64) -> Markup {
    let column = |day: i64| {
        let found = days.iter().find(|known| known.day == day).copied().unwrap_or_default();
        let date = time::Date::from_julian_day(i32::try_from(day + 2_440_588).unwrap_or_default());
        let name = date.map_or_else(|_| String::new(), |date| format!("{}.{}.", date.day(), u8::from(date.month())));
        let parts = vec![(Tone::Good, found.succeeded), (Tone::Bad, found.failed), (Tone::Quiet, found.cancelled)];
        Column { name, parts }
    };
    let columns: Vec<Column> = (today - REPORT_DAYS + 1..=today).map(column).collect();
    html! {
        (chart::columns("Runs that ended by day", &columns))
        ul.legend { li { span.dot.fill-good {} "succeeded" } li { span.dot.fill-bad {} "failed" } li { span.dot.fill-quiet {} "cancelled" } }
    }
}

fn cause_chart(causes: &[Cause]) -> Markup {
    let name =
        |cause: &Cause| if cause.step.is_empty() { "before the first step".to_owned() } else { cause.step.clone() };
    let values: Vec<(String, u64)> = causes.iter().map(|cause| (name(cause), cause.runs)).collect();
    html! {
        (chart::bars("Failed runs by step", &values))
        details {
            summary { "What they said" }
            (table(&["Step", "Runs", "The error of one of them"], &html! {
                @for cause in causes { tr { td { (name(cause)) } td { (cause.runs) } td { (cause.error) } } }
            }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_a_form_sends_becomes_a_value_of_the_variables_type() {
        for (kind, text, expect) in [
            (VariableType::Text, "5", json!("5")),
            (VariableType::Integer, " 5 ", json!(5)),
            (VariableType::Integer, "five", json!("five")),
            (VariableType::Boolean, "true", json!(true)),
            (VariableType::List, "a\n\n b ", json!(["a", "b"])),
        ] {
            assert_eq!(typed(kind, text), expect, "{text}");
        }
    }
}
