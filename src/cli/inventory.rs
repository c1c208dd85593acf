//! `remint inventory ...`

use clap::Subcommand;
use serde_json::{Value, json};

use super::context::Context;
use super::{Failure, output};
use crate::inventory::db::{Dated, Kept};
use crate::inventory::model::{Hardware, Software};
use crate::inventory::query::{Answer, VIEWS};

#[derive(Subcommand)]
pub(super) enum Command {
    /// Ask the documented views with SQL, for instance: SELECT name, memory_bytes FROM machines
    Query { sql: String },
    /// List the views that can be asked, with their columns
    Views,
    /// Show a machine's hardware as JSON
    Hardware { machine: String },
    /// List a machine's installed software
    Software { machine: String },
    /// List what changed on a machine
    Changes { machine: String },
}

pub(super) fn run(command: Command, context: &Context) -> Result<(), Failure> {
    match command {
        Command::Query { sql } => query(&sql, context),
        Command::Views => {
            let rows = VIEWS.iter().map(|view| vec![view.name.to_owned(), view.about.to_owned()]);
            output::table(&["VIEW", "HOLDS"], rows.collect(), "");
            Ok(())
        }
        Command::Hardware { machine } => {
            let hardware: Kept<Hardware> = context.api()?.get(&format!("/api/v1/machines/{machine}/hardware"))?;
            output::json(&hardware)
        }
        Command::Software { machine } => software(&machine, context),
        Command::Changes { machine } => changes(&machine, context),
    }
}

fn query(sql: &str, context: &Context) -> Result<(), Failure> {
    let answer: Answer = context.api()?.post("/api/v1/inventory/query", &json!({ "sql": sql }))?;
    if context.json() {
        return output::json(&answer);
    }
    let headings: Vec<&str> = answer.columns.iter().map(String::as_str).collect();
    let rows = answer.rows.iter().map(|row| row.iter().map(cell).collect());
    output::table(&headings, rows.collect(), "no rows");
    if answer.truncated {
        output::line("(there are more rows; ask for fewer with WHERE or LIMIT)");
    }
    Ok(())
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn software(machine: &str, context: &Context) -> Result<(), Failure> {
    let software: Kept<Software> = context.api()?.get(&format!("/api/v1/machines/{machine}/software"))?;
    if context.json() {
        return output::json(&software);
    }
    let os = &software.what.os;
    output::line(format!("{}, kernel {}, as of {}", os.name, os.kernel, output::time(software.at)));
    let packages = software.what.packages.iter();
    let rows =
        packages.map(|package| vec![package.name.clone(), package.version.clone(), package.architecture.clone()]);
    output::table(&["PACKAGE", "VERSION", "ARCHITECTURE"], rows.collect(), "no packages");
    Ok(())
}

fn changes(machine: &str, context: &Context) -> Result<(), Failure> {
    let changes: Vec<Dated> = context.api()?.get(&format!("/api/v1/machines/{machine}/changes"))?;
    if context.json() {
        return output::json(&changes);
    }
    let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".into());
    let rows = changes.iter().map(|dated| {
        let change = &dated.change;
        vec![
            output::time(dated.at),
            change.subject.clone(),
            change.name.clone(),
            text(&change.before),
            text(&change.after),
        ]
    });
    output::table(
        &["AT", "SUBJECT", "WHAT", "BEFORE", "AFTER"],
        rows.collect(),
        "nothing has changed since it was first seen",
    );
    Ok(())
}
