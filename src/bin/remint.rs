//! The appliance and its command line.

fn main() {}
