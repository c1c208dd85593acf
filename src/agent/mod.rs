//! The agent: what the boot environment and the service of the installed system have in common, and that service.
//!
//! `enrol` makes the key and gets the machine let in, `renewal` keeps its certificate valid during a run, `report` tells the appliance how a run goes, `state` is the folder
//! that survives restarts, `service` is the one loop of the installed system, and `policy` decides what is due in it.
//! All of it is blocking code: an agent has one appliance to talk to.
//!
//! Invariants: the private key never leaves the machine; what is reported was written down before, so `kill -9` at any
//! instant loses no report; an appliance that is away is waited for, never given up.

pub mod baseline;
pub mod enrol;
pub mod images;
pub mod join;
pub mod policy;
pub mod renewal;
pub mod report;
pub mod service;
pub mod spool;
pub mod state;
pub mod surroundings;
