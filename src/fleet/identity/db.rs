//! Evidence as it is stored: what each record is known by, what is known to be shared, who was seen as which record.

use rusqlite::{Connection, OptionalExtension, Transaction};
use serde::Serialize;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{Comparison, Identity, Kind, Piece, Shared, Verdict, resolve};
use crate::fleet::MachineId;
use crate::fleet::db::Error;
use crate::stdx::hex;
use crate::stdx::time::Timestamp;

/// How many different descriptions of itself are kept of a machine; the oldest go first.
const SIGHTINGS_MAX: i64 = 8;

/// A description that somebody gave when speaking as this machine. More than one that contradict each other mean two
/// machines, or a part that was exchanged.
#[derive(Clone, Debug, Serialize)]
pub struct Sighting {
    pub number: i64,
    pub identity: Identity,
    pub address: Option<String>,
    pub first_at: Timestamp,
    pub last_at: Timestamp,
}

/// A piece that says nothing any more, and how that was found out.
#[derive(Clone, Debug, Serialize)]
pub struct Learnt {
    #[serde(flatten)]
    pub piece: Piece,
    pub how: String,
    pub at: Timestamp,
}

/// The record that the evidence belongs to. Only records that have a piece in common are looked at.
pub(in crate::fleet) fn recognise(c: &Connection, evidence: &Identity) -> Result<Verdict, Error> {
    let shared = shared(c)?;
    let records = candidates(c, evidence, &shared)?;
    Ok(resolve(evidence, records.iter().map(|(id, record)| (id, record)), &shared))
}

fn candidates(c: &Connection, evidence: &Identity, shared: &Shared) -> Result<Vec<(MachineId, Identity)>, Error> {
    let mut holders = c.prepare_cached("SELECT machine FROM machine_evidence WHERE kind = ?1 AND value = ?2")?;
    let mut ids = std::collections::BTreeSet::new();
    for piece in &evidence.pieces() - shared {
        let found = holders.query_map((piece.kind.name(), &piece.value), |row| row.get::<_, String>(0))?;
        for id in found {
            ids.insert(id?);
        }
    }
    let mut record = c.prepare_cached("SELECT identity FROM machine WHERE id = ?1")?;
    let mut records = Vec::new();
    for id in ids {
        let text: String = record.query_row([&id], |row| row.get(0))?;
        records.push((MachineId(id), serde_json::from_str(&text).unwrap_or_default()));
    }
    Ok(records)
}

/// How the evidence compares with one record.
pub(in crate::fleet) fn compare(c: &Connection, evidence: &Identity, record: &Identity) -> Result<Comparison, Error> {
    Ok(Comparison::of(evidence, record, &shared(c)?))
}

pub(in crate::fleet) fn shared(c: &Connection) -> Result<Shared, Error> {
    Ok(learnt(c)?.into_iter().map(|learnt| learnt.piece).collect())
}

