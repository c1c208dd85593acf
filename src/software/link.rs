//! What machines and the appliance say about software.

use serde::{Deserialize, Serialize};

use super::model::{Finding, Mode, Package};
use super::setting::Setting;
use super::window::Window;
use crate::link::Message;
use crate::stdx::time::Timestamp;

/// Asks for the software that the machine that asks must have.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct FetchPolicy {}

/// The software of a machine, all its baselines taken together.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    pub packages: Vec<Wanted>,
    /// Packages that must not be there.
    #[serde(default)]
    pub absent: Vec<Wanted>,
    #[serde(default)]
    pub settings: Vec<WantedSetting>,
    /// Payloads are fetched no faster than this.
    #[serde(default)]
    pub bytes_per_second: Option<u64>,
    /// The appliance's time: windows are kept by it and not by a machine's clock, which may be years off.
    #[serde(default)]
    pub now: Timestamp,
    /// When to ask again, in seconds.
    #[serde(default)]
    pub again_seconds: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Wanted {
    pub baseline: String,
    pub mode: Mode,
    pub package: Package,
    pub payload: Payload,
    #[serde(default)]
    pub when: When,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WantedSetting {
    pub baseline: String,
    pub mode: Mode,
    pub setting: Setting,
    #[serde(default)]
    pub when: When,
}

/// When a machine may be changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct When {
    pub windows: Vec<Window>,
    pub deadline: Option<Timestamp>,
}

impl When {
    pub fn permits(&self, now: Timestamp) -> bool {
        let overdue = self.deadline.is_some_and(|deadline| now >= deadline);
        self.windows.is_empty() || overdue || self.windows.iter().any(|window| window.holds(now))
    }

    /// `sat 22:00-05:00 UTC`
    pub fn words(&self) -> String {
        self.windows.iter().map(Window::words).collect::<Vec<_>>().join(" or ")
    }
}

/// A file in the content store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payload {
    /// The image of kind `file` that holds it, and its version.
    pub image: String,
    pub version: String,
    pub bytes: u64,
    /// SHA-256 of the whole file.
    pub sha256: String,
}

impl Message for FetchPolicy {
    const PATH: &'static str = "/link/v1/policy";
    type Reply = Policy;
}

/// What the machine found, for all packages of its policy.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReportCompliance {
    pub at: Timestamp,
    pub findings: Vec<Finding>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ComplianceTaken {}

impl Message for ReportCompliance {
    const PATH: &'static str = "/link/v1/compliance";
    type Reply = ComplianceTaken;
}
