//! Requests that are done once however often they are sent: a key that the caller chose, and the answer that it got.

pub mod db;
