//! What a machine is made of and what is installed on it, with history.
//!
//! The machine's end collects: `hardware` out of sysfs, procfs and the firmware's tables, `partitions` out of the disks'
//! first bytes, `software` out of the package manager's own files. Both read under a given root and start no program, so that a folder of files is a machine in a
//! test. The types are `model`'s; every field is optional or has a default, because firmware leaves out what it likes.
//!
//! Absent: anything that changes the machine.

#[cfg(feature = "server")]
pub mod api;
#[cfg(feature = "server")]
pub mod console;
#[cfg(feature = "server")]
pub mod db;
pub mod difference;
#[cfg(feature = "agent")]
pub mod hardware;
pub mod link;
#[cfg(feature = "agent")]
pub mod lldp;
pub mod model;
#[cfg(feature = "server")]
pub mod names;
#[cfg(feature = "agent")]
pub mod partitions;
#[cfg(feature = "server")]
pub mod query;
#[cfg(feature = "agent")]
pub mod running;
#[cfg(feature = "agent")]
pub mod smbios;
#[cfg(feature = "agent")]
pub mod software;
#[cfg(feature = "agent")]
pub mod tpm;
