//! Rooms: where machines stand, so that a tile on the screen is where the machine is. A room has columns and rows; a
//! machine has at most one place. Nothing else depends on it.

pub mod api;
pub mod console;
pub mod db;

use serde::{Deserialize, Serialize};

use super::MachineId;

/// Places side by side; the stylesheet has as many.
pub const COLUMNS: u32 = 12;
pub const ROWS: u32 = 60;

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Room {
    pub name: String,
    pub seats: Vec<Seat>,
}

/// Where a machine stands; columns and rows count from 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Seat {
    pub machine: MachineId,
    pub column: u32,
    pub row: u32,
}

/// Where a machine is to stand.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    pub room: String,
    pub column: u32,
    pub row: u32,
}
