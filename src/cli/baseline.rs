//! `remint baseline ...`

use std::path::PathBuf;

use clap::Subcommand;
use serde_json::json;

use super::context::Context;
use super::package::document;
use super::{Failure, output};
use crate::software::db::Standing;
use crate::software::model::Baseline;
use crate::software::setting::Setting;

#[derive(Subcommand)]
pub(super) enum Command {
    /// Make a baseline what a YAML or TOML file says
    Apply { file: PathBuf },
    /// List baselines
    List,
    /// Show a baseline
    Show { baseline: String },
    /// Remove a baseline; what it installed stays
    Remove { baseline: String },
    /// Show how machines stand with their baselines, and why they fail
    Compliance {
        /// Only this machine
        machine: Option<String>,
    },
}

pub(super) fn run(command: Command, context: &Context) -> Result<(), Failure> {
    match command {
        Command::Apply { file } => {
            let baseline: Baseline = document(&file)?;
            let path = format!("/api/v1/baselines/{}", baseline.name);
            let stored: Baseline = context.api()?.put(&path, &json!(baseline))?;
            if context.json() {
                return output::json(&stored);
            }
            let asked: Vec<String> =
                stored.packages.iter().cloned().chain(stored.settings.iter().map(Setting::name)).collect();
            output::line(format!("{} asks for {} on {}", stored.name, asked.join(", "), stored.collection));
            Ok(())
        }
        Command::List => list(context),
        Command::Show { baseline } => {
            let baseline: Baseline = context.api()?.get(&format!("/api/v1/baselines/{baseline}"))?;
            output::json(&baseline)
        }
        Command::Remove { baseline } => {
            context.api()?.delete(&format!("/api/v1/baselines/{baseline}"))?;
            output::line(format!("removed {baseline}"));
            Ok(())
        }
        Command::Compliance { machine } => compliance(machine.as_deref(), context),
    }
}

fn list(context: &Context) -> Result<(), Failure> {
    let baselines: Vec<Baseline> = context.api()?.get("/api/v1/baselines")?;
    if context.json() {
        return output::json(&baselines);
    }
    let rows = baselines.iter().map(|baseline| {
        let mode = json!(baseline.mode).as_str().unwrap_or_default().to_owned();
        let settings = baseline.settings.iter().map(Setting::name).collect::<Vec<_>>().join(" ");
        vec![baseline.name.clone(), baseline.collection.clone(), mode, baseline.packages.join(" "), settings]
    });
    let nothing = "There are no baselines yet: `remint baseline apply FILE` makes one.";
    output::table(&["NAME", "COLLECTION", "MODE", "PACKAGES", "SETTINGS"], rows.collect(), nothing);
    Ok(())
}

fn compliance(machine: Option<&str>, context: &Context) -> Result<(), Failure> {
    let path = machine.map_or("/api/v1/compliance".into(), |machine| format!("/api/v1/machines/{machine}/compliance"));
    let standings: Vec<Standing> = context.api()?.get(&path)?;
    if context.json() {
        return output::json(&standings);
    }
    let rows = standings.iter().map(|standing| {
        let finding = &standing.finding;
        vec![
            standing.machine.clone(),
            finding.package.clone(),
            finding.version.clone(),
            finding.state.name().to_owned(),
            finding.reason.clone(),
            output::time(standing.at),
        ]
    });
    let nothing = "No machine has reported on a baseline yet.";
    output::table(&["MACHINE", "PACKAGE", "VERSION", "STATE", "REASON", "AT"], rows.collect(), nothing);
    Ok(())
}
