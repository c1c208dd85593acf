//! Routes for machines that carry out runs and for people who start and watch them.

use std::sync::Arc;

use axum::Json;
use axum::extract::{OriginalUri, Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::access::Capability;
use crate::api::{Access, Caller, Paging, Problem, Routes, Shape, Table, blocking, paging};
use crate::fleet::link::Stage;
use crate::fleet::machine::MachineId;
use crate::link::Message;

use super::db::{Error, RunRecord, SequenceRecord, Sequences};
use super::deployment::{DeploymentDetail, DeploymentRecord, Preview, Request};
use super::event::{Directive, Line};
use super::host::Place;
use super::journal::Entry;
use super::link::{EventsReply, FetchRun, FetchRunReply, ImageGrant, PostEvents, THROUGHPUT_BYTES, THROUGHPUT_PATH};
use super::model::{Sequence, Values};
use super::parser::{self, Files};
use super::plan::{self, Plan};
use super::story::{StepRecord, tell};

type Shared = State<Arc<Sequences>>;

/// Lines of a log in one answer.
const LINES_AT_ONCE: u64 = 5000;

pub fn routes(sequences: Arc<Sequences>) -> Table {
    let (read, deploy) = (Access::Person(Capability::Read), Access::Person(Capability::Deploy));
    let edit = Access::Person(Capability::EditSequence);
    Routes::new()
        .post(FetchRun::PATH, Access::Machine, "Fetch the run that is due", fetch)
        .post(PostEvents::PATH, Access::Machine, "Report how a run goes", post_events)
        .get(THROUGHPUT_PATH, Access::Machine, "Bytes by which a machine measures its network", throughput)
        .get("/api/v1/sequences", read, "List task sequences", list)
        .gives(Shape::List("SequenceRecord"))
        .post("/api/v1/sequences", edit, "Publish a task sequence", publish)
        .takes("Document")
        .gives(Shape::One("SequenceRecord"))
        .post("/api/v1/sequences/check", read, "Check a document", check)
        .takes("Document")
        .gives(Shape::One("Checked"))
        .post("/api/v1/sequences/plan", read, "Plan a document or a sequence for a machine", plan_for)
        .takes("PlanRequest")
        .gives(Shape::One("Plan"))
        .get("/api/v1/sequences/{name}", read, "Show a task sequence", show)
        .gives(Shape::One("SequenceRecord"))
        .get("/api/v1/deployments", read, "List deployments", deployments)
        .asks(paging::PARAMETERS)
        .gives(Shape::List("Deployment"))
        .post("/api/v1/deployments", deploy, "Start a deployment", start)
        .takes("DeploymentRequest")
        .gives(Shape::One("Deployment"))
        .post("/api/v1/deployments/preview", read, "Show what a deployment would do", preview)
        .takes("DeploymentRequest")
        .gives(Shape::One("Preview"))
        .get("/api/v1/deployments/{id}", read, "Show a deployment and its runs", deployment)
        .gives(Shape::One("Deployment"))
        .post("/api/v1/deployments/{id}/cancel", deploy, "Cancel what is not over", cancel)
        .gives(Shape::One("Deployment"))
        .post("/api/v1/deployments/{id}/resume", deploy, "Let a stopped deployment go on", resume)
        .takes("Resume")
        .gives(Shape::One("Deployment"))
        .get("/api/v1/runs", read, "List runs", runs)
        .asks(RUN_PARAMETERS)
        .gives(Shape::List("Run"))
        .get("/api/v1/runs/{run}", read, "Show a run with its journal", run)
        .gives(Shape::One("RunDetail"))
        .get("/api/v1/runs/{run}/log", read, "Show the log of a run", log)
        .asks(&[("from", "the first line")])
        .gives(Shape::List("Line"))
        .post("/api/v1/runs/{run}/directive", deploy, "Pause, continue or cancel a run", direct)
        .takes("Direct")
        .gives(Shape::One("Run"))
        .post("/api/v1/runs/{run}/answer", deploy, "Answer the question of a run's step", reply)
        .takes("Answer")
        .gives(Shape::One("Run"))
        .post("/api/v1/runs/{run}/retry", deploy, "Send a run back to a step", retry)
        .takes("Retry")
        .gives(Shape::One("Run"))
        .with_state(sequences)
}

/// The status that fits an error of this subject.
pub fn problem(error: &Error) -> Problem {
    let status = match error {
        Error::Fleet(error) => return crate::fleet::api::problem(error),
        Error::NoSequence { .. } | Error::NoRun(_) | Error::NoDeployment(_) => StatusCode::NOT_FOUND,
        Error::Document(_) | Error::NoImage { .. } => StatusCode::UNPROCESSABLE_ENTITY,
        Error::Request(..) => StatusCode::BAD_REQUEST,
        Error::Guard(..) => StatusCode::CONFLICT,
        Error::Db(_) | Error::Record { .. } => StatusCode::INTERNAL_SERVER_ERROR,
    };
    Problem::from_error(status, error)
}

async fn answer<T: Serialize + Send + 'static>(
    sequences: Arc<Sequences>,
    work: impl FnOnce(&Sequences) -> Result<T, Error> + Send + 'static,
) -> Result<Json<T>, Problem> {
    blocking(move || work(&sequences).map(Json).map_err(|error| problem(&error))).await
}

