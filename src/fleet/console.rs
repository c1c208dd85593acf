//! Pages: the overview (what needs a hand first), the machines, one machine and what is done to it, the reports.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Form;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Redirect, Response};
use maud::{Markup, html};

use super::api::problem;
use super::approval;
use super::db::Fleet;
use super::deployment::RunState;
use super::machine::{Machine, MachineId, MachineState};
use crate::access::{Capability, Principal, audit};
use crate::api::{Access, Caller, Problem, Routes, Table, blocking};
use crate::console::form::{Fields, escaped};
use crate::console::page::{live_page, page};
use crate::console::part::{
    Tone, action, badge, counted, facts, guarded, instant, nothing, pager, quiet_action, run_progress, section, table,
    words,
};

/// Machines on one page of the list.
const MACHINES_AT_ONCE: usize = 500;
/// Rows of each list on the overview; the lists of machines and runs have them all.
const OVERVIEW_ROWS: usize = 60;
/// Entries of the audit log on a machine's page.
const HISTORY_ENTRIES: u32 = 15;

/// What a machine does or did last, as the subject of runs knows it.
pub struct Doing {
    pub run: String,
    pub sequence: String,
    pub state: RunState,
    pub step: String,
    pub steps_over: u32,
    pub steps: u32,
    pub done: u64,
    pub total: u64,
    pub note: String,
    pub error: Option<String>,
    pub hint: Option<String>,
    /// What it asks a person.
    pub question: Option<String>,
}

pub type AllDoing = HashMap<MachineId, Doing>;
/// What another subject shows of a machine on its page; the caller's rights decide which buttons it has.
pub type Section = dyn Fn(&Machine, &Principal) -> Markup + Send + Sync;
/// What another subject shows on a page that is about no machine in particular.
pub type Block = dyn Fn() -> Markup + Send + Sync;

/// What the other subjects put on these pages; the wiring fills it.
pub struct Hooks {
    pub sections: Vec<Box<Section>>,
    /// What every machine is doing.
    pub doing: Box<dyn Fn() -> AllDoing + Send + Sync>,
    /// The hardware of machines in a line each.
    pub hardware: Box<dyn Fn() -> HashMap<MachineId, String> + Send + Sync>,
    pub overview: Vec<Box<Block>>,
    pub reports: Vec<Box<Block>>,
}

#[derive(Clone)]
pub struct FleetPages {
    pub fleet: Arc<Fleet>,
    pub hooks: Arc<Hooks>,
}

pub fn routes(pages: FleetPages) -> Table {
    let read = Access::Person(Capability::Read);
    let edit = Access::Person(Capability::EditMachine);
    let own = Routes::new()
        .get("/", read, "Page: overview", overview)
        .get("/machines", read, "Page: all machines", machines)
        .get("/machines/{machine}", read, "Page: a machine", machine)
        .post("/machines/{machine}/rename", edit, "Rename a machine from its page", rename)
        .post("/machines/{machine}/protect", edit, "Protect a machine from its page", protect)
        .post("/machines/{machine}/unprotect", edit, "Lift a machine's protection from its page", unprotect)
        .post("/machines/{machine}/retire", edit, "Retire a machine from its page", retire)
        .get("/reports", read, "Page: reports", reports)
        .with_state(pages.clone());
    own.merge(approval::console::routes(pages.clone()))
        .merge(super::room::console::routes(pages.clone()))
        .merge(super::collection::console::routes(pages))
}

/// The colour of a state, the same wherever it stands.
pub fn tone(state: MachineState) -> Tone {
    match state {
        MachineState::Managed => Tone::Good,
        MachineState::Deploying => Tone::Busy,
        MachineState::Waiting => Tone::Attention,
        MachineState::Failed => Tone::Bad,
        MachineState::Approved | MachineState::Rejected | MachineState::Retired => Tone::Quiet,
    }
}

pub(super) fn state_badge(machine: &Machine) -> Markup {
    html! {
        @if machine.pairing_code.is_some() && machine.state != MachineState::Waiting { (badge(Tone::Attention, "waiting")) " " }
        (badge(tone(machine.state), machine.state.name()))
        @if machine.protected { " " (badge(Tone::Quiet, "protected")) }
    }
}

/// Whether a person must look at it.
fn needs_hand(machine: &Machine, doing: Option<&Doing>) -> bool {
    let asks = doing.is_some_and(|doing| doing.question.is_some() && doing.state == RunState::Running);
    machine.pairing_code.is_some() || machine.notice.is_some() || machine.state == MachineState::Failed || asks
}

