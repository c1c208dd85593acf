//! Network boot: which machine gets which boot program, script and files.
//!
//! The promise: who has read [`boot::decide`] has read the product's netboot. Everything else turns packets and URLs
//! into its input ([`client`]) or its output into DHCP fields ([`answer`]) and into iPXE and GRUB scripts ([`script`]), or lets
//! a person choose first ([`menu`]).
//! Where firmware has a will of its own, the item for it is in [`quirks`].
//! Names that clients ask for are looked up in a table in memory ([`local`]); no path is ever made from them.
//!
//! MAC addresses and UUIDs are hints: what they lead to is public (the boot environment, the local disk), and no secret is
//! in a reply, a script or a boot file. The first hop has no authentication; docs/boot.md says what that means.
//!
//! PXE 2.1, RFC 4578 (options), RFC 3617 (tftp URLs), UEFI 2.10 section 24 (PXE and HTTP Boot), TFTP: see [`tftp`].
//! docs/boot.md tells the exchange as a story with each deviation and the firmware that needs it.

pub mod answer;
pub mod api;
pub mod boot;
pub mod client;
pub mod console;
pub mod local;
pub mod menu;
pub mod names;
pub mod password;
pub mod quirks;
pub mod recorder;
pub mod script;
pub mod tftp;