async fn fetch(
    State(sequences): Shared,
    caller: Caller,
    Json(message): Json<FetchRun>,
) -> Result<Json<FetchRunReply>, Problem> {
    let machine = MachineId::from(caller.machine()?);
    let stage = match message.place {
        Place::BootEnvironment => Stage::BootEnvironment,
        Place::InstalledSystem => Stage::InstalledSystem,
    };
    answer(sequences, move |sequences| {
        sequences.fleet.seen(&machine, stage, caller.address.map(|address| address.ip()))?;
        sequences.fetch(&machine, message.place)
    })
    .await
}

async fn throughput() -> Vec<u8> {
    vec![0; THROUGHPUT_BYTES as usize]
}

async fn post_events(
    State(sequences): Shared,
    caller: Caller,
    Json(message): Json<PostEvents>,
) -> Result<Json<EventsReply>, Problem> {
    let machine = MachineId::from(caller.machine()?);
    answer(sequences, move |sequences| sequences.post(&machine, &message)).await
}

async fn list(State(sequences): Shared) -> Result<Json<Vec<SequenceRecord>>, Problem> {
    answer(sequences, Sequences::sequences).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    document: String,
    #[serde(default)]
    files: Files,
}

async fn publish(
    State(sequences): Shared,
    caller: Caller,
    Json(body): Json<Document>,
) -> Result<Json<SequenceRecord>, Problem> {
    answer(sequences, move |sequences| sequences.publish(&body.document, &body.files, &caller.principal)).await
}

/// All problems, and the version when there is none.
async fn check(State(sequences): Shared, Json(body): Json<Document>) -> Result<Json<Value>, Problem> {
    answer(sequences, move |sequences| {
        let known = parser::Known { images: (sequences.lookup.images)() };
        Ok(match parser::parse_for(&body.document, &body.files, known) {
            Ok(sequence) => json!({ "version": sequence.version(), "problems": [] }),
            Err(problems) => json!({ "version": null, "problems": problems }),
        })
    })
    .await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlanRequest {
    document: Option<String>,
    #[serde(default)]
    files: Files,
    sequence: Option<String>,
    machine: String,
    #[serde(default)]
    variables: Values,
}

async fn plan_for(State(sequences): Shared, Json(body): Json<PlanRequest>) -> Result<Json<Plan>, Problem> {
    answer(sequences, move |sequences| {
        let sequence = match (&body.document, &body.sequence) {
            (Some(document), _) => parser::parse_with(document, &body.files).map_err(Error::Document)?,
            (None, Some(name)) => sequences.sequence(name)?.1,
            (None, None) => return Err(Error::Request("neither `document` nor `sequence` is given".into(), None)),
        };
        let machine = sequences.fleet.machine(&body.machine)?;
        Ok(plan::plan(&sequences.order(&sequence, &machine, &body.variables)?))
    })
    .await
}

#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    record: SequenceRecord,
    sequence: Sequence,
}

async fn show(State(sequences): Shared, Path(name): Path<String>) -> Result<Json<Shown>, Problem> {
    answer(sequences, move |sequences| {
        let (record, sequence) = sequences.sequence(&name)?;
        Ok(Shown { record, sequence })
    })
    .await
}

