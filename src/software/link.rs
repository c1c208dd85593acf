//! What machines and the appliance say about software.

use serde::{Deserialize, Serialize};

use super::model::{Finding, Mode, Package};
use crate::link::Message;
use crate::stdx::time::Timestamp;

/// Asks for the software that the machine that asks must have.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct FetchPolicy {}

/// The software of a machine, all its baselines taken together.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    pub packages: Vec<Wanted>,
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
