//! People, tokens, sessions and machine certificates.

use std::sync::{Arc, OnceLock};

use rusqlite::{Connection, OptionalExtension, Transaction};
use sha2::{Digest, Sha256};

use super::secret::{Secret, generate};
use super::vault::{self, Vault};
use super::{Limits, Principal, Role, audit, authority, password};
use crate::db::{Db, Migration};
use crate::stdx::hex;
use crate::stdx::hint::Hint;
use crate::stdx::time::{Clock, Timestamp};

pub const MIGRATIONS: &[Migration] = &[
    Migration {
        name: "access-1",
        sql: "
        CREATE TABLE person (
            name TEXT PRIMARY KEY, role TEXT NOT NULL, password TEXT, created_at INTEGER NOT NULL,
            failed_logins INTEGER NOT NULL DEFAULT 0, locked_until INTEGER NOT NULL DEFAULT 0);
        CREATE TABLE token (
            name TEXT PRIMARY KEY, hash TEXT NOT NULL UNIQUE, role TEXT NOT NULL, created_at INTEGER NOT NULL,
            expires_at INTEGER);
        CREATE TABLE session (
            hash TEXT PRIMARY KEY, person TEXT NOT NULL REFERENCES person(name) ON DELETE CASCADE,
            expires_at INTEGER NOT NULL);
        CREATE TABLE invitation (hash TEXT PRIMARY KEY, role TEXT NOT NULL, expires_at INTEGER NOT NULL);
        CREATE TABLE certificate (
            serial TEXT PRIMARY KEY, machine TEXT NOT NULL, issued_at INTEGER NOT NULL, expires_at INTEGER NOT NULL,
            revoked_at INTEGER);
        CREATE INDEX certificate_machine ON certificate(machine);
        CREATE TABLE audit (
            number INTEGER PRIMARY KEY, at INTEGER NOT NULL, who TEXT NOT NULL, what TEXT NOT NULL, on_what TEXT NOT NULL,
            detail TEXT NOT NULL, hash TEXT NOT NULL);",
    },
    Migration {
        name: "access-2",
        sql: "
        ALTER TABLE person ADD COLUMN limits TEXT;
        ALTER TABLE token ADD COLUMN limits TEXT;",
    },
];

