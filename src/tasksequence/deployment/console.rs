//! Pages: the deployments, the way to a new one (what, for whom, how, and what will be erased), one as it spreads.

use std::sync::Arc;

use axum::Form;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Redirect, Response};
use maud::{Markup, html};
use serde_json::json;

use super::{Counts, DeploymentRecord, Preview, Request};
use crate::access::Capability;
use crate::api::{Access, Caller, Problem, Routes, Table, blocking};
use crate::console::form::{Fields, escaped};
use crate::console::page::{live_page, page};
use crate::console::part::{
    Share, Tone, badge, counted, facts, folded, instant, nothing, section, shares, size, table,
};
use crate::fleet::deployment::{Rollout, RunState, rings};
use crate::tasksequence::api::problem;
use crate::tasksequence::console::{run_table, tone, typed};
use crate::tasksequence::db::{RunRecord, Sequences};
use crate::tasksequence::editor::console::plan_table;
use crate::tasksequence::model::{Sequence, Values, Variable, VariableType};
use crate::tasksequence::plan::Plan;

/// Deployments that the overview shows.
const OVERVIEW_ROWS: usize = 8;
/// Machines that a review lists by name; more are counted.
const REVIEW_ROWS: usize = 500;

type Shared = State<Arc<Sequences>>;

pub(in crate::tasksequence) fn routes(sequences: Arc<Sequences>) -> Table {
    let read = Access::Person(Capability::Read);
    let deploy = Access::Person(Capability::Deploy);
    Routes::new()
        .get("/deployments", read, "Page: all deployments", deployments)
        .get("/deployments/new", deploy, "Page: prepare a deployment", prepare)
        .post("/deployments/review", deploy, "Page: what a deployment would do, and the guard", review)
        .post("/deployments", deploy, "Start a deployment that was confirmed on its page", start)
        .get("/deployments/{id}", read, "Page: a deployment and how it spreads", deployment)
        .post("/deployments/{id}/cancel", deploy, "Cancel a deployment from its page", cancel)
        .post("/deployments/{id}/resume", deploy, "Let a stopped deployment go on from its page", resume)
        .with_state(sequences)
}

async fn deployments(State(sequences): Shared, caller: Caller) -> Result<Response, Problem> {
    blocking(move || {
        let all = sequences.deployments().map_err(|error| problem(&error))?;
        let body = html! {
            @if caller.principal.may(Capability::Deploy) { p.actions { a.button href="/deployments/new" { "New deployment" } } }
            section {
                @if all.is_empty() { (nothing("Nothing was deployed yet. A deployment gives a task sequence to machines or to a collection.")) }
                @else { (deployment_table(&all)) }
            }
        };
        Ok(live_page(&caller, "/deployments", "Deployments", "kinds=run", &body))
    })
    .await
}

fn deployment_table(all: &[DeploymentRecord]) -> Markup {
    table(
        &["Sequence", "For", "State", "Runs", "Started", "By"],
        &html! {
            @for deployment in all {
                tr data-key=(deployment.id) {
                    td { a href={ "/deployments/" (deployment.id) } { (deployment.sequence) } }
                    td { (shortened(&deployment.target)) }
                    td { (state(deployment)) }
                    td { (run_shares(&deployment.counts)) }
                    td { (instant(deployment.created_at)) }
                    td { (deployment.created_by) }
                }
            }
        },
    )
}

fn shortened(target: &str) -> String {
    match target.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", &target[..end]),
        None => target.to_owned(),
    }
}

fn state(deployment: &DeploymentRecord) -> Markup {
    let counts = &deployment.counts;
    let open = counts.queued + counts.waiting + counts.running;
    match (&deployment.stopped, open) {
        (Some(_), _) => badge(Tone::Bad, "stopped"),
        (None, 0) if counts.failed > 0 => badge(Tone::Attention, "over, with failures"),
        (None, 0) if counts.succeeded == 0 => badge(Tone::Quiet, "cancelled"),
        (None, 0) => badge(Tone::Good, "over"),
        (None, _) if counts.running > 0 => badge(Tone::Busy, "running"),
        _ => badge(Tone::Attention, "waiting"),
    }
}

