//! TFTP as firmware really speaks it: read only, from memory, names from a table.
//!
//! RFC 1350 (protocol), 2347 (options), 2348 (block size), 2349 (time-out and size), 7440 (windows). A transfer is a state
//! machine ([`session`]) that knows neither clock nor socket; [`socket`] runs one for each client.
//!
//! Absent: writing. A write request is refused as an access violation.

pub mod packet;
pub mod session;
pub mod socket;
