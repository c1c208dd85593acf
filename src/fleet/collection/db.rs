//! Collections as they are stored.

use rusqlite::{Connection, OptionalExtension};

use super::{ALL, Collection, Member};
use crate::access::{Principal, audit};
use crate::fleet::MachineId;
use crate::fleet::db::{Error, Fleet};

impl Fleet {
    pub fn collections(&self) -> Result<Vec<Collection>, Error> {
        self.db.read(|c| {
            let mut statement = c.prepare_cached("SELECT name FROM collection ORDER BY name")?;
            let names: Vec<String> = statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
            [ALL.to_owned()].into_iter().chain(names).map(|name| read(c, &name)).collect()
        })
    }

    pub fn collection(&self, name: &str) -> Result<Collection, Error> {
        self.db.read(|c| read(c, name))
    }

    /// Makes the collection or sets its note and members anew.
    pub fn put_collection(
        &self,
        name: &str,
        note: &str,
        machines: &[String],
        by: &Principal,
    ) -> Result<Collection, Error> {
        if name == ALL || name.is_empty() || name.len() > 80 || name.chars().any(char::is_control) {
            return Err(Error::BadName(name.to_owned()));
        }
        let now = self.clock.now();
        self.db.write(|tx| {
            tx.execute(
                "INSERT INTO collection (name, note, created_at) VALUES (?1, ?2, ?3) ON CONFLICT (name) DO UPDATE SET note = excluded.note",
                (name, note, now.milliseconds()),
            )?;
            tx.execute("DELETE FROM collection_machine WHERE collection = ?1", [name])?;
            for machine in machines {
                let added = tx.execute(
                    "INSERT INTO collection_machine (collection, machine) SELECT ?1, id FROM machine WHERE id = ?2 OR name = ?2
                     ON CONFLICT DO NOTHING",
                    (name, machine),
                )?;
                if added == 0 {
                    return Err(Error::NoMachine(machine.clone()));
                }
            }
            audit::append(tx, now, &by.label(), "collection-put", name, &machines.join(" "))?;
            read(tx, name)
        })
    }

    pub fn remove_collection(&self, name: &str, by: &Principal) -> Result<(), Error> {
        let now = self.clock.now();
        self.db.write(|tx| {
            if tx.execute("DELETE FROM collection WHERE name = ?1", [name])? == 0 {
                return Err(Error::NoCollection(name.to_owned()));
            }
            Ok(audit::append(tx, now, &by.label(), "collection-remove", name, "")?)
        })
    }

    /// The collections that a machine is in, `all` first.
    pub fn collections_of(&self, machine: &MachineId) -> Result<Vec<String>, Error> {
        self.db.read(|c| {
            let mut statement =
                c.prepare_cached("SELECT collection FROM collection_machine WHERE machine = ?1 ORDER BY collection")?;
            let names: Vec<String> =
                statement.query_map([machine.as_str()], |row| row.get(0))?.collect::<Result<_, _>>()?;
            Ok([ALL.to_owned()].into_iter().chain(names).collect())
        })
    }
}

fn read(c: &Connection, name: &str) -> Result<Collection, Error> {
    let sql = match name {
        ALL => "SELECT id, name FROM machine WHERE state NOT IN ('rejected', 'retired') AND ?1 = ?1 ORDER BY name",
        _ => "SELECT id, name FROM collection_machine JOIN machine ON id = machine WHERE collection = ?1 ORDER BY name",
    };
    let note = match name {
        ALL => Some("every machine that is not rejected or retired".to_owned()),
        _ => c.query_row("SELECT note FROM collection WHERE name = ?1", [name], |row| row.get(0)).optional()?,
    };
    let note = note.ok_or_else(|| Error::NoCollection(name.to_owned()))?;
    let mut statement = c.prepare_cached(sql)?;
    let rows = statement.query_map([name], |row| Ok(Member { id: MachineId(row.get(0)?), name: row.get(1)? }))?;
    Ok(Collection { name: name.to_owned(), note, machines: rows.collect::<Result<_, _>>()? })
}
