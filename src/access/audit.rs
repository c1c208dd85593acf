//! The audit log: only appended to, each entry bound to the one before by its hash.

use rusqlite::{OptionalExtension, Transaction};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::db::Db;
use crate::stdx::hex;
use crate::stdx::time::Timestamp;

/// An entry as it is listed.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    pub number: u64,
    pub at: Timestamp,
    pub who: String,
    pub what: String,
    pub on_what: String,
    pub detail: String,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Db(#[from] crate::db::Error),
    #[error("the audit log was changed: entry {number} does not follow from the one before")]
    Broken { number: u64 },
    #[error("the audit log was cut: it ends with entry {found}, and entry {expected} was there")]
    Cut { found: u64, expected: u64 },
    #[error("the audit log was rewritten: entry {number} is not the one that was there")]
    Rewritten { number: u64 },
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Error {
        Error::Db(error.into())
    }
}

/// Appends an entry within the transaction of the deed, so that neither stands without the other.
pub fn append(
    tx: &Transaction<'_>,
    at: Timestamp,
    who: &str,
    what: &str,
    on_what: &str,
    detail: &str,
) -> Result<(), rusqlite::Error> {
    let last: Option<(u64, String)> = tx
        .query_row("SELECT number, hash FROM audit ORDER BY number DESC LIMIT 1", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .optional()?;
    let (number, before) = last.map_or((1, String::new()), |(number, hash)| (number + 1, hash));
    let entry =
        Entry { number, at, who: who.into(), what: what.into(), on_what: on_what.into(), detail: detail.into() };
    tx.execute(
        "INSERT INTO audit (number, at, who, what, on_what, detail, hash) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        (number, at.milliseconds(), who, what, on_what, detail, hash(&before, &entry)),
    )?;
    Ok(())
}

/// The newest entries, newest first, before entry `before` if given.
pub fn list(db: &Db, before: Option<u64>, most: u32) -> Result<Vec<Entry>, Error> {
    db.read(|c| {
        let mut statement = c.prepare(
            "SELECT number, at, who, what, on_what, detail FROM audit WHERE number < ?1 ORDER BY number DESC LIMIT ?2",
        )?;
        let before = before.and_then(|number| i64::try_from(number).ok()).unwrap_or(i64::MAX);
        let rows = statement.query_map((before, most), entry)?;
        Ok(rows.collect::<Result<_, _>>()?)
    })
}

/// The newest entries before entry `before` in which `text` stands, newest first.
pub fn find(db: &Db, text: &str, before: Option<u64>, most: u32) -> Result<Vec<Entry>, Error> {
    db.read(|c| {
        let mut statement = c.prepare(
            "SELECT number, at, who, what, on_what, detail FROM audit WHERE number < ?1
             AND lower(who || ' ' || what || ' ' || on_what || ' ' || detail) LIKE '%' || lower(?2) || '%' ESCAPE '\\'
             ORDER BY number DESC LIMIT ?3",
        )?;
        let text = text.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
        let before = before.and_then(|number| i64::try_from(number).ok()).unwrap_or(i64::MAX);
        let rows = statement.query_map((before, text, most), entry)?;
        Ok(rows.collect::<Result<_, _>>()?)
    })
}

/// The newest entries about something that is known by its name and its identifier, newest first.
pub fn about(db: &Db, name: &str, identifier: &str, most: u32) -> Result<Vec<Entry>, Error> {
    db.read(|c| {
        let mut statement = c.prepare(
            "SELECT number, at, who, what, on_what, detail FROM audit
             WHERE on_what IN (?1, ?2) ORDER BY number DESC LIMIT ?3",
        )?;
        let rows = statement.query_map((name, identifier, most), entry)?;
        Ok(rows.collect::<Result<_, _>>()?)
    })
}

/// The last entry's number and hash. The chain alone cannot tell that its end was cut off: whoever keeps this elsewhere
/// can, with [`verify_from`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct Head {
    pub number: u64,
    pub hash: String,
}

