//! Routes for machines that want in and for people who look after them.

use std::sync::Arc;

use axum::Json;
use axum::extract::{OriginalUri, Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::Value;

use super::collection::{Collection, Definition};
use super::db::{Error, Fleet};
use super::enrolment::db::Admission;
use super::link::{CheckIn, CheckInReply, RenewCertificate, RenewedCertificate};
use super::machine::{Machine, MachineId};
use crate::access::authority::Authority;
use crate::access::{Capability, db as access_db, signing::PublicKey};
use crate::api::{Access, Caller, Paging, Problem, Routes, Shape, Table, blocking, paging};
use crate::link::Message;

/// How long a machine that waits for approval waits before it asks again.
const RETRY_SECONDS: u32 = 3;

type CheckedInHook = dyn Fn(&CheckIn) + Send + Sync;
type HardwareHook = dyn Fn(&MachineId, &Value) + Send + Sync;
type DeployHook = dyn Fn(&MachineId, &str) + Send + Sync;

/// What the other subjects do when a machine checks in; the wiring fills it.
pub struct Hooks {
    /// Told of every check-in, whatever becomes of it.
    pub checked_in: Box<CheckedInHook>,
    /// Keeps the hardware that a check-in brought.
    pub hardware: Box<HardwareHook>,
    /// Starts what the rule that let a new machine in asks for; the text names a task sequence.
    pub deploy: Box<DeployHook>,
}

#[derive(Clone)]
pub struct FleetState {
    pub fleet: Arc<Fleet>,
    pub authority: Arc<Authority>,
    pub site_key: PublicKey,
    pub machine_certificate_seconds: u32,
    pub hooks: Arc<Hooks>,
}

pub fn routes(state: FleetState) -> Table {
    let read = Access::Person(Capability::Read);
    let edit = Access::Person(Capability::EditMachine);
    let approve = Access::Person(Capability::ApproveMachine);
    let collect = Access::Person(Capability::EditCollection);
    Routes::new()
        .post(
            CheckIn::PATH,
            Access::Public("a machine has no certificate yet; it gets nothing before it is approved"),
            "Check in",
            check_in,
        )
        .post(RenewCertificate::PATH, Access::Machine, "Renew the machine's certificate", renew)
        .get("/api/v1/machines", read, "List machines", list)
        .asks(MACHINE_PARAMETERS)
        .gives(Shape::List("Machine"))
        .get("/api/v1/machines/{machine}", read, "Show a machine", show)
        .gives(Shape::One("Machine"))
        .patch("/api/v1/machines/{machine}", edit, "Rename or protect a machine", edit_machine)
        .takes("EditMachine")
        .gives(Shape::One("Machine"))
        .post(
            "/api/v1/machines/{machine}/approve",
            approve,
            "Approve the key that a machine waits with",
            approve_machine,
        )
        .post("/api/v1/machines/{machine}/reject", approve, "Reject a machine", reject)
        .gives(Shape::One("Machine"))
        .post("/api/v1/machines/{machine}/retire", edit, "Retire a machine and revoke its certificates", retire)
        .gives(Shape::One("Machine"))
        .get("/api/v1/machines/{machine}/certificates", read, "List the newest certificates of a machine", certificates)
        .gives(Shape::List("Certificate"))
        .get("/api/v1/collections", read, "List collections", collections)
        .gives(Shape::List("Collection"))
        .get("/api/v1/collections/{collection}", read, "Show a collection", collection)
        .gives(Shape::One("Collection"))
        .put("/api/v1/collections/{collection}", collect, "Make a collection or set its machines", put_collection)
        .takes("PutCollection")
        .gives(Shape::One("Collection"))
        .delete("/api/v1/collections/{collection}", collect, "Remove a collection", remove_collection)
        .gives(Shape::Nothing)
        .with_state(state.clone())
        .merge(super::question::api::routes(state.clone()))
        .merge(super::enrolment::api::routes(state))
}

/// The status that fits an error of this subject.
pub fn problem(error: &Error) -> Problem {
    let status = match error {
        Error::NoMachine(_) | Error::NoCollection(_) | Error::NoRoom(_) => StatusCode::NOT_FOUND,
        Error::NoSighting { .. } => StatusCode::NOT_FOUND,
        Error::BadName(_) | Error::Itself | Error::Terms(_) => StatusCode::BAD_REQUEST,
        Error::Exists { .. } | Error::Question { .. } | Error::NoQuestion(_) => StatusCode::CONFLICT,
        Error::Stopped(_) => StatusCode::UNAUTHORIZED,
        Error::OutOfReach { .. } => StatusCode::FORBIDDEN,
        Error::TooManyWaiting { .. } => StatusCode::SERVICE_UNAVAILABLE,
        Error::Db(_) | Error::Record(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    Problem::from_error(status, error)
}

async fn check_in(
    State(state): State<FleetState>,
    caller: Caller,
    Json(message): Json<CheckIn>,
) -> Result<Json<CheckInReply>, Problem> {
    blocking(move || {
        (state.hooks.checked_in)(&message);
        let public_key = Authority::request_key(&message.request_pem)
            .map_err(|error| Problem::bad_request(format!("the certificate request: {error}")))?;
        let address = caller.address.map(|address| address.ip());
        let admission = state.fleet.check_in(&message, &public_key, address).map_err(|error| problem(&error))?;
        Ok(Json(match admission {
            Admission::Rejected { reason } => CheckInReply::Rejected { reason },
            Admission::KeyStopped { .. } => {
                let reason = "this key was used from two machines".to_owned();
                CheckInReply::KeyStopped { reason }
            }
            Admission::Waiting { machine, pairing_code } => {
                (state.hooks.hardware)(&machine.id, &message.hardware);
                CheckInReply::Waiting {
                    machine: machine.id,
                    name: machine.name,
                    pairing_code,
                    retry_seconds: RETRY_SECONDS,
                }
            }
            Admission::Admitted { machine, newly } => {
                (state.hooks.hardware)(&machine.id, &message.hardware);
                if let Some(sequence) = newly.and_then(|newly| newly.deploy) {
                    (state.hooks.deploy)(&machine.id, &sequence);
                }
                let certificate_pem = issue(&state, &message.request_pem, &machine.id)?;
                let site_public_key = state.site_key.to_string();
                let renew_in_seconds = renew_in_seconds(&state);
                let (machine, name) = (machine.id, machine.name);
                CheckInReply::Approved { machine, name, certificate_pem, site_public_key, renew_in_seconds }
            }
        }))
    })
    .await
}

/// A machine that is on has a third of the certificate's life to renew it in.
fn renew_in_seconds(state: &FleetState) -> u32 {
    state.machine_certificate_seconds / 3 * 2
}

fn issue(state: &FleetState, request_pem: &str, machine: &MachineId) -> Result<String, Problem> {
    let now = state.fleet.clock.now();
    let issued = state.authority.issue_machine(request_pem, machine.as_str(), state.machine_certificate_seconds, now);
    let issued = issued.map_err(|error| Problem::bad_request(error.to_string()))?;
    let recorded = state.fleet.db.write(|tx| access_db::record_certificate(tx, machine.as_str(), &issued, now));
    recorded.map_err(|error| Problem::internal(format!("the certificate could not be recorded: {error}")))?;
    Ok(issued.certificate_pem)
}

async fn renew(
    State(state): State<FleetState>,
    caller: Caller,
    Json(message): Json<RenewCertificate>,
) -> Result<Json<RenewedCertificate>, Problem> {
    let machine = MachineId::from(caller.machine()?);
    blocking(move || {
        let certificate_pem = issue(&state, &message.request_pem, &machine)?;
        Ok(Json(RenewedCertificate { certificate_pem, renew_in_seconds: renew_in_seconds(&state) }))
    })
    .await
}

#[derive(Deserialize)]
struct Filter {
    state: Option<String>,
}

const MACHINE_PARAMETERS: &[(&str, &str)] = &[
    ("state", "waiting, approved, deploying, managed, failed, rejected or retired"),
    paging::PARAMETERS[0],
    paging::PARAMETERS[1],
];

async fn list(
    State(state): State<FleetState>,
    OriginalUri(asked): OriginalUri,
    Query(filter): Query<Filter>,
    Query(paging): Query<Paging>,
) -> Result<Response, Problem> {
    blocking(move || {
        let machines = state.fleet.machines().map_err(|error| problem(&error))?;
        let wanted = |machine: &Machine| filter.state.as_deref().is_none_or(|state| machine.state.name() == state);
        Ok(paging.answer(machines.into_iter().filter(wanted).collect(), &asked))
    })
    .await
}

async fn show(State(state): State<FleetState>, Path(name): Path<String>) -> Result<Json<Machine>, Problem> {
    on_machine(state, move |fleet| fleet.machine(&name)).await
}

async fn certificates(
    State(state): State<FleetState>,
    Path(name): Path<String>,
) -> Result<Json<Vec<access_db::Certificate>>, Problem> {
    on_machine(state, move |fleet| fleet.certificates(&name)).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Edit {
    name: Option<String>,
    protected: Option<bool>,
}

async fn edit_machine(
    State(state): State<FleetState>,
    caller: Caller,
    Path(name): Path<String>,
    Json(edit): Json<Edit>,
) -> Result<Json<Machine>, Problem> {
    on_machine(state, move |fleet| {
        let mut machine = fleet.machine(&name)?;
        if let Some(protected) = edit.protected {
            machine = fleet.protect(machine.id.as_str(), protected, &caller.principal)?;
        }
        if let Some(new) = edit.name {
            machine = fleet.rename(machine.id.as_str(), &new, &caller.principal)?;
        }
        Ok(machine)
    })
    .await
}

async fn approve_machine(
    State(state): State<FleetState>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Json<Machine>, Problem> {
    on_machine(state, move |fleet| fleet.approve(&name, &caller.principal)).await
}

async fn reject(
    State(state): State<FleetState>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Json<Machine>, Problem> {
    on_machine(state, move |fleet| fleet.reject(&name, &caller.principal)).await
}

async fn retire(
    State(state): State<FleetState>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Json<Machine>, Problem> {
    on_machine(state, move |fleet| fleet.retire(&name, &caller.principal)).await
}

pub(super) async fn on_machine<T: Send + 'static>(
    state: FleetState,
    work: impl FnOnce(&Fleet) -> Result<T, Error> + Send + 'static,
) -> Result<Json<T>, Problem> {
    blocking(move || work(&state.fleet).map(Json).map_err(|error| problem(&error))).await
}

async fn collections(State(state): State<FleetState>) -> Result<Json<Vec<Collection>>, Problem> {
    on_machine(state, |fleet| fleet.collections()).await
}

async fn collection(State(state): State<FleetState>, Path(name): Path<String>) -> Result<Json<Collection>, Problem> {
    on_machine(state, move |fleet| fleet.collection(&name)).await
}

async fn put_collection(
    State(state): State<FleetState>,
    caller: Caller,
    Path(name): Path<String>,
    Json(definition): Json<Definition>,
) -> Result<Json<Collection>, Problem> {
    on_machine(state, move |fleet| fleet.put_collection(&name, &definition, &caller.principal)).await
}

async fn remove_collection(
    State(state): State<FleetState>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    let Json(()) = on_machine(state, move |fleet| fleet.remove_collection(&name, &caller.principal)).await?;
    Ok(StatusCode::NO_CONTENT)
}
