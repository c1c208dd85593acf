//! How a deployment spreads over its machines. Pure: (rollout, states, now) -> whose turn it is.
//!
//! ```text
//! run:  queued ─its turn─▶ waiting ─the machine takes it─▶ running ─▶ succeeded | failed | cancelled
//! ```
//! A ring begins once all runs of the rings before it are over. A ring in which more than the allowed share failed stops
//! the deployment: what is under way goes on, nothing more is begun until a person says so.

use serde::{Deserialize, Serialize};

use crate::stdx::time::Timestamp;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunState {
    /// Not its turn yet.
    Queued,
    /// Its machine may take it.
    Waiting,
    Running,
    Succeeded,
    Failed,
    Cancelled,
}

impl RunState {
    pub const ALL: [RunState; 6] = [
        RunState::Queued,
        RunState::Waiting,
        RunState::Running,
        RunState::Succeeded,
        RunState::Failed,
        RunState::Cancelled,
    ];

    pub fn name(self) -> &'static str {
        match self {
            RunState::Queued => "queued",
            RunState::Waiting => "waiting",
            RunState::Running => "running",
            RunState::Succeeded => "succeeded",
            RunState::Failed => "failed",
            RunState::Cancelled => "cancelled",
        }
    }

    pub fn parse(name: &str) -> Option<RunState> {
        RunState::ALL.into_iter().find(|state| state.name() == name)
    }

    pub fn is_over(self) -> bool {
        matches!(self, RunState::Succeeded | RunState::Failed | RunState::Cancelled)
    }
}

/// When and how fast.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rollout {
    /// Not before this.
    pub start_at: Option<Timestamp>,
    /// What has not begun by then is cancelled.
    pub deadline: Option<Timestamp>,
    /// Machines under way at the same time; 0 sets no limit.
    pub at_once: u32,
    /// Sizes of the first rings; all other machines are the last one.
    pub rings: Vec<u32>,
    /// A ring in which a larger share of runs failed stops the deployment.
    pub failures_percent_max: u32,
    /// Wake machines by Wake-on-LAN when it is their turn.
    pub wake: bool,
}

impl Default for Rollout {
    fn default() -> Rollout {
        Rollout {
            start_at: None,
            deadline: None,
            at_once: 0,
            rings: Vec::new(),
            failures_percent_max: 100,
            wake: false,
        }
    }
}

/// What is to be done now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Runs, by their index, whose turn it is.
    pub release: Vec<usize>,
    /// Runs that the deadline has overtaken.
    pub expire: Vec<usize>,
    /// Why nothing more may begin.
    pub stop: Option<String>,
}

/// `runs` are in the order of the deployment, which makes the rings.
pub fn decide(rollout: &Rollout, runs: &[RunState], now: Timestamp) -> Decision {
    let queued = |index: &usize| runs[*index] == RunState::Queued;
    if rollout.start_at.is_some_and(|start| now < start) {
        return Decision::default();
    }
    if rollout.deadline.is_some_and(|deadline| now >= deadline) {
        return Decision { expire: (0..runs.len()).filter(queued).collect(), ..Decision::default() };
    }
    let mut under_way = runs.iter().filter(|state| matches!(state, RunState::Waiting | RunState::Running)).count();
    let room = |under_way: usize| rollout.at_once == 0 || under_way < rollout.at_once as usize;
    let mut decision = Decision::default();
    for (number, ring) in rings(rollout, runs.len()).into_iter().enumerate() {
        let failed = runs[ring.clone()].iter().filter(|state| **state == RunState::Failed).count();
        if failed * 100 > ring.len() * rollout.failures_percent_max as usize {
            let (size, most) = (ring.len(), rollout.failures_percent_max);
            decision.stop =
                Some(format!("{failed} of {size} runs in ring {} failed, at most {most} % may", number + 1));
            return decision;
        }
        for index in ring.clone().filter(queued) {
            if room(under_way) {
                under_way += 1;
                decision.release.push(index);
            }
        }
        if !runs[ring].iter().all(|state| state.is_over()) {
            break;
        }
    }
    decision
}

/// The rings as ranges of indices; empty ones are left out.
pub fn rings(rollout: &Rollout, runs: usize) -> Vec<std::ops::Range<usize>> {
    let mut rings = Vec::new();
    let mut start = 0usize;
    for size in rollout.rings.iter().map(|size| *size as usize).chain([usize::MAX]) {
        let end = start.saturating_add(size).min(runs);
        if start < end {
            rings.push(start..end);
        }
        start = end;
    }
    rings
}

#[cfg(test)]
mod tests {
    use super::*;
    use RunState::{Cancelled, Failed, Queued, Running, Succeeded, Waiting};

    fn rollout() -> Rollout {
        Rollout { rings: vec![1, 2], failures_percent_max: 50, at_once: 2, ..Rollout::default() }
    }

    #[test]
    fn a_ring_begins_when_those_before_it_are_over_and_a_bad_one_stops_the_rest() {
        for (runs, release, stops) in [
            (vec![Queued; 5], vec![0], false),
            (vec![Running, Queued, Queued, Queued], vec![], false),
            (vec![Succeeded, Queued, Queued, Queued], vec![1, 2], false),
            (vec![Failed, Queued, Queued, Queued], vec![], true),
            (vec![Succeeded, Failed, Running, Queued, Queued], vec![], false),
            (vec![Succeeded, Failed, Succeeded, Queued, Queued, Queued], vec![3, 4], false),
            (vec![Succeeded, Failed, Failed, Queued, Queued], vec![], true),
            (vec![Cancelled, Succeeded, Succeeded, Waiting, Queued, Queued], vec![4], false),
        ] {
            let decision = decide(&rollout(), &runs, Timestamp::default());
            assert_eq!((decision.release, decision.stop.is_some()), (release, stops), "{runs:?}");
        }
    }

    #[test]
    fn nothing_begins_before_its_time_or_after_the_deadline() {
        let at = Timestamp::from_milliseconds;
        let rollout = Rollout { start_at: Some(at(10)), deadline: Some(at(20)), ..Rollout::default() };
        let runs = [Queued, Running, Queued];
        assert_eq!(decide(&rollout, &runs, at(9)), Decision::default());
        assert_eq!(decide(&rollout, &runs, at(10)).release, [0, 2]);
        assert_eq!(decide(&rollout, &runs, at(20)).expire, [0, 2]);
    }

    #[test]
    fn a_thousand_machines_with_failures_stop_where_they_must() {
        let rollout = Rollout { rings: vec![5, 50], failures_percent_max: 8, at_once: 20, ..Rollout::default() };
        let mut runs = vec![Queued; 1000];
        let mut most = 0;
        let stop = loop {
            let decision = decide(&rollout, &runs, Timestamp::default());
            for index in decision.release {
                runs[index] = Running;
            }
            most = most.max(runs.iter().filter(|state| **state == Running).count());
            // Every tenth machine fails, the first ring is spared.
            let Some(index) = runs.iter().position(|state| *state == Running) else { break decision.stop };
            runs[index] = if index % 10 == 9 { Failed } else { Succeeded };
        };
        assert_eq!(stop.unwrap(), "5 of 50 runs in ring 2 failed, at most 8 % may");
        assert_eq!(most, 20);
        assert!(runs[55..].iter().all(|state| *state == Queued), "the last ring never begins");
    }
}
