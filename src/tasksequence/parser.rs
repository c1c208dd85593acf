//! YAML -> `Sequence`, or everything that is wrong with it at once.

mod fields;
mod include;
mod names;
mod standing;
mod values;
mod variables;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

pub use include::{Reference, references};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::condition;
use super::host::Place;
use super::model::{Block, FORMAT, Item, ItemId, Retry, Sequence, Step, Variable, Work};
use super::quantity::Seconds;
use super::spelling::instead;
use super::steps;
use super::yaml::{self, At, Key, Node, Tree};

/// A document longer than this is not a sequence that anybody wrote.
pub const DOCUMENT_BYTES_MAX: usize = 1 << 20;
/// Groups within groups.
const DEPTH_MAX: usize = 16;
const ATTEMPTS_MAX: u64 = 100;

/// What is wrong at one place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Problem {
    /// The included document that it is in; `None`: the one that was parsed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    pub line: u32,
    pub column: u32,
    pub message: String,
    /// What to write instead.
    pub hint: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.file.iter().try_for_each(|file| write!(f, "{file}:"))?;
        write!(f, "{}:{}: {}", self.line, self.column, self.message)?;
        self.hint.iter().try_for_each(|hint| write!(f, "\n  hint: {hint}"))
    }
}

/// What a site has, for documents that name it.
#[derive(Clone, Debug, Default)]
pub struct Known {
    pub images: Vec<String>,
}

/// Files beside a document by their paths: other documents, and scripts.
pub type Files = BTreeMap<String, String>;

/// Parses a document that names no other file. Problems are in the order of the document.
pub fn parse(text: &str) -> Result<Sequence, Vec<Problem>> {
    parse_document(text, Parser::default())
}

/// Parses a document with the files that it names.
pub fn parse_with(text: &str, files: &Files) -> Result<Sequence, Vec<Problem>> {
    parse_document(text, Parser { files: Arc::new(files.clone()), ..Parser::default() })
}

/// The same, and everything that the document names must be there.
pub fn parse_for(text: &str, files: &Files, known: Known) -> Result<Sequence, Vec<Problem>> {
    parse_document(text, Parser { known: Some(known), files: Arc::new(files.clone()), ..Parser::default() })
}

/// The document as JSON, as far as it is YAML at all; for tools that know the schema.
pub fn to_json(text: &str) -> Result<Value, Problem> {
    yaml::parse(text).map(|node| node.json()).map_err(|(at, message)| Problem {
        line: at.line,
        file: None,
        column: at.column,
        message,
        hint: None,
    })
}

fn parse_document(text: &str, mut parser: Parser) -> Result<Sequence, Vec<Problem>> {
    if text.len() > DOCUMENT_BYTES_MAX {
        parser.add(
            At { line: 1, column: 1 },
            format!("the document has {} bytes, at most {DOCUMENT_BYTES_MAX} are read", text.len()),
            "",
        );
        return Err(parser.problems);
    }
    let sequence = match yaml::parse(text) {
        Ok(node) => parser.sequence(&node),
        Err((at, message)) => {
            let (message, hint) = yaml::explained(&message);
            parser.add(at, format!("this is not YAML: {message}"), hint);
            None
        }
    };
    parser.problems.sort();
    parser.problems.dedup();
    match sequence {
        Some(sequence) if parser.problems.is_empty() => Ok(sequence),
        _ => Err(parser.problems),
    }
}

/// What is known where a step stands.
#[derive(Clone, Copy)]
struct Standing {
    place: Place,
    /// A root file system is there.
    root: bool,
    system: bool,
    agent: bool,
}

impl Default for Standing {
    fn default() -> Standing {
        Standing { place: Place::BootEnvironment, root: false, system: false, agent: false }
    }
}

#[derive(Default)]
struct Parser {
    problems: Vec<Problem>,
    /// Variables that exist where the parser is.
    variables: BTreeSet<String>,
    /// Those of them whose values only steps see.
    secrets: BTreeSet<String>,
    standing: Standing,
    depth: usize,
    /// Names of the partitions, once a step has given them.
    partitions: Option<Vec<String>>,
    known: Option<Known>,
    files: Arc<Files>,
    /// Documents that the parser is within.
    including: Vec<String>,
    /// Secret variables of included documents.
    hoisted: Vec<Variable>,
}

const DOCUMENT_KEYS: [&str; 6] = ["name", "description", "variables", "steps", "on-failure", "always"];
const GROUP_KEYS: [&str; 6] = ["group", "when", "continue-on-error", "steps", "on-failure", "always"];
const STEP_KEYS: [&str; 6] = ["name", "when", "continue-on-error", "retry", "timeout", "register"];
const RETRY_KEYS: [&str; 3] = ["attempts", "first", "longest"];

impl Parser {
    fn add(&mut self, at: At, message: impl Into<String>, hint: impl Into<String>) {
        let hint = hint.into();
        let hint = (!hint.is_empty()).then_some(hint);
        self.problems.push(Problem { file: None, line: at.line, column: at.column, message: message.into(), hint });
    }

