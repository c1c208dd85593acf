//! `remint user ...`

use clap::Subcommand;
use serde_json::{Value, json};

use super::context::Context;
use super::{Failure, output};
use crate::access::Limits;

const ROLES: [&str; 5] = ["read-only", "auditor", "technician", "deployer", "administrator"];

#[derive(Subcommand)]
pub(super) enum Command {
    /// List people
    List,
    /// Make a one-time secret with which one person makes an account
    Invite {
        #[arg(long, value_parser = ROLES, default_value = "technician")]
        role: String,
        /// Hours until it ends
        #[arg(long, default_value_t = 24)]
        hours: u32,
    },
    /// Give a person another role, for all machines or for those of some collections
    Role {
        name: String,
        #[arg(value_parser = ROLES)]
        role: String,
        /// Acting ends at the machines of this collection; may be given several times
        #[arg(long = "collection")]
        collections: Vec<String>,
    },
    /// Remove a person
    Remove { name: String },
}

pub(super) fn run(command: Command, context: &Context) -> Result<(), Failure> {
    match command {
        Command::List => {
            let people: Vec<Value> = context.api()?.get("/api/v1/people")?;
            if context.json() {
                return output::json(&people);
            }
            let text = |person: &Value, field: &str| person[field].as_str().unwrap_or_default().to_owned();
            let rows = people.iter().map(|person| vec![text(person, "name"), text(person, "role")]);
            output::table(
                &["NAME", "ROLE"],
                rows.collect(),
                "No accounts yet: `remint user invite --role administrator`",
            );
            Ok(())
        }
        Command::Invite { role, hours } => {
            let answer: Value = context.api()?.post("/api/v1/invitations", &json!({ "role": role, "hours": hours }))?;
            if context.json() {
                return output::json(&answer);
            }
            let secret = answer["invitation"].as_str().unwrap_or_default();
            output::line(format!(
                "Open https://ADDRESS/welcome#{secret} within {hours} hours to make the account ({role})."
            ));
            Ok(())
        }
        Command::Role { name, role, collections } => {
            let collections = (!collections.is_empty()).then_some(collections);
            let limits = Limits { collections, ..Limits::default() };
            let body = json!({ "role": role, "limits": limits });
            context.api()?.put::<Value>(&format!("/api/v1/people/{name}"), &body)?;
            output::line(format!("{name} is {role} now"));
            Ok(())
        }
        Command::Remove { name } => {
            context.api()?.delete(&format!("/api/v1/people/{name}"))?;
            output::line(format!("removed {name}"));
            Ok(())
        }
    }
}
