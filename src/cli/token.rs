//! `remint token ...`

use clap::Subcommand;
use serde_json::{Value, json};

use super::context::Context;
use super::{Failure, output};
use crate::stdx::time::Timestamp;

#[derive(Subcommand)]
pub(super) enum Command {
    /// List API tokens
    List,
    /// Make an API token; it is shown once
    Create {
        name: String,
        #[arg(long, value_parser = ["read-only", "auditor", "technician", "deployer", "administrator"], default_value = "read-only")]
        role: String,
        /// Days until it ends; without it, never
        #[arg(long)]
        days: Option<u32>,
        /// Acting ends at the machines of this collection; may be given several times
        #[arg(long = "collection")]
        collections: Vec<String>,
        /// Only this of the role's capabilities, for instance deploy; may be given several times
        #[arg(long = "only")]
        capabilities: Vec<String>,
    },
    /// Remove an API token
    Remove { name: String },
}

pub(super) fn run(command: Command, context: &Context) -> Result<(), Failure> {
    match command {
        Command::List => list(context),
        Command::Create { name, role, days, collections, capabilities } => {
            let given = |list: Vec<String>| (!list.is_empty()).then_some(list);
            let limits = json!({ "collections": given(collections), "capabilities": given(capabilities) });
            let body = json!({ "name": name, "role": role, "days": days, "limits": limits });
            let answer: Value = context.api()?.post("/api/v1/tokens", &body)?;
            if context.json() {
                return output::json(&answer);
            }
            output::line(answer["token"].as_str().unwrap_or_default());
            Ok(())
        }
        Command::Remove { name } => {
            context.api()?.delete(&format!("/api/v1/tokens/{name}"))?;
            output::line(format!("removed {name}"));
            Ok(())
        }
    }
}

fn list(context: &Context) -> Result<(), Failure> {
    let tokens: Vec<Value> = context.api()?.get("/api/v1/tokens")?;
    if context.json() {
        return output::json(&tokens);
    }
    let rows = tokens.iter().map(|token| {
        let text = |field: &str| token[field].as_str().unwrap_or_default().to_owned();
        let ends = token["expires_at"]
            .as_i64()
            .map_or_else(|| "never".into(), |at| output::time(Timestamp::from_milliseconds(at)));
        vec![text("name"), text("role"), ends]
    });
    output::table(&["NAME", "ROLE", "ENDS"], rows.collect(), "No tokens.");
    Ok(())
}