    fn sequence(&mut self, node: &Node) -> Option<Sequence> {
        let map = self.map(node, "a task sequence", "begin with `name:` and `steps:`")?;
        self.known_keys(map, &DOCUMENT_KEYS, "a task sequence");
        let name = self.required_text(map, node.at, "name", "name: Lab workstation").unwrap_or_default();
        let description = self.optional_text(map, "description").unwrap_or_default();
        let mut variables = find(map, "variables").map(|(_, node)| self.variables(node)).unwrap_or_default();
        let mut body = self.block(map, node.at, "a task sequence");
        body.number("");
        let known: BTreeSet<String> = variables.iter().map(|variable: &Variable| variable.name.clone()).collect();
        variables.extend(self.hoisted.drain(..).filter(|variable| !known.contains(&variable.name)));
        Some(Sequence { format: FORMAT, name, description, variables, body })
    }

    fn block(&mut self, map: &[(Key, Node)], at: At, what: &str) -> Block {
        let before = self.standing;
        let Some((_, node)) = find(map, "steps") else {
            self.add(at, format!("{what} has no `steps`"), "write `steps:`, and below it a list of steps");
            return Block::default();
        };
        let steps = self.items(node, "steps");
        let nothing = match &node.tree {
            Tree::List(list) => list.is_empty(),
            tree => matches!(tree, Tree::Null),
        };
        if nothing {
            self.add(node.at, "`steps` is empty", "begin each step with `- `, such as `- check-hardware:`");
        }
        let after = self.standing;
        // Steps may have failed anywhere: only what was true before is certain, though the place may have changed.
        self.standing = Standing { root: after.root, system: after.system, agent: after.agent, ..before };
        let mut section = |key| find(map, key).map(|(_, node)| self.items(node, key)).unwrap_or_default();
        let (on_failure, always) = (section("on-failure"), section("always"));
        self.standing = after;
        Block { given: Vec::new(), steps, on_failure, always }
    }

    fn items(&mut self, node: &Node, key: &str) -> Vec<Item> {
        match &node.tree {
            Tree::List(list) => list.iter().filter_map(|node| self.item(node)).collect(),
            Tree::Null => Vec::new(),
            _ => {
                self.add(
                    node.at,
                    format!("`{key}` must be a list, and this is {}", node.kind()),
                    "begin each step with `- `",
                );
                Vec::new()
            }
        }
    }

    fn item(&mut self, node: &Node) -> Option<Item> {
        if let Tree::Text(name) = &node.tree {
            let hint = if steps::row(name).is_some() { format!("- {name}:") } else { instead(name, &step_names()) };
            self.add(node.at, format!("a step is a map, and `{name}` is a text"), hint);
            return None;
        }
        let map = self.map(node, "a step", "begin it with what it does, such as `- check-hardware:`")?;
        if find(map, "include").is_some() {
            return self.include(node, map);
        }
        if find(map, "group").is_some() { self.group(node, map) } else { self.step(node, map) }
    }

    fn group(&mut self, node: &Node, map: &[(Key, Node)]) -> Option<Item> {
        self.known_keys(map, &GROUP_KEYS, "a group");
        let name = self.required_text(map, node.at, "group", "- group: Prepare").unwrap_or_default();
        let (when, continue_on_error) = self.common(map);
        if self.depth >= DEPTH_MAX {
            self.add(node.at, format!("groups are nested more than {DEPTH_MAX} deep"), "");
            return None;
        }
        self.depth += 1;
        let block = self.block(map, node.at, &format!("the group `{name}`"));
        self.depth -= 1;
        Some(Item { id: ItemId::from(""), name, when, continue_on_error, work: Work::Group(block), line: node.at.line })
    }

    fn common(&mut self, map: &[(Key, Node)]) -> (Option<String>, bool) {
        (self.when(map), self.optional_boolean(map, "continue-on-error"))
    }

    fn when(&mut self, map: &[(Key, Node)]) -> Option<String> {
        let (_, node) = find(map, "when")?;
        match &node.tree {
            Tree::Text(text) if condition::is_template(text) => {
                let bare = text.replace("{{", "").replace("}}", "");
                self.add(node.at, "`when` is an expression already, without `{{ }}`", format!("when: {}", bare.trim()));
                None
            }
            Tree::Text(text) => {
                match condition::names_in_expression(text) {
                    Ok(names) => {
                        self.names(&names, node.at);
                        self.no_secrets(&names, "`when`", node.at);
                    }
                    Err(error) if text.contains(" = ") => self.add(node.at, error.to_string(), "compare with `==`"),
                    Err(error) => self.add(node.at, error.to_string(), "when: machine.firmware == 'uefi'"),
                }
                self.constant(text, node.at);
                Some(text.clone())
            }
            Tree::Boolean(value) => Some(value.to_string()),
            _ => {
                self.add(
                    node.at,
                    format!("`when` must be an expression, and this is {}", node.kind()),
                    "when: machine.firmware == 'uefi'",
                );
                None
            }
        }
    }

