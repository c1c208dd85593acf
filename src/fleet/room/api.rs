//! Routes for rooms and the places in them.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;

use super::{Place, Room};
use crate::access::Capability;
use crate::api::{Access, Caller, Problem, Routes, Shape, Table, blocking};
use crate::fleet::api::problem;
use crate::fleet::db::{Error, Fleet};

type Shared = State<Arc<Fleet>>;

pub fn routes(fleet: Arc<Fleet>) -> Table {
    let read = Access::Person(Capability::Read);
    let edit = Access::Person(Capability::EditMachine);
    Routes::new()
        .get("/api/v1/rooms", read, "List rooms with the machines in their places", rooms)
        .gives(Shape::List("Room"))
        .put("/api/v1/rooms/{room}", edit, "Make a room", put_room)
        .gives(Shape::Nothing)
        .delete("/api/v1/rooms/{room}", edit, "Remove a room; its machines stay", remove_room)
        .gives(Shape::Nothing)
        .put("/api/v1/machines/{machine}/place", edit, "Put a machine into its place in a room", put_place)
        .takes("Place")
        .gives(Shape::Nothing)
        .delete("/api/v1/machines/{machine}/place", edit, "Take a machine out of its room", remove_place)
        .gives(Shape::Nothing)
        .with_state(fleet)
}

async fn rooms(State(fleet): Shared) -> Result<Json<Vec<Room>>, Problem> {
    blocking(move || fleet.rooms().map(Json).map_err(|error| problem(&error))).await
}

async fn done(
    fleet: Arc<Fleet>,
    work: impl FnOnce(&Fleet) -> Result<(), Error> + Send + 'static,
) -> Result<StatusCode, Problem> {
    blocking(move || work(&fleet).map_err(|error| problem(&error))).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn put_room(State(fleet): Shared, caller: Caller, Path(room): Path<String>) -> Result<StatusCode, Problem> {
    done(fleet, move |fleet| fleet.put_room(&room, &caller.principal)).await
}

async fn remove_room(State(fleet): Shared, caller: Caller, Path(room): Path<String>) -> Result<StatusCode, Problem> {
    done(fleet, move |fleet| fleet.remove_room(&room, &caller.principal)).await
}

async fn put_place(
    State(fleet): Shared,
    Path(machine): Path<String>,
    Json(place): Json<Place>,
) -> Result<StatusCode, Problem> {
    done(fleet, move |fleet| fleet.seat(&machine, &place)).await
}

async fn remove_place(State(fleet): Shared, Path(machine): Path<String>) -> Result<StatusCode, Problem> {
    done(fleet, move |fleet| fleet.unseat(&machine)).await
}
