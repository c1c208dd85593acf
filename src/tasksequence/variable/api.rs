//! Routes for the values of variables, and the one by which a step gets its secrets.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::Value;

use crate::access::Capability;
use crate::api::{Access, Caller, Problem, Routes, Table, blocking};
use crate::fleet::machine::MachineId;
use crate::link::Message;
use crate::tasksequence::api::problem;
use crate::tasksequence::db::Sequences;
use crate::tasksequence::link::{AskSecrets, Secrets};

use super::{Scope, VariableRecord};

type Shared = State<Arc<Sequences>>;

pub fn routes(sequences: Arc<Sequences>) -> Table {
    let (read, edit) = (Access::Person(Capability::Read), Access::Person(Capability::EditSequence));
    Routes::new()
        .post(AskSecrets::PATH, Access::Machine, "Release the secrets of a step", release)
        .get("/api/v1/variables", read, "List the values that site, collections and machines give", list)
        .put("/api/v1/variables/{scope}/{name}", edit, "Give a variable a value, or a secret", set)
        .delete("/api/v1/variables/{scope}/{name}", edit, "Take a variable its value", remove)
        .with_state(sequences)
}

async fn release(
    State(sequences): Shared,
    caller: Caller,
    Json(message): Json<AskSecrets>,
) -> Result<Json<Secrets>, Problem> {
    let machine = MachineId::from(caller.machine()?);
    blocking(move || sequences.release(&machine, &message).map(Json).map_err(|error| problem(&error))).await
}

async fn list(State(sequences): Shared) -> Result<Json<Vec<VariableRecord>>, Problem> {
    blocking(move || sequences.variables().map(Json).map_err(|error| problem(&error))).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Given {
    value: Value,
    #[serde(default)]
    secret: bool,
}

async fn set(
    State(sequences): Shared,
    caller: Caller,
    Path((scope, name)): Path<(String, String)>,
    Json(given): Json<Given>,
) -> Result<StatusCode, Problem> {
    let scope = Scope::try_from(scope).map_err(Problem::bad_request)?;
    blocking(move || {
        let set = sequences.set_variable(&scope, &name, &given.value, given.secret, &caller.principal);
        set.map(|()| StatusCode::NO_CONTENT).map_err(|error| problem(&error))
    })
    .await
}

async fn remove(
    State(sequences): Shared,
    caller: Caller,
    Path((scope, name)): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    let scope = Scope::try_from(scope).map_err(Problem::bad_request)?;
    blocking(move || {
        let removed = sequences.remove_variable(&scope, &name, &caller.principal);
        removed.map(|()| StatusCode::NO_CONTENT).map_err(|error| problem(&error))
    })
    .await
}
