//! DHCP: the full server of an isolated lab, the proxy beside somebody else's server, and the packets of both.
//!
//! The promise: an address is reserved when it is offered, per client identity and never per transaction (simultaneous
//! OVMF guests use the same xid); a lease is on disk before its ACK leaves; the proxy answers nobody who did not ask to
//! boot. The decisions (`server`, `proxy`) are pure: time, interface and packet go in, a reply and a lease to store
//! come out. `socket` is the only file that knows a socket.
//!
//! Absent: any idea of what PXE is. What a machine boots comes out of the closure that `socket::serve` is given, as
//! header fields and options; `pxe::answer` is that closure.
//!
//! RFC 2131 (protocol), 2132 (options), 3046 (relay agents), 3396 (long options), 3527 (link selection), 6842 (client
//! identifier in replies). docs/rfc.md names the test of each clause, docs/boot.md tells the exchange as a story.

#[cfg(feature = "server")]
pub mod db;
#[cfg(feature = "server")]
pub mod lease;
pub mod packet;
#[cfg(feature = "server")]
pub mod proxy;
#[cfg(feature = "server")]
pub mod reply;
#[cfg(feature = "server")]
pub mod request;
#[cfg(feature = "server")]
pub mod scope;
#[cfg(feature = "server")]
pub mod server;
#[cfg(feature = "server")]
pub mod socket;
#[cfg(feature = "server")]
pub mod survey;
