//! What machines fetch and report of their runs.
//!
//! Invariants: an entry of a journal and a line of a log are known by their numbers, so what is sent again changes
//! nothing; what follows from an entry is done after the transaction that keeps it.
//!
//! Read next: `tasksequence::link`, then `db`.

mod db;
