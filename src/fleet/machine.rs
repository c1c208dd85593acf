//! A machine and its states.
//!
//! ```text
//! check-in ─▶ waiting ─approve─▶ approved ─run starts─▶ deploying ─run succeeds─▶ managed
//!               │ reject            ▲                      │ run fails              │ new deployment
//!               ▼                   │                      ▼                        ▼
//!            rejected               └───────────────── failed                   deploying
//! any ─retire─▶ retired (its certificates are revoked)
//! ```

use serde::{Deserialize, Serialize};

use super::identity::Identity;
use crate::stdx::time::Timestamp;

crate::text_id! {
    /// Names a machine for ever: `machine-` and 16 digits. It is also the subject of its certificate.
    MachineId
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MachineState {
    Waiting,
    Approved,
    Deploying,
    Managed,
    Failed,
    Rejected,
    Retired,
}

impl MachineState {
    pub const ALL: [MachineState; 7] = [
        MachineState::Waiting,
        MachineState::Approved,
        MachineState::Deploying,
        MachineState::Managed,
        MachineState::Failed,
        MachineState::Rejected,
        MachineState::Retired,
    ];

    pub fn name(self) -> &'static str {
        match self {
            MachineState::Waiting => "waiting",
            MachineState::Approved => "approved",
            MachineState::Deploying => "deploying",
            MachineState::Managed => "managed",
            MachineState::Failed => "failed",
            MachineState::Rejected => "rejected",
            MachineState::Retired => "retired",
        }
    }

    pub fn parse(name: &str) -> Option<MachineState> {
        MachineState::ALL.into_iter().find(|state| state.name() == name)
    }
}

/// What a machine is given when it boots from the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NextBoot {
    BootEnvironment,
    LocalDisk,
}

impl NextBoot {
    pub fn name(self) -> &'static str {
        match self {
            NextBoot::BootEnvironment => "boot-environment",
            NextBoot::LocalDisk => "local-disk",
        }
    }
}

/// A machine's record as it is stored and shown.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Machine {
    pub id: MachineId,
    pub name: String,
    pub state: MachineState,
    pub next_boot: NextBoot,
    pub identity: Identity,
    /// Never erased by a deployment while this is set.
    pub protected: bool,
    /// Shown here and on the machine's screen while a key of it waits for approval.
    pub pairing_code: Option<String>,
    pub approved_by: Option<String>,
    pub address: Option<String>,
    /// `boot-environment` or `installed-system`: where it last spoke from.
    pub stage: String,
    pub created_at: Timestamp,
    pub seen_at: Timestamp,
    /// What a technician should know, for instance why nothing was deployed.
    #[serde(default)]
    pub notice: Option<String>,
    /// Open until a person says which machine this is; nothing is approved before.
    #[serde(default)]
    pub question: Option<Question>,
}

/// The machine may be one of these, or a new one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    pub candidates: Vec<MachineId>,
    /// What speaks for and against it: `the same disk, another UUID and board`.
    pub words: String,
}
