//! Values and secrets as the site keeps them.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, Transaction};
use serde_json::{Value, json};

use crate::access::db::release_secret;
use crate::access::secret::Secret;
use crate::access::{Principal, audit};
use crate::fleet::deployment::RunState;
use crate::fleet::machine::{Machine, MachineId};
use crate::stdx::time::Timestamp;
use crate::tasksequence::db::{Error, Sequences, find_run, stored, stored_order};
use crate::tasksequence::link::{AskSecrets, RunId, RunOrder, Secrets};
use crate::tasksequence::model::{Sequence, Values, Variable, VariableType, Work};
use crate::tasksequence::run::secrets_of;

use super::{Scope, VariableRecord};

/// What a variable of a scope is sealed for.
fn place(scope: &str, name: &str) -> String {
    format!("variable/{scope}/{name}")
}

/// What a secret of a run is sealed for.
fn place_in_run(run: &RunId, name: &str) -> String {
    format!("run/{run}/{name}")
}

impl Sequences {
    /// Keeps a value; a secret is sealed before it is stored.
    pub fn set_variable(
        &self,
        scope: &Scope,
        name: &str,
        value: &Value,
        secret: bool,
        by: &Principal,
    ) -> Result<(), Error> {
        let good =
            name.chars().enumerate().all(|(at, c)| c == '_' || c.is_ascii_lowercase() || at > 0 && c.is_ascii_digit());
        if name.is_empty() || !good {
            return Err(Error::Request(
                format!("`{name}` is not a name for a variable"),
                Some("use a-z, 0-9 and `_`".into()),
            ));
        }
        let scope = self.stored_scope(scope)?;
        let text = value.to_string();
        let kept = if secret { self.vault.seal(&place(&scope, name), &Secret::new(&text)) } else { text };
        let now = self.fleet.clock.now();
        self.fleet.db.write(|tx| {
            tx.execute(
                "INSERT INTO variable (scope, name, value, secret, changed_at, changed_by) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                 ON CONFLICT (scope, name) DO UPDATE SET value = ?3, secret = ?4, changed_at = ?5, changed_by = ?6",
                (&scope, name, kept, secret, now.milliseconds(), by.label()),
            )?;
            let what = if secret { "a secret" } else { "" };
            audit::append(tx, now, &by.label(), "variable-set", &place(&scope, name), what)?;
            Ok(())
        })
    }

    pub fn remove_variable(&self, scope: &Scope, name: &str, by: &Principal) -> Result<(), Error> {
        let scope = self.stored_scope(scope)?;
        let now = self.fleet.clock.now();
        self.fleet.db.write(|tx| {
            if tx.execute("DELETE FROM variable WHERE scope = ?1 AND name = ?2", (&scope, name))? == 0 {
                let hint = Some("`remint variable list` shows them all".to_owned());
                return Err(Error::Request(format!("{scope} gives no value to `{name}`"), hint));
            }
            audit::append(tx, now, &by.label(), "variable-remove", &place(&scope, name), "")?;
            Ok(())
        })
    }

    /// All values; of secrets only that they are there.
    pub fn variables(&self) -> Result<Vec<VariableRecord>, Error> {
        self.fleet.db.read(|c| {
            let mut statement = c.prepare_cached(
                "SELECT scope, name, value, secret, changed_at, changed_by FROM variable ORDER BY scope, name",
            )?;
            let rows = statement.query_map([], |row| {
                let (scope, secret) = (row.get::<_, String>(0)?, row.get(3)?);
                let value = if secret { Value::Null } else { Value::from(row.get::<_, String>(2)?) };
                Ok(VariableRecord {
                    scope: Scope::try_from(scope).unwrap_or(Scope::Site),
                    name: row.get(1)?,
                    value,
                    secret,
                    changed_at: Timestamp::from_milliseconds(row.get(4)?),
                    changed_by: row.get(5)?,
                })
            })?;
            let mut records: Vec<VariableRecord> = rows.collect::<Result<_, _>>()?;
            for record in records.iter_mut().filter(|record| !record.secret) {
                let text = record.value.as_str().unwrap_or_default().to_owned();
                record.value = stored("value of", &record.name, &text)?;
            }
            Ok(records)
        })
    }

    fn stored_scope(&self, scope: &Scope) -> Result<String, Error> {
        Ok(match scope {
            Scope::Site => scope.to_string(),
            Scope::Collection(name) => {
                self.fleet.collection(name)?;
                scope.to_string()
            }
            Scope::Machine(name) => Scope::Machine(self.fleet.machine(name)?.id.0).to_string(),
        })
    }

