//! A task sequence as a type in which nothing required is optional. Its JSON form is what machines get.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::stdx::hex;

crate::text_id!(
    /// Where an item stands: `2` is the second step, `2.1` the first within it, `2.on-failure.1` and `always.1` the
    /// first of those sections. The same document always numbers alike.
    ItemId
);

impl ItemId {
    /// Whether it stands in the group `other`, at any depth.
    pub fn is_within(&self, other: &ItemId) -> bool {
        self.0.strip_prefix(other.0.as_str()).is_some_and(|rest| rest.starts_with('.'))
    }
}

/// The version of the JSON form. A machine refuses a newer one.
pub const FORMAT: u32 = 1;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sequence {
    pub format: u32,
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// In the order of the document: a default may use those above it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub variables: Vec<Variable>,
    #[serde(flatten)]
    pub body: Block,
}

/// A list of items with what runs when one of them failed, and what runs in any case.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Block {
    /// Values of variables that hold within it: it was another document.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub given: Vec<Given>,
    pub steps: Vec<Item>,
    #[serde(default, rename = "on-failure", skip_serializing_if = "Vec::is_empty")]
    pub on_failure: Vec<Item>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub always: Vec<Item>,
}

/// The value of a variable within an included document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Given {
    pub name: String,
    /// A value, or a string with a template.
    pub value: Value,
    /// Its template sees what holds around the document; else it is a default and sees what is given before it.
    pub here: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Item {
    pub id: ItemId,
    pub name: String,
    /// An expression; the item is skipped when it is false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    /// The run goes on although this item failed.
    #[serde(default, rename = "continue-on-error", skip_serializing_if = "std::ops::Not::not")]
    pub continue_on_error: bool,
    pub work: Work,
    /// The line of the document, 1-based; not part of the JSON form.
    #[serde(skip)]
    pub line: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Work {
    Group(Block),
    Step(Step),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// A row of `steps::TABLE`.
    pub kind: String,
    /// Parameters as written: strings may hold templates.
    #[serde(default)]
    pub with: Map<String, Value>,
    #[serde(default)]
    pub retry: Retry,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<u64>,
    /// The variable that takes the step's evidence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub register: Option<String>,
}

/// How often a step is tried, and how long to wait in between: `first_seconds`, doubled each time, at most `max_seconds`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    pub attempts: u32,
    pub first_seconds: u64,
    pub max_seconds: u64,
}

impl Default for Retry {
    fn default() -> Retry {
        Retry { attempts: 1, first_seconds: 5, max_seconds: 300 }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Variable {
    pub name: String,
    #[serde(rename = "type")]
    pub kind: VariableType,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// A value, or a string with a template. Without one the deployment, the machine or a collection must give it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<Value>,
    /// When not empty, the only values allowed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub choices: Vec<Value>,
    /// Never shown, logged or put into evidence.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub secret: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VariableType {
    Text,
    Integer,
    Boolean,
    List,
}

impl VariableType {
    pub const ALL: [(&'static str, VariableType); 4] = [
        ("text", VariableType::Text),
        ("integer", VariableType::Integer),
        ("boolean", VariableType::Boolean),
        ("list", VariableType::List),
    ];

    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, kind)| *kind == self).map_or("text", |(name, _)| name)
    }

    pub fn accepts(self, value: &Value) -> bool {
        match self {
            VariableType::Text => value.is_string(),
            VariableType::Integer => value.is_i64(),
            VariableType::Boolean => value.is_boolean(),
            VariableType::List => value.is_array(),
        }
    }
}

impl Sequence {
    /// SHA-256 of the JSON form, in hexadecimal: comments and layout of the YAML do not make a new version.
    pub fn version(&self) -> String {
        let json = serde_json::to_vec(self).expect("a sequence is plain data, it always has a JSON form");
        hex::emit(&Sha256::digest(json))
    }

    /// All items in the order of the document, groups before what is in them.
    pub fn items(&self) -> Vec<&Item> {
        let mut items = Vec::new();
        self.body.collect(&mut items);
        items
    }

    pub fn item(&self, id: &ItemId) -> Option<&Item> {
        self.items().into_iter().find(|item| item.id == *id)
    }

    /// The included documents that an item is within, from the outside in.
    pub fn around(&self, id: &ItemId) -> impl Iterator<Item = (&ItemId, &Block)> {
        self.items().into_iter().filter_map(move |item| match &item.work {
            Work::Group(block) if !block.given.is_empty() && id.is_within(&item.id) => Some((&item.id, block)),
            _ => None,
        })
    }

    /// The steps alone, in the order of the document.
    pub fn steps(&self) -> impl Iterator<Item = (&Item, &Step)> {
        self.items().into_iter().filter_map(|item| match &item.work {
            Work::Step(step) => Some((item, step)),
            Work::Group(_) => None,
        })
    }

    /// Names of the variables whose values are never shown.
    pub fn secrets(&self) -> impl Iterator<Item = &str> {
        self.variables.iter().filter(|variable| variable.secret).map(|variable| variable.name.as_str())
    }
}

impl Block {
    /// `(name of the section in an item's identifier, its items)`; the main one has no name.
    pub fn sections(&self) -> [(&'static str, &Vec<Item>); 3] {
        [("", &self.steps), ("on-failure", &self.on_failure), ("always", &self.always)]
    }

    fn collect<'a>(&'a self, items: &mut Vec<&'a Item>) {
        for item in self.sections().into_iter().flat_map(|(_, list)| list) {
            items.push(item);
            if let Work::Group(block) = &item.work {
                block.collect(items);
            }
        }
    }

    /// Gives every item the identifier of its place, `above` being that of the group this block belongs to.
    pub fn number(&mut self, above: &str) {
        for (section, list) in
            [("", &mut self.steps), ("on-failure", &mut self.on_failure), ("always", &mut self.always)]
        {
            for (index, item) in list.iter_mut().enumerate() {
                let parts = [above.to_owned(), section.to_owned(), (index + 1).to_string()];
                item.id = ItemId(parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("."));
                if let Work::Group(block) = &mut item.work {
                    block.number(&item.id.0.clone());
                }
            }
        }
    }
}

/// The values that a run starts with, by name.
pub type Values = BTreeMap<String, Value>;