async fn deployments(
    State(sequences): Shared,
    OriginalUri(asked): OriginalUri,
    Query(paging): Query<Paging>,
) -> Result<Response, Problem> {
    let Json(all) = answer(sequences, Sequences::deployments).await?;
    Ok(paging.answer(all, &asked))
}

async fn start(
    State(sequences): Shared,
    caller: Caller,
    Json(body): Json<Request>,
) -> Result<Json<DeploymentRecord>, Problem> {
    answer(sequences, move |sequences| sequences.start(&body, &caller.principal)).await
}

async fn preview(State(sequences): Shared, Json(body): Json<Request>) -> Result<Json<Preview>, Problem> {
    answer(sequences, move |sequences| sequences.preview(&body)).await
}

async fn deployment(State(sequences): Shared, Path(id): Path<String>) -> Result<Json<DeploymentDetail>, Problem> {
    answer(sequences, move |sequences| sequences.deployment(&id)).await
}

async fn cancel(
    State(sequences): Shared,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<DeploymentDetail>, Problem> {
    answer(sequences, move |sequences| sequences.cancel(&id, &caller.principal)).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Resume {
    failures_percent_max: u32,
}

async fn resume(
    State(sequences): Shared,
    caller: Caller,
    Path(id): Path<String>,
    Json(body): Json<Resume>,
) -> Result<Json<DeploymentRecord>, Problem> {
    answer(sequences, move |sequences| sequences.resume(&id, body.failures_percent_max, &caller.principal)).await
}

#[derive(Deserialize)]
struct RunFilter {
    machine: Option<String>,
    deployment: Option<String>,
}

const RUN_PARAMETERS: &[(&str, &str)] =
    &[("machine", "name or identifier"), ("deployment", "identifier"), paging::PARAMETERS[0], paging::PARAMETERS[1]];

async fn runs(
    State(sequences): Shared,
    OriginalUri(asked): OriginalUri,
    Query(filter): Query<RunFilter>,
    Query(paging): Query<Paging>,
) -> Result<Response, Problem> {
    let found = move |sequences: &Sequences| sequences.runs(filter.machine.as_deref(), filter.deployment.as_deref());
    let Json(all) = answer(sequences, found).await?;
    Ok(paging.answer(all, &asked))
}

#[derive(Serialize)]
struct RunDetail {
    #[serde(flatten)]
    record: RunRecord,
    /// Steps in the order of the document.
    steps: Vec<StepRecord>,
    /// The image versions that it may apply.
    images: Vec<ImageGrant>,
    journal: Vec<Entry>,
}

async fn run(State(sequences): Shared, Path(run): Path<String>) -> Result<Json<RunDetail>, Problem> {
    answer(sequences, move |sequences| {
        let order = sequences.run_order(&run)?;
        let journal = sequences.entries(&run)?;
        let steps = tell(&order.sequence, &journal);
        Ok(RunDetail { record: sequences.run(&run)?, steps, images: order.images, journal })
    })
    .await
}

#[derive(Deserialize)]
struct LogQuery {
    #[serde(default)]
    from: u64,
}

async fn log(
    State(sequences): Shared,
    Path(run): Path<String>,
    Query(query): Query<LogQuery>,
) -> Result<Json<Vec<Line>>, Problem> {
    answer(sequences, move |sequences| {
        sequences.run(&run)?;
        sequences.lines(&run, query.from, LINES_AT_ONCE)
    })
    .await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Direct {
    directive: Directive,
}

async fn direct(
    State(sequences): Shared,
    caller: Caller,
    Path(run): Path<String>,
    Json(body): Json<Direct>,
) -> Result<Json<RunRecord>, Problem> {
    answer(sequences, move |sequences| sequences.direct(&run, body.directive, &caller.principal)).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Answer {
    value: Value,
}

async fn reply(
    State(sequences): Shared,
    caller: Caller,
    Path(run): Path<String>,
    Json(body): Json<Answer>,
) -> Result<Json<RunRecord>, Problem> {
    answer(sequences, move |sequences| sequences.answer(&run, &body.value, &caller.principal)).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Retry {
    from: Option<String>,
}

async fn retry(
    State(sequences): Shared,
    caller: Caller,
    Path(run): Path<String>,
    Json(body): Json<Retry>,
) -> Result<Json<RunRecord>, Problem> {
    answer(sequences, move |sequences| sequences.retry(&run, body.from.as_deref(), &caller.principal)).await
}
