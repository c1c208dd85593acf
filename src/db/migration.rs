//! Steps that bring the tables up to date.

use std::collections::BTreeSet;

use rusqlite::Connection;

use super::Error;
use crate::stdx::time::Timestamp;

/// One step forward, applied once and never edited after a release. The name is `subject-number`.
#[derive(Clone, Copy, Debug)]
pub struct Migration {
    pub name: &'static str,
    pub sql: &'static str,
}

/// Applies what is missing, each in a transaction of its own; refuses a database that knows more than this program.
pub(super) fn apply(connection: &mut Connection, migrations: &[&[Migration]], now: Timestamp) -> Result<(), Error> {
    connection
        .execute_batch("CREATE TABLE IF NOT EXISTS migration (name TEXT PRIMARY KEY, applied_at INTEGER NOT NULL)")?;
    let applied: BTreeSet<String> =
        connection.prepare("SELECT name FROM migration")?.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    let known: BTreeSet<&str> = migrations.iter().flat_map(|steps| steps.iter().map(|step| step.name)).collect();
    if let Some(name) = applied.iter().find(|name| !known.contains(name.as_str())) {
        return Err(Error::Newer { name: name.clone() });
    }
    for step in migrations.iter().flat_map(|steps| steps.iter()).filter(|step| !applied.contains(step.name)) {
        apply_one(connection, step, now).map_err(|source| Error::Migrate { name: step.name.to_owned(), source })?;
    }
    Ok(())
}

fn apply_one(connection: &mut Connection, step: &Migration, now: Timestamp) -> Result<(), rusqlite::Error> {
    let transaction = connection.transaction()?;
    transaction.execute_batch(step.sql)?;
    transaction.execute("INSERT INTO migration (name, applied_at) VALUES (?1, ?2)", (step.name, now.milliseconds()))?;
    transaction.commit()
}
