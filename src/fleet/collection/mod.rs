//! Named groups of machines. A machine is in as many as one likes; deployments, baselines and rights name them.

pub mod console;
mod db;

use serde::Serialize;

use super::MachineId;

/// Every machine of the site, without being listed.
pub const ALL: &str = "all";

#[derive(Clone, Debug, Serialize)]
pub struct Collection {
    pub name: String,
    pub note: String,
    pub machines: Vec<Member>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Member {
    pub id: MachineId,
    pub name: String,
}
