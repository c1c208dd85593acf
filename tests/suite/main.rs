//! All tests that need no root, in one binary.

mod formats;
mod routes;
