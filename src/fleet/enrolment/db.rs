//! Check-ins, codes and expected machines as they are stored.

use std::net::IpAddr;

use rusqlite::{OptionalExtension, Transaction};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::code::{self, Listed, Terms};
use super::expected::Expected;
use super::{Known, Verdict, decide};
use crate::access::secret::{self, Secret};
use crate::access::{Principal, audit};
use crate::fleet::db::{Error, Fleet, find, is_host_name, note_place};
use crate::fleet::identity::{self, Identity, db as evidence};
use crate::fleet::link::{CheckIn, Stage};
use crate::fleet::machine::{Machine, MachineId, MachineState, Question};
use crate::fleet::pairing;
use crate::fleet::question::db::{note_question, stop_key};
use crate::fleet::rule::Rule;
use crate::stdx::hex;
use crate::stdx::id::fresh;
use crate::stdx::time::Timestamp;

/// Machines that nobody has approved, at most: a flood of invented check-ins must not fill the disk.
const WAITING_MAX: i64 = 2000;
/// A machine that waits and was not seen for so long is forgotten.
const WAITING_SECONDS_MAX: i64 = 86_400;
const LABEL_CHARACTERS_MAX: usize = 60;
const USES_MAX: u32 = 10_000;
const HOURS_MAX: u32 = 24 * 366;

/// What becomes of a check-in.
#[derive(Clone, Debug)]
pub enum Admission {
    Admitted {
        machine: Machine,
        newly: Option<Newcomer>,
    },
    Waiting {
        machine: Machine,
        pairing_code: String,
    },
    Rejected {
        reason: String,
    },
    /// This key was used from two machines: make another one. The machine is there when that was found out just now.
    KeyStopped {
        machine: Option<Box<Machine>>,
    },
}

/// What the rule that let a machine in wants done with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Newcomer {
    pub deploy: Option<String>,
}

/// What lets a machine in without a person: the name under which it stands in the audit log, and what it gives.
struct Grant {
    by: String,
    gives: Rule,
}

impl Fleet {
    /// Takes a check-in: recognises the machine, keeps what it says, decides whether it is let in.
    /// `public_key` is that of the request, whose proof of possession was checked.
    pub fn check_in(&self, check_in: &CheckIn, public_key: &[u8], address: Option<IpAddr>) -> Result<Admission, Error> {
        let now = self.clock.now();
        let seen = Seen {
            evidence: check_in.identity.clone().bounded(),
            key: hex::emit(&Sha256::digest(public_key)),
            pairing_code: pairing::code(public_key),
            stage: check_in.stage,
            address,
            now,
        };
        let typed = check_in.code.as_deref().and_then(code::digest);
        let mut lent = Vec::new();
        let admission = self.db.write(|tx| self.admission(tx, &seen, typed.as_deref(), &mut lent))?;
        self.forget_shared(&lent);
        match &admission {
            Admission::Admitted { machine, .. } | Admission::Waiting { machine, .. } => self.announce(machine),
            Admission::KeyStopped { machine: Some(machine) } => self.announce(machine),
            Admission::KeyStopped { machine: None } | Admission::Rejected { .. } => {}
        }
        Ok(admission)
    }