async fn overview(State(pages): State<FleetPages>, caller: Caller) -> Result<Response, Problem> {
    blocking(move || {
        let machines = pages.fleet.machines().map_err(|error| problem(&error))?;
        let doing = (pages.hooks.doing)();
        let of = |state: MachineState| machines.iter().filter(|machine| machine.state == state).count();
        let (needs, rest): (Vec<&Machine>, Vec<&Machine>) =
            machines.iter().partition(|machine| needs_hand(machine, doing.get(&machine.id)));
        let running: Vec<&Machine> = rest.into_iter().filter(|m| m.state == MachineState::Deploying).collect();
        let body = html! {
            ul.tiles {
                (tile("/machines?show=hand", needs.len(), "need a hand", "attention-figure"))
                (tile("/machines?show=deploying", of(MachineState::Deploying), "deploying", "busy-figure"))
                (tile("/machines?show=failed", of(MachineState::Failed), "failed", "bad-figure"))
                (tile("/machines?show=managed", of(MachineState::Managed), "managed", ""))
                (tile("/machines", machines.len(), "known", ""))
            }
            @if machines.is_empty() {
                (section("No machine yet", &html! { p { "Switch a machine on and let it boot from the network. It shows a pairing code on its screen and appears under " a href="/approvals" { "Approvals" } "." } }))
            } @else if needs.is_empty() {
                section { p.nothing { "Nothing needs a hand." } }
            } @else {
                (section("Needs a hand", &hand_table(&needs, &doing)))
            }
            @for block in &pages.hooks.overview { (block()) }
            @if !running.is_empty() { (section("Running", &running_table(&running, &doing))) }
        };
        Ok(live_page(&caller, "/", "Overview", "kinds=machine,run,progress,deployment", &body))
    })
    .await
}

fn tile(path: &str, count: usize, label: &str, class: &str) -> Markup {
    let class = if count == 0 { "" } else { class };
    html! { li class=(class) { a href=(path) { b { (count) } span { (label) } } } }
}

fn hand_table(machines: &[&Machine], doing: &AllDoing) -> Markup {
    html! {
        (table(&["Machine", "State", "Why", "What to do"], &html! {
            @for machine in machines.iter().take(OVERVIEW_ROWS) {
                @let doing = doing.get(&machine.id);
                tr data-key=(machine.id) {
                    td { a href={ "/machines/" (machine.name) } { (machine.name) } }
                    td { (state_badge(machine)) }
                    td { (why(machine, doing)) }
                    td { (way_out(machine, doing)) }
                }
            }
        }))
        (and_more(machines.len(), "/machines?show=hand"))
    }
}

fn and_more(count: usize, path: &str) -> Markup {
    html! { @if count > OVERVIEW_ROWS { p { a href=(path) { "and " (count - OVERVIEW_ROWS) " more" } } } }
}

fn why(machine: &Machine, doing: Option<&Doing>) -> Markup {
    let question = doing.filter(|doing| doing.state == RunState::Running).and_then(|doing| doing.question.as_deref());
    html! {
        @if let Some(code) = &machine.pairing_code { "waits for approval with the code " span.code { (code) } }
        @else if let Some(question) = question { "asks: " (question) }
        @else if let Some(notice) = &machine.notice { (notice) }
        @else if let Some(doing) = doing {
            @if doing.state == RunState::Cancelled { "its run was cancelled" }
            @else { (words(doing.error.as_deref().unwrap_or("its run failed"))) }
        }
        @else { "it failed" }
    }
}

fn way_out(machine: &Machine, doing: Option<&Doing>) -> Markup {
    html! {
        @if machine.pairing_code.is_some() { a href="/approvals" { "Compare the codes" } }
        @else if let Some(doing) = doing {
            @if let Some(hint) = &doing.hint { (words(hint)) " " }
            a href={ "/runs/" (doing.run) } { "See the run" }
        }
        @else { a href={ "/machines/" (machine.name) } { "Look at it" } }
    }
}

fn running_table(machines: &[&Machine], doing: &AllDoing) -> Markup {
    html! {
        (table(&["Machine", "Sequence", "Step", "Progress"], &html! {
            @for machine in machines.iter().take(OVERVIEW_ROWS) {
                tr data-key=(machine.id) {
                    td { a href={ "/machines/" (machine.name) } { (machine.name) } }
                    @match doing.get(&machine.id) {
                        Some(doing) => {
                            td { a href={ "/runs/" (doing.run) } { (doing.sequence) } }
                            td { (step_now(doing)) }
                            td { (run_progress(&doing.run, doing.done, doing.total, &doing.note)) }
                        }
                        None => { td { "-" } td { "-" } td {} }
                    }
                }
            }
        }))
        (and_more(machines.len(), "/machines?show=deploying"))
    }
}

