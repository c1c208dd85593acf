//! Rooms as they are stored.

use rusqlite::{OptionalExtension, Transaction};
use serde_json::json;

use super::{COLUMNS, Place, ROWS, Room, Seat};
use crate::access::{Principal, audit};
use crate::db::Migration;
use crate::fleet::MachineId;
use crate::fleet::db::{Error, Fleet};

pub const MIGRATIONS: &[Migration] = &[Migration {
    name: "room-1",
    sql: "
        CREATE TABLE room (name TEXT PRIMARY KEY, created_at INTEGER NOT NULL);
        CREATE TABLE seat (
            machine TEXT PRIMARY KEY REFERENCES machine(id) ON DELETE CASCADE,
            room TEXT NOT NULL REFERENCES room(name) ON DELETE CASCADE,
            place_column INTEGER NOT NULL, place_row INTEGER NOT NULL, UNIQUE (room, place_column, place_row));",
}];

const NAME_CHARACTERS_MAX: usize = 60;

impl Fleet {
    pub fn rooms(&self) -> Result<Vec<Room>, Error> {
        self.db.read(|c| {
            let mut statement = c.prepare_cached("SELECT name FROM room ORDER BY name")?;
            let names: Vec<String> = statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
            let mut statement = c.prepare_cached(
                "SELECT machine, place_column, place_row FROM seat WHERE room = ?1 ORDER BY place_row, place_column",
            )?;
            let mut rooms = Vec::new();
            for name in names {
                let seats = statement.query_map([&name], |row| {
                    Ok(Seat { machine: MachineId(row.get(0)?), column: row.get(1)?, row: row.get(2)? })
                })?;
                rooms.push(Room { seats: seats.collect::<Result<_, _>>()?, name });
            }
            Ok(rooms)
        })
    }

    /// Makes a room; that it is there already is no error.
    pub fn put_room(&self, name: &str, by: &Principal) -> Result<(), Error> {
        let sound = !name.trim().is_empty() && !name.chars().any(char::is_control);
        if !sound || name.chars().count() > NAME_CHARACTERS_MAX {
            return Err(Error::BadName(name.to_owned()));
        }
        let now = self.clock.now();
        self.db.write(|tx| {
            let added = tx.execute(
                "INSERT INTO room (name, created_at) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
                (name, now.milliseconds()),
            )?;
            if added > 0 {
                audit::append(tx, now, &by.label(), "room-put", name, "")?;
            }
            Ok(())
        })
    }

    /// Removes a room; its machines have no place any more.
    pub fn remove_room(&self, name: &str, by: &Principal) -> Result<(), Error> {
        let now = self.clock.now();
        self.db.write(|tx| {
            if tx.execute("DELETE FROM room WHERE name = ?1", [name])? == 0 {
                return Err(Error::NoRoom(name.to_owned()));
            }
            Ok(audit::append(tx, now, &by.label(), "room-remove", name, "")?)
        })
    }

    /// Puts a machine into its place; one that stands there takes the place that becomes free, or none.
    pub fn seat(&self, machine: &str, place: &Place) -> Result<(), Error> {
        if !(1..=COLUMNS).contains(&place.column) || !(1..=ROWS).contains(&place.row) {
            return Err(Error::NoRoom(format!("{} {}/{}", place.room, place.column, place.row)));
        }
        let machine = self.machine(machine)?;
        self.db.write(|tx| {
            if tx.query_row("SELECT 1 FROM room WHERE name = ?1", [&place.room], |_| Ok(())).optional()?.is_none() {
                return Err(Error::NoRoom(place.room.clone()));
            }
            let before = seat_of(tx, machine.id.as_str())?;
            let other: Option<String> = tx
                .query_row(
                    "SELECT machine FROM seat WHERE room = ?1 AND place_column = ?2 AND place_row = ?3",
                    (&place.room, place.column, place.row),
                    |row| row.get(0),
                )
                .optional()?;
            for taken in [Some(machine.id.as_str()), other.as_deref()].into_iter().flatten() {
                tx.execute("DELETE FROM seat WHERE machine = ?1", [taken])?;
            }
            insert(tx, machine.id.as_str(), place)?;
            if let (Some(other), Some(before)) = (other.filter(|other| *other != machine.id.0), before) {
                insert(tx, &other, &before)?;
            }
            Ok::<_, Error>(())
        })?;
        self.moved(&machine.id);
        Ok(())
    }

