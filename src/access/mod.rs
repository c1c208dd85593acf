//! Who may do what: people, roles, API tokens, machine certificates, the site's authority and keys, the audit chain.
//!
//! Whoever calls the appliance is one [`Principal`]. People and tokens have roles, a role is a set of [`Capability`]s, and
//! each route of the table in `api` names the one that it needs. Machines are known by a certificate that the site's
//! authority issued for a key made on the machine. Secrets are [`secret::Secret`]: nothing prints them by accident;
//! at rest they are sealed by the [`vault`], whose key lies outside the database.
//!
//! Invariants: tokens and session cookies are stored as SHA-256 only; passwords as Argon2id; the authority's key never
//! leaves `keys/`; the audit log is only appended to and each entry carries the hash of the one before.

mod principal;
pub mod secret;
pub mod signing;

#[cfg(feature = "server")]
pub mod audit;
#[cfg(feature = "server")]
pub mod authority;
#[cfg(feature = "server")]
pub mod db;
#[cfg(feature = "server")]
pub mod password;
#[cfg(feature = "server")]
pub mod replay;
#[cfg(feature = "server")]
pub mod vault;

pub use principal::{Capability, Limits, Principal, Role};