fn run_shares(counts: &Counts) -> Markup {
    let share = |state: RunState, count: u32| Share::counted(tone(state), count.into(), state.name());
    shares(&[
        share(RunState::Succeeded, counts.succeeded),
        share(RunState::Running, counts.running),
        share(RunState::Waiting, counts.waiting),
        share(RunState::Failed, counts.failed),
        share(RunState::Cancelled, counts.cancelled),
        share(RunState::Queued, counts.queued),
    ])
}

/// What the overview shows: deployments that are stopped or under way.
pub fn overview(sequences: &Sequences) -> Markup {
    let open = |d: &DeploymentRecord| d.counts.queued + d.counts.waiting + d.counts.running > 0;
    let mut all = sequences.deployments().unwrap_or_default();
    all.retain(open);
    all.sort_by_key(|deployment| deployment.stopped.is_none());
    html! {
        @if !all.is_empty() {
            (section("Deployments under way", &html! {
                @for stopped in all.iter().filter(|deployment| deployment.stopped.is_some()) {
                    p.problem { a href={ "/deployments/" (stopped.id) } { (stopped.sequence) } " was stopped: " (stopped.stopped.as_deref().unwrap_or_default()) }
                }
                (deployment_table(&all[..all.len().min(OVERVIEW_ROWS)]))
                @if all.len() > OVERVIEW_ROWS { p { a href="/deployments" { "and " (all.len() - OVERVIEW_ROWS) " more" } } }
            }))
        }
    }
}

/// The steps of the way, the present one marked.
fn trail(now: usize) -> Markup {
    html! {
        ol.trail aria-label="Steps" {
            @for (at, name) in ["What and for whom", "How", "Review and start"].iter().enumerate() {
                li aria-current=[(at == now).then_some("step")] { (name) }
            }
        }
    }
}

async fn prepare(State(sequences): Shared, caller: Caller, Form(fields): Form<Fields>) -> Result<Response, Problem> {
    blocking(move || {
        let (machines, collection) = target(&fields);
        let chosen = fields.given("sequence").filter(|_| !fields.has("back"));
        let body = match chosen {
            Some(sequence) if !machines.is_empty() || collection.is_some() => {
                let (_, sequence) = sequences.sequence(sequence).map_err(|error| problem(&error))?;
                html! { (trail(1)) (how(&sequence, &fields, &machines, collection.as_deref())) }
            }
            _ => html! { (trail(0)) (what(&sequences, &fields)?) },
        };
        Ok(page(&caller, "/deployments", "New deployment", &body))
    })
    .await
}

/// The machines by name, or the collection when none is named.
fn target(fields: &Fields) -> (Vec<String>, Option<String>) {
    let machines = fields.list("machine");
    let collection = fields.given("collection").filter(|_| machines.is_empty()).map(str::to_owned);
    (machines, collection)
}

