//! Whether the appliance lives and whether it can work, for whatever watches over it: systemd timers, load balancers,
//! monitoring. Said to anybody, so it names what fails and keeps the reason for the log.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};

use crate::api::{Access, Problem, Routes, Shape, Table, blocking};
use crate::db::Db;
use crate::imaging::store::local::LocalStore;
use crate::stdx::hint::chain;

/// With less than this, writes of the database begin to fail.
const FREE_BYTES_MIN: u64 = 64 << 20;
const NO_DETAILS: &str = "what watches over the appliance has no login; it learns which part fails, never why";

/// What must work for the appliance to do its work.
pub(super) struct Parts {
    pub(super) db: Arc<Db>,
    pub(super) store: Arc<LocalStore>,
    pub(super) folder: PathBuf,
}

/// The answer of both routes while all is well; otherwise there is a problem document with what does not work.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Health {
    /// What was looked at: `database`, `store`, `disk`.
    pub works: Vec<String>,
}

pub(super) fn routes(parts: Parts) -> Table {
    let public = Access::Public(NO_DETAILS);
    Routes::new()
        .get("/health/live", public, "Whether the appliance answers at all", live)
        .gives(Shape::One("Health"))
        .get("/health/ready", public, "Whether database, store and disk work; 503 names what does not", ready)
        .gives(Shape::One("Health"))
        .with_state(Arc::new(parts))
}

async fn live() -> Json<Health> {
    Json(Health { works: Vec::new() })
}

async fn ready(State(parts): State<Arc<Parts>>) -> Result<Json<Health>, Problem> {
    blocking(move || examine(&parts)).await.map(Json)
}

fn examine(parts: &Parts) -> Result<Health, Problem> {
    let checks = [
        ("database", parts.db.check().map_err(|error| chain(&error))),
        ("store", parts.store.check().map_err(|error| chain(&error))),
        ("disk", has_room(&parts.folder)),
    ];
    let mut fails = Vec::new();
    for (name, outcome) in &checks {
        if let Err(reason) = outcome {
            tracing::error!("not ready, {name}: {reason}");
            fails.push(*name);
        }
    }
    if fails.is_empty() {
        return Ok(Health { works: checks.map(|(name, _)| name.to_owned()).to_vec() });
    }
    let detail = format!("not ready: {}", fails.join(", "));
    Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).with_hint("the log of the appliance has the reason"))
}

fn has_room(folder: &Path) -> Result<(), String> {
    let space = nix::sys::statvfs::statvfs(folder).map_err(|error| error.to_string())?;
    let free = space.blocks_available() * space.fragment_size();
    if free < FREE_BYTES_MIN {
        return Err(format!("{free} bytes are free for {}", folder.display()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::site::Site;

    #[test]
    fn what_does_not_work_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let site = Site::create(&folder.path().join("site"), "test").unwrap();
        let parts = Parts { db: site.db.clone(), store: site.store.clone(), folder: site.folder.clone() };
        assert_eq!(examine(&parts).unwrap().works, ["database", "store", "disk"]);
        std::fs::rename(site.folder.join("store"), site.folder.join("elsewhere")).unwrap();
        assert_eq!(examine(&parts).unwrap_err().detail, "not ready: store");
    }
}
