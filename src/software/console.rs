//! Pages: packages, baselines and how the machines stand with them.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Form;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Redirect, Response};
use maud::{Markup, html};
use serde_json::json;

use super::api::problem;
use super::db::{SoftwareStore, Standing, Stored};
use super::model::{Baseline, Compliance, EVERYBODY, Mode};
use crate::access::Capability;
use crate::api::{Access, Caller, Problem, Routes, Table, blocking};
use crate::console::form::{Fields, escaped};
use crate::console::page::page;
use crate::console::part::{
    Share, Tone, badge, counted, guarded, instant, nothing, section, shares, size, table, tabs,
};
use crate::fleet::db::Fleet;
use crate::fleet::machine::Machine;

/// Machines that the page of compliance lists.
const MACHINES_SHOWN: usize = 500;

#[derive(Clone)]
pub struct SoftwarePages {
    pub software: Arc<SoftwareStore>,
    pub fleet: Arc<Fleet>,
}

pub fn routes(pages: SoftwarePages) -> Table {
    let read = Access::Person(Capability::Read);
    let edit = Access::Person(Capability::EditSoftware);
    Routes::new()
        .get("/software", read, "Page: packages, baselines and compliance", software_page)
        .get("/baselines/{baseline}", read, "Page: a baseline and how its machines stand", baseline_page)
        .post("/baselines", edit, "Make a baseline or change it from its page", put_baseline)
        .post("/baselines/{baseline}/remove", edit, "Remove a baseline from its page", remove_baseline)
        .post("/packages/{package}/remove", edit, "Remove a package version from its page", remove_package)
        .with_state(pages)
}

async fn software_page(
    State(pages): State<SoftwarePages>,
    caller: Caller,
    Form(fields): Form<Fields>,
) -> Result<Response, Problem> {
    blocking(move || {
        let standings = pages.software.compliance(None).map_err(|error| problem(&error))?;
        let baselines = pages.software.baselines().map_err(|error| problem(&error))?;
        let packages = pages.software.packages().map_err(|error| problem(&error))?;
        let may_edit = caller.principal.may(Capability::EditSoftware);
        let body = html! {
            (section("How machines stand", &html! { (standing_shares(&standings)) (by_machine(&standings, fields.text("show"))) }))
            (section("Baselines", &baseline_table(&pages, &baselines, &standings)))
            @if may_edit { (section("New baseline", &edit_form(&pages, None, &packages)?)) }
            (section("Packages", &package_table(&packages, may_edit)))
        };
        Ok(page(&caller, "/software", "Software", &body))
    })
    .await
}

fn standing_shares(standings: &[Standing]) -> Markup {
    let count = |state: Compliance| standings.iter().filter(|standing| standing.finding.state == state).count() as u64;
    let share = |state: Compliance, name: &str| Share::counted(tone(state), count(state), name);
    html! {
        @if standings.is_empty() { (nothing("No machine has reported yet.")) }
        @else {
            (shares(&[
                share(Compliance::Held, "held"),
                share(Compliance::Installed, "installed"),
                share(Compliance::Missing, "missing"),
                share(Compliance::Failed, "failed"),
                share(Compliance::Unknown, "unknown"),
            ]))
        }
    }
}

/// A line a machine: how many of its packages are as they must be, and which are not.
fn by_machine(standings: &[Standing], show: &str) -> Markup {
    let mut machines: BTreeMap<&str, Vec<&Standing>> = BTreeMap::new();
    for standing in standings {
        machines.entry(&standing.machine).or_default().push(standing);
    }
    let faulty = |found: &[&Standing]| found.iter().any(|standing| !standing.finding.state.is_compliant());
    let with_faults = machines.values().filter(|found| faulty(found)).count();
    let choices = [
        ("/software?show=faults".to_owned(), format!("not in order {with_faults}")),
        ("/software?show=all".to_owned(), format!("all {}", machines.len())),
    ];
    let all = show == "all" || (show.is_empty() && with_faults == 0);
    let mut shown: Vec<(&str, Vec<&Standing>)> =
        machines.into_iter().filter(|(_, found)| all || faulty(found)).collect();
    shown.truncate(MACHINES_SHOWN);
    html! {
        @if !standings.is_empty() {
            p {}
            (tabs("Machines", if all { &choices[1].1 } else { &choices[0].1 }, &choices))
            (table(&["Machine", "As they must be", "What is not", "Checked"], &html! {
                @for (machine, found) in &shown {
                    @let held = found.iter().filter(|standing| standing.finding.state.is_compliant()).count();
                    tr data-key=(machine) {
                        td { a href={ "/machines/" (machine) } { (machine) } }
                        td { (held) " of " (found.len()) }
                        td { @for standing in found.iter().filter(|standing| !standing.finding.state.is_compliant()) { div { (badge(tone(standing.finding.state), standing.finding.state.name())) " " (standing.finding.package) " " (standing.finding.version) ": " (standing.finding.reason) (output(standing)) } } }
                        td { @if let Some(first) = found.first() { (instant(first.at)) } }
                    }
                }
            }))
        }
    }
}

