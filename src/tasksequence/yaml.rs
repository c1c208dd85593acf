//! YAML as a tree in which every value and every key knows where it stands.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::Spanned;

/// Line and column, both from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct At {
    pub line: u32,
    pub column: u32,
}

#[derive(Clone, Debug)]
pub(super) struct Node {
    pub at: At,
    pub tree: Tree,
}

#[derive(Clone, Debug)]
pub(super) enum Tree {
    Null,
    Boolean(bool),
    Number(Number),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

#[derive(Clone, Debug)]
pub(super) struct Key {
    pub at: At,
    pub text: String,
}

/// The document, or where it is not YAML and why.
pub(super) fn parse(text: &str) -> Result<Node, (At, String)> {
    let options = serde_saphyr::options! {
        duplicate_keys: serde_saphyr::options::DuplicateKeyPolicy::Error,
        with_snippet: false,
    };
    let spanned: Spanned<Tree> = serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let at = error.location().map(at).unwrap_or(At { line: 1, column: 1 });
        (at, error.without_snippet().to_string())
    })?;
    Ok(node(spanned))
}

/// The parser's words without the position, which is said already, and what to do about it.
pub(super) fn explained(message: &str) -> (String, &'static str) {
    let words = message.split(" at line ").next().unwrap_or(message);
    let (words, hint) = match words {
        words if words.starts_with("duplicate mapping key") => {
            let key = words.trim_start_matches("duplicate mapping key: ").split(',').next().unwrap_or_default();
            return (format!("the key `{key}` is there twice"), "remove one of the two");
        }
        words if words.contains("tab") => (words, "indent with spaces"),
        words if words.contains("anchor") => (words, "an alias `*name` needs `&name` above it"),
        words if words.contains("quoted") => (words, "is a quote not closed in the line above?"),
        words if words.contains("bracket") => (words, "close it with `]` or `}`"),
        words => (words, "compare the indentation with the lines above"),
    };
    (words.to_owned(), hint)
}

impl Node {
    pub(super) fn kind(&self) -> &'static str {
        match &self.tree {
            Tree::Null => "nothing",
            Tree::Boolean(_) => "true or false",
            Tree::Number(_) => "a number",
            Tree::Text(_) => "a text",
            Tree::List(_) => "a list",
            Tree::Map(_) => "a map",
        }
    }

    pub(super) fn json(&self) -> Value {
        match &self.tree {
            Tree::Null => Value::Null,
            Tree::Boolean(value) => Value::Bool(*value),
            Tree::Number(number) => Value::Number(number.clone()),
            Tree::Text(text) => Value::String(text.clone()),
            Tree::List(list) => Value::Array(list.iter().map(Node::json).collect()),
            Tree::Map(map) => {
                Value::Object(map.iter().map(|(key, node)| (key.text.clone(), node.json())).collect::<Map<_, _>>())
            }
        }
    }

    /// The value as it would be quoted in a message, at most 60 characters.
    pub(super) fn quoted(&self) -> String {
        let text = match &self.tree {
            Tree::Text(text) => text.lines().next().unwrap_or_default().to_owned(),
            _ => self.json().to_string(),
        };
        if text.chars().count() > 60 { text.chars().take(57).chain("...".chars()).collect() } else { text }
    }
}

fn node(spanned: Spanned<Tree>) -> Node {
    Node { at: at(spanned.referenced), tree: spanned.value }
}

fn at(location: serde_saphyr::Location) -> At {
    let whole = |value: u64| u32::try_from(value).unwrap_or(u32::MAX).max(1);
    At { line: whole(location.line()), column: whole(location.column()) }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Tree, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree::Boolean(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Tree, E> {
        Ok(Tree::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Tree, E> {
        Ok(Tree::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Tree, E> {
        // `0644` is a float in YAML 1.2; a person wrote a whole number.
        if value.fract() == 0.0 && value.abs() < 1e15 {
            return Ok(Tree::Number((value as i64).into()));
        }
        Ok(Number::from_f64(value).map_or_else(|| Tree::Text(value.to_string()), Tree::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Tree, E> {
        Ok(Tree::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Tree, E> {
        Ok(Tree::Text(value))
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Null)
    }

    fn visit_none<E>(self) -> Result<Tree, E> {
        Ok(Tree::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree, D::Error> {
        Tree::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Tree, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = access.next_element::<Spanned<Tree>>()? {
            list.push(node(item));
        }
        Ok(Tree::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Tree, A::Error> {
        let mut map = Vec::new();
        while let Some((key, value)) = access.next_entry::<Spanned<String>, Spanned<Tree>>()? {
            map.push((Key { at: at(key.referenced), text: key.value }, node(value)));
        }
        Ok(Tree::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outline(node: &Node, out: &mut String) {
        out.push_str(&format!("{}:{} ", node.at.line, node.at.column));
        match &node.tree {
            Tree::List(list) => list.iter().for_each(|node| outline(node, out)),
            Tree::Map(map) => map.iter().for_each(|(key, node)| {
                out.push_str(&format!("{}@{}:{}=", key.text, key.at.line, key.at.column));
                outline(node, out);
            }),
            other => out.push_str(&format!("{other:?} ")),
        }
    }

    #[test]
    fn every_value_and_key_has_its_place_and_its_type() {
        let text = "name: x\nsteps:\n  - restart: { into: 'yes' }\n    when: true\n  - a: 1\n    b: |\n      many\n    c:\n    d: 1.5\n";
        let mut out = String::new();
        outline(&parse(text).unwrap(), &mut out);
        assert_eq!(
            out,
            "1:1 name@1:1=1:7 Text(\"x\") steps@2:1=3:3 3:5 restart@3:5=3:14 into@3:16=3:22 Text(\"yes\") \
            when@4:5=4:11 Boolean(true) 5:5 a@5:5=5:8 Number(Number(1)) b@6:5=7:7 Text(\"many\\n\") c@8:5=8:6 Null d@9:5=9:8 Number(Number(1.5)) "
        );
    }

    #[test]
    fn what_is_no_yaml_is_refused_with_its_place() {
        for (text, line) in [("a: [1, 2\nb: 3\n", 2), ("a: \"x\n", 2), ("a: 1\n b: 2\n", 2), ("a: *x\n", 1)] {
            let (at, message) = parse(text).err().unwrap_or_else(|| panic!("{text:?} is taken for YAML"));
            assert_eq!(at.line, line, "{text:?}: {message}");
        }
    }
}
