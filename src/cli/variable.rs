//! `remint variable ...`

use std::io::Read;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::context::Context;
use super::{Failure, output};
use crate::tasksequence::variable::{Scope, VariableRecord};

#[derive(Subcommand)]
pub(super) enum Command {
    /// List the values that the site, collections and machines give to variables of task sequences
    List,
    /// Give a variable a value; the machine's is stronger than its collections', theirs than the site's
    Set {
        name: String,
        /// What reads as JSON is taken as that, the rest as text; without it the value is read from standard input
        value: Option<String>,
        #[command(flatten)]
        scope: ScopeArguments,
        /// Keep it sealed: it is shown to nobody, and each release to a step is in the audit log
        #[arg(long)]
        secret: bool,
    },
    /// Take a variable its value
    Remove {
        name: String,
        #[command(flatten)]
        scope: ScopeArguments,
    },
}

#[derive(Args)]
pub(super) struct ScopeArguments {
    /// For this machine [default: for all of the site]
    #[arg(long, conflicts_with = "collection")]
    machine: Option<String>,
    /// For the machines of this collection
    #[arg(long)]
    collection: Option<String>,
}

impl ScopeArguments {
    fn scope(self) -> Scope {
        match (self.machine, self.collection) {
            (Some(machine), _) => Scope::Machine(machine),
            (None, Some(collection)) => Scope::Collection(collection),
            (None, None) => Scope::Site,
        }
    }
}

pub(super) fn run(command: Command, context: &Context) -> Result<(), Failure> {
    match command {
        Command::List => list(context),
        Command::Set { name, value, scope, secret } => {
            let value = match value {
                Some(text) if secret => Value::from(text),
                Some(text) => serde_json::from_str(&text).unwrap_or_else(|_| Value::from(text)),
                None => Value::from(from_standard_input()?),
            };
            let scope = scope.scope();
            let given = json!({ "value": value, "secret": secret });
            let _: Value = context.api()?.put(&path(&scope, &name), &given)?;
            output::line(format!("{scope} gives {name} a value{}", if secret { ", which is sealed" } else { "" }));
            Ok(())
        }
        Command::Remove { name, scope } => {
            let scope = scope.scope();
            context.api()?.delete(&path(&scope, &name))?;
            output::line(format!("{scope} gives {name} no value any more"));
            Ok(())
        }
    }
}

/// The first line, so that a secret is in no shell's history and in no list of processes.
fn from_standard_input() -> Result<String, Failure> {
    let mut text = String::new();
    let read = std::io::stdin().take(1 << 20).read_to_string(&mut text);
    read.map_err(|error| Failure::new(format!("read the value from standard input: {error}")))?;
    Ok(text.strip_suffix('\n').unwrap_or(&text).to_owned())
}

fn path(scope: &Scope, name: &str) -> String {
    format!("/api/v1/variables/{}/{name}", super::sequence::escaped(&scope.to_string()))
}

fn list(context: &Context) -> Result<(), Failure> {
    let variables: Vec<VariableRecord> = context.api()?.get("/api/v1/variables")?;
    if context.json() {
        return output::json(&variables);
    }
    let rows = variables.iter().map(|variable| {
        let value = if variable.secret { "******".to_owned() } else { variable.value.to_string() };
        let (scope, by) = (variable.scope.to_string(), variable.changed_by.clone());
        vec![variable.name.clone(), value, scope, by, output::time(variable.changed_at)]
    });
    output::table(&["VARIABLE", "VALUE", "GIVEN BY", "SET BY", "SET AT"], rows.collect(), "No variables.");
    Ok(())
}
