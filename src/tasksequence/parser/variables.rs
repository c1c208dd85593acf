//! The `variables` of a document.

use super::super::condition;
use super::super::model::{Variable, VariableType};
use super::super::spelling::instead;
use super::super::yaml::{At, Key, Node, Tree};
use super::{Parser, find};

const VARIABLE_KEYS: [&str; 5] = ["type", "description", "default", "choices", "secret"];

impl Parser {
    pub(super) fn variables(&mut self, node: &Node) -> Vec<Variable> {
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
                let names = condition::names_in_all(default);
                self.no_secrets(&names, &format!("the default of `{}`", key.text), node.at);
            }
            if variable.secret {
                self.secrets.insert(key.text.clone());
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

    pub(super) fn name_of_variable(&mut self, key: &Key) {
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
}

fn type_of(tree: &Tree) -> VariableType {
    match tree {
        Tree::Boolean(_) => VariableType::Boolean,
        Tree::Number(_) => VariableType::Integer,
        Tree::List(_) => VariableType::List,
        _ => VariableType::Text,
    }
}
