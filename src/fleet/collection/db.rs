//! Collections as they are stored.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::Ordering::Relaxed;

use rusqlite::{Connection, OptionalExtension, Transaction};
use serde_json::json;

use super::{ALL, Ask, Collection, Definition, Member};
use crate::access::{Principal, audit};
use crate::db::Migration;
use crate::fleet::MachineId;
use crate::fleet::db::{Error, Fleet};
use crate::fleet::machine::Machine;

pub(in crate::fleet) const QUERIES: Migration = Migration {
    name: "fleet-4",
    sql: "
        ALTER TABLE collection ADD COLUMN query TEXT;
        ALTER TABLE collection ADD COLUMN error TEXT;
        CREATE INDEX collection_machine_machine ON collection_machine(machine);
        CREATE TABLE collection_choice (
            collection TEXT NOT NULL REFERENCES collection(name) ON DELETE CASCADE,
            machine TEXT NOT NULL REFERENCES machine(id) ON DELETE CASCADE, kind TEXT NOT NULL,
            PRIMARY KEY (collection, machine));
        INSERT INTO collection_choice SELECT collection, machine, 'include' FROM collection_machine;",
};

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

    /// Makes the collection or describes it anew. A query that cannot be asked makes no collection.
    pub fn put_collection(&self, name: &str, definition: &Definition, by: &Principal) -> Result<Collection, Error> {
        if name == ALL || name.is_empty() || name.len() > 80 || name.chars().any(char::is_control) {
            return Err(Error::BadName(name.to_owned()));
        }
        if definition.query.is_none() && !definition.exclude.is_empty() {
            return Err(Error::Terms("`exclude` is for collections with a query".to_owned()));
        }
        let found = definition.query.as_deref().map(|query| self.ask(query)).transpose();
        let found = found.map_err(|error| Error::Terms(format!("the collection's query: {error}")))?;
        let now = self.clock.now();
        let collection = self.db.write(|tx| {
            tx.execute(
                "INSERT INTO collection (name, note, query, created_at) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (name) DO UPDATE SET note = excluded.note, query = excluded.query",
                (name, &definition.note, &definition.query, now.milliseconds()),
            )?;
            tx.execute("DELETE FROM collection_choice WHERE collection = ?1", [name])?;
            choose(tx, name, "include", &definition.machines)?;
            choose(tx, name, "exclude", &definition.exclude)?;
            set_members(tx, name, &found.unwrap_or_default())?;
            let detail = definition.query.clone().unwrap_or_else(|| definition.machines.join(" "));
            audit::append(tx, now, &by.label(), "collection-put", name, &detail)?;
            read(tx, name)
        })?;
        self.publish_collections()?;
        self.live.publish("collection", name, json!({ "machines": collection.machines.len() }));
        Ok(collection)
    }

    pub fn remove_collection(&self, name: &str, by: &Principal) -> Result<(), Error> {
        let now = self.clock.now();
        self.db.write(|tx| {
            if tx.execute("DELETE FROM collection WHERE name = ?1", [name])? == 0 {
                return Err(Error::NoCollection(name.to_owned()));
            }
            Ok::<_, Error>(audit::append(tx, now, &by.label(), "collection-remove", name, "")?)
        })?;
        self.publish_collections()
    }

    /// Tells the packet path who is in which collection.
    fn publish_collections(&self) -> Result<(), Error> {
        let members: Vec<(String, String)> = self.db.read(|c| {
            let mut statement =
                c.prepare_cached("SELECT machine, collection FROM collection_machine ORDER BY machine, collection")?;
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            Ok::<_, Error>(rows.collect::<Result<_, _>>()?)
        })?;
        let mut collections: HashMap<MachineId, Vec<String>> = HashMap::new();
        for (machine, collection) in members {
            collections.entry(MachineId(machine)).or_default().push(collection);
        }
        self.directory.set_collections(collections);
        Ok(())
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

    /// Whom queries are asked of.
    pub fn ask_with(&self, ask: Box<Ask>) {
        let _ = self.ask.set(ask);
    }

    fn ask(&self, query: &str) -> Result<Vec<String>, String> {
        let ask = self.ask.get().ok_or("queries cannot be asked here")?;
        ask(query)
    }

    /// What is known of a machine has changed: queries may find others now.
    pub fn inventory_changed(&self) {
        self.inventory_changed.store(true, Relaxed);
    }

    /// Asks every collection's query again, if something has changed since the last time; the names of those whose members
    /// have changed.
    pub fn refresh_collections(&self) -> Result<Vec<String>, Error> {
        if !self.inventory_changed.swap(false, Relaxed) {
            return Ok(Vec::new());
        }
        let queries: Vec<(String, String)> = self.db.read(|c| {
            let mut statement =
                c.prepare_cached("SELECT name, query FROM collection WHERE query IS NOT NULL ORDER BY name")?;
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            Ok::<_, Error>(rows.collect::<Result<_, _>>()?)
        })?;
        let mut changed = Vec::new();
        for (name, query) in queries {
            // A query that cannot be asked now leaves the members as they are, and says why.
            let found = self.ask(&query);
            let is_changed = self.db.write(|tx| {
                tx.execute(
                    "UPDATE collection SET error = ?2 WHERE name = ?1 AND error IS NOT ?2",
                    (&name, found.as_ref().err()),
                )?;
                match &found {
                    Ok(found) => set_members(tx, &name, found),
                    Err(_) => Ok(false),
                }
            })?;
            if is_changed {
                self.live.publish("collection", &name, json!({}));
                changed.push(name);
            }
        }
        self.publish_collections()?;
        Ok(changed)
    }

    /// Whether somebody whose rights end at these collections may act on the machine.
    pub fn is_within(&self, machine: &str, collections: &[String]) -> Result<bool, Error> {
        let id = self.machine(machine)?.id;
        Ok(self.collections_of(&id)?.iter().any(|name| collections.contains(name)))
    }

    /// Refuses what reaches beyond the collections at which the caller's rights end.
    pub fn require_within(&self, by: &Principal, machines: &[Machine]) -> Result<(), Error> {
        let Some(collections) = by.collections() else { return Ok(()) };
        for machine in machines {
            if !self.is_within(machine.id.as_str(), collections)? {
                return Err(Error::OutOfReach { machine: machine.name.clone(), collections: collections.join(", ") });
            }
        }
        Ok(())
    }
}

