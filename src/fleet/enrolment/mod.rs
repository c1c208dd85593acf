//! Whether a machine that checks in is let in: a decision, nothing else. What the decision reads (codes, the list of
//! expected machines, the stopped keys) and what becomes of it is in [`db`].

#[cfg(feature = "server")]
pub mod api;
#[cfg(feature = "server")]
pub mod code;
#[cfg(feature = "server")]
pub mod db;
#[cfg(feature = "server")]
pub mod expected;

use serde::{Deserialize, Serialize};

use super::MachineState;

/// What the site has decided about letting machines in.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// A machine in the middle of a run that comes with a new key (its power was cut, its disk is half written) goes on
    /// without asking again, and so does one that was sent into the boot environment for a run. Off: a person approves it again, with the code on its screen.
    pub continue_runs: bool,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy { continue_runs: true }
    }
}

/// What is known of the machine that checks in.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    pub state: MachineState,
    /// SHA-256 of the public key that was approved last.
    pub approved_key: Option<&'a str>,
    /// A person must say first which machine this is.
    pub has_question: bool,
    /// It was sent into the boot environment a moment ago, while it had its certificate.
    pub is_expected_back: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Give it a certificate for this key; `Some` names what approved it just now.
    Admit {
        by: Option<String>,
    },
    Wait,
    Reject {
        reason: &'static str,
    },
}

/// `by` names what lets the machine in without a person: `rule:lab`, `code:desk 4`, `serial list`.
pub fn decide(known: Option<Known<'_>>, key: &str, by: Option<&str>, policy: &Policy) -> Verdict {
    let without_a_person = || by.map(|by| Verdict::Admit { by: Some(by.to_owned()) });
    let Some(known) = known else {
        return without_a_person().unwrap_or(Verdict::Wait);
    };
    match known.state {
        MachineState::Rejected => {
            Verdict::Reject { reason: "this machine was rejected; `remint machine approve` lets it in after all" }
        }
        MachineState::Retired => {
            Verdict::Reject { reason: "this machine was retired; `remint machine approve` takes it back" }
        }
        _ if known.has_question => Verdict::Wait,
        _ if known.approved_key == Some(key) => Verdict::Admit { by: None },
        MachineState::Deploying if policy.continue_runs => Verdict::Admit { by: Some("run under way".into()) },
        _ => without_a_person().unwrap_or(match known.is_expected_back && policy.continue_runs {
            true => Verdict::Admit { by: Some("run that begins".into()) },
            false => Verdict::Wait,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(state: MachineState, approved_key: Option<&str>) -> Known<'_> {
        Known { state, approved_key, has_question: false, is_expected_back: false }
    }

    #[test]
    fn a_machine_that_was_sent_into_the_boot_environment_is_let_in_there_unless_the_site_asks() {
        let managed = Some(Known { is_expected_back: true, ..known(MachineState::Managed, Some("old")) });
        let admitted = Verdict::Admit { by: Some("run that begins".into()) };
        assert_eq!(decide(managed, "k", None, &Policy::default()), admitted);
        assert_eq!(decide(managed, "k", None, &Policy { continue_runs: false }), Verdict::Wait);
    }

    #[test]
    fn only_an_approved_key_a_rule_or_an_open_run_lets_a_machine_in() {
        use MachineState::*;
        let admit = |by: Option<&str>| Verdict::Admit { by: by.map(str::to_owned) };
        let ask = Policy { continue_runs: false };
        let default = Policy::default();
        for (state, approved, rule, policy, expect) in [
            (None, None, None, &default, Verdict::Wait),
            (None, None, Some("rule:lab"), &default, admit(Some("rule:lab"))),
            (Some(Waiting), None, None, &default, Verdict::Wait),
            (Some(Approved), Some("k"), None, &default, admit(None)),
            (Some(Managed), Some("old"), None, &default, Verdict::Wait),
            (Some(Managed), Some("old"), Some("rule:lab"), &default, admit(Some("rule:lab"))),
            (Some(Deploying), Some("old"), None, &default, admit(Some("run under way"))),
            (Some(Deploying), Some("old"), None, &ask, Verdict::Wait),
        ] {
            let known = state.map(|state| known(state, approved));
            assert_eq!(decide(known, "k", rule, policy), expect, "{state:?} {approved:?} {rule:?}");
        }
        for state in [Rejected, Retired] {
            let known = Some(Known { is_expected_back: true, ..known(state, Some("k")) });
            assert!(matches!(decide(known, "k", Some("lab"), &default), Verdict::Reject { .. }));
        }
    }

    #[test]
    fn nothing_but_an_answer_lets_a_machine_in_that_may_be_another_one() {
        for state in [MachineState::Waiting, MachineState::Managed, MachineState::Deploying] {
            let known = Some(Known { has_question: true, is_expected_back: true, ..known(state, Some("k")) });
            assert_eq!(decide(known, "k", Some("rule:lab"), &Policy::default()), Verdict::Wait);
        }
    }
}
