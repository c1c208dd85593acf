//! Packages and baselines: the software that a machine must have, and the proof that it has it.
//!
//! A [`model::Package`] is a versioned payload in the content store with typed rules: how it is detected, installed and
//! removed. A [`model::Baseline`] lists packages and [`setting`]s for all machines or for a collection, and when they may be
//! worked on ([`window`]). The machine's end is [`converge`]:
//! detect, fetch what is missing, install, detect again. Nothing counts as installed because an installer said so.
//!
//! Absent: shells. Programs are argument lists; a package's script is a file of its own archive.

#[cfg(feature = "server")]
pub mod api;
#[cfg(feature = "server")]
pub mod console;
#[cfg(feature = "agent")]
pub mod converge;
#[cfg(feature = "server")]
pub mod db;
#[cfg(feature = "agent")]
pub mod host;
pub mod link;
#[cfg(feature = "agent")]
pub mod memory;
pub mod model;
pub mod setting;
pub mod version;
pub mod window;