fn what(sequences: &Sequences, fields: &Fields) -> Result<Markup, Problem> {
    let known = sequences.sequences().map_err(|error| problem(&error))?;
    let failed = |error| crate::fleet::api::problem(&error);
    let machines = sequences.fleet.machines().map_err(failed)?;
    let collections = sequences.fleet.collections().map_err(failed)?;
    let (chosen, collection) = (fields.list("machine"), fields.text("collection"));
    let incomplete = fields.has("sequence") && !fields.has("back");
    Ok(html! {
        @if known.is_empty() {
            section { p { "There is no task sequence yet. " a href="/editor" { "Write one" } ", then come back." } }
        } @else {
            form method="get" action="/deployments/new" {
                @if incomplete { p.problem role="alert" { "Choose machines or a collection." } }
                section {
                    h2 { "What" }
                    label.field { "Task sequence"
                        select name="sequence" required { @for record in &known { option value=(record.name) selected[record.name == fields.text("sequence")] { (record.name) } } }
                    }
                }
                section {
                    h2 { "For whom" }
                    label.field { "A collection"
                        select name="collection" {
                            option value="" { "no collection: the machines chosen below" }
                            @for known in &collections { option value=(known.name) selected[known.name == collection] { (known.name) " (" (counted(known.machines.len(), "machine", "machines")) ")" } }
                        }
                    }
                    fieldset {
                        legend { "Or single machines (" span data-count="machine" {} ")" }
                        input type="search" data-narrows="machines" aria-label="Narrow the list" placeholder="Narrow the list";
                        div.pick #machines tabindex="0" role="group" aria-label="Machines" {
                            @for machine in &machines {
                                label { input type="checkbox" name="machine" value=(machine.name) checked[chosen.contains(&machine.name)]; span { (machine.name) " " small { (machine.identity.model.as_deref().unwrap_or_default()) " " (machine.state.name()) } } }
                            }
                        }
                        p.hint { "Machines that are chosen here count before a collection." }
                    }
                }
                p.actions { button type="submit" { "Next: how" } }
            }
        }
    })
}

fn how(sequence: &Sequence, fields: &Fields, machines: &[String], collection: Option<&str>) -> Markup {
    let back: String = machines.iter().map(|machine| format!("&machine={}", escaped(machine))).collect();
    let back = format!(
        "/deployments/new?back=1&sequence={}&collection={}{back}",
        escaped(&sequence.name),
        escaped(collection.unwrap_or_default())
    );
    html! {
        form method="post" action="/deployments/review" {
            input type="hidden" name="sequence" value=(fields.text("sequence"));
            @for machine in machines { input type="hidden" name="machine" value=(machine); }
            @if let Some(collection) = collection { input type="hidden" name="collection" value=(collection); }
            section {
                h2 { (sequence.name) }
                @if !sequence.description.is_empty() { p { (sequence.description) } }
                p { "For " @match collection { Some(collection) => { "the collection " b { (collection) } }, None => { (machines.join(", ")) } } "." }
            }
            @if !sequence.variables.is_empty() {
                section {
                    h2 { "Variables" }
                    @for variable in &sequence.variables { (variable_field(variable)) }
                }
            }
            (rollout_fields())
            p.actions { button type="submit" { "Next: review" } a.button.quiet href=(back) { "Back" } }
        }
    }
}

fn variable_field(variable: &Variable) -> Markup {
    let name = format!("var.{}", variable.name);
    let usual = variable.default.as_ref().map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    let required = variable.default.is_none();
    html! {
        label.field {
            b { (variable.name) } @if !variable.description.is_empty() { " " (variable.description) }
            @if let Some(usual) = &usual { " (left empty: " code { (usual) } ")" }
            @if !variable.choices.is_empty() {
                select name=(name) required[required] {
                    @if !required { option value="" { "as the sequence says" } }
                    @for choice in &variable.choices { @let text = choice.as_str().map_or_else(|| choice.to_string(), str::to_owned); option value=(text) { (text) } }
                }
            } @else {
                @match variable.kind {
                    VariableType::Boolean => { select name=(name) required[required] { @if !required { option value="" { "as the sequence says" } } option { "true" } option { "false" } } }
                    VariableType::Integer => { input type="number" name=(name) step="1" required[required]; }
                    VariableType::List => { textarea name=(name) rows="3" placeholder="one a line" required[required] {} }
                    VariableType::Text if variable.secret => { input type="password" name=(name) autocomplete="off" required[required]; }
                    VariableType::Text => { input name=(name) autocomplete="off" required[required]; }
                }
            }
        }
    }
}