fn output(standing: &Standing) -> Markup {
    html! { @if !standing.finding.output.is_empty() { details { summary { "Output" } pre.log { (standing.finding.output) } } } }
}

/// What a machine's page shows of its baselines.
pub fn machine_section(software: &SoftwareStore, machine: &Machine) -> Markup {
    let standings = software.compliance(Some(&machine.id)).unwrap_or_default();
    html! {
        @if !standings.is_empty() { (section("Baseline", &standing_table(&standings))) }
    }
}

fn standing_table(standings: &[Standing]) -> Markup {
    table(
        &["Package", "Version", "State", "Why", "Checked"],
        &html! {
            @for standing in standings {
                tr {
                    td { (standing.finding.package) }
                    td { (standing.finding.version) }
                    td { (badge(tone(standing.finding.state), standing.finding.state.name())) }
                    td { (standing.finding.reason) (output(standing)) }
                    td { (instant(standing.at)) }
                }
            }
        },
    )
}

fn tone(state: Compliance) -> Tone {
    match state {
        Compliance::Held | Compliance::Installed | Compliance::Removed => Tone::Good,
        Compliance::Missing => Tone::Attention,
        Compliance::Pending => Tone::Busy,
        Compliance::Failed => Tone::Bad,
        Compliance::NotApplicable | Compliance::Unknown => Tone::Quiet,
    }
}

fn baseline_table(pages: &SoftwarePages, baselines: &[Baseline], standings: &[Standing]) -> Markup {
    html! {
        @if baselines.is_empty() { (nothing("No baseline yet. It says which packages the machines of a collection must have.")) }
        @else {
            (table(&["Baseline", "Collection", "What is missing is", "Packages", "How its machines stand"], &html! {
                @for baseline in baselines {
                    tr {
                        td { a href={ "/baselines/" (escaped(&baseline.name)) } { (baseline.name) } }
                        td { a href={ "/collections/" (escaped(&baseline.collection)) } { (baseline.collection) } }
                        td { (mode(baseline.mode)) }
                        td { (baseline.packages.join(", ")) }
                        td { (standing_shares(&of_baseline(pages, baseline, standings))) }
                    }
                }
            }))
        }
    }
}

fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Enforce => "installed",
        Mode::Audit | Mode::Unknown => "reported",
    }
}

/// What the machines of the baseline's collection said about its packages.
fn of_baseline(pages: &SoftwarePages, baseline: &Baseline, standings: &[Standing]) -> Vec<Standing> {
    let members =
        pages.fleet.collection(&baseline.collection).map(|collection| collection.machines).unwrap_or_default();
    let named = |text: &String, package: &str| text.split('@').next() == Some(package);
    let concerns = |standing: &&Standing| {
        members.iter().any(|member| member.name == standing.machine)
            && baseline.packages.iter().any(|text| named(text, &standing.finding.package))
    };
    standings.iter().filter(concerns).cloned().collect()
}

async fn baseline_page(
    State(pages): State<SoftwarePages>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    blocking(move || {
        let baseline = pages.software.baseline(&name).map_err(|error| problem(&error))?;
        let standings = pages.software.compliance(None).map_err(|error| problem(&error))?;
        let packages = pages.software.packages().map_err(|error| problem(&error))?;
        let concerned = of_baseline(&pages, &baseline, &standings);
        let body = html! {
            (section("How its machines stand", &html! { (standing_shares(&concerned)) (by_machine(&concerned, "all")) }))
            @if caller.principal.may(Capability::EditSoftware) {
                (section("Edit", &html! {
                    (edit_form(&pages, Some(&baseline), &packages)?)
                    (guarded("Remove this baseline…", "What it has installed stays on the machines; nobody checks it any more.", &format!("/baselines/{}/remove", escaped(&name)), "Remove"))
                }))
            }
        };
        Ok(page(&caller, "/software", &name, &body))
    })
    .await
}