pub fn head(db: &Db) -> Result<Head, Error> {
    db.read(|c| {
        let last = c.query_row("SELECT number, hash FROM audit ORDER BY number DESC LIMIT 1", [], |row| {
            Ok(Head { number: row.get(0)?, hash: row.get(1)? })
        });
        Ok(last.optional()?.unwrap_or_default())
    })
}

/// [`verify`], and the log still holds the entry that was its last once.
pub fn verify_from(db: &Db, anchor: &Head) -> Result<u64, Error> {
    let entries = verify(db)?;
    if entries < anchor.number {
        return Err(Error::Cut { found: entries, expected: anchor.number });
    }
    let hash: Option<String> = db.read(|c| {
        let found = c.query_row("SELECT hash FROM audit WHERE number = ?1", [anchor.number], |row| row.get(0));
        Ok::<_, Error>(found.optional()?)
    })?;
    match hash {
        Some(hash) if hash != anchor.hash => Err(Error::Rewritten { number: anchor.number }),
        _ => Ok(entries),
    }
}

/// Follows the whole chain and returns how many entries it has.
pub fn verify(db: &Db) -> Result<u64, Error> {
    db.read(|c| {
        let mut statement =
            c.prepare("SELECT number, at, who, what, on_what, detail, hash FROM audit ORDER BY number")?;
        let mut rows = statement.query([])?;
        let (mut before, mut count) = (String::new(), 0);
        while let Some(row) = rows.next()? {
            let (entry, stored) = (entry(row)?, row.get::<_, String>(6)?);
            count += 1;
            if entry.number != count || stored != hash(&before, &entry) {
                return Err(Error::Broken { number: entry.number });
            }
            before = stored;
        }
        Ok(count)
    })
}

fn entry(row: &rusqlite::Row<'_>) -> Result<Entry, rusqlite::Error> {
    Ok(Entry {
        number: row.get(0)?,
        at: Timestamp::from_milliseconds(row.get(1)?),
        who: row.get(2)?,
        what: row.get(3)?,
        on_what: row.get(4)?,
        detail: row.get(5)?,
    })
}

/// SHA-256 over the hash before and the fields, each with its length in front so that none can pass for another.
fn hash(before: &str, entry: &Entry) -> String {
    let mut digest = Sha256::new();
    let (number, at) = (entry.number.to_string(), entry.at.milliseconds().to_string());
    for field in [before, &number, &at, &entry.who, &entry.what, &entry.on_what, &entry.detail] {
        digest.update((field.len() as u64).to_be_bytes());
        digest.update(field.as_bytes());
    }
    hex::emit(&digest.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_or_missing_entry_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let db = Db::open(&folder.path().join("db"), &[super::super::db::MIGRATIONS], Timestamp::default()).unwrap();
        for n in 0..4 {
            db.write::<_, Error>(|tx| Ok(append(tx, Timestamp::from_milliseconds(n), "ada", "deploy", "m", "")?))
                .unwrap();
        }
        assert_eq!(verify(&db).unwrap(), 4);
        let head = head(&db).unwrap();
        assert_eq!((head.number, verify_from(&db, &head).unwrap()), (4, 4));
        let other = Head { hash: "other".into(), ..head.clone() };
        assert!(matches!(verify_from(&db, &other), Err(Error::Rewritten { number: 4 })));
        db.write::<_, Error>(|tx| Ok(tx.execute("DELETE FROM audit WHERE number = 4", [])?)).unwrap();
        assert_eq!(verify(&db).unwrap(), 3, "the chain alone does not see that its end is gone");
        assert!(matches!(verify_from(&db, &head), Err(Error::Cut { found: 3, expected: 4 })));
        for (damage, number) in
            [("UPDATE audit SET who = 'eve' WHERE number = 3", 3), ("DELETE FROM audit WHERE number = 2", 3)]
        {
            db.write::<_, Error>(|tx| Ok(tx.execute(damage, [])?)).unwrap();
            assert!(matches!(verify(&db), Err(Error::Broken { number: found }) if found == number), "{damage}");
        }
    }
}
