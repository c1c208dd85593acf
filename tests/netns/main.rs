//! Real clients against real sockets, between network namespaces. Needs root; what cannot run prints `skipped: why`.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test stops at the first surprise and says what it skips"
)]

mod appliance;
mod dhcp;
mod failures;
mod firmware;
mod hostile;
mod lan;
mod machine;
mod survey;
mod tftp;
mod wire;
