//! `remint enrolment ...`

use std::fs;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::context::Context;
use super::{Failure, output};
use crate::fleet::enrolment::code::{Listed, Terms};
use crate::fleet::enrolment::expected::{self, Expected};

#[derive(Subcommand)]
pub(super) enum Command {
    /// Make a code that lets machines in: type it on the machine's screen while it waits
    Code(NewCode),
    /// List the codes that still let somebody in
    Codes,
    /// End the codes with this label
    End { label: String },
    /// Import a list of machines that are let in when they come: CSV with the columns serial, tpm_key, name, collections, deploy
    Expect { file: PathBuf },
    /// List the machines that are let in when they come
    Expected {
        /// Empty the list
        #[arg(long)]
        clear: bool,
    },
    /// List what several machines have shown and no longer tells them apart
    Shared {
        /// Let this piece count again, for instance: --trust mac 52:54:00:aa:00:01
        #[arg(long, num_args = 2, value_names = ["KIND", "VALUE"])]
        trust: Option<Vec<String>>,
    },
}

#[derive(Args)]
pub(super) struct NewCode {
    /// For whom or what it is; it stands in the audit log
    #[arg(long)]
    label: String,
    /// How many machines it lets in
    #[arg(long, default_value_t = 1)]
    uses: u32,
    /// Hours until it ends
    #[arg(long, default_value_t = 24)]
    hours: u32,
    /// Collection that a new machine joins; may be given several times
    #[arg(long = "collection")]
    collections: Vec<String>,
    /// Task sequence that a new machine gets at once
    #[arg(long)]
    deploy: Option<String>,
}

pub(super) fn run(command: Command, context: &Context) -> Result<(), Failure> {
    match command {
        Command::Code(code) => make_code(code, context),
        Command::Codes => codes(context),
        Command::End { label } => {
            context.api()?.delete(&format!("/api/v1/enrolment-codes/{label}"))?;
            output::line(format!("the codes of {label} let nobody in any more"));
            Ok(())
        }
        Command::Expect { file } => expect(&file, context),
        Command::Expected { clear: true } => {
            context.api()?.delete("/api/v1/expected-machines")?;
            output::line("nobody is expected any more");
            Ok(())
        }
        Command::Expected { clear: false } => list_expected(context),
        Command::Shared { trust } => shared(trust.as_deref(), context),
    }
}

fn make_code(code: NewCode, context: &Context) -> Result<(), Failure> {
    let NewCode { label, uses, hours, collections, deploy } = code;
    let terms = Terms { label, uses, hours, collections, deploy };
    let answer: Value = context.api()?.post("/api/v1/enrolment-codes", &json!(terms))?;
    if context.json() {
        return output::json(&answer);
    }
    output::line(answer["code"].as_str().unwrap_or_default());
    Ok(())
}

fn codes(context: &Context) -> Result<(), Failure> {
    let codes: Vec<Listed> = context.api()?.get("/api/v1/enrolment-codes")?;
    if context.json() {
        return output::json(&codes);
    }
    let rows = codes.iter().map(|code| {
        let deploy = code.deploy.clone().unwrap_or_else(|| "-".into());
        vec![
            code.label.clone(),
            code.uses_left.to_string(),
            output::time(code.expires_at),
            code.collections.join(" "),
            deploy,
        ]
    });
    output::table(
        &["LABEL", "USES LEFT", "ENDS", "COLLECTIONS", "DEPLOYS"],
        rows.collect(),
        "No code lets anybody in.",
    );
    Ok(())
}

/// Everything that is wrong with the list is said before anything is sent.
fn expect(file: &PathBuf, context: &Context) -> Result<(), Failure> {
    let csv = fs::read_to_string(file).map_err(|error| Failure::new(format!("read {}: {error}", file.display())))?;
    expected::parse(&csv).map_err(|faults| Failure::new(format!("{}: {}", file.display(), faults.join("; "))))?;
    let answer: Value = context.api()?.post("/api/v1/expected-machines", &json!({ "csv": csv }))?;
    if context.json() {
        return output::json(&answer);
    }
    output::line(format!("{} machines are expected", answer["imported"]));
    Ok(())
}

fn list_expected(context: &Context) -> Result<(), Failure> {
    let machines: Vec<Expected> = context.api()?.get("/api/v1/expected-machines")?;
    if context.json() {
        return output::json(&machines);
    }
    let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
    let rows = machines.iter().map(|machine| {
        let key = text(&machine.tpm_key).chars().take(16).collect();
        vec![text(&machine.serial), key, text(&machine.name), machine.collections.join(" "), text(&machine.deploy)]
    });
    let nothing = "Nobody is expected: `remint enrolment expect FILE.csv` imports a list.";
    output::table(&["SERIAL", "TPM KEY", "NAME", "COLLECTIONS", "DEPLOYS"], rows.collect(), nothing);
    Ok(())
}

fn shared(trust: Option<&[String]>, context: &Context) -> Result<(), Failure> {
    if let Some([kind, value]) = trust {
        context.api()?.delete(&format!("/api/v1/shared-evidence/{kind}/{value}"))?;
        output::line(format!("{kind} {value} counts again"));
        return Ok(());
    }
    let learnt: Vec<Value> = context.api()?.get("/api/v1/shared-evidence")?;
    if context.json() {
        return output::json(&learnt);
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let rows = learnt.iter().map(|piece| vec![text(&piece["kind"]), text(&piece["value"]), text(&piece["how"])]);
    output::table(&["KIND", "VALUE", "HOW IT WAS LEARNT"], rows.collect(), "Nothing is known to be shared.");
    Ok(())
}
