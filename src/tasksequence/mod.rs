//! Task sequences: what a machine goes through, written down so that it can be read, checked, planned and resumed.
//!
//! A person writes YAML; `parser` reports everything that is wrong with it at once, each with its line and column, and
//! yields a `model::Sequence`. The machine gets that as JSON inside a `link::RunOrder`; `run::drive` is the one loop that
//! carries it out, in the boot environment and in the installed system alike.
//!
//! Invariants:
//! - `engine` is pure. Its state is the journal and nothing else, so a run resumes wherever its journal ends.
//! - *started* is in the journal before a step runs, *finished* is in it before anybody is told.
//! - A step is `check -> apply -> verify`. An interrupted step is looked at before it is done again; one that cannot
//!   be done twice and cannot be looked at fails, and says so.
//! - Steps touch the machine only through `host::Host`; the engine does not know what a disk is.
//! - A step is one file and one row in `steps::TABLE`; parser, schema, plan and reference are made from the rows.
//!
//! Absent: shells, and strings that one would be given. Read next: `model`, then `engine`, then `steps/mod.rs`.

#[cfg(feature = "server")]
pub mod api;
#[cfg(feature = "server")]
pub mod board;
pub mod capture;
pub mod condition;
#[cfg(feature = "server")]
pub mod console;
#[cfg(feature = "server")]
pub mod db;
#[cfg(feature = "server")]
pub mod deployment;
#[cfg(feature = "server")]
pub mod editor;
pub mod engine;
pub mod event;
pub mod facts;
pub mod firmware;
pub mod fstab;
#[cfg(feature = "server")]
pub mod grant;
pub mod host;
pub mod journal;
pub mod layout;
pub mod link;
pub mod model;
#[cfg(feature = "server")]
pub mod parser;
pub mod plan;
pub mod quantity;
#[cfg(feature = "server")]
pub mod reference;
#[cfg(feature = "server")]
mod report;
pub mod run;
#[cfg(feature = "server")]
pub mod schema;
#[cfg(feature = "server")]
mod spelling;
pub mod steps;
pub mod story;
#[cfg(feature = "server")]
pub mod variable;
#[cfg(feature = "server")]
mod yaml;

#[cfg(test)]
mod scripted;
#[cfg(test)]
mod tests;