fn step_now(doing: &Doing) -> Markup {
    html! { (doing.steps_over.min(doing.steps) + u32::from(doing.steps_over < doing.steps)) " of " (doing.steps) @if !doing.step.is_empty() { ": " (doing.step) } }
}

/// What a machine is doing right now, in a cell of a list.
pub(super) fn activity(doing: &Doing) -> Markup {
    html! {
        a href={ "/runs/" (doing.run) } { (doing.sequence) } " "
        @match doing.state {
            RunState::Running => {
                @if let Some(question) = &doing.question { (badge(Tone::Attention, "asks")) " " (question) }
                @else { (step_now(doing)) (run_progress(&doing.run, doing.done, doing.total, &doing.note)) }
            }
            RunState::Failed => { (doing.error.as_deref().unwrap_or("failed")) }
            state => { (state.name()) }
        }
    }
}

async fn machines(
    State(pages): State<FleetPages>,
    caller: Caller,
    Form(fields): Form<Fields>,
) -> Result<Response, Problem> {
    blocking(move || {
        let machines = pages.fleet.machines().map_err(|error| problem(&error))?;
        let doing = (pages.hooks.doing)();
        let (show, search) = (fields.text("show"), fields.text("search"));
        let found: Vec<&Machine> = machines
            .iter()
            .filter(|machine| shown(machine, show, doing.get(&machine.id)) && mentions(machine, search))
            .collect();
        let pages_all = found.len().div_ceil(MACHINES_AT_ONCE).max(1);
        let number = fields.number("page").unwrap_or(1).clamp(1, pages_all);
        let here: Vec<&Machine> = found.iter().skip((number - 1) * MACHINES_AT_ONCE).take(MACHINES_AT_ONCE).copied().collect();
        let body = html! {
            (choices(&machines, &doing, show, search))
            section {
                h2 { (counted(found.len(), "machine", "machines")) }
                @if found.is_empty() { (none_found(machines.is_empty())) }
                @else { (list(&here, &doing, caller.principal.may(Capability::Deploy))) }
                (pager(&format!("/machines?show={}&search={}&page=", escaped(show), escaped(search)), number, pages_all))
            }
        };
        Ok(live_page(&caller, "/machines", "Machines", "kinds=machine,run,progress", &body))
    })
    .await
}

fn none_found(none_at_all: bool) -> Markup {
    match none_at_all {
        true => nothing("No machine has checked in yet. Switch one on and let it boot from the network."),
        false => html! { p.nothing { "No machine fits. " a href="/machines" { "Show all" } } },
    }
}

fn shown(machine: &Machine, show: &str, doing: Option<&Doing>) -> bool {
    match show {
        "" => !matches!(machine.state, MachineState::Rejected | MachineState::Retired),
        "hand" => needs_hand(machine, doing),
        state => machine.state.name() == state,
    }
}

/// Whether any of what identifies the machine contains the text, in any case.
fn mentions(machine: &Machine, search: &str) -> bool {
    if search.is_empty() {
        return true;
    }
    let wanted = search.to_lowercase();
    let identity = &machine.identity;
    let texts = [&identity.model, &identity.manufacturer, &identity.system_serial, &identity.uuid, &machine.address];
    let has = |text: &str| text.to_lowercase().contains(&wanted);
    has(&machine.name)
        || has(machine.id.as_str())
        || texts.into_iter().flatten().any(|text| has(text))
        || identity.macs.iter().any(|mac| has(&mac.to_string()))
}

fn choices(machines: &[Machine], doing: &AllDoing, show: &str, search: &str) -> Markup {
    let count = |show: &str| machines.iter().filter(|machine| shown(machine, show, doing.get(&machine.id))).count();
    let states = MachineState::ALL.iter().map(|state| (state.name(), state.name()));
    let all = [("", "in use"), ("hand", "need a hand")].into_iter().chain(states);
    let address = |value: &str| format!("/machines?show={value}&search={}", escaped(search));
    html! {
        form.search method="get" action="/machines" role="search" {
            @if !show.is_empty() { input type="hidden" name="show" value=(show); }
            input type="search" name="search" value=(search) placeholder="Name, model, serial number, address" aria-label="Search machines";
            button.quiet type="submit" { "Search" }
        }
        ul.tabs aria-label="States" {
            @for (value, name) in all {
                @let count = count(value);
                @if count > 0 || value == show || value.is_empty() {
                    li { a href=(address(value)) aria-current=[(value == show).then_some("true")] { (name) " " (count) } }
                }
            }
        }
    }
}

