//! `include`: another document's steps, with parameters, as a group.

use super::super::condition;
use super::super::model::{Given, Item, ItemId, Variable, Work};
use super::super::spelling::instead;
use super::super::yaml::{self, At, Key, Node, Tree};
use super::{Parser, Problem, find};

/// Documents within documents.
const INCLUDES_MAX: usize = 8;
const INCLUDE_KEYS: [&str; 5] = ["include", "with", "name", "when", "continue-on-error"];

impl Parser {
    pub(super) fn include(&mut self, node: &Node, map: &[(Key, Node)]) -> Option<Item> {
        self.known_keys(map, &INCLUDE_KEYS, "an include");
        let path = self.required_text(map, node.at, "include", "- include: common.yaml")?;
        let at = find(map, "include").map_or(node.at, |(_, node)| node.at);
        let (when, continue_on_error) = self.common(map);
        let name = self.optional_text(map, "name");
        let with = self.with(map);
        let text = self.file(&path, "`include`", at)?;
        if self.including.contains(&path) {
            self.add(at, format!("`{path}` includes itself"), "a document may not be within itself");
            return None;
        }
        if self.including.len() >= INCLUDES_MAX {
            self.add(at, format!("documents are included more than {INCLUDES_MAX} deep"), "");
            return None;
        }
        let (mut body, declared, inner_name) = self.included(&path, &text)?;
        body.given = self.given(&path, map, &with, &declared, at);
        self.hoist(declared);
        let name = name.unwrap_or(inner_name);
        let work = Work::Group(body);
        Some(Item { id: ItemId::from(""), name, when, continue_on_error, work, line: node.at.line })
    }

    /// A file beside the document.
    pub(super) fn file(&mut self, path: &str, what: &str, at: At) -> Option<String> {
        if let Some(text) = self.files.get(path) {
            return Some(text.clone());
        }
        let plain = !path.starts_with('/') && !path.split('/').any(|part| part == "..");
        let hint = if plain {
            format!("paths begin at the folder of the document: put a file `{path}` there")
        } else {
            "write a path below the folder of the document, without `..`".to_owned()
        };
        self.add(at, format!("{what} names `{path}`, which is not beside the document"), hint);
        None
    }

    fn with<'a>(&mut self, map: &'a [(Key, Node)]) -> Vec<&'a (Key, Node)> {
        let Some((_, node)) = find(map, "with") else { return Vec::new() };
        let Some(given) = self.map(node, "`with`", "with: { NAME: VALUE }") else { return Vec::new() };
        for (key, node) in given {
            let value = node.json();
            for name in condition::names_in_all(&value) {
                self.names(std::slice::from_ref(&name), node.at);
                let what = format!("`{}` of `with`", key.text);
                self.no_secrets(&[name], &what, node.at);
            }
        }
        given.iter().collect()
    }

    /// What the other document holds: its steps, its variables, its name. Its problems are told with its path.
    fn included(&mut self, path: &str, text: &str) -> Option<(super::Block, Vec<Variable>, String)> {
        let mut inner = Parser {
            standing: self.standing,
            partitions: self.partitions.take(),
            known: self.known.clone(),
            files: self.files.clone(),
            including: self.including.clone(),
            depth: self.depth,
            ..Parser::default()
        };
        inner.including.push(path.to_owned());
        let sequence = match yaml::parse(text) {
            Ok(node) => inner.sequence(&node),
            Err((at, message)) => {
                let (message, hint) = yaml::explained(&message);
                inner.add(at, format!("this is not YAML: {message}"), hint);
                None
            }
        };
        (self.standing, self.partitions) = (inner.standing, inner.partitions);
        let told = |problem: Problem| Problem { file: problem.file.or_else(|| Some(path.to_owned())), ..problem };
        let sound = inner.problems.is_empty();
        self.problems.extend(inner.problems.into_iter().map(told));
        let sequence = sequence?;
        // What steps set in there is known afterwards; what the document declares for itself is not.
        let own = |name: &String| sequence.variables.iter().any(|variable| variable.name == *name);
        self.variables.extend(inner.variables.into_iter().filter(|name| !own(name)));
        sound.then_some((sequence.body, sequence.variables, sequence.name))
    }

    /// The values of the other document's variables: those given here, then its defaults in their order.
    fn given(
        &mut self,
        path: &str,
        map: &[(Key, Node)],
        with: &[&(Key, Node)],
        declared: &[Variable],
        at: At,
    ) -> Vec<Given> {
        let known: Vec<&str> = declared.iter().filter(|one| !one.secret).map(|one| one.name.as_str()).collect();
        let mut given = Vec::new();
        for (key, node) in with {
            let Some(variable) = declared.iter().find(|one| one.name == key.text && !one.secret) else {
                self.add(key.at, format!("`{path}` has no variable `{}`", key.text), instead(&key.text, &known));
                continue;
            };
            let value = node.json();
            let template = matches!(&node.tree, Tree::Text(text) if condition::is_template(text));
            if !template && !variable.kind.accepts(&value) {
                let (name, kind) = (&variable.name, variable.kind.name());
                let message = format!("`{name}` of `{path}` is {value}, which is not of type {kind}");
                self.add(node.at, message, format!("write a value of type {kind}"));
            }
            given.push(Given { name: key.text.clone(), value, here: true });
        }
        for variable in declared.iter().filter(|one| !one.secret) {
            if given.iter().any(|given| given.name == variable.name) {
                continue;
            }
            match &variable.default {
                Some(default) => {
                    given.push(Given { name: variable.name.clone(), value: default.clone(), here: false });
                }
                None => {
                    let at = find(map, "with").map_or(at, |(_, node)| node.at);
                    let message = format!("`{path}` needs a value for `{}`", variable.name);
                    self.add(at, message, format!("with: {{ {}: VALUE }}", variable.name));
                }
            }
        }
        given
    }

    /// Secrets of the other document are secrets of the whole: a deployment or the site gives them.
    fn hoist(&mut self, declared: Vec<Variable>) {
        for variable in declared.into_iter().filter(|variable| variable.secret) {
            self.variables.insert(variable.name.clone());
            self.secrets.insert(variable.name.clone());
            if !self.hoisted.iter().any(|known| known.name == variable.name) {
                self.hoisted.push(variable);
            }
        }
    }
}

/// A file that a document names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    pub path: String,
    /// Another document, which may name further files.
    pub document: bool,
}

/// The files that a document names, as far as it is YAML at all.
pub fn references(text: &str) -> Vec<Reference> {
    let mut found = Vec::new();
    if let Ok(node) = yaml::parse(text) {
        collect(&node, &mut found);
    }
    found
}

fn collect(node: &Node, found: &mut Vec<Reference>) {
    let entries = match &node.tree {
        Tree::List(list) => return list.iter().for_each(|node| collect(node, found)),
        Tree::Map(map) => map,
        _ => return,
    };
    for (key, value) in entries {
        if let (true, Tree::Text(path)) = (key.text == "include" || key.text == "script", &value.tree) {
            found.push(Reference { path: path.clone(), document: key.text == "include" });
        }
        collect(value, found);
    }
}
