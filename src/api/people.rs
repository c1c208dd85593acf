//! Routes for people, tokens, sessions, the audit log, and the authority's certificate.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Access, Caller, Problem, Routes, Shape, Table, blocking, session_cookie, session_of};
use crate::access::authority::Authority;
use crate::access::db::{self, Error, Gate, Person, Token};
use crate::access::secret::Secret;
use crate::access::{Capability, Limits, Principal, Role, audit};

#[derive(Clone)]
pub struct PeopleState {
    pub gate: Arc<Gate>,
    pub authority: Arc<Authority>,
    /// The head of the audit log as it was written down outside the database.
    pub audit_anchor: Option<Arc<AuditAnchor>>,
}

pub type AuditAnchor = dyn Fn() -> Option<audit::Head> + Send + Sync;

pub fn routes(state: PeopleState) -> Table {
    let administer = Access::Person(Capability::Administer);
    Routes::new()
        .get(
            "/boot/authority.pem",
            Access::Boot("a public certificate; the boot environment knows its SHA-256"),
            "The site's authority",
            authority,
        )
        .post("/api/v1/session", Access::Public("this is the login"), "Log in", login)
        .takes("Login")
        .delete("/api/v1/session", Access::Person(Capability::Read), "Log out", logout)
        .get("/api/v1/session", Access::Person(Capability::Read), "Who am I", whoami)
        .post(
            "/api/v1/invitations/accept",
            Access::Public("whoever has the one-time secret makes one account with it"),
            "Use an invitation",
            accept,
        )
        .post("/api/v1/invitations", administer, "Invite a person", invite)
        .takes("Invite")
        .get("/api/v1/people", administer, "List people", people)
        .gives(Shape::List("Person"))
        .post("/api/v1/people", administer, "Add a person", add_person)
        .takes("AddPerson")
        .put("/api/v1/people/{name}", administer, "Give a person another role or other limits", change_person)
        .delete("/api/v1/people/{name}", administer, "Remove a person", remove_person)
        .gives(Shape::Nothing)
        .get("/api/v1/tokens", administer, "List API tokens", tokens)
        .gives(Shape::List("Token"))
        .post("/api/v1/tokens", administer, "Make an API token", add_token)
        .takes("AddToken")
        .delete("/api/v1/tokens/{name}", administer, "Remove an API token", remove_token)
        .gives(Shape::Nothing)
        .get("/api/v1/audit", Access::Person(Capability::Audit), "The audit log, newest first", audit_log)
        .asks(&[
            ("before", "number of the entry before which to begin"),
            ("limit", "how many entries are given at most"),
        ])
        .gives(Shape::List("AuditEntry"))
        .get("/api/v1/audit/head", Access::Person(Capability::Audit), "The last entry's number and hash", audit_head)
        .post(
            "/api/v1/audit/verify",
            Access::Person(Capability::Audit),
            "Follow the audit log's chain of hashes",
            verify_audit,
        )
        .with_state(state)
}

