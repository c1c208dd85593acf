//! Merging, splitting and stopping records.

use std::net::IpAddr;

use rusqlite::Transaction;
use serde_json::json;

use crate::access::{Principal, audit, db as access_db};
use crate::fleet::db::{Error, Fleet, find};
use crate::fleet::enrolment::db::insert;
use crate::fleet::identity::db::{self as evidence, Learnt, Sighting};
use crate::fleet::identity::{Comparison, Identity, Piece};
use crate::fleet::machine::{Machine, MachineId, MachineState, NextBoot, Question};
use crate::stdx::time::Timestamp;

/// Who stands in the audit log for what the appliance finds out by itself.
const APPLIANCE: &str = "appliance";

impl Fleet {
    /// The answer "it is that machine": `name` ends, and what it has shown and the key that it waits with become `other`'s.
    /// Whoever is merged by hand without having been asked about is merged in the same way.
    pub fn merge(&self, name: &str, other: &str, by: &Principal) -> Result<Machine, Error> {
        let now = self.clock.now();
        let (from, into) = self.db.write(|tx| {
            let (from, into) = (find(tx, name)?, find(tx, other)?);
            if from.id == into.id {
                return Err(Error::Itself);
            }
            merge(tx, &from, &into, now)?;
            audit::append(tx, now, &by.label(), "machine-merge", &into.name, &from.name)?;
            Ok((from, find(tx, into.id.as_str())?))
        })?;
        self.directory.remove(&from.id);
        self.announce(&into);
        self.live.publish("machine", from.id.as_str(), json!({ "name": from.name, "state": "merged" }));
        Ok(into)
    }

    /// The answer "it is none of them": what it has in common with them is lent or copied and says nothing any more.
    pub fn is_new(&self, name: &str, by: &Principal) -> Result<Machine, Error> {
        let now = self.clock.now();
        let mut learnt = Vec::new();
        let machine = self.change(name, |tx, machine| {
            let question = machine.question.as_ref().ok_or_else(|| Error::NoQuestion(machine.name.clone()))?;
            for candidate in &question.candidates {
                let Ok(candidate) = find(tx, candidate.as_str()) else { continue };
                let comparison = evidence::compare(tx, &machine.identity, &candidate.identity)?;
                learnt.extend(comparison.agree);
            }
            evidence::learn(tx, learnt.clone(), &format!("`{}` is a machine of its own", machine.name), now)?;
            tx.execute("UPDATE machine SET question = NULL, notice = NULL WHERE id = ?1", [machine.id.as_str()])?;
            let detail: Vec<String> =
                learnt.iter().map(|piece| format!("{} {}", piece.kind.name(), piece.value)).collect();
            Ok(audit::append(tx, now, &by.label(), "machine-is-new", &machine.name, &detail.join(", "))?)
        })?;
        self.forget_shared(&learnt);
        Ok(machine)
    }

    /// Takes two machines apart that share a record: the sighting becomes a record of its own that waits. What both have
    /// shown is learnt as shared, and nobody knows whose the certificates are: they are void.
    pub fn split(&self, name: &str, number: i64, by: &Principal) -> Result<Machine, Error> {
        let now = self.clock.now();
        let (machine, new, learnt) = self.db.write(|tx| {
            let machine = find(tx, name)?;
            let sightings = evidence::sightings(tx, &machine.id)?;
            let (chosen, rest): (Vec<Sighting>, Vec<Sighting>) =
                sightings.into_iter().partition(|sighting| sighting.number == number);
            let (Some(chosen), Some(stays)) = (chosen.first(), rest.first()) else {
                return Err(Error::NoSighting { machine: machine.name, number });
            };
            let common = Comparison::of(&chosen.identity, &stays.identity, &evidence::shared(tx)?).agree;
            evidence::learn(tx, common.clone(), &format!("`{}` was two machines", machine.name), now)?;
            void_key(tx, &machine, now)?;
            evidence::store(tx, &machine.id, &stays.identity)?;
            let new = insert(tx, &chosen.identity, None, now)?;
            evidence::store(tx, &new, &chosen.identity)?;
            evidence::move_sighting(tx, number, &new)?;
            let new = find(tx, new.as_str())?;
            audit::append(tx, now, &by.label(), "machine-split", &machine.name, &new.name)?;
            Ok((find(tx, machine.id.as_str())?, new, common))
        })?;
        self.forget_shared(&learnt);
        self.announce(&machine);
        self.announce(&new);
        Ok(new)
    }

    /// What a machine with a certificate says that it is. When that is another machine than the one that the certificate was
    /// issued to, the certificate is void from now on: a disk was cloned, or a board exchanged.
    pub fn note_identity(&self, id: &MachineId, identity: &Identity, address: Option<IpAddr>) -> Result<(), Error> {
        let now = self.clock.now();
        let identity = identity.clone().bounded();
        let stopped = self.db.write(|tx| {
            let machine = find(tx, id.as_str())?;
            if evidence::compare(tx, &identity, &machine.identity)?.is_contradiction() {
                stop_key(tx, &machine, &identity, address, now)?;
                return Ok(Some(find(tx, id.as_str())?));
            }
            evidence::store(tx, id, &identity)?;
            let address = address.map(|address| address.to_canonical().to_string());
            evidence::note_sighting(tx, id, &identity, address.as_deref(), now)?;
            Ok::<_, Error>(None)
        })?;
        match stopped {
            None => Ok(()),
            Some(machine) => {
                self.announce(&machine);
                Err(Error::Stopped(machine.name))
            }
        }
    }

