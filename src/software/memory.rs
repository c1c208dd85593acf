//! What the agent remembers from one round to the next: what failed and when it is tried again, what is installed by it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::model::Finding;
use crate::stdx::time::Timestamp;

/// The first pause after a failure; doubled with each further one.
const RETRY_SECONDS: i64 = 15 * 60;
const RETRY_SECONDS_MAX: i64 = 86_400;
/// A clock that was years ahead must not silence a package for years.
const PAUSE_SECONDS_MAX: i64 = 2 * RETRY_SECONDS_MAX;
/// An installer during which the agent ended so often in a row is what ends it; once or twice may be a power cut.
const INTERRUPTIONS_MAX: u32 = 3;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    attempts: BTreeMap<String, Attempt>,
    /// Versions that this agent has installed, by name.
    installed: BTreeMap<String, String>,
}

/// What became of the tries to install one version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Attempt {
    version: String,
    failures: u32,
    next_at: Timestamp,
    /// Raised before the installer runs and set to 0 after it: above 0 at the start of a round, the agent was killed.
    interruptions: u32,
    last: Option<Finding>,
}

/// Whether it may be tried now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    Now,
    /// It failed lately; this is what was found then.
    Later(Finding),
    /// The last tries ended with the agent itself.
    KilledTheAgent,
}

impl Memory {
    pub fn turn(&self, name: &str, version: &str, now: Timestamp) -> Turn {
        let Some(attempt) = self.attempts.get(name).filter(|attempt| attempt.version == version) else {
            return Turn::Now;
        };
        let pause = attempt.next_at.milliseconds() - now.milliseconds();
        match &attempt.last {
            _ if attempt.interruptions >= INTERRUPTIONS_MAX => Turn::KilledTheAgent,
            _ if attempt.interruptions > 0 => Turn::Now,
            Some(last) if pause > 0 && pause <= PAUSE_SECONDS_MAX * 1000 => Turn::Later(last.clone()),
            _ => Turn::Now,
        }
    }

    /// To be written down before the installer runs.
    pub fn begin(&mut self, name: &str, version: &str) {
        let attempt = self.attempts.entry(name.to_owned()).or_default();
        if attempt.version != version {
            *attempt = Attempt { version: version.to_owned(), ..Attempt::default() };
        }
        attempt.interruptions += 1;
    }

    /// It is there, whoever has seen to that; whether there was something to forget.
    pub fn held(&mut self, name: &str, version: &str) -> bool {
        let Some(attempt) = self.attempts.remove(name) else { return false };
        // The agent was killed between the installer's end and its own note of it.
        if attempt.interruptions > 0 && attempt.version == version {
            self.installed.insert(name.to_owned(), version.to_owned());
        }
        true
    }

    pub fn succeeded(&mut self, name: &str, version: &str) {
        self.attempts.remove(name);
        self.installed.insert(name.to_owned(), version.to_owned());
    }

    /// Notes the failure and adds to the finding's reason how often it was tried.
    pub fn failed(&mut self, finding: &mut Finding, now: Timestamp) {
        let attempt = self.attempts.entry(finding.package.clone()).or_default();
        if attempt.version != finding.version {
            *attempt = Attempt { version: finding.version.clone(), ..Attempt::default() };
        }
        attempt.failures += 1;
        attempt.interruptions = 0;
        let pause = (RETRY_SECONDS << (attempt.failures - 1).min(10)).min(RETRY_SECONDS_MAX);
        attempt.next_at = now.plus_seconds(pause);
        if attempt.failures > 1 {
            finding.reason.push_str(&format!(" (tried {} times)", attempt.failures));
        }
        attempt.last = Some(finding.clone());
    }

    pub fn removed(&mut self, name: &str) {
        self.attempts.remove(name);
        self.installed.remove(name);
    }

    /// The version that this agent has installed before.
    pub fn installed(&self, name: &str) -> Option<&str> {
        self.installed.get(name).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::software::model::Compliance;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_milliseconds(seconds * 1000)
    }

    fn failure(version: &str) -> Finding {
        Finding {
            package: "a".into(),
            version: version.into(),
            state: Compliance::Failed,
            reason: "why".into(),
            output: String::new(),
        }
    }

    #[test]
    fn what_failed_is_tried_again_later_and_later_and_a_new_version_at_once() {
        let mut memory = Memory::default();
        let mut pauses = Vec::new();
        let mut now = 0;
        for _ in 0..9 {
            memory.begin("a", "1");
            memory.failed(&mut failure("1"), at(now));
            let pause = (0..).step_by(60).find(|pause| memory.turn("a", "1", at(now + pause)) == Turn::Now).unwrap();
            pauses.push(pause / 60);
            now += pause;
        }
        assert_eq!(pauses, [15, 30, 60, 120, 240, 480, 960, 1440, 1440]);
        let Turn::Later(last) = memory.turn("a", "1", at(now - 1)) else { panic!("it waits") };
        assert_eq!(last.reason, "why (tried 9 times)");
        assert_eq!(memory.turn("a", "2", at(now - 1)), Turn::Now);
        assert_eq!(memory.turn("a", "1", at(now - 1_000_000)), Turn::Now, "the clock was years ahead");
    }

    #[test]
    fn what_an_older_agent_wrote_is_still_known() {
        let old = r#"{"attempts":{"a":{"version":"1","failures":1,"under_way":false}},"installed":{"b":"2"}}"#;
        let memory: Memory = serde_json::from_str(old).unwrap();
        assert_eq!((memory.installed("b"), memory.turn("a", "1", Timestamp::default())), (Some("2"), Turn::Now));
    }

    #[test]
    fn an_installer_that_ends_the_agent_is_found_out() {
        let mut memory = Memory::default();
        for turn in [Turn::Now, Turn::Now, Turn::KilledTheAgent] {
            memory.begin("a", "1");
            memory = serde_json::from_slice(&serde_json::to_vec(&memory).unwrap()).unwrap();
            assert_eq!(memory.turn("a", "1", at(0)), turn);
        }
        memory.succeeded("a", "1");
        assert_eq!((memory.turn("a", "1", at(0)), memory.installed("a")), (Turn::Now, Some("1")));
        memory.removed("a");
        assert_eq!(memory, Memory::default());
        memory.begin("a", "1");
        assert!(memory.held("a", "1"), "the installer had ended before the agent did");
        assert_eq!((memory.turn("a", "1", at(0)), memory.installed("a")), (Turn::Now, Some("1")));
        assert!(!memory.held("a", "1"));
    }
}
