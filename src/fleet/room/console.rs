//! Page: the machines as tiles where they stand, with what they are doing; arranged by drag or with the arrow keys.

use std::collections::HashMap;

use axum::Form;
use axum::extract::State;
use axum::response::{IntoResponse, Redirect, Response};
use maud::{Markup, html};

use super::{COLUMNS, ROWS, Room, Seat};
use crate::access::Capability;
use crate::api::{Access, Caller, Problem, Routes, Table, blocking};
use crate::console::form::{Fields, escaped};
use crate::console::page::{live_page, script};
use crate::console::part::{counted, guarded, nothing, run_progress_brief, section, tabs};
use crate::fleet::api::problem;
use crate::fleet::console::{AllDoing, Doing, FleetPages, tone};
use crate::fleet::deployment::RunState;
use crate::fleet::machine::{Machine, MachineId, MachineState};

/// The tab of the machines that have no place.
const ELSEWHERE: &str = "No place";

pub(in crate::fleet) fn routes(pages: FleetPages) -> Table {
    let read = Access::Person(Capability::Read);
    let edit = Access::Person(Capability::EditMachine);
    Routes::new()
        .get("/rooms", read, "Page: machines as tiles where they stand", rooms)
        .post("/rooms", edit, "Make a room from its page", make)
        .post("/rooms/remove", edit, "Remove a room from its page", remove)
        .with_state(pages)
}

async fn rooms(
    State(pages): State<FleetPages>,
    caller: Caller,
    Form(fields): Form<Fields>,
) -> Result<Response, Problem> {
    blocking(move || {
        let failed = |error| problem(&error);
        let mut machines = pages.fleet.machines().map_err(failed)?;
        machines.retain(|machine| !matches!(machine.state, MachineState::Rejected | MachineState::Retired));
        let rooms = pages.fleet.rooms().map_err(failed)?;
        let may_edit = caller.principal.may(Capability::EditMachine);
        let view = View {
            machines: &machines.iter().map(|machine| (&machine.id, machine)).collect(),
            doing: &(pages.hooks.doing)(),
            arranging: may_edit && fields.has("arrange"),
            may_deploy: caller.principal.may(Capability::Deploy),
        };
        let chosen = fields.given("room").or_else(|| rooms.first().map(|room| room.name.as_str())).unwrap_or(ELSEWHERE);
        let room = rooms.iter().find(|room| room.name == chosen);
        let seated =
            |machine: &&Machine| rooms.iter().any(|room| room.seats.iter().any(|seat| seat.machine == machine.id));
        let unplaced: Vec<&Machine> = machines.iter().filter(|machine| !seated(machine)).collect();
        let body = html! {
            (choices(&rooms, chosen, unplaced.len()))
            @match room {
                Some(room) => { (drawn(room, &view, &unplaced, may_edit)) }
                None => { (elsewhere(&view, &unplaced)) }
            }
            @if may_edit { (upkeep(room)) }
            (script("room.js"))
        };
        Ok(live_page(&caller, "/rooms", "Rooms", "kinds=machine,run,progress,room", &body))
    })
    .await
}

struct View<'a> {
    machines: &'a HashMap<&'a MachineId, &'a Machine>,
    doing: &'a AllDoing,
    arranging: bool,
    may_deploy: bool,
}

fn choices(rooms: &[Room], chosen: &str, unplaced: usize) -> Markup {
    let address = |name: &str| format!("/rooms?room={}", escaped(name));
    let mut all: Vec<(String, String)> = rooms.iter().map(|room| (address(&room.name), room.name.clone())).collect();
    if unplaced > 0 || rooms.is_empty() {
        all.push((address(ELSEWHERE), ELSEWHERE.to_owned()));
    }
    html! { @if all.len() > 1 { (tabs("Rooms", chosen, &all)) } }
}

