//! What a machine says to be let in.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::MachineId;
use super::identity::Identity;
use crate::link::Message;
use crate::stdx::mac::MacAddr;

/// Where a machine speaks from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    BootEnvironment,
    InstalledSystem,
    #[serde(other)]
    Unknown,
}

impl Stage {
    pub fn name(self) -> &'static str {
        match self {
            Stage::BootEnvironment => "boot-environment",
            Stage::InstalledSystem => "installed-system",
            Stage::Unknown => "unknown",
        }
    }
}

/// The first thing a machine says, without a certificate, and says again until it is approved or rejected.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CheckIn {
    pub stage: Stage,
    pub identity: Identity,
    /// The adapter it came by, which may be a borrowed one.
    pub arrived_by: Option<MacAddr>,
    /// PKCS #10 request (PEM) for the key that the machine has made; its subject is ignored.
    pub request_pem: String,
    /// Hardware inventory as the subject `inventory` defines it, for the person who approves.
    pub hardware: Value,
    /// Version of the agent.
    pub agent: String,
    /// A one-time enrolment code, as a person has typed it on the machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Where somebody chose the hardware test from the boot menu.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<Trial>,
}

/// What a hardware test has found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    pub is_sound: bool,
    /// A line for each part: its figures, or its fault.
    pub parts: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "kebab-case")]
pub enum CheckInReply {
    /// Show the code, ask again after so many seconds.
    Waiting {
        machine: MachineId,
        name: String,
        pairing_code: String,
        retry_seconds: u32,
    },
    Approved {
        machine: MachineId,
        name: String,
        certificate_pem: String,
        site_public_key: String,
        /// When to ask for the next certificate; 0 from an appliance that does not say.
        #[serde(default)]
        renew_in_seconds: u32,
    },
    Rejected {
        reason: String,
    },
    /// The key was used from two machines, or its machine was taken apart from another: make a new key and ask again.
    KeyStopped {
        reason: String,
    },
    #[serde(other)]
    Unknown,
}

impl Message for CheckIn {
    const PATH: &'static str = "/link/v1/check-in";
    type Reply = CheckInReply;
}

/// Asks for a new certificate before the present one ends; sent with the present one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RenewCertificate {
    pub request_pem: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RenewedCertificate {
    pub certificate_pem: String,
    /// When to ask for the next one; 0 from an appliance that does not say.
    #[serde(default)]
    pub renew_in_seconds: u32,
}

impl Message for RenewCertificate {
    const PATH: &'static str = "/link/v1/renew-certificate";
    type Reply = RenewedCertificate;
}
