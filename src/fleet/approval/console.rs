//! Page: the machines that wait, with their codes and hardware, approved or rejected one by one or many at once.

use axum::Form;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Redirect, Response};
use maud::{Markup, html};

use crate::access::{Capability, Principal};
use crate::api::{Access, Caller, Problem, Routes, Table, blocking};
use crate::console::form::Fields;
use crate::console::page::{live_page, page};
use crate::console::part::{counted, instant, nothing, section, table};
use crate::fleet::api::problem;
use crate::fleet::console::{FleetPages, act};
use crate::fleet::db::Fleet;
use crate::fleet::machine::Machine;
use crate::stdx::hint::chain;

pub(in crate::fleet) fn routes(pages: FleetPages) -> Table {
    let read = Access::Person(Capability::Read);
    let approve = Access::Person(Capability::ApproveMachine);
    Routes::new()
        .get("/approvals", read, "Page: machines that wait for approval", approvals)
        .post("/approvals", approve, "Approve or reject several machines", decide)
        .post("/machines/{machine}/approve", approve, "Approve a machine from its page", approve_one)
        .post("/machines/{machine}/reject", approve, "Reject a machine from its page", reject_one)
        .with_state(pages)
}

async fn approvals(State(pages): State<FleetPages>, caller: Caller) -> Result<Response, Problem> {
    blocking(move || {
        let machines = pages.fleet.machines().map_err(|error| problem(&error))?;
        let mut waiting: Vec<&Machine> = machines.iter().filter(|machine| machine.pairing_code.is_some()).collect();
        waiting.sort_by_key(|machine| std::cmp::Reverse(machine.seen_at));
        let body = match waiting.is_empty() {
            true => html! { section { (nothing("No machine waits. One that boots from the network and is not known appears here, with the code that its screen shows.")) } },
            false => html! {
                p { "Approve a machine only if its screen shows the same code: what is approved is the key that it has just made." }
                (form(&pages, &waiting, caller.principal.may(Capability::ApproveMachine)))
            },
        };
        Ok(live_page(&caller, "/approvals", "Approvals", "kinds=machine", &body))
    })
    .await
}

fn form(pages: &FleetPages, waiting: &[&Machine], may: bool) -> Markup {
    let hardware = (pages.hooks.hardware)();
    let heads = ["", "Code", "Machine", "Hardware", "Addresses", "Last seen"];
    let rows = html! {
        @for machine in waiting {
            @let code = machine.pairing_code.as_deref().unwrap_or_default();
            tr data-key={ (machine.id) ":" (code) } {
                td { input type="checkbox" name="machine" value={ (machine.id) ":" (code) } disabled[!may] aria-label={ "Choose " (machine.name) ", code " (code) }; }
                td { span.code { (code) } }
                td { a href={ "/machines/" (machine.name) } { (machine.name) } @if machine.approved_by.is_some() { p.hint { "known: it comes with a new key" } } }
                td { (title(machine)) @if let Some(line) = hardware.get(&machine.id) { p.hint { (line) } } }
                td {
                    (machine.address.as_deref().unwrap_or("-"))
                    @for mac in machine.identity.macs.iter().take(4) { br; (mac) }
                }
                td { (instant(machine.seen_at)) }
            }
        }
    };
    html! {
        form method="post" action="/approvals" {
            section {
                h2 { (counted(waiting.len(), "machine waits", "machines wait")) }
                (table(&heads, &rows))
                @if may {
                    p.actions {
                        label { input type="checkbox" data-all="machine"; " all" }
                        button type="submit" name="verb" value="approve" { "Approve the " span data-count="machine" {} " chosen" }
                        button.quiet type="submit" name="verb" value="reject" { "Reject them" }
                    }
                }
            }
        }
    }
}

fn title(machine: &Machine) -> String {
    let identity = &machine.identity;
    let name: Vec<&str> = [&identity.manufacturer, &identity.model].into_iter().flatten().map(String::as_str).collect();
    let name = if name.is_empty() { "unnamed machine".to_owned() } else { name.join(" ") };
    match &identity.system_serial {
        Some(serial) => format!("{name}, serial {serial}"),
        None => name,
    }
}

/// What stands on the page of a machine that waits.
pub(in crate::fleet) fn card(machine: &Machine, code: &str, who: &Principal) -> Markup {
    section(
        "Waits for approval",
        &html! {
            p { "Its screen shows " span.code { (code) } ". Approve it only if the codes are the same." }
            @if who.may(Capability::ApproveMachine) {
                form.inline method="post" action={ "/machines/" (machine.id) "/approve" } {
                    input type="hidden" name="code" value=(code);
                    button type="submit" { "The codes match: approve" }
                }
                " "
                form.inline method="post" action={ "/machines/" (machine.id) "/reject" } { button.quiet type="submit" { "Reject" } }
            }
        },
    )
}

