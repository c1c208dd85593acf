//! `remint audit ...`

use clap::Subcommand;
use serde_json::{Value, json};

use super::context::Context;
use super::{Failure, output};
use crate::stdx::time::Timestamp;

#[derive(Subcommand)]
pub(super) enum Command {
    /// List what was done and by whom, newest first
    List {
        /// Entries at most
        #[arg(long, default_value_t = 50)]
        most: u32,
    },
    /// Follow the chain of hashes from the first entry to the last
    Verify {
        /// Also: this entry, as `remint audit head` gave it earlier, is still the same (NUMBER:HASH)
        #[arg(long)]
        anchor: Option<String>,
    },
    /// Print the last entry's number and hash, to be kept elsewhere
    Head,
}

pub(super) fn run(command: Command, context: &Context) -> Result<(), Failure> {
    match command {
        Command::List { most } => list(most, context),
        Command::Verify { anchor } => verify(anchor.as_deref(), context),
        Command::Head => {
            let head: Value = context.api()?.get("/api/v1/audit/head")?;
            if context.json() {
                return output::json(&head);
            }
            output::line(format!("{}:{}", head["number"], head["hash"].as_str().unwrap_or_default()));
            Ok(())
        }
    }
}

fn list(most: u32, context: &Context) -> Result<(), Failure> {
    let entries: Vec<Value> = context.api()?.get(&format!("/api/v1/audit?limit={most}"))?;
    if context.json() {
        return output::json(&entries);
    }
    let rows = entries.iter().map(|entry| {
        let text = |field: &str| entry[field].as_str().unwrap_or_default().to_owned();
        let at = output::time(Timestamp::from_milliseconds(entry["at"].as_i64().unwrap_or_default()));
        vec![entry["number"].to_string(), at, text("who"), text("what"), text("on_what"), text("detail")]
    });
    output::table(&["NUMBER", "AT", "WHO", "WHAT", "ON WHAT", "DETAIL"], rows.collect(), "Nothing was done yet.");
    Ok(())
}

fn verify(anchor: Option<&str>, context: &Context) -> Result<(), Failure> {
    let answer: Value = context.api()?.post("/api/v1/audit/verify", &json!({ "anchor": anchor }))?;
    if answer["whole"] != true {
        let reason = answer["reason"].as_str().unwrap_or("it is broken").to_owned();
        return Err(Failure::new(format!("verify the audit log: {reason}"))
            .with_hint("restore a backup beside this site and compare: entries were changed or removed"));
    }
    if context.json() {
        return output::json(&answer);
    }
    output::line(format!("the audit log is whole: {} entries", answer["entries"]));
    Ok(())
}
