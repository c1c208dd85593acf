//! Wiring: the one place that knows that everything runs in one process.
//!
//! [`site::Site`] opens the site's folder; [`assemble`] puts the subjects' routes into one table; [`appliance`] binds the
//! sockets and runs until it is told to stop. No decision is made here that a subject could make.

pub mod appliance;
pub mod assemble;
mod audit_head;
pub mod backup;
mod collections;
mod interface;
mod listen;
pub mod local;
mod netboot;
mod sequences;
pub mod site;
mod store;

pub use listen::serve_http;
