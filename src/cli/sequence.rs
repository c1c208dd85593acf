//! `remint sequence ...`

use std::fs;
use std::path::{Component, Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::context::Context;
use super::{Failure, output};
use crate::tasksequence::db::SequenceRecord;
use crate::tasksequence::model::{Block, Item, Sequence, Work};
use crate::tasksequence::parser::{self, Files, Problem};
use crate::tasksequence::plan::{Fate, Plan};
use crate::tasksequence::{schema, steps};

#[derive(Subcommand)]
pub(super) enum Command {
    /// Check a document: every problem with its line, column and what to write instead
    Check {
        file: PathBuf,
        /// Do not look whether the site has what the document names
        #[arg(long)]
        offline: bool,
    },
    /// Show a sequence's steps
    Show {
        /// A file, or the name of a published sequence
        sequence: String,
    },
    /// Show what would happen to a machine, step by step, without doing it
    Plan {
        /// A file, or the name of a published sequence
        sequence: String,
        #[arg(long)]
        machine: String,
        #[command(flatten)]
        variables: Variables,
    },
    /// Publish a document; the same content is the same version
    Publish { file: PathBuf },
    /// List published sequences
    List,
    /// Print the JSON Schema of documents, for editors
    Schema,
    /// Explain a step, or list all of them
    Step { step: Option<String> },
}

#[derive(Args)]
pub(super) struct Variables {
    /// Give a variable its value; may be repeated
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = assignment)]
    set: Vec<(String, Value)>,
}

impl Variables {
    pub(super) fn json(&self) -> Value {
        Value::Object(self.set.iter().cloned().collect())
    }
}

/// `NAME=VALUE`; what reads as JSON (`true`, `3`, `["a"]`) is taken as that, the rest as text.
fn assignment(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("`{text}` is not NAME=VALUE"))?;
    let parsed = serde_json::from_str(value).ok().filter(|value: &Value| !value.is_null());
    Ok((name.to_owned(), parsed.unwrap_or_else(|| Value::from(value))))
}

pub(super) fn run(command: Command, context: &Context) -> Result<(), Failure> {
    match command {
        Command::Check { file, offline } => check(&file, offline, context),
        Command::Show { sequence } => show(&sequence, context),
        Command::Plan { sequence, machine, variables } => plan(&sequence, &machine, &variables, context),
        Command::Publish { file } => publish(&file, context),
        Command::List => list(context),
        Command::Schema => output::json(&schema::schema()),
        Command::Step { step } => explain(step.as_deref(), context),
    }
}

fn check(file: &Path, offline: bool, context: &Context) -> Result<(), Failure> {
    let Source { document, files } = &Source::read(file)?;
    let problems = match (offline, context.api()) {
        (false, Ok(api)) => {
            let body = json!({ "document": document, "files": files });
            let checked: Value = api.post("/api/v1/sequences/check", &body)?;
            serde_json::from_value(checked["problems"].clone()).unwrap_or_default()
        }
        _ => parser::parse_with(document, files).err().unwrap_or_default(),
    };
    if context.json() {
        output::json(&json!({ "file": file, "problems": problems }))?;
    } else {
        problems.iter().for_each(|problem| output::line(shown(file, document, files, problem)));
    }
    match problems.len() {
        0 if context.json() => Ok(()),
        0 => {
            let sequence = parsed(file, document, files)?;
            output::line(format!("{} is sound: version {}", file.display(), &sequence.version()[..12]));
            Ok(())
        }
        1 => Err(Failure::new(format!("{} has a problem", file.display()))),
        count => Err(Failure::new(format!("{} has {count} problems", file.display()))),
    }
}

/// `file:line:column: message`, the line itself with a caret, the hint.
fn shown(file: &Path, document: &str, files: &Files, problem: &Problem) -> String {
    let (name, document) = match &problem.file {
        Some(path) => (file.with_file_name(path), files.get(path).map_or("", String::as_str)),
        None => (file.to_owned(), document),
    };
    let mut text = format!("{}:{}:{}: {}", name.display(), problem.line, problem.column, problem.message);
    if let Some(line) = document.lines().nth(problem.line.saturating_sub(1) as usize) {
        let number = problem.line.to_string();
        let before: String = line
            .chars()
            .take(problem.column.saturating_sub(1) as usize)
            .map(|c| if c == '\t' { c } else { ' ' })
            .collect();
        let margin = " ".repeat(number.len());
        text.push_str(&format!("\n  {number} | {line}\n  {margin} | {before}^"));
    }
    if let Some(hint) = &problem.hint {
        text.push_str(&format!("\n  hint: {hint}"));
    }
    text
}

