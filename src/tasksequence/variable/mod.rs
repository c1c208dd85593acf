//! Values of variables that the site, its collections and its machines give, and secrets.
//!
//! The strongest wins: the deployment, then the machine, then its collections in the order of their names, then the site,
//! then the default in the document. Invariants: a secret is sealed wherever it is stored, here and with a run; it leaves the
//! appliance for one step of one run under way on the machine that asks, and each time is in the audit log.
//!
//! Absent: secrets in orders, journals, plans and logs. Read next: `db`, then `run::drive`, which asks for them.

pub mod api;
mod db;

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::stdx::time::Timestamp;

/// For whom a value is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Scope {
    Site,
    /// By its name.
    Collection(String),
    /// By its name or identifier; stored by its identifier.
    Machine(String),
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scope::Site => f.write_str("site"),
            Scope::Collection(name) => write!(f, "collection:{name}"),
            Scope::Machine(name) => write!(f, "machine:{name}"),
        }
    }
}

impl From<Scope> for String {
    fn from(scope: Scope) -> String {
        scope.to_string()
    }
}

impl TryFrom<String> for Scope {
    type Error = String;

    fn try_from(text: String) -> Result<Scope, String> {
        match text.split_once(':') {
            None if text == "site" => Ok(Scope::Site),
            Some(("collection", name)) if !name.is_empty() => Ok(Scope::Collection(name.to_owned())),
            Some(("machine", name)) if !name.is_empty() => Ok(Scope::Machine(name.to_owned())),
            _ => Err(format!("`{text}` is no scope: write site, collection:NAME or machine:NAME")),
        }
    }
}

/// A value as it is listed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VariableRecord {
    pub scope: Scope,
    pub name: String,
    /// Null for a secret.
    pub value: Value,
    pub secret: bool,
    pub changed_at: Timestamp,
    pub changed_by: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_written_as_they_are_read() {
        for text in ["site", "collection:room a", "machine:ws-1"] {
            assert_eq!(Scope::try_from(text.to_owned()).unwrap().to_string(), text);
        }
        for text in ["", "sites", "collection:", "machine", "group:x"] {
            assert!(Scope::try_from(text.to_owned()).is_err(), "{text}");
        }
    }
}
