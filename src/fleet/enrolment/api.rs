//! Routes for one-time codes and the list of expected machines.

use axum::Json;
use axum::extract::{Path, State};
use serde::Deserialize;
use serde_json::{Value, json};

use super::code::{Listed, Terms};
use super::expected::{self, Expected};
use crate::access::Capability;
use crate::api::{Access, Caller, Problem, Routes, Table};
use crate::fleet::api::{FleetState, on_machine};

pub fn routes(state: FleetState) -> Table {
    let approve = Access::Person(Capability::ApproveMachine);
    Routes::new()
        .get("/api/v1/enrolment-codes", approve, "List the enrolment codes that still let somebody in", codes)
        .post("/api/v1/enrolment-codes", approve, "Make an enrolment code; it is shown once", make_code)
        .delete("/api/v1/enrolment-codes/{label}", approve, "End the enrolment codes with this label", remove_codes)
        .get("/api/v1/expected-machines", approve, "List the machines that are let in when they come", list)
        .post("/api/v1/expected-machines", approve, "Import a list of expected machines (CSV)", import)
        .delete("/api/v1/expected-machines", approve, "Empty the list of expected machines", remove)
        .with_state(state)
}

async fn codes(State(state): State<FleetState>) -> Result<Json<Vec<Listed>>, Problem> {
    on_machine(state, |fleet| fleet.codes()).await
}

async fn make_code(
    State(state): State<FleetState>,
    caller: Caller,
    Json(terms): Json<Terms>,
) -> Result<Json<Value>, Problem> {
    on_machine(state, move |fleet| {
        let code = fleet.make_code(&terms, &caller.principal)?;
        Ok(json!({ "code": code.reveal() }))
    })
    .await
}

async fn remove_codes(
    State(state): State<FleetState>,
    caller: Caller,
    Path(label): Path<String>,
) -> Result<Json<Value>, Problem> {
    on_machine(state, move |fleet| Ok(json!({ "removed": fleet.remove_codes(&label, &caller.principal)? }))).await
}

async fn list(State(state): State<FleetState>) -> Result<Json<Vec<Expected>>, Problem> {
    on_machine(state, |fleet| fleet.expected()).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Import {
    csv: String,
}

async fn import(
    State(state): State<FleetState>,
    caller: Caller,
    Json(import): Json<Import>,
) -> Result<Json<Value>, Problem> {
    let machines = expected::parse(&import.csv).map_err(|faults| Problem::bad_request(faults.join("; ")))?;
    on_machine(state, move |fleet| Ok(json!({ "imported": fleet.expect(&machines, &caller.principal)? }))).await
}

async fn remove(State(state): State<FleetState>, caller: Caller) -> Result<Json<Value>, Problem> {
    on_machine(state, move |fleet| Ok(json!({ "removed": fleet.expect_nobody(&caller.principal)? }))).await
}