pub(in crate::fleet) fn learnt(c: &Connection) -> Result<Vec<Learnt>, Error> {
    let mut statement =
        c.prepare_cached("SELECT kind, value, how, learnt_at FROM shared_evidence ORDER BY kind, value")?;
    let rows = statement.query_map([], |row| {
        let kind: String = row.get(0)?;
        let kind = Kind::ALL.into_iter().find(|known| known.name() == kind);
        let (value, how, at) = (row.get(1)?, row.get(2)?, Timestamp::from_milliseconds(row.get(3)?));
        Ok(kind.map(|kind| Learnt { piece: Piece { kind, value }, how, at }))
    })?;
    Ok(rows.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
}

/// From now on these pieces say nothing.
pub(in crate::fleet) fn learn(
    tx: &Transaction<'_>,
    pieces: impl IntoIterator<Item = Piece>,
    how: &str,
    now: Timestamp,
) -> Result<(), Error> {
    let mut add = tx.prepare_cached(
        "INSERT INTO shared_evidence (kind, value, how, learnt_at) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING",
    )?;
    for piece in pieces {
        add.execute((piece.kind.name(), &piece.value, how, now.milliseconds()))?;
    }
    Ok(())
}

/// Adapters of a machine that was let in which another one of the site has shown as well: they are lent from one to the
/// other. Machines that nobody has let in do not count, so that a stranger cannot spoil a machine's evidence.
pub(in crate::fleet) fn learn_lent_adapters(
    tx: &Transaction<'_>,
    machine: &MachineId,
    now: Timestamp,
) -> Result<Vec<Piece>, Error> {
    let mut statement = tx.prepare_cached(
        "SELECT DISTINCT ours.value FROM machine_evidence ours
         JOIN machine_evidence theirs ON theirs.kind = ours.kind AND theirs.value = ours.value
         JOIN machine other ON other.id = theirs.machine
         WHERE ours.machine = ?1 AND ours.kind = 'mac' AND theirs.machine <> ?1
           AND other.state NOT IN ('waiting', 'rejected', 'retired') AND other.question IS NULL
           AND NOT EXISTS (SELECT 1 FROM shared_evidence s WHERE s.kind = ours.kind AND s.value = ours.value)",
    )?;
    let values: Vec<String> = statement.query_map([machine.as_str()], |row| row.get(0))?.collect::<Result<_, _>>()?;
    let pieces: Vec<Piece> = values.into_iter().map(|value| Piece { kind: Kind::Mac, value }).collect();
    learn(tx, pieces.clone(), "several machines of the site have shown it", now)?;
    Ok(pieces)
}

/// Makes `identity` what the record is known by.
pub(in crate::fleet) fn store(tx: &Transaction<'_>, machine: &MachineId, identity: &Identity) -> Result<(), Error> {
    let text = json!(identity).to_string();
    let known: String = tx
        .prepare_cached("SELECT identity FROM machine WHERE id = ?1")?
        .query_row([machine.as_str()], |row| row.get(0))?;
    let counted: i64 = tx
        .prepare_cached("SELECT count(*) FROM machine_evidence WHERE machine = ?1")?
        .query_row([machine.as_str()], |row| row.get(0))?;
    let pieces = identity.pieces();
    if known == text && counted == pieces.len() as i64 {
        return Ok(());
    }
    tx.prepare_cached("UPDATE machine SET identity = ?2 WHERE id = ?1")?.execute((machine.as_str(), text))?;
    tx.prepare_cached("DELETE FROM machine_evidence WHERE machine = ?1")?.execute([machine.as_str()])?;
    let mut add = tx.prepare_cached("INSERT INTO machine_evidence (kind, value, machine) VALUES (?1, ?2, ?3)")?;
    for piece in pieces {
        add.execute((piece.kind.name(), &piece.value, machine.as_str()))?;
    }
    Ok(())
}

/// Remembers that somebody spoke as this machine and described itself so.
pub(in crate::fleet) fn note_sighting(
    tx: &Transaction<'_>,
    machine: &MachineId,
    identity: &Identity,
    address: Option<&str>,
    now: Timestamp,
) -> Result<(), Error> {
    let text = json!(identity).to_string();
    let digest = hex::emit(&Sha256::digest(text.as_bytes())[..16]);
    tx.prepare_cached(
        "INSERT INTO sighting (machine, digest, identity, address, first_at, last_at) VALUES (?1, ?2, ?3, ?4, ?5, ?5)
         ON CONFLICT (machine, digest) DO UPDATE SET address = COALESCE(excluded.address, address), last_at = excluded.last_at",
    )?
    .execute((machine.as_str(), digest, text, address, now.milliseconds()))?;
    tx.prepare_cached(
        "DELETE FROM sighting WHERE machine = ?1 AND number NOT IN
            (SELECT number FROM sighting WHERE machine = ?1 ORDER BY last_at DESC, number DESC LIMIT ?2)",
    )?
    .execute((machine.as_str(), SIGHTINGS_MAX))?;
    Ok(())
}

/// Latest first.
pub(in crate::fleet) fn sightings(c: &Connection, machine: &MachineId) -> Result<Vec<Sighting>, Error> {
    let mut statement = c.prepare_cached(
        "SELECT number, identity, address, first_at, last_at FROM sighting WHERE machine = ?1
         ORDER BY last_at DESC, number DESC",
    )?;
    let rows = statement.query_map([machine.as_str()], |row| {
        Ok(Sighting {
            number: row.get(0)?,
            identity: serde_json::from_str(&row.get::<_, String>(1)?).unwrap_or_default(),
            address: row.get(2)?,
            first_at: Timestamp::from_milliseconds(row.get(3)?),
            last_at: Timestamp::from_milliseconds(row.get(4)?),
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Hands a sighting over to another record.
pub(in crate::fleet) fn move_sighting(tx: &Transaction<'_>, number: i64, to: &MachineId) -> Result<(), Error> {
    tx.execute("UPDATE OR REPLACE sighting SET machine = ?2 WHERE number = ?1", (number, to.as_str()))?;
    Ok(())
}

/// The machine that this key belongs to, and whether it was let in with it.
pub(in crate::fleet) fn holder_of_key(c: &Connection, key: &str) -> Result<Option<(MachineId, bool)>, Error> {
    let found = c
        .prepare_cached(
            "SELECT id, approved_key IS ?1 FROM machine WHERE approved_key = ?1 OR waiting_key = ?1
             ORDER BY approved_key IS ?1 DESC",
        )?
        .query_row([key], |row| Ok((MachineId(row.get(0)?), row.get(1)?)))
        .optional()?;
    Ok(found)
}