fn show(sequence: &str, context: &Context) -> Result<(), Failure> {
    let sequence: Sequence = match local(sequence)? {
        Some((file, source)) => parsed(&file, &source.document, &source.files)?,
        None => {
            let shown: Value = context.api()?.get(&format!("/api/v1/sequences/{}", escaped(sequence)))?;
            serde_json::from_value(shown["sequence"].clone()).map_err(|error| Failure::new(error.to_string()))?
        }
    };
    if context.json() {
        return output::json(&sequence);
    }
    output::line(format!("{}  (version {})", sequence.name, &sequence.version()[..12]));
    if !sequence.description.is_empty() {
        output::line(&sequence.description);
    }
    for variable in &sequence.variables {
        let default = variable.default.as_ref().map_or("must be given".to_owned(), |value| format!("default {value}"));
        output::line(format!("  variable {} ({}): {default}", variable.name, variable.kind.name()));
    }
    show_block(&sequence.body, 1);
    Ok(())
}

fn show_block(block: &Block, depth: usize) {
    for (section, items) in block.sections() {
        if !section.is_empty() && !items.is_empty() {
            output::line(format!("{}{section}:", "  ".repeat(depth)));
        }
        items.iter().for_each(|item| show_item(item, depth));
    }
}

fn show_item(item: &Item, depth: usize) {
    let when = item.when.as_ref().map(|when| format!("  when {when}")).unwrap_or_default();
    let indent = "  ".repeat(depth);
    match &item.work {
        Work::Group(block) => {
            output::line(format!("{indent}{} [{}]{when}", item.id, item.name));
            show_block(block, depth + 1);
        }
        Work::Step(step) if item.name == step.kind => output::line(format!("{indent}{} {}{when}", item.id, step.kind)),
        Work::Step(step) => output::line(format!("{indent}{} {}: {}{when}", item.id, step.kind, item.name)),
    }
}

fn plan(sequence: &str, machine: &str, variables: &Variables, context: &Context) -> Result<(), Failure> {
    let mut body = json!({ "machine": machine, "variables": variables.json() });
    match local(sequence)? {
        Some((file, source)) => {
            parsed(&file, &source.document, &source.files)?;
            body["document"] = source.document.into();
            body["files"] = json!(source.files);
        }
        None => body["sequence"] = sequence.into(),
    }
    let plan: Plan = context.api()?.post("/api/v1/sequences/plan", &body)?;
    if context.json() {
        output::json(&plan)?;
    } else {
        show_plan(&plan);
    }
    match plan.failures().count() {
        0 => Ok(()),
        count => Err(Failure::new(format!("{count} steps would fail on {machine}"))),
    }
}

/// The plan as lines, with what is erased at the end.
pub(super) fn show_plan(plan: &Plan) {
    output::line(format!("{} on {}", plan.sequence, plan.machine));
    for item in &plan.items {
        let depth = item.id.0.split('.').count();
        let label = if item.section.is_empty() { String::new() } else { format!(" ({})", item.section) };
        let text = match &item.fate {
            Fate::Runs { what } if what.is_empty() => item.name.clone(),
            Fate::Runs { what } => what.clone(),
            Fate::Skipped { why } => format!("skips {}: {why}", item.name),
            Fate::Open { why } => format!("{}: {why}", item.name),
            Fate::Fails { error, hint } => {
                let hint = hint.as_ref().map(|hint| format!(" (hint: {hint})")).unwrap_or_default();
                format!("WOULD FAIL {}: {error}{hint}", item.name)
            }
        };
        output::line(format!("{}{}{label}  {text}", "  ".repeat(depth), item.id));
    }
    for disk in &plan.erases {
        output::line(format!("  ERASES {} of {} ({})", disk.path, plan.machine, output::size(disk.bytes)));
    }
}

