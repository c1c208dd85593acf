//! The kernel that owns the database: opens it, brings its tables up to date, hands out transactions.
//!
//! Embedded SQLite in one file, one writer and a few readers. The SQL lives in each subject's `db.rs` and keeps to what
//! SQLite and PostgreSQL both understand, but for `?1`, which PostgreSQL writes `$1` (in SQLite `$1` is a *name*, numbered
//! by its first appearance: binding by position would mix values up; tidy forbids it): `ON CONFLICT`, `RETURNING`, integers for time (milliseconds),
//! text for JSON. No product noun in here, and no query.
//!
//! Calls block: async code goes through `api::blocking`.

mod migration;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use migration::Migration;
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};

use crate::stdx::hint::Hint;
use crate::stdx::time::Timestamp;

/// Readers kept open at most; more at once are opened and closed again.
const READERS_KEPT_MAX: usize = 8;
/// How long a statement waits for another process that holds the lock (a command run beside the appliance).
const BUSY_SECONDS: u64 = 10;

/// The database of a site.
pub struct Db {
    path: PathBuf,
    writer: Mutex<Connection>,
    readers: Mutex<Vec<Connection>>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("open the database {path}")]
    Open { path: PathBuf, source: rusqlite::Error },
    #[error("bring the database up to date (step `{name}`)")]
    Migrate { name: String, source: rusqlite::Error },
    #[error("copy the database to {path} before it is brought up to date")]
    Copy { path: PathBuf, source: std::io::Error },
    #[error("the database was written by a newer Remint (it knows `{name}`)")]
    Newer { name: String },
    #[error("read or write the database")]
    Query(#[from] rusqlite::Error),
}

impl Hint for Error {
    fn hint(&self) -> Option<String> {
        match self {
            Error::Open { path, .. } => {
                Some(format!("does {} exist and may this user write it? `remint init` makes a site", path.display()))
            }
            Error::Copy { .. } => Some("make room beside it; nothing was changed".into()),
            Error::Newer { .. } => {
                Some("install that version again, or restore the backup that was made before the upgrade".into())
            }
            Error::Query(rusqlite::Error::SqliteFailure(code, _)) => match code.code {
                rusqlite::ErrorCode::DiskFull => {
                    Some("the disk of the site is full: free some space; nothing was half-written".into())
                }
                rusqlite::ErrorCode::DatabaseBusy => {
                    Some("another process holds the database: is a backup or a second appliance running?".into())
                }
                _ => None,
            },
            _ => None,
        }
    }
}

impl Db {
    /// Opens or creates the database and applies the migrations that it lacks, in the order given; before it changes one
    /// that holds something it copies it to `PATH.before-STEP`.
    pub fn open(path: &Path, migrations: &[&[Migration]], now: Timestamp) -> Result<Db, Error> {
        let mut writer = connect(path, OpenFlags::default())?;
        migration::apply(&mut writer, path, migrations, now)?;
        Ok(Db { path: path.to_owned(), writer: Mutex::new(writer), readers: Mutex::new(Vec::new()) })
    }

    /// Runs `work` in a transaction that is committed when it returns `Ok` and undone when it returns `Err`.
    pub fn write<T, E: From<rusqlite::Error>>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut writer = locked(&self.writer);
        let transaction = writer.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let value = work(&transaction)?;
        transaction.commit()?;
        Ok(value)
    }

    /// Runs `work` on a connection that sees one consistent state and cannot write.
    pub fn read<T, E: From<rusqlite::Error>>(&self, work: impl FnOnce(&Connection) -> Result<T, E>) -> Result<T, E> {
        let kept = locked(&self.readers).pop();
        let mut reader = match kept {
            Some(reader) => reader,
            None => self.reader()?,
        };
        let value = {
            let transaction = reader.transaction()?;
            work(&transaction)?
        };
        let mut readers = locked(&self.readers);
        if readers.len() < READERS_KEPT_MAX {
            readers.push(reader);
        }
        Ok(value)
    }

    /// A connection of its own that cannot write, for work that sets limits on it (queries that people type).
    pub fn reader(&self) -> Result<Connection, rusqlite::Error> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let reader = Connection::open_with_flags(&self.path, flags)?;
        settle(&reader)?;
        Ok(reader)
    }

    /// Whether the database can be written now, without a change.
    pub fn check(&self) -> Result<(), Error> {
        self.write(|_| Ok(()))
    }

    /// Copies the database, as it is at one instant, to a new file while it is in use.
    pub fn backup(&self, to: &Path) -> Result<(), Error> {
        let reader = self.reader()?;
        reader.backup("main", to, None::<fn(rusqlite::backup::Progress)>)?;
        Ok(())
    }
}

fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, Error> {
    let open = || -> Result<Connection, rusqlite::Error> {
        let connection = Connection::open_with_flags(path, flags)?;
        settle(&connection)?;
        connection.pragma_update(None, "journal_mode", "wal")?;
        connection.pragma_update(None, "synchronous", "full")?;
        connection.pragma_update(None, "foreign_keys", true)?;
        Ok(connection)
    };
    open().map_err(|source| Error::Open { path: path.to_owned(), source })
}

fn settle(connection: &Connection) -> Result<(), rusqlite::Error> {
    connection.set_prepared_statement_cache_capacity(64);
    connection.busy_timeout(Duration::from_secs(BUSY_SECONDS))
}

/// A panic while the lock was held left no half-made state: the transaction was rolled back when it was dropped.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLES: &[Migration] = &[Migration { name: "test-1", sql: "CREATE TABLE thing (name TEXT PRIMARY KEY)" }];

    fn things(db: &Db) -> i64 {
        db.read::<_, Error>(|c| Ok(c.query_row("SELECT count(*) FROM thing", [], |row| row.get(0))?)).unwrap()
    }

    #[test]
    fn a_failed_transaction_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let db = Db::open(&folder.path().join("db"), &[TABLES], Timestamp::default()).unwrap();
        let add = |tx: &Transaction<'_>| tx.execute("INSERT INTO thing VALUES ('a')", []);
        let failed: Result<(), Error> = db.write(|tx| {
            add(tx)?;
            Err(Error::Newer { name: "x".into() })
        });
        assert!(failed.is_err());
        assert_eq!(things(&db), 0);
        db.write::<_, Error>(|tx| Ok(add(tx)?)).unwrap();
        assert_eq!(things(&db), 1);
        let refused = db.read::<_, Error>(|c| Ok(c.execute("DELETE FROM thing", [])?));
        assert!(refused.is_err(), "a reader must not write");
    }

    #[test]
    fn a_database_is_migrated_once_and_a_newer_one_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        let more = &[TABLES[0], Migration { name: "test-2", sql: "ALTER TABLE thing ADD COLUMN size INTEGER" }];
        drop(Db::open(&path, &[TABLES], Timestamp::default()).unwrap());
        let copy = folder.path().join("db.before-test-2");
        assert!(!copy.exists());
        drop(Db::open(&path, &[more], Timestamp::default()).unwrap());
        assert_eq!(things(&Db::open(&copy, &[TABLES], Timestamp::default()).unwrap()), 0, "as it was before the step");
        drop(Db::open(&path, &[more], Timestamp::default()).unwrap());
        let error = Db::open(&path, &[TABLES], Timestamp::default()).err().unwrap();
        assert!(matches!(error, Error::Newer { name } if name == "test-2"));
    }

    #[test]
    fn a_backup_is_a_database_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let db = Db::open(&folder.path().join("db"), &[TABLES], Timestamp::default()).unwrap();
        db.write::<_, Error>(|tx| Ok(tx.execute("INSERT INTO thing VALUES ('a')", [])?)).unwrap();
        db.backup(&folder.path().join("copy")).unwrap();
        let copy = Db::open(&folder.path().join("copy"), &[TABLES], Timestamp::default()).unwrap();
        assert_eq!(things(&copy), 1);
    }
}
