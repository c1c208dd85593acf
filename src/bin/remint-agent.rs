//! The program on the machines: `/init` of the boot environment, service of the installed system.

fn main() {}