fn rollout_fields() -> Markup {
    html! {
        section {
            h2 { "When and how fast" }
            div.grid {
                label.field { "Not before (" span.zone { "UTC" } ")" input type="datetime-local" name="start_at"; }
                label.field { "Cancel what has not begun by (" span.zone { "UTC" } ")" input type="datetime-local" name="deadline"; }
                label.field { "Rings: how many machines first, then next" input name="rings" placeholder="1, 5, 25" pattern="[0-9 ,]*" title="numbers with commas between them"; }
                label.field { "At the same time, at most" input type="number" name="at_once" min="0" placeholder="no limit"; }
                label.field { "Stop when more of a ring failed than, in percent" input type="number" name="failures_percent_max" min="0" max="100" value="100"; }
            }
            label.tick { input type="checkbox" name="wake" value="yes"; " Wake machines over the network when it is their turn" }
            label.tick { input type="checkbox" name="debug" value="yes"; " Stop before each step (debug)" }
            p.hint { "All machines that are in no ring are the last ring. A ring begins when those before it are over." }
        }
    }
}

/// What the form asks for.
fn request(sequences: &Sequences, fields: &Fields) -> Result<Request, Problem> {
    let (_, sequence) = sequences.sequence(fields.text("sequence")).map_err(|error| problem(&error))?;
    let (machines, collection) = target(fields);
    let mut variables = Values::new();
    for (name, text) in fields.with_prefix("var.").filter(|(_, text)| !text.trim().is_empty()) {
        let kind = sequence.variables.iter().find(|variable| variable.name == name).map(|variable| variable.kind);
        variables.insert(name.to_owned(), typed(kind.unwrap_or(VariableType::Text), text));
    }
    let sizes = fields.text("rings").split([',', ' ']).filter(|part| !part.is_empty());
    let rings: Result<Vec<u32>, _> = sizes.map(str::parse).collect();
    let rollout = Rollout {
        start_at: fields.instant("start_at").map_err(Problem::bad_request)?,
        deadline: fields.instant("deadline").map_err(Problem::bad_request)?,
        at_once: fields.number("at_once").unwrap_or(0),
        rings: rings.map_err(|_| Problem::bad_request("the rings are numbers with commas between them: 1, 5, 25"))?,
        failures_percent_max: fields.number("failures_percent_max").unwrap_or(100).min(100),
        wake: fields.has("wake"),
    };
    Ok(Request {
        sequence: fields.text("sequence").to_owned(),
        machines,
        collection,
        variables,
        rollout,
        confirm: None,
        debug: fields.has("debug"),
    })
}

async fn review(State(sequences): Shared, caller: Caller, Form(fields): Form<Fields>) -> Result<Response, Problem> {
    blocking(move || {
        let request = request(&sequences, &fields)?;
        let preview = sequences.preview(&request).map_err(|error| problem(&error))?;
        let body = html! { (trail(2)) (reviewed(&request, &preview)) };
        Ok(page(&caller, "/deployments", "Review the deployment", &body))
    })
    .await
}

fn reviewed(request: &Request, preview: &Preview) -> Markup {
    let bytes: u64 = preview.plans.iter().map(|plan| plan.bytes).sum();
    html! {
        section {
            (facts(&[
                ("Task sequence", Some(preview.sequence.clone())),
                ("Machines", Some(preview.plans.len().to_string())),
                ("Disks erased on", Some(counted(preview.erases as usize, "machine", "machines"))),
                ("Written at most", (bytes > 0).then(|| size(bytes))),
                ("Rings", Some(ring_words(&request.rollout, preview.plans.len()))),
            ]))
            @if let Some(at) = request.rollout.start_at { p.hint { "Not before " (instant(at)) } }
            @if let Some(at) = request.rollout.deadline { p.hint { "What has not begun by " (instant(at)) " is cancelled" } }
        }
        @if !preview.refusals.is_empty() {
            section {
                h2 { "It cannot start" }
                ul { @for refusal in preview.refusals.iter().take(REVIEW_ROWS) { li { (refusal) } } }
                @if preview.refusals.len() > REVIEW_ROWS { p { "and " (preview.refusals.len() - REVIEW_ROWS) " more" } }
            }
        }
        (erased(&preview.plans))
        @if let Some(plan) = preview.plans.first() { (folded(&format!("What happens to {}, step by step", plan.machine), &plan_table(plan))) }
        @if preview.refusals.is_empty() { (guard(request, preview.erases)) }
        @else { p.actions { a.button href=(way_back(request)) { "Back" } } }
    }
}

