//! Pages: the task sequences, one with its versions and its plan for a machine, the editor.

use std::sync::Arc;

use axum::Form;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Redirect, Response};
use maud::{Markup, html};
use serde_json::json;

use crate::access::Capability;
use crate::api::{Access, Caller, Problem, Routes, Table, blocking};
use crate::console::form::{Fields, escaped};
use crate::console::page::{page, script};
use crate::console::part::{Tone, badge, counted, instant, nothing, section, size, table, words};
use crate::fleet::machine::Machine;
use crate::stdx::hint::{Hint, chain};
use crate::tasksequence::api::problem;
use crate::tasksequence::db::{Error, SequenceRecord, Sequences};
use crate::tasksequence::model::{Sequence, Values};
use crate::tasksequence::parser::{self, Known};
use crate::tasksequence::plan::{self, Fate, Plan, PlannedItem};
use crate::tasksequence::steps::{self, Row};

/// What a new document begins with.
const BEGINNING: &str = "name: my-sequence\ndescription: What it is for\nsteps:\n  - apply-image:\n      image: debian-lab\n      disk: first\n  - install-agent:\n  - restart:\n      into: installed-system\n";

type Shared = State<Arc<Sequences>>;

pub(in crate::tasksequence) fn routes(sequences: Arc<Sequences>) -> Table {
    let read = Access::Person(Capability::Read);
    let edit = Access::Person(Capability::EditSequence);
    Routes::new()
        .get("/sequences", read, "Page: task sequences", list)
        .post("/sequences", edit, "Publish a task sequence from the editor", publish)
        .get("/sequences/{name}", read, "Page: a task sequence, its versions, its plan for a machine", show)
        .get("/editor", read, "Page: the editor of task sequences", edit_page)
        .post("/editor", read, "Page: the editor with what the checker says, or with a plan", check)
        .with_state(sequences)
        .merge(super::api::routes())
}

async fn list(State(sequences): Shared, caller: Caller) -> Result<Response, Problem> {
    blocking(move || {
        let records = sequences.sequences().map_err(|error| problem(&error))?;
        let body = html! {
            @if caller.principal.may(Capability::EditSequence) { p.actions { a.button href="/editor" { "New sequence" } } }
            section {
                @if records.is_empty() { (nothing("No task sequence yet. It says, step by step, what a machine goes through.")) }
                @else {
                    (table(&["Sequence", "What it is for", "Steps", "Version", "Published"], &html! { @for record in &records { (row(record)) } }))
                }
            }
        };
        Ok(page(&caller, "/sequences", "Sequences", &body))
    })
    .await
}

fn row(record: &SequenceRecord) -> Markup {
    let sequence = parser::parse_with(&record.document, &record.files).ok();
    let erases = sequence.as_ref().is_some_and(erases);
    html! {
        tr {
            td { a href={ "/sequences/" (escaped(&record.name)) } { (record.name) } @if erases { " " (badge(Tone::Attention, "erases")) } }
            td { (sequence.as_ref().map(|sequence| sequence.description.as_str()).unwrap_or_default()) }
            td { (sequence.as_ref().map_or(0, |sequence| sequence.steps().count())) }
            td { code { (record.version.get(..12).unwrap_or(&record.version)) } }
            td { (instant(record.created_at)) " by " (record.created_by) }
        }
    }
}

fn erases(sequence: &Sequence) -> bool {
    sequence.steps().any(|(_, step)| steps::row(&step.kind).is_some_and(|row| row.erases))
}

async fn show(
    State(sequences): Shared,
    caller: Caller,
    Path(name): Path<String>,
    Form(fields): Form<Fields>,
) -> Result<Response, Problem> {
    blocking(move || {
        let wanted = fields.given("version").map_or_else(|| name.clone(), |version| format!("{name}@{version}"));
        let (record, sequence) = sequences.sequence(&wanted).map_err(|error| problem(&error))?;
        let versions = sequences.versions(&record.name).map_err(|error| problem(&error))?;
        let machines = sequences.fleet.machines().map_err(|error| crate::fleet::api::problem(&error))?;
        let planned = fields.given("machine").map(|machine| planned(&sequences, &sequence, machine));
        let escaped_name = escaped(&record.name);
        let body = html! {
            @if !sequence.description.is_empty() { p { (sequence.description) } }
            p.actions {
                @if caller.principal.may(Capability::Deploy) { a.button href={ "/deployments/new?sequence=" (escaped_name) "&back=1" } { "Deploy" } }
                @if caller.principal.may(Capability::EditSequence) { a.button.quiet href={ "/editor?sequence=" (escaped_name) } { "Edit" } }
            }
            (section("What it would do to a machine", &html! {
                form.search method="get" action={ "/sequences/" (escaped_name) } { (machine_choice(&machines, fields.text("machine"))) button.quiet type="submit" { "Show the plan" } }
                @if let Some(planned) = &planned { (planned) }
            }))
            (section("Document", &html! { pre.text tabindex="0" aria-label="Document" { (record.document) } }))
            @if versions.len() > 1 { (section("Versions", &version_table(&versions, &record))) }
        };
        Ok(page(&caller, "/sequences", &record.name, &body))
    })
    .await
}

