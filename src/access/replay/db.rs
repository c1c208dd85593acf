//! Keys and answers as they are stored.

use rusqlite::OptionalExtension;
use sha2::{Digest, Sha256};

use crate::access::Principal;
use crate::db::{Db, Error, Migration};
use crate::stdx::hex;
use crate::stdx::time::Timestamp;

pub const MIGRATIONS: &[Migration] = &[Migration {
    name: "replay-1",
    sql: "
        CREATE TABLE replay (
            who TEXT NOT NULL, name TEXT NOT NULL, request TEXT NOT NULL, status INTEGER, answer TEXT, at INTEGER NOT NULL,
            PRIMARY KEY (who, name))",
}];

/// How long an answer is remembered.
const KEPT_SECONDS: i64 = 86_400;
pub const KEY_BYTES_MAX: usize = 128;

/// What is known of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// Nobody has used it: it is taken now.
    New,
    /// The same request was answered like this.
    Answered { status: u16, answer: String },
    /// The same request is being carried out, or was cut off in the middle.
    UnderWay,
    /// It was used for another request.
    Other,
}

/// Takes the key for a request (`what` is method, path and body), or says what became of it.
pub fn begin(db: &Db, who: &Principal, key: &str, what: &[&[u8]], now: Timestamp) -> Result<Known, Error> {
    let mut digest = Sha256::new();
    for part in what {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    let request = hex::emit(&digest.finalize());
    db.write(|tx| {
        tx.execute("DELETE FROM replay WHERE at < ?1", [now.plus_seconds(-KEPT_SECONDS).milliseconds()])?;
        let known: Option<(String, Option<u16>, Option<String>)> = tx
            .query_row(
                "SELECT request, status, answer FROM replay WHERE who = ?1 AND name = ?2",
                (who.label(), key),
                |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
            )
            .optional()?;
        Ok(match known {
            Some((before, _, _)) if before != request => Known::Other,
            Some((_, Some(status), Some(answer))) => Known::Answered { status, answer },
            Some(_) => Known::UnderWay,
            None => {
                tx.execute(
                    "INSERT INTO replay (who, name, request, at) VALUES (?1, ?2, ?3, ?4)",
                    (who.label(), key, request, now.milliseconds()),
                )?;
                Known::New
            }
        })
    })
}

/// Keeps the answer of a request that has changed something; one that failed gives the key back.
pub fn finish(db: &Db, who: &Principal, key: &str, status: u16, answer: &str) -> Result<(), Error> {
    db.write(|tx| {
        let done = (200..300).contains(&status);
        let sql = match done {
            true => "UPDATE replay SET status = ?3, answer = ?4 WHERE who = ?1 AND name = ?2",
            false => "DELETE FROM replay WHERE who = ?1 AND name = ?2 AND ?3 = ?3 AND ?4 = ?4",
        };
        tx.execute(sql, (who.label(), key, status, answer))?;
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_good_for_one_request_of_one_caller_for_a_day() {
        let folder = tempfile::tempdir().unwrap();
        let db = Db::open(&folder.path().join("db"), &[MIGRATIONS], Timestamp::default()).unwrap();
        let (ada, eve) = (Principal::local(), Principal::Machine { machine: "m".into() });
        let send = |who: &Principal, body: &str, at: i64| {
            begin(&db, who, "k", &[b"POST", body.as_bytes()], Timestamp::from_milliseconds(at)).unwrap()
        };
        assert_eq!(send(&ada, "a", 0), Known::New);
        assert_eq!(send(&ada, "a", 1), Known::UnderWay);
        assert_eq!(send(&ada, "b", 1), Known::Other);
        assert_eq!(send(&eve, "b", 1), Known::New, "another caller's key is another key");
        finish(&db, &ada, "k", 409, "no").unwrap();
        assert_eq!(send(&ada, "b", 2), Known::New, "what failed may be tried again");
        finish(&db, &ada, "k", 200, "yes").unwrap();
        assert_eq!(send(&ada, "b", 3), Known::Answered { status: 200, answer: "yes".into() });
        assert_eq!(send(&ada, "c", 2 * KEPT_SECONDS * 1000), Known::New);
    }
}
