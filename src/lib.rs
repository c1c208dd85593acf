//! Remint puts an operating system on a machine that has nothing but a network card.
//!
//! Modules in reading order; ARCHITECTURE.md says which may use which, and `tests/tidy.rs` holds them to it.

pub mod stdx;
