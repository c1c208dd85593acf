//! The parameters of a step, each against its kind.

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::stdx::{hex, xml};

use super::super::condition;
use super::super::layout::Share;
use super::super::quantity::{Bytes, Seconds};
use super::super::spelling::instead;
use super::super::steps::{Kind, Parameter, Row, selection};
use super::super::yaml::{Key, Node, Tree};
use super::{Parser, STEP_KEYS, find};

/// It travels within the order of each run.
const SCRIPT_BYTES_MAX: usize = 64 << 10;

impl Parser {
    pub(super) fn parameters(&mut self, row: &Row, key: &Key, node: &Node) -> Map<String, Value> {
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
                if parameter.kind == Kind::Script {
                    self.script(node, &mut with);
                }
            }
        }
        with
    }

    /// A document of XML, as far as its templates let it be seen: what they leave out or repeat is known in the plan.
    fn document(&mut self, node: &Node, text: &str, what: &str) {
        let shown = if text.contains("{%") { None } else { without_expressions(text) };
        if let Some(Err(fault)) = shown.map(|shown| xml::root(&shown)) {
            self.add(node.at, format!("{what} is no document of XML: {fault}"), "");
        }
    }

    /// Checks a value against its kind; one with a template is checked for its names, and for its type in the plan.
    fn value(&mut self, node: &Node, kind: Kind, what: &str) {
        self.templates_in(node);
        if let (Kind::Xml, Tree::Text(text)) = (kind, &node.tree) {
            return self.document(node, text, what);
        }
        if matches!(&node.tree, Tree::Text(text) if condition::is_template(text)) {
            return;
        }
        let wrong =
            |expected: String| (format!("{what} is `{}`, and must be {expected}", node.quoted()), String::new());
        let fault = match (kind, &node.tree) {
            (Kind::Anything, _) => None,
            (Kind::Image, Tree::Text(text)) => self.unknown_image(text, what),
            (Kind::Text | Kind::Script, Tree::Text(_)) => None,
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
            (Kind::Records(fields), _) => return self.records(node, fields, what),
            (Kind::Share, Tree::Number(number)) if number.as_u64().is_some() => None,
            (Kind::Share, Tree::Text(text)) if Share::parse(text).is_some() => None,
            (Kind::Share, _) => Some(wrong(format!("a size, such as {}", Share::EXAMPLES))),
            (Kind::Partition, Tree::Text(_)) => None,
            (Kind::Partition, Tree::Number(number)) if number.as_u64().is_some_and(|n| (1..=128).contains(&n)) => None,
            (Kind::Partition, _) => Some(wrong("the name of a partition, or its number".into())),
            (Kind::Text | Kind::Image | Kind::Script | Kind::Xml, Tree::Number(_) | Tree::Boolean(_)) => Some((
                format!("{what} is {}, and must be a text", node.kind()),
                format!("put it in quotes: \"{}\"", node.quoted()),
            )),
            (Kind::Text | Kind::Image | Kind::Script | Kind::Xml, _) => Some(wrong("a text".into())),
        };
        if let Some((message, hint)) = fault {
            self.add(node.at, message, hint);
        }
    }

    /// The script goes into the step: a run carries out what it was started with.
    fn script(&mut self, node: &Node, with: &mut Map<String, Value>) {
        let Tree::Text(path) = &node.tree else { return };
        let Some(text) = self.file(path, "`script` of `run-script`", node.at) else { return };
        if text.len() > SCRIPT_BYTES_MAX {
            let message = format!("the script `{path}` has {} bytes, at most {SCRIPT_BYTES_MAX} are taken", text.len());
            self.add(node.at, message, "put large files into a package or an image");
        }
        if !text.starts_with("#!") {
            let hint = "its first line says who reads it, such as `#!/bin/sh`";
            self.add(node.at, format!("the script `{path}` does not begin with `#!`"), hint);
        }
        with.insert("content".into(), hex::emit(text.as_bytes()).into());
        with.insert("sha256".into(), hex::emit(&Sha256::digest(text.as_bytes())).into());
    }

    /// A list of maps with fields of their own.
    fn records(&mut self, node: &Node, fields: &'static [Parameter], what: &str) {
        let first = fields.first().map_or("", |field| field.name);
        let list = match &node.tree {
            Tree::List(list) if !list.is_empty() => list,
            _ => {
                let hint = format!("begin each entry with `- `, such as `- {{ {first}: ... }}`");
                let message = format!("{what} must be a list with at least one entry, and this is {}", node.kind());
                self.add(node.at, message, hint);
                return;
            }
        };
        let names: Vec<&str> = fields.iter().map(|field| field.name).collect();
        for entry in list {
            let Some(map) = self.map(entry, &format!("an entry of {what}"), &format!("- {{ {first}: ... }}")) else {
                continue;
            };
            self.known_keys(map, &names, &format!("an entry of {what}"));
            for field in fields {
                match find(map, field.name) {
                    Some((_, node)) => self.value(node, field.kind, &format!("`{}` in {what}", field.name)),
                    None if field.required => {
                        let message = format!("an entry of {what} lacks `{}`: {}", field.name, field.summary);
                        self.add(entry.at, message, format!("{}: ...", field.name));
                    }
                    None => {}
                }
            }
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
}

/// The text with an `x` in place of each `{{ ... }}`; `None` when one has no end.
fn without_expressions(text: &str) -> Option<String> {
    let (mut shown, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once("{{") {
        shown.push_str(before);
        shown.push('x');
        rest = after.split_once("}}")?.1;
    }
    Some(shown + rest)
}
