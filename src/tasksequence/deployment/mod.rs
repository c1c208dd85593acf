//! Deployments: a sequence assigned to machines, with the guard in front of it.
//!
//! What will be erased is planned for every machine before anything is kept; a deployment that erases begins only when
//! the number of those machines was said. Protected machines are refused, and so is one that has a run already. How it
//! then spreads (`fleet::deployment::decide`) is pure; [`db`] applies the decision whenever a run ends and at every tick.

pub mod console;
pub mod db;

use serde::{Deserialize, Serialize};

use crate::fleet::deployment::{Rollout, RunState};
use crate::stdx::time::Timestamp;

use super::db::RunRecord;
use super::model::Values;
use super::plan::Plan;

/// What a person asks for.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Request {
    /// `NAME` or `NAME@VERSION`.
    pub sequence: String,
    /// Names or identifiers.
    pub machines: Vec<String>,
    pub collection: Option<String>,
    pub variables: Values,
    /// Stop before each step until a person lets the run go on.
    pub debug: bool,
    pub rollout: Rollout,
    /// How many machines' disks this will erase, said by the person.
    pub confirm: Option<u32>,
}

/// What would happen, for each machine.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Preview {
    pub sequence: String,
    pub version: String,
    pub plans: Vec<Plan>,
    /// Machines whose disks are erased.
    pub erases: u32,
    /// What stands in the way, a sentence each.
    pub refusals: Vec<String>,
}

/// A deployment as it is listed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeploymentRecord {
    pub id: String,
    pub sequence: String,
    pub version: String,
    /// What it was started for, in words.
    pub target: String,
    pub rollout: Rollout,
    /// Why nothing more is begun.
    pub stopped: Option<String>,
    pub created_at: Timestamp,
    pub created_by: String,
    pub counts: Counts,
}

/// Runs by their state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    pub queued: u32,
    pub waiting: u32,
    pub running: u32,
    pub succeeded: u32,
    pub failed: u32,
    pub cancelled: u32,
}

impl Counts {
    pub fn of(states: impl IntoIterator<Item = RunState>) -> Counts {
        let mut counts = Counts::default();
        for state in states {
            *counts.slot(state) += 1;
        }
        counts
    }

    fn slot(&mut self, state: RunState) -> &mut u32 {
        match state {
            RunState::Queued => &mut self.queued,
            RunState::Waiting => &mut self.waiting,
            RunState::Running => &mut self.running,
            RunState::Succeeded => &mut self.succeeded,
            RunState::Failed => &mut self.failed,
            RunState::Cancelled => &mut self.cancelled,
        }
    }

    pub fn total(&self) -> u32 {
        self.unfinished() + self.succeeded + self.failed + self.cancelled
    }

    pub fn unfinished(&self) -> u32 {
        self.queued + self.waiting + self.running
    }

    /// `running` while anything is to come, else how it came out.
    pub fn word(&self, stopped: bool) -> &'static str {
        match (self.waiting + self.running, self.queued, self.failed, self.succeeded) {
            (0, 1.., ..) if stopped => "stopped",
            (0, 0, 0, 0) => "cancelled",
            (0, 0, 0, _) => "succeeded",
            (0, 0, ..) => "failed",
            _ => "running",
        }
    }
}

/// A deployment with its runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeploymentDetail {
    #[serde(flatten)]
    pub deployment: DeploymentRecord,
    pub runs: Vec<RunRecord>,
}

#[cfg(test)]
mod tests;