/// How long a session lasts without being used again.
const SESSION_SECONDS: i64 = 12 * 3600;
/// Wrong passwords in a row before an account rests, and for how long.
const FAILED_LOGINS_MAX: i64 = 8;
const LOCK_SECONDS: i64 = 300;
pub const PASSWORD_CHARACTERS_MIN: usize = 10;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Db(#[from] crate::db::Error),
    #[error("there is no {kind} `{name}`")]
    Absent { kind: &'static str, name: String },
    #[error("there is a {kind} `{name}` already")]
    Exists { kind: &'static str, name: String },
    #[error("name and password do not match")]
    Login,
    #[error("too many wrong passwords for `{name}`")]
    Locked { name: String },
    #[error("`{name}` is the last administrator")]
    LastAdministrator { name: String },
    #[error("the password has fewer than {PASSWORD_CHARACTERS_MIN} characters")]
    ShortPassword,
    #[error("the link was used already or is too old")]
    Invitation,
    #[error(transparent)]
    Vault(#[from] vault::Error),
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Error {
        Error::Db(error.into())
    }
}

impl Hint for Error {
    fn hint(&self) -> Option<String> {
        match self {
            Error::Db(error) => error.hint(),
            Error::Vault(error) => error.hint(),
            Error::Locked { .. } => Some(format!("try again in {} minutes", LOCK_SECONDS / 60)),
            Error::LastAdministrator { .. } => Some("make another administrator first".into()),
            Error::Invitation => Some("`remint user invite` makes a new one".into()),
            _ => None,
        }
    }
}

/// What a caller brought along.
#[derive(Clone, Copy, Debug, Default)]
pub struct Credentials<'a> {
    /// DER of a client certificate that TLS has verified against the site's authority.
    pub certificate: Option<&'a [u8]>,
    pub bearer: Option<&'a str>,
    pub session: Option<&'a str>,
}

/// What a door needs to know who calls.
pub struct Gate {
    pub db: Arc<Db>,
    pub clock: Arc<dyn Clock>,
    /// Whether a machine is in one of the collections at which a caller's rights end; the wiring brings it, because
    /// machines and collections are not known here. Without it nothing is within reach.
    reach: OnceLock<Box<Reach>>,
}

/// (machine, collections) -> the machine is in one of them.
pub type Reach = dyn Fn(&str, &[String]) -> bool + Send + Sync;

impl Gate {
    pub fn new(db: Arc<Db>, clock: Arc<dyn Clock>) -> Gate {
        Gate { db, clock, reach: OnceLock::new() }
    }

    pub fn reach_by(&self, reach: Box<Reach>) {
        let _ = self.reach.set(reach);
    }

    pub fn reaches(&self, machine: &str, collections: &[String]) -> bool {
        self.reach.get().is_some_and(|reach| reach(machine, collections))
    }

    pub fn authenticate(&self, credentials: Credentials<'_>) -> Result<Principal, Error> {
        authenticate(&self.db, credentials, self.clock.now())
    }
}

/// Who stands behind the credentials. Anything wrong with them makes the caller anonymous.
pub fn authenticate(db: &Db, credentials: Credentials<'_>, now: Timestamp) -> Result<Principal, Error> {
    if let Some(certificate) = credentials.certificate {
        let Ok((machine, serial)) = authority::read_machine(certificate) else { return Ok(Principal::Anonymous) };
        return db.read(|c| {
            let valid: Option<i64> = c
                .prepare_cached("SELECT 1 FROM certificate WHERE serial = ?1 AND machine = ?2 AND revoked_at IS NULL AND expires_at > ?3")?
                .query_row((&serial, &machine, now.milliseconds()), |row| row.get(0))
                .optional()?;
            Ok(valid.map_or(Principal::Anonymous, |_| Principal::Machine { machine }))
        });
    }
    let query = |sql: &str, secret: &str| -> Result<Principal, Error> {
        db.read(|c| {
            let found: Option<(String, String, Option<String>)> = c
                .prepare_cached(sql)?
                .query_row((digest(secret), now.milliseconds()), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
                .optional()?;
            let person = found.and_then(|(name, role, limits)| {
                Some(Principal::Person { name, role: Role::parse(&role)?, limits: parse_limits(limits.as_deref())? })
            });
            Ok(person.unwrap_or(Principal::Anonymous))
        })
    };
    match (credentials.bearer, credentials.session) {
        (Some(token), _) => query(
            "SELECT 'token:' || name, role, limits FROM token WHERE hash = ?1 AND (expires_at IS NULL OR expires_at > ?2)",
            token,
        ),
        (None, Some(session)) => query(
            "SELECT person.name, person.role, person.limits FROM session JOIN person ON person.name = session.person
             WHERE hash = ?1 AND expires_at > ?2",
            session,
        ),
        (None, None) => Ok(Principal::Anonymous),
    }
}

/// `None` when they cannot be understood: then nobody may do anything by them.
fn parse_limits(text: Option<&str>) -> Option<Limits> {
    text.map_or(Some(Limits::default()), |text| serde_json::from_str(text).ok())
}

fn emit_limits(limits: &Limits) -> Option<String> {
    (*limits != Limits::default()).then(|| serde_json::to_string(limits).unwrap_or_else(|_| "{}".into()))
}

/// Checks a password and opens a session; the returned secret is the cookie's value.
pub fn login(db: &Db, name: &str, given: &Secret, now: Timestamp) -> Result<Secret, Error> {
    let person: Option<(Option<String>, i64)> = db.read(|c| {
        let row = c.query_row("SELECT password, locked_until FROM person WHERE name = ?1", [name], |row| {
            Ok((row.get(0)?, row.get(1)?))
        });
        Ok::<_, Error>(row.optional()?)
    })?;
    let (hash, locked_until) = person.unwrap_or_default();
    if locked_until > now.milliseconds() {
        return Err(Error::Locked { name: name.to_owned() });
    }
    // An unknown name costs the same time as a wrong password.
    let hash = hash.unwrap_or_else(|| password::hash(&generate("none")));
    let right = password::matches(given, &hash);
    db.write(|tx| {
        if !right {
            tx.execute(
                "UPDATE person SET failed_logins = (failed_logins + 1) % ?2,
                    locked_until = CASE WHEN failed_logins + 1 >= ?2 THEN ?3 ELSE 0 END WHERE name = ?1",
                (name, FAILED_LOGINS_MAX, now.plus_seconds(LOCK_SECONDS).milliseconds()),
            )?;
            audit::append(tx, now, "anonymous", "login-refused", name, "")?;
            return Ok(None);
        }
        tx.execute("UPDATE person SET failed_logins = 0, locked_until = 0 WHERE name = ?1", [name])?;
        audit::append(tx, now, &format!("person:{name}"), "login", name, "")?;
        open_session(tx, name, now).map(Some)
    })
    .and_then(|session| session.ok_or(Error::Login))
}

fn open_session(tx: &Transaction<'_>, person: &str, now: Timestamp) -> Result<Secret, Error> {
    let session = generate("session");
    tx.execute("DELETE FROM session WHERE expires_at <= ?1", [now.milliseconds()])?;
    tx.execute(
        "INSERT INTO session (hash, person, expires_at) VALUES (?1, ?2, ?3)",
        (digest(session.reveal()), person, now.plus_seconds(SESSION_SECONDS).milliseconds()),
    )?;
    Ok(session)
}

pub fn logout(db: &Db, session: &str) -> Result<(), Error> {
    db.write(|tx| Ok(tx.execute("DELETE FROM session WHERE hash = ?1", [digest(session)]).map(|_| ())?))
}

/// A person as listed.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Person {
    pub name: String,
    pub role: Role,
    pub limits: Limits,
    pub created_at: Timestamp,
}

pub fn people(db: &Db) -> Result<Vec<Person>, Error> {
    db.read(|c| {
        let mut statement = c.prepare("SELECT name, role, created_at, limits FROM person ORDER BY name")?;
        let rows = statement.query_map([], |row| {
            let role = Role::parse(&row.get::<_, String>(1)?).unwrap_or(Role::ReadOnly);
            let limits = parse_limits(row.get::<_, Option<String>>(3)?.as_deref()).unwrap_or_default();
            Ok(Person { name: row.get(0)?, role, limits, created_at: Timestamp::from_milliseconds(row.get(2)?) })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    })
}

pub fn create_person(
    db: &Db,
    by: &Principal,
    name: &str,
    role: Role,
    secret: &Secret,
    now: Timestamp,
) -> Result<(), Error> {
    let hash = checked_hash(secret)?;
    db.write(|tx| insert_person(tx, &by.label(), name, role, &hash, now))
}

fn checked_hash(secret: &Secret) -> Result<String, Error> {
    if secret.reveal().chars().count() < PASSWORD_CHARACTERS_MIN {
        return Err(Error::ShortPassword);
    }
    Ok(password::hash(secret))
}

fn insert_person(
    tx: &Transaction<'_>,
    by: &str,
    name: &str,
    role: Role,
    hash: &str,
    now: Timestamp,
) -> Result<(), Error> {
    let added = tx.execute(
        "INSERT INTO person (name, role, password, created_at) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING",
        (name, role.name(), hash, now.milliseconds()),
    )?;
    if added == 0 {
        return Err(Error::Exists { kind: "person", name: name.to_owned() });
    }
    Ok(audit::append(tx, now, by, "person-create", name, role.name())?)
}

pub fn remove_person(db: &Db, by: &Principal, name: &str, now: Timestamp) -> Result<(), Error> {
    db.write(|tx| {
        keep_an_administrator(tx, name)?;
        if tx.execute("DELETE FROM person WHERE name = ?1", [name])? == 0 {
            return Err(Error::Absent { kind: "person", name: name.to_owned() });
        }
        Ok(audit::append(tx, now, &by.label(), "person-remove", name, "")?)
    })
}

/// Gives a person another role, or other limits.
pub fn change_person(
    db: &Db,
    by: &Principal,
    name: &str,
    role: Role,
    limits: &Limits,
    now: Timestamp,
) -> Result<(), Error> {
    db.write(|tx| {
        if role != Role::Administrator || *limits != Limits::default() {
            keep_an_administrator(tx, name)?;
        }
        let changed = tx.execute(
            "UPDATE person SET role = ?2, limits = ?3 WHERE name = ?1",
            (name, role.name(), emit_limits(limits)),
        )?;
        if changed == 0 {
            return Err(Error::Absent { kind: "person", name: name.to_owned() });
        }
        let detail = format!("{} {}", role.name(), emit_limits(limits).unwrap_or_default());
        Ok(audit::append(tx, now, by.label().as_str(), "person-change", name, detail.trim())?)
    })
}

/// Somebody else who may do everything must be left. A name that nobody has changes nothing.
fn keep_an_administrator(tx: &Transaction<'_>, but: &str) -> Result<(), Error> {
    let full = "SELECT count(*) FROM person WHERE role = 'administrator' AND limits IS NULL AND name";
    let count = |sql: String| tx.query_row(&sql, [but], |row| row.get::<_, i64>(0));
    let (others, is_one) = (count(format!("{full} <> ?1"))?, count(format!("{full} = ?1"))?);
    if others == 0 && is_one > 0 {
        return Err(Error::LastAdministrator { name: but.to_owned() });
    }
    Ok(())
}

/// A secret that lets whoever has it make one account, once: how the first administrator comes to be.
pub fn invite(db: &Db, by: &Principal, role: Role, seconds: i64, now: Timestamp) -> Result<Secret, Error> {
    let invitation = generate("invite");
    db.write(|tx| {
        tx.execute(
            "INSERT INTO invitation (hash, role, expires_at) VALUES (?1, ?2, ?3)",
            (digest(invitation.reveal()), role.name(), now.plus_seconds(seconds).milliseconds()),
        )?;
        audit::append(tx, now, &by.label(), "invite", role.name(), "")?;
        Ok::<_, Error>(())
    })?;
    Ok(invitation)
}

/// Uses an invitation up: the account is made and its first session opened.
pub fn accept_invitation(
    db: &Db,
    invitation: &str,
    name: &str,
    secret: &Secret,
    now: Timestamp,
) -> Result<Secret, Error> {
    let hash = checked_hash(secret)?;
    db.write(|tx| {
        let role: Option<String> = tx
            .query_row(
                "DELETE FROM invitation WHERE hash = ?1 AND expires_at > ?2 RETURNING role",
                (digest(invitation), now.milliseconds()),
                |row| row.get(0),
            )
            .optional()?;
        let role = role.and_then(|role| Role::parse(&role)).ok_or(Error::Invitation)?;
        insert_person(tx, "invitation", name, role, &hash, now)?;
        open_session(tx, name, now)
    })
}

/// An API token as listed; the secret itself is shown once, when it is made.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Token {
    pub name: String,
    pub role: Role,
    pub limits: Limits,
    pub created_at: Timestamp,
    pub expires_at: Option<Timestamp>,
}

pub fn tokens(db: &Db) -> Result<Vec<Token>, Error> {
    db.read(|c| {
        let mut statement = c.prepare("SELECT name, role, created_at, expires_at, limits FROM token ORDER BY name")?;
        let rows = statement.query_map([], |row| {
            Ok(Token {
                name: row.get(0)?,
                role: Role::parse(&row.get::<_, String>(1)?).unwrap_or(Role::ReadOnly),
                created_at: Timestamp::from_milliseconds(row.get(2)?),
                expires_at: row.get::<_, Option<i64>>(3)?.map(Timestamp::from_milliseconds),
                limits: parse_limits(row.get::<_, Option<String>>(4)?.as_deref()).unwrap_or_default(),
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    })
}

pub fn create_token(
    db: &Db,
    by: &Principal,
    name: &str,
    (role, limits): (Role, &Limits),
    days: Option<i64>,
    now: Timestamp,
) -> Result<Secret, Error> {
    let token = generate("remint");
    let expires_at = days.map(|days| now.plus_seconds(days * 86_400).milliseconds());
    db.write(|tx| {
        let added = tx.execute(
            "INSERT INTO token (name, hash, role, created_at, expires_at, limits) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT DO NOTHING",
            (name, digest(token.reveal()), role.name(), now.milliseconds(), expires_at, emit_limits(limits)),
        )?;
        if added == 0 {
            return Err(Error::Exists { kind: "token", name: name.to_owned() });
        }
        Ok(audit::append(tx, now, &by.label(), "token-create", name, role.name())?)
    })?;
    Ok(token)
}

pub fn remove_token(db: &Db, by: &Principal, name: &str, now: Timestamp) -> Result<(), Error> {
    db.write(|tx| {
        if tx.execute("DELETE FROM token WHERE name = ?1", [name])? == 0 {
            return Err(Error::Absent { kind: "token", name: name.to_owned() });
        }
        Ok(audit::append(tx, now, &by.label(), "token-remove", name, "")?)
    })
}

/// Remembers a certificate that was issued; one that is not remembered opens nothing.
pub fn record_certificate(
    tx: &Transaction<'_>,
    machine: &str,
    issued: &authority::Issued,
    now: Timestamp,
) -> Result<(), rusqlite::Error> {
    tx.execute(
        "INSERT INTO certificate (serial, machine, issued_at, expires_at) VALUES (?1, ?2, ?3, ?4)",
        (&issued.serial, machine, now.milliseconds(), issued.expires_at.milliseconds()),
    )?;
    Ok(())
}

/// A machine's certificate as it is listed.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Certificate {
    /// Hexadecimal.
    pub serial: String,
    pub issued_at: Timestamp,
    pub expires_at: Timestamp,
    pub revoked_at: Option<Timestamp>,
}

/// Certificates of a machine, newest first.
pub fn certificates(c: &Connection, machine: &str, most: u32) -> Result<Vec<Certificate>, rusqlite::Error> {
    let mut statement = c.prepare_cached(
        "SELECT serial, issued_at, expires_at, revoked_at FROM certificate WHERE machine = ?1
         ORDER BY issued_at DESC, rowid DESC LIMIT ?2",
    )?;
    let rows = statement.query_map((machine, most), |row| {
        Ok(Certificate {
            serial: row.get(0)?,
            issued_at: Timestamp::from_milliseconds(row.get(1)?),
            expires_at: Timestamp::from_milliseconds(row.get(2)?),
            revoked_at: row.get::<_, Option<i64>>(3)?.map(Timestamp::from_milliseconds),
        })
    })?;
    rows.collect()
}

/// Makes all certificates of a machine invalid from now on.
pub fn revoke_certificates(tx: &Transaction<'_>, machine: &str, now: Timestamp) -> Result<(), rusqlite::Error> {
    tx.execute(
        "UPDATE certificate SET revoked_at = ?2 WHERE machine = ?1 AND revoked_at IS NULL",
        (machine, now.milliseconds()),
    )?;
    Ok(())
}

/// The sealed secret of `place` for `to` (a machine, a run's step), with the entry in the audit log that says so in the
/// same transaction: no release without its entry.
pub fn release_secret(
    tx: &Transaction<'_>,
    vault: &Vault,
    to: &str,
    place: &str,
    sealed: &str,
    now: Timestamp,
) -> Result<Secret, Error> {
    let secret = vault.unseal(place, sealed)?;
    audit::append(tx, now, to, "secret-release", place, "")?;
    Ok(secret)
}

fn digest(secret: &str) -> String {
    hex::emit(&Sha256::digest(secret.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_milliseconds(1_790_000_000_000);

    fn database() -> (tempfile::TempDir, Db) {
        let folder = tempfile::tempdir().unwrap();
        let db = Db::open(&folder.path().join("db"), &[MIGRATIONS], NOW).unwrap();
        (folder, db)
    }

    fn who(db: &Db, credentials: Credentials<'_>, now: Timestamp) -> String {
        authenticate(db, credentials, now).unwrap().label()
    }

    #[test]
    fn an_invitation_makes_one_account_once() {
        let (_folder, db) = database();
        let invitation = invite(&db, &Principal::Anonymous, Role::Administrator, 600, NOW).unwrap();
        let password = Secret::new("long enough");
        let late = accept_invitation(&db, invitation.reveal(), "ada", &password, NOW.plus_seconds(601));
        assert!(matches!(late, Err(Error::Invitation)));
        let session = accept_invitation(&db, invitation.reveal(), "ada", &password, NOW).unwrap();
        let credentials = Credentials { session: Some(session.reveal()), ..Default::default() };
        assert_eq!(who(&db, credentials, NOW), "person:ada");
        assert_eq!(who(&db, credentials, NOW.plus_seconds(SESSION_SECONDS)), "anonymous");
        assert!(accept_invitation(&db, invitation.reveal(), "eve", &password, NOW).is_err());
        assert!(matches!(remove_person(&db, &Principal::Anonymous, "ada", NOW), Err(Error::LastAdministrator { .. })));
    }

    #[test]
    fn the_last_who_may_do_everything_stays() {
        let (_folder, db) = database();
        let (by, password) = (Principal::Anonymous, Secret::new("long enough"));
        create_person(&db, &by, "ada", Role::Administrator, &password, NOW).unwrap();
        create_person(&db, &by, "bob", Role::Technician, &password, NOW).unwrap();
        let change = |name: &str, role, limits: &Limits| change_person(&db, &by, name, role, limits, NOW);
        let all = Limits::default();
        let lab = Limits { collections: Some(vec!["lab".into()]), ..Limits::default() };
        let is_last = |result| matches!(result, Err(Error::LastAdministrator { .. }));
        assert!(is_last(change("ada", Role::Technician, &all)));
        assert!(is_last(change("ada", Role::Administrator, &lab)), "an administrator of one collection is none");
        assert!(is_last(remove_person(&db, &by, "ada", NOW)));
        change("bob", Role::Administrator, &lab).unwrap();
        assert!(is_last(remove_person(&db, &by, "ada", NOW)));
        change("bob", Role::Administrator, &all).unwrap();
        remove_person(&db, &by, "ada", NOW).unwrap();
        assert!(matches!(change("ada", Role::Technician, &all), Err(Error::Absent { .. })));
    }

    #[test]
    fn a_token_may_what_its_role_and_its_limits_allow() {
        use crate::access::Capability;
        let (_folder, db) = database();
        let limits = Limits {
            collections: Some(vec!["lab".into()]),
            capabilities: Some(vec![Capability::Read, Capability::Deploy]),
        };
        let role = (Role::Technician, &limits);
        let token = create_token(&db, &Principal::Anonymous, "ci", role, None, NOW).unwrap();
        let credentials = Credentials { bearer: Some(token.reveal()), ..Default::default() };
        let who = authenticate(&db, credentials, NOW).unwrap();
        assert!(who.may(Capability::Deploy) && !who.may(Capability::ApproveMachine));
        assert_eq!(who.collections(), Some(&["lab".to_owned()][..]));
        assert_eq!(tokens(&db).unwrap()[0].limits, limits);
    }

    #[test]
    fn an_account_rests_after_many_wrong_passwords() {
        let (_folder, db) = database();
        let right = Secret::new("long enough");
        create_person(&db, &Principal::Anonymous, "ada", Role::Technician, &right, NOW).unwrap();
        for _ in 0..FAILED_LOGINS_MAX {
            assert!(matches!(login(&db, "ada", &Secret::new("wrong"), NOW), Err(Error::Login)));
        }
        assert!(matches!(login(&db, "ada", &right, NOW), Err(Error::Locked { .. })));
        assert!(login(&db, "ada", &right, NOW.plus_seconds(LOCK_SECONDS + 1)).is_ok());
        assert!(audit::verify(&db).unwrap() > FAILED_LOGINS_MAX as u64);
    }

    #[test]
    fn tokens_open_until_they_end_or_are_removed() {
        let (_folder, db) = database();
        let token =
            create_token(&db, &Principal::Anonymous, "ci", (Role::Deployer, &Limits::default()), Some(1), NOW).unwrap();
        let credentials = Credentials { bearer: Some(token.reveal()), ..Default::default() };
        assert_eq!(who(&db, credentials, NOW), "person:token:ci");
        assert_eq!(who(&db, credentials, NOW.plus_seconds(86_400)), "anonymous");
        remove_token(&db, &Principal::Anonymous, "ci", NOW).unwrap();
        assert_eq!(who(&db, credentials, NOW), "anonymous");
    }

    #[test]
    fn a_release_is_in_the_audit_log_or_did_not_happen() {
        let (folder, db) = database();
        let vault = Vault::open(&folder.path().join("vault.key")).unwrap();
        let sealed = vault.seal("p", &Secret::new("hunter2"));
        let release = |sealed: &str| db.write(|tx| release_secret(tx, &vault, "run-1/step-2", "p", sealed, NOW));
        assert_eq!(release(&sealed).unwrap().reveal(), "hunter2");
        assert!(matches!(release("sealed1:00"), Err(Error::Vault(_))));
        let entries = audit::list(&db, None, 10).unwrap();
        assert_eq!(entries.len(), 1);
        assert_eq!((entries[0].who.as_str(), entries[0].what.as_str()), ("run-1/step-2", "secret-release"));
    }
}
