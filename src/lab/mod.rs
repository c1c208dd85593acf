//! QEMU machines on a private network, switched on and booted from the network for real against an appliance.
//!
//! It is the tests' engine, the demo's, and a tool for people with virtual test benches. `network` makes a network
//! namespace with a bridge (as root, or as an ordinary user in a user namespace), and beside it, when asked, a foreign
//! DHCP server that only gives addresses. `appliance` runs `remint serve` in it, `machine` runs QEMU with the firmware,
//! card, disk, TPM and identity that `scenario` describes, with KVM where it really works and emulation elsewhere (`accelerator`).
//! What comes out of a machine's serial console is kept and can be waited for (`console`); power is cut, the machine is
//! reset and its screen is photographed through `qmp`; when it is off, `disk` reads files inside its file systems.
//! `run` is `remint lab run`: a file with machines, until they reach a state.
//!
//! Invariants: nothing outside the private network is touched or reached; every process ends with the lab, also when the
//! lab is killed; every wait has a limit and says what was seen last. Absent: any knowledge of what a sequence does.

pub mod accelerator;
pub mod appliance;
pub mod console;
pub mod disk;
pub mod error;
pub mod machine;
pub mod network;
pub mod qmp;
pub mod run;
pub mod scenario;
pub mod timeline;
mod tpm;
