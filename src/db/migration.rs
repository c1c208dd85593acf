//! Steps that bring the tables up to date.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rusqlite::Connection;

use super::Error;
use crate::stdx::owner::adopt;
use crate::stdx::time::Timestamp;

/// One step forward, applied once and never edited after a release. The name is `subject-number`.
#[derive(Clone, Copy, Debug)]
pub struct Migration {
    pub name: &'static str,
    pub sql: &'static str,
}

/// Applies what is missing, each in a transaction of its own; refuses a database that knows more than this program. A
/// database that holds something is copied first, to a file beside it that is named after the first step.
pub(super) fn apply(
    connection: &mut Connection,
    path: &Path,
    migrations: &[&[Migration]],
    now: Timestamp,
) -> Result<(), Error> {
    connection
        .execute_batch("CREATE TABLE IF NOT EXISTS migration (name TEXT PRIMARY KEY, applied_at INTEGER NOT NULL)")?;
    let applied: BTreeSet<String> =
        connection.prepare("SELECT name FROM migration")?.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    let known: BTreeSet<&str> = migrations.iter().flat_map(|steps| steps.iter().map(|step| step.name)).collect();
    if let Some(name) = applied.iter().find(|name| !known.contains(name.as_str())) {
        return Err(Error::Newer { name: name.clone() });
    }
    let missing = migrations.iter().flat_map(|steps| steps.iter()).filter(|step| !applied.contains(step.name));
    let missing: Vec<&Migration> = missing.collect();
    if let Some(first) = missing.first().filter(|_| !applied.is_empty()) {
        copy_before(connection, path, first.name)?;
    }
    for step in missing {
        apply_one(connection, step, now).map_err(|source| Error::Migrate { name: step.name.to_owned(), source })?;
    }
    Ok(())
}

/// `remint.sqlite.before-access-2` beside the database. An upgrade that was cut off keeps the copy of its first attempt.
fn copy_before(connection: &Connection, path: &Path, step: &str) -> Result<(), Error> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".before-{step}"));
    let copy = path.with_file_name(name);
    if copy.exists() {
        return Ok(());
    }
    let fresh = copy.with_extension("new");
    let _ = fs::remove_file(&fresh);
    connection.backup("main", &fresh, None::<fn(rusqlite::backup::Progress)>)?;
    let renamed = fs::set_permissions(&fresh, fs::Permissions::from_mode(0o600))
        .and_then(|()| adopt(&fresh))
        .and_then(|()| fs::File::open(&fresh)?.sync_all())
        .and_then(|()| fs::rename(&fresh, &copy));
    renamed.map_err(|source| Error::Copy { path: copy, source })
}

fn apply_one(connection: &mut Connection, step: &Migration, now: Timestamp) -> Result<(), rusqlite::Error> {
    let transaction = connection.transaction()?;
    transaction.execute_batch(step.sql)?;
    transaction.execute("INSERT INTO migration (name, applied_at) VALUES (?1, ?2)", (step.name, now.milliseconds()))?;
    transaction.commit()
}