    fn admission(
        &self,
        tx: &Transaction<'_>,
        seen: &Seen,
        code: Option<&str>,
        lent: &mut Vec<identity::Piece>,
    ) -> Result<Admission, Error> {
        if is_stopped(tx, &seen.key)? {
            return Ok(Admission::KeyStopped { machine: None });
        }
        let (known, question) = match recognise(tx, seen)? {
            Recognised::Known(machine) => (Some(*machine), None),
            Recognised::New(question) => (None, question),
            Recognised::Clone(machine) => {
                stop_key(tx, &machine, &seen.evidence, seen.address, seen.now)?;
                let machine = Some(Box::new(find(tx, machine.id.as_str())?));
                return Ok(Admission::KeyStopped { machine });
            }
        };
        let (approved_key, expected_until) =
            known.as_ref().map(|known| approval(tx, known)).transpose()?.unwrap_or_default();
        let standing = known.as_ref().map(|machine| Known {
            state: machine.state,
            approved_key: approved_key.as_deref(),
            has_question: machine.question.is_some(),
            is_expected_back: seen.stage == Stage::BootEnvironment
                && expected_until.is_some_and(|until| seen.now.milliseconds() <= until)
                && !lost_tpm(machine, seen),
        });
        let grant = match question.is_some() || approved_key.as_ref() == Some(&seen.key) {
            true => None,
            false => self.grant(tx, seen, code, known.as_ref())?,
        };
        let verdict = decide(standing, &seen.key, grant.as_ref().map(|grant| grant.by.as_str()), &self.policy);
        if let Verdict::Reject { reason } = verdict {
            // That it still asks is worth seeing.
            if let Some(machine) = &known {
                note_place(tx, &machine.id, seen.stage, seen.address, seen.now)?;
            }
            return Ok(Admission::Rejected { reason: reason.to_owned() });
        }
        // What a grant gives, it gives once: when a machine is let in for the first time.
        let was_never_in =
            approved_key.is_none() && known.as_ref().is_none_or(|known| known.state == MachineState::Waiting);
        let gives = grant.map(|grant| grant.gives);
        let id = match known {
            Some(machine) => {
                if let Some(gives) = gives.as_ref().filter(|_| was_never_in) {
                    give(tx, &machine.id, &seen.evidence, gives, seen.now)?;
                }
                machine.id
            }
            None => create(tx, &seen.evidence, gives.as_ref(), seen.now)?,
        };
        evidence::store(tx, &id, &seen.evidence)?;
        let address = seen.address.map(|address| address.to_canonical().to_string());
        evidence::note_sighting(tx, &id, &seen.evidence, address.as_deref(), seen.now)?;
        note_place(tx, &id, seen.stage, seen.address, seen.now)?;
        if let Some(question) = &question {
            note_question(tx, &id, question)?;
        }
        match verdict {
            Verdict::Admit { by } => {
                admit(tx, &id, &seen.key, by.as_deref(), code, seen.now)?;
                *lent = evidence::learn_lent_adapters(tx, &id, seen.now)?;
            }
            _ => wait(tx, &id, &seen.key, &seen.pairing_code)?,
        }
        let machine = find(tx, id.as_str())?;
        Ok(match machine.pairing_code.clone() {
            Some(pairing_code) => Admission::Waiting { machine, pairing_code },
            None => {
                let newly = was_never_in.then(|| Newcomer { deploy: gives.and_then(|rule| rule.deploy) });
                Admission::Admitted { machine, newly }
            }
        })
    }

    /// The first that lets this machine in: the code that was typed on it, the list of expected machines, a rule. A machine
    /// that is known with a TPM and comes without it is not let in by what can be said without the TPM.
    fn grant(
        &self,
        tx: &Transaction<'_>,
        seen: &Seen,
        code: Option<&str>,
        known: Option<&Machine>,
    ) -> Result<Option<Grant>, Error> {
        if let Some(terms) = code.map(|code| valid_code(tx, code, seen.now)).transpose()?.flatten() {
            let gives = Rule { collections: terms.collections, deploy: terms.deploy, ..Rule::default() };
            return Ok(Some(Grant { by: format!("code:{}", terms.label), gives }));
        }
        if known.is_some_and(|machine| lost_tpm(machine, seen)) {
            return Ok(None);
        }
        if let Some(expected) = expected_machine(tx, &seen.evidence)? {
            return Ok(Some(Grant { by: "serial list".into(), gives: expected.as_rule() }));
        }
        let rule = self.rules.iter().find(|rule| rule.matches(&seen.evidence, seen.address));
        Ok(rule.map(|rule| Grant { by: format!("rule:{}", rule.name), gives: rule.clone() }))
    }

    /// Makes a code that lets in as many machines as its terms say.
    pub fn make_code(&self, terms: &Terms, by: &Principal) -> Result<Secret, Error> {
        let label = terms.label.trim();
        if label.is_empty() || label.chars().count() > LABEL_CHARACTERS_MAX || label.contains(char::is_control) {
            return Err(Error::Terms(format!("a code needs a label of 1 to {LABEL_CHARACTERS_MAX} characters")));
        }
        let terms = Terms {
            label: label.to_owned(),
            uses: terms.uses.clamp(1, USES_MAX),
            hours: terms.hours.clamp(1, HOURS_MAX),
            ..terms.clone()
        };
        let made = code::generate();
        let hash = code::digest(made.reveal()).expect("a code that was just made is one");
        let now = self.clock.now();
        let expires_at = now.plus_seconds(i64::from(terms.hours) * 3600);
        self.db.write(|tx| {
            tx.execute("DELETE FROM enrolment_code WHERE expires_at <= ?1 OR uses_left = 0", [now.milliseconds()])?;
            tx.execute(
                "INSERT INTO enrolment_code (hash, terms, uses_left, expires_at) VALUES (?1, ?2, ?3, ?4)",
                (hash, json!(terms).to_string(), terms.uses, expires_at.milliseconds()),
            )?;
            let detail = format!("{} uses, {} hours", terms.uses, terms.hours);
            Ok::<_, Error>(audit::append(tx, now, &by.label(), "enrolment-code-create", &terms.label, &detail)?)
        })?;
        Ok(made)
    }

