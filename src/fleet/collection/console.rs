//! Pages: the collections, and one with its machines.

use axum::Form;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Redirect, Response};
use maud::{Markup, html};

use super::{ALL, Collection, Definition, Member};
use crate::access::Capability;
use crate::api::{Access, Caller, Problem, Routes, Table, blocking};
use crate::console::form::{Fields, escaped};
use crate::console::page::page;
use crate::console::part::{counted, guarded, nothing, section, table};
use crate::fleet::api::problem;
use crate::fleet::console::{FleetPages, state_badge};
use crate::fleet::machine::Machine;

pub(in crate::fleet) fn routes(pages: FleetPages) -> Table {
    let read = Access::Person(Capability::Read);
    let edit = Access::Person(Capability::EditCollection);
    Routes::new()
        .get("/collections", read, "Page: collections", collections)
        .post("/collections", edit, "Make a collection or set its machines from its page", put)
        .get("/collections/{collection}", read, "Page: a collection", collection)
        .post("/collections/{collection}/remove", edit, "Remove a collection from its page", remove)
        .with_state(pages)
}

fn address(name: &str) -> String {
    format!("/collections/{}", escaped(name))
}

async fn collections(State(pages): State<FleetPages>, caller: Caller) -> Result<Response, Problem> {
    blocking(move || {
        let collections = pages.fleet.collections().map_err(|error| problem(&error))?;
        let machines = pages.fleet.machines().map_err(|error| problem(&error))?;
        let body = html! {
            section {
                (table(&["Collection", "Machines", "Note"], &html! {
                    @for collection in &collections {
                        tr {
                            td { a href=(address(&collection.name)) { (collection.name) } }
                            td { (collection.machines.len()) }
                            td { (collection.note) }
                        }
                    }
                }))
            }
            @if caller.principal.may(Capability::EditCollection) {
                (section("New collection", &edit_form(None, &machines)))
            }
        };
        Ok(page(&caller, "/collections", "Collections", &body))
    })
    .await
}

fn edit_form(collection: Option<&Collection>, machines: &[Machine]) -> Markup {
    let among = |members: &[Member], machine: &Machine| members.iter().any(|member| member.id == machine.id);
    let query = collection.and_then(|collection| collection.query.as_deref());
    // With a query the ticks are those that are in it whatever the query finds.
    let holds = |machine: &Machine| {
        collection.is_some_and(|c| among(if query.is_some() { &c.include } else { &c.machines }, machine))
    };
    html! {
        form method="post" action="/collections" {
            @match collection {
                Some(collection) => { input type="hidden" name="name" value=(collection.name); }
                None => { label.field { "Name" input name="name" required maxlength="80" autocomplete="off"; } }
            }
            label.field { "Note" input name="note" value=(collection.map(|c| c.note.as_str()).unwrap_or_default()) autocomplete="off"; }
            label.field { "Query, for a collection that follows the inventory"
                textarea name="query" rows="3" spellcheck="false" placeholder="SELECT id FROM machines WHERE memory_bytes > 8000000000" { (query.unwrap_or_default()) }
            }
            @for member in collection.map(|collection| collection.exclude.as_slice()).unwrap_or_default() {
                label.tick { input type="checkbox" name="exclude" value=(member.id) checked; " Never " (member.name) }
            }
            fieldset {
                legend { @if query.is_some() { "Always these machines (" } @else { "Machines (" } span data-count="machine" {} ")" }
                @if machines.is_empty() { (nothing("No machine is known yet.")) }
                @else {
                    input type="search" data-narrows="members" aria-label="Narrow the list" placeholder="Narrow the list";
                    div.pick #members tabindex="0" role="group" aria-label="Machines" {
                        @for machine in machines {
                            label { input type="checkbox" name="machine" value=(machine.id) checked[holds(machine)]; span { (machine.name) " " small { (machine.identity.model.as_deref().unwrap_or_default()) " " (machine.state.name()) } } }
                        }
                    }
                }
            }
            button type="submit" { @if collection.is_some() { "Save" } @else { "Make the collection" } }
        }
    }
}

async fn collection(
    State(pages): State<FleetPages>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    blocking(move || {
        let collection = pages.fleet.collection(&name).map_err(|error| problem(&error))?;
        let machines = pages.fleet.machines().map_err(|error| problem(&error))?;
        let members: Vec<&Machine> =
            machines.iter().filter(|machine| collection.machines.iter().any(|member| member.id == machine.id)).collect();
        let may_edit = caller.principal.may(Capability::EditCollection) && name != ALL;
        let body = html! {
            @if !collection.note.is_empty() { p { (collection.note) } }
            @if let Some(query) = &collection.query { p { "Follows the inventory: " code { (query) } } }
            @if let Some(error) = &collection.error { p.problem { "The query could not be asked: " (error) } }
            @if !members.is_empty() && caller.principal.may(Capability::Deploy) {
                p.actions { a.button href={ "/deployments/new?collection=" (escaped(&name)) } { "Deploy to this collection" } }
            }
            section { h2 { (counted(members.len(), "machine", "machines")) } (member_table(&members)) }
            @if may_edit {
                (section("Edit", &edit_form(Some(&collection), &machines)))
                section {
                    h2 { "Remove" }
                    (guarded("Remove this collection…", "Its machines stay. Baselines of this collection apply to nobody any more.", &format!("{}/remove", address(&name)), "Remove"))
                }
            }
        };
        Ok(page(&caller, "/collections", &name, &body))
    })
    .await
}

fn member_table(members: &[&Machine]) -> Markup {
    html! {
        @if members.is_empty() { (nothing("No machine is in it.")) }
        @else {
            (table(&["Machine", "State", "Model", "Serial"], &html! {
                @for machine in members {
                    tr {
                        td { a href={ "/machines/" (machine.name) } { (machine.name) } }
                        td { (state_badge(machine)) }
                        td { (machine.identity.model.as_deref().unwrap_or("-")) }
                        td { (machine.identity.system_serial.as_deref().unwrap_or("-")) }
                    }
                }
            }))
        }
    }
}

async fn put(State(pages): State<FleetPages>, caller: Caller, Form(fields): Form<Fields>) -> Result<Response, Problem> {
    blocking(move || {
        let name = fields.text("name");
        let definition = Definition {
            note: fields.text("note").to_owned(),
            query: fields.given("query").map(str::to_owned),
            machines: fields.list("machine"),
            exclude: fields.list("exclude"),
        };
        let done = pages.fleet.put_collection(name, &definition, &caller.principal);
        let collection = done.map_err(|error| problem(&error))?;
        Ok(Redirect::to(&address(&collection.name)).into_response())
    })
    .await
}

async fn remove(
    State(pages): State<FleetPages>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    blocking(move || {
        pages.fleet.remove_collection(&name, &caller.principal).map_err(|error| problem(&error))?;
        Ok(Redirect::to("/collections").into_response())
    })
    .await
}
