//! Routes for the person who says which machine it is.

use axum::Json;
use axum::extract::{Path, State};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::access::Capability;
use crate::api::{Access, Caller, Problem, Routes, Table};
use crate::fleet::api::{FleetState, on_machine};
use crate::fleet::identity::db::{Learnt, Sighting};
use crate::fleet::identity::{Kind, Piece};
use crate::fleet::machine::Machine;

pub fn routes(state: FleetState) -> Table {
    let read = Access::Person(Capability::Read);
    let approve = Access::Person(Capability::ApproveMachine);
    Routes::new()
        .get("/api/v1/machines/{machine}/sightings", read, "List how a machine has described itself", sightings)
        .post("/api/v1/machines/{machine}/merge", approve, "Say that a machine is another record's", merge)
        .post("/api/v1/machines/{machine}/is-new", approve, "Say that a machine is none of those it may be", is_new)
        .post("/api/v1/machines/{machine}/split", approve, "Take two machines apart that share a record", split)
        .get("/api/v1/shared-evidence", read, "List what several machines have shown and says nothing", shared)
        .delete("/api/v1/shared-evidence/{kind}/{value}", approve, "Let a piece of evidence count again", trust)
        .with_state(state)
}

async fn sightings(State(state): State<FleetState>, Path(name): Path<String>) -> Result<Json<Vec<Sighting>>, Problem> {
    on_machine(state, move |fleet| fleet.sightings(&fleet.machine(&name)?.id)).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Merge {
    into: String,
}

async fn merge(
    State(state): State<FleetState>,
    caller: Caller,
    Path(name): Path<String>,
    Json(merge): Json<Merge>,
) -> Result<Json<Machine>, Problem> {
    on_machine(state, move |fleet| fleet.merge(&name, &merge.into, &caller.principal)).await
}

async fn is_new(
    State(state): State<FleetState>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Json<Machine>, Problem> {
    on_machine(state, move |fleet| fleet.is_new(&name, &caller.principal)).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Split {
    sighting: i64,
}

async fn split(
    State(state): State<FleetState>,
    caller: Caller,
    Path(name): Path<String>,
    Json(split): Json<Split>,
) -> Result<Json<Machine>, Problem> {
    on_machine(state, move |fleet| fleet.split(&name, split.sighting, &caller.principal)).await
}

async fn shared(State(state): State<FleetState>) -> Result<Json<Vec<Learnt>>, Problem> {
    on_machine(state, |fleet| fleet.shared_evidence()).await
}

async fn trust(
    State(state): State<FleetState>,
    caller: Caller,
    Path((kind, value)): Path<(String, String)>,
) -> Result<Json<Value>, Problem> {
    let kind = Kind::ALL.into_iter().find(|known| known.name() == kind);
    let kind = kind.ok_or_else(|| Problem::not_found("there is no such kind of evidence"))?;
    on_machine(state, move |fleet| {
        let removed = fleet.trust_evidence(&Piece { kind, value }, &caller.principal)?;
        Ok(json!({ "removed": removed }))
    })
    .await
}
