//! The machines of a site: who they are, what state they are in, which collections hold them, what they boot next.
//!
//! A machine is recognised by scored evidence ([`identity`]), never by one address. It is known from its first check-in,
//! gets a certificate when a person or a [`rule`] approves it, and keeps its record when it is imaged anew. A check-in
//! brings the key that the machine has just made; approval is for that key, so a known name or serial number alone opens
//! nothing. The pairing code on the machine's screen is computed from the key at both ends.
//!
//! [`directory`] is what the packet path reads: in memory, no SQL for a packet. Absent: DHCP, images, steps.

pub mod deployment;
pub mod directory;
pub mod enrolment;
pub mod identity;
pub mod link;
pub mod machine;
pub mod pairing;

#[cfg(feature = "server")]
pub mod api;
#[cfg(feature = "server")]
pub mod approval;
#[cfg(feature = "server")]
pub mod collection;
#[cfg(feature = "server")]
pub mod console;
#[cfg(feature = "server")]
pub mod db;
#[cfg(feature = "server")]
pub mod question;
#[cfg(feature = "server")]
pub mod room;
#[cfg(feature = "server")]
pub mod rule;
#[cfg(feature = "server")]
pub mod wake;

pub use machine::{MachineId, MachineState, NextBoot};
