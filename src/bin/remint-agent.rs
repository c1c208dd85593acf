//! The program on the machines: `/init` of the boot environment, service of the installed system.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "this is where a person or systemd reads")]

use std::process::ExitCode;

use remint::ramdisk;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let name = arguments.first().and_then(|path| path.rsplit('/').next()).unwrap_or_default();
    let rest: Vec<&str> = arguments.iter().skip(1).map(String::as_str).collect();
    match (name, rest.as_slice()) {
        ("modprobe", rest) => modprobe(rest),
        (_, ["ramdisk"]) => {
            ramdisk::run::main();
            ExitCode::SUCCESS
        }
        _ if std::process::id() == 1 => ramdisk::init::main(),
        (_, ["--version"]) => {
            println!("remint-agent {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("usage: remint-agent --version");
            ExitCode::from(2)
        }
    }
}

/// `modprobe -q -- ALIAS`, as the kernel calls it.
fn modprobe(arguments: &[&str]) -> ExitCode {
    let loaded =
        arguments.iter().filter(|word| !word.starts_with('-')).all(|alias| ramdisk::drivers::modprobe(alias).is_ok());
    if loaded { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