    pub fn sightings(&self, id: &MachineId) -> Result<Vec<Sighting>, Error> {
        self.db.read(|c| evidence::sightings(c, id))
    }

    /// What is known to be shared between machines, and how that was learnt.
    pub fn shared_evidence(&self) -> Result<Vec<Learnt>, Error> {
        self.db.read(evidence::learnt)
    }

    /// Takes back what was learnt of this piece.
    pub fn trust_evidence(&self, piece: &Piece, by: &Principal) -> Result<bool, Error> {
        let now = self.clock.now();
        self.db.write(|tx| {
            let removed = tx.execute(
                "DELETE FROM shared_evidence WHERE kind = ?1 AND value = ?2",
                (piece.kind.name(), &piece.value),
            )?;
            audit::append(tx, now, &by.label(), "evidence-trust", piece.kind.name(), &piece.value)?;
            Ok(removed > 0)
        })
    }
}

/// A machine of its own that waits goes; one that was a member stays as a retired record, with its history.
fn merge(tx: &Transaction<'_>, from: &Machine, into: &Machine, now: Timestamp) -> Result<(), Error> {
    let id = (from.id.as_str(), into.id.as_str());
    access_db::revoke_certificates(tx, from.id.as_str(), now)?;
    tx.execute(
        "UPDATE machine SET
            waiting_key = (SELECT waiting_key FROM machine WHERE id = ?1),
            pairing_code = (SELECT pairing_code FROM machine WHERE id = ?1),
            approved_key = CASE WHEN (SELECT approved_key FROM machine WHERE id = ?1) IS NOT NULL AND ?3
                THEN (SELECT approved_key FROM machine WHERE id = ?1) ELSE approved_key END,
            address = COALESCE((SELECT address FROM machine WHERE id = ?1), address), notice = NULL
         WHERE id = ?2",
        (id.0, id.1, from.seen_at >= into.seen_at),
    )?;
    tx.execute("UPDATE OR REPLACE sighting SET machine = ?2 WHERE machine = ?1", id)?;
    let identity = if from.seen_at >= into.seen_at { from.identity.clone() } else { into.identity.clone() };
    if from.state == MachineState::Waiting {
        tx.execute("DELETE FROM machine WHERE id = ?1", [id.0])?;
    } else {
        evidence::store(tx, &from.id, &Identity::default())?;
        tx.execute(
            "UPDATE machine SET state = ?2, next_boot = ?3, approved_key = NULL, waiting_key = NULL, pairing_code = NULL,
                question = NULL, notice = ?4 WHERE id = ?1",
            (id.0, MachineState::Retired.name(), NextBoot::LocalDisk.name(), format!("merged into {}", into.name)),
        )?;
    }
    evidence::store(tx, &into.id, &identity)
}

/// Voids the certificates of a machine whose key is used from another one, and says so on its page.
pub(in crate::fleet) fn stop_key(
    tx: &Transaction<'_>,
    machine: &Machine,
    other: &Identity,
    address: Option<IpAddr>,
    now: Timestamp,
) -> Result<(), Error> {
    let words = evidence::compare(tx, other, &machine.identity)?.words();
    let address = address.map(|address| address.to_canonical().to_string());
    let from = address.as_deref().map(|address| format!(", from {address}")).unwrap_or_default();
    evidence::note_sighting(tx, &machine.id, &machine.identity, None, now)?;
    evidence::note_sighting(tx, &machine.id, other, address.as_deref(), now)?;
    void_key(tx, machine, now)?;
    let notice = format!(
        "stopped: its certificate was used by hardware with {words}{from}. A cloned disk: approve each machine, with the \
         code on it. An exchanged board: answer the question of the machine that waits."
    );
    tx.execute("UPDATE machine SET notice = ?2 WHERE id = ?1", (machine.id.as_str(), notice))?;
    Ok(audit::append(tx, now, APPLIANCE, "machine-key-stopped", &machine.name, &format!("{words}{from}"))?)
}

/// Whoever has the machine's key must make a new one.
fn void_key(tx: &Transaction<'_>, machine: &Machine, now: Timestamp) -> Result<(), Error> {
    access_db::revoke_certificates(tx, machine.id.as_str(), now)?;
    tx.execute(
        "INSERT INTO stopped_key (key, machine, stopped_at)
         SELECT approved_key, id, ?2 FROM machine WHERE id = ?1 AND approved_key IS NOT NULL ON CONFLICT DO NOTHING",
        (machine.id.as_str(), now.milliseconds()),
    )?;
    tx.execute("UPDATE machine SET approved_key = NULL WHERE id = ?1", [machine.id.as_str()])?;
    Ok(())
}

/// Keeps the question with the record that waits for its answer.
pub(in crate::fleet) fn note_question(tx: &Transaction<'_>, id: &MachineId, question: &Question) -> Result<(), Error> {
    let names: Vec<String> =
        question.candidates.iter().filter_map(|id| find(tx, id.as_str()).ok()).map(|machine| machine.name).collect();
    let notice = format!("it may be {}: {}", names.join(" or "), question.words);
    tx.execute(
        "UPDATE machine SET question = ?2, notice = ?3 WHERE id = ?1",
        (id.as_str(), json!(question).to_string(), notice),
    )?;
    Ok(())
}