fn version_table(versions: &[SequenceRecord], shown: &SequenceRecord) -> Markup {
    table(
        &["Version", "Published", "By"],
        &html! {
            @for version in versions {
                @let short = version.version.get(..12).unwrap_or(&version.version);
                tr {
                    td { a href={ "/sequences/" (escaped(&version.name)) "?version=" (short) } { code { (short) } } @if version.version == shown.version { " " (badge(Tone::Quiet, "shown")) } }
                    td { (instant(version.created_at)) }
                    td { (version.created_by) }
                }
            }
        },
    )
}

fn machine_choice(machines: &[Machine], chosen: &str) -> Markup {
    html! {
        select name="machine" aria-label="Machine" {
            @for machine in machines { option value=(machine.name) selected[machine.name == chosen] { (machine.name) } }
        }
    }
}

fn planned(sequences: &Sequences, sequence: &Sequence, machine: &str) -> Markup {
    let order = || {
        let machine = sequences.fleet.machine(machine)?;
        sequences.order(sequence, &machine, &Values::new())
    };
    match order() {
        Ok(order) => plan_table(&plan::plan(&order)),
        Err(error) => failure(&error),
    }
}

fn failure(error: &Error) -> Markup {
    html! { p.problem { (chain(error)) } @if let Some(hint) = error.hint() { p { b { "What to do: " } (words(&hint)) } } }
}

/// A plan, step by step; groups are headings.
pub(in crate::tasksequence) fn plan_table(plan: &Plan) -> Markup {
    html! {
        @if !plan.erases.is_empty() { p.notice { "Everything is lost on: " @for (at, disk) in plan.erases.iter().enumerate() { @if at > 0 { ", " } (disk.path) " (" (size(disk.bytes)) ")" } } }
        (table(&["Step", "Where", "What happens"], &html! { @for item in &plan.items { (plan_row(item)) } }))
    }
}

fn plan_row(item: &PlannedItem) -> Markup {
    let group = item.kind.is_empty();
    html! {
        tr {
            td { code { (item.id) } " " @if group { b { (item.name) } } @else { (item.name) } @if !item.section.is_empty() { " " (badge(Tone::Quiet, &item.section)) } }
            td { @if !group { (item.place.words()) } }
            td {
                @match &item.fate {
                    Fate::Runs { what } => { (what) }
                    Fate::Skipped { why } => { (badge(Tone::Quiet, "skipped")) " " (why) }
                    Fate::Open { why } => { (badge(Tone::Attention, "open")) " " (why) }
                    Fate::Fails { error, hint } => { p.problem { (error) } @if let Some(hint) = hint { p.hint { "What to do: " (words(hint)) } } }
                }
            }
        }
    }
}

async fn edit_page(State(sequences): Shared, caller: Caller, Form(fields): Form<Fields>) -> Result<Response, Problem> {
    blocking(move || {
        let document = match fields.given("sequence") {
            Some(name) => sequences.sequence(name).map_err(|error| problem(&error))?.0.document,
            None => BEGINNING.to_owned(),
        };
        editor(&sequences, &caller, &document, None)
    })
    .await
}

async fn check(State(sequences): Shared, caller: Caller, Form(fields): Form<Fields>) -> Result<Response, Problem> {
    blocking(move || {
        let document = fields.document("document");
        let machine = fields.given("machine").filter(|_| fields.text("verb") == "plan").map(str::to_owned);
        editor(&sequences, &caller, &document, machine.as_deref())
    })
    .await
}

async fn publish(State(sequences): Shared, caller: Caller, Form(fields): Form<Fields>) -> Result<Response, Problem> {
    blocking(move || {
        let document = fields.document("document");
        match sequences.publish(&document, &files_beside(&sequences, &document), &caller.principal) {
            Ok(record) => Ok(Redirect::to(&format!("/sequences/{}", escaped(&record.name))).into_response()),
            Err(Error::Document(_)) => editor(&sequences, &caller, &document, None),
            Err(error) => Err(problem(&error)),
        }
    })
    .await
}