    /// Takes a machine out of its room.
    pub fn unseat(&self, machine: &str) -> Result<(), Error> {
        let machine = self.machine(machine)?;
        self.db.write(|tx| {
            tx.execute("DELETE FROM seat WHERE machine = ?1", [machine.id.as_str()])?;
            Ok::<_, Error>(())
        })?;
        self.moved(&machine.id);
        Ok(())
    }

    fn moved(&self, machine: &MachineId) {
        self.live.publish("room", machine.as_str(), json!({}));
    }
}

fn seat_of(tx: &Transaction<'_>, machine: &str) -> Result<Option<Place>, Error> {
    let sql = "SELECT room, place_column, place_row FROM seat WHERE machine = ?1";
    let found =
        tx.query_row(sql, [machine], |row| Ok(Place { room: row.get(0)?, column: row.get(1)?, row: row.get(2)? }));
    Ok(found.optional()?)
}

fn insert(tx: &Transaction<'_>, machine: &str, place: &Place) -> Result<(), Error> {
    tx.execute(
        "INSERT INTO seat (machine, room, place_column, place_row) VALUES (?1, ?2, ?3, ?4)",
        (machine, &place.room, place.column, place.row),
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::api::Live;
    use crate::db::Db;
    use crate::fleet::enrolment::Policy;
    use crate::stdx::time::{ManualClock, Timestamp};

    fn fleet(folder: &tempfile::TempDir) -> Fleet {
        let tables = &[crate::access::db::MIGRATIONS, crate::fleet::db::MIGRATIONS, MIGRATIONS];
        let db = Arc::new(Db::open(&folder.path().join("db"), tables, Timestamp::default()).unwrap());
        db.write::<_, Error>(|tx| {
            Ok(tx.execute_batch(
                "INSERT INTO machine (id, name, state, next_boot, identity, stage, created_at, seen_at)
                 VALUES ('m1', 'one', 'managed', 'x', '{}', 'x', 0, 0), ('m2', 'two', 'managed', 'x', '{}', 'x', 0, 0)",
            )?)
        })
        .unwrap();
        Fleet::open(db, Arc::new(ManualClock::default()), Live::default(), Vec::new(), Policy::default()).unwrap()
    }

    #[test]
    fn machines_change_places_and_nobody_is_lost_or_doubled() {
        let folder = tempfile::tempdir().unwrap();
        let fleet = fleet(&folder);
        let place = |column, row| Place { room: "Lab".into(), column, row };
        let seats = || -> Vec<(String, u32, u32)> {
            let rooms = fleet.rooms().unwrap();
            rooms[0].seats.iter().map(|seat| (seat.machine.to_string(), seat.column, seat.row)).collect()
        };
        assert!(matches!(fleet.seat("one", &place(1, 1)), Err(Error::NoRoom(_))));
        fleet.put_room("Lab", &Principal::local()).unwrap();
        fleet.put_room("Lab", &Principal::local()).unwrap();
        fleet.seat("one", &place(1, 1)).unwrap();
        fleet.seat("two", &place(2, 1)).unwrap();
        fleet.seat("one", &place(2, 1)).unwrap();
        assert_eq!(seats(), [("m2".to_owned(), 1, 1), ("m1".to_owned(), 2, 1)]);
        fleet.seat("one", &place(2, 1)).unwrap();
        assert_eq!(seats().len(), 2, "a machine that is put where it stands stays");
        fleet.unseat("two").unwrap();
        fleet.seat("two", &place(2, 1)).unwrap();
        assert_eq!(seats(), [("m2".to_owned(), 2, 1)], "the one that had no place before gives none");
        for bad in [place(0, 1), place(COLUMNS + 1, 1), place(1, ROWS + 1)] {
            assert!(fleet.seat("one", &bad).is_err(), "{bad:?}");
        }
        fleet.remove_room("Lab", &Principal::local()).unwrap();
        assert!(fleet.rooms().unwrap().is_empty());
    }
}
