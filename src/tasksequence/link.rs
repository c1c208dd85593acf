//! What machines and the appliance say about runs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::link::Message;
use crate::stdx::time::Timestamp;

use super::event::{Directive, Line, StepProgress};
use super::facts::Facts;
use super::host::Place;
use super::journal::Entry;
use super::model::{ItemId, Sequence, Values};

crate::text_id!(
    /// One machine carrying out one deployment.
    RunId
);

/// A run as its machine gets it: all that is needed to carry it out, and how far it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunOrder {
    pub run: RunId,
    pub sequence: Sequence,
    /// SHA-256 of the sequence, see `Sequence::version`.
    pub version: String,
    /// Given by the deployment, the machine, its collections and the site, the strongest already chosen.
    #[serde(default)]
    pub variables: Values,
    /// Every image that the sequence may apply.
    #[serde(default)]
    pub images: Vec<ImageGrant>,
    pub machine: Facts,
    /// The run stops before each step until it is told to go on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub debug: bool,
    /// The journal as the appliance holds it.
    #[serde(default)]
    pub journal: Vec<Entry>,
}

/// An image version that this run may fetch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageGrant {
    /// As the sequence names it: `debian-lab`, `debian-lab@stable`.
    pub reference: String,
    pub name: String,
    /// SHA-256 of the signed manifest.
    pub version: String,
    /// Bytes of the smallest disk that takes it.
    pub disk_bytes: u64,
    /// Bytes that are written.
    pub used_bytes: u64,
    /// Files for the file systems that `format` made, and not a disk.
    #[serde(default)]
    pub tree: bool,
}

/// Asks for the run that is due on the machine that asks.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FetchRun {
    pub place: Place,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct FetchRunReply {
    #[serde(default)]
    pub order: Option<Box<RunOrder>>,
    /// A run is due that begins elsewhere: restart into this.
    #[serde(default)]
    pub restart: Option<Place>,
    /// Why there is nothing to do, where a technician should know.
    #[serde(default)]
    pub notice: Option<String>,
}

/// What happened since. Sent again it changes nothing: entries and lines are known by their numbers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PostEvents {
    pub run: RunId,
    /// Number of the first of `journal`.
    pub journal_from: u64,
    #[serde(default)]
    pub journal: Vec<Entry>,
    /// Lines are numbered from 0 in each boot.
    pub boot: String,
    pub lines_from: u64,
    #[serde(default)]
    pub lines: Vec<Line>,
    #[serde(default)]
    pub progress: Option<StepProgress>,
    /// The machine restarts now, into this: what it is to boot next.
    #[serde(default)]
    pub restart: Option<Place>,
    pub sent_at: Timestamp,
}

/// How far the appliance has it. A machine goes on sending from there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EventsReply {
    pub journal: u64,
    pub lines: u64,
    pub directive: Directive,
    /// What people have answered to the questions of steps.
    #[serde(default)]
    pub answers: BTreeMap<ItemId, Value>,
}

/// Asks for the secrets that a step of the run needs, right before it runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AskSecrets {
    pub run: RunId,
    pub item: ItemId,
}

/// Secrets on their way to the step that needs them. Nothing shows them.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct Secrets {
    #[serde(default)]
    pub values: Values,
}

impl Message for AskSecrets {
    const PATH: &'static str = "/link/v1/run-secrets";
    type Reply = Secrets;
}

/// Answered with so many bytes that say nothing, by which a machine measures its network.
pub const THROUGHPUT_PATH: &str = "/link/v1/throughput";
pub const THROUGHPUT_BYTES: u64 = 4 << 20;

impl Message for FetchRun {
    const PATH: &'static str = "/link/v1/run";
    type Reply = FetchRunReply;
}

impl Message for PostEvents {
    const PATH: &'static str = "/link/v1/run-events";
    type Reply = EventsReply;
}
