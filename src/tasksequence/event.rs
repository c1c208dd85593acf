//! What is told about a run while it goes on, and what comes back.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::stdx::time::Timestamp;

use super::journal::Entry;
use super::model::{Item, ItemId};

/// A line of a run's log. Its number is its place among the lines of the same boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    pub at: Timestamp,
    pub item: ItemId,
    pub text: String,
}

/// How far a step is. Only the latest counts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepProgress {
    pub item: ItemId,
    pub done: u64,
    pub total: u64,
    /// `bytes`, or what else is counted.
    pub unit: String,
    /// Free words, such as the rate.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// What the appliance wants of a run under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Directive {
    #[default]
    Go,
    /// Start no further step until told to go on.
    Pause,
    Cancel,
    #[serde(other)]
    Unknown,
}

/// Who is told: the appliance, the screen, a test. Never the place where the journal is kept.
pub trait Reporter {
    /// An entry that is in the journal already.
    fn entry(&mut self, entry: &Entry, item: Option<&Item>);
    fn line(&mut self, line: Line);
    fn progress(&mut self, progress: StepProgress);
    /// The latest word from the appliance; asked between steps and, by long steps, within them.
    fn directive(&mut self) -> Directive;
    /// Waits until the appliance has heard all that was told, so that its latest word is about that.
    fn settle(&mut self) {}
    /// What a person has answered to the question of this step.
    fn answer(&mut self, item: &ItemId) -> Option<Value>;
}
