//! `remint machine ...`

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::context::Context;
use super::{Failure, output};
use crate::fleet::machine::Machine;

#[derive(Subcommand)]
pub(super) enum Command {
    /// List machines
    List {
        /// Only those in this state: waiting, approved, deploying, managed, failed, rejected, retired
        #[arg(long)]
        state: Option<String>,
    },
    /// Show all that is known of a machine
    Show(Name),
    /// Let a machine in; compare the code on its screen first
    Approve(Name),
    /// Turn a machine away
    Reject(Name),
    /// End a machine's membership and revoke its certificates
    Retire(Name),
    /// Give a machine another name
    Rename {
        #[command(flatten)]
        name: Name,
        new: String,
    },
    /// Guard a machine against being erased, or lift the guard
    WipeGuard {
        #[command(flatten)]
        name: Name,
        #[arg(value_parser = ["on", "off"])]
        guard: String,
    },
}

#[derive(Args)]
pub(super) struct Name {
    /// Name or identifier of the machine
    machine: String,
}

pub(super) fn run(command: Command, context: &Context) -> Result<(), Failure> {
    match command {
        Command::List { state } => list(state.as_deref(), context),
        Command::Show(name) => show(&name, context),
        Command::Approve(name) => act(&name, "approve", "is approved", context),
        Command::Reject(name) => act(&name, "reject", "is rejected", context),
        Command::Retire(name) => act(&name, "retire", "is retired; its certificates are revoked", context),
        Command::Rename { name, new } => edit(&name, &json!({ "name": new }), context),
        Command::WipeGuard { name, guard } => edit(&name, &json!({ "protected": guard == "on" }), context),
    }
}

fn list(state: Option<&str>, context: &Context) -> Result<(), Failure> {
    let query = state.map(|state| format!("?state={state}")).unwrap_or_default();
    let machines: Vec<Machine> = context.api()?.get(&format!("/api/v1/machines{query}"))?;
    if context.json() {
        return output::json(&machines);
    }
    let rows = machines.iter().map(|machine| {
        let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
        vec![
            machine.name.clone(),
            machine.state.name().into(),
            text(&machine.pairing_code),
            text(&machine.address),
            text(&machine.identity.model),
            text(&machine.identity.system_serial),
            output::time(machine.seen_at),
        ]
    });
    let headings = ["NAME", "STATE", "CODE", "ADDRESS", "MODEL", "SERIAL", "SEEN"];
    output::table(
        &headings,
        rows.collect(),
        "No machine has checked in yet. Switch one on: it boots from the network.",
    );
    Ok(())
}

fn show(name: &Name, context: &Context) -> Result<(), Failure> {
    let machine: Value = context.api()?.get(&path(name, ""))?;
    output::json(&machine)
}

fn act(name: &Name, verb: &str, done: &str, context: &Context) -> Result<(), Failure> {
    let machine: Machine = context.api()?.post(&path(name, &format!("/{verb}")), &json!({}))?;
    report(&machine, done, context)
}

fn edit(name: &Name, edit: &Value, context: &Context) -> Result<(), Failure> {
    let machine: Machine = context.api()?.patch(&path(name, ""), edit)?;
    let guard = if machine.protected { "is guarded against being erased" } else { "may be erased by a deployment" };
    report(&machine, guard, context)
}

fn report(machine: &Machine, done: &str, context: &Context) -> Result<(), Failure> {
    if context.json() {
        return output::json(machine);
    }
    output::line(format!("{} {done}", machine.name));
    Ok(())
}

fn path(name: &Name, rest: &str) -> String {
    format!("/api/v1/machines/{}{rest}", name.machine)
}