fn way_back(request: &Request) -> String {
    let machines: String = request.machines.iter().map(|machine| format!("&machine={}", escaped(machine))).collect();
    let collection = escaped(request.collection.as_deref().unwrap_or_default());
    format!("/deployments/new?sequence={}&collection={collection}{machines}", escaped(&request.sequence))
}

fn ring_words(rollout: &Rollout, machines: usize) -> String {
    let sizes: Vec<String> = rings(rollout, machines).iter().map(|ring| ring.len().to_string()).collect();
    sizes.join(", then ")
}

fn erased(plans: &[Plan]) -> Markup {
    let erasing: Vec<&Plan> = plans.iter().filter(|plan| !plan.erases.is_empty()).collect();
    html! {
        @if !erasing.is_empty() {
            (section("What is lost", &table(&["Machine", "Disks of which everything is lost", "Written at most"], &html! {
                @for plan in erasing.iter().take(REVIEW_ROWS) {
                    tr {
                        td { (plan.machine) }
                        td { @for disk in &plan.erases { div { (disk.path) ", " (size(disk.bytes)) @if let Some(serial) = &disk.serial { ", serial " (serial) } } } }
                        td { @if plan.bytes > 0 { (size(plan.bytes)) } @else { "-" } }
                    }
                }
            })))
            @if erasing.len() > REVIEW_ROWS { p { "and " (erasing.len() - REVIEW_ROWS) " more machines" } }
        }
    }
}

/// The person says how many machines lose their disks; the number is compared when it starts, not here.
fn guard(request: &Request, erases: u32) -> Markup {
    let machines = counted(erases as usize, "machine", "machines");
    html! {
        form.confirm method="post" action="/deployments" {
            input type="hidden" name="request" value=(json!(request).to_string());
            @if erases > 0 {
                h2 { "This erases the disks of " (machines) }
                label { "Type how many machines lose their data: " input name="confirm" inputmode="numeric" pattern="[0-9]+" required autocomplete="off"; }
            } @else {
                h2 { "Nothing is erased" }
            }
            p.actions { button.danger[erases > 0] type="submit" { "Start the deployment" } a.button.quiet href=(way_back(request)) { "Back" } }
        }
    }
}

async fn start(State(sequences): Shared, caller: Caller, Form(fields): Form<Fields>) -> Result<Response, Problem> {
    blocking(move || {
        let request: Request = serde_json::from_str(fields.text("request"))
            .map_err(|error| Problem::bad_request(format!("the request does not parse: {error}")))?;
        let request = Request { confirm: fields.number("confirm"), ..request };
        let started = sequences.start(&request, &caller.principal).map_err(|error| problem(&error))?;
        Ok(Redirect::to(&format!("/deployments/{}", started.id)).into_response())
    })
    .await
}

async fn deployment(State(sequences): Shared, caller: Caller, Path(id): Path<String>) -> Result<Response, Problem> {
    blocking(move || {
        let detail = sequences.deployment(&id).map_err(|error| problem(&error))?;
        let (deployment, mut runs) = (&detail.deployment, detail.runs);
        // Before they are sorted: their order makes the rings.
        let rings = ring_table(&deployment.rollout, &runs);
        sort_for_reading(&mut runs);
        let body = html! {
            @if let Some(why) = &deployment.stopped { p.problem { "Stopped: " (why) } }
            section { (about(deployment)) }
            @if caller.principal.may(Capability::Deploy) { (deployment_actions(deployment)) }
            (section("Rings", &rings))
            section { h2 { (counted(runs.len(), "run", "runs")) } (run_table(&runs)) }
        };
        let title = format!("{} for {}", deployment.sequence, shortened(&deployment.target));
        Ok(live_page(&caller, "/deployments", &title, "kinds=run,progress", &body))
    })
    .await
}

