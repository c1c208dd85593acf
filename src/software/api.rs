//! Routes for packages, baselines and compliance.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};

use super::db::{Error, SoftwareStore, Standing, Stored};
use super::link::{ComplianceTaken, FetchPolicy, Payload, Policy, ReportCompliance};
use super::model::{Baseline, Package};
use crate::access::Capability;
use crate::api::{Access, Caller, Problem, Routes, Table, blocking};
use crate::fleet::MachineId;
use crate::fleet::api::problem as fleet_problem;
use crate::fleet::db::Fleet;
use crate::link::Message;

#[derive(Clone)]
pub struct SoftwareState {
    pub software: Arc<SoftwareStore>,
    pub fleet: Arc<Fleet>,
}

pub fn routes(state: SoftwareState) -> Table {
    let read = Access::Person(Capability::Read);
    let edit = Access::Person(Capability::EditSoftware);
    Routes::new()
        .post(FetchPolicy::PATH, Access::Machine, "Fetch the software that the machine must have", policy)
        .post(ReportCompliance::PATH, Access::Machine, "Report what was detected and installed", report)
        .get("/api/v1/packages", read, "List packages", packages)
        .post("/api/v1/packages", edit, "Add a package whose payload is in the store", add_package)
        .get("/api/v1/packages/{package}", read, "Show a package: NAME or NAME@VERSION", package)
        .delete("/api/v1/packages/{package}", edit, "Remove a package version", remove_package)
        .get("/api/v1/baselines", read, "List baselines", baselines)
        .get("/api/v1/baselines/{baseline}", read, "Show a baseline", baseline)
        .put("/api/v1/baselines/{baseline}", edit, "Make a baseline what the document says", put_baseline)
        .delete("/api/v1/baselines/{baseline}", edit, "Remove a baseline", remove_baseline)
        .get("/api/v1/compliance", read, "List how machines stand with their baselines", compliance)
        .get("/api/v1/machines/{machine}/compliance", read, "List how a machine stands", machine_compliance)
        .with_state(state)
}

pub(super) fn problem(error: &Error) -> Problem {
    let status = match error {
        Error::NoPackage(_) | Error::NoBaseline(_) => StatusCode::NOT_FOUND,
        Error::Immutable { .. } | Error::InUse { .. } => StatusCode::CONFLICT,
        Error::Unsound(_)
        | Error::UnsoundBaseline(_)
        | Error::NoCollection(_)
        | Error::BadName(_)
        | Error::Circle(_) => StatusCode::BAD_REQUEST,
        Error::Db(_) | Error::Record(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    Problem::from_error(status, error)
}

/// Runs `work` away from the sockets and turns its result into an answer.
async fn answer<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<Json<T>, Problem> {
    blocking(move || work().map(Json).map_err(|error| problem(&error))).await
}

async fn policy(
    State(state): State<SoftwareState>,
    caller: Caller,
    Json(_): Json<FetchPolicy>,
) -> Result<Json<Policy>, Problem> {
    let machine = MachineId::from(caller.machine()?);
    blocking(move || {
        let collections = state.fleet.collections_of(&machine).map_err(|error| fleet_problem(&error))?;
        state.software.policy(&collections).map(Json).map_err(|error| problem(&error))
    })
    .await
}

async fn report(
    State(state): State<SoftwareState>,
    caller: Caller,
    Json(report): Json<ReportCompliance>,
) -> Result<Json<ComplianceTaken>, Problem> {
    let machine = MachineId::from(caller.machine()?);
    answer(move || state.software.record(&machine, &report).map(|()| ComplianceTaken {})).await
}

async fn packages(State(state): State<SoftwareState>) -> Result<Json<Vec<Stored>>, Problem> {
    answer(move || state.software.packages()).await
}

/// A package as it is added: its description and where its payload is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NewPackage {
    pub package: Package,
    pub content: Payload,
}

async fn add_package(
    State(state): State<SoftwareState>,
    caller: Caller,
    Json(new): Json<NewPackage>,
) -> Result<Json<Stored>, Problem> {
    answer(move || state.software.add_package(&new.package, &new.content, &caller.principal)).await
}

async fn package(State(state): State<SoftwareState>, Path(name): Path<String>) -> Result<Json<Stored>, Problem> {
    answer(move || state.software.package(&name)).await
}

async fn remove_package(
    State(state): State<SoftwareState>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Json<Stored>, Problem> {
    answer(move || state.software.remove_package(&name, &caller.principal)).await
}

async fn baselines(State(state): State<SoftwareState>) -> Result<Json<Vec<Baseline>>, Problem> {
    answer(move || state.software.baselines()).await
}

async fn baseline(State(state): State<SoftwareState>, Path(name): Path<String>) -> Result<Json<Baseline>, Problem> {
    answer(move || state.software.baseline(&name)).await
}

async fn put_baseline(
    State(state): State<SoftwareState>,
    caller: Caller,
    Path(name): Path<String>,
    Json(document): Json<Baseline>,
) -> Result<Json<Baseline>, Problem> {
    if document.name != name {
        return Err(Problem::bad_request(format!("the document is of the baseline `{}`, not `{name}`", document.name)));
    }
    answer(move || state.software.put_baseline(&document, &caller.principal).map(|()| document)).await
}

async fn remove_baseline(
    State(state): State<SoftwareState>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Json<()>, Problem> {
    answer(move || state.software.remove_baseline(&name, &caller.principal)).await
}

async fn compliance(State(state): State<SoftwareState>) -> Result<Json<Vec<Standing>>, Problem> {
    answer(move || state.software.compliance(None)).await
}

async fn machine_compliance(
    State(state): State<SoftwareState>,
    Path(name): Path<String>,
) -> Result<Json<Vec<Standing>>, Problem> {
    blocking(move || {
        let machine = state.fleet.machine(&name).map_err(|error| fleet_problem(&error))?;
        state.software.compliance(Some(&machine.id)).map(Json).map_err(|error| problem(&error))
    })
    .await
}