fn list(machines: &[&Machine], doing: &AllDoing, may_deploy: bool) -> Markup {
    let rows = html! {
        @for machine in machines {
            tr data-key=(machine.id) {
                @if may_deploy { td { input type="checkbox" name="machine" value=(machine.name) aria-label={ "Choose " (machine.name) }; } }
                td { a href={ "/machines/" (machine.name) } { (machine.name) } }
                td { (state_badge(machine)) }
                td {
                    @if let Some(code) = &machine.pairing_code { span.code { (code) } " waits for approval" }
                    @else if let Some(doing) = doing.get(&machine.id) { (activity(doing)) }
                }
                td { (machine.identity.model.as_deref().unwrap_or("-")) }
                td { (machine.identity.system_serial.as_deref().unwrap_or("-")) }
                td { (machine.address.as_deref().unwrap_or("-")) }
                td { (instant(machine.seen_at)) }
            }
        }
    };
    let heads = ["Machine", "State", "Now", "Model", "Serial", "Address", "Seen"];
    match may_deploy {
        false => table(&heads, &rows),
        true => html! {
            form method="get" action="/deployments/new" {
                (table(&[""].into_iter().chain(heads).collect::<Vec<_>>(), &rows))
                p.actions {
                    label { input type="checkbox" data-all="machine"; " all" }
                    button type="submit" { "Deploy to the " span data-count="machine" {} " chosen" }
                }
            }
        },
    }
}

async fn machine(
    State(pages): State<FleetPages>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    blocking(move || {
        let machine = pages.fleet.machine(&name).map_err(|error| problem(&error))?;
        let collections = pages.fleet.collections_of(&machine.id).map_err(|error| problem(&error))?;
        let body = html! {
            @if let Some(code) = &machine.pairing_code { (approval::console::card(&machine, code, &caller.principal)) }
            @if let Some(notice) = &machine.notice { p.notice { (notice) } }
            (actions(&machine, &caller.principal))
            (section("Machine", &identity(&machine, &collections)))
            @for section in &pages.hooks.sections { (section(&machine, &caller.principal)) }
            @if caller.principal.may(Capability::EditMachine) { (section("Change", &changes(&machine))) }
            @if caller.principal.may(Capability::Audit) { (history(&pages.fleet, &machine)) }
        };
        let events = format!("kinds=machine,run,progress&subject={}", machine.id);
        Ok(live_page(&caller, "/machines", &machine.name, &events, &body))
    })
    .await
}

fn actions(machine: &Machine, who: &Principal) -> Markup {
    let usable = !matches!(machine.state, MachineState::Waiting | MachineState::Rejected | MachineState::Retired);
    html! {
        div.actions {
            @if usable && who.may(Capability::Deploy) { a.button href={ "/deployments/new?machine=" (machine.name) } { "Deploy" } }
            @if who.may(Capability::EditMachine) {
                @if machine.protected { (quiet_action(&format!("/machines/{}/unprotect", machine.id), "Lift the protection")) }
                @else { (quiet_action(&format!("/machines/{}/protect", machine.id), "Protect against erasing")) }
            }
            @if machine.pairing_code.is_none() && !usable && who.may(Capability::ApproveMachine) {
                (action(&format!("/machines/{}/approve", machine.id), "Take it back"))
            }
        }
    }
}

fn identity(machine: &Machine, collections: &[String]) -> Markup {
    let macs: Vec<String> = machine.identity.macs.iter().map(ToString::to_string).collect();
    html! {
        p { (state_badge(machine)) }
        (facts(&[
            ("Manufacturer", machine.identity.manufacturer.clone()),
            ("Model", machine.identity.model.clone()),
            ("Serial number", machine.identity.system_serial.clone()),
            ("UUID", machine.identity.uuid.clone()),
            ("Network adapters", (!macs.is_empty()).then(|| macs.join(", "))),
            ("Address", machine.address.clone()),
            ("Speaks from", Some(machine.stage.replace('-', " "))),
            ("Boots next", Some(machine.next_boot.name().replace('-', " "))),
            ("Approved by", machine.approved_by.clone()),
            ("Collections", Some(collections.join(", "))),
            ("Identifier", Some(machine.id.to_string())),
        ]))
        p.hint { "Known since " (instant(machine.created_at)) ", last seen " (instant(machine.seen_at)) }
    }
}