    /// What the deployment gives, and for the sequence's other variables what machine, collections and site give.
    pub fn values_for(&self, sequence: &Sequence, machine: &Machine, given: &Values) -> Result<Values, Error> {
        let mut scopes = vec![Scope::Machine(machine.id.0.clone()).to_string()];
        let mut collections = self.fleet.collections_of(&machine.id)?;
        collections.sort();
        scopes.extend(collections.into_iter().map(|name| Scope::Collection(name).to_string()));
        scopes.push(Scope::Site.to_string());
        let mut values = given.clone();
        for variable in sequence.variables.iter().filter(|variable| !given.contains_key(&variable.name)) {
            let found = self.fleet.db.read(|c| find_value(c, &scopes, &variable.name))?;
            let Some((scope, text, secret)) = found else { continue };
            let text = match secret {
                true => self.vault.unseal(&place(&scope, &variable.name), &text).map_err(sealed)?.reveal().to_owned(),
                false => text,
            };
            values.insert(variable.name.clone(), typed(variable, stored("value of", &variable.name, &text)?));
        }
        Ok(values)
    }

    /// The order without its secrets, and those sealed for this run alone, as they are stored.
    pub(in crate::tasksequence) fn seal(&self, order: &RunOrder) -> (RunOrder, String) {
        let mut open = order.clone();
        let mut sealed = BTreeMap::new();
        for name in order.sequence.secrets() {
            if let Some(value) = open.variables.remove(name) {
                let text = self.vault.seal(&place_in_run(&order.run, name), &Secret::new(value.to_string()));
                sealed.insert(name.to_owned(), text);
            }
        }
        (open, json!(sealed).to_string())
    }

    /// Runs that an earlier release kept with their secrets in the open are sealed. How many there were.
    pub fn seal_open_runs(&self) -> Result<usize, Error> {
        self.fleet.db.write(|tx| {
            let mut statement = tx.prepare_cached("SELECT id FROM run WHERE sealed = ''")?;
            let runs: Vec<String> = statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
            for run in &runs {
                let (open, sealed) = self.seal(&stored_order(tx, run)?);
                let update = "UPDATE run SET run_order = ?2, sealed = ?3 WHERE id = ?1";
                tx.execute(update, (run, json!(open).to_string(), sealed))?;
            }
            Ok(runs.len())
        })
    }

    /// Gives a machine the secrets that a step of its run needs, and says so in the audit log.
    pub fn release(&self, machine: &MachineId, message: &AskSecrets) -> Result<Secrets, Error> {
        let now = self.fleet.clock.now();
        let name = self.fleet.machine(machine.as_str())?.name;
        self.fleet.db.write(|tx| {
            let run = find_run(tx, message.run.as_str())?;
            if run.machine != *machine || run.state != RunState::Running {
                return Err(Error::NoRun(message.run.0.clone()));
            }
            let order = stored_order(tx, run.id.as_str())?;
            let item = order.sequence.item(&message.item);
            let needed = match item.map(|item| &item.work) {
                Some(Work::Step(step)) => secrets_of(&order.sequence, step),
                _ => Vec::new(),
            };
            let sealed = sealed_of(tx, &run.id)?;
            let to = format!("{name} {} step {}", run.id, message.item);
            let mut secrets = Secrets::default();
            for name in needed {
                let Some(text) = sealed.get(&name) else { continue };
                let secret = release_secret(tx, &self.vault, &to, &place_in_run(&run.id, &name), text, now);
                let secret = secret.map_err(|error| Error::Request(error.to_string(), None))?;
                secrets.values.insert(name.clone(), stored("secret", &name, secret.reveal())?);
            }
            Ok(secrets)
        })
    }
}

fn sealed(error: crate::access::vault::Error) -> Error {
    let hint = crate::stdx::hint::Hint::hint(&error);
    Error::Request(error.to_string(), hint)
}

fn sealed_of(tx: &Transaction<'_>, run: &RunId) -> Result<BTreeMap<String, String>, Error> {
    let text: String = tx.query_row("SELECT sealed FROM run WHERE id = ?1", [run.as_str()], |row| row.get(0))?;
    if text.is_empty() { Ok(BTreeMap::new()) } else { stored("secrets of run", run.as_str(), &text) }
}

/// The first of the scopes that gives a value: it, what is stored, whether that is sealed.
fn find_value(c: &Connection, scopes: &[String], name: &str) -> Result<Option<(String, String, bool)>, Error> {
    let mut statement = c.prepare_cached("SELECT value, secret FROM variable WHERE scope = ?1 AND name = ?2")?;
    for scope in scopes {
        let found = statement.query_row((scope, name), |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
        if let Some((value, secret)) = found {
            return Ok(Some((scope.clone(), value, secret)));
        }
    }
    Ok(None)
}

/// A number where a text is wanted is a text: `room = 7` was meant so.
fn typed(variable: &Variable, value: Value) -> Value {
    match (variable.kind, &value) {
        (VariableType::Text, Value::Number(number)) => Value::from(number.to_string()),
        _ => value,
    }
}
