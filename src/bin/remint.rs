//! The appliance and its command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    remint::cli::run(std::env::args_os())
}