/// What failed first, then what runs, then the rest.
fn sort_for_reading(runs: &mut [RunRecord]) {
    runs.sort_by_key(|run| match run.state {
        RunState::Failed => 0,
        RunState::Running => 1,
        RunState::Waiting => 2,
        RunState::Queued => 3,
        RunState::Succeeded => 4,
        RunState::Cancelled => 5,
    });
}

fn about(deployment: &DeploymentRecord) -> Markup {
    let rollout = &deployment.rollout;
    html! {
        p { (state(deployment)) }
        (run_shares(&deployment.counts))
        (facts(&[
            ("Sequence", Some(format!("{} ({})", deployment.sequence, deployment.version.get(..12).unwrap_or(&deployment.version)))),
            ("Started by", Some(deployment.created_by.clone())),
            ("At the same time", Some(if rollout.at_once == 0 { "no limit".to_owned() } else { format!("at most {}", rollout.at_once) })),
            ("Stops when a ring fails by more than", Some(format!("{} %", rollout.failures_percent_max))),
            ("Wakes machines", rollout.wake.then(|| "yes".to_owned())),
            ("Identifier", Some(deployment.id.clone())),
        ]))
        p.hint {
            "Started " (instant(deployment.created_at))
            @if let Some(at) = rollout.start_at { ", begins not before " (instant(at)) }
            @if let Some(at) = rollout.deadline { ", what has not begun by " (instant(at)) " is cancelled" }
        }
    }
}

fn ring_table(rollout: &Rollout, runs: &[RunRecord]) -> Markup {
    html! {
        @for (number, ring) in rings(rollout, runs.len()).into_iter().enumerate() {
            @let counts = Counts::of(runs[ring.clone()].iter().map(|run| run.state));
            div.ring { b { "Ring " (number + 1) } div { (run_shares(&counts)) } }
        }
    }
}

fn deployment_actions(deployment: &DeploymentRecord) -> Markup {
    let counts = &deployment.counts;
    let open = counts.queued + counts.waiting + counts.running;
    html! {
        @if deployment.stopped.is_some() {
            form.search method="post" action={ "/deployments/" (deployment.id) "/resume" } {
                label { "Go on, and allow failures of " input type="number" name="failures_percent_max" min="0" max="100" value=(deployment.rollout.failures_percent_max) required; " percent of a ring" }
                button type="submit" { "Go on" }
            }
        }
        @if open > 0 {
            details.guard {
                summary { "Cancel what is not over…" }
                form method="post" action={ "/deployments/" (deployment.id) "/cancel" } {
                    p { "What has not begun never begins; runs under way are stopped at their present step." }
                    label.tick { input type="checkbox" name="sure" value="yes" required; " Yes, cancel " (counted(open as usize, "run", "runs")) }
                    button.danger type="submit" { "Cancel the deployment" }
                }
            }
        }
    }
}

async fn cancel(State(sequences): Shared, caller: Caller, Path(id): Path<String>) -> Result<Response, Problem> {
    blocking(move || {
        sequences.cancel(&id, &caller.principal).map_err(|error| problem(&error))?;
        Ok(Redirect::to(&format!("/deployments/{id}")).into_response())
    })
    .await
}

async fn resume(
    State(sequences): Shared,
    caller: Caller,
    Path(id): Path<String>,
    Form(fields): Form<Fields>,
) -> Result<Response, Problem> {
    let allowed = fields.number("failures_percent_max").unwrap_or(100).min(100);
    blocking(move || {
        sequences.resume(&id, allowed, &caller.principal).map_err(|error| problem(&error))?;
        Ok(Redirect::to(&format!("/deployments/{id}")).into_response())
    })
    .await
}