fn choose(tx: &Transaction<'_>, name: &str, kind: &str, machines: &[String]) -> Result<(), Error> {
    for machine in machines {
        let added = tx.execute(
            "INSERT INTO collection_choice (collection, machine, kind)
             SELECT ?1, id, ?3 FROM machine WHERE id = ?2 OR name = ?2
             ON CONFLICT DO UPDATE SET kind = excluded.kind",
            (name, machine, kind),
        )?;
        if added == 0 {
            return Err(Error::NoMachine(machine.clone()));
        }
    }
    Ok(())
}

/// Makes the members what was found and included and not excluded; whether that changed anything.
fn set_members(tx: &Transaction<'_>, name: &str, found: &[String]) -> Result<bool, Error> {
    let mut wanted: BTreeSet<String> = BTreeSet::new();
    let mut by_name = tx.prepare_cached(
        "SELECT id FROM machine WHERE (id = ?1 OR name = ?1) AND state NOT IN ('rejected', 'retired')",
    )?;
    for machine in found {
        wanted.extend(by_name.query_row([machine], |row| row.get(0)).optional()?);
    }
    for (machine, kind) in choices(tx, name)? {
        match kind.as_str() {
            "include" => wanted.insert(machine),
            _ => wanted.remove(&machine),
        };
    }
    let mut statement = tx.prepare_cached("SELECT machine FROM collection_machine WHERE collection = ?1")?;
    let present: BTreeSet<String> = statement.query_map([name], |row| row.get(0))?.collect::<Result<_, _>>()?;
    let mut remove = tx.prepare_cached("DELETE FROM collection_machine WHERE collection = ?1 AND machine = ?2")?;
    for machine in present.difference(&wanted) {
        remove.execute((name, machine))?;
    }
    let mut add = tx.prepare_cached("INSERT INTO collection_machine (collection, machine) VALUES (?1, ?2)")?;
    for machine in wanted.difference(&present) {
        add.execute((name, machine))?;
    }
    Ok(present != wanted)
}

