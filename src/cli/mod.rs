//! The command line: one file a subcommand, each parses, calls and prints.
//!
//! Commands speak to the people's API, so that all of them work on a far appliance (`--server` with `REMINT_TOKEN`), on
//! the running appliance of this host (its control socket in the site folder) and on a site whose appliance is not
//! running (the same router, in this process). [`context::Context::api`] hides which of the three it is. What needs the
//! site's own files (import of a local image, `serve`, `boot build`) opens the folder.
//!
//! Exit status: 0 done, 1 failed (the reason on stderr, one line first, then the hint), 2 wrong usage.

#![expect(clippy::print_stderr, reason = "the edge: what failed goes to stderr")]

pub mod context;
mod failure;
mod generate;
pub mod output;

mod apply;
mod audit;
mod backup;
mod baseline;
mod boot;
mod boots;
mod collection;
mod deploy;
mod doctor;
mod enrolment;
mod image;
mod init;
mod inventory;
mod lab;
mod machine;
mod package;
mod progress;
mod sequence;
mod serve;
mod store;
mod support;
mod token;
mod tree;
mod user;
mod variable;
mod wim;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use context::{Context, Place};
pub use failure::Failure;

/// Network-boot appliance: puts an operating system on bare metal and keeps it managed.
#[derive(Parser)]
#[command(name = "remint", version, max_term_width = 110, arg_required_else_help = true)]
struct Arguments {
    #[command(flatten)]
    place: Place,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a site: database, keys, authority
    Init(init::Arguments),
    /// Run the appliance: DHCP, TFTP, HTTP, HTTPS, console
    Serve(serve::Arguments),
    /// What would keep machines from booting: network, ports, other DHCP servers, boot files, clock, store
    Doctor,
    /// What somebody elsewhere needs to understand a fault: state, log, findings, without secrets
    Support(support::Arguments),
    /// Copy the whole site, also while it runs
    Backup(backup::Backup),
    /// Make a site from a backup
    Restore(backup::Restore),
    /// The boot environment: kernel, initramfs and boot programs
    #[command(subcommand)]
    Boot(boot::Command),
    /// Machines: who is there, who wants in
    #[command(subcommand)]
    Machine(machine::Command),
    /// How machines get in: codes, expected machines
    #[command(subcommand)]
    Enrolment(enrolment::Command),
    /// Named groups of machines
    #[command(subcommand)]
    Collection(collection::Command),
    /// Task sequences: check, plan, publish
    #[command(subcommand)]
    Sequence(sequence::Command),
    /// Values and secrets for the variables of task sequences
    #[command(subcommand)]
    Variable(variable::Command),
    /// Sequences on machines: start, watch, pause, cancel
    #[command(subcommand)]
    Deploy(deploy::Command),
    /// Software packages
    #[command(subcommand)]
    Package(package::Command),
    /// The software that machines must have, and whether they do
    #[command(subcommand)]
    Baseline(baseline::Command),
    /// What machines are made of and what is installed on them
    #[command(subcommand)]
    Inventory(inventory::Command),
    /// People who may log in
    #[command(subcommand)]
    User(user::Command),
    /// API tokens for programs
    #[command(subcommand)]
    Token(token::Command),
    /// What was done and by whom, in a log that cannot be changed unseen
    #[command(subcommand)]
    Audit(audit::Command),
    /// Images: import, publish, apply, compare
    #[command(subcommand)]
    Image(image::Command),
    /// The content store: what lies in it, its health, its garbage
    #[command(subcommand)]
    Store(store::Command),
    /// QEMU machines on a private network, for demos and test benches
    #[command(subcommand)]
    Lab(lab::Command),
    /// Plain WIM and ESD files, without a site
    #[command(subcommand)]
    Wim(wim::Command),
    /// Completions for shells, manual pages
    #[command(subcommand, hide = true)]
    Generate(generate::Command),
}

/// What is wrong with words that should be a command, the program's name first; nothing is carried out.
pub fn mistake<'a>(words: impl IntoIterator<Item = &'a str>) -> Option<clap::Error> {
    Arguments::try_parse_from(words).err()
}

/// Runs the command that `arguments` (with the program's name first) ask for.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(usage) => {
            // Help and version go to stdout and are no failure.
            let _ = usage.print();
            return ExitCode::from(if usage.use_stderr() { 2 } else { 0 });
        }
    };
    let context = Context::new(arguments.place);
    match dispatch(arguments.command, &context) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn dispatch(command: Command, context: &Context) -> Result<(), Failure> {
    match command {
        Command::Init(arguments) => init::run(&arguments, context),
        Command::Serve(arguments) => serve::run(arguments, context),
        Command::Doctor => doctor::run(context),
        Command::Support(arguments) => support::run(&arguments, context),
        Command::Backup(arguments) => backup::back_up(&arguments, context),
        Command::Restore(arguments) => backup::restore(&arguments, context),
        Command::Boot(command) => boot::run(command, context),
        Command::Machine(command) => machine::run(command, context),
        Command::Enrolment(command) => enrolment::run(command, context),
        Command::Collection(command) => collection::run(command, context),
        Command::Sequence(command) => sequence::run(command, context),
        Command::Variable(command) => variable::run(command, context),
        Command::Deploy(command) => deploy::run(command, context),
        Command::Package(command) => package::run(command, context),
        Command::Baseline(command) => baseline::run(command, context),
        Command::Inventory(command) => inventory::run(command, context),
        Command::User(command) => user::run(command, context),
        Command::Token(command) => token::run(command, context),
        Command::Audit(command) => audit::run(command, context),
        Command::Image(command) => image::run(command, context),
        Command::Store(command) => store::run(command, context),
        Command::Lab(command) => lab::run(command, context),
        Command::Wim(command) => wim::run(command, context),
        Command::Generate(command) => generate::run(&command),
    }
}
