//! Fields of maps, by their type.

use super::super::spelling::instead;
use super::super::yaml::{At, Key, Node, Tree};
use super::{Parser, find};

impl Parser {
    pub(super) fn map<'a>(&mut self, node: &'a Node, what: &str, example: &str) -> Option<&'a [(Key, Node)]> {
        match &node.tree {
            Tree::Map(map) => Some(map),
            _ => {
                self.add(node.at, format!("{what} must be a map, and this is {}", node.kind()), example);
                None
            }
        }
    }

    pub(super) fn known_keys(&mut self, map: &[(Key, Node)], known: &[&str], what: &str) {
        for (key, _) in map.iter().filter(|(key, _)| !known.contains(&key.text.as_str())) {
            self.add(key.at, format!("{what} has no key `{}`", key.text), instead(&key.text, known));
        }
    }

    pub(super) fn required_text(&mut self, map: &[(Key, Node)], at: At, key: &str, example: &str) -> Option<String> {
        if find(map, key).is_none() {
            self.add(at, format!("`{key}` is missing"), example);
        }
        self.optional_text(map, key)
    }

    pub(super) fn optional_text(&mut self, map: &[(Key, Node)], key: &str) -> Option<String> {
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

    pub(super) fn optional_boolean(&mut self, map: &[(Key, Node)], key: &str) -> bool {
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
