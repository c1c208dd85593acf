//! Letting machines in: what a person compares before saying yes. The decision and the record are in [`super::db`].

pub mod console;
