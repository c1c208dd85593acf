//! Named groups of machines: listed, or the live result of a query on the inventory with machines added to and taken from
//! it. A machine is in as many as one likes; deployments, baselines and rights name them.
//!
//! What a query finds is written down as the collection's members, so that whoever asks for members reads a list; the list is
//! made anew when inventory arrives ([`Fleet::refresh_collections`](super::db::Fleet::refresh_collections)).

pub mod console;
pub(super) mod db;

use serde::{Deserialize, Serialize};

use super::MachineId;

/// Every machine of the site, without being listed.
pub const ALL: &str = "all";

#[derive(Clone, Debug, Serialize)]
pub struct Collection {
    pub name: String,
    pub note: String,
    /// The query that finds its machines; none for a list.
    pub query: Option<String>,
    /// Added to what the query finds.
    pub include: Vec<Member>,
    /// Taken from what the query finds.
    pub exclude: Vec<Member>,
    /// What comes of it.
    pub machines: Vec<Member>,
    /// Why the query could not be asked the last time.
    pub error: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Member {
    pub id: MachineId,
    pub name: String,
}

/// A collection as a person describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Definition {
    pub note: String,
    /// A query whose first column names machines: `SELECT id FROM machines WHERE memory_bytes > 8000000000`.
    pub query: Option<String>,
    /// Its machines; with a query, those that are in it whatever the query finds.
    pub machines: Vec<String>,
    /// With a query: those that are not in it whatever the query finds.
    pub exclude: Vec<String>,
}

/// Asks a query and gives the names or identifiers in its first column; the wiring brings it, because queries belong to
/// the inventory.
pub type Ask = dyn Fn(&str) -> Result<Vec<String>, String> + Send + Sync;
