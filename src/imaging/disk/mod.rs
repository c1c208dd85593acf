//! Disks as bytes: partition tables, containers, and what may be written to.
//!
//! `table` reads a GPT or an MBR from anything that can be read at offsets and lists its partitions in bytes. `fit` plans
//! what moves a table to a larger disk and grows one partition; `host` carries that out on a device and has the kernel
//! look again. `target` refuses disks that are in use.
//! `container` opens qcow2, VHD, VHDX, VMDK and the images of Clonezilla and FOG as the disk inside of them.
//!
//! Everything here reads hostile bytes: sizes are checked before they are used, chains are bounded, no number of a table
//! is trusted to lie on the disk.

#[cfg(feature = "server")]
pub mod container;
pub mod fit;
pub mod gpt;
pub mod guid;
pub mod host;
pub mod mbr;
pub mod table;
pub mod target;

#[cfg(feature = "server")]
pub use container::{Format, Opened, open};