/// What lay beside the document when it was published last: what it includes goes on being found.
fn files_beside(sequences: &Sequences, document: &str) -> parser::Files {
    let name = parser::to_json(document).ok().and_then(|document| Some(document["name"].as_str()?.to_owned()));
    let published = name.and_then(|name| sequences.sequence(&name).ok());
    published.map(|(record, _)| record.files).unwrap_or_default()
}

/// The editor with everything that the checker finds, and the plan for `machine` when nothing is wrong.
fn editor(sequences: &Sequences, caller: &Caller, document: &str, machine: Option<&str>) -> Result<Response, Problem> {
    let machines = sequences.fleet.machines().map_err(|error| crate::fleet::api::problem(&error))?;
    let known = Known { images: (sequences.lookup.images)() };
    let parsed = parser::parse_for(document, &files_beside(sequences, document), known);
    let problems = parsed.as_ref().err().cloned().unwrap_or_default();
    let planned = machine.and_then(|machine| Some(planned(sequences, parsed.as_ref().ok()?, machine)));
    let may_publish = caller.principal.may(Capability::EditSequence);
    let body = html! {
        @if let Some(planned) = planned { (section(&format!("Plan for {}", machine.unwrap_or_default()), &planned)) }
        form method="post" action="/editor" #editor data-files=(json!(files_beside(sequences, document)).to_string()) {
            div.editor {
                div {
                    div.sheet {
                        div.gutter aria-hidden="true" #gutter {
                            @for line in 1..=document.lines().count().max(1) { span class=[problems.iter().any(|p| p.file.is_none() && p.line as usize == line).then_some("wrong")] { (line) } }
                        }
                        textarea #document name="document" spellcheck="false" autocapitalize="off" autocomplete="off" wrap="off" aria-label="Document" aria-describedby="findings-title editor-help" { "\n" (document) }
                        ul.completions #completions role="listbox" aria-label="Completions" hidden {}
                    }
                    p.hint #editor-help { "Ctrl+Space completes; Tab and Shift+Tab indent (Escape first, then Tab, leaves the field)." }
                    p.actions {
                        @if may_publish { button type="submit" formaction="/sequences" #publish { "Publish" } }
                        button.quiet type="submit" name="verb" value="check" { "Check" }
                        @if !machines.is_empty() { (machine_choice(&machines, machine.unwrap_or_default())) button.quiet type="submit" name="verb" value="plan" { "Plan for this machine" } }
                    }
                }
                div {
                    section { h2 #findings-title { "What the checker says" } div #findings role="status" { (findings(&problems)) } }
                    (reference())
                }
            }
        }
        (script("editor.js"))
    };
    let title = parsed.map_or_else(|_| "Editor".to_owned(), |sequence| format!("Editor: {}", sequence.name));
    Ok(page(caller, "/sequences", &title, &body))
}

fn findings(problems: &[parser::Problem]) -> Markup {
    html! {
        @if problems.is_empty() { p.success { "Nothing is wrong." } }
        @else {
            p { (counted(problems.len(), "problem", "problems")) }
            ul.findings {
                @for problem in problems {
                    li {
                        @match &problem.file {
                            Some(file) => { b { (file) ", line " (problem.line) ", column " (problem.column) } }
                            None => { button.quiet type="button" data-line=(problem.line) data-column=(problem.column) { "line " (problem.line) ", column " (problem.column) } }
                        }
                        p { (words(&problem.message)) }
                        @if let Some(hint) = &problem.hint { p.hint { (words(hint)) } }
                    }
                }
            }
        }
    }
}

fn reference() -> Markup {
    html! {
        section.reference {
            h2 { "Steps" }
            @for row in steps::TABLE { (step_help(row)) }
        }
    }
}

fn step_help(row: &Row) -> Markup {
    html! {
        details {
            summary { code { (row.name) } " " (row.summary) }
            @if row.erases { p { (badge(Tone::Attention, "erases a disk")) } }
            dl {
                @for parameter in row.parameters {
                    dt { (parameter.name) @if parameter.required { " (required)" } }
                    dd { (parameter.summary) @if !parameter.default.is_empty() { "; without it: " (parameter.default) } }
                }
            }
            pre { (row.example) }
            button.quiet type="button" data-inserts=(row.example) hidden { "Insert" }
        }
    }
}