fn problem(error: &Error) -> Problem {
    let status = match error {
        Error::Absent { .. } => StatusCode::NOT_FOUND,
        Error::Exists { .. } | Error::LastAdministrator { .. } => StatusCode::CONFLICT,
        Error::Login | Error::Invitation => StatusCode::FORBIDDEN,
        Error::Locked { .. } => StatusCode::TOO_MANY_REQUESTS,
        Error::ShortPassword => StatusCode::BAD_REQUEST,
        Error::Db(_) | Error::Vault(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    Problem::from_error(status, error)
}

async fn run<T: Send + 'static>(
    state: PeopleState,
    work: impl FnOnce(&Gate) -> Result<T, Error> + Send + 'static,
) -> Result<T, Problem> {
    blocking(move || work(&state.gate).map_err(|error| problem(&error))).await
}

async fn authority(State(state): State<PeopleState>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/x-pem-file")], state.authority.certificate_pem().to_owned())
}

#[derive(Deserialize)]
struct Login {
    name: String,
    password: String,
}

async fn login(State(state): State<PeopleState>, Json(login): Json<Login>) -> Result<impl IntoResponse, Problem> {
    let session =
        run(state, move |gate| db::login(&gate.db, &login.name, &Secret::new(login.password), gate.clock.now()))
            .await?;
    Ok(with_cookie(session.reveal(), json!({})))
}

#[derive(Deserialize)]
struct Accept {
    invitation: String,
    name: String,
    password: String,
}

async fn accept(State(state): State<PeopleState>, Json(accept): Json<Accept>) -> Result<impl IntoResponse, Problem> {
    let session = run(state, move |gate| {
        db::accept_invitation(
            &gate.db,
            &accept.invitation,
            &accept.name,
            &Secret::new(accept.password),
            gate.clock.now(),
        )
    })
    .await?;
    Ok(with_cookie(session.reveal(), json!({})))
}

async fn logout(
    State(state): State<PeopleState>,
    headers: axum::http::HeaderMap,
) -> Result<impl IntoResponse, Problem> {
    if let Some(session) = session_of(&headers) {
        run(state, move |gate| db::logout(&gate.db, &session)).await?;
    }
    Ok(with_cookie("", json!({})))
}

fn with_cookie(value: &str, body: Value) -> impl IntoResponse + use<> {
    ([(header::SET_COOKIE, session_cookie(value))], Json(body))
}

async fn whoami(caller: Caller) -> Json<Value> {
    match caller.principal {
        Principal::Person { name, role, limits } => Json(json!({ "name": name, "role": role, "limits": limits })),
        _ => Json(Value::Null),
    }
}

#[derive(Deserialize)]
struct Invite {
    role: Role,
    #[serde(default = "Invite::usual_hours")]
    hours: u32,
}

impl Invite {
    fn usual_hours() -> u32 {
        24
    }
}

async fn invite(
    State(state): State<PeopleState>,
    caller: Caller,
    Json(invite): Json<Invite>,
) -> Result<Json<Value>, Problem> {
    let seconds = i64::from(invite.hours.clamp(1, 24 * 30)) * 3600;
    let secret =
        run(state, move |gate| db::invite(&gate.db, &caller.principal, invite.role, seconds, gate.clock.now())).await?;
    Ok(Json(json!({ "invitation": secret.reveal() })))
}

async fn people(State(state): State<PeopleState>) -> Result<Json<Vec<Person>>, Problem> {
    Ok(Json(run(state, |gate| db::people(&gate.db)).await?))
}

#[derive(Deserialize)]
struct AddPerson {
    name: String,
    role: Role,
    password: String,
}

async fn add_person(
    State(state): State<PeopleState>,
    caller: Caller,
    Json(add): Json<AddPerson>,
) -> Result<StatusCode, Problem> {
    run(state, move |gate| {
        db::create_person(
            &gate.db,
            &caller.principal,
            &add.name,
            add.role,
            &Secret::new(add.password),
            gate.clock.now(),
        )
    })
    .await?;
    Ok(StatusCode::CREATED)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChangePerson {
    role: Role,
    #[serde(default)]
    limits: Limits,
}

async fn change_person(
    State(state): State<PeopleState>,
    caller: Caller,
    Path(name): Path<String>,
    Json(change): Json<ChangePerson>,
) -> Result<StatusCode, Problem> {
    run(state, move |gate| {
        db::change_person(&gate.db, &caller.principal, &name, change.role, &change.limits, gate.clock.now())
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn remove_person(
    State(state): State<PeopleState>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    run(state, move |gate| db::remove_person(&gate.db, &caller.principal, &name, gate.clock.now())).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn tokens(State(state): State<PeopleState>) -> Result<Json<Vec<Token>>, Problem> {
    Ok(Json(run(state, |gate| db::tokens(&gate.db)).await?))
}

#[derive(Deserialize)]
struct AddToken {
    name: String,
    role: Role,
    days: Option<u32>,
    #[serde(default)]
    limits: Limits,
}

async fn add_token(
    State(state): State<PeopleState>,
    caller: Caller,
    Json(add): Json<AddToken>,
) -> Result<Json<Value>, Problem> {
    let secret = run(state, move |gate| {
        let role = (add.role, &add.limits);
        db::create_token(&gate.db, &caller.principal, &add.name, role, add.days.map(i64::from), gate.clock.now())
    })
    .await?;
    Ok(Json(json!({ "token": secret.reveal() })))
}

async fn remove_token(
    State(state): State<PeopleState>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    run(state, move |gate| db::remove_token(&gate.db, &caller.principal, &name, gate.clock.now())).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
struct Page {
    before: Option<u64>,
    limit: Option<u32>,
}

async fn audit_log(
    State(state): State<PeopleState>,
    Query(page): Query<Page>,
) -> Result<Json<Vec<audit::Entry>>, Problem> {
    blocking(move || {
        let entries = audit::list(&state.gate.db, page.before, page.limit.unwrap_or(100).min(1000));
        entries.map(Json).map_err(|error| Problem::internal(error.to_string()))
    })
    .await
}

async fn audit_head(State(state): State<PeopleState>) -> Result<Json<audit::Head>, Problem> {
    blocking(move || audit::head(&state.gate.db).map(Json).map_err(|error| Problem::internal(error.to_string()))).await
}

#[derive(Default, Deserialize)]
struct Verify {
    /// `NUMBER:HASH`, as `/api/v1/audit/head` gave it once.
    #[serde(default)]
    anchor: Option<String>,
}

async fn verify_audit(State(state): State<PeopleState>, Json(verify): Json<Verify>) -> Result<Json<Value>, Problem> {
    let anchor = verify.anchor.map(|text| parse_anchor(&text)).transpose()?;
    blocking(move || {
        // What the appliance has written down beside the database counts too.
        let anchors = anchor.into_iter().chain(state.audit_anchor.as_ref().and_then(|read| read()));
        let mut verified = audit::verify(&state.gate.db);
        for anchor in anchors {
            verified = verified.and_then(|_| audit::verify_from(&state.gate.db, &anchor));
        }
        match verified {
            Ok(entries) => Ok(Json(json!({ "whole": true, "entries": entries }))),
            Err(audit::Error::Db(error)) => Err(Problem::internal(error.to_string())),
            Err(error) => {
                let broken_at = match error {
                    audit::Error::Broken { number } | audit::Error::Rewritten { number } => Some(number),
                    audit::Error::Cut { found, .. } => Some(found + 1),
                    audit::Error::Db(_) => None,
                };
                Ok(Json(json!({ "whole": false, "broken_at": broken_at, "reason": error.to_string() })))
            }
        }
    })
    .await
}

fn parse_anchor(text: &str) -> Result<audit::Head, Problem> {
    let parse = || {
        let (number, hash) = text.split_once(':')?;
        Some(audit::Head { number: number.parse().ok()?, hash: hash.to_owned() })
    };
    parse().ok_or_else(|| Problem::bad_request("an anchor is NUMBER:HASH, as `remint audit head` prints it"))
}
