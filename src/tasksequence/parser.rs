//! YAML -> `Sequence`, or everything that is wrong with it at once.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::condition;
use super::facts::{FACTS, RUN_FACTS};
use super::host::Place;
use super::model::{Block, FORMAT, Item, ItemId, Retry, Sequence, Step, Variable, VariableType, Work};
use super::quantity::{Bytes, Seconds};
use super::spelling::instead;
use super::steps::{self, Gives, Kind, Needs, Row, selection};
use super::yaml::{self, At, Key, Node, Tree};

/// A document longer than this is not a sequence that anybody wrote.
pub const DOCUMENT_BYTES_MAX: usize = 1 << 20;
/// Groups within groups.
const DEPTH_MAX: usize = 16;
const ATTEMPTS_MAX: u64 = 100;

/// What is wrong at one place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Problem {
    pub line: u32,
    pub column: u32,
    pub message: String,
    /// What to write instead.
    pub hint: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.message)?;
        self.hint.iter().try_for_each(|hint| write!(f, "\n  hint: {hint}"))
    }
}

/// What a site has, for documents that name it.
#[derive(Clone, Debug, Default)]
pub struct Known {
    pub images: Vec<String>,
}

/// Parses a document. Problems are in the order of the document.
pub fn parse(text: &str) -> Result<Sequence, Vec<Problem>> {
    parse_document(text, Parser::default())
}

/// The same, and everything that the document names must be there.
pub fn parse_for(text: &str, known: Known) -> Result<Sequence, Vec<Problem>> {
    parse_document(text, Parser { known: Some(known), ..Parser::default() })
}

