//! The kernel that owns the conversation between machine and appliance.
//!
//! A message is a JSON document that a machine posts over HTTPS to the path of its type and that is answered with the
//! type's reply. The subjects define their messages in their `link.rs`; the appliance's handlers are routes in their
//! `api.rs`. The machine pins the site's authority by its SHA-256 and shows a certificate of its own once it has one.
//!
//! Both ends ignore fields they do not know and enums that travel end in `Unknown`, so that an older agent and a newer
//! appliance understand each other. Absent: retries inside a call (`client::patiently` is asked for them), sessions, and
//! any knowledge of what a message says.

pub mod client;
pub mod trust;

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::stdx::hint::Hint;

/// Longest reply to a message that a machine accepts. A run order with its manifest is the largest; a manifest of a 1 TB
/// disk with 64 KiB chunks takes about 1.5 GB as text, so manifests travel as byte ranges and not in messages.
pub const REPLY_BYTES_MAX: u64 = 64 << 20;

/// How long a call waits for the connection, and then for each next byte.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What a machine says to the appliance, with the type of the answer.
pub trait Message: Serialize + DeserializeOwned {
    /// Where it is posted, for instance `/link/v1/check-in`.
    const PATH: &'static str;
    type Reply: Serialize + DeserializeOwned;
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("reach {url}")]
    Reach { url: String, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("{url} answered {status}: {detail}")]
    Refused { url: String, status: u16, detail: String, hint: Option<String> },
    #[error("understand the answer of {url}: {detail}")]
    Answer { url: String, detail: String },
    #[error("trust {url}: its authority has the fingerprint {found}, expected {expected}")]
    Authority { url: String, expected: String, found: String },
    #[error("prepare the connection: {0}")]
    Setup(String),
}

impl Error {
    /// Whether the same call may succeed later without anybody doing anything: the network or the appliance is away or
    /// busy. What the appliance refused, it will refuse again.
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Reach { .. } => true,
            Error::Refused { status, .. } => matches!(status, 408 | 425 | 429 | 500..),
            Error::Answer { .. } | Error::Authority { .. } | Error::Setup(_) => false,
        }
    }

    /// Whether the other end knows the caller's certificate no more: it has ended, which TLS says with an alert (RFC 8446
    /// 6.2) when the connection is made, or was revoked.
    pub fn is_refused_certificate(&self) -> bool {
        match self {
            Error::Refused { status, .. } => *status == 401,
            Error::Reach { .. } => {
                let text = crate::stdx::hint::chain(self);
                ["CertificateExpired", "CertificateUnknown", "CertificateRevoked", "BadCertificate"]
                    .iter()
                    .any(|alert| text.contains("alert") && text.contains(alert))
            }
            Error::Answer { .. } | Error::Authority { .. } | Error::Setup(_) => false,
        }
    }
}

impl Hint for Error {
    fn hint(&self) -> Option<String> {
        match self {
            Error::Reach { .. } => Some("is the appliance running, and does the cable lead to its network?".into()),
            Error::Refused { hint, .. } => hint.clone(),
            Error::Authority { .. } => Some("another appliance answers at this address, or the site was made anew: start the machine from the network again".into()),
            Error::Answer { .. } | Error::Setup(_) => None,
        }
    }
}