    /// A condition that names nothing is always the same.
    fn constant(&mut self, text: &str, at: At) {
        let constant = condition::names_in_expression(text).is_ok_and(|names| names.is_empty());
        if constant && condition::holds(text, &condition::Scope::default()).is_ok_and(|holds| !holds) {
            self.add(
                at,
                format!("`{text}` can never be true"),
                "compare a fact or a variable, such as `vars.NAME == 'x'`",
            );
        }
    }

    fn step(&mut self, node: &Node, map: &[(Key, Node)]) -> Option<Item> {
        let kinds: Vec<&(Key, Node)> = map.iter().filter(|(key, _)| !STEP_KEYS.contains(&key.text.as_str())).collect();
        let known: Vec<&&(Key, Node)> = kinds.iter().filter(|(key, _)| steps::row(&key.text).is_some()).collect();
        let Some((key, with)) = known.first().copied().or(kinds.first()).copied().map(|pair| (&pair.0, &pair.1)) else {
            self.add(
                node.at,
                "this step does not say what it does",
                format!("add one of: {}", step_names().join(", ")),
            );
            return None;
        };
        for (other, _) in kinds.iter().filter(|(other, _)| other.at != key.at) {
            if steps::row(&other.text).is_some() {
                self.add(
                    other.at,
                    format!("`{}` and `{}` are in one step", key.text, other.text),
                    "begin the second with `- ` of its own",
                );
            } else {
                let hint = match steps::row(&key.text).and_then(|row| row.parameter(&other.text)) {
                    Some(_) => format!("it is a parameter of `{}`: indent it below", key.text),
                    None => instead(&other.text, &STEP_KEYS),
                };
                self.add(other.at, format!("a step has no key `{}`", other.text), hint);
            }
        }
        let Some(row) = steps::row(&key.text) else {
            self.add(key.at, format!("unknown step `{}`", key.text), instead(&key.text, &step_names()));
            return None;
        };
        let (when, continue_on_error) = self.common(map);
        let name = self.optional_text(map, "name").unwrap_or_else(|| row.name.to_owned());
        let with = self.parameters(row, key, with);
        self.stands(row, key.at, &with, when.is_some());
        let step = Step {
            kind: row.name.to_owned(),
            with,
            retry: find(map, "retry").map(|(_, node)| self.retry(node)).unwrap_or_default(),
            timeout_seconds: find(map, "timeout").and_then(|(_, node)| self.seconds(node, "timeout")),
            register: self.register(map),
        };
        Some(Item { id: ItemId::from(""), name, when, continue_on_error, work: Work::Step(step), line: node.at.line })
    }

    fn register(&mut self, map: &[(Key, Node)]) -> Option<String> {
        let (_, node) = find(map, "register")?;
        let name = self.optional_text(map, "register")?;
        self.name_of_variable(&Key { at: node.at, text: name.clone() });
        self.variables.insert(name.clone());
        Some(name)
    }

    fn retry(&mut self, node: &Node) -> Retry {
        let mut retry = Retry::default();
        match &node.tree {
            Tree::Map(fields) => {
                self.known_keys(fields, &RETRY_KEYS, "`retry`");
                if let Some((_, node)) = find(fields, "attempts") {
                    retry.attempts = self.attempts(node);
                }
                if let Some(seconds) = find(fields, "first").and_then(|(_, node)| self.seconds(node, "first")) {
                    retry.first_seconds = seconds;
                }
                if let Some(seconds) = find(fields, "longest").and_then(|(_, node)| self.seconds(node, "longest")) {
                    retry.max_seconds = seconds;
                }
            }
            _ => retry.attempts = self.attempts(node),
        }
        retry
    }

    fn attempts(&mut self, node: &Node) -> u32 {
        let number = if let Tree::Number(number) = &node.tree { number.as_u64() } else { None };
        match number {
            Some(attempts) if (1..=ATTEMPTS_MAX).contains(&attempts) => attempts as u32,
            _ => {
                self.add(
                    node.at,
                    format!("`{}` is not a number of attempts", node.quoted()),
                    format!("retry: 3   (1 to {ATTEMPTS_MAX} attempts in all)"),
                );
                1
            }
        }
    }

    fn seconds(&mut self, node: &Node, key: &str) -> Option<u64> {
        let parsed = match &node.tree {
            Tree::Text(text) => Seconds::parse(text).map(|seconds| seconds.0),
            Tree::Number(number) => number.as_u64(),
            _ => None,
        };
        if parsed.is_none() {
            self.add(
                node.at,
                format!("`{}` is not a duration", node.quoted()),
                format!("{key}: {}", Seconds::EXAMPLES),
            );
        }
        parsed
    }
}

fn find<'a>(map: &'a [(Key, Node)], name: &str) -> Option<&'a (Key, Node)> {
    map.iter().find(|(key, _)| key.text == name)
}

fn step_names() -> Vec<&'static str> {
    steps::TABLE.iter().map(|row| row.name).collect()
}
