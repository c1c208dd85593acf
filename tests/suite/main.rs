//! All tests that need no root, in one binary.

mod configuration;
mod formats;
mod routes;
