//! What machines say about what they are made of and what is installed on them.

use serde::{Deserialize, Serialize};

use super::model::{Hardware, Software};
use crate::link::Message;
use crate::stdx::time::Timestamp;

/// A part that is left out has not changed since it was last taken.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ReportInventory {
    pub at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hardware: Option<Hardware>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub software: Option<Software>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct InventoryTaken {}

impl Message for ReportInventory {
    const PATH: &'static str = "/link/v1/inventory";
    type Reply = InventoryTaken;
}
