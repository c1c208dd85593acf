//! Pages: the overview (what needs a hand first), the machines, one machine.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Redirect, Response};
use maud::{Markup, html};

use super::api::problem;
use super::db::Fleet;
use super::machine::{Machine, MachineState};
use crate::access::Capability;
use crate::api::{Access, Caller, Problem, Routes, Table, blocking};
use crate::console::page::page;
use crate::console::part::{Tone, badge, facts, instant, nothing, section};

/// What another subject shows of a machine on its page.
pub type Section = dyn Fn(&Machine) -> Markup + Send + Sync;
/// What a machine is doing right now, in a line.
pub type Activity = dyn Fn(&Machine) -> Option<Markup> + Send + Sync;

#[derive(Clone)]
pub struct FleetPages {
    pub fleet: Arc<Fleet>,
    pub sections: Arc<Vec<Box<Section>>>,
    pub activity: Arc<Activity>,
}

pub fn routes(pages: FleetPages) -> Table {
    let read = Access::Person(Capability::Read);
    let approve = Access::Person(Capability::ApproveMachine);
    Routes::new()
        .get("/", read, "Overview", overview)
        .get("/machines", read, "All machines", machines)
        .get("/machines/{machine}", read, "A machine", machine)
        .post("/machines/{machine}/approve", approve, "Approve a machine from its page", approve_from_page)
        .post("/machines/{machine}/reject", approve, "Reject a machine from its page", reject_from_page)
        .with_state(pages)
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

async fn overview(State(pages): State<FleetPages>, caller: Caller) -> Result<Response, Problem> {
    blocking(move || {
        let machines = pages.fleet.machines().map_err(|error| problem(&error))?;
        let of = |states: &[MachineState]| -> Vec<&Machine> { machines.iter().filter(|m| states.contains(&m.state) || (m.pairing_code.is_some() && states.contains(&MachineState::Waiting))).collect() };
        let needs = of(&[MachineState::Waiting, MachineState::Failed]);
        let running = of(&[MachineState::Deploying]);
        let rest = of(&[MachineState::Managed, MachineState::Approved]);
        let body = html! {
            ul.tiles {
                (tile(needs.len(), "need a hand"))
                (tile(running.len(), "deploying"))
                (tile(of(&[MachineState::Managed]).len(), "managed"))
                (tile(machines.len(), "known"))
            }
            @if machines.is_empty() {
                (section("No machine yet", &html! { p { "Switch a machine on and let it boot from the network. It shows a pairing code on its screen and appears here." } }))
            }
            @if !needs.is_empty() { (section("Needs a hand", &table(&pages, &needs))) }
            @if !running.is_empty() { (section("Running", &table(&pages, &running))) }
            @if !rest.is_empty() { (section("In order", &table(&pages, &rest))) }
        };
        Ok(page(&caller, "/", "Overview", &body))
    })
    .await
}

fn tile(count: usize, label: &str) -> Markup {
    html! { li { b { (count) } span { (label) } } }
}

async fn machines(State(pages): State<FleetPages>, caller: Caller) -> Result<Response, Problem> {
    blocking(move || {
        let machines = pages.fleet.machines().map_err(|error| problem(&error))?;
        let all: Vec<&Machine> = machines.iter().collect();
        let body = match all.is_empty() {
            true => nothing("No machine has checked in yet."),
            false => section(&format!("{} machines", all.len()), &table(&pages, &all)),
        };
        Ok(page(&caller, "/machines", "Machines", &body))
    })
    .await
}

fn table(pages: &FleetPages, machines: &[&Machine]) -> Markup {
    html! {
        table {
            thead { tr { th { "Machine" } th { "State" } th { "Now" } th { "Model" } th { "Serial" } th { "Address" } th { "Seen" } } }
            tbody {
                @for machine in machines {
                    tr {
                        td { a href={ "/machines/" (machine.name) } { (machine.name) } }
                        td { (badge(tone(machine.state), machine.state.name())) }
                        td {
                            @if let Some(code) = &machine.pairing_code { span.code { (code) } " waits for approval" }
                            @else if let Some(activity) = (pages.activity)(machine) { (activity) }
                        }
                        td { (machine.identity.model.as_deref().unwrap_or("-")) }
                        td { (machine.identity.system_serial.as_deref().unwrap_or("-")) }
                        td { (machine.address.as_deref().unwrap_or("-")) }
                        td { (instant(machine.seen_at)) }
                    }
                }
            }
        }
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
        let may_approve = caller.principal.may(Capability::ApproveMachine);
        let body = html! {
            @if let Some(code) = &machine.pairing_code { (approval(&machine, code, may_approve)) }
            @if let Some(notice) = &machine.notice { p.problem { (notice) } }
            (section("Machine", &identity(&machine, &collections)))
            @for section in pages.sections.iter() { (section(&machine)) }
        };
        Ok(page(&caller, "/machines", &machine.name, &body))
    })
    .await
}

fn approval(machine: &Machine, code: &str, may_approve: bool) -> Markup {
    section(
        "Waits for approval",
        &html! {
            p { "Its screen shows " span.code { (code) } ". Approve it only if the codes are the same." }
            @if may_approve {
                form.inline method="post" action={ "/machines/" (machine.id) "/approve" } { button type="submit" { "The codes match: approve" } }
                form.inline method="post" action={ "/machines/" (machine.id) "/reject" } { button.quiet type="submit" { "Reject" } }
            }
        },
    )
}

fn identity(machine: &Machine, collections: &[String]) -> Markup {
    let macs: Vec<String> = machine.identity.macs.iter().map(ToString::to_string).collect();
    html! {
        p { (badge(tone(machine.state), machine.state.name())) " " @if machine.protected { (badge(Tone::Quiet, "protected")) } }
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

async fn approve_from_page(
    State(pages): State<FleetPages>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    act(pages, move |fleet| fleet.approve(&name, &caller.principal)).await
}

async fn reject_from_page(
    State(pages): State<FleetPages>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    act(pages, move |fleet| fleet.reject(&name, &caller.principal)).await
}

async fn act(
    pages: FleetPages,
    work: impl FnOnce(&Fleet) -> Result<Machine, super::db::Error> + Send + 'static,
) -> Result<Response, Problem> {
    blocking(move || {
        let machine = work(&pages.fleet).map_err(|error| problem(&error))?;
        Ok(Redirect::to(&format!("/machines/{}", machine.name)).into_response())
    })
    .await
}
