//! `remint collection ...`

use clap::Subcommand;
use serde::Deserialize;
use serde_json::{Value, json};

use super::context::Context;
use super::{Failure, output};

#[derive(Subcommand)]
pub(super) enum Command {
    /// List collections
    List,
    /// Show a collection's machines
    Show { collection: String },
    /// Make a collection, or set its machines anew
    Create {
        collection: String,
        /// What it is for
        #[arg(long, default_value = "")]
        note: String,
        /// A query whose first column names machines, for instance: SELECT id FROM machines WHERE firmware = 'uefi'
        #[arg(long)]
        query: Option<String>,
        /// With --query: a machine that is not in it whatever the query finds; may be given several times
        #[arg(long)]
        exclude: Vec<String>,
        /// Its machines; with --query those that are in it whatever the query finds
        machines: Vec<String>,
    },
    /// Remove a collection; its machines stay
    Remove { collection: String },
}

#[derive(Deserialize, serde::Serialize)]
struct Collection {
    name: String,
    note: String,
    query: Option<String>,
    error: Option<String>,
    machines: Vec<Value>,
    #[serde(flatten)]
    rest: serde_json::Map<String, Value>,
}

pub(super) fn run(command: Command, context: &Context) -> Result<(), Failure> {
    match command {
        Command::List => list(context),
        Command::Show { collection } => {
            show(&context.api()?.get(&format!("/api/v1/collections/{collection}"))?, context)
        }
        Command::Create { collection, note, query, exclude, machines } => {
            let body = json!({ "note": note, "query": query, "exclude": exclude, "machines": machines });
            show(&context.api()?.put(&format!("/api/v1/collections/{collection}"), &body)?, context)
        }
        Command::Remove { collection } => {
            context.api()?.delete(&format!("/api/v1/collections/{collection}"))?;
            output::line(format!("removed {collection}"));
            Ok(())
        }
    }
}

fn list(context: &Context) -> Result<(), Failure> {
    let collections: Vec<Collection> = context.api()?.get("/api/v1/collections")?;
    if context.json() {
        return output::json(&collections);
    }
    let rows = collections.iter().map(|c| vec![c.name.clone(), c.machines.len().to_string(), c.note.clone()]);
    output::table(&["NAME", "MACHINES", "NOTE"], rows.collect(), "");
    Ok(())
}

fn show(collection: &Collection, context: &Context) -> Result<(), Failure> {
    if context.json() {
        return output::json(collection);
    }
    if let Some(query) = &collection.query {
        output::line(query);
    }
    if let Some(error) = &collection.error {
        output::line(format!("the query could not be asked: {error}"));
    }
    let rows = collection.machines.iter().map(|machine| vec![machine["name"].as_str().unwrap_or_default().to_owned()]);
    output::table(&[&collection.name.to_uppercase()], rows.collect(), &format!("{} has no machines", collection.name));
    Ok(())
}
