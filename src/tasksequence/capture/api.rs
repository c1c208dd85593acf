//! Where machines hand in what they captured.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use serde::Deserialize;

use crate::access::signing::SigningKey;
use crate::api::{Access, Caller, Problem, Routes, Table, blocking};
use crate::fleet::deployment::RunState;
use crate::imaging;
use crate::imaging::intake::{self, Finished};
use crate::imaging::manifest::Manifest;
use crate::imaging::store::local::LocalStore;
use crate::imaging::store::upload::Hold;
use crate::link::Message;
use crate::stdx::time::Timestamp;
use crate::tasksequence::api::problem;
use crate::tasksequence::db::Sequences;
use crate::tasksequence::plan;

use super::link::{AskMissing, CHUNKS_PATH, IMAGE_PATH, Missing, Published};

/// A capture of which nothing is heard for so long keeps the collector of garbage away no more.
const HOLD_SECONDS_MAX: u64 = 3600;

/// What the routes work on.
pub struct Captures {
    pub sequences: Arc<Sequences>,
    pub store: Arc<LocalStore>,
    pub key: Arc<SigningKey>,
    /// By run: what keeps chunks in the store that no version needs yet, and when it was last heard of.
    held: Mutex<HashMap<String, (Hold, Timestamp)>>,
}

impl Captures {
    pub fn new(sequences: Arc<Sequences>, store: Arc<LocalStore>, key: Arc<SigningKey>) -> Captures {
        Captures { sequences, store, key, held: Mutex::default() }
    }

    /// The names that this run may publish. Refused when the run is not this machine's or not under way.
    fn allowed(&self, caller: &Caller, run: &str) -> Result<Vec<String>, Problem> {
        let refused = || Problem::not_found(format!("this machine carries out no run `{run}`"));
        let record = self.sequences.run(run).map_err(|_| refused())?;
        if record.machine.0 != caller.machine()? || record.state != RunState::Running {
            return Err(refused());
        }
        let mut order = self.sequences.run_order(run).map_err(|error| problem(&error))?;
        order.journal = self.sequences.entries(run).map_err(|error| problem(&error))?;
        let names = plan::captures(&order);
        if names.is_empty() {
            return Err(Problem::forbidden("the sequence of this run captures no image"));
        }
        Ok(names)
    }

    /// Nothing that this run has sent goes before it is done.
    fn hold(&self, run: &str) -> Result<(), Problem> {
        let now = self.sequences.fleet.clock.now();
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|_, (_, heard)| now.since(*heard) < HOLD_SECONDS_MAX * 1000);
        let hold = match held.remove(run) {
            Some((hold, _)) => hold,
            None => self.store.hold().map_err(imaging::api::problem)?,
        };
        held.insert(run.to_owned(), (hold, now));
        Ok(())
    }

    fn let_go(&self, run: &str) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).remove(run);
    }

    fn publish(&self, run: &str, name: &str, tag: Option<&str>, bytes: &[u8]) -> Result<Published, Problem> {
        let broken = |fault| Problem::bad_request(format!("the manifest is not sound: {fault}"));
        let mut manifest = Manifest::parse(bytes).map_err(broken)?;
        manifest.header.created = self.sequences.fleet.clock.now();
        let (version, id) = match intake::publish(&self.store, &self.key, name, &manifest) {
            Ok(Finished::Published { version, id }) => (version, id),
            Ok(Finished::Incomplete { chunks }) => {
                return Ok(Published { missing: chunks, version: 0, id: String::new() });
            }
            Err(error) => return Err(imaging::api::problem(error)),
        };
        if let Some(tag) = tag {
            self.store.tag(&version, tag).map_err(imaging::api::problem)?;
        }
        self.sequences.captured(run, &version.to_string()).map_err(|error| problem(&error))?;
        self.let_go(run);
        Ok(Published { missing: 0, version: version.number, id: id.to_string() })
    }
}

pub fn routes(captures: Arc<Captures>) -> Table {
    Routes::new()
        .post(AskMissing::PATH, Access::Machine, "Ask which chunks of a capture the site lacks", missing)
        .post(CHUNKS_PATH, Access::Machine, "Send chunks of a capture", chunks)
        .post(IMAGE_PATH, Access::Machine, "Publish what was captured", image)
        .with_state(captures)
}

async fn missing(
    State(captures): State<Arc<Captures>>,
    caller: Caller,
    Json(question): Json<AskMissing>,
) -> Result<Json<Missing>, Problem> {
    blocking(move || {
        captures.allowed(&caller, &question.run.0)?;
        captures.hold(&question.run.0)?;
        let lacks = |place: &usize| !captures.store.has(&question.chunks[*place]);
        Ok(Json(Missing { missing: (0..question.chunks.len()).filter(lacks).collect() }))
    })
    .await
}

async fn chunks(
    State(captures): State<Arc<Captures>>,
    caller: Caller,
    Path(run): Path<String>,
    body: Bytes,
) -> Result<Json<u64>, Problem> {
    blocking(move || {
        captures.allowed(&caller, &run)?;
        captures.hold(&run)?;
        intake::receive(&captures.store, &body, &run).map(Json).map_err(imaging::api::problem)
    })
    .await
}

#[derive(Deserialize)]
struct Tag {
    tag: Option<String>,
}

async fn image(
    State(captures): State<Arc<Captures>>,
    caller: Caller,
    Path((run, name)): Path<(String, String)>,
    Query(query): Query<Tag>,
    body: Bytes,
) -> Result<Json<Published>, Problem> {
    blocking(move || {
        if !captures.allowed(&caller, &run)?.contains(&name) {
            return Err(Problem::forbidden(format!("the sequence of this run does not capture the image `{name}`")));
        }
        captures.publish(&run, &name, query.tag.as_deref(), &body).map(Json)
    })
    .await
}