/// The document as JSON, as far as it is YAML at all; for tools that know the schema.
pub fn to_json(text: &str) -> Result<Value, Problem> {
    yaml::parse(text).map(|node| node.json()).map_err(|(at, message)| Problem {
        line: at.line,
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
    system: bool,
    agent: bool,
}

impl Default for Standing {
    fn default() -> Standing {
        Standing { place: Place::BootEnvironment, system: false, agent: false }
    }
}

#[derive(Default)]
struct Parser {
    problems: Vec<Problem>,
    /// Variables that exist where the parser is.
    variables: BTreeSet<String>,
    standing: Standing,
    depth: usize,
    known: Option<Known>,
}

const DOCUMENT_KEYS: [&str; 6] = ["name", "description", "variables", "steps", "on-failure", "always"];
const VARIABLE_KEYS: [&str; 5] = ["type", "description", "default", "choices", "secret"];
const GROUP_KEYS: [&str; 6] = ["group", "when", "continue-on-error", "steps", "on-failure", "always"];
const STEP_KEYS: [&str; 6] = ["name", "when", "continue-on-error", "retry", "timeout", "register"];
const RETRY_KEYS: [&str; 3] = ["attempts", "first", "longest"];

impl Parser {
    fn add(&mut self, at: At, message: impl Into<String>, hint: impl Into<String>) {
        let hint = hint.into();
        let hint = (!hint.is_empty()).then_some(hint);
        self.problems.push(Problem { line: at.line, column: at.column, message: message.into(), hint });
    }

    fn sequence(&mut self, node: &Node) -> Option<Sequence> {
        let map = self.map(node, "a task sequence", "begin with `name:` and `steps:`")?;
        self.known_keys(map, &DOCUMENT_KEYS, "a task sequence");
        let name = self.required_text(map, node.at, "name", "name: Lab workstation").unwrap_or_default();
        let description = self.optional_text(map, "description").unwrap_or_default();
        let variables = find(map, "variables").map(|(_, node)| self.variables(node)).unwrap_or_default();
        let mut body = self.block(map, node.at, "a task sequence");
        body.number("");
        Some(Sequence { format: FORMAT, name, description, variables, body })
    }

    fn variables(&mut self, node: &Node) -> Vec<Variable> {
        let Some(map) = self.map(node, "`variables`", "write `NAME: VALUE`, a line each") else {
            return Vec::new();
        };
        let mut variables = Vec::new();
        for (key, node) in map {
            self.name_of_variable(key);
            let variable = match &node.tree {
                Tree::Map(fields) => self.variable(key, node, fields),
                _ => Variable {
                    name: key.text.clone(),
                    kind: type_of(&node.tree),
                    description: String::new(),
                    default: Some(node.json()),
                    choices: Vec::new(),
                    secret: false,
                },
            };
            if matches!(node.tree, Tree::Null) {
                self.add(
                    key.at,
                    format!("the variable `{}` has neither a value nor a type", key.text),
                    format!("write `{}: {{ type: text }}` for one that the deployment gives", key.text),
                );
            }
            if let Some(default) = &variable.default {
                self.templates(default, node.at);
            }
            self.variables.insert(key.text.clone());
            variables.push(variable);
        }
        variables
    }

    fn variable(&mut self, key: &Key, node: &Node, fields: &[(Key, Node)]) -> Variable {
        self.known_keys(fields, &VARIABLE_KEYS, "a variable");
        let default = find(fields, "default").map(|(_, node)| node.json());
        let named = self.optional_text(fields, "type");
        let kind = named
            .as_deref()
            .map(|name| self.variable_type(fields, name))
            .unwrap_or_else(|| find(fields, "default").map_or(VariableType::Text, |(_, node)| type_of(&node.tree)));
        let choices = match find(fields, "choices").map(|(_, node)| (node, &node.tree)) {
            Some((_, Tree::List(list))) => list.iter().map(Node::json).collect(),
            Some((node, _)) => {
                self.add(node.at, "`choices` must be a list", "choices: [small, large]");
                Vec::new()
            }
            None => Vec::new(),
        };
        let variable = Variable {
            name: key.text.clone(),
            kind,
            description: self.optional_text(fields, "description").unwrap_or_default(),
            default,
            choices,
            secret: self.optional_boolean(fields, "secret"),
        };
        self.variable_fits(&variable, find(fields, "default").map_or(node.at, |(_, node)| node.at));
        variable
    }

    fn variable_type(&mut self, fields: &[(Key, Node)], name: &str) -> VariableType {
        if let Some((_, kind)) = VariableType::ALL.iter().find(|(known, _)| *known == name) {
            return *kind;
        }
        let known: Vec<&str> = VariableType::ALL.iter().map(|(name, _)| *name).collect();
        let at = find(fields, "type").map_or(At::default(), |(_, node)| node.at);
        self.add(at, format!("`{name}` is not a type of variable"), instead(name, &known));
        VariableType::Text
    }

    fn variable_fits(&mut self, variable: &Variable, at: At) {
        let Some(default) = &variable.default else { return };
        let (name, kind) = (&variable.name, variable.kind.name());
        if default.as_str().is_some_and(condition::is_template) {
            return;
        }
        if !variable.kind.accepts(default) {
            let hint = format!("write a value of type {kind}, or another `type`");
            self.add(at, format!("the default of `{name}` is {default}, which is not of type {kind}"), hint);
        } else if !variable.choices.is_empty() && !variable.choices.contains(default) {
            let choices: Vec<String> = variable.choices.iter().map(ToString::to_string).collect();
            let hint = format!("there is {}", choices.join(", "));
            self.add(at, format!("the default of `{name}` is {default}, which is not among its choices"), hint);
        }
        if variable.secret {
            self.add(
                at,
                format!("the secret variable `{name}` has its value in the document"),
                "leave `default` out: a secret is given by the site, a collection or the machine",
            );
        }
    }

    fn name_of_variable(&mut self, key: &Key) {
        let good = key
            .text
            .chars()
            .enumerate()
            .all(|(index, c)| c == '_' || c.is_ascii_lowercase() || (index > 0 && c.is_ascii_digit()));
        if !good || key.text.is_empty() {
            let better: String =
                key.text.to_lowercase().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
            self.add(
                key.at,
                format!("`{}` is not a name for a variable", key.text),
                format!("use a-z, 0-9 and `_`: `{better}`"),
            );
        }
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
        self.standing = Standing { system: after.system, agent: after.agent, ..before };
        let mut section = |key| find(map, key).map(|(_, node)| self.items(node, key)).unwrap_or_default();
        let (on_failure, always) = (section("on-failure"), section("always"));
        self.standing = after;
        Block { steps, on_failure, always }
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
                    Ok(names) => self.names(&names, node.at),
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

    fn parameters(&mut self, row: &Row, key: &Key, node: &Node) -> Map<String, Value> {
        let empty = Vec::new();
        let map = match &node.tree {
            Tree::Null => &empty,
            Tree::Map(map) => map,
            _ => {
                let first = row.parameters.first().map_or("", |parameter| parameter.name);
                let example =
                    format!("write `{}: {{ {first}: ... }}`, or each parameter on a line of its own", row.name);
                self.add(
                    node.at,
                    format!("`{}` takes a map of parameters, and this is {}", row.name, node.kind()),
                    example,
                );
                return Map::new();
            }
        };
        let names: Vec<&str> = row.parameters.iter().map(|parameter| parameter.name).collect();
        for (key, _) in map.iter().filter(|(key, _)| !names.contains(&key.text.as_str())) {
            let hint = if STEP_KEYS.contains(&key.text.as_str()) {
                format!("it belongs to the step: indent it like `{}`", row.name)
            } else {
                instead(&key.text, &names)
            };
            self.add(key.at, format!("`{}` has no parameter `{}`", row.name, key.text), hint);
        }
        for parameter in
            row.parameters.iter().filter(|parameter| parameter.required && find(map, parameter.name).is_none())
        {
            let hint = format!("write `{}: {{ {}: ... }}`", row.name, parameter.name);
            self.add(key.at, format!("`{}` lacks `{}`: {}", row.name, parameter.name, parameter.summary), hint);
        }
        let mut with = Map::new();
        for (key, node) in map {
            if let Some(parameter) = row.parameter(&key.text) {
                self.value(node, parameter.kind, &format!("`{}` of `{}`", key.text, row.name));
                with.insert(key.text.clone(), node.json());
            }
        }
        with
    }

    /// Checks a value against its kind; one with a template is checked for its names, and for its type in the plan.
    fn value(&mut self, node: &Node, kind: Kind, what: &str) {
        self.templates_in(node);
        if matches!(&node.tree, Tree::Text(text) if condition::is_template(text)) {
            return;
        }
        let wrong =
            |expected: String| (format!("{what} is `{}`, and must be {expected}", node.quoted()), String::new());
        let fault = match (kind, &node.tree) {
            (Kind::Anything, _) => None,
            (Kind::Image, Tree::Text(text)) => self.unknown_image(text, what),
            (Kind::Text, Tree::Text(_)) => None,
            (Kind::Path, Tree::Text(text)) if text.starts_with('/') && !text.split('/').any(|part| part == "..") => {
                None
            }
            (Kind::Path, _) => Some(wrong("an absolute path without `..`".into())),
            (Kind::Integer { min, max }, Tree::Number(number))
                if number.as_i64().is_some_and(|n| (min..=max).contains(&n)) =>
            {
                None
            }
            (Kind::Integer { min, max }, _) => Some(wrong(format!("a whole number from {min} to {max}"))),
            (Kind::Bytes, Tree::Number(number)) if number.as_u64().is_some() => None,
            (Kind::Bytes, Tree::Text(text)) if Bytes::parse(text).is_some() => None,
            (Kind::Bytes, _) => Some(wrong(format!("a size, such as {}", Bytes::EXAMPLES))),
            (Kind::Duration, Tree::Number(number)) if number.as_u64().is_some() => None,
            (Kind::Duration, Tree::Text(text)) if Seconds::parse(text).is_some() => None,
            (Kind::Duration, _) => Some(wrong(format!("a duration, such as {}", Seconds::EXAMPLES))),
            (Kind::Boolean, Tree::Boolean(_)) => None,
            (Kind::Boolean, _) => Some(wrong("true or false".into())),
            (Kind::Choice(choices), Tree::Text(text)) if choices.contains(&text.as_str()) => None,
            (Kind::Choice(choices), _) => {
                Some((format!("{what} is `{}`", node.quoted()), instead(&node.quoted(), choices)))
            }
            (Kind::Texts | Kind::Integers, Tree::List(list)) => {
                for node in list {
                    let kind = if kind == Kind::Texts {
                        Kind::Text
                    } else {
                        Kind::Integer { min: i32::MIN.into(), max: i32::MAX.into() }
                    };
                    self.value(node, kind, &format!("an entry of {what}"));
                }
                list.is_empty().then(|| wrong("a list with at least one entry".into())).filter(|_| kind == Kind::Texts)
            }
            (Kind::Texts, Tree::Text(text)) => {
                let parts: Vec<&str> = text.split_whitespace().collect();
                Some((format!("{what} must be a list, one argument an entry"), format!("[{}]", parts.join(", "))))
            }
            (Kind::Texts | Kind::Integers, _) => Some(wrong("a list".into())),
            (Kind::TextMap, Tree::Map(map)) => {
                map.iter().for_each(|(key, node)| self.value(node, Kind::Text, &format!("`{}` in {what}", key.text)));
                None
            }
            (Kind::TextMap, _) => Some(wrong("a map of texts".into())),
            (Kind::FileMode, Tree::Text(text)) if u32::from_str_radix(text, 8).is_ok_and(|mode| mode <= 0o7777) => None,
            (Kind::FileMode, _) => Some((
                format!("{what} is `{}`, and must be permission bits in quotes", node.quoted()),
                "mode: \"0644\"".into(),
            )),
            (Kind::DiskRule, _) => return self.disk_rule(node, what),
            (Kind::Text | Kind::Image, Tree::Number(_) | Tree::Boolean(_)) => Some((
                format!("{what} is {}, and must be a text", node.kind()),
                format!("put it in quotes: \"{}\"", node.quoted()),
            )),
            (Kind::Text | Kind::Image, _) => Some(wrong("a text".into())),
        };
        if let Some((message, hint)) = fault {
            self.add(node.at, message, hint);
        }
    }

    fn unknown_image(&self, reference: &str, what: &str) -> Option<(String, String)> {
        let images = &self.known.as_ref()?.images;
        let name = reference.split('@').next().unwrap_or_default();
        if images.iter().any(|image| image == name) {
            return None;
        }
        let hint = match images.as_slice() {
            [] => "import one: `remint image import FILE --name NAME`".to_owned(),
            images => instead(name, &images.iter().map(String::as_str).collect::<Vec<_>>()),
        };
        Some((format!("{what} names `{name}`, which this site does not have"), hint))
    }

    fn disk_rule(&mut self, node: &Node, what: &str) {
        match &node.tree {
            Tree::Text(text) if selection::NAMED.contains(&text.as_str()) => {}
            Tree::Text(text) if text.starts_with("/dev/") => {
                self.add(
                    node.at,
                    format!("{what} is `{text}`"),
                    format!("names of devices change between boots; if you are sure: {{ path: {text} }}"),
                );
            }
            Tree::Map(map) => {
                self.known_keys(map, &selection::DESCRIBED, what);
                for (key, node) in map {
                    let kind = if key.text.starts_with("at-") { Kind::Bytes } else { Kind::Text };
                    if selection::DESCRIBED.contains(&key.text.as_str()) {
                        self.value(node, kind, &format!("`{}` of {what}", key.text));
                    }
                }
            }
            _ => {
                let mut known = selection::NAMED.to_vec();
                known.push("{ serial: SERIAL }");
                self.add(node.at, format!("{what} is `{}`", node.quoted()), instead(&node.quoted(), &known));
            }
        }
    }

    /// Whether the step can do its work where it stands, and what holds after it.
    fn stands(&mut self, row: &Row, at: At, with: &Map<String, Value>, conditional: bool) {
        let standing = &mut self.standing;
        let fault = if !row.places.contains(&standing.place) {
            let (place, wanted) = (standing.place.words(), row.places[0]);
            Some((
                format!("`{}` cannot run here, in the {place}", row.name),
                format!("it runs in the {}: put `- restart: {{ into: {} }}` before it", wanted.words(), wanted.name()),
            ))
        } else if row.needs == Needs::System && !standing.system {
            Some((
                format!("`{}` needs a system on the disk, and nothing has put one there yet", row.name),
                "put `- apply-image:` before it".to_owned(),
            ))
        } else {
            None
        };
        match row.gives {
            Gives::Blank => (standing.system, standing.agent) = (false, false),
            Gives::Variable => self.learn(at, with),
            Gives::System => (standing.system, standing.agent) = (true, false),
            Gives::Agent => standing.agent = true,
            Gives::Place => {
                let into = with.get("into").and_then(Value::as_str).unwrap_or(Place::InstalledSystem.name());
                let installed = into == Place::InstalledSystem.name();
                if installed && !(standing.system && standing.agent) && fault.is_none() {
                    self.add(
                        at,
                        "the run cannot go on in the installed system: its agent is not there",
                        "put `- install-agent:` before it",
                    );
                }
                if !conditional {
                    self.standing.place = if installed { Place::InstalledSystem } else { Place::BootEnvironment };
                    (self.standing.system, self.standing.agent) =
                        (self.standing.system || installed, self.standing.agent || installed);
                }
            }
            Gives::Nothing => {}
        }
        if let Some((message, hint)) = fault {
            self.add(at, message, hint);
        }
    }

    /// A step gives a variable its value: from here on there is one.
    fn learn(&mut self, at: At, with: &Map<String, Value>) {
        if let Some(name) = with.get("variable").and_then(Value::as_str) {
            self.name_of_variable(&Key { at, text: name.to_owned() });
            self.variables.insert(name.to_owned());
        }
    }

    fn templates_in(&mut self, node: &Node) {
        if let Tree::Text(text) = &node.tree {
            self.templates(&Value::from(text.as_str()), node.at);
        }
    }

    fn templates(&mut self, value: &Value, at: At) {
        let Some(text) = value.as_str().filter(|text| condition::is_template(text)) else { return };
        match condition::names_in_template(text) {
            Ok(names) => self.names(&names, at),
            Err(error) => self.add(at, error.to_string(), "{{ vars.NAME }} or {{ machine.FACT }}"),
        }
    }

    fn names(&mut self, names: &[String], at: At) {
        for name in names {
            let mut parts = name.split('.');
            let (top, next) = (parts.next().unwrap_or_default(), parts.next());
            let known: Vec<&str> = match top {
                "machine" => FACTS.iter().map(|(name, _)| *name).collect(),
                "run" => RUN_FACTS.iter().map(|(name, _)| *name).collect(),
                "vars" => self.variables.iter().map(String::as_str).collect(),
                _ => {
                    let hint = if self.variables.contains(top) {
                        format!("variables are in `vars`: `vars.{top}`")
                    } else {
                        instead(top, &condition::NAMES)
                    };
                    self.add(at, format!("`{top}` does not exist"), hint);
                    continue;
                }
            };
            if let Some(next) = next.filter(|next| !known.contains(next)) {
                let what = if top == "vars" { "unknown variable" } else { "unknown fact" };
                let hint = match instead(next, &known) {
                    near if near.starts_with("did you mean") || top != "vars" => near,
                    _ => format!("declare it: `variables: {{ {next}: VALUE }}`, or set it in a step before this one"),
                };
                self.add(at, format!("{what} `{top}.{next}`"), hint);
            }
        }
    }

    fn map<'a>(&mut self, node: &'a Node, what: &str, example: &str) -> Option<&'a [(Key, Node)]> {
        match &node.tree {
            Tree::Map(map) => Some(map),
            _ => {
                self.add(node.at, format!("{what} must be a map, and this is {}", node.kind()), example);
                None
            }
        }
    }

    fn known_keys(&mut self, map: &[(Key, Node)], known: &[&str], what: &str) {
        for (key, _) in map.iter().filter(|(key, _)| !known.contains(&key.text.as_str())) {
            self.add(key.at, format!("{what} has no key `{}`", key.text), instead(&key.text, known));
        }
    }

    fn required_text(&mut self, map: &[(Key, Node)], at: At, key: &str, example: &str) -> Option<String> {
        if find(map, key).is_none() {
            self.add(at, format!("`{key}` is missing"), example);
        }
        self.optional_text(map, key)
    }

    fn optional_text(&mut self, map: &[(Key, Node)], key: &str) -> Option<String> {
        let (_, node) = find(map, key)?;
        match &node.tree {
            Tree::Text(text) if !text.trim().is_empty() => Some(text.clone()),
            Tree::Number(_) | Tree::Boolean(_) => {
                self.add(
                    node.at,
                    format!("`{key}` must be a text, and this is {}", node.kind()),
                    format!("{key}: \"{}\"", node.quoted()),
                );
                None
            }
            _ => {
                let is = if matches!(node.tree, Tree::Text(_)) { "an empty one" } else { node.kind() };
                self.add(node.at, format!("`{key}` must be a text, and this is {is}"), format!("{key}: some words"));
                None
            }
        }
    }

    fn optional_boolean(&mut self, map: &[(Key, Node)], key: &str) -> bool {
        let Some((_, node)) = find(map, key) else { return false };
        if let Tree::Boolean(value) = node.tree {
            return value;
        }
        self.add(
            node.at,
            format!("`{key}` must be true or false, and this is {}", node.kind()),
            format!("{key}: true"),
        );
        false
    }
}

fn find<'a>(map: &'a [(Key, Node)], name: &str) -> Option<&'a (Key, Node)> {
    map.iter().find(|(key, _)| key.text == name)
}

fn type_of(tree: &Tree) -> VariableType {
    match tree {
        Tree::Boolean(_) => VariableType::Boolean,
        Tree::Number(_) => VariableType::Integer,
        Tree::List(_) => VariableType::List,
        _ => VariableType::Text,
    }
}

fn step_names() -> Vec<&'static str> {
    steps::TABLE.iter().map(|row| row.name).collect()
}