fn publish(file: &Path, context: &Context) -> Result<(), Failure> {
    let record = publish_file(file, context)?;
    if context.json() {
        return output::json(&record);
    }
    output::line(format!("published {} version {}", record.name, &record.version[..12]));
    Ok(())
}

/// Checks a document here, where its lines can be shown, and publishes it.
pub(super) fn publish_file(file: &Path, context: &Context) -> Result<SequenceRecord, Failure> {
    let Source { document, files } = Source::read(file)?;
    parsed(file, &document, &files)?;
    context.api()?.post("/api/v1/sequences", &json!({ "document": document, "files": files }))
}

fn list(context: &Context) -> Result<(), Failure> {
    let records: Vec<SequenceRecord> = context.api()?.get("/api/v1/sequences")?;
    if context.json() {
        return output::json(&records);
    }
    let row = |record: &SequenceRecord| {
        let version = record.version.chars().take(12).collect();
        vec![record.name.clone(), version, output::time(record.created_at), record.created_by.clone()]
    };
    let nothing = "No sequence is published. `remint sequence publish FILE` does it.";
    output::table(&["NAME", "VERSION", "PUBLISHED", "BY"], records.iter().map(row).collect(), nothing);
    Ok(())
}

fn explain(step: Option<&str>, context: &Context) -> Result<(), Failure> {
    let Some(name) = step else {
        let row = |row: &steps::Row| vec![row.name.to_owned(), row.summary.to_owned()];
        output::table(&["STEP", "WHAT IT DOES"], steps::TABLE.iter().map(row).collect(), "");
        return Ok(());
    };
    let row = steps::row(name).ok_or_else(|| {
        Failure::new(format!("there is no step `{name}`")).with_hint("`remint sequence step` lists them all")
    })?;
    if context.json() {
        return output::json(&json!({ "name": row.name, "summary": row.summary, "example": row.example }));
    }
    output::line(format!("{}: {}", row.name, row.summary));
    output::line(row.text);
    for parameter in row.parameters {
        let must = if parameter.required { " (required)" } else { "" };
        output::line(format!("  {}{must}  {}", parameter.name, parameter.summary));
    }
    output::line("");
    output::line(row.example.trim_end());
    Ok(())
}

/// The content of the file, when `sequence` names one rather than a published sequence.
pub(super) fn local(sequence: &str) -> Result<Option<(PathBuf, Source)>, Failure> {
    let path = Path::new(sequence);
    let named = path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
    if named || path.is_file() { Ok(Some((path.to_owned(), Source::read(path)?))) } else { Ok(None) }
}

/// A document with the files that it names, which lie in its folder or below it.
pub(super) struct Source {
    document: String,
    files: Files,
}

impl Source {
    fn read(file: &Path) -> Result<Source, Failure> {
        let document = read(file)?;
        let folder = file.parent().unwrap_or(Path::new("."));
        let (mut files, mut todo) = (Files::new(), parser::references(&document));
        while let Some(reference) = todo.pop() {
            let path = Path::new(&reference.path);
            let below = path.components().all(|part| matches!(part, Component::Normal(_)));
            // What is not there the parser reports, with the line that names it.
            let Some(text) = fs::read_to_string(folder.join(path)).ok().filter(|_| below) else { continue };
            if reference.document && !files.contains_key(&reference.path) {
                todo.extend(parser::references(&text));
            }
            files.insert(reference.path, text);
        }
        Ok(Source { document, files })
    }
}

fn read(file: &Path) -> Result<String, Failure> {
    fs::read_to_string(file).map_err(|error| Failure::new(format!("read {}: {error}", file.display())))
}

fn parsed(file: &Path, document: &str, files: &Files) -> Result<Sequence, Failure> {
    parser::parse_with(document, files).map_err(|problems| {
        let shown: Vec<String> = problems.iter().map(|problem| shown(file, document, files, problem)).collect();
        Failure::new(shown.join("\n"))
    })
}

/// A name within a URL's path.
pub(super) fn escaped(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~@".contains(&byte);
    name.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}