fn changes(machine: &Machine) -> Markup {
    html! {
        form.search method="post" action={ "/machines/" (machine.id) "/rename" } {
            input name="name" value=(machine.name) aria-label="Name" required maxlength="63" pattern="[A-Za-z0-9]([A-Za-z0-9\\-]*[A-Za-z0-9])?" title="letters, digits and hyphens";
            button.quiet type="submit" { "Rename" }
        }
        @if machine.state != MachineState::Retired {
            (guarded("Retire this machine…", "Its certificates are revoked and it gets nothing any more; its record stays. A retired machine can be approved again.", &format!("/machines/{}/retire", machine.id), "Retire"))
        }
    }
}

fn history(fleet: &Fleet, machine: &Machine) -> Markup {
    let entries = audit::about(&fleet.db, &machine.name, machine.id.as_str(), HISTORY_ENTRIES).unwrap_or_default();
    html! {
        @if !entries.is_empty() {
            (section("Done by people and rules", &table(&["When", "Who", "What", "Detail"], &html! {
                @for entry in &entries { tr { td { (instant(entry.at)) } td { (entry.who) } td { (entry.what) } td.words { (entry.detail) } } }
            })))
        }
    }
}

async fn rename(
    State(pages): State<FleetPages>,
    caller: Caller,
    Path(id): Path<String>,
    Form(fields): Form<Fields>,
) -> Result<Response, Problem> {
    act(pages, move |fleet| fleet.rename(&id, fields.text("name"), &caller.principal)).await
}

async fn protect(State(pages): State<FleetPages>, caller: Caller, Path(id): Path<String>) -> Result<Response, Problem> {
    act(pages, move |fleet| fleet.protect(&id, true, &caller.principal)).await
}

async fn unprotect(
    State(pages): State<FleetPages>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    act(pages, move |fleet| fleet.protect(&id, false, &caller.principal)).await
}

async fn retire(State(pages): State<FleetPages>, caller: Caller, Path(id): Path<String>) -> Result<Response, Problem> {
    act(pages, move |fleet| fleet.retire(&id, &caller.principal)).await
}

/// Does it and shows the machine.
pub(super) async fn act(
    pages: FleetPages,
    work: impl FnOnce(&Fleet) -> Result<Machine, super::db::Error> + Send + 'static,
) -> Result<Response, Problem> {
    blocking(move || {
        let machine = work(&pages.fleet).map_err(|error| problem(&error))?;
        Ok(Redirect::to(&format!("/machines/{}", machine.name)).into_response())
    })
    .await
}

async fn reports(State(pages): State<FleetPages>, caller: Caller) -> Result<Response, Problem> {
    blocking(move || {
        let body = html! { div.charts { @for block in &pages.hooks.reports { (block()) } } };
        Ok(page(&caller, "/reports", "Reports", &body))
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::identity::Identity;
    use crate::fleet::machine::NextBoot;
    use crate::stdx::time::Timestamp;

    fn machine(name: &str, state: MachineState) -> Machine {
        Machine {
            id: MachineId::from(format!("machine-{name}").as_str()),
            name: name.to_owned(),
            state,
            next_boot: NextBoot::LocalDisk,
            identity: Identity { model: Some("LabBox 3".into()), ..Identity::default() },
            protected: false,
            pairing_code: None,
            approved_by: None,
            address: None,
            stage: "installed-system".into(),
            created_at: Timestamp::default(),
            seen_at: Timestamp::default(),
            notice: None,
            question: None,
        }
    }

    #[test]
    fn a_search_finds_what_identifies_a_machine_in_any_case() {
        let one = machine("Lab-1", MachineState::Managed);
        for (search, found) in [("", true), ("lab-1", true), ("LABBOX", true), ("machine-lab", true), ("x99", false)] {
            assert_eq!(mentions(&one, search), found, "{search}");
        }
    }

    #[test]
    fn what_needs_a_hand_is_what_waits_failed_asks_or_has_a_notice() {
        for (state, expect) in [(MachineState::Managed, false), (MachineState::Failed, true)] {
            assert_eq!(needs_hand(&machine("a", state), None), expect);
        }
        let waiting = Machine { pairing_code: Some("1".into()), ..machine("a", MachineState::Managed) };
        let told = Machine { notice: Some("x".into()), ..machine("a", MachineState::Managed) };
        assert!(needs_hand(&waiting, None) && needs_hand(&told, None));
        assert!(shown(&waiting, "hand", None) && !shown(&machine("a", MachineState::Retired), "", None));
    }
}
