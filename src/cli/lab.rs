//! `remint lab ...`

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;

use super::context::Context;
use super::{Failure, output};
use crate::lab::run::{self, Arrival, Lab};
use crate::lab::scenario::Scenario;

#[derive(Subcommand)]
pub(super) enum Command {
    /// Switch QEMU machines on, on a private network, and boot them from the network against an appliance
    Run(Run),
}

#[derive(Args)]
pub(super) struct Run {
    /// The lab's description (TOML; docs/guide/lab.md)
    file: PathBuf,
    /// Keeps disks, serial consoles, logs and the timeline [default: FILE with the ending `.run`]
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// When all machines are there, leave everything running until Ctrl-C
    #[arg(long)]
    keep: bool,
}

pub(super) fn run(command: Command, context: &Context) -> Result<(), Failure> {
    let Command::Run(arguments) = command;
    let scenario = Scenario::open(&arguments.file)?;
    let folder = arguments.folder.clone().unwrap_or_else(|| arguments.file.with_extension("run"));
    let program = std::env::current_exe().map_err(|error| Failure::new(format!("find this program: {error}")))?;
    let quiet = context.json();
    let mut lab = Lab::open(&scenario, &program, &folder, move |event| {
        if !quiet {
            output::line(event.to_string());
        }
    })?;
    let console = (scenario.console_port != 0).then(|| lab.forward_console(scenario.console_port)).transpose()?;
    if let (Some(address), false) = (console, quiet) {
        output::line(format!("           console      https://{address}"));
    }
    let arrivals = run::run(&mut lab, &scenario)?;
    report(&arrivals, &folder, context)?;
    if arguments.keep {
        keep(console);
    }
    Ok(())
}

fn report(arrivals: &[Arrival], folder: &Path, context: &Context) -> Result<(), Failure> {
    if context.json() {
        let entry = |arrival: &Arrival| json!({ "machine": arrival.machine, "seconds": arrival.after.as_secs_f64(), "record": arrival.record });
        return output::json(&arrivals.iter().map(entry).collect::<Vec<_>>());
    }
    for arrival in arrivals {
        let state = arrival.record["state"].as_str().unwrap_or_default();
        output::line(format!("{} is {state} {:.0} s after power on", arrival.machine, arrival.after.as_secs_f64()));
    }
    output::line(format!("Serial consoles, logs and the timeline are in {}", folder.display()));
    Ok(())
}

/// The lab ends with this process, which Ctrl-C ends.
fn keep(console: Option<SocketAddr>) {
    let place = console.map(|address| format!("; the console is at https://{address}")).unwrap_or_default();
    output::line(format!("Everything keeps running until Ctrl-C{place}"));
    loop {
        std::thread::park();
    }
}
