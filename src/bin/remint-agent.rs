//! The program on the machines: `/init` of the boot environment, service of the installed system.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "this is where a person or systemd reads")]

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::channel;
use std::thread;

use nix::sys::signal::{SigSet, Signal};
use remint::agent::{join, service, state};
use remint::ramdisk;
use remint::stdx::hint::{Hint, chain};

const USAGE: &str = "usage: remint-agent service [--folder DIR] | status | --version
       remint-agent enrol https://ADDRESS[:PORT] SHA256-OF-THE-AUTHORITY [--http URL] [--folder DIR]
enrol reads an enrolment code from its input; with --folder it does not install the service";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let name = arguments.first().and_then(|path| path.rsplit('/').next()).unwrap_or_default();
    let rest: Vec<&str> = arguments.iter().skip(1).map(String::as_str).collect();
    match (name, rest.as_slice()) {
        ("modprobe", rest) => modprobe(rest),
        (_, ["ramdisk"]) => ExitCode::from(ramdisk::run::main().exit_code()),
        _ if std::process::id() == 1 => ramdisk::init::main(),
        (_, ["service"]) => serve(Path::new(state::FOLDER)),
        (_, ["service", "--folder", folder]) => serve(Path::new(folder)),
        (_, ["status"]) => status(),
        (_, ["enrol", server, authority, options @ ..]) => enrol(server, authority, options),
        (_, ["--version"]) => {
            println!("remint-agent {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        (_, ["--help"]) => {
            println!("{USAGE}");
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

/// `modprobe -q -- ALIAS`, as the kernel calls it.
fn modprobe(arguments: &[&str]) -> ExitCode {
    let mut aliases = arguments.iter().filter(|word| !word.starts_with('-'));
    if aliases.all(|alias| ramdisk::drivers::modprobe(alias).is_ok()) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Ends after the task under way when systemd says so.
fn serve(folder: &Path) -> ExitCode {
    let stop = Arc::new(AtomicBool::new(false));
    let mut ending = SigSet::empty();
    ending.add(Signal::SIGTERM);
    ending.add(Signal::SIGINT);
    if let Err(error) = ending.thread_block() {
        eprintln!("failed to take over signals: {error}");
        return ExitCode::FAILURE;
    }
    let told = stop.clone();
    thread::spawn(move || {
        let _ = ending.wait();
        told.store(true, Relaxed);
    });
    report(service::main(folder, &stop, &|line| println!("{line}")))
}

fn enrol(server: &str, authority: &str, options: &[&str]) -> ExitCode {
    let (mut http, mut folder) = (None, None);
    for option in options.chunks(2) {
        match option {
            ["--http", url] => http = Some(*url),
            ["--folder", path] => folder = Some(Path::new(*path)),
            _ => {
                eprintln!("{USAGE}");
                return ExitCode::from(2);
            }
        }
    }
    let (sender, typed) = channel();
    thread::spawn(move || std::io::stdin().lines().map_while(Result::ok).for_each(|line| drop(sender.send(line))));
    let site = join::Site { server, authority, http };
    let path = folder.unwrap_or(Path::new(state::FOLDER));
    let done = join::enrol(&site, path, &typed, &mut |line| println!("{line}")).and_then(|identity| {
        println!("enrolled as {}", identity.name);
        if folder.is_none() { join::install_service(&identity) } else { Ok(()) }
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("failed to {}", chain(&error));
            error.hint().into_iter().for_each(|hint| eprintln!("hint: {hint}"));
            ExitCode::FAILURE
        }
    }
}

fn status() -> ExitCode {
    report(service::status(Path::new(state::FOLDER), &mut |line| println!("{line}")))
}

fn report(done: Result<(), service::ServiceError>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("failed to {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}