fn edit_form(pages: &SoftwarePages, baseline: Option<&Baseline>, packages: &[Stored]) -> Result<Markup, Problem> {
    let collections = pages.fleet.collections().map_err(|error| crate::fleet::api::problem(&error))?;
    let mut names: Vec<&str> = packages.iter().map(|stored| stored.package.name.as_str()).collect();
    names.dedup();
    let held = |text: &str| baseline.is_some_and(|baseline| baseline.packages.iter().any(|known| known == text));
    let versioned: Vec<String> =
        packages.iter().map(|stored| format!("{}@{}", stored.package.name, stored.package.version)).collect();
    Ok(html! {
        form method="post" action="/baselines" {
            @match baseline {
                Some(baseline) => { input type="hidden" name="name" value=(baseline.name); }
                None => { label.field { "Name" input name="name" required autocomplete="off" pattern="[a-z0-9][a-z0-9.+\\-]*" title="a-z, 0-9, dots, hyphens"; } }
            }
            label.field { "For the machines of"
                select name="collection" { @for known in &collections { option value=(known.name) selected[known.name == baseline.map_or(EVERYBODY, |b| b.collection.as_str())] { (known.name) } } }
            }
            label.field { "What is missing is"
                select name="mode" { option value="enforce" { "installed" } option value="audit" selected[baseline.is_some_and(|b| b.mode != Mode::Enforce)] { "only reported" } }
            }
            fieldset {
                legend { "Packages" }
                @if names.is_empty() { (nothing("No package yet: `remint package add DIR` adds one.")) }
                div.pick tabindex="0" role="group" aria-label="Packages" {
                    @for name in &names { label { input type="checkbox" name="package" value=(name) checked[held(name)]; span { (name) " " small { "always the newest version" } } } }
                    @for text in &versioned { label { input type="checkbox" name="package" value=(text) checked[held(text)]; span { (text) " " small { "this version" } } } }
                }
            }
            button type="submit" { @if baseline.is_some() { "Save" } @else { "Make the baseline" } }
        }
    })
}

async fn put_baseline(
    State(pages): State<SoftwarePages>,
    caller: Caller,
    Form(fields): Form<Fields>,
) -> Result<Response, Problem> {
    blocking(move || {
        let known = pages.software.baseline(fields.text("name")).ok();
        let fresh = || serde_json::from_value(json!({ "name": fields.text("name"), "packages": [] }));
        let mut baseline = match known {
            Some(baseline) => baseline,
            None => fresh().map_err(|error| Problem::bad_request(error.to_string()))?,
        };
        baseline.collection = fields.given("collection").unwrap_or(EVERYBODY).to_owned();
        baseline.packages = fields.list("package");
        baseline.mode = if fields.text("mode") == "audit" { Mode::Audit } else { Mode::Enforce };
        pages.software.put_baseline(&baseline, &caller.principal).map_err(|error| problem(&error))?;
        Ok(Redirect::to(&format!("/baselines/{}", escaped(&baseline.name))).into_response())
    })
    .await
}

async fn remove_baseline(
    State(pages): State<SoftwarePages>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    blocking(move || {
        pages.software.remove_baseline(&name, &caller.principal).map_err(|error| problem(&error))?;
        Ok(Redirect::to("/software").into_response())
    })
    .await
}

fn package_table(packages: &[Stored], may_edit: bool) -> Markup {
    html! {
        @if packages.is_empty() { (nothing("No package yet: `remint package add DIR` adds one.")) }
        @else {
            (table(&["Package", "Version", "Payload", "SHA-256", "Added", ""], &html! {
                @for stored in packages {
                    @let reference = format!("{}@{}", stored.package.name, stored.package.version);
                    tr {
                        td { (stored.package.name) @if !stored.package.title.is_empty() { p.hint { (stored.package.title) } } }
                        td { (stored.package.version) }
                        td { (size(stored.content.bytes)) }
                        td { code { (stored.content.sha256.get(..12).unwrap_or_default()) "…" } }
                        td { (instant(stored.added_at)) " by " (stored.added_by) }
                        td { @if may_edit { form.inline method="post" action={ "/packages/" (escaped(&reference)) "/remove" } { button.quiet type="submit" aria-label={ "Remove " (reference) } { "Remove" } } } }
                    }
                }
            }))
        }
    }
}

async fn remove_package(
    State(pages): State<SoftwarePages>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    blocking(move || {
        pages.software.remove_package(&name, &caller.principal).map_err(|error| problem(&error))?;
        Ok(Redirect::to("/software").into_response())
    })
    .await
}

/// What the reports show of compliance.
pub fn reports(software: &SoftwareStore) -> Markup {
    let standings = software.compliance(None).unwrap_or_default();
    let mut machines: BTreeMap<&str, bool> = BTreeMap::new();
    for standing in &standings {
        let held = machines.entry(&standing.machine).or_insert(true);
        *held &= standing.finding.state.is_compliant();
    }
    let good = machines.values().filter(|held| **held).count() as u64;
    let bad = machines.len() as u64 - good;
    section(
        "Compliance",
        &html! {
            @if standings.is_empty() { (nothing("No machine has reported yet.")) }
            @else {
                p { (counted(machines.len(), "machine has", "machines have")) " a baseline." }
                (shares(&[
                    Share::counted(Tone::Good, good, "in order"),
                    Share::counted(Tone::Bad, bad, "not in order"),
                ]))
                p.hint { a href="/software?show=faults" { "What is not in order" } }
            }
        },
    )
}