fn drawn(room: &Room, view: &View<'_>, unplaced: &[&Machine], may_edit: bool) -> Markup {
    let address = format!("/rooms?room={}", escaped(&room.name));
    let known: Vec<(&Seat, &Machine)> =
        room.seats.iter().filter_map(|seat| Some((seat, *view.machines.get(&seat.machine)?))).collect();
    html! {
        section {
            div.actions {
                h2 { (room.name) ": " (counted(known.len(), "machine", "machines")) }
                @if may_edit && !view.arranging { a.button.quiet href={ (address) "&arrange=1" } { "Arrange" } }
                @if view.arranging { a.button href=(address) { "Done" } }
                @else if view.may_deploy && !known.is_empty() { (deploy_to(&known)) }
            }
            @if view.arranging { p.hint #room-help { "Drag a machine to its place, or give it the focus and move it with the arrow keys. Delete takes it out of the room." } p.hint role="status" #room-said {} }
            @if known.is_empty() && !view.arranging { (nothing("No machine has its place here yet: choose Arrange.")) }
            div class={ "room-scroll" @if view.arranging { " arranging" } } tabindex="0" role="group" aria-label=(room.name) {
                div.room data-room=(room.name) data-columns=(COLUMNS) data-rows=(ROWS) {
                    @for (seat, machine) in known { (tile(machine, view, &format!("x{} y{}", seat.column, seat.row))) }
                }
            }
        }
        @if view.arranging && !unplaced.is_empty() {
            (section("Without a place", &html! {
                div.unplaced.arranging { @for machine in unplaced { (tile(machine, view, "")) } }
            }))
        }
    }
}

/// Opens the wizard with the machines of the room chosen.
fn deploy_to(known: &[(&Seat, &Machine)]) -> Markup {
    html! {
        form.inline method="get" action="/deployments/new" {
            @for (_, machine) in known { input type="hidden" name="machine" value=(machine.name); }
            button.quiet type="submit" { "Deploy to this room" }
        }
    }
}

fn elsewhere(view: &View<'_>, unplaced: &[&Machine]) -> Markup {
    html! {
        section {
            h2 { (counted(unplaced.len(), "machine", "machines")) " without a place" }
            @if unplaced.is_empty() { (nothing("Every machine has its place.")) }
            div.unplaced { @for machine in unplaced { (tile(machine, view, "")) } }
        }
    }
}

fn tile(machine: &Machine, view: &View<'_>, place: &str) -> Markup {
    let tone = if machine.pairing_code.is_some() { tone(MachineState::Waiting) } else { tone(machine.state) };
    let doing = view.doing.get(&machine.id).filter(|doing| doing.state == RunState::Running);
    html! {
        div class={ "seat " (tone.class()) " " (place) } data-key=(machine.id) data-machine=(machine.id) draggable=[view.arranging.then_some("true")] tabindex=[view.arranging.then_some("0")] aria-describedby=[view.arranging.then_some("room-help")] {
            a href={ "/machines/" (machine.name) } tabindex=[view.arranging.then_some("-1")] { (machine.name) }
            (said(machine, doing))
        }
    }
}

fn said(machine: &Machine, doing: Option<&Doing>) -> Markup {
    html! {
        @if let Some(code) = &machine.pairing_code { p { "code " (code) } }
        @else if let Some(doing) = doing {
            @if doing.question.is_some() { p { b { "asks" } } }
            @else {
                p { (doing.step) }
                (run_progress_brief(&doing.run, doing.done, doing.total, &doing.note))
            }
        }
        @else { p { (machine.state.name()) } p { (machine.identity.model.as_deref().unwrap_or_default()) } }
    }
}

fn upkeep(room: Option<&Room>) -> Markup {
    section(
        "Rooms of this site",
        &html! {
            form.search method="post" action="/rooms" {
                input name="room" aria-label="Name of the new room" placeholder="Name of a new room" required maxlength="60";
                button.quiet type="submit" { "Make a room" }
            }
            @if let Some(room) = room {
                (guarded(&format!("Remove {}…", room.name), "The room goes; its machines stay and have no place any more.", &format!("/rooms/remove?room={}", escaped(&room.name)), "Remove the room"))
            }
        },
    )
}

async fn make(
    State(pages): State<FleetPages>,
    caller: Caller,
    Form(fields): Form<Fields>,
) -> Result<Response, Problem> {
    blocking(move || {
        let room = fields.text("room");
        pages.fleet.put_room(room, &caller.principal).map_err(|error| problem(&error))?;
        Ok(Redirect::to(&format!("/rooms?room={}&arrange=1", escaped(room))).into_response())
    })
    .await
}

#[derive(serde::Deserialize)]
struct Named {
    room: String,
}

async fn remove(
    State(pages): State<FleetPages>,
    caller: Caller,
    axum::extract::Query(named): axum::extract::Query<Named>,
) -> Result<Response, Problem> {
    blocking(move || {
        pages.fleet.remove_room(&named.room, &caller.principal).map_err(|error| problem(&error))?;
        Ok(Redirect::to("/rooms").into_response())
    })
    .await
}
