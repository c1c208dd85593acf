//! Remint puts an operating system on a machine that has nothing but a network card.
//!
//! Modules in reading order; ARCHITECTURE.md says which may use which, and `tests/tidy.rs` holds them to it.

pub mod stdx;

// Kernels: one technology each.
#[cfg(feature = "server")]
pub mod db;

pub mod access;

pub mod link;

#[cfg(feature = "server")]
pub mod api;

#[cfg(feature = "server")]
pub mod console;

// The nouns.
pub mod fleet;

// Boot a machine.
pub mod dhcp;

#[cfg(feature = "server")]
pub mod pxe;

#[cfg(feature = "server")]
pub mod bootenv;

// Put a system on a machine.
pub mod imaging;

pub mod tasksequence;

// Look after it.
pub mod inventory;

pub mod software;

#[cfg(feature = "agent")]
pub mod agent;

#[cfg(feature = "agent")]
pub mod ramdisk;

// Put together.
#[cfg(feature = "server")]
pub mod config;

#[cfg(feature = "server")]
pub mod server;

#[cfg(feature = "server")]
pub mod lab;

#[cfg(feature = "server")]
pub mod cli;
