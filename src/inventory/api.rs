//! Routes for inventory: machines report, people read.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};

use super::db::{Dated, Inventory, Kept};
use super::link::{InventoryTaken, ReportInventory};
use super::model::{Hardware, Software};
use super::query::{self, Answer};
use crate::access::Capability;
use crate::api::{Access, Caller, Problem, Routes, Shape, Table, blocking};
use crate::db;
use crate::fleet::MachineId;
use crate::fleet::db::Fleet;
use crate::fleet::link::Stage;
use crate::link::Message;
use crate::stdx::time::Timestamp;

/// Changes in one answer.
const CHANGES_MAX: u32 = 1000;

#[derive(Clone)]
pub struct InventoryState {
    pub inventory: Arc<Inventory>,
    pub fleet: Arc<Fleet>,
}

pub fn routes(state: InventoryState) -> Table {
    let read = Access::Person(Capability::Read);
    Routes::new()
        .post(ReportInventory::PATH, Access::Machine, "Report what the machine is made of and has installed", report)
        .get("/api/v1/machines/{machine}/hardware", read, "Show a machine's hardware", hardware)
        .get("/api/v1/machines/{machine}/software", read, "Show a machine's installed software", software)
        .get("/api/v1/machines/{machine}/changes", read, "List what changed on a machine", changes)
        .asks(&[("since", "milliseconds since 1970")])
        .post("/api/v1/inventory/query", read, "Ask the documented views with read-only SQL", run_query)
        .takes("Query")
        .gives(Shape::One("QueryAnswer"))
        .with_state(state)
}

fn failed(error: db::Error) -> Problem {
    Problem::from_error(StatusCode::INTERNAL_SERVER_ERROR, &error)
}

impl InventoryState {
    fn find(&self, name: &str) -> Result<MachineId, Problem> {
        self.fleet.machine(name).map(|machine| machine.id).map_err(|error| crate::fleet::api::problem(&error))
    }
}

async fn report(
    State(state): State<InventoryState>,
    caller: Caller,
    Json(report): Json<ReportInventory>,
) -> Result<Json<InventoryTaken>, Problem> {
    let machine = MachineId::from(caller.machine()?);
    blocking(move || {
        let address = caller.address.map(|address| address.ip());
        if let Some(hardware) = &report.hardware {
            let noted = state.fleet.note_identity(&machine, &hardware.identity(), address);
            noted.map_err(|error| crate::fleet::api::problem(&error))?;
        }
        if report.software.is_some() {
            let seen = state.fleet.seen(&machine, Stage::InstalledSystem, address);
            seen.map_err(|error| crate::fleet::api::problem(&error))?;
        }
        state.inventory.record(&machine, &report).map_err(failed)?;
        state.fleet.inventory_changed();
        Ok(Json(InventoryTaken {}))
    })
    .await
}

async fn hardware(
    State(state): State<InventoryState>,
    Path(machine): Path<String>,
) -> Result<Json<Kept<Hardware>>, Problem> {
    blocking(move || {
        let machine = state.find(&machine)?;
        let found = state.inventory.hardware(&machine).map_err(failed)?;
        found.map(Json).ok_or_else(|| Problem::not_found("this machine has not reported its hardware yet"))
    })
    .await
}

async fn software(
    State(state): State<InventoryState>,
    Path(machine): Path<String>,
) -> Result<Json<Kept<Software>>, Problem> {
    blocking(move || {
        let machine = state.find(&machine)?;
        let found = state.inventory.software(&machine).map_err(failed)?;
        found.map(Json).ok_or_else(|| Problem::not_found("this machine has not reported its software yet"))
    })
    .await
}

#[derive(Deserialize)]
struct Since {
    /// Milliseconds since 1970; all that is kept without it.
    since: Option<i64>,
}

async fn changes(
    State(state): State<InventoryState>,
    Path(machine): Path<String>,
    Query(since): Query<Since>,
) -> Result<Json<Vec<Dated>>, Problem> {
    blocking(move || {
        let machine = state.find(&machine)?;
        let since = Timestamp::from_milliseconds(since.since.unwrap_or(0));
        state.inventory.changes(&machine, since, CHANGES_MAX).map(Json).map_err(failed)
    })
    .await
}

#[derive(Serialize, Deserialize)]
struct Question {
    sql: String,
}

async fn run_query(
    State(state): State<InventoryState>,
    Json(question): Json<Question>,
) -> Result<Json<Answer>, Problem> {
    blocking(move || {
        query::run(&state.inventory.db, &question.sql)
            .map(Json)
            .map_err(|error| Problem::from_error(StatusCode::BAD_REQUEST, &error))
    })
    .await
}
