//! `remint machine ...`

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::context::Context;
use super::{Failure, output};
use crate::fleet::machine::Machine;
use crate::stdx::time::Timestamp;

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
    /// What became of the boots of a machine, or of all, since the appliance started
    Boots {
        /// Name, identifier or MAC address of the machine
        machine: Option<String>,
    },
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
    /// Answer which machine it is that waits with a question
    Resolve(Answer),
    /// Say that a record is of the same machine as another one, which stays
    Merge {
        #[command(flatten)]
        name: Name,
        into: String,
    },
    /// Take two machines apart that share a record; `show` lists the sightings
    Split {
        #[command(flatten)]
        name: Name,
        #[arg(long)]
        sighting: i64,
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

#[derive(Args)]
#[group(required = true, multiple = false)]
pub(super) struct Answers {
    /// It is this machine, with another board or another disk
    #[arg(long, value_name = "MACHINE")]
    same_as: Option<String>,
    /// It is none of those it may be: what they have in common is lent or copied
    #[arg(long)]
    new: bool,
}

#[derive(Args)]
pub(super) struct Answer {
    #[command(flatten)]
    name: Name,
    #[command(flatten)]
    answer: Answers,
}

pub(super) fn run(command: Command, context: &Context) -> Result<(), Failure> {
    match command {
        Command::List { state } => list(state.as_deref(), context),
        Command::Show(name) => show(&name, context),
        Command::Boots { machine } => super::boots::run(machine, context),
        Command::Approve(name) => act(&name, "approve", "is approved", context),
        Command::Reject(name) => act(&name, "reject", "is rejected", context),
        Command::Retire(name) => act(&name, "retire", "is retired; its certificates are revoked", context),
        Command::Rename { name, new } => edit(&name, &json!({ "name": new }), context),
        Command::Resolve(Answer { name, answer: Answers { same_as: Some(into), .. } }) => merge(&name, &into, context),
        Command::Resolve(Answer { name, .. }) => act(&name, "is-new", "is a machine of its own", context),
        Command::Merge { name, into } => merge(&name, &into, context),
        Command::Split { name, sighting } => {
            let machine: Machine = context.api()?.post(&path(&name, "/split"), &json!({ "sighting": sighting }))?;
            report(&machine, "is a machine of its own; both make new keys and wait for approval", context)
        }
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

/// The whole record: the machine, its latest run with each step, hardware, software, how it stands with its baselines.
fn show(name: &Name, context: &Context) -> Result<(), Failure> {
    let api = context.api()?;
    let mut record: Value = api.get(&path(name, ""))?;
    let runs: Vec<Value> = api.get(&format!("/api/v1/runs?machine={}", name.machine))?;
    let newest = runs.first().and_then(|run| run["id"].as_str());
    record["run"] = newest.map(|id| api.get(&format!("/api/v1/runs/{id}"))).transpose()?.unwrap_or(Value::Null);
    if let Some(run) = record["run"].as_object_mut() {
        run.remove("journal");
    }
    for part in ["hardware", "software", "compliance", "sightings", "certificates"] {
        // A machine that has not reported yet has no such part.
        record[part] = api.get(&path(name, &format!("/{part}"))).unwrap_or(Value::Null);
    }
    if context.json() {
        return output::json(&record);
    }
    print_record(&record);
    Ok(())
}

fn print_record(record: &Value) {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let identity = &record["identity"];
    output::line(format!("{}  {}", text(&record["name"]), text(&record["state"])));
    output::line(format!(
        "  hardware    {} {}, serial {}",
        text(&identity["manufacturer"]),
        text(&identity["model"]),
        text(&identity["system_serial"])
    ));
    output::line(format!(
        "  address     {}, speaks from {}",
        text(&record["address"]),
        text(&record["stage"]).replace('-', " ")
    ));
    if let Some(code) = record["pairing_code"].as_str() {
        output::line(format!("  waits with the code {code}: `remint machine approve {}`", text(&record["name"])));
    }
    if let Some(notice) = record["notice"].as_str() {
        output::line(format!("  notice      {notice}"));
    }
    print_certificate(&record["certificates"][0]);
    print_sightings(&record["sightings"]);
    print_run(&record["run"]);
    print_software(record);
}

fn print_certificate(newest: &Value) {
    let time = |value: &Value| value.as_i64().map(|at| output::time(Timestamp::from_milliseconds(at)));
    match (time(&newest["expires_at"]), time(&newest["revoked_at"])) {
        (_, Some(revoked)) => output::line(format!("  certificate revoked {revoked}")),
        (Some(ends), None) => output::line(format!("  certificate ends {ends}")),
        (None, None) => {}
    }
}

/// Worth a line only where a machine has described itself in more than one way.
fn print_sightings(sightings: &Value) {
    let Some(sightings) = sightings.as_array().filter(|sightings| sightings.len() > 1) else { return };
    let rows = sightings.iter().map(|sighting| {
        let identity = &sighting["identity"];
        let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
        let list = |value: &Value| value.as_array().into_iter().flatten().map(text).collect::<Vec<_>>().join(" ");
        vec![
            String::new(),
            sighting["number"].to_string(),
            text(&identity["uuid"]),
            text(&identity["system_serial"]),
            list(&identity["disk_serials"]),
            text(&sighting["address"]),
            output::time(Timestamp::from_milliseconds(sighting["last_at"].as_i64().unwrap_or_default())),
        ]
    });
    output::table(&["", "SIGHTING", "UUID", "SERIAL", "DISKS", "ADDRESS", "LAST"], rows.collect(), "");
}

fn print_run(run: &Value) {
    let Some(sequence) = run["sequence"].as_str() else { return };
    output::line(format!("  run         {sequence}: {}", run["state"].as_str().unwrap_or("-")));
    let steps = run["steps"].as_array().into_iter().flatten();
    let rows = steps.map(|step| {
        let took =
            step["took_milliseconds"].as_f64().map_or_else(|| "-".into(), |took| format!("{:.1} s", took / 1000.0));
        let text = |field: &str| step[field].as_str().unwrap_or_default().to_owned();
        vec![String::new(), text("name"), text("state"), took, text("error")]
    });
    output::table(&["", "STEP", "STATE", "TOOK", "ERROR"], rows.collect(), "");
    for (label, field) in [("error", "error"), ("hint", "hint")] {
        if let Some(text) = run[field].as_str() {
            output::line(format!("  {label}: {text}"));
        }
    }
}

fn print_software(record: &Value) {
    let packages = record["software"]["what"]["packages"].as_array().map(Vec::len);
    if let Some(count) = packages {
        output::line(format!("  software    {count} packages installed"));
    }
    let standings = record["compliance"].as_array().into_iter().flatten();
    let rows = standings.map(|standing| {
        let text = |field: &str| standing[field].as_str().unwrap_or("-").to_owned();
        vec![String::new(), text("package"), text("version"), text("state"), text("reason")]
    });
    let rows: Vec<_> = rows.collect();
    if !rows.is_empty() {
        output::table(&["", "BASELINE", "VERSION", "STATE", "WHY"], rows, "");
    }
}

fn merge(name: &Name, into: &str, context: &Context) -> Result<(), Failure> {
    let machine: Machine = context.api()?.post(&path(name, "/merge"), &json!({ "into": into }))?;
    let waits = match machine.pairing_code {
        Some(_) => format!("; its new key waits: `remint machine approve {}`", machine.name),
        None => String::new(),
    };
    report(&machine, &format!("is the same machine{waits}"), context)
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
