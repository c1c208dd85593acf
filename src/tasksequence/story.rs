//! A run as people read it: each step with its state, its time and what it found, told from the journal.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::stdx::time::Timestamp;

use super::journal::{Entry, StepResult, What};
use super::model::{Item, ItemId, Sequence};

/// Where a step stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepState {
    #[default]
    ToDo,
    Running,
    Done,
    /// Its result held before it did anything.
    Held,
    Failed,
    Skipped,
}

/// One step of a run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct StepRecord {
    pub id: String,
    pub name: String,
    pub kind: String,
    pub state: StepState,
    pub attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub took_milliseconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped_because: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub evidence: Map<String, Value>,
}

/// The steps of `sequence` in the order of the document, as `journal` leaves them.
pub fn tell(sequence: &Sequence, journal: &[Entry]) -> Vec<StepRecord> {
    sequence.steps().map(|(item, step)| one(item, &step.kind, journal)).collect()
}

fn one(item: &Item, kind: &str, journal: &[Entry]) -> StepRecord {
    let fresh = || StepRecord {
        id: item.id.0.clone(),
        name: item.name.clone(),
        kind: kind.to_owned(),
        ..StepRecord::default()
    };
    let mut record = fresh();
    for entry in journal.iter().filter(|entry| is_about(entry, &item.id)) {
        match &entry.what {
            What::Started { attempt, .. } => {
                record.state = StepState::Running;
                record.attempts = *attempt;
                record.started_at = record.started_at.or(Some(entry.at));
                record.took_milliseconds = None;
            }
            What::Finished(finished) => {
                record.state = match finished.result {
                    StepResult::Done => StepState::Done,
                    StepResult::Held => StepState::Held,
                    StepResult::Failed => StepState::Failed,
                };
                record.took_milliseconds = record.started_at.map(|started| entry.at.since(started));
                record.error.clone_from(&finished.error);
                record.hint.clone_from(&finished.hint);
                record.evidence.clone_from(&finished.evidence);
            }
            What::Skipped { why } => {
                record.state = StepState::Skipped;
                record.skipped_because = Some(why.clone());
            }
            What::Rewound => record = fresh(),
            What::Entered | What::Cancelled | What::Ended { .. } | What::Unknown => {}
        }
    }
    record
}

fn is_about(entry: &Entry, item: &ItemId) -> bool {
    entry.item == *item
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasksequence::journal::Finished;

    #[test]
    fn a_step_that_was_tried_twice_is_told_once_with_its_whole_time() {
        let item = Item { id: ItemId("1".into()), name: "Wait".into(), ..sample() };
        let at =
            |milliseconds, what| Entry { at: Timestamp::from_milliseconds(milliseconds), item: item.id.clone(), what };
        let failed = Finished { error: Some("no".into()), ..Finished::default() };
        let done = Finished { result: StepResult::Done, ..Finished::default() };
        let started = |attempt| What::Started { attempt, boot: "b".into() };
        let mut journal = vec![at(10, started(1)), at(20, What::Finished(failed)), at(30, started(2))];
        let running = one(&item, "run-command", &journal);
        assert_eq!((running.state, running.attempts, running.took_milliseconds), (StepState::Running, 2, None));
        journal.push(at(45, What::Finished(done)));
        let record = one(&item, "run-command", &journal);
        assert_eq!((record.state, record.took_milliseconds, record.error), (StepState::Done, Some(35), None));
        journal.push(at(50, What::Rewound));
        assert_eq!(one(&item, "run-command", &journal).state, StepState::ToDo);
    }

    fn sample() -> Item {
        let sequence =
            crate::tasksequence::parser::parse("name: t\nsteps:\n  - run-command:\n      command: [/bin/true]\n");
        sequence.unwrap_or_else(|problems| panic!("{problems:?}")).items()[0].clone()
    }
}
