//! A machine's disk becomes an image: what the boot environment and the appliance say to each other about it.
//!
//! The machine reads what its file systems use, asks which of the chunks the site lacks (`link`), sends those, and hands in
//! the manifest, which the site signs and publishes (`api`). A run may publish only the images that its own sequence
//! names, and only while it is under way.
//!
//! Read next: `imaging::intake`, which is the loop at both ends.

#[cfg(feature = "server")]
pub mod api;
pub mod link;
