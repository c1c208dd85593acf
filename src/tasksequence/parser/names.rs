//! Names that templates and conditions use: each must exist where it is used.

use serde_json::Value;

use super::super::condition;
use super::super::facts::{FACTS, RUN_FACTS};
use super::super::spelling::instead;
use super::super::yaml::{At, Node, Tree};
use super::Parser;

impl Parser {
    pub(super) fn templates_in(&mut self, node: &Node) {
        if let Tree::Text(text) = &node.tree {
            self.templates(&Value::from(text.as_str()), node.at);
        }
    }

    pub(super) fn templates(&mut self, value: &Value, at: At) {
        let Some(text) = value.as_str().filter(|text| condition::is_template(text)) else { return };
        match condition::names_in_template(text) {
            Ok(names) => self.names(&names, at),
            Err(error) => self.add(at, error.to_string(), "{{ vars.NAME }} or {{ machine.FACT }}"),
        }
    }

    /// What is computed apart from a step would be kept and shown.
    pub(super) fn no_secrets(&mut self, names: &[String], what: &str, at: At) {
        for name in names.iter().filter_map(|name| name.strip_prefix("vars.")) {
            if self.secrets.contains(name) {
                let hint = "only parameters of steps see secrets: use another variable here";
                self.add(at, format!("{what} uses the secret variable `{name}`"), hint);
            }
        }
    }

    pub(super) fn names(&mut self, names: &[String], at: At) {
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
}