async fn approve_one(
    State(pages): State<FleetPages>,
    caller: Caller,
    Path(name): Path<String>,
    Form(fields): Form<Fields>,
) -> Result<Response, Problem> {
    if let Some(code) = fields.given("code") {
        let (pages, name, code) = (pages.clone(), name.clone(), code.to_owned());
        blocking(move || still_waits(&pages.fleet, &name, &code).map(|_| ()).map_err(Problem::conflict)).await?;
    }
    act(pages, move |fleet| fleet.approve(&name, &caller.principal)).await
}

async fn reject_one(
    State(pages): State<FleetPages>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    act(pages, move |fleet| fleet.reject(&name, &caller.principal)).await
}

/// A page may be older than the key that the machine waits with now: the code that the person saw must still be the one.
fn still_waits(fleet: &Fleet, name: &str, code: &str) -> Result<Machine, String> {
    let machine = fleet.machine(name).map_err(|error| chain(&error))?;
    match machine.pairing_code.as_deref() {
        Some(now) if now == code => Ok(machine),
        Some(now) => Err(format!("{} waits with another code by now: {now}", machine.name)),
        None => Err(format!("{} does not wait any more", machine.name)),
    }
}

async fn decide(
    State(pages): State<FleetPages>,
    caller: Caller,
    Form(fields): Form<Fields>,
) -> Result<Response, Problem> {
    let approve = match fields.text("verb") {
        "approve" => true,
        "reject" => false,
        _ => return Err(Problem::bad_request("neither approve nor reject was chosen")),
    };
    blocking(move || {
        let mut failures = Vec::new();
        let chosen = fields.list("machine");
        for value in &chosen {
            let (id, code) = value.split_once(':').unwrap_or((value, ""));
            let done = still_waits(&pages.fleet, id, code).and_then(|machine| {
                let within = pages.fleet.require_within(&caller.principal, std::slice::from_ref(&machine));
                within.map_err(|error| chain(&error))?;
                let (id, by) = (machine.id.as_str(), &caller.principal);
                let done = if approve { pages.fleet.approve(id, by) } else { pages.fleet.reject(id, by) };
                done.map_err(|error| chain(&error))
            });
            failures.extend(done.err());
        }
        if failures.is_empty() && !chosen.is_empty() {
            return Ok(Redirect::to("/approvals").into_response());
        }
        Ok(page(&caller, "/approvals", "Not all were decided", &undecided(chosen.len(), &failures)))
    })
    .await
}

fn undecided(chosen: usize, failures: &[String]) -> Markup {
    html! {
        section {
            @if chosen == 0 { p.problem { "No machine was chosen." } }
            @else {
                p { (chosen - failures.len()) " of " (chosen) " were decided. These were left as they are:" }
                ul { @for failure in failures { li { (failure) } } }
            }
            p.actions { a.button href="/approvals" { "Back to the approvals" } }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::api::Live;
    use crate::db::Db;
    use crate::fleet::enrolment::Policy;
    use crate::fleet::identity::Identity;
    use crate::fleet::link::{CheckIn, Stage};
    use crate::fleet::machine::MachineState;
    use crate::stdx::time::{ManualClock, Timestamp};

    #[test]
    fn a_code_that_is_no_longer_shown_approves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let tables = &[crate::access::db::MIGRATIONS, crate::fleet::db::MIGRATIONS];
        let db = Arc::new(Db::open(&folder.path().join("db"), tables, Timestamp::default()).unwrap());
        let clock = Arc::new(ManualClock::default());
        let fleet = Fleet::open(db, clock, Live::default(), Vec::new(), Policy::default()).unwrap();
        let serial = Some("S1".to_owned());
        let check_in = CheckIn {
            stage: Stage::BootEnvironment,
            identity: Identity { system_serial: serial.clone(), board_serial: serial, ..Identity::default() },
            arrived_by: None,
            request_pem: String::new(),
            code: None,
            trial: None,
            hardware: serde_json::Value::Null,
            agent: String::new(),
        };
        fleet.check_in(&check_in, b"key one", None).unwrap();
        let machine = fleet.machines().unwrap().remove(0);
        let seen = machine.pairing_code.clone().unwrap();
        fleet.check_in(&check_in, b"key two", None).unwrap();
        let error = still_waits(&fleet, machine.id.as_str(), &seen).unwrap_err();
        assert!(error.contains("another code"), "{error}");
        let now = fleet.machine(machine.id.as_str()).unwrap();
        assert_eq!(now.state, MachineState::Waiting);
        assert!(still_waits(&fleet, machine.id.as_str(), &now.pairing_code.unwrap()).is_ok());
    }
}
