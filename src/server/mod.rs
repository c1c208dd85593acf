//! Wiring: the one place that knows that everything runs in one process.
//!
//! [`site::Site`] opens the site's folder; [`assemble`] puts the subjects' routes into one table; [`appliance`] binds the
//! sockets and runs until it is told to stop. No decision is made here that a subject could make.

pub mod appliance;
pub mod assemble;
mod audit_head;
pub mod backup;
mod collections;
pub mod doctor;
pub mod health;
mod interface;
mod listen;
pub mod local;
pub mod metrics;
mod neighbours;
mod netboot;
mod sequences;
pub mod site;
mod store;
pub mod support;

pub use listen::serve_http;
