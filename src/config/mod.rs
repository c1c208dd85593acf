//! The site's configuration: as written in `remint.toml`, and as used.
//!
//! Every key has a default; without the file the appliance serves the one interface that has an IPv4 address, beside the
//! network's own DHCP server. `docs/reference/configuration.md` lists the keys and is held to [`written`] by a test.
//! [`used::resolve`] is pure: interfaces are an argument. Absent: reading the environment, and any socket.

pub mod menus;
mod scopes;
pub mod used;
pub mod written;

pub use used::{Interface, Used, resolve};
pub use written::Written;
