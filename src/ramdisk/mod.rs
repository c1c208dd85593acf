//! The boot environment: what runs between the network card and the installed system.
//!
//! `remint-agent` is the first process (`init`): it mounts what a program needs, starts itself a second time as the worker
//! and from then on only reaps and waits, so that whatever happens to the worker, a person in front of the machine reads
//! why and the machine restarts. The worker loads the drivers this hardware asks for (`drivers`), finds an address
//! (`network`, `lease`), checks in, waits for approval and carries out its run (`run`), and says all along on every
//! console what is going on and what to do (`screen`, `terminal`).
//!
//! Absent: no shell (but for debugging, where the boot environment was built with one), no udev, no name resolution, no secret. Everything the worker trusts comes from the kernel command
//! line's digest of the site's authority (`cmdline`).

pub mod carry;
pub mod clock;
pub mod cmdline;
pub mod drivers;
pub mod init;
pub mod lease;
pub mod network;
pub mod plug;
pub mod run;
pub mod screen;
pub mod shell;
pub mod terminal;
mod trial;
