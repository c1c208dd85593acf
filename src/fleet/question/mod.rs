//! Which machine is it? Questions that evidence cannot answer, and what a person's answer does.
//!
//! A board swap, a disk that moved, a vendor's number on every board: the machine waits as a record of its own until a
//! person says that it is one of the others (`merge`) or a new one, in which case what both have shown is learnt as shared.
//! A key that is used from two machines is stopped at once, for both: each makes a new key and waits for approval.

pub mod api;
pub mod db;
