//! What lists, tiles and reports show of runs, in one question to the database each, however many machines there are.

pub mod db;

use crate::fleet::deployment::RunState;

/// Which runs a list shows; everything without a filter.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub state: Option<RunState>,
    /// Part of the sequence's name.
    pub sequence: Option<String>,
}

/// Runs that ended on one day, by how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Day {
    /// Days since 1970.
    pub day: i64,
    pub succeeded: u64,
    pub failed: u64,
    pub cancelled: u64,
}

/// A step at which runs failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    pub step: String,
    /// What the last of them said.
    pub error: String,
    pub runs: u64,
}