    /// The codes that still let somebody in.
    pub fn codes(&self) -> Result<Vec<Listed>, Error> {
        let now = self.clock.now();
        self.db.read(|c| {
            let mut statement = c.prepare_cached(
                "SELECT terms, uses_left, expires_at FROM enrolment_code WHERE expires_at > ?1 AND uses_left > 0
                 ORDER BY expires_at",
            )?;
            let rows = statement.query_map([now.milliseconds()], |row| {
                let terms: Terms = serde_json::from_str(&row.get::<_, String>(0)?).unwrap_or_default();
                Ok(Listed {
                    label: terms.label,
                    uses_left: row.get(1)?,
                    expires_at: Timestamp::from_milliseconds(row.get(2)?),
                    collections: terms.collections,
                    deploy: terms.deploy,
                })
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }

    /// Ends all codes with this label; how many.
    pub fn remove_codes(&self, label: &str, by: &Principal) -> Result<usize, Error> {
        let now = self.clock.now();
        self.db.write(|tx| {
            let removed = tx.execute("DELETE FROM enrolment_code WHERE terms ->> '$.label' = ?1", [label])?;
            audit::append(tx, now, &by.label(), "enrolment-code-remove", label, &removed.to_string())?;
            Ok(removed)
        })
    }

    /// Adds machines to the list of those that are expected; a machine that is on it already is described anew.
    pub fn expect(&self, machines: &[Expected], by: &Principal) -> Result<usize, Error> {
        let now = self.clock.now();
        self.db.write(|tx| {
            let mut remove = tx.prepare_cached("DELETE FROM expected_machine WHERE serial = ?1 OR tpm_key = ?2")?;
            let mut add = tx.prepare_cached(
                "INSERT INTO expected_machine (serial, tpm_key, document, added_at) VALUES (?1, ?2, ?3, ?4)",
            )?;
            for machine in machines {
                let lower = |text: &Option<String>| text.as_ref().map(|text| text.to_ascii_lowercase());
                let (serial, tpm_key) = (lower(&machine.serial), lower(&machine.tpm_key));
                remove.execute((&serial, &tpm_key))?;
                add.execute((serial, tpm_key, json!(machine).to_string(), now.milliseconds()))?;
            }
            let detail = format!("{} machines", machines.len());
            audit::append(tx, now, &by.label(), "expected-machines-import", "serial list", &detail)?;
            Ok(machines.len())
        })
    }

    pub fn expected(&self) -> Result<Vec<Expected>, Error> {
        self.db.read(|c| {
            let mut statement = c.prepare_cached("SELECT document FROM expected_machine ORDER BY id")?;
            let rows = statement.query_map([], |row| row.get::<_, String>(0))?;
            let texts: Vec<String> = rows.collect::<Result<_, _>>()?;
            Ok(texts.iter().filter_map(|text| serde_json::from_str(text).ok()).collect())
        })
    }

    /// Empties the list.
    pub fn expect_nobody(&self, by: &Principal) -> Result<usize, Error> {
        let now = self.clock.now();
        self.db.write(|tx| {
            let removed = tx.execute("DELETE FROM expected_machine", [])?;
            audit::append(tx, now, &by.label(), "expected-machines-remove", "serial list", &removed.to_string())?;
            Ok(removed)
        })
    }
}

/// A check-in as it is judged.
struct Seen {
    evidence: Identity,
    /// SHA-256 of the public key.
    key: String,
    pairing_code: String,
    stage: Stage,
    address: Option<IpAddr>,
    now: Timestamp,
}

enum Recognised {
    Known(Box<Machine>),
    New(Option<Question>),
    /// The key of this machine, in another machine.
    Clone(Box<Machine>),
}

/// The key that was approved last, and until when the machine is expected in the boot environment.
fn approval(tx: &Transaction<'_>, machine: &Machine) -> Result<(Option<String>, Option<i64>), Error> {
    let mut statement = tx.prepare_cached("SELECT approved_key, expected_until FROM machine WHERE id = ?1")?;
    Ok(statement.query_row([machine.id.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))?)
}

fn lost_tpm(machine: &Machine, seen: &Seen) -> bool {
    machine.identity.tpm_key.is_some() && machine.identity.tpm_key != seen.evidence.tpm_key
}

/// A key that is known is the best evidence there is, unless the machine around it is another one.
fn recognise(tx: &Transaction<'_>, seen: &Seen) -> Result<Recognised, Error> {
    if let Some((id, is_approved)) = evidence::holder_of_key(tx, &seen.key)? {
        let machine = Box::new(find(tx, id.as_str())?);
        match evidence::compare(tx, &seen.evidence, &machine.identity)?.is_contradiction() {
            false => return Ok(Recognised::Known(machine)),
            true if is_approved => return Ok(Recognised::Clone(machine)),
            // A key that nobody has let in proves nothing about the record that it named before.
            true => {}
        }
    }
    let candidates = match evidence::recognise(tx, &seen.evidence)? {
        identity::Verdict::New => return Ok(Recognised::New(None)),
        identity::Verdict::Same(id) => return Ok(Recognised::Known(Box::new(find(tx, id.as_str())?))),
        identity::Verdict::Question(candidates) => candidates,
    };
    let machines: Vec<Machine> = candidates.iter().map(|id| find(tx, id.as_str())).collect::<Result<_, _>>()?;
    // A machine that was asked about before and has restarted since comes with another key.
    let mut asked = machines.iter().filter(|machine| machine.question.is_some() && machine.identity == seen.evidence);
    if let (Some(machine), None) = (asked.next(), asked.next()) {
        return Ok(Recognised::Known(Box::new(machine.clone())));
    }
    let words = match machines.first() {
        Some(machine) => evidence::compare(tx, &seen.evidence, &machine.identity)?.words(),
        None => String::new(),
    };
    Ok(Recognised::New(Some(Question { candidates, words })))
}

fn is_stopped(tx: &Transaction<'_>, key: &str) -> Result<bool, Error> {
    let found =
        tx.prepare_cached("SELECT 1 FROM stopped_key WHERE key = ?1")?.query_row([key], |_| Ok(())).optional()?;
    Ok(found.is_some())
}

fn valid_code(tx: &Transaction<'_>, hash: &str, now: Timestamp) -> Result<Option<Terms>, Error> {
    let terms: Option<String> = tx
        .prepare_cached("SELECT terms FROM enrolment_code WHERE hash = ?1 AND uses_left > 0 AND expires_at > ?2")?
        .query_row((hash, now.milliseconds()), |row| row.get(0))
        .optional()?;
    Ok(terms.map(|terms| serde_json::from_str(&terms).unwrap_or_default()))
}

/// By TPM key first; a row that names both must agree in both.
fn expected_machine(tx: &Transaction<'_>, evidence: &Identity) -> Result<Option<Expected>, Error> {
    let lower = |text: Option<&str>| text.map(str::to_ascii_lowercase);
    let mut statement = tx.prepare_cached(
        "SELECT document FROM expected_machine WHERE tpm_key = ?1 OR serial = ?2 ORDER BY tpm_key IS NULL",
    )?;
    let keys = (lower(evidence.tpm_key.as_deref()), lower(evidence.usable_serial()));
    let texts: Vec<String> = statement.query_map(keys, |row| row.get(0))?.collect::<Result<_, _>>()?;
    let rows = texts.iter().filter_map(|text| serde_json::from_str::<Expected>(text).ok());
    Ok(rows.into_iter().find(|expected| expected.matches(evidence)))
}

fn create(tx: &Transaction<'_>, evidence: &Identity, rule: Option<&Rule>, now: Timestamp) -> Result<MachineId, Error> {
    tx.execute(
        "DELETE FROM machine WHERE state = 'waiting' AND seen_at < ?1",
        [now.plus_seconds(-WAITING_SECONDS_MAX).milliseconds()],
    )?;
    let waiting: i64 = tx.query_row("SELECT count(*) FROM machine WHERE state = 'waiting'", [], |row| row.get(0))?;
    if rule.is_none() && waiting >= WAITING_MAX {
        return Err(Error::TooManyWaiting { waiting });
    }
    insert(tx, evidence, rule, now)
}

/// A new record that waits. `gives` names it and puts it into collections.
pub(in crate::fleet) fn insert(
    tx: &Transaction<'_>,
    evidence: &Identity,
    gives: Option<&Rule>,
    now: Timestamp,
) -> Result<MachineId, Error> {
    let id = MachineId(fresh("machine", now, secret::random()));
    tx.execute(
        "INSERT INTO machine (id, name, state, next_boot, identity, stage, created_at, seen_at)
         VALUES (?1, ?2, 'waiting', 'boot-environment', '{}', 'boot-environment', ?3, ?3)",
        (id.as_str(), free_name(tx, &id, evidence, gives)?, now.milliseconds()),
    )?;
    join(tx, &id, gives.map_or(&[], |rule| &rule.collections), now)?;
    Ok(id)
}

/// The name and the collections for a record that has waited until now.
fn give(tx: &Transaction<'_>, id: &MachineId, evidence: &Identity, gives: &Rule, now: Timestamp) -> Result<(), Error> {
    if gives.machine_name.is_some() {
        let name = free_name(tx, id, evidence, Some(gives))?;
        tx.execute("UPDATE machine SET name = ?2 WHERE id = ?1", (id.as_str(), name))?;
    }
    join(tx, id, &gives.collections, now)
}

fn join(tx: &Transaction<'_>, id: &MachineId, collections: &[String], now: Timestamp) -> Result<(), Error> {
    for collection in collections {
        tx.execute(
            "INSERT INTO collection (name, created_at) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
            (collection, now.milliseconds()),
        )?;
        tx.execute(
            "INSERT INTO collection_machine (collection, machine) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
            (collection, id.as_str()),
        )?;
    }
    Ok(())
}

/// The rule's template filled in, or `machine-` and the end of the identifier; with a number when it is taken.
fn free_name(tx: &Transaction<'_>, id: &MachineId, evidence: &Identity, rule: Option<&Rule>) -> Result<String, Error> {
    let context = json!({
        "serial": evidence.usable_serial(), "model": evidence.model, "mac": evidence.macs.first(),
    });
    let filled = rule.and_then(|rule| rule.machine_name.as_deref()).and_then(|template| {
        let mut environment = minijinja::Environment::new();
        environment.set_undefined_behavior(minijinja::UndefinedBehavior::Strict);
        environment.render_str(template, minijinja::value::Serde(&context)).ok()
    });
    let plain = id.as_str();
    let name = filled.map(|name| host_name(&name)).filter(|name| is_host_name(name));
    let name = name.unwrap_or_else(|| format!("machine-{}", &plain[plain.len() - 6..]));
    let taken = |name: &str| tx.query_row("SELECT 1 FROM machine WHERE name = ?1", [name], |_| Ok(())).optional();
    for number in 1.. {
        let candidate = if number == 1 { name.clone() } else { format!("{name}-{number}") };
        if taken(&candidate)?.is_none() {
            return Ok(candidate);
        }
    }
    unreachable!("some number is free")
}

fn host_name(text: &str) -> String {
    let replaced: String =
        text.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    let shortened: String = replaced.trim_matches('-').chars().take(60).collect();
    shortened.trim_end_matches('-').to_owned()
}

/// Lets the key in. A code that did it is used up by one.
fn admit(
    tx: &Transaction<'_>,
    id: &MachineId,
    key: &str,
    by: Option<&str>,
    code: Option<&str>,
    now: Timestamp,
) -> Result<(), Error> {
    let Some(by) = by else {
        tx.execute("UPDATE machine SET waiting_key = NULL, pairing_code = NULL WHERE id = ?1", [id.as_str()])?;
        return Ok(());
    };
    if let Some(code) = code.filter(|_| by.starts_with("code:")) {
        tx.execute("UPDATE enrolment_code SET uses_left = uses_left - 1 WHERE hash = ?1", [code])?;
    }
    tx.execute(
        "UPDATE machine SET approved_key = ?2, approved_by = ?3, waiting_key = NULL, pairing_code = NULL, notice = NULL,
            expected_until = NULL, state = CASE WHEN state = 'waiting' THEN 'approved' ELSE state END WHERE id = ?1",
        (id.as_str(), key, by),
    )?;
    Ok(audit::append(tx, now, by, "machine-approve", id.as_str(), "")?)
}

fn wait(tx: &Transaction<'_>, id: &MachineId, key: &str, code: &str) -> Result<(), Error> {
    tx.execute("UPDATE machine SET waiting_key = ?2, pairing_code = ?3 WHERE id = ?1", (id.as_str(), key, code))?;
    Ok(())
}

#[cfg(test)]
mod tests;
