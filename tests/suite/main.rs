//! All tests that need no root, in one binary.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

#[cfg(feature = "agent")]
mod agent;
mod api;
mod archives;
mod bucket;
mod configuration;
mod corpus;
mod documents;
mod formats;
mod inventory;
mod monitoring;
mod pages;
mod routes;
mod sequence;
mod trees;
mod wim;