/// Includes first: an exclusion has the last word.
fn choices(c: &Connection, name: &str) -> Result<Vec<(String, String)>, Error> {
    let mut statement =
        c.prepare_cached("SELECT machine, kind FROM collection_choice WHERE collection = ?1 ORDER BY kind DESC")?;
    let rows = statement.query_map([name], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn read(c: &Connection, name: &str) -> Result<Collection, Error> {
    let sql = match name {
        ALL => "SELECT id, name FROM machine WHERE state NOT IN ('rejected', 'retired') AND ?1 = ?1 ORDER BY name",
        _ => "SELECT id, name FROM collection_machine JOIN machine ON id = machine WHERE collection = ?1 ORDER BY name",
    };
    let described = match name {
        ALL => Some(("every machine that is not rejected or retired".to_owned(), None, None)),
        _ => c
            .prepare_cached("SELECT note, query, error FROM collection WHERE name = ?1")?
            .query_row([name], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .optional()?,
    };
    let (note, query, error) = described.ok_or_else(|| Error::NoCollection(name.to_owned()))?;
    let members = |sql: &str| -> Result<Vec<Member>, Error> {
        let mut statement = c.prepare_cached(sql)?;
        let rows = statement.query_map([name], |row| Ok(Member { id: MachineId(row.get(0)?), name: row.get(1)? }))?;
        Ok(rows.collect::<Result<_, _>>()?)
    };
    let chosen = |kind: &str| {
        members(&format!(
            "SELECT id, name FROM collection_choice JOIN machine ON id = machine
             WHERE collection = ?1 AND kind = '{kind}' ORDER BY name"
        ))
    };
    let (include, exclude) = (chosen("include")?, chosen("exclude")?);
    Ok(Collection { name: name.to_owned(), note, query, include, exclude, machines: members(sql)?, error })
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::db::Db;
    use crate::fleet::enrolment::Policy;
    use crate::stdx::time::{SystemClock, Timestamp};

    type Found = Arc<Mutex<Result<Vec<String>, String>>>;

    fn fleet(folder: &tempfile::TempDir) -> (Fleet, Found) {
        let tables = &[crate::access::db::MIGRATIONS, crate::fleet::db::MIGRATIONS];
        let db = Arc::new(Db::open(&folder.path().join("db"), tables, Timestamp::default()).unwrap());
        db.write::<_, Error>(|tx| {
            for name in ["a", "b", "c", "gone"] {
                tx.execute(
                    "INSERT INTO machine (id, name, state, next_boot, identity, stage, created_at, seen_at)
                     VALUES ('m-' || ?1, ?1, iif(?1 = 'gone', 'retired', 'managed'), 'local-disk', '{}', '', 0, 0)",
                    [name],
                )?;
            }
            Ok(())
        })
        .unwrap();
        let fleet = Fleet::open(db, Arc::new(SystemClock), crate::api::Live::default(), Vec::new(), Policy::default());
        let fleet = fleet.unwrap();
        let found = Arc::new(Mutex::new(Ok(Vec::new())));
        let asked = found.clone();
        fleet.ask_with(Box::new(move |_| asked.lock().unwrap().clone()));
        (fleet, found)
    }

    fn names(members: &[Member]) -> Vec<&str> {
        members.iter().map(|member| member.name.as_str()).collect()
    }

    #[test]
    fn a_query_with_additions_and_exclusions_is_asked_again_when_inventory_arrives() {
        let folder = tempfile::tempdir().unwrap();
        let (fleet, found) = fleet(&folder);
        let set = |names: &[&str]| *found.lock().unwrap() = Ok(names.iter().map(|name| (*name).to_owned()).collect());
        let strings = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        set(&["a", "m-b", "gone", "nobody"]);
        let definition = Definition {
            query: Some("SELECT id FROM machines".into()),
            machines: strings(&["c"]),
            exclude: strings(&["b"]),
            ..Definition::default()
        };
        let collection = fleet.put_collection("lab", &definition, &Principal::local()).unwrap();
        assert_eq!(names(&collection.machines), ["a", "c"]);
        let known_to_boot = |name: &str| fleet.directory.collections_of(&MachineId(format!("m-{name}")));
        assert_eq!((known_to_boot("a"), known_to_boot("b")), (vec!["lab".to_owned()], Vec::new()));
        assert!(fleet.refresh_collections().unwrap().is_empty(), "they are what was just found");
        set(&["b"]);
        assert!(fleet.refresh_collections().unwrap().is_empty(), "nothing has changed");
        fleet.inventory_changed();
        assert_eq!(fleet.refresh_collections().unwrap(), ["lab"]);
        assert_eq!(names(&fleet.collection("lab").unwrap().machines), ["c"], "the exclusion has the last word");
        *found.lock().unwrap() = Err("no such column".into());
        fleet.inventory_changed();
        assert!(fleet.refresh_collections().unwrap().is_empty());
        let kept = fleet.collection("lab").unwrap();
        assert_eq!((names(&kept.machines), kept.error.as_deref()), (vec!["c"], Some("no such column")));
        assert!(matches!(fleet.put_collection("new", &definition, &Principal::local()), Err(Error::Terms(_))));
    }

    #[test]
    fn a_list_stays_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let (fleet, _) = fleet(&folder);
        let list = |names: &[&str]| Definition {
            machines: names.iter().map(|name| (*name).to_owned()).collect(),
            ..Definition::default()
        };
        fleet.put_collection("lab", &list(&["a", "b"]), &Principal::local()).unwrap();
        let collection = fleet.put_collection("lab", &list(&["b"]), &Principal::local()).unwrap();
        assert_eq!(names(&collection.machines), ["b"]);
        fleet.inventory_changed();
        assert!(fleet.refresh_collections().unwrap().is_empty());
        assert!(matches!(fleet.put_collection("x", &list(&["no"]), &Principal::local()), Err(Error::NoMachine(_))));
        assert!(fleet.is_within("b", &["lab".into()]).unwrap() && !fleet.is_within("a", &["lab".into()]).unwrap());
    }
}
