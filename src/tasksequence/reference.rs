//! docs/reference/steps.md, made from the tables that the program itself uses.

use super::facts::{FACTS, RUN_FACTS};
use super::schema::{places, sentence};
use super::steps::{self, Kind, Needs, Parameter, Row, selection};

/// The page, in Markdown.
pub fn page() -> String {
    let mut text = String::from(
        "# Steps\n\nThis page is made from the table of steps; `REMINT_BLESS=1 cargo test --test suite sequence` writes it anew.\n\n\
         | step | what it does | where |\n|---|---|---|\n",
    );
    for row in steps::TABLE {
        text.push_str(&format!("| [{0}](#{0}) | {1} | {2} |\n", row.name, row.summary, places(row)));
    }
    steps::TABLE.iter().for_each(|row| section(row, &mut text));
    text.push_str("\n## What conditions and templates see\n\n| name | what it is |\n|---|---|\n");
    for (name, what) in FACTS {
        text.push_str(&format!("| `machine.{name}` | {what} |\n"));
    }
    text.push_str("| `vars.NAME` | the variable NAME |\n");
    for (name, what) in RUN_FACTS {
        text.push_str(&format!("| `run.{name}` | {what} |\n"));
    }
    text
}

fn section(row: &Row, text: &mut String) {
    text.push_str(&format!("\n## {}\n\n{} {}\n", row.name, sentence(row.summary), row.text));
    let needs = match row.needs {
        Needs::Nothing => "",
        Needs::Root => " It needs a root file system on the disk.",
        Needs::System => " It needs a system on the disk.",
    };
    let erases = if row.erases { " **It erases a disk.**" } else { "" };
    text.push_str(&format!("\nRuns in: {}.{needs}{erases}\n", places(row)));
    parameters("parameter", row.parameters, text);
    for parameter in row.parameters {
        if let Kind::Records(fields) = parameter.kind {
            text.push_str(&format!("\nEach entry of `{}`:\n", parameter.name));
            parameters("field", fields, text);
        }
    }
    text.push_str(&format!("\n```yaml\n{}```\n", row.example));
}

fn parameters(what: &str, parameters: &[Parameter], text: &mut String) {
    if !parameters.is_empty() {
        text.push_str(&format!("\n| {what} | value | default | what it is |\n|---|---|---|---|\n"));
    }
    for parameter in parameters {
        let default = match (parameter.required, parameter.default) {
            (true, _) => "required",
            (false, "") => "",
            (false, default) => default,
        };
        text.push_str(&format!(
            "| `{}` | {} | {default} | {} |\n",
            parameter.name,
            kind(parameter.kind),
            parameter.summary
        ));
    }
}

fn kind(kind: Kind) -> String {
    let quoted = |words: &[&str]| words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ");
    match kind {
        Kind::Text => "text".into(),
        Kind::Path => "absolute path".into(),
        Kind::Integer { min, max } => format!("{min} to {max}"),
        Kind::Bytes => "size, as `512MiB`".into(),
        Kind::Duration => "duration, as `10m`".into(),
        Kind::Boolean => "`true`, `false`".into(),
        Kind::Choice(choices) => quoted(choices),
        Kind::Texts => "list of texts".into(),
        Kind::Integers => "list of numbers".into(),
        Kind::TextMap => "map of texts".into(),
        Kind::Image => "`NAME`, `NAME@VERSION`, `NAME@TAG`".into(),
        Kind::DiskRule => format!("{}, or a map of {}", quoted(&selection::NAMED), quoted(&selection::DESCRIBED)),
        Kind::FileMode => "permission bits in quotes".into(),
        Kind::Script => "path beside the document".into(),
        Kind::Xml => "document of XML".into(),
        Kind::Share => "size, as `512MiB`, `25%`, `rest`".into(),
        Kind::Partition => "name or number".into(),
        Kind::Records(_) => "list of maps".into(),
        Kind::Anything => "anything".into(),
    }
}
